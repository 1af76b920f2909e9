"""Takes results of one's own runs over into docs/results, which nothing else writes.

Notable here:
- a number that is published is never replaced by nothing: where a new file lacks a number or seeds that the published
  one has, nothing at all is written, and what would be lost is listed;
- a table's Markdown and LaTeX follow its CSV; files that were not made again stay as they are.
"""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from vmp.errors import RunError, shortlist
from vmp.files import read_csv, read_text, replacing
from vmp.formats import finite

KINDS = (
    *("table*.csv", "table*.md", "table*.tex", "claims.md", "starts*.csv", "starts*.png", "starts*.svg"),
    *("figures/figure*.png", "figures/figure*.svg", "prompts.png"),
)


def publish(source: Path, target: Path, *, only: Sequence[str] = ()) -> list[Path]:
    """Copy the results in `source` to `target`; the files that were written.

    Args:
        only: names without their endings, as table1 or claims; all if empty.

    Raises:
        RunError: there is nothing to publish, or a published number would be lost.
    """
    found = sorted(path for kind in KINDS for path in source.glob(kind) if not only or path.stem in only)
    if absent := [name for name in only if name not in {path.stem for path in found}]:
        raise RunError(f"{source}: has no {', '.join(absent)}")
    if not found:
        raise RunError(
            f"{source}: nothing to publish; make table1 ... table8, claims, starts and figures write there"
        )
    lost: list[str] = []
    for path in found:
        old = target / path.relative_to(source)
        if old.is_file():
            lost += [f"{old}: {what}" for what in lost_numbers(old, path)]
        if (
            path.suffix in (".md", ".tex")
            and path.stem.startswith("table")
            and not path.with_suffix(".csv").is_file()
        ):
            lost.append(f"{path}: without its .csv it cannot be told what is in it")
        if not path.stat().st_size:
            lost.append(f"{path}: empty")
    if lost:
        raise RunError(
            f"nothing was published: {len(lost)} published numbers would be replaced by nothing:\n{shortlist(lost)}\n"
            "Run what is missing, or name what is complete, as in make publish ONLY='table1 claims'."
        )
    written = []
    for path in found:
        new = target / path.relative_to(source)
        with replacing(new) as temporary:
            shutil.copyfile(path, temporary)
        written.append(new)
    return written


def lost_numbers(old: Path, new: Path) -> list[str]:
    """What a published file says and a new one does not: cells of tables and their seeds, points of a map, sections of
    claims. Pictures, Markdown and LaTeX of tables say nothing of their own."""
    if old.suffix == ".csv":
        of_table = old.stem.startswith("table")
        keys = ("row", "column") if of_table else ("dataset", "slope", "shift", "seed")
        number = "ours" if of_table else "top1"
        before, after = _numbers(old, keys, number), _numbers(new, keys, number)
        gone = [f"{', '.join(key)} has no number" for key in before if key not in after]
        fewer = [key for key in before if key in after and after[key] < before[key]]
        return gone + [f"{', '.join(key)} has {after[key]} seeds instead of {before[key]}" for key in fewer]
    if old.stem == "claims":
        before_, after_ = _sections(old), _sections(new)
        return [f"{title!r} is not there" for title in before_ if title not in after_]
    return []


def _numbers(path: Path, keys: Sequence[str], number: str) -> dict[tuple[str, ...], int]:
    """Key of each row with a number -> over how many seeds it is."""
    rows = read_csv(path, required=(*keys, number))
    return {
        tuple(row[key] for key in keys): int(finite(row.get("seeds", "")) or 1)
        for row in rows
        if finite(row[number]) is not None
    }


def _sections(path: Path) -> list[str]:
    """Titles of the sections that say something."""
    parts = re.split(r"(?m)^## ", read_text(path))[1:]
    return [part.splitlines()[0] for part in parts if "Not run." not in part]
