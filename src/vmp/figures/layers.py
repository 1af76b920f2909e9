"""Prompt layers to draw with: one of a given slope and shift, or those that a run has learned."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from vmp.errors import RunError, UserError
from vmp.runs.open import open_prompts
from vmp.runs.run import Run
from vmp.slope_shift import m_of, n_of

if TYPE_CHECKING:
    from torch import Tensor

    from vmp.layer import MotionPrompt

ALPHA, BETA, GAMMA, EPSILON = 5.0, 0.45, 0.6, 0.1  # of Eq. 2, as the paper sets them
SLOPES = ALPHA / (BETA + EPSILON), ALPHA / EPSILON  # the range of a(m)
SHIFTS = -GAMMA, GAMMA


def of_papers_layer(runs: Iterable[Run]) -> list[Run]:
    """The runs with the paper's layer; without any, all that learn a layer of their own."""
    learned = [run for run in runs if run.config["vmp"]["kind"] == "learned"]
    return [run for run in learned if run.has_papers_layer] or learned


def layer_with(slope: float, shift: float) -> "MotionPrompt":
    """The layer with this slope and shift (Eq. 2 with the paper's constants); prompts are black without attention.

    Raises:
        UserError: a value is outside the range of Eq. 2.
    """
    from vmp.layer import MotionPrompt

    low, high = SLOPES
    try:
        m = 0.0 if slope == high else m_of(slope, alpha=ALPHA, beta=BETA, epsilon=EPSILON)
    except ValueError:
        raise UserError(f"--slope {slope:g}: must be above {low:.2f} and at most {high:g} (Eq. 2)") from None
    try:
        n = n_of(shift, gamma=GAMMA)
    except ValueError:
        raise UserError(f"--shift {shift:g}: must lie between -{GAMMA:g} and {GAMMA:g} (Eq. 2)") from None
    return MotionPrompt(modulate="pixel", m=m, n=n)


def layers_of(run: Run) -> "dict[str, MotionPrompt]":
    """Pathway -> the layer as the run ended with it; needs no checkpoint.

    Raises:
        RunError: the run has no prompts, or is not finished.
    """
    layers = open_prompts(run.folder).prompts
    if not layers:
        inside = run.config.get("vmp", {}).get("at")
        where = (
            f"; its prompts are inside the network, at {inside}, where frames cannot show them"
            if inside
            else ""
        )
        raise RunError(
            f"{run.folder}: a run without prompts on its frames, so there is no attention to look at{where}"
        )
    return layers


def frames_seen(run: Run, layer: "MotionPrompt", pathway: str) -> int:
    """How many frames the layer needs for one picture: two, or a clip of the run where attention is not a function of
    two frames (other spacings, slope and shift of each clip, a layer of the user's own)."""
    from vmp.layer import MotionPrompt

    return 2 if type(layer) is MotionPrompt else len(open_prompts(run.folder).frames_of(pathway))


def slope_and_shift(layer: "MotionPrompt", clip: "Tensor | None" = None) -> dict[str, float]:
    """Empty for a fixed function. clip: (3, frames, H, W), for a layer that gives each clip its own; without one, such
    a layer answers with the values that its clips' start from."""
    import torch

    from vmp.extensions.per_clip import PerClip

    if clip is not None and isinstance(layer.power_norm, PerClip):
        with torch.no_grad():
            whole = clip.unsqueeze(0).to(layer.power_norm.m.device)
            slope, shift = layer.power_norm.of_clips(layer.differences(whole))
        return {"slope": float(slope), "shift": float(shift)}
    scalars = layer.scalars()
    return {key: float(scalars[key]) for key in ("slope", "shift") if key in scalars}


def named_slope_and_shift(layer: "MotionPrompt", clip: "Tensor | None" = None) -> str:
    """`slope 11.00, shift 0.10`, or nothing for a fixed function. clip: as for `slope_and_shift`."""
    return ", ".join(f"{name} {value:.2f}" for name, value in slope_and_shift(layer, clip).items())


def describe(layer: "MotionPrompt", clip: "Tensor | None" = None) -> str:
    """`a = 11.0, b = 0.10`, or the fixed function's name. clip: as for `slope_and_shift`."""
    if not (learned := slope_and_shift(layer, clip)):
        return type(layer.power_norm).__name__
    return f"a = {learned['slope']:.2f}, b = {learned['shift']:.2f}"
