"""Tensors from loader processes to training: through shared memory, or pipes where there is too little of it.

torch passes tensors in files in /dev/shm, which Docker limits to 64 MB. A tensor that does not fit there is pickled
into the loader's pipe instead, at the price of two more copies.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

WHERE = "/dev/shm"
AHEAD = 2  # batches that a loader process prepares, torch's default
ADVICE = "In Docker, --shm-size=8g or --ipc=host gives a container more; fewer trainer.workers need less"


@dataclass(frozen=True, slots=True)
class SharedMemoryCollate:
    """A loader's `collate_fn` whose tensors reach the other process however full /dev/shm is."""

    collate: Callable[[list[Any]], Any]  # items -> tensors, in tuples and lists

    def __call__(self, items: list[Any]) -> Any:
        batch = self.collate(items)
        return batch if torch.utils.data.get_worker_info() is None else _share(batch)


def _share(value: Any) -> Any:
    if isinstance(value, Tensor):
        try:
            return value.share_memory_()  # here, since torch only prints errors that occur while it sends
        except RuntimeError as error:
            if "shared memory" not in str(error):
                raise
            return _ByPipe(value)
    if isinstance(value, tuple | list):
        parts = [_share(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


@dataclass(frozen=True, slots=True)
class _ByPipe:
    """Pickles a tensor as bytes and unpickles it as a tensor."""

    tensor: Tensor

    def __reduce__(self) -> tuple[Any, ...]:
        return torch.from_numpy, (self.tensor.numpy(),)


def shortage(batch: int, *, workers: int, beside: int) -> str | None:
    """A warning where /dev/shm cannot hold all batches that are on their way; None where it can.

    `batch` is in bytes; each of `beside` training processes on this machine has `workers` loader processes.
    """
    try:
        found = os.statvfs(WHERE)
    except OSError:  # no Linux
        return None
    free, need = found.f_bavail * found.f_frsize, beside * (workers * AHEAD + 1) * batch
    if not workers or need <= free:
        return None
    return (
        f"{WHERE} (shared memory) has {_size(free)} free, and {beside * workers} loader process(es) with batches of "
        f"{_size(batch)} need up to {_size(need)}: batches that do not fit go through pipes, which is slower. {ADVICE}"
    )


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.1f} MB"
