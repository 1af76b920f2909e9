"""Which classes a head is for: names and their order decide, never their number."""

from pathlib import Path

import pytest

from vmp.backbones import zoo
from vmp.data.manifest import write_classes
from vmp.errors import ManifestError
from vmp.runs.heads import classes_of, explain_other_classes, run_of

NAMES = ("jump", "run", "walk")
NUMBERS = ("0", "1", "2")


def run(home: Path, classes, dataset: str = "mine") -> Path:
    checkpoint = home / "checkpoints/step_0000009/model.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    write_classes(home / "classes.txt", classes)
    (home / "config.yaml").write_text(
        f"name: run\ndataset: {{name: {dataset}}}\nbackbone: {{name: tiny}}\n"
        "vmp: {kind: none, lambda: 0}\ntrainer: {}\n"
    )
    return checkpoint


@pytest.mark.parametrize("depth", range(4))
def test_a_run_its_checkpoints_and_their_files_have_the_runs_classes(tmp_path, monkeypatch, depth):
    path = (run(tmp_path / "run", NAMES), *run_parents(tmp_path))[depth]
    assert run_of(path) == tmp_path / "run"
    assert classes_of(path) == NAMES
    assert explain_other_classes(path, NAMES, "another") == ""
    monkeypatch.chdir(tmp_path / "run")
    assert classes_of(path.relative_to(tmp_path / "run")) == NAMES


def run_parents(home: Path) -> list[Path]:
    return [home / "run" / part for part in ("checkpoints/step_0000009", "checkpoints", "")]


@pytest.mark.parametrize(
    ("here", "said"),
    [
        (("jump", "run"), "3 there, 2 here"),
        (("fall", "run", "walk"), "class 0 is 'jump' there and 'fall' here"),
        (("jump", "walk", "run"), "class 1 is 'run' there and 'walk' here (the same names in another order)"),
        (NUMBERS, "class 0 is 'jump' there and '0' here"),
    ],
)
def test_the_first_different_class_is_named(tmp_path, here, said):
    assert said in explain_other_classes(run(tmp_path, NAMES), here, "mine")


def test_numbers_do_not_identify_classes(tmp_path):
    checkpoint = run(tmp_path, NUMBERS, dataset="mine")
    assert explain_other_classes(checkpoint, NUMBERS, "mine") == ""
    assert "numbers for class names" in explain_other_classes(checkpoint, NUMBERS, "yours")


def test_the_classes_of_a_file_of_weights_are_in_a_file_beside_it(tmp_path):
    file = tmp_path / "weights.v2.pyth"
    said = explain_other_classes(file, NAMES, "mine")
    assert f"write their names to {tmp_path / 'weights.v2.classes.txt'}" in said
    write_classes(tmp_path / "weights.v2.classes.txt", NAMES)
    assert explain_other_classes(file, NAMES, "mine") == ""
    assert "class 0 is 'jump' there" in explain_other_classes(file, NUMBERS, "mine")
    (tmp_path / "weights.v2.classes.txt").write_text("a\na\n")
    with pytest.raises(ManifestError, match=r"classes.txt:2: class 'a' is listed twice"):
        explain_other_classes(file, NAMES, "mine")


def test_published_weights_name_their_dataset():
    assert zoo.find("slowfast", "ssv2").dataset == "Something-Something v2 (174 classes)"
    assert zoo.find("timesformer", "howto100m").dataset == "HowTo100M"
