"""A clip's pictures: textures, objects, and how they are put together."""

from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from vmp.data.motions import pretraining
from vmp.data.motions.spec import Motions, generator, motion_of
from vmp.data.motions.state import Body, Motion

# textures: exponent of the spectrum, then mean and standard deviation of the colours in [0, 1]
_SCENE = ((1.4, 2.0), (0.2, 0.5), (0.04, 0.1))
_THING = ((1.2, 1.8), (0.5, 0.8), (0.1, 0.2))
# those of pretraining are smoother noise that is folded by a sine, which gives bands
_BANDED_SCENE = ((1.6, 2.4), (0.15, 0.45), (0.05, 0.12))
_BANDED_THING = ((1.4, 2.0), (0.5, 0.85), (0.1, 0.2))
_BANDS = 2.5
# what each field of noise adds to R, G, B: light and dark mostly, some colour
_TINTS = np.array([[0.8, 0.8, 0.8], [0.6, 0, -0.6], [-0.3, 0.5, -0.3]], np.float32)
# waves of an object's outline, and the most that one adds to its radius
_LOBES, _LOBE = 4, 0.12
# of the objects of pretraining, in radii: length and half the width of the arm
_ARM, _HALF_WIDTH = 1.6, 0.22


class Texture(NamedTuple):
    """What was drawn for a texture. Painting it costs far more than drawing, and masks need no paint."""

    white: np.ndarray  # (3, S, S) noise
    roughness: float  # exponent of its spectrum
    contrast: float
    mean: np.ndarray  # (3,) RGB
    bands: float  # frequency of the sine that folds the noise; 0: as it is

    def paint(self) -> np.ndarray:
        """(S, S, 3) float32 in [0, 1]: noise with a power-law spectrum, which continues over its edges."""
        size = len(self.white[0])
        weight = np.exp(-self.roughness * _log_frequency(size))  # (S, S/2 + 1)
        weight[0, 0] = 0
        field = np.fft.irfft2(np.fft.rfft2(self.white) * weight, (size, size))  # (3, S, S)
        field /= field.std(axis=(1, 2), keepdims=True)
        if self.bands:
            field = np.sin(self.bands * field) * np.float32(np.sqrt(2))
        colours = self.contrast * np.tensordot(field, _TINTS, (0, 0)) + self.mean  # (S, S, 3)
        return np.clip(colours, 0, 1).astype(np.float32)


class Thing(NamedTuple):
    """An object as it looks in a frame, in the middle of a picture of the clip's size."""

    picture: Callable[[int], np.ndarray]  # (S, S, 4) float32: colour times alpha, then alpha
    alpha: Callable[[int], np.ndarray]  # (S, S), of this picture


def render_clip(spec: Motions, split: str, index: int) -> tuple[np.ndarray, int]:
    """The frames before encoding, (T, S, S, 3) uint8 RGB, and the label."""
    motion = motion_of(spec, split, index)
    draw = generator(spec, split, index, "look")
    size, t = spec.size, np.arange(spec.frames)
    scene, things = _scene_and_things(spec, motion, draw)
    drift = 1 + draw.uniform(0, 0.1) * np.sin(2 * np.pi * (t / draw.uniform(20, 60) + draw.uniform()))  # (T,)

    clip = np.empty((spec.frames, size, size, 3), np.float32)
    tiled = np.tile(scene.paint(), (2, 2, 1))  # so that every view is one rectangle of it
    backdrop = _view(tiled, motion.camera[0])
    for i, frame in enumerate(clip):
        if i and (motion.camera[i] != motion.camera[i - 1]).any():
            backdrop = _view(tiled, motion.camera[i])
        frame[:] = backdrop
        for thing, body in zip(things, motion.bodies, strict=True):
            where, drawn = _placed(thing.picture(i), body, i, motion.camera[i])
            frame[where] = frame[where] * (1 - drawn[..., 3:]) + drawn[..., :3]
    clip *= 255 * drift[:, None, None, None].astype(np.float32)
    if spec.noise:
        # four times as fast as draw.normal, which would take a quarter of the whole time
        clip += np.float32(spec.noise) * _quantiles()[draw.integers(0, 1 << 16, clip.shape, np.uint16)]
    np.rint(clip, out=clip)
    return np.clip(clip, 0, 255, out=clip).astype(np.uint8), motion.label


