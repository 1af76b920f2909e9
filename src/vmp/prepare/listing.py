"""Lists of a user's own videos, made into manifests.

lists.py reads their text and locate.py finds the files. Every video is decoded once to count its frames and to find
which readers are exact for it. What was found is kept in measured.jsonl, so that it is not done again for a file whose
size and time are the same.
"""

import hashlib
import json
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from filelock import FileLock

from vmp.data.manifest import (
    Clip,
    inside,
    parse_label,
    read_classes,
    record_root,
    spread,
    write_classes,
    write_manifest,
)
from vmp.data.times import Clock
from vmp.errors import ConfigError, ManifestError, shortlist
from vmp.prepare.children import TIMEOUT
from vmp.prepare.lists import Row, raise_faults, read_list
from vmp.prepare.locate import Locator
from vmp.prepare.measure import GAVE_UP, Measured, measure_all
from vmp.prepare.plan import Item
from vmp.prepare.report import count_table
from vmp.prepare.rows import SHORT, bad, in_place_row, tag_short
from vmp.progress import bar

_NUMERIC = re.compile(r"[0-9]{1,18}")
MEASURING = 7  # raise when measure.py finds other things in the same file


def make_list(
    home: Path,
    *,
    videos: Path,
    lists: Mapping[str, Path],
    classes_file: Path | None = None,
    clock: Clock = "file",
    most: int | None = None,
    progress: bool = True,
    workers: int | None = None,
    timeout: float = TIMEOUT,
) -> Path:
    """Write the manifests of some lists under home, print what was found, and return their folder.

    A span that reaches more than a second beyond its video makes its clip partial, as for every dataset.

    Args:
        videos: folder that the paths in the lists are relative to.
        lists: split -> list file; train and val at least.
        classes_file: one class name a line; None takes the classes from the labels.
        clock: what spans in seconds count from.
        most: clips of a split, spread over its list, for a quick look; None: all.
        timeout: seconds without progress before the measuring of a video counts as hung; 0: never.

    Raises:
        ConfigError: the video folder or a list file is not there.
        ManifestError: lines that cannot be used, with file:line.
    """
    if not videos.is_dir():
        raise ConfigError(
            f"dataset.root = {videos}: no such folder; the paths in the lists are relative to it"
        )
    for split, file in lists.items():
        if not file.is_file():
            raise ConfigError(f"dataset.{split} = {file}: no such file")
    rows = _located(videos, lists)
    classes, names = _classes(rows, classes_file)
    rows = {split: list(spread(part, most)) for split, part in rows.items()}
    parts = [str(videos.resolve()), repr(classes), *(repr(r) for part in rows.values() for r in part), *lists]
    parts.append(clock)
    folder = home / hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / ".lock"):
        found = measured(
            home / "measured.jsonl",
            videos,
            sorted({row.path for part in rows.values() for row in part}),
            progress=progress,
            workers=workers,
            timeout=timeout,
        )
        _check_counts(rows, found)
        write_classes(folder / "classes.txt", classes)
        record_root(folder, videos, within=home)
        clips = {split: _clips(part, found, names[split], split, clock) for split, part in rows.items()}
        for split, part in clips.items():
            write_manifest(folder / f"{split}.csv", part)
    if progress:
        print(_said(rows, clips))
    return folder


def _located(root: Path, lists: Mapping[str, Path]) -> dict[str, list[Row]]:
    """Rows of all lists with paths relative to the root, each video and span once in a list.

    Raises:
        ManifestError: with file:line of the first twenty faults.
    """
    locator = Locator(root)
    out: dict[str, list[Row]] = {}
    faults: list[str] = []
    for split, file in lists.items():
        out[split] = []
        seen: dict[tuple[str, float, float | None], Row] = {}
        for row in read_list(file, split):
            try:
                row = locator.locate(row, file)
            except ValueError as error:
                faults.append(f"{row.where}: {error}")
                continue
            other = seen.setdefault((posixpath.normpath(row.path), row.start or 0, row.end), row)
            if other is not row:
                faults.append(
                    f"{row.where}: the same video and span as line {other.where.rpartition(':')[2]}"
                )
            out[split].append(row)
    raise_faults(faults)
    return out


def _check_counts(rows: Mapping[str, list[Row]], found: Mapping[str, Measured]) -> None:
    """Raise ManifestError if the number before the label is not how many frames the videos have."""
    told = [row for part in rows.values() for row in part if row.counted is not None]
    there = [
        (row, row.counted or 0, found[row.path].frames) for row in told if found[row.path].status == "ok"
    ]
    wrong = [
        f"{r.where}: {r.path}: {n} in the list, {has} in the video"
        for r, n, has in there
        if not _near(n, has)
    ]
    if 2 * len(wrong) > len(there):
        raise ManifestError(
            f"two numbers behind a path are read as `path frames label`, but {len(wrong)} of {len(there)} videos have "
            f"other numbers of frames:\n{shortlist(wrong)}\nLeave out what is not the label."
        )


