"""What clips hold that are cut from sources which number their frames."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import videos
from cutting import FRAMES, cut_to, leftovers, numbers

from vmp.data.decode import read_frames
from vmp.data.encode import write_video
from vmp.errors import DataError, VideoReadError
from vmp.prepare.cut import cut_all
from vmp.prepare.estimate import estimate_cutting
from vmp.prepare.journal import CutClip
from vmp.prepare.measure import count, measure
from vmp.prepare.source import packet_times, probe

SPANS = [(0, 20), (10, 33), (10, 11), (33, 34), (33, 90), (89, 90), (70, None), (0, None)]


@pytest.mark.slow
def test_clips_hold_exactly_their_frames(sources, tmp_path):
    """Overlapping, nested, single, first, last and open spans; by every reader that was found exact."""
    spans = dict.fromkeys(("plain.mp4", "mpeg4.avi", "variable.mp4"), SPANS[1:6:2]) | {"h264.avi": SPANS}
    cuts = [
        CutClip(source=sources / name, start=start, end=end, target=tmp_path / name / f"{start}-{end}.mp4")
        for name, part in spans.items()
        for start, end in part
    ]
    found = dict(cut_all(cuts, short_side=None, workers=2, progress=False))
    assert set(found) == set(cuts)
    for cut, m in found.items():
        wanted = list(range(cut.start, FRAMES if cut.end is None else cut.end))
        assert numbers(cut.target) == wanted
        assert (m.status, m.reason, m.frames, m.width, m.height) == ("ok", "", len(wanted), 320, 240)
        assert set(m.readers) == {"opencv", "decord", "pyav", "pyav_seek"}
        for reader in m.readers:
            got = read_frames(cut.target, [len(wanted) - 1, 0], reader=reader)
            assert [videos.number_of(f) for f in got] == [wanted[-1], wanted[0]]


def test_what_is_written(sources, tmp_path):
    """H.264 in 4:2:0 without B-frames, a keyframe every 16, no sound, the source's rate as a fraction."""
    found = cut_to(tmp_path, sources / "mpeg4.avi", [(20, 70)], short_side=120)
    assert found["20-70"].fps == pytest.approx(29.4)
    with av.open(str(tmp_path / "20-70.mp4")) as container:
        assert len(container.streams) == 1
        stream = container.streams.video[0]
        assert stream.average_rate == Fraction(147, 5)
        assert stream.codec_context.name == "h264"
        assert (stream.codec_context.width, stream.codec_context.height) == (160, 120)
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.start_time == 0
        frames = list(container.decode(stream))
        assert [i for i, f in enumerate(frames) if f.key_frame] == [0, 16, 32, 48]
        assert {av.video.frame.PictureType(f.pict_type).name for f in frames} == {"I", "P"}
        assert [f.pts * stream.time_base for f in frames] == [i / Fraction(147, 5) for i in range(50)]
    assert probe(tmp_path / "20-70.mp4").fps == Fraction(147, 5)


def test_pictures_are_the_sources_scaled(tmp_path):
    """Against area averaging by another library; an off-by-one or a shift in colour would show."""
    import cv2

    rng = np.random.default_rng(0)
    grey = cv2.resize(
        rng.integers(0, 255, (40, 60), dtype=np.uint8), (900, 600), interpolation=cv2.INTER_CUBIC
    )
    texture = np.stack([grey] * 3, axis=-1)  # colours lose detail in 4:2:0 as it is
    write_video(tmp_path / "s.mp4", (texture[:480, 5 * i : 640 + 5 * i] for i in range(30)), crf=5)
    cut_to(tmp_path, tmp_path / "s.mp4", [(4, 28)], short_side=160)
    got = read_frames(tmp_path / "4-28.mp4", range(24)).astype(int)
    for i in (0, 11, 23):
        source = read_frames(tmp_path / "s.mp4", range(3 + i, 6 + i))
        wanted = [cv2.resize(f, (212, 160), interpolation=cv2.INTER_AREA).astype(int) for f in source]
        before, own, after = (np.abs(got[i] - w).mean() for w in wanted)
        assert own < 4
        assert min(before, after) > 2 * own
        assert np.abs((got[i] - wanted[1]).mean(axis=(0, 1))).max() < 1


