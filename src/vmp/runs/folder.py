"""Protects a run's folder: it is locked during training and refused to runs with another config or other data."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from vmp.config import Config, check
from vmp.errors import ConfigError, RunError
from vmp.runs.records import (
    CONFIG_FILE,
    RESULT_FILE,
    WEIGHTS_FILE,
    is_finished,
    is_run,
    no_run,
    read_config,
    read_digests,
    read_weights,
)

# settings that change the speed of a run or what it prints, but not its result
RUNTIME = {
    "dataset": {"folder", "root"},  # the data themselves are compared by digest
    "trainer": {
        *("device", "workers", "threads", "channels_last", "save_minutes", "save_steps", "max_minutes"),
        *("keep", "keep_finished"),
    },
    "data": {"root", "keep", "timeout", "max_bad_fraction"},
    "output": ...,
    "logger": ...,
}
# keys that other versions lack: with these values a run is what it is without them
ADDED: dict[str, dict[str, Any]] = {
    "dataset": {"split": None},
    "optim": {"clip_norm": None, "layer_decay": 1.0},
    "augment": {"mixup": 0, "cutmix": 0, "rand_ops": 0, "rand_magnitude": 9, "erase": 0},
    "train": {
        **{"precise_bn": 0, "ema": None, "ema_warmup": True},
        **{"patience": None, "sampling": "natural", "class_weights": "none"},
        **{"order_seed": None, "weights_seed": None},
    },
    "vmp": {
        **{"compensate": "none", "scales": [1], "form": "pixel"},
        **{"patch": 8, "pool": "mean_abs", "upsample": "bilinear", "patch_scalars": "shared"},
        **{"regulariser": "temporal", "at": None, "pixels": True},
    },
}
OTHER_DATA = "dataset.name=WORD, which gives its runs a folder of their own"
ABSENT = "(absent)"  # in a list of differences: the value of a key that is not there


def begun(folder: Path) -> bool:
    """Whether the folder holds training that must not be lost; a start that failed leaves no checkpoint."""
    written = is_finished(folder) or any(checkpoints_of(folder).glob("step_*"))
    return written and is_run(folder)


def checkpoints_of(folder: Path) -> Path:
    return folder / "checkpoints"


def load_config(folder: Path, raw: dict[str, Any] | None = None) -> Config:
    """A run's checked config. raw: values to check instead of those in its config.yaml.

    Raises:
        RunError: there is no run, or another version of the project made it.
    """
    if not is_run(folder):
        raise RunError(no_run(folder))
    try:
        return check(read_config(folder) if raw is None else raw)
    except ConfigError as error:
        raise RunError(
            f"{folder}: this version of the project cannot read its {CONFIG_FILE}:\n{error}\n"
            f"Use the version that made it (the commit is in its {RESULT_FILE})."
        ) from None


def check_same_run(folder: Path, raw: dict[Any, Any], advice: str = "") -> None:
    """Raise RunError if the folder holds a run with another config. advice: for other commands than train."""
    if not begun(folder):
        return
    before = read_config(folder)
    changes = list(differences(what_matters(before), what_matters(keep_precision(raw, before))))
    if not changes:
        return
    # options are keys of a user's own
    other = any(ABSENT in change and ".options." not in change for change in changes)
    version = ", made by another version of the project" if other else ""
    listed = "".join(f"  {change}\n" for change in changes)
    problem = f"{folder} holds a run with another config{version}:\n{listed}"
    if advice:
        raise RunError(problem + advice)
    advice = "Use tag=WORD for a run beside it, or move the folder away."
    if any(change.startswith("dataset.") for change in changes):
        advice = f"For another dataset use {OTHER_DATA}. Otherwise use tag=WORD, or move the folder away."
    if any(change.startswith("trainer.epochs: ") for change in changes):
        advice += (
            "\nThe learning rate follows trainer.epochs, so the length of a run cannot be changed. To continue from "
            f"its weights with a new optimizer and schedule: init_from={folder} tag=WORD, and trainer.epochs= the "
            "number of further epochs."
        )
    raise RunError(problem + advice)


def other_place(folder: Path, raw: dict[Any, Any]) -> str:
    """Where the videos or manifests of the run were, if the config names another place for them; or nothing."""
    before, now = read_config(folder).get("dataset", {}), raw["dataset"]
    changed = [
        f"dataset.{key} = {before[key]}"
        for key in ("root", "folder")
        if before.get(key, now.get(key)) != now.get(key)
    ]
    if not changed:
        return ""
    return f"It was trained with {' and '.join(changed)}. If this command means another dataset, add {OTHER_DATA}."


def keep_precision(raw: dict[Any, Any], before: dict[str, Any]) -> dict[Any, Any]:
    """The config with each `auto` of its precision replaced by what the run began with."""
    kept = {
        key: before["trainer"][key]
        for key in ("amp", "tf32", "cudnn_benchmark")
        if raw["trainer"].get(key) == "auto" and key in before["trainer"]
    }
    return {**raw, "trainer": {**raw["trainer"], **kept}} if kept else raw


def check_same_data(folder: Path, digests: dict[str, str], advice: str = "") -> None:
    """Raise RunError if the run was made with other clips, labels or spans. advice: for other commands than train."""
    if not begun(folder):
        return
    before = read_digests(folder)
    changed = [split for split, value in digests.items() if before.get(split, value) != value]
    if changed:
        raise RunError(
            f"{folder}: the clips of {' and '.join(changed)} are not those with which the run began (files, labels, "
            "spans or classes have changed since). "
            + (
                advice
                or f"Restore them, or use tag=WORD for a new run; for another dataset use {OTHER_DATA}."
            )
        )


def check_same_start(folder: Path, advice: str) -> None:
    """Raise RunError if the run started from a file of weights that has other content now, because they were trained or
    fetched again. A file that is no longer there says nothing, nor do runs of versions that recorded no SHA-256."""
    if not begun(folder) or not (folder / WEIGHTS_FILE).is_file():
        return
    start = read_weights(folder)
    file, then = Path(str(start.get("source", ""))), start.get("sha256")
    if then and file.is_file() and (now := _sha256_once(file, file.stat().st_mtime_ns)) != then:
        raise RunError(
            f"{folder} started from {file}, which holds other weights now:\n  SHA-256 {then} (then)\n  SHA-256 {now} "
            f"(now)\nRuns that start from different weights cannot be compared. {advice}"
        )


@lru_cache(maxsize=64)  # many runs start from the same file
def _sha256_once(file: Path, changed: int) -> str:
    from vmp.transfer import sha256_of  # its network modules take time to import

    return sha256_of(file)


def check_writable(folder: Path, advice: str = "choose another with output=FOLDER") -> None:
    """Raise RunError, which ends with the advice, if the folder cannot be made or written."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "permission denied" if there.is_dir() else "not a folder"
        raise RunError(f"{folder} cannot be written ({there}: {why}); {advice}")


