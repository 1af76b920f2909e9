"""Checkpoints written by a thread: what they hold, which files they share, and what happens when they fail."""

import copy
import signal
import threading
from pathlib import Path

import pytest
import torch
from runs import Running, differences, folder, overrides_for, start, wait_for, without_validation

from vmp.engine import checkpoint
from vmp.engine.learner import Learner
from vmp.engine.plan import TrainingState
from vmp.engine.saving import Saver
from vmp.engine.stopping import Stopped
from vmp.errors import RunError
from vmp.runs.records import read_metrics

UNSCALED = torch.amp.GradScaler("cpu", enabled=False)


def small(device: str = "cpu"):
    """A channels-last net with momentum, after one update."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv3d(3, 8, 3), torch.nn.BatchNorm3d(8)).to(device)
    net = net.to(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    update(net, optimizer)
    return net, optimizer


def update(net, optimizer) -> None:
    device = next(net.parameters()).device
    net(torch.rand(2, 3, 4, 8, 8, device=device)).square().sum().backward()
    optimizer.step()


def same(found, net, optimizer) -> bool:
    """Whether a checkpoint holds these weights and this optimizer's state, in the same memory format."""
    moments, ours = found.state["optimizer"], optimizer.state_dict()
    assert moments["param_groups"] == ours["param_groups"]
    pairs = [
        (value, ours["state"][number][name])
        for number, one in moments["state"].items()
        for name, value in one.items()
    ]
    assert len(pairs) == 12
    assert all(a.stride() == b.stride() for a, b in pairs)
    pairs += [(found.model[name], value) for name, value in net.state_dict().items()]
    return all(torch.equal(a, b.cpu()) for a, b in pairs)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_checkpoint_holds_what_there_was_when_it_was_asked_for(tmp_path, device):
    """Updates go on before the first byte is written, and a later save, into the same copies, changes no file."""
    net, optimizer = small(device)
    release, state = threading.Event(), TrainingState(step=1)
    with Saver(tmp_path, keep=2, recomputes=False) as saver:
        saver._thread.submit(release.wait)  # the disk is busy
        saver.save(Learner(net, optimizer, UNSCALED), state, best=False)
        before = copy.deepcopy((net, optimizer.state_dict()))
        state.step, state.bad["x"] = 2, "unreadable"
        for _ in range(3):
            update(net, optimizer)
        assert not list(tmp_path.iterdir())
        release.set()
        saver.wait()
        saver.save(Learner(net, optimizer, UNSCALED), state, best=False)
    first, second = (checkpoint.load(path) for path in checkpoint.steps_in(tmp_path))
    then = torch.optim.AdamW(before[0].parameters(), lr=0.1)
    then.load_state_dict(before[1])
    assert same(first, before[0], then)
    assert not same(first, net, optimizer)
    assert same(second, net, optimizer)
    assert (first.state["progress"]["step"], first.state["progress"]["bad"]) == (1, {})
    assert (second.state["progress"]["step"], second.state["progress"]["bad"]) == (2, {"x": "unreadable"})


