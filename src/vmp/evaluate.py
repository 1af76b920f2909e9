"""The second command: tests a run again, on another split, on chosen clips, with other views or degraded frames; and
published weights with nothing trained."""

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from vmp.build import set_precision_switches
from vmp.cli import print_notes
from vmp.config import Config, Evaluate, check_evaluate, check_start
from vmp.config.keys import path_fields
from vmp.data.manifest import Manifest, read_manifest, write_classes
from vmp.data.present import Present, digest
from vmp.datasets import Splits, find_splits
from vmp.errors import ConfigError
from vmp.machine import device_name
from vmp.preflight import check_workers
from vmp.provenance import provenance
from vmp.ranks import read_rank
from vmp.runs.folder import check_same_data, check_writable, load_config
from vmp.runs.heads import explain_other_classes
from vmp.runs.records import is_finished, write_result
from vmp.runs.run import read_run
from vmp.runs.score import Split, find_split, print_result, record_scores, score
from vmp.targets import trust

if TYPE_CHECKING:
    from vmp.engine.dist import Processes
    from vmp.runs.open import Opened


def evaluate(cfg: DictConfig) -> None:
    """Test a run again and write FOLDER/evaluations/...; the run itself stays as it is."""
    options = check_evaluate(OmegaConf.to_container(cfg, resolve=True))
    check_workers(options.workers, "workers")
    if options.trust:
        trust(*options.trust.split(","))
    if options.list and options.folder:
        raise ConfigError(
            f"folder = {options.folder}: of manifests, so it has no effect with list = {options.list}, whose videos "
            "are in root=FOLDER; leave one out"
        )
    folder = Path(options.run)
    config = _changed(load_config(folder), options)
    if options.list:
        split = _listed(config, options, read_run(folder).classes)
    else:
        _check_paths(config, folder)
        split = _chosen(config, find_splits(config), options)
        advice = "Restore them; to test the run on other videos, name a list of them: list=FILE root=FOLDER"
        check_same_data(folder, {split.name: digest(split.manifest, split.present)}, advice)
    split = _only(split, options)

    from vmp.engine import dist
    from vmp.runs.open import open_run

    processes = dist.start(options.device)
    try:
        opened = open_run(folder, checkpoint=options.checkpoint, device=processes.device, processes=processes)
        select = options.checkpoint or config.trainer.select
        if processes.first:
            print_notes(opened.notes)
        finished = read_run(folder).result.get("finished") if is_finished(folder) else None
        about = {"run": str(folder), "run_finished": finished, "checkpoint": opened.checkpoint}
        _test(opened, split, config, options, processes, folder / "evaluations", about, select=select)
    finally:
        dist.stop()


def evaluate_published(config: Config, options: Evaluate) -> None:
    """Test the weights of a config as they are, on a dataset or a list with their classes.

    The result goes to OUTPUT/DATASET/BACKBONE-WEIGHTS/METHOD/published/.

    Raises:
        ConfigError: the dataset's classes are not those of the weights, in their order, or nothing says what they are.
    """
    from vmp.backbones.weights import resolve
    from vmp.engine import dist
    from vmp.runs.open import open_published

    check_workers(options.workers, "workers")
    for key in ("checkpoint", "folder", *(() if options.list else ("root",))):
        if value := getattr(options, key):
            own = "published weights have none" if key == "checkpoint" else f"use dataset.{key}={value}"
            raise ConfigError(f"{key} = {value}: {own}")
    check_start(config)
    # any training split is large enough
    no_batch = {"trainer": config.trainer.model_copy(update={"batch_size": 1})}
    config = _changed(config.model_copy(update=no_batch), options)
    splits = None if options.list else find_splits(config)
    processes = dist.start(options.device)
    try:
        opened = open_published(config, device=processes.device)
        path, row = resolve(str(config.backbone.weights), config.backbone.key)
        if splits:
            published = row.name if row else ""
            if why := explain_other_classes(path, splits.classes, config.dataset.name, published=published):
                raise ConfigError(f"{config.name}: the weights cannot be tested on it: {why}")
            split = _chosen(config, splits, options)
        else:
            split = _listed(config, options, opened.classes)
            config = config.model_copy(update={"name": split.name})
        split = _only(split, options)
        if processes.first:
            names, last = opened.classes, len(opened.classes) - 1
            print_notes(opened.notes)
            print(
                f"{last + 1} classes in the order of the weights: 0 {names[0]}, 1 {names[1]}, ... {last} {names[-1]}"
            )
            if row and row.top1:
                print(f"published top-1: {row.top1:g}")
        about = {
            "backbone": config.backbone.key,
            "weights": {"source": str(config.backbone.weights)},
            "published_top1": row.top1 if row else None,
        }
        _test(opened, split, config, options, processes, config.folder.parent / "published", about)
    finally:
        dist.stop()


def _test(
    opened: "Opened",
    split: Split,
    config: Config,
    options: Evaluate,
    processes: "Processes",
    home: Path,
    about: dict[str, Any],
    *,
    select: str = "",
) -> None:
    """Score the split and write home/SPLIT_.../. about: what result.json says of the model.

    Raises:
        RunError: before anything is scored: the folder cannot be written.
    """
    views = options.views or config.trainer.views or opened.spec.views
    where = home / folder_name(options, split.name, select, views)
    copied = ["evaluate a copy of the run's folder, in a place where you may write"] if "run" in about else []
    check_writable(where, *copied)
    set_precision_switches(config)
    reduce = options.reduce or opened.spec.reduce
    scores = score(
        opened.model,
        split,
        config=config,
        views=views,
        processes=processes,
        reduce=reduce,
        workers=options.workers,
    )
    if scores is None:  # not the first process
        return
    where.mkdir(parents=True, exist_ok=True)
    result = {
        **about,
        "split": split.name,
        "views": list(views),
        "reduce": reduce,
        "degrade": config.data.degrade,
        "readers": sorted(set(split.present.readers)),
        "where": options.where,
        **record_scores(scores, split, where),
        **provenance(),
        "device": device_name(processes.device),
    }
    write_result(where, result)
    print_result(where, classes=len(split.manifest.classes))


