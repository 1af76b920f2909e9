"""Four small published collections of real clips, each as a description: what it holds and how it is tested.

Notes:
- clips.csv in the folder of the videos (or --csv) names path,label and, where the collection has them, group and split;
  without it the class folders are read, and UT-Interaction and HandWash say the rest in their file names;
- the counts are those of the clips that were published, or of those that can be decoded (skateboard);
- a published split is taken as it is, also where it parts a group; folds never do;
- groups whose clips show the same frames were found by sliding the clips of each pair along each other (24 x 24 pixels:
  they differ by up to 2.3 grey levels, others by more than 3.5) and are joined for the folds, class by class.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vmp.errors import ConfigError, ManifestError
from vmp.prepare.division import Division, divide
from vmp.prepare.folders import make_plan, read_table, scan
from vmp.prepare.list_format import Row
from vmp.prepare.plan import DatasetPlan, check_equal
from vmp.prepare.splits import PARTS
from vmp.prepare.videos import find_videos

TABLE = "clips.csv"
STEPS = ("1", "2_Left", "2_Right", "3", *(f"{n}_{side}" for n in (4, 5, 6, 7) for side in ("Left", "Right")))
INTERACTIONS = ("handshake", "hug", "kick", "point", "punch", "push")  # numbered so in the names of the files


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """What a published collection holds."""

    about: str
    source: str
    licence: str
    per_class: Mapping[str, int]
    groups: int = 0  # 0: none are known
    group: str = "group"  # what a group is
    split: tuple[int, int, int] | None = None  # clips of the published train, val and test
    folds: int = 0
    # class ('': any) -> groups with common frames
    shared: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    note: str = ""
    name: re.Pattern[str] = field(default_factory=lambda: re.compile("$^"))  # of a file, with what it says

    def footage(self, row: Row) -> str:
        """What folds must not part: the group, or, where groups share frames, those of the class that do."""
        shared = (*self.shared.get(row.label, ()), *self.shared.get("", ()))
        joined = next((groups for groups in shared if row.group in groups.split()), row.group)
        return f"{row.label} {joined}" if any(self.shared) else joined


COLLECTIONS: dict[str, Collection] = {
    "ut_interaction": Collection(
        about="UT-Interaction: 6 interactions; ten folds in each of two sets, by sequence",
        source="SDHA 2010, https://cvrc.ece.utexas.edu/SDHA2010/Human_Interaction.html (the segmented sets)",
        licence="none stated; research use",
        per_class=dict.fromkeys(INTERACTIONS, 20),
        groups=20,
        group="sequence",
        name=re.compile(r"(?:s[12]_)?\d+_(?P<sequence>\d+)_(?P<interaction>[0-5])"),
    ),
    "skateboard": Collection(
        about="SkateboardML: Ollie and Kickflip; the published split",
        source="SkateboardML, Zenodo record 3986905",
        licence="free for academic purposes, with citation of SkateboardML",
        per_class={"Kickflip": 101, "Ollie": 88},
        split=(151, 0, 38),
        note="189 of the 222 published clips are used; Kickflip14 (test) and Ollie96 (train) show the same jump, one "
        "frame apart",
    ),
    "surv_fight": Collection(
        about="fights in surveillance videos: 2 classes; five folds by scene",
        source="https://github.com/seymanurakti/fight-detection-surv-dataset (Akti, Tataroglu, Ekenel, IPTA 2019)",
        licence="MIT",
        per_class={"fight": 150, "noFight": 150},
        groups=232,
        group="scene",
        folds=5,
        shared={"": ("scene018 scene019",)},
    ),
    "handwash12": Collection(
        about="12 steps of hand washing; the published split, and five folds by footage",
        source="the hand wash dataset of 12 steps, HandWash_<recording>_A_<step>_G_<n>.mp4",
        licence="none stated",
        per_class=dict(zip((f"Step_{s}" for s in STEPS), (8, 9, 6, 9, 9, 9, 9, 8, 9, 9, 9, 9), strict=True)),
        groups=11,
        group="recording",
        split=(69, 24, 10),
        folds=5,
        shared={
            "Step_3": ("002 008", "004 006", "005 007"),
            "Step_4_Left": ("004 005", "006 008"),
            "Step_4_Right": ("004 005", "007 008"),
            "Step_5_Left": ("003 004 005", "007 008"),
            "Step_5_Right": ("001 002", "003 004 005"),
            "Step_6_Left": ("003 004 005", "009 010"),
            "Step_6_Right": ("003 004 005", "007 008", "009 010"),
            "Step_7_Left": ("002 003 004 005", "009 010"),
            "Step_7_Right": ("002 003 004 005", "006 008", "009 010"),
        },
        note="clips of several recordings are windows on the same footage, so that the published split has frames of "
        "val in train; folds keep them together",
        name=re.compile(r"HandWash_(?P<recording>\d+)_A_\d+_G_?\d+"),
    ),
}


def plan_collection(name: str, videos: Path, table: Path | None = None) -> DatasetPlan:
    """The manifests of a collection by its protocol: set1/fold1, fold1, published or, with one split only, none.

    Args:
        table: CSV with the columns path,label[,group][,split]; None: clips.csv in the folder of the videos, if any.
    """
    collection = COLLECTIONS[name]
    if not videos.is_dir():
        raise ConfigError(f"--videos {videos}: no such folder; it should hold the clips of {name}")
    if table and not table.is_file():
        raise ConfigError(f"--csv {table}: no such file")
    rows = _rows(collection, videos, table)
    classes = tuple(collection.per_class)
    if strange := [row for row in rows if row.label not in classes]:
        raise ManifestError(
            f"{strange[0].where}: {strange[0].path}: {strange[0].label!r} is not a class of {name}, which has "
            f"{', '.join(classes)}"
        )
    _check_known(name, rows, videos)
    found = Counter(row.label for row in rows)
    exact = sum(found[label] == count for label, count in collection.per_class.items())
    checks = [
        check_equal("clips", sum(collection.per_class.values()), len(rows)),
        check_equal("classes with their number of clips", len(classes), exact),
    ]
    if collection.groups:
        checks.append(
            check_equal(f"{collection.group}s", collection.groups, len({row.group for row in rows} - {""}))
        )
    if collection.split:
        parts = Counter(row.split for row in rows)
        shown = [
            " / ".join(map(str, counts)) for counts in (collection.split, [parts[part] for part in PARTS])
        ]
        checks.append(check_equal("train / val / test of the published split", *shown))
    return make_plan(
        name,
        videos,
        classes,
        _divisions(name, videos, rows),
        checks=checks,
        notes=[
            f"source: {collection.source}; licence: {collection.licence}",
            *([collection.note] if collection.note else []),
        ],
    )


def _divisions(name: str, videos: Path, rows: Sequence[Row]) -> dict[str, Division]:
    collection = COLLECTIONS[name]
    if name == "ut_interaction":
        return _leave_one_out(videos, rows)
    divisions: dict[str, Division] = {}
    if collection.split and any(row.split for row in rows):
        divisions["published" if collection.folds else ""] = divide(videos, rows, part_groups=True)
    unsplit = [replace(row, split="", group=collection.footage(row)) for row in rows]
    for fold in range(1, collection.folds + 1):
        divisions[f"fold{fold}"] = divide(videos, unsplit, folds=collection.folds, fold=fold)
    return divisions


def _leave_one_out(videos: Path, rows: Sequence[Row]) -> dict[str, Division]:
    """For each set, in turn one of its sequences is tested and the others are trained on (ten folds a set)."""
    divisions = {}
    for part in ("set1", "set2"):
        own = [row for row in rows if row.group.startswith(f"{part}_")]
        for fold, tested in enumerate(sorted({row.group for row in own}, key=_number), 1):
            split = [replace(row, split="test" if row.group == tested else "train") for row in own]
            divisions[f"{part}/fold{fold}"] = divide(videos, split)
    return divisions


def _number(group: str) -> int:
    match = re.fullmatch(r"set[12]_seq(\d+)", group)
    if not match:
        raise ManifestError(
            f"group {group!r} of ut_interaction is not setS_seqN, such as set1_seq1 or set2_seq11"
        )
    return int(match[1])


def _rows(collection: Collection, videos: Path, table: Path | None) -> list[Row]:
    if table or (videos / TABLE).is_file():
        return read_table(videos, table or videos / TABLE)
    if "interaction" in collection.name.groupindex:
        return _named(collection, videos)
    rows = scan(videos)
    if "recording" in collection.name.groupindex:
        found = [(row, collection.name.fullmatch(Path(row.path).stem)) for row in rows]
        rows = [replace(row, group=match["recording"] if match else "") for row, match in found]
    return rows


def _named(collection: Collection, videos: Path) -> list[Row]:
    """UT-Interaction by the names of its files, at any depth: sequences 1 to 10 are set 1, 11 to 20 set 2."""
    rows = []
    for stem, paths in sorted(find_videos(videos).items()):
        if match := collection.name.fullmatch(stem):
            sequence = int(match["sequence"])
            group = f"set{1 if sequence <= 10 else 2}_seq{sequence}"
            rows.append(Row(str(videos), paths[0], INTERACTIONS[int(match["interaction"])], group=group))
    if not rows:
        raise ConfigError(
            f"--videos {videos}: holds no clip of ut_interaction, such as 0_1_4.avi (number, sequence, class), and no "
            f"{TABLE}; name the folder of the segmented sets"
        )
    return rows


def _check_known(name: str, rows: Sequence[Row], videos: Path) -> None:
    """Raise ConfigError where nothing says the groups or the split that the protocol needs."""
    collection = COLLECTIONS[name]
    if collection.groups:
        column, what = "group", f"which {collection.group} each shows"
    elif collection.split:
        column, what = "split", "which are trained on and which are tested"
    else:
        return
    if not any(getattr(row, column) for row in rows):
        raise ConfigError(
            f"{videos}: {len(rows)} clips, and nothing says {what}. Put {TABLE} there, or name it with --csv: a CSV "
            f"with the columns path,label,{column}"
        )
