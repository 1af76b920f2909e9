"""A table written out: Markdown and LaTeX to read, and CSV with every number and where it is from."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vmp.formats import format_signed, markdown_table
from vmp.paper.tables import Cell, Profile, Table
from vmp.paper.values import CellValue, CellValues

_LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "λ": r"$\lambda$",
    "±": r"$\pm$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "−": "$-$",
    "–": "--",
}


@dataclass(frozen=True)
class FilledTable:
    """A table with its cells and our values for them."""

    table: Table
    profile: Profile
    cells: Sequence[Cell]
    values: CellValues

    @cached_property
    def wanted(self) -> list[Cell]:
        """Cells that have a number in the paper, and those of controls."""
        return [cell for cell in self.cells if cell.filled]

    @cached_property
    def lacking(self) -> list[Cell]:
        """Wanted cells that have no number of ours."""
        return [cell for cell in self.wanted if self.value(cell).mean is None]

    def value(self, cell: Cell) -> CellValue:
        return self.values[cell.place]

    def gain(self, cell: Cell) -> float | None:
        """Our gain over the baseline, over the seeds that both have."""
        gains = self.value(cell).gains_over(self.values[cell.baseline]) if cell.baseline else {}
        return sum(gains.values()) / len(gains) if gains else None

    def difference(self, cell: Cell) -> float | None:
        """Our number minus the paper's."""
        mean = self.value(cell).mean
        return None if mean is None or cell.printed_mean is None else mean - cell.printed_mean

    def paper_text(self, cell: Cell) -> str:
        """The paper's number. Its gain is computed from its numbers, which its printed arrows do not always match."""
        if cell.printed is None:
            return "–"
        if isinstance(cell.printed, tuple):
            extra = self.table.rows[cell.row].extra
            return "{:.3f}±{:.3f}".format(*cell.printed) + (
                f" ({format_signed(extra[cell.column], 3)})" if extra else ""
            )
        base = self.table.rows[cell.baseline[0]].paper[cell.baseline[1]] if cell.baseline else None
        return f"{cell.printed:.1f}" + (format_gain(cell.printed - base) if isinstance(base, float) else "")

    def our_text(self, cell: Cell) -> str:
        """Mean over seeds, their range if there are several, their number if some are missing, and the gain."""
        if not cell.filled:
            return "–"
        value = self.value(cell)
        if value.mean is None:
            return value.reason
        gain = self.gain(cell)
        if value.spread is not None:
            over = "" if gain is None else f" ({format_signed(gain, 4)})"
            return f"{value.mean:.4f}±{value.spread:.4f}{over}"
        each = value.by_seed.values()
        text = f"{value.mean:.1f}"
        if len(each) > 1:
            text += f" [{min(each):.1f}–{max(each):.1f}]"
        if value.missing:
            text += f" {{{len(each)} of {len(each) + len(value.missing)} seeds}}"
        return text + ("" if gain is None else format_gain(gain))


def format_gain(gain: float) -> str:
    text = f"{abs(gain):.1f}"
    return f" ({'↑' if gain > 0 else '↓'}{text})" if float(text) else f" ({text})"


def describe_provenance(
    filled: FilledTable,
    *,
    command: str,
    seeds: Sequence[int],
    overrides: Sequence[str] = (),
    device: str = "",
) -> list[str]:
    """The notes below a table, one line each."""
    timed, values = bool(filled.table.measured), [filled.value(cell) for cell in filled.wanted]
    several = len(seeds) > 1 and not timed
    ran = f"{len(filled.wanted) - len(filled.lacking)} of {len(filled.wanted)} cells were run"
    if not timed:
        ran += f", seed{'s' if several else ''} {', '.join(map(str, seeds))}"
    lines = [f"Made by `{command}`.", f"{ran}."]
    if any(row.control for row in filled.table.rows):
        lines.append(
            "Controls, and a baseline that is run for them, are not in the paper (docs/reproduce.md)."
        )
    if overrides:
        lines.append(f"Not the recipe as it stands: {' '.join(overrides)} was given for all runs.")
    if not timed and (partly := sum(bool(value.found and value.missing) for value in values)):
        lines.append(f"{partly} of these cells lack seeds, and say how many they have.")
    if several:
        lines.append(
            "Means over the seeds that were run, and their range in brackets. The starts of m and n are those of the "
            "recipes, the same for all seeds."
        )
    lines.append(
        "In round brackets: the difference to the baseline."
        if timed
        else "↑ and ↓: the gain over the baseline of the same seeds."
    )
    if device:
        lines.append(f"Ours on {device}.")
    if disturbed := [v for v in filled.values.values() if v.spread and v.mean and v.spread > v.mean / 2]:
        lines.append(
            f"{len(disturbed)} timings were disturbed (a standard deviation above half the mean): remove what is in "
            "table8 of the runs' folder, and measure again on a quiet machine."
        )
    if commits := sorted({commit for value in filled.values.values() for commit in value.commits}):
        lines.append(f"Commit{'s' if len(commits) > 1 else ''}: {', '.join(commits)}.")
    return lines + list(_describe_clips(filled))


