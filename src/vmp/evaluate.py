"""The second command: tests a run again, on another split, on chosen clips, with other views or degraded frames."""

import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from vmp.build import find_splits
from vmp.config import Config, Evaluate, check_evaluate
from vmp.data.manifest import Manifest
from vmp.data.present import Present, digest
from vmp.errors import ConfigError
from vmp.machine import device_name
from vmp.provenance import provenance
from vmp.runs.folder import check_same_data, load_config
from vmp.runs.records import write_result
from vmp.runs.score import find_split, print_result, record_scores, score


def evaluate(cfg: DictConfig) -> None:
    """Test a run again and write FOLDER/evaluations/...; the run itself stays as it is."""
    options = check_evaluate(OmegaConf.to_container(cfg, resolve=True))
    folder = Path(options.run)
    config = _changed(load_config(folder), options)
    splits = find_splits(config)
    manifests, name = dict(splits.named()), options.split
    if name not in manifests:
        name = "val" if splits.val else "test"
        print(f"{config.name} has no {options.split} split; taking {name}")
    split = find_split(config, name, manifests[name])
    check_same_data(folder, {name: digest(split.manifest, split.present)})
    if options.where:
        split = split._replace(present=only(split.manifest, split.present, options.where))

    from vmp.engine import dist
    from vmp.runs.open import open_run

    processes = dist.start(options.device)
    try:
        opened = open_run(folder, checkpoint=options.checkpoint, device=processes.device, processes=processes)
        spec = replace(opened.spec, reduce=options.reduce or opened.spec.reduce)
        views = options.views or config.trainer.views or spec.views
        scores = score(
            opened.model,
            split,
            config=config,
            spec=spec,
            views=views,
            processes=processes,
            workers=options.workers,
        )
        if processes.first:
            select = options.checkpoint or config.trainer.select
            where = folder / "evaluations" / folder_name(options, name, select, views)
            where.mkdir(parents=True, exist_ok=True)
            result = {
                "run": str(folder),
                "checkpoint": opened.checkpoint,
                "split": name,
                "views": list(views),
                "reduce": spec.reduce,
                "degrade": config.data.degrade,
                "readers": sorted(set(split.present.readers)),
                "where": options.where,
                **record_scores(scores, split, where),
                **provenance(),
                "device": device_name(processes.device),
            }
            write_result(where, result)
            print_result(where)
    finally:
        dist.stop()


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
    moved = {key: value for key in ("folder", "root") if (value := getattr(options, key))}
    if moved and not moved.keys() <= type(config.dataset).model_fields.keys():
        raise ConfigError(
            f"{', '.join(moved)}: dataset {config.name} has no such key; it is made where data.root is"
        )
    data = {key: value for key in ("degrade", "reader") if (value := getattr(options, key))}
    changed = {
        "dataset": config.dataset.model_copy(update=moved),
        "data": config.data.model_copy(update=data),
    }
    return config.model_copy(update=changed)
