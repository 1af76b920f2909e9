"""HMDB-51, FineGym and MPII Cooking 2 from small trees with the traps of the real ones to manifests and runs."""

import csv
import json
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import runs
import videos
from hypothesis import given, settings
from hypothesis import strategies as st
from test_remux import packed_avi

from vmp.data.decode import READERS
from vmp.data.encode import write_video
from vmp.data.manifest import read_manifest, recorded_root
from vmp.data.times import Timeline
from vmp.errors import ConfigError, DataError, ManifestError
from vmp.prepare.dataset import prepare
from vmp.prepare.finegym import SETS, plan_finegym, read_elements
from vmp.prepare.hmdb51 import digest, plan_hmdb51
from vmp.prepare.mpii import plan_mpii, read_sequences
from vmp.prepare.plan import DatasetPlan, Item, shipped_classes
from vmp.prepare.unpack import unpack
from vmp.prepare.videos import find_videos

ROOT = Path(__file__).parents[1]


def small_video(path: Path, frames: int = 12, **options) -> Path:
    """Noise that moves: a few kB, and no two frames alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (8, 200, 3), dtype=np.uint8).repeat(8, 0)
    write_video(path, (noise[:, 4 * i : 4 * i + 64].repeat(1, 1) for i in range(frames)), **options)
    return path


def run(plan, out, **options):
    return prepare(plan, out, progress=False, workers=1, **options)


def read(out: Path, split: str):
    path = out / f"{split}.csv"
    return read_manifest(path)


def number(manifest, clip, index=0) -> int:
    """The number that a frame of a clip shows."""
    return videos.number_of(next(iter(READERS["pyav"](manifest.file(clip), np.array([clip.start + index])))))


# --- what all share ------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 400_000),
    st.integers(1, 3000),
    st.sampled_from(
        [Fraction(25), Fraction(30000, 1001), Fraction(147, 5), Fraction(30), Fraction(2987, 100)]
    ),
)
def test_a_span_in_seconds_takes_the_frames_whose_times_lie_in_it(start, length, fps):
    start, end = Fraction(start, 100), Fraction(start + length, 100)  # hundredths, as annotated
    frames = 200_000
    first, last = Timeline(frames, float(fps)).span(float(start), float(end))
    near = range(max(0, int(start * fps) - 2), min(frames, int(end * fps) + 3))
    inside = [i for i in near if start <= i / fps < end]
    on_screen = min(frames, max((i for i in near if i / fps <= start), default=frames - 1))
    assert (first, last) == ((inside[0], inside[-1] + 1) if inside else (on_screen, on_screen + 1))


def test_the_shipped_classes():
    hmdb, gym, mpii = (shipped_classes(name) for name in ("hmdb51", "gym99", "mpii_cooking2"))
    assert (len(hmdb), len(gym), len(mpii)) == (51, 99, 67)
    assert list(hmdb) == sorted(hmdb)
    assert list(mpii) == sorted(mpii)
    assert all(name.endswith("V") for name in mpii)
    assert [mpii.index(verb) for verb in ("cut diceV", "gatherV", "sliceV", "washV")] == [7, 15, 45, 64]
    assert len(set(gym)) == len(SETS) == 99  # two have the same name in the dataset
    assert [gym[i] for i in (58, 70)] == [
        f"(BB) salto backward tucked ({where})" for where in ("flight", "dismount")
    ]
    assert all(name[1:3] == ("VT" if of == "vault" else of[:2]) for name, of in zip(gym, SETS, strict=True))


def test_videos_are_found_by_stem_in_any_depth(tmp_path):
    for name in ("b/x.mkv", "a/x.MP4", "x.txt", "y.webm", ".hidden/z.mp4", "c/[HD] #1;-).avi"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_videos(tmp_path)
    assert found == {"x": ["a/x.MP4", "b/x.mkv"], "y": ["y.webm"], "[HD] #1;-)": ["c/[HD] #1;-).avi"]}
    with pytest.raises(ConfigError, match=r"--videos .*none: no such folder"):
        find_videos(tmp_path / "none")


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A folder with a good, a damaged and a slow long video."""
    folder = tmp_path_factory.mktemp("three")
    small_video(folder / "good.mp4", 12)
    (folder / "bad.mp4").write_bytes(b"no video")
    return folder


def plan_of(folder, **splits):
    items = {name: tuple(part) for name, part in splits.items()}
    return DatasetPlan(name="some", classes=("a", "b"), splits=items, videos=folder)


def test_bad_clips_keep_their_rows_and_fail_the_checks(three, tmp_path):
    whole = [Item(id=name, path=f"{name}.mp4", label=0) for name in ("good", "bad", "gone")]
    spans = [
        Item(id="tail", path="good.mp4", label=1, start=4, end=20, unit="frames"),
        Item(id="beyond", path="good.mp4", label=1, start=12, end=14, unit="frames"),
        Item(id="far", path="good.mp4", label=1, start=0, end=100, unit="frames"),
        Item(id="gone span", path="gone.mp4", label=1, start=3, end=9, unit="frames"),
        Item(id="unknown", path="good.mp4", label=1, problem="not in the JSON"),
    ]
    plan = plan_of(three, train=whole, test=spans)
    outcome = run(plan, tmp_path)
    assert [check.name for check in outcome.failed] == ["video files"]
    assert outcome.written == ()
    assert not list(tmp_path.glob("*.csv"))
    assert not (tmp_path / "measured.jsonl").exists()  # told before anything is decoded

    outcome = run(plan, tmp_path, allow_missing=True)
    assert [check.name for check in outcome.failed] == ["video files", "clips that can be read"]
    assert "3 expected, 2 found" in outcome.text
    train, test = read(tmp_path, "train"), read(tmp_path, "test")
    assert [c.status for c in train.clips] == ["ok", "unreadable", "missing"]
    assert train.clips[2].tags["problem"] == "not found"
    assert [c.status for c in test.clips] == ["ok", "partial", "partial", "missing", "unreadable"]
    assert (test.clips[0].start, test.clips[0].end, test.clips[0].tags) == (4, 12, {"short": "yes"})
    assert test.clips[1].tags["problem"] == "frames 12 to 14 of a video that has 12"
    assert (test.clips[3].start, test.clips[3].end) == (3, 9)
    assert test.clips[4].tags["problem"] == "not in the JSON"
    said = json.loads((tmp_path / "prepare.json").read_text())
    assert said["counts"]["train"] == {
        **{"expected": 3, "found": 2, "usable": 1, "missing": 1, "unreadable": 1, "partial": 0, "short": 0}
    }
    assert said["missing_files"] == ["gone.mp4"]
    assert said["usable_per_class"] == {"train": [1, 0], "test": [0, 1]}


