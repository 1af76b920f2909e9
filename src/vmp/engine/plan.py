"""What the training loop is given and what it hands back: its plan, its settings, its state and its throughput."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """How long to train, and in which micro-batches. Everything here decides the bits of the result.

    batch: clips of one update, over all processes.
    micro_batch: clips of one forward pass on one process.
    clips: usable clips of the training split.
    labels: theirs, if every epoch is to have the classes equally often; None: every epoch has each clip once.
    patience: validations without a better top-1 after which training ends; None: never.
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
        """Micro-batches of one update on one process."""
        return self.batch // (self.micro_batch * self.world)

    @property
    def steps_per_epoch(self) -> int:
        return self.clips // self.batch

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def over(self, state: "TrainingState") -> bool:
        """Whether training ends in this state: all updates are done, or patience is at its end."""
        validated = state.evaluated * self.steps_per_epoch == state.step
        patient = self.patience is None or state.evaluated - state.best_epoch < self.patience
        return state.step >= self.steps or (validated and not patient)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """How the loop runs.

    workers: loader processes.
    timeout: seconds without a batch after which a loader process counts as hung; 0 waits forever.
    autocast: the type of forward passes; None is float32.
    save_minutes, save_steps: how often to save within an epoch. keep: steps whose checkpoints are kept.
    clip_norm: the largest norm of all gradients together; None: any.
    precise_bn: training clips over which batch statistics are recomputed before a test; 0: they stay as they are.
    val_views, test_views: of all clips of one validation, and of the test after training; the ETA counts them.
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
    """What a checkpoint holds beside weights and momentum.

    step: updates done. evaluated: epochs validated. rows: written to metrics.jsonl.
    seconds: spent training and validating, over all sessions.
    correct, counted: of the clips since the newest row of training, those classified correctly, and all of them.
    bad: clip id -> why it could not be read.
    sessions: from which step on the run trained on which machine and code.
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
    """Seconds of training, those spent waiting for data, and clips. Totals, since medians would hide stalls."""

    waited: float = 0.0
    trained: float = 0.0
    clips: int = 0

    @property
    def share_waiting(self) -> float:
        return self.waited / self.trained if self.trained else 0.0

    def add(self, parts: Sequence["Throughput"]) -> "Throughput":
        """The total with what the processes did side by side; the slowest of them holds back the others."""
        waited = max(part.waited for part in parts)
        trained, clips = max(part.trained for part in parts), sum(part.clips for part in parts)
        return Throughput(self.waited + waited, self.trained + trained, self.clips + clips)

    def __str__(self) -> str:
        return f"{self.clips / self.trained:.1f} clips/s, {self.share_waiting:.0%} waiting for data"
