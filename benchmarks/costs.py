"""What the real Table 1 costs in device-hours, from measured steps: with our settings and with the published ones.

hours = (clips trained on + a third of the views tested x how much larger they are) x seconds per clip of a step / 3600:
a forward pass is a third of a step, as in arithmetic. Numbers of clips are the published ones where a dataset is not
prepared.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.measure import Row, describe_machine, print_rows
from benchmarks.step import AUTHORS, forward_flops

FORWARD = 1 / 3  # of a step


@dataclass(frozen=True)
class Work:
    """The work of a backbone's runs. trained: clips over all epochs; tested: views; flops: of a clip, forward; larger:
    pixels of a view over those of a training clip; size: key of the backbone's size (`size_of`)."""

    runs: int
    trained: float
    tested: float
    flops: float
    larger: float
    size: str

    @property
    def steps(self) -> float:
        """Training steps of one clip that take as long."""
        return self.trained + FORWARD * self.larger * self.tested


def work_of_table1(data: str | None = None) -> dict[str, Work]:
    """By backbone. data: data.root, if not the config's."""
    from vmp.compose import CONF
    from vmp.paper.estimates import count_clips
    from vmp.paper.planning import Planner, plan_cells
    from vmp.paper.tables import cells, load_profile, load_table
    from vmp.paper.timing import size_of

    profile = load_profile("paper")
    table = load_table(CONF / "table" / "table1.yaml")
    planner = Planner(output=profile.output, extra=(f"data.root={data}",) if data else ())
    runs, _ = plan_cells([cell for cell in cells(table, profile) if cell.run], planner, [0])
    work: dict[str, Work] = {}
    for run in runs:
        config, spec = run.config, run.config.backbone.spec
        clips = count_clips(run, profile)
        temporal, crops = config.trainer.views or spec.views
        key = config.backbone.key
        if key not in work:
            larger, size = (spec.test_crop / spec.crop) ** 2, size_of(config.backbone.model_dump())
            work[key] = Work(0, 0.0, 0.0, forward_flops(config), larger, size)
        work[key] = replace(
            work[key],
            runs=work[key].runs + 1,
            trained=work[key].trained + clips["train"] * config.trainer.epochs,
            tested=work[key].tested + clips.get("test", 0) * temporal * crops,
        )
    return work


def bench_costs(steps: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """steps: results of bench_step by backbone; those of other sizes or another machine are not used."""
    rows: list[Row] = []
    for backbone, work in work_of_table1().items():
        row: Row = {
            "what": backbone,
            "runs": work.runs,
            "M clips": work.trained / 1e6,
            "M views": work.tested / 1e6,
            "GFLOP per clip": work.flops / 1e9,
            "EFLOP": work.steps * work.flops / FORWARD / 1e18,
        }
        timed = steps.get(backbone, {})
        fits = timed.get("size") == work.size and timed.get("machine") == describe_machine()
        seconds = {r["what"]: 1 / r["clips/s"] for r in timed["rows"]} if fits else {}  # per clip
        ours = {name: s for name, s in seconds.items() if name.startswith("ours") and "without" not in name}
        if ours:
            best = min(ours, key=lambda name: ours[name])
            row |= {"best": best, "hours": work.steps * ours[best] / 3600}
        if AUTHORS in seconds:
            row["hours as published"] = work.steps * seconds[AUTHORS] / 3600
        rows.append(row)
    total: Row = {"what": "all"}
    for key in ("runs", "M clips", "M views", "EFLOP", "hours", "hours as published"):
        if all(key in row for row in rows):
            total[key] = sum(row[key] for row in rows)
    return print_rows("device-hours of the 70 runs of Table 1, without decoding", [*rows, total])
