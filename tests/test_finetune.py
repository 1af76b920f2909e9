"""Real runs that start from weights or from other runs (Table 2 and 4), and SlowFast with prompts on both pathways."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from runs import Done, Running, without_validation
from safetensors.numpy import load_file

from vmp.data.manifest import write_classes
from vmp.runs.records import read_metrics

COMMON = (
    *("dataset=manifest", "recipe=tiny", "trainer.epochs=2", "trainer.batch_size=4"),
    *("optim=sgd_cosine_tiny", "optim.lr=0.02", "trainer.channels_last=false"),
    *(
        "trainer.workers=0",
        "trainer.threads=1",
        "trainer.log_every=1",
        "backbone.crop=32",
        "trainer.views=1x1",
    ),
)
VIT = (
    *("backbone=timesformer", "backbone.weights=none", "backbone.frames=4", "backbone.stride=1"),
    *("backbone.dim=24", "backbone.depth=2", "backbone.heads=3", "backbone.patch=8"),
)


@pytest.mark.parametrize("how", ["train.batch_norm=frozen", "train.freeze=backbone"])
def test_frozen_batch_norm_keeps_its_statistics_from_the_first_step(small, data, tmp_path, how):
    """Also without an evaluation, after which models are told to train again."""
    own = [how, f"init_from='{small}'", "backbone.width=4", "trainer.epochs=1"]
    run = finished(without_validation(data, tmp_path / "data"), tmp_path / "out", *own)
    assert any("running_mean" in name for name in weights(run))
    assert not [name for name in changed(small, run) if "running" in name or "num_batches" in name]


@pytest.fixture(scope="module")
def small(data, tmp_path_factory):
    return finished(
        data, tmp_path_factory.mktemp("small"), "vmp=none", "backbone.width=4", "backbone.weights=none"
    )


@pytest.fixture(scope="module")
def other_data(data, tmp_path_factory):
    """The same videos in as many classes, by other names."""
    home = tmp_path_factory.mktemp("other") / "data"
    shutil.copytree(data, home)
    write_classes(home / "classes.txt", ("waxing", "waning"))
    return home


def begin(data: Path, out: Path, *overrides: str) -> Running:
    return Running([*COMMON, f"dataset.folder='{data}'", f"output='{out}'", *overrides])


def finished(data: Path, out: Path, *overrides: str) -> Path:
    """The folder of a run that has to succeed."""
    begin(data, out, *overrides).succeed()
    (result,) = out.glob("manifest/*/*/seed0/result.json")
    return result.parent


def weights(where: Path) -> dict[str, np.ndarray]:
    return load_file(max((where / "checkpoints").glob("step_*")) / "model.safetensors")


def changed(a: Path, b: Path) -> set[str]:
    old, new = weights(a), weights(b)
    return {name for name in new if name not in old or not np.array_equal(old[name], new[name])}


def start_of(where: Path) -> dict:
    return json.loads((where / "weights.json").read_text())


@pytest.fixture(scope="module")
def baseline(data, tmp_path_factory):
    """Fine-tuned without prompts: Table 2's "Baseline"."""
    where = finished(data, tmp_path_factory.mktemp("baseline"), *VIT, "vmp=none")
    assert (where / "classes.txt").read_text() == "brighter\ndarker\n"
    assert start_of(where) == {"source": "random"}
    return where


PROMPTS = {"prompts.video.power_norm.m", "prompts.video.power_norm.n"}
HEAD = {"backbone.head.weight", "backbone.head.bias"}


def test_only_the_prompts_are_trained_in_front_of_a_frozen_baseline(data, baseline, tmp_path):
    """Table 2, "VMPs + frozen Baseline"."""
    freeze = ("train.freeze=backbone_and_head", f"init_from='{baseline}'", "vmp.lambda=0.1")
    where = finished(data, tmp_path, *VIT, *freeze)
    assert changed(baseline, where) == PROMPTS
    result = json.loads((where / "result.json").read_text())
    assert result["parameters_trained"] == 2
    assert result["weights"]["reinitialised"] == []
    assert where.parts[-3:-1] == ("timesformer-run", "learned_lambda0.1_frozen_backbone_and_head")
    assert "2 trained" in (where / "log.txt").read_text()


