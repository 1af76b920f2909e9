"""The learned layer in one pass over memory, with its derivative written by hand.

Notable here:
- nothing is kept for backward but the clip and the two scalars: attention is recomputed (Eq. 19, 20 and the chain
  through Eq. 6);
- two ways do the work: fused.py on CUDA, tiles.py everywhere else. Both give sums over pixels; what the sums mean for
  V, slope and shift is here;
- a second derivative goes through the plain formulas instead, and so does everything under torch.compile (which fuses
  them) and torch.func.
"""

import os
import warnings
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from vmp.kernels import tiles
from vmp.power_norm import LearnedPowerNorm

if TYPE_CHECKING:
    from vmp.layer import MotionPrompt


class Way(NamedTuple):
    """Who does the work. z = slope (D - shift); sums are over all pixels, in float64.

    forward: clip, slope, shift, layer, whether V is wanted -> prompts, the sum over (a[t+1] - a[t])^2.
    backward: clip, slope, shift, layer, gradient of the prompts, dV/d(a[t+1] - a[t]) over the difference (None: V has
        no part), whether the clip's gradient is wanted -> that, the sum over dz, the sum over z dz.
    """

    forward: Callable[..., tuple[Tensor, Tensor]]
    backward: Callable[..., tuple[Tensor | None, Tensor, Tensor]]


def suits(layer: "MotionPrompt", clip: Tensor) -> bool:
    """Whether this path serves: the learned function, outside torch.compile and torch.func."""
    return (
        type(layer.power_norm) is LearnedPowerNorm  # a subclass may compute something else
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


def apply(layer: "MotionPrompt", clip: Tensor, *, variation: bool) -> tuple[Tensor, Tensor]:
    """(B, 3, T+1, H, W) -> prompts (B, 3, T, H, W) and the variation, a scalar."""
    norm = layer.power_norm
    assert isinstance(norm, LearnedPowerNorm)
    return _OnePass.apply(clip, norm.slope, norm.shift, layer, variation)


def way_for(clip: Tensor) -> Way:
    if clip.is_cuda and clip.dtype != torch.float64 and clip.numel() and _has_triton():
        from vmp.kernels import fused

        return Way(fused.forward, fused.backward)
    return Way(tiles.forward, tiles.backward)


@cache
def _has_triton() -> bool:
    """Whether Triton is there and can start: it compiles a launcher first, which takes a C compiler and Python.h."""
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
            f"Triton cannot be used here ({type(error).__name__}: {first}); the prompt layer takes its slower way. "
            "VMP_TRITON=0 does so without this message.",
            stacklevel=2,
        )
        return False
    return True


class _OnePass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, clip: Tensor, slope: Tensor, shift: Tensor, layer: "MotionPrompt", variation: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(clip, slope, shift)
        ctx.layer, ctx.variation = layer, variation and clip.shape[2] > 2
        prompts, squares = way_for(clip).forward(clip, slope, shift, layer, ctx.variation)
        return prompts, (squares * _pair_weight(clip, layer)).to(_wide(clip))

    @staticmethod
    def backward(ctx: Any, grad_prompts: Tensor, grad_variation: Tensor) -> tuple[Tensor | None, ...]:
        clip, slope, shift = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody differentiates the derivative
            return (*_backward_plain(ctx, clip, slope, shift, grad_prompts, grad_variation), None, None)
        pull = None
        if ctx.variation:
            pull = (2 * _pair_weight(clip, ctx.layer) * grad_variation).to(_wide(clip))
        grad_clip, sum_dz, sum_dzz = way_for(clip).backward(
            clip, slope, shift, ctx.layer, grad_prompts, pull, ctx.needs_input_grad[0]
        )
        # z = a (D - b): dz/da = (D - b) = z / a, dz/db = -a
        grad_slope = (sum_dzz / slope.double()).to(slope.dtype)
        grad_shift = (-sum_dz * slope.double()).to(shift.dtype)
        return grad_clip, grad_slope, grad_shift, None, None


def _wide(clip: Tensor) -> torch.dtype:
    return torch.float64 if clip.dtype == torch.float64 else torch.float32


def _pair_weight(clip: Tensor, layer: "MotionPrompt") -> float:
    """What one squared difference of attention weighs in V (Eq. 6); clip (B, 3, T+1, H, W) has T-1 pairs."""
    b, _, frames, h, w = clip.shape
    pairs = max(1, b) * max(1, frames - 2)
    return 1 / (pairs * h * w) if layer.variation == "mean" else 1 / pairs


def _backward_plain(
    ctx: FunctionCtx, clip: Tensor, slope: Tensor, shift: Tensor, grad_prompts: Tensor, grad_variation: Tensor
) -> tuple[Tensor | None, ...]:
    from vmp.layer import plain

    prompts, v = plain(ctx.layer, clip, lambda d: torch.sigmoid(slope * (d - shift)), variation=ctx.variation)  # type: ignore[attr-defined]
    inputs = [x for x in (clip, slope, shift) if x.requires_grad]
    outputs = [(o, g) for o, g in ((prompts, grad_prompts), (v, grad_variation)) if o.requires_grad]
    grads = iter(
        torch.autograd.grad(
            [o for o, _ in outputs], inputs, [g for _, g in outputs], create_graph=True, allow_unused=True
        )
    )
    return tuple(next(grads) if x.requires_grad else None for x in (clip, slope, shift))
