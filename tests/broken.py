"""Real runs of the real command in a process that something is wrong with: a full disk, another user, a bad decoder."""

import ctypes
import os
import resource
import signal
import struct
import tempfile
import time
from pathlib import Path

import runs
from runs import CONTEXT, Running


class Broken(Running):
    """A command in a process whose files may not grow beyond `largest` bytes, which may not have more than `memory`
    bytes more than at its start, which may do no more than permissions say even if it is root's, and whose loader
    processes are killed on the file `dies`, and which takes `slow` seconds more for each clip that it reads."""

    def __init__(
        self,
        arguments: list[str],
        *,
        script: str = "train.py",
        largest: int = 0,
        memory: int = 0,
        bound: bool = False,
        dies: str = "",
        slow: float = 0,
    ) -> None:
        self.said = Path(tempfile.mkdtemp(prefix="vmp-run-"))
        self.said.chmod(0o777)
        how = (largest, memory, bound, dies, slow)
        self.process = CONTEXT.Process(target=_main, args=(script, arguments, str(self.said), *how))
        self.process.start()


def _main(
    script: str,
    arguments: list[str],
    said: str,
    largest: int,
    memory: int,
    bound: bool,
    dies: str,
    slow: float,
) -> None:
    if largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    if memory:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (taken + memory, taken + memory))
    if bound:
        give_up_privileges()
    if dies or slow:
        import vmp.data.dataset as dataset

        real = dataset.read_frames

        def read(path, *args, **options):
            if path.name == dies:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(slow)
            return real(path, *args, **options)

        dataset.read_frames = read
    runs._main(script, arguments, said, "", {}, "", str(runs.ROOT))


def give_up_privileges() -> None:
    """Root may write and read everything; without capabilities it may what the permissions of files say."""
    head = struct.pack("Ii", 0x20080522, 0)  # the version of Linux's capset, this process
    if ctypes.CDLL(None, use_errno=True).capset(head, bytes(24)):
        raise OSError(ctypes.get_errno(), "capset")
