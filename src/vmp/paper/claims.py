"""The paper's claims checked against the tables' runs: which models gain and how surely, and where slope and shift go.

Notes:
- gains are paired: a run with prompts minus the baseline of the same data, model, start and seed;
- the standard error treats pairs as independent. They share test clips and initial weights, so the true one is
  larger;
- beside every claim stands the smallest difference that its runs would have shown (power.py), from the spread over
  seeds, which the gains of a table share, and for the gains what the controls show (sensitivity.py);
- the paper's numbers of the same cells stand beside ours; a dash where it prints none.
"""

import itertools
import math
import shlex
import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmp.config import Prompts
from vmp.errors import ConfigError
from vmp.files import read_csv
from vmp.formats import format_signed, markdown_table
from vmp.paper.planning import Planner
from vmp.paper.power import Pair, detectable, error_over_pairs, errors_needed, pooled
from vmp.paper.sensitivity import Controlled, controlled_cells, rows_of_controls, rows_of_variation
from vmp.paper.tables import Profile, Table, cells, conf_folder, load_profile, load_table, results_of
from vmp.paper.values import read_values
from vmp.pathways import display_name, scalar_name, split_scalar_name
from vmp.runs.run import Run

NOT_RUN = "Not run."


@dataclass(frozen=True)
class Gain:
    """Top-1 over the baseline of the same seed, in points. paper: the gain of the same cells in the paper. block: the
    baseline, which may be that of other gains too."""

    row: str
    column: str
    dataset: str
    seed: int
    ours: float
    paper: float | None
    block: Hashable = None

    @property
    def pair(self) -> Pair:
        return Pair((self.row, self.column), self.block, self.seed, self.ours)


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


