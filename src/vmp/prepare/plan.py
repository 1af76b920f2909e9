"""What a dataset's annotations ask for, before any video is opened: items, classes, checks; and where videos are.

Notable here:
- class ids come from lists that are shipped, never from a directory listing or the order of annotation files;
- videos are found by stem, in any depth and with any suffix of a video.
"""

import os
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vmp.data.manifest import read_text
from vmp.data.times import Clock
from vmp.errors import ConfigError

SUFFIXES = (  # preferred first
    *(".avi", ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv"),
    *(".ts", ".mts", ".flv", ".ogv", ".ogg", ".3gp", ".vob", ".gif"),
)
JOURNAL = ".cuts.jsonl"  # in folders of clips that were made from other videos


class Check(NamedTuple):
    """Something that a complete copy of the dataset fulfils."""

    name: str
    expected: str
    found: str
    ok: bool

    def __str__(self) -> str:
        said = self.found if self.ok else f"{self.expected} expected, {self.found} found"
        return f"{'ok' if self.ok else 'FAILED':8}{self.name}: {said}"


def equal(name: str, expected: int | str, found: int | str) -> Check:
    return Check(name, _said(expected), _said(found), expected == found)


def _said(value: int | str) -> str:
    return f"{value:,}" if isinstance(value, int) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A clip as annotated. start, end: half-open, frames from 0 or seconds; None: to the end of the file."""

    id: str  # unique in its split; a relative path without suffix once the clip is a file of its own
    path: str  # relative to the videos' root; where the file is not there, where it was looked for
    label: int
    start: float = 0
    end: float | None = None
    unit: Literal["file", "frames", "seconds"] = "file"
    tags: dict[str, str] = field(default_factory=dict)
    problem: str = ""  # why it cannot be used whether or not its file is there


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the manifests are to hold."""

    name: str
    classes: tuple[str, ...]
    splits: dict[str, tuple[Item, ...]]  # "test", or "split1/test": path of the manifest, less its suffix
    videos: Path
    clock: Clock = "file"  # what spans in seconds count from
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)  # what was asked for, for prepare.json

    @property
    def items(self) -> list[Item]:
        return [item for part in self.splits.values() for item in part]


def shipped_classes(name: str) -> tuple[str, ...]:
    """The class names of hmdb51, gym99 or mpii_cooking2 in order of their ids."""
    text = files("vmp.prepare").joinpath("classes", f"{name}.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def read_lines(path: Path) -> list[str]:
    """Lines of an annotation file without blanks around them; blank lines stay, so that numbers fit.

    Raises:
        ManifestError: not there, not UTF-8, or not text.
    """
    return [line.strip() for line in read_text(path).split("\n")]


def find_videos(root: Path) -> dict[str, list[str]]:
    """Stem -> paths relative to root of the video files under it, in the order of SUFFIXES.

    Clips that were made here from other videos come last: --videos may be a folder that --out is in.

    Raises:
        ConfigError: no such folder.
    """
    if not root.is_dir():
        raise ConfigError(f"--videos {root}: no such folder; it should hold the videos, in any depth")
    found: dict[str, list[tuple[bool, int, str]]] = {}
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inner, ours = os.path.relpath(folder, root), JOURNAL in names
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in SUFFIXES:
                path = (name if inner == "." else f"{inner}/{name}").replace(os.sep, "/")
                found.setdefault(stem, []).append((ours, SUFFIXES.index(suffix.lower()), path))
    return {stem: [path for _, _, path in sorted(entries)] for stem, entries in found.items()}


def pick(found: dict[str, list[str]], stem: str, otherwise: str, *, folder: str = "") -> str:
    """The video of a stem, in a folder of that name if there is one there; `otherwise` when there is none."""
    paths = found.get(stem, [])
    return next(
        (p for p in paths if folder and folder in p.split("/")[:-1]), paths[0] if paths else otherwise
    )
