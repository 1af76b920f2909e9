"""The records of a study: study_runs.csv, a row for each run, and study_clips.csv.gz, a row for each tested clip.

Notes:
- study_clips.csv.gz has a column for each run, named arm/setting/seed, with the class that it predicted for a clip, so
  the runs of a clip stand side by side; a run that did not test the clip leaves it empty. In memory a row is one clip
  of one run.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from vmp.errors import RunError
from vmp.files import read_csv, write_csv
from vmp.paper.study import PLACE, key_of

RUN_COLUMNS = (*PLACE, "config", "commit", "top1", "slope", "shift", "seconds", "device")
LATER_COLUMNS = ("attention", "data", "weights")  # that records of earlier versions lack
CLIP_COLUMNS = (*PLACE, "id", "group", "class", "predicted")  # in memory

RUNS_FILE, CLIPS_FILE = "study_runs.csv", "study_clips.csv.gz"
_CLIP = ("set", "fold", "id", "group", "class")  # the columns of CLIPS_FILE before those of runs
_RUN = ("arm", "setting", "seed")


@dataclass(frozen=True)
class Records:
    """Rows of runs (RUN_COLUMNS) and of the clips that they tested (CLIP_COLUMNS)."""

    runs: list[dict[str, str]]
    clips: list[dict[str, str]]


def write_records(records: Records, folder: Path) -> None:
    """Write the clips first: a run that is recorded has its clips, also after a kill between the two files."""
    predicted: dict[tuple[str, ...], dict[str, str]] = {}  # clip -> run -> class
    for row in records.clips:
        run = "/".join(row[name] for name in _RUN)
        predicted.setdefault(tuple(row[name] for name in _CLIP), {})[run] = row["predicted"]
    runs = sorted({run for by_run in predicted.values() for run in by_run})
    lines = [[*clip, *(by_run.get(run, "") for run in runs)] for clip, by_run in sorted(predicted.items())]
    write_csv(folder / CLIPS_FILE, [[*_CLIP, *runs], *lines])
    columns = (*RUN_COLUMNS, *LATER_COLUMNS)
    write_csv(
        folder / RUNS_FILE, [columns, *([row.get(name, "") for name in columns] for row in records.runs)]
    )


def read_records(folder: Path) -> Records:
    """Those of a study's results; empty where there are none.

    Raises:
        RunError: a file is damaged, or one of the two is missing.
    """
    runs, clips = folder / RUNS_FILE, folder / CLIPS_FILE
    if not runs.is_file():
        return Records([], [])
    if not clips.is_file():
        raise RunError(f"{clips}: missing beside {RUNS_FILE}; put it back, or remove {RUNS_FILE} too")
    return Records(read_csv(runs, required=RUN_COLUMNS), read_clips(clips))


def read_clips(path: Path) -> list[dict[str, str]]:
    """A row for each clip of each run, from CLIPS_FILE.

    Raises:
        RunError: the file is damaged, or a column is not that of a run.
    """
    rows = read_csv(path, required=_CLIP)
    runs = [name for name in rows[0] if name not in _CLIP] if rows else []
    places = {name: name.rsplit("/", 2) for name in runs}
    if wrong := [name for name, place in places.items() if len(place) != len(_RUN)]:
        raise RunError(f"{path}: column {wrong[0]!r}: must be one of {', '.join(_CLIP)}, or {'/'.join(_RUN)}")
    found = []
    for row in rows:
        clip = {name: row[name] for name in _CLIP}
        for name, place in places.items():
            if row[name]:
                found.append({**clip, **dict(zip(_RUN, place, strict=True)), "predicted": row[name]})
    return found


def leave_out_other_data(records: Records) -> tuple[Records, list[str]]:
    """Without the runs whose clips differ from those of most runs of their fold, and a message for each such fold.

    Records of earlier versions do not say which clips they had; they stay.
    """
    data: dict[tuple[str, str], Counter[str]] = {}
    for row in records.runs:
        if row.get("data"):
            data.setdefault((row["set"], row["fold"]), Counter())[row["data"]] += 1
    usual = {fold: counts.most_common(1)[0][0] for fold, counts in data.items()}
    gone = [row for row in records.runs if row.get("data") and row["data"] != usual[row["set"], row["fold"]]]
    if not gone:
        return records, []
    left_out = {key_of(row) for row in gone}
    folds = Counter((row["set"], row["fold"]) for row in gone)
    says = [
        f"{count} run(s) of {name}, fold {fold}, had other clips than most runs of it, and are left out: arms compare "
        "only on the same data. Train these again with the clips that the others had, or the whole fold with new ones"
        for (name, fold), count in folds.items()
    ]
    runs, clips = (
        [row for row in rows if key_of(row) not in left_out] for rows in (records.runs, records.clips)
    )
    return Records(runs, clips), says


def merge(old: Records, new: Records) -> Records:
    """The records of both; where both have a run, the new one counts."""
    again = {key_of(row) for row in new.runs}
    runs = [row for row in old.runs if key_of(row) not in again] + new.runs
    clips = [row for row in old.clips if key_of(row) not in again] + new.clips
    return Records(sorted(runs, key=key_of), sorted(clips, key=lambda row: (*key_of(row), row["id"])))
