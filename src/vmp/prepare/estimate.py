"""Estimates the disk space and time that cutting clips or measuring videos will take.

Notes:
- headers, which are read in child processes, say how many frames there are. What they cost depends on their content
  (noise takes ten times the bytes of a plain wall), on the machine and on its load, so a few clips are made, in child
  processes, too, and in a temporary folder;
- a sample begins at the keyframe that a seek finds: near its clip, which is enough here.
"""

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, Unpack

from rich.filesize import decimal

from vmp.data.stream import open_video, video_stream
from vmp.formats import format_duration
from vmp.machine import cpus
from vmp.prepare.children import Lost, Work, in_children
from vmp.prepare.cut import FALLBACK_RATE, ClipWriter, shrink, target_size
from vmp.prepare.journal import CutClip
from vmp.prepare.measure import READ_THROUGH, installed_seeking_readers, small
from vmp.prepare.plan import DatasetPlan
from vmp.prepare.rows import clips_to_cut, files_to_remux
from vmp.prepare.source import Probe, probe_all

SAMPLES, SAMPLE = 6, 48  # clips that are made to find out, and how many frames of each at most
START = 2.0  # seconds that a child process takes to start
READS = 1.5  # time that a seeking reader takes for a whole file, over that of counting it


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of the clips whose sources can be probed."""

    clips: int
    sources: int
    frames: int
    bytes: int
    seconds: float  # with the given number of processes


class _Sample(NamedTuple):
    """What one clip took: seconds per pixel to decode, seconds per pixel to write and check, bytes per pixel."""

    decoding: float
    writing: float
    bytes: float


COMMON_SAMPLE = _Sample(5e-9, 140e-9, 0.05)  # on processors of 2020


def describe_estimate(
    plan: DatasetPlan,
    there: Mapping[str, bool],
    out: Path,
    *,
    how: str,
    short_side: int | None,
    **work: Unpack[Work],
) -> str:
    """What preparing would read and write, how much disk and how long it would take, as a line to print."""
    if how == "cut":
        e = estimate_cutting(clips_to_cut(plan, there, out), short_side=short_side, **work)
        does = f"cutting would read {e.sources:,} sources and write {e.clips:,} clips, {e.frames:,} frames"
    elif how == "remux":
        sources = sorted({task.source for task in files_to_remux(plan, there, out)})
        e = estimate_measuring(sources, times=2.0, **work)
        does = f"remuxing would read {e.sources:,} videos, {e.frames:,} frames, and write or link as many"
    else:
        sources = sorted({plan.videos / item.path for item in plan.items if there[item.path]})
        e = estimate_measuring(sources, **work)
        does = f"measuring would read {e.sources:,} videos, {e.frames:,} frames"
    if not e.sources:
        return "no video can be read, so there is nothing to do"
    disk = "no disk" if how == "in place" else f"about {decimal(e.bytes)} of disk"
    return f"{does}: {disk}, and about {format_duration(e.seconds)}"


def estimate_cutting(cuts: Sequence[CutClip], *, short_side: int | None, **work: Unpack[Work]) -> Estimate:
    """What cutting would read and write, within a factor of two or so."""
    parts: dict[Path, list[CutClip]] = defaultdict(list)
    for cut in cuts:
        parts[cut.source].append(cut)
    probes = probe_all(list(parts), **work)
    usable = [cut for cut in cuts if cut.source in probes]
    sample = _mean_sample(usable, short_side, work.get("workers"))
    frames = 0
    pixels = 0.0
    seconds: list[float] = []  # per source
    for source, p in probes.items():
        width, height = target_size(p.width, p.height, short_side)
        spans = [_nominal_frames(cut, p) for cut in parts[source]]
        last = max(end for _, end in spans)
        own = sum(max(0, end - start) for start, end in spans)
        read = min(last, p.frames_promised or last) * p.width * p.height
        seconds.append(read * sample.decoding + own * width * height * sample.writing)
        frames, pixels = frames + own, pixels + own * width * height
    took = _spread_over(seconds, work.get("workers"))
    return Estimate(len(usable), len(probes), frames, round(pixels * sample.bytes), took)


def _nominal_frames(cut: CutClip, source: Probe) -> tuple[int, int]:
    """The frames that a cut takes by the header's rate, roughly."""
    rate = float(source.fps or FALLBACK_RATE) if cut.unit == "seconds" else 1.0
    return round(cut.start * rate), source.frames_promised if cut.end is None else round(cut.end * rate)


def estimate_measuring(paths: Sequence[Path], *, times: float = 1.0, **work: Unpack[Work]) -> Estimate:
    """What measuring whole videos, `times` times, would read; bytes are those of the files."""
    probes = probe_all(paths, **work)
    whole = [CutClip(source=path, target=path.with_suffix(".mp4")) for path in probes]
    sample = _mean_sample(whole, 320, work.get("workers"))
    seconds = []
    for p in probes.values():
        pixels = p.frames_promised * p.width * p.height
        read = pixels + READS * len(installed_seeking_readers()) * min(pixels, READ_THROUGH)
        seconds.append(times * sample.decoding * read)
    size = sum(path.stat().st_size for path in probes)
    frames = sum(p.frames_promised for p in probes.values())
    return Estimate(len(probes), len(probes), frames, size, _spread_over(seconds, work.get("workers")))


def _spread_over(seconds: Sequence[float], workers: int | None) -> float:
    """How long jobs of these lengths take on so many processes."""
    number = max(1, min(workers or cpus(), len(seconds)))
    return START + max(sum(seconds) / number, max(seconds, default=0.0)) if seconds else 0.0


def _mean_sample(cuts: Sequence[CutClip], short_side: int | None, workers: int | None) -> _Sample:
    """The mean over a few clips that are made; COMMON_SAMPLE where none could be made."""
    step = max(1, len(cuts) // SAMPLES)
    some = cuts[step // 2 :: step][:SAMPLES]
    with tempfile.TemporaryDirectory(prefix="vmp-estimate-") as folder:
        work = partial(_make_sample, short_side=short_side, folder=Path(folder))
        found = [item for _, item in in_children(work, some, timeout=60.0, workers=workers)]
    made = [item for item in found if not isinstance(item, Lost)] or [COMMON_SAMPLE]
    return _Sample(*map(fmean, zip(*made, strict=True)))


def _make_sample(cut: CutClip, *, short_side: int | None, folder: Path) -> Iterator[_Sample]:
    """Make the beginning of a clip, or of what lies near it."""
    import av

    writer = ClipWriter(folder / cut.target.with_suffix(".mp4").name, FALLBACK_RATE)
    read = writing = 0.0
    began = time.perf_counter()
    with open_video(cut.source) as container:
        stream = video_stream(container, cut.source)
        rate = float(stream.average_rate or FALLBACK_RATE)
        unit = 1.0 if cut.unit == "seconds" else 1 / rate
        length = SAMPLE
        if cut.end is not None:
            length = min(length, max(1, round((cut.end - cut.start) * unit * rate)))
        if cut.start:
            container.seek(int(cut.start * unit * av.time_base))
        for frame in islice(container.decode(stream), length):
            read += frame.width * frame.height
            before = time.perf_counter()
            picture = shrink(frame, short_side)
            writer.add(picture, small(picture.to_ndarray(format="rgb24")))
            writing += time.perf_counter() - before
    decoding = time.perf_counter() - began - writing
    before = time.perf_counter()
    found = writer.finish()
    writing += time.perf_counter() - before
    written = found.frames * found.width * found.height
    if read and written:
        yield _Sample(decoding / read, writing / written, writer.target.stat().st_size / written)
