"""Camera compensation: the camera's motion c between two frames is estimated and undone before they are subtracted,

    D_t(x) = F'_{t+1}(x) - F'_t(x + c_t(x)).

Notes:
- a translation is found by phase correlation (Kuglin and Hines 1975), to a pixel, and refined by Gauss-Newton steps on
  the grey values; an affine motion is refined from that translation (Lucas and Kanade 1981);
- moving objects are outliers: each step weighs a pixel by Tukey's biweight of its residual, with the scale from the
  median of the absolute residuals, so up to about half of the frame may move by itself;
- a pixel's vote is divided by its squared gradient: it counts by its area, not by the contrast of what it shows, or a
  bright object would decide for a dull scene;
- where the earlier frame shows nothing, at the borders that the camera brings in, the difference is 0: no motion;
- the estimate is a constant for the gradient. Slope and shift are learned as in the paper, on other differences;
- autocast is off: bfloat16 rounds places beyond 64 pixels from the middle to half a pixel, and CUDA solves no linear
  system in it.

Shapes: B clips, T pairs of frames, H x W pixels; motions in pixels, x to the right, y down.
"""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST = 16  # pixels per side: below, too few frequencies tell a pan from noise
_STEPS = 6
_SIGMA, _REACH = 1.5, 5
_TUKEY = 4.685  # residuals beyond this many scales have no weight
_BLUR = 0.1  # fraction of the sampling frequency at which the correlation's spectrum falls to exp(-1/2)


def compensated_differences(earlier: Tensor, later: Tensor, *, kind: str) -> Tensor:
    """later - earlier where the camera shows it: (B, T, H, W) grey frames twice -> (B, T, H, W).

    Raises:
        ValueError: frames of less than 16 pixels per side.
    """
    before, after = earlier.flatten(0, 1), later.flatten(0, 1)  # (BT, H, W)
    # no context without autocast: torch.export could not save it
    on = torch.is_autocast_enabled(earlier.device.type)
    with torch.autocast(earlier.device.type, enabled=False) if on else nullcontext():
        moved, seen = warp(before, camera_motion(before, after, kind=kind))
    return ((after - moved) * seen).view(earlier.shape)


@torch.no_grad()
def camera_motion(earlier: Tensor, later: Tensor, *, kind: str) -> Tensor:
    """The motion c(x) = A (x - middle) + d that takes a place of the later frame to where the earlier one shows it.

    Args:
        earlier, later: (N, H, W) grey frames.
        kind: "translation" (A = 0) or "affine".

    Returns:
        (N, 2, 3): A, then d, in pixels; rows are x and y.

    Raises:
        ValueError: frames of less than 16 pixels per side.
    """
    n, h, w = earlier.shape
    if min(h, w) < LEAST:
        raise ValueError(
            f"frames of {h} x {w} pixels: at least {LEAST} per side are needed to estimate the camera's motion; use a "
            "larger crop, or no compensation"
        )
    earlier, later = (_smooth(frame) for frame in (earlier.float(), later.float()))
    motion = earlier.new_zeros(n, 2, 3)
    motion[:, :, 2] = _correlate(earlier, later)
    x, y = _places(h, w, earlier.device)
    gx, gy = _gradients(earlier)
    parts = 1 if kind == "translation" else 3
    for _ in range(_STEPS):
        moved, seen = warp(torch.stack([earlier, gx, gy], dim=1), motion)  # (N, 3, H, W), (N, H, W)
        residual = later - moved[:, 0]
        scale = 1.4826 * _median(residual.abs(), seen)  # (N, 1, 1), of a normal distribution
        weight = seen * (1 - (residual / (_TUKEY * scale + 1e-6)).square()).clamp(min=0).square()
        steep = moved[:, 1:].square().sum(1)  # (N, H, W)
        weight = weight / (steep + _median(steep, seen) + 1e-9)
        each = (torch.ones_like(x), 2 * x / w, 2 * y / h)[:parts]
        parts_of = [g * e for g in moved[:, 1:].unbind(1) for e in each]
        jacobian = torch.stack(parts_of, dim=1).flatten(2)  # (N, 2 parts, HW)
        weighted = jacobian * weight.flatten(1)[:, None]
        normal = weighted @ jacobian.mT  # (N, 2 parts, 2 parts)
        normal.diagonal(dim1=1, dim2=2).add_(1e-6 * normal.diagonal(dim1=1, dim2=2).mean(1, True) + 1e-9)
        step = torch.linalg.solve(normal, weighted @ residual.flatten(1)[..., None]).view(n, 2, parts)
        motion[:, :, 2] += step[:, :, 0].clamp(-2, 2)
        if parts == 3:
            motion[:, :, 0] += step[:, :, 1] * (2 / w)
            motion[:, :, 1] += step[:, :, 2] * (2 / h)
    return motion