def _chosen(config: Config, splits: Splits, options: Evaluate) -> Split:
    manifests, name = dict(splits.named()), options.split
    if name not in manifests:
        name = "val" if splits.val else "test"
        print(f"{config.name} has no {options.split} split; taking {name}")
    return find_split(config, name, manifests[name])


def _listed(config: Config, options: Evaluate, classes: Sequence[str]) -> Split:
    """The videos of options.list, whose labels are names of these classes, or their numbers from 0.

    Raises:
        ConfigError, ManifestError: the list or the folder of its videos is missing, or a label is no class.
    """
    from vmp.prepare.lists import make_list

    file, videos = Path(str(options.list)), Path(options.root or Path(str(options.list)).parent)
    for key, missing in (("list", not file.is_file()), ("root", not videos.is_dir())):
        if missing:
            raise ConfigError(f"{key} = {file if key == 'list' else videos}: not found")
    home = Path(config.data.root) / "lists"
    names = home / "classes" / f"{hashlib.sha256(repr(tuple(classes)).encode()).hexdigest()[:8]}.txt"
    write_classes(names, classes)
    folder = make_list(
        home, videos=videos, lists={options.split: file}, classes_file=names, progress=read_rank().first
    )
    # two lists may have one name, as test.csv; make_list names its folder by a digest of what the list says
    name = "-".join(("list", re.sub(r"[^\w.+-]+", "-", file.stem), folder.name))
    return find_split(config, name, read_manifest(folder / f"{options.split}.csv", root=videos))


def _check_paths(config: Config, folder: Path) -> None:
    """Raise ConfigError where a run was trained with relative paths that lead nowhere from the working folder."""
    for key in path_fields(config.dataset):
        path = getattr(config.dataset, key)
        if isinstance(path, str) and not Path(path).is_absolute() and not Path(path).exists():
            other = ", or say where the videos are: root=FOLDER" if key == "root" else ""
            raise ConfigError(
                f"{folder}: its dataset.{key} = {path} is relative to the folder in which the run was trained, and not "
                f"in {Path.cwd()}; start the command there{other}"
            )


def _only(split: Split, options: Evaluate) -> Split:
    if not options.where:
        return split
    return split._replace(present=only(split.manifest, split.present, options.where))


def folder_name(options: Evaluate, split: str, select: str, views: tuple[int, int]) -> str:
    """Name of an evaluation's folder, in the run's `evaluations`."""
    chosen = (options.where or "").replace(">", "-above-").replace("<", "-below-")
    chosen = re.sub(r"[^\w.+-]+", "-", chosen)
    parts = [split, select, f"{views[0]}x{views[1]}", options.degrade, options.reduce, options.reader, chosen]
    return "_".join(part for part in parts if part)


def only(manifest: Manifest, present: Present, where: str) -> Present:
    """Keep the clips whose tag, an extra column of the manifest, satisfies a condition.

    Args:
        where: "TAG=WORD" (the tag has this word), "TAG>NUMBER" or "TAG<NUMBER".

    Raises:
        ConfigError: no clip has such a tag, or none matches.
    """
    tag, sign, wanted = (part.strip() for part in re.split(r"([=<>])", where, maxsplit=1))
    tags = {name for clip in manifest.clips for name in clip.tags}
    if tag not in tags:
        known = ", ".join(sorted(tags)) or "no tags"
        raise ConfigError(f"where = {where!r}: no clip of {manifest.path} has {tag!r}; there are {known}")

    def matches(value: str) -> bool:
        if sign == "=":
            return wanted in value.split()
        with suppress(ValueError):
            return float(value) > float(wanted) if sign == ">" else float(value) < float(wanted)
        return False

    ids = {clip.id for clip in manifest.clips if matches(clip.tags.get(tag, ""))}
    kept = [(c, r) for c, r in zip(present.clips, present.readers, strict=True) if c.id in ids]
    if not kept:
        raise ConfigError(
            f"where = {where!r}: matches none of the {len(present.clips)} usable clips of {manifest.path}"
        )
    clips, readers = zip(*kept, strict=True)
    bad = {clip_id: reason for clip_id, reason in present.bad.items() if clip_id in ids}
    return Present(tuple(clips), tuple(readers), len(ids), bad)


def _changed(config: Config, options: Evaluate) -> Config:
    """The run's config with the changes that the options ask for."""
    moved = {
        key: value for key in ("folder", "root") if (value := getattr(options, key)) and not options.list
    }
    if moved and not moved.keys() <= type(config.dataset).model_fields.keys():
        raise ConfigError(
            f"{', '.join(moved)}: dataset {config.name} has no such key; its videos are generated below data.root"
        )
    for key, value in moved.items():
        if not Path(value).is_dir():
            raise ConfigError(f"{key} = {value}: no such folder")
    data = {key: value for key in ("degrade", "reader") if (value := getattr(options, key))}
    changed = {
        "dataset": config.dataset.model_copy(update=moved),
        "data": config.data.model_copy(update=data),
    }
    return config.model_copy(update=changed)
