"""The process of one job: starting it, asking it to stop, and saying why it failed.

Notes:
- a job runs a command that a person could type, and no shell reads it; a "warm" job runs the same script in a process
  that is forked from a server which has already paid for the imports (seconds each), for many small runs;
- it leads a session of its own, so that Ctrl-C in a terminal reaches it once, through the supervisor.
"""

import multiprocessing
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from vmp.jobs.places import environment

FORK_ATTEMPTS = 5


def python_command(script: str, arguments: Sequence[str], processes: int = 1) -> list[str]:
    """What a person would type to run a script, under torchrun where it has several processes."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return [sys.executable, *(torchrun if processes > 1 else ()), script, *arguments]


class JobProcess:
    """The process of a job; the constructor starts it.

    Args:
        command: as from `python_command`.
        output: the file for its stdout and stderr.
        place: environment variables that only this job gets.
        warm: fork it from the server that has imported what a run needs.
        echo: leave its stdout on the terminal, and copy its stderr there as well.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        output: Path,
        cwd: Path | str,
        place: Mapping[str, str],
        warm: bool = False,
        echo: bool = False,
    ) -> None:
        self._began = time.monotonic()
        self._process: subprocess.Popen[bytes] | BaseProcess
        output.parent.mkdir(parents=True, exist_ok=True)
        with open(output, "wb") as file:
            variables = {**environment(), **place}
            if warm:
                self._process = _fork(command[1:], output, cwd, variables)
            else:
                self._process = subprocess.Popen(
                    command,
                    cwd=cwd,
                    env=variables,
                    stdin=subprocess.DEVNULL,
                    stdout=None if echo else file,
                    stderr=file,
                    start_new_session=True,
                    # Slurm sends this process's SIGUSR2 to the job as well; only SIGTERM asks the job to save
                    preexec_fn=_ignore_sigusr2 if callable(signal.getsignal(signal.SIGUSR2)) else None,
                )
        self._output, self._under_torchrun = output, "torch.distributed.run" in command
        self._errors = open(output, "rb") if echo else None  # noqa: SIM115  # open while the process runs

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def poll(self) -> int | None:
        """The exit code, or None while it runs; under torchrun, that of the process that failed first.

        With `echo`, copies what is new in stderr to the terminal.
        """
        process = self._process
        code = process.poll() if isinstance(process, subprocess.Popen) else process.exitcode
        if self._errors and (chunk := self._errors.read()):
            with suppress(OSError):  # the terminal has gone; the job goes on
                os.write(2, chunk)
        if self._errors and code is not None:
            self._errors.close()
        return _code_under_torchrun(self._output) or code if code == 1 and self._under_torchrun else code

    def stop(self, times: int) -> None:
        """Ask it to stop: first to save and end, then to end at once; the third time kills it with all that it started.

        torchrun gives each of its processes a session of its own, so that killing a group would leave them training.
        """
        assert self._process.pid
        if times < 3:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)
            return
        started = _started_by(self._process.pid)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for pid in started:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _started_by(pid: int) -> list[int]:
    """The processes that a process has started, directly or through others, as far as /proc shows them."""
    children: dict[int, list[int]] = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            # "17 (name) S 1 ...": its parent is the second word behind the name, which may have brackets of its own
            children[int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])].append(
                int(stat.parent.name)
            )
    found = list(children[pid])
    for each in found:  # grows
        found += children[each]
    return found


def _code_under_torchrun(output: Path) -> int:
    """torchrun itself exits with 1, and its summary names the codes of the processes, the root cause last; 0: none."""
    codes = re.findall(r"^ *exitcode *: (-?\d+) ", output.read_text(errors="replace"), re.M)
    return int(codes[-1]) if codes else 0


def explain_failure(code: int, output: Path) -> str:
    """Why a job failed: the signal that killed it, else its last `error:` message, else its exit code and last line."""
    if code < 0:
        hint = ": out of memory, or killed by hand" if code == -signal.SIGKILL else ""
        return f"killed by {signal.Signals(-code).name}{hint}"
    if code == 0:
        return "it ended without a result"
    lines = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    for i in reversed(range(len(lines))):
        if lines[i].startswith("error: "):
            return "\n".join(lines[i:][:20]).removeprefix("error: ")
    return f"exit code {code}" + (f": {lines[-1]}" if lines else "")


def _ignore_sigusr2() -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def _fork(words: Sequence[str], output: Path, cwd: Path | str, variables: dict[str, str]) -> Any:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the server reads it once, when it imports torch
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vmp.jobs.preloaded"])
    arguments = (list(words), str(output), str(cwd), variables)
    resource_tracker.ensure_running()  # its start would unblock the signal again
    # Ctrl-C reaches every process of a terminal: a server that is just starting would show a traceback
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        for attempt in range(FORK_ATTEMPTS):
            process = context.Process(target=_run_forked, args=arguments)
            try:
                process.start()
                break
            except (EOFError, ConnectionError):  # the server was killed, as when memory runs out
                if attempt == FORK_ATTEMPTS - 1:
                    raise
                time.sleep(0.5)  # once its end is known, start() starts another server
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def _run_forked(words: list[str], output: str, cwd: str, variables: dict[str, str]) -> None:
    """What a forked process runs: `words` are a script and its arguments."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # forgets one that came before the session
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # blocked in the server
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(variables)
    file = os.open(output, os.O_WRONLY | os.O_TRUNC)
    os.dup2(file, 1), os.dup2(file, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    os.chdir(cwd)
    sys.argv = words
    try:
        runpy.run_path(str(Path(cwd) / words[0]), run_name="__main__")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
