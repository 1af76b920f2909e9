"""One video file as FFmpeg opens it: which of its streams is the video, and which way up its pictures are shown.

Notes:
- every path is opened as a file: FFmpeg would read the part before a colon as a protocol ("12:30.mp4");
- a cover picture (an attached picture, as in music files and downloads) is a stream of its own and no video;
- zeros behind the last frame (padding by recorders and downloads) are cut off where a demuxer takes them for damage;
- samples that an edit list hides and empty chunks of an AVI are counted by headers but are no frames;
- a file may ask for its pictures to be turned and mirrored (the display matrix of MP4 and MOV, among others): eight
  orientations, the same as FFmpeg's autorotation.
"""

import codecs
import os
import re
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from vmp.errors import VideoReadError


def open_video(path: str | os.PathLike[str]) -> Any:
    """An av.container.InputContainer; close it.

    Raises:
        VideoReadError: the contents are not those of a video. av.FFmpegError, OSError: it cannot be opened.
    """
    import av

    end = _padded_from(path)
    name = os.path.abspath(path)
    try:
        return av.open(f"subfile,,start,0,end,{end},,:{name}" if end else name, metadata_errors="replace")
    except av.error.InvalidDataError:
        raise VideoReadError(path, _why_no_video(path)) from None


def _why_no_video(path: str | os.PathLike[str]) -> str:
    """What is wrong with a file in which FFmpeg recognises no video, by its first bytes."""
    with open(path, "rb") as file:
        head = file.read(4096)
    if _is_text(head):
        return "a text file, not a video"
    if head[4:8] in (b"ftyp", b"moov", b"mdat"):
        return "an MP4 or MOV without a readable index (moov), as an interrupted recording or copy leaves it"
    return "FFmpeg recognises no video in it: it is another kind of file, or damaged at its start"


def _is_text(head: bytes) -> bool:
    """Whether the first bytes of a file are those of UTF-8 text; a character may be cut off at the end."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return not re.search(r"[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]", text)


def _padded_from(path: str | os.PathLike[str]) -> int:
    """Where a transport stream, FLV or Ogg file ends that has zeros behind it; 0: there is nothing to cut off."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 16))
        if any(file.read(16)):
            return 0
        file.seek(0)
        head = file.read(197).ljust(197, b"\0")
        if head.startswith(b"FLV"):
            keep = 3  # the last field, a tag's size, may itself end in zeros
        elif head.startswith(b"OggS") or head[0] == head[188] == 0x47 or head[4] == head[196] == 0x47:
            keep = 512  # a page or packet may end in zeros
        else:
            return 0
        end, block = size, b""
        while end and not block:
            begin = max(0, end - 2**20)
            file.seek(begin)
            block = file.read(end - begin).rstrip(b"\0")
            end = begin + len(block)
    return end + keep if end and end + keep < size else 0


def video_stream(container: Any, path: str | os.PathLike[str], *, reader: str | None = None) -> Any:
    """The first video stream, to be decoded by one thread.

    Raises VideoReadError where there is none, it cannot be decoded, or the file is a picture.
    """
    from av.stream import Disposition

    kind = container.format.name
    if kind.endswith("_pipe") or kind == "ico":
        raise VideoReadError(path, f"a picture ({kind.removesuffix('_pipe')}), not a video", reader=reader)
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            if stream.codec_context is None:
                raise VideoReadError(path, "the installed FFmpeg cannot decode its codec", reader=reader)
            stream.thread_type = "NONE"
            stream.codec_context.thread_count = 1
            return stream
    why = "no video stream" + (", only a cover picture" if container.streams.video else "")
    raise VideoReadError(path, why, reader=reader)


def shown_frames(container: Any, stream: Any) -> int:
    """How many frames the header promises; 0: it does not say.

    The index of an MP4 or MOV follows its edit list, the header's count does not.
    """
    if stream.frames and "mp4" in container.format.name and len(stream.index_entries):
        return sum(not entry.is_discard for entry in stream.index_entries)
    return int(stream.frames)


def null_frames(path: str | os.PathLike[str], number: int) -> int:
    """How many chunks of a stream of an AVI are empty: they show the frame before them again, and headers count them.

    Counting ends where no chunk follows, as at the end of a file that was cut off.
    """
    wanted, found = (b"%02ddc" % number, b"%02ddb" % number), 0
    with open(path, "rb") as file:
        while len(head := file.read(8)) == 8:
            name, size = head[:4], int.from_bytes(head[4:], "little")
            if name in (b"RIFF", b"LIST"):
                kind = file.read(4)
                if kind in (b"AVI ", b"AVIX", b"movi", b"rec "):
                    continue  # into it
                size -= 4
            elif not name.isalnum() and not name.strip().isalnum():
                break
            found += name in wanted and not size
            file.seek(size + size % 2, os.SEEK_CUR)
    return found


def orientation(frame: Any) -> tuple[bool, int]:
    """How a decoded frame (av.VideoFrame) is shown: whether it is mirrored top to bottom, and how many quarter turns
    counterclockwise follow. (False, 0) without a display matrix.

    The matrix takes a point (x, y) of the decoded picture to (a x + c y, b x + d y), y pointing down.

    PyAV keeps a frame, pixels included, until the next garbage collection once its side data were read; so they are
    read from a copy of 16 x 16 pixels.
    """
    from av.sidedata.sidedata import Type

    copy = _shrinker().reformat(frame, width=16, height=16, threads=1)
    data = copy.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return False, 0
    a, b, _, c, d = np.frombuffer(data, dtype=np.int32)[:5].tolist()
    turns = (2 if a < 0 else 0) if abs(a) >= abs(b) else (3 if b > 0 else 1)
    return a * d - b * c < 0, turns


@cache
def _shrinker() -> Any:
    from av.video.reformatter import VideoReformatter

    return VideoReformatter()


def rgb_converter() -> Callable[[Any], np.ndarray]:
    """A function that turns decoded frames of one video into pictures as they are shown: (H, W, 3) uint8, RGB.

    `frame.to_ndarray` sets up its conversion for every frame anew, which takes longer than converting half a million
    pixels.
    """
    from av.video.reformatter import VideoReformatter

    own = VideoReformatter()
    return lambda frame: upright(own.reformat(frame, format="rgb24", threads=1).to_ndarray(), frame)


def upright(picture: np.ndarray, frame: Any) -> np.ndarray:
    """A frame's picture (H, W, ...) as it is shown."""
    mirrored, turns = orientation(frame)
    picture = picture[::-1] if mirrored else picture
    return np.rot90(picture, turns) if turns else picture


def upright_size(frame: Any) -> tuple[int, int]:
    """(width, height) of a decoded frame as it is shown."""
    _, turns = orientation(frame)
    return (frame.height, frame.width) if turns % 2 else (frame.width, frame.height)


def mirror_axis(path: Path) -> int | None:
    """The axis of (H, W, 3) along which to flip the pictures of a reader that turns but cannot mirror; None: none.

    Raises VideoReadError where the file has no video stream.
    """
    info = os.stat(path)
    return _mirror_axis(os.path.abspath(path), info.st_size, info.st_mtime_ns)


@lru_cache(maxsize=4096)
def _mirror_axis(path: str, size: int, changed: int) -> int | None:
    import av

    try:
        container = open_video(path)
    except (av.FFmpegError, VideoReadError):  # the reader may be able to open it
        return None
    try:
        with container:
            frame = next(container.decode(video_stream(container, path)), None)
            mirrored, turns = (False, 0) if frame is None else orientation(frame)
    except av.FFmpegError:
        return None
    return turns % 2 if mirrored else None
