"""Packed B-frames, as DivX wrote them and HMDB-51 has them, taken apart without a change to any picture."""

import json
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import videos

from vmp.data.decode import read_frames
from vmp.prepare.journal import KEPT, CutClip
from vmp.prepare.measure import UNTRIED, installed_seeking_readers, measure
from vmp.prepare.remux import remux, remux_all

FRAMES = 60
EVERYONE = {*installed_seeking_readers(), "pyav"}


def showing(path: Path, **options) -> list[int]:
    """The numbers that all frames show."""
    return [videos.number_of(frame) for frame in read_frames(path, range(FRAMES), **options)]


def remuxed(folder: Path, *sources: Path) -> dict[str, tuple[CutClip, object]]:
    tasks = [CutClip(source=source, target=folder / f"{source.stem}.mp4") for source in sources]
    return {task.source.name: (task, found) for task, found in remux_all(tasks, workers=1, progress=False)}


def test_the_fixture_has_what_breaks_readers(tmp_path):
    """Packets of two pictures, empty packets, and times out of order."""
    path = videos.packed_avi(tmp_path / "a.avi")
    with av.open(str(path)) as container:
        pictures = [bytes(packet).count(b"\0\0\1\xb6") for packet in container.demux(video=0)]
    with av.open(str(path)) as container:
        times = [frame.pts for frame in container.decode(video=0)]
    assert pictures.count(2) == FRAMES // 2 - 1
    assert times != sorted(times)
    assert showing(path) == list(range(FRAMES))  # counting is right


@pytest.mark.slow
@pytest.mark.parametrize(
    "keyframe_every", [1000, 12]
)  # with 12, pictures before a keyframe need those behind it
def test_packed_pictures_are_taken_apart_without_loss(tmp_path, keyframe_every):
    source = videos.packed_avi(tmp_path / "a.avi", keyframe_every=keyframe_every)
    task, found = remuxed(tmp_path / "out", source)["a.avi"]
    assert (found.status, found.reason, found.frames, found.fps) == ("ok", "", FRAMES, 25)
    assert set(found.readers) == EVERYONE
    assert task.file(found) == task.target
    for reader in EVERYONE:
        assert showing(task.target, reader=reader) == list(range(FRAMES))
        backwards = read_frames(task.target, [41, 3, 59, 25, 24], reader=reader)
        assert [videos.number_of(frame) for frame in backwards] == [41, 3, 59, 25, 24]
    assert (read_frames(source, range(FRAMES)) == read_frames(task.target, range(FRAMES))).all()
    with av.open(str(task.target)) as container:
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    assert times == [Fraction(i, 25) for i in range(FRAMES)]


def test_a_display_matrix_is_copied(tmp_path):
    """Packets are copied, so the new file has to say how its pictures are turned and mirrored, too."""
    plain = videos.numbered_video(tmp_path / "plain.mp4", 12, codec="mpeg4", crf=3, b_frames=2)
    for name in ("clockwise", "left-right", "top-bottom", "antidiagonal"):
        source = videos.oriented(plain, tmp_path / f"{name}.mp4", videos.ORIENTATIONS[name])
        assert remux(source, tmp_path / "out.mp4") == ""
        np.testing.assert_array_equal(read_frames(tmp_path / "out.mp4", [5]), read_frames(source, [5]))


@pytest.mark.slow
def test_originals_stay_where_remuxing_is_needless_or_impossible(tmp_path):
    sources = [
        videos.numbered_video(tmp_path / "plain.avi", FRAMES, codec="mpeg4", crf=3),
        videos.numbered_video(tmp_path / "h264.avi", FRAMES, b_frames=2, keyframe_every=12),
        videos.numbered_video(tmp_path / "good.mp4", FRAMES),
    ]
    found = remuxed(tmp_path / "out", *sources)
    message = {name: measured.reason.removeprefix(KEPT) for name, (_, measured) in found.items()}
    exact = "every reader is exact for it"
    assert message == {"plain.avi": exact, "h264.avi": "h264, not MPEG-4", "good.mp4": exact}
    for source in sources:
        task, measured = found[source.name]
        assert measured.readers == measure(source).readers
        assert task.file(measured).read_bytes() == source.read_bytes()
        assert task.file(measured).name == source.name
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert [name for name in names if not name.startswith(".cuts")] == sorted(s.name for s in sources)


@pytest.mark.slow
def test_a_reader_that_crashes_does_not_cost_the_original(tmp_path, monkeypatch):
    """A child is killed as by a fault in C when it tries readers on one of two files."""
    dies, fine = (videos.packed_avi(tmp_path / f"{name}.avi") for name in ("dies", "fine"))
    (tmp_path / "sitecustomize.py").write_text(
        "import vmp.prepare.remux as r, os\n"
        "real = r.exact_readers\n"
        "def tried(path, *more):\n"
        "    if path.name == 'dies.avi': os.kill(os.getpid(), 11)\n"
        "    return real(path, *more)\n"
        "r.exact_readers = tried\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    for _ in range(2):  # made, and then known
        found = remuxed(tmp_path / "out", dies, fine)
        assert found["fine.avi"][1].reason == ""
        task, kept = found["dies.avi"]
        assert (kept.status, kept.frames, kept.readers) == ("ok", FRAMES, ("pyav",))
        assert kept.reason == f"{KEPT}{UNTRIED} the decoder crashed"
        assert task.file(kept).samefile(dies)
        assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == ["dies.avi", "fine.mp4"]
        (tmp_path / "sitecustomize.py").unlink(missing_ok=True)


def test_damaged_sources_are_not_remuxed(tmp_path):
    whole = videos.packed_avi(tmp_path / "whole.avi")
    videos.truncated(whole, tmp_path / "short.avi")
    (tmp_path / "text.avi").write_text("no video")
    names = ("short.avi", "text.avi", "absent.avi")
    found = remuxed(tmp_path / "out", *(tmp_path / name for name in names))
    assert [found[name][1].status for name in names] == ["partial", "unreadable", "missing"]
    assert not [p for p in (tmp_path / "out").iterdir() if p.suffix in (".avi", ".mp4")]


@pytest.mark.slow
def test_finished_files_are_not_made_again(tmp_path):
    """Unless the source has changed or the clip is missing; and the clip under the other suffix is removed."""
    packed = videos.packed_avi(tmp_path / "packed.avi")
    plain = videos.numbered_video(tmp_path / "plain.avi", FRAMES, codec="mpeg4", crf=3)
    out = tmp_path / "out"

    def stamps() -> dict[str, int]:
        return {p.name: p.stat().st_mtime_ns for p in out.iterdir() if p.suffix in (".avi", ".mp4")}

    first = remuxed(out, packed, plain)
    made = stamps()
    assert sorted(made) == ["packed.mp4", "plain.avi"]
    assert remuxed(out, packed, plain) == first
    assert stamps() == made
    (out / "plain.avi").unlink()
    (out / ".0.1.cutting.mp4").touch()  # left by a kill
    assert remuxed(out, packed, plain) == first
    assert sorted(stamps()) == sorted(made)
    assert stamps()["packed.mp4"] == made["packed.mp4"]
    assert not list(out.glob("*.cutting.*"))

    os.replace(plain, packed)  # another source under the name
    assert remuxed(out, packed)["packed.avi"][1].reason.startswith(KEPT)
    assert sorted(stamps()) == ["packed.avi", "plain.avi"]
    assert len((out / ".cuts.jsonl").read_text().splitlines()) == 4
    assert all(json.loads(line)["target"] for line in (out / ".cuts.jsonl").read_text().splitlines())
