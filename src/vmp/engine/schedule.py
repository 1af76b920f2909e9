"""The learning rate as a function of progress, so a continued run needs no scheduler state.

epoch: a real number, the steps done divided by the steps per epoch.
"""

import math
from collections.abc import Callable, Sequence

Schedule = Callable[[float], float]  # epoch -> factor on the base learning rate


def cosine(*, epochs: float, warmup_epochs: float = 0.0, warmup_start: float = 0.1) -> Schedule:
    """Half a cosine from 1 to 0 over the run, with a linear warm-up from warmup_start to the cosine's value at its end.

    As in PySlowFast, the warm-up is part of the epochs."""

    def half_cosine(epoch: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * min(epoch / epochs, 1.0)))

    return _with_warmup(half_cosine, warmup_epochs, warmup_start)


def steps(
    *, at: Sequence[float], factors: Sequence[float], warmup_epochs: float = 0.0, warmup_start: float = 0.1
) -> Schedule:
    """factors[i] from epoch at[i] on; at[0] is 0. The authors' recipe: at = (0, 11, 14), factors = (1, 0.1, 0.01)."""

    def step_function(epoch: float) -> float:
        return factors[max(i for i, since in enumerate(at) if epoch >= since)]

    return _with_warmup(step_function, warmup_epochs, warmup_start)


def _with_warmup(schedule: Schedule, warmup_epochs: float, warmup_start: float) -> Schedule:
    top = schedule(warmup_epochs)

    def warmed(epoch: float) -> float:
        if epoch >= warmup_epochs:
            return schedule(epoch)
        return warmup_start + (top - warmup_start) * epoch / warmup_epochs

    return warmed
