"""Rules between keys: values that are valid by themselves but not together."""

from collections.abc import Iterator

from vmp.backbones import SPECS, zoo
from vmp.config.backbones import CustomBackbone, TimeSformerConfig
from vmp.config.datasets import FoldersDataset, MotionsDataset, PreparedDataset
from vmp.config.prompts import ConstantPrompts, CustomPrompts, FixedPrompts, OraclePrompts, Prompts
from vmp.config.sections import Augment, Config
from vmp.slope_shift import m_of, n_of


def disagreements(c: Config) -> Iterator[str]:
    """One message per contradiction."""
    yield from _prompts(c)
    yield from _weights(c)
    yield from _sizes(c)
    yield from _training(c)
    if isinstance(c.dataset, FoldersDataset):
        yield from _folders(c.dataset)
    if isinstance(c.dataset, PreparedDataset):
        yield from _division(c.dataset)


def _division(d: PreparedDataset) -> Iterator[str]:
    """Keys that choose nothing: the configs of datasets with splits, sets or folds put them into name and folder."""
    for key in ("split", "set", "fold"):
        value = getattr(d, key)
        if value is not None and not any(f"{key}{value}" in text for text in (d.name, str(d.folder))):
            yield (
                f"dataset.{key} = {value} has no effect with dataset {d.name}: neither its name nor its folder depends "
                "on it; drop it"
            )


def _folders(d: FoldersDataset) -> Iterator[str]:
    if d.ratio:
        shown = f"dataset.ratio = [{', '.join(f'{share:g}' for share in d.ratio)}]"
        if d.folds:
            yield f"{shown} and dataset.folds = {d.folds} are two splits; drop one"
        if abs(sum(d.ratio) - 1) > 1e-6:
            yield f"{shown}: the shares of train, val and test must sum to 1, as in [0.8,0,0.2]"
        elif not d.ratio[0] or d.ratio[0] == 1:
            yield f"{shown}: train, and val or test, must have a share above 0"
    if bool(d.folds) != bool(d.fold):
        yield (
            f"dataset.folds = {d.folds or 'null'}, dataset.fold = {d.fold or 'null'}: give both, as in dataset.folds=5 "
            "dataset.fold=1, or neither"
        )
    elif d.folds and d.fold and d.fold > d.folds:
        yield f"dataset.fold = {d.fold}: folds count from 1 to dataset.folds = {d.folds}"


def _prompts(c: Config) -> Iterator[str]:
    v = c.vmp
    if isinstance(v, Prompts):
        yield from _prompts_start(v)
        yield from _prompts_extended(c, v)
    if isinstance(v, FixedPrompts) and v.kind == "maxexp" and v.exponent < 1:
        yield f"vmp.exponent = {v.exponent:g}: must be at least 1 for maxexp"
    if isinstance(v, OraclePrompts) and not isinstance(c.dataset, MotionsDataset):
        yield (
            f"vmp=oracle with dataset {c.dataset.name}: only the generator of dataset=motions knows what really moves; "
            "use vmp=learned, or the controls vmp=other_clip and vmp=constant"
        )
    if v.lambda_ > 0 and v.kind == "none":
        yield f"vmp.lambda = {v.lambda_:g} has no effect with vmp=none, which has no attention; drop one"
    if v.lambda_ > 0 and isinstance(v, FixedPrompts | ConstantPrompts | OraclePrompts):
        yield f"vmp.lambda = {v.lambda_:g} has no effect with vmp={v.kind}, which learns nothing; use 0"
    if len(c.backbone.pathways) > 1:
        if v.kind == "none" and (v.placement != "default" or v.split != "plus_one"):
            yield "vmp.placement and vmp.split have no effect with vmp=none, which has no prompts; drop them"
        return
    several = ", ".join(name for name, spec in SPECS.items() if len(spec.pathways) > 1)
    if v.placement != "default":
        yield (
            f"vmp.placement = {v.placement!r}: {c.backbone.name} has one pathway, so it must be 'default'; "
            f"backbones with pathways: {several}"
        )
    if v.split != "plus_one":
        yield f"vmp.split = {v.split!r} has no effect without pathways; it belongs to backbone={several}"


