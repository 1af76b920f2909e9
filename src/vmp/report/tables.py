"""The paper's tables as `make table1 ... table8` wrote them to CSV."""

import csv
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vmp.errors import first_line
from vmp.formats import finite, format_signed, natural_key


@dataclass
class PrintedTable:
    """A table as its CSV has it: rows of the file by (row, column), in the file's order."""

    title: str
    miniature: bool
    path: str
    rows: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    cells: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    note: str = ""
    digits: int = 1
    problem: str = ""

    @property
    def commits(self) -> list[str]:
        return sorted({c for cell in self.cells.values() for c in cell.get("commit", "").split()})

    def show(self, row: str, column: str, run_numbers: Mapping[Path, int]) -> dict[str, Any]:
        """The texts of a cell, whether `ours` is a number and not the reason why there is none, and the number of the
        run on the page that it links to. run_numbers: absolute folder of each run on the page -> its number there."""
        cell = self.cells[row, column]
        known, difference = finite(cell.get("ours", "")) is not None, finite(cell.get("difference", ""))
        seeds = [finite(text.partition(":")[2]) for text in cell.get("by_seed", "").split()]
        low, high = (self._text(of((s for s in seeds if s is not None), default=None)) for of in (min, max))
        spread = f"[{low}–{high}]" if known and low != high else ""
        if cell.get("spread"):
            spread = f"±{self._number(cell, 'spread')}"
        clips, expected = cell.get("clips", ""), cell.get("clips_expected", "")
        folders = [Path(text).absolute() for text in cell.get("runs", "").split()]
        runs = (run_numbers[p] for f in folders for p in (f, *f.parents) if p in run_numbers)
        return {
            "ours": self._number(cell, "ours") if known else cell.get("ours") or "not run",
            "known": known,
            "gain": self._arrow(cell, "gain") if known else "",
            "range": spread,
            "paper": self._number(cell, "paper") or "–",
            "paper_gain": self._arrow(cell, "paper_gain"),
            "difference": format_signed(difference, self.digits) if known and difference is not None else "",
            "lacking": f"{clips} of {expected} clips" if known and expected and clips != expected else "",
            "tooltip": f"{clips}{f' of {expected}' if expected else ''} clips" if known and clips else None,
            "run": next(runs, None),
        }

    def _number(self, cell: Mapping[str, str], key: str) -> str:
        number = finite(cell.get(key, ""))
        return cell.get(key, "") if number is None else self._text(number)

    def _text(self, number: float | None) -> str:
        return "" if number is None else f"{number:.{self.digits}f}".replace("-", "−")

    def _arrow(self, cell: Mapping[str, str], key: str) -> str:
        gain = finite(cell.get(key, ""))
        if gain is None:
            return ""
        size = f"{abs(gain):.{self.digits}f}"
        return ("" if not float(size) else "↑" if gain > 0 else "↓") + size


def read_tables(folder: Path) -> list[PrintedTable]:
    """Every table<n>.csv in `folder` and `folder`/mini. One that cannot be read has its `problem` set."""
    paths = [*folder.glob("table*.csv"), *folder.glob("mini/table*.csv")]
    return [
        _read_table(path) for path in sorted(paths, key=lambda p: (natural_key(p.stem), p.parent.as_posix()))
    ]


def _read_table(path: Path) -> PrintedTable:
    number = re.sub(r"^table[-_ ]*", "", path.stem)
    table = PrintedTable(f"Table {number}", path.parent.name == "mini", path.as_posix())
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                at = row["row"], row["column"]
                table.rows += [at[0]] * (at[0] not in table.rows)
                table.columns += [at[1]] * (at[1] not in table.columns)
                table.cells[at] = {key: (value or "").strip() for key, value in row.items() if key}
    except (OSError, ValueError, KeyError, AttributeError, csv.Error) as error:
        table.problem = (
            f"{path.as_posix()} cannot be read as a table ({type(error).__name__}: {first_line(error)})"
        )
    if any(cell.get("spread") for cell in table.cells.values()):
        table.digits = 4  # seconds
    with suppress(OSError, ValueError):  # the Markdown file beside it has the title and a note
        title, *rest = path.with_suffix(".md").read_text(encoding="utf-8").split("\n\n")
        table.title = title.removeprefix("#").strip() or table.title
        if rest and rest[0][:1] not in "#|-":
            table.note = rest[0].strip()
    return table
