"""Two records of a run: metrics.jsonl with its numbers, and log.txt with times and messages.

Notes:
- metrics.jsonl has one row at the start, one per logged step and one per validation. It has no clock times, so a run
  that was killed and continued ends with the same bytes as an uninterrupted one;
- a checkpoint stores the number of rows; a run that continues from it truncates the file to them.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from vmp.errors import RunError


class Metrics:
    """Appends rows to metrics.jsonl.

    Args:
        path: the file; None, for processes other than the first: rows are only counted.
        rows: number of rows of an existing file to keep.
        on_row: called with each new row.

    Raises:
        RunError: the file has fewer rows than these, or cannot be written.
    """

    def __init__(
        self, path: Path | None, *, rows: int = 0, on_row: Callable[[dict[str, Any]], None] = lambda row: None
    ) -> None:
        self.rows, self._on_row = rows, on_row
        self._file: TextIO | None = None
        if path is None:
            return
        _cut(path, rows)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def write(self, row: dict[str, Any]) -> None:
        self.rows += 1
        if self._file:
            with self._writing():
                self._file.write(json.dumps(row, allow_nan=False) + "\n")
                self._file.flush()
            self._on_row(row)

    def sync(self) -> None:
        """Flush the rows to the disk, before a checkpoint that counts them."""
        if self._file:
            with self._writing():
                os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file:
            with self._writing():
                self._file.close()
            self._file = None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            assert self._file
            file, self._file = self._file, None
            with suppress(OSError):
                file.close()
            raise RunError(
                f"{file.name}: cannot be written ({error.strerror}). Free some space; the same command continues "
                "from the last checkpoint."
            ) from None


def _cut(path: Path, rows: int) -> None:
    """Truncate a file to its first rows, without parsing them. Raises RunError if it has fewer."""
    found, end = 0, 0
    if path.exists():
        with open(path, "rb+") as file:
            while found < rows and (chunk := file.read(1 << 20)):
                lines = chunk.count(b"\n")
                if found + lines >= rows:
                    for _ in range(rows - found):
                        end = chunk.index(b"\n", end) + 1
                    end += file.tell() - len(chunk)
                found += lines
            if found >= rows:
                file.truncate(end)
    if found < rows:
        raise RunError(f"{path}: {found} rows, but the checkpoint was written after {rows}; some are lost")


class Log:
    """Messages for people, printed and appended to log.txt. path: None, for processes other than the first: only
    warnings are printed."""

    def __init__(self, path: Path | None) -> None:
        self._file: TextIO | None = open(path, "a", encoding="utf-8") if path else None  # noqa: SIM115
        self._prints = path is not None

    def __call__(self, text: str) -> None:
        self.to_file(text)
        if self._prints:
            print(text, flush=True)

    def to_file(self, text: str) -> None:
        """Append to log.txt without printing."""
        if self._file:
            try:
                self._file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
                self._file.flush()
            except OSError as error:  # a lost message must not end the run
                print(f"warning: {self._file.name}: cannot be written ({error.strerror})", file=sys.stderr)
                self._file = None

    def warn(self, text: str) -> None:
        self(f"warning: {text}") if self._file else print(f"warning: {text}", file=sys.stderr)

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None
