"""HMDB-51 (Kuehne et al. 2011): 6,766 whole files, 51 classes, three splits given by 153 files.

Notes:
- class ids come from the class list of this package. Sorting the split files would put climb_stairs before climb, a
  directory listing shifts with every stray folder, and a third order is in use elsewhere;
- file names may start with `-` or `#` and contain `[`, `;`, `&`, `!`, so they are matched as plain text, and no line
  is a comment;
- a line ends with a space; 1 means training, 2 test, and 0 not used in this split;
- files are found by name in any layout, and as .mp4 or .mkv where they were encoded again.
"""

import hashlib
import os
import re
from collections import Counter
from pathlib import Path

from vmp.data.manifest import raise_faults
from vmp.errors import ConfigError
from vmp.prepare.plan import Check, DatasetPlan, Item, check_equal, read_lines, shipped_classes
from vmp.prepare.videos import find_path, find_videos

FOLDS = (1, 2, 3)
CLIPS, USED, PER_CLASS = 6766, 6371, (70, 30)  # mmaction2 lists only the clips that a split uses
DIGEST = "e9bf6ee4467e004367f33f09e09e26ea4567e3899bebb11c8ff4dd05c8fff142"  # of the 153 files, see digest()
PAGE = "https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/"
PLACES = ("testTrainMulti_7030_splits", "splits", "annotations", "hmdb51_splits", "test_train_splits")
_NAME = re.compile(r"[^/\\\x00-\x1f]+\.avi")
_USES = {"0": "unused", "1": "train", "2": "test"}
_SPLIT_FILE = re.compile(r"_test_split_?[123]\.txt$|^hmdb51_train_split_[123]_videos\.txt$")
_TAGS = re.compile(
    r"_(?P<vis>[hulf])_(?P<cam>cm|nm)_np(?P<people>\d+)_(?P<view>fr|le|ri|ba)_(?P<quality>goo|med|bad)_\d+$"
)
Fold = dict[str, tuple[str, str]]  # file name -> class, "train" | "test" | "unused"


def plan_hmdb51(videos: Path, splits: Path | None = None) -> DatasetPlan:
    """Three folds from the official split files, or from mmaction2's lists.

    If `splits` is None, they are looked for under and beside the videos.
    """
    classes = shipped_classes("hmdb51")
    found = find_videos(videos)
    folds, checks = read_splits(_splits_folder(videos, splits), classes)
    listed = {name: category for fold in folds.values() for name, (category, _) in fold.items()}

    def item(name: str, category: str) -> Item:
        stem = Path(name).stem
        match = _TAGS.search(stem)
        return Item(
            id=f"{category}/{stem}",
            path=find_path(found, stem, f"{category}/{name}", folder=category),
            label=classes.index(category),
            tags=match.groupdict() if match else {},
        )

    plans: dict[str, tuple[Item, ...]] = {}
    per_class = 0
    for number, fold in folds.items():
        for split in ("train", "test"):
            names = sorted(name for name, (_, use) in fold.items() if use == split)
            plans[f"split{number}/{split}"] = tuple(item(name, fold[name][0]) for name in names)
        pairs = Counter(fold.values())
        per_class += sum((pairs[c, "train"], pairs[c, "test"]) == PER_CLASS for c in classes)
    full = any(use == "unused" for fold in folds.values() for _, use in fold.values())
    total = CLIPS if full else USED
    checks += [
        check_equal("classes", len(classes), len(set(listed.values()))),
        check_equal("clips in the lists", total, len(listed)),
        check_equal("classes with 70 / 30 clips, over three splits", len(classes) * len(FOLDS), per_class),
    ]
    for number, fold in folds.items():
        uses = Counter(use for _, use in fold.values())
        text = "{:,} / {:,} / {:,}"
        expected = text.format(3570, 1530, total - 5100)
        count = text.format(uses["train"], uses["test"], len(listed) - uses["train"] - uses["test"])
        checks.append(check_equal(f"split {number}, train / test / unused", expected, count))
    used = {item.id for items in plans.values() for item in items}
    notes = [f"{len(listed) - len(used):,} clips of the lists are in no split and not looked for"]
    return DatasetPlan(
        name="hmdb51", classes=classes, splits=plans, videos=videos, checks=tuple(checks), notes=tuple(notes)
    )


