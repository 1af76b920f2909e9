"""Which clips each rank reads: a pure function of (seed, epoch, batch, rank), so a run can continue at any batch.

Notes:
- one epoch is one permutation of the clips, cut into batches of the whole job and these into ranks: a step has the
  same clips however many processes share it;
- with labels, an epoch has every class equally often instead, up to one clip, and each clip of a class equally often;
- the last clips that do not fill a step are left out of that epoch (another epoch leaves out others).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np


def generator(*key: int) -> np.random.Generator:
    """A random generator for this key of non-negative whole numbers, and nothing else."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


# first number of each key, so that no two purposes share a stream
ORDER, AUGMENT, DROPOUT, WEIGHTS, NOISE, MIX, BALANCE = 1, 2, 3, 4, 5, 6, 7


def epoch_order(clips: int, *, seed: int, epoch: int) -> np.ndarray:
    return generator(ORDER, seed, epoch).permutation(clips)


def balanced_order(labels: Sequence[int], *, seed: int, epoch: int) -> list[tuple[int, int]]:
    """As many clips as there are labels: (clip, how often the epoch had it before). Each epoch draws anew which classes
    get one clip more than others."""
    rng = generator(BALANCE, seed, epoch)
    found, places = np.unique(labels, return_inverse=True)
    least, more = divmod(len(labels), len(found))
    wanted = least + (rng.permutation(len(found)) < more)  # (classes that occur,)
    drawn = []
    for label, count in enumerate(wanted.tolist()):
        clips = np.flatnonzero(places == label)
        rounds = [rng.permutation(clips) for _ in range(-(-count // len(clips)))]
        drawn += [(int(clip), again) for again, one in enumerate(rounds) for clip in one][:count]
    return [drawn[i] for i in rng.permutation(len(drawn))]


@dataclass(kw_only=True, eq=False)
class TrainBatches:
    """Batches of (clip index, epoch), and for repeated clips (clip index, epoch, how often before), for one rank, for
    `DataLoader(batch_sampler=...)`.

    Args:
        labels: of all clips, to balance the classes; None: each clip once.
        batch: clips per forward pass of one rank.
        batches: per rank and epoch, a multiple of the accumulation steps.
    """

    clips: int  # in the training split
    batch: int  # clips per forward pass of one rank
    batches: int  # per rank and epoch, a multiple of the accumulation steps
    seed: int
    rank: int = 0
    world: int = 1
    labels: Sequence[int] | None = None
    epoch: int = field(default=0, init=False)
    first: int = field(default=0, init=False)  # batch of the epoch

    def start_at(self, epoch: int, batch: int) -> None:
        """Begin the next pass at this batch of this epoch."""
        self.epoch, self.first = epoch, batch

    def __len__(self) -> int:
        return self.batches - self.first

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        key = {"seed": self.seed, "epoch": self.epoch}
        order: Sequence[tuple[int, int]]
        if self.labels is None:
            order = [(clip, 0) for clip in epoch_order(self.clips, **key).tolist()]
        else:
            order = balanced_order(self.labels, **key)
        for i in range(self.first, self.batches):
            low = (i * self.world + self.rank) * self.batch
            batch = order[low : low + self.batch]
            yield [(clip, self.epoch, again) if again else (clip, self.epoch) for clip, again in batch]
