"""What a video file really holds: counted frames, size, rate, and which readers return exactly those frames.

Notable here:
- headers lie both ways about the number of frames, so the file is decoded once and counted;
- a seeking reader counts as exact for a file when frames fetched from all over it, forwards and after seeks, are
  those that counting gives; the comparison is by picture, against the neighbours in time, so a shift by one shows;
- pictures of all frames are kept up to RUN x RUNS of them (85 MB); of a longer video, runs spread over all of it;
- of the exact readers, the one that decodes least for a training clip comes first (`_by_speed`): a rule, not a stop
  watch, so that the same file has the same reader, and so the same colours, whenever and wherever it is measured;
- measuring happens in child processes (children.py): a damaged file may crash or hang a decoder.
"""

import importlib.util
import os
import re
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from vmp.data.decode import ON_GPU, READERS, STEP, check_regular, is_gpu_fault
from vmp.data.stream import (
    may_leap,
    null_frames,
    open_video,
    orientation,
    shown_frames,
    upright,
    video_stream,
)
from vmp.data.times import Timeline, timeline
from vmp.errors import VideoReadError
from vmp.prepare.children import TIMEOUT, Lost, in_children, step

GAVE_UP = "measuring was given up:"
THUMB = 48  # frames are compared as pictures of this many pixels a side
NEAR = 4  # ... with as many neighbours in time on either side
RUN, RUNS = 64, 192  # frames kept together, and how many times
SEEK = 4  # times as much CPU time as reading the whole file takes, for one seek
READ_THROUGH = 4e9  # pixels that a reader is asked for at most, so that large videos end
REACH = 2000  # frames whose packets are read through in a few ms
BY_TIME = ("opencv",)  # readers that seek to a number by its time at the nominal rate
# whose frames are right in one reading and wrong in the next where times are not in order
IN_ORDER = ("decord",)
PLAIN = ("decord",)  # which take samples that an edit list hides for frames when they look for a keyframe


@dataclass(frozen=True, slots=True)
class Measured:
    status: str  # of manifest.STATUSES
    reason: str = ""
    frames: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    readers: tuple[str, ...] = ()
    first: float = 0.0  # seconds on the file's clock at which the first picture is shown
    steps: str = ""  # between pictures that are not evenly spaced (times.py)

    @property
    def times(self) -> Timeline:
        return Timeline(self.frames, self.fps, self.first, self.steps)


@cache
def seeking() -> tuple[str, ...]:
    """Seeking readers to try; pyav, always exact, comes after them."""
    if importlib.util.find_spec("torchcodec"):
        try:
            import torchcodec.decoders  # noqa: F401

            return ("pyav_seek", "opencv", "torchcodec", "decord")
        except (ImportError, OSError, RuntimeError):  # its libraries do not fit the installed torch or FFmpeg
            pass
    return ("pyav_seek", "opencv", "decord")


def measure(path: str | os.PathLike[str], *, readers: Sequence[str] | None = None) -> Measured:
    """Decode the whole file with PyAV, count, and try the seeking readers against it. Never raises for a bad file.

    readers: None: those of `seeking`.
    """
    counted = count(path)
    if counted.found.status != "ok":
        return counted.found
    return replace(counted.found, readers=exact_readers(Path(path), counted, readers))


@dataclass(frozen=True, slots=True)
class Counted:
    """What decoding a whole file gave. found: no readers yet; steady: frames are evenly spaced in time; ordered: their
    times rise from one to the next; hidden: an edit list leaves some out."""

    found: Measured
    thumbs: "Thumbs"
    steady: bool
    ordered: bool
    keyframes: int
    hidden: bool = False


def count(path: str | os.PathLike[str]) -> Counted:
    """Decode the whole file with PyAV. Never raises for a bad file."""
    path, thumbs = Path(path), Thumbs()
    try:
        check_regular(path)
    except VideoReadError as error:
        status = "missing" if error.reason == "not found" else "unreadable"
        return Counted(Measured(status, error.reason), thumbs, False, False, 0)
    source, began = Source(path), time.process_time()
    picture = np.empty((0, 0, 3), np.uint8)
    for frame in source.frames():
        picture = upright(frame.to_ndarray(format="rgb24"), frame)
        thumbs.add(small(picture))
    step(needs=SEEK * (time.process_time() - began))
    if not source.count:
        return Counted(
            Measured("unreadable", source.fault or "no frame could be decoded"), thumbs, False, False, 0
        )
    height, width = picture.shape[:2]
    status = "partial" if source.fault else "ok"
    shown = source.times()
    found = Measured(
        *(status, source.fault, source.count, shown.rate, width, height),
        first=shown.first,
        steps=shown.steps,
    )
    return Counted(found, thumbs, source.steady(), source.ordered(), source.keyframes, source.hidden)


