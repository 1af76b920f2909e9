"""The paper's tables as data: conf/table/table<n>.yaml and a profile become cells, and cells become runs.

Notable here:
- a cell is its row, its column and what all share, put together; the profile (conf/table/profile/) says what a dataset
  and a model of the paper are: themselves, or small ones made here;
- the same run may fill cells of several tables: its folder is what makes it the same;
- what the paper printed and what was measured never meet before a cell is written out (rendering.py).
"""

import copy
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from hydra.core.override_parser.types import OverrideType
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vmp.config import Config, check, parse_views, suggest
from vmp.errors import ConfigError, RunError
from vmp.evaluate import folder_name
from vmp.overrides import quote, read
from vmp.runs.folder import begun, check_same_run
from vmp.runs.records import is_run
from vmp.runs.run import Run

NUMBERS = ("top1", "top5", "verb", "forward", "backward", "test_forward")
Printed = (
    float | tuple[float, float] | None
)  # a number, mean and standard deviation, or a cell that is not there
Compose = Callable[[Sequence[str]], dict[str, Any]]  # overrides -> a resolved config


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Start(_Section):
    """The run that a cell's run starts from: the cell's own, but for what stands here. seed null: the same seed."""

    tag: str  # of the run that starts there
    dataset: str | None = None
    model: str | None = None
    overrides: tuple[str, ...] = ()
    seed: int | None = None


class Part(_Section):
    """What a row, a column or `shared` says about cells."""

    group: str = ""
    label: str = ""
    dataset: str | None = None
    model: str | None = None
    overrides: tuple[str, ...] = ()
    start: Start | None = None
    number: Literal["top1", "top5", "verb", "forward", "backward", "test_forward"] | None = None
    degrade: Literal["salt_pepper", "half"] | None = None
    verb: str | None = None
    with_object: bool = False
    baseline: bool = False
    gain: bool = False  # over the baseline before it
    mean_of: Annotated[int, Field(ge=2)] | None = None  # columns before this one
    paper: tuple[float | tuple[float, float] | None, ...] | None = None
    extra: tuple[float, ...] | None = None


class Measured(_Section):
    batch: Annotated[int, Field(ge=1)]
    repeats: Annotated[int, Field(ge=2)]


class Table(_Section):
    number: Annotated[int, Field(ge=1)]
    title: str
    stub: str = ""
    shared: Part = Part()
    measured: Measured | None = None  # Table 8: timed, not trained
    columns: Annotated[tuple[Part, ...], Field(min_length=1)]
    rows: Annotated[tuple[Part, ...], Field(min_length=1)]


class Dataset(_Section):
    experiment: str
    overrides: tuple[str, ...] = ()
    clips: dict[str, int] = {}  # published numbers, for estimates


class Model(_Section):
    experiment: str
    overrides: tuple[str, ...] = ()
    start: Start | None = None


def results_of(output: str | Path) -> Path:
    """Where tables, claims, figures and maps of the runs below `output` are written."""
    return Path(output) / "results"


class Verb(_Section):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    class_: Annotated[str, Field(alias="class")]
    where: str


class Profile(_Section):
    """What the tables' datasets, models and verbs are.

    output: the runs' folder, with what is made of them in its `results`; published: what the repository ships.
    """

    name: str
    output: str
    published: str
    launch: str
    note: str = ""
    comparable: bool = True  # whether the difference to the paper's numbers means anything
    overrides: tuple[str, ...]
    datasets: dict[str, Dataset]
    models: dict[str, Model]
    verbs: dict[str, Verb]


@dataclass(frozen=True)
class Task:
    """A run, but for its seed. start: another that it starts from."""

    dataset: str
    model: str
    overrides: tuple[str, ...]
    tag: str | None = None
    start: "Task | None" = None
    seed: int | None = None  # None: that of the cell

    @property
    def label(self) -> str:
        return " ".join([self.dataset, self.model, *self.own])

    own: tuple[str, ...] = ()  # of the table, for people


