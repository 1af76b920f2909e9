"""Which frames, which pixels, in which order: sampling, transforms, batches, and clips out of real files."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import videos
from hypothesis import given, settings
from hypothesis import strategies as st

from vmp.data import dataset
from vmp.data.columns import Clip
from vmp.data.dataset import ClipShape, TestClips, TrainClips, collate_train, loader_processes
from vmp.data.decode import resize_short_side
from vmp.data.degrade import degrade
from vmp.data.encode import write_video
from vmp.data.manifest import Manifest
from vmp.data.motions import Motions, object_masks
from vmp.data.present import find_clips
from vmp.data.sampler import TrainBatches, epoch_order
from vmp.data.sampling import frame_indices, offsets, random_start, view_starts
from vmp.data.transforms import apply_train_view, draw_train_view, test_corners, to_clip
from vmp.datasets import true_masks
from vmp.errors import DataError


def test_strides():
    np.testing.assert_array_equal(frame_indices(100, offsets(4, 8), start=3), [3, 11, 19, 27])
    with pytest.raises(ValueError, match="no room"):
        frame_indices(100, offsets(4, 8), start=76)
    with pytest.raises(ValueError, match="spacing = 'even'"):
        offsets(4, 8, spacing="even")


def test_spans_are_those_of_timesformers_code():
    assert offsets(8, 32, spacing="span").tolist() == [0, 36, 72, 109, 145, 182, 218, 255]
    assert offsets(9, 32, spacing="span").tolist() == [0, 35, 71, 107, 143, 179, 215, 251, 287]


@pytest.mark.parametrize("fps", [23.976, 25, 29.4, 29.97, 50, 60])
def test_spans_at_other_rates_are_within_a_frame_of_the_authors_code(fps):
    """docs/fidelity.md, "frames in time": they spread the frames over all that were decoded, one more or one less."""
    for frames in (8, 9):
        span = frames * 32 * fps / 30
        for last in (int(span) - 1, int(span)):
            theirs = torch.linspace(0, last, frames).long().numpy()
            assert np.abs(offsets(frames, 32, spacing="span", rate=fps / 30) - theirs).max() <= 1


def test_strides_follow_the_videos_rate():
    # 8 frames at stride 8 of a 30 fps video are 0.267 s apart; at 15 fps that is every fourth frame
    assert offsets(8, 8, rate=15 / 30).tolist() == list(range(0, 32, 4))
    assert offsets(4, 8, rate=25 / 30).tolist() == [0, 7, 13, 20]  # 6.67 frames apart
    assert offsets(33, 2, rate=29.97 / 30).tolist() == list(range(0, 65, 2))  # NTSC: no frame early
    assert offsets(9, 32, spacing="span", rate=0.5).tolist()[-1] == 143
    assert offsets(16, 2, rate=0.2).tolist() == list(range(16))  # never a frame twice: no false stillness


@pytest.mark.parametrize(
    ("short", "length", "expected"),
    [
        ("clamp", 5, [0, 2, 4, 4, 4, 4]),
        ("loop", 5, [0, 2, 4, 1, 3, 0]),
        ("stretch", 8, [0, 1, 2, 4, 5, 7]),  # linspace, rounded down
        ("stretch", 4, [0, 1, 2, 0, 1, 3]),  # two rounds of four, six frames over them
        ("stretch", 1, [0, 0, 0, 0, 0, 0]),
    ],
)
def test_short_spans(short, length, expected):
    np.testing.assert_array_equal(frame_indices(length, offsets(6, 2), start=0, short=short), expected)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(["stretch", "clamp", "loop"]),
    st.integers(0, 99),
)
def test_indices_always_lie_in_the_span(length, frames, stride, short, seed):
    apart = offsets(frames, stride)
    start = random_start(length, apart, rng=np.random.default_rng(seed))
    indices = frame_indices(length, apart, start=start, short=short)
    assert indices.shape == (frames,)
    assert indices.min() >= 0
    assert indices.max() < length
    if length > (frames - 1) * stride:
        assert (np.diff(indices) == stride).all()
    elif short == "stretch" and length >= frames:
        assert (np.diff(indices) >= 1).all()  # no frame twice: no false stillness


def test_random_starts_reach_both_ends_evenly():
    rng = np.random.default_rng(0)
    starts = np.array([random_start(12, offsets(9, 1), rng=rng) for _ in range(4000)])
    counts = np.bincount(starts, minlength=4)
    assert len(counts) == 4
    assert counts.min() > 900


def test_views():
    assert view_starts(100, offsets(9, 1), views=1) == [0]
    assert view_starts(109, offsets(9, 1), views=10) == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert view_starts(109, offsets(9, 1), views=1, anchor="center") == [50]
    assert view_starts(5, offsets(9, 1), views=3) == [0, 0, 0]


# --- transforms ----------------------------------------------------------------------------------------------------


def test_train_views_are_even_and_repeatable():
    views = [draw_train_view(np.random.default_rng(i), jitter=(256, 320), flip=0.5) for i in range(3000)]
    sides = np.array([v.short_side for v in views])
    assert (sides.min(), sides.max()) == (256, 320)
    assert np.mean(sides) == pytest.approx(288, abs=1.5)
    assert np.mean([v.flip for v in views]) == pytest.approx(0.5, abs=0.04)
    assert views[7] == draw_train_view(np.random.default_rng(7), jitter=(256, 320), flip=0.5)
    still = [draw_train_view(np.random.default_rng(i), jitter=(256, 320), flip=0) for i in range(300)]
    assert not any(v.flip for v in still)


def test_one_crop_and_flip_for_all_frames():
    frames = np.random.default_rng(0).integers(0, 256, (5, 40, 60, 3), dtype=np.uint8)
    view = draw_train_view(np.random.default_rng(3), jitter=(40, 40), flip=1.0)
    out = apply_train_view(frames, view, crop=32)
    assert out.shape == (5, 32, 32, 3)
    found = [
        (top, left)
        for top in range(9)
        for left in range(29)
        if np.array_equal(frames[:, top : top + 32, left : left + 32][:, :, ::-1], out)
    ]
    assert len(found) == 1


def test_resized_pixels_are_those_of_the_float_picture_rounded():
    """docs/fidelity.md, "resizing": the authors resize float32 and never round; ours is within a grey level."""
    frame = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    for short_side in (64, 120):
        ours = resize_short_side(frame, short_side)
        real = torch.nn.functional.interpolate(
            torch.from_numpy(frame).permute(2, 0, 1)[None].float(), size=ours.shape[:2], mode="bilinear"
        )
        assert ours.dtype == np.uint8
        assert np.abs(ours - real[0].permute(1, 2, 0).numpy()).max() < 1


def test_test_corners():
    assert test_corners(30, 61, crop=30, positions=3) == [(0, 0), (0, 16), (0, 31)]
    assert test_corners(61, 30, crop=30, positions=3) == [(0, 0), (16, 0), (31, 0)]
    assert test_corners(61, 30, crop=20, positions=1) == [(21, 5)]
    assert test_corners(256, 341, crop=256, positions=3) == [(0, 0), (0, 43), (0, 85)]  # as PySlowFast rounds


def test_to_clip():
    frames = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    clip = to_clip(frames)
    assert clip.shape == (3, 5, 4, 6)
    assert clip[2, 4, 1, 3] == frames[4, 1, 3, 2]


# --- batches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_step_has_the_same_clips_however_many_processes_share_it(world):
    def step(i: int) -> set[int]:
        return {
            clip
            for rank in range(world)
            for clip, _ in list(
                TrainBatches(clips=50, batch=8 // world, batches=6, seed=3, rank=rank, world=world)
            )[i]
        }

    order = epoch_order(50, seed=3, epoch=0).tolist()
    assert [step(i) for i in range(6)] == [set(order[8 * i : 8 * i + 8]) for i in range(6)]


def test_an_epoch_can_start_anywhere():
    batches = TrainBatches(clips=50, batch=8, batches=6, seed=3)
    batches.start_at(2, 0)
    whole = list(batches)
    batches.start_at(2, 4)
    assert list(batches) == whole[4:]
    assert len(batches) == 2
    seen = [clip for batch in whole for clip, _ in batch]
    assert len(set(seen)) == 48
    batches.start_at(3, 0)
    assert [c for b in batches for c, _ in b] != seen


# --- clips out of files --------------------------------------------------------------------------------------------

SHAPE = ClipShape(frames=9, stride=2, crop=288, jitter=(288, 288), flip=0.0, test_side=288, test_crop=288)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Four clips: a whole file, a span, a short span, and a file that the manifest calls a video and is none."""
    home = tmp_path_factory.mktemp("clips")
    write_video(home / "a.mp4", (videos.numbered_frame(i, 288, 288) for i in range(60)))
    (home / "bad.mp4").write_bytes(b"not a video")
    (home / "classes.txt").write_text("x\ny\n")

    def clip(name, path="a.mp4", **options) -> Clip:
        return Clip(
            id=name,
            path=path,
            label=len(name) % 2,
            frames=60,
            fps=25,
            width=288,
            height=288,
            readers=("opencv", "pyav"),
            **options,
        )

    clips = (
        clip("whole"),
        clip("span", start=20, end=50),
        clip("short", start=5, end=12),
        clip("bad", path="bad.mp4"),
    )
    return Manifest(home / "train.csv", home, ("x", "y"), clips)


