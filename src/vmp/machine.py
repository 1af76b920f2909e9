"""What this machine is and has."""

import os
import resource
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def cpus() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_name(device: "torch.device") -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def peak_memory(device: "torch.device") -> float:
    """Gigabytes that this process has used of the device at most; of the computer's memory where it is the CPU."""
    import torch

    if device.type == "cuda":
        used = float(torch.cuda.max_memory_allocated(device))
    else:  # kilobytes, but bytes on macOS
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return round(used / 2**30, 2)
