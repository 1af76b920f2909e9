"""Many runs one after another or side by side, each in a process of its own, those that others start from first.

Notable here:
- a job is a command that a person could type; no shell reads it;
- "warm" forks the processes from one that has paid for the imports (seconds each), for many small runs;
- Ctrl-C and SIGTERM let the running jobs save and start no others; a second one ends them.
"""

import multiprocessing
import os
import runpy
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmp.errors import ConfigError
from vmp.jobs.sweep import environment, find_devices, slots
from vmp.machine import cpus

POLL = 0.1  # seconds
CLUSTER_JOBS = 16  # of a Hydra launcher that wait at a time


@dataclass(frozen=True)
class Job:
    """script: train.py or evaluate.py. needs: keys of jobs to be done before. done: whether its result is there."""

    key: str
    label: str
    script: str
    arguments: tuple[str, ...]
    done: Callable[[], bool]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class How:
    """kind: "single", "warm", "torchrun" or "hydra". words: overrides that choose a Hydra launcher."""

    kind: str
    processes: int = 1
    words: tuple[str, ...] = ()

    def command(self, job: Job) -> list[str]:
        """What is run for a job; evaluations run here, in one process."""
        if job.script == "train.py" and self.kind == "torchrun":
            torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={self.processes}"]
            return [sys.executable, *torchrun, job.script, *job.arguments]
        if job.script == "train.py" and self.kind == "hydra":
            return [sys.executable, job.script, "-m", *self.words, *job.arguments]
        return [sys.executable, job.script, *job.arguments]

    def places(self) -> list[Mapping[str, str]]:
        """Environment variables of the jobs that run at a time."""
        if self.kind == "warm":
            return [{"OMP_NUM_THREADS": "1"}] * cpus()
        if self.kind == "hydra":
            return [{}] * CLUSTER_JOBS
        return list(slots(find_devices(), self.processes, None))


def parse_launch(text: str) -> How:
    """Raises:
    ConfigError: it is none of what LAUNCH may be.
    """
    words = shlex.split(text)
    if words and words[0].startswith("hydra/launcher="):
        return How("hydra", words=tuple(words))
    kind, _, count = text.strip().partition("=")
    if kind in ("single", "warm") and not count:
        return How(kind)
    if kind == "torchrun" and (not count or count.isdecimal()):
        found = int(count) if count else len(find_devices())
        if found < 1:
            raise ConfigError(
                "LAUNCH=torchrun: there is no CUDA device; say how many processes, as torchrun=2"
            )
        return How("torchrun", processes=found)
    raise ConfigError(
        f"LAUNCH={text!r}: must be single (a command at a time, one a GPU), warm (forked, one a core), torchrun=N, or "
        "'hydra/launcher=slurm hydra.launcher.partition=NAME' (docs/sweeps.md)"
    )


@dataclass
class Outcome:
    job: Job
    state: str  # done, failed, stopped, not started
    message: str = ""
    seconds: float = 0.0


def run_all(
    jobs: Sequence[Job],
    how: How,
    *,
    logs: Path,
    root: Path,
    say: Callable[[str], None] = lambda text: print(text, flush=True),
) -> list[Outcome]:
    """Run them all: first what most of the others wait for, so that no place stands idle later; else in their order.

    Args:
        logs: folder for what they say, a file a job.
        root: of the checkout, where commands run.
    """
    places = how.places()
    waited_for = _waited_for(jobs)
    waiting, over = sorted(jobs, key=lambda job: -waited_for[job.key]), dict[str, Outcome]()
    running: list[_Running] = []
    logs.mkdir(parents=True, exist_ok=True)
    began, most = time.monotonic(), len(jobs)
    with _signals() as asked:
        told = 0
        while waiting or running:
            if asked and told < len(asked):
                told = len(asked)
                for one in running:
                    one.stop(told)
                for job in waiting:
                    over[job.key] = Outcome(job, "not started")
                waiting = []
            for job in [j for j in waiting if any(over.get(k) and over[k].state != "done" for k in j.needs)]:
                waiting.remove(job)
                over[job.key] = Outcome(job, "not started", "what it starts from has no result")
            ready = [j for j in waiting if all(k in over for k in j.needs)]
            while ready and len(running) < len(places):
                job = ready.pop(0)
                waiting.remove(job)
                taken = [one.place for one in running]
                place = next(i for i in range(len(places)) if i not in taken)
                log = logs / f"{_slug(job.key)}.txt"
                running.append(_Running(job, how, place, places[place], log, root))
            for one in [r for r in running if r.over()]:
                running.remove(one)
                outcome = over[one.job.key] = one.outcome(stopped=bool(asked))
                say(_line(outcome, len(over), most, began, one.log))
            time.sleep(POLL)
    return [over[job.key] for job in jobs]


