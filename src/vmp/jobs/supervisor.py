"""The supervisor: many jobs, each a process of its own, one after another or side by side.

Notes:
- a job starts when those that it needs are done and a place is free; the jobs that most others wait for go first, so
  that no place is idle later;
- the first signal lets the running jobs save and starts no others, the second ends them at once, the third kills them;
- a job that fails takes only those along that need it.
"""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vmp.engine.stopping import OUT_OF_TIME, SIGNALS, TOGETHER
from vmp.formats import format_duration
from vmp.jobs.process import JobProcess, explain_failure

# stopped: it saved and can be continued. unknown: its launcher lost sight of it
State = Literal[
    "waiting", "running", "done", "finished before", "failed", "stopped", "not started", "unknown"
]
ENDED = ("done", "finished before", "failed", "stopped")
STOPPED_CODES = {OUT_OF_TIME, *(128 + number for number in SIGNALS), *(-number for number in SIGNALS)}
POLL = 0.1  # seconds between looks at processes and signals
SPACING = TOGETHER + 0.5  # seconds between two requests to a job, which would take them for one


@dataclass
class Job:
    """One run or evaluation, and its state.

    label: how messages name it.
    arguments: of its script, as a person would type them.
    folder: where its result goes. No two jobs share one, so it identifies the job.
    output: the file for what its process prints.
    is_done: whether the result is there.
    needs: folders of the jobs that must be done before it starts.
    began: when its process started, as of time.monotonic().
    code: exit code of its process.
    """

    label: str
    arguments: tuple[str, ...]
    folder: str
    output: Path
    is_done: Callable[[], bool]
    script: str = "train.py"
    needs: tuple[str, ...] = ()
    state: State = "waiting"
    message: str = ""
    began: float | None = None
    code: int | None = None
    seconds: float | None = None


# --- requests to stop ----------------------------------------------------------------------------------------------


