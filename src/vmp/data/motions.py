"""The embedded dataset `motions`: short H.264 clips whose class is a motion and never a look.

Notable here:
- any one frame, at any index, has the same distribution under every class: place uniform on a torus (an object that
  leaves on one side enters on the other), angle uniform, log of the radius uniform on a circle, no motion blur. So
  a classifier of single frames is at chance by construction, and only the order of frames tells the class;
- look, place, speed and camera are drawn independently of the class;
- camera "static": the scene stands still. "moving": scene and object share a smooth pan plus hand jitter, and the
  class is the motion relative to the scene;
- every frame is encoded on its own: a predicted frame would carry traces of earlier ones, hence of the motion;
- a clip is a function of (seed, camera, split, index) and the picture settings; neither the number of clips nor
  the number of workers changes it;
- reversed in time, move_left is move_right, so a flip of the frames or of left and right changes the class.

Shapes: T frames of S x S pixels, RGB; x to the right, y down; lengths in pixels, angles in radians, clockwise.
"""

import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist
from typing import get_args

import numpy as np

from vmp.choices import Camera
from vmp.data.encode import write_video
from vmp.data.manifest import Clip, write_classes, write_manifest
from vmp.errors import ConfigError
from vmp.machine import cpus

CLASSES: tuple[str, ...] = (
    *("move_left", "move_right", "move_up", "move_down"),
    *("rotate_clockwise", "rotate_counterclockwise"),
    *("oscillate_horizontally", "oscillate_vertically"),
    *("approach", "recede"),
)
CAMERAS = get_args(Camera)
SPLITS = ("train", "val", "test")
# all of them return exactly these frames; tests/test_motions.py checks it
READERS = ("opencv", "pyav", "decord")

_VERSION = 1  # part of the folder's name; raise it when the same spec would give other clips
_CHUNK = 16  # clips per task of a worker

# For a frame of 64 x 64 pixels; lengths and speeds grow with the frame.
_RADIUS = (8.0, 16.0)
_SPEED = (1.0, 2.0)  # pixels a frame; of the rim for rotation and scale, root mean square for oscillation
_PERIOD = (5.0, 9.0)  # frames, of an oscillation
_PAN = (0.4, 1.2)  # pixels a frame
_JITTER = 0.3  # pixels, standard deviation a frame
# textures: exponent of the spectrum, then mean and standard deviation of the colours in [0, 1]
_SCENE = ((1.4, 2.0), (0.2, 0.5), (0.04, 0.1))
_THING = ((1.2, 1.8), (0.5, 0.8), (0.1, 0.2))
# what each field of noise adds to R, G, B: light and dark mostly, some colour
_TINTS = np.array([[0.8, 0.8, 0.8], [0.6, 0, -0.6], [-0.3, 0.5, -0.3]], np.float32)
# waves of an object's outline, and the most that one adds to its radius
_LOBES, _LOBE = 4, 0.12


@dataclass(frozen=True)
class Motions:
    """What the clips are like."""

    camera: str = "static"  # or "moving", for pan and hand jitter
    train: int = 800  # clips per split, balanced over the classes
    val: int = 200
    test: int = 300
    frames: int = 16  # of each clip
    size: int = 64  # both height and width, in pixels
    fps: int = 25
    noise: float = (
        6.0  # standard deviation of the sensor's noise, in grey levels of 255, drawn for each frame
    )
    crf: int = 23  # of H.264; 0 is lossless, 51 the worst
    seed: int = 0

    def __post_init__(self) -> None:
        least = len(CLASSES)
        if self.camera not in CAMERAS:
            raise ConfigError(f"dataset.camera = {self.camera!r}: must be one of {', '.join(CAMERAS)}")
        for key, low, high in (
            *((split, least, 1_000_000) for split in SPLITS),  # at least one clip per class
            ("frames", 2, 10_000),
            ("size", 32, 1024),
            ("fps", 1, 1000),
            ("crf", 0, 51),
            ("seed", 0, 2**63 - 1),
        ):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                why = f" (one clip for each of the {least} classes)" if key in SPLITS else ""
                raise ConfigError(f"dataset.{key} = {value!r}: must be a whole number in {low}..{high}{why}")
        if self.size % 2:
            raise ConfigError(f"dataset.size = {self.size}: must be even, as H.264 halves the colour planes")
        noise = self.noise
        if isinstance(noise, bool) or not isinstance(noise, int | float) or not 0 <= noise <= 64:
            raise ConfigError(f"dataset.noise = {noise!r}: must be a number in 0..64, grey levels of 255")


