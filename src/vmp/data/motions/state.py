"""Where objects and the camera are in each frame of a clip. T frames; lengths in pixels, angles in radians, clockwise
(y points down)."""

from dataclasses import dataclass

import numpy as np

# For a frame of 64 x 64 pixels; lengths and speeds grow with the frame.
PERIOD = (5.0, 9.0)  # frames, of an oscillation
_PAN = (0.4, 1.2)  # pixels a frame
_JITTER = 0.3  # pixels, standard deviation a frame


@dataclass(frozen=True)
class Body:
    """An object's path, relative to the scene.

    stretch, axis: it is exp(stretch) as long along `axis` and as wide across it. arm: the arm's angle at the body.
    None: it keeps its shape, and has no arm.
    """

    place: np.ndarray  # (T, 2), x and y of the centre in the scene, not wrapped
    angle: np.ndarray  # (T,)
    radius: np.ndarray  # (T,), wrapped into the range of radii
    stretch: np.ndarray | None = None  # (T,)
    axis: np.ndarray | None = None  # (T,)
    arm: np.ndarray | None = None  # (T,)


@dataclass(frozen=True)
class Motion:
    """The true motion of one clip. place, angle, radius: of its first object."""

    label: int
    speed: float  # pixels a frame
    bodies: tuple[Body, ...]
    camera: np.ndarray  # (T, 2), x and y in the scene of the frame's top left corner

    @property
    def place(self) -> np.ndarray:
        return self.bodies[0].place

    @property
    def angle(self) -> np.ndarray:
        return self.bodies[0].angle

    @property
    def radius(self) -> np.ndarray:
        return self.bodies[0].radius


def camera_path(camera: str, size: int, frames: int, draw: np.random.Generator) -> np.ndarray:
    """(T, 2): a uniform start and, for a moving camera, a pan that bends slowly, and jitter."""
    unit = size / 64
    start = draw.uniform(0, size, 2)  # also the fraction of a pixel, on which interpolation depends
    speed, heading = draw.uniform(*_PAN), draw.uniform(0, 2 * np.pi)
    bend = draw.uniform(-0.08, 0.08)  # radians a frame
    jitter = draw.normal(0, _JITTER, (frames, 2))
    if camera == "static" or (camera == "both" and draw.random() < 0.5):
        return np.tile(start, (frames, 1))
    course = heading + bend * np.arange(frames)  # (T,)
    steps = speed * np.stack([np.cos(course), np.sin(course)], axis=1)  # (T, 2)
    return start + unit * (np.cumsum(steps, axis=0) + jitter)
