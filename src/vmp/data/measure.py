"""What a video file really holds: counted frames, size, rate, and which readers return exactly those frames.

Notable here:
- headers lie both ways about the number of frames, so the file is decoded once and counted;
- a seeking reader counts as exact for a file when frames fetched from all over it, forwards and after seeks, are
  those that counting gives; the comparison is by picture, against the neighbours in time, so a shift by one shows;
- measuring happens in child processes that can be killed: a damaged file may crash or hang a decoder.
"""

import multiprocessing as mp
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

import numpy as np

from vmp.data.decode import READERS, check_regular, upright
from vmp.errors import VideoReadError

SEEKING = ("opencv", "decord")  # in order of preference: the fastest first, then pyav, which is always exact
GAVE_UP = "measuring was given up:"
THUMB = 48  # frames are compared as pictures of this many pixels a side


@dataclass(frozen=True, slots=True)
class Measured:
    status: str  # of manifest.STATUSES
    reason: str = ""
    frames: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    readers: tuple[str, ...] = ()


def measure(path: str | os.PathLike[str], *, readers: Sequence[str] = SEEKING) -> Measured:
    """Decode the whole file with PyAV, count, and try the seeking readers against it. Never raises for a bad file."""
    path = Path(path)
    try:
        check_regular(path)
    except VideoReadError as error:
        return Measured("missing" if error.reason == "not found" else "unreadable", error.reason)
    thumbs: list[np.ndarray] = []
    size = (0, 0)
    fps, promised, fault = 0.0, 0, ""
    try:
        import av

        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                return Measured("unreadable", "no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            fps = float(stream.average_rate or stream.guessed_rate or 0)
            promised = stream.frames
            for frame in container.decode(stream):
                picture = upright(frame.to_ndarray(format="rgb24"), frame.rotation)
                size = size if thumbs else picture.shape[:2]
                if picture.shape[:2] != size:
                    fault = f"the frame size changes at frame {len(thumbs)}"
                    break
                if frame.is_corrupt:
                    fault = f"frame {len(thumbs)} is damaged"
                    break
                thumbs.append(_thumb(picture))
    except Exception as error:
        fault = f"{type(error).__name__}: {error}"
    if not thumbs:
        return Measured("unreadable", fault or "no frame could be decoded")
    if not fault and len(thumbs) < promised - max(
        3, promised // 50
    ):  # small miscounts are common in sound files
        fault = f"{len(thumbs)} frames decoded where the header promises {promised}"
    height, width = size
    exact = () if fault else (*(r for r in readers if _exact(path, r, np.stack(thumbs))), "pyav")
    return Measured("partial" if fault else "ok", fault, len(thumbs), fps, width, height, exact)


def measure_all(
    paths: Iterable[Path],
    *,
    workers: int | None = None,
    timeout: float = 120.0,
    readers: Sequence[str] = SEEKING,
) -> Iterator[tuple[Path, Measured]]:
    """Measure files in parallel, each in a child process; yields results as they come.

    timeout: seconds for a file of up to 60 MB, in proportion beyond; a child that takes longer, or dies, makes its
    file unreadable and is replaced.
    """
    context = mp.get_context("spawn")
    queue = list(paths)[::-1]
    count = max(1, min(workers or os.cpu_count() or 1, len(queue)))
    children = [_Child(context, readers) for _ in range(count)] if queue else []
    busy: dict[Connection, _Child] = {}
    try:
        for child in children:
            if queue:
                child.give(queue.pop())
                busy[child.pipe] = child
        while busy:
            ready = wait(list(busy), timeout=0.5)
            for pipe, child in list(busy.items()):
                path = child.path
                limit = timeout * max(1.0, path.stat().st_size / 60e6 if path.exists() else 0)
                late = child.ready and time.monotonic() - child.since > limit
                if pipe in ready:
                    try:
                        message = child.pipe.recv()
                    except (EOFError, OSError):
                        if not child.ready:
                            raise RuntimeError("a measuring process could not start") from None
                        message = Measured("unreadable", f"{GAVE_UP} the decoder crashed")
                        child.restart()
                    if message == "ready":  # imports are done: the clock starts
                        child.ready, child.since = True, time.monotonic()
                        continue
                elif late:
                    message = Measured("unreadable", f"{GAVE_UP} it took longer than {limit:.0f} s")
                    child.restart()
                else:
                    continue
                del busy[pipe]
                if queue:
                    child.give(queue.pop())
                    busy[child.pipe] = child
                yield path, message
    finally:
        for child in children:
            child.stop()


class _Child:
    """One measuring process and the pipe to it."""

    def __init__(self, context: mp.context.SpawnContext, readers: Sequence[str]) -> None:
        self.context, self.readers = context, tuple(readers)
        self._start()

    def _start(self) -> None:
        self.pipe, far = self.context.Pipe()
        self.process = self.context.Process(target=_serve, args=(far, self.readers), daemon=True)
        self.process.start()
        far.close()
        self.ready, self.since, self.path = False, time.monotonic(), Path()

    def give(self, path: Path) -> None:
        self.path, self.since = path, time.monotonic()
        self.pipe.send(path)

    def restart(self) -> None:
        self.stop()
        self._start()

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Connection, readers: Sequence[str]) -> None:
    import av
    import cv2

    av.logging.set_level(av.logging.PANIC)
    cv2.setNumThreads(1)
    os.environ["OPENCV_LOG_LEVEL"] = os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
    pipe.send("ready")
    try:
        while True:
            pipe.send(measure(pipe.recv(), readers=readers))
    except (EOFError, KeyboardInterrupt, BrokenPipeError):
        return


def _exact(path: Path, reader: str, counted: np.ndarray) -> bool:
    """Whether a reader returns the counted frames (N, THUMB, THUMB, 3), read through and after seeks."""
    n = len(counted)
    scattered = np.unique(np.linspace(0, n - 1, 12).round().astype(int))  # far apart: makes readers seek
    strided = [np.arange(start, n, step)[:16] for start in (n // 3, 2 * n // 3) for step in (1, 3)]
    late = np.arange(max(0, n - 9), n)  # the tail, where indexes run off first
    for indices in (scattered, *strided, late, np.arange(n)):
        try:
            at = 0
            for picture in READERS[reader](path, indices):
                if not _is_frame(_thumb(picture), counted, int(indices[at])):
                    return False
                at += 1
        except Exception:  # not for this file, whatever the reason
            return False
        if at < len(indices):
            return False
    return True


def _is_frame(picture: np.ndarray, counted: np.ndarray, index: int) -> bool:
    """Whether a picture is frame `index`: close to it, and no neighbour in time is closer.

    Readers convert colours with rounding of their own (up to 2 grey levels on common files), hence "close".
    """
    near = slice(max(0, index - 4), index + 5)
    distances = np.abs(counted[near] - picture[None]).mean(axis=(1, 2, 3))
    own = distances[index - near.start]
    return bool(own < 4.0 and own <= distances.min() + 0.02)


def _thumb(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (THUMB, THUMB, 3) float32 by nearest pixel: averaging would wash small motions out."""
    h, w = picture.shape[:2]
    rows, columns = (np.linspace(0, n - 1, THUMB).astype(int) for n in (h, w))
    return picture[rows[:, None], columns[None]].astype(np.float32)
