"""Which frames a clip is made of: T (or T + 1) frames at a stride, from a span of a video.

Notable here:
- positions count from the start of the span; a span of `length` frames may be shorter than the clip wants;
- what a short span does is a choice that decides benchmarks of short actions (most of FineGym and HMDB-51):
      "stretch"  spread the frames evenly over the whole span, as the paper's code does; loop it when it has fewer
                 frames than asked for
      "clamp"    keep the stride and repeat the last frame (its differences are zero)
      "loop"     keep the stride and start over (one jump at each seam)
"""

import numpy as np

SHORT = ("stretch", "clamp", "loop")
ANCHORS = ("start", "center")


def clip_span(frames: int, stride: int) -> int:
    """Source frames that a clip covers, first to last."""
    return (frames - 1) * stride + 1


def frame_indices(length: int, *, frames: int, stride: int, start: int, short: str = "stretch") -> np.ndarray:
    """Positions of a clip's frames in a span, (frames,) of int64 in 0..length-1.

    Args:
        length: frames in the span, at least 1.
        start: first position; must leave room for the clip, and be 0 in a span too short for it.
        short: one of SHORT.
    """
    if length < 1:
        raise ValueError("the span is empty")
    span = clip_span(frames, stride)
    if length >= span:
        if not 0 <= start <= length - span:
            raise ValueError(f"start {start} leaves no room for {span} frames in {length}")
        return start + stride * np.arange(frames)
    if short == "clamp":
        return np.minimum(stride * np.arange(frames), length - 1)
    if short == "loop":
        return (stride * np.arange(frames)) % length
    if short != "stretch":
        raise ValueError(f"short = {short!r}: must be one of {', '.join(SHORT)}")
    rounds = -(-frames // length)  # whole passes until there are enough frames
    return np.linspace(0, rounds * length - 1, frames).round().astype(np.int64) % length


def random_start(length: int, *, frames: int, stride: int, rng: np.random.Generator) -> int:
    """A start drawn evenly from those that leave room for the clip; 0 in a short span."""
    return int(rng.integers(0, max(0, length - clip_span(frames, stride)) + 1))


def view_starts(length: int, *, frames: int, stride: int, views: int, anchor: str = "start") -> list[int]:
    """Starts of the temporal views of a test video.

    anchor: "start": view i of n begins at i/n of the free room, so a single view begins with the span, as in PySlowFast
    and the paper's code; "center": views are spread over the free room, a single one in its middle.
    """
    room = max(0, length - clip_span(frames, stride))
    if anchor == "start":
        return [room * i // views for i in range(views)]
    if anchor != "center":
        raise ValueError(f"anchor = {anchor!r}: must be one of {', '.join(ANCHORS)}")
    return [room * (2 * i + 1) // (2 * views) for i in range(views)]
