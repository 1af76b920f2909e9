"""Reads the files of a run's folder, which may be somebody else's: bounded, and without resolving anything.

Notable here:
- every file is a regular one, of a bounded size, in UTF-8; a pipe or an endless device in its place is refused;
- YAML is read as plain values: no tags, no aliases (ten lines of which can stand for a billion values), no
  interpolations, so that `${oc.env:SECRET}` stays these characters;
- JSON and YAML are bounded in depth and in the size of numbers;
- what is returned has the types that its readers count on; anything else is a `RunError` that names file and key.
"""

import csv
import io
import json
import math
import os
import re
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vmp.errors import RunError

MB = 10**6
CONFIG, RECORD, LIST = (
    MB // 4,
    64 * MB,
    512 * MB,
)  # bytes, at most: of config.yaml, of a JSON file, of one with rows
DEPTH = 32  # of values in values
NODES = 50_000  # values in config.yaml
CLASSES = 200_000
DIGITS = 40  # of a number
CELL = 100_000  # characters in a cell of a CSV


# --- plain files ---------------------------------------------------------------------------------------------------


def read_text(path: Path, *, limit: int = RECORD) -> str:
    """A regular file of at most `limit` bytes, in UTF-8.

    Raises:
        RunError: it is something else, or cannot be read.
    """
    try:
        # a pipe would block until someone writes to it
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise RunError(f"{path}: not a regular file")
            data = file.read(limit + 1)
        if len(data) > limit:
            raise RunError(f"{path}: larger than the {_size(limit)} that such a file may have")
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RunError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from None
    except ValueError as error:  # of the path
        raise RunError(f"{path}: cannot be opened ({error})") from None
    except OSError as error:
        raise RunError(
            f"{path}: {'not found' if isinstance(error, FileNotFoundError) else error.strerror}"
        ) from None


def _size(limit: int) -> str:
    return f"{limit // MB} MB" if limit >= MB else f"{limit // 1000} kB"


def read_json(path: Path, *, limit: int = RECORD) -> Any:
    """Raises:
    RunError: not JSON, nested deeper than DEPTH, or with a number of more than DIGITS digits.
    """
    return parse_json(read_text(path, limit=limit), str(path))


def parse_json(text: str, where: str) -> Any:
    """where: what a message calls the text."""

    def whole(digits: str) -> int:
        if len(digits) > DIGITS:
            raise ValueError(f"a number of {len(digits)} digits")
        return int(digits)

    try:
        value = json.loads(text, parse_int=whole)
    except RecursionError:
        raise RunError(f"{where}: nested deeper than {DEPTH} levels") from None
    except ValueError as error:
        raise RunError(f"{where}: not JSON ({error})") from None
    _check_values(value, where)
    return value


def _check_values(value: Any, where: str) -> None:
    """Raise RunError for values that are nested too deep, numbers too large, and text that is not Unicode."""
    level = [value]
    for _ in range(DEPTH + 1):
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                below += [*one.keys(), *one.values()]
            elif isinstance(one, list | tuple | set):
                below += one
            elif isinstance(one, int) and abs(one) >= 2**63:
                raise RunError(f"{where}: a number of more than 64 bits")
            elif isinstance(one, str) and not one.isascii():
                try:
                    one.encode()
                except UnicodeEncodeError:
                    raise RunError(f"{where}: text that is not Unicode ({one[:40]!a})") from None
        if not below:
            return
        level = below
    raise RunError(f"{where}: nested deeper than {DEPTH} levels")


def read_csv(path: Path, *, required: Sequence[str]) -> list[dict[str, str]]:
    """Rows by column; a cell that is not there is "".

    Raises:
        RunError: not CSV, a required column is missing, or a row is longer than the header.
    """
    try:
        reader = csv.DictReader(io.StringIO(read_text(path, limit=LIST), newline=""), restval="")
        rows = list(reader)
    except csv.Error as error:  # a cell of more than csv.field_size_limit() characters, for one
        raise RunError(f"{path}: not CSV ({error})") from None
    if absent := [name for name in required if name not in (reader.fieldnames or ())]:
        raise RunError(f"{path}: has no column {', '.join(absent)}")
    for line, row in enumerate(rows, 2):
        if None in row:
            raise RunError(f"{path}, row {line}: more cells than the header has")
        if any(len(cell) > CELL for cell in row.values()):
            raise RunError(f"{path}, row {line}: a cell of more than {CELL} characters")
    return rows