def _describe_clips(filled: FilledTable) -> Iterator[str]:
    """How many clips were trained and tested on, and where they are not the published lists."""
    tested: dict[str, set[tuple[int, int]]] = {}
    trained: dict[str, set[tuple[int, int]]] = {}
    for cell in filled.wanted:
        if not cell.run or cell.mean_of:
            continue
        numbers = filled.value(cell).numbers
        which = cell.run.dataset
        if cell.class_name:
            which = f"{cell.class_name}, {cell.where}" if cell.where else cell.class_name
        tested.setdefault(which, set()).update(n.clips for n in numbers if n.clips)
        trained.setdefault(cell.run.dataset, set()).update(n.trained for n in numbers if n.trained)
    for verb, by_name in (("tested", tested), ("trained", trained)):
        for name, counts in by_name.items():
            if counts:
                shown = " or ".join(f"{present:,} of {expected:,}" for present, expected in sorted(counts))
                yield f"{name}: {verb} on {shown} clips."
    for dataset, counts in trained.items():
        published = filled.profile.datasets[dataset].clips
        if published.get("train") and any(expected != published["train"] for _, expected in counts):
            yield f"{dataset}: the published list has {published['train']:,} training clips: not these data."


# --- formats -------------------------------------------------------------------------------------------------------


def _blocks(filled: FilledTable) -> Iterator[tuple[str, list[str], list[list[str]], int]]:
    """For each group of columns: its name, header and rows, and how many of the columns are row labels."""
    table, comparable = filled.table, filled.profile.comparable
    groups: dict[str, list[int]] = {}
    for c, column in enumerate(table.columns):
        groups.setdefault(column.group, []).append(c)
    by_place = {cell.place: cell for cell in filled.cells}
    for group, columns in groups.items():
        header = ["", table.stub] if table.grouped else [table.stub]
        for c in columns:
            label = table.columns[c].label
            header += (
                [f"{label}, paper", f"{label}, ours", "difference"]
                if comparable
                else [f"{label}, paper", f"{label}, miniature"]  # of other videos and models
            )
        rows = []
        for r, row in enumerate(table.rows):
            texts = [row.group, row.label] if table.grouped else [row.label]
            for c in columns:
                cell = by_place[r, c]
                texts += [filled.paper_text(cell), filled.our_text(cell)]
                if comparable:
                    difference = filled.difference(cell)
                    texts.append(
                        "" if difference is None else format_signed(difference, 4 if table.measured else 1)
                    )
            rows.append(texts)
        yield group, header, rows, 2 if table.grouped else 1


def to_markdown(filled: FilledTable, notes: Sequence[str]) -> str:
    """One Markdown table per group of columns; `notes` below."""
    out = [f"# Table {filled.table.number}: {filled.table.title}", ""]
    if filled.profile.note:
        out += [filled.profile.note.strip(), ""]
    for group, header, rows, labels in _blocks(filled):
        out += [f"## {group}", ""] if group else []
        out += [*markdown_table(header, rows, labels=labels), ""]
    return "\n".join([*out, *(f"- {note}" for note in notes), ""])


def to_latex(filled: FilledTable, notes: Sequence[str]) -> str:
    """One tabular per group of columns, for booktabs; `notes` as comments above."""

    def line(texts: Sequence[str]) -> str:
        return " & ".join(map(escape_latex, texts)) + r" \\"

    out = [f"% Table {filled.table.number}: {filled.table.title}", *(f"% {note}" for note in notes)]
    for group, header, rows, labels in _blocks(filled):
        numbers = len(header) - labels
        out += [r"\begin{tabular}{" + "l" * labels + "r" * numbers + "}", r"\toprule"]
        if group:
            heading = f"\\multicolumn{{{numbers}}}{{c}}{{{escape_latex(group)}}}"
            out.append(f"{'&' * (labels - 1)} & {heading} \\\\")
        out += [line(header), r"\midrule", *map(line, rows), r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(out)


def escape_latex(text: str) -> str:
    return re.sub("|".join(map(re.escape, _LATEX)), lambda match: _LATEX[match[0]], text)


def to_csv(filled: FilledTable) -> str:
    """One row per cell that has a number in the paper, and per cell of a control."""
    rows: list[dict[str, Any]] = []
    table, by_place = filled.table, {cell.place: cell for cell in filled.cells}
    for cell in filled.wanted:
        value = filled.value(cell)
        mean = value.mean
        baseline = by_place[cell.baseline].printed_mean if cell.baseline else None
        paper = cell.printed_mean
        paper_gain = None if paper is None or baseline is None else paper - baseline
        clips, expected = value.clips or ("", "")
        rows.append(
            {
                "table": table.number,
                "row": table.row_name(cell.row),
                "column": table.columns[cell.column].full_name,
                "number": "mean" if cell.mean_of else cell.number,
                "paper": paper,
                "ours": value.reason if mean is None else _shorten(mean),
                "seeds": len(value.by_seed),
                "by_seed": " ".join(f"{seed}:{_shorten(number)}" for seed, number in value.by_seed.items()),
                "spread": _shorten(value.spread),
                "difference": _shorten(filled.difference(cell)) if filled.profile.comparable else "",
                "paper_gain": _shorten(paper_gain),
                "gain": _shorten(filled.gain(cell)),
                "clips": clips,
                "clips_expected": expected,
                "commit": " ".join(value.commits),
                "runs": " ".join(str(number.folder) for number in value.numbers),
            }
        )
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _shorten(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
