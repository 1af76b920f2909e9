"""train.py's command: trains, tests and records one run.

Notable here:
- the same command again continues the run in its folder (runs/folder.py) or says that it is finished;
- config and data are checked before torch is imported, as far as possible.
"""

import math
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from vmp.build import (
    Splits,
    backbone_spec,
    build_model,
    build_optimizer,
    build_schedule,
    check_enough_clips,
    clip_shape,
    find_splits,
)
from vmp.config import Config, check, check_start
from vmp.data.present import Present, digest, find_clips
from vmp.errors import UserError
from vmp.preflight import check_machine, clips_per_process, explain_disk_errors
from vmp.ranks import read_rank
from vmp.runs.folder import begun, check_same_data, check_same_run, keep_records, run_folder, what_matters
from vmp.runs.records import METRICS_FILE, is_finished, write_result
from vmp.runs.score import Split, loader_workers, print_result, record_scores, score, summarize
from vmp.runs.start import start_weights
from vmp.tracking import Tracker, check_tracker, start_tracker

if TYPE_CHECKING:
    from vmp.backbones import Spec
    from vmp.engine.checkpoint import Checkpoint
    from vmp.engine.dist import Processes
    from vmp.engine.evaluator import Scores
    from vmp.engine.loggers import Log
    from vmp.engine.plan import LoopSettings, Throughput, TrainingPlan, TrainingState
    from vmp.engine.stopping import Stopping
    from vmp.model import PromptedClassifier


@dataclass(frozen=True)
class Data:
    """A run's splits, with the usable clips and the digest of each by the split's name."""

    splits: Splits
    present: dict[str, Present]
    digests: dict[str, str]

    def split(self, name: str) -> Split:
        return Split(name, dict(self.splits.named())[name], self.present[name])


def train(cfg: DictConfig) -> None:
    """Train, or continue, the run that the config describes, test it, and write its records."""
    began = time.monotonic()
    raw = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(raw, dict)
    config = check(raw)  # type: ignore[arg-type]
    check_tracker(config.logger)
    check_same_run(config.folder, raw)
    if not begun(config.folder):
        check_start(config)
    if _is_finished(config):
        if read_rank().first:
            print(f"{config.folder} is finished:")
            print_result(config.folder)
            print(
                "For another run change a setting, the seed or tag=WORD; to run it again, move the folder away."
            )
        return
    check_machine(config)
    with explain_disk_errors():
        data = _find_data(config)
        check_same_data(config.folder, data.digests)
        with run_folder(config.folder, raw, first=read_rank().first):
            from vmp.engine.faults import explain_torch_errors  # imports torch

            with explain_torch_errors():
                _train_in_folder(config, raw, data, began)


def _is_finished(config: Config) -> bool:
    """Whether the run has a result: as the first process sees it, on every process."""
    finished = is_finished(config.folder)
    if read_rank().alone:
        return finished
    from vmp.engine import dist
    from vmp.engine.faults import explain_torch_errors

    with explain_torch_errors():
        return dist.start(config.trainer.device).gather(finished)[0]


def _find_data(config: Config) -> Data:
    splits = find_splits(config, progress=read_rank().first)
    present = {
        name: find_clips(m, reader=config.data.reader, max_bad_fraction=config.data.max_bad_fraction)
        for name, m in splits.named()
    }
    check_enough_clips(config, len(present["train"].clips), splits.train.path)
    return Data(splits, present, {name: digest(m, present[name]) for name, m in splits.named()})


