"""Trackers: what wandb's and TensorBoard's own files hold of a run, read back from disk."""

import csv
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from runs import (
    ROOT,
    Running,
    differences,
    folder,
    overrides_for,
    run,
    start,
    start_ranks,
)
from wandb_server import WandbServer

from vmp import MotionPrompt
from vmp.config import check
from vmp.engine.loggers import Metrics
from vmp.errors import ConfigError
from vmp.figures.panels import ROWS, attention_panels, confusion_picture, panel, panel_rows
from vmp.runs.records import read_metrics
from vmp.tracking import Tracker, check_tracker, start_tracker
from vmp.tracking.report import HIDDEN, Report, confusions, group_of, scrub
from vmp.tracking.tracker import Mirror
from vmp.tracking.wandb_files import pieces, read_history, read_records, rows_held
from vmp.tracking.wandb_run import PROJECT, find_mode, has_key

KEY = "a" * 40
NOWHERE = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": KEY}


@pytest.fixture(autouse=True)
def nobody(monkeypatch, tmp_path):
    """No account: no key, no settings and no netrc of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("WANDB_") and name != "WANDB_SERVICE"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "settings"))


@pytest.fixture
def fresh():
    """wandb reads the environment once in a process."""
    import wandb

    wandb.teardown()
    yield
    wandb.teardown()


def config_for(out: Path, *overrides: str):
    """A checked config whose run's folder exists."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", [f"output='{out}'", *overrides])
    config = check(OmegaConf.to_container(cfg, resolve=True))
    config.folder.mkdir(parents=True, exist_ok=True)
    (config.folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True))
    return config


