"""Files that make readers lie: each reader returns the counted frames, or was measured not to and is refused."""

from collections.abc import Iterator
from fractions import Fraction
from functools import cache

import av
import numpy as np
import pytest
import videos
from hypothesis import given, settings
from hypothesis import strategies as st

from vmp.data import groups
from vmp.data.columns import Clip
from vmp.data.decode import read_frames
from vmp.data.encode import write_video
from vmp.data.manifest import Manifest
from vmp.data.present import find_clips
from vmp.data.stream import null_frames
from vmp.errors import DataError, VideoReadError
from vmp.prepare import measure as measuring
from vmp.prepare.measure import installed_seeking_readers

FRAMES = 72
measure = cache(measuring.measure)  # the files stay as they are, and several tests ask


def numbered() -> Iterator[np.ndarray]:
    return map(videos.numbered_frame, range(FRAMES))


def open_groups(path):
    """Open groups of pictures: B-frames before a keyframe need the group before it."""
    x264 = {"x264-params": "open-gop=1:scenecut=0:b-adapt=0"}
    return videos.encoded(path, numbered(), g="12", bf="3", threads="1", **x264)


def rolling_refresh(path):
    """No keyframe after the first: a column of each frame is coded anew, and so marked as if it were one."""
    x264 = {"x264-params": "intra-refresh=1:scenecut=0"}
    return videos.encoded(path, numbered(), g="30", bf="0", threads="1", **x264)


def avi_count(source, target, change):
    """An AVI whose headers promise `change` more frames than there are."""
    data = bytearray(source.read_bytes())
    main = data.index(b"avih") + 8 + 16  # dwTotalFrames
    stream = data.index(b"strh") + 8 + 32  # dwLength
    for at in (main, stream):
        assert int.from_bytes(data[at : at + 4], "little") == FRAMES
        data[at : at + 4] = (FRAMES + change).to_bytes(4, "little")
    target.write_bytes(data)
    return target


