"""The paper's claims checked against the tables' runs: which models gain and how surely, and where slope and shift go.

Notable here:
- gains are paired: a run with prompts minus the baseline of the same data, model, start and seed;
- the standard error treats pairs as independent. They share test clips and initial weights, so the true one is
  larger;
- the paper's numbers of the same cells stand beside ours; a dash where it prints none.
"""

import csv
import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmp.formats import format_signed
from vmp.paper.planning import Planner, composer
from vmp.paper.tables import Profile, Table, cells, load_profile, load_table, results_of
from vmp.paper.values import read_values
from vmp.pathways import display_name, scalar_name, split_scalar_name
from vmp.runs.run import Run

NOT_RUN = "Not run."


@dataclass(frozen=True)
class Gain:
    """Top-1 over the baseline of the same seed, in points. paper: the gain of the same cells in the paper."""

    row: str
    column: str
    dataset: str
    seed: int
    ours: float
    paper: float | None


@dataclass(frozen=True)
class Learned:
    """Where a run's slope and shift ended. turns: how often its logged shift changed direction."""

    row: str
    dataset: str
    weight: float  # lambda
    seed: int
    pathway: str
    slope: float
    shift: float
    turns: int

    @property
    def model(self) -> str:
        return f"{self.row} {self.pathway}".strip()


