"""Processes and devices: one process a device, started by torchrun, or just this one."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from vmp.errors import ConfigError

TIMEOUT = timedelta(minutes=10)  # of a process that waits for another


@dataclass(frozen=True, slots=True)
class Processes:
    """rank of world processes; device: this process's."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in rank order, on every process."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def greatest(self, values: Sequence[int]) -> list[int]:
        """The greatest of every process's whole numbers, place by place."""
        numbers = [int(value) for value in values]
        if self.world == 1:
            return numbers
        shared = torch.tensor(numbers, device=self.device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return shared.tolist()

    def share(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give every process the first one's values, in place."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def wait(self) -> None:
        if self.world > 1:
            dist.barrier()


def find_device(device: str = "auto") -> torch.device:
    """This process's device.

    Args:
        device: "auto" is CUDA where there is one; "cpu", "cuda" or "cuda:N" insist.

    Raises:
        ConfigError: a device that is not there.
    """
    world, local = (int(os.environ.get(k, d)) for k, d in (("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    if not isinstance(device, str) or not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ConfigError(f"device = {device!r}: must be auto, cpu, cuda or cuda:N")
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", world))  # processes of this machine
    if ":" in device and beside > 1:
        raise ConfigError(
            f"trainer.device={device}: names one device for {beside} processes; use cuda or auto"
        )
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"trainer.device={device}: this machine or torch build has no CUDA device; use cpu or auto"
        )
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    index = int(device.partition(":")[2] or local)
    if index >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ConfigError(f"trainer.device={device}: CUDA device {index} asked for, {found} found")
    return torch.device("cuda", index)


def start(device: str = "auto") -> Processes:
    """Join the processes that torchrun started, or stand alone.

    Args:
        device: as for find_device.

    Raises:
        ConfigError: a device that is not there.
    """
    rank, world = (int(os.environ.get(k, d)) for k, d in (("RANK", 0), ("WORLD_SIZE", 1)))
    chosen = find_device(device)
    use_cuda = chosen.type == "cuda"
    if use_cuda:
        torch.cuda.set_device(chosen)
    if world > 1:
        own = chosen if use_cuda else None
        dist.init_process_group("nccl" if use_cuda else "gloo", timeout=TIMEOUT, device_id=own)
    return Processes(rank, world, chosen)


def stop() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
