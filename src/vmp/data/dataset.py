"""Clips of a manifest as uint8 arrays, for training (random views) and for testing (fixed views).

Notes:
- a sample is a function of (seed, epoch, clip), never of workers or batches;
- a clip that cannot be read is returned as an error and counted; it is never replaced by another one;
- clips may be kept decoded on disk (decoded.py): that changes how long an epoch takes, and no sample;
- the test views of a clip, which may be hundreds of megabytes, leave a loader process one piece after another;
- a clip has a fourth channel, masks of what moves, if the shape says where to take them from (`vmp=oracle`). They go
  through the same resizing, crop and flip as the frames.
"""

import copy
import itertools
import multiprocessing
import signal
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vmp.data import sampling, transforms
from vmp.data.augment import Augmentation
from vmp.data.columns import Clip
from vmp.data.decode import ON_GPU, read_frames, resize_frames
from vmp.data.decoded import DecodedClips
from vmp.data.degrade import degrade
from vmp.data.manifest import Manifest
from vmp.data.opencv import opencv
from vmp.data.present import Present, check_rates
from vmp.data.sampler import AUGMENT, MIX, generator
from vmp.data.shared import SharedMemoryCollate
from vmp.data.times import even_frames
from vmp.errors import VideoReadError

READING_SLOTS = 64  # slots of `being_read`; further loader processes share them
BYTES_PER_PIECE = 12_500_000  # of views
BYTES_IN_FLIGHT, PIECES_AHEAD = 25_000_000, 64  # limits for the views that one process reads ahead
SECONDS_TO_END = 10  # how long a killed process is waited for


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipShape:
    """The frames and sizes that a model takes."""

    frames: int  # decoded per clip: with motion prompts one more than the backbone takes
    stride: int
    fps: float | None = None  # of the videos that the stride is meant for; None: the stride counts frames
    spacing: str = "stride"
    short: str = "stretch"
    crop: int
    jitter: tuple[int, int]  # short side in training
    flip: float = 0.5
    test_side: int  # short side in testing
    test_crop: int
    anchor: str = "start"
    degrade: str = "none"
    degrade_in: str = "test"  # "test" or "both"
    # clip, its frames by number (T,) -> (T, H, W) uint8, the fourth channel; None: there is none
    masks: Callable[[Clip, np.ndarray], np.ndarray] | None = None

    @property
    def channels(self) -> int:
        return 3 if self.masks is None else 4

    def timeline(self, clip: Clip) -> tuple[np.ndarray, np.ndarray, float]:
        """The timeline of a clip, from which the frames of a sample are taken.

        Returns:
            shown: (length,), the number of the clip's frame at each position of the timeline, from 0. Position i is
                frame i, unless the stride is meant for a rate and the clip's frames are not evenly spaced: then the
                timeline is resampled to even times.
            offsets: (frames,), positions of a sample's frames relative to its first.
            fps: positions per second; 0: not known.
        """
        shown, fps = np.arange(clip.length), clip.fps
        if self.fps and clip.times:
            shown, fps = even_frames(clip.times, clip.length)
        rate = fps / self.fps if self.fps and fps else 1.0
        return shown, sampling.offsets(self.frames, self.stride, spacing=self.spacing, rate=rate), fps

    def degrader(self, clip: Clip, *, training: bool) -> Callable[[np.ndarray, int], np.ndarray] | None:
        """A function that degrades a clip's decoded frames (Table 5), if they are to be degraded."""
        if self.degrade == "none" or (training and self.degrade_in == "test"):
            return None
        key = zlib.crc32(clip.id.encode())
        return lambda frame, number: degrade(frame, self.degrade, key=(key, number))


class Batch(NamedTuple):
    clips: Tensor  # (B, C, T, H, W) uint8; the clips that could be read
    labels: Tensor  # (B,), or (B, classes) of mixed clips
    indices: Tensor  # (B,) of the split's usable clips
    bad: dict[int, str]  # index -> why it could not be read


