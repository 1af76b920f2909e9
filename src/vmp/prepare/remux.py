"""AVI files with packed B-frames made exact for every reader, without changing a pixel.

Notes:
- DivX put a B-frame into the packet of the frame before it, so that an AVI has empty packets, wrong counts and no
  times, and seeking readers return other frames. FFmpeg's mpeg4_unpack_bframes takes the packets apart;
- the order in which pictures are shown is found by decoding: each packet is numbered, and its picture comes out with
  that number. So every packet gets its true time, which an MP4 can hold and an AVI cannot;
- a keyframe is marked as one only if nothing that follows it is shown before it: readers would begin there, and some
  would then count the pictures wrongly;
- the new file must hold the same pictures in the same order, by PyAV bit for bit and by every other reader as far as
  measure.py looks. Otherwise, or where every reader is exact already, the clip stays the original: a link to it (or a
  copy, on another disk) lies beside the other clips, so that all have one root.
"""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from vmp.data.stream import open_video, orientation, video_stream
from vmp.prepare.children import Work, step
from vmp.prepare.journal import KEPT, CutClip, DiskError, disk_errors, make_files, unfinished_name
from vmp.prepare.measure import Counted, Measured, count, exact_readers, installed_seeking_readers
from vmp.prepare.source import Source

REMUXING = 2  # raise when other files come out of the same source
_PICTURE = b"\0\0\1\xb6"  # a picture begins with it


def remux_all(tasks: Sequence[CutClip], **work: Unpack[Work]) -> Iterator[tuple[CutClip, Measured]]:
    """Remux whole files in parallel; yields what each clip's file holds as it is done, earlier finished ones first.

    Status "ok" with a reason that begins with KEPT: the clip is the original. A source that is not whole is "partial",
    "missing" or "unreadable", and leaves no file. DataError: a folder cannot be written to, the disk is full.
    """
    return make_files(
        tasks,
        _remux_one,
        recipe=lambda task: ["remux", REMUXING, *installed_seeking_readers()],
        title="remux clips",
        **work,
    )


def remux(source: Path, target: Path) -> str:
    """Write a video's packets to an .mp4, packed B-frames unpacked, in true order of time.

    Returns why it cannot be done, or nothing. OSError, av.FFmpegError: a file cannot be read or written.
    """
    import av

    with open_video(source) as container:
        stream = video_stream(container, source)
        if stream.codec_context.name != "mpeg4":
            return f"{stream.codec_context.name}, not MPEG-4"
        rate = Fraction(stream.average_rate or stream.guessed_rate or 0)
        if not rate:
            return "no frame rate"
        with av.open(os.path.abspath(target), "w") as out:
            copy = out.add_stream_from_template(stream)
            packets = _unpacked(container, stream, copy)
            copy.codec_context.codec_tag = "mp4v"  # DX50 and XVID belong to AVI
            extra = stream.codec_context.extradata or b""
            copy.codec_context.extradata = re.sub(rb"(DivX\d+[a-z]\d+)p", rb"\1n", extra)  # packed no more
            order = _order([data for data, _ in packets], stream, 1 / rate)
            pictures = [(packets[n], order[n]) for n in sorted(order)]  # other packets are empty
            delay = max((at - shown for at, (_, shown) in enumerate(pictures)), default=0)
            earliest_after = [len(pictures)]
            for _, shown in reversed(pictures[1:]):
                earliest_after.append(min(shown, earliest_after[-1]))
            for at, ((data, key), shown) in enumerate(pictures):
                packet = av.Packet(data)
                packet.stream, packet.is_keyframe = copy, key and shown < earliest_after[-1 - at]
                packet.time_base, packet.duration = 1 / rate, 1
                packet.pts, packet.dts = shown, at - delay
                out.mux(packet)
    return "" if pictures else "no pictures"


def is_packed(path: Path) -> bool:
    """Whether a packet of an MPEG-4 video holds two pictures."""
    with open_video(path) as container:
        stream = video_stream(container, path)
        return stream.codec_context.name == "mpeg4" and any(
            bytes(packet).count(_PICTURE) > 1 for packet in container.demux(stream)
        )


