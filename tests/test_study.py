"""The study of the project, its page and its records."""

import gzip
from pathlib import Path

import pytest
import yaml
from runs import ROOT

from vmp.backbones import zoo
from vmp.errors import ConfigError, RunError
from vmp.files import write_csv
from vmp.paper.planning import Planner
from vmp.paper.study import PLACE, choose, is_current, load_study, plan, take_recorded_levels
from vmp.paper.study_command import estimate, read_recorded, write_results
from vmp.paper.study_page import collect, compare
from vmp.paper.study_records import (
    CLIP_COLUMNS,
    RUN_COLUMNS,
    Records,
    leave_out_other_data,
    merge,
    read_clips,
    read_records,
    write_records,
)
from vmp.paper.tables import load_profile

STUDY = ROOT / "conf/study/real.yaml"


def clip(
    arm: str, seed: int, name: str, predicted: str, *, fold: int = 1, setting: str = "base"
) -> dict[str, str]:
    values = ("handwash12", str(fold), arm, setting, str(seed), name, name, "wash", predicted)
    return dict(zip(CLIP_COLUMNS, values, strict=True))


def run(arm: str, seed: int, *, top1: str = "50") -> dict[str, str]:
    values = ("handwash12", "1", arm, "base", str(seed), "c0ffee", "abc", top1, "9.8", "-0.2", "60", "CPU")
    return dict(zip(RUN_COLUMNS, values, strict=True))


def test_seeds_and_clips_that_only_one_arm_has_are_not_compared():
    study = load_study(STUDY)
    clips = [clip("none", s, f"{i}.mp4", "wash" if i else "rub") for s in (0, 1) for i in range(3)]
    clips += [clip("learned", 1, f"{i}.mp4", "wash") for i in range(4)]
    clips += [clip("learned", 2, "0.mp4", "rub")]  # a seed whose other folds are not run
    arms = collect(study, clips)["handwash12"]
    assert arms["learned"].seeds == (1,)
    found = compare(arms, "learned", "none")
    assert (found.clips, found.seeds, found.fixed, found.broken) == (3, 1, 1, 0)
    assert compare(arms, "none", None) is None
    assert compare(arms, "weighted", "none") is None


def test_a_clip_that_several_folds_test_counts_in_each():
    """As in the three splits of HMDB-51."""
    clips = [clip("none", 0, f"{i}.mp4", "wash", fold=fold) for fold in (1, 2) for i in range(2)]
    clips += [clip("learned", 0, f"{i}.mp4", "wash", fold=1) for i in range(2)]
    clips += [clip("learned", 0, f"{i}.mp4", "rub", fold=2) for i in range(2)]
    arms = collect(load_study(STUDY), clips)["handwash12"]
    assert arms["learned"].ids == [(1, "0.mp4"), (1, "1.mp4"), (2, "0.mp4"), (2, "1.mp4")]
    assert arms["learned"].top1 == 50
    found = compare(arms, "learned", "none")
    assert (found.clips, found.broken, found.mean) == (4, 2, -50)
    # the two tests of a clip are drawn together, so two clips that are alike are all that is known
    share = 1 - 0.025 ** (1 / 2)
    assert (found.low, found.high) == pytest.approx((-50 - 50 * share, -50 + 150 * share))


def test_seeds_that_have_finished_other_folds_leave_the_first():
    """After failures: fold 1 of seed 0 and fold 2 of seed 1, with as many clips."""
    clips = [clip("none", seed, f"{seed}{i}.mp4", "wash", fold=seed + 1) for seed in (0, 1) for i in range(3)]
    scores = collect(load_study(STUDY), clips)["handwash12"]["none"]
    assert (scores.seeds, scores.top1, len(scores.ids)) == ((0,), 100, 3)


def test_arms_of_several_sets_are_averaged_over_them(tmp_path):
    """On handwash12 the prompts gain two of four clips, on skateboard nothing; one arm was run on one set only."""
    study = load_study(STUDY)
    right = {("handwash12", "none"): 1, ("handwash12", "learned"): 3, ("handwash12", "weighted"): 4}
    right |= {("skateboard", "none"): 2, ("skateboard", "learned"): 2}
    right |= {("handwash12", "extra_frame"): 2, ("skateboard", "extra_frame"): 1}
    clips = [
        clip(arm, 0, f"{i}.mp4", "wash" if i < count else "rub") | {"set": chosen, "class": "wash"}
        for (chosen, arm), count in right.items()
        for i in range(4)
    ]
    write_results(study, Records([], clips), tmp_path, command="make real")
    text = (tmp_path / "study_real.md").read_text().partition("## All sets")[2]
    row = next(line for line in text.splitlines() if line.startswith("| motion prompts, λ = 0 |"))
    assert row.startswith("| motion prompts, λ = 0 | +25.0 [")
    assert "| 8 | handwash12; skateboard | +25.0 [" in row  # to the second reference
    row = next(line for line in text.splitlines() if line.startswith("| control: the extra frame alone |"))
    assert row.startswith("| control: the extra frame alone | +0.0 [")
    assert row.endswith("| 8 | handwash12; skateboard |  |")
    assert "λ of Table 7" not in text


