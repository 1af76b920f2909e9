"""The second command: test a run again, on another split, on chosen clips, with other views or degraded frames."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vmp.build import backbone_spec, build_model, find_splits
from vmp.config import Config, Evaluate, check_evaluate
from vmp.data.manifest import Manifest
from vmp.data.present import Present, digest, find_clips
from vmp.errors import ConfigError, RunError
from vmp.files import write_json
from vmp.machine import device_name
from vmp.provenance import provenance
from vmp.runs.folder import check_same_data, config_of
from vmp.runs.score import measure, print_result, score


def evaluate(cfg: DictConfig) -> None:
    """Test a run again and write FOLDER/evaluations/...; the run itself stays as it is."""
    options = check_evaluate(OmegaConf.to_container(cfg, resolve=True))
    folder = Path(options.run)
    config = _changed(folder, options)
    select = options.checkpoint or config.trainer.select
    splits = find_splits(config)
    found_splits, split = dict(splits.named()), options.split
    if split not in found_splits:
        split = "val" if splits.val else "test"
        print(f"{config.name} has no {options.split} split; taking {split}")
    manifest = found_splits[split]
    present = find_clips(manifest, reader=config.data.reader, max_bad_fraction=config.data.max_bad_fraction)
    check_same_data(folder, {split: digest(manifest, present)})
    if options.where:
        present = only(manifest, present, options.where)

    from vmp.engine import checkpoint, dist
    from vmp.runs import resume

    processes = dist.start(options.device)
    try:
        spec = backbone_spec(config)
        spec = replace(spec, reduce=options.reduce or spec.reduce)
        model = build_model(config, len(splits.classes), spec).to(processes.device)
        take = checkpoint.best if select == "best" else checkpoint.newest
        found = resume.one_for_all(folder / "checkpoints", take, processes)
        if found is None:
            raise RunError(f"run = {folder}: no such checkpoint in it yet ({select})")
        model.load_state_dict(found.model)
        views = options.views or config.trainer.views or spec.views
        scores = score(
            config, model, spec, manifest, present, views, processes, split, workers=options.workers
        )
        if processes.first:
            where = folder / "evaluations" / folder_name(options, split, select, views)
            where.mkdir(parents=True, exist_ok=True)
            result = {
                "run": str(folder),
                "checkpoint": found.path.name,
                "split": split,
                "views": list(views),
                "reduce": spec.reduce,
                "degrade": config.data.degrade,
                "readers": sorted(set(present.readers)),
                "where": options.where,
                **measure(scores, manifest, present, where),
                **provenance(),
                "device": device_name(processes.device),
            }
            write_json(where / "result.json", result)
            print_result(where)
    finally:
        dist.stop()


def folder_name(options: Evaluate, split: str, select: str, views: tuple[int, int]) -> str:
    """Of an evaluation, in the run's `evaluations`."""
    chosen = options.where and re.sub(
        r"[^\w.+-]+", "-", options.where.replace(">", "-above-").replace("<", "-below-")
    )
    parts = [split, select, f"{views[0]}x{views[1]}", options.degrade, options.reduce, options.reader, chosen]
    return "_".join(part for part in parts if part)


def only(manifest: Manifest, present: Present, where: str) -> Present:
    """The clips with a tag, a further column of the manifest.

    Args:
        where: "TAG=WORD", one of the tag's words; "TAG>NUMBER" or "TAG<NUMBER".

    Raises:
        ConfigError: no clip has such a tag, or none matches.
    """
    tag, sign, wanted = (part.strip() for part in re.split(r"([=<>])", where, maxsplit=1))
    tags = {name for clip in manifest.clips for name in clip.tags}
    if tag not in tags:
        raise ConfigError(
            f"where = {where!r}: no clip of {manifest.path} has {tag!r}; "
            f"there are {', '.join(sorted(tags)) or 'no tags'}"
        )

    def matches(value: str) -> bool:
        if sign == "=":
            return wanted in value.split()
        try:
            return float(value) > float(wanted) if sign == ">" else float(value) < float(wanted)
        except ValueError:
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


def _changed(folder: Path, options: Evaluate) -> Config:
    """The run's config, with what the options change."""
    config = config_of(folder)
    moved = {key: value for key in ("folder", "root") if (value := getattr(options, key))}
    if moved and not moved.keys() <= type(config.dataset).model_fields.keys():
        raise ConfigError(
            f"{', '.join(moved)}: dataset {config.name} has no such key; it is made where data.root is"
        )
    changes: dict[str, Any] = {"dataset": config.dataset.model_copy(update=moved)}
    data = {key: value for key in ("degrade", "reader") if (value := getattr(options, key))}
    changes["data"] = config.data.model_copy(update=data)
    return config.model_copy(update=changes)
