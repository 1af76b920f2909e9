"""Measures a video file: its counted frames, size and rate, and which readers return exactly those frames.

Notes:
- the file is decoded once and its frames are counted (source.py); of a frame folder, every picture is decoded;
- a seeking reader is exact for a file if frames sampled from all over it, read sequentially and after seeks, match the
  counted ones; each is compared with its neighbours in time, too, so that a shift by one frame is noticed;
- thumbnails of all frames are kept up to BLOCK x BLOCKS of them (85 MB); of a longer video, blocks spread over all of
  it, and of more than READ_THROUGH pixels only some blocks are compared;
- exact readers come in a fixed order, usually the fastest for training clips first. It is not a measurement of time, so
  that a file has the same reader, and so the same colours, whenever and wherever it is measured (`_fastest_first`);
- measuring happens in child processes (children.py), since a damaged file may crash or hang a decoder, and what was
  measured is kept in a file of JSON lines that survives a kill.
"""

import importlib.util
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from vmp.data.decode import ON_GPU, READERS, STEP, check_is_video_file, is_gpu_fault
from vmp.data.frames import FRAMES, decode_folder, frame_files
from vmp.data.manifest import inside
from vmp.data.stream import rgb_converter
from vmp.data.times import Timeline
from vmp.errors import ManifestError, VideoReadError
from vmp.files import stamp
from vmp.prepare.children import TIMEOUT, Lost, in_children, step
from vmp.prepare.source import Source
from vmp.progress import bar

MEASURE_VERSION = 7  # increment when results for an unchanged file would differ
GAVE_UP = "measuring failed:"
UNTRIED = "trying readers failed:"  # of a sound file
THUMB = 48  # pixels on each side of a thumbnail
NEAR = 4  # neighbours in time, on either side, that a frame is compared with
BLOCK, BLOCKS = 64, 192  # frames in a block of kept thumbnails, and how many blocks are kept
SEEK = 4  # one seek may take this many times the CPU time of reading the whole file
READ_THROUGH = 4e9  # pixels compared per reader at most; longer videos are sampled
SMALL_FILE = 2000  # frames; all packets of such a file are read in a few ms


@dataclass(frozen=True, slots=True)
class Measured:
    """What measuring a file found."""

    status: str  # of manifest.STATUSES
    reason: str = ""
    frames: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    readers: tuple[str, ...] = ()
    first: float = 0.0  # seconds on the file's clock at which the first frame is shown
    steps: str = ""  # between frames that are not evenly spaced (times.py)

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> "Measured":
        """From the JSON of `asdict`; KeyError or TypeError if it is something else."""
        return cls(**entry | {"readers": tuple(entry["readers"])})

    @property
    def times(self) -> Timeline:
        return Timeline(self.frames, self.fps, self.first, self.steps)


@cache
def installed_seeking_readers() -> tuple[str, ...]:
    """The seeking readers that are installed; pyav is always exact and comes after them."""
    if importlib.util.find_spec("torchcodec"):
        try:
            import torchcodec.decoders  # noqa: F401

            return ("pyav_seek", "opencv", "torchcodec", "decord")
        except (ImportError, OSError, RuntimeError):  # built for another torch or FFmpeg
            pass
    return ("pyav_seek", "opencv", "decord")


def measure(path: str | os.PathLike[str], *, readers: Sequence[str] | None = None) -> Measured:
    """Decode the whole file with PyAV, count, and try these readers against it. Never raises for a bad file."""
    *_, found = _measure_one(Path(path), readers=readers)
    return found


def _measure_one(path: Path, *, readers: Sequence[str] | None) -> Iterator[Measured]:
    """Of a sound video without readers, before these are tried; then the whole result."""
    if path.is_dir():
        yield _measure_folder(path)
        return
    counted = count(path)
    yield counted.found
    if counted.found.status == "ok":
        yield replace(counted.found, readers=exact_readers(path, counted, readers))


