"""A sweep: many runs from one command, `python train.py -m KEY=A,B ...`, whatever starts them.

Notable here:
- on this machine the sweep's process supervises the jobs itself; with a launcher of others (joblib, Slurm, Ray) each
  job is supervised by a process that the launcher makes, and the sweep's process only watches;
- the two talk through small files in OUTPUT/sweeps/NAME/ (sweep.json, stop, and for each job N/state.json and
  N/output.txt), so that the launcher may use threads, processes or other machines that share the file system.
"""

import json
import os
import shlex
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from vmp.engine.stopping import OUT_OF_TIME
from vmp.errors import RunError
from vmp.files import write_json, write_text
from vmp.jobs.process import JobProcess, python_command
from vmp.jobs.supervisor import (
    Job,
    Progress,
    StopRequests,
    announce_stop,
    listen_for_signals,
    run_jobs,
)
from vmp.runs.records import is_finished, read_result

RECORDED = ("state", "message", "code", "seconds")  # what N/state.json has
WATCH = 0.2  # seconds between looks at the files of jobs that run elsewhere


class Sweep:
    """The jobs of a sweep and its folder. Run them, `here` or `elsewhere`, then `report`.

    Args:
        place: OUTPUT/sweeps/NAME.
        script: train.py, which runs one job.
        options: of its command line, other than overrides.
        processes: of each job; more than one run under torchrun.
        echo: whether the output of the jobs goes to this terminal as well, which makes sense for one after another.
    """

    def __init__(
        self,
        place: Path,
        jobs: Sequence[Job],
        *,
        script: Path,
        options: Sequence[str] = (),
        processes: int = 1,
        echo: bool = True,
    ) -> None:
        self.place, self.jobs = place, list(jobs)
        self._signal = 0  # that ended it
        self._abandoned = False  # the jobs go on without this process
        self._progress = Progress(self.jobs)
        self._settings = {
            "script": str(script),
            "options": list(options),
            "processes": processes,
            "echo": echo,
            "cwd": os.getcwd(),
            "command": shlex.join(["python", *sys.argv]),
        }

    def run_here(self, places: Sequence[Mapping[str, str]]) -> None:
        """Run the jobs that are not finished in these places of this machine."""
        numbers = {job.folder: number for number, job in enumerate(self.jobs)}

        def start(job: Job, place: Mapping[str, str]) -> JobProcess:
            return start_job(self._settings, job, self.place / str(numbers[job.folder]), place)

        def record(job: Job) -> None:
            record_state(self.place / str(numbers[job.folder]), job)
            self._show(job)

        with self._opened() as requests:
            run_jobs(self.jobs, places, start, requests, record)

    def run_elsewhere(self, launch: Callable[[Sequence[int]], None], *, stoppable: bool) -> None:
        """Run the jobs that are not finished with a launcher of others.

        Args:
            launch: takes the jobs' numbers, calls `run_job` for each somewhere, and returns when they are over.
            stoppable: whether a signal to this process stops the jobs; else it stops the watching only.

        Raises:
            RunError: the launcher failed before it had started a job.
        """
        todo = [number for number, job in enumerate(self.jobs) if job.state == "waiting"]
        problem = ""

        def run_launcher() -> None:
            nonlocal problem
            try:
                launch(todo)
            except BaseException as error:  # it may have lost one job and not the others
                problem = f"{type(error).__name__}: {error}".strip()

        with self._opened() as requests:
            launcher = threading.Thread(target=run_launcher, daemon=True)
            if todo:
                launcher.start()
            asked = 0
            while launcher.is_alive():
                launcher.join(WATCH)
                self._collect()
                if requests.count() > asked and stoppable:
                    asked += 1
                    announce_stop(requests, asked)
                    write_text(self.place / "stop", f"{asked}\n")
                elif requests.count() > asked:
                    self._abandoned = True
                    return
            self._collect()
            waiting = [job for job in self.jobs if job.state == "waiting"]
            if problem and len(waiting) == len(todo) and not asked:
                raise RunError(f"the launcher started no job. {problem}")
            for job in self.jobs:
                if job.state not in ("waiting", "running"):
                    continue
                if problem:
                    job.state, job.message = "unknown", f"the launcher lost sight of it: {problem}"
                elif asked and job.state == "waiting":
                    job.state = "not started"
                else:
                    job.state, job.message = "failed", "the process that watched over it was killed"

    def report(self) -> int:
        """Print the table, what failed and how to go on. Returns the exit code, 1 when a job failed."""
        _print_table(self.jobs)
        for number, job in enumerate(self.jobs):
            if job.state == "failed":
                message = job.message.replace("\n", "\n  ")
                print(f"failed: {job.label}\n  folder: {job.folder}\n  {message}")
                if (output := self.place / str(number) / "output.txt").exists():
                    print(f"  its output: {output}")
        failed = any(job.state == "failed" for job in self.jobs)
        left = any(job.state not in ("done", "finished before", "failed", "unknown") for job in self.jobs)
        if self._abandoned:
            print(
                "The jobs go on without this command; scancel ends them. The same command reports on them later."
            )
        elif left or failed:
            print(
                "The same command again skips what is finished, continues what was stopped and repeats what failed."
            )
        print(f"-> {self.place / 'sweep.json'}", flush=True)
        if failed:
            return 1
        if self._signal:
            return 128 + self._signal
        return OUT_OF_TIME if left else 0

    @contextmanager
    def _opened(self) -> Iterator[StopRequests]:
        """Hold the sweep's folder and this process's signals, and write sweep.json before and after."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.place / ".lock", timeout=0)
        try:
            self.place.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise RunError(f"this sweep is running already (see {self.place}/sweep.json)") from None
        except OSError as error:
            raise RunError(
                f"{self.place} cannot be written ({error.strerror}); choose another with output=FOLDER"
            ) from None
        try:
            (self.place / "stop").unlink(missing_ok=True)
            for number in range(len(self.jobs)):
                (self.place / str(number) / "state.json").unlink(missing_ok=True)
            self._write("running")
            before = sum(job.state == "finished before" for job in self.jobs)
            print(
                f"sweep of {len(self.jobs)} jobs{f', {before} finished before' if before else ''}  -> {self.place}",
                flush=True,
            )
            with listen_for_signals() as requests:
                yield requests
            self._signal = requests.signals[-1] if requests.signals else 0
            self._write("stopped" if self._signal else "over")
        finally:
            lock.release()

    def _collect(self) -> None:
        """Read what the processes that watch over the jobs have recorded."""
        for number, job in enumerate(self.jobs):
            found = _read_json(self.place / str(number) / "state.json")
            if found and found["state"] != job.state:
                for key in RECORDED:
                    setattr(job, key, found[key])
                self._show(job)

    def _show(self, job: Job) -> None:
        accuracies = _read_accuracies(job)
        note = f"  top-1 {accuracies['top1']:.2f}" if accuracies else ""
        print(self._progress.line(job, note), flush=True)
        self._write("running")

    def _write(self, state: str) -> None:
        jobs = []
        for number, job in enumerate(self.jobs):
            own = {"number": number, "overrides": job.arguments, "label": job.label, "folder": job.folder}
            jobs.append({**own, **{key: getattr(job, key) for key in RECORDED}, **_read_accuracies(job)})
        write_json(self.place / "sweep.json", {"state": state, **self._settings, "jobs": jobs})


def run_job(place: Path, number: int) -> None:
    """Run job `number` of the sweep in `place` and record what became of it: what a launcher's process does."""
    settings = _read_json(place / "sweep.json")
    own = settings["jobs"][number]
    is_done = partial(is_finished, Path(settings["cwd"]) / own["folder"])
    job = Job(own["label"], tuple(own["overrides"]), own["folder"], is_done)

    def start(job: Job, variables: Mapping[str, str]) -> JobProcess:
        return start_job(settings, job, place / str(number), variables)

    def record(job: Job) -> None:
        if job.state == "stopped" and requests.requeue:
            job.state = "waiting"
        record_state(place / str(number), job)

    with listen_for_signals(place / "stop") as requests:
        run_jobs([job], [{}], start, requests, record)
    if job.state == "waiting" and requests.requeue:
        requests.requeue()