def test_a_mean_difference_to_the_second_reference_names_the_sets_that_it_covers(tmp_path):
    """The prompts gain one of four clips on each of two sets where the control has none, and lose two on a third."""
    right = {"none": (0, 0, 2), "learned": (1, 1, 0), "extra_frame": (0, 0)}
    clips = [
        clip(arm, 0, f"{i}.mp4", "wash" if i < count else "rub") | {"set": chosen, "class": "wash"}
        for arm, counts in right.items()
        for chosen, count in zip(("handwash12", "skateboard", "surv_fight"), counts, strict=False)
        for i in range(4)
    ]
    write_results(load_study(STUDY), Records([], clips), tmp_path, command="make real")
    text = (tmp_path / "study_real.md").read_text().partition("## All sets")[2]
    row = next(line for line in text.splitlines() if line.startswith("| motion prompts, λ = 0 |"))
    assert row.startswith("| motion prompts, λ = 0 | +0.0 [")
    assert "| 12 | all 3 | +25.0 [" in row
    assert row.endswith("] over handwash12; skateboard |")


def test_the_spread_over_seeds_is_their_standard_deviation(tmp_path):
    """One and three of four clips: 25 and 75 %, which differ from their mean by 25."""
    clips = [
        clip("none", s, f"{i}.mp4", "wash") | {"class": "rub" if i > 2 * s else "wash"}
        for s in (0, 1)
        for i in range(4)
    ]
    pictures = write_results(load_study(STUDY), Records([], clips), tmp_path, command="make real")
    assert pictures == []  # of a single arm there is no difference
    spread = f"{(2 * 25**2) ** 0.5:.1f}"
    assert f"| without prompts | 50.0 | 4 x 2 | {spread} |" in (tmp_path / "study_real.md").read_text()


def test_a_page_says_which_settings_were_chosen_and_whose_slope_and_shift_it_shows(tmp_path):
    """Two of four clips are right with either learning rate: each half is judged by the rate of the other half."""
    halves = {"base": (0, 2), "lr0.02": (1, 3)}  # clips that are right; every other one is a half
    clips = [
        clip("learned", 0, f"{i}.mp4", "wash" if i in right else "rub", setting=setting)
        for setting, right in halves.items()
        for i in range(4)
    ]
    runs = [run("learned", 0), run("learned", 0) | {"setting": "lr0.02", "slope": "5.0"}]
    study = load_study(STUDY)
    write_results(study, Records(runs, clips), tmp_path, command="make real")
    text = (tmp_path / "study_real.md").read_text()
    assert (
        "Run at the settings base, lr0.02: each half of the clips is judged by the setting that is best on"
        in text
    )
    assert "Slope and shift are those of base." in text
    row = next(line for line in text.splitlines() if line.startswith("| motion prompts, λ = 0 |"))
    assert row.endswith("| 9.80 (9.80 to 9.80) | -0.20 (-0.20 to -0.20) | base 1, lr0.02 1 |  |")
    write_results(study, Records(runs[:1], clips[:4]), tmp_path, command="make real")
    assert (
        "setting" not in (tmp_path / "study_real.md").read_text().partition("## How")[0].partition("## ")[2]
    )


def test_the_time_of_a_plan_is_that_of_its_sets():
    """Runs of one set say little of another, whose clips are longer or more."""
    took = [("hands", 600.0), ("hands", 800.0), ("hands", 9000.0), ("boards", 100.0)]
    assert estimate(["boards"] * 3, took) == (
        "about 5 min, one after another, by the medians of recorded runs (boards 100 s a run)"
    )
    assert "(hands 800 s, new 700 s a run)" in estimate(["hands", "new"], took)


