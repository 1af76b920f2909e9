"""Classes of motion that networks learn before they are fine-tuned, as Kinetics is for real ones; none is of the ten.

Notes:
- every clip has two objects, each with an arm. In most classes one of them, the actor, moves and the other stands
  still, so that neither the number of objects nor their shape tells the class;
- the state of a clip is a point on a product of circles (both places round the torus, angles, arms, the log of the
  radii, the stretch and its axis), drawn uniformly, and a class adds a path that does not depend on that point. So
  every frame of every class is uniform there. The one exception, towards and away, turns the distance of the two on
  its circle, which keeps it uniform as well; when they meet they are as far apart as can be again;
- headings, and which way something turns, are drawn for each clip unless the class names them.

A path is added to the actor, or to both objects, in units of its own circle.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vmp.data.motions.state import PERIOD, Body

# For a frame of 64 x 64 pixels. Faster than the ten: in small clips, too, frames next to each other differ by a pixel.
SPEED = (1.6, 3.2)  # pixels a frame; of the rim for rotation and scale, root mean square for oscillation
RADIUS = (6.5, 13.0)  # of the body, without the arm
STRETCH = 0.3  # at most
_STROKE = (8.0, 14.0)  # frames from one start to the next, and of a figure eight
_LOW, _SPAN = np.log(RADIUS[0]), np.log(RADIUS[1] / RADIUS[0])
_RIM = np.exp(_LOW + 0.5 * _SPAN)  # a medium radius; with the object's own, size would depend on the class

Path = dict[str, np.ndarray]  # what is added to an object's state, by its name
Paths = tuple[Path, Path]  # of the actor and the other


@dataclass(frozen=True)
class Draws:
    """What a clip's motion is made of, the same for every class. Lengths for a frame of 64 x 64 pixels."""

    t: np.ndarray  # (T,)
    speed: float  # pixels a frame
    period: float  # frames
    stroke: float
    phase: float  # of a period, in [0, 1)
    heading: float
    way: int  # -1 or 1
    bend: float  # radius of a circular path

    @property
    def steady(self) -> np.ndarray:
        """(T,): the way at an even speed."""
        return self.speed * self.t

    @property
    def swing(self) -> np.ndarray:
        """(T,): there and back, root mean square speed `speed`."""
        amplitude = self.speed * self.period / (np.sqrt(2) * np.pi)
        return amplitude * np.sin(2 * np.pi * (self.t / self.period + self.phase))

    def strokes(self, kind: str, *, shift: float = 0.0) -> np.ndarray:
        """(T,): the way where each stroke's speed grows from nothing, falls to it, or lasts for half of it; `speed`
        on average."""
        turns = self.t / self.stroke + self.phase + shift
        done, of_stroke = np.divmod(turns, 1.0)
        part = {
            "accelerating": of_stroke**2,
            "braking": 1 - (1 - of_stroke) ** 2,
            "halting": np.minimum(2 * of_stroke, 1),
        }[kind]
        return self.speed * self.stroke * (done + part)

    def circle(self, way: int, *, shift: float = 0.0) -> np.ndarray:
        """(T, 2)"""
        angle = way * (self.steady / self.bend + 2 * np.pi * self.phase) + np.pi * shift
        return self.bend * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _along(way: np.ndarray, angle: float) -> np.ndarray:
    """(T,) -> (T, 2)"""
    return way[:, None] * np.array([np.cos(angle), np.sin(angle)])


