"""A plan's clips as files of their own under out/clips: cut from longer videos, or whole files remuxed.

Sources are only probed here: counting the frames of a two-hour broadcast takes long.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from vmp.data.manifest import Clip
from vmp.errors import ConfigError
from vmp.prepare.cut import Cut, cut_all
from vmp.prepare.estimate import estimate_cutting, estimate_measuring
from vmp.prepare.measure import Measured
from vmp.prepare.plan import Item, Plan
from vmp.prepare.remux import KEPT, Remux, remux_all
from vmp.prepare.rows import bad, moment, with_measured

Rows = dict[str, list[Clip]]  # split -> clips


def cut_rows(
    plan: Plan,
    there: dict[str, bool],
    out: Path,
    *,
    short_side: int | None,
    workers: int | None,
    timeout: float,
    progress: bool,
) -> Rows:
    """Cut every clip that can be; rows of all.

    Raises:
        ConfigError: the sources were made here.
        DataError: the disk cannot be written to.
    """
    cuts = _cuts(plan, there, out)
    done = cut_all(
        list(cuts.values()), short_side=short_side, workers=workers, timeout=timeout, progress=progress
    )
    got = {cut.target: found for cut, found in done}

    def row(item: Item) -> Clip:
        target = out / _target(item)
        if target not in got:
            return _absent(item, there[item.path])
        cut, found = cuts[target], got[target]
        clip = with_measured(_row(item, _target(item)), found)
        if cut.end is not None:
            span = f"{cut.start:.10g}-{cut.end:.10g}"
            clip = replace(clip, tags=clip.tags | {f"source_{cut.unit}": span})
        if found.status == "ok" or _just_beyond(cut, found):
            return clip
        return bad(clip, found.status, found.reason)

    return {split: [row(item) for item in items] for split, items in plan.splits.items()}


def remux_rows(
    plan: Plan, there: dict[str, bool], out: Path, *, workers: int | None, timeout: float, progress: bool
) -> tuple[Rows, str]:
    """Remux every whole file that can be; rows of all, and how many are remuxed and how many originals, and why.

    Raises:
        ConfigError: the sources were made here, or clips are spans.
        DataError: the disk cannot be written to.
    """
    tasks = _remuxes(plan, there, out)
    done = remux_all(list(tasks.values()), workers=workers, timeout=timeout, progress=progress)
    got = {task.target: (task, found) for task, found in done}
    whole = [found for _, found in got.values() if found.status == "ok"]
    kept = Counter(found.reason.removeprefix(KEPT) for found in whole if found.reason)
    lines = [f"\n  {count:,} kept as they are: {reason}" for reason, count in kept.most_common()]
    note = f"{len(whole) - kept.total():,} of {len(whole):,} clips remuxed{''.join(lines)}"

    def row(item: Item) -> Clip:
        target = out / _target(item)
        if target not in got:
            return _absent(item, there[item.path])
        task, found = got[target]
        clip = with_measured(_row(item, task.file(found).relative_to(out).as_posix()), found)
        if found.status != "ok":
            return bad(clip, found.status, found.reason)
        return replace(clip, tags=clip.tags | {"remuxed": "no" if found.reason else "yes"})

    return {split: [row(item) for item in items] for split, items in plan.splits.items()}, note


def estimate(
    plan: Plan, there: dict[str, bool], out: Path, *, how: str, short_side: int | None, workers: int | None
) -> str:
    """What preparing would read and write, how much disk and how long, as a line to print."""
    if how == "cut":
        cuts = list(_cuts(plan, there, out).values())
        e = estimate_cutting(cuts, short_side=short_side, workers=workers)
        does = f"cutting would read {e.sources:,} sources and write {e.clips:,} clips, {e.frames:,} frames"
    elif how == "remux":
        sources = sorted({task.source for task in _remuxes(plan, there, out).values()})
        e = estimate_measuring(sources, times=2.0, workers=workers)
        does = (
            f"remuxing would read {e.sources:,} videos, {e.frames:,} frames, and write as many, or link them"
        )
    else:
        sources = sorted({plan.videos / item.path for item in plan.items if there[item.path]})
        e = estimate_measuring(sources, workers=workers)
        does = f"measuring would read {e.sources:,} videos, {e.frames:,} frames"
    if not e.sources:
        return "there is no video that can be read, so nothing to do"
    disk = "no disk" if how == "in place" else f"about {_size(e.bytes)} of disk"
    return f"{does}: {disk}, and about {_time(e.seconds)}"


def _cuts(plan: Plan, there: dict[str, bool], out: Path) -> dict[Path, Cut]:
    """Target -> what to cut there."""
    cuts: dict[Path, Cut] = {}
    for item in _usable(plan, there, out):
        span: dict[str, Any] = {"start": 0, "end": None}
        if item.unit != "file":
            span = {"start": item.start, "end": item.end, "unit": item.unit, "clock": plan.clock}
        target = out / _target(item)
        cuts[target] = Cut(source=plan.videos / item.path, target=target, **span)
    return cuts


def _remuxes(plan: Plan, there: dict[str, bool], out: Path) -> dict[Path, Remux]:
    """Target -> what to remux there."""
    if any(item.unit != "file" for item in plan.items):
        raise ConfigError("--remux: clips of this dataset are parts of longer videos; --cut writes them")
    items = _usable(plan, there, out)
    return {
        out / _target(item): Remux(source=plan.videos / item.path, target=out / _target(item))
        for item in items
    }


def _usable(plan: Plan, there: dict[str, bool], out: Path) -> list[Item]:
    """Items that have a source, which must not be a clip that was made here."""
    items = [item for item in plan.items if there[item.path] and not item.problem]
    for item in items:
        source = plan.videos / item.path
        if (out / "clips").resolve() in source.resolve().parents:
            raise ConfigError(
                f"--videos {plan.videos}: {source} was cut before; name the folder of the sources"
            )
    return items


def _row(item: Item, path: str) -> Clip:
    return Clip(id=item.id, path=path, label=item.label, tags=item.tags | {"source": item.path})


def _absent(item: Item, there: bool) -> Clip:
    """A row for a clip that was not made."""
    clip = _row(item, _target(item))
    if there:
        return bad(clip, "unreadable", item.problem)
    return bad(clip, "missing", item.problem or "source not found")


def _just_beyond(cut: Cut, found: Measured) -> bool:
    """Whether all that a clip cut by frames lacks is a moment after its source's end."""
    lacking = (cut.end or 0) - cut.start - found.frames
    return found.frames > 0 and found.reason.startswith("the source has") and lacking <= moment(found.fps)


def _target(item: Item) -> str:
    return f"clips/{item.id}.mp4"


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"


def _time(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