def test_an_arm_that_is_not_compared_with_the_first_says_with_which(tmp_path):
    arms = ("none", "learned", "head", "head_learned")
    clips = [clip(arm, 0, f"{i}.mp4", "wash") for arm in arms for i in range(2)]
    write_results(load_study(STUDY), Records([], clips), tmp_path, command="make real")
    text = (tmp_path / "study_real.md").read_text()
    name = "frozen backbone, motion prompts (compared with: frozen backbone, without prompts)"
    assert f"| {name} | 100.0 | 2 x 1 |" in text
    assert f"| {name} |\n| --- |" in text  # of the table by class, its last arm
    assert "| motion prompts, λ = 0 | 100.0 |" in text


def test_slope_and_shift_are_of_the_seeds_that_count(tmp_path):
    """Seed 1 has tested one clip of two: its run shifts neither the accuracy nor the slope."""
    clips = [clip("learned", 0, f"{i}.mp4", "wash") for i in range(2)] + [clip("learned", 1, "0.mp4", "rub")]
    runs = [run("learned", 0), run("learned", 1) | {"slope": "5.0"}]
    write_results(load_study(STUDY), Records(runs, clips), tmp_path, command="make real")
    assert "| 100.0 | 2 x 1 |  |  |  | 9.80 (9.80 to 9.80) |" in (tmp_path / "study_real.md").read_text()


def test_results_are_written_read_and_merged(tmp_path):
    study = load_study(STUDY)
    clips = [
        clip(arm, 0, f"{i}.mp4", "wash" if i % 2 else "rub") for arm in ("none", "learned") for i in range(4)
    ]
    old = Records([run("none", 0), run("learned", 0)], clips)
    pictures = write_results(study, old, tmp_path, command="make real")
    assert sorted(pictures) == [tmp_path / "study_real.png", tmp_path / "study_real.svg"]
    text = (tmp_path / "study_real.md").read_text()
    assert "| motion prompts, λ = 0 | 50.0 | 4 x 1 |  | +0.0 [-52.7, +52.7] on 4 x 1 | 0 / 0 |" in text
    assert "| fixed power normalisation | not run |" in text
    assert "difference to: control: the extra frame alone" in text
    assert "patches" not in text  # a group that nobody asked for
    assert (tmp_path / "study_real.png").stat().st_size > 1000
    back = read_records(tmp_path)
    assert sorted(back.clips, key=str) == sorted(({k: c[k] for k in back.clips[0]} for c in clips), key=str)
    again = Records([run("learned", 0, top1="75")], [clip("learned", 0, "0.mp4", "wash")])
    merged = merge(back, again)
    assert [row["top1"] for row in merged.runs] == ["75", "50"]
    assert [row["id"] for row in merged.clips if row["arm"] == "learned"] == ["0.mp4"]
    (tmp_path / "study_clips.csv.gz").unlink()
    with pytest.raises(RunError, match=r"study_clips\.csv\.gz: missing"):
        read_records(tmp_path)


def test_a_row_of_clips_has_the_predictions_of_all_runs(tmp_path):
    clips = [clip("learned", s, f"{i}.mp4", "wash" if s else "rub") for s in (0, 1) for i in (0, 1)]
    clips += [clip("none", 0, "1.mp4", "rub", setting="lr0.1"), clip("none", 0, "1.mp4", "wash", fold=2)]
    write_records(Records([run("none", 0)], clips), tmp_path)
    path = tmp_path / "study_clips.csv.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        assert file.read().splitlines() == [
            "set,fold,id,group,class,learned/base/0,learned/base/1,none/base/0,none/lr0.1/0",
            "handwash12,1,0.mp4,0.mp4,wash,rub,wash,,",
            "handwash12,1,1.mp4,1.mp4,wash,rub,wash,,rub",
            "handwash12,2,1.mp4,1.mp4,wash,,,wash,",
        ]
    assert sorted(map(str, (sorted(c.items()) for c in read_clips(path)))) == sorted(
        map(str, (sorted(c.items()) for c in clips))
    )
    write_csv(path, [["set", "fold", "id", "group", "class", "arm"], [*"a1b", "", "c", "d"]])
    with pytest.raises(RunError, match=r"column 'arm': must be one of set, fold.*arm/setting/seed"):
        read_clips(path)


