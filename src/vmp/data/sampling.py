"""Selects the frames of a clip: T (or T + 1) of them, from a span of a video.

Notes:
- positions count from the start of the span; a span of `length` frames may be shorter than the clip wants;
- strides are published for videos of 30 frames per second, so they follow a video's own rate (a video whose rate
  varies is first put on even times: `ClipShape.grid`):
      "stride"  frames a stride apart, rounded where the rate makes that uneven (SlowFast, C2D, I3D, X3D)
      "span"    frames spread evenly over T x stride source frames, rounded down, as TimeSformer's code does:
                0, 36, 72, 109, ... 255 for 8 x 32, and 0, 35, 71, ... 287 for the 9 that prompts take
- how a short span is filled decides the results on short actions (most of FineGym and HMDB-51):
      "stretch"  spread the frames evenly over the whole span, as the paper's code does; loop it when it has fewer
                 frames than the clip
      "clamp"    keep the stride and repeat the last frame (its differences are zero)
      "loop"     keep the stride and start over (one jump at each seam)
"""

import numpy as np

from vmp.choices import Anchor, Short, Spacing, check_choice


def offsets(frames: int, stride: int, *, spacing: str = "stride", rate: float = 1.0) -> np.ndarray:
    """Distinct positions of a clip's frames from its first one, (frames,) of int64.

    `rate` is the video's frames per second over those that the stride is meant for.
    """
    check_choice("spacing", spacing, Spacing)
    i = np.arange(frames)
    if spacing == "span" and frames > 1:
        step = max(1.0, (frames * stride * rate - 1) / (frames - 1))
        return np.floor(i * step + 1e-6).astype(np.int64)
    return np.floor(i * max(1.0, stride * rate) + 0.5).astype(np.int64)


def frame_indices(length: int, offsets: np.ndarray, *, start: int, short: str = "stretch") -> np.ndarray:
    """Positions of a clip's frames in a span of `length` >= 1 frames, (frames,) of int64 in 0..length-1.

    `start` is the first position: it must leave room for the clip, and be 0 in a span too short for it.
    """
    if length < 1:
        raise ValueError("the span is empty")
    frames, wanted = len(offsets), int(offsets[-1]) + 1
    if length >= wanted:
        if not 0 <= start <= length - wanted:
            raise ValueError(f"start {start} leaves no room for {wanted} frames in {length}")
        return start + offsets
    if short == "clamp":
        return np.minimum(offsets, length - 1)
    if short == "loop":
        return offsets % length
    check_choice("short", short, Short)
    rounds = -(-frames // length)  # whole passes until there are enough frames
    return np.arange(frames) * (rounds * length - 1) // max(1, frames - 1) % length


def random_start(length: int, offsets: np.ndarray, *, rng: np.random.Generator) -> int:
    """A start drawn evenly from all that leave room for the clip; 0 in a short span."""
    return int(rng.integers(0, _room(length, offsets) + 1))


def view_starts(length: int, offsets: np.ndarray, *, views: int, anchor: str = "start") -> list[int]:
    """Starts of the temporal views of a test video.

    anchor: "start": view i of n begins at i/n of the free room, so a single view begins with the span, as in PySlowFast
    and the paper's code; "center": views are spread over the free room, a single one in its middle.
    """
    room = _room(length, offsets)
    if anchor == "start":
        return [room * i // views for i in range(views)]
    check_choice("anchor", anchor, Anchor)
    return [room * (2 * i + 1) // (2 * views) for i in range(views)]


def _room(length: int, offsets: np.ndarray) -> int:
    return max(0, length - int(offsets[-1]) - 1)
