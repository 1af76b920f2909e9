"""Jobs in child processes that can be killed: a damaged file may crash or hang a decoder.

Notes:
- a job is a generator function; what it yields reaches the parent at once, over a pipe from each child;
- a child that dies, or makes no progress, is replaced, and its job ends with a `Lost`. What counts is not
  how long a job takes but how long no step of it is finished: jobs call `step`, and a step may use `timeout` seconds of
  CPU time, or of sleep. Time spent waiting for a CPU that others use does not count;
- children are spawned, ignore Ctrl-C, which the parent handles, and end when their parent does;
- they do not import the parent's main module: a user's script without `if __name__ == "__main__"` would run again.
"""

import contextlib
import multiprocessing as mp
import os
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any, TypedDict, TypeVar

from vmp.machine import cpus, end_with_parent

TIMEOUT = 300.0  # seconds without progress
ASLEEP = 0.01  # share of time on a CPU below which a process sleeps
OFTEN = 0.1  # seconds between reports
Job = TypeVar("Job")


class Work(TypedDict, total=False):
    """How jobs are run: what functions that run them take as keywords, each with a default."""

    workers: int | None  # processes; None: one per CPU that this process may use
    timeout: float  # seconds without progress before a process counts as hung; 0: never
    progress: bool  # show a bar


@dataclass(frozen=True, slots=True)
class Lost:
    """The result of a job that failed, or whose process died or hung."""

    reason: str


class _Reports:
    """What a child reports to its parent."""

    pipe: Connection | None = None  # outside a child there is none
    needs = 0.0  # CPU seconds that a step of this job may take, where that is more than the timeout
    last = 0.0  # when the last report was sent


def step(needs: float | None = None) -> None:
    """Report that a job makes progress; outside a child this does nothing.

    `needs`: CPU seconds that each later step of this job may take, where that is more than the timeout.
    """
    if needs is not None:
        _Reports.needs = needs
    elif time.monotonic() - _Reports.last <= OFTEN:
        return
    _Reports.last = time.monotonic()
    if _Reports.pipe is not None:
        with contextlib.suppress(OSError):  # the pipe is full: a further report would say nothing new
            os.write(_Reports.pipe.fileno(), struct.pack("d", _Reports.needs))


class _End:
    """Ends the results of a job."""


def in_children(
    work: Callable[[Job], Iterator[Any]],
    jobs: Iterable[Job],
    *,
    timeout: float = TIMEOUT,
    workers: int | None = None,
) -> Iterator[tuple[Job, Any]]:
    """Run a generator function over jobs in parallel; yields (job, item) as items come.

    A job that raises, or whose process dies or hangs, ends with a `Lost`, and a new process takes over. All processes
    are killed when the caller stops, and end when their parent is killed. `work` is a function of a module, or a
    partial of one, since it is sent to the children by name; `timeout` and `workers` are those of Work.
    """
    queue = list(jobs)[::-1]
    children: list[_Child] = []
    try:
        for _ in range(min(max(1, workers or cpus()), len(queue))):
            children.append(_Child(work))
            children[-1].give(queue.pop())
        busy = list(children)
        while busy:
            ready = wait([child.pipe for child in busy], timeout=0.5)
            for child in list(busy):
                job, message = child.job, None
                if child.pipe in ready:
                    try:
                        message = child.pipe.recv()
                    except (EOFError, OSError):
                        if not child.ready:
                            raise RuntimeError("a child process could not start") from None
                        message = Lost("the decoder crashed")
                        child.restart()
                    if message == "ready":  # imports are done: the clocks start
                        child.ready = True
                        child.restart_clock()
                        continue
                elif child.ready and timeout and (why := child.why_hung(timeout)):
                    message = Lost(why)
                    child.restart()
                else:
                    continue
                if isinstance(message, Lost | _End):
                    if queue:
                        child.give(queue.pop())
                    else:
                        busy.remove(child)
                if not isinstance(message, _End):
                    yield job, message
    finally:
        for child in children:
            child.stop()


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Show multiprocessing an empty main module, which it does not have a spawned process import."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class _Child:
    """One process and the pipe to it."""

    def __init__(self, work: Callable[[Any], Iterator[Any]]) -> None:
        self.work = work
        self._start()

    def _start(self) -> None:
        context = mp.get_context("spawn")
        self.pipe, far = context.Pipe()
        self.reports, report = context.Pipe(duplex=False)
        os.set_blocking(self.reports.fileno(), False)
        self.process = context.Process(target=_serve, args=(far, report, self.work), daemon=True)
        with _without_main():
            self.process.start()
        far.close()
        report.close()
        self.ready, self.needs = False, 0.0
        self.job: Any = None
        self.restart_clock()

    def give(self, job: Any) -> None:
        self.has_reported()  # empties the pipe of the job before
        self.job, self.needs = job, 0.0
        self.restart_clock()
        self.pipe.send(job)

    def restart_clock(self) -> None:
        self.since, self.used = time.monotonic(), self._cpu_seconds()

    def has_reported(self) -> bool:
        """Whether a step was finished since the last call."""
        with contextlib.suppress(OSError):
            if data := os.read(self.reports.fileno(), 2**16):
                [self.needs] = struct.unpack("d", data[-8:])
                return True
        return False

    def why_hung(self, timeout: float) -> str:
        """Why the process counts as hung, or nothing."""
        if self.has_reported():
            self.restart_clock()
            return ""
        waited, limit = time.monotonic() - self.since, max(timeout, self.needs)
        if waited <= timeout:
            return ""
        used = waited if self.used is None else (self._cpu_seconds() or 0.0) - self.used
        if used > limit or used < ASLEEP * waited:
            return f"it made no progress for {waited:.0f} s ({used:.0f} s of them on a CPU)"
        return ""

    def _cpu_seconds(self) -> float | None:
        """CPU time of all threads; None where the system does not tell."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open(f"/proc/{self.process.pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return None

    def restart(self) -> None:
        self.stop()
        self._start()

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()
        self.reports.close()


def _serve(pipe: Connection, reports: Connection, work: Callable[[Any], Iterator[Any]]) -> None:
    _Reports.pipe = reports
    os.set_blocking(reports.fileno(), False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends its children
    end_with_parent()
    os.environ["OPENCV_LOG_LEVEL"] = os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
    import av
    import cv2

    av.logging.set_level(av.logging.PANIC)
    cv2.setNumThreads(1)
    pipe.send("ready")
    try:
        while True:
            job = pipe.recv()
            _Reports.needs = 0.0
            try:
                for item in work(job):
                    pipe.send(item)
                pipe.send(_End())
            except BrokenPipeError:
                return
            except Exception as error:
                pipe.send(Lost(f"{type(error).__name__}: {error}"))
    except (EOFError, BrokenPipeError):
        return
