"""A video file decoded frame by frame, with its header read once and every sign of damage noticed.

Notes:
- headers are wrong about the number of frames in both directions, so frames are counted as they come out;
- a damaged Matroska or AVI file is read on behind the damage without any sign but FFmpeg's log, so the log is captured;
- `packet_times` and `Source` read the same header, so a difference between their times is a finding about the file.
"""

import os
import re
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import numpy as np

from vmp.data.decode import check_is_video_file
from vmp.data.frames import decode_folder, frame_files
from vmp.data.stream import null_frames, open_video, orientation, shown_frames, upright_size, video_stream
from vmp.data.times import Timeline, timeline
from vmp.errors import VideoReadError
from vmp.prepare.children import TIMEOUT, Lost, Work, in_children, step


class Header(NamedTuple):
    """What a file's header says about time; the defaults say nothing."""

    rates: tuple[Fraction, ...] = ()  # frames per second: average, guessed; 0: not given
    zero: float = 0.0  # the file's clock at its start, in seconds
    leaps: bool = False  # the clock may jump ahead, as in MPEG transport and program streams


def read_header(container: Any, stream: Any) -> Header:
    import av
    from av.format import Flags

    rates = tuple(Fraction(rate or 0) for rate in (stream.average_rate, stream.guessed_rate))
    leaps = bool(container.format.flags & Flags.ts_discont.value)
    return Header(rates, (container.start_time or 0) / av.time_base, leaps)


def packet_times(path: Path) -> Timeline:
    """When the pictures of a file are shown, by its packets: as many as there are frames, unless it is damaged."""
    import av

    times: list[float | None] = []
    try:
        with open_video(path) as container:
            stream = video_stream(container, path)
            header = read_header(container, stream)
            for packet in container.demux(stream):
                step()
                if packet.size and not packet.is_discard:
                    times.append(None if packet.pts is None else float(packet.pts * packet.time_base))
    except (OSError, av.FFmpegError, VideoReadError):  # decoding will say what is wrong
        header = Header()
    return timeline(times, **header._asdict())


