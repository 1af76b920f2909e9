"""Continues a run from one checkpoint, the same on all of its processes.

Notes:
- the first process chooses the checkpoint; the others read the one of that name, and all compare name, step and
  digest before anything is trained or written. If the disk shows the processes different files, the run stops;
- each session (one start of the command) compares its machine and code with those of the session before it, and logs
  what changed.
"""

import os
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vmp.engine import checkpoint
from vmp.engine.checkpoint import Checkpoint
from vmp.engine.dist import Processes
from vmp.engine.learner import Learner
from vmp.engine.loggers import Log
from vmp.engine.plan import TrainingPlan, TrainingState
from vmp.errors import RunError, shortlist
from vmp.machine import device_name
from vmp.provenance import commit
from vmp.runs.folder import differences

TRIES, PAUSE = 5, 1.0  # seconds; a network disk may show a new folder to other machines with a delay


def check_alike(processes: Processes, config: dict[str, Any], data: dict[str, str], log: Log) -> None:
    """Compare the settings and the digests of the splits that each process has read; all processes raise together.

    Raises:
        RunError: a process has other settings, or other videos on its disk.
    """
    if processes.world == 1:
        return
    code = {"commit": commit(), "torch": str(torch.__version__)}
    parts = processes.gather((socket.gethostname(), config, data, code))
    (_, config0, data0, code0), faults = parts[0], list[str]()
    for rank, (host, settings, digests, _) in enumerate(parts):
        here = [f"{change} (process 0 -> process {rank})" for change in differences(config0, settings)]
        other_data = (split for split in data0 if digests.get(split) != data0[split])
        here += [f"the clips of {split} are not those of process 0" for split in other_data]
        faults += [f"process {rank} ({host}): {fault}" for fault in here]
    if faults:
        raise RunError(
            "the processes of this run would train on different data or settings; nothing was written:\n"
            f"{shortlist(faults)}\n"
            "Start every process with the same command. Files that are missing on one machine, labels or spans "
            "that differ there show as other clips: compare the data folders of the machines."
        )
    for rank, (host, _, _, code) in enumerate(parts):
        if code != code0:
            log.warn(f"process {rank} ({host}) runs other code than process 0: {_changes(code0, code, code)}")


def agree_on_checkpoint(
    folder: Path, choose: Callable[[Path], Checkpoint | None], processes: Processes
) -> Checkpoint | None:
    """The checkpoint that the first process chooses from the folder, read by every process; None: it found none.

    Raises:
        RunError: on all processes together: one of them cannot read it, reads other bytes, or sees a newer one.
    """
    if processes.world == 1:
        return choose(folder)
    found, problem = None, ""
    if processes.first:
        try:
            found = choose(folder)
        except RunError as error:
            problem = str(error)
    name, problem = processes.gather((found and found.path.name, problem))[0]
    if problem:
        raise RunError(problem)
    if not processes.first and name:
        found, problem = _patiently(folder / name)
    seen = [path.name for path in checkpoint.steps_in(folder)]
    parts = processes.gather((socket.gethostname(), str(folder), _identity(found), problem, seen))
    (_, _, chosen, _, first_seen), wrong, lines = parts[0], False, list[str]()
    for rank, (host, where, identity, problem, names) in enumerate(parts):
        unseen = sorted(set(names) - set(first_seen))
        newer = unseen[-1] if unseen and unseen[-1] > max(first_seen, default="") else None
        wrong |= identity != chosen or newer is not None
        what = problem or (
            "no checkpoint" if identity is None else "{}, step {}, digest {:.12}".format(*identity)
        )
        also = f"; and {newer}, which process 0 does not see" if newer else ""
        lines.append(f"process {rank} on {host}: {what}{also} (in {where})")
    if wrong:
        raise RunError(
            f"the processes of this run do not find the same checkpoint; nothing was trained or overwritten:\n"
            f"{shortlist(lines)}\n"
            "`output` must be one folder that every machine sees. If it is, its network disk lags behind or fails: "
            "the same command tries again."
        )
    return found