# --- YAML ----------------------------------------------------------------------------------------------------------


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML as OmegaConf writes and reads it: 1e-3 is a number, there are no dates, and a key stands once."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in known if not tag.endswith((":timestamp", ":float"))]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        found = super().construct_mapping(node, deep=deep)
        if isinstance(node, yaml.MappingNode) and len(found) < len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key that stands twice", node.start_mark)
        return found


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"(?:[-+]?(?:\d+\.\d*(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.\d+(?:[eE][-+]?\d+)?|\.(?:inf|Inf|INF))"
        r"|\.(?:nan|NaN|NAN))$",
        re.ASCII,
    ),
    list("-+0123456789."),
)


def parse_yaml(text: str, where: str) -> Any:
    """where: what a message calls the text.

    Raises:
        RunError: not YAML, or with aliases, tags, repeated keys, too many values or too many levels.
    """
    depth = nodes = 0
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise RunError(f"{where}: has anchors and aliases (&, *), which no run's config has")
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            nodes += 1
            if depth > DEPTH or nodes > NODES:
                raise RunError(f"{where}: more than {DEPTH} levels or {NODES} values")
        value = yaml.load(text, Loader=_Loader)  # a safe one
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise RunError(f"{where}: not YAML ({' '.join(str(error).split())[:300]})") from None
    _check_values(value, where)
    return value


# --- a run's files -------------------------------------------------------------------------------------------------


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


class _Backbone(_Open):
    name: str


class _Prompts(_Open):
    kind: str
    lambda_: Annotated[Finite, Field(alias="lambda")]


class _Config(_Open):
    """What is read of a config before it is checked as a whole, or without."""

    name: str
    dataset: dict[str, Any]
    backbone: _Backbone
    vmp: _Prompts
    trainer: dict[str, Any]
    optim: dict[str, Any] = {}
    train: dict[str, Any] = {}
    data: dict[str, Any] = {}
    logger: dict[str, Any] = {}


class _Result(_Open):
    """Of train.py and of evaluate.py, whose clips are those of one split."""

    top1: Finite
    split: str
    clips: dict[str, Count | dict[str, Count]]
    top5: Finite | None = None
    mean_class: Finite | None = None
    top1_lower_bound: Finite | None = None
    variation: Finite | None = None
    best_val_top1: Finite | None = None
    best_val_epoch: Count | None = None
    epoch: Count | None = None
    steps: Count | None = None
    classes: Count | None = None
    parameters: Count | None = None
    parameters_trained: Count | None = None
    seed: int | None = None
    seconds: Annotated[Finite, Field(ge=0)] | None = None
    clips_per_second: Finite | None = None
    share_waiting_for_data: Finite | None = None
    peak_memory_gb: Finite | None = None
    views: Annotated[list[Annotated[int, Field(ge=1, le=1000)]], Field(max_length=2)] = []
    scalars: dict[str, Finite] = {}
    readers: list[str] = []
    versions: dict[str, str] = {}
    batch: dict[str, Count] = {}
    weights: dict[str, Any] = {}
    unreadable_in_training: dict[str, str] = {}
    sittings: list[dict[str, int | Finite | str | None]] | None = None
    reduce: str | None = None
    degrade: str | None = None
    device: str | None = None
    command: str | None = None
    commit: str | None = None
    finished: str | None = None


def _check(kind: type[BaseModel], value: Any, where: str) -> None:
    try:
        kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "it"
        message = first["msg"].replace("Input should be", "must be", 1)
        message = "missing" if first["type"] == "missing" else f"{_shown(first['input'])}: {message}"
        raise RunError(
            f"{where}: {key} = {message}" if message != "missing" else f"{where}: {key} is missing"
        ) from None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."


def read_config(path: Path) -> dict[str, Any]:
    """A run's config.yaml as plain values. Nothing in it is resolved, and no components are made from what it names.

    Raises:
        RunError: it is damaged, or not a config of ours.
    """
    values = parse_yaml(read_text(path, limit=CONFIG), str(path))
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise RunError(f"{path}: not a run's config")
    _check(_Config, values, f"{path}: not a run's config")
    return values


