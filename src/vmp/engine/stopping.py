"""Stop a run on a signal or at its time limit. The loop then saves and ends, and the same command continues the run."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from vmp.errors import RunError

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
TOGETHER = 1.0  # seconds in which a further signal belongs to the first
OUT_OF_TIME = 75  # EX_TEMPFAIL of sysexits.h: try again


@contextmanager
def block_stop_signals() -> Iterator[None]:
    """Context that defers the signals that stop a run, also for child processes started in it.

    Otherwise such a signal could kill a compiler, and with it the run. This process receives the signal on leaving."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Stopped(RunError):
    """The run was asked to stop, and can be continued. code: its exit code, 128 + the signal or OUT_OF_TIME."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(f"{message} The same command continues.")
        self.code = code


class Stopping:
    """Context in which the first signal is only recorded. A second one has its usual effect, unless it comes within
    TOGETHER seconds: Slurm and systemd signal every process, and a sweep or torchrun passes its signal on as well.

    minutes: time until the run stops by itself; None: no limit.
    """

    def __init__(self, minutes: float | None = None) -> None:
        self._signal, self._noted = 0, 0.0
        self._until = time.monotonic() + 60 * minutes if minutes else None
        self._before: dict[int, Any] = {}

    @property
    def code(self) -> int:
        """The exit code with which to stop; 0 if the run was not asked to stop."""
        if self._signal:
            return 128 + self._signal
        return OUT_OF_TIME if self._until and time.monotonic() > self._until else 0

    def check(self) -> None:
        """Raise Stopped if the run was asked to stop. Use it where nothing needs to be saved."""
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
        if not self._signal:
            self._signal, self._noted = number, time.monotonic()
        elif time.monotonic() - self._noted > TOGETHER:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
