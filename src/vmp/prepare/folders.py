"""Labelled clips as people keep them, in one folder per class or in one CSV, divided into train, val and test.

Notes:
- files that are clearly no clips (hidden ones, notes, tables: ASIDE) are passed over, any other file is an error;
- a clip's id is its path without suffix, the same in every split and fold, so that runs can be compared clip by clip;
- split.csv beside the manifests has the split in the form in which it is read, by `dataset.csv`.
"""

import hashlib
import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vmp.data.manifest import raise_faults, spread
from vmp.errors import ConfigError, ManifestError, shortlist
from vmp.prepare.division import Division, divide, look_alikes
from vmp.prepare.list_format import SPLITS, UNUSED, Row, check_numbers, read_list, sort_labels
from vmp.prepare.locate import Locator
from vmp.prepare.plan import Check, DatasetPlan, Item
from vmp.prepare.videos import SUFFIXES, is_frame_folder

ASIDE = (  # suffixes of files that people keep beside their clips
    *(".txt", ".md", ".csv", ".tsv", ".xlsx", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".html", ".pdf"),
    *(".srt", ".vtt", ".log", ".db", ".ini"),  # Thumbs.db, desktop.ini
)
TABLE = "split.csv"
_PART = {word: part for part, words in SPLITS.items() for word in words} | {UNUSED: UNUSED}
_LAYOUT = "DIR/<class>/clip.mp4 or DIR/{train,val,test}/<class>/clip.mp4"


def plan_folders(
    root: Path,
    table: Path | None = None,
    *,
    ratio: Sequence[float] | None = None,
    folds: int | None = None,
    fold: int | None = None,
    seed: int = 0,
    most: int | None = None,
    fps: float | None = None,
) -> tuple[DatasetPlan, str]:
    """The plan of one division of the clips, and the folder's name in which its manifests belong.

    Args:
        table: CSV with the columns path,label[,group][,split]; None: the clips are in one folder per class.
        most: clips of a split, spread over it, for a quick look; None: all.
        fps: of frame folders, which do not say it; None: not known.

    Raises:
        ConfigError, ManifestError: what the folder or the CSV holds is no dataset, or more than one.
    """
    rows = read_table(root, table) if table else scan(root)
    division = divide(root, rows, ratio=ratio, folds=folds, fold=fold, seed=seed)
    classes = classes_of(row for part in division.splits.values() for row in part)
    parts = {split: list(spread(part, most)) for split, part in division.splits.items()}
    said = [
        str(root.resolve()),
        repr(classes),
        *(repr(replace(r, where="")) for p in parts.values() for r in p),
    ]
    said += [f"{rate:g}" for rate in (fps, *(r.fps for p in parts.values() for r in p)) if rate]
    home = hashlib.sha256("\n".join([*said, *parts]).encode(errors="replace")).hexdigest()[:8]
    division = Division(parts, division.unused, division.notes)
    return replace(make_plan("folders", root, classes, {home: division}), fps=fps or 0.0), home


def make_plan(
    name: str,
    root: Path,
    classes: Sequence[str],
    divisions: Mapping[str, Division],
    *,
    checks: Iterable[Check] = (),
    notes: Iterable[str] = (),
) -> DatasetPlan:
    """A plan with the manifests and the split.csv of each division in the folder of its name; '': in the plan's own."""
    number = {label: n for n, label in enumerate(classes)}
    plans: dict[str, tuple[Item, ...]] = {}
    tables: dict[str, list[list[str]]] = {}
    for folder, division in divisions.items():
        ids = _ids([row for part in (*division.splits.values(), division.unused) for row in part])
        for split, part in division.splits.items():
            plans[posixpath.join(folder, split)] = tuple(
                row.item(id=ids[row], label=number[row.label]) for row in part
            )
        tables[posixpath.join(folder, TABLE)] = _table(division)
    several = len(divisions) > 1
    of_divisions = [(folder, note) for folder, division in divisions.items() for note in division.notes]
    notes = [
        *notes,
        *look_alikes(classes),
        *(f"{folder}: {note}" if several else note for folder, note in of_divisions),
    ]
    return DatasetPlan(
        name=name,
        classes=tuple(classes),
        splits=plans,
        videos=root,
        checks=tuple(checks),
        notes=tuple(notes),
        tables=tables,
    )


