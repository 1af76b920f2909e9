"""What the trainer sees of a tracker, and what all trackers have in common."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vmp.config import Config, Logger
from vmp.errors import ConfigError, RunError
from vmp.files import read_json, write_json
from vmp.runs.records import read_metrics, read_result
from vmp.runs.rows import Row
from vmp.tracking.summary import RunSummary, format_error, read_summary

if TYPE_CHECKING:
    import numpy as np

PACKAGES = {"wandb": "wandb", "tensorboard": "tensorboard"}  # logger.kind -> the package that it needs
GOES_ON = "The run goes on without it; its files have everything"
SENT_FILE = "tracked.json"  # tracker -> when the result was written that it has


class Tracker:
    """The tracker of `logger=default`, which does nothing."""

    failed = False

    def log_row(self, row: Row) -> None:
        """Take a row of metrics.jsonl, after it was written."""

    def wants_panels(self, epoch: int, *, last: int) -> bool:
        """Whether to draw the attention after this epoch. 0 is the start, `last` the end."""
        return False

    def log_panels(self, epoch: int, step: int, pictures: "Mapping[str, np.ndarray]") -> None:
        """Take pictures: caption -> (H, W, 3) uint8."""

    def log_result(self, folder: Path) -> None:
        """Take the result of a finished run, from its folder."""

    def close(self, *, code: int = 0) -> None:
        """End this session of the run with the exit code `code`."""


class Backend(Protocol):
    """Where rows go. A row's number is its line in metrics.jsonl, from 0."""

    name: str

    def begin(self, rows: Sequence[Row], new: int) -> int:
        """Return the number of the first row that the backend does not have yet. Called once, before all else.

        Args:
            rows: all rows of metrics.jsonl.
            new: the number of the first row of this session; len(rows) if it has none yet.
        """

    def log_row(self, number: int, row: Row) -> None: ...

    def log_panels(
        self, number: int, epoch: int, step: int, pictures: "Mapping[str, np.ndarray]"
    ) -> None: ...

    def log_result(self, number: int, summary: RunSummary) -> None: ...

    def finish(self, code: int) -> None: ...

    def abandon(self) -> None:
        """Called after a failure; may raise."""


class Mirror(Tracker):
    """Keeps a backend in step with metrics.jsonl, and its failures away from the training."""

    def __init__(
        self, backend: Backend, folder: Path, *, options: Logger, log: Callable[[str], None]
    ) -> None:
        self.backend, self.folder, self.options, self.log = backend, folder, options, log
        self._newest = -1  # number of the newest row
        self._next: int | None = None  # number of the row to send next; None before the first
        self._result: str | None = None  # when the result was written that was sent
        self._closed = False

    def log_row(self, row: Row) -> None:
        self._try("logging", self._send_row, row)

    def wants_panels(self, epoch: int, *, last: int) -> bool:
        every = 0 if self.failed or not self.options.max_panels else self.options.panels_every
        return every > 0 and (epoch == last or epoch % every == 0)

    def log_panels(self, epoch: int, step: int, pictures: "Mapping[str, np.ndarray]") -> None:
        few = dict(list(pictures.items())[: self.options.max_panels])
        if few:
            self._try("logging panels", self._send_panels, epoch, step, few)

    def log_result(self, folder: Path) -> None:
        self._try("logging the result", self._send_result, folder)

    def close(self, *, code: int = 0) -> None:
        if not self._closed:
            self._closed = True
            self._try("closing", self._finish, code)

    def _send_row(self, row: Row) -> None:
        if self._next is None:
            self._begin(row)
            return
        self._newest += 1
        if self._newest >= self._next:
            self.backend.log_row(self._newest, row)

    def _begin(self, newest: Row | None) -> int:
        """Send the rows that the backend lacks; returns the number of the row to send next."""
        rows: Sequence[Row] = read_metrics(self.folder)
        if newest is not None and (not rows or rows[-1] != newest):
            rows = [*rows, newest]
        self._newest = len(rows) - 1
        self._next = self.backend.begin(rows, self._newest if newest is not None else len(rows))
        for number in range(self._next, len(rows)):
            self.backend.log_row(number, rows[number])
        return self._next

    def _send_panels(self, epoch: int, step: int, pictures: "Mapping[str, np.ndarray]") -> None:
        first = self._begin(None) if self._next is None else self._next
        # Pictures of rows that an earlier session sent are there already. Pictures of the start go with the first row
        # or not at all: a step with nothing but pictures would be taken for one whose row was sent.
        if first <= self._newest + bool(epoch):
            self.backend.log_panels(max(self._newest, first), epoch, step, pictures)

    def _send_result(self, folder: Path) -> None:
        if self._next is None:
            self._begin(None)
        self.backend.log_result(self._newest + 1, read_summary(folder))
        self._result = str(read_result(folder).get("finished"))

    def _finish(self, code: int) -> None:
        self.backend.finish(code)
        if self._result:
            write_json(
                self.folder / SENT_FILE, _results_sent(self.folder) | {self.backend.name: self._result}
            )

    def _try(self, what: str, do: Callable[..., Any], *arguments: Any) -> None:
        """Do something unless the tracker has failed before; a failure costs one warning and ends the tracking."""
        if self.failed:
            return
        try:
            do(*arguments)
        except Exception as error:
            self.failed = True
            self.log(f"warning: {self.backend.name}: {what} failed ({format_error(error)}). {GOES_ON}")
            with suppress(Exception):  # there was a warning already
                self.backend.abandon()


def resend_result(config: Config, folder: Path, *, log: Callable[[str], None]) -> None:
    """Send a finished run's result, and the rows that the tracker lacks, where the command that trained the run did
    not: it was killed, its tracker failed, or it had none."""
    if config.logger.kind == "files":
        return
    if _results_sent(folder).get(config.logger.kind) == str(read_result(folder).get("finished")):
        return
    tracker = start_tracker(config, folder, first=True, log=log)
    tracker.log_result(folder)
    tracker.close()


def _results_sent(folder: Path) -> dict[str, str]:
    """Tracker -> when the result was written that it has; empty if the file is damaged or not there."""
    with suppress(RunError):
        if isinstance(sent := read_json(folder / SENT_FILE), dict):
            return sent
    return {}


def check_tracker(options: Logger) -> None:
    """Raises:
    ConfigError: the package that the tracker needs is not installed.
    """
    package = PACKAGES.get(options.kind)
    if package and find_spec(package) is None:
        extra = f"'.[{package}]' (in the repository's folder)" if package != "wandb" else package
        raise ConfigError(
            f"logger={options.kind} needs the package {package}, which is not installed: pip install {extra}. "
            "logger=default needs nothing"
        )


def start_tracker(config: Config, folder: Path, *, first: bool, log: Callable[[str], None]) -> Tracker:
    """The tracker that the config asks for. It does nothing on other processes than the first, or if starting it fails.

    Raises:
        ConfigError: on every process, if the tracker's package is not installed.
    """
    options = config.logger
    check_tracker(options)
    if options.kind == "files" or not first:
        return Tracker()
    backend: Backend | None
    try:
        if options.kind == "wandb":
            from vmp.tracking.wandb_run import start_wandb

            backend = start_wandb(config, folder, log=log)
        else:
            from vmp.tracking.tensorboard_run import TensorBoard

            backend = TensorBoard(config, folder, log=log)
    except Exception as error:
        log(f"warning: {options.kind}: it could not be started ({format_error(error)}). {GOES_ON}")
        return Tracker()
    return Mirror(backend, folder, options=options, log=log) if backend else Tracker()
