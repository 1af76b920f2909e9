"""A progress bar with an ETA on a terminal, a line now and then elsewhere; nothing on other processes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

EVERY = 30.0  # seconds between lines where there is no terminal


class Bar:
    """`advance()` it; `note` is what stands at its end."""

    def __init__(self, name: str, total: int, done: int, progress: Progress | None, shown: bool) -> None:
        self.name, self.total, self.done, self.first = name, total, done, done
        self.note = ""
        self._progress, self._shown = progress, shown
        self._task = progress.add_task(name, total=total, completed=done, note="") if progress else None
        self._began = self._said = time.monotonic()

    def advance(self, count: int = 1) -> None:
        self.done += count
        if self._progress and self._task is not None:
            self._progress.update(self._task, advance=count, note=self.note)
        elif self._shown and time.monotonic() - self._said > EVERY:
            self._said = time.monotonic()
            rate = (self.done - self.first) / (self._said - self._began)
            left = (self.total - self.done) / rate if rate else 0.0
            print(f"{self.name} {self.done}/{self.total}, {_clock(left)} left  {self.note}", flush=True)


@contextmanager
def bar(name: str, total: int, *, done: int = 0, shown: bool = True) -> Iterator[Bar]:
    """A bar from `done` to `total`; `shown` False for processes other than the first."""
    console = Console()
    if not (shown and console.is_terminal):
        yield Bar(name, total, done, None, shown)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield Bar(name, total, done, progress, shown)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"
