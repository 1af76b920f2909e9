"""The training loop, top to bottom.

Notable here:
- everything that varies from step to step (order, augmentation, dropout, learning rate) is a function of the seed and
  the step, so the loop can start at any step, and a run that was killed and continued ends with the same bits;
- it knows nothing of motion prompts: a module that returns logits and variations, an objective that returns named
  terms, and `model.scalars()`;
- it stops rather than train on nonsense: on a loss that is not finite, and on more unreadable clips than allowed.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from vmp.data.dataset import TrainClips, collate_train, end_workers, loader_processes
from vmp.data.present import check_bad
from vmp.data.sampler import DROPOUT, TrainBatches, generator
from vmp.data.shared import Sending
from vmp.engine import checkpoint
from vmp.engine.ahead import Ahead
from vmp.engine.dist import Processes
from vmp.engine.faults import told
from vmp.engine.loggers import Log, Metrics
from vmp.engine.schedule import Schedule
from vmp.engine.stopping import Stopped, Stopping, spared
from vmp.errors import RunError
from vmp.files import write_json
from vmp.machine import cpus
from vmp.progress import bar


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long and in what portions to train.

    batch: clips of one update, over all processes; micro_batch: of one forward pass on one process.
    """

    epochs: int
    batch: int
    micro_batch: int
    world: int
    clips: int
    seed: int

    @property
    def accumulate(self) -> int:
        return self.batch // (self.micro_batch * self.world)

    @property
    def steps_per_epoch(self) -> int:
        return self.clips // self.batch

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch


@dataclass(slots=True)
class State:
    """What a checkpoint holds beside weights and momentum. step: updates done; evaluated: epochs."""

    step: int = 0
    evaluated: int = 0
    best: float = -1.0
    best_epoch: int = 0
    rows: int = 0  # of metrics.jsonl
    seconds: float = 0.0  # spent training and evaluating, over all sittings
    right: int = 0  # of the clips since the newest row of training, those whose class the model named
    answered: int = 0  # these clips
    bad: dict[str, str] = field(default_factory=dict)  # clip id -> why it could not be read
    sittings: list[dict[str, Any]] = field(default_factory=list)  # from which step on which machine


@dataclass(slots=True)
class Timing:
    """Medians would hide stalls, so these are totals: seconds of training, of these waiting for data, and clips."""

    waited: float = 0.0
    trained: float = 0.0
    clips: int = 0

    @property
    def share(self) -> float:
        return self.waited / self.trained if self.trained else 0.0

    def add(self, parts: Sequence["Timing"]) -> "Timing":
        """What the processes did side by side: who waits longest holds all of them back."""
        waited = max(part.waited for part in parts)
        trained, clips = max(part.trained for part in parts), sum(part.clips for part in parts)
        return Timing(self.waited + waited, self.trained + trained, self.clips + clips)


