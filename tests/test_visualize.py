"""The script visualize, on real files and a tiny run."""

import math
import shutil

import cv2
import numpy as np
import pytest
import torch
from configs import composed
from PIL import Image
from runs import Running, folder, overrides_for
from videos import encoded, noise_video, numbered_frame

import vmp
from vmp.commands import visualize
from vmp.data.decode import read_frames
from vmp.data.encode import write_video
from vmp.errors import VideoReadError
from vmp.extensions.layer import ExtendedPrompt
from vmp.extensions.per_clip import PerClip
from vmp.figures import panels
from vmp.figures.clips import stream
from vmp.figures.layers import layers_of, slope_and_shift
from vmp.figures.seen import look
from vmp.layer import MotionPrompt
from vmp.runs.open import open_run
from vmp.runs.run import read_run


def test_a_video_becomes_an_mp4_and_a_png(script, tmp_path):
    source = noise_video(tmp_path / "my.mp4", 24, fps=24)
    out = tmp_path / "made" / "picture.png"
    code, said, _ = script("visualize", source, "--slope", 12, "--shift", -0.3, "--out", out, "--columns", 3)
    assert code == 0
    assert "picture.mp4" in said
    assert "slope 12.00, shift -0.30\n" in said
    assert out.read_bytes()[:4] == b"\x89PNG"
    shown = read_frames(out.with_suffix(".mp4"), range(11))  # 12 frames at stride 2: 11 differences
    first = read_frames(source, [2])[0]
    # 48 lines are enlarged four times; the frame stands at the upper left, under what was learned and its name
    large = first.repeat(4, axis=0).repeat(4, axis=1)
    assert shown.shape[1:] == (18 + 2 * (18 + 192 + 8 + 18), 2 * 256, 3)
    assert np.abs(shown[0, 36:228, :256].astype(int) - large).mean() < 20
    with pytest.raises(VideoReadError, match="frame 11 asked for"):
        read_frames(out.with_suffix(".mp4"), range(12))


def test_a_gif_explains_a_video_with_its_frame_number_classes_and_scales(home, script, tmp_path):
    """The pictures are those that `explain` makes of the source's frames, up to the palette; each is shown 0.08 s."""
    from PIL import ImageSequence

    from vmp.figures.explained import explain

    run, source, out = (
        folder(home / "out"),
        noise_video(tmp_path / "my.mp4", 12, fps=25),
        tmp_path / "readme.gif",
    )
    code, said, _ = script("visualize", source, f"run={run}", "--out", out, "--columns", 2)
    assert code == 0
    best = vmp.load(run).predict(source).top(3)
    line = next(line for line in said.splitlines() if line.startswith("predicted: "))
    assert line == f"predicted: {', '.join(f'{name} {100 * p:.1f} %' for name, p in best)}"
    assert not out.with_suffix(".mp4").exists()
    assert out.with_suffix(".png").exists()
    frames, layer = read_frames(source, [0, 2, 4, 6, 8, 10]), layers_of(read_run(run))["video"]
    with Image.open(out) as gif:
        assert gif.info["loop"] == 0
        shown = [
            (one.info["duration"], np.asarray(one.convert("RGB"))) for one in ImageSequence.Iterator(gif)
        ]
    assert [duration for duration, _ in shown] == [80] * 5
    for number, (_, picture) in enumerate(shown, 1):
        [wanted] = explain(frames[number - 1 : number + 1], layer, [2 * number], [line])
        assert picture.shape == wanted.shape
        assert np.abs(picture.astype(int) - wanted).mean() < 12
        [other] = explain(frames[number - 1 : number + 1], layer, [2 * number + 1], ["predicted: nothing"])
        band = np.s_[: 3 * 18]  # what is said, what was learned, the number
        assert (
            np.abs(picture[band].astype(int) - wanted[band]).mean()
            < np.abs(picture[band].astype(int) - other[band]).mean()
        )


