"""When frames are shown, against the times that the packets bear and against slow references."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import videos
from hypothesis import given, settings
from hypothesis import strategies as st

from vmp.data.columns import Clip
from vmp.data.dataset import ClipShape, TestClips, TrainClips
from vmp.data.decode import read_frames
from vmp.data.manifest import Manifest, read_manifest, write_classes, write_manifest
from vmp.data.present import find_clips
from vmp.data.times import Timeline, continued, even_frames, pauses, read_steps, timeline, write_steps
from vmp.errors import ManifestError
from vmp.prepare.cut import cut_all
from vmp.prepare.journal import CutClip
from vmp.prepare.measure import measure
from vmp.prepare.plan import Item
from vmp.prepare.rows import describe_pauses, in_place_row, with_measured

MS = Fraction(1, 1000)
SHAPE = ClipShape(
    frames=8, stride=4, fps=30, crop=64, jitter=(64, 64), flip=0, test_side=240, test_crop=240, short="clamp"
)


def timed_video(
    path: Path, ticks: list[int], *, base: Fraction = MS, rate: int = 30, sound: bool = False
) -> Path:
    """Numbered frames, each shown at its tick; the header says `rate`. Sound, if any, begins at 0."""
    silence = 1 + int(ticks[-1] * base) if sound else 0
    pictures = map(videos.numbered_frame, range(len(ticks)))
    fast = {"bf": "2", "g": "12", "preset": "ultrafast"}
    return videos.encoded(path, pictures, rate=rate, ticks=ticks, base=base, sound=silence, **fast)


def packets(path: Path) -> np.ndarray:
    """Seconds on the file's clock, by the packets, in the order in which they are shown."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        times = [p.pts * p.time_base for p in container.demux(video) if p.size and not p.is_discard]
        return np.sort(np.array([float(t - Fraction(container.start_time or 0, 10**6)) for t in times]))


THIRTIETHS = [round(1000 * i / 30) for i in range(90)]
MISSING = [t for i, t in enumerate(THIRTIETHS) if i % 7]  # as browsers record
PAUSE = [t + 2000 * (i > 40) for i, t in enumerate(THIRTIETHS)]
SHORTENED = [
    t + (1000 - 33) * (i > 40) for i, t in enumerate(THIRTIETHS)
]  # the pause as models see it, of 1 s


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    home = tmp_path_factory.mktemp("timed")
    timed_video(home / "thousand.mkv", THIRTIETHS, rate=1000)
    timed_video(home / "sixty.mkv", THIRTIETHS, rate=60)
    timed_video(home / "missing.mkv", MISSING)
    timed_video(home / "pause.mp4", PAUSE)
    timed_video(home / "late.mp4", [t + 833 for t in THIRTIETHS], sound=True)
    timed_video(home / "ntsc.mp4", [1001 * i for i in range(90)], base=Fraction(1, 30000))
    videos.numbered_video(home / "b_frames.avi", 90, b_frames=2, fps=Fraction(147, 5))
    return {path.stem: path for path in home.iterdir()}


@pytest.fixture(scope="module")
def measures(files):
    return {name: measure(path, readers=()) for name, path in files.items()}


@pytest.mark.slow
def test_every_frame_has_the_time_of_its_packet(files, measures):
    for name, path in files.items():
        found = measures[name]
        assert found.status == "ok", name
        if name != "b_frames":  # AVI has no times for frames; FFmpeg makes them up
            np.testing.assert_allclose(found.times.seconds(), packets(path), atol=2e-6, err_msg=name)


def test_the_rate_is_that_of_the_frames(measures):
    rates = {name: found.fps for name, found in measures.items()}
    assert {name: rates[name] for name in ("thousand", "sixty", "late")} == dict.fromkeys(
        ("thousand", "sixty", "late"), 30
    )
    assert rates["ntsc"] == 30000 / 1001
    assert rates["b_frames"] == pytest.approx(29.4)
    assert rates["missing"] == pytest.approx((len(MISSING) - 1) / (MISSING[-1] - MISSING[0]) * 1000)
    assert rates["pause"] == pytest.approx(89 / (PAUSE[-1] / 1000))
    assert {name for name, found in measures.items() if not found.times.even} == {"missing", "pause"}


