"""A sweep: many runs from one command, `python train.py -m KEY=A,B ...`, whatever launches them.

Notable here:
- every job's config and folder is checked before the first job starts;
- a job is a process of its own that runs the command which a person would type for it alone, so that no job can
  harm another, and each can be repeated by hand;
- jobs and the sweep talk through small files in OUTPUT/sweeps/NAME/ (sweep.json, stop, and each job's N/state.json and
  N/output.txt), so that the same code works for threads, processes and other machines that share the file system;
- no torch, and Hydra only where a config is composed (hydra_plugins/vmp_sweep.py is the door).
"""

import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from vmp.errors import ConfigError, RunError, UserError
from vmp.files import write_json, write_text
from vmp.launched import RANKS, STARTERS, launched
from vmp.runs.records import read_result

OUT_OF_TIME = 75  # a run's exit code when trainer.max_minutes are over
_ASKS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
ASKED = {128 + number for number in _ASKS} | {-number for number in _ASKS}
OVER = ("done", "finished before", "failed", "stopped")
_sweeping = False  # whether a sweep is running in this process, and has its signals
POLL = 0.2  # seconds between looks at files and processes


@dataclass(frozen=True)
class Job:
    number: int
    overrides: tuple[str, ...]  # of the whole job, as one would type them
    label: str  # those that differ between the jobs
    folder: str
    state: str = "waiting"  # waiting, running, unknown, not started, or one of OVER
    message: str = ""
    seconds: float | None = None
    code: int | None = None


# --- before anything starts ----------------------------------------------------------------------------------------


def check_alone() -> None:
    """Raise ConfigError under torchrun, srun or mpirun with several processes, where each would start the sweep."""
    here = launched()
    if "WORLD_SIZE" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ or (here.sure and not here.alone):
        raise ConfigError(
            "a sweep (-m) starts the processes of its jobs itself: run it once, with python, not with "
            f"{STARTERS.get(here.by, 'torchrun')}. For jobs of N processes each: python train.py -m "
            "hydra.sweeper.processes=N ..."
        )


def plan(overrides: Sequence[Sequence[str]], compose: Callable[[Sequence[str]], dict[str, Any]]) -> list[Job]:
    """The jobs of a sweep, each composed and checked.

    Args:
        overrides: of each job.
        compose: makes a resolved config of them.

    Raises:
        ConfigError: naming every job that cannot run, or jobs that would share a folder.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from vmp.config import check, check_start
    from vmp.explain import explain
    from vmp.runs.folder import begun, check_same_run

    labels = _labels(overrides)
    faults: dict[str, list[str]] = defaultdict(list)
    by_folder: dict[str, list[int]] = defaultdict(list)
    jobs, raws = [], []
    for number, (each, label) in enumerate(zip(_shown(overrides), labels, strict=True)):
        raw: dict[str, Any] = {}
        try:
            raw = compose(each)
            config = check(raw)
            folder = config.folder
            by_folder[os.path.normpath(folder)].append(number)
            finished = (folder / "result.json").exists()
            jobs.append(
                Job(number, tuple(each), label, str(folder), "finished before" if finished else "waiting")
            )
            if not begun(folder):
                check_start(config)
        except UserError as error:
            faults[str(error)].append(label)
        except (HydraException, OmegaConfBaseException) as error:
            faults[explain(error)].append(label)
        raws.append(raw)
    shared = {folder: numbers for folder, numbers in by_folder.items() if len(numbers) > 1}
    if not faults and not shared:
        for job in jobs:
            try:
                check_same_run(Path(job.folder), raws[job.number])
            except RunError as error:
                faults[str(error)].append(job.label)
    if faults:
        raise ConfigError(
            "\n".join(_in_jobs(message, names, len(labels)) for message, names in faults.items())
        )
    for where, numbers in shared.items():
        alike, names = [overrides[n] for n in numbers], [labels[n] for n in numbers]

        def apart(more: str, alike: list[Sequence[str]] = alike) -> bool:
            """Whether the jobs can run with one more override, each in a folder of its own."""
            try:
                folders = {check(compose([*each, more])).folder for each in alike}
            except (UserError, HydraException, OmegaConfBaseException):
                return False
            return len(folders) == len(alike)

        raise ConfigError(_shared(alike, names, where, raws[numbers[0]], apart))
    return jobs


def _shown(overrides: Sequence[Sequence[str]]) -> Iterator[Sequence[str]]:
    """Each job's overrides, with a bar where composing them all takes a while."""
    from vmp.progress import bar

    if len(overrides) > 20:
        print(f"checking the configs of {len(overrides)} jobs", flush=True)
    with bar("checking", len(overrides), shown=len(overrides) > 20) as shown:
        for each in overrides:
            yield each
            shown.advance()


