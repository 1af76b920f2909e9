"""Stopping on request: a signal, or a time limit that is near. The loop saves and ends; the same command continues."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from vmp.errors import RunError

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
OUT_OF_TIME = 75  # EX_TEMPFAIL of sysexits.h: try again


@contextmanager
def spared() -> Iterator[None]:
    """Processes that are started within never see the signals that ask a run to stop: a compiler that dies of one
    would take the run with it. This process notes them as soon as it is left."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Stopped(RunError):
    """The run was asked to stop, and can be continued. code: the exit code, 128 + signal or OUT_OF_TIME."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(f"{message} The same command continues.")
        self.code = code


class Stopping:
    """While it is entered, the first signal is noted and a second one acts at once.

    Args:
        minutes: from now until the run should stop by itself; None: no limit.
    """

    def __init__(self, minutes: float | None = None) -> None:
        self._signal = 0
        self._until = time.monotonic() + 60 * minutes if minutes else None
        self._before: dict[int, Any] = {}

    @property
    def code(self) -> int:
        """The exit code that was asked for; 0: none was."""
        if self._signal:
            return 128 + self._signal
        return OUT_OF_TIME if self._until and time.monotonic() > self._until else 0

    def check(self) -> None:
        """Raise Stopped if asked, where there is nothing to save."""
        if self.code:
            raise Stopped(f"stopped by {self.name(self.code)}.", self.code)

    @staticmethod
    def name(code: int) -> str:
        return "trainer.max_minutes" if code == OUT_OF_TIME else signal.Signals(code - 128).name

    def __enter__(self) -> Self:
        try:
            for number in SIGNALS:
                if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                    continue  # nohup
                self._before[number] = signal.signal(number, self._note)
        except ValueError:  # not in the main thread: signals are somebody else's
            self._before.clear()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: object) -> None:
        self._signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