def numbers(clip: torch.Tensor) -> list[int]:
    return [videos.number_of(frame) for frame in clip.permute(1, 2, 3, 0).numpy()]


def test_train_clips_are_the_frames_of_their_span(manifest):
    present = find_clips(manifest, max_bad_fraction=0)
    data = TrainClips(manifest, present, SHAPE, seed=1)
    starts = set()
    for epoch in range(12):
        _, clip, label = data[1, epoch]
        got = numbers(clip)
        assert clip.shape == (3, 9, 288, 288)
        assert clip.dtype == torch.uint8
        assert got == list(range(got[0], got[0] + 18, 2))
        assert got[0] >= 20
        assert got[-1] < 50
        assert label == 0
        starts.add(got[0])
    assert len(starts) > 3
    # seven frames for nine: two rounds of the span, spread over
    assert numbers(data[2, 0][1]) == [5 + i % 7 for i in (0, 1, 3, 4, 6, 8, 9, 11, 13)]


def test_a_sample_is_a_function_of_seed_epoch_and_index(manifest):
    shape = ClipShape(frames=9, stride=2, crop=64, jitter=(80, 120), flip=0.5, test_side=64, test_crop=64)
    present = find_clips(manifest, max_bad_fraction=0)
    one, two = (TrainClips(manifest, present, shape, seed=1) for _ in range(2))
    assert torch.equal(one[0, 3][1], two[0, 3][1])
    assert not torch.equal(one[0, 3][1], one[0, 4][1])
    assert not torch.equal(one[0, 3][1], TrainClips(manifest, present, shape, seed=2)[0, 3][1])


