"""Differences between two arms on the same clips: their size, their confidence interval, the detectable difference, and
the mean difference over several sets of clips.

Notes:
- everything is computed from which clips each seed got right: arrays (S seeds, N clips) of bool;
- an interval resamples clips and seeds together (both arms with the same draw: they share clips, and a seed gives both
  the same order of clips and the same new head), so that it holds for other clips and for other seeds. Clips of a group
  (a scene, a recording) are drawn together, since they are not independent. A single group does not show how groups
  vary, so its interval is everything that is possible;
- where all groups differ alike, most often not at all, no draw differs from another, although other groups may. Then
  the interval is from the exact binomial bound: if n groups show no exception, the share of exceptions among others is
  at most 1 - 0.05^(1/n) (about 3 / n), and an exception may be anything from -1 to 1;
- the detectable difference is the one whose interval excludes 0 with a probability of 80 %. It comes from the reference
  arm alone, so it can be said before the other arm is run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

DRAWS, DRAWS_AT_ONCE = 10_000, 500  # of the bootstrap
# in standard errors: half of a 95 % interval, and how far beyond it four of five means still lie outside
LIMIT, POWER = 1.96, 0.84


@dataclass(frozen=True)
class Interval:
    """Top-1 of an arm minus that of its reference, in percentage points; low, high: of its interval, of 95 % unless
    another level was asked for."""

    mean: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Difference(Interval):
    """On one set of clips."""

    fixed: int  # (clip, seed) pairs that only the arm gets right
    broken: int  # pairs that only the reference gets right
    clips: int
    seeds: int


class Pairs(NamedTuple):
    """An arm and its reference on the same clips and seeds: which they get right, (S, N) bool. groups: (N,) the group
    of each clip; None: each clip is its own."""

    arm: np.ndarray
    reference: np.ndarray
    groups: np.ndarray | None = None


def difference(
    arm: np.ndarray,
    reference: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    level: float = 0.95,
    draws: int = DRAWS,
) -> Difference:
    """Compare two arms.

    Args:
        arm, reference: (S, N) bool, seeds and clips in the same order.
        groups: (N,), the group of each clip; None: each clip is its own.
        level: of the interval.
        draws: of the bootstrap.

    Raises:
        ValueError: different shapes, or nothing to compare.
    """
    if arm.shape != reference.shape or not arm.size:
        raise ValueError(
            f"{arm.shape} and {reference.shape}: must be the same seeds and clips, and at least one"
        )
    by_pair = arm.astype(int) - reference.astype(int)  # (S, N)
    drawn = _draw(by_pair, groups, np.random.default_rng(0), draws)
    low, high = _bounds([drawn], [_unseen(drawn, by_pair, groups, level)], level)
    return Difference(
        mean=100 * float(by_pair.mean()),
        low=100 * float(low),
        high=100 * float(high),
        fixed=int((by_pair > 0).sum()),
        broken=int((by_pair < 0).sum()),
        clips=by_pair.shape[1],
        seeds=by_pair.shape[0],
    )


def mean_difference(sets: Sequence[Pairs], *, level: float = 0.95, draws: int = DRAWS) -> Interval:
    """The mean of an arm's differences on several sets, each with the same weight, and its interval over clips and
    seeds: these sets are fixed, so it says nothing of others.

    Raises:
        ValueError: no sets.
    """
    if not sets:
        raise ValueError("no sets to average over")
    rng = np.random.default_rng(0)
    by_pair = [pairs.arm.astype(int) - pairs.reference.astype(int) for pairs in sets]
    drawn = [_draw(one, pairs.groups, rng, draws) for one, pairs in zip(by_pair, sets, strict=True)]
    unseen = [
        _unseen(draws_of, one, pairs.groups, level)
        for draws_of, one, pairs in zip(drawn, by_pair, sets, strict=True)
    ]
    low, high = _bounds(drawn, unseen, level)
    mean = sum(one.mean() for one in by_pair) / len(sets)
    return Interval(mean=100 * float(mean), low=100 * float(low), high=100 * float(high))


def _bounds(
    drawn: Sequence[np.ndarray], unseen: Sequence[tuple[float, float]], level: float
) -> tuple[float, float]:
    """The interval of the mean of resampled differences of sets, at most from -1 to 1. unseen: of each set, how far
    the interval reaches below and above what was drawn."""
    if np.isnan(drawn).any():
        return -1.0, 1.0
    low, high = np.quantile(np.mean(drawn, axis=0), ((1 - level) / 2, (1 + level) / 2))
    below, above = np.mean(unseen, axis=0)
    return low - below, high + above


def _unseen(
    drawn: np.ndarray, by_pair: np.ndarray, groups: np.ndarray | None, level: float
) -> tuple[float, float]:
    """How far the difference may lie below and above what was drawn, where no draw differs from another; else 0. Groups
    count as equally large.

    n groups have the same mean. Where a share of all groups has another one, n without such a group have a chance of
    (1 - share)^n, which is 1 - level at the largest share that the interval allows for. Where the mean is not 0, it is
    half of that, as at either end of another interval: if an arm fixes all of n clips, the interval excludes 0 where a
    two-sided sign test calls them different.
    """
    if np.isnan(drawn).any() or np.ptp(drawn) > 1e-9:
        return 0.0, 0.0
    mean, n = float(by_pair.mean()), by_pair.shape[1] if groups is None else len(np.unique(groups))
    share = 1 - ((1 - level) / (1 if mean == 0 else 2)) ** (1 / n)
    return share * (1 + mean), share * (1 - mean)


def _draw(by_pair: np.ndarray, groups: np.ndarray | None, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Mean differences of resampled seeds and groups, (draws,); NaN of a single group. by_pair: (S, N) integers."""
    seeds, clips = by_pair.shape
    times_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws)  # how often each is drawn
    _, group_of = np.unique(np.arange(clips) if groups is None else groups, return_inverse=True)
    sums = np.zeros((group_of.max() + 1, seeds + 1))  # per group: of each seed, and its clips; whole numbers
    np.add.at(sums, group_of, np.column_stack([by_pair.T, np.ones(clips)]))
    if len(sums) == 1:
        return np.full(draws, np.nan)
    # groups that are alike count as one kind, of which several are drawn: the same distribution from fewer numbers
    kinds, alike = np.unique(sums, axis=0, return_counts=True)
    drawn = np.empty(draws)
    for at in range(0, draws, DRAWS_AT_ONCE):
        part = slice(at, at + DRAWS_AT_ONCE)
        times_kind = rng.multinomial(len(sums), alike / len(sums), size=len(drawn[part]))
        scores = times_seed[part] @ kinds[:, :seeds].T
        drawn[part] = (scores * times_kind).sum(axis=1) / (seeds * (times_kind @ kinds[:, seeds]))
    return drawn


