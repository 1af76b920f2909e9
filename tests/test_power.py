"""The smallest difference that runs would have shown, against simulated experiments and published quantiles."""

import math
from collections.abc import Iterator

import numpy as np
import pytest

from vmp.paper.power import Pair, critical, detectable, error_of_mean, error_over_pairs, errors_needed, pooled

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


def test_the_spread_is_that_of_all_cells_and_not_of_the_few_with_several_seeds():
    """As in a table: six rows on five data, of which two have three seeds. Two rows share their baselines."""
    rng = np.random.default_rng(1)
    several = {0: 3, 1: 3}  # data -> seeds
    places = [(row, d, s) for row in range(6) for d in range(5) for s in range(several.get(d, 1))]
    wanted = {0: 2 * 9 / 9**2, 5: 2 * 9 / 9**2}  # a run's noise is 1, so that of a difference is 2
    both = (18 * 2 + 9 * 2 * 1) / 18**2  # of the rows that share baselines: a covariance of 1
    errors = {name: [] for name in (0, 5, "both")}
    for _ in range(ROUNDS // 5):
        noise_of = {(block, d, s): rng.normal() for block in range(5) for d in range(5) for s in range(3)}
        true = rng.normal(0, 3, (6, 5))
        pairs = [
            Pair((row, d), (block, d), s, true[row, d] + rng.normal() - noise_of[block, d, s])
            for row, d, s in places
            for block in [max(0, row - 1)]
        ]
        for name, rows in {0: {0}, 5: {5}, "both": {0, 1}}.items():
            error, freedom = error_of_mean([pair for pair in pairs if pair.what[0] in rows], pairs)
            assert freedom == 5 * 2 * 2  # five baselines on two data, three seeds
            errors[name].append(error**2)
    for name, variance in (wanted | {"both": both}).items():
        assert np.mean(errors[name]) == pytest.approx(variance, rel=0.08)
        assert min(errors[name]) > variance / 5


def test_seeds_that_two_arms_do_not_share_show_their_covariance_without_bias():
    """One of three seeds lacks in each arm; the baseline's noise has a variance of 4."""
    rng, found = np.random.default_rng(2), []
    for _ in range(ROUNDS // 3):
        pairs = []
        for block in range(20):
            baseline = rng.normal(0, 2, 4)
            for arm, seeds in (("a", (0, 1, 2)), ("b", (1, 2, 3))):
                pairs += [Pair((block, arm), block, s, rng.normal() - baseline[s]) for s in seeds]
        two = [Pair("x", "x", 0, 0.0), Pair("y", "x", 0, 0.0)]
        found.append(error_of_mean(two, pairs)[0] ** 2)
    assert np.mean(found) == pytest.approx((2 * 5 + 2 * 4) / 4, rel=0.03)


def test_what_could_be_detected_is_never_below_what_the_printed_error_asks_for():
    """Seeds that agree by luck, on data that differ: 2.8 standard errors at least."""
    pairs = [Pair(d, d, s, 10.0 * d + 0.1 * s) for d in range(3) for s in range(3)]
    printed = error_over_pairs([pair.value for pair in pairs])
    assert error_of_mean(pairs)[0] < printed / 10
    assert detectable(pairs) == pytest.approx(printed * errors_needed(6))
    assert detectable(pairs) > 2.8 * printed
    assert detectable([], pairs) is None
    # a pair alone has no error of its own, but that of the others
    alone = [Pair("new", "new", 0, 5.0)]
    assert detectable(alone) is None
    assert detectable(alone, pairs) == pytest.approx(0.1 * errors_needed(6))


def test_spread_within_groups():
    assert pooled([[1.0], [2.0]]) is None
    spread, freedom = pooled([[1.0, 3.0], [10.0, 10.0, 13.0], [5.0]])
    assert freedom == 3
    assert spread == pytest.approx(math.sqrt((2 + 6) / 3))
