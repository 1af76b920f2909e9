"""What prompts ask of a backbone's first layer, the gradient of its input: torch's convolutions beside ours."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.turns import Row, machine, on_device, show, take_turns
from vmp.backbones.timesformer import PatchEmbedding
from vmp.kernels.stem import Stem

# of one clip: channels out, kernel, padding, (T, pixels)
STEMS = {
    "c2d, slow pathway": (64, (1, 7, 7), (0, 3, 3), (8, 224)),
    "i3d": (64, (5, 7, 7), (2, 3, 3), (8, 224)),
    "fast pathway": (8, (5, 7, 7), (2, 3, 3), (32, 224)),
}


def bench_stem(*, batch: int, repeats: int) -> list[Row]:
    """Milliseconds forward and backward without that gradient, with torch's, and with ours; channels last."""
    device, last = on_device(), torch.channels_last_3d
    rows: list[Row] = []
    for name, (out, kernel, padding, (t, side)) in STEMS.items():
        conv = nn.Conv3d(3, out, kernel, stride=(1, 2, 2), padding=padding, bias=False).to(device)
        conv = conv.to(memory_format=last)
        data = torch.randn(batch, 3, t, side, side, device=device).to(memory_format=last)
        prompts = data.clone().requires_grad_()
        ways = {"data": _step(conv, data), "torch": _step(conv, prompts)}
        if device == "cpu":  # elsewhere it is torch's
            ways["ours"] = _step(Stem.of(conv), prompts)
        rows.append(_row(name, take_turns(ways, repeats)))
    proj = PatchEmbedding(3, 768, 16, stride=16).to(device)
    data = torch.randn(batch, 3, 8, 224, 224, device=device)
    prompts = data.clone().requires_grad_()

    def as_convolution(x: Tensor) -> Tensor:
        return F.conv2d(x.transpose(1, 2).flatten(0, 1), proj.weight, proj.bias, (16, 16))

    ways = {
        "data": _step(as_convolution, data),
        "torch": _step(as_convolution, prompts),
        "ours": _step(proj, prompts),
    }
    rows.append(_row("timesformer", take_turns(ways, repeats)))
    show(f"first layer, {batch} clips, forward + backward, {machine()}", rows)
    return rows


def _step(layer: Callable[[Tensor], Tensor], clip: Tensor) -> Callable[[], None]:
    def step() -> None:
        clip.grad = None
        out = layer(clip)
        out.backward(torch.ones_like(out))

    return step


def _row(name: str, times: dict[str, float]) -> Row:
    row: Row = {"what": name, "no gradient, ms": 1e3 * times["data"]}
    row |= {f"{way}, ms": 1e3 * times[way] for way in ("torch", "ours") if way in times}
    return row | ({"faster": times["torch"] / times["ours"]} if "ours" in times else {})
