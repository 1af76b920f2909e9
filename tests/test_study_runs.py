"""A small study by the real command: runs, records that spare runs, pictures, publishing."""

import csv
import gzip
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from runs import QUICK, ROOT, bright_or_dark

STUDY = {
    "name": "small",
    "title": "Two arms",
    "note": "Made for a test.",
    "output": "outputs/small",
    "published": "docs/results/small",
    "launch": "warm",
    "overrides": [*(o for o in QUICK if not o.startswith("vmp.")), "trainer.epochs=1"],
    "sets": {"bright": {"label": "bright or dark", "overrides": ["dataset.folder=videos"]}},
    "arms": {
        "none": {"label": "without prompts", "overrides": ["vmp=none"]},
        "learned": {"label": "prompts", "compared_with": "none", "overrides": []},
        "other": {
            "label": "another clip's",
            "compared_with": "none",
            "overrides": ["vmp=other_clip", "vmp.lambda=0"],
        },
    },
    "settings": {"base": [], "slow": ["optim.lr=0.001"]},
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("study")
    shutil.copytree(ROOT / "conf", root / "conf")
    (root / "conf/study/small.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    (root / "scripts").mkdir()
    for script in ("train.py", "scripts/study.py", "scripts/publish.py"):
        shutil.copy(ROOT / script, root / script)
    bright_or_dark(root / "videos", train=8, val=6)
    return root


@pytest.fixture
def study(script, checkout):
    """study("publish", ...) runs a script of the checkout: what it printed."""

    def call(name: str, *arguments: str) -> str:
        code, said, errors = script(name, *arguments, root=checkout)
        assert code == 0, said + errors
        return said

    return call


def rows(path: Path) -> list[dict[str, str]]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_study_runs_records_and_continues_from_its_published_records(checkout, study):
    assert "4 runs, 0 recorded, 4 to do" in study("study", "small", "dry=1", "only=none learned", "seeds=2")
    study("study", "small", "only=none learned", "seeds=2")
    results = checkout / "outputs/small/results"
    runs, clips = rows(results / "study_runs.csv"), rows(results / "study_clips.csv.gz")
    assert [(row["arm"], row["seed"]) for row in runs] == [(a, s) for a in ("learned", "none") for s in "01"]
    assert len(clips) == 6
    for run in runs:  # the records agree with each other
        right = sum(c["class"] == c[f"{run['arm']}/base/{run['seed']}"] for c in clips)
        assert float(run["top1"]) == pytest.approx(100 * right / len(clips), abs=0.01)
        assert bool(run["slope"]) == (run["arm"] == "learned")
    assert (results / "figures/arms_bright.png").stat().st_size > 1000
    text = (results / "study_small.md").read_text()
    assert "| another clip's | not run |" in text
    assert "on 6 x 2" in text

    study("publish", "--profile", "small")
    assert not (checkout / "docs/results/small/figures").exists()  # it shows frames of these videos
    shutil.rmtree(checkout / "outputs")  # another machine
    said = study("study", "small", "dry=1", "seeds=2")
    assert "6 runs, 4 recorded, 2 to do" in said
    assert "  bright fold 1  other  base  seed 0  not run\n    python train.py " in said
    changed = study("study", "small", "dry=1", "only=none", "seeds=2", "trainer.epochs=3")
    assert "2 runs, 0 recorded, 2 to do" in changed
    study("study", "small", "only=other", "seeds=1")
    assert [row["arm"] for row in rows(results / "study_runs.csv")] == [
        "learned",
        "learned",
        "none",
        "none",
        "other",
    ]
    study("publish", "--profile", "small")
    assert "not run" not in (checkout / "docs/results/small/study_small.md").read_text()

    # a table never mixes configs: with another one, the recorded runs are not in it
    other = ("seeds=1", "only=none", "trainer.epochs=2", "output=outputs/other")
    assert "5 recorded run(s) have another config" in study("study", "small", *other)
    assert [row["arm"] for row in rows(checkout / "outputs/other/results/study_runs.csv")] == ["none"]
    text = (checkout / "outputs/other/results/study_small.md").read_text()
    assert "| prompts | not run |" in text
    assert "python scripts/study.py small seeds=1 only=none trainer.epochs=2" in text


@pytest.mark.slow
def test_a_study_that_is_stopped_writes_what_is_finished(checkout):
    """After hours of `make real`, Ctrl-C leaves the table and the records of the runs that it has made."""
    words = ["small", "launch=single", "only=none", "seeds=9", "optim.lr=0.02", "output=outputs/stopped"]
    command = [sys.executable, "scripts/study.py", *words]
    with subprocess.Popen(
        command, cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    ) as process:
        assert process.stdout
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("[1/9] done"):
                process.send_signal(signal.SIGINT)
    assert process.returncode == 130, said
    assert any("stopped with" in line for line in said)
    results = checkout / "outputs/stopped/results"
    finished = {path.parent for path in (checkout / "outputs/stopped").rglob("result.json")}
    assert 1 <= len(finished) < 9
    assert len(rows(results / "study_runs.csv")) == len(finished)
    assert "| without prompts |" in (results / "study_small.md").read_text()
