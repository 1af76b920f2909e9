"""Power normalisation functions: their curves and surfaces (Fig. 3), and what they make of a clip (Fig. 17, 18)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vmp.figures.canvas import COLORS, GREY, bare, figure
from vmp.figures.looking import ALPHA, BETA, EPSILON, GAMMA, layer_with, to_clip
from vmp.figures.panels import color_attention, color_differences, draw_grid, panel_rows

if TYPE_CHECKING:
    from vmp.layer import MotionPrompt

FIXED = {"gamma": "Gamma", "maxexp": "MaxExp", "sigme": "SigmE", "asinhe": "AsinhE"}
LARGEST = 48  # points along the longer side of a surface


def functions(ours: "MotionPrompt", *, entry: str = "magnitude") -> "dict[str, MotionPrompt]":
    """Name -> layer: the fixed four with the exponents of conf/vmp, and ours."""
    from vmp.layer import MotionPrompt
    from vmp.power_norm import FAMILY

    fixed = {
        name: MotionPrompt(modulate=ours.modulate, power_norm=FAMILY[key](entry=entry))
        for key, name in FIXED.items()
    }
    return {**fixed, "ours": ours}


def slope_of(m: np.ndarray) -> np.ndarray:
    """a(m) of Eq. 2 with the paper's constants."""
    return ALPHA / (BETA * np.abs(np.tanh(m)) + EPSILON)


def shift_of(n: np.ndarray) -> np.ndarray:
    """b(n) of Eq. 2 with the paper's constants."""
    return GAMMA * np.tanh(n)


