"""The paper's claims against the tables' runs: who gains and how surely, and where slope and shift go.

Notable here:
- gains are paired: a run with prompts less the baseline of the same data, model, start and seed;
- the standard error is over pairs as if each were an independent draw. Pairs share test clips, and models their
  starts, so the true one is larger;
- the paper's numbers of the same cells stand beside ours; what it does not print is a dash.
"""

import csv
import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmp.paper.rendering import name, printed_at, signed
from vmp.paper.tables import (
    Planner,
    Profile,
    Table,
    cells,
    composer,
    load_profile,
    load_table,
    read_values,
    results_of,
)
from vmp.runs.run import Run


@dataclass(frozen=True)
class Gain:
    """Top-1 over the baseline of the same seed, in points; paper: the same of the printed cells."""

    row: str
    column: str
    dataset: str
    seed: int
    ours: float
    paper: float | None


@dataclass(frozen=True)
class Learned:
    """Where a run's slope and shift ended, and how often its logged shift turned round."""

    row: str
    dataset: str
    weight: float  # lambda
    seed: int
    pathway: str
    slope: float
    shift: float
    turns: int


def claims(profile_name: str, root: Path, *, seeds: int, results: Path | None = None) -> str:
    """Markdown of what there is; nothing is run.

    Args:
        results: where table8.csv is; None: that of the profile's runs.

    Raises:
        ConfigError: no such profile.
    """
    conf = root / "conf"
    profile = load_profile(conf / "table" / "profile" / f"{profile_name}.yaml")
    tables = {n: load_table(conf / "table" / f"table{n}.yaml") for n in (1, 5, 7)}
    planner = Planner(composer(conf), output=profile.output)
    found = {n: gains(table, profile, planner, range(seeds)) for n, table in tables.items() if n != 7}
    learned = learned_scalars(tables[7], profile, planner, range(seeds))
    parts = [
        "# The paper's claims, by the runs of the tables",
        " ".join(profile.note.split()),
        f"Made by `make claims{'' if profile.name == 'paper' else f' PROFILE={profile.name}'}"
        f"{f' SEEDS={seeds}' if seeds > 1 else ''}`. ± is a standard error over pairs as if they were independent.",
        "## Do prompts help? (Table 1, top-1 over the baseline of the same seed, points)",
        *_gain_tables(found[1]),
        "## On degraded videos? (Table 5, likewise)",
        _by(found[5], "Videos", lambda g: f"{g.row.partition(',')[0]}, {g.column.partition(',')[0]}"),
        "## Does λ push slope and shift down? (Fig. 4a, b; runs of Table 7, means over seeds)",
        *_by_lambda(learned),
        "## Is b noisy without regularisation? (turns of the logged shift, mean over runs)",
        _turns(learned),
        "## Are a and b higher on the static camera? (Fig. 4c; λ = 0, static less moving of the same seed)",
        _cameras(learned),
        "## What do prompts cost? (Table 8, more than the baseline)",
        _costs((results or results_of(profile.output)) / "table8.csv"),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def gains(table: Table, profile: Profile, planner: Planner, seeds: Sequence[int]) -> list[Gain]:
    """Of cells with a top-1 and a baseline, where both were run."""
    all_cells = {(c.row, c.column): c for c in cells(table, profile)}
    values = read_values(list(all_cells.values()), planner, seeds)
    out = []
    for place, cell in all_cells.items():
        if cell.task is None or cell.baseline is None or cell.number != "top1":
            continue
        base = all_cells[cell.baseline]
        printed, printed_base = printed_at(table, place), printed_at(table, cell.baseline)
        paper = None
        if isinstance(printed, float | int) and isinstance(printed_base, float | int):
            paper = printed - printed_base
        label, column = name(table.rows[cell.row]), name(table.columns[cell.column])
        if base.row != cell.row and label.startswith("+"):
            label = f"{name(table.rows[base.row])} {label}"
        with_, without = values[place].by_seed, values[cell.baseline].by_seed
        out += [
            Gain(label, column, cell.task.dataset, seed, with_[seed] - without[seed], paper)
            for seed in with_
            if seed in without
        ]
    return out


def learned_scalars(table: Table, profile: Profile, planner: Planner, seeds: Sequence[int]) -> list[Learned]:
    """Of the runs behind a table's cells."""
    all_cells = cells(table, profile)
    values = read_values(all_cells, planner, seeds)
    out = []
    for cell in all_cells:
        for seed, (number, *_) in values[cell.row, cell.column].of.items():
            assert cell.task
            run = Run(number.folder)
            scalars = run.result.get("scalars", {})
            for key in (key for key in scalars if key.endswith("slope")):
                prefix = key.removesuffix("slope")
                logged = [r[f"vmp/{prefix}shift"] for r in run.rows if r["kind"] == "train"]
                out.append(
                    Learned(
                        name(table.rows[cell.row]), cell.task.dataset, run.config["vmp"]["lambda"], seed,
                        prefix.rstrip("/"), scalars[key], scalars[f"{prefix}shift"], turns(logged),
                    )
                )  # fmt: skip
    return out


def turns(values: Sequence[float]) -> int:
    """How often a curve changes between rising and falling."""
    steps = [b - a for a, b in itertools.pairwise(values) if b != a]
    return sum((a > 0) != (b > 0) for a, b in itertools.pairwise(steps))


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and its standard error: None for a single value."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return statistics.fmean(values), error


def _gain_tables(found: Sequence[Gain]) -> list[str]:
    return [
        _by(found, "Model", lambda g: g.row),
        _by(found, "Data", lambda g: g.column.partition(",")[0], whole=False),
    ]


def _by(found: Sequence[Gain], head: str, key: Callable[[Gain], str], *, whole: bool = True) -> str:
    """A line a group in the order of the table, and one for all."""
    if not found:
        return "Not run."
    groups: dict[str, list[Gain]] = {}
    for gain in found:
        groups.setdefault(key(gain), []).append(gain)
    if whole and len(groups) > 1:
        groups["All"] = list(found)
    rows = []
    for label, part in groups.items():
        ours = [g.ours for g in part]
        printed = {(g.row, g.column): g.paper for g in part if g.paper is not None}
        paper = signed(statistics.fmean(printed.values())) if printed else "–"
        up, down = sum(o > 0 for o in ours), sum(o < 0 for o in ours)
        rows.append([label, paper, _plus_minus(ours), str(up), str(down), str(len(ours))])
    return _grid([head, "Paper", "Ours", "Up", "Down", "Pairs"], rows)


def _plus_minus(values: Sequence[float], digits: int = 1) -> str:
    mean, error = mean_and_error(values)
    return signed(mean, digits) + ("" if error is None else f" ± {error:.{digits}f}")


def _by_lambda(found: Sequence[Learned]) -> list[str]:
    """A table a dataset: a, b by lambda, and in how many of the steps to the next lambda each falls."""
    parts = []
    for dataset in dict.fromkeys(one.dataset for one in found):
        mine = [one for one in found if one.dataset == dataset]
        weights = sorted({one.weight for one in mine})
        rows = []
        for row, pathway in dict.fromkeys((one.row, one.pathway) for one in mine):
            cells_, means = [], []
            for weight in weights:
                at = [o for o in mine if (o.row, o.pathway, o.weight) == (row, pathway, weight)]
                if not at:
                    cells_.append("–")
                    continue
                a, b = statistics.fmean(o.slope for o in at), statistics.fmean(o.shift for o in at)
                means.append((a, b))
                cells_.append(f"{a:.2f}, {signed(b, 2)}")
            falls = [sum(y[i] < x[i] for x, y in itertools.pairwise(means)) for i in (0, 1)]
            steps = len(means) - 1
            rows.append(
                [f"{row} {pathway}".strip(), *cells_, f"{falls[0]} of {steps}, {falls[1]} of {steps}"]
            )
        head = [f"{dataset}: a, b at λ =", *(f"{weight:g}" for weight in weights), "falls"]
        parts.append(_grid(head, rows))
    return parts or ["Not run."]


def _turns(found: Sequence[Learned]) -> str:
    rows = []
    for dataset in dict.fromkeys(one.dataset for one in found):
        for weight in sorted({one.weight for one in found if one.dataset == dataset}):
            at = [o.turns for o in found if (o.dataset, o.weight) == (dataset, weight)]
            rows.append([dataset, f"{weight:g}", f"{statistics.fmean(at):.1f}", str(max(at)), str(len(at))])
    return _grid(["Data", "λ", "Turns", "Most", "Curves"], rows) if rows else "Not run."


def _cameras(found: Sequence[Learned]) -> str:
    at = {(o.row, o.pathway, o.seed, o.dataset): o for o in found if o.weight == 0}
    rows = []
    for row, pathway in dict.fromkeys((o.row, o.pathway) for o in at.values()):
        seeds = [
            (static, moving)
            for seed in sorted({o.seed for o in at.values()})
            if (static := at.get((row, pathway, seed, "mpii_cooking2")))
            and (moving := at.get((row, pathway, seed, "finegym")))
        ]
        if seeds:
            slopes = [static.slope - moving.slope for static, moving in seeds]
            shifts = [static.shift - moving.shift for static, moving in seeds]
            label = f"{row} {pathway}".strip()
            rows.append([label, _plus_minus(slopes, 2), _plus_minus(shifts, 2), str(len(seeds))])
    return _grid(["Model", "a", "b", "Seeds"], rows) if rows else "Not run."


def _costs(path: Path) -> str:
    """From what table 8 wrote: the gain column is the difference to the baseline."""
    if not path.is_file():
        return "Not run."
    with open(path, newline="", encoding="utf-8") as file:
        found = [row for row in csv.DictReader(file) if row["ours"] and row["gain"]]
    rows: dict[str, dict[str, str]] = {}
    for row in found:
        extra, whole = float(row["gain"]), float(row["ours"])
        paper = "–"
        if row["paper"] and row["paper_gain"]:
            paper = (
                f"{100 * float(row['paper_gain']) / (float(row['paper']) - float(row['paper_gain'])):+.0f} %"
            )
        rows.setdefault(row["row"], {})[row["column"]] = f"{100 * extra / (whole - extra):+.0f} % ({paper})"
    columns = list(dict.fromkeys(row["column"] for row in found))
    body = [[label, *(part.get(column, "–") for column in columns)] for label, part in rows.items()]
    return _grid(["Ours (paper's)", *columns], body) if body else "Not run."


def _grid(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
