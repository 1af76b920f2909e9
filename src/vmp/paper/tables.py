"""The paper's tables as data: conf/table/table<n>.yaml and a profile (conf/table/profile/) become cells.

Notes:
- a cell combines what its row, its column and the table's `shared` section say;
- the profile says what the paper's datasets and models are: the real ones, or small ones made here;
- a cell's `RunSpec` is a run without its seed; planning.py makes runs of it.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import OmegaConf
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vmp.compose import CONF
from vmp.config import suggest
from vmp.errors import ConfigError

# the paper's: a number, mean and standard deviation, or an empty cell
Printed = float | tuple[float, float] | None


class PaperSection(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StartingRun(PaperSection):
    """The run whose weights a cell's run starts from: like the cell's own, except for what is set here."""

    tag: str  # of the run that starts from it
    dataset: str | None = None
    model: str | None = None
    overrides: tuple[str, ...] = ()
    seed: int | None = None  # None: the seed of the cell's run


class Header(PaperSection):
    """A row's or a column's header (or `shared`) with what it says about its cells."""

    group: str = ""
    label: str = ""
    dataset: str | None = None
    model: str | None = None
    overrides: tuple[str, ...] = ()
    start: StartingRun | None = None
    number: Literal["top1", "top5", "verb", "forward", "backward", "test_forward"] | None = None
    degrade: Literal["salt_pepper", "half"] | None = None
    verb: str | None = None
    with_object: bool = False
    baseline: bool = False
    gain: bool = False  # compared with the last baseline before it
    control: bool = False  # a row that the paper does not have, of profiles with `controls`
    columns: tuple[str, ...] = ()  # of a control: groups or labels of the columns that it is run for
    # own overrides of the run whose mean attention a constant one takes
    level_from: tuple[str, ...] | None = None
    mean_of: Annotated[int, Field(ge=2)] | None = None  # how many columns before this one it is the mean of
    paper: tuple[Printed, ...] = ()
    extra: tuple[float, ...] | None = None

    def has(self, column: "Header") -> bool:
        """Whether it is a control that is run for a column."""
        return self.control and bool({column.group, column.label} & set(self.columns))

    @property
    def full_name(self) -> str:
        return f"{self.group}, {self.label}" if self.group else self.label


class TimingProtocol(PaperSection):
    """How a table of timings is measured."""

    batch: Annotated[int, Field(ge=1)]
    repeats: Annotated[int, Field(ge=2)]


class Table(PaperSection):
    """A table of the paper. measured: set for Table 8, which times models and trains none."""

    number: Annotated[int, Field(ge=1)]
    title: str
    stub: str = ""
    shared: Header = Header()
    measured: TimingProtocol | None = None
    columns: Annotated[tuple[Header, ...], Field(min_length=1)]
    rows: Annotated[tuple[Header, ...], Field(min_length=1)]

    @property
    def grouped(self) -> bool:
        return any(row.group for row in self.rows)

    def row_name(self, index: int) -> str:
        """The row's name, with its baseline's where several rows have the same label."""
        row, baseline = self.rows[index], _find_baseline(self.rows, index)
        if row.group or baseline is None:
            return row.full_name
        return f"{self.rows[baseline].label} {row.label}"


class ProfileDataset(PaperSection):
    experiment: str
    overrides: tuple[str, ...] = ()
    clips: dict[str, int] = {}  # published numbers of clips, for estimates


class ProfileModel(PaperSection):
    experiment: str
    overrides: tuple[str, ...] = ()
    start: StartingRun | None = None


class ProfileVerb(PaperSection):
    """The class that stands for a verb, and the clips (`where` of evaluate.py) that stand for those with an object."""

    class_: Annotated[str, Field(alias="class")]
    where: str


class Profile(PaperSection):
    """What the datasets, models and verbs of the tables are.

    output: folder of the runs; published: folder of the results that the repository ships.
    """

    name: str
    output: str
    published: str
    launch: str
    note: str = ""
    comparable: bool = True  # whether differences to the paper's numbers mean anything
    controls: bool = False  # whether tables have their control rows
    overrides: tuple[str, ...] = ()
    datasets: dict[str, ProfileDataset]
    models: dict[str, ProfileModel]
    verbs: dict[str, ProfileVerb]


def conf_folder() -> Path:
    """conf/ of the working directory, where that is a checkout, as it is for the scripts; else the package's."""
    here = Path("conf").absolute()
    return here if (here / "table").is_dir() else CONF


