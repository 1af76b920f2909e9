"""The settings of the dataset, the name of its folder, and the label and motion of each clip."""

import hashlib
from dataclasses import dataclass, fields
from typing import get_args

import numpy as np

from vmp.choices import Camera, MotionClasses
from vmp.data.motions import pretraining, ten
from vmp.data.motions.state import Motion, camera_path
from vmp.errors import ConfigError

CAMERAS = ("static", "moving")  # of a clip
SPLITS = ("train", "val", "test")
_VERSION = 1  # part of the folder's name; raise it when the same spec would give other clips


@dataclass(frozen=True)
class Motions:
    """What the clips are like."""

    camera: str = "static"  # or "moving", for pan and hand jitter; "both": drawn for each clip
    train: int = 800  # clips per split, balanced over the classes
    val: int = 200
    test: int = 300
    frames: int = 16  # of each clip
    size: int = 64  # both height and width, in pixels
    fps: int = 25
    # standard deviation of the sensor's noise, in grey levels of 255, drawn for each frame
    noise: float = 6.0
    crf: int = 23  # of H.264; 0 is lossless, 51 the worst
    seed: int = 0
    classes: str = "ten"  # or "pretraining"

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes, by label."""
        return ten.CLASSES if self.classes == "ten" else pretraining.CLASSES

    def __post_init__(self) -> None:
        for key, allowed in (("camera", get_args(Camera)), ("classes", get_args(MotionClasses))):
            if (value := getattr(self, key)) not in allowed:
                raise ConfigError(f"dataset.{key} = {value!r}: must be one of {', '.join(allowed)}")
        least = len(self.names)
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
    if spec.classes == "ten":
        del values["classes"]
    text = repr([_VERSION, *values.items()])
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    shape = f"{spec.size}x{spec.size}x{spec.frames}"
    kind = "" if spec.classes == "ten" else f"{spec.classes}-"
    return f"{kind}{spec.camera}-{shape}-{spec.train}+{spec.val}+{spec.test}-{digest}"


def label_of(spec: Motions, split: str, index: int) -> int:
    """Each run of as many clips as classes has every class once, in a random order: names do not tell the class."""
    block, within = divmod(index, len(spec.names))
    return int(generator(spec, split, block, "order").permutation(len(spec.names))[within])


def motion_of(spec: Motions, split: str, index: int) -> Motion:
    label = label_of(spec, split, index)
    draw = generator(spec, split, index, "motion")
    kind = ten if spec.classes == "ten" else pretraining
    speed, bodies = kind.bodies_of(spec.names[label], spec.size, spec.frames, draw)
    return Motion(label, speed, bodies, camera_path(spec.camera, spec.size, spec.frames, draw))


def generator(spec: Motions, split: str, index: int, purpose: str) -> np.random.Generator:
    """Random numbers for one purpose in one clip, whatever else is drawn."""
    purposes = ("order", "motion", "look")
    where = get_args(Camera).index(spec.camera), SPLITS.index(split), index, purposes.index(purpose)
    return np.random.default_rng(np.random.SeedSequence([spec.seed, *where]))
