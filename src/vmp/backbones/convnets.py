"""C2D, I3D, SlowFast and X3D, built by pytorchvideo and then corrected; the only file that imports pytorchvideo.

Notes:
- importing pytorchvideo takes seconds (torchvision), so it is imported when a model is built;
- numpy integers as strides and pool sizes, and a Swish with a hand-written backward, break torch.compile into a dozen
  graphs; plain integers and SiLU compute the same numbers;
- pytorchvideo 0.1.5 ends X3D with a Softmax, in training too: cross-entropy on top of it learns badly and silently;
- its SlowFast overwrites the list that it receives: `Blocks` passes a copy;
- CUDA has no deterministic backward pass for 3-D pooling; every pool here is along space or time only, so 2-D pooling
  and means, which have one, do the same (trainer.deterministic);
- on a CPU the first convolution has our own gradient for the prompts (kernels/stem.py);
- `blocks` keeps only so many residual blocks per stage (1: ResNet-14), for quick experiments on small clips;
- the last pooling window has the size of the training crop's features. On the larger crops of testing it has several
  positions (2 x 2 at 256 for 224); each is classified, and their probabilities are averaged, as in PySlowFast.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmp.kernels.stem import Stem

X3D_DEPTH = {"xs": 2.2, "s": 2.2, "m": 2.2, "l": 5.0}
ALPHA = 4  # SlowFast: fast frames for each slow one
STRIDE = 32  # spatial, of every network here


def build_c2d(*, temporal_pool: bool = True, **size: Any) -> nn.Module:
    """C2D ResNet-50, without temporal convolutions; `size` as in `_build_resnet`.

    Args:
        temporal_pool: halve time after res2, as pytorchvideo's weights expect; the caffe2 weights have no such pool.
    """
    return _build_resnet(stem=(1, 7, 7), temporal=[(1, 1, 1)] * 4, pool=temporal_pool, **size)


def build_i3d(**size: Any) -> nn.Module:
    """I3D ResNet-50: 2-D convolutions inflated to three frames in all of res2 and every other block after it."""
    one, three = (1, 1, 1), (3, 1, 1)
    temporal = [(three,) * 3, (three, one) * 2, (three, one) * 3, (one, three, one)]
    return _build_resnet(stem=(5, 7, 7), temporal=temporal, pool=True, **size)


def _build_resnet(
    *,
    num_classes: int,
    frames: int,
    crop: int,
    dropout: float,
    width: int = 64,
    blocks: int | None = None,
    stem: tuple[int, int, int],
    temporal: list,
    pool: bool,
) -> nn.Module:
    """width: channels of the stem. blocks: residual blocks per stage at most; None: 3, 4, 6, 3."""
    from pytorchvideo.models.resnet import create_resnet

    side = math.ceil(crop / STRIDE)
    net = create_resnet(
        model_depth=50,
        model_num_class=num_classes,
        dropout_rate=dropout,
        stem_dim_out=width,
        stem_conv_kernel_size=stem,
        stage1_pool=nn.MaxPool3d if pool else None,
        stage_conv_a_kernel_size=tuple(temporal),
        head_pool_kernel_size=(frames // 2 if pool else frames, side, side),
    )
    return Blocks(net, blocks)


def build_slowfast(
    *,
    num_classes: int,
    frames: int,
    crop: int,
    dropout: float,
    width: int = 64,
    blocks: int | None = None,
    beta_inv: int = 8,
) -> nn.Module:
    """SlowFast ResNet-50, fusion over 7 frames (8x8: frames = 32). Takes [slow (B, 3, frames / 4, H, W), fast
    (B, 3, frames, H, W)]. width: channels of the slow stem, a multiple of 8; the fast one has width / beta_inv."""
    from pytorchvideo.models.slowfast import create_slowfast

    side = math.ceil(crop / STRIDE)
    net = create_slowfast(
        model_depth=50,
        model_num_class=num_classes,
        dropout_rate=dropout,
        slowfast_fusion_conv_kernel_size=(7, 1, 1),
        slowfast_fusion_conv_stride=(ALPHA, 1, 1),
        slowfast_channel_reduction_ratio=(beta_inv,),
        stem_dim_outs=(width, width // beta_inv),
        head_pool_kernel_sizes=((frames // ALPHA, side, side), (frames, side, side)),
    )
    return Blocks(net, blocks)


def build_x3d(
    size: str,
    *,
    num_classes: int,
    frames: int,
    crop: int,
    dropout: float,
    width: int | None = None,
    blocks: int | None = None,
    shortcut_norm: bool = False,
) -> nn.Module:
    """X3D-XS, -S, -M or -L. width: channels of the stem (24 as published). shortcut_norm: a BatchNorm on the first
    block's shortcut, which PySlowFast's own X3D weights have and pytorchvideo's do not."""
    from pytorchvideo.models.x3d import create_x3d

    net = create_x3d(
        input_clip_length=frames,
        # it refuses smaller ones; the pooling window is one position for both
        input_crop_size=max(crop, STRIDE),
        model_num_class=num_classes,
        dropout_rate=dropout,
        width_factor=2.0 * (width or 24) / 24,
        depth_factor=X3D_DEPTH[size],
        head_activation=None,
    )
    if shortcut_norm:
        block = net.blocks[1].res_blocks[0]
        block.branch1_norm = nn.BatchNorm3d(block.branch1_conv.out_channels)
    return Blocks(net, blocks)


