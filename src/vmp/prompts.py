"""From a config's prompts to layers.

torch is imported inside the functions, as in build.py.
"""

from typing import TYPE_CHECKING, Any

from vmp.config import (
    AnyPrompts,
    Config,
    ConstantPrompts,
    CustomPrompts,
    FixedPrompts,
    NoPrompts,
    OraclePrompts,
    Prompts,
)
from vmp.data.sampler import WEIGHTS, generator
from vmp.pathways import WHOLE

if TYPE_CHECKING:
    from vmp.layer import MotionPrompt
    from vmp.power_norm import LearnedPowerNorm


def build_prompts(config: Config) -> dict[str, Any]:
    """Pathway -> layer; m and n that are drawn follow from the seed."""
    import torch

    v = config.vmp
    torch.manual_seed(int(generator(WEIGHTS, config.seed, 0).integers(2**62)))
    if isinstance(v, NoPrompts) or not config.prompted:
        return {}
    spec = config.backbone.spec
    keys = (WHOLE,) if v.split == "shared" else config.prompted
    options: dict[str, Any] = {"grey": v.grey, "modulate": v.modulate, "variation": v.variation}
    return {key: _build_prompt(v, spec.crop, mean=spec.mean, std=spec.std, **options) for key in keys}


def build_inside(config: Config) -> dict[str, Any]:
    """Stage of the backbone -> layer on its feature maps."""
    from vmp.extensions.features import FeaturePrompt

    v = config.vmp
    if not isinstance(v, Prompts) or not v.at:
        return {}
    constants = v.model_dump(include={"alpha", "beta", "gamma", "epsilon"}) | v.start
    return {v.at: FeaturePrompt(variation=v.variation, **constants)}


def _build_prompt(v: AnyPrompts, side: int, **options: Any) -> "MotionPrompt":
    """side: of the frames in training, in pixels."""
    from vmp.controls import Constant, OraclePrompt, OtherClipPrompt
    from vmp.layer import MotionPrompt
    from vmp.power_norm import FAMILY

    if isinstance(v, CustomPrompts):
        from vmp.own import build_prompt

        return build_prompt(v.target, v.options, **options)
    if isinstance(v, OraclePrompts):
        return OraclePrompt(low=v.low, **options)
    if isinstance(v, ConstantPrompts):
        return MotionPrompt(power_norm=Constant(v.number), **options)
    if isinstance(v, FixedPrompts):
        return MotionPrompt(power_norm=FAMILY[v.kind](v.exponent, entry=v.entry), **options)
    assert isinstance(v, Prompts)
    constants = v.model_dump(include={"alpha", "beta", "gamma", "epsilon"}) | v.start
    if v.attention_from == "other_clip":
        return OtherClipPrompt(**options, **constants)
    if not v.extended:
        return MotionPrompt(**options, **constants)
    from vmp.extensions.layer import ExtendedPrompt

    norm = _build_form(v, side, constants)
    own: dict[str, Any] = {"compensate": v.compensate, "scales": v.scales, "regulariser": v.regulariser}
    return ExtendedPrompt(power_norm=norm, **own, **options)


def _build_form(v: Prompts, side: int, constants: dict[str, Any]) -> "LearnedPowerNorm":
    from vmp.extensions.patch import PatchPowerNorm
    from vmp.extensions.per_clip import PerClip
    from vmp.extensions.two_sided import TwoSided
    from vmp.power_norm import LearnedPowerNorm

    if v.form == "two_sided":
        return TwoSided(**constants)
    if v.form == "per_clip":
        return PerClip(**constants)
    if v.form == "patch":
        grid = (side // v.patch,) * 2 if v.patch_scalars == "position" else None
        return PatchPowerNorm(patch=v.patch, pool=v.pool, upsample=v.upsample, grid=grid, **constants)
    return LearnedPowerNorm(**constants)
