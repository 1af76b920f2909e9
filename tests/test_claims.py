"""The page about the paper's claims, for runs with known numbers, against sums done by hand."""

import json
import math
import re

import numpy as np
import pytest
import test_tables
from configs import ROOT
from test_tables import table_of

from vmp.paper.claims import (
    Gain,
    _detectable_step,
    claims,
    count_turns,
    learned_scalars,
    list_gains,
    mean_and_error,
    table_of_backbones,
    table_of_cameras,
    table_of_costs,
    table_of_gains,
    table_of_turns,
    tables_by_lambda,
)
from vmp.paper.planning import Planner
from vmp.paper.power import errors_needed
from vmp.paper.sensitivity import Controlled, controlled_cells, rows_of_controls
from vmp.paper.tables import cells, load_profile


def finish(run, *, top1, scalars=None, shifts=()):
    test_tables.finish(run, top1=top1, scalars=scalars or {})
    rows = [{"kind": "train", "step": i, "vmp/shift": b} for i, b in enumerate(shifts)]
    rows.insert(1, {"kind": "val", "step": 0, "vmp/shift": -9.0})
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows if shifts))


@pytest.fixture
def table1(tmp_path):
    """C2D on FineGym: two seeds with and without; on MPII: one seed with, two without; I3D on MPII: only with."""
    table, profile = table_of(1), load_profile("mini")
    planner = Planner(output=str(tmp_path))
    tops = {  # (model, prompted, dataset, seed)
        ("c2d", False, "finegym", 0): 50.0,
        ("c2d", True, "finegym", 0): 53.0,
        ("c2d", False, "finegym", 1): 52.0,
        ("c2d", True, "finegym", 1): 51.0,
        ("c2d", False, "mpii_cooking2", 0): 40.0,
        ("c2d", True, "mpii_cooking2", 0): 44.0,
        ("c2d", False, "mpii_cooking2", 1): 41.0,
        ("i3d", True, "mpii_cooking2", 0): 70.0,
    }
    for cell in cells(table, profile):
        row, column = table.rows[cell.row], table.columns[cell.column]
        for seed in (0, 1):
            top1 = tops.get((row.model, row.gain, column.dataset, seed))
            if cell.run and top1 is not None:
                finish(planner.run(cell.run, seed), top1=top1)
    return table, profile, planner


@pytest.mark.slow
def test_gains_compare_the_same_seed_and_data(table1):
    found = list_gains(*table1, range(3))
    assert {(g.row, g.dataset, g.seed): g.ours for g in found} == {
        ("C2D +VMPs", "finegym", 0): 3.0,
        ("C2D +VMPs", "finegym", 1): -1.0,
        ("C2D +VMPs", "mpii_cooking2", 0): 4.0,
    }
    # Table 1 of the paper: 81.3 and 79.7 on FineGym, 50.9 and 48.8 on MPII Cooking 2
    assert {g.dataset: round(g.paper, 4) for g in found} == {"finegym": 1.6, "mpii_cooking2": 2.1}


@pytest.mark.slow
def test_rows_have_means_errors_and_counts(table1):
    found = list_gains(*table1, range(2))
    by_model = table_of_gains(found, "Model", lambda g: g.row)
    by_data = table_of_gains(found, "Data", lambda g: g.column.partition(",")[0], total=False)
    error = np.std([3, -1, 4], ddof=1) / math.sqrt(3)
    assert f"+2.0 ± {error:.1f} | 2 | 1 | 3 |" in by_model
    assert re.search(r"C2D \+VMPs \| \+1\.[89] ", by_model)  # (1.6 + 2.1) / 2 = 1.85
    assert "| FineGym | +1.6 | +1.0 ± 2.0 | 1 | 1 | 2 |" in by_data
    assert "| MPII Cooking 2 | +2.1 | +4.0 | 1 | 0 | 1 |" in by_data  # a single pair has no error
    assert table_of_gains([], "Model", lambda g: g.row) == "Not run."


def gain(row: str, column: str, seed: int, ours: float, block: object) -> Gain:
    return Gain(row, column, "finegym", seed, ours, None, block)