def _xy(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.stack([x, y], axis=1)


def _zigzag(d: Draws) -> Path:
    back_and_forth = np.abs((d.t / d.period + d.phase) % 1 - 0.5) * d.period * 2 - d.period / 2  # slope 2
    return {"place": _xy(d.way * d.steady, d.speed / 2 * back_and_forth) / np.sqrt(2)}


def _eight(d: Draws) -> Path:
    angle = 2 * np.pi * d.way * (d.t / d.stroke + d.phase)
    size = d.speed * d.stroke / (2 * np.pi)
    return {"place": size * _xy(np.sin(angle), np.sin(2 * angle) / 2)}


def _hop(d: Draws) -> Path:
    height = np.abs(np.sin(np.pi * (d.t / d.period + d.phase))) * d.speed * d.period / np.pi
    return {"place": _xy(0.7 * d.way * d.steady, -height)}


def _pendulum(d: Draws) -> Path:
    angle = d.swing / d.bend
    return {"place": d.bend * _xy(-np.sin(angle), np.cos(angle)), "angle": angle}


def _around(d: Draws, way: int) -> Path:
    return {"place": d.circle(way), "angle": way * d.steady / d.bend}


def _spin(d: Draws, way: int) -> Path:
    return {"angle": way * d.steady / RADIUS[0]}


def _grow(d: Draws, way: int) -> Path:
    return {"scale": way * d.steady / _RIM / _SPAN}


def _turned(path: Path, *, mirrored: bool = False) -> Path:
    """Turned by a quarter, or upside down."""
    place = path["place"] * (1, -1) if mirrored else path["place"][:, ::-1]
    return path | {"place": place}


_RIGHT, _DOWN, _SLANT = 0.0, np.pi / 2, np.pi / 4
# of the actor alone
_ONE: dict[str, Callable[[Draws], Path]] = {
    "move_down_right": lambda d: {"place": _along(d.steady, _SLANT)},
    "move_down_left": lambda d: {"place": _along(d.steady, 3 * _SLANT)},
    "move_up_left": lambda d: {"place": _along(d.steady, 5 * _SLANT)},
    "move_up_right": lambda d: {"place": _along(d.steady, 7 * _SLANT)},
    "swing_rising": lambda d: {"place": _along(d.swing, -_SLANT)},
    "swing_falling": lambda d: {"place": _along(d.swing, _SLANT)},
    "circle_clockwise": lambda d: {"place": d.circle(1)},
    "circle_counterclockwise": lambda d: {"place": d.circle(-1)},
    "zigzag_across": _zigzag,
    "zigzag_upright": lambda d: _turned(_zigzag(d)),
    "eight_lying": _eight,
    "eight_upright": lambda d: _turned(_eight(d)),
    "hop": _hop,
    "dangle": lambda d: _turned(_hop(d), mirrored=True),
    "accelerate": lambda d: {"place": _along(d.strokes("accelerating"), d.heading)},
    "brake": lambda d: {"place": _along(d.strokes("braking"), d.heading)},
    "stop_and_go": lambda d: {"place": _along(d.strokes("halting"), d.heading)},
    "spin_accelerating": lambda d: {"angle": d.way * d.strokes("accelerating") / RADIUS[0]},
    "spin_braking": lambda d: {"angle": d.way * d.strokes("braking") / RADIUS[0]},
    "spin_halting": lambda d: {"angle": d.way * d.strokes("halting") / RADIUS[0]},
    "rock": lambda d: {"angle": d.swing / RADIUS[0]},
    "around_a_point_clockwise": lambda d: _around(d, 1),
    "around_a_point_counterclockwise": lambda d: _around(d, -1),
    "pendulum": _pendulum,
    "roll_right": lambda d: {"place": _along(d.steady, _RIGHT)} | _spin(d, 1),
    "roll_left": lambda d: {"place": _along(-d.steady, _RIGHT)} | _spin(d, -1),
    "backspin_right": lambda d: {"place": _along(d.steady, _RIGHT)} | _spin(d, -1),
    "backspin_left": lambda d: {"place": _along(-d.steady, _RIGHT)} | _spin(d, 1),
    "pulse": lambda d: {"scale": d.swing / _RIM / _SPAN},
    "approach_turning": lambda d: _grow(d, 1) | _spin(d, d.way),
    "recede_turning": lambda d: _grow(d, -1) | _spin(d, d.way),
    "approach_passing": lambda d: _grow(d, 1) | {"place": _along(d.steady, d.heading)},
    "recede_passing": lambda d: _grow(d, -1) | {"place": _along(d.steady, d.heading)},
    "stretch": lambda d: {"stretch": d.way * d.t / d.period},
    "ripple_clockwise": lambda d: {"axis": d.steady / RADIUS[0]},
    "ripple_counterclockwise": lambda d: {"axis": -d.steady / RADIUS[0]},
    "wave": lambda d: {"arm": 2 * d.swing / RADIUS[0]},
    "windmill_clockwise": lambda d: {"arm": d.steady / RADIUS[0]},
    "windmill_counterclockwise": lambda d: {"arm": -d.steady / RADIUS[0]},
    "walk": lambda d: {"arm": 2 * d.swing / RADIUS[0], "place": _along(d.steady, d.heading)},
}
# of both objects
_TWO: dict[str, Callable[[Draws], Paths]] = {
    "together": lambda d: ({"place": _along(d.steady, d.heading)},) * 2,
    "opposite": lambda d: ({"place": _along(d.steady, d.heading)}, {"place": _along(-d.steady, d.heading)}),
    "by_turns": lambda d: (
        {"place": _along(d.strokes("halting"), d.heading)},
        {"place": _along(d.strokes("halting", shift=0.5), d.heading)},
    ),
    "circle_together": lambda d: ({"place": d.circle(d.way)},) * 2,
    "circle_opposite": lambda d: ({"place": d.circle(d.way)}, {"place": d.circle(d.way, shift=1)}),
    "spin_together": lambda d: (_spin(d, d.way),) * 2,
    "spin_opposite": lambda d: (_spin(d, d.way), _spin(d, -d.way)),
    "wave_together": lambda d: ({"arm": 2 * d.swing / RADIUS[0]},) * 2,
}
# how the distance of both changes along x (0) or y (1)
_MEETINGS = {
    "towards_across": (0, -1),
    "towards_upright": (1, -1),
    "away_across": (0, 1),
    "away_upright": (1, 1),
}
CLASSES: tuple[str, ...] = (*_ONE, *_TWO, *_MEETINGS)


def bodies_of(name: str, size: int, frames: int, draw: np.random.Generator) -> tuple[float, tuple[Body, ...]]:
    """Speed in pixels a frame, and the two objects."""
    unit = size / 64
    places = np.tile(draw.uniform(0, size, (2, 1, 2)), (1, frames, 1))  # (2, T, 2)
    # angle, arm, scale, phase of the stretch, its axis: each on a circle
    starts = draw.uniform(size=(2, 5)) * (2 * np.pi, 2 * np.pi, 1, 1, np.pi)
    d = Draws(
        t=np.arange(frames),
        speed=float(np.exp(draw.uniform(*np.log(SPEED)))),
        period=draw.uniform(*PERIOD),
        stroke=draw.uniform(*_STROKE),
        phase=draw.uniform(),
        heading=draw.uniform(0, 2 * np.pi),
        way=1 if draw.random() < 0.5 else -1,
        bend=draw.uniform(4, 8),
    )
    paths: Paths = ({}, {})
    if name in _ONE:
        paths = (_ONE[name](d), {})
    elif name in _TWO:
        paths = _TWO[name](d)
    else:
        axis, way = _MEETINGS[name]
        places[..., axis] = _meeting(places[:, 0, axis], way * d.steady, size)
    bodies = [
        _body(place, start, path, unit) for place, start, path in zip(places, starts, paths, strict=True)
    ]
    return d.speed * unit, tuple(bodies)


def _meeting(start: np.ndarray, way: np.ndarray, size: int) -> np.ndarray:
    """(2,) of [0, S), (T,) -> (2, T): the distance of the two round the circle changes by `way`, their middle stays."""
    apart = (start[1] - start[0] + size / 2) % size - size / 2  # in [-S/2, S/2)
    middle = start[0] + apart / 2
    distance = (abs(apart) + way * size / 64) % (size / 2)  # (T,)
    return middle + np.sign(apart) / 2 * np.stack([-distance, distance])


def _body(place: np.ndarray, start: np.ndarray, path: Path, unit: float) -> Body:
    turn, arm, scale, stretch, axis = start
    shape = np.zeros(len(place))
    added = {key: path.get(key, shape) for key in ("angle", "arm", "scale", "stretch", "axis")}
    return Body(
        place=place + unit * path.get("place", np.zeros(2)),
        angle=turn + added["angle"],
        radius=np.exp(_LOW + (scale + added["scale"]) % 1.0 * _SPAN) * unit,
        stretch=STRETCH * np.sin(2 * np.pi * (stretch + added["stretch"])),
        axis=axis + added["axis"],
        arm=arm + added["arm"],
    )
