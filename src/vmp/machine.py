"""The CPUs, the device, the memory and the processes of this machine."""

import multiprocessing
import os
import resource
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def cpus() -> int:
    """How many CPUs this process may use, under taskset, a container's CPU set or Slurm."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        own = os.process_cpu_count() or 1
    else:
        own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):  # not every cluster binds tasks to their CPUs
        if os.environ.get(name, "").isdigit():
            own = min(own, max(1, int(os.environ[name])))
    return own


def end_with_parent() -> None:
    """End this process, a child of multiprocessing, with its parent, which cannot tell it when it is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def device_name(device: "torch.device") -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def peak_memory(device: "torch.device") -> float:
    """The most GiB that this process has used of the GPU's memory, or of the computer's where the device is a CPU."""
    import torch

    if device.type == "cuda":
        used = float(torch.cuda.max_memory_allocated(device))
    else:
        used = process_peak()
    return round(used / 2**30, 2)


def process_peak() -> float:
    """The most memory that this process has used, in bytes.

    On Linux, ru_maxrss begins with that of the process that started it, such as a notebook's."""
    with suppress(OSError), open("/proc/self/status", encoding="utf-8") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return 1024 * float(line.split()[1])
    kilobytes_or_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes_or_bytes * (1 if sys.platform == "darwin" else 1024)
