"""Train from a grid of initial slopes and shifts, and map the gain in accuracy.

examples:
  python scripts/starts.py                                  in miniature: both cameras, 5 x 5 starts, 2 seeds
  python scripts/starts.py --slopes 10 25 --shifts -0.5 0.5 --seeds 5 --model x3d
  python scripts/starts.py --profile paper --datasets mpii_cooking2 trainer.epochs=10

Finished runs are not repeated. KEY=VALUE overrides train.py's config for every run.
"""

import os
import sys
from pathlib import Path

from vmp.cli import absolute, friendly, parser_of
from vmp.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("overrides", nargs="*", metavar="KEY=VALUE", help="overrides for every run, as for train.py")
    add("--profile", default="mini", help="a file in conf/table/profile/ (default: mini)")
    datasets = "datasets of the profile (default: mpii_cooking2 finegym)"
    add("--datasets", nargs="+", default=["mpii_cooking2", "finegym"], help=datasets)
    add("--model", default="i3d", help="a model of the profile (default: i3d)")
    add("--slopes", nargs="+", type=float, default=[9.2, 11, 15, 25, 40], help="initial slopes, above 9.09")
    add(
        "--shifts",
        nargs="+",
        type=float,
        default=[-0.55, -0.3, 0, 0.3, 0.55],
        help="initial shifts, between -0.6 and 0.6",
    )
    add("--seeds", type=int, default=2, help="runs of each start (default: 2)")
    add("--lambda", type=float, default=0.0, dest="weight", help="λ, the weight of V (default: 0)")
    add("--launch", default="", help="as for make table1")
    add("--out", type=absolute, help="the map's path without suffix; default: results/starts beside the runs")
    options = parser.parse_intermixed_args()

    from vmp.paper.arguments import in_full
    from vmp.paper.starts import run_grid, write_points
    from vmp.paper.tables import load_profile, results_of

    if options.seeds < 1 or options.weight < 0:
        raise ConfigError("--seeds must be at least 1, --lambda at least 0")
    if wrong := [word for word in options.overrides if "=" not in word]:
        raise ConfigError(f"{wrong[0]!r}: must be KEY=VALUE, as for train.py")
    given = [in_full(word, ROOT) for word in options.overrides if word.startswith("output=")]
    os.chdir(ROOT)
    profile = load_profile(options.profile)
    output = given[-1].partition("=")[2] if given else profile.output
    points, failed = run_grid(
        profile.model_copy(update={"output": output}),
        datasets=options.datasets,
        model=options.model,
        slopes=options.slopes,
        shifts=options.shifts,
        seeds=options.seeds,
        weight=options.weight,
        overrides=[word for word in options.overrides if not word.startswith("output=")],
        launch=options.launch,
    )
    if points:
        for path in write_points(points, options.out or results_of(output) / "starts"):
            print(f"-> {path}")
    sys.exit(1 if failed or not points else 0)


if __name__ == "__main__":
    with friendly():
        main()
