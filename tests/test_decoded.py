"""Clips that are kept decoded on disk: the same samples, from fewer decodings, whatever happens to the folder."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import videos

from vmp.data import decoded
from vmp.data.columns import Clip
from vmp.data.dataset import ClipShape, TestClips, TrainClips, collate_train, loader_processes
from vmp.data.decode import read_frames
from vmp.data.decoded import DecodedClips
from vmp.data.encode import write_video
from vmp.data.manifest import Manifest
from vmp.data.present import find_clips

H, W, LENGTH = 64, 96, 40
SIZE = LENGTH * H * W * 3  # bytes of a clip
SHAPE = ClipShape(frames=9, stride=2, crop=48, jitter=(56, 70), test_side=56, test_crop=48)
EVERYTHING = 10**9


def drawn(seed: int) -> np.ndarray:
    """A video of random blocks, (LENGTH, H, W, 3), that no other seed resembles."""
    blocks = np.random.default_rng(seed).integers(0, 256, (LENGTH, H // 16, W // 16, 3), dtype=np.uint8)
    return blocks.repeat(16, axis=1).repeat(16, axis=2)


def listed(folder: Path, *names: str) -> tuple[Manifest, object]:
    """A manifest of whole files, with the sizes that the reference reader finds."""
    clips = []
    for name in names:
        _, height, width, _ = read_frames(folder / name, [0]).shape
        readers = ("frames",) if (folder / name).is_dir() else ("pyav",)
        sizes = {"frames": LENGTH, "fps": 25.0, "width": width, "height": height}
        clips.append(Clip(id=name, path=name, label=0, readers=readers, **sizes))
    manifest = Manifest(folder / "train.csv", folder, ("a",), tuple(clips))
    return manifest, find_clips(manifest, max_bad_fraction=0)


@pytest.fixture
def home(tmp_path):
    """Three videos, another that stands on its side, and a folder of frames."""
    for seed in range(3):
        write_video(tmp_path / f"{seed}.mp4", iter(drawn(seed)))
    videos.rotated(tmp_path / "0.mp4", tmp_path / "turned.mp4")
    (tmp_path / "series").mkdir()
    for number, frame in enumerate(drawn(7)):
        cv2.imwrite(str(tmp_path / "series" / f"img_{number:05d}.png"), frame)
    return tmp_path


def keeping(home: Path, limit: int = EVERYTHING) -> DecodedClips:
    return DecodedClips(home / "data", home, limit)


def samples(data: TrainClips, epochs: int = 2) -> list[torch.Tensor]:
    return [data[index, epoch][1] for epoch in range(epochs) for index in range(len(data))]


def kept(home: Path) -> list[Path]:
    return sorted((home / "data" / ".decoded").glob("*/*.rgb"))


def assert_equal(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_samples_from_kept_clips_are_equal_to_the_bit(home):
    """Degraded, turned, in spans, from frame folders; in training and in tests; for the process that keeps the clips
    and for a later one."""
    manifest, _ = listed(home, "0.mp4", "1.mp4", "2.mp4", "turned.mp4", "series")
    spans = tuple(replace(clip, id=f"{clip.id} span", start=7, end=31) for clip in manifest.clips)
    manifest = replace(manifest, clips=manifest.clips + spans)
    present = find_clips(manifest, max_bad_fraction=0)
    shape = replace(SHAPE, degrade="salt_pepper", degrade_in="both")
    plain = samples(TrainClips(manifest, present, shape, seed=1))
    views = [TestClips(manifest, present, shape, temporal=3, spatial=3)[i][1] for i in range(10)]
    assert kept(home) == []
    for _ in range(2):
        assert_equal(samples(TrainClips(manifest, present, shape, seed=1, kept=keeping(home))), plain)
        test = TestClips(manifest, present, shape, temporal=3, spatial=3, kept=keeping(home))
        assert_equal([test[i][1] for i in range(10)], views)
        assert len(kept(home)) == 10


def test_kept_clips_are_what_later_runs_read(home):
    manifest, present = listed(home, "0.mp4", "1.mp4")
    before = samples(TrainClips(manifest, present, SHAPE, seed=1, kept=keeping(home)), 1)
    for file in kept(home):
        file.write_bytes(bytes(255 - np.frombuffer(file.read_bytes(), np.uint8)))
    inverted = samples(TrainClips(manifest, present, SHAPE, seed=1, kept=keeping(home)), 1)
    for a, b in zip(before, inverted, strict=True):
        assert (a.int() + b.int() - 255).abs().max() <= 1  # resizing rounds


def test_a_folder_that_is_written_in_several_ways_has_one_set_of_clips(home, monkeypatch):
    (home.parent / "link").symlink_to(home)
    monkeypatch.chdir(home.parent)
    for folder in (home, Path(home.name), home.parent / "link", home / ".." / home.name):
        manifest, present = listed(folder, "0.mp4", "series")
        keeper = DecodedClips(home / "data", folder, EVERYTHING)
        samples(TrainClips(manifest, present, SHAPE, seed=1, kept=keeper), 1)
        assert len(kept(home)) == 2, folder


@pytest.mark.parametrize("room", [0, 1, 2])
def test_no_more_is_kept_than_there_is_room_for(home, room):
    manifest, present = listed(home, "0.mp4", "1.mp4", "2.mp4")
    plain = samples(TrainClips(manifest, present, SHAPE, seed=1))
    for _ in range(2):  # the second finds the folder full
        limit = room * SIZE + SIZE // 2
        assert_equal(samples(TrainClips(manifest, present, SHAPE, seed=1, kept=keeping(home, limit))), plain)
        assert [file.stat().st_size for file in kept(home)] == [SIZE] * room


def test_a_video_that_was_replaced_is_decoded_again(home):
    manifest, present = listed(home, "0.mp4")
    samples(TrainClips(manifest, present, SHAPE, seed=1, kept=keeping(home)))
    shutil.copy(home / "1.mp4", home / "0.mp4")
    plain = samples(TrainClips(manifest, present, SHAPE, seed=1))
    assert_equal(samples(TrainClips(manifest, present, SHAPE, seed=1, kept=keeping(home))), plain)
    # a frame of a folder is rewritten in its place
    manifest, present = listed(home, "series")
    samples(TrainClips(manifest, present, SHAPE, seed=1, kept=keeping(home)))
    for frame in (home / "series").iterdir():
        cv2.imwrite(str(frame), drawn(8)[0])
    plain = samples(TrainClips(manifest, present, SHAPE, seed=1))
    assert_equal(samples(TrainClips(manifest, present, SHAPE, seed=1, kept=keeping(home))), plain)


def test_another_version_of_a_reader_decodes_again(home, monkeypatch):
    manifest, present = listed(home, "0.mp4")
    samples(TrainClips(manifest, present, SHAPE, seed=1, kept=keeping(home)))
    for made, change in ((2, ("VERSION", 0)), (3, ("_libraries", lambda: ("av 99",)))):
        monkeypatch.setattr(decoded, *change)
        samples(TrainClips(manifest, present, SHAPE, seed=1, kept=keeping(home)))
        assert len(kept(home)) == made


def test_a_video_that_has_gone_is_an_error_although_it_is_kept(home):
    manifest, present = listed(home, "0.mp4")
    data = TrainClips(manifest, present, SHAPE, seed=1, kept=keeping(home))
    samples(data)
    (home / "0.mp4").unlink()
    assert "0.mp4: not found" in str(data[0, 0][1])


@pytest.mark.parametrize("damage", ["cut", "empty", "deleted"])
def test_a_damaged_kept_clip_is_made_anew(home, damage):
    manifest, present = listed(home, "0.mp4", "1.mp4")
    plain = samples(TrainClips(manifest, present, SHAPE, seed=1))
    data = TrainClips(manifest, present, SHAPE, seed=1, kept=keeping(home))
    samples(data)
    for file in kept(home):
        if damage == "deleted":
            file.unlink()
        else:
            os.truncate(file, 0 if damage == "empty" else SIZE - 1)
    assert_equal(samples(data), plain)
    assert [file.stat().st_size for file in kept(home)] == [SIZE] * 2


def test_where_nothing_can_be_written_clips_are_decoded_each_time(home):
    manifest, present = listed(home, "0.mp4", "1.mp4")
    plain = samples(TrainClips(manifest, present, SHAPE, seed=1))
    (home / "data").mkdir()
    (home / "data" / ".decoded").write_text("a file in the folder's place")
    assert_equal(samples(TrainClips(manifest, present, SHAPE, seed=1, kept=keeping(home))), plain)


def test_the_last_of_a_disk_is_left_to_checkpoints(home, monkeypatch):
    manifest, present = listed(home, "0.mp4", "1.mp4", "2.mp4")
    plain = samples(TrainClips(manifest, present, SHAPE, seed=1))
    room = decoded.RESERVE + SIZE + SIZE // 2
    free = lambda: room - sum(file.stat().st_size for file in kept(home))  # noqa: E731
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free()))
    assert_equal(samples(TrainClips(manifest, present, SHAPE, seed=1, kept=keeping(home))), plain)
    assert len(kept(home)) == 1
    assert "MB free, and the last" in keeping(home).shortage(present.clips)


def test_a_very_large_clip_is_not_kept(home, monkeypatch):
    manifest, present = listed(home, "0.mp4", "1.mp4")
    plain = samples(TrainClips(manifest, present, SHAPE, seed=1))
    monkeypatch.setattr(decoded, "LARGEST", SIZE - 1)
    assert_equal(samples(TrainClips(manifest, present, SHAPE, seed=1, kept=keeping(home))), plain)
    assert kept(home) == []
    assert "2 clip(s) take more than 1 MB each" in keeping(home).shortage(present.clips)


def test_the_start_says_if_clips_find_no_room(home):
    _, present = listed(home, "0.mp4", "1.mp4")
    assert keeping(home, 2 * SIZE).shortage(present.clips) is None
    assert "the clips take 2 MB decoded" in keeping(home, 2 * SIZE - 1).shortage(present.clips)


def test_half_a_clip_that_a_killed_process_left_is_removed(home):
    manifest, present = listed(home, "0.mp4", "1.mp4")
    where = keeping(home)
    where.folder.mkdir(parents=True)
    # another process may be writing the second
    left, new = where.folder / ".a.1.tmp.rgb", where.folder / ".b.2.tmp.rgb"
    for file in (left, new):
        file.write_bytes(bytes(SIZE // 2))
    os.utime(left, (1e9, 1e9))
    samples(TrainClips(manifest, present, SHAPE, seed=1, kept=where), 1)
    assert [left.exists(), new.exists()] == [False, True]
    assert len(kept(home)) == 2 + 1  # the new one, too


def test_a_clip_whose_end_is_lost_is_read_as_without_keeping(home):
    """Tests of its first frames pass, and training fails only where it needs the lost ones."""
    manifest, present = listed(home, "series")
    for number in range(30, LENGTH):
        (home / "series" / f"img_{number:05d}.png").unlink()
    shape = replace(SHAPE, stride=1)
    outcomes = [
        [str(sample) if isinstance(sample, Exception) else sample.sum().item() for sample in found]
        for found in (
            samples(TrainClips(manifest, present, shape, seed=1, kept=where), 20)
            for where in (None, keeping(home))
        )
    ]
    assert {type(outcome) for outcome in outcomes[0]} == {str, int}
    assert outcomes[0] == outcomes[1]
    assert kept(home) == []


def test_loader_processes_share_the_folder(home):
    """Two processes, which both want every clip, keep each of them once and stay within the limit."""
    manifest, present = listed(home, "0.mp4", "1.mp4", "2.mp4", "turned.mp4")
    plain = samples(TrainClips(manifest, present, SHAPE, seed=1), 1)
    data = TrainClips(manifest, present, SHAPE, seed=1, kept=keeping(home))
    order = [(index, 0) for _ in range(8) for index in range(4)]
    loader = torch.utils.data.DataLoader(
        data, batch_size=3, sampler=order, collate_fn=collate_train, **loader_processes(data, 2, timeout=60)
    )
    found = {int(i): clip for batch in loader for i, clip in zip(batch.indices, batch.clips, strict=True)}
    assert_equal([found[i] for i in range(4)], plain)
    assert [file.stat().st_size for file in kept(home)] == [SIZE] * 4
    [folder] = (home / "data" / ".decoded").iterdir()
    assert len(list(folder.iterdir())) == 4  # no temporary file is left