def folder_name(spec: Motions) -> str:
    """A name that is unique to the spec and the version of the generator."""
    values = {f.name: getattr(spec, f.name) for f in fields(spec)} | {"noise": float(spec.noise)}  # 8 is 8.0
    text = repr([_VERSION, *values.items()])
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    shape = f"{spec.size}x{spec.size}x{spec.frames}"
    return f"{spec.camera}-{shape}-{spec.train}+{spec.val}+{spec.test}-{digest}"


# ---------------------------------------------------------------------------------------------------------------
# Motion: where the object and the camera are in each frame


@dataclass(frozen=True)
class Motion:
    """The true motion of one clip, relative to the scene."""

    label: int
    speed: float  # pixels a frame
    place: np.ndarray  # (T, 2), x and y of the object's centre in the scene, not wrapped
    angle: np.ndarray  # (T,), clockwise
    radius: np.ndarray  # (T,), wrapped into the range of radii
    camera: np.ndarray  # (T, 2), x and y in the scene of the frame's top left corner


def label_of(spec: Motions, split: str, index: int) -> int:
    """Each run of len(CLASSES) clips has every class once, in a random order, so that names do not tell the class."""
    block, within = divmod(index, len(CLASSES))
    return int(_generator(spec, split, block, "order").permutation(len(CLASSES))[within])


def motion_of(spec: Motions, split: str, index: int) -> Motion:
    label = label_of(spec, split, index)
    name = CLASSES[label]
    draw = _generator(spec, split, index, "motion")
    unit = spec.size / 64
    t = np.arange(spec.frames)  # (T,)

    # draws do not depend on the class, and each is stationary, so frame t has the distribution of frame 0
    start = draw.uniform(0, spec.size, 2)
    turn = draw.uniform(0, 2 * np.pi)
    low, span = np.log(_RADIUS[0]), np.log(_RADIUS[1] / _RADIUS[0])
    scale = draw.uniform()  # of the log of the radius, in [0, 1), a circle
    speed = np.exp(draw.uniform(*np.log(_SPEED)))
    period, phase = draw.uniform(*_PERIOD), draw.uniform(0, 2 * np.pi)
    camera = _camera(spec, draw)

    place = np.tile(start, (spec.frames, 1))  # (T, 2)
    angle, circle = np.full(spec.frames, turn), np.full(spec.frames, scale)
    rim = np.exp(low + 0.5 * span)  # a medium radius; with the object's own, size would depend on the class
    match name.split("_"):
        case ["move", way]:
            x, y = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[way]
            place = place + speed * unit * t[:, None] * np.array([x, y])
        case ["rotate", way]:
            angle = angle + (1 if way == "clockwise" else -1) * speed / _RADIUS[0] * t
        case ["oscillate", way]:
            # sin^2 averages 1/2, so this amplitude makes the root mean square speed `speed`
            swing = speed * unit * period / (np.sqrt(2) * np.pi) * np.sin(2 * np.pi * t / period + phase)
            place = place + swing[:, None] * np.array([1, 0] if way == "horizontally" else [0, 1])
        case _:
            circle = (circle + (1 if name == "approach" else -1) * speed / rim / span * t) % 1.0
    return Motion(label, speed * unit, place, angle, np.exp(low + circle * span) * unit, camera)


def _camera(spec: Motions, draw: np.random.Generator) -> np.ndarray:
    """(T, 2): a uniform start and, for a moving camera, a pan that bends slowly, and jitter."""
    unit = spec.size / 64
    start = draw.uniform(0, spec.size, 2)  # also the fraction of a pixel, on which interpolation depends
    speed, heading = draw.uniform(*_PAN), draw.uniform(0, 2 * np.pi)
    bend = draw.uniform(-0.08, 0.08)  # radians a frame
    jitter = draw.normal(0, _JITTER, (spec.frames, 2))
    if spec.camera == "static":
        return np.tile(start, (spec.frames, 1))
    course = heading + bend * np.arange(spec.frames)  # (T,)
    steps = speed * np.stack([np.cos(course), np.sin(course)], axis=1)  # (T, 2)
    return start + unit * (np.cumsum(steps, axis=0) + jitter)


# ---------------------------------------------------------------------------------------------------------------
# Pictures