@dataclass(frozen=True)
class Cell:
    """row, column: where it stands. task: None for a mean and for cells that the paper does not have. baseline: the
    cell that it is compared with. mean_of: columns that it is the mean of."""

    row: int
    column: int
    printed: Printed
    task: Task | None = None
    number: str = "top1"
    degrade: str | None = None
    where: str | None = None
    class_name: str | None = None
    baseline: tuple[int, int] | None = None
    mean_of: tuple[int, ...] = ()


def load_table(path: Path) -> Table:
    """Raises:
    ConfigError: it is not there, or says what tables cannot; file and key are named.
    """
    table: Table = _load(path, Table)
    if not table.measured and any(isinstance(p, tuple) for row in table.rows for p in row.paper or ()):
        raise ConfigError(f"{path}: mean and standard deviation belong to a measured table")
    for row in table.rows:
        if row.paper is None or len(row.paper) != len(table.columns):
            raise ConfigError(
                f"{path}: row {row.label!r} has {len(row.paper or ())} printed numbers for {len(table.columns)} columns"
            )
    return table


def load_profile(path: Path) -> Profile:
    """Raises:
    ConfigError: there is no such profile, or it is wrong; file and key are named.
    """
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
        raise ConfigError(f"profile={path.stem}: no such profile; there are {known}")
    return _load(path, Profile)


def _load(path: Path, kind: type[_Section]) -> Any:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    values = OmegaConf.to_container(OmegaConf.load(path))
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:10]]
        raise ConfigError(f"{path}:\n  " + "\n  ".join(lines)) from None


# --- cells ---------------------------------------------------------------------------------------------------------


def cells(table: Table, profile: Profile) -> list[Cell]:
    """All of a table, row by row."""
    out = []
    for r, row in enumerate(table.rows):
        for c, column in enumerate(table.columns):
            printed = (row.paper or ())[c]
            base = _baseline(table.rows, r)
            over = (base, c) if base is not None else None
            if over is None and (base := _baseline(table.columns, c)) is not None:
                over = (r, base)
            cell = Cell(r, c, printed, baseline=over)
            if column.mean_of:
                out.append(replace(cell, mean_of=tuple(range(c - column.mean_of, c))))
            elif printed is None:
                out.append(cell)
            else:
                out.append(_fill(cell, (table.shared, row, column), table, profile))
    return out


def _baseline(parts: Sequence[Part], index: int) -> int | None:
    """The last baseline before a row or column with `gain`."""
    if not parts[index].gain:
        return None
    return next((i for i in reversed(range(index)) if parts[i].baseline), None)


def _fill(cell: Cell, parts: Sequence[Part], table: Table, profile: Profile) -> Cell:
    def said(key: str) -> Any:
        return next((value for part in parts if (value := getattr(part, key)) not in (None, False)), None)

    where_from = f"table {table.number}, row {cell.row + 1}, column {cell.column + 1}"
    number, verb = said("number"), said("verb")
    own = tuple(o for part in parts for o in part.overrides)
    if not number or not said("dataset") or not said("model"):
        raise ConfigError(f"{where_from}: has no dataset, model or number")
    chosen = profile.verbs.get(verb) if verb else None
    if verb and chosen is None:
        raise ConfigError(f"{where_from}: profile {profile.name} has no verb {verb!r}")
    return replace(
        cell,
        task=task_of(profile, said("dataset"), said("model"), own, said("start")),
        number=number,
        degrade=said("degrade"),
        class_name=chosen.class_ if chosen else None,
        where=chosen.where if chosen and said("with_object") else None,
    )


def task_of(
    profile: Profile,
    dataset: str,
    model: str,
    own: tuple[str, ...],
    start: Start | None,
    seed: int | None = None,
) -> Task:
    for name, there in ((dataset, profile.datasets), (model, profile.models)):
        if name not in there:
            raise ConfigError(f"profile {profile.name}: no {name!r}{suggest(name, list(there))}")
    d, m = profile.datasets[dataset], profile.models[model]
    start = start or m.start
    before = None
    if start:
        before = task_of(
            profile, start.dataset or dataset, start.model or model, start.overrides, None, start.seed
        )
    return Task(
        dataset=dataset,
        model=model,
        overrides=(
            f"experiment={d.experiment}_{m.experiment}",
            *profile.overrides,
            *d.overrides,
            *m.overrides,
            *own,
        ),
        own=own,
        tag=start.tag if start else None,
        start=before,
        seed=seed,
    )


