"""Runs that are killed, stopped, and started again with the same command, against one that was left alone.

All with random crops and jitter, dropout, momentum, warm-up, accumulation, loader processes and an unreadable video;
saved after every step, so that kills hit steps, saves, evaluations, starts and ends alike.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import (
    CANNOT_MOUNT,
    CONTEXT,
    ROOT,
    Running,
    differences,
    folder,
    overrides_for,
    start,
    start_ranks,
    wait_for,
)

from vmp.runs.records import read_metrics

pytestmark = pytest.mark.slow

ALL = (
    "trainer.micro_batch=2",
    "trainer.save_steps=1",
    "trainer.epochs=2",
    "backbone.dropout=0.3",
    "data.max_bad_fraction=0.1",
    "trainer.log_every=4",  # rows that count the clips of several steps, and kills between them
    "train.precise_bn=6",
    "trainer.keep_finished=all",  # copies of finished runs are taken back to before their end
)
ONE = (*ALL, "trainer.workers=1")
TWO = (*ALL, "trainer.micro_batch=1")


@pytest.fixture(scope="module")
def data(data, tmp_path_factory):
    """With a video that cannot be read."""
    home = tmp_path_factory.mktemp("spoiled") / "data"
    shutil.copytree(data, home)
    (home / "train/003.mp4").write_bytes(b"not a video any more")
    return home


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """An undisturbed run of one process: 12 updates in 2 epochs."""
    out = tmp_path_factory.mktemp("alone")
    start(data, out, *ONE).succeed()
    return folder(out)


@pytest.fixture(scope="module")
def pair(data, tmp_path_factory):
    """An undisturbed run of two processes."""
    out = tmp_path_factory.mktemp("pair")
    start_ranks(data, out, *TWO, ranks=2).succeed()
    return folder(out)


def progress(out: Path) -> tuple[str, int]:
    """Of a run in its folder: it changes with every row and every save."""
    where = folder(out)
    names = [path.name for path in (where / "checkpoints").glob("*")] if where.exists() else []
    metrics = where / "metrics.jsonl"
    return max(names, default=""), metrics.stat().st_size if metrics.exists() else 0


def until_it_moves(process, out: Path, before: tuple[str, int], *, moves: int) -> None:
    began = time.monotonic()
    while moves and not process.over():
        assert time.monotonic() - began < 120, "no progress"
        now = progress(out)
        if now != before:
            before, moves = now, moves - 1
        time.sleep(0.001)


def disturbed(
    begin, out: Path, rng: random.Random, fault, *, numbers: tuple[int, ...], at_most: int = 80
) -> int:
    """Start, let it move on by some rows or saves, hit it a moment later, again until it ends; returns hits.

    A hit is survived when the next start did what it should.
    """
    hits = 0
    for _ in range(at_most):
        before = progress(out)
        process = begin()
        until_it_moves(process, out, before, moves=rng.choice((0, 2, 4, 6, 9)))
        number = rng.choice(numbers)
        while (
            number != signal.SIGKILL and not process.over() and not (process.said / "stdout").stat().st_size
        ):
            time.sleep(0.001)  # in the first imports Ctrl-C is Python's, not train.py's
        time.sleep(rng.random() * rng.choice((0.002, 0.02, 0.2)))
        if not process.over():
            process.signal(number)
        done = process.wait()
        codes = set()
        for one in done if isinstance(done, list) else [done]:
            codes.add(one.returncode)
            allowed = {0, -signal.SIGKILL} if number == signal.SIGKILL else {0, 128 + number, -number}
            assert one.returncode in allowed, one.stderr[-3000:]
        fault.survives(fault.row[1] - fault.row[2])  # what was hit before went on until now
        if codes != {0}:
            fault.tries()
            hits += 1
        if (folder(out) / "result.json").exists():
            fault.survives(fault.row[1] - fault.row[2])
            return hits
    raise AssertionError(f"not done after {at_most} starts")


def disturbed_runs(
    begin, left_alone: Path, home: Path, fault, *, runs: int, seed: int, least: int, numbers=(signal.SIGKILL,)
):
    """Several runs, each disturbed until it ends: (hits, what is not as in the run that was left alone). On a fast
    machine a run may end before it is hit: then there are up to five more, until there were `least` hits."""
    hits, wrong = 0, []
    for number in range(runs + 5):
        if number >= runs and hits >= least:
            break
        out = home / str(number)
        rng = random.Random(seed + number)
        hits += disturbed(lambda out=out: begin(out), out, rng, fault, numbers=numbers)
        found = differences(left_alone, folder(out))
        fault.differs(len(found))
        wrong += found
    return hits, wrong


@pytest.mark.chaos
def test_one_process_killed_at_random_moments(data, alone, tmp_path, rounds, tally):
    begin = lambda out: start(data, out, *ONE)  # noqa: E731
    fault = tally("SIGKILL at a random moment, one process")
    kills, wrong = disturbed_runs(begin, alone, tmp_path, fault, runs=rounds, seed=0, least=3 * rounds)
    assert kills >= 3 * rounds
    assert not wrong


@pytest.mark.chaos
def test_two_processes_killed_at_random_moments(data, pair, tmp_path, rounds, tally):
    begin = lambda out: start_ranks(data, out, *TWO, ranks=2)  # noqa: E731
    fault = tally("SIGKILL at a random moment, two processes")
    kills, wrong = disturbed_runs(begin, pair, tmp_path, fault, runs=max(1, rounds // 2), seed=100, least=2)
    assert kills >= 2
    assert not wrong


@pytest.mark.chaos
@pytest.mark.parametrize("lost", [0, 1])
def test_when_one_of_two_processes_is_killed_the_other_ends_too(data, pair, tmp_path, lost, tally):
    """Without torchrun, which would end it: it says so and exits; nothing hangs, and both go on with the same bits."""
    ranks = start_ranks(data, tmp_path, *TWO, ranks=2)
    until_it_moves(ranks, tmp_path, progress(tmp_path), moves=4)
    fault = tally("SIGKILL of one of two processes")
    fault.tries()
    ranks.running[lost].signal(signal.SIGKILL)
    left = ranks.running[1 - lost].wait()
    ranks.running[lost].wait()
    assert left.returncode == 2, left.stderr[-2000:]
    assert "another process of this run died" in left.stderr
    start_ranks(data, tmp_path, *TWO, ranks=2).succeed()
    fault.survives()
    wrong = differences(pair, folder(tmp_path))
    fault.differs(len(wrong))
    assert not wrong


def test_sixteen_processes_lose_one_and_go_on(data, tmp_path):
    """As on two machines with eight GPUs: one clip each, more processes than there are clips to validate on, and a
    clip that cannot be read. One is killed, fifteen say so and end, and the same command goes on."""
    more = (*TWO, "trainer.batch_size=16", "trainer.epochs=4")
    ranks, where = start_ranks(data, tmp_path, *more, ranks=16), folder(tmp_path)
    wait_for(lambda: len(list((where / "checkpoints").glob("step_*"))) >= 2, ranks)
    ranks.running[7].signal(signal.SIGKILL)
    done = ranks.wait(200)
    assert done.pop(7).returncode == -signal.SIGKILL
    assert {one.returncode for one in done} == {2}, done[0].stderr[-2000:]
    assert all("another process of this run died" in one.stderr for one in done)
    done = start_ranks(data, tmp_path, *more, ranks=16).wait(200)
    assert {one.returncode for one in done} == {0}, done[0].stderr[-2000:]
    assert "continuing from step_" in done[0].stdout
    assert [row["step"] for row in read_metrics(where) if row["kind"] == "val"] == [1, 2, 3, 4]
    scored = (where / "predictions.csv").read_text().splitlines()[1:]
    assert [line.partition(",")[0] for line in scored] == [f"val/{number}" for number in range(9)]


def contents(home: Path) -> dict[str, bytes]:
    """Of the files of a run that a start must not touch; a start may append to log.txt, and takes the lock."""
    return {
        str(path.relative_to(home)): path.read_bytes()
        for path in home.rglob("*")
        if path.is_file() and path.name not in ("log.txt", ".lock")
    }


def copied(out: Path, to: Path, *, newest: str) -> Path:
    """A run as a disk shows it to another machine: its newest checkpoint is missing or damaged, or all of it is."""
    if newest == "nothing at all":
        to.mkdir()
        return to
    shutil.copytree(out, to)
    (*_, last) = sorted((folder(to) / "checkpoints").glob("step_*"))
    if newest == "missing":
        shutil.rmtree(last)
    else:
        content = bytearray((last / "state.pt").read_bytes())
        content[len(content) // 2] ^= 1
        (last / "state.pt").write_bytes(content)
    return to


@pytest.mark.chaos
def test_processes_that_find_different_checkpoints_stop_and_overwrite_nothing(data, pair, tmp_path, tally):
    """Each of two processes in turn has a folder of its own that lacks what the other sees. When both see the same
    folder again, the run ends with the same bits."""
    out = tmp_path / "out"
    ranks = start_ranks(data, out, *TWO, ranks=2)
    until_it_moves(ranks, out, progress(out), moves=5)
    ranks.signal(signal.SIGTERM)
    assert {done.returncode for done in ranks.wait()} == {143}
    (*_, last) = sorted((folder(out) / "checkpoints").glob("step_*"))
    # a first process that finds its newest damaged goes back to the one before, as a single process does
    misses = [(0, "missing"), (1, "damaged"), (1, "nothing at all")]
    fault = tally("processes that see different checkpoints")
    for number, (rank, newest) in enumerate(misses):
        other = copied(out, tmp_path / str(number), newest=newest)
        own = [[f"output='{out}'"], [f"output='{out}'"]]
        own[rank] = [f"output='{other}'"]
        before = contents(out), contents(other)
        fault.tries()
        for done in start_ranks(data, out, *TWO, ranks=2, own=own).wait():
            assert done.returncode == 2, (rank, newest, done.stderr[-2000:])
            assert "do not find the same checkpoint; nothing was trained or overwritten" in done.stderr
            assert f"{last.name}, step {int(last.name.split('_')[1])}, digest" in done.stderr or rank == 0
            assert last.name in done.stderr
            assert "`output` must be one folder that every machine sees" in done.stderr
        assert (contents(out), contents(other)) == before, (rank, newest)
        fault.survives()
    start_ranks(data, out, *TWO, ranks=2).succeed()
    wrong = differences(pair, folder(out))
    fault.differs(len(wrong))
    assert not wrong
    # a finished run: the first process knows
    own = [[f"output='{out}'"], [f"output='{tmp_path / 'none'}'"]]
    start_ranks(data, out, *TWO, ranks=2, own=own).succeed()


def test_srun_starts_one_run_as_torchrun_does(data, pair, tmp_path):
    first, second = start_ranks(data, tmp_path, *TWO, ranks=2, starter="srun").wait()
    assert (first.returncode, second.returncode) == (0, 0), first.stderr[-2000:] + second.stderr[-2000:]
    assert "Slurm started 2 processes" in first.stdout
    assert not differences(pair, folder(tmp_path))


def test_processes_with_other_clips_or_settings_stop_before_the_first_step(data, tmp_path):
    other = tmp_path / "data"
    shutil.copytree(data, other)
    (other / "train/005.mp4").unlink()
    own = [["optim.lr=0.05"], [f"dataset.folder='{other}'", "optim.lr=0.06"]]
    for done in start_ranks(data, tmp_path / "out", *TWO, ranks=2, own=own).wait():
        assert done.returncode == 2, done.stderr[-2000:]
        assert "optim.lr: 0.05 -> 0.06 (process 0 -> process 1)" in done.stderr
        assert "the clips of train are not those of process 0" in done.stderr
    assert not (folder(tmp_path / "out") / "config.yaml").exists()


@pytest.mark.chaos
def test_asked_to_stop_at_random_moments(data, alone, tmp_path, rounds, tally):
    """Each session saves and ends with 128 + the signal."""
    begin = lambda out: start(data, out, *ONE)  # noqa: E731
    asks = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
    runs = max(1, rounds // 2)
    fault = tally("SIGTERM, SIGINT, SIGUSR1, SIGHUP at a random moment")
    hits, wrong = disturbed_runs(begin, alone, tmp_path, fault, runs=runs, seed=200, least=2, numbers=asks)
    assert hits >= 2
    assert not wrong


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        (signal.SIGHUP, 129),
        (signal.SIGINT, 130),
    ],
)
def test_asked_to_stop_it_saves_and_the_same_command_continues(data, alone, tmp_path, number, code):
    process = start(data, tmp_path, *ONE)
    until_it_moves(process, tmp_path, progress(tmp_path), moves=3)
    process.signal(number)
    done = process.wait()
    assert done.returncode == code, done.stderr[-2000:]
    assert "The same command continues" in done.stderr
    assert "Traceback" not in done.stderr
    start(data, tmp_path, *ONE).succeed()
    assert not differences(alone, folder(tmp_path))


def test_a_time_limit_saves_and_the_same_command_continues(data, alone, tmp_path):
    """After each update of the first epoch and at its end, and then after some at a time."""
    codes = []
    for minutes in [0.0001] * 7 + [0.01] * 23:
        done = start(data, tmp_path, *ONE, f"trainer.max_minutes={minutes}").wait()
        codes.append(done.returncode)
        if done.returncode == 0:
            break
        assert done.returncode == 75, done.stderr[-2000:]
        assert done.stderr.splitlines()[-1].startswith("stopped by trainer.max_minutes")  # no error
        assert "error" not in done.stderr
    assert codes[0] == 75
    start(data, tmp_path, *ONE).succeed()
    assert not differences(alone, folder(tmp_path))


def test_a_process_whose_portion_cannot_be_read_takes_part_with_nothing(data, tmp_path):
    """Two processes of one clip each, and one clip is unreadable. At λ = 0 training has no variation to log, and the
    blank clip, which is looked at as in testing, must not bring one."""
    plain = ("trainer.batch_size=2", "trainer.epochs=2", "trainer.log_every=1", "vmp.lambda=0")
    start_ranks(data, tmp_path, *TWO, *plain, ranks=2).succeed()
    where = folder(tmp_path, "learned_lambda0")
    assert list(json.loads((where / "result.json").read_text())["unreadable_in_training"]) == ["train/3"]
    training = [row for row in read_metrics(where) if row["kind"] == "train"]
    assert len(training) == 24
    assert not any("train/variation" in row for row in training)


def test_an_update_of_which_nothing_can_be_read_stops_the_run(data, tmp_path):
    done = start(data, tmp_path, *ALL, "trainer.batch_size=1", "trainer.micro_batch=1").wait()
    assert done.returncode == 2
    assert "none of the 1 clips of step" in done.stderr


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


@pytest.mark.chaos
def test_damaged_checkpoints(data, alone, tmp_path, rounds, tally):
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
        done = start(data, out, *ONE).succeed()
        assert f"{newest.name}/{file.name}: damaged" in done.stdout + done.stderr
        fault.survives()
        found = differences(alone, folder(out))
        fault.differs(len(found))
        wrong += found
    assert not wrong


# --- machines that lack something ----------------------------------------------------------------------------------


def test_a_small_shared_memory_changes_no_bit(data, alone, tmp_path):
    """A /dev/shm of 160 kB, where Docker has 64 MB: the 9 clips of a validation batch have 138 kB here, beside
    semaphores of 4 kB each."""
    done = Running(overrides_for(data, tmp_path, *ONE), shared_memory="160k").wait()
    if done.returncode == CANNOT_MOUNT:
        pytest.skip("nothing may be mounted here")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "warning: /dev/shm (shared memory) has 0.2 MB free" in done.stdout
    assert "--shm-size" in done.stdout
    assert not done.stderr
    assert not differences(alone, folder(tmp_path))
    full = Running(overrides_for(data, tmp_path / "full", *ONE), shared_memory="4k").wait()
    assert full.returncode == 2
    assert "error: shared memory (/dev/shm): cannot be written (No space left on device)" in full.stderr


def test_without_a_compiler_there_is_one_message(data, tmp_path):
    arguments = overrides_for(data, tmp_path, *ONE, "trainer.compile=true")
    done = Running(arguments, environment={"PATH": str(tmp_path)}).wait()
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: trainer.compile=true: torch.compile needs a compiler, and g++ is not"
    )
    assert len(done.stderr.splitlines()) == 1


def test_a_compiler_that_fails_is_one_message(data, tmp_path):
    arguments = overrides_for(data, tmp_path, *ONE, "trainer.compile=true", "trainer.workers=0")
    done = subprocess.run(
        [sys.executable, "train.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "CXX": "false", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 2
    (at,) = [n for n, line in enumerate(done.stderr.splitlines()) if line.startswith("error: ")]
    assert "torch.compile failed: InvalidCxxCompiler" in done.stderr.splitlines()[at]
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 6


def _spare_a_child() -> None:
    import subprocess

    from vmp.engine.stopping import Stopping, block_stop_signals

    os.setsid()
    with Stopping() as stopping:
        with block_stop_signals():
            child = subprocess.Popen(["sleep", "60"])
            os.killpg(0, signal.SIGTERM)
        noted, lives = stopping.code, child.poll() is None
        child.kill()
    os._exit(0 if (noted, lives) == (143, True) else 1)


def test_a_compiler_outlives_a_signal_to_its_group():
    """torch.compile starts compilers in the run's group, which a terminal and Slurm signal as a whole."""
    child = CONTEXT.Process(target=_spare_a_child)
    child.start()
    child.join(60)
    assert child.exitcode == 0


