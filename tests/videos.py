"""Real encoded videos whose every frame says its own number, and ways to damage them."""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

import av
import numpy as np

from vmp.data.encode import write_video

BITS, SIDE = 12, 24  # a number is a row of black and white squares along the top


def numbered_frame(number: int, height: int = 240, width: int = 320) -> np.ndarray:
    """A moving texture with its number in the top row: survives MPEG-4 and H.264."""
    y, x = np.mgrid[:height, :width]
    base = 110 + 60 * np.sin((x + 3 * number) / 17) + 40 * np.cos((y - 2 * number) / 23)
    frame = np.stack([base, base * 0.8 + 20, 255 - base], axis=-1).clip(0, 255).astype(np.uint8)
    for bit in range(BITS):
        frame[:SIDE, bit * SIDE : (bit + 1) * SIDE] = 235 if number >> bit & 1 else 20
    return frame


def number_of(frame: np.ndarray) -> int:
    """The number that a frame (H, W, 3) says; for unresized, unturned frames."""
    half = SIDE // 2
    return sum(1 << bit for bit in range(BITS) if frame[half, bit * SIDE + half].mean() > 128)


def numbered_video(path: Path, frames: int = 60, **options) -> Path:
    """H.264 without B-frames by default; options as of write_video."""
    write_video(path, (numbered_frame(i) for i in range(frames)), **options)
    return path


def noise_video(path: Path, count: int, size: tuple[int, int] = (48, 64), **options) -> Path:
    """`count` frames of noise, (height, width); options as of write_video."""
    rng = np.random.default_rng(count)
    write_video(path, [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)], **options)
    return path


def encoded(
    path: Path,
    pictures: Iterable[np.ndarray],
    *,
    codec: str = "libx264",
    format: str = "yuv420p",
    rate: int = 25,
    ticks: Sequence[int] | None = None,
    base: Fraction | None = None,
    sound: float = 0,
    muxer: dict[str, str] | None = None,
    **options: str,
) -> Path:
    """What write_video does not do: any codec, pixel format, size and options; each picture shown at its tick of `base`
    (1/rate s); seconds of silence beside them."""
    with av.open(str(path), "w", options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.pix_fmt = format
        if base:
            stream.codec_context.time_base = base
        audio = container.add_stream("aac", rate=SOUND) if sound else None
        for number, picture in enumerate(pictures):
            if number == 0:
                stream.height, stream.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = ticks[number] if ticks else number, base or Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio:
            mux_silence(container, audio, sound)
    return path


SOUND = 16000  # samples a second


def mux_silence(container, stream, seconds: float = 1) -> None:
    samples = np.zeros((1, int(SOUND * seconds)), np.float32)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = SOUND, 0, Fraction(1, SOUND)
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def variable_rate_video(path: Path, frames: int = 60) -> Path:
    """Frame times that jump between 1 and 5 ticks of 1/50 s."""
    ticks = [0, *accumulate(1 + (i * 7) % 5 for i in range(frames - 1))]
    return encoded(path, map(numbered_frame, range(frames)), rate=50, ticks=ticks, bf="2", g="12")


def copied(
    source: Path,
    target: Path,
    *,
    later: Callable[[int], float] = lambda number: 0,
    sound: float = 0,
    **muxer: str,
) -> Path:
    """The same packets in another container, each later by so many seconds; seconds of silence beside them."""
    with av.open(str(source)) as inside, av.open(str(target), "w", options=muxer) as outside:
        stream = inside.streams.video[0]
        copy = outside.add_stream_from_template(stream)
        audio = outside.add_stream("aac", rate=SOUND) if sound else None
        for number, packet in enumerate(p for p in inside.demux(stream) if p.dts is not None):
            shift = round(later(number) / stream.time_base)
            packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, copy
            outside.mux(packet)
        if audio:
            mux_silence(outside, audio, sound)
    return target


def stream_copy(source: Path, target: Path, *, skip_until: float = 0.0) -> Path:
    """Copy packets from a time on without decoding: a cut between keyframes, which leaves an edit list in MP4."""
    with av.open(str(source)) as inside, av.open(str(target), "w") as outside:
        stream = inside.streams.video[0]
        copy = outside.add_stream_from_template(stream)
        inside.seek(int(skip_until * av.time_base))
        first = None
        for packet in inside.demux(stream):
            if packet.dts is None:
                continue
            first = packet.dts if first is None else first
            packet.pts, packet.dts = packet.pts - first, packet.dts - first
            packet.stream = copy
            outside.mux(packet)
    return target


def trimmed(source: Path, target: Path, start: Fraction, end: Fraction, **options: str) -> Path:
    """What `ffmpeg -ss -t -c copy` makes: packets from the keyframe before `start` up to the first at or behind `end`
    (seconds), of which an edit list hides those before `start`.

    options: of the muxer.
    """
    with av.open(str(source)) as inside, av.open(str(target), "w", options=options) as outside:
        stream = inside.streams.video[0]
        copy = outside.add_stream_from_template(stream)
        inside.seek(int(start / stream.time_base), stream=stream)
        shift = int(start / stream.time_base)
        for packet in inside.demux(stream):
            if packet.dts is None or packet.pts * stream.time_base >= end:
                break
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
            outside.mux(packet)
    return target


def edited(source: Path, target: Path, start: int, length: int) -> Path:
    """The same MP4 with an edit list, as phones trim: `start` in ticks of the track, `length` in ticks of the movie."""
    data = bytearray(source.read_bytes())
    at = data.index(b"elst") + 4
    assert int.from_bytes(data[at : at + 8], "big") == 1  # version 0, one entry
    data[at + 8 : at + 16] = length.to_bytes(4, "big") + start.to_bytes(4, "big")
    target.write_bytes(data)
    return target


def with_null_frames(path: Path, shown: list[int]) -> Path:
    """An AVI of MPEG-4 whose frames are shown at these ticks of 1/25 s; the muxer fills the gaps with empty chunks."""
    pictures = map(numbered_frame, range(len(shown)))
    return encoded(path, pictures, codec="mpeg4", ticks=shown, g="12", qscale="3")


def padded(path: Path, zeros: int = 100_000) -> Path:
    """The same file with zeros behind it."""
    with open(path, "ab") as file:
        file.write(bytes(zeros))
    return path


# a, b, c, d of a display matrix, which takes (x, y) to (a x + c y, b x + d y): upright, three turns, four mirrors
ORIENTATIONS = {
    "upright": (1, 0, 0, 1),
    "clockwise": (0, 1, -1, 0),
    "half": (-1, 0, 0, -1),
    "counterclockwise": (0, -1, 1, 0),
    "left-right": (-1, 0, 0, 1),
    "top-bottom": (1, 0, 0, -1),
    "diagonal": (0, 1, 1, 0),
    "antidiagonal": (0, -1, -1, 0),
}


def oriented(source: Path, target: Path, matrix: tuple[int, int, int, int]) -> Path:
    """The same MP4 with a display matrix (a, b, c, d) written into its track header."""
    data = bytearray(source.read_bytes())
    at = data.index(b"tkhd") + 4  # version and flags, then fields up to the matrix
    begin = at + 4 + (32 if data[at] == 1 else 20) + 16
    a, b, c, d = ((0x10000 * value % 2**32).to_bytes(4, "big") for value in matrix)
    zero, w = bytes(4), (0x40000000).to_bytes(4, "big")
    data[begin : begin + 36] = a + b + zero + c + d + zero + zero + zero + w
    target.write_bytes(data)
    return target


def as_shown(picture: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """Every pixel of a picture (H, W, 3) at the place to which a display matrix takes it."""
    a, b, c, d = matrix
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]]
    right, down = a * x + c * y, b * x + d * y
    right, down = right - right.min(), down - down.min()
    shown = np.zeros((down.max() + 1, right.max() + 1, 3), np.uint8)
    shown[down, right] = picture
    return shown


