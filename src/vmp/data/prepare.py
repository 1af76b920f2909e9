"""From what a dataset's annotations say (a Plan) to manifests: find the videos, measure or cut them, count, write.

Notable here:
- a span in seconds takes the frames whose times lie in [start, end) at the file's own rate, never a nominal one;
- a clip that is missing or cannot be read keeps its row and its reason, so that the counts reach every result;
- what can be found wrong without decoding a frame is told before any frame is decoded;
- with `cut`, sources are only probed: counting the frames of a two-hour broadcast takes long;
- the manifests' folder also gets dataset.json, which says where the videos are.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, NamedTuple

from filelock import FileLock

from vmp.data.listing import measured
from vmp.data.manifest import Clip, inside, write_classes, write_manifest
from vmp.data.measure import Measured
from vmp.errors import ConfigError, ManifestError, VideoReadError, shortlist
from vmp.files import write_json

SUFFIXES = (".avi", ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv")  # preferred first
SHORT = 9  # frames: the fewest that a model of the paper takes are 8, and one more for the prompts
TOLERANCE = 1.0  # seconds that a span may reach beyond its video; it is ended with it
LONG = 1800.0  # seconds: beyond, a source is cut, or read in place only when that is asked for
RECORD = "dataset.json"


class Check(NamedTuple):
    """Something that a complete copy of the dataset fulfils."""

    name: str
    expected: str
    found: str
    ok: bool

    def __str__(self) -> str:
        said = self.found if self.ok else f"{self.expected} expected, {self.found} found"
        return f"{'ok' if self.ok else 'FAILED':8}{self.name}: {said}"


def equal(name: str, expected: int | str, found: int | str) -> Check:
    return Check(name, _count(expected), _count(found), expected == found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A clip as annotated. start, end: half-open, frames from 0 or seconds; None: to the end of the file."""

    id: str  # unique in its split; a relative path without suffix once the clip is cut
    path: str  # relative to the videos' root; where the file is not there, where it was looked for
    label: int
    start: float = 0
    end: float | None = None
    unit: Literal["file", "frames", "seconds"] = "file"
    tags: dict[str, str] = field(default_factory=dict)
    problem: str = ""  # why it cannot be used whether or not its file is there


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the manifests are to hold."""

    name: str
    classes: tuple[str, ...]
    splits: dict[str, tuple[Item, ...]]  # "test", or "split1/test": path of the manifest, less its suffix
    videos: Path
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)  # what was asked for, for prepare.json


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
    cut: bool = False,
    in_place: bool = False,
    short_side: int | None = 320,
    allow_missing: bool = False,
    dry_run: bool = False,
    histogram: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> Outcome:
    """Write the manifests of a plan, unless a check fails.

    Args:
        cut: write every clip as a file of its own under out/clips; else the videos are used where they are.
        in_place: read from sources of more than half an hour without complaint.
        short_side: of the clips that are cut; None: as in the source.
        allow_missing: write in spite of failed checks.
        dry_run: write nothing.

    Raises:
        ManifestError: a video is a link that leaves the folder of the videos.
        ConfigError: sources too long to be read in place.
    """
    paths = sorted({item.path for items in plan.splits.values() for item in items})
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
        unusable = [f"{i.id}: {i.problem}" for items in plan.splits.values() for i in items if i.problem]
        if unusable:
            notes.append(f"{len(unusable):,} clip(s) cannot be used:\n{shortlist(unusable)}")
        if cut:
            notes.append(_estimate(plan, there, out, short_side))
        clips = {
            split: [_unmeasured(item, there[item.path]) for item in plan.splits[split]]
            for split in plan.splits
        }
        text = _report(plan, clips, checks, notes, looked=False, histogram=histogram)
        return Outcome(text, failed, ())
    if not cut and not in_place:
        _refuse_long(plan, [path for path, found in there.items() if found])
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / ".lock").touch()
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written to ({error.strerror})") from None
    with FileLock(out / ".lock"):
        if cut:
            clips = _cut(plan, there, out, short_side, workers, progress)
        else:
            present = [path for path, found in there.items() if found]
            known = measured(out / "measured.jsonl", plan.videos, present, progress=progress, workers=workers)
            clips = {
                split: [in_place_clip(item, known.get(item.path)) for item in items]
                for split, items in plan.splits.items()
            }
        clips = {split: [_tag_short(clip) for clip in part] for split, part in clips.items()}
        found = [clip for part in clips.values() for clip in part if clip.status != "missing"]
        bad = [f"{c.id}: {c.status}, {c.tags.get('problem', '')}" for c in found if c.status != "ok"]
        checks.append(equal("clips that can be read", len(found), len(found) - len(bad)))
        if bad:
            notes.append(f"{len(bad):,} clip(s) cannot be read:\n{shortlist(bad)}")
        rates = Counter(f"{clip.fps:.4g}" for clip in found if clip.fps)
        if rates:
            said = ", ".join(f"{count:,} at {rate}" for rate, count in rates.most_common())
            notes.append(f"clips by frames a second: {said}")
        failed = tuple(check for check in checks if not check.ok)
        text = _report(plan, clips, checks, notes, looked=True, histogram=histogram)
        if failed and not allow_missing:
            return Outcome(text, failed, ())
        root = out if cut else plan.videos
        settings = {"cut": cut, "short_side": short_side if cut else None, "allow_missing": allow_missing}
        written = _write(plan, clips, out, root)
        write_json(out / "prepare.json", _record(plan, clips, checks, notes, lost, settings))
    return Outcome(text, failed, written)


def shipped_classes(name: str) -> tuple[str, ...]:
    """The class names of hmdb51, gym99 or mpii_cooking2 in order of their ids."""
    text = files("vmp.data").joinpath("classes", f"{name}.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def recorded_root(folder: Path) -> Path | None:
    """Where the videos of a folder's manifests are, as its dataset.json says; None: it has none.

    Raises:
        ManifestError: dataset.json cannot be used.
    """
    file = folder / RECORD
    try:
        root = json.loads(file.read_text(encoding="utf-8"))["root"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        root = None
    if not isinstance(root, str) or not root:
        raise ManifestError(
            f'{file}: must be {{"root": "folder of the videos"}}; make it again with its dataset'
        )
    return Path(os.path.normpath(folder / root))


def find_videos(root: Path) -> dict[str, list[str]]:
    """Stem -> paths relative to root of the video files under it, in the order of SUFFIXES.

    Raises:
        ConfigError: no such folder.
    """
    if not root.is_dir():
        raise ConfigError(f"--videos {root}: no such folder; it should hold the videos, in any depth")
    found: dict[str, list[str]] = {}
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inner = os.path.relpath(folder, root)
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in SUFFIXES:
                path = name if inner == "." else f"{inner}/{name}"
                found.setdefault(stem, []).append(path.replace(os.sep, "/"))
    for paths in found.values():
        paths.sort(key=lambda path: (SUFFIXES.index(os.path.splitext(path)[1].lower()), path))
    return found


def pick(found: dict[str, list[str]], stem: str, otherwise: str, *, folder: str = "") -> str:
    """The video of a stem, in a folder of that name if there is one there; `otherwise` when there is none."""
    paths = found.get(stem, [])
    return next(
        (p for p in paths if folder and folder in p.split("/")[:-1]), paths[0] if paths else otherwise
    )


def seconds_to_frames(start: float, end: float, fps: float) -> tuple[int, int]:
    """Frames [first, last) whose times lie in [start, end), at least one."""
    first = max(0, math.ceil(start * fps - 1e-6))
    return first, max(first + 1, math.ceil(end * fps - 1e-6))


def in_place_clip(item: Item, found: Measured | None) -> Clip:
    """A row of the manifest for a span of a measured file; None: the file is not there."""
    clip = Clip(id=item.id, path=item.path, label=item.label, tags=dict(item.tags))
    if found is None or found.status == "missing":
        return replace(_bad(clip, "missing", item.problem or "not found"), **_known_span(item))
    clip = replace(
        clip,
        frames=found.frames,
        fps=found.fps,
        width=found.width,
        height=found.height,
        readers=found.readers,
    )
    if item.problem:
        return _bad(clip, "unreadable", item.problem)
    if found.status != "ok":
        return replace(_bad(clip, found.status, found.reason), **_known_span(item))
    if item.unit == "file":
        return clip
    if not found.fps:
        return _bad(clip, "unreadable", "the file does not say its frame rate")
    start, end = _span(item, found.fps)
    clip = replace(clip, start=start, end=end)
    if end is None:
        return clip
    if start >= found.frames or end > found.frames + max(1.0, TOLERANCE * found.fps):
        return _bad(clip, "partial", f"frames {start} to {end} of a video that has {found.frames}")
    return replace(clip, end=min(end, found.frames))


def _span(item: Item, fps: float) -> tuple[int, int | None]:
    if item.unit == "seconds" and item.end is not None:
        return seconds_to_frames(item.start, item.end, fps)
    return int(item.start), None if item.end is None else int(item.end)


def _known_span(item: Item) -> dict[str, Any]:
    """What is known of a span without its file."""
    return {"start": int(item.start), "end": item.end and int(item.end)} if item.unit == "frames" else {}


def _bad(clip: Clip, status: str, reason: str) -> Clip:
    return replace(clip, status=status, tags=clip.tags | ({"problem": reason} if reason else {}))


def _unmeasured(item: Item, there: bool) -> Clip:
    status = "missing" if not there else "unreadable" if item.problem else "ok"
    return Clip(id=item.id, path=item.path, label=item.label, status=status)


def _tag_short(clip: Clip) -> Clip:
    short = clip.status == "ok" and clip.length < SHORT
    return replace(clip, tags=clip.tags | {"short": "yes"}) if short else clip


def _is_there(root: Path, path: str) -> bool:
    try:
        return inside(root, path).is_file()
    except ValueError as error:
        raise ManifestError(str(error)) from None


def _why(root: Path) -> str:
    """What may keep files from being found, on a line of its own."""
    links = [entry.name for entry in os.scandir(root) if entry.is_symlink() and entry.is_dir()]
    if links:
        named = ", ".join(sorted(links)[:5])
        return f"\n  links to folders are not followed: {named}; name where they lead with --videos"
    if not find_videos(root):
        return f"\n  it holds no file that ends in {', '.join(SUFFIXES)}; folders of frames are not read"
    return ""


def _refuse_long(plan: Plan, paths: Sequence[str]) -> None:
    """Raise ConfigError for broadcasts that were not asked to be read in place."""
    if all(item.unit == "file" for items in plan.splits.values() for item in items):
        return
    from vmp.data.cut import probe

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


def _cuts(plan: Plan, there: dict[str, bool], out: Path) -> "tuple[dict[Path, Any], dict[str, str]]":
    """Target -> what to cut there, and source -> why it cannot be probed."""
    from vmp.data.cut import Cut, probe

    rates: dict[str, float] = {}
    faults: dict[str, str] = {}
    cuts: dict[Path, Any] = {}
    for item in (item for items in plan.splits.values() for item in items):
        if item.problem or not there[item.path]:
            continue
        source = plan.videos / item.path
        if (out / "clips").resolve() in source.resolve().parents:
            raise ConfigError(
                f"--videos {plan.videos}: {source} was cut before; name the folder of the sources"
            )
        if item.unit == "seconds" and item.path not in rates:
            try:
                rates[item.path] = float(probe(source).fps)
                if not rates[item.path]:
                    faults[item.path] = "the file does not say its frame rate"
            except VideoReadError as error:
                rates[item.path], faults[item.path] = 0.0, error.reason
        if item.path in faults:
            continue
        start, end = (0, None) if item.unit == "file" else _span(item, rates.get(item.path, 0.0))
        target = out / _target(item)
        cuts[target] = Cut(source=source, start=start, end=end, target=target)
    return cuts, faults


def _cut(
    plan: Plan,
    there: dict[str, bool],
    out: Path,
    short_side: int | None,
    workers: int | None,
    progress: bool,
) -> dict[str, list[Clip]]:
    from vmp.data.cut import cut_all

    cuts, faults = _cuts(plan, there, out)
    got: dict[Path, Measured] = {}
    for cut, found in cut_all(list(cuts.values()), short_side=short_side, workers=workers, progress=progress):
        got[cut.target] = found
    clips: dict[str, list[Clip]] = {}
    for split, items in plan.splits.items():
        clips[split] = []
        for item in items:
            target = out / _target(item)
            clip = Clip(
                id=item.id, path=_target(item), label=item.label, tags=item.tags | {"source": item.path}
            )
            if target in got:
                m, span = got[target], cuts[target]
                clip = replace(
                    clip, frames=m.frames, fps=m.fps, width=m.width, height=m.height, readers=m.readers
                )
                if span.end is not None:
                    clip = replace(clip, tags=clip.tags | {"source_frames": f"{span.start}-{span.end}"})
                clip = clip if m.status == "ok" or _just_beyond(span, m) else _bad(clip, m.status, m.reason)
            elif item.path in faults:
                clip = _bad(clip, "unreadable", faults[item.path])
            elif there[item.path]:
                clip = _bad(clip, "unreadable", item.problem)
            else:
                clip = _bad(clip, "missing", item.problem or "source not found")
            clips[split].append(clip)
    return clips


def _just_beyond(cut: Any, m: Measured) -> bool:
    """Whether all that a cut clip lacks is a moment after its source's end."""
    lacking = (cut.end or 0) - cut.start - m.frames
    return m.frames > 0 and m.reason.startswith("the source has") and lacking <= max(1.0, TOLERANCE * m.fps)


