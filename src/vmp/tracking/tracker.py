"""What the trainer sees of a tracker, and what all of them have in common."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vmp.config import Config, Logger
from vmp.errors import ConfigError
from vmp.runs.records import read_metrics
from vmp.tracking.report import Report, Row, first_line, read_report

if TYPE_CHECKING:
    import numpy as np

EXTRAS = {"wandb": "wandb", "tensorboard": "tensorboard"}  # logger.kind -> the package that it needs


class Tracker:
    """Does nothing, and is what `logger=default` gives."""

    failed = False

    def row(self, row: Row) -> None:
        """A row of metrics.jsonl, as written."""

    def wants_panels(self, epoch: int, *, last: int) -> bool:
        """Whether the attention after this epoch is to be drawn; 0 is the start, `last` the end."""
        return False

    def panels(self, epoch: int, step: int, pictures: "Mapping[str, np.ndarray]") -> None:
        """Caption -> (H, W, 3) uint8."""

    def result(self, folder: Path) -> None:
        """The folder has its result.json, per_class.csv and predictions.csv."""

    def close(self, *, code: int = 0) -> None:
        """The run ends, or this sitting of it, with this exit code."""


class Backend(Protocol):
    """Where rows go. A row's number is its line in metrics.jsonl, from 0."""

    name: str

    def begin(self, rows: list[Row], new: int) -> int:
        """The first of these rows, all that metrics.jsonl holds, that is not there yet. Called once, before the rest.

        new: the number of the first row that was made in this sitting; len(rows) where there is none.
        """

    def row(self, number: int, row: Row) -> None: ...

    def panels(self, number: int, epoch: int, step: int, pictures: "Mapping[str, np.ndarray]") -> None: ...

    def result(self, number: int, report: Report) -> None: ...

    def finish(self, code: int) -> None: ...

    def abandon(self) -> None:
        """After a failure; may raise."""


class Mirror(Tracker):
    """Keeps a backend in step with metrics.jsonl, and its failures away from the training."""

    def __init__(
        self, backend: Backend, folder: Path, *, options: Logger, say: Callable[[str], None]
    ) -> None:
        self.backend, self.folder, self.options, self.say = backend, folder, options, say
        self._at = -1  # the number of the newest row
        self._next: int | None = None  # of the row that is to be sent next; None before the first
        self._closed = False

    def row(self, row: Row) -> None:
        self._safely("logging", self._row, row)

    def wants_panels(self, epoch: int, *, last: int) -> bool:
        every = self.options.panels_every
        due = every and self.options.max_panels and (epoch == last or epoch % every == 0)
        return bool(not self.failed and due)

    def panels(self, epoch: int, step: int, pictures: "Mapping[str, np.ndarray]") -> None:
        few = dict(list(pictures.items())[: self.options.max_panels])
        if few:
            self._safely("logging panels", self._panels, epoch, step, few)

    def result(self, folder: Path) -> None:
        self._safely("logging the result", self._result, folder)

    def close(self, *, code: int = 0) -> None:
        if not self._closed:
            self._closed = True
            self._safely("closing", self.backend.finish, code)

    def _row(self, row: Row) -> None:
        if self._next is None:
            self._begin(row)
            return
        self._at += 1
        if self._at >= self._next:
            self.backend.row(self._at, row)

    def _begin(self, newest: Row | None) -> None:
        rows = read_metrics(self.folder)
        if newest is not None and (not rows or rows[-1] != newest):
            rows.append(newest)
        self._at = len(rows) - 1
        self._next = self.backend.begin(rows, self._at if newest is not None else len(rows))
        for number in range(self._next, len(rows)):
            self.backend.row(number, rows[number])

    def _panels(self, epoch: int, step: int, pictures: "Mapping[str, np.ndarray]") -> None:
        if self._next is None:
            self._begin(None)
        assert self._next is not None
        # else they are there since an earlier sitting. Those of the start go with the first row or not at all: a step
        # with pictures alone would pass for one whose row was sent
        if self._next <= self._at + bool(epoch):
            self.backend.panels(max(self._at, self._next), epoch, step, pictures)

    def _result(self, folder: Path) -> None:
        if self._next is None:
            self._begin(None)
        self.backend.result(self._at + 1, read_report(folder))

    def _safely(self, what: str, do: Callable[..., None], *arguments: Any) -> None:
        if self.failed:
            return
        try:
            do(*arguments)
        except Exception as error:
            self.failed = True
            self.say(
                f"warning: {self.backend.name}: {what} failed ({first_line(error)}). The run goes on without it; "
                "its files have everything"
            )
            with suppress(Exception):  # it was said already
                self.backend.abandon()


def check_tracker(options: Logger) -> None:
    """Raises:
    ConfigError: the package that the tracker needs is not installed.
    """
    package = EXTRAS.get(options.kind)
    if package and find_spec(package) is None:
        extra = f"'.[{package}]' (in the repository's folder)" if package != "wandb" else package
        raise ConfigError(
            f"logger={options.kind} needs the package {package}, which is not installed: pip install {extra}. "
            "logger=default needs nothing"
        )


def start_tracker(config: Config, folder: Path, *, first: bool, say: Callable[[str], None]) -> Tracker:
    """The tracker that the config asks for; one that does nothing on other processes than the first, and where it
    cannot be started, which is said.

    Args:
        folder: the run's, which exists.
        say: takes a line for people.

    Raises:
        ConfigError: on every process, where the tracker's package is not installed.
    """
    options = config.logger
    check_tracker(options)
    if options.kind == "files" or not first:
        return Tracker()
    backend: Backend | None
    try:
        if options.kind == "wandb":
            from vmp.tracking.wandb_run import start_wandb

            backend = start_wandb(config, folder, say=say)
        else:
            from vmp.tracking.tensorboard_run import TensorBoard

            backend = TensorBoard(config, folder, say=say)
    except Exception as error:
        say(
            f"warning: {options.kind}: it could not be started ({first_line(error)}). The run goes on without it; "
            "its files have everything"
        )
        return Tracker()
    return Mirror(backend, folder, options=options, say=say) if backend else Tracker()
