"""What a prompt layer makes of a clip, as pictures (Fig. 5), and grids of pictures."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vmp.data.opencv import opencv
from vmp.figures.canvas import bare, figure, style
from vmp.figures.fonts import font_for
from vmp.figures.layers import describe, slope_and_shift
from vmp.pathways import display_name, select_frames

if TYPE_CHECKING:
    from torch import Tensor

    from vmp.layer import MotionPrompt
    from vmp.model import PromptedClassifier

ROWS = ("frame", "difference", "attention", "prompt")  # of a panel, from the top
# pixels of a line of words, of a bar of colours, of the names of a panel's rows
BAND, BAR, NAMES = (18, 8, 100)
CLEAR = 0.995  # the quantile of differences that has the full colour


def panel_rows(
    clip: "Tensor",
    layer: "MotionPrompt",
    *,
    columns: int | slice | None = None,
    limit: float | None = None,
) -> list[np.ndarray]:
    """Pictures of one clip in the order of ROWS, each (columns, H, W, 3) uint8.

    Differences are orange where a pixel grows brighter and blue where it grows darker; attention is white at 0 and dark
    red at 1.

    Args:
        clip: (3, T + 1, H, W) uint8, or four channels for a layer that takes them.
        columns: how many of the T prompts, evenly spaced, or which; None: all.
        limit: the difference with the full colour, as for `color_differences`.
    """
    import torch

    device = next((p.device for p in layer.parameters()), clip.device)
    t = clip.shape[1] - 1
    if isinstance(columns, slice):
        chosen = np.arange(t)[columns]
    else:
        chosen = np.unique(np.linspace(0, t - 1, min(columns or t, t)).round().astype(int))
    with torch.no_grad():
        whole = clip.unsqueeze(0).to(device)  # (1, 3, T + 1, H, W)
        differences = layer.differences(whole)[0].cpu().numpy()[chosen]  # (columns, H, W)
        attention = layer.attention(whole)[0].float().cpu().numpy()[chosen]
        prompts = layer(whole, variation=False).prompts[0].float().cpu().numpy()[:, chosen]
    frames = clip[:3].permute(1, 2, 3, 0).cpu().numpy()[1:][chosen]
    mean, std = (np.array(v, np.float32).reshape(3, 1, 1, 1) for v in (layer.mean, layer.std))
    return [
        frames,
        color_differences(differences, limit=limit),
        color_attention(attention),
        to_bytes((prompts * std + mean).transpose(1, 2, 3, 0)),
    ]


def draw_rows(rows: Sequence[np.ndarray], layer: "MotionPrompt", clip: "Tensor", *, title: str) -> Any:
    """Draw the pictures that `panel_rows` makes of a clip, one named row for each."""
    learned = describe(layer, clip).replace(", ", "\n")
    prompt = f"motion prompt\n({nothing_is(layer)} where\nf(D) = 0)"
    difference = "difference D\n(blue: darker,\norange: brighter)"
    names = ("frame", difference, f"attention f(D)\n(white: 0,\ndark red: 1)\n{learned}", prompt)
    with style():
        return draw_grid([list(row) for row in rows], rows=names, title=title, width=2.0)


def nothing_is(layer: "MotionPrompt") -> str:
    """The colour of a prompt where the attention is 0: "black" if the attention multiplies pixels, "grey" (the mean of
    the normalisation) if it multiplies normalised frames."""
    return "black" if layer.modulate == "pixel" else "grey"


def color_differences(differences: np.ndarray, *, limit: float | None = None) -> np.ndarray:
    """Differences (..., H, W) in [-1, 1] -> (..., H, W, 3) uint8: orange brighter, blue darker, white unchanged.

    limit: the difference with the full colour; None: the quantile CLEAR of all absolute differences.
    """
    from matplotlib import colormaps

    limit = limit or float(np.quantile(np.abs(differences), CLEAR)) or 1.0
    return to_bytes(colormaps["PuOr_r"](np.clip(differences / limit, -1, 1) / 2 + 0.5)[..., :3])


def color_attention(attention: np.ndarray) -> np.ndarray:
    """Attention (..., H, W) in [0, 1] -> (..., H, W, 3) uint8: white at 0, dark red at 1."""
    from matplotlib import colormaps

    return to_bytes(colormaps["OrRd"](attention)[..., :3])


def panel(clip: "Tensor", layer: "MotionPrompt", *, columns: int = 8, width: int = 160) -> np.ndarray:
    """`panel_rows` as one picture, (H', W', 3) uint8: named rows, numbered columns, the scales of the colours below.
    A frame is at most `width` pixels wide."""

    cv2 = opencv()
    rows = panel_rows(clip, layer, columns=columns)
    h, w = rows[0].shape[1:3]
    if w > width:
        size = width, max(1, round(h * width / w))
        rows = [np.stack([cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in row]) for row in rows]
    gap = 2
    framed = [np.pad(row, ((0, 0), (gap, gap), (gap, gap), (0, 0)), constant_values=255) for row in rows]
    high, wide = framed[0].shape[1:3]
    lines = [
        np.concatenate([words(name, NAMES, high), *row], axis=1)
        for name, row in zip(ROWS, framed, strict=True)
    ]
    t = clip.shape[1] - 1
    # of the prompts, as panel_rows takes them
    numbers = np.linspace(0, t - 1, min(columns, t)).round().astype(int) + 1
    head = [words("prompt number", NAMES), *(words(["", str(n)], wide) for n in numbers)]
    ramp = np.linspace(0, 1, wide * len(numbers))[None].repeat(BAR, axis=0)
    scales = [
        np.concatenate(
            [words(name, NAMES, BAR + BAND), np.concatenate([bar, words(ends, ramp.shape[1])])], axis=1
        )
        for name, bar, ends in (
            ("difference", color_differences(2 * ramp - 1), ("darker", "0", "brighter")),
            ("attention", color_attention(ramp), ("0", "0.5", "1")),
        )
    ]
    return np.concatenate([np.concatenate(head, axis=1), *lines, *scales])


def attention_panels(model: "PromptedClassifier", clips: Mapping[str, "Tensor"]) -> dict[str, np.ndarray]:
    """One panel per clip and prompted pathway: `name, pathway: slope ..., shift ...` -> (H', W', 3) uint8.

    clips: name -> (3, frames, H, W) uint8, as the model takes them.
    """

    layers: dict[str, MotionPrompt] = dict(model.prompts.items())  # type: ignore[arg-type]
    pictures = {}
    for name, clip in clips.items():
        for pathway, layer in layers.items():
            frames = frames_of_pathway(model, clip, pathway)
            learned = ", ".join(f"{key} {value:.3f}" for key, value in slope_and_shift(layer, frames).items())
            title = ", ".join(part for part in (name, display_name(pathway)) if part)
            caption = ": ".join(part for part in (title, learned) if part)
            pictures[caption] = panel(frames, layer)
    return pictures


def frames_of_pathway(model: "PromptedClassifier", clip: "Tensor", pathway: str) -> "Tensor":
    """The frames of a clip, (3, frames, H, W), that the pathway's prompt layer takes."""

    if not model.pathway_frames or pathway not in model.pathway_frames.indices:
        return clip
    return select_frames(clip.unsqueeze(0), model.pathway_frames.indices[pathway])[0]