# --- runs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Planned:
    """A run that a cell asks for. overrides: as one would type them after train.py."""

    overrides: tuple[str, ...]
    label: str
    dataset: str
    raw: Mapping[str, Any] = field(repr=False)
    config: Config = field(repr=False)
    start: "Planned | None"

    @property
    def folder(self) -> Path:
        return self.config.folder

    @property
    def state(self) -> str:
        if Run(self.folder).finished:
            return "finished"
        return "half done" if begun(self.folder) or any(self.folder.glob("checkpoints/step_*")) else "not run"


@dataclass(frozen=True)
class Evaluation:
    """A run tested again."""

    run: Planned
    degrade: str | None
    where: str | None

    @property
    def arguments(self) -> list[str]:
        """Of evaluate.py."""
        chosen = [f"degrade={self.degrade}"] if self.degrade else []
        chosen += [f"where={quote(self.where)}"] if self.where else []
        return [f"run={quote(str(self.run.folder))}", *chosen, f"device={self.run.config.trainer.device}"]

    @property
    def folder(self) -> Path:
        config, parts = self.run.config, []
        from vmp.backbones import backbone_spec
        from vmp.config import Evaluate

        options = Evaluate.model_construct(degrade=self.degrade, where=self.where, reduce=None, reader=None)
        views = config.trainer.views or backbone_spec(config.backbone.key).views
        for split in ("test", "val"):  # val where there is no test split
            name = folder_name(options, split, config.trainer.select, parse_views(views))
            parts.append(self.run.folder / "evaluations" / name)
        return next((p for p in parts if Run(p).finished), parts[0])

    @property
    def finished(self) -> bool:
        """Whether it is there, and of the run as it is now."""
        mine, its = Run(self.folder), Run(self.run.folder)
        return mine.finished and its.finished and mine.finished_at >= its.finished_at


class Planner:
    """Cells to runs, each composed and checked once.

    Args:
        extra: overrides for every run, from the person at the keyboard.
    """

    def __init__(self, compose: Compose, *, output: str, extra: Sequence[str] = ()) -> None:
        self._compose, self._extra = compose, (f"output={quote(output)}", *extra)
        self._known: dict[tuple[Task, int], Planned] = {}

    def run(self, task: Task, seed: int) -> Planned:
        """Raises:
        ConfigError: its config is wrong, or an override for all runs is one that tells this one from others.
        """
        self._check_extra(task)
        return self._run(task, seed)

    def _run(self, task: Task, seed: int) -> Planned:
        seed = seed if task.seed is None else task.seed
        if (task, seed) not in self._known:
            start = self._run(task.start, seed) if task.start else None
            overrides = [*task.overrides, f"seed={seed}"]
            if task.tag:
                overrides.append(f"tag={task.tag}")
            if start:
                overrides.append(f"init_from={quote(str(start.folder))}")
            overrides += self._extra
            raw = self._compose(overrides)
            try:
                config = check(raw)
            except ConfigError as error:
                raise ConfigError(
                    f"{task.label}:\n{error}\n  of: python train.py {' '.join(overrides)}"
                ) from None
            label = f"{task.label} seed={seed}"
            self._known[task, seed] = Planned(tuple(overrides), label, task.dataset, raw, config, start)
        return self._known[task, seed]

    def _check_extra(self, task: Task) -> None:
        """What tells cells apart must not be the same for all of them."""
        given = {override.partition("=")[0].lstrip("+~") for override in self._extra[1:]}
        own = {override.partition("=")[0].lstrip("+~") for override in task.own}
        if taken := sorted(given & (own | {"seed", "tag", "init_from", "experiment"})):
            raise ConfigError(
                f"{', '.join(taken)}: the table sets this itself for {task.label}, so it cannot be given for all of "
                "its runs"
            )

    def of(self, cell: Cell, seed: int) -> "Planned | Evaluation | None":
        """What a cell's number is read from."""
        if cell.task is None:
            return None
        run = self.run(cell.task, seed)
        return Evaluation(run, cell.degrade, cell.where) if cell.degrade or cell.where else run


