"""Draw the paper's figures from runs and clips, as PNG and SVG.

examples:
  vmp figure 3 17                                   figures that need no run
  vmp figure 1 5 --video my.mp4 --start 40 run=outputs/.../seed0
  vmp figure 5 18 --outputs outputs/real            the layer of a run on real clips, on its own clips
  vmp figure 6 runs=outputs/.../learned_lambda0/seed0,outputs/.../learned_lambda2.5/seed0
  vmp figure all                                    all figures that the runs below outputs/ allow
"""

import argparse
import sys
from pathlib import Path

from vmp.cli import parser_of
from vmp.errors import UserError
from vmp.figures.numbered import FIGURES, draw
from vmp.figures.selection import SHIFT, SLOPE, FigureOptions, MissingRuns, named_runs
from vmp.runs.folder import check_writable
from vmp.targets import take_trust

OUTPUTS = Path("outputs")


def main() -> int:
    from vmp.figures.canvas import save
    from vmp.paper.tables import results_of

    options = vars(_parser().parse_intermixed_args())
    numbers, runs, every = read(options.pop("what"))
    stride = 1 if options["stride"] is None else options["stride"]
    if min(options["start"], stride - 1, options["frames"] - 1, options["clips"]) < 0:
        raise UserError("--start and --clips must be at least 0, --stride and --frames at least 1")
    if options["outputs"] != OUTPUTS and not options["outputs"].is_dir():
        print(f"note: --outputs {options['outputs']}: no such folder, so no run is drawn", file=sys.stderr)
    out = options.pop("out") or results_of(options["outputs"]) / "figures"
    check_writable(out, "choose another with --out")
    options["videos"] = options.pop("video")
    options["classes"] = tuple(name for name in options["classes"].split(",") if name)
    options["runs"], options["found"] = named_runs(runs)
    wanted = FigureOptions(**options)
    seen: dict[bytes, int] = {}
    lacking = failed = False
    for number in numbers:
        try:
            drawn = draw(number, wanted)
        except MissingRuns as error:
            if not every:
                raise
            why, _, _ = str(error).removeprefix(f"figure {number} ").partition(". ")
            print(f"figure {number} is left out: it {why}")
            lacking = True
            continue
        except UserError as error:
            if not every:
                raise
            print(f"error: figure {number} is left out: {error}", file=sys.stderr)
            failed = True
            continue
        paths = save(drawn, out / f"figure{number}")
        same = seen.setdefault(paths[0].read_bytes(), number)
        if every and same != number:
            why = f"without runs of the paper's dataset and backbone it is figure {same}"
            print(f"figure {number} is left out: {why}")
            for path in paths:
                path.unlink()
            continue
        print(*paths)
    if lacking:
        print("Ask for a single figure, by its number, to see the commands that make its runs.")
    return 2 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = parser_of(__doc__)
    what = "numbers of figures, or all; optionally run=FOLDER or runs=FOLDER,FOLDER: runs, or folders that contain runs"
    parser.add_argument("what", nargs="+", help=what)
    parser.add_argument(
        "--video", type=Path, action="append", default=[], help="a video to draw; may be repeated"
    )
    parser.add_argument("--start", type=int, default=0, help="number of the first frame, from 0")
    stride = "step from one frame to the next (default: 2; for clips of a run, the run's stride)"
    parser.add_argument("--stride", type=int, help=stride)
    parser.add_argument("--frames", type=int, default=6, help="number of prompts in a row (default: 6)")
    parser.add_argument("--slope", type=float, help=f"slope, if no run is drawn (default: {SLOPE:g})")
    parser.add_argument("--shift", type=float, help=f"shift, if no run is drawn (default: {SHIFT:g})")
    classes = (
        "a,b,c: the classes that figures 10 and 11 show, and from which other figures take a run's clips"
    )
    parser.add_argument("--classes", default="", help=classes)
    parser.add_argument(
        "--clips", type=int, default=8, help="number of test clips for figures 7-9 (default: 8)"
    )
    parser.add_argument("--outputs", type=Path, default=OUTPUTS, help="folder with runs (default: outputs)")
    parser.add_argument(
        "--out", type=Path, help="folder of the figures (default: results/figures in --outputs)"
    )
    return parser


def read(what: list[str]) -> tuple[list[int], list[str], bool]:
    """Numbers of figures, folders of runs, and whether all figures are wanted."""
    numbers: list[int] = []
    runs: list[str] = []
    for word in take_trust(what):
        key, equals, value = word.partition("=")
        if equals and key in ("run", "runs"):
            runs += [name for name in (value.split(",") if key == "runs" else [value]) if name]
        elif word == "all":
            numbers += list(FIGURES)
        elif word.isdigit():
            numbers.append(int(word))
        else:
            raise UserError(f"{word}: must be the number of a figure, all, run=FOLDER or runs=FOLDER,FOLDER")
    if not numbers:
        raise UserError(f"which figure? One or more of {', '.join(map(str, FIGURES))}, or all")
    return list(dict.fromkeys(numbers)), runs, "all" in what
