"""Cells become runs and evaluations: configs that are composed and checked, folders, and what has to run first.

Notes:
- one run may fill cells of several tables: two runs are the same if they have the same folder and config.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from vmp.compose import composer
from vmp.config import Config, Evaluate, check, parse_views
from vmp.errors import ConfigError, RunError
from vmp.evaluate import folder_name
from vmp.explain import explain
from vmp.overrides import quote
from vmp.paper.tables import Cell, RunSpec, conf_folder
from vmp.runs.folder import begun, check_same_run, check_same_start
from vmp.runs.run import Run
from vmp.targets import packages_of

BESIDE = (
    "Move the folder away, or use output=FOLDER for runs beside these (with make: SET='output=FOLDER' "
    "RESULTS=FOLDER/results)."
)


@dataclass(frozen=True, eq=False)
class PlannedRun:
    """A run with its seed. arguments: as one would type them after train.py. start: the run that it starts from.
    level_from: the run whose mean attention it takes."""

    script: ClassVar = "train.py"
    arguments: tuple[str, ...]
    label: str
    dataset: str
    raw: dict[str, Any] = field(repr=False)
    config: Config = field(repr=False)
    start: "PlannedRun | None"
    level_from: "PlannedRun | None" = None

    @property
    def folder(self) -> Path:
        return self.config.folder

    @property
    def needs(self) -> tuple["PlannedRun", ...]:
        """The runs that have to finish first."""
        return tuple(run for run in (self.start, self.level_from) if run)

    @property
    def finished(self) -> bool:
        return Run(self.folder).finished

    @property
    def state(self) -> str:
        if self.finished:
            return "finished"
        return "half done" if begun(self.folder) or any(self.folder.glob("checkpoints/step_*")) else "not run"


@dataclass(frozen=True)
class PlannedEvaluation:
    """A finished run tested again by evaluate.py, on degraded videos or on chosen clips."""

    script: ClassVar = "evaluate.py"
    run: PlannedRun
    degrade: str | None
    where: str | None

    @property
    def arguments(self) -> tuple[str, ...]:
        chosen = [f"degrade={self.degrade}"] if self.degrade else []
        chosen += [f"where={quote(self.where)}"] if self.where else []
        chosen += [f"trust=[{','.join(known)}]"] if (known := packages_of(self.run.raw)) else []
        return f"run={quote(str(self.run.folder))}", *chosen, f"device={self.run.config.trainer.device}"

    @property
    def label(self) -> str:
        return f"{self.run.label} tested with {' '.join(filter(None, (self.degrade, self.where)))}"

    @property
    def needs(self) -> tuple[PlannedRun, ...]:
        return (self.run,)

    @property
    def folder(self) -> Path:
        config = self.run.config
        options = Evaluate.model_construct(degrade=self.degrade, where=self.where, reduce=None, reader=None)
        views = parse_views(config.trainer.views or config.backbone.spec.views)
        folders = [
            self.run.folder / "evaluations" / folder_name(options, split, config.trainer.select, views)
            for split in ("test", "val")  # val where there is no test split
        ]
        return next((folder for folder in folders if Run(folder).finished), folders[0])

    @property
    def finished(self) -> bool:
        """Whether it exists, and is of the run as it is now."""
        mine, of_run = Run(self.folder), Run(self.run.folder)
        if not mine.finished or not of_run.finished:
            return False
        if tested := mine.result.get("run_finished"):
            return bool(tested == of_run.result.get("finished"))
        return mine.finished_at >= of_run.finished_at  # of an earlier version; copying may change the times

    @property
    def state(self) -> str:
        return "finished" if self.finished else "not run"


class Planner:
    """Makes runs of cells; each run is composed and checked once. extra: the user's overrides for every run."""

    def __init__(self, *, output: str, extra: Sequence[str] = ()) -> None:
        self._compose, self._output, self._extra = composer(conf_folder()), f"output={quote(output)}", extra
        self._planned: dict[tuple[RunSpec, int], PlannedRun] = {}

    def run(self, spec: RunSpec, seed: int) -> PlannedRun:
        """Raises:
        ConfigError: the config is wrong, or an override of the user's is a key that the table itself sets.
        """
        given = set(_keys(self._extra))
        own = {*spec.fixed, *(["vmp.level"] if spec.level_from else [])}
        needed: list[RunSpec | None] = [spec]
        while needed:  # the user's overrides are for those runs, too
            if one := needed.pop():
                own.update(_keys(one.own))
                needed += [one.start, one.level_from]
        if taken := sorted(given & (own | {"seed", "tag", "init_from", "experiment"})):
            raise ConfigError(
                f"{', '.join(taken)}: the table sets this itself for {spec.label}, so it cannot be given for all of "
                "its runs"
            )
        return self._plan(spec, seed)

    def _plan(self, spec: RunSpec, seed: int) -> PlannedRun:
        seed = seed if spec.seed is None else spec.seed
        if (spec, seed) not in self._planned:
            start, level = (self._plan(s, seed) if s else None for s in (spec.start, spec.level_from))
            overrides = [*spec.overrides, f"seed={seed}"]
            if spec.tag:
                overrides.append(f"tag={spec.tag}")
            if start:
                overrides.append(f"init_from={quote(str(start.folder))}")
            if level:
                overrides.append(f"vmp.level={quote(str(level.folder))}")
            overrides += [self._output, *self._extra]
            try:
                raw = self._compose(overrides)
                config = check(raw)
            except (ConfigError, HydraException, OmegaConfBaseException) as error:
                said = error if isinstance(error, ConfigError) else explain(error)
                raise ConfigError(
                    f"{spec.label}:\n{said}\n  of: python train.py {' '.join(overrides)}"
                ) from None
            label = f"{spec.label} seed={seed}"
            self._planned[spec, seed] = PlannedRun(
                tuple(overrides), label, spec.dataset, raw, config, start, level
            )
        return self._planned[spec, seed]

    def source(self, cell: Cell, seed: int) -> PlannedRun | PlannedEvaluation:
        """What the number of a cell with a run is read from."""
        assert cell.run
        run = self.run(cell.run, seed)
        return PlannedEvaluation(run, cell.degrade, cell.where) if cell.degrade or cell.where else run


