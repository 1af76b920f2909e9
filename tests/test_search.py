"""A search: Optuna's proposals as runs, interrupted and continued, judged by the validation split only."""

import json
import math
import re
import shutil
import signal
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from runs import wait_for
from test_sweep import finish, start, times_run

from hydra_plugins.vmp_sweep import name_search, search_space

pytest.importorskip("optuna")

from vmp.errors import ConfigError, RunError
from vmp.jobs.search import Search, Trial, check_validated, explain_study_errors
from vmp.report.page import write_report

SPACE = {
    "vmp.lambda": {"low": 0.01, "high": 100, "log": True},
    "vmp.placement": ["slow", "fast"],
    "seed": {"low": 1, "high": 3, "integer": True},
}


def run_trials(search: Search, home: Path, most: int = 10**6) -> int:
    """Stands in for training: the best λ is 2, and slow is a little better than fast."""
    done = 0
    while done < most and (trials := search.propose(2)):
        for trial in trials:
            folder = home / f"trial{trial.number}"
            folder.mkdir(exist_ok=True)
            top1 = (
                80
                - 5 * abs(math.log(trial.values["vmp.lambda"] / 2))
                + (trial.values["vmp.placement"] == "slow")
            )
            result = {"top1": 0.0, "split": "test", "best_val_top1": top1, "clips": {}}
            (folder / "result.json").write_text(json.dumps(result))
            search.record(trial, str(folder))
            done += 1
        search.write()
    return done


@pytest.mark.slow
def test_it_finds_the_best_and_goes_on_as_if_it_had_not_been_stopped(tmp_path):
    whole = Search(tmp_path / "a", SPACE, trials=30, seed=1)
    assert run_trials(whole, tmp_path) == 30
    trials = whole.read()
    assert {type(t.values["seed"]) for t in trials} == {int}
    assert {t.values["seed"] for t in trials} <= {1, 2, 3}
    best = max(trials, key=lambda t: t.value)
    assert abs(math.log(best.values["vmp.lambda"] / 2)) < 0.7  # of the 4.6 on either side
    early, late = (
        [abs(math.log(t.values["vmp.lambda"] / 2)) for t in part] for part in (trials[:10], trials[20:])
    )
    assert sum(late) < sum(early)  # it learns where to look

    assert run_trials(Search(tmp_path / "b", SPACE, trials=30, seed=1), tmp_path, 11) == 12
    Search(tmp_path / "b", SPACE, trials=30, seed=1).propose(2)  # and is killed
    again = Search(tmp_path / "b", SPACE, trials=30, seed=1)
    assert run_trials(again, tmp_path) == 18
    assert [t.values for t in again.read()] == [t.values for t in trials]
    assert [(t.state, t.value) for t in again.read()] == [(t.state, t.value) for t in trials]
    more = Search(tmp_path / "b", SPACE, trials=31, seed=1)
    assert run_trials(more, tmp_path) == 1
    shown = json.loads((tmp_path / "b/search.json").read_text())["trials"]
    assert shown[0]["value"] == max(t.value for t in more.read())
    assert all(t["folder"] for t in shown)


def test_choices_are_tried_as_given_and_no_value_leaves_its_interval(tmp_path):
    choices = [0.012345, 0.0123451, -0.29345]
    narrow = {"low": 0.99991, "high": 0.99999}
    steps = {"low": 10000.1, "high": 10000.7, "step": 0.2}
    space = {"vmp.n": choices, "train.ema": narrow, "optim.lr": steps, "vmp.lambda": SPACE["vmp.lambda"]}
    tried = [trial.values for trial in Search(tmp_path, space, trials=20, seed=0).propose(20)]
    assert {values["vmp.n"] for values in tried} == set(choices)
    assert all(0.99991 <= values["train.ema"] <= 0.99999 for values in tried)
    assert {values["optim.lr"] for values in tried} == {10000.1, 10000.3, 10000.5, 10000.7}
    assert all(values["vmp.lambda"] == float(f"{values['vmp.lambda']:.4g}") for values in tried)


