"""The commands: a run in a folder, from a composed config to a result.

Notable here:
- the same command again continues the run in its folder (folder.py) or says that it is finished;
- whatever can be wrong with config or data is told before torch is imported.
"""

import json
import os
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from vmp.build import (
    Splits,
    backbone_spec,
    build_model,
    build_optimizer,
    clip_shape,
    find_splits,
    start_weights,
)
from vmp.config import Config, check, check_start, parse_views
from vmp.data.manifest import Manifest
from vmp.data.present import Present, digest, find_clips
from vmp.errors import ConfigError, RunError, UserError
from vmp.files import write_json
from vmp.folder import begun, check_same_data, check_same_run, run_folder

if TYPE_CHECKING:
    from vmp.backbones import Spec
    from vmp.engine.dist import Processes
    from vmp.engine.evaluator import Scores
    from vmp.engine.loggers import Log


def train(cfg: DictConfig) -> None:
    """Train, or continue, the run that the config describes, test it, and write its records."""
    raw = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(raw, dict)
    config = check(raw)  # type: ignore[arg-type]
    first = int(os.environ.get("RANK", 0)) == 0
    check_same_run(config.folder, raw)
    if not begun(config.folder):
        check_start(config)
    if (config.folder / "result.json").exists():
        if first:
            print(f"{config.folder} is finished:")
            _print_result(config.folder)
            print(
                "For another run change a setting, the seed or tag=WORD; to repeat it, move the folder away."
            )
        return
    splits = find_splits(config, progress=first)
    presents = {
        name: find_clips(m, reader=config.data.reader, max_bad_fraction=config.data.max_bad_fraction)
        for name, m in splits.named()
    }
    enough = len(presents["train"].clips)
    if enough < config.trainer.batch_size:
        raise ConfigError(
            f"trainer.batch_size = {config.trainer.batch_size}: {splits.train.path} has {enough} usable clips, "
            "not enough for one update; lower it"
        )
    digests = {name: digest(m, presents[name]) for name, m in splits.named()}
    check_same_data(config.folder, digests)
    with run_folder(config.folder, raw, digests, splits.classes, first=first):
        _train(config, splits, presents)


def evaluate(cfg: DictConfig) -> None:
    """Test a run again and write FOLDER/evaluations/...; the run itself stays as it is."""
    options: Any = OmegaConf.to_container(cfg, resolve=True)
    options.pop("hydra", None)
    if options["run"] == "???" or options["run"] is None:
        raise ConfigError("run: must be given, as in run=outputs/motions-static/tiny/none/seed0")
    folder = Path(options["run"])
    if options["split"] not in ("train", "val", "test"):
        raise ConfigError(f"split = {options['split']!r}: must be train, val or test")
    if options["checkpoint"] not in (None, "last", "best"):
        raise ConfigError(f"checkpoint = {options['checkpoint']!r}: must be last or best")
    views = parse_views(options["views"])
    if views is not None and not (
        isinstance(views, list | tuple)
        and len(views) == 2
        and all(isinstance(v, int) and v > 0 for v in views)
    ):
        raise ConfigError(f"views = {views!r}: must be TEMPORALxSPATIAL, as in views=10x3")
    for key, allowed in (("degrade", ("none", "salt_pepper", "half")), ("reduce", ("probs", "logits"))):
        if options[key] not in (None, *allowed):
            raise ConfigError(f"{key} = {options[key]!r}: must be one of {', '.join(allowed)}")
    if not (folder / "config.yaml").is_file():
        raise RunError(f"run = {folder}: no run there (no config.yaml)")
    raw: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"), resolve=True)
    try:
        config = check(raw)
    except ConfigError as error:
        raise RunError(
            f"run = {folder}: its config.yaml is not one that this version of the project reads:\n{error}\n"
            "Test it with the version that made it (the commit is in its result.json)."
        ) from None
    options["checkpoint"] = options["checkpoint"] or config.trainer.select
    moved = {key: options[key] for key in ("folder", "root") if options[key]}
    if moved and not moved.keys() <= type(config.dataset).model_fields.keys():
        raise ConfigError(
            f"{', '.join(moved)}: dataset {config.name} has no such key; it is made where data.root is"
        )
    config = config.model_copy(update={"dataset": config.dataset.model_copy(update=moved)})
    if options["degrade"]:
        data = config.data.model_copy(update={"degrade": options["degrade"]})
        config = config.model_copy(update={"data": data})
    splits = find_splits(config)
    found_splits = dict(splits.named())
    if options["split"] not in found_splits:
        other = "val" if splits.val else "test"
        print(f"{config.name} has no {options['split']} split; taking {other}")
        options["split"] = other
    manifest = found_splits[options["split"]]
    present = find_clips(manifest, reader=config.data.reader, max_bad_fraction=config.data.max_bad_fraction)
    check_same_data(folder, {options["split"]: digest(manifest, present)})

    from vmp.engine import checkpoint, dist

    processes = dist.start(options["device"])
    try:
        spec = backbone_spec(config)
        spec = replace(spec, reduce=options["reduce"] or spec.reduce)
        model = build_model(config, len(splits.classes), spec).to(processes.device)
        if options["checkpoint"] == "best":
            found: checkpoint.Checkpoint | None = checkpoint.load(
                folder / "checkpoints" / "best", device=processes.device
            )
        else:
            found = checkpoint.newest(folder / "checkpoints", device=processes.device)
        if found is None:
            raise RunError(f"run = {folder}: no checkpoint in it yet")
        model.load_state_dict(found.model)
        temporal, spatial = views or config.trainer.views or spec.views
        scores = _score(
            config,
            model,
            spec,
            manifest,
            present,
            (temporal, spatial),
            processes,
            options["split"],
            options["workers"],
        )
        if processes.first:
            parts = [options["split"], options["checkpoint"], f"{temporal}x{spatial}"]
            name = "_".join([*parts, *(options[key] for key in ("degrade", "reduce") if options[key])])
            where = folder / "evaluations" / name
            where.mkdir(parents=True, exist_ok=True)
            result = {
                "run": str(folder),
                "checkpoint": found.path.name,
                "split": options["split"],
                "views": [temporal, spatial],
                "reduce": spec.reduce,
                "degrade": config.data.degrade,
                **_measure(scores, manifest, present, where),
            }
            write_json(where / "result.json", result)
            _print_result(where)
    finally:
        dist.stop()