def _train_in_folder(config: Config, raw: dict[Any, Any], data: Data, began: float) -> None:
    """Agree with the other processes on a checkpoint, train, test, and write the result."""
    import torch

    from vmp.engine import dist
    from vmp.engine.loggers import Log
    from vmp.engine.stopping import Stopped, Stopping

    folder, t = config.folder, config.trainer
    if t.threads:
        torch.set_num_threads(t.threads)
    if t.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    processes = dist.start(t.device)
    log = Log(folder / "log.txt" if processes.first else None)
    tracker, code = Tracker(), 1  # a real one once the processes agree
    stopping = Stopping(None if t.max_minutes is None else t.max_minutes - (time.monotonic() - began) / 60)
    try:
        found = _agree_on_checkpoint(config, raw, data, processes, log)
        tracker = start_tracker(config, folder, first=processes.first, log=log)
        plan = _make_plan(config, processes.world, clips=len(data.present["train"].clips), log=log)
        spec = backbone_spec(config)
        model = _make_model(config, data.splits, spec, processes, log, new=found is None).to(processes.device)
        session = Session(config, data, processes, log, tracker, stopping, plan, spec, model)
        session.log_setup()
        with stopping:
            optimizer = build_optimizer(config, model)
            state = session.restore(found, optimizer)
            del found  # free its memory
            throughput = session.fit(state, optimizer)
            epoch = session.load_selected_weights(state)
            scores = session.test()
        if processes.first:
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
    """The training of one process in one call of the command, after all checks."""

    config: Config
    data: Data
    processes: "Processes"
    log: "Log"
    tracker: Tracker
    stopping: "Stopping"
    plan: "TrainingPlan"
    spec: "Spec"
    model: "PromptedClassifier"

    @property
    def views(self) -> tuple[int, int]:
        """Of the final test, temporal x spatial."""
        return self.config.trainer.views or self.spec.views

    @property
    def tested(self) -> str:
        """The split of the final test."""
        return self.data.splits.tested[0]

    def log_setup(self) -> None:
        """Log what is about to be trained on what."""
        import torch

        from vmp.runs.result import describe_devices

        config, plan = self.config, self.plan
        self.log(f"run {config.folder} on {describe_devices(self.processes)}, torch {torch.__version__}")
        for name, present in self.data.present.items():
            c = present.counts()
            gone = f" ({c['missing']} missing, {c['unreadable']} unreadable)" if present.bad else ""
            classes = len(self.data.splits.classes)
            self.log(f"{name}: {c['present']} of {c['expected']} clips{gone}, {classes} classes")
        self.log(
            f"{plan.steps} updates of {plan.batch} clips ({plan.accumulate} x {plan.micro_batch} on {plan.world} "
            "device(s))"
        )
        shape = clip_shape(config, self.spec, self.model)
        self.log(
            f"{config.backbone.key}, {_describe_parameters(self.model)}, sees {self.spec.frames} frames of "
            f"{self.spec.crop} pixels; {shape.frames} are decoded at stride {shape.stride}"
        )
        self._check_shared_memory()

    def _check_shared_memory(self) -> None:
        """Warn where the batches of training and testing are larger than what loader processes hand over at once."""
        from vmp.data.shared import shortage
        from vmp.engine.evaluator import clips_at_once

        shape = clip_shape(self.config, self.spec, self.model)
        at_once = max(clips_at_once(n) * n for n in (1, math.prod(self.views)))  # views of a batch
        largest = max(self.plan.micro_batch * shape.crop**2, at_once * shape.test_crop**2)
        workers = loader_workers(self.config.trainer.workers)
        if warning := shortage(3 * shape.frames * largest, workers=workers, beside=read_rank().local_world):
            self.log.warn(warning)

    def restore(self, found: "Checkpoint | None", optimizer: Any) -> "TrainingState":
        """Load the checkpoint into model and optimizer; returns its state, or a new one without a checkpoint."""
        from vmp.runs import resume

        self.log(f"lr {optimizer.param_groups[0]['lr']:g}")
        state = resume.restore(found, self.model, optimizer, steps=self.plan.steps)
        if found and state.step < self.plan.steps:
            self.log(f"continuing from {found.path.name}: step {state.step} of {self.plan.steps}")
        resume.record_session(state, self.processes, self.log)
        return state

    def fit(self, state: "TrainingState", optimizer: Any) -> "Throughput":
        """Train to the plan's end."""
        from vmp.data.dataset import TrainClips
        from vmp.engine import trainer
        from vmp.engine.loggers import Metrics
        from vmp.objective import Objective

        config, data = self.config, self.data
        rows = config.folder / METRICS_FILE if self.processes.first else None
        throughput = trainer.fit(
            self.model,
            objective=Objective(
                variation_weight=config.vmp.lambda_, label_smoothing=config.optim.label_smoothing
            ),
            optimizer=optimizer,
            state=state,
            schedule=build_schedule(config),
            data=TrainClips(
                data.splits.train,
                data.present["train"],
                clip_shape(config, self.spec, self.model),
                seed=config.seed,
                keep=config.data.keep * 10**6,
            ),
            evaluate=self.validate if data.splits.val else None,
            scalars=self._scalars,
            describe=_describe_validation,
            plan=self.plan,
            settings=self._settings(),
            processes=self.processes,
            folder=config.folder,
            metrics=Metrics(rows, rows=state.rows, also=self._send_to_tracker),
            log=self.log,
            stopping=self.stopping,
        )
        last = self.plan.epochs
        if not data.splits.val and self.tracker.wants_panels(last, last=last):
            self.show_attention(last)
        return throughput

    def _settings(self) -> "LoopSettings":
        import torch

        from vmp.engine.plan import LoopSettings

        config, t, present = self.config, self.config.trainer, self.data.present
        return LoopSettings(
            workers=loader_workers(t.workers),
            timeout=config.data.timeout,
            autocast=torch.bfloat16 if t.amp == "bf16" else None,
            compiled=t.compile,
            log_every=t.log_every,
            save_minutes=t.save_minutes,
            save_steps=t.save_steps,
            keep=t.keep,
            max_bad_fraction=config.data.max_bad_fraction,
            val_views=len(present["val"].clips) if "val" in present else 0,
            test_views=len(present[self.tested].clips) * math.prod(self.views),
        )

    def _scalars(self) -> dict[str, float]:
        """Columns of metrics.jsonl for what the prompts have learned."""
        return {f"vmp/{name}": float(value) for name, value in self.model.scalars().items()}

    def _send_to_tracker(self, row: dict[str, Any]) -> None:
        """Send a row of metrics.jsonl to the tracker."""
        self.tracker.log_row(row)
        if row["kind"] == "start" and self.tracker.wants_panels(0, last=self.plan.epochs):
            self.show_attention(0)

    def validate(self, epoch: int) -> dict[str, float]:
        """Score the validation split with one view, for the learning curve; the result comes from `test`."""
        split = self.data.split("val")
        found = summarize(self._score(split, (1, 1)), split)
        found["loss"] = found["cross_entropy"] + self.config.vmp.lambda_ * found.get("variation", 0.0)
        if self.tracker.wants_panels(epoch, last=self.plan.epochs):
            self.show_attention(epoch)
        return found

    def load_selected_weights(self, state: "TrainingState") -> int:
        """Load the weights to test, last or best, on every process; returns their epoch."""
        from vmp.engine import checkpoint

        epoch = self.plan.epochs
        if self.config.trainer.select == "best":
            epoch = state.best_epoch
            if self.processes.first:
                best = checkpoint.load(self.config.folder / "checkpoints" / checkpoint.best_name(epoch))
                self.model.load_state_dict(best.model)
            self.processes.share(self.model.state_dict().values())
        self.processes.share(self.model.buffers())
        return epoch

    def test(self) -> "Scores":
        return self._score(self.data.split(self.tested), self.views)

    def _score(self, split: Split, views: tuple[int, int]) -> "Scores":
        return score(
            self.model,
            split,
            config=self.config,
            spec=self.spec,
            views=views,
            processes=self.processes,
            between=self.stopping.check,
        )

    def show_attention(self, epoch: int) -> None:
        """Send attention pictures of a few evenly spaced clips to the tracker."""
        import torch

        from vmp.figures.panels import attention_panels

        split = self.data.split("val" if self.data.splits.val else "test")
        try:
            dataset = split.test_clips(self.config, self.spec, self.model)
            count = min(self.config.logger.max_panels, len(dataset))
            clips = {}
            for index in torch.linspace(0, len(dataset) - 1, count).long().tolist():
                views = dataset[index][1]
                if isinstance(views, torch.Tensor):
                    clips[split.present.clips[index].id] = views[0]
            step = epoch * self.plan.steps_per_epoch
            self.tracker.log_panels(epoch, step, attention_panels(self.model, clips))
        except Exception as error:  # a picture must not cost a run
            self.log.warn(f"attention could not be drawn: {type(error).__name__}: {error}")

    def write_result(
        self, scores: "Scores", state: "TrainingState", throughput: "Throughput", *, epoch: int
    ) -> None:
        """Write result.json and the files beside it. epoch: of the weights that were tested."""
        from vmp.runs.result import describe_training

        config, split, present = self.config, self.tested, self.data.present
        measured = record_scores(scores, self.data.split(split), config.folder)
        clips = {name: one.counts() for name, one in present.items()}
        clips["train"]["unreadable"] += len(state.bad)
        clips["train"]["present"] -= len(state.bad)
        clips[split] = measured.pop("clips")
        result = {
            "split": split,
            "epoch": epoch,
            "views": list(self.views),
            "reduce": self.spec.reduce,
            "degrade": config.data.degrade,
            **measured,
            "clips": clips,
            "unreadable_in_training": dict(sorted(state.bad.items())),
            "readers": sorted({reader for one in present.values() for reader in one.readers}),
            "classes": len(self.data.splits.classes),
            **describe_training(config, self.model, self.plan, state, throughput, self.processes),
        }
        write_result(config.folder, result)
        if config.trainer.keep_finished == "weights":
            self._keep_weights()
        self._draw_curves()
        self.tracker.log_result(config.folder)
        print_result(config.folder)

    def _keep_weights(self) -> None:
        from vmp.engine import checkpoint

        try:
            checkpoint.keep_weights(self.config.folder / "checkpoints")
        except (OSError, UserError) as error:  # the result is written already; failing here only wastes space
            self.log.warn(f"the checkpoints could not be reduced to weights: {error}")

    def _draw_curves(self) -> None:
        folder = self.config.folder
        try:
            from vmp.figures.curves import draw_curves

            draw_curves({folder.parent.name: folder}, folder / "curves.png")
        except Exception as error:  # a picture must not cost a run
            self.log.warn(f"curves.png could not be drawn: {type(error).__name__}: {error}")


