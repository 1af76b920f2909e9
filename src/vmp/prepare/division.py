"""Divides labelled clips into train, val and test.

Notes:
- a split that the clips bring along is taken as it is; else splits.py makes one, by ratio or fold;
- a training clip whose file is, byte for byte, that of a tested clip is left out and named (of a user's lists, which
  are taken as they are, it is named);
- what would make a test wrong (a group or a label on two sides, a class that was never trained) is an error.
"""

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmp.data.columns import Clip
from vmp.data.decode import check_is_video_file
from vmp.data.frames import frame_files
from vmp.data.manifest import raise_faults
from vmp.errors import ConfigError, ManifestError, VideoReadError, shortlist
from vmp.prepare.list_format import UNUSED, Row
from vmp.prepare.splits import PARTS, Sample, by_folds, by_ratio


@dataclass(frozen=True, slots=True)
class Division:
    """Clips by split, and what is to be said of it."""

    splits: dict[str, list[Row]]
    unused: list[Row]
    notes: tuple[str, ...] = ()


def divide(
    root: Path,
    rows: Sequence[Row],
    *,
    ratio: Sequence[float] | None = None,
    folds: int | None = None,
    fold: int | None = None,
    seed: int = 0,
    part_groups: bool = False,
) -> Division:
    """The rows by split: as they say themselves, or by ratio, or with one fold tested and the others trained on.

    Args:
        part_groups: take a given split that parts a group, as published ones do, and say so in a note.

    Raises:
        ConfigError: the split is given twice, or not at all.
        ManifestError: the clips cannot be split so, or are labelled or split in two ways.
    """
    given = any(row.split for row in rows)
    chosen = [f"dataset.{key}" for key, value in (("ratio", ratio), ("folds", folds)) if value]
    if given and chosen:
        raise ConfigError(
            f"{', '.join(chosen)}: the clips of {root} are split already, by their folders or a column "
            "split; leave it out, or name the clips in a CSV without that column: dataset.csv=FILE"
        )
    copies = _copies(root, rows)
    samples = _samples(rows, copies)
    if ratio:
        parts = by_ratio(samples, ratio, seed=seed)
    elif folds:
        parts = ["test" if own == fold else "train" for own in by_folds(samples, folds, seed=seed)]
    elif given:
        parts = [row.split for row in rows]
    else:
        raise ConfigError(
            f"{root}: {len(rows)} clips, and nothing says which are tested. Choose a split: "
            "dataset.ratio=[0.8,0,0.2] (shares of train, val and test), or dataset.folds=5 dataset.fold=1 (the first "
            "fifth is tested), or folders train/ and test/, or a column split in a CSV (dataset.csv=FILE)"
        )
    splits = {name: [r for r, p in zip(rows, parts, strict=True) if p == name] for name in (*PARTS, UNUSED)}
    unused = splits.pop(UNUSED)
    notes = _note_empty(splits, samples, ratio) if ratio else []
    notes += check_groups(splits, allowed=part_groups)
    notes += _leave_out_copies(splits, unused, copies)
    notes += note_untested({name: {row.label for row in part} for name, part in splits.items()})
    _check_parts(root, splits)
    return Division({name: part for name, part in splits.items() if part}, unused, tuple(notes))


def _note_empty(
    splits: Mapping[str, Sequence[Row]], samples: Sequence[Sample], ratio: Sequence[float]
) -> list[str]:
    """A note for each part that has a share and no clip."""
    groups = len({sample.group for sample in samples})
    return [
        f"{name} has no clip: its share of {len(samples)} clips in {groups} group(s), which are not parted, is "
        f"{share:g}; raise it in dataset.ratio, set it to 0, add clips, or give a split of your own"
        for name, share in zip(PARTS, ratio, strict=True)
        if share and not splits[name]
    ]


def _samples(rows: Sequence[Row], copies: Mapping[str, str]) -> list[Sample]:
    """What splitting sees: the clips of a group belong together; without groups, copies and spans of one video do."""
    group: dict[str, Row] = {}
    faults = []
    for row in rows:
        other = group.setdefault(row.path, row)
        if other.group != row.group:
            faults.append(f"{row.where}: {row.path} in group {row.group!r}, and in {other.group!r} before")
    raise_faults(faults)
    return [Sample(row.label, row.group or copies.get(row.path, row.path)) for row in rows]


