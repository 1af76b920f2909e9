"""The backbone's first layer with the gradient of its input, which prompts need: torch's convolutions beside ours."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import Row, device_type, median_seconds, print_rows
from vmp.backbones.timesformer import PatchEmbedding
from vmp.kernels.stem import Stem

# of one clip: channels out, kernel, stride in time, padding, (T, pixels)
STEMS = {
    "c2d, slow pathway": (64, (1, 7, 7), 1, (0, 3, 3), (8, 224)),
    "i3d": (64, (5, 7, 7), 1, (2, 3, 3), (8, 224)),
    "i3d_inception": (64, (7, 7, 7), 2, (0, 0, 0), (16 + 5, 112 + 5)),  # padded before it, as TensorFlow pads
    "fast pathway": (8, (5, 7, 7), 1, (2, 3, 3), (32, 224)),
}
BF16 = "i3d_inception"  # as make real trains it


def bench_stem(*, batch: int, rounds: int) -> list[Row]:
    """Milliseconds forward and backward without that gradient, with torch's and with ours, in channels-last format."""
    device, layout = device_type(), torch.channels_last_3d
    rows: list[Row] = []
    for name, (out, kernel, step, padding, (t, side)) in STEMS.items():
        conv = nn.Conv3d(3, out, kernel, stride=(step, 2, 2), padding=padding, bias=False).to(device)
        conv = conv.to(memory_format=layout)
        frames = torch.randn(batch, 3, t, side, side, device=device).to(memory_format=layout)
        prompts = frames.clone().requires_grad_()
        for narrow in (False, True) if name == BF16 else (False,):
            calls = {"no gradient": _step(conv, frames, narrow), "torch": _step(conv, prompts, narrow)}
            if device == "cpu":  # on a GPU ours is torch's
                stem = Stem.of(conv)
                calls["ours"] = _step(stem, prompts, narrow)
                if narrow:
                    calls["ours, no gradient"] = _step(stem, frames, narrow)
            rows.append(_row(f"{name}, bf16" if narrow else name, median_seconds(calls, rounds)))
    proj = PatchEmbedding(3, 768, 16, stride=16).to(device)
    frames = torch.randn(batch, 3, 8, 224, 224, device=device)
    prompts = frames.clone().requires_grad_()

    def as_convolution(x: Tensor) -> Tensor:
        return F.conv2d(x.transpose(1, 2).flatten(0, 1), proj.weight, proj.bias, (16, 16))

    calls = {
        "no gradient": _step(as_convolution, frames),
        "torch": _step(as_convolution, prompts),
        "ours": _step(proj, prompts),
    }
    rows.append(_row("timesformer", median_seconds(calls, rounds)))
    return print_rows(f"first layer, {batch} clips, forward + backward", rows)


def _step(layer: Callable[[Tensor], Tensor], clip: Tensor, narrow: bool = False) -> Callable[[], None]:
    def step() -> None:
        clip.grad = None
        with torch.autocast(clip.device.type, torch.bfloat16, enabled=narrow):
            out = layer(clip)
        out.backward(torch.ones_like(out))

    return step


def _row(name: str, seconds: dict[str, float]) -> Row:
    row: Row = {"what": name} | {f"{key}, ms": 1e3 * each for key, each in seconds.items()}
    return row | ({"faster": seconds["torch"] / seconds["ours"]} if "ours" in seconds else {})
