"""A progress bar with an ETA on a terminal, and a line every half minute elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

EVERY = 30.0  # seconds between lines where there is no terminal


class Bar:
    """Shows how many steps are done and how long the rest takes.

    note: text at its end.
    further: seconds of the work that remains beside the steps (validation, testing), from the seconds of one step.
    """

    def __init__(self, name: str, total: int, done: int, progress: Progress | None, shown: bool) -> None:
        self.name, self.total, self.done, self.first = name, total, done, done
        self.note = ""
        self.further: Callable[[float], float] = lambda step: 0.0
        self._progress, self._shown = progress, shown
        self._task = progress.add_task(name, total=total, completed=done, note="") if progress else None
        self._mark = self._printed = time.monotonic()
        self._worked = 0.0  # seconds spent on steps
        if progress:
            progress.columns = (
                *progress.columns,
                TextColumn("eta"),
                _TimeLeft(self),
                TextColumn("{task.fields[note]}"),
            )

    def advance(self, count: int = 1) -> None:
        self.done += count
        self._count_time()
        if self._progress and self._task is not None:
            self._progress.update(self._task, advance=count, note=self.note)
        elif self._shown and time.monotonic() - self._printed > EVERY:
            self._printed = time.monotonic()
            left = _format_time(self.left())
            print(f"{self.name} {self.done}/{self.total}, {left} left  {self.note}", flush=True)

    @contextmanager
    def untimed(self) -> Iterator[None]:
        """For work other than steps, which `further` estimates."""
        self._count_time()
        try:
            yield
        finally:
            self._mark = time.monotonic()

    def left(self) -> float | None:
        """Seconds until all is done, as estimated at the newest step; None before the first one."""
        if self.done == self.first:
            return None
        step = self._worked / (self.done - self.first)
        return (self.total - self.done) * step + self.further(step)

    def _count_time(self) -> None:
        now = time.monotonic()
        self._worked += now - self._mark
        self._mark = now


class _TimeLeft(ProgressColumn):
    def __init__(self, bar: Bar) -> None:
        super().__init__()
        self._bar = bar

    def render(self, task: Task) -> Text:
        return Text(_format_time(self._bar.left()), style="progress.remaining")


@contextmanager
def bar(name: str, total: int, *, done: int = 0, shown: bool = True) -> Iterator[Bar]:
    """A bar from `done` to `total`; `shown` is False in processes other than the first."""
    console = Console()
    if not (shown and console.is_terminal):
        yield Bar(name, total, done, None, shown)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield Bar(name, total, done, progress, shown)


def _format_time(seconds: float | None) -> str:
    if seconds is None:
        return "-:--"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"
