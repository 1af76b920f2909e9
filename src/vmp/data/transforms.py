"""Scale, crop and flip of whole clips, on uint8; one draw for all frames, or their differences would show the jitter.

Shapes: clips are (T, H, W, C) uint8 here, as the readers give them; `to_clip` makes them (C, T, H, W). C is 3, or
4 with a mask beside the colours.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class TrainView:
    """One training view, drawn before decoding so that frames are resized as they are decoded."""

    short_side: int  # of the resized frame
    top: float  # of the crop, as a fraction of the free room
    left: float
    flip: bool  # left-right


def draw_train_view(rng: np.random.Generator, *, jitter: tuple[int, int], flip: float) -> TrainView:
    """Draw a short side in `jitter`, both ends included, a place for the crop, and a flip with probability `flip`."""
    low, high = jitter
    side = low + rng.random() * (high - low)
    return TrainView(int(side + 0.5), rng.random(), rng.random(), bool(rng.random() < flip))


def apply_train_view(frames: np.ndarray, view: TrainView, *, crop: int) -> np.ndarray:
    """Crop and flip frames whose short side is view.short_side: (T, H, W, C) -> (T, crop, crop, C)."""
    _, h, w, _ = frames.shape
    top, left = int(view.top * (h - crop + 1)), int(view.left * (w - crop + 1))
    out = frames[:, top : top + crop, left : left + crop]
    return out[:, :, ::-1] if view.flip else out


def test_corners(h: int, w: int, *, crop: int, positions: int) -> list[tuple[int, int]]:
    """(top, left) of the fixed crops of testing.

    Crop i of n lies at i / (n - 1) of the way along the longer side (three: left/top, middle, right/bottom), in the
    middle of the shorter one; a single crop is the centre.
    """
    along = [0.5] if positions == 1 else [i / (positions - 1) for i in range(positions)]
    return [(_at(h - crop, a if h > w else 0.5), _at(w - crop, a if w >= h else 0.5)) for a in along]


test_corners.__test__ = False  # type: ignore[attr-defined]  # pytest: not a test


def to_clip(frames: np.ndarray) -> np.ndarray:
    """(T, H, W, C) -> (C, T, H, W), contiguous."""
    return np.ascontiguousarray(frames.transpose(3, 0, 1, 2))


def _at(room: int, fraction: float) -> int:
    return int(np.ceil(room * fraction)) if fraction == 0.5 else int(room * fraction)
