"""The prompt layer beside Eq. 1-6 as one would read them off the page, and beside a copy of the same bytes."""

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.turns import Row, device_seconds, machine, on_device, show, take_turns
from vmp.layer import MotionPrompt, normalize


def by_the_page(clip: Tensor, m: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 1-6, a line a formula: grey by a weighted sum, exp, repeat to three channels, separate passes."""
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


class PageLayer(nn.Module):
    """by_the_page where a MotionPrompt goes: uint8 (B, 3, T+1, H, W) -> prompts (B, 3, T, H, W), V."""

    def __init__(self, layer: MotionPrompt) -> None:
        super().__init__()
        self.mean, self.std = layer.mean, layer.std
        self.m, self.n = nn.Parameter(layer.m.detach().clone()), nn.Parameter(layer.n.detach().clone())

    def forward(self, clip: Tensor, *, variation: bool = True) -> tuple[Tensor, Tensor]:
        return by_the_page(normalize(clip, self.mean, self.std), self.m, self.n)


def bench_layer(*, batch: int, frames: int, size: int, repeats: int) -> list[Row]:
    """Forward and backward to m and n, time and memory. On a GPU also what the device alone takes."""
    device = on_device()
    b, t, s = batch, frames, size
    layer = MotionPrompt(m=0.7, n=-0.3).to(device)
    compiled = torch.compile(layer, dynamic=False, fullgraph=True)
    torch.manual_seed(0)
    clip = torch.randn(b, 3, t + 1, s, s, device=device)
    raw = torch.randint(0, 256, clip.shape, dtype=torch.uint8, device=device)
    gradient = torch.randn(b, 3, t, s, s, device=device)
    into, out = torch.empty_like(clip), torch.empty_like(gradient)
    narrow = gradient.bfloat16()
    raw_into, narrow_out = torch.empty_like(raw), torch.empty_like(narrow)

    # the floor: forward reads the clip and writes the prompts, backward reads the clip and the prompts' gradient, which
    # are as many bytes as copying one clip and one gradient reads and writes
    def copy() -> None:
        into.copy_(clip), out.copy_(gradient)

    def copy_from_uint8() -> None:
        raw_into.copy_(raw), out.copy_(gradient)

    def copy_narrow() -> None:
        raw_into.copy_(raw), narrow_out.copy_(narrow)

    def in_bf16() -> tuple[Tensor, Tensor]:
        with torch.autocast(device, dtype=torch.bfloat16):
            return layer(raw)

    calls: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
        "by the page": lambda: by_the_page(clip, layer.m, layer.n),
        "layer, eager": lambda: layer(clip),
        "layer, compiled": lambda: compiled(clip),
        "layer, eager, from uint8": lambda: layer(raw),
        "layer, bf16 from uint8": in_bf16,
    }
    if device == "cpu":
        del calls["layer, bf16 from uint8"]

    def step(f: Callable[[], tuple[Tensor, Tensor]]) -> Callable[[], None]:
        def run() -> None:
            layer.m.grad = layer.n.grad = None
            prompts, variation = f()
            grad = gradient if prompts.dtype == gradient.dtype else narrow
            torch.autograd.backward([prompts, variation], [grad, torch.ones_like(variation)])

        return run

    ways = {name: step(call) for name, call in calls.items()} | {"copy": copy}
    floors = {"layer, eager, from uint8": copy_from_uint8, "layer, bf16 from uint8": copy_narrow}
    times = take_turns(ways, repeats)
    rows = []
    for name, seconds in times.items():
        row: Row = {"what": name, "ms": 1e3 * seconds, "faster": times["by the page"] / seconds}
        if device == "cuda":
            alone = row["device ms"] = 1e3 * device_seconds(ways[name])
            row["of a copy"] = alone / (1e3 * device_seconds(floors.get(name, copy)))
        if name in calls:
            row["peak_mb"] = peak_memory(name, batch=b, frames=t, size=s)
            row["kept_mb"] = kept_for_backward(calls[name], [clip, raw])
        rows.append(row)
    show(f"prompt layer, forward + backward, ({b}, 3, {t + 1}, {s}, {s}) on {machine()}", rows)
    return rows


def kept_for_backward(f: Callable[[], Any], given: list[Tensor]) -> float:
    """MB saved between forward and backward, the clip itself not counted."""
    kept: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        f()
    for x in given:
        kept.pop(x.untyped_storage().data_ptr(), None)
    return sum(kept.values()) / 1e6


def peak_memory(name: str, *, batch: int, frames: int, size: int) -> float:
    """MB above the inputs and the result, in a process of its own."""
    command = [sys.executable, "-m", __name__, name, *map(str, (batch, frames, size))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def print_peak(name: str, batch: int, frames: int, size: int) -> None:
    device = on_device()
    layer = MotionPrompt(m=0.7, n=-0.3).to(device)

    def run(size: int, batch: int, call: Any) -> None:
        shape = (batch, 3, frames + 1, size, size)
        if "uint8" in name:
            clip = torch.zeros(shape, dtype=torch.uint8, device=device)
        else:
            clip = torch.zeros(shape, device=device)
        narrow = torch.bfloat16 if "bf16" in name else torch.float32
        gradient = torch.zeros(batch, 3, frames, size, size, device=device, dtype=narrow)
        clip.add_(1), gradient.add_(1)  # touch the pages
        before = _memory(reset=True)
        with torch.autocast(device, dtype=torch.bfloat16, enabled="bf16" in name):
            prompts, variation = call(clip)
        torch.autograd.backward([prompts, variation], [gradient, torch.ones_like(variation)])
        print((_memory() - before - prompts.numel() * prompts.element_size()) / 1e6)

    if name == "by the page":
        call: Any = lambda clip: by_the_page(clip, layer.m, layer.n)  # noqa: E731
    elif "compiled" in name:
        call = torch.compile(layer, dynamic=False, fullgraph=True)
        run(size, batch, call)  # the first call compiles; only the last line counts
    else:
        call = layer
    if "compiled" not in name:
        run(16, 1, layer)
    run(size, batch, call)


def _memory(reset: bool = False) -> float:
    """Bytes in use now, after which the high-water mark starts again; or that mark."""
    if torch.cuda.is_available():
        if reset:
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated()
        return torch.cuda.max_memory_allocated()
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:" if reset else "VmHWM:"):
            return 1024.0 * int(line.split()[1])
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    print_peak(sys.argv[1], *map(int, sys.argv[2:]))
