"""Lists of a user's own videos, made into manifests.

Notes:
- list_format.py reads the text of a list, locate.py finds the files that it means;
- labels are all class numbers or all class names; lists in which they could be either are refused;
- measurements are kept in measured.jsonl, so that a file of the same size and time is not measured again.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from vmp.data.columns import Clip
from vmp.data.manifest import parse_label, raise_faults, read_classes, spread
from vmp.data.times import Clock
from vmp.errors import ConfigError, ManifestError, shortlist
from vmp.prepare.children import Work
from vmp.prepare.dataset import count_table, lock_folder, write_manifests
from vmp.prepare.division import check_groups, look_alikes, note_copies, note_untested
from vmp.prepare.list_format import NUMERIC, Row, check_numbers, read_list, sort_labels
from vmp.prepare.locate import Locator
from vmp.prepare.measure import Measured, measure_cached
from vmp.prepare.plan import DatasetPlan
from vmp.prepare.rows import (
    describe_pauses,
    describe_short,
    describe_untried,
    in_place_rows,
    tag_short,
    unusable,
)


def make_list(
    home: Path,
    *,
    videos: Path,
    lists: Mapping[str, Path],
    classes_file: Path | None = None,
    clock: Clock = "file",
    fps: float | None = None,
    most: int | None = None,
    **work: Unpack[Work],
) -> Path:
    """Write the manifests of some lists under home, print a summary, and return their folder.

    As for every dataset, a span that reaches more than a second beyond its video makes its clip partial.

    Args:
        videos: folder that the paths in the lists are relative to.
        lists: split -> list file; train and val at least.
        classes_file: one class name per line; None takes the classes from the labels.
        fps: of frame folders, which do not say it; None: not known.
        most: clips of a split, spread over its list, for a quick look; None: all.
    """
    _check_paths(videos, lists)
    locator = Locator(videos)
    rows = _locate_all(locator, lists)
    _check_apart(lists, rows)
    notes = check_groups(rows)
    classes, labels = _assign_labels(rows, classes_file)
    notes += look_alikes(classes)
    notes += note_untested(
        {split: {classes[labels[split][row.label]] for row in part} for split, part in rows.items()}
    )
    rows = {split: list(spread(part, most)) for split, part in rows.items()}
    items = {
        split: tuple(
            replace(row, group="").item(id=f"{split}/{n:06}", label=labels[split][row.label])
            for n, row in enumerate(part)
        )
        for split, part in rows.items()
    }
    plan = DatasetPlan(name="list", classes=classes, splits=items, videos=videos, clock=clock, fps=fps or 0.0)
    folder = home / _digest(plan, rows)
    home.mkdir(parents=True, exist_ok=True)
    with lock_folder(home, **work):
        paths = sorted({item.path for item in plan.items})
        found = measure_cached(home / "measured.jsonl", videos, paths, **work)
        clips = _clips(plan, rows, found)
        write_manifests(clips, classes, folder, videos, within=home)
    if work.get("progress", True):
        notes += [*describe_untried(found), *_note_elsewhere(locator, clips)]
        notes += note_copies(videos, _usable(rows, clips))
        print("\n".join([_summarize(rows, clips), *notes]))
    return folder


def _check_paths(videos: Path, lists: Mapping[str, Path]) -> None:
    """Raise ConfigError if the folder of the videos, or a list, does not exist."""
    if not videos.is_dir():
        raise ConfigError(f"dataset.root = {videos}: no such folder; paths in the lists are relative to it")
    for split, file in lists.items():
        if not file.is_file():
            what = "a folder; name the list in it" if file.is_dir() else "no such file"
            raise ConfigError(f"dataset.{split} = {file}: {what}")


def _digest(plan: DatasetPlan, rows: Mapping[str, list[Row]]) -> str:
    """The name of a plan's folder: 8 digits, other ones for other videos, classes, rows, clock or rates."""
    every = [row for part in rows.values() for row in part]
    parts = [str(plan.videos.resolve()), repr(plan.classes), *map(repr, every), *rows, plan.clock]
    parts += [f"{rate:g}" for rate in (plan.fps, *(row.fps for row in every)) if rate]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _clips(
    plan: DatasetPlan, rows: Mapping[str, list[Row]], found: Mapping[str, Measured]
) -> dict[str, list[Clip]]:
    """The clip of each row, from what was measured. ManifestError where the lists' frame counts are wrong."""
    _check_frame_counts(rows, found)
    return {
        split: [
            tag_short(_hint_at_frames(clip, row, found[row.path]))
            for clip, row in zip(part, rows[split], strict=True)
        ]
        for split, part in in_place_rows(plan, found).items()
    }


