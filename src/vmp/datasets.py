"""The clips that a config's dataset means: manifests that are read, or made on first use, as one `Splits`."""

import posixpath
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vmp.config import (
    Config,
    CustomDataset,
    FoldersDataset,
    ListDataset,
    ManifestDataset,
    MotionsDataset,
    PreparedDataset,
)
from vmp.data.columns import Clip, Clips
from vmp.data.manifest import Manifest, read_manifest, spread
from vmp.errors import ConfigError, DataError, ManifestError
from vmp.files import MB, write_text
from vmp.invocation import command_line
from vmp.prepare.list_format import read_list

if TYPE_CHECKING:
    import numpy as np

    from vmp.data.decoded import DecodedClips
    from vmp.data.motions import Motions
    from vmp.prepare.children import Work

PREPARE_OPTIONS = {  # dataset -> the options that `vmp prepare` needs
    "hmdb51": "--videos DIR --splits DIR",
    "finegym": "--annotations DIR --videos DIR --cut",
    "mpii_cooking2": "--mat FILE --splits DIR --videos DIR --cut",
    **dict.fromkeys(
        ("kinetics400", "kinetics600", "kinetics700", "ucf101", "ssv2"), "--annotations DIR --videos DIR"
    ),
    **dict.fromkeys(("ut_interaction", "skateboard", "surv_fight", "handwash12"), "--videos DIR"),
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
    hint = ""
    if isinstance(config.dataset, FoldersDataset):
        hint = ", or give val a (larger) share in dataset.ratio, as in [0.6,0.2,0.2]"
        hint += " (without dataset.folds)" if config.dataset.folds else ""
    if not val and config.trainer.select == "best":
        raise ConfigError(f"trainer.select = 'best': the dataset has no validation split; use last{hint}")
    if not val and config.train.patience:
        raise ConfigError(
            f"train.patience = {config.train.patience}: the dataset has no validation split, so nothing says when to "
            f"stop; use null{hint}"
        )
    # published splits are taken as they are: FineGym's neighbouring clips may share a frame
    if not isinstance(config.dataset, PreparedDataset):
        _check_disjoint(splits)
    return splits


def _manifests(config: Config, *, progress: bool) -> tuple[Path, Path | None]:
    """The folders of manifests and videos; the latter is None if a file beside the manifests records it."""
    dataset = config.dataset
    work: Work = {"progress": progress, "timeout": config.data.timeout}
    if isinstance(dataset, MotionsDataset):
        return _generate(dataset, config, progress=progress), None
    if isinstance(dataset, ListDataset):
        return _list(dataset, config, work), Path(dataset.root)
    if isinstance(dataset, CustomDataset):
        return _list_own(dataset, config, work), Path(dataset.root)
    if isinstance(dataset, FoldersDataset):
        return _list_folders(dataset, config, work)
    return _prepared(dataset, config), Path(dataset.root) if dataset.root else None


def _generate(dataset: MotionsDataset, config: Config, *, progress: bool) -> Path:
    from vmp.data.motions import SPLITS, make_motions

    spec = motions_of(dataset)
    check_enough_clips(config, spec.train, "dataset.train")
    if (few := config.trainer.clips) is not None:
        # at least one clip of each class
        sizes = {split: min(getattr(spec, split), max(few, len(spec.names))) for split in SPLITS}
        spec = replace(spec, **sizes)
    return make_motions(Path(config.data.root) / "motions", spec, progress=progress)


def _list(dataset: ListDataset, config: Config, work: "Work") -> Path:
    from vmp.prepare.lists import make_list

    lists = {"train": Path(dataset.train), "val": Path(dataset.val)}
    lists |= {"test": Path(dataset.test)} if dataset.test else {}
    if lists["train"].is_file():
        check_enough_clips(config, len(read_list(lists["train"], "train")), lists["train"])
    return make_list(
        Path(config.data.root) / dataset.name,
        videos=Path(dataset.root),
        lists=lists,
        classes_file=Path(dataset.classes) if dataset.classes else None,
        clock=dataset.clock,
        fps=dataset.fps,
        most=config.trainer.clips,
        **work,
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


def _list_folders(dataset: FoldersDataset, config: Config, work: "Work") -> tuple[Path, Path]:
    """The folders of manifests and of the videos that the plan reads."""
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
    out = Path(config.data.root) / "folders"
    done = prepare(plan, out, long_in_place=True, allow_missing=True, **work)
    if work["progress"]:
        print(f"{done.text}\nthe split is listed in {out / made / 'split.csv'}")
    return out / made, plan.videos


def _prepared(dataset: PreparedDataset | ManifestDataset, config: Config) -> Path:
    """The folder that the config names, or an error that says how it is made."""
    folder = Path(dataset.folder)
    if folder.is_dir():
        return folder
    fold = dataset.fold if isinstance(dataset, PreparedDataset) else None
    if fold and (folds := sorted(folder.parent.glob("fold*"))):
        raise ConfigError(f"dataset.fold = {fold}: {folder.parent} holds folds 1 to {len(folds)}")
    root = Path(config.data.root)
    base = folder.relative_to(root).parts[0] if root in folder.parents else ""  # whatever the user calls it
    if options := PREPARE_OPTIONS.get(base):
        raise ConfigError(
            f"{dataset.name} is not prepared: {folder} does not exist. Prepare it from its videos and annotations:\n"
            f"  {command_line('prepare')} {base} {options} --out {root / base}\n"
            "or name a folder of manifests: dataset.folder=..."
        )
    raise ConfigError(
        f"dataset.folder = {dataset.folder}: no such folder; it must hold classes.txt, train.csv and "
        "val.csv or test.csv, as docs/data.md says"
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


def kept_clips(config: Config, manifest: Manifest) -> "DecodedClips | None":
    """Where the clips of the manifest's videos are kept decoded; None: nowhere."""
    from vmp.data.decoded import DecodedClips

    keep = config.data.keep
    return DecodedClips(Path(config.data.root), manifest.root, keep * MB) if keep else None
