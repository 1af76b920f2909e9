"""make bench: the layer, a training step, the loader and reading clips, side by side with the plain ways in one run.

    python scripts/benchmark.py [layer|step|loader|clips] [--batch 8 --frames 8 --size 224] [--repeats 9]
    python scripts/benchmark.py step --backbone timesformer

Every row is warmed up, then the rows take turns; medians are printed, and ratios are to the first row. The layer's
first row is Eq. 1-6 written as one would read them off the page. Results go to outputs/bench.json as well, where the
parts that were not run stay as they were.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from vmp import MotionPrompt
from vmp.cli import parser_of

ROOT = Path(__file__).resolve().parent.parent


def by_the_page(clip: Tensor, m: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 1-6, a line a formula: grey by a weighted sum, exp, repeat to three channels, separate passes."""
    pixels = clip * 0.225 + 0.45  # (B, 3, T+1, H, W)
    weights = torch.tensor([0.299, 0.587, 0.114], device=clip.device).view(1, 3, 1, 1, 1)
    grey = (pixels * weights).sum(dim=1)  # (B, T+1, H, W)
    d = grey[:, 1:] - grey[:, :-1]
    slope = 5.0 / (0.45 * torch.abs(torch.tanh(m)) + 0.1)  # Eq. 2
    shift = 0.6 * torch.tanh(n)
    a = 1 / (1 + torch.exp(-slope * (d - shift)))  # Eq. 1
    prompts = a.unsqueeze(1).repeat(1, 3, 1, 1, 1) * clip[:, :, 1:]  # Eq. 4
    pairs = (a[:, 1:] - a[:, :-1]) ** 2  # Eq. 6, averaged over pixels
    variation = pairs.sum(dim=(1, 2, 3)).mean() / (pairs.shape[1] * pairs.shape[2] * pairs.shape[3])
    return prompts, variation


def bench_layer(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Forward and backward to m and n, time and memory."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    b, t, s = options.batch, options.frames, options.size
    layer = MotionPrompt(m=0.7, n=-0.3).to(device)
    compiled = torch.compile(layer, dynamic=False, fullgraph=True)
    torch.manual_seed(0)
    clip = torch.randn(b, 3, t + 1, s, s, device=device)
    raw = torch.randint(0, 256, clip.shape, dtype=torch.uint8, device=device)
    gradient = torch.randn(b, 3, t, s, s, device=device)
    into, out = torch.empty_like(clip), torch.empty_like(gradient)

    def copy() -> None:  # the floor: every byte read and written once, forward and backward
        into.copy_(clip), out.copy_(gradient), into.copy_(clip), out.copy_(gradient)

    def step(f: Callable[[], tuple[Tensor, Tensor]]) -> Callable[[], None]:
        def run() -> None:
            layer.zero_grad()
            prompts, variation = f()
            torch.autograd.backward([prompts, variation], [gradient, torch.ones_like(variation)])

        return run

    calls: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
        "by the page": lambda: by_the_page(clip, layer.m, layer.n),
        "layer, eager": lambda: layer(clip),
        "layer, compiled": lambda: compiled(clip),
        "layer, eager, from uint8": lambda: layer(raw),
    }
    ways = {name: step(call) for name, call in calls.items()} | {"copy": copy}
    times = take_turns(ways, options.repeats, device)
    rows = []
    for name, seconds in times.items():
        row: dict[str, Any] = {"what": name, "ms": 1e3 * seconds, "faster": times["by the page"] / seconds}
        if name != "copy":
            row["peak_mb"] = peak_memory(name, options, device)
            row["kept_mb"] = kept_for_backward(calls[name], [clip, raw])
        rows.append(row)
    show(f"prompt layer, forward + backward, ({b}, 3, {t + 1}, {s}, {s}) on {where(device)}", rows)
    return rows


def kept_for_backward(f: Callable[[], Any], given: list[Tensor]) -> float:
    """MB saved between forward and backward, the clip itself not counted."""
    kept: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        f()
    for x in given:
        kept.pop(x.untyped_storage().data_ptr(), None)
    return sum(kept.values()) / 1e6