@pytest.mark.slow
def test_a_second_round_goes_on_with_the_prompts(data, baseline, tmp_path):
    """Table 2, end to end from a fine-tuned model: all is taken over, m and n too where the run has them."""
    first = finished(data, tmp_path / "1", *VIT, f"init_from='{baseline}'", "vmp.m=0.8", "vmp.n=-0.2")
    assert start_of(first)["prompts_taken"] == []
    second = finished(data, tmp_path / "2", *VIT, f"init_from='{first}'")
    assert start_of(second)["prompts_taken"] == ["m", "n"]
    learned = weights(first)["prompts.video.power_norm.m"].item()
    begun = read_metrics(second)[0]
    assert learned != 0.8
    assert (begun["step"], begun["vmp/m"]) == (0, learned)
    # what the config sets is what the run starts with
    third = finished(data, tmp_path / "3", *VIT, f"init_from='{first}'", "vmp.slope=20")
    assert start_of(third)["prompts_taken"] == ["n"]
    assert "m of the weights are not loaded" in " ".join(start_of(third)["warnings"])
    assert read_metrics(third)[0]["vmp/slope"] == pytest.approx(20, rel=1e-5)
    assert read_metrics(third)[0]["vmp/n"] == begun["vmp/n"]


def starting_from(key: str, run: Path) -> list[str]:
    return [*(o for o in VIT if not o.startswith(key)), f"{key}='{run}'"]


@pytest.mark.parametrize("key", ["init_from", pytest.param("backbone.weights", marks=pytest.mark.slow)])
def test_cross_dataset_trains_only_a_new_head(data, other_data, baseline, tmp_path, key):
    """Table 4: other classes, though as many, need a new head; and nothing but it is trained."""
    only_head = ("train.freeze=all_but_head", "vmp=none")
    where = finished(other_data, tmp_path, *starting_from(key, baseline), *only_head)
    assert "class 0 is 'brighter' there and 'waxing' here" in " ".join(start_of(where)["warnings"])
    assert changed(baseline, where) == HEAD
    assert set(start_of(where)["reinitialised"]) == {name.removeprefix("backbone.") for name in HEAD}


@pytest.mark.slow
def test_weights_are_needed_once_and_a_killed_run_goes_on_without_them(data, baseline, tmp_path):
    file = tmp_path / "pretrained.safetensors"
    shutil.copy(max((baseline / "checkpoints").glob("step_*")) / "model.safetensors", file)
    from_file = [o for o in VIT if "weights" not in o] + [f"backbone.weights='{file}'"]
    straight = finished(data, tmp_path / "straight", *from_file)
    process = begin(data, tmp_path / "killed", *from_file, "trainer.save_minutes=0.000001")
    while not list(tmp_path.glob("killed/manifest/*/*/seed0/checkpoints/step_*")) and not process.over():
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    file.unlink()
    killed = finished(data, tmp_path / "killed", *from_file)
    assert changed(straight, killed) == set()
    assert start_of(killed) == start_of(straight)
    assert "continuing from" in (killed / "log.txt").read_text()


def refused(data: Path, out: Path, *overrides: str) -> str:
    done: Done = begin(data, out, *overrides).wait()
    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert not list(out.glob("**/checkpoints"))
    return done.stderr


def test_weights_that_do_not_fit_are_told(data, baseline, tmp_path):
    deeper = [o for o in VIT if "depth" not in o] + ["backbone.depth=3", f"init_from='{baseline}'"]
    assert "blocks.2" in refused(data, tmp_path, *deeper)
    absent = refused(data, tmp_path, *VIT, "init_from=nowhere")
    assert "nowhere" in absent
    public = refused(data, tmp_path, "backbone=slowfast", "backbone.weights=k600", "backbone.width=8")
    assert "slowfast" in public
    assert "k400" in public


@pytest.mark.slow
def test_random_parts_are_not_frozen(data, other_data, baseline, tmp_path):
    start = f"init_from='{baseline}'"
    no_prompts = refused(data, tmp_path / "a", *VIT, "train.freeze=all_but_head", start)
    assert "would freeze randomly initialised parameters" in no_prompts
    assert "m of the prompts" in no_prompts
    for key in ("init_from", "backbone.weights"):
        frozen = (*starting_from(key, baseline), "train.freeze=backbone_and_head")
        new_head = refused(other_data, tmp_path / "b", *frozen)
        assert "head.weight" in new_head
        assert "class 0 is 'brighter' there and 'waxing' here" in new_head
    # nothing was trained, so the folder is free for the corrected command
    where = finished(data, tmp_path / "a", *VIT, "train.freeze=backbone", start, "trainer.epochs=1")
    assert changed(baseline, where) == PROMPTS | HEAD