@pytest.mark.parametrize(
    ("workers", "how"), [(1, "fork"), (2, "fork"), pytest.param(1, "spawn", marks=pytest.mark.slow)]
)
def test_workers_change_nothing(manifest, workers, how):
    """Spawned processes serve readers on a GPU: what they need must survive the way there."""
    shape = ClipShape(frames=9, stride=2, crop=64, jitter=(80, 120), flip=0.5, test_side=64, test_crop=64)
    data = TrainClips(manifest, find_clips(manifest, max_bad_fraction=0), shape, seed=1)

    def batches(count):
        loader = torch.utils.data.DataLoader(
            data,
            batch_sampler=TrainBatches(clips=4, batch=2, batches=2, seed=0),
            collate_fn=collate_train,
            **loader_processes(data, count) | ({"multiprocessing_context": how} if count else {}),
        )
        return list(loader)

    for a, b in zip(batches(0), batches(workers), strict=True):
        assert torch.equal(a.clips, b.clips)
        assert torch.equal(a.labels, b.labels)
        assert a.bad == b.bad


def test_loader_processes_that_need_the_gpu_are_spawned(manifest, monkeypatch):
    shape = ClipShape(frames=9, stride=2, crop=64, jitter=(80, 120), flip=0.5, test_side=64, test_crop=64)
    data = TrainClips(manifest, find_clips(manifest, max_bad_fraction=0), shape, seed=1)
    assert loader_processes(data, 2, timeout=3)["multiprocessing_context"] == "fork"
    monkeypatch.setattr(dataset, "ON_GPU", ("opencv",))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    how = loader_processes(data, 2, timeout=3)
    assert (how["multiprocessing_context"], how["timeout"]) == ("spawn", 3)
    assert how["worker_init_fn"].keywords == {"gpu": 1}
    assert loader_processes(data, 0, timeout=3) == {"num_workers": 0}


