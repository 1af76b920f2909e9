"""Reads the records of a run's folder, which may be somebody else's: what they hold is checked before it is used.

Every reader returns values of the types that its callers count on. Anything else raises a `RunError` that names the
file and the key.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vmp.errors import RunError
from vmp.files import CONFIG, DIGITS, LIST, parse_json, parse_yaml, read_csv, read_json, read_text

CLASSES = 200_000  # at most, in classes.txt


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
    sessions: list[dict[str, int | Finite | str | None]] | None = None
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
