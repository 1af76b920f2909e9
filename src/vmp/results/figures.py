"""Pictures of runs, from their folders, and of what a prompt layer makes of a clip; matplotlib without a screen."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vmp.engine.loggers import read_metrics

if TYPE_CHECKING:
    from torch import Tensor

    from vmp.layer import MotionPrompt
    from vmp.model import PromptedClassifier

GREY = "#666666"
ROWS = ("frame", "difference", "attention", "prompt")  # of a panel, from the top


def draw_curves(runs: Mapping[str, Path], out: Path) -> None:
    """Loss, top-1 and top-5, slope and shift against epochs, a line a run and pathway; label -> run's folder."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(15, 3.4), layout="constrained")
    titles = ("training loss", "top-1 and top-5 (dashed) on val (%)", "slope a(m)", "shift b(n)")
    any_slope = False
    for number, (label, folder) in enumerate(runs.items()):
        color = f"C{number}"
        rows = read_metrics(folder / "metrics.jsonl")
        training = [row for row in rows if row["kind"] == "train"]
        testing = [row for row in rows if row["kind"] == "val"]
        axes[0].plot(*_line(training, "train/loss"), label=label, color=color, linewidth=1)
        axes[1].plot(*_line(testing, "val/top1"), label=label, color=color, marker=".")
        axes[1].plot(*_line(testing, "val/top5"), "--", color=color, linewidth=1, alpha=0.7)
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
        if axis.lines and len({line.get_label() for line in axis.lines if line.get_label()[0] != "_"}) > 1:
            axis.legend(fontsize=8, frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    plt.close(figure)


# --- what a prompt layer makes of a clip ---------------------------------------------------------------------------


def panel_rows(clip: "Tensor", layer: "MotionPrompt", *, columns: int | None = None) -> list[np.ndarray]:
    """Frames, differences, attention and prompts of one clip as pictures, each (columns, H, W, 3) uint8, in the order
    of ROWS. Differences are orange where a pixel grows brighter and blue where it grows darker, attention is white at 0
    and dark red at 1.

    Args:
        clip: (3, T + 1, H, W) uint8.
        columns: how many of the T prompts, evenly spaced; None: all.
    """
    import torch
    from matplotlib import colormaps

    device = next((p.device for p in layer.parameters()), clip.device)
    t = clip.shape[1] - 1
    chosen = np.unique(np.linspace(0, t - 1, min(columns or t, t)).round().astype(int))
    with torch.no_grad():
        whole = clip.unsqueeze(0).to(device)  # (1, 3, T + 1, H, W)
        differences = layer.differences(whole)[0].cpu().numpy()[chosen]  # (columns, H, W)
        attention = layer.attention(whole)[0].float().cpu().numpy()[chosen]
        prompts = layer(whole, variation=False).prompts[0].float().cpu().numpy()[:, chosen]
    frames = clip.permute(1, 2, 3, 0).cpu().numpy()[1:][chosen]
    mean, std = (np.array(v, np.float32).reshape(3, 1, 1, 1) for v in (layer.mean, layer.std))
    limit = float(np.quantile(np.abs(differences), 0.995)) or 1.0
    return [
        frames,
        _bytes(colormaps["PuOr_r"](np.clip(differences / limit, -1, 1) / 2 + 0.5)[..., :3]),
        _bytes(colormaps["OrRd"](attention)[..., :3]),
        _bytes((prompts * std + mean).transpose(1, 2, 3, 0)),
    ]


def panel(clip: "Tensor", layer: "MotionPrompt", *, columns: int = 8, width: int = 160) -> np.ndarray:
    """`panel_rows` as one picture, a row under the other: (H', W', 3) uint8.

    Args:
        clip: (3, T + 1, H, W) uint8.
        width: of one frame, in pixels, at most.
    """
    import cv2

    rows = panel_rows(clip, layer, columns=columns)
    h, w = rows[0].shape[1:3]
    if w > width:
        size = width, max(1, round(h * width / w))
        rows = [np.stack([cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in row]) for row in rows]
    gap = 2
    framed = [np.pad(row, ((0, 0), (gap, gap), (gap, gap), (0, 0)), constant_values=255) for row in rows]
    return np.concatenate([np.concatenate(list(row), axis=1) for row in framed])


def attention_panels(model: "PromptedClassifier", clips: Mapping[str, "Tensor"]) -> dict[str, np.ndarray]:
    """A panel a clip and prompted pathway: `name, pathway: slope ..., shift ...` -> (H', W', 3) uint8.

    clips: name -> (3, frames, H, W) uint8, as the model takes them.
    """
    from vmp.layer import MotionPrompt
    from vmp.pathways import take

    pictures = {}
    for name, clip in clips.items():
        for pathway, layer in model.prompts.items():
            assert isinstance(layer, MotionPrompt)
            own = clip
            if model.cut and pathway in model.cut.take:
                own = take(clip.unsqueeze(0), model.cut.take[pathway])[0]
            learned = [
                f"{key} {float(v):.3f}" for key, v in layer.scalars().items() if key in ("slope", "shift")
            ]
            of = name if pathway == "video" else f"{name}, {pathway}"
            pictures[": ".join([of, *([", ".join(learned)] if learned else [])])] = panel(own, layer)
    return pictures


def confusion_picture(counts: np.ndarray, *, side: int = 480) -> np.ndarray:
    """Shares of each actual class (down) that were taken for each class (across): (classes, classes) -> (H, W, 3)
    uint8, white at 0 and dark blue at 1; about `side` pixels."""
    from matplotlib import colormaps

    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    picture = _bytes(colormaps["Blues"](shares)[..., :3])
    return np.kron(picture, np.ones((max(1, side // len(counts)),) * 2 + (1,), np.uint8))


def _bytes(picture: np.ndarray) -> np.ndarray:
    """[0, 1] -> uint8."""
    return (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)


def _line(rows: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    pairs = [(row["epoch"], row[key]) for row in rows if key in row]
    return [x for x, _ in pairs], [y for _, y in pairs]


def _keys(rows: list[dict[str, Any]], name: str) -> list[str]:
    return sorted({key for row in rows for key in row if key.startswith("vmp/") and key.endswith(f"/{name}")})
