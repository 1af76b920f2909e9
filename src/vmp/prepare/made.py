"""Small files made from videos, in child processes: each one whole or not there, and never made twice.

Notable here:
- a file gets its name when it is finished and checked; what a killed child left is swept away by the next run;
- `.cuts.jsonl` in each folder says what its files were made from, so that a run that was killed goes on, and a file
  whose source, span or settings have changed is made again. A lock keeps a second process out of the folder;
- a disk that is full or cannot be written to ends everything at once: no other file would be spared.
"""

import errno
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

from filelock import FileLock, Timeout

from vmp.errors import DataError
from vmp.prepare.children import TIMEOUT, Lost, in_children
from vmp.prepare.measure import Measured
from vmp.prepare.plan import JOURNAL
from vmp.progress import bar

HALF = ".cutting"  # in the names of unfinished files, before the suffix
GAVE_UP = "making it was given up:"
_DISK = {
    *(errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS),
    *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.EIO),
}


class Task(Protocol):
    """A file to make."""

    @property
    def source(self) -> Path: ...

    @property
    def target(self) -> Path: ...


T = TypeVar("T", bound=Task)


class CannotWrite(Exception):
    """Trouble with the target's disk, which no other source would be spared."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def trouble(target: Path, error: Exception) -> Exception:
    """CannotWrite for what is the disk's fault, other errors as they are."""
    if getattr(error, "errno", None) in _DISK:
        return CannotWrite(f"{target}: {getattr(error, 'strerror', None) or error}")
    return error


def half_of(target: Path) -> Path:
    """Where to write what becomes `target`: hidden, of this process, absolute, and ending as the target does."""
    name = hashlib.sha256(target.name.encode()).hexdigest()[:16]  # the target's may be as long as names get
    return Path(os.path.abspath(target.with_name(f".{name}.{os.getpid()}{HALF}{target.suffix}")))


def make_all(
    tasks: Sequence[T],
    work: Callable[[tuple[T, ...]], Iterator[Any]],
    *,
    made: Callable[[T], list[Any]],
    title: str,
    file: Callable[[T, Measured], Path] = lambda task, found: task.target,
    workers: int | None = None,
    timeout: float = TIMEOUT,
    progress: bool = True,
) -> Iterator[tuple[T, Measured]]:
    """Make files, sources in parallel; yields what each holds as it is done, those done before first.

    Args:
        work: makes all files of a source, in a child; yields (task, Measured) for each, or CannotWrite.
        made: what a file is made from, beside its source: as long as that is the same, the file is not made again.
        title: of the progress bar.
        file: where a finished file lies, if not at its target.
        timeout: as of in_children.

    Raises:
        DataError: a folder cannot be written to, the disk is full.
    """
    with ExitStack() as stack:
        # in one order, so that no two processes wait in a ring
        journals = {
            folder: stack.enter_context(_Journal(folder, file))
            for folder in sorted({task.target.parent for task in tasks})
        }
        todo: dict[Path, list[T]] = defaultdict(list)
        done: list[tuple[T, Measured]] = []
        for task in tasks:
            before = journals[task.target.parent].find(task, made(task))
            if before:
                done.append((task, before))
            else:
                todo[task.source].append(task)
        shown = stack.enter_context(bar(title, len(tasks), done=len(done), shown=progress))
        yield from done
        jobs = [tuple(part) for part in todo.values()]
        left = {task for job in jobs for task in job}
        for job, item in in_children(work, jobs, timeout=timeout, workers=workers):
            if isinstance(item, CannotWrite):
                raise DataError(f"{item.reason}. Clips that are finished stay; the same command goes on.")
            if isinstance(item, Lost):
                lost = Measured("unreadable", f"{GAVE_UP} {item.reason}")
                results = [(task, lost) for task in job if task in left]
            else:
                results = [item]
            for task, found in results:
                left.discard(task)
                if not found.reason.startswith(GAVE_UP):
                    journals[task.target.parent].add(task, made(task), found)
                shown.advance()
                yield task, found


class _Journal:
    """`.cuts.jsonl` of a folder, held by one process at a time; the last line about a file counts."""

    def __init__(self, folder: Path, file: Callable[[Any, Measured], Path]) -> None:
        self.folder, self.file = folder, file
        self.known: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> "_Journal":
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.folder / ".cuts.lock")
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                print(f"{self.folder}: another process writes clips there; waiting for it", flush=True)
                self._lock.acquire()
            self._sweep()
            path = self.folder / JOURNAL
            text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
            for line in text.splitlines():
                try:
                    entry = json.loads(line)
                    self.known[entry["target"]] = entry
                except (ValueError, KeyError, TypeError):
                    continue
            with open(path, "a", encoding="utf-8") as log:
                if text and not text.endswith("\n"):  # a line cut short by a kill
                    log.write("\n")
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be written to ({error.strerror or error})") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._sweep()
        self._lock.release()

    def _sweep(self) -> None:
        """Remove what a killed child left; the lock says that nobody is writing it."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") and os.path.splitext(entry.name)[0].endswith(HALF):
                    os.unlink(entry.path)

    def find(self, task: Task, made: list[Any]) -> Measured | None:
        """What a task's file holds, if it was made by the same task and is as it was."""
        entry = self.known.get(task.target.name, {})
        try:
            found = Measured(**entry["measured"] | {"readers": tuple(entry["measured"]["readers"])})
        except (KeyError, TypeError):
            return None
        as_it_was = entry.get("made") == _from(task, made) and entry.get("bytes") == self._bytes(task, found)
        return found if as_it_was else None

    def add(self, task: Task, made: list[Any], found: Measured) -> None:
        if found.status not in ("ok", "partial"):
            return
        entry = {"target": task.target.name, "made": _from(task, made), "bytes": self._bytes(task, found)}
        with open(self.folder / JOURNAL, "a", encoding="utf-8") as log:
            log.write(json.dumps(entry | {"measured": asdict(found)}) + "\n")

    def _bytes(self, task: Task, found: Measured) -> int:
        try:
            return os.stat(self.file(task, found)).st_size
        except OSError as error:
            return 0 if error.errno == errno.ENOENT else -1


def _from(task: Task, made: list[Any]) -> list[Any]:
    try:
        info = os.stat(task.source)
        stamp = [info.st_size, info.st_mtime_ns]
    except OSError:
        stamp = [-1, -1]
    return [task.source.name, *stamp, *made]
