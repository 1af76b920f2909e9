"""The processes of a run, one per device: started by torchrun, srun or mpirun, or only this one."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from vmp.errors import ConfigError, RunError
from vmp.ranks import MPI, Rank, read_rank

TIMEOUT = timedelta(minutes=10)  # how long a process waits for another
TIMEOUT_IF_UNCERTAIN = timedelta(minutes=2)  # at the start, if there may be no other process
BYTES_AT_ONCE = 2**26  # bytes that are gathered from all processes at a time


@dataclass(frozen=True, slots=True)
class Processes:
    """This process: its rank among `world` processes, and its device."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes in rank order, on every process. They are pickled, so keep them small."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def gather_rows(self, rows: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """Gather the rows of all processes on the first one, in pieces of bounded size. All processes have to iterate.

        Args:
            rows: (N, ...); N may differ between processes.

        Yields:
            on the first process: (number of the piece's first row among all rows in rank order, the piece on the CPU).
        """
        if self.world == 1:
            yield 0, rows.cpu()
            return
        own_count = torch.tensor([len(rows)], device=self.device)
        all_counts = [torch.empty_like(own_count) for _ in range(self.world)]
        dist.all_gather(all_counts, own_count)
        counts = torch.cat(all_counts).tolist()
        size = max(1, BYTES_AT_ONCE // (self.world * max(1, rows.element_size() * math.prod(rows.shape[1:]))))
        for at in range(0, max(counts), size):
            piece = rows.new_zeros((min(size, max(counts) - at), *rows.shape[1:]), device=self.device)
            own = rows[at : at + len(piece)]
            piece[: len(own)] = own
            pieces = [torch.empty_like(piece) for _ in counts] if self.first else None
            dist.gather(piece, pieces)
            for rank, found in enumerate(pieces or ()):
                if at < counts[rank]:
                    yield sum(counts[:rank]) + at, found[: counts[rank] - at].cpu()

    def collect(self, rows: torch.Tensor) -> torch.Tensor | None:
        """The rows (N, ...) of all processes in rank order, on the CPU of the first process; None on the others."""
        pieces = dict(self.gather_rows(rows))
        return torch.cat([rows[:0].cpu(), *(pieces[at] for at in sorted(pieces))]) if self.first else None

    def maximum(self, values: Sequence[int | torch.Tensor]) -> list[int]:
        """Elementwise maximum over processes. values: integers, or scalar tensors on the device, for which this waits
        once; equally many on every process."""
        if self.world == 1:
            return [int(value) for value in values]
        shared = torch.tensor([0 if isinstance(value, torch.Tensor) else int(value) for value in values])
        if self.device.type == "cuda":  # from pinned memory: a plain copy would wait
            shared = shared.pin_memory().to(self.device, non_blocking=True)
        for place, value in enumerate(values):
            if isinstance(value, torch.Tensor):
                shared[place] = value
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return shared.tolist()

    def broadcast(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite the tensors of every process with those of the first."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)


def find_device(device: str = "auto") -> torch.device:
    """This process's device. "auto" is CUDA if available; "cpu", "cuda" or "cuda:N" require that device.

    Raises:
        ConfigError: there is no such device.
    """
    here = read_rank()
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ConfigError(f"device = {device!r}: must be auto, cpu, cuda or cuda:N")
    if ":" in device and here.local_world > 1:
        raise ConfigError(
            f"trainer.device={device}: names one device for {here.local_world} processes; use cuda or auto"
        )
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"trainer.device={device}: this machine or torch build has no CUDA device; use cpu or auto"
        )
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    count = torch.cuda.device_count()
    index = int(device.partition(":")[2] or here.local)
    if here.address and count == 1:  # srun --gpus-per-task=1 shows each task its own device only
        index = 0
    if index >= count:
        raise ConfigError(f"trainer.device={device}: there is no CUDA device {index}, only {count} device(s)")
    return torch.device("cuda", index)


def start(device: str = "auto") -> Processes:
    """Join the processes that torchrun, srun or mpirun started; without them, be the only one. May be called again.

    Raises:
        ConfigError: there is no such device, or two processes would share it.
        RunError: the other processes do not appear in time.
    """
    here, chosen = read_rank(), find_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if not here.alone and not dist.is_initialized():
        _join(here, chosen)
    return Processes(here.rank, here.world, chosen)


def _join(here: Rank, device: torch.device) -> None:
    backend, own = ("nccl", device) if device.type == "cuda" else ("gloo", None)
    if not here.address:
        dist.init_process_group(backend, timeout=TIMEOUT, device_id=own)
        return
    patience = TIMEOUT if here.certain else TIMEOUT_IF_UNCERTAIN
    if here.first:
        wait = "" if here.certain else f"; waiting {patience.seconds} s for the others"
        print(f"{here.starter} started {here.world} processes{wait}", flush=True)
    assert here.port
    try:
        store = dist.TCPStore(here.address, here.port, here.world, here.first, timeout=patience)
    except (dist.DistError, RuntimeError) as error:
        raise RunError(
            f"{here.starter} says that this is process {here.rank} of {here.world}; the processes did not find each "
            f"other at {here.address}:{here.port} ({str(error).partition(chr(10))[0]}).\n{_ADVICE[here.starter]}"
        ) from None
    store.set_timeout(TIMEOUT)
    if device.type == "cuda":
        uuid = str(torch.cuda.get_device_properties(device).uuid)
        store.set(f"device of {here.rank}", uuid)
        sharing = [r for r in range(here.world) if store.get(f"device of {r}").decode() == uuid]
        if len(sharing) > 1:
            raise ConfigError(
                f"processes {' and '.join(map(str, sharing))} would share one GPU: start one process for each, as "
                f"with srun --ntasks-per-node=N --gpus-per-node=N"
            )
    dist.init_process_group(
        backend, store=store, rank=here.rank, world_size=here.world, timeout=TIMEOUT, device_id=own
    )


def stop() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


_ADVICE = {
    "Slurm": "Several tasks: start them with `srun python train.py ...`. One process: ask for one task "
    "(--ntasks=1, with --cpus-per-task for its cores), or `srun --ntasks=1 ...`. MASTER_ADDR and MASTER_PORT, if set, "
    "say where the first task listens.",
    **dict.fromkeys(MPI, "MASTER_ADDR and MASTER_PORT, if set for all, say where the first process listens."),
}
