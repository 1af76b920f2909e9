"""The motions for pretraining: other classes than the ten, each another path, and no frame tells which."""

import math
from itertools import combinations

import numpy as np
import pytest

from vmp.data.motions import CLASSES, Motions, folder_name, motion_of, render_clip
from vmp.data.motions.pretraining import _MEETINGS, _ONE, RADIUS, STRETCH, bodies_of
from vmp.data.motions.pretraining import CLASSES as PRETRAINING
from vmp.data.motions.state import Body, camera_path
from vmp.errors import ConfigError

SPEC = Motions(classes="pretraining", camera="static", train=60, val=60, test=60, noise=0)


def paths(name: str, seed: int, frames: int = 16) -> tuple[Body, ...]:
    return bodies_of(name, 64, frames, np.random.default_rng(seed))[1]


def numbers(body: Body) -> np.ndarray:
    """(T, 7)"""
    assert body.stretch is not None
    assert body.axis is not None
    assert body.arm is not None
    columns = (body.angle, body.radius, body.stretch, body.axis, body.arm)
    return np.column_stack([body.place, *columns])


def test_the_classes_are_many_and_none_of_the_ten() -> None:
    assert len(set(PRETRAINING)) == len(PRETRAINING) >= 40
    assert not set(PRETRAINING) & set(CLASSES)
    assert Motions(classes="pretraining").names == PRETRAINING
    with pytest.raises(ConfigError, match=r"^dataset\.classes = 'twelve': must be one of ten, pretraining"):
        Motions(classes="twelve")


def test_the_clips_of_the_ten_classes_are_what_they_were() -> None:
    assert folder_name(Motions()) == "static-64x64x16-800+200+300-18f886bf"
    assert folder_name(Motions(camera="moving", size=40, frames=24, fps=30)).endswith("-5fc5a456")
    motion = motion_of(Motions(camera="moving"), "train", 7)
    drawn = [*motion.place[3], motion.angle[3], motion.radius[3], *motion.camera[3], motion.speed]
    np.testing.assert_allclose(
        drawn,
        [31.574310083, 0.858043683, 3.275208427, 13.364761246, 41.326360771, 7.19671438, 1.621412551],
        rtol=1e-6,
    )
    frames, label = render_clip(Motions(camera="moving"), "train", 7)
    assert label == 7
    np.testing.assert_allclose(
        frames[5, 20, ::16].astype(int),
        [[80, 140, 109], [91, 134, 71], [92, 132, 99], [34, 160, 124]],
        atol=1,
    )


def test_every_class_is_a_motion_of_its_own() -> None:
    for seed in range(3):
        moved = {}
        for name in PRETRAINING:
            actor, other = (numbers(body) for body in paths(name, seed))
            assert (actor != actor[0]).any(), name
            assert (other != other[0]).any() == (name not in _ONE), name
            moved[name] = np.stack([actor, other])
        for one, two in combinations(PRETRAINING, 2):
            assert np.abs(moved[one] - moved[two]).max() > 0.1, (one, two)


@pytest.mark.parametrize("name", _MEETINGS)
def test_two_objects_meet_or_part(name: str) -> None:
    axis, way = _MEETINGS[name]
    for seed in range(20):
        first, second = (body.place for body in paths(name, seed))
        apart = np.abs((second - first + 32) % 64 - 32)  # (T, 2), round the torus
        assert (first[:, 1 - axis] == first[0, 1 - axis]).all()
        steps = np.diff(apart[:, axis])
        assert (np.sign(steps) == way).sum() >= 13  # of 15: it starts anew where they meet


def test_one_frame_is_drawn_alike_under_every_class() -> None:
    frames = (0, 7, 15)

    def on_circles(name: str, seed: int) -> np.ndarray:
        """(3, 18), each uniform on [0, 1)."""
        bodies = paths(name, seed)
        values = [(bodies[1].place - bodies[0].place) / 64]
        for body in bodies:
            place, angle, radius, stretch, axis, arm = np.split(numbers(body), [2, 3, 4, 5, 6], axis=1)
            values += [place / 64, angle / (2 * np.pi), arm / (2 * np.pi), axis / np.pi]
            values += [np.log(radius / RADIUS[0]) / np.log(RADIUS[1] / RADIUS[0])]
            values += [np.arcsin(np.clip(stretch / STRETCH, -1, 1)) / np.pi + 0.5]
        return np.concatenate(values, axis=1)[list(frames)] % 1

    def distance(rows: np.ndarray) -> float:
        """The largest of Kolmogorov's distances to a uniform distribution."""
        values, n = np.sort(rows.reshape(len(rows), -1), axis=0), len(rows)
        steps = np.arange(1, n + 1)[:, None] / n
        return float(np.maximum(steps - values, values - steps + 1 / n).max())

    count = 100
    # one of these 52 x 48 distances is over it with a chance below 1 in 1000
    bound = math.sqrt(math.log(2 * len(PRETRAINING) * 48 * 1000) / (2 * count))
    for i, name in enumerate(PRETRAINING):
        rows = np.stack([on_circles(name, 1000 * i + k) for k in range(count)])
        assert distance(rows) < bound, name
    rows[..., 2] /= 2  # objects on the left only
    assert distance(rows) > bound, "this test could not see a leak"


def test_objects_are_drawn_where_the_motion_says() -> None:
    y, x = np.mgrid[:64, :64]
    for index in range(8):
        frames, label = render_clip(SPEC, "train", index)
        motion = motion_of(SPEC, "train", index)
        assert SPEC.names[label] == SPEC.names[motion.label]
        beside, near = np.ones((16, 64, 64), bool), np.zeros((16, 64, 64), bool)
        for body in motion.bodies:
            at = (body.place - motion.camera)[:, :, None, None]  # (T, 2, 1, 1)
            away = np.hypot(*((axis - at[:, i] + 32) % 64 - 32 for i, axis in enumerate((x, y))))  # (T, S, S)
            beside &= away > 2.5 * body.radius[:, None, None]
            near |= away < 0.4 * body.radius[:, None, None]
        grey = frames.astype(float).mean(axis=3)
        still = beside.all(axis=0)
        assert still.any()
        # beside the objects only the light changes: each frame is the first one times a number
        first, later = grey[0, still], grey[:, still]
        gains = later @ first / (first @ first)
        assert np.abs(later - gains[:, None] * first).max() < 1.5
        assert grey[near].mean() > grey[beside].mean() + 20  # objects are brighter than the scene


def test_a_camera_is_drawn_for_each_clip() -> None:
    cameras = [camera_path("both", 64, 4, np.random.default_rng(i)) for i in range(200)]
    still = sum((camera == camera[0]).all() for camera in cameras)
    assert 70 <= still <= 130