@pytest.mark.parametrize("recomputes", [False, True])
def test_the_tensors_of_a_step_are_written_once(tmp_path, recomputes):
    """Around a validation whose epoch is the best: one file of weights, unless batch statistics were recomputed."""
    net, optimizer = small()
    state = TrainingState(step=1)
    stale = checkpoint.save(tmp_path, checkpoint.best_name(1), model={"old": torch.ones(1)}, state={})
    damaged = checkpoint.save(tmp_path, "step_00000001_0001", model={"old": torch.ones(1)}, state={})
    (damaged / "state.pt").write_bytes(b"")
    with Saver(tmp_path, keep=2, recomputes=recomputes) as saver:
        saver.save(Learner(net, optimizer, UNSCALED), state, best=False)
        saver.wait()
        (before,) = checkpoint.steps_in(tmp_path)
        held = {file: (before / file).stat().st_ino for file in ("model.safetensors", "optimizer.pt")}
        state.evaluated = state.best_epoch = 1
        if recomputes:
            net[1].running_mean.fill_(5)
        for _ in range(2):  # the same again is nothing new
            saver.save(Learner(net, optimizer, UNSCALED), state, best=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best_0001", "step_00000001_0001"]
    last, best = checkpoint.newest(tmp_path), checkpoint.load(stale)
    assert same(last, net, optimizer)
    assert best.model.keys() == last.model.keys()
    weights, moments = (last.path / file for file in held)
    assert weights.samefile(best.path / "model.safetensors")
    assert (weights.stat().st_ino == held["model.safetensors"]) is not recomputes
    assert moments.stat().st_ino == held["optimizer.pt"]


def test_a_write_that_fails_is_an_error_of_the_next_save_or_the_end(tmp_path):
    """Where the folder should be is a file. Of two errors none is lost."""
    net, optimizer = small()
    (tmp_path / "checkpoints").touch()
    warned = list[str]()

    def session(*steps: int, ends: Exception | None = None) -> None:
        with Saver(tmp_path / "checkpoints", keep=2, recomputes=False, warn=warned.append) as saver:
            for step in steps:
                saver.save(Learner(net, optimizer, UNSCALED), TrainingState(step=step), best=False)
            if ends:
                raise ends

    told = "step_0000000{}_0000: the checkpoint could not be written"
    with pytest.raises(RunError, match=told.format(1)):
        session(1, 2)
    with pytest.raises(RunError, match=told.format(3)):
        session(3)
    with pytest.raises(RunError, match=told.format(4)):  # in place of "the same command continues"
        session(4, ends=Stopped("stopped by SIGTERM.", 143))
    assert not warned
    with pytest.raises(RunError, match="another process died"):
        session(5, ends=RunError("another process died"))
    assert len(warned) == 1
    assert told.format(5) in warned[0]


SLOW = """
import os, runpy, sys, time
from vmp.engine import checkpoint
real = checkpoint._sync
checkpoint._sync = lambda path: (time.sleep(0.5), real(path))
sys.argv = ["train.py", *{arguments!r}]
runpy.run_path("train.py", run_name="__main__")
"""


@pytest.mark.slow
def test_on_a_slow_disk_training_goes_on_and_a_run_that_is_stopped_waits(data, straight, tmp_path):
    """A write takes three seconds. Meanwhile two further steps end the epoch, and SIGTERM comes; the run ends when its
    last step is on the disk, and continues to the same bits."""
    arguments = overrides_for(data, tmp_path, "trainer.save_steps=4")
    slow, where = Running([SLOW.format(arguments=arguments)], script="-c"), folder(tmp_path)

    def trained() -> int:
        rows = read_metrics(where) if (where / "metrics.jsonl").exists() else []
        return max((row["step"] for row in rows), default=0)

    wait_for(lambda: trained() >= 6, slow)
    assert (where / "checkpoints/.writing-step_00000004_0000").exists()
    slow.signal(signal.SIGTERM)
    done = slow.wait()
    assert done.returncode == 143, done.stderr[-2000:]
    assert not list((where / "checkpoints").glob(".writing-*"))
    newest = checkpoint.newest(where / "checkpoints")
    assert newest is not None
    assert newest.state["progress"]["step"] == trained() >= 6
    start(data, tmp_path).succeed()
    assert not differences(straight, where)


@pytest.mark.slow
def test_without_validation_a_run_saves_within_epochs_by_time(data, tmp_path):
    """With one split for the test only: by the clock after every step, also if nothing else asks for it."""
    home = without_validation(data, tmp_path / "data")
    changes = (
        "trainer.epochs=1",
        "trainer.save_minutes=0.00001",
        "trainer.keep=9",
        "trainer.keep_finished=all",
    )
    start(home, tmp_path / "out", *changes).succeed()
    names = [path.name for path in Path(folder(tmp_path / "out") / "checkpoints").iterdir()]
    assert sorted(names) == [f"step_{step:08}_0000" for step in range(1, 7)]
