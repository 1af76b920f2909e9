"""Schedules, checkpoints, records and scores, each against what it should be."""

import csv
import json
import math
import os
import pickle
import signal
import time

import numpy as np
import pytest
import torch
from runs import Ranks, Running

from vmp.data.columns import Clip
from vmp.data.manifest import Manifest
from vmp.data.present import Present
from vmp.engine import checkpoint, dist, schedule
from vmp.engine.evaluator import (
    Scores,
    _cross_entropy,
    accuracies,
    class_accuracies,
)
from vmp.engine.faults import explain_torch_errors
from vmp.engine.learner import Learner
from vmp.engine.loggers import Log, Metrics
from vmp.engine.plan import TrainingPlan, TrainingState
from vmp.errors import RunError
from vmp.runs import resume
from vmp.runs.records import read_metrics
from vmp.runs.score import Split, write_scores

# --- schedules -----------------------------------------------------------------------------------------------------


def test_cosine_with_the_warm_up_inside():
    f = schedule.cosine(epochs=30, warmup_epochs=3, warmup_start=0.1)
    assert f(0) == pytest.approx(0.1)
    top = 0.5 * (1 + math.cos(math.pi * 3 / 30))
    assert f(1.5) == pytest.approx((0.1 + top) / 2)
    assert f(3) == pytest.approx(top)
    assert f(15) == pytest.approx(0.5)
    assert f(30) == pytest.approx(0)
    assert schedule.cosine(epochs=10)(0) == 1


def test_the_official_steps():
    f = schedule.steps(at=(0, 11, 14), factors=(1, 0.1, 0.01))
    assert [f(e) for e in (0, 10.99, 11, 13.9, 14, 24.9)] == [1, 1, 0.1, 0.1, 0.01, 0.01]


# --- checkpoints ---------------------------------------------------------------------------------------------------

UNSCALED = torch.amp.GradScaler("cpu", enabled=False)
PLAN = TrainingPlan(epochs=9, batch=1, micro_batch=1, world=1, clips=1, seed=0)
MODEL = {"a": torch.arange(600.0), "b": torch.tensor([3])}
OPTIMIZER = {"state": {0: {"momentum_buffer": torch.ones(4)}}}
STATE = {"progress": {"step": 5, "bad": {"x": "y"}}}
WHOLE = {"model": MODEL, "optimizer": OPTIMIZER, "state": STATE}
FILES = ("model.safetensors", "optimizer.pt", "state.pt", "meta.json")


def test_a_checkpoint_is_what_was_written(tmp_path):
    checkpoint.save(tmp_path, "step_00000005", **WHOLE)
    found = checkpoint.newest(tmp_path)
    assert torch.equal(found.model["a"], MODEL["a"])
    assert torch.equal(found.state["optimizer"]["state"][0]["momentum_buffer"], torch.ones(4))
    assert found.state["progress"] == {"step": 5, "bad": {"x": "y"}}
    assert checkpoint.newest(tmp_path / "none") is None


