"""Readers against frames that say their own number, on the files that break readers."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch
import videos
from PIL import Image

from vmp.data.columns import Clip
from vmp.data.dataset import ClipShape, TestClips, loader_processes
from vmp.data.decode import READERS, check_reader, read_frames
from vmp.data.manifest import Manifest
from vmp.data.present import Present, find_clips
from vmp.errors import ConfigError, RunError, VideoReadError
from vmp.files import write_csv
from vmp.prepare import measure as measuring
from vmp.prepare.measure import UNTRIED, measure_all, measure_cached
from vmp.prepare.rows import describe_untried

FRAMES = 60
measure = cache(measuring.measure)  # the files stay as they are, and several tests ask
INSTALLED = ("pyav_seek", "opencv", "pyav", "decord")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One file of each kind."""
    home = tmp_path_factory.mktemp("videos")
    videos.numbered_video(home / "plain.mp4", FRAMES)
    videos.numbered_video(home / "b_frames.mp4", FRAMES, b_frames=3, keyframe_every=24)
    videos.numbered_video(home / "one_keyframe.mp4", FRAMES, keyframe_every=1000)
    videos.numbered_video(home / "h264.avi", FRAMES, b_frames=2, keyframe_every=12)
    videos.numbered_video(home / "mpeg4.avi", FRAMES, codec="mpeg4", crf=3)
    videos.numbered_video(home / "mpeg4_b.mp4", FRAMES, codec="mpeg4", crf=3, b_frames=2)
    videos.numbered_video(home / "matroska.mkv", FRAMES, b_frames=2)
    videos.variable_rate_video(home / "variable.mp4", FRAMES)
    videos.stream_copy(home / "one_keyframe.mp4", home / "copied.mp4")
    videos.stream_copy(home / "b_frames.mp4", home / "cut.mp4", skip_until=1.2)
    for name, matrix in videos.ORIENTATIONS.items():
        videos.oriented(home / "plain.mp4", home / f"{name}.mp4", matrix)
    for name in NAMES:
        (home / name).write_bytes((home / "plain.mp4").read_bytes())
    return home


NAMES = (
    *("ünï cöde 'q' #1 [HD];.mp4", "-dash %03d.mp4", "12:30:45.mp4", "http:x.mp4", "file:x.mp4", "pipe:0"),
    *(
        "concat:a.mp4|b.mp4",
        "subfile,,start,0,end,9,,:x.mp4",
        "img%03d.mp4",
        "~",
        "a\nb.mp4",
        "data:video;x.mp4",
    ),
)


WHOLE = (
    *("plain.mp4", "b_frames.mp4", "one_keyframe.mp4", "h264.avi", "mpeg4.avi", "mpeg4_b.mp4"),
    *("matroska.mkv", "variable.mp4", "copied.mp4"),
)
PATTERNS = (
    range(FRAMES),
    [0],
    [FRAMES - 1],
    range(3, 60, 7),
    [59, 0, 30, 30, 12],
    np.linspace(0, 59, 9).round().astype(int),
    range(40, 49),
)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("indices", PATTERNS, ids=[str(i) for i in range(len(PATTERNS))])
def test_counting_gives_every_frame(folder, name, indices):
    got = read_frames(folder / name, list(indices))
    assert [videos.number_of(frame) for frame in got] == list(indices)


@pytest.mark.parametrize("name", [*WHOLE, "cut.mp4", "clockwise.mp4"])
def test_a_reader_measured_exact_gives_every_frame(folder, name):
    """The measurement's verdict holds for patterns that it did not try; the next test shows that it can be negative."""
    found = measure(folder / name)
    assert found.status == "ok"
    assert found.readers[-1] == "pyav"
    counted = read_frames(folder / name, range(found.frames))
    rng = np.random.default_rng(0)
    for reader in found.readers:
        for _ in range(6):
            indices = np.sort(rng.integers(0, found.frames, rng.integers(1, 12)))
            got = read_frames(folder / name, indices, reader=reader)
            worst = np.abs(got.astype(int) - counted[indices]).mean(axis=(1, 2, 3)).max()
            assert worst < 4, (reader, indices.tolist())