class _Clips(torch.utils.data.Dataset):
    """A split's usable clips. It tracks which of them are being read, for the error message if a worker dies.

    kept: where clips are kept decoded; None: nowhere.
    """

    def __init__(
        self, manifest: Manifest, present: Present, shape: ClipShape, *, kept: DecodedClips | None = None
    ) -> None:
        self.root, self.present, self.shape = manifest.root, present, shape
        check_rates(present, shape.fps, where=str(manifest.path))
        self.kept = kept
        self._reading = multiprocessing.RawArray("q", [-1] * (1 + READING_SLOTS))

    def __len__(self) -> int:
        return len(self.present.clips)

    def being_read(self) -> list[str]:
        """`id (path)` of the clips that some process is reading."""
        found = [self.present.clips[index] for index in self._reading if index >= 0]
        return [f"{clip.id} ({self.root / clip.path})" for clip in found]

    def _read(
        self, index: int, clip: Clip, frames: np.ndarray, *, short_side: int, training: bool
    ) -> np.ndarray:
        """Frames of the clip with this index, counted from its start, with their masks if the shape has some:
        (T, H, W, C) uint8."""
        pictures = self._read_frames(index, clip, frames, short_side=short_side, training=training)
        if self.shape.masks is None:
            return pictures
        masks = self.shape.masks(clip, frames)
        resized = resize_frames(masks, short_side)
        return np.concatenate([pictures, resized[..., None]], axis=3)

    def _read_frames(
        self, index: int, clip: Clip, frames: np.ndarray, *, short_side: int, training: bool
    ) -> np.ndarray:
        path, reader = self.root / clip.path, self.present.readers[index]
        change = self.shape.degrader(clip, training=training)
        worker = torch.utils.data.get_worker_info()
        # PiecesOfWorker has its own numbers, since it has one loader per process
        number = None if worker is None else getattr(worker.dataset, "number", worker.id)
        slot = 0 if number is None else 1 + number % READING_SLOTS
        self._reading[slot] = index
        try:
            if self.kept:
                ascending = (np.diff(frames) > 0).all()  # nearly always, and np.unique takes time
                numbers, back = (frames, None) if ascending else np.unique(frames, return_inverse=True)
                if (decoded := self.kept.read(path, clip, reader, numbers)) is not None:
                    if change is not None:
                        found = zip(decoded, clip.start + numbers, strict=True)
                        decoded = np.stack([change(frame, int(number)) for frame, number in found])
                    resized = resize_frames(decoded, short_side)
                    return resized if back is None else resized[back]
            return read_frames(path, clip.start + frames, reader=reader, short_side=short_side, change=change)
        finally:
            self._reading[slot] = -1


class TrainClips(_Clips):
    """Random views. An item's index is (clip index, epoch), or (clip index, epoch, times the epoch had it before)."""

    def __init__(
        self,
        manifest: Manifest,
        present: Present,
        shape: ClipShape,
        *,
        seed: int,
        kept: DecodedClips | None = None,
        augmentation: Augmentation | None = None,
    ) -> None:
        super().__init__(manifest, present, shape, kept=kept)
        self.seed, self.classes = seed, len(manifest.classes)
        self.augmentation = augmentation or Augmentation()

    def unmixed(self) -> "TrainClips":
        """The same clips without mixup and CutMix."""
        clips = copy.copy(self)
        clips.augmentation = replace(self.augmentation, mixup=0.0, cutmix=0.0)
        return clips

    def blank(self) -> tuple[Tensor, Tensor]:
        """A black clip (1, C, T, crop, crop) uint8 and a label (1,), for a process that could not read any clip."""
        s = self.shape
        clip = torch.zeros(1, s.channels, s.frames, s.crop, s.crop, dtype=torch.uint8)
        return clip, torch.zeros(1, dtype=torch.long)

    def __getitems__(self, items: list[tuple[int, ...]]) -> list[tuple[int, Tensor | VideoReadError, Any]]:
        """A micro-batch, which a DataLoader asks for at once: its clips are mixed, if they are to be."""
        found = [self[item] for item in items]
        if not self.augmentation.mixes:
            return found
        rngs = [generator(MIX, self.seed, epoch, index, *again) for index, epoch, *again in items]
        return self.augmentation.mix_pairs(found, rngs, classes=self.classes)

    def __getitem__(self, item: tuple[int, ...]) -> tuple[int, Tensor | VideoReadError, int]:
        index, epoch, *again = item
        clip, s = self.present.clips[index], self.shape
        rng = generator(AUGMENT, self.seed, epoch, index, *again)
        shown, offsets, _ = s.timeline(clip)
        start = sampling.random_start(len(shown), offsets, rng=rng)
        view = transforms.draw_train_view(rng, jitter=s.jitter, flip=s.flip)
        at = shown[sampling.frame_indices(len(shown), offsets, start=start, short=s.short)]
        try:
            frames = self._read(index, clip, at, short_side=view.short_side, training=True)
        except VideoReadError as error:
            return index, error, clip.label
        picture = transforms.apply_train_view(frames, view, crop=s.crop)
        whole = torch.from_numpy(transforms.to_clip(picture))
        return index, self.augmentation.change(whole, rng), clip.label


