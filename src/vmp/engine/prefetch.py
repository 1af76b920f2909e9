"""Copies the next micro-batch to the GPU while the current one is computed."""

import time
from collections.abc import Iterator
from functools import cache

import torch

from vmp.data.dataset import Batch


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream for copies. All epochs share one, since the allocator reuses memory per stream."""
    return torch.cuda.Stream(device)


class Prefetcher:
    """A loader's batches in order, on the device.

    On a GPU, call `fetch` after queueing the work on a batch. It waits for the next batch and copies it from pinned
    memory on a separate stream, while that work runs. On a CPU `fetch` does nothing.

    waited: total seconds in which the loader delayed training. On a GPU a wait counts only if the device ran out of
    work during it, and then as a whole.
    """

    def __init__(self, batches: Iterator[Batch], device: torch.device) -> None:
        self.batches, self.device = batches, device
        self.waited = 0.0
        self._next: Batch | None = None
        self._copy_stream = _copy_stream(device) if device.type == "cuda" else None

    def take(self) -> Batch:
        """The next batch; StopIteration after the last."""
        batch, self._next = self._next or self._wait(), None
        if batch is None:
            raise StopIteration
        if self._copy_stream is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(self._copy_stream)
            for tensor in (batch.clips, batch.labels):
                tensor.record_stream(current)  # keeps its memory until this stream's work is done
        return batch

    def fetch(self) -> None:
        if self._copy_stream is not None and self._next is None:
            self._next = self._wait()

    def _wait(self) -> Batch | None:
        queued = torch.cuda.Event() if self._copy_stream is not None else None
        if queued:
            queued.record(torch.cuda.current_stream(self.device))
        began = time.monotonic()
        batch = next(self.batches, None)
        if queued is None or queued.query():  # True: the device has no work left
            self.waited += time.monotonic() - began
        return None if batch is None else self._copied(batch)

    def _copied(self, batch: Batch) -> Batch:
        if self._copy_stream is None:
            return batch
        with torch.cuda.stream(self._copy_stream):
            clips, labels = (t.to(self.device, non_blocking=True) for t in (batch.clips, batch.labels))
            return batch._replace(clips=clips, labels=labels)
