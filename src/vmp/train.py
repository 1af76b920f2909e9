"""The command train.py: train, test and record one run.

Notes:
- the same command again continues the run in its folder (runs/folder.py), or says that it is finished;
- config and data are checked before torch is imported, as far as possible.
"""

import math
import os
import sys
import time
from collections.abc import Callable, Container
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from vmp.build import build_model, build_optimizer, build_schedule, clip_shape, set_precision_switches
from vmp.config import Config, CustomBackbone, Prompts, check, check_start
from vmp.data.present import digest
from vmp.datasets import check_enough_clips, find_splits, kept_clips
from vmp.errors import ConfigError, UserError
from vmp.pathways import scalar_name
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
from vmp.runs.records import (
    METRICS_FILE,
    has_top5,
    is_finished,
    read_config,
    write_records,
    write_result,
    write_weights,
)
from vmp.runs.score import (
    Split,
    find_split,
    loader_workers,
    print_result,
    record_scores,
    score,
    spread_clips,
    summarize,
)
from vmp.runs.start import start_weights
from vmp.targets import trust_targets
from vmp.tracking import Tracker, check_tracker, resend_result, start_tracker

if TYPE_CHECKING:
    from vmp.backbones import Spec
    from vmp.engine.checkpoint import Checkpoint
    from vmp.engine.dist import Processes
    from vmp.engine.evaluator import Scores
    from vmp.engine.learner import Learner
    from vmp.engine.loggers import Log
    from vmp.engine.plan import Throughput, TrainingPlan, TrainingState
    from vmp.engine.stopping import Stopping
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