def read_ahead(shape: ClipShape, views: int) -> tuple[int, int]:
    """(Views per piece, pieces that a loader process reads ahead) for test clips with this many views. Together the
    pieces have at most BYTES_IN_FLIGHT bytes, or two views if these are larger."""
    view = shape.channels * shape.frames * shape.test_crop**2  # bytes
    each = max(1, min(views, BYTES_PER_PIECE // view))
    return each, max(2, min(PIECES_AHEAD, BYTES_IN_FLIGHT // (each * view)))


class Piece(NamedTuple):
    """Some of the views of a test clip, in order, or why it cannot be read."""

    clip: int  # its index
    views: Tensor | VideoReadError  # (V', C, T, H, W) uint8
    weights: Tensor  # (V',); those of all pieces of a clip sum to temporal x spatial
    last: bool  # of the clip


class TestClips(_Clips):
    """All fixed views of a clip: temporal starts x spatial crops. Views that coincide are returned once.

    An item is (index, (V, C, T, H, W) uint8, weights (V,)) with weights that sum to temporal x spatial; `pieces` gives
    the same views one piece after another.
    """

    def __init__(
        self,
        manifest: Manifest,
        present: Present,
        shape: ClipShape,
        *,
        temporal: int = 1,
        spatial: int = 1,
        kept: DecodedClips | None = None,
    ) -> None:
        super().__init__(manifest, present, shape, kept=kept)
        self.temporal, self.spatial = temporal, spatial

        self.views_per_piece = read_ahead(shape, temporal * spatial)[0]

    def __getitem__(self, index: int) -> tuple[int, Tensor | VideoReadError, Tensor]:
        pieces = list(self.pieces(index))
        weights = torch.cat([piece.weights for piece in pieces])
        if isinstance(pieces[0].views, VideoReadError):
            return index, pieces[0].views, weights
        return index, torch.cat([piece.views for piece in pieces]), weights  # type: ignore[misc]

    def pieces(self, index: int) -> Iterator[Piece]:
        """The clip's views in pieces of at most `views_per_piece`; each frame is decoded once."""
        clip, s = self.present.clips[index], self.shape
        shown, offsets, _ = s.timeline(clip)
        starts = sampling.view_starts(len(shown), offsets, views=self.temporal, anchor=s.anchor)
        distinct, times = np.unique(starts, return_counts=True)
        at = np.stack([
            shown[sampling.frame_indices(len(shown), offsets, start=int(i), short=s.short)]
            for i in distinct
        ])  # fmt: skip
        numbers, back = np.unique(at, return_inverse=True)
        try:
            frames = self._read(
                index, clip, numbers, short_side=s.test_side, training=False
            )  # (frames, H, W, C)
        except VideoReadError as error:
            yield Piece(index, error, torch.zeros(0), True)
            return
        size, back = s.test_crop, back.reshape(at.shape)  # (starts, T), into frames
        corners = Counter(transforms.test_corners(*frames.shape[1:3], crop=size, positions=self.spatial))
        views = list(itertools.product(range(len(at)), corners))
        weights = np.outer(times, list(corners.values())).ravel().astype(np.float32)
        for first in range(0, len(views), self.views_per_piece):
            part = slice(first, first + self.views_per_piece)
            stack = [
                transforms.to_clip(frames[:, top : top + size, left : left + size][back[start]])
                for start, (top, left) in views[part]
            ]
            last = first + self.views_per_piece >= len(views)
            yield Piece(index, torch.from_numpy(np.stack(stack)), torch.from_numpy(weights[part]), last)


class PiecesOfWorker(torch.utils.data.IterableDataset):
    """The pieces that one of several loader processes reads: those of every `of`-th clip, beginning with `number`."""

    def __init__(self, clips: TestClips, indices: Sequence[int], number: int, of: int) -> None:
        self.clips, self.indices, self.number = clips, indices[number::of], number

    def __iter__(self) -> Iterator[Piece]:
        for index in self.indices:
            yield from self.clips.pieces(index)


def stream_views(
    clips: TestClips, indices: Sequence[int], *, workers: int, timeout: float, pin_memory: bool
) -> Iterator[Piece]:
    """The pieces of these clips, clip by clip in the order of `indices`, read ahead by `workers` processes.

    Each process decodes its next clip while the pieces of the others are used, and reads ahead as `read_ahead` says.
    A torch DataLoader takes items from its processes in turn. Here all pieces of a clip have to come before those of
    the next clip, so each process has a DataLoader of its own.

    Args:
        timeout: seconds to wait for a piece; 0: no limit.
    """
    if not workers:
        yield from PiecesOfWorker(clips, indices, 0, 1)
        return
    workers = max(1, min(workers, len(indices)))
    loaders = [
        iter(
            torch.utils.data.DataLoader(
                PiecesOfWorker(clips, indices, number, workers),
                batch_size=None,
                collate_fn=SharedMemoryCollate(_unchanged),
                pin_memory=pin_memory,
                prefetch_factor=read_ahead(clips.shape, clips.temporal * clips.spatial)[1],
                **loader_processes(clips, 1, timeout=timeout),
            )
        )
        for number in range(workers)
    ]
    for place in range(len(indices)):
        while True:
            piece = Piece(*next(loaders[place % workers]))
            yield piece
            if piece.last:
                break


def _unchanged(piece: Any) -> Any:
    return piece


TestClips.__test__ = False  # type: ignore[attr-defined]  # pytest: not a test


def collate_train(items: list[tuple[int, Tensor | VideoReadError, Any]]) -> Batch:
    """Stack the clips that could be read, and list the others with their errors."""
    good = [(index, clip, label) for index, clip, label in items if isinstance(clip, Tensor)]
    bad = {index: f"unreadable: {x}" for index, x, _ in items if isinstance(x, VideoReadError)}
    stack = torch.stack([clip for _, clip, _ in good]) if good else torch.zeros(0, dtype=torch.uint8)
    indices = torch.tensor([index for index, _, _ in good], dtype=torch.long)
    labels = [label for _, _, label in good]
    if labels and isinstance(labels[0], Tensor):
        return Batch(stack, torch.stack(labels), indices, bad)
    return Batch(stack, torch.tensor(labels, dtype=torch.long), indices, bad)


def end_workers() -> None:
    """Kill this process's remaining children and wait for their end: one that hangs in a decoder would keep it from
    ending. Torch, which reports a killed loader process from a signal handler, stays silent about these."""
    children = multiprocessing.active_children()
    if not children:
        return
    main = threading.current_thread() is threading.main_thread()  # only there may a handler be changed
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if main else None
    try:
        for child in children:
            child.kill()
        for child in children:
            child.join(SECONDS_TO_END)
    finally:
        if main:
            signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)


def loader_processes(data: _Clips, workers: int, *, timeout: float = 0.0) -> dict[str, Any]:
    """DataLoader's arguments about its worker processes. timeout: seconds that it waits for a batch; 0: no limit.

    They are forked, or spawned where a reader needs the GPU, which a forked process cannot share with its parent.
    """
    if not workers:
        return {"num_workers": 0}
    opencv()  # before a process is forked
    if isinstance(data, TrainClips):
        data.augmentation.load()
    on_gpu = any(reader in ON_GPU for reader in data.present.readers)
    return {
        "num_workers": workers,
        "multiprocessing_context": "spawn" if on_gpu else "fork",
        "worker_init_fn": partial(start_worker, gpu=torch.cuda.current_device() if on_gpu else None),
        "timeout": timeout,
    }


def start_worker(_: int, *, gpu: int | None = None) -> None:
    """Set up a loader process: one thread; it ignores stop signals, which Slurm sends to all processes of a job."""
    opencv()
    if gpu is not None:
        torch.cuda.set_device(gpu)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