def test_the_scales_of_the_explained_colours_are_those_of_the_pictures():
    """A pixel that grows brighter by FULL has the colour at the right end of the bar, a still one its middle."""
    from vmp.figures.explained import FULL, explain
    from vmp.figures.panels import BAND, BAR

    pair = np.full((2, 192, 192, 3), 100, np.uint8)
    pair[1, 96:] += round(255 * FULL)
    layer = MotionPrompt(m=math.atanh((5 / 12 - 0.1) / 0.45), n=0.0)
    [shown] = explain(pair, layer, [7])
    difference = shown[2 * BAND :, 192:]  # below the line of what was learned, and its name
    bar = difference[192 : 192 + BAR]
    assert np.abs(difference[10, 10].astype(int) - bar[0, 96]).max() <= 2
    assert np.abs(difference[150, 10].astype(int) - bar[0, 191]).max() <= 8  # 26 of 25.5 grey levels
    attention = shown[2 * BAND + 192 + BAR + 2 * BAND :, :192]
    assert np.abs(attention[10, 10].astype(int) - attention[192, 96]).max() <= 2  # sigmoid(0) is a half


def test_a_layer_that_learns_its_differences_is_explained():
    from vmp.figures.explained import explain

    class Weighed(MotionPrompt):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones(1))

        def differences(self, clip):
            return self.gain * super().differences(clip)

    pair = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)
    assert np.array_equal(*(next(explain(pair, layer, [1])) for layer in (Weighed(), MotionPrompt())))


def test_attention_that_is_no_function_of_two_frames_is_drawn_from_whole_clips(tmp_path):
    """A clip of five frames, and the last three frames in the last clip of five."""
    from vmp.figures.explained import explain

    torch.manual_seed(0)
    layer = ExtendedPrompt(power_norm=PerClip(), scales=(1, 3))
    with torch.no_grad():
        layer.power_norm.head[2].weight.normal_(std=3)  # the histogram decides
    rng, source, out, sees = np.random.default_rng(0), tmp_path / "my.mp4", tmp_path / "made.mp4", 5
    blocks = [128 + rng.integers(-12, 13, (4, 4, 1)) * i for i in range(8)]  # changes grow
    write_video(source, [block.repeat(8, 0).repeat(8, 1).repeat(3, 2).astype(np.uint8) for block in blocks])
    options = visualize._parser().parse_args(["--stride", "1", "--columns", "2"])
    options.run, options.video = None, source
    visualize.draw(options, layer, sees, out)
    frames, shown = read_frames(source, range(8)), read_frames(out, range(7)).astype(int)
    wanted = [*explain(frames[:5], layer, [1, 2, 3, 4]), *explain(frames[3:], layer, [5, 6, 7])]
    pairs = [next(explain(frames[at - 1 : at + 1], layer, [at])) for at in range(1, 8)]
    for picture, right, pair in zip(shown, wanted, pairs, strict=True):
        attention = np.s_[-(192 + 8 + 18) : -(8 + 18), :192]
        near, far = (np.abs(picture[attention] - one[attention]).mean() for one in (right, pair))
        assert near < far / 2
    with pytest.raises(VideoReadError):
        read_frames(out, range(8))


def test_a_layer_of_each_clip_is_captioned_with_the_clips_slope_and_shift():
    torch.manual_seed(0)
    norm = PerClip()
    torch.nn.init.normal_(norm.head[-1].weight)
    layer = ExtendedPrompt(power_norm=norm)
    dim, bright = (torch.randint(0, most, (3, 5, 8, 8), dtype=torch.uint8) for most in (20, 256))
    for clip in (dim, bright):
        learned = slope_and_shift(layer, clip)
        d = layer.differences(clip[None])
        wanted = torch.sigmoid(learned["slope"] * (d - learned["shift"]))
        assert torch.allclose(layer.attention(clip[None]), wanted, atol=1e-5)
    assert slope_and_shift(layer, dim) != slope_and_shift(layer, bright)


