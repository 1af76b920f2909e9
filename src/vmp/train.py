"""The command train.py: train, test and record one run.

Notes:
- the same command again continues the run in its folder (runs/folder.py), or says that it is finished;
- config and data are checked before torch is imported, as far as possible.
"""

import os
import sys
import time
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from vmp.build import build_model, build_optimizer, set_precision_switches
from vmp.config import Config, CustomBackbone, Prompts, check, check_start
from vmp.data.present import digest
from vmp.datasets import check_enough_clips, find_splits
from vmp.errors import ConfigError, UserError
from vmp.preflight import check_machine, check_stage, clips_per_process, explain_disk_errors, try_own_parts
from vmp.ranks import read_rank
from vmp.runs.attention import take_level
from vmp.runs.folder import (
    begun,
    check_same_data,
    check_same_run,
    checkpoints_of,
    locked,
    other_place,
    run_folder,
    what_matters,
)
from vmp.runs.records import is_finished, read_config, write_records, write_weights
from vmp.runs.score import Split, find_split, print_result
from vmp.runs.start import start_weights
from vmp.session import Session, tidy_up
from vmp.targets import trust_targets
from vmp.tracking import Tracker, check_tracker, resend_result, start_tracker

if TYPE_CHECKING:
    from vmp.engine.dist import Processes
    from vmp.engine.loggers import Log
    from vmp.engine.plan import TrainingPlan
    from vmp.model import PromptedClassifier


def train(cfg: DictConfig) -> None:
    """Train, or continue, the run that the config describes, test it, and write its records."""
    began = time.monotonic()
    raw = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(raw, dict)
    config = check(raw)  # type: ignore[arg-type]
    trust_targets(raw)  # type: ignore[arg-type]
    check_tracker(config.logger)
    check_same_run(config.folder, raw)
    if not begun(config.folder):
        check_start(config)
        try_own_parts(config)
        check_stage(config)
    if _is_finished(config):
        if read_rank().first:
            _complete(config)
            print(f"{config.folder} is finished:")
            print_result(config.folder)
            if place := other_place(config.folder, raw):
                print(place)
            print(
                "For another run change a setting, the seed or tag=WORD; to run it again, move the folder away."
            )
        return
    check_machine(config)
    with explain_disk_errors():
        splits = _find_splits(config)
        digests = {name: digest(split.manifest, split.present) for name, split in splits.items()}
        check_same_data(config.folder, digests)
        with run_folder(config.folder, raw, first=read_rank().first):
            from vmp.engine.faults import explain_torch_errors  # imports torch

            with explain_torch_errors():
                _train_in_folder(config, raw, splits, digests, began)


def _is_finished(config: Config) -> bool:
    """Whether the run has a result. The first process decides for all."""
    finished = is_finished(config.folder)
    if read_rank().alone:
        return finished
    from vmp.engine import dist
    from vmp.engine.faults import explain_torch_errors

    with explain_torch_errors():
        return dist.start(config.trainer.device).gather(finished)[0]


def _find_splits(config: Config) -> dict[str, Split]:
    manifests = find_splits(config, progress=read_rank().first).named()
    splits = {name: find_split(config, name, manifest) for name, manifest in manifests}
    train = splits["train"]
    check_enough_clips(config, len(train.present.clips), train.manifest.path)
    return splits


def _train_in_folder(
    config: Config, raw: dict[Any, Any], splits: dict[str, Split], digests: dict[str, str], began: float
) -> None:
    """Agree with the other processes on a checkpoint, train, test, and write the result."""
    import torch

    from vmp.engine import checkpoint, dist
    from vmp.engine.average import Average
    from vmp.engine.learner import Learner
    from vmp.engine.loggers import Log
    from vmp.engine.precision import autocast_type, make_scaler
    from vmp.engine.stopping import Stopped, Stopping
    from vmp.runs import resume
    from vmp.runs.precision import settle_precision

    folder, t = config.folder, config.trainer
    if t.threads:
        torch.set_num_threads(t.threads)
    if t.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    processes = dist.start(t.device)
    raw, precision = settle_precision(folder, raw, config, processes.device)
    config = check(raw)
    log = Log(folder / "log.txt" if processes.first else None)
    tracker, code = Tracker(), 1  # replaced once the processes agree; 1 until the run ends well
    # one deadline for all processes, counted from the start of the first
    elapsed = processes.maximum([round(1000 * (time.monotonic() - began))])[0] / 60_000
    stopping = Stopping(None if t.max_minutes is None else t.max_minutes - elapsed)
    try:
        resume.check_alike(processes, what_matters(raw), digests, log)
        found = resume.agree_on_checkpoint(
            checkpoints_of(folder), lambda kept: checkpoint.newest(kept, warn=log.warn), processes
        )
        classes = splits["train"].manifest.classes
        if processes.first:
            write_records(folder, raw, digests, classes)
        tracker = start_tracker(config, folder, first=processes.first, log=log)
        plan = _make_plan(config, processes.world, labels=splits["train"].labels, log=log)
        model = _make_model(config, classes, processes, log, new=found is None).to(processes.device)
        session = Session(config, splits, processes, log, tracker, stopping, plan, model)
        session.log_setup()
        log(precision)
        with stopping:
            optimizer = build_optimizer(config, model)
            scaler = make_scaler(processes.device, autocast_type(config.trainer.amp))
            decay = config.train.ema
            average = Average(model, decay=decay, warmup=config.train.ema_warmup) if decay else None
            learner = Learner(model, optimizer, scaler, average)
            state = session.restore(found, learner)
            del found  # free its memory
            throughput = session.fit(state, learner)
            epoch = session.load_selected_weights(state)
            scores = session.score(session.tested, session.views, attention=True)
            if scores:  # on the first process
                session.write_result(scores, state, throughput, epoch=epoch)
        code = 0
    except UserError as error:
        code = error.code if isinstance(error, Stopped) else 2
        log.to_file(f"stopped: {error}")
        raise
    finally:
        tracker.close(code=code)
        log.close()
        dist.stop()


