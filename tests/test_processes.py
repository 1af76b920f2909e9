"""Loader processes that die or hang, memory that runs out, and two runs in one folder."""

import multiprocessing
import signal
import time
from pathlib import Path

import pytest
from broken import Broken
from faults import no_traceback
from runs import Running, overrides_for, start
from torch.utils.data import DataLoader

from vmp.data.dataset import end_workers


def test_ended_loader_processes_are_not_reported_as_dead():
    """Torch's handler of SIGCHLD raises in any line, in place of the error that ended training."""
    batches = iter(DataLoader(range(1000), num_workers=2, multiprocessing_context="fork"))  # type: ignore[arg-type]
    next(batches)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    end_workers()
    for _ in range(100_000):  # time for a signal
        pass
    assert not any(Path(f"/proc/{worker.pid}").exists() for worker in workers)
    assert not multiprocessing.active_children()
    assert callable(signal.getsignal(signal.SIGCHLD))  # a later loader's processes are watched


@pytest.mark.slow
@pytest.mark.chaos
def test_a_killed_loader_process_names_the_clip_that_it_was_reading(data, tmp_path, tally):
    """SIGKILL, as from the kernel when memory runs out, stands for a decoder that crashes, too."""
    fault = tally("loader processes that die or hang")
    fault.tries()
    done = Broken(overrides_for(data, tmp_path, "trainer.workers=1"), dies="005.mp4").wait(90)
    message = no_traceback(done)
    assert "a loader process died" in message
    assert f"train/5 ({data}/train/005.mp4)" in message
    fault.survives()


@pytest.mark.slow
@pytest.mark.chaos
def test_a_decoder_that_hangs_is_named(data, tmp_path, tally):
    fault = tally("loader processes that die or hang")
    fault.tries()
    command = overrides_for(data, tmp_path, "trainer.workers=1", "data.timeout=3")
    message = no_traceback(Running(command, hang="005.mp4").wait(90))
    assert f"train/5 ({data}/train/005.mp4)" in message
    fault.survives()


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.parametrize(
    "overrides", [["trainer.batch_size=24", "backbone.crop=448"], ["backbone.width=4000"]]
)
def test_out_of_memory(data, tmp_path, overrides, tally):
    """In a process with a limit on its memory: torch's own error, and what to lower."""
    fault = tally("out of memory")
    fault.tries()
    done = Broken(overrides_for(data, tmp_path, *overrides), memory=400_000_000).wait()
    message = no_traceback(done)
    assert "out of memory" in message
    assert "trainer.micro_batch" in message
    fault.survives()


@pytest.mark.slow
@pytest.mark.chaos
def test_two_runs_race_for_one_folder(data, tmp_path, rounds, tally):
    fault, wrong = tally("two runs in one folder"), []
    for number in range(rounds):
        fault.tries()
        out = tmp_path / str(number)
        pair = [start(data, out, "trainer.epochs=2000") for _ in range(2)]
        began = time.monotonic()
        while not any(one.over() for one in pair) and time.monotonic() - began < 120:
            time.sleep(0.005)
        time.sleep(0.3)
        left = [one for one in pair if not one.over()]
        for one in left:
            one.signal(signal.SIGKILL)
        done = [one.wait() for one in pair]
        lost = [d for d in done if d.returncode == 2 and "another process is training there" in d.stderr]
        if len(left) != 1 or len(lost) != 1:
            wrong.append([(d.returncode, d.stderr[-300:]) for d in done])
        else:
            fault.survives()
    assert not wrong