def peak_memory(name: str, options: argparse.Namespace, device: str) -> float:
    """MB above the inputs and the result, in a process of its own."""
    arguments = ["--peak", name, "--batch", options.batch, "--frames", options.frames, "--size", options.size]
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def print_peak(options: argparse.Namespace) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    b, t, s = options.batch, options.frames, options.size
    layer = MotionPrompt(m=0.7, n=-0.3).to(device)

    def run(size: int, batch: int, call: Any) -> None:
        shape = (batch, 3, t + 1, size, size)
        if "uint8" in options.peak:
            clip = torch.zeros(shape, dtype=torch.uint8, device=device)
        else:
            clip = torch.zeros(shape, device=device)
        gradient = torch.zeros(batch, 3, t, size, size, device=device)
        clip.add_(1), gradient.add_(1)  # touch the pages
        before = peak(reset=True)
        prompts, variation = call(clip)
        torch.autograd.backward([prompts, variation], [gradient, torch.ones_like(variation)])
        if size == s and batch == b:
            print((peak() - before) / 1e6 - prompts.numel() * 4 / 1e6)

    def peak(reset: bool = False) -> float:
        if device == "cuda":
            if reset:
                torch.cuda.reset_peak_memory_stats()
                return torch.cuda.memory_allocated()
            return torch.cuda.max_memory_allocated()
        if reset:
            Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again here
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmRSS:" if reset else "VmHWM:"):
                return 1024.0 * int(line.split()[1])
        return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    if options.peak == "by the page":
        call: Any = lambda clip: by_the_page(clip, layer.m, layer.n)  # noqa: E731
    elif "compiled" in options.peak:
        call = torch.compile(layer, dynamic=False, fullgraph=True)
        run(s, b, lambda clip: call(clip))  # the first call compiles; only the last line counts
    else:
        call = layer
    run(16, 1, layer) if "compiled" not in options.peak else None
    run(s, b, call)