def _usable(
    rows: Mapping[str, list[Row]], clips: Mapping[str, list[Clip]]
) -> dict[str, list[tuple[str, Clip]]]:
    """Of each split the clips that can be used, and where each is listed (file:line)."""
    return {
        split: [(row.where, clip) for row, clip in zip(rows[split], part, strict=True) if clip.status == "ok"]
        for split, part in clips.items()
    }


def _locate_all(locator: Locator, lists: Mapping[str, Path]) -> dict[str, list[Row]]:
    """Rows of all lists, with paths relative to the root; ManifestError for those that cannot be used, or repeat."""
    faults: list[str] = []
    out = {split: locator.locate_all(read_list(file, split), file, faults) for split, file in lists.items()}
    raise_faults(faults)
    return out


def _check_apart(lists: Mapping[str, Path], rows: Mapping[str, list[Row]]) -> None:
    """Raise ConfigError if val and test are the same rows of one file."""
    if not {"val", "test"} <= lists.keys() or not lists["val"].samefile(lists["test"]):
        return
    val, test = ([replace(row, where="") for row in rows[split]] for split in ("val", "test"))
    if val == test:
        raise ConfigError(
            f"dataset.val and dataset.test are one list, {lists['test']}: what validation chooses would be chosen on "
            "the test clips. Leave dataset.test out (val is tested then), or name another list"
        )


def _check_frame_counts(rows: Mapping[str, list[Row]], found: Mapping[str, Measured]) -> None:
    """Raise ManifestError if the number before the label is not how many frames the videos have."""
    counted = [
        (row, row.counted, found[row.path].frames)
        for part in rows.values()
        for row in part
        if row.counted is not None and found[row.path].status == "ok"
    ]
    wrong = [
        f"{row.where}: {row.path}: {listed} in the list, {frames} in the video"
        for row, listed, frames in counted
        if abs(listed - frames) > max(3, 0.05 * frames)  # tools that extract frames lose or repeat a few
    ]
    if 2 * len(wrong) > len(counted):
        raise ManifestError(
            f"two numbers behind a path are read as `path frames label`, but {len(wrong)} of {len(counted)} videos "
            f"have other numbers of frames:\n{shortlist(wrong)}\nLeave out the number that is not the label."
        )


def _hint_at_frames(clip: Clip, row: Row, found: Measured) -> Clip:
    """Where a span in seconds does not lie in its video but fits as frames, add to the problem what may be meant."""
    whole = all(value is None or value == int(value) for value in (row.start, row.end))
    may_be_frames = not row.frames and whole and row.end is not None and row.end <= found.frames
    if clip.status != "partial" or found.status != "ok" or not may_be_frames:
        return clip
    hint = f"if {row.start or 0:g} to {row.end:g} are frames and not seconds, name the columns start_frame,end_frame"
    return unusable(clip, "partial", f"{clip.tags['problem']}; {hint}")


def _summarize(rows: Mapping[str, list[Row]], clips: Mapping[str, list[Clip]]) -> str:
    """The counts, and the lines whose clips cannot be used or are too short for the prompts to see any motion."""
    lines = [count_table(clips)]
    pairs = [pair for split in clips for pair in zip(rows[split], clips[split], strict=True)]
    bad = [f"{row.where}: {c.path}: {c.status}, {c.tags['problem']}" for row, c in pairs if c.status != "ok"]
    short = [f"{row.where}: {c.path}: {c.length} frame(s)" for row, c in pairs if "short" in c.tags]
    if bad:
        lines.append(f"{len(bad):,} clip(s) cannot be used:\n{shortlist(bad)}")
    if short:
        lines.append(describe_short(short))
    lines += describe_pauses((f"{row.where}: {clip.path}", clip) for row, clip in pairs)
    return "\n".join(lines)


def _note_elsewhere(locator: Locator, clips: Mapping[str, list[Clip]]) -> list[str]:
    """A note, if files that are missing have namesakes in other folders of the root."""
    missing = dict.fromkeys(c.path for part in clips.values() for c in part if c.status == "missing")
    found = [f"{path}: {other}" for path in missing if (other := locator.find_namesake(path))]
    if not found:
        return []
    return [
        f"{len(found):,} of {len(missing):,} missing files have their name elsewhere in {locator.root}:\n"
        f"{shortlist(found)}\nCorrect the paths, or name the folder that they count from with dataset.root"
    ]


