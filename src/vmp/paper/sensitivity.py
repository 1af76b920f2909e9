"""Could the tables' runs have shown a gain? Their controls, and what varies from run to run.

Notes:
- attention where something really moves is a gain that is there by construction. A cell whose runs show neither it nor
  a gain of motion prompts is blind: there, the lack of a gain says nothing;
- what a seed varies is told apart from what the start of slope and shift varies.
"""

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vmp.files import read_csv
from vmp.formats import format_signed
from vmp.paper.planning import Planner
from vmp.paper.power import errors_needed, pooled
from vmp.paper.tables import Header, Profile, Table, cells
from vmp.paper.values import read_values

LEARNED = "motion prompts"
PREFIX = "control: "
TRUE = "true motion"  # the positive control


@dataclass(frozen=True)
class Controlled:
    """A model on a dataset: arm -> seed -> top-1 over the baseline of the same seed, in points."""

    place: str
    gains: Mapping[str, Mapping[int, float]]

    def mean(self, arm: str) -> float | None:
        found = self.gains.get(arm, {})
        return statistics.fmean(found.values()) if found else None


def controlled_cells(
    table: Table, profile: Profile, planner: Planner, seeds: Iterable[int]
) -> list[Controlled]:
    """The cells of a table, with its control rows, that have controls of which some are run."""
    by_place = {cell.place: cell for cell in cells(table, profile)}
    values = read_values(list(by_place.values()), planner, seeds)
    found = []
    for (r, row), (c, column) in itertools.product(enumerate(table.rows), enumerate(table.columns)):
        cell = by_place[r, c]
        if row.label != PREFIX + TRUE or cell.run is None or cell.baseline is None or cell.number != "top1":
            continue
        arms = {
            _arm(other): values[i, c].gains_over(values[cell.baseline])
            for i, other in enumerate(table.rows)
            if other.model == row.model and not other.baseline and by_place[i, c].run
        }
        if arms[TRUE]:
            base = table.rows[cell.baseline[0]].label
            found.append(Controlled(f"{base}, {column.full_name}", arms))
    return found


def _arm(row: Header) -> str:
    return row.label.removeprefix(PREFIX) if row.control else LEARNED


def spread_of_cells(found: Sequence[Controlled]) -> tuple[float, int] | None:
    """Standard deviation over seeds of a gain, pooled over all cells and arms, and its degrees of freedom; None for
    single seeds. The arms of a cell share a baseline, so a cell counts once."""
    spread = pooled([list(gains.values()) for cell in found for gains in cell.gains.values()])
    freedom = sum(max(len(gains) for gains in cell.gains.values()) - 1 for cell in found)
    return (spread[0], freedom) if spread else None


def rows_of_controls(found: Sequence[Controlled]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: mean gain of each arm, what could be detected, and what follows."""
    arms = list(dict.fromkeys(arm for cell in found for arm in cell.gains))
    spread = spread_of_cells(found)
    rows = []
    for cell in found:
        means = {arm: cell.mean(arm) for arm in arms}
        texts = ["–" if mean is None else format_signed(mean) for mean in means.values()]
        seeds = {arm: len(cell.gains.get(arm, ())) for arm in (TRUE, LEARNED)}
        limits = {}
        if spread:
            error = spread[0] * errors_needed(spread[1])
            limits = {arm: error / math.sqrt(count) for arm, count in seeds.items() if count}
        limit, sees = limits.get(TRUE), any((means[arm] or 0) >= limits[arm] for arm in limits)
        verdict = "one seed: unknown" if limit is None else "sees it" if sees else "blind"
        rows.append([cell.place, *texts, "–" if limit is None else f"{limit:.1f}", str(seeds[TRUE]), verdict])
    return [
        "Model, data",
        *(arm[0].upper() + arm[1:] for arm in arms),
        "Detectable",
        "Seeds",
        "Can they show a gain?",
    ], rows


def rows_of_variation(
    table: Table, profile: Profile, planner: Planner, seeds: Iterable[int], starts: Path
) -> tuple[list[str], list[list[str]]]:
    """Header and rows: the standard deviation of top-1 from run to run, by what differs between the runs.

    Args:
        table: Table 1, whose runs have several seeds. starts: starts.csv, runs that start all over the plane of slope
            and shift; it need not exist.
    """
    all_cells = [cell for cell in cells(table, profile) if cell.run and cell.number == "top1"]
    values = read_values(all_cells, planner, seeds)
    groups: dict[str, list[list[float]]] = {}
    for text, baseline in (("without prompts", True), ("with prompts", False)):
        same = [values[cell.place] for cell in all_cells if table.rows[cell.row].baseline == baseline]
        name = f"seed: order of the clips, initial values of what is not loaded; {text}"
        groups[name] = [list(value.by_seed.values()) for value in same]
    if starts.is_file():
        by_seed: dict[tuple[str, str], list[float]] = {}
        for row in read_csv(starts, required=("dataset", "seed", "top1")):
            by_seed.setdefault((row["dataset"], row["seed"]), []).append(float(row["top1"]))
        groups["start of slope and shift (`make starts`), the same seed"] = list(by_seed.values())
    found = {name: pooled(group) for name, group in groups.items()}
    shown = [[name, f"{spread[0]:.1f}", str(spread[1])] for name, spread in found.items() if spread]
    return ["What varies", "Top-1, standard deviation", "Degrees of freedom"], shown