@pytest.mark.slow
def test_what_cannot_be_searched_is_refused(tmp_path):
    for space, message in (
        ({}, "names no key"),
        ({"vmp.lambda": {"low": 1}}, r"space.vmp.lambda = .*must be a list of choices"),
        ({"vmp.lambda": {"low": 0, "high": 1, "log": True}}, r"space.vmp.lambda = "),
        ({"vmp.lambda": 3}, r"space.vmp.lambda = 3"),
    ):
        with pytest.raises(ConfigError, match=message):
            Search(tmp_path, space, trials=3, seed=0)
    search = Search(tmp_path, SPACE, trials=3, seed=0)
    (trial,) = search.propose(1)
    (tmp_path / "result.json").write_text(json.dumps({"top1": 50.0, "split": "test", "clips": {}}))
    with pytest.raises(ConfigError, match=r"was not validated, since its dataset has no val.csv"):
        search.record(trial, str(tmp_path))


def test_datasets_without_a_validation_split_are_refused_before_a_run(tmp_path):
    prepared = {"kind": "prepared", "name": "finegym", "folder": str(tmp_path)}
    check_validated(prepared)  # not prepared yet: the run says so
    (tmp_path / "train.csv").touch()
    folders = {"kind": "folders", "name": "mine", "folds": None, "ratio": [0.8, 0.1, 0.1]}
    check_validated(folders)
    for dataset in (prepared, folders | {"ratio": [0.8, 0, 0.2]}, folders | {"folds": 5}):
        with pytest.raises(ConfigError, match=f"{dataset['name']} has no validation split"):
            check_validated(dataset)
    (tmp_path / "val.csv").touch()
    check_validated(prepared)


def test_and_so_are_folders_and_rows_that_have_none(tmp_path, monkeypatch):
    for split in ("train", "test", "val"):
        for label in "ab":
            (tmp_path / f"clips/{split}/{label}").mkdir(parents=True)
            (tmp_path / f"clips/{split}/{label}/{split}.mp4").write_bytes(f"{split}{label}".encode())
    folders = {"kind": "folders", "name": "mine", "root": str(tmp_path / "clips")}
    (tmp_path / "rows_of_mine.py").write_text(
        "def rows(splits):\n    for s in splits:\n        yield {'split': s, 'path': s, 'label': s}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = {"kind": "custom", "name": "own", "target": "rows_of_mine.rows"}
    check_validated(folders)
    check_validated(own | {"options": {"splits": ["train", "val"]}})
    shutil.rmtree(tmp_path / "clips/val")
    for dataset in (folders, own | {"options": {"splits": ["train", "test"]}}):
        with pytest.raises(ConfigError, match=f"{dataset['name']} has no validation split"):
            check_validated(dataset)


def test_a_damaged_study_is_named_with_what_to_do(tmp_path):
    Search(tmp_path, SPACE, trials=1, seed=0).propose(1)
    whole = (tmp_path / "study.db").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"no database" * 999):
        (tmp_path / "study.db").write_bytes(damaged)
        wanted = r"study.db: .*(malformed|not a database).*move it away"
        with pytest.raises(RunError, match=wanted), explain_study_errors(tmp_path):
            Search(tmp_path, SPACE, trials=1, seed=0)


