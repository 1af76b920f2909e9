"""Where several models look in the same clip: frames, their differences, and a row of attention for each model.

Notes:
- prompts inside a network have attention on feature maps, which are drawn as coarse as they are, over the frame;
- every row has its own scale: most learned attention varies by a few hundredths, which a scale from 0 to 1 would hide.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vmp.figures.panels import color_attention, color_differences, draw_grid, frames_of_pathway, wrap
from vmp.pathways import display_name

if TYPE_CHECKING:
    from torch import Tensor

    from vmp.runs.open import Opened

SHARE = 0.005  # of a row's values that lie beyond either end of its scale


class Look(NamedTuple):
    """Attention (N, H, W) in [0, 1] on the frames with these indices in the clip, (N,)."""

    frames: np.ndarray
    attention: np.ndarray

    def at(self, moments: np.ndarray) -> np.ndarray:
        """Attention on the nearest frames."""
        return self.attention[np.abs(self.frames - moments[:, None]).argmin(axis=1)]


def look_at(opened: "Opened", clip: "Tensor") -> dict[str, Look]:
    """Where a model's prompt layers look: pathway or stage ("" for the whole clip) -> attention.

    clip: (3, frames, H, W) uint8 as the model takes it; four channels for a layer that takes them.
    """
    import torch

    model = opened.model
    found: dict[str, Look] = {}
    caught: list[Tensor] = []
    with torch.no_grad():
        for pathway, layer in opened.prompts.items():
            attention = layer.attention(frames_of_pathway(model, clip, pathway)[None])[0]
            frames = np.array(opened.frames_of(pathway)[1:])
            found[display_name(pathway)] = Look(frames, attention.float().numpy())
        first, count = int(bool(opened.prompts)), opened.spec.frames  # of the frames that reach the backbone
        inside: Any = zip(model.stages, model.inside.values(), strict=True)
        for stage, layer in inside:
            handle = layer.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
            model(clip[None])
            handle.remove()
            attention = layer.attention(caught.pop())[0]  # (T - 1, H, W); tokens: (T - 1, N, 1)
            if attention.shape[-1] == 1:
                attention = attention.unflatten(1, (round(attention.shape[1] ** 0.5), -1))[..., 0]
            maps = len(attention) + 1
            frames = first + np.arange(1, maps) * count // maps
            found[stage] = Look(frames, attention.float().numpy())
    return found


def draw_looks(clip: "Tensor", rows: Mapping[str, Look], *, title: str, columns: int = 5) -> Any:
    """Draw frames of a clip (3, T + 1, H, W) uint8, their differences D, and the attention of each row, as a matplotlib
    Figure; under `canvas.style()`."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    from vmp.layer import MotionPrompt

    moments = np.unique(np.linspace(1, clip.shape[1] - 1, columns).round().astype(int))
    frames = clip[:, moments].permute(1, 2, 3, 0).numpy()
    differences = MotionPrompt().differences(clip[None])[0].numpy()[moments - 1]
    limit = float(np.abs(differences).max()) or 1.0
    pictures = [list(frames), list(color_differences(differences, limit=limit))]
    scales = [None, (-limit, limit, "PuOr_r")]
    for look in rows.values():
        shown = look.at(moments)
        low, high = np.quantile(shown, (SHARE, 1 - SHARE))
        low = min(low, high - 1e-3)  # constant attention has a scale, too, of which it is the most
        pictures.append(list(color_attention((shown - low) / (high - low))))
        scales.append((low, high, "OrRd"))
    names = ["frame", "difference D to\nthe frame before", *(wrap(name) for name in rows)]
    drawn = draw_grid(pictures, rows=names, columns=[f"frame {n}" for n in moments], title=title, width=0.9)
    grid = np.array(drawn.axes).reshape(len(pictures), -1)
    for axes, scale in zip(grid, scales, strict=True):
        if scale is None:
            continue
        low, high, colors = scale
        shades = ScalarMappable(Normalize(low, high), colormaps[colors])
        bar = drawn.colorbar(shades, ax=list(axes), ticks=[low, high], format="%.3f", aspect=8, pad=0.01)
        bar.outline.set_visible(False)
    return drawn
