"""Curves of runs: cross-entropy and accuracies; slope and shift against epochs and by run (Fig. 4)."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

from vmp.figures.canvas import COLORS, GREY, figure
from vmp.figures.layers import SHIFTS, SLOPES, of_papers_layer
from vmp.files import replacing
from vmp.pathways import display_name, scalar_name, split_scalar_name
from vmp.runs.folder import matters_but_for
from vmp.runs.records import has_top5
from vmp.runs.run import Run

POINTS: dict[str, Any] = {"marker": "x", "markersize": 4}  # for lines that are too short to be seen
TRAINING: dict[str, Any] = {"linestyle": "-", "linewidth": 1, "alpha": 0.6, "label": "training"}
VAL: dict[str, Any] = {"linestyle": "-", "linewidth": 1.5, "marker": ".", "label": "val"}
TOP5: dict[str, Any] = {"linestyle": "--", "linewidth": 1, "alpha": 0.7, "label": "val, top-5"}
TOO_FEW = 3  # points below which a line cannot be seen
THIN = {"slope": 0.1, "shift": 0.01}  # smallest range of an axis, so that rounding is not drawn as a trend


def draw_curves(folder: Path, out: Path) -> None:
    """Write a picture of a run's cross-entropy, accuracy, slope and shift against epochs.

    Cross-entropy leaves out λV, so that pictures of runs with different λ, or without prompts, can be compared.
    """
    from matplotlib.lines import Line2D

    drawn = figure(15, 3.4)
    axes = drawn.subplots(1, 4)
    drawn.subplots_adjust(left=0.035, right=0.99, bottom=0.14, top=0.91, wspace=0.24)  # quicker than a layout
    run, color = Run(folder), COLORS[0]
    rows = run.curve
    top5 = (TOP5,) if has_top5(len(run.classes) if run.lists_classes else None) else ()
    titles = ("cross-entropy", f"top-1{' and top-5' if top5 else ''} (%)", "slope a(m)", "shift b(n)")
    of_loss = {"train/cross_entropy": TRAINING, "val/cross_entropy": VAL}
    of_accuracy = dict(zip(("train/top1", "val/top1", "val/top5"), (TRAINING, VAL, *top5), strict=False))
    for axis, looks in ((axes[0], of_loss), (axes[1], of_accuracy)):
        for key, look in looks.items():
            _plot(axis, line_of(rows, key), color=color, **look)
        alone = axis.lines and all(len(line.get_xdata()) < TOO_FEW for line in axis.lines)
        handles = [
            Line2D([], [], color=GREY, **(POINTS | look if alone else look)) for look in looks.values()
        ]
        axis.legend(handles=handles, fontsize=8, frameon=False)
    for axis, name in ((axes[2], "slope"), (axes[3], "shift")):
        for key, style in zip(_keys(rows, name), ("-", "--", ":"), strict=False):
            label = " ".join([folder.parent.name, *key.split("/")[1:-1]])
            _plot(axis, line_of(rows, key), linestyle=style, label=label, color=color)
        plain_numbers(axis, least=THIN[name])
        if len(axis.lines) > 1:
            axis.legend(fontsize=8, frameon=False)
    if not any(axis.lines for axis in axes[2:]):
        for axis in axes[2:]:
            axis.text(0.5, 0.5, "no prompts", ha="center", va="center", color=GREY, transform=axis.transAxes)
    last = max((x for axis in axes for line in axis.lines for x in line.get_xdata()), default=0) or 1
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("epoch", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlim(-0.02 * last, 1.02 * last)
        whole_epochs(axis)
    with replacing(out) as temporary:
        drawn.savefig(temporary, dpi=110)


def whole_epochs(axis: Any) -> None:
    """Put the ticks of the epoch axis at whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True, min_n_ticks=1))


