"""The reader `pyav_seek`: packets are counted, and only groups of pictures that hold a wanted frame are decoded.

Counting packets is cheap. Within a group every frame that comes out must bear the time of the packet that is next in
order of time, so times are a check and never a position; a file whose times do not allow this check is refused.
"""

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vmp.data.stream import open_video, rgb_converter, video_stream
from vmp.errors import VideoReadError

LONGEST = 1000  # packets in a group: two groups are held at a time
FAR = 256  # packets: reading on costs less than a seek up to here
SPARE = 64  # a seek aims this many packets early: more than codecs put between coding order and order of time


def decode_groups(path: Path, wanted: np.ndarray) -> Iterator[np.ndarray]:
    """Pictures (H, W, 3) of the frames at these ascending indices; frame i has the i-th packet in order of time.

    From a keyframe on, the frames of its group whose times are not before its own are shown, and those of the next
    group whose times are before the next keyframe (an "open" group has some).

    Raises:
        VideoReadError: packets without times, a first frame that is not a keyframe, keyframes more than LONGEST
            packets apart, or frames that do not come out one per packet in order of time.
    """
    convert, left = rgb_converter(), deque(wanted.tolist())
    with open_video(path) as container:
        stream = video_stream(container, path, reader="pyav_seek")
        groups = _Groups(path, container, stream)
        before, group = groups.take()
        while left:
            if groups.skip_to(left[0]):
                before, group = groups.take()
            after, following = groups.take()
            if not group:
                return
            if left[0] < after + len(following):
                times, early = _times(path, group, following)
                first = before + early
                if left[0] < first or (early and not before):
                    raise VideoReadError(path, f"frames before keyframe {first} {_ELSE}", reader="pyav_seek")
                ranks = []
                while left and left[0] < first + len(times):
                    ranks.append(left.popleft() - first)
                if ranks:
                    shown = _decode_group(path, stream.codec_context, group + following, times, ranks)
                    yield from map(convert, shown)
            before, group = after, following


_ELSE = "cannot be placed; use data.reader=pyav (counts from the start), or cut the video into clips"


class _Groups:
    """The packets of a video stream from each keyframe up to the next, read in file order without decoding them."""

    def __init__(self, path: Path, container: Any, stream: Any) -> None:
        self._path, self._container, self._stream = path, container, stream
        self._packets = container.demux(stream)
        self._next: Any = None  # the keyframe that ended the last group
        self._read = 0  # packets whose frames are shown, up to here
        entries = stream.index_entries
        whole = "mp4" in container.format.name and len(entries) == stream.frames
        self._index = entries if whole else None

    def take(self) -> tuple[int, list[Any]]:
        """How many shown packets come before the next group, and its packets; none at the end of the file.

        Packets that an edit list hides belong to a group but are not shown.
        """
        group = [] if self._next is None else [self._next]
        before = self._read - sum(not packet.is_discard for packet in group)
        self._next = None
        for packet in self._packets:
            if packet.size == 0 and packet.dts is None:  # PyAV's mark of the end
                break
            if packet.pts is None or packet.size == 0 or packet.is_corrupt:
                raise self._fault(f"packet {self._read} is empty, damaged or without a time and")
            self._read += not packet.is_discard
            if packet.is_keyframe and group:
                self._next = packet
                break
            if not (packet.is_keyframe or group):
                raise self._fault("the first packet is not a keyframe: the frames")
            group.append(packet)
            if len(group) > LONGEST:
                raise self._fault(f"no keyframe within {LONGEST} packets: frames")
        return before, group

    def skip_to(self, number: int) -> bool:
        """Go to a keyframe close before a frame, if it is far and the container has an index of all packets."""
        if self._index is None or number - self._read <= FAR or number >= len(self._index):
            return False
        if any(entry.is_discard for entry in self._index):
            self._index = None
            return False
        aim = self._index[number - SPARE].timestamp
        at = self._index.search_timestamp(aim, backward=True, any_frame=False)
        if at <= self._read:
            return False
        time = self._index[at].timestamp
        self._container.seek(time, stream=self._stream, backward=True, any_frame=False)
        self._packets = self._container.demux(self._stream)
        first = next(self._packets)
        found = self._index.search_timestamp(first.dts, backward=True, any_frame=True)
        if found < 0 or self._index[found].pos != first.pos or not first.is_keyframe:
            raise self._fault("a seek does not end where the index says: frames")
        self._next, self._read = first, found + 1
        return True

    def _fault(self, what: str) -> VideoReadError:
        return VideoReadError(self._path, f"{what} {_ELSE}", reader="pyav_seek")


def _times(path: Path, group: list[Any], following: list[Any]) -> tuple[list[int], int]:
    """Times of the frames shown from a group's keyframe on, in order, and how many of its packets come before them."""
    key = group[0].pts
    end = following[0].pts if following else None
    own = [packet.pts for packet in group if not packet.is_discard]
    late = [p.pts for p in following if not p.is_discard and p.pts < end]
    times = sorted([pts for pts in own if pts >= key] + late)
    early = len(own) + len(late) - len(times)
    over = (late and min(late) < key) or (end is not None and times[-1:] >= [end])
    if over or len(set(times)) < len(times):
        raise VideoReadError(path, f"times repeat or run over a keyframe: frames {_ELSE}", reader="pyav_seek")
    return times, early


def _decode_group(
    path: Path, context: Any, packets: list[Any], times: list[int], ranks: list[int]
) -> Iterator[Any]:
    """The frames (av.VideoFrame) at these ascending ranks among those shown from packets[0], a keyframe, on.

    The decoder is flushed only at the end of the group: flushed earlier, it would return a frame before others that
    are shown first and whose packets it has not seen yet.
    """
    last = max(i for i, packet in enumerate(packets) if packet.pts <= times[-1])
    rank, target = 0, iter(ranks)
    wanted = next(target)
    for packet in (*packets[: last + 1], None):
        for frame in context.decode(packet):
            if frame.pts is not None and frame.pts < packets[0].pts:
                continue  # needs the group before
            if rank == len(times) or frame.pts != times[rank] or frame.is_corrupt:
                what = f"a frame with time {frame.pts} came out where packet {times[rank:][:1]} was due;"
                raise VideoReadError(path, f"{what} {_ELSE}", reader="pyav_seek")
            if rank == wanted:
                yield frame
                wanted = next(target, -1)
                if wanted < 0:
                    context.flush_buffers()
                    return
            rank += 1
    raise VideoReadError(
        path, f"the keyframe at {times[0]} does not open its group: frames {_ELSE}", reader="pyav_seek"
    )
