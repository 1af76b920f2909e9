"""The learned layer for eager mode, one cache-sized tile of pixels at a time.

Notable here:
- written out op by op, Eq. 1-6 cross memory about a dozen times; here a tile (some clips, all frames, a strip of
  rows) stays in the cache from the first read of the clip to the last write of the prompts;
- nothing is kept for backward but the clip and the two scalars: attention is recomputed, tile by tile;
- backward is written by hand (Eq. 19, 20 and the chain through Eq. 6); a second derivative goes through the plain
  formulas instead, and so does everything under torch.compile (which fuses them) and torch.func.

Shapes: B clips, T prompts, H x W pixels; b clips and h rows in a tile.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from vmp.power_norm import LearnedPowerNorm

if TYPE_CHECKING:
    from vmp.layer import MotionPrompt

TILE_BYTES = (
    1 << 22
)  # of clips in float32: fits the cache, and feeds all threads; an accelerator takes the batch whole


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


class _OnePass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, clip: Tensor, slope: Tensor, shift: Tensor, layer: "MotionPrompt", variation: bool
    ) -> tuple[Tensor, Tensor]:
        from vmp.layer import output_dtype

        ctx.save_for_backward(clip, slope, shift)
        ctx.layer, ctx.variation = layer, variation
        b, _, frames, h, w = clip.shape
        prompts = clip.new_empty((b, 3, frames - 1, h, w), dtype=output_dtype(clip))
        wide = torch.float64 if clip.dtype == torch.float64 else torch.float32
        total = clip.new_zeros((), dtype=torch.float64)
        for tile in _tiles(clip):
            z, x = _logits(clip[tile], slope, shift, layer, wide)  # (b, T, h, W), (b, 3, T, h, W)
            a = z.sigmoid_()
            _modulate(x, a, layer, out=prompts[tile])
            if variation and frames > 2:
                total += torch.linalg.vector_norm(a[:, 1:] - a[:, :-1]).double().square()
        return prompts, (total * _pair_weight(clip, layer)).to(wide)

    @staticmethod
    def backward(ctx: Any, grad_prompts: Tensor, grad_variation: Tensor) -> tuple[Tensor | None, ...]:
        clip, slope, shift = ctx.saved_tensors
        layer: MotionPrompt = ctx.layer
        if torch.is_grad_enabled():  # somebody differentiates the derivative
            return (*_backward_plain(ctx, clip, slope, shift, grad_prompts, grad_variation), None, None)
        wide = torch.float64 if clip.dtype == torch.float64 else torch.float32
        weights = layer.grey_weights(clip.dtype)
        pairs = ctx.variation and clip.shape[2] > 2
        pull = (2 * _pair_weight(clip, layer) * grad_variation).to(
            wide
        )  # dV/d(a[t+1] - a[t]) over the difference
        grad_clip = torch.zeros_like(clip) if ctx.needs_input_grad[0] else None
        sum_dz, sum_dzz = (clip.new_zeros((), dtype=torch.float64) for _ in range(2))
        for tile in _tiles(clip):
            z, x = _logits(clip[tile], slope, shift, layer, wide)
            a = z.sigmoid()  # (b, T, h, W)
            g = grad_prompts[tile].to(wide)  # (b, 3, T, h, W)
            if layer.modulate == "pixel":
                offset = [mean / std for mean, std in zip(layer.mean, layer.std, strict=True)]
                x = torch.stack([x[:, c] + offset[c] for c in range(3)], dim=1)
            da = g[:, 0] * x[:, 0]  # Eq. 4
            da.addcmul_(g[:, 1], x[:, 1]).addcmul_(g[:, 2], x[:, 2])
            if pairs:  # Eq. 6: a[t] stands in the pairs (t-1, t) and (t, t+1)
                step = (a[:, 1:] - a[:, :-1]).mul_(pull)
                da[:, 1:] += step
                da[:, :-1] -= step
            dz = torch.ops.aten.sigmoid_backward(da, a)
            sum_dz += dz.sum(dtype=torch.float64)
            sum_dzz += torch.dot(dz.flatten(), z.flatten()).double()
            if grad_clip is not None:
                out = grad_clip[tile]
                dd = dz * slope  # what reaches the difference, (b, T, h, W)
                for c in range(3):
                    out[:, c, 1:] += (g[:, c] * a + dd * weights[c]).to(out.dtype)
                    out[:, c, :-1] -= (dd * weights[c]).to(out.dtype)
        # z = a (D - b): dz/da = (D - b) = z / a, dz/db = -a
        grad_slope = (sum_dzz / slope.double()).to(slope.dtype)
        grad_shift = (-sum_dz * slope.double()).to(shift.dtype)
        return grad_clip, grad_slope, grad_shift, None, None


def _tiles(clip: Tensor) -> Iterator[tuple[slice, slice, slice, slice]]:
    """Indexes of (B, 3, T+1, H, W): several clips where they are small, strips of rows of one where it is large."""
    b, c, t, h, w = clip.shape
    row = 4 * c * t * w  # bytes in float32
    if clip.device.type != "cpu":
        clips, rows = b, h
    elif row * h <= TILE_BYTES:
        clips, rows = TILE_BYTES // max(1, row * h), h
    else:
        clips, rows = 1, max(1, TILE_BYTES // row)
    every = slice(None)
    for first in range(0, b, clips):
        for top in range(0, h, rows):
            yield slice(first, first + clips), every, every, slice(top, top + rows)


def _logits(
    x: Tensor, slope: Tensor, shift: Tensor, layer: "MotionPrompt", wide: torch.dtype
) -> tuple[Tensor, Tensor]:
    """A tile (b, 3, T+1, h, W) -> a (D - b), (b, T, h, W), and the normalised frames it weighs, (b, 3, T, h, W)."""
    w = layer.grey_weights(x.dtype)
    raw = x.dtype == torch.uint8
    x = x.to(wide)  # a copy for uint8 and half types, none for the rest
    grey = x[:, 0] * w[0]
    grey.add_(x[:, 1], alpha=w[1]).add_(x[:, 2], alpha=w[2])  # (b, T+1, h, W)
    z = grey[:, 1:] - grey[:, :-1]
    z.sub_(shift).mul_(slope)
    frames = x[:, :, 1:]
    if raw and len(set(layer.mean)) == len(set(layer.std)) == 1:
        frames.mul_(1 / (255 * layer.std[0])).sub_(layer.mean[0] / layer.std[0])
    elif raw:
        for c in range(3):
            frames[:, c].mul_(1 / (255 * layer.std[c])).sub_(layer.mean[c] / layer.std[c])
    return z, frames


def _modulate(x: Tensor, a: Tensor, layer: "MotionPrompt", *, out: Tensor) -> None:
    if layer.modulate == "normalized":
        torch.mul(x, a.unsqueeze(1), out=out)
        return
    for c in range(3):
        offset = layer.mean[c] / layer.std[c]
        out[:, c] = (x[:, c] + offset).mul_(a).sub_(offset)


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
