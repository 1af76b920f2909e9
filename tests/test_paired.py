"""Paired differences against exact answers and simulation."""

import itertools

import numpy as np
import pytest
from runs import ROOT
from scipy.stats import binomtest

from vmp.paper.paired import (
    Interval,
    Pairs,
    by_class,
    choose_settings,
    detectable,
    difference,
    mean_difference,
)

STUDY = ROOT / "conf/study/real.yaml"


def test_a_difference_counts_pairs_of_clip_and_seed():
    reference = np.array([[1, 0, 0, 1], [1, 0, 1, 1]], bool)
    arm = np.array([[1, 1, 0, 0], [1, 1, 1, 1]], bool)
    found = difference(arm, reference)
    assert (found.fixed, found.broken, found.clips, found.seeds) == (2, 1, 4, 2)
    assert found.mean == pytest.approx(100 * (2 - 1) / 8)
    assert found.low <= found.mean <= found.high
    with pytest.raises(ValueError, match="same seeds and clips"):
        difference(arm[:1], reference)


def test_with_one_seed_the_interval_is_the_bootstrap_over_clips():
    """All ways to draw three of three clips, exactly."""
    by_pair = np.array([1, 0, -1])
    means = sorted(np.mean(draw) for draw in itertools.product(by_pair, repeat=3))
    found = difference(np.array([[1, 1, 0]], bool), np.array([[0, 1, 1]], bool))
    low, high = np.quantile(means, (0.025, 0.975), method="inverted_cdf")
    assert (found.low, found.high) == pytest.approx((100 * low, 100 * high), abs=1)


def test_the_interval_covers_the_difference():
    """30 of 200 clips are fixed and 10 are broken."""
    arm, reference = np.arange(200)[None] < 30, np.arange(200)[None] >= 190
    found = difference(arm, reference)
    assert (found.fixed, found.broken) == (30, 10)
    assert found.mean == pytest.approx(10)
    assert found.low < 10 < found.high
    deviation = 100 * np.sqrt((40 - 20**2 / 200) / 200 / 200)  # of a mean of -1, 0 and 1
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * deviation, rel=0.1)
    assert difference(arm, reference) == found


@pytest.mark.parametrize(("clips", "level"), [(2, 0.95), (6, 0.95), (300, 0.95), (300, 0.99)])
def test_clips_that_no_arm_gains_leave_room_for_those_that_were_not_seen(clips, level):
    """Up to the exact bound on how many of other clips may differ, if of these none does."""
    arm = np.arange(clips)[None] % 2 == 0
    found = difference(arm, arm, level=level)
    bound = binomtest(0, clips, alternative="less").proportion_ci(level, method="exact").high
    assert (found.mean, found.low, found.high) == pytest.approx((0, -100 * bound, 100 * bound))
    assert 1 / clips < bound
    assert not found.is_clear
    twice, groups = (
        np.repeat(arm, 2, axis=1),
        np.repeat(np.arange(clips), 2),
    )  # copies in a group show nothing new
    both = difference(twice, twice, groups, level=level)
    assert (both.low, both.high) == pytest.approx((found.low, found.high))
    seeds = np.repeat(arm, 3, axis=0)  # nor do seeds that agree
    assert difference(seeds, seeds, level=level).high == pytest.approx(found.high)
    # most other clips may differ just so often that these did not show it
    hidden = np.random.default_rng(0).binomial(clips, bound, size=20_000) == 0
    assert hidden.mean() == pytest.approx(1 - level, abs=0.006)


@pytest.mark.parametrize("clips", [2, 4, 5, 6, 40])
def test_an_arm_that_fixes_all_clips_is_better_where_the_sign_test_says_so(clips):
    arm = np.ones((1, clips), bool)
    found, back = difference(arm, ~arm), difference(~arm, arm)
    bound = binomtest(0, clips).proportion_ci(0.95, method="exact").high  # of clips that it breaks
    assert (found.mean, found.low, found.high) == pytest.approx((100, 100 * (1 - 2 * bound), 100))
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))
    assert found.is_clear == (binomtest(clips, clips).pvalue < 0.05)


def test_a_set_without_a_difference_widens_the_mean_over_sets():
    rng = np.random.default_rng(0)
    arm, reference = rng.random((2, 1, 50)) < 0.5
    varied, same = Pairs(arm, reference), Pairs(arm, arm)
    alone, both = mean_difference([varied]), mean_difference([varied, same])
    reach = difference(arm, arm).high
    assert (both.low, both.high) == pytest.approx(((alone.low - reach) / 2, (alone.high + reach) / 2))
    assert mean_difference([same]) == Interval(0, -reach, reach)


def test_the_mean_over_sets_is_the_bootstrap_within_each():
    """All ways to draw three of three clips and four of four, exactly; the larger set weighs no more."""
    small, large = np.array([1, 0, -1]), np.array([1, 1, 1, 0])
    means = [
        (np.mean(a) + np.mean(b)) / 2
        for a in itertools.product(small, repeat=3)
        for b in itertools.product(large, repeat=4)
    ]
    sets = [Pairs((by_pair > 0)[None], (by_pair < 0)[None]) for by_pair in (small, large)]
    found = mean_difference(sets)
    assert found.mean == pytest.approx(100 * (0 + 3 / 4) / 2)
    low, high = np.quantile(means, (0.025, 0.975), method="inverted_cdf")
    assert (found.low, found.high) == pytest.approx((100 * low, 100 * high), abs=1)
    one = difference(*sets[0])
    assert mean_difference(sets[:1]) == Interval(one.mean, one.low, one.high)
    with pytest.raises(ValueError, match="no sets"):
        mean_difference([])


