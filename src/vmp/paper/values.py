"""The numbers in cells, read from the folders of finished runs. The paper's own numbers are never read here."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vmp.errors import ConfigError, RunError
from vmp.paper.planning import PlannedEvaluation, PlannedRun, Planner
from vmp.paper.tables import Cell
from vmp.runs.folder import check_same_run, check_same_start
from vmp.runs.records import is_run
from vmp.runs.run import Run


@dataclass(frozen=True)
class Number:
    """A measured number and where it is from.

    commits: of the code that trained, and of the code that tested if it differs. clips, trained: clips present and
    expected of the tested and of the training split; None for a timing.
    """

    value: float
    folder: Path
    commits: tuple[str, ...]
    clips: tuple[int, int] | None = None
    trained: tuple[int, int] | None = None


class Missing(str):
    """Why there is no number: not run, half done, not tested, no clips, another config, other weights, other data,
    unreadable."""


@dataclass(frozen=True)
class CellValue:
    """A cell over seeds.

    found: seed -> its number, or the numbers that it is the mean of. missing: seed -> why there is none.
    spread: standard deviation of a timing.
    """

    found: Mapping[int, tuple[Number, ...]] = field(default_factory=dict)
    missing: Mapping[int, Missing] = field(default_factory=dict)
    spread: float | None = None

    @property
    def numbers(self) -> list[Number]:
        return [number for numbers in self.found.values() for number in numbers]

    @property
    def by_seed(self) -> dict[int, float]:
        return {seed: sum(n.value for n in numbers) / len(numbers) for seed, numbers in self.found.items()}

    @property
    def mean(self) -> float | None:
        return sum(self.by_seed.values()) / len(self.found) if self.found else None

    @property
    def reason(self) -> str:
        """Why there is no number: the commonest reason over seeds."""
        reasons = list(self.missing.values())
        return max(reasons, key=reasons.count) if reasons else "not run"

    @property
    def commits(self) -> list[str]:
        return sorted({commit for number in self.numbers for commit in number.commits})

    @property
    def clips(self) -> tuple[int, int] | None:
        """Clips present and expected, of the seed with the fewest."""
        return min((number.clips for number in self.numbers if number.clips), default=None)

    def gains_over(self, baseline: "CellValue") -> dict[int, float]:
        """Seed -> difference, for the seeds that both have."""
        mine, base = self.by_seed, baseline.by_seed
        return {seed: mine[seed] - base[seed] for seed in mine if seed in base}


CellValues = Mapping[tuple[int, int], CellValue]  # by row and column


def read_values(
    cells: Sequence[Cell], planner: Planner, seeds: Iterable[int]
) -> dict[tuple[int, int], CellValue]:
    """Runs of a dataset whose clips differ from those of most of its runs do not count."""
    seeds = list(seeds)
    numbers: dict[tuple[int, int, int], Number | Missing] = {}
    for cell, seed in itertools.product(cells, seeds):
        if cell.run:
            try:
                source = planner.source(cell, seed)
            except ConfigError:  # the user's overrides do not fit a cell that was not chosen
                continue
            numbers[*cell.place, seed] = _read_number(cell, source)
    _leave_out_other_data(cells, numbers)
    values = {}
    for cell in cells:
        found, missing = {}, {}
        for seed in seeds:
            columns = cell.mean_of or (cell.column,)
            parts = [numbers.get((cell.row, column, seed), Missing("not run")) for column in columns]
            if reasons := [part for part in parts if isinstance(part, Missing)]:
                missing[seed] = reasons[0]
            else:
                found[seed] = tuple(part for part in parts if isinstance(part, Number))
        values[cell.place] = CellValue(found, missing)
    return values


def _read_number(cell: Cell, source: PlannedRun | PlannedEvaluation) -> Number | Missing:
    """The number in a run's folder, if it holds the run that the cell asks for."""
    run = source.run if isinstance(source, PlannedEvaluation) else source
    if not run.finished:
        return Missing(run.state)
    try:
        check_same_run(run.folder, run.raw)
    except RunError:
        return Missing("another config")
    try:
        check_same_start(run.folder, "")
    except RunError:
        return Missing("other weights")
    if isinstance(source, PlannedEvaluation) and not source.finished:
        return Missing("not tested")
    try:
        return _extract_number(cell, Run(run.folder), Run(source.folder))
    except (RunError, KeyError):  # damaged, or without a value that the table needs
        return Missing("unreadable")


def _extract_number(cell: Cell, trained: Run, tested: Run) -> Number | Missing:
    result = tested.result
    clips = result["clips"].get(result["split"], result["clips"])
    tested_on = clips["present"], clips["expected"]
    of_training = trained.result["clips"].get("train")
    if cell.number == "verb":
        row = next((r for r in tested.per_class if r["name"] == cell.class_name), None)
        if row is None:
            known = ", ".join(r["name"] for r in tested.per_class[:8])
            raise ConfigError(f"{tested.folder}: no class {cell.class_name!r}; there are {known}, ...")
        n = int(row["clips"])
        if not n:
            return Missing("no clips")
        value, tested_on = 100 * int(row["right"]) / n, (n, n)
    else:
        value = float(result[cell.number])
    return Number(
        value=value,
        folder=tested.folder,
        commits=tuple(dict.fromkeys(r.get("commit") or "unknown" for r in (trained.result, result))),
        clips=tested_on,
        trained=(of_training["present"], of_training["expected"]) if of_training else None,
    )


def _leave_out_other_data(
    cells: Sequence[Cell], numbers: dict[tuple[int, int, int], Number | Missing]
) -> None:
    """Replace the numbers of runs whose clips differ from those of most runs of the same dataset."""
    datasets = {cell.place: cell.run.dataset for cell in cells if cell.run}
    found: list[tuple[tuple[int, int, int], str, str]] = []
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for place, number in numbers.items():
        if isinstance(number, Number) and (digests := _read_digests(number.folder)):
            dataset = datasets[place[:2]]
            found.append((place, dataset, digests))
            counts[dataset][digests] += 1
    for place, dataset, digests in found:
        if digests != counts[dataset].most_common(1)[0][0]:
            numbers[place] = Missing("other data")


def _read_digests(folder: Path) -> str | None:
    """Digests of a run's clips, from its folder or, for an evaluation, the folder of its run."""
    home = next((place for place in (folder, *folder.parents) if is_run(place)), None)
    try:
        digests = Run(home).digests if home else {}
    except RunError as error:
        return str(error)
    return repr(sorted(digests.items())) if digests else None