class Source:
    """The first video stream of a file, decoded in counted order by one thread.

    After `frames` has run, `count`, `keyframes` and `fault` say how it went; the rest is what the header said.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.count, self.keyframes, self.fault = path, 0, 0, ""
        self.fps, self.seconds = Fraction(0), 0.0  # 0: the file does not say
        self.promised = 0  # frames; where only a duration is promised, as many as that makes
        self.hidden = False
        self._rate = 0.0
        self._rates: tuple[Fraction, ...] = ()
        self._times = array("d")
        self._zero, self._leaps = 0.0, False

    def frames(self) -> Iterator[Any]:
        """Frames (av.VideoFrame), until the end or the first fault."""
        import av

        errors: list[tuple[str, str]] = []
        av.logging.set_skip_repeated(False)  # the next file may say what the last one said
        try:
            with _errors(errors):
                container = open_video(self.path)
            with container:
                stream = video_stream(container, self.path)
                self._rates = _header_rates(stream)
                self.fps = min((rate for rate in self._rates if rate), default=Fraction(0))
                self._rate = float(stream.guessed_rate or self.fps)
                self._zero = (container.start_time or 0) / av.time_base
                self._leaps = may_leap(container)
                own = _duration(stream)
                self.seconds = own or (container.duration or 0) / av.time_base
                shown = shown_frames(container, stream)
                self.hidden = shown < stream.frames
                self.promised = shown or round(self.seconds * self.fps)
                first, end = None, 0.0
                decoding = container.decode(stream)
                while True:
                    with _errors(errors):
                        frame = next(decoding, None)
                    if said := [text for name, text in errors if name == container.format.name]:
                        self.fault = f"the file is damaged after frame {self.count}: {said[0]}"
                        return
                    if frame is None:
                        break
                    shape = (frame.width, frame.height, *orientation(frame))
                    first = first or shape
                    if shape != first:
                        self.fault = f"the frame size changes at frame {self.count}"
                        return
                    if frame.is_corrupt:
                        self.fault = f"frame {self.count} is damaged"
                        return
                    step()
                    self.count += 1
                    self.keyframes += bool(frame.key_frame)
                    if frame.pts is not None:
                        self._times.append(float(frame.pts * stream.time_base))
                        end = max(end, self._times[-1] + float((frame.duration or 0) * stream.time_base))
                    yield frame
                spare = max(3, shown // 50)  # small miscounts are common in sound files
                if self.count < shown - spare and container.format.name == "avi":
                    shown -= null_frames(self.path, stream.index)
                if self.count < shown - spare:
                    self.fault = f"{self.count} frames decoded where the header promises {shown}"
                elif self.hidden or (not shown and (own or len(container.streams) == 1)):
                    # an edit list must account for the rest; sound may go on longer
                    end -= min(0.0, self._zero)  # a transport stream's clock that wraps begins below zero
                    rest = max(4 / self._rate if self._rate else 0.0, 0.02 * self.seconds)
                    if self._times and end < self.seconds - rest:
                        self.fault = (
                            f"frames end at {end:.2f} s where the header promises {self.seconds:.2f} s"
                        )
        except VideoReadError as error:
            self.fault = error.reason
        except Exception as error:  # decoders leak every kind of exception
            words = str(error).partition("; last error log:")[0]  # which may be that of another file
            self.fault = f"{type(error).__name__}: {words}" + "".join(f"; {text}" for _, text in errors[-1:])

    def times(self) -> Timeline:
        """When the frames decoded so far are shown."""
        return timeline(self._times, rates=self._rates, frames=self.count, zero=self._zero, leaps=self._leaps)

    def steady(self) -> bool:
        """Whether frame i is shown at i / rate, so that a time finds it; the order of the times does not matter."""
        times = np.sort(np.frombuffer(self._times)) if self._times else np.zeros(1)
        drift = (times - times[0]) * self._rate - np.arange(len(times))
        return bool(np.abs(drift).max() < 0.45)

    def ordered(self) -> bool:
        """Whether times rise: not in AVI files with B-frames."""
        return bool((np.diff(np.frombuffer(self._times)) > 0).all()) if self._times else True


def _header_rates(stream: Any) -> tuple[Fraction, ...]:
    return tuple(Fraction(rate or 0) for rate in (stream.average_rate, stream.guessed_rate))


def packet_times(path: Path) -> Timeline:
    """When the pictures of a file are shown, by its packets: as many as there are frames, unless it is damaged."""
    import av

    times: list[float | None] = []
    try:
        with open_video(path) as container:
            stream = video_stream(container, path)
            rates = _header_rates(stream)
            zero = (container.start_time or 0) / av.time_base
            leaps = may_leap(container)
            for packet in container.demux(stream):
                step()
                if packet.size and not packet.is_discard:
                    times.append(None if packet.pts is None else float(packet.pts * packet.time_base))
    except (OSError, av.FFmpegError, VideoReadError):  # decoding will say what is wrong
        rates, zero, leaps = (), 0.0, False
    return timeline(times, rates=rates, zero=zero, leaps=leaps)


@contextmanager
def _errors(found: list[tuple[str, str]]) -> Iterator[None]:
    """Add what FFmpeg calls errors, as (part of FFmpeg, text): a damaged Matroska or AVI file is read on behind the
    damage without any other sign.
    """
    import av

    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture(local=True) as logs:
            yield
    finally:
        av.logging.set_level(level)
        found += [(name, text.strip()) for _, name, text in logs]


def _duration(stream: Any) -> float:
    """Seconds that a stream is said to last: Matroska has that in a tag, if at all."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    match = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    return 3600 * int(match[1]) + 60 * int(match[2]) + float(match[3]) if match else 0.0


