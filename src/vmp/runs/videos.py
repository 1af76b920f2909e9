"""Videos that belong to no dataset, as a trained model takes them.

Notes:
- a video is measured like those of a dataset, and read through a reader that returns exactly its frames;
- frames, crops and views are those of the run's test, or of the published protocol.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vmp.build import clip_shape
from vmp.data import sampling, transforms
from vmp.data.columns import Clip
from vmp.data.decode import read_frames
from vmp.data.frames import FRAMES
from vmp.data.manifest import Manifest
from vmp.data.present import Present, check_rates
from vmp.errors import DataError, UserError, VideoReadError
from vmp.files import stamp
from vmp.prepare.measure import Measured, measure_all
from vmp.prepare.rows import with_measured
from vmp.runs.open import Opened
from vmp.runs.score import Split

if TYPE_CHECKING:
    from torch import Tensor

_MEASURED: dict[
    tuple[Path, int, int], Measured
] = {}  # by path, size and time: what this process has measured


def measure_videos(
    videos: Sequence[Path], *, fps: float = 0.0
) -> tuple[dict[Path, Measured], dict[str, str]]:
    """What measuring found of each video that can be read, and for each other one, by name, why it cannot.

    Args:
        fps: frames per second of frame folders, which do not say it; 0: not known.
    """
    files = {video: video.absolute() for video in videos}
    stamps = {file: (file, *stamp(file)) for file in files.values()}
    known = {file: _MEASURED[stamps[file]] for file in stamps if stamps[file] in _MEASURED}
    for file, one in measure_all([file for file in files.values() if file not in known]):
        known[file] = one
        if one.status == "ok":
            _MEASURED[stamps[file]] = one
    good, bad = dict[Path, Measured](), dict[str, str]()
    for video in videos:
        one = known[files[video]]
        if one.status != "ok":
            bad[str(video)] = one.reason
        else:
            good[video] = replace(one, fps=fps) if FRAMES in one.readers else one
    return good, bad


def measure_video(video: Path, *, fps: float = 0.0) -> Measured:
    """As `measure_videos`. Raises: VideoReadError."""
    good, bad = measure_videos([video], fps=fps)
    if bad:
        raise VideoReadError(video, bad[str(video)])
    return good[video]


def as_split(opened: Opened, measured: Sequence[tuple[Path, Measured]]) -> Split:
    """The videos as a split of one clip each, all with label 0; a video may occur twice.

    Raises:
        DataError: a frame folder's rate is needed and unknown.
    """
    clips = tuple(with_measured(Clip(str(v), str(v.absolute()), 0), found) for v, found in measured)
    wanted = opened.config.data.reader
    readers = tuple(wanted if wanted in m.readers else m.readers[0] for _, m in measured)
    manifest = Manifest(Path("videos"), Path("/"), opened.classes, clips)
    present = Present(clips, readers, len(clips))
    check_rates(present, opened.spec.fps)
    return Split("predict", manifest, present)


@dataclass(frozen=True)
class OneClip:
    pixels: "Tensor"  # (3, frames, S, S) uint8, as many frames as the model takes
    numbers: np.ndarray  # (frames,) of the frames in the video
    offsets: np.ndarray  # (frames,) positions relative to the first, on a timeline with the model's rate
    fps: float  # positions per second of this timeline; 0: not known


def read_clip(opened: Opened, video: Path, measured: Measured, *, start: int = 0) -> OneClip:
    """The centre crop of the clip that begins with frame `start`, or with the next one that is on the clip's timeline.

    Raises:
        UserError: `start` is negative, or too few frames are after it. VideoReadError: the video cannot be read.
        DataError: a frame folder's rate is needed and unknown, or the model takes masks beside the frames.
    """
    import torch

    split = as_split(opened, [(video, measured)])
    clip, reader = split.present.clips[0], split.present.readers[0]
    shape = clip_shape(opened.config, opened.model, crops=1)
    if shape.masks is not None:
        raise DataError(
            f"{video}: only the generator of dataset=motions knows what really moves (vmp=oracle)"
        )
    shown, offsets, fps = shape.timeline(clip)
    if start < 0:
        raise UserError(f"start = {start}: must be the number of a frame, counted from 0")
    first = int(np.searchsorted(shown, start))
    if first and first + int(offsets[-1]) >= len(shown):
        raise UserError(
            f"start = {start}: {len(shown) - first} frames are left, and a clip spans {offsets[-1] + 1}"
        )
    at = shown[sampling.frame_indices(len(shown), offsets, start=first, short=shape.short)]
    frames = read_frames(video, at, reader=reader, short_side=shape.test_side)
    ((top, left),) = transforms.test_corners(*frames.shape[1:3], crop=shape.test_crop, positions=1)
    size = shape.test_crop
    pixels = torch.from_numpy(transforms.to_clip(frames[:, top : top + size, left : left + size]))
    return OneClip(pixels, at, offsets, fps)