@cache
def composer(conf: Path) -> Compose:
    """Composes train.yaml, without running anything. Files are composed once for each choice of files, and plain values
    put in afterwards, which is many times faster for many runs. Not to be used where Hydra composes already."""
    from hydra import compose, initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf.errors import OmegaConfBaseException

    conf = conf.absolute()
    files = {path.name for path in conf.iterdir() if path.is_dir()}

    def by_hydra(overrides: Iterable[str]) -> DictConfig:
        with initialize_config_dir(str(conf), version_base="1.3"):
            return compose("train", [read(override) for override in overrides])

    composed = cache(by_hydra)
    parser = OverridesParser.create()
    parsed = cache(lambda override: parser.parse_override(read(override)))

    def one(overrides: Sequence[str]) -> dict[str, Any]:
        each = [parsed(override) for override in overrides]
        config = None
        if all(o.type == OverrideType.CHANGE and not o.is_sweep_override() and not o.package for o in each):
            chosen = tuple(str(o.input_line) for o in each if o.key_or_group in files)
            config = copy.deepcopy(composed(chosen))
            try:
                for o in each:
                    if o.key_or_group not in files:
                        OmegaConf.update(config, o.key_or_group, o.value())
            except OmegaConfBaseException:  # Hydra has better words for it
                config = None
        config = by_hydra(overrides) if config is None else config
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]

    return one


def matches(cell: Cell, table: Table, only: Sequence[str]) -> bool:
    """Whether all the words are in what the cell is called or in its overrides; capitals do not matter."""
    row, column = table.rows[cell.row], table.columns[cell.column]
    words = [row.group, row.label, column.group, column.label]
    words += [cell.task.dataset, cell.task.model, *cell.task.own] if cell.task else []
    text = " ".join(words).casefold()
    return all(word.casefold() in text for word in only)


# --- numbers -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Number:
    """One that was measured. commits: of the code that trained, and of that which tested where it is another. clips:
    present and expected of what was tested; trained: of what was trained on; None: of a timing."""

    value: float
    folder: Path
    commits: tuple[str, ...]
    clips: tuple[int, int] | None = None
    trained: tuple[int, int] | None = None


class Missing(str):
    """Why there is no number: not run, half done, not tested, no clips, another config, other data, unreadable."""


def read_number(cell: Cell, source: Planned | Evaluation) -> Number | Missing:
    """What a run's folder says, if it is the run that the cell asks for."""
    run = source.run if isinstance(source, Evaluation) else source
    if run.state != "finished":
        return Missing(run.state)
    try:
        check_same_run(run.folder, dict(run.raw))
    except RunError:
        return Missing("another config")
    if isinstance(source, Evaluation) and not source.finished:
        return Missing("not tested")
    trained, tested = Run(run.folder), Run(source.folder)
    try:
        return _number(cell, source, trained, tested)
    except (RunError, KeyError):  # damaged, or without what a table takes from it
        return Missing("unreadable")


def _number(cell: Cell, source: Planned | Evaluation, trained: Run, tested: Run) -> Number | Missing:
    result = tested.result
    counts = result["clips"]
    counts = counts.get(result["split"], counts)
    clips = (counts["present"], counts["expected"])
    of_training = trained.result["clips"].get("train")
    commits = tuple(dict.fromkeys(r.get("commit") or "unknown" for r in (trained.result, result)))
    number = Number(
        0.0,
        source.folder,
        commits,
        clips,
        (of_training["present"], of_training["expected"]) if of_training else None,
    )
    if cell.number == "verb":
        row = next((r for r in tested.per_class if r["name"] == cell.class_name), None)
        if row is None:
            known = ", ".join(r["name"] for r in tested.per_class[:8])
            raise ConfigError(f"{source.folder}: no class {cell.class_name!r}; there are {known}, ...")
        n = int(row["clips"])
        return replace(number, value=100 * int(row["right"]) / n, clips=(n, n)) if n else Missing("no clips")
    return replace(number, value=float(result[cell.number]))