def _prompts_extended(c: Config, v: Prompts) -> Iterator[str]:
    """What is beyond the paper: options without effect, and patches that do not fill the frames."""
    if v.extended and v.attention_from != "clip":
        yield (
            "vmp.compensate, scales, form and regulariser are about the clip's own differences; they have no effect "
            f"with vmp.attention_from = {v.attention_from}; drop one"
        )
    if not v.pixels and not v.at:
        yield "vmp.pixels = false and vmp.at = null leave nothing to prompt; name a stage, as in vmp.at=res3"
    if not v.pixels and (v.extended or v.attention_from != "clip" or v.modulate != "normalized"):
        yield (
            "vmp.pixels = false: vmp.compensate, scales, form, regulariser, attention_from and modulate are about the "
            "frames; leave them as they are, or prompt these too with vmp.pixels=true"
        )
    if v.regulariser == "compensated" and v.compensate != "none":
        yield f"vmp.regulariser = compensated with vmp.compensate = {v.compensate} compensates twice; use temporal"
    if v.at and len(c.backbone.pathways) > 1:
        yield f"vmp.at = {v.at}: stages of {c.backbone.name} have maps of several pathways; use another backbone"
    if v.at and isinstance(c.backbone, TimeSformerConfig) and c.backbone.attention == "space":
        yield f"vmp.at = {v.at}: with backbone.attention = space no block sees more than a frame; use divided or joint"
    if len(set(v.scales)) < len(v.scales):
        yield f"vmp.scales = {list(v.scales)}: a spacing is there twice"
    spec = c.backbone.spec
    if max(v.scales) > spec.frames:
        most = spec.frames
        yield f"vmp.scales = {list(v.scales)}: clips have {most + 1} frames, so spacings are at most {most}"
    if v.form != "patch":
        for key in ("patch", "pool", "upsample", "patch_scalars"):
            if (value := getattr(v, key)) != Prompts.model_fields[key].default:
                yield f"vmp.{key} = {value} has no effect with vmp.form = {v.form}; add vmp.form=patch, or drop it"
        return
    sides = dict.fromkeys((spec.crop, spec.test_crop))
    if bad := [side for side in sides if side % v.patch]:
        good = [p for p in range(1, min(sides) + 1) if not any(side % p for side in sides)]
        yield (
            f"vmp.patch = {v.patch}: does not divide the frames' side of {', '.join(map(str, bad))} pixels "
            f"(training {spec.crop}, testing {spec.test_crop}); these do: {', '.join(map(str, good))}"
        )
    elif v.patch_scalars == "position" and len(sides) > 1:
        yield (
            f"vmp.patch_scalars = position: frames have {spec.crop} pixels per side in training and {spec.test_crop} "
            "in testing, so that places do not agree; use shared"
        )


def _prompts_start(v: Prompts) -> Iterator[str]:
    """Start values of slope and shift that Eq. 2 cannot give, or that are set twice."""
    for letter, name, find in (
        ("m", "slope", lambda: m_of(v.slope or 0, alpha=v.alpha, beta=v.beta, epsilon=v.epsilon)),
        ("n", "shift", lambda: n_of(v.shift or 0, gamma=v.gamma)),
    ):
        scalar, value = getattr(v, letter), getattr(v, name)
        if value is None:
            continue
        if scalar is not None:
            shown = scalar if isinstance(scalar, str) else f"{scalar:g}"
            yield (
                f"vmp.{letter} = {shown} and vmp.{name} = {value:g} both set where the {name} starts; leave one out"
            )
        try:
            find()
        except ValueError as error:
            yield f"vmp.{name} = {value:g}: {error}"


