"""A table written out: Markdown and LaTeX to read, CSV with every number and where it is from."""

import csv
import io
import re
from collections.abc import Mapping, Sequence

from vmp.paper.tables import Cell, Part, Printed, Profile, Table, Value

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
    """Mean over seeds, their range where there are several, how many where some are not there, and the gain over the
    baseline of the same seeds."""
    if cell.printed is None:
        return "–"
    value = values[cell.row, cell.column]
    if value.mean is None:
        return why_not(value)
    over = gain(cell, values)
    if value.spread is not None:
        extra = "" if over is None else f" ({signed(over, 4)})"
        return f"{value.mean:.4f}±{value.spread:.4f}{extra}"
    each = value.by_seed.values()
    many = f" [{min(each):.1f}–{max(each):.1f}]" if len(each) > 1 else ""
    few = f" {{{len(each)} of {len(each) + len(value.why)} seeds}}" if value.why else ""
    return f"{value.mean:.1f}{many}{few}" + ("" if over is None else arrow(over))


def why_not(value: Value) -> str:
    """Why there is no number, in the words of most seeds."""
    words = list(value.why.values())
    return max(words, key=words.count) if words else NOT_RUN


def gain(cell: Cell, values: Values) -> float | None:
    """Over the baseline, of the seeds that both have."""
    return values[cell.row, cell.column].gain(values[cell.baseline]) if cell.baseline else None


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
    profile: Profile,
    all_cells: Sequence[Cell],
    values: Values,
    *,
    command: str,
    seeds: Sequence[int],
    overrides: Sequence[str] = (),
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
    if overrides:
        lines.append(f"Not the recipe as it stands: {' '.join(overrides)} was given for all runs.")
    if not table.measured and (
        partly := sum(bool(v.of and v.why) for v in (values[c.row, c.column] for c in wanted))
    ):
        lines.append(f"{partly} of these cells lack seeds, and say how many they have.")
    if len(seeds) > 1 and not table.measured:
        lines.append(
            "Means over the seeds that were run, and their range in brackets. The starts of m and n are those of the "
            "recipes, the same for all seeds."
        )
    lines.append(
        "In round brackets: the difference to the baseline."
        if table.measured
        else "↑ and ↓: the gain over the baseline of the same seeds."
    )
    if device:
        lines.append(f"Ours on {device}.")
    if disturbed := [v for v in values.values() if v.spread and v.mean and v.spread > v.mean / 2]:
        lines.append(
            f"{len(disturbed)} timings were disturbed (a standard deviation above half the mean): remove what is in "
            "table8 of the runs' folder, and measure again on a quiet machine."
        )
    commits = sorted({commit for value in values.values() for commit in value.commits})
    if commits:
        lines.append(f"Commit{'s' if len(commits) > 1 else ''}: {', '.join(commits)}.")
    lines += _clip_lines(profile, wanted, values)
    return lines


def _clip_lines(profile: Profile, wanted: Sequence[Cell], values: Values) -> list[str]:
    """On how many clips was trained and tested, and where that is not what the paper's lists have."""
    tested: dict[str, set[tuple[int, int]]] = {}
    trained: dict[str, set[tuple[int, int]]] = {}
    for cell in wanted:
        numbers = values[cell.row, cell.column].numbers
        if not cell.task or cell.mean_of:
            continue
        where = f"{cell.class_name}{f', {cell.where}' if cell.where else ''}" if cell.class_name else ""
        tested.setdefault(where or cell.task.dataset, set()).update(n.clips for n in numbers if n.clips)
        trained.setdefault(cell.task.dataset, set()).update(n.trained for n in numbers if n.trained)

    def said(counts: set[tuple[int, int]]) -> str:
        return " or ".join(f"{there:,} of {all_:,}" for there, all_ in sorted(counts))

    lines = [f"{what}: tested on {said(counts)} clips." for what, counts in tested.items() if counts]
    lines += [f"{dataset}: trained on {said(counts)} clips." for dataset, counts in trained.items() if counts]
    for dataset, counts in trained.items():
        published = profile.datasets[dataset].clips
        if published.get("test") and any(expected != published["train"] for _, expected in counts):
            lines.append(
                f"{dataset}: the published list has {published['train']:,} training clips: not these data."
            )
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
        their = printed_at(table, cell.baseline)
        their = their[0] if isinstance(their, tuple) else their
        there, expected = value.clips or ("", "")
        mean, each = value.mean, value.by_seed.values()
        writer.writerow(
            [
                table.number,
                _row_name(table, cell.row),
                name(table.columns[cell.column]),
                "mean" if cell.mean_of else cell.number,
                printed,
                *(
                    [_number(mean), _number(min(each)), _number(max(each)), len(each)]
                    if mean is not None
                    else [why_not(value), "", "", 0]
                ),
                _number(value.spread),
                _number(difference(cell, values)) if profile.comparable else "",
                _number(None if their is None else printed - their),
                _number(gain(cell, values)),
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
