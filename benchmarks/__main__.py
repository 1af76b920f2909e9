"""make bench: the layer, the first convolution after it, a training step, a checkpoint, start-up, the loader, reading
clips, and what Table 1 costs, each beside a plain implementation; layers beyond the paper beside its own.

    python -m benchmarks [layer|stem|step|extensions|save|start|loader|clips|views|costs] [--batch 8 --size 224]
    python -m benchmarks step costs --backbone c2d i3d slowfast x3d timesformer
    python -m benchmarks step --backbone x3d backbone.size=s        KEY=VALUE: overrides for step, as for train.py
    python -m benchmarks step --variants "ours, compile"            only these rows of step, beside ours in float32

The rows of a table are warmed up and then timed in rounds, one after another; medians are printed, and ratios are to
the first row. This needs the project and torch 2.11 or newer; if transformers is installed, Hugging Face's TimeSformer
is timed as well. Results also go to outputs/bench.json, where parts that were not run keep their earlier results.
"""

import json
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from vmp.cli import friendly, parser_of
from vmp.files import write_json

PARTS = ("layer", "stem", "step", "extensions", "save", "start", "loader", "clips", "views", "costs")


def main() -> None:
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("what", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all), KEY=VALUE")
    add("--batch", type=int, default=8, help="clips of layer, and of stem and step on a GPU (on a CPU 2)")
    add("--frames", type=int, default=8, help="prompts per clip, of layer")
    add("--size", type=int, default=224, help="pixels per side, of layer")
    add("--repeats", type=int, default=9, help="rounds; on a CPU of step 3, of extensions 5")
    add("--steps", type=int, help="updates over which losses are compared; default 50, on a CPU 10")
    add("--backbone", nargs="+", help="of step; default on a GPU: all five, on a CPU: c2d")
    add("--variants", nargs="+", metavar="ROW", help="of step; default: all that suit the device")
    add("--out", type=Path, default=ROOT / "outputs" / "bench.json")
    options = parser.parse_intermixed_args()
    # argparse takes what follows --backbone or --variants for their values
    words = [*options.what, *(options.backbone or []), *(options.variants or [])]
    overrides = [word for word in words if "=" in word]
    backbones = [word for word in options.backbone or [] if "=" not in word]
    wanted = [word for word in options.variants or [] if "=" not in word]
    parts = [word for word in options.what if "=" not in word]
    if unknown := set(parts) - set(PARTS):
        parser.error(f"{', '.join(sorted(unknown))}: must be {', '.join(PARTS)}, or KEY=VALUE")

    import torch

    from benchmarks.costs import bench_costs
    from benchmarks.extensions import bench_extensions
    from benchmarks.feed import bench_clips, bench_loader, bench_views
    from benchmarks.layer import bench_layer
    from benchmarks.save import bench_save
    from benchmarks.start import bench_start
    from benchmarks.stem import bench_stem
    from benchmarks.step import bench_step, choose_variants

    gpu = torch.cuda.is_available()
    try:
        results = json.loads(options.out.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        results = {}

    def run_step() -> dict[str, Any]:
        found = results.get("step", {})
        default = ["c2d", "i3d", "slowfast", "x3d", "timesformer"] if gpu else ["c2d"]
        for backbone in backbones or default:
            result = bench_step(
                backbone,
                overrides=overrides,
                batch=options.batch if gpu else 2,
                rounds=options.repeats if gpu else 3,
                steps=options.steps or (50 if gpu else 10),
                variants=choose_variants(backbone, wanted),
            )
            found[result.backbone] = result._asdict()
            write_json(options.out, results | {"step": found})  # a long part: keep each backbone
        return found

    benchmarks = {
        "layer": lambda: {
            f"{frames} x {options.size}": bench_layer(
                batch=options.batch, frames=frames, size=options.size, rounds=options.repeats
            )
            for frames in (options.frames, *([32] if gpu else []))
        },
        "stem": lambda: bench_stem(batch=options.batch if gpu else 2, rounds=options.repeats),
        "step": run_step,
        "extensions": lambda: bench_extensions(
            batch=options.batch if gpu else 2,
            rounds=options.repeats if gpu else 5,
            crop=224 if gpu else 112,
        ),
        "save": lambda: bench_save(rounds=3),
        "start": lambda: bench_start(),
        "loader": lambda: bench_loader(),
        "clips": lambda: bench_clips(),
        "views": bench_views,
        "costs": lambda: bench_costs(results.get("step", {})),
    }
    for part, bench in benchmarks.items():
        if not parts or part in parts:
            results[part] = bench()
            write_json(options.out, results)
    print(f"-> {options.out}")


if __name__ == "__main__":
    with friendly():
        main()
