"""The predictions of a run in compact form: predictions.csv is read once and not kept."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from vmp.figures.worst import worst_clips
from vmp.runs.run import Run


@dataclass(frozen=True, slots=True)
class Tested:
    """clips: (N,), hashes of the ids of the clips with a score, in ascending order, comparable within this process.
    right: (N,) bool, whether each was classified correctly.
    confusion: for each true class, what was predicted and how often: [predicted, clips, predicted, clips, ...].
    worst: clips that the run got wrong with the highest scores, as `worst_clips` describes them.
    """

    clips: np.ndarray
    right: np.ndarray
    confusion: list[list[int]]
    worst: list[dict[str, Any]]


def read_tested(run: Run, result: dict[str, Any], *, worst: int) -> Tested | None:
    """Read the predictions of a finished run; None where it has none.

    Raises:
        RunError: a file of the run is damaged.
    """
    scored = [row for row in run.predictions if row["predicted"]]
    if not scored:
        return None
    classes = len(run.classes)
    label, guess = (np.array([int(row[key]) for row in scored]) for key in ("label", "predicted"))
    clips = np.array([hash(row["id"]) for row in scored])
    order = clips.argsort()
    found, counts = np.unique(label * classes + guess, return_counts=True)
    confusion: list[list[int]] = [[] for _ in range(classes)]
    for at, count in zip(found.tolist(), counts.tolist(), strict=True):
        confusion[at // classes] += [at % classes, count]
    return Tested(clips[order], (label == guess)[order], confusion, worst_clips(run, result, count=worst))


def pair_up(tested: list[Tested]) -> np.ndarray:
    """Correctness on the clips that all of them scored: (len(tested), clips in common) bool."""
    shared = tested[0].clips
    for one in tested[1:]:
        if not np.array_equal(shared, one.clips):
            shared = np.intersect1d(shared, one.clips)
    return np.stack([one.right[np.searchsorted(one.clips, shared)] for one in tested])
