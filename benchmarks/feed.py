"""Clips a second: from the embedded set with the share of a step that waits, and from originals and cut clips."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.step import Compose
from benchmarks.turns import Row, machine, on_device, show, wait
from vmp.engine.ahead import Ahead
from vmp.errors import ConfigError, VideoReadError
from vmp.machine import cpus


def bench_loader(compose: Compose, root: Path) -> list[Row]:
    """Clips a second from the embedded set, and the share of a training step that waits for them."""
    from torch.utils.data import DataLoader

    from vmp.build import build_model, build_optimizer, clip_shape, find_splits
    from vmp.data.dataset import TrainClips, collate_train, loader_processes
    from vmp.data.present import find_clips
    from vmp.data.sampler import TrainBatches
    from vmp.objective import Objective

    config, spec = compose([f"data.root={root / 'data'}"])
    splits = find_splits(config)
    model = build_model(config, len(splits.classes), spec)
    rows: list[Row] = []
    for reader in (
        r for r in ("opencv", "pyav", "decord") if find_spec({"opencv": "cv2", "pyav": "av"}.get(r, r))
    ):
        present = find_clips(splits.train, reader=reader, max_bad_fraction=0)
        data = TrainClips(splits.train, present, clip_shape(config, spec, model), seed=0)
        seconds = []
        for repeat in range(3):
            began = time.perf_counter()
            for index in range(0, 200):
                _, clip, _ = data[index, repeat]
                if isinstance(clip, VideoReadError):
                    raise clip
            seconds.append((time.perf_counter() - began) / 200)
        rows.append({"what": f"one process, {reader}", "clips/s": 1 / statistics.median(seconds)})
    present = find_clips(splits.train, max_bad_fraction=0)
    data = TrainClips(splits.train, present, clip_shape(config, spec, model), seed=0)
    device = on_device()
    for workers in sorted({0, 1, min(8, cpus() - 1)}):
        batches = TrainBatches(clips=len(data), batch=32, batches=25, seed=0)
        loader: DataLoader[Any] = DataLoader(
            data,
            batch_sampler=batches,
            collate_fn=collate_train,
            persistent_workers=workers > 0,
            pin_memory=device == "cuda",
            **loader_processes(data, workers),
        )
        model = build_model(config, len(splits.classes), spec).to(device).train()
        objective, optimizer = Objective(variation_weight=1.0), build_optimizer(config, model)
        for epoch in range(2):  # the first one warms up
            batches.start_at(epoch, 0)
            began = time.perf_counter()
            stream = Ahead(iter(loader), torch.device(device))
            for _ in range(batches.batches):
                batch = stream.take()
                optimizer.zero_grad()
                out = model(batch.clips)
                loss = objective(out.logits, batch.labels, out.variations)["loss"]
                loss.backward()
                stream.fetch()
                if torch.isfinite(loss):  # waits for the device, as the loop does
                    optimizer.step()
            wait()
            whole = time.perf_counter() - began
        what = f"training tiny, {workers} worker(s)"
        rows.append({"what": what, "clips/s": 25 * 32 / whole, "waiting %": 100 * stream.waited / whole})
    show(f"loader on the embedded set, 9 frames of 64 x 64, {machine()}", rows)
    print(advice(rows))
    return rows


def advice(rows: Sequence[Row]) -> str:
    """What to change, from the rows of bench_loader."""
    timed = {row["what"]: row for row in rows if "waiting %" in row}
    best = min(timed, key=lambda what: float(timed[what]["waiting %"]))
    share = float(timed[best]["waiting %"])
    readers = {row["what"]: float(row["clips/s"]) for row in rows if row["what"] not in timed}
    quickest = max(readers, key=lambda what: readers[what])
    said = [f"best: {best}, where {share:.0f} % of the time waits for clips (fastest reader: {quickest})."]
    if share > 10:
        said.append(
            f"More than 10 %: use more trainer.workers (this machine has {cpus()} cores), small exact clips "
            "(scripts/prepare.py ... --cut), or data.keep for sets that fit in memory; a larger trainer.micro_batch "
            "changes nothing here."
        )
    else:
        said.append(
            "The loader keeps up with this model; `make bench BENCH=clips` says how many clips a second it can feed."
        )
    return " ".join(said)


WANTED = 300  # clips a second: what a fast GPU takes from a TimeSformer's loader
FRAMES = 800  # of a source
DISTINCT = 48  # pictures, which go to and fro, so that making a source does not take minutes
SPANS = ((100, 390), (290, 580), (480, 770))  # three actions, each cut into a file of its own


def bench_clips(root: Path) -> list[Row]:
    """Clips a second and core, by CPU time, from a long-GOP original and from the clips cut out of it."""
    import av
    import cv2

    from vmp.data.decode import OPTIONAL, read_frames
    from vmp.data.encode import write_video
    from vmp.data.sampling import offsets, random_start
    from vmp.prepare.cut import CutClip, cut_all

    av.logging.set_level(av.logging.ERROR)
    cv2.setNumThreads(1)
    folder, rate = root / "data" / "bench" / f"{FRAMES}", Fraction(147, 5)
    folder.mkdir(parents=True, exist_ok=True)
    patterns = {"9x32": offsets(9, 32, rate=29.4 / 30), "33x2": offsets(33, 2, rate=29.4 / 30)}
    rows: list[Row] = []
    extra = [name for name in OPTIONAL if _works(name)]
    for width, height in ((1624, 1224), (320, 240)):
        source = folder / f"{width}x{height}.mp4"
        if not source.exists():
            print(f"writing {source.relative_to(root)}", flush=True)
            write_video(source, to_and_fro(height, width), fps=rate, crf=23, keyframe_every=250, b_frames=3)
        cuts = [
            CutClip(source=source, start=a, end=b, target=folder / source.stem / f"{a}-{b}.mp4")
            for a, b in SPANS
        ]
        began = time.perf_counter()
        found = dict(cut_all(cuts, workers=1, progress=False))
        took = time.perf_counter() - began
        if took > 3:  # else they were there
            frames = sum(m.frames for m in found.values())
            print(f"cut {frames} frames of {width} x {height}, checked, in {took:.1f} s, one process")

        def original(reader: str, source: Path = source) -> Callable[[int, np.ndarray], Any]:
            return lambda k, i: read_frames(source, SPANS[k][0] + i, reader=reader, short_side=256)

        def piece(reader: str, cuts: list[CutClip] = cuts) -> Callable[[int, np.ndarray], Any]:
            return lambda k, i: read_frames(cuts[k].target, i, reader=reader, short_side=256)

        def whole_span(k: int, i: np.ndarray, source: Path = source) -> Any:
            return sorted_by_time(source, SPANS[k][0] + i)

        ways: dict[str, Callable[[int, np.ndarray], Any]] = {"original, all, by time": whole_span}
        ways |= {f"original, {r}": original(r) for r in ("decord", "opencv", "pyav_seek")}
        ways |= {f"cut clips, {r}": piece(r) for r in ("decord", "opencv", "pyav", "pyav_seek", *extra)}
        part: list[Row] = [{"what": name} for name in ways]
        for pattern, wanted in patterns.items():
            rng = np.random.default_rng(0)
            starts = [random_start(b - a, wanted, rng=rng) for a, b in SPANS]
            seconds: dict[str, list[float]] = {name: [] for name in ways}
            for repeat in range(len(SPANS) * 4):
                for name, way in ways.items():
                    if repeat >= len(SPANS) and width > 1000 and name.startswith("original"):
                        continue  # seconds each
                    began = time.process_time()
                    way(repeat % len(SPANS), starts[repeat % len(SPANS)] + wanted)
                    seconds[name].append(time.process_time() - began)
            medians = {name: statistics.median(s) for name, s in seconds.items()}
            plain = next(iter(medians.values()))
            for row, median in zip(part, medians.values(), strict=True):
                row[f"{pattern}/s"] = 1 / median
                row[f"{pattern} faster"] = plain / median
                row[f"{pattern} cores"] = round(WANTED * median)
        title = f"clips a second and core, and cores for {WANTED} a second"
        show(f"{title}; {FRAMES} frames of {width} x {height}, {machine()}", part)
        rows += [{"source": f"{width}x{height}"} | row for row in part]
    return rows


def _works(reader: str) -> bool:
    from vmp.data.decode import check_reader

    try:
        check_reader(reader)
    except ConfigError:
        return False
    return True


def to_and_fro(height: int, width: int) -> Iterator[np.ndarray]:
    """FRAMES pictures (H, W, 3). A source is longer than what any way of reading decodes for a clip: that is the span
    and what lies between it and the keyframe before, up to 250 frames."""
    pictures = list(scenery(DISTINCT, height, width))
    pictures += pictures[-2:0:-1]
    for i in range(FRAMES):
        yield pictures[i % len(pictures)]


def scenery(frames: int, height: int, width: int) -> Iterator[np.ndarray]:
    """A textured room seen by a still, slightly noisy camera; three textured things move in it."""
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
    """As PySlowFast, TimeSformer and the paper's code read a clip: all frames of its span, in order of timestamps,
    in RGB at full size and in one array; then those asked for are taken."""
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