def _identity(found: Checkpoint | None) -> tuple[str, int, str] | None:
    if found is None:
        return None
    step = found.state["progress"]["step"] if "progress" in found.state else -1
    return found.path.name, step, found.digest


def _patiently(path: Path) -> tuple[Checkpoint | None, str]:
    """The checkpoint, or why it cannot be read."""
    for left in reversed(range(TRIES)):
        try:
            os.listdir(path.parent)  # makes a network disk look again
            return checkpoint.load(path), ""
        except (RunError, OSError) as error:
            problem = str(error)
        time.sleep(PAUSE if left else 0)
    return None, problem


def restore(found: Checkpoint | None, learner: Learner, plan: TrainingPlan) -> TrainingState:
    """Put a checkpoint into the learner, whose base learning rates stay as they are. Returns the checkpoint's state, or
    a new one without a checkpoint.

    Raises:
        RunError: there are steps left, and the checkpoint is that of a finished run, without the optimizer's state.
    """
    if found is None:
        return TrainingState()
    progress = found.state["progress"]
    if set(progress) != set(TrainingState.__dataclass_fields__):
        lists = [value for value in progress.values() if isinstance(value, list) and value]
        commit_then = (lists and lists[0][-1].get("commit")) or "unknown"
        raise RunError(
            f"{found.path}: another version of the project wrote it (commit {commit_then}), and training cannot "
            "continue from it. Use that version, or start a new run from its weights: "
            f"init_from={found.path.parents[1]} tag=WORD"
        )
    state = TrainingState(**progress)
    optimizer = learner.optimizer
    load_into(learner.model, found.model, found.path)
    if learner.average:
        learner.average.restore(found.state.get("optimizer", {}).pop("trained", None))
    if "optimizer" in found.state:
        rates = [group["lr"] for group in optimizer.param_groups]
        optimizer.load_state_dict(found.state["optimizer"])
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        if learner.scaler.is_enabled():
            learner.scaler.load_state_dict(found.state["scaler"])
    elif not plan.is_over(state):
        raise RunError(
            f"{found.path}: holds the weights of a finished run without the optimizer's state "
            f"(trainer.keep_finished=weights), so training cannot continue from step {state.step} to {plan.steps}. "
            f"A new run can start from these weights: init_from={found.path.parents[1]} tag=WORD"
        )
    return state


def load_into(model: nn.Module, weights: dict[str, torch.Tensor], file: Path) -> None:
    """Load all weights of a run. Raises RunError if they are not those of the model that its records describe."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        faults = [line.strip() for line in str(error).splitlines()[1:]]
        raise RunError(
            f"{file}: does not fit the model of config.yaml and classes.txt:\n{shortlist(faults, 5)}\n"
            "One of these files was changed, or comes from another run."
        ) from None


def record_session(state: TrainingState, processes: Processes, log: Log) -> None:
    """Add this session to the state where its machine or code differs from the one before, and log what changed."""
    here = {
        "processes": processes.world,
        "device": device_name(processes.device),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "commit": commit(),
    }
    before = state.sessions[-1] if state.sessions else {"step": 0, **here}
    changed = [key for key, value in here.items() if before.get(key) != value]
    if "commit" in changed:
        log.warn(
            f"the code has changed since the last session (commit {before.get('commit')} -> {here['commit']}): "
            f"steps after {state.step} use the new code, and result.json lists both commits"
        )
    if elsewhere := _changes(before, here, [key for key in changed if key != "commit"]):
        log.warn(
            f"the run continues with another setup ({elsewhere}): clips, augmentation and learning rates stay the "
            "same, but sums are rounded differently, and batch statistics are those of the clips on one process"
        )
    if changed or not state.sessions:
        state.sessions = [*state.sessions, {"step": state.step, **here}]


def _changes(before: dict[str, Any], after: dict[str, Any], keys: Iterable[str]) -> str:
    return ", ".join(f"{key} {before.get(key)} -> {after[key]}" for key in keys)
