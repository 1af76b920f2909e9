"""Rows of the manifests: what is annotated of a clip (an Item), with what was measured of the file that it lies in.

Notable here:
- a span in seconds takes the frames whose times lie in [start, end) at the file's own rate, never a nominal one;
- a span that ends a moment after its video ends with it; one that reaches further is partial, and not used;
- a clip that is missing or cannot be read keeps its row and its reason, so that the counts reach every result.
"""

import math
from dataclasses import replace
from typing import Any

from vmp.data.manifest import Clip
from vmp.data.measure import Measured
from vmp.data.plan import Item

SHORT = 9  # frames: the fewest that a model of the paper takes are 8, and one more for the prompts
TOLERANCE = 1.0  # seconds that a span may reach beyond its video; it is ended with it


def in_place_row(item: Item, found: Measured | None) -> Clip:
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
    start, end = span(item, found.fps)
    clip = replace(clip, start=start, end=end)
    if start >= found.frames or (end is not None and end > found.frames + moment(found.fps)):
        to = "the end" if end is None else end
        return bad(clip, "partial", f"frames {start} to {to} of a video that has {found.frames}")
    return replace(clip, end=found.frames if end is None else min(end, found.frames))


def unmeasured_row(item: Item, *, there: bool) -> Clip:
    """What can be said without opening the file."""
    status = "missing" if not there else "unreadable" if item.problem else "ok"
    return Clip(id=item.id, path=item.path, label=item.label, status=status)


def span(item: Item, fps: float) -> tuple[int, int | None]:
    """The frames [start, end) of an item; None: to the end."""
    if item.unit == "seconds":
        first, last = seconds_to_frames(item.start, item.start if item.end is None else item.end, fps)
        return first, None if item.end is None else last
    return int(item.start), None if item.end is None else int(item.end)


def seconds_to_frames(start: float, end: float, fps: float) -> tuple[int, int]:
    """Frames [first, last) whose times lie in [start, end), at least one."""
    first = max(0, math.ceil(start * fps - 1e-6))
    return first, max(first + 1, math.ceil(end * fps - 1e-6))


def moment(fps: float) -> float:
    """Frames that a span may reach beyond the end of its video."""
    return max(1.0, TOLERANCE * fps)


def with_measured(clip: Clip, found: Measured) -> Clip:
    return replace(
        clip,
        frames=found.frames,
        fps=found.fps,
        width=found.width,
        height=found.height,
        readers=found.readers,
    )


def bad(clip: Clip, status: str, reason: str) -> Clip:
    return replace(clip, status=status, tags=clip.tags | ({"problem": reason} if reason else {}))


def tag_short(clip: Clip) -> Clip:
    short = clip.status == "ok" and clip.length < SHORT
    return replace(clip, tags=clip.tags | {"short": "yes"}) if short else clip


def _known_span(item: Item) -> dict[str, Any]:
    """What is known of a span without its file."""
    return {"start": int(item.start), "end": item.end and int(item.end)} if item.unit == "frames" else {}