def start_job(settings: Mapping[str, Any], job: Job, folder: Path, place: Mapping[str, str]) -> JobProcess:
    """Start a job of a sweep.

    Args:
        settings: of the sweep, as in sweep.json.
        folder: for its output.txt.
        place: environment variables of its own.
    """
    arguments = [*settings["options"], *job.arguments]
    return JobProcess(
        python_command(settings["script"], arguments, settings["processes"]),
        output=folder / "output.txt",
        cwd=settings["cwd"],
        place=place,
        echo=settings["echo"],
    )


def record_state(folder: Path, job: Job) -> None:
    write_json(folder / "state.json", {key: getattr(job, key) for key in RECORDED})


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def _read_accuracies(job: Job) -> dict[str, Any]:
    """Accuracies and learned scalars of a job that is done."""
    folder = Path(job.folder)
    if job.state not in ("done", "finished before") or not is_finished(folder):
        return {}
    try:
        result = read_result(folder)
    except RunError:  # the run is done all the same
        return {}
    return {key: result.get(key) for key in ("top1", "top5", "mean_class", "scalars")}


def _print_table(jobs: Sequence[Job]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=250)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("job", "state", "top-1", "top-5", "slope, shift", "folder"):
        table.add_column(title, overflow="fold", justify="right" if title.startswith("top") else "left")
    for job in jobs:
        result = _read_accuracies(job)
        scalars = result.get("scalars") or {}
        learned = [f"{key} {value:.3f}" for key, value in scalars.items() if key.endswith(("slope", "shift"))]
        accuracies = [f"{result[key]:.2f}" if result else "" for key in ("top1", "top5")]
        table.add_row(job.label, job.state, *accuracies, " ".join(learned), job.folder)
    console.print(table)
