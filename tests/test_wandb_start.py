"""How wandb is started, and what happens where it cannot be, or fails later."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from configs import ROOT, composed
from tracked import (
    KEY,
    NOWHERE,
    config_for,
    rows_until,
    run_session,
)

from vmp.tracking import start_tracker
from vmp.tracking.wandb_files import rows_held
from vmp.tracking.wandb_run import find_mode, has_key

pytestmark = pytest.mark.usefixtures("no_account")


def test_a_key_is_found_in_the_environment_and_in_netrc(tmp_path, monkeypatch):
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


def test_an_empty_wandb_mode_is_ignored(monkeypatch, tmp_path):
    """wandb itself takes WANDB_MODE= for a wrong one, and would not start."""
    from vmp.tracking.wandb_run import start_wandb

    monkeypatch.setenv("WANDB_MODE", "")
    overrides = ["logger=wandb", "logger.mode=offline"]
    said: list[str] = []
    run = start_wandb(composed(*overrides), tmp_path, log=said.append)
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
def test_the_mode_follows_the_environment_then_the_config_then_the_key(
    monkeypatch, wanted, variable, key, mode
):
    import wandb

    if variable:
        monkeypatch.setenv("WANDB_MODE", variable)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", KEY)
    said: list[str] = []
    found = find_mode(wanted, settings=wandb.Settings(), log=said.append)
    assert found.name == mode
    assert bool(found.why) == (mode == "offline" and not key)
    assert bool(said) == (variable == "nonsense")


def test_a_run_whose_server_does_not_answer_is_kept_offline(tmp_path, monkeypatch, fresh_wandb):
    for name, value in NOWHERE.items():
        monkeypatch.setenv(name, value)
    config, said, rows = config_for(tmp_path, "logger=wandb", "logger.init_timeout=1"), [], rows_until(2)
    began = time.monotonic()
    tracker = run_session(config, rows, said=said)
    assert time.monotonic() - began < 15
    assert not tracker.failed
    assert len(said) == 2
    assert "127.0.0.1:9 gave no run" in said[0]
    assert "so offline" in said[1]
    assert not any(KEY in line for line in said)
    run_id = json.loads((config.folder / "wandb.json").read_text())["id"]
    assert rows_held(config.folder, run_id) == len(rows)


@pytest.mark.parametrize("what", ["init", "log", "finish"])
def test_a_failure_is_one_warning(tmp_path, monkeypatch, capfd, fresh_wandb, what):
    import wandb

    def fail(*_, **__):
        raise RuntimeError("no such luck\nsecond line")

    config, said = config_for(tmp_path, "logger=wandb"), []
    if what == "init":
        monkeypatch.setattr(wandb, "init", fail)
    tracker = start_tracker(config, config.folder, first=True, log=said.append)
    if what != "init":
        monkeypatch.setattr(type(tracker.backend.run), what, fail)
    for row in rows_until(2):
        tracker.log_row(row)
    tracker.log_panels(1, 4, {"a": np.zeros((4, 4, 3), np.uint8)})
    tracker.log_result(config.folder) if what != "finish" else None
    tracker.close(code=3)
    warnings = [line for line in said if line.startswith("warning")]
    assert len(warnings) == 1
    assert "RuntimeError: no such luck)" in warnings[0]
    assert not tracker.wants_panels(5, last=5)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_training_survives_the_death_of_wandbs_process(tmp_path):
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
tracker = start_tracker(config, Path({str(tmp_path)!r}), first=True, log=lambda line: print("SAID", line))
row = {{"kind": "train", "epoch": 1, "step": 1, "train/loss": 1.0}}
tracker.log_row(row)
for stat in Path("/proc").glob("[0-9]*/stat"):
    name, _, rest = stat.read_text().rpartition(")")
    if name.endswith("(wandb-core") and int(rest.split()[1]) == os.getpid():
        os.kill(int(stat.parent.name), signal.SIGKILL)
time.sleep(0.3)
for step in range(2, 50):
    tracker.log_row({{**row, "step": step}})
tracker.close()
print("failed", tracker.failed)
sys.exit(7)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 7, done.stderr
    assert done.stderr == ""
    assert "failed True" in done.stdout
    assert done.stdout.count("SAID warning") == 1
