"""The training loop, top to bottom: `TrainingLoop.run` and the methods below it, in the order in which they are called.

Notes:
- order, augmentation and learning rate are functions of (seed, epoch, step, clip), and dropout of (seed, step, rank).
  The loop can therefore start at any step, and a run that was killed and continued is bit-identical to an
  uninterrupted one;
- the loop does not depend on motion prompts: it takes a module that returns logits and variations, an objective that
  returns named terms, and a function that returns further scalars to log;
- it stops if the loss or a gradient is not finite, or if more clips than allowed are unreadable.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from vmp.data.dataset import Batch, TrainClips, collate_train, end_workers, loader_processes
from vmp.data.present import check_bad
from vmp.data.sampler import DROPOUT, TrainBatches, generator
from vmp.data.shared import SharedMemoryCollate
from vmp.engine.dist import Processes
from vmp.engine.faults import explain_torch_errors
from vmp.engine.learner import Learner
from vmp.engine.loggers import Log, Metrics
from vmp.engine.plan import LoopSettings, Throughput, TrainingPlan, TrainingState
from vmp.engine.precise_bn import recompute_statistics
from vmp.engine.precision import may_skip
from vmp.engine.prefetch import Prefetcher
from vmp.engine.saving import Saver
from vmp.engine.schedule import Schedule
from vmp.engine.stopping import Stopped, Stopping, block_stop_signals
from vmp.engine.update import (
    RunningAccuracy,
    UpdateSums,
    clip_gradients,
    decide_participation,
    has_synced_statistics,
    mean_terms,
    raise_not_finite,
    use_running_statistics,
)
from vmp.errors import RunError
from vmp.invocation import command_line
from vmp.machine import cpus
from vmp.progress import bar

SLOW_DATA = 0.1  # warn if an epoch spends more than this share of its time waiting for data


@dataclass(kw_only=True, eq=False)
class TrainingLoop:
    """Trains from the state's step to the end of the plan, and updates the state. Checkpoints go to folder/checkpoints.

    learner: its model is called with uint8 clips, and holds the average, if there is one, at the end.
    state: the state that belongs to the loaded checkpoint, or a new one.
    objective: logits, labels and the model's variations -> named terms; `loss` is minimised.
    evaluate: epoch -> metrics, called after each epoch; None: no validation. It may raise Stopped.
    scalars: returns further columns for every row of metrics.jsonl.
    describe: turns the last row of training, with that of the validation if there was one, into a line of the log.
    metrics: the open file, already truncated to the state's rows; the loop closes it.
    """

    learner: Learner
    state: TrainingState
    objective: Callable[[Tensor, Tensor, Mapping[str, Tensor]], dict[str, Tensor]]
    schedule: Schedule
    data: TrainClips
    evaluate: Callable[[int], dict[str, float]] | None
    scalars: Callable[[], dict[str, float]]
    describe: Callable[[dict[str, float]], str]
    plan: TrainingPlan
    settings: LoopSettings
    processes: Processes
    folder: Path
    metrics: Metrics
    log: Log
    stopping: Stopping

    def __post_init__(self) -> None:
        processes, settings, state = self.processes, self.settings, self.state
        self._device = processes.device
        self._network = _Network(self.learner.model, settings, processes)
        self._base_lrs = [group["lr"] for group in self.learner.optimizer.param_groups]
        carried = (state.correct, state.counted) if processes.first else (0, 0)
        self._accuracy = RunningAccuracy(*carried, self._device)
        self._saver = Saver(
            self.folder / "checkpoints",
            keep=settings.keep,
            recomputes=settings.precise_bn > 0,
            warn=self.log.warn,
        )
        self._batches, self._loader = self._make_loader()
        self._stream: Prefetcher | None = None
        self._remaining = _EvaluationTime(self.plan, settings, state)
        self._row: dict[str, float] = {}  # the last of training in this session, without its step
        self._total, self._last_epoch, self._warned = Throughput(), Throughput(), False
        self._seconds_before, self._began = state.seconds, time.monotonic()
        self._saved_at = self._began

    def run(self) -> Throughput:
        """Train to the end of the plan.

        Raises:
            RunError: a loss or gradient is not finite, no clip of a step can be read, or a file cannot be written.
            DataError: more clips than allowed cannot be read.
            Stopped: the run was asked to stop. It has been saved, unless the same signal killed a loader process first.
        """
        plan, state = self.plan, self.state
        with ExitStack() as stack:
            stack.enter_context(explain_torch_errors(self.data.being_read, self.stopping.check))
            stack.callback(self._close)
            stack.enter_context(self._saver)
            shown = self.processes.first
            self._bar = stack.enter_context(bar("train", plan.steps, done=state.step, shown=shown))
            self._bar.further = self._remaining.estimate
            if not state.rows:
                self.metrics.write({"kind": "start", "epoch": 0, "step": 0, **self.scalars()})
            while True:
                if self.evaluate and plan.needs_validation(state):
                    self._validate(self.evaluate)
                if plan.is_over(state):
                    break
                self._train_epoch()
            self._finish()
        if self.learner.average:
            self.learner.average.exchange()
        state.seconds = self._seconds()
        return self._total

    def _validate(self, evaluate: Callable[[int], dict[str, float]]) -> None:
        """Validate the weights of the epoch that has just ended, and save before and after."""
        state, processes, epoch = self.state, self.processes, self.plan.epochs_done(self.state)
        model, average = self.learner.model, self.learner.average
        processes.broadcast(model.buffers())  # batch statistics differ by process
        self._save()  # an evaluation may take long, and a stop abandons it
        with self._bar.untimed(), self._remaining.timed(), average.in_place() if average else nullcontext():
            processes.broadcast(model.buffers() if average else ())
            self._recompute_statistics(epoch)
            result, learned = evaluate(epoch), self.scalars()
        state.evaluated = epoch
        if best := result["top1"] > state.best:
            state.best, state.best_epoch = result["top1"], epoch
        row = {f"val/{name}": value for name, value in result.items()} | learned
        self.metrics.write({"kind": "val", "epoch": epoch, "step": state.step, **row})
        pace = str(self._last_epoch) if self._last_epoch.clips else ""
        self.log(f"epoch {epoch}/{self.plan.epochs}  {self.describe(self._row | row)}  {pace}".rstrip())
        self._save(best=best)

    def _train_epoch(self) -> None:
        """Train to the end of the epoch."""
        plan, state, epoch = self.plan, self.state, self.plan.epochs_done(self.state)
        self._batches.start_at(epoch, state.step % plan.steps_per_epoch * plan.accumulate)
        self._stream = Prefetcher(iter(self._loader), self._device)
        own = Throughput()  # of this process
        while plan.epochs_done(state) == epoch:
            began = time.monotonic()
            sums = self._compute_gradients()
            agreed = self._agree(sums)
            self._update_weights(agreed)
            state.step += 1
            own.clips += len(sums.clip_ids)
            own.trained += time.monotonic() - began
            if state.step % self.settings.log_every == 0 or state.step % plan.steps_per_epoch == 0:
                self._write_row(sums)
            self._bar.advance()
            if agreed.save or agreed.stop:
                self._save()
            if agreed.stop:
                self._saver.wait()
                at = f"step {state.step} of {plan.steps}"
                raise Stopped(f"stopped by {self.stopping.name(agreed.stop)} at {at}; saved.", agreed.stop)
        own.waited = self._stream.waited
        self._report_speed(epoch + 1, own)
        if not self.evaluate:
            self._save()

    def _compute_gradients(self) -> UpdateSums:
        """Add up the gradients of one update's micro-batches on this process."""
        plan, state, optimizer = self.plan, self.state, self.learner.optimizer
        for group, base in zip(optimizer.param_groups, self._base_lrs, strict=True):
            group["lr"] = base * self.schedule(state.step / plan.steps_per_epoch)
        dropout = generator(DROPOUT, plan.seed, state.step, self.processes.rank)
        torch.manual_seed(int(dropout.integers(2**62)))
        optimizer.zero_grad(set_to_none=True)
        sums = UpdateSums()
        for i in range(plan.accumulate):
            assert self._stream is not None
            batch = self._stream.take()
            if batch.bad:
                clips = self.data.present.clips
                state.bad |= {clips[index].id: why for index, why in batch.bad.items()}
                self._check_unreadable()
            self._run_micro_batch(batch, sums, last=i + 1 == plan.accumulate)
        return sums

    def _run_micro_batch(self, batch: Batch, sums: UpdateSums, *, last: bool) -> None:
        """Run one micro-batch forward and backward, and fetch the next meanwhile."""
        plan, network, scaler = self.plan, self._network, self.learner.scaler
        readable = len(batch.clips)
        todo = decide_participation(
            readable, micro_batch=plan.micro_batch, last=last, synced=network.synced, processes=self.processes
        )
        if not todo.runs:
            return
        sums.clip_ids += [self.data.present.clips[index].id for index in batch.indices.tolist()]
        clips, labels = (batch.clips, batch.labels) if todo.weight else self.data.blank()
        self.learner.model.train()  # each time: frozen modules go back to evaluation mode
        if not todo.batch_statistics:
            use_running_statistics(self.learner.model)
        with network.running(last=last):
            out = network(clips.to(self._device, non_blocking=True))
            labels = labels.to(self._device, non_blocking=True)
            terms = self.objective(out.logits, labels, out.variations)
            scaler.scale(terms["loss"] * todo.weight / plan.accumulate).backward()
        assert self._stream is not None
        if not self.stopping.code:  # a run that is about to stop needs no further batch
            self._stream.fetch()
        if todo.weight:
            sums.add(terms, todo.weight)
            self._accuracy.add(out.logits, labels)

    def _agree(self, sums: UpdateSums) -> "_Agreed":
        """Exchange findings with the other processes, so that all step or stop together. Waits, once per step."""
        scaler, settings, step = self.learner.scaler, self.settings, self.state.step + 1
        if scaler.is_enabled():
            scaler.unscale_(self.learner.optimizer)
        finite = sums.is_finite(self.learner.optimizer)
        no_loss = scaler.is_enabled() and ~sums.has_finite_loss()
        due = time.monotonic() - self._saved_at > 60 * settings.save_minutes
        flags = (~finite, no_loss, self.stopping.code, due, sums.weight > 0)
        broken, lost, stop, due_anywhere, any_read = self.processes.maximum(flags)
        if not any_read:
            raise RunError(f"none of the {self.plan.batch} clips of step {step} could be read")
        skip = bool(broken and not lost and may_skip(scaler))
        if broken and not skip:
            raise_not_finite(self.folder, step, sums, self.scalars, self.processes)
        due_step = settings.save_steps is not None and step % settings.save_steps == 0
        return _Agreed(skip=skip, save=bool(due_anywhere) or due_step, stop=stop)

    def _update_weights(self, agreed: "_Agreed") -> None:
        """Apply the gradients, unless an fp16 gradient overflowed."""
        optimizer, scaler, step = self.learner.optimizer, self.learner.scaler, self.state.step + 1
        if not agreed.skip:
            if self.settings.clip_norm:
                clip_gradients(optimizer, self.settings.clip_norm)
            optimizer.step()
            if self.learner.average:
                self.learner.average.update(step)
        if scaler.is_enabled():
            scaler.update()
        if agreed.skip:
            self.log.to_file(
                f"step {step}: a gradient overflowed; its update is skipped, and the loss is now multiplied by "
                f"{scaler.get_scale():g}"
            )

    def _write_row(self, sums: UpdateSums) -> None:
        """Write the losses of the last update, and the accuracy since the last row, to metrics.jsonl."""
        state, accuracy = self.state, self._accuracy
        parts = self.processes.gather((sums.values(), sums.weight, accuracy.correct, accuracy.counted))
        row = {f"train/{name}": value for name, value in mean_terms([part[:2] for part in parts]).items()}
        row["train/top1"] = 100 * sum(part[2] for part in parts) / sum(part[3] for part in parts)
        row["train/lr"] = self.learner.optimizer.param_groups[0]["lr"]
        accuracy.reset()
        epochs = round(state.step / self.plan.steps_per_epoch, 6)
        self._row = row | self.scalars()
        self.metrics.write({"kind": "train", "epoch": epochs, "step": state.step, **self._row})
        self._bar.note = f"loss {row['train/loss']:.3f}"

    def _report_speed(self, epoch: int, own: Throughput) -> None:
        """Add an epoch's throughput to the total; warn once if data are slow."""
        parts = self.processes.gather(own)
        self._total, speed = self._total.add(parts), Throughput().add(parts)
        self._last_epoch = speed
        keeps = self.data.kept is not None
        first = self._total.clips == speed.clips  # which decodes every clip, also if decoded clips are kept
        slow = speed.share_waiting > SLOW_DATA and speed.waited > 5 and not (first and keeps)
        if self.processes.first and slow and not self._warned:
            self._warned = True
            advice = _advice_on_slow_data(self.settings.workers, keeps=keeps)
            self.log.warn(f"epoch {epoch}: {speed}. {advice}")
        if not self.evaluate:
            self.log(f"epoch {epoch}/{self.plan.epochs}  {self.describe(self._row)}  {speed}")

    def _finish(self) -> None:
        """Say why training ended early; compute the batch statistics that no validation has computed."""
        plan, state, average = self.plan, self.state, self.learner.average
        if state.step < plan.steps:
            self.log(f"no better top-1 than that of epoch {state.best_epoch}: training ends (train.patience)")
        epoch = plan.epochs_done(state)
        if self.settings.precise_bn and not self.evaluate and state.evaluated < epoch:
            with average.in_place() if average else nullcontext():
                self._recompute_statistics(epoch)
            state.evaluated = epoch  # part of the checkpoint's name, so this one gets a new name
            self._save()

    def _recompute_statistics(self, epoch: int) -> None:
        if self.settings.precise_bn:
            recompute_statistics(
                self.learner.model,
                self.data,
                clips=self.settings.precise_bn,
                epoch=epoch,
                micro_batch=self.plan.micro_batch,
                processes=self.processes,
                workers=self.settings.workers,
                timeout=self.settings.timeout,
                autocast=self.settings.autocast,
                check_stop=self.stopping.check,
            )

    def _save(self, *, best: bool = False) -> None:
        state, accuracy = self.state, self._accuracy
        parts = self.processes.gather((state.bad, accuracy.correct, accuracy.counted))
        state.bad = {clip: why for bad, _, _ in parts for clip, why in bad.items()}
        self._check_unreadable()  # each process may have found fewer than all together
        state.correct, state.counted = (sum(part[i] for part in parts) for i in (1, 2))
        state.rows, state.seconds = self.metrics.rows, self._seconds()
        self.metrics.sync()
        if self.processes.first:
            self._saver.save(self.learner, state, best=best)
        self._saved_at = time.monotonic()

    def _check_unreadable(self) -> None:
        present = self.data.present
        bad = present.bad | self.state.bad
        check_bad(bad, present.total, self.settings.max_bad_fraction, where="training")

    def _seconds(self) -> float:
        """Time of training and validation over all sessions."""
        return self._seconds_before + time.monotonic() - self._began

    def _make_loader(self) -> tuple[TrainBatches, DataLoader[Any]]:
        plan, settings = self.plan, self.settings
        batches = TrainBatches(
            clips=plan.clips,
            batch=plan.micro_batch,
            batches=plan.steps_per_epoch * plan.accumulate,
            seed=plan.seed,
            rank=self.processes.rank,
            world=self.processes.world,
            labels=plan.labels,
        )
        loader: DataLoader[Any] = DataLoader(
            self.data,
            batch_sampler=batches,
            collate_fn=SharedMemoryCollate(collate_train),
            persistent_workers=settings.workers > 0,
            pin_memory=self._device.type == "cuda",
            **loader_processes(self.data, settings.workers, timeout=settings.timeout),
        )
        return batches, loader

    def _close(self) -> None:
        # dropping the last references ends the loader processes, even while an exception propagates
        self._stream = None
        del self._loader
        end_workers()
        self.metrics.close()


