"""The prompt layer beside a direct transcription of Eq. 1-6, and beside copying the same bytes."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import process_memory
from benchmarks.measure import (
    Row,
    device_type,
    gpu_seconds,
    median_seconds,
    peak_memory,
    print_rows,
)
from vmp.layer import MotionPrompt, normalize

DIRECT = "direct transcription"
COMPILED = f"{DIRECT}, compiled"
Prompts = Callable[[], tuple[Tensor, Tensor]]


def direct_prompts(clip: Tensor, m: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 1-6, one line per formula: grey by a weighted sum, exp, repeat to three channels, separate passes."""
    pixels = clip * 0.225 + 0.45  # (B, 3, T+1, H, W)
    grey = 0.299 * pixels[:, 0] + 0.587 * pixels[:, 1] + 0.114 * pixels[:, 2]  # (B, T+1, H, W)
    d = grey[:, 1:] - grey[:, :-1]
    slope = 5.0 / (0.45 * torch.abs(torch.tanh(m)) + 0.1)  # Eq. 2
    shift = 0.6 * torch.tanh(n)
    a = 1 / (1 + torch.exp(-slope * (d - shift)))  # Eq. 1
    prompts = a.unsqueeze(1).repeat(1, 3, 1, 1, 1) * clip[:, :, 1:]  # Eq. 4
    pairs = (a[:, 1:] - a[:, :-1]) ** 2  # Eq. 6, averaged over pixels
    variation = pairs.sum(dim=(1, 2, 3)).mean() / (pairs.shape[1] * pairs.shape[2] * pairs.shape[3])
    return prompts, variation