def object_masks(spec: Motions, split: str, index: int, frames: np.ndarray) -> np.ndarray:
    """How much of each pixel the objects cover in these frames of a clip, (T,) -> (T, S, S) uint8, 255 for all of it.

    Rounded up, so that 0 means a pixel on which no object leaves a trace before the encoding.
    """
    motion = motion_of(spec, split, index)
    _, things = _scene_and_things(spec, motion, generator(spec, split, index, "look"))
    masks = np.zeros((len(frames), spec.size, spec.size), np.float32)
    for mask, i in zip(masks, frames, strict=True):
        for thing, body in zip(things, motion.bodies, strict=True):
            where, alpha = _placed(thing.alpha(i), body, i, motion.camera[i])
            mask[where] = mask[where] * (1 - alpha) + alpha
    return np.ceil(255 * masks).astype(np.uint8)


def _scene_and_things(
    spec: Motions, motion: Motion, draw: np.random.Generator
) -> tuple[Texture, list[Thing]]:
    """The scene, which continues over its edges, and the objects."""
    size = spec.size
    if spec.classes == "ten":
        scene = _texture(size, draw, _SCENE)
        lobed = _object(size, draw)
        return scene, [lobed for _ in motion.bodies]
    scene = _texture(size, draw, _BANDED_SCENE, bands=_BANDS)
    return scene, [_with_arm(size, draw, body) for body in motion.bodies]


def _texture(
    size: int, draw: np.random.Generator, kind: tuple[tuple[float, float], ...], *, bands: float = 0
) -> Texture:
    roughness, mean, contrast = kind
    white = draw.standard_normal((3, size, size), np.float32)
    exponent, strength = draw.uniform(*roughness), draw.uniform(*contrast)
    return Texture(white, exponent, strength, draw.uniform(*mean, 3), bands)


def _object(size: int, draw: np.random.Generator) -> Thing:
    """A lobed disc of radius S/4 with a texture of its own."""
    distance, waves = _polar(size)
    height, turn = draw.uniform(0, _LOBE, _LOBES), draw.uniform(0, 2 * np.pi, _LOBES)
    parts = np.concatenate([height * np.cos(turn), -height * np.sin(turn)]).astype(np.float32)
    outline = 1 + np.tensordot(parts, waves, 1)  # (S, S): 1 + sum of height cos(k angle + turn)
    alpha = np.clip(size / 4 * outline - distance + 0.5, 0, 1)  # one pixel of edge
    texture = _texture(size, draw, _THING)

    @lru_cache(maxsize=1)
    def picture() -> np.ndarray:
        return np.concatenate([texture.paint() * alpha[..., None], alpha[..., None]], axis=2)

    return Thing(lambda i: picture(), lambda i: alpha)


def _with_arm(size: int, draw: np.random.Generator, body: Body) -> Thing:
    """A polygon of radius S/4 with an arm of another texture, which turns about the polygon's middle."""
    import cv2

    def banded() -> np.ndarray:
        return _texture(size, draw, _BANDED_THING, bands=_BANDS).paint()

    middle, radius = size // 2, size / 4
    y, x = np.mgrid[:size, :size] - middle
    distance, sector = np.hypot(x, y), 2 * np.pi / draw.integers(3, 7)
    # from the middle, towards a side
    inner = distance * np.cos((np.arctan2(y, x) + np.pi) % sector - sector / 2)
    sides = np.clip(0.8 * radius - inner + 0.5, 0, 1)[..., None].astype(np.float32)  # (S, S, 1)
    polygon = np.concatenate([banded() * sides, sides], axis=2)
    along = np.hypot(x - np.clip(x, 0, _ARM * radius), y)  # distance from the arm's axis
    bar = np.clip(_HALF_WIDTH * radius - along + 0.5, 0, 1)[..., None].astype(np.float32)
    arm = np.concatenate([banded() * bar, bar], axis=2)

    @lru_cache(maxsize=1)
    def at(angle: float) -> np.ndarray:
        c, s = np.cos(angle), np.sin(angle)
        matrix = np.array([[c, -s, middle * (1 - c + s)], [s, c, middle * (1 - c - s)]])
        turned = cv2.warpAffine(arm, matrix, (size, size), flags=cv2.INTER_LINEAR)
        return polygon * (1 - turned[..., 3:]) + turned

    assert body.arm is not None
    angles = body.arm
    return Thing(
        lambda i: at(float(angles[i])),
        lambda i: np.ascontiguousarray(at(float(angles[i]))[..., 3]),
    )


