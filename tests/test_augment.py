"""Augmentation of whole clips: one draw for all frames, and the same clips however an epoch is shared out."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from vmp.data.augment import GREY, WHOLE_CLIP, Augmentation, _rand_augment
from vmp.data.dataset import ClipShape, TrainClips, collate_train, loader_processes
from vmp.data.manifest import read_manifest
from vmp.data.present import find_clips
from vmp.data.sampler import TrainBatches, generator

SHAPE = ClipShape(frames=5, stride=1, crop=32, jitter=(40, 48), test_side=40, test_crop=32)
# Cubuk et al., RandAugment (2020), Section 3
OPERATIONS = [
    *("AutoContrast", "Brightness", "Color", "Contrast", "Equalize", "Identity", "Posterize", "Rotate"),
    *("Sharpness", "ShearX", "ShearY", "Solarize", "TranslateX", "TranslateY"),
]


def transform(operation: str, frames: torch.Tensor) -> torch.Tensor:
    """One operation of RandAugment at magnitude 0.7 of its range, (T, 3, H, W) -> the same."""
    augment = _rand_augment(1, 21)
    magnitudes = augment._AUGMENTATION_SPACE[operation][0](31, *frames.shape[2:])
    magnitude = 0.0 if magnitudes is None else float(magnitudes[21])
    return augment._apply_image_or_video_transform(
        frames, operation, magnitude, interpolation=augment.interpolation, fill=augment._fill
    )


def test_the_operations_are_those_of_the_paper():
    assert sorted(_rand_augment(1, 9)._AUGMENTATION_SPACE) == OPERATIONS


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_is_the_same_for_every_frame(operation):
    """Also in a clip whose brightness differs from frame to frame, to which some operations adapt."""
    rng = np.random.default_rng(0)
    frames = torch.from_numpy(rng.integers(20, 200, (4, 3, 16, 16), dtype=np.uint8))
    frames[1] //= 3
    frames[3] = frames[0]
    out = transform(operation, frames)
    assert out.shape == frames.shape
    assert torch.equal(out[0], out[3])
    assert operation == "Identity" or not torch.equal(out, frames)
    if operation in WHOLE_CLIP:  # a colour of one frame goes where it goes in the others
        for channel in range(3):
            values = zip(
                frames[:, channel].flatten().tolist(), out[:, channel].flatten().tolist(), strict=True
            )
            pairs = set(values)
            assert len(pairs) == len({before for before, _ in pairs})


def test_a_still_clip_stays_still():
    picture = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (3, 1, 32, 32), dtype=np.uint8))
    clip, changed = picture.expand(3, 5, 32, 32).contiguous(), 0
    augmentation = Augmentation(rand_ops=2, rand_magnitude=20, erase=0.5)
    before = torch.get_rng_state()
    for seed in range(12):
        out = augmentation.change(clip, np.random.default_rng(seed))
        assert torch.equal(out, out[:, :1].expand_as(out))
        assert torch.equal(out, augmentation.change(clip, np.random.default_rng(seed)))
        changed += not torch.equal(out, clip)
    assert changed > 9
    assert torch.equal(torch.get_rng_state(), before)  # which dropout draws from


def test_what_is_erased_is_a_grey_box_through_all_frames():
    clip = torch.zeros(3, 4, 32, 32, dtype=torch.uint8)
    out = Augmentation(erase=1.0).change(clip, np.random.default_rng(0))
    grey = out[0, 0] == GREY
    rows, columns = grey.any(1).sum(), grey.any(0).sum()
    assert 0.01 * 32**2 < grey.sum() == rows * columns < 0.4 * 32**2
    assert torch.equal(out == GREY, grey.expand(3, 4, 32, 32))


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_clips_are_what_their_labels_say(kind):
    rng = np.random.default_rng(2)
    a, b = (torch.from_numpy(rng.integers(0, 256, (3, 4, 32, 32), dtype=np.uint8)) for _ in range(2))
    shares = []
    for seed in range(40):
        items = [(7, a, 0), (9, b, 2)]
        (_, out, soft), (_, _, other) = Augmentation(**{kind: 1.0}).mix_pairs(
            items, [generator(seed, 0), generator(seed, 1)], classes=4
        )
        share = float(soft[0])
        torch.testing.assert_close(soft, torch.tensor([share, 0, 1 - share, 0]))
        torch.testing.assert_close(other[0] + other[2], torch.tensor(1.0))
        if kind == "mixup":
            expected = share * a.double() + (1 - share) * b.double()
            assert (out - expected).abs().max() < 0.5 + 1e-3
        else:
            own = (out == a).all(dim=0)  # (T, H, W)
            assert torch.equal(own, own[:1].expand_as(own))
            assert abs(float(own[0].double().mean()) - share) < 0.01
            assert ((out == a) | (out == b)).all()
        shares.append(share)
    assert 0.4 < np.mean(shares) < 0.8  # boxes are cut off at the edges
    assert max(shares) > 0.9 > 0.3 > min(shares)
    same = Augmentation(mixup=1.0).mix_pairs([(0, a, 1), (1, b, 1)], [generator(3), generator(4)], classes=2)
    assert [label.tolist() for _, _, label in same] == [[0, 1], [0, 1]]


@pytest.fixture
def clips(data):
    """Of 24 videos."""
    manifest = read_manifest(data / "train.csv")
    present = find_clips(manifest, max_bad_fraction=0)
    strong = Augmentation(mixup=0.8, cutmix=1.0, rand_ops=2, erase=0.25)
    return TrainClips(manifest, present, SHAPE, seed=3, augmentation=strong)


def epoch(clips, *, batch: int, world: int = 1, workers: int = 0, first: int = 0):
    """Clip -> its mixed frames and label, of epoch 1."""
    found = {}
    for rank in range(world):
        batches = TrainBatches(
            clips=24, batch=batch, batches=24 // batch // world, seed=3, rank=rank, world=world
        )
        batches.start_at(1, first)
        loader = DataLoader(
            clips, batch_sampler=batches, collate_fn=collate_train, **loader_processes(clips, workers)
        )
        for one in loader:
            found |= {int(i): (c, y) for i, c, y in zip(one.indices, one.clips, one.labels, strict=True)}
    return found


@pytest.mark.parametrize(
    "how",
    [
        {"batch": 2, "world": 2},
        pytest.param({"batch": 4, "first": 3}, marks=pytest.mark.slow),
        pytest.param({"batch": 4, "workers": 2}, marks=pytest.mark.slow),
    ],
)
def test_the_mixed_clips_are_the_same_however_an_epoch_is_shared_out(clips, how):
    whole = epoch(clips, batch=8)
    assert len(whole) == 24
    assert all(label.shape == (2,) and abs(float(label.sum()) - 1) < 1e-6 for _, label in whole.values())
    assert sum(float(label.max()) < 0.99 for _, label in whole.values()) > 5
    found = epoch(clips, **how)
    assert len(found) == (12 if "first" in how else 24)
    for index, (clip, label) in found.items():
        assert torch.equal(clip, whole[index][0])
        assert torch.equal(label, whole[index][1])


def test_a_clip_whose_partner_cannot_be_read_stays_as_it_is(clips):
    batches = TrainBatches(clips=24, batch=2, batches=12, seed=3)
    pair = next(iter(batches))
    first, second = clips[pair[0]], clips[pair[1]]
    error = OSError("gone")
    mixed = clips.augmentation.mix_pairs(
        [first, (second[0], error, second[2])], [generator(0), generator(1)], classes=2
    )
    assert torch.equal(mixed[0][1], first[1])
    assert mixed[0][2].tolist() == torch.eye(2)[first[2]].tolist()
    assert mixed[1][1] is error
