"""Inputs and outputs of the training loop: its plan, settings, state and throughput."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """How long to train, and in which micro-batches. Unlike `LoopSettings`, all of these change the result.

    batch: clips per update, over all processes.
    micro_batch: clips of one forward pass on one process.
    clips: usable clips of the training split.
    labels: their labels, for epochs in which all classes are equally frequent; None: each clip once per epoch.
    patience: training ends after this many validations without a better top-1; None: never.
    """

    epochs: int
    batch: int
    micro_batch: int
    world: int
    clips: int
    seed: int
    labels: Sequence[int] | None = None
    patience: int | None = None

    @property
    def accumulate(self) -> int:
        """Micro-batches per update on one process."""
        return self.batch // (self.micro_batch * self.world)

    @property
    def steps_per_epoch(self) -> int:
        return self.clips // self.batch

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def epochs_done(self, state: "TrainingState") -> int:
        """Number of whole epochs."""
        return state.step // self.steps_per_epoch

    def needs_validation(self, state: "TrainingState") -> bool:
        """Whether an epoch has just ended and was not validated."""
        ended = state.step > 0 and state.step % self.steps_per_epoch == 0
        return ended and state.evaluated < self.epochs_done(state)

    def is_over(self, state: "TrainingState") -> bool:
        """Whether training ends in this state: all updates are done, or `patience` is exhausted."""
        validated = state.evaluated * self.steps_per_epoch == state.step
        patient = self.patience is None or state.evaluated - state.best_epoch < self.patience
        return state.step >= self.steps or (validated and not patient)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """How the loop runs.

    workers: number of loader processes.
    timeout: seconds without a batch after which a loader process counts as hung; 0: never.
    autocast: the type of forward passes; None: float32.
    save_minutes, save_steps: how often to save within an epoch. keep: number of steps whose checkpoints are kept.
    clip_norm: gradients are scaled down if their total norm exceeds this; None: never.
    precise_bn: training clips from which batch statistics are recomputed before a test; 0: never.
    val_views, test_views: number of views in one validation and in the final test, for the ETA.
    """

    workers: int = 0
    timeout: float = 0.0
    autocast: torch.dtype | None = None
    compiled: bool = False
    log_every: int = 10
    save_minutes: float = 10.0
    save_steps: int | None = None
    keep: int = 2
    max_bad_fraction: float = 0.001
    clip_norm: float | None = None
    precise_bn: int = 0
    val_views: int = 0
    test_views: int = 0


@dataclass(slots=True)
class TrainingState:
    """What a checkpoint stores besides weights and momentum.

    step: number of updates done. evaluated: number of epochs validated. rows: number of rows in metrics.jsonl.
    seconds: time of training and validation over all sessions.
    correct, counted: correct predictions and clips since the last row of training.
    bad: clip id -> why it could not be read.
    sessions: for each session its first step, machine, and code.
    """

    step: int = 0
    evaluated: int = 0
    best: float = -1.0
    best_epoch: int = 0
    rows: int = 0
    seconds: float = 0.0
    correct: int = 0
    counted: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    sessions: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class Throughput:
    """Seconds of training and of waiting for data, and clips. These are totals, since medians would hide stalls."""

    waited: float = 0.0
    trained: float = 0.0
    clips: int = 0

    @property
    def share_waiting(self) -> float:
        return self.waited / self.trained if self.trained else 0.0

    def add(self, parts: Sequence["Throughput"]) -> "Throughput":
        """Add the work that processes did in parallel: their clips, and the times of the slowest."""
        waited = max(part.waited for part in parts)
        trained, clips = max(part.trained for part in parts), sum(part.clips for part in parts)
        return Throughput(self.waited + waited, self.trained + trained, self.clips + clips)

    def __str__(self) -> str:
        return f"{self.clips / self.trained:.1f} clips/s, {self.share_waiting:.0%} waiting for data"
