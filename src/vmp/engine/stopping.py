"""Stops a run on a signal or at its time limit: the loop saves and ends, and the same command continues the run."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from vmp.errors import RunError

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
OUT_OF_TIME = 75  # EX_TEMPFAIL of sysexits.h: try again


@contextmanager
def block_stop_signals() -> Iterator[None]:
    """Start child processes that ignore the signals which ask a run to stop: a compiler killed by one would end the
    run. This process receives such a signal as soon as the block is left."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Stopped(RunError):
    """The run was asked to stop and can be continued. code: its exit code, 128 + signal or OUT_OF_TIME."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(f"{message} The same command continues.")
        self.code = code


class Stopping:
    """A context in which the first signal is only noted; a second one has its usual effect. minutes: until the run
    stops by itself; None: no limit."""

    def __init__(self, minutes: float | None = None) -> None:
        self._signal = 0
        self._until = time.monotonic() + 60 * minutes if minutes else None
        self._before: dict[int, Any] = {}

    @property
    def code(self) -> int:
        """The exit code to stop with; 0: the run was not asked to stop."""
        if self._signal:
            return 128 + self._signal
        return OUT_OF_TIME if self._until and time.monotonic() > self._until else 0

    def check(self) -> None:
        """Raise Stopped if the run was asked to stop. For places that have nothing to save."""
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
        except ValueError:  # not in the main thread, which handles the signals
            self._before.clear()
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, frame: object) -> None:
        self._signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
