"""Similarity of two runs layer by layer (Fig. 7-9): cosines of weights, and of features on the same clips.

Notes:
- the paper compares weights: each layer's parameters as one vector. That is meaningful for two networks trained from
  the same pretrained weights; for networks trained from random weights, compare features;
- features are the outputs of each layer, recorded by forward hooks, for the same frames of the same test clips. Where
  one run takes an extra frame, the other run gets the last frames, so that both see the frames that become prompts;
- the final projection is left out, as in the paper.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vmp.errors import RunError
from vmp.figures.canvas import COLORS, figure
from vmp.figures.curves import plain_numbers
from vmp.runs.open import Opened, open_run
from vmp.runs.run import Run
from vmp.runs.score import clips_tested, spread_clips

LABELS = 36  # layer names that fit below a picture
CLOSE = 0.5  # where every layer is more similar than this, the axis begins near the lowest


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine similarity of two tensors as vectors, in float64; 1 if both are zero, 0 if one is."""
    x, y = a.detach().double().flatten(), b.detach().double().flatten()
    norms = float(x.norm() * y.norm())
    if norms == 0:
        return float(bool((x == 0).all() and (y == 0).all()))
    return min(1.0, max(-1.0, float(x @ y) / norms))


def weights_by_layer(model: nn.Module) -> dict[str, Tensor]:
    """Layer -> its parameters as one vector, in the model's order, without the last layer, which projects to classes.
    Parameters outside of layers (class tokens, position embeddings) are listed under their own names."""
    found: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        owner = name.rpartition(".")[0]
        alone = owner and not list(model.get_submodule(owner).children())
        found.setdefault(owner if alone else name, []).append(parameter.detach().flatten())
    layers = {name: torch.cat(parts) for name, parts in found.items()}
    layers.popitem()
    return layers


def weight_similarity(a: nn.Module, b: nn.Module) -> dict[str, float]:
    """Layer -> cosine similarity, for the layers that have the same shape in both."""
    mine, other = weights_by_layer(a), weights_by_layer(b)
    shared = [name for name in mine if name in other and mine[name].shape == other[name].shape]
    return {name: cosine(mine[name], other[name]) for name in shared}