def claims(profile_name: str, root: Path, *, seeds: int, results: Path | None = None) -> str:
    """Markdown about the runs that there are; runs nothing. results: folder of table8.csv; None: the profile's."""
    conf = root / "conf"
    profile = load_profile(conf / "table" / "profile" / f"{profile_name}.yaml")
    tables = {n: load_table(conf / "table" / f"table{n}.yaml") for n in (1, 5, 7)}
    planner = Planner(composer(conf), output=profile.output)
    found = {n: list_gains(tables[n], profile, planner, range(seeds)) for n in (1, 5)}
    learned = learned_scalars(tables[7], profile, planner, range(seeds))
    parts = [
        "# The paper's claims, by the runs of the tables",
        " ".join(profile.note.split()),
        f"Made by `make claims{'' if profile.name == 'paper' else f' PROFILE={profile.name}'}"
        f"{f' SEEDS={seeds}' if seeds > 1 else ''}`. ± is a standard error over pairs as if they were independent.",
        "## Do prompts help? (Table 1, top-1 over the baseline of the same seed, points)",
        table_of_gains(found[1], "Model", lambda g: g.row),
        table_of_gains(found[1], "Data", lambda g: g.column.partition(",")[0], total=False),
        "## On degraded videos? (Table 5, likewise)",
        table_of_gains(
            found[5], "Videos", lambda g: f"{g.row.partition(',')[0]}, {g.column.partition(',')[0]}"
        ),
        "## Does λ push slope and shift down? (Fig. 4a, b; runs of Table 7, means over seeds)",
        *tables_by_lambda(learned),
        "## Is b noisy without regularisation? (turns of the logged shift, mean over runs)",
        table_of_turns(learned),
        "## Are a and b higher on the static camera? (Fig. 4c; λ = 0, static less moving of the same seed)",
        table_of_cameras(learned),
        "## What do prompts cost? (Table 8, more than the baseline)",
        table_of_costs((results or results_of(profile.output)) / "table8.csv"),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def list_gains(table: Table, profile: Profile, planner: Planner, seeds: Iterable[int]) -> list[Gain]:
    """Gains in top-1 of all cells that have a baseline, for the seeds that both were run with."""
    by_place = {cell.place: cell for cell in cells(table, profile)}
    values = read_values(list(by_place.values()), planner, seeds)
    gains = []
    for cell in by_place.values():
        if cell.run is None or cell.baseline is None or cell.number != "top1":
            continue
        base = by_place[cell.baseline]
        paper = None
        if isinstance(cell.printed, float) and isinstance(base.printed, float):
            paper = cell.printed - base.printed
        row, column = table.row_name(cell.row), table.columns[cell.column].full_name
        with_prompts, without = values[cell.place].by_seed, values[cell.baseline].by_seed
        gains += [
            Gain(row, column, cell.run.dataset, seed, with_prompts[seed] - without[seed], paper)
            for seed in with_prompts
            if seed in without
        ]
    return gains


def learned_scalars(table: Table, profile: Profile, planner: Planner, seeds: Iterable[int]) -> list[Learned]:
    """One entry per pathway of each run behind the table's cells."""
    all_cells = cells(table, profile)
    values = read_values(all_cells, planner, seeds)
    learned = []
    for cell in all_cells:
        for seed, (number, *_) in values[cell.place].found.items():
            assert cell.run
            run = Run(number.folder)
            scalars = run.result.get("scalars", {})
            for pathway in (p for p, name in map(split_scalar_name, scalars) if name == "slope"):
                slope, shift = scalar_name(pathway, "slope"), scalar_name(pathway, "shift")
                logged = [row[f"vmp/{shift}"] for row in run.rows if row["kind"] == "train"]
                learned.append(
                    Learned(
                        row=table.rows[cell.row].full_name,
                        dataset=cell.run.dataset,
                        weight=run.config["vmp"]["lambda"],
                        seed=seed,
                        pathway=display_name(pathway),
                        slope=scalars[slope],
                        shift=scalars[shift],
                        turns=count_turns(logged),
                    )
                )
    return learned


def count_turns(values: Sequence[float]) -> int:
    """How often a curve changes between rising and falling."""
    steps = [b - a for a, b in itertools.pairwise(values) if b != a]
    return sum((a > 0) != (b > 0) for a, b in itertools.pairwise(steps))


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and its standard error, which is None for a single value."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return statistics.fmean(values), error


# --- the tables of the page ----------------------------------------------------------------------------------------


def table_of_gains(
    gains: Sequence[Gain], head: str, key: Callable[[Gain], str], *, total: bool = True
) -> str:
    """One row per group, in the order of the paper's table, and one for all if there are several."""
    groups = _group(gains, key)
    if total and len(groups) > 1:
        groups["All"] = list(gains)
    rows = []
    for label, group in groups.items():
        ours = [gain.ours for gain in group]
        printed = {(gain.row, gain.column): gain.paper for gain in group if gain.paper is not None}
        paper = format_signed(statistics.fmean(printed.values())) if printed else "–"
        up, down = sum(gain > 0 for gain in ours), sum(gain < 0 for gain in ours)
        rows.append([label, paper, _format_mean(ours), up, down, len(ours)])
    return _to_markdown([head, "Paper", "Ours", "Up", "Down", "Pairs"], rows)


def tables_by_lambda(learned: Sequence[Learned]) -> list[str]:
    """One table per dataset: a and b by lambda, and in how many of the steps to the next lambda each falls."""
    tables = []
    for dataset, runs in _group(learned, lambda one: one.dataset).items():
        weights = sorted({one.weight for one in runs})
        rows = []
        for model, of_model in _group(runs, lambda one: one.model).items():
            texts, means = [], []
            for weight in weights:
                at = [one for one in of_model if one.weight == weight]
                if not at:
                    texts.append("–")
                    continue
                a, b = (statistics.fmean(getattr(one, name) for one in at) for name in ("slope", "shift"))
                means.append((a, b))
                texts.append(f"{a:.2f}, {format_signed(b, 2)}")
            falls = [sum(y[i] < x[i] for x, y in itertools.pairwise(means)) for i in (0, 1)]
            steps = len(means) - 1
            rows.append([model, *texts, f"{falls[0]} of {steps}, {falls[1]} of {steps}"])
        head = [f"{dataset}: a, b at λ =", *(f"{weight:g}" for weight in weights), "falls"]
        tables.append(_to_markdown(head, rows))
    return tables or [NOT_RUN]


def table_of_turns(learned: Sequence[Learned]) -> str:
    rows = []
    for dataset, runs in _group(learned, lambda one: one.dataset).items():
        for weight in sorted({one.weight for one in runs}):
            turns = [one.turns for one in runs if one.weight == weight]
            rows.append([dataset, f"{weight:g}", f"{statistics.fmean(turns):.1f}", max(turns), len(turns)])
    return _to_markdown(["Data", "λ", "Turns", "Most", "Curves"], rows)


def table_of_cameras(learned: Sequence[Learned]) -> str:
    """Static minus moving camera at λ = 0, over the seeds that have both."""
    rows = []
    for model, runs in _group([one for one in learned if one.weight == 0], lambda one: one.model).items():
        by_seed = {(one.dataset, one.seed): one for one in runs}
        pairs = [
            (static, by_seed["finegym", seed])
            for (dataset, seed), static in by_seed.items()
            if dataset == "mpii_cooking2" and ("finegym", seed) in by_seed
        ]
        if pairs:
            slopes = [static.slope - moving.slope for static, moving in pairs]
            shifts = [static.shift - moving.shift for static, moving in pairs]
            rows.append([model, _format_mean(slopes, 2), _format_mean(shifts, 2), len(pairs)])
    return _to_markdown(["Model", "a", "b", "Seeds"], rows)


def table_of_costs(path: Path) -> str:
    """From table8.csv, whose gain columns are differences to the baseline in seconds."""
    if not path.is_file():
        return NOT_RUN
    with open(path, newline="", encoding="utf-8") as file:
        measured = [row for row in csv.DictReader(file) if row["ours"] and row["gain"]]

    def percent(extra: str, whole: str) -> str:
        if not (extra and whole):
            return "–"
        return f"{100 * float(extra) / (float(whole) - float(extra)):+.0f} %"

    columns = list(dict.fromkeys(row["column"] for row in measured))
    rows = []
    for label, of_row in _group(measured, lambda row: row["row"]).items():
        costs = {
            row["column"]: f"{percent(row['gain'], row['ours'])} ({percent(row['paper_gain'], row['paper'])})"
            for row in of_row
        }
        rows.append([label, *(costs.get(column, "–") for column in columns)])
    return _to_markdown(["Ours (paper's)", *columns], rows)


def _group(items: Iterable[Any], key: Callable[[Any], str]) -> dict[str, list[Any]]:
    """Items by key, in the order in which the keys first occur."""
    groups: dict[str, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _format_mean(values: Sequence[float], digits: int = 1) -> str:
    mean, error = mean_and_error(values)
    return format_signed(mean, digits) + ("" if error is None else f" ± {error:.{digits}f}")


def _to_markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return NOT_RUN
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
