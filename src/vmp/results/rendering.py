"""A table written out: Markdown and LaTeX to read, CSV with every number and where it is from."""

import csv
import io
import re
from collections.abc import Mapping, Sequence

from vmp.results.tables import Cell, Part, Printed, Profile, Table, Value

NOT_RUN = "not run"
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
Values = Mapping[tuple[int, int], Value]


def signed(value: float, digits: int = 1) -> str:
    """With a sign, and 0.0 without."""
    text = f"{value:.{digits}f}"
    return (
        f"{abs(float(text)):.{digits}f}" if float(text) == 0 else f"+{text}" if value > 0 else f"−{text[1:]}"
    )


def arrow(gain: float, digits: int = 1) -> str:
    text = f"{abs(gain):.{digits}f}"
    return f" ({'↑' if gain > 0 else '↓'}{text})" if float(text) else f" ({text})"


def printed_text(cell: Cell, table: Table) -> str:
    """The paper's number; the gain is what its numbers give, which its own arrows do not always."""
    value = cell.printed
    if value is None:
        return "–"
    if isinstance(value, tuple):
        extra = table.rows[cell.row].extra
        return f"{value[0]:.3f}±{value[1]:.3f}" + (f" ({signed(extra[cell.column], 3)})" if extra else "")
    base = printed_at(table, cell.baseline)
    return f"{value:.1f}" + (arrow(value - base) if isinstance(base, float) else "")


def printed_at(table: Table, place: tuple[int, int] | None) -> Printed:
    return (table.rows[place[0]].paper or ())[place[1]] if place else None


def ours_text(cell: Cell, values: Values) -> str:
    """Mean over seeds, their range where there are several, and the gain over the baseline."""
    if cell.printed is None:
        return "–"
    value = values[cell.row, cell.column]
    if value.mean is None:
        return NOT_RUN
    base = values[cell.baseline].mean if cell.baseline else None
    if value.spread is not None:
        extra = f" ({signed(value.mean - base, 4)})" if base is not None else ""
        return f"{value.mean:.4f}±{value.spread:.4f}{extra}"
    many = f" [{min(value.values):.1f}–{max(value.values):.1f}]" if len(value.values) > 1 else ""
    return f"{value.mean:.1f}{many}" + (arrow(value.mean - base) if base is not None else "")


def difference(cell: Cell, values: Values) -> float | None:
    """Ours less the paper's."""
    mean = values[cell.row, cell.column].mean
    printed = cell.printed[0] if isinstance(cell.printed, tuple) else cell.printed
    return None if mean is None or printed is None else mean - printed


def missing(all_cells: Sequence[Cell], values: Values) -> list[Cell]:
    return [c for c in all_cells if c.printed is not None and values[c.row, c.column].mean is None]


def name(part: Part, *, group: bool = True) -> str:
    return f"{part.group}, {part.label}" if part.group and group else part.label


