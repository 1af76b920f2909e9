"""Frame folders: the same frames and samples as from their video, OpenCV's own pixels, and every way to be wrong."""

import json
import os
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import videos
from configs import composed
from faults import list_overrides
from runs import ROOT, Running
from small_datasets import plan_of

from vmp.cli import friendly
from vmp.data.columns import Clip
from vmp.data.dataset import ClipShape, TestClips, TrainClips
from vmp.data.decode import read_frames
from vmp.data.encode import write_video
from vmp.data.manifest import Manifest, read_manifest, write_classes, write_manifest
from vmp.data.present import digest, find_clips
from vmp.datasets import find_splits
from vmp.errors import ConfigError, DataError, ManifestError, VideoReadError
from vmp.figures.clips import stream
from vmp.files import stamp, write_csv
from vmp.prepare.dataset import prepare
from vmp.prepare.folders import plan_folders
from vmp.prepare.list_format import Row
from vmp.prepare.lists import make_list
from vmp.prepare.locate import Locator
from vmp.prepare.measure import GAVE_UP, Measured, measure, measure_cached
from vmp.prepare.plan import Item
from vmp.prepare.source import probe
from vmp.prepare.verify import verify
from vmp.prepare.videos import find_path, find_videos, is_frame_folder
from vmp.runs.score import find_split


def picture(number: int = 0, height: int = 40, width: int = 288) -> np.ndarray:
    """RGB; says its number."""
    return videos.numbered_frame(number, height, width)


def save(path: Path, rgb: np.ndarray, *options: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), rgb[..., ::-1] if rgb.ndim == 3 else rgb, options)
    return path


def folder_of(folder: Path, numbers=range(1, 4), name: str = "img_{:05}.png") -> Path:
    for number in numbers:
        save(folder / name.format(number), picture(number))
    return folder


# --- pixels and order ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "png", "webp", "bmp"])
@pytest.mark.parametrize("form", ["colour", "grey", "alpha"])
def test_pixels_are_those_of_opencv(tmp_path, suffix, form):
    rgb = picture(5)
    file = tmp_path / f"frame_000000.{suffix}"
    if form == "alpha" and suffix in ("png", "webp"):
        alpha = np.full(rgb.shape[:2], 128, np.uint8)
        cv2.imwrite(str(file), np.dstack([rgb[..., ::-1], alpha]))
    else:
        cv2.imwrite(str(file), rgb[..., 0] if form == "grey" else rgb[..., ::-1])
    [got] = read_frames(tmp_path, [0])
    np.testing.assert_array_equal(got, cv2.imread(str(file))[..., ::-1])
    if suffix in ("png", "bmp"):
        expected = np.repeat(rgb[..., :1], 3, axis=2) if form == "grey" else rgb
        np.testing.assert_array_equal(got, expected)


def test_pictures_are_turned_upright_by_exif(tmp_path):
    plain = save(tmp_path / "plain/1.jpg", picture(5)).read_bytes()
    tiff = b"II*\0" + struct.pack("<IHHHII", 8, 1, 0x112, 3, 1, 6) + b"\0" * 4  # a quarter turn clockwise
    exif = b"Exif\0\0" + tiff
    (tmp_path / "turned").mkdir()
    turned = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
    (tmp_path / "turned/1.jpg").write_bytes(turned)
    [upright] = read_frames(tmp_path / "turned", [0])
    np.testing.assert_array_equal(upright, np.rot90(read_frames(tmp_path / "plain", [0])[0], -1))


@pytest.mark.parametrize(
    ("numbers", "name"),
    [
        (range(12), "img_{:05}.png"),
        (range(1, 13), "{}.png"),  # 10 comes after 9, not after 1
        (range(95, 107), "v12_frame{}.bmp"),
        (range(8, 20), "image-{:02}.webp"),
    ],
)
def test_frames_are_in_the_order_of_their_numbers(tmp_path, numbers, name):
    folder_of(tmp_path / "a", numbers, name)
    for hidden in (".DS_Store", f"._{name.format(numbers[0])}", "Thumbs.db"):
        (tmp_path / "a" / hidden).touch()
    found = measure(tmp_path / "a")
    assert found == Measured("ok", frames=12, width=288, height=40, readers=("frames",))
    got = read_frames(tmp_path / "a", [0, 11, 3, 3, 9])
    assert [videos.number_of(frame) for frame in got] == [numbers[i] for i in (0, 11, 3, 3, 9)]
    assert [videos.number_of(f) for f in stream(tmp_path / "a", start=1, stride=4)] == [
        numbers[i] for i in (1, 5, 9)
    ]
    assert probe(tmp_path / "a")[1:4] == (288, 40, 12)
    with pytest.raises(VideoReadError, match=r"frame 12 asked for, 1 of 2 found \(reader: frames\)"):
        read_frames(tmp_path / "a", [4, 12])