def classes_of(rows: Iterable[Row]) -> tuple[str, ...]:
    """The labels, sorted. ManifestError where there is one only."""
    labels = {row.label for row in rows}
    if len(labels) < 2:
        raise ManifestError(f"one class, {min(labels, default='')!r}; a classifier needs at least 2")
    return sort_labels(labels)


def _ids(rows: Sequence[Row]) -> dict[Row, str]:
    """Paths without suffix, or with it where two differ in nothing else; and the span of a part of a video.

    Blanks before the suffix are left out: cells of a manifest are read without the blanks around them.
    """
    paths = {row.path for row in rows}
    stems = Counter(posixpath.splitext(path)[0].rstrip() for path in paths)
    named = {}
    for row in rows:
        stem = posixpath.splitext(row.path)[0].rstrip()
        span = "" if row.whole else f"@{_exact(row.start or 0)}-{_exact(row.end)}"
        named[row] = (stem if stems[stem] == 1 and stem not in paths else row.path) + span
    return named


def _table(division: Division) -> list[list[str]]:
    rows = [(row, split) for split, part in division.splits.items() for row in part]
    rows += [(row, UNUSED) for row in division.unused]
    spans, rates = not all(row.whole for row, _ in rows), any(row.fps for row, _ in rows)
    units = ("start_frame", "end_frame") if any(row.frames for row, _ in rows) else ("start", "end")
    table = [["path", "label", *(units if spans else ()), *(("fps",) if rates else ()), "group", "split"]]
    for row, split in sorted(rows, key=lambda pair: (pair[0].path, pair[0].start or 0)):
        span = [_exact(row.start), _exact(row.end)] if spans else []
        rate = [_exact(row.fps or None)] if rates else []
        table.append([row.path, row.label, *span, *rate, row.group, split])
    return table


def _exact(value: float | None) -> str:
    """A number with all digits that a list gives: `g` alone would round to six."""
    return "" if value is None else f"{value:.15g}"


# --- what is there -------------------------------------------------------------------------------------------------


def read_table(root: Path, file: Path) -> list[Row]:
    """The rows of a CSV, with paths relative to the root; a name that is not there is looked for in the root, too.

    `split` is train, val, test or unused in each row, or empty in all. Raises ManifestError with file:line of faults.
    """
    _check_root(root)
    if not file.is_file():
        if not (root / file).is_file():
            raise ConfigError(f"dataset.csv = {file}: no such file, neither here nor in {root}")
        file = root / file
    rows: list[Row] = []
    faults: list[str] = []
    listed = read_list(file)
    given = any(row.split for row in listed)
    for row in listed:
        part = _PART.get(row.split.lower(), "")
        if given and not part:
            what = f"split {row.split[:80]!r}" if row.split else "split is empty, and other rows have one"
            faults.append(f"{row.where}: {what}; allowed are train, val, test and {UNUSED}")
            continue
        rows.append(replace(row, split=part))
    rows = Locator(root).locate_all(rows, file, faults)
    raise_faults(faults)
    check_numbers(rows)
    return rows