def _labels(overrides: Sequence[Sequence[str]]) -> list[str]:
    same = set(overrides[0]).intersection(*overrides[1:]) if len(overrides) > 1 else set()
    return [
        " ".join(o for o in each if o not in same) or " ".join(each) or "(the defaults)" for each in overrides
    ]


def _in_jobs(message: str, labels: list[str], count: int) -> str:
    if len(labels) == count:
        return message
    return f"{message}\n  in {len(labels)} of {count} jobs: {_listed(labels)}"


def _listed(labels: Sequence[str], limit: int = 5) -> str:
    more = len(labels) - limit
    return "; ".join(labels[:limit]) + (f"; and {more} more" if more > 0 else "")


def _shared(
    overrides: list[Sequence[str]],
    labels: list[str],
    folder: str,
    raw: dict[str, Any],
    apart: Callable[[str], bool],
) -> str:
    """What to do about jobs that are not told apart by the name of their folder.

    Args:
        apart: whether an override that is added to all of them tells them apart; what is proposed has been tried.
    """
    from vmp.overrides import for_shell

    if len({tuple(sorted(each)) for each in overrides}) < len(overrides):
        return f"the sweep has the same job more than once: {labels[0]}; leave the repeated values out"
    same = set(overrides[0]).intersection(*overrides[1:])
    keys = list(
        dict.fromkeys(o.partition("=")[0].lstrip("+") for each in overrides for o in each if o not in same)
    )
    told = f"{len(overrides)} jobs would share the folder {folder}: {_listed(labels)}\n{', '.join(keys)}: not part of "
    told += "a run folder's name, so a tag has to tell the runs apart"
    chosen = [key for key in keys if isinstance(raw.get(key), dict) or "/" in key or key == "experiment"]
    sources = {key: f"hydra:runtime.choices.{key}" if key in chosen else key for key in keys}
    before = [str(raw["tag"])] if raw.get("tag") else []
    for value in ("${%s}", "${word:%s}"):  # as it is, or as a word that may be in a folder's name
        words = [
            key.rpartition(".")[2].rpartition("/")[2] + value % source for key, source in sources.items()
        ]
        tag = "tag=" + "-".join([*before, *words])
        if "tag" not in keys and apart(tag):
            return f"{told}; add this to the command:\n  {for_shell(tag)}"
    return f"{told}: one sweep for each of them, each with its tag=WORD"


def name_of(arguments: Sequence[str], jobs: Sequence[Job]) -> str:
    """Of the sweep's folder: the same command has the same name."""
    varied = dict.fromkeys(
        o.partition("=")[0].rpartition(".")[2].lstrip("+")
        for job in jobs
        for o in job.label.split(" ")
        if "=" in o
    )
    words = "-".join(re.sub(r"\W+", "", word) for word in varied)[:60] if len(jobs) > 1 else "one"
    return f"{words or 'sweep'}-{hashlib.sha256(json.dumps(sorted(arguments)).encode()).hexdigest()[:8]}"


# --- a sweep -------------------------------------------------------------------------------------------------------


