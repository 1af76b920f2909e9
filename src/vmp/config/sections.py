"""The sections of a config: their keys, types and ranges. `Config.folder` is the folder of the config's run.

Notable here:
- `dataset`, `vmp` and `backbone` have other keys for each `kind` (of a backbone: `name`), so there is a class for each;
- `lambda` is a Python keyword, so it is `lambda_` here;
- where `backbone` has null for a size, the published one is used (vmp.backbones.SPECS).
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from vmp.backbones import OWN, SPECS, Spec, zoo
from vmp.choices import (
    Anchor,
    AttentionKind,
    BatchNorm,
    Camera,
    CameraMotion,
    Clock,
    Degradation,
    Form,
    Freeze,
    MotionClasses,
    PathwaySplit,
    Pool,
    Reader,
    Reduce,
    Regulariser,
    Short,
    Spacing,
    TransformerInit,
    Upsample,
    X3DSize,
)
from vmp.config.types import (
    Count,
    Device,
    File,
    Fraction,
    Level,
    NotNegative,
    PerChannel,
    Positive,
    Section,
    StartValue,
    TagCondition,
    Target,
    Text,
    Views,
    Word,
)
from vmp.slope_shift import Start, m_of, n_of

# --- data and models -----------------------------------------------------------------------------------------------


class PreparedDataset(Section):
    """A folder of manifests that `vmp prepare` wrote."""

    kind: Literal["prepared"]
    name: Word
    folder: File
    root: File | None
    split: Annotated[int, Field(ge=1, le=3)] | None = None  # of HMDB-51 and UCF-101
    set: Annotated[int, Field(ge=1, le=2)] | None = None  # of UT-Interaction
    fold: Count | None = None
    flip: Fraction


class MotionsDataset(Section):
    """Generated videos (vmp.data.motions)."""

    kind: Literal["motions"]
    name: Word
    classes: MotionClasses
    camera: Camera
    train: Count
    val: Count
    test: Count
    frames: Annotated[int, Field(ge=2)]
    size: Annotated[int, Field(ge=32)]
    fps: Count
    noise: NotNegative
    crf: Annotated[int, Field(ge=0, le=51)]
    seed: Annotated[int, Field(ge=0)]
    flip: Fraction


class ListDataset(Section):
    """Videos of the user's own, with one list per split."""

    kind: Literal["list"]
    name: Word
    root: File
    train: File
    val: File
    test: File | None
    classes: File | None
    clock: Clock
    fps: Positive | None
    flip: Fraction


class FoldersDataset(Section):
    """Videos in one folder per class, or named by a CSV with the columns path,label[,group][,split]."""

    kind: Literal["folders"]
    name: Word
    root: File
    csv: File | None
    ratio: tuple[Fraction, Fraction, Fraction] | None  # shares of train, val and test
    folds: Annotated[int, Field(ge=2)] | None
    fold: Count | None  # the fold that is tested
    seed: Annotated[int, Field(ge=0)]
    fps: Positive | None
    flip: Fraction


class ManifestDataset(Section):
    """A folder of manifests: classes.txt, train.csv, and val.csv or test.csv (or both)."""

    kind: Literal["manifest"]
    name: Word
    folder: File
    root: File | None
    flip: Fraction


class CustomDataset(Section):
    """Videos whose list is written by a function of the user's, with a column `split` (docs/extending.md)."""

    kind: Literal["custom"]
    name: Word
    target: Target
    options: dict[str, Any]
    root: File
    clock: Clock
    fps: Positive | None
    flip: Fraction


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


class SlowFastConfig(ShippedBackbone):
    name: Literal["slowfast"]
    width: Annotated[int, Field(ge=8, multiple_of=8)] | None
    blocks: Count | None
    beta_inv: Literal[1, 2, 4, 8] | None


class C2DConfig(ShippedBackbone):
    name: Literal["c2d"]
    width: Annotated[int, Field(ge=8, multiple_of=8)] | None
    blocks: Count | None
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


class VmpConfig(Section):
    """The keys that `vmp` always has, also without prompts."""

    kind: str
    lambda_: Annotated[float, Field(alias="lambda", ge=0)]
    placement: Literal["default", "slow", "fast", "both"]
    split: PathwaySplit


class NoPrompts(VmpConfig):
    kind: Literal["none"]


class AnyPrompts(VmpConfig):
    """The keys that every prompt layer has."""

    grey: Literal["rgb", "bgr"]
    modulate: Literal["normalized", "pixel"]
    variation: Literal["mean", "frobenius"]


