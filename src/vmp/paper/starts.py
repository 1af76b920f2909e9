"""Train from a grid of initial slopes and shifts and map the gain in accuracy: do the initial values matter?

Notes:
- a run is that of a Table 1 cell at λ = 0 (or another λ) except for where m and n start; its baseline is the same run
  without prompts, on the same clips and from the same weights;
- the map shows the gain in top-1 over the baseline of the same seed, and where slope and shift ended.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vmp.errors import ConfigError
from vmp.figures.canvas import figure, save, style
from vmp.figures.layers import layer_with
from vmp.files import write_csv
from vmp.jobs.launch import parse_launch
from vmp.paper.planning import PlannedRun, Planner, add_needed_runs
from vmp.paper.reproduce import run_missing
from vmp.paper.tables import Profile, run_spec
from vmp.runs.run import Run


@dataclass(frozen=True)
class Point:
    """A finished run. gain: its top-1 minus that of the baseline of the same seed, in points; run: its folder."""

    dataset: str
    slope: float
    shift: float
    seed: int
    top1: float
    gain: float
    learned_slope: float
    learned_shift: float
    commit: str
    run: str


def run_grid(
    profile: Profile,
    *,
    datasets: Sequence[str],
    model: str,
    slopes: Sequence[float],
    shifts: Sequence[float],
    seeds: int,
    weight: float = 0.0,
    overrides: Sequence[str] = (),
    launch: str = "",
) -> tuple[list[Point], int]:
    """Run what is not finished; the points of the finished runs, and how many runs are still not finished.

    Args:
        datasets, model: names in the profile.
        slopes, shifts: the values of a and b that runs start from.
        weight: lambda.

    Raises:
        UserError: a start lies outside the range of a(m) and b(n), the model has pathways, or as of `run_missing`.
    """
    if model.startswith("slowfast"):
        single = ", ".join(name for name in profile.models if not name.startswith("slowfast"))
        raise ConfigError(
            f"--model {model}: has a slope and a shift for each pathway, but the map needs one of each; "
            f"there are {single}"
        )
    planner = Planner(output=profile.output, extra=overrides)
    layers = {(a, b): layer_with(a, b) for a, b in itertools.product(slopes, shifts)}
    baselines: dict[tuple[str, int], PlannedRun] = {}
    runs: dict[tuple[str, float, float, int], PlannedRun] = {}
    for dataset, seed in itertools.product(datasets, range(seeds)):
        baselines[dataset, seed] = planner.run(run_spec(profile, dataset, model, ("vmp=none",)), seed)
        for (a, b), layer in layers.items():
            m, n = layer.m.item(), layer.n.item()
            own = (f"vmp.lambda={weight:g}", f"vmp.m={m!r}", f"vmp.n={n!r}")
            spec = run_spec(profile, dataset, model, own)
            spec = replace(spec, tag="-".join(filter(None, (spec.tag, f"a{a:g}_b{b:g}"))))
            runs[dataset, a, b, seed] = planner.run(spec, seed)
    todo = add_needed_runs([*baselines.values(), *runs.values()])
    failed = run_missing(todo, [], parse_launch(launch or profile.launch), Path(todo[0].config.output))
    points = []
    for (dataset, a, b, seed), run in runs.items():
        baseline = baselines[dataset, seed]
        if run.state == baseline.state == "finished":
            result, base = Run(run.folder).result, Run(baseline.folder).result
            points.append(
                Point(
                    dataset=dataset,
                    slope=a,
                    shift=b,
                    seed=seed,
                    top1=result["top1"],
                    gain=result["top1"] - base["top1"],
                    learned_slope=result["scalars"]["slope"],
                    learned_shift=result["scalars"]["shift"],
                    commit=result.get("commit") or "unknown",
                    run=str(run.folder),
                )
            )
    return points, failed


def write_points(points: Sequence[Point], stem: Path) -> list[Path]:
    """Write `stem`.csv, one row per run, and the map as `stem`.png and .svg; the files."""
    rows: list[list[object]] = [[*Point.__dataclass_fields__]]
    for p in points:
        numbers = [f"{number:.3f}" for number in (p.top1, p.gain, p.learned_slope, p.learned_shift)]
        rows.append([p.dataset, p.slope, p.shift, p.seed, *numbers, p.commit, p.run])
    write_csv(stem.with_suffix(".csv"), rows)
    return [stem.with_suffix(".csv"), *draw_map(points, stem)]


def draw_map(points: Sequence[Point], stem: Path) -> list[Path]:
    """One panel per dataset, shift over slope: mean gain, its range over seeds, and where slope and shift ended."""
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
                here = [p for p in points if (p.dataset, p.slope, p.shift) == (dataset, a, b)]
                if not here:
                    continue
                gains = [p.gain for p in here]
                means[row, column] = np.mean(gains)
                learned_a = np.mean([p.learned_slope for p in here])
                learned_b = np.mean([p.learned_shift for p in here])
                text = f"{np.mean(gains):+z.1f}\n[{min(gains):+z.0f}, {max(gains):+z.0f}]"
                text += f"\n→ {learned_a:.1f}, {learned_b:+z.2f}"
                color = "white" if abs(means[row, column]) > 0.6 * most else "black"
                axis.text(column, row, text, ha="center", va="center", fontsize=6, color=color)
            image = axis.imshow(means, cmap="RdBu", vmin=-most, vmax=most, origin="lower", aspect="auto")
            axis.set_xticks(range(len(slopes)), [f"{a:g}" for a in slopes])
            axis.set_yticks(range(len(shifts)), [f"{b:+g}" for b in shifts])
            axis.grid(False)
            axis.set_title(dataset)
            axis.set_xlabel("slope a at the start")
        axes[0].set_ylabel("shift b at the start")
        drawn.colorbar(image, ax=list(axes), label="top-1 over the baseline, points")
    return save(drawn, stem)
