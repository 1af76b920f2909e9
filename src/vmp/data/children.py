"""Jobs in child processes that can be killed: a damaged file may crash or hang a decoder.

Notable here:
- a job is a generator function; what it yields comes to the parent as it is made, over a pipe to each child;
- a child that dies, or takes longer than its job may, is replaced, and its job ends with a `Lost`;
- children are spawned, ignore Ctrl-C, which goes to the parent, and end when their parent does.
"""

import multiprocessing as mp
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

Job = TypeVar("Job")


@dataclass(frozen=True, slots=True)
class Lost:
    """What came of a job that failed, or whose process died or took too long."""

    reason: str


@dataclass(frozen=True, slots=True)
class Limit:
    """A job may yield this to set its own time limit, counted from its start; nobody else sees it."""

    seconds: float


class _End:
    pass


def in_children(
    work: Callable[[Job], Iterator[Any]],
    jobs: Iterable[Job],
    *,
    limit: Callable[[Job], float],
    workers: int | None = None,
) -> Iterator[tuple[Job, Any]]:
    """Run a generator function over jobs in parallel; yields (job, item) as items come.

    A job whose process dies, raises, or takes longer than limit(job) seconds ends with a `Lost`; the process is
    replaced. All processes are killed when the caller stops, and end when their parent is killed.

    Args:
        work: a function of a module, or a partial of one: it is sent to the children by name.
    """
    context = mp.get_context("spawn")
    queue = list(jobs)[::-1]
    number = max(1, min(workers or os.cpu_count() or 1, len(queue)))
    children: list[_Child] = []
    busy: dict[Connection, _Child] = {}
    try:
        for _ in range(number if queue else 0):
            children.append(_Child(context, work))
            children[-1].give(queue.pop(), limit)
            busy[children[-1].pipe] = children[-1]
        while busy:
            ready = wait(list(busy), timeout=0.5)
            for pipe, child in list(busy.items()):
                job, message = child.job, None
                if pipe in ready:
                    try:
                        message = child.pipe.recv()
                    except (EOFError, OSError):
                        if not child.ready:
                            raise RuntimeError("a child process could not start") from None
                        message = Lost("the decoder crashed")
                        child.restart()
                    if message == "ready":  # imports are done: the clock starts
                        child.ready, child.since = True, time.monotonic()
                        continue
                    if isinstance(message, Limit):
                        child.limit = message.seconds
                        continue
                elif child.ready and time.monotonic() - child.since > child.limit:
                    message = Lost(f"it took longer than {child.limit:.0f} s")
                    child.restart()
                else:
                    continue
                if isinstance(message, Lost | _End):
                    del busy[pipe]
                    if queue:
                        child.give(queue.pop(), limit)
                        busy[child.pipe] = child
                if not isinstance(message, _End):
                    yield job, message
    finally:
        for child in children:
            child.stop()


class _Child:
    """One process and the pipe to it."""

    def __init__(self, context: mp.context.SpawnContext, work: Callable[[Any], Iterator[Any]]) -> None:
        self.context, self.work = context, work
        self._start()

    def _start(self) -> None:
        self.pipe, far = self.context.Pipe()
        self.process = self.context.Process(target=_serve, args=(far, self.work), daemon=True)
        self.process.start()
        far.close()
        self.ready, self.since, self.limit = False, time.monotonic(), 0.0
        self.job: Any = None

    def give(self, job: Any, limit: Callable[[Any], float]) -> None:
        self.job, self.since, self.limit = job, time.monotonic(), limit(job)
        self.pipe.send(job)

    def restart(self) -> None:
        self.stop()
        self._start()

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Connection, work: Callable[[Any], Iterator[Any]]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends its children
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["OPENCV_LOG_LEVEL"] = os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
    import av
    import cv2

    av.logging.set_level(av.logging.PANIC)
    cv2.setNumThreads(1)
    pipe.send("ready")
    try:
        while True:
            job = pipe.recv()
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


def _end_with_parent() -> None:
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
