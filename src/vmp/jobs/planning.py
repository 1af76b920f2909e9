"""Planning a sweep: the config and the folder of every job are checked before the first one starts."""

import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from vmp.config import check, check_start
from vmp.errors import ConfigError, RunError, UserError
from vmp.explain import explain
from vmp.invocation import command_line
from vmp.jobs.supervisor import Job
from vmp.overrides import for_shell
from vmp.progress import bar
from vmp.ranks import COMMANDS, read_rank
from vmp.runs.folder import begun, check_same_run
from vmp.runs.records import is_finished

MANY = 20  # jobs: for more than this, checking shows a progress bar


def check_started_once() -> None:
    """Raise ConfigError under torchrun, srun or mpirun with several processes: each would start the whole sweep."""
    here = read_rank()
    if "WORLD_SIZE" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ or (here.certain and not here.alone):
        raise ConfigError(
            "a sweep (-m) starts the processes of its jobs itself: run it once, with python, not with "
            f"{COMMANDS.get(here.starter, 'torchrun')}. For jobs of N processes each: {command_line('train')} -m "
            "hydra.sweeper.processes=N ..."
        )


def plan_jobs(
    overrides: Sequence[Sequence[str]], place: Path, compose: Callable[[Sequence[str]], dict[str, Any]]
) -> list[Job]:
    """The jobs of a sweep, each composed and checked.

    Args:
        overrides: of each job.
        place: folder of the sweep.
        compose: returns the resolved config for overrides.

    Raises:
        ConfigError: naming every job that cannot run, or the jobs that would share a folder.
    """
    labels = _make_labels(overrides)
    faults: dict[str, list[str]] = defaultdict(list)  # message -> labels
    by_folder: dict[str, list[int]] = defaultdict(list)
    jobs, raws = [], []

    def check_job(number: int) -> None:
        raw = compose(overrides[number])
        config = check(raw)
        folder, output = config.folder, place / str(number) / "output.txt"
        is_done = partial(is_finished, folder)
        job = Job(labels[number], tuple(overrides[number]), str(folder), output, is_done)
        job.state = "finished before" if job.is_done() else "waiting"
        jobs.append(job)
        raws.append(raw)
        by_folder[os.path.normpath(folder)].append(number)
        if not begun(folder):
            check_start(config)

    many = len(labels) > MANY
    if many:
        print(f"checking the configs of {len(labels)} jobs", flush=True)
    with bar("checking", len(labels), shown=many) as progress:
        for number, label in enumerate(labels):
            try:
                check_job(number)
            except UserError as error:
                faults[str(error)].append(label)
            except (HydraException, OmegaConfBaseException) as error:
                faults[explain(error)].append(label)
            progress.advance()
    shared = next((numbers for numbers in by_folder.values() if len(numbers) > 1), None)
    if not faults and not shared:
        for job, raw in zip(jobs, raws, strict=True):
            try:
                check_same_run(Path(job.folder), raw)
            except RunError as error:
                faults[str(error)].append(job.label)
    if faults:
        raise ConfigError("\n".join(_name_jobs(*fault, len(labels)) for fault in faults.items()))
    if not shared:
        return jobs

    def separates(tag: str) -> bool:
        """Whether the jobs can run with this override, each in a folder of its own."""
        try:
            return len({check(compose([*overrides[n], tag])).folder for n in shared}) == len(shared)
        except (UserError, HydraException, OmegaConfBaseException):
            return False

    raise ConfigError(_explain_shared_folder([jobs[n] for n in shared], raws[shared[0]], separates))


def _make_labels(overrides: Sequence[Sequence[str]]) -> list[str]:
    """For each job, the overrides that not all jobs have."""
    same = set(overrides[0]).intersection(*overrides[1:]) if len(overrides) > 1 else set()
    return [
        " ".join(o for o in each if o not in same) or " ".join(each) or "(the defaults)" for each in overrides
    ]


def _name_jobs(message: str, labels: list[str], count: int) -> str:
    """The message, with the jobs it is about unless it is about all of them."""
    if len(labels) == count:
        return message
    return f"{message}\n  in {len(labels)} of {count} jobs: {_shorten(labels)}"


def _shorten(labels: Sequence[str]) -> str:
    more = len(labels) - 5
    return "; ".join(labels[:5]) + (f"; and {more} more" if more > 0 else "")


def _explain_shared_folder(jobs: list[Job], raw: dict[str, Any], separates: Callable[[str], bool]) -> str:
    """What to do about jobs whose folders have the same name: add a tag, which is proposed only if it works.

    Args:
        raw: the config of the first one.
        separates: whether an override gives each job a folder of its own.
    """
    if len({tuple(sorted(job.arguments)) for job in jobs}) < len(jobs):
        return f"the sweep has the same job more than once: {jobs[0].label}; leave the repeated values out"
    same = set(jobs[0].arguments).intersection(*(job.arguments for job in jobs))
    differing = (o for job in jobs for o in job.arguments if o not in same)
    keys = list(dict.fromkeys(o.partition("=")[0].lstrip("+") for o in differing))
    problem = (
        f"{len(jobs)} jobs would share the folder {jobs[0].folder}: {_shorten([job.label for job in jobs])}\n"
        f"{', '.join(keys)}: not part of a run folder's name, so a tag has to tell the runs apart"
    )
    groups = [key for key in keys if isinstance(raw.get(key), dict) or "/" in key or key == "experiment"]
    sources = {key: f"hydra:runtime.choices.{key}" if key in groups else key for key in keys}
    given = [str(raw["tag"])] if raw.get("tag") else []
    for value in ("${%s}", "${word:%s}"):  # as it is, or as a word that a folder's name may contain
        words = [
            key.rpartition(".")[2].rpartition("/")[2] + value % source for key, source in sources.items()
        ]
        tag = "tag=" + "-".join([*given, *words])
        if "tag" not in keys and separates(tag):
            return f"{problem}; add this to the command:\n  {for_shell(tag)}"
    return f"{problem}: one sweep for each of them, each with its tag=WORD"


def name_sweep(arguments: Sequence[str], overrides: Sequence[Sequence[str]]) -> str:
    """The name of a sweep's folder, the same for the same command: the keys that vary and a digest.

    Args:
        arguments: of the command.
        overrides: of each job.
    """
    varied = dict.fromkeys(
        o.partition("=")[0].rpartition(".")[2].lstrip("+")
        for label in _make_labels(overrides)
        for o in label.split(" ")
        if "=" in o
    )
    words = "-".join(re.sub(r"\W+", "", word) for word in varied)[:60] if len(overrides) > 1 else "one"
    return f"{words or 'sweep'}-{hashlib.sha256(json.dumps(sorted(arguments)).encode()).hexdigest()[:8]}"
