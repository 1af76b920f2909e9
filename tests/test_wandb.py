"""What wandb's own files, and its server, hold of a run: each row once, also after kills."""

import json
import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tracked import (
    config_for,
    logged,
    plain,
    rows_until,
    run_session,
    wandb_files,
    write_result,
)

from vmp.engine.loggers import Metrics
from vmp.tracking import start_tracker
from vmp.tracking.summary import HIDDEN
from vmp.tracking.tracker import Mirror
from vmp.tracking.wandb_files import read_history, read_records, rows_held, session_files
from vmp.tracking.wandb_run import PROJECT

pytestmark = pytest.mark.usefixtures("no_account")


@pytest.mark.slow
def test_wandb_holds_the_rows_their_axes_and_what_the_run_is(tmp_path):
    options = ["logger.tags=[mine]", "vmp.lambda=2.5", "init_from='https://me:hunter2@host/run'"]
    config, said = (
        config_for(tmp_path, "logger=wandb", "backbone=slowfast", "vmp.placement=slow", *options),
        [],
    )
    rows = rows_until(2)
    tracker = run_session(config, rows, said=said)
    assert not tracker.failed
    assert len(said) == 1
    assert "no API key" in said[0]
    assert "wandb sync" in said[0]
    (file,) = wandb_files(config.folder)
    history = read_history(file)
    assert [plain(row) for row in history] == [logged(row) for row in rows]
    assert [row["_step"] for row in history] == list(range(len(rows)))

    records = list(read_records(file))
    axes = {
        m.metric.glob_name or m.metric.name: m.metric
        for m in records
        if m.WhichOneof("record_type") == "metric"
    }
    wanted = {"train/*": "step", "vmp/*": "step", "val/*": "epoch", "val/top1": "epoch"}
    assert {name: axes[name].step_metric for name in wanted} == wanted
    assert axes["val/top1"].summary.max
    assert axes["step"].options.hidden

    run = next(r.run for r in records if r.WhichOneof("record_type") == "run")
    assert (run.project, run.job_type, run.display_name) == (PROJECT, "train", "learned_lambda2.5_slow seed0")
    assert run.run_group == "motions-static/slowfast-run"
    assert list(run.tags) == ["motions-static", "slowfast", "slow", "weights-run", "vmp-learned", "mine"]
    told = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert told["vmp"]["lambda"] == 2.5
    assert told["about"]["model"] == "slowfast (slow)"
    assert told["about"]["commit"]
    assert told["about"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert told["init_from"] == f"https://{HIDDEN}@host/run"
    assert b"hunter2" not in file.read_bytes()
    assert not (Path.cwd() / "wandb").exists()
    kept = json.loads((config.folder / "wandb.json").read_text())
    assert kept["id"] == run.run_id
    exits = [r.exit.exit_code for r in records if r.WhichOneof("record_type") == "exit"]
    assert exits == [0]


@pytest.mark.slow
@pytest.mark.parametrize("left", ["whole", "cut"])
def test_rows_that_a_session_lost_are_sent_later_and_nothing_is_sent_twice(tmp_path, left):
    """The run falls back to a checkpoint and writes rows again; wandb's file may have lost its end."""
    config, rows = config_for(tmp_path, "logger=wandb"), rows_until(4)
    run_session(config, rows[:14], code=137)
    (first,) = wandb_files(config.folder)
    if left == "cut":  # in the middle of a row's record
        whole = first.read_bytes()
        first.write_bytes(whole[: whole.rindex(b"train/loss", 0, whole.rindex(b"train/loss") - 2000)])
    held = len(read_history(first))
    assert held == 14 if left == "whole" else 0 < held < 14
    run_session(config, rows, keep=8)
    files = session_files(config.folder, json.loads((config.folder / "wandb.json").read_text())["id"])
    assert len(files) == 2
    assert files[0] == first
    history = [row for file in files for row in read_history(file)]
    assert [row["_step"] for row in history] == list(range(len(rows)))
    assert [plain(row) for row in history] == [logged(row) for row in rows]


@pytest.mark.parametrize("lost", [0, 5])
def test_an_online_run_that_continues_is_the_same_run_with_each_row_once(tmp_path, server, lost):
    """The server is asked what it has: rows that it did not get before a kill come with the next sitting."""
    config, rows, said = config_for(tmp_path, "logger=wandb"), rows_until(4), []
    run_session(config, rows[:14], code=137, said=said)
    (run_id,) = server.runs
    assert said == [f"wandb: {server.url}/somebody/{PROJECT}/runs/{run_id}"]
    assert server.ended == {run_id: 137}
    assert len(server.history[run_id]) == 14
    del server.history[run_id][14 - lost :]
    run_session(config, rows, keep=8, said=said)
    assert list(server.runs) == [run_id]
    assert server.ended == {run_id: 0}
    history = server.history[run_id]
    assert [row["_step"] for row in history] == list(range(len(rows)))
    assert [plain(row) for row in history] == [logged(row) for row in rows]
    assert server.runs[run_id]["groupName"] == "motions-static/tiny-motions"
    assert not [line for line in said if "warning" in line]


def test_a_run_that_was_offline_first_is_complete_on_the_server(tmp_path, server, monkeypatch):
    import wandb

    config, rows = config_for(tmp_path, "logger=wandb"), rows_until(3)
    monkeypatch.setenv("WANDB_MODE", "offline")
    run_session(config, rows[:9])
    assert not server.runs
    monkeypatch.delenv("WANDB_MODE")
    wandb.teardown()
    run_session(config, rows, keep=8)
    (run_id,) = server.runs
    assert run_id == json.loads((config.folder / "wandb.json").read_text())["id"]
    assert [plain(row) for row in server.history[run_id]] == [logged(row) for row in rows]


@pytest.mark.slow
def test_a_server_that_goes_away_costs_only_the_timeout_at_the_end(tmp_path, server):
    config, rows = config_for(tmp_path, "logger=wandb", "logger.finish_timeout=2"), rows_until(3)
    tracker = start_tracker(config, config.folder, first=True, log=print)
    tracker.log_row(rows[0])
    server.close()
    for row in rows[1:]:
        tracker.log_row(row)
    began = time.monotonic()
    tracker.close()
    assert time.monotonic() - began < 12
    (file,) = wandb_files(config.folder)
    assert [plain(row) for row in read_history(file)] == [logged(row) for row in rows]  # for wandb sync


def test_tracking_that_begins_half_way_includes_the_first_half(tmp_path):
    rows = rows_until(3)
    run_session(config_for(tmp_path), rows[:9])
    config = config_for(tmp_path, "logger=wandb")
    run_session(config, rows, keep=7)
    (file,) = wandb_files(config.folder)
    assert [plain(row) for row in read_history(file)] == [logged(row) for row in rows]


def test_another_config_in_the_same_folder_is_another_wandb_run(tmp_path):
    ids = []
    for extra in ([], ["trainer.workers=1", "logger.tags=[x]"], ["optim.lr=0.5"]):
        config = config_for(tmp_path, "logger=wandb", "logger.max_panels=0", *extra)
        run_session(config, rows_until(1))
        ids.append(json.loads((config.folder / "wandb.json").read_text())["id"])
    assert ids[0] == ids[1] != ids[2]
    assert rows_held(config.folder, ids[0]) == rows_held(config.folder, ids[2]) == 5


def test_a_copy_of_a_run_is_another_wandb_run_and_a_moved_run_is_the_same(tmp_path, server):
    rows, said = rows_until(3), []
    config = config_for(tmp_path / "a", "logger=wandb")
    run_session(config, rows[:9], code=137)
    (first,) = server.runs
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    (tmp_path / "link").symlink_to("a")
    run_session(
        config_for(tmp_path / "link", "logger=wandb"), rows[:11], keep=9, said=said
    )  # the same folder
    assert list(server.runs) == [first]
    (tmp_path / "a").rename(tmp_path / "moved")
    run_session(config_for(tmp_path / "moved", "logger=wandb"), rows[:13], keep=11, said=said)
    assert list(server.runs) == [first]
    assert not [line for line in said if "copy" in line]
    (tmp_path / "moved").rename(tmp_path / "a")
    run_session(config_for(tmp_path / "a", "logger=wandb"), rows[:13], keep=13)
    copy = config_for(tmp_path / "copy", "logger=wandb")
    run_session(copy, rows, keep=9, said=said)
    second = next(name for name in server.runs if name != first)
    assert f"wandb: {copy.folder} is a copy of {config.folder}, whose wandb run goes on there" in "".join(
        said
    )
    assert [plain(row) for row in server.history[first]] == [logged(row) for row in rows[:13]]
    assert [plain(row) for row in server.history[second]] == [
        logged(row) for row in rows
    ]  # the first ones, too
    run_session(copy, rows, keep=len(rows), said=(again := []))
    assert list(server.runs) == [first, second]
    assert not [line for line in again if "copy" in line]


def test_the_result_is_a_table_a_confusion_matrix_and_a_summary(tmp_path):
    config, rows = config_for(tmp_path, "logger=wandb"), rows_until(2)
    tracker = start_tracker(config, config.folder, first=True, log=print)
    metrics = Metrics(config.folder / "metrics.jsonl", on_row=tracker.log_row)
    for row in rows:
        metrics.write(row)
    write_result(config.folder, steps=8)
    tracker.log_result(config.folder)
    tracker.close()
    (file,) = wandb_files(config.folder)
    history = read_history(file)
    assert len(history) == len(rows) + 1
    last = history[-1]
    assert last["_step"] == len(rows)
    media = file.parent / "files"
    table = json.loads((media / last["result/per_class.path"]).read_text())
    assert table["columns"] == ["class", "name", "clips", "right", "accuracy"]
    assert table["data"] == [[0, "up", 2, 2, 100.0], [1, "down", 2, 1, 50.0], [2, "on", 0, 0, None]]
    confusion = json.loads((media / last["result/confusion_table.path"]).read_text())
    counts = {(actual, predicted): n for actual, predicted, n in confusion["data"] if n}
    assert counts == {("0 up", "0 up"): 2, ("1 down", "1 down"): 1, ("1 down", "2 on"): 1}
    summary = {}
    for record in read_records(file):
        if record.WhichOneof("record_type") == "summary":
            summary |= {
                i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in record.summary.update
            }
    assert summary["result/top1"] == 75
    assert summary["result/slope"] == 11.04
    assert summary["result/clips/present"] == 4
    assert summary["result/split"] == "test"
    assert "result/best_val_top1" not in summary


def test_panels_are_logged_every_few_epochs_and_unchanged(tmp_path):

    config = config_for(tmp_path, "logger=wandb", "logger.panels_every=2", "logger.max_panels=2")
    tracker = start_tracker(config, config.folder, first=True, log=print)
    metrics = Metrics(config.folder / "metrics.jsonl", on_row=tracker.log_row)
    rng = np.random.default_rng(0)
    pictures = {f"clip {i}: slope 9": rng.integers(0, 256, (12, 16, 3), dtype=np.uint8) for i in range(3)}
    asked = []
    for row in rows_until(5):
        if row["kind"] == "val" and tracker.wants_panels(row["epoch"], last=5):
            asked.append(row["epoch"])
            tracker.log_panels(row["epoch"], row["step"], pictures)
        metrics.write(row)
    tracker.close()
    assert asked == [2, 4, 5]  # the end too
    for every, wanted in ((2, [0, 2, 3]), (5, [0, 3]), (0, [])):  # the start and the end, whatever the rate
        mirror = Mirror(
            None,
            tmp_path,
            options=config_for(tmp_path, "logger=tensorboard", f"logger.panels_every={every}").logger,
            log=print,
        )
        assert [epoch for epoch in range(4) if mirror.wants_panels(epoch, last=3)] == wanted
    (file,) = wandb_files(config.folder)
    shown = [row for row in read_history(file) if "attention.filenames" in row]
    assert [row["attention.captions"] for row in shown] == [["clip 0: slope 9", "clip 1: slope 9"]] * 3
    assert [row["step"] for row in shown] == [8, 16, 20]
    drawn = cv2.imread(str(file.parent / "files" / shown[0]["attention.filenames"][1]))[..., ::-1]
    assert np.array_equal(drawn, pictures["clip 1: slope 9"])
    assert not start_tracker(config_for(tmp_path), tmp_path, first=True, log=print).wants_panels(2, last=2)


def test_panels_of_an_interrupted_validation_are_logged_by_the_next_session(tmp_path):
    config, rows = config_for(tmp_path, "logger=wandb"), rows_until(1)
    run_session(config, rows[:4])
    tracker = start_tracker(config, config.folder, first=True, log=print)
    metrics = Metrics(config.folder / "metrics.jsonl", rows=4, on_row=tracker.log_row)
    tracker.log_panels(1, 4, {"a": np.zeros((4, 4, 3), np.uint8)})
    metrics.write(rows[4])
    tracker.close()
    (row,) = read_history(wandb_files(config.folder)[-1])
    assert row["_step"] == 4
    assert row["attention.captions"] == ["a"]
    assert row["val/top1"] == rows[4]["val/top1"]