def exact_readers(path: Path, counted: Counted, readers: Sequence[str] | None = None) -> tuple[str, ...]:
    """Those of the readers that return exactly the counted frames of a whole file, the fastest first, and pyav.

    Behind it those that need a GPU: other machines read the manifest too.
    """
    exact = [r for r in (seeking() if readers is None else readers) if _exact(path, r, counted)]
    on_gpu = [r for r in exact if r in ON_GPU]
    return (*_by_speed([r for r in exact if r not in ON_GPU], counted), "pyav", *on_gpu)


def _by_speed(readers: Sequence[str], counted: Counted) -> list[str]:
    """Readers in the order of their speed on training clips (9 frames at stride 32, 33 at stride 2).

    pyav_seek decodes the groups that are asked for, opencv everything less than STEP frames ahead. With keyframes
    closer than that pyav_seek is 1.2 to 3 times faster; with longer groups they are about equal, and in long files,
    of which pyav_seek may have to read all packets, opencv comes first.
    """
    near = counted.found.frames <= REACH and counted.found.frames <= STEP * counted.keyframes
    order = ("pyav_seek", "opencv") if near else ("opencv", "pyav_seek")
    return [r for r in order if r in readers] + [r for r in readers if r not in order]


def measure_all(
    paths: Iterable[Path],
    *,
    workers: int | None = None,
    timeout: float = TIMEOUT,
    readers: Sequence[str] | None = None,
) -> Iterator[tuple[Path, Measured]]:
    """Measure files in parallel, each in a child process; yields results as they come.

    timeout: seconds without progress before a child counts as hung, 0: never; a child that hangs or dies makes its file
    unreadable and is replaced.
    """
    work = partial(_measure_one, readers=readers)
    for path, found in in_children(work, paths, timeout=timeout, workers=workers):
        yield path, Measured("unreadable", f"{GAVE_UP} {found.reason}") if isinstance(found, Lost) else found


def _measure_one(path: Path, *, readers: Sequence[str] | None) -> Iterator[Measured]:
    yield measure(path, readers=readers)


# --- frames as small pictures --------------------------------------------------------------------------------------


