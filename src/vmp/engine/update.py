"""Parts of one update of the weights: what a process does in each micro-batch, and the sums over micro-batches.

Notes:
- clips that cannot be read do not contribute to an update. If a process could read no clip of a micro-batch, it still
  runs a blank clip, with gradient weight 0, wherever the others would otherwise wait for it forever: in the last
  micro-batch, in which DDP averages gradients, and in all of them if batch normalisation is synchronised;
- sums stay on the device until a row or a checkpoint is written. A step waits for the device once, when the processes
  exchange whether to step, skip or stop.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from vmp.engine.dist import Processes
from vmp.errors import RunError
from vmp.files import write_json


class Participation(NamedTuple):
    """What one process does in one micro-batch.

    weight: the share of clips that could be read, by which the gradient is multiplied.
    runs: whether the process runs the model; with weight 0 it runs a blank clip.
    batch_statistics: whether batch normalisation uses the clips' statistics or the running ones.
    """

    weight: float
    runs: bool
    batch_statistics: bool


def decide_participation(
    readable: int, *, micro_batch: int, last: bool, synced: bool, processes: Processes
) -> Participation:
    """Decide what this process does in a micro-batch of which it could read `readable` clips.

    Args:
        last: whether it is the update's last micro-batch, in which DDP averages gradients.
        synced: whether batch statistics are synchronised. If one process then has no clip, all use running statistics.
    """
    weight = readable / micro_batch
    everyone_has_clips = not synced or not processes.maximum([not weight])[0]
    runs = weight > 0 or (processes.world > 1 and (last or synced))
    return Participation(weight, runs, batch_statistics=weight > 0 and everyone_has_clips)


class UpdateSums:
    """Sums of the objective's terms over the micro-batches of one update on this process, weighted by their readable
    shares."""

    def __init__(self) -> None:
        self.terms: dict[str, Tensor] = {}
        self.weight = 0.0
        self.clip_ids: list[str] = []

    def add(self, terms: Mapping[str, Tensor], weight: float) -> None:
        for name, value in terms.items():
            self.terms[name] = self.terms.get(name, 0) + value.detach() * weight
        self.weight += weight

    def is_finite(self, optimizer: torch.optim.Optimizer) -> Tensor:
        """Whether the loss and all gradients are finite, () bool."""
        return torch.isfinite(self.terms.get("loss", 0) + _largest_gradient(optimizer))

    def has_finite_loss(self) -> Tensor:
        """() bool"""
        return torch.isfinite(torch.as_tensor(self.terms.get("loss", 0.0)))

    def values(self) -> dict[str, float]:
        """The sums as floats. Waits for the device."""
        return {name: float(value) for name, value in self.terms.items()}


def mean_terms(parts: Sequence[tuple[dict[str, float], float]]) -> dict[str, float]:
    """Weighted means over processes. parts: (`UpdateSums.values()`, weight) of each; one weight is positive."""
    total = sum(weight for _, weight in parts)
    names = next(terms for terms, weight in parts if weight)
    return {name: sum(terms.get(name, 0.0) for terms, _ in parts) / total for name in names}


class RunningAccuracy:
    """Counts correct predictions in training since the last logged row."""

    def __init__(self, correct: int, counted: int, device: torch.device) -> None:
        self._correct, self.counted = torch.tensor(correct, device=device), counted

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Add predictions. logits: (B, classes); labels: (B,), or (B, classes) for mixed clips, of which the largest
        share counts. Both are on the device."""
        labels = labels if labels.dim() == 1 else labels.argmax(dim=1)
        self._correct += (logits.detach().argmax(dim=1) == labels).sum()
        self.counted += len(labels)

    @property
    def correct(self) -> int:
        """Correct predictions so far. Waits for the device."""
        return int(self._correct)

    def reset(self) -> None:
        self._correct, self.counted = torch.zeros_like(self._correct), 0


def raise_not_finite(
    folder: Path, step: int, sums: UpdateSums, scalars: Callable[[], dict[str, float]], processes: Processes
) -> NoReturn:
    """Write the update's clips and terms to not_finite_step<N>.json, and raise RunError on every process."""
    terms = {name: value / (sums.weight or 1) for name, value in sums.values().items()} | scalars()
    parts = processes.gather((sums.clip_ids, terms))
    where = folder / f"not_finite_step{step}.json"
    if processes.first:
        reported = [
            {"clips": clips, "terms": {k: str(v) for k, v in terms.items()}} for clips, terms in parts
        ]
        write_json(where, {"step": step, "processes": reported})
    listed = "; ".join(", ".join(f"{k} {v}" for k, v in terms.items()) for _, terms in parts)
    raise RunError(
        f"the loss or a gradient of step {step} is not finite ({listed}). The ids of its clips are in {where}. The "
        "last checkpoint is intact. Lower optim.lr, or use trainer.amp=none if it is bf16 or fp16."
    )


def _largest_gradient(optimizer: torch.optim.Optimizer) -> Tensor:
    """The largest absolute gradient, which is not finite if any gradient is not. (A sum of squares could overflow.)"""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    return torch.stack(torch._foreach_norm(gradients, float("inf"))).max()


def use_running_statistics(model: nn.Module) -> None:
    """Make batch normalisation use running statistics, without updating them, until the next `model.train()`."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def has_synced_statistics(model: nn.Module, processes: Processes) -> bool:
    """Whether batch normalisation is synchronised between several processes."""
    return processes.world > 1 and any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())


def clip_gradients(optimizer: torch.optim.Optimizer, max_norm: float) -> None:
    """Scale the gradients down if their norm over all parameters exceeds `max_norm`. Does not wait for the device.

    All processes have the same averaged gradients, so they scale equally.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    nn.utils.clip_grad_norm_(parameters, max_norm)