# --- labels --------------------------------------------------------------------------------------------------------

Labels = dict[str, int]  # label as written -> class id


def _assign_labels(
    rows: Mapping[str, list[Row]], file: Path | None
) -> tuple[tuple[str, ...], dict[str, Labels]]:
    """Class names in the order of their ids, and the class id of each label of each split."""
    if file:
        classes = read_classes(file)
        return classes, {split: _by_name_or_number(part, classes, file) for split, part in rows.items()}
    every = [(split, row) for split, part in rows.items() for row in part]
    known = {row.label for _, row in every}
    numbers = {label for label in known if NUMERIC.fullmatch(label)}
    hint = ""
    if numbers == known:
        check_numbers([row for _, row in every])
        classes = _numbered_classes([row for _, row in every])
        labels = {label: int(label) for label in known}
        hint = ", so that no model could learn it; if that is right, name the classes: dataset.classes=FILE"
    elif numbers:  # one typing error would turn numbers into names, in another order
        numbers_are_few = 2 * len(numbers) <= len(known)
        odd = [row for _, row in every if (row.label in numbers) == numbers_are_few]
        raise ManifestError(
            f"some labels are numbers and some are names:\n{shortlist([f'{r.where}: {r.label[:80]!r}' for r in odd])}\n"
            "If the numbers are names, name the classes: dataset.classes=FILE, one name a line."
        )
    else:
        classes = sort_labels({row.label for row in rows["train"]})
        labels = {name: i for i, name in enumerate(classes)}
    trained = {labels[row.label] for row in rows["train"]}
    faults = [
        f"{row.where}: class {row.label!r} is in {split} but not in train{hint}"
        for split, row in every
        if labels.get(row.label) not in trained
    ]
    raise_faults(faults, "label(s)")
    if len(classes) < 2:
        files = ", ".join(part[0].where.rpartition(":")[0] for part in rows.values())
        raise ManifestError(f"{files}: {len(classes)} class(es); a classifier needs at least 2")
    return classes, dict.fromkeys(rows, labels)


def _numbered_classes(rows: Sequence[Row]) -> tuple[str, ...]:
    """The classes 0 .. n - 1. Raises ManifestError where a number between them never occurs."""
    ids = {int(row.label) for row in rows}
    gaps = [i for i in range(min(max(ids), len(ids)) + 1) if i not in ids]
    if gaps:
        top = next(row.where for row in rows if int(row.label) == max(ids))
        raise ManifestError(
            f"{top}: labels run from {min(ids)} to {max(ids)} but {', '.join(map(str, gaps[:10]))} never occur(s) "
            "in the lists; labels count from 0. If that is right, name the classes: dataset.classes=FILE, one name "
            "a line."
        )
    return tuple(str(i) for i in range(max(ids) + 1))


def _by_name_or_number(rows: Sequence[Row], classes: Sequence[str], file: Path) -> Labels:
    """The class ids of one list's labels, which are all names of classes or all their numbers from 0.

    A label that is the name of one class and the number of another is refused, unless another label rules out numbers,
    as 3 does where the classes are named 1, 2 and 3. Here, 1 is also the name 01.
    """
    by_name = {name: i for i, name in enumerate(classes)}
    by_value = {int(name): i for name, i in by_name.items() if NUMERIC.fullmatch(name)}
    by_number: dict[str, int] = {}
    not_number: dict[str, str] = {}  # label -> why it is no class number
    for label in {row.label for row in rows}:
        try:
            by_number[label] = parse_label(label, len(classes))
        except ValueError as error:
            not_number[label] = str(error)
    names = [row for row in rows if row.label in by_name]
    if not_number and len(names) == len(rows):
        return by_name
    faults = []
    for row in rows:
        label = row.label
        if label in not_number and label not in by_name:
            faults.append(f"{row.where}: {not_number[label]}, nor a class in {file}")
        elif not_number and names and label not in by_name:
            why = f"label {label} is a number, and other labels of the list are names of classes"
            faults.append(f"{row.where}: {why}")
        elif not not_number:
            number = by_number[label]
            named = by_name.get(label, by_value.get(number, number))
            if named != number:
                spelt = "" if classes[named] == label else f", {classes[named]!r},"
                faults.append(
                    f"{row.where}: label {label!r} is the name of class {named}{spelt} in {file}, and the number of "
                    f"class {classes[number]!r}; use names that are not numbers"
                )
    raise_faults(faults, "label(s)")
    check_numbers(rows)
    return by_number
