"""Clips per second: from the generated videos with the share of time that training waits, and from original and cut
videos."""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import ROOT
from benchmarks.measure import Row, compose, device_type, print_rows
from vmp.engine.prefetch import Prefetcher
from vmp.errors import ConfigError, VideoReadError
from vmp.machine import cpus

WANTED = 300  # clips per second that a fast GPU takes from TimeSformer's loader
FRAMES = 800  # of a source
DISTINCT = 48  # pictures that are repeated back and forth, because making 800 takes minutes
SPANS = ((100, 390), (290, 580), (480, 770))  # three actions, each cut into a file of its own
Read = Callable[[int, np.ndarray], Any]  # number of the span, indices within it


def bench_loader(
    *,
    readers: Sequence[str] = ("opencv", "pyav", "decord"),
    overrides: Sequence[str] = (),
    reads: int = 200,
    batches: int = 25,
) -> list[Row]:
    """Clips per second from the generated videos, and the share of the training time spent waiting for them.

    Args:
        readers: those that are not installed are left out.
        reads: clips that each of them reads, three times over.
        batches: of 32 clips, that a network trains on, twice over.
    """
    from torch.utils.data import DataLoader

    from vmp.build import build_model, build_optimizer, clip_shape, set_precision_switches
    from vmp.data.dataset import TrainClips, collate_train, loader_processes
    from vmp.data.present import find_clips
    from vmp.data.sampler import TrainBatches
    from vmp.datasets import find_splits
    from vmp.objective import Objective

    config = compose([f"data.root={ROOT / 'data'}", "dataset.size=64", "backbone.crop=64", *overrides])
    splits = find_splits(config)
    set_precision_switches(config)  # an earlier part may have set others
    model = build_model(config, len(splits.classes))
    rows: list[Row] = []
    present = find_clips(splits.train, max_bad_fraction=0)
    for reader in filter(_works, readers):
        read_by = replace(present, readers=(reader,) * len(present.clips))  # measured to be exact or not
        data = TrainClips(splits.train, read_by, clip_shape(config, model), seed=0)
        each = []
        for repeat in range(3):
            began = time.perf_counter()
            for index in range(reads):
                _, clip, _ = data[index, repeat]
                if isinstance(clip, VideoReadError):
                    raise clip
            each.append((time.perf_counter() - began) / reads)
        rows.append({"what": f"one process, {reader}", "clips/s": 1 / statistics.median(each)})
    data = TrainClips(splits.train, present, clip_shape(config, model), seed=0)
    device = device_type()
    for workers in sorted({0, 1, min(8, cpus() - 1)}):
        order = TrainBatches(clips=len(data), batch=32, batches=batches, seed=0)
        loader: DataLoader[Any] = DataLoader(
            data,
            batch_sampler=order,
            collate_fn=collate_train,
            persistent_workers=workers > 0,
            pin_memory=device == "cuda",
            **loader_processes(data, workers),
        )
        model = build_model(config, len(splits.classes)).to(device).train()
        objective, optimizer = Objective(variation_weight=1.0), build_optimizer(config, model)
        for epoch in range(2):  # the first one warms up
            order.start_at(epoch, 0)
            began = time.perf_counter()
            stream = Prefetcher(iter(loader), torch.device(device))
            for _ in range(batches):
                batch = stream.take()
                optimizer.zero_grad()
                out = model(batch.clips)
                loss = objective(out.logits, batch.labels, out.variations)["loss"]
                loss.backward()
                stream.fetch()
                if torch.isfinite(loss):  # waits for the device, as in training
                    optimizer.step()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - began
        what = f"training tiny, {workers} worker(s)"
        rows.append(
            {"what": what, "clips/s": batches * 32 / seconds, "waiting %": 100 * stream.waited / seconds}
        )
    print_rows("loader on the generated set, 9 frames of 64 x 64", rows)
    print(advise(rows))
    return rows


def advise(rows: Sequence[Row]) -> str:
    """What to change, from the rows of bench_loader."""
    trained = [row for row in rows if "waiting %" in row]
    best = min(trained, key=lambda row: float(row["waiting %"]))
    fastest = max((row for row in rows if row not in trained), key=lambda row: float(row["clips/s"]))
    share = float(best["waiting %"])
    result = f"best: {best['what']}, {share:.0f} % of the time waiting for clips (fastest reader: {fastest['what']})."
    if share > 10:
        return (
            f"{result} More than 10 %: use more trainer.workers (this machine has {cpus()} cores), small exact clips "
            "(scripts/prepare.py ... --cut), or data.keep, which keeps decoded clips on disk; a larger "
            "trainer.micro_batch changes nothing here."
        )
    return f"{result} The loader keeps up with this model; `make bench BENCH=clips` shows how many clips it can feed."