def _measure_folder(folder: Path) -> Measured:
    """Decode every picture of a frame folder."""
    height = width = 0
    try:
        files = frame_files(folder)
        for picture in decode_folder(folder, np.arange(len(files))):
            height, width = picture.shape[:2]
            step()
    except VideoReadError as error:
        return Measured("unreadable", error.reason)
    return Measured("ok", frames=len(files), width=width, height=height, readers=(FRAMES,))


@dataclass(frozen=True, slots=True)
class Counted:
    """What decoding a whole file gave."""

    found: Measured  # without readers
    thumbs: "Thumbs"
    source: Source


def count(path: str | os.PathLike[str]) -> Counted:
    """Decode the whole file with PyAV. Never raises for a bad file."""
    thumbs, source = Thumbs(), Source(Path(path))
    if refused := refusal(source.path):
        return Counted(refused, thumbs, source)
    began = time.process_time()
    picture, convert = np.empty((0, 0, 3), np.uint8), rgb_converter()
    for frame in source.frames():
        picture = convert(frame)
        thumbs.add(small(picture))
    step(needs=SEEK * (time.process_time() - began))
    if not source.count:
        found = Measured("unreadable", source.fault or "no frame could be decoded")
        return Counted(found, thumbs, source)
    height, width = picture.shape[:2]
    shown = source.times()
    found = Measured(
        "partial" if source.fault else "ok",
        source.fault,
        frames=source.count,
        fps=shown.rate,
        width=width,
        height=height,
        first=shown.first,
        steps=shown.steps,
    )
    return Counted(found, thumbs, source)


def refusal(path: Path) -> Measured | None:
    """What is wrong with a file that cannot be a video, without decoding it."""
    try:
        check_is_video_file(path)
    except VideoReadError as error:
        return Measured("missing" if error.reason == "not found" else "unreadable", error.reason)
    return None


def exact_readers(path: Path, counted: Counted, readers: Sequence[str] | None = None) -> tuple[str, ...]:
    """The readers that return exactly the counted frames, the fastest first, then pyav. None: the installed ones.

    Readers that need a GPU come last, since other machines read the manifest too.
    """
    exact = [
        r
        for r in (installed_seeking_readers() if readers is None else readers)
        if _is_exact(path, r, counted)
    ]
    on_gpu = [r for r in exact if r in ON_GPU]
    return (*_fastest_first([r for r in exact if r not in ON_GPU], counted), "pyav", *on_gpu)


def _fastest_first(readers: Sequence[str], counted: Counted) -> list[str]:
    """Order readers by a fixed rule, the fastest on training clips (9 frames at stride 32, 33 at stride 2) first.

    pyav_seek decodes only the groups of pictures that it needs; opencv decodes forwards up to STEP frames before it
    seeks. With keyframes closer than that pyav_seek is 1.2 to 3 times faster; with longer groups they are about equal,
    and in long files opencv comes first, since pyav_seek may have to read all packets.
    """
    close = counted.found.frames <= SMALL_FILE and counted.found.frames <= STEP * counted.source.keyframes
    order = ("pyav_seek", "opencv") if close else ("opencv", "pyav_seek")
    return [r for r in order if r in readers] + [r for r in readers if r not in order]


def measure_all(
    paths: Iterable[Path],
    *,
    workers: int | None = None,
    timeout: float = TIMEOUT,
    readers: Sequence[str] | None = None,
) -> Iterator[tuple[Path, Measured]]:
    """Measure files in parallel, each in a child process; yields results as they come.

    A file whose child process dies, or makes no progress for `timeout` seconds (0: no limit), is unreadable; where that
    happens while readers are tried it is sound, has the reader pyav, and a reason that begins with UNTRIED.
    """
    work = partial(_measure_one, readers=readers)
    counted: dict[Path, Measured] = {}
    for path, found in in_children(work, paths, timeout=timeout, workers=workers):
        if isinstance(found, Lost):
            whole = counted.pop(path, None)
            if whole is None:
                yield path, Measured("unreadable", f"{GAVE_UP} {found.reason}")
            else:
                yield path, replace(whole, reason=f"{UNTRIED} {found.reason}", readers=("pyav",))
        elif found.status == "ok" and not found.readers:
            counted[path] = found
        else:
            counted.pop(path, None)
            yield path, found


