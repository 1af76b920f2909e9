"""Runs as their folders tell them: config, result, curves, scores by class and by clip. Nothing is computed here."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from vmp.engine.loggers import read_metrics
from vmp.errors import RunError


@dataclass(frozen=True)
class Run:
    """A run's folder. Attributes are read when they are asked for."""

    folder: Path

    @property
    def finished(self) -> bool:
        return (self.folder / "result.json").is_file()

    @cached_property
    def config(self) -> dict[str, Any]:
        return OmegaConf.to_container(OmegaConf.load(self.folder / "config.yaml"))  # type: ignore[return-value]

    @cached_property
    def result(self) -> dict[str, Any]:
        """Raises:
        RunError: the run is not finished.
        """
        if not self.finished:
            raise RunError(
                f"{self.folder}: not finished (no result.json); the command that began it continues it"
            )
        return json.loads((self.folder / "result.json").read_text(encoding="utf-8"))

    @cached_property
    def classes(self) -> list[str]:
        text = (self.folder / "classes.txt").read_text(encoding="utf-8").removesuffix("\n")
        return text.split("\n") if text else []

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Of metrics.jsonl: kind "train" and "val"."""
        return read_metrics(self.folder)

    @cached_property
    def predictions(self) -> list[dict[str, str]]:
        """One row per clip of the tested split, with the columns of evaluator.PREDICTIONS."""
        return _csv(self.folder / "predictions.csv")

    @cached_property
    def per_class(self) -> list[dict[str, str]]:
        """A row a class: class, name, clips, right, accuracy."""
        return _csv(self.folder / "per_class.csv")


def read_run(folder: Path) -> Run:
    """Raises:
    RunError: no run there.
    """
    if not (folder / "config.yaml").is_file():
        raise RunError(f"{folder}: no run there (no config.yaml)")
    return Run(folder)


def find_runs(outputs: Path) -> Iterator[Run]:
    """Every run below a folder, in the order of their names; what is inside a run (wandb's own files) is none."""
    folders = {path.parent for path in outputs.rglob("config.yaml")}
    for folder in sorted(folders):
        if not folders.intersection(folder.parents):
            yield Run(folder)


def _csv(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
