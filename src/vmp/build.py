"""Build objects from a checked config: manifests, model, prompts, optimizer, schedule, clip shape.

torch is imported inside the functions, so checks that do not need it fail quickly.
"""

import posixpath
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vmp.backbones import build_backbone
from vmp.config import (
    Config,
    CustomBackbone,
    CustomDataset,
    CustomPrompts,
    FoldersDataset,
    ListDataset,
    MotionsDataset,
    OraclePrompts,
    PreparedDataset,
    Prompts,
)
from vmp.data.columns import Clip, Clips
from vmp.data.manifest import Manifest, read_manifest, spread
from vmp.data.sampler import WEIGHTS, generator
from vmp.errors import ConfigError, DataError, ManifestError
from vmp.files import MB, write_text
from vmp.invocation import command_line
from vmp.pathways import pathway_frames
from vmp.prepare.list_format import read_list
from vmp.prompts import build_inside, build_prompts

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from vmp.data.dataset import ClipShape
    from vmp.data.decoded import DecodedClips
    from vmp.data.motions import Motions
    from vmp.engine.schedule import Schedule
    from vmp.model import PromptedClassifier
    from vmp.prepare.children import Work


PREPARE_OPTIONS = {  # dataset -> the options that `vmp prepare` needs, if it needs more than --videos
    "hmdb51": "--videos DIR --splits DIR",
    "finegym": "--annotations DIR --videos DIR --cut",
    "mpii_cooking2": "--mat FILE --splits DIR --videos DIR --cut",
    **dict.fromkeys(
        ("kinetics400", "kinetics600", "kinetics700", "ucf101", "ssv2"), "--annotations DIR --videos DIR"
    ),
}


class Splits(NamedTuple):
    train: Manifest
    val: Manifest | None
    test: Manifest | None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    @property
    def tested(self) -> tuple[str, Manifest]:
        """Name and manifest of the split for the final test: test, or val if there is no test split."""
        manifest = self.test or self.val
        assert manifest
        return "test" if self.test else "val", manifest

    def named(self) -> Iterator[tuple[str, Manifest]]:
        yield "train", self.train
        if self.val:
            yield "val", self.val
        if self.test:
            yield "test", self.test


def find_splits(config: Config, *, progress: bool = True) -> Splits:
    """Manifests of the config's dataset; those of `motions`, `list` and `folders` are made on first use.

    Raises:
        ManifestError, ConfigError: the dataset is missing or cannot be used.
    """
    folder, videos = _manifests(config, progress=progress)

    def read(split: str) -> Manifest:
        manifest = read_manifest(folder / f"{split}.csv", root=videos)
        return replace(manifest, clips=spread(manifest.clips, config.trainer.clips))

    val, test = (read(split) if (folder / f"{split}.csv").exists() else None for split in ("val", "test"))
    splits = Splits(read("train"), val, test)
    check_enough_clips(config, len(splits.train.clips), splits.train.path)
    if not val and not test:
        raise ConfigError(f"{folder}: holds neither val.csv nor test.csv, so there is nothing to test on")
    if not val and config.trainer.select == "best":
        raise ConfigError("trainer.select = 'best': the dataset has no validation split; use last")
    if not val and config.train.patience:
        raise ConfigError(
            f"train.patience = {config.train.patience}: the dataset has no validation split, so nothing says when to "
            "stop; use null"
        )
    # published splits are taken as they are: FineGym's neighbouring clips may share a frame
    if not isinstance(config.dataset, PreparedDataset):
        _check_disjoint(splits)
    return splits


def _manifests(config: Config, *, progress: bool) -> tuple[Path, Path | None]:
    """The folders of manifests and videos; the latter is None if a file beside the manifests records it."""
    dataset, home = config.dataset, Path(config.data.root)
    work: Work = {"progress": progress, "timeout": config.data.timeout}
    if isinstance(dataset, MotionsDataset):
        from vmp.data.motions import SPLITS, make_motions

        spec = motions_of(dataset)
        check_enough_clips(config, spec.train, "dataset.train")
        if (few := config.trainer.clips) is not None:
            # at least one clip of each class
            sizes = {split: min(getattr(spec, split), max(few, len(spec.names))) for split in SPLITS}
            spec = replace(spec, **sizes)
        return make_motions(home / "motions", spec, progress=progress), None
    if isinstance(dataset, ListDataset):
        from vmp.prepare.lists import make_list

        videos = Path(dataset.root)
        lists = {"train": Path(dataset.train), "val": Path(dataset.val)}
        lists |= {"test": Path(dataset.test)} if dataset.test else {}
        names = Path(dataset.classes) if dataset.classes else None
        if lists["train"].is_file():
            check_enough_clips(config, len(read_list(lists["train"], "train")), lists["train"])
        folder = make_list(
            home / dataset.name,
            videos=videos,
            lists=lists,
            classes_file=names,
            clock=dataset.clock,
            fps=dataset.fps,
            most=config.trainer.clips,
            **work,
        )
        return folder, videos
    if isinstance(dataset, CustomDataset):
        return _list_own(dataset, config, work), Path(dataset.root)
    if isinstance(dataset, FoldersDataset):
        from vmp.prepare.dataset import prepare
        from vmp.prepare.folders import plan_folders

        plan, made = plan_folders(
            Path(dataset.root),
            Path(dataset.csv) if dataset.csv else None,
            ratio=dataset.ratio,
            folds=dataset.folds,
            fold=dataset.fold,
            seed=dataset.seed,
            most=config.trainer.clips,
            fps=dataset.fps,
        )
        check_enough_clips(config, len(plan.splits[f"{made}/train"]), dataset.root)
        out = home / "folders"
        done = prepare(plan, out, long_in_place=True, allow_missing=True, **work)
        if progress:
            print(f"{done.text}\nthe split is listed in {out / made / 'split.csv'}")
        return out / made, plan.videos
    folder = Path(dataset.folder)
    if folder.is_dir():
        return folder, Path(dataset.root) if dataset.root else None
    if isinstance(dataset, PreparedDataset):
        base = dataset.name.partition("-")[0]
        if dataset.fold and (folds := sorted(folder.parent.glob("fold*"))):
            raise ConfigError(f"dataset.fold = {dataset.fold}: {folder.parent} holds folds 1 to {len(folds)}")
        raise ConfigError(
            f"{dataset.name} is not prepared: {folder} does not exist. Prepare it from its videos and annotations:\n"
            f"  {command_line('prepare')} {base} {PREPARE_OPTIONS.get(base, '--videos DIR')} --out {home / base}\n"
            "or name a folder of manifests: dataset.folder=..."
        )
    raise ConfigError(
        f"dataset.folder = {dataset.folder}: no such folder; it must hold classes.txt, train.csv and "
        "val.csv or test.csv, as docs/data.md says"
    )


