"""Checkpoints: written atomically, and checked when they are read.

Notes:
- a checkpoint is a folder `step_<n>_<epochs validated>` with model.safetensors, optimizer.pt, state.pt (only tensors,
  numbers, strings, lists, dicts), and meta.json with the SHA-256 of each. It is written under another name, synced, and
  renamed;
- checkpoints with the same tensors share their files through hard links, if the file system has them;
- a finished run keeps only weights, as `step_<n>_<epochs>_weights` and `best_<epoch>`, without optimizer.pt;
- loading checks the SHA-256 sums (neither file format has any) and executes no code (`weights_only=True`). If the
  newest checkpoint is damaged, the one before it is used, with a warning.
"""

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vmp.errors import RunError
from vmp.files import read_json, write_tensors
from vmp.transfer import sha256_of

_MODEL, _OPTIMIZER, _STATE = _FILES = ("model.safetensors", "optimizer.pt", "state.pt")
_TEMPORARY = ".writing-"
_WEIGHTS_ONLY = "_weights"


class Checkpoint(NamedTuple):
    """A loaded checkpoint. state: as saved, with `optimizer` if there is one. digest: SHA-256 of the files' sums."""

    path: Path
    model: dict[str, torch.Tensor]
    state: dict[str, Any]
    digest: str


def save(
    folder: Path,
    name: str,
    *,
    model: Mapping[str, torch.Tensor] | Path,
    optimizer: Mapping[str, Any] | Path | None = None,
    state: dict[str, Any],
) -> Path:
    """Write the checkpoint folder/name atomically. An undamaged checkpoint of that name is kept as it is.

    model, optimizer: their state dicts, or a checkpoint with the same content, whose files are linked.

    Raises:
        RunError: it cannot be written. Earlier checkpoints are intact.
    """
    from safetensors import SafetensorError

    temporary, final = folder / f"{_TEMPORARY}{name}", folder / name
    parts = {_MODEL: model, _OPTIMIZER: optimizer, _STATE: state}
    parts = {file: part for file, part in parts.items() if part is not None}
    if final.exists() and _faults(final, needed=parts) is None:
        return final
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        sums = {file: _write(part, temporary / file) for file, part in parts.items()}
        meta = {"sha256": sums, "torch": torch.__version__}
        (temporary / "meta.json").write_text(json.dumps(meta, indent=1))
        for path in (*temporary.iterdir(), temporary):
            _sync(path)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(temporary, final)
        _sync(folder)
    except (
        OSError,
        SafetensorError,
        RuntimeError,
    ) as error:  # RuntimeError: torch's zip writer on a full disk
        shutil.rmtree(temporary, ignore_errors=True)
        raise RunError(
            f"{final}: the checkpoint could not be written ({error}); "
            "the ones before are untouched. Free some space and run the same command again to continue."
        ) from error
    return final


def load(path: Path) -> Checkpoint:
    """Read one checkpoint to the CPU and check it against its sums.

    Raises:
        RunError: a file is missing or damaged.
    """
    from safetensors.torch import load_file

    if fault := _faults(path):
        raise RunError(fault)
    sums = _sums(path)
    try:
        parts = {
            file: torch.load(path / file, map_location="cpu", weights_only=True)
            for file in (_OPTIMIZER, _STATE)
            if file in sums
        }
    except pickle.UnpicklingError as error:
        raise RunError(
            f"{path}: holds objects that a checkpoint must not contain; it was not loaded"
        ) from error
    state = parts[_STATE] | ({"optimizer": parts[_OPTIMIZER]} if _OPTIMIZER in parts else {})
    digest = hashlib.sha256("".join(sums[file] for file in _FILES if file in sums).encode()).hexdigest()
    return Checkpoint(path, load_file(path / _MODEL), state, digest)


def newest(folder: Path, *, warn: Any = print) -> Checkpoint | None:
    """The newest undamaged checkpoint; None if there are no checkpoints.

    Raises:
        RunError: all checkpoints are damaged. The user has to decide whether to start from scratch.
    """
    names = steps_in(folder)
    for path in reversed(names):
        try:
            return load(path)
        except RunError as error:
            warn(f"{error}; trying the checkpoint before it")
    if names:
        raise RunError(
            f"{folder}: all {len(names)} checkpoints are damaged. Move the folder away to start again."
        )
    return None