# --- folders that are refused --------------------------------------------------------------------------------------


def _cut_off(folder: Path, suffix: str) -> None:
    file = save(folder / f"img_00004{suffix}", picture())
    file.write_bytes(file.read_bytes()[:-40])


WRONG = {
    "a gap": (
        lambda f: (f / "img_00002.png").unlink(),
        r"number 2 missing between img_00001.png and img_00003.png",
    ),
    "gaps": (
        lambda f: folder_of(f, [5, 9, 20230101120000]),
        r"number 4, 6 to 8, 10 to 20230101119999 missing between img_00001",
    ),
    "a number twice": (
        lambda f: folder_of(f, [2], "img_{}.png"),
        r"img_00002.png and img_2.png have the same number",
    ),
    "two sizes": (
        lambda f: save(f / "img_00004.png", picture(4, 42)),
        r"different sizes: img_00001.png has 288 x 40 pixels and img_00004.png has 288 x 42",
    ),
    "two series": (
        lambda f: folder_of(f, [1, 2], "flow_x_{:05}.png"),
        r"several series of frames, flow_x_\*.png \(2 files\), img_\*.png \(3 files\); keep one",
    ),
    "two kinds": (
        lambda f: folder_of(f, [4], "img_{:05}.jpg"),
        r"several series of frames, img_\*.png \(3 files\), img_\*.jpg \(1 files\)",
    ),
    "another file": (lambda f: (f / "notes.txt").touch(), r"holds notes.txt beside its frames"),
    "a picture without a number": (
        lambda f: save(f / "cover.png", picture()),
        r"holds cover.png beside its frames",
    ),
    "a folder": (lambda f: (f / "flow").mkdir(), r"holds flow beside its frames"),
    "no frames": (
        lambda f: [file.unlink() for file in f.iterdir()],
        r"a folder without frames, which are numbered .jpg, .*, such as img_00001.jpg",
    ),
    "16 bits": (
        lambda f: save(f / "img_00004.png", np.full((40, 288), 30000, np.uint16)),
        r"img_00004.png: 16 bits per channel; convert the frames to 8",
    ),
    "an empty file": (lambda f: (f / "img_00004.png").touch(), r"img_00004.png: the file is empty"),
    "no picture": (lambda f: (f / "img_00004.png").write_text("x"), r"img_00004.png: cannot be decoded"),
    "a folder for a picture": (lambda f: (f / "img_00004.png").mkdir(), r"img_00004.png: Is a directory"),
    "a link to nothing": (
        lambda f: (f / "img_00004.png").symlink_to("gone"),
        r"img_00004.png: No such file",
    ),
    "a PNG cut off": (lambda f: _cut_off(f, ".png"), r"img_00004.png: cannot be decoded as a picture"),
}


@pytest.mark.parametrize("case", WRONG)
def test_folders_that_are_not_one_whole_series_are_refused(tmp_path, case):
    make, message = WRONG[case]
    make(folder_of(tmp_path / "a"))
    found = measure(tmp_path / "a")
    assert (found.status, found.frames, found.readers) == ("unreadable", 0, ())
    with pytest.raises(VideoReadError, match=message) as caught:
        read_frames(tmp_path / "a", range(4))
    assert caught.value.reason == found.reason
    assert str(tmp_path / "a") in str(caught.value)


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp"])
def test_pictures_that_are_cut_off_are_refused(tmp_path, suffix):
    folder_of(tmp_path, range(1, 4), "img_{:05}" + suffix)
    _cut_off(tmp_path, suffix)
    assert measure(tmp_path).reason == f"img_00004{suffix}: cannot be decoded as a picture"
    assert len(read_frames(tmp_path, [0, 2])) == 2