@pytest.mark.slow
def test_a_checkpoint_of_a_run_is_known_by_the_run(data, baseline, tmp_path):
    newest = max((baseline / "checkpoints").glob("step_*"))
    for number, path in enumerate(
        (max((baseline / "checkpoints").glob("best_*")), newest / "model.safetensors")
    ):
        where = finished(data, tmp_path / str(number), *VIT, f"init_from='{path}'", "trainer.epochs=1")
        assert start_of(where)["reinitialised"] == []
    shutil.copy(newest / "model.safetensors", tmp_path / "alone.safetensors")
    alone = refused(data, tmp_path / "out", *VIT, f"init_from='{tmp_path / 'alone.safetensors'}'")
    assert "neither a run of this project" in alone
    assert "backbone.weights=" in alone


@pytest.mark.slow
def test_what_the_source_did_otherwise_is_told(data, baseline, tmp_path):
    first = finished(data, tmp_path / "1", *VIT, "vmp.epsilon=0.2", "trainer.epochs=1")
    changed = ("backbone.stride=2", "vmp.form=two_sided", "vmp.scales=[1,2]")
    second = finished(data, tmp_path / "2", *VIT, f"init_from='{first}'", *changed, "trainer.epochs=1")
    told = " ".join(start_of(second)["warnings"])
    assert "vmp.form was pixel in the run it starts from, and is two_sided here" in told
    assert "vmp.scales was [1] in the run it starts from, and is [1, 2] here" in told
    assert "vmp.epsilon was 0.2 in the run it starts from, and is 0.1" in told
    assert "backbone.stride was 1" in told
    bare = finished(data, tmp_path / "3", *VIT, f"init_from='{first}'", "vmp=none", "trainer.epochs=1")
    assert "m, n of the weights are not loaded" in " ".join(start_of(bare)["warnings"])
    assert "m, n of the weights are not loaded" in (bare / "log.txt").read_text()


@pytest.mark.slow
def test_a_start_on_blank_clips_is_told(data, tmp_path):
    dark = finished(data, tmp_path / "dark", *VIT, "vmp.m=-0.5", "vmp.n=0.5", "trainer.epochs=1")
    assert "nearly blank" in (dark / "log.txt").read_text()
    light = finished(data, tmp_path / "light", *VIT, "trainer.epochs=1")
    text = (light / "log.txt").read_text()
    assert "attention on a still pixel is 0.842" in text  # 1 / (1 + exp(-9.79 * 0.171))
    assert "nearly blank" not in text


@pytest.mark.slow
def test_slowfast_learns_a_slope_for_each_pathway(data, tmp_path):
    small = ("backbone=slowfast", "backbone.weights=none", "backbone.width=8", "backbone.frames=8")
    where = finished(data, tmp_path, *small, "backbone.stride=1", "trainer.epochs=1", "vmp.m=0.5")
    assert where.parts[-2] == "learned_lambda1_both"
    assert "sees 8 frames of 32 pixels; 9 are decoded" in (where / "log.txt").read_text()
    rows = [row for row in read_metrics(where) if row["kind"] == "train"]
    for pathway in ("slow", "fast"):
        for scalar in ("slope", "shift", "m", "n"):
            assert f"vmp/{pathway}/{scalar}" in rows[0]
        assert len({row[f"vmp/{pathway}/slope"] for row in rows}) > 1
    assert rows[-1]["vmp/slow/m"] != rows[-1]["vmp/fast/m"]
    assert rows[0]["train/loss"] == pytest.approx(
        rows[0]["train/cross_entropy"] + rows[0]["train/variation"], rel=1e-4
    )
    result = json.loads((where / "result.json").read_text())
    assert {"slow/slope", "fast/shift"} <= set(result["scalars"])
    assert (result["views"], result["reduce"]) == ([1, 1], "probs")

    def evaluate(*overrides):
        return Running([f"run='{where}'", "split=val", "workers=0", *overrides], script="evaluate.py").wait()

    assert evaluate("views=2x3", "degrade=half", "reduce=logits").returncode == 0
    again = json.loads((where / "evaluations/val_last_2x3_half_logits/result.json").read_text())
    assert (again["views"], again["degrade"], again["reduce"]) == ([2, 3], "half", "logits")
    assert "degrade = 'blur'" in evaluate("degrade=blur").stderr
    assert "reduce = 'max'" in evaluate("reduce=max").stderr
    assert "views = '10by3'" in evaluate("views=10by3").stderr
