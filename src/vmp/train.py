"""The first command: a run in a folder, from a composed config to a result.

Notable here:
- the same command again continues the run in its folder (folder.py) or says that it is finished;
- whatever can be wrong with config or data is told before torch is imported.
"""

import errno
import math
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from vmp.build import (
    Splits,
    backbone_spec,
    build_model,
    build_optimizer,
    build_schedule,
    check_enough,
    clip_shape,
    find_splits,
)
from vmp.config import Config, check, check_start
from vmp.data.present import Present, digest, find_clips
from vmp.errors import ConfigError, RunError, UserError
from vmp.launched import launched
from vmp.machine import device_name, peak_memory
from vmp.runs.folder import (
    begun,
    check_same_data,
    check_same_run,
    check_writable,
    keep_records,
    run_folder,
    what_matters,
)
from vmp.runs.records import is_finished, read_weights, write_result, write_weights
from vmp.runs.score import Split, loader_workers, print_result, record_scores, score, summarize
from vmp.runs.start import start_weights
from vmp.tracking import Tracker, check_tracker, start_tracker

if TYPE_CHECKING:
    from vmp.backbones import Spec
    from vmp.data.dataset import ClipShape
    from vmp.engine.checkpoint import Checkpoint
    from vmp.engine.dist import Processes
    from vmp.engine.loggers import Log
    from vmp.engine.trainer import Plan
    from vmp.model import PromptedClassifier


def train(cfg: DictConfig) -> None:
    """Train, or continue, the run that the config describes, test it, and write its records."""
    began = time.monotonic()
    raw = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(raw, dict)
    config = check(raw)  # type: ignore[arg-type]
    check_tracker(config.logger)
    here = launched()
    check_same_run(config.folder, raw)
    if not begun(config.folder):
        check_start(config)
    finished = is_finished(config.folder)
    if not here.alone:
        finished = _first_one_s(finished, config.trainer.device)
    if finished:
        if here.first:
            print(f"{config.folder} is finished:")
            print_result(config.folder)
            print(
                "For another run change a setting, the seed or tag=WORD; to repeat it, move the folder away."
            )
        return
    _check_machine(config)
    with _disk():
        splits = find_splits(config, progress=here.first)
        presents = {
            name: find_clips(m, reader=config.data.reader, max_bad_fraction=config.data.max_bad_fraction)
            for name, m in splits.named()
        }
        check_enough(config, len(presents["train"].clips), splits.train.path)
        digests = {name: digest(m, presents[name]) for name, m in splits.named()}
        check_same_data(config.folder, digests)
        with run_folder(config.folder, raw, first=here.first):
            from vmp.engine.faults import told  # imports torch

            with told():
                _train(config, raw, splits, presents, digests, began)


def _check_machine(config: Config) -> None:
    """Raise UserError where the run cannot be on this machine, before data are made or looked at for it."""
    _deal(config, launched().world)
    check_writable(config.folder)
    if config.trainer.compile:
        _check_compiler(config.trainer.device)
    if config.trainer.device.startswith("cuda") or config.train.batch_norm == "sync":
        from vmp.engine import dist  # imports torch

        device = dist.find_device(config.trainer.device)
        if config.train.batch_norm == "sync" and device.type != "cuda":
            raise ConfigError("train.batch_norm = 'sync' works on CUDA devices only; use train")


def _deal(config: Config, world: int) -> int:
    """Clips of an update on each of `world` processes."""
    each, left = divmod(config.trainer.batch_size, world)
    if left or not each:
        raise ConfigError(
            f"trainer.batch_size = {config.trainer.batch_size} cannot be dealt to {world} processes"
        )
    return each


def _first_one_s(value: Any, device: str) -> Any:
    """The first process's value, on every process."""
    from vmp.engine import dist
    from vmp.engine.faults import told

    with told():
        return dist.start(device).gather(value)[0]