def test_every_damage_is_noticed_and_the_one_before_is_taken(tmp_path):
    """Truncations and single bits, which torch and safetensors load without a word."""
    rng = np.random.default_rng(0)
    checkpoint.save(tmp_path, "step_00000001", **WHOLE)
    for trial in range(80):
        newer = checkpoint.save(tmp_path, "step_00000002", **WHOLE)
        file = newer / FILES[trial % 4]
        data = bytearray(file.read_bytes())
        if trial // 4 % 2:
            data = data[: rng.integers(0, len(data))]
        elif file.name == "meta.json":
            data = data[: len(data) // 2] + b"?" + data[len(data) // 2 + 1 :]
        else:
            data[rng.integers(0, len(data))] ^= 1 << int(rng.integers(0, 8))
        file.write_bytes(data)
        said = []
        found = checkpoint.newest(tmp_path, warn=said.append)
        if file.name == "meta.json" and found.path.name == "step_00000002":
            continue  # a digit of the torch version: not a sum
        assert found.path.name == "step_00000001"
        assert "step_00000002" in said[0]


def test_when_all_are_damaged_it_does_not_start_again(tmp_path):
    (checkpoint.save(tmp_path, "step_00000001", **WHOLE) / "state.pt").write_bytes(b"")
    with pytest.raises(RunError, match="all 1 checkpoints are damaged"):
        checkpoint.newest(tmp_path, warn=lambda text: None)


@pytest.mark.parametrize("file", ["optimizer.pt", "state.pt"])
def test_loading_runs_no_code(tmp_path, file):
    """A pickle that would touch a file, with sums that fit."""
    import hashlib

    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    path = checkpoint.save(tmp_path / "c", "step_00000001", **WHOLE)
    torch.save({"state": Bomb()}, path / file)
    meta = json.loads((path / "meta.json").read_text())
    meta["sha256"][file] = hashlib.sha256((path / file).read_bytes()).hexdigest()
    (path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises((RunError, pickle.UnpicklingError)):
        checkpoint.newest(tmp_path / "c", warn=lambda text: None)
    assert not (tmp_path / "ran").exists()


def test_pruning_keeps_the_newest_and_clears_interrupted_writes(tmp_path):
    """With each kept checkpoint stays the best epoch up to it, to which the run returns if the newer one is damaged."""
    bests = (0, 1, 1, 3)
    for step, best in enumerate(bests):
        for evaluated in range(2):  # before and after a validation: the second takes the place of the first
            state = {"progress": {"step": step, "best_epoch": best}}
            checkpoint.save(tmp_path, f"step_{step:08}_{evaluated:04}", **WHOLE | {"state": state})
    for epoch in (1, 2, 3):
        checkpoint.save(tmp_path, checkpoint.best_name(epoch), model=MODEL, state=STATE)
    (tmp_path / ".writing-step_00000009").mkdir()

    def names() -> list[str]:
        return sorted(path.name for path in tmp_path.iterdir())

    checkpoint.prune(tmp_path, keep=2)
    assert names() == ["best_0001", "best_0003", "step_00000002_0001", "step_00000003_0001"]
    damaged = tmp_path / "step_00000003_0001" / "state.pt"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-20])
    checkpoint.prune(tmp_path, keep=1)
    assert names() == [
        "best_0001",
        "best_0003",
        "step_00000003_0001",
    ]  # which of them it needs cannot be read
    damaged.write_bytes(whole)
    checkpoint.prune(tmp_path, keep=1)
    assert names() == ["best_0003", "step_00000003_0001"]


def test_a_checkpoint_of_the_same_tensors_links_their_files(tmp_path):
    """It does not need the one that it was linked to, and a damage of the file is a damage of both."""
    first = checkpoint.save(tmp_path, "step_00000001_0000", **WHOLE)
    state = {"progress": {"step": 5, "evaluated": 1}}
    second = checkpoint.save(tmp_path, "step_00000001_0001", model=first, optimizer=first, state=state)
    for file in FILES[:2]:
        assert (first / file).samefile(second / file)
    checkpoint.prune(tmp_path, keep=1)
    assert not first.exists()
    found = checkpoint.newest(tmp_path)
    assert torch.equal(found.model["a"], MODEL["a"])
    assert found.state == {**state, "optimizer": found.state["optimizer"]}
    assert torch.equal(found.state["optimizer"]["state"][0]["momentum_buffer"], torch.ones(4))
    third = checkpoint.save(tmp_path, "step_00000002_0001", model=second, optimizer=second, state=state)
    with open(third / "optimizer.pt", "r+b") as file:
        file.write(b"?")
    with pytest.raises(RunError, match="all 2 checkpoints are damaged"):
        checkpoint.newest(tmp_path, warn=lambda text: None)


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_one_and_says_so(tmp_path):
    """In a child whose files may not grow beyond 2 KB."""
    checkpoint.save(tmp_path, "step_00000001", model={"a": torch.ones(4)}, state={})
    code = f"""
import resource, signal, torch
from pathlib import Path
from vmp.engine import checkpoint
from vmp.errors import RunError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))
try:
    checkpoint.save(Path({str(tmp_path)!r}), "step_00000002", model={{"a": torch.ones(4000)}}, state={{}})
except RunError as error:
    print("told:", error)
"""
    done = Running([code], script="-c").wait()
    assert "could not be written" in done.stdout, done.stderr[-500:]
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000001"]
    assert checkpoint.newest(tmp_path) is not None