def test_gains_have_the_smallest_difference_that_would_have_been_seen():
    """Two rows that share a baseline, two seeds, which move both alike: a variance and a covariance of 1/2."""
    gains = [gain("A", "x", 0, 1.0, "base"), gain("A", "x", 1, 2.0, "base")]
    gains += [gain("B", "x", 0, 5.0, "base"), gain("B", "x", 1, 6.0, "base"), gain("C", "x", 0, 3.0, "other")]
    rows = table_of_gains(gains, "Model", lambda g: g.row).splitlines()
    assert rows[0].endswith("| Pairs | Detectable |")
    alone = errors_needed(1) * np.std([1, 2], ddof=1) / math.sqrt(2)
    assert rows[2].endswith(f"| 2 | {alone:.1f} |")
    # the row with one seed is taken to scatter as the others
    assert rows[4].endswith(f"| 1 | {errors_needed(1) * math.sqrt(0.5):.1f} |")
    # 5 pairs, of which two times two share a baseline: (5 + 2 + 2) / 2; between the rows they differ by more
    alike = math.sqrt(4.5) / 5
    printed = np.std([1, 2, 5, 6, 3], ddof=1) / math.sqrt(5)
    assert alike < printed
    assert rows[5].endswith(f"| 5 | {errors_needed(1) * printed:.1f} |")


@pytest.mark.slow
def test_controls_tell_where_the_runs_are_blind(tmp_path):
    """I3D: true motion gains 20 points on the moving camera and 1 on the static one; a seed moves gains by 1 or 2."""
    profile = load_profile("mini")
    table, planner = table_of(1, controls=True), Planner(output=str(tmp_path))
    gains = {  # dataset -> kind of attention -> over the baseline, for two seeds
        "finegym": {"learned": (3, 1), "oracle": (21, 19), "other_clip": (0, 2)},
        "mpii_cooking2": {"learned": (0, 0), "oracle": (2, 0)},
    }
    for cell in cells(table, profile):
        if not cell.run or cell.run.model != "i3d":
            continue
        for seed in (0, 1):
            run = planner.run(cell.run, seed)
            kind = run.config.folder.parent.name.partition("_lambda")[0]
            arm = {"quick": "learned", "oracle0.5": "oracle"}.get(kind, kind)
            extra = 0 if arm == "none" else gains.get(cell.run.dataset, {}).get(arm)
            if extra is not None:
                finish(run, top1=50.0 + 5 * seed + (extra and extra[seed]))
    found = controlled_cells(table, profile, planner, range(3))
    assert [cell.place for cell in found] == ["I3D, FineGym, Top-1", "I3D, MPII Cooking 2, Top-1"]
    # each pair of seeds differs by 2 or 0: variances 2, 2, 2, 0, 2 with a degree of freedom each, of two cells
    limit = errors_needed(2) * math.sqrt(8 / 5) / math.sqrt(2)
    head, rows = rows_of_controls(found)
    assert head[1:5] == ["Motion prompts", "True motion", "Camera compensated", "Another clip's motion"]
    assert rows[0][1:] == ["+2.0", "+20.0", "–", "+1.0", "–", f"{limit:.1f}", "2", "sees it"]
    assert rows[1][1:] == ["0.0", "+1.0", "–", "–", "–", f"{limit:.1f}", "2", "blind"]
    single = rows_of_controls(controlled_cells(table, profile, planner, [0]))[1]
    assert [row[-1] for row in single] == ["one seed: unknown"] * 2
    assert [cell.place for cell in controlled_cells(table_of(1), profile, planner, [0])] == []


def test_runs_that_show_a_gain_of_the_prompts_are_not_blind():
    """Whatever the attention on the true object gains."""
    alike = {0: 1.0, 1: -1.0}  # a seed moves gains by 1
    gains = {"motion prompts": {0: 99.0, 1: 101.0}, "true motion": alike}
    prompted = Controlled("prompts gain", gains)
    neither = Controlled("neither gains", gains | {"motion prompts": alike})
    _, rows = rows_of_controls([prompted, neither])
    assert [row[-1] for row in rows] == ["sees it", "blind"]