def bench_step(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A training step of a backbone with prompts, a switch of conf/trainer at a time, from clips in memory."""
    from vmp.build import build_model, build_optimizer
    from vmp.objective import Objective

    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    batch = options.batch if cuda else 2
    switches: dict[str, list[str]] = {
        "plain": [],
        "fused": ["trainer.fused=true"],
        "channels_last": ["trainer.channels_last=true"],
        "amp=bf16": ["trainer.amp=bf16"],
        "amp=bf16, channels_last": ["trainer.amp=bf16", "trainer.channels_last=true"],
        "compile": ["trainer.compile=true"],
        "amp=bf16, compile": ["trainer.amp=bf16", "trainer.compile=true"],
    }
    if not cuda:  # without matrix units for it, bf16 takes minutes
        switches = {name: how for name, how in switches.items() if "bf16" not in name}
    if options.backbone.startswith("timesformer"):
        switches = {name: how for name, how in switches.items() if "channels_last" not in name}
    ways: dict[str, Callable[[], None]] = {}
    losses: dict[str, list[float]] = {}

    def way(name: str, how: list[str]) -> Callable[[], None]:
        size = [] if cuda else ["backbone.crop=112"]
        fixed = [f"backbone={options.backbone}", "backbone.weights=none", "vmp.lambda=1"]
        config, spec = composed([*fixed, *size, *how])
        model = build_model(config, 400, spec).to(device).train()
        optimizer, objective = build_optimizer(config, model), Objective(variation_weight=1.0)
        torch.manual_seed(0)
        frames = model.cut.frames if model.cut else spec.frames + 1
        clips = torch.randint(
            0, 256, (batch, 3, frames, spec.crop, spec.crop), dtype=torch.uint8, device=device
        )
        labels = torch.arange(batch, device=device)
        forward: Any = torch.compile(model, dynamic=False) if config.trainer.compile else model

        def step() -> None:
            optimizer.zero_grad()
            with torch.autocast(device, dtype=torch.bfloat16, enabled=config.trainer.amp == "bf16"):
                out = forward(clips)
            loss = objective(out.logits, labels, out.variations)["loss"]
            loss.backward()
            optimizer.step()
            losses.setdefault(name, []).append(float(loss.detach()))

        return step

    for name, how in switches.items():
        ways[name] = way(name, how)
    times = take_turns(ways, options.repeats if cuda else 3, device)
    plain = times["plain"]
    rows = [
        {
            "what": name,
            "ms": 1e3 * s,
            "clips/s": batch / s,
            "faster": plain / s,
            "first loss": losses[name][0],
        }
        for name, s in times.items()
    ]
    pixels = 224 if cuda else 112
    show(
        f"training step of {options.backbone} with prompts, {batch} clips of {pixels}, {where(device)}", rows
    )
    return rows


def composed(overrides: list[str]) -> tuple[Any, Any]:
    """The config of a run of train.py, checked, and its backbone's spec."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from vmp.build import backbone_spec
    from vmp.config import check

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        raw: Any = OmegaConf.to_container(compose("train", overrides), resolve=True)
    config = check(raw)
    return config, backbone_spec(config)


def bench_loader(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Clips a second from the embedded set, and the share of a training step that waits for them."""
    from torch.utils.data import DataLoader

    from vmp.build import build_model, build_optimizer, clip_shape, find_splits
    from vmp.data.dataset import TrainClips, collate_train
    from vmp.data.present import find_clips
    from vmp.data.sampler import TrainBatches
    from vmp.objective import Objective

    config, spec = composed([f"data.root={ROOT / 'data'}"])
    splits = find_splits(config)
    model = build_model(config, len(splits.classes), spec)
    rows: list[dict[str, Any]] = []
    for reader in ("opencv", "pyav", "decord"):
        present = find_clips(splits.train, reader=reader, max_bad_fraction=0)
        data = TrainClips(splits.train, present, clip_shape(config, spec, model), seed=0)
        seconds = []
        for repeat in range(3):
            began = time.perf_counter()
            for index in range(0, 200):
                data[index, repeat]
            seconds.append((time.perf_counter() - began) / 200)
        rows.append({"what": f"one process, {reader}", "clips/s": 1 / statistics.median(seconds)})
    present = find_clips(splits.train, max_bad_fraction=0)
    data = TrainClips(splits.train, present, clip_shape(config, spec, model), seed=0)
    for workers in (0, 1):
        batches = TrainBatches(clips=len(data), batch=32, batches=25, seed=0)
        loader: DataLoader[Any] = DataLoader(
            data,
            batch_sampler=batches,
            collate_fn=collate_train,
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
            persistent_workers=workers > 0,
        )
        model = build_model(config, len(splits.classes), spec).train()
        objective, optimizer = Objective(variation_weight=1.0), build_optimizer(config, model)
        for epoch in range(2):  # the first one warms up
            batches.start_at(epoch, 0)
            waited, began = 0.0, time.perf_counter()
            stream = iter(loader)
            while True:
                asked = time.perf_counter()
                batch = next(stream, None)
                waited += time.perf_counter() - asked
                if batch is None:
                    break
                optimizer.zero_grad()
                out = model(batch.clips)
                objective(out.logits, batch.labels, out.variations)["loss"].backward()
                optimizer.step()
            whole = time.perf_counter() - began
        what = f"training tiny, {workers} worker(s)"
        rows.append({"what": what, "clips/s": 25 * 32 / whole, "waiting %": 100 * waited / whole})
    show(f"loader on the embedded set, 9 frames of 64 x 64, {where('cpu')}", rows)
    return rows


WANTED = 300  # clips a second: what a fast GPU takes from a TimeSformer's loader
FRAMES = 800  # of a source
DISTINCT = 48  # pictures, which go to and fro, so that making a source does not take minutes
SPANS = ((100, 390), (290, 580), (480, 770))  # three actions, each cut into a file of its own


def bench_clips(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Clips a second and core, by CPU time, from a long-GOP original and from the clips cut out of it."""
    import av
    import cv2

    from vmp.data.cut import Cut, cut_all
    from vmp.data.decode import read_frames
    from vmp.data.encode import write_video
    from vmp.data.sampling import offsets, random_start

    av.logging.set_level(av.logging.ERROR)
    cv2.setNumThreads(1)
    folder, rate = ROOT / "data" / "bench" / f"{FRAMES}", Fraction(147, 5)
    folder.mkdir(parents=True, exist_ok=True)
    patterns = {"9x32": offsets(9, 32, rate=29.4 / 30), "33x2": offsets(33, 2, rate=29.4 / 30)}
    rows: list[dict[str, Any]] = []
    for width, height in ((1624, 1224), (320, 240)):
        source = folder / f"{width}x{height}.mp4"
        if not source.exists():
            print(f"writing {source.relative_to(ROOT)}", flush=True)
            write_video(source, to_and_fro(height, width), fps=rate, crf=23, keyframe_every=250, b_frames=3)
        cuts = [
            Cut(source=source, start=a, end=b, target=folder / source.stem / f"{a}-{b}.mp4") for a, b in SPANS
        ]
        began = time.perf_counter()
        found = dict(cut_all(cuts, workers=1, progress=False))
        took = time.perf_counter() - began
        if took > 3:  # else they were there
            frames = sum(m.frames for m in found.values())
            print(f"cut {frames} frames of {width} x {height}, checked, in {took:.1f} s, one process")

        def original(reader: str, source: Path = source) -> Callable[[int, np.ndarray], Any]:
            return lambda k, i: read_frames(source, SPANS[k][0] + i, reader=reader, short_side=256)

        def piece(reader: str, cuts: list[Cut] = cuts) -> Callable[[int, np.ndarray], Any]:
            return lambda k, i: read_frames(cuts[k].target, i, reader=reader, short_side=256)

        def whole_span(k: int, i: np.ndarray, source: Path = source) -> Any:
            return sorted_by_time(source, SPANS[k][0] + i)

        ways: dict[str, Callable[[int, np.ndarray], Any]] = {"original, all, by time": whole_span}
        ways |= {f"original, {r}": original(r) for r in ("decord", "opencv", "pyav_seek")}
        ways |= {f"cut clips, {r}": piece(r) for r in ("decord", "opencv", "pyav", "pyav_seek")}
        part: list[dict[str, Any]] = [{"what": name} for name in ways]
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
        show(f"{title}; {FRAMES} frames of {width} x {height}, {where('cpu')}", part)
        rows += [{"source": f"{width}x{height}"} | row for row in part]
    return rows


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


def take_turns(ways: dict[str, Callable[[], None]], repeats: int, device: str) -> dict[str, float]:
    """Median seconds of each, measured in turns so that a noisy moment hits all."""

    def timed(f: Callable[[], None]) -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        f()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    for f in ways.values():
        f(), f()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, f in ways.items():
            seconds[name].append(timed(f))
    return {name: statistics.median(s) for name, s in seconds.items()}


def where(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpu = platform.processor() or platform.machine()
    return f"{torch.get_num_threads()} CPU threads ({cpu}), torch {torch.__version__}"


def show(title: str, rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in rows:
        cells = [row.get(column, "") for column in columns]
        table.add_row(*(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in cells))
    Console(width=120).print(table)


KINDS = {"layer": bench_layer, "step": bench_step, "loader": bench_loader, "clips": bench_clips}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("what", nargs="*", help="layer, step, loader, clips; all without")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--backbone", default="c2d", help="of step; a file of conf/backbone")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        return print_peak(options)
    unknown = set(options.what) - set(KINDS)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: must be layer, step, loader or clips")
    results = {}
    for name, bench in KINDS.items():
        if not options.what or name in options.what:
            results[name] = bench(options)
    out = ROOT / "outputs" / "bench.json"
    try:
        earlier = json.loads(out.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        earlier = {}
    results = {
        name: results.get(name, earlier.get(name)) for name in KINDS if name in results or name in earlier
    }
    out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(out.relative_to(ROOT))


if __name__ == "__main__":
    main()
