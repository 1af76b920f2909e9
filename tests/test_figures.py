"""Which runs, layers and clips the figures are drawn from; the script that draws them."""

import json
import re
import shutil

import numpy as np
import pytest
from drawn import both, changed_copy
from runs import ROOT, Running, folder, start

from vmp.commands import figure as figure_command
from vmp.data import decode
from vmp.data.manifest import read_manifest
from vmp.errors import UserError
from vmp.figures import canvas, numbered, selection
from vmp.figures.curves import learned_pairs, same_but_lambda
from vmp.runs.run import read_run

# --- the choice of runs and clips ----------------------------------------------------------------------------------


def test_figure_7_compares_the_variants_of_table_2(two_runs, tmp_path):
    plain, prompted = both(two_runs)
    baseline = changed_copy(plain, tmp_path / "data/net/none/seed0")
    tuned = changed_copy(prompted, tmp_path / "data/net/learned/seed0")
    options = selection.FigureOptions(outputs=tmp_path)
    assert selection.layer_pairs(7, options) == {"none/seed0 vs. learned/seed0": (baseline, tuned)}
    head = changed_copy(plain, tmp_path / "data/net/none_head/seed0", train={"freeze": "all_but_head"})
    frozen = {"train": {"freeze": "backbone_and_head"}}
    start = {"init_from": "elsewhere/data/net/none/seed0", "tag": "again"}  # the outputs were moved since
    changed_copy(prompted, tmp_path / "data/net/learned_frozen/seed0-again", **start, **frozen)
    changed_copy(prompted, tmp_path / "data/net/learned/seed0-other", init_from="data/net/other/seed0")
    again = changed_copy(prompted, tmp_path / "data/net/learned/seed0-again", **start)
    options = selection.FigureOptions(outputs=tmp_path)
    assert selection.layer_pairs(7, options) == {
        "pretrained vs. baseline": (head, baseline),
        "baseline vs. prompts": (baseline, tuned),
        "baseline vs. second round, with prompts": (baseline, again),
        "prompts vs. second round, with prompts": (tuned, again),
    }
    named = selection.FigureOptions(runs=(baseline, again))
    assert list(selection.layer_pairs(7, named).values()) == [(baseline, again)]


def test_figures_8_and_9_compare_layers_on_each_of_the_papers_datasets(two_runs, tmp_path):
    plain, prompted = both(two_runs)
    expected = {}
    for name in ("finegym", "hmdb51-split1", "hmdb51-split2", "other"):
        a, b = (
            changed_copy(run, tmp_path / name / f"{method}/seed0", name=name, backbone={"name": "x3d"})
            for run, method in ((plain, "none"), (prompted, "learned"))
        )
        if name in ("finegym", "hmdb51-split1"):
            expected[f"{name}, learned"] = (a, b)
    assert selection.layer_pairs(8, selection.FigureOptions(outputs=tmp_path)) == expected
    one = selection.FigureOptions(outputs=tmp_path / "other")
    assert list(selection.layer_pairs(8, one)) == ["none/seed0 vs. learned/seed0"]


def test_runs_are_drawn_together_only_if_they_are_alike_otherwise(two_runs, tmp_path):
    """Runs at another λ, and at another λ with another order of the clips; a baseline with another part trained."""
    plain, prompted = both(two_runs)
    stronger = changed_copy(prompted, tmp_path / "stronger", vmp={"lambda": 2.0})
    other_order = {"vmp": {"lambda": 2.0}, "train": {"order_seed": 5}}
    reordered = changed_copy(prompted, tmp_path / "reordered", **other_order)
    assert same_but_lambda([prompted, stronger, reordered]) == [[prompted, stronger], [reordered]]
    frozen = changed_copy(plain, tmp_path / "frozen", train={"freeze": "all_but_head"})
    for baselines in ([plain, frozen], [frozen, plain]):
        options = selection.FigureOptions(runs=(*baselines, prompted), found=True)
        assert selection.baseline_pairs(8, options) == [(plain, prompted)]