def claims(
    profile_name: str,
    *,
    seeds: int,
    output: str | None = None,
    results: Path | None = None,
    overrides: Sequence[str] = (),
) -> str:
    """Markdown about the runs that there are; runs nothing.

    Args:
        output: folder of the runs, results: of table8.csv; None: the profile's.
        overrides: those that the tables' runs were made with; runs with another config do not count.
    """
    profile = load_profile(profile_name)
    files = {n: conf_folder() / "table" / f"table{n}.yaml" for n in (1, 5, 7, 8)}
    tables = {n: load_table(file) for n, file in files.items()}
    output = output or profile.output
    planner = Planner(output=output, extra=overrides)
    results = results or results_of(output)
    controlled = [
        cell
        for n in (1, 7)
        for cell in controlled_cells(
            load_table(files[n], controls=profile.controls), profile, planner, range(seeds)
        )
    ]
    found = {n: list_gains(tables[n], profile, planner, range(seeds)) for n in (1, 5)}
    protocol, given = tables[8].measured, " ".join(overrides)
    learned = learned_scalars(tables[7], profile, planner, range(seeds))
    parts = [
        "# The paper's claims, compared with the runs of the tables",
        " ".join(profile.note.split()),
        f"Made by `make claims{'' if profile.name == 'paper' else f' PROFILE={profile.name}'}"
        f"{f' SEEDS={seeds}' if seeds > 1 else ''}"
        f"{f' SET={shlex.quote(given)}' if given else ''}`. "
        "± is a standard error over pairs as if they were independent. "
        "Detectable: the smallest difference that these runs would have shown with a probability of 80 % (two-sided "
        "test at 5 %). It is 2.8 times, or more where few runs show the spread (Student's t), the larger of ± and the "
        "error that follows from the spread over seeds, in a table of gains pooled over all its cells, which are taken "
        "to scatter alike, elsewhere over the row; where none has several seeds, from the spread over cells, which "
        "overestimates it. "
        "Ours is a mean over pairs, so that a cell with more seeds counts more; the paper's is one over cells.",
        "## Do prompts help? (Table 1, top-1 over the baseline of the same seed, points)",
        table_of_gains(found[1], "Model", lambda g: g.row),
        table_of_gains(found[1], "Data", lambda g: g.column.partition(",")[0], total=False),
        *section_of_controls(controlled, profile),
        "## What varies from run to run? (runs of Table 1; top-1, points)",
        describe_variation(tables[1], profile, planner),
        _to_markdown(*rows_of_variation(tables[1], profile, planner, range(seeds), results / "starts.csv")),
        "## Do prompts help on degraded videos? (Table 5, top-1 over the baseline of the same seed, points)",
        table_of_gains(
            found[5], "Videos", lambda g: f"{g.row.partition(',')[0]}, {g.column.partition(',')[0]}"
        ),
        "## Does λ push slope and shift down? (Fig. 4a, b; runs of Table 7, means over seeds)",
        "Falls: steps to the next λ in which the mean over the seeds that both have falls. The means in a row are over "
        "all seeds that a λ has, which need not be the same.",
        *tables_by_lambda(learned),
        "## Is b noisy without regularisation? (how often the logged shift changes direction, mean over runs)",
        table_of_turns(learned),
        "## Are a and b higher on the static camera? (Fig. 4c; λ = 0, static minus moving camera, same seed)",
        table_of_cameras(learned),
        "## What do the backbones learn? (Fig. 4d; runs of Table 1 on HMDB-51 split 1; the paper's fast pathway alone "
        "learns a steeper slope than the slow one alone)",
        table_of_backbones(learned_scalars(tables[1], profile, planner, range(seeds))),
        "## What do prompts cost? (Table 8, time added to the baseline's)",
        table_of_costs(results / "table8.csv", repeats=protocol.repeats if protocol else 0),
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
        ours = values[cell.place].gains_over(values[cell.baseline])
        gains += [
            Gain(row, column, cell.run.dataset, seed, gain, paper, base.run) for seed, gain in ours.items()
        ]
    return gains


def learned_scalars(table: Table, profile: Profile, planner: Planner, seeds: Iterable[int]) -> list[Learned]:
    """One entry per pathway of each run behind the table's cells of top-1."""
    all_cells = cells(table, profile)
    values = read_values(all_cells, planner, seeds)
    learned = []
    for cell in all_cells:
        if cell.run is None or cell.number != "top1":  # a mean, or another number of the same run
            continue
        for seed, (number, *_) in values[cell.place].found.items():
            run = Run(number.folder)
            scalars = run.result.get("scalars", {})
            for pathway in (p for p, name in map(split_scalar_name, scalars) if name == "slope"):
                slope, shift = scalar_name(pathway, "slope"), scalar_name(pathway, "shift")
                logged = [row[f"vmp/{shift}"] for row in run.rows if row["kind"] == "train"]
                learned.append(
                    Learned(
                        row=table.row_name(cell.row),
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
    return statistics.fmean(values), error_over_pairs(values)


# --- the tables of the page ----------------------------------------------------------------------------------------


def table_of_gains(
    gains: Sequence[Gain], head: str, key: Callable[[Gain], str], *, total: bool = True
) -> str:
    """One row per group, in the order of the paper's table, and one for all if there are several. What could be
    detected is from the spread over seeds of all gains."""
    groups = _group(gains, key)
    if total and len(groups) > 1:
        groups["All"] = list(gains)
    rows = []
    for label, group in groups.items():
        ours = [gain.ours for gain in group]
        printed = {(gain.row, gain.column): gain.paper for gain in group if gain.paper is not None}
        paper = format_signed(statistics.fmean(printed.values())) if printed else "–"
        up, down = sum(gain > 0 for gain in ours), sum(gain < 0 for gain in ours)
        seen = _format_limit(detectable((gain.pair for gain in group), (gain.pair for gain in gains)))
        rows.append([label, paper, _format_mean(ours), up, down, len(ours), seen])
    return _to_markdown([head, "Paper", "Ours", "Gains", "Losses", "Pairs", "Detectable"], rows)


def tables_by_lambda(learned: Sequence[Learned]) -> list[str]:
    """One table per dataset: a and b by lambda, and in how many of the steps to the next lambda each falls, over the
    seeds that both have: a seed that only one of them has moves its mean, not slope and shift."""
    tables = []
    for dataset, runs in _group(learned, lambda one: one.dataset).items():
        weights = sorted({one.weight for one in runs})
        rows = []
        for model, of_model in _group(runs, lambda one: one.model).items():
            texts, by_weight = [], []
            for weight in weights:
                at = [one for one in of_model if one.weight == weight]
                if not at:
                    texts.append("–")
                    continue
                a, b = (statistics.fmean(getattr(one, name) for one in at) for name in ("slope", "shift"))
                by_weight.append({one.seed: (one.slope, one.shift) for one in at})
                texts.append(f"{a:.2f}, {format_signed(b, 2)}")
            steps = [_steps(by_weight, i) for i in (0, 1)]
            falls = [
                f"{sum(statistics.fmean(step) < 0 for step in of_one)} of {len(of_one)}" for of_one in steps
            ]
            seen = ", ".join(_format_limit(_detectable_step(of_one), 2) for of_one in steps)
            rows.append([model, *texts, ", ".join(falls), seen])
        head = [f"{dataset}: a, b at λ =", *(f"{weight:g}" for weight in weights), "falls", "detectable step"]
        tables.append(_to_markdown(head, rows))
    return tables or [NOT_RUN]


def _steps(by_weight: Sequence[Mapping[int, tuple[float, float]]], which: int) -> list[list[float]]:
    """For each step from one λ to the next, the change of a (which = 0) or b (1) in each seed that has both; steps
    without such a seed are left out."""
    steps = [
        [y[seed][which] - x[seed][which] for seed in x if seed in y] for x, y in itertools.pairwise(by_weight)
    ]
    return [step for step in steps if step]


def _detectable_step(steps: Sequence[Sequence[float]]) -> float | None:
    """The change from one λ to the next that would be seen in each step, so in the one with the fewest seeds."""
    spread, seeds = pooled(steps), min(map(len, steps), default=0)
    return spread[0] / math.sqrt(seeds) * errors_needed(spread[1]) if spread else None


def table_of_turns(learned: Sequence[Learned]) -> str:
    """The difference to λ = 0 and the detectable one are of the same model, pathway and seed; pathways of a run are a
    block."""
    rows = []
    for dataset, runs in _group(learned, lambda one: one.dataset).items():
        free = {(one.row, one.pathway, one.seed): one.turns for one in runs if one.weight == 0}
        for weight in sorted({one.weight for one in runs}):
            here = [one for one in runs if one.weight == weight]
            turns = [one.turns for one in here]
            more = [
                Pair((one.row, one.pathway), one.row, one.seed, one.turns - free[key])
                for one in here
                if weight and (key := (one.row, one.pathway, one.seed)) in free
            ]
            against = "–"
            if more:
                against = f"{format_signed(statistics.fmean(pair.value for pair in more))} ({len(more)})"
            counts = [f"{statistics.fmean(turns):.1f}", max(turns), len(turns), against]
            rows.append([dataset, f"{weight:g}", *counts, _format_limit(detectable(more))])
    head = ["Data", "λ", "Changes of direction", "Most in a run", "Curves"]
    return _to_markdown([*head, "Against λ = 0 (pairs)", "Detectable"], rows)


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
            seen = [
                _format_limit(
                    detectable(Pair(model, model, seed, value) for seed, value in enumerate(values)), 2
                )
                for values in (slopes, shifts)
            ]
            means = _format_mean(slopes, 2), _format_mean(shifts, 2)
            rows.append([model, *means, len(pairs), ", ".join(seen)])
    return _to_markdown(["Model", "a", "b", "Seeds", "Detectable"], rows)


def table_of_backbones(learned: Sequence[Learned]) -> str:
    """a and b of each model, and pathway, on the first split of HMDB-51, means over seeds."""
    on_split = [one for one in learned if one.dataset == "hmdb51_split1"]
    rows = []
    for model, runs in _group(on_split, lambda one: one.model).items():
        slope = _format_mean([one.slope for one in runs], 2).lstrip("+")
        rows.append([model, slope, _format_mean([one.shift for one in runs], 2), len(runs)])
    return _to_markdown(["Model", "a", "b", "Seeds"], rows)


def table_of_costs(path: Path, *, repeats: int = 0) -> str:
    """From table8.csv, whose gain columns are differences to the baseline in seconds. repeats: rounds behind a mean."""
    if not path.is_file():
        return NOT_RUN
    timed = [row for row in read_csv(path, required=("row", "column", "ours", "gain")) if row["ours"]]
    measured = [row for row in timed if row["gain"]]

    def percent(extra: str, whole: str) -> str:
        if not (extra and whole):
            return "–"
        return f"{100 * float(extra) / (float(whole) - float(extra)):+z.0f} %"

    def limit(row: Mapping[str, str]) -> str:
        """What would be seen, in percent of the baseline, from the spread of both over the rounds: too large rather
        than too small, since both are timed in the same rounds, and a noisy one disturbs both."""
        whole = float(row["ours"]) - float(row["gain"])
        before = reversed(timed[: timed.index(dict(row))])
        base = next((t for t in before if not t["gain"] and t["column"] == row["column"]), None)
        if base is None or repeats < 2 or not (row["spread"] and base["spread"]):
            return "–"
        error = math.hypot(float(row["spread"]), float(base["spread"])) / math.sqrt(repeats)
        return f"{100 * error * errors_needed(2 * repeats - 2) / whole:.0f} %"

    columns = list(dict.fromkeys(row["column"] for row in measured))
    rows = []
    for label, of_row in _group(measured, lambda row: row["row"]).items():
        by_column = {row["column"]: row for row in of_row}
        costs = {
            column: f"{percent(row['gain'], row['ours'])} ({percent(row['paper_gain'], row['paper'])})"
            for column, row in by_column.items()
        }
        limits = ", ".join(limit(by_column[column]) for column in columns if column in by_column)
        rows.append([label, *(costs.get(column, "–") for column in columns), limits])
    return _to_markdown(["Ours (paper's)", *columns, "Detectable"], rows)


def section_of_controls(found: Sequence[Controlled], profile: Profile) -> list[str]:
    """Heading, table and reading of the controls; nothing in a profile without them."""
    if not profile.controls:
        return []
    head, rows = rows_of_controls(found)
    parts = ["## Could a gain be seen? (controls of Tables 1 and 7, top-1 over the baseline, points)"]
    if not rows:
        return [*parts, NOT_RUN]
    return [
        *parts,
        "True motion is attention on the object that moves, as the generator knows it (`vmp=oracle`). Camera "
        "compensated is the learned layer on differences without the camera's motion. Another clip's motion and "
        "constant attention have nothing to do with what moves in the clip. Blind: the gains of true motion and "
        "of motion prompts are smaller than the detectable one, so that the lack of a gain of motion prompts says "
        "nothing. Where constant attention gains as much as true motion, the gain does not come from attention in the "
        "right place.",
        _to_markdown(head, rows),
    ]


def describe_variation(table: Table, profile: Profile, planner: Planner) -> str:
    """What differs between two seeds of a run."""
    for cell in cells(table, profile):
        if cell.run and cell.baseline:
            try:
                v = planner.run(cell.run, 0).config.vmp
            except ConfigError:  # the user's overrides are for other models
                continue
            break
    else:
        return ""
    drawn = isinstance(v, Prompts) and "draw" in (v.m, v.n)
    start = (
        "and the initial m and n"
        if drawn
        else "but not the initial m and n, which all runs share (`vmp.m=draw vmp.n=draw` would vary them)"
    )
    return (
        "A seed varies the order of the clips, their augmentation and the initial values of weights that are not "
        f"loaded (of a pretrained network: the head), {start}. All seeds share the clips and the pretrained weights."
    )


def _group(items: Iterable[Any], key: Callable[[Any], str]) -> dict[str, list[Any]]:
    """Items by key, in the order in which the keys first occur."""
    groups: dict[str, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _format_mean(values: Sequence[float], digits: int = 1) -> str:
    mean, error = mean_and_error(values)
    return format_signed(mean, digits) + ("" if error is None else f" ± {error:.{digits}f}")


def _format_limit(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _to_markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return NOT_RUN
    return "\n".join(markdown_table(head, rows))