def test_a_frame_must_lie_in_the_dataset_root(tmp_path):
    folder_of(tmp_path / "root/a", [1, 2])
    folder_of(tmp_path / "root/store", [3], "{}.png")
    folder_of(tmp_path / "private", [3])
    link = tmp_path / "root/a/img_00003.png"
    link.symlink_to("../store/3.png")
    clip = Clip("a", "a", 0, frames=3, readers=("frames",))
    manifest = Manifest(tmp_path / "train.csv", tmp_path / "root", ("x", "y"), (clip,))
    assert find_clips(manifest, max_bad_fraction=0).readers == ("frames",)
    assert [videos.number_of(frame) for frame in read_frames(tmp_path / "root/a", range(3))] == [1, 2, 3]
    link.unlink()
    link.symlink_to(tmp_path / "private/img_00003.png")
    with pytest.raises(DataError, match=r"'a/img_00003.png' is a link that leaves the dataset root"):
        find_clips(manifest, max_bad_fraction=0)
    with pytest.raises(ManifestError, match=r"'a/img_00003.png' is a link that leaves the dataset root"):
        measure_cached(tmp_path / "measured.jsonl", tmp_path / "root", ["a"])


# --- as clips of a dataset -----------------------------------------------------------------------------------------

SHAPE = ClipShape(frames=5, stride=2, fps=30, crop=32, jitter=(36, 44), test_side=40, test_crop=32)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with two videos, their frames as PNG, lists of all four, and the folder of manifests made of these."""
    home = tmp_path_factory.mktemp("made")
    for name, count in (("a", 40), ("b", 9)):
        write_video(home / f"{name}.mp4", (picture(i, 48) for i in range(count)), fps=20)
        for number, frame in enumerate(read_frames(home / f"{name}.mp4", range(count))):
            save(home / f"frames/{name}/img_{number + 1:05}.png", frame)
    (home / "train.csv").write_text(
        f"path,label,start,end\na.mp4,x,,\nframes/a,y,,\na.mp4,x,0.5,1.5\n{home}/frames/a/,y,0.5,1.5\n"
    )
    (home / "val.csv").write_text("path,label\nb,x\nframes/b,y\n")
    return home


def listed(home: Path, **options) -> Path:
    lists = {split: home / f"{split}.csv" for split in ("train", "val")}
    return make_list(home / "out", videos=home, lists=lists, progress=False, workers=1, **options)


def alone(manifest: Manifest, index: int) -> tuple[Manifest, object]:
    """A split of one clip, so that both clips of a pair have the same index and are augmented in the same way."""
    one = replace(manifest, clips=manifest.clips[index : index + 1])
    return one, find_clips(one, reader="pyav", max_bad_fraction=0)


def test_samples_from_a_video_and_from_its_frames_are_equal_to_the_bit(made):
    folder = listed(made, fps=20)
    pairs = [
        (read_manifest(folder / f"{split}.csv"), at) for split, at in (("train", 0), ("train", 2), ("val", 0))
    ]
    for manifest, at in pairs:
        video, frames = alone(manifest, at), alone(manifest, at + 1)
        [a], [b] = video[0].clips, frames[0].clips
        assert (a.start, a.end, a.fps, a.frames) == (b.start, b.end, b.fps, b.frames)
        assert (b.readers, frames[1].readers) == (("frames",), ("frames",))
        x, y = (TrainClips(*of, SHAPE, seed=1) for of in (video, frames))
        for epoch in range(4):
            assert torch.equal(x[0, epoch][1], y[0, epoch][1])
        x, y = (TestClips(*of, SHAPE, temporal=3, spatial=3) for of in (video, frames))
        assert x[0][1].shape[0] > 1
        assert torch.equal(x[0][1], y[0][1])
    assert [(c.start, c.end) for c in pairs[0][0].clips[2:]] == [(10, 30), (10, 30)]


def test_a_rate_is_needed_where_a_stride_or_a_span_is_in_seconds(made):
    assert listed(made) != listed(made, fps=20)
    manifest = read_manifest(listed(made) / "train.csv")
    assert [clip.status for clip in manifest.clips] == ["ok", "ok", "ok", "unreadable"]
    assert "a span in seconds of a frame folder, which has no frame rate: give dataset.fps" in str(
        manifest.clips[3].tags
    )
    unknown = alone(manifest, 1)
    message = r"1 clip\(s\) are frame folders of unknown frame rate:\n  frames/a\n.* for videos of 30 .* dataset.fps"
    for kind in (TestClips, lambda *of: TrainClips(*of, seed=1)):
        with pytest.raises(DataError, match=message):
            kind(*unknown, SHAPE)
    TestClips(*unknown, replace(SHAPE, fps=None))  # strides that count frames
    given = [f"data.root={made}", "dataset=list", "dataset.name=out", f"dataset.root={made}", "backbone=x3d"]
    given += [f"dataset.{split}={made}/{split}.csv" for split in ("train", "val")]
    config = composed(*given, "trainer.batch_size=1", "data.max_bad_fraction=1")
    with pytest.raises(DataError, match=r"1 clip\(s\) are frame folders of unknown"):  # before a run is begun
        find_split(config, "val", find_splits(config, progress=False).val)
    rates = {
        digest(one, find_clips(one, max_bad_fraction=0))
        for fps in (0.0, 20.0, 25.0)
        for one in [replace(manifest, clips=(replace(manifest.clips[1], fps=fps),))]
    }
    assert len(rates) == 3  # another rate is other data


def test_a_column_has_the_rate_of_each_frame_folder(made, tmp_path):
    """It wins over dataset.fps, says nothing of videos, and is in the split that is written down."""
    rows = "a.mp4,x,0.5,1.5,3\nframes/a,y,0.5,1.5,10\nframes/b,y,,,\nb.mp4,x,,,n/a\n"
    (tmp_path / "rates.csv").write_text(f"path,label,start,end,fps\n{rows}")
    rated = {"train": tmp_path / "rates.csv", "val": made / "val.csv"}
    options = {"videos": made, "progress": False, "workers": 1, "fps": 25.0}
    clips = read_manifest(make_list(tmp_path / "out", lists=rated, **options) / "train.csv").clips
    assert [clip.fps for clip in clips] == [20, 10, 25, 20]
    assert [(clip.start, clip.end) for clip in clips[:2]] == [
        (10, 30),
        (5, 15),
    ]  # half a second to one and a half
    plan, home = plan_folders(made, tmp_path / "rates.csv", ratio=(0.5, 0, 0.5))
    written = tmp_path / "split.csv"
    write_csv(written, plan.tables[f"{home}/split.csv"])
    again, _ = plan_folders(made, written)
    mine, theirs = (
        [sorted(part, key=lambda item: item.id) for part in p.splits.values()] for p in (plan, again)
    )
    assert mine == theirs
    assert sorted((item.path, item.fps) for item in again.items if item.fps) == [
        ("a.mp4", 3),
        ("frames/a", 10),
    ]


def test_ctrl_c_says_what_is_kept(made, tmp_path, monkeypatch, capsys):
    """A file that was given up is tried again next time, so it is not kept."""

    def stop_after_two(files, **_):
        yield files[0], measure(files[0])
        yield files[1], Measured("unreadable", f"{GAVE_UP} no frame for 300 s")
        raise KeyboardInterrupt

    monkeypatch.setattr("vmp.prepare.measure.measure_all", stop_after_two)
    cache = tmp_path / "measured.jsonl"
    with pytest.raises(SystemExit) as ended, friendly():
        measure_cached(cache, made / "frames", ["a", "b"], progress=False)
    assert ended.value.code == 130
    said = (
        f"interrupted: 1 of 2 videos have been measured and are kept in {cache}; the same command continues\n"
    )
    assert capsys.readouterr().err == said
    assert len(cache.read_text().splitlines()) == 1


def test_a_frame_that_is_overwritten_is_noticed(made, tmp_path):
    shutil.copytree(made / "frames/b", tmp_path / "b")
    cache, known = tmp_path / "measured.jsonl", listed(made).parent / "measured.jsonl"
    cache.write_text(known.read_text().replace(str(made / "frames"), str(tmp_path)))
    before = cache.read_text()

    def measured() -> Measured:
        return measure_cached(cache, tmp_path, ["b"], progress=False, workers=1)["b"]

    assert measured() == measure(tmp_path / "b")
    assert cache.read_text() == before  # nothing was measured again
    file, before, time = (
        tmp_path / "b/img_00005.png",
        stamp(tmp_path / "b"),
        os.stat(tmp_path / "b").st_mtime_ns,
    )
    other = file.read_bytes()[::-1]
    with open(file, "r+b") as opened:  # of the same size
        opened.write(other)
    assert os.stat(tmp_path / "b").st_mtime_ns == time
    assert stamp(tmp_path / "b") != before
    assert measured().reason == "img_00005.png: cannot be decoded as a picture"


def test_verify_finds_a_frame_that_is_gone(made, tmp_path):
    shutil.copytree(made / "frames", tmp_path / "frames")
    frames = {"width": 288, "height": 48, "fps": 20, "readers": ("frames",)}
    clips = [Clip(name, f"frames/{name}", 0, frames=n, **frames) for name, n in (("a", 40), ("b", 9))]
    write_classes(tmp_path / "classes.txt", ("x", "y"))
    write_manifest(tmp_path / "test.csv", clips)
    (tmp_path / "frames/a/img_00007.png").unlink()
    problem = "unreadable: number 7 missing between img_00001.png and img_00040.png"
    assert verify(tmp_path / "test.csv", workers=1, progress=False).problems == (("a", "frames/a", problem),)
    assert [clip.status for clip in read_manifest(tmp_path / "test.csv").clips] == ["unreadable", "ok"]


def test_paths_of_lists_that_mean_frame_folders(tmp_path):
    root = tmp_path / "data/v"
    for name in ("100218", "wave/one", "videos/two", "frames/two"):
        (root / name).mkdir(parents=True)
        (root / name / "img_00001.jpg").touch()
    (root / "videos/two/img_00001.jpg").rename(root / "videos/two.mp4")
    meant = {
        **{"100218": "100218", "wave/one": "wave/one", "wave\\one": "wave/one", "v/wave/one": "wave/one"},
        **{f"{root}/wave/one": "wave/one", "one": "wave/one", "Wave/One": "wave/one"},
        **{"frames/two": "frames/two", "videos/two": "videos/two.mp4", "three": "three"},
    }
    for written, path in meant.items():
        row = Row("list.csv:1", written, "0")
        assert Locator(root).locate(row, tmp_path / "data/list.csv").path == path
    for is_id in (False, True):
        with pytest.raises(
            ValueError, match=r"'two' may be any of 2 files: frames/two, videos/two.mp4; write"
        ):
            Locator(root).locate(Row("list.csv:1", "two", "0", id=is_id), tmp_path / "data/list.csv")
    row = Row("list.csv:1", "100218", "0", id=True)
    assert Locator(root).locate(row, tmp_path / "list.csv").path == "100218"


def test_a_folder_in_place_of_a_file_is_not_taken_for_it(tmp_path):
    folder_of(tmp_path / "a")
    for path, readers, bad in (("a", ("pyav",), 1), ("a", (), 0), ("a/img_00001.png", ("frames",), 1)):
        clips = (
            Clip("a", path, 0, frames=3, readers=readers),
            Clip("b", "a", 0, frames=3, readers=("frames",)),
        )
        present = find_clips(Manifest(tmp_path / "x.csv", tmp_path, ("x", "y"), clips), max_bad_fraction=1)
        assert (present.counts()["missing"], {*present.readers}) == (bad, {"frames"})


def test_what_is_a_frame_folder(tmp_path):
    for name in (
        *("frames/1.png", "class/a.mp4", "class/thumb_1.png", "nested/1.png", "nested/2/1.png", "text/1.txt"),
        *("stray/1.png", "stray/notes.txt"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = sorted(path.relative_to(tmp_path).as_posix() for path in [tmp_path, *tmp_path.rglob("*")])
    assert [name for name in names if is_frame_folder(tmp_path / name)] == ["frames", "nested/2", "stray"]
    assert find_videos(tmp_path) == {
        "frames": ["frames"],
        "2": ["nested/2"],
        "stray": ["stray"],
        "a": ["class/a.mp4"],
    }


def test_datasets_take_frame_folders_in_place_and_do_not_cut_them(made, tmp_path):
    path = find_path(find_videos(made), "a", "none", folder="frames")
    assert (path, find_path(find_videos(made), "a", "none")) == ("frames/a", "a.mp4")
    items = [
        Item(id="a", path=path, label=0, end=0.5, unit="seconds"),
        Item(id="b", path="frames/b", label=1),
    ]
    plan = replace(plan_of(made, train=items, test=[]), fps=20.0)
    with pytest.raises(ConfigError, match=r"frames/a: frame folders are not cut or remuxed; use --in-place"):
        prepare(plan, tmp_path, how="cut")
    shutil.copy(listed(made).parent / "measured.jsonl", tmp_path)
    prepare(plan, tmp_path, progress=False, workers=1)
    clips = read_manifest(tmp_path / "train.csv", root=made).clips
    assert [(clip.status, clip.length, clip.fps) for clip in clips] == [("ok", 10, 20), ("ok", 9, 20)]


def test_class_folders_hold_frame_folders(tmp_path):
    """A copy of the pictures is a copy of the clip, whatever their names and numbers."""
    for n, place in enumerate(("train/x/a", "train/x/b", "train/y/a", "test/x/a", "test/y/b")):
        folder_of(tmp_path / place, range(n, n + 3))
    folder_of(tmp_path / "train/x/copy", range(3, 6), "other{}.png")
    plan, home = plan_folders(tmp_path, fps=12.5)
    assert {split: [item.path for item in items] for split, items in plan.splits.items()} == {
        f"{home}/train": ["train/x/a", "train/x/b", "train/y/a"],
        f"{home}/test": ["test/x/a", "test/y/b"],
    }
    assert "train/x/copy is test/x/a" in plan.notes[0]
    assert (plan.fps, plan_folders(tmp_path)[1] != home) == (12.5, True)
    shutil.rmtree(tmp_path / "train/y/a")
    folder_of(tmp_path / "train/y")
    with pytest.raises(
        ManifestError, match=r"train/y: frames in no folder of their own; wanted is y/<clip>/img_"
    ):
        plan_folders(tmp_path)


# --- the commands --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_training_testing_and_predicting_on_frame_folders(made, tmp_path):
    home = tmp_path / "v"
    for split, first, count in (("train", 1, 4), ("val", 2, 2)):
        rows = [f"{split}/{'xy'[i % 2]}/{i},{'xy'[i % 2]}" for i in range(count)]
        for i, row in enumerate(rows):
            folder_of(home / row.partition(",")[0], range(first, 12 - i))  # no two alike
        (home / f"{split}.csv").write_text("\n".join(["path,label", *rows]))
    done = Running(list_overrides(home, tmp_path)).succeed()
    assert "4 of 4 clips" in done.stdout
    [result] = (tmp_path / "out").rglob("result.json")
    assert json.loads(result.read_text())["clips"]["val"]["present"] == 2
    run = f"run={result.parent}"
    found = json.loads(command("predict", home / "val", home / "train/x/0", run, "--json", "--fps", 20))
    assert [(entry["file"], entry["frames"], entry["fps"], entry["reader"]) for entry in found] == [
        (str(home / name), n, 20, "frames")
        for name, n in (("val/x/0", 10), ("val/y/1", 9), ("train/x/0", 11))
    ]
    said = command("visualize", home / "val/y/1", run, "--out", tmp_path / "drawn.png")
    assert "drawn.mp4  (4 frames at 12.5/s)" in said
    (home / "train/y/3/img_00004.png").unlink()
    folders = [
        word for word in list_overrides(home, tmp_path) if not word.startswith(("dataset.t", "dataset.v"))
    ]
    done = Running([*folders, "dataset=folders", "data.max_bad_fraction=0.3"]).succeed()
    assert "train: 3 of 4 clips (0 missing, 1 unreadable)" in done.stdout


def command(name: str, *arguments: object) -> str:
    line = [sys.executable, str(ROOT / f"scripts/{name}.py"), *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