class Source:
    """The first video stream of a file, decoded in counted order by one thread.

    After `frames` has run, `count`, `keyframes` and `fault` hold the result; the rest is from the header.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.count, self.keyframes, self.fault = path, 0, 0, ""
        self.fps, self.seconds = Fraction(0), 0.0  # 0: the header does not say
        self.promised = 0  # frames; where the header gives only a duration, as many as that makes
        self.hidden = False  # an edit list leaves some frames out
        self._header = Header()
        self._rate = 0.0
        self._shown = 0  # frames that the header promises; 0: it does not say
        self._lasts = False  # the seconds are how long the pictures last, not the sound
        self._times = array("d")
        self._end = 0.0  # seconds on the file's clock up to which a frame is shown

    def frames(self) -> Iterator[Any]:
        """Frames (av.VideoFrame), until the end or the first fault."""
        import av

        errors: list[tuple[str, str]] = []
        av.logging.set_skip_repeated(False)  # the next file may log the same line as the last one
        try:
            with _ffmpeg_errors(errors):
                container = open_video(self.path)
            with container:
                stream = video_stream(container, self.path)
                self._note_header(container, stream)
                decoding = container.decode(stream)
                shape = None
                while True:
                    with _ffmpeg_errors(errors):
                        frame = next(decoding, None)
                    if logged := [text for name, text in errors if name == container.format.name]:
                        self.fault = f"the file is damaged after frame {self.count}: {logged[0]}"
                        return
                    if frame is None:
                        break
                    shape = shape or _shape(frame)
                    if _shape(frame) != shape:
                        self.fault = f"the frame size changes at frame {self.count}"
                        return
                    if frame.is_corrupt:
                        self.fault = f"frame {self.count} is damaged"
                        return
                    step()
                    self._note_frame(frame, stream.time_base)
                    yield frame
                self.fault = self._missing_at_end(container.format.name, stream.index)
        except VideoReadError as error:
            self.fault = error.reason
        except Exception as error:  # decoders raise every kind of exception
            words = str(error).partition("; last error log:")[0]  # which may be that of another file
            self.fault = f"{type(error).__name__}: {words}" + "".join(f"; {text}" for _, text in errors[-1:])

    def _note_header(self, container: Any, stream: Any) -> None:
        """Set what the header says."""
        import av

        self._header = read_header(container, stream)
        self.fps = min((rate for rate in self._header.rates if rate), default=Fraction(0))
        self._rate = float(stream.guessed_rate or self.fps)
        own = _duration(stream)
        self.seconds = own or (container.duration or 0) / av.time_base
        self._lasts = bool(own) or len(container.streams) == 1
        self._shown = shown_frames(container, stream)
        self.hidden = self._shown < stream.frames
        self.promised = self._shown or round(self.seconds * self.fps)

    def _note_frame(self, frame: Any, time_base: Fraction) -> None:
        """Count a frame, and note when it is shown."""
        self.count += 1
        self.keyframes += bool(frame.key_frame)
        if frame.pts is not None:
            self._times.append(float(frame.pts * time_base))
            self._end = max(self._end, self._times[-1] + float((frame.duration or 0) * time_base))

    def _missing_at_end(self, format: str, index: int) -> str:
        """What the header promises behind the last frame, or nothing; of stream `index` of a file of this format."""
        shown = self._shown
        spare = max(3, shown // 50)  # small miscounts are common in sound files
        if self.count < shown - spare and format == "avi":
            shown -= null_frames(self.path, index)
        if self.count < shown - spare:
            return f"{self.count} frames decoded where the header promises {shown}"
        if self.hidden or (not shown and self._lasts):
            # an edit list must account for what it hides; the sound may last longer than the pictures
            end = self._end - min(0.0, self._header.zero)  # a clock that wraps begins below zero
            rest = max(4 / self._rate if self._rate else 0.0, 0.02 * self.seconds)
            if self._times and end < self.seconds - rest:
                return f"frames end at {end:.2f} s where the header promises {self.seconds:.2f} s"
        return ""

    def times(self) -> Timeline:
        """When the frames decoded so far are shown."""
        return timeline(self._times, frames=self.count, **self._header._asdict())

    def is_steady(self) -> bool:
        """Whether frame i is shown at i / rate, so that a time finds it; the order of the times does not matter."""
        times = np.sort(np.frombuffer(self._times)) if self._times else np.zeros(1)
        drift = (times - times[0]) * self._rate - np.arange(len(times))
        return bool(np.abs(drift).max() < 0.45)

    def is_ordered(self) -> bool:
        """Whether times rise from frame to frame: not in AVI files with B-frames."""
        return bool((np.diff(np.frombuffer(self._times)) > 0).all()) if self._times else True


def _shape(frame: Any) -> tuple[Any, ...]:
    """What all frames of a video have in common."""
    return (frame.width, frame.height, *orientation(frame))


@contextmanager
def _ffmpeg_errors(found: list[tuple[str, str]]) -> Iterator[None]:
    """Append what FFmpeg logs as an error meanwhile, as (part of FFmpeg, text)."""
    import av

    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture(local=True) as logs:
            yield
    finally:
        av.logging.set_level(level)
        found += [(name, text.strip()) for _, name, text in logs]


def _duration(stream: Any) -> float:
    """Seconds that the header gives a stream; in Matroska they stand in a tag, if anywhere."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    match = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    return 3600 * int(match[1]) + 60 * int(match[2]) + float(match[3]) if match else 0.0


class Probe(NamedTuple):
    """What a file's header and first frame say; the number of frames is a promise, often broken."""

    fps: Fraction  # 0: the file does not say
    width: int  # upright
    height: int
    frames_promised: int
    seconds: float


def probe(path: str | os.PathLike[str]) -> Probe:
    """Open a video or a frame folder and decode one frame. Raises VideoReadError."""
    path = Path(path)
    if path.is_dir():
        height, width = next(decode_folder(path, np.arange(1))).shape[:2]
        return Probe(Fraction(0), width, height, len(frame_files(path)), 0.0)
    check_is_video_file(path)
    source = Source(path)
    first = next(source.frames(), None)
    if first is None:
        raise VideoReadError(path, source.fault or "no frame could be decoded")
    width, height = upright_size(first)
    return Probe(source.fps, width, height, source.promised, source.seconds)


def probe_all(paths: Sequence[Path], **work: Unpack[Work]) -> dict[Path, Probe]:
    """Probe files in child processes; a file is left out if that fails, or if its process dies or hangs."""
    workers, timeout = work.get("workers"), work.get("timeout", TIMEOUT)
    probes = dict(in_children(_probe_one, paths, workers=workers, timeout=timeout))
    return {path: probes[path] for path in paths if not isinstance(probes[path], Lost)}


def _probe_one(path: Path) -> Iterator[Probe]:
    yield probe(path)
