"""What has to be true of this machine before a run starts on it, checked before data are made or read.

torch is imported only where a device has to be looked at.
"""

import errno
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from vmp.build import make_backbone
from vmp.config import Config, CustomBackbone, CustomPrompts, Prompts, TimeSformerConfig
from vmp.errors import ConfigError, RunError
from vmp.machine import cpus
from vmp.prompts import build_prompts
from vmp.ranks import read_rank
from vmp.runs.folder import check_writable


def check_machine(config: Config) -> None:
    """Raise UserError where this machine cannot run the config."""
    clips_per_process(config, read_rank().world)
    check_workers(config.trainer.workers, "trainer.workers")
    check_writable(config.folder)
    if config.trainer.compile:
        _check_compiler(config.trainer.device)
    if config.trainer.device.startswith("cuda") or config.train.batch_norm == "sync":
        from vmp.engine import dist  # imports torch

        device = dist.find_device(config.trainer.device)
        if config.train.batch_norm == "sync" and device.type != "cuda":
            raise ConfigError("train.batch_norm = 'sync' works on CUDA devices only; use train")


def try_own_parts(config: Config) -> None:
    """Raise ConfigError where prompts or a backbone of the user's own cannot be built, or fail on a clip."""
    b, v, spec = config.backbone, config.vmp, config.backbone.spec
    if not isinstance(b, CustomBackbone) and not isinstance(v, CustomPrompts):
        return
    from vmp import own

    if isinstance(v, CustomPrompts):
        for layer in build_prompts(config).values():
            own.try_prompt(v.target, layer, frames=spec.frames, crop=spec.crop)
    if isinstance(b, CustomBackbone):
        own.try_backbone(b.target, b.options, frames=spec.frames, crop=spec.crop)


def check_stage(config: Config) -> None:
    """Raise ConfigError where the backbone has no feature maps over time at vmp.at."""
    v, b, spec = config.vmp, config.backbone, config.backbone.spec
    if not isinstance(v, Prompts) or not v.at:
        return
    import torch

    from vmp.extensions.features import find_stage, stage_names

    with torch.device("cpu" if isinstance(b, CustomBackbone) else "meta"):  # shapes alone need no arithmetic
        backbone = make_backbone(config, 2)
        clip = torch.zeros(2, 3, spec.frames, spec.crop, spec.crop)
        shapes: dict[str, tuple[int, ...]] = {}
        for name in dict.fromkeys([v.at, *stage_names(backbone)]):
            find_stage(backbone, name).register_forward_hook(
                lambda _, __, out, name=name: shapes.update({name: tuple(getattr(out, "shape", ()))})
            )
        with torch.no_grad():
            backbone(clip)
    tokens = isinstance(b, TimeSformerConfig)

    def fits(name: str) -> bool:
        shape = shapes.get(name, ())
        if tokens:
            return bool(re.fullmatch(r"blocks\.\d+", name))
        return len(shape) == 5 and shape[2] > 1

    if not fits(v.at):
        good = ", ".join(name for name in stage_names(backbone) if fits(name))
        raise ConfigError(f"vmp.at = {v.at}: has no feature maps of several times; these have: {good}")


def clips_per_process(config: Config, world: int) -> int:
    """Clips of one update on each of `world` processes.

    Raises:
        ConfigError: the batch cannot be divided among them.
    """
    each, left = divmod(config.trainer.batch_size, world)
    if left or not each:
        raise ConfigError(
            f"trainer.batch_size = {config.trainer.batch_size} cannot be divided among {world} processes"
        )
    return each


def check_workers(workers: int | None, key: str) -> None:
    """Raise ConfigError for so many loader processes that they exhaust the memory before they read a clip."""
    most = max(16, 4 * cpus())
    if workers is not None and workers > most:
        raise ConfigError(
            f"{key} = {workers}: each is a process that needs memory of its own, and there are "
            f"{cpus()} CPU(s) for them; use at most {most}, or null for as many as there are CPUs, up to 8"
        )


def _check_compiler(device: str) -> None:
    """Raise ConfigError where torch.compile would find no compiler: C++ for a CPU; C, for Triton, for a GPU."""
    import torch

    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    variable, usual = ("CC", ("gcc", "clang")) if on_gpu else ("CXX", ("g++",))
    if sys.platform == "darwin":
        usual = ("clang++",)
    names = (os.environ[variable],) if os.environ.get(variable) else usual
    if not any(shutil.which(name) for name in names):
        raise ConfigError(
            f"trainer.compile=true: torch.compile needs a compiler, and {' or '.join(names)} is not there. Install one "
            f"(Debian: apt install g++; conda: conda install gxx), name it in the variable {variable}, or set "
            "trainer.compile=false"
        )


@contextmanager
def explain_disk_errors() -> Iterator[None]:
    """Raise a RunError in place of an OSError of a disk or a shared memory that is full or broken."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO):
            raise
        from vmp.data.shared import WHERE, shortage  # imports torch

        full = error.errno == errno.ENOSPC and not error.filename and shortage(1 << 16, workers=1, beside=1)
        what = error.filename or (f"shared memory ({WHERE})" if full else "a file")
        raise RunError(
            f"{what}: cannot be written ({error.strerror}). Correct that; the same command continues from the last "
            "checkpoint."
        ) from error
