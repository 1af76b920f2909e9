"""Clips by columns, beside a tuple of clips and the plain loops that they replace."""

import hashlib
import os
import shutil

import numpy as np
import pytest

from vmp.data import manifest as manifests
from vmp.data.columns import Clip, Clips
from vmp.data.manifest import Manifest, inside, read_manifest, write_classes, write_manifest
from vmp.data.present import FRAMES, Present, digest, find_clips
from vmp.errors import DataError

CLASSES = ("walk, fast", "laufen – schnell", "走る")


def some_clips(count: int = 60) -> tuple[Clip, ...]:
    """Clips with all that a manifest may say of them."""
    rng = np.random.default_rng(4)
    clips = []
    for i in range(count):
        frames = int(rng.integers(5, 400))
        start = int(rng.integers(0, frames - 1)) if i % 3 else 0
        end = None if i % 4 else int(rng.integers(start + 1, frames + 1))
        whole = start == 0 and end is None
        clips.append(
            Clip(
                f"id {i} – 走",
                f"a{i % 4}/b, {i % 7}/{i % 20}.mp4",
                i % 3,
                start,
                end,
                frames,
                (25.0, 29.97, 0.0)[i % 3],
                320,
                240 + i,
                ("ok", "ok", "ok", "missing", "partial")[i % 5],
                (("pyav",), ("opencv", "pyav"), ())[i % 3],
                "40000*" + str(frames - 1) if whole and i % 2 else "",
                {"speed": f"{i}.5", **({"problem": "cut short"} if i % 5 == 4 else {})},
            )
        )
    return tuple(clips)


