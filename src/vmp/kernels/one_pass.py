"""The learned layer in one pass over memory, with its derivative written by hand.

Notes:
- only the clip and the two scalars are kept for backward, which recomputes the attention (Eq. 19, 20 and the chain
  rule through Eq. 6);
- two modules do the work: `fused` (Triton) on CUDA, `tiles` everywhere else. Both return sums over pixels; this module
  turns the sums into V and the gradients of slope and shift;
- a second derivative goes through the plain formulas instead. So does everything under torch.compile, which fuses them
  faster than `tiles` runs, and everything under torch.func.

`fused` and `tiles` have the same two functions. With z = slope (D - shift), and sums over all pixels in float64 (V on a
CPU sums the pixels of a tile in float32, and is up to 4e-5 of itself off):

    forward(clip, slope, shift, constants, variation)
        -> prompts, the sum of (a[t+1] - a[t])^2, where a = sigmoid(z); the sum is only needed if `variation`
    backward(clip, slope, shift, constants, grad_prompts, pull, wants_clip)
        -> the clip's gradient (None unless `wants_clip`), the sum of dz, the sum of z dz; `pull` is the derivative of
           the loss by (a[t+1] - a[t]) divided by that difference, or None if V is not part of the loss
"""

import os
import warnings
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from vmp.kernels import tiles
from vmp.kernels.constants import Constants

Formulas = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]  # clip, slope, shift -> prompts, V


def is_usable() -> bool:
    """Whether hand-written derivatives may be used: not under torch.compile, torch.func, or to export a graph."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return not traced and not torch._C._are_functorch_transforms_active()


def apply(
    clip: Tensor, slope: Tensor, shift: Tensor, constants: Constants, *, variation: bool, formulas: Formulas
) -> tuple[Tensor, Tensor]:
    """(B, 3, T+1, H, W) -> prompts (B, 3, T, H, W) and V, a scalar.

    Args:
        formulas: the same computation in plain PyTorch, for second derivatives.
    """
    return _OnePass.apply(clip, slope, shift, constants, variation, formulas)


def kernels_for(clip: Tensor) -> ModuleType:
    if clip.is_cuda and clip.dtype != torch.float64 and clip.numel() and _has_triton():
        from vmp.kernels import fused

        return fused
    return tiles


@cache
def _has_triton() -> bool:
    """Whether Triton is installed and can start; its launcher takes a C compiler and Python.h."""
    if os.environ.get("VMP_TRITON") == "0":
        return False
    try:
        import triton

        triton.runtime.driver.active.utils  # noqa: B018
    except ImportError:
        return False
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        warnings.warn(
            f"Triton cannot be used here ({type(error).__name__}: {first}); the prompt layer falls back to slower "
            "kernels. Set VMP_TRITON=0 to choose them without this warning.",
            stacklevel=2,
        )
        return False
    return True


class _OnePass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        clip: Tensor,
        slope: Tensor,
        shift: Tensor,
        constants: Constants,
        variation: bool,
        formulas: Formulas,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(clip, slope, shift)
        ctx.constants, ctx.formulas, ctx.variation = constants, formulas, variation and clip.shape[2] > 2
        prompts, squares = kernels_for(clip).forward(clip, slope, shift, constants, ctx.variation)
        return prompts, (squares * _pair_weight(clip, constants)).to(_wide(clip))

    @staticmethod
    def backward(ctx: Any, grad_prompts: Tensor, grad_variation: Tensor) -> tuple[Tensor | None, ...]:
        clip, slope, shift = ctx.saved_tensors
        if torch.is_grad_enabled():  # the derivative itself is being differentiated
            grads = _plain_gradients(ctx.formulas, (clip, slope, shift), (grad_prompts, grad_variation))
            return (*grads, None, None, None)
        pull = None
        if ctx.variation:
            pull = (2 * _pair_weight(clip, ctx.constants) * grad_variation).to(_wide(clip))
        grad_clip, sum_dz, sum_dzz = kernels_for(clip).backward(
            clip, slope, shift, ctx.constants, grad_prompts, pull, ctx.needs_input_grad[0]
        )
        # z = a (D - b): dz/da = (D - b) = z / a, dz/db = -a
        grad_slope = (sum_dzz / slope.double()).to(slope.dtype)
        grad_shift = (-sum_dz * slope.double()).to(shift.dtype)
        return grad_clip, grad_slope, grad_shift, None, None, None


def _wide(clip: Tensor) -> torch.dtype:
    return torch.float64 if clip.dtype == torch.float64 else torch.float32


def _pair_weight(clip: Tensor, constants: Constants) -> float:
    """The weight of one squared difference of attention in V (Eq. 6); clip (B, 3, T+1, H, W) has T-1 pairs."""
    b, _, frames, h, w = clip.shape
    pairs = max(1, b) * max(1, frames - 2)
    return 1 / pairs if constants.frobenius else 1 / (pairs * h * w)


def _plain_gradients(
    formulas: Formulas, given: tuple[Tensor, Tensor, Tensor], grad_outputs: tuple[Tensor, Tensor]
) -> tuple[Tensor | None, ...]:
    """The gradients of clip, slope and shift as a graph that can be differentiated again."""
    inputs = [x for x in given if x.requires_grad]
    outputs = [(o, g) for o, g in zip(formulas(*given), grad_outputs, strict=True) if o.requires_grad]
    grads = iter(
        torch.autograd.grad(
            [o for o, _ in outputs], inputs, [g for _, g in outputs], create_graph=True, allow_unused=True
        )
    )
    return tuple(next(grads) if x.requires_grad else None for x in given)