def _target(item: Item) -> str:
    return f"clips/{item.id}.mp4"


def _estimate(plan: Plan, there: dict[str, bool], out: Path, short_side: int | None) -> str:
    from vmp.data.cut import estimate

    cuts = list(_cuts(plan, there, out)[0].values())
    if not cuts:
        return "there is nothing to cut"
    e = estimate(cuts, short_side=short_side)
    hours = e.seconds / 3600
    return (
        f"cutting would read {e.sources:,} sources and write {e.clips:,} clips, {e.frames:,} frames, about "
        f"{e.bytes / 1e9:.1f} GB in about {hours:.1f} h"
    )


def _write(plan: Plan, clips: dict[str, list[Clip]], out: Path, root: Path) -> tuple[Path, ...]:
    """Manifests last: where one is, all that it needs is there."""
    written = []
    real_out, real_root = Path(os.path.realpath(out)), Path(os.path.realpath(root))
    for folder in {(out / split).parent for split in clips}:
        write_classes(folder / "classes.txt", plan.classes)
        own = os.path.realpath(folder)
        inner = real_root == real_out or real_out in real_root.parents
        write_json(folder / RECORD, {"root": os.path.relpath(real_root, own) if inner else str(real_root)})
        for name in ("train", "val", "test"):  # of another preparation
            if f"{(folder / name).relative_to(out).as_posix()}" not in clips:
                (folder / f"{name}.csv").unlink(missing_ok=True)
    for split, part in clips.items():
        write_manifest(out / f"{split}.csv", part)
        written.append(out / f"{split}.csv")
    return tuple(written)


