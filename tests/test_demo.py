"""make demo: what its sentences say of known numbers, and the whole of it on few clips."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import ROOT

from vmp.paper.demo import ARMS, BASELINE, PROMPTED, Camera, sentences, table_rows
from vmp.runs.records import PREDICTION_COLUMNS
from vmp.runs.run import Run


def made_run(folder: Path, right: np.ndarray, **scalars: float) -> Run:
    """A finished run of which only the result and the predictions are there; right (N,) bool."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("{}\n")
    (folder / "classes.txt").write_text("a\nb\n")
    clips = {"test": {"expected": len(right), "present": len(right), "missing": 0, "unreadable": 0}}
    result = {
        "top1": 100 * float(right.mean()),
        "split": "test",
        "clips": clips,
        "scalars": scalars,
        "seconds": 20.0,
    }
    (folder / "result.json").write_text(json.dumps(result))
    with open(folder / "predictions.csv", "w", newline="") as file:
        rows = csv.DictWriter(file, PREDICTION_COLUMNS, restval="")
        rows.writeheader()
        for number, good in enumerate(right):
            rows.writerow({"id": str(number), "label": 0, "predicted": 0 if good else 1, "score": 0.5})
    return Run(folder)


def made_camera(home: Path, name: str, gain: int, seeds: int = 2) -> Camera:
    """Of 200 clips seed s has 100 + 2 s right without prompts, and `gain` more with them."""
    number = np.arange(200)
    runs = {
        BASELINE: [made_run(home / name / f"b{s}", number < 100 + 2 * s) for s in range(seeds)],
        PROMPTED: [
            made_run(home / name / f"p{s}", number < 100 + 2 * s + gain, slope=10.0, shift=-0.5)
            for s in range(seeds)
        ],
    }
    return Camera(name, runs)


def test_what_is_said_follows_from_the_numbers(tmp_path):
    cameras = [made_camera(tmp_path, "static", 60), made_camera(tmp_path, "moving", 0)]
    seen, unseen = sentences(cameras)
    static = "With a static camera top-1 is 50.5 % without and 80.5 % with prompts (difference +30.0, 95 % interval"
    assert static in seen
    moving = "with a moving camera top-1 is 50.5 % without and 50.5 % with prompts"
    assert f"), more than chance explains; {moving}" in seen
    assert seen.endswith("which chance can explain.")
    assert unseen.startswith("2 seeds can show differences of at least about ")
    assert "even a clear difference here says nothing about real clips" in unseen
    _, unseen = sentences([made_camera(tmp_path / "level", name, 0) for name in ("static", "moving")])
    assert "no difference here says anything about real clips" in unseen
    _, unseen = sentences([made_camera(tmp_path / "one", "static", 60, seeds=1)])
    assert unseen.startswith("With one seed, the variation between seeds is unknown")
    rows = table_rows(cameras)
    assert rows[0] == ["static", BASELINE, "50.0  51.0", "50.5", "0.7", "-", "-", "20"]
    assert rows[1][3:7] == ["80.5", "0.7", "10.00", "-0.50"]
    assert rows[2][3] == "+30.0"


@pytest.mark.slow
def test_the_demo_ends_with_a_table_a_picture_and_two_sentences(tmp_path, script):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "scripts").mkdir()
    for name in ("train.py", "scripts/demo.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    few = ["dataset.train=32", "dataset.val=10", "dataset.test=20", "dataset.size=32", "backbone.crop=32"]
    small = ["backbone.weights=none", "backbone.width=4", "trainer.epochs=1", "train.precise_bn=0"]
    for again in (False, True):
        code, said, errors = script("demo", "seeds=2", *few, *small, root=tmp_path)
        assert code == 0, said + errors
        assert ("8 finished before, 0 to do" in said) == again
    for word in ("static", "moving", "difference", *ARMS):
        assert word in said
    assert "about real clips: this is one small network on ten generated motions." in said
    with Image.open(tmp_path / "outputs/demo.png") as picture:
        assert picture.size[0] > 800
    folders = {path.parent.name for path in tmp_path.glob("outputs/motions-moving/tiny/*/*/result.json")}
    assert folders == {"seed0-demo", "seed1-demo"}