@pytest.mark.parametrize(("start", "end"), [(1, 2), (0.5, 0.6), (1.9, 4.2), (0, 0.9), (2.5, 10)])
def test_a_span_is_the_frames_whose_times_lie_in_it(files, measures, start, end):
    for name in ("thousand", "sixty", "missing", "pause", "late", "ntsc"):
        times = packets(files[name])
        item = Item(id="a", path="a", label=0, start=start, end=end, unit="seconds")
        row = in_place_row(item, measures[name])
        inside = np.flatnonzero((times >= start) & (times < end))
        if end > times[-1] + 1.1 or end < times[0]:
            assert row.status == "partial", name
            assert f"shown from {times[0]:.2f}" in row.tags["problem"]
        else:
            assert (row.status, row.start, row.end) == ("ok", inside[0], inside[-1] + 1), name


def test_seconds_may_count_from_the_first_frame(files, measures):
    item = Item(id="a", path="a", label=0, start=1, end=2, unit="seconds")
    late = in_place_row(item, measures["late"])
    assert (late.start, late.end) == (5, 35)  # the first frame is shown at 0.833 s, the sixth at 1.000 s
    own = in_place_row(item, measures["late"], clock="first_frame")
    assert (own.start, own.end) == (30, 60)
    before = in_place_row(replace(item, start=0, end=0.5), measures["late"])
    assert before.status == "partial"


def test_a_span_without_a_frame_is_the_frame_on_the_screen(measures):
    row = in_place_row(Item(id="a", path="a", label=0, start=2, end=3, unit="seconds"), measures["pause"])
    assert (row.status, row.start, row.end) == ("ok", 40, 41)  # in the pause


def test_clips_of_uneven_files_are_taken_at_even_times(files, measures, tmp_path):
    """Compared with the screen of a player, looked at every 8/30 s."""
    write_classes(tmp_path / "classes.txt", ("a", "b"))
    rows = {"missing": MISSING, "pause": PAUSE, "thousand": THIRTIETHS}
    clips = [
        with_measured(Clip(name, files[name].name, 0), replace(measures[name], readers=("pyav",)))
        for name in rows
    ]
    write_manifest(tmp_path / "a.csv", clips)
    manifest = read_manifest(tmp_path / "a.csv", root=files["pause"].parent)
    assert [bool(c.times) for c in manifest.clips] == [True, True, False]
    present = find_clips(manifest, max_bad_fraction=0)
    test = TestClips(manifest, present, replace(SHAPE, frames=16, stride=8), spatial=3)
    for index, (name, ticks) in enumerate((rows | {"pause": SHORTENED}).items()):
        looks = [ticks[0] + 1000 * 8 * i / 30 for i in range(16)]
        looks = looks if looks[-1] <= ticks[-1] else np.minimum(looks, ticks[-1])
        screen = [max(i for i, t in enumerate(ticks) if t <= look + 17) for look in looks]
        _, views, _ = test[index]
        left = np.pad(views[0].permute(1, 2, 3, 0).numpy(), ((0, 0), (0, 0), (0, 80), (0, 0)))
        assert [videos.number_of(f) for f in left] == screen, name


def on_screen(seconds: np.ndarray, rate: float) -> list[int]:
    """The frame that is shown half an interval after each i / rate, looked up one by one."""
    looks = (np.arange(round(seconds[-1] * rate) + 1) + 0.5) / rate
    return [max(i for i, t in enumerate(seconds) if t <= look) for look in looks]


def test_training_clips_of_uneven_files_start_anywhere(measures):
    clip = with_measured(Clip("a", "a", 0), measures["pause"])
    shown, offsets, fps = SHAPE.timeline(clip)
    assert len(shown) == 90 + 29
    assert shown.tolist() == on_screen(np.array(SHORTENED) / 1000, 30)
    assert offsets.tolist() == list(range(0, 32, 4))
    assert fps == pytest.approx(30)
    counting = replace(SHAPE, fps=None)  # a recipe that counts frames
    assert counting.timeline(clip)[0].tolist() == list(range(90))


@pytest.mark.parametrize("length", [3.0, 3600.0, 30 * 86400.0, 1.7e9, 9e9])
def test_no_pause_fills_the_views(length):
    seconds = np.arange(90) / 30 + length * (np.arange(90) > 40)
    steps = write_steps(seconds)
    np.testing.assert_allclose(read_steps(steps), seconds, atol=1e-5)
    assert pauses(steps) == pytest.approx([length + 1 / 30])
    shown, rate = even_frames(steps, 90)
    assert rate == pytest.approx(30)
    assert np.bincount(shown).tolist() == [1] * 40 + [30] + [1] * 49