def _complete(config: Config) -> None:
    """Do what a kill right after the result has left undone: what the run's own config says about checkpoints, and what
    this command says about the tracker."""
    folder = config.folder
    with suppress(UserError), locked(folder, "busy"):
        keep = read_config(folder)["trainer"].get("keep_finished", "all")
        tidy_up(folder, keep=keep, warn=lambda text: print(f"warning: {text}", file=sys.stderr))
        resend_result(config, folder, log=print)


def _make_plan(config: Config, world: int, *, labels: list[int], log: "Log") -> "TrainingPlan":
    from vmp.data.augment import Augmentation
    from vmp.engine.plan import TrainingPlan

    t, clips = config.trainer, len(labels)
    per_process = clips_per_process(config, world)
    if config.train.batch_norm == "sync" and world == 1:
        log.warn("train.batch_norm = 'sync' has no effect with a single process")
    max_micro = min(per_process, t.micro_batch or per_process)
    mixes = Augmentation(**config.augment.model_dump()).mixes
    micro = max(
        (n for n in range(1, max_micro + 1) if per_process % n == 0 and not (mixes and n % 2)), default=0
    )
    if not micro:
        raise ConfigError(
            f"augment.mixup and augment.cutmix mix the clips of a micro-batch in pairs, but no even number up to "
            f"{max_micro} divides the {per_process} clips per device; choose a trainer.micro_batch of at least 2 and "
            "an even number of clips per device (trainer.batch_size / processes)"
        )
    if mixes:
        log("mixed clips: train/top1 counts the class with the larger share of a clip")
    if micro < max_micro / 2 and config.train.batch_norm == "train":
        log.warn(
            f"{per_process} clips per device are divided into micro-batches of {micro}, so batch normalisation sees "
            f"only these at a time; choose a trainer.batch_size that {t.micro_batch} (trainer.micro_batch) x {world} "
            "divides"
        )
    return TrainingPlan(
        epochs=t.epochs,
        batch=t.batch_size,
        micro_batch=micro,
        world=world,
        clips=clips,
        seed=config.order_seed,
        labels=labels if config.train.sampling == "balanced" else None,
        patience=config.train.patience,
    )


def _make_model(
    config: Config, classes: tuple[str, ...], processes: "Processes", log: "Log", *, new: bool
) -> "PromptedClassifier":
    """Build the model. For a new run, load the weights that it starts from and record them."""
    import torch

    from vmp.finetune import check_frozen, freeze
    from vmp.transfer import sha256_of

    set_precision_switches(config)
    model = build_model(config, len(classes))
    if not new:
        freeze(model, config.train.freeze)
        return model
    start = start_weights(config, model, classes)
    kept: dict[str, Any] = {"source": "random"}
    if start.report:
        kept = {**start.report.as_dict(), "prompts_taken": start.prompts, "warnings": start.warnings}
        log(f"{start.report}\n  loaded into the prompt layers: {', '.join(start.prompts) or 'none'}")
        for warning in start.warnings:
            log.warn(warning)
    if text := take_level(config, model):
        log(text)
    freeze(model, config.train.freeze)
    known = [*start.prompts, *start.given]
    loaded: Container[str] = start.report.matched if start.report else ()
    if isinstance(config.backbone, CustomBackbone) and not start.report:
        loaded = [name for name, _ in model.backbone.named_parameters()]  # its builder may have loaded them
    check_frozen(model, loaded, known, start.warnings)
    if processes.first:
        digest_of_start = {"sha256": sha256_of(Path(kept["source"]))} if start.report else {}
        write_weights(config.folder, kept | digest_of_start)
    layers: dict[str, Any] = dict(model.prompts.items())
    frames, crop = config.backbone.spec.frames, config.backbone.spec.crop
    for pathway, layer in layers.items():
        still = float(layer.power_norm(torch.zeros(1, frames, crop, crop)).detach().mean())
        log(f"prompts ({pathway}): the attention on a still pixel is {still:.3f}")
        if still < 0.1 and layer.scalars():
            remedy = "a function that is larger there, unless still pixels are meant to be blank"
            if isinstance(config.vmp, Prompts):
                remedy = "the authors' initial values, vmp.m=1.541 vmp.n=-0.2934 (the default)"
            log.warn(
                "attention starts near 0, so the backbone sees nearly blank clips and trains slowly; try "
                + remedy
            )
    return model
