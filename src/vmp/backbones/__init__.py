"""Backbones: normalised clips (B, 3, T, H, W) -> logits (B, classes). `build_backbone` is the one way to get any.

What a backbone was published with (frames, stride, crops, normalisation, test views) stands in its Spec; the frames
to decode, the transforms and the test protocol follow from it.
"""

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from vmp.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A backbone's input and test protocol. Sizes in pixels of the short side or of a square crop."""

    frames: int
    stride: int
    crop: int
    jitter: tuple[int, int]
    test_side: int
    test_crop: int
    views: tuple[int, int] = (1, 1)  # temporal x spatial
    reduce: str = "probs"  # what is summed over views: "probs" or "logits"
    mean: float = 0.45
    std: float = 0.225
    pathways: tuple[str, ...] = ("video",)

    def at(self, *, frames: int | None = None, stride: int | None = None, crop: int | None = None) -> "Spec":
        """The same protocol at another size: jitter and test sizes keep their ratio to the crop."""
        scale = (crop or self.crop) / self.crop
        jitter, side, test = self.jitter, self.test_side, self.test_crop
        return replace(
            self,
            frames=frames or self.frames,
            stride=stride or self.stride,
            crop=crop or self.crop,
            jitter=(round(jitter[0] * scale), round(jitter[1] * scale)),
            test_side=round(side * scale),
            test_crop=round(test * scale),
        )


_X3D = {"views": (10, 3), "reduce": "probs"}
SPECS: dict[str, Spec] = {
    "tiny": Spec(frames=8, stride=1, crop=64, jitter=(64, 64), test_side=64, test_crop=64),
    # X3D (Feichtenhofer 2020): 30 views, short side = crop in testing
    "x3d_xs": Spec(frames=4, stride=12, crop=160, jitter=(182, 228), test_side=182, test_crop=182, **_X3D),  # type: ignore[arg-type]
    "x3d_s": Spec(frames=13, stride=6, crop=160, jitter=(182, 228), test_side=182, test_crop=182, **_X3D),  # type: ignore[arg-type]
    "x3d_m": Spec(frames=16, stride=5, crop=224, jitter=(256, 320), test_side=256, test_crop=256, **_X3D),  # type: ignore[arg-type]
    "x3d_l": Spec(frames=16, stride=5, crop=312, jitter=(356, 446), test_side=356, test_crop=356, **_X3D),  # type: ignore[arg-type]
}


def backbone_spec(name: str) -> Spec:
    """The published protocol of a backbone.

    Raises:
        ConfigError: no backbone of that name.
    """
    if name not in SPECS:
        raise ConfigError(f"backbone {name!r} is not known: must be one of {', '.join(SPECS)}")
    return SPECS[name]


def build_backbone(name: str, *, num_classes: int, spec: Spec | None = None, **options: Any) -> nn.Module:
    """A backbone with random weights.

    Args:
        name: a key of SPECS.
        spec: another input size than the published one, from `backbone_spec(name).at(...)`.
        options: of the backbone, such as `dropout`, or `width` for tiny.
    """
    spec = spec or backbone_spec(name)
    if name == "tiny":
        from vmp.backbones.tiny import Tiny

        return Tiny(num_classes=num_classes, **options)
    backbone_spec(name)
    from vmp.backbones.x3d import build_x3d

    size = name.removeprefix("x3d_")
    return build_x3d(size, num_classes=num_classes, frames=spec.frames, crop=spec.crop, **options)
