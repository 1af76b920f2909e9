"""Runs that are asked to stop, lose their terminal, or lack something of the machine, against one that was left alone
(disturbed.py says how they train)."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from disturbed import ALL, ONE, disturbed_runs, progress, until_it_moves
from runs import CANNOT_MOUNT, CONTEXT, ROOT, Running, differences, folder, overrides_for, start, wait_for

pytestmark = pytest.mark.slow


@pytest.mark.chaos
def test_asked_to_stop_at_random_moments(spoiled, alone, tmp_path, rounds, tally):
    """Each session saves and ends with 128 + the signal."""
    begin = lambda out: start(spoiled, out, *ONE)  # noqa: E731
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
def test_asked_to_stop_it_saves_and_the_same_command_continues(spoiled, alone, tmp_path, number, code):
    process = start(spoiled, tmp_path, *ONE)
    until_it_moves(process, tmp_path, progress(tmp_path), moves=3)
    process.signal(number)
    done = process.wait()
    assert done.returncode == code, done.stderr[-2000:]
    assert "The same command continues" in done.stderr
    assert "Traceback" not in done.stderr
    start(spoiled, tmp_path, *ONE).succeed()
    assert not differences(alone, folder(tmp_path))


def test_a_time_limit_saves_and_the_same_command_continues(spoiled, alone, tmp_path):
    """After each update of the first epoch and at its end, and then after some at a time."""
    codes = []
    for minutes in [0.0001] * 7 + [0.01] * 23:
        done = start(spoiled, tmp_path, *ONE, f"trainer.max_minutes={minutes}").wait()
        codes.append(done.returncode)
        if done.returncode == 0:
            break
        assert done.returncode == 75, done.stderr[-2000:]
        assert done.stderr.splitlines()[-1].startswith("stopped by trainer.max_minutes")  # no error
        assert "error" not in done.stderr
    assert codes[0] == 75
    start(spoiled, tmp_path, *ONE).succeed()
    assert not differences(alone, folder(tmp_path))


def test_nohup_and_readers_that_leave(spoiled, alone, tmp_path):
    """`nohup train.py 2>&1 | head -1`: the pipe is closed after a line and the terminal too, and the run goes on."""
    command = [sys.executable, "train.py", *overrides_for(spoiled, tmp_path, *ONE)]
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


# --- machines that lack something ----------------------------------------------------------------------------------


def test_an_update_of_which_nothing_can_be_read_stops_the_run(spoiled, tmp_path):
    done = start(spoiled, tmp_path, *ALL, "trainer.batch_size=1", "trainer.micro_batch=1").wait()
    assert done.returncode == 2
    assert "none of the 1 clips of step" in done.stderr


def test_a_small_shared_memory_changes_no_bit(spoiled, alone, tmp_path):
    """A /dev/shm of 160 kB, where Docker has 64 MB: the 9 clips of a validation batch have 138 kB here, beside
    semaphores of 4 kB each."""
    done = Running(overrides_for(spoiled, tmp_path, *ONE), shared_memory="160k").wait()
    if done.returncode == CANNOT_MOUNT:
        pytest.skip("nothing may be mounted here")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "warning: /dev/shm (shared memory) has 0.2 MB free" in done.stdout
    assert "--shm-size" in done.stdout
    assert not done.stderr
    assert not differences(alone, folder(tmp_path))
    full = Running(overrides_for(spoiled, tmp_path / "full", *ONE), shared_memory="4k").wait()
    assert full.returncode == 2
    assert "error: shared memory (/dev/shm): cannot be written (No space left on device)" in full.stderr


def test_without_a_compiler_there_is_one_message(spoiled, tmp_path):
    arguments = overrides_for(spoiled, tmp_path, *ONE, "trainer.compile=true")
    done = Running(arguments, environment={"PATH": str(tmp_path)}).wait()
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: trainer.compile=true: torch.compile needs a compiler, and g++ is not"
    )
    assert len(done.stderr.splitlines()) == 1


def test_a_compiler_that_fails_is_one_message(spoiled, tmp_path):
    arguments = overrides_for(spoiled, tmp_path, *ONE, "trainer.compile=true", "trainer.workers=0")
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
