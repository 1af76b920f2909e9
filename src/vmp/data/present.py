"""Which clips of a split can be used, and with which reader: decided before training starts.

Notes:
- each file gets a reader that was measured to be exact for it, or nothing starts; frame folders have their own;
- clips that are missing or unreadable are counted against `data.max_bad_fraction`, and the counts go to the result.
"""

import hashlib
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vmp.data.columns import STATUSES, Clip, Clips
from vmp.data.decode import ON_GPU, OPTIONAL, READERS, check_reader
from vmp.data.frames import FRAMES, RATE_KEYS
from vmp.data.manifest import Manifest, inside, real_path
from vmp.errors import DataError, shortlist
from vmp.invocation import command_line

READER_NAMES = (*READERS, FRAMES)
_MISSING, _FILE, _FOLDER = range(3)
_NONE = 255


@dataclass(frozen=True, slots=True)
class Present:
    """The usable clips of a split, and why the others are not."""

    clips: Sequence[Clip]
    readers: Sequence[str]  # one per clip
    total: int
    bad: dict[str, str] = field(default_factory=dict)  # clip id -> "missing", "unreadable: ..." or "partial"

    def counts(self) -> dict[str, int]:
        missing = sum(reason.startswith("missing") for reason in self.bad.values())
        return {
            "expected": self.total,
            "present": len(self.clips),
            "missing": missing,
            "unreadable": len(self.bad) - missing,
        }


def find_clips(manifest: Manifest, *, reader: str = "auto", max_bad_fraction: float) -> Present:
    """Sort a manifest's clips into usable and bad ones and choose a reader for each.

    Args:
        reader: "auto" takes the first that the manifest lists as exact for the file; a name requires that one, of
            videos.

    Raises:
        DataError: too many clips are bad, none is left, a link leaves the root, or a file's frames are not exact.
        ConfigError: the reader cannot work on this machine.
    """
    check_reader(reader)
    clips = Clips.of(manifest.clips)
    bad = dict(_unusable(clips))
    there = np.flatnonzero(clips.numbers("status") == STATUSES.index("ok"))
    paths = clips.texts("path")
    kinds = _find_files(manifest, clips, [(row, paths[row]) for row in there.tolist()])
    chosen = np.full(len(clips), _NONE, np.uint8)  # the reader of each clip
    inexact: list[str] = []
    for number, exact in enumerate(clips.columns.readers):
        rows = there[clips.numbers("readers")[there] == number]
        wants_folder = np.uint8(FRAMES in exact) if exact else kinds[rows] == _FOLDER
        found = kinds[rows]
        is_right = (found == np.where(wants_folder, _FOLDER, _FILE)) & (found != _MISSING)
        bad |= {clips[row].id: f"missing: {paths[row]}" for row in rows[~is_right].tolist()}
        videos = rows[is_right & (found == _FILE)]
        chosen[rows[is_right & (found == _FOLDER)]] = READER_NAMES.index(FRAMES)
        allowed = exact or ("pyav",)
        if reader not in ("auto", "pyav", *allowed):
            inexact += [f"{paths[row]}: exact are {', '.join(allowed)}" for row in videos.tolist()]
            continue
        first = next((name for name in allowed if name not in ON_GPU), "pyav")
        chosen[videos] = READER_NAMES.index(first if reader == "auto" else reader)
    if inexact:
        measuring = ""
        if reader in OPTIONAL:
            where = ["verify", str(manifest.path), "--root", str(manifest.root), "--reader", reader]
            measuring = f"\nTo measure: {command_line('prepare')} {shlex.join(where)}"
        raise DataError(
            f"data.reader={reader} was not measured to give the exact frames of {len(inexact)} of "
            f"{len(manifest.clips)} clips in {manifest.path}:\n{shortlist(inexact)}\n"
            "Use data.reader=auto (the first exact reader of each file) or data.reader=pyav (always exact)."
            f"{measuring}"
        )
    usable = np.flatnonzero(chosen != _NONE)
    in_order = {name: bad[name] for name in clips.texts("id") if name in bad} if bad else {}
    readers = tuple(READER_NAMES[code] for code in chosen[usable].tolist())
    present = Present(clips.take(usable), readers, len(clips), in_order)
    elsewhere = ""
    if len(there) and not kinds[there].any():
        elsewhere = (
            f"None of them is in {manifest.root}, where they are looked for: if they are elsewhere, name that folder "
            "with dataset.root=FOLDER (evaluate.py: root=FOLDER). "
        )
    check_bad(in_order, present.total, max_bad_fraction, where=str(manifest.path), elsewhere=elsewhere)
    if not len(usable):
        raise DataError(f"{manifest.path}: none of its {len(manifest.clips)} clips can be used")
    return present