def test_a_dry_run_writes_nothing(three, tmp_path):
    out = tmp_path / "out"
    outcome = run(plan_of(three, train=[Item(id="g", path="good.mp4", label=0)]), out, dry_run=True)
    assert not outcome.failed
    assert not out.exists()
    assert "train                    1           1           0           -" in outcome.text


def test_manifests_of_another_preparation_do_not_stay(three, tmp_path):
    item = Item(id="g", path="good.mp4", label=0)
    run(plan_of(three, train=[item], val=[item]), tmp_path)
    assert (tmp_path / "val.csv").exists()
    run(plan_of(three, train=[item], test=[item]), tmp_path)
    assert not (tmp_path / "val.csv").exists()


def test_links_that_leave_the_folder_are_refused(three, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own/good.mp4").symlink_to(three / "good.mp4")
    with pytest.raises(ManifestError, match="leaves the dataset root"):
        run(plan_of(tmp_path / "own", train=[Item(id="g", path="good.mp4", label=0)]), tmp_path)


def test_why_nothing_is_found_is_said(three, tmp_path):
    plan = plan_of(tmp_path, train=[Item(id="g", path="a/good.mp4", label=0)])
    (tmp_path / "img_00001.jpg").touch()
    assert "holds no file that ends in .avi" in run(plan, tmp_path / "out").text
    (tmp_path / "a").symlink_to(three)
    with pytest.raises(ManifestError, match="leaves the dataset root"):
        run(plan, tmp_path / "out")
    plan = plan_of(tmp_path, train=[Item(id="g", path="good.mp4", label=0)])
    assert "links to folders are not followed: a;" in run(plan, tmp_path / "out").text


def test_broadcasts_are_cut_or_insisted_on(tmp_path):
    small_video(tmp_path / "v/long.mp4", 40, fps=Fraction(1, 60))  # forty minutes
    plan = plan_of(tmp_path / "v", train=[Item(id="g", path="long.mp4", label=0, end=120, unit="seconds")])
    with pytest.raises(ConfigError, match=r"long.mp4: 40 min[\s\S]*--cut .* or --in-place"):
        run(plan, tmp_path / "out")
    run(plan, tmp_path / "out", long_in_place=True)
    assert read(tmp_path / "out", "train").clips[0].end == 2


def test_where_the_videos_are_is_recorded(three, tmp_path):
    item = Item(id="g", path="good.mp4", label=0)
    run(plan_of(three, train=[item]), tmp_path / "out")
    assert recorded_root(tmp_path / "out") == three.resolve()
    assert recorded_root(tmp_path) is None
    run(plan_of(three, **{"split1/train": [item]}), tmp_path / "cut", how="cut")
    shutil.move(tmp_path / "cut", tmp_path / "moved")  # what was cut stays together
    clip = read(tmp_path / "moved", "split1/train").clips[0]
    assert (clip.path, clip.frames, clip.status) == ("clips/g.mp4", 12, "ok")
    assert read(tmp_path / "moved", "split1/train").file(clip).is_file()
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(ManifestError, match=r"dataset.json: must be"):
        recorded_root(tmp_path)


# --- HMDB-51 -------------------------------------------------------------------------------------------------------

NAMES = {
    "climb": (
        *("-_[HD]_up_climb_f_cm_np1_ba_goo_0", "#1_a;-)_climb_u_nm_np10_fr_med_1"),
        "b_&_c_climb_l_cm_np0_le_bad_2",
    ),
    "climb_stairs": (
        *("s!(x)_climb_stairs_h_nm_np2_ri_med_0", "t]_climb_stairs_f_cm_np1_fr_goo_1"),
        "u_climb_stairs_f_cm_np1_fr_goo_2",
    ),
    "kick_ball": tuple(f"{name}_kick_ball_f_cm_np2_fr_med_{i}" for i, name in enumerate("klm")),
}
USES = {1: "120", 2: "201", 3: "112"}  # of the three clips of a class, in split 1, 2, 3


def write_splits(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for category, stems in NAMES.items():
        for fold, uses in USES.items():
            lines = [f"{stem}.avi {use} \n" for stem, use in zip(stems, uses, strict=True)]
            (folder / f"{category}_test_split{fold}.txt").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def hmdb(tmp_path_factory):
    """Three classes of three clips, one of them missing, one as .mp4, and strange files between them."""
    home = tmp_path_factory.mktemp("hmdb")
    for category, stems in NAMES.items():
        for stem in stems:
            small_video(home / f"videos/{category}/{stem}.avi", codec="mpeg4", crf=5)
    (home / "videos/kick_ball" / f"{NAMES['kick_ball'][2]}.avi").unlink()
    first = home / "videos/climb_stairs" / NAMES["climb_stairs"][1]
    first.with_suffix(".avi").unlink()
    small_video(first.with_suffix(".mp4"))
    (home / "videos/aaa").mkdir()  # would shift ids that come from a listing
    (home / "videos/climb.rar").write_bytes(b"Rar!")
    write_splits(home / "testTrainMulti_7030_splits")
    return home


def test_hmdb51_from_the_official_tree(hmdb, tmp_path):
    plan = plan_hmdb51(hmdb / "videos")  # the split files lie beside it
    checks = {check.name: check for check in plan.checks}
    assert checks["split files"].found == "9"
    assert checks["split 1, train / test / unused"].found == "3 / 3 / 3"
    assert not any(check.ok for check in plan.checks)
    assert run(plan, tmp_path).written == ()
    outcome = run(plan, tmp_path, allow_missing=True)
    assert len(outcome.written) == 6
    classes = shipped_classes("hmdb51")
    for fold, uses in USES.items():
        for split, use in (("train", "1"), ("test", "2")):
            manifest = read(tmp_path, f"split{fold}/{split}")
            assert manifest.classes == classes
            expected = {
                (f"{category}/{stem}", category)
                for category, stems in NAMES.items()
                for stem, own in zip(stems, uses, strict=True)
                if own == use
            }
            assert {(c.id, classes[c.label]) for c in manifest.clips} == expected
            for clip in manifest.clips:
                gone = clip.id == f"kick_ball/{NAMES['kick_ball'][2]}"
                assert clip.status == ("missing" if gone else "ok")
                assert gone or (clip.frames == 12 and manifest.file(clip).is_file())
    clips = {c.id: c for split in ("train", "test") for c in read(tmp_path, f"split3/{split}").clips}
    tags = clips[f"climb/{NAMES['climb'][1]}"].tags
    assert tags == {"vis": "u", "cam": "nm", "people": "10", "view": "fr", "quality": "med"}
    assert clips[f"climb_stairs/{NAMES['climb_stairs'][1]}"].path.endswith("fr_goo_1.mp4")


@pytest.mark.parametrize(
    ("videos_in", "splits_in"),
    [
        ("hmdb51_org", "testTrainMulti_7030_splits"),  # official unpack
        ("videos", "annotations"),  # mmaction2: data/hmdb51/videos, data/hmdb51/annotations
        ("HMDB51", "test_train_splits/testTrainMulti_7030_splits"),  # torchvision: root, annotation_path
        ("clips", "splits"),  # pytorchvideo: video_path_prefix, folds
        ("hmdb51_org/hmdb51_org", "hmdb51_org/hmdb51_splits"),  # one folder too many
    ],
)
def test_hmdb51_in_common_layouts(hmdb, tmp_path, videos_in, splits_in):
    shutil.copytree(hmdb / "videos", tmp_path / videos_in)
    shutil.copytree(hmdb / "testTrainMulti_7030_splits", tmp_path / splits_in)
    official = plan_hmdb51(hmdb / "videos").splits
    assert plan_hmdb51(tmp_path / videos_in).splits == official  # looked for
    assert plan_hmdb51(tmp_path / videos_in, tmp_path / splits_in).splits == official
    ids = {split: [item.id for item in items] for split, items in official.items()}
    home = plan_hmdb51(tmp_path, tmp_path / splits_in)  # the folder above
    assert {split: [item.id for item in items] for split, items in home.splits.items()} == ids
    there = [(tmp_path / item.path).is_file() for item in home.items]
    assert there.count(False) == [
        (hmdb / "videos" / i.path).is_file() for i in plan_hmdb51(hmdb / "videos").items
    ].count(False)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "rawframes/wave/a_wave_0/img_00001.jpg",
            "frame folders are not read: .* Name the folder of the videos",
        ),
        ("jpg/wave/a_wave_0/image_00001.jpg", "frame folders are not read"),
        ("MPII.h5", r"MPII.h5 is HDF5, which is not read. Name the folder of the original videos"),
    ],
)
def test_forms_that_are_not_read_are_told(tmp_path, name, said):
    (tmp_path / "videos" / name).parent.mkdir(parents=True)
    (tmp_path / "videos" / name).touch()
    plan = plan_of(tmp_path / "videos", train=[Item(id="g", path="good.mp4", label=0)])
    text = run(plan, tmp_path / "out").text
    assert re.search(said, text)
    assert name in text


