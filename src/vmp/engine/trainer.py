"""The training loop, top to bottom.

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
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from vmp.data.dataset import TrainClips, collate_train, end_workers, loader_processes
from vmp.data.present import check_bad
from vmp.data.sampler import DROPOUT, TrainBatches, generator
from vmp.data.shared import SharedMemoryCollate
from vmp.engine.average import Average
from vmp.engine.dist import Processes
from vmp.engine.faults import explain_torch_errors
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


def fit(
    model: nn.Module,
    *,
    objective: Callable[[Tensor, Tensor, Mapping[str, Tensor]], dict[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    average: Average | None = None,
    state: TrainingState,
    schedule: Schedule,
    data: TrainClips,
    evaluate: Callable[[int], dict[str, float]] | None,
    scalars: Callable[[], dict[str, float]],
    describe: Callable[[dict[str, float]], str],
    plan: TrainingPlan,
    settings: LoopSettings,
    processes: Processes,
    folder: Path,
    metrics: Metrics,
    log: Log,
    stopping: Stopping,
) -> Throughput:
    """Train from the state's step to the end of the plan, and update the state. Checkpoints go to folder/checkpoints.

    Args:
        model: on its device; called with uint8 clips.
        objective: logits, labels and the model's variations -> named terms; `loss` is minimised.
        optimizer: the initial `lr` of each group is its base learning rate.
        scaler: the loss scaler for fp16; disabled for other types.
        average: a moving average of the weights, which is validated and which the model holds at the end; or None.
        state: the state that belongs to the loaded checkpoint, or a new one.
        evaluate: epoch -> metrics, called after each epoch; None: no validation. It may raise Stopped.
        scalars: returns further columns for every row of metrics.jsonl.
        describe: turns the row of a validation into a line of the log.
        metrics: the open file, already truncated to the state's rows; `fit` closes it.

    Raises:
        RunError: a loss or gradient is not finite, no clip of a step can be read, or a file cannot be written.
        DataError: more clips than allowed cannot be read.
        Stopped: the run was asked to stop. It has been saved, unless the same signal killed a loader process first.
    """
    device, per_epoch = processes.device, plan.steps_per_epoch
    base_lrs = [group["lr"] for group in optimizer.param_groups]
    carried = (state.correct, state.counted) if processes.first else (0, 0)
    accuracy = RunningAccuracy(*carried, device)
    seconds_before, began = state.seconds, time.monotonic()
    saved_at = began

    wrapped: nn.Module = model
    if processes.world > 1:
        wrapped = DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)
    unsynced = wrapped.no_sync if isinstance(wrapped, DistributedDataParallel) else nullcontext
    synced = has_synced_statistics(model, processes)
    forward: Callable[..., Any] = torch.compile(wrapped, dynamic=False) if settings.compiled else wrapped
    averaged = average.in_place if average else nullcontext
    signals_blocked = block_stop_signals if settings.compiled else nullcontext
    autocast: dict[str, Any] = {"dtype": settings.autocast, "enabled": settings.autocast is not None}

    batches = TrainBatches(
        clips=plan.clips,
        batch=plan.micro_batch,
        batches=per_epoch * plan.accumulate,
        seed=plan.seed,
        rank=processes.rank,
        world=processes.world,
        labels=plan.labels,
    )
    loader: DataLoader[Any] | None = DataLoader(
        data,
        batch_sampler=batches,
        collate_fn=SharedMemoryCollate(collate_train),
        persistent_workers=settings.workers > 0,
        pin_memory=device.type == "cuda",
        **loader_processes(data, settings.workers, timeout=settings.timeout),
    )
    stream: Prefetcher | None = None
    saver = Saver(
        folder / "checkpoints", keep=settings.keep, recomputes=settings.precise_bn > 0, warn=log.warn
    )

    def check_unreadable() -> None:
        bad = data.present.bad | state.bad
        check_bad(bad, data.present.total, settings.max_bad_fraction, where="training")

    def save(*, best: bool = False) -> None:
        nonlocal saved_at
        parts = processes.gather((state.bad, accuracy.correct, accuracy.counted))
        state.bad = {k: v for bad, _, _ in parts for k, v in bad.items()}
        check_unreadable()  # each process may have found fewer than all together
        state.correct, state.counted = (sum(part[i] for part in parts) for i in (1, 2))
        state.rows, state.seconds = metrics.rows, seconds_before + time.monotonic() - began
        metrics.sync()
        if processes.first:
            saver.save(model, optimizer, scaler, state, average=average, best=best)
        saved_at = time.monotonic()

    def recompute(epoch: int) -> None:
        if settings.precise_bn:
            recompute_statistics(
                model,
                data,
                clips=settings.precise_bn,
                epoch=epoch,
                micro_batch=plan.micro_batch,
                processes=processes,
                workers=settings.workers,
                timeout=settings.timeout,
                autocast=settings.autocast,
                check_stop=stopping.check,
            )

    def close() -> None:
        nonlocal loader, stream
        # dropping the last references ends the loader processes, even while an exception propagates
        stream = loader = None
        end_workers()
        metrics.close()

    total, epoch_total, warned = Throughput(), Throughput(), False
    with ExitStack() as stack:
        stack.enter_context(explain_torch_errors(data.being_read, stopping.check))
        stack.callback(close)
        stack.enter_context(saver)
        progress_bar = stack.enter_context(bar("train", plan.steps, done=state.step, shown=processes.first))
        remaining = _EvaluationTime(plan, settings, state)
        progress_bar.further = remaining.estimate
        if not state.rows:
            metrics.write({"kind": "start", "epoch": 0, "step": 0, **scalars()})
        while True:
            epoch = state.step // per_epoch  # epochs done

            # --- evaluate where an epoch has ended ---------------------------------------------------------------
            if evaluate and state.step and state.step % per_epoch == 0 and state.evaluated < epoch:
                processes.broadcast(model.buffers())  # batch statistics differ by process
                save()  # an evaluation may take long, and a stop abandons it
                with progress_bar.untimed(), remaining.timed(), averaged():
                    processes.broadcast(model.buffers() if average else ())
                    recompute(epoch)
                    result, learned = evaluate(epoch), scalars()
                state.evaluated = epoch
                if best := result["top1"] > state.best:
                    state.best, state.best_epoch = result["top1"], epoch
                row = {f"val/{name}": value for name, value in result.items()} | learned
                metrics.write({"kind": "val", "epoch": epoch, "step": state.step, **row})
                pace = str(epoch_total) if epoch_total.clips else ""
                log(f"epoch {epoch}/{plan.epochs}  {describe(row)}  {pace}".rstrip())
                save(best=best)
            if plan.is_over(state):
                if state.step < plan.steps:
                    log(
                        f"no better top-1 than that of epoch {state.best_epoch}: training ends (train.patience)"
                    )
                if settings.precise_bn and not evaluate and state.evaluated < epoch:
                    with averaged():
                        recompute(epoch)
                    state.evaluated = epoch  # part of the checkpoint's name, so this one gets a new name
                    save()
                break

            # --- train to the end of the epoch -------------------------------------------------------------------
            batches.start_at(epoch, state.step % per_epoch * plan.accumulate)
            stream = Prefetcher(iter(loader), device)  # type: ignore[arg-type]
            this_epoch = Throughput()  # of this process
            while state.step < (epoch + 1) * per_epoch:
                for group, base in zip(optimizer.param_groups, base_lrs, strict=True):
                    group["lr"] = base * schedule(state.step / per_epoch)
                dropout = generator(DROPOUT, plan.seed, state.step, processes.rank)
                torch.manual_seed(int(dropout.integers(2**62)))
                optimizer.zero_grad(set_to_none=True)
                sums, step_began = UpdateSums(), time.monotonic()
                for i in range(plan.accumulate):
                    last = i + 1 == plan.accumulate
                    batch = stream.take()
                    if batch.bad:
                        state.bad |= {data.present.clips[index].id: why for index, why in batch.bad.items()}
                        check_unreadable()
                    readable = len(batch.clips)
                    participation = decide_participation(
                        readable, micro_batch=plan.micro_batch, last=last, synced=synced, processes=processes
                    )
                    if not participation.runs:
                        continue
                    this_epoch.clips += readable
                    sums.clip_ids += [data.present.clips[index].id for index in batch.indices.tolist()]
                    clips, labels = (batch.clips, batch.labels) if participation.weight else data.blank()
                    model.train()  # each time: frozen modules go back to evaluation mode
                    if not participation.batch_statistics:
                        use_running_statistics(model)
                    with nullcontext() if last else unsynced(), signals_blocked():
                        with torch.autocast(device.type, **autocast):
                            out = forward(clips.to(device, non_blocking=True))
                        labels = labels.to(device, non_blocking=True)
                        terms = objective(out.logits, labels, out.variations)
                        scaler.scale(terms["loss"] * participation.weight / plan.accumulate).backward()
                    if not stopping.code:  # a run that is about to stop needs no further batch
                        stream.fetch()
                    if participation.weight:
                        sums.add(terms, participation.weight)
                        accuracy.add(out.logits, labels)

                # --- the processes exchange their findings, and step or stop together
                if scaler.is_enabled():
                    scaler.unscale_(optimizer)
                finite = sums.is_finite(optimizer)
                no_loss = scaler.is_enabled() and ~sums.has_finite_loss()
                due = time.monotonic() - saved_at > 60 * settings.save_minutes
                flags = (~finite, no_loss, stopping.code, due, sums.weight > 0)
                broken, lost, stop, due_anywhere, any_read = processes.maximum(flags)  # waits, once per step
                if not any_read:
                    raise RunError(f"none of the {plan.batch} clips of step {state.step + 1} could be read")
                skip = broken and not lost and may_skip(scaler)
                if broken and not skip:
                    raise_not_finite(folder, state.step + 1, sums, scalars, processes)
                if not skip:
                    if settings.clip_norm:
                        clip_gradients(optimizer, settings.clip_norm)
                    optimizer.step()
                    if average:
                        average.update(state.step + 1)
                if scaler.is_enabled():
                    scaler.update()
                if skip:
                    log.to_file(
                        f"step {state.step + 1}: a gradient overflowed; its update is skipped, and the loss is now "
                        f"multiplied by {scaler.get_scale():g}"
                    )
                state.step += 1
                this_epoch.trained += time.monotonic() - step_began

                # --- log, save, stop
                if state.step % settings.log_every == 0 or state.step % per_epoch == 0:
                    counts = (sums.values(), sums.weight, accuracy.correct, accuracy.counted)
                    parts = processes.gather(counts)
                    row = {f"train/{k}": v for k, v in mean_terms([part[:2] for part in parts]).items()}
                    row["train/top1"] = 100 * sum(part[2] for part in parts) / sum(part[3] for part in parts)
                    row["train/lr"] = optimizer.param_groups[0]["lr"]
                    accuracy.reset()
                    head = {"kind": "train", "epoch": round(state.step / per_epoch, 6), "step": state.step}
                    metrics.write({**head, **row, **scalars()})
                    progress_bar.note = f"loss {row['train/loss']:.3f}"
                progress_bar.advance()
                if stop or due_anywhere or (settings.save_steps and state.step % settings.save_steps == 0):
                    save()
                if stop:
                    saver.wait()
                    at = f"step {state.step} of {plan.steps}"
                    raise Stopped(f"stopped by {stopping.name(stop)} at {at}; saved.", stop)

            # --- report the speed of the epoch -----------------------------------------------------------------------
            this_epoch.waited = stream.waited
            throughputs = processes.gather(this_epoch)
            total, epoch_total = total.add(throughputs), Throughput().add(throughputs)
            slow = epoch_total.share_waiting > SLOW_DATA and epoch_total.waited > 5
            if processes.first and slow and not warned:
                log.warn(f"epoch {epoch + 1}: {epoch_total}. {_advice_on_slow_data(settings.workers)}")
                warned = True
            if not evaluate:
                log(f"epoch {epoch + 1}/{plan.epochs}  {epoch_total}")
                save()
    if average:
        average.exchange()
    state.seconds = seconds_before + time.monotonic() - began
    return total


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


def _advice_on_slow_data(workers: int) -> str:
    return (
        f"Reading data slows training down. Try more trainer.workers (now {workers}; {cpus()} CPUs are available), "
        f"small exact clips ({command_line('prepare')} ... --cut) or, for small datasets, data.keep. "
        "`make bench BENCH=clips` measures the readers."
    )