def _list_own(dataset: CustomDataset, config: Config, work: "Work") -> Path:
    """Write the rows of a user's function as lists, and return the folder of their manifests."""
    import hashlib

    from vmp.own import list_rows
    from vmp.prepare.lists import make_list

    texts = list_rows(dataset.target, dataset.options)
    check_enough_clips(config, texts["train"].count("\n") - 1, f"dataset.target = {dataset.target}")
    home = Path(config.data.root) / dataset.name
    folder = home / f"rows-{hashlib.sha256(repr(texts).encode()).hexdigest()[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    for split, text in texts.items():
        write_text(folder / f"{split}.csv", text)
    return make_list(
        home,
        videos=Path(dataset.root),
        lists={split: folder / f"{split}.csv" for split in texts},
        clock=dataset.clock,
        fps=dataset.fps,
        most=config.trainer.clips,
        **work,
    )


def motions_of(dataset: MotionsDataset) -> "Motions":
    """The generator's settings for a dataset."""
    from vmp.data.motions import Motions

    return Motions(**dataset.model_dump(exclude={"kind", "name", "flip"}))


def true_masks(spec: "Motions", clip: Clip, frames: "np.ndarray") -> "np.ndarray":
    """Masks of the object in frames of a clip of `motions`: frame numbers (T,) -> (T, S, S) uint8.

    Raises:
        DataError: the clip is not one of `motions`.
    """
    from vmp.data.motions import SPLITS, object_masks

    split, _, number = clip.id.partition("/")
    if split not in SPLITS or not number.isdecimal():
        raise DataError(
            f"{clip.path}: only the generator of dataset=motions knows what really moves (vmp=oracle)"
        )
    return object_masks(spec, split, int(number), frames)


def check_enough_clips(config: Config, clips: int, where: object) -> None:
    """Raise ConfigError if there are fewer training clips than one update takes."""
    batch = config.trainer.batch_size
    if clips < batch:
        raise ConfigError(
            f"trainer.batch_size = {batch}: {where} has {clips} usable clips, too few for one update; lower "
            "trainer.batch_size"
        )


def _check_disjoint(splits: Splits) -> None:
    """Raise ManifestError if a frame is both trained and tested on."""
    import numpy as np

    train = Clips.of(splits.train.clips)
    trained_on: dict[str, list[int]] = {}
    for row, path in enumerate(train.texts("path")):
        trained_on.setdefault(posixpath.normpath(path), []).append(row)
    starts, ends = train.numbers("start"), _ends(train)

    @cache
    def spans(path: str) -> "tuple[np.ndarray, np.ndarray]":
        """Of the clips trained on from a file, by their starts: these, and the furthest end up to each."""
        rows = np.array(trained_on[path])
        rows = rows[np.argsort(starts[rows])]
        return starts[rows], np.maximum.accumulate(ends[rows])

    for other in (splits.val, splits.test):
        clips = Clips.of(other.clips if other else ())
        paths = map(posixpath.normpath, clips.texts("path"))
        shared = []
        for row, (path, start, end) in enumerate(
            zip(paths, clips.numbers("start"), _ends(clips), strict=True)
        ):
            if path in trained_on:
                before, reach = spans(path)
                begun = np.searchsorted(before, end)  # clips that begin before this one ends
                if begun and reach[begun - 1] > start:
                    shared.append(clips[row])
        if other and shared:
            raise ManifestError(
                f"{other.path}: {len(shared)} clip(s) are in {splits.train.path} too, for instance {shared[0].id} "
                f"({shared[0].path}); a model must not be tested on what it was trained on"
            )


def _ends(clips: Clips) -> "np.ndarray":
    """(N,), the frame behind the last one of each clip; 1 where neither the clip nor its file says it."""
    end = clips.numbers("end")
    return (end * (end > 0) + clips.numbers("frames") * (end <= 0)).clip(1)


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


def kept_clips(config: Config, manifest: Manifest) -> "DecodedClips | None":
    """Where the clips of the manifest's videos are kept decoded; None: nowhere."""
    from vmp.data.decoded import DecodedClips

    keep = config.data.keep
    return DecodedClips(Path(config.data.root), manifest.root, keep * MB) if keep else None


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
