"""The floating-point types of a run, and what `auto` means on a device.

Notes:
- fp16 has only five bits of exponent, so small gradients would become 0. The loss is therefore multiplied by a scale
  that torch's GradScaler adapts. If gradients overflow, every process skips the update, and the scale is halved;
- GPUs of compute capability 8.0 (A100) or newer have bf16 and TF32 units; older ones (V100, T4) have only fp16 units;
- on most CPUs bf16 is slower than float32. AMX units make it faster where matrix products take most of the time.
"""

from typing import Any, NamedTuple

import torch

from vmp.kernels.amx import has_amx

AUTO = "auto"
KEYS = ("amp", "tf32", "cudnn_benchmark")  # of trainer
BF16_SINCE = (8, 0)  # compute capability
# On a CPU with AMX: how many times as fast as in float32 a step in bf16 is, without and with trainer.channels_last, on
# crops of AMX_CROP pixels (docs/performance.md). X3D is slower in bf16; other backbones were not measured.
AMX_SPEED = {
    "c2d": (1.3, 1.8),
    "i3d": (1.7, 2.5),
    "i3d_inception": (2.0, 3.4),
    "slowfast": (1.8, 2.1),
    "timesformer": (1.9, None),
}
AMX_CROP = 112
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
LOWEST_SCALE = 1.0  # at this scale, a gradient that overflows would overflow unscaled, too


class Choice(NamedTuple):
    """The values that `auto` stands for.

    amp: none, bf16 or fp16.
    tf32: TF32 for float32 products and convolutions; None: for convolutions only, torch's default.
    cudnn_benchmark: whether cuDNN times its algorithms and takes the fastest.
    why: the reason, for the log.
    """

    amp: str
    tf32: bool | None
    cudnn_benchmark: bool
    why: str


def choose(
    capability: tuple[int, int] | None,
    *,
    deterministic: bool,
    amx: bool = False,
    backbone: str = "",
    crop: int = 0,
) -> Choice:
    """The values for a device.

    Args:
        capability: the GPU's compute capability; None: a CPU.
        deterministic: whether cuDNN must not choose algorithms by their time.
        amx: whether the CPU has matrix units for bf16.
        backbone, crop: what is trained, and the side of its clips in pixels; they decide on a CPU with AMX.
    """
    if capability is None:
        if not amx:
            return Choice("none", False, False, "a CPU")
        if crop < AMX_CROP or backbone not in AMX_SPEED:
            why = "a CPU with AMX units; bf16 was not measured to be faster here"
            return Choice("none", False, False, why)
        speed, last = AMX_SPEED[backbone]
        more = f", {last} times with trainer.channels_last=true" if last else ""
        why = f"a CPU with AMX units, {speed} times as fast as float32 for {backbone}{more}"
        return Choice("bf16", False, False, why)
    name = ".".join(map(str, capability))
    if capability < BF16_SINCE:
        return Choice("fp16", False, not deterministic, f"compute capability {name} has no bf16 units")
    return Choice("bf16", True, not deterministic, f"compute capability {name} has bf16 and TF32 units")


def choose_for(device: torch.device, *, deterministic: bool, backbone: str, crop: int) -> Choice:
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    return choose(capability, deterministic=deterministic, amx=has_amx(), backbone=backbone, crop=crop)


def describe(values: dict[str, Any], device: torch.device) -> str:
    """Describe the values of trainer's `KEYS`, none of which is `auto`, in words."""
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
    """The type of forward passes for trainer.amp; None: float32, also for `auto` outside of a run."""
    return AUTOCAST.get(amp)


def make_scaler(device: torch.device, autocast: torch.dtype | None) -> torch.amp.GradScaler:
    """The loss scaler for fp16; for other types a disabled one, which changes nothing."""
    return torch.amp.GradScaler(device.type, enabled=autocast is torch.float16)


def may_skip(scaler: torch.amp.GradScaler) -> bool:
    """Whether the scale may be why gradients overflow although the loss is finite; a lower scale then helps."""
    return scaler.is_enabled() and scaler.get_scale() > LOWEST_SCALE
