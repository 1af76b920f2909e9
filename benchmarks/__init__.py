"""What `make bench` measures: each part of the project beside a plain implementation of the same."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def process_memory(key: str = "VmRSS") -> float:
    """MB of this process that are in memory (Linux); VmHWM: the most that there ever were."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) / 1e6 for line in lines if line.startswith(f"{key}:"))
