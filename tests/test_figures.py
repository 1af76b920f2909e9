"""The numbers behind the figures, compared with the maths and slow loops; the script that draws them."""

import json
import math
import re
import shutil
from itertools import combinations, product
from math import comb
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from runs import ROOT, Running, folder, start
from torch import nn

from vmp.commands import figure as figure_command
from vmp.data import decode
from vmp.data.manifest import read_manifest
from vmp.data.motions import CAMERAS
from vmp.errors import RunError, UserError
from vmp.figures import canvas, comparison, motion_frames, numbered, selection, similarity
from vmp.figures.canvas import style
from vmp.figures.clips import generated_clip, plain_frames
from vmp.figures.curves import (
    LearnedPair,
    _draw_pairs,
    best_pairs,
    by_lambda,
    draw_curves,
    learned_pairs,
    plain_numbers,
    same_but_lambda,
    whole_epochs,
)
from vmp.figures.family import thinned
from vmp.figures.layers import layer_with, layers_of
from vmp.figures.panels import color_attention, color_differences
from vmp.runs.open import open_run
from vmp.runs.run import Run, read_run


@pytest.fixture(scope="module")
def home(data, tmp_path_factory):
    """Two tiny runs, without prompts and with them, and their data."""
    home = tmp_path_factory.mktemp("runs")
    shutil.copytree(data, home / "data")
    begun = [start(data, home / "out", m, "trainer.epochs=2", "tag=a") for m in ("vmp=none", "vmp=learned")]
    for one in begun:
        one.succeed()
    return home


def both(home: Path) -> tuple[Run, Run]:
    return tuple(read_run(folder(home / "out", m, "seed0-a")) for m in ("none", "learned_lambda1"))


# --- Fig. 1 --------------------------------------------------------------------------------------------------------


def test_time_color_reordering_alternates_the_channels_of_three_frames():
    frames = np.random.default_rng(0).integers(0, 256, (7, 3, 4, 3), np.uint8)
    slow = np.empty_like(frames)
    for t, y, x, k in product(range(7), range(3), range(4), range(3)):
        slow[t, y, x, k] = frames[min(t + k, 6), y, x, t % 3]
    assert np.array_equal(motion_frames.time_color_reordering(frames), slow)
    # numbered channels: 1R 2R 3R, 2G 3G 4G, 3B 4B 5B, 4R ...
    numbered = np.array([[[[10 * t, 10 * t + 1, 10 * t + 2]]] for t in range(1, 7)])
    made = motion_frames.time_color_reordering(numbered)[:, 0, 0].tolist()
    assert made[:4] == [[10, 20, 30], [21, 31, 41], [32, 42, 52], [40, 50, 60]]
    still = np.full((4, 2, 2, 3), (9, 80, 200), np.uint8)
    assert all(len(set(p)) == 1 for p in motion_frames.time_color_reordering(still)[:, 0, 0].tolist())  # grey


def test_a_taylor_frame_equals_the_series():
    frames = np.random.default_rng(1).integers(0, 256, (6, 2, 3, 3), np.uint8)
    terms = 3
    made = motion_frames.taylor_frame(frames, terms=terms)
    for y, x in product(range(2), range(3)):
        g = [sum(w * v for w, v in zip((0.299, 0.587, 0.114), f[y, x] / 255, strict=True)) for f in frames]
        # forward differences at the first frame, by the binomial theorem
        delta = [sum((-1) ** (n - i) * comb(n, i) * g[i] for i in range(n + 1)) for n in range(6)]
        for c in range(3):
            total = 0.0
            for k in range(terms):
                total += sum((v - g[0]) ** k for v in g) / math.factorial(k) * delta[k + 1 + c]
            assert made[y, x, c] == pytest.approx(total, abs=1e-12)
    assert not motion_frames.taylor_frame(frames[:1].repeat(8, axis=0)).any()  # nothing moves
    assert (motion_frames.show_taylor(np.zeros((2, 2, 3))) == 128).all()
    with pytest.raises(ValueError, match="5 terms take 8"):
        motion_frames.taylor_frame(frames)


# --- Fig. 3, 17, 18 ------------------------------------------------------------------------------------------------


