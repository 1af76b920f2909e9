"""The section `backbone`: a class for each network, with its own keys.

Where a size is null, the published one is used (vmp.backbones.SPECS).
"""

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from vmp.backbones import OWN, SPECS, Spec
from vmp.choices import AttentionKind, Short, Spacing, TransformerInit, X3DSize
from vmp.config.types import Count, File, PerChannel, Positive, Section, Target


class BackboneConfig(Section):
    """The keys that every backbone has."""

    name: str
    weights: Annotated[File | None, BeforeValidator(lambda v: None if v == "none" else v)]
    frames: Count | None
    stride: Count | None
    crop: Annotated[int, Field(ge=16)] | None
    spacing: Spacing | None
    short: Short

    @property
    def key(self) -> str:
        """The backbone's name in vmp.backbones.SPECS."""
        return self.name

    @property
    def label(self) -> str:
        """The backbone's name in the name of a run's folder."""
        return self.key

    @property
    def spec(self) -> Spec:
        """The published sizes, with those replaced that the config sets."""
        return self._published.at(
            frames=self.frames, stride=self.stride, crop=self.crop, spacing=self.spacing
        )

    @property
    def pathways(self) -> tuple[str, ...]:
        return self._published.pathways

    @property
    def _published(self) -> Spec:
        return SPECS[self.key]


class CustomBackbone(BackboneConfig):
    """A network that is built by a class or function of the user's (docs/extending.md)."""

    name: Literal["custom"]
    target: Target
    options: dict[str, Any]
    mean: PerChannel
    std: PerChannel
    fps: Positive | None

    @property
    def label(self) -> str:
        return self.target.rpartition(".")[2]

    @property
    def _published(self) -> Spec:
        return replace(OWN, mean=self.mean, std=self.std, fps=self.fps)


class ShippedBackbone(BackboneConfig):
    """A network of vmp.backbones."""

    dropout: Annotated[float, Field(ge=0, lt=1)]

    def options(self) -> dict[str, Any]:
        """Keyword arguments of the backbone's builder: the keys that only this backbone has, unless they are null."""
        own_keys = (
            set(type(self).model_fields) - set(BackboneConfig.model_fields) - {"size", "flip_patch_embed"}
        )
        chosen = {key: getattr(self, key) for key in sorted(own_keys)}
        return {key: value for key, value in chosen.items() if value is not None}


class TinyConfig(ShippedBackbone):
    name: Literal["tiny"]
    width: Count


class ResNetConfig(ShippedBackbone):
    """I3D as a ResNet-50 with 3-D convolutions; `i3d_inception` is the original one."""

    name: Literal["i3d"]
    width: Annotated[int, Field(ge=8, multiple_of=8)] | None
    blocks: Count | None


class SlowFastConfig(ResNetConfig):
    name: Literal["slowfast"]  # type: ignore[assignment]
    beta_inv: Literal[1, 2, 4, 8] | None


class C2DConfig(ResNetConfig):
    name: Literal["c2d"]  # type: ignore[assignment]
    temporal_pool: bool


class InceptionConfig(ShippedBackbone):
    name: Literal["i3d_inception"]
    width: Annotated[int, Field(ge=4, multiple_of=4)] | None


class X3DConfig(ShippedBackbone):
    name: Literal["x3d"]
    size: X3DSize
    width: Annotated[int, Field(ge=8, multiple_of=4)] | None
    blocks: Count | None
    shortcut_norm: bool

    @property
    def key(self) -> str:
        return f"x3d_{self.size}"


class TimeSformerConfig(ShippedBackbone):
    name: Literal["timesformer"]
    size: Literal["base", "hr", "l"]
    attention: AttentionKind
    drop_path: Annotated[float, Field(ge=0, lt=1)]
    init: TransformerInit
    flip_patch_embed: bool
    patch: Count | None
    dim: Count | None
    depth: Count | None
    heads: Count | None

    @property
    def key(self) -> str:
        return "timesformer" if self.size == "base" else f"timesformer_{self.size}"