def _waited_for(jobs: Sequence[Job]) -> dict[str, int]:
    """How many jobs wait for each, directly or through others."""
    needs = {job.key: job.needs for job in jobs}
    count = dict.fromkeys(needs, 0)
    for job in jobs:
        before, seen = list(job.needs), set[str]()
        while before:
            key = before.pop()
            if key in count and key not in seen:
                seen.add(key)
                count[key] += 1
                before += needs[key]
    return count


def _line(outcome: Outcome, over: int, most: int, began: float, log: Path) -> str:
    left = (time.monotonic() - began) / over * (most - over)
    eta = f", about {_clock(left)} left" if over < most else ""
    text = f"[{over}/{most}] {outcome.state}: {outcome.job.label}  ({outcome.seconds:.0f} s{eta})"
    return text + (f"\n  {outcome.message}\n  what it said: {log}" if outcome.state == "failed" else "")


def _clock(seconds: float) -> str:
    minutes = seconds / 60
    return (
        f"{minutes / 60:.1f} h"
        if minutes > 90
        else f"{minutes:.0f} min"
        if minutes >= 1.5
        else f"{seconds:.0f} s"
    )


def _slug(key: str) -> str:
    return "".join(c if c.isalnum() or c in "-_.=" else "-" for c in key)[-180:].strip("-")


class _Running:
    def __init__(
        self, job: Job, how: How, place: int, extra: Mapping[str, str], log: Path, root: Path
    ) -> None:
        self.job, self.place, self.log = job, place, log
        self.began = time.monotonic()
        if how.kind == "warm":
            self.process: Any = _warm().Process(
                target=_forked, args=(job.script, list(job.arguments), str(log), str(root), dict(extra))
            )
            self.process.start()
            return
        with open(log, "wb") as said:
            self.process = subprocess.Popen(
                how.command(job),
                cwd=root,
                env={**environment(), **extra},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C reaches it through us, once
            )

    def over(self) -> bool:
        if isinstance(self.process, subprocess.Popen):
            return self.process.poll() is not None
        return not self.process.is_alive()

    def stop(self, times: int) -> None:
        with suppress(ProcessLookupError):
            if times < 3:
                os.kill(self.process.pid, signal.SIGTERM)
            else:
                os.killpg(self.process.pid, signal.SIGKILL)

    def outcome(self, *, stopped: bool) -> Outcome:
        code = (
            self.process.returncode if isinstance(self.process, subprocess.Popen) else self.process.exitcode
        )
        seconds = time.monotonic() - self.began
        if code == 0 and self.job.done():
            return Outcome(self.job, "done", seconds=seconds)
        if stopped:
            return Outcome(self.job, "stopped", seconds=seconds)
        return Outcome(self.job, "failed", _why(code, self.log), seconds)


def _why(code: int, log: Path) -> str:
    """The job's last message."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}" + (
            ": out of memory?" if code == -signal.SIGKILL else ""
        )
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    for i in reversed(range(len(lines))):
        if lines[i].startswith("error: "):
            return "\n  ".join(lines[i:][:12]).removeprefix("error: ")
    return f"exit code {code}" + (f": {lines[-1]}" if lines else "")


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Signals that came, in the order they came."""
    asked: list[int] = []

    def note(number: int, frame: object) -> None:
        asked.append(number)
        print(
            f"{signal.Signals(number).name}: the running jobs save and end, no other starts", file=sys.stderr
        )

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as with nohup
        numbers.append(signal.SIGHUP)
    before = {n: signal.signal(n, note) for n in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- warm ----------------------------------------------------------------------------------------------------------


def _warm() -> Any:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, once for all
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vmp.jobs.preloaded"])
    return context


def _forked(script: str, arguments: list[str], log: str, root: str, extra: dict[str, str]) -> None:
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.environ.update(extra)
    out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    os.dup2(out, 1), os.dup2(out, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    os.chdir(root)
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(str(Path(root) / script), run_name="__main__")
    finally:
        print(f"{time.process_time():.1f} s of CPU time")
        sys.stdout.flush()
        sys.stderr.flush()