def scan(root: Path) -> list[Row]:
    """A row for each video or frame folder in class folders.

    Raises ManifestError that names what is no clip or in the wrong place.
    """
    _check_root(root)
    folders, videos, faults = _entries(root)
    if videos:
        some = ", ".join(path.name for path in videos[:3])
        faults.append(
            f"{root}: {len(videos)} video(s) in no class folder, such as {some}; move them into one"
        )
    parts = [folder for folder in folders if folder.name.lower() in _PART]
    others = [folder for folder in folders if folder not in parts]
    rows: list[Row] = []
    if parts and others:
        raise ManifestError(
            f"{root}: holds {_names(parts)} and {_names(others)} side by side, so that it cannot be told whether its "
            f"folders are splits or classes; wanted is {_LAYOUT}. Move the class folders into the splits, or name "
            "the clips in a CSV with the columns path,label,split: dataset.csv=FILE"
        )
    if not folders and not faults:
        raise ManifestError(f"{root}: holds no folder; wanted is {_LAYOUT}, or a CSV: dataset.csv=FILE")
    by_part = Counter(_PART[folder.name.lower()] for folder in parts)
    if twice := [folder for folder in parts if by_part[_PART[folder.name.lower()]] > 1]:
        raise ManifestError(f"{root}: {_names(twice)} mean the same split; join them")
    for folder in parts:
        inner, videos, odd = _entries(folder)
        faults += odd
        if videos:
            faults.append(
                f"{videos[0]}: in no class folder, with {len(videos) - 1} other video(s); move them into one"
            )
        if not inner and not videos:
            faults.append(f"{folder}: holds no class folder; remove it, or put class folders into it")
        for category in inner:
            rows += _class_rows(root, category, _PART[folder.name.lower()], faults)
    for category in others:
        rows += _class_rows(root, category, "", faults)
    if faults:
        raise ManifestError(
            f"{len(faults)} place(s) of {root} are not of the form {_LAYOUT}:\n{shortlist(faults, 20)}"
        )
    check_numbers(rows)
    return rows


def _class_rows(root: Path, folder: Path, split: str, faults: list[str]) -> list[Row]:
    if folder.name != folder.name.strip():  # classes.txt holds names without the blanks around them
        faults.append(f"{str(folder)!r}: its name begins or ends with a blank; rename the folder")
        return []
    if is_frame_folder(folder):
        faults.append(
            f"{folder}: frames in no folder of their own; wanted is {folder.name}/<clip>/img_00001.jpg"
        )
        return []
    folders, videos, odd = _entries(folder)
    videos += [inner for inner in folders if is_frame_folder(inner)]
    folders = [inner for inner in folders if inner not in videos]
    faults += odd
    faults += [
        f"{inner}: a folder in a class folder, {folder.name}; move its clips up, or name the folder that holds the "
        "classes with dataset.root"
        for inner in folders
    ]
    if not videos and not folders and not odd:
        faults.append(
            f"{folder}: an empty class, without any video; put clips into it, or remove the folder. Videos end in "
            f"{', '.join(SUFFIXES)}"
        )
    paths = [path.relative_to(root).as_posix() for path in videos]
    return [Row(str(root), path, folder.name, split=split) for path in paths]


def _entries(folder: Path) -> tuple[list[Path], list[Path], list[str]]:
    """What a folder holds, by name: folders, videos, and faults for files that are neither videos nor in ASIDE."""
    folders, videos, faults = [], [], []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path, suffix = Path(entry.path), os.path.splitext(entry.name)[1].lower()
        if entry.name.startswith((".", "__MACOSX")):
            continue
        if entry.is_dir():
            folders.append(path)
        elif suffix in SUFFIXES:
            videos.append(path)
        elif suffix not in ASIDE:
            faults.append(
                f"{path}: no video by its name, which would end in {', '.join(SUFFIXES[:4])}, ...; move it out (hidden "
                f"files and {', '.join(ASIDE[:4])} and the like may stay)"
            )
    return folders, videos, faults


def _check_root(root: Path) -> None:
    if not root.is_dir():
        raise ConfigError(
            f"dataset.root = {root}: no such folder; it holds {_LAYOUT}, or what dataset.csv names"
        )


def _names(folders: Sequence[Path]) -> str:
    names = [f"{folder.name}/" for folder in folders]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
