"""Exact frames from video files: one contract, several readers.

Notable here:
- frame i is the i-th frame that the decoder puts out, counted from 0 and turned upright; timestamps are never used,
  since in AVI files with B-frames they are out of order and sorting by them shuffles the video;
- `pyav` decodes from the start and counts: exact for every file, and the reference for the others;
- `opencv`, `decord` and `torchcodec` seek, and do so wrongly on some files. Which of them are exact for a file is
  measured when its manifest is made (measure.py); the dataset refuses a reader that is not (dataset.py);
- open, read, close for each clip, one decoding thread: nothing leaks, and a forked worker shares no decoder.

Shapes: T frames asked for, H x W pixels after turning upright; frames are RGB uint8.
"""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vmp.errors import VideoReadError

Frames = Iterator[np.ndarray]  # (H, W, 3) each, in the order of ascending, distinct indices


def read_frames(
    path: str | os.PathLike[str],
    indices: Sequence[int] | np.ndarray,
    *,
    reader: str = "pyav",
    short_side: int | None = None,
    change: Callable[[np.ndarray, int], np.ndarray] | None = None,
) -> np.ndarray:
    """The frames at these indices, in the order asked for, repeats included: (T, H, W, 3) uint8, RGB.

    Args:
        indices: frame numbers from 0, any order.
        reader: one of READERS.
        short_side: resize every frame as soon as it is decoded (bilinear), so that a 4K video costs no memory.
        change: (frame, its number) -> frame, before resizing.

    Raises:
        VideoReadError: the file is not there, not a regular file or not a video, or lacks a frame asked for.
    """
    path = Path(path)
    wanted = np.asarray(indices, dtype=np.int64)
    if wanted.ndim != 1 or wanted.size == 0 or wanted.min() < 0:
        raise ValueError(f"indices {indices!r}: must be a non-empty row of frame numbers from 0")
    check_regular(path)
    distinct, back = np.unique(wanted, return_inverse=True)
    out: np.ndarray | None = None
    got = 0
    try:
        for frame in READERS[reader](path, distinct):
            frame = frame if change is None else change(frame, int(distinct[got]))
            frame = frame if short_side is None else resize_short_side(frame, short_side)
            if out is None:
                out = np.empty((len(distinct), *frame.shape), dtype=np.uint8)
            elif frame.shape != out.shape[1:]:
                raise VideoReadError(path, f"the frame size changes at frame {distinct[got]}", reader=reader)
            out[got] = frame
            got += 1
    except VideoReadError:
        raise
    except ImportError as error:
        raise VideoReadError(path, f"the reader cannot be imported: {error}", reader=reader) from error
    except Exception as error:  # decoders leak every kind of exception
        raise VideoReadError(path, f"{type(error).__name__}: {error}", reader=reader) from error
    if out is None or got < len(distinct):
        raise VideoReadError(
            path, f"frame {distinct[got]} asked for, {got} of {len(distinct)} found", reader=reader
        )
    return out if np.array_equal(back, np.arange(len(distinct))) else out[back]


def resize_short_side(frame: np.ndarray, short_side: int) -> np.ndarray:
    """(H, W, 3) -> the same picture with min(H, W) = short_side; bilinear without antialiasing, as the recipes do."""
    import cv2

    h, w = frame.shape[:2]
    height, width = scaled_size(h, w, short_side)
    if (height, width) == (h, w):
        return frame
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)


def scaled_size(h: int, w: int, short_side: int) -> tuple[int, int]:
    """The (height, width) whose smaller side is short_side; the longer one is rounded down, as PySlowFast does."""
    return (short_side, max(1, w * short_side // h)) if h <= w else (max(1, h * short_side // w), short_side)


def check_regular(path: Path) -> None:
    """Refuse what would block or is not a file: folders, pipes, devices, dangling links, empty files."""
    try:
        info = os.stat(path)
    except OSError as error:
        raise VideoReadError(
            path, "not found" if isinstance(error, FileNotFoundError) else str(error.strerror)
        ) from None
    if not stat.S_ISREG(info.st_mode):
        raise VideoReadError(path, "not a regular file")
    if info.st_size == 0:
        raise VideoReadError(path, "the file is empty")


# --- PyAV: counted from the start ----------------------------------------------------------------------------------


def _pyav(path: Path, wanted: np.ndarray) -> Frames:
    import av

    with av.open(str(path), metadata_errors="replace") as container:
        if not container.streams.video:
            raise VideoReadError(path, "no video stream", reader="pyav")
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        targets = iter(wanted.tolist())
        target = next(targets)
        for number, frame in enumerate(container.decode(stream)):
            if number == target:
                yield upright(frame.to_ndarray(format="rgb24"), frame.rotation)
                target = next(targets, -1)
                if target < 0:
                    return


def upright(picture: np.ndarray, rotation: int) -> np.ndarray:
    """Turn a decoded picture by the file's display rotation (degrees, counterclockwise, multiples of 90)."""
    turns = round(rotation / 90) % 4
    return np.rot90(picture, turns) if turns else picture


# --- readers that seek ---------------------------------------------------------------------------------------------

STEP = 48  # OpenCV: going forward this many frames is cheaper than a seek, which restarts at a keyframe


def _opencv(path: Path, wanted: np.ndarray) -> Frames:
    import cv2

    # FFmpeg by name: other back ends (image sequences by a printf pattern in the name, GStreamer) number differently
    params = [cv2.CAP_PROP_N_THREADS, 1]
    capture = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG, params)
    try:
        if not capture.isOpened():
            raise VideoReadError(path, "not a video", reader="opencv")
        at = 0  # the frame that the next grab() gives
        for target in wanted.tolist():
            if not 0 <= target - at <= STEP:
                capture.set(cv2.CAP_PROP_POS_FRAMES, target)
                at = target
            while at < target:
                if not capture.grab():
                    return
                at += 1
            ok, picture = capture.read()
            if not ok:
                return
            at += 1
            yield cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    finally:
        capture.release()


def _decord(path: Path, wanted: np.ndarray) -> Frames:
    import decord

    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1, fault_tol=1)
    if wanted[-1] < len(reader):
        yield from reader.get_batch(wanted.tolist()).asnumpy()


def _torchcodec(path: Path, wanted: np.ndarray) -> Frames:
    from torchcodec.decoders import VideoDecoder

    reader: Any = VideoDecoder(str(path), num_ffmpeg_threads=1, seek_mode="exact", dimension_order="NHWC")
    if wanted[-1] < len(reader):
        yield from reader.get_frames_at(wanted.tolist()).data.numpy()


READERS: dict[str, Callable[[Path, np.ndarray], Frames]] = {
    "opencv": _opencv,
    "pyav": _pyav,
    "decord": _decord,
    "torchcodec": _torchcodec,
}
