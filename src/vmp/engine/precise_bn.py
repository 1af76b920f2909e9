"""Precise batch normalisation: statistics recomputed over training clips, as PySlowFast does before a test.

Running statistics are averages over the last updates, during which the weights change, and they start at 0 and 1. After
few updates they match no state of the network. The recomputed statistics are those of the current weights.

Notes:
- each micro-batch is normalised by its own statistics, as in training; the rest of the model is in evaluation mode;
- means and variances are over all clips on all processes, not averages over micro-batches;
- the result does not depend on the former statistics, so a continued run recomputes the same bits.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from vmp.data.dataset import TrainClips, collate_train, loader_processes
from vmp.data.sampler import TrainBatches
from vmp.data.shared import SharedMemoryCollate
from vmp.engine.dist import Processes
from vmp.progress import bar


def updated_layers(model: nn.Module) -> list[_BatchNorm]:
    """The batch normalisation layers whose statistics training updates, i.e. those that are not frozen."""
    model.train()
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return [layer for layer in layers if layer.training and layer.track_running_stats]


@torch.no_grad()
def recompute_statistics(
    model: nn.Module,
    data: TrainClips,
    *,
    clips: int,
    epoch: int,
    micro_batch: int,
    processes: Processes,
    workers: int = 0,
    timeout: float = 0.0,
    autocast: torch.dtype | None = None,
    check_stop: Callable[[], None] = lambda: None,
) -> None:
    """Replace the running statistics of `updated_layers` by those of training clips, without mixup and CutMix.

    Args:
        clips: number of clips over all processes, at most all; rounded up to whole micro-batches.
        epoch: the epoch whose order and crops are used.
        check_stop: called after each micro-batch; raises Stopped if the run was asked to stop.
    """
    data = data.unmixed()
    world, available = processes.world, len(data)
    batches = TrainBatches(
        clips=available,
        batch=micro_batch,
        batches=-(-min(clips, available) // (micro_batch * world)),
        seed=data.seed,
        rank=processes.rank,
        world=world,
    )
    batches.start_at(epoch, 0)
    loader: DataLoader[Any] = DataLoader(
        data,
        batch_sampler=[batch for batch in batches if batch],
        collate_fn=SharedMemoryCollate(collate_train),
        pin_memory=processes.device.type == "cuda",
        **loader_processes(data, workers, timeout=timeout),
    )
    moments_of = {layer: _Moments() for layer in updated_layers(model)}
    model.eval()
    with ExitStack() as stack:
        for layer, moments in moments_of.items():
            stack.callback(layer.register_forward_pre_hook(moments.add).remove)
        progress_bar = stack.enter_context(bar("batch norm", len(loader), shown=processes.first))
        for batch in loader:
            if len(batch.clips):  # training counts those that cannot be read
                with torch.autocast(processes.device.type, dtype=autocast, enabled=autocast is not None):
                    model(batch.clips.to(processes.device, non_blocking=True))
            progress_bar.advance()
            check_stop()
    parts = processes.gather([moments.values() for moments in moments_of.values()])
    for layer, of_processes in zip(moments_of, zip(*parts, strict=True), strict=True):
        total = _Moments()
        for part in of_processes:
            total.merge(*part)
        if total.count > 1:
            total.write(layer)


class _Moments:
    """Count, mean and sum of squared deviations of a layer's input by channel, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.squares = torch.zeros((), dtype=torch.float64)

    def add(self, layer: _BatchNorm, inputs: tuple[Tensor]) -> None:
        """Hook: add a batch (B, C, ...), and let the layer normalise it by the batch's own statistics."""
        x = inputs[0].float()
        variance, mean = torch.var_mean(x, dim=[0, *range(2, x.dim())], correction=0)  # (C,)
        _set(layer, mean, variance)
        count = x.numel() // x.shape[1]
        self.merge(count, mean.double(), variance.double() * count)  # on the device, which nothing waits for

    def merge(self, count: int, mean: Tensor, squares: Tensor) -> None:
        """Add the moments of further values (Chan, Golub and LeVeque)."""
        if not count:
            return
        difference, total = mean - self.mean, self.count + count
        self.squares = self.squares + squares + difference.square() * (self.count * count / total)
        self.mean = self.mean + difference * (count / total)
        self.count = total

    def values(self) -> tuple[int, Tensor, Tensor]:
        return self.count, self.mean.cpu(), self.squares.cpu()

    def write(self, layer: _BatchNorm) -> None:
        """Set the layer's running statistics; the variance is unbiased, as in torch."""
        _set(layer, self.mean, self.squares / (self.count - 1))


def _set(layer: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    for buffer, value in ((layer.running_mean, mean), (layer.running_var, variance)):
        assert buffer is not None  # a layer that tracks its statistics has both
        buffer.copy_(value)