def render_clip(spec: Motions, split: str, index: int) -> tuple[np.ndarray, int]:
    """The frames before encoding, (T, S, S, 3) uint8 RGB, and the label."""
    motion = motion_of(spec, split, index)
    draw = _generator(spec, split, index, "look")
    size, t = spec.size, np.arange(spec.frames)
    scene = _texture(size, draw, _SCENE)  # (S, S, 3), in [0, 1], continues over its edges
    thing = _object(size, draw)  # (S, S, 4)
    drift = 1 + draw.uniform(0, 0.1) * np.sin(2 * np.pi * (t / draw.uniform(20, 60) + draw.uniform()))  # (T,)

    clip = np.empty((spec.frames, size, size, 3), np.float32)
    tiled = np.tile(scene, (2, 2, 1))  # so that every view is one rectangle of it
    backdrop = _view(tiled, motion.camera[0])
    for i, frame in enumerate(clip):
        if i and spec.camera == "moving":
            backdrop = _view(tiled, motion.camera[i])
        frame[:] = backdrop
        _paste(frame, thing, motion.place[i] - motion.camera[i], motion.angle[i], motion.radius[i])
    clip *= 255 * drift[:, None, None, None].astype(np.float32)
    if spec.noise:
        # four times as fast as draw.normal, which would take a quarter of the whole time
        clip += np.float32(spec.noise) * _quantiles()[draw.integers(0, 1 << 16, clip.shape, np.uint16)]
    np.rint(clip, out=clip)
    return np.clip(clip, 0, 255, out=clip).astype(np.uint8), motion.label


def _texture(size: int, draw: np.random.Generator, kind: tuple[tuple[float, float], ...]) -> np.ndarray:
    """(S, S, 3) float32 in [0, 1]: noise with a power-law spectrum, which continues over its edges."""
    roughness, mean, contrast = kind
    white = draw.standard_normal((3, size, size), np.float32)
    weight = np.exp(-draw.uniform(*roughness) * _log_frequency(size))  # (S, S/2 + 1)
    weight[0, 0] = 0
    field = np.fft.irfft2(np.fft.rfft2(white) * weight, (size, size))  # (3, S, S)
    field /= field.std(axis=(1, 2), keepdims=True)
    colours = draw.uniform(*contrast) * np.tensordot(field, _TINTS, (0, 0))  # (S, S, 3)
    colours += draw.uniform(*mean, 3)
    return np.clip(colours, 0, 1).astype(np.float32)


def _object(size: int, draw: np.random.Generator) -> np.ndarray:
    """(S, S, 4) float32: a lobed disc of radius S/4 with a texture of its own; colour times alpha, then alpha."""
    distance, waves = _polar(size)
    height, turn = draw.uniform(0, _LOBE, _LOBES), draw.uniform(0, 2 * np.pi, _LOBES)
    parts = np.concatenate([height * np.cos(turn), -height * np.sin(turn)]).astype(np.float32)
    outline = 1 + np.tensordot(parts, waves, 1)  # (S, S): 1 + sum of height cos(k angle + turn)
    alpha = np.clip(size / 4 * outline - distance + 0.5, 0, 1)[..., None]  # one pixel of edge
    return np.concatenate([_texture(size, draw, _THING) * alpha, alpha], axis=2)


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


