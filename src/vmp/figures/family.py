"""Power normalisation functions: their curves and surfaces (Fig. 3), and what they make of a clip (Fig. 17, 18)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from vmp.figures.canvas import COLORS, GREY, bare, figure
from vmp.figures.clips import to_clip
from vmp.figures.layers import SHIFTS, SLOPES, layer_with
from vmp.figures.panels import color_attention, color_differences, draw_grid, panel_rows, wrap

if TYPE_CHECKING:
    from vmp.layer import MotionPrompt

FIXED = {"gamma": "Gamma", "maxexp": "MaxExp", "sigme": "SigmE", "asinhe": "AsinhE"}
LARGEST = 48  # points along the longer side of a surface


def family_with(ours: "MotionPrompt") -> "dict[str, MotionPrompt]":
    """Name -> layer: the four fixed functions, with the exponents of conf/vmp, and ours."""
    from vmp.layer import MotionPrompt
    from vmp.power_norm import FAMILY

    fixed = {
        name: MotionPrompt(modulate=ours.modulate, power_norm=FAMILY[key](entry="magnitude"))
        for key, name in FIXED.items()
    }
    return {**fixed, "ours": ours}


def draw_family(frames: np.ndarray, *, slope: float, shift: float) -> Any:
    """Fig. 3: (a) the family against D, (b) a(m), (c) b(n), (d) a clip's differences before and after ours.

    frames: (T, H, W, 3) uint8; (d) draws the pair with the most motion.
    """
    import torch

    from vmp.power_norm import LearnedPowerNorm

    ours = layer_with(slope, shift)
    d = torch.linspace(-1, 1, 401)
    x = d.numpy()
    drawn = figure(9, 5.6)
    grid = drawn.add_gridspec(2, 4)
    axes = [drawn.add_subplot(grid[i // 2, i % 2 * 2 : i % 2 * 2 + 2]) for i in range(3)]
    before, after = (drawn.add_subplot(grid[1, i], projection="3d") for i in (2, 3))
    curves = {name: layer.power_norm(d).detach().numpy() for name, layer in family_with(ours).items()}
    dashes = ("-", "--", "-.", ":")
    for name, dash, color in zip(FIXED.values(), dashes, [COLORS[i] for i in (0, 2, 3, 4)], strict=True):
        axes[0].plot(x, curves[name], dash, color=color, label=f"{name} of |D|")
    for distance in (0.15, 0.3):
        low, high = max(shift - distance, -0.599), min(shift + distance, 0.599)
        left, right = (layer_with(slope, b).power_norm(d).detach().numpy() for b in (low, high))
        axes[0].fill_between(x, right, left, color=COLORS[1], alpha=0.12, linewidth=0)
    axes[0].plot(x, curves["ours"], color=COLORS[1], linewidth=2, label=f"ours, a = {slope:g}, b = {shift:g}")
    axes[0].set(title="(a) power normalisation", xlabel="difference D", ylabel="f(D)")
    axes[0].legend(loc="lower left", bbox_to_anchor=(-0.01, 0.06), handlelength=1.6)
    free, eq2 = torch.linspace(-4, 4, 401), cast(LearnedPowerNorm, ours.power_norm)
    for axis, values, letter, name, limits in (
        (axes[1], eq2.slope_of(free), "b", "slope a(m)", SLOPES),
        (axes[2], eq2.shift_of(free), "c", "shift b(n)", SHIFTS),
    ):
        axis.plot(free, values, color=COLORS[0], linewidth=2)
        for limit in limits:
            axis.axhline(limit, color=GREY, linewidth=0.8, linestyle=":")
            axis.annotate(f"{limit:.3g}", (4, limit), (-2, 2), textcoords="offset points", ha="right")
        axis.set(title=f"({letter}) {name}", xlabel="m" if letter == "b" else "n", ylabel=name.split()[1])
    axes[1].set_ylim(0, 55)
    axes[2].set_ylim(-0.7, 0.75)
    differences = ours.differences(to_clip(frames)[None])[0].numpy()  # (T - 1, H, W)
    most = differences[np.abs(differences).mean(axis=(1, 2)).argmax()]
    draw_surface(before, most, signed=True)
    draw_surface(after, ours.power_norm(torch.from_numpy(most)).detach().numpy(), signed=False)
    before.set_title("(d) a difference map D")
    after.set_title("and f(D)")
    return drawn


def draw_surface(axis: Any, values: np.ndarray, *, signed: bool) -> None:
    """Draw values (H, W), differences in [-1, 1] if signed or attention in [0, 1], as a surface over the picture.

    The surface is rasterised and thinned to LARGEST points a side, so that an SVG stays small.
    """
    top = float(np.abs(values).max()) or 1.0
    cmap, limits, zlim = ("PuOr_r", (-top, top), (-1, 1)) if signed else ("OrRd", (0, 1), (0, 1))
    thin = thinned(values)
    h, w = thin.shape
    x, y = np.meshgrid(np.arange(w), np.arange(h))
    axis.plot_surface(
        x, y, thin, cmap=cmap, vmin=limits[0], vmax=limits[1], rstride=1, cstride=1, linewidth=0, rasterized=True
    )  # fmt: skip
    axis.set(xlim=(0, w - 1), ylim=(h - 1, 0), zlim=zlim)
    axis.set(xticks=[], yticks=[], zticks=[-1, 0, 1] if signed else [0, 1])
    axis.tick_params(axis="z", labelsize=6, pad=-2)
    axis.set_box_aspect((1, h / w, 0.6))
    axis.view_init(elev=38, azim=-72)


def thinned(values: np.ndarray) -> np.ndarray:
    """(H, W) -> at most LARGEST a side: of each cell the value that is farthest from the picture's median."""
    cell = -(-max(values.shape) // LARGEST)
    h, w = (max(1, n // cell) for n in values.shape)
    if cell == 1 or min(h, w) < 2:
        return values
    cells = values[: h * cell, : w * cell].reshape(h, cell, w, cell).swapaxes(1, 2).reshape(h, w, -1)
    at = np.abs(cells - np.median(values)).argmax(axis=-1)
    return np.take_along_axis(cells, at[..., None], axis=-1)[..., 0]


def draw_modulation(clips: Mapping[str, np.ndarray], ours: "MotionPrompt") -> Any:
    """Fig. 17: two rows per clip: frames, D and f(D) of each function as maps, and D and f(D) as surfaces below.

    clips: name -> (T, H, W, 3) uint8; the first two frames are drawn.
    """
    import torch

    family = family_with(ours)
    columns = ["frame t", "frame t+1", "D", *family]
    heights = [1.45 * frames.shape[1] / frames.shape[2] for frames in clips.values()]  # of the maps, inches
    drawn = figure(1.45 * len(columns) + 0.3, sum(h + 1.75 for h in heights))
    parts = drawn.subfigures(len(clips), 1, squeeze=False, height_ratios=[h + 1.75 for h in heights])[:, 0]
    for number, (part, (title, frames)) in enumerate(zip(parts, clips.items(), strict=True)):
        part.suptitle(title, fontsize=9, x=0.01, ha="left")
        grid = part.add_gridspec(2, len(columns), height_ratios=(heights[number], 1.15))
        clip = to_clip(frames[:2])[None]
        with torch.no_grad():
            difference = ours.differences(clip)[0, 0].numpy()
            attention = [layer.attention(clip)[0, 0].numpy() for layer in family.values()]
        maps = [frames[0], frames[1], color_differences(difference), *map(color_attention, attention)]
        surfaces = [None, None, difference, *attention]
        for j, (picture, values) in enumerate(zip(maps, surfaces, strict=True)):
            axis = part.add_subplot(grid[0, j])
            bare(axis)
            axis.imshow(picture)
            if not number:
                axis.set_title(columns[j])
            if values is not None:
                draw_surface(part.add_subplot(grid[1, j], projection="3d"), values, signed=columns[j] == "D")
    return drawn


def draw_prompts_of_family(clips: Mapping[str, np.ndarray], ours: "MotionPrompt") -> Any:
    """Fig. 18: two rows per clip: frame t over t+1, D, then attention over prompt for each function."""
    layers = family_with(ours)
    rows: list[Sequence[np.ndarray | None]] = []
    labels: list[str] = []
    for title, frames in clips.items():
        made = {name: panel_rows(to_clip(frames[:2]), layer) for name, layer in layers.items()}
        d = made["ours"][1][0]
        rows.append([frames[0], d, *(rows_of[2][0] for rows_of in made.values())])
        rows.append([frames[1], None, *(rows_of[3][0] for rows_of in made.values())])
        labels += [f"{wrap(title)}\n\nframe t,\nattention", "frame t+1,\nprompt"]
    return draw_grid(rows, rows=labels, columns=["frames", "D", *layers], width=1.2)