def check_groups(splits: Mapping[str, Sequence[Row]], *, allowed: bool = False) -> list[str]:
    """ManifestError, or a note if it is allowed, for groups with clips in several splits, in whatever case; a note for
    those of one split that differ in case only."""
    having: dict[str, dict[tuple[str, str], Row]] = defaultdict(dict)
    for split, part in splits.items():
        for row in part:
            if row.group:
                having[row.group.casefold()].setdefault((split, row.group), row)
    parted, alike, advice = [], [], ""
    for _, own in sorted(having.items()):
        names = sorted({group for _, group in own})
        named = " and ".join(map(repr, names))
        if len({split for split, _ in own}) > 1:
            parted.append(
                f"group {named}: {', '.join(f'{row.path} in {split}' for (split, _), row in own.items())}"
            )
            if len(names) > 1:
                advice = (
                    "Spell a group alike everywhere, and different groups so that more than case differs. "
                )
        elif len(names) > 1:
            alike.append(named)
    notes = []
    if parted:
        notes.append(f"{len(parted)} group(s) have clips in several splits:\n{shortlist(parted)}")
    if parted and not allowed:
        raise ManifestError(
            f"{notes[0]}\n{advice}Move them to one side, or leave the column group out if that is meant: it names what "
            "must not be parted."
        )
    if alike:
        notes.append(
            f"{len(alike)} group(s) are spelt in several ways and count as different groups:\n{shortlist(alike)}\n"
            "If they are one group, spell them alike: another split may part them."
        )
    return notes