def test_an_unreadable_clip_is_named_and_not_replaced(manifest):
    data = TrainClips(manifest, find_clips(manifest, max_bad_fraction=0), SHAPE, seed=1)
    batch = collate_train([data[3, 0], data[0, 0]])
    assert batch.indices.tolist() == [0]
    assert batch.clips.shape == (1, 3, 9, 288, 288)
    assert set(batch.bad) == {3}
    assert "bad.mp4" in batch.bad[3]
    _, error, _ = TestClips(manifest, find_clips(manifest, max_bad_fraction=0), SHAPE)[3]
    assert "bad.mp4" in str(error)


def test_test_views(manifest):
    present = find_clips(manifest, max_bad_fraction=0)
    data = TestClips(manifest, present, SHAPE, temporal=3, spatial=1)
    _, views, weights = data[0]
    assert [numbers(v)[0] for v in views] == [0, 14, 28]  # room 60 - 17 = 43: 0, 43/3, 86/3
    assert weights.tolist() == [1, 1, 1]
    _, views, weights = data[2]  # shorter than the clip: the views coincide and are given once
    assert len(views) == 1
    assert weights.tolist() == [3]
    small = ClipShape(frames=9, stride=2, crop=64, jitter=(64, 64), test_side=80, test_crop=64)
    _, views, weights = TestClips(manifest, present, small, temporal=2, spatial=3)[1]
    assert views.shape == (6, 3, 9, 64, 64)
    assert weights.tolist() == [1] * 6
    assert not torch.equal(views[0], views[1])  # two of the three crops
    _, views, weights = TestClips(manifest, present, SHAPE, temporal=10, spatial=3)[2]
    assert views.shape[0] == 1  # a square video whose crop is all of it
    assert weights.tolist() == [30]


# --- degraded on purpose (Table 5) ---------------------------------------------------------------------------------


def test_salt_and_pepper():
    frame = np.full((400, 500, 3), 100, np.uint8)
    noisy = degrade(frame, "salt_pepper", key=(1, 2))
    black, white = (noisy == 0).all(axis=2), (noisy == 255).all(axis=2)
    assert (noisy[~(black | white)] == 100).all()  # whole pixels or nothing
    for mask in (black, white):
        assert mask.mean() == pytest.approx(0.005, abs=5 * (0.005 / 200_000) ** 0.5)  # 5 standard deviations
    assert np.array_equal(noisy, degrade(frame, "salt_pepper", key=(1, 2)))
    assert not np.array_equal(noisy, degrade(frame, "salt_pepper", key=(1, 3)))
    assert (frame == 100).all()