def _train(config: Config, splits: Splits, presents: dict[str, Present]) -> None:
    import torch

    from vmp.data.dataset import TrainClips
    from vmp.engine import checkpoint, dist, schedule, trainer
    from vmp.engine.loggers import Log
    from vmp.finetune import check_frozen, freeze, trained
    from vmp.objective import Objective
    from vmp.results.record import provenance

    folder, t, o = config.folder, config.trainer, config.optim
    if t.threads:
        torch.set_num_threads(t.threads)
    if t.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    processes = dist.start(t.device)
    log = Log(folder / "log.txt" if processes.first else None)
    began = time.time()
    try:
        each, left = divmod(t.batch_size, processes.world)
        if left or not each:
            raise ConfigError(
                f"trainer.batch_size = {t.batch_size} cannot be dealt to {processes.world} processes"
            )
        micro = max(n for n in range(1, min(each, t.micro_batch or each) + 1) if each % n == 0)
        plan = trainer.Plan(
            epochs=t.epochs,
            batch=t.batch_size,
            micro_batch=micro,
            world=processes.world,
            clips=len(presents["train"].clips),
            seed=config.seed,
        )
        spec = backbone_spec(config)
        model = build_model(config, len(splits.classes), spec)
        if not checkpoint.steps_in(folder / "checkpoints"):  # else they are in the checkpoint
            start = start_weights(config, model, splits.classes, spec)
            kept: dict[str, Any] = {"source": "random"}
            if start.report:
                kept = {**start.report.as_dict(), "prompts_taken": start.prompts, "warnings": start.warnings}
                log(
                    f"{start.report}\n  taken over by the prompt layers: {', '.join(start.prompts) or 'nothing'}"
                )
                for warning in start.warnings:
                    log.warn(warning)
            freeze(model, config.train.freeze)
            check_frozen(model, start.report.matched if start.report else (), start.prompts)
            if processes.first:
                write_json(folder / "weights.json", kept)
        else:
            freeze(model, config.train.freeze)
        if config.train.batch_norm == "sync" and processes.device.type != "cuda":
            raise ConfigError("train.batch_norm = 'sync' works on CUDA devices only; use train")
        _look_at_prompts(model, log)
        if micro < min(each, t.micro_batch or each) / 2 and config.train.batch_norm == "train":
            log.warn(
                f"{each} clips a device are dealt in portions of {micro}, and batch normalisation sees no more at a "
                f"time; a trainer.batch_size that {t.micro_batch} x {processes.world} divides avoids that"
            )
        model = model.to(processes.device)
        optimizer = build_optimizer(config, model)
        shape = clip_shape(config, spec, model)
        views = t.views or spec.views
        if o.schedule == "cosine":
            curve = schedule.cosine(
                epochs=t.epochs, warmup_epochs=o.warmup * t.epochs, warmup_start=o.warmup_start
            )
        else:
            curve = schedule.steps(
                at=o.at or (0,),
                factors=o.factors or (1,),
                warmup_epochs=o.warmup * t.epochs,
                warmup_start=o.warmup_start,
            )
        autocast = torch.bfloat16 if t.amp == "bf16" else None
        parameters = sum(p.numel() for p in model.parameters())
        counts = {name: present.counts() for name, present in presents.items()}
        log(f"run {folder} on {_device_name(processes)}, torch {torch.__version__}")
        for name, c in counts.items():
            gone = (
                f" ({c['missing']} missing, {c['unreadable']} unreadable)"
                if c["present"] < c["expected"]
                else ""
            )
            log(f"{name}: {c['present']} of {c['expected']} clips{gone}, {len(splits.classes)} classes")
        log(
            f"{config.backbone.key}, {parameters:,} parameters ({trained(model):,} trained), sees {spec.frames} frames "
            f"of {spec.crop} pixels; "
            f"{shape.frames} are decoded at stride {shape.stride}"
        )
        log(
            f"{plan.steps} updates of {plan.batch} clips ({plan.accumulate} x {plan.micro_batch} on {plan.world} "
            f"device(s)), lr {optimizer.param_groups[0]['lr']:g}"
        )

        def on_val(model: Any, epoch: int) -> dict[str, float]:
            # one view: this is a curve to look at, not the result
            assert splits.val
            scores = _score(config, model, spec, splits.val, presents["val"], (1, 1), processes, "val")
            return _numbers(scores, presents["val"])

        state, timing = trainer.fit(
            model,
            objective=Objective(variation_weight=config.vmp.lambda_, label_smoothing=o.label_smoothing),
            optimizer=optimizer,
            schedule=curve,
            data=TrainClips(splits.train, presents["train"], shape, seed=config.seed),
            evaluate=on_val if splits.val else None,
            plan=plan,
            processes=processes,
            folder=folder,
            log=log,
            workers=_workers(t.workers),
            timeout=config.data.timeout,
            autocast=autocast,
            compiled=t.compile,
            log_every=t.log_every,
            save_minutes=t.save_minutes,
            keep=t.keep,
            max_bad_fraction=config.data.max_bad_fraction,
        )

        split = "test" if splits.test else "val"
        epoch = plan.epochs
        if t.select == "best":
            best = checkpoint.load(folder / "checkpoints" / "best", device=processes.device)
            model.load_state_dict(best.model)
            epoch = state.best_epoch
        manifest = splits.test or splits.val
        assert manifest
        processes.share(model.buffers())
        scores = _score(config, model, spec, manifest, presents[split], views, processes, split)
        if processes.first:
            measured = _measure(scores, manifest, presents[split], folder)
            counts["train"]["unreadable"] += len(state.bad)
            counts["train"]["present"] -= len(state.bad)
            used = sorted({reader for present in presents.values() for reader in present.readers})
            result = {
                "split": split,
                "epoch": epoch,
                "views": list(views),
                "reduce": spec.reduce,
                "degrade": config.data.degrade,
                **measured,
                "best_val_top1": state.best if splits.val else None,
                "best_val_epoch": state.best_epoch if splits.val else None,
                "scalars": {name: float(value) for name, value in model.scalars().items()},
                "clips": {**counts, split: measured["clips"]},
                "unreadable_in_training": dict(sorted(state.bad.items())),
                "readers": used,
                "classes": len(splits.classes),
                "parameters": parameters,
                "parameters_trained": trained(model),
                "weights": _short(json.loads((folder / "weights.json").read_text())),
                "steps": plan.steps,
                "batch": {"clips": plan.batch, "micro": plan.micro_batch, "accumulate": plan.accumulate},
                "seed": config.seed,
                "seconds": round(state.seconds, 1),
                "clips_per_second": round(timing.clips / timing.trained, 1) if timing.trained else None,
                "share_waiting_for_data": round(timing.waited / timing.trained, 4)
                if timing.trained
                else None,
                "command": shlex.join(["python", *sys.argv]),
                "device": _device_name(processes),
                "peak_memory_gb": _peak_memory(processes),
                "started": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(began)),
                **provenance(),
            }
            write_json(folder / "result.json", result)
            _draw(folder, log)
            _print_result(folder)
    except UserError as error:
        log(f"stopped: {error}") if log.quiet else _to_file_only(log, f"stopped: {error}")
        raise
    finally:
        log.close()
        dist.stop()