@dataclass(frozen=True)
class Session:
    """What one process needs to train and test, from one start of the command to its end."""

    config: Config
    splits: dict[str, Split]
    processes: "Processes"
    log: "Log"
    tracker: Tracker
    stopping: "Stopping"
    plan: "TrainingPlan"
    model: "PromptedClassifier"

    @property
    def spec(self) -> "Spec":
        return self.config.backbone.spec

    @property
    def views(self) -> tuple[int, int]:
        """Views of the final test, (temporal, spatial)."""
        return self.config.trainer.views or self.spec.views

    @property
    def tested(self) -> str:
        """The split of the final test."""
        return "test" if "test" in self.splits else "val"

    @property
    def classes(self) -> tuple[str, ...]:
        return self.splits["train"].manifest.classes

    def log_setup(self) -> None:
        """Log run, data, plan and model; warn if shared memory is too small for the batches."""
        import torch

        from vmp.data.dataset import read_ahead
        from vmp.data.shared import AHEAD, shortage
        from vmp.finetune import trained
        from vmp.runs.result import describe_devices

        config, plan = self.config, self.plan
        self.log(f"run {config.folder} on {describe_devices(self.processes)}, torch {torch.__version__}")
        for name, split in self.splits.items():
            c = split.present.counts()
            gone = f" ({c['missing']} missing, {c['unreadable']} unreadable)" if split.present.bad else ""
            self.log(f"{name}: {c['present']} of {c['expected']} clips{gone}, {len(self.classes)} classes")
        self.log(
            f"{plan.steps} updates of {plan.batch} clips ({plan.accumulate} x {plan.micro_batch} on {plan.world} "
            "process(es))"
        )
        shape = clip_shape(config, self.model)
        parameters = sum(p.numel() for p in self.model.parameters())
        self.log(
            f"{config.backbone.key}, {parameters:,} parameters ({trained(self.model):,} trained), sees "
            f"{self.spec.frames} frames of {self.spec.crop} pixels; {shape.frames} are decoded at stride {shape.stride}"
        )
        if kept := kept_clips(config, self.splits["train"].manifest):
            clips = (clip for split in self.splits.values() for clip in split.present.clips)
            if warning := kept.shortage(clips):
                self.log.warn(warning)
        tested = math.prod(read_ahead(shape, math.prod(self.views))) * shape.test_crop**2 // AHEAD
        batch = shape.channels * shape.frames * max(plan.micro_batch * shape.crop**2, tested)
        workers = loader_workers(config.trainer.workers)
        if warning := shortage(batch, workers=workers, beside=read_rank().local_world):
            self.log.warn(warning)

    def restore(self, found: "Checkpoint | None", learner: "Learner") -> "TrainingState":
        """Load the checkpoint into the learner; returns its state, or a new one without it."""
        from vmp.runs import resume

        self.log(f"lr {learner.optimizer.param_groups[0]['lr']:g}")
        state = resume.restore(found, learner, self.plan)
        if found and not self.plan.is_over(state):
            self.log(f"continuing from {found.path.name}: step {state.step} of {self.plan.steps}")
        resume.record_session(state, self.processes, self.log)
        return state

    def fit(self, state: "TrainingState", learner: "Learner") -> "Throughput":
        """Train to the end of the plan."""
        from vmp.data.augment import Augmentation
        from vmp.data.dataset import TrainClips
        from vmp.engine.loggers import Metrics
        from vmp.engine.loop import TrainingLoop
        from vmp.engine.plan import LoopSettings
        from vmp.engine.precision import autocast_type
        from vmp.objective import Objective, balanced_weights

        config, t = self.config, self.config.trainer
        train, val, tested = self.splits["train"], self.splits.get("val"), self.splits[self.tested]
        rows = config.folder / METRICS_FILE if self.processes.first else None
        weights = None
        if config.train.class_weights == "balanced":
            weights = balanced_weights(train.labels, classes=len(self.classes))
        loop = TrainingLoop(
            learner=learner,
            state=state,
            objective=Objective(
                variation_weight=config.vmp.lambda_,
                label_smoothing=config.optim.label_smoothing,
                class_weights=weights.to(self.processes.device) if weights is not None else None,
            ),
            schedule=build_schedule(config),
            data=TrainClips(
                train.manifest,
                train.present,
                clip_shape(config, self.model),
                seed=config.order_seed,
                kept=kept_clips(config, train.manifest),
                augmentation=Augmentation(**config.augment.model_dump()),
            ),
            evaluate=self.validate if val else None,
            scalars=self._scalars,
            describe=partial(_describe_validation, classes=len(self.classes)),
            plan=self.plan,
            settings=LoopSettings(
                workers=loader_workers(t.workers),
                timeout=config.data.timeout,
                autocast=autocast_type(t.amp),
                compiled=t.compile,
                log_every=t.log_every,
                save_minutes=t.save_minutes,
                save_steps=t.save_steps,
                keep=t.keep,
                max_bad_fraction=config.data.max_bad_fraction,
                clip_norm=config.optim.clip_norm,
                precise_bn=self._precise_bn(),
                val_views=len(val.present.clips) if val else 0,
                test_views=len(tested.present.clips) * math.prod(self.views),
            ),
            processes=self.processes,
            folder=config.folder,
            metrics=Metrics(rows, rows=state.rows, on_row=self._send_to_tracker),
            log=self.log,
            stopping=self.stopping,
        )
        throughput = loop.run()
        del loop  # free its memory
        # fewer than plan.epochs where patience ended the training
        ended = self.plan.epochs_done(state)
        if not val or not self.tracker.wants_panels(ended, last=self.plan.epochs):
            self.show_attention(ended, last=ended)
        return throughput

    def _precise_bn(self) -> int:
        """Clips for precise batch normalisation; 0, with a line in the log, if the model has no layers to update."""
        from vmp.engine.precise_bn import updated_layers

        clips = self.config.train.precise_bn
        if clips and not updated_layers(self.model):
            self.log(
                f"train.precise_bn={clips} changes nothing here: no layer has batch statistics that training updates"
            )
            return 0
        return clips

    def _scalars(self) -> dict[str, float]:
        """Columns of metrics.jsonl with the learned scalars of the prompts."""
        return {f"vmp/{name}": float(value) for name, value in self.model.scalars().items()}

    def _send_to_tracker(self, row: dict[str, Any]) -> None:
        """Send a row of metrics.jsonl to the tracker."""
        self.tracker.log_row(row)
        if row["kind"] == "start":
            self.show_attention(0, last=self.plan.epochs)

    def validate(self, epoch: int) -> dict[str, float]:
        """Score the validation split with one view per clip, for the learning curve. The final test uses all views."""
        scores = self.score("val", (1, 1))
        found = self.processes.gather(summarize(scores, self.splits["val"]) if scores else {})[0]
        found["loss"] = found["cross_entropy"] + self.config.vmp.lambda_ * found.get("variation", 0.0)
        self.show_attention(epoch, last=self.plan.epochs)
        return found

    def load_selected_weights(self, state: "TrainingState") -> int:
        """Load the weights to test (trainer.select) on every process; returns their epoch."""
        from vmp.engine import checkpoint

        epoch = self.plan.epochs_done(state)
        if self.config.trainer.select == "best":
            epoch = state.best_epoch
            if self.processes.first:
                best = checkpoint.load(checkpoints_of(self.config.folder) / checkpoint.best_name(epoch))
                self.model.load_state_dict(best.model)
            self.processes.broadcast(self.model.state_dict().values())
        self.processes.broadcast(self.model.buffers())
        return epoch

    def score(self, split: str, views: tuple[int, int], *, attention: bool = False) -> "Scores | None":
        return score(
            self.model,
            self.splits[split],
            config=self.config,
            views=views,
            processes=self.processes,
            check_stop=self.stopping.check,
            attention=attention,
        )

    def show_attention(self, epoch: int, *, last: int) -> None:
        """Send attention pictures of a few evenly spaced clips to the tracker, if it draws some after this epoch."""
        from vmp.figures.panels import attention_panels

        if not self.tracker.wants_panels(epoch, last=last):
            return
        split = self.splits["val" if "val" in self.splits else "test"]
        self.model.eval()  # OtherClipPrompt keeps what it sees in training; the loop sets the mode before each clip
        try:
            dataset = split.test_clips(self.config, self.model)
            few = spread_clips(dataset, self.config.logger.max_panels)
            clips = {split.present.clips[index].id: clip for index, clip in few}
            step = epoch * self.plan.steps_per_epoch
            self.tracker.log_panels(epoch, step, attention_panels(self.model, clips))
        except Exception as error:  # a failed picture must not end the run
            self.log.warn(f"attention could not be drawn: {type(error).__name__}: {error}")

    def write_result(
        self,
        scores: "Scores",
        state: "TrainingState",
        throughput: "Throughput",
        *,
        epoch: int,
    ) -> None:
        """Write result.json and the files beside it. epoch: the epoch of the tested weights."""
        from vmp.runs.result import describe_training

        config, presents = self.config, {name: split.present for name, split in self.splits.items()}
        measured = record_scores(scores, self.splits[self.tested], config.folder)
        clips = {name: present.counts() for name, present in presents.items()}
        clips["train"]["unreadable"] += len(state.bad)
        clips["train"]["present"] -= len(state.bad)
        clips[self.tested] = measured.pop("clips")
        result = {
            "split": self.tested,
            "epoch": epoch,
            "views": list(self.views),
            "reduce": self.spec.reduce,
            "degrade": config.data.degrade,
            **measured,
            "clips": clips,
            "unreadable_in_training": dict(sorted(state.bad.items())),
            "readers": sorted({reader for present in presents.values() for reader in present.readers}),
            "classes": len(self.classes),
            **describe_training(config, self.model, self.plan, state, throughput, self.processes),
        }
        result["scalars"] |= {
            scalar_name(pathway, "attention"): mean for pathway, mean in scores.attention.items()
        }
        write_result(config.folder, result)
        _tidy_up(config.folder, keep=config.trainer.keep_finished, warn=self.log.warn)
        self.tracker.log_result(config.folder)
        print_result(config.folder)


