"""What the report says first: on clips paired by id, against the same numbers counted by hand."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from reports import base_config, write_run

from vmp.paper.paired import difference
from vmp.report.answers import DRAWS, find_answers, summarize
from vmp.report.entries import read_entry
from vmp.report.page import write_report
from vmp.runs.records import PREDICTION_COLUMNS

CLIPS = 200


def write_tested(folder: Path, right: np.ndarray, *, seed: int, lost: int = 0, **vmp) -> None:
    """A finished run whose clips are right where `right` says; its rows are in an order of its own."""
    config = json.loads(json.dumps(base_config())) | {"seed": seed}
    config["vmp"] |= vmp
    write_run(folder, config, classes=("a", "b"), seed=seed, top1=100 * float(right[lost:].mean()))
    order = np.random.default_rng(seed).permutation(np.arange(lost, len(right)))
    with open(folder / "predictions.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(PREDICTION_COLUMNS)
        for i in range(lost):
            table.writerow([f"clip{i}", "", "", "", 0, "a", *[""] * 4, "missing"])
        for i in order:
            label, guess = i % 2, i % 2 if right[i] else 1 - i % 2
            table.writerow([f"clip{i}", "", "", "", label, "", guess, "", 0.9, guess, ""])


def answers_of(home: Path):
    found = sorted(path.parent for path in home.rglob("config.yaml"))
    entries = [read_entry(folder, str(folder), points=50, worst=2) for folder in found]
    return find_answers(sorted(entries, key=lambda e: e.order))


def draw(chance: float, seeds: int, *, stream: int) -> np.ndarray:
    return np.random.default_rng(stream).random((seeds, CLIPS)) < chance


@pytest.mark.parametrize(
    ("chance", "seeds", "verdict"),
    [(0.9, 3, "more than noise"), (0.62, 3, "may be noise"), (0.9, 1, "real on these clips, but 1 seed")],
)
def test_the_best_setting_is_compared_on_the_clips_and_seeds_in_common(tmp_path, chance, seeds, verdict):
    plain, good, bad = (draw(p, seeds, stream=n) for n, p in enumerate((0.6, chance, 0.3)))
    for seed in range(seeds):
        write_tested(tmp_path / f"none{seed}", plain[seed], seed=seed, lost=3 * (seed == 0), kind="none")
        write_tested(tmp_path / f"good{seed}", good[seed], seed=seed, **{"lambda": 1.0})
        write_tested(tmp_path / f"bad{seed}", bad[seed], seed=seed, **{"lambda": 2.5})
    write_tested(
        tmp_path / "more", np.ones(CLIPS, bool), seed=seeds, **{"lambda": 1.0}
    )  # a seed of one arm only
    (answer,) = answers_of(tmp_path)
    assert (answer.best.name, answer.other.name, answer.settings) == ("learned, λ 1", "without prompts", 3)
    assert answer.best.top1 == pytest.approx(100 * (good.mean() * seeds + 1) / (seeds + 1))
    lost = 3  # seed 0 of the baseline has no score for them, so no seed is compared on them
    wanted = difference(good[:, lost:], plain[:, lost:], level=1 - 0.05 / 2)
    assert answer.gain == pytest.approx(100 * (good[:, lost:].mean() - plain[:, lost:].mean()))
    assert (answer.difference.seeds, answer.difference.clips) == (seeds, CLIPS - lost)
    assert answer.difference.low == pytest.approx(wanted.low, abs=1.5)  # other draws
    assert answer.difference.high == pytest.approx(wanted.high, abs=1.5)
    narrow = difference(good[:, lost:], plain[:, lost:], draws=2 * DRAWS)
    assert answer.difference.low < narrow.low  # widened for the choice of one of two
    assert answer.verdict == verdict
    assert verdict in summarize([answer]).lower()


def test_a_setting_that_is_level_with_the_baseline_is_not_called_the_best(tmp_path):
    """The same clips right and wrong: an interval of more than a point, from what 200 clips do not show."""
    right = np.arange(CLIPS) < 0.6 * CLIPS
    write_tested(tmp_path / "none", right, seed=0, kind="none")
    write_tested(tmp_path / "learned", right, seed=0, **{"lambda": 1.0})
    (answer,) = answers_of(tmp_path)
    reach = 100 * (1 - 0.05 ** (1 / CLIPS))
    assert (answer.verdict, answer.kind) == ("level", "open")
    assert summarize([answer]) == (
        f"No setting is shown to be the best on {answer.dataset} with {answer.backbone}: learned, λ 1 has top-1 "
        f"60.0 %, level with the network without prompts (interval −{reach:.1f} to +{reach:.1f})."
    )
    write_report([tmp_path], out=tmp_path / "r.html", clips=0)
    assert "level with the other, so none is the best" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_the_best_of_the_prompts_may_be_below_no_prompts(tmp_path):
    write_tested(tmp_path / "none", np.arange(CLIPS) < 0.6 * CLIPS, seed=0, kind="none")
    write_tested(tmp_path / "learned", np.arange(CLIPS) < 0.5 * CLIPS, seed=0, **{"lambda": 1.0})
    (answer,) = answers_of(tmp_path)
    said = summarize([answer])
    assert said.startswith("The best setting with prompts on ")
    assert "10.0 points below without prompts" in said


def test_an_unfinished_seed_makes_no_setting_the_best(tmp_path):
    """Seed 0 is easy. λ 1 lacks the other, and is worse than without prompts on this one; λ 2 is better on both."""
    right = {"none": (0.8, 0.4), "lambda 1": (0.78,), "lambda 2": (0.82, 0.5)}
    for name, shares in right.items():
        for seed, share in enumerate(shares):
            vmp = {"kind": "none"} if name == "none" else {"lambda": float(name[-1])}
            write_tested(tmp_path / name / str(seed), np.arange(CLIPS) < share * CLIPS, seed=seed, **vmp)
    (answer,) = answers_of(tmp_path)
    assert answer.best.name == "learned, λ 2"
    assert answer.gain == pytest.approx(6)


def test_a_quick_check_on_few_clips_does_not_compete_with_whole_runs(tmp_path):
    """trainer=debug tests 16 clips: their accuracy is that of other clips, and may be high by luck."""
    right = np.arange(CLIPS) < 0.6 * CLIPS
    write_tested(tmp_path / "none", right, seed=0, kind="none")
    write_tested(tmp_path / "learned", np.roll(right, 3), seed=0, **{"lambda": 1.0})
    write_tested(tmp_path / "debug", np.ones(16, bool), seed=0, **{"lambda": 2.0})
    write_tested(tmp_path / "views", np.ones(CLIPS, bool), seed=0, **{"lambda": 3.0})
    for name, change in {"debug": {"clips": 16}, "views": {"views": [2, 3]}}.items():
        file = tmp_path / name / "result.json"
        result = json.loads(file.read_text())
        if "clips" in change:
            result["clips"][result["split"]] |= dict.fromkeys(("expected", "present"), change["clips"])
        file.write_text(json.dumps(result | {"views": change.get("views", result.get("views", []))}))
    found = {a.tested: (a.best.name, a.settings) for a in answers_of(tmp_path)}
    assert sorted(found.values()) == [("learned, λ 1", 2), ("learned, λ 2", 1), ("learned, λ 3", 1)]
    assert any("16 clips" in how for how in found)
    assert any("views 2x3" in how for how in found)


def test_copies_of_a_run_are_no_seeds(tmp_path):
    for seed, share in enumerate((0.4, 0.8)):
        write_tested(tmp_path / f"a{seed}", np.arange(CLIPS) < share * CLIPS, seed=seed)
    for n in range(3):
        write_tested(tmp_path / f"b{n}", np.arange(CLIPS) < 0.8 * CLIPS, seed=1)
    (answer,) = answers_of(tmp_path)
    assert (len(answer.best.entries), answer.best.again) == (2, 3)
    assert answer.best.top1 == pytest.approx(60)
    write_report([tmp_path], out=tmp_path / "r.html", clips=0)
    assert "2 seeds; 3 more of the same left out" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_the_interval_of_a_choice_among_many_has_draws_beyond_its_ends(tmp_path):
    """Of 40 settings, 1 in 1600 draws lies beyond either end: of 2,000, one."""
    for n in range(40):
        right = draw(0.6, 1, stream=n)[0]
        write_tested(tmp_path / str(n), right, seed=0, **{"lambda": float(n)})
    plain = draw(0.6, 1, stream=99)[0]
    write_tested(tmp_path / "none", plain, seed=0, kind="none")
    (answer,) = answers_of(tmp_path)
    best = draw(0.6, 1, stream=int(answer.best.name.rpartition(" ")[2]))
    wanted = difference(best, plain[None], level=1 - 0.05 / 40, draws=100_000)
    assert answer.difference.low == pytest.approx(wanted.low, abs=1)
    assert answer.difference.high == pytest.approx(wanted.high, abs=1)


def test_a_control_is_never_the_best_and_other_settings_are_not_seeds(tmp_path):
    for seed in range(2):
        write_tested(tmp_path / f"none{seed}", draw(0.5, 1, stream=seed)[0], seed=seed, kind="none")
        write_tested(tmp_path / f"a/{seed}", draw(0.6, 1, stream=seed + 9)[0], seed=seed, weight_decay=0.1)
        write_tested(tmp_path / f"b/{seed}", draw(0.7, 1, stream=seed + 9)[0], seed=seed, weight_decay=0.2)
        write_tested(tmp_path / f"c/{seed}", np.ones(CLIPS, bool), seed=seed, attention_from="other_clip")
    (answer,) = answers_of(tmp_path)
    assert answer.settings == 4
    assert len(answer.best.entries) == 2
    assert answer.best.name == "learned, λ 1 (b)"
    assert [e.run.folder.parent.name for e in answer.best.entries] == ["b", "b"]


def test_slope_and_shift_are_shown_from_start_to_end_with_the_attention_of_a_still_pixel(tmp_path):
    write_tested(tmp_path / "run", np.ones(CLIPS, bool), seed=0)
    lines = (tmp_path / "run/metrics.jsonl").read_text()
    start = {"kind": "start", "epoch": 0, "step": 0, "vmp/slope": 10.0, "vmp/shift": 0.0}
    (tmp_path / "run/metrics.jsonl").write_text(json.dumps(start) + "\n" + lines)
    result = json.loads((tmp_path / "run/result.json").read_text())
    result["scalars"] = {"slope": 20.0, "shift": -0.1}
    (tmp_path / "run/result.json").write_text(json.dumps(result))
    (answer,) = answers_of(tmp_path)
    # 1 / (1 + exp(-a (0 - b))): 1/2 before, 1 / (1 + exp(-2)) after
    assert answer.scalars == [["", "slope 10.00 → 20.00", "shift 0.000 → −0.100", "still pixel 0.50 → 0.88"]]
    assert answer.verdict == "nothing to compare with"
    written = (tmp_path / "run/config.yaml").read_text()
    (tmp_path / "run/config.yaml").write_text(written.replace("kind: learned", "kind: custom"))
    (own,) = answers_of(tmp_path)
    assert own.scalars == []  # a function of one's own gives a still pixel what it likes
    assert summarize([answer]).startswith("Nothing can be compared yet")


def test_the_answer_is_the_first_thing_on_the_page(tmp_path):
    for seed in range(3):
        write_tested(tmp_path / f"out/none{seed}", draw(0.5, 1, stream=seed)[0], seed=seed, kind="none")
        write_tested(tmp_path / f"out/good{seed}", draw(0.9, 1, stream=seed + 9)[0], seed=seed)
    page = tmp_path / "r.html"
    write_report([tmp_path / "out"], out=page, clips=0)
    text = page.read_text(encoding="utf-8")
    (answer,) = answers_of(tmp_path / "out")
    assert text.index(summarize([answer])) < text.index('id="answers-table"') < text.index('id="runs"')
    number = min(answer.best.numbers)
    assert f'href="#run-{number}">learned, λ 1</a>' in text
