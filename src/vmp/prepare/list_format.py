"""The text of a list of videos, in the formats of common tools, read into rows.

Two formats are read. Cells are separated by commas, semicolons or tabs, and may be quoted as in a CSV:
- with a header: columns for the path (or an id), the label, and a span, under the names in PATHS, IDS, LABELS, SECONDS
  and FRAMES, in any order and case. `split` picks rows where it differs; columns that say nothing of the clip are
  ignored;
- without a header: `path label`, where blanks separate too and the label is a number, so that paths may hold blanks;
  `path frames label`, as in the frame lists of mmaction2; or `path,class name`.

What can be read in two ways is refused. locate.py finds the file that a path or an id means.
"""

import csv
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vmp.choices import MOST_FPS
from vmp.data.manifest import NUMBER, raise_faults, read_csv
from vmp.errors import ManifestError
from vmp.formats import finite
from vmp.invocation import command_line
from vmp.prepare.plan import Item, read_lines
from vmp.prepare.videos import VIDEO

# names of columns, lower case, with _ for blanks; beside a path, ids and names are ignored
PATHS = (
    *("path", "video_path", "file_path", "filepath", "videopath", "clip_path", "file", "video_file"),
    *("filename", "file_name", "video", "video_name", "videoname", "clip", "clip_name"),
)
IDS = ("youtube_id", "video_id", "ytid", "id")  # of a video whose file's name is the id or contains it
LABELS = (
    *("label", "class", "category", "action", "activity", "target", "classname"),
    *("class_name", "label_name", "action_name", "class_id", "label_id", "class_index", "label_index"),
)
SECONDS = (
    *(("start", "end"), ("time_start", "time_end"), ("start_time", "end_time"), ("start_sec", "end_sec")),
    *(("start_seconds", "end_seconds"), ("start_s", "end_s")),
)
FRAMES = (("start_frame", "end_frame"),)
SPLIT = ("split", "subset")
GROUP = ("group",)  # clips that must not be parted, as of one person or recording
FPS = ("fps",)  # of a frame folder, which does not say it; videos do
NO_RATE = ("", "-", "?", "0/0", "n/a", "na", "nan", "none", "unknown")  # in lower case
IGNORED = (
    *("is_cc", "duration", "width", "height", "index", "unnamed:_0", ""),  # "": the index of pandas
    *("frames", "num_frames", "n_frames", "total_frames", "frame_count"),
)
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validate", "validation"),
    "test": ("test", "testing"),
}
UNUSED = "unused"  # of a clip in no split, in the column `split`
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
WANTED = (
    "a header with columns such as path,label or path,label,start,end (seconds) or path,label,start_frame,end_frame or "
    "label,youtube_id,time_start,time_end, or no header and lines `path label`; separated by commas, semicolons or tabs"
)
NUMERIC = re.compile(r"[0-9]{1,18}")
_LINE = re.compile(r'(?P<path>"(?:[^"]|"")*"|\S.*?)[ \t,;]+(?P<quote>"?)(?P<label>[+-]?[0-9]+)(?P=quote)')
_OFFICIAL_HMDB = re.compile(r".*_test_split[123]\.txt")


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a list."""

    where: str  # file:line
    path: str  # as written; once it is located, relative to the root
    label: str
    start: float | None = None  # None: from the first frame
    end: float | None = None  # None: to the last frame
    frames: bool = False  # start and end are frames, not seconds
    id: bool = False  # path is an id that the file's name is or contains
    counted: int | None = None  # frames of the video, according to the list
    group: str = ""
    split: str = ""  # as written
    fps: float = field(default=0.0, repr=False)  # of a frame folder; 0: not known

    @property
    def whole(self) -> bool:
        """Whether it is all of its file."""
        return self.start is None and self.end is None

    def item(self, *, id: str, label: int) -> Item:
        """The clip of a located row."""
        return Item(
            id=id,
            path=self.path,
            label=label,
            start=self.start or 0,
            end=self.end,
            unit="file" if self.whole else "frames" if self.frames else "seconds",
            tags={"group": self.group} if self.group else {},
            fps=self.fps,
        )


def read_list(path: Path, split: str = "") -> list[Row]:
    """The rows of a list file; ManifestError has file:line of the first twenty faults.

    `split` is train, val or test: the rows to take of a file whose column `split` names several.
    """
    lines = [(number, line) for number, line in read_lines(path) if line.strip(' \t,;"')]
    if not lines:
        raise ManifestError(f"{path}: no clips; wanted is {WANTED}")
    if _OFFICIAL_HMDB.fullmatch(path.name):
        raise ManifestError(
            f"{path}: an official split file of HMDB-51, whose numbers say how a clip is used and are no labels; make "
            f"manifests with {command_line('prepare')} hmdb51 and train with dataset=hmdb51"
        )
    first = lines[0][1]
    if first.startswith(("{", "[")):
        raise ManifestError(f"{path}: looks like JSON, which is not read as a list; wanted is {WANTED}")
    separator = next((s for s in (*SEPARATORS, " ") if _is_header(_cells(first, s), all_known=s == " ")), "")
    rows = _with_header(path, separator, split) if separator else _without_header(path, lines)
    if not rows:
        raise ManifestError(f"{path}: no clips; wanted is {WANTED}")
    return rows


def sort_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """By number where all are numbers, also as pandas writes them (2.0 before 10.0); else by name."""
    labels = set(labels)
    numbers = all(finite(label) is not None for label in labels)
    return tuple(sorted(labels, key=lambda label: (float(label) if numbers else 0.0, label)))


def check_numbers(rows: Sequence[Row]) -> None:
    """Raise ManifestError with the rows whose labels are one number in two spellings, such as 01 beside 1.

    Read as numbers they would be one class, as names two.
    """
    spelt: dict[int, Counter[str]] = defaultdict(Counter)  # number -> its spellings
    for row in rows:
        if NUMERIC.fullmatch(row.label):
            spelt[int(row.label)][row.label] += 1
    usual = {number: spellings.most_common(1)[0][0] for number, spellings in spelt.items()}
    raise_faults(
        [
            f"{row.where}: label {row.label!r} of {row.path}: other labels spell this number {usual[number]!r}; "
            "spell all alike if they are one class, or name the classes in words"
            for row in rows
            if NUMERIC.fullmatch(row.label) and usual[number := int(row.label)] != row.label
        ],
        "label(s)",
    )


# --- with a header -------------------------------------------------------------------------------------------------


def _cells(line: str, separator: str) -> list[str]:
    try:
        skip = separator != " "
        cells = next(csv.reader([line], delimiter=separator, skipinitialspace=skip, strict=True))
        return [cell.strip() for cell in cells]
    except (csv.Error, StopIteration):
        return [cell.strip().strip('"') for cell in line.split(separator)]


def _key(name: str) -> str:
    return re.sub(r"[ -]+", "_", name.strip().lstrip("#").strip().lower())


def _is_header(cells: Sequence[str], *, all_known: bool) -> bool:
    keys = {_key(cell) for cell in cells}
    fits = not keys.isdisjoint((*PATHS, *IDS)) and not keys.isdisjoint(LABELS)
    return fits and (not all_known or keys <= KNOWN)


KNOWN = {
    *PATHS,
    *IDS,
    *LABELS,
    *SPLIT,
    *GROUP,
    *FPS,
    *IGNORED,
    *(name for pair in (*SECONDS, *FRAMES) for name in pair),
}


def _with_header(path: Path, separator: str, split: str) -> list[Row]:
    table = read_csv(path, required=(), delimiter=separator, tolerant=True)
    if not table:
        return []
    columns = _columns(path, list(table[0][1]))

    in_frames = any(_key(columns.get(kind, "")) in FRAMES[0] for kind in ("start", "end"))
    is_id = _key(columns["path"]) in IDS

    def read(where: str, cells: dict[str, str]) -> Row:
        found = {kind: cells[name] for kind, name in columns.items()}
        start, end = (_moment(found.get(kind, ""), kind, in_frames) for kind in ("start", "end"))
        if end is not None and end <= (start or 0):
            raise ValueError(f"end {end:g} must be after start {start or 0:g}")
        if not found["path"]:
            raise ValueError(f"{columns['path']} is empty")
        label, fps = _checked_label(found["label"]), _rate(found.get("fps", ""))
        group = unicodedata.normalize("NFC", found.get("group", ""))
        own = found.get("split", "")
        return Row(
            where, found["path"], label, start, end, in_frames, id=is_id, group=group, split=own, fps=fps
        )

    return _each(path, _of_split(path, table, columns.get("split", ""), split), read)


def _each(path: Path, lines: Sequence[tuple[int, Any]], read: Callable[[str, Any], Row]) -> list[Row]:
    """A row of each numbered line. Raises ManifestError with the lines for which `read` raises ValueError."""
    rows: list[Row] = []
    faults: list[str] = []
    for number, line in lines:
        where = f"{path}:{number}"
        try:
            rows.append(read(where, line))
        except ValueError as error:
            faults.append(f"{where}: {error}")
    raise_faults(faults)
    return rows


def _columns(path: Path, header: Sequence[str]) -> dict[str, str]:
    """path, label, start, end, split, group and fps, as far as there are columns for them -> the column's name.

    Raises:
        ManifestError: a column is not known, or two mean the same.
    """
    by_key: dict[str, str] = {}
    for name in header:
        if by_key.setdefault(_key(name), name) != name:
            raise ManifestError(f"{path}: columns {by_key[_key(name)]} and {name} are the same")
    if unknown := [name for key, name in by_key.items() if key not in KNOWN]:
        raise ManifestError(
            f"{path}: column(s) {', '.join(unknown)[:200]} not known; found {', '.join(header)[:400]}; wanted is "
            f"{WANTED}"
        )
    files = [key for key in PATHS if key in by_key]
    if any(key.endswith("path") for key in files):
        files = [key for key in files if not key.endswith("name")]
    for keys, what in ((LABELS, "labels"), (files, "files")):
        if len(found := [by_key[key] for key in keys if key in by_key]) > 1:
            raise ManifestError(
                f"{path}: {len(found)} columns of {what}, {', '.join(found)}; keep one and remove the others"
            )
    spans = [pair for pair in (*SECONDS, *FRAMES) if not by_key.keys().isdisjoint(pair)]
    if len(spans) > 1:
        named = ", ".join(name for key, name in by_key.items() if any(key in pair for pair in spans))
        raise ManifestError(
            f"{path}: spans are in seconds (start, end) or in frames (start_frame, end_frame), once; found {named}"
        )
    start, end = spans[0] if spans else ("", "")
    kinds = {"path": (*PATHS, *IDS), "label": LABELS, "start": (start,), "end": (end,)}
    kinds |= {"split": SPLIT, "group": GROUP, "fps": FPS}
    there = {kind: [by_key[key] for key in keys if key and key in by_key] for kind, keys in kinds.items()}
    return {kind: names[0] for kind, names in there.items() if names}


def _of_split(
    path: Path, table: list[tuple[int, dict[str, str]]], column: str, split: str
) -> list[tuple[int, dict[str, str]]]:
    """The rows of one split, where the file holds several; else all. ManifestError for rows of an unknown split."""
    values = {cells[column].lower() for _, cells in table} if column else set()
    if not split or (len(values) < 2 and values != {UNUSED}):
        return table
    own = [(line, cells) for line, cells in table if cells[column].lower() in SPLITS[split]]
    if not own:
        raise ManifestError(
            f"{path}: no row of {split} in column {column}, which holds {', '.join(sorted(values))[:200]}; "
            f"wanted is {' or '.join(SPLITS[split])}"
        )
    known = {UNUSED, *(word for words in SPLITS.values() for word in words)}
    strange = [(line, cells[column]) for line, cells in table if cells[column].lower() not in known]
    raise_faults(
        [
            f"{path}:{line}: {column} {word[:80]!r}; allowed are train, val, test and {UNUSED}"
            for line, word in strange
        ]
    )
    return own


def _rate(text: str) -> float:
    """Frames per second, also as ffprobe writes them (30000/1001); 0: not known. ValueError for other texts."""
    if text.lower() in NO_RATE:
        return 0.0
    whole, _, part = text.partition("/")
    if NUMBER.fullmatch(whole) and NUMBER.fullmatch(part or "1") and float(part or "1"):
        rate = float(whole) / float(part or "1")
        if rate < MOST_FPS:
            return rate
    raise ValueError(
        f"fps {text[:80]!r} is no frame rate, such as 25 or 30000/1001; leave it empty where it is not known"
    )


def _moment(text: str, name: str, frames: bool) -> float | None:
    if not text:
        return None
    value = float(text) if NUMBER.fullmatch(text) else math.nan
    if not value < 1e9 or (frames and value != int(value)):
        kind = "frame number from 0 up" if frames else "time in seconds from 0 up, such as 90 or 1.5"
        raise ValueError(f"{name} {text[:80]!r} is not a {kind}")
    return value


def _checked_label(label: str) -> str:
    if not label:
        raise ValueError("label is empty")
    if any(ord(c) < 32 or c == "\x7f" for c in label):
        raise ValueError(f"label {label[:80]!r} holds a control character")
    return label


# --- without a header ----------------------------------------------------------------------------------------------


def _without_header(path: Path, lines: Sequence[tuple[int, str]]) -> list[Row]:
    if not _LINE.fullmatch(lines[0][1]):
        number, first = lines[0]
        if columns := _unknown_header(lines):
            raise ManifestError(
                f"{path}:{number}: the first line does not name the columns that are needed: found "
                f"{', '.join(columns)[:400]!r}; wanted is {WANTED}"
            )
        if separator := _separator_of_names(path, lines):
            pairs = [(number, _cells(line, separator)) for number, line in lines]
            return _each(path, pairs, lambda where, cells: Row(where, cells[0], _checked_label(cells[1])))
    rows = _each(path, lines, _path_and_number)
    found = [match for row in rows if not VIDEO.fullmatch(row.path) and (match := _LINE.fullmatch(row.path))]
    if len(found) == len(rows):  # a list of frame folders, whose names have no suffix
        return [
            replace(row, path=_unquoted(match["path"]), counted=int(match["label"]))
            for row, match in zip(rows, found, strict=True)
        ]
    few, numbers = [row for row in rows if row.counted is not None], "two numbers"
    if 2 * len(few) > len(rows):
        few, numbers = [row for row in rows if row.counted is None], "one"
    raise_faults([f"{row.where}: {numbers} behind the path, unlike other lines of the list" for row in few])
    return rows


def _path_and_number(where: str, line: str) -> Row:
    """The row of `path label` or `path frames label`, split at the last separators."""
    match = _LINE.fullmatch(line)
    if not match:
        hint = "; '|' is no separator of lists" if "|" in line else ""
        raise ValueError(f"{line[:80]!r} is not `path label` with a whole number at the end{hint}")
    path, label = match["path"], match["label"]
    if not NUMERIC.fullmatch(label):
        raise ValueError(f"label {label[:80]} is not a class number from 0 up")
    inner = _LINE.fullmatch(path)
    if inner and not path.endswith('"') and VIDEO.fullmatch(_unquoted(inner["path"])):
        if not NUMERIC.fullmatch(inner["label"]):
            raise ValueError(f"frames {inner['label'][:80]} is not a number from 0 up")
        return Row(where, _unquoted(inner["path"]), label, counted=int(inner["label"]))
    if inner and (more := _LINE.fullmatch(inner["path"])) and VIDEO.fullmatch(_unquoted(more["path"])):
        raise ValueError(f"{line[:80]!r} has several numbers; wanted is one label, or frames and a label")
    return Row(where, _unquoted(path), label)


def _unquoted(path: str) -> str:
    return path[1:-1].replace('""', '"') if len(path) > 1 and path[0] == path[-1] == '"' else path


def _separator_of_names(path: Path, lines: Sequence[tuple[int, str]]) -> str:
    """The separator of `path` and `class name` on every line; empty if not all lines are of that form."""
    fits = []
    for separator in SEPARATORS:
        cells = [_cells(line, separator) for _, line in lines]
        if all(len(c) == 2 and all(c) for c in cells):
            ids = separator != "," and all(re.fullmatch(r"[\w-]+", c[0]) for c in cells)
            if ids or all(VIDEO.fullmatch(c[0]) for c in cells):
                fits.append(separator)
    if len(fits) > 1:
        found = " or ".join(SEPARATORS[separator] for separator in fits)
        raise ManifestError(f"{path}: lines may be split at {found}; put the paths and labels in quotes")
    return fits[0] if fits else ""


def _unknown_header(lines: Sequence[tuple[int, str]]) -> list[str]:
    """The cells of a first line that looks like a header without columns for path and label; else none."""
    first, others = lines[0][1], [line for _, line in lines[1:6]]
    for separator in SEPARATORS:
        cells = _cells(first, separator)
        alone = len(cells) < 2 and _key(cells[0]) not in KNOWN - {""}
        if alone or any(VIDEO.fullmatch(cell) for cell in cells):
            continue
        beside = [any(VIDEO.fullmatch(cell) for cell in _cells(line, separator)) for line in others]
        if any(_key(cell) in KNOWN - {""} for cell in cells) or (beside and all(beside)):
            return cells
    return []
