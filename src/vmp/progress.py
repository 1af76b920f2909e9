"""A progress bar with an ETA on a terminal, a line now and then elsewhere; nothing on other processes."""

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
    """`advance()` it; `note` is what stands at its end.

    after: seconds of what remains to be done beside the steps (validation, testing), from the seconds of a step. What
    is done within `beside()` is not counted as time of the steps.
    """

    def __init__(self, name: str, total: int, done: int, progress: Progress | None, shown: bool) -> None:
        self.name, self.total, self.done, self.first = name, total, done, done
        self.note = ""
        self.after: Callable[[float], float] = lambda step: 0.0
        self._progress, self._shown = progress, shown
        self._task = progress.add_task(name, total=total, completed=done, note="") if progress else None
        self._mark = self._said = time.monotonic()
        self._worked = 0.0  # seconds of the steps
        if progress:
            progress.columns = (
                *progress.columns,
                TextColumn("eta"),
                _Left(self),
                TextColumn("{task.fields[note]}"),
            )

    def advance(self, count: int = 1) -> None:
        self.done += count
        self._count_time()
        if self._progress and self._task is not None:
            self._progress.update(self._task, advance=count, note=self.note)
        elif self._shown and time.monotonic() - self._said > EVERY:
            self._said = time.monotonic()
            print(
                f"{self.name} {self.done}/{self.total}, {_clock(self.left())} left  {self.note}", flush=True
            )

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Something else than steps is done, which `after` has."""
        self._count_time()
        try:
            yield
        finally:
            self._mark = time.monotonic()

    def left(self) -> float | None:
        """Seconds to the end of it all, as seen at the newest step; None before the first."""
        if self.done == self.first:
            return None
        step = self._worked / (self.done - self.first)
        return (self.total - self.done) * step + self.after(step)

    def _count_time(self) -> None:
        now = time.monotonic()
        self._worked += now - self._mark
        self._mark = now


class _Left(ProgressColumn):
    def __init__(self, of: Bar) -> None:
        super().__init__()
        self._of = of

    def render(self, task: Task) -> Text:
        return Text(_clock(self._of.left()), style="progress.remaining")


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
    )
    with Progress(*columns, console=console) as progress:
        yield Bar(name, total, done, progress, shown)


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "-:--"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"
