"""What torch says in tracebacks, said in words."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vmp.errors import RunError


@contextmanager
def told() -> Iterator[None]:
    """Say in words what torch says in tracebacks."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"out of GPU memory ({str(error).splitlines()[0]}). With tag=WORD, from the start: a lower "
            "trainer.micro_batch (portions are accumulated to the same update; batch norm sees smaller ones), or "
            "trainer.amp=bf16."
        ) from error
    except RuntimeError as error:
        if "DataLoader" not in str(error):
            raise
        raise RunError(
            f"a data worker died or stopped answering ({str(error).splitlines()[0]}). A video may have crashed or "
            "hung its decoder, or memory ran out: try fewer trainer.workers, or trainer.workers=0 to see it happen; "
            "the same command continues the run. data.reader=pyav needs tag=WORD and starts again."
        ) from error