def _direct_from_uint8(raw: Tensor, m: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """The same from pixels, with prompts in bf16."""
    prompts, variation = direct_prompts((raw.float() / 255 - 0.45) / 0.225, m, n)
    return prompts.bfloat16(), variation


class DirectLayer(nn.Module):
    """direct_prompts in place of a MotionPrompt: uint8 (B, 3, T+1, H, W) -> prompts (B, 3, T, H, W), V."""

    def __init__(self, layer: MotionPrompt) -> None:
        super().__init__()
        self.mean, self.std = layer.mean, layer.std
        self.m, self.n = nn.Parameter(layer.m.detach().clone()), nn.Parameter(layer.n.detach().clone())

    def forward(self, clip: Tensor, *, variation: bool = True) -> tuple[Tensor, Tensor]:
        return direct_prompts(normalize(clip, self.mean, self.std), self.m, self.n)


def bench_layer(*, batch: int, frames: int, size: int, rounds: int, everywhere: bool = False) -> list[Row]:
    """Forward and backward to m and n: time and memory, and on a GPU the time of the device alone.

    Args:
        everywhere: on a CPU also what is of use on a GPU only, and only once: for a trial of the commands.
    """
    device = device_type()
    b, t, s = batch, frames, size
    layer = MotionPrompt(m=0.7, n=-0.3).to(device)
    compiled = torch.compile(layer, dynamic=False, fullgraph=True)
    compiled_direct = torch.compile(direct_prompts, dynamic=False, fullgraph=True)
    compiled_raw = torch.compile(_direct_from_uint8, dynamic=False, fullgraph=True)
    torch.manual_seed(0)
    clip = torch.randn(b, 3, t + 1, s, s, device=device)
    raw = torch.randint(0, 256, clip.shape, dtype=torch.uint8, device=device)
    gradient = torch.randn(b, 3, t, s, s, device=device)
    gradient_bf16 = gradient.bfloat16()

    def in_bf16() -> tuple[Tensor, Tensor]:
        with torch.autocast(device, dtype=torch.bfloat16):
            return layer(raw)

    calls: dict[str, Prompts] = {
        DIRECT: lambda: direct_prompts(clip, layer.m, layer.n),
        COMPILED: lambda: compiled_direct(clip, layer.m, layer.n),
        f"{COMPILED}, bf16 from uint8": lambda: compiled_raw(raw, layer.m, layer.n),
        "layer, eager": lambda: layer(clip),
        "layer, compiled": lambda: compiled(clip),
        "layer, eager, from uint8": lambda: layer(raw),
        "layer, bf16 from uint8": in_bf16,
    }
    if device == "cpu" and not everywhere:
        calls = {name: call for name, call in calls.items() if "bf16" not in name}

    def step(call: Prompts) -> Callable[[], None]:
        def run() -> None:
            layer.m.grad = layer.n.grad = None
            prompts, variation = call()
            grad = gradient if prompts.dtype == gradient.dtype else gradient_bf16
            torch.autograd.backward([prompts, variation], [grad, torch.ones_like(variation)])

        return run

    # A lower bound: forward reads the clip and writes the prompts, backward reads the clip and the prompts' gradient.
    # Copying one clip and one gradient reads and writes as many bytes.
    copy = _copy(clip, gradient)
    bounds = {
        name: _copy(raw, gradient_bf16 if "bf16" in name else gradient) for name in calls if "uint8" in name
    }
    steps = {name: step(call) for name, call in calls.items()} | {"copy": copy}
    times = median_seconds(steps, rounds)
    rows = []
    for name, seconds in times.items():
        row: Row = {"what": name, "ms": 1e3 * seconds, "faster": times[DIRECT] / seconds}
        if device == "cuda":
            alone = gpu_seconds(steps[name])
            row |= {"device ms": 1e3 * alone, "of a copy": alone / gpu_seconds(bounds.get(name, copy))}
        if name in calls:
            if device == "cuda":
                row["peak_mb"] = peak_memory(steps[name]) - _megabytes(calls[name]()[0])
            elif not everywhere and name != COMPILED:
                row["peak_mb"] = peak_in_process(name, batch=b, frames=t, size=s)
            row["kept_mb"] = kept_for_backward(calls[name], [clip, raw])
        rows.append(row)
    if device == "cpu" and not everywhere:
        with busy_neighbour():
            beside = median_seconds({name: steps[name] for name in (DIRECT, "layer, eager")}, rounds)
        rows += [
            {
                "what": f"{name}, with a busy neighbour",
                "ms": 1e3 * seconds,
                "faster": beside[DIRECT] / seconds,
            }
            for name, seconds in beside.items()
        ]
    return print_rows(f"prompt layer, forward + backward, ({b}, 3, {t + 1}, {s}, {s})", rows)


@contextmanager
def busy_neighbour() -> Iterator[None]:
    """Context in which another process keeps one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _copy(*tensors: Tensor) -> Callable[[], None]:
    targets = [torch.empty_like(tensor) for tensor in tensors]

    def copy() -> None:
        for target, tensor in zip(targets, tensors, strict=True):
            target.copy_(tensor)

    return copy


def kept_for_backward(call: Prompts, inputs: list[Tensor]) -> float:
    """MB saved between forward and backward, without the inputs."""
    kept: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        call()
    for x in inputs:
        kept.pop(x.untyped_storage().data_ptr(), None)
    return sum(kept.values()) / 1e6


def _megabytes(x: Tensor) -> float:
    return x.numel() * x.element_size() / 1e6


def peak_in_process(name: str, *, batch: int, frames: int, size: int) -> float:
    """MB above the inputs and the result on a CPU, measured in a process of its own."""
    command = [sys.executable, "-m", __name__, name, *map(str, (batch, frames, size))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def print_peak(name: str, batch: int, frames: int, size: int) -> None:
    """Print what `peak_in_process` reads, on the last line."""
    layer = MotionPrompt(m=0.7, n=-0.3)

    def run(size: int, batch: int, call: Any) -> None:
        pixels = torch.uint8 if "uint8" in name else torch.float32
        clip = torch.zeros(batch, 3, frames + 1, size, size, dtype=pixels)
        gradient = torch.zeros(batch, 3, frames, size, size)
        clip.add_(1), gradient.add_(1)  # touch the pages
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = process_memory()
        prompts, variation = call(clip)
        torch.autograd.backward([prompts, variation], [gradient, torch.ones_like(variation)])
        print(process_memory("VmHWM") - before - _megabytes(prompts))

    if "compiled" in name:
        call: Any = torch.compile(layer, dynamic=False, fullgraph=True)
        run(size, batch, call)  # compiles
    else:
        call = layer if name != DIRECT else lambda clip: direct_prompts(clip, layer.m, layer.n)
        run(16, 1, layer)
    run(size, batch, call)


if __name__ == "__main__":
    print_peak(sys.argv[1], *map(int, sys.argv[2:]))
