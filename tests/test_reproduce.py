"""The command that makes the paper's tables: its words, what it plans, how long that takes, and what it runs."""

import csv
import json
import re
import runpy
import subprocess
import sys
import time

import pytest
import torch
import yaml
from configs import ROOT
from test_tables import finish, table_of

from vmp.compose import composer
from vmp.config import check
from vmp.errors import ConfigError, RunError
from vmp.jobs.launch import parse_launch
from vmp.paper import estimates, timing
from vmp.paper.arguments import in_full
from vmp.paper.planning import Planner, plan_cells
from vmp.paper.reproduce import Interrupted, run_missing
from vmp.paper.tables import cells, load_profile, matches


def reproduce(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/reproduce.py", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.fixture
def request_of():
    return runpy.run_path(str(ROOT / "scripts/reproduce.py"))["read_request"]


def test_the_command_reads_its_options(request_of):
    made = request_of(
        [
            *("table=1", "seeds=3", "only=timesformer mpii", "dry=1", "launch=", "profile=mini"),
            *("data.root=/d", "recipe=tiny"),
        ]
    )
    assert (made.table, made.seeds, made.only, made.dry) == (1, 3, ("timesformer", "mpii"), True)
    assert (made.launch, made.profile, made.overrides) == ("", "mini", ("data.root=/d", "recipe=tiny"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "which table"),
        (["table=x"], "whole number"),
        (["table=1", "seeds=0"], "whole number"),
        (["table=1", "sedes=2"], "did you mean seeds"),
        (["table=1", "dry"], "KEY=VALUE"),
        (["table="], "which table"),
    ],
)
def test_the_command_rejects_wrong_options(request_of, words, said):
    with pytest.raises(ConfigError, match=said):
        request_of(words)


def test_launch_is_read_and_makes_commands():
    assert parse_launch("warm").kind == "warm"
    assert parse_launch("torchrun=4").processes == 4
    for wrong in ("slurm", "warm=2", "torchrun=0", "torchrun=x"):
        with pytest.raises(ConfigError):
            parse_launch(wrong)
    torchrun = parse_launch("torchrun=2")
    assert torchrun.command("train.py", ["seed=0"])[-3:] == ["--nproc_per_node=2", "train.py", "seed=0"]
    assert torchrun.command("evaluate.py", ["run=a"]) == [sys.executable, "evaluate.py", "run=a"]
    slurm = parse_launch("hydra/launcher=slurm hydra.launcher.partition=gpu")
    assert slurm.command("train.py", ["seed=0"])[1:] == [
        *("train.py", "-m", "hydra/launcher=slurm", "hydra.launcher.partition=gpu", "seed=0")
    ]


def test_missing_data_is_an_error_that_says_how_to_prepare_them(tmp_path):
    done = reproduce(
        "table=4", f"output={tmp_path}/out", f"results={tmp_path}/results", f"data.root={tmp_path}/data"
    )
    assert done.returncode == 2
    assert "prepare.py finegym" in done.stderr
    assert "prepare.py mpii_cooking2" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()


def test_a_plan_estimates_the_runs_that_are_not_finished(tmp_path, capsys):
    table, profile = table_of(1), load_profile("mini")
    planner = Planner(output=str(tmp_path))
    chosen = [c for c in cells(table, profile) if c.run and matches(c, table, ["x3d", "hmdb51"])]
    runs, tests = plan_cells(chosen, planner, [0])
    assert (len(runs), len(tests)) == (6, 0)
    for run in runs[:2]:
        finish(run, top1=70)
    estimates.print_plan(runs, tests, profile, tmp_path, {})
    said = capsys.readouterr().out
    assert "6 runs: 2 finished, 0 half done, 4 not run" in said
    assert "no estimate for x3d_xs" in said
    result = json.loads((runs[1].folder / "result.json").read_text())
    result["clips"]["train"] = {"present": 1600}
    session = {"step": 0, "processes": 1, "device": "CPU", "threads": 1, "torch": "2"}
    elsewhere = {"seconds": 3600, "sessions": [session | {"device": "NVIDIA V100"}]}
    (runs[1].folder / "result.json").write_text(json.dumps(result | elsewhere))
    of_others = estimates.measured_rates(tmp_path)
    assert of_others
    assert not set(of_others) & {estimates._speed_here(run) for run in runs}
    (runs[1].folder / "result.json").write_text(
        json.dumps(result | {"seconds": 3600, "sessions": [session], "finished": "2026-11-02 10:00:00"})
    )
    estimates.print_plan(runs, tests, profile, tmp_path, estimates.measured_rates(tmp_path), renew="make x")
    said = capsys.readouterr().out
    assert "about 4.0 device-hours on CPU, 1 threads" in said
    assert f"measured on CPU, 1 threads, 2026-11-02, {runs[1].folder}" in said
    assert "make x measures this anew" in said
    assert "timing" not in said