def test_sizes(tmp_path):
    """Never up, always even, long side rounded down."""
    by_short_side = {
        None: {(67, 33): (66, 32), (33, 67): (32, 66)},
        32: {(174, 132): (42, 32), (132, 174): (32, 42), (40, 30): (40, 30)},
    }
    for short_side, sizes in by_short_side.items():
        cuts = {}
        for width, height in sizes:
            source = tmp_path / f"{width}x{height}.mkv"
            pictures = (np.full((height, width, 3), (40 * i + 40, 90, 200), np.uint8) for i in range(3))
            videos.encoded(source, pictures, codec="ffv1", format="bgr0")  # it takes any size
            cuts[CutClip(source=source, start=1, end=3, target=source.with_suffix(".mp4"))] = sizes[
                width, height
            ]
        for cut, m in cut_all(list(cuts), short_side=short_side, workers=1, progress=False):
            assert (m.status, m.width, m.height) == ("ok", *cuts[cut])
            colour = read_frames(cut.target, [1])[0].mean(axis=(0, 1))
            np.testing.assert_allclose(colour, (120, 90, 200), atol=4)


@pytest.mark.slow
def test_turns_and_mirrors_are_in_the_pixels(sources, tmp_path):
    """All eight orientations of a display matrix."""
    cuts = {}
    for name, matrix in videos.ORIENTATIONS.items():
        source = videos.oriented(sources / "plain.mp4", tmp_path / f"{name}.mp4", matrix)
        cuts[CutClip(source=source, start=5, end=9, target=tmp_path / "cut" / f"{name}.mp4")] = matrix
    raw = read_frames(sources / "plain.mp4", range(5, 9))
    for cut, m in cut_all(list(cuts), short_side=None, workers=1, progress=False):
        wanted = np.stack([videos.as_shown(picture, cuts[cut]) for picture in raw])
        assert (m.status, m.height, m.width) == ("ok", *wanted.shape[1:3])
        assert (probe(cut.source).width, probe(cut.source).height) == (m.width, m.height)
        with av.open(str(cut.target)) as container:
            frames = list(container.decode(video=0))
        assert {len([d for d in f.side_data if d.type.name == "DISPLAYMATRIX"]) for f in frames} == {0}
        got = np.stack([f.to_ndarray(format="rgb24") for f in frames])
        assert np.abs(got.astype(int) - wanted).mean() < 2


@pytest.mark.slow
def test_full_range_and_other_formats_keep_their_colours(tmp_path):
    cuts = []
    for form in ("yuvj420p", "yuv444p"):
        source = videos.numbered_video(tmp_path / f"{form}.mp4", 6, pixel_format=form)
        cuts.append(CutClip(source=source, start=1, end=5, target=tmp_path / "cut" / f"{form}.mp4"))
    for cut, m in cut_all(cuts, workers=1, progress=False):
        assert m.status == "ok"
        a, b = read_frames(cut.source, range(1, 5)).astype(int), read_frames(cut.target, range(4))
        assert np.abs((a - b).mean(axis=(0, 1, 2))).max() < 2
        assert b.std() / a.std() == pytest.approx(1, abs=0.03)  # a wrong range would make it 0.86 or 1.16


@pytest.mark.slow
def test_names_of_all_kinds(sources, tmp_path, monkeypatch):
    """Relative paths, and names that look like options, patterns or addresses, or are as long as names may be."""
    monkeypatch.chdir(tmp_path)
    names = (
        "-dash %03d.mp4",
        "ünï 文字 'q' #1 [HD];.mp4",
        "a:b.mp4",
        f"{'x' * 250}1.mp4"[-255:],
        f"{'文' * 80}.mp4",
    )
    cuts = []
    for i, name in enumerate(names):
        Path(name).write_bytes((sources / "plain.mp4").read_bytes())
        cuts.append(CutClip(source=Path(name), start=i, end=i + 3, target=Path("cut", name)))
    for cut, m in cut_all(cuts, workers=1, progress=False):
        assert (m.status, m.frames) == ("ok", 3), m.reason
        assert numbers(cut.target.absolute()) == list(range(cut.start, cut.start + 3))
    assert sorted(p.name for p in Path("cut").glob("*.mp4")) == sorted(names)