@pytest.mark.parametrize(
    "steps",
    [
        [1 / 30 + 0.9 * (i % 20 == 7) for i in range(100)],  # frames dropped for up to 0.9 s
        [(1 + i % 3) / 24 for i in range(100)],
        [3.0, 8.0, 2.0, 3.0, 25.0, 3.0],  # a slide show
        [1.0] * 9 + [8.0] + [1.0] * 9,
        [40.0],
    ],
)
def test_frames_that_are_merely_uneven_keep_their_times(steps):
    seconds = np.concatenate(([0], np.cumsum(steps)))
    shown, rate = even_frames(write_steps(seconds), len(seconds))
    assert not len(pauses(write_steps(seconds)))
    assert shown.tolist() == on_screen(np.round(seconds, 6), rate)


@pytest.mark.parametrize(("steps", "rate"), [([0.04, 100], 25), ([1, 3], 1), ([0.04, 0.2, 5, 9], 5)])
def test_the_typical_step_is_one_of_the_steps(steps, rate):
    assert even_frames(write_steps(np.cumsum([0, *steps])), len(steps) + 1)[1] == pytest.approx(rate)


def test_a_span_is_the_same_beside_a_long_pause(tmp_path):
    jump = 1_700_000_000_000
    file = timed_video(tmp_path / "clock.mkv", [t + jump * (i > 40) for i, t in enumerate(THIRTIETHS)])
    found = measure(file, readers=())
    span = Item(id="a", path="a", label=0, start=1, end=1.7e9 + 2, unit="seconds")
    row = in_place_row(span, found)
    assert (row.status, row.start, row.end) == ("ok", 30, 60)
    write_classes(tmp_path / "classes.txt", ("a", "b"))
    write_manifest(tmp_path / "a.csv", [row])
    (read,) = read_manifest(tmp_path / "a.csv").clips
    assert read.times == row.times
    assert len(SHAPE.timeline(read)[0]) == 30 + 29
    (note,) = describe_pauses([("list.csv:2: clock.mkv", read), ("other", replace(read, times=""))])
    assert note.startswith("1 clip(s) have pauses")
    assert "list.csv:2: clock.mkv: 1,700,000,000.0 s" in note
    assert not describe_pauses([("other", replace(read, times="33333*20 66667 33333"))])


def test_jitter_neither_repeats_nor_skips_a_frame():
    rng = np.random.default_rng(0)
    seconds = np.arange(300) / 30 + rng.uniform(-0.01, 0.01, 300)
    shown, rate = even_frames(write_steps(np.sort(seconds)), 300)
    assert rate == pytest.approx(30, rel=0.05)
    if len(shown) == 300:
        np.testing.assert_array_equal(shown, np.arange(300))
    assert np.diff(shown).max() <= 2