@pytest.mark.slow
def test_runs_with_patches_are_drawn_or_refused_with_a_reason(data, script, tmp_path):
    source = noise_video(tmp_path / "v.mp4", 12, size=(36, 62))  # no whole number of patches
    for form, code, said in (
        (["vmp=patch", "vmp.patch=8"], 0, "p.mp4"),
        (
            ["vmp=patch", "vmp.patch=8", "vmp.patch_scalars=position"],
            2,
            "v.mp4: this run's prompts cannot be drawn",
        ),
    ):
        out = tmp_path / str(len(form))
        Running(overrides_for(data, out, "trainer.epochs=1", *form)).succeed()
        run = next(out.rglob("result.json")).parent
        found = script("visualize", source, f"run={run}", "--stride", 1, "--out", tmp_path / "p.png")
        assert found[0] == code
        assert said in found[1] + found[2]


def test_each_row_has_a_key_of_its_colours(monkeypatch):
    """The colours that the names of the rows tell are those of the pictures."""
    clip = torch.full((3, 2, 8, 8), 100, dtype=torch.uint8)
    clip[:, 1, :4], clip[:, 1, 4:] = 200, 0
    layer, named = MotionPrompt(), {}
    monkeypatch.setattr(panels, "draw_grid", lambda pictures, *, rows, **_: named.update(rows=rows))
    rows = panels.panel_rows(clip, layer)
    panels.draw_rows(rows, layer, clip, title="")
    _, difference, attention, _ = named["rows"]
    assert "blue: darker,\norange: brighter" in difference
    assert "white: 0,\ndark red: 1" in attention
    (red, _, blue), (red_below, _, blue_below) = rows[1][0, 0, 0].astype(int), rows[1][0, 7, 7].astype(int)
    assert red > blue + 50
    assert blue_below > red_below + 10
    red, green, blue = rows[2][0, 0, 0].astype(int)  # attention nearly 1
    assert red > 100 > max(green, blue)
    assert rows[2][0, 7, 7].min() > 200  # a tenth


def test_no_file_is_overwritten(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = noise_video(tmp_path / "my.mp4", 6)
    before = source.read_bytes()
    for name in ("my-prompts", "my-prompts-2", "my-prompts-3"):
        code, said, _ = script("visualize", source, "--columns", 2)
        assert code == 0
        assert f"outputs/{name}.png" in said
        assert "slope 11.00, shift 0.10\n" in said
    code, _, errors = script("visualize", source, "--pathway", "slow")
    assert (code, errors) == (2, "error: --pathway slow: only a run, or backbone=slowfast, has pathways\n")
    code, _, errors = script("visualize", source, "--out", tmp_path / "my.png")
    assert code == 2
    assert "is the video itself" in errors
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("out", "beside"), [("x.png", "x.mp4"), ("x.mp4", "x.png"), ("x.gif", "x.png"), ("x", "x.mp4")]
)
def test_only_the_named_file_and_earlier_drawings_are_replaced(script, tmp_path, out, beside):
    source = noise_video(tmp_path / "my.mp4", 6)
    words = ("visualize", source, "--columns", 2, "--out", tmp_path / out)
    for slope in (11, 12):
        assert script(*words, "--slope", slope)[0] == 0
    if beside.endswith(".mp4"):
        shutil.copy(source, tmp_path / beside)
    else:
        cv2.imwrite(str(tmp_path / beside), np.zeros((8, 8, 3), np.uint8))
    before = (tmp_path / beside).read_bytes()
    code, _, errors = script(*words)
    assert code == 2
    assert f"{tmp_path / beside}, which this command did not write, would be replaced too" in errors
    assert (tmp_path / beside).read_bytes() == before
    if beside.endswith(".mp4"):
        assert script(*words, "--frames", 0)[0] == 0
        assert (tmp_path / beside).read_bytes() == before


def test_a_file_that_out_names_is_replaced(script, tmp_path):
    source = noise_video(tmp_path / "my.mp4", 6)
    shutil.copy(source, tmp_path / "x.mp4")
    assert script("visualize", source, "--columns", 2, "--out", tmp_path / "x.mp4")[0] == 0
    assert (tmp_path / "x.mp4").read_bytes() != source.read_bytes()


