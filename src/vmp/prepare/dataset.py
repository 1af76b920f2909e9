"""From what a dataset's annotations say (a Plan) to manifests: find the videos, measure or copy them, count, write.

Notable here:
- what can be found wrong without decoding a frame is told before any frame is decoded;
- nothing is written over a failed check unless that is asked for, and then the counts reach every result;
- the manifests' folder also gets dataset.json, which says where the videos are.
"""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock

from vmp.data.manifest import Clip, inside, record_root, write_classes, write_manifest
from vmp.errors import ConfigError, ManifestError, VideoReadError, shortlist
from vmp.files import write_json
from vmp.prepare.children import TIMEOUT
from vmp.prepare.listing import measured
from vmp.prepare.plan import SUFFIXES, Check, Plan, equal, find_videos
from vmp.prepare.report import record, report
from vmp.prepare.rows import in_place_row, tag_short, unmeasured_row

LONG = 1800.0  # seconds: beyond, a source is cut, or read in place only when that is asked for
How = Literal["in place", "cut", "remux"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found. `failed` checks were passed over if something was written all the same."""

    text: str
    failed: tuple[Check, ...]
    written: tuple[Path, ...]  # manifests


def prepare(
    plan: Plan,
    out: Path,
    *,
    how: How = "in place",
    long_in_place: bool = False,
    short_side: int | None = 320,
    allow_missing: bool = False,
    dry_run: bool = False,
    histogram: bool = False,
    workers: int | None = None,
    timeout: float = TIMEOUT,
    progress: bool = True,
) -> Outcome:
    """Write the manifests of a plan, unless a check fails.

    Args:
        how: "in place" uses the videos where they are; "cut" writes every clip as a small file under out/clips; "remux"
            writes whole files there with their packets rearranged, where that makes every reader exact.
        long_in_place: read in place from sources of more than half an hour without complaint.
        short_side: of the clips that are cut; None: as in the source.
        allow_missing: write in spite of failed checks.
        dry_run: write nothing.

    Raises:
        ManifestError: a video is a link that leaves the folder of the videos.
        ConfigError: sources too long to be read in place, or such as `how` cannot be done with.
        DataError: out cannot be written to.
    """
    paths = sorted({item.path for item in plan.items})
    there = {path: _is_there(plan.videos, path) for path in paths}
    lost = [path for path, found in there.items() if not found]
    checks = [*plan.checks, equal("video files", len(paths), len(paths) - len(lost))]
    notes = list(plan.notes)
    if lost:
        notes.append(
            f"{len(lost):,} file(s) not found under {plan.videos}:\n{shortlist(lost)}{_why(plan.videos)}"
        )
    failed = tuple(check for check in checks if not check.ok)
    if dry_run or (failed and not allow_missing):
        unusable = [f"{item.id}: {item.problem}" for item in plan.items if item.problem]
        if unusable:
            notes.append(f"{len(unusable):,} clip(s) cannot be used:\n{shortlist(unusable)}")
        if dry_run:
            from vmp.prepare.copies import estimate

            notes.append(estimate(plan, there, out, how=how, short_side=short_side, workers=workers))
        clips = {
            split: [unmeasured_row(item, there=there[item.path]) for item in items]
            for split, items in plan.splits.items()
        }
        text = report(plan, clips, checks, notes, looked=False, histogram=histogram)
        return Outcome(text, failed, ())
    if how == "in place" and not long_in_place:
        _refuse_long(plan, [path for path, found in there.items() if found])
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / ".lock").touch()
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written to ({error.strerror})") from None
    with FileLock(out / ".lock"):
        if how == "cut":
            from vmp.prepare.copies import cut_rows

            clips = cut_rows(
                plan, there, out, short_side=short_side, workers=workers, timeout=timeout, progress=progress
            )
        elif how == "remux":
            from vmp.prepare.copies import remux_rows

            clips, note = remux_rows(plan, there, out, workers=workers, timeout=timeout, progress=progress)
            notes.append(note)
        else:
            present = [path for path, found in there.items() if found]
            known = measured(
                out / "measured.jsonl",
                plan.videos,
                present,
                progress=progress,
                workers=workers,
                timeout=timeout,
            )
            clips = {
                split: [in_place_row(item, known.get(item.path), clock=plan.clock) for item in items]
                for split, items in plan.splits.items()
            }
        clips = {split: [tag_short(clip) for clip in part] for split, part in clips.items()}
        found = [clip for part in clips.values() for clip in part if clip.status != "missing"]
        unread = [f"{c.id}: {c.status}, {c.tags.get('problem', '')}" for c in found if c.status != "ok"]
        checks.append(equal("clips that can be read", len(found), len(found) - len(unread)))
        if unread:
            notes.append(f"{len(unread):,} clip(s) cannot be read:\n{shortlist(unread)}")
        rates = Counter(f"{clip.fps:.4g}" for clip in found if clip.fps)
        if rates:
            said = ", ".join(f"{count:,} at {rate}" for rate, count in rates.most_common())
            notes.append(f"clips by frames a second: {said}")
        failed = tuple(check for check in checks if not check.ok)
        text = report(plan, clips, checks, notes, looked=True, histogram=histogram)
        if failed and not allow_missing:
            return Outcome(text, failed, ())
        side = short_side if how == "cut" else None
        settings = {"how": how, "short_side": side, "allow_missing": allow_missing}
        written = _write(plan, clips, out, plan.videos if how == "in place" else out)
        write_json(out / "prepare.json", record(plan, clips, checks, notes, lost, settings))
    return Outcome(text, failed, written)


def _is_there(root: Path, path: str) -> bool:
    try:
        return inside(root, path).is_file()
    except ValueError as error:
        raise ManifestError(str(error)) from None


def _why(root: Path) -> str:
    """What may keep files from being found, and what to do, on lines of its own."""
    links = [entry.name for entry in os.scandir(root) if entry.is_symlink() and entry.is_dir()]
    if links:
        named = ", ".join(sorted(links)[:5])
        return f"\n  links to folders are not followed: {named}; name where they lead with --videos"
    if find_videos(root):
        return ""
    said = f"\n  it holds no file that ends in {', '.join(SUFFIXES)}"
    for folder, folders, names in os.walk(root):
        folders.sort()
        frame = next(
            (name for name in sorted(names) if re.fullmatch(r"(img|image|frame)?_?\d{3,}\.jpe?g", name)), ""
        )
        if frame:
            return (
                f"{said}. It holds frames, such as {Path(folder, frame)}, and frame folders are not read: they were "
                "compressed and scaled once more, and how many are missing cannot be told. Name the folder of the "
                "videos that they were taken from (mmaction2 keeps it beside, as `videos`)."
            )
        packed = next((name for name in sorted(names) if name.endswith((".h5", ".hdf5"))), "")
        if packed:
            return (
                f"{said}. {Path(folder, packed)} is HDF5, which is not read. Name the folder of the original videos. "
                "Clips in the form of the authors' script (files and train.csv, unpacked from it) are read by "
                "`python train.py dataset=list`, see docs/data.md."
            )
    return said


def _refuse_long(plan: Plan, paths: Sequence[str]) -> None:
    """Raise ConfigError for broadcasts that were not asked to be read in place."""
    if all(item.unit == "file" for item in plan.items):
        return
    from vmp.prepare.estimate import probe

    long = []
    for path in paths:
        try:
            seconds = probe(plan.videos / path).seconds
        except VideoReadError:  # measuring will say what is wrong with it
            continue
        if seconds and seconds > LONG:
            long.append(f"{path}: {seconds / 60:.0f} min")
    if long:
        raise ConfigError(
            f"{len(long)} video(s) last more than {LONG / 60:.0f} minutes:\n{shortlist(long)}\n"
            "Counting the frames of such files takes long, and so does every seek in training. "
            "Use --cut to write each clip as a small file once, or --in-place to read them as they are."
        )


def _write(plan: Plan, clips: dict[str, list[Clip]], out: Path, root: Path) -> tuple[Path, ...]:
    """Manifests last: where one is, all that it needs is there."""
    written = []
    for folder in {(out / split).parent for split in clips}:
        write_classes(folder / "classes.txt", plan.classes)
        record_root(folder, root, within=out)
        for name in ("train", "val", "test"):  # of another preparation
            if f"{(folder / name).relative_to(out).as_posix()}" not in clips:
                (folder / f"{name}.csv").unlink(missing_ok=True)
    for split, part in clips.items():
        write_manifest(out / f"{split}.csv", part)
        written.append(out / f"{split}.csv")
    return tuple(written)
