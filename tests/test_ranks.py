"""Which process of a run this is, from the variables of torchrun, Slurm and MPI."""

import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from runs import ROOT, bright_or_dark, overrides_for

from vmp.engine import dist
from vmp.errors import ConfigError, RunError
from vmp.ranks import MPI, first_host, read_rank
from vmp.runs.score import loader_workers

SRUN = {  # of a task of `srun -N2 --ntasks-per-node=2`
    "SLURM_JOB_ID": "1234",
    "SLURM_STEP_ID": "0",
    "SLURM_JOB_NODELIST": "gpu[003-004]",
    "SLURM_STEP_NODELIST": "gpu[003-004]",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "1",
}
SBATCH = {  # of the script of a batch job of 4 tasks, which runs once
    "SLURM_JOB_ID": "1234",
    "SLURM_JOB_NODELIST": "gpu003",
    "SLURM_NNODES": "1",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


def rank_of(env):
    found = read_rank(env)
    return (
        found.starter,
        found.rank,
        found.world,
        found.local,
        found.local_world,
        found.address,
        found.certain,
    )


def test_each_starter_gives_a_process_its_rank():
    assert rank_of({}) == ("", 0, 1, 0, 1, None, True)
    assert rank_of(SRUN) == ("Slurm", 3, 4, 1, 2, "gpu003", True)
    one_node = SRUN | {"SLURM_STEP_NUM_NODES": "1", "SLURM_NODEID": "0", "SLURM_LOCALID": "3"}
    assert rank_of(one_node) == ("Slurm", 3, 4, 3, 4, "127.0.0.1", True)
    uneven = SRUN | {"SLURM_STEP_TASKS_PER_NODE": "3,1", "SLURM_LOCALID": "0"}
    assert rank_of(uneven) == ("Slurm", 3, 4, 0, 1, "gpu003", True)
    assert rank_of(SBATCH) == ("Slurm", 0, 4, 0, 4, "127.0.0.1", False)
    assert rank_of(SBATCH | {"SLURM_NTASKS": "1"})[:3] == ("", 0, 1)
    interactive = SBATCH | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_ID": "4294967290"}
    assert rank_of(interactive)[:3] == ("", 0, 1)  # salloc's shell, srun --pty bash
    assert rank_of({k: v for k, v in SBATCH.items() if k != "SLURM_PROCID"})[:3] == ("", 0, 1)  # old salloc
    assert rank_of(SRUN | TORCHRUN) == ("torchrun", 1, 2, 1, 2, None, True)  # srun torchrun
    assert rank_of(SRUN | {"WORLD_SIZE": "1", "RANK": "0"})[:3] == ("", 0, 1)
    mpi = {
        f"OMPI_COMM_WORLD_{k}": v
        for k, v in zip(("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"), "1212", strict=True)
    }
    in_script = rank_of(SBATCH | mpi)  # mpirun in the script of a batch job
    assert in_script == ("Open MPI", 1, 2, 1, 2, "127.0.0.1", True)
    assert read_rank(SRUN).port == read_rank(SRUN | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}).port
    assert read_rank(SRUN).port != read_rank(SRUN | {"SLURM_JOB_ID": "1235"}).port
    assert read_rank(SRUN | {"MASTER_PORT": "29500", "MASTER_ADDR": "ib0"}).address == "ib0"


@pytest.mark.parametrize(
    ("env", "said"),
    [
        (SRUN | {"SLURM_PROCID": "4"}, "process 4 of 4"),
        (SRUN | {"SLURM_PROCID": "x"}, "SLURM_PROCID = 'x'"),
        (SRUN | {"SLURM_STEP_NODELIST": "", "SLURM_JOB_NODELIST": ""}, "set MASTER_ADDR"),
        (dict.fromkeys(MPI["MPICH"], "1") | {"PMI_SIZE": "2", "PMI_RANK": "0"}, "MASTER_ADDR"),
    ],
)
def test_contradicting_variables_are_refused(env, said):
    with pytest.raises(ConfigError, match=said):
        read_rank(env)


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("node1,node2", "node1"),
        ("gpu[003-007,9],login1", "gpu003"),
        ("a-[12,14-15]-ib,b", "a-12-ib"),
        ("rack-3.gpu4", "rack-3.gpu4"),
        ("", ""),
    ],
)
def test_the_first_host_of_a_slurm_list(nodes, host):
    assert first_host(nodes) == host


