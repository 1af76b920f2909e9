"""The clips of a manifest by columns: arrays and long texts in place of a million objects, kept beside large CSVs.

Notes:
- `Clips` looks like a tuple of `Clip`; each is made when it is asked for. A part of it shares the columns;
- a manifest of many rows is read and checked once. Its columns are then kept in a hidden folder beside it, with the
  CSV's SHA-256, and mapped into memory, which all processes of a machine share. A CSV that was changed is read again.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np

STATUSES = ("ok", "missing", "unreadable", "partial")  # partial: decoding stopped before the end
KEEP_FROM = 20_000  # rows of a manifest whose columns are kept
VERSION = 1
_NUMBERS = np.dtype(
    [
        *((name, np.int64) for name in ("start", "end", "frames")),  # end: -1 for the file's end
        ("fps", np.float64),
        *((name, np.int32) for name in ("label", "width", "height")),
        *((name, np.uint8) for name in ("status", "readers")),  # numbers in STATUSES and in Columns.readers
    ]
)
_END = "\0"  # of each text; no manifest holds it


@dataclass(frozen=True, slots=True)
class Clip:
    id: str
    path: str  # relative to the dataset root, forward slashes
    label: int
    start: int = 0
    end: int | None = None  # None: to the file's end
    frames: int = 0  # of the file, counted; 0: not measured
    fps: float = 0.0
    width: int = 0
    height: int = 0
    status: str = "ok"
    readers: tuple[str, ...] = ()
    times: str = ""  # of the clip's frames, where they are not evenly spaced
    tags: dict[str, str] = field(default_factory=dict)  # any further columns

    @property
    def length(self) -> int:
        """Frames in the clip."""
        end = self.frames if self.end is None else min(self.end, self.frames)
        return end - self.start


@dataclass(frozen=True, slots=True)
class Texts:
    """A column of texts. blob: all in UTF-8, each with _END behind it. ends: (N + 1,), the first one 0."""

    blob: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Texts":
        coded = [text.encode() for text in texts]
        ends = np.zeros(len(coded) + 1, np.int64)
        np.cumsum([len(text) + 1 for text in coded], out=ends[1:])
        blob = b"".join(part for text in coded for part in (text, _END.encode()))
        return cls(np.frombuffer(blob, np.uint8), ends)

    def __getitem__(self, index: int) -> str:
        return self.blob[self.ends[index] : self.ends[index + 1] - 1].tobytes().decode()

    def all(self) -> list[str]:
        return self.blob.tobytes().decode().split(_END)[:-1]


@dataclass(frozen=True, slots=True)
class Columns:
    """numbers: (N,), of _NUMBERS. readers: what the numbers of that column mean. texts: id, path and, where some clip
    has them, times; tags likewise."""

    numbers: np.ndarray
    readers: tuple[tuple[str, ...], ...]
    texts: dict[str, Texts]
    tags: dict[str, Texts]

    def clip(self, index: int) -> Clip:
        start, end, frames, fps, label, width, height, status, readers = self.numbers[index].item()
        times = self.texts.get("times")
        tags = {name: cell for name, column in self.tags.items() if (cell := column[index])}
        return Clip(
            self.texts["id"][index],
            self.texts["path"][index],
            label,
            start,
            None if end < 0 else end,
            frames,
            fps,
            width,
            height,
            STATUSES[status],
            self.readers[readers],
            times[index] if times else "",
            tags,
        )


class Clips(Sequence[Clip]):
    """Clips of a manifest, in order. at: rows of the columns; None: all of them."""

    def __init__(self, columns: Columns, at: np.ndarray | None = None) -> None:
        self.columns, self.at = columns, at

    @classmethod
    def of(cls, clips: Iterable[Clip]) -> "Clips":
        """The same clips by columns."""
        if isinstance(clips, Clips):
            return clips
        clips = tuple(clips)
        numbers = np.zeros(len(clips), _NUMBERS)
        readers: dict[tuple[str, ...], int] = {}
        for row, c in enumerate(clips):
            end = -1 if c.end is None else c.end
            known = readers.setdefault(c.readers, len(readers))
            status = STATUSES.index(c.status)
            numbers[row] = (c.start, end, c.frames, c.fps, c.label, c.width, c.height, status, known)
        texts = {name: Texts.of([getattr(c, name) for c in clips]) for name in ("id", "path")}
        if any(c.times for c in clips):
            texts["times"] = Texts.of([c.times for c in clips])
        names = dict.fromkeys(name for c in clips for name in c.tags)
        tags = {name: Texts.of([c.tags.get(name, "") for c in clips]) for name in names}
        return cls(Columns(numbers, tuple(readers), texts, tags))

    def __len__(self) -> int:
        return len(self.columns.numbers if self.at is None else self.at)

    @overload
    def __getitem__(self, index: int) -> Clip: ...

    @overload
    def __getitem__(self, index: slice) -> "Clips": ...

    def __getitem__(self, index: int | slice) -> "Clip | Clips":
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self.columns.clip(index if self.at is None else int(self.at[index]))

    def __iter__(self) -> Iterator[Clip]:
        return map(self.columns.clip, range(len(self)) if self.at is None else self.at.tolist())

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def take(self, at: np.ndarray) -> "Clips":
        """The clips at these positions."""
        return Clips(self.columns, at if self.at is None else self.at[at])

    def numbers(self, name: str) -> np.ndarray:
        """A column of numbers, as the dtype _NUMBERS names them."""
        column = self.columns.numbers[name]
        return column if self.at is None else column[self.at]

    def lengths(self) -> np.ndarray:
        """(N,), frames in each clip."""
        start, end, frames = (self.numbers(name) for name in ("start", "end", "frames"))
        return np.where(end < 0, frames, np.minimum(end, frames)) - start

    def texts(self, name: str) -> list[str]:
        """`id`, `path` or `times` of each clip."""
        column = self.columns.texts.get(name)
        if column is None:
            return [""] * len(self)
        every = column.all()
        return every if self.at is None else [every[row] for row in self.at.tolist()]


# --- columns beside a manifest ---------------------------------------------------------------------------------------


def digest_of(*files: Path) -> str:
    """SHA-256 of what the files hold."""
    total = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def read_kept(path: Path, digest: str) -> Clips | None:
    """The kept columns of a manifest; None if there are none, or they are of another version of it."""
    folder = _folder(path)
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        if (about["version"], about["digest"]) != (VERSION, digest):
            return None
        texts, tags = (
            {
                name: Texts(*(_map(folder / f"{kind}{number}.{part}.npy") for part in ("blob", "ends")))
                for number, name in enumerate(about[kind])
            }
            for kind in ("texts", "tags")
        )
        readers = tuple(tuple(names) for names in about["readers"])
        return Clips(Columns(_map(folder / "numbers.npy"), readers, texts, tags))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(clips: Clips, path: Path, digest: str) -> None:
    """Write the columns beside a manifest, all or nothing; where that is impossible, it is read anew each time."""
    columns, folder = clips.columns, _folder(path)
    temporary = folder.with_name(f"{folder.name}.{digest[:8]}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        np.save(temporary / "numbers.npy", columns.numbers)
        for kind, found in (("texts", columns.texts), ("tags", columns.tags)):
            for number, column in enumerate(found.values()):
                np.save(temporary / f"{kind}{number}.blob.npy", column.blob)
                np.save(temporary / f"{kind}{number}.ends.npy", column.ends)
        about = {
            "version": VERSION,
            "digest": digest,
            "readers": columns.readers,
            "texts": list(columns.texts),
            "tags": list(columns.tags),
        }
        (temporary / "about.json").write_text(json.dumps(about), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)


def _folder(path: Path) -> Path:
    return path.with_name(f".{path.stem}.columns")


def _map(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)
