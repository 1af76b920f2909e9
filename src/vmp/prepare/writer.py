"""One clip's file: H.264 that every reader reads exactly and fast, checked after it was written.

Notable here:
- H.264 (crf 18, no B-frames, closed groups of 16) in MP4 without sound, upright, the short side scaled down by area
  averaging (never up), at the source's rate kept as a fraction, or each frame at its own time where the source's are
  not evenly spaced, with the source's colour tags;
- nothing in it that is slow to decode (tune=fastdecode): half the time for a tenth more bytes;
- the file is decoded again before it gets its name: its frames are counted and compared with those that went in, and
  the readers that return exactly these are noted.
"""

import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vmp.data.decode import scaled_size
from vmp.data.stream import orientation, upright_size
from vmp.prepare.made import half_of, trouble
from vmp.prepare.measure import Measured, Thumbs, count, distance, exact_readers

CRF, GROUP = 18, 16
TICK = Fraction(1, 90_000)  # seconds, of clips whose frames keep their own times
WINDOW, CLOSE = 16, 2.0  # frames compared together; grey levels that coding may cost without a second look
_TAGS = ("colorspace", "color_primaries", "color_trc", "color_range")
_LIMITED, _FULL = 1, 2  # color_range: luma from 16 to 235, from 0 to 255


class ClipWriter:
    """One clip on its way.

    seconds: when each frame is shown, ascending; None: evenly, at fps.
    """

    def __init__(self, target: Path, fps: Fraction, *, seconds: np.ndarray | None = None) -> None:
        self.target, self.fps, self.thumbs = target, fps, Thumbs()
        self._unit = 1 / fps if seconds is None else TICK
        self._at: list[int] | None = None
        if seconds is not None and len(seconds):
            ticks = np.round((seconds - seconds[0]) / float(TICK)).astype(np.int64)
            late = np.arange(len(ticks))  # two frames of one time: the second a tick later
            self._at = (np.maximum.accumulate(ticks - late) + late).tolist()
        self.half = half_of(target)
        self._container: Any = None

    def add(self, picture: Any, thumb: np.ndarray) -> None:
        """A frame (av.VideoFrame, yuv420p) and its small picture."""
        import av

        try:
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
            picture.pts, picture.time_base = self._at[number] if self._at else number, self._unit
            self._container.mux(self._stream.encode(picture))
        except (OSError, av.FFmpegError) as error:
            raise trouble(self.target, error) from error
        self.thumbs.add(thumb)

    def finish(self) -> Measured:
        """Close the file, check it, give it its name."""
        import av

        try:
            self._container.mux(self._stream.encode())
            self._container.close()
            counted = count(self.half)
            fault = counted.found.reason or differs(self.thumbs, counted.thumbs)
            if not fault:
                found = replace(counted.found, readers=exact_readers(self.half, counted))
                os.replace(self.half, self.target)
                return found
            return Measured("unreadable", f"the clip that was written is not its source: {fault}")
        except (OSError, av.FFmpegError) as error:
            raise trouble(self.target, error) from error
        finally:
            self.drop()

    def drop(self) -> None:
        try:
            if self._container is not None:
                self._container.close()
        except Exception:  # closing what could not be written fails as well
            pass
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
    """Even, never larger than the source."""
    if short_side is not None and min(width, height) > short_side:
        height, width = scaled_size(height, width, short_side)
    return max(2, width // 2 * 2), max(2, height // 2 * 2)


def differs(source: Thumbs, written: Thumbs) -> str:
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
