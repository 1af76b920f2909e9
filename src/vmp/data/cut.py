"""Spans of long videos, written once as small files that every reader reads exactly and fast.

Notable here:
- a source is decoded once, from its first frame, and frames are counted; all its spans, overlapping or not, are
  written on the way. Nothing seeks and no timestamp is looked at;
- what a clip's file is like and how it is checked stands in writer.py, how interrupted work goes on in made.py.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

from vmp.data.decode import check_regular
from vmp.data.made import CannotWrite, make_all
from vmp.data.measure import Limit, Measured, Source, small, time_limit
from vmp.data.writer import ClipWriter, shrink
from vmp.errors import VideoReadError

CUTTING = 2  # raise when other clips come out of the same source
FALLBACK = Fraction(25)  # frames a second where the source does not say
PACE = 8e6  # pixels a second that a source can be decoded at on any machine, with some to spare


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Frames [start, end) of a source in counted decoder order, from 0; end None: to the end."""

    source: Path
    start: int
    end: int | None
    target: Path  # .mp4


def cut_all(
    cuts: Sequence[Cut],
    *,
    short_side: int | None = 320,
    workers: int | None = None,
    timeout: float = 120.0,
    progress: bool = True,
) -> Iterator[tuple[Cut, Measured]]:
    """Write clips, sources in parallel; yields what each clip's file holds as it is done, those done before first.

    A clip that the source has only a part of is "partial", with the frames there were (and no file if none). A clip
    that could not be written is "missing" or "unreadable", with the reason.

    Args:
        short_side: even; larger sources are scaled down to it. None: as large as the source.
        timeout: seconds that a source of up to 60 MB may take, in proportion to bytes and pixels beyond.

    Raises:
        ValueError: a span, target or size that makes no sense, a target named twice.
        DataError: a folder cannot be written to, the disk is full.
    """
    if short_side is not None and (short_side < 16 or short_side % 2):
        raise ValueError(
            f"short_side = {short_side}: must be even, at least 16, or None for the source's size"
        )
    seen: dict[Path, Cut] = {}
    for cut in cuts:
        if cut.start < 0 or (cut.end is not None and cut.end <= cut.start):
            raise ValueError(f"{cut.target}: span {cut.start}..{cut.end} must have 0 <= start < end")
        if cut.target.suffix != ".mp4" or cut.target == cut.source:
            raise ValueError(f"{cut.target}: a target must be an .mp4 file, and not its source")
        if seen.setdefault(cut.target, cut) is not cut:
            raise ValueError(f"{cut.target}: two clips would be written there")
    return make_all(
        cuts,
        partial(_cut_source, short_side=short_side, timeout=timeout),
        made=lambda cut: ["cut", CUTTING, cut.start, cut.end, short_side],
        limit=lambda job: time_limit(job[0].source, timeout=timeout),
        title="cut clips",
        workers=workers,
        progress=progress,
    )


# --- in a child process: one source, all its clips -----------------------------------------------------------------


def _cut_source(
    cuts: tuple[Cut, ...], *, short_side: int | None, timeout: float
) -> Iterator[Limit | tuple[Cut, Measured] | CannotWrite]:
    try:
        yield from _cut_spans(cuts, short_side, timeout)
    except CannotWrite as error:
        yield error


def _cut_spans(
    cuts: tuple[Cut, ...], short_side: int | None, timeout: float
) -> Iterator[Limit | tuple[Cut, Measured]]:
    path = cuts[0].source
    try:
        check_regular(path)
    except VideoReadError as error:
        status = "missing" if error.reason == "not found" else "unreadable"
        yield from ((cut, Measured(status, error.reason)) for cut in cuts)
        return
    waiting = sorted(cuts, key=lambda cut: cut.start, reverse=True)  # the next one is last
    last = None if any(cut.end is None for cut in cuts) else max(cut.end or 0 for cut in cuts)
    writers: dict[Cut, ClipWriter] = {}
    source = Source(path)
    try:
        for number, frame in enumerate(source.frames()):
            if number == 0:
                written = sum((cut.end or source.promised) - cut.start for cut in cuts)
                pixels = (source.promised + written) * frame.width * frame.height
                bound = time_limit(path, timeout=timeout)
                yield Limit(max(bound, min(pixels / PACE / 120, 100) * timeout))
            while waiting and waiting[-1].start == number:
                cut = waiting.pop()
                writers[cut] = ClipWriter(cut.target, source.fps or FALLBACK)
            if writers:
                picture = shrink(frame, short_side)
                thumb = small(picture.to_ndarray(format="rgb24"))
                for writer in writers.values():
                    writer.add(picture, thumb)
            for cut in [cut for cut in writers if cut.end == number + 1]:
                yield cut, writers.pop(cut).finish()
            if last == number + 1:
                return
        fault = source.fault
        for cut in list(writers):
            found = writers.pop(cut).finish()
            if (fault or cut.end is not None) and found.status == "ok":
                found = replace(found, status="partial", reason=fault or _beyond(cut, source.count))
            yield cut, found
        for cut in waiting:
            if source.count:
                cut.target.unlink(missing_ok=True)  # of another cut, if any
                yield cut, Measured("partial", fault or _beyond(cut, source.count))
            else:
                yield cut, Measured("unreadable", fault or "no frame could be decoded")
    finally:
        for writer in writers.values():
            writer.drop()


def _beyond(cut: Cut, frames: int) -> str:
    to = "" if cut.end is None else f" to {cut.end}"
    return f"the source has {frames} frames, the span goes from {cut.start}{to}"
