"""Times alternatives side by side and prints the results as a table."""

import ctypes
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import process_memory
from vmp.paper.timing import Stopwatch, time_rounds

Row = dict[str, Any]
Call = Callable[[], Any]


def compose(overrides: Sequence[str]) -> Any:
    """Overrides of train.py -> the checked config."""
    from vmp.compose import CONF, composer
    from vmp.config import check

    return check(composer(CONF)(overrides))


def device_type() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def time_call(call: Call, watch: Stopwatch | None = None) -> float:
    """Seconds of a call, the device's work included."""
    watch = watch or Stopwatch(torch.device(device_type()))
    with watch("call"):
        call()
    return watch.wall["call"]


def median_seconds(
    calls: Mapping[str, Call], rounds: int, *, report: Callable[[str], None] = lambda text: None
) -> dict[str, float]:
    """Median seconds of each call, by `time_rounds` after two rounds of warm-up."""
    steps = {name: partial(time_call, call) for name, call in calls.items()}
    timed = time_rounds(steps, torch.device(device_type()), rounds=rounds, report=report)
    return {name: statistics.median(one["call"] for one in each) for name, each in timed.items()}


def peak_memory(call: Call) -> float:
    """MB that a call takes at its peak beyond what is held before it: on a GPU of tensors, on a CPU of the process
    (Linux; elsewhere NaN)."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        allocated = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - allocated) / 1e6
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed goes back to the system
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    except (AttributeError, OSError):
        return float("nan")
    before = process_memory()
    call()
    return process_memory("VmHWM") - before


def gpu_seconds(call: Call) -> float:
    """Median seconds that the GPU works for a call. Calls are recorded once and replayed, which leaves out Python's
    share: for small kernels the larger one."""
    calls, replays = 20, 9
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    graph.replay()
    return statistics.median(time_call(graph.replay) for _ in range(replays)) / calls


def describe_machine() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    cpu = platform.processor() or platform.machine()
    return f"{torch.get_num_threads()} CPU threads ({cpu}), torch {torch.__version__}"


def print_rows(title: str, rows: list[Row]) -> list[Row]:
    """Print rows with the union of their keys as columns, under the title and the machine; returns them."""
    from rich.console import Console
    from rich.table import Table

    def text(value: Any) -> str:
        if not isinstance(value, float):
            return str(value)
        return f"{value:.4f}" if 0 < abs(value) < 0.1 else f"{value:.2f}"

    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(title=f"{title}; {describe_machine()}")
    for column in columns:
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in rows:
        table.add_row(*(text(row.get(column, "")) for column in columns))
    Console(width=128).print(table)
    return rows
