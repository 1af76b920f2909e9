"""The look of all figures, and how they are saved: the same content gives the same bytes."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vmp.figures import fonts
from vmp.files import replacing

matplotlib.use("Agg")

GREY = "#666666"
# Okabe and Ito (2008): distinguishable with any common form of colour blindness
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
STYLE = {
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
    "text.parse_math": False,  # a class or a folder may be called "$5"
}


def figure(width: float, height: float) -> Any:
    """An empty figure, in inches, to be used under `style()`. pyplot does not know it, so it is garbage-collected."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def style() -> Any:
    """Context manager that applies the project's style."""
    return matplotlib.rc_context({**STYLE, "font.family": list(fonts.files())})


def save(drawn: Any, stem: Path, *, kinds: Sequence[str] = ("png", "svg"), comment: str = "") -> list[Path]:
    """Write `stem`.png and .svg without date or version, so that the same figure has the same bytes.

    comment: to store in the PNG.
    """
    said = PngInfo()
    if comment:
        said.add_text("comment", comment)
    paths = [stem.parent / f"{stem.name}.{kind}" for kind in kinds]
    for path in paths:
        svg = path.suffix == ".svg"
        with style(), replacing(path) as temporary, fonts.saying_what_lacks(path):
            drawn.savefig(
                temporary, dpi=110, metadata={"Date": None, "Creator": None} if svg else {"Software": None}
            )
            if svg:
                temporary.write_text(_renumbered(temporary.read_text(encoding="utf-8")), encoding="utf-8")
            else:  # matplotlib writes a transparency that no figure has
                with Image.open(temporary) as picture:
                    picture.convert("RGB").save(temporary, optimize=True, pnginfo=said)
    return paths


def _renumbered(svg: str) -> str:
    """Name clip paths by their order; matplotlib derives their names from memory addresses."""
    names = dict.fromkeys(re.findall(r'<clipPath id="(\w+)">', svg))
    order = {name: f"clip{number}" for number, name in enumerate(names)}
    return re.sub(r'(<clipPath id="|url\(#)(\w+)', lambda m: m[1] + order.get(m[2], m[2]), svg)


def shorten(name: str, most: int = 28) -> str:
    """A name of a class, cut so that it leaves room for the drawing."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def bare(axis: Any) -> None:
    """Remove ticks, frame and grid, for a picture."""
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    axis.spines[:].set_visible(False)