def test_a_run_is_recorded_only_once_its_clips_are(tmp_path, monkeypatch):
    """Else a kill between the two files would leave a run that is never made again, and has no clips."""
    write_records(Records([run("none", 0)], [clip("none", 0, "0.mp4", "wash")]), tmp_path)

    def stop_after_one(path: Path, rows) -> None:
        write_csv(path, rows)
        raise KeyboardInterrupt

    monkeypatch.setattr("vmp.paper.study_records.write_csv", stop_after_one)
    both = [clip(arm, 0, "0.mp4", "wash") for arm in ("none", "learned")]
    with pytest.raises(KeyboardInterrupt):
        write_records(Records([run("none", 0), run("learned", 0)], both), tmp_path)
    left = read_records(tmp_path)
    assert [row["arm"] for row in left.runs] == ["none"]
    assert {row["arm"] for row in left.clips} == {"none", "learned"}


def test_words_choose_sets_arms_and_settings():
    study = load_study(STUDY)
    beyond = ["compensated", "two_sided", "multiscale", "patch", "per_clip", "features"]
    arms = [arm for arm in study.arms if arm not in beyond]
    assert choose(study, [], search=False) == (list(study.sets), arms, ["base"])
    assert choose(study, [], search=True) == (list(study.sets), arms, list(study.settings))
    one = ["skateboard"]
    assert choose(study, ["skateboard", "beyond", "none"], search=False) == (one, ["none", *beyond], ["base"])
    assert choose(study, ["learned", "none", "skateboard"], search=False) == (
        one,
        ["none", "learned"],
        ["base"],
    )
    for search in (False, True):
        assert choose(study, ["skateboard", "none", "lr0.005"], search=search) == (one, ["none"], ["lr0.005"])
    with pytest.raises(ConfigError, match=r"pushups is no set, arm or setting[\s\S]*sets: handwash12"):
        choose(study, ["pushups"], search=False)