def _train(
    config: Config,
    raw: dict[Any, Any],
    splits: Splits,
    presents: dict[str, Present],
    digests: dict[str, str],
    began: float,
) -> None:
    import torch

    from vmp.data.dataset import TrainClips
    from vmp.engine import checkpoint, dist, trainer
    from vmp.engine.loggers import Log
    from vmp.engine.stopping import Stopped, Stopping
    from vmp.objective import Objective
    from vmp.runs import resume

    folder, t = config.folder, config.trainer
    if t.threads:
        torch.set_num_threads(t.threads)
    if t.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    processes = dist.start(t.device)
    log = Log(folder / "log.txt" if processes.first else None)
    found = _agree(config, raw, splits, digests, processes, log)
    tracker, code = start_tracker(config, folder, first=processes.first, say=log), 1
    stopping = Stopping(None if t.max_minutes is None else t.max_minutes - (time.monotonic() - began) / 60)
    try:
        plan = _plan(config, processes.world, clips=len(presents["train"].clips), log=log)
        spec = backbone_spec(config)
        model = _model(config, splits, spec, processes, log, new=found is None).to(processes.device)
        optimizer = build_optimizer(config, model)
        shape = clip_shape(config, spec, model)
        _introduce(log, config, plan, processes, presents, len(splits.classes))
        log(
            f"{config.backbone.key}, {_parameters(model)}, sees {spec.frames} frames of {spec.crop} pixels; "
            f"{shape.frames} are decoded at stride {shape.stride}"
        )
        log(f"lr {optimizer.param_groups[0]['lr']:g}")
        _check_shared_memory(log, plan, shape, loader_workers(t.workers), t.views or spec.views)
        state = resume.restore(found, model, optimizer, steps=plan.steps)
        if found and state.step < plan.steps:
            log(f"continuing from {found.path.name}: step {state.step} of {plan.steps}")
        del found  # its memory
        resume.sit_down(state, processes, log)

        def on_val(model: Any, epoch: int) -> dict[str, float]:
            # one view: this is a curve to look at, not the result
            assert splits.val
            split = Split("val", splits.val, presents["val"])
            scores = score(
                model,
                split,
                config=config,
                spec=spec,
                views=(1, 1),
                processes=processes,
                between=stopping.check,
            )
            found = summarize(scores, split)
            found["loss"] = found["cross_entropy"] + config.vmp.lambda_ * found.get("variation", 0.0)
            if tracker.wants_panels(epoch, last=plan.epochs):
                show_attention(epoch)
            return found

        def show_attention(epoch: int) -> None:
            name, manifest = ("val", splits.val) if splits.val else splits.tested
            dataset = Split(name, manifest, presents[name]).test_clips(config, spec, model)
            _show_panels(tracker, model, dataset, config.logger.max_panels, epoch, plan, log)

        def on_row(row: dict[str, Any]) -> None:
            tracker.row(row)
            if row["kind"] == "start" and tracker.wants_panels(0, last=plan.epochs):
                show_attention(0)

        with stopping:
            state, timing = trainer.fit(
                model,
                objective=Objective(
                    variation_weight=config.vmp.lambda_, label_smoothing=config.optim.label_smoothing
                ),
                optimizer=optimizer,
                state=state,
                schedule=build_schedule(config),
                data=TrainClips(
                    splits.train, presents["train"], shape, seed=config.seed, keep=config.data.keep * 10**6
                ),
                evaluate=on_val if splits.val else None,
                plan=plan,
                processes=processes,
                folder=folder,
                log=log,
                stopping=stopping,
                also=on_row,
                workers=loader_workers(t.workers),
                timeout=config.data.timeout,
                autocast=torch.bfloat16 if t.amp == "bf16" else None,
                compiled=t.compile,
                log_every=t.log_every,
                save_minutes=t.save_minutes,
                save_steps=t.save_steps,
                keep=t.keep,
                max_bad_fraction=config.data.max_bad_fraction,
                views=(
                    len(presents["val"].clips) if splits.val else 0,
                    len(presents["test" if splits.test else "val"].clips) * math.prod(t.views or spec.views),
                ),
            )
            epoch = plan.epochs
            if not splits.val and tracker.wants_panels(epoch, last=epoch):
                show_attention(epoch)
            if t.select == "best":
                epoch = state.best_epoch
                if processes.first:
                    best = checkpoint.load(folder / "checkpoints" / checkpoint.best_name(epoch))
                    model.load_state_dict(best.model)
                processes.share(model.state_dict().values())
            processes.share(model.buffers())
            name, manifest = splits.tested
            split, views = Split(name, manifest, presents[name]), t.views or spec.views
            scores = score(
                model,
                split,
                config=config,
                spec=spec,
                views=views,
                processes=processes,
                between=stopping.check,
            )
        if processes.first:
            measured = record_scores(scores, split, folder)
            tried = {
                "split": name,
                "epoch": epoch,
                "views": list(views),
                "reduce": spec.reduce,
                "degrade": config.data.degrade,
            }
            clips = {name: present.counts() for name, present in presents.items()}
            clips["train"]["unreadable"] += len(state.bad)
            clips["train"]["present"] -= len(state.bad)
            used = {
                "clips": {**clips, name: measured.pop("clips")},
                "unreadable_in_training": dict(sorted(state.bad.items())),
                "readers": sorted({reader for present in presents.values() for reader in present.readers}),
                "classes": len(splits.classes),
            }
            result = tried | measured | used | _record(config, model, plan, state, timing, processes)
            write_result(folder, result)
            if t.keep_finished == "weights":
                _keep_weights(folder, log)
            _draw(folder, log)
            tracker.result(folder)
            print_result(folder)
        code = 0
    except UserError as error:
        code = error.code if isinstance(error, Stopped) else 2
        log.quietly(f"stopped: {error}")
        raise
    finally:
        tracker.close(code=code)
        log.close()
        dist.stop()


