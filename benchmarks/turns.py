"""Ways of doing one thing, timed in turns; and how a table of them is shown."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

Row = dict[str, Any]


def on_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def take_turns(
    ways: Mapping[str, Callable[[], Any]], repeats: int, *, say: Callable[[str], None] | None = None
) -> dict[str, float]:
    """Median seconds of each way, after two calls that do not count. The ways take turns, so that a noisy moment hits
    all. say: told of each turn."""
    for way in ways.values():
        way(), way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats):
        for name, way in ways.items():
            seconds[name].append(timed(way))
        if say:
            say(f"turn {turn + 1} of {repeats}")
    return {name: statistics.median(each) for name, each in seconds.items()}


def timed(way: Callable[[], Any]) -> float:
    """Seconds, the device's work included."""
    wait()
    began = time.perf_counter()
    way()
    wait()
    return time.perf_counter() - began


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device_seconds(way: Callable[[], Any], *, calls: int = 20, replays: int = 9) -> float:
    """Median seconds that the GPU works for a call: calls are recorded once and replayed, so that Python's part, which
    for small kernels is the longer one, is left out."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            way()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            way()
    graph.replay()
    return statistics.median(timed(graph.replay) for _ in range(replays)) / calls


def machine() -> str:
    """The device and torch, in words."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    cpu = platform.processor() or platform.machine()
    return f"{torch.get_num_threads()} CPU threads ({cpu}), torch {torch.__version__}"


def show(title: str, rows: Sequence[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in rows:
        table.add_row(*(_cell(row.get(column, "")) for column in columns))
    Console(width=128).print(table)


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4f}" if 0 < abs(value) < 0.1 else f"{value:.2f}"
