"""What one process does in a run: restore, train, validate, test, and write the result."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vmp.build import build_schedule, clip_shape
from vmp.config import Config
from vmp.datasets import kept_clips
from vmp.errors import UserError
from vmp.pathways import scalar_name, shown_scalars
from vmp.ranks import read_rank
from vmp.runs.folder import checkpoints_of
from vmp.runs.records import METRICS_FILE, has_top5, write_result
from vmp.runs.score import (
    Split,
    describe_result,
    loader_workers,
    record_scores,
    score,
    spread_clips,
    summarize,
)
from vmp.tracking import Tracker

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

_SIDED = re.compile(
    r"(?<![a-z])(left|right|clockwise|counterclockwise|anticlockwise)(?![a-z])", re.IGNORECASE
)


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
        if flip := config.dataset.flip:
            self.log(
                f"training clips are mirrored, left for right, with a probability of {flip:g} (dataset.flip)"
            )
            sided = [name for name in self.classes if _SIDED.search(name)]
            if sided and self.processes.first:
                self.log.warn(
                    f"classes such as {sided[0]} may be told apart by left and right, which mirroring confuses; "
                    "dataset.flip=0 turns it off"
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
            describe=partial(_describe_epoch, classes=len(self.classes)),
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
        tidy_up(config.folder, keep=config.trainer.keep_finished, warn=self.log.warn)
        self.tracker.log_result(config.folder)
        self.log(describe_result(config.folder))
        if len(self.classes) > 1 and len(np.unique(scores.scores.argmax(axis=1))) == 1 < len(scores.indices):
            self.log.warn(
                f"every clip was taken for the same class, so the model has not learned to tell the classes apart in "
                f"{self.plan.steps} updates; train longer (trainer.epochs, now {config.trainer.epochs}), or start "
                "from pretrained weights (docs/backbones.md)"
            )


def tidy_up(folder: Path, *, keep: str, warn: Callable[[str], None]) -> None:
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


def _describe_epoch(row: dict[str, float], *, classes: int) -> str:
    """Loss and accuracy of the last training row, those of a validation if there was one, and what the prompts learned,
    for the log."""
    text = f"train loss {row['train/loss']:.3f}  top1 {row['train/top1']:.2f}" if "train/loss" in row else ""
    if "val/top1" in row:
        text += f"  {_describe_validation(row, classes=classes)}"
    scalars = {k.removeprefix("vmp/"): v for k, v in row.items() if k.startswith("vmp/")}
    return text.strip() + "".join(f"  {name} {value:.3f}" for name, value in shown_scalars(scalars).items())


def _describe_validation(row: dict[str, float], *, classes: int) -> str:
    text = f"val top1 {row['val/top1']:.2f}" + (f"  top5 {row['val/top5']:.2f}" if has_top5(classes) else "")
    return text + f"  cross-entropy {row['val/cross_entropy']:.3f}"