def _plan(config: Config, world: int, *, clips: int, log: "Log") -> "Plan":
    from vmp.engine.trainer import Plan

    t = config.trainer
    each = _deal(config, world)
    if config.train.batch_norm == "sync" and world == 1:
        log.warn("train.batch_norm = 'sync' shares statistics between processes, and this is a single one")
    wanted = min(each, t.micro_batch or each)
    micro = max(n for n in range(1, wanted + 1) if each % n == 0)
    if micro < wanted / 2 and config.train.batch_norm == "train":
        log.warn(
            f"{each} clips a device are dealt in portions of {micro}, and batch normalisation sees no more at a "
            f"time; a trainer.batch_size that {t.micro_batch} x {world} divides avoids that"
        )
    return Plan(
        epochs=t.epochs, batch=t.batch_size, micro_batch=micro, world=world, clips=clips, seed=config.seed
    )


def _check_compiler(device: str) -> None:
    """Raise ConfigError where torch.compile would find no compiler: C++ for a CPU; C, for Triton, for a GPU."""
    import torch

    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    variable, usual = ("CC", ("gcc", "clang")) if on_gpu else ("CXX", ("g++",))
    if sys.platform == "darwin":
        usual = ("clang++",)
    names = (os.environ[variable],) if os.environ.get(variable) else usual
    if not any(shutil.which(name) for name in names):
        raise ConfigError(
            f"trainer.compile=true: torch.compile needs a compiler, and {' or '.join(names)} is not there. Install one "
            f"(Debian: apt install g++; conda: conda install gxx), name it in the variable {variable}, or set "
            "trainer.compile=false"
        )


def _agree(
    config: Config,
    raw: dict[Any, Any],
    splits: Splits,
    digests: dict[str, str],
    processes: "Processes",
    log: "Log",
) -> "Checkpoint | None":
    """The checkpoint that all processes continue from; the run's records are written when they agree on it."""
    from vmp.engine import checkpoint, dist
    from vmp.runs import resume

    try:
        resume.check_alike(processes, what_matters(raw), digests, log)
        found = resume.one_for_all(
            config.folder / "checkpoints",
            lambda folder: checkpoint.newest(folder, warn=log.warn),
            processes,
        )
        if processes.first:
            keep_records(config.folder, raw, digests, splits.classes)
    except BaseException as error:
        if isinstance(error, UserError):
            log.quietly(f"stopped: {error}")
        log.close()
        dist.stop()
        raise
    return found


def _model(
    config: Config, splits: Splits, spec: "Spec", processes: "Processes", log: "Log", *, new: bool
) -> "PromptedClassifier":
    """The model as a new run starts with it; one that continues has its weights in a checkpoint."""
    from vmp.finetune import check_frozen, freeze

    folder = config.folder
    model = build_model(config, len(splits.classes), spec)
    if not new:
        freeze(model, config.train.freeze)
        return model
    start = start_weights(config, model, splits.classes, spec)
    kept: dict[str, Any] = {"source": "random"}
    if start.report:
        kept = {**start.report.as_dict(), "prompts_taken": start.prompts, "warnings": start.warnings}
        log(f"{start.report}\n  taken over by the prompt layers: {', '.join(start.prompts) or 'nothing'}")
        for warning in start.warnings:
            log.warn(warning)
    freeze(model, config.train.freeze)
    known = [*start.prompts, *start.given]
    check_frozen(model, start.report.matched if start.report else (), known, start.warnings)
    if processes.first:
        write_weights(folder, kept)
    _look_at_prompts(model, log)
    return model


def _introduce(
    log: "Log",
    config: Config,
    plan: "Plan",
    processes: "Processes",
    presents: dict[str, Present],
    classes: int,
) -> None:
    import torch

    log(f"run {config.folder} on {_devices(processes)}, torch {torch.__version__}")
    for name, present in presents.items():
        c = present.counts()
        gone = f" ({c['missing']} missing, {c['unreadable']} unreadable)" if present.bad else ""
        log(f"{name}: {c['present']} of {c['expected']} clips{gone}, {classes} classes")
    log(
        f"{plan.steps} updates of {plan.batch} clips ({plan.accumulate} x {plan.micro_batch} on {plan.world} device(s))"
    )


