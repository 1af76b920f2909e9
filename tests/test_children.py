"""Jobs in real processes that hang or take long, and how many processes there are."""

import os
import subprocess
import sys
import time

import pytest

from vmp.machine import cpus, process_peak
from vmp.prepare.children import Lost, in_children, step


def spin(seconds: float) -> None:
    """Use this much CPU time, however busy the machine is."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def work(job: str):
    if job == "sleeps":
        time.sleep(600)
    if job == "spins":
        spin(600)
    if job == "long, in steps":
        for _ in range(6):
            spin(0.2)
            step()
    if job == "a long step that was announced":
        step(needs=60)
        spin(1.2)
    yield os.getpid()


@pytest.mark.slow
def test_jobs_that_make_progress_do_not_count_as_hung():
    """A limit of 0.6 s holds for sleep and for CPU time without a step, but not for a job of twice that in steps."""
    hang, go_on = {"sleeps", "spins"}, {"long, in steps", "a long step that was announced"}
    found = dict(in_children(work, sorted(hang | go_on), timeout=0.6, workers=2))
    assert {job for job, item in found.items() if isinstance(item, Lost)} == hang
    assert all("no progress for" in found[job].reason for job in hang)
    assert set(found) == hang | go_on


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_as_many_processes_as_cpus_that_may_be_used(monkeypatch):
    """One under `taskset -c 0` and under a Slurm that gives one without binding."""
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from vmp.prepare.children import in_children; from test_children import work\n"
        "print(len({pid for _, pid in in_children(work, 'abc')}))"
    )
    command = [sys.executable, "-c", code, os.path.dirname(__file__)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1\n"
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        monkeypatch.setenv(name, "1")
        assert cpus() == 1
        monkeypatch.delenv(name)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_of_a_process_is_not_that_of_the_one_that_started_it():
    held = b"\1" * 300_000_000
    code = "from vmp.machine import process_peak; print(process_peak())"
    peak = float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert 5e6 < peak < len(held) < process_peak()