def _score(
    config: Config,
    model: Any,
    spec: "Spec",
    manifest: Manifest,
    present: Present,
    views: tuple[int, int],
    processes: "Processes",
    name: str,
    workers: int | None = None,
) -> "Scores":
    import torch

    from vmp.data.dataset import TestClips
    from vmp.data.present import check_bad
    from vmp.engine import evaluator

    shape = clip_shape(config, spec, model, crops=views[1])
    dataset = TestClips(manifest, present, shape, temporal=views[0], spatial=views[1])
    scores = evaluator.score(
        model,
        dataset,
        processes=processes,
        reduce=spec.reduce,
        workers=_workers(config.trainer.workers if workers is None else workers),
        timeout=config.data.timeout,
        autocast=torch.bfloat16 if config.trainer.amp == "bf16" else None,
        name=name,
    )
    bad = {present.clips[i].id: reason for i, reason in scores.bad.items()} | present.bad
    check_bad(bad, present.total, config.data.max_bad_fraction, where=str(manifest.path))
    return scores


def _numbers(scores: "Scores", present: Present) -> dict[str, float]:
    from vmp.engine.evaluator import accuracies

    out = accuracies(scores, [clip.label for clip in present.clips], expected=present.total)
    return out if scores.variation is None else {**out, "variation": scores.variation}