def _near(told: int, frames: int) -> bool:
    """Tools that extract frames lose or repeat a few."""
    return abs(told - frames) <= max(3, 0.05 * frames)


def _classes(
    rows: Mapping[str, list[Row]], file: Path | None
) -> tuple[tuple[str, ...], dict[str, dict[str, int]]]:
    """Class names in order of id, and for each split label text -> id."""
    if file:
        classes = read_classes(file)
        return classes, {split: _by_name_or_index(part, classes, file) for split, part in rows.items()}
    labels = {row.label for part in rows.values() for row in part}
    numeric = [bool(_NUMERIC.fullmatch(label)) for label in labels]
    if any(numeric) and not all(numeric):
        # one typing error would turn numbers into names, in another order
        few = 2 * sum(numeric) <= len(numeric)
        odd = [row for part in rows.values() for row in part if bool(_NUMERIC.fullmatch(row.label)) == few]
        raise ManifestError(
            f"some labels are numbers and some are names:\n{shortlist([f'{r.where}: {r.label[:80]!r}' for r in odd])}\n"
            "If the numbers are names, name the classes: dataset.classes=FILE, one name a line."
        )
    if all(numeric):
        ids = {int(label) for label in labels}
        gaps = [i for i in range(min(max(ids), len(ids)) + 1) if i not in ids]
        if gaps:
            top = next(row.where for part in rows.values() for row in part if int(row.label) == max(ids))
            raise ManifestError(
                f"{top}: labels run from {min(ids)} to {max(ids)} but {', '.join(map(str, gaps[:10]))} never occur(s) "
                "in the lists; labels count from 0. If that is right, name the classes: dataset.classes=FILE, one name "
                "a line."
            )
        classes = tuple(str(i) for i in range(max(ids) + 1))
        names = {label: int(label) for label in labels}
        trained = {int(row.label) for row in rows["train"]}
        strange = [(split, r) for split, part in rows.items() for r in part if int(r.label) not in trained]
        hint = ", so that no model could learn it; if that is right, name the classes: dataset.classes=FILE"
    else:
        classes = tuple(sorted({row.label for row in rows["train"]}))
        names = {name: i for i, name in enumerate(classes)}
        strange = [(split, row) for split, part in rows.items() for row in part if row.label not in names]
        hint = ""
    _raise_labels(
        [f"{r.where}: class {r.label!r} is in {split} but not in train{hint}" for split, r in strange]
    )
    if len(classes) < 2:
        files = ", ".join(part[0].where.rpartition(":")[0] for part in rows.values())
        raise ManifestError(f"{files}: {len(classes)} class(es); a classifier needs at least 2")
    return classes, dict.fromkeys(rows, names)


def _by_name_or_index(rows: Sequence[Row], classes: Sequence[str], file: Path) -> dict[str, int]:
    """Label text -> id of one list: all labels are names of classes, or all are their numbers from 0.

    A label that is the name of one class and the number of another is refused, unless a label beside it rules out
    numbers, as 3 does where the classes are named 1, 2 and 3.
    """
    by_name = {name: i for i, name in enumerate(classes)}
    by_index: dict[str, int] = {}
    not_index: dict[str, str] = {}
    for label in {row.label for row in rows}:
        try:
            by_index[label] = parse_label(label, len(classes))
        except ValueError as error:
            not_index[label] = str(error)
    named = [row for row in rows if row.label in by_name]
    if not_index and len(named) == len(rows):
        return by_name
    if not_index and not named:
        _raise_labels(
            [f"{r.where}: {not_index[r.label]}, nor a class in {file}" for r in rows if r.label in not_index]
        )
    faults = []
    for row in rows:
        label, i = row.label, by_index.get(row.label)
        if not_index:
            if i is None and label not in by_name:
                faults.append(f"{row.where}: {not_index[label]}, nor a class in {file}")
            elif label not in by_name:
                faults.append(
                    f"{row.where}: label {label} is a number, and other labels of the list are names of classes"
                )
        elif by_name.get(label, i) != i:
            faults.append(
                f"{row.where}: label {label!r} is the name of class {by_name[label]} in {file}, and the number of "
                f"class {classes[by_index[label]]!r}; use names that are not numbers"
            )
    _raise_labels(faults)
    return by_index


