"""The first convolution of a network, with a fast gradient of its input on a CPU.

A network that sees frames never needs that gradient. With prompts in front, slope and shift are trained through it, and
torch's CPU kernels are slow for a stem of stride 2 over three channels: with a 7 x 7 kernel it takes two to five times
as long as the convolution itself. Here one convolution of stride 1 over the gradient has an output channel for each
place of a pixel in a cell of the stride's size (1 x 2 x 2, or 2 x 2 x 2 for the original I3D). On a GPU, under
torch.compile and torch.func, for other strides and for small kernels (X3D's 3 x 3 gains nothing), torch's own gradient
is used.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST = 5  # pixels: the smallest side of a kernel that gains
STRIDES = ((1, 2, 2), (2, 2, 2))


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
        if x.device.type != "cpu" or not x.requires_grad or others or not self._suits():
            return super().forward(x)
        y: Tensor = _Stem.apply(x, self.weight, self.stride, self.padding)
        return y if self.bias is None else y + self.bias.view(-1, 1, 1, 1)

    def _suits(self) -> bool:
        plain = self.dilation == (1, 1, 1) and self.groups == 1 and self.padding_mode == "zeros"
        large = min(self.kernel_size[1:]) >= SMALLEST and self.stride in STRIDES
        return plain and large and not isinstance(self.padding, str)


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
