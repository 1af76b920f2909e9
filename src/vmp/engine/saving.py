"""Saves checkpoints during training: the training thread copies the state, and another thread writes the copy.

Notes:
- the CPU memory of a copy is reused for the next one. For tensors on a GPU it is pinned, and the GPU queues the copy
  before the next update, so only the writing thread waits for it;
- there is one copy and one write at a time: a save waits for the previous write, and raises its error;
- tensors are written once per step. The checkpoint after a validation, and that of the best epoch, link the files of
  the checkpoint before the validation.
"""

import shutil
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from vmp.engine import checkpoint
from vmp.engine.learner import Learner
from vmp.engine.plan import TrainingState
from vmp.engine.stopping import SIGNALS, Stopped
from vmp.errors import RunError


class Saver:
    """A context that ends when the last checkpoint is written.

    Args:
        keep: number of steps whose checkpoints are kept.
        recomputes: whether the model may change between two checkpoints of one step.
        warn: called if the last checkpoint cannot be written while another error ends the context.

    Raises:
        RunError: the last checkpoint could not be written (on leaving without another error).
    """

    def __init__(
        self, folder: Path, *, keep: int, recomputes: bool, warn: Callable[[str], None] = print
    ) -> None:
        self._folder, self._keep, self._recomputes, self._warn = folder, keep, recomputes, warn
        self._copies: dict[tuple[Any, ...], Tensor] = {}  # by place in the state
        self._newest = (-1, folder)  # step and path of the newest checkpoint
        self._thread = ThreadPoolExecutor(
            1, "checkpoint", initializer=partial(signal.pthread_sigmask, signal.SIG_BLOCK, SIGNALS)
        )
        self._pending: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.wait()
        except RunError as failed:
            if error is None or isinstance(error, Stopped):
                raise
            self._warn(str(failed))
        finally:
            self._thread.shutdown()

    def wait(self) -> None:
        """Return when everything is written.

        Raises:
            RunError: a checkpoint could not be written.
        """
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def save(
        self,
        learner: Learner,
        progress: TrainingState,
        *,
        best: bool,
    ) -> None:
        """Save a checkpoint of this step and validation, unless it exists already. An average of the weights is saved
        as the model, and the trained weights with the optimizer's state.

        Args:
            best: whether the epoch that was just validated is the best so far; its weights are then kept, too.

        Raises:
            RunError: the previous checkpoint could not be written.
        """
        self.wait()
        name = f"step_{progress.step:08}_{progress.evaluated:04}"
        (step, before), path = self._newest, self._folder / name
        if path == before:
            return
        model, average, scaler = learner.model, learner.average, learner.scaler
        optimizer_state = learner.optimizer.state_dict() | ({"trained": average.trained()} if average else {})
        moments = before if step == progress.step else self._copy(optimizer_state, "optimizer")
        linked = step == progress.step and not self._recomputes
        weights = before if linked else self._copy((average or model).state_dict(), "model")
        copied = torch.cuda.Event() if next(model.parameters()).is_cuda else None
        if copied:
            copied.record()
        state = {"progress": asdict(progress)}
        if scaler.is_enabled():
            state["scaler"] = scaler.state_dict()
        self._newest = (progress.step, path)
        self._pending = self._thread.submit(
            self._write, name, weights, moments, state, best=best, copied=copied
        )

    def _copy(self, value: Any, *at: Any) -> Any:
        """Copy dicts and lists with their tensors to the CPU; on a GPU the copies are queued after its current work."""
        if isinstance(value, Tensor):
            kept = self._copies.get(at)
            if kept is None or (kept.shape, kept.stride(), kept.dtype) != (
                value.shape,
                value.stride(),
                value.dtype,
            ):
                kept = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
                self._copies[at] = kept
            if value.is_cuda or value.dtype == torch.bfloat16:  # which numpy does not have
                return kept.copy_(value, non_blocking=True)
            # numpy copies with one thread; torch's threads would wait for each other, for seconds on shared cores
            np.copyto(kept.numpy(), value.numpy())
            return kept
        if isinstance(value, dict):
            return {key: self._copy(one, *at, key) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._copy(one, *at, number) for number, one in enumerate(value))
        return value

    def _write(
        self,
        name: str,
        weights: Any,
        moments: Any,
        state: dict[str, Any],
        *,
        best: bool,
        copied: torch.cuda.Event | None,
    ) -> None:
        if copied:
            copied.synchronize()
        folder = self._folder
        if best:
            epoch, top1 = state["progress"]["best_epoch"], state["progress"]["best"]
            best_name = checkpoint.best_name(epoch)
            # a session that ended at this point may have left one
            shutil.rmtree(folder / best_name, ignore_errors=True)
            weights = checkpoint.save(folder, best_name, model=weights, state={"epoch": epoch, "top1": top1})
        checkpoint.save(folder, name, model=weights, optimizer=moments, state=state)
        checkpoint.prune(folder, keep=self._keep, newest=name)