def rotated(source: Path, target: Path, quarter_turns: int = 1) -> Path:
    """The same MP4 with a display rotation, clockwise, written into its track header."""
    turns = ("upright", "clockwise", "half", "counterclockwise")
    return oriented(source, target, ORIENTATIONS[turns[quarter_turns]])


def cover_only(path: Path) -> Path:
    """A tone with a cover picture and no video."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=SOUND)
        cover = container.add_stream("mjpeg", rate=25)
        cover.width, cover.height, cover.pix_fmt = 320, 240, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(numbered_frame(0), format="rgb24")))
        container.mux(cover.encode())
        mux_silence(container, sound)
    return path


def audio_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        mux_silence(container, container.add_stream("aac", rate=SOUND))
    return path


def truncated(source: Path, target: Path, keep: float = 0.6) -> Path:
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * keep)])
    return target


PACKED = b"\0\0\1\xb2DivX503b1393p"  # what tells a decoder that a packet may hold two pictures
EMPTY = b"\0\0\1\xb6\x50\x4f"  # a picture that says: nothing is coded


def packed_avi(path: Path, frames: int = 60, *, keyframe_every: int = 1000) -> Path:
    """An AVI as DivX 5 wrote it: each B-frame in the packet of the frame that it follows, then an empty packet."""
    plain = path.with_name(f"{path.stem}.plain.avi")
    numbered_video(plain, frames, codec="mpeg4", crf=3, b_frames=1, keyframe_every=keyframe_every)
    with av.open(str(plain)) as container, av.open(str(path), "w") as out:
        stream = container.streams.video[0]
        copy = out.add_stream_from_template(stream)
        copy.codec_context.codec_tag = "DX50"
        copy.codec_context.extradata = stream.codec_context.extradata + PACKED
        chunks: list[tuple[bytes, bool]] = []
        for packet in container.demux(stream):
            data = bytes(packet)
            at = data.find(b"\0\0\1\xb6")
            if at < 0:
                continue
            if data[at + 4] >> 6 == 2:  # a B-frame
                chunks[-1] = (chunks[-1][0] + data[at:], chunks[-1][1])
                chunks.append((EMPTY, False))
            else:
                chunks.append((data, packet.is_keyframe))
        for number, (data, key) in enumerate(chunks):
            packet = av.Packet(data)
            packet.stream, packet.is_keyframe = copy, key
            packet.time_base, packet.duration = 1 / Fraction(25), 1
            packet.pts = packet.dts = number
            out.mux(packet)
    plain.unlink()
    return path