# --- records -------------------------------------------------------------------------------------------------------


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    for step in range(5):
        metrics.write({"step": step, "loss": 0.1 * step})
    metrics.close()
    again = Metrics(path, rows=3)
    again.write({"step": 3, "loss": 0.3})
    again.close()
    assert [row["step"] for row in read_metrics(tmp_path)] == [0, 1, 2, 3]
    with pytest.raises(RunError, match=r"4 rows.*after 9; some are lost"):
        Metrics(path, rows=9)
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"step": 4, "lo')  # cut short by a kill
    with pytest.raises(RunError, match=r"4 rows.*after 5"):
        Metrics(path, rows=5)
    Metrics(path, rows=4).close()
    assert path.read_text().splitlines()[-1] == '{"step": 3, "loss": 0.3}'
    Metrics(path, rows=0).close()
    assert path.read_bytes() == b""


# --- progress ------------------------------------------------------------------------------------------------------


def test_what_is_left_counts_steps_at_their_own_pace_and_what_comes_beside_them(monkeypatch):
    from vmp import progress

    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    shown = progress.Bar("train", 10, 2, None, False)
    shown.further = lambda step: 50 + step
    assert shown.left() is None
    for _ in range(2):
        now += 4
        shown.advance()
    with shown.untimed():
        now += 1000  # a validation
    assert shown.left() == 6 * 4 + 50 + 4
    now += 8
    shown.advance()
    assert shown.left() == pytest.approx((5 + 1) * 16 / 3 + 50)


# --- scores --------------------------------------------------------------------------------------------------------


def made_up(n=200, classes=7, seed=0):
    rng = np.random.default_rng(seed)
    scores = Scores(np.arange(n), rng.normal(size=(n, classes)).astype(np.float32), np.zeros(n), {}, None)
    return scores, rng.integers(0, classes - 1, n).tolist()  # the last class never occurs


def test_accuracies_by_hand():
    scores, labels = made_up()
    order = np.argsort(-scores.scores, axis=1)
    top1 = np.mean(order[:, 0] == labels) * 100
    top5 = np.mean([label in row[:5] for label, row in zip(labels, order, strict=True)]) * 100
    by_class = [np.mean(order[np.array(labels) == c, 0] == c) * 100 for c in range(6)]
    got = accuracies(scores, labels, expected=250)
    assert got["top1"] == pytest.approx(top1, abs=1e-4)
    assert got["top5"] == pytest.approx(top5, abs=1e-4)
    assert got["mean_class"] == pytest.approx(np.mean(by_class), abs=1e-4)
    assert got["top1_lower_bound"] == pytest.approx(top1 * 200 / 250, abs=1e-4)
    assert class_accuracies(scores, labels, classes=7)[6] == (0, 0)
    own = [
        [label in row[:5] for label, row in zip(labels, order, strict=True) if label == c] for c in range(7)
    ]
    assert class_accuracies(scores, labels, classes=7, k=5) == [(len(each), sum(each)) for each in own]


def test_counts_are_whole_numbers():
    """3 right of 400 are 0.75 %, which prints as 0.8; in float32 it was 0.74999998, which prints as 0.7."""
    values = np.zeros((400, 7), np.float32)
    values[:, 0] = 1
    labels = [0] * 3 + [6] * 397
    got = accuracies(Scores(np.arange(400), values, np.zeros(400), {}, None), labels, expected=400)
    assert got["top1"] == got["top1_lower_bound"] == 0.75
    assert f"{got['top1']:.1f}" == "0.8"


@pytest.mark.parametrize("classes", [7, 40])
def test_ties_are_broken_by_class_number_everywhere(tmp_path, classes):
    """Top-1, top-5, classes and predictions.csv against a plain sort of (-score, number), with few distinct scores."""
    rng = np.random.default_rng(5)
    values = rng.integers(0, 3, (2500, classes)).astype(np.float32)
    labels = rng.integers(0, classes, 2500).tolist()
    scores = Scores(np.arange(2500), values, np.zeros(2500), {}, None)
    order = [sorted(range(classes), key=lambda c: (-row[c], c)) for row in values.tolist()]
    right = [sum(label in o[:k] for label, o in zip(labels, order, strict=True)) for k in (1, 5)]
    got = accuracies(scores, labels, expected=2500)
    assert [got["top1"], got["top5"]] == [100 * n / 2500 for n in right]
    clips = tuple(Clip(f"c{i}", "x.mp4", label) for i, label in enumerate(labels))
    manifest = Manifest(tmp_path / "m.csv", tmp_path, tuple(f"class {c}" for c in range(classes)), clips)
    present = Present(clips, ("pyav",) * len(clips), len(clips))
    write_scores(scores, Split("val", manifest, present), tmp_path)
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert [[int(c) for c in row["top5"].split()] for row in rows] == [o[:5] for o in order]
    assert sum(row["label"] in row["top5"].split() for row in rows) == right[1]
    assert sum(n for _, n in class_accuracies(scores, labels, classes=classes)) == right[0]


