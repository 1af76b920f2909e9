"""make bench: the layer, the first layer after it, a training step, start-up, the loader, reading clips, and what Table
1 costs, each beside the plain way in one run.

    python -m benchmarks [layer|stem|step|start|loader|clips|costs] [--batch 8 --frames 8 --size 224]
    python -m benchmarks step costs --backbone c2d i3d slowfast x3d timesformer
    python -m benchmarks step --backbone x3d backbone.size=s        KEY=VALUE: train.py's, for step

Every row is warmed up, then the rows take turns; medians are printed, and ratios are to the first row. It needs the
project and torch, 2.11 or newer; Hugging Face's TimeSformer stands beside ours where transformers is installed. Results
go to outputs/bench.json as well, where the parts that were not run stay as they were.
"""

import json
from pathlib import Path
from typing import Any

from vmp.cli import friendly, parser_of

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("layer", "stem", "step", "start", "loader", "clips", "costs")


def composed(overrides: list[str]) -> tuple[Any, Any]:
    """Overrides of train.py -> the checked config and its backbone's spec."""
    from vmp.build import backbone_spec
    from vmp.config import check
    from vmp.paper.planning import composer

    config = check(composer(ROOT / "conf")(overrides))
    return config, backbone_spec(config)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument(
        "what", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (all without), KEY=VALUE"
    )
    parser.add_argument("--batch", type=int, default=8, help="of layer, and of step on a GPU (on a CPU 2)")
    parser.add_argument("--frames", type=int, default=8, help="prompts, of layer")
    parser.add_argument("--size", type=int, default=224, help="pixels, of layer")
    parser.add_argument("--repeats", type=int, default=9, help="turns; of step on a CPU 3")
    parser.add_argument("--steps", type=int, help="over how many losses are compared; 50, on a CPU 10")
    parser.add_argument("--backbone", nargs="+", help="of step; a GPU: all five, a CPU: c2d")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "bench.json")
    options = parser.parse_intermixed_args()
    backbones = options.backbone or []  # argparse gives it what follows
    overrides = [word for word in (*options.what, *backbones) if "=" in word]
    parts = [word for word in options.what if "=" not in word]
    if unknown := set(parts) - set(PARTS):
        parser.error(f"{', '.join(sorted(unknown))}: must be {', '.join(PARTS)}, or KEY=VALUE")
    wanted = parts or PARTS

    import torch

    from benchmarks.costs import bench_costs
    from benchmarks.feed import bench_clips, bench_loader
    from benchmarks.layer import bench_layer
    from benchmarks.start import bench_start
    from benchmarks.stem import bench_stem
    from benchmarks.step import bench_step

    cuda = torch.cuda.is_available()
    try:
        results = json.loads(options.out.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        results = {}

    def keep() -> None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    if "layer" in wanted:
        shapes = [(options.frames, options.size)] + ([(32, options.size)] if cuda else [])
        results["layer"] = {
            f"{frames} x {size}": bench_layer(
                batch=options.batch, frames=frames, size=size, repeats=options.repeats
            )
            for frames, size in shapes
        }
        keep()
    if "stem" in wanted:
        results["stem"] = bench_stem(batch=options.batch if cuda else 2, repeats=options.repeats)
        keep()
    if "step" in wanted:
        results.setdefault("step", {})
        default = ["c2d", "i3d", "slowfast", "x3d", "timesformer"] if cuda else ["c2d"]
        for backbone in [word for word in backbones if "=" not in word] or default:
            steps = bench_step(
                backbone,
                composed,
                overrides=overrides,
                batch=options.batch if cuda else 2,
                repeats=options.repeats if cuda else 3,
                steps=options.steps or (50 if cuda else 10),
            )
            results["step"][steps.backbone] = steps._asdict()
            keep()
    if "start" in wanted:
        results["start"] = bench_start(ROOT)
    if "loader" in wanted:
        results["loader"] = bench_loader(composed, ROOT)
    if "clips" in wanted:
        results["clips"] = bench_clips(ROOT)
    if "costs" in wanted:
        results["costs"] = bench_costs(ROOT, results.get("step", {}))
    keep()
    print(f"-> {options.out}")


if __name__ == "__main__":
    with friendly():
        main()
