"""HMDB-51 from a small tree with the traps of the real one."""

import shutil
from pathlib import Path

import pytest
import videos
from small_datasets import NAMES, USES, number, read, run, write_splits

from vmp.errors import ConfigError, ManifestError
from vmp.prepare.hmdb51 import _splits_folder, digest, plan_hmdb51
from vmp.prepare.plan import shipped_classes


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


@pytest.mark.slow
def test_hmdb51_remuxed_or_linked(hmdb, tmp_path):
    """All clips have one root; each says whether it is the original, and the report how many are."""
    shutil.copytree(hmdb / "videos", tmp_path / "videos")
    packed = tmp_path / "videos/climb" / f"{NAMES['climb'][0]}.avi"
    videos.packed_avi(packed)
    plan = plan_hmdb51(tmp_path / "videos", hmdb / "testTrainMulti_7030_splits")
    message = run(plan, tmp_path / "out", how="remux", dry_run=True).text
    assert "remuxing would read 8 videos" in message
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


@pytest.mark.slow
def test_hmdb51_cut_to_small_files(hmdb, tmp_path):
    run(plan_hmdb51(hmdb / "videos"), tmp_path, allow_missing=True, how="cut", short_side=32)
    manifest = read(tmp_path, "split1/train")
    clip = next(c for c in manifest.clips if c.id == f"climb/{NAMES['climb'][0]}")
    assert (clip.path, clip.frames, clip.width, clip.height) == (f"clips/{clip.id}.mp4", 12, 32, 32)
    assert clip.tags["source"] == f"climb/{NAMES['climb'][0]}.avi"
    again = plan_hmdb51(tmp_path / "clips", hmdb / "testTrainMulti_7030_splits")
    with pytest.raises(ConfigError, match="was cut before"):  # its own clips are no sources
        run(again, tmp_path, allow_missing=True, how="cut")


def test_hmdb51_from_its_own_folder_copied_from_a_mac(hmdb, tmp_path, monkeypatch):
    shutil.copytree(hmdb / "videos", tmp_path / "videos")
    copied = shutil.copytree(hmdb / "testTrainMulti_7030_splits", tmp_path / "splits")
    (copied / "._climb_test_split1.txt").write_bytes(b"\0\5\26\7Mac OS X")
    monkeypatch.chdir(tmp_path / "videos")
    assert plan_hmdb51(Path()).splits == plan_hmdb51(hmdb / "videos").splits


def test_hmdb51_takes_the_first_of_several_folders_of_splits_by_name(tmp_path, monkeypatch):
    def walk(root):  # as a file system may list it
        folders = ["b", "a"]
        yield str(root), folders, []
        for name in folders:
            yield f"{root}/{name}", [], ["climb_test_split1.txt"]

    monkeypatch.setattr("os.walk", walk)
    assert _splits_folder(tmp_path, tmp_path) == tmp_path / "a"


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
    ("text", "message"),
    [
        ("a.avi 3\n", "climb_test_split1.txt:1: 'a.avi 3' is not `file 0`"),
        ("a.avi\n", "climb_test_split1.txt:1: 'a.avi'"),
        ("a.avi 1 \n\na.avi 2 \n", "a.avi was train of climb before, in split 1"),
    ],
)
def test_hmdb51_lines_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / "climb_test_split1.txt").write_text(text)
    with pytest.raises(ManifestError, match=message):
        plan_hmdb51(tmp_path, tmp_path)


def test_hmdb51_folders_without_its_files(tmp_path):
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