def test_a_plan_of_a_quick_check_estimates_its_few_clips():
    profile = load_profile("mini")
    (cell, *_) = (c for c in cells(table_of(1), profile) if c.run)
    run = Planner(output="outputs", extra=["trainer.clips=64"]).source(cell, 0)
    assert estimates.count_clips(run, profile) == {"train": 64, "test": 64}
    whole = Planner(output="outputs").source(cell, 0)
    assert estimates.count_clips(whole, profile) == {"train": 1600, "test": 1000}


def test_a_plan_proposes_timings_beside_its_own_runs(tmp_path, script):
    output = tmp_path / "other"
    words = ["table=1", "profile=mini", "only=x3d finegym top-1", "dry=1", f"output={output}"]
    code, said, _ = script("reproduce", *words)
    assert code == 0
    assert f"make timing PROFILE=mini ONLY='x3d finegym top-1' SET=output={output} TABLE=1 measures" in said


def test_a_plan_times_nothing_and_make_timing_does(tmp_path, capsys, monkeypatch):
    table, profile = table_of(1), load_profile("mini")
    planner = Planner(output=str(tmp_path))
    chosen = [c for c in cells(table, profile) if c.run and matches(c, table, ["c2d", "mpii"])]
    runs, tests = plan_cells(chosen, planner, [0])
    estimates.print_plan(runs, tests, profile, tmp_path, estimates.measured_rates(tmp_path), renew="make x")
    said = capsys.readouterr().out
    assert "timing c2d" not in said
    assert re.search(
        r"no estimate for c2d: nothing was measured with them on CPU, \d+ thread.*make x measures", said
    )
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(timing, "MIN_CPU_SHARE", 0.0)  # other tests may run beside this one
    assert estimates.time_rates(runs, tmp_path)
    assert "timing c2d: a few steps of 2 clips on CPU" in capsys.readouterr().out
    (rate,) = (rates := estimates.measured_rates(tmp_path)).values()
    assert 0 < rate.test < rate.train
    estimates.print_plan(runs, tests, profile, tmp_path, rates)
    said = capsys.readouterr().out
    seconds = sum(
        rate.train * run.config.dataset.train * run.config.trainer.epochs + rate.test * 300 for run in runs
    )
    assert f"to do: about {seconds / 3600:.1f} device-hours on CPU" in said
    assert re.search(
        rf"c2d: {len(runs)} runs, about .* \(measured on CPU, \d+ threads, \d{{4}}-\d\d-\d\d, a few", said
    )
    (file,) = (tmp_path / "rates").iterdir()
    before = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in before.items() if key != "date"}))
    assert not estimates.measured_rates(tmp_path)  # as a version that kept disturbed timings wrote them
    assert "does not say when" in capsys.readouterr().err
    file.write_text(json.dumps(before | {"date": "2001-01-01 00:00:00"}))
    assert estimates.time_rates(runs, tmp_path)  # replaces the file
    assert json.loads(file.read_text())["date"] > "2026"


@pytest.mark.slow
def test_disturbed_timings_are_not_kept(tmp_path, capsys, monkeypatch):
    """A thread that sleeps in its forward pass uses wall time but no CPU time, like one that waits for a CPU."""
    table, profile = table_of(1), load_profile("mini")
    planner = Planner(output=str(tmp_path))
    cell = next(c for c in cells(table, profile) if c.run and matches(c, table, ["c2d", "mpii"]))
    runs, _ = plan_cells([cell], planner, [0])
    from vmp.model import PromptedClassifier

    real = PromptedClassifier.forward
    monkeypatch.setattr(PromptedClassifier, "forward", lambda *args: time.sleep(0.3) or real(*args))
    assert not estimates.time_rates(runs[-1:], tmp_path)
    said = capsys.readouterr().out
    assert "the timing was disturbed: in 8 of 8 rounds this process had a CPU for less than 85 %" in said
    assert not list(tmp_path.rglob("*.json"))
    monkeypatch.setattr(PromptedClassifier, "forward", real)
    monkeypatch.setattr(timing, "MIN_CPU_SHARE", 1.1)
    with pytest.raises(RunError, match="disturbed"):
        timing.time_models([runs[-1].config], batch=2, rounds=2, device=torch.device("cpu"), report=print)