def detectable(
    reference: np.ndarray, groups: np.ndarray | None = None, *, seeds: int | None = None
) -> float | None:
    """The difference, in percentage points, whose interval excludes 0 with a probability of 80 %, if the other arm
    varies alike and gains alike on all clips; None for a single seed or group.

    Args:
        reference: (S, N) bool.
        groups: as of `difference`.
        seeds: of the planned comparison; None: S.
    """
    found, clips = reference.shape
    if found < 2:
        return None
    _, group_of = np.unique(np.arange(clips) if groups is None else groups, return_inverse=True)
    if not group_of.any():
        return None
    sums = np.zeros((group_of.max() + 1, found))
    np.add.at(sums, group_of, reference.T.astype(float))
    within = sums.var(axis=1, ddof=1).sum() / clips**2  # of a seed's accuracy, if groups were independent
    observed = reference.mean(axis=1).var(ddof=1)  # between seeds: also what moves many groups at once
    between = max(within, observed)
    n = seeds or found
    # the bootstrap's variance has a share of seeds, one of groups, and one of both, in which `within` counts each time
    drawn = 2 / n * (between * (1 - 1 / n) + within + within * (1 - 1 / n))
    return 100 * (LIMIT * float(np.sqrt(drawn)) + POWER * float(np.sqrt(2 * between / n)))


def by_class(arm: np.ndarray, reference: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Class -> difference in top-1 on its clips, in percentage points. labels (N,)."""
    change = (arm.astype(float) - reference.astype(float)).mean(axis=0)
    return {str(name): 100 * float(change[labels == name].mean()) for name in np.unique(labels)}


def choose_settings(
    right: dict[str, np.ndarray], parts: np.ndarray, groups: np.ndarray, *, default: str
) -> tuple[np.ndarray, dict[str, int]]:
    """Cross-fitting: the clips of each part are judged by the setting that is best on the clips of all other parts.

    Args:
        right: setting -> (S, N) bool, the same clips for each.
        parts: (N,), the fold of each clip. With a single one, its groups are halved, every other one.
        groups: (N,), the group of each clip; a single one shows nothing of others, so it is judged by `default`.
        default: the setting to take among equals.

    Returns:
        (S, N) bool, and how many parts took each setting.
    """
    if len(np.unique(parts)) == 1:
        parts = np.unique(groups, return_inverse=True)[1] % 2
    out = np.empty_like(right[default])
    taken = dict.fromkeys(right, 0)
    for part in np.unique(parts):
        here, best = parts == part, default
        if not here.all():
            best = max(right, key=lambda name: (right[name][:, ~here].mean(), name == default))
        out[:, here] = right[best][:, here]
        taken[best] += 1
    return out, taken