# --- the cache of measurements ----------------------------------------------------------------------------------------


def measure_cached(
    cache: Path,
    root: Path,
    paths: Sequence[str],
    *,
    progress: bool = True,
    workers: int | None = None,
    timeout: float = TIMEOUT,
) -> dict[str, Measured]:
    """Measure the videos that the cache does not have, and add each to it as soon as it is measured.

    Paths are relative to the root; ManifestError if one is a link that leaves it. A file whose size or modification
    time has changed is measured again, and so is a folder in which those of any file have.
    """
    known: dict[tuple[str, int, int], Measured] = {}
    for entry in read_records(cache):
        with suppress(KeyError, TypeError):
            if entry["version"] == MEASURE_VERSION:
                known[entry["file"], entry["size"], entry["time"]] = Measured.from_json(entry["measured"])
    try:
        files = {path: inside(root, path) for path in paths}
    except ValueError as error:
        raise ManifestError(str(error)) from None
    stamps = {file: (str(file), *stamp(file)) for file in files.values()}
    found = {file: known[stamps[file]] for file in stamps if stamps[file] in known}
    kept = len(found)
    todo = [file for file in stamps if file not in found]
    if todo:
        with bar("measure videos", len(todo), shown=progress) as shown:
            try:
                for file, result in measure_all(todo, workers=workers, timeout=timeout):
                    found[file] = result
                    if result.status != "missing" and not result.reason.startswith(GAVE_UP):
                        # from before it was read, so that a file that changed meanwhile is measured again
                        name, size, changed = stamps[file]
                        entry = {"version": MEASURE_VERSION, "file": name, "size": size, "time": changed}
                        append_record(cache, entry | {"measured": asdict(result)})
                        kept += 1
                    shown.advance()
            except KeyboardInterrupt:
                raise KeyboardInterrupt(
                    f"{kept} of {len(files)} videos have been measured and are kept in {cache}; the same command "
                    "continues"
                ) from None
    return {path: found[file] for path, file in files.items()}


def read_records(path: Path) -> list[dict[str, Any]]:
    """The objects in a file of JSON lines, without lines that a kill cut short; none if the file is missing."""
    records: list[dict[str, Any]] = []
    if not path.exists():
        return records
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with suppress(ValueError):
                entry = json.loads(line)
                records += [entry] if isinstance(entry, dict) else []
    return records


def append_record(path: Path, entry: dict[str, Any]) -> None:
    """Append a JSON line; if a kill cut the last line short, start a new one first."""
    with open(path, "a+b") as file:
        if end := file.seek(0, os.SEEK_END):
            file.seek(end - 1)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(entry).encode() + b"\n")


# --- frames as thumbnails ------------------------------------------------------------------------------------------


