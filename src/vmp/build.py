"""Build objects from a checked config: model, prompts, optimizer, schedule, clip shape.

torch is imported inside the functions, so checks that do not need it fail quickly.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

from vmp.backbones import build_backbone
from vmp.config import (
    Config,
    CustomBackbone,
    CustomPrompts,
    MotionsDataset,
    OraclePrompts,
    Prompts,
)
from vmp.data.sampler import WEIGHTS, generator
from vmp.datasets import motions_of, true_masks
from vmp.errors import ConfigError
from vmp.pathways import pathway_frames
from vmp.prompts import build_inside, build_prompts

if TYPE_CHECKING:
    from torch import nn

    from vmp.data.dataset import ClipShape
    from vmp.engine.schedule import Schedule
    from vmp.model import PromptedClassifier


def make_backbone(config: Config, classes: int) -> "nn.Module":
    """The backbone with random weights; a custom one as its builder returns it."""
    b = config.backbone
    if isinstance(b, CustomBackbone):
        from vmp.own import build_backbone as build_own

        return build_own(b.target, b.options, num_classes=classes)

    return build_backbone(b.key, num_classes=classes, spec=b.spec, **b.options())


def build_model(config: Config, classes: int) -> "PromptedClassifier":
    """The model with random weights. For one seed, the backbone's weights are equal with and without prompts."""
    import torch

    from vmp.finetune import set_batch_norm

    prompts, inside = build_prompts(config), build_inside(config)
    torch.manual_seed(int(generator(WEIGHTS, config.weights_seed, 1).integers(2**62)))
    backbone = make_backbone(config, classes)
    model = attach_prompts(config, backbone, prompts, inside)
    if config.trainer.channels_last:
        model = model.to(memory_format=torch.channels_last_3d)
    return set_batch_norm(model, config.train.batch_norm)


def attach_prompts(
    config: Config,
    backbone: "nn.Module",
    prompts: dict[str, Any],
    inside: dict[str, Any] | None = None,
) -> "PromptedClassifier":
    """A model with prompt layers in front of the backbone (pathway -> layer) and inside it (stage -> layer)."""
    from vmp.model import PromptedClassifier

    spec = config.backbone.spec
    frames = None
    if len(spec.pathways) > 1:
        frames = pathway_frames(
            frames=spec.frames, alpha=spec.alpha, prompted=config.prompted, split=config.vmp.split
        )
    return PromptedClassifier(
        backbone,
        prompts=prompts,
        inside=inside,
        pathway_frames=frames,
        mean=spec.mean,
        std=spec.std,
        variation_in_training=config.vmp.lambda_ > 0,
    )


def set_precision_switches(config: Config) -> None:
    """Set torch's switches for TF32 and cuDNN in this process. Outside of training, `auto` means torch's default."""
    import torch

    t = config.trainer
    torch.backends.cudnn.benchmark = t.cudnn_benchmark is True
    torch.backends.cudnn.allow_tf32 = t.tf32 is not False
    torch.backends.cuda.matmul.allow_tf32 = t.tf32 is True


def build_optimizer(config: Config, model: "PromptedClassifier") -> Any:
    """SGD or AdamW with up to four groups of parameters: prompts, normalisation layers, the head (if it has its own
    rate), and the rest. With layer decay, each group of the backbone is divided by block, the last one first.

    Raises:
        ConfigError: no parameter is trained.
    """
    import torch

    from vmp.finetune import blocks_of, head_of, parameter_groups

    o, v = config.optim, config.vmp
    lr = o.lr * config.trainer.batch_size / (o.ref_batch or config.trainer.batch_size)
    rest, norms = parameter_groups(model.backbone)
    layers = [*model.prompts.parameters(), *model.inside.parameters()]
    prompts = [p for p in layers if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": rest, "lr": lr, "weight_decay": o.weight_decay},
        {"params": norms, "lr": lr, "weight_decay": o.norm_weight_decay},
    ]
    if o.head_lr_mult != 1:
        head = {id(p) for module in head_of(model.backbone) for p in module.parameters()}
        groups[0]["params"] = [p for p in rest if id(p) not in head]
        own = [p for p in rest if id(p) in head]
        groups.append({"params": own, "lr": lr * o.head_lr_mult, "weight_decay": o.weight_decay})
    if o.layer_decay != 1:
        blocks = [{id(p) for p in block} for block in blocks_of(model.backbone)]
        groups = [
            {
                **group,
                "params": [p for p in group["params"] if id(p) in block],
                "lr": group["lr"] * o.layer_decay**below,
            }
            for group in groups
            for below, block in enumerate(reversed(blocks))
        ]
    if isinstance(v, Prompts | CustomPrompts):
        decay = o.weight_decay if v.weight_decay is None else v.weight_decay
        groups.append({"params": prompts, "lr": lr * v.lr_mult, "weight_decay": decay})
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ConfigError(
            f"nothing to train: no parameter of backbone={config.backbone.key} requires a gradient, and vmp={v.kind} "
            "has none"
        )
    fused = config.trainer.fused or None  # None leaves the choice to torch, False would not
    if o.kind == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(o.momentum, 0.999), fused=fused)
    return torch.optim.SGD(groups, lr=lr, momentum=o.momentum, nesterov=o.nesterov, fused=fused)


def build_schedule(config: Config) -> "Schedule":
    """The schedule: epoch (a real number) -> factor on the learning rate."""
    from vmp.engine import schedule

    o, epochs = config.optim, config.trainer.epochs
    warmup: dict[str, float] = {"warmup_epochs": o.warmup * epochs, "warmup_start": o.warmup_start}
    if o.schedule == "cosine":
        return schedule.cosine(epochs=epochs, **warmup)
    return schedule.steps(at=o.at or (0,), factors=o.factors or (1,), **warmup)


def clip_shape(config: Config, model: "PromptedClassifier", *, crops: int = 3) -> "ClipShape":
    """What to decode for a clip: number of frames (with the extra ones for prompts), spacing, size, and views.

    Args:
        crops: spatial crops per temporal view in testing. Several are spread over a frame with short side
            spec.test_side; a single one is the centre of a frame with the smallest short side of training, as in
            PySlowFast.
    """
    from vmp.data.dataset import ClipShape

    masks, spec = None, config.backbone.spec
    if isinstance(config.vmp, OraclePrompts) and isinstance(config.dataset, MotionsDataset):
        masks = partial(true_masks, motions_of(config.dataset))
    frames = spec.frames + (1 if model.prompts else 0)
    if model.pathway_frames:
        frames = model.pathway_frames.frames
    return ClipShape(
        masks=masks,
        frames=frames,
        stride=spec.stride,
        fps=spec.fps,
        spacing=spec.spacing,
        anchor=config.trainer.anchor,
        degrade=config.data.degrade,
        degrade_in=config.data.degrade_in,
        short=config.backbone.short,
        crop=spec.crop,
        jitter=spec.jitter,
        flip=config.dataset.flip,
        test_side=spec.test_side if crops > 1 else max(spec.jitter[0], spec.test_crop),
        test_crop=spec.test_crop,
    )