def check_file(path: Path, option: str) -> None:
    """Raise RunError if a file cannot be made or replaced. option: what names it, such as `--csv ` or `out=`."""
    if path.is_dir():
        raise RunError(f"{option}{path}: cannot be written (a folder); name a file")
    check_writable(path.parent, f"choose another file with {option.strip()}")


@contextmanager
def locked(folder: Path, busy: str) -> Iterator[None]:
    """Context in which a folder exists and this process alone works in it.

    Raises:
        RunError: it cannot be written, or another process has locked it, which `busy` says.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise RunError(busy) from None
    except OSError as error:
        raise RunError(
            f"{folder} cannot be written ({error.strerror}); choose another with output=FOLDER"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def run_folder(folder: Path, raw: dict[Any, Any], *, first: bool) -> Iterator[None]:
    """Context in which the run's folder exists and is locked. Processes other than the first do nothing.

    Raises:
        RunError: the folder cannot be written, another process has locked it, or it holds a run with another config.
    """
    if not first:
        yield
        return
    with locked(folder, f"{folder}: another process is training there; use tag=WORD for a run beside it"):
        check_same_run(folder, raw)
        yield


def differences(before: Any, after: Any, key: str = "") -> Iterator[str]:
    """Yield `key: before -> after` for every value that differs; ABSENT stands for a key that one of them lacks."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(k for k in after if k not in before)]:
            inner = f"{key}.{name}" if key else str(name)
            yield from differences(before.get(name, ABSENT), after.get(name, ABSENT), inner)
    elif before != after:
        yield f"{key}: {before} -> {after}"


def what_matters(raw: dict[Any, Any]) -> dict[Any, Any]:
    """The settings that decide the result of a run. Paths below `output` are relative to it, so that it may move."""
    out = _without_output(raw)
    hidden: Any
    for section, hidden in RUNTIME.items():
        if hidden is ...:
            out.pop(section, None)
        elif isinstance(out.get(section), dict):
            out[section] = {key: value for key, value in out[section].items() if key not in hidden}
    for section, neutral in ADDED.items():
        if isinstance(out.get(section), dict):
            kept = {k: v for k, v in out[section].items() if k not in neutral or v != neutral[k]}
            out[section] = kept
            if not kept:
                del out[section]
    return out


def _without_output(raw: dict[Any, Any]) -> dict[Any, Any]:
    """The config with the paths of other runs, where these lie below `output`, as they are from there."""
    home = Path(str(raw.get("output", "")))

    def inside(path: Any) -> Any:
        below = isinstance(path, str) and "output" in raw and Path(path).is_relative_to(home)
        return f"<output>/{Path(path).relative_to(home).as_posix()}" if below else path

    out = dict(raw)
    if "init_from" in out:
        out["init_from"] = inside(out["init_from"])
    if isinstance(prompts := out.get("vmp"), dict) and "level" in prompts:
        out["vmp"] = {**prompts, "level": inside(prompts["level"])}
    return out


def matters_but_for(raw: dict[Any, Any], *keys: str) -> str:
    """Equal for runs whose results differ by these keys only, each the name of a section or SECTION.KEY."""
    out = what_matters(raw)
    for section, _, key in (name.partition(".") for name in keys):
        if key and isinstance(out.get(section), dict):
            out[section] = {name: value for name, value in out[section].items() if name != key}
        else:
            out.pop(section, None)
    return json.dumps(out, sort_keys=True, default=str)