@pytest.mark.slow  # for torchmetrics, which takes seconds to import
@pytest.mark.parametrize("classes", [3, 7, 40])
def test_accuracies_are_those_of_torchmetrics(classes):
    import torchmetrics.functional.classification as official

    scores, labels = made_up(3000, classes)
    got = accuracies(scores, labels, expected=3000)
    target, values = torch.tensor(labels), torch.from_numpy(scores.scores)
    for name, k in (("top1", 1), ("top5", min(5, classes))):
        told = official.multiclass_accuracy(values, target, num_classes=classes, average="micro", top_k=k)
        assert got[name] == pytest.approx(100 * float(told), abs=1e-4)
    told = official.multiclass_accuracy(values, target, num_classes=classes, average=None)
    occurs = torch.bincount(target, minlength=classes) > 0
    assert got["mean_class"] == pytest.approx(100 * float(told[occurs].mean()), abs=1e-4)


def test_top5_with_fewer_classes_and_no_clips():
    scores, labels = made_up(classes=3)
    assert accuracies(scores, labels, expected=200)["top5"] == 100
    with pytest.raises(RunError, match="nothing to measure"):
        accuracies(Scores(np.zeros(0, int), np.zeros((0, 3)), np.zeros(0), {0: "x"}, None), [0], expected=1)


@pytest.mark.parametrize("reduce", ["probs", "logits"])
def test_the_cross_entropy_of_a_clip_with_views_of_different_weights(reduce):
    """Against the definition, with every view written out as often as it counts."""
    rng = np.random.default_rng(1)
    logits, weights, label = rng.normal(0, 3, (3, 5)), (2, 1, 1), 4
    each = np.repeat(logits, weights, axis=0)
    softmax = lambda x: np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)  # noqa: E731
    mean = softmax(each).mean(axis=0) if reduce == "probs" else softmax(each.mean(axis=0))
    got = _cross_entropy(torch.tensor(logits), torch.tensor(weights), label, reduce=reduce)
    assert got == pytest.approx(-np.log(mean[label]), rel=1e-12)
    far = torch.tensor([[0.0, 2000.0]])  # a probability of 0 in float32, and in float64
    assert _cross_entropy(far, torch.ones(1), 0, reduce=reduce) == 2000


def test_predictions_list_every_clip(tmp_path):
    scores = Scores(
        np.array([0, 2]),
        np.array([[0.9, 0.1], [0.2, 0.8]], np.float32),
        np.array([0.1, 0.2]),
        {1: "unreadable: no"},
        None,
    )
    clips = [
        Clip("c0", "a, b/x.mp4", 0, start=30, end=90, frames=200),
        Clip("c1", "y.mp4", 1),
        Clip("c2", "z.mp4", 0, frames=44),
    ]
    gone = Clip("c9", "gone.mp4", 1, start=5, end=20)
    manifest = Manifest(tmp_path / "val.csv", tmp_path, ("walk, fast", "run"), (*clips, gone))
    present = Present(tuple(clips), ("pyav",) * 3, 4, {"c9": "missing: gone.mp4"})
    write_scores(scores, Split("val", manifest, present), tmp_path)
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    said = [(r["id"], r["predicted"], r["predicted_name"], r["top5"], r["problem"]) for r in rows]
    assert said == [
        ("c0", "0", "walk, fast", "0 1", ""),
        ("c2", "1", "run", "1 0", ""),
        ("c1", "", "", "", "unreadable: no"),
        ("c9", "", "", "", "missing: gone.mp4"),
    ]
    assert [(r["path"], r["start"], r["end"], r["label"], r["label_name"]) for r in rows] == [
        ("a, b/x.mp4", "30", "90", "0", "walk, fast"),
        ("z.mp4", "0", "44", "0", "walk, fast"),
        ("y.mp4", "0", "", "1", "run"),
        ("gone.mp4", "5", "20", "1", "run"),
    ]
    classes = list(csv.DictReader((tmp_path / "per_class.csv").open()))
    assert classes[0] == {"class": "0", "name": "walk, fast", "clips": "2", "right": "1", "accuracy": "50.00"}
    assert classes[1]["accuracy"] == ""