def test_the_measurement_catches_readers_that_shuffle(folder):
    """decord on H.264 in AVI returns wrong frames; OpenCV is exact there and is kept."""
    indices = list(range(3, 60, 7))
    wrong = read_frames(folder / "h264.avi", indices, reader="decord")
    assert [videos.number_of(f) for f in wrong] != indices
    assert measure(folder / "h264.avi").readers == ("opencv", "pyav")
    assert set(measure(folder / "plain.mp4").readers) == set(INSTALLED)


def test_sorting_by_timestamp_would_shuffle_avi(folder):
    """Why frames are counted: in AVI with B-frames the timestamps are out of order."""
    import av

    with av.open(str(folder / "h264.avi")) as container:
        stamps = [frame.pts for frame in container.decode(video=0)]
    order = np.argsort(np.array([s if s is not None else 10**9 for s in stamps]), kind="stable")
    assert (order != np.arange(len(order))).sum() > 10


@pytest.mark.parametrize("reader", INSTALLED)
def test_repeats_and_any_order(folder, reader):
    got = read_frames(folder / "plain.mp4", [5, 2, 5, 59, 0], reader=reader)
    assert [videos.number_of(f) for f in got] == [5, 2, 5, 59, 0]


@pytest.mark.parametrize("name", videos.ORIENTATIONS)
def test_every_reader_turns_and_mirrors(folder, name):
    """All eight orientations: every pixel where the file's display matrix takes it."""
    raw, path = read_frames(folder / "plain.mp4", [7])[0], folder / f"{name}.mp4"
    expected = videos.as_shown(raw, videos.ORIENTATIONS[name])
    found = measure(path)
    assert (found.height, found.width) == expected.shape[:2]
    assert set(found.readers) >= set(INSTALLED)
    for reader in found.readers:
        np.testing.assert_allclose(read_frames(path, [7], reader=reader)[0], expected, atol=12)


@pytest.mark.parametrize("name", NAMES)
def test_names_of_all_kinds_are_files(folder, name, monkeypatch):
    """Also relative to the current folder, where there is only the name."""
    monkeypatch.chdir(folder)
    for path in (folder / name, name):
        assert measuring.measure(path, readers=()).status == "ok"
        for reader in INSTALLED:
            assert videos.number_of(read_frames(path, [9], reader=reader)[0]) == 9


def test_a_name_that_is_not_utf8_is_unreadable_and_can_be_listed(folder, tmp_path):
    """As archives from other systems unpack to: it must not take the other videos' predictions with it."""
    path = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    shutil.copy(folder / "plain.mp4", path)
    found = measuring.measure(path)
    assert (found.status, found.reason) == ("unreadable", "its name is not UTF-8; rename it")
    write_csv(tmp_path / "table.csv", [[path.name, found.reason]])
    assert (tmp_path / "table.csv").read_bytes() == rb"caf\udce9.mp4,its name is not UTF-8; rename it" + b"\n"


@pytest.mark.parametrize("reader", INSTALLED)
def test_resized_while_decoding(folder, reader):
    small = read_frames(folder / "plain.mp4", [0, 30], reader=reader, short_side=120)
    assert small.shape == (2, 120, 160, 3)
    assert read_frames(folder / "clockwise.mp4", [0], reader=reader, short_side=64).shape == (1, 85, 64, 3)


def test_odd_sizes_and_short_files(tmp_path):
    pictures = (np.full((47, 33, 3), 40 * i, np.uint8) for i in range(3))
    videos.encoded(tmp_path / "odd.mkv", pictures, codec="ffv1", format="bgr0")  # it takes any size
    found = measure(tmp_path / "odd.mkv")
    assert (found.status, found.frames, found.width, found.height) == ("ok", 3, 33, 47)
    for reader in found.readers:
        assert read_frames(tmp_path / "odd.mkv", [2], reader=reader)[0].mean() == pytest.approx(80, abs=2)
    one = videos.numbered_video(tmp_path / "one.mp4", 1)
    assert measure(one).frames == 1
    assert videos.number_of(read_frames(one, [0, 0])[1]) == 0


