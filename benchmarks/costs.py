"""What all of the real Table 1 costs in device-hours, from measured steps: ours, and the published way's.

hours = (clips trained on + a third of the views tested x how much larger they are) x seconds of a step / clips in it /
3600: a forward pass is a third of a step, as in arithmetic. Clips are published numbers where the dataset is not
prepared.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.step import AUTHORS, forward_flops
from benchmarks.turns import Row, machine, show

FORWARD = 1 / 3  # of a step


@dataclass(frozen=True)
class Work:
    """Of a backbone's runs. trained: clips, over all epochs; tested: views; flops: of a clip, forward."""

    runs: int
    trained: float
    tested: float
    flops: float
    larger: float  # pixels of a view over those of a clip
    size: str  # of the backbone (estimating.size_of)

    @property
    def passes(self) -> float:
        """Steps of one clip that all of it is worth."""
        return self.trained + FORWARD * self.larger * self.tested


def work_of_table1(root: Path, data: str | None = None) -> dict[str, Work]:
    """By backbone. data: data.root, if not the config's."""
    from vmp.build import backbone_spec
    from vmp.paper.estimates import count_clips
    from vmp.paper.planning import Planner, composer, plan_cells
    from vmp.paper.tables import cells, load_profile, load_table
    from vmp.paper.timing import size_of

    conf = root / "conf"
    profile = load_profile(conf / "table" / "profile" / "paper.yaml")
    work: dict[str, Work] = {}
    table = load_table(conf / "table" / "table1.yaml")
    planner = Planner(composer(conf), output=profile.output, extra=(f"data.root={data}",) if data else ())
    runs, _ = plan_cells([c for c in cells(table, profile) if c.run], planner, [0])
    for run in runs:
        config, spec = run.config, backbone_spec(run.config)
        clips = count_clips(run, profile)
        temporal, crops = config.trainer.views or spec.views
        trained, tested = clips["train"] * config.trainer.epochs, clips.get("test", 0) * temporal * crops
        key = config.backbone.key
        larger, size = (spec.test_crop / spec.crop) ** 2, size_of(config.backbone.model_dump())
        before = work.get(key) or Work(0, 0.0, 0.0, forward_flops(config), larger, size)
        work[key] = replace(
            before,
            runs=before.runs + 1,
            trained=before.trained + trained,
            tested=before.tested + tested,
        )
    return work


def bench_costs(root: Path, steps: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """steps: by backbone, bench_step's; those of other sizes or of another machine are left out."""
    rows: list[Row] = []
    for backbone, work in work_of_table1(root).items():
        row: Row = {
            "what": backbone,
            "runs": work.runs,
            "M clips": work.trained / 1e6,
            "M views": work.tested / 1e6,
        }
        row |= {"GFLOP a clip": work.flops / 1e9, "EFLOP": work.passes * work.flops / FORWARD / 1e18}
        timed = steps.get(backbone, {})
        fits = timed.get("size") == work.size and timed.get("machine") == machine()
        seconds = {r["what"]: 1 / r["clips/s"] for r in timed["rows"]} if fits else {}  # a clip
        ours = {name: each for name, each in seconds.items() if name.startswith("ours")}
        if ours:
            best = min(ours, key=lambda name: ours[name])
            row |= {"best": best, "hours": work.passes * ours[best] / 3600}
        if AUTHORS in seconds:
            row["published way, hours"] = work.passes * seconds[AUTHORS] / 3600
        rows.append(row)
    total: Row = {"what": "all"}
    for key in ("runs", "M clips", "M views", "EFLOP"):
        total[key] = sum(row[key] for row in rows)
    for key in ("hours", "published way, hours"):
        if all(key in row for row in rows):
            total[key] = sum(row[key] for row in rows)
    show("device-hours of the 70 runs of Table 1, decoding not counted", [*rows, total])
    return [*rows, total]
