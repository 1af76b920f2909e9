"""Small real videos to damage, and what a child process finds when it reads a damaged one."""

import ctypes
import gc
import os
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from vmp.data.encode import write_video

FRAMES, HEIGHT, WIDTH = 40, 64, 96


def picture(number: int) -> np.ndarray:
    """Coarse noise that moves by four pixels a frame."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 256, 3), dtype=np.uint8).repeat(8, 0)
    return noise[:, 4 * number : 4 * number + WIDTH]


def sources(home: Path) -> dict[str, Path]:
    """Six containers and codecs, one of them with its index first."""
    from videos import copied

    made = {
        "h264.mp4": {"keyframe_every": 12},
        "b_frames.mp4": {"b_frames": 2, "keyframe_every": 12},
        "b_frames.mkv": {"b_frames": 2, "keyframe_every": 12},
        "mpeg4.avi": {"codec": "mpeg4", "crf": 5, "keyframe_every": 12},
        "vp9.webm": {"codec": "libvpx-vp9", "crf": 20, "keyframe_every": 12},
    }
    for name, options in made.items():
        write_video(home / name, (picture(i) for i in range(FRAMES)), **options)
    copied(home / "b_frames.mp4", home / "index_first.mp4", movflags="+faststart")
    return {name: home / name for name in (*made, "index_first.mp4")}


def counted(path: Path) -> np.ndarray:
    """Every frame that decoding from the start puts out: (N, H, W, 3). Its own loop, not that of the package."""
    import av

    with av.open(str(path), metadata_errors="replace") as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def far(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean absolute difference of pictures, one a frame."""
    return np.abs(a.astype(np.int16) - b).mean(axis=(1, 2, 3))


def read_again(job: tuple[Path, Path, int, tuple[str, ...]]) -> Iterator[Any]:
    """In a child, of a file, its undamaged source, what was counted in it and the readers that were listed for it:
    (what is wrong with these, what the file shows otherwise than its source)."""
    from vmp.data.decode import read_frames

    path, source, count, readers = job
    known = counted(path)
    n = len(known)
    wrong = [] if n == count else [f"{count} frames were counted, and there are {n}"]
    for reader in readers:
        for asked in (range(n), [n - 1, 0, n // 2, n // 2], *([i] for i in range(0, n, 5))):
            apart = far(read_frames(path, asked, reader=reader), known[list(asked)])
            if apart.max() >= 4:
                wrong.append(f"{reader}: frames {list(asked)[:5]} are not those counted ({apart.max():.1f})")
                break
    original = counted(source)
    same = known.shape == original.shape and far(known, original).max() < 1
    yield wrong, "" if same else f"{n} frames {known.shape[1:3]}"


def read_mat_again(job: tuple[Path, str]) -> Iterator[Any]:
    """In a child: ("accepted" or "refused", what is wrong with that)."""
    from slow_parsers import mpii_mat

    from vmp.errors import UserError
    from vmp.prepare.mpii import read_mat

    path, _ = job
    try:
        found = read_mat(path)
    except UserError as error:
        yield "refused", "" if path.name in str(error) else f"no file in {error}"
        return
    known = mpii_mat(path)
    same = known == (found.files, found.verbs, found.starts, found.ends, found.attributes)
    yield "accepted", "" if same else f"{found} instead of {known}"


def read_many(job: tuple[str, tuple[Path, ...], int]) -> Iterator[Any]:
    """In a child: what so many reads by a reader leave behind: (bytes allocated in each third of them, open files,
    threads). A leak grows in every third; a cache that fills once does not."""
    from vmp.data.decode import read_frames
    from vmp.errors import VideoReadError

    reader, paths, reads = job
    rng = np.random.default_rng(0)

    def read(i: int) -> None:
        at = np.sort(rng.integers(0, FRAMES, 5)) + (
            100 if i % 10 == 9 else 0
        )  # every tenth is beyond the end
        try:
            read_frames(paths[i % len(paths)], at, reader=reader, short_side=32)
        except VideoReadError:
            assert i % 10 == 9

    for i in range(100):
        read(i)
    seen = [left()]
    for i in range(reads):
        read(i)
        if (i + 1) % (reads // 3) == 0:
            seen.append(left())
    memory, files, threads = zip(*seen, strict=True)
    yield [b - a for a, b in pairwise(memory)], files[-1] - files[0], threads[-1] - threads[0]


class MallocInfo(ctypes.Structure):
    """struct mallinfo2 of glibc 2.33 and later."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    ]


def allocated() -> int:
    """Bytes that this process holds: those of malloc, where codecs and arrays are, and small Python objects at 64 each.
    The kernel's count of resident pages would not do: huge pages and free lists make it grow where nothing leaks."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = MallocInfo
    info = mallinfo()
    return info.uordblks + info.hblkhd + 64 * sys.getallocatedblocks()


def left() -> tuple[int, int, int]:
    gc.collect()
    return allocated(), len(os.listdir("/proc/self/fd")), threading.active_count()
