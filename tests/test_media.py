"""Bad and odd media files: each is measured as what it is, and a run over all of them counts exactly the bad ones."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import videos
from faults import list_overrides, no_traceback
from fuzz_videos import FRAMES, picture, sources
from runs import Running

from vmp.data.decode import read_frames
from vmp.data.encode import write_video
from vmp.errors import UserError, VideoReadError
from vmp.prepare.dataset import prepare
from vmp.prepare.measure import measure_all
from vmp.prepare.plan import DatasetPlan, Item


def encoded(path: Path, *, codec: str, format: str, size: tuple[int, int], frames: int = FRAMES) -> Path:
    """As write_video, of any pixel format and any size."""
    shown = (np.resize(picture(i % FRAMES), (size[1], size[0], 3)) for i in range(frames))
    options = {} if codec == "ffv1" else {"g": "12"}
    return videos.encoded(path, map(np.ascontiguousarray, shown), codec=codec, format=format, **options)


def sizes_change(path: Path) -> Path:
    parts = b""
    for i, size in enumerate(((64, 96), (32, 48))):
        part = path.with_name(f"part{i}.h264")
        write_video(part, (picture(k)[: size[0], : size[1]] for k in range(20)))
        parts += part.read_bytes()
        part.unlink()
    path.write_bytes(parts)
    return path


def with_garbage(source: Path, path: Path) -> Path:
    data = bytearray(source.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = np.random.default_rng(0).bytes(4000)
    path.write_bytes(data)
    return path


def promises_more(source: Path, path: Path) -> Path:
    """An AVI whose headers promise 60 frames more than there are."""
    data = bytearray(source.read_bytes())
    for at in (data.index(b"avih") + 24, data.index(b"strh") + 40):
        assert int.from_bytes(data[at : at + 4], "little") == FRAMES
        data[at : at + 4] = (FRAMES + 60).to_bytes(4, "little")
    path.write_bytes(data)
    return path


def picture_file(path: Path, suffix: str) -> Path:
    import cv2

    path.write_bytes(cv2.imencode(suffix, picture(0))[1].tobytes())
    return path


def make_media(home: Path) -> dict[str, tuple[Path, str, int, tuple[int, int]]]:
    """kind -> (file, expected status, frames, (width, height)); frames -1: some."""
    (home / "good").mkdir()
    good = sources(home / "good")
    plain, avi = good["h264.mp4"], good["mpeg4.avi"]
    full = (96, 64)
    files: dict[str, tuple[Path, str, int, tuple[int, int]]] = {}

    def add(kind: str, path: Path, status: str = "unreadable", frames: int = 0, size=(0, 0)) -> None:
        files[kind] = path, status, frames, size

    def written(name: str, content: bytes) -> Path:
        (home / name).write_bytes(content)
        return home / name

    add("missing", home / "missing.mp4", "missing")
    (home / "directory.mp4").mkdir()
    add("directory", home / "directory.mp4")
    add("zero bytes", written("zero.mp4", b""))
    add("random bytes", written("random.mp4", np.random.default_rng(0).bytes(9000)))
    add("HTML page", written("page.mp4", b"<!DOCTYPE html><html><body>404 Not Found</body></html>"))
    add("renamed JPEG", picture_file(home / "jpeg.mp4", ".jpg"))
    add("renamed PNG", picture_file(home / "png.avi", ".png"))
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1.6,\ngood/h264.mp4\n#EXT-X-ENDLIST\n"
    add("playlist of other files", written("playlist.mp4", playlist))
    add("list of other files", written("concat.mp4", b"ffconcat version 1.0\nfile good/h264.mp4\n"))
    add("truncated, index last", videos.truncated(plain, home / "no_index.mp4"))
    add(
        *("truncated, index first", videos.truncated(good["index_first.mp4"], home / "index_first.mp4")),
        *("partial", -1, full),
    )
    add("truncated mkv", videos.truncated(good["b_frames.mkv"], home / "short.mkv"), "partial", -1, full)
    add("garbage in the middle", with_garbage(avi, home / "garbage.avi"), "partial", -1, full)
    add("sound only", videos.audio_only(home / "sound.mp4"))
    add("header promises more", promises_more(avi, home / "promises.avi"), "partial", FRAMES, full)
    add("size changes", sizes_change(home / "sizes.h264"), "partial", 20, full)
    os.mkfifo(home / "pipe.mp4")
    add("named pipe", home / "pipe.mp4")
    os.symlink("loop.mp4", home / "loop.mp4")
    add("link to itself", home / "loop.mp4")
    os.symlink("/dev/zero", home / "device.mp4")
    add("device", home / "device.mp4")
    for number in (1, 2):
        path = home / f"{number}.mp4"
        write_video(path, (picture(i) for i in range(number)))
        add(f"{number} frame(s)", path, "ok", number, full)
    add("whole", plain, "ok", FRAMES, full)
    for kind, codec, format, size in (
        ("odd size", "ffv1", "bgr0", (33, 47)),
        ("16 x 16", "libx264", "yuv420p", (16, 16)),
        ("2 x 10", "mpeg4", "yuv420p", (2, 10)),
        ("10 bit", "libx264", "yuv420p10le", full),
        ("4:4:4", "libx264", "yuv444p", full),
        ("grey", "libx264", "gray", full),
        ("alpha", "libvpx-vp9", "yuva420p", full),
    ):
        path = encoded(
            home / f"{kind.replace(' ', '_').replace(':', '')}.mkv", codec=codec, format=format, size=size
        )
        add(kind, path, "ok", FRAMES, size)
    add("turned", videos.rotated(plain, home / "turned.mp4"), "ok", FRAMES, (64, 96))
    return files


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """kind -> (file, expected status, frames, size, what measuring in a child process found)."""
    files = make_media(tmp_path_factory.mktemp("media"))
    found = dict(measure_all([entry[0] for entry in files.values()], workers=2, timeout=60))
    return {kind: (*entry, found[entry[0]]) for kind, entry in files.items()}


KINDS = (
    *("missing", "directory", "zero bytes", "random bytes", "HTML page", "renamed JPEG", "renamed PNG"),
    *("playlist of other files", "list of other files", "truncated, index last", "truncated, index first"),
    *("truncated mkv", "garbage in the middle", "sound only", "header promises more", "size changes"),
    *("named pipe", "link to itself", "device", "1 frame(s)", "2 frame(s)", "whole", "odd size", "16 x 16"),
    *("2 x 10", "10 bit", "4:4:4", "grey", "alpha", "turned"),
)


@pytest.mark.slow
def test_every_kind_of_media_is_tried(media):
    assert set(media) == set(KINDS)


@pytest.mark.chaos
@pytest.mark.parametrize("kind", KINDS)
def test_media(media, kind, tally):
    """Measured as what it is; every reader listed as exact gives the frames, every other an error, not a hang."""
    fault = tally("kinds of bad or odd media")
    fault.tries()
    path, status, frames, size, found = media[kind]
    assert (found.status, found.width, found.height) == (status, *size), found
    assert found.frames == frames or (frames == -1 and 0 < found.frames < FRAMES)
    if status == "ok":
        known = read_frames(path, range(frames))
        assert found.readers[-1] == "pyav"
        for reader in found.readers:
            got = read_frames(path, range(frames), reader=reader)
            assert np.abs(got.astype(int) - known).mean() < 2, reader
    else:
        assert found.reason
        assert found.readers == ()
        for reader in ("pyav", "pyav_seek", "opencv"):
            with pytest.raises(VideoReadError, match=path.name):
                read_frames(path, [0, FRAMES + 5], reader=reader)
    fault.survives()


NAMES = (
    *("ünï cöde.mp4", "two  spaces.mp4", "it's.mp4", 'a "quote".mp4', "semi;colon.mp4", "comma, here.mp4"),
    *(
        "[HD] #1 %03d & $HOME `x`.mp4",
        "-dash.mp4",
        "文字 🎬.mp4",
        "n" * 251 + ".mp4",
        "=1+1.mp4",
        "back\\slash.mp4",
    ),
)


@pytest.mark.slow
def test_a_run_over_all_kinds_of_bad_files(media, tmp_path):
    """Good videos under strange names among bad ones: the run is refused, or counts every bad one and no good one."""
    home = next(iter(media.values()))[0].parent
    videos_home = tmp_path / "v"
    videos_home.mkdir()
    lines = ["path,label"]
    for i, name in enumerate(NAMES):
        write_video(videos_home / name, (picture(k + i) for k in range(12)))
        quoted = name.replace('"', '""')
        lines.append(f'"{quoted}",{i % 2}')
    bad = []
    for kind, (path, status, *_) in media.items():
        if status != "ok" and kind not in ("missing", "device"):
            (videos_home / path.name).symlink_to(path) if path.is_dir() else shutil.move(path, videos_home)
            bad.append(path.name)
    bad += ["missing.mp4"]
    (videos_home / "directory.mp4").unlink()
    (videos_home / "directory.mp4").mkdir()
    rows = [*lines, *(f"{name},{i % 2}" for i, name in enumerate(bad))]
    (videos_home / "train.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for i in range(2):
        write_video(videos_home / f"val{i}.mp4", (picture(k) for k in range(12)))
    (videos_home / "val.csv").write_text("path,label\nval0.mp4,0\nval1.mp4,1\n")
    overrides = list_overrides(videos_home, tmp_path)
    message = no_traceback(Running(overrides).wait())
    assert f"{len(bad)} of {len(bad) + len(NAMES)} clips cannot be used" in message
    Running([*overrides, "data.max_bad_fraction=0.9"]).succeed()
    (result,) = (tmp_path / "out").rglob("result.json")
    counts = json.loads(result.read_text())["clips"]["train"]
    assert counts == {
        **{"expected": len(bad) + len(NAMES), "present": len(NAMES)},
        **{"missing": 1, "unreadable": len(bad) - 1},
    }
    assert home.is_dir()


@pytest.mark.parametrize("name", ["line\nbreak", "car\rriage", "escape\x1b", "nul\\0", b"not utf-8 \xff"])
def test_names_with_control_characters_are_refused(tmp_path, name):
    """Whether found under --videos or named by the annotations."""
    part = os.fsdecode(name) if isinstance(name, bytes) else name.replace("\\0", "\0")
    if "\0" not in part:
        (tmp_path / "v" / part).mkdir(parents=True)
        write_video(tmp_path / "v" / part / "a.mp4", (picture(i) for i in range(5)))
    (tmp_path / "v").mkdir(exist_ok=True)
    item = Item(id="x", path=f"{part}/a.mp4", label=0)
    plan = DatasetPlan(name="some", classes=("a", "b"), splits={"train": (item,)}, videos=tmp_path / "v")
    with pytest.raises(UserError, match=r"control character|not UTF-8"):
        prepare(plan, tmp_path / "out", progress=False, workers=1)
    assert not list(tmp_path.glob("out/*.csv"))
