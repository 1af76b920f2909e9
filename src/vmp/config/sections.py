"""A config: its sections on training and testing, and the config as a whole. `Config.folder` is its run's folder.

`dataset`, `backbone` and `vmp` have other keys for each kind, and files of their own.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from vmp.backbones import zoo
from vmp.choices import Anchor, BatchNorm, Degradation, Freeze, Reader, Reduce
from vmp.config.backbones import (
    C2DConfig,
    CustomBackbone,
    InceptionConfig,
    ResNetConfig,
    SlowFastConfig,
    TimeSformerConfig,
    TinyConfig,
    X3DConfig,
)
from vmp.config.datasets import (
    CustomDataset,
    FoldersDataset,
    ListDataset,
    ManifestDataset,
    MotionsDataset,
    PreparedDataset,
)
from vmp.config.prompts import (
    ConstantPrompts,
    CustomPrompts,
    FixedPrompts,
    NoPrompts,
    OraclePrompts,
    Prompts,
)
from vmp.config.types import (
    Count,
    Device,
    File,
    Fraction,
    NotNegative,
    Positive,
    Section,
    Seed,
    TagCondition,
    Text,
    Views,
    Word,
)


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
    order_seed: Seed | None = None
    weights_seed: Seed | None = None


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
    seed: Seed
    tag: Word | None
    init_from: File | None
    output: File
    name: Word  # of the dataset, in the run's folder

    @property
    def order_seed(self) -> int:
        """Of the order of the clips, their augmentation and dropout."""
        return self.seed if self.train.order_seed is None else self.train.order_seed

    @property
    def weights_seed(self) -> int:
        """Of the initial weights that are not loaded. m and n, where they are drawn, follow from `seed`."""
        return self.seed if self.train.weights_seed is None else self.train.weights_seed

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
        for name, fixed in (("order", self.train.order_seed), ("weights", self.train.weights_seed)):
            seed += "" if fixed is None else f"-{name}{fixed}"
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