class Thumbs:
    """Thumbnails (THUMB, THUMB, 3) of a video's frames, in bounded memory.

    It keeps all frames of a short video; of a longer one every second, fourth, ... block of BLOCK frames, and always
    the last BLOCK frames.
    """

    def __init__(self) -> None:
        self.count = 0
        # one block, whose memory is taken as it is written: small arrays between decoded frames would fragment the
        # heap (measured: 555 MB for 85 MB of thumbnails); its last BLOCK places hold the end
        self._store = np.empty((BLOCK * BLOCKS + BLOCK, THUMB, THUMB, 3), np.uint8)
        self._places: dict[int, int] = {}  # frame number -> place in the store
        self._free = list(range(BLOCK * BLOCKS))[::-1]
        self._every = 1

    def add(self, thumb: np.ndarray) -> None:
        """Add the thumbnail of the next frame."""
        if self.count // BLOCK % self._every == 0:
            if not self._free:
                self._every *= 2
                dropped = [i for i in self._places if i // BLOCK % self._every]
                self._free += [self._places.pop(i) for i in dropped]
            if self.count // BLOCK % self._every == 0:
                self._places[self.count] = self._free.pop()
                self._store[self._places[self.count]] = thumb
        self._store[self._end_place(self.count)] = thumb
        self.count += 1

    def kept(self) -> dict[int, np.ndarray]:
        """Frame number -> thumbnail."""
        tail = range(max(0, self.count - BLOCK), self.count)
        places = self._places | {i: self._end_place(i) for i in tail}
        return {i: self._store[place] for i, place in places.items()}

    def _end_place(self, number: int) -> int:
        return BLOCK * BLOCKS + number % BLOCK


def _is_exact(path: Path, reader: str, counted: Counted) -> bool:
    """Whether a reader returns the counted frames, read through and after seeks."""
    n, kept = counted.thumbs.count, counted.thumbs.kept()
    pixels = counted.found.width * counted.found.height
    if reader == "opencv" and n > STEP and not counted.source.is_steady():
        return False  # it seeks by time at the nominal rate
    # it is not repeatable if times are not in order, and counts frames hidden by an edit list when it seeks
    if reader == "decord" and (counted.source.hidden or not counted.source.is_ordered()):
        return False
    around = {i: range(max(0, i - NEAR), min(n, i + NEAR + 1)) for i in kept}
    known = np.array(sorted(i for i, near in around.items() if all(j in kept for j in near)))
    scattered = known[np.unique(np.linspace(0, len(known) - 1, 12).round().astype(int))]
    unsought = STEP if reader == "opencv" else 0  # frames reached without a seek
    alone = scattered[scattered > unsought, None][1::2]  # each read by itself, after a seek
    begins = [known[np.searchsorted(known, n * third // 3)] for third in (1, 2)]
    strided = [np.arange(begin, n, stride)[:16] for begin in begins for stride in (1, 3)]
    strided = [np.intersect1d(indices, known) for indices in strided]
    late = np.arange(max(0, n - 9), n)  # the end, where a wrong index shows first
    every = int(np.ceil(len(known) * pixels / READ_THROUGH))
    through = known[known // BLOCK % every == 0]
    try:
        for indices in (scattered, *alone, *strided, late, through):
            for index, picture in zip(indices.tolist(), READERS[reader](path, indices), strict=True):
                step()
                beside = around[index]
                if not _matches_frame(small(picture), [kept[i] for i in beside], index - beside[0]):
                    return False
    except Exception as error:  # the reader cannot read this file, or gives another number of frames
        if is_gpu_fault(reader, error):
            raise
        return False
    return True


def _matches_frame(picture: np.ndarray, near: Sequence[np.ndarray], at: int) -> bool:
    """Whether a picture is near[at]: close to it, and no neighbour in time is closer.

    Readers round colours differently (by up to 2 grey levels on common files), hence "close".
    """
    distances = distance(np.stack(near), picture)
    return bool(distances[at] < 4.0 and distances[at] <= distances.min() + 0.02)


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean absolute difference of pictures (..., THUMB, THUMB, 3) uint8 in grey levels."""
    apart = np.maximum(a, b)
    apart -= np.minimum(a, b)
    flat = apart.reshape(*apart.shape[:-3], -1)
    return flat.sum(axis=-1, dtype=np.uint32) / flat.shape[-1]


def small(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (THUMB, THUMB, 3) uint8 by nearest pixel, since averaging would hide small motions."""
    h, w = picture.shape[:2]
    return picture.take(_nearest(h), axis=0).take(_nearest(w), axis=1)


@cache
def _nearest(n: int) -> np.ndarray:
    """The THUMB places on a side of n pixels."""
    return np.linspace(0, n - 1, THUMB).astype(int)
