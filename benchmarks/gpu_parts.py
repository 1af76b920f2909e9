"""The parts of make gpu. Each takes the folder for its files and whether it runs at toy size, and saves rows.

Notes:
- parts measure with the other benchmarks (layer, step, feed) and with real runs of train.py;
- what must hold on every GPU (tests, equal bits, one wait per update) fails its part; what is only measured does not.
"""

import hashlib
import json
import linecache
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from vmp.cli import friendly
from vmp.errors import RunError
from vmp.files import write_json

Row = dict[str, Any]
Save = Callable[[list[Row]], None]

BACKBONES = ("timesformer", "slowfast", "x3d", "c2d", "i3d")
TOY = {  # small networks
    "timesformer": (
        "backbone.crop=32",
        *(f"backbone.{k}" for k in ("patch=8", "dim=32", "depth=2", "heads=2")),
    ),
    "slowfast": ("backbone.crop=32", "backbone.blocks=1", "backbone.width=16", "backbone.frames=8"),
    "x3d": ("backbone.size=xs", "backbone.crop=32", "backbone.blocks=1", "backbone.width=8"),
    "c2d": ("backbone.crop=32", "backbone.blocks=1", "backbone.width=8"),
    "i3d": ("backbone.crop=32", "backbone.blocks=1", "backbone.width=8"),
}
FEW = ("dataset=motions", "dataset.train=80", "dataset.val=10", "dataset.test=10")  # clips of 40 x 40
SHORT = ("trainer.views=1x1", "trainer.batch_size=8", "trainer.micro_batch=8", "trainer.epochs=1")


def tests(folder: Path, toy: bool, save: Save) -> None:
    """The tests that need a GPU; at toy size a few of them, in Triton's interpreter."""
    chosen = ["tests/test_fused.py", "-k", "sizes"] if toy else ["-m", "gpu"]
    report = folder / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    code = subprocess.run([*command, *chosen], cwd=ROOT).returncode
    counts = dict(re.findall(r'(tests|failures|errors|skipped)="(\d+)"', report.read_text(encoding="utf-8")))
    save([{"what": " ".join(chosen), **{name: int(count) for name, count in counts.items()}}])
    if code:
        raise RunError(f"pytest ended with exit code {code}: {folder / 'tests.log'}")


def layer(folder: Path, toy: bool, save: Save) -> None:
    """The prompt layer beside a copy of the same bytes, and beside its formulas compiled."""
    from benchmarks.layer import bench_layer

    rows: list[Row] = []
    shapes = [(1, 2, 16)] if toy else [(8, 8, 224), (64, 8, 224), (8, 32, 224)]
    for batch, frames, size in shapes:
        shape = f"({batch}, 3, {frames + 1}, {size}, {size})"
        found = bench_layer(batch=batch, frames=frames, size=size, rounds=1 if toy else 9, everywhere=True)
        rows += [{"clips": shape, **row} for row in found]
        save(rows)


def step(backbone: str, *, compiled: bool) -> Callable[[Path, bool, Save], None]:
    """A training step with every switch, beside other implementations: eager, or those with torch.compile."""

    def run(folder: Path, toy: bool, save: Save) -> None:
        from benchmarks.step import OURS, bench_step, list_variants

        variants = {
            name: variant
            for name, variant in list_variants(backbone, everywhere=True).items()
            if name in (OURS, "ours, bf16") or ("trainer.compile=true" in variant.switches) == compiled
        }
        if compiled:  # each takes a minute to compile: those in bf16, which are the fastest
            variants = {name: v for name, v in variants.items() if name == OURS or "bf16" in name}
        found = bench_step(
            backbone,
            batch=2 if toy else 8,
            rounds=1 if toy else 5,
            steps=1 if toy else 10,
            overrides=TOY[backbone] if toy else (),
            variants=variants,
        )
        save(found.rows)

    return run