def _hear_signals(file: Path, pause: float) -> None:
    from vmp.engine.stopping import Stopping

    with Stopping() as stopping:
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
            os.kill(os.getpid(), number)
        file.write_text(str(stopping.code))
        time.sleep(pause)
        os.kill(os.getpid(), signal.SIGTERM)
        file.write_text("still here")


def test_signals_at_once_are_one_request_and_a_later_one_ends_the_run(tmp_path):
    """Slurm signals a sweep and its runs, and the sweep then asks them as well."""
    from vmp.engine.stopping import TOGETHER

    child = CONTEXT.Process(target=_hear_signals, args=(tmp_path / "code", TOGETHER + 0.2))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGTERM
    assert (tmp_path / "code").read_text() == "138"


# --- the same from everywhere ----------------------------------------------------------------------------------------

STEADY = (  # no batch statistics, which follow the clips of a process, and no dropout, which is drawn by process
    "backbone=timesformer",
    "~backbone.width",
    "backbone.weights=none",
    "backbone.patch=16",
    "backbone.dim=24",
    "backbone.depth=2",
    "backbone.heads=2",
    "backbone.stride=1",
    "backbone.dropout=0",
    "backbone.drop_path=0",
    "trainer.views=1x1",
    "trainer.epochs=3",
)