def test_clips_of_a_group_are_drawn_together():
    """Two groups of which one always gains: the mean of two drawn groups is 0, 1/2 or 1, with 1/4, 1/2, 1/4."""
    arm, reference = np.ones((1, 8), bool), np.arange(8)[None] < 4
    apart = difference(arm, reference)
    together = difference(arm, reference, np.arange(8) // 4)
    assert apart.mean == together.mean == 50
    assert (together.low, together.high) == (0, 100)
    assert apart.low > 0
    assert apart.high < 100


@pytest.mark.slow
def test_clips_of_a_single_group_do_not_show_what_groups_vary_by():
    """The first fold of ten, each of one sequence: all clips are drawn together, and no draw differs from another."""
    arm, reference = np.array([[1, 1, 1, 0]] * 2, bool), np.array([[0, 1, 0, 0]] * 2, bool)
    one, several = np.array(["a"] * 4), np.array(["a", "b", "c", "d"])
    found = difference(arm, reference, one)
    assert (found.mean, found.low, found.high, found.is_clear) == (50, -100, 100, False)
    assert detectable(arm, one) is None
    both = mean_difference([Pairs(arm, reference, one), Pairs(arm, reference, several)])
    assert (both.mean, both.low, both.high) == (50, -100, 100)


def test_arms_that_are_alike_are_rarely_called_different_and_a_real_difference_is_seen():
    """Clips of mixed difficulty; an arm whose seeds are as good or, by the detectable difference, better."""
    rng = np.random.default_rng(1)
    seeds, clips, rounds = 3, 100, 60
    clear, seen = 0, 0
    for _ in range(rounds):
        chance = rng.beta(4, 1, size=clips)
        draw = lambda p: rng.random((seeds, clips)) < p  # noqa: E731
        reference = draw(chance)
        clear += difference(draw(chance), reference).is_clear
        size = detectable(reference) / 100
        easier = np.clip(chance + size * (1 - chance) / (1 - chance).mean(), 0, 1)
        seen += difference(draw(easier), reference).is_clear
    assert clear <= 0.1 * rounds
    assert 0.65 * rounds <= seen <= 0.95 * rounds  # 80 % within 2.5 standard errors


def test_the_detectable_difference_follows_the_scatter():
    same = np.tile(np.arange(50) % 3 > 0, (3, 1))
    assert detectable(same) == 0
    assert detectable(same[:1]) is None
    rng = np.random.default_rng(0)
    scattered = rng.random((3, 400)) < 0.5
    # independent clips: each accuracy has a standard error of 2.5 points, a mean of three 1.44, a difference 2.04
    # the interval counts the scatter over seeds (2/3 of it, of three), over clips, and once more over both (2/3)
    assert detectable(scattered) == pytest.approx((1.96 * np.sqrt(7 / 3) + 0.84) * 2.04, rel=0.25)
    assert detectable(scattered, seeds=12) == pytest.approx(detectable(scattered) / 2, rel=0.1)
    twice, pairs = np.repeat(scattered, 2, axis=1), np.arange(800) // 2  # copies in a group add nothing
    assert detectable(twice, pairs) == pytest.approx(detectable(scattered))
    assert detectable(twice) < detectable(twice, pairs)


def test_change_by_class():
    arm, reference = np.array([[1, 1, 0, 0]], bool), np.array([[0, 1, 1, 0]], bool)
    assert by_class(arm, reference, np.array(["a", "a", "b", "b"])) == {"a": 50, "b": -50}


def test_a_setting_is_chosen_on_other_folds_than_those_it_is_judged_on():
    """A setting that is best only where it is judged is not chosen."""
    parts = np.array([1, 1, 2, 2])
    right = {"base": np.array([[0, 0, 1, 1]], bool), "other": np.array([[1, 1, 0, 0]], bool)}
    each = np.arange(4)
    chosen, taken = choose_settings(right, parts, each, default="base")
    assert chosen.tolist() == [[False, False, False, False]]
    assert taken == {"base": 1, "other": 1}
    alone, taken = choose_settings({"base": right["base"]}, np.ones(4), each, default="base")
    assert alone.tolist() == right["base"].tolist()
    assert taken == {"base": 2}


def test_without_folds_a_setting_is_chosen_on_other_groups_than_those_it_is_judged_on():
    """Every other clip would choose by the neighbours of those that are judged: better than either setting is."""
    groups = np.array(["a", "a", "b", "b"])
    right = {"base": np.array([[0, 0, 1, 1]], bool), "other": np.array([[1, 1, 0, 0]], bool)}
    chosen, taken = choose_settings(right, np.ones(4), groups, default="base")
    assert chosen.tolist() == [[False, False, False, False]]
    assert taken == {"base": 1, "other": 1}
    right["other"][:] = True  # which is not seen on any other group, as there is none
    chosen, taken = choose_settings(right, np.ones(4), np.full(4, "a"), default="base")
    assert chosen.tolist() == right["base"].tolist()
    assert taken == {"base": 1, "other": 0}