@pytest.mark.slow
def test_cut_clips_keep_the_times_of_uneven_sources(files, measures, tmp_path):
    cuts = [
        CutClip(source=files[name], start=1, end=1.9, unit="seconds", target=tmp_path / f"{name}.mp4")
        for name in ("missing", "pause", "late", "thousand")
    ]
    for cut, found in cut_all(cuts, workers=1, progress=False):
        times = packets(cut.source)
        inside = np.flatnonzero((times >= 1) & (times < 1.9))
        assert (found.status, found.frames) == ("ok", len(inside)), cut.target
        with av.open(str(cut.target)) as container:
            shown = [videos.number_of(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
        assert shown == inside.tolist()
        np.testing.assert_allclose(packets(cut.target), times[inside] - times[inside[0]], atol=1e-3)
        assert found.readers[-1] == "pyav"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Transport streams as recorders make them: whole, two joined, a clock that wraps, and one that jumps ahead."""
    home = tmp_path_factory.mktemp("recorded")
    plain = videos.numbered_video(home / "plain.ts", 60, b_frames=2)
    (home / "joined.ts").write_bytes(plain.read_bytes() * 2)
    for name, shift in (("wraps", lambda i: 2**33 / 90_000 - 1), ("jumps", lambda i: 1000 * (i >= 32))):
        videos.copied(plain, home / f"{name}.ts", later=shift, mpegts_copyts="1")
    return home


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "joined", "wraps", "jumps"])
def test_times_go_on_where_a_clock_restarts_wraps_or_jumps(recorded, tmp_path, name):
    file = recorded / f"{name}.ts"
    known = [i % 60 for i in range(120 if name == "joined" else 60)]
    found = measure(file)
    assert (found.status, found.frames, found.fps, found.steps) == ("ok", len(known), 25, ""), found
    for reader in found.readers:
        read = read_frames(file, range(len(known)), reader=reader)
        assert [videos.number_of(frame) for frame in read] == known, reader
    begin = len(known) / 25 - 1  # the last second, from the second recording where there are two
    span = in_place_row(Item(id="a", path="a", label=0, start=begin, end=begin + 1, unit="seconds"), found)
    assert (span.start, span.end, span.status) == (len(known) - 25, len(known), "ok")
    cut = CutClip(source=file, start=begin, end=begin + 1, unit="seconds", target=tmp_path / "a.mp4")
    ((_, clip),) = cut_all([cut], workers=1, progress=False)
    assert (clip.status, clip.fps) == ("ok", 25), clip
    shown = read_frames(tmp_path / "a.mp4", range(clip.frames))
    assert [videos.number_of(frame) for frame in shown] == known[-25:]


@pytest.mark.parametrize("order", [[0], [0, 3, 1, 2, 4, 7, 5, 6]])
def test_only_a_clock_that_restarts_is_moved_on(order):
    """Times out of order by B-frames, one wrong time, and pauses stay; 40 frames and then 40 from 0 become 80."""
    once = np.concatenate([np.array(order) + i for i in range(0, 40, len(order))]) / 25
    np.testing.assert_array_equal(continued(once.tolist()), once)
    wrong = once.copy()
    wrong[30] = 0
    np.testing.assert_array_equal(continued(wrong.tolist()), wrong)
    pause = once + 1000 * (np.arange(40) > 20)
    np.testing.assert_array_equal(continued(pause.tolist()), pause)
    twice = continued([*once, *once])
    np.testing.assert_allclose(np.sort(twice), np.arange(80) / 25, atol=0.05)


def test_a_cut_beyond_its_source_says_where_the_source_ends(files, tmp_path):
    cut = CutClip(source=files["late"], start=2, end=9, unit="seconds", target=tmp_path / "a.mp4")
    ((_, found),) = cut_all([cut], progress=False)
    assert (found.status, found.frames) == ("partial", 0)
    assert "2 to 9 s of a video whose frames are shown from 0.83 to 3.83 s" in found.reason


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 5_000_000), min_size=1, max_size=60))
def test_steps_are_read_as_they_are_written(steps):
    seconds = np.concatenate(([0], np.cumsum(steps))) / 1e6
    np.testing.assert_allclose(read_steps(write_steps(seconds)), seconds, atol=1e-9)


@pytest.mark.parametrize("text", ["", "3 x", "3*0", "-3", "3**4", "1e3", "3*999999999", "9" * 18 + "*10"])
def test_steps_that_make_no_sense(text):
    with pytest.raises(ValueError, match="times"):
        read_steps(text)


def test_frames_without_times_go_by_the_header():
    assert timeline([None] * 9, rates=[Fraction(25), Fraction(30)]) == Timeline(9, 25.0)
    assert timeline([0.5], rates=[Fraction(25)]) == Timeline(1, 25.0, 0.5)
    assert timeline([]).rate == 0


def test_times_in_a_manifest_are_checked(tmp_path):
    write_classes(tmp_path / "classes.txt", ("a", "b"))
    good = Clip("a", "a.mp4", 0, frames=3, fps=2, times="400000 600000", readers=("pyav",))
    write_manifest(tmp_path / "a.csv", [good, replace(good, id="b", times="")])
    assert isinstance(read := read_manifest(tmp_path / "a.csv"), Manifest)
    assert [c.times for c in read.clips] == ["400000 600000", ""]
    write_manifest(tmp_path / "a.csv", [replace(good, times="400000")])
    with pytest.raises(ManifestError, match="times has 2 frames, the clip has 3"):
        read_manifest(tmp_path / "a.csv")


def test_training_reads_uneven_files(files, measures, tmp_path):
    write_classes(tmp_path / "classes.txt", ("a", "b"))
    clip = with_measured(Clip("a", files["pause"].name, 0), replace(measures["pause"], readers=("pyav",)))
    write_manifest(tmp_path / "a.csv", [clip])
    manifest = read_manifest(tmp_path / "a.csv", root=files["pause"].parent)
    train = TrainClips(manifest, find_clips(manifest, max_bad_fraction=0), SHAPE, seed=0)
    starts = set()
    for epoch in range(6):
        _, view, _ = train[0, epoch]
        assert view.shape == (3, 8, 64, 64)
        starts.add(view.float().mean().item())
    assert len(starts) > 1