class Thumbs:
    """Small pictures (THUMB, THUMB, 3) of a video's frames by number, in bounded memory.

    All frames up to RUN x RUNS; of more, every second run of RUN frames, then every fourth, and so on, and the end.
    """

    def __init__(self) -> None:
        self.count = 0
        # one block, of which memory is taken as it is written: small pieces between decoded frames would scatter the
        # heap (measured: 555 MB for 85 MB of pictures)
        self._store = np.empty((RUN * RUNS + RUN, THUMB, THUMB, 3), np.uint8)  # the last RUN: the tail
        self._places: dict[int, int] = {}  # frame number -> place in the store
        self._free = list(range(RUN * RUNS))[::-1]
        self._every = 1

    def add(self, thumb: np.ndarray) -> None:
        """Take the next frame, as `small` makes it."""
        if self.count // RUN % self._every == 0:
            if not self._free:
                self._every *= 2
                dropped = [i for i in self._places if i // RUN % self._every]
                self._free += [self._places.pop(i) for i in dropped]
            if self.count // RUN % self._every == 0:
                self._places[self.count] = self._free.pop()
                self._store[self._places[self.count]] = thumb
        self._store[self._end(self.count)] = thumb
        self.count += 1

    def kept(self) -> dict[int, np.ndarray]:
        tail = range(max(0, self.count - RUN), self.count)
        return {i: self._store[place] for i, place in self._places.items()} | {
            i: self._store[self._end(i)] for i in tail
        }

    def _end(self, number: int) -> int:
        return RUN * RUNS + number % RUN


def _exact(path: Path, reader: str, counted: Counted) -> bool:
    """Whether a reader returns the counted frames, read through and after seeks."""
    n, kept = counted.thumbs.count, counted.thumbs.kept()
    pixels = counted.found.width * counted.found.height
    if reader in BY_TIME and n > STEP and not counted.steady:
        return False
    if (reader in IN_ORDER and not counted.ordered) or (reader in PLAIN and counted.hidden):
        return False
    around = {i: range(max(0, i - NEAR), min(n, i + NEAR + 1)) for i in kept}
    known = np.array(sorted(i for i, near in around.items() if all(j in kept for j in near)))
    scattered = known[np.unique(np.linspace(0, len(known) - 1, 12).round().astype(int))]
    near = STEP if reader in BY_TIME else 0  # reached without a seek
    alone = scattered[scattered > near, None][1::2]  # read for itself, behind a seek
    begins = [known[np.searchsorted(known, n * third // 3)] for third in (1, 2)]
    strided = [np.arange(begin, n, step)[:16] for begin in begins for step in (1, 3)]
    strided = [np.intersect1d(indices, known) for indices in strided]
    late = np.arange(max(0, n - 9), n)  # the tail, where indexes run off first
    every = int(np.ceil(len(known) * pixels / READ_THROUGH))
    through = known[known // RUN % every == 0]
    for indices in (scattered, *alone, *strided, late, through):
        try:
            at = 0
            for picture in READERS[reader](path, indices):
                step()
                index = int(indices[at])
                if not _is_frame(small(picture), [kept[i] for i in around[index]], index - around[index][0]):
                    return False
                at += 1
        except Exception as error:  # not for this file, whatever the reason
            if is_gpu_fault(reader, error):
                raise
            return False
        if at < len(indices):
            return False
    return True


def _is_frame(picture: np.ndarray, near: Sequence[np.ndarray], at: int) -> bool:
    """Whether a picture is near[at]: close to it, and no neighbour in time is closer.

    Readers convert colours with rounding of their own (up to 2 grey levels on common files), hence "close".
    """
    distances = distance(np.stack(near), picture)
    return bool(distances[at] < 4.0 and distances[at] <= distances.min() + 0.02)


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean absolute difference of pictures (..., THUMB, THUMB, 3) in grey levels."""
    return np.abs(a.astype(np.int16) - b).mean(axis=(-3, -2, -1))


def small(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (THUMB, THUMB, 3) uint8 by nearest pixel: averaging would wash small motions out."""
    h, w = picture.shape[:2]
    rows, columns = (np.linspace(0, n - 1, THUMB).astype(int) for n in (h, w))
    return picture[rows[:, None], columns[None]]