def look_alikes(classes: Sequence[str]) -> list[str]:
    """A note, if some classes differ only in case, in blanks, hyphens and underscores, or in how accents are coded."""
    same: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        same[re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", name)).strip().casefold()].append(name)
    found = [" and ".join(map(repr, names)) for names in same.values() if len(names) > 1]
    if not found:
        return []
    return [
        f"{len(found)} group(s) of classes look alike and are trained as different classes:\n{shortlist(found)}\n"
        "If they are one class, spell them alike."
    ]


def _copies(root: Path, rows: Sequence[Row]) -> dict[str, str]:
    """Path -> digest of the contents, for files that are the same as another; ManifestError if these are labelled
    differently."""
    digests = _same_files(root, {row.path for row in rows})
    first: dict[str, Row] = {}
    faults = []
    for row in rows:
        if row.path not in digests or not row.whole:
            continue
        other = first.setdefault(digests[row.path], row)
        if other.label != row.label:
            faults.append(f"{row.path} as {row.label!r}, {other.path} as {other.label!r}")
    if faults:
        raise ManifestError(
            f"{len(faults)} file(s) are the same, byte for byte, under two labels:\n{shortlist(faults)}\n"
            "Remove the copy whose label is wrong."
        )
    return digests


def note_copies(root: Path, splits: Mapping[str, Sequence[tuple[str, Clip]]]) -> list[str]:
    """A note, if videos of one split are copies, byte for byte, of those of another, or spans of copies overlap; frame
    folders, of which every picture would have to be looked at, are not compared. splits: usable clips, measured, and
    where each is listed."""
    paths = {clip.path for part in splits.values() for _, clip in part}
    digests = _same_files(root, (path for path in paths if not (root / path).is_dir()))
    copies: dict[str, list[tuple[str, str, Clip]]] = defaultdict(list)
    for split, part in splits.items():
        for where, clip in part:
            if clip.path in digests:
                copies[digests[clip.path]].append((split, where, clip))
    lines: dict[str, str] = {}  # where the clip is -> what is said of it
    for clips in copies.values():
        # split -> the two paths that reach furthest so far, and to which frame
        reach: dict[str, dict[str, int]] = defaultdict(dict)
        for split, where, clip in sorted(clips, key=lambda one: one[2].start):
            for other, furthest in reach.items():
                for path, end in furthest.items():
                    if other != split and path != clip.path and end > clip.start:
                        lines.setdefault(where, f"{where}: {clip.path} of {split} is {path} of {other}")
            own = reach[split]
            own[clip.path] = max(own.get(clip.path, 0), clip.start + clip.length)
            if len(own) > 2:
                del own[min(reversed(own), key=own.__getitem__)]
    if not lines:
        return []
    return [
        f"warning: {len(lines)} clip(s) are copies, byte for byte, of files of another split:\n"
        f"{shortlist([*lines.values()])}\n"
        "Take them out of one of the lists, or the accuracy will be too high."
    ]


def note_untested(labels: Mapping[str, set[str]]) -> list[str]:
    """A note for val and test, if they have no clip of some classes that are trained. labels: of each split."""
    trained = labels.get("train", set())
    notes = []
    for name in ("val", "test"):
        tested = labels.get(name)
        if tested and (missing := sorted(trained - tested)):
            shown = ", ".join(map(repr, missing[:10])) + (", ..." if len(missing) > 10 else "")
            notes.append(f"{len(missing)} of {len(trained)} classes have no clip in {name}: {shown}")
    return notes


def _same_files(root: Path, paths: Iterable[str]) -> dict[str, str]:
    """Path -> digest of the contents, for each file or frame folder that is the same as another one.

    Only files of one size are opened, and only those that begin alike are read to the end. What cannot be a video, such
    as the empty files and web pages that failed downloads leave, is no copy: measuring will refuse it.
    """
    files = {path: _files(root / path) for path in sorted(paths)}
    files = {path: own for path, own in files.items() if own}  # missing ones are reported with the others

    def digest(file: Path, most: int = -1) -> str:
        try:
            with open(file, "rb") as stream:
                if most < 0:
                    return hashlib.file_digest(stream, "sha256").hexdigest()
                return hashlib.sha256(stream.read(most)).hexdigest()
        except OSError:  # measuring will say why
            return str(file)

    def alike(paths: Iterable[str], key: Callable[[Path], Any]) -> dict[str, tuple[Any, ...]]:
        keys = {path: tuple(map(key, files[path])) for path in paths}
        times = Counter(keys.values())
        return {path: own for path, own in keys.items() if times[own] > 1}

    sized = alike(files, lambda file: file.stat().st_size)
    begun = alike(sized, lambda file: digest(file, 2**16))
    same = alike(begun, digest)
    return {path: "".join(own) for path, own in same.items() if not _is_refused(root / path, files[path])}


def _is_refused(path: Path, files: Sequence[Path]) -> bool:
    """Whether a file is no video by its first bytes, or a frame folder has empty pictures."""
    if path.is_dir():
        return not all(file.stat().st_size for file in files)
    try:
        check_is_video_file(path)
    except VideoReadError:
        return True
    return False


def _files(path: Path) -> list[Path]:
    """A video, or the pictures of a frame folder; none where it is missing, or where measuring will refuse it."""
    if not path.is_dir():
        return [path] if path.is_file() else []
    try:
        files = frame_files(path)
    except VideoReadError:
        return []
    return files if all(file.is_file() for file in files) else []


def _leave_out_copies(
    splits: dict[str, list[Row]], unused: list[Row], copies: Mapping[str, str]
) -> list[str]:
    """Move clips of train and val whose file is that of a clip tested later to `unused`; returns notes."""
    notes = []
    for name, later in (("train", ("val", "test")), ("val", ("test",))):
        tested = {copies[row.path]: row for part in later for row in splits[part] if row.path in copies}
        out = [row for row in splits[name] if copies.get(row.path) in tested]
        if out:
            splits[name] = [row for row in splits[name] if copies.get(row.path) not in tested]
            unused += out
            lines = [f"{row.path} is {tested[copies[row.path]].path}" for row in out]
            notes.append(
                f"{len(out)} clip(s) of {name} are left out, whose files are copies of tested ones:\n{shortlist(lines)}"
            )
    return notes


def _check_parts(root: Path, splits: Mapping[str, Sequence[Row]]) -> None:
    """Raise ManifestError where there is nothing to train on or to test on, or a class is tested and not trained."""
    if not splits["train"] or not (splits["val"] or splits["test"]):
        counts = ", ".join(f"{len(part)} in {name}" for name, part in splits.items())
        raise ManifestError(f"{root}: {counts}; wanted are clips in train, and in val or test")
    trained = {row.label for row in splits["train"]}
    faults = [
        f"class {label!r} is in {name} ({next(r.path for r in splits[name] if r.label == label)}) but not in train"
        for name in ("val", "test")
        for label in sorted({row.label for row in splits[name]} - trained)
    ]
    if faults:
        raise ManifestError(
            f"{len(faults)} class(es) would be tested without having been trained:\n{shortlist(faults)}\n"
            f"Classes of train: {', '.join(sorted(trained))[:400]}. Spell them alike, or move clips to train."
        )
