"""A sweep: many runs from one command, `python train.py -m KEY=A,B ...`, whatever starts them.

Notes:
- on this machine the sweep's process supervises the jobs itself; a third-party launcher (joblib, Slurm, Ray) makes a
  process for each job, which supervises it, and the sweep's process only watches;
- they communicate through small files in OUTPUT/sweeps/NAME/ (sweep.json, stop, and for each job N/state.json and
  N/output.txt), so that the launcher may use threads, processes or other machines that share the file system.
"""

import json
import os
import shlex
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

from vmp.engine.stopping import OUT_OF_TIME
from vmp.errors import RunError
from vmp.files import write_json, write_text
from vmp.invocation import typed_command
from vmp.jobs.process import JobProcess, python_command
from vmp.jobs.supervisor import Job, ProgressLines, StopRequests, announce_stop, listen_for_signals, run_jobs
from vmp.runs.folder import locked
from vmp.runs.records import has_top5, is_finished, read_result

RECORDED = ("state", "message", "code", "seconds")  # what N/state.json has
WATCH = 0.2  # seconds between looks at the files of jobs that run elsewhere


class Sweep:
    """The jobs of a sweep and its folder. Run them here or elsewhere, then report.

    Args:
        place: OUTPUT/sweeps/NAME.
        settings: what sweep.json holds besides the jobs. script: train.py, which runs one job; options: what stands
            before the overrides in its command; processes: of each job; echo: whether the terminal shows what the jobs
            print; cwd and command: those of the sweep.
    """

    def __init__(self, place: Path, jobs: Sequence[Job], **settings: Any) -> None:
        self.place, self.jobs = place, list(jobs)
        self.settings = {"cwd": os.getcwd(), "command": shlex.join(typed_command()), **settings}
        self._signal = 0  # the one that ended it
        self._abandoned = False  # the jobs go on without this process
        self._progress = ProgressLines(self.jobs)
        self._accuracies: dict[str, dict[str, Any]] = {}  # by folder, of jobs that are done

    @classmethod
    def read(cls, place: Path) -> Self:
        """Read sweep.json, in the process that a launcher has made for one of the jobs."""
        settings = _read_json(place / "sweep.json")
        del settings["state"]
        jobs = []
        for number, kept in enumerate(settings.pop("jobs")):
            is_done = partial(is_finished, Path(settings["cwd"]) / kept["folder"])
            output = place / str(number) / "output.txt"
            jobs.append(Job(kept["label"], tuple(kept["overrides"]), kept["folder"], output, is_done))
        return cls(place, jobs, **settings)

    def run_here(self, places: Sequence[Mapping[str, str]]) -> None:
        """Run the unfinished jobs on this machine. places: environment variables for each that runs at a time."""

        def record(job: Job) -> None:
            self._record(job)
            self._show(job)

        with self._opened() as requests:
            run_jobs(self.jobs, places, self._start, requests, record)

    def run_elsewhere(self, launch: Callable[[Sequence[int]], None], *, stoppable: bool) -> None:
        """Run the unfinished jobs with a third-party launcher.

        Args:
            launch: takes the numbers of the jobs, has `run_one` called for each, and returns when all have ended.
            stoppable: whether a signal to this process stops the jobs, rather than only the watching.

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
                if requests.count() > asked and not stoppable:
                    self._abandoned = True
                    return
                if requests.count() > asked:
                    asked += 1
                    announce_stop(requests, asked)
                    write_text(self.place / "stop", f"{asked}\n")
            self._collect()
            open_jobs = [job for job in self.jobs if job.state in ("waiting", "running")]
            if problem and not asked and sum(job.state == "waiting" for job in open_jobs) == len(todo):
                raise RunError(f"the launcher started no job. {problem}")
            for job in open_jobs:
                if problem:
                    job.state, job.message = "unknown", f"the launcher lost sight of it: {problem}"
                elif asked and job.state == "waiting":
                    job.state = "not started"
                else:
                    job.state, job.message = "failed", "the process that supervised it was killed"

    def run_one(self, number: int) -> None:
        """Run one job in this process, which a launcher has made for it, and record its state."""
        job = self.jobs[number]

        def record(job: Job) -> None:
            if job.state == "stopped" and requests.requeue:
                job.state = "waiting"
            self._record(job)

        with listen_for_signals(self.place / "stop") as requests:
            run_jobs([job], [{}], self._start, requests, record)
        if job.state == "waiting" and requests.requeue:
            requests.requeue()

    def report(self) -> int:
        """Print the table, what failed and how to go on. Returns the exit code: that of a signal, else 1 when a job
        failed."""
        self._print_table()
        for job in self.jobs:
            if job.state == "failed":
                message = job.message.replace("\n", "\n  ")
                print(f"failed: {job.label}\n  folder: {job.folder}\n  {message}")
                if job.output.exists():
                    print(f"  its output: {job.output}")
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
        if self._signal:
            return 128 + self._signal
        if failed:
            return 1
        return OUT_OF_TIME if left else 0

    @contextmanager
    def _opened(self) -> Iterator[StopRequests]:
        """Hold the sweep's folder and this process's signals, and write sweep.json before and after."""
        with locked(self.place, f"this sweep is running already (see {self.place}/sweep.json)"):
            (self.place / "stop").unlink(missing_ok=True)
            for job in self.jobs:
                job.output.with_name("state.json").unlink(missing_ok=True)
            self._write("running")
            before = sum(job.state == "finished before" for job in self.jobs)
            finished = f", {before} finished before" if before else ""
            print(f"sweep of {len(self.jobs)} jobs{finished}  -> {self.place}", flush=True)
            with listen_for_signals() as requests:
                yield requests
            self._signal = requests.signals[-1] if requests.signals else 0
            self._write("stopped" if self._signal else "over")

    def _start(self, job: Job, place: Mapping[str, str]) -> JobProcess:
        own = self.settings
        command = python_command(own["script"], [*own["options"], *job.arguments], own["processes"])
        return JobProcess(command, output=job.output, cwd=own["cwd"], place=place, echo=own["echo"])

    def _record(self, job: Job) -> None:
        write_json(job.output.with_name("state.json"), {key: getattr(job, key) for key in RECORDED})

    def _collect(self) -> None:
        """Read the states that the processes of a launcher have recorded."""
        for job in self.jobs:
            kept = _read_json(job.output.with_name("state.json"))
            if kept and kept["state"] != job.state:
                for key in RECORDED:
                    setattr(job, key, kept[key])
                self._show(job)

    def _show(self, job: Job) -> None:
        accuracies = self._read_accuracies(job)
        note = f"  top-1 {accuracies['top1']:.2f}" if accuracies else ""
        print(self._progress.line(job, note), flush=True)
        self._write("running")

    def _write(self, state: str) -> None:
        jobs = [
            {"number": number, "overrides": job.arguments, "label": job.label, "folder": job.folder}
            | {key: getattr(job, key) for key in RECORDED}
            | self._read_accuracies(job)
            for number, job in enumerate(self.jobs)
        ]
        write_json(self.place / "sweep.json", {"state": state, **self.settings, "jobs": jobs})

    def _read_accuracies(self, job: Job) -> dict[str, Any]:
        """Accuracies and learned scalars of a job that is done; sweep.json is written often, and each read once."""
        folder = Path(job.folder)
        if job.state not in ("done", "finished before") or not is_finished(folder):
            return {}
        if job.folder not in self._accuracies:
            try:
                result = read_result(folder)
            except RunError:  # the run is done all the same
                result = {}
            keys = ("top1", "top5", "mean_class", "classes", "scalars") if result else ()
            self._accuracies[job.folder] = {key: result.get(key) for key in keys}
        return self._accuracies[job.folder]

    def _print_table(self) -> None:
        from rich.console import Console
        from rich.table import Table

        console = Console()
        if not console.is_terminal:
            console = Console(width=250)
        table = Table(box=None, pad_edge=False, header_style="bold")
        for title in ("job", "state", "top-1", "top-5", "slope, shift", "folder"):
            table.add_column(title, overflow="fold", justify="right" if title.startswith("top") else "left")
        for job in self.jobs:
            result = self._read_accuracies(job)
            scalars = result.get("scalars") or {}
            learned = [f"{k} {value:.3f}" for k, value in scalars.items() if k.endswith(("slope", "shift"))]
            shown = ("top1", "top5") if has_top5(result.get("classes")) else ("top1",)
            accuracies = [f"{result[key]:.2f}" if result and key in shown else "" for key in ("top1", "top5")]
            table.add_row(job.label, job.state, *accuracies, " ".join(learned), job.folder)
        console.print(table)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
