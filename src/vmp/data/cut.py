"""Spans of long videos, written once as small files that every reader reads exactly and fast.

Notable here:
- a source is decoded once, from its first frame, and frames are counted; all its spans, overlapping or not, are
  written on the way. Nothing seeks and no timestamp is looked at;
- a clip is H.264 (crf 18, no B-frames, closed groups of 16) in MP4 without sound, upright, its short side scaled
  down by area averaging (never up), at the source's average rate kept as a fraction, with the source's colour tags;
- every clip is decoded again before it gets its name: its frames are counted and compared with those that went in,
  and the readers that return exactly these are noted;
- `.cuts.jsonl` in each folder says what its clips were made from, so that a run that was killed goes on, and a clip
  whose source, span or settings have changed is made again. A lock keeps a second process out of the folder.
"""

import errno
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from vmp.data.decode import check_regular, scaled_size
from vmp.data.measure import (
    Limit,
    Lost,
    Measured,
    Source,
    Thumbs,
    count,
    distance,
    exact_readers,
    in_children,
    small,
    time_limit,
)
from vmp.errors import DataError, VideoReadError
from vmp.progress import bar

CUTTING = 1  # raise when other clips come out of the same source
RECORD = ".cuts.jsonl"
HALF = ".cutting.mp4"  # how the names of unfinished files end
GAVE_UP = "cutting was given up:"
CRF, GROUP = 18, 16
FALLBACK = Fraction(25)  # frames a second where the source does not say
WINDOW, CLOSE = 16, 2.0  # frames compared together; grey levels that coding may cost without a second look
PACE = 8e6  # pixels a second that a source can be decoded at on any machine, with some to spare