def small_transformer(data: Path, out: Path, *more: str) -> list[str]:
    overrides = [o for o in overrides_for(data, out, *STEADY, *more) if not o.startswith("backbone.width")]
    return [o for o in overrides if o != "~backbone.width"]


def test_one_two_and_four_processes_have_the_same_losses(data, tmp_path):
    from runs import Ranks, Running

    curves = []
    for world in (1, 2, 4):
        arguments = small_transformer(
            data, tmp_path / str(world), "data.max_bad_fraction=0.1", "trainer.micro_batch=1"
        )
        done = Running(arguments).wait() if world == 1 else Ranks(arguments, ranks=world).wait(240)
        for one in done if isinstance(done, list) else [done]:
            assert one.returncode == 0, one.stderr[-3000:]
        (metrics,) = (tmp_path / str(world)).rglob("metrics.jsonl")
        curves.append([row["train/loss"] for row in read_metrics(metrics.parent) if row["kind"] == "train"])
    assert len(curves[0]) == 18
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], rel=1e-4)


def test_nohup_and_readers_that_leave(data, alone, tmp_path):
    """`nohup train.py 2>&1 | head -1`: the pipe is closed after a line and the terminal too, and the run goes on."""
    command = [sys.executable, "train.py", *overrides_for(data, tmp_path, *ONE)]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert process.stdout
    assert process.stdout.readline()
    process.stdout.close()
    wait_for(lambda: progress(tmp_path)[1], process)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=200) == 0
    assert not differences(alone, folder(tmp_path))


def test_a_run_that_goes_on_with_more_processes_says_so(data, tmp_path):
    """The clips of a step stay the same; the change is warned of, and kept in the result."""
    done = start(data, tmp_path, *TWO, "trainer.max_minutes=0.0001").wait()
    assert done.returncode == 75, done.stderr[-2000:]
    first, _ = start_ranks(data, tmp_path, *TWO, ranks=2).wait()
    assert first.returncode == 0, first.stderr[-2000:]
    assert "processes 1 -> 2" in first.stdout
    result = json.loads((folder(tmp_path) / "result.json").read_text())
    assert [session["processes"] for session in result["sessions"]] == [1, 2]
    assert result["sessions"][1]["step"] > 0
    assert {session["commit"] for session in result["sessions"]} == {result["commit"]}
