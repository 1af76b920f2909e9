"""What a config may say: every key, its type and range, and what has to agree with what.

Notable here:
- no torch: a wrong key or value is told in a second, before any data is read;
- `lambda` is a Python keyword, so it lives under that name in YAML and as `lambda_` here;
- sizes left null in `backbone` are the published ones (vmp.backbones.SPECS).
"""

import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vmp.errors import ConfigError

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Word = Annotated[str, Field(pattern=r"^\w[\w.+-]*$")]  # part of a folder's name
PATHWAYS: dict[str, tuple[str, ...]] = {"slowfast": ("slow", "fast")}  # of backbones that have more than one


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True, strict=False)


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
    root: str
    train: str
    val: str
    test: str | None
    classes: str | None
    flip: Fraction


class ManifestDataset(Section):
    """A folder that holds train.csv, val.csv (and test.csv) and classes.txt already."""

    kind: Literal["manifest"]
    name: Word
    folder: str
    root: str | None
    flip: Fraction


class Backbone(Section):
    name: Literal["tiny", "x3d"]
    size: Literal["xs", "s", "m", "l"] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)]
    width: Count | None = None
    frames: Count | None
    stride: Count | None
    crop: Annotated[int, Field(ge=16)] | None
    short: Literal["stretch", "clamp", "loop"]

    @property
    def key(self) -> str:
        """Its name in vmp.backbones.SPECS."""
        return f"{self.name}_{self.size}" if self.size else self.name


class NoPrompts(Section):
    kind: Literal["none"]
    lambda_: Annotated[float, Field(alias="lambda", ge=0)]
    placement: Literal["default", "slow", "fast", "both"]


class Prompts(NoPrompts):
    kind: Literal["learned"]  # type: ignore[assignment]
    name: Word
    alpha: Positive
    beta: Positive
    gamma: Annotated[float, Field(gt=0, lt=1)]
    epsilon: Positive
    m: float | None
    n: float | None
    grey: Literal["rgb", "bgr"]
    modulate: Literal["normalized", "pixel"]
    variation: Literal["mean", "frobenius"]
    lr_mult: Positive
    weight_decay: NotNegative | None


class FixedPrompts(NoPrompts):
    kind: Literal["gamma", "maxexp", "sigme", "asinhe"]  # type: ignore[assignment]
    exponent: Positive
    entry: Literal["magnitude", "affine"]
    grey: Literal["rgb", "bgr"]
    modulate: Literal["normalized", "pixel"]
    variation: Literal["mean", "frobenius"]


class Optim(Section):
    schedule: Literal["cosine", "steps"]
    lr: Positive
    ref_batch: Count | None
    momentum: Annotated[float, Field(ge=0, lt=1)]
    nesterov: bool
    weight_decay: NotNegative
    norm_weight_decay: NotNegative
    warmup_epochs: NotNegative
    warmup_start: Fraction
    at: tuple[float, ...] | None = None
    factors: tuple[Positive, ...] | None = None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]


class Trainer(Section):
    epochs: Count
    batch_size: Count
    micro_batch: Count | None
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda|cuda:\d+)$")]
    amp: Literal["none", "bf16"]
    compile: bool
    select: Literal["last", "best"]
    views: tuple[Count, Count] | None
    workers: Annotated[int, Field(ge=0)] | None
    threads: Count | None
    log_every: Count
    save_minutes: Positive
    keep: Annotated[int, Field(ge=1)]
    deterministic: bool


class Data(Section):
    root: str
    reader: Literal["auto", "opencv", "pyav", "decord", "torchcodec"]
    max_bad_fraction: Fraction
    timeout: NotNegative


class Logger(Section):
    kind: Literal["files"]


class Config(Section):
    dataset: MotionsDataset | ListDataset | ManifestDataset
    backbone: Backbone
    vmp: NoPrompts | Prompts | FixedPrompts
    optim: Optim
    trainer: Trainer
    data: Data
    logger: Logger
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    tag: Word | None
    output: str
    name: Word  # of the dataset, in the run's folder

    @property
    def folder(self) -> Path:
        """The run's folder: its name says what it is."""
        v = self.vmp
        kind = v.name if isinstance(v, Prompts) else v.kind
        method = kind if v.kind == "none" else f"{kind}_lambda{v.lambda_:g}"
        placed = "" if v.placement == "default" else f"_{v.placement}"
        seed = f"seed{self.seed}" + (f"-{self.tag}" if self.tag else "")
        return Path(self.output) / self.name / self.backbone.key / f"{method}{placed}" / seed


_KINDS: dict[str, dict[str, type[Section]]] = {
    "dataset": {"motions": MotionsDataset, "list": ListDataset, "manifest": ManifestDataset},
    "vmp": {
        "none": NoPrompts,
        "learned": Prompts,
        **dict.fromkeys(("gamma", "maxexp", "sigme", "asinhe"), FixedPrompts),
    },
}