def test_half_resolution_keeps_slow_changes_and_loses_fine_ones():
    y, x = np.mgrid[:101, :200]
    ramp = np.repeat((y + x // 2)[..., None], 3, axis=2).astype(np.uint8)
    assert np.abs(degrade(ramp, "half", key=()).astype(int) - ramp).max() <= 1
    board = np.repeat(((x + y) % 2 * 200)[:100, :, None], 3, axis=2).astype(np.uint8)
    assert (degrade(board, "half", key=()) == 100).all()
    with pytest.raises(ValueError, match="degrade = 'blur'"):
        degrade(ramp, "blur", key=())


@pytest.mark.parametrize("where", ["test", "both"])
def test_clips_are_degraded_where_they_are_told_to_be(manifest, where):
    present = find_clips(manifest, max_bad_fraction=0)
    noisy = replace(SHAPE, degrade="salt_pepper", degrade_in=where)
    _, clean, _ = TestClips(manifest, present, SHAPE, temporal=2)[0]
    _, views, _ = TestClips(manifest, present, noisy, temporal=2)[0]
    changed = (views != clean).any(dim=1)
    assert 0.008 < changed.float().mean() < 0.012
    # the noise belongs to the frame, not to the view: frame 21 is the second view's first
    shifted = replace(noisy, frames=1)
    _, other, _ = TestClips(manifest, present, shifted, temporal=60)[0]
    assert torch.equal(other[21, :, 0], views[1, :, 0])
    train = TrainClips(manifest, present, noisy, seed=1)[0, 0][1]
    same = torch.equal(train, TrainClips(manifest, present, SHAPE, seed=1)[0, 0][1])
    assert same == (where == "test")


def test_a_clips_stride_follows_its_rate(manifest):
    """The videos have 25 frames a second."""
    at_50 = replace(SHAPE, stride=4, fps=50.0)
    present = find_clips(manifest, max_bad_fraction=0)
    _, views, _ = TestClips(manifest, present, at_50)[0]
    assert numbers(views[0]) == list(range(0, 18, 2))
    spread = replace(SHAPE, stride=4, spacing="span")
    _, views, _ = TestClips(manifest, present, spread)[0]
    assert numbers(views[0]) == [0, 4, 8, 13, 17, 21, 26, 30, 35]


def test_a_reader_that_is_not_exact_is_refused(manifest):
    with pytest.raises(
        DataError, match=r"data.reader=decord was not measured to give the exact frames of 4 of 4"
    ):
        find_clips(manifest, reader="decord", max_bad_fraction=1)
    assert find_clips(manifest, reader="pyav", max_bad_fraction=0).readers == ("pyav",) * 4
    assert find_clips(manifest, max_bad_fraction=0).readers == ("opencv",) * 4


def test_missing_and_unreadable_are_counted_against_the_limit(manifest):
    gone = Clip("gone", "gone.mp4", 0, frames=60, readers=("pyav",))
    broken = Clip("broken", "a.mp4", 0, status="unreadable")
    more = Manifest(manifest.path, manifest.root, manifest.classes, (*manifest.clips, gone, broken))
    with pytest.raises(DataError, match=r"2 of 6 clips cannot be used, more than data.max_bad_fraction=0.1"):
        find_clips(more, max_bad_fraction=0.1)
    moved = Manifest(manifest.path, manifest.root / "moved", manifest.classes, manifest.clips)
    with pytest.raises(
        DataError, match=r"None of them is in .*moved, .*: if they are elsewhere, name that folder"
    ):
        find_clips(moved, max_bad_fraction=0)
    present = find_clips(more, max_bad_fraction=0.5)
    assert present.counts() == {"expected": 6, "present": 4, "missing": 1, "unreadable": 1}
    with pytest.raises(DataError, match="none of its 1"):
        find_clips(Manifest(manifest.path, manifest.root, manifest.classes, (gone,)), max_bad_fraction=1)


def test_masks_are_sampled_resized_cropped_and_flipped_with_their_frames(tmp_path):
    """The video shows the masks themselves, so that the fourth channel must look like the decoded colours."""
    spec = Motions(camera="moving", frames=16, size=48)
    clips = []
    for i in range(4):
        white = object_masks(spec, "train", i, np.arange(16))[..., None].repeat(3, axis=3)
        write_video(tmp_path / f"{i}.mp4", white, crf=0)
        size = {"frames": 16, "fps": 25, "width": 48, "height": 48}
        clips.append(Clip(id=f"train/{i:06d}", path=f"{i}.mp4", label=0, readers=("opencv", "pyav"), **size))
    manifest = Manifest(tmp_path / "train.csv", tmp_path, ("x",), tuple(clips))
    shape = ClipShape(
        frames=5, stride=2, crop=32, jitter=(36, 60), flip=0.5, test_side=40, test_crop=32,
        masks=partial(true_masks, spec),
    )  # fmt: skip
    present = find_clips(manifest, max_bad_fraction=0)
    train = TrainClips(manifest, present, shape, seed=1)
    views = [train[i, epoch][1] for i in range(4) for epoch in range(6)]
    views += [
        view for i in range(4) for view in TestClips(manifest, present, shape, temporal=2, spatial=3)[i][1]
    ]
    for view in views:
        assert view.shape == (4, 5, 32, 32)
        assert view.dtype == torch.uint8
        grey, mask = view[:3].float().mean(dim=0), view[3].float()
        assert (grey - mask).abs().max() <= 4  # rounding of the colours in the file
    assert sum((view[3] > 0).any() for view in views) > 40
    assert train.blank()[0].shape == (1, 4, 5, 32, 32)
    foreign = replace(clips[0], id="somebody's")
    with pytest.raises(DataError, match="only the generator"):
        true_masks(spec, foreign, np.arange(2))
