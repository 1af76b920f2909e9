"""Batches that are fetched ahead, and what a training step waits for."""

import time
import traceback
import warnings

import pytest
import torch

from vmp.data.dataset import Batch
from vmp.engine.ahead import Ahead


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

    ahead = Ahead(slow(), torch.device("cpu"))
    for i in range(3):
        batch = ahead.take()
        assert batch.clips.unique().tolist() == [i]
        assert batch.bad == ({7: "unreadable"} if i == 1 else {})
        ahead.fetch()
        assert len(asked) == i + 1
    assert 0.15 <= ahead.waited < 5
    with pytest.raises(StopIteration):
        ahead.take()


@pytest.mark.gpu
def test_clips_arrive_whole_beside_long_work():
    device = torch.device("cuda")
    ahead = Ahead(batches(20, size=64, pinned=True), device)
    matrix = torch.randn(4096, 4096, device=device)
    sums = []
    for _ in range(20):
        batch = ahead.take()
        assert batch.clips.is_cuda
        for _ in range(4):
            matrix = torch.nn.functional.normalize(matrix @ matrix)
        sums.append((batch.clips.float().mean(), batch.labels.float().mean()))
        del batch
        ahead.fetch()
    assert [(float(a), float(b)) for a, b in sums] == [(i, i) for i in range(20)]
    with pytest.raises(StopIteration):
        ahead.take()


@pytest.mark.gpu
def test_a_step_waits_for_the_device_once(tmp_path, monkeypatch):
    """torch's sync debug mode warns where Python waits for the GPU; in a step that is one line of the loop."""
    from hydra import compose, initialize_config_dir
    from runs import QUICK, ROOT, bright_or_dark

    from vmp.engine import trainer
    from vmp.run import train

    steps, waits = 24 // 4 * 6, {}

    def note(message, category, filename, lineno, file=None, line=None):
        for frame in traceback.extract_stack():
            if frame.name == "fit" and frame.filename == trainer.__file__:
                waits[frame.line] = waits.get(frame.line, 0) + 1

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
    each_step = {line: count for line, count in waits.items() if count >= steps / 2}
    ((line, count),) = each_step.items()
    assert line.startswith("finite = bool(")
    assert count == steps
