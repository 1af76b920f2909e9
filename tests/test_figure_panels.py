"""What single panels of figures show: frames, a layer and its curves, compared with the maths and slow loops."""

import json
import math
from itertools import combinations, product
from math import comb

import numpy as np
import pytest
from drawn import both

from vmp.data.motions import CAMERAS
from vmp.errors import RunError, UserError
from vmp.figures import canvas, motion_frames
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


def test_lines_and_learned_pairs_equal_those_of_the_run(two_runs):
    plain, prompted = both(two_runs)
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
