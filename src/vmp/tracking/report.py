"""What is told of a run beside its rows: its config and its result, from the run's folder, without secrets."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmp.config import Config
from vmp.errors import RunError
from vmp.runs.records import RESULT_FILE, read_digests, read_per_class, read_predictions, read_result

if TYPE_CHECKING:
    import numpy as np

SECRET = re.compile(r"api_?key|token|secret|passw|credential", re.IGNORECASE)
IN_URL = re.compile(r"(?<=://)[^/@\s]+:[^/@\s]+(?=@)")  # user:password
HIDDEN = "(hidden)"
Row = dict[str, Any]  # of metrics.jsonl


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A finished run.

    numbers: of result.json, flat: top1, top5, ..., slope, shift, by pathway where there are several.
    per_class: per_class.csv, (class, name, clips, right, accuracy in percent or None).
    labels, predicted: of the clips that could be scored.
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


def read_report(folder: Path) -> Report:
    """Raises:
    RunError: the folder has no whole result.
    """
    result = read_result(folder)
    if absent := [
        key for key in ("top5", "mean_class", "top1_lower_bound", "epoch", "steps") if key not in result
    ]:
        raise RunError(f"{folder / RESULT_FILE}: has no {', '.join(absent)}")
    told = {key: result[key] for key in ("top1", "top5", "mean_class", "top1_lower_bound")}
    told |= {
        key: result.get(key)
        for key in (
            *("cross_entropy", "variation", "best_val_top1", "best_val_epoch", "seconds", "clips_per_second"),
            *("share_waiting_for_data", "peak_memory_gb", "parameters", "parameters_trained"),
        )
    }
    told |= result.get("scalars", {})
    counts = result["clips"].get(result["split"], {})
    told |= {f"clips/{key}": value for key, value in counts.items()}
    per_class = [
        (
            int(row["class"]),
            row["name"],
            int(row["clips"]),
            int(row["right"]),
            float(row["accuracy"]) if row["accuracy"] else None,
        )
        for row in read_per_class(folder)
    ]
    predictions = read_predictions(folder, classes=len(per_class))
    scored = [row for row in predictions if row["predicted"]]
    return Report(
        split=result["split"],
        epoch=result["epoch"],
        step=result["steps"],
        numbers={key: value for key, value in told.items() if value is not None},
        per_class=per_class,
        labels=[int(row["label"]) for row in scored],
        predicted=[int(row["predicted"]) for row in scored],
    )


def describe(config: Config, folder: Path) -> dict[str, Any]:
    """The config as nested sections, `vmp.lambda` under its own name, and under `about` what the run's folder says of
    it: its name's parts, code, versions and data. Secrets are left out."""
    from vmp.provenance import provenance

    about = {
        "dataset": config.name,
        "backbone": config.backbone.key,
        "weights": start_of(config),
        "method": method_of(config),
        "placement": config.placement or "-",
        "model": config.backbone.key + (f" ({config.placement})" if config.placement else ""),
        "folder": str(config.folder),
        "data": read_digests(folder),
        **provenance(),
    }
    return scrub({**config.model_dump(mode="json", by_alias=True), "about": about})


def start_of(config: Config) -> str:
    """What the weights were: a name, `file`, `run` or `random`."""
    start = config.folder.parts[-3].partition("-")[2]
    return start or "random"


def method_of(config: Config) -> str:
    return str(getattr(config.vmp, "name", config.vmp.kind))


def tags_of(config: Config) -> list[str]:
    """Of a run, the user's own last: dataset, backbone, placement, weights, method."""
    found = [config.name, config.backbone.key, config.placement, f"weights-{start_of(config)}"]
    found += [f"vmp-{method_of(config)}", *config.logger.tags]
    return list(dict.fromkeys(tag[:64] for tag in found if tag))


def group_of(config: Config) -> str:
    """Runs that differ in the prompts and the seed only are one group."""
    return "/".join(config.folder.parts[-4:-2])


def name_of(config: Config) -> str:
    return " ".join(config.folder.parts[-2:])


def scrub(value: Any) -> Any:
    """The same without what looks like a secret: by its key, or a password in an address."""
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if SECRET.search(str(key)) and inner is not None else scrub(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [scrub(inner) for inner in value]
    return IN_URL.sub(HIDDEN, value) if isinstance(value, str) else value


CONFUSED = 480  # rows and columns of counted confusions, at most


def confusions(report: Report) -> "np.ndarray":
    """Counts of clips, (actual, predicted), int64. Above CONFUSED classes, neighbouring classes share a row and a
    column, so that the matrix has at most CONFUSED of each whatever the number of classes."""
    import numpy as np

    step = max(1, -(-len(report.per_class) // CONFUSED))
    side = -(-len(report.per_class) // step)
    counts = np.zeros((side, side), dtype=np.int64)
    at = np.array([report.labels, report.predicted], dtype=np.int64) // step
    np.add.at(counts, (at[0], at[1]), 1)
    return counts


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