@dataclass(frozen=True)
class Value:
    """A cell over seeds. of: seed -> its number, or those whose mean it is; why: seed -> why there is none. spread:
    standard deviation of a timing."""

    of: Mapping[int, tuple[Number, ...]] = field(default_factory=dict)
    why: Mapping[int, Missing] = field(default_factory=dict)
    spread: float | None = None

    @property
    def numbers(self) -> list[Number]:
        return [number for numbers in self.of.values() for number in numbers]

    @property
    def by_seed(self) -> dict[int, float]:
        return {seed: sum(n.value for n in numbers) / len(numbers) for seed, numbers in self.of.items()}

    @property
    def mean(self) -> float | None:
        return sum(self.by_seed.values()) / len(self.of) if self.of else None

    @property
    def commits(self) -> list[str]:
        return sorted({commit for number in self.numbers for commit in number.commits})

    @property
    def clips(self) -> tuple[int, int] | None:
        """Present and expected, of the seed with fewest."""
        return min((number.clips for number in self.numbers if number.clips), default=None)

    def gain(self, baseline: "Value") -> float | None:
        """Mean over the seeds that both have."""
        mine, theirs = self.by_seed, baseline.by_seed
        both = [mine[seed] - theirs[seed] for seed in mine if seed in theirs]
        return sum(both) / len(both) if both else None


def read_values(
    all_cells: Sequence[Cell], planner: Planner, seeds: Sequence[int]
) -> dict[tuple[int, int], Value]:
    """By row and column. Runs of one dataset whose clips are others than most of its runs have do not count."""
    found: dict[tuple[int, int, int], Number | Missing] = {}
    for cell, seed in itertools.product(all_cells, seeds):
        if cell.task and not cell.mean_of:
            try:
                source = planner.of(cell, seed)
            except ConfigError:  # of a cell that was not asked for, with overrides that do not suit it
                source = None
            found[cell.row, cell.column, seed] = read_number(cell, source) if source else Missing("not run")
    _leave_out_other_data(all_cells, found)
    out: dict[tuple[int, int], Value] = {}
    for cell in all_cells:
        columns = cell.mean_of or (cell.column,)
        of, why = {}, {}
        for seed in seeds:
            parts = [found.get((cell.row, column, seed), Missing("not run")) for column in columns]
            if gone := next((part for part in parts if isinstance(part, Missing)), None):
                why[seed] = gone
            else:
                of[seed] = tuple(part for part in parts if isinstance(part, Number))
        out[cell.row, cell.column] = Value(of, why)
    return out


def _leave_out_other_data(
    all_cells: Sequence[Cell], found: dict[tuple[int, int, int], Number | Missing]
) -> None:
    by_dataset: dict[str, dict[str, list[tuple[int, int, int]]]] = {}
    datasets = {(cell.row, cell.column): cell.task.dataset for cell in all_cells if cell.task}
    for place, number in found.items():
        if isinstance(number, Number) and (digests := _digests(number.folder)):
            by_dataset.setdefault(datasets[place[:2]], {}).setdefault(digests, []).append(place)
    for same in by_dataset.values():
        most = max(same, key=lambda digests: len(same[digests]))
        for digests, places in same.items():
            if digests != most:
                found.update(dict.fromkeys(places, Missing("other data")))


def _digests(folder: Path) -> str | None:
    """Of a run's clips, from its own folder or the one that an evaluation is in."""
    home = next((place for place in (folder, *folder.parents) if is_run(place)), None)
    try:
        found = Run(home).digests if home else {}
    except RunError as error:
        return str(error)
    return repr(sorted(found.items())) if found else None
