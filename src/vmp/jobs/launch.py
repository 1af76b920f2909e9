"""LAUNCH=...: how the runs of a table are started, and running them."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vmp.errors import ConfigError
from vmp.jobs.places import find_devices, local_places
from vmp.jobs.process import JobProcess, python_command
from vmp.jobs.supervisor import Job, ProgressLines, listen_for_signals, run_jobs
from vmp.machine import cpus

CLUSTER_JOBS = 16  # jobs of a Hydra launcher that are submitted at the same time


@dataclass(frozen=True)
class Launch:
    """How to start a run.

    processes: of each run, under torchrun.
    overrides: that choose and set up a Hydra launcher.
    """

    kind: Literal["single", "warm", "torchrun", "hydra"]
    processes: int = 1
    overrides: tuple[str, ...] = ()

    def command(self, script: str, arguments: Sequence[str]) -> list[str]:
        """The command of a run; evaluations run on this machine, in one process."""
        if script != "train.py":
            return python_command(script, arguments)
        if self.kind == "hydra":
            return python_command(script, ["-m", *self.overrides, *arguments])
        return python_command(script, arguments, self.processes)

    def places(self) -> list[dict[str, str]]:
        """Environment variables for each job that runs at the same time."""
        if self.kind == "warm":
            return [{"OMP_NUM_THREADS": "1"}] * cpus()
        if self.kind == "hydra":
            return [{}] * CLUSTER_JOBS
        return local_places(processes=self.processes)


def parse_launch(text: str) -> Launch:
    """Raises:
    ConfigError: LAUNCH is none of the forms that it may have.
    """
    words = shlex.split(text)
    if words and words[0].startswith("hydra/launcher="):
        return Launch("hydra", overrides=tuple(words))
    kind, _, count = text.strip().partition("=")
    if kind == "single" and not count:
        return Launch("single")
    if kind == "warm" and not count:
        return Launch("warm")
    if kind == "torchrun" and (not count or count.isdecimal()):
        processes = int(count) if count else len(find_devices())
        if processes < 1:
            raise ConfigError(
                "LAUNCH=torchrun: found no CUDA device; give the number of processes, as in torchrun=2"
            )
        return Launch("torchrun", processes)
    raise ConfigError(
        f"LAUNCH={text!r}: must be single (one command at a time on each GPU), warm (forked, one per core), "
        "torchrun=N, or 'hydra/launcher=slurm hydra.launcher.partition=NAME' (docs/sweeps.md)"
    )


def run_launched(
    jobs: Sequence[Job],
    launch: Launch,
    root: Path,
    show: Callable[[str], None] = lambda line: print(line, flush=True),
) -> bool:
    """Run the jobs in `root`, a checkout; whether a signal stopped them. A line is shown as each ends, and as the first
    ones begin."""
    progress, ended = ProgressLines(jobs), list[Job]()

    def start(job: Job, place: Mapping[str, str]) -> JobProcess:
        command, warm = launch.command(job.script, job.arguments), launch.kind == "warm"
        return JobProcess(command, output=job.output, cwd=root, place=place, warm=warm)

    def show_change(job: Job) -> None:
        if job.state == "running":
            if not ended:  # else there are lines to see
                show(f"started: {job.label}; its output: {job.output}")
            return
        ended.append(job)
        show(progress.line(job))
        if job.state == "failed":
            show("  {}\n  its output: {}".format(job.message.replace("\n", "\n  "), job.output))

    with listen_for_signals() as requests:
        run_jobs(jobs, launch.places(), start, requests, show_change)
    return bool(requests.signals)


def name_output(logs: Path, folder: Path) -> Path:
    """The file in `logs` for the output of the job whose result goes to `folder`."""
    name = "".join(c if c.isalnum() or c in "-_.=" else "-" for c in str(folder))
    return logs / f"{name[-180:].strip('-')}.txt"
