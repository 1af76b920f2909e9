"""Records of a run: metrics.jsonl, which holds what repeats to the bit, and log.txt with times and messages.

Notable here:
- metrics.jsonl has one row at the start, one per logged step and one per evaluation, and no clock times: a run that
  was killed and continued ends with the same bytes as one that was left alone;
- checkpoints remember how many rows there were; continuing cuts the file back to them.
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
from vmp.files import replacing


class Metrics:
    """Rows of metrics.jsonl; on processes other than the first it keeps nothing.

    Args:
        path: None keeps nothing.
        rows: how many of the file's rows to keep.
        also: who sees each new row.
    """

    def __init__(
        self, path: Path | None, *, rows: int = 0, also: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        self.rows, self._also = rows, also
        self._file: TextIO | None = None
        if path is None:
            return
        kept = path.read_bytes().splitlines(keepends=True)[:rows] if path.exists() else []
        if len(kept) < rows:
            raise RunError(
                f"{path}: {len(kept)} rows, but the checkpoint was written after {rows}; it was cut short"
            )
        with replacing(path) as temporary:
            temporary.write_bytes(b"".join(kept))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def write(self, row: dict[str, Any]) -> None:
        self.rows += 1
        if self._file:
            with self._writing():
                self._file.write(json.dumps(row, allow_nan=False) + "\n")
                self._file.flush()
            if self._also:
                self._also(row)

    def sync(self) -> None:
        """Make the rows outlive a power cut, before a checkpoint counts on them."""
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


class Log:
    """Lines for people, on the terminal and in log.txt; quiet on processes other than the first."""

    def __init__(self, path: Path | None, *, quiet: bool = False) -> None:
        self._file: TextIO | None = open(path, "a", encoding="utf-8") if path else None  # noqa: SIM115
        self.quiet = quiet or path is None

    def __call__(self, text: str) -> None:
        if self._file:
            try:
                self._file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
                self._file.flush()
            except OSError as error:  # lines for people must not cost a run
                print(f"warning: {self._file.name}: cannot be written ({error.strerror})", file=sys.stderr)
                self._file = None
        if not self.quiet:
            print(text, flush=True)

    def quietly(self, text: str) -> None:
        """To log.txt only."""
        quiet, self.quiet = self.quiet, True
        self(text)
        self.quiet = quiet

    def warn(self, text: str) -> None:
        self(f"warning: {text}") if self._file else print(f"warning: {text}", file=sys.stderr)

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None