def _check_shared_memory(
    log: "Log", plan: "Plan", shape: "ClipShape", workers: int, views: tuple[int, int]
) -> None:
    """Warn where the batches of training and testing are larger than what loader processes hand over at once."""
    from vmp.data.shared import shortage
    from vmp.engine.evaluator import clips_at_once

    at_once = max(clips_at_once(n) * n for n in (1, views[0] * views[1]))  # views of a batch
    pixels = 3 * shape.frames * max(plan.micro_batch * shape.crop**2, at_once * shape.test_crop**2)
    if said := shortage(pixels, workers=workers, beside=launched().beside):
        log.warn(said)


def _record(
    config: Config, model: Any, plan: "Plan", state: Any, timing: Any, processes: "Processes"
) -> dict[str, Any]:
    """What a result says of how it was made."""
    from vmp.finetune import trained
    from vmp.provenance import provenance

    weights = read_weights(config.folder)
    has_val = state.best_epoch > 0
    return {
        "best_val_top1": state.best if has_val else None,
        "best_val_epoch": state.best_epoch if has_val else None,
        "scalars": {name: float(value) for name, value in model.scalars().items()},
        "parameters": sum(p.numel() for p in model.parameters()),
        "parameters_trained": trained(model),
        "weights": {key: len(value) if key == "matched" else value for key, value in weights.items()},
        "steps": plan.steps,
        "batch": {"clips": plan.batch, "micro": plan.micro_batch, "accumulate": plan.accumulate},
        "seed": config.seed,
        "seconds": round(state.seconds, 1),
        "clips_per_second": round(timing.clips / timing.trained, 1) if timing.trained else None,
        "share_waiting_for_data": round(timing.share, 4) if timing.trained else None,
        "command": shlex.join(["python", *sys.argv]),
        "device": _devices(processes),
        "sittings": state.sittings,
        "peak_memory_gb": peak_memory(processes.device),
        "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
        **provenance(),
    }


def _keep_weights(folder: Path, log: "Log") -> None:
    from vmp.engine import checkpoint

    try:
        checkpoint.keep_weights(folder / "checkpoints")
    except (OSError, UserError) as error:  # the result is written: what is left over costs space only
        log.warn(f"the checkpoints could not be reduced to weights: {error}")


def _draw(folder: Path, log: "Log") -> None:
    try:
        from vmp.figures.curves import draw_curves

        draw_curves({folder.parent.name: folder}, folder / "curves.png")
    except Exception as error:  # a picture must not cost a run
        log.warn(f"curves.png could not be drawn: {type(error).__name__}: {error}")


def _show_panels(
    tracker: Tracker, model: Any, dataset: Any, count: int, epoch: int, plan: "Plan", log: "Log"
) -> None:
    """What the prompts make of a few clips, spread over the split."""
    import torch

    try:
        from vmp.figures.panels import attention_panels

        clips = {}
        for index in torch.linspace(0, len(dataset) - 1, min(count, len(dataset))).long().tolist():
            views = dataset[index][1]
            if isinstance(views, torch.Tensor):
                clips[dataset.present.clips[index].id] = views[0]
        tracker.panels(epoch, epoch * plan.steps_per_epoch, attention_panels(model, clips))
    except Exception as error:  # a picture must not cost a run
        log.warn(f"attention could not be drawn: {type(error).__name__}: {error}")


def _look_at_prompts(model: Any, log: "Log") -> None:
    """Say what a still pixel gets, and warn where the model would start on an all but blank clip."""
    import torch

    for pathway, layer in model.prompts.items():
        still = float(layer.power_norm(torch.zeros(1)).detach())
        log(f"prompts ({pathway}): the attention on a still pixel is {still:.3f}")
        if still < 0.1 and layer.scalars():
            log.warn(
                "the clips are nearly blank at the start, which costs training; the authors' start is vmp.m=1.541 "
                "vmp.n=-0.2934, and other seeds draw others"
            )


def _parameters(model: Any) -> str:
    from vmp.finetune import trained

    return f"{sum(p.numel() for p in model.parameters()):,} parameters ({trained(model):,} trained)"


def _devices(processes: "Processes") -> str:
    import torch

    name = device_name(processes.device)
    threads = f" x {torch.get_num_threads()} threads" if name == "CPU" else ""
    return f"{processes.world} x {name}{threads}"


@contextmanager
def _disk() -> Iterator[None]:
    """A disk that is full or broken, said in words."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO):
            raise
        from vmp.data.shared import WHERE, shortage  # imports torch

        full = error.errno == errno.ENOSPC and not error.filename and shortage(1 << 16, workers=1, beside=1)
        what = error.filename or (f"shared memory ({WHERE})" if full else "a file")
        raise RunError(
            f"{what}: cannot be written ({error.strerror}). Put that right; the same command "
            "continues from the last checkpoint."
        ) from error
