"""The paper's tables, from what make table1 ... table8 wrote."""

import csv
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vmp.errors import first_line
from vmp.formats import finite, natural
from vmp.report.html import Html, badge, join, tag


@dataclass
class Table:
    """A table as its CSV has it: cells by (row, column), in the file's order."""

    title: str
    mini: bool
    rows: list[str]
    columns: list[str]
    cells: dict[tuple[str, str], dict[str, str]]
    path: str
    note: str = ""
    digits: int = 1
    problem: str = ""


def read_tables(folder: Path) -> list[Table]:
    """Of table<n>.csv there and in mini/; a file that cannot be read is one with a problem."""
    paths = [*folder.glob("table*.csv"), *folder.glob("mini/table*.csv")]
    return [_read_table(path) for path in sorted(paths, key=lambda p: (natural(p.stem), p.parent.as_posix()))]


def _read_table(path: Path) -> Table:
    number = re.sub(r"^table[-_ ]*", "", path.stem)
    table = Table(f"Table {number}", path.parent.name == "mini", [], [], {}, path.as_posix())
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
    with suppress(OSError, ValueError):  # the same table for reading has its title and a note
        title, *rest = path.with_suffix(".md").read_text(encoding="utf-8").split("\n\n")
        table.title = title.removeprefix("#").strip() or table.title
        if rest and rest[0][:1] not in "#|-":
            table.note = rest[0].strip()
    return table


def table_html(table: Table, made: dict[Path, int]) -> Html:
    """made: folder of a run in the page -> its number."""
    title = tag("h3", table.title, " ", badge("miniature", "mini") if table.mini else None)
    if table.problem:
        return tag("article", title, tag("p", table.problem, class_="note"))
    head = tag("tr", tag("td", ""), *(tag("th", c, scope="col") for c in table.columns))
    body = [
        tag(
            "tr",
            tag("th", row, scope="row"),
            *(_cell(table.cells.get((row, column)), table.digits, made) for column in table.columns),
        )
        for row in table.rows
    ]
    commits = sorted({c for cell in table.cells.values() for c in cell.get("commit", "").split()})
    below = tag(
        "p",
        "Ours above: mean over seeds, their range in brackets. Under it the paper's number, and ours less the ",
        "paper's where that means something. Arrows: the gain over the baseline. ",
        f"From {table.path}" + (f", commit {', '.join(commits)}." if commits else "."),
        class_="note",
    )
    box = tag(
        "div",
        tag("table", tag("thead", head), tag("tbody", *body), class_="paper"),
        class_="scroll",
        tabindex=0,
        role="region",
        aria_label=table.title,
    )
    note = tag("p", table.note, class_="note") if table.note else None
    return tag("article", title, note, box, below)


def _cell(cell: dict[str, str] | None, digits: int, made: dict[Path, int]) -> Html:
    """Ours, its range and gain over the paper's, its gain and the difference; a number leads to the run behind it."""
    if cell is None:
        return tag("td", tag("span", "–", class_="quiet"))

    def said(key: str) -> str:
        number = finite(cell.get(key, ""))
        return cell.get(key, "") if number is None else f"{number:.{digits}f}".replace("-", "−")

    def gain(key: str) -> Html | None:
        number = finite(cell.get(key, ""))
        if number is None:
            return None
        arrow = "" if not float(f"{number:.{digits}f}") else "↑" if number > 0 else "↓"
        return tag("span", f" {arrow}{abs(number):.{digits}f}", class_="gain")

    known = finite(cell.get("ours", "")) is not None
    low, high = (said(key) or said(f"{key}est") for key in ("low", "high"))
    spread = (
        tag("span", f" [{low}–{high}]", class_="range") if known and low and high and low != high else None
    )
    if cell.get("spread"):
        spread = tag("span", f" ±{said('spread')}", class_="range")
    paper = join((f"paper {said('paper') or '–'}", gain("paper_gain")))
    difference = finite(cell.get("difference", "")) if known else None
    signed = None
    if difference is not None:
        rounded = round(difference, digits)
        signed = f"{rounded:+.{digits}f}".replace("-", "−") if rounded else f"{0:.{digits}f}"
    folders = [Path(text) for text in cell.get("runs", "").split()]
    numbers = [made[home] for f in folders for home in (f.absolute(), *f.absolute().parents) if home in made]
    ours: Html | str = said("ours") if known else cell.get("ours") or "not run"
    if numbers:
        ours = tag("a", ours, href=f"#run-{numbers[0]}")
    clips, expected = cell.get("clips", ""), cell.get("clips_expected", "")
    lacking = known and expected and clips != expected
    return tag(
        "td",
        badge(f"{clips} of {expected} clips", "open") if lacking else None,
        " " if lacking else None,
        tag("span", ours, class_="ours" if known else "quiet"),
        gain("gain") if known else None,
        spread,
        Html("<br>"),
        tag("span", paper, class_="theirs"),
        tag("span", " ", signed, class_="diff") if signed else None,
        title=f"{clips}{f' of {expected}' if expected else ''} clips" if clips and known else None,
    )
