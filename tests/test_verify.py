"""Manifests compared with files that were lost, damaged or exchanged since."""

import csv
import re
from pathlib import Path

import pytest
import videos

from vmp.data.columns import Clip
from vmp.data.manifest import read_manifest, write_classes, write_manifest
from vmp.errors import ManifestError
from vmp.prepare import verify as verifying
from vmp.prepare.measure import measure
from vmp.prepare.verify import verify

FRAMES = 60


def manifest_of(folder: Path, names) -> Path:
    clips = []
    for number, name in enumerate(names):
        m = measure(folder / name)
        measured = {f: getattr(m, f) for f in ("frames", "fps", "width", "height", "status", "readers")}
        clips.append(Clip(id=f"val/{number}", path=name, label=number % 2, **measured))
    write_classes(folder / "classes.txt", ["a", "b"])
    write_manifest(folder / "val.csv", clips)
    return folder / "val.csv"


@pytest.mark.slow
def test_verify(tmp_path):
    names = ["good, one.mp4", "gone.mp4", "broken.mp4", "cut_off.avi", "longer.mp4", "shuffled.avi"]
    for name in (names[0], names[1], names[2], names[4]):
        videos.numbered_video(tmp_path / name, 20)
    videos.numbered_video(tmp_path / "cut_off.avi", 40, codec="mpeg4", crf=3)
    videos.numbered_video(tmp_path / "shuffled.avi", 40, b_frames=2, keyframe_every=12)
    path = manifest_of(tmp_path, names)
    fine = verify(path, progress=False, workers=1)
    assert fine.ok
    assert fine.counts == {"ok": 6, "missing": 0, "unreadable": 0, "partial": 0}
    assert sorted(p.name for p in tmp_path.glob("*csv*")) == ["val.csv"]

    text = path.read_text().replace("opencv pyav", "decord opencv pyav")  # decord is not exact for it
    path.write_text(text)
    (tmp_path / "gone.mp4").unlink()
    (tmp_path / "broken.mp4").write_bytes(b"nothing" * 100)
    videos.truncated(tmp_path / "cut_off.avi", tmp_path / "cut_off.avi")
    videos.numbered_video(tmp_path / "longer.mp4", 24)
    found = verify(path, progress=False, workers=1)
    assert not found.ok
    assert found.counts == {"ok": 2, "missing": 1, "unreadable": 2, "partial": 1}
    message = {p.path: p.problem for p in found.problems}
    assert set(message) == set(names[1:6])
    assert "frames 24 instead of 20" in message["longer.mp4"]
    assert "decord" in message["shuffled.avi"]
    assert (tmp_path / "val.csv.before-verify").read_text() == text
    new = {clip.path: clip for clip in read_manifest(path).clips}
    assert [new[n].status for n in names] == [
        "ok",
        "missing",
        "unreadable",
        "partial",
        "unreadable",
        "ok",
    ]
    assert new["shuffled.avi"].readers == ("opencv", "pyav")
    assert new["gone.mp4"].tags["problem"]
    assert new["good, one.mp4"] == read_manifest_text(tmp_path, text).clips[0]
    with open(tmp_path / "quarantine.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == names[1:6]
    assert all(row["problem"] for row in rows)
    assert (tmp_path / "broken.mp4").exists()

    again = verify(path, progress=False, workers=1)  # the manifest is right now
    assert again.ok
    assert again.counts == found.counts
    with open(tmp_path / "quarantine.csv", newline="", encoding="utf-8") as file:
        assert [row["path"] for row in csv.DictReader(file)] == names[1:5]
    assert (tmp_path / "val.csv.before-verify").read_text() == text


def read_manifest_text(folder: Path, text: str):
    (folder / "old.csv").write_text(text)
    return read_manifest(folder / "old.csv")


def test_a_wrong_folder_changes_no_row(tmp_path):
    videos.numbered_video(tmp_path / "a.mp4", 20)
    path = manifest_of(tmp_path, ["a.mp4"])
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(ManifestError, match=r"none of its 1 file\(s\) is in .*elsewhere[\s\S]*--root"):
        verify(path, root=tmp_path / "elsewhere", progress=False, workers=1)
    assert before == {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}


def test_a_folder_without_manifests_is_refused(script, tmp_path):
    (tmp_path / "split1").mkdir()
    (tmp_path / "split1/mine.csv").touch()
    code, _, errors = script("prepare", "verify", tmp_path)
    assert code == 2
    assert f"{tmp_path}: holds no train.csv, val.csv or test.csv, at any depth; name a manifest" in errors


@pytest.mark.slow
@pytest.mark.parametrize("after_the_others", [False, True], ids=["at once", "as if on a GPU"])
def test_named_readers_are_listed_where_they_are_exact(tmp_path, monkeypatch, after_the_others):
    videos.numbered_video(tmp_path / "good.mp4", 20)
    videos.numbered_video(tmp_path / "shuffled.avi", 40, b_frames=2, keyframe_every=12)
    path = manifest_of(tmp_path, ["good.mp4", "shuffled.avi"])
    path.write_text(re.sub("(pyav_seek |opencv |decord )+pyav", "pyav", path.read_text()))
    assert [clip.readers for clip in read_manifest(path).clips] == [("pyav",), ("pyav",)]
    monkeypatch.setattr(verifying, "ON_GPU", ("decord",) if after_the_others else ())
    found = verify(path, progress=False, workers=1, readers=("decord",))
    assert found.ok
    assert not found.untried
    assert found.exact == {"decord": 1}
    assert [clip.readers for clip in read_manifest(path).clips] == [("pyav", "decord"), ("pyav",)]


def test_a_fault_of_the_gpu_is_not_held_against_a_file(tmp_path, monkeypatch):
    videos.numbered_video(tmp_path / "a.mp4", 20)
    path = manifest_of(tmp_path, ["a.mp4"])
    listed = path.read_text()
    assert "decord" in listed
    monkeypatch.setattr(verifying, "ON_GPU", ("decord",))
    monkeypatch.setattr(
        verifying, "_add_readers", lambda *args, **options: {"a.mp4": "CUDA error: out of memory"}
    )
    found = verify(path, progress=False, workers=1, readers=("decord",))
    assert found.ok
    assert found.untried == {"a.mp4": "CUDA error: out of memory"}
    assert path.read_text() == listed


@pytest.mark.slow
def test_verify_with_a_root_and_files_used_twice(tmp_path):
    (tmp_path / "videos").mkdir()
    videos.numbered_video(tmp_path / "videos" / "a.mp4", FRAMES)
    clips = [
        Clip(id=f"train/{i}", path="a.mp4", label=i, start=10 * i, end=10 * i + 10, frames=FRAMES, fps=25.0)
        for i in range(2)
    ]
    write_classes(tmp_path / "classes.txt", ["a", "b"])
    write_manifest(tmp_path / "train.csv", clips)
    assert verify(tmp_path / "train.csv", root=tmp_path / "videos", progress=False, workers=1).ok
    videos.numbered_video(tmp_path / "videos" / "a.mp4", 50)
    found = verify(tmp_path / "train.csv", root=tmp_path / "videos", progress=False, workers=1)
    assert found.counts["partial"] == 2
    assert [p.id for p in found.problems] == ["train/0", "train/1"]
