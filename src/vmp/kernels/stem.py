"""The first convolution of a network, computed on a CPU in a faster way than torch's.

torch's CPU kernels are slow for a stem of stride 2 over three channels. Here it becomes a convolution of stride 1 over
cells of the stride's size (1 x 2 x 2, or 2 x 2 x 2 for the original I3D) that has a channel for each pixel of a cell:

- in float32, for the gradient of the input alone. A network that sees frames never needs it, but with prompts in front,
  slope and shift are trained through it, and with a 7 x 7 kernel torch takes two to five times as long for it as for
  the convolution itself;
- in bf16 on a CPU with AMX units, for everything: they multiply blocks of 32 channels, of which three fill a tenth.

On a GPU, under torch.compile and torch.func, for other strides and for small kernels (X3D's 3 x 3 gains nothing),
torch's own convolution is used.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmp.kernels.amx import has_amx

SMALLEST = 5  # pixels: the smallest side of a kernel that gains
STRIDES = ((1, 2, 2), (2, 2, 2))
NARROW = torch.bfloat16


class Stem(nn.Conv3d):
    """A Conv3d over (B, 3, T, H, W); parameters and results are Conv3d's."""

    @classmethod
    def of(cls, conv: nn.Conv3d) -> "Stem":
        """The same convolution, with conv's parameters."""
        sizes: Any = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
        more: Any = (conv.groups, conv.bias is not None, conv.padding_mode)
        stem = cls(conv.in_channels, conv.out_channels, *sizes, *more)
        stem.weight, stem.bias = conv.weight, conv.bias
        return stem

    def forward(self, x: Tensor) -> Tensor:
        others = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
        if x.device.type != "cpu" or others or not self._suits():
            return super().forward(x)
        y: Tensor
        padding: Any = self.padding
        if has_amx() and torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == NARROW:
            y = convolve_cells(x.to(NARROW), self.weight.to(NARROW), self.stride, padding)
        elif x.requires_grad:
            y = _Stem.apply(x, self.weight, self.stride, padding)
        else:
            return super().forward(x)
        return y if self.bias is None else y + self.bias.to(y.dtype).view(-1, 1, 1, 1)

    def _suits(self) -> bool:
        plain = self.dilation == (1, 1, 1) and self.groups == 1 and self.padding_mode == "zeros"
        large = min(self.kernel_size[1:]) >= SMALLEST and self.stride in STRIDES
        return plain and large and not isinstance(self.padding, str)


def convolve_cells(x: Tensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...]) -> Tensor:
    """F.conv3d(x, weight, None, stride, padding) as a convolution of stride 1 over cells of the stride's size."""
    (o, c, *kernel), (b, _, *sizes) = weight.shape, x.shape
    axes = [*zip(sizes, kernel, stride, padding, strict=True)]
    sides = [-(-k // s) for _, k, s, _ in axes]  # of the kernel, in cells
    counts = [(n + 2 * p - k) // s + -(-k // s) for n, k, s, p in axes]  # of cells that the kernel sees
    seen = x.new_zeros((b, *(n * s for n, s in zip(counts, stride, strict=True)), c))
    inside = [slice(p, min(p + n, count * s)) for (n, _, s, p), count in zip(axes, counts, strict=True)]
    t, h, w = (slice(0, place.stop - place.start) for place in inside)
    seen[:, inside[0], inside[1], inside[2]] = x.permute(0, 2, 3, 4, 1)[:, t, h, w]
    # (place in the cell, channel) together become the channels, last in memory
    parts = [n for pair in zip(counts, stride, strict=True) for n in pair]
    cells = seen.reshape(b, *parts, c).permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(b, *counts, -1)
    pads = [pad for (_, k, s, _), side in zip(axes, sides, strict=True) for pad in (s * side - k, 0)][::-1]
    places = [n for pair in zip(sides, stride, strict=True) for n in pair]
    turned = F.pad(weight, pads).reshape(o, c, *places).permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(o, *sides, -1)
    return F.conv3d(cells.permute(0, 4, 1, 2, 3), turned.permute(0, 4, 1, 2, 3))


class _Stem(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int, int], padding: tuple[int, int, int]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv3d(x, weight, None, stride, padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        own = not torch.is_grad_enabled()  # else the derivative itself is being differentiated
        wanted = [ctx.needs_input_grad[0] and not own, ctx.needs_input_grad[1], False]
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad,
            x.to(grad.dtype),  # under autocast the gradient is narrower
            weight.to(grad.dtype),
            None,
            ctx.stride,
            ctx.padding,
            (1, 1, 1),
            False,
            (0, 0, 0),
            1,
            wanted,
        )
        if own and ctx.needs_input_grad[0]:
            grad_x = input_gradient(grad, weight.to(grad.dtype), x.shape, ctx.stride, ctx.padding)
        return (
            None if grad_x is None else grad_x.to(x.dtype),
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None,
            None,
        )


def input_gradient(
    grad: Tensor,
    weight: Tensor,
    shape: torch.Size,
    stride: tuple[int, int, int],
    padding: tuple[int, int, int],
) -> Tensor:
    """The gradient of the input, of the given shape (B, C, T, H, W), of a convolution.

    Args:
        grad: the gradient of the output, (B, O, T', H', W').
        weight: (O, C, kt, kh, kw).
    """
    o, c, *kernel = weight.shape
    b, _, *sizes = shape
    # zeros so that the kernel starts at a cell's edge
    tops = [p % s for p, s in zip(padding, stride, strict=True)]
    # of the kernel, in cells
    sides = [-(-(k + top) // s) for k, top, s in zip(kernel, tops, stride, strict=True)]
    pads, margins = list[int](), list[int]()  # last axis first, as F.pad takes them
    for k, s, p, top, side, size, out in zip(
        kernel, stride, padding, tops, sides, sizes, grad.shape[2:], strict=True
    ):
        before = (p + top) // s  # cells that the kernel starts before the first one
        pads = [top, s * side - k - top, *pads]
        margins = [side - 1 - before, -(-size // s) - out + before, *margins]
    cells = F.pad(weight, pads).reshape(o, c, *(n for pair in zip(sides, stride, strict=True) for n in pair))
    # from the gradient's O channels to (C, place of a pixel in its cell); reversed
    turned = cells.permute(1, 3, 5, 7, 0, 2, 4, 6).reshape(-1, o, *sides).flip(2, 3, 4)
    last = torch.channels_last_3d  # from one and a half to three times as fast at sizes above 100 pixels
    around = F.pad(grad, margins).contiguous(memory_format=last)
    found = F.conv3d(around, turned.contiguous(memory_format=last))
    counts = [-(-size // s) for size, s in zip(sizes, stride, strict=True)]  # of cells
    found = found.reshape(b, c, *stride, *counts).permute(0, 1, 5, 2, 6, 3, 7, 4)
    t, h, w = sizes
    return found.reshape(b, c, *(n * s for n, s in zip(counts, stride, strict=True)))[..., :t, :h, :w]
