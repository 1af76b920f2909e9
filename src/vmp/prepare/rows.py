"""Rows of the manifests: what is annotated of a clip (an Item), with what was measured of the file that it lies in.

Notable here:
- a span in seconds takes the frames whose own times lie in [start, end) (times.py); no rate is involved;
- a span that ends a moment after its video ends with it; one that reaches further is partial, and not used;
- a clip that is missing or cannot be read keeps its row and its reason, so that the counts reach every result.
"""

from dataclasses import replace
from typing import Any

from vmp.data.manifest import Clip
from vmp.data.times import Clock, Timeline
from vmp.prepare.measure import Measured
from vmp.prepare.plan import Item

SHORT = 9  # frames: the fewest that a model of the paper takes are 8, and one more for the prompts
TOLERANCE = 1.0  # seconds that a span may reach beyond its video; it is ended with it


def in_place_row(item: Item, found: Measured | None, *, clock: Clock = "file") -> Clip:
    """A span of a measured file; None: the file is not there."""
    clip = Clip(id=item.id, path=item.path, label=item.label, tags=dict(item.tags))
    if found is None or found.status == "missing":
        return replace(bad(clip, "missing", item.problem or "not found"), **_known_span(item))
    clip = with_measured(clip, found)
    if item.problem:
        return bad(clip, "unreadable", item.problem)
    if found.status != "ok":
        return replace(bad(clip, found.status, found.reason), **_known_span(item))
    if item.unit == "file":
        return clip
    if item.unit == "seconds" and not found.fps:
        return bad(clip, "unreadable", "the file does not say its frame rate")
    start, end = span(item, found.times, clock)
    clip = replace(clip, start=start, end=end)
    if problem := beyond(item, found.times, clock):
        return bad(replace(clip, times=""), "partial", problem)
    end = found.frames if end is None else min(end, found.frames)
    return replace(clip, end=end, times=found.times.part(start, end))


def unmeasured_row(item: Item, *, there: bool) -> Clip:
    """What can be said without opening the file."""
    status = "missing" if not there else "unreadable" if item.problem else "ok"
    return Clip(id=item.id, path=item.path, label=item.label, status=status)


def span(item: Item, times: Timeline, clock: Clock = "file") -> tuple[int, int | None]:
    """The frames [start, end) of an item; None: to the end."""
    if item.unit == "seconds":
        start, end = times.span(item.start, item.end, clock=clock)
        return start, None if item.end is None else end
    return int(item.start), None if item.end is None else int(item.end)


def beyond(item: Item, times: Timeline, clock: Clock = "file") -> str:
    """Where a span does not lie in its video: how far off it is; it may end a moment later than its video."""
    if item.unit == "seconds":
        video = times.seconds(clock)[0], times.end(clock)
        late = item.end is not None and item.end > video[1] + TOLERANCE
        if late or item.start >= video[1] or (item.end is not None and item.end <= video[0]):
            to = "the end" if item.end is None else f"{item.end:g}"
            return f"{item.start:g} to {to} s of a video whose frames are shown from {video[0]:.2f} to {video[1]:.2f} s"
    elif item.unit == "frames":
        late = item.end is not None and item.end > times.frames + moment(times.rate)
        if late or item.start >= times.frames:
            to = "the end" if item.end is None else f"{item.end:g}"
            return f"frames {item.start:g} to {to} of a video that has {times.frames}"
    return ""


def moment(rate: float) -> float:
    """Frames that a span may reach beyond the end of its video."""
    return max(1.0, TOLERANCE * rate)


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


def bad(clip: Clip, status: str, reason: str) -> Clip:
    return replace(clip, status=status, tags=clip.tags | ({"problem": reason} if reason else {}))


def tag_short(clip: Clip) -> Clip:
    short = clip.status == "ok" and clip.length < SHORT
    return replace(clip, tags=clip.tags | {"short": "yes"}) if short else clip


def _known_span(item: Item) -> dict[str, Any]:
    """What is known of a span without its file."""
    return {"start": int(item.start), "end": item.end and int(item.end)} if item.unit == "frames" else {}