def _weights(c: Config) -> Iterator[str]:
    """Keys that contradict the weights, or need some."""
    b = c.backbone
    random = not (b.weights or c.init_from or isinstance(b, CustomBackbone))  # whose builder may load weights
    public = b.weights in zoo.NAMES and not c.init_from
    if public and isinstance(b, TimeSformerConfig) and b.attention != "divided":
        yield f"backbone.attention = {b.attention!r}: published weights have divided attention; use weights=none"
    if isinstance(b, TimeSformerConfig) and b.init == "scratch" and not random:
        yield "backbone.init = 'scratch': has no effect on weights that are loaded; drop it, or use weights=none"
    if c.train.freeze != "none":
        if random:
            yield (
                f"train.freeze = {c.train.freeze!r} would freeze random weights; give backbone.weights or "
                "init_from=<a run's folder>"
            )
        if c.train.freeze == "backbone_and_head" and not isinstance(c.vmp, Prompts | CustomPrompts):
            yield f"train.freeze = 'backbone_and_head' leaves nothing to train with vmp={c.vmp.kind}; use vmp=learned"
    if c.train.batch_norm == "frozen" and random:
        yield "train.batch_norm = 'frozen' would freeze random weights; give backbone.weights or init_from"
    if isinstance(b, TimeSformerConfig) and b.flip_patch_embed and (c.init_from or not b.weights):
        yield "backbone.flip_patch_embed turns pretrained weights round; it has no effect without backbone.weights"


def _sizes(c: Config) -> Iterator[str]:
    """Sizes that a backbone cannot have."""
    b = c.backbone
    if b.name in ("c2d", "i3d") and b.frames == 1:
        yield f"backbone.frames = 1: {b.name} halves time once, so at least 2"
    if b.name == "slowfast" and b.frames and (b.frames % 4 or b.frames < 8):
        yield f"backbone.frames = {b.frames}: the slow pathway takes every fourth, so a multiple of 4, at least 8"
    if isinstance(b, TimeSformerConfig):
        crop, patch, dim, heads = b.crop or SPECS[b.key].crop, b.patch or 16, b.dim or 768, b.heads or 12
        if crop % patch:
            yield f"backbone.crop = {crop}: must be a multiple of the patch, {patch}"
        if dim % heads:
            yield f"backbone.dim = {dim}: must be a multiple of backbone.heads = {heads}"


def _training(c: Config) -> Iterator[str]:
    t, o, a = c.trainer, c.optim, c.augment
    if isinstance(c.vmp, OraclePrompts) and (a.mixup or a.cutmix or a.rand_ops or a.erase):
        yield "augment changes frames, and not the masks that vmp=oracle has beside them; use augment=none"
    if not a.rand_ops and a.rand_magnitude != Augment.model_fields["rand_magnitude"].default:
        yield (
            f"augment.rand_magnitude = {a.rand_magnitude} has no effect with augment.rand_ops = 0; give the number of "
            "operations, as in augment.rand_ops=2"
        )
    if c.data.degrade_in == "both" and c.data.degrade == "none":
        yield "data.degrade_in = both has no effect with data.degrade = none; give data.degrade=salt_pepper or half"
    if t.clips is not None and t.clips < t.batch_size:
        yield (
            f"trainer.clips = {t.clips}: fewer than one update, trainer.batch_size = {t.batch_size}; raise the one or "
            "lower the other"
        )
    if c.train.sampling == c.train.class_weights == "balanced":
        yield "train.sampling = balanced and train.class_weights = balanced each make up for rare classes; drop one"
    if t.channels_last and isinstance(c.backbone, TimeSformerConfig):
        yield "trainer.channels_last = true is for networks of 3-D convolutions; timesformer has none"
    if c.data.reader == "torchcodec_cuda" and t.device == "cpu":
        yield "data.reader = torchcodec_cuda decodes on a GPU, and trainer.device = cpu; use another reader"
    if t.cudnn_benchmark is True and t.deterministic:
        yield "trainer.cudnn_benchmark = true chooses kernels by time, against trainer.deterministic = true; drop one"
    if o.nesterov and (o.kind != "sgd" or o.momentum == 0):
        yield "optim.nesterov = true needs optim.kind = sgd and optim.momentum above 0"
    if o.schedule != "steps" and (o.at or o.factors):
        yield (
            f"optim.at and optim.factors have no effect with optim.schedule = {o.schedule}; use "
            "optim.schedule=steps, or null for both"
        )
    if o.schedule == "steps":
        at, factors = o.at or (), o.factors or ()
        if not at or len(at) != len(factors) or at[0] != 0 or list(at) != sorted(set(at)):
            yield f"optim.at = {list(at)} must rise from 0 and have as many entries as optim.factors = {list(factors)}"
