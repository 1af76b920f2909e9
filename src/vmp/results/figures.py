"""Pictures of runs, from their folders; matplotlib without a screen."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vmp.engine.loggers import read_metrics

GREY = "#666666"


def draw_curves(runs: Mapping[str, Path], out: Path) -> None:
    """Loss, top-1, slope and shift against epochs, a line a run; label -> run's folder."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(15, 3.4), layout="constrained")
    titles = ("training loss", "top-1 on val (%)", "slope a(m)", "shift b(n)")
    any_slope = False
    for number, (label, folder) in enumerate(runs.items()):
        color = f"C{number}"
        rows = read_metrics(folder / "metrics.jsonl")
        training = [row for row in rows if row["kind"] == "train"]
        testing = [row for row in rows if row["kind"] == "val"]
        axes[0].plot(*_line(training, "train/loss"), label=label, color=color, linewidth=1)
        axes[1].plot(*_line(testing, "val/top1"), label=label, color=color, marker=".")
        for axis, name in ((axes[2], "slope"), (axes[3], "shift")):
            for key, style in zip(_keys(training, name), ("-", "--", ":"), strict=False):
                pathway = key.split("/")[1:-1]
                any_slope = True
                axis.plot(*_line(training, key), style, label=" ".join([label, *pathway]), color=color)
    if not any_slope:
        for axis in axes[2:]:
            axis.text(0.5, 0.5, "no prompts", ha="center", va="center", color=GREY, transform=axis.transAxes)
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("epoch", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if len(runs) > 1 and axis.lines:
            axis.legend(fontsize=8, frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def _line(rows: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    pairs = [(row["epoch"], row[key]) for row in rows if key in row]
    return [x for x, _ in pairs], [y for _, y in pairs]


def _keys(rows: list[dict[str, Any]], name: str) -> list[str]:
    return sorted({key for row in rows for key in row if key.startswith("vmp/") and key.endswith(f"/{name}")})
