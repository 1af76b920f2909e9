"""One pass on CUDA, in Triton: each program walks through time with its block of pixels.

Notes:
- the previous frame's grey value and the previous attention stay in registers: each frame is read once, each prompt
  written once; V and the gradients of slope and shift are one number per block;
- backward is the same walk; V's gradient at t needs attention at t-1, t and t+1, so t is finished at t+1;
- sums are float32 within a block and float64 over blocks, in a fixed order, so results are the same to the bit.

Shapes: B clips, T prompts; the H x W pixels of a frame are one line of them, cut into blocks.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from vmp.kernels.constants import Constants

BLOCK = 512  # pixels
LAUNCH = {"num_warps": 4, "enable_fp_fusion": True}


def forward(
    clip: Tensor, slope: Tensor, shift: Tensor, constants: Constants, variation: bool
) -> tuple[Tensor, Tensor]:
    clip = _with_contiguous_frames(clip)
    b, _, frames, h, w = clip.shape
    prompts = clip.new_empty((b, 3, frames - 1, h, w), dtype=constants.dtype)
    blocks = triton.cdiv(h * w, BLOCK)
    squares = clip.new_empty((b * blocks if variation else 1,), dtype=torch.float32)
    with torch.cuda.device_of(clip):  # Triton launches on the current device
        _forward[(b * blocks,)](
            *(clip, prompts, squares, slope.float(), shift.float(), frames - 1, h * w, blocks),
            *(clip.stride(0), clip.stride(1), clip.stride(2)),
            *_channels(constants, clip.dtype),
            VARIATION=variation,
            PIXEL=constants.pixel,
            BLOCK=BLOCK,
            **LAUNCH,
        )
    return prompts, squares.sum(dtype=torch.float64) if variation else clip.new_zeros((), dtype=torch.float64)


def backward(
    clip: Tensor,
    slope: Tensor,
    shift: Tensor,
    constants: Constants,
    grad_prompts: Tensor,
    pull: Tensor | None,
    wants_clip: bool,
) -> tuple[Tensor | None, Tensor, Tensor]:
    grad_clip = torch.empty(clip.shape, dtype=clip.dtype, device=clip.device) if wants_clip else None
    clip, grad = _with_contiguous_frames(clip), _with_contiguous_frames(grad_prompts)
    b, _, frames, h, w = clip.shape
    blocks = triton.cdiv(h * w, BLOCK)
    sums = clip.new_empty((2, b * blocks), dtype=torch.float32)
    with torch.cuda.device_of(clip):
        _backward[(b * blocks,)](
            *(clip, grad, grad if grad_clip is None else grad_clip, sums, slope.float(), shift.float()),
            *(slope.float() if pull is None else pull, frames - 1, h * w, blocks),
            *(clip.stride(0), clip.stride(1), clip.stride(2), grad.stride(0), grad.stride(1), grad.stride(2)),
            *_channels(constants, clip.dtype),
            PAIRS=pull is not None,
            PIXEL=constants.pixel,
            CLIP=wants_clip,
            BLOCK=BLOCK,
            **LAUNCH,
        )
    sum_dz, sum_dzz = sums.sum(dim=1, dtype=torch.float64)
    return grad_clip, sum_dz, sum_dzz


def _with_contiguous_frames(x: Tensor) -> Tensor:
    """The frames with contiguous pixels; a copy only if they are not (channels-last)."""
    h, w = x.shape[-2:]
    return x if (x.stride(-1) == 1 or w == 1) and (x.stride(-2) == w or h == 1) else x.contiguous()


def _channels(constants: Constants, dtype: torch.dtype) -> tuple[float, ...]:
    """Three numbers each: grey weights; scale and offset from the clip's values to the normalised frame; mean / std."""
    scale, offset = (1.0,) * 3, (0.0,) * 3
    if dtype == torch.uint8:
        r, g, b = constants.std
        scale, offset = (1 / (255 * r), 1 / (255 * g), 1 / (255 * b)), constants.black
    return (*constants.grey, *scale, *offset, *constants.black)


