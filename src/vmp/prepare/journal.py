"""Small files made from videos, in child processes: each is whole or does not exist, and is made once.

Notes:
- a file gets its name when it is finished and checked; what a killed child left is removed by the next run;
- `.cuts.jsonl` in each folder says what its files were made from, so that a run that was killed continues, and a file
  whose source, span or settings have changed is made again. A lock keeps a second process out of the folder;
- a disk that is full or cannot be written to ends everything at once, since no other file would fare better.
"""

import errno
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from vmp.data.times import Clock
from vmp.errors import DataError
from vmp.files import stamp, wait_for_lock
from vmp.prepare.children import TIMEOUT, Lost, in_children
from vmp.prepare.measure import UNTRIED, Measured, append_record, read_records
from vmp.prepare.plan import Span
from vmp.prepare.videos import JOURNAL
from vmp.progress import bar

UNFINISHED = ".cutting"  # in the names of unfinished files, before the suffix
KEPT = "kept as it is: "  # the reason of a remuxed clip that stays the original begins with it
GAVE_UP = "making it was given up:"
_DISK = {
    *(errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS),
    *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.EIO),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CutClip(Span):
    """A file to be made from a span of a source, by default in frames in counted decoder order."""

    unit: Literal["file", "frames", "seconds"] = "frames"
    source: Path
    target: Path  # .mp4
    clock: Clock = "file"  # what seconds count from

    def file(self, found: Measured) -> Path:
        """Where the finished file lies: what stays the original keeps its suffix."""
        return self.target.with_suffix(self.source.suffix) if found.reason.startswith(KEPT) else self.target


class DiskError(Exception):
    """Trouble with the target's disk, which any other source would meet as well."""


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Raise a DiskError in place of an error for which the target's disk is at fault."""
    try:
        yield
    except Exception as error:  # OSError or av.FFmpegError
        if getattr(error, "errno", None) in _DISK:
            raise DiskError(f"{target}: {getattr(error, 'strerror', None) or error}") from error
        raise


def unfinished_name(target: Path) -> Path:
    """Where to write what becomes `target`: hidden, of this process, absolute, and with the target's suffix."""
    name = hashlib.sha256(target.name.encode()).hexdigest()[:16]  # the target's may be as long as names get
    return Path(os.path.abspath(target.with_name(f".{name}.{os.getpid()}{UNFINISHED}{target.suffix}")))


def make_files(
    tasks: Sequence[CutClip],
    work: Callable[[tuple[CutClip, ...]], Iterator[Any]],
    *,
    recipe: Callable[[CutClip], list[Any]],
    title: str,
    workers: int | None = None,
    timeout: float = TIMEOUT,
    progress: bool = True,
) -> Iterator[tuple[CutClip, Measured]]:
    """Make files, sources in parallel; yields what each holds as it is done, earlier finished ones first.

    DataError: a folder cannot be written to, or the disk is full.

    Args:
        work: makes all files of a source, in a child; yields (task, Measured) for each, or a DiskError. A file that is
            whole may come first without readers: should the child be lost while it tries them, pyav reads the file.
        recipe: what a file is made from beside its source: a file is made again when that changes.
    """
    with ExitStack() as stack:
        journals = {  # opened in one order, so that no two processes wait for each other
            folder: stack.enter_context(_Journal(folder))
            for folder in sorted({task.target.parent for task in tasks})
        }
        # from before the sources are read, so that files of one that changes meanwhile are made again
        origins = {task: _origin(task, recipe(task)) for task in tasks}
        earlier = {
            task: found for task in tasks if (found := journals[task.target.parent].find(task, origins[task]))
        }
        finished = set(earlier)
        shown = stack.enter_context(bar(title, len(tasks), done=len(finished), shown=progress))
        yield from earlier.items()
        todo = [task for task in tasks if task not in earlier]
        try:
            for task, found in _make(todo, work, workers=workers, timeout=timeout):
                if task not in finished:  # a task may have a second result
                    finished.add(task)
                    shown.advance()
                if not found.reason.startswith(GAVE_UP):
                    journals[task.target.parent].add(task, origins[task], found)
                yield task, found
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{len(finished)} of {len(tasks)} clips are finished and stay; the same command continues"
            ) from None


def _make(
    tasks: Sequence[CutClip],
    work: Callable[[tuple[CutClip, ...]], Iterator[Any]],
    *,
    workers: int | None,
    timeout: float,
) -> Iterator[tuple[CutClip, Measured]]:
    """Make files in child processes, one job for each source; where a child is lost, those not whole are given up."""
    by_source: dict[Path, list[CutClip]] = defaultdict(list)
    for task in tasks:
        by_source[task.source].append(task)
    left = set(tasks)
    whole: dict[CutClip, Measured] = {}  # whose readers are being tried
    for job, item in in_children(work, map(tuple, by_source.values()), timeout=timeout, workers=workers):
        if isinstance(item, DiskError):
            raise DataError(f"{item}. Clips that are finished stay; the same command continues.")
        if isinstance(item, Lost):
            given_up = Measured("unreadable", f"{GAVE_UP} {item.reason}")
            for task in job:
                if task in whole:
                    found = whole.pop(task)
                    reason = f"{found.reason}{UNTRIED} {item.reason}"
                    yield task, replace(found, reason=reason, readers=("pyav",))
                elif task in left:
                    yield task, given_up
        else:
            task, found = item
            left.discard(task)
            if found.status == "ok" and not found.readers:
                whole[task] = found
            else:
                whole.pop(task, None)
                yield task, found


class _Journal:
    """`.cuts.jsonl` of a folder, held by one process at a time; the last line about a file counts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> "_Journal":
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            waiting = f"{self.folder}: another process writes clips there; waiting for it"
            self._lock = wait_for_lock(self.folder / ".cuts.lock", waiting)
            self._remove_unfinished()
            entries = read_records(self.folder / JOURNAL)
            self.known = {entry["target"]: entry for entry in entries if isinstance(entry.get("target"), str)}
            open(self.folder / JOURNAL, "a").close()  # fails here if it cannot be written to
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be written to ({error.strerror or error})") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._remove_unfinished()
        self._lock.lock.release()

    def _remove_unfinished(self) -> None:
        """Remove what a killed child left; while the lock is held, nobody is writing it."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") and os.path.splitext(entry.name)[0].endswith(UNFINISHED):
                    os.unlink(entry.path)

    def find(self, task: CutClip, origin: list[Any]) -> Measured | None:
        """What a task's file holds, if it was made from the same source by the same recipe, and has not changed."""
        entry = self.known.get(task.target.name, {})
        try:
            found = Measured.from_json(entry["measured"])
        except (KeyError, TypeError):
            return None
        same = entry.get("made") == origin and entry.get("bytes") == _bytes(task, found)
        return found if same else None

    def add(self, task: CutClip, origin: list[Any], found: Measured) -> None:
        if found.status in ("ok", "partial"):
            entry: dict[str, Any] = {"target": task.target.name, "made": origin}
            entry |= {"bytes": _bytes(task, found), "measured": asdict(found)}
            append_record(self.folder / JOURNAL, entry)


def _bytes(task: CutClip, found: Measured) -> int:
    try:
        return os.stat(task.file(found)).st_size
    except OSError as error:
        return 0 if error.errno == errno.ENOENT else -1


def _origin(task: CutClip, recipe: list[Any]) -> list[Any]:
    """What a file is made from: name, size and time of its source, and the recipe."""
    return [task.source.name, *stamp(task.source), *recipe]