def test_what_the_command_line_searches_and_sets():
    default = {"vmp.lambda": {"low": 0.1, "high": 1}, "vmp.lr_mult": {"low": 1, "high": 100}}

    def space(*words):
        return search_space(OverridesParser.create().parse_overrides(list(words)), default)

    assert space("seed=1") == default
    assert space("vmp.lambda=2.5") == {
        "vmp.lr_mult": {"low": 1, "high": 100}
    }  # never searched against one's word
    assert space("optim.lr=0.1,0.2", "vmp.lambda=tag(log,interval(0.1,3))", "vmp.lr_mult=3") == {
        "optim.lr": [0.1, 0.2],
        "vmp.lambda": {"low": 0.1, "high": 3, "log": True},
    }
    assert space("seed=range(1,4)") == {"seed": [1, 2, 3]}
    assert space("seed=int(interval(1,4))") == {"seed": {"low": 1, "high": 4, "log": False, "integer": True}}
    assert space("tag='a b','1'") == {"tag": ["a b", "1"]}
    assert {type(word) for word in space("tag='a b','1'")["tag"]} == {str}
    values = {"optim.clip_norm": None, "tag": "1", "vmp.pixels": True, "train.patience": 3}
    parsed = OverridesParser.create().parse_overrides(Trial(0, values).overrides)
    assert {o.key_or_group: o.value() for o in parsed} == values


def test_another_space_is_another_search():
    names = [name_search(["seed=1"], {"optim.lr": [*rates]}) for rates in ((0.1,), (0.1,), (0.1, 0.2))]
    assert names[0] == names[1] != names[2]


def test_a_trial_without_all_of_its_values_is_not_run(tmp_path):
    search = Search(tmp_path, SPACE, trials=3, seed=0)
    search._study.ask({"seed": search._distributions["seed"]})  # as a kill leaves it
    assert [(t.number, t.values.keys()) for t in search.propose(2)] == [(1, SPACE.keys()), (2, SPACE.keys())]
    assert [t.state for t in search.read()] == ["failed", "waiting", "waiting"]


def test_the_study_is_in_its_folder_whatever_its_name(tmp_path):
    for name in ("a?b", "c%41", "d#e"):
        Search(tmp_path / name, {"seed": [1, 2]}, trials=1, seed=0).propose(1)
        assert (tmp_path / name / "study.db").is_file()


@pytest.mark.slow
def test_trials_are_jobs_that_may_fail_and_stop(tmp_path):
    """optim.lr=9 fails with a message; 7 goes on until it is asked to stop, saves, and is finished the next time."""
    words = ["hydra/sweeper=optuna", f"output='{tmp_path}'", "tag=mine"]
    words += ["optim.lr=0.1,9,7", "vmp.lambda=tag(log,interval(0.1,1.0))"]
    process = start(*words, "hydra.sweeper.trials=30")
    wait_for(lambda: list(tmp_path.rglob("ready")), process, seconds=200, says=lambda: finish(process))
    ready = list(tmp_path.rglob("ready"))
    process.send_signal(signal.SIGINT)
    code, said, wrong = finish(process)
    assert (code, "Traceback" in wrong) == (130, False), (said, wrong)
    (path,) = tmp_path.glob("sweeps/search-*/search.json")
    before = json.loads(path.read_text())["trials"]
    assert [(t["values"]["optim.lr"], t["state"]) for t in before if t["state"] == "waiting"] == [
        (7, "waiting")
    ]
    code, said, wrong = finish(start(*words, f"hydra.sweeper.trials={len(before)}"))
    trials = json.loads(path.read_text())["trials"]
    assert len(trials) == len(before)
    wanted = {0.1: "done", 9: "failed", 7: "done"}
    assert all(t["state"] == wanted[t["values"]["optim.lr"]] for t in trials), trials
    assert code == 0, (said, wrong)
    assert all(re.search(r"seed0-mine-trial\d+$", t["folder"]) for t in trials)
    assert {name for name, count in times_run(tmp_path).items() if count > 1} == {ready[0].parent.name}
    path.with_name("study.db").write_bytes(b"no database" * 999)
    code, _, wrong = finish(start(*words, f"hydra.sweeper.trials={len(before)}"))
    assert (code, "Traceback" in wrong) == (2, False), wrong
    assert "study.db: the search's trials cannot be read" in wrong
    page = tmp_path / "report.html"
    write_report([tmp_path], out=page, clips=0)
    done = sum(t["value"] is not None for t in trials)
    assert f"{done} of {len(trials)} trials finished" in page.read_text()