def _counts(clips: Iterable[Clip]) -> dict[str, int]:
    clips = list(clips)
    by = Counter(clip.status for clip in clips)
    return {
        "expected": len(clips),
        "found": len(clips) - by["missing"],
        "usable": by["ok"],
        "missing": by["missing"],
        "unreadable": by["unreadable"],
        "partial": by["partial"],
        "short": sum("short" in clip.tags for clip in clips),
    }


def _report(
    plan: Plan,
    clips: dict[str, list[Clip]],
    checks: Sequence[Check],
    notes: Sequence[str],
    *,
    looked: bool,
    histogram: bool,
) -> str:
    """The table of counts, the clips a class, the checks and the notes."""
    names = ("expected", "found", "missing", "unreadable", "partial", "short")
    lines = [f"{plan.name}: {len(plan.classes)} classes, videos in {plan.videos}"]
    lines.append(f"{'split':14}" + "".join(f"{name:>12}" for name in names))
    for split, part in clips.items():
        counts = _counts(part)
        cells = [
            f"{counts[name]:,}" if looked or name in ("expected", "found", "missing") else "-"
            for name in names
        ]
        lines.append(f"{split:14}" + "".join(f"{cell:>12}" for cell in cells))
    lines += ["", "clips a class that are " + ("usable" if looked else "found") + " (expected):"]
    tables = {
        split: (_per_class(plan, part, True), _per_class(plan, part, False)) for split, part in clips.items()
    }
    if histogram:
        lines.append("".join(f"{split:>16}" for split in tables))
        for label, name in enumerate(plan.classes):
            cells = [f"{usable[label]:,} ({total[label]:,})" for usable, total in tables.values()]
            lines.append("".join(f"{cell:>16}" for cell in cells) + f"  {label} {name}")
    else:
        for split, pair in tables.items():
            usable, total = (f"{min(c)} / {sorted(c)[len(c) // 2]} / {max(c)}" for c in pair)
            none = sum(count == 0 for count in pair[0])
            lines.append(
                f"{split:14}min / median / max {usable} ({total})"
                + (f", {none} classes without any" if none else "")
            )
    for split, part in clips.items():
        lengths = sorted(clip.length for clip in part if clip.status == "ok" and clip.frames)
        if lengths:
            at = [lengths[round(q * (len(lengths) - 1))] for q in (0, 0.05, 0.5, 0.95, 1)]
            lines.append(
                f"{split:14}frames of a clip, min / 5 % / median / 95 % / max " + " / ".join(map(str, at))
            )
    lines += ["", *map(str, checks), *(f"note    {note}" for note in notes)]
    return "\n".join(lines)


def _per_class(plan: Plan, clips: Iterable[Clip], usable: bool) -> list[int]:
    counts = Counter(clip.label for clip in clips if clip.status == "ok" or not usable)
    return [counts[label] for label in range(len(plan.classes))]


def _record(
    plan: Plan,
    clips: dict[str, list[Clip]],
    checks: Sequence[Check],
    notes: Sequence[str],
    lost: Sequence[str],
    settings: dict[str, Any],
) -> dict[str, Any]:
    """prepare.json: all that was printed and what it was made with."""
    import av

    return {
        "dataset": plan.name,
        "videos": str(plan.videos.resolve()),
        "options": plan.options | settings,
        "counts": {split: _counts(part) for split, part in clips.items()},
        "usable_per_class": {split: _per_class(plan, part, True) for split, part in clips.items()},
        "expected_per_class": {split: _per_class(plan, part, False) for split, part in clips.items()},
        "checks": [check._asdict() for check in checks],
        "notes": list(notes),
        "missing_files": list(lost),
        "pyav": av.__version__,
    }


def _count(value: int | str) -> str:
    return f"{value:,}" if isinstance(value, int) else value
