"""Whose classes a classification head is for: it is taken over only where it is known to be for the same ones.

Notable here:
- as many classes are not the same classes, and neither are the same names in another order;
- the class names of a run are in its classes.txt, those of a file of weights FILE.pyth in FILE.classes.txt beside it;
- names that are only numbers (0, 1, 2, ...) say nothing by themselves: then the datasets' names must agree too.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from vmp.data.manifest import read_classes
from vmp.runs.records import is_run
from vmp.runs.run import Run

SUFFIX = ".classes.txt"


def run_of(path: Path) -> Path | None:
    """The folder of the run that a checkpoint belongs to, or that the path is; None: it is not of a run."""
    path = Path(os.path.abspath(path.expanduser()))
    for home in (path, *path.parents[:3]):
        if is_run(home) and Run(home).lists_classes:
            return home
    return None


def classes_of(weights: Path) -> tuple[str, ...] | None:
    """Class names of the head in a run, a checkpoint or a file of weights; None: nothing says them.

    Raises:
        ManifestError: the file that should say them cannot be used.
    """
    if home := run_of(weights):
        return tuple(Run(home).classes)
    names = names_beside(weights)
    return read_classes(names) if names.is_file() else None


def names_beside(weights: Path) -> Path:
    """Where the class names of a file of weights are looked for."""
    return weights.with_name(weights.stem + SUFFIX)


def why_other(weights: Path, classes: Sequence[str], dataset: str) -> str:
    """Why the head in `weights` is not for these classes of a dataset; empty if it is for the same ones.

    Raises:
        ManifestError, RunError: what the weights come with cannot be used.
    """
    theirs, ours = classes_of(weights), tuple(classes)
    if theirs is None:
        return (
            f"nothing says which classes {weights.name} was trained on. If they are those of this dataset, in the same "
            f"order, write their names to {names_beside(weights)}, one a line"
        )
    if theirs != ours:
        return f"its classes are others: {_first_difference(theirs, ours)}"
    home = run_of(weights)
    if home and ours == tuple(str(i) for i in range(len(ours))):
        dataset_then = Run(home).config["dataset"].get("name")
        if dataset_then != dataset:
            return (
                f"both datasets, {dataset_then} there and {dataset} here, have numbers for class names, which do not "
                "tell whether they are the same classes. Name the classes of a list with dataset.classes=FILE"
            )
    return ""


def _first_difference(theirs: Sequence[str], ours: Sequence[str]) -> str:
    if len(theirs) != len(ours):
        return f"{len(theirs)} there, {len(ours)} here"
    label, pair = next(
        (i, pair) for i, pair in enumerate(zip(theirs, ours, strict=True)) if pair[0] != pair[1]
    )
    order = " (the same names in another order)" if set(theirs) == set(ours) else ""
    return f"class {label} is {pair[0]!r} there and {pair[1]!r} here{order}"