def _unpacked(container: Any, stream: Any, copy: Any) -> list[tuple[bytes, bool]]:
    """Packets of one picture each, and whether it is a keyframe."""
    from av.bitstream import BitStreamFilterContext

    unpack = BitStreamFilterContext("mpeg4_unpack_bframes", stream, copy)
    packets: list[tuple[bytes, bool]] = []
    for packet in container.demux(stream):
        step()
        parts = unpack.filter(packet) if packet.size else unpack.filter(None)
        packets.extend((bytes(part), part.is_keyframe) for part in parts if part.size)
    return packets


def _order(packets: Sequence[bytes], stream: Any, time_base: Fraction) -> dict[int, int]:
    """Number of a packet -> place of its picture in the order in which pictures are shown."""
    import av

    decoder = av.CodecContext.create("mpeg4", "r")
    decoder.extradata = stream.codec_context.extradata
    decoder.thread_count = 1
    numbers: list[int] = []
    for number, data in enumerate(packets):
        packet = av.Packet(data)
        step()
        packet.pts, packet.dts, packet.time_base = number, number, time_base
        numbers.extend(frame.pts for frame in decoder.decode(packet))
    numbers.extend(frame.pts for frame in decoder.decode(None))
    return {number: at for at, number in enumerate(numbers)}


# --- in a child process --------------------------------------------------------------------------------------------


def _remux_one(tasks: tuple[CutClip, ...]) -> Iterator[tuple[CutClip, Measured] | DiskError]:
    """One source; several targets only if it is two clips."""
    for task in tasks:
        half = unfinished_name(task.target)
        try:
            yield from ((task, found) for found in _clip(task, half))
        except DiskError as error:
            yield error
        finally:
            half.unlink(missing_ok=True)


def _clip(task: CutClip, half: Path) -> Iterator[Measured]:
    """Put the original where the clip belongs, before readers are tried, and then the remuxed file, if it is better."""
    counted = count(task.source)
    if counted.found.status != "ok":
        yield counted.found
        return
    kept = replace(counted.found, reason=KEPT)
    _link(task, half)
    _place(half, task, kept)
    yield kept
    readers = exact_readers(task.source, counted)
    everyone = {*installed_seeking_readers(), "pyav"}
    if set(readers) == everyone and not is_packed(task.source):  # if packed, they may be exact by luck
        fault = "every reader is exact for it"
    else:
        fault, of_remuxed = _write(task, half, counted)
        if not fault and set(of_remuxed) == everyone:
            found = replace(counted.found, readers=of_remuxed)
            _place(half, task, found)
            yield found
            return
        fault = fault or f"not exact for {', '.join(sorted(everyone - set(of_remuxed)))} when remuxed either"
    yield replace(kept, reason=KEPT + fault, readers=readers)


def _link(task: CutClip, half: Path) -> None:
    """Make `half` a link to the original, or a copy."""
    try:
        os.link(os.path.realpath(task.source), half)
    except OSError:  # another disk, or one without links
        with disk_errors(task.target):
            shutil.copyfile(task.source, half)


def _write(task: CutClip, half: Path, counted: Counted) -> tuple[str, tuple[str, ...]]:
    """Remux into `half` and check it: what went wrong, or nothing, and the readers that are exact for it."""
    import av

    if not counted.found.times.even:
        return "its frames are not evenly spaced in time", ()
    try:
        with disk_errors(task.target):
            fault = remux(task.source, half)
        if fault:
            return fault, ()
        a, b = Source(task.source), Source(half)
        for number, (left, right) in enumerate(zip(a.frames(), b.frames(), strict=True)):
            if orientation(left) != orientation(right):
                return f"picture {number} is turned or mirrored differently when remuxed", ()
            if not np.array_equal(left.to_ndarray(), right.to_ndarray()):
                return f"picture {number} differs when remuxed", ()
        if b.fault or not b.count or abs(b.times().rate - counted.found.fps) > 1e-4 * counted.found.fps:
            return b.fault or "another frame rate when remuxed", ()
    except (OSError, av.FFmpegError) as error:
        return f"{type(error).__name__} when remuxed", ()
    except (ValueError, IndexError) as error:  # such as another number of pictures
        return f"cannot be remuxed ({error})", ()
    return "", exact_readers(half, replace(counted, source=b))


def _place(half: Path, task: CutClip, found: Measured) -> None:
    """Give a finished file its name, and remove what an earlier run left under the other suffix."""
    os.replace(half, task.file(found))
    for other in {task.target, task.target.with_suffix(task.source.suffix)} - {task.file(found)}:
        other.unlink(missing_ok=True)