def plain_numbers(axis: Any, *, least: float) -> None:
    """Label the y axis without an offset (11.02, not 2e-2 + 1.1e1), over a range of at least `least`."""
    from matplotlib.ticker import ScalarFormatter

    axis.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
    low, high = axis.get_ylim()
    if axis.lines and high - low < least:
        axis.set_ylim((low + high - least) / 2, (low + high + least) / 2)


def _plot(axis: Any, line: tuple[list[float], list[float]], **look: Any) -> None:
    """Draw a line, or its points where there are too few to see a line."""
    if len(line[0]) < TOO_FEW:
        look = POINTS | look
    axis.plot(*line, **look)


# --- Fig. 4 --------------------------------------------------------------------------------------------------------


class LearnedPair(NamedTuple):
    """The slope and shift that a finished run learned on one pathway."""

    dataset: str
    backbone: str  # with the pathway's initial, where there are several: slowfast-f
    slope: float
    shift: float
    top1: float  # percent


def by_lambda(runs: Sequence[Run]) -> dict[float, dict[str, tuple[list[float], list[float]]]]:
    """λ -> {"slope", "shift" or, with pathways, "fast/slope" ...: (epochs, values)}; the first run for each λ."""
    found: dict[float, dict[str, tuple[list[float], list[float]]]] = {}
    for run in sorted(runs, key=lambda run: (run.lambda_, str(run.folder))):
        if keys := [key for name in ("slope", "shift") for key in _keys(run.curve, name)]:
            lines = {key.removeprefix("vmp/"): line_of(run.curve, key) for key in keys}
            found.setdefault(run.lambda_, lines)
    return found


def learned_pairs(runs: Sequence[Run]) -> list[LearnedPair]:
    found = []
    for run in of_papers_layer([run for run in runs if run.finished]):
        scalars, config = run.result.get("scalars", {}), run.config
        for key in sorted(k for k in scalars if k.endswith("slope")):
            pathway, _ = split_scalar_name(key)
            name = "-".join([config["backbone"]["name"], *display_name(pathway)[:1]])
            learned = scalars[key], scalars[scalar_name(pathway, "shift")]
            found.append(LearnedPair(config["name"], name, *learned, run.result["top1"]))
    return found


def best_pairs(found: Sequence[LearnedPair], by: str) -> dict[str, LearnedPair]:
    """The pair with the best top-1 for each dataset or backbone (`by`), by name. The other of the two is held fixed, at
    the value that covers the most: one backbone for all datasets, or one dataset for all backbones."""
    other = "backbone" if by == "dataset" else "dataset"
    covered: dict[str, set[str]] = {}
    for pair in found:
        covered.setdefault(getattr(pair, other), set()).add(getattr(pair, by))
    if not covered:
        return {}
    fixed = max(sorted(covered), key=lambda name: len(covered[name]))
    best: dict[str, LearnedPair] = {}
    for pair in sorted(found, key=lambda pair: pair.top1):
        if getattr(pair, other) == fixed:
            best[getattr(pair, by)] = pair
    return dict(sorted(best.items()))


