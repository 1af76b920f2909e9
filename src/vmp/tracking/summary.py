"""What trackers show of a run besides its rows: its config and its result, without secrets."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmp.config import Config
from vmp.errors import RunError
from vmp.runs.records import (
    PER_CLASS_FILE,
    RESULT_FILE,
    read_digests,
    read_per_class,
    read_predictions,
    read_result,
)

if TYPE_CHECKING:
    import numpy as np

SECRET = re.compile(r"api_?key|token|secret|passw|credential", re.IGNORECASE)
PASSWORD = re.compile(r"(?<=://)[^/@\s]+:[^/@\s]+(?=@)")  # user:password in an address
HIDDEN = "(hidden)"

ALWAYS = ("top1", "top5", "mean_class", "top1_lower_bound")  # numbers that every finished run has
OFTEN = (
    *("cross_entropy", "variation", "best_val_top1", "best_val_epoch", "seconds", "clips_per_second"),
    *("share_waiting_for_data", "peak_memory_gb", "parameters", "parameters_trained"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """A finished run.

    numbers: those of result.json, flat: top1, top5, ..., slope, shift, by pathway where there are several.
    per_class: (class, name, clips, right, accuracy in percent or None). labels, predicted: of the clips with a score.
    """

    split: str
    epoch: int
    step: int
    numbers: dict[str, float]
    per_class: list[tuple[int, str, int, int, float | None]]
    labels: list[int]
    predicted: list[int]

    @property
    def classes(self) -> list[str]:
        return [name for _, name, *_ in self.per_class]

    def draw_confusion(self) -> "np.ndarray":
        """(H, W, 3) uint8."""
        from vmp.figures.confusion import confusion_picture, count_confusions

        counts = count_confusions(self.labels, self.predicted, classes=len(self.classes))
        return confusion_picture(counts, self.classes, title=f"confusion, {self.split}")


def read_summary(folder: Path) -> RunSummary:
    """Raises:
    RunError: the run's result or scores are missing, incomplete or damaged.
    """
    result = read_result(folder)
    if absent := [key for key in (*ALWAYS, "epoch", "steps") if key not in result]:
        raise RunError(f"{folder / RESULT_FILE}: has no {', '.join(absent)}")
    numbers = {key: result.get(key) for key in (*ALWAYS, *OFTEN)} | result.get("scalars", {})
    counts = result["clips"].get(result["split"], {})
    numbers |= {f"clips/{key}": value for key, value in counts.items()}
    rows = read_per_class(folder)
    if not rows:
        raise RunError(f"{folder / PER_CLASS_FILE}: not found, or empty")
    scored = [row for row in read_predictions(folder, classes=len(rows), result=result) if row["predicted"]]
    per_class = []
    for row in rows:
        accuracy = float(row["accuracy"]) if row["accuracy"] else None
        per_class.append((int(row["class"]), row["name"], int(row["clips"]), int(row["right"]), accuracy))
    return RunSummary(
        split=result["split"],
        epoch=result["epoch"],
        step=result["steps"],
        numbers={key: value for key, value in numbers.items() if value is not None},
        per_class=per_class,
        labels=[int(row["label"]) for row in scored],
        predicted=[int(row["predicted"]) for row in scored],
    )


def describe_run(config: Config, folder: Path) -> dict[str, Any]:
    """The config as nested sections, and under `about` the parts of the folder's name, code, versions and data.

    Secrets are hidden.
    """
    from vmp.provenance import provenance

    about = {
        "dataset": config.name,
        "backbone": config.backbone.key,
        "weights": start_weights_of(config),
        "method": method_of(config),
        "placement": config.placement or "-",
        "model": config.backbone.key + (f" ({config.placement})" if config.placement else ""),
        "folder": str(config.folder),
        "data": read_digests(folder),
        **provenance(),
    }
    return hide_secrets({**config.model_dump(mode="json", by_alias=True), "about": about})


def start_weights_of(config: Config) -> str:
    """What the run started from: a name of published weights, `file`, `run` or `random`."""
    return config.folder.parts[-3].partition("-")[2] or "random"


def method_of(config: Config) -> str:
    return str(getattr(config.vmp, "name", config.vmp.kind))


def group_of(config: Config) -> str:
    """Runs that differ only in the prompts and the seed are one group."""
    return "/".join(config.folder.parts[-4:-2])


def hide_secrets(value: Any) -> Any:
    """Replace values whose key looks like that of a secret, and passwords in addresses."""
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if SECRET.search(str(key)) and inner is not None else hide_secrets(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [hide_secrets(inner) for inner in value]
    return PASSWORD.sub(HIDDEN, value) if isinstance(value, str) else value


def format_error(error: BaseException) -> str:
    """The error's type and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
