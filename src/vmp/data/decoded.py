"""Decoded clips on disk, which all runs and loader processes of a dataset share (`data.keep`).

Notes:
- a clip is one file of RGB bytes, written whole or not at all; all folds and lists of the same videos share a folder,
  data/.decoded/<name>-<digest>;
- its name is a digest of the video's path, size and time of change, the clip's span, the reader, and the versions of
  this module and of the readers' libraries: a video that was replaced, or that another version may decode to other
  pixels, is decoded again;
- once the folder holds its limit, or the disk has little room left, further clips are decoded whenever they are needed.
  Where nothing can be written, all of them are. So are clips over LARGEST: to be kept, all frames of a clip are in
  memory at once, in each of the processes;
- the folder may be deleted at any time, also while runs use it.
"""

import hashlib
import math
import os
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np

from vmp.data.columns import Clip
from vmp.data.decode import read_frames
from vmp.errors import VideoReadError
from vmp.files import MB, replacing, stamp
from vmp.provenance import versions

VERSION = 1  # to be raised with any change of the pixels that read_frames returns
LIBRARIES = ("av", "opencv-python-headless", "decord", "torchcodec")
FOLDER = ".decoded"  # of data.root
RESERVE = 1000 * MB  # bytes of the disk that stay free for checkpoints
LARGEST = 250 * MB  # bytes of a clip that is kept
STALE = 3600  # seconds after which a temporary file belongs to no process any more
MEASURES = 50  # times that a process measures the folder anew while it fills it: other processes fill it, too


class DecodedClips:
    """The kept clips of the videos below `root`. limit: bytes that they may take, more or less."""

    def __init__(self, home: Path, root: Path, limit: int) -> None:
        self._root = Path(os.path.realpath(root))  # one for all ways to write it
        digest = hashlib.sha256(os.fsencode(self._root)).hexdigest()[:8]
        self.folder, self.limit = home / FOLDER / f"{self._root.name}-{digest}", limit
        self._left, self._unmeasured = 0, limit  # of the folder when it was measured; bytes written since
        self._given_up: set[str] = set()

    def read(self, path: Path, clip: Clip, reader: str, frames: np.ndarray) -> np.ndarray | None:
        """Frames of a clip, counted from its start: (T, H, W, 3) uint8, as the reader returns them.

        A clip that is not kept is decoded and kept, if there is room. None: there is none, or the clip cannot be
        decoded as a whole; it may be damaged in frames that a sample does not need.
        """
        shape = _shape(clip)
        if not 0 < math.prod(shape) <= min(self.limit, LARGEST):
            return None
        file = self.folder / _name(self._root / clip.path, clip, reader)
        if (found := _read(file, shape, frames)) is None and file.name not in self._given_up:
            whole = self._decode(file, path, clip, reader, shape)
            found = None if whole is None else whole[frames]
        return found

    def _decode(
        self, file: Path, path: Path, clip: Clip, reader: str, shape: tuple[int, ...]
    ) -> np.ndarray | None:
        """All frames of a clip, which are then kept."""
        if not self._has_room(math.prod(shape)):
            return None
        try:
            frames = read_frames(path, np.arange(clip.start, clip.start + clip.length), reader=reader)
        except VideoReadError:
            frames = None
        if frames is None or frames.shape != shape:
            self._given_up.add(file.name)
            return None
        try:
            with replacing(file) as temporary:
                temporary.write_bytes(frames.data)
        except OSError:  # a folder that somebody else owns, or has just deleted
            self._given_up.add(file.name)
        self._unmeasured += frames.size
        return frames

    def _has_room(self, size: int) -> bool:
        if size > _free_below(self.folder) - RESERVE:
            return False
        if self._unmeasured * MEASURES >= self.limit:
            self._left, self._unmeasured = self.limit - _size_of(self.folder), 0
        return self._unmeasured + size <= self._left

    def shortage(self, clips: Iterable[Clip]) -> str | None:
        """Why not all of these clips can be kept, for a person; None: they can."""
        sizes = [math.prod(_shape(clip)) for clip in clips]
        need, large = sum(size for size in sizes if size <= LARGEST), sum(size > LARGEST for size in sizes)
        free, says = _free_below(self.folder), []
        if need > self.limit:
            says = [f"the clips take {_mb(need)} decoded."]
        elif need - _size_of(self.folder) > free - RESERVE:
            says = [
                f"the clips take {_mb(need)} decoded, but the disk of {self.folder} has {_mb(free)} free, and the last "
                f"{_mb(RESERVE)} are left to checkpoints."
            ]
        if large:
            says.append(f"{large} clip(s) take more than {_mb(LARGEST)} each and are never kept.")
        if not says:
            return None
        return f"data.keep={self.limit // MB}: {' '.join(says)} What is not kept is decoded each time."


def _shape(clip: Clip) -> tuple[int, ...]:
    return clip.length, clip.height, clip.width, 3


def _mb(size: int) -> str:
    return f"{-(-size // MB):,} MB"


def _read(file: Path, shape: tuple[int, ...], frames: np.ndarray) -> np.ndarray | None:
    """Frames of a kept clip; None if it is not there as a whole."""
    try:
        with open(file, "rb", buffering=0) as source:
            if os.fstat(source.fileno()).st_size != math.prod(shape):
                return None
            out = np.empty((len(frames), *shape[1:]), dtype=np.uint8)
            for frame, number in zip(out, frames.tolist(), strict=True):
                source.seek(number * frame.size)
                if source.readinto(frame) != frame.size:
                    return None
            return out
    except OSError:
        return None


def _name(path: Path, clip: Clip, reader: str) -> str:
    about = repr((os.fspath(path), *stamp(path), clip.start, clip.length, reader, VERSION, _libraries()))
    return f"{hashlib.sha256(about.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.rgb"


@cache
def _libraries() -> tuple[str, ...]:
    """The readers' libraries and their versions, of those that are installed."""
    found = versions()
    return tuple(f"{name} {found[name]}" for name in LIBRARIES if name in found)


def _free_below(folder: Path) -> int:
    """Free bytes of the disk on which a folder is or would be made."""
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(there).free


def _size_of(folder: Path) -> int:
    """Bytes of the files in a folder, 0 if there is none. What killed processes left half written is removed."""
    total, now = 0, time.time()
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):  # another process has just renamed its temporary file
                found = entry.stat()
                if entry.name.startswith(".") and now - found.st_mtime > STALE:
                    os.unlink(entry)
                else:
                    total += found.st_size
    return total