def read_splits(folder: Path, classes: tuple[str, ...]) -> tuple[dict[int, Fold], list[Check]]:
    """The use of each file in each of the three splits. Raises ManifestError with file:line of each fault."""
    official = {
        (match[1], int(match[2])): file
        for file in sorted(folder.iterdir())
        if (match := re.fullmatch(r"([^.].*)_test_split_?([123])\.txt", file.name))
    }
    lists = {
        (int(match[2]), "train" if match[1] == "train" else "test"): file
        for file in sorted(folder.iterdir())
        if (match := re.fullmatch(r"hmdb51_(train|val|test)_split_([123])_videos\.txt", file.name))
    }
    faults: list[str] = []
    folds: dict[int, Fold] = {number: {} for number in FOLDS}

    def add(where: str, number: int, name: str, category: str, use: str) -> None:
        before = folds[number].setdefault(name, (category, use))
        if category not in classes:
            faults.append(f"{where}: {category!r} is not one of the {len(classes)} classes")
        elif before != (category, use):
            faults.append(f"{where}: {name} was {before[1]} of {before[0]} before, in split {number}")

    for (category, number), file in official.items():
        for line, text in read_lines(file):
            name, _, use = text.rpartition(" ")
            if not _NAME.fullmatch(name.strip()) or use not in _USES:
                what = "is not `file 0`, `file 1` or `file 2` with an .avi"
                faults.append(f"{file}:{line}: {text[:80]!r} {what}")
            else:
                add(f"{file}:{line}", number, name.strip(), category, _USES[use])
    if not official:
        for (number, use), file in lists.items():
            for line, text in read_lines(file):
                # the number is a class id in an order that is not ours
                match = re.fullmatch(r"(?:.*/)?([^/]+)/([^/]+) +\d+", text)
                if match:
                    add(f"{file}:{line}", number, match[2], match[1], use)
                else:
                    faults.append(f"{file}:{line}: {text[:80]!r} is not `class/file label`")
    raise_faults(faults)
    if not official and not lists:
        raise ConfigError(f"--splits {folder}: holds no split files; {_FETCH_SPLITS}")
    if not official:
        return folds, [check_equal("list files", 2 * len(FOLDS), len(lists))]
    checks = [check_equal("split files", len(classes) * len(FOLDS), len(official))]
    same = digest(list(official.values())) == DIGEST
    checks.append(
        Check("contents of the split files", "as published", "as published" if same else "other", same)
    )
    return folds, checks


def digest(split_files: list[Path]) -> str:
    """SHA-256 over the sorted file names and their stripped lines."""
    h = hashlib.sha256()
    for file in sorted(split_files, key=lambda file: file.name):
        h.update(f"{file.name}\0{chr(10).join(text for _, text in read_lines(file))}\n".encode())
    return h.hexdigest()


_FETCH_SPLITS = f"unpack test_train_splits.rar from {PAGE} and name its folder of 153 files with --splits"


def _splits_folder(videos: Path, splits: Path | None) -> Path:
    if splits and not splits.is_dir():
        raise ConfigError(f"--splits {splits}: no such folder; {_FETCH_SPLITS}")
    beside = Path(os.path.abspath(videos)).parent  # also of "."
    places = [home / place for home in (videos, beside) for place in PLACES]
    for root in [splits] if splits else places:
        for folder, folders, names in os.walk(root):
            folders.sort()
            if any(map(_SPLIT_FILE.search, names)):
                return Path(folder)
    if not splits and any(map(_SPLIT_FILE.search, os.listdir(beside))):  # mmaction2's lists lie there
        return beside
    if splits:
        raise ConfigError(f"--splits {splits}: holds no split files; {_FETCH_SPLITS}")
    raise ConfigError(f"no split files in {', '.join(PLACES)} under or beside {videos}; {_FETCH_SPLITS}")
