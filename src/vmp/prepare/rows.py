"""Rows of the manifests: a clip as annotated (an Item) with what was measured of the file that holds it.

Notable here:
- clips are spans of the original videos (`in_place_rows`), or files of their own under out/clips: cut from longer
  videos (`cut_rows`), or whole files remuxed (`remux_rows`);
- a span in seconds takes the frames whose own times lie in [start, end) (times.py); no rate is involved;
- a span that ends up to a second after its video ends with the video; one that reaches further is partial, and unused;
- a clip that is missing or cannot be read keeps its row and the reason, so that the counts reach every result.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from vmp.data.manifest import Clip
from vmp.data.times import Clock
from vmp.errors import ConfigError
from vmp.prepare.children import Work
from vmp.prepare.cut import CutClip, cut_all
from vmp.prepare.measure import Measured
from vmp.prepare.plan import DatasetPlan, Item, tolerance_in_frames
from vmp.prepare.remux import KEPT, Remux, remux_all

SHORT = 9  # frames: models of the paper take at least 8, and the prompts need one more
Rows = dict[str, list[Clip]]  # split -> clips


def unmeasured_rows(plan: DatasetPlan, there: Mapping[str, bool]) -> Rows:
    """Rows with what is known before any file is opened."""

    def row(item: Item) -> Clip:
        status = "missing" if not there[item.path] else "unreadable" if item.problem else "ok"
        return Clip(id=item.id, path=item.path, label=item.label, status=status)

    return {split: [row(item) for item in items] for split, items in plan.splits.items()}


# --- spans of the original videos ----------------------------------------------------------------------------------


def in_place_rows(plan: DatasetPlan, found: Mapping[str, Measured]) -> Rows:
    """Rows of spans of files that were measured; a path that was not measured is missing."""
    return {
        split: [in_place_row(item, found.get(item.path), clock=plan.clock) for item in items]
        for split, items in plan.splits.items()
    }


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
    clip = with_measured(clip, found)
    if item.unit == "file":
        return clip
    if item.unit == "seconds" and not found.fps:
        return unusable(clip, "unreadable", "the file does not say its frame rate")
    start, end = item.frames_in(found.times, clock)
    if problem := item.excess(found.times, clock):
        return unusable(replace(clip, start=start, end=end, times=""), "partial", problem)
    end = found.frames if end is None else min(end, found.frames)
    return replace(clip, start=start, end=end, times=found.times.part(start, end))


def with_measured(clip: Clip, found: Measured) -> Clip:
    return replace(
        clip,
        frames=found.frames,
        fps=found.fps,
        width=found.width,
        height=found.height,
        readers=found.readers,
        times=found.times.part(0, found.frames),
    )


def unusable(clip: Clip, status: str, reason: str) -> Clip:
    return replace(clip, status=status, tags=clip.tags | ({"problem": reason} if reason else {}))


def tag_short(clip: Clip) -> Clip:
    short = clip.status == "ok" and clip.length < SHORT
    return replace(clip, tags=clip.tags | {"short": "yes"}) if short else clip


# --- files of their own --------------------------------------------------------------------------------------------


def cut_rows(
    plan: DatasetPlan,
    there: Mapping[str, bool],
    out: Path,
    *,
    short_side: int | None,
    **work: Unpack[Work],
) -> Rows:
    """Cut every clip that has a source; rows of all clips.

    Raises:
        ConfigError: a source is a clip that was made here.
        DataError: the disk cannot be written to.
    """
    cuts = clips_to_cut(plan, there, out)
    done = cut_all(cuts, short_side=short_side, **work)
    made = {cut.target: (cut, found) for cut, found in done}

    def row(item: Item) -> Clip:
        if out / _target(item) not in made:
            return _row_without_file(item, there[item.path])
        cut, found = made[out / _target(item)]
        clip = with_measured(_row(item, _target(item)), found)
        if cut.end is not None:
            span = f"{cut.start:.10g}-{cut.end:.10g}"
            clip = replace(clip, tags=clip.tags | {f"source_{cut.unit}": span})
        if found.status == "ok" or _ends_with_source(cut, found):
            return clip
        return unusable(clip, found.status, found.reason)

    return {split: [row(item) for item in items] for split, items in plan.splits.items()}


def remux_rows(
    plan: DatasetPlan, there: Mapping[str, bool], out: Path, **work: Unpack[Work]
) -> tuple[Rows, str]:
    """Remux every whole file that can be; rows of all clips, and a note: how many were remuxed, and why others not.

    Raises:
        ConfigError: a source is a clip that was made here, or clips are spans.
        DataError: the disk cannot be written to.
    """
    done = remux_all(files_to_remux(plan, there, out), **work)
    made = {task.target: (task, found) for task, found in done}
    whole = [found for _, found in made.values() if found.status == "ok"]
    kept = Counter(found.reason.removeprefix(KEPT) for found in whole if found.reason)
    lines = [f"\n  {count:,} kept as they are: {reason}" for reason, count in kept.most_common()]
    note = f"{len(whole) - kept.total():,} of {len(whole):,} clips remuxed{''.join(lines)}"

    def row(item: Item) -> Clip:
        if out / _target(item) not in made:
            return _row_without_file(item, there[item.path])
        task, found = made[out / _target(item)]
        clip = with_measured(_row(item, task.file(found).relative_to(out).as_posix()), found)
        if found.status != "ok":
            return unusable(clip, found.status, found.reason)
        return replace(clip, tags=clip.tags | {"remuxed": "no" if found.reason else "yes"})

    return {split: [row(item) for item in items] for split, items in plan.splits.items()}, note


def clips_to_cut(plan: DatasetPlan, there: Mapping[str, bool], out: Path) -> list[CutClip]:
    cuts: dict[Path, CutClip] = {}  # by target: splits may share clips
    for item in _usable_items(plan, there, out):
        source, target = plan.videos / item.path, out / _target(item)
        cuts[target] = CutClip(source=source, target=target)
        if item.unit != "file":
            cuts[target] = replace(
                cuts[target], start=item.start, end=item.end, unit=item.unit, clock=plan.clock
            )
    return list(cuts.values())


def files_to_remux(plan: DatasetPlan, there: Mapping[str, bool], out: Path) -> list[Remux]:
    if any(item.unit != "file" for item in plan.items):
        raise ConfigError("--remux: clips of this dataset are parts of longer videos; --cut writes them")
    items = _usable_items(plan, there, out)
    tasks = {_target(i): Remux(source=plan.videos / i.path, target=out / _target(i)) for i in items}
    return list(tasks.values())


def _usable_items(plan: DatasetPlan, there: Mapping[str, bool], out: Path) -> list[Item]:
    """Items that have a source. ConfigError if one of these is a clip that was made here."""
    items = [item for item in plan.items if there[item.path] and not item.problem]
    for item in items:
        source = plan.videos / item.path
        if (out / "clips").resolve() in source.resolve().parents:
            raise ConfigError(
                f"--videos {plan.videos}: {source} was cut before; name the folder of the sources"
            )
    return items


def _target(item: Item) -> str:
    return f"clips/{item.id}.mp4"


def _row(item: Item, path: str) -> Clip:
    return Clip(id=item.id, path=path, label=item.label, tags=item.tags | {"source": item.path})


def _row_without_file(item: Item, there: bool) -> Clip:
    """A row for a clip that was not made."""
    status, problem = (
        ("unreadable", item.problem) if there else ("missing", item.problem or "source not found")
    )
    return unusable(_row(item, _target(item)), status, problem)


def _ends_with_source(cut: CutClip, found: Measured) -> bool:
    """Whether a clip cut by frames lacks only frames within the tolerance behind the end of its source."""
    lacking = (cut.end or 0) - cut.start - found.frames
    beyond = found.frames > 0 and found.reason.startswith("the source has")
    return beyond and lacking <= tolerance_in_frames(found.fps)