def waits(folder: Path, toy: bool, save: Save) -> None:
    """How often the loop waits for the device in an update, by line: torch's sync debug mode warns of every wait. At
    toy size it is where values are read from a tensor."""
    import torch
    from omegaconf import OmegaConf
    from torch.utils._python_dispatch import TorchDispatchMode

    from vmp.compose import composer
    from vmp.engine import loop
    from vmp.train import train

    at: dict[str, list[int]] = {}  # line -> steps

    def note(*_: Any, **__: Any) -> None:
        frame = sys._getframe()
        while frame and not isinstance(frame.f_locals.get("self"), loop.TrainingLoop):
            frame = frame.f_back  # type: ignore[assignment]
        if frame:
            line = linecache.getline(loop.__file__, frame.f_lineno).strip()
            at.setdefault(line, []).append(frame.f_locals["self"].state.step)

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten._local_scalar_dense.default:
                note()
            return func(*args, **(kwargs or {}))

    cuda, updates = torch.cuda.is_available(), 10
    overrides = [*FEW, *SHORT, f"data.root={folder / 'data'}", f"output={folder / 'waits'}"]
    overrides += ["trainer.log_every=1000", "trainer.workers=0"]
    overrides += ["backbone.weights=none", "optim=sgd_cosine_tiny", f"tag=t{time.time_ns()}"]  # a new run
    with ExitStack() as stack:
        if cuda:
            warnings.simplefilter("always")
            warnings.showwarning = note
            torch.cuda.set_sync_debug_mode("warn")
            stack.callback(torch.cuda.set_sync_debug_mode, "default")
        else:
            stack.enter_context(Reads())
        train(OmegaConf.create(composer(ROOT / "conf")(overrides)))
    rows: list[Row] = [
        {"what": line, "waits": len(steps), "updates": len(set(steps)), "of": updates}
        for line, steps in at.items()
    ]
    save(rows)
    every = [row for row in rows if row["updates"] >= updates / 2]
    if len(every) != 1 or every[0]["waits"] != updates:
        raise RunError(f"an update does not wait once: {json.dumps(every)}")


def deterministic(folder: Path, toy: bool, save: Save) -> None:
    """Three updates of each backbone twice, and a run twice: the same bits, under trainer.deterministic."""
    import torch

    from benchmarks.measure import compose, device_type
    from benchmarks.step import CLASSES, Variant, make_update
    from vmp.build import build_model
    from vmp.engine import precision

    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    device = torch.device(device_type())

    def digest(backbone: str) -> str:
        small = TOY[backbone] if toy else ("backbone.crop=112",)
        words = [f"backbone={backbone}", "backbone.weights=none", "vmp.lambda=1", *small]
        own = compose(words).backbone
        chosen = precision.choose_for(device, deterministic=True, backbone=own.name, crop=own.spec.crop)
        switches = [f"trainer.{key}={str(getattr(chosen, key)).lower()}" for key in precision.KEYS]
        config = compose([*words, *switches])
        model = build_model(config, CLASSES)
        update = make_update(config, Variant(), 2, [], model=model)
        torch.manual_seed(0)
        for _ in range(3):
            update()
        found = hashlib.sha256()
        for value in model.state_dict().values():
            found.update(value.cpu().numpy().tobytes())
        return found.hexdigest()

    rows: list[Row] = []
    for backbone in BACKBONES:
        try:
            equal = digest(backbone) == digest(backbone)
            rows.append({"what": f"{backbone}, three updates twice", "equal bits": equal})
        except RuntimeError as error:  # an operation without a deterministic kernel
            rows.append({"what": backbone, "equal bits": False, "problem": str(error).partition("\n")[0]})
        save(rows)
    runs = [
        run_training(folder, "deterministic", *FEW, *SHORT, "trainer.deterministic=true", tag=tag)
        for tag in ("a", "b")
    ]
    names = ("metrics.jsonl", "predictions.csv")
    equal = all((runs[0] / name).read_bytes() == (runs[1] / name).read_bytes() for name in names)
    rows.append({"what": "train.py twice: metrics and predictions", "equal bits": equal})
    save(rows)
    if unequal := [row["what"] for row in rows if not row["equal bits"]]:
        raise RunError(f"other bits the second time: {', '.join(unequal)}")


def checkpoint(folder: Path, toy: bool, save: Save) -> None:
    """How long a save holds training up."""
    from benchmarks.save import bench_save

    save(bench_save(rounds=1 if toy else 5, overrides=TOY["timesformer"] if toy else ()))


