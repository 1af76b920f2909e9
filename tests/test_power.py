"""The smallest difference that runs would have shown, against simulated experiments and published quantiles."""

import math
from collections.abc import Iterator

import numpy as np
import pytest

from vmp.paper.power import Pair, critical, error_of_mean, errors_needed, pooled

ROUNDS = 3000


def test_limits_are_those_of_students_t():
    printed = {1: 12.706, 2: 4.303, 4: 2.776, 10: 2.228, 30: 2.042, 120: 1.980}
    for freedom, limit in printed.items():
        assert critical(freedom) == pytest.approx(limit, abs=0.006)
    assert errors_needed(10_000) == pytest.approx(1.960 + 0.842, abs=0.01)


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_a_difference_of_the_stated_size_is_found_four_times_in_five(seeds):
    """Pairs of a known spread, tested by hand as one tests a mean."""
    rng = np.random.default_rng(seeds)
    spread = 1.7
    size = errors_needed(seeds - 1) * spread / math.sqrt(seeds)
    drawn = rng.normal(size, spread, (ROUNDS, seeds))
    found = np.abs(drawn.mean(axis=1)) > critical(seeds - 1) * drawn.std(axis=1, ddof=1) / math.sqrt(seeds)
    assert found.mean() == pytest.approx(0.8, abs=noise(0.8, ROUNDS))
    nothing = drawn - size
    wrong = np.abs(nothing.mean(axis=1)) > critical(seeds - 1) * nothing.std(axis=1, ddof=1) / math.sqrt(
        seeds
    )
    assert wrong.mean() == pytest.approx(0.05, abs=noise(0.05, ROUNDS))


def noise(chance: float, rounds: int) -> float:
    """Three standard errors of a simulated chance."""
    return 3 * math.sqrt(chance * (1 - chance) / rounds)


def experiments(
    rng: np.random.Generator, gain: float, *, arms: int, data: int, seeds: int
) -> Iterator[list[Pair]]:
    """Arms that share a baseline on several data, whose true gains differ from each other; noise of a run: 1."""
    true = gain + rng.normal(0, 3, (arms, data))
    true += gain - true.mean()
    for _ in range(ROUNDS // 5):
        baseline, arm = rng.normal(size=(data, seeds)), rng.normal(size=(arms, data, seeds))
        yield [
            Pair((a, d), d, s, true[a, d] + arm[a, d, s] - baseline[d, s])
            for a in range(arms)
            for d in range(data)
            for s in range(seeds)
        ]


def test_arms_that_share_a_baseline_are_not_taken_for_independent():
    """Two arms, four data, three seeds: a mean over 24 differences, known to the last digit."""
    arms, data, seeds = 2, 4, 3
    variance = data * seeds * (arms * 1 + arms**2 * 1) / (arms * data * seeds) ** 2
    size = errors_needed(data * (seeds - 1)) * math.sqrt(variance)
    found, errors = 0, []
    for pairs in experiments(np.random.default_rng(0), size, arms=arms, data=data, seeds=seeds):
        error, freedom = error_of_mean(pairs)
        assert freedom == data * (seeds - 1)
        errors.append(error**2)
        found += abs(np.mean([pair.value for pair in pairs])) > critical(freedom) * error
    assert np.mean(errors) == pytest.approx(variance, rel=0.08)
    assert found / len(errors) == pytest.approx(0.8, abs=noise(0.8, len(errors)))


def test_with_one_seed_the_spread_is_that_of_the_blocks():
    values = {
        "a": (1.0, 3.0),
        "b": (4.0, 6.0),
        "c": (7.0, 9.0),
    }  # sums over blocks, less the mean 5: -6, 0, 6
    pairs = [Pair((block, i), block, 0, v) for block, pair in values.items() for i, v in enumerate(pair)]
    error, freedom = error_of_mean(pairs)
    assert freedom == 2
    assert error == pytest.approx(np.std([2, 5, 8], ddof=1) / math.sqrt(3))
    assert error_of_mean(pairs[:2]) is None  # one block
    assert error_of_mean([]) is None


def test_spread_within_groups():
    assert pooled([[1.0], [2.0]]) is None
    spread, freedom = pooled([[1.0, 3.0], [10.0, 10.0, 13.0], [5.0]])
    assert freedom == 3
    assert spread == pytest.approx(math.sqrt((2 + 6) / 3))