def warp(frames: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
    """Frames seen from where the camera went: result(x) = frame(x + c(x)), bilinear.

    Args:
        frames: (N, H, W) or (N, C, H, W).
        motion: (N, 2, 3), as `camera_motion` returns it.

    Returns:
        The frames in their shape, and (N, H, W): 1 where x + c(x) lies in the frame, else 0.
    """
    h, w = frames.shape[-2:]
    x, y = _places(h, w, frames.device)
    place = torch.stack([x, y, torch.ones_like(x)]).to(motion).flatten(1)  # (3, HW)
    # shape[0]: len() would fix the batch of an exported graph
    to = (motion @ place).view(motion.shape[0], 2, h, w) + place[:2].view(2, h, w)
    seen = (to[:, 0].abs() <= (w - 1) / 2) & (to[:, 1].abs() <= (h - 1) / 2)
    grid = torch.stack([to[:, 0] * (2 / (w - 1)), to[:, 1] * (2 / (h - 1))], dim=-1).to(frames)
    planes = frames if frames.dim() == 4 else frames[:, None]
    moved = F.grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=True)
    return moved.view(frames.shape), seen.to(frames)


def _correlate(earlier: Tensor, later: Tensor) -> Tensor:
    """The translation, to a pixel, by the peak of the phase correlation: (N, H, W) twice -> (N, 2), x and y."""
    n, h, w = earlier.shape
    window = torch.outer(*(torch.hann_window(s, periodic=False, device=earlier.device) for s in (h, w)))
    a, b = (torch.fft.rfft2((f - f.mean((1, 2), keepdim=True)) * window) for f in (earlier, later))
    cross = a * b.conj()
    fy, fx = torch.fft.fftfreq(h, device=a.device)[:, None], torch.fft.rfftfreq(w, device=a.device)
    low = torch.exp(-0.5 * (fx.square() + fy.square()) / _BLUR**2)
    peaks = torch.fft.irfft2(cross / (cross.abs() + 1e-9) * low, (h, w)).flatten(1).argmax(1)
    dy, dx = peaks // w, peaks % w
    return torch.stack([(dx + w // 2) % w - w // 2, (dy + h // 2) % h - h // 2], dim=1).to(earlier)


def _places(h: int, w: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """x and y of each pixel from the frame's middle, (H, W) each."""
    y = torch.arange(h, device=device, dtype=torch.float32) - (h - 1) / 2
    x = torch.arange(w, device=device, dtype=torch.float32) - (w - 1) / 2
    return x.expand(h, w), y[:, None].expand(h, w)


def _gradients(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences along x and y; one-sided ones at the border."""
    return _gradient(frames), _gradient(frames.mT).mT


def _gradient(frames: Tensor) -> Tensor:
    # torch.gradient would fix the batch of an exported graph
    left, right = frames[..., :1], frames[..., -1:]
    inner = (frames[..., 2:] - frames[..., :-2]) / 2
    return torch.cat([frames[..., 1:2] - left, inner, right - frames[..., -2:-1]], dim=-1)


def _smooth(frames: Tensor) -> Tensor:
    """A Gaussian of standard deviation 1.5 pixels: sensor noise pulls estimates towards whole pixels."""
    reach = torch.arange(-_REACH, _REACH + 1, device=frames.device, dtype=frames.dtype)
    kernel = torch.exp(-0.5 * (reach / _SIGMA).square())
    kernel = kernel / kernel.sum()
    padded = F.pad(frames[:, None], (_REACH,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))[:, 0]


def _median(values: Tensor, seen: Tensor) -> Tensor:
    """Median over the pixels that are seen, the lower one of an even number: (N, H, W) >= 0 -> (N, 1, 1)."""
    # a graph that is recorded, by torch.jit.trace or torch.export, would keep NumPy's result as a constant
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if recorded or values.device.type != "cpu":
        masked = torch.where(seen > 0, values, torch.nan).flatten(1)
        found = masked.nanmedian(dim=1, keepdim=True).values
    else:  # NumPy sorts more than twice as fast as torch finds a median on a CPU
        masked = torch.where(seen > 0, values, torch.inf).flatten(1)
        middle = (seen.count_nonzero(dim=(1, 2)) - 1).div(2, rounding_mode="floor").clamp(min=0)
        masked.numpy().sort(axis=1)
        found = masked.gather(1, middle[:, None])
    return found.nan_to_num(0.0, posinf=0.0)[:, :, None]