def test_clips_look_like_a_tuple_of_them():
    want = some_clips()
    clips = Clips.of(want)
    assert Clips.of(clips) is clips
    assert tuple(clips) == want
    assert clips == want
    assert clips != want[:-1]
    assert clips != (*want[:-1], want[0])
    assert [clips[-1], clips[7]] == [want[-1], want[7]]
    for wrong in (len(want), -len(want) - 1):
        with pytest.raises(IndexError):
            clips[wrong]
    part = clips[40:3:-7]
    assert tuple(part) == want[40:3:-7]
    again = part.take(np.array([2, 0]))
    assert tuple(again) == (want[26], want[40])
    for some, own in ((clips, want), (part, want[40:3:-7])):
        assert some.texts("path") == [c.path for c in own]
        assert some.texts("times") == [c.times for c in own]
        assert some.numbers("label").tolist() == [c.label for c in own]
        assert some.lengths().tolist() == [c.length for c in own]
    assert tuple(Clips.of(())) == ()
    assert Clips.of([Clip("a", "b", 0)]).texts("times") == [""]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A manifest that is large enough for its columns to be kept."""
    monkeypatch.setattr(manifests, "KEEP_FROM", 3)
    write_classes(tmp_path / "classes.txt", CLASSES)
    write_manifest(tmp_path / "train.csv", [c for c in some_clips() if c.start < c.frames])
    return tmp_path


def test_a_large_manifest_is_parsed_once_and_again_when_it_changes(folder, monkeypatch):
    parsed, read_rows = [], manifests._read_rows
    monkeypatch.setattr(manifests, "_read_rows", lambda *options: parsed.append(1) or read_rows(*options))
    file = folder / "train.csv"
    first = tuple(read_manifest(file).clips)
    assert first == tuple(read_manifest(file).clips)
    assert len(parsed) == 1
    write_manifest(file, first[:-1])
    assert tuple(read_manifest(file).clips) == first[:-1]
    write_classes(
        folder / "classes.txt", [*CLASSES, "a class more"]
    )  # which labels are allowed depends on it
    assert len(read_manifest(file).classes) == 4
    assert len(parsed) == 3
    for damaged in ("numbers.npy", "texts0.blob.npy", "tags0.ends.npy", "about.json"):
        kept = folder / ".train.columns" / damaged
        kept.write_bytes(kept.read_bytes()[: kept.stat().st_size // 2])
        assert tuple(read_manifest(file).clips) == first[:-1]
        assert tuple(read_manifest(file).clips) == first[:-1]
    assert len(parsed) == 7
    assert sorted(path.name for path in folder.iterdir()) == [".train.columns", "classes.txt", "train.csv"]


def test_columns_that_cannot_be_kept_are_no_fault(folder, monkeypatch):
    monkeypatch.setattr(np, "save", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    assert len(read_manifest(folder / "train.csv").clips) == 60
    assert sorted(path.name for path in folder.iterdir()) == ["classes.txt", "train.csv"]


def test_the_digest_is_that_of_the_rows_written_out(folder):
    manifest = read_manifest(folder / "train.csv")
    clips = tuple(manifest.clips)
    readers = tuple((FRAMES, "pyav")[i % 3 > 0] for i in range(len(clips)))
    rows = [
        (c.id, c.path, c.label, c.start, c.length, *filter(None, [c.times, reader == FRAMES and c.fps]))
        for c, reader in zip(clips, readers, strict=True)
    ]
    want = hashlib.sha256(repr((manifest.classes, rows)).encode()).hexdigest()
    assert digest(manifest, Present(clips, readers, len(clips))) == want
    assert digest(manifest, Present(manifest.clips, readers, len(clips))) == want
    none = hashlib.sha256(repr((manifest.classes, [])).encode()).hexdigest()
    assert digest(manifest, Present((), (), 0)) == none


def test_files_are_found_as_if_each_were_asked_for(folder):
    """Files in several folders, links within the root, frame folders, missing ones, and a name with a dot in it."""
    clips = [c for c in some_clips() if c.status == "ok" and c.readers]
    clips += [Clip("frames", "a0/frames", 0, frames=9, readers=(FRAMES,)), Clip("a", "./a0/../a0/x.mp4", 1)]
    clips = [c for c in clips if ".." not in c.path] + [
        Clip("top", "top.mp4", 1, frames=4, readers=("pyav",)),
        Clip("blank", "a folder /top.mp4", 1, frames=4, readers=("pyav",)),
    ]
    for number, clip in enumerate(clips):
        file = folder / clip.path
        if number % 5 == 0:
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        if clip.readers == (FRAMES,):
            file.mkdir()
        elif number % 5 == 1 and not file.is_symlink():
            (folder / f"real{number}.mp4").touch()
            file.unlink(missing_ok=True)
            file.symlink_to(folder / f"real{number}.mp4")
        else:
            file.touch()
    shutil.rmtree(folder / "a1", ignore_errors=True)
    (folder / "elsewhere").mkdir()
    (folder / "a1").symlink_to(folder / "elsewhere")  # a folder that is a link
    for clip in clips:
        if clip.path.startswith("a1/"):
            (folder / clip.path).parent.mkdir(exist_ok=True)
            (folder / clip.path).touch()
    there = {}
    for clip in clips:
        file = inside(folder, clip.path)
        there[clip.id] = file.is_dir() if FRAMES in clip.readers else file.is_file()
    manifest = Manifest(folder / "train.csv", folder, CLASSES, tuple(clips))
    found = find_clips(manifest, max_bad_fraction=1)
    assert [c.id for c in found.clips] == [c.id for c in clips if there[c.id]]
    assert found.bad == {c.id: f"missing: {c.path}" for c in clips if not there[c.id]}
    assert list(found.bad) == [c.id for c in clips if not there[c.id]]
    assert set(there.values()) == {True, False}
    gone = next(c for c in clips if there[c.id] and not (folder / c.path).is_symlink())
    os.replace(folder / gone.path, folder.parent / "outside.mp4")
    (folder / gone.path).symlink_to(folder.parent / "outside.mp4")
    with pytest.raises(DataError, match="leaves the dataset root"):
        find_clips(manifest, max_bad_fraction=1)