@pytest.mark.slow
def test_a_job_of_several_tasks_without_srun_says_what_to_do(monkeypatch):
    for name, value in SBATCH.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(dist, "TIMEOUT_IF_UNCERTAIN", timedelta(seconds=1))
    with pytest.raises(
        RunError, match=r"(?s)process 0 of 4; the processes did not find each other.*srun python train\.py"
    ):
        dist.start("cpu")


def test_one_device_for_two_processes_is_refused(monkeypatch):
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    with pytest.raises(ConfigError, match=r"cuda:0: names one device for 2 processes"):
        dist.start("cuda:0")


@pytest.mark.parametrize(
    ("started", "loaders"),
    [
        ({}, 8),
        (TORCHRUN, 5),  # half of 12
        (SRUN, 5),
        (SRUN | {"SLURM_CPUS_PER_TASK": "4"}, 3),  # each task has four
        (TORCHRUN | {"SLURM_CPUS_PER_TASK": "8"}, 3),  # torchrun's two processes are in one task
        (TORCHRUN | {"SLURM_CPUS_PER_TASK": "1"}, 1),
    ],
)
def test_loader_processes_follow_from_the_share_of_the_cpus(started, loaders, monkeypatch):
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(12)), raising=False)
    monkeypatch.setattr("os.process_cpu_count", lambda: 12, raising=False)
    assert loader_workers(None) == loaders
    assert loader_workers(2) == 2


# --- the batch script of docs/several_devices.md -------------------------------------------------------------------

SRUN_HERE = """#!{python}
'''A stand-in for srun: two tasks on this machine, and SIGUSR1 to both once they train; the highest exit code.'''
import os, signal, subprocess, sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from runs import started_by
tasks = [
    subprocess.Popen(sys.argv[1:], env=os.environ | {{"OMP_NUM_THREADS": "1", **started_by("srun", rank, 2, {port})}})
    for rank in range(2)
]
while not any(file.read_text().count("\\n") > 3 for file in Path({out!r}).rglob("metrics.jsonl")):
    if any(task.poll() is not None for task in tasks):
        break
    time.sleep(0.05)
for task in tasks:
    task.send_signal(signal.SIGUSR1)
sys.exit(max(task.wait() for task in tasks))
"""


@pytest.mark.slow
def test_the_batch_script_of_the_page_stops_in_time_and_queues_its_job_again(tmp_path):
    page = (ROOT / "docs" / "several_devices.md").read_text(encoding="utf-8")
    script = page.partition("```bash\n")[2].partition("```")[0]
    assert script.startswith("#!/bin/bash\n#SBATCH ")
    if not (ROOT / ".venv/bin/activate").exists():
        script = script.replace("source .venv/bin/activate\n", "")
    bin, out = tmp_path / "bin", tmp_path / "out"
    bin.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    srun = SRUN_HERE.format(python=sys.executable, tests=str(ROOT / "tests"), out=str(out), port=port)
    for name, text in (("srun", srun), ("scontrol", f'#!/bin/bash\necho "$@" > {tmp_path}/asked\n')):
        (bin / name).write_text(text)
        (bin / name).chmod(0o755)
    data = bright_or_dark(tmp_path / "data")
    done = subprocess.run(
        ["bash", "-c", script, "train.sh", *overrides_for(data, out, "trainer.epochs=200")],
        cwd=ROOT,
        env={
            **os.environ,
            "SLURM_JOB_ID": "42",
            "PATH": f"{bin}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 138, done.stdout + done.stderr
    assert (tmp_path / "asked").read_text() == "requeue 42\n"
    assert list(out.rglob("step_*"))
