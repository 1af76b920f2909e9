"""Kinetics-400/600/700, UCF-101 and Something-Something v2, each as a description, from their official lists.

Notes:
- a video is found by its id in any folder (`Locator`): Kinetics' clips as they were cut (`ID_000010_000020.mp4`) or the
  whole videos they are spans of, UCF-101's files, Something-Something's numbers;
- Kinetics' lists shrink as videos leave YouTube: a list may be longer than the shortest published one, not shorter.
  They have been published with and without the labels of the test set; a list without labels is not used;
- UCF-101's class HandstandPushups has files that are called HandStandPushups; its test lists have no labels, so that
  the class is the folder's name; videos of one group show the same people and are never on two sides of a split;
- Something-Something's label is the template without its brackets, and its number comes from the labels file.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from vmp.data.manifest import raise_faults, read_annotation
from vmp.errors import ConfigError, ManifestError
from vmp.prepare.list_format import Row, read_list
from vmp.prepare.locate import Locator
from vmp.prepare.plan import Check, DatasetPlan, Item, check_equal, first_of, read_lines

_NAMES = {  # list -> names under which it was published, the official ones first
    "train": ("train.csv", "kinetics_train.csv"),
    "val": ("validate.csv", "val.csv", "kinetics_val.csv"),
    "test": ("test.csv", "kinetics_test.csv"),
    "classes": ("classInd.txt",),
    "labels": ("something-something-v2-labels.json", "labels.json"),
    "train.json": ("something-something-v2-train.json", "train.json"),
    "validation.json": ("something-something-v2-validation.json", "validation.json"),
    "answers": ("something-something-v2-test-answers.csv", "test-answers.csv"),
}
_UCF_VIDEO = re.compile(r"(?P<folder>[A-Za-z]+)/(?P<stem>v_[A-Za-z]+_(?P<group>g\d\d)_c\d\d)\.avi")


class Lists(NamedTuple):
    """What the lists of a dataset say."""

    rows: dict[str, list[Row]]  # "split1/test" -> its clips, by id, with the class's name as label
    classes: tuple[str, ...] = ()  # in the order of their numbers; empty: the training labels, sorted
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Official:
    """What a dataset holds, and how its lists are read."""

    about: str
    page: str
    licence: str
    classes: int
    clips: Mapping[str, int]  # of each split; for Kinetics, of the shortest list that was published
    counted: str  # where these counts come from
    read: Callable[["Official", Path], Lists]
    shrinks: bool = False  # whether lists of later years are shorter

    def find(self, folder: Path, name: str) -> Path:
        names = _NAMES.get(name, (name,))
        if file := first_of(folder, names):
            return file
        raise ConfigError(
            f"--annotations {folder}: holds no {' or '.join(names)}; fetch the lists from {self.page}"
        )


def plan_official(name: str, videos: Path, annotations: Path) -> DatasetPlan:
    """The manifests of a dataset by its official lists, which lie in `annotations` at any depth."""
    official = OFFICIAL[name]
    for option, folder in (("--videos", videos), ("--annotations", annotations)):
        if not folder.is_dir():
            raise ConfigError(
                f"{option} {folder}: no such folder; {official.page} says what there is of {name}"
            )
    lists = official.read(official, annotations)
    classes = lists.classes or tuple(sorted({row.label for row in lists.rows["train"]}))
    number = {label: n for n, label in enumerate(classes)}
    strange = [row for part in lists.rows.values() for row in part if row.label not in number]
    raise_faults(
        [f"{row.where}: {row.label[:80]!r} is not one of the {len(classes)} classes" for row in strange]
    )
    locator, faults = Locator(videos), list[str]()

    def items(part: list[Row]) -> tuple[Item, ...]:
        found = locator.locate_all(part, annotations, faults)
        ids = {row.where: _clip_id(row) for row in part}
        return tuple(row.item(id=ids[row.where], label=number[row.label]) for row in found)

    plans = {split: items(part) for split, part in lists.rows.items()}
    raise_faults(faults)
    checks = [check_equal("classes", official.classes, len(classes))]
    for split, count in official.clips.items():
        if split not in plans:
            continue
        found = len(plans[split])
        what = f"clips in {split}"
        if official.shrinks:
            checks.append(Check(what, f"at least {count:,}", f"{found:,}", found >= count))
        else:
            checks.append(check_equal(what, count, found))
    notes = [
        f"source: {official.page}; licence: {official.licence}",
        f"expected counts: {official.counted}",
        *lists.notes,
    ]
    return DatasetPlan(
        name=name,
        classes=classes,
        splits=plans,
        videos=videos,
        checks=(*checks, *lists.checks, *_check_apart(lists.rows)),
        notes=tuple(notes),
        options={"annotations": str(annotations)},
    )


def _clip_id(row: Row) -> str:
    """The id of a clip, as unique as its span; clips of one class and group, or of Kinetics, share a folder."""
    if row.start is not None and row.end is not None:
        return f"{row.label}/{row.path}_{int(row.start):06}_{int(row.end):06}"
    return f"{row.label}/{row.path}" if row.group else row.path


def _check_apart(rows: Mapping[str, list[Row]]) -> list[Check]:
    """Whether no clip, or group of videos, is on two sides of a split."""
    checks = []
    for home in sorted({split.rpartition("/")[0] for split in rows}):
        parts = [part for split, part in rows.items() if split.rpartition("/")[0] == home]
        kept = [
            {(row.label, row.group) if row.group else (row.path, row.start) for row in part} for part in parts
        ]
        sides = Counter(name for names in kept for name in names)
        shared = [name for name, count in sides.items() if count > 1]
        what = "groups" if any(row.group for row in parts[0]) else "clips"
        checks.append(check_equal(f"{what} on two sides of {home or 'the split'}", 0, len(shared)))
    return checks


# --- the lists -----------------------------------------------------------------------------------------------------


def _kinetics(official: Official, folder: Path) -> Lists:
    rows: dict[str, list[Row]] = {}
    notes: list[str] = []
    for split in ("train", "val"):
        rows[split] = read_list(official.find(folder, split))
    test = first_of(folder, _NAMES["test"])
    lines = read_lines(test) if test else []
    if test and not (lines and re.search(r"\blabel\b", lines[0][1], re.IGNORECASE)):
        notes.append(f"{test}: says no labels and is not used")
    elif test:
        rows["test"] = read_list(test)
    spanless = [row for part in rows.values() for row in part if row.start is None or row.end is None]
    raise_faults([f"{row.where}: has no time_start and time_end" for row in spanless])
    checks: tuple[Check, ...] = ()
    if official.classes == 400:
        shipped = files("vmp.backbones").joinpath("classes", "k400.txt").read_text(encoding="utf-8")
        same = set(shipped.splitlines()) == {row.label for row in rows["train"]}
        checks = (Check("class names", "those of weights=k400", "those" if same else "others", same),)
    return Lists(rows, checks=checks, notes=tuple(notes))


def _ucf101(official: Official, folder: Path) -> Lists:
    faults: list[str] = []
    numbered: dict[str, int] = {}
    file = official.find(folder, "classes")
    for line, text in read_lines(file):
        number, _, name = text.partition(" ")
        if not re.fullmatch(r"[0-9]{1,3} [A-Za-z]+", text) or name in numbered:
            faults.append(f"{file}:{line}: {text[:80]!r} is not `number class`, once for each class")
        numbered[name] = int(number) if number.isascii() and number.isdigit() else 0
    by_number = sorted(numbered, key=lambda name: numbered[name])
    if sorted(numbered.values()) != list(range(1, len(numbered) + 1)):
        faults.append(f"{file}: classes are numbered from 1 without gaps")
    folded = {name.lower(): name for name in numbered}  # copies differ in HandstandPushups
    rows: dict[str, list[Row]] = {}
    for split in (1, 2, 3):
        for part in ("train", "test"):
            rows[f"split{split}/{part}"] = own = []
            file = official.find(folder, f"{part}list{split:02}.txt")
            for line, text in read_lines(file):
                where, (path, _, number) = f"{file}:{line}", text.partition(" ")
                match = _UCF_VIDEO.fullmatch(path)
                label = folded.get(match["folder"].lower(), match["folder"]) if match else ""
                if (
                    not match
                    or (number and number != str(numbered.get(label)))
                    or (part == "train" and not number)
                ):
                    faults.append(
                        f"{where}: {text[:80]!r} is not `class/v_class_g00_c00.avi` and the class's number"
                    )
                else:
                    own.append(Row(where, match["stem"], label, group=match["group"], id=True))
    raise_faults(faults)
    return Lists(rows, tuple(by_number))


def _something(official: Official, folder: Path) -> Lists:
    labels = official.find(folder, "labels")
    numbered = _json(labels, dict)
    if sorted(str(number) for number in numbered.values()) != sorted(map(str, range(len(numbered)))):
        raise ManifestError(f"{labels}: is not {{label: number}} with numbers from 0 without gaps")
    classes = tuple(sorted(numbered, key=lambda label: int(numbered[label])))
    rows: dict[str, list[Row]] = {}
    faults: list[str] = []
    for split, name in (("train", "train.json"), ("val", "validation.json")):
        file = official.find(folder, name)
        rows[split] = own = []
        for position, entry in enumerate(_json(file, list), 1):
            where = f"{file}, entry {position}"
            known = isinstance(entry, dict) and all(
                isinstance(entry.get(key), str) for key in ("id", "template")
            )
            if not known or not re.fullmatch(r"[0-9]{1,9}", entry["id"]):
                faults.append(f"{where}: has no id (a number) and template")
            else:
                own.append(Row(where, entry["id"], re.sub(r"[\[\]]", "", entry["template"]), id=True))
    raise_faults(faults)
    if answers := first_of(folder, _NAMES["answers"]):
        rows["test"] = []
        for line, text in read_lines(answers):
            id, separator, label = text.partition(";")
            if not separator or not re.fullmatch(r"[0-9]{1,9}", id):
                faults.append(f"{answers}:{line}: {text[:80]!r} is not `id;label`")
            else:
                rows["test"].append(Row(f"{answers}:{line}", id, label.strip().strip('"'), id=True))
        raise_faults(faults)
    return Lists(rows, classes)


def _json(path: Path, kind: type) -> Any:
    try:
        found = json.loads(read_annotation(path))
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path}: not JSON ({error}); fetch it again") from None
    if not isinstance(found, kind) or not found:
        what = "an object" if kind is dict else "a list"
        raise ManifestError(f"{path}: must be {what} that is not empty; fetch it again")
    return found


# --- the datasets --------------------------------------------------------------------------------------------------


_KINETICS = Official(
    about="Kinetics-400: 400 classes, 10-second clips of YouTube videos",
    page="https://github.com/cvdfoundation/kinetics-dataset (CSV files train, validate or val, test)",
    licence="CC BY 4.0 for the lists; the videos are their owners'",
    classes=400,
    clips={"train": 219782, "val": 18035, "test": 35357},
    counted="the shortest published lists, https://docs.voxel51.com/dataset_zoo/datasets/kinetics_400.html (2026-11)",
    read=_kinetics,
    shrinks=True,
)
OFFICIAL: dict[str, Official] = {
    "kinetics400": _KINETICS,
    "kinetics600": replace(
        _KINETICS,
        about="Kinetics-600: 600 classes",
        classes=600,
        clips={"train": 370582, "val": 28313, "test": 56618},
        counted=_KINETICS.counted.replace("_400", "_600"),
    ),
    "kinetics700": replace(
        _KINETICS,
        about="Kinetics-700, and Kinetics-700-2020: 700 classes",
        classes=700,
        clips={"train": 529046, "val": 33914, "test": 64260},
        counted=_KINETICS.counted.replace("_400", "_700_2020 and kinetics_700"),
    ),
    "ucf101": Official(
        about="UCF-101: 101 classes, three splits",
        page="https://www.crcv.ucf.edu/data/UCF101.php (UCF101TrainTestSplits-RecognitionTask.zip)",
        licence="none stated; research use",
        classes=101,
        clips={
            f"split{number}/{part}": count
            for number, counts in enumerate(((9537, 3783), (9586, 3734), (9624, 3696)), 1)
            for part, count in zip(("train", "test"), counts, strict=True)
        },
        counted="the lists themselves, counted 2026-11; each split has all 13,320 videos",
        read=_ucf101,
    ),
    "ssv2": Official(
        about="Something-Something v2: 174 classes",
        page="https://www.qualcomm.com/developer/software/something-something-v-2-dataset (an account is needed)",
        licence="research use, by Qualcomm's data licence agreement",
        classes=174,
        clips={"train": 168913, "val": 24777, "test": 27157},
        counted="https://huggingface.co/datasets/HuggingFaceM4/something_something_v2 (2026-11)",
        read=_something,
    ),
}
