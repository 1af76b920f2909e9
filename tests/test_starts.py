"""The map of starts: which runs it needs, and what it shows."""

import csv
import json
from pathlib import Path

import pytest

from vmp.errors import UserError
from vmp.paper import starts
from vmp.paper.starts import Point, run_grid, write_points
from vmp.paper.tables import load_profile

MINI = load_profile("mini")


def test_the_map_and_its_csv_have_all_points(tmp_path):
    points = [
        Point("static", a, b, seed, 60 + seed, 10 * b - seed, a + 1, b, commit="abc", run=f"outputs/{seed}")
        for a in (10.0, 12.0)
        for b in (-0.3, 0.0, 0.3)
        for seed in (0, 1)
    ]
    rows, *pictures = write_points(points, tmp_path / "starts")
    kept = list(csv.DictReader(rows.open(encoding="utf-8")))
    assert len(kept) == 12
    assert kept[1] == {
        "dataset": "static",
        "slope": "10.0",
        "shift": "-0.3",
        "seed": "1",
        "top1": "61.000",
        "gain": "-4.000",
        "learned_slope": "11.000",
        "learned_shift": "-0.300",
        "commit": "abc",
        "run": "outputs/1",
    }
    assert [path.suffix for path in pictures] == [".png", ".svg"]
    text = pictures[1].read_text(encoding="utf-8")
    assert text.count("<!-- [-4, -3] -->") == 2  # the range over seeds at b = -0.3, for both slopes
    assert text.count("<!-- → 13.0, +0.30 -->") == 1


def test_starts_out_of_range_are_an_error():
    grid = {"datasets": ["mpii_cooking2"], "slopes": [3.0], "shifts": [0.0], "seeds": 1}
    with pytest.raises(UserError, match="slope 3"):
        run_grid(MINI, model="i3d", **grid)


def test_models_with_pathways_are_refused_before_anything_runs():
    grid = {"datasets": ["mpii_cooking2"], "slopes": [12.0], "shifts": [0.0], "seeds": 1}
    with pytest.raises(UserError, match=r"slowfast: has a slope and a shift for each pathway.*there are c2d"):
        run_grid(MINI, model="slowfast", **grid)


def test_runs_from_random_weights_have_folders_of_their_own(monkeypatch, tmp_path):
    planned = []
    monkeypatch.setattr(starts, "run_missing", lambda runs, *rest, **options: planned.extend(runs) or 0)
    grid = {"datasets": ["mpii_cooking2"], "slopes": [12.0], "shifts": [-0.5, 0.5], "seeds": 2}
    overrides = [f"output={tmp_path}"]
    assert run_grid(MINI, model="i3d_new", overrides=overrides, **grid) == ([], 0)
    assert len({run.folder for run in planned}) == 2 * (2 + 1)


def test_the_folder_of_the_runs_is_relative_to_where_the_command_was_typed(monkeypatch, tmp_path, script):
    planned = []
    monkeypatch.setattr(starts, "run_missing", lambda runs, *rest, **options: planned.extend(runs) or 1)
    monkeypatch.chdir(tmp_path)
    code, _, errors = script("starts", "--datasets", "finegym", "--model", "c2d", "output=mine")
    assert (code, errors) == (1, "")
    assert {run.folder.parents[3] for run in planned} == {tmp_path / "mine"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_runs_start_at_the_grid_points_and_gains_are_over_the_same_seed(tmp_path, script):
    small = ("trainer.epochs=1", "dataset.train=40", "dataset.test=20", f"data.root={tmp_path}/data")
    arguments = ["--datasets", "mpii_cooking2", "--model", "c2d", "--slopes", "10", "--shifts", "-0.5", "0.5"]
    out = tmp_path / "map"
    command = ["starts", *arguments, "--seeds", "1", "--out", out, *small, f"output={tmp_path}/out"]
    code, said, errors = script(*command)
    assert code == 0, said + errors
    results = [json.loads(path.read_text()) for path in Path(tmp_path / "out").rglob("result.json")]
    assert len(results) == 3  # baseline, two starts
    rows = list(csv.DictReader(out.with_suffix(".csv").open(encoding="utf-8")))
    assert [float(row["shift"]) for row in rows] == [-0.5, 0.5]
    baseline = next(Path(tmp_path / "out/static").rglob("none/*/result.json"))
    for row in rows:
        assert float(row["gain"]) == pytest.approx(
            float(row["top1"]) - json.loads(baseline.read_text())["top1"], abs=2e-3
        )
        # two updates at the profile's learning rate stay close to the start
        assert float(row["learned_slope"]) == pytest.approx(10, abs=0.5)
        assert float(row["learned_shift"]) == pytest.approx(float(row["shift"]), abs=0.1)
    code, said, _ = script(*command)
    assert code == 0
    assert " 0 to do" in said
    code, _, errors = script(*command, "trainer.epochs=2")
    assert code == 2  # finished runs with another config are not reused
    assert "trainer.epochs" in errors