def draw_slopes_and_shifts(runs: Sequence[Run]) -> Any:
    """Fig. 4: a and b against epochs, one line per λ, from the runs that differ in λ only (the largest such group);
    learned pairs by dataset and by backbone, from all runs."""
    drawn = figure(10, 5.6)
    axes = drawn.subplots(2, 2).ravel()
    group = max(same_but_lambda(runs), key=lambda group: len(by_lambda(group)), default=[])
    lines = by_lambda(group)
    for axis, name, letter in ((axes[0], "slope", "a"), (axes[1], "shift", "b")):
        for (weight, keys), color in zip(lines.items(), cycle(COLORS), strict=False):
            for key, line in keys.items():
                if key.endswith(name):
                    pathway = key.rpartition("/")[0]
                    look = {"linestyle": "--" if pathway == "slow" else "-", "linewidth": 1.3, "color": color}
                    _plot(axis, line, label=f"λ = {weight:g} {pathway}".rstrip(), **look)
        for bound in SLOPES if name == "slope" else SHIFTS:
            low, high = axis.get_ylim()
            if low - (high - low) / 2 <= bound <= high + (high - low) / 2:
                axis.axhline(bound, color=GREY, linewidth=0.8, linestyle=":", label="_bound")
        axis.set_xlabel("epoch")
        whole_epochs(axis)
        plain_numbers(axis, least=THIN[name])
        axis.set_ylabel(f"{name} {letter}")
        axis.set_title(f"({letter}) {name}, {group[0].title}" if group else f"({letter}) {name}")
        if lines:
            axis.legend(ncols=2 if len(lines) > 4 else 1)
    for axis, by, letter in ((axes[2], "dataset", "c"), (axes[3], "backbone", "d")):
        best = best_pairs(learned_pairs(runs), by)
        held = next(iter(best.values()), None)
        other = f", {held.backbone if by == 'dataset' else held.dataset}" if held else ""
        axis.set_title(f"({letter}) best run by {by}{other}")
        _draw_pairs(axis, best)
    return drawn


def same_but_lambda(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs with learned prompts, in groups that differ in λ only."""
    groups: dict[str, list[Run]] = {}
    for run in of_papers_layer(runs):
        groups.setdefault(matters_but_for(run.config, "vmp.lambda"), []).append(run)
    return list(groups.values())


def _draw_pairs(axis: Any, best: Mapping[str, LearnedPair]) -> None:
    """Draw a as solid stems on the left scale and b as dashed stems on the right."""
    if not best:
        axis.text(0.5, 0.5, "no finished run with prompts", ha="center", color=GREY, transform=axis.transAxes)
        return
    crowded = len(best) > 4  # then numbers are turned upright, beyond the ends of the stems
    apart = 0.2 if crowded else 0.12
    right = axis.twinx()
    right.spines["right"].set_visible(True)
    for i, pair in enumerate(best.values()):
        slope, shift = f"{pair.slope:.2f}", f"{pair.shift:+z.2f}"
        _stem(axis, i - apart, pair.slope, slope, "-o", COLORS[0], side=0 if crowded else -1)
        _stem(right, i + apart, pair.shift, shift, "--s", COLORS[1], side=0 if crowded else 1)
    slanted = sum(map(len, best)) > 40
    look = {"rotation": 25, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    axis.set_xticks(range(len(best)), list(best), **look)
    axis.set_xlim(-0.7, len(best) - 0.1)
    axis.set_ylim(-70, 70)  # so that both zeros are at one height
    axis.set_yticks([0, 10, 20, 30, 40, 50])
    right.set_ylim(-0.84, 0.84)
    right.grid(False)
    axis.grid(False, axis="x")
    axis.axhline(0, color=GREY, linewidth=0.8)
    axis.set_ylabel("slope a (solid)", color=COLORS[0])
    right.set_ylabel("shift b (dashed)", color=COLORS[1])


def _stem(axis: Any, x: float, value: float, text: str, look: str, color: str, *, side: int) -> None:
    """A stem from 0 to `value` with its number: left (-1) or right (1) of its end, or upright beyond it (0)."""
    axis.plot([x, x], [0, value], look, color=color, linewidth=2, markevery=[1])
    up = value >= 0
    if side:
        place: dict[str, Any] = {"ha": "right" if side < 0 else "left", "va": "center"}
    else:
        place = {"ha": "center", "va": "bottom" if up else "top", "rotation": 90}
    offset = (6 * side, 0) if side else (0, 5 if up else -5)
    axis.annotate(text, (x, value), offset, textcoords="offset points", **place)


def line_of(rows: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    # a training row and a val row of the same epoch are the same moment
    found = {row["epoch"]: row[key] for row in rows if key in row}
    return list(found), list(found.values())


def _keys(rows: list[dict[str, Any]], name: str) -> list[str]:
    return sorted({key for row in rows for key in row if key.startswith("vmp/") and key.endswith(f"/{name}")})
