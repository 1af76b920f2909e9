"""MPII Cooking 2 (Rohrbach et al. 2016): 14,105 intervals of 273 sequences, one static camera.

Notes:
- the annotations are a MATLAB 7.3 file, which is HDF5: strings are references to arrays of UTF-16 code units,
  dimensions are reversed;
- of 87 verbs, the 67 that are also attributes are classes; labels are positions in the order of the names with their
  final V, which differs from the order without it ("cut apartV" < "cutV", but "cut" < "cut apart");
- intervals of the other 20 verbs are left out; intervals overlap, and there is no background class;
- frames count from 1 and the last belongs to the interval: [start - 1, end). The authors' script takes `start` as
  counted from 0, which shifts every clip by one frame (frame_base=0);
- the validation subject is not part of training, unless train_on_val is set;
- several intervals share file, verb and start, so ids have a number behind them where these do not suffice.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vmp.data.manifest import raise_faults
from vmp.errors import ConfigError, ManifestError
from vmp.prepare.plan import Check, DatasetPlan, Item, check_equal, read_lines, shipped_classes
from vmp.prepare.videos import find_path, find_videos

INTERVALS, SEQUENCES, VERBS, ATTRIBUTES, RATE = 14105, 273, 87, 222, 29.4
LISTS = {"train": "sequencesTrainAttr.txt", "val": "sequencesVal.txt", "test": "sequencesTest.txt"}
IN_LIST = {"train": 201, "val": 17, "test": 42}
MAT = "attributesAnnotations_MPII-Cooking-2.mat"
PAGE = (
    "https://www.mpi-inf.mpg.de/departments/computer-vision-and-machine-learning/research/"
    "human-activity-recognition/mpii-cooking-2-dataset"
)
_FIELDS = ("fileName", "activity", "startFrame", "endFrame", "attributeMap", "iaMat")


class AnnotatedInterval(NamedTuple):
    """A row of the annotations."""

    number: int  # from 1
    file: str  # such as s07-d72-cam-002
    verb: str
    start: int  # as annotated: from 1
    end: int  # as annotated: the last frame

    @property
    def sequence(self) -> str:
        """Such as s07-d72."""
        return self.file.split("-cam")[0]

    def span(self, frame_base: int) -> tuple[int, int]:
        """[start, end) in frames counted from 0, where the annotations count from `frame_base`."""
        return self.start - frame_base, self.end + 1 - frame_base

    def __str__(self) -> str:
        return f"{self.file}/{self.start:06}-{self.end:06}-{self.verb}"


@dataclass(frozen=True, slots=True)
class Annotations:
    """The intervals, and which attributes are set in them."""

    files: tuple[str, ...]  # one per interval
    verbs: tuple[str, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    attributes: tuple[str, ...]
    set_in: Any  # (attributes, intervals) bool array
    rate: float | None

    def intervals(self) -> list[AnnotatedInterval]:
        rows = zip(self.files, self.verbs, self.starts, self.ends, strict=True)
        return [AnnotatedInterval(number, *row) for number, row in enumerate(rows, 1)]


def plan_mpii(
    videos: Path, mat: Path, splits: Path, *, frame_base: int = 1, train_on_val: bool = False
) -> DatasetPlan:
    """Training, validation and test intervals of the 67 verbs.

    Args:
        mat: attributesAnnotations_MPII-Cooking-2.mat.
        splits: folder that holds the sequence lists, at any depth.
        frame_base: 1, as annotated; 0, as the authors' script reads the numbers.
        train_on_val: the validation subject trains too, and there is no validation split.
    """
    classes = shipped_classes("mpii_cooking2")
    found = find_videos(videos)
    lists = read_sequences(splits)
    annotations = read_mat(mat)
    split_of = {sequence: split for split, part in lists.items() for sequence in part}

    of_class = [interval for interval in annotations.intervals() if interval.verb in classes]
    used = [interval for interval in of_class if interval.sequence in split_of]
    _check_spans(used, frame_base, mat)
    items = list(_items(used, annotations, classes, found, frame_base))
    parts = {
        split: tuple(item for item in items if split_of[item.tags["sequence"]] == split) for split in lists
    }

    notes = _notes(annotations, of_class, set(split_of), frame_base)
    if train_on_val:
        parts["train"] += parts.pop("val")
        notes.append("the validation subject trains too; there is no validation split")
    return DatasetPlan(
        name="mpii_cooking2",
        classes=classes,
        splits=parts,
        videos=videos,
        checks=tuple(_checks(annotations, classes, lists)),
        notes=tuple(notes),
        options={"frame_base": frame_base, "train_on_val": train_on_val},
    )


def _check_spans(intervals: Iterable[AnnotatedInterval], frame_base: int, mat: Path) -> None:
    """Raise ManifestError for intervals that begin before the first frame, or end before they begin."""
    faults = []
    for i in intervals:
        start, end = i.span(frame_base)
        if start < 0 or end <= start:
            faults.append(f"interval {i.number}, {i.file} {i.verb}: frames {i.start} to {i.end} are no span")
    raise_faults(faults, f"interval(s) of {mat}")


def _items(
    intervals: Iterable[AnnotatedInterval],
    annotations: Annotations,
    classes: tuple[str, ...],
    found: dict[str, list[str]],
    frame_base: int,
) -> Iterator[Item]:
    """An item for each interval, in their order; `found` as from find_videos."""
    label_of = {name: label for label, name in enumerate(classes)}
    verbs = set(annotations.verbs)
    objects = [
        (row, name.replace(" ", "-")) for row, name in enumerate(annotations.attributes) if name not in verbs
    ]
    seen: Counter[str] = Counter()
    for interval in intervals:
        name = str(interval)
        seen[name] += 1
        start, end = interval.span(frame_base)
        subject, dish = interval.sequence.split("-")
        held = " ".join(object for row, object in objects if annotations.set_in[row, interval.number - 1])
        yield Item(
            id=name if seen[name] == 1 else f"{name}-{seen[name]}",
            path=find_path(found, interval.file, f"{interval.file}.avi"),
            label=label_of[interval.verb],
            start=start,
            end=end,
            unit="frames",
            tags={"objects": held, "subject": subject, "dish": dish, "sequence": interval.sequence},
        )


def _notes(
    annotations: Annotations, of_class: Sequence[AnnotatedInterval], sequences: set[str], frame_base: int
) -> list[str]:
    """What is left out or unexpected; of_class: the intervals whose verb is a class; sequences: of all splits."""
    starts = set(zip(annotations.files, annotations.verbs, annotations.starts, strict=True))
    span = "[start - 1, end), counted from 0"
    if not frame_base:
        span = "[start - 0, end + 1), counted from 0: one later than annotated"
    notes = [
        f"{len(annotations.verbs) - len(of_class):,} intervals of verbs that are no classes are left out",
        f"frames {span}",
        f"{len(annotations.files) - len(starts):,} intervals share file, verb and start with another",
    ]
    if empty := sequences - {interval.sequence for interval in of_class}:
        notes.append(f"sequences without an interval: {', '.join(sorted(empty))}")
    return notes


def _checks(a: Annotations, classes: tuple[str, ...], lists: dict[str, tuple[str, ...]]) -> list[Check]:
    """What holds for the annotations and lists of the complete dataset."""
    known = sorted(set(a.verbs) & set(a.attributes))
    row_of = {name: row for row, name in enumerate(a.attributes)}
    with_row = [(row_of[verb], i) for i, verb in enumerate(a.verbs) if verb in row_of]
    marked = sum(bool(a.set_in[row, i]) for row, i in with_row)
    checks = [
        check_equal("intervals", INTERVALS, len(a.files)),
        check_equal("sequences", SEQUENCES, len({interval.sequence for interval in a.intervals()})),
        check_equal("verbs", VERBS, len(set(a.verbs) - {""})),
        check_equal("attributes", ATTRIBUTES, len(a.attributes)),
        Check("classes", f"the {len(classes)} shipped", _difference(known, classes), tuple(known) == classes),
        check_equal("intervals whose verb is set", len(with_row), marked),
        *_check_lists(lists),
    ]
    if a.rate is not None:
        checks.append(Check("frames a second", f"{RATE}", f"{a.rate:g}", abs(a.rate - RATE) < 0.01))
    return checks


def read_sequences(folder: Path) -> dict[str, tuple[str, ...]]:
    """The sequences of each split, from the lists of experimentalSetup."""
    if not folder.is_dir():
        raise ConfigError(f"--splits {folder}: no such folder; it is the experimentalSetup of {PAGE}")
    there = {name: Path(inner) / name for inner, _, names in os.walk(folder) for name in names}
    lists: dict[str, tuple[str, ...]] = {}
    for split, name in LISTS.items():
        if name not in there:
            raise ConfigError(f"--splits {folder}: holds no {name}; it is in the experimentalSetup of {PAGE}")
        sequences: list[str] = []
        for number, row in read_lines(there[name]):
            word = row.split()[0]
            if word.startswith("#"):
                continue
            match = re.fullmatch(r"(s[0-9]+-d[0-9]+)(-cam-[0-9]+)?", word)
            if not match:
                where = f"{there[name]}:{number}"
                raise ManifestError(f"{where}: {word[:60]!r} is not a sequence such as s07-d72")
            sequences.append(match[1])
        lists[split] = tuple(dict.fromkeys(sequences))
    return lists


def read_mat(path: Path) -> Annotations:
    """The fields of the annotation file that are used; ConfigError if it or h5py is missing, else ManifestError."""
    if not path.is_file():
        raise ConfigError(f"--mat {path}: no such file; fetch annos/{MAT} from {PAGE}")
    try:
        import h5py
        import numpy as np
    except ImportError:
        raise ConfigError(f"--mat {path}: reading it needs h5py: pip install h5py") from None
    try:
        with h5py.File(path, "r") as file:
            annos = file.get("annos")
            lacking = [name for name in _FIELDS if annos is None or name not in annos]
            if lacking:
                raise ManifestError(
                    f"{path}: has no annos/{', annos/'.join(lacking)}; it must be {MAT} of MPII Cooking 2 (not 1)"
                )
            a = Annotations(
                files=_strings(file, annos["fileName"]),
                verbs=_strings(file, annos["activity"]),
                starts=_whole(annos["startFrame"]),
                ends=_whole(annos["endFrame"]),
                attributes=_strings(file, annos["attributeMap"]),
                set_in=np.asarray(annos["iaMat"][()]) > 0,
                rate=float(annos["frameRate"][()].ravel()[0]) if "frameRate" in annos else None,
            )
    except ManifestError:
        raise
    except Exception as error:  # h5py raises every kind of exception
        why = f"cannot be read as a MATLAB 7.3 file ({error})"
        raise ManifestError(f"{path}: {why}; fetch it again") from None
    count = len(a.files)
    lengths = {"activity": len(a.verbs), "startFrame": len(a.starts), "endFrame": len(a.ends)}
    wrong = [f"{name} has {length} rows" for name, length in lengths.items() if length != count]
    if a.set_in.shape != (len(a.attributes), count):
        wrong.append(f"iaMat is {a.set_in.shape}, not ({len(a.attributes)}, {count})")
    if wrong:
        raise ManifestError(f"{path}: fileName has {count} rows, but {'; '.join(wrong)}; fetch it again")
    return a


def _strings(file: Any, cells: Any) -> tuple[str, ...]:
    """A cell array of strings: references to arrays of UTF-16 code units."""

    def text(value: Any) -> str:
        if value.attrs.get("MATLAB_empty", 0) or not value.size:  # an empty string is stored as its size
            return ""
        return value[()].ravel().astype("<u2").tobytes().decode("utf-16-le").strip()

    return tuple(text(file[reference]) for reference in cells[()].ravel())


def _whole(numbers: Any) -> tuple[int, ...]:
    values = numbers[()].ravel()
    if not (values == values.round()).all():
        raise ValueError(f"{numbers.name} holds numbers that are not whole")
    return tuple(int(value) for value in values)


def _difference(known: list[str], classes: tuple[str, ...]) -> str:
    other = sorted(set(classes) ^ set(known))
    if not other:
        return f"{len(known)}"
    return f"{len(known)}, with {len(other)} that differ: {', '.join(other[:5])}{', ...' if len(other) > 5 else ''}"


def _check_lists(lists: dict[str, tuple[str, ...]]) -> list[Check]:
    checks = [
        check_equal(f"sequences in {split}", IN_LIST[split], len(part)) for split, part in lists.items()
    ]
    subjects = {split: {sequence.split("-")[0] for sequence in part} for split, part in lists.items()}
    times = Counter(subject for part in subjects.values() for subject in part)
    both = sorted(subject for subject, count in times.items() if count > 1)
    return [*checks, Check("subjects in two splits", "none", ", ".join(both) or "none", not both)]
