"""Compares two runs on the same clips: what one gets right and the other does not, and whether that is noise.

Notes:
- clips are paired by id. Both runs saw the same ones, so only the clips on which they differ carry information;
- McNemar's exact test: if both runs were equally accurate, each clip on which only one of them is right would favour
  either run with probability 1/2. p is the probability of an outcome at least as uneven;
- the test ignores seeds, and two runs of one recipe differ too: a small p says that these two runs differ.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vmp.errors import RunError
from vmp.figures.canvas import COLORS, GREY, figure, shorten
from vmp.runs.records import PER_CLASS_FILE, PREDICTIONS_FILE
from vmp.runs.run import Run

GAIN, LOSS = COLORS[0], COLORS[1]


@dataclass(frozen=True)
class Pairing:
    """The N clips that both runs scored. labels, predicted_*: (N,) classes; right_*: (N,) bool."""

    ids: list[str]
    labels: np.ndarray
    predicted_a: np.ndarray
    predicted_b: np.ndarray
    only_a: int  # clips that only the first run scored
    only_b: int

    @property
    def right_a(self) -> np.ndarray:
        return self.predicted_a == self.labels

    @property
    def right_b(self) -> np.ndarray:
        return self.predicted_b == self.labels

    @property
    def fixed(self) -> int:
        """Clips that the second run gets right and the first does not."""
        return int((~self.right_a & self.right_b).sum())

    @property
    def broken(self) -> int:
        """Clips that the first run gets right and the second does not."""
        return int((self.right_a & ~self.right_b).sum())

    @property
    def top1(self) -> tuple[float, float]:
        """Top-1 of both runs on these clips, in percent."""
        return 100 * float(self.right_a.mean()), 100 * float(self.right_b.mean())


def pair(a: Run, b: Run) -> Pairing:
    """Raises:
    RunError: a run has no predictions, the runs have different classes or labels, or no clip in common.
    """
    if a.classes != b.classes:
        raise RunError(f"{a.folder} and {b.folder} have different classes: their clips cannot be paired")
    mine, other = (_scored(run) for run in (a, b))
    shared = [name for name in mine if name in other]
    if not shared:
        raise RunError(f"{a.folder} and {b.folder} have no tested clip in common")
    wrong = [name for name in shared if mine[name][0] != other[name][0]]
    if wrong:
        raise RunError(
            f"{a.folder} and {b.folder} give {len(wrong)} clips different labels, {wrong[0]} for instance"
        )
    labels, mine_says, other_says = np.array([(*mine[name], other[name][1]) for name in shared]).T
    alone = (len(found) - len(shared) for found in (mine, other))
    return Pairing(shared, labels, mine_says, other_says, *alone)


def _scored(run: Run) -> dict[str, tuple[int, int]]:
    """Clip -> (label, predicted), for the clips that have a score."""
    rows = _require(run, run.predictions, PREDICTIONS_FILE)
    return {row["id"]: (int(row["label"]), int(row["predicted"])) for row in rows if not row["problem"]}


def _require(run: Run, rows: list[dict[str, str]], name: str) -> list[dict[str, str]]:
    if not rows:
        run.result  # noqa: B018  # raises if the reason is that the run is not finished
        raise RunError(f"{run.folder}: no {name} in it")
    return rows


def mcnemar(fixed: int, broken: int) -> float:
    """Exact two-sided p of McNemar's test: 2 P(X <= min(fixed, broken)) for X ~ B(fixed + broken, 1/2), at most 1."""
    from scipy.stats import binomtest

    return float(binomtest(fixed, fixed + broken).pvalue) if fixed + broken else 1.0


@dataclass(frozen=True)
class ClassChange:
    """Accuracies of a class in both runs, in percent, over the clips that both scored."""

    name: str
    clips: int
    a: float
    b: float

    @property
    def change(self) -> float:
        return self.b - self.a


def class_changes(paired: Pairing, classes: Sequence[str]) -> list[ClassChange]:
    """One entry for each class that occurs, largest gain first."""
    found = []
    for label, name in enumerate(classes):
        mask = paired.labels == label
        if n := int(mask.sum()):
            a, b = (100 * float(right[mask].mean()) for right in (paired.right_a, paired.right_b))
            found.append(ClassChange(name, n, a, b))
    return sorted(found, key=lambda c: (-c.change, c.name))


def class_accuracies(*runs: Run) -> dict[str, float]:
    """Class -> accuracy in percent over the clips of all these runs, for the classes that were tested."""
    counts: dict[str, tuple[int, int]] = {}
    for run in runs:
        for row in _require(run, run.per_class, PER_CLASS_FILE):
            right, clips = counts.get(row["name"], (0, 0))
            counts[row["name"]] = right + int(row["right"]), clips + int(row["clips"])
    return {name: 100 * right / clips for name, (right, clips) in counts.items() if clips}


# --- pictures ------------------------------------------------------------------------------------------------------