def _tidy_up(folder: Path, *, keep: str, warn: Callable[[str], None]) -> None:
    """Reduce a finished run's checkpoints to weights, if it is to keep no more, and draw curves.png, where that is not
    done already. A fault costs a warning: the run has its result."""
    checkpoints, picture = checkpoints_of(folder), folder / "curves.png"
    if keep == "weights" and any(not path.name.endswith("_weights") for path in checkpoints.glob("step_*")):
        from vmp.engine import checkpoint

        try:
            checkpoint.keep_weights(checkpoints)
        except (OSError, UserError) as error:
            warn(f"the checkpoints could not be reduced to weights: {error}")
    if not picture.exists():
        from vmp.figures.curves import draw_curves

        try:
            draw_curves(folder, picture)
        except Exception as error:  # of a picture, anything
            warn(f"curves.png could not be drawn: {type(error).__name__}: {error}")


def _complete(config: Config) -> None:
    """Do what a kill right after the result has left undone: what the run's own config says about checkpoints, and what
    this command says about the tracker."""
    folder = config.folder
    with suppress(UserError), locked(folder, "busy"):
        keep = read_config(folder)["trainer"].get("keep_finished", "all")
        _tidy_up(folder, keep=keep, warn=lambda text: print(f"warning: {text}", file=sys.stderr))
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
            remedy = "a function of your own that is larger there"
            if isinstance(config.vmp, Prompts):
                remedy = "the authors' initial values, vmp.m=1.541 vmp.n=-0.2934 (the default)"
            log.warn(
                "attention starts near 0, so the backbone sees nearly blank clips and trains slowly; try "
                + remedy
            )
    return model


def _describe_validation(row: dict[str, float], *, classes: int) -> str:
    """A validation's accuracies, with slope and shift, for the log."""
    text = f"top1 {row['val/top1']:.2f}" + (f"  top5 {row['val/top5']:.2f}" if has_top5(classes) else "")
    text += f"  cross-entropy {row['val/cross_entropy']:.3f}"
    learned = {k.removeprefix("vmp/"): v for k, v in row.items() if k.endswith(("slope", "shift"))}
    return text + "".join(f"  {name} {value:.3f}" for name, value in learned.items())
