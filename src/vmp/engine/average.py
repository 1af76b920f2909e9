"""An exponential moving average of the weights; the averaged model is validated, tested and saved.

Notes:
- batch normalisation's running statistics are averaged with the weights (train.precise_bn recomputes them afterwards);
- buffers that a module names in `not_averaged` are neither weights nor statistics, and stay those of the trained model;
- the decay during warm-up is a function of the step, so a checkpoint needs only the average itself;
- training continues from the trained weights, which are exchanged with the average for the time of a validation;
- torch.optim.swa_utils.AveragedModel would not make this shorter. It starts at the weights after the first update, its
  decay has no warm-up, and `use_buffers` also averages integer counters. As a second module, it would still need the
  exchange and the names in checkpoints.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """The average of a model's floating tensors, which starts at their current values.

    Args:
        decay: share of the average that one update keeps.
        warmup: keep (1 + n) / (10 + n) after n updates as long as that is less, so early weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, *, decay: float, warmup: bool) -> None:
        self.model, self.decay, self.warmup = model, decay, warmup
        modules = model.named_modules(remove_duplicate=False)
        self._left = {
            f"{place}.{name}".lstrip(".")
            for place, module in modules
            for name in getattr(module, "not_averaged", ())
        }
        self._tensors = {name: tensor.clone() for name, tensor in self.trained().items()}

    def trained(self) -> dict[str, Tensor]:
        """The model's own tensors that are averaged, by name, without copying them."""
        state = self.model.state_dict()
        return {name: t for name, t in state.items() if t.is_floating_point() and name not in self._left}

    def state_dict(self) -> dict[str, Tensor]:
        """The model's state with averaged floating tensors; the others are the trained model's."""
        return self.model.state_dict() | self._tensors

    def update(self, step: int) -> None:
        """Add the weights after `step` updates to the average."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        torch._foreach_lerp_([*self._tensors.values()], [*self.trained().values()], 1 - decay)

    def restore(self, trained: Mapping[str, Tensor] | None) -> None:
        """Take the average from the model, which holds a checkpoint's, and load the trained weights into the model."""
        current = self.trained()
        for name, tensor in current.items():
            self._tensors[name].copy_(tensor)
        for name, value in (trained or {}).items():
            current[name].copy_(value)

    def exchange(self) -> None:
        """Exchange the model's tensors with the average."""
        current = self.trained()
        before = {name: tensor.clone() for name, tensor in current.items()}  # first: one may have two names
        for name, tensor in current.items():
            tensor.copy_(self._tensors[name])
        self._tensors = before

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Context in which the model holds the average."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()