def two_streams(path):
    """A smaller video stream after the first one."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=25, options={"bf": "0"}) for _ in "12"]
        for stream, (width, height) in zip(streams, ((320, 240), (160, 120)), strict=True):
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(FRAMES):
            for stream, number in zip(streams, (i, FRAMES - i), strict=True):
                picture = videos.numbered_frame(number, stream.height, stream.width)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """name -> (path, the numbers its frames say)."""
    home = tmp_path_factory.mktemp("readers")
    whole = list(range(FRAMES))
    plain = videos.numbered_video(home / "plain.mp4", FRAMES)
    b_frames = videos.numbered_video(home / "b.mp4", FRAMES, b_frames=3, keyframe_every=24)
    mpeg4 = videos.numbered_video(home / "mpeg4.avi", FRAMES, codec="mpeg4", crf=3)
    found = {
        "closed groups of 16": (plain, whole),
        "B-frames": (b_frames, whole),
        "one group": (videos.numbered_video(home / "long.mp4", FRAMES, keyframe_every=1000), whole),
        "MPEG-4, AVI": (mpeg4, whole),
        "MPEG-4, B-frames": (
            videos.numbered_video(home / "mb.mp4", FRAMES, codec="mpeg4", crf=3, b_frames=2),
            whole,
        ),
        "H.264 with B-frames, AVI": (
            videos.numbered_video(home / "h264.avi", FRAMES, b_frames=2, keyframe_every=12),
            whole,
        ),
        "rolling refresh": (rolling_refresh(home / "rolling.mp4"), whole),
        "one frame": (videos.numbered_video(home / "one.mp4", 1), [0]),
        "open groups": (open_groups(home / "open.mp4"), whole),
        "open groups, mkv": (videos.stream_copy(home / "open.mp4", home / "open.mkv"), whole),
        "variable rate": (videos.variable_rate_video(home / "variable.mp4", FRAMES), whole),
        "variable rate, mkv": (videos.stream_copy(home / "variable.mp4", home / "variable.mkv"), whole),
        "late start": (videos.copied(b_frames, home / "late.mp4", later=lambda i: 2), whole),
        "a gap": (videos.copied(plain, home / "gap.mp4", later=lambda i: 3 * (i >= 32)), whole),
        # as a live stream writes it: no duration, no index, no number of frames
        "no count, mkv": (videos.copied(b_frames, home / "live.mkv", live="1"), whole),
        "count too high": (avi_count(mpeg4, home / "high.avi", 1), whole),
        "count too low": (avi_count(mpeg4, home / "low.avi", -1), whole),
        "count far too low": (avi_count(mpeg4, home / "lower.avi", -40), whole),
        "sound goes on, mkv": (videos.copied(plain, home / "sound.mkv", sound=FRAMES // 25 + 4), whole),
        "two streams": (two_streams(home / "two.mp4"), whole),
        "odd rate": (
            videos.numbered_video(home / "rate.mp4", FRAMES, fps=Fraction(2997, 125)),
            whole,
        ),
    }
    start, end = Fraction(30, 25), Fraction(48, 25)
    found["trimmed by a stream copy"] = (
        videos.trimmed(b_frames, home / "trim.mp4", start, end),
        whole[30:48],
    )
    found["trimmed by a stream copy, mov"] = (
        videos.trimmed(plain, home / "trim.mov", start, end),
        whole[30:48],
    )
    found["trimmed by an edit list"] = (
        videos.edited(b_frames, home / "edit.mp4", 1024 + 30 * 512, 20 * 40),  # of 1/12800 s and of 1/1000 s
        whole[30:50],
    )
    shown = [i + 30 * (i > 20) + 40 * (i > 50) for i in range(60)]
    found["null frames, AVI"] = (videos.with_null_frames(home / "null.avi", shown), whole[:60])
    found["padded TS"] = (videos.padded(videos.stream_copy(b_frames, home / "a.ts")), whole)
    found["padded FLV"] = (videos.padded(videos.stream_copy(plain, home / "a.flv")), whole)
    ogg = videos.numbered_video(home / "a.ogg", FRAMES, codec="libvpx", crf=10)
    found["padded Ogg"] = (videos.padded(ogg), whole)
    for seconds in (0.5, 1.0, 1.9):
        path = videos.stream_copy(b_frames, home / f"cut{seconds}.mp4", skip_until=seconds)
        with av.open(str(path)) as container:
            message = [videos.number_of(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
        found[f"stream copy from {seconds} s"] = (path, message)
    return found


NAMES = (
    *("closed groups of 16", "B-frames", "one group", "MPEG-4, AVI", "MPEG-4, B-frames"),
    *("H.264 with B-frames, AVI", "rolling refresh", "one frame"),
    *("open groups", "open groups, mkv", "variable rate", "variable rate, mkv", "late start", "a gap"),
    *("no count, mkv", "count too high", "count too low", "count far too low", "sound goes on, mkv"),
    *("trimmed by a stream copy", "trimmed by a stream copy, mov", "trimmed by an edit list"),
    *("null frames, AVI", "padded TS", "padded FLV", "padded Ogg"),
    *("two streams", "odd rate", *(f"stream copy from {s} s" for s in (0.5, 1.0, 1.9))),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_exact_or_refused(files, name):
    """Against the numbers in the pictures, not against another reader, for patterns that measuring does not try."""
    path, message = files[name]
    found = measure(path)
    assert (found.status, found.frames) == ("ok", len(message)), found.reason
    assert found.readers[-1] == "pyav"
    assert message == list(
        range(message[0], message[0] + len(message))
    )  # counted order is the order of the pictures
    patterns = [
        [0],
        [len(message) - 1],
        range(len(message))[1::7] or [0],
        range(len(message))[-5:],
        [40, 2, 2],
    ]
    patterns = [[min(max(i, 0), len(message) - 1) for i in pattern] for pattern in patterns]
    for reader in found.readers:
        for pattern in patterns:
            got = read_frames(path, pattern, reader=reader)
            assert [videos.number_of(f) for f in got] == [message[i] for i in pattern], (reader, pattern)
    clip = Clip(id="train/0", path=path.name, label=0, frames=found.frames, readers=found.readers)
    manifest = Manifest(path.parent / "train.csv", path.parent, ("a", "b"), (clip,))
    assert find_clips(manifest, max_bad_fraction=0).readers == (found.readers[0],)
    for reader in set(installed_seeking_readers()) - set(found.readers):
        with pytest.raises(DataError, match=f"reader={reader} was not measured"):
            find_clips(manifest, reader=reader, max_bad_fraction=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_frame_alone(files, name):
    """Each frame read by itself: seeks from any place in the file to any other, as in training."""
    path, message = files[name]
    for reader in measure(path).readers:
        got = [videos.number_of(read_frames(path, [i], reader=reader)[0]) for i in range(len(message))]
        assert got == message, reader


BY_GROUPS = [name for name in NAMES if name not in ("H.264 with B-frames, AVI", "rolling refresh")]


@pytest.mark.parametrize("name", NAMES)
def test_groups_are_found_or_refused(files, name):
    """pyav_seek: every frame by itself, to the last bit the counted one, or an error; never another frame."""
    path, message = files[name]
    counted = read_frames(path, range(len(message)))
    assert ("pyav_seek" in measure(path).readers) == (name in BY_GROUPS)
    refused = 0
    for i in sorted({*range(0, len(message), 5), *range(1, len(message), 7), len(message) - 1}):
        try:
            np.testing.assert_array_equal(read_frames(path, [i], reader="pyav_seek")[0], counted[i])
        except VideoReadError as error:
            assert "data.reader=pyav" in str(error)
            refused += 1
    assert (refused == 0) == (name in BY_GROUPS)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_frames_of_any_file(files, data):
    """Any order, repeats, first and last: bit for bit those of counting."""
    path, message = files[data.draw(st.sampled_from(BY_GROUPS))]
    indices = data.draw(st.lists(st.integers(0, len(message) - 1), min_size=1, max_size=12))
    got = read_frames(path, indices, reader="pyav_seek")
    assert [videos.number_of(f) for f in got] == [message[i] for i in indices]
    np.testing.assert_array_equal(got, counted_frames(path, len(message))[indices])


@cache
def counted_frames(path, frames):
    return read_frames(path, range(frames))


@pytest.mark.parametrize(
    ("suffix", "options", "seeks"),
    [
        (".mp4", {"keyframe_every": 16}, True),
        (".mp4", {"keyframe_every": 90, "b_frames": 3}, True),
        (".mkv", {"keyframe_every": 48, "b_frames": 2}, False),
    ],
)
def test_far_frames_of_long_files(tmp_path, monkeypatch, suffix, options, seeks):
    """Packets in between are skipped with the index of an MP4 and read in other containers; frames are the same."""
    path = tmp_path / f"long{suffix}"
    write_video(path, (videos.numbered_frame(i, 32, 288) for i in range(800)), **options)
    went, skip_to = [], groups._Groups.skip_to

    def noted(self, number):
        went.append(skip_to(self, number))
        return went[-1]

    monkeypatch.setattr(groups._Groups, "skip_to", noted)
    for indices in ([799], [0, 700], [400, 431, 790], range(500, 757, 32), range(600, 610)):
        got = read_frames(path, indices, reader="pyav_seek")
        assert [videos.number_of(f) for f in got] == list(indices)
    assert any(went) == seeks


def test_a_wrong_index_is_noticed(tmp_path, monkeypatch):
    """A container that seeks to another place than its index says."""
    path = tmp_path / "long.mp4"
    write_video(path, (videos.numbered_frame(i, 32, 288) for i in range(600)))
    real = groups._Groups

    class Lying(real):
        def __init__(self, path, container, stream):
            super().__init__(path, container, stream)
            self._container = LyingContainer(container)

    class LyingContainer:
        def __init__(self, real):
            self.real, self.demux = real, real.demux

        def seek(self, time, **options):
            self.real.seek(0, **options)
            next(self.real.demux(options["stream"]))

    monkeypatch.setattr(groups, "_Groups", Lying)
    with pytest.raises(VideoReadError, match="a seek does not end"):
        read_frames(path, [500], reader="pyav_seek")


def test_keyframes_too_far_apart_are_refused(files, monkeypatch):
    """Packets of a group are held in memory, so there is a limit."""
    monkeypatch.setattr(groups, "LONGEST", 50)
    with pytest.raises(VideoReadError, match=r"no keyframe within 50 packets.*data\.reader=pyav"):
        read_frames(files["one group"][0], [60], reader="pyav_seek")


def test_the_first_reader_follows_the_keyframes(files):
    """Where keyframes are close, the reader that decodes by groups; else OpenCV, which need not read all packets."""
    assert measure(files["closed groups of 16"][0]).readers[:2] == ("pyav_seek", "opencv")
    assert measure(files["one group"][0]).readers[:2] == ("opencv", "pyav_seek")


def test_readers_differ_on_these_files(files):
    """Some seeking reader fails on some file here, and some succeeds."""
    names = ("open groups", "variable rate", "two streams")
    verdicts = {
        (name, r): r in measure(files[name][0]).readers for name in names for r in installed_seeking_readers()
    }
    assert set(verdicts.values()) == {True, False}


@pytest.mark.parametrize(("suffix", "keep"), [(".avi", 0.3), (".avi", 0.9), (".mkv", 0.5), (".mp4", 0.7)])
def test_truncated_files_are_never_ok(tmp_path, suffix, keep):
    """Whatever the container: partial with the frames there are, or unreadable; no reader is offered."""
    options = {"codec": "mpeg4", "crf": 3} if suffix == ".avi" else {}
    source = videos.numbered_video(tmp_path / f"whole{suffix}", FRAMES, **options)
    short = videos.truncated(source, tmp_path / f"short{suffix}", keep)
    found = measure(short)
    assert found.status in ("partial", "unreadable")
    assert found.reason
    assert found.readers == ()
    assert found.frames < FRAMES
    if found.frames:
        got = read_frames(short, range(found.frames - 1))
        assert [videos.number_of(f) for f in got] == list(range(found.frames - 1))
    for reader in installed_seeking_readers():
        with pytest.raises(VideoReadError):
            read_frames(short, [0, FRAMES - 1], reader=reader)


def test_hidden_and_null_frames_do_not_hide_damage(tmp_path):
    """A trimmed MP4 and an AVI with null frames, cut off, and the AVI with a hole or its end filled with zeros."""
    source = videos.numbered_video(tmp_path / "a.mp4", FRAMES, keyframe_every=24)
    trimmed = videos.trimmed(
        source, tmp_path / "trim.mp4", Fraction(36, 25), Fraction(70, 25), movflags="faststart"
    )
    assert measure(trimmed).frames == 34
    assert measure(videos.truncated(trimmed, tmp_path / "short.mp4", 0.7)).status == "partial"
    nulls = videos.with_null_frames(tmp_path / "null.avi", [2 * i for i in range(FRAMES)])
    data = nulls.read_bytes()
    half = len(data) // 2
    assert measure(nulls).frames == FRAMES
    for name, changed in {
        "short": data[:half],
        "hole": data[:half] + bytes(5000) + data[half + 5000 :],
        "unfinished": data[:half] + bytes(len(data) - half),
    }.items():
        (tmp_path / f"{name}.avi").write_bytes(changed)
        assert measure(tmp_path / f"{name}.avi").status == "partial", name


def test_null_frames_may_come_last(tmp_path):
    """Empty chunks are counted where they lie, not by the times of the frames around them."""
    path = videos.with_null_frames(tmp_path / "a.avi", [*range(30), 60])
    data = bytearray(path.read_bytes())
    last = data.rindex(b"00dc", 0, data.index(b"idx1"))  # the frame behind the gap
    data[last : last + 4] = b"JUNK"
    listed = data.rindex(b"00dc")
    data[listed : listed + 4] = b"JUNK"
    path.write_bytes(data)
    assert null_frames(path, 0) == 30
    assert measure(path).status == "ok"


def test_an_mp4_with_its_index_first_and_the_end_missing(tmp_path):
    """The header is whole and promises all frames; the packets stop."""
    first = {"movflags": "+faststart"}
    videos.encoded(tmp_path / "whole.mp4", numbered(), g="12", bf="0", muxer=first)
    assert measure(tmp_path / "whole.mp4").status == "ok"
    found = measure(videos.truncated(tmp_path / "whole.mp4", tmp_path / "short.mp4", 0.6))
    assert found.status == "partial"
    assert 10 < found.frames < FRAMES
    assert found.readers == ()


def test_a_change_of_size_is_partial(tmp_path):
    """Raw H.264 may change its size between keyframes; a clip may not."""
    parts = []
    for i, (width, height) in enumerate(((320, 240), (160, 120))):
        part = tmp_path / f"part{i}.h264"
        write_video(part, (videos.numbered_frame(k, height, width) for k in range(20)))
        parts.append(part.read_bytes())
    (tmp_path / "both.h264").write_bytes(b"".join(parts))
    found = measure(tmp_path / "both.h264")
    assert found.status == "partial"
    assert "size changes at frame 20" in found.reason


def test_repeated_pictures_are_accepted(tmp_path):
    """A still video, and one with every picture twice: readers cannot be told apart where pictures are the same."""
    write_video(tmp_path / "still.mp4", (videos.numbered_frame(7) for _ in range(30)))
    write_video(tmp_path / "twice.mp4", (videos.numbered_frame(i // 2) for i in range(60)))
    for name in ("still.mp4", "twice.mp4"):
        assert set(measure(tmp_path / name).readers) >= {"pyav_seek", "opencv", "decord", "pyav"}


def test_noise_is_accepted(tmp_path):
    """Coding noise differs between readers by rounding only."""
    rng = np.random.default_rng(0)
    frames = (rng.integers(0, 255, (120, 160, 3), dtype=np.uint8) for _ in range(40))
    write_video(tmp_path / "noise.mp4", frames, crf=23, b_frames=2)
    assert set(measure(tmp_path / "noise.mp4").readers) >= {"pyav_seek", "opencv", "decord", "pyav"}
