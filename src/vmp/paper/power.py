"""The detectable difference of paired runs: the one that they find with a probability of 80 %.

Notes:
- a mean difference is tested against its standard error, two-sided at 5 %, by Student's t: three seeds ask for 4.3
  errors where thirty ask for 2.0, and what is found four times in five is larger still;
- the spread over seeds is pooled over more differences than the mean is over, all those of a table, which are taken to
  scatter alike: that of two or three seeds alone is often far too small, by luck;
- pairs that share a baseline share its luck, which does not average out over them;
- where no difference has a second seed, what varies is the blocks, sums over the differences that share a baseline.
  Their true differences count as noise then, so the number is too large rather than too small;
- the error is never taken for smaller than the one over the pairs as if they were independent.
"""

import itertools
import math
import statistics
from collections import Counter, defaultdict
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


def error_of_mean(pairs: Iterable[Pair], among: Iterable[Pair] | None = None) -> tuple[float, int] | None:
    """The standard error of the mean over all pairs, and the degrees of freedom of the spread that it is from; None
    where nothing shows a spread.

    Args:
        pairs: of the mean.
        among: of the spread over seeds, the pairs themselves and others that scatter alike; None: the pairs.
    """
    pairs = list(pairs)
    if not pairs:
        return None
    return _error_over_seeds(pairs, pairs if among is None else list(among)) or _error_over_blocks(pairs)


def _error_over_seeds(pairs: Sequence[Pair], among: Sequence[Pair]) -> tuple[float, int] | None:
    """From the variance of a difference and the covariance of two with the same baseline and seed."""
    blocks: dict[Hashable, dict[Hashable, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for pair in among:
        blocks[pair.block][pair.what][pair.seed] = pair.value
    spread = pooled([list(of_what.values()) for block in blocks.values() for of_what in block.values()])
    if not spread:
        return None
    # differences that share a baseline show its luck once
    freedom = sum(max(map(len, block.values())) - 1 for block in blocks.values())
    variance, products, expected = spread[0] ** 2, 0.0, 0.0
    for block in blocks.values():
        for x, y in itertools.combinations(block.values(), 2):
            both, mean_x, mean_y = (
                x.keys() & y.keys(),
                statistics.fmean(x.values()),
                statistics.fmean(y.values()),
            )
            products += sum((x[seed] - mean_x) * (y[seed] - mean_y) for seed in both)
            # the expected sum of a covariance of 1; where both have the same n seeds, n - 1
            expected += len(both) * (1 - 1 / len(x) - 1 / len(y) + len(both) / (len(x) * len(y)))
    # where nothing shows the covariance, it is as large as it can be
    covariance = min(max(products / expected, 0.0), variance) if expected > 1e-9 else variance
    sharing = Counter((pair.block, pair.seed) for pair in pairs)
    total = sum(n * variance + n * (n - 1) * covariance for n in sharing.values())
    return math.sqrt(total) / len(pairs), freedom


def _error_over_blocks(pairs: Sequence[Pair]) -> tuple[float, int] | None:
    mean = statistics.fmean(pair.value for pair in pairs)
    totals: dict[Hashable, float] = defaultdict(float)
    for pair in pairs:
        totals[pair.block] += pair.value - mean
    freedom = len(totals) - 1
    if freedom < 1:
        return None
    variance = sum(value**2 for value in totals.values()) / freedom  # of a block
    return math.sqrt(len(totals) * variance) / len(pairs), freedom


def error_over_pairs(values: Sequence[float]) -> float | None:
    """The standard error of the mean of independent values; None for a single one."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def pooled(groups: Iterable[Sequence[float]]) -> tuple[float, int] | None:
    """The standard deviation within groups, and its degrees of freedom; None where every group is a single value."""
    groups = [group for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom:
        return None
    squares = sum((value - statistics.fmean(group)) ** 2 for group in groups for value in group)
    return math.sqrt(squares / freedom), freedom


def detectable(pairs: Iterable[Pair], among: Iterable[Pair] | None = None) -> float | None:
    """The mean difference that is found with a probability of POWER, in the unit of the values; None where nothing
    shows a spread. among: as of `error_of_mean`."""
    pairs = list(pairs)
    found = error_of_mean(pairs, among)
    if found is None:
        return None
    error, freedom = found
    return max(error, error_over_pairs([pair.value for pair in pairs]) or 0.0) * errors_needed(freedom)


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