def fit(
    model: nn.Module,
    *,
    objective: Callable[[Tensor, Tensor, Mapping[str, Tensor]], dict[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    state: State,
    schedule: Schedule,
    data: TrainClips,
    evaluate: Callable[[nn.Module, int], dict[str, float]] | None,
    plan: Plan,
    processes: Processes,
    folder: Path,
    log: Log,
    stopping: Stopping,
    also: Callable[[dict[str, Any]], None] | None = None,
    workers: int = 0,
    timeout: float = 0.0,
    autocast: torch.dtype | None = None,
    compiled: bool = False,
    log_every: int = 10,
    save_minutes: float = 10.0,
    save_steps: int | None = None,
    keep: int = 2,
    max_bad_fraction: float = 0.001,
    views: tuple[int, int] = (0, 0),
) -> tuple[State, Timing]:
    """Train from where the state is to the plan's end; checkpoints go to folder/checkpoints.

    Args:
        model: on its device; called with uint8 clips.
        state: of the checkpoint that model and optimizer hold, or a new one.
        optimizer: its groups' `lr` at entry are the base learning rates.
        evaluate: (model, epoch) -> metrics after each epoch; None: no evaluation. It may raise Stopped.
        views: of all clips of one validation, and of the test that follows; the bar's ETA counts them.
        also: who sees the rows of metrics.jsonl; a run that continues writes those after its checkpoint again.

    Raises:
        RunError: the loss is not finite, or a record cannot be written.
        DataError: too many clips cannot be read.
        Stopped: when asked to, with everything saved.
    """
    device = processes.device
    scalars: Callable[[], Mapping[str, Tensor]] = model.scalars  # type: ignore[assignment]
    base_lrs = [group["lr"] for group in optimizer.param_groups]
    metrics = Metrics(folder / "metrics.jsonl" if processes.first else None, rows=state.rows, also=also)
    # counted on the device and read where a row or a checkpoint is written: a step waits for nothing
    right = torch.tensor(state.right if processes.first else 0, device=device)
    answered = state.answered if processes.first else 0
    seconds_before, began = state.seconds, time.monotonic()
    saved_at = began

    wrapped: nn.Module = model
    if processes.world > 1:
        wrapped = DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)
    synced = processes.world > 1 and any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    unsynced = wrapped.no_sync if isinstance(wrapped, DistributedDataParallel) else nullcontext
    forward: Callable[..., Any] = wrapped
    if compiled:
        forward = torch.compile(wrapped, dynamic=False)
    compiling = spared if compiled else nullcontext

    batches = TrainBatches(
        clips=plan.clips,
        batch=plan.micro_batch,
        batches=plan.steps_per_epoch * plan.accumulate,
        seed=plan.seed,
        rank=processes.rank,
        world=processes.world,
    )
    loader: DataLoader[Any] | None = DataLoader(
        data,
        batch_sampler=batches,
        collate_fn=Sending(collate_train),
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        **loader_processes(data, workers, timeout=timeout),
    )

    def save() -> None:
        nonlocal saved_at
        state.rows = metrics.rows
        state.seconds = seconds_before + time.monotonic() - began
        parts = processes.gather((state.bad, int(right), answered))
        state.bad = {k: v for bad, _, _ in parts for k, v in bad.items()}
        state.right, state.answered = (sum(part[i] for part in parts) for i in (1, 2))
        metrics.sync()
        if processes.first:
            name = f"step_{state.step:08}_{state.evaluated:04}"
            progress = {name: getattr(state, name) for name in State.__dataclass_fields__}
            payload = {"optimizer": optimizer.state_dict(), "progress": progress}
            checkpoint.save(folder / "checkpoints", name, model=model.state_dict(), state=payload)
            checkpoint.prune(folder / "checkpoints", keep=keep, best=state.best_epoch)
        processes.wait()
        saved_at = time.monotonic()

    stream: Ahead | None = None

    def close() -> None:
        nonlocal loader, stream
        # the last references: this ends the loader's processes, also while an error is on its way
        stream = loader = None
        end_workers()
        metrics.close()

    timing, pace, warned = Timing(), "", False
    validations, validating = 0, 0.0  # how many in this sitting, and their seconds

    def after(step: float) -> float:
        """Seconds of validations and test to come. Until one was timed: a forward pass is a third of a step."""
        view = validating / (validations * views[0]) if validations and views[0] else step / plan.batch / 3
        return view * ((plan.epochs - state.evaluated) * views[0] + views[1])

    per_epoch = plan.steps_per_epoch
    with ExitStack() as stack:
        stack.enter_context(told(data.being_read, stopping.check))
        stack.callback(close)
        shown = stack.enter_context(bar("train", plan.steps, done=state.step, shown=processes.first))
        shown.after = after
        if not state.rows:
            metrics.write({"kind": "start", "epoch": 0, "step": 0, **_learned(scalars)})
        while True:
            epoch = state.step // per_epoch  # epochs done

            # --- evaluate where an epoch has ended ---------------------------------------------------------------
            if evaluate and state.step and state.step % per_epoch == 0 and state.evaluated < epoch:
                processes.share(model.buffers())  # batch statistics differ by process
                save()  # an evaluation may take long, and is left at once when the run is asked to stop
                asked = time.monotonic()
                with shown.beside():
                    result = evaluate(model, epoch)
                validating += time.monotonic() - asked
                validations += 1
                state.evaluated = epoch
                if result["top1"] > state.best:
                    state.best, state.best_epoch = result["top1"], epoch
                    if processes.first:
                        name = checkpoint.best_name(epoch)
                        best = {"epoch": epoch, "top1": state.best}
                        checkpoint.save(folder / "checkpoints", name, model=model.state_dict(), state=best)
                learned = _learned(scalars)
                row = {f"val/{name}": value for name, value in result.items()}
                metrics.write({"kind": "val", "epoch": epoch, "step": state.step, **row, **learned})
                said = f"top1 {result['top1']:.2f}  top5 {result['top5']:.2f}"
                said += f"  cross-entropy {result['cross_entropy']:.3f}" if "cross_entropy" in result else ""
                said += "".join(
                    f"  {name.removeprefix('vmp/')} {value:.3f}"
                    for name, value in learned.items()
                    if name.endswith(("slope", "shift"))
                )
                log(f"epoch {epoch}/{plan.epochs}  {said}  {pace}".rstrip())
                save()
            if state.step >= plan.steps:
                break

            # --- train to the end of the epoch -------------------------------------------------------------------
            batches.start_at(epoch, state.step % per_epoch * plan.accumulate)
            stream = Ahead(iter(loader), device)  # type: ignore[arg-type]
            mine = Timing()  # of this epoch, on this process
            while state.step < (epoch + 1) * per_epoch:
                progress = state.step / per_epoch
                factor = schedule(progress)
                for group, base in zip(optimizer.param_groups, base_lrs, strict=True):
                    group["lr"] = base * factor
                torch.manual_seed(_dropout_seed(plan.seed, state.step, processes.rank))
                optimizer.zero_grad(set_to_none=True)
                sums: dict[str, Tensor] = {}  # of each term, over the portions that this process could read
                read = 0.0  # portions
                seen: list[str] = []  # clip ids of this update
                step_began = time.monotonic()
                for i in range(plan.accumulate):
                    last = i + 1 == plan.accumulate
                    batch = stream.take()
                    if batch.bad:
                        state.bad |= {data.present.clips[index].id: why for index, why in batch.bad.items()}
                        bad = data.present.bad | state.bad
                        check_bad(bad, data.present.total, max_bad_fraction, where="training")
                    # what cannot be read has no part in the update
                    share = len(batch.clips) / plan.micro_batch
                    # synced batch statistics meet in each portion: where a process has none, running ones serve all,
                    # and it takes part all the same, as DDP shares buffers in the first portion that it runs
                    whole = not synced or not processes.greatest([not share])[0]
                    if not share and not (processes.world > 1 and (last or synced)):
                        continue
                    mine.clips += len(batch.clips)
                    seen += [data.present.clips[index].id for index in batch.indices.tolist()]
                    # the processes' gradients meet in the last portion: who has none takes part with weight 0
                    clips, labels = (batch.clips, batch.labels) if share else data.blank()
                    model.train(share > 0 and whole)  # each time: it puts frozen layers to sleep
                    with nullcontext() if last else unsynced(), compiling():
                        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
                            out = forward(clips.to(device, non_blocking=True))
                        labels = labels.to(device, non_blocking=True)
                        terms = objective(out.logits, labels, out.variations)
                        (terms["loss"] * share / plan.accumulate).backward()
                    if not stopping.code:  # else nobody will use it
                        stream.fetch()
                    if share:
                        for name, value in terms.items():
                            sums[name] = sums.get(name, 0) + value.detach() * share
                        read += share
                        right += (out.logits.detach().argmax(dim=1) == labels).sum()
                        answered += len(labels)
                # --- every process learns what any of them found: it stops, or steps, as one
                finite = bool(torch.isfinite(sums.get("loss", 0) + _square_norm(optimizer)))
                save_now = time.monotonic() - saved_at > 60 * save_minutes
                broken, stop, late, any_read = processes.greatest(
                    (not finite, stopping.code, save_now, read > 0)
                )
                if not any_read:
                    raise RunError(f"none of the {plan.batch} clips of step {state.step} could be read")
                if broken:
                    here = {name: float(value) / (read or 1) for name, value in sums.items()}
                    here |= {name: float(value) for name, value in scalars().items()}
                    _not_finite(folder, state.step, processes.gather((seen, here)), processes.first)
                optimizer.step()
                state.step += 1
                mine.trained += time.monotonic() - step_began

                if state.step % log_every == 0 or state.step % per_epoch == 0:
                    here = {name: float(value) for name, value in sums.items()}
                    parts = processes.gather((here, read, int(right), answered))
                    portions = sum(part[1] for part in parts)
                    names = next(terms for terms, count, *_ in parts if count)
                    means = {
                        f"train/{name}": sum(terms.get(name, 0.0) for terms, *_ in parts) / portions
                        for name in names
                    }
                    means["train/top1"] = (
                        100 * sum(part[2] for part in parts) / sum(part[3] for part in parts)
                    )
                    right, answered = torch.zeros_like(right), 0
                    learned = _learned(scalars)
                    head = {"kind": "train", "epoch": round(state.step / per_epoch, 6), "step": state.step}
                    metrics.write({**head, **means, "train/lr": optimizer.param_groups[0]["lr"], **learned})
                    shown.note = f"loss {means['train/loss']:.3f}"
                shown.advance()

                if stop or late or (save_steps and state.step % save_steps == 0):
                    save()
                if stop:
                    at = f"step {state.step} of {plan.steps}"
                    raise Stopped(f"stopped by {stopping.name(stop)} at {at}; saved.", stop)
            mine.waited = stream.waited
            parts = processes.gather(mine)
            timing, of_epoch = timing.add(parts), Timing().add(parts)
            pace = f"{of_epoch.clips / of_epoch.trained:.1f} clips/s, {of_epoch.share:.0%} waiting for data"
            if processes.first and not warned and of_epoch.share > 0.1 and of_epoch.waited > 5:
                log.warn(f"epoch {epoch + 1}: {pace}. {_faster_data(workers)}")
                warned = True
            if not evaluate:
                log(f"epoch {epoch + 1}/{plan.epochs}  {pace}")
                save()
    state.seconds = seconds_before + time.monotonic() - began
    return state, timing


def _learned(scalars: Callable[[], Mapping[str, Tensor]]) -> dict[str, float]:
    return {f"vmp/{name}": float(value) for name, value in scalars().items()}


def _faster_data(workers: int) -> str:
    return (
        f"Reading holds training back: more trainer.workers (now {workers}; this machine has {cpus()} cores), small "
        "exact clips (scripts/prepare.py ... --cut) or, for small sets, data.keep help; make bench BENCH=clips "
        "measures"
    )


def _dropout_seed(seed: int, step: int, rank: int) -> int:
    return int(generator(DROPOUT, seed, step, rank).integers(2**62))


def _square_norm(optimizer: torch.optim.Optimizer) -> Tensor:
    """Of all gradients together: not finite where one of them is not."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    return torch.stack(torch._foreach_norm(gradients)).square().sum()


def _not_finite(
    folder: Path, step: int, parts: list[tuple[list[str], dict[str, float]]], first: bool
) -> NoReturn:
    """parts: of each process, its clips' ids and its terms and scalars."""
    where = folder / f"not_finite_step{step}.json"
    if first:
        said = [{"clips": clips, "terms": {k: str(v) for k, v in terms.items()}} for clips, terms in parts]
        write_json(where, {"step": step, "processes": said})
    terms = "; ".join(", ".join(f"{k} {v}" for k, v in terms.items()) for _, terms in parts)
    raise RunError(
        f"the loss or a gradient of step {step} is not finite ({terms}). The ids of its clips are in {where}. Nothing "
        "was saved after the last checkpoint. Lower optim.lr, or use trainer.amp=none."
    )
