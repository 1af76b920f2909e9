"""Decides whether a pretrained classification head is for the classes of a dataset. Only then is it loaded.

Notes:
- an equal number of classes does not make them the same, nor do equal names in another order;
- the class names of a run are in its classes.txt, those of a file of weights FILE.pyth in FILE.classes.txt beside it,
  and those of Kinetics-400 are shipped;
- names that are plain numbers (0, 1, 2, ...) do not identify classes, so then the datasets' names must agree too.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from vmp.backbones import zoo
from vmp.data.manifest import read_classes
from vmp.runs.records import is_run
from vmp.runs.run import Run

SUFFIX = ".classes.txt"


def run_of(path: Path) -> Path | None:
    """The run's folder that a path is or lies in, such as that of a checkpoint; None if there is none."""
    path = Path(os.path.abspath(path.expanduser()))
    for home in (path, *path.parents[:3]):
        if is_run(home) and Run(home).lists_classes:
            return home
    return None


def classes_of(weights: Path, published: str = "") -> tuple[str, ...] | None:
    """Class names of the head in a run, a checkpoint or a file of weights; None if they are not known.

    Args:
        published: the name, such as k400, of published weights that the file holds.

    Raises:
        ManifestError, RunError: the file with the names cannot be used.
    """
    if home := run_of(weights):
        return tuple(Run(home).classes)
    names = names_beside(weights)
    if names.is_file():
        return read_classes(names)
    return zoo.class_names(published) if published else None


def names_beside(weights: Path) -> Path:
    """The file in which the class names of a file of weights are expected."""
    return weights.with_name(weights.stem + SUFFIX)


def explain_other_classes(weights: Path, classes: Sequence[str], dataset: str, *, published: str = "") -> str:
    """Why the head in `weights`, published under a name or not, is not for these classes of a dataset; empty if it is.

    Raises:
        ManifestError, RunError: the files with the names, or the run, cannot be used.
    """
    theirs, ours = classes_of(weights, published), tuple(classes)
    if theirs is None:
        return (
            f"nothing says which classes {weights.name} was trained on. If they are those of this dataset, in the same "
            f"order, write their names to {names_beside(weights)}, one per line"
        )
    if theirs != ours:
        return f"its classes are different: {_first_difference(theirs, ours)}"
    home = run_of(weights)
    if home and ours == tuple(str(i) for i in range(len(ours))):
        dataset_then = Run(home).config["dataset"].get("name")
        if dataset_then != dataset:
            return (
                f"both datasets, {dataset_then} there and {dataset} here, have numbers for class names, which do not "
                "show whether the classes are the same. Name the classes of a list with dataset.classes=FILE"
            )
    return ""


def _first_difference(theirs: Sequence[str], ours: Sequence[str]) -> str:
    if len(theirs) != len(ours):
        return f"{len(theirs)} there, {len(ours)} here"
    label = next(i for i in range(len(ours)) if theirs[i] != ours[i])
    order = " (the same names in another order)" if set(theirs) == set(ours) else ""
    return f"class {label} is {theirs[label]!r} there and {ours[label]!r} here{order}"
