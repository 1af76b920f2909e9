"""An exponential moving average of the weights, which is then the model that is validated, tested and shared.

Notable here:
- batch normalisation's running statistics are averaged with the weights (train.precise_bn recomputes them anyway);
- the decay of the warm-up is a function of the step, so nothing but the average itself is part of a checkpoint;
- the trained weights go on from where they were: they change places with the average while it is tested;
- torch.optim.swa_utils.AveragedModel would not make this shorter: its start are the weights after the first update, its
  decay has no warm-up, `use_buffers` averages counters of whole numbers too, and it is a second module, for which the
  exchange and the names in checkpoints would have to be made here all the same.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """The average of a model's floating tensors, from their values now.

    Args:
        decay: share of the average that one update keeps.
        warmup: keep (1 + n) / (10 + n) after n updates, as long as that is less, so that the start is soon forgotten.
    """

    def __init__(self, model: nn.Module, *, decay: float, warmup: bool) -> None:
        self.model, self.decay, self.warmup = model, decay, warmup
        self._tensors = {name: tensor.clone() for name, tensor in self.trained().items()}

    def trained(self) -> dict[str, Tensor]:
        """The model's own floating tensors by name, without copying them."""
        return {name: t for name, t in self.model.state_dict().items() if t.is_floating_point()}

    def state_dict(self) -> dict[str, Tensor]:
        """The whole model with averages in it; tensors of whole numbers are the trained model's."""
        return self.model.state_dict() | self._tensors

    def update(self, step: int) -> None:
        """Take in the weights after `step` updates."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        torch._foreach_lerp_([*self._tensors.values()], [*self.trained().values()], 1 - decay)

    def restore(self, trained: Mapping[str, Tensor] | None) -> None:
        """The model holds a checkpoint's average: keep it, and give the model the checkpoint's trained weights."""
        own = self.trained()
        for name, tensor in own.items():
            self._tensors[name].copy_(tensor)
        for name, value in (trained or {}).items():
            own[name].copy_(value)

    def exchange(self) -> None:
        """Let the model's tensors and the average change places."""
        own = self.trained()
        before = {name: tensor.clone() for name, tensor in own.items()}  # all first: one may have two names
        for name, tensor in own.items():
            tensor.copy_(self._tensors[name])
        self._tensors = before

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """A context in which the model is the average."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()
