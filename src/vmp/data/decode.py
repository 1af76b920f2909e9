"""Exact frames from video files, by several readers with one interface.

Notes:
- frame i is the i-th frame that the decoder returns, counted from 0 and turned upright. Frames are never
  numbered by timestamp: in AVI files with B-frames timestamps are out of order, and sorting by them shuffles the video;
- `pyav` decodes from the start and counts: exact for every file, and the reference for the others;
- `pyav_seek` counts packets and decodes only the groups of pictures that hold a wanted frame (groups.py);
- `opencv`, `decord`, `torchcodec` and `torchcodec_cuda` (a GPU's decoder) seek, and do so wrongly on some files. Which
  readers are exact for a file, `pyav_seek` included, is measured when its manifest is made (prepare/measure.py); the
  dataset refuses the others (present.py);
- a folder of frames has one reader, whichever is named (frames.py);
- each read opens and closes its own decoder with one thread, so nothing leaks or is shared over a fork.

Shapes: T frames, H x W pixels after turning upright; frames are RGB uint8.
"""

import ctypes
import importlib
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vmp.data.frames import FRAMES, decode_folder
from vmp.data.groups import decode_groups
from vmp.data.opencv import opencv
from vmp.data.stream import mirror_axis, open_video, rgb_converter, video_stream
from vmp.errors import ConfigError, RunError, VideoReadError

Frames = Iterator[np.ndarray]  # (H, W, 3) each, in the order of ascending, distinct indices


def read_frames(
    path: str | os.PathLike[str],
    indices: Sequence[int] | np.ndarray,
    *,
    reader: str = "pyav",
    short_side: int | None = None,
    change: Callable[[np.ndarray, int], np.ndarray] | None = None,
) -> np.ndarray:
    """The frames at these indices, in the order of the indices, repeats included: (T, H, W, 3) uint8, RGB.

    Args:
        indices: frame numbers from 0, any order.
        reader: one of READERS; a frame folder has its own.
        short_side: resize every frame as soon as it is decoded (bilinear), so that a 4K video costs little memory.
        change: (frame, its number) -> frame, before resizing.

    Raises:
        VideoReadError: neither a video nor a frame folder, or it has too few frames.
        RunError: the GPU that decodes it fails.
        ValueError: indices are empty or negative.
    """
    path = Path(path)
    wanted = np.asarray(indices, dtype=np.int64)
    if wanted.ndim != 1 or wanted.size == 0 or wanted.min() < 0:
        raise ValueError(f"indices {indices!r}: must be a non-empty 1-D array of frame numbers from 0")
    reader = FRAMES if path.is_dir() else reader
    decode = decoder_of(path, reader)
    distinct, back = np.unique(wanted, return_inverse=True)
    out: np.ndarray | None = None
    got = 0
    try:
        for frame in decode(path, distinct):
            frame = finish(frame, int(distinct[got]), change, short_side)
            if out is None:
                out = np.empty((len(distinct), *frame.shape), dtype=np.uint8)
            elif frame.shape != out.shape[1:]:
                raise VideoReadError(
                    path, f"frame {distinct[got]} has another size than those before it", reader=reader
                )
            out[got] = frame
            got += 1
    except VideoReadError:
        raise
    except ImportError as error:
        raise VideoReadError(path, f"the reader cannot be imported: {error}", reader=reader) from error
    except Exception as error:  # decoders raise every kind of exception
        if is_gpu_fault(reader, error):
            raise RunError(f"{path}: the GPU decoder failed (not the file's fault): {error}") from error
        raise VideoReadError(path, f"{type(error).__name__}: {error}", reader=reader) from error
    if out is None or got < len(distinct):
        raise VideoReadError(
            path, f"frame {distinct[got]} asked for, {got} of {len(distinct)} found", reader=reader
        )
    return out if np.array_equal(back, np.arange(len(distinct))) else out[back]


def finish(
    frame: np.ndarray,
    number: int,
    change: Callable[[np.ndarray, int], np.ndarray] | None,
    short_side: int | None,
) -> np.ndarray:
    """Degrade a decoded frame, if asked to, then resize it."""
    frame = frame if change is None else change(frame, number)
    return frame if short_side is None else resize_short_side(frame, short_side)


