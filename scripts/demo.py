"""make demo: trains the tiny backbone on the embedded videos without and with prompts, and compares the two.

The two runs are ordinary ones: python train.py vmp=none tag=demo and python train.py tag=demo. The same command again
continues them or shows their results. Further arguments are overrides for both (scripts/demo.py dataset.camera=moving).
"""

import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vmp.cli import parser_of
from vmp.config import check
from vmp.figures.curves import draw_curves
from vmp.paper.planning import composer
from vmp.runs.run import Run

ROOT = Path(__file__).resolve().parent.parent
METHODS = {"without prompts": "vmp=none", "motion prompts": "vmp=learned"}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="overrides for both runs, as for train.py"
    )
    overrides = parser.parse_args().overrides
    console = Console()
    began = time.monotonic()
    runs: dict[str, Path] = {}
    for label, method in METHODS.items():
        console.rule(f"{label}: python train.py {method} tag=demo {' '.join(overrides)}".strip())
        command = [sys.executable, str(ROOT / "train.py"), method, "tag=demo", *overrides]
        done = subprocess.run(command, cwd=ROOT)
        if done.returncode:
            sys.exit(done.returncode)
        config = check(composer(ROOT / "conf")([method, "tag=demo", *overrides]))
        runs[label] = ROOT / config.folder

    table = Table(title="top-1, top-5 and mean class accuracy in % on the test split")
    for column in ("", "top-1", "top-5", "mean class", "slope", "shift", "clips", "wall time"):
        table.add_column(column, justify="left" if not column else "right")
    for label, folder in runs.items():
        r = Run(folder).result
        slope, shift = (
            f"{r['scalars'][name]:.2f}" if name in r["scalars"] else "-" for name in ("slope", "shift")
        )
        accuracies = (f"{r[name]:.1f}" for name in ("top1", "top5", "mean_class"))
        table.add_row(
            label, *accuracies, slope, shift, str(r["clips"][r["split"]]["present"]), f"{r['seconds']:.0f} s"
        )
    console.print(table)
    picture = ROOT / "outputs" / "demo.png"
    draw_curves(runs, picture)
    console.print(f"curves: {picture.relative_to(ROOT)}   runs: {', '.join(str(f) for f in runs.values())}")
    console.print(
        f"{time.monotonic() - began:.0f} s in all. One seed says little: try seed=1, dataset.camera=moving."
    )


if __name__ == "__main__":
    main()