def test_a_video_is_drawn_with_the_layer_of_a_run(home, script, tmp_path):
    run = folder(home / "out")
    source = noise_video(tmp_path / "v.mp4", 6)
    code, _, said = script("visualize", source, f"run={run}", "--out", tmp_path / "p.png", "--frames", 0)
    assert (code, said) == (0, "")
    assert not (tmp_path / "p.mp4").exists()
    layer = layers_of(read_run(run))["video"]
    opened = open_run(run).prompts["video"]
    clip = torch.randint(0, 256, (1, 3, 3, 8, 8), dtype=torch.uint8)
    assert torch.allclose(layer.attention(clip), opened.attention(clip), atol=1e-6)
    code, _, said = script("visualize", source, f"run={run}", "--slope", 12)
    assert code == 2
    assert "contradict" in said


@pytest.mark.parametrize(
    ("count", "size", "arguments", "error"),
    [
        (1, (48, 64), (), "one frame is left"),
        (9, (48, 64), ("--start", 40), "no frames are left from --start 40"),
        (9, (48, 64), ("--slope", 60), "at most 50"),
        (9, (48, 64), ("--shift", -0.7), "between -0.6 and 0.6"),
        (9, (48, 64), ("--stride", 0), "--stride 0: must be at least 1"),
        (9, (48, 64), ("--out", "o.avi"), "--out o.avi: must end in .mp4, .png or .gif"),
        (9, (48, 64), ("--out", "/"), "--out /: is a folder; name a file in it, as in /NAME.mp4"),
        (3, (2, 2), (), None),
        (3, (16, 400), (), None),
    ],
)
def test_unusual_videos_and_wrong_options(script, tmp_path, count, size, arguments, error):
    source = noise_video(tmp_path / "odd.mp4", count, size)
    code, said, errors = script(
        "visualize", source, "--stride", 1, "--columns", 2, "--out", tmp_path / "o.png", *arguments
    )
    if error is None:
        assert (code, errors) == (0, "")
        assert "o.mp4" in said
    else:
        assert code == 2
        assert error in errors
        assert not (tmp_path / "o.png").exists()
        assert not (tmp_path / "o.mp4").exists()


def test_files_that_are_no_videos_and_truncated_videos(script, tmp_path):
    (tmp_path / "text.mp4").write_text("no video\n" * 99)
    whole = noise_video(tmp_path / "whole.mkv", 40)
    data = whole.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    for name in ("text.mp4", "gone.mp4"):
        code, _, errors = script("visualize", tmp_path / name, "--out", tmp_path / "x.png")
        assert code == 2
        assert name in errors
    code, said, _ = script("visualize", tmp_path / "cut.mkv", "--out", tmp_path / "c.png", "--stride", 1)
    assert code == 0
    assert (tmp_path / "c.png").exists()


def test_a_folder_of_videos_cannot_be_drawn(script, tmp_path):
    noise_video(tmp_path / "clips/wave/a.mp4", 9)
    code, _, errors = script("visualize", tmp_path / "clips")
    assert code == 2
    assert f"name one, such as {tmp_path / 'clips/wave/a.mp4'}" in errors


def test_a_stream_has_the_frames_of_the_exact_reader(tmp_path):
    source = noise_video(tmp_path / "v.mp4", 30, b_frames=2)
    assert np.array_equal(
        np.stack(list(stream(source, start=3, stride=4))), read_frames(source, range(3, 30, 4))
    )
    assert len(list(stream(source, most=5))) == 5
    assert next(stream(source, short_side=24)).shape == (24, 32, 3)
    assert next(stream(source, short_side=99)).shape == (48, 64, 3)  # never made larger


def test_a_clip_of_an_uneven_video_is_shown_at_the_speed_of_its_frames(tmp_path):
    """At 30 frames per second, of which every sixth is missing: on average the video has 25."""
    ticks = [tick for tick in range(60) if tick % 6 != 5]
    video = encoded(tmp_path / "a.mp4", map(numbered_frame, range(50)), rate=30, ticks=ticks)
    words = ["backbone=i3d", "backbone.weights=motions", "backbone.width=8", "backbone.blocks=1"]
    words += ["backbone.stride=2", "backbone.crop=28"]
    seen = look(composed(*words, "vmp=learned"), composed(*words, "vmp=none"), video)
    assert seen.numbers == (0, 2, 4, 5, 7, 9, 10, 12, 14)
    assert float(seen.fps) == pytest.approx(15)