def results_of(output: str | Path) -> Path:
    """The folder for tables, claims, figures and maps of the runs below `output`."""
    return Path(output) / "results"


def load_table(path: Path, *, controls: bool = False) -> Table:
    """A table without its control rows, or with them.

    Raises:
        ConfigError: naming the file and the key, where it is missing or wrong.
    """
    table: Table = load_section(path, Table)
    empty: tuple[Printed, ...] = (None,) * len(table.columns)
    rows = [row.model_copy(update={"paper": empty}) if row.control else row for row in table.rows]
    table = table.model_copy(update={"rows": tuple(row for row in rows if controls or not row.control)})
    if not table.measured and any(isinstance(p, tuple) for row in table.rows for p in row.paper):
        raise ConfigError(f"{path}: mean and standard deviation are allowed in a measured table only")
    for row in table.rows:
        if len(row.paper) != len(table.columns):
            raise ConfigError(
                f"{path}: row {row.label!r} has {len(row.paper)} printed numbers for {len(table.columns)} columns"
            )
    return table


def load_profile(name: str) -> Profile:
    """Raises ConfigError where conf/table/profile has no such file, or it is wrong; names the file and the key."""
    return load_section(conf_folder() / "table" / "profile" / f"{name}.yaml", Profile)


def load_section(path: Path, kind: type[PaperSection]) -> Any:
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
        there = f"; there are: {known}" if known else f"; no .yaml file is in {path.parent}"
        raise ConfigError(f"{path}: no such {kind.__name__.lower()}{there}")
    values = OmegaConf.to_container(OmegaConf.load(path))
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [_describe(fault, kind) for fault in error.errors()[:10]]
        raise ConfigError(f"{path}:\n  " + "\n  ".join(lines)) from None


def _describe(fault: Any, kind: type[PaperSection]) -> str:
    """One of pydantic's errors as `key: what is wrong, and what is allowed`."""
    if not fault["loc"]:
        return f"must be lines of KEY: VALUE, and is a {type(fault['input']).__name__}"
    *above, last = fault["loc"]
    key = ".".join(map(str, fault["loc"]))
    if fault["type"] == "missing":
        return f"{key}: must be given"
    if fault["type"] == "extra_forbidden":
        known = _keys_below(kind.model_json_schema(), above)
        return f"{key}: no such key{suggest(str(last), known) if known else ''}"
    return f"{key} = {fault['input']!r:.60}: {fault['msg']}"


def _keys_below(schema: dict[str, Any], place: Sequence[int | str]) -> list[str]:
    """The keys of the section at a place of a JSON schema; none where it may be of several kinds."""

    def resolved(node: dict[str, Any]) -> dict[str, Any]:
        return schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node

    node = resolved(schema)
    for part in place:
        inner = node.get("properties", {}).get(part) or node.get("additionalProperties") or node.get("items")
        node = resolved(inner) if isinstance(inner, dict) else {}
    return list(node.get("properties", ()))


# --- cells ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunSpec:
    """A run without its seed.

    overrides: train.py's, all of them; own: those of the table among them; fixed: keys that make it a run of its
    dataset and model, which no override for all runs may set. start: the run that it starts from. level_from: the run
    whose mean attention it takes. seed: set where the run has the same seed for every cell.
    """

    dataset: str
    model: str
    overrides: tuple[str, ...]
    own: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    tag: str | None = None
    start: "RunSpec | None" = None
    level_from: "RunSpec | None" = None
    seed: int | None = None

    @property
    def label(self) -> str:
        return " ".join([self.dataset, self.model, *self.own])


@dataclass(frozen=True)
class Cell:
    """A cell, by the indices of its row and column.

    run: None for a mean and for a cell that is empty. baseline: row and column of the cell that it is
    compared with. mean_of: the columns that it is the mean of.
    """

    row: int
    column: int
    printed: Printed
    run: RunSpec | None = None
    number: str = "top1"
    degrade: str | None = None
    where: str | None = None
    class_name: str | None = None
    baseline: tuple[int, int] | None = None
    mean_of: tuple[int, ...] = ()

    @property
    def place(self) -> tuple[int, int]:
        return self.row, self.column

    @property
    def filled(self) -> bool:
        """Whether it has a number: the paper's, or that of a control."""
        return self.printed is not None or self.run is not None

    @property
    def printed_mean(self) -> float | None:
        return self.printed[0] if isinstance(self.printed, tuple) else self.printed