def test_layer_and_clips_are_those_of_a_run_on_videos(two_runs):
    _, prompted = both(two_runs)
    options = selection.FigureOptions(outputs=two_runs / "out")
    assert selection.choose_run(options) == prompted
    learned = selection.choose_layer(options, prompted)
    assert learned.slope.item() == pytest.approx(prompted.result["scalars"]["slope"], rel=1e-6)
    clips = selection.choose_clips(options, count=3, run=prompted)
    assert list(clips) == ["brighter", "darker"]
    first = next(c for c in read_manifest(two_runs / "data/val.csv").clips if c.label == 0)
    stride = min(prompted.checked_config.backbone.spec.stride, (first.length - 1) // 2)
    begin_at = first.start + (first.length - 1 - 2 * stride) // 2
    expected = decode.read_frames(
        two_runs / "data" / first.path, begin_at + stride * np.arange(3), short_side=160
    )
    assert np.array_equal(clips["brighter"], expected)
    given = selection.FigureOptions(outputs=two_runs / "out", slope=12.0)
    assert selection.choose_run(given) is None
    assert selection.choose_layer(given, None).slope.item() == pytest.approx(12, rel=1e-4)


def test_the_papers_layer_is_drawn_before_other_layers_and_controls(two_runs, tmp_path):
    """Their folders come first by name, and their slope and shift are not those of Eq. 3."""
    _, prompted = both(two_runs)
    others = {
        "a_compensated": {"compensate": "translation"},
        "b_other_clip": {"attention_from": "other_clip"},
    }
    for name, changes in {**others, "c_learned": {}}.items():
        copy = changed_copy(prompted, tmp_path / name / "seed0", vmp=changes)
        result = prompted.result | {"top1": 40.0 if name == "c_learned" else 99.0}
        (copy.folder / "result.json").write_text(json.dumps(result))
    options = selection.FigureOptions(outputs=tmp_path)
    assert selection.choose_run(options).folder == tmp_path / "c_learned/seed0"
    assert [pair.top1 for pair in learned_pairs(options.all_runs)] == [40.0]
    shutil.rmtree(tmp_path / "c_learned")  # better than nothing
    options = selection.FigureOptions(outputs=tmp_path)
    assert selection.choose_run(options).folder == tmp_path / "a_compensated/seed0"


# --- the figures and the script ------------------------------------------------------------------------------------


def test_a_figure_without_its_runs_says_which_to_make(tmp_path):
    for number in (4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16):
        with pytest.raises(selection.MissingRuns, match=r"python train\.py") as told:
            numbered.draw(number, selection.FigureOptions(outputs=tmp_path))
        assert selection.PAPER[number].experiment in str(told.value)
        assert (
            ROOT / "conf/experiment" / f"{selection.PAPER[number].experiment.partition('=')[2]}.yaml"
        ).exists()
    with pytest.raises(UserError, match="must be one of 1, 3"):
        numbered.draw(2, selection.FigureOptions())


def test_the_same_figure_has_the_same_bytes(two_runs, tmp_path):
    wanted = selection.FigureOptions(runs=both(two_runs))
    for name in ("one", "two"):
        canvas.save(numbered.draw(11, wanted), tmp_path / name)
    for kind in ("png", "svg"):
        one, two = (tmp_path / f"{name}.{kind}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
    assert b"<dc:date>" not in (tmp_path / "one.svg").read_bytes()


def test_the_script_names_the_runs_to_make(tmp_path, script):
    code, _, errors = script("figure", 6, "--outputs", tmp_path, "--out", tmp_path)
    assert code == 2
    assert "python train.py experiment=finegym_timesformer_k600 vmp.lambda=2.5" in errors
    assert "Traceback" not in errors
    assert not list(tmp_path.iterdir())


def test_names_with_dollar_signs_are_drawn_as_they_are(two_runs, tmp_path):
    """Matplotlib takes what is between two of them for a formula, and fails where it is none."""
    for name, run in zip(("a$^{", "b$^{"), both(two_runs), strict=True):
        shutil.copytree(run.folder, tmp_path / name / "seed$0")
        for file in ("classes.txt", "predictions.csv", "per_class.csv"):
            path = tmp_path / name / "seed$0" / file
            path.write_text(path.read_text().replace("brighter", "$x^$").replace("darker", r"$\frac$"))
    runs = tuple(read_run(folder) for folder in sorted(tmp_path.glob("*/seed$0")))
    for number in (4, 10):
        canvas.save(numbered.draw(number, selection.FigureOptions(runs=runs)), tmp_path / "drawn")


def test_damage_of_one_run_leaves_the_other_runs_and_figures(two_runs, tmp_path, monkeypatch, capsys):
    shutil.copytree(two_runs / "out", tmp_path / "out")
    other = folder(tmp_path / "out", "learned_lambda1", "seed0-a")
    shutil.copytree(other, other.with_name("seed1"))
    (other.with_name("seed1") / "metrics.jsonl").write_text("{\n")
    shutil.rmtree(other / "checkpoints")  # which figure 7 reads
    monkeypatch.setattr(figure_command, "read", lambda _: ([4, 7, 10], [], True))
    words = ["figure", "all", "--outputs", str(tmp_path / "out"), "--out", str(tmp_path / "f")]
    monkeypatch.setattr("sys.argv", words)
    assert figure_command.main() == 2
    said = capsys.readouterr().err
    assert "warning: left out: " in said
    assert "seed1/metrics.jsonl, line 1: not JSON" in said
    assert re.search("error: figure 7 is left out: .*no such checkpoint", said), said
    assert (tmp_path / "f/figure4.png").is_file()
    assert (tmp_path / "f/figure10.png").is_file()


def test_of_all_figures_those_that_lack_runs_are_named_in_a_sentence_each(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(figure_command, "read", lambda _: ([7, 12], [], True))
    monkeypatch.setattr("sys.argv", ["figure", "all", "--outputs", str(tmp_path), "--out", str(tmp_path)])
    figure_command.main()
    assert capsys.readouterr().out.splitlines() == [
        "figure 7 is left out: it needs a finished run without prompts and one with them, alike otherwise",
        "figure 12 is left out: it needs two finished runs that differ in λ only, one with λ = 0",
        "Ask for a single figure, by its number, to see the commands that make its runs.",
    ]


@pytest.mark.slow
def test_every_figure_is_drawn_from_runs_and_clips(two_runs, tmp_path, script):
    """Those that are drawn in another process, too, have the same bytes."""
    out = tmp_path / "out"
    shutil.copytree(two_runs / "out", out)
    start(two_runs / "data", out, "trainer.epochs=2", "tag=a", "vmp.lambda=0").succeed()
    arguments = ["--outputs", out, "--clips", 2, "--frames", 3, "--out"]
    code, said, errors = script("figure", "all", *arguments, tmp_path / "a")
    assert code == 0, errors
    Running(["3", "5", "17", *map(str, arguments), str(tmp_path / "b")], script="scripts/figure.py").succeed(
        280
    )
    drawn = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    again = {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    assert len(again) >= 6
    assert drawn == drawn | again
    expected = {f"figure{n}.{kind}" for n in (1, 3, 4, 5, 6, 7, 10, 17, 18) for kind in ("png", "svg")}
    assert expected <= drawn.keys()
    assert "figure 13 is left out" in said  # the same runs and the same clip as figure 6
