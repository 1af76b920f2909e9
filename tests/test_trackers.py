"""What all trackers share, TensorBoard's event files, and the scripts for wandb."""

import json
import re
import runpy
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from runs import ROOT
from tracked import (
    config_for,
    logged,
    plain,
    rows_until,
    run_session,
    tensorboard_events,
    wandb_files,
    write_result,
)

from vmp.errors import ConfigError, UserError
from vmp.figures.confusion import confusion_picture
from vmp.tracking import check_tracker, start_tracker
from vmp.tracking.summary import HIDDEN, describe_run, group_of, hide_secrets, read_summary
from vmp.tracking.wandb_files import read_history, read_records
from vmp.tracking.wandb_run import PROJECT

pytestmark = pytest.mark.usefixtures("no_account")


def test_secrets_are_recognised_by_their_keys():
    told = {
        "api_key": "x",
        "a": [{"HF_TOKEN": "y", "password": None}],
        "url": "s3://id:word@host/b",
        "m": 1.5,
    }
    assert hide_secrets(told) == {
        "api_key": HIDDEN,
        "a": [{"HF_TOKEN": HIDDEN, "password": None}],
        "url": f"s3://{HIDDEN}@host/b",
        "m": 1.5,
    }


def test_other_processes_and_the_default_logger_do_nothing(tmp_path):
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
    tracker = start_tracker(config, Path({str(tmp_path)!r}), first=first, log=print)
    assert type(tracker) is Tracker
    tracker.log_row({{}}), tracker.log_panels(1, 1, {{}}), tracker.log_result(Path("none")), tracker.close()