def _paste(frame: np.ndarray, thing: np.ndarray, place: np.ndarray, angle: float, radius: float) -> None:
    """Draw the object into the frame, its centre at (x, y) of the torus, turned clockwise by `angle`."""
    import cv2

    size = len(frame)
    half = min(int(radius * (1 + _LOBE * _LOBES)) + 3, size // 2)  # the box that holds it
    whole = np.floor(place).astype(int)
    x, y = place - whole + half
    zoom = radius / (size / 4)
    c, s = zoom * np.cos(angle), zoom * np.sin(angle)  # y points down, so this turns clockwise
    middle = size // 2
    matrix = np.array([[c, -s, x - (c - s) * middle], [s, c, y - (s + c) * middle]])
    drawn = cv2.warpAffine(thing, matrix, (2 * half, 2 * half), flags=cv2.INTER_LINEAR)
    box = np.arange(-half, half)
    where = np.ix_((whole[1] + box) % size, (whole[0] + box) % size)
    frame[where] = frame[where] * (1 - drawn[..., 3:]) + drawn[..., :3]


# ---------------------------------------------------------------------------------------------------------------
# Files


def make_motions(root: Path, spec: Motions, *, workers: int | None = None, progress: bool = True) -> Path:
    """Make the clips under root/folder_name(spec) that are missing, and return that folder.

    Args:
        workers: processes; None: one per core, fewer for few clips; 1: this process.
    """
    from filelock import FileLock

    folder = Path(root) / folder_name(spec)
    if _complete(folder, spec):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if _complete(folder, spec):  # another process has made it meanwhile
            return folder
        for split in SPLITS:
            (folder / f"{split}.csv").unlink(missing_ok=True)  # manifests say that all clips are there
            (folder / "videos" / split).mkdir(parents=True, exist_ok=True)
        for stale in folder.rglob(".*.tmp*"):  # left by a process that was killed
            stale.unlink(missing_ok=True)
        _make_all(folder, spec, workers, progress)
        write_classes(folder / "classes.txt", CLASSES)
        for split in SPLITS:
            rows = (_row(spec, split, i) for i in range(getattr(spec, split)))
            write_manifest(folder / f"{split}.csv", rows)
    return folder


def _complete(folder: Path, spec: Motions) -> bool:
    """Whether all manifests, and a file for each of their rows, are there; takes milliseconds."""
    for split in SPLITS:
        there = {path.name for path in (folder / "videos" / split).glob("*.mp4")}
        if not all(f"{i:06d}.mp4" in there for i in range(getattr(spec, split))):
            return False
    return all((folder / name).is_file() for name in ("classes.txt", *(f"{split}.csv" for split in SPLITS)))


def _make_all(folder: Path, spec: Motions, workers: int | None, progress: bool) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    chunks = [
        (split, range(start, min(start + _CHUNK, getattr(spec, split))))
        for split in SPLITS
        for start in range(0, getattr(spec, split), _CHUNK)
    ]
    if workers is None:
        # a worker takes about half a second to start, in which this process makes some 40 clips
        workers = min(cpus(), 1 + len(chunks) // 8)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task(f"making {folder.name}", total=spec.train + spec.val + spec.test)
        for made in _make_chunks(folder, spec, chunks, min(workers, len(chunks))):
            bar.advance(task, made)


def _make_chunks(folder: Path, spec: Motions, chunks: list[tuple[str, range]], workers: int) -> Iterator[int]:
    """Make the chunks; yields the number of clips after each."""
    if workers <= 1:
        yield from (_make_chunk(folder, spec, *chunk) for chunk in chunks)
        return
    # spawn: the caller may hold torch's threads or a CUDA context, which a fork would break
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=_start_worker)
    try:
        for done in as_completed([pool.submit(_make_chunk, folder, spec, *chunk) for chunk in chunks]):
            yield done.result()
    finally:  # also on Ctrl-C: workers finish their chunk, and the rest is dropped
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    import cv2

    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the first one handles it
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()  # a parent that is killed cannot tell its workers, which would wait for ever
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _make_chunk(folder: Path, spec: Motions, split: str, indices: range) -> int:
    for index in indices:
        path = folder / "videos" / split / f"{index:06d}.mp4"
        if path.exists() and _count(path) == spec.frames:
            continue  # an earlier making got this far
        frames, _ = render_clip(spec, split, index)
        write_video(path, frames, fps=spec.fps, crf=spec.crf, keyframe_every=1)
        if (found := _count(path)) != spec.frames:
            raise RuntimeError(f"{path}: {found} frames can be decoded of {spec.frames} written")
    return len(indices)


def _count(path: Path) -> int:
    """How many frames PyAV decodes; 0 for a file that it cannot read."""
    import av

    try:
        with av.open(str(path)) as container:
            container.streams.video[0].thread_type = "NONE"
            return sum(1 for _ in container.decode(video=0))
    except (av.FFmpegError, IndexError):
        return 0


def _row(spec: Motions, split: str, index: int) -> Clip:
    motion = motion_of(spec, split, index)
    return Clip(
        id=f"{split}/{index:06d}",
        path=f"videos/{split}/{index:06d}.mp4",
        label=motion.label,
        frames=spec.frames,
        fps=float(spec.fps),
        width=spec.size,
        height=spec.size,
        readers=READERS,
        tags={"speed": f"{motion.speed:.3f}"},  # pixels a frame
    )


def _generator(spec: Motions, split: str, index: int, purpose: str) -> np.random.Generator:
    """Random numbers for one purpose in one clip, whatever else is drawn."""
    purposes = ("order", "motion", "look")
    where = CAMERAS.index(spec.camera), SPLITS.index(split), index, purposes.index(purpose)
    return np.random.default_rng(np.random.SeedSequence([spec.seed, *where]))
