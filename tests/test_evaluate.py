"""evaluate.py on other videos than the run's, and of weights that nothing here has trained."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from runs import QUICK

from vmp.commands.convert import convert
from vmp.runs.run import read_run

SIZES = [word for word in QUICK if word.startswith(("backbone.width", "backbone.crop", "backbone.frames"))]


@pytest.fixture
def evaluate(script, monkeypatch, tmp_path):
    """Run the command in an empty folder: its exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: script("evaluate", *words, "workers=0", "device=cpu")


def listed(path: Path, data: Path, labels: list[str]) -> Path:
    """The validation videos of `data`, backwards, with the labels of their classes."""
    rows = [f"val/{i:03}.mp4,{labels[i % 2]}\n" for i in reversed(range(9))]
    path.write_text("path,label\n" + "".join(rows))
    return path


def same(found: dict, run: Path) -> None:
    own = read_run(run).result
    for key in ("top1", "top5", "mean_class", "cross_entropy", "variation"):
        assert found[key] == pytest.approx(own[key], abs=1e-4), key
    assert found["clips"]["present"] == 9


@pytest.mark.slow
def test_a_run_on_a_list_of_other_videos(evaluate, finished, data, tmp_path):
    """By name or by number, the labels mean the run's classes, whatever their order in the list."""
    for name, labels in {"names": ["brighter", "darker"], "numbers": ["0", "1"]}.items():
        (tmp_path / name).mkdir()
        file = listed(tmp_path / name / "other.csv", data, labels)
        code, said, _ = evaluate(f"run={finished}", f"list={file}", f"root={data}")
        assert code == 0
    results = list((finished / "evaluations").glob("list-other-*/result.json"))
    assert len(results) == 2  # none replaces another of its name
    for result in results:
        same(json.loads(result.read_text()), finished)
    file = listed(tmp_path / "other.csv", data, ["brighter", "dim"])
    code, _, errors = evaluate(f"run={finished}", f"list={file}", f"root={data}")
    assert code == 2
    assert "other.csv:3" in errors
    assert "'dim'" in errors
    code, _, errors = evaluate(f"run={finished}", f"list={tmp_path / 'gone.csv'}")
    assert (code, "gone.csv: not found" in errors) == (2, True)


def test_a_list_is_in_no_folder_of_manifests(evaluate, finished, data, tmp_path):
    file = listed(tmp_path / "other.csv", data, ["brighter", "darker"])
    code, _, errors = evaluate(f"run={finished}", f"list={file}", f"folder={tmp_path}")
    assert code == 2
    assert "it has no effect with list" in errors


def with_dataset(run, to, dataset: str):
    """A copy of a run that says that it was trained on another dataset."""
    shutil.copytree(run, to, copy_function=os.link)
    (to / "config.yaml").unlink()
    changed = re.sub(r"(?m)^dataset:\n(  .*\n)+", f"dataset: {dataset}\n", (run / "config.yaml").read_text())
    (to / "config.yaml").write_text(changed)
    return to


def test_relative_paths_of_a_run_from_another_folder(evaluate, finished, tmp_path):
    own = "{kind: folders, name: mine, root: mine, csv: null, ratio: [0.8, 0.2, 0], folds: null, fold: null, "
    own += "seed: 0, fps: null, flip: 0.5}"
    code, _, errors = evaluate(f"run={with_dataset(finished, tmp_path / 'run', own)}")
    assert code == 2
    assert (
        f"its dataset.root = mine is relative to the folder in which the run was trained, and not in {tmp_path}"
        in errors
    )
    assert "root=FOLDER" in errors
    code, _, errors = evaluate(f"run={tmp_path / 'run'}", "root=nowhere")
    assert (code, "error: root = nowhere: no such folder" in errors) == (2, True), errors


def test_generated_videos_have_no_paths_to_be_relative(evaluate, finished, tmp_path):
    own = (
        "{kind: motions, name: tried, classes: ten, camera: static, train: 10, val: 10, test: 10, frames: 9, "
    )
    own += "size: 32, fps: 30, noise: 0, crf: 23, seed: 0, flip: 0}"
    code, _, errors = evaluate(f"run={with_dataset(finished, tmp_path / 'run', own)}", "split=val")
    assert (code, "the clips of val are not those" in errors, "relative" in errors) == (2, True, False), (
        errors
    )
    assert "name a list of them: list=FILE" in errors
    assert "tag=WORD" not in errors  # a key of train.py


def test_more_loader_processes_than_memory_holds_are_refused(script, finished):
    code, _, errors = script("evaluate", f"run={finished}", "workers=10000")
    assert (code, "workers = 10000: each is a process" in errors) == (2, True)


@pytest.mark.slow
def test_a_run_that_is_not_finished_and_a_folder_that_cannot_be_written(evaluate, finished, tmp_path):
    """The first is said, since its result looks like any other; the second before anything is scored."""
    run = tmp_path / "run"
    shutil.copytree(finished, run, ignore=shutil.ignore_patterns("evaluations", "result.json"))
    code, said, errors = evaluate(f"run={run}", "split=val")
    assert code == 0, errors
    (note,) = [line for line in said.splitlines() if line.startswith("note: ")]
    assert f"{run} is not finished; these are the weights of its checkpoint step_" in note
    shutil.rmtree(run / "evaluations")
    (run / "evaluations").touch()
    code, said, errors = evaluate(f"run={run}", "split=val")
    assert code == 2
    assert (
        f"cannot be written ({run / 'evaluations'}: not a folder); evaluate a copy of the run's folder"
        in errors
    )
    assert evaluate(f"run={finished}", "split=val")[1].count("note: ") == 0


@pytest.mark.slow
def test_weights_are_tested_as_they_are(evaluate, finished, data, tmp_path):
    """A run's weights and prompts in a file of their own give the run's numbers; in another order they are refused."""
    file = tmp_path / "w.safetensors"
    convert(finished, file, backbone=None, to="ours", force=False)
    words = ("backbone=tiny", f"weights={file}", *SIZES, "vmp=learned")
    where = ("dataset=manifest", f"dataset.folder={data}", "split=val")
    code, said, errors = evaluate(*words, *where)
    assert code == 0, errors
    assert "2 classes in the order of the weights: 0 brighter, 1 darker" in said
    (result,) = (tmp_path / "outputs").rglob("published/val_*/result.json")
    found = json.loads(result.read_text())
    same(found, finished)
    assert (found["weights"]["source"], found["published_top1"]) == (str(file), None)
    other = listed(tmp_path / "l.csv", data, ["brighter", "darker"])
    code, said, errors = evaluate(*words, f"list={other}", f"root={data}")
    assert code == 0, errors
    (result,) = (tmp_path / "outputs").glob("list-l-*/**/result.json")
    same(json.loads(result.read_text()), finished)

    file.with_suffix(".classes.txt").write_text("darker\nbrighter\n")
    code, _, errors = evaluate(*words, *where)
    assert code == 2
    assert "class 0 is 'darker' there and 'brighter' here (the same names in another order)" in errors
    for more, error in (
        (("run=x",), "name one model"),
        (("checkpoint=best",), "published weights have none"),
        (("folder=x",), "use dataset.folder=x"),
        (("trainer.epochs=x",), "trainer.epochs"),
    ):
        code, _, errors = evaluate(*words, *where, *more)
        assert (code, error in errors) == (2, True), errors
