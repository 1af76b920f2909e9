"""Reads and writes the config, classes, digests, weights, result and scores of a run's folder, and reads its metrics.

The folder may be somebody else's, so what its files hold is checked before it is used: every reader returns values of
the types that its callers count on, and anything else raises a `RunError` that names the file and the key. A folder of
an evaluation has the same result.json, predictions.csv and per_class.csv.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from omegaconf import OmegaConf
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vmp.data.manifest import write_classes
from vmp.errors import RunError, shortlist
from vmp.files import (
    CONFIG_LIMIT,
    DIGITS,
    parse_yaml,
    read_csv,
    read_json,
    read_text,
    write_csv,
    write_json,
    write_text,
)
from vmp.formats import finite
from vmp.runs.rows import Rows

CONFIG_FILE = "config.yaml"
CLASSES_FILE = "classes.txt"
DATA_FILE = "data.json"  # split -> digest of its clips
WEIGHTS_FILE = "weights.json"  # what was loaded at the start
METRICS_FILE = "metrics.jsonl"
RESULT_FILE = "result.json"
PREDICTIONS_FILE = "predictions.csv"
PER_CLASS_FILE = "per_class.csv"

PREDICTION_COLUMNS = (
    *("id", "path", "start", "end", "label", "label_name", "predicted", "predicted_name"),
    *("score", "top5", "problem"),
)
CLASS_COLUMNS = ("class", "name", "clips", "right", "accuracy")
CLASS_TOP5_COLUMNS = ("right_top5", "accuracy_top5")  # where there are more than five classes
MOST_CLASSES = 200_000  # in classes.txt


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
    """The part of a config that is used without checking the whole of it."""

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
    """result.json of train.py, or of evaluate.py, whose `clips` are the counts of one split only."""

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


def has_top5(classes: int | None) -> bool:
    """Whether top-5 says anything: with five classes or fewer it is always 100. None: unknown, so it may."""
    return classes is None or classes > 5


def is_run(folder: Path) -> bool:
    return (folder / CONFIG_FILE).is_file()


def no_run(folder: Path) -> str:
    """The message for a folder that is not a run's; it names the newest runs that are up to four levels below."""
    if str(folder).startswith("run=") and is_run(Path(str(folder)[4:])):
        return f"{folder}: no run there; this command takes a run's folder without run="
    below = [path for depth in range(1, 5) for path in folder.glob("*/" * depth + CONFIG_FILE)]
    newest = [str(path.parent) for path in sorted(sorted(below), key=_modified, reverse=True)]
    hint = f"; there are runs below it, the newest first:\n{shortlist(newest, 5)}" if newest else ""
    return f"{folder}: no run there (no {CONFIG_FILE}){hint}"


