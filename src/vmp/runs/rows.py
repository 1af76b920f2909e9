"""The rows of metrics.jsonl: a sequence that keeps where each row lies, and reads rows when they are asked for.

A long run has a million rows and 200 MB of them, and what asks needs a few: a curve has some thousand points, and a
tracker that continues lacks the last rows only.
"""

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

from vmp.errors import RunError
from vmp.files import ROWS_LIMIT, open_regular, parse_json
from vmp.formats import finite

_TRAINING = b'{"kind": "train"'  # how such a row begins

T = TypeVar("T")
Row = dict[str, Any]  # kind: "start", "train" or "val"; finite numbers


class Rows(Sequence[Row]):
    """Rows of the file as it is now; none where there is no file. A last line without a line end is left out: it is
    being written, or was cut short by a kill.

    Raises:
        RunError: at once if the file cannot be read, or is too large; for a row that is damaged when it is read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ends = array("Q", [0])  # where each row ends; the first one begins at 0
        self._training = bytearray()  # 1 for each training row
        if not path.exists():
            return
        with open_regular(path, limit=ROWS_LIMIT) as file:
            at = 0
            for line in file:
                at += len(line)
                if line.endswith(b"\n"):
                    self._ends.append(at)
                    self._training.append(line.startswith(_TRAINING))

    def __len__(self) -> int:
        return len(self._training)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return list(self._read(range(len(self))[index]))
        return next(self._read([range(len(self))[index]]))

    def __iter__(self) -> Iterator[Row]:
        return self._read(range(len(self)))

    def thinned(self, most: int) -> list[Row]:
        """All rows but those of training, and at most `most` of those, evenly spread, the first and the last among
        them."""
        kept = set(evenly([n for n, is_training in enumerate(self._training) if is_training], most))
        return list(self._read([n for n, it in enumerate(self._training) if not it or n in kept]))

    def _read(self, numbers: Sequence[int]) -> Iterator[Row]:
        if not numbers:
            return
        with open_regular(self.path, limit=ROWS_LIMIT) as file:
            for number in numbers:
                begin, end = self._ends[number], self._ends[number + 1]
                if file.tell() != begin:
                    file.seek(begin)
                yield _parse(file.read(end - begin), f"{self.path}, line {number + 1}")


def evenly(items: Sequence[T], most: int) -> Sequence[T]:
    """At most `most` of the items, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return items
    step = (len(items) - 1) / max(1, most - 1)
    return [items[round(i * step)] for i in range(most)]


def _parse(line: bytes, where: str) -> Row:
    try:
        row = parse_json(line.decode(), where)
    except UnicodeDecodeError as error:
        raise RunError(f"{where}: not UTF-8 ({error.reason})") from None
    if not isinstance(row, dict) or not all(
        isinstance(value, str) if key == "kind" else not isinstance(value, str) and finite(value) is not None
        for key, value in row.items()
    ):
        raise RunError(f"{where}: not a row of numbers")
    return row