class Sweep:
    """Jobs in a folder. `launch` them, then `report`.

    Args:
        place: OUTPUT/sweeps/NAME.
        script: that runs one job, train.py.
        options: of its command line other than overrides.
        processes: of each job; more than one run under torchrun.
        echo: whether what the jobs say goes to this terminal, too, which makes sense for one after another.
        stoppable: whether the end of this process should be the end of the jobs.
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
        stoppable: bool = True,
    ) -> None:
        self.place, self.jobs, self.stoppable = place, list(jobs), stoppable
        self._asked = 0  # times that somebody asked to stop
        self._signal: int = 0
        self._over = threading.Event()
        self._fixed = {
            "script": str(script),
            "options": list(options),
            "processes": processes,
            "echo": echo,
            "cwd": os.getcwd(),
            "command": shlex.join(["python", *sys.argv]),
        }

    @property
    def waiting(self) -> list[Job]:
        return [job for job in self.jobs if job.state == "waiting"]

    def launch(self, start: Callable[[Sequence[Job]], None]) -> None:
        """Run the jobs that are not finished with `start`, which returns when they are over."""
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
            for job in self.jobs:
                _record(self.place, job.number).unlink(missing_ok=True)
            self._write("running")
            before = sum(job.state == "finished before" for job in self.jobs)
            print(
                f"sweep of {len(self.jobs)} jobs{f', {before} finished before' if before else ''}  -> {self.place}",
                flush=True,
            )
            todo = self.waiting
            problem = ""
            watcher = threading.Thread(target=self._watch, daemon=True)
            with self._signals():
                watcher.start()
                try:
                    if todo:
                        start(todo)
                except KeyboardInterrupt:
                    self._signal = self._signal or signal.SIGINT
                except Exception as error:  # of a launcher, which may have lost one job and not the others
                    problem = f"{type(error).__name__}: {error}".strip()
                finally:
                    self._over.set()
                    watcher.join()
            self._collect()
            if problem and len(self.waiting) == len(todo) and not self._signal:
                raise RunError(f"the launcher started no job. {problem}")
            self.jobs = [self._last_word(job, problem) for job in self.jobs]
            self._write("stopped" if self._signal else "over")
        finally:
            lock.release()

    def _last_word(self, job: Job, problem: str) -> Job:
        """Of a job without one, when the launcher has ended."""
        if job.state not in ("waiting", "running") or (self._signal and not self.stoppable):
            return job
        if problem:
            return replace(job, state="unknown", message=f"the launcher lost sight of it: {problem}")
        if self._signal and job.state == "waiting":
            return replace(job, state="not started")
        return replace(job, state="failed", message="the process that watched over it was killed")

    def report(self) -> int:
        """Print the table, what failed and how to go on; the exit code: 1 when a job failed."""
        _print_table(self.jobs)
        failed = [job for job in self.jobs if job.state == "failed"]
        for job in failed:
            print(
                f"failed: {job.label}\n  folder: {job.folder}\n  {job.message.replace(chr(10), chr(10) + '  ')}"
            )
            if _said(self.place, job.number).exists():
                print(f"  what it said: {_said(self.place, job.number)}")
        left = [job for job in self.jobs if job.state not in ("done", "finished before", "failed", "unknown")]
        if self._signal and not self.stoppable:
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
    def _signals(self) -> Iterator[None]:
        """The jobs are asked to stop once for each signal: the first lets them save."""
        global _sweeping
        before = {}
        _sweeping = True
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as with nohup
                before[number] = signal.signal(number, self._note)
        try:
            yield
        finally:
            _sweeping = False
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        self._signal = number
        if not self.stoppable:
            raise KeyboardInterrupt
        self._asked += 1
        write_text(self.place / "stop", f"{self._asked}\n")
        print(
            f"{signal.Signals(number).name}: the running jobs save and end, no other starts", file=sys.stderr
        )

    def _watch(self) -> None:
        """Say what happens to the jobs, wherever they run."""
        while not self._over.wait(POLL):
            if self._collect():
                self._write("running")

    def _collect(self) -> bool:
        """Read what the jobs recorded; whether anything is new."""
        changed = False
        for i, job in enumerate(self.jobs):
            found = _read(_record(self.place, job.number))
            if found and found["state"] != job.state:
                self.jobs[i] = job = replace(job, **found)
                changed = True
                over = sum(each.state in OVER for each in self.jobs)
                print(f"[{over}/{len(self.jobs)}] {job.state}: {job.label}{_numbers_line(job)}", flush=True)
        return changed

    def _write(self, state: str) -> None:
        jobs = [{**asdict(job), **_numbers(job)} for job in self.jobs]
        write_json(self.place / "sweep.json", {"state": state, **self._fixed, "jobs": jobs})


def _record(place: Path, number: int) -> Path:
    return place / str(number) / "state.json"


def _said(place: Path, number: int) -> Path:
    return place / str(number) / "output.txt"


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def _numbers(job: Job) -> dict[str, Any]:
    """Of its result: accuracies and what was learned."""
    path = Path(job.folder) / "result.json"
    if job.state not in ("done", "finished before") or not path.exists():
        return {}
    try:
        result = read_result(path)
    except RunError:  # the run is done all the same
        return {}
    return {key: result.get(key) for key in ("top1", "top5", "mean_class", "scalars")}


def _numbers_line(job: Job) -> str:
    numbers = _numbers(job)
    took = "" if job.seconds is None else f"  ({job.seconds:.0f} s)"
    return (f"  top-1 {numbers['top1']:.2f}" if numbers else "") + took


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
        numbers = _numbers(job)
        scalars = numbers.get("scalars") or {}
        learned = [f"{key} {value:.3f}" for key, value in scalars.items() if key.endswith(("slope", "shift"))]
        top = [f"{numbers[key]:.2f}" if numbers else "" for key in ("top1", "top5")]
        table.add_row(job.label, job.state, *top, " ".join(learned), job.folder)
    console.print(table)


# --- a job ---------------------------------------------------------------------------------------------------------


def run_job(place: Path, number: int, extra: Mapping[str, str] | None = None) -> None:
    """Run one job of the sweep in `place` in a process of its own, and record what came of it.

    Args:
        extra: environment variables of its own.
    """
    sweep = _read(place / "sweep.json")
    job = sweep["jobs"][number]
    if _times_asked(place):
        return
    began = time.monotonic()
    write_json(_record(place, number), {"state": "running"})
    with _own_signals() as noted:
        code, asked = _run(sweep, job, place, extra or {}, noted)
        state, message = "failed", ""
        if code == 0:
            state = "done" if (Path(sweep["cwd"]) / job["folder"] / "result.json").exists() else "failed"
            message = "" if state == "done" else "it ended without a result"
        elif asked or code in ASKED or code == OUT_OF_TIME:
            state = "waiting" if noted.requeue else "stopped"
        else:
            message = _why(code, _said(place, number))
        seconds = round(time.monotonic() - began, 1)
        write_json(
            _record(place, number), {"state": state, "message": message, "code": code, "seconds": seconds}
        )
    if state == "waiting" and noted.requeue:
        noted.requeue()


def command_of(sweep: dict[str, Any], job: dict[str, Any]) -> list[str]:
    """What a person would type to run the job alone."""
    launcher = [sys.executable]
    if sweep["processes"] > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={sweep['processes']}"]
    return [*launcher, sweep["script"], *sweep["options"], *job["overrides"]]


def environment() -> dict[str, str]:
    """Ours, without what torchrun, srun or mpirun told this process about itself."""
    return {k: v for k, v in os.environ.items() if k not in RANKS and not k.startswith("TORCHELASTIC_")}


def find_devices() -> list[str]:
    """CUDA devices, as CUDA_VISIBLE_DEVICES would name them."""
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [device.strip() for device in given.split(",") if device.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(i) for i in range(sum(line.startswith("GPU ") for line in listed.stdout.splitlines()))]


def slots(devices: Sequence[str], processes: int, n_jobs: int | None) -> list[dict[str, str]]:
    """Environment variables of the jobs that run at a time, so that each has devices of its own.

    Args:
        processes: and so devices, of a job.
        n_jobs: at a time; None: as many as there are devices for, one without devices. More than that share.
    """
    if not devices:
        count = n_jobs or 1
        cores = str(max(1, (os.cpu_count() or 1) // (count * processes)))
        return [{} if count == 1 or "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": cores}] * count
    if len(devices) < processes:
        raise ConfigError(f"hydra.sweeper.processes = {processes}: there are {len(devices)} devices")
    groups = [",".join(devices[i : i + processes]) for i in range(0, len(devices) - processes + 1, processes)]
    return [{"CUDA_VISIBLE_DEVICES": groups[i % len(groups)]} for i in range(n_jobs or len(groups))]


def run_side_by_side(place: Path, numbers: Sequence[int], places: Sequence[Mapping[str, str]]) -> None:
    """Run these jobs, each in a place that is free."""
    free: SimpleQueue[Mapping[str, str]] = SimpleQueue()
    for each in places:
        free.put(each)

    def one(number: int) -> None:
        mine = free.get()
        try:
            run_job(place, number, mine)
        finally:
            free.put(mine)

    with ThreadPoolExecutor(len(places)) as pool:
        for _ in pool.map(one, numbers):
            pass


def _run(
    sweep: dict[str, Any], job: dict[str, Any], place: Path, extra: Mapping[str, str], noted: "_Noted"
) -> tuple[int, bool]:
    """The job's exit code, and whether it was asked to stop."""
    echo = sweep["echo"]
    with open(_said(place, job["number"]), "wb") as said:
        process = subprocess.Popen(
            command_of(sweep, job),
            cwd=sweep["cwd"],
            env={**environment(), **extra},
            stdin=subprocess.DEVNULL,
            stdout=None if echo else said,
            stderr=subprocess.PIPE if echo else subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C reaches it through us, once
            preexec_fn=_ignore_usr2 if noted.listening else None,
        )
        copier = threading.Thread(target=_copy, args=(process.stderr, said), daemon=True)
        if echo:
            copier.start()
        sent = 0
        while process.poll() is None:
            time.sleep(POLL)
            if max(_times_asked(place), len(noted)) > sent:
                sent += 1
                _send(process, sent)
        if echo:
            copier.join(timeout=5)  # a loader process may hold the pipe a little longer
    return process.returncode, bool(sent or noted.direct)


