"""Copies the results of your runs into docs/results, which nothing else writes.

Notes:
- a published number is never lost: if a new file lacks a number, seeds or pairs that the published file has, nothing
  is copied and the error lists what would be lost;
- figures with frames of videos are published in miniature only, where the videos are the project's own;
- a table's Markdown and LaTeX are copied only with its CSV, and the pages, pictures and records of a study together;
  published files without a new version stay as they are.
"""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from vmp.errors import RunError, shortlist
from vmp.files import read_csv, read_text, replacing
from vmp.formats import finite
from vmp.paper.study import PLACE, key_of
from vmp.paper.study_records import CLIPS_FILE, RUNS_FILE, read_clips

KINDS = (
    *("table*.csv", "table*.md", "table*.tex", "claims.md", "starts*.csv", "starts*.png", "starts*.svg"),
    *("figures/figure*.png", "figures/figure*.svg", "figures/arms_*.png"),
    *("study_*.md", "study_*.png", "study_*.svg", RUNS_FILE, CLIPS_FILE),
)


SHOW_FRAMES = {
    f"figure{number}" for number in (1, 5, 6, *range(12, 19))
}  # of the videos of runs; so do arms_*

_TABLE = ("row", "column"), "ours"
_MAP = ("dataset", "slope", "shift", "seed"), "top1"  # of starts
_RUNS = PLACE, "top1"  # of a study
# columns of claims.md: of how many runs a row is
_COUNTS = ("Pairs", "Seeds", "Curves", "Degrees of freedom")


def publish(source: Path, target: Path, *, only: Sequence[str] = (), frames: bool = True) -> list[Path]:
    """Copy the results in `source` to `target`; the files written.

    Args:
        only: names without suffix, such as table1 or claims; all if empty.
        frames: also figures that show frames, which the licences of most videos do not allow.

    Raises:
        RunError: there is nothing to publish, or a published number would be lost.
    """
    if any(name.startswith("study_") for name in only):  # a page and its records are of the same runs
        studied = {_stem(path) for kind in KINDS if kind.startswith("study_") for path in source.glob(kind)}
        only = [*only, *studied.difference(only)]
    found = sorted(path for kind in KINDS for path in source.glob(kind) if not only or _stem(path) in only)
    found = [path for path in found if frames or not _shows_frames(path.stem)]
    if absent := [name for name in only if name not in {_stem(path) for path in found}]:
        shown = [name for name in absent if _shows_frames(name) and not frames]
        why = f" ({', '.join(shown)}: shows frames of videos, which is not published)" if shown else ""
        raise RunError(f"{source}: has no {', '.join(absent)}{why}")
    if not found:
        raise RunError(
            f"{source}: nothing to publish; the commands of docs/reproduce.md write there, such as make table1, make "
            "real and make figures"
        )
    lost: list[str] = []
    for path in found:
        old = target / path.relative_to(source)
        if old.is_file():
            lost += [f"{old}: {what}" for what in lost_numbers(old, path)]
        if path.suffix in (".md", ".tex"):
            if path.stem.startswith("table") and not path.with_suffix(".csv").is_file():
                lost.append(f"{path}: without its .csv, its numbers cannot be compared")
            if path.stem.startswith("study_") and not (source / RUNS_FILE).is_file():
                lost.append(f"{path}: without {RUNS_FILE}, its numbers cannot be compared")
        if not path.stat().st_size:
            lost.append(f"{path}: empty")
    if lost:
        raise RunError(
            f"nothing was published: {len(lost)} published numbers would be lost:\n{shortlist(lost)}\n"
            "Run what is missing, or publish only what is complete, as in make publish ONLY='table1 claims'."
        )
    written = [target / path.relative_to(source) for path in found]
    for path, new in zip(found, written, strict=True):
        with replacing(new) as temporary:
            shutil.copyfile(path, temporary)
    return written


def _stem(path: Path) -> str:
    """study_clips of study_clips.csv.gz."""
    return path.name.partition(".")[0]


def _shows_frames(stem: str) -> bool:
    return stem in SHOW_FRAMES or stem.startswith("arms_")


def lost_numbers(old: Path, new: Path) -> list[str]:
    """What a published file has and a new one lacks: cells of tables and their seeds, points of a map, rows of the
    claims and their pairs. Pictures and the Markdown and LaTeX of tables have no numbers of their own."""
    stem = _stem(old)
    if old.name == CLIPS_FILE:
        had, has = ({(*key_of(row), row["id"]) for row in read_clips(path)} for path in (old, new))
        return [f"{', '.join(key)} has no prediction" for key in sorted(had - has)]
    if old.suffix == ".csv":
        keys, number = _TABLE if stem.startswith("table") else _RUNS if old.name == RUNS_FILE else _MAP
        before, after = _count_seeds(old, keys, number), _count_seeds(new, keys, number)
        gone = [f"{', '.join(key)} has no number" for key in before if key not in after]
        fewer = [key for key in before if key in after and after[key] < before[key]]
        return gone + [f"{', '.join(key)} has {after[key]} seeds instead of {before[key]}" for key in fewer]
    if stem == "claims":
        kept = _filled_sections(new)
        gone = [f"{title!r} is not there" for title in _filled_sections(old) if title not in kept]
        counted, now = _count_runs(old), _count_runs(new)
        rows = {key: count for key, count in counted.items() if key[0] in kept}
        gone += [f"{', '.join(key)}: is not there" for key in rows if key not in now]
        return gone + [
            f"{', '.join(key)}: {now[key]} instead of {count}"
            for key, count in rows.items()
            if now.get(key, count) < count
        ]
    return []


def _count_seeds(path: Path, keys: Sequence[str], number: str) -> dict[tuple[str, ...], int]:
    """The key of each row that has a number -> how many seeds it was measured with."""
    return {
        tuple(row[key] for key in keys): int(finite(row.get("seeds", "")) or 1)
        for row in read_csv(path, required=(*keys, number))
        if finite(row[number]) is not None
    }


def _count_runs(path: Path) -> dict[tuple[str, ...], int]:
    """Section, row and column of each count in the tables of claims.md -> the count."""
    counts: dict[tuple[str, ...], int] = {}
    title, head = "", list[str]()
    for line in read_text(path).splitlines():
        if line.startswith("## "):
            title = line.removeprefix("## ")
        if not line.startswith("|"):
            head = []
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not head:
            head = cells
            continue
        for name, cell in zip(head, cells, strict=False):
            if name in _COUNTS and cell.isdecimal():
                label = cells[:2] if head[1:2] == ["λ"] else cells[:1]
                counts[title, *label, name] = int(cell)
    return counts


def _filled_sections(path: Path) -> list[str]:
    """Titles of the sections that have results."""
    parts = re.split(r"(?m)^## ", read_text(path))[1:]
    return [part.splitlines()[0] for part in parts if "Not run." not in part]
