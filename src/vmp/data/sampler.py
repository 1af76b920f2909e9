"""Which clips each rank reads: a pure function of (seed, epoch, batch, rank), so a run can continue at any batch.

Notable here:
- one epoch is one permutation of the clips, cut into batches of the whole job and these into ranks: a step has the
  same clips however many processes share it;
- the last clips that do not fill a step are left out of that epoch (another epoch leaves out others).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np


def generator(*key: int) -> np.random.Generator:
    """A random generator for this key of non-negative whole numbers, and nothing else."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


# first number of each key, so that no two purposes share a stream
ORDER, AUGMENT, DROPOUT, WEIGHTS, NOISE = 1, 2, 3, 4, 5


def epoch_order(clips: int, *, seed: int, epoch: int) -> np.ndarray:
    return generator(ORDER, seed, epoch).permutation(clips)


@dataclass(kw_only=True, eq=False)
class TrainBatches:
    """Batches of (clip index, epoch) for one rank, for `DataLoader(batch_sampler=...)`.

    Args:
        batch: clips per forward pass of one rank.
        batches: per rank and epoch, a multiple of the accumulation steps.
    """

    clips: int  # in the training split
    batch: int  # clips per forward pass of one rank
    batches: int  # per rank and epoch, a multiple of the accumulation steps
    seed: int
    rank: int = 0
    world: int = 1
    epoch: int = field(default=0, init=False)
    first: int = field(default=0, init=False)  # batch of the epoch

    def start_at(self, epoch: int, batch: int) -> None:
        """Begin the next pass at this batch of this epoch."""
        self.epoch, self.first = epoch, batch

    def __len__(self) -> int:
        return self.batches - self.first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = epoch_order(self.clips, seed=self.seed, epoch=self.epoch)
        for i in range(self.first, self.batches):
            low = (i * self.world + self.rank) * self.batch
            yield [(int(clip), self.epoch) for clip in order[low : low + self.batch]]
