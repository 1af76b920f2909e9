"""The manifest: one row per clip, and the only thing that training reads.

Notes:
- a CSV with a header, UTF-8, RFC 4180 quoting: paths may hold spaces, commas, quotes and any script;
- `start` and `end` are frames of the file, 0-based, half-open, in counted decoder order; empty means the whole file;
- `frames`, `fps`, `width`, `height`, `readers` and `times` were measured when the manifest was made (see
  prepare/measure.py); `readers` names the readers that returned exactly the counted frames, fastest first; `times` is
  empty where the clip's frames are evenly spaced, else it holds the steps between them in microseconds (see times.py);
- `dataset.json` beside the manifests says where the videos are, if they are elsewhere;
- `classes.txt` beside the manifests holds one class name per line; a label is a line number from 0.
"""

import csv
import io
import itertools
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

from vmp.choices import MOST_FPS
from vmp.data.columns import KEEP_FROM, STATUSES, Clip, Clips, digest_of, keep, read_kept
from vmp.data.decode import READERS
from vmp.data.frames import FRAMES
from vmp.data.times import read_steps
from vmp.errors import ManifestError, RunError, shortlist
from vmp.files import read_json, write_csv, write_json, write_text

RECORD = "dataset.json"
COLUMNS = (
    *("id", "path", "label", "start", "end"),
    *("frames", "fps", "width", "height", "status", "readers"),
)
LONGEST_CELL = 2**24  # characters; the times of half a million frames
csv.field_size_limit(LONGEST_CELL)
TIMES = "times"  # a column only where the frames of some clip are not evenly spaced
_REQUIRED = ("id", "path", "label")
_TOGETHER = (("start", "end"), ("fps", "width", "height", "status", "readers"))  # all of a group, or none
NUMBER = re.compile(r"\d+\.?\d*([eE][+-]?\d{1,3})?|\.\d+", re.ASCII)  # no sign, nan, inf or 1_000


@dataclass(frozen=True, slots=True)
class Manifest:
    path: Path
    root: Path  # what the clips' paths are relative to
    classes: tuple[str, ...]
    clips: Sequence[Clip]

    def file(self, clip: Clip) -> Path:
        return self.root / clip.path


T = TypeVar("T")


