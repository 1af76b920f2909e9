"""A run as its folder describes it: config, result, curves, accuracy by class, prediction for each clip.

Attributes are read from the folder on first use. They raise RunError if a file is damaged or missing; runs/records.py
checks what they return.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vmp.config import Config
from vmp.errors import RunError, first_line
from vmp.runs import records
from vmp.runs.folder import ADDED, load_config
from vmp.runs.rows import Row, Rows

CURVE_POINTS = 2000
PAPERS_LAYER = ADDED["vmp"] | {"attention_from": "clip"}  # with these values, learned prompts are the paper's


@dataclass(frozen=True)
class Run:
    """A run's folder, or the folder of one of its evaluations, which has a result, predictions and classes."""

    folder: Path

    @property
    def finished(self) -> bool:
        return records.is_finished(self.folder)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The values in config.yaml, unchecked."""
        return records.read_config(self.folder)

    @property
    def title(self) -> str:
        """The run's dataset and backbone, for titles."""
        return f"{self.config['name']}, {self.config['backbone']['name']}"

    @property
    def lambda_(self) -> float:
        """λ, the weight of the regulariser."""
        return float(self.config["vmp"]["lambda"])

    @property
    def config_text(self) -> str:
        return records.read_config_text(self.folder)

    @cached_property
    def checked_config(self) -> Config:
        return load_config(self.folder)

    @cached_property
    def result(self) -> dict[str, Any]:
        """Raises:
        RunError: the run is not finished, or its result is damaged.
        """
        if not self.finished:
            raise RunError(
                f"{self.folder}: not finished (no {records.RESULT_FILE}); the command that began it continues it"
            )
        return records.read_result(self.folder)

    @property
    def lists_classes(self) -> bool:
        """False for runs by early versions, which did not write classes.txt."""
        return (self.folder / records.CLASSES_FILE).is_file()

    @cached_property
    def classes(self) -> list[str]:
        return records.read_classes(self.folder)

    @cached_property
    def rows(self) -> Rows:
        """Rows of metrics.jsonl, of kind "start", "train" and "val"."""
        return records.read_metrics(self.folder)

    @cached_property
    def curve(self) -> list[Row]:
        """The rows to draw: all rows at the start and of validations, and at most CURVE_POINTS of training."""
        return self.rows.thinned(CURVE_POINTS)

    @cached_property
    def predictions(self) -> list[dict[str, str]]:
        """One row per clip of the tested split, with the columns PREDICTION_COLUMNS."""
        result = self.result if self.finished else None
        return records.read_predictions(self.folder, classes=len(self.classes), result=result)

    @property
    def correct(self) -> dict[str, bool]:
        """Id -> whether the clip was classified correctly, for the clips that have a score."""
        return {row["id"]: row["label"] == row["predicted"] for row in self.predictions if row["predicted"]}

    @cached_property
    def per_class(self) -> list[dict[str, str]]:
        """One row per class, with the columns CLASS_COLUMNS."""
        return records.read_per_class(self.folder)

    @property
    def digests(self) -> dict[str, str]:
        """Split -> digest of the clips that the run was made with."""
        return records.read_digests(self.folder)

    @property
    def has_papers_layer(self) -> bool:
        """Whether slope and shift are those of Eq. 3: learned, for single pixels, from the clip's plain differences."""
        vmp = self.config["vmp"]
        return vmp["kind"] == "learned" and all(
            vmp.get(key, value) == value for key, value in PAPERS_LAYER.items()
        )

    @property
    def finished_at(self) -> float:
        """When the result was written, in seconds since the epoch."""
        return (self.folder / records.RESULT_FILE).stat().st_mtime

    def evaluations(self) -> list["Run"]:
        """Later tests of the run by evaluate.py, sorted by name."""
        found = sorted((self.folder / "evaluations").glob(f"*/{records.RESULT_FILE}"))
        return [Run(path.parent) for path in found]


def read_run(folder: Path) -> Run:
    """The run in a folder. Raises RunError if there is none."""
    if not records.is_run(folder):
        raise RunError(records.no_run(folder))
    return Run(folder)


def find_runs(outputs: Path) -> Iterator[Run]:
    """Every run below a folder, sorted by name; links to folders are followed. Configs inside a run's folder (wandb's
    own files) are not runs. Warns on stderr about folders that cannot be listed."""
    seen = set[str]()

    def warn(error: OSError) -> None:
        print(f"warning: left out: {error.filename}: {error.strerror}", file=sys.stderr)

    for folder, below, files in os.walk(outputs, followlinks=True, onerror=warn):
        again = (place := os.path.realpath(folder)) in seen  # a link to a folder above it, for instance
        seen.add(place)
        if records.CONFIG_FILE in files and not again:
            yield Run(Path(folder))
        below[:] = [] if again or records.CONFIG_FILE in files else sorted(below)


def readable_runs(outputs: Path) -> Iterator[Run]:
    """Runs whose config and, if they are finished, result can be read; warns on stderr about each other run."""
    return without_damaged(find_runs(outputs), lambda run: (run.config, run.finished and run.result))


def without_damaged(runs: Iterable[Run], read: Callable[[Run], Any]) -> Iterator[Run]:
    """Runs whose files can be read as `read` does it; warns on stderr about each other run."""
    for run in runs:
        try:
            read(run)
        except RunError as error:
            print(f"warning: left out: {first_line(error)}", file=sys.stderr)
        else:
            yield run