def _measure(scores: "Scores", manifest: Manifest, present: Present, folder: Path) -> dict[str, Any]:
    """Accuracies and counts; predictions.csv and per_class.csv go to the folder."""
    from vmp.engine.evaluator import write_predictions

    write_predictions(folder, scores, present.clips, manifest.classes, missing=present.bad)
    counts = present.counts()
    counts["present"] -= len(scores.bad)
    counts["unreadable"] += len(scores.bad)
    return {**_numbers(scores, present), "clips": counts}


def _draw(folder: Path, log: "Log") -> None:
    try:
        from vmp.results.figures import draw_curves

        draw_curves({folder.parent.name: folder}, folder / "curves.png")
    except Exception as error:  # a picture must not cost a run
        log.warn(f"curves.png could not be drawn: {type(error).__name__}: {error}")


def _print_result(folder: Path) -> None:
    r = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    learned = "".join(f"  {name} {value:.3f}" for name, value in r.get("scalars", {}).items())
    c = r["clips"].get(r["split"], r["clips"])
    print(
        f"{r['split']}: top-1 {r['top1']:.2f}  top-5 {r['top5']:.2f}  mean class {r['mean_class']:.2f}{learned}"
        f"  ({c['present']} of {c['expected']} clips)  -> {folder / 'result.json'}"
    )


def _to_file_only(log: "Log", text: str) -> None:
    log.quiet = True
    log(text)


def _workers(wanted: int | None) -> int:
    return min(8, max(1, (os.cpu_count() or 1) - 1)) if wanted is None else wanted


def _short(weights: dict[str, Any]) -> dict[str, Any]:
    """weights.json without its long list."""
    return {key: len(value) if key == "matched" else value for key, value in weights.items()}


def _look_at_prompts(model: Any, log: "Log") -> None:
    """Say what a still pixel gets, and warn where the model would start on an all but blank clip."""
    import torch

    for pathway, layer in model.prompts.items():
        zero = torch.zeros(1, device=next(model.parameters()).device)
        still = float(layer.power_norm(zero).detach())
        log(f"prompts ({pathway}): the attention on a still pixel is {still:.3f}")
        if still < 0.1 and layer.scalars():
            log.warn(
                "the clips are nearly blank at the start, which costs training; the authors' start is vmp.m=1.541 "
                "vmp.n=-0.2934, and other seeds draw others"
            )


def _peak_memory(processes: "Processes") -> float:
    """Gigabytes: of the first device, or of the first process on a CPU."""
    import resource

    import torch

    if processes.device.type == "cuda":
        used = float(torch.cuda.max_memory_allocated(processes.device))
    else:  # kilobytes, but bytes on macOS
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return round(used / 2**30, 2)


def _device_name(processes: "Processes") -> str:
    import torch

    device = processes.device
    if device.type == "cuda":
        return f"{processes.world} x {torch.cuda.get_device_name(device)}"
    return f"CPU ({processes.world} x {torch.get_num_threads()} threads)"
