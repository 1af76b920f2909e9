"""What a config may say: every key, its type and range, and what has to agree with what.

Notable here:
- no torch: a wrong key or value is told in a second, before any data is read;
- `lambda` is a Python keyword, so it lives under that name in YAML and as `lambda_` here;
- sizes left null in `backbone` are the published ones (vmp.backbones.SPECS).
"""

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from vmp.backbones import SPECS, zoo
from vmp.data.times import Clock
from vmp.errors import ConfigError
from vmp.slope_shift import m_of, n_of

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
IS_PATH = object()  # marks the keys that hold a path


def _text(value: Any) -> Any:
    """YAML's and Hydra's 2026 as text."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _word(value: str) -> str:
    if not re.fullmatch(r"\w[\w.+-]*", value):
        short = re.sub(r"[^\w.+-]+", "-", value).strip("-.+") or "word"
        raise ValueError(
            f"must be one word of letters, digits, and . + - _ after the first, as {short}: it names a folder"
        )
    return value


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        meant = {"gpu": "cuda", "nvidia": "cuda"}.get(value.lower(), value.lower())
        hint = f"; did you mean {meant}?" if re.fullmatch(r"auto|cpu|cuda(:\d+)?", meant) else ""
        raise ValueError(f"must be auto, cpu, cuda or cuda:N, with N the number of a device{hint}")
    return value


def _where(value: str) -> str:
    if not re.fullmatch(r"[\w -]+[=<>].+", value):
        raise ValueError(
            "must be TAG=WORD, TAG>NUMBER or TAG<NUMBER, in quotes for the shell: 'where=speed>0.9'"
        )
    return value


def _expanded(value: Any) -> Any:
    """`~/videos` as a shell has it."""
    text = _text(value)
    return str(Path(text).expanduser()) if isinstance(text, str) and text.startswith("~") else text


Word = Annotated[str, BeforeValidator(_text), AfterValidator(_word)]  # part of a folder's name
File = Annotated[str, BeforeValidator(_expanded), IS_PATH]  # or a folder
Device = Annotated[str, AfterValidator(_device)]
PATHWAYS: dict[str, tuple[str, ...]] = {"slowfast": ("slow", "fast")}  # of backbones that have more than one


def parse_views(value: Any) -> Any:
    """`10x3` as [10, 3]."""
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+)x(\d+)", value)):
        return int(match[1]), int(match[2])
    if isinstance(value, list | tuple) and len(value) == 2:
        return value
    raise ValueError("must be TEMPORALxSPATIAL, the clips along a video by the crops of each, as 10x3")


Views = Annotated[tuple[Count, Count], BeforeValidator(parse_views)]  # temporal, spatial


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


class Backbone(Section):
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
        own = set(type(self).model_fields) - set(Backbone.model_fields) - {"size", "flip_patch_embed"}
        chosen = {key: getattr(self, key) for key in sorted(own)} | {"dropout": self.dropout}
        return {key: value for key, value in chosen.items() if value is not None}


class Tiny(Backbone):
    width: Count


class ResNet(Backbone):
    name: Literal["i3d", "slowfast"]  # type: ignore[assignment]
    width: Annotated[int, Field(ge=8, multiple_of=8)] | None
    blocks: Count | None


class C2D(ResNet):
    name: Literal["c2d"]  # type: ignore[assignment]
    temporal_pool: bool


class X3D(Backbone):
    name: Literal["x3d"]  # type: ignore[assignment]
    size: Literal["xs", "s", "m", "l"]
    width: Annotated[int, Field(ge=8, multiple_of=4)] | None
    blocks: Count | None
    shortcut_norm: bool

    @property
    def key(self) -> str:
        return f"x3d_{self.size}"


class TimeSformer(Backbone):
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
    project: Annotated[str, BeforeValidator(_text), Field(min_length=1, max_length=128)] | None = None
    entity: Annotated[str, Field(min_length=1)] | None = None
    group: Annotated[str, BeforeValidator(_text), Field(min_length=1, max_length=128)] | None = None
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
    where: Annotated[str, AfterValidator(_where)] | None
    device: Device
    workers: Annotated[int, Field(ge=0)] | None


class Recommended(Section):
    """What conf/vmp/learned.yaml takes its lambda, m and n from, in an experiment."""

    lambda_: Annotated[dict[str, NotNegative], Field(alias="lambda")]
    m: float
    n: float


class Config(Section):
    dataset: MotionsDataset | ListDataset | ManifestDataset | PreparedDataset
    backbone: Tiny | ResNet | C2D | X3D | TimeSformer
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
            "tiny": Tiny,
            "slowfast": ResNet,
            "c2d": C2D,
            "i3d": ResNet,
            "x3d": X3D,
            "timesformer": TimeSformer,
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


def check(raw: Mapping[str, Any]) -> Config:
    """A composed config, checked.

    Raises:
        ConfigError: listing every wrong key and value with what is allowed.
    """
    values: dict[str, Any] = dict(raw)
    faults: list[str] = []
    for group, (key, kinds) in KINDS.items():
        # the kind first, so that faults are told of that kind's keys only
        section = values.get(group)
        if not isinstance(section, Mapping):
            raise ConfigError(
                f"{group} = {section!r}: must be one of the files in conf/{group}, as in {group}=NAME"
            )
        kind = section.get(key)
        if not isinstance(kind, str) or kind not in kinds:
            raise ConfigError(f"{group}.{key} = {kind!r}: must be one of {', '.join(kinds)}")
        values[group] = _section(kinds[kind], section, group, faults)
    for group, field in Config.model_fields.items():
        if (
            group not in KINDS
            and isinstance(field.annotation, type)
            and issubclass(field.annotation, Section)
        ):
            section = values.get(group, {})
            if not isinstance(section, Mapping):
                from vmp.keys import MEANT

                meant = f"; did you mean {MEANT[group]}={section}?" if group in MEANT else ""
                raise ConfigError(
                    f"{group} = {section!r}: must be a section; its keys are set as in {group}.KEY=VALUE{meant}"
                )
            values[group] = _section(field.annotation, section, group, faults)
    if not faults:
        faults += _bent(Config, values, "")
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


def check_evaluate(raw: Any) -> Evaluate:
    """The options of evaluate.py, checked.

    Raises:
        ConfigError: listing every wrong key and value with what is allowed.
    """
    faults: list[str] = []
    options = _section(Evaluate, {key: value for key, value in raw.items() if key != "hydra"}, "", faults)
    if faults:
        raise ConfigError("\n".join(faults))
    assert isinstance(options, Evaluate)
    return options


def _section(
    model: type[Section], values: Mapping[str, Any], group: str, faults: list[str]
) -> Section | None:
    prefix = f"{group}." if group else ""
    absent = [f"{prefix}{key}" for key, value in values.items() if value == "???"]
    if absent:
        faults += [f"{key}: must be given, as in {key}=..." for key in absent]
        return None
    bent = _bent(model, values, prefix)
    if bent:
        faults += bent
        return None
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        faults += [_say(fault, prefix, model) for fault in error.errors()]
        return None


def _bent(model: type[BaseModel], values: Mapping[str, Any], prefix: str) -> list[str]:
    """Faults: true and false where a number belongs, which pydantic takes for 1 and 0."""
    return [
        f"{prefix}{name} = {str(values[name]).lower()}: must not be true or false"
        for key, field in model.model_fields.items()
        if isinstance(values.get(name := field.alias or key), bool)
        and bool not in (field.annotation, *get_args(field.annotation))
    ]


def _say(fault: Any, prefix: str, model: type[BaseModel]) -> str:
    """One pydantic fault as `key = value: what is allowed`."""
    key = prefix + ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        from vmp.keys import no_such_key

        return no_such_key(key, "evaluate" if model is Evaluate else "train")
    if fault["type"] == "missing":
        return f"{key}: missing"
    shown = fault["input"]
    if isinstance(shown, float) and not math.isfinite(shown):
        return f"{key} = {shown}: must be a finite number"
    message = fault["msg"].removeprefix("Value error, ").replace("Input should be ", "must be ")
    message = {
        "tuple_type": "must be a list, as in [1,2]",
        "bool_parsing": "must be true or false",
        "bool_type": "must be true or false",
        "int_from_float": "must be a whole number",
        "int_parsing": "must be a whole number",
        "float_parsing": "must be a number",
        "float_type": "must be a number",
        "int_type": "must be a whole number",
        "string_type": "must be text",
    }.get(fault["type"], message)
    return f"{key} = {'null' if shown is None else repr(shown)}: {message}"


def suggest(wrong: str, known: list[str], prefix: str = "") -> str:
    """`; did you mean x?`, or what there is."""
    close = difflib.get_close_matches(wrong, known, n=1, cutoff=0.6)
    return f"; did you mean {prefix}{close[0]}?" if close else f"; there are {', '.join(sorted(known))}"


def _weights(c: Config) -> Iterator[str]:
    """What makes no sense without weights, or with these."""
    b = c.backbone
    public = b.weights in zoo.NAMES and not c.init_from
    if public and isinstance(b, TimeSformer) and b.attention != "divided":
        yield f"backbone.attention = {b.attention!r}: published weights have divided attention; use weights=none"
    if c.train.freeze != "none":
        if not b.weights and not c.init_from:
            yield (
                f"train.freeze = {c.train.freeze!r} would freeze random weights; give backbone.weights or "
                "init_from=<a run's folder>"
            )
        if c.train.freeze == "backbone_and_head" and c.vmp.kind != "learned":
            yield f"train.freeze = 'backbone_and_head' leaves nothing to train with vmp={c.vmp.kind}; use vmp=learned"
    if c.train.batch_norm == "frozen" and not b.weights and not c.init_from:
        yield "train.batch_norm = 'frozen' would freeze random weights; give backbone.weights or init_from"
    if isinstance(b, TimeSformer) and b.flip_patch_embed and (c.init_from or not b.weights):
        yield "backbone.flip_patch_embed turns pretrained weights round; it has no effect without backbone.weights"


def check_start(c: Config) -> None:
    """What a new run starts from is there, or can be fetched; a run that has begun does not need it any more.

    Raises:
        ConfigError: it is not.
    """
    if c.init_from:
        if not Path(c.init_from).expanduser().exists():
            raise ConfigError(f"init_from = {c.init_from!r}: no such run or checkpoint")
    elif c.backbone.weights in zoo.NAMES:
        zoo.find(c.backbone.key, c.backbone.weights)
    elif c.backbone.weights and not Path(c.backbone.weights).expanduser().exists():
        names = ", ".join(zoo.NAMES)
        raise ConfigError(
            f"backbone.weights = {c.backbone.weights!r}: neither a name ({names}) nor a file that is there"
        )


def _sizes(c: Config) -> Iterator[str]:
    """Sizes that a backbone cannot have."""
    b = c.backbone
    if b.name in ("c2d", "i3d") and b.frames == 1:
        yield f"backbone.frames = 1: {b.name} halves time once, so at least 2"
    if b.name == "slowfast" and b.frames and (b.frames % 4 or b.frames < 8):
        yield f"backbone.frames = {b.frames}: the slow pathway takes every fourth, so a multiple of 4, at least 8"
    if isinstance(b, TimeSformer):
        crop, patch, dim, heads = b.crop or SPECS[b.key].crop, b.patch or 16, b.dim or 768, b.heads or 12
        if crop % patch:
            yield f"backbone.crop = {crop}: must be a multiple of the patch, {patch}"
        if dim % heads:
            yield f"backbone.dim = {dim}: must be a multiple of backbone.heads = {heads}"


def _prompts_start(v: Prompts) -> Iterator[str]:
    """Start values of slope and shift that cannot be, or are given twice."""
    for letter, name, find in (
        ("m", "slope", lambda: m_of(v.slope or 0, alpha=v.alpha, beta=v.beta, epsilon=v.epsilon)),
        ("n", "shift", lambda: n_of(v.shift or 0, gamma=v.gamma)),
    ):
        scalar, value = getattr(v, letter), getattr(v, name)
        if value is None:
            continue
        if scalar is not None:
            yield (
                f"vmp.{letter} = {scalar:g} and vmp.{name} = {value:g} both set where the {name} starts; leave one out"
            )
        try:
            find()
        except ValueError as error:
            yield f"vmp.{name} = {value:g}: {error}"


def _disagreements(c: Config) -> Iterator[str]:
    """Values that are fine alone and wrong together."""
    if isinstance(c.vmp, Prompts):
        yield from _prompts_start(c.vmp)
    if c.trainer.clips is not None and c.trainer.clips < c.trainer.batch_size:
        yield (
            f"trainer.clips = {c.trainer.clips}: fewer than one update, trainer.batch_size = {c.trainer.batch_size}; "
            "raise the one or lower the other"
        )
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
    if c.vmp.split != "plus_one" and not pathways:
        yield f"vmp.split = {c.vmp.split!r} has no effect without pathways; it belongs to backbone=slowfast"
    if c.vmp.kind == "none" and (c.vmp.placement != "default" or c.vmp.split != "plus_one") and pathways:
        yield "vmp.placement and vmp.split have no effect with vmp=none, which has no prompts; drop them"
    if c.trainer.channels_last and isinstance(c.backbone, TimeSformer):
        yield "trainer.channels_last = true is for networks of 3-D convolutions; timesformer has none"
    if c.data.reader == "torchcodec_cuda" and c.trainer.device == "cpu":
        yield "data.reader = torchcodec_cuda decodes on a GPU, and trainer.device = cpu; use another reader"
    if c.trainer.cudnn_benchmark and c.trainer.deterministic:
        yield "trainer.cudnn_benchmark = true chooses kernels by time, against trainer.deterministic = true; drop one"
    if isinstance(c.dataset, PreparedDataset) and c.dataset.split and not c.dataset.name.startswith("hmdb51"):
        yield f"dataset.split = {c.dataset.split}: only hmdb51 has splits to choose from; leave it out"
    yield from _weights(c)
    yield from _sizes(c)
    if c.optim.nesterov and (c.optim.kind != "sgd" or c.optim.momentum == 0):
        yield "optim.nesterov = true needs optim.kind = sgd and optim.momentum above 0"
    if c.optim.schedule == "steps":
        at, factors = c.optim.at or (), c.optim.factors or ()
        if not at or len(at) != len(factors) or at[0] != 0 or list(at) != sorted(set(at)):
            yield f"optim.at = {list(at)} must rise from 0 and have as many entries as optim.factors = {list(factors)}"
