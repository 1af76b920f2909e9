"""Spans of long videos, written once as small files that every reader reads exactly and fast.

Notable here:
- a source is decoded once, from its first frame, and frames are counted; all its spans, overlapping or not, are
  written on the way. Nothing seeks;
- a span in seconds holds the frames whose times lie in it. All packets bear their times, so one pass over them, without
  decoding, says which these are; should the decoder then put out other times, the spans are found again from those;
- frames that are not evenly spaced in time keep their times in the clip;
- what a clip's file is like and how it is checked stands in writer.py, how interrupted work goes on in made.py.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from vmp.data.decode import check_regular
from vmp.data.times import EVEN, Clock, Timeline
from vmp.errors import VideoReadError
from vmp.prepare.children import TIMEOUT
from vmp.prepare.made import CannotWrite, make_all
from vmp.prepare.measure import Measured, Source, packet_times, small
from vmp.prepare.plan import Item
from vmp.prepare.rows import beyond, span
from vmp.prepare.writer import ClipWriter, shrink

CUTTING = 5  # raise when other clips come out of the same source
FALLBACK = Fraction(25)  # frames a second where the source does not say
OUT_OF_ORDER = 32  # frames: more than any codec puts between coding order and order of time


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """[start, end) of a source, in frames in counted decoder order from 0 or in seconds; end None: to the end.

    clock: what seconds count from.
    """

    source: Path
    start: float
    end: float | None
    target: Path  # .mp4
    unit: Literal["frames", "seconds"] = "frames"
    clock: Clock = "file"

    @property
    def item(self) -> Item:
        return Item(
            id=self.target.stem,
            path=str(self.source),
            label=0,
            start=self.start,
            end=self.end,
            unit=self.unit,
        )


def cut_all(
    cuts: Sequence[Cut],
    *,
    short_side: int | None = 320,
    workers: int | None = None,
    timeout: float = TIMEOUT,
    progress: bool = True,
) -> Iterator[tuple[Cut, Measured]]:
    """Write clips, sources in parallel; yields what each clip's file holds as it is done, those done before first.

    A clip that the source has only a part of is "partial", with the frames there were (and no file if none). A clip
    that could not be written is "missing" or "unreadable", with the reason.

    Args:
        short_side: even; larger sources are scaled down to it. None: as large as the source.
        timeout: seconds without progress before a process counts as hung; 0: never.

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
        partial(_cut_source, short_side=short_side),
        made=lambda cut: ["cut", CUTTING, cut.start, cut.end, cut.unit, cut.clock, short_side],
        title="cut clips",
        workers=workers,
        timeout=timeout,
        progress=progress,
    )


# --- in a child process: one source, all its clips -----------------------------------------------------------------


def _cut_source(
    cuts: tuple[Cut, ...], *, short_side: int | None
) -> Iterator[tuple[Cut, Measured] | CannotWrite]:
    try:
        yield from _cut_spans(cuts, short_side)
    except CannotWrite as error:
        yield error


def _cut_spans(cuts: tuple[Cut, ...], short_side: int | None) -> Iterator[tuple[Cut, Measured]]:
    path = cuts[0].source
    try:
        check_regular(path)
    except VideoReadError as error:
        status = "missing" if error.reason == "not found" else "unreadable"
        yield from ((cut, Measured(status, error.reason)) for cut in cuts)
        return
    times, source = packet_times(path), Source(path)
    yield from _write_spans(cuts, source, times, short_side)
    if not _agree(times, source.times()):
        if not source.fault:  # else all that there is was decoded
            source = Source(path)
            deque(source.frames(), maxlen=0)
        yield from _write_spans(cuts, Source(path), source.times(), short_side)


def _agree(said: Timeline, decoded: Timeline) -> bool:
    """Whether the frames decoded so far were shown when it was said; the last few may be out of order."""
    n = max(0, decoded.frames - (OUT_OF_ORDER if decoded.frames < said.frames else 0))
    if decoded.frames > said.frames:
        return False
    return bool(np.allclose(said.seconds()[:n], decoded.seconds()[:n], rtol=0, atol=EVEN))


def _write_spans(
    cuts: tuple[Cut, ...], source: Source, times: Timeline, short_side: int | None
) -> Iterator[tuple[Cut, Measured]]:
    """Decode a source and write the frames that its cuts ask for."""
    spans: dict[Cut, tuple[int, int | None]] = {}
    for cut in cuts:
        in_seconds = cut.unit == "seconds" and times.frames > 0  # no packet: decoding will say what is wrong
        if in_seconds and not times.rate:
            yield cut, Measured("unreadable", "the file does not say its frame rate")
        elif in_seconds and (problem := beyond(cut.item, times, cut.clock)):
            yield cut, Measured("partial", problem)
        else:
            spans[cut] = span(cut.item, times, cut.clock)
    rate = Fraction(times.rate).limit_denominator(1001) or FALLBACK
    seconds = None if times.even else times.seconds()
    waiting = sorted(spans, key=lambda cut: spans[cut][0], reverse=True)  # the next one is last
    last = (
        None
        if any(end is None for _, end in spans.values())
        else max((e or 0 for _, e in spans.values()), default=0)
    )
    writers: dict[Cut, ClipWriter] = {}
    try:
        for number, frame in enumerate(source.frames() if spans else ()):
            while waiting and spans[waiting[-1]][0] == number:
                cut = waiting.pop()
                own = None if seconds is None else seconds[slice(*spans[cut])]
                writers[cut] = ClipWriter(cut.target, rate, seconds=own)
            if writers:
                picture = shrink(frame, short_side)
                thumb = small(picture.to_ndarray(format="rgb24"))
                for writer in writers.values():
                    writer.add(picture, thumb)
            for cut in [cut for cut in writers if spans[cut][1] == number + 1]:
                yield cut, writers.pop(cut).finish()
            if last == number + 1:
                return
        fault = source.fault
        for cut in list(writers):
            found = writers.pop(cut).finish()
            if (fault or spans[cut][1] is not None) and found.status == "ok":
                found = replace(found, status="partial", reason=fault or _beyond(spans[cut], source.count))
            yield cut, found
        for cut in waiting:
            if source.count:
                cut.target.unlink(missing_ok=True)  # of another cut, if any
                yield cut, Measured("partial", fault or _beyond(spans[cut], source.count))
            else:
                yield cut, Measured("unreadable", fault or "no frame could be decoded")
    finally:
        for writer in writers.values():
            writer.drop()


def _beyond(span: tuple[int, int | None], frames: int) -> str:
    start, end = span
    return f"the source has {frames} frames, the span goes from {start}{'' if end is None else f' to {end}'}"