def _raise_labels(faults: list[str]) -> None:
    if faults:
        raise ManifestError(f"{len(faults)} label(s) cannot be used:\n{shortlist(faults, 20)}")


def _clips(
    rows: Sequence[Row],
    found: Mapping[str, Measured],
    names: Mapping[str, int],
    split: str,
    clock: Clock,
) -> list[Clip]:
    """The rows of a split's manifest, by the rules that hold for every dataset (rows.py)."""
    clips: list[Clip] = []
    for number, row in enumerate(rows):
        m = found[row.path]
        clip = in_place_row(_item(row, names[row.label], f"{split}/{number:06}"), m, clock=clock)
        if clip.status == "partial" and m.status == "ok" and _fits_as_frames(row, m):
            hint = f"{clip.tags['problem']}; if {row.start or 0:g} to {row.end:g} are frames and not seconds, name the "
            clip = bad(clip, "partial", f"{hint}columns start_frame,end_frame")
        clips.append(tag_short(clip))
    return clips


def _item(row: Row, label: int, id: str) -> Item:
    whole = row.start is None and row.end is None
    unit: Literal["file", "frames", "seconds"] = "file" if whole else "frames" if row.frames else "seconds"
    return Item(id=id, path=row.path, label=label, start=row.start or 0, end=row.end, unit=unit)


def _fits_as_frames(row: Row, m: Measured) -> bool:
    """Whether a span in seconds may have been meant as frames."""
    whole = all(value is None or value == int(value) for value in (row.start, row.end))
    return not row.frames and whole and row.end is not None and row.end <= m.frames


def _said(rows: Mapping[str, list[Row]], clips: Mapping[str, list[Clip]]) -> str:
    """What was found, and the lines whose clips cannot be used or are too short for the prompts to see any motion."""
    lines = [count_table(clips)]
    pairs = [pair for split in clips for pair in zip(rows[split], clips[split], strict=True)]
    bad_rows = [
        f"{row.where}: {c.path}: {c.status}, {c.tags['problem']}" for row, c in pairs if c.status != "ok"
    ]
    short = [f"{row.where}: {c.path}: {c.length} frame(s)" for row, c in pairs if "short" in c.tags]
    if bad_rows:
        lines.append(f"{len(bad_rows):,} clip(s) cannot be used:\n{shortlist(bad_rows)}")
    if short:
        lines.append(
            f"{len(short):,} clip(s) have fewer than {SHORT} frames, so that models see frames more than once, and "
            f"the difference of equal frames is zero:\n{shortlist(short)}"
        )
    return "\n".join(lines)


def measured(
    cache: Path,
    root: Path,
    paths: Sequence[str],
    *,
    progress: bool = True,
    workers: int | None = None,
    timeout: float = TIMEOUT,
) -> dict[str, Measured]:
    """Measure the videos that the cache does not know; it grows by a line a file, so this can be interrupted."""
    known: dict[tuple[str, int, int], Measured] = {}
    if cache.exists():
        for line in cache.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
                m = entry["measured"]
                if entry["version"] == MEASURING:
                    m["readers"] = tuple(m["readers"])
                    known[entry["file"], entry["size"], entry["time"]] = Measured(**m)
            except (ValueError, KeyError, TypeError):
                continue  # a line cut short by a kill
    out: dict[str, Measured] = {}
    files: dict[Path, str] = {}
    for path in paths:
        try:
            file = inside(root, path)
        except ValueError as error:
            raise ManifestError(str(error)) from None
        out_of_cache = known.get(_stamp(file))
        if out_of_cache:
            out[path] = out_of_cache
        else:
            files.setdefault(file, path)
    fresh: dict[Path, Measured] = {}
    if files:
        with (
            open(cache, "a", encoding="utf-8") as log,
            bar("measure videos", len(files), shown=progress) as shown,
        ):
            for file, result in measure_all(files, workers=workers, timeout=timeout):
                fresh[file] = result
                name, size, changed = _stamp(file)
                entry = {
                    "version": MEASURING,
                    "file": name,
                    "size": size,
                    "time": changed,
                    "measured": asdict(result),
                }
                if result.status != "missing" and not result.reason.startswith(GAVE_UP):
                    log.write(json.dumps(entry) + "\n")
                    log.flush()
                shown.advance()
    for path in paths:
        if path not in out:
            out[path] = fresh[inside(root, path)]
    return out


def _stamp(file: Path) -> tuple[str, int, int]:
    try:
        info = os.stat(file)
    except OSError:
        return str(file), -1, -1
    return str(file), info.st_size, info.st_mtime_ns
