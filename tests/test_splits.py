"""Splits by ratio and into folds, against what they must keep: groups, classes, proportions, and every clip once."""

from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmp.errors import ManifestError
from vmp.prepare.splits import PARTS, Sample, by_folds, by_ratio


@st.composite
def grouped(draw):
    """Clips of up to five classes in groups, each class in at least two groups."""
    classes = "abcde"[: draw(st.integers(2, 5))]
    groups = draw(
        st.lists(st.lists(st.sampled_from(classes), min_size=1, max_size=6), min_size=4, max_size=14)
    )
    groups += [[c] for c in classes] * 2
    return [Sample(label, f"g{number}") for number, own in enumerate(groups) for label in own]


@st.composite
def single(draw):
    """Clips without groups, two or more of each class."""
    counts = draw(st.lists(st.integers(2, 13), min_size=1, max_size=5))
    return [Sample("abcde"[i], f"{i}/{n}.mp4") for i, count in enumerate(counts) for n in range(count)]


def per_part(samples, found) -> dict[object, Counter]:
    counts: dict[object, Counter] = defaultdict(Counter)
    for sample, part in zip(samples, found, strict=True):
        counts[part][sample.label] += 1
    return counts


@given(grouped(), st.integers(2, 4), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_folds_keep_groups_and_leave_every_class_to_training(samples, folds, seed):
    found = by_folds(samples, folds, seed=seed)
    assert len(found) == len(samples)
    assert set(found) == set(range(1, folds + 1))
    assert all(len({f for s, f in zip(samples, found, strict=True) if s.group == g}) == 1 for _, g in samples)
    total = Counter(s.label for s in samples)
    assert all(total - own >= Counter(dict.fromkeys(total, 1)) for own in per_part(samples, found).values())


@given(single(), st.integers(2, 5), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_folds_of_single_clips_are_as_even_as_whole_numbers_allow(samples, folds, seed):
    if len(samples) < folds:
        folds = len(samples)
    counts = per_part(samples, by_folds(samples, folds, seed=seed))
    sizes = [counts[fold].total() for fold in range(1, folds + 1)]
    assert max(sizes) - min(sizes) <= 1
    for label in {s.label for s in samples}:
        own = [counts[fold][label] for fold in range(1, folds + 1)]
        assert max(own) - min(own) <= 1


@given(
    single() | grouped(), st.sampled_from([(0.8, 0, 0.2), (0.6, 0.2, 0.2), (0.9, 0.1, 0)]), st.integers(0, 5)
)
@settings(max_examples=60, deadline=None)
def test_a_ratio_keeps_groups_and_has_every_class_trained_and_tested(samples, ratio, seed):
    found = by_ratio(samples, ratio, seed=seed)
    assert all(len({f for s, f in zip(samples, found, strict=True) if s.group == g}) == 1 for _, g in samples)
    counts = per_part(samples, found)
    classes = {s.label for s in samples}
    assert counts["train"].keys() == counts["test" if ratio[2] else "val"].keys() == classes
    assert not counts.keys() - {part for part, share in zip(PARTS, ratio, strict=True) if share}


@pytest.mark.parametrize(("clips", "tested"), [(2, 1), (3, 1), (5, 1), (10, 2), (13, 3), (100, 20)])
def test_the_counts_of_a_ratio(clips, tested):
    samples = [Sample(label, f"{label}{n}") for label in "ab" for n in range(clips)]
    counts = per_part(samples, by_ratio(samples, (0.8, 0, 0.2)))
    assert [counts["test"][label] for label in "ab"] == [tested, tested]


@given(st.randoms(use_true_random=False), grouped())
@settings(max_examples=25, deadline=None)
def test_the_order_of_the_files_makes_no_difference_and_the_seed_does(random, samples):
    shuffled = random.sample(samples, len(samples))
    a, b = (
        dict(zip([s.group for s in part], by_folds(part, 2), strict=True)) for part in (samples, shuffled)
    )
    assert a == b


def test_seeds_give_other_splits_and_accents_do_not():
    samples = [Sample("ab"[n % 2], f"caf\u00e9 {n}") for n in range(20)]
    other = [Sample(label, group.replace("\u00e9", "e\u0301")) for label, group in samples]
    assert by_folds(samples, 5) == by_folds(samples, 5, seed=0) == by_folds(other, 5)
    assert len({tuple(by_folds(samples, 5, seed=seed)) for seed in range(8)}) > 4


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        ([("a", "1"), ("b", "2"), ("b", "3")], "class 'a' has one clip, 1"),
        ([("a", "1"), ("a", "1"), ("b", "2"), ("b", "3")], "class 'a' has 2 clips, all of group '1'"),
        ([("a", "1"), ("a", "2"), ("b", "2"), ("b", "1")], "dataset.folds = 3: there are 2 groups"),
    ],
)
def test_what_cannot_be_divided_is_refused(samples, said):
    with pytest.raises(ManifestError, match=said):
        by_folds([Sample(*s) for s in samples], 3)


def test_classes_whose_groups_force_them_together_are_named():
    """a, b and c can only be parted in two folds by parting a group: ab, bc and ca, and two folds for three of them."""
    samples = [Sample(label, f"g{i}") for i, own in enumerate(("ab", "bc", "ca")) for label in own]
    assert len(set(by_folds(samples, 3))) == 3
    with pytest.raises(ManifestError, match=r"no split by 2 folds .* on one side only: [abc]\. Use another"):
        by_folds(samples, 2)
