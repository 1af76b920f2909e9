"""Writes video files and GIFs, with the frames in exactly the order in which they were given."""

import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from vmp.files import replacing


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[np.ndarray],
    *,
    fps: Fraction | int = 25,
    codec: str = "libx264",
    crf: int | None = 18,
    keyframe_every: int = 16,
    b_frames: int = 0,
    pixel_format: str = "yuv420p",
    comment: str = "",
) -> int:
    """Encode RGB uint8 frames (H, W, 3), H and W even, into the container that the suffix names.

    The file gets its name only when it is whole. One encoder thread, so that the same frames give the same bytes.
    Returns the number of frames.
    """
    import av

    path = Path(path)
    options = {"g": str(keyframe_every), "bf": str(b_frames), "threads": "1"}
    if codec == "libx264":
        options |= {"preset": "veryfast", "x264-params": "scenecut=0:open-gop=0"}
    if crf is not None:
        options["qscale" if codec == "mpeg4" else "crf"] = str(crf)
    count = 0
    with replacing(path) as temporary, av.open(os.path.abspath(temporary), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options=options)
        stream.pix_fmt = pixel_format
        stream.thread_type = "NONE"
        if comment:
            container.metadata["comment"] = comment
        for frame in frames:
            if count == 0:
                stream.height, stream.width = frame.shape[:2]
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
            count += 1
        container.mux(stream.encode())
    return count


def write_gif(
    path: str | os.PathLike[str], frames: Iterable[np.ndarray], *, fps: Fraction | int, comment: str
) -> int:
    """Write RGB uint8 frames (H, W, 3) as a GIF that repeats, each with a palette of its own; returns their number.

    A GIF counts hundredths of a second, of which most programs show at least two per frame.
    """
    from PIL import Image

    count = 0

    def pictures() -> Iterator[Image.Image]:
        nonlocal count
        for frame in frames:
            count += 1
            yield Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE)

    made = pictures()
    first = next(made)
    with replacing(Path(path)) as temporary:
        milliseconds = max(20, round(float(100 / Fraction(fps))) * 10)
        first.save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=made,
            duration=milliseconds,
            loop=0,
            comment=comment,
        )
    return count
