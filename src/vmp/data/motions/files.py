"""The clips as files: encoded in parallel, continued after an interruption, and listed in manifests."""

import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from vmp.data.columns import Clip
from vmp.data.encode import write_video
from vmp.data.manifest import write_classes, write_manifest
from vmp.data.motions.pictures import render_clip
from vmp.data.motions.spec import SPLITS, Motions, folder_name, motion_of
from vmp.machine import cpus, end_with_parent

# all of them return exactly these frames; tests/test_motions.py checks it
READERS = ("opencv", "pyav", "decord")

_CHUNK = 16  # clips per task of a worker


def make_motions(root: Path, spec: Motions, *, workers: int | None = None, progress: bool = True) -> Path:
    """Make the clips under root/folder_name(spec) that are missing, and return that folder.

    Args:
        workers: processes; None: one per core, fewer for few clips; 1: this process.
    """
    from filelock import FileLock

    folder = Path(root) / folder_name(spec)
    if _complete(folder, spec):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if _complete(folder, spec):  # another process has made it meanwhile
            return folder
        for split in SPLITS:
            (folder / f"{split}.csv").unlink(missing_ok=True)  # manifests say that all clips are there
            (folder / "videos" / split).mkdir(parents=True, exist_ok=True)
        for stale in folder.rglob(".*.tmp*"):  # left by a process that was killed
            stale.unlink(missing_ok=True)
        _make_all(folder, spec, workers, progress)
        write_classes(folder / "classes.txt", spec.names)
        for split in SPLITS:
            rows = (_row(spec, split, i) for i in range(getattr(spec, split)))
            write_manifest(folder / f"{split}.csv", rows)
    return folder


def _complete(folder: Path, spec: Motions) -> bool:
    """Whether all manifests, and a file for each of their rows, are there; takes milliseconds."""
    for split in SPLITS:
        there = {path.name for path in (folder / "videos" / split).glob("*.mp4")}
        if not all(f"{i:06d}.mp4" in there for i in range(getattr(spec, split))):
            return False
    return all((folder / name).is_file() for name in ("classes.txt", *(f"{split}.csv" for split in SPLITS)))


def _make_all(folder: Path, spec: Motions, workers: int | None, progress: bool) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    chunks = [
        (split, range(start, min(start + _CHUNK, getattr(spec, split))))
        for split in SPLITS
        for start in range(0, getattr(spec, split), _CHUNK)
    ]
    if workers is None:
        # a worker takes about half a second to start, in which this process makes some 40 clips
        workers = min(cpus(), 1 + len(chunks) // 8)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task(f"making {folder.name}", total=spec.train + spec.val + spec.test)
        for made in _make_chunks(folder, spec, chunks, min(workers, len(chunks))):
            bar.advance(task, made)


def _make_chunks(folder: Path, spec: Motions, chunks: list[tuple[str, range]], workers: int) -> Iterator[int]:
    """Make the chunks; yields the number of clips after each."""
    if workers <= 1:
        yield from (_make_chunk(folder, spec, *chunk) for chunk in chunks)
        return
    # spawn: the caller may hold torch's threads or a CUDA context, which a fork would break
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=_start_worker)
    try:
        for done in as_completed([pool.submit(_make_chunk, folder, spec, *chunk) for chunk in chunks]):
            yield done.result()
    finally:  # also on Ctrl-C: workers finish their chunk, and the rest is dropped
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    import cv2

    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the first one handles it
    end_with_parent()


def _make_chunk(folder: Path, spec: Motions, split: str, indices: range) -> int:
    for index in indices:
        path = folder / "videos" / split / f"{index:06d}.mp4"
        if path.exists() and _count(path) == spec.frames:
            continue  # an earlier making got this far
        frames, _ = render_clip(spec, split, index)
        write_video(path, frames, fps=spec.fps, crf=spec.crf, keyframe_every=1)
        if (found := _count(path)) != spec.frames:
            raise RuntimeError(f"{path}: {found} frames can be decoded of {spec.frames} written")
    return len(indices)


def _count(path: Path) -> int:
    """How many frames PyAV decodes; 0 for a file that it cannot read."""
    import av

    try:
        with av.open(str(path)) as container:
            container.streams.video[0].thread_type = "NONE"
            return sum(1 for _ in container.decode(video=0))
    except (av.FFmpegError, IndexError):
        return 0


def _row(spec: Motions, split: str, index: int) -> Clip:
    motion = motion_of(spec, split, index)
    return Clip(
        id=f"{split}/{index:06d}",
        path=f"videos/{split}/{index:06d}.mp4",
        label=motion.label,
        frames=spec.frames,
        fps=float(spec.fps),
        width=spec.size,
        height=spec.size,
        readers=READERS,
        tags={"speed": f"{motion.speed:.3f}"},  # pixels a frame
    )