def _agree_on_checkpoint(
    config: Config, raw: dict[Any, Any], data: Data, processes: "Processes", log: "Log"
) -> "Checkpoint | None":
    """The checkpoint that all processes continue from. Once they agree, the run's config and digests are written."""
    from vmp.engine import checkpoint
    from vmp.runs import resume

    resume.check_alike(processes, what_matters(raw), data.digests, log)
    found = resume.one_for_all(
        config.folder / "checkpoints",
        lambda folder: checkpoint.newest(folder, warn=log.warn),
        processes,
    )
    if processes.first:
        keep_records(config.folder, raw, data.digests, data.splits.classes)
    return found


def _make_plan(config: Config, world: int, *, clips: int, log: "Log") -> "TrainingPlan":
    from vmp.engine.plan import TrainingPlan

    t = config.trainer
    each = clips_per_process(config, world)
    if config.train.batch_norm == "sync" and world == 1:
        log.warn("train.batch_norm = 'sync' has no effect with a single process")
    wanted = min(each, t.micro_batch or each)
    micro = max(n for n in range(1, wanted + 1) if each % n == 0)
    if micro < wanted / 2 and config.train.batch_norm == "train":
        log.warn(
            f"{each} clips per device are divided into micro-batches of {micro}, and batch normalisation sees no more "
            f"at a time; choose a trainer.batch_size that {t.micro_batch} (trainer.micro_batch) x {world} divides"
        )
    return TrainingPlan(
        epochs=t.epochs, batch=t.batch_size, micro_batch=micro, world=world, clips=clips, seed=config.seed
    )


