"""What a dataset's annotations say, before any video is opened: items with their spans, classes and checks.

Class ids come from the lists in classes/, never from a directory listing or the order of annotation files.
"""

import filecmp
import os
import re
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vmp.data.manifest import RECORD, read_annotation
from vmp.data.times import CLOSE, Clock, Timeline
from vmp.errors import ConfigError

TOLERANCE = 1.0  # seconds that a span may reach beyond its video, with which it then ends


class Check(NamedTuple):
    """A statement that holds for a complete copy of the dataset."""

    name: str
    expected: str
    found: str
    ok: bool

    def __str__(self) -> str:
        result = self.found if self.ok else f"{self.expected} expected, {self.found} found"
        return f"{'ok' if self.ok else 'FAILED':8}{self.name}: {result}"


def check_equal(name: str, expected: int | str, found: int | str) -> Check:
    wanted, there = (f"{value:,}" if isinstance(value, int) else value for value in (expected, found))
    return Check(name, wanted, there, expected == found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """[start, end) of a video, in frames counted from 0 or in seconds; end None: to the end of the file."""

    start: float = 0
    end: float | None = None
    unit: Literal["file", "frames", "seconds"] = "file"  # file: all of it

    def frames_in(self, times: Timeline, clock: Clock = "file") -> tuple[int, int | None]:
        """The frames [start, end) of a video with these times; end None: to the end."""
        if self.unit == "seconds":
            start, end = times.span(self.start, self.end, clock=clock)
            return start, None if self.end is None else end
        return int(self.start), None if self.end is None else int(self.end)

    def excess(self, times: Timeline, clock: Clock = "file") -> str:
        """How the span does not lie in a video with these times; empty where it does, or ends up to TOLERANCE late."""
        if self.unit == "seconds":
            first, last = times.seconds(clock)[0], times.end(clock)
            late = self.end is not None and self.end > last + TOLERANCE
            if late or self.start >= last or (self.end is not None and self.end <= first + CLOSE):
                return f"{self} s of a video whose frames are shown from {first:.2f} to {last:.2f} s"
        elif self.unit == "frames":
            late = self.end is not None and self.end > times.frames + tolerance_in_frames(times.rate)
            if late or self.start >= times.frames:
                return f"frames {self} of a video that has {times.frames}"
        return ""

    def __str__(self) -> str:
        return f"{self.start:g} to {'the end' if self.end is None else f'{self.end:g}'}"


def tolerance_in_frames(rate: float) -> float:
    return max(1.0, TOLERANCE * rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item(Span):
    """A clip as annotated."""

    id: str  # unique in its split; a relative path without suffix once the clip is a file of its own
    path: str  # relative to the videos' root; of a missing file, where it should be
    label: int
    tags: dict[str, str] = field(default_factory=dict)
    problem: str = ""  # why it cannot be used, even if its file exists
    fps: float = 0.0  # of this frame folder; 0: as the plan says


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetPlan:
    """What the manifests of a dataset are to hold."""

    name: str
    classes: tuple[str, ...]
    splits: dict[str, tuple[Item, ...]]  # "test", or "split1/test": path of the manifest without its suffix
    videos: Path
    clock: Clock = "file"  # what spans in seconds count from
    fps: float = 0.0  # of frame folders, which do not say it, nor does their item; 0: not known
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)  # of the command, for prepare.json
    tables: dict[str, list[list[str]]] = field(default_factory=dict)  # further CSV files: path -> rows

    @property
    def items(self) -> list[Item]:
        return [item for part in self.splits.values() for item in part]


def shipped_classes(name: str) -> tuple[str, ...]:
    """The class names of hmdb51, gym99 or mpii_cooking2, in the order of their ids."""
    text = files("vmp.prepare").joinpath("classes", f"{name}.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of an annotation file that are not blank, stripped, with their numbers."""
    lines = ((number, line.strip()) for number, line in enumerate(read_annotation(path).split("\n"), 1))
    return [(number, line) for number, line in lines if line]


def first_of(folder: Path, names: tuple[str, ...], *, pattern: str = "") -> Path | None:
    """The first of these names that is found in a folder, at any depth, or else one that fits a pattern.

    Manifests that were prepared there are passed over. Raises ConfigError where files of that name differ.
    """
    there: dict[str, list[Path]] = {}
    for inner, _, held in os.walk(folder):
        ours = {"train.csv", "val.csv", "test.csv"} if RECORD in held else set()
        for name in set(held) - ours:
            there.setdefault(name, []).append(Path(inner) / name)
    fits = [*names, *(name for name in sorted(there) if pattern and re.fullmatch(pattern, name))]
    found = sorted(next((there[name] for name in fits if name in there), []))
    if other := next((path for path in found[1:] if not filecmp.cmp(found[0], path, shallow=False)), None):
        raise ConfigError(
            f"{folder}: holds {found[0]} and {other}, which differ; name the folder of one of them"
        )
    return next(iter(found), None)
