"""Batches that are fetched ahead, and what a training step waits for."""

import linecache
import sys
import time
import warnings

import pytest
import torch

from vmp.data.dataset import Batch
from vmp.engine.prefetch import Prefetcher


def batches(count, *, size=4, pinned=False):
    for i in range(count):
        clips = torch.full((size, 3, 2, 64, 64), i, dtype=torch.uint8)
        labels = torch.full((size,), i)
        if pinned:
            clips, labels = clips.pin_memory(), labels.pin_memory()
        yield Batch(clips, labels, torch.arange(size), {7: "unreadable"} if i == 1 else {})


def test_on_a_cpu_nothing_is_read_early_and_waiting_is_measured():
    asked = []

    def slow():
        for batch in batches(3):
            asked.append(len(asked))
            time.sleep(0.05)
            yield batch

    prefetcher = Prefetcher(slow(), torch.device("cpu"))
    for i in range(3):
        batch = prefetcher.take()
        assert batch.clips.unique().tolist() == [i]
        assert batch.bad == ({7: "unreadable"} if i == 1 else {})
        prefetcher.fetch()
        assert len(asked) == i + 1
    assert 0.15 <= prefetcher.waited < 5
    with pytest.raises(StopIteration):
        prefetcher.take()


def test_waiting_behind_queued_work_is_not_counted(monkeypatch):
    """The GPU's part of the bookkeeping, with an event that says whether the queue has run dry."""

    class Event:
        dry = False

        def record(self, stream):
            pass

        def query(self):
            return Event.dry

    def slow():
        for batch in batches(3):
            time.sleep(0.05)
            yield batch

    prefetcher = Prefetcher(slow(), torch.device("cpu"))
    prefetcher._copy_stream = object()
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(prefetcher, "_copied", lambda batch: batch)
    prefetcher.fetch()
    assert prefetcher.waited == 0
    prefetcher.fetch()  # there is one already
    Event.dry = True
    prefetcher._next = None
    prefetcher.fetch()
    assert 0.05 <= prefetcher.waited < 1
    assert prefetcher._next.labels[0] == 1


@pytest.mark.gpu
def test_clips_arrive_whole_beside_long_work():
    device = torch.device("cuda")
    prefetcher = Prefetcher(batches(20, size=64, pinned=True), device)
    matrix = torch.randn(4096, 4096, device=device)
    sums = []
    for _ in range(20):
        batch = prefetcher.take()
        assert batch.clips.is_cuda
        for _ in range(4):
            matrix = torch.nn.functional.normalize(matrix @ matrix)
        sums.append((batch.clips.float().mean(), batch.labels.float().mean()))
        del batch
        prefetcher.fetch()
    assert [(float(a), float(b)) for a, b in sums] == [(i, i) for i in range(20)]
    with pytest.raises(StopIteration):
        prefetcher.take()


@pytest.mark.gpu
def test_a_step_waits_for_the_device_once(tmp_path, monkeypatch):
    """torch's sync debug mode warns where Python waits for the GPU; in a step that is one line of the loop."""
    from hydra import compose, initialize_config_dir
    from runs import QUICK, ROOT, bright_or_dark

    from vmp.engine import loop
    from vmp.train import train

    steps, waits = 24 // 4 * 6, {}

    def note(message, category, filename, lineno, file=None, line=None):
        frame = sys._getframe()
        while frame and not isinstance(frame.f_locals.get("self"), loop.TrainingLoop):
            frame = frame.f_back
        if frame:
            text = linecache.getline(loop.__file__, frame.f_lineno).strip()
            waits.setdefault(text, set()).add(frame.f_locals["self"].state.step)

    manifest = bright_or_dark(tmp_path / "data")
    overrides = [*QUICK, f"dataset.folder={manifest}", f"output={tmp_path}/out", "trainer.device=cuda"]
    overrides += ["trainer.log_every=1000", "vmp.lambda=1"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", overrides)
    monkeypatch.setattr(warnings, "showwarning", note)
    warnings.simplefilter("always")
    torch.cuda.set_sync_debug_mode("warn")
    try:
        train(config)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    (line,) = [line for line, at in waits.items() if len(at) >= steps / 2]  # the others: where epochs end
    assert "processes.maximum(" in line
    assert len(waits[line]) == steps