class Blocks(nn.Module):
    """pytorchvideo's blocks in a row, with plain integers, SiLU and a head that averages over positions.

    The input is (B, 3, T, H, W), normalised, or for SlowFast a list of two of them, which is not changed; the output
    is logits (B, classes). most: how many residual blocks each stage keeps, from its first; None: all.
    """

    def __init__(self, net: nn.Module, most: int | None = None) -> None:
        super().__init__()
        assert isinstance(net.blocks, nn.ModuleList)
        for stage in list(net.modules()):
            if isinstance(blocks := getattr(stage, "res_blocks", None), nn.ModuleList):
                stage.res_blocks = blocks[:most]
        self.blocks = net.blocks
        self.head_name = f"blocks.{len(self.blocks) - 1}.proj"
        residual = [i for i, block in enumerate(self.blocks) if hasattr(block, "res_blocks")]
        self.aliases = {f"res{number}": f"blocks.{i}" for number, i in enumerate(residual, 2)}
        self.blocks[-1].output_pool = MeanOfPositions()
        _replace_layers(self)

    def forward(self, x: Tensor | list[Tensor]) -> Tensor:
        y: Any = list(x) if isinstance(x, list | tuple) else x
        for block in self.blocks:
            y = block(y)
        return y


class MeanOfPositions(nn.Module):
    """(B, classes, t, h, w) -> (B, classes): the mean of the logits in training; in testing the logarithm of the mean
    of the probabilities, whose softmax is that mean. Both are the logits (but for a constant) at one position."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)  # (B, classes, positions)
        if self.training or x.shape[2] == 1:
            return x.mean(dim=2)
        return torch.logsumexp(x.log_softmax(dim=1), dim=2) - math.log(x.shape[2])


def _replace_layers(model: nn.Module) -> None:
    from pytorchvideo.layers.swish import Swish

    for module in list(model.modules()):
        for name in ("stride", "padding", "dilation", "kernel_size"):
            value = getattr(module, name, None)
            if isinstance(value, list | tuple):
                setattr(module, name, tuple(int(v) for v in value))
        for name, child in module.named_children():
            if isinstance(child, Swish):
                setattr(module, name, nn.SiLU())
            elif isinstance(child, nn.MaxPool3d):
                setattr(module, name, MaxPool(child))
            elif isinstance(child, nn.AvgPool3d):
                setattr(module, name, MeanPool(child))
            elif isinstance(child, nn.Conv3d) and child.in_channels == 3:
                setattr(module, name, Stem.of(child))


class MaxPool(nn.Module):
    """A MaxPool3d along space or along time, by 2-D pooling: (B, C, T, H, W) -> (B, C, T', H', W')."""

    def __init__(self, pool: nn.MaxPool3d) -> None:
        super().__init__()
        kernel, stride, padding = (_triple(size) for size in (pool.kernel_size, pool.stride, pool.padding))
        time = (kernel[0], stride[0], padding[0])
        space = (kernel[1:], stride[1:], padding[1:])
        self.over_time = space == ((1, 1), (1, 1), (0, 0))
        if not self.over_time and time != (1, 1, 0):
            raise ValueError(f"{pool} pools space and time at once")
        flat = ((kernel[0], 1), (stride[0], 1), (padding[0], 0)) if self.over_time else space
        self.pool = nn.MaxPool2d(*flat)

    def forward(self, x: Tensor) -> Tensor:
        b, c, t, h, w = x.shape
        if self.over_time:
            y = self.pool(x.reshape(b, c, t, h * w))
            return y.view(b, c, y.shape[2], h, w)
        if x.is_contiguous():
            y = self.pool(x.view(b, c * t, h, w))
            return y.view(b, c, t, *y.shape[2:])
        y = self.pool(x.movedim(2, 1).flatten(0, 1))  # channels last: still no copy
        return y.unflatten(0, (b, t)).movedim(1, 2)


class MeanPool(nn.Module):
    """An AvgPool3d over all of time, with stride 1 in space: (B, C, T, H, W) -> (B, C, 1, H', W')."""

    def __init__(self, pool: nn.AvgPool3d) -> None:
        super().__init__()
        self.frames, *window = _triple(pool.kernel_size)
        self.window = tuple(window)
        if {*_triple(pool.stride)} != {1} or {*_triple(pool.padding)} != {0}:
            raise ValueError(f"{pool} has a stride or padding")

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] != self.frames:
            raise ValueError(f"{x.shape[2]} frames arrive where {self.frames} are pooled")
        return F.avg_pool2d(x.mean(dim=2), self.window, stride=1)[:, :, None]


def _triple(size: Any) -> tuple[int, int, int]:
    a, b, c = size if isinstance(size, list | tuple) else (size,) * 3
    return int(a), int(b), int(c)