class Prompts(AnyPrompts):
    """The paper's layer with a learned slope and shift, and its extensions."""

    kind: Literal["learned"]
    name: Word
    alpha: Positive
    beta: Positive
    gamma: Annotated[float, Field(gt=0, lt=1)]
    epsilon: Positive
    m: StartValue
    n: StartValue
    slope: float | None = None  # slope and shift set the initial m and n instead
    shift: float | None = None
    attention_from: Literal["clip", "other_clip"]
    # keys with defaults: configs of runs by earlier versions lack them
    compensate: CameraMotion = "none"
    scales: Annotated[tuple[Count, ...], Field(min_length=1)] = (1,)
    form: Form = "pixel"
    patch: Count = 8
    pool: Pool = "mean_abs"
    upsample: Upsample = "bilinear"
    patch_scalars: Literal["shared", "position"] = "shared"
    regulariser: Regulariser = "temporal"
    at: str | None = None
    pixels: bool = True
    lr_mult: Positive
    weight_decay: NotNegative | None

    @property
    def extended(self) -> bool:
        """Whether the layer on the frames differs from the paper's."""
        other = self.scales != (1,) or self.form != "pixel" or self.regulariser != "temporal"
        return other or self.compensate != "none"

    @property
    def start(self) -> dict[str, Start]:
        """The initial m and n that the config sets, directly or through slope and shift.

        Raises:
            ValueError: slope or shift is outside of the range that Eq. 2 allows.
        """
        found: dict[str, Start | None] = {"m": self.m, "n": self.n}
        if self.slope is not None:
            found["m"] = m_of(self.slope, alpha=self.alpha, beta=self.beta, epsilon=self.epsilon)
        if self.shift is not None:
            found["n"] = n_of(self.shift, gamma=self.gamma)
        return {letter: value for letter, value in found.items() if value is not None}


class FixedPrompts(AnyPrompts):
    """A fixed power normalisation of vmp.power_norm.FAMILY, without learned parameters."""

    kind: Literal["gamma", "maxexp", "sigme", "asinhe"]
    exponent: Positive
    entry: Literal["magnitude", "affine"]


class CustomPrompts(AnyPrompts):
    """A power normalisation, or a whole prompt layer, of the user's (docs/extending.md)."""

    kind: Literal["custom"]
    name: Word
    target: Target
    options: dict[str, Any]
    lr_mult: Positive
    weight_decay: NotNegative | None


class ConstantPrompts(AnyPrompts):
    """A control: the same attention everywhere. level: a number, or a run's folder, whose mean attention is used."""

    kind: Literal["constant"]
    level: Level

    @property
    def source(self) -> Path | None:
        """The run from which the level is taken."""
        return Path(self.level) if isinstance(self.level, str) else None

    @property
    def number(self) -> float | None:
        return None if isinstance(self.level, str) else self.level

    @property
    def name(self) -> str:
        return f"constant_as_{self.source.parent.name}" if self.source else f"constant{self.level:g}"


class OraclePrompts(AnyPrompts):
    """A control: attention 1 on the moving object, as the generator of `motions` knows it, and `low` elsewhere."""

    kind: Literal["oracle"]
    low: Annotated[float, Field(ge=0, lt=1)]

    @property
    def name(self) -> str:
        return f"oracle{self.low:g}"


# --- training and testing ------------------------------------------------------------------------------------------


class Optim(Section):
    """Optimizer and learning rate schedule."""

    kind: Literal["sgd", "adamw"]
    schedule: Literal["cosine", "steps"]
    lr: Positive
    ref_batch: Count | None
    head_lr_mult: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)]
    nesterov: bool
    weight_decay: NotNegative
    norm_weight_decay: NotNegative
    warmup: Annotated[float, Field(ge=0, lt=1)]
    warmup_start: Fraction
    at: tuple[float, ...] | None = None
    factors: tuple[Positive, ...] | None = None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    clip_norm: Positive | None = None
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0


class Augment(Section):
    """Augmentation beyond crops and flips (docs/recipes.md)."""

    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0
    rand_ops: Annotated[int, Field(ge=0)] = 0
    rand_magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    erase: Fraction = 0.0


class Train(Section):
    """What is trained, and on which clips."""

    freeze: Freeze
    batch_norm: BatchNorm
    precise_bn: Annotated[int, Field(ge=0)] = 0
    patience: Count | None = None
    sampling: Literal["natural", "balanced"] = "natural"
    class_weights: Literal["none", "balanced"] = "none"
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    ema_warmup: bool = True


class Trainer(Section):
    """Length, batches, device, speed and checkpoints of a run."""

    clips: Count | None = None
    epochs: Count
    batch_size: Count
    micro_batch: Count | None
    device: Device
    amp: Literal["auto", "none", "bf16", "fp16"]
    compile: bool
    channels_last: bool
    tf32: bool | Literal["auto"] | None
    cudnn_benchmark: bool | Literal["auto"]
    fused: bool
    select: Literal["last", "best"]
    views: Views | None
    anchor: Anchor
    workers: Annotated[int, Field(ge=0)] | None
    threads: Count | None
    log_every: Count
    save_minutes: Positive
    save_steps: Count | None
    max_minutes: Positive | None
    keep: Count
    keep_finished: Literal["weights", "all"]
    deterministic: bool