@pytest.mark.slow
def test_hmdb51_remuxed_or_linked(hmdb, tmp_path):
    """One root for all; a clip says whether it is the original, and the table how many are."""
    shutil.copytree(hmdb / "videos", tmp_path / "videos")
    packed = tmp_path / "videos/climb" / f"{NAMES['climb'][0]}.avi"
    packed_avi(packed)
    plan = plan_hmdb51(tmp_path / "videos", hmdb / "testTrainMulti_7030_splits")
    said = run(plan, tmp_path / "out", how="remux", dry_run=True).text
    assert "remuxing would read 8 videos" in said
    outcome = run(plan, tmp_path / "out", how="remux", allow_missing=True)
    assert "1 of 8 clips remuxed\n  7 kept as they are: every reader is exact for it" in outcome.text
    manifest = read(tmp_path / "out", "split1/train")
    clips = {clip.id: clip for clip in manifest.clips}
    first = clips[f"climb/{NAMES['climb'][0]}"]
    assert (first.path, first.tags["remuxed"]) == (f"clips/{first.id}.mp4", "yes")
    assert [number(manifest, first, i) for i in (0, 31, 59)] == [0, 31, 59]
    assert {"opencv", "decord", "pyav"} <= set(first.readers)
    other = clips[f"climb_stairs/{NAMES['climb_stairs'][0]}"]
    assert (other.path, other.tags["remuxed"]) == (f"clips/{other.id}.avi", "no")
    assert manifest.file(other).read_bytes() == (tmp_path / "videos" / other.tags["source"]).read_bytes()
    again = run(
        plan_hmdb51(
            tmp_path, hmdb / "testTrainMulti_7030_splits"
        ),  # --out lies in --videos: not its own source
        tmp_path / "out",
        how="remux",
        allow_missing=True,
    )
    assert "1 of 8 clips remuxed" in again.text


def test_hmdb51_cut_to_small_files(hmdb, tmp_path):
    run(plan_hmdb51(hmdb / "videos"), tmp_path, allow_missing=True, how="cut", short_side=32)
    manifest = read(tmp_path, "split1/train")
    clip = next(c for c in manifest.clips if c.id == f"climb/{NAMES['climb'][0]}")
    assert (clip.path, clip.frames, clip.width, clip.height) == (f"clips/{clip.id}.mp4", 12, 32, 32)
    assert clip.tags["source"] == f"climb/{NAMES['climb'][0]}.avi"
    again = plan_hmdb51(tmp_path / "clips", hmdb / "testTrainMulti_7030_splits")
    with pytest.raises(ConfigError, match="was cut before"):  # its own clips are no sources
        run(again, tmp_path, allow_missing=True, how="cut")


def test_hmdb51_from_lists_of_mmaction2(hmdb, tmp_path):
    official = plan_hmdb51(hmdb / "videos")
    for fold, uses in USES.items():
        for name, use in (("train", "1"), ("val", "2")):
            lines = [
                f"{category}/{stem}.avi 7"  # numbered in another order
                for category, stems in NAMES.items()
                for stem, own in zip(stems, uses, strict=True)
                if own == use
            ]
            (tmp_path / f"hmdb51_{name}_split_{fold}_videos.txt").write_text("\n".join(lines))
    assert plan_hmdb51(hmdb / "videos", tmp_path).splits == official.splits


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a.avi 3\n", "climb_test_split1.txt:1: 'a.avi 3' is not `file 0`"),
        ("a.avi\n", "climb_test_split1.txt:1: 'a.avi'"),
        ("a.avi 1 \n\na.avi 2 \n", "a.avi was train of climb before, in split 1"),
    ],
)
def test_hmdb51_lines_that_cannot_be_used(tmp_path, text, said):
    (tmp_path / "climb_test_split1.txt").write_text(text)
    with pytest.raises(ManifestError, match=said):
        plan_hmdb51(tmp_path, tmp_path)


