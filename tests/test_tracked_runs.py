"""Whole runs with a tracker: the same bits as without, also with kills, sweeps and several processes."""

import csv
import json
import shutil
import signal
import time

import pytest
from runs import Running, differences, folder, overrides_for, run, start, start_ranks
from tracked import (
    KEY,
    NOWHERE,
    logged,
    plain,
    tensorboard_events,
    wandb_files,
)

from vmp.runs.records import read_metrics, read_result
from vmp.tracking.wandb_files import read_history, read_records, session_files

pytestmark = pytest.mark.usefixtures("no_account")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wandb", "tensorboard"])
def test_a_tracked_run_has_the_same_bits(data, straight, tmp_path, kind):
    """With loader processes, which are forked while wandb's is there, and panels from the split."""
    done = start(data, tmp_path, f"logger={kind}", "logger.panels_every=3", "trainer.workers=2").succeed()
    assert done.stderr == ""
    assert sum(kind in line for line in done.stdout.splitlines()) == 1
    where = folder(tmp_path)
    assert not differences(straight, where)
    rows = read_metrics(where)
    if kind == "tensorboard":
        assert len(tensorboard_events(where).Scalars("train/loss")) == 36
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
def test_wandb_has_each_step_of_a_killed_and_continued_run_once(data, tmp_path):
    longer, where, kills = "trainer.epochs=16", folder(tmp_path), 0
    assert run(data, tmp_path / "straight", longer).returncode == 0
    for session, number in enumerate((signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, None), 1):
        process = start(data, tmp_path, longer, "logger=wandb", "trainer.save_steps=4")
        before = len(read_metrics(where))
        while number and not process.over():
            lines = (
                (where / "metrics.jsonl").read_bytes().count(b"\n")
                if (where / "metrics.jsonl").exists()
                else 0
            )
            begun = len(list(where.glob("wandb/offline-run-*/*.wandb"))) == session
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
    files = session_files(where, json.loads((where / "wandb.json").read_text())["id"])
    assert len(files) >= 3
    history = [row for file in files for row in read_history(file) if "_step" in row]
    assert [row["_step"] for row in history] == list(range(len(rows) + 1))
    numbers = [{k: v for k, v in plain(row).items() if not k.startswith("attention")} for row in history[:-1]]
    assert numbers == [logged(row) for row in rows]


@pytest.mark.slow
def test_a_run_with_a_key_but_no_server_finishes(data, straight, tmp_path):
    arguments = overrides_for(data, tmp_path, "logger=wandb", "logger.init_timeout=3")
    began = time.monotonic()
    done = Running(arguments, environment=NOWHERE).succeed()
    assert time.monotonic() - began < 100
    assert "gave no run" in done.stdout
    assert KEY not in done.stdout + done.stderr
    assert not differences(straight, folder(tmp_path))


@pytest.mark.slow
def test_a_tracked_sweep_is_one_group_of_runs(data, tmp_path):
    Running(
        ["-m", *overrides_for(data, tmp_path, "logger=wandb", "trainer.epochs=1", "vmp.lambda=0,1")]
    ).succeed(280)
    runs = []
    for method in ("learned_lambda0", "learned_lambda1"):
        (file,) = wandb_files(folder(tmp_path, method))
        runs.append(next(r.run for r in read_records(file) if r.WhichOneof("record_type") == "run"))
        assert len(read_history(file)) == 1 + 6 + 1 + 1  # the start, six steps, the epoch, the result
    assert [r.run_group for r in runs] == ["manifest/tiny"] * 2
    assert len({r.run_id for r in runs}) == 2


@pytest.mark.slow
def test_only_one_of_two_processes_tracks(data, tmp_path):
    done = start_ranks(data, tmp_path, "logger=wandb", "trainer.epochs=1", ranks=2).wait()
    assert [one.returncode for one in done] == [0, 0], done[0].stderr[-2000:] + done[1].stderr[-2000:]
    (file,) = wandb_files(folder(tmp_path))
    assert len(read_history(file)) == 1 + 6 + 1 + 1  # the start, six steps, the epoch, the result


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wandb", "tensorboard"])
def test_a_finished_run_whose_result_was_not_sent_sends_it_when_called_again(data, straight, tmp_path, kind):
    """As after a kill between the result and the tracker, or after a run without a tracker."""
    shutil.copytree(straight, folder(tmp_path))

    def sessions() -> int:
        files = {"wandb": "wandb/*run-*/*.wandb", "tensorboard": "tensorboard/events.*"}
        return len([*folder(tmp_path).glob(files[kind])])

    for expected in (1, 1):  # the second call finds it sent
        done = start(data, tmp_path, f"logger={kind}").succeed()
        assert "is finished:" in done.stdout
        assert sessions() == expected
    where, rows = folder(tmp_path), read_metrics(folder(tmp_path))
    if kind == "wandb":
        (file,) = wandb_files(where)
        history = read_history(file)
        assert len(history) == len(rows) + 1
        assert "result/per_class.path" in history[-1]
    else:
        events = tensorboard_events(where)
        assert events.Scalars("result/top1")[0].value == pytest.approx(read_result(where)["top1"])
        assert len(events.Scalars("train/loss")) == 36
    (where / "tracked.json").write_text("{")  # as damaged as a kill may leave it
    start(data, tmp_path, f"logger={kind}").succeed()
    assert sessions() == 2