def keep_weights(folder: Path) -> None:
    """Reduce a finished run's checkpoints to the weights of its last and of its best epoch.

    The newest checkpoint becomes `<name>_weights`, which still has the training state but not the optimizer's: the run
    can be tested again, but not trained further. Files with the same content become hard links, if the file system has
    them.

    Raises:
        RunError, OSError: the newest checkpoint is damaged, or the folder cannot be written. Nothing is lost.
    """
    last_full = steps_in(folder)[-1]
    if not last_full.name.endswith(_WEIGHTS_ONLY):
        state = {key: value for key, value in load(last_full).state.items() if key != "optimizer"}
        save(folder, last_full.name + _WEIGHTS_ONLY, model=last_full, state=state)
    prune(folder, keep=1)
    last = steps_in(folder)[-1] / _MODEL
    for other in folder.glob(f"best_*/{_MODEL}"):
        if not other.samefile(last) and sha256_of(other) == sha256_of(last):
            linked = folder / f"{_TEMPORARY}{other.parent.name}"
            _link(last, linked)
            os.replace(linked, other)


def best(folder: Path) -> Checkpoint | None:
    """The checkpoint of the best epoch so far; None before the first validation."""
    last = newest(folder)
    epoch = last.state["progress"]["best_epoch"] if last else 0
    return load(folder / best_name(epoch)) if epoch else None


def steps_in(folder: Path) -> list[Path]:
    """Checkpoints by step, oldest first."""
    return sorted(folder.glob("step_*")) if folder.is_dir() else []


def best_name(epoch: int) -> str:
    """Name of the checkpoint of the best epoch so far, which holds weights only."""
    return f"best_{epoch:04}"


def prune(folder: Path, *, keep: int, newest: str | None = None) -> None:
    """Remove old checkpoints, and the remains of interrupted writes.

    Kept are the last checkpoint of each of the newest `keep` steps, and the best one up to each of these: if the newest
    is damaged, training continues from an older one, whose best epoch may stay the best.

    newest: name of the checkpoint that the run has just written. Any later ones were damaged when the run continued.
    """
    valid = [path for path in steps_in(folder) if newest is None or path.name <= newest]
    last = {path.name.split("_")[1]: path for path in valid}  # by step
    kept = [*last.values()][-keep:]
    others = [path for path in steps_in(folder) if path not in kept]
    bests = [_best_until(path) for path in kept]
    if None not in bests:
        names = [best_name(epoch) for epoch in bests if epoch]
        others += [path for path in folder.glob("best_*") if path.name not in names]
    for path in (*others, *folder.glob(f"{_TEMPORARY}*")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _best_until(path: Path) -> int | None:
    """The best epoch up to a checkpoint, 0 before the first validation; None if it cannot be read."""
    try:
        state = torch.load(path / _STATE, map_location="cpu", weights_only=True)
        return int(state["progress"]["best_epoch"])
    except Exception:  # of a damaged file, anything
        return None


def _write(part: Any, path: Path) -> str:
    """Write one file of a checkpoint, or link it if `part` is another checkpoint; returns its SHA-256."""
    if isinstance(part, Path):
        _link(part / path.name, path)
        return _sums(part)[path.name]
    if path.name == _MODEL:
        write_tensors(path, part)
    else:
        with open(path, "wb") as file:
            torch.save(part, file)
    return sha256_of(path)


def _sums(path: Path) -> dict[str, str]:
    """File name -> SHA-256, from the checkpoint's meta.json."""
    return read_json(path / "meta.json")["sha256"]


def _faults(path: Path, *, needed: Collection[str] = (_MODEL, _STATE)) -> str | None:
    """Describe what is wrong with a checkpoint; None if it is intact and has the needed files."""
    try:
        sums = _sums(path)
        if unknown := set(sums) - set(_FILES):
            raise KeyError(*unknown)
        for file in _FILES:
            if (file in needed or file in sums) and sha256_of(path / file) != sums[file]:
                return f"{path / file}: damaged, its SHA-256 is not the one in meta.json"
    except (RunError, OSError, ValueError, KeyError, TypeError) as error:
        return f"{path}: incomplete checkpoint ({type(error).__name__}: {error})"
    return None


def _link(source: Path, target: Path) -> None:
    """Hard-link a file; copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