def read_result(path: Path) -> dict[str, Any]:
    """result.json of a run or of an evaluation.

    Raises:
        RunError: it is damaged, lacks top1, split or clips, or a value is not of its kind; NaN is none.
    """
    value = read_json(path)
    _check(_Result, value, str(path))
    scalars = value.get("scalars", {})
    for key in scalars:
        if key.endswith("slope") and f"{key.removesuffix('slope')}shift" not in scalars:
            raise RunError(f"{path}: scalars has {key} without its shift")
    return value


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Rows of a run's metrics.jsonl; none where nothing was logged. A last line without an end is left out: it is being
    written, or was cut short by a kill.

    Raises:
        RunError: a line is not a row of numbers.
    """
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    *lines, _ = read_text(path, limit=LIST).split("\n")
    rows = []
    for number, line in enumerate(lines, 1):
        row = parse_json(line, f"{path}, line {number}")
        if not isinstance(row, dict) or not all(
            isinstance(value, str) if key == "kind" else _is_finite(value) for key, value in row.items()
        ):
            raise RunError(f"{path}, line {number}: not a row of numbers")
        rows.append(row)
    return rows


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_classes(path: Path) -> list[str]:
    """One name a line; none in a run of before this file was kept.

    Raises:
        RunError: not text, or more than CLASSES.
    """
    text = read_text(path).removesuffix("\n")
    names = text.split("\n") if text else []
    if len(names) > CLASSES:
        raise RunError(f"{path}: {len(names)} classes, more than {CLASSES}")
    return names


def read_predictions(path: Path, *, classes: int) -> list[dict[str, str]]:
    """Rows of predictions.csv; label and predicted are classes below `classes` or "", the score is finite or "". Files
    of before clips had path, span and names lack these columns.

    Raises:
        RunError: damaged.
    """
    rows = read_csv(path, required=("id", "label", "predicted", "score", "problem"))
    label = _whole(most=classes - 1)
    kinds = {"label": label, "predicted": label, "start": _whole(), "end": _whole(), "score": _number}
    _check_cells(path, rows, kinds, may_lack={"start", "end"})
    for line, row in enumerate(rows, 2):
        if row["predicted"] and not (row["label"] and row["score"]):
            raise RunError(f"{path}, row {line}: a prediction without label or score")
        if not row["predicted"] and not row["problem"]:
            raise RunError(f"{path}, row {line}: neither a prediction nor a reason why there is none")
    return rows


def read_per_class(path: Path) -> list[dict[str, str]]:
    """Rows of per_class.csv: class, clips and right are whole numbers, accuracy is finite or "".

    Raises:
        RunError: damaged.
    """
    rows = read_csv(path, required=("class", "name", "clips", "right", "accuracy"))
    _check_cells(path, rows, {"class": _whole(), "clips": _whole(), "right": _whole(), "accuracy": _number})
    for line, row in enumerate(rows, 2):
        if not (row["class"] and row["clips"] and row["right"]) or int(row["right"]) > int(row["clips"]):
            raise RunError(f"{path}, row {line}: counts are missing, or more clips are right than there are")
    return rows


def read_digests(path: Path) -> dict[str, str]:
    """data.json: split -> digest of its clips; empty where it was not kept.

    Raises:
        RunError: damaged.
    """
    if not path.exists():
        return {}
    value = read_json(path)
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise RunError(
            f"{path}: damaged, so it cannot be told whether the data are those of the run. Put it back."
        )
    return value


def _check_cells(
    path: Path,
    rows: Sequence[dict[str, str]],
    kinds: dict[str, Callable[[str], str]],
    *,
    may_lack: set[str] = frozenset(),  # type: ignore[assignment]
) -> None:
    for line, row in enumerate(rows, 2):
        for column, fault in kinds.items():
            cell = row.get(column, "") if column in may_lack else row[column]
            if cell and (said := fault(cell)):
                raise RunError(f"{path}, row {line}: {column} = {_shown(cell)}: {said}")


def _whole(most: int | None = None) -> Callable[[str], str]:
    def fault(cell: str) -> str:
        if not (cell.isascii() and cell.isdecimal() and len(cell) < 16):
            return "must be a whole number"
        return f"must be at most {most}" if most is not None and int(cell) > most else ""

    return fault


def _number(cell: str) -> str:
    try:
        finite = len(cell) <= DIGITS and math.isfinite(float(cell))
    except ValueError:
        finite = False
    return "" if finite else "must be a finite number"
