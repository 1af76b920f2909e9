"""Writes spans of long videos as small files that are quick to decode.

Notes:
- a source is decoded once, from its first frame, and frames are counted; all its spans, overlapping or not, are
  written on the way. Nothing seeks;
- a span in seconds holds the frames whose times lie in it. Packet timestamps tell which frames these are without
  decoding; if the decoder then returns other times or more frames, the clips are written again by the decoded times;
- a clip is H.264 (crf 18, no B-frames, closed groups of 16, tune=fastdecode: half the decoding time for a tenth more
  bytes) in MP4 without sound, upright, the short side scaled down by area averaging (never up), with the source's
  colour tags, at its rate kept as a fraction, or each frame at its own time where the source's are not evenly spaced;
- a clip is decoded again before it gets its name: its frames are counted and compared with those that were written,
  and the readers that return exactly these are noted.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from vmp.data.decode import scaled_size
from vmp.data.stream import orientation, upright_size
from vmp.data.times import EVEN, Timeline
from vmp.prepare.children import Work
from vmp.prepare.journal import CutClip, DiskError, disk_errors, make_files, unfinished_name
from vmp.prepare.measure import Measured, Thumbs, count, distance, exact_readers, refusal, small
from vmp.prepare.source import Source, packet_times

CUT_VERSION = 5  # increment when the same source would give other clips
FALLBACK_RATE = Fraction(25)  # frames per second if the source names no rate
OUT_OF_ORDER = 32  # frames: more than any codec puts between coding order and order of time
CRF, GROUP = 18, 16
TICK = Fraction(1, 90_000)  # seconds: time base of clips whose frames keep their own times
WINDOW = 16  # frames compared together
MAX_CODING_ERROR = 2.0  # grey levels
_TAGS = ("colorspace", "color_primaries", "color_trc", "color_range")
_LIMITED, _FULL = 1, 2  # color_range: luma from 16 to 235, from 0 to 255


def cut_all(
    cuts: Sequence[CutClip], *, short_side: int | None = 320, **work: Unpack[Work]
) -> Iterator[tuple[CutClip, Measured]]:
    """Write clips, sources in parallel; yields (clip, measurement) as clips finish, those of earlier calls first.

    A clip that its source holds only a part of is "partial", with the frames there were (and no file if none). A clip
    that could not be written is "missing" or "unreadable", with the reason. A clip may be yielded twice,
    if its packet times were wrong and it was written again; the last result counts.

    Args:
        short_side: even; larger sources are scaled down to it. None: as large as the source.

    Raises:
        DataError: a folder cannot be written to, the disk is full.
    """
    if short_side is not None and (short_side < 16 or short_side % 2):
        raise ValueError(f"short_side = {short_side}: must be even and at least 16, or None (as the source)")
    seen: dict[Path, CutClip] = {}
    for cut in cuts:
        if cut.start < 0 or (cut.end is not None and cut.end <= cut.start):
            raise ValueError(f"{cut.target}: span {cut.start}..{cut.end} must have 0 <= start < end")
        if cut.target.suffix != ".mp4" or cut.target == cut.source:
            raise ValueError(f"{cut.target}: a target must be an .mp4 file, and not its source")
        if seen.setdefault(cut.target, cut) is not cut:
            raise ValueError(f"{cut.target}: two clips would be written there")
    return make_files(
        cuts,
        partial(_cut_source, short_side=short_side),
        recipe=lambda cut: ["cut", CUT_VERSION, cut.start, cut.end, cut.unit, cut.clock, short_side],
        title="cut clips",
        **work,
    )


# --- in a child process: one source, all its clips -----------------------------------------------------------------


def _cut_source(
    cuts: tuple[CutClip, ...], *, short_side: int | None
) -> Iterator[tuple[CutClip, Measured] | DiskError]:
    path = cuts[0].source
    if refused := refusal(path):
        yield from ((cut, refused) for cut in cuts)
        return
    times, source = packet_times(path), Source(path)
    try:
        yield from _write_spans(cuts, source, times, short_side)
        if not _times_match(times, source.times()):
            if not source.fault:  # else all that there is was decoded
                source = Source(path)
                deque(source.frames(), maxlen=0)
            yield from _write_spans(cuts, Source(path), source.times(), short_side)
    except DiskError as error:
        yield error


def _times_match(expected: Timeline, decoded: Timeline) -> bool:
    """Whether the frames decoded so far have the times of the packets; the last few may be out of order."""
    if decoded.frames > expected.frames:
        return False
    n = max(0, decoded.frames - (OUT_OF_ORDER if decoded.frames < expected.frames else 0))
    return bool(np.allclose(expected.seconds()[:n], decoded.seconds()[:n], rtol=0, atol=EVEN))


def _write_spans(
    cuts: tuple[CutClip, ...], source: Source, times: Timeline, short_side: int | None
) -> Iterator[tuple[CutClip, Measured]]:
    """Decode a source and write the frames that its cuts ask for.

    Stops early, with clips unfinished, at the first frame beyond uneven times: where it belongs is not known.
    """
    spans: dict[CutClip, tuple[int, int | None]] = {}
    for cut in cuts:
        # without packets, decoding will find the fault
        in_seconds = cut.unit == "seconds" and times.frames > 0
        if in_seconds and not times.rate:
            yield cut, Measured("unreadable", "the file does not say its frame rate")
        elif in_seconds and (problem := cut.excess(times, cut.clock)):
            yield cut, Measured("partial", problem)
        else:
            spans[cut] = cut.frames_in(times, cut.clock)
    rate = Fraction(times.rate).limit_denominator(1001) or FALLBACK_RATE
    seconds = None if times.even else times.seconds()
    waiting = sorted(spans, key=lambda cut: spans[cut][0], reverse=True)  # the next one is last
    ends = [end for _, end in spans.values()]
    last = None if None in ends else max((end or 0 for end in ends), default=0)
    writers: dict[CutClip, ClipWriter] = {}
    try:
        for number, frame in enumerate(source.frames() if spans else ()):
            if seconds is not None and number == len(seconds):
                return
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
                found = replace(found, status="partial", reason=fault or _too_short(spans[cut], source.count))
            yield cut, found
        for cut in waiting:
            if source.count:
                cut.target.unlink(missing_ok=True)  # of another cut, if any
                yield cut, Measured("partial", fault or _too_short(spans[cut], source.count))
            else:
                yield cut, Measured("unreadable", fault or "no frame could be decoded")
    finally:
        for writer in writers.values():
            writer.drop()


def _too_short(span: tuple[int, int | None], frames: int) -> str:
    start, end = span
    return f"the source has {frames} frames, the span goes from {start}{'' if end is None else f' to {end}'}"


# --- one clip ------------------------------------------------------------------------------------------------------


class ClipWriter:
    """Writes one clip, whose frames are shown at `seconds`, ascending, or evenly at `fps`."""

    def __init__(self, target: Path, fps: Fraction, *, seconds: np.ndarray | None = None) -> None:
        self.target, self.fps, self.thumbs = target, fps, Thumbs()
        self._unit = 1 / fps if seconds is None else TICK
        self._ticks: list[int] | None = None
        if seconds is not None and len(seconds):
            ticks = np.round((seconds - seconds[0]) / float(TICK)).astype(np.int64)
            late = np.arange(len(ticks))  # of two frames with one time the second is shown a tick later
            self._ticks = (np.maximum.accumulate(ticks - late) + late).tolist()
        self.half = unfinished_name(target)
        self._container: Any = None

    def add(self, picture: Any, thumb: np.ndarray) -> None:
        """Write a frame (av.VideoFrame, yuv420p), and keep its small picture."""
        import av

        with disk_errors(self.target):
            if self._container is None:
                self._container = av.open(str(self.half), "w")
                options = {"g": str(GROUP), "bf": "0", "crf": str(CRF), "threads": "1"}
                options |= {"preset": "veryfast", "tune": "fastdecode"}
                options["x264-params"] = "scenecut=0:open-gop=0"
                self._stream = self._container.add_stream("libx264", rate=self.fps, options=options)
                self._stream.width, self._stream.height = picture.width, picture.height
                self._stream.pix_fmt, self._stream.thread_type = "yuv420p", "NONE"
                context = self._stream.codec_context
                context.time_base = self._unit
                for tag in _TAGS:
                    setattr(context, tag, getattr(picture, tag))
            number = self.thumbs.count
            picture.pts, picture.time_base = self._ticks[number] if self._ticks else number, self._unit
            self._container.mux(self._stream.encode(picture))
        self.thumbs.add(thumb)

    def finish(self) -> Measured:
        """Close the file, check it, and give it its name."""
        try:
            with disk_errors(self.target):
                self._container.mux(self._stream.encode())
                self._container.close()
                counted = count(self.half)
                fault = counted.found.reason or describe_difference(self.thumbs, counted.thumbs)
                if fault:
                    return Measured("unreadable", f"the clip that was written is not its source: {fault}")
                found = replace(counted.found, readers=exact_readers(self.half, counted))
                os.replace(self.half, self.target)
                return found
        finally:
            self.drop()

    def drop(self) -> None:
        with suppress(Exception):  # closing what could not be written fails as well
            if self._container is not None:
                self._container.close()
        self.half.unlink(missing_ok=True)


def shrink(frame: Any, short_side: int | None) -> Any:
    """A decoded frame upright and scaled down, yuv420p, without anything of the source but its colour tags."""
    import av

    mirrored, turns = orientation(frame)
    width, height = target_size(*upright_size(frame), short_side)
    if turns % 2:
        width, height = height, width
    form = "yuv444p" if mirrored or turns else "yuv420p"  # planes of one size can be turned
    full = frame.color_range == _FULL or frame.format.name.startswith("yuvj")
    ranges = {"dst_color_range": "MPEG"} if full or frame.format.is_rgb else {}
    scaled = frame.reformat(width=width, height=height, format=form, interpolation="AREA", **ranges)
    planes = scaled.to_ndarray()
    if mirrored:
        planes = planes[:, ::-1]
    if turns:
        planes = np.rot90(planes, turns, axes=(1, 2))
    fresh = av.VideoFrame.from_ndarray(np.ascontiguousarray(planes), format=form)
    if mirrored or turns:
        fresh = fresh.reformat(format="yuv420p", interpolation="AREA")
        fresh.pts = None
    if not frame.format.is_rgb:
        for tag in _TAGS[:3]:
            setattr(fresh, tag, getattr(frame, tag))
    fresh.color_range = _LIMITED
    return fresh


def target_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """(width, height) of a clip: even, never larger than the source."""
    if short_side is not None and min(width, height) > short_side:
        height, width = scaled_size(height, width, short_side)
    return max(2, width // 2 * 2), max(2, height // 2 * 2)


def describe_difference(source: Thumbs, written: Thumbs) -> str:
    """How the frames of a written clip are not those that were given to the encoder, or nothing.

    Over windows in time: coding costs a grey level or two and may repeat a picture that hardly changes, so a window
    is wrong when it is far from its own frames and clearly nearer to those one or two before or after.
    """
    if written.count != source.count:
        return f"{written.count} frames, not {source.count}"
    a, b = source.kept(), written.kept()
    for begin in range(0, source.count, WINDOW):
        inner = [i for i in range(begin, min(begin + WINDOW, source.count)) if i in a]
        if not inner:
            continue
        pictures = np.stack([b[i] for i in inner])
        own = distance(np.stack([a[i] for i in inner]), pictures)  # (frames,)
        if own.mean() <= MAX_CODING_ERROR:
            continue
        if own.mean() > 4 * MAX_CODING_ERROR:
            return f"frames {begin} to {inner[-1]} differ by {own.mean():.1f} grey levels"
        for shift in (-2, -1, 1, 2):
            has = [k for k, i in enumerate(inner) if i + shift in a]
            if not has:
                continue
            other = distance(np.stack([a[inner[k] + shift] for k in has]), pictures[has])
            if own[has].mean() > 1.2 * other.mean() + 0.2:
                return f"frames {begin} to {inner[-1]} are those {abs(shift)} {'after' if shift > 0 else 'before'}"
    return ""