def _modified(path: Path) -> float:
    """When a file was written; 0 if it is gone or cannot be looked at."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def is_finished(folder: Path) -> bool:
    """Whether the run, or the evaluation, in a folder has its result."""
    return (folder / RESULT_FILE).exists()


# --- reading -------------------------------------------------------------------------------------------------------


def read_config(folder: Path) -> dict[str, Any]:
    """The config as plain values. Interpolations stay text, and nothing that the file names is imported or composed."""
    where = f"{folder / CONFIG_FILE}: not a run's config"
    values = parse_yaml(read_config_text(folder), str(folder / CONFIG_FILE))
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise RunError(where)
    _check(_Config, values, where)
    return values


def read_config_text(folder: Path) -> str:
    return read_text(folder / CONFIG_FILE, limit=CONFIG_LIMIT)


def read_result(folder: Path) -> dict[str, Any]:
    """result.json of a run or of an evaluation: finite numbers only, and top1, split and clips are in it."""
    path = folder / RESULT_FILE
    value = read_json(path)
    _check(_Result, value, str(path))
    scalars = value.get("scalars", {})
    for key in scalars:
        if key.endswith("slope") and f"{key.removesuffix('slope')}shift" not in scalars:
            raise RunError(f"{path}: scalars has {key} without its shift")
    return value


def read_metrics(folder: Path) -> Rows:
    """Rows of metrics.jsonl; empty where nothing was logged."""
    return Rows(folder / METRICS_FILE)


def read_classes(folder: Path) -> list[str]:
    """Class names by label, at most MOST_CLASSES."""
    path = folder / CLASSES_FILE
    text = read_text(path).removesuffix("\n")
    names = text.split("\n") if text else []
    if len(names) > MOST_CLASSES:
        raise RunError(f"{path}: {len(names)} classes, more than {MOST_CLASSES}")
    return names


def read_predictions(
    folder: Path, *, classes: int, result: dict[str, Any] | None = None
) -> list[dict[str, str]]:
    """Rows of predictions.csv; empty where there is no such file.

    `label` and `predicted` are classes below `classes` or "", and `score` is finite or "". Older files lack the columns
    for path, span and class names.

    Args:
        result: of the folder; a file with fewer predictions than it counts clips was copied in part, and is refused.
    """
    path = folder / PREDICTIONS_FILE
    if not path.exists():
        return []
    rows = read_csv(path, required=("id", "label", "predicted", "score", "problem"))
    label = _whole_number(most=classes - 1)
    kinds = {"label": label, "predicted": label, "start": _whole_number(), "end": _whole_number()}
    _check_cells(path, rows, {**kinds, "score": _finite_number})
    for line, row in enumerate(rows, 2):
        if row["predicted"] and not (row["label"] and row["score"]):
            raise RunError(f"{path}, row {line}: a prediction without label or score")
        if not row["predicted"] and not row["problem"]:
            raise RunError(f"{path}, row {line}: neither a prediction nor a reason why there is none")
    scored, tested = sum(row["predicted"] != "" for row in rows), 0
    if result:
        counts = result["clips"].get(result["split"], result["clips"])
        tested = counts.get("present", 0)
    if scored < tested:
        raise RunError(
            f"{path}: {scored} predictions, and {RESULT_FILE} counts {tested} clips: the end is missing; copy it again"
        )
    return rows


def read_per_class(folder: Path) -> list[dict[str, str]]:
    """Rows of per_class.csv; empty where there is no such file. class, clips and right are whole numbers, accuracy is
    finite or ""."""
    path = folder / PER_CLASS_FILE
    if not path.exists():
        return []
    rows = read_csv(path, required=CLASS_COLUMNS)
    counts = dict.fromkeys(("class", "clips", "right", "right_top5"), _whole_number())
    shares = dict.fromkeys(("accuracy", "accuracy_top5"), _finite_number)
    _check_cells(path, rows, counts | shares)
    for line, row in enumerate(rows, 2):
        if not (row["class"] and row["clips"] and row["right"]) or int(row["right"]) > int(row["clips"]):
            raise RunError(f"{path}, row {line}: counts are missing, or more clips are right than there are")
    return rows


def read_digests(folder: Path) -> dict[str, str]:
    """data.json: split -> digest of its clips; empty where there is no such file."""
    path = folder / DATA_FILE
    if not path.exists():
        return {}
    value = read_json(path)
    if not isinstance(value, dict) or not all(isinstance(digest, str) for digest in value.values()):
        raise RunError(
            f"{path}: damaged, so it is impossible to tell whether the data are still those of the run. Restore it."
        )
    return value


def read_weights(folder: Path) -> dict[str, Any]:
    """weights.json: which weights the run started from.

    Raises:
        RunError: damaged.
    """
    value = read_json(folder / WEIGHTS_FILE)
    if not isinstance(value, dict):
        raise RunError(f"{folder / WEIGHTS_FILE}: must be an object, and is {type(value).__name__}")
    return value


def _check(kind: type[BaseModel], value: Any, where: str) -> None:
    try:
        kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "it"
        if first["type"] == "missing":
            raise RunError(f"{where}: {key} is missing") from None
        message = first["msg"].replace("Input should be", "must be", 1)
        raise RunError(f"{where}: {key} = {_shortened(first['input'])}: {message}") from None


def _check_cells(path: Path, rows: Sequence[dict[str, str]], checks: dict[str, Callable[[str], str]]) -> None:
    """Raise RunError for the first cell with a fault; checks: column -> what says the fault of a cell, "" for none."""
    faults = {
        (column, cell): fault
        for column, fault_of in checks.items()
        for cell in {row.get(column, "") for row in rows}  # most occur many times
        if cell and (fault := fault_of(cell))
    }
    if not faults:
        return
    for line, row in enumerate(rows, 2):
        for column in checks:
            cell = row.get(column, "")
            if (column, cell) in faults:
                fault = faults[column, cell]
                raise RunError(f"{path}, row {line}: {column} = {_shortened(cell)}: {fault}")


def _whole_number(most: int | None = None) -> Callable[[str], str]:
    def fault_of(cell: str) -> str:
        if not (cell.isascii() and cell.isdecimal() and len(cell) < 16):
            return "must be a whole number"
        return f"must be at most {most}" if most is not None and int(cell) > most else ""

    return fault_of


def _finite_number(cell: str) -> str:
    return "" if len(cell) <= DIGITS and finite(cell) is not None else "must be a finite number"


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."


# --- writing -------------------------------------------------------------------------------------------------------


def write_records(
    folder: Path, config: dict[Any, Any], digests: dict[str, str], classes: Sequence[str]
) -> None:
    """Write the files that a run starts with: its config, the digests of its data and its class names."""
    kept = {key: value for key, value in config.items() if key != "hydra"}
    write_text(folder / CONFIG_FILE, OmegaConf.to_yaml(OmegaConf.create(kept)))
    write_json(folder / DATA_FILE, digests)
    write_classes(folder / CLASSES_FILE, classes)


def write_weights(folder: Path, loaded: dict[str, Any]) -> None:
    write_json(folder / WEIGHTS_FILE, loaded)


def write_result(folder: Path, result: dict[str, Any]) -> None:
    write_json(folder / RESULT_FILE, result)


def write_scores(folder: Path, clips: Sequence[Sequence[Any]], classes: Sequence[Sequence[Any]]) -> None:
    """Write predictions.csv, one row per clip, and per_class.csv, one row per class, with top-5 if the rows have it."""
    columns = CLASS_COLUMNS + (CLASS_TOP5_COLUMNS if len(classes[0]) > len(CLASS_COLUMNS) else ())
    write_csv(folder / PREDICTIONS_FILE, [PREDICTION_COLUMNS, *clips])
    write_csv(folder / PER_CLASS_FILE, [columns, *classes])
