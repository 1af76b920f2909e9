"""How pictures look and are written: light, colour-blind safe, and the same bytes for the same content."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

from vmp.files import write_text

matplotlib.use("Agg")

GREY = "#666666"
# Okabe and Ito (2008): told apart with any common colour blindness
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so letters are the same everywhere
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "video-motion-prompts",
    "image.interpolation": "nearest",
}


def figure(width: float, height: float) -> Any:
    """An empty matplotlib Figure, in inches; use it under `style()`. It belongs to nobody and is
    collected like any object."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def style() -> Any:
    """A context in which the project's look holds."""
    return matplotlib.rc_context(STYLE)


def save(drawn: Any, stem: Path, *, kinds: Sequence[str] = ("png", "svg"), dpi: int = 110) -> list[Path]:
    """Write `stem`.png and .svg, without date or version, so that the same figure has the same bytes."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for kind in kinds:
        path = stem.parent / f"{stem.name}.{kind}"
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        with style():
            drawn.savefig(path, dpi=dpi, metadata=metadata)
        if kind == "svg":
            write_text(path, _renumbered(path.read_text(encoding="utf-8")))
        written.append(path)
    return written


def _renumbered(svg: str) -> str:
    """Clip paths named by their order: matplotlib's names follow addresses in memory."""
    names = dict.fromkeys(re.findall(r'<clipPath id="(\w+)">', svg))
    order = {name: f"clip{number}" for number, name in enumerate(names)}
    return re.sub(r'(<clipPath id="|url\(#)(\w+)', lambda m: m[1] + order.get(m[2], m[2]), svg)


def bare(axis: Any) -> None:
    """No ticks, frame or grid: for pictures."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    axis.spines[:].set_visible(False)