def test_a_layer_has_the_given_slope_and_shift():
    for slope, shift in ((9.1, -0.59), (11.04, 0.0), (50.0, 0.3)):
        layer = layer_with(slope, shift)
        assert layer.slope.item() == pytest.approx(slope, rel=1e-4)
        assert layer.shift.item() == pytest.approx(shift, abs=1e-5)
        assert 5 / (0.45 * abs(math.tanh(layer.m.item())) + 0.1) == pytest.approx(slope, rel=1e-4)
        assert 0.6 * math.tanh(layer.n.item()) == pytest.approx(shift, abs=1e-5)
    for slope, shift, named in (
        (9, 0, "--slope"),
        (51, 0, "--slope"),
        (-3, 0, "--slope"),
        (11, 0.6, "--shift"),
    ):
        with pytest.raises(UserError, match=named):
            layer_with(slope, shift)


def test_colours_of_differences_and_attention():
    red, _, blue = color_differences(np.array([[-1.0, 0, 1.0]]), limit=1)[0].T.astype(int)
    assert blue[0] > red[0]
    assert red[2] > blue[2]
    assert min(red[1], blue[1]) > 240
    grey = color_attention(np.array([[0.0, 0.5, 1.0]]))[0].astype(int).sum(axis=-1)
    assert grey[0] > grey[1] > grey[2]


def test_a_thinned_surface_keeps_its_extremes():
    values = np.zeros((100, 150))
    values[37, 91], values[80, 10] = 1.0, -0.5
    thin = thinned(values)
    assert max(thin.shape) <= 48
    assert (thin.max(), thin.min()) == (1.0, -0.5)
    assert thinned(values[:20, :20]).shape == (20, 20)


# --- Fig. 4 --------------------------------------------------------------------------------------------------------


def test_the_best_pairs_by_dataset_share_a_backbone_and_vice_versa():
    found = [
        LearnedPair("mpii", "x3d", 1, 0, 99),
        LearnedPair("mpii", "timesformer", 2, 0, 50),
        LearnedPair("mpii", "timesformer", 3, 0, 60),
        LearnedPair("gym", "timesformer", 4, 0, 80),
    ]
    assert {k: v.slope for k, v in best_pairs(found, "dataset").items()} == {"gym": 4, "mpii": 3}
    assert {k: v.slope for k, v in best_pairs(found, "backbone").items()} == {"timesformer": 3, "x3d": 1}
    assert best_pairs([], "dataset") == {}


def test_curves_with_a_single_row_are_visible(tmp_path):
    import cv2

    rows = [
        {"kind": "start", "epoch": 0, "step": 0, "vmp/slope": 11.0, "vmp/shift": 0.1},
        {"kind": "train", "epoch": 1, "step": 2, "train/cross_entropy": 0.7, "train/top1": 50.0},
        {"kind": "val", "epoch": 1, "step": 2, "val/cross_entropy": 0.6, "val/top1": 55.0, "val/top5": 90.0},
    ]
    pictures = []
    for name, kept in (("empty", rows[:0]), ("one", rows)):
        (tmp_path / name).mkdir()
        lines = "".join(json.dumps(row) + "\n" for row in kept)
        (tmp_path / name / "metrics.jsonl").write_text(lines)
        draw_curves(tmp_path / name, tmp_path / f"{name}.png")
        pictures.append(cv2.imread(str(tmp_path / f"{name}.png")).astype(int))
    for blue in np.array_split(pictures[1], 4, axis=1)[:2]:  # cross-entropy, accuracies
        assert (blue[..., 0] - blue[..., 2] > 80).sum() > 20
    assert not (pictures[0][..., 0] - pictures[0][..., 2] > 80).any()


def test_top5_of_five_classes_is_not_drawn(tmp_path):
    row = {"kind": "val", "epoch": 1, "step": 2, "val/cross_entropy": 0.6, "val/top1": 55.0}
    pictures = {}
    for classes in (5, 6):
        for more in ({}, {"val/top5": 90.0}):
            folder = tmp_path / f"{classes}{len(more)}"
            folder.mkdir()
            (folder / "classes.txt").write_text("".join(f"class {i}\n" for i in range(classes)))
            (folder / "metrics.jsonl").write_text(json.dumps(row | more) + "\n")
            draw_curves(folder, folder / "curves.png")
            pictures[classes, len(more)] = (folder / "curves.png").read_bytes()
    assert pictures[5, 1] == pictures[5, 0]
    assert pictures[6, 1] != pictures[6, 0]


