"""The floating-point types of a run, and what `auto` means on a device.

Notable here:
- fp16 has five bits of exponent, so small gradients would become 0: the loss is multiplied by a scale, which torch's
  GradScaler adapts. An update whose gradients overflow is skipped on every process, and the scale halves;
- a GPU of compute capability 8.0 (A100) or newer multiplies bf16 and TF32; older ones (V100, T4) fp16 only.
"""

from typing import Any, NamedTuple

import torch

from vmp.machine import has_amx

AUTO = "auto"
KEYS = ("amp", "tf32", "cudnn_benchmark")  # of trainer
BF16_SINCE = (8, 0)  # compute capability
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
LOWEST_SCALE = 1.0  # with it, a gradient that overflows would do so unscaled


class Choice(NamedTuple):
    """amp: none, bf16 or fp16. tf32: for float32 products and convolutions; None: convolutions only, torch's default.
    cudnn_benchmark: whether cuDNN times its kernels and takes the fastest. why: of `auto`, for the log."""

    amp: str
    tf32: bool | None
    cudnn_benchmark: bool
    why: str


def choose(capability: tuple[int, int] | None, *, deterministic: bool) -> Choice:
    """What suits a device.

    Args:
        capability: of the GPU; None: a CPU.
        deterministic: kernels must not be chosen by time.
    """
    if capability is None:
        # bf16 is slow on most CPUs; with AMX it is faster for some backbones (C2D, TimeSformer), and slower for X3D
        hint = ", whose AMX units may make trainer.amp=bf16 faster" if has_amx() else ""
        return Choice("none", False, False, f"a CPU{hint}")
    name = ".".join(map(str, capability))
    if capability < BF16_SINCE:
        return Choice("fp16", False, not deterministic, f"compute capability {name} has no bf16 units")
    return Choice("bf16", True, not deterministic, f"compute capability {name} has bf16 and TF32 units")


def choose_for(device: torch.device, *, deterministic: bool) -> Choice:
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    return choose(capability, deterministic=deterministic)


def describe(values: dict[str, Any], device: torch.device) -> str:
    """values: trainer's `KEYS`, none of them `auto`."""
    amp = {
        "none": "float32",
        "bf16": "bf16 autocast",
        "fp16": "fp16 autocast with a scaled loss",
    }[values["amp"]]
    if device.type != "cuda":
        return amp
    tf32 = {
        True: "TF32 for float32 products and convolutions",
        False: "no TF32",
        None: "TF32 for convolutions",
    }
    kernels = "cuDNN's kernels chosen by time" if values["cudnn_benchmark"] else "cuDNN's default kernels"
    return f"{amp}, {tf32[values['tf32']]}, {kernels}"


def autocast_type(amp: str) -> torch.dtype | None:
    """The type of forward passes under trainer.amp; None: float32, which `auto` is outside of a run."""
    return AUTOCAST.get(amp)


def make_scaler(device: torch.device, autocast: torch.dtype | None) -> torch.amp.GradScaler:
    """The loss scale of fp16; of other types it is disabled, and changes nothing."""
    return torch.amp.GradScaler(device.type, enabled=autocast is torch.float16)


def may_skip(scaler: torch.amp.GradScaler) -> bool:
    """Whether gradients that are not finite, of a loss that is, can be the scale's doing: a lower one then helps."""
    return scaler.is_enabled() and scaler.get_scale() > LOWEST_SCALE