def _make_model(
    config: Config, splits: Splits, spec: "Spec", processes: "Processes", log: "Log", *, new: bool
) -> "PromptedClassifier":
    """Build the model. For a new run, load the weights that it starts from and record them."""
    from vmp.finetune import check_frozen, freeze
    from vmp.runs.records import write_weights

    model = build_model(config, len(splits.classes), spec)
    if not new:
        freeze(model, config.train.freeze)
        return model
    start = start_weights(config, model, splits.classes, spec)
    kept: dict[str, Any] = {"source": "random"}
    if start.report:
        kept = {**start.report.as_dict(), "prompts_taken": start.prompts, "warnings": start.warnings}
        log(f"{start.report}\n  m and n loaded into the prompt layers: {', '.join(start.prompts) or 'none'}")
        for warning in start.warnings:
            log.warn(warning)
    freeze(model, config.train.freeze)
    known = [*start.prompts, *start.given]
    check_frozen(model, start.report.matched if start.report else (), known, start.warnings)
    if processes.first:
        write_weights(config.folder, kept)
    _log_start_attention(model, log)
    return model


def _log_start_attention(model: Any, log: "Log") -> None:
    """Log the attention where nothing moves, and warn if it is so low that the model starts on almost blank clips."""
    import torch

    for pathway, layer in model.prompts.items():
        still = float(layer.power_norm(torch.zeros(1)).detach())
        log(f"prompts ({pathway}): the attention on a still pixel is {still:.3f}")
        if still < 0.1 and layer.scalars():
            log.warn(
                "attention starts near 0, so the backbone sees nearly blank clips and trains slowly; try the authors' "
                "start, vmp.m=1.541 vmp.n=-0.2934, or another seed"
            )


def _describe_parameters(model: "PromptedClassifier") -> str:
    from vmp.finetune import trained

    return f"{sum(p.numel() for p in model.parameters()):,} parameters ({trained(model):,} trained)"


def _describe_validation(row: dict[str, float]) -> str:
    """A validation's accuracies, with slope and shift, for the log."""
    text = f"top1 {row['val/top1']:.2f}  top5 {row['val/top5']:.2f}"
    text += f"  cross-entropy {row['val/cross_entropy']:.3f}"
    learned = {k.removeprefix("vmp/"): v for k, v in row.items() if k.endswith(("slope", "shift"))}
    return text + "".join(f"  {name} {value:.3f}" for name, value in learned.items())
