"""What torch says in tracebacks, said in words."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from vmp.data.shared import ADVICE, WHERE
from vmp.errors import RunError, shortlist


@contextmanager
def told(
    being_read: Callable[[], list[str]] | None = None, asked: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Say in words what torch says in tracebacks.

    Args:
        being_read: clips to name when a data worker is lost; None: there are no workers.
        asked: raises if the run was asked to stop: a signal to all processes ends workers that are just starting.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError, ConnectionError, EOFError) as error:
        words: Exception | None = None
        while words is None:
            try:
                words = _in_words(error, being_read, asked)
            except RuntimeError as again:
                # a worker that ends makes torch's handler of SIGCHLD raise wherever this process is: also here
                if "DataLoader worker" not in str(again):
                    raise
        if words is error:
            raise
        raise words from error


def _in_words(
    error: Exception, being_read: Callable[[], list[str]] | None, asked: Callable[[], None]
) -> Exception:
    """What to raise in its place; itself where there is nothing to say.

    Raises:
        Stopped: a worker is gone because the run was asked to stop.
    """
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return RunError(f"out of GPU memory ({_first_line(error)}). {_LESS}")
    if isinstance(error, MemoryError):
        return RunError(f"out of memory. {_LESS}")
    if re.search(
        r"not enough memory|can't allocate memory|could not (create|execute) a primitive"
        r"|CUDA.*out of memory|CUBLAS_STATUS_ALLOC_FAILED",
        text,
    ):
        return RunError(f"out of memory ({_first_line(error)}). {_LESS}")
    if any(kind.__module__.startswith(("torch._dynamo", "torch._inductor")) for kind in type(error).__mro__):
        asked()  # a signal may have ended the compiler
        lines = [line for line in text.partition("\nSet TORCHDYNAMO_VERBOSE")[0].splitlines() if line.strip()]
        return RunError(
            f"trainer.compile=true: torch.compile failed: {' '.join(lines[:3])[:600]}\n"
            "The same run with trainer.compile=false is another run (tag=WORD); TORCHDYNAMO_VERBOSE=1 and TORCH_LOGS "
            "show more of torch's own words, docs/running.md what it needs."
        )
    if isinstance(error, torch.distributed.DistError) or re.search(r"[Gg]loo|NCCL|TCPStore", text):
        return RunError(
            f"another process of this run died or stopped answering ({_first_line(error)}). Its own message says "
            "why; the same command continues from the last checkpoint."
        )
    if being_read is None or (isinstance(error, RuntimeError) and "DataLoader" not in text):
        return error
    if re.search(r"[Bb]us error|shared memory", text):
        return RunError(
            f"a data worker could not hand over its clips: {WHERE} (shared memory) is full ({_first_line(error)}). "
            f"{ADVICE}. The same command continues."
        )
    asked()  # a worker may also go while it hands over its batch: a lost connection
    clips = being_read()
    at = f"It was reading one of:\n{shortlist(clips)}\n" if clips else ""
    return RunError(
        f"a data worker died or stopped answering ({_first_line(error)}). A video may have crashed or hung its "
        f"decoder, or memory ran out. {at}The same command continues; with trainer.workers=0 the decoder's own "
        "words are seen, fewer trainer.workers need less memory, and `python scripts/prepare.py verify MANIFEST` "
        "tries every file in a process that may crash."
    )


_LESS = (
    "With tag=WORD, from the start: a lower trainer.micro_batch (portions are accumulated to the same update; batch "
    "norm sees smaller ones), or trainer.amp=bf16. Less memory for data: fewer trainer.workers, in the same run."
)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
