"""Frame folders: a clip as a folder of numbered pictures, such as `clip/img_00001.jpg` or `clip/frame_000000.png`.

Notes:
- frame i is the i-th picture by number, not by name: img_10 comes after img_9. Numbers may begin anywhere (tools begin
  at 0 or 1), and none between the first and the last may be missing or occur twice;
- a folder holds one series: the same text before all numbers, and the same suffix. Anything else in it is an error,
  since nothing says which pictures are meant; hidden files are ignored;
- OpenCV decodes a picture as cv2.imread does: grey becomes RGB, alpha is dropped, and Exif's orientation is applied, as
  a video's display matrix is. 16 bits per channel are refused, since OpenCV would drop the lower eight;
- a folder has no frame rate: whoever needs one must be told (`dataset.fps`, or a list's column `fps`).
"""

import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vmp.data.opencv import opencv
from vmp.errors import VideoReadError

FRAMES = "frames"  # the reader of every frame folder, in manifests
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
FRAME = re.compile(rf"(?!\.)(.*?)([0-9]+)({'|'.join(map(re.escape, PICTURES))})", re.IGNORECASE | re.DOTALL)
RATE_KEYS = (
    "dataset.fps or a column fps (lists, folders), --fps (of prepare, predict and visualize) or fps in the "
    "manifest"
)
_ALLOWED = "numbered .jpg, .jpeg, .png, .webp or .bmp files, such as img_00001.jpg"
_BY_SYSTEMS = {"thumbs.db", "desktop.ini"}  # that file managers leave behind
_MOST = 5  # things that a message lists


def frame_files(folder: Path) -> list[Path]:
    """The pictures of a frame folder, by number; VideoReadError unless they are one series without gaps."""
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise VideoReadError(folder, str(error.strerror)) from None
    series: dict[tuple[str, str], dict[int, str]] = {}  # (text before the number, suffix) -> number -> name
    others: list[str] = []
    for name in names:
        if match := FRAME.fullmatch(name):
            numbered = series.setdefault((match[1], match[3].lower()), {})
            if (first := numbered.setdefault(int(match[2]), name)) != name:
                raise VideoReadError(folder, f"{first} and {name} have the same number")
        elif name.lower() not in _BY_SYSTEMS:
            others.append(name)
    if not series:
        raise VideoReadError(folder, f"a folder without frames, which are {_ALLOWED}")
    if others:
        raise VideoReadError(folder, f"holds {_some(others)} beside its frames, which are {_ALLOWED}")
    if len(series) > 1:
        found = _some([f"{text}*{suffix} ({len(n)} files)" for (text, suffix), n in series.items()])
        raise VideoReadError(
            folder, f"holds several series of frames, {found}; keep one of them in the folder"
        )
    [numbered] = series.values()
    order = sorted(numbered)
    steps = [(a, b) for a, b in itertools.pairwise(order) if b - a > 1]
    if gaps := [f"{a + 1}" if b - a == 2 else f"{a + 1} to {b - 1}" for a, b in steps]:
        ends = f"{numbered[order[0]]} and {numbered[order[-1]]}"
        raise VideoReadError(folder, f"number {_some(gaps)} missing between {ends}")
    return [folder / numbered[number] for number in order]


def decode_folder(folder: Path, wanted: np.ndarray) -> Iterator[np.ndarray]:
    """Pictures (H, W, 3) of the frames at these ascending indices, RGB uint8; stops where there are no more.

    VideoReadError: not a series of frames, a picture that cannot be decoded, or two of different sizes.
    """
    files = frame_files(folder)
    first: tuple[str, tuple[int, ...]] | None = None
    for index in wanted[wanted < len(files)].tolist():
        picture = _decode(files[index])
        name, shape = files[index].name, picture.shape
        first = first or (name, shape)
        if shape != first[1]:
            sizes = [f"{of} has {w} x {h} pixels" for of, (h, w, _) in (first, (name, shape))]
            raise VideoReadError(folder, f"frames of different sizes: {' and '.join(sizes)}")
        yield picture


def _decode(file: Path) -> np.ndarray:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise VideoReadError(file.parent, f"{file.name}: {error.strerror}") from None
    if data[:4] == b"\x89PNG" and data[24:25] == b"\x10":
        raise VideoReadError(file.parent, f"{file.name}: 16 bits per channel; convert the frames to 8")
    cv2 = opencv()
    # OpenCV 4 returns a JPEG that was cut off, too, the rest of it grey: look for the end of its last scan
    whole = data[:2] != b"\xff\xd8" or data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data and whole else None
    except cv2.error:  # too large
        picture = None
    if picture is None:
        what = "cannot be decoded as a picture" if data else "the file is empty"
        raise VideoReadError(file.parent, f"{file.name}: {what}")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))


def _some(items: list[str]) -> str:
    more = f" and {len(items) - _MOST} more" if len(items) > _MOST else ""
    return ", ".join(items[:_MOST]) + more
