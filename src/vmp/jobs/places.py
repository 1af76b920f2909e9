"""What a job may use: CUDA devices, cores, and an environment without another job's rank in it."""

import os
import subprocess
from collections.abc import Sequence
from itertools import takewhile

from vmp.errors import ConfigError
from vmp.machine import cpus
from vmp.ranks import VARIABLES

Place = dict[str, str]  # environment variables that give one job its own devices or cores


def environment() -> dict[str, str]:
    """This process's environment without the ranks that torchrun, srun or mpirun have put there."""
    return {k: v for k, v in os.environ.items() if k not in VARIABLES and not k.startswith("TORCHELASTIC_")}


def find_devices() -> list[str]:
    """CUDA devices, as CUDA_VISIBLE_DEVICES names them: -1 hides those behind it."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        named = (device.strip() for device in visible.split(","))
        return list(takewhile(lambda device: not device.startswith("-"), filter(None, named)))
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(i) for i in range(sum(line.startswith("GPU ") for line in listed.stdout.splitlines()))]


def local_places(
    n_jobs: int | None = None, devices: Sequence[int | str] | None = None, processes: int = 1
) -> list[Place]:
    """One place for each job that runs at the same time on this machine.

    Args:
        n_jobs: how many; None: as many as the devices allow, or one without devices. More jobs than devices share them.
        devices: CUDA devices to use; one that is listed twice gets two jobs. None: all of them.
        processes: processes of each job, and so the devices that it gets.

    Raises:
        ConfigError: n_jobs is not positive, devices are no list, or there are fewer devices than a job needs.
    """
    if n_jobs is not None and (not isinstance(n_jobs, int) or n_jobs < 1):
        raise ConfigError(
            f"hydra.launcher.n_jobs = {n_jobs!r}: must be at least 1, or null for one job per device"
        )
    if isinstance(devices, str) or not isinstance(devices, Sequence | None):
        raise ConfigError(
            f"hydra.launcher.devices = {devices!r}: must be a list, as in hydra.launcher.devices=[0,1]"
        )
    names = find_devices() if devices is None else [str(device) for device in devices]
    if not names:
        count = n_jobs or 1
        cores = str(max(1, cpus() // (count * processes)))
        shared = count > 1 and "OMP_NUM_THREADS" not in os.environ
        return [{"OMP_NUM_THREADS": cores} if shared else {} for _ in range(count)]
    if len(names) < processes:
        raise ConfigError(
            f"a job of {processes} processes (hydra.sweeper.processes, or LAUNCH=torchrun={processes}) needs as many "
            f"CUDA devices; there are {len(names)}: {', '.join(names)}"
        )
    groups = [",".join(names[i : i + processes]) for i in range(0, len(names) - processes + 1, processes)]
    return [{"CUDA_VISIBLE_DEVICES": groups[i % len(groups)]} for i in range(n_jobs or len(groups))]
