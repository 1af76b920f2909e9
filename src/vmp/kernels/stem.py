"""The first convolution of a network, with a fast gradient of its input on a CPU.

A network that sees frames never needs that gradient. With prompts in front, slope and shift are trained through it, and
torch's CPU kernels are slow for a stem of stride 2 over three channels: with a 7 x 7 kernel it takes two to five times
as long as the convolution itself. Here one convolution of stride 1 over the gradient has an output channel for each of
the four places of a pixel in a 2 x 2 cell. On a GPU, under torch.compile and torch.func, for other strides and for
small kernels (X3D's 3 x 3 gains nothing), torch's own gradient is used.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST = 5  # pixels: the smallest side of a kernel that gains


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
        y: Tensor = _Stem.apply(x, self.weight, self.padding)
        return y if self.bias is None else y + self.bias.view(-1, 1, 1, 1)

    def _suits(self) -> bool:
        plain = self.dilation == (1, 1, 1) and self.groups == 1 and self.padding_mode == "zeros"
        large = min(self.kernel_size[1:]) >= SMALLEST and self.stride == (1, 2, 2)
        return plain and large and not isinstance(self.padding, str)


class _Stem(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: tuple[int, int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return F.conv3d(x, weight, None, (1, 2, 2), padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        own = not torch.is_grad_enabled()  # else the derivative itself is being differentiated
        wanted = [ctx.needs_input_grad[0] and not own, ctx.needs_input_grad[1], False]
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad,
            x.to(grad.dtype),  # under autocast the gradient is narrower
            weight.to(grad.dtype),
            None,
            (1, 2, 2),
            ctx.padding,
            (1, 1, 1),
            False,
            (0, 0, 0),
            1,
            wanted,
        )
        if own and ctx.needs_input_grad[0]:
            grad_x = input_gradient(grad, weight.to(grad.dtype), x.shape, ctx.padding)
        return (
            None if grad_x is None else grad_x.to(x.dtype),
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None,
        )


def input_gradient(grad: Tensor, weight: Tensor, shape: torch.Size, padding: tuple[int, int, int]) -> Tensor:
    """The gradient of the input, of the given shape (B, C, T, H, W), of a convolution with stride (1, 2, 2).

    Args:
        grad: the gradient of the output, (B, O, T', H', W').
        weight: (O, C, kt, kh, kw).
    """
    o, c, kt, kh, kw = weight.shape
    b, _, t, h, w = shape
    tops = [p % 2 for p in padding[1:]]  # zeros before the kernel, so that it starts at a cell's edge
    sides = [(k + top + 1) // 2 for k, top in zip((kh, kw), tops, strict=True)]  # of the kernel, in cells
    fill = [2 * side - k - top for side, k, top in zip(sides, (kh, kw), tops, strict=True)]
    cells = F.pad(weight, (tops[1], fill[1], tops[0], fill[0])).reshape(o, c, kt, sides[0], 2, sides[1], 2)
    # from the gradient's O channels to (C, row in the cell, column in the cell); reversed
    kernel = cells.permute(1, 4, 6, 0, 2, 3, 5).reshape(c * 4, o, kt, *sides).flip(2, 3, 4)

    margins = []
    for size, out, side, top, p in zip((h, w), grad.shape[3:], sides, tops, padding[1:], strict=True):
        before = (p + top) // 2  # cells that the kernel starts before the first one
        margins.append((side - 1 - before, (size + 1) // 2 - out + before))
    front = kt - 1 - padding[0]
    back = t - grad.shape[2] + padding[0]
    around = F.pad(grad, (*margins[1], *margins[0], front, back))
    last = torch.channels_last_3d  # from one and a half to three times as fast at sizes above 100 pixels
    found = F.conv3d(around.contiguous(memory_format=last), kernel.contiguous(memory_format=last))
    rows, columns = (h + 1) // 2, (w + 1) // 2
    found = found.reshape(b, c, 2, 2, t, rows, columns).permute(0, 1, 4, 5, 2, 6, 3)
    return found.reshape(b, c, t, 2 * rows, 2 * columns)[..., :h, :w]
