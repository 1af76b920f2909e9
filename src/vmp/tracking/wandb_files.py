"""Reads wandb's own files in a run's folder.

wandb keeps each session of a run in `wandb/<offline-run or run>-<time>-<id>/run-<id>.wandb`: blocks of LevelDB's log
format in which each record is a protobuf message. Only these files show how much of a run wandb has: a process that is
killed loses what it had not written yet, up to 15 seconds.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAGIC = b":W&B"
FILE_HEADER, BLOCK, RECORD_HEADER = 7, 32768, 7  # bytes
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def session_files(folder: Path, run_id: str) -> list[Path]:
    """wandb's files of this run, one per session, oldest first."""
    found = (folder / "wandb").glob(f"*run-*-{run_id}*/run-{run_id}.wandb")
    return sorted(found, key=lambda path: path.parent.name.partition("run-")[2])  # begins with the time


def read_records(path: Path) -> Iterator[Any]:
    """Yield the `Record`s of wandb's protocol, up to the end or to where a killed process stopped writing.

    Raises:
        ValueError: this is not a file of wandb's.
    """
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    data = path.read_bytes()
    if data and data[:4] != MAGIC:
        raise ValueError(f"{path}: not a file of wandb's")
    at, whole = FILE_HEADER, b""
    while at + RECORD_HEADER <= len(data):
        left = BLOCK - at % BLOCK
        if left < RECORD_HEADER:  # too little for a header, so padded with zeros
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        part = data[at + RECORD_HEADER : at + RECORD_HEADER + length]
        if kind not in (FULL, FIRST, MIDDLE, LAST) or len(part) < length:
            return
        whole = part if kind in (FULL, FIRST) else whole + part
        at += RECORD_HEADER + length
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(whole)
            yield record


def read_history(path: Path) -> list[dict[str, Any]]:
    """Logged rows: key -> value; nested keys are joined by dots."""
    rows = []
    for record in read_records(path):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append(
                {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
            )
    return rows


def is_whole(path: Path) -> bool:
    """Whether the session has ended and all of it was written."""
    return path.exists() and any(r.WhichOneof("record_type") == "exit" for r in read_records(path))


def rows_held(folder: Path, run_id: str) -> int:
    """How many rows of the run wandb's files in this folder hold: one more than the largest `_step`."""
    steps = [
        row["_step"] for path in session_files(folder, run_id) for row in read_history(path) if "_step" in row
    ]
    return int(max(steps, default=-1)) + 1