def check_bad(
    bad: dict[str, str], total: int, max_bad_fraction: float, *, where: str, elsewhere: str = ""
) -> None:
    """Raise DataError when more than the allowed share of clips is bad. elsewhere: a sentence on where they may be."""
    if len(bad) > max_bad_fraction * total:
        raise DataError(
            f"{where}: {len(bad)} of {total} clips cannot be used, more than data.max_bad_fraction="
            f"{max_bad_fraction:g} allows:\n{shortlist([f'{i}: {reason}' for i, reason in bad.items()])}\n"
            f"{elsewhere}Repair or replace the files, or raise data.max_bad_fraction (the same run may continue with "
            "another); the counts are kept in the result."
        )


def check_rates(present: Present, fps: float | None, *, where: str = "") -> None:
    """Raise DataError for frame folders of unknown rate, where a stride is meant for videos of `fps`.

    where: the manifest that names them, for the message; "": none.
    """
    if not fps or FRAMES not in present.readers:
        return
    pairs = zip(present.clips, present.readers, strict=True)
    if unknown := [clip.path for clip, reader in pairs if reader == FRAMES and not clip.fps]:
        raise DataError(
            f"{where}{': ' if where else ''}{len(unknown)} clip(s) are frame folders of unknown frame rate:\n"
            f"{shortlist(unknown)}\n"
            f"The backbone's stride is meant for videos of {fps:g} frames per second: give the folders' rate, "
            f"{RATE_KEYS}. With {fps:g} the stride counts frames."
        )


def digest(manifest: Manifest, present: Present) -> str:
    """SHA-256 of a split's classes and usable clips with their labels and spans, in order.

    The rate is in it where no file says it.
    """
    clips = Clips.of(present.clips)
    timed, rates = clips.texts("times"), clips.numbers("fps").tolist()
    rows = zip(
        *(clips.texts("id"), clips.texts("path"), clips.numbers("label").tolist()),
        *(clips.numbers("start").tolist(), clips.lengths().tolist()),
        strict=True,
    )
    total = hashlib.sha256(f"({manifest.classes!r}, [".encode())
    for number, (row, times, fps, reader) in enumerate(zip(rows, timed, rates, present.readers, strict=True)):
        more = (*row, *filter(None, [times, reader == FRAMES and fps])) if times or reader == FRAMES else row
        total.update(f"{', ' if number else ''}{more!r}".encode())
    total.update(b"])")
    return total.hexdigest()


def _unusable(clips: Clips) -> Iterator[tuple[str, str]]:
    """Yield the ids of clips that the manifest says cannot be used, and why."""
    for row in np.flatnonzero(clips.numbers("status") != STATUSES.index("ok")).tolist():
        clip = clips[row]
        why = clip.tags.get("problem", "")
        yield clip.id, f"{clip.status}: {clip.path}" + (f" ({why})" if why else "")


def _find_files(manifest: Manifest, clips: Clips, paths: Sequence[tuple[int, str]]) -> np.ndarray:
    """What lies at each clip's path, (N,): _MISSING, _FILE or _FOLDER. Folders are listed once, instead of asking for
    each file.

    Raises:
        DataError: a link leaves the root.
    """
    kinds = np.full(len(clips), _MISSING, np.uint8)
    listings: dict[str, dict[str, int]] = {}
    known: dict[str, int] = {}
    for row, path in paths:
        if (kind := known.get(path)) is None:
            home, _, name = path.rpartition("/")
            try:
                if home not in listings:
                    listings[home] = _list(real_path(manifest.root, home) if home else manifest.root)
                kind = listings[home].get(name)
                # absent, a link, or spelled otherwise than the system lists it
                if kind is None or kind == _FOLDER:
                    file = inside(manifest.root, path)
                    kind = _FOLDER if file.is_dir() else _FILE if file.is_file() else _MISSING
            except ValueError as error:
                raise DataError(f"{manifest.path}: clip {clips[row].id}: {error}") from None
            known[path] = kind
        kinds[row] = kind
    return kinds


def _list(folder: Path) -> dict[str, int]:
    """Name -> _FILE or _FOLDER of what lies in a folder, without links; empty if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return {
                entry.name: _FOLDER if entry.is_dir() else _FILE
                for entry in entries
                if not entry.is_symlink() and (entry.is_file() or entry.is_dir())
            }
    except OSError:
        return {}
