"""Backbones: normalised clips (B, 3, T, H, W) -> logits (B, classes). `build_backbone` builds all of them.

A backbone's Spec says what it was published with (frames, stride, crops, normalisation, pathways, test views); the
frames to decode, the transforms and the test protocol follow from it. Its training recipe is conf/recipe/<name>.yaml.
Every backbone has a `head_name`, the dotted name of its last Linear.
"""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmp.errors import ConfigError

if TYPE_CHECKING:  # the specs are read without importing torch
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A backbone's input and test protocol. Sizes in pixels of the short side or of a square crop.

    frames, stride: as published, for a video at `fps` frames per second; fps None: at the video's own rate.
    spacing: "stride", frames exactly (on average) that far apart; "span", spread evenly over frames x stride.
    reduce: what is summed over the test views, "probs" or "logits".
    alpha: fast frames for each slow one, with two pathways.
    """

    frames: int
    stride: int
    crop: int
    jitter: tuple[int, int]
    test_side: int
    test_crop: int
    fps: float | None = 30.0
    spacing: str = "stride"
    views: tuple[int, int]  # temporal x spatial
    reduce: str = "probs"
    mean: float | tuple[float, float, float] = 0.45
    std: float | tuple[float, float, float] = 0.225
    pathways: tuple[str, ...] = ("video",)
    alpha: int = 1

    def at(
        self,
        *,
        frames: int | None = None,
        stride: int | None = None,
        crop: int | None = None,
        spacing: str | None = None,
    ) -> "Spec":
        """The same protocol at another size: jitter and test sizes keep their ratio to the crop."""
        scale = (crop or self.crop) / self.crop
        jitter, side, test = self.jitter, self.test_side, self.test_crop
        return replace(
            self,
            frames=frames or self.frames,
            stride=stride or self.stride,
            spacing=spacing or self.spacing,
            crop=crop or self.crop,
            jitter=(round(jitter[0] * scale), round(jitter[1] * scale)),
            test_side=round(side * scale),
            test_crop=round(test * scale),
        )


# short side of 256 to 320 cropped to 224, tested on 30 views of 256 (Non-local, SlowFast and X3D papers)
_CNN = Spec(frames=8, stride=8, crop=224, jitter=(256, 320), test_side=256, test_crop=256, views=(10, 3))
_SMALL = replace(_CNN, crop=160, jitter=(182, 228), test_side=182, test_crop=182)
# one clip, three crops of 224, logits summed (TimeSformer's code)
_VIT = replace(_CNN, stride=32, spacing="span", test_side=224, test_crop=224, views=(1, 3), reduce="logits")
# a random crop of 224 of a short side of 256, 25 frames per second, in [-1, 1]; tested on the centre crop and the whole
# video, here in four clips: 10 s (Carreira and Zisserman 2017, Sec. 3)
_INCEPTION = replace(
    _CNN,
    frames=64,
    stride=1,
    fps=25.0,
    jitter=(256, 256),
    test_crop=224,
    views=(4, 1),
    reduce="logits",
    mean=0.5,
    std=0.5,
)
SPECS: dict[str, Spec] = {
    "tiny": Spec(
        frames=8, stride=1, crop=40, jitter=(40, 40), test_side=40, test_crop=40, fps=None, views=(1, 1)
    ),
    "slowfast": replace(_CNN, frames=32, stride=2, pathways=("slow", "fast"), alpha=4),
    "c2d": _CNN,
    "i3d": _CNN,
    "i3d_inception": _INCEPTION,
    "x3d_xs": replace(_SMALL, frames=4, stride=12),
    "x3d_s": replace(_SMALL, frames=13, stride=6),
    "x3d_m": replace(_CNN, frames=16, stride=5),
    "x3d_l": replace(_CNN, frames=16, stride=5, crop=312, jitter=(356, 446), test_side=356, test_crop=356),
    "timesformer": _VIT,
    "timesformer_hr": replace(
        _VIT, frames=16, stride=16, crop=448, jitter=(448, 512), test_side=448, test_crop=448
    ),
    "timesformer_l": replace(_VIT, frames=96, stride=4),
}
# where a network of the user's own starts from: as torchvision's, but for a test of one clip, three crops
OWN = Spec(
    frames=16,
    stride=2,
    crop=112,
    jitter=(128, 160),
    test_side=112,
    test_crop=112,
    views=(1, 3),
    reduce="logits",
)


def backbone_spec(name: str) -> Spec:
    """The published protocol of a backbone.

    Raises:
        ConfigError: no backbone of that name.
    """
    if name not in SPECS:
        raise ConfigError(f"backbone {name!r} is not known: must be one of {', '.join(SPECS)}")
    return SPECS[name]


def build_backbone(
    name: str,
    *,
    num_classes: int,
    weights: str | Path | None = None,
    spec: Spec | None = None,
    reverse_channels: bool = False,
    **options: Any,
) -> "nn.Module":
    """A backbone, with random weights or pretrained ones.

    Args:
        name: a key of SPECS.
        weights: a name in vmp.backbones.zoo, as "k400", or a file in any layout of vmp.backbones.layouts; None: random.
            The head is new where the number of classes differs. `.loaded`, a LoadReport, says what was loaded.
        spec: another input size than the published one, from `backbone_spec(name).at(...)`.
        reverse_channels: the weights expect BGR frames (TimeSformer on SSv2): reverse their first convolution.
        options: the builder's own: `dropout`, `width`, ... (convnets.py, i3d_inception.py, timesformer.py, tiny.py).

    Raises:
        ConfigError: no such backbone or weights. WeightsError: the weights cannot be fetched or do not fit.
    """
    spec = spec or backbone_spec(name)
    backbone_spec(name)
    size: dict[str, Any] = {"num_classes": num_classes, "frames": spec.frames, "crop": spec.crop}
    model: Any
    if name == "tiny":
        from vmp.backbones.tiny import Tiny

        model = Tiny(num_classes=num_classes, **options)
    elif name == "i3d_inception":
        from vmp.backbones.i3d_inception import InceptionI3D

        model = InceptionI3D(num_classes=num_classes, **options)
    elif name.startswith("timesformer"):
        from vmp.backbones.timesformer import TimeSformer

        model = TimeSformer(**size, **options)
    else:
        from vmp.backbones import convnets

        warnings.filterwarnings("ignore", r".*torch\.jit", FutureWarning)  # from pytorchvideo's import
        options = {"dropout": 0.5} | options
        if name.startswith("x3d_"):
            model = convnets.build_x3d(name.removeprefix("x3d_"), **size, **options)
        else:
            build = {
                "c2d": convnets.build_c2d,
                "i3d": convnets.build_i3d,
                "slowfast": convnets.build_slowfast,
            }
            model = build[name](**size, **options)
    if weights is not None:
        from vmp.backbones.weights import load_weights

        model.loaded = load_weights(model, weights, backbone=name, reverse_channels=reverse_channels)
    return model