def test_a_setting_that_has_the_name_of_an_arm_is_refused(tmp_path):
    text = (ROOT / "conf/study/real.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("  lr0.005: [", "  head: ["))
    with pytest.raises(ConfigError, match=r"settings.head is also the name of a set, an arm or a group"):
        load_study(tmp_path / "mine.yaml")


def test_constant_attention_takes_the_mean_of_the_learned_arm_wherever_the_runs_are():
    study, digests = load_study(STUDY), set()
    for output in ("outputs/real", "/disk/elsewhere"):
        planner = Planner(output=output)
        chosen = {"sets": ["handwash12"], "seeds": [0, 1], "settings": ["base", "lr0.02"]}
        arms = ["learned", "fixed", "constant"]
        runs = {(r.fold, r.setting, r.seed, r.arm): r for r in plan(study, planner, arms=arms, **chosen)}
        for (fold, setting, seed, arm), run in runs.items():
            if arm == "constant":
                learned = runs[fold, setting, seed, "learned"].planned
                assert run.planned.needs == (learned,)
                assert run.planned.config.vmp.level == str(learned.folder)
                digests.add((fold, setting, seed, run.digest))
            else:
                assert run.planned.needs == ()
    assert len(digests) == 5 * 2 * 2


def test_constant_attention_is_taken_from_the_record_of_a_run_that_is_not_there():
    """docs/results/real has learned runs with and without their mean attention, and no folders of runs."""
    study, planner = load_study(STUDY), Planner(output="outputs/nowhere")
    rows = read_records(ROOT / "docs/results/real").runs
    chosen = {"sets": ["handwash12", "ut_set1"], "seeds": [0], "settings": ["base"]}
    before = plan(study, planner, arms=["learned", "constant"], **chosen)
    after = take_recorded_levels(study, planner, before, rows)
    recorded = {
        (r["set"], r["fold"]): r["attention"]
        for r in rows
        if (r["arm"], r["setting"], r["seed"]) == ("learned", "base", "0")
    }
    for old, new in zip(before, after, strict=True):
        assert (old.place, old.digest) == (new.place, new.digest)
        level = recorded[new.set, str(new.fold)]
        if new.arm == "constant" and level:
            assert new.planned.config.vmp.level == float(level)
            assert new.planned.needs == ()
        else:  # not recorded: trained again
            assert new.planned is old.planned
    assert {bool(new.planned.needs) for new in after if new.arm == "constant"} == {True, False}
    with pytest.raises(ConfigError, match=r"vmp.level: the table sets this itself"):
        plan(study, Planner(output="x", extra=["vmp.level=1"]), arms=["constant"], **chosen)


def test_recorded_runs_have_the_config_that_the_study_gives_them():
    """A change of the project must not make hours of runs count as those of another study."""
    study, planner = load_study(STUDY), Planner(output="outputs/real")
    rows = read_records(ROOT / "docs/results/real").runs
    assert rows
    assert all(is_current(study, planner, row) for row in rows)


def test_a_record_with_another_config_does_not_hide_the_published_one(tmp_path, capsys):
    """As of a study that was run with overrides, or before its file changed."""
    study, planner = load_study(STUDY), Planner(output="outputs/real")
    row = next(row for row in read_records(ROOT / "docs/results/real").runs if row["arm"] == "none")
    tested = [
        {**{name: row[name] for name in PLACE}, "id": "a", "group": "a", "class": "b", "predicted": "b"}
    ]
    write_records(Records([row], tested), tmp_path / "published")
    write_records(Records([row | {"config": "c0ffee", "top1": "1"}], tested), tmp_path / "results")
    study = study.model_copy(update={"published": str(tmp_path / "published")})
    found = read_recorded(study, planner, tmp_path / "results")
    assert [kept["top1"] for kept in found.runs] == [row["top1"]]
    assert len(found.clips) == 1
    said = capsys.readouterr().out
    assert (
        "1 recorded run(s) have another config than the study gives them now, or started from other weights, and are "
        f"left out ({tmp_path}" in said
    )
    # overrides that do not fit a recorded arm, which nobody asked for
    assert not is_current(study, Planner(output="x", extra=["vmp.alpha=2"]), row)
    assert not is_current(study, planner, row | {"fold": "99"})


def test_a_record_from_weights_that_this_package_replaced_is_not_current():
    study, planner = load_study(ROOT / "conf/study/extensions.yaml"), Planner(output="x")
    row = next(row for row in read_records(ROOT / "docs/results/extensions").runs if row["arm"] == "none")
    run = next(
        one for one in plan(study, planner, sets=[row["set"]], arms=["none"], seeds=[0], settings=["base"])
    )
    backbone = run.planned.config.backbone
    shipped = zoo.find(backbone.key, backbone.weights).sha256
    assert len(shipped) == 64
    assert is_current(study, planner, row)  # it does not say which
    assert is_current(study, planner, row | {"weights": shipped[:8]})
    assert not is_current(study, planner, row | {"weights": "00c0ffee"})


def test_runs_on_other_clips_than_most_of_their_fold_are_left_out():
    """As after a dataset was prepared again from other annotations, with half of the arms trained before."""
    rows = [run(arm, seed) | {"data": data} for arm, seed, data in (
        ("none", 0, "aa"), ("learned", 0, "bb"), ("none", 1, "bb"), ("learned", 1, "bb"), ("fixed", 0, ""),
    )]  # fmt: skip
    elsewhere = run("none", 0) | {"fold": "2", "data": "aa"}
    tested = [clip(row["arm"], int(row["seed"]), "a", "wash") for row in rows]
    kept, says = leave_out_other_data(Records([*rows, elsewhere], tested))
    assert kept.runs == [*rows[1:], elsewhere]
    assert kept.clips == tested[1:]
    assert says == [
        "1 run(s) of handwash12, fold 1, had other clips than most runs of it, and are left out: arms compare only "
        "on the same data. Train these again with the clips that the others had, or the whole fold with new ones"
    ]
    assert leave_out_other_data(kept) == (kept, [])


def test_a_set_or_a_fold_is_not_counted_twice(tmp_path: Path):
    raw = yaml.safe_load(STUDY.read_text())
    raw["sets"] = {"one": {"label": "x", "overrides": ["dataset=motions"]}}
    chosen = {"arms": ["none"], "seeds": [0], "settings": ["base"]}
    for change, said in (
        ({"again": raw["sets"]["one"]}, "set one fold 1 and set again fold 1 have the same runs"),
        ({"one": raw["sets"]["one"] | {"folds": 3}}, "set one fold 1 and set one fold 2 have.*needs `fold`"),
    ):
        (tmp_path / "x.yaml").write_text(
            yaml.safe_dump(raw | {"sets": raw["sets"] | change}, sort_keys=False)
        )
        study = load_study(tmp_path / "x.yaml")
        with pytest.raises(ConfigError, match=f"(?s){said}"):
            plan(study, Planner(output="x"), sets=study.sets, **chosen)


def test_a_study_file_with_faults(tmp_path: Path):
    raw = yaml.safe_load(STUDY.read_text())
    raw["arms"]["learned"]["compared_with"] = "nobody"
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError, match="compared_with = nobody: no such arm"):
        load_study(tmp_path / "x.yaml")
    raw["arms"]["learned"]["compared_with"], raw["second_reference"] = "none", "somebody"
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError, match="second_reference = somebody: no such arm"):
        load_study(tmp_path / "x.yaml")
    (tmp_path / "list.yaml").write_text("- none\n")
    with pytest.raises(ConfigError, match=r"list\.yaml:\n  must be lines of KEY: VALUE, and is a list"):
        load_study(tmp_path / "list.yaml")
    (tmp_path / "list.yaml").unlink()
    with pytest.raises(ConfigError, match="no such study; there are: x"):
        load_study(tmp_path / "y.yaml")
    copied = raw | {"second_reference": None}
    copied["arms"] = raw["arms"] | {"copied": {**raw["arms"]["learned"], "label": "another"}}
    (tmp_path / "z.yaml").write_text(yaml.safe_dump(copied))
    with pytest.raises(ConfigError, match=r"arms\.copied and arms\.learned have the same"):
        load_study(tmp_path / "z.yaml")
    del raw["note"]
    raw |= {"notes": "x", "second_reference": None, "settings": {}, "launch": 3}
    raw["arms"]["learned"]["compare_with"] = "none"
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError) as caught:
        load_study(tmp_path / "x.yaml")
    said = str(caught.value)
    assert "\n  note: must be given" in said
    assert "\n  notes: no such key; did you mean note?" in said
    assert "\n  arms.learned.compare_with: no such key; did you mean compared_with?" in said
    assert "\n  settings = {}: " in said
    assert "\n  launch = 3: " in said