def resize_frames(frames: np.ndarray, short_side: int) -> np.ndarray:
    """(T, H, W, C) -> the same frames as `resize_short_side` returns them."""
    h, w = frames.shape[1:3]
    height, width = scaled_size(h, w, short_side)
    if (height, width) == (h, w):
        return frames
    cv2 = opencv()
    out = np.empty((len(frames), height, width, *frames.shape[3:]), np.uint8)
    for frame, resized in zip(frames, out, strict=True):
        cv2.resize(frame, (width, height), dst=resized, interpolation=cv2.INTER_LINEAR)
    return out


def resize_short_side(frame: np.ndarray, short_side: int) -> np.ndarray:
    """(H, W, 3) -> the same picture with min(H, W) = short_side; bilinear without antialiasing, as the recipes do."""
    h, w = frame.shape[:2]
    height, width = scaled_size(h, w, short_side)
    if (height, width) == (h, w):
        return frame
    cv2 = opencv()
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)


def scaled_size(h: int, w: int, short_side: int) -> tuple[int, int]:
    """The (height, width) whose smaller side is short_side; the longer one is rounded down, as PySlowFast does."""
    return (short_side, max(1, w * short_side // h)) if h <= w else (max(1, h * short_side // w), short_side)


def decoder_of(path: Path, reader: str = "pyav") -> Callable[[Path, np.ndarray], Frames]:
    """What yields the frames of a video or of a frame folder; VideoReadError if the path can be neither."""
    if path.is_dir():
        return decode_folder
    check_is_video_file(path)
    return READERS[reader]


def check_is_video_file(path: Path) -> None:
    """Raise VideoReadError for anything that is not a video file by its type and first bytes, whatever its name.

    Pipes and devices would block, decoders turn an image into a video of one frame, and they follow playlists to the
    files that these name.
    """
    try:
        os.fspath(path).encode()
        info = os.stat(path)
    except UnicodeEncodeError:
        raise VideoReadError(path, "its name is not UTF-8; rename it") from None
    except OSError as error:
        raise VideoReadError(
            path, "not found" if isinstance(error, FileNotFoundError) else str(error.strerror)
        ) from None
    if not stat.S_ISREG(info.st_mode):
        raise VideoReadError(path, "not a regular file")
    if info.st_size == 0:
        raise VideoReadError(path, "the file is empty")
    try:
        with open(path, "rb") as file:
            head = file.read(256)
    except OSError as error:
        raise VideoReadError(path, str(error.strerror)) from None
    for what, begin in _NO_VIDEO.items():
        if re.match(begin, head, re.DOTALL | re.IGNORECASE):
            raise VideoReadError(path, f"{what}, not a video")


_NO_VIDEO = {  # how files begin; video_stream() refuses rarer pictures, which FFmpeg recognises by other signs
    "a JPEG picture": rb"\xff\xd8\xff",
    "a PNG picture": rb"\x89PNG",
    "a TIFF picture": rb"II\*\0|MM\0\*",
    "a WebP picture or animation (which FFmpeg may not decode; convert it)": rb"RIFF....WEBP",
    "an AVIF or HEIF picture": rb"....ftyp(avif|avis|mif1|msf1|hei[cxms]|hev[cxms])",
    "a JPEG 2000 picture": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "a BMP picture": rb"BM.{4}\0\0\0\0",
    "a PNM picture": rb"P[1-7]\s",
    "a playlist": rb"#EXTM3U|ffconcat|(<\?xml[^>]*>\s*)?<MPD",
    "a pointer of Git LFS (git lfs pull fetches the file)": rb"version https://git-lfs",
    "a web page or XML": rb"(\xef\xbb\xbf)?\s*<(!doctype|!--|html|head|\?xml|svg|error)",
    "a ZIP archive": rb"PK\x03\x04",
}

# --- PyAV: counted from the start ----------------------------------------------------------------------------------


def _pyav(path: Path, wanted: np.ndarray) -> Frames:
    with open_video(path) as container:
        stream = video_stream(container, path, reader="pyav")
        convert = rgb_converter()
        targets = iter(wanted.tolist())
        target = next(targets)
        for number, frame in enumerate(container.decode(stream)):
            if number == target:
                yield convert(frame)
                target = next(targets, -1)
                if target < 0:
                    return


# --- readers that seek ---------------------------------------------------------------------------------------------

BATCH = 32e6  # bytes of frames
STEP = 48  # OpenCV: going forward this many frames is cheaper than a seek, which restarts at a keyframe


def _opencv(path: Path, wanted: np.ndarray) -> Frames:
    cv2, axis = opencv(), mirror_axis(path)
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
            yield _mirrored(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), axis)
    finally:
        capture.release()


def _decord(path: Path, wanted: np.ndarray) -> Frames:
    import decord

    axis = mirror_axis(path)
    reader = decord.VideoReader(os.path.abspath(path), ctx=decord.cpu(0), num_threads=1, fault_tol=1)
    if wanted[-1] < len(reader):
        for picture in _in_batches(lambda part: reader.get_batch(part).asnumpy(), wanted):
            yield _mirrored(picture, axis)


TORCHCODEC: dict[str, Any] = {"num_ffmpeg_threads": 1, "seek_mode": "exact", "dimension_order": "NHWC"}


def _torchcodec(path: Path, wanted: np.ndarray) -> Frames:
    from torchcodec.decoders import VideoDecoder

    axis = mirror_axis(path)
    yield from _decoded(VideoDecoder(os.path.abspath(path), device="cpu", **TORCHCODEC), wanted, axis)


def _torchcodec_cuda(path: Path, wanted: np.ndarray) -> Frames:
    """Decodes on the current GPU; frames come back to be resized and cropped as those of every other reader."""
    from torch.cuda import current_device
    from torchcodec.decoders import VideoDecoder, set_cuda_backend

    axis = mirror_axis(path)
    with set_cuda_backend("beta"):  # NVDEC itself, later versions' default; FFmpeg's needs a build with it
        reader = VideoDecoder(os.path.abspath(path), device=f"cuda:{current_device()}", **TORCHCODEC)
    if why := reader.cpu_fallback:
        if "unavailable" in str(why):
            raise RuntimeError(f"no NVDEC: {why}")
        raise VideoReadError(path, f"the GPU cannot decode it: {why}", reader="torchcodec_cuda")
    yield from _decoded(reader, wanted, axis)


def _decoded(reader: Any, wanted: np.ndarray, axis: int | None) -> Frames:
    if wanted[-1] < len(reader):
        for picture in _in_batches(lambda part: reader.get_frames_at(part).data.cpu().numpy(), wanted):
            yield _mirrored(picture, axis)


def _mirrored(picture: np.ndarray, axis: int | None) -> np.ndarray:
    return picture if axis is None else np.flip(picture, axis)


def _in_batches(fetch: Callable[[list[int]], np.ndarray], wanted: np.ndarray) -> Frames:
    """Frames of a reader that holds all frames of a call in memory: the first, then BATCH bytes at a time."""
    first = fetch(wanted[:1].tolist())
    yield first[0]
    step = max(1, int(BATCH // first.nbytes))
    for begin in range(1, len(wanted), step):
        yield from fetch(wanted[begin : begin + step].tolist())


READERS: dict[str, Callable[[Path, np.ndarray], Frames]] = {
    "opencv": _opencv,
    "pyav": _pyav,
    "pyav_seek": decode_groups,
    "decord": _decord,
    "torchcodec": _torchcodec,
    "torchcodec_cuda": _torchcodec_cuda,
}
ON_GPU = ("torchcodec_cuda",)  # measured and used only where named
OPTIONAL = ("torchcodec", *ON_GPU)  # not among the requirements
NEEDS = {"decord": "decord"} | dict.fromkeys(OPTIONAL, "torchcodec.decoders")  # reader -> module


def check_reader(name: str) -> None:
    """Raise ConfigError where a reader cannot work at all: a package is not installed, or there is no GPU for it."""
    try:
        if name in NEEDS:
            importlib.import_module(NEEDS[name])
    except (ImportError, OSError, RuntimeError) as error:  # missing, or built for other libraries
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"reader {name}: cannot be imported here ({reason}). Install it (docs/readers.md), or "
            "use data.reader=auto"
        ) from None
    if name in ON_GPU:
        import torch

        if not torch.cuda.device_count():
            raise ConfigError(f"reader {name}: there is no CUDA device here; use data.reader=auto")
        if sys.platform == "linux":
            try:
                ctypes.CDLL("libnvcuvid.so.1")
            except OSError:
                raise ConfigError(
                    f"reader {name}: the driver's video decoder, libnvcuvid.so.1, is not here. A container needs "
                    "NVIDIA_DRIVER_CAPABILITIES with video; or use data.reader=auto"
                ) from None


def is_gpu_fault(reader: str, error: Exception) -> bool:
    """Whether an error of a reader is the GPU's fault, and says nothing about the file."""
    if reader not in ON_GPU or isinstance(error, VideoReadError):
        return False
    return bool(re.search(r"cuda|nvcuvid|nvdec|out of memory", str(error), re.IGNORECASE))
