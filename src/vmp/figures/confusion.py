"""Confusion matrices: their counts, bounded for any number of classes, and a picture of them."""

from collections.abc import Sequence

import numpy as np

from vmp.figures.canvas import figure, shorten, style

MOST_ROWS = 480  # of a matrix
NAMED = 40  # class names that fit on an axis


def count_confusions(labels: Sequence[int], predicted: Sequence[int], *, classes: int) -> np.ndarray:
    """Clips by (actual, predicted) class, int64. Above MOST_ROWS classes, neighbouring classes share a row and a
    column, so that the matrix stays small."""
    step = max(1, -(-classes // MOST_ROWS))
    side = -(-classes // step)
    counts = np.zeros((side, side), dtype=np.int64)
    actual, guessed = np.array([labels, predicted], dtype=np.int64) // step
    np.add.at(counts, (actual, guessed), 1)
    return counts


def confusion_picture(counts: np.ndarray, names: Sequence[str], *, title: str = "") -> np.ndarray:
    """Draw a confusion matrix with axes, class names and a colour scale: (rows, rows) -> (H, W, 3) uint8.

    Args:
        counts: clips by (actual, predicted) class; each row is drawn as percentages of its clips.
        names: class names; where there are more of them than rows, neighbouring classes share a row. The axes name up
            to NAMED classes, and number more.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    rows = len(counts)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    per_row = -(-len(names) // rows)
    with style():
        named = len(names) <= NAMED
        side = max(4.0, 0.2 * rows) if named else 6.0
        short = [shorten(name) for name in names]
        label = 0.075 * max(map(len, short)) if named else 0.3  # inches that the names take
        drawn = figure(side + label + 1.3, side + label + 0.8)
        axis = drawn.subplots()
        edge = rows * per_row - 0.5
        image = axis.imshow(
            shares, cmap="Blues", vmin=0, vmax=100, extent=(-0.5, edge, edge, -0.5), aspect="equal"
        )
        axis.grid(False)
        if named:
            axis.set_xticks(range(len(names)), short, rotation=90)
            axis.set_yticks(range(len(names)), short)
            if rows <= 12:
                for (i, j), share in np.ndenumerate(shares):
                    if counts[i, j]:
                        color = "white" if share > 60 else "black"
                        axis.text(j, i, f"{share:.0f}", ha="center", va="center", fontsize=7, color=color)
        many = "" if per_row == 1 else f" ({per_row} classes per row)"
        number = "" if named else " number"
        axis.set(xlabel=f"predicted class{number}{many}", ylabel=f"actual class{number}{many}", title=title)
        drawn.colorbar(image, ax=axis, shrink=0.8, label="% of the actual class's clips")
        board = FigureCanvasAgg(drawn)
        drawn.set_dpi(100)
        board.draw()
        return np.asarray(board.buffer_rgba())[..., :3].copy()
