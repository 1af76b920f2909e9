"""make demo: the default run on both cameras, without prompts and with them, over seeds; a table, a picture, a verdict.

Notes:
- the runs are ordinary ones (python train.py dataset.camera=moving vmp=none seed=1 tag=demo), so the same command again
  continues them, and more seeds add runs to those that are there;
- what the two sentences say follows from the numbers: a difference against its interval over clips and seeds, and
  against the smallest that as many seeds would have found with a probability of 80 %.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vmp.backbones import zoo
from vmp.backbones.packages import find_in_package
from vmp.errors import RunError
from vmp.figures.learning import draw_learning
from vmp.jobs.launch import parse_launch
from vmp.paper.paired import Difference, detectable, difference
from vmp.paper.planning import PlannedRun, Planner, add_needed_runs
from vmp.paper.reproduce import run_missing
from vmp.paper.tables import RunSpec
from vmp.runs.run import Run

CAMERAS = ("static", "moving")
ARMS = {"without prompts": "vmp=none", "motion prompts": "vmp=learned"}
BASELINE, PROMPTED = ARMS
# of every run: one thread each, so that two runs can share two cores
TOGETHER = ("trainer.device=cpu", "trainer.threads=1", "trainer.workers=0", "data.keep=300", "tag=demo")


@dataclass(frozen=True)
class DemoRequest:
    """The options of scripts/demo.py."""

    seeds: int = 2
    launch: str = "warm"
    output: str = "outputs"
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Camera:
    """The finished runs with one camera: arm -> a run for each seed."""

    name: str
    runs: Mapping[str, Sequence[Run]]

    def right(self, arm: str) -> np.ndarray:
        """(seeds, clips) bool: which clips each seed got right, of those that every run has a score for."""
        each = {name: [run.correct for run in runs] for name, runs in self.runs.items()}
        ids = sorted(set.intersection(*(set(one) for runs in each.values() for one in runs)))
        return np.array([[one[i] for i in ids] for one in each[arm]])

    @property
    def difference(self) -> Difference:
        return difference(self.right(PROMPTED), self.right(BASELINE))

    @property
    def detectable(self) -> float | None:
        return detectable(self.right(BASELINE))


def plan_demo(request: DemoRequest) -> dict[str, dict[str, list[PlannedRun]]]:
    """Camera -> arm -> runs by seed.

    Raises:
        ConfigError: an override is wrong, or one that the demo sets.
    """
    planner = Planner(output=request.output, extra=request.overrides)

    def plan(camera: str, label: str, seed: int) -> PlannedRun:
        own = (f"dataset.camera={camera}", ARMS[label])
        spec = RunSpec(dataset="motions", model="tiny", overrides=(*own, *TOGETHER), own=own)
        return planner.run(spec, seed)

    seeds = range(request.seeds)
    return {c: {label: [plan(c, label, seed) for seed in seeds] for label in ARMS} for c in CAMERAS}


def run_demo(request: DemoRequest) -> list[Camera]:
    """Run what is not finished, and return what is there then.

    Raises:
        UserError: an override is wrong, a run failed, or a signal stopped it (the same command continues).
    """
    planned = plan_demo(request)
    # seed by seed, so that what is finished can be compared
    runs = [
        group[seed] for seed in range(request.seeds) for arms in planned.values() for group in arms.values()
    ]
    output = Path(request.output)
    if run_missing(add_needed_runs(runs), [], parse_launch(request.launch), output):
        raise RunError(f"a run did not end; what it printed is in {output / 'logs'}")
    return [
        Camera(name, {label: [Run(one.folder) for one in group] for label, group in arms.items()})
        for name, arms in planned.items()
    ]


def draw_demo(cameras: Sequence[Camera], stem: Path) -> list[Path]:
    return draw_learning({f"{c.name} camera": c.runs for c in cameras}, PROMPTED, stem)


def table_rows(cameras: Sequence[Camera]) -> list[list[str]]:
    """Camera, arm, top-1 of each seed, mean, spread over seeds, slope, shift, seconds; a difference after each pair."""
    rows = []
    for camera in cameras:
        for label, runs in camera.runs.items():
            top1 = [run.result["top1"] for run in runs]
            scalars = [run.result["scalars"] for run in runs]
            learned = [
                np.mean([s[k] for s in scalars]) if k in scalars[0] else None for k in ("slope", "shift")
            ]
            rows.append(
                [camera.name, label, "  ".join(f"{value:.1f}" for value in top1), f"{np.mean(top1):.1f}"]
                + [f"{np.std(top1, ddof=1):.1f}" if len(top1) > 1 else "-"]
                + ["-" if value is None else f"{value:.2f}" for value in learned]
                + [f"{np.mean([run.result['seconds'] for run in runs]):.0f}"]
            )
        d = camera.difference
        rows.append(
            [camera.name, "difference", "", f"{d.mean:+z.1f}", f"[{d.low:+z.1f}, {d.high:+z.1f}]", "", "", ""]
        )
    return rows


def sentences(cameras: Sequence[Camera]) -> tuple[str, str]:
    """What was seen, and what it does not show."""
    seen, beyond = [], []
    for camera in cameras:
        d, least = camera.difference, camera.detectable
        means = [np.mean([run.result["top1"] for run in camera.runs[label]]) for label in ARMS]
        clear = d.is_clear and least is not None and abs(d.mean) >= least
        beyond += [camera.name] if clear else []
        seen.append(
            f"with a {camera.name} camera top-1 is {means[0]:.1f} % without and {means[1]:.1f} % with prompts "
            f"(difference {d.mean:+z.1f}, 95 % interval {d.low:+z.1f} to {d.high:+z.1f}), "
            + ("more than chance explains" if clear else "which chance can explain")
        )
    first = "; ".join(seen)
    seeds = len(cameras[0].runs[BASELINE])
    limits = [f"{c.detectable:.1f} ({c.name})" for c in cameras if c.detectable is not None]
    blind = (
        f"{seeds} seeds can show differences of at least about {' and '.join(limits)} points"
        if limits
        else "with one seed, the variation between seeds is unknown"
    )
    other = "even a clear difference here says nothing" if beyond else "no difference here says anything"
    second = f"{blind}, and {other} about real clips: this is one small network on ten generated motions."
    return f"{first[0].upper()}{first[1:]}.", f"{second[0].upper()}{second[1:]}"


def real_footage() -> str | None:
    """The command that looks at real footage; None where the weights for it are not at hand."""
    row = zoo.find("i3d_inception", "k400")
    if row.package is None or find_in_package(row.package) is None:
        return None
    if Path("data/handwash12").is_dir():
        return "make real ONLY='handwash12 none learned'  # real clips and Kinetics weights are here"
    return (
        "python scripts/visualize.py my.mp4 backbone=i3d_inception weights=k400  # Kinetics weights are here"
    )