def test_models_are_timed_with_the_threads_of_their_config(monkeypatch):
    threads = torch.get_num_threads() + 1
    config = check(composer(ROOT / "conf")(["backbone=tiny", f"trainer.threads={threads}"]))
    monkeypatch.setattr(timing, "MIN_CPU_SHARE", 0)
    seen = []
    timing.time_models(
        [config],
        batch=1,
        rounds=2,
        device=torch.device("cpu"),
        report=lambda _: seen.append(torch.get_num_threads()),
    )
    assert set(seen) == {threads} != {torch.get_num_threads()}


def test_a_folder_with_another_run_is_an_error(tmp_path):
    cell = next(c for c in cells(table_of(1), load_profile("mini")) if c.run)
    planner = Planner(output=str(tmp_path))
    run = planner.source(cell, 0)
    finish(run, top1=70)
    kept = yaml.safe_load((run.folder / "config.yaml").read_text())
    kept["optim"]["lr"] = 7.0
    (run.folder / "config.yaml").write_text(yaml.safe_dump(kept))
    with pytest.raises(RunError, match=r"optim\.lr: 7\.0 ->") as caught:
        plan_cells([cell], planner, [0])
    assert "output=FOLDER" in str(caught.value)
    assert "tag=" not in str(caught.value)  # a table sets it


@pytest.mark.parametrize("state", ["waiting", "failed"])
def test_a_signal_ends_the_command_also_where_a_job_has_failed(tmp_path, monkeypatch, state):
    """make paper goes on to the next table after any code below 128."""
    cell = next(c for c in cells(table_of(1), load_profile("mini")) if c.run)
    runs, _ = plan_cells([cell], Planner(output=str(tmp_path)), [0])

    def stopped(jobs, launch, root):
        jobs[0].state = state
        return True

    monkeypatch.setattr("vmp.paper.reproduce.run_launched", stopped)
    monkeypatch.setattr("vmp.paper.reproduce.check_data", lambda runs: None)
    with pytest.raises(Interrupted, match="stopped with 1 jobs to go") as caught:
        run_missing(runs, [], parse_launch("single"), tmp_path)
    assert caught.value.code == 130
    assert ("1 failed" in str(caught.value)) == (state == "failed")


def test_folders_are_those_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert in_full("output=runs", ROOT) == f"output={tmp_path}/runs"
    assert in_full("results=/x/y", ROOT) == "results=/x/y"
    assert in_full("results=", ROOT) == "results="
    assert in_full("data.root=runs", ROOT) == "data.root=runs"
    assert in_full("output=runs", tmp_path) == "output=runs"  # in the checkout a folder keeps its name


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_cells_in_miniature_run_once(tmp_path, script):
    """The second time, nothing is run again."""
    words = [
        "table=2",
        "profile=mini",
        "only=baseline top-1",
        f"output={tmp_path}/out",
        f"results={tmp_path}/results",
    ]
    words += [
        f"data.root={tmp_path}/data",
        "trainer.epochs=1",
        "dataset.train=40",
        "dataset.test=20",
        "only=frozen",
    ]
    code, said, errors = script("reproduce", *words)
    assert code == 0, said + errors
    text = (tmp_path / "results/table2.md").read_text(encoding="utf-8")
    assert "cells were run" in text
    assert "not run" in text
    rows = list(csv.DictReader((tmp_path / "results/table2.csv").open(encoding="utf-8")))
    run = [row for row in rows if row["ours"] != "not run"]
    assert 2 <= len(run) < len(rows)
    assert all(row["clips"] == "20" for row in run)
    code, said, _ = script("reproduce", *words)
    assert code == 0
    assert " 0 to do" in said
