"""Every section of a config with its keys, their types and ranges; and the folder that a config's run has.

Notable here:
- `lambda` is a Python keyword, so it lives under that name in YAML and as `lambda_` here;
- sizes left null in `backbone` are the published ones (vmp.backbones.SPECS).
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from vmp.backbones import zoo
from vmp.config.types import (
    Count,
    Device,
    File,
    Fraction,
    NotNegative,
    Positive,
    TagCondition,
    Text,
    Views,
    Word,
)
from vmp.data.times import Clock
from vmp.slope_shift import m_of, n_of

PATHWAYS: dict[str, tuple[str, ...]] = {"slowfast": ("slow", "fast")}  # of backbones that have more than one


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True, strict=False)


class PreparedDataset(Section):
    """One of the paper's datasets, as prepared: a folder with manifests."""

    kind: Literal["prepared"]
    name: Word
    folder: File
    root: File | None
    split: Annotated[int, Field(ge=1, le=3)] | None
    flip: Fraction


class MotionsDataset(Section):
    kind: Literal["motions"]
    name: Word
    camera: Literal["static", "moving"]
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
    kind: Literal["list"]
    name: Word
    root: File
    train: File
    val: File
    test: File | None
    classes: File | None
    clock: Clock
    flip: Fraction


class ManifestDataset(Section):
    """A folder that holds train.csv, val.csv (and test.csv) and classes.txt already."""

    kind: Literal["manifest"]
    name: Word
    folder: File
    root: File | None
    flip: Fraction


class BackboneConfig(Section):
    """What any backbone has. Sizes left null are the published ones."""

    name: Literal["tiny"]
    weights: Annotated[File | None, BeforeValidator(lambda v: None if v == "none" else v)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    frames: Count | None
    stride: Count | None
    crop: Annotated[int, Field(ge=16)] | None
    spacing: Literal["stride", "span"] | None
    short: Literal["stretch", "clamp", "loop"]

    @property
    def key(self) -> str:
        """Its name in vmp.backbones.SPECS."""
        return self.name

    def options(self) -> dict[str, Any]:
        """Of its builder, those that are set."""
        own = set(type(self).model_fields) - set(BackboneConfig.model_fields) - {"size", "flip_patch_embed"}
        chosen = {key: getattr(self, key) for key in sorted(own)} | {"dropout": self.dropout}
        return {key: value for key, value in chosen.items() if value is not None}


class TinyConfig(BackboneConfig):
    width: Count


class ResNetConfig(BackboneConfig):
    name: Literal["i3d", "slowfast"]  # type: ignore[assignment]
    width: Annotated[int, Field(ge=8, multiple_of=8)] | None
    blocks: Count | None


class C2DConfig(ResNetConfig):
    name: Literal["c2d"]  # type: ignore[assignment]
    temporal_pool: bool


class X3DConfig(BackboneConfig):
    name: Literal["x3d"]  # type: ignore[assignment]
    size: Literal["xs", "s", "m", "l"]
    width: Annotated[int, Field(ge=8, multiple_of=4)] | None
    blocks: Count | None
    shortcut_norm: bool

    @property
    def key(self) -> str:
        return f"x3d_{self.size}"


class TimeSformerConfig(BackboneConfig):
    name: Literal["timesformer"]  # type: ignore[assignment]
    size: Literal["base", "hr", "l"]
    attention: Literal["divided", "joint", "space"]
    drop_path: Annotated[float, Field(ge=0, lt=1)]
    flip_patch_embed: bool
    patch: Count | None
    dim: Count | None
    depth: Count | None
    heads: Count | None

    @property
    def key(self) -> str:
        return "timesformer" if self.size == "base" else f"timesformer_{self.size}"


class NoPrompts(Section):
    kind: Literal["none"]
    lambda_: Annotated[float, Field(alias="lambda", ge=0)]
    placement: Literal["default", "slow", "fast", "both"]
    split: Literal["plus_one", "aligned", "shared"]


class Prompts(NoPrompts):
    kind: Literal["learned"]  # type: ignore[assignment]
    name: Word
    alpha: Positive
    beta: Positive
    gamma: Annotated[float, Field(gt=0, lt=1)]
    epsilon: Positive
    m: float | None
    n: float | None
    slope: float | None = None  # start values too, in place of m and n
    shift: float | None = None
    grey: Literal["rgb", "bgr"]
    modulate: Literal["normalized", "pixel"]
    variation: Literal["mean", "frobenius"]
    lr_mult: Positive
    weight_decay: NotNegative | None

    @property
    def start(self) -> dict[str, float]:
        """m and n that the config sets, by themselves or through slope and shift.

        Raises:
            ValueError: a slope or shift out of the range of Eq. 2.
        """
        found = {"m": self.m, "n": self.n}
        if self.slope is not None:
            found["m"] = m_of(self.slope, alpha=self.alpha, beta=self.beta, epsilon=self.epsilon)
        if self.shift is not None:
            found["n"] = n_of(self.shift, gamma=self.gamma)
        return {letter: value for letter, value in found.items() if value is not None}


class FixedPrompts(NoPrompts):
    kind: Literal["gamma", "maxexp", "sigme", "asinhe"]  # type: ignore[assignment]
    exponent: Positive
    entry: Literal["magnitude", "affine"]
    grey: Literal["rgb", "bgr"]
    modulate: Literal["normalized", "pixel"]
    variation: Literal["mean", "frobenius"]


class Optim(Section):
    kind: Literal["sgd", "adamw"]
    schedule: Literal["cosine", "steps"]
    lr: Positive
    ref_batch: Count | None
    momentum: Annotated[float, Field(ge=0, lt=1)]
    nesterov: bool
    weight_decay: NotNegative
    norm_weight_decay: NotNegative
    warmup: Annotated[float, Field(ge=0, lt=1)]
    warmup_start: Fraction
    at: tuple[float, ...] | None = None
    factors: tuple[Positive, ...] | None = None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]


