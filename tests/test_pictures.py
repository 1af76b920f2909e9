"""Pictures of prompts and of confusion matrices, compared with the numbers that they show."""

import tracemalloc

import numpy as np
import pytest
import torch
from configs import composed

from vmp import MotionPrompt
from vmp.build import build_model
from vmp.figures.canvas import style
from vmp.figures.confusion import confusion_picture, count_confusions
from vmp.figures.looks import Look, draw_looks, look_at
from vmp.figures.panels import BAND, BAR, NAMES, ROWS, attention_panels, color_attention, panel, panel_rows
from vmp.runs.open import Opened


def test_a_panel_shows_frames_differences_attention_and_prompts():
    layer = MotionPrompt(m=1.5, n=-0.3)
    clip = torch.full((3, 4, 20, 30), 100, dtype=torch.uint8)
    clip[:, 2, :10] = 200  # brighter than frame 1 in its upper half, and frame 3 darker again
    frames, differences, attention, prompts = panel_rows(clip, layer)
    assert len(ROWS) == 4
    assert frames.shape == differences.shape == attention.shape == prompts.shape == (3, 20, 30, 3)
    assert np.array_equal(frames, clip[:, 1:].permute(1, 2, 3, 0).numpy())
    red, blue = (differences[..., c].astype(int) for c in (0, 2))
    assert (red[1, :10] > blue[1, :10] + 50).all()  # orange: grew brighter
    assert (blue[2, :10] > red[2, :10] + 20).all()  # blue: grew darker
    assert (differences[0] >= 245).all()  # nothing happened
    values = layer.attention(clip[None])[0].detach().numpy()
    assert values[1, 0, 0] > values[0, 0, 0] > values[2, 0, 0]
    darkness = 255 - attention.astype(int).sum(axis=-1) / 3
    assert darkness[1, 0, 0] > darkness[0, 0, 0] > darkness[2, 0, 0]
    shown = layer(clip[None]).prompts[0, :, 1, 0, 0].detach().numpy() * 0.225 + 0.45
    assert np.allclose(prompts[1, 0, 0] / 255, shown.clip(0, 1), atol=0.003)
    whole = panel(clip, layer, columns=2, width=15)
    assert whole.shape == (BAND + 4 * (10 + 4) + 2 * (BAR + BAND), NAMES + 2 * (15 + 4), 3)
    assert whole.dtype == np.uint8


def test_a_panel_names_its_rows_numbers_its_columns_and_shows_its_scales():
    layer = MotionPrompt(m=1.5, n=-0.3)
    clip = torch.randint(0, 256, (3, 5, 60, 80), dtype=torch.uint8)
    drawn, later = (panel(each, layer, columns=4) for each in (clip, torch.cat([clip, clip], dim=1)))
    names = [drawn[BAND + 64 * row : BAND + 64 * (row + 1), :NAMES] for row in range(4)]
    assert all((one < 100).any() for one in names)
    assert len({one.tobytes() for one in names}) == 4
    head = [drawn[:BAND, NAMES + 84 * column : NAMES + 84 * (column + 1)] for column in range(4)]
    assert all((one < 100).any() for one in head)
    assert len({one.tobytes() for one in head}) == 4
    assert np.array_equal(later[:BAND, NAMES : NAMES + 84], head[0])  # prompt 1 of 4, and of 9
    assert not np.array_equal(later[:BAND, -84:], head[3])  # prompt 4, and 9
    scale = drawn[-BAND - BAR, NAMES:]
    for value, at in ((0.0, 0), (1.0, -1)):
        assert np.array_equal(scale[at], color_attention(np.array([value]))[0])


def test_a_pathways_panel_shows_the_frames_that_it_takes():
    from vmp.model import PromptedClassifier
    from vmp.pathways import pathway_frames

    prompts = {name: MotionPrompt(m=1.5, n=-0.3) for name in ("slow", "fast")}
    pathways = pathway_frames(frames=16, alpha=4, prompted=("slow", "fast"))
    model = PromptedClassifier(torch.nn.Identity(), prompts=prompts, pathway_frames=pathways)
    clip = torch.randint(0, 256, (3, pathways.frames, 16, 24), dtype=torch.uint8)
    state = torch.get_rng_state()
    pictures = attention_panels(model, {"a/1": clip})
    assert torch.equal(state, torch.get_rng_state())
    assert list(pictures) == [f"a/1, {p}: slope 9.856, shift -0.175" for p in ("slow", "fast")]
    slow, fast = pictures.values()
    assert (slow.shape[1], fast.shape[1]) == (
        NAMES + 4 * 28,
        NAMES + 8 * 28,
    )  # four prompts; the first eight of sixteen columns
    last = clip[:, pathways.indices["slow"][-1]].permute(1, 2, 0).numpy()
    assert np.array_equal(slow[BAND + 2 : BAND + 18, -26:-2], last)