def rows_until(epochs: int, *, per_epoch: int = 4) -> list[dict]:
    """metrics.jsonl of a run on SlowFast's slow pathway, as far as trackers are concerned."""
    rows = []
    for step in range(1, epochs * per_epoch + 1):
        learned = {"vmp/slow/slope": 20 - step / 3, "vmp/slow/shift": step / 7, "vmp/slow/m": -step / 11}
        losses = {"train/loss": 1 / step, "train/variation": step / 13}
        epoch = round(step / per_epoch, 6)
        rows.append({"kind": "train", "epoch": epoch, "step": step, **losses, **learned})
        if step % per_epoch == 0:
            measured = {"val/top1": 50 + step * 7 % 11 / 3, "val/top5": 99.5}
            rows.append({"kind": "val", "epoch": step // per_epoch, "step": step, **measured, **learned})
    return rows


def sit(config, rows: list[dict], *, keep: int = 0, code: int = 0, said: list[str] | None = None) -> Tracker:
    """A sitting of a run: what the trainer does with its rows from `keep` on."""
    tracker = start_tracker(config, config.folder, first=True, say=[].append if said is None else said.append)
    metrics = Metrics(config.folder / "metrics.jsonl", rows=keep, also=tracker.row)
    for row in rows[keep:]:
        metrics.write(row)
    metrics.close()
    tracker.close(code=code)
    return tracker


def wandb_files(where: Path) -> list[Path]:
    return sorted((where / "wandb").glob("*run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)


def logged(row: dict) -> dict:
    """What a row of metrics.jsonl becomes in wandb."""
    out = {key: value for key, value in row.items() if key != "kind"}
    return out | ({"vmp/variation": row["train/variation"]} if "train/variation" in row else {})


def plain(row: dict) -> dict:
    return {key: value for key, value in row.items() if key[0] != "_"}


def write_result(where: Path, *, steps: int) -> None:
    """A finished run: three classes, one clip that could not be read."""
    numbers = {"top1": 75.0, "top5": 100.0, "mean_class": 66.7, "top1_lower_bound": 60.0, "variation": 0.01}
    result = {"split": "test", "epoch": 2, "steps": steps, "seconds": 3.5, "best_val_top1": None, **numbers}
    result |= {"scalars": {"slope": 11.04, "shift": -0.59}, "clips": {"test": {"expected": 5, "present": 4}}}
    (where / "result.json").write_text(json.dumps(result))
    (where / "per_class.csv").write_text(
        "class,name,clips,right,accuracy\n0,up,2,2,100.00\n1,down,2,1,50.00\n2,on,0,0,\n"
    )
    (where / "predictions.csv").write_text(
        "id,label,predicted,score,top5,problem\na,0,0,1,0 1 2,\nb,0,0,1,0 1 2,\nc,1,1,1,1 0 2,\nd,1,2,1,2 1 0,\n"
        "e,,,,,missing\n"
    )


# --- wandb ---------------------------------------------------------------------------------------------------------


def test_wandb_holds_the_rows_their_axes_and_what_the_run_is(tmp_path):
    options = ["logger.tags=[mine]", "vmp.lambda=2.5", "init_from='https://me:hunter2@host/run'"]
    config, said = (
        config_for(tmp_path, "logger=wandb", "backbone=slowfast", "vmp.placement=slow", *options),
        [],
    )
    rows = rows_until(2)
    tracker = sit(config, rows, said=said)
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


def test_secrets_are_known_by_their_keys():
    told = {
        "api_key": "x",
        "a": [{"HF_TOKEN": "y", "password": None}],
        "url": "s3://id:word@host/b",
        "m": 1.5,
    }
    assert scrub(told) == {
        "api_key": HIDDEN,
        "a": [{"HF_TOKEN": HIDDEN, "password": None}],
        "url": f"s3://{HIDDEN}@host/b",
        "m": 1.5,
    }


@pytest.mark.parametrize("left", ["whole", "cut"])
def test_what_a_sitting_lost_is_made_up_for_and_nothing_is_sent_twice(tmp_path, left):
    """The run falls back to a checkpoint and writes rows again; wandb's file may have lost its end."""
    config, rows = config_for(tmp_path, "logger=wandb"), rows_until(4)
    sit(config, rows[:14], code=137)
    (first,) = wandb_files(config.folder)
    if left == "cut":  # in the middle of a row's record
        whole = first.read_bytes()
        first.write_bytes(whole[: whole.rindex(b"train/loss", 0, whole.rindex(b"train/loss") - 2000)])
    held = len(read_history(first))
    assert held == 14 if left == "whole" else 0 < held < 14
    sit(config, rows, keep=8)
    files = pieces(config.folder, json.loads((config.folder / "wandb.json").read_text())["id"])
    assert len(files) == 2
    assert files[0] == first
    history = [row for file in files for row in read_history(file)]
    assert [row["_step"] for row in history] == list(range(len(rows)))
    assert [plain(row) for row in history] == [logged(row) for row in rows]


@pytest.fixture
def server(monkeypatch, fresh):
    found = WandbServer()
    monkeypatch.setenv("WANDB_BASE_URL", found.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    yield found
    found.close()


@pytest.mark.parametrize("lost", [0, 5])
def test_online_a_run_that_continues_is_the_same_run_with_each_row_once(tmp_path, server, lost):
    """The server is asked what it has: rows that it did not get before a kill come with the next sitting."""
    config, rows, said = config_for(tmp_path, "logger=wandb"), rows_until(4), []
    sit(config, rows[:14], code=137, said=said)
    (run_id,) = server.runs
    assert said == [f"wandb: {server.url}/somebody/{PROJECT}/runs/{run_id}"]
    assert server.ended == {run_id: 137}
    assert len(server.history[run_id]) == 14
    del server.history[run_id][14 - lost :]
    sit(config, rows, keep=8, said=said)
    assert list(server.runs) == [run_id]
    assert server.ended == {run_id: 0}
    history = server.history[run_id]
    assert [row["_step"] for row in history] == list(range(len(rows)))
    assert [plain(row) for row in history] == [logged(row) for row in rows]
    assert server.runs[run_id]["groupName"] == "motions-static/tiny"
    assert not [line for line in said if "warning" in line]


def test_online_after_offline_the_server_has_all_of_it(tmp_path, server, monkeypatch):
    import wandb

    config, rows = config_for(tmp_path, "logger=wandb"), rows_until(3)
    monkeypatch.setenv("WANDB_MODE", "offline")
    sit(config, rows[:9])
    assert not server.runs
    monkeypatch.delenv("WANDB_MODE")
    wandb.teardown()
    sit(config, rows, keep=8)
    (run_id,) = server.runs
    assert run_id == json.loads((config.folder / "wandb.json").read_text())["id"]
    assert [plain(row) for row in server.history[run_id]] == [logged(row) for row in rows]


@pytest.mark.slow
def test_a_server_that_goes_away_costs_the_timeout_at_the_end(tmp_path, server):
    config, rows = config_for(tmp_path, "logger=wandb", "logger.finish_timeout=2"), rows_until(3)
    tracker = start_tracker(config, config.folder, first=True, say=print)
    tracker.row(rows[0])
    server.close()
    for row in rows[1:]:
        tracker.row(row)
    began = time.monotonic()
    tracker.close()
    assert time.monotonic() - began < 12
    (file,) = wandb_files(config.folder)
    assert [plain(row) for row in read_history(file)] == [logged(row) for row in rows]  # for wandb sync


def test_tracking_that_begins_half_way_has_the_first_half_too(tmp_path):
    rows = rows_until(3)
    sit(config_for(tmp_path), rows[:9])
    config = config_for(tmp_path, "logger=wandb")
    sit(config, rows, keep=7)
    (file,) = wandb_files(config.folder)
    assert [plain(row) for row in read_history(file)] == [logged(row) for row in rows]


def test_a_run_with_another_config_in_the_same_folder_is_another_run(tmp_path):
    ids = []
    for extra in ([], ["trainer.workers=1", "logger.tags=[x]"], ["optim.lr=0.5"]):
        config = config_for(tmp_path, "logger=wandb", "logger.max_panels=0", *extra)
        sit(config, rows_until(1))
        ids.append(json.loads((config.folder / "wandb.json").read_text())["id"])
    assert ids[0] == ids[1] != ids[2]
    assert rows_held(config.folder, ids[0]) == rows_held(config.folder, ids[2]) == 5


def test_the_result_is_a_table_a_confusion_matrix_and_a_summary(tmp_path):
    config, rows = config_for(tmp_path, "logger=wandb"), rows_until(2)
    tracker = start_tracker(config, config.folder, first=True, say=print)
    metrics = Metrics(config.folder / "metrics.jsonl", also=tracker.row)
    for row in rows:
        metrics.write(row)
    write_result(config.folder, steps=8)
    tracker.result(config.folder)
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


def test_panels_come_at_a_bounded_rate_and_as_they_were_drawn(tmp_path):
    import cv2

    config = config_for(tmp_path, "logger=wandb", "logger.panels_every=2", "logger.max_panels=2")
    tracker = start_tracker(config, config.folder, first=True, say=print)
    metrics = Metrics(config.folder / "metrics.jsonl", also=tracker.row)
    rng = np.random.default_rng(0)
    pictures = {f"clip {i}: slope 9": rng.integers(0, 256, (12, 16, 3), dtype=np.uint8) for i in range(3)}
    asked = []
    for row in rows_until(5):
        if row["kind"] == "val" and tracker.wants_panels(row["epoch"], last=5):
            asked.append(row["epoch"])
            tracker.panels(row["epoch"], row["step"], pictures)
        metrics.write(row)
    tracker.close()
    assert asked == [2, 4, 5]  # the end too
    for every, wanted in ((2, [0, 2, 3]), (5, [0, 3]), (0, [])):  # the start and the end, whatever the rate
        mirror = Mirror(
            None,
            tmp_path,
            options=config_for(tmp_path, "logger=tensorboard", f"logger.panels_every={every}").logger,
            say=print,
        )
        assert [epoch for epoch in range(4) if mirror.wants_panels(epoch, last=3)] == wanted
    (file,) = wandb_files(config.folder)
    shown = [row for row in read_history(file) if "attention.filenames" in row]
    assert [row["attention.captions"] for row in shown] == [["clip 0: slope 9", "clip 1: slope 9"]] * 3
    assert [row["step"] for row in shown] == [8, 16, 20]
    drawn = cv2.imread(str(file.parent / "files" / shown[0]["attention.filenames"][1]))[..., ::-1]
    assert np.array_equal(drawn, pictures["clip 1: slope 9"])
    assert not start_tracker(config_for(tmp_path), tmp_path, first=True, say=print).wants_panels(2, last=2)


def test_panels_of_an_evaluation_that_was_broken_off_come_with_the_next_sitting(tmp_path):
    config, rows = config_for(tmp_path, "logger=wandb"), rows_until(1)
    sit(config, rows[:4])
    tracker = start_tracker(config, config.folder, first=True, say=print)
    metrics = Metrics(config.folder / "metrics.jsonl", rows=4, also=tracker.row)
    tracker.panels(1, 4, {"a": np.zeros((4, 4, 3), np.uint8)})
    metrics.write(rows[4])
    tracker.close()
    (row,) = read_history(wandb_files(config.folder)[-1])
    assert row["_step"] == 4
    assert row["attention.captions"] == ["a"]
    assert row["val/top1"] == rows[4]["val/top1"]


def test_where_there_is_a_key(tmp_path, monkeypatch):
    import wandb

    settings = wandb.Settings()
    assert not has_key(settings)
    (tmp_path / "netrc").write_text(f"machine elsewhere.example login user password {KEY}\n")
    assert not has_key(settings)
    host = settings.base_url.partition("://")[2]
    (tmp_path / "netrc").write_text(f"machine {host} login user password {KEY}\n")
    assert has_key(settings)
    (tmp_path / "netrc").write_bytes(b"machine \xff\xfe nonsense")
    assert not has_key(settings)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert has_key(settings)


def test_an_empty_mode_is_no_mode(monkeypatch, tmp_path):
    """wandb itself takes WANDB_MODE= for a wrong one, and would not start."""
    from vmp.config import check
    from vmp.paper.planning import composer
    from vmp.tracking.wandb_run import start_wandb

    monkeypatch.setenv("WANDB_MODE", "")
    overrides = ["logger=wandb", "logger.mode=offline"]
    said: list[str] = []
    run = start_wandb(check(composer(ROOT / "conf")(overrides)), tmp_path, say=said.append)
    assert run is not None
    run.finish(0)
    assert said[0].startswith("wandb: offline")


@pytest.mark.parametrize(
    ("wanted", "variable", "key", "mode"),
    [
        ("auto", None, False, "offline"),
        ("auto", None, True, "online"),
        ("online", None, False, "offline"),  # no question on the terminal
        ("offline", None, True, "offline"),
        ("online", "offline", True, "offline"),
        ("offline", "online", True, "online"),
        ("auto", "disabled", True, "disabled"),
        ("offline", "nonsense", True, "offline"),
    ],
)
def test_the_mode(monkeypatch, wanted, variable, key, mode):
    import wandb

    if variable:
        monkeypatch.setenv("WANDB_MODE", variable)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", KEY)
    said: list[str] = []
    found = find_mode(wanted, settings=wandb.Settings(), say=said.append)
    assert found.name == mode
    assert bool(found.why) == (mode == "offline" and not key)
    assert bool(said) == (variable == "nonsense")


def test_a_server_that_does_not_answer_is_given_up_and_the_run_kept(tmp_path, monkeypatch, fresh):
    for name, value in NOWHERE.items():
        monkeypatch.setenv(name, value)
    config, said, rows = config_for(tmp_path, "logger=wandb", "logger.init_timeout=1"), [], rows_until(2)
    began = time.monotonic()
    tracker = sit(config, rows, said=said)
    assert time.monotonic() - began < 15
    assert not tracker.failed
    assert len(said) == 2
    assert "127.0.0.1:9 gave no run" in said[0]
    assert "so offline" in said[1]
    assert not any(KEY in line for line in said)
    run_id = json.loads((config.folder / "wandb.json").read_text())["id"]
    assert rows_held(config.folder, run_id) == len(rows)


@pytest.mark.parametrize("what", ["init", "log", "finish"])
def test_a_failure_is_one_warning(tmp_path, monkeypatch, capfd, fresh, what):
    import wandb

    def fail(*_, **__):
        raise RuntimeError("no such luck\nsecond line")

    config, said = config_for(tmp_path, "logger=wandb"), []
    if what == "init":
        monkeypatch.setattr(wandb, "init", fail)
    tracker = start_tracker(config, config.folder, first=True, say=said.append)
    if what != "init":
        monkeypatch.setattr(type(tracker.backend.run), what, fail)
    for row in rows_until(2):
        tracker.row(row)
    tracker.panels(1, 4, {"a": np.zeros((4, 4, 3), np.uint8)})
    tracker.result(config.folder) if what != "finish" else None
    tracker.close(code=3)
    warnings = [line for line in said if line.startswith("warning")]
    assert len(warnings) == 1
    assert "RuntimeError: no such luck)" in warnings[0]
    assert not tracker.wants_panels(5, last=5)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_wandb_s_process_may_die(tmp_path):
    """In a process of its own, for the sake of what is printed at its end and its exit code."""
    code = f"""
import os, signal, sys, time
from pathlib import Path
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from vmp.config import check
from vmp.tracking import start_tracker
with initialize_config_dir({str(ROOT / "conf")!r}, version_base="1.3"):
    config = check(OmegaConf.to_container(compose("train", ["logger=wandb"]), resolve=True))
tracker = start_tracker(config, Path({str(tmp_path)!r}), first=True, say=lambda line: print("SAID", line))
row = {{"kind": "train", "epoch": 1, "step": 1, "train/loss": 1.0}}
tracker.row(row)
for stat in Path("/proc").glob("[0-9]*/stat"):
    name, _, rest = stat.read_text().rpartition(")")
    if name.endswith("(wandb-core") and int(rest.split()[1]) == os.getpid():
        os.kill(int(stat.parent.name), signal.SIGKILL)
time.sleep(0.3)
for step in range(2, 50):
    tracker.row({{**row, "step": step}})
tracker.close()
print("failed", tracker.failed)
sys.exit(7)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 7, done.stderr
    assert done.stderr == ""
    assert "failed True" in done.stdout
    assert done.stdout.count("SAID warning") == 1


def test_other_processes_and_default_have_nothing_to_do_with_it(tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from pathlib import Path
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from vmp.config import check
from vmp.tracking import Tracker, start_tracker
for first, logger in ((True, "default"), (False, "wandb"), (False, "tensorboard")):
    with initialize_config_dir({str(ROOT / "conf")!r}, version_base="1.3"):
        config = check(OmegaConf.to_container(compose("train", [f"logger={{logger}}"]), resolve=True))
    tracker = start_tracker(config, Path({str(tmp_path)!r}), first=first, say=print)
    assert type(tracker) is Tracker
    tracker.row({{}}), tracker.panels(1, 1, {{}}), tracker.result(Path("none")), tracker.close()
assert not {{"wandb", "tensorboard", "torch"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("package", "told"),
    [("tensorboard", "pip install '.[tensorboard]'"), ("wandb", "pip install wandb")],
)
def test_a_package_that_is_missing_is_told_before_anything_else(tmp_path, monkeypatch, package, told):
    monkeypatch.setattr("vmp.tracking.tracker.find_spec", lambda name: None)
    config = config_for(tmp_path, f"logger={package}")
    with pytest.raises(ConfigError, match=f"logger={package} needs the package {package}") as found:
        check_tracker(config.logger)
    assert told in str(found.value)
    with pytest.raises(ConfigError):  # on every process, or the others would wait for ever
        start_tracker(config, config.folder, first=False, say=print)


def test_tags_are_one_word_or_several(tmp_path):
    for given, tags in (("mine", ("mine",)), ("[a,b]", ("a", "b")), ("[]", ())):
        assert config_for(tmp_path, "logger=wandb", f"logger.tags={given}").logger.tags == tags


def test_a_sweep_is_one_group(tmp_path):
    swept = [
        config_for(tmp_path, f"vmp.lambda={weight}", f"seed={seed}") for weight in (0, 0.5) for seed in (0, 1)
    ]
    swept.append(config_for(tmp_path, "vmp=none"))
    assert {group_of(config) for config in swept} == {"motions-static/tiny"}


# --- TensorBoard ---------------------------------------------------------------------------------------------------


def events(where: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(
        str(where / "tensorboard"), size_guidance={"scalars": 0, "images": 0, "tensors": 0}
    )
    return found.Reload()


def test_tensorboard_has_each_step_once_after_a_fall_back(tmp_path):
    config, rows, said = config_for(tmp_path, "logger=tensorboard"), rows_until(4), []
    sit(config, rows[:14], said=said)
    assert said == [f"tensorboard: tensorboard --logdir '{config.folder / 'tensorboard'}'"]
    time.sleep(1.1)  # event files are named by the second
    changed = [{**row, "train/loss": 5.0} if "train/loss" in row else row for row in rows]
    sit(config, [*rows[:8], *changed[8:]], keep=8)
    found = events(config.folder)
    for key, axis in (
        ("train/loss", "train"),
        ("vmp/slow/slope", "train"),
        ("val/top1", "val"),
        ("vmp/variation", "train"),
    ):
        wanted = [logged(row) for row in [*rows[:8], *changed[8:]] if row["kind"] == axis]
        got = [(e.step, e.value) for e in found.Scalars(key)]
        if key == "vmp/slow/slope":  # both kinds of row have it
            got = sorted(set(got))
        assert [step for step, _ in got] == [row["step"] for row in wanted], key
        assert [value for _, value in got] == pytest.approx([row[key] for row in wanted])
    told = found.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "lambda: 1" in told


def test_tensorboard_has_the_result_and_the_pictures(tmp_path):
    config = config_for(tmp_path, "logger=tensorboard")
    tracker = start_tracker(config, config.folder, first=True, say=print)
    for row in rows_until(2):
        tracker.row(row)
    tracker.panels(2, 8, {"clip 3: slope 9": np.zeros((4, 6, 3), np.uint8)})
    write_result(config.folder, steps=8)
    tracker.result(config.folder)
    tracker.close()
    found = events(config.folder)
    assert [(e.step, e.value) for e in found.Scalars("result/top1")] == [(8, 75)]
    (image,) = found.Images("attention/clip 3")
    assert (image.step, image.width, image.height) == (8, 6, 4)
    png = np.frombuffer(found.Images("result/confusion")[0].encoded_image_string, np.uint8)
    counts = np.array([[2, 0, 0], [0, 1, 1], [0, 0, 0]])
    drawn = confusion_picture(counts, ("up", "down", "on"), title="confusion, test")
    assert np.array_equal(cv2.imdecode(png, cv2.IMREAD_COLOR)[..., ::-1], drawn)
    table = found.Tensors("result/per_class/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| 1 | down | 2 | 1 | 50.00 |" in table


# --- pictures ------------------------------------------------------------------------------------------------------


def test_a_panel_shows_frames_differences_attention_and_prompts():
    layer = MotionPrompt(m=1.5, n=-0.3)
    clip = torch.full((3, 4, 20, 30), 100, dtype=torch.uint8)
    clip[:, 2, :10] = 200  # brighter than frame 1 in its upper half, and frame 3 darker again
    frames, differences, attention, prompts = panel_rows(clip, layer)
    assert len(ROWS) == 4
    assert frames.shape == differences.shape == attention.shape == prompts.shape == (3, 20, 30, 3)
    assert np.array_equal(frames, clip[:, 1:].permute(1, 2, 3, 0).numpy())
    red, blue = (differences[..., c].astype(int) for c in (0, 2))
    assert (red[1, :10] > blue[1, :10] + 50).all()  # orange: grew brighter
    assert (blue[2, :10] > red[2, :10] + 20).all()  # blue: grew darker
    assert (differences[0] >= 245).all()  # nothing happened
    values = layer.attention(clip[None])[0].detach().numpy()
    assert values[1, 0, 0] > values[0, 0, 0] > values[2, 0, 0]
    darkness = 255 - attention.astype(int).sum(axis=-1) / 3
    assert darkness[1, 0, 0] > darkness[0, 0, 0] > darkness[2, 0, 0]
    shown = layer(clip[None]).prompts[0, :, 1, 0, 0].detach().numpy() * 0.225 + 0.45
    assert np.allclose(prompts[1, 0, 0] / 255, shown.clip(0, 1), atol=0.003)
    whole = panel(clip, layer, columns=2, width=15)
    assert whole.shape == (4 * (10 + 4), 2 * (15 + 4), 3)
    assert whole.dtype == np.uint8


def test_panels_of_pathways_show_the_frames_that_a_pathway_sees():
    from vmp.model import PromptedClassifier
    from vmp.pathways import cut

    prompts = {name: MotionPrompt(m=1.5, n=-0.3) for name in ("slow", "fast")}
    pathways = cut(frames=16, alpha=4, prompted=("slow", "fast"))
    model = PromptedClassifier(torch.nn.Identity(), prompts=prompts, cut=pathways)
    clip = torch.randint(0, 256, (3, pathways.frames, 16, 24), dtype=torch.uint8)
    state = torch.get_rng_state()
    pictures = attention_panels(model, {"a/1": clip})
    assert torch.equal(state, torch.get_rng_state())
    assert list(pictures) == [f"a/1, {p}: slope 9.856, shift -0.175" for p in ("slow", "fast")]
    slow, fast = pictures.values()
    assert (slow.shape[1], fast.shape[1]) == (
        4 * 28,
        8 * 28,
    )  # four prompts; the first eight of sixteen columns
    last = clip[:, pathways.take["slow"][-1]].permute(1, 2, 0).numpy()
    assert np.array_equal(slow[2:18, -26:-2], last)


def test_a_confusion_picture_is_dark_where_clips_are_and_has_names_and_a_scale():
    """The cells lie in a square; around it there is ink of names, axes and the scale, and other names are other ink."""
    counts = np.array([[8, 2, 0], [0, 5, 0], [0, 0, 0]])
    picture, other = (
        confusion_picture(counts, names) for names in (("run", "$5", "c_{"), ("hop", "$5", "c_{"))
    )
    assert picture.shape == other.shape
    rows, columns = np.nonzero((picture != other).any(axis=-1))
    grey = picture.astype(int).sum(axis=-1)
    blue = (picture[..., 2].astype(int) - picture[..., 0]) > 40
    cells = blue[:, : int(0.75 * picture.shape[1])]  # without the scale
    ys, xs = np.nonzero(cells)
    side = (ys.max() - ys.min()) / 2  # rows 0 and 1 hold clips
    y0, x0 = ys.min() + side * 0.25, xs.min() + side * 0.25
    at = lambda i, j: grey[int(y0 + i * side), int(x0 + j * side)]  # noqa: E731
    assert at(1, 1) < at(0, 0) < at(0, 1) < at(0, 2) == at(2, 2)
    assert columns.min() < xs.min()  # the names stand left of the cells
    assert rows.max() > ys.max() + side  # and below them
    assert blue[:, int(0.85 * picture.shape[1]) :].any()  # the scale


@pytest.mark.parametrize("classes", [480, 3000, 10_000])
def test_confusions_are_bounded_whatever_the_number_of_classes(classes):
    """10,000 classes took 9.2 GB; now a picture takes a few MB, and every clip is in it."""
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, classes, (2, 5000)).tolist()
    report = Report(
        split="val", epoch=1, step=1, numbers={}, labels=labels, predicted=predicted,
        per_class=[(c, f"class {c}", 1, 0, 0.0) for c in range(classes)],
    )  # fmt: skip
    tracemalloc.start()
    counts = confusions(report)
    picture = confusion_picture(counts, report.classes)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 60e6
    assert max(picture.shape) <= 800
    assert counts.sum() == 5000
    step = -(-classes // len(counts))
    for label, guess in zip(labels[:50], predicted[:50], strict=True):
        assert counts[label // step, guess // step] > 0


# --- scripts -------------------------------------------------------------------------------------------------------


@pytest.fixture
def script(monkeypatch, capsys):
    """Run a script as a command: its exit code and what it said."""

    def call(name: str, *arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        code = 0
        try:
            runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


def test_the_dashboard_asks_for_what_runs_have(tmp_path):
    """Each metric and config key of the workspace is one that a run logs or describes itself with."""
    from vmp.tracking.report import describe

    dashboard = runpy.run_path(str(ROOT / "scripts/wandb_dashboard.py"))
    spec = dashboard["as_json"](dashboard["workspace"]("team", PROJECT))
    assert (spec["entity"], spec["project"], spec["displayName"]) == ("team", PROJECT, "Slope and shift")
    bank = spec["spec"]["section"]["panelBankConfig"]
    panels = {
        s["name"]: {p["config"]["chartTitle"]: p["config"] for p in s["panels"]} for s in bank["sections"]
    }
    assert list(panels) == [
        "Slope and shift by λ (Fig. 4a, 4b)",
        "Learned pairs by dataset (Fig. 4c)",
        "Learned pairs by backbone (Fig. 4d)",
        "Accuracy against λ",
        "Top-1 and top-5",
    ]
    slope = panels["Slope and shift by λ (Fig. 4a, 4b)"]["slope a by λ"]
    assert (slope["xAxis"], slope["groupBy"]) == ("epoch", "vmp.value.lambda")
    assert slope["metrics"] == ["vmp/slope", "vmp/slow/slope", "vmp/fast/slope"]
    pair = panels["Learned pairs by backbone (Fig. 4d)"]["learned (a, b) by backbone, fast pathway"]
    assert (pair["xAxis"], pair["yAxis"]) == ("summary:vmp/fast/slope", "summary:vmp/fast/shift")
    assert panels["Accuracy against λ"]["top-1 against λ"]["xAxis"] == "config:vmp.value.lambda"

    text = json.dumps(spec)
    config = config_for(tmp_path)
    told = describe(config, config.folder)
    for key in set(re.findall(r"\$\{config:([\w.]+)\}", text)):
        value = told
        for part in key.split("."):
            value = value[part]
    write_result(config.folder, steps=8)
    from vmp.tracking.report import read_report

    known = {f"result/{key}" for key in read_report(config.folder).numbers}
    known |= {"val/top1", "val/top5", "val/variation"}
    known |= {f"vmp/{p}{name}" for p in ("", "slow/", "fast/") for name in ("slope", "shift")}
    asked = set(re.findall(r"(?:result|val|vmp)/[\w/]+", text))
    assert asked <= known


def test_the_dashboard_is_written_without_a_login_and_sent_only_with_one(tmp_path, script):
    assert script("wandb_dashboard.py", "--json", str(tmp_path / "d.json"))[0] == 0
    assert json.loads((tmp_path / "d.json").read_text())["displayName"] == "Slope and shift"
    code, said = script("wandb_dashboard.py")
    assert code == 2
    assert "wandb login" in said
    assert "--json" in said


def test_upload_builds_one_clean_run_from_the_files(tmp_path):
    config, rows = config_for(tmp_path), rows_until(3)
    sit(config, rows)
    write_result(config.folder, steps=12)
    upload = runpy.run_path(str(ROOT / "scripts/upload_wandb.py"))
    from vmp.tracking.wandb_run import rebuild

    for _ in range(2):  # the second takes the first one's place
        chosen = upload["with_wandb"](config.folder, {"project": "other", "group": "table1"})
        said = rebuild(chosen, config.folder, offline=True)
        assert "wandb sync" in said
        (file,) = wandb_files(config.folder)
        history = read_history(file)
        assert [plain(row) for row in history[:-1]] == [logged(row) for row in rows]
        assert "result/per_class.path" in history[-1]
    run = next(r.run for r in read_records(file) if r.WhichOneof("record_type") == "run")
    assert (run.project, run.run_group) == ("other", "table1")
    assert run.run_id != json.loads((config.folder / "wandb.json").read_text())["id"]


@pytest.mark.slow
def test_upload_to_a_server_a_second_time_adds_what_is_missing(tmp_path, server, script):
    config, rows = config_for(tmp_path), rows_until(3)
    sit(config, rows[:8])
    for n in (8, len(rows)):
        if n > 8:
            sit(config, rows, keep=8)
        code, said = script("upload_wandb.py", str(config.folder))
        assert code == 0, said
        (run_id,) = server.runs
        assert f"/runs/{run_id}" in said
        assert [plain(row) for row in server.history[run_id]] == [logged(row) for row in rows[:n]]


def test_upload_tells_what_is_wrong(tmp_path, script):
    code, said = script("upload_wandb.py", str(tmp_path))
    assert code == 2
    assert "no run there" in said
    config = config_for(tmp_path)
    sit(config, rows_until(1))
    code, said = script("upload_wandb.py", str(config.folder))
    assert code == 2
    assert "wandb login" in said
    assert "--offline" in said


# --- whole runs ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wandb", "tensorboard"])
def test_a_tracked_run_has_the_same_bits(data, straight, tmp_path, kind):
    """With loader processes, which are forked while wandb's is there, and panels from the split."""
    done = run(data, tmp_path, f"logger={kind}", "logger.panels_every=3", "trainer.workers=2")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""
    assert sum(kind in line for line in done.stdout.splitlines()) == 1
    where = folder(tmp_path)
    assert not differences(straight, where)
    rows = read_metrics(where)
    if kind == "tensorboard":
        assert len(events(where).Scalars("train/loss")) == 36
        return
    (file,) = wandb_files(where)
    history = read_history(file)
    numbers = [{k: v for k, v in plain(row).items() if not k.startswith("attention")} for row in history[:-1]]
    assert numbers == [logged(row) for row in rows]
    assert [len(row["attention.captions"]) for row in history if "attention.captions" in row] == [4, 4, 4]
    assert {"vmp/slope", "vmp/shift", "vmp/m", "vmp/n", "attention.captions"} <= history[0].keys()
    assert {"vmp/slope", "vmp/shift", "vmp/m", "vmp/n", "vmp/variation"} <= history[1].keys()
    per_class = json.loads((file.parent / "files" / history[-1]["result/per_class.path"]).read_text())
    with open(where / "per_class.csv") as kept:
        assert [row[3] for row in per_class["data"]] == [int(row["right"]) for row in csv.DictReader(kept)]


@pytest.mark.slow
def test_killed_and_continued_wandb_has_each_step_once(data, tmp_path):
    longer, where, kills = "trainer.epochs=16", folder(tmp_path), 0
    assert run(data, tmp_path / "straight", longer).returncode == 0
    for sitting, number in enumerate((signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, None), 1):
        process = start(data, tmp_path, longer, "logger=wandb", "trainer.save_steps=4")
        before = len(read_metrics(where))
        while number and not process.over():
            lines = (
                (where / "metrics.jsonl").read_bytes().count(b"\n")
                if (where / "metrics.jsonl").exists()
                else 0
            )
            begun = len(list(where.glob("wandb/offline-run-*/*.wandb"))) == sitting
            if begun and (lines > before + 5 or (lines < before and lines > before - 2)):
                break
            time.sleep(0.002)
        if number and not process.over():
            process.signal(number)
            kills += 1
        done = process.wait()
        assert done.returncode in (0, -signal.SIGKILL, 143), done.stderr[-2000:]
        assert "Traceback" not in done.stderr
    assert kills >= 2
    assert not differences(folder(tmp_path / "straight"), where)
    rows = read_metrics(where)
    files = pieces(where, json.loads((where / "wandb.json").read_text())["id"])
    assert len(files) >= 3
    history = [row for file in files for row in read_history(file) if "_step" in row]
    assert [row["_step"] for row in history] == list(range(len(rows) + 1))
    numbers = [{k: v for k, v in plain(row).items() if not k.startswith("attention")} for row in history[:-1]]
    assert numbers == [logged(row) for row in rows]


@pytest.mark.slow
def test_a_run_with_a_key_and_no_server_finishes(data, straight, tmp_path):
    arguments = overrides_for(data, tmp_path, "logger=wandb", "logger.init_timeout=3")
    began = time.monotonic()
    done = Running(arguments, environment=NOWHERE).wait()
    assert done.returncode == 0, done.stderr[-2000:]
    assert time.monotonic() - began < 100
    assert "gave no run" in done.stdout
    assert KEY not in done.stdout + done.stderr
    assert not differences(straight, folder(tmp_path))


@pytest.mark.slow
def test_a_sweep_that_tracks_is_one_group_of_runs(data, tmp_path):
    done = Running(
        ["-m", *overrides_for(data, tmp_path, "logger=wandb", "trainer.epochs=1", "vmp.lambda=0,1")]
    ).wait(280)
    assert done.returncode == 0, done.stderr[-2000:]
    runs = []
    for method in ("learned_lambda0", "learned_lambda1"):
        (file,) = wandb_files(folder(tmp_path, method))
        runs.append(next(r.run for r in read_records(file) if r.WhichOneof("record_type") == "run"))
        assert len(read_history(file)) == 1 + 6 + 1 + 1  # the start, six steps, the epoch, the result
    assert [r.run_group for r in runs] == ["manifest/tiny"] * 2
    assert len({r.run_id for r in runs}) == 2


@pytest.mark.slow
def test_of_two_processes_one_tracks(data, tmp_path):
    done = start_ranks(data, tmp_path, "logger=wandb", "trainer.epochs=1", ranks=2).wait()
    assert [one.returncode for one in done] == [0, 0], done[0].stderr[-2000:] + done[1].stderr[-2000:]
    (file,) = wandb_files(folder(tmp_path))
    assert len(read_history(file)) == 1 + 6 + 1 + 1  # the start, six steps, the epoch, the result
