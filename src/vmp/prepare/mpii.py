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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True, slots=True)
class Annotations:
    """The intervals, and which attributes are set in them."""

    files: tuple[str, ...]  # one per interval, such as s07-d72-cam-002
    verbs: tuple[str, ...]
    starts: tuple[int, ...]  # as annotated: from 1
    ends: tuple[int, ...]  # as annotated: the last frame
    attributes: tuple[str, ...]
    set_in: Any  # (attributes, intervals) bool array
    rate: float | None


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
    a = read_mat(mat)
    known = sorted(set(a.verbs) & set(a.attributes))
    verb_row = {name: row for row, name in enumerate(a.attributes)}
    objects = [(row, name) for row, name in enumerate(a.attributes) if name not in set(a.verbs)]
    labels = {name: label for label, name in enumerate(classes)}
    split_of = {sequence: split for split, part in lists.items() for sequence in part}
    items: dict[str, list[Item]] = {split: [] for split in lists}
    seen: Counter[str] = Counter()
    dropped = 0
    empty = set(split_of)
    faults: list[str] = []
    for i, (file, verb) in enumerate(zip(a.files, a.verbs, strict=True)):
        if verb not in labels:
            dropped += 1
            continue
        sequence = file.split("-cam")[0]
        empty.discard(sequence)
        split = split_of.get(sequence)
        if split is None:
            continue
        first, last = a.starts[i] - frame_base, a.ends[i] + (1 - frame_base)
        if first < 0 or last <= first:
            faults.append(f"interval {i + 1}, {file} {verb}: frames {a.starts[i]} to {a.ends[i]} are no span")
            continue
        name = f"{file}/{a.starts[i]:06}-{a.ends[i]:06}-{verb}"
        seen[name] += 1
        subject, dish = sequence.split("-")
        set_here = " ".join(name.replace(" ", "-") for row, name in objects if a.set_in[row, i])
        items[split].append(
            Item(
                id=name if seen[name] == 1 else f"{name}-{seen[name]}",
                path=find_path(found, file, f"{file}.avi"),
                label=labels[verb],
                start=first,
                end=last,
                unit="frames",
                tags={"objects": set_here, "subject": subject, "dish": dish, "sequence": sequence},
            )
        )
    raise_faults(faults, f"interval(s) of {mat}")
    marked = sum(bool(a.set_in[verb_row[verb], i]) for i, verb in enumerate(a.verbs) if verb in verb_row)
    starts = Counter(zip(a.files, a.verbs, a.starts, strict=True))
    again = sum(count - 1 for count in starts.values())
    base = f"[start - {frame_base}, end{' + 1' if not frame_base else ''})"
    notes = [
        f"{dropped:,} intervals of verbs that are no classes are left out",
        f"frames {base}, counted from 0" + ("" if frame_base else ": one later than annotated"),
        f"{again:,} intervals share file, verb and start with another",
    ]
    if empty:
        notes.append(f"sequences without an interval: {', '.join(sorted(empty))}")
    checks = [
        check_equal("intervals", INTERVALS, len(a.files)),
        check_equal("sequences", SEQUENCES, len({file.split("-cam")[0] for file in a.files})),
        check_equal("verbs", VERBS, len(set(a.verbs) - {""})),
        check_equal("attributes", ATTRIBUTES, len(a.attributes)),
        Check("classes", f"the {len(classes)} shipped", _difference(known, classes), tuple(known) == classes),
        check_equal(
            "intervals whose verb is set", len(a.verbs) - sum(v not in verb_row for v in a.verbs), marked
        ),
        *_check_lists(lists),
    ]
    if a.rate is not None:
        checks.append(Check("frames a second", f"{RATE}", f"{a.rate:g}", abs(a.rate - RATE) < 0.01))
    parts = {split: tuple(part) for split, part in items.items()}
    if train_on_val:
        parts["train"] += parts.pop("val")
        notes.append("the validation subject trains too; there is no validation split")
    return DatasetPlan(
        name="mpii_cooking2",
        classes=classes,
        splits=parts,
        videos=videos,
        checks=tuple(checks),
        notes=tuple(notes),
        options={"frame_base": frame_base, "train_on_val": train_on_val},
    )


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