def draw_family(frames: np.ndarray, *, slope: float, shift: float) -> Any:
    """Fig. 3: (a) the family against D, (b) a(m), (c) b(n), (d) a clip's differences before and after ours.

    frames: (T, H, W, 3) uint8; the pair with the most motion is drawn in (d).
    """
    import torch

    ours = layer_with(slope, shift)
    d = torch.linspace(-1, 1, 401)
    x = d.numpy()
    drawn = figure(9, 5.6)
    grid = drawn.add_gridspec(2, 4)
    axes = [drawn.add_subplot(grid[i // 2, i % 2 * 2 : i % 2 * 2 + 2]) for i in range(3)]
    before, after = (drawn.add_subplot(grid[1, i], projection="3d") for i in (2, 3))
    curves = {name: layer.power_norm(d).detach().numpy() for name, layer in functions(ours).items()}
    styles = ("-", "--", "-.", ":")
    fixed = [COLORS[i] for i in (0, 2, 3, 4)]
    for (name, curve), dashes, color in zip(list(curves.items())[:-1], styles, fixed, strict=True):
        axes[0].plot(x, curve, dashes, color=color, label=f"{name} of |D|")
    for shadow in (0.15, 0.3):
        low, high = max(shift - shadow, -0.599), min(shift + shadow, 0.599)
        left, right = (layer_with(slope, b).power_norm(d).detach().numpy() for b in (low, high))
        axes[0].fill_between(x, right, left, color=COLORS[1], alpha=0.12, linewidth=0)
    axes[0].plot(x, curves["ours"], color=COLORS[1], linewidth=2, label=f"ours, a = {slope:g}, b = {shift:g}")
    axes[0].set(title="(a) power normalisation", xlabel="difference D", ylabel="f(D)")
    axes[0].legend(loc="lower left", bbox_to_anchor=(-0.01, 0.06), handlelength=1.6)
    free = np.linspace(-4, 4, 401)
    for axis, values, letter, name, limits in (
        (axes[1], slope_of(free), "b", "slope a(m)", (ALPHA / (BETA + EPSILON), ALPHA / EPSILON)),
        (axes[2], shift_of(free), "c", "shift b(n)", (-GAMMA, GAMMA)),
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
    made = ours.power_norm(torch.from_numpy(most)).detach().numpy()
    top = float(np.abs(most).max()) or 1.0
    surface(before, most, cmap="PuOr_r", limits=(-top, top), zlim=(-1, 1))
    surface(after, made, cmap="OrRd", limits=(0, 1), zlim=(0, 1))
    before.set_title("(d) a difference map D")
    after.set_title("and f(D)")
    return drawn


def surface(
    axis: Any, values: np.ndarray, *, cmap: str, limits: tuple[float, float], zlim: tuple[float, float]
) -> None:
    """Values (H, W) as a surface over the picture's plane, thinned to LARGEST points a side (the strongest of each
    cell stays); drawn as pixels, so that an SVG stays small."""
    thin = thinned(values)
    h, w = thin.shape
    x, y = np.meshgrid(np.arange(w), np.arange(h))
    axis.plot_surface(
        x, y, thin, cmap=cmap, vmin=limits[0], vmax=limits[1], rstride=1, cstride=1, linewidth=0, rasterized=True
    )  # fmt: skip
    axis.set_zlim(*zlim)
    axis.set_xlim(0, w - 1)
    axis.set_ylim(h - 1, 0)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_zticks([zlim[0], 0, zlim[1]] if zlim[0] < 0 else list(zlim))
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


def modulated(frames: np.ndarray, layer: "MotionPrompt") -> tuple[np.ndarray, np.ndarray]:
    """D and f(D) of the pair frames[0], frames[1], each (H, W)."""
    import torch

    with torch.no_grad():
        clip = to_clip(frames[:2])[None]
        return layer.differences(clip)[0, 0].numpy(), layer.attention(clip)[0, 0].numpy()


def draw_modulation(clips: Mapping[str, np.ndarray], ours: "MotionPrompt") -> Any:
    """Fig. 17: a clip a pair of rows: frames, D and f(D) of each function, maps above, surfaces below.

    clips: name -> (T, H, W, 3) uint8; the first two frames are drawn.
    """
    columns = ["frame t", "frame t+1", "D", *functions(ours)]
    shapes = [
        1.45 * frames.shape[1] / frames.shape[2] for frames in clips.values()
    ]  # heights of maps, inches
    drawn = figure(1.45 * len(columns) + 0.3, sum(h + 1.75 for h in shapes))
    parts = drawn.subfigures(len(clips), 1, squeeze=False, height_ratios=[h + 1.75 for h in shapes])[:, 0]
    for number, (part, (title, frames)) in enumerate(zip(parts, clips.items(), strict=True)):
        part.suptitle(title, fontsize=9, x=0.01, ha="left")
        grid = part.add_gridspec(2, len(columns), height_ratios=(shapes[number], 1.15))
        d, _ = modulated(frames, ours)
        maps: list[np.ndarray | None] = [frames[0], frames[1], color_differences(d)]
        surfaces: list[np.ndarray | None] = [None, None, d]
        for layer in functions(ours).values():
            attention = modulated(frames, layer)[1]
            maps.append(color_attention(attention))
            surfaces.append(attention)
        for j, (picture, values) in enumerate(zip(maps, surfaces, strict=True)):
            axis = part.add_subplot(grid[0, j])
            bare(axis)
            axis.imshow(picture)
            if not number:
                axis.set_title(columns[j])
            if values is not None:
                below = part.add_subplot(grid[1, j], projection="3d")
                top = float(np.abs(d).max()) or 1.0
                signed = j == 2
                limits = (-top, top) if signed else (0.0, 1.0)
                surface(
                    below,
                    values,
                    cmap="PuOr_r" if signed else "OrRd",
                    limits=limits,
                    zlim=(-1.0, 1.0) if signed else limits,
                )
    return drawn


def draw_prompts_of_family(clips: Mapping[str, np.ndarray], ours: "MotionPrompt") -> Any:
    """Fig. 18: a clip a pair of rows: frame t over t+1, D, then attention over prompt for each function."""
    layers = functions(ours)
    rows: list[Sequence[np.ndarray | None]] = []
    labels: list[str] = []
    for title, frames in clips.items():
        made = {name: panel_rows(to_clip(frames[:2]), layer) for name, layer in layers.items()}
        d = made["ours"][1][0]
        rows.append([frames[0], d, *(rows_of[2][0] for rows_of in made.values())])
        rows.append([frames[1], None, *(rows_of[3][0] for rows_of in made.values())])
        labels += [f"{wrapped(title)}\n\nframe t,\nattention", "frame t+1,\nprompt"]
    return draw_grid(rows, rows=labels, columns=["frames", "D", *layers], width=1.2)


def wrapped(text: str, width: int = 20) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width))
