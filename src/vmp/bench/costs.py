"""What all of the real Table 1 costs in device-hours, from measured steps: ours, and the published way's.

hours = (clips trained on x ms of a step / clips in it + views tested x a third of that) / 3600 000: a forward pass is a
third of a step, as in arithmetic. Clips are published numbers where the dataset is not prepared.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from vmp.bench.step import AUTHORS
from vmp.bench.turns import Row, show

FORWARD = 1 / 3  # of a step


def work_of_table1(root: Path) -> dict[str, tuple[int, float, float]]:
    """Backbone -> runs, clips trained on (over all epochs), views tested."""
    from vmp.backbones import backbone_spec
    from vmp.results.estimating import clips_of
    from vmp.results.reproducing import plan
    from vmp.results.tables import Planner, cells, composer, load_profile, load_table

    conf = root / "conf"
    profile = load_profile(conf / "table" / "profile" / "paper.yaml")
    work: dict[str, tuple[int, float, float]] = {}
    with composer(conf) as compose:
        table = load_table(conf / "table" / "table1.yaml")
        planner = Planner(compose, output=profile.output, extra=())
        runs, _ = plan([c for c in cells(table, profile) if c.task], planner, [0])
        for run in runs:
            config = run.config
            clips = clips_of(run, profile)
            temporal, crops = config.trainer.views or backbone_spec(config.backbone.key).views
            before = work.get(config.backbone.key, (0, 0.0, 0.0))
            trained, tested = clips["train"] * config.trainer.epochs, clips.get("test", 0) * temporal * crops
            work[config.backbone.key] = (before[0] + 1, before[1] + trained, before[2] + tested)
    return work


def bench_costs(root: Path, steps: Mapping[str, Sequence[Row]]) -> list[Row]:
    """steps: of each backbone that was measured, the rows of bench_step."""
    rows: list[Row] = []
    for backbone, (runs, trained, tested) in work_of_table1(root).items():
        row: Row = {"what": backbone, "runs": runs, "M clips": trained / 1e6, "M views": tested / 1e6}
        measured = {r["what"]: 1 / r["clips/s"] for r in steps.get(backbone, ())}  # seconds a clip
        ours = {name: seconds for name, seconds in measured.items() if name.startswith("ours")}
        if ours:
            best = min(ours, key=lambda name: ours[name])
            row |= {"best": best, "hours": (trained + FORWARD * tested) * ours[best] / 3600}
        if AUTHORS in measured:
            row["published way, hours"] = (trained + FORWARD * tested) * measured[AUTHORS] / 3600
        rows.append(row)
    total: Row = {"what": "all"}
    for key in ("runs", "M clips", "M views"):
        total[key] = sum(row[key] for row in rows)
    for key in ("hours", "published way, hours"):
        if all(key in row for row in rows):
            total[key] = sum(row[key] for row in rows)
    show("device-hours of the 70 runs of Table 1, decoding not counted", [*rows, total])
    return [*rows, total]