def test_past_the_end_is_partial(sources, tmp_path):
    found = cut_to(tmp_path, sources / "plain.mp4", [(80, 95), (90, 95), (85, 90), (200, None)])
    assert found["85-90"].status == "ok"
    assert (found["80-95"].status, found["80-95"].frames) == ("partial", 10)
    assert "90 frames" in found["80-95"].reason
    assert "from 80 to 95" in found["80-95"].reason
    assert numbers(tmp_path / "80-95.mp4") == list(range(80, 90))
    for name in ("90-95", "200-None"):
        assert (found[name].status, found[name].frames) == ("partial", 0)
        assert not (tmp_path / f"{name}.mp4").exists()
    again = cut_to(tmp_path, sources / "plain.mp4", [(80, 95), (90, 95), (85, 90), (200, None)])
    assert again == found


@pytest.mark.slow
def test_a_source_that_breaks_midway(sources, tmp_path):
    """Clips before the break are whole; those across and after it are not, and no other frames take their place."""
    source = videos.truncated(sources / "mpeg4.avi", tmp_path / "short.avi")
    there = measure(source).frames
    assert 10 < there < FRAMES - 10
    spans = [(0, 10), (there - 5, there), (5, FRAMES), (there + 2, FRAMES), (3, None)]
    found = cut_to(tmp_path, source, spans)
    assert [found[f"{a}-{b}"].status for a, b in spans] == ["ok", "ok", "partial", "partial", "partial"]
    assert [found[f"{a}-{b}"].frames for a, b in spans] == [10, 5, there - 5, 0, there - 3]
    assert found[f"5-{FRAMES}"].reason
    assert leftovers(tmp_path) == []


def test_a_damaged_frame_ends_a_source(sources, tmp_path):
    data = bytearray((sources / "plain.mp4").read_bytes())
    with av.open(str(sources / "plain.mp4")) as container:
        packet = [p for p in container.demux(video=0) if p.size][40]
    data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    (tmp_path / "broken.mp4").write_bytes(data)
    found = cut_to(tmp_path, tmp_path / "broken.mp4", [(0, 30), (35, 50), (60, 70)])
    assert [m.status for m in found.values()].count("ok") == 1
    assert found["0-30"].status == "ok"
    assert found["35-50"].frames <= 5
    assert found["60-70"].frames == 0


@pytest.mark.slow
def test_sources_that_are_no_videos(sources, tmp_path):
    (tmp_path / "text.mp4").write_text("this is not a video\n" * 50)
    os.mkfifo(tmp_path / "pipe.mp4")
    videos.audio_only(tmp_path / "audio.mp4")
    names = {
        "absent.mp4": "missing",
        "text.mp4": "unreadable",
        "pipe.mp4": "unreadable",
        "audio.mp4": "unreadable",
    }
    cuts = [
        CutClip(source=tmp_path / name, start=s, end=9, target=tmp_path / "cut" / f"{name}{s}.mp4")
        for name in names
        for s in (0, 4)
    ]
    cuts.append(CutClip(source=sources / "plain.mp4", start=0, end=9, target=tmp_path / "cut" / "good.mp4"))
    found = dict(cut_all(cuts, workers=1, progress=False))
    assert [found[cut].status for cut in cuts] == [s for s in names.values() for _ in "12"] + ["ok"]
    assert all(m.reason for m in found.values() if m.status != "ok")
    for name in names:
        with pytest.raises(VideoReadError, match=name):
            probe(tmp_path / name)
    e = estimate_cutting(cuts, short_side=120)
    assert (e.clips, e.sources, e.frames) == (1, 1, 9)
    assert e.bytes > 0
    assert e.seconds > 0