def test_a_gain_of_a_single_seed_is_held_against_what_one_seed_shows():
    """Nine seeds of true motion would show a gain of 2 points, the one of the prompts would not."""
    true = {seed: float((seed % 3) - 1) for seed in range(9)}  # spread 0.87, 8 degrees of freedom
    assert 0.87 / 3 * errors_needed(8) < 2 < 0.87 * errors_needed(8) < 3
    for gain, verdict in ((2.0, "blind"), (3.0, "sees it")):
        cell = Controlled("x", {"motion prompts": {0: gain}, "true motion": true})
        assert rows_of_controls([cell])[1][0][-2:] == ["9", verdict]


@pytest.mark.slow
def test_slope_and_shift_by_lambda_and_camera(tmp_path):
    table, profile = table_of(7), load_profile("mini")
    planner = Planner(output=str(tmp_path))
    ends = {  # (dataset, lambda, seed) -> a, b, logged b
        ("finegym", 0.0, 0): (12.0, 0.1, [0.3, 0.1, 0.2, 0.1]),
        ("finegym", 0.0, 1): (14.0, 0.3, [0.3, 0.3, 0.2, 0.1]),
        ("finegym", 0.5, 0): (12.0, -0.1, [0.3, 0.2]),
        ("finegym", 2.5, 0): (12.5, -0.2, [0.3, 0.2]),
        ("mpii_cooking2", 0.0, 0): (15.0, 0.4, [0.1, 0.2]),
    }
    for cell in cells(table, profile):
        for seed in (0, 1):
            if cell.run and cell.run.model == "timesformer_k600":
                run = planner.run(cell.run, seed)
                end = ends.get((cell.run.dataset, run.config.vmp.lambda_, seed))
                if end:
                    finish(run, top1=1.0, scalars={"slope": end[0], "shift": end[1]}, shifts=end[2])
    found = learned_scalars(table, profile, planner, range(3))
    assert len(found) == 5
    static, moving = tables_by_lambda(found)
    # a of seed 0 is 12, 12 and 12.5: that the mean falls from 13 to 12 is because seed 1 was run at λ = 0 only
    assert "| TimeSformer | 13.00, +0.20 | 12.00, −0.10 | 12.50, −0.20 | 0 of 2, 2 of 2 |" in moving
    assert "| mpii_cooking2: a, b at λ = | 0 | falls |" in static
    assert "| finegym | 0 | 1.0 | 2 | 2 |" in table_of_turns(found)  # one curve turns twice, the other never
    assert "| finegym | 0.5 | 0.0 | 0 | 1 | −2.0 (1) |" in table_of_turns(
        found
    )  # seed 0 turned twice at λ = 0
    assert "| TimeSformer | +3.00 | +0.30 | 1 |" in table_of_cameras(found)  # seed 0 only: 15 - 12, 0.4 - 0.1


@pytest.mark.slow
def test_slope_and_shift_by_backbone(tmp_path):
    """Of the first split of HMDB-51 only; SlowFast has a line for each pathway with prompts."""
    table, profile = table_of(1), load_profile("mini")
    planner = Planner(output=str(tmp_path))
    for cell in cells(table, profile):
        if not cell.run or cell.run.dataset not in ("hmdb51_split1", "finegym"):
            continue
        for seed in (0, 1):
            run, one = planner.run(cell.run, seed), {"slope": 12.0 + seed, "shift": -0.1}
            if table.row_name(cell.row) == "SlowFast +VMPs (slow&fast)":
                one = {"slow/slope": 9.5, "slow/shift": 0.2, "fast/slope": 20.0, "fast/shift": 0.3}
            elif table.row_name(cell.row) != "X3D +VMPs":
                continue
            if cell.run.dataset == "finegym":
                one = dict.fromkeys(one, 30.0)
            finish(run, top1=1.0, scalars=one)
    found = table_of_backbones(learned_scalars(table, profile, planner, range(3))).splitlines()
    assert found[0] == "| Model | a | b | Seeds |"
    assert found[2:] == [
        "| SlowFast +VMPs (slow&fast) slow | 9.50 ± 0.00 | +0.20 ± 0.00 | 2 |",
        "| SlowFast +VMPs (slow&fast) fast | 20.00 ± 0.00 | +0.30 ± 0.00 | 2 |",
        "| X3D +VMPs | 12.50 ± 0.50 | −0.10 ± 0.00 | 2 |",
    ]


