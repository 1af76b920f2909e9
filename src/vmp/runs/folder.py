"""A run's folder: named by what the run is, locked while it trains, and kept from runs with another config or data."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from vmp.config import Config, check
from vmp.data.manifest import write_classes
from vmp.errors import ConfigError, RunError
from vmp.files import write_json, write_text
from vmp.runs.records import read_config, read_digests

# settings that change how fast a run goes or what it prints, not what comes out of it
RUNTIME = {
    "dataset": {"folder", "root"},  # the data themselves are compared by digest
    "trainer": {
        "device",
        "workers",
        "threads",
        "save_minutes",
        "save_steps",
        "max_minutes",
        "keep",
        "keep_finished",
    },
    "data": {"root", "keep", "timeout", "max_bad_fraction"},
    "output": ...,
    "logger": ...,
}


OTHER_DATA = "dataset.name=WORD, which gives its runs a folder of their own"


def begun(folder: Path) -> bool:
    """Whether there is something to protect: a start that failed leaves no checkpoint."""
    written = (folder / "result.json").exists() or any((folder / "checkpoints").glob("step_*"))
    return written and (folder / "config.yaml").exists()


def config_of(folder: Path, raw: dict[str, Any] | None = None) -> Config:
    """A run's config, checked. raw: its values with changes, where some are to be others than in its config.yaml.

    Raises:
        RunError: there is no run, or another version of the project made it.
    """
    if not (folder / "config.yaml").is_file():
        raise RunError(f"{folder}: no run there (no config.yaml)")
    try:
        return check(read_config(folder / "config.yaml") if raw is None else raw)
    except ConfigError as error:
        raise RunError(
            f"{folder}: its config.yaml is not one that this version of the project reads:\n{error}\n"
            "Use the version that made it (the commit is in its result.json)."
        ) from None


def check_same_run(folder: Path, raw: dict[Any, Any]) -> None:
    """Raise RunError if the folder holds a run with another config."""
    if not begun(folder):
        return
    kept = folder / "config.yaml"
    before = read_config(kept)
    changes = list(differences(what_matters(before), what_matters(raw)))
    if changes:
        older = any("(absent)" in change for change in changes)
        advice = "Use tag=WORD for a run beside it, or move the folder away."
        if any(change.startswith("dataset.") for change in changes):
            advice = f"For another dataset use {OTHER_DATA}. Else use tag=WORD, or move the folder away."
        if any(change.startswith("trainer.epochs: ") for change in changes):
            advice += (
                "\nThe learning rate follows trainer.epochs, so a run is never made longer or shorter. To train on "
                f"from its weights, with a new optimizer and schedule: init_from={folder} tag=WORD, with "
                "trainer.epochs= the number of further epochs."
            )
        raise RunError(
            f"{folder} holds a run with another config"
            f"{', made by another version of the project' if older else ''}:\n  "
            + "\n  ".join(changes)
            + f"\n{advice}"
        )


def check_same_data(folder: Path, digests: dict[str, str]) -> None:
    """Raise RunError if the run was made with other clips, labels or spans."""
    if not begun(folder):
        return
    kept = folder / "data.json"
    before = read_digests(kept)
    changed = [split for split, value in digests.items() if before.get(split, value) != value]
    if changed:
        raise RunError(
            f"{folder}: the clips of {' and '.join(changed)} are not those that the run began with (files, labels, "
            "spans or classes have changed since). Put them back, or use tag=WORD for a new run; for another dataset "
            f"use {OTHER_DATA}."
        )


def check_writable(folder: Path) -> None:
    """Raise RunError where no folder can be made there."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "permission denied" if there.is_dir() else "not a folder"
        raise RunError(f"{folder} cannot be written ({there}: {why}); choose another with output=FOLDER")


@contextmanager
def run_folder(folder: Path, raw: dict[Any, Any], *, first: bool) -> Iterator[None]:
    """Make the run's folder and lock it; nothing on other processes than the first.

    Raises:
        RunError: it cannot be written, another process has it, or it holds a run with another config.
    """
    from filelock import FileLock, Timeout

    if not first:
        yield
        return
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise RunError(
            f"{folder}: another process is training there; use tag=WORD for a run beside it"
        ) from None
    except OSError as error:
        raise RunError(
            f"{folder} cannot be written ({error.strerror}); choose another with output=FOLDER"
        ) from None
    try:
        check_same_run(folder, raw)
        yield
    finally:
        lock.release()


def keep_records(folder: Path, raw: dict[Any, Any], digests: dict[str, str], classes: Sequence[str]) -> None:
    """Write the config, the data's digests and the classes into the run's folder."""
    kept = {key: value for key, value in raw.items() if key != "hydra"}
    write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(kept)))
    write_json(folder / "data.json", digests)
    write_classes(folder / "classes.txt", classes)


def differences(before: Any, after: Any, key: str = "") -> Iterator[str]:
    """`key: before -> after` for every leaf that differs."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(k for k in after if k not in before)]:
            inner = f"{key}.{name}" if key else str(name)
            yield from differences(before.get(name, "(absent)"), after.get(name, "(absent)"), inner)
    elif before != after:
        yield f"{key}: {before} -> {after}"


def what_matters(raw: dict[Any, Any]) -> dict[Any, Any]:
    """The settings that decide what comes out of a run."""
    out: dict[Any, Any] = {}
    for key, value in raw.items():
        hidden: Any = RUNTIME.get(key, set())
        if hidden is not ...:
            out[key] = (
                {k: v for k, v in value.items() if k not in hidden} if isinstance(value, dict) else value
            )
    return out