@triton.jit
def _frame(at, channel, inside):
    """The three channels of a frame's block, in float32."""
    r = tl.load(at, mask=inside, other=0).to(tl.float32)
    g = tl.load(at + channel, mask=inside, other=0).to(tl.float32)
    b = tl.load(at + 2 * channel, mask=inside, other=0).to(tl.float32)
    return r, g, b


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    clip, prompts, squares, slope, shift, T, pixels, blocks, of_clip, of_channel, of_frame,
    w0, w1, w2, s0, s1, s2, o0, o1, o2, k0, k1, k2,
    VARIATION: tl.constexpr, PIXEL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    b = (program // blocks).to(tl.int64)
    of_channel, of_frame = tl.cast(of_channel, tl.int64), tl.cast(of_frame, tl.int64)  # views may be wide
    at = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = at < pixels
    slope_, shift_ = tl.load(slope), tl.load(shift)
    x = clip + b * of_clip + at
    out = prompts + b * (3 * T * pixels) + at
    x0, x1, x2 = _frame(x, of_channel, inside)
    grey_before = x0 * w0 + x1 * w1 + x2 * w2
    a_before = tl.zeros((BLOCK,), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for t in range(T):
        x0, x1, x2 = _frame(x + (t + 1) * of_frame, of_channel, inside)
        grey = x0 * w0 + x1 * w1 + x2 * w2
        a = tl.sigmoid(slope_ * (grey - grey_before - shift_))
        x0, x1, x2 = x0 * s0 - o0, x1 * s1 - o1, x2 * s2 - o2
        if PIXEL:
            y0, y1, y2 = a * (x0 + k0) - k0, a * (x1 + k1) - k1, a * (x2 + k2) - k2
        else:
            y0, y1, y2 = a * x0, a * x1, a * x2
        kind = prompts.dtype.element_ty
        tl.store(out + t * pixels, y0.to(kind), mask=inside)
        tl.store(out + (T + t) * pixels, y1.to(kind), mask=inside)
        tl.store(out + (2 * T + t) * pixels, y2.to(kind), mask=inside)
        if VARIATION:
            step = tl.where(inside & (t > 0), a - a_before, 0.0)
            total += step * step
        grey_before, a_before = grey, a
    if VARIATION:
        tl.store(squares + program, tl.sum(total))


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    clip, grad, grad_clip, sums, slope, shift, pull, T, pixels, blocks,
    of_clip, of_channel, of_frame, grad_of_clip, grad_of_channel, grad_of_frame,
    w0, w1, w2, s0, s1, s2, o0, o1, o2, k0, k1, k2,
    PAIRS: tl.constexpr, PIXEL: tl.constexpr, CLIP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    b = (program // blocks).to(tl.int64)
    of_channel, of_frame = tl.cast(of_channel, tl.int64), tl.cast(of_frame, tl.int64)  # views may be wide
    at = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = at < pixels
    slope_, shift_, pull_ = tl.load(slope), tl.load(shift), tl.load(pull)
    grad_of_channel, grad_of_frame = tl.cast(grad_of_channel, tl.int64), tl.cast(grad_of_frame, tl.int64)
    x = clip + b * of_clip + at
    g = grad + b * grad_of_clip + at
    out = grad_clip + b * (3 * (T + 1) * pixels) + at
    x0, x1, x2 = _frame(x, of_channel, inside)
    grey_before = x0 * w0 + x1 * w1 + x2 * w2
    nothing = tl.zeros((BLOCK,), tl.float32)
    sum_dz, sum_dzz = nothing, nothing
    # of t-1: logit, attention, what reaches it from the prompts and from the pair before, what passes it to the frame
    z_1, a_1, da_1, step_1, p0_1, p1_1, p2_1 = nothing, nothing, nothing, nothing, nothing, nothing, nothing
    dd_2, p0_2, p1_2, p2_2 = nothing, nothing, nothing, nothing  # of t-2
    for t in range(T + 1):  # one more, to finish the last
        step, z, a, da = nothing, nothing, nothing, nothing
        p0, p1, p2 = nothing, nothing, nothing
        if t < T:
            x0, x1, x2 = _frame(x + (t + 1) * of_frame, of_channel, inside)
            grey = x0 * w0 + x1 * w1 + x2 * w2
            z = slope_ * (grey - grey_before - shift_)
            a = tl.sigmoid(z)
            grey_before = grey
            g0, g1, g2 = _frame(g + t * grad_of_frame, grad_of_channel, inside)
            x0, x1, x2 = x0 * s0 - o0, x1 * s1 - o1, x2 * s2 - o2
            if PIXEL:
                x0, x1, x2 = x0 + k0, x1 + k1, x2 + k2
            da = g0 * x0 + g1 * x1 + g2 * x2  # Eq. 4
            if PAIRS:  # Eq. 6: a[t] stands in the pairs (t-1, t) and (t, t+1)
                step = tl.where(inside & (t > 0), (a - a_1) * pull_, 0.0)
            if CLIP:
                p0, p1, p2 = g0 * a, g1 * a, g2 * a
        dz = (da_1 + step_1 - step) * a_1 * (1 - a_1)  # at t = 0: nothing
        sum_dz += dz
        sum_dzz += dz * z_1
        if CLIP:  # frame t-1 is the second of the difference t-2 and the first of t-1
            dd = dz * slope_
            kind = grad_clip.dtype.element_ty
            there = inside & (t > 0)
            tl.store(out + (t - 1) * pixels, (p0_2 + (dd_2 - dd) * w0).to(kind), mask=there)
            tl.store(out + (T + t) * pixels, (p1_2 + (dd_2 - dd) * w1).to(kind), mask=there)
            tl.store(out + (2 * T + 1 + t) * pixels, (p2_2 + (dd_2 - dd) * w2).to(kind), mask=there)
            dd_2, p0_2, p1_2, p2_2 = dd, p0_1, p1_1, p2_1
        z_1, a_1, da_1, step_1, p0_1, p1_1, p2_1 = z, a, da, step, p0, p1, p2
    if CLIP:
        tl.store(out + T * pixels, (p0_2 + dd_2 * w0).to(grad_clip.dtype.element_ty), mask=inside)
        tl.store(out + (2 * T + 1) * pixels, (p1_2 + dd_2 * w1).to(grad_clip.dtype.element_ty), mask=inside)
        tl.store(out + (3 * T + 2) * pixels, (p2_2 + dd_2 * w2).to(grad_clip.dtype.element_ty), mask=inside)
    tl.store(sums + program, tl.sum(sum_dz))
    tl.store(sums + tl.num_programs(0) + program, tl.sum(sum_dzz))
