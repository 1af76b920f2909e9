"""Small real runs for tests: numbered videos on disk, trained by the real command."""

import ctypes
import json
import multiprocessing as mp
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from vmp.data.columns import Clip
from vmp.data.encode import write_video
from vmp.data.manifest import write_classes, write_manifest

ROOT = Path(__file__).resolve().parent.parent
QUICK = (
    "dataset=manifest",
    "trainer.epochs=6",
    "trainer.batch_size=4",
    "trainer.device=cpu",
    "trainer.workers=0",
    "trainer.threads=1",
    "trainer.log_every=1",
    "backbone.weights=none",
    "backbone.width=4",
    "backbone.crop=32",
    "backbone.frames=4",
    "optim=sgd_cosine_tiny",
    "optim.lr=0.05",
)


def bright_or_dark(home: Path, *, train: int = 24, val: int = 9, frames: int = 12, size: int = 48) -> Path:
    """Two classes that a tiny net learns in three epochs: a square that grows brighter, or darker."""
    classes = ("brighter", "darker")
    write_classes(home / "classes.txt", classes)
    for split, count in (("train", train), ("val", val)):
        clips = []
        for i in range(count):
            rng = np.random.default_rng([split == "train", i])
            label = i % 2
            (home / split).mkdir(exist_ok=True)
            path = f"{split}/{i:03}.mp4"
            y, x = rng.integers(0, size // 2, 2)
            pictures = []
            for t in range(frames):
                picture = np.full((size, size, 3), 90, np.uint8)
                level = 60 + 12 * t if label == 0 else 60 + 12 * (frames - 1 - t)
                picture[y : y + size // 2, x : x + size // 2] = level
                pictures.append(picture)
            write_video(home / path, pictures)
            clips.append(
                Clip(
                    f"{split}/{i}",
                    path,
                    label,
                    frames=frames,
                    fps=25,
                    width=size,
                    height=size,
                    readers=("opencv", "pyav"),
                )
            )
        write_manifest(home / f"{split}.csv", clips)
    return home


def without_validation(data: Path, home: Path) -> Path:
    """A copy whose clips to validate on are to test on."""
    shutil.copytree(data, home)
    (home / "val.csv").rename(home / "test.csv")
    return home


def overrides_for(data: Path, out: Path, *overrides: str) -> list[str]:
    return [*QUICK, f"dataset.folder='{data}'", f"output='{out}'", *overrides]


# --- processes -----------------------------------------------------------------------------------------------------
# Real processes that run the real train.py, forked from a server that has paid for the slow imports once.

CONTEXT = mp.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        *(
            "vmp.train",
            "vmp.evaluate",
            "vmp.engine.loop",
            "vmp.engine.evaluator",
            "vmp.model",
            "vmp.objective",
        ),
        *("vmp.figures.curves", "vmp.figures.panels", "matplotlib.pyplot", "safetensors.torch", "cv2", "av"),
        *("hydra.main", "wandb", "wandb.sdk.launch.inputs.internal"),
        "torch._dynamo",  # torch's optimizers import it, which takes most of the time of a short run
    ]
)


STREAMS = ("stdout", "stderr")


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


class Running:
    """A command in a session of its own, so that signals can go to all its processes.

    script: one of the repository's, or "-c" for Python in the first argument. cwd: its working directory.
    """

    def __init__(
        self,
        arguments: list[str],
        *,
        script: str = "train.py",
        hang: str = "",
        environment: Mapping[str, str] | None = None,
        shared_memory: str = "",
        cwd: Path = ROOT,
    ) -> None:
        self.said = Path(tempfile.mkdtemp(prefix="vmp-run-"))
        for name in STREAMS:
            (self.said / name).touch()
        args = (script, arguments, str(self.said), hang, dict(environment or {}), shared_memory, str(cwd))
        self.process = CONTEXT.Process(target=_main, args=args)
        self.process.start()

    @property
    def pid(self) -> int:
        assert self.process.pid
        return self.process.pid

    def over(self) -> bool:
        return not self.process.is_alive()

    def signal(self, number: int) -> None:
        """To the whole group, loader processes too, as Slurm and a terminal send it."""
        with suppress(ProcessLookupError):
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:  # it has no group of its own yet
                os.kill(self.pid, number)

    def wait(self, timeout: float = 120) -> Done:
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.signal(signal.SIGKILL)
            raise TimeoutError(f"still running after {timeout} s: {self.said}")
        texts = [(self.said / name).read_text(encoding="utf-8", errors="replace") for name in STREAMS]
        shutil.rmtree(self.said)
        return Done(self.process.exitcode, *texts)

    def succeed(self, timeout: float = 120) -> Done:
        done = self.wait(timeout)
        assert done.returncode == 0, done.stderr[-3000:]
        return done


def wait_for(
    condition: Callable[[], object],
    process: "Running | Ranks | subprocess.Popen | None" = None,
    *,
    seconds: float = 120,
    says: Callable[[], object] = str,
) -> None:
    """Until it holds. Fails where the process ends before, or it takes too long, and says what `says` finds then."""
    end = time.monotonic() + seconds
    while not condition():
        over = (
            process.poll() is not None
            if isinstance(process, subprocess.Popen)
            else process and process.over()
        )
        assert not over, says()
        assert time.monotonic() < end, says()
        time.sleep(0.005)


