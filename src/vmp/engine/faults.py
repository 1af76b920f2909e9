"""Translate torch's exceptions into messages that say what happened and what to do."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from vmp.data.shared import ADVICE, WHERE
from vmp.errors import RunError, first_line, shortlist
from vmp.invocation import command_line


@contextmanager
def explain_torch_errors(
    being_read: Callable[[], list[str]] | None = None, check_stop: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Context that replaces torch's exceptions of known cause by a RunError; others pass unchanged.

    Args:
        being_read: returns the clips that loader processes are reading, for the message if one of them dies; None:
            there are no loader processes.
        check_stop: raises Stopped if the run was asked to stop, which may be why another process is gone. (A signal to
            all processes also ends loader processes that are just starting.)
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError, ConnectionError, EOFError) as error:
        explained: Exception | None = None
        while explained is None:
            try:
                explained = _explain(error, being_read, check_stop)
            except RuntimeError as again:
                # when a worker ends, torch's handler of SIGCHLD raises wherever this process is, even here
                if "DataLoader worker" not in str(again):
                    raise
        if explained is error:
            raise
        raise explained from error


def _explain(
    error: Exception, being_read: Callable[[], list[str]] | None, check_stop: Callable[[], None]
) -> Exception:
    """The exception to raise instead; the same one if its cause is not known.

    Raises:
        Stopped: a worker or another process is gone because the run was asked to stop.
    """
    text, first = str(error), first_line(error)
    if isinstance(error, torch.OutOfMemoryError):
        return RunError(f"out of GPU memory ({first}). {_LESS}")
    if isinstance(error, MemoryError):
        return RunError(f"out of memory. {_LESS}")
    if re.search(
        r"not enough memory|can't allocate memory|could not (create|execute) a primitive"
        r"|CUDA.*out of memory|CUBLAS_STATUS_ALLOC_FAILED",
        text,
    ):
        return RunError(f"out of memory ({first}). {_LESS}")
    if any(kind.__module__.startswith(("torch._dynamo", "torch._inductor")) for kind in type(error).__mro__):
        check_stop()  # the signal may have killed the compiler
        lines = [line for line in text.partition("\nSet TORCHDYNAMO_VERBOSE")[0].splitlines() if line.strip()]
        return RunError(
            f"trainer.compile=true: torch.compile failed: {' '.join(lines[:3])[:600]}\n"
            "Without compilation, start another run: trainer.compile=false tag=WORD. TORCHDYNAMO_VERBOSE=1 and "
            "TORCH_LOGS show more of torch's own messages, and docs/precision.md says what compilation needs."
        )
    if "Expected to have finished reduction" in text:
        return RunError(
            "some parameters of the model get no gradient, and several processes wait for that of every parameter. "
            "Leave these out of the backbone, or freeze them there with requires_grad_(False); "
            "TORCH_DISTRIBUTED_DEBUG=INFO names them. Or train with one process."
        )
    if isinstance(error, torch.distributed.DistError) or re.search(r"[Gg]loo|NCCL|TCPStore", text):
        check_stop()  # the others have noticed the time limit or the signal before this process did
        return RunError(
            f"another process of this run died or stopped answering ({first}). Its own message says why; the same "
            "command continues from the last checkpoint."
        )
    if being_read is None or (isinstance(error, RuntimeError) and "DataLoader" not in text):
        return error
    if re.search(r"[Bb]us error|shared memory", text):
        return RunError(
            f"a loader process could not pass on its clips: {WHERE} (shared memory) is full ({first}). {ADVICE}. The "
            "same command continues."
        )
    check_stop()  # a worker may also go while it hands over its batch: a lost connection
    clips = being_read()
    at = f"It was reading one of:\n{shortlist(clips)}\n" if clips else ""
    return RunError(
        f"a loader process died or stopped answering ({first}). A video may have crashed or hung its "
        f"decoder, or memory ran out. {at}The same command continues; with trainer.workers=0 the decoder's own "
        f"messages are shown, fewer trainer.workers need less memory, and `{command_line('prepare')} verify MANIFEST` "
        "tries every file in a process that may crash."
    )


_LESS = (
    "Start a new run (tag=WORD) with a lower trainer.micro_batch (updates stay the same, but batch norm sees fewer "
    "clips at a time) or with trainer.amp=bf16. Or continue this run with fewer trainer.workers."
)
