"""The ten classes of motion for fine-tuning: one object that does one thing."""

import numpy as np

from vmp.data.motions.state import PERIOD, Body

CLASSES: tuple[str, ...] = (
    *("move_left", "move_right", "move_up", "move_down"),
    *("rotate_clockwise", "rotate_counterclockwise"),
    *("oscillate_horizontally", "oscillate_vertically"),
    *("approach", "recede"),
)
# For a frame of 64 x 64 pixels; lengths and speeds grow with the frame.
_RADIUS = (8.0, 16.0)
_SPEED = (1.0, 2.0)  # pixels a frame; of the rim for rotation and scale, root mean square for oscillation


def bodies_of(name: str, size: int, frames: int, draw: np.random.Generator) -> tuple[float, tuple[Body, ...]]:
    """Speed in pixels a frame, and the object."""
    unit = size / 64
    t = np.arange(frames)  # (T,)

    # draws do not depend on the class, and each is stationary, so frame t has the distribution of frame 0
    start = draw.uniform(0, size, 2)
    turn = draw.uniform(0, 2 * np.pi)
    low, span = np.log(_RADIUS[0]), np.log(_RADIUS[1] / _RADIUS[0])
    scale = draw.uniform()  # of the log of the radius, in [0, 1), a circle
    speed = np.exp(draw.uniform(*np.log(_SPEED)))
    period, phase = draw.uniform(*PERIOD), draw.uniform(0, 2 * np.pi)

    place = np.tile(start, (frames, 1))  # (T, 2)
    angle, circle = np.full(frames, turn), np.full(frames, scale)
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
    return speed * unit, (Body(place, angle, np.exp(low + circle * span) * unit),)
