"""The initial m and n, and the inverse of Eq. 2: the m and n that give a slope and a shift.

No torch, so that a config is checked quickly.
"""

import math
from typing import Literal

Start = float | Literal["draw"]  # of m or n: a value, or drawn from N(1e-5, 1)
START_M, START_N = 1.5410, -0.2934  # what the seed of the authors' published config draws


def m_of(slope: float, *, alpha: float, beta: float, epsilon: float) -> float:
    """m > 0 with alpha / (beta tanh m + epsilon) = slope; -m has the same slope.

    Raises:
        ValueError: no m gives that slope, or only m = 0, where the gradient vanishes, or an infinite one.
    """
    low, high = alpha / (beta + epsilon), alpha / epsilon
    tanh = (alpha / slope - epsilon) / beta if low < slope < high else 0.0
    if not 0 < tanh < 1:  # rounding may reach either end
        raise ValueError(f"must be between {low:.4g} and {high:.4g}, both excluded (Eq. 2)")
    return math.atanh(tanh)


def n_of(shift: float, *, gamma: float) -> float:
    """n with gamma tanh n = shift.

    Raises:
        ValueError: no finite n gives that shift.
    """
    if not abs(shift) < gamma:
        raise ValueError(f"must be between {-gamma:g} and {gamma:g}, both excluded (Eq. 2)")
    return math.atanh(shift / gamma)