def check(raw: Mapping[str, Any]) -> Config:
    """A composed config, checked.

    Raises:
        ConfigError: listing every wrong key and value with what is allowed.
    """
    values: dict[str, Any] = dict(raw)
    faults: list[str] = []
    for group, kinds in _KINDS.items():  # the kind first, so that faults are told of that kind's keys only
        section = values.get(group)
        if not isinstance(section, Mapping):
            raise ConfigError(
                f"{group} = {section!r}: must be one of the files in conf/{group}, as in {group}=NAME"
            )
        kind = section.get("kind")
        if kind not in kinds:
            raise ConfigError(f"{group}.kind = {kind!r}: must be one of {', '.join(kinds)}")
        values[group] = _section(kinds[kind], section, group, faults)
    for group, field in Config.model_fields.items():
        if (
            group not in _KINDS
            and isinstance(field.annotation, type)
            and issubclass(field.annotation, Section)
        ):
            section = values.get(group, {})
            if not isinstance(section, Mapping):
                raise ConfigError(
                    f"{group} = {section!r}: must be a section; its keys are set as in {group}.KEY=VALUE"
                )
            values[group] = _section(field.annotation, section, group, faults)
    if not faults:
        try:
            config = Config.model_validate(values)
        except ValidationError as error:
            faults += [_say(fault, "", Config) for fault in error.errors()]
        else:
            faults += list(_disagreements(config))
    if faults:
        raise ConfigError("\n".join(faults))
    return config


def _section(
    model: type[Section], values: Mapping[str, Any], group: str, faults: list[str]
) -> Section | None:
    absent = [key for key, value in values.items() if value == "???"]
    if absent:
        faults += [f"{group}.{key}: must be given, as in {group}.{key}=..." for key in absent]
        return None
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        faults += [_say(fault, f"{group}.", model) for fault in error.errors()]
        return None


def _say(fault: Any, prefix: str, model: type[BaseModel]) -> str:
    """One pydantic fault as `key = value: what is allowed`."""
    path = [str(part) for part in fault["loc"]]
    key = prefix + ".".join(path)
    if fault["type"] == "extra_forbidden":
        return f"{key}: no such key{suggest(path[-1], [f.alias or n for n, f in model.model_fields.items()], prefix)}"
    if fault["type"] == "missing":
        return f"{key}: missing"
    shown = fault["input"]
    if isinstance(shown, float) and not math.isfinite(shown):
        return f"{key} = {shown}: must be a finite number"
    message = fault["msg"]
    message = (
        "must be " + message.removeprefix("Input should be ")
        if message.startswith("Input should be")
        else message
    )
    return f"{key} = {shown!r}: {message}"


def suggest(wrong: str, known: list[str], prefix: str = "") -> str:
    """`; did you mean x?`, or what there is."""
    close = difflib.get_close_matches(wrong, known, n=1, cutoff=0.6)
    return f"; did you mean {prefix}{close[0]}?" if close else f"; there are {', '.join(sorted(known))}"


def _disagreements(c: Config):  # type: ignore[no-untyped-def]
    """Values that are fine alone and wrong together."""
    pathways = PATHWAYS.get(c.backbone.name)
    if c.vmp.placement != "default" and not pathways:
        yield (
            f"vmp.placement = {c.vmp.placement!r}: {c.backbone.name} has one pathway, so it must be 'default'; "
            f"backbones with pathways: {', '.join(PATHWAYS)}"
        )
    if c.vmp.kind == "none" and c.vmp.lambda_ > 0:
        yield f"vmp.lambda = {c.vmp.lambda_:g} has no effect with vmp=none, which has no attention; drop one"
    if isinstance(c.vmp, FixedPrompts):
        if c.vmp.kind == "maxexp" and c.vmp.exponent < 1:
            yield f"vmp.exponent = {c.vmp.exponent:g}: must be at least 1 for maxexp"
        if c.vmp.lambda_ > 0:
            yield f"vmp.lambda = {c.vmp.lambda_:g} has no effect with vmp={c.vmp.kind}, which learns nothing; use 0"
    if c.backbone.name == "x3d" and not c.backbone.size:
        yield "backbone.size: must be xs, s, m or l for x3d"
    if c.backbone.name == "x3d" and c.backbone.crop and c.backbone.crop < 32:
        yield f"backbone.crop = {c.backbone.crop}: x3d halves it five times, so at least 32"
    if c.backbone.name != "x3d" and c.backbone.size:
        yield f"backbone.size = {c.backbone.size!r}: {c.backbone.name} comes in one size; leave it out"
    if c.backbone.name != "tiny" and c.backbone.width:
        yield f"backbone.width = {c.backbone.width}: only tiny has a width"
    if c.trainer.micro_batch and c.trainer.batch_size % c.trainer.micro_batch:
        yield (
            f"trainer.micro_batch = {c.trainer.micro_batch} must divide trainer.batch_size = {c.trainer.batch_size}, "
            "the clips of one update"
        )
    if c.optim.nesterov and c.optim.momentum == 0:
        yield "optim.nesterov = true needs optim.momentum above 0"
    if c.optim.warmup_epochs >= c.trainer.epochs:
        yield (
            f"optim.warmup_epochs = {c.optim.warmup_epochs:g} must be below trainer.epochs = {c.trainer.epochs}, "
            "or the learning rate never arrives"
        )
    if c.optim.schedule == "steps":
        at, factors = c.optim.at or (), c.optim.factors or ()
        if not at or len(at) != len(factors) or at[0] != 0 or list(at) != sorted(set(at)):
            yield f"optim.at = {list(at)} must rise from 0 and have as many entries as optim.factors = {list(factors)}"
