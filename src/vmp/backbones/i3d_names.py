"""Published names of the original I3D's weights -> ours, which are those of pytorch-i3d with a Linear as the head."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_BRANCHES = {  # of a Mixed block; in TensorFlow's checkpoints one block spells its 0b_3x3 as 0a_3x3
    "Branch_0/Conv3d_0a_1x1": "b0",
    "Branch_1/Conv3d_0a_1x1": "b1a",
    "Branch_1/Conv3d_0b_3x3": "b1b",
    "Branch_2/Conv3d_0a_1x1": "b2a",
    "Branch_2/Conv3d_0b_3x3": "b2b",
    "Branch_2/Conv3d_0a_3x3": "b2b",
    "Branch_3/Conv3d_0b_1x1": "b3b",
}
_KINDS = {
    "Conv_0/kernel": "conv3d.weight",
    "BatchNorm_0/bias": "bn.bias",
    "BatchNorm_0/scale": "bn.weight",
    "BatchNorm_0/mean": "bn.running_mean",
    "BatchNorm_0/var": "bn.running_var",
}
_FLAX = re.compile(r"(?:params|batch_stats)/(.+)/((?:Conv|BatchNorm)_0/\w+)")  # unit, kind


def from_flax(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names such as params/Mixed_3b/Branch_0/Conv3d_0a_1x1/Conv_0/kernel, kernels (T, H, W, in, out), to ours; other
    names stay as they are."""
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        unit, kind = match.groups() if (match := _FLAX.fullmatch(name)) else ("", "")
        block, _, branch = unit.partition("/")
        if unit == "Logits/Conv3d_0c_1x1":
            head = {"Conv_0/kernel": "logits.conv3d.weight", "Conv_0/bias": "logits.conv3d.bias"}
            new = head.get(kind)
        elif kind in _KINDS and (not branch or branch in _BRANCHES):
            new = ".".join(filter(None, (block, _BRANCHES.get(branch), _KINDS[kind])))
        else:
            new = None
        if new and value.dim() == 5 and kind.endswith("kernel"):
            value = value.permute(4, 3, 0, 1, 2)
        found[new or name] = value.flatten() if new and "BatchNorm_0" in kind else value.contiguous()
    return from_pytorch_i3d(found)


def from_pytorch_i3d(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The head's 1 x 1 x 1 convolution as a Linear; batch norm without a scale gets one of ones."""
    found = dict(state)
    for kind in ("weight", "bias"):
        if (value := found.pop(f"logits.conv3d.{kind}", None)) is not None:
            found[f"logits.{kind}"] = value.flatten(1) if kind == "weight" else value
    for name in [name for name in found if name.endswith(".bn.bias")]:
        found.setdefault(f"{name.removesuffix('bias')}weight", torch.ones_like(found[name]))
    return found