# for `estimate`, measured on one core: seconds a pixel decoded, a pixel written and checked; bytes a pixel
DECODE, WRITE, BYTES = 5e-9, 140e-9, 0.035


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Frames [start, end) of a source in counted decoder order, from 0; end None: to the end."""

    source: Path
    start: int
    end: int | None
    target: Path  # .mp4


@dataclass(frozen=True, slots=True)
class Probe:
    """What a file's header and first frame say; the number of frames is a promise, often broken."""

    fps: Fraction  # 0: the file does not say
    width: int  # upright
    height: int
    frames_promised: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of the clips whose sources can be probed. seconds: on all cores of this machine."""

    clips: int
    sources: int
    frames: int
    bytes: int
    seconds: float


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
    return _cut_all(cuts, short_side, workers, timeout, progress)


def _cut_all(
    cuts: Sequence[Cut], short_side: int | None, workers: int | None, timeout: float, progress: bool
) -> Iterator[tuple[Cut, Measured]]:
    with ExitStack() as stack:
        records: dict[Path, _Record] = {}
        folders = sorted({cut.target.parent for cut in cuts})  # in one order: no two processes wait in a ring
        for folder in folders:
            records[folder] = stack.enter_context(_Record(folder, short_side))
        todo: dict[Path, list[Cut]] = defaultdict(list)
        done: list[tuple[Cut, Measured]] = []
        for cut in cuts:
            before = records[cut.target.parent].find(cut)
            if before:
                done.append((cut, before))
            else:
                todo[cut.source].append(cut)
        shown = stack.enter_context(bar("cut clips", len(cuts), done=len(done), shown=progress))
        yield from done
        jobs = [_Job(source, tuple(part), short_side, timeout) for source, part in todo.items()]
        left = {cut for job in jobs for cut in job.cuts}
        limit = partial(_limit, timeout=timeout)
        for job, item in in_children(_cut_source, jobs, limit=limit, workers=workers):
            if isinstance(item, _CannotWrite):
                raise DataError(f"{item.reason}. Clips that are finished stay; the same command goes on.")
            if isinstance(item, Lost):
                lost = Measured("unreadable", f"{GAVE_UP} {item.reason}")
                results = [(cut, lost) for cut in job.cuts if cut in left]
            else:
                results = [item]
            for cut, found in results:
                left.discard(cut)
                if not found.reason.startswith(GAVE_UP):
                    records[cut.target.parent].add(cut, found)
                shown.advance()
                yield cut, found


def probe(path: str | os.PathLike[str]) -> Probe:
    """Open a video and decode one frame.

    Raises:
        VideoReadError: not there, not a regular file, or not a video.
    """
    path = Path(path)
    check_regular(path)
    source = Source(path)
    first = next(source.frames(), None)
    if first is None:
        raise VideoReadError(path, source.fault or "no frame could be decoded")
    width, height = _upright_size(first)
    return Probe(source.fps, width, height, source.promised, source.seconds)


def estimate(cuts: Sequence[Cut], *, short_side: int | None) -> Estimate:
    """What cutting would read and write, from the headers of the sources: right within a factor of two or so."""
    by_source: dict[Path, list[Cut]] = defaultdict(list)
    for cut in cuts:
        by_source[cut.source].append(cut)
    clips = sources = frames = 0
    written = seconds = 0.0
    for source, part in by_source.items():
        try:
            p = probe(source)
        except VideoReadError:
            continue
        width, height = _target_size(p.width, p.height, short_side)
        ends = [p.frames_promised if cut.end is None else cut.end for cut in part]
        own = sum(max(0, end - cut.start) for cut, end in zip(part, ends, strict=True))
        clips, sources, frames = clips + len(part), sources + 1, frames + own
        written += own * width * height
        seconds += min(max(ends), p.frames_promised or max(ends)) * p.width * p.height * DECODE
    seconds += written * WRITE
    cores = max(1, min(os.cpu_count() or 1, sources))
    return Estimate(clips, sources, frames, round(written * BYTES), seconds / cores)


def remux(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> bool:
    """Unpack the packed B-frames of an MPEG-4 video by copying its packets: no pixel changes, timestamps come right.

    Returns whether the target was written: only if it holds the same pictures in the same order.
    """
    import av
    from av.bitstream import BitStreamFilterContext, bitstream_filters_available

    source, target = Path(source), Path(target)
    if "mpeg4_unpack_bframes" not in bitstream_filters_available:
        return False
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.remux{target.suffix}")
    try:
        with (
            av.open(str(source), metadata_errors="replace") as inside,
            av.open(str(temporary), "w") as outside,
        ):
            stream = inside.streams.video[0]
            if stream.codec_context.name != "mpeg4":
                return False
            copy = outside.add_stream_from_template(stream)
            unpack = BitStreamFilterContext("mpeg4_unpack_bframes", stream, copy)
            for packet in inside.demux(stream):
                for unpacked in unpack.filter(packet) if packet.size else unpack.filter(None):
                    unpacked.stream = copy
                    outside.mux(unpacked)
        a, b = Source(source), Source(temporary)
        for left, right in zip(a.frames(), b.frames(), strict=True):
            if not np.array_equal(left.to_ndarray(), right.to_ndarray()):
                return False
        if a.fault or b.fault or not a.count:
            return False
        os.replace(temporary, target)
        return True
    except (OSError, ValueError, IndexError, av.FFmpegError):  # no video, or not one for this container
        return False
    finally:
        temporary.unlink(missing_ok=True)


# --- in a child process: one source, all its clips -----------------------------------------------------------------


_TAGS = ("colorspace", "color_primaries", "color_trc", "color_range")
_LIMITED, _FULL = 1, 2  # color_range: luma from 16 to 235, from 0 to 255
_DISK = {
    errno.ENOSPC,
    errno.EFBIG,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOENT,
    errno.EIO,
}


@dataclass(frozen=True, slots=True)
class _Job:
    source: Path
    cuts: tuple[Cut, ...]
    short_side: int | None
    timeout: float


class _CannotWrite(Exception):
    """Trouble with the target's disk, which no other source would be spared."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _trouble(target: Path, error: Exception) -> Exception:
    if getattr(error, "errno", None) in _DISK:
        return _CannotWrite(f"{target}: {getattr(error, 'strerror', None) or error}")
    return error


def _limit(job: _Job, *, timeout: float) -> float:
    return time_limit(job.source, timeout=timeout)


def _cut_source(job: _Job) -> Iterator[Limit | tuple[Cut, Measured] | _CannotWrite]:
    try:
        yield from _cut_spans(job)
    except _CannotWrite as error:
        yield error