class Train(Section):
    freeze: Literal["none", "backbone", "backbone_and_head", "all_but_head"]
    batch_norm: Literal["train", "frozen", "sync"]


class Trainer(Section):
    clips: Count | None = None
    epochs: Count
    batch_size: Count
    micro_batch: Count | None
    device: Device
    amp: Literal["none", "bf16"]
    compile: bool
    channels_last: bool
    tf32: bool | None
    cudnn_benchmark: bool
    fused: bool
    select: Literal["last", "best"]
    views: Views | None
    anchor: Literal["start", "center"]
    workers: Annotated[int, Field(ge=0)] | None
    threads: Count | None
    log_every: Count
    save_minutes: Positive
    save_steps: Count | None
    max_minutes: Positive | None
    keep: Count
    keep_finished: Literal["weights", "all"]
    deterministic: bool


Reader = Literal["auto", "pyav_seek", "opencv", "pyav", "decord", "torchcodec", "torchcodec_cuda"]


class Data(Section):
    root: File
    reader: Reader
    degrade: Literal["none", "salt_pepper", "half"]
    degrade_in: Literal["test", "both"]
    keep: Annotated[int, Field(ge=0)]
    max_bad_fraction: Fraction
    timeout: NotNegative


class Logger(Section):
    """Files are always written; the rest is for what mirrors them."""

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
    """What evaluate.py may be told."""

    run: File
    split: Literal["train", "val", "test"]
    checkpoint: Literal["last", "best"] | None
    folder: File | None
    root: File | None
    views: Views | None
    degrade: Literal["none", "salt_pepper", "half"] | None
    reduce: Literal["probs", "logits"] | None
    reader: Reader | None
    where: TagCondition | None
    device: Device
    workers: Annotated[int, Field(ge=0)] | None


class Recommended(Section):
    """What conf/vmp/learned.yaml takes its lambda, m and n from, in an experiment."""

    lambda_: Annotated[dict[str, NotNegative], Field(alias="lambda")]
    m: float
    n: float


class Config(Section):
    dataset: MotionsDataset | ListDataset | ManifestDataset | PreparedDataset
    backbone: TinyConfig | ResNetConfig | C2DConfig | X3DConfig | TimeSformerConfig
    vmp: NoPrompts | Prompts | FixedPrompts
    recommended: Recommended | None
    train: Train
    optim: Optim
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
        """slow, fast or both; None where there are no prompts, or no pathways to choose from."""
        if self.backbone.name not in PATHWAYS or self.vmp.kind == "none":
            return None
        return "both" if self.vmp.placement == "default" else self.vmp.placement

    @property
    def prompted(self) -> tuple[str, ...]:
        """Pathways with a layer in front of them."""
        if self.vmp.kind == "none":
            return ()
        if self.placement is None:
            return ("video",)
        return PATHWAYS[self.backbone.name] if self.placement == "both" else (self.placement,)

    @property
    def folder(self) -> Path:
        """The run's folder: its name says what it is."""
        v = self.vmp
        kind = v.name if isinstance(v, Prompts) else v.kind
        method = kind if v.kind == "none" else f"{kind}_lambda{v.lambda_:g}"
        placed = f"_{self.placement}" if self.placement else ""
        placed += "" if v.split == "plus_one" or not self.prompted else f"_{v.split}"
        frozen = "" if self.train.freeze == "none" else f"_frozen_{self.train.freeze}"
        seed = f"seed{self.seed}" + (f"-{self.tag}" if self.tag else "")
        seed += f"-{self.trainer.clips}clips" if self.trainer.clips else ""
        return Path(self.output) / self.name / self._start / f"{method}{placed}{frozen}" / seed

    @property
    def _start(self) -> str:
        """The backbone and the weights that it starts from, as part of a folder's name."""
        if self.init_from:
            return f"{self.backbone.key}-run"
        weights = self.backbone.weights
        if not weights:
            return self.backbone.key
        return f"{self.backbone.key}-{weights if weights in zoo.NAMES else 'file'}"


# sections whose keys depend on one of them: group -> (that key, its values)
KINDS: dict[str, tuple[str, dict[str, type[Section]]]] = {
    "dataset": (
        "kind",
        {
            "motions": MotionsDataset,
            "list": ListDataset,
            "manifest": ManifestDataset,
            "prepared": PreparedDataset,
        },
    ),
    "backbone": (
        "name",
        {
            "tiny": TinyConfig,
            "slowfast": ResNetConfig,
            "c2d": C2DConfig,
            "i3d": ResNetConfig,
            "x3d": X3DConfig,
            "timesformer": TimeSformerConfig,
        },
    ),
    "vmp": (
        "kind",
        {
            "none": NoPrompts,
            "learned": Prompts,
            **dict.fromkeys(("gamma", "maxexp", "sigme", "asinhe"), FixedPrompts),
        },
    ),
}
