"""How small a difference paired runs could have shown: the one that they find with a probability of 80 %.

Notable here:
- a mean difference is tested against its standard error, two-sided at 5 %, by Student's t: three seeds ask for 4.3
  errors where thirty ask for 2.0, and what is found four times in five is larger still;
- pairs that share a baseline share its luck: they form a block, and a seed's differences in a block are added before
  the spread over seeds is taken;
- with a single seed the blocks themselves are what varies. Their true differences count as noise then, so the number is
  too large rather than too small.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

LEVEL, POWER = 0.05, 0.8
LARGEST = 200.0  # errors; more than the factor for one degree of freedom


@dataclass(frozen=True)
class Pair:
    """A difference between two runs of a seed. what: which difference; block: what shares a baseline with it."""

    what: Hashable
    block: Hashable
    seed: int
    value: float


@dataclass(frozen=True)
class Error:
    """The standard error of a mean, and the degrees of freedom of the spread that it is from."""

    error: float
    freedom: int

    @property
    def detectable(self) -> float:
        """The difference that is found with a probability of POWER, in the unit of the values."""
        return self.error * errors_needed(self.freedom)


def error_of_mean(pairs: Iterable[Pair]) -> Error | None:
    """The standard error of the mean over all pairs; None where nothing shows a spread."""
    pairs = list(pairs)
    by_what: dict[Hashable, list[float]] = defaultdict(list)
    for pair in pairs:
        by_what[pair.what].append(pair.value)
    sums: dict[Hashable, dict[int, float]] = defaultdict(lambda: defaultdict(float))  # block -> seed -> sum
    for pair in pairs:
        sums[pair.block][pair.seed] += pair.value - statistics.fmean(by_what[pair.what])
    freedom = sum(len(seeds) - 1 for seeds in sums.values())
    if freedom:
        units = [value for seeds in sums.values() for value in seeds.values()]
    else:
        mean = statistics.fmean(pair.value for pair in pairs) if pairs else 0.0
        totals: dict[Hashable, float] = defaultdict(float)
        for pair in pairs:
            totals[pair.block] += pair.value - mean
        units, freedom = list(totals.values()), len(totals) - 1
    if freedom < 1:
        return None
    variance = sum(value**2 for value in units) / freedom  # of a unit
    return Error(math.sqrt(len(units) * variance) / len(pairs), freedom)


def pooled(groups: Iterable[Sequence[float]]) -> tuple[float, int] | None:
    """The standard deviation within groups, and its degrees of freedom; None where every group is a single value."""
    groups = [group for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom:
        return None
    squares = sum((value - statistics.fmean(group)) ** 2 for group in groups for value in group)
    return math.sqrt(squares / freedom), freedom


def detectable(pairs: Iterable[Pair]) -> float | None:
    found = error_of_mean(pairs)
    return None if found is None else found.detectable


@cache
def errors_needed(freedom: int) -> float:
    """Standard errors that a true difference must have to be found with a probability of POWER."""
    limit = critical(freedom)
    return _solve(lambda size: _rejected(size, limit, freedom) - POWER)


@cache
def critical(freedom: int) -> float:
    """Standard errors beyond which a mean is called different from 0."""
    return _solve(lambda limit: LEVEL - _rejected(0.0, limit, freedom))


def _rejected(size: float, limit: float, freedom: int) -> float:
    """Probability that |mean / estimated error| > limit for a true mean of `size` true errors.

    The estimated error is s times the true one, with freedom s^2 chi-squared; the integral over s is a sum.
    """
    s, weight = _chi(freedom)
    normal = statistics.NormalDist()
    outside = [1 - normal.cdf(limit * x - size) + normal.cdf(-limit * x - size) for x in s]
    return float(np.dot(weight, outside))


@cache
def _chi(freedom: int) -> tuple[list[float], np.ndarray]:
    s = (np.arange(1200) + 0.5) * (1 + 8 / math.sqrt(freedom)) / 1200
    log = (freedom - 1) * np.log(s) - freedom * s**2 / 2
    weight = np.exp(log - log.max())
    return s.tolist(), weight / weight.sum()


def _solve(rising: Callable[[float], float]) -> float:
    """Where a rising function is 0, in 0..LARGEST."""
    low, high = 0.0, LARGEST
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return high
