"""Runs that are killed, or whose newest checkpoint is damaged, and started again with the same command, against one
that was left alone (disturbed.py says how they train)."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from disturbed import ONE, TWO, disturbed_runs, progress, until_it_moves
from runs import CONTEXT, differences, folder, start, start_ranks, wait_for

from vmp.runs.records import read_metrics

pytestmark = pytest.mark.slow


@pytest.mark.chaos
def test_one_process_killed_at_random_moments(spoiled, alone, tmp_path, rounds, tally):
    begin = lambda out: start(spoiled, out, *ONE)  # noqa: E731
    fault = tally("SIGKILL at a random moment, one process")
    kills, wrong = disturbed_runs(begin, alone, tmp_path, fault, runs=rounds, seed=0, least=3 * rounds)
    assert kills >= 3 * rounds
    assert not wrong


@pytest.mark.chaos
def test_two_processes_killed_at_random_moments(spoiled, pair, tmp_path, rounds, tally):
    begin = lambda out: start_ranks(spoiled, out, *TWO, ranks=2)  # noqa: E731
    fault = tally("SIGKILL at a random moment, two processes")
    kills, wrong = disturbed_runs(begin, pair, tmp_path, fault, runs=max(1, rounds // 2), seed=100, least=2)
    assert kills >= 2
    assert not wrong


@pytest.mark.chaos
@pytest.mark.parametrize("lost", [0, 1])
def test_when_one_of_two_processes_is_killed_the_other_ends_too(spoiled, pair, tmp_path, lost, tally):
    """Without torchrun, which would end it: it says so and exits; nothing hangs, and both go on with the same bits."""
    ranks = start_ranks(spoiled, tmp_path, *TWO, ranks=2)
    until_it_moves(ranks, tmp_path, progress(tmp_path), moves=4)
    fault = tally("SIGKILL of one of two processes")
    fault.tries()
    ranks.running[lost].signal(signal.SIGKILL)
    left = ranks.running[1 - lost].wait()
    ranks.running[lost].wait()
    assert left.returncode == 2, left.stderr[-2000:]
    assert "another process of this run died" in left.stderr
    start_ranks(spoiled, tmp_path, *TWO, ranks=2).succeed()
    fault.survives()
    wrong = differences(pair, folder(tmp_path))
    fault.differs(len(wrong))
    assert not wrong


def test_sixteen_processes_lose_one_and_go_on(spoiled, tmp_path):
    """As on two machines with eight GPUs: one clip each, more processes than there are clips to validate on, and a
    clip that cannot be read. One is killed, fifteen say so and end, and the same command goes on."""
    more = (*TWO, "trainer.batch_size=16", "trainer.epochs=4")
    ranks, where = start_ranks(spoiled, tmp_path, *more, ranks=16), folder(tmp_path)
    wait_for(lambda: len(list((where / "checkpoints").glob("step_*"))) >= 2, ranks)
    ranks.running[7].signal(signal.SIGKILL)
    done = ranks.wait(200)
    assert done.pop(7).returncode == -signal.SIGKILL
    assert {one.returncode for one in done} == {2}, done[0].stderr[-2000:]
    assert all("another process of this run died" in one.stderr for one in done)
    done = start_ranks(spoiled, tmp_path, *more, ranks=16).wait(200)
    assert {one.returncode for one in done} == {0}, done[0].stderr[-2000:]
    assert "continuing from step_" in done[0].stdout
    assert [row["step"] for row in read_metrics(where) if row["kind"] == "val"] == [1, 2, 3, 4]
    scored = (where / "predictions.csv").read_text().splitlines()[1:]
    assert [line.partition(",")[0] for line in scored] == [f"val/{number}" for number in range(9)]


@pytest.mark.chaos
def test_damaged_checkpoints(spoiled, alone, tmp_path, rounds, tally):
    """The newest is cut, flipped or zeroed: it is named, the one before is taken, and the run ends the same."""
    fault, rng, wrong = tally("newest checkpoint damaged"), np.random.default_rng(0), []
    for trial in range(3 * rounds):
        fault.tries()
        out = tmp_path / str(trial)
        shutil.copytree(alone, folder(out))
        (folder(out) / "result.json").unlink()
        newest = max((folder(out) / "checkpoints").glob("step_*"))
        file = newest / ("model.safetensors", "optimizer.pt", "state.pt")[trial % 3]
        content = bytearray(file.read_bytes())
        at = int(rng.integers(len(content)))
        how = (trial + trial // 3) % 3
        if how == 0:
            content = content[:at]
        elif how == 1:
            content[at] ^= 1 << int(rng.integers(8))
        else:
            content[at : at + 4096] = bytes(len(content[at : at + 4096])) or b"x"
            content[at] ^= 255
        file.write_bytes(content)
        done = start(spoiled, out, *ONE).succeed()
        assert f"{newest.name}/{file.name}: damaged" in done.stdout + done.stderr
        fault.survives()
        found = differences(alone, folder(out))
        fault.differs(len(found))
        wrong += found
    assert not wrong


# --- inside a save -------------------------------------------------------------------------------------------------

CALLS = ("fsync", "rename", "replace", "open", "mkdir", "rmdir", "unlink", "link")


def _save_and_die(where: str, at: int) -> None:
    """Save step 2 over step 1, before and after a validation, and prune; be killed just before or after the at-th
    call to the file system."""
    import torch

    from vmp.engine import checkpoint

    calls = 0

    def deadly(real):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == at and at % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return real(*args, **kwargs)
            finally:  # also of a call that fails
                if calls == at:
                    os.kill(os.getpid(), signal.SIGKILL)

        return call

    for name in CALLS:
        setattr(os, name, deadly(getattr(os, name)))
    tensors: Any = {"a": torch.full((600,), 2.0)}
    for evaluated in range(2):
        name, state = f"step_00000002_{evaluated:04}", {"progress": {"step": 2}}
        tensors = checkpoint.save(Path(where), name, model=tensors, optimizer=tensors, state=state)
        checkpoint.prune(Path(where), keep=1)
    os._exit(0)


@pytest.mark.chaos
def test_killed_inside_every_part_of_a_save(tmp_path, tally):
    """Whatever was whole before is whole afterwards, and what is left of the rest is removed at the next save."""
    import torch

    from vmp.engine import checkpoint

    fault, finished, at = tally("SIGKILL inside a checkpoint's write"), False, 0
    while not finished:
        at += 1
        where = tmp_path / str(at)
        state = {"progress": {"step": 1}}
        tensors = {"a": torch.full((600,), 1.0)}
        checkpoint.save(where, "step_00000001", model=tensors, optimizer=tensors, state=state)
        child = CONTEXT.Process(target=_save_and_die, args=(str(where), at))
        child.start()
        child.join(60)
        finished = child.exitcode == 0
        assert finished or child.exitcode == -signal.SIGKILL
        fault.tries(not finished)
        complaints: list[str] = []
        found = checkpoint.newest(where, warn=complaints.append)
        assert found is not None
        assert not complaints
        assert float(found.model["a"][0]) == found.state["progress"]["step"]
        assert torch.equal(found.state["optimizer"]["a"], found.model["a"])
        checkpoint.save(where, "step_00000009", model={"a": torch.ones(1)}, state={})
        checkpoint.prune(where, keep=1)
        assert [path.name for path in where.iterdir()] == ["step_00000009"]
        fault.survives(not finished)
    assert at > 35