def test_the_detectable_step_is_that_of_the_fewest_seeds():
    steps = [[1.0, 2.0, 3.0, 6.0], [1.0, 3.0]]
    spread = math.sqrt((14 + 2) / 4)  # squares about the means 3 and 2, with 3 + 1 degrees of freedom
    assert _detectable_step(steps) == pytest.approx(spread / math.sqrt(2) * errors_needed(4))


def test_turns():
    monotonic = ([], [1.0], [1.0, 1.0], [1, 2, 3], [3, 3, 2, 2, 1])
    assert {count_turns(values) for values in monotonic} == {0}
    assert count_turns([1, 2, 1]) == count_turns([1, 2, 2, 1]) == 1
    assert count_turns([1, 2, 1, 2, 2, 2, 0]) == 3


def test_mean_and_error():
    values = np.random.default_rng(0).normal(size=30)
    mean, error = mean_and_error(values.tolist())
    assert mean == pytest.approx(values.mean())
    assert error == pytest.approx(values.std(ddof=1) / math.sqrt(30))
    assert mean_and_error([2.0]) == (2.0, None)


def test_costs_are_read_from_table_8(tmp_path):
    path = tmp_path / "table8.csv"
    head = "table,row,column,number,paper,ours,seeds,by_seed,spread,difference,paper_gain,gain"
    path.write_text(
        f"{head}\n8,C2D,Fwd,forward,0.007,0.020,1,,,,,\n8,C2D +VMPs,Fwd,forward,0.008,0.025,1,,,,0.001,0.005\n"
    )
    assert table_of_costs(path).splitlines()[-1] == "| C2D +VMPs | +25 % (+14 %) | – |"
    path.write_text(
        path.read_text().replace("1,,,,,\n8", "1,,0.003,,,\n8").replace("1,,,,0.001", "1,,0.004,,0.001")
    )
    # both means have 10 rounds: an error of 0.005 / sqrt(10), 18 degrees of freedom, of a baseline of 0.020
    limit = 100 * errors_needed(18) * 0.005 / math.sqrt(10) / 0.020
    assert table_of_costs(path, repeats=10).splitlines()[-1].endswith(f"| {limit:.0f} % |")
    assert table_of_costs(tmp_path / "none.csv") == "Not run."


@pytest.mark.slow
def test_sections_without_runs_say_not_run(tmp_path, monkeypatch):
    for module in ("claims", "planning", "tables"):
        monkeypatch.setattr(f"vmp.paper.{module}.conf_folder", lambda: ROOT / "conf")
    monkeypatch.chdir(tmp_path)
    text = claims("mini", seeds=2)
    assert text.count("Not run.") == 10
    assert "make claims PROFILE=mini SEEDS=2" in text


@pytest.mark.slow
def test_the_command_reads_the_runs_of_its_overrides_and_writes_what_it_prints(tmp_path, script):
    """make paper SET='trainer.amp=bf16' makes other runs than make paper, and the page about them is of these."""
    table, profile = table_of(1), load_profile("mini")
    given = ["trainer.amp=bf16", f"output={tmp_path}"]
    planner = Planner(output=str(tmp_path), extra=given[:1])
    by_place = {cell.place: cell for cell in cells(table, profile)}
    pair = next(c for c in by_place.values() if c.run and c.run.model == "c2d" and c.baseline)
    for cell, top1 in ((pair, 53.0), (by_place[pair.baseline], 50.0)):
        finish(planner.run(cell.run, 0), top1=top1)
    code, said, errors = script("claims", "--profile", "mini", "--out", tmp_path / "claims.md", *given)
    assert code == 0, errors
    assert "| C2D +VMPs | +1.7 | +3.0 | 1 | 0 | 1 |" in said
    assert "`make claims PROFILE=mini SET=trainer.amp=bf16`" in said
    assert (tmp_path / "claims.md").read_text() in said
    code, _, errors = script("claims", "--profile", "none")
    assert code == 2
    assert "no such profile; there are: mini, paper" in errors