def bench_clips() -> list[Row]:
    """Clips per second and core, by CPU time, from a long-GOP original and from the clips cut from it."""
    import av
    import cv2

    from vmp.data.columns import Clip
    from vmp.data.decode import OPTIONAL, read_frames, resize_short_side
    from vmp.data.decoded import DecodedClips
    from vmp.data.encode import write_video
    from vmp.data.sampling import offsets, random_start
    from vmp.prepare.cut import cut_all
    from vmp.prepare.journal import CutClip

    av.logging.set_level(av.logging.ERROR)
    cv2.setNumThreads(1)
    folder, rate = ROOT / "data" / "bench" / f"{FRAMES}", Fraction(147, 5)
    folder.mkdir(parents=True, exist_ok=True)
    patterns = {"9x32": offsets(9, 32, rate=29.4 / 30), "33x2": offsets(33, 2, rate=29.4 / 30)}
    rows: list[Row] = []
    for width, height in ((1624, 1224), (320, 240)):
        source = folder / f"{width}x{height}.mp4"
        if not source.exists():
            print(f"writing {source.relative_to(ROOT)}", flush=True)
            write_video(
                source, back_and_forth(height, width), fps=rate, crf=23, keyframe_every=250, b_frames=3
            )
        cuts = [
            CutClip(source=source, start=a, end=b, target=folder / source.stem / f"{a}-{b}.mp4")
            for a, b in SPANS
        ]
        began = time.perf_counter()
        found = dict(cut_all(cuts, workers=1, progress=False))
        clips = [
            Clip("", str(cut.target), 0, frames=m.frames, fps=m.fps, width=m.width, height=m.height)
            for cut, m in ((cut, found[cut]) for cut in cuts)
        ]
        store = DecodedClips(folder, folder / source.stem, 10**9)
        took = time.perf_counter() - began
        if took > 3:  # otherwise they were there already
            frames = sum(m.frames for m in found.values())
            print(f"cut {frames} frames of {width} x {height}, checked, in {took:.1f} s, one process")

        def from_original(reader: str, source: Path = source) -> Read:
            return lambda k, i: read_frames(source, SPANS[k][0] + i, reader=reader, short_side=256)

        def from_cut(reader: str, cuts: list[CutClip] = cuts) -> Read:
            return lambda k, i: read_frames(cuts[k].target, i, reader=reader, short_side=256)

        def kept(k: int, i: np.ndarray, clips: list[Clip] = clips, store: DecodedClips = store) -> Any:
            frames = store.read(Path(clips[k].path), clips[k], "pyav_seek", i)
            assert frames is not None
            return np.stack([resize_short_side(frame, 256) for frame in frames])

        def whole_span(k: int, i: np.ndarray, source: Path = source) -> Any:
            return sorted_by_time(source, SPANS[k][0] + i)

        reads: dict[str, Read] = {"original, all, by time": whole_span}
        reads |= {f"original, {r}": from_original(r) for r in ("decord", "opencv", "pyav_seek")}
        readers = ("decord", "opencv", "pyav", "pyav_seek", *filter(_works, OPTIONAL))
        reads |= {f"cut clips, {r}": from_cut(r) for r in readers}
        reads["cut clips, kept decoded"] = kept
        part: list[Row] = [{"what": name} for name in reads]
        for pattern, wanted in patterns.items():
            rng = np.random.default_rng(0)
            starts = [random_start(b - a, wanted, rng=rng) for a, b in SPANS]
            seconds: dict[str, list[float]] = {name: [] for name in reads}
            for repeat in range(len(SPANS) * 4):
                for name, read in reads.items():
                    if repeat >= len(SPANS) and width > 1000 and name.startswith("original"):
                        continue  # takes seconds
                    began = time.process_time()
                    read(repeat % len(SPANS), starts[repeat % len(SPANS)] + wanted)
                    seconds[name].append(time.process_time() - began)
            medians = {name: statistics.median(s) for name, s in seconds.items()}
            first = next(iter(medians.values()))
            for row, median in zip(part, medians.values(), strict=True):
                row[f"{pattern}/s"] = 1 / median
                row[f"{pattern} faster"] = first / median
                row[f"{pattern} cores"] = round(WANTED * median)
        title = f"clips per second and core, and cores for {WANTED} per second"
        print_rows(f"{title}; {FRAMES} frames of {width} x {height}", part)
        rows += [{"source": f"{width}x{height}"} | row for row in part]
    return rows


def _works(reader: str) -> bool:
    from vmp.data.decode import check_reader

    try:
        check_reader(reader)
    except ConfigError:
        return False
    return True


def back_and_forth(height: int, width: int) -> Iterator[np.ndarray]:
    """FRAMES pictures (H, W, 3). A source is longer than what any reader decodes for a clip: at most the span and the
    frames since the last keyframe, up to 250."""
    pictures = list(scenery(DISTINCT, height, width))
    pictures += pictures[-2:0:-1]
    for i in range(FRAMES):
        yield pictures[i % len(pictures)]


