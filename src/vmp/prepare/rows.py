"""Rows of the manifests: a clip as annotated (an Item) with what was measured of the file that holds it.

Notes:
- clips are spans of the original videos (`in_place_rows`), or files of their own under out/clips: cut from longer
  videos (`cut_rows`), or whole files remuxed (`remux_rows`);
- a span in seconds takes the frames whose own times lie in [start, end) (times.py); no rate is involved;
- a span that ends up to a second after its video ends with the video; one that reaches further is partial, and unused;
- a clip that is missing or cannot be read keeps its row and the reason, so that the counts reach every result.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from vmp.data.columns import Clip
from vmp.data.frames import FRAMES, RATE_KEYS
from vmp.data.manifest import check_relative
from vmp.data.times import PAUSE, PAUSE_STEPS, Clock, pauses
from vmp.errors import ConfigError, ManifestError, shortlist
from vmp.prepare.children import Work
from vmp.prepare.cut import cut_all
from vmp.prepare.journal import KEPT, CutClip
from vmp.prepare.measure import Measured
from vmp.prepare.plan import DatasetPlan, Item, tolerance_in_frames
from vmp.prepare.remux import remux_all

SHORT = 9  # frames: models of the paper take at least 8, and the prompts need one more
Rows = dict[str, list[Clip]]  # split -> clips


def _rows(plan: DatasetPlan, row: Callable[[Item], Clip]) -> Rows:
    return {split: [row(item) for item in items] for split, items in plan.splits.items()}


def unmeasured_rows(plan: DatasetPlan, there: Mapping[str, bool]) -> Rows:
    """Rows with what is known before any file is opened."""

    def row(item: Item) -> Clip:
        status = "missing" if not there[item.path] else "unreadable" if item.problem else "ok"
        return Clip(id=item.id, path=item.path, label=item.label, status=status)

    return _rows(plan, row)


# --- spans of the original videos ----------------------------------------------------------------------------------


def in_place_rows(plan: DatasetPlan, found: Mapping[str, Measured]) -> Rows:
    """Rows of spans of files that were measured; a path that was not measured is missing."""
    out: Rows = {}
    for split, items in plan.splits.items():
        clips: dict[int, Clip] = {}
        # file by file: only the last few files' times are kept, and those of hours of video take long to work out
        for at in sorted(range(len(items)), key=lambda at: items[at].path):
            measured = found.get(items[at].path)
            if measured and FRAMES in measured.readers:
                measured = replace(measured, fps=items[at].fps or plan.fps)
            clips[at] = in_place_row(items[at], measured, clock=plan.clock)
        out[split] = [clips[at] for at in range(len(items))]
    return out


def in_place_row(item: Item, found: Measured | None, *, clock: Clock = "file") -> Clip:
    """The row of a span of a measured file; found None: the file is missing."""
    clip = Clip(id=item.id, path=item.path, label=item.label, tags=dict(item.tags))
    known = clip
    if item.unit == "frames":  # the one unit that needs no file
        known = replace(clip, start=int(item.start), end=None if item.end is None else int(item.end))
    if found is None or found.status == "missing":
        return unusable(known, "missing", item.problem or "not found")
    if item.problem:
        return unusable(with_measured(clip, found), "unreadable", item.problem)
    if found.status != "ok":
        return unusable(with_measured(known, found), found.status, found.reason)
    if item.unit == "file":
        return with_measured(clip, found)
    clip = _with_file(clip, found)
    if item.unit == "seconds" and not found.fps:
        why = "the file does not say its frame rate"
        if FRAMES in found.readers:
            why = f"a span in seconds of a frame folder, which has no frame rate: give {RATE_KEYS}"
        return unusable(clip, "unreadable", why)
    start, end = item.frames_in(found.times, clock)
    if problem := item.excess(found.times, clock):
        return unusable(replace(clip, start=start, end=end, times=""), "partial", problem)
    end = found.frames if end is None else min(end, found.frames)
    return replace(clip, start=start, end=end, times=found.times.part(start, end))


def with_measured(clip: Clip, found: Measured) -> Clip:
    """The clip as the whole of a measured file."""
    return replace(_with_file(clip, found), times=found.times.part(0, found.frames))


def _with_file(clip: Clip, found: Measured) -> Clip:
    return replace(
        clip,
        frames=found.frames,
        fps=found.fps,
        width=found.width,
        height=found.height,
        readers=found.readers,
    )


def unusable(clip: Clip, status: str, reason: str) -> Clip:
    return replace(clip, status=status, tags=clip.tags | ({"problem": reason} if reason else {}))


def describe_short(listed: list[str]) -> str:
    """What it means that these clips are short."""
    return (
        f"{len(listed):,} clip(s) have fewer than {SHORT} frames, so that models see frames more than once, and the "
        f"difference of equal frames is zero:\n{shortlist(listed)}"
    )


def describe_untried(found: Mapping[str, Measured]) -> list[str]:
    """A note on the sound files whose readers could not be tried, if there are some."""
    listed = [f"{path}: {m.reason}" for path, m in found.items() if m.status == "ok" and m.reason]
    if not listed:
        return []
    return [
        f"{len(listed):,} video(s) are read with pyav, which is always exact, alone:\n{shortlist(listed)}"
    ]


def tag_short(clip: Clip) -> Clip:
    short = clip.status == "ok" and clip.length < SHORT
    return replace(clip, tags=clip.tags | {"short": "yes"}) if short else clip


def describe_pauses(named: Iterable[tuple[str, Clip]]) -> list[str]:
    """A note on the usable clips with pauses, by the names to list them by, if there are some."""
    found = [(name, long) for name, clip in named if clip.status == "ok" and len(long := pauses(clip.times))]
    if not found:
        return []
    listed = [
        f"{name}: {f'{len(long)} pauses, the longest of ' if len(long) > 1 else ''}{long.max():,.1f} s"
        for name, long in found
    ]
    return [
        f"{len(found):,} clip(s) have pauses between frames, which count as {PAUSE:g} s (or {PAUSE_STEPS} typical "
        f"frame intervals, if longer) when frames are sampled:\n{shortlist(listed)}"
    ]


# --- files of their own --------------------------------------------------------------------------------------------


def cut_rows(
    plan: DatasetPlan, there: Mapping[str, bool], out: Path, *, short_side: int | None, **work: Unpack[Work]
) -> Rows:
    """Cut every clip that has a source; rows of all clips."""
    done = cut_all(clips_to_cut(plan, there, out), short_side=short_side, **work)

    def row(clip: Clip, cut: CutClip, found: Measured) -> Clip:
        clip = with_measured(clip, found)
        if cut.end is not None:
            clip.tags[f"source_{cut.unit}"] = f"{cut.start:.10g}-{cut.end:.10g}"
        if found.status == "ok" or _ends_with_source(cut, found):
            return clip
        return unusable(clip, found.status, found.reason)

    return _rows_of_files(plan, there, out, {cut.target: (cut, found) for cut, found in done}, row)


def remux_rows(
    plan: DatasetPlan, there: Mapping[str, bool], out: Path, **work: Unpack[Work]
) -> tuple[Rows, str]:
    """Remux every whole file that can be; rows of all clips, and a note: how many were remuxed, and why others not."""
    made = {task.target: (task, found) for task, found in remux_all(files_to_remux(plan, there, out), **work)}
    whole = [found for _, found in made.values() if found.status == "ok"]
    kept = Counter(found.reason.removeprefix(KEPT) for found in whole if found.reason)
    lines = [f"\n  {count:,} kept as they are: {reason}" for reason, count in kept.most_common()]
    note = f"{len(whole) - kept.total():,} of {len(whole):,} clips remuxed{''.join(lines)}"

    def row(clip: Clip, task: CutClip, found: Measured) -> Clip:
        clip = with_measured(replace(clip, path=task.file(found).relative_to(out).as_posix()), found)
        if found.status != "ok":
            return unusable(clip, found.status, found.reason)
        return replace(clip, tags=clip.tags | {"remuxed": "no" if found.reason else "yes"})

    return _rows_of_files(plan, there, out, made, row), note


def _rows_of_files(
    plan: DatasetPlan,
    there: Mapping[str, bool],
    out: Path,
    made: Mapping[Path, tuple[CutClip, Measured]],
    finish: Callable[[Clip, CutClip, Measured], Clip],
) -> Rows:
    """Rows of all clips: of those whose file was made as `finish` has them."""

    def row(item: Item) -> Clip:
        tags = item.tags | {"source": item.path}
        clip = Clip(id=item.id, path=_target(item), label=item.label, tags=tags)
        if out / clip.path in made:
            return finish(clip, *made[out / clip.path])
        if there[item.path]:
            return unusable(clip, "unreadable", item.problem)
        return unusable(clip, "missing", item.problem or "source not found")

    return _rows(plan, row)


def clips_to_cut(plan: DatasetPlan, there: Mapping[str, bool], out: Path) -> list[CutClip]:
    """A clip for each item that has a source. ConfigError if one of these is a clip that was made here."""
    cuts: dict[Path, CutClip] = {}  # by target: splits may share clips
    for item in plan.items:
        if not there[item.path] or item.problem:
            continue
        cut = CutClip(source=plan.videos / item.path, target=out / _target(item))
        if (out / "clips").resolve() in cut.source.resolve().parents:
            raise ConfigError(
                f"--videos {plan.videos}: {cut.source} was cut before; name the folder of the sources"
            )
        if item.unit != "file":
            cut = replace(cut, start=item.start, end=item.end, unit=item.unit, clock=plan.clock)
        if cut.source.is_dir():
            raise ConfigError(f"{cut.source}: frame folders are not cut or remuxed; use --in-place")
        cuts[cut.target] = cut
    return list(cuts.values())


def files_to_remux(plan: DatasetPlan, there: Mapping[str, bool], out: Path) -> list[CutClip]:
    if any(item.unit != "file" for item in plan.items):
        raise ConfigError("--remux: clips of this dataset are parts of longer videos; --cut writes them")
    return clips_to_cut(plan, there, out)


def _target(item: Item) -> str:
    """Where a clip is written, below --out. Raises ManifestError where its id, which may hold a label, leads out."""
    try:
        return check_relative(f"clips/{item.id}.mp4")
    except ValueError as error:
        raise ManifestError(
            f"clip {item.id[:200]!r}: cannot name a file ({error}); correct the annotations"
        ) from None


def _ends_with_source(cut: CutClip, found: Measured) -> bool:
    """Whether a clip cut by frames lacks only frames within the tolerance behind the end of its source."""
    lacking = (cut.end or 0) - cut.start - found.frames
    beyond = found.frames > 0 and found.reason.startswith("the source has")
    return beyond and lacking <= tolerance_in_frames(found.fps)