@pytest.mark.slow
def test_the_estimate_of_disk_space(sources, tmp_path):
    """Within a factor of three, for pictures that code well and for noise, which takes a hundred times as much."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 120, 160, 3), dtype=np.uint8)
    write_video(tmp_path / "noise.mp4", noise)
    for source, short_side in ((sources / "plain.mp4", 120), (tmp_path / "noise.mp4", None)):
        cuts = [
            CutClip(source=source, start=s, end=s + 20, target=tmp_path / f"cut{short_side}" / f"{s}.mp4")
            for s in (0, 10, 20)
        ]
        estimated = estimate_cutting(cuts, short_side=short_side, workers=2)
        done = list(cut_all(cuts, short_side=short_side, workers=2, progress=False))
        written = sum(cut.target.stat().st_size for cut, _ in done)
        assert written / 3 < estimated.bytes < 3 * written
        assert (estimated.clips, estimated.sources, estimated.frames) == (3, 1, 60)


def test_arguments_are_checked_first(sources, tmp_path):
    good = {"source": sources / "plain.mp4", "start": 0, "end": 5, "target": tmp_path / "new" / "a.mp4"}
    for wrong in ({"start": -1}, {"end": 0}, {"target": tmp_path / "a.avi"}, {"source": good["target"]}):
        with pytest.raises(ValueError, match=r"must|target"):
            cut_all([CutClip(**good | wrong)])
    with pytest.raises(ValueError, match="two clips"):
        cut_all([CutClip(**good), CutClip(**good | {"end": 7})])
    with pytest.raises(ValueError, match="even"):
        cut_all([CutClip(**good)], short_side=321)
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be written"):
        list(cut_all([CutClip(**good | {"target": tmp_path / "file" / "a.mp4"})], progress=False))


def joined_superframes(source: Path, target: Path, first: int) -> Path:
    """A VP9 file of which the frames first and first + 1 share a packet (a superframe), as encoders may write it: one
    frame more is decoded than there are packets, and the packets' times are uneven."""
    with av.open(str(source)) as inside, av.open(str(target), "w") as out:
        stream = inside.streams.video[0]
        copy = out.add_stream_from_template(stream)
        packets = [packet for packet in inside.demux(stream) if packet.size]
        one, two = packets[first : first + 2]
        sizes = b"".join(len(bytes(packet)).to_bytes(4, "little") for packet in (one, two))
        marker = bytes([0b110_11_001])  # sizes of four bytes, two frames
        both = av.Packet(bytes(one) + bytes(two) + marker + sizes + marker)
        both.pts, both.dts, both.time_base, both.is_keyframe = (
            one.pts,
            one.dts,
            one.time_base,
            one.is_keyframe,
        )
        for packet in (*packets[:first], both, *packets[first + 2 :]):
            packet.stream = copy
            out.mux(packet)
    return target


def test_a_source_that_decodes_to_more_frames_than_packets(tmp_path):
    """The times of the packets do not reach its last frame, so clips go by the times of the decoded frames."""
    frames = (videos.numbered_frame(i, 48, 288) for i in range(40))
    write_video(tmp_path / "plain.webm", frames, codec="libvpx-vp9", crf=20)
    source = joined_superframes(tmp_path / "plain.webm", tmp_path / "joined.webm", 10)
    counted = count(source).found
    assert (counted.status, counted.frames, packet_times(source).frames) == ("ok", 40, 39)
    assert not packet_times(source).even
    found = cut_to(tmp_path, source, [(0, 8), (20, None), (30, 40)])
    for name, wanted in (("0-8", range(8)), ("20-None", range(20, 40)), ("30-40", range(30, 40))):
        assert (found[name].status, found[name].frames) == ("ok", len(wanted)), found[name]
        assert numbers(tmp_path / f"{name}.mp4") == list(wanted)
