"""One pass with PyTorch's own operations, one tile of pixels at a time: eager mode on a CPU.

Written out op by op, Eq. 1-6 cross memory about a dozen times; here a tile (some clips, all frames, a strip of rows) is
finished before the next one; on one thread it stays in the cache from the first read of the clip to the last write of
the prompts. torch.compile of the plain formulas is faster still (docs/performance.md), but takes a compiler and time to
compile, so it is the caller's choice (trainer.compile); these kernels are for everyone else, and for CUDA where Triton
cannot start and for float64. Like `fused`, they keep nothing but the clip for backward.

Shapes: B clips, T prompts, H x W pixels; b clips and h rows in a tile.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from vmp.kernels.constants import Constants

# bytes of a tile in float32: what fits the cache for one thread; for several, which wait for each other at every
# operation, few and large tiles, since a busy core makes each wait long (docs/performance.md)
ALONE, SHARED = 1 << 22, 1 << 25


def forward(
    clip: Tensor, slope: Tensor, shift: Tensor, constants: Constants, variation: bool
) -> tuple[Tensor, Tensor]:
    b, _, frames, h, w = clip.shape
    prompts = clip.new_empty((b, 3, frames - 1, h, w), dtype=constants.dtype)
    total = clip.new_zeros((), dtype=torch.float64)
    for tile in _tiles(clip):
        z, x = _logits(clip[tile], slope, shift, constants)  # (b, T, h, W), (b, 3, T, h, W)
        a = z.sigmoid_()
        _modulate(x, a, constants, out=prompts[tile])
        if variation:
            total += torch.linalg.vector_norm(a[:, 1:] - a[:, :-1]).double().square()
    return prompts, total


def backward(
    clip: Tensor,
    slope: Tensor,
    shift: Tensor,
    constants: Constants,
    grad_prompts: Tensor,
    pull: Tensor | None,
    wants_clip: bool,
) -> tuple[Tensor | None, Tensor, Tensor]:
    weights = constants.grey
    grad_clip = torch.zeros_like(clip) if wants_clip else None
    sum_dz, sum_dzz = (clip.new_zeros((), dtype=torch.float64) for _ in range(2))
    for tile in _tiles(clip):
        z, x = _logits(clip[tile], slope, shift, constants)
        a = z.sigmoid()  # (b, T, h, W)
        g = grad_prompts[tile].to(z.dtype)  # (b, 3, T, h, W)
        if constants.pixel:
            x = torch.stack([x[:, c] + constants.black[c] for c in range(3)], dim=1)
        da = g[:, 0] * x[:, 0]  # Eq. 4
        da.addcmul_(g[:, 1], x[:, 1]).addcmul_(g[:, 2], x[:, 2])
        if pull is not None:  # Eq. 6: a[t] stands in the pairs (t-1, t) and (t, t+1)
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
    return grad_clip, sum_dz, sum_dzz


def _tiles(clip: Tensor) -> Iterator[tuple[slice, slice, slice, slice]]:
    """Indices into (B, 3, T+1, H, W): several small clips at once, or strips of rows of a large one; on an accelerator
    the whole batch is one tile."""
    b, c, t, h, w = clip.shape
    row = 4 * c * t * w  # bytes in float32
    most = ALONE if torch.get_num_threads() == 1 else SHARED
    if clip.device.type != "cpu":
        clips, rows = max(1, b), h
    elif row * h <= most:
        clips, rows = most // max(1, row * h), h
    else:
        clips, rows = 1, max(1, most // row)
    every = slice(None)
    for first in range(0, b, clips):
        for top in range(0, h, rows):
            yield slice(first, first + clips), every, every, slice(top, top + rows)


def _logits(x: Tensor, slope: Tensor, shift: Tensor, constants: Constants) -> tuple[Tensor, Tensor]:
    """A tile (b, 3, T+1, h, W) -> a (D - b), (b, T, h, W), and the normalised frames to be weighed, (b, 3, T, h, W)."""
    w = constants.grey
    raw = x.dtype == torch.uint8
    x = x if x.dtype == torch.float64 else x.float()  # a copy for uint8 and half types, none for the rest
    grey = x[:, 0] * w[0]
    grey.add_(x[:, 1], alpha=w[1]).add_(x[:, 2], alpha=w[2])  # (b, T+1, h, W)
    z = grey[:, 1:] - grey[:, :-1]
    z.sub_(shift).mul_(slope)
    frames = x[:, :, 1:]
    if raw and len(set(constants.mean)) == len(set(constants.std)) == 1:
        frames.mul_(1 / (255 * constants.std[0])).sub_(constants.mean[0] / constants.std[0])
    elif raw:
        for c in range(3):
            frames[:, c].mul_(1 / (255 * constants.std[c])).sub_(constants.mean[c] / constants.std[c])
    return z, frames


def _modulate(x: Tensor, a: Tensor, constants: Constants, *, out: Tensor) -> None:
    if not constants.pixel:
        torch.mul(x, a.unsqueeze(1), out=out)
        return
    for c, offset in enumerate(constants.black):
        out[:, c] = (x[:, c] + offset).mul_(a).sub_(offset)
