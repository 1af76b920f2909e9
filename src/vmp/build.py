"""From a checked config to objects. The last file that knows the config, but for run.py, which runs them.

torch is imported inside the functions, after everything that can be wrong without it has been checked.
"""

import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vmp.config import Config, FixedPrompts, ListDataset, MotionsDataset, Prompts
from vmp.data.manifest import Clip, Manifest, read_manifest
from vmp.errors import ConfigError, ManifestError

if TYPE_CHECKING:
    from vmp.backbones import Spec
    from vmp.data.dataset import ClipShape
    from vmp.model import PromptedClassifier


class Splits(NamedTuple):
    train: Manifest
    val: Manifest
    test: Manifest | None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    def named(self) -> Iterator[tuple[str, Manifest]]:
        yield "train", self.train
        yield "val", self.val
        if self.test:
            yield "test", self.test


def find_splits(config: Config, *, progress: bool = True) -> Splits:
    """Manifests of the dataset that the config names; `motions` and `list` are made here, or found made.

    Raises:
        ManifestError, ConfigError: what is wrong and how to put it right.
    """
    dataset, home = config.dataset, Path(config.data.root)
    videos: Path | None = None
    if isinstance(dataset, MotionsDataset):
        from vmp.data.motions import Motions, make_motions

        spec = Motions(**dataset.model_dump(exclude={"kind", "name", "flip"}))
        folder = make_motions(home / "motions", spec, progress=progress)
    elif isinstance(dataset, ListDataset):
        from vmp.data.listing import make_list

        videos = Path(dataset.root)
        lists = {"train": Path(dataset.train), "val": Path(dataset.val)}
        lists |= {"test": Path(dataset.test)} if dataset.test else {}
        names = Path(dataset.classes) if dataset.classes else None
        folder = make_list(
            home / dataset.name, videos=videos, lists=lists, classes_file=names, progress=progress
        )
    else:
        folder, videos = Path(dataset.folder), Path(dataset.root) if dataset.root else None
        if not folder.is_dir():
            raise ConfigError(
                f"dataset.folder = {dataset.folder}: no such folder; it should hold train.csv and val.csv"
            )
    train, val = (read_manifest(folder / f"{split}.csv", root=videos) for split in ("train", "val"))
    test = read_manifest(folder / "test.csv", root=videos) if (folder / "test.csv").exists() else None
    splits = Splits(train, val, test)
    trained_on: dict[str, list[Clip]] = {}
    for clip in train.clips:
        trained_on.setdefault(posixpath.normpath(clip.path), []).append(clip)
    for name, other in splits.named():
        shared = [
            clip
            for clip in (other.clips if name != "train" else ())
            if any(_overlap(clip, own) for own in trained_on.get(posixpath.normpath(clip.path), ()))
        ]
        if shared:
            raise ManifestError(
                f"{other.path}: {len(shared)} clip(s) are in {train.path} too, for instance {shared[0].id} "
                f"({shared[0].path}); a model must not be tested on what it was trained on"
            )
    return splits


def backbone_spec(config: Config) -> "Spec":
    """Published sizes, or those that the config sets."""
    from vmp import backbones

    b = config.backbone
    return backbones.backbone_spec(b.key).at(frames=b.frames, stride=b.stride, crop=b.crop)


def build_model(config: Config, classes: int, spec: "Spec") -> "PromptedClassifier":
    """The model with start weights from the seed; the backbone's are the same with and without prompts."""
    import torch

    from vmp.backbones import build_backbone
    from vmp.data.sampler import WEIGHTS, generator
    from vmp.model import PromptedClassifier

    prompts = build_prompts(config, spec)
    torch.manual_seed(int(generator(WEIGHTS, config.seed, 1).integers(2**62)))
    options = {"dropout": config.backbone.dropout}
    options |= {"width": config.backbone.width} if config.backbone.width else {}
    backbone = build_backbone(config.backbone.key, num_classes=classes, spec=spec, **options)
    return PromptedClassifier(
        backbone,
        prompts=prompts,
        mean=spec.mean,
        std=spec.std,
        variation_in_training=config.vmp.lambda_ > 0,
    )


def build_prompts(config: Config, spec: "Spec") -> dict[str, Any]:
    """Pathway -> layer; start values of m and n come from the seed."""
    import torch

    from vmp.data.sampler import WEIGHTS, generator
    from vmp.layer import MotionPrompt
    from vmp.power_norm import FAMILY

    v = config.vmp
    torch.manual_seed(int(generator(WEIGHTS, config.seed, 0).integers(2**62)))
    if isinstance(v, Prompts):
        constants = v.model_dump(include={"alpha", "beta", "gamma", "epsilon", "m", "n"})
    elif isinstance(v, FixedPrompts):
        constants = {"power_norm": FAMILY[v.kind](v.exponent, entry=v.entry)}
    else:
        return {}
    layer = MotionPrompt(
        mean=spec.mean, std=spec.std, grey=v.grey, modulate=v.modulate, variation=v.variation, **constants
    )
    return {"video": layer}


def build_optimizer(config: Config, model: "PromptedClassifier") -> Any:
    """SGD in up to three groups: the scalars of the prompts, normalisation layers, the rest."""
    import torch
    from torch import nn

    o, v = config.optim, config.vmp
    lr = o.lr * config.trainer.batch_size / (o.ref_batch or config.trainer.batch_size)
    norm_types = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
    prompts = list(model.prompts.parameters())
    norms = [p for m in model.modules() if isinstance(m, norm_types) for p in m.parameters(recurse=False)]
    taken = {id(p) for p in (*prompts, *norms)}
    rest = [p for p in model.parameters() if id(p) not in taken]
    groups: list[dict[str, Any]] = [
        {"params": rest, "lr": lr, "weight_decay": o.weight_decay},
        {"params": norms, "lr": lr, "weight_decay": o.norm_weight_decay},
    ]
    if isinstance(v, Prompts):
        decay = o.weight_decay if v.weight_decay is None else v.weight_decay
        groups.append({"params": prompts, "lr": lr * v.lr_mult, "weight_decay": decay})
    groups = [group for group in groups if group["params"]]
    return torch.optim.SGD(groups, lr=lr, momentum=o.momentum, nesterov=o.nesterov)


def clip_shape(config: Config, spec: "Spec", extra_frames: int) -> "ClipShape":
    from vmp.data.dataset import ClipShape

    return ClipShape(
        frames=spec.frames + extra_frames,
        stride=spec.stride,
        short=config.backbone.short,
        crop=spec.crop,
        jitter=spec.jitter,
        flip=config.dataset.flip,
        test_side=spec.test_side,
        test_crop=spec.test_crop,
    )


def _overlap(a: Clip, b: Clip) -> bool:
    """Whether two clips of one file share a frame."""
    return a.start < (b.end or b.frames or 1) and b.start < (a.end or a.frames or 1)