def test_a_confusion_picture_has_dark_cells_names_and_a_scale():
    """The cells lie in a square; around it there is ink of names, axes and the scale, and other names are other ink."""
    counts = np.array([[8, 2, 0], [0, 5, 0], [0, 0, 0]])
    picture, other = (
        confusion_picture(counts, names) for names in (("run", "$5", "c_{"), ("hop", "$5", "c_{"))
    )
    assert picture.shape == other.shape
    rows, columns = np.nonzero((picture != other).any(axis=-1))
    grey = picture.astype(int).sum(axis=-1)
    blue = (picture[..., 2].astype(int) - picture[..., 0]) > 40
    cells = blue[:, : int(0.75 * picture.shape[1])]  # without the scale
    ys, xs = np.nonzero(cells)
    side = (ys.max() - ys.min()) / 2  # rows 0 and 1 hold clips
    y0, x0 = ys.min() + side * 0.25, xs.min() + side * 0.25
    at = lambda i, j: grey[int(y0 + i * side), int(x0 + j * side)]  # noqa: E731
    assert at(1, 1) < at(0, 0) < at(0, 1) < at(0, 2) == at(2, 2)
    assert columns.min() < xs.min()  # the names stand left of the cells
    assert rows.max() > ys.max() + side  # and below them
    assert blue[:, int(0.85 * picture.shape[1]) :].any()  # the scale


@pytest.mark.parametrize("classes", [480, 3000, 10_000])
def test_a_confusion_matrix_stays_small_for_any_number_of_classes(classes):
    """10,000 classes took 9.2 GB; now a picture takes a few MB, and every clip is in it."""
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, classes, (2, 5000)).tolist()
    tracemalloc.start()
    counts = count_confusions(labels, predicted, classes=classes)
    picture = confusion_picture(counts, [f"class {c}" for c in range(classes)])
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 60e6
    assert max(picture.shape) <= 800
    assert counts.sum() == 5000
    step = -(-classes // len(counts))
    for label, guess in zip(labels[:50], predicted[:50], strict=True):
        assert counts[label // step, guess // step] > 0


C2D = ["backbone=c2d", *(f"backbone.{size}" for size in ("width=8", "blocks=1", "frames=8", "crop=32"))]
VIT = [
    "backbone=timesformer",
    *(f"backbone.{size}" for size in ("dim=16", "depth=2", "heads=2", "crop=32", "patch=8")),
]


@pytest.mark.parametrize(
    ("stage", "more", "changed"),
    [
        pytest.param("res2", C2D, [5, 6, 7], marks=pytest.mark.slow),
        ("res3", C2D, [5, 7]),
        ("blocks.0", VIT, [5, 6, 7]),
    ],
    ids=["maps", "maps of two frames", "tokens"],
)
def test_where_layers_look_is_on_the_frames_that_changed(stage, more, changed):
    """A patch that flickers in frame 5, so that the prompts of 5 and 6 are others, and three differences of maps."""
    words = ["backbone.weights=none", "vmp=features", f"vmp.at={stage}", "vmp.pixels=true", *more]
    config = composed(*words)
    spec = config.backbone.spec
    model = build_model(config, 2).eval()
    still = torch.full((3, 9, spec.crop, spec.crop), 60, dtype=torch.uint8)
    clip = still.clone()
    clip[:, 5, 8:16, 16:24] = 250
    opened = Opened(config=config, model=model, classes=("a", "b"))
    found = look_at(opened, clip)
    assert list(found) == ["", stage]
    pixels, inside = found.values()
    assert pixels.frames.tolist() == list(range(1, 9))
    expected = model.prompts["video"].attention(clip[None])[0].detach().numpy()
    np.testing.assert_array_equal(pixels.attention, expected)
    assert inside.frames.tolist() == ([3, 5, 7] if stage == "res3" else list(range(2, 9)))
    change = np.abs(inside.attention - look_at(opened, still)[stage].attention)
    assert inside.frames[change.max(axis=(1, 2)) > 1e-4].tolist() == changed
    side = change.shape[1]
    y, x = np.unravel_index(Look(inside.frames, change).at(np.array([5]))[0].argmax(), (side, side))
    middle = (np.array([y, x]) + 0.5) * spec.crop / side
    assert (np.abs(middle - [12, 20]) < 8).all()
    assert np.array_equal(inside.at(np.array([1, 8])), inside.attention[[0, -1]])


def test_rows_of_attention_have_scales_of_their_own():
    clip = torch.randint(0, 256, (3, 4, 16, 16), dtype=torch.uint8)
    ramp = np.linspace(0.9, 0.98, 3 * 64, dtype=np.float32).reshape(3, 8, 8)
    same = np.full((3, 16, 16), 0.5, np.float32)
    at = np.arange(1, 4)
    with style():
        drawn = draw_looks(clip, {"ramp": Look(at, ramp), "same": Look(at, same)}, title="", columns=3)
    pictures, bars = drawn.axes[:12], drawn.axes[12:]
    assert [axis.get_title() for axis in pictures[:3]] == ["frame 1", "frame 2", "frame 3"]
    assert np.array_equal(pictures[1].images[0].get_array(), clip[:, 2].permute(1, 2, 0))
    low, high = bars[1].get_ylim()
    assert (low, high) == pytest.approx((0.9, 0.98), abs=0.001)
    middle = pictures[7].images[0].get_array()  # of the second frame
    expected = color_attention(np.clip((ramp[1] - low) / (high - low), 0, 1))
    assert np.abs(middle.astype(int) - expected).max() <= 1
    assert bars[2].get_ylim() == pytest.approx((0.499, 0.5))
    assert np.array_equal(
        pictures[9].images[0].get_array(), color_attention(np.ones((16, 16)))
    )  # of all, the most