def _cut_spans(job: _Job) -> Iterator[Limit | tuple[Cut, Measured]]:
    try:
        check_regular(job.source)
    except VideoReadError as error:
        status = "missing" if error.reason == "not found" else "unreadable"
        yield from ((cut, Measured(status, error.reason)) for cut in job.cuts)
        return
    waiting = sorted(job.cuts, key=lambda cut: cut.start, reverse=True)  # the next one is last
    last = None if any(cut.end is None for cut in job.cuts) else max(cut.end or 0 for cut in job.cuts)
    writers: list[_Writer] = []
    source = Source(job.source)
    try:
        for number, frame in enumerate(source.frames()):
            if number == 0:
                written = sum((cut.end or source.promised) - cut.start for cut in job.cuts)
                pixels = (source.promised + written) * frame.width * frame.height
                bound = time_limit(job.source, timeout=job.timeout)
                yield Limit(max(bound, min(pixels / PACE / 120, 100) * job.timeout))
            while waiting and waiting[-1].start == number:
                writers.append(_Writer(waiting.pop(), source.fps or FALLBACK))
            if writers:
                picture = _shrink(frame, job.short_side)
                thumb = small(picture.to_ndarray(format="rgb24"))
                for writer in writers:
                    writer.add(picture, thumb)
            for writer in [w for w in writers if w.cut.end == number + 1]:
                writers.remove(writer)
                yield writer.cut, writer.finish()
            if last == number + 1:
                return
        fault = source.fault
        for writer in list(writers):
            writers.remove(writer)
            found = writer.finish()
            if (fault or writer.cut.end is not None) and found.status == "ok":
                found = replace(found, status="partial", reason=fault or _beyond(writer.cut, source.count))
            yield writer.cut, found
        for cut in waiting:
            if source.count:
                cut.target.unlink(missing_ok=True)  # of another cut, if any
                yield cut, Measured("partial", fault or _beyond(cut, source.count))
            else:
                yield cut, Measured("unreadable", fault or "no frame could be decoded")
    finally:
        for writer in writers:
            writer.drop()


def _beyond(cut: Cut, frames: int) -> str:
    to = "" if cut.end is None else f" to {cut.end}"
    return f"the source has {frames} frames, the span goes from {cut.start}{to}"


class _Writer:
    """One clip on its way."""

    def __init__(self, cut: Cut, fps: Fraction) -> None:
        self.cut, self.fps, self.thumbs = cut, fps, Thumbs()
        name = hashlib.sha256(cut.target.name.encode()).hexdigest()[
            :16
        ]  # the target's may be as long as names get
        self.half = Path(os.path.abspath(cut.target.with_name(f".{name}.{os.getpid()}{HALF}")))
        self._container: Any = None

    def add(self, picture: Any, thumb: np.ndarray) -> None:
        """A frame (av.VideoFrame, yuv420p) and its small picture."""
        import av

        try:
            if self._container is None:
                self._container = av.open(str(self.half), "w")
                options = {"g": str(GROUP), "bf": "0", "crf": str(CRF), "threads": "1", "preset": "veryfast"}
                options["x264-params"] = "scenecut=0:open-gop=0"
                self._stream = self._container.add_stream("libx264", rate=self.fps, options=options)
                self._stream.width, self._stream.height = picture.width, picture.height
                self._stream.pix_fmt, self._stream.thread_type = "yuv420p", "NONE"
                context = self._stream.codec_context
                context.time_base = 1 / self.fps
                for tag in _TAGS:
                    setattr(context, tag, getattr(picture, tag))
            picture.pts, picture.time_base = self.thumbs.count, 1 / self.fps
            self._container.mux(self._stream.encode(picture))
        except (OSError, av.FFmpegError) as error:
            raise _trouble(self.cut.target, error) from error
        self.thumbs.add(thumb)

    def finish(self) -> Measured:
        """Close the file, check it, give it its name."""
        import av

        try:
            self._container.mux(self._stream.encode())
            self._container.close()
            counted = count(self.half)
            fault = counted.found.reason or _differs(self.thumbs, counted.thumbs)
            if not fault:
                found = replace(counted.found, readers=exact_readers(self.half, counted))
                os.replace(self.half, self.cut.target)
                return found
            return Measured("unreadable", f"the clip that was written is not its source: {fault}")
        except (OSError, av.FFmpegError) as error:
            raise _trouble(self.cut.target, error) from error
        finally:
            self.drop()

    def drop(self) -> None:
        try:
            if self._container is not None:
                self._container.close()
        except Exception:  # closing what could not be written fails as well
            pass
        self.half.unlink(missing_ok=True)