def loader(folder: Path, toy: bool, save: Save) -> None:
    """Clips per second by reader, torchcodec on CPU and GPU included, and the share of time waiting for them."""
    from benchmarks.feed import bench_loader

    readers = ("opencv", "pyav", "pyav_seek", "decord", "torchcodec", "torchcodec_cuda")
    small = ("dataset.train=40", "dataset.val=10", "dataset.test=10")
    few = {"reads": 8, "batches": 1} if toy else {}
    overrides = (f"data.root={folder / 'data'}", *(small if toy else ()))
    save(bench_loader(readers=readers, overrides=overrides, **few))


def demo(folder: Path, toy: bool, save: Save) -> None:
    """make demo on the GPU: seconds and accuracies of its runs."""
    overrides = [f"output={folder / 'demo'}", f"data.root={folder / 'data'}", "seeds=1", "launch=single"]
    if toy:
        overrides += [*FEW[1:], *SHORT, "backbone.weights=none"]
    else:
        overrides += ["trainer.device=cuda"]
    subprocess.run([sys.executable, "scripts/demo.py", *overrides], cwd=ROOT, check=True)
    rows = []
    for path in sorted((folder / "demo").rglob("result.json")):
        result = json.loads(path.read_text())
        where = str(path.parent.relative_to(folder / "demo"))
        rows.append({"what": where, **{key: result[key] for key in ("top1", "seconds", "clips_per_second")}})
    save(rows)


def finetune(folder: Path, toy: bool, save: Save) -> None:
    """The original I3D from Kinetics-400 on real clips: 32 frames of 224."""
    data = ROOT / "data"
    there = next(
        (n for n in ("handwash12", "ut_interaction", "skateboard", "surv_fight") if (data / n).is_dir()), ""
    )
    if not toy and not there:
        write_json(folder / "finetune.json", {"rows": [], "skipped": "no real clips in data/ (docs/data.md)"})
        return
    if toy:
        overrides = [*FEW, *SHORT, "backbone.weights=none", "backbone.width=4"]
        overrides += ["backbone.frames=16", "backbone.crop=64"]
    else:
        overrides = [f"dataset={there}", "backbone.frames=32", "train.batch_norm=frozen", "trainer.epochs=2"]
        overrides += ["trainer.views=1x1", f"data.root={data}"]
    found = run_training(
        folder, "finetune", "backbone=i3d_inception", "backbone.stride=2", *overrides, tag="gpu"
    )
    result = json.loads((found / "result.json").read_text())
    keys = ("top1", "seconds", "clips_per_second", "share_waiting_for_data", "peak_memory_gb")
    save([{"what": there or "motions", **{key: result[key] for key in keys}}])


def run_training(folder: Path, name: str, *overrides: str, tag: str) -> Path:
    """Train a new run by the command below folder/name; returns its folder."""
    output = folder / name / f"{tag}-{time.time_ns()}"  # a folder of its own: nothing is continued
    own = () if any(o.startswith("data.root=") for o in overrides) else (f"data.root={folder / 'data'}",)
    command = [sys.executable, "train.py", *overrides, *own, f"output={output}"]
    subprocess.run(command, cwd=ROOT, check=True)
    return next(output.rglob("result.json")).parent


PARTS: dict[str, tuple[Callable[[Path, bool, Save], None], float]] = {  # what to call, seconds; in this order
    "tests": (tests, 100),
    "layer": (layer, 80),
    **{f"step_{backbone}": (step(backbone, compiled=False), 120) for backbone in BACKBONES},
    "waits": (waits, 40),
    "deterministic": (deterministic, 75),
    "checkpoint": (checkpoint, 60),
    "loader": (loader, 60),
    "demo": (demo, 120),
    "finetune": (finetune, 120),
    **{f"compiled_{backbone}": (step(backbone, compiled=True), 150) for backbone in BACKBONES},
}


def main(name: str, folder: Path, toy: bool) -> None:
    measure, _ = PARTS[name]
    measure(folder, toy, lambda rows: write_json(folder / f"{name}.json", {"rows": rows}))


if __name__ == "__main__":
    with friendly():
        main(sys.argv[1], Path(sys.argv[2]), "toy" in sys.argv[3:])
