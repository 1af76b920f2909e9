"""Real encoded videos whose every frame says its own number, and ways to damage them."""

from fractions import Fraction
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


def variable_rate_video(path: Path, frames: int = 60) -> Path:
    """Frame times that jump between 1 and 5 ticks of 1/50 s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=50, options={"bf": "2", "g": "12"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 50)
        tick = 0
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(numbered_frame(i), format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 50)
            tick += 1 + (i * 7) % 5
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


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


def rotated(source: Path, target: Path, quarter_turns: int = 1) -> Path:
    """The same MP4 with a display rotation written into its track header."""
    data = bytearray(source.read_bytes())
    at = data.index(b"tkhd") + 4  # version and flags, then fields up to the matrix
    matrix = at + 4 + (32 if data[at] == 1 else 20) + 16
    one, minus = (0x10000).to_bytes(4, "big"), (0xFFFF0000).to_bytes(4, "big")
    zero, w = bytes(4), (0x40000000).to_bytes(4, "big")
    turns = {
        1: (zero, one, zero, minus, zero),
        2: (minus, zero, zero, zero, minus),
        3: (zero, minus, zero, one, zero),
    }
    a, b, u, c, d = turns[quarter_turns]
    data[matrix : matrix + 36] = a + b + u + c + d + zero + zero + zero + w
    target.write_bytes(data)
    return target


def audio_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def truncated(source: Path, target: Path, keep: float = 0.6) -> Path:
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * keep)])
    return target
