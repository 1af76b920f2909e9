"""Splits labelled clips into train, val and test by ratio, or into folds, without parting a group.

Notes:
- groups are placed one after another, the largest first, each where its classes are furthest below their share. Clips
  without groups come out as even as whole numbers allow: a class's counts in two folds differ by at most one, and so do
  the folds' sizes;
- a class is never placed where training, or the tested part, would lose its last clip, if its groups allow another;
- the result depends on the seed and on the clips' labels and groups, not on the order in which they are given.
"""

import hashlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from typing import NamedTuple

from vmp.errors import ManifestError, shortlist

PARTS = ("train", "val", "test")


class Sample(NamedTuple):
    """What splitting sees of a clip."""

    label: str
    group: str  # clips of one group stay together; a clip's own path where it has no group


def by_ratio(samples: Sequence[Sample], ratio: Sequence[float], *, seed: int = 0) -> list[str]:
    """One of PARTS for each sample; `ratio` has their shares, which sum to 1.

    Raises:
        ManifestError: a class cannot be in training and in the tested part (test, or val where test has no share).
    """
    tested = 2 if ratio[2] else 1
    needed = {0, tested}
    _check_classes(samples, f"both in train and in {PARTS[tested]}")
    found = _assign(samples, ratio, seed=seed, needed=needed)
    having = _parts_of(samples, found)
    _check_found([label for label in sorted(having) if not needed <= having[label]], "this ratio")
    return [PARTS[part] for part in found]


def by_folds(samples: Sequence[Sample], folds: int, *, seed: int = 0) -> list[int]:
    """The fold, from 1, in which each sample is tested; in the others it is trained on.

    Raises:
        ManifestError: there are fewer groups than folds, or training would lack a class in some fold.
    """
    _check_classes(samples, "in train in every fold and tested in one")
    groups = len({sample.group for sample in samples})
    if groups < folds:
        raise ManifestError(
            f"dataset.folds = {folds}: there are {groups} groups, and a group is in one fold; use at most {groups}"
        )
    found = _assign(samples, [1 / folds] * folds, seed=seed)
    having = _parts_of(samples, found)
    _check_found([label for label in sorted(having) if len(having[label]) < 2], f"{folds} folds")
    return [fold + 1 for fold in found]


def _assign(
    samples: Sequence[Sample], shares: Sequence[float], *, seed: int, needed: Collection[int] = ()
) -> list[int]:
    """The index of the part of each sample.

    Args:
        shares: of the parts; they sum to 1, and a part with 0 stays empty.
        needed: parts that must have every class; none: each class must be in two of the parts, whichever.
    """
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in samples:
        groups[sample.group][sample.label] += 1
    totals = Counter(sample.label for sample in samples)
    left = Counter(label for own in groups.values() for label in own)  # groups that are not placed yet
    parts = [part for part, share in enumerate(shares) if share]
    counts = {part: Counter[str]() for part in parts}
    sizes = dict.fromkeys(parts, 0)
    place: dict[str, int] = {}

    def is_wanted(label: str, part: int) -> bool:
        """Whether the class can do without this part, or cannot and lacks it."""
        lacking = {p for p in needed or parts if not counts[p][label]}
        must = len(lacking) if needed else max(0, 2 - len(parts) + len(lacking))
        return must < left[label] or part in lacking

    def cost(part: int, own: Counter[str]) -> tuple[float, ...]:
        """What to minimise: misplaced classes, then growth of the squared distance from the classes' shares, then from
        the part's own share."""
        of_classes = sum(_growth(counts[part][c], n, totals[c], shares[part]) for c, n in own.items())
        size = _growth(sizes[part], own.total(), len(samples), shares[part])
        misplaced = sum(not is_wanted(label, part) for label in own)
        return misplaced, round(of_classes, 9), round(size, 9), part

    for group in sorted(groups, key=lambda g: (-groups[g].total(), sorted(groups[g]), _drawn(seed, g))):
        own = groups[group]
        place[group] = min(parts, key=lambda part: cost(part, own))
        sizes[place[group]] += own.total()
        for label, count in own.items():  # adding Counters would pass over all classes each time
            counts[place[group]][label] += count
            left[label] -= 1
    return [place[sample.group] for sample in samples]


def _growth(there: int, added: int, total: int, share: float) -> float:
    """By how much ((there + added) / total - share)^2 exceeds (there / total - share)^2."""
    return (2 * (there / total - share) + added / total) * added / total


def _drawn(seed: int, group: str) -> str:
    """Where a group comes among others of its kind: a function of seed and name, however accents are coded."""
    return hashlib.sha256(
        f"{seed}\0{unicodedata.normalize('NFC', group)}".encode(errors="replace")
    ).hexdigest()


def _parts_of(samples: Sequence[Sample], found: Sequence[int]) -> dict[str, set[int]]:
    having: dict[str, set[int]] = defaultdict(set)
    for sample, part in zip(samples, found, strict=True):
        having[sample.label].add(part)
    return having


def _check_classes(samples: Sequence[Sample], where: str) -> None:
    """Raise ManifestError for classes that are in one group only, so that they cannot be divided."""
    groups: dict[str, set[str]] = defaultdict(set)
    clips = Counter(sample.label for sample in samples)
    for sample in samples:
        groups[sample.label].add(sample.group)
    faults = []
    for label in sorted(groups):
        if clips[label] == 1:
            faults.append(f"class {label!r} has one clip, {min(groups[label])}")
        elif len(groups[label]) == 1:
            faults.append(f"class {label!r} has {clips[label]} clips, all of group {min(groups[label])!r}")
    if faults:
        raise ManifestError(
            f"{len(faults)} class(es) cannot be {where}:\n{shortlist(faults)}\nAdd clips to them, leave the classes "
            "out, or give a split of your own."
        )


def _check_found(lost: Sequence[str], what: str) -> None:
    if lost:
        raise ManifestError(
            f"no split by {what} was found that keeps the groups whole and trains and tests every class; these are on "
            f"one side only: {', '.join(lost)[:400]}. Use another dataset.seed, fewer folds, or a split of your own."
        )