assert not {{"wandb", "tensorboard", "torch"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("package", "told"),
    [("tensorboard", "pip install '.[tensorboard]'"), ("wandb", "pip install wandb")],
)
def test_a_missing_package_is_an_error_on_every_process(tmp_path, monkeypatch, package, told):
    monkeypatch.setattr("vmp.tracking.tracker.find_spec", lambda name: None)
    config = config_for(tmp_path, f"logger={package}")
    with pytest.raises(ConfigError, match=f"logger={package} needs the package {package}") as found:
        check_tracker(config.logger)
    assert told in str(found.value)
    with pytest.raises(ConfigError):  # on every process, or the others would wait for ever
        start_tracker(config, config.folder, first=False, log=print)


def test_tags_may_be_one_word_or_a_list(tmp_path):
    for given, tags in (("mine", ("mine",)), ("[a,b]", ("a", "b")), ("[]", ())):
        assert config_for(tmp_path, "logger=wandb", f"logger.tags={given}").logger.tags == tags


def test_a_sweep_is_one_group(tmp_path):
    swept = [
        config_for(tmp_path, f"vmp.lambda={weight}", f"seed={seed}") for weight in (0, 0.5) for seed in (0, 1)
    ]
    swept.append(config_for(tmp_path, "vmp=none"))
    assert {group_of(config) for config in swept} == {"motions-static/tiny-motions"}


# --- TensorBoard ---------------------------------------------------------------------------------------------------


def test_tensorboard_has_each_step_once_after_resuming_from_an_earlier_step(tmp_path):
    config, rows, said = config_for(tmp_path, "logger=tensorboard"), rows_until(4), []
    run_session(config, rows[:14], said=said)
    assert said == [f"tensorboard: tensorboard --logdir {config.folder / 'tensorboard'}"]
    time.sleep(1.1)  # event files are named by the second
    changed = [{**row, "train/loss": 5.0} if "train/loss" in row else row for row in rows]
    run_session(config, [*rows[:8], *changed[8:]], keep=8)
    found = tensorboard_events(config.folder)
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
    tracker = start_tracker(config, config.folder, first=True, log=print)
    for row in rows_until(2):
        tracker.log_row(row)
    tracker.log_panels(2, 8, {"clip 3: slope 9": np.zeros((4, 6, 3), np.uint8)})
    write_result(config.folder, steps=8)
    tracker.log_result(config.folder)
    tracker.close()
    found = tensorboard_events(config.folder)
    assert [(e.step, e.value) for e in found.Scalars("result/top1")] == [(8, 75)]
    (image,) = found.Images("attention/clip 3")
    assert (image.step, image.width, image.height) == (8, 6, 4)
    png = np.frombuffer(found.Images("result/confusion")[0].encoded_image_string, np.uint8)
    counts = np.array([[2, 0, 0], [0, 1, 1], [0, 0, 0]])
    drawn = confusion_picture(counts, ("up", "down", "on"), title="confusion, test")
    assert np.array_equal(cv2.imdecode(png, cv2.IMREAD_COLOR)[..., ::-1], drawn)
    table = found.Tensors("result/per_class/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| 1 | down | 2 | 1 | 50.00 |" in table


# --- scripts -------------------------------------------------------------------------------------------------------


def test_the_dashboard_only_uses_metrics_and_keys_that_runs_log(tmp_path):
    """Each metric and config key of the workspace is one that a run logs or describes itself with."""

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
    told = describe_run(config, config.folder)
    for key in set(re.findall(r"\$\{config:([\w.]+)\}", text)):
        value = told
        for part in key.split("."):
            value = value[part]
    write_result(config.folder, steps=8)
    known = {f"result/{key}" for key in read_summary(config.folder).numbers}
    known |= {"val/top1", "val/top5", "val/variation"}
    known |= {f"vmp/{p}{name}" for p in ("", "slow/", "fast/") for name in ("slope", "shift")}
    asked = set(re.findall(r"(?:result|val|vmp)/[\w/]+", text))
    assert asked <= known


def test_the_dashboard_can_be_written_without_a_login_but_not_sent(tmp_path, script):
    assert script("wandb_dashboard", "--json", tmp_path / "d.json")[0] == 0
    assert json.loads((tmp_path / "d.json").read_text())["displayName"] == "Slope and shift"
    code, _, said = script("wandb_dashboard")
    assert code == 2
    assert "wandb login" in said
    assert "--json" in said


def test_upload_builds_one_complete_run_from_the_files(tmp_path):
    config, rows = config_for(tmp_path), rows_until(3)
    run_session(config, rows)
    write_result(config.folder, steps=12)
    from vmp.commands.upload import with_wandb
    from vmp.tracking.wandb_run import rebuild

    for _ in range(2):  # the second takes the first one's place
        chosen = with_wandb(config.folder, {"project": "other", "group": "table1"})
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
def test_a_second_upload_adds_what_the_server_lacks(tmp_path, server, script):
    config, rows = config_for(tmp_path), rows_until(3)
    run_session(config, rows[:8])
    for n in (8, len(rows)):
        if n > 8:
            run_session(config, rows, keep=8)
        code, said, errors = script("upload_wandb", config.folder)
        assert code == 0, errors
        assert f"note: {config.folder} is not finished" in errors
        (run_id,) = server.runs
        assert f"/runs/{run_id}" in said
        assert [plain(row) for row in server.history[run_id]] == [logged(row) for row in rows[:n]]


def test_a_damaged_run_sends_nothing_and_keeps_no_other_from_being_sent(tmp_path, capsys, monkeypatch):
    from vmp.commands import upload
    from vmp.tracking import wandb_run

    sent = []
    monkeypatch.setattr(wandb_run, "init_wandb", lambda config, folder, **_: sent.append(folder) or 1 / 0)
    configs = [config_for(tmp_path, f"tag={tag}") for tag in ("row", "result", "whole")]
    for config in configs:
        run_session(config, rows_until(1))
    with open(configs[0].folder / "metrics.jsonl", "a") as file:
        file.write("{\n")
    (configs[1].folder / "result.json").write_text("{")
    monkeypatch.setattr(sys, "argv", ["upload", *(str(config.folder) for config in configs), "--offline"])
    with pytest.raises(UserError, match=r"seed0-whole: wandb rejected it \(ZeroDivisionError"):
        upload.main()
    assert [folder.name for folder in sent] == ["seed0-whole"]
    said = capsys.readouterr().err
    assert re.search(r"error: \S*seed0-row/metrics\.jsonl, line 6: not JSON", said), said
    assert "seed0-result/result.json: not JSON" in said


def test_upload_explains_what_is_wrong(tmp_path, script, monkeypatch):
    code, _, said = script("upload_wandb", tmp_path)
    assert code == 2
    assert "no run there" in said
    config = config_for(tmp_path)
    run_session(config, rows_until(1))
    code, _, said = script("upload_wandb", config.folder)
    assert code == 2
    assert "wandb login" in said
    assert "--offline" in said
    code, _, said = script("upload_wandb", f"run={config.folder}")
    assert (code, "takes a run's folder without run=" in said) == (2, True), said
    monkeypatch.setattr("vmp.tracking.tracker.find_spec", lambda name: None)
    code, _, said = script("upload_wandb", config.folder, "--offline")
    assert (code, "needs the package wandb, which is not installed: pip install" in said) == (2, True), said