def bad_files(home, good):
    (home / "empty.mp4").write_bytes(b"")
    (home / "text.mp4").write_text("this is not a video\n" * 50)
    (home / "page.mp4").write_text("<html><body>404</body></html>")
    (home / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (home / "folder.mp4").mkdir()
    os.mkfifo(home / "pipe.mp4")
    os.symlink(home / "nowhere", home / "dangling.mp4")
    videos.audio_only(home / "audio.mp4")
    videos.cover_only(home / "cover.mp4")
    videos.truncated(good, home / "no_index.mp4")  # the index of an MP4 is at its end
    return sorted(p for p in home.iterdir())


def test_every_reader_refuses_bad_files(folder, tmp_path):
    for path in [*bad_files(tmp_path, folder / "plain.mp4"), tmp_path / "absent.mp4"]:
        for reader in INSTALLED:
            with pytest.raises(VideoReadError) as caught:
                read_frames(path, [0], reader=reader)
            assert str(path) in str(caught.value)
        assert measure(path).status in ("unreadable", "missing"), path
        assert measure(path).reason
    assert measure(tmp_path / "cover.mp4").reason == "no video stream, only a cover picture"


PICTURES = ("BMP", "WEBP", "AVIF", "JPEG2000", "PPM", "JPEG", "PNG", "TIFF", "PCX", "SGI", "DDS", "ICO")
OTHERS = {
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "a web page": b"\n<!DOCTYPE html><html>404</html>",
    "a playlist": b'<?xml version="1.0"?><MPD type="static"></MPD>',
    "a ZIP archive": b"PK\x03\x04" + bytes(300),
}


def test_pictures_and_other_files_under_a_video_s_name_are_refused(tmp_path):
    """A decoder makes a video of one frame of any picture, at 25 or 90,000 frames per second."""
    picture = Image.fromarray(videos.numbered_frame(3))
    for kind in PICTURES:
        picture.save(tmp_path / f"{kind}.mp4", format=kind)
    picture.save(tmp_path / "animation.mp4", format="WEBP", save_all=True, append_images=[picture.rotate(9)])
    for path in tmp_path.iterdir():
        found = measure(path)
        assert (found.status, found.frames, found.readers) == ("unreadable", 0, ()), path.name
        assert "picture" in found.reason, found
    for number, (what, content) in enumerate(OTHERS.items()):
        (tmp_path / f"{number}.mp4").write_bytes(content)
        assert what in measure(tmp_path / f"{number}.mp4").reason


def test_files_in_which_there_is_no_video_are_named_for_what_they_are(tmp_path):
    """By their contents, when measured and when read; nothing of FFmpeg's error numbers."""
    videos.numbered_video(tmp_path / "whole.mp4", 30)
    whole = (tmp_path / "whole.mp4").read_bytes()
    for name, content, what in (
        ("readme.md", "# Vidéos\n\nEin Satz.\n".encode(), "a text file, not a video"),
        ("text.mp4", b"path,label\n" * 1000, "a text file, not a video"),
        ("cut.mp4", whole[: len(whole) // 3], "without a readable index (moov)"),
        ("noise.mp4", np.random.default_rng(0).bytes(5000), "recognises no video in it"),
    ):
        (tmp_path / name).write_bytes(content)
        reason = measure(tmp_path / name).reason
        assert what in reason
        with pytest.raises(VideoReadError, match=re.escape(f"{tmp_path / name}: {reason}")):
            read_frames(tmp_path / name, [0])


def test_a_codec_without_a_decoder_is_named(folder, tmp_path):
    file = tmp_path / "unknown.mp4"
    file.write_bytes((folder / "plain.mp4").read_bytes().replace(b"avc1", b"zzz1"))
    assert measure(file).reason == "the installed FFmpeg cannot decode its codec"
    with pytest.raises(VideoReadError, match="cannot decode its codec"):
        read_frames(file, [0])


def test_animated_pictures_that_decoders_know_are_videos(tmp_path):
    frames = [Image.fromarray(videos.numbered_frame(i)) for i in range(9)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=40)
    assert (measure(tmp_path / "a.gif").status, measure(tmp_path / "a.gif").frames) == ("ok", 9)
    assert [videos.number_of(f) for f in read_frames(tmp_path / "a.gif", range(9))] == list(range(9))


FORKS = """
import cv2, numpy, sys, torch
from vmp.data.dataset import loader_processes
from vmp.data.decode import read_frames

class Clips(torch.utils.data.Dataset):
    class present: readers = ["opencv"]
    def __len__(self): return 4
    def __getitem__(self, i): return read_frames(sys.argv[1], [i], reader="opencv", short_side=120)

cv2.setNumThreads(4)
cv2.GaussianBlur(numpy.zeros((2000, 2000, 3), numpy.uint8), (31, 31), 0)
data = Clips()
for _ in torch.utils.data.DataLoader(data, **loader_processes(data, 2, timeout=60)): pass
"""


@pytest.mark.slow
def test_loader_processes_work_after_opencv_has_used_threads(folder):
    """A forked process has none of OpenCV's threads: using them hung or crashed it."""
    run = [sys.executable, "-c", FORKS, folder / "plain.mp4"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("reader", INSTALLED)
def test_a_frame_beyond_the_end_is_an_error(folder, reader):
    with pytest.raises(VideoReadError, match=r"frame \d+ asked for|Error"):
        read_frames(folder / "plain.mp4", [58, 59, 60], reader=reader)


def test_a_truncated_file_is_partial(folder, tmp_path):
    short = videos.truncated(folder / "mpeg4.avi", tmp_path / "short.avi")
    found = measure(short)
    assert found.status == "partial"
    assert 0 < found.frames < FRAMES
    assert found.readers == ()


@pytest.mark.slow
def test_measuring_survives_a_child_that_dies_or_hangs(folder, tmp_path, monkeypatch):
    """Files are told apart by name in the child: one kills it, one makes it sleep."""
    names = ("dies.mp4", "hangs.mp4", "fine.mp4", "reader_dies.mp4", "reader_hangs.mp4")
    paths = [tmp_path / name for name in names]
    for path in paths:
        path.write_bytes((folder / "plain.mp4").read_bytes())
    (tmp_path / "sitecustomize.py").write_text(
        "import vmp.prepare.measure as m, os, time\n"
        "def after(real, dies, hangs):\n"
        "    def change(path, *more):\n"
        "        if path.name == dies: os.kill(os.getpid(), 11)\n"
        "        if path.name == hangs: time.sleep(60)\n"
        "        return real(path, *more)\n"
        "    return change\n"
        "m.count = after(m.count, 'dies.mp4', 'hangs.mp4')\n"
        "m.exact_readers = after(m.exact_readers, 'reader_dies.mp4', 'reader_hangs.mp4')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    found = {path.name: m for path, m in measure_all(paths, workers=2, timeout=3)}
    assert "the decoder crashed" in found["dies.mp4"].reason
    assert "no progress for" in found["hangs.mp4"].reason
    assert found["fine.mp4"] == measure(paths[2])
    counted = replace(measure(paths[2], readers=()), readers=("pyav",))
    for name, why in (("reader_dies.mp4", "the decoder crashed"), ("reader_hangs.mp4", "no progress for")):
        assert why in found[name].reason
        assert replace(found[name], reason="") == counted


def test_a_reader_that_crashes_does_not_cost_the_video(tmp_path):
    """decord wants memory for each tick of a jump of 54 years."""
    ticks = [33 * i + 1_700_000_000_000 * (i > 40) for i in range(90)]
    file = videos.encoded(
        tmp_path / "clock.mkv", map(videos.numbered_frame, range(90)), ticks=ticks, base=Fraction(1, 1000)
    )
    (found,) = measure_cached(tmp_path / "measured.jsonl", tmp_path, [file.name], progress=False).values()
    assert (found.status, found.frames, "pyav" in found.readers) == ("ok", 90, True)
    assert found.readers != ("pyav",) or found.reason.startswith(UNTRIED)
    assert len((tmp_path / "measured.jsonl").read_text().splitlines()) == 1
    assert len(describe_untried({file.name: found, "sound.mp4": replace(found, reason="")})) == bool(
        found.reason
    )


def test_torchcodec_is_optional():
    assert set(READERS) == {"pyav_seek", "opencv", "pyav", "decord", "torchcodec", "torchcodec_cuda"}
    try:
        import torchcodec  # noqa: F401
    except (ImportError, RuntimeError):
        with pytest.raises(VideoReadError, match=r"imported|not found"):
            read_frames(__file__, [0], reader="torchcodec")
        with pytest.raises(ConfigError, match=r"reader torchcodec: cannot be imported here"):
            check_reader("torchcodec")


@pytest.mark.skipif(torch.cuda.device_count() > 0, reason="there is a GPU")
def test_a_reader_that_needs_a_gpu_says_so_without_one(folder):
    with pytest.raises(ConfigError, match=r"torchcodec_cuda: (there is no CUDA|cannot be imported)"):
        check_reader("torchcodec_cuda")
    clip = Clip("a", "plain.mp4", 0, frames=60, readers=("pyav", "torchcodec_cuda"))
    manifest = Manifest(folder / "train.csv", folder, ("a",), (clip,))
    assert find_clips(manifest, max_bad_fraction=0).readers == ("pyav",)
    with pytest.raises(ConfigError, match=r"use data\.reader=auto"):
        find_clips(manifest, reader="torchcodec_cuda", max_bad_fraction=0)


def test_a_gpu_that_fails_is_not_an_unreadable_file(folder, monkeypatch):
    def fails(path, wanted):
        raise RuntimeError(message)
        yield

    monkeypatch.setitem(READERS, "torchcodec_cuda", fails)
    message = "CUDA error: out of memory"
    with pytest.raises(RunError, match="the GPU decoder failed"):
        read_frames(folder / "plain.mp4", [0], reader="torchcodec_cuda")
    with pytest.raises(RuntimeError, match="CUDA error"):
        measuring.measure(folder / "plain.mp4", readers=("torchcodec_cuda",))
    message = "Invalid data found when processing input"
    with pytest.raises(VideoReadError, match="Invalid data"):
        read_frames(folder / "plain.mp4", [0], reader="torchcodec_cuda")
    assert measuring.measure(folder / "plain.mp4", readers=("torchcodec_cuda",)).readers == ("pyav",)


@pytest.mark.gpu
def test_frames_decoded_on_a_gpu_are_those_that_counting_gives(tmp_path):
    pytest.importorskip("torchcodec")
    path = videos.numbered_video(tmp_path / "a.mp4", 60, b_frames=2, keyframe_every=12)
    assert measure(path, readers=("torchcodec_cuda",)).readers == ("pyav", "torchcodec_cuda")
    asked = [40, 3, 3, 59, 0, 17]
    frames = read_frames(path, asked, reader="torchcodec_cuda")
    assert [videos.number_of(frame) for frame in frames] == asked
    close = np.abs(frames.astype(int) - read_frames(path, asked)).mean()
    assert close < 4  # grey levels: NVDEC is exact, its conversion to RGB rounds otherwise
    clips = (Clip("a", "a.mp4", 0, frames=60, readers=("pyav", "torchcodec_cuda")),)
    present = Present(clips, ("torchcodec_cuda",), 1)
    shape = ClipShape(frames=9, stride=2, crop=64, jitter=(80, 120), test_side=64, test_crop=64)
    data = TestClips(Manifest(tmp_path / "a.csv", tmp_path, ("a",), clips), present, shape)
    torch.zeros(1, device="cuda")  # a forked process could not use it any more
    loader = torch.utils.data.DataLoader(data, collate_fn=list, **loader_processes(data, 1))
    [[(_, views, _)]] = list(loader)
    assert torch.equal(views, data[0][1])


def test_no_descriptor_is_left_open(folder):
    """A hundred reads by every reader, good and bad files, leave no file open."""

    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    for reader in INSTALLED:
        read_frames(folder / "plain.mp4", [3], reader=reader)
    before = count()
    for i in range(100):
        read_frames(folder / "plain.mp4", [i % FRAMES], reader=INSTALLED[i % len(INSTALLED)])
        with pytest.raises(VideoReadError):
            read_frames(folder / "plain.mp4", [FRAMES + 5], reader=INSTALLED[i % len(INSTALLED)])
    assert count() <= before
