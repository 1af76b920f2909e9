"""How much disk and time it will take to make clips, or to measure videos, before it is done.

Notable here:
- headers say how many frames there are. What they cost depends on what is in them (noise takes ten times the bytes of
  a plain wall), on the machine and on what else it does: a few clips are made, in child processes and into a folder
  that is thrown away;
- a sample begins at the keyframe that a seek finds: near its clip, which is enough here.
"""

import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from vmp.data.decode import check_regular
from vmp.data.stream import open_video, upright_size, video_stream
from vmp.errors import VideoReadError
from vmp.machine import cpus
from vmp.prepare.cut import FALLBACK, Cut
from vmp.prepare.measure import READ_THROUGH, Lost, Source, in_children, seeking, small
from vmp.prepare.writer import ClipWriter, shrink, target_size

SAMPLES, SAMPLE = 6, 48  # clips that are made to find out, and how many frames of each at most
START = 2.0  # seconds that a child process takes to start
READS = 1.5  # what a seeking reader costs on a whole file, against counting it


@dataclass(frozen=True, slots=True)
class Probe:
    """What a file's header and first frame say; the number of frames is a promise, often broken."""

    fps: Fraction  # 0: the file does not say
    width: int  # upright
    height: int
    frames_promised: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of the clips whose sources can be probed. seconds: on the processes that were asked for."""

    clips: int
    sources: int
    frames: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Sample:
    """Of one clip: seconds a pixel decoded, seconds a pixel written and checked, bytes a pixel written."""

    decoding: float
    writing: float
    bytes: float


def probe(path: str | os.PathLike[str]) -> Probe:
    """Open a video and decode one frame.

    Raises:
        VideoReadError: not there, not a regular file, or not a video.
    """
    path = Path(path)
    check_regular(path)
    source = Source(path)
    first = next(source.frames(), None)
    if first is None:
        raise VideoReadError(path, source.fault or "no frame could be decoded")
    width, height = upright_size(first)
    return Probe(source.fps, width, height, source.promised, source.seconds)


def estimate_cutting(cuts: Sequence[Cut], *, short_side: int | None, workers: int | None = None) -> Estimate:
    """What cutting would read and write, within a factor of two or so."""
    parts: dict[Path, list[Cut]] = defaultdict(list)
    for cut in cuts:
        parts[cut.source].append(cut)
    probes = _probes(list(parts))
    usable = [cut for cut in cuts if cut.source in probes]
    sample = _mean(_samples(usable, short_side, workers))
    frames = 0
    pixels = 0.0
    seconds: list[float] = []  # a source
    for source, p in probes.items():
        width, height = target_size(p.width, p.height, short_side)
        spans = [_in_frames(cut, p) for cut in parts[source]]
        ends = [end for _, end in spans]
        own = sum(max(0, end - start) for start, end in spans)
        read = min(max(ends), p.frames_promised or max(ends)) * p.width * p.height
        seconds.append(read * sample.decoding + own * width * height * sample.writing)
        frames, pixels = frames + own, pixels + own * width * height
    return Estimate(
        len(usable), len(probes), frames, round(pixels * sample.bytes), _spread_over(seconds, workers)
    )


def _in_frames(cut: Cut, source: Probe) -> tuple[int, int]:
    """About which frames a cut takes, by the header's rate."""
    rate = float(source.fps or FALLBACK) if cut.unit == "seconds" else 1.0
    return round(cut.start * rate), source.frames_promised if cut.end is None else round(cut.end * rate)


def estimate_measuring(paths: Sequence[Path], *, times: float = 1.0, workers: int | None = None) -> Estimate:
    """What measuring whole videos would read; `times` as often. bytes: of the files."""
    probes = _probes(paths)
    whole = [Cut(source=path, start=0, end=None, target=path.with_suffix(".mp4")) for path in probes]
    sample = _mean(_samples(whole, 320, workers))
    seconds = []
    for p in probes.values():
        pixels = p.frames_promised * p.width * p.height
        seconds.append(
            times * sample.decoding * (pixels + READS * len(seeking()) * min(pixels, READ_THROUGH))
        )
    size = sum(path.stat().st_size for path in probes)
    frames = sum(p.frames_promised for p in probes.values())
    return Estimate(len(probes), len(probes), frames, size, _spread_over(seconds, workers))


def _probes(paths: Sequence[Path]) -> dict[Path, Probe]:
    """Of those that can be probed."""
    probes: dict[Path, Probe] = {}
    for path in paths:
        try:
            probes[path] = probe(path)
        except VideoReadError:
            continue
    return probes


def _spread_over(seconds: Sequence[float], workers: int | None) -> float:
    """A job a source, on so many processes."""
    number = max(1, min(workers or cpus(), len(seconds)))
    return START + max(sum(seconds) / number, max(seconds, default=0.0)) if seconds else 0.0


def _samples(cuts: Sequence[Cut], short_side: int | None, workers: int | None) -> Iterator[_Sample]:
    step = max(1, len(cuts) // SAMPLES)
    some = cuts[step // 2 :: step][:SAMPLES]
    with tempfile.TemporaryDirectory(prefix="vmp-estimate-") as folder:
        work = partial(_make_one, short_side=short_side, folder=Path(folder))
        for _, sample in in_children(work, some, timeout=60.0, workers=workers):
            if not isinstance(sample, Lost):
                yield sample


def _make_one(cut: Cut, *, short_side: int | None, folder: Path) -> Iterator[_Sample]:
    """Make the beginning of a clip, or of what lies near it."""
    import av

    writer = ClipWriter(folder / cut.target.with_suffix(".mp4").name, FALLBACK)
    read = writing = 0.0
    began = time.perf_counter()
    with open_video(cut.source) as container:
        stream = video_stream(container, cut.source)
        rate = float(stream.average_rate or FALLBACK)
        unit = 1.0 if cut.unit == "seconds" else 1 / rate
        length = (
            SAMPLE if cut.end is None else min(SAMPLE, max(1, round((cut.end - cut.start) * unit * rate)))
        )
        if cut.start:
            container.seek(int(cut.start * unit * av.time_base))
        number = 0
        for frame in islice(container.decode(stream), length):
            number += 1
            read += frame.width * frame.height
            before = time.perf_counter()
            picture = shrink(frame, short_side)
            writer.add(picture, small(picture.to_ndarray(format="rgb24")))
            writing += time.perf_counter() - before
    decoding = time.perf_counter() - began - writing
    before = time.perf_counter()
    found = writer.finish()
    writing += time.perf_counter() - before
    written = number * found.width * found.height
    if read and written:
        yield _Sample(decoding / read, writing / written, writer.target.stat().st_size / written)


def _mean(samples: Iterator[_Sample]) -> _Sample:
    """Of what could be made; where nothing could, what is common on 2020's processors."""
    got = list(samples) or [_Sample(5e-9, 140e-9, 0.05)]

    def mean(name: str) -> float:
        values: list[Any] = [getattr(sample, name) for sample in got]
        return sum(values) / len(values)

    return _Sample(mean("decoding"), mean("writing"), mean("bytes"))
