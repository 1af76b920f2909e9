"""stdout and stderr that may fail: a pipe whose reader has left, a terminal that was closed, a full disk.

Training, testing and tables go to files; what is printed to the terminal must not end them.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class _TolerantStream:
    """A text stream that drops what it cannot write."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return int(self._stream.write(text))
        except OSError:
            self._redirect_to_null()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._redirect_to_null()

    def _redirect_to_null(self) -> None:
        """Point the descriptor to /dev/null, which also takes what Python has buffered and flushes when it exits."""
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def tolerate_failing_streams() -> Iterator[None]:
    """While entered, sys.stdout and sys.stderr drop what they cannot write."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        stream if stream is None or isinstance(stream, _TolerantStream) else _TolerantStream(stream)
        for stream in before
    )
    tolerant = sys.stdout, sys.stderr
    try:
        yield
    finally:
        for stream in tolerant:
            if stream is not None:
                stream.flush()
        if (sys.stdout, sys.stderr) == tolerant:
            sys.stdout, sys.stderr = before
