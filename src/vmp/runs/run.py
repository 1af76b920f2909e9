"""Runs as their folders tell them: config, result, curves, scores by class and by clip. Nothing is computed here.

Attributes raise RunError where a file is damaged; what they return has the types that `run_files` promises.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vmp.errors import RunError, first_line
from vmp.runs import records


@dataclass(frozen=True)
class Run:
    """A run's folder. Attributes are read when they are asked for."""

    folder: Path

    @property
    def finished(self) -> bool:
        return (self.folder / "result.json").exists()

    @cached_property
    def config(self) -> dict[str, Any]:
        return records.read_config(self.folder / "config.yaml")

    @cached_property
    def result(self) -> dict[str, Any]:
        """Raises:
        RunError: the run is not finished, or its result is damaged.
        """
        if not self.finished:
            raise RunError(
                f"{self.folder}: not finished (no result.json); the command that began it continues it"
            )
        return records.read_result(self.folder / "result.json")

    @cached_property
    def classes(self) -> list[str]:
        return records.read_classes(self.folder / "classes.txt")

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Of metrics.jsonl: kind "train" and "val"."""
        return records.read_metrics(self.folder)

    @cached_property
    def predictions(self) -> list[dict[str, str]]:
        """One row per clip of the tested split, with the columns of predictions.PREDICTIONS."""
        path = self.folder / "predictions.csv"
        return records.read_predictions(path, classes=len(self.classes)) if path.exists() else []

    @cached_property
    def per_class(self) -> list[dict[str, str]]:
        """A row a class: class, name, clips, right, accuracy."""
        path = self.folder / "per_class.csv"
        return records.read_per_class(path) if path.exists() else []


def read_run(folder: Path) -> Run:
    """Raises:
    RunError: no run there.
    """
    if not (folder / "config.yaml").is_file():
        raise RunError(f"{folder}: no run there (no config.yaml)")
    return Run(folder)


def readable_runs(outputs: Path) -> Iterator[Run]:
    """Those whose config and, where they are finished, result can be read; a line on stderr about each other one."""
    for run in find_runs(outputs):
        try:
            run.config  # noqa: B018
            if run.finished:
                run.result  # noqa: B018
        except RunError as error:
            print(f"warning: left out: {first_line(error)}", file=sys.stderr)
        else:
            yield run


def find_runs(outputs: Path) -> Iterator[Run]:
    """Every run below a folder, in the order of their names; what is inside a run (wandb's own files) is none."""
    folders = {path.parent for path in outputs.rglob("config.yaml")}
    for folder in sorted(folders):
        if not folders.intersection(folder.parents):
            yield Run(folder)