class StopRequests:
    """How often the jobs of this process have been asked to stop.

    signals: those that this process has received, in order.
    file: where a sweep counts its requests, for jobs that a launcher runs in other processes.
    sent_to_job: the job's own process has received a signal as well, so that there is nothing to pass on.
    requeue: submitit's handler, which queues the job again; to be called once the job has saved.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.signals: list[int] = []
        self.file = file
        self.sent_to_job = False
        self.requeue: Callable[[], None] | None = None

    def count(self) -> int:
        try:
            counted = int(self.file.read_text()) if self.file else 0
        except (FileNotFoundError, ValueError):
            counted = 0
        return max(counted, len(self.signals))


@contextmanager
def listen_for_signals(file: Path | None = None) -> Iterator[StopRequests]:
    """Collect the SIGNALS that stop a run while entered, except SIGHUP where nohup has made this process ignore it.

    In a process that submitit started for a job, two things differ. Slurm sends SIGTERM to every process of a job step,
    so the run has received it already. SIGUSR2, which says that the time limit is near, is passed on as a request to
    save; submitit's own handler, which queues the job again, has to wait until the run has ended.

    Args:
        file: as of `StopRequests`; None in the process that a person has started.
    """
    requests = StopRequests(file)
    if threading.current_thread() is not threading.main_thread():
        yield requests  # of a launcher's thread: the sweep in the main thread has the signals
        return
    before: dict[int, Any] = {}
    under_slurm = file is not None and os.environ.get("SUBMITIT_EXECUTOR") == "slurm"

    def note(number: int, frame: object) -> None:
        if number == signal.SIGTERM and under_slurm:
            requests.sent_to_job = True
            return
        requests.signals.append(number)
        if number == signal.SIGUSR2:
            requests.requeue = lambda: before[number](number, None)

    for listened in SIGNALS:
        if listened != signal.SIGHUP or signal.getsignal(listened) is not signal.SIG_IGN:
            before[listened] = signal.signal(listened, note)
    if file and callable(signal.getsignal(signal.SIGUSR2)):
        before[signal.SIGUSR2] = signal.signal(signal.SIGUSR2, note)
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def announce_stop(requests: StopRequests, times: int) -> None:
    effects = ("save and end, and no other starts", "end at once, without saving", "are killed")
    name = signal.Signals(requests.signals[-1]).name
    print(f"{name}: the running jobs {effects[min(times, 3) - 1]}", file=sys.stderr)


# --- running -------------------------------------------------------------------------------------------------------


def run_jobs(
    jobs: Sequence[Job],
    places: Sequence[Mapping[str, str]],
    start: Callable[[Job, Mapping[str, str]], JobProcess],
    requests: StopRequests,
    on_change: Callable[[Job], None],
) -> None:
    """Run the waiting jobs until none waits or runs; their state says what became of them.

    Args:
        places: environment variables for each job that runs at the same time.
        start: starts the process of a job in a place.
        on_change: called before a job starts and after it has ended.
    """
    by_folder = {job.folder: job for job in jobs}
    followers = _count_followers(jobs)
    waiting = sorted((j for j in jobs if j.state == "waiting"), key=lambda job: -followers[job.folder])
    running: dict[int, tuple[Job, JobProcess]] = {}  # by place
    asked, asked_at = 0, -math.inf
    try:
        while waiting or running:
            if requests.count() > asked and time.monotonic() - asked_at > SPACING:
                asked, asked_at = asked + 1, time.monotonic()
                if not requests.file:
                    announce_stop(requests, asked)
                for _, process in running.values():
                    process.stop(asked)
                for job in waiting:
                    job.state = "not started"
                waiting.clear()
            for job in list(waiting):
                if any(
                    by_folder[needed].state in ("failed", "stopped", "not started", "unknown")
                    for needed in job.needs
                ):
                    waiting.remove(job)
                    job.state, job.message = "not started", "a run that it needs did not finish"
            ready = [
                job
                for job in waiting
                if all(by_folder[n].state in ("done", "finished before") for n in job.needs)
            ]
            free = (place for place in range(len(places)) if place not in running)
            for job, place in list(zip(ready, free, strict=False)):
                waiting.remove(job)
                job.state, job.began = "running", time.monotonic()
                on_change(job)
                running[place] = job, start(job, places[place])
            for place, (job, process) in list(running.items()):
                if (code := process.poll()) is not None:
                    del running[place]
                    _set_outcome(job, process, code, asked=bool(asked or requests.sent_to_job))
                    on_change(job)
            if running:
                time.sleep(POLL)
    except BaseException:
        for _, process in running.values():
            process.stop(1)
        raise


def _count_followers(jobs: Sequence[Job]) -> dict[str, int]:
    """How many jobs wait for each, directly or through others."""
    needs = {job.folder: job.needs for job in jobs}
    count = dict.fromkeys(needs, 0)
    for job in jobs:
        before, seen = list(job.needs), set[str]()
        while before:
            folder = before.pop()
            if folder not in seen:
                seen.add(folder)
                count[folder] += 1
                before += needs[folder]
    return count


def _set_outcome(job: Job, process: JobProcess, code: int, *, asked: bool) -> None:
    """asked: whether a stop was requested while it ran."""
    job.code, job.seconds = code, round(process.seconds, 1)
    if code == 0 and job.is_done():
        job.state = "done"
    elif code != 0 and (asked or code in STOPPED_CODES):
        job.state = "stopped"
    else:
        job.state, job.message = "failed", explain_failure(code, job.output)


class ProgressLines:
    """Lines that say how far the jobs are. It begins when it is made, and estimates from what was done since."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = jobs
        self._began = time.monotonic()
        self._before = {job.folder for job in jobs if job.state in ENDED}

    def line(self, job: Job, note: str = "") -> str:
        """For a job whose state has changed. note: stands behind its label."""
        ended = sum(one.state in ENDED for one in self._jobs)
        took = "" if job.seconds is None else f"  ({job.seconds:.0f} s{self._time_left()})"
        return f"[{ended}/{len(self._jobs)}] {job.state}: {job.label}{note}{took}"

    def _time_left(self) -> str:
        """How long the other jobs take, as long as those that were done, and as many at a time; a job that failed says
        nothing of them."""
        timed = [job for job in self._jobs if job.seconds is not None and job.folder not in self._before]
        done = [job.seconds for job in timed if job.state == "done" and job.seconds]
        left = sum(job.state in ("waiting", "running") for job in self._jobs)
        if not done or not left:
            return ""
        now = time.monotonic()
        running = sum(now - job.began for job in self._jobs if job.state == "running" and job.began)
        at_once = (running + sum(job.seconds or 0.0 for job in timed)) / max(now - self._began, 1e-9)
        return f", about {format_duration(left * sum(done) / len(done) / at_once)} left"