class Data(Section):
    """How clips are read."""

    root: File
    reader: Reader
    degrade: Degradation
    degrade_in: Literal["test", "both"]
    keep: Annotated[int, Field(ge=0)]
    max_bad_fraction: Fraction
    timeout: NotNegative


class Logger(Section):
    """Where copies of a run's records go: wandb, TensorBoard or nowhere. The files in its folder are always written."""

    kind: Literal["files", "wandb", "tensorboard"]
    mode: Literal["auto", "online", "offline"] = "auto"
    project: Text | None = None
    entity: Annotated[str, Field(min_length=1)] | None = None
    group: Text | None = None
    job_type: Annotated[str, Field(min_length=1, max_length=64)] = "train"
    tags: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=64)], ...],
        BeforeValidator(lambda v: (v,) if isinstance(v, str) else v),
    ] = ()
    panels_every: Annotated[int, Field(ge=0)] = 5
    max_panels: Annotated[int, Field(ge=0, le=64)] = 4
    init_timeout: Positive = 30
    finish_timeout: Positive = 120


class Evaluate(Section):
    """The keys of evaluate.py."""

    run: File
    split: Literal["train", "val", "test"]
    list: File | None
    checkpoint: Literal["last", "best"] | None
    folder: File | None
    root: File | None
    views: Views | None
    degrade: Degradation | None
    reduce: Reduce | None
    reader: Reader | None
    where: TagCondition | None
    trust: Annotated[str, BeforeValidator(lambda v: ",".join(v) if isinstance(v, list | tuple) else v)] | None
    device: Device
    workers: Annotated[int, Field(ge=0)] | None


class Recommended(Section):
    """An experiment's λ for each placement, which is the default of vmp.lambda."""

    lambda_: Annotated[dict[str, NotNegative], Field(alias="lambda")]


class Config(Section):
    """A run of train.py."""

    dataset: Annotated[
        MotionsDataset | ListDataset | FoldersDataset | ManifestDataset | PreparedDataset | CustomDataset,
        Field(discriminator="kind"),
    ]
    backbone: Annotated[
        TinyConfig
        | ResNetConfig
        | SlowFastConfig
        | C2DConfig
        | InceptionConfig
        | X3DConfig
        | TimeSformerConfig
        | CustomBackbone,
        Field(discriminator="name"),
    ]
    vmp: Annotated[
        NoPrompts | Prompts | FixedPrompts | ConstantPrompts | OraclePrompts | CustomPrompts,
        Field(discriminator="kind"),
    ]
    recommended: Recommended | None
    train: Train
    optim: Optim
    augment: Augment = Augment()
    trainer: Trainer
    data: Data
    logger: Logger
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    tag: Word | None
    init_from: File | None
    output: File
    name: Word  # of the dataset, in the run's folder

    @property
    def placement(self) -> str | None:
        """slow, fast or both; None without prompts, or if the backbone has only one pathway."""
        if len(self.backbone.pathways) == 1 or not self._prompts_pixels:
            return None
        return "both" if self.vmp.placement == "default" else self.vmp.placement

    @property
    def prompted(self) -> tuple[str, ...]:
        """Pathways with a layer in front of them."""
        if not self._prompts_pixels:
            return ()
        return self.backbone.pathways if self.placement in (None, "both") else (str(self.placement),)

    @property
    def _prompts_pixels(self) -> bool:
        return self.vmp.kind != "none" and getattr(self.vmp, "pixels", True)

    @property
    def folder(self) -> Path:
        """The run's folder. Its name consists of the settings that distinguish most runs."""
        v = self.vmp
        kind = getattr(v, "name", v.kind)
        method = kind if v.kind == "none" else f"{kind}_lambda{v.lambda_:g}"
        placed = f"_{self.placement}" if self.placement else ""
        placed += "" if v.split == "plus_one" or not self.prompted else f"_{v.split}"
        frozen = "" if self.train.freeze == "none" else f"_frozen_{self.train.freeze}"
        seed = f"seed{self.seed}" + (f"-{self.tag}" if self.tag else "")
        seed += f"-{self.trainer.clips}clips" if self.trainer.clips else ""
        return Path(self.output) / self.name / self._start / f"{method}{placed}{frozen}" / seed

    @property
    def _start(self) -> str:
        """The part of the folder's name that has the backbone and its initial weights."""
        if self.init_from:
            return f"{self.backbone.label}-run"
        weights = self.backbone.weights
        if not weights:
            return self.backbone.label
        return f"{self.backbone.label}-{weights if weights in zoo.NAMES else 'file'}"
