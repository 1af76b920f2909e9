"""Does the start of m and n decide the outcome? Runs from starts over the plane of slope and shift, and their map.

Notable here:
- a run is a cell's of Table 1 at λ = 0 (or another), but for where m and n start; its baseline is the same without
  prompts, on the same clips and from the same weights;
- the map shows the gain in top-1 over that baseline, seed by seed the same clips, and where slope and shift went.
"""

import csv
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vmp.errors import ConfigError
from vmp.figures.canvas import figure, save, style
from vmp.figures.looking import layer_with
from vmp.files import write_text
from vmp.jobs.launch import parse_launch
from vmp.paper.reproduce import run_missing, with_starts
from vmp.paper.tables import Planner, Profile, composer, task_of
from vmp.runs.run import Run


@dataclass(frozen=True)
class Grid:
    """slopes, shifts: a and b that runs start from. datasets, model: of the profile."""

    datasets: tuple[str, ...]
    model: str
    slopes: tuple[float, ...]
    shifts: tuple[float, ...]
    seeds: int
    weight: float  # lambda
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Point:
    """A run that has ended. gain: its top-1 over that of the baseline of the same seed, percentage points."""

    dataset: str
    slope: float
    shift: float
    seed: int
    top1: float
    gain: float
    learned_slope: float
    learned_shift: float
    commit: str = ""
    run: str = ""  # its folder


def sweep(grid: Grid, profile: Profile, root: Path, *, launch: str = "") -> tuple[list[Point], int]:
    """Run what is not finished; (the points that there are, how many runs failed).

    Raises:
        UserError: a start out of the range of a(m) and b(n), a model with pathways, a folder that holds another run,
            data that are missing, or it was asked to stop.
    """
    if grid.model.startswith("slowfast"):
        raise ConfigError(
            f"--model {grid.model}: has a slope and a shift for each pathway, and the map has one of each; "
            f"there are {', '.join(m for m in profile.models if not m.startswith('slowfast'))}"
        )
    starts = {(a, b): layer_with(a, b) for a, b in itertools.product(grid.slopes, grid.shifts)}
    plain, from_start = {}, {}
    planner = Planner(composer(root / "conf"), output=profile.output, extra=grid.overrides)
    for dataset, seed in itertools.product(grid.datasets, range(grid.seeds)):
        task = task_of(profile, dataset, grid.model, ("vmp=none",), None)
        plain[dataset, seed] = planner.run(task, seed)
        for (a, b), layer in starts.items():
            own = (
                f"vmp.lambda={grid.weight:g}",
                f"vmp.m={layer.m.item()!r}",
                f"vmp.n={layer.n.item()!r}",
            )
            task = task_of(profile, dataset, grid.model, own, None)
            task = replace(task, tag="-".join(filter(None, (task.tag, f"a{a:g}_b{b:g}"))))
            from_start[dataset, a, b, seed] = planner.run(task, seed)
    runs = with_starts([*plain.values(), *from_start.values()])
    failed = run_missing(runs, [], parse_launch(launch or profile.launch), Path(runs[0].config.output), root)
    points = []
    for (dataset, a, b, seed), run in from_start.items():
        if run.state == plain[dataset, seed].state == "finished":
            result, baseline = Run(run.folder).result, Run(plain[dataset, seed].folder).result
            top1, scalars = result["top1"], result["scalars"]
            learned = (scalars["slope"], scalars["shift"])
            made = (result.get("commit") or "unknown", str(run.folder))
            points.append(Point(dataset, a, b, seed, top1, top1 - baseline["top1"], *learned, *made))
    return points, failed


def write(points: Sequence[Point], stem: Path) -> list[Path]:
    """`stem`.csv, a row a run, and the map as `stem`.png and .svg."""
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(Point.__dataclass_fields__)
    for p in points:
        numbers = [f"{number:.3f}" for number in (p.top1, p.gain, p.learned_slope, p.learned_shift)]
        rows.writerow([p.dataset, p.slope, p.shift, p.seed, *numbers, p.commit, p.run])
    write_text(stem.with_suffix(".csv"), text.getvalue())
    return [stem.with_suffix(".csv"), *draw(points, stem)]


def draw(points: Sequence[Point], stem: Path) -> list[Path]:
    """The map: a panel a dataset, shift over slope, mean gain and its range over seeds in every field."""
    datasets = list(dict.fromkeys(p.dataset for p in points))
    slopes, shifts = sorted({p.slope for p in points}), sorted({p.shift for p in points})
    most = max(1.0, *(abs(p.gain) for p in points))
    with style():
        drawn = figure(1.2 + 0.95 * len(slopes) * len(datasets), 1.1 + 0.55 * len(shifts))
        axes = drawn.subplots(1, len(datasets), squeeze=False)[0]
        image = None
        for axis, dataset in zip(axes, datasets, strict=True):
            means = np.full((len(shifts), len(slopes)), np.nan)
            for (row, b), (column, a) in itertools.product(enumerate(shifts), enumerate(slopes)):
                mine = [p for p in points if (p.dataset, p.slope, p.shift) == (dataset, a, b)]
                if not mine:
                    continue
                gains = [p.gain for p in mine]
                means[row, column] = np.mean(gains)
                low, high = min(gains), max(gains)
                a_now, b_now = (
                    np.mean([getattr(p, f"learned_{k}") for p in mine]) for k in ("slope", "shift")
                )
                said = f"{np.mean(gains):+.1f}\n[{low:+.0f}, {high:+.0f}]\n→ {a_now:.1f}, {b_now:+.2f}"
                dark = abs(means[row, column]) > 0.6 * most
                axis.text(
                    column,
                    row,
                    said,
                    ha="center",
                    va="center",
                    fontsize=6,
                    color="white" if dark else "black",
                )
            image = axis.imshow(means, cmap="RdBu", vmin=-most, vmax=most, origin="lower", aspect="auto")
            axis.set_xticks(range(len(slopes)), [f"{a:g}" for a in slopes])
            axis.set_yticks(range(len(shifts)), [f"{b:+g}" for b in shifts])
            axis.grid(False)
            axis.set_title(dataset)
            axis.set_xlabel("slope a at the start")
        axes[0].set_ylabel("shift b at the start")
        drawn.colorbar(image, ax=list(axes), label="top-1 over the baseline, points")
    return save(drawn, stem)
