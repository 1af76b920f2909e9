"""The original I3D: Inception-v1 inflated to video (Carreira and Zisserman 2017, Fig. 3), the RGB stream.

Notes:
- "SAME" padding as TensorFlow pads: the output has ceil(size / stride) positions, and where the padding is odd, the
  further zero comes last; so any size works, and the published weights give the published numbers;
- pooling takes its maximum over space, then over time: the same numbers as in three dimensions, by 2-D pooling, which
  has a deterministic backward pass on CUDA;
- the head pools all of space, and pairs of time steps as published, and averages the logits over time;
- names are those of the published weights (Conv3d_1a_7x7 ... Mixed_5c); a block's branches are b0 ... b3b, as in
  PyTorch ports.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmp.kernels.stem import Stem

# Inception-v1 (Szegedy et al. 2015, Table 1): channels of 1x1; 3x3 reduced, 3x3; 5x5 reduced, "5x5" (here 3x3); pool
MIXED: dict[str, tuple[int, int, int, int, int, int]] = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}
SMALLEST = 8  # frames and pixels a side


class InceptionI3D(nn.Module):
    """Args:
    width: channels of the stem; 64 as published. All others keep their ratio to it.
    dropout: before the logits; 0.5 as published.
    """

    head_name = "logits"

    def __init__(self, *, num_classes: int, width: int = 64, dropout: float = 0.5) -> None:
        super().__init__()

        def scaled(channels: int) -> int:
            return max(1, channels * width // 64)

        self.Conv3d_1a_7x7 = Unit(3, width, kernel=7, stride=2)
        self.Conv3d_2b_1x1 = Unit(width, width)
        self.Conv3d_2c_3x3 = Unit(width, scaled(192), kernel=3)
        channels = scaled(192)
        for name, published in MIXED.items():
            block = Mixed(channels, *(scaled(out) for out in published))
            self.add_module(f"Mixed_{name}", block)
            channels = block.channels
        self.dropout = nn.Dropout(dropout)
        self.logits = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, T, H, W), normalised, T >= 8 -> logits (B, classes)."""
        if min(x.shape[2:]) < SMALLEST:
            raise ValueError(
                f"clip of {tuple(x.shape[2:])} frames and pixels: I3D needs at least {SMALLEST} of each"
            )
        x = self.Conv3d_1a_7x7(x)  # (B, 64, T/2, H/2, W/2); sizes are rounded up
        x = max_pool(x, kernel=(1, 3), stride=(1, 2))
        x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x))  # (B, 192, T/2, H/4, W/4)
        x = max_pool(x, kernel=(1, 3), stride=(1, 2))
        x = self._blocks(x, "3b", "3c")  # (B, 480, T/2, H/8, W/8)
        x = max_pool(x, kernel=(3, 3), stride=(2, 2))
        x = self._blocks(x, "4b", "4c", "4d", "4e", "4f")  # (B, 832, T/4, H/16, W/16)
        x = max_pool(x, kernel=(2, 2), stride=(2, 2))
        x = self._blocks(x, "5b", "5c")  # (B, 1024, T/8, H/32, W/32)
        x = x.mean(dim=(3, 4)).transpose(1, 2)  # (B, T/8, 1024)
        if x.shape[1] > 1:
            x = (x[:, 1:] + x[:, :-1]) / 2  # the published pool of 2 x 7 x 7 with stride 1
        return self.logits(self.dropout(x)).mean(dim=1)

    def _blocks(self, x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = self.get_submodule(f"Mixed_{name}")(x)
        return x


class Unit(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inside: int, outside: int, *, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        even = kernel // 2 if stride == 1 else 0  # with a stride, the padding depends on the size
        conv = nn.Conv3d(inside, outside, kernel, stride=stride, padding=even, bias=False)
        self.conv3d = Stem.of(conv) if inside == 3 else conv
        self.bn = nn.BatchNorm3d(outside, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            x = pad_same(x, (self.kernel,) * 3, (self.stride,) * 3)
        return F.relu(self.bn(self.conv3d(x)), inplace=True)


class Mixed(nn.Module):
    """Four branches, concatenated."""

    def __init__(self, inside: int, one: int, few: int, three: int, fewer: int, five: int, pool: int) -> None:
        super().__init__()
        self.b0 = Unit(inside, one)
        self.b1a, self.b1b = Unit(inside, few), Unit(few, three, kernel=3)
        self.b2a, self.b2b = Unit(inside, fewer), Unit(fewer, five, kernel=3)
        self.b3b = Unit(inside, pool)
        self.channels = one + three + five + pool

    def forward(self, x: Tensor) -> Tensor:
        pooled = max_pool(x, kernel=(3, 3), stride=(1, 1))
        branches = self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)
        return torch.cat(branches, dim=1)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis, so that ceil(size / stride) windows fit."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def pad_same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Pad the last len(kernel) axes."""
    return F.pad(x, [n for pair in reversed(same_paddings(x, kernel, stride)) for n in pair])


def same_paddings(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> list[tuple[int, int]]:
    """Of the last len(kernel) axes."""
    sizes = x.shape[-len(kernel) :]
    return [same_padding(*axis) for axis in zip(sizes, kernel, stride, strict=True)]


def max_pool(x: Tensor, *, kernel: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """(B, C, T, H, W) -> (B, C, T', H', W') with (time, space) kernel and stride; every x is at least 0, as after a
    ReLU, so that padding with zeros changes no maximum. The memory format of x is kept.

    torch's CPU kernel is up to eight times as fast in channels-last format, which is worth two copies there."""
    if x.is_contiguous():
        if x.device.type != "cpu":
            return pool_planes(x, kernel, stride)
        return pool_pictures(x, kernel, stride).contiguous()
    return pool_pictures(x, kernel, stride).contiguous(memory_format=torch.channels_last_3d)


def pool_planes(x: Tensor, kernel: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """`max_pool` of contiguous clips, without a copy."""
    y = pool_2d(x.flatten(1, 2), (kernel[1], kernel[1]), (stride[1], stride[1]))  # (B, C T, H', W')
    y = y.unflatten(1, x.shape[1:3])
    if kernel[0] == 1:
        return y
    rows = pool_2d(y.flatten(3), (kernel[0], 1), (stride[0], 1))  # (B, C, T', H' W')
    return rows.unflatten(3, y.shape[3:])


def pool_pictures(x: Tensor, kernel: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """`max_pool` of pictures in channels-last format, without a copy if the clips are in it."""
    frames = x.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)  # (B T, C, H, W)
    frames = pool_2d(frames, (kernel[1], kernel[1]), (stride[1], stride[1]))
    y = frames.permute(0, 2, 3, 1).unflatten(0, (x.shape[0], x.shape[2]))  # (B, T, H', W', C)
    if kernel[0] > 1:
        rows = y.flatten(2, 3).permute(0, 3, 1, 2)  # (B, C, T, H' W')
        rows = pool_2d(rows, (kernel[0], 1), (stride[0], 1))
        y = rows.permute(0, 2, 3, 1).unflatten(2, y.shape[2:4])
    return y.permute(0, 4, 1, 2, 3)


def pool_2d(x: Tensor, kernel: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    pads = same_paddings(x, kernel, stride)
    if all(before == after for before, after in pads):
        return F.max_pool2d(x, kernel, stride, padding=[before for before, _ in pads])
    return F.max_pool2d(pad_same(x, kernel, stride), kernel, stride)
