"""The detectable difference of paired runs: the one that they find with a probability of 80 %.

Notes:
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
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

LEVEL, POWER = 0.05, 0.8


@dataclass(frozen=True)
class Pair:
    """A difference between two runs of a seed. what: which difference; block: what shares a baseline with it."""

    what: Hashable
    block: Hashable
    seed: int
    value: float


def error_of_mean(pairs: Iterable[Pair]) -> tuple[float, int] | None:
    """The standard error of the mean over all pairs, and the degrees of freedom of the spread that it is from; None
    where nothing shows a spread."""
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
    return math.sqrt(len(units) * variance) / len(pairs), freedom


def pooled(groups: Iterable[Sequence[float]]) -> tuple[float, int] | None:
    """The standard deviation within groups, and its degrees of freedom; None where every group is a single value."""
    groups = [group for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom:
        return None
    squares = sum((value - statistics.fmean(group)) ** 2 for group in groups for value in group)
    return math.sqrt(squares / freedom), freedom


def detectable(pairs: Iterable[Pair]) -> float | None:
    """The mean difference that is found with a probability of POWER, in the unit of the values."""
    found = error_of_mean(pairs)
    return None if found is None else found[0] * errors_needed(found[1])


@cache
def errors_needed(freedom: int) -> float:
    """Standard errors that a true difference must have to be found with a probability of POWER."""
    from scipy.optimize import brentq
    from scipy.stats import nct

    limit = critical(freedom)
    # the chance to find it with the wrong sign, here below one in 100,000, is left out: nct.cdf is NaN so far out
    return float(brentq(lambda size: nct.sf(limit, freedom, size) - POWER, 0, 2 * limit + 2))


@cache
def critical(freedom: int) -> float:
    """Standard errors beyond which a mean is called different from 0."""
    from scipy.stats import t

    return float(t.isf(LEVEL / 2, freedom))