def _keys(overrides: Iterable[str]) -> Iterator[str]:
    return (override.partition("=")[0].lstrip("+~") for override in overrides)


def plan_cells(
    chosen: Sequence[Cell], planner: Planner, seeds: Iterable[int]
) -> tuple[list[PlannedRun], list[PlannedEvaluation]]:
    """The runs of the cells, as `add_needed_runs` returns them, and the evaluations, each once."""
    runs: list[PlannedRun] = []
    evaluations: dict[Path, PlannedEvaluation] = {}
    for seed in seeds:
        for cell in chosen:
            source = planner.source(cell, seed)
            if isinstance(source, PlannedEvaluation):
                evaluations.setdefault(source.folder, source)
                source = source.run
            runs.append(source)
    return add_needed_runs(runs), list(evaluations.values())


def add_needed_runs(wanted: Iterable[PlannedRun]) -> list[PlannedRun]:
    """The runs and those that they need, each once; a run comes after the ones that it needs.

    Raises:
        RunError: two different runs would share a folder, or a folder holds a run with another config or from weights
            that have changed since.
    """
    runs: dict[Path, PlannedRun] = {}

    def add(run: PlannedRun) -> None:
        for first in run.needs:
            add(first)
        other = runs.setdefault(run.folder, run)
        if other is not run and other.raw != run.raw:
            raise RunError(
                f"{run.folder}: two different runs would share it:\n  {other.label}\n  {run.label}\n"
                "Add tag=WORD to the overrides of one of them."
            )

    for run in wanted:
        add(run)
    for run in runs.values():
        check_same_run(run.folder, run.raw, BESIDE)
        check_same_start(run.folder, BESIDE)
    return list(runs.values())
