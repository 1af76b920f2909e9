"""Which clips of a split can be used, and with which reader: decided before training starts.

Notable here:
- each file gets a reader that was measured to be exact for it, or nothing starts; frame folders have their own;
- clips that are missing or unreadable are counted against `data.max_bad_fraction`, and the counts go to the result.
"""

import hashlib
import shlex
from dataclasses import dataclass, field

from vmp.data.decode import ON_GPU, OPTIONAL, check_reader
from vmp.data.frames import FRAMES, RATE_KEYS
from vmp.data.manifest import Clip, Manifest, inside
from vmp.errors import DataError, shortlist


@dataclass(frozen=True, slots=True)
class Present:
    """The usable clips of a split, and why the others are not."""

    clips: tuple[Clip, ...]
    readers: tuple[str, ...]  # one per clip
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
    usable: list[Clip] = []
    readers: list[str] = []
    bad: dict[str, str] = {}
    inexact: list[str] = []
    found: dict[str, str] = {}  # path -> the reader that needs no measuring; empty: the file is missing
    for clip in manifest.clips:
        if clip.status != "ok":
            why = clip.tags.get("problem", "")
            bad[clip.id] = f"{clip.status}: {clip.path}" + (f" ({why})" if why else "")
            continue
        if clip.path not in found:
            try:
                file = inside(manifest.root, clip.path)
                found[clip.path] = FRAMES if file.is_dir() else "pyav" if file.is_file() else ""
            except ValueError as error:
                raise DataError(f"{manifest.path}: clip {clip.id}: {error}") from None
        exact = clip.readers or (found[clip.path],)
        if not found[clip.path] or (FRAMES in exact) != (found[clip.path] == FRAMES):
            bad[clip.id] = f"missing: {clip.path}"
            continue
        if FRAMES in exact:
            usable.append(clip)
            readers.append(FRAMES)
            continue
        if reader not in ("auto", "pyav", *exact):
            inexact.append(f"{clip.path}: exact are {', '.join(exact)}")
            continue
        usable.append(clip)
        first = next((name for name in exact if name not in ON_GPU), "pyav")
        readers.append(first if reader == "auto" else reader)
    if inexact:
        measuring = ""
        if reader in OPTIONAL:
            where = ["verify", str(manifest.path), "--root", str(manifest.root), "--reader", reader]
            measuring = f"\nTo measure: {shlex.join(['python', 'scripts/prepare.py', *where])}"
        raise DataError(
            f"data.reader={reader} was not measured to give the exact frames of {len(inexact)} of "
            f"{len(manifest.clips)} clips in {manifest.path}:\n{shortlist(inexact)}\n"
            "Use data.reader=auto (the fastest exact reader for each file) or data.reader=pyav (always exact)."
            f"{measuring}"
        )
    present = Present(tuple(usable), tuple(readers), len(manifest.clips), bad)
    check_bad(bad, present.total, max_bad_fraction, where=str(manifest.path))
    if not usable:
        raise DataError(f"{manifest.path}: none of its {len(manifest.clips)} clips can be used")
    return present


def check_bad(bad: dict[str, str], total: int, max_bad_fraction: float, *, where: str) -> None:
    """Raise DataError when more than the allowed share of clips is bad."""
    if len(bad) > max_bad_fraction * total:
        raise DataError(
            f"{where}: {len(bad)} of {total} clips cannot be used, more than data.max_bad_fraction="
            f"{max_bad_fraction:g} allows:\n{shortlist([f'{i}: {reason}' for i, reason in bad.items()])}\n"
            "Put the files right, or raise data.max_bad_fraction (the same run may continue with another); "
            "the counts are kept in the result."
        )


def check_rates(manifest: Manifest, present: Present, fps: float | None) -> None:
    """Raise DataError for frame folders of unknown rate, where a stride is meant for videos of `fps`."""
    pairs = zip(present.clips, present.readers, strict=True)
    if fps and (unknown := [clip.path for clip, reader in pairs if reader == FRAMES and not clip.fps]):
        raise DataError(
            f"{manifest.path}: {len(unknown)} clip(s) are frame folders of unknown frame rate:\n{shortlist(unknown)}\n"
            f"The backbone's stride is meant for videos of {fps:g} frames per second: give the folders' rate, "
            f"{RATE_KEYS}. With {fps:g} the stride counts frames."
        )


def digest(manifest: Manifest, present: Present) -> str:
    """SHA-256 of a split's classes and usable clips with their labels and spans, in order.

    The rate is in it where no file says it.
    """
    rows = [
        (c.id, c.path, c.label, c.start, c.length, *filter(None, [c.times, reader == FRAMES and c.fps]))
        for c, reader in zip(present.clips, present.readers, strict=True)
    ]
    return hashlib.sha256(repr((manifest.classes, rows)).encode()).hexdigest()