@contextmanager
def features_of(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Context that records layer -> its outputs. Layers are modules with parameters and without children, but not
    the last of them."""
    caught: dict[str, list[Tensor]] = {}
    layers = [
        (name, module)
        for name, module in model.named_modules()
        if name and not list(module.children()) and any(True for _ in module.parameters())
    ]

    def keep(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            caught.setdefault(name, []).append(output.detach().float().cpu())

    with ExitStack() as stack:
        for name, module in layers[:-1]:
            stack.enter_context(module.register_forward_hook(partial(keep, name)))
        yield caught


@torch.inference_mode()
def feature_similarity(
    a: nn.Module, b: nn.Module, pairs: Sequence[tuple[Tensor, Tensor]]
) -> dict[str, float]:
    """Layer -> cosine similarity of features, averaged over clips, for the layers with the same shape in both.

    Args:
        a, b: classifiers with a `backbone`, in evaluation mode.
        pairs: for each clip, the frames that `a` takes and the frames that `b` takes, (3, frames, H, W) uint8.
    """
    sums: dict[str, list[float]] = {}
    for clips in pairs:
        caught = []
        for model, clip in zip((a, b), clips, strict=True):
            device = next(model.parameters()).device
            with features_of(model.backbone) as features:  # type: ignore[arg-type]
                model(clip[None].to(device))
            caught.append(features)
        mine, other = caught
        for name in mine:
            theirs = other.get(name, [])
            if [x.shape for x in mine[name]] == [x.shape for x in theirs]:
                x, y = (torch.cat([t.flatten() for t in found]) for found in (mine[name], theirs))
                sums.setdefault(name, []).append(cosine(x, y))
    return {name: float(np.mean(values)) for name, values in sums.items()}


def paired_clips(a: Opened, b: Opened, count: int) -> list[tuple[Tensor, Tensor]]:
    """At most `count` clips, spread over the tested split, as each run takes them.

    Raises:
        RunError: the runs take clips of different sizes, or no clip can be read.
    """
    shapes = [(o.spec.test_crop, o.spec.frames, o.spec.stride) for o in (a, b)]
    if shapes[0] != shapes[1]:
        raise RunError(
            f"one run sees {shapes[0][1]} frames of {shapes[0][0]} pixels at stride {shapes[0][2]}, the other "
            f"{shapes[1][1]} of {shapes[1][0]} at {shapes[1][2]}: their features cannot be compared"
        )
    wanted = [clips_tested(o) for o in (a, b)]
    longer = max(wanted, key=lambda clips: clips.shape.frames)
    found = []
    for _, clip in spread_clips(longer, count):
        mine, other = (clip[:, clip.shape[1] - w.shape.frames :] for w in wanted)
        found.append((mine, other))
    if not found:
        raise RunError(f"{longer.root}: none of the chosen clips could be read")
    return found


def compare_layers(a: Run, b: Run, *, clips: int) -> dict[str, dict[str, float]]:
    """{"weights": layer -> similarity, "features": ...}; without features if clips = 0.

    Raises:
        RunError: the backbones differ, a checkpoint is missing, or the clips cannot be paired.
    """
    mine_is, other_is = (run.checked_config.backbone.key for run in (a, b))
    if mine_is != other_is:
        raise RunError(
            f"{a.folder} is a {mine_is} and {b.folder} a {other_is}: their layers cannot be paired"
        )
    mine, other = (open_run(run.folder) for run in (a, b))
    found = {"weights": weight_similarity(mine.model.backbone, other.model.backbone)}
    if clips:
        pairs = paired_clips(mine, other, clips)
        found["features"] = feature_similarity(mine.model, other.model, pairs)
    return found


def _shortened(name: str) -> str:
    """The two ends of a layer's name, which say where it is and what it is."""
    return name if len(name) <= 26 else f"{name[:9]}…{name[-16:]}"


def draw_layers(pairs: Mapping[str, Mapping[str, Mapping[str, float]]], *, title: str) -> Any:
    """Fig. 7-9: similarity against layers, one line per pair of runs, weights above features.

    pairs: label -> {"weights" | "features": layer -> similarity}.
    """
    kinds = [kind for kind in ("weights", "features") if any(kind in found for found in pairs.values())]
    longest = max(len(found[kind]) for found in pairs.values() for kind in kinds if kind in found)
    legend = 0.2 * -(-len(pairs) // 3)
    drawn = figure(min(15.0, max(7.0, 0.22 * longest + 2)), 3.2 * len(kinds) + legend + 0.4)
    axes = drawn.subplots(len(kinds), 1, squeeze=False)[:, 0]
    looks = [
        {"color": color, "marker": mark, "linestyle": line}
        for line in ("-", "--")
        for color, mark in zip(COLORS, "os^DvPX", strict=True)
    ]
    for axis, kind in zip(axes, kinds, strict=True):
        similar = {label: found.get(kind, {}) for label, found in pairs.items()}
        names = list(dict.fromkeys(name for values in similar.values() for name in values))
        for (label, values), look in zip(similar.items(), cycle(looks), strict=False):
            at = [names.index(name) for name in values]
            axis.plot(at, list(values.values()), markersize=3.5, linewidth=1.1, label=label, **look)
        step = -(-len(names) // LABELS)
        axis.set_xticks(
            list(range(0, len(names), step)), [_shortened(name) for name in names[::step]],
            rotation=60, ha="right", rotation_mode="anchor",
        )  # fmt: skip
        low = min((value for values in similar.values() for value in values.values()), default=0)
        bottom = 1 - 1.2 * (1 - low) if CLOSE < low < 1 else min(0.0, low - 0.05)
        axis.set_ylim(bottom, 1 + 0.05 * (1 - bottom))
        plain_numbers(axis, least=1e-6)
        axis.set_ylabel(f"cosine similarity\nof {kind}")
        if step > 1:
            axis.set_xlabel(f"layers, every {step}th named" if step > 3 else f"layers, one in {step} named")
    axes[0].legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=min(3, len(pairs)), borderaxespad=0.2)
    drawn.suptitle(title, fontsize=9)
    return drawn