def scenery(frames: int, height: int, width: int) -> Iterator[np.ndarray]:
    """A textured room seen by a static, slightly noisy camera, with three textured objects moving in it."""
    import cv2

    rng = np.random.default_rng(0)

    def texture(h: int, w: int) -> np.ndarray:
        layers = [
            cv2.resize(
                rng.normal(0, 1, (h // k + 2, w // k + 2, 3)) * k**0.6, (w, h), interpolation=cv2.INTER_CUBIC
            )
            for k in (2, 5, 12, 30, 80)
        ]
        return np.clip(128 + 3 * sum(layers), 0, 255).astype(np.uint8)

    room = texture(height, width)
    things = [texture(height // 4, width // 6) for _ in range(3)]
    noise = rng.normal(0, 1.5, (4, height, width, 1)).round().astype(np.int16)
    for i in range(frames):
        frame = room.astype(np.int16)
        for k, thing in enumerate(things):
            h, w = thing.shape[:2]
            y = int((height - h) * (0.5 + 0.5 * np.sin(i / (40 + 9 * k) + k)))
            x = int((width - w) * (0.5 + 0.5 * np.cos(i / (55 - 7 * k) + 2 * k)))
            frame[y : y + h, x : x + w] = thing
        yield np.clip(frame + np.roll(noise[i % 4], 37 * i, axis=1), 0, 255).astype(np.uint8)


def sorted_by_time(path: Path, indices: np.ndarray) -> np.ndarray:
    """Read a clip as PySlowFast, TimeSformer and the paper's code do: decode all frames of its span, sort them by time,
    convert them to RGB at full size in one array, then pick the wanted ones."""
    import av

    from vmp.data.decode import resize_short_side

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        tick = 1 / float(stream.average_rate * stream.time_base)
        first, last = int(indices[0] * tick), int(indices[-1] * tick)
        container.seek(max(first - 1024, 0), any_frame=False, backward=True, stream=stream)
        found = {}
        for frame in container.decode(stream):
            if frame.pts < first:
                continue
            found[frame.pts] = frame
            if frame.pts > last:
                break
    pictures = torch.as_tensor(np.stack([found[pts].to_ndarray(format="rgb24") for pts in sorted(found)]))
    chosen = pictures[torch.as_tensor(indices - indices[0])].numpy()
    return np.stack([resize_short_side(picture, 256) for picture in chosen])


def bench_views(clips: int = 6, workers: int = 2) -> list[Row]:
    """10 x 3 views of SlowFast of each clip, whole and in pieces: seconds per clip, and shared memory at most."""
    import tempfile

    from torch.utils.data import DataLoader

    from vmp.data.columns import Clip
    from vmp.data.dataset import ClipShape, TestClips, loader_processes, stream_views
    from vmp.data.encode import write_video
    from vmp.data.manifest import Manifest
    from vmp.data.present import find_clips
    from vmp.data.shared import SharedMemoryCollate

    shape = ClipShape(frames=33, stride=2, crop=224, jitter=(256, 256), test_side=256, test_crop=256)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as home:
        write_video(Path(home) / "a.mp4", islice(back_and_forth(256, 340), 300))
        clip = Clip("0", "a.mp4", 0, frames=300, fps=25, width=340, height=256, readers=("pyav_seek", "pyav"))
        listed = tuple(replace(clip, id=str(number)) for number in range(clips))
        manifest = Manifest(Path(home) / "a.csv", Path(home), ("a",), listed)
        data = TestClips(manifest, find_clips(manifest, max_bad_fraction=0), shape, temporal=10, spatial=3)

        def whole() -> Iterator[int]:
            processes = loader_processes(data, workers)
            for ((_, views, _),) in DataLoader(
                data, batch_size=1, collate_fn=SharedMemoryCollate(list), **processes
            ):
                yield len(views)

        def in_pieces() -> Iterator[int]:
            for piece in stream_views(data, range(clips), workers=workers, timeout=0, pin_memory=False):
                assert isinstance(piece.views, torch.Tensor)
                yield len(piece.views)

        for what, read in (("whole items", whole), ("in pieces", in_pieces)):
            used, most, began, first, views = shared_memory(), 0.0, time.perf_counter(), 0.0, 0
            for found in read():
                first = first or time.perf_counter() - began
                views += found
                most = max(most, shared_memory() - used)
            seconds = (time.perf_counter() - began) / clips
            rows.append(
                {"what": what, "first views after s": first, "s per clip": seconds, "shared MB": most}
            )
            assert views == 30 * clips
    return print_rows(f"10 x 3 views of 33 frames of 256 x 256, {workers} loader processes", rows)


def shared_memory() -> float:
    """MB in use in /dev/shm, of all processes of the machine."""
    found = os.statvfs("/dev/shm")
    return (found.f_blocks - found.f_bfree) * found.f_frsize / 1e6