def _shrink(frame: Any, short_side: int | None) -> Any:
    """A decoded frame upright and scaled down, yuv420p, without anything of the source but its colour tags."""
    import av

    turns = round(frame.rotation / 90) % 4
    width, height = _target_size(*_upright_size(frame), short_side)
    if turns % 2:
        width, height = height, width
    form = "yuv444p" if turns else "yuv420p"  # planes of one size can be turned
    full = frame.color_range == _FULL or frame.format.name.startswith("yuvj")
    ranges = {"dst_color_range": "MPEG"} if full or frame.format.is_rgb else {}
    scaled = frame.reformat(width=width, height=height, format=form, interpolation="AREA", **ranges)
    planes = scaled.to_ndarray()
    if turns:
        planes = np.ascontiguousarray(np.rot90(planes, turns, axes=(1, 2)))
    fresh = av.VideoFrame.from_ndarray(planes, format=form)
    if turns:
        fresh = fresh.reformat(format="yuv420p", interpolation="AREA")
        fresh.pts = None
    if not frame.format.is_rgb:
        for tag in _TAGS[:3]:
            setattr(fresh, tag, getattr(frame, tag))
    fresh.color_range = _LIMITED
    return fresh


def _upright_size(frame: Any) -> tuple[int, int]:
    return (frame.height, frame.width) if round(frame.rotation / 90) % 2 else (frame.width, frame.height)


def _target_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """Even, never larger than the source."""
    if short_side is not None and min(width, height) > short_side:
        height, width = scaled_size(height, width, short_side)
    return max(2, width // 2 * 2), max(2, height // 2 * 2)


def _differs(source: Thumbs, written: Thumbs) -> str:
    """What shows that the frames of a written clip are not those that went in, or nothing.

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
        if own.mean() <= CLOSE:
            continue
        if own.mean() > 4 * CLOSE:
            return f"frames {begin} to {inner[-1]} differ by {own.mean():.1f} grey levels"
        for shift in (-2, -1, 1, 2):
            has = [k for k, i in enumerate(inner) if i + shift in a]
            if not has:
                continue
            other = distance(np.stack([a[inner[k] + shift] for k in has]), pictures[has])
            if own[has].mean() > 1.2 * other.mean() + 0.2:
                return f"frames {begin} to {inner[-1]} are those {abs(shift)} {'after' if shift > 0 else 'before'}"
    return ""


# --- what was cut before -------------------------------------------------------------------------------------------


class _Record:
    """`.cuts.jsonl` of a folder, held by one process at a time; the last line about a file counts."""

    def __init__(self, folder: Path, short_side: int | None) -> None:
        self.folder, self.short_side = folder, short_side
        self.known: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> "_Record":
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.folder / ".cuts.lock")
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                print(f"{self.folder}: another process writes clips there; waiting for it", flush=True)
                self._lock.acquire()
            self._sweep()
            path = self.folder / RECORD
            text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
            for line in text.splitlines():
                try:
                    entry = json.loads(line)
                    self.known[entry["target"]] = entry
                except (ValueError, KeyError, TypeError):
                    continue
            with open(path, "a", encoding="utf-8") as log:
                if text and not text.endswith("\n"):  # a line cut short by a kill
                    log.write("\n")
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be written to ({error.strerror or error})") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._sweep()
        self._lock.release()

    def _sweep(self) -> None:
        """Remove what a killed child left; the lock says that nobody is writing it."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") and entry.name.endswith(HALF):
                    os.unlink(entry.path)

    def find(self, cut: Cut) -> Measured | None:
        """What a clip's file holds, if it was made by the same cut and is as it was."""
        entry = self.known.get(cut.target.name)
        if entry is None or entry.get("made") != self._made(cut) or entry.get("bytes") != _bytes(cut.target):
            return None
        try:
            return Measured(**entry["measured"] | {"readers": tuple(entry["measured"]["readers"])})
        except (KeyError, TypeError):
            return None

    def add(self, cut: Cut, found: Measured) -> None:
        if found.status not in ("ok", "partial"):
            return
        entry = {"target": cut.target.name, "made": self._made(cut), "bytes": _bytes(cut.target)}
        with open(self.folder / RECORD, "a", encoding="utf-8") as log:
            log.write(json.dumps(entry | {"measured": asdict(found)}) + "\n")

    def _made(self, cut: Cut) -> list[Any]:
        try:
            info = os.stat(cut.source)
            stamp = [info.st_size, info.st_mtime_ns]
        except OSError:
            stamp = [-1, -1]
        return [CUTTING, cut.source.name, *stamp, cut.start, cut.end, self.short_side]


def _bytes(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError as error:
        return 0 if error.errno == errno.ENOENT else -1