def test_axes_have_whole_epochs_and_numbers_without_an_offset():
    with style():
        drawn = canvas.figure(3, 2)
        axis = drawn.subplots()
        axis.plot([0, 1, 2], [11.00001, 11.00002, 11.00003])
        axis.set_xlim(0, 2)
        whole_epochs(axis)
        plain_numbers(axis, least=0.1)
        drawn.draw_without_rendering()
    assert all(float(label.get_text()).is_integer() for label in axis.get_xticklabels())
    assert axis.yaxis.get_offset_text().get_text() == ""
    low, high = axis.get_ylim()
    assert high - low == pytest.approx(0.1)
    shown = [float(label.get_text()) for label in axis.get_yticklabels()]
    assert low - 0.05 <= min(shown) < 11.00002 < max(shown) <= high + 0.05


@pytest.mark.parametrize("names", [("x3d", "c2d", "slowfast-f"), None])
def test_names_and_numbers_of_the_best_pairs_do_not_overlap(names):
    """Fig. 4 (d), with all backbones of the paper and their pathways."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    names = names or (
        "c2d",
        "i3d",
        "slowfast-f",
        "slowfast-s",
        "timesformer",
        "timesformer-k400",
        "tiny",
        "x3d",
    )
    best = {name: LearnedPair("a", name, 12.0 + 4 * i, (-1) ** i * 0.4, 50.0) for i, name in enumerate(names)}
    with style():
        drawn = canvas.figure(10, 5.6)
        axes = drawn.subplots(2, 2)
        _draw_pairs(axes[1, 1], best)
        board = FigureCanvasAgg(drawn)
        board.draw()
        renderer = board.get_renderer()
        axis, right = axes[1, 1], drawn.axes[-1]
        boxes = [
            [text.get_window_extent(renderer) for text in (*axis.texts, *right.texts)],
            [(t.get_window_extent(renderer), t) for t in axis.get_xticklabels()],
        ]
    for a, b in combinations(boxes[0], 2):
        assert not a.overlaps(b)
    labels = [box for box, _ in boxes[1]]
    if boxes[1][0][1].get_rotation() == 0:
        assert not any(a.overlaps(b) for a, b in combinations(labels, 2))
    else:  # aslant: lines of writing, which are apart by more than a letter's height
        apart = (labels[1].x1 - labels[0].x1) * math.sin(math.radians(25))
        assert apart > boxes[1][0][1].get_fontsize() * drawn.dpi / 72


def test_generated_clips_show_the_whole_object_moving_as_their_class_says():
    from vmp.data.motions import CLASSES, Motions, motion_of

    for camera in CAMERAS:
        for count, stride in ((2, 2), (7, 1)):
            frames, name = generated_clip(camera, count=count, stride=stride)
            assert len(frames) == count
            assert camera in name
    spec = Motions(camera="static", size=112, frames=8)
    for i in range(60):
        motion = motion_of(spec, "test", i)
        n, way = plain_frames(spec, i), CLASSES[motion.label]
        place = (motion.place - motion.camera)[:n] % 112
        assert ((place > motion.radius[:n, None]) & (place < 112 - motion.radius[:n, None])).all()
        growth = np.diff(motion.radius[:n])
        assert (growth <= 0).all() if way == "recede" else (growth >= 0).all()
        if n > 1:  # no jump to the other side
            assert np.abs(np.diff(place, axis=0)).max() < 20


def test_lines_and_learned_pairs_equal_those_of_the_run(home):
    plain, prompted = both(home)
    lines = by_lambda([plain, prompted])
    assert list(lines) == [1.0]
    epochs, slopes = lines[1.0]["slope"]
    logged = [row for row in prompted.rows if row["kind"] in ("start", "train")]
    assert slopes == [row["vmp/slope"] for row in logged]
    assert epochs == [row["epoch"] for row in logged]
    assert epochs[0] == 0
    (pair,) = learned_pairs([plain, prompted])
    assert (pair.slope, pair.shift) == tuple(prompted.result["scalars"][k] for k in ("slope", "shift"))
    assert same_but_lambda([plain, prompted]) == [[prompted]]
    layer = layers_of(prompted)["video"]
    assert layer.slope.item() == pytest.approx(pair.slope, rel=1e-6)
    with pytest.raises(RunError, match="without prompts"):
        layers_of(plain)


# --- Fig. 7-9 ------------------------------------------------------------------------------------------------------


def small_net() -> nn.Module:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4), nn.Conv3d(4, 4, 1), nn.AdaptiveAvgPool3d(1))
    return nn.Sequential(body, nn.Flatten(), nn.Linear(4, 2))


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = small_net()

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.backbone(clips.float() / 255)


def test_cosine_similarity():
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([4.0, 3.0])
    assert similarity.cosine(a, a) == 1
    assert similarity.cosine(a, -a) == -1
    assert similarity.cosine(a, b) == pytest.approx(24 / 25)
    assert similarity.cosine(a, 0 * a) == 0
    assert similarity.cosine(0 * a, 0 * a) == 1


def test_a_changed_layer_differs_in_weights_and_later_layers_in_features():
    a, b = Classifier().eval(), Classifier().eval()
    assert list(similarity.weights_by_layer(a.backbone)) == [
        "0.0",
        "0.1",
        "0.2",
    ]  # the projection is left out
    clips = [(c, c) for c in torch.randint(0, 256, (3, 3, 2, 5, 5), dtype=torch.uint8)]
    same = similarity.feature_similarity(a, b, clips)
    assert list(same) == ["0.0", "0.1", "0.2"]
    assert all(v == pytest.approx(1, abs=1e-12) for v in same.values())
    assert min(similarity.weight_similarity(a.backbone, b.backbone).values()) == pytest.approx(1)
    with torch.no_grad():
        b.backbone[0][1].weight[0] = -3.0
    weights = similarity.weight_similarity(a.backbone, b.backbone)
    assert weights["0.1"] < 0.99
    assert (weights["0.0"], weights["0.2"]) == pytest.approx((1, 1))
    x, y = (m.backbone[0][1] for m in (a, b))
    vectors = [torch.cat([m.weight, m.bias]).detach().numpy().astype(float) for m in (x, y)]
    by_hand = vectors[0] @ vectors[1] / math.prod(float(np.sqrt((v**2).sum())) for v in vectors)
    assert weights["0.1"] == pytest.approx(by_hand)
    features = similarity.feature_similarity(a, b, clips)
    assert features["0.0"] == pytest.approx(1)
    assert features["0.1"] < 0.99
    assert features["0.2"] < 0.999
    assert not any(m._forward_hooks for m in a.modules())


def test_a_run_is_similar_to_itself_and_both_runs_see_the_same_frames(home):
    plain, prompted = both(home)
    same = similarity.compare_layers(prompted, prompted, clips=3)
    assert all(v == pytest.approx(1) for kind in same.values() for v in kind.values())
    assert same["weights"].keys() == same["features"].keys()
    opened = [open_run(run.folder) for run in (plain, prompted)]
    for mine, other in similarity.paired_clips(*opened, 2):
        assert (mine.shape[1], other.shape[1]) == (4, 5)
        assert torch.equal(mine, other[:, 1:])
    differ = similarity.compare_layers(plain, prompted, clips=2)
    assert min(differ["features"].values()) < 0.999


# --- Fig. 10, 11, and comparing ------------------------------------------------------------------------------------


def test_mcnemars_p_is_the_exact_binomial():
    for fixed, broken in product(range(8), range(8)):
        n = fixed + broken
        # every way that n coins can fall, counted
        uneven = sum(comb(n, heads) for heads in range(n + 1) if abs(2 * heads - n) >= abs(fixed - broken))
        assert comparison.mcnemar(fixed, broken) == pytest.approx(uneven / 2**n)
    assert comparison.mcnemar(0, 0) == 1
    assert comparison.mcnemar(2, 12) == pytest.approx(2 * (1 + 14 + 91) / 2**14)
    assert 0 < comparison.mcnemar(4000, 4300) < 1


def test_accuracies_by_class_equal_those_of_the_result(home):
    a, b = both(home)
    pairing = comparison.pair(a, b)
    assert pairing.top1 == pytest.approx((a.result["top1"], b.result["top1"]), abs=1e-4)
    for run, side in ((a, "a"), (b, "b")):
        told = comparison.class_accuracies(run)
        assert told == {row["name"]: float(row["accuracy"]) for row in run.per_class}
        for change in comparison.class_changes(pairing, run.classes):
            assert getattr(change, side) == pytest.approx(told[change.name], abs=0.005)
    assert pairing.fixed - pairing.broken == pairing.right_b.sum() - pairing.right_a.sum()


def test_folds_of_a_dataset_are_drawn_together(home, tmp_path):
    """Runs on two folds of one seed, of which the second tested every clip twice as often, and one of another seed."""
    places = {}
    for run in both(home):
        for fold, seed, times in ((1, 0, 1), (2, 0, 2), (2, 1, 1)):
            place = places[run, fold, seed] = tmp_path / f"{run.folder.parent.name}-{fold}-{seed}"
            shutil.copytree(run.folder, place)
            config = yaml.safe_load((place / "config.yaml").read_text())
            config["dataset"] |= {"kind": "prepared", "fold": fold}
            config |= {"name": f"hands-fold{fold}", "seed": seed}
            (place / "config.yaml").write_text(yaml.safe_dump(config))
            header, *rows = (place / "per_class.csv").read_text().splitlines()
            cells = [row.split(",") for row in rows]
            doubled = [[a, b, str(times * int(c)), str(times * int(d)), e] for a, b, c, d, e in cells]
            (place / "per_class.csv").write_text("\n".join([header, *map(",".join, doubled)]) + "\n")
    plain, prompted = both(home)
    a, b = (Run(places[run, 1, 0]) for run in (plain, prompted))
    found = selection.folds_of(a, b, selection.FigureOptions(outputs=tmp_path))
    assert found == [tuple(Run(places[run, fold, 0]) for run in (plain, prompted)) for fold in (1, 2)]
    assert selection.folds_of(plain, prompted, selection.FigureOptions(outputs=tmp_path)) == [
        (plain, prompted)
    ]
    other = Run(places[prompted, 2, 0])
    for row in plain.per_class:
        (same,) = (r for r in prompted.per_class if r["name"] == row["name"])
        right = [int(row["right"]), 2 * int(same["right"])]
        clips = [int(row["clips"]), 2 * int(same["clips"])]
        together = comparison.class_accuracies(plain, other)[row["name"]]
        assert together == pytest.approx(100 * sum(right) / sum(clips))


def changed_copy(run: Run, folder: Path, **changes) -> Run:
    """A copy of a run with another config: whole values, or entries of a section."""
    shutil.copytree(run.folder, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for key, value in changes.items():
        config[key] = config[key] | value if isinstance(value, dict) else value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return Run(folder)


def test_figure_7_compares_the_variants_of_table_2(home, tmp_path):
    plain, prompted = both(home)
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


def test_figures_8_and_9_compare_layers_on_each_of_the_papers_datasets(home, tmp_path):
    plain, prompted = both(home)
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


def test_runs_are_drawn_together_only_if_they_are_alike_otherwise(home, tmp_path):
    """Runs at another λ, and at another λ with another order of the clips; a baseline with another part trained."""
    plain, prompted = both(home)

    def changed(run: Run, name: str, **sections: dict) -> Run:
        return changed_copy(run, tmp_path / name, **sections)

    stronger = changed(prompted, "stronger", vmp={"lambda": 2.0})
    reordered = changed(prompted, "reordered", vmp={"lambda": 2.0}, train={"order_seed": 5})
    assert same_but_lambda([prompted, stronger, reordered]) == [[prompted, stronger], [reordered]]
    frozen = changed(plain, "frozen", train={"freeze": "all_but_head"})
    for baselines in ([plain, frozen], [frozen, plain]):
        options = selection.FigureOptions(runs=(*baselines, prompted), found=True)
        assert selection.baseline_pairs(8, options) == [(plain, prompted)]


def test_layer_and_clips_are_those_of_a_run_on_videos(home):
    _, prompted = both(home)
    options = selection.FigureOptions(outputs=home / "out")
    assert selection.choose_run(options) == prompted
    learned = selection.choose_layer(options, prompted)
    assert learned.slope.item() == pytest.approx(prompted.result["scalars"]["slope"], rel=1e-6)
    clips = selection.choose_clips(options, count=3, run=prompted)
    assert list(clips) == ["brighter", "darker"]
    first = next(c for c in read_manifest(home / "data/val.csv").clips if c.label == 0)
    stride = min(prompted.checked_config.backbone.spec.stride, (first.length - 1) // 2)
    begin_at = first.start + (first.length - 1 - 2 * stride) // 2
    expected = decode.read_frames(
        home / "data" / first.path, begin_at + stride * np.arange(3), short_side=160
    )
    assert np.array_equal(clips["brighter"], expected)
    given = selection.FigureOptions(outputs=home / "out", slope=12.0)
    assert selection.choose_run(given) is None
    assert selection.choose_layer(given, None).slope.item() == pytest.approx(12, rel=1e-4)


def test_the_papers_layer_is_drawn_before_other_layers_and_controls(home, tmp_path):
    """Their folders come first by name, and their slope and shift are not those of Eq. 3."""
    _, prompted = both(home)
    others = {
        "a_compensated": {"compensate": "translation"},
        "b_other_clip": {"attention_from": "other_clip"},
    }
    for name, changes in {**others, "c_learned": {}}.items():
        folder = tmp_path / name / "seed0"
        shutil.copytree(prompted.folder, folder)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["vmp"] |= changes
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        result = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(
            json.dumps(result | {"top1": 40.0 if name == "c_learned" else 99.0})
        )
    options = selection.FigureOptions(outputs=tmp_path)
    assert selection.choose_run(options).folder == tmp_path / "c_learned/seed0"
    assert [pair.top1 for pair in learned_pairs(options.all_runs)] == [40.0]
    shutil.rmtree(tmp_path / "c_learned")  # better than nothing
    options = selection.FigureOptions(outputs=tmp_path)
    assert selection.choose_run(options).folder == tmp_path / "a_compensated/seed0"


def test_clips_that_cannot_be_paired_are_an_error(home, tmp_path):
    a, _ = both(home)
    changes = (("labels", (",0,12,0,brighter,", ",0,12,1,brighter,")), ("no tested clip", ("val/", "other/")))
    for name, change in changes:
        other = tmp_path / name.split()[0]
        other.mkdir()
        for file in ("config.yaml", "classes.txt", "result.json", "predictions.csv"):
            text = (a.folder / file).read_text()
            (other / file).write_text(text.replace(*change) if file == "predictions.csv" else text)
        with pytest.raises(RunError, match=name):
            comparison.pair(a, Run(other))
    (tmp_path / "labels" / "classes.txt").write_text("x\ny\n")
    with pytest.raises(RunError, match="different classes"):
        comparison.pair(a, Run(tmp_path / "labels"))
    (tmp_path / "labels" / "classes.txt").write_text((a.folder / "classes.txt").read_text())
    for file in ("result.json", "predictions.csv"):
        (tmp_path / "labels" / file).unlink()
    with pytest.raises(RunError, match="not finished"):
        comparison.pair(a, Run(tmp_path / "labels"))


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


def test_the_same_figure_has_the_same_bytes(home, tmp_path):
    wanted = selection.FigureOptions(runs=both(home))
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


def test_names_with_dollar_signs_are_drawn_as_they_are(home, tmp_path):
    """Matplotlib takes what is between two of them for a formula, and fails where it is none."""
    for name, run in zip(("a$^{", "b$^{"), both(home), strict=True):
        shutil.copytree(run.folder, tmp_path / name / "seed$0")
        for file in ("classes.txt", "predictions.csv", "per_class.csv"):
            path = tmp_path / name / "seed$0" / file
            path.write_text(path.read_text().replace("brighter", "$x^$").replace("darker", r"$\frac$"))
    runs = tuple(read_run(folder) for folder in sorted(tmp_path.glob("*/seed$0")))
    for number in (4, 10):
        canvas.save(numbered.draw(number, selection.FigureOptions(runs=runs)), tmp_path / "drawn")


def test_damage_of_one_run_leaves_the_other_runs_and_figures(home, tmp_path, monkeypatch, capsys):
    shutil.copytree(home / "out", tmp_path / "out")
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
def test_every_figure_is_drawn_from_runs_and_clips(home, tmp_path, script):
    """Those that are drawn in another process, too, have the same bytes."""
    start(home / "data", home / "out", "trainer.epochs=2", "tag=a", "vmp.lambda=0").succeed()
    arguments = ["--outputs", home / "out", "--clips", 2, "--frames", 3, "--out"]
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