def spread(items: Sequence[T], most: int | None) -> Sequence[T]:
    """At most this many of the items, evenly spread; None: all."""
    if most is None or len(items) <= most:
        return items
    return [items[i * len(items) // most] for i in range(most)]


def read_manifest(path: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None) -> Manifest:
    """Read and check a manifest and the `classes.txt` beside it; ManifestError names file:line of twenty faults.

    Args:
        root: folder of the videos; None: as dataset.json beside the manifest says, or else the manifest's own folder.
    """
    path = Path(path)
    root = Path(root) if root is not None else recorded_root(path.parent) or path.parent
    names = path.parent / "classes.txt"
    classes = read_classes(names)
    digest = digest_of(path, names) if path.is_file() else ""
    clips = read_kept(path, digest)
    if clips is None:
        clips = Clips.of(_read_rows(path, len(classes)))
        if len(clips) >= KEEP_FROM:
            keep(clips, path, digest)
            clips = read_kept(path, digest) or clips  # mapped, so that processes share them
    return Manifest(path, root, classes, clips)


def _read_rows(path: Path, classes: int) -> list[Clip]:
    rows = read_csv(path, required=_REQUIRED)
    for columns in _TOGETHER if rows else ():
        absent = [name for name in columns if name not in rows[0][1]]
        if 0 < len(absent) < len(columns):
            raise ManifestError(
                f"{path}: column(s) {', '.join(absent)} missing; {', '.join(columns)} come together or not at all"
            )
    faults: list[str] = []
    clips: list[Clip] = []
    seen: dict[str, int] = {}
    for line, row in rows:
        try:
            clip = _parse(row, classes)
            if clip.id in seen:
                raise ValueError(f"id {clip.id!r} was used on line {seen[clip.id]}")
            seen[clip.id] = line
            clips.append(clip)
        except ValueError as error:
            faults.append(f"{path}:{line}: {error}")
    raise_faults(faults, "row(s)")
    if not clips:
        raise ManifestError(f"{path}: no clips; it has a header and no rows. Make it again with its dataset.")
    return clips


def raise_faults(faults: list[str], what: str = "line(s)") -> None:
    """Raise ManifestError with the first twenty faults, if there are any."""
    if faults:
        raise ManifestError(f"{len(faults)} {what} cannot be used:\n{shortlist(faults, 20)}")


def write_manifest(path: Path, clips: Iterable[Clip]) -> None:
    """Write a manifest, all of it or nothing."""
    clips = list(clips)
    tags = sorted({tag for clip in clips for tag in clip.tags})
    times = [TIMES] if any(clip.times for clip in clips) else []

    def row(c: Clip) -> list[Any]:
        start = "" if c.start == 0 and c.end is None else c.start
        end = "" if c.end is None else c.end
        measured = [c.frames, f"{c.fps:.6g}", c.width, c.height, c.status, " ".join(c.readers)]
        measured += [c.times] if times else []
        return [c.id, c.path, c.label, start, end, *measured, *(c.tags.get(tag, "") for tag in tags)]

    write_csv(path, itertools.chain([[*COLUMNS, *times, *tags]], map(row, clips)))


def record_root(folder: Path, root: Path, *, within: Path) -> None:
    """Write dataset.json: where the videos of a folder's manifests are.

    `within` is a folder that may be moved as a whole: a root in it is recorded relative to the manifests.
    """
    real, real_within = Path(os.path.realpath(root)), Path(os.path.realpath(within))
    inner = real.is_relative_to(real_within)
    recorded = os.path.relpath(real, os.path.realpath(folder)) if inner else str(real)
    write_json(folder / RECORD, {"root": recorded})


def recorded_root(folder: Path) -> Path | None:
    """Where the videos of a folder's manifests are, by its dataset.json; None: there is no such file."""
    file = folder / RECORD
    if not file.exists():
        return None
    try:
        root = read_json(file)["root"]
    except (RunError, KeyError, TypeError):
        root = None
    if not isinstance(root, str) or not root:
        raise ManifestError(
            f'{file}: must be {{"root": "folder of the videos"}}; make it again with its dataset'
        )
    return Path(os.path.normpath(folder / root))


def read_classes(path: Path) -> tuple[str, ...]:
    """The class names in a file, one per line; blank lines at the end are ignored. Raises ManifestError."""
    if not path.exists():
        raise ManifestError(f"{path}: not found; it lists the class names, one per line")
    text = read_annotation(path).rstrip()
    names = [name.strip() for name in text.split("\n")] if text else []
    seen: set[str] = set()
    for line, name in enumerate(names, 1):
        if not name:
            raise ManifestError(f"{path}:{line}: blank class name")
        if any(ord(c) < 32 or c == "\x7f" for c in name):
            raise ManifestError(f"{path}:{line}: class {name!r} holds a control character")
        if name in seen:
            raise ManifestError(f"{path}:{line}: class {name!r} is listed twice")
        seen.add(name)
    if len(names) < 2:
        raise ManifestError(f"{path}: {len(names)} class(es); a classifier needs at least 2")
    return tuple(names)


def write_classes(path: Path, names: Sequence[str]) -> None:
    write_text(path, "".join(f"{name}\n" for name in names))


def read_annotation(path: Path) -> str:
    r"""The text of an annotation file, which people write with every kind of editor. Raises ManifestError.

    Lines end at "\n" ("\r\n" and "\r" are turned into it) and at nothing else: U+2028 may be part of a name.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); unpack it, if it is packed, and save it "
            "as UTF-8 (Excel: CSV UTF-8)"
        ) from None
    except OSError as error:
        why = "not found" if isinstance(error, FileNotFoundError) else error.strerror
        raise ManifestError(f"{path}: {why}") from None
    if "\0" in text:
        raise ManifestError(f"{path}: holds NUL bytes; it is not a text file (UTF-16? save it as UTF-8)")
    return text


def read_csv(
    path: Path, *, required: Sequence[str], delimiter: str = ",", tolerant: bool = False
) -> list[tuple[int, dict[str, str]]]:
    """Rows of a CSV with a header, each with its line number; cells are stripped, blank lines skipped.

    Faults raise ManifestError. `tolerant` of what programs write beside the columns: the first one may have no name
    (the index of pandas), and empty cells at the ends of lines do not count (Excel's columns that were used once).
    """
    reader = csv.reader(
        io.StringIO(read_annotation(path)),
        delimiter=delimiter,
        skipinitialspace=delimiter != " ",  # a quote may follow ", "
        strict=True,
    )
    rows: list[tuple[int, dict[str, str]]] = []
    header: list[str] | None = None
    before = 0
    try:
        for cells in reader:
            line, before = before + 1, reader.line_num  # a quoted cell may span lines: name the first
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                while tolerant and not header[-1]:
                    header.pop()
                if fault := _header_fault(header[tolerant and not header[0] :], required):
                    found = ", ".join(name if name.isprintable() else repr(name) for name in header)
                    raise ManifestError(
                        f"{path}:{line}: {fault}; found {found[:400]}. The first line must name the columns."
                    )
                continue
            if tolerant and not any(cell.strip() for cell in cells[len(header) :]):
                cells = cells[: len(header)]
            if len(cells) != len(header):
                raise ManifestError(
                    f"{path}:{line}: {len(cells)} cells under {len(header)} columns; a cell with a {delimiter!r} needs "
                    "quotes"
                )
            rows.append((line, {name: cell.strip() for name, cell in zip(header, cells, strict=True)}))
    except csv.Error as error:
        # a quote that is not closed takes all lines up to the end: name the first line of its row
        why = "a quote opens here and is not closed" if "end of data" in str(error) else str(error)
        raise ManifestError(f"{path}:{before + 1}: {why}") from None
    if header is None:
        raise ManifestError(f"{path}: empty; it must be a CSV whose first line names the columns")
    return rows


def _header_fault(header: Sequence[str], required: Sequence[str]) -> str:
    if missing := [name for name in required if name not in header]:
        return f"column(s) {', '.join(missing)} missing"
    if len(set(header)) < len(header):
        return "a column is named twice"
    readable = all(name and name.isprintable() for name in header)
    return "" if readable else "a column has no name that can be read"


# with a drive, or a home; "A: b" is an ordinary name but on Windows
_ABSOLUTE = re.compile(r"[/~\\]|[A-Za-z]:" if os.sep == "\\" else r"[/~\\]|[A-Za-z]:(?! )")


def check_relative(path: str) -> str:
    """The path itself; ValueError unless it is relative, stays inside the dataset root and is plain text."""
    if not path:
        raise ValueError("path is empty")
    if any(ord(c) < 32 for c in path):
        raise ValueError(f"path {path!r} holds a control character")
    if any("\ud800" <= c <= "\udfff" for c in path):  # how Python represents bytes that are not UTF-8
        raise ValueError(f"path {path!r} is not UTF-8; rename it")
    if _ABSOLUTE.match(path):
        raise ValueError(f"path {path!r} must be relative to the dataset root")
    if ".." in PurePosixPath(path).parts or (os.sep == "\\" and ".." in PureWindowsPath(path).parts):
        raise ValueError(f"path {path!r} climbs out of the dataset root with '..'")
    return path


def inside(root: Path, path: str) -> Path:
    """The real file or folder behind a relative path, with links followed.

    ValueError where it lies outside the root, or something in the folder does, or a manifest cannot hold it.
    """
    if path != path.strip():  # cells of a CSV are read without the blanks around them
        raise ValueError(f"path {path!r} begins or ends with a blank; rename the file or folder")
    return real_path(root, path)


def real_path(root: Path, path: str) -> Path:
    """As `inside`, for a part of a path, which may end in a blank."""
    real_root = os.path.realpath(root)
    real = os.path.realpath(os.path.join(real_root, check_relative(path)))
    links = {path: real}
    if os.path.isdir(real):
        with os.scandir(real) as entries:
            links |= {f"{path}/{e.name}": os.path.realpath(e.path) for e in entries if e.is_symlink()}
    for name, target in links.items():
        if os.path.commonpath([real_root, target]) != real_root:
            raise ValueError(
                f"path {name!r} is a link that leaves the dataset root {root}: it leads to {target}. Nothing outside "
                "the root is read; put the files there (hard links and bind mounts are fine), or name a root "
                "that holds both"
            )
    return Path(real)


def parse_label(text: str, classes: int) -> int:
    """The class id in a cell, or ValueError with what is allowed."""
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise ValueError(f"label {text[:80]!r} is not a whole number")
    label = int(text)
    if not 0 <= label < classes:
        raise ValueError(f"label {label} is outside 0..{classes - 1} ({classes} classes in classes.txt)")
    return label


def _parse(row: dict[str, str], classes: int) -> Clip:
    if not row["id"]:
        raise ValueError("id is empty")
    start, end = _whole(row, "start"), _whole(row, "end") if row.get("end") else None
    if end is not None and end <= start:
        raise ValueError(f"end {end} must be after start {start} (frames, half-open)")
    status = row.get("status") or "ok"
    if status not in STATUSES:
        raise ValueError(f"status {status!r}: must be one of {', '.join(STATUSES)}")
    readers = tuple((row.get("readers") or "").split())
    strange = [reader for reader in readers if reader not in (*READERS, FRAMES)]
    if strange:
        raise ValueError(
            f"readers {' '.join(strange)[:80]!r}: must be some of {', '.join((*READERS, FRAMES))}"
        )
    clip = Clip(
        id=row["id"],
        path=check_relative(row["path"]),
        label=parse_label(row["label"], classes),
        start=start,
        end=end,
        frames=_whole(row, "frames"),
        fps=_number(row, "fps"),
        width=_whole(row, "width"),
        height=_whole(row, "height"),
        status=status,
        readers=readers,
        times=row.get("times") or "",
        tags={name: cell for name, cell in row.items() if name not in (*COLUMNS, TIMES) and cell},
    )
    if status != "ok":
        return clip
    if clip.frames < 1:
        raise ValueError("frames is not measured; make the manifest with its dataset command")
    if clip.length < 1:
        raise ValueError(f"start {start} is not before the end of the file, which has {clip.frames} frames")
    if end is not None and end > clip.frames:
        raise ValueError(f"end {end} lies beyond the end of the file, which has {clip.frames} frames")
    if clip.times and (timed := len(read_steps(clip.times))) != clip.length:
        raise ValueError(f"times has {timed} frames, the clip has {clip.length}")
    return clip


def _whole(row: dict[str, str], name: str) -> int:
    text = row.get(name) or "0"
    if not re.fullmatch(r"[0-9]{1,9}" if name in ("width", "height") else r"[0-9]{1,18}", text):
        raise ValueError(f"{name} {text[:80]!r} is not a whole number of frames or pixels")
    return int(text)


def _number(row: dict[str, str], name: str) -> float:
    text = row.get(name) or "0"
    value = float(text) if NUMBER.fullmatch(text) else -1.0
    if not 0 <= value <= MOST_FPS:  # written with six digits
        raise ValueError(f"{name} {text[:80]!r} is not a number of frames per second")
    return value