class _Agreed(NamedTuple):
    """What all processes do after an update's gradients. stop: the code of a signal, or 0."""

    skip: bool
    save: bool
    stop: int


class _Network:
    """The model as the loop runs it: with DDP if there are several processes, compiled if the settings say so.

    synced: whether batch statistics are synchronised between processes.
    """

    def __init__(self, model: nn.Module, settings: LoopSettings, processes: Processes) -> None:
        device = processes.device
        ids = [device.index] if device.type == "cuda" else None
        self._ddp = DistributedDataParallel(model, device_ids=ids) if processes.world > 1 else None
        network = self._ddp or model
        self._compiled, self._autocast = settings.compiled, (device.type, settings.autocast)
        self._forward: Callable[..., Any] = (
            torch.compile(network, dynamic=False) if self._compiled else network
        )
        self.synced = has_synced_statistics(model, processes)

    def __call__(self, clips: Tensor) -> Any:
        device, dtype = self._autocast
        with torch.autocast(device, dtype, enabled=dtype is not None):
            return self._forward(clips)

    @contextmanager
    def running(self, *, last: bool) -> Iterator[None]:
        """Context for one micro-batch forward and backward. last: the one in which DDP averages gradients."""
        unsynced = self._ddp.no_sync() if self._ddp and not last else nullcontext()
        with unsynced, block_stop_signals() if self._compiled else nullcontext():
            yield


class _EvaluationTime:
    """Estimates the time of the validations and the final test that remain, for the ETA."""

    def __init__(self, plan: TrainingPlan, settings: LoopSettings, state: TrainingState) -> None:
        self._plan, self._settings, self._state = plan, settings, state
        self._validations, self._validating = 0, 0.0  # number and seconds of validations in this session

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Time one validation."""
        began = time.monotonic()
        yield
        self._validating += time.monotonic() - began
        self._validations += 1

    def estimate(self, step: float) -> float:
        """Seconds that remain. step: seconds of one update, a third of which counts as a forward pass at first."""
        views = self._settings.val_views
        timed = self._validations * views
        view = self._validating / timed if timed else step / self._plan.batch / 3
        return view * ((self._plan.epochs - self._state.evaluated) * views + self._settings.test_views)


def _advice_on_slow_data(workers: int, *, keeps: bool) -> str:
    """keeps: whether decoded clips are kept already."""
    keep = "" if keeps else " or, for small datasets, data.keep"
    return (
        f"Reading data slows training down. Try more trainer.workers (now {workers}; {cpus()} CPUs are available), "
        f"small exact clips ({command_line('prepare')} ... --cut){keep}. `make bench BENCH=clips` measures the readers."
    )