MOST_CLASSES, MOST_CHANGES = 300, 20  # classes drawn


def _both_ends(items: Sequence[Any], most: int) -> list[Any]:
    """All items, or as many of the first and of the last."""
    return list(items) if len(items) <= most else [*items[: most // 2], *items[-(most // 2) :]]


def draw_class_accuracies(
    a: Mapping[str, float], b: Mapping[str, float], *, labels: tuple[str, str], title: str
) -> Any:
    """Fig. 10, 11: accuracy of each class in two runs, largest gain on top. a, b: class -> percent."""
    every = sorted((n for n in a if n in b), key=lambda n: (b[n] - a[n], n))
    names = _both_ends(every, MOST_CLASSES)
    at = range(len(names))
    drawn = figure(6.6, 0.17 * len(names) + 1.3)
    axis = drawn.subplots()
    for i, name in enumerate(names):
        color = GAIN if b[name] > a[name] else LOSS if b[name] < a[name] else GREY
        axis.plot([a[name], b[name]], [i, i], color=color, linewidth=2.5, alpha=0.45, zorder=2)
    axis.plot([a[n] for n in names], at, "o", color="white", markeredgecolor=GREY, label=labels[0])
    axis.plot([b[n] for n in names], at, "D", color="black", markersize=4, label=labels[1])
    axis.set_yticks(at, [shorten(n.replace("_", " "), 40) for n in names])
    axis.set(xlim=(-3, 103), ylim=(-0.8, len(names) - 0.2), xlabel="accuracy of the class (%)")
    better = sum(b[n] > a[n] for n in every)
    worse = sum(b[n] < a[n] for n in every)
    few = "" if names == every else f"; the {MOST_CLASSES // 2} at either end"
    drawn.suptitle(f"{title}: {better} of {len(every)} classes better, {worse} worse{few}", fontsize=9)
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return drawn


def draw_comparison(
    paired: Pairing,
    changes: Sequence[ClassChange],
    *,
    labels: tuple[str, str],
    p: float,
    interval: tuple[float, float],
    layers: Mapping[str, Mapping[str, float]] | None,
) -> Any:
    """Classes by change, the difference in top-1 with its interval and, where measured, the similarity of layers."""
    shown = _both_ends(changes, MOST_CHANGES)[::-1]
    height = max(3.6, 0.19 * len(shown) + 1.2)
    drawn = figure(12.5 if layers else 8.6, height)
    widths = [1.35, 1, 1.25][: 3 if layers else 2]
    grid = drawn.add_gridspec(2, len(widths), width_ratios=widths)
    by_class, top, low = (drawn.add_subplot(grid[at]) for at in (np.s_[:, 0], np.s_[0, 1], np.s_[1, 1]))
    at = range(len(shown))
    by_class.barh(
        at, [c.change for c in shown], color=[GAIN if c.change > 0 else LOSS for c in shown], height=0.7
    )
    by_class.set_yticks(at, [f"{shorten(c.name.replace('_', ' '), 40)} ({c.clips})" for c in shown])
    by_class.axvline(0, color=GREY, linewidth=0.8)
    few = "" if len(shown) == len(changes) else f", the {MOST_CHANGES // 2} at either end of {len(changes)}"
    by_class.set(title=f"classes (clips){few}", xlabel="change of accuracy (points)")
    first, second = paired.top1
    error = [[second - first - interval[0]], [interval[1] - (second - first)]]
    top.errorbar([second - first], [0], xerr=error, fmt="D", color="black", capsize=4)
    top.axvline(0, color=GREY, linewidth=0.8)
    top.set(yticks=[], ylim=(-1, 1), title=f"top-1 {first:.1f} -> {second:.1f} %, {len(paired.ids)} clips")
    top.set_xlabel(f"change (points) with 95 % interval\nMcNemar's exact p = {p:.2g}")
    low.barh([1, 0], [paired.fixed, paired.broken], color=[GAIN, LOSS], height=0.6)
    low.set_yticks([1, 0], [f"fixed: {paired.fixed}", f"broken: {paired.broken}"])
    low.set(ylim=(-0.6, 1.6), xlabel="clips on which the runs differ")
    if layers:
        alike = drawn.add_subplot(grid[:, 2])
        names = max((list(values) for values in layers.values()), key=len)
        for number, (kind, values) in enumerate(layers.items()):
            rows = [names.index(name) for name in values if name in names]
            kept = [value for name, value in values.items() if name in names]
            alike.plot(kept, rows, "os"[number % 2], markersize=3.5, color=COLORS[number], label=kind)
        step = -(-len(names) // 30)
        alike.set_yticks(list(range(0, len(names), step)), names[::step])
        alike.invert_yaxis()
        alike.set(title="layers", xlabel="cosine similarity")
        alike.legend()
    drawn.suptitle(f"{labels[0]}  ->  {labels[1]}", fontsize=9)
    return drawn