@lru_cache(maxsize=1)
def _quantiles() -> np.ndarray:
    """(65536,) float32: quantiles of the standard normal distribution, at the middles of equal shares."""
    normal = NormalDist()
    return np.array([normal.inv_cdf((i + 0.5) / (1 << 16)) for i in range(1 << 16)], np.float32)


@lru_cache(maxsize=2)
def _log_frequency(size: int) -> np.ndarray:
    """(S, S/2 + 1) float32: log of cycles per frame, at least one, in the layout of np.fft.rfft2."""
    y, x = np.fft.fftfreq(size)[:, None] * size, np.fft.rfftfreq(size) * size
    return np.log(np.maximum(np.hypot(x, y), 1)).astype(np.float32)


@lru_cache(maxsize=2)
def _polar(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Distance from the middle, (S, S), and cos(k angle) then sin(k angle) for k = 1, 2, ..., (2 K, S, S)."""
    y, x = np.mgrid[:size, :size] - size // 2
    turns = np.arange(1, _LOBES + 1)[:, None, None] * np.arctan2(y, x)
    waves = np.concatenate([np.cos(turns), np.sin(turns)])
    return np.hypot(x, y).astype(np.float32), waves.astype(np.float32)


def _view(tiled: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """(S, S, 3) of a scene tiled twice each way, its top left pixel at (x, y) of the torus, interpolated."""
    import cv2

    size = len(tiled) // 2
    x, y = corner % size + (size - 1) / 2  # the view's middle
    return cv2.getRectSubPix(tiled, (size, size), (float(x), float(y)))


def _placed(thing: np.ndarray, body: Body, i: int, camera: np.ndarray) -> tuple[Any, np.ndarray]:
    """The pixels of frame i that may show the object, and what it puts there: its centre at (x, y) of the torus, turned
    clockwise by its angle and stretched.

    Args:
        thing: (S, S) or (S, S, channels).
    """
    import cv2

    size, place, radius = len(thing), body.place[i] - camera, body.radius[i]
    zoom = radius / (size / 4)
    c, s = zoom * np.cos(body.angle[i]), zoom * np.sin(body.angle[i])
    turn = np.array([[c, -s], [s, c]])  # y points down, so this turns clockwise
    reach = 1 + _LOBE * _LOBES
    if body.stretch is not None and body.axis is not None:
        a, e = body.axis[i], np.exp(body.stretch[i])
        axes = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
        turn = axes @ np.diag([e, 1 / e]) @ axes.T @ turn
        reach = (_ARM + _HALF_WIDTH) * np.exp(pretraining.STRETCH)
    half = min(int(radius * reach) + 3, size // 2)  # the box that holds it
    whole = np.floor(place).astype(int)
    x, y = place - whole + half
    middle = size // 2
    (c, minus_s), (s, d) = turn
    matrix = np.array([[c, minus_s, x - (c + minus_s) * middle], [s, d, y - (s + d) * middle]])
    drawn = cv2.warpAffine(thing, matrix, (2 * half, 2 * half), flags=cv2.INTER_LINEAR)
    box = np.arange(-half, half)
    return np.ix_((whole[1] + box) % size, (whole[0] + box) % size), drawn
