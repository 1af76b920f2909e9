"""The script compare, on tiny runs."""

import csv
import json
import shutil

import pytest
from runs import folder

from vmp.figures.comparison import mcnemar
from vmp.runs.run import read_run


def test_two_runs_are_compared_clip_by_clip(home, script, tmp_path):
    run = folder(home / "out")
    other = tmp_path / "other"
    shutil.copytree(run, other)
    config = (run / "config.yaml").read_text()
    config = config.replace("seed: 0", "seed: 1", 1)
    (other / "config.yaml").write_text(config.replace("  keep: 0\n", "  keep: 100\n", 1))  # changes no result
    assert "keep: 100" in (other / "config.yaml").read_text()
    rows = read_run(run).predictions
    right = [row["label"] == row["predicted"] for row in rows]
    for row in rows[:4]:  # the other run says the other class
        row["predicted"] = str(1 - int(row["predicted"]))
    with open(other / "predictions.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    broken, fixed = sum(right[:4]), 4 - sum(right[:4])
    arguments = (run, other, "--layers", 2, "--clips", tmp_path / "d.csv", "--picture", tmp_path / "p.png")
    code, said, errors = script("compare", *arguments, "--json")
    assert (code, errors) == (0, "")
    found = json.loads(said)
    assert found["config"] == ["seed: 0 -> 1"]
    top1 = found["top1"]
    assert (top1["fixed"], top1["broken"]) == (fixed, broken)
    assert top1["mcnemar_p"] == mcnemar(fixed, broken)
    assert top1["difference"] == pytest.approx(100 * (fixed - broken) / len(rows))
    assert top1["interval"][0] <= top1["difference"] <= top1["interval"][1]
    assert all(v == pytest.approx(1) for kind in found["layers"].values() for v in kind.values())
    assert found["scalars"]["slope"] == [read_run(run).result["scalars"]["slope"]] * 2
    with open(tmp_path / "d.csv", newline="") as file:
        listed = list(csv.DictReader(file))
    assert [row["id"] for row in listed] == [row["id"] for row in rows[:4]]
    assert [row["change"] for row in listed] == ["broken" if r else "fixed" for r in right[:4]]
    assert {path.name for path in tmp_path.glob("p.*")} == {"p.png", "p.svg"}
    changed = other / "config.yaml"
    changed.write_text(changed.read_text().replace("  alpha: 5.0\n", ""))
    code, said, _ = script("compare", run, other)
    assert code == 0
    assert "seed: 0 -> 1" in said
    assert "and 1 more that only one of the two has" in said
    assert "alpha" not in said
    assert "McNemar" in said


def test_runs_that_agree_on_every_clip(home, script, tmp_path):
    """In words and plain numbers: chance gives such a difference in 100 of 100 pairs, not 1e+02."""
    shutil.copytree(folder(home / "out"), tmp_path / "other")
    code, said, _ = script(
        "compare", folder(home / "out"), tmp_path / "other", "--picture", tmp_path / "λ0.5"
    )
    assert code == 0
    assert sorted(path.name for path in tmp_path.glob("λ*")) == ["λ0.5.png", "λ0.5.svg"]
    assert "Of 100 pairs of equally good models, 100 would differ at least as much" in said
    assert "the accuracy of none changes" in said
    reach = 100 * (1 - 0.05 ** (1 / len(read_run(folder(home / "out")).predictions)))
    assert f"+0.00 points, 95 % interval -{reach:.2f} to +{reach:.2f}" in said


def test_runs_that_cannot_be_compared_are_an_error(home, script, tmp_path):
    run = folder(home / "out")
    (tmp_path / "file").touch()
    for arguments, error in (
        ((run,), "not one twice"),
        ((tmp_path,), "no run there"),
        ((tmp_path, "--clips", tmp_path), f"--clips {tmp_path}: cannot be written (a folder)"),
        ((tmp_path, "--picture", tmp_path / "file/a"), "file: not a folder); choose another with --picture"),
    ):
        code, _, errors = script("compare", run, *arguments)
        assert code == 2
        assert error in errors