def to_bytes(picture: np.ndarray) -> np.ndarray:
    """[0, 1] -> uint8."""
    return (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)


def draw_grid(
    pictures: Sequence[Sequence[np.ndarray | None]],
    *,
    rows: Sequence[str],
    columns: Sequence[str] = (),
    title: str = "",
    width: float = 1.5,
) -> Any:
    """Draw pictures (H, W, 3) uint8, `width` inches wide, in a grid with named rows and columns. The pictures of a row
    have the same shape."""
    firsts = [next(p for p in row if p is not None) for row in pictures]
    heights = [width * p.shape[0] / p.shape[1] for p in firsts]  # inches
    label = 0.3 + 0.062 * max((len(line) for text in rows for line in text.split("\n")), default=0)
    count = max(len(row) for row in pictures)
    over = (
        0.17 * max((name.count("\n") + 1 for name in columns), default=0)
        + 0.3 * bool(title)
        + 0.14 * title.count("\n")
    )
    drawn = figure(width * count + label, sum(heights) + 0.06 * len(heights) + 0.1 + over)
    fill_grid(drawn, pictures, rows=rows, columns=columns)
    if title:
        drawn.suptitle(title, fontsize=9)
    return drawn


def fill_grid(
    drawn: Any,
    pictures: Sequence[Sequence[np.ndarray | None]],
    *,
    rows: Sequence[str],
    columns: Sequence[str] = (),
) -> None:
    """Draw a grid as `draw_grid` does into a figure, or a part of one."""
    firsts = [next(p for p in row if p is not None) for row in pictures]
    heights, count = [p.shape[0] / p.shape[1] for p in firsts], max(len(row) for row in pictures)
    axes = drawn.subplots(len(pictures), count, squeeze=False, height_ratios=heights)
    for i, row in enumerate(pictures):
        for j in range(count):
            axis = axes[i][j]
            bare(axis)
            if j < len(row) and (picture := row[j]) is not None:
                axis.imshow(picture)
        axes[i][0].set_ylabel(rows[i], rotation=0, ha="right", va="center")
    for axis, name in zip(axes[0], columns, strict=False):
        axis.set_title(name)


def wrap(text: str) -> str:
    """The text in lines of at most 20 characters, to stand beside a picture; `λ = 0` stays in one line."""
    return "\n".join(textwrap.wrap(text.replace(" = ", "\u00a0=\u00a0"), 20))


def words(text: str | Sequence[str], width: int, height: int = BAND) -> np.ndarray:
    """Black on white, (height, width, 3) uint8: a line at the left, or up to three at left, middle and right. What does
    not fit is cut off at the right."""
    from PIL import Image, ImageDraw

    parts = [text] if isinstance(text, str) else list(text)
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    for place, part in enumerate(parts):
        x, anchor = ((3, "lm"), (width // 2, "mm"), (width - 3, "rm"))[place]
        draw.text((x, height // 2), part, fill="black", font=font_for(part, 12), anchor=anchor)
    return np.asarray(canvas)