def test_a_worker_that_ends_while_its_end_is_being_explained():
    """torch's handler of SIGCHLD raises wherever the process is: here while the clips are looked up that were read."""
    ended = "DataLoader worker (pid 7) is killed by signal: Killed."

    def raises(number, frame):
        raise RuntimeError(ended)

    asked = []

    def being_read():
        asked.append(1)
        if len(asked) == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(1)
        return ["train/5"]

    before = signal.signal(signal.SIGUSR1, raises)
    try:
        with (
            pytest.raises(RunError, match=r"(?s)a loader process died.*train/5"),
            explain_torch_errors(being_read),
        ):
            raise ConnectionResetError("the batch was cut short")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(asked) == 2
    with pytest.raises(RuntimeError, match="something else"), explain_torch_errors(being_read):
        raise RuntimeError("something else")


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "Triton Error [CUDA]: out of memory",
        "could not execute a primitive",
    ],
)
def test_memory_that_runs_out_has_many_names(said):
    with pytest.raises(RunError, match=r"out of memory.*micro_batch"), explain_torch_errors(None):
        raise RuntimeError(said)


def test_a_parameter_without_a_gradient_under_several_processes(tmp_path):
    """The real error of torch, which one process in a group of its own gives, too."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = torch.nn.Linear(2, 2)
        model.unused = torch.nn.Parameter(torch.zeros(1))
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
        wrapped(torch.ones(1, 2)).sum().backward()
        with pytest.raises(RunError, match=r"get no gradient.*requires_grad_"), explain_torch_errors(None):
            wrapped(torch.ones(1, 2))
    finally:
        torch.distributed.destroy_process_group()


def test_a_time_limit_that_another_process_noticed_first_is_no_error_here():
    """In validation: the other one stops at its next batch, while this one waits for its scores."""
    code = """
from vmp.engine import dist
from vmp.engine.faults import explain_torch_errors
from vmp.engine.stopping import Stopped, Stopping
processes = dist.start("cpu")
processes.maximum([0])
try:
    with Stopping(0.03) as stopping, explain_torch_errors(check_stop=stopping.check):
        while processes.first:
            stopping.check()
        processes.maximum([0])
except Stopped as stopped:
    raise SystemExit(stopped.code)
"""
    done = Ranks([code], ranks=2, script="-c").wait()
    assert [one.returncode for one in done] == [75, 75], [one.stderr[-2000:] for one in done]


def test_a_session_with_other_code_is_recorded_and_logged(tmp_path, monkeypatch):
    log = Log(tmp_path / "log.txt")
    here = dist.Processes(0, 1, torch.device("cpu"))
    state = TrainingState()
    for step, commit in enumerate(("aaa", "aaa", "bbb", None)):
        state.step = 10 * step
        monkeypatch.setattr(resume, "commit", lambda commit=commit: commit)
        resume.record_session(state, here, log)
    assert [(s["step"], s["commit"]) for s in state.sessions] == [(0, "aaa"), (20, "bbb"), (30, None)]
    said = [line for line in (tmp_path / "log.txt").read_text().splitlines() if "warning" in line]
    assert len(said) == 2
    assert "the code has changed since the last session (commit aaa -> bbb): steps after 20 use" in said[0]


def test_a_checkpoint_of_another_version_is_refused_with_its_commit(tmp_path):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1)
    before = {"step": 3, "sittings": [{"step": 0, "commit": "aaa"}, {"step": 2, "commit": "bbb"}]}
    where = checkpoint.save(
        tmp_path / "run" / "checkpoints",
        "step_3",
        model=model.state_dict(),
        optimizer=optimizer.state_dict(),
        state={"progress": before},
    )
    with pytest.raises(RunError, match=r"(?s)another version.*commit bbb.*init_from=.*run tag=WORD"):
        resume.restore(checkpoint.load(where), Learner(model, optimizer, UNSCALED), PLAN)