def test_hmdb51_folders_that_are_not_it(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no split files; unpack test_train_splits.rar"):
        plan_hmdb51(tmp_path, tmp_path)
    with pytest.raises(ConfigError, match="no split files in testTrainMulti_7030_splits, splits"):
        plan_hmdb51(tmp_path)
    (tmp_path / "juggle_test_split1.txt").write_text("a.avi 1 \n")
    with pytest.raises(ManifestError, match="'juggle' is not one of the 51 classes"):
        plan_hmdb51(tmp_path, tmp_path)


def test_the_digest_of_split_files_sees_a_changed_line_and_no_blank(tmp_path):
    a, b, c = (write_splits(tmp_path / name) for name in "abc")
    file = "climb_test_split2.txt"
    (b / file).write_bytes((a / file).read_bytes().replace(b" \n", b"\r\n"))
    (c / file).write_bytes((a / file).read_bytes().replace(b" 2", b" 0"))
    of = [digest(list(folder.iterdir())) for folder in (a, b, c)]
    assert of[0] == of[1] != of[2]


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_nested_archives_are_unpacked_once(tmp_path):
    inner = {
        name: zipped(tmp_path / f"{name}.zip", {f"{name}/-[HD] {i}.avi": b"x" for i in range(2)})
        for name in ("climb", "wave")
    }
    outer = zipped(tmp_path / "hmdb51_org.zip", {f.name: f.read_bytes() for f in inner.values()})
    said: list[str] = []
    assert unpack(outer, tmp_path / "out", say=said.append) == tmp_path / "out"
    files = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.avi"))
    assert files == [f"{name}/-[HD] {i}.avi" for name in inner for i in range(2)]
    assert len(said) == 3
    (tmp_path / "out/.unpacking-left").mkdir()  # by a kill
    unpack(outer, tmp_path / "out", say=said.append)
    assert len(said) == 3
    assert not list((tmp_path / "out").glob(".unpacking-*"))


def test_members_that_leave_their_folder_are_refused(tmp_path):
    for name in ("../evil.avi", "/tmp/evil.avi", "a/../../evil.avi", "..\\evil.avi"):
        with pytest.raises(DataError, match=r"a member would leave its folder .*nothing was unpacked"):
            unpack(zipped(tmp_path / "x.zip", {name: b"x"}), tmp_path / "inner/out")
    assert not list(tmp_path.rglob("evil*"))
    (tmp_path / "broken.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"broken.zip: cannot be unpacked .*; is it whole"):
        unpack(tmp_path / "broken.zip", tmp_path / "inner/out")


def test_without_a_tool_for_rar_it_says_which_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "hmdb51_org.rar").write_bytes(b"Rar!")
    with pytest.raises(ConfigError, match="none of unrar, bsdtar, 7zz, 7z and unar is installed"):
        unpack(tmp_path / "hmdb51_org.rar", tmp_path / "out")


@pytest.mark.parametrize(
    "tool", ["bsdtar", "7zz", "7z", "unar"]
)  # these go by content, so a zip stands in for a RAR
def test_the_tools_for_rar(tool, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    for name in (tool, *(["lsar"] if tool == "unar" else [])):
        there = shutil.which(name)
        if not there:
            pytest.skip(f"{name} is not installed")
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec {there} "$@"\n')
        (tmp_path / "bin" / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    archive = zipped(tmp_path / "-wave.rar", {"wave/#1 [HD].avi": b"x", "wave/b.avi": b"y"})
    unpack(archive, tmp_path / "out", say=lambda _: None)
    assert (tmp_path / "out/wave/#1 [HD].avi").read_bytes() == b"x"
    for name in ("../evil.avi", "/tmp/evil.avi"):
        with pytest.raises(DataError, match=r"a member would leave|could not be unpacked"):
            unpack(zipped(tmp_path / "evil.rar", {name: b"x"}), tmp_path / "out", say=lambda _: None)
    link = zipfile.ZipInfo("link")
    link.external_attr, link.create_system = (stat.S_IFLNK | 0o777) << 16, 3
    with zipfile.ZipFile(tmp_path / "link.rar", "w") as made:
        made.writestr(link, "/etc")
    with pytest.raises(DataError, match=r"is a link|could not be unpacked"):
        unpack(tmp_path / "link.rar", tmp_path / "out", say=lambda _: None)
    assert not (tmp_path / "out/link").exists()
    (tmp_path / "cut.rar").write_bytes(b"Rar!\x1a\x07\x00")
    with pytest.raises(DataError, match=rf"could not be unpacked:\n  {tool}.*\nIt is damaged"):
        unpack(tmp_path / "cut.rar", tmp_path / "out", say=lambda _: None)


# --- FineGym -------------------------------------------------------------------------------------------------------

VIDEO, MKV, GONE = "_a-B_c-D_e0", "-mkvmkvmkv_", "gone_video1"
RATE = Fraction(30000, 1001)
JSON = {
    VIDEO: {
        "E_000001_000006": {
            "event": 1,
            "timestamps": [[1.04, 6.9]],
            "segments": {"A_0000_0002": {"stages": 3, "timestamps": [[0.1, 0.6], [0.6, 1.2], [1.2, 2.5]]}},
        },
        "E_000007_000009": {
            "event": 3,
            "timestamps": [[7.0, 9.0]],
            "segments": {
                "A_0000_0001": {"stages": 1, "timestamps": [[0.2, 1.0]]},
                "A_0001_0003": {
                    "stages": 1,
                    "timestamps": [[1.5, 3.2]],
                },  # after its event, and after the video
                "A_0000_0000": {"stages": 1, "timestamps": [[0.5, 0.54]]},  # one frame
                "A_0004_0008": {"stages": 1, "timestamps": [[4.0, 8.0]]},  # not in the video at all
            },
        },
        "E_000009_000010": {"event": 4, "timestamps": [[9.1, 10.0]], "segments": None},
    },
    MKV: {
        "E_000000_000001": {
            "event": 4,
            "timestamps": [[0.08, 1.6]],
            "segments": {"A_0000_0000": {"stages": 1, "timestamps": [[0.2, 0.8]]}},
        }
    },
    GONE: {
        "E_000100_000107": {
            "event": 1,
            "timestamps": [[100.5, 107.0]],
            "segments": {"A_0000_0001": {"stages": 1, "timestamps": [[0.2, 1.0]]}},
        }
    },
}
TRAIN = {
    f"{VIDEO}_E_000001_000006_A_0000_0002": 0,
    f"{VIDEO}_E_000007_000009_A_0001_0003": 70,
    f"{MKV}_E_000000_000001_A_0000_0000": 98,
    f"{GONE}_E_000100_000107_A_0000_0001": 5,
}
TEST = {
    f"{VIDEO}_E_000007_000009_A_0000_0001": 58,
    f"{VIDEO}_E_000007_000009_A_0000_0000": 41,
    f"{VIDEO}_E_000007_000009_A_0004_0008": 41,
    f"{VIDEO}_E_000009_000010_A_0000_0000": 85,
    f"{VIDEO}_E_000011_000012_A_0000_0000": 85,  # an event that the JSON does not have
}


@pytest.fixture(scope="module")
def gym(tmp_path_factory):
    home = tmp_path_factory.mktemp("gym")
    (home / "videos").mkdir()
    videos.numbered_video(home / f"videos/{VIDEO}.mp4", 300, fps=RATE, b_frames=2)
    videos.numbered_video(home / f"videos/{MKV}.mkv", 40, fps=25)
    notes = home / "annotations"
    notes.mkdir()
    (notes / "gym99_train_element_v1.1.txt").write_text("".join(f"{e} {n}\n" for e, n in TRAIN.items()))
    crlf = "\r\n".join(f"{e} {n}" for e, n in TEST.items())
    (notes / "gym99_val_element.txt").write_bytes(crlf.encode())
    (notes / "finegym_annotation_info_v1.1.json").write_text(json.dumps(JSON))
    return home


def shown(start: float, end: float, fps: Fraction, frames: int) -> list[int]:
    """Frames whose times lie in a span."""
    return [i for i in range(frames) if Fraction(str(start)) <= i / fps < Fraction(str(end))]


SPANS = {  # absolute times, added up by hand
    f"{VIDEO}_E_000001_000006_A_0000_0002": shown(1.14, 3.54, RATE, 300),
    f"{VIDEO}_E_000007_000009_A_0001_0003": shown(8.5, 10.2, RATE, 300),
    f"{MKV}_E_000000_000001_A_0000_0000": shown(0.28, 0.88, Fraction(25), 40),
    f"{VIDEO}_E_000007_000009_A_0000_0001": shown(7.2, 8.0, RATE, 300),
    f"{VIDEO}_E_000007_000009_A_0000_0000": shown(7.5, 7.54, RATE, 300),
}


@pytest.mark.parametrize("how", ["in place", pytest.param("cut", marks=pytest.mark.slow)])
def test_finegym_spans_come_from_the_json(gym, tmp_path, how):
    plan = plan_finegym(gym / "videos", gym / "annotations")
    checks = {check.name: check for check in plan.checks}
    assert (checks["elements in train"].found, checks["elements in test"].found) == ("4", "5")
    assert checks["source videos of train"].found == "3"
    assert checks["elements with times"] == ("elements with times", "9", "7", False)
    assert checks["times that agree with the id"].ok
    assert "1 test elements overlap in time with a training element" not in "".join(plan.notes)
    outcome = run(plan, tmp_path, allow_missing=True, how=how, short_side=None)
    assert "gone_video1.mp4" in outcome.text
    train, test = read(tmp_path, "train"), read(tmp_path, "test")
    assert {c.id: c.label for c in train.clips} == TRAIN
    assert {c.id: c.label for c in test.clips} == TEST
    for manifest in (train, test):
        for clip in manifest.clips:
            if clip.id in SPANS:
                assert clip.status == "ok", clip
                frames = SPANS[clip.id]
                assert clip.length == len(frames)
                assert [number(manifest, clip, i) for i in (0, clip.length - 1)] == [frames[0], frames[-1]]
                assert clip.tags.get("short") == ("yes" if len(frames) < 9 else None)
    problems = {c.id[12:]: (c.status, c.tags.get("problem")) for c in (*train.clips, *test.clips)}
    assert problems["E_000100_000107_A_0000_0001"][0] == "missing"
    assert problems["E_000007_000009_A_0004_0008"][0] == "partial"
    assert problems["E_000009_000010_A_0000_0000"] == (
        "unreadable",
        f"the JSON has no element A_0000_0000 in E_000009_000010 of {VIDEO}",
    )
    assert problems["E_000011_000012_A_0000_0000"][1] == f"the JSON has no event E_000011_000012 of {VIDEO}"
    vault = train.clips[0].tags
    assert (vault["event"], vault["set"], vault["video"]) == ("VT", "vault", VIDEO)
    assert (vault["start_seconds"], vault["end_seconds"]) == ("1.140", "3.540")


def test_finegym_a_csv_of_times_says_the_same(gym, tmp_path):
    by_json = plan_finegym(gym / "videos", gym / "annotations")
    with open(tmp_path / "times.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "start", "end"])
        for items in by_json.splits.values():
            writer.writerows([i.id, i.start, i.end] for i in items if i.unit == "seconds")
    by_csv = plan_finegym(gym / "videos", gym / "annotations", times=tmp_path / "times.csv")
    assert [i for s in by_csv.splits.values() for i in s if i.unit == "seconds"] == [
        i for s in by_json.splits.values() for i in s if i.unit == "seconds"
    ]
    assert sum(i.problem == "not in times.csv" for s in by_csv.splits.values() for i in s) == 2
    relative = "id,start,end\n" + "".join(f"{e},0.2,1.0\n" for e in (*TRAIN, *TEST))
    (tmp_path / "times.csv").write_text(relative)  # of the event, not of the video: does not fit the ids
    plan = plan_finegym(gym / "videos", gym / "annotations", times=tmp_path / "times.csv")
    agree = next(check for check in plan.checks if check.name == "times that agree with the id")
    assert (agree.found, agree.expected) == ("1", "9")


def lists_only(gym, folder: Path) -> Path:
    shutil.copytree(gym / "annotations", folder, ignore=shutil.ignore_patterns("*.json"))
    return folder


def test_finegym_without_times_or_clips_says_what_to_fetch(gym, tmp_path):
    lists = lists_only(gym, tmp_path / "lists")
    with pytest.raises(ConfigError, match=r"holds no finegym_annotation_info_v1.1.json[\s\S]*Fetch the JSON"):
        plan_finegym(gym / "videos", lists)
    plan = plan_finegym(gym / "videos", lists, allow_missing=True)
    outcome = run(plan, tmp_path / "out", allow_missing=True)
    assert "video files" in [check.name for check in outcome.failed]
    assert Counter(c.status for c in read(tmp_path / "out", "train").clips) == {"missing": 4}


def test_finegym_pre_cut_clips_are_whole_files(gym, tmp_path):
    lists = lists_only(gym, tmp_path / "lists")
    a, b, *_ = TRAIN
    small_video(tmp_path / f"subactions/{a}.mp4", 20)
    small_video(tmp_path / f"subactions/{b[:11]}/{b[12:27]}/{b[28:]}.mp4", 8)
    plan = plan_finegym(tmp_path / "subactions", lists)
    assert any(note.startswith("pre-cut clips, as whole files") for note in plan.notes)
    run(plan, tmp_path / "out", allow_missing=True)
    train = read(tmp_path / "out", "train").clips
    assert [(c.status, c.length, c.end, c.tags.get("short")) for c in train[:2]] == [
        ("ok", 20, None, None),
        ("ok", 8, None, "yes"),
    ]
    assert [c.status for c in train[2:]] == ["missing"] * 2


def test_finegym_spans_in_clips_of_events(gym, tmp_path):
    """The sources are gone, and clips of whole events are there, as mmaction2 cuts them; times count from the event."""
    element, event = f"{VIDEO}_E_000007_000009_A_0000_0001", f"{VIDEO}_E_000007_000009"
    first = shown(7.0, 9.0, RATE, 300)[0]
    (tmp_path / "events").mkdir()
    write_video(
        tmp_path / f"events/{event}.mp4", (videos.numbered_frame(first + i) for i in range(60)), fps=RATE
    )
    plan = plan_finegym(tmp_path / "events", gym / "annotations")
    assert any(note.startswith("4 elements are taken from clips of their event") for note in plan.notes)
    run(plan, tmp_path / "out", allow_missing=True)
    manifest = read(tmp_path / "out", "test")
    clip = next(clip for clip in manifest.clips if clip.id == element)
    begin, end = (number(manifest, clip, i) for i in (0, clip.length - 1))
    assert abs(begin - SPANS[element][0]) <= 1
    assert abs(end - SPANS[element][-1]) <= 1
    assert clip.tags["from_event"] == "yes"
    assert clip.tags["start_seconds"] == "7.200"  # in the source, all the same


def test_finegym_knows_version_1_0(gym, tmp_path):
    lists = lists_only(gym, tmp_path / "lists")
    (lists / "gym99_train_element_v1.1.txt").unlink()
    elements = (f"{VIDEO}_E_{i:06}_{i + 9:06}_A_0000_0001 {i % 99}\n" for i in range(20484))
    (lists / "gym99_train_org.txt").write_text("".join(elements))
    plan = plan_finegym(gym / "videos", lists, allow_missing=True)
    assert any("version 1.0; the paper uses 1.1" in note for note in plan.notes)


def test_finegym_overlaps_of_training_and_test_are_counted(gym, tmp_path):
    lists = tmp_path / "annotations"
    shutil.copytree(gym / "annotations", lists)
    changed = json.loads(json.dumps(JSON))
    changed[VIDEO]["E_000007_000009"]["segments"]["A_0001_0003"]["timestamps"][0][0] = 0.9
    (lists / "finegym_annotation_info_v1.1.json").write_text(json.dumps(changed))
    notes = plan_finegym(gym / "videos", lists).notes
    assert "1 test elements overlap in time with a training element of the same video" in notes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("shortid_E_000001_000006_A_0000_0002 0\n", r":1: .* is not `video_E_ssssss"),
        (f"{VIDEO}_E_000001_000006_A_0000_0002 99\n", r":1: label 99 is outside 0..98"),
        (f"{VIDEO}_E_000001_000006_A_0000_0002\n", r":1: "),
        (f"{VIDEO}_E_000001_000006_A_0000_0002 1\n" * 2, r":2: .* is listed before"),
        ("\n", "empty"),
    ],
)
def test_finegym_lines_that_cannot_be_used(tmp_path, text, said):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ManifestError, match=said):
        read_elements(tmp_path / "list.txt", 99)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"timestamps": [[1.0, 2.0]], "segments": {"A_0000_0002": {}}}, "cannot be used (KeyError"),
        (
            {"timestamps": [], "segments": {"A_0000_0002": {"timestamps": [[0, 1]]}}},
            "cannot be used (IndexError",
        ),
        ({"timestamps": [[1, 2]], "segments": {"A_0000_0002": {"timestamps": [[1, 1]]}}}, "is no span"),
        ({"timestamps": [[1, 2]], "segments": []}, "the JSON has no element A_0000_0002"),
        ([], "cannot be used (TypeError"),
    ],
)
def test_finegym_damaged_entries_are_told_one_by_one(gym, tmp_path, entry, said):
    lists = tmp_path / "annotations"
    shutil.copytree(gym / "annotations", lists)
    changed = {**JSON, VIDEO: {**JSON[VIDEO], "E_000001_000006": entry}}
    (lists / "finegym_annotation_info_v1.1.json").write_text(json.dumps(changed))
    problem = plan_finegym(gym / "videos", lists).splits["train"][0].problem
    assert said in problem
    (lists / "finegym_annotation_info_v1.1.json").write_text("{")
    with pytest.raises(ManifestError, match="not JSON"):
        plan_finegym(gym / "videos", lists)


