"""stdout and stderr that may go away: a pipe whose reader has left, a terminal that was closed, a full disk.

Training, testing and tables are in files; the lines on the terminal must not end them.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class _Lasting:
    """A text stream; once it cannot be written to, what is written to it is dropped."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return int(self._stream.write(text))
        except OSError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._drop()

    def _drop(self) -> None:
        """Point its descriptor nowhere: what Python still holds for it goes there, too, when it ends."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def lasting() -> Iterator[None]:
    """Within it, sys.stdout and sys.stderr drop what they cannot write."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        stream if stream is None or isinstance(stream, _Lasting) else _Lasting(stream) for stream in before
    )
    mine = sys.stdout, sys.stderr
    try:
        yield
    finally:
        for stream in mine:
            if stream is not None:
                stream.flush()
        if (sys.stdout, sys.stderr) == mine:
            sys.stdout, sys.stderr = before