def test_a_set_takes_recipe_dataset_and_network_from_a_profile_of_the_tables(tmp_path: Path):
    raw = yaml.safe_load(STUDY.read_text()) | {"profile": "mini", "overrides": ["trainer.epochs=2"]}
    raw["sets"] = {
        "small": {"label": "x", "dataset": "finegym", "model": "i3d", "overrides": ["backbone=i3d"]}
    }
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(raw))
    study, profile = load_study(tmp_path / "x.yaml"), load_profile("mini")
    assert study.overrides == (*profile.overrides, "trainer.epochs=2")
    of_small = (*profile.datasets["finegym"].overrides, *profile.models["i3d"].overrides, "backbone=i3d")
    assert study.sets["small"].overrides == of_small
    raw["sets"]["small"]["model"] = "i3e"
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(
        ConfigError, match=r"sets\.small\.model = i3e: profile mini has no such model; did you mean i3d\?"
    ):
        load_study(tmp_path / "x.yaml")
    raw["sets"]["small"]["model"] = "timesformer_k600"
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(
        ConfigError, match="model = timesformer_k600: starts from a run that only tables make"
    ):
        load_study(tmp_path / "x.yaml")
    del raw["profile"]
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError, match=r"sets\.small\.dataset = finegym: needs `profile`"):
        load_study(tmp_path / "x.yaml")


def test_braces_of_overrides_are_values_of_the_set_or_hydras(tmp_path: Path):
    raw = yaml.safe_load(STUDY.read_text())
    name = next(iter(raw["sets"]))
    raw["sets"][name]["values"] = {"weight": 2.5}
    mine = ["vmp.lambda={weight}", "vmp.options={width: 0.3}", "tag=lr${optim.lr}", "vmp.name={absent}"]
    raw["arms"]["learned"]["overrides"] = mine[:3]
    raw["settings"] = {"base": []}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(raw))
    study = load_study(tmp_path / "x.yaml")
    assert study.overrides_of(name, "learned", "base") == ["vmp.lambda=2.5", *mine[1:3]]
    raw["arms"]["learned"]["overrides"] = mine
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError, match=f"sets.{name}.values has no 'absent', which arm learned"):
        load_study(tmp_path / "x.yaml").overrides_of(name, "learned", "base")


def test_arms_of_the_extensions_differ_in_their_prompts_alone():
    study, planner = (
        load_study(ROOT / "conf/study/extensions.yaml"),
        Planner(output="x"),
    )
    runs = plan(study, planner, sets=["moving"], arms=study.arms, seeds=[0], settings=["base"])
    assert len({run.planned.folder for run in runs}) == len(study.arms)
    assert len({str({**run.planned.raw, "vmp": None}) for run in runs}) == 1
    assert {run.planned.config.vmp.lambda_ for run in runs} == {0}


def test_arms_share_overrides_through_anchors():
    study = load_study(ROOT / "conf/study/extensions.yaml")
    assert study.arms["per_clip"].overrides == (
        "vmp=quick",
        "vmp.lambda=0",
        "vmp.form=per_clip",
        "vmp.name=per_clip",
    )