# --- MPII Cooking 2 ------------------------------------------------------------------------------------------------

ATTRIBUTES = ("carrot", "cut apartV", "cutV", "cutting-board", "gatherV", "knife")
ROWS = (  # file, verb, first and last frame as annotated, objects
    ("s07-d72-cam-002", "cutV", 1, 20, ("carrot", "knife")),
    ("s07-d72-cam-002", "cut apartV", 11, 30, ("carrot",)),  # overlaps
    ("s07-d72-cam-002", "cut apartV", 11, 25, ()),  # file, verb and start again
    ("s07-d72-cam-002", "cut apartV", 11, 25, ()),  # and the end
    ("s07-d72-cam-002", "flipV", 5, 9, ()),  # not an attribute: dropped
    ("s07-d72-cam-002", "", 5, 9, ()),
    ("s21-d21-cam-002", "gatherV", 40, 60, ("cutting-board",)),
    ("s22-d23-cam-002", "cutV", 60, 60, ()),
    ("s22-d23-cam-002", "gatherV", 2, 61, ()),
    ("s28-d32-cam-002", "gatherV", 2, 4, ()),  # in no list
    ("s08-d02-cam-002", "gatherV", 2, 4, ()),  # no video
)


def matlab_file(path: Path, rows=ROWS, attributes=ATTRIBUTES) -> Path:
    """A MATLAB 7.3 file as MATLAB writes it: strings as references to arrays of code units."""
    import h5py

    with h5py.File(path, "w", userblock_size=512) as file:
        annos, strings = file.create_group("annos"), file.create_group("#refs#")

        def cells(name, texts):
            references = np.empty((len(texts), 1), h5py.ref_dtype)
            for i, text in enumerate(texts):
                units = np.frombuffer(text.encode("utf-16-le"), "<u2").reshape(-1, 1)
                if not text:
                    units = np.zeros(2, np.uint64)  # the size of an empty string
                made = strings.create_dataset(f"{name}{i}", data=units)
                made.attrs["MATLAB_class"] = np.bytes_("char")
                made.attrs["MATLAB_int_decode" if text else "MATLAB_empty"] = np.int32(2 if text else 1)
                references[i, 0] = made.ref
            annos.create_dataset(name, data=references).attrs["MATLAB_class"] = np.bytes_("cell")

        cells("fileName", [row[0] for row in rows])
        cells("activity", [row[1] for row in rows])
        cells("attributeMap", attributes)
        annos["startFrame"] = np.array([[float(row[2])] for row in rows])
        annos["endFrame"] = np.array([[float(row[3])] for row in rows])
        annos["iaMat"] = np.array([[float(a in (row[1], *row[4])) for row in rows] for a in attributes])
        annos["frameRate"] = np.array([[29.4]])
        annos["nImgsPerFile"] = np.array([[3707764736, 2, 1, 1, 1, 1]], np.uint32)
    with open(path, "r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    return path


@pytest.fixture(scope="module")
def mpii(tmp_path_factory):
    home = tmp_path_factory.mktemp("mpii")
    for name in ("s07-d72", "s21-d21", "s22-d23"):
        (home / "videos").mkdir(exist_ok=True)
        videos.numbered_video(
            home / f"videos/{name}-cam-002.avi", 60, fps=Fraction(147, 5), codec="mpeg4", crf=3
        )
    lists = home / "experimentalSetup/experimentalSetup"
    lists.mkdir(parents=True)
    (lists / "sequencesTrainAttr.txt").write_text("s07-d72\ns08-d02\n\n")
    (lists / "sequencesVal.txt").write_text("# one\r\ns21-d21\r\ns21-d60")
    (lists / "sequencesTest.txt").write_text("s22-d23 \n")
    matlab_file(home / "annos.mat")
    return home


def plan_cooking(mpii, **options):
    return plan_mpii(mpii / "videos", mpii / "annos.mat", mpii / "experimentalSetup", **options)


@pytest.mark.parametrize("how", ["in place", pytest.param("cut", marks=pytest.mark.slow)])
def test_mpii_intervals(mpii, tmp_path, how):
    plan = plan_cooking(mpii)
    checks = {check.name: check for check in plan.checks}
    assert (checks["intervals"].found, checks["verbs"].found) == ("11", "4")
    assert checks["intervals whose verb is set"].ok
    assert checks["frames a second"].ok
    assert checks["subjects in two splits"].ok
    assert checks["classes"].found.startswith("3, with 64 that differ: ")
    notes = "\n".join(plan.notes)
    assert "2 intervals of verbs that are no classes" in notes
    assert "2 intervals share file, verb and start" in notes
    assert "sequences without an interval: s21-d60" in notes
    run(plan, tmp_path, allow_missing=True, how=how, short_side=None)
    train, val, test = (read(tmp_path, split) for split in ("train", "val", "test"))
    names = train.classes
    spans = {}
    for manifest in (train, val, test):
        for clip in manifest.clips:
            if clip.status == "ok":
                spans[clip.id] = (
                    names[clip.label],
                    number(manifest, clip),
                    number(manifest, clip, clip.length - 1),
                )
    film, again = "s07-d72-cam-002", "s07-d72-cam-002/000011-000025-cut apartV"
    assert spans == {
        f"{film}/000001-000020-cutV": ("cutV", 0, 19),
        f"{film}/000011-000030-cut apartV": ("cut apartV", 10, 29),
        again: ("cut apartV", 10, 24),
        f"{again}-2": ("cut apartV", 10, 24),
        "s21-d21-cam-002/000040-000060-gatherV": ("gatherV", 39, 59),
        "s22-d23-cam-002/000060-000060-cutV": ("cutV", 59, 59),
        "s22-d23-cam-002/000002-000061-gatherV": ("gatherV", 1, 59),  # ends one frame after the file
    }
    assert train.clips[-1].status == "missing"
    assert train.clips[0].tags["objects"] == "carrot knife"
    assert val.clips[0].tags["objects"] == "cutting-board"
    assert (train.clips[0].tags["subject"], train.clips[0].tags["dish"]) == ("s07", "d72")
    assert train.clips[0].fps == pytest.approx(29.4)


def test_mpii_as_the_authors_read_it(mpii):
    ours, theirs = plan_cooking(mpii), plan_cooking(mpii, frame_base=0)
    for a, b in zip(ours.splits["train"], theirs.splits["train"], strict=True):
        assert (a.start + 1, a.end + 1) == (b.start, b.end)


def test_mpii_training_on_the_validation_subject(mpii):
    own, both = plan_cooking(mpii).splits, plan_cooking(mpii, train_on_val=True).splits
    assert list(both) == ["train", "test"]
    assert both["train"] == own["train"] + own["val"]
    assert {item.tags["subject"] for item in both["train"]} == {"s07", "s08", "s21"}


def test_mpii_files_that_are_not_it(mpii, tmp_path):
    lists = mpii / "experimentalSetup"
    with pytest.raises(ConfigError, match=r"--mat .*no such file; fetch annos/attributesAnnotations"):
        plan_mpii(mpii / "videos", tmp_path / "none.mat", lists)
    (tmp_path / "v5.mat").write_bytes(b"MATLAB 5.0 MAT-file".ljust(600))
    with pytest.raises(ManifestError, match=r"v5.mat: cannot be read as a MATLAB 7.3 file"):
        plan_mpii(mpii / "videos", tmp_path / "v5.mat", lists)
    import h5py

    with h5py.File(matlab_file(tmp_path / "a.mat"), "r+") as file:
        del file["annos/iaMat"]
    with pytest.raises(ManifestError, match=r"has no annos/iaMat; it must be .* of MPII Cooking 2"):
        plan_mpii(mpii / "videos", tmp_path / "a.mat", lists)
    with h5py.File(matlab_file(tmp_path / "b.mat"), "r+") as file:
        turned = file["annos/iaMat"][()].T
        del file["annos/iaMat"]
        file["annos/iaMat"] = turned
    with pytest.raises(ManifestError, match=r"iaMat is \(11, 6\), not \(6, 11\)"):
        plan_mpii(mpii / "videos", tmp_path / "b.mat", lists)
    rows = [("s07-d72-cam-002", "cutV", 9, 3, ())]
    with pytest.raises(ManifestError, match="interval 1, s07-d72-cam-002 cutV: frames 9 to 3 are no span"):
        plan_mpii(mpii / "videos", matlab_file(tmp_path / "c.mat", rows), lists)


def test_mpii_lists_that_are_not_it(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no sequencesTrainAttr.txt"):
        read_sequences(tmp_path)
    for name in ("TrainAttr", "Val", "Test"):
        (tmp_path / f"sequences{name}.txt").write_text("s07-d72\nseven\n")
    with pytest.raises(ManifestError, match=r"sequencesTrainAttr.txt:2: 'seven' is not a sequence"):
        read_sequences(tmp_path)


def test_mpii_a_subject_in_two_splits_is_found(mpii, tmp_path):
    shutil.copytree(mpii / "experimentalSetup", tmp_path / "lists")
    (tmp_path / "lists/experimentalSetup/sequencesTest.txt").write_text("s22-d23\ns07-d11\n")
    plan = plan_mpii(mpii / "videos", mpii / "annos.mat", tmp_path / "lists")
    assert next(check for check in plan.checks if check.name == "subjects in two splits").found == "s07"


# --- the command ---------------------------------------------------------------------------------------------------


def command(*arguments) -> subprocess.CompletedProcess:
    line = [sys.executable, str(ROOT / "scripts/prepare.py"), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_the_command_ends_with_2_unless_missing_is_allowed(mpii, tmp_path):
    paths = ("--videos", mpii / "videos", "--mat", mpii / "annos.mat", "--splits", mpii / "experimentalSetup")
    done = command("mpii_cooking2", *paths, "--out", tmp_path, "--workers", 1)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "FAILED  intervals: 14,105 expected, 11 found" in done.stdout
    assert "no manifest was written" in done.stderr
    done = command(
        "mpii_cooking2", *paths, "--out", tmp_path, "--workers", 1, "--allow-missing", "--histogram"
    )
    assert done.returncode == 0, done.stderr
    assert f"wrote {tmp_path}/test.csv" in done.stdout
    assert "45 sliceV" in done.stdout


@pytest.mark.slow
def test_the_command_verifies(three, tmp_path):
    shutil.copytree(three, tmp_path / "videos")
    run(plan_of(tmp_path / "videos", train=[Item(id="g", path="good.mp4", label=0)]), tmp_path / "out")
    done = command("verify", tmp_path / "out")
    assert (done.returncode, done.stdout.startswith(f"{tmp_path}/out/train.csv: 1 ok, 0 missing")) == (
        0,
        True,
    )
    small_video(tmp_path / "videos/good.mp4", 9)
    done = command("verify", tmp_path / "out/train.csv")
    assert done.returncode == 2
    assert "g (good.mp4): partial: has 9 frames, the manifest says 12" in done.stdout


def test_the_command_says_what_is_wrong(tmp_path):
    done = command("hmdb51", "--videos", tmp_path / "none")
    assert (done.returncode, done.stderr.startswith("error: --videos")) == (2, True)
    assert "examples:" in command("--help").stdout


# --- training on what was prepared -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(hmdb, gym, mpii, tmp_path_factory):
    """data/hmdb51, data/finegym and data/mpii_cooking2: in place, cut, and cut."""
    root = tmp_path_factory.mktemp("data")
    run(plan_hmdb51(hmdb / "videos"), root / "hmdb51", allow_missing=True)
    for name, plan in (
        ("finegym", plan_finegym(gym / "videos", gym / "annotations")),
        ("mpii_cooking2", plan_cooking(mpii)),
    ):
        run(plan, root / name, allow_missing=True, how="cut", short_side=64)
    return root


def train(data: Path, out: Path, *overrides: str) -> runs.Running:
    quick = [
        word for word in runs.QUICK if not word.startswith(("dataset", "trainer.epochs", "trainer.batch"))
    ]
    rest = [
        "trainer.epochs=1",
        "trainer.batch_size=2",
        "data.max_bad_fraction=0.9",
        f"data.root='{data}'",
        f"output='{out}'",
    ]
    return runs.Running([*quick, *rest, *overrides])


@pytest.mark.slow
def test_training_on_prepared_datasets(prepared, tmp_path):
    """The commands of the README; a missing clip is counted in the result."""
    asked = {
        "hmdb51-split2": ("dataset=hmdb51", "dataset.split=2"),
        "finegym": ("dataset=finegym",),
        "mpii_cooking2": ("dataset=mpii_cooking2",),
    }
    running = {name: train(prepared, tmp_path, *words) for name, words in asked.items()}
    results = {}
    for name, process in running.items():
        done = process.wait(240)
        assert done.returncode == 0, done.stderr
        (path,) = (tmp_path / name).rglob("result.json")
        results[name] = json.loads(path.read_text())
    lost = {
        name: sorted(
            (split, counts["missing"]) for split, counts in result["clips"].items() if counts["missing"]
        )
        for name, result in results.items()
    }
    assert lost == {
        "hmdb51-split2": [("train", 1)],  # split 2 trains on the third clip of kick_ball
        "finegym": [("train", 1)],
        "mpii_cooking2": [("train", 1)],
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("dataset=hmdb51", "dataset.split=2"), "hmdb51-split2 is not there"),
        (("dataset=finegym",), "finegym is not there"),
        (("dataset=mpii_cooking2",), "mpii_cooking2 is not there"),
    ],
)
def test_training_without_data_names_the_command(tmp_path, words, said):
    """And the command it names is one that the script takes."""
    done = train(tmp_path / "data", tmp_path, *words).wait()
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert said in done.stderr
    line = next(text for text in done.stderr.splitlines() if "scripts/prepare.py" in text).split()
    asked = [str(tmp_path) if word in ("DIR", "FILE") else word for word in line[2:]]
    tried = command(*asked)
    assert tried.returncode == 2
    assert "usage:" not in tried.stderr  # it failed over the empty folder, not over its options