def grid(
    table: Table, profile: Profile, all_cells: Sequence[Cell], values: Values, columns: Sequence[int]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of these columns."""
    grouped = any(row.group for row in table.rows)
    header = [table.stub] if not grouped else ["", table.stub]
    for c in columns:
        label = table.columns[c].label
        header += [f"{label}, paper", f"{label}, ours"] + (["difference"] if profile.comparable else [])
    at = {(cell.row, cell.column): cell for cell in all_cells}
    digits = 4 if table.measured else 1
    rows = []
    for r, row in enumerate(table.rows):
        line = [row.group, row.label] if grouped else [row.label]
        for c in columns:
            cell = at[r, c]
            line += [printed_text(cell, table), ours_text(cell, values)]
            if profile.comparable:
                d = difference(cell, values)
                line.append("" if d is None else signed(d, digits))
        rows.append(line)
    return header, rows


def groups(table: Table) -> list[tuple[str, list[int]]]:
    """Columns by the group above them."""
    out: dict[str, list[int]] = {}
    for c, column in enumerate(table.columns):
        out.setdefault(column.group, []).append(c)
    return list(out.items())


def provenance(
    table: Table,
    all_cells: Sequence[Cell],
    values: Values,
    *,
    command: str,
    seeds: Sequence[int],
    device: str = "",
) -> list[str]:
    """What stands below a table, a line each."""
    wanted = [c for c in all_cells if c.printed is not None]
    gone = missing(all_cells, values)
    lines = [f"Made by `{command}`."]
    lines.append(
        f"{len(wanted) - len(gone)} of {len(wanted)} cells were run"
        + ("" if table.measured else f", seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}")
        + "."
    )
    if len(seeds) > 1:
        lines.append("Means over the seeds that were run, and their range in brackets.")
    lines.append(
        "In round brackets: the difference to the baseline."
        if table.measured
        else "↑ and ↓: the gain over the baseline, from the numbers as they stand, on either side."
    )
    if device:
        lines.append(f"Ours on {device}.")
    commits = sorted({commit for value in values.values() for commit in value.commits})
    if commits:
        lines.append(f"Commit{'s' if len(commits) > 1 else ''}: {', '.join(commits)}.")
    tested: dict[str, set[tuple[int, int]]] = {}
    for cell in wanted:
        clips = values[cell.row, cell.column].clips
        if clips and cell.task and cell.number != "verb":
            tested.setdefault(cell.task.dataset, set()).add(clips)
        elif clips and cell.class_name:
            chosen = f"{cell.class_name}{f', {cell.where}' if cell.where else ''}"
            tested.setdefault(chosen, set()).add(clips)
    for dataset, counts in tested.items():
        said = " or ".join(f"{there:,} of {all_:,}" for there, all_ in sorted(counts))
        lines.append(f"{dataset}: tested on {said} clips.")
    return lines


def to_markdown(
    table: Table, profile: Profile, all_cells: Sequence[Cell], values: Values, below: Sequence[str]
) -> str:
    out = [f"# Table {table.number}: {table.title}", ""]
    if profile.note:
        out += [profile.note.strip(), ""]
    for group, columns in groups(table):
        header, rows = grid(table, profile, all_cells, values, columns)
        text = 2 if any(row.group for row in table.rows) else 1
        out += [f"## {group}", ""] if group else []
        out.append(_line(header))
        out.append("|" + "---|" * text + "---:|" * (len(header) - text))
        out += [_line(row) for row in rows]
        out.append("")
    out += [*(f"- {line}" for line in below), ""]
    return "\n".join(out)


def _line(cells_: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells_) + " |"


def to_csv(table: Table, profile: Profile, all_cells: Sequence[Cell], values: Values) -> str:
    """A row a cell."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    header = "table row column number paper ours lowest highest seeds spread difference paper_gain gain clips"
    writer.writerow([*header.split(), "clips_expected", "commit", "runs"])
    for cell in all_cells:
        if cell.printed is None:
            continue
        value = values[cell.row, cell.column]
        printed = cell.printed[0] if isinstance(cell.printed, tuple) else cell.printed
        base = values[cell.baseline].mean if cell.baseline else None
        their = printed_at(table, cell.baseline)
        their = their[0] if isinstance(their, tuple) else their
        there, expected = value.clips or ("", "")
        mean = value.mean
        writer.writerow(
            [
                table.number,
                _row_name(table, cell.row),
                name(table.columns[cell.column]),
                "mean" if cell.mean_of else cell.number,
                printed,
                *(
                    [_number(mean), _number(min(value.values)), _number(max(value.values)), len(value.values)]
                    if mean is not None
                    else [NOT_RUN, "", "", 0]
                ),
                _number(value.spread),
                _number(difference(cell, values)) if profile.comparable else "",
                _number(None if their is None else printed - their),
                _number(None if base is None or mean is None else mean - base),
                there,
                expected,
                " ".join(value.commits),
                " ".join(str(number.folder) for number in value.numbers),
            ]
        )
    return file.getvalue()


def _row_name(table: Table, index: int) -> str:
    """With the baseline's name where rows of several are called the same."""
    row = table.rows[index]
    if row.gain and not row.group:
        base = next((table.rows[i] for i in reversed(range(index)) if table.rows[i].baseline), None)
        return f"{base.label} {row.label}" if base else row.label
    return name(row)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def to_latex(
    table: Table, profile: Profile, all_cells: Sequence[Cell], values: Values, below: Sequence[str]
) -> str:
    """For booktabs, a tabular a group of columns."""
    out = [f"% Table {table.number}: {table.title}", *(f"% {line}" for line in below)]
    for group, columns in groups(table):
        header, rows = grid(table, profile, all_cells, values, columns)
        text = 2 if any(row.group for row in table.rows) else 1
        out.append(r"\begin{tabular}{" + "l" * text + "r" * (len(header) - text) + "}")
        out.append(r"\toprule")
        if group:
            span = len(header) - text
            out.append("&" * (text - 1) + f" & \\multicolumn{{{span}}}{{c}}{{{escape(group)}}} \\\\")
        out.append(" & ".join(map(escape, header)) + r" \\")
        out.append(r"\midrule")
        out += [" & ".join(map(escape, row)) + r" \\" for row in rows]
        out += [r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(out)


def escape(text: str) -> str:
    return re.sub("|".join(map(re.escape, _LATEX)), lambda match: _LATEX[match[0]], text)