def started_by(starter: str, rank: int, ranks: int, port: int) -> dict[str, str]:
    """What a starter of several processes on this machine tells one of them."""
    if starter == "torchrun":
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        own = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    elif starter == "mpirun":
        names = tuple(f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))
        own = {"PMIX_NAMESPACE": f"prterun-host-{port}@1"}
    else:  # srun, in a job of several tasks on one node
        names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS")
        own = {"SLURM_JOB_ID": str(port), "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": "1"}
        own |= {"SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "gpu[007]", "SLURM_TASKS_PER_NODE": str(ranks)}
    return own | dict(zip(names, (str(n) for n in (rank, ranks, rank, ranks)), strict=True))


class Ranks:
    """Processes of one run, with the environment that torchrun, srun or mpirun gives; they meet through gloo.

    own: further arguments of each process.
    """

    def __init__(
        self,
        arguments: list[str],
        *,
        ranks: int,
        script: str = "train.py",
        own: Sequence[Sequence[str]] | None = None,
        starter: str = "torchrun",
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.running = [
            Running(
                [*arguments, *(own[rank] if own else ())],
                script=script,
                environment={"OMP_NUM_THREADS": "1", **started_by(starter, rank, ranks, port)},
            )
            for rank in range(ranks)
        ]

    def over(self) -> bool:
        return all(one.over() for one in self.running)

    def signal(self, number: int) -> None:
        for one in self.running:
            one.signal(number)

    def wait(self, timeout: float = 120) -> list[Done]:
        return [one.wait(timeout) for one in self.running]

    def succeed(self, timeout: float = 120) -> list[Done]:
        done = self.wait(timeout)
        assert [one.returncode for one in done] == [0] * len(done), [one.stderr[-3000:] for one in done]
        return done


CANNOT_MOUNT = 77  # exit code


def _mount_shared_memory(size: str) -> None:
    """A /dev/shm of this process's own, as a container has it."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_namespace, private = 0x00020000, (1 << 14) | (1 << 18)
    if (
        libc.unshare(new_namespace)
        or libc.mount(b"none", b"/", None, private, None)
        or libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, f"size={size}".encode())
    ):
        os._exit(CANNOT_MOUNT)


def _main(
    script: str,
    arguments: list[str],
    said: str,
    hang: str,
    environment: dict[str, str],
    shared_memory: str,
    cwd: str,
) -> None:
    os.setsid()
    # a process has one such server, and where vmp.jobs has started it first, its children do not hear Ctrl-C
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.environ.update(environment)
    if shared_memory:
        _mount_shared_memory(shared_memory)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{said}/{name}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    os.chdir(cwd)
    sys.argv = [script, *arguments]
    if hang:  # a file on which the decoder never returns
        import vmp.data.dataset as dataset

        real = dataset.read_frames
        dataset.read_frames = lambda path, *a, **k: (
            time.sleep(1000) if path.name == hang else real(path, *a, **k)
        )
    try:
        if script == "-c":
            exec(compile(arguments[0], "<string>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_path(str(ROOT / script), run_name="__main__")
    finally:
        sys.stdout.flush(), sys.stderr.flush()


def start(data: Path, out: Path, *overrides: str) -> Running:
    return Running(overrides_for(data, out, *overrides))


def run(data: Path, out: Path, *overrides: str) -> Done:
    return start(data, out, *overrides).wait()


def start_ranks(
    data: Path,
    out: Path,
    *overrides: str,
    ranks: int,
    own: Sequence[Sequence[str]] | None = None,
    starter: str = "torchrun",
) -> Ranks:
    return Ranks(overrides_for(data, out, *overrides), ranks=ranks, own=own, starter=starter)


def torchrun(data: Path, out: Path, *overrides: str, ranks: int) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    return subprocess.run(
        [*launcher, "train.py", *overrides_for(data, out, *overrides)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )


def folder(out: Path, method: str = "learned_lambda1", seed: str = "seed0") -> Path:
    return out / "manifest" / "tiny" / method / seed


def differences(a: Path, b: Path) -> list[str]:
    """What is not the same, to the bit, in two finished runs."""
    found = [
        name
        for name in ("metrics.jsonl", "predictions.csv", "per_class.csv")
        if (a / name).read_bytes() != (b / name).read_bytes()
    ]
    newest = [max((run / "checkpoints").glob("step_*")) for run in (a, b)]
    left, right = (load_file(path / "model.safetensors") for path in newest)
    found += [name for name in left if not np.array_equal(left[name], right[name])]
    left, right = (json.loads((run / "result.json").read_text()) for run in (a, b))
    same = ("top1", "top5", "mean_class", "variation", "scalars", "best_val_top1", "best_val_epoch", "clips")
    return found + [key for key in (*same, "unreadable_in_training") if left[key] != right[key]]