def cells(table: Table, profile: Profile) -> list[Cell]:
    """All cells of a table, row by row."""
    found = []
    for r, row in enumerate(table.rows):
        for c, column in enumerate(table.columns):
            baseline = None
            if (base_row := _find_baseline(table.rows, r)) is not None:
                baseline = base_row, c
            elif (base_column := _find_baseline(table.columns, c)) is not None:
                baseline = r, base_column
            cell = Cell(r, c, row.paper[c], baseline=baseline)
            if row.control and not row.has(column):
                pass
            elif column.mean_of:
                cell = replace(cell, mean_of=tuple(range(c - column.mean_of, c)))
            elif row.control or cell.printed is not None:
                cell = _add_run(cell, (table.shared, row, column), table, profile)
            found.append(cell)
    return found


def _find_baseline(headers: Sequence[Header], index: int) -> int | None:
    """The last baseline before a row or column with `gain`."""
    if not headers[index].gain:
        return None
    return next((i for i in reversed(range(index)) if headers[i].baseline), None)


def _add_run(cell: Cell, headers: Sequence[Header], table: Table, profile: Profile) -> Cell:
    """The cell with its run and what is read from it."""

    def first(key: str) -> Any:
        return next((v for header in headers if (v := getattr(header, key)) not in (None, False)), None)

    place = f"table {table.number}, row {cell.row + 1}, column {cell.column + 1}"
    number, dataset, model, verb = first("number"), first("dataset"), first("model"), first("verb")
    if not (number and dataset and model):
        raise ConfigError(f"{place}: has no dataset, model or number")
    if verb and verb not in profile.verbs:
        raise ConfigError(f"{place}: profile {profile.name} has no verb {verb!r}")
    chosen = profile.verbs[verb] if verb else None

    def spec(own: Sequence[tuple[str, ...]]) -> RunSpec:
        return run_spec(profile, dataset, model, tuple(itertools.chain(*own)), first("start"))

    run = spec([header.overrides for header in headers])
    if (other := first("level_from")) is not None:
        others = [other if header.level_from is not None else header.overrides for header in headers]
        run = replace(run, level_from=spec(others))
    return replace(
        cell,
        run=run,
        number=number,
        degrade=first("degrade"),
        class_name=chosen.class_ if chosen else None,
        where=chosen.where if chosen and first("with_object") else None,
    )


def run_spec(
    profile: Profile,
    dataset: str,
    model: str,
    own: tuple[str, ...],
    start: StartingRun | None = None,
    seed: int | None = None,
) -> RunSpec:
    """Raises ConfigError where the profile has no such dataset or model."""
    for name, known in ((dataset, profile.datasets), (model, profile.models)):
        if name not in known:
            raise ConfigError(f"profile {profile.name}: no {name!r}{suggest(name, list(known))}")
    d, m = profile.datasets[dataset], profile.models[model]
    start = start or m.start
    earlier = None
    if start:
        earlier = run_spec(
            profile, start.dataset or dataset, start.model or model, start.overrides, seed=start.seed
        )
    experiment = f"experiment={d.experiment}_{m.experiment}"
    return RunSpec(
        dataset=dataset,
        model=model,
        overrides=(experiment, *profile.overrides, *d.overrides, *m.overrides, *own),
        own=own,
        fixed=("dataset", "backbone", *(override.partition("=")[0] for override in d.overrides)),
        tag=start.tag if start else None,
        start=earlier,
        seed=seed,
    )


def matches(cell: Cell, table: Table, words: Sequence[str]) -> bool:
    """Whether each word occurs in the cell's headers, dataset, model or overrides, in capitals or not."""
    row, column = table.rows[cell.row], table.columns[cell.column]
    texts = [row.group, row.label, column.group, column.label]
    texts += [cell.run.dataset, cell.run.model, *cell.run.own] if cell.run else []
    text = " ".join(texts).casefold()
    return all(word.casefold() in text for word in words)