def _ignore_usr2() -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def _send(process: "subprocess.Popen[bytes]", times: int) -> None:
    """Ask it to save and end; ask again to end at once; end it."""
    try:
        if times < 3:
            process.terminate()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _copy(source: IO[bytes], said: IO[bytes]) -> None:
    while chunk := source.read1():  # type: ignore[attr-defined]
        said.write(chunk)
        said.flush()
        with suppress(OSError):  # a terminal that has gone: the job must not wait for it
            os.write(2, chunk)


def _times_asked(place: Path) -> int:
    try:
        return int((place / "stop").read_text())
    except (FileNotFoundError, ValueError):
        return 0


class _Noted(list[int]):
    """Signals that this process got for its job. direct: got by the job, too; requeue: to call when it has ended."""

    listening = False
    direct = 0
    requeue: Callable[[], None] | None = None


@contextmanager
def _own_signals() -> Iterator[_Noted]:
    """In a process that a launcher made for one job, signals are the job's; elsewhere the sweep has them.

    Slurm signals every process of a job step. SIGTERM the run has got already then. submitit's SIGUSR2 (the time limit
    is near) it ignores, and we ask it to save with SIGTERM; what submitit does then, to queue the job again, waits for
    the run's end.
    """
    noted = _Noted()
    if threading.current_thread() is not threading.main_thread() or _sweeping:
        yield noted
        return
    before: dict[int, Any] = {}
    slurm = os.environ.get("SUBMITIT_EXECUTOR") == "slurm"

    def note(number: int, frame: object) -> None:
        if number == signal.SIGTERM and slurm:
            noted.direct = number
            return
        noted.append(number)
        handler = before.get(number)
        if number == signal.SIGUSR2 and callable(handler):
            noted.requeue = lambda: handler(number, None)

    noted.listening = True
    for listened in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if listened != signal.SIGHUP or signal.getsignal(listened) is not signal.SIG_IGN:  # as with nohup
            before[listened] = signal.signal(listened, note)
    usr2 = signal.getsignal(signal.SIGUSR2)
    if callable(usr2):
        before[signal.SIGUSR2] = usr2
        signal.signal(signal.SIGUSR2, note)
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _why(code: int, said: Path) -> str:
    """The job's last message."""
    if code < 0:
        name = signal.Signals(-code).name
        hint = ": out of memory, or ended by hand" if code == -signal.SIGKILL else ""
        return f"killed by {name}{hint}"
    text = said.read_text(encoding="utf-8", errors="replace").strip()
    lines = text.splitlines()
    for i in reversed(range(len(lines))):
        if lines[i].startswith("error: "):
            return "\n".join(lines[i:][:20]).removeprefix("error: ")
    return f"exit code {code}" + (f": {lines[-1]}" if lines else "")
