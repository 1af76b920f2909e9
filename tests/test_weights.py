"""Pretrained weights: read from every layout, refused when they would run code."""

import json
import os
import pickle
import re
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vmp.backbones import build_backbone, download, layouts, zoo
from vmp.backbones.download import sha256_of
from vmp.backbones.layouts import read
from vmp.backbones.weights import load_weights
from vmp.errors import ConfigError, WeightsError

ROOT = Path(__file__).resolve().parent.parent

# --- the zoo -------------------------------------------------------------------------------------------------------


def test_every_row_is_usable():
    assert len({(row.backbone, row.name) for row in zoo.WEIGHTS}) == len(zoo.WEIGHTS)
    for row in zoo.WEIGHTS:
        assert zoo.find(row.backbone, row.name) is row
        assert row.layout in layouts.LAYOUTS
        files = [download._name(url) for url in row.urls]
        assert all(re.fullmatch(r"[\w.]+\.(pyth|safetensors|bin)", file) for file in files), files
        assert len(set(files)) == len(files)
        assert all(url.startswith("https://") for url in row.urls)
        assert ("NC" in row.licence) == row.backbone.startswith("timesformer")


def test_rows_agree_with_the_published_sizes():
    from vmp.backbones import backbone_spec

    for row in zoo.WEIGHTS:
        spec = backbone_spec(row.backbone)
        assert row.crop == spec.crop
        if (row.backbone, row.name) != ("timesformer_l", "ssv2"):
            assert row.frames == spec.frames


@pytest.mark.parametrize(
    ("backbone", "name", "said"),
    [
        ("slowfast", "k600", r"Kinetics-600 weights of slowfast are not public.*k400, ssv2.*timesformer,"),
        ("x3d_m", "ssv2", "Something-Something v2 weights of x3d_m are not public.*k400"),
        ("timesformer_hr", "howto100m", "HowTo100M weights of timesformer_hr are not public"),
        ("c2d", "k401", r"weights 'k401' of c2d: must be a name \(k400\)"),
        ("tiny", "k400", "not public; public for tiny: none"),
    ],
)
def test_what_is_not_public_is_said(backbone, name, said):
    with pytest.raises(ConfigError, match=said):
        zoo.find(backbone, name)
    net: Any = nn.Linear(1, 1)
    net.head_name = "head"
    with pytest.raises(ConfigError, match=said):
        load_weights(net, name, backbone=backbone)


# --- networks ------------------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("kind", sorted(PAIRS))
def test_names_of_pyslowfast(kind):
    state = {name: torch.zeros(1) for name in PAIRS[kind]}
    if kind == "i3d":
        state["s1.pathway0_stem.conv.weight"] = torch.zeros(1, 3, 5, 7, 7)
    if kind == "slow":
        state["s4.pathway0_res0.branch2.a.weight"] = torch.zeros(1, 1, 3, 1, 1)
    ours = layouts.from_pyslowfast(state, pooled_c2d=True)
    names = dict(zip(state, ours, strict=True))
    assert {name: names[name] for name in PAIRS[kind]} == PAIRS[kind]


def test_names_of_caffe2():
    ours = layouts.from_caffe2({name: torch.zeros(1, 1) for name in [*CAFFE2_PAIRS, "pred_w_momentum", "lr"]})
    assert dict(zip(CAFFE2_PAIRS, ours, strict=True)) == CAFFE2_PAIRS


LAYOUTS = [(kind, "pytorchvideo") for kind in ("c2d", "slowfast", "x3d_s")]
LAYOUTS += [(kind, "pyslowfast-pytorchvideo") for kind in ("i3d", "slowfast")]
LAYOUTS += [(kind, "pyslowfast") for kind in ("c2d", "i3d", "slow", "slowfast", "x3d_native")]
LAYOUTS += [(kind, "caffe2") for kind in ("c2d_nopool", "i3d", "slow", "slowfast")]


@pytest.mark.parametrize(("kind", "layout"), LAYOUTS)
def test_networks_from_each_layout(tmp_path, kind, layout):
    source, target = make(kind, 1), make(kind, 2)
    state = source.state_dict()
    path = tmp_path / "weights.pyth"
    if layout == "pytorchvideo":
        torch.save({"model_state": state, "epoch": 3}, path)
    elif layout == "pyslowfast-pytorchvideo":
        state = OrderedDict((f"model.{name}", value) for name, value in state.items())
        torch.save({"model_state": state, "optimizer_state": {"lr": np.float64(0.1)}, "cfg": "a: 1"}, path)
    elif layout == "pyslowfast":
        torch.save({"epoch": 1, "model_state": to_pyslowfast(state, kind)}, path)
    else:
        path = save_pickle(tmp_path / "weights.pkl", to_caffe2(to_pyslowfast(state, kind)))
    expected = logits(source, kind)
    assert not torch.equal(logits(target, kind), expected)
    report = load_weights(target, path, backbone=BACKBONES.get(kind, kind))
    assert torch.equal(logits(target, kind), expected)
    assert report.layout == layout
    assert [*report.reinitialised, *report.resized, *report.unexpected] == []
    assert bool(report.missing) == (layout == "caffe2")
    assert all(name.endswith("num_batches_tracked") for name in report.missing)
    assert set(report.matched) | set(report.missing) == set(target.state_dict())
    json.dumps(report.as_dict())


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model.", "backbone.", "_orig_mod."])
def test_prefixes_of_wrappers(tmp_path, prefix):
    state = {f"{prefix}{name}": value for name, value in make("c2d", 1).state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "w.ckpt")
    assert set(read(tmp_path / "w.ckpt").state) == set(make("c2d", 1).state_dict())


def test_files_of_torch_before_1_6(tmp_path):
    state = make("c2d", 1).state_dict()
    torch.save({"model_state": state}, tmp_path / "old.pyth", _use_new_zipfile_serialization=False)
    found = read(tmp_path / "old.pyth")
    assert found.layout == "pytorchvideo"
    assert all(torch.equal(found.state[name], value) for name, value in state.items())


# --- fit -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def c2d_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("c2d") / "c2d.pyth"
    torch.save({"model_state": make("c2d", 1).state_dict()}, path)
    return path


def unchanged(net: nn.Module, path: Path, said: str, **options: Any) -> None:
    """Loading fails with this message, and leaves the net as it was."""
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(WeightsError, match=said):
        load_weights(net, path, **options)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_another_head_stays_as_built(c2d_file):
    net = make("c2d", 2)
    net.blocks[6].proj = nn.Linear(256, 9)
    before = net.blocks[6].proj.weight.clone()
    report = load_weights(net, c2d_file, backbone="c2d")
    assert report.reinitialised == ["blocks.6.proj.weight", "blocks.6.proj.bias"]
    assert torch.equal(net.blocks[6].proj.weight, before)
    assert torch.equal(net.blocks[0].conv.weight, read(c2d_file).state["blocks.0.conv.weight"])
    assert "new, as built" in str(report)


def test_a_head_can_be_left_as_built(c2d_file):
    net = make("c2d", 2)
    before = net.blocks[6].proj.weight.clone()
    report = load_weights(net, c2d_file, backbone="c2d", keep_head=lambda file: False)
    assert report.reinitialised == ["blocks.6.proj.weight", "blocks.6.proj.bias"]
    assert torch.equal(net.blocks[6].proj.weight, before)


def test_what_does_not_fit_is_listed(c2d_file, tmp_path):
    state = torch.load(c2d_file)["model_state"]
    del state["blocks.1.res_blocks.0.branch1_conv.weight"]
    state["blocks.0.conv.weight"] = torch.zeros(8, 3, 3, 7, 7)
    torch.save(state, tmp_path / "w.pyth")
    net = make("c2d", 2)
    unchanged(
        net, tmp_path / "w.pyth", r"2 places:\n.*branch1_conv.weight: not in the file\n", backbone="c2d"
    )
    unchanged(net, tmp_path / "w.pyth", r"\(8, 3, 3, 7, 7\) in the file, \(8, 3, 1, 7, 7\)", backbone="c2d")


def test_extra_names_are_reported(c2d_file, tmp_path):
    state = torch.load(c2d_file)["model_state"]
    torch.save(state | {"queue": torch.zeros(2)}, tmp_path / "w.pyth")
    report = load_weights(make("c2d", 2), tmp_path / "w.pyth", backbone="c2d")
    assert report.unexpected == ["queue"]
    assert "in the file and not in the backbone: queue" in str(report)
    torch.save(state | {"blocks.9.extra": torch.zeros(2)}, tmp_path / "deeper.pyth")
    unchanged(make("c2d", 2), tmp_path / "deeper.pyth", "blocks.9.extra: not in the backbone", backbone="c2d")


def test_another_network_is_refused(c2d_file):
    unchanged(make("slowfast", 2), c2d_file, "weights of another network than slowfast", backbone="slowfast")
    unchanged(make("x3d_s", 2), c2d_file, "x3d_s", backbone="x3d_s")


def test_c2d_with_and_without_the_pool(c2d_file, tmp_path):
    plain = make("c2d_nopool", 1)
    path = save_pickle(tmp_path / "w.pkl", to_caffe2(to_pyslowfast(plain.state_dict(), "c2d_nopool")))
    unchanged(make("c2d", 2), path, "build with backbone.temporal_pool=false", backbone="c2d")
    unchanged(make("c2d_nopool", 2), c2d_file, "build with backbone.temporal_pool=true", backbone="c2d")


def test_x3d_with_and_without_the_shortcut_norm(tmp_path):
    torch.save(to_pyslowfast(make("x3d_native", 1).state_dict(), "x3d_native"), tmp_path / "native.pyth")
    torch.save({"model_state": make("x3d_s", 1).state_dict()}, tmp_path / "ptv.pyth")
    without, having = make("x3d_s", 2), make("x3d_native", 2)
    unchanged(without, tmp_path / "native.pyth", "build with backbone.shortcut_norm=true", backbone="x3d_s")
    unchanged(having, tmp_path / "ptv.pyth", "build with backbone.shortcut_norm=false", backbone="x3d_s")


@pytest.mark.parametrize("kind", ["c2d", "slowfast", "x3d_s"])
def test_reversed_channels_see_reversed_frames(tmp_path, kind):
    source, target = make(kind, 1).double(), make(kind, 2).double()
    torch.save(source.state_dict(), tmp_path / "w.pyth")
    report = load_weights(target, tmp_path / "w.pyth", backbone=kind, reverse_channels=True)
    assert len(report.reversed) == (2 if kind == "slowfast" else 1)
    frames = torch.randn(2, 3, 8, 32, 32, dtype=torch.float64)
    rgb, bgr = (([f[:, :, ::4], f] if kind == "slowfast" else f[:, :, :4]) for f in (frames, frames.flip(1)))
    with torch.no_grad():
        torch.testing.assert_close(target(rgb), source(bgr), rtol=1e-10, atol=1e-10)


def test_non_local_networks_are_refused(tmp_path):
    blobs = to_caffe2(to_pyslowfast(make("i3d", 1).state_dict(), "i3d"))
    blobs["nonlocal_conv3_1_theta_w"] = np.zeros((4, 4, 1, 1, 1), np.float32)
    with pytest.raises(WeightsError, match="non-local"):
        read(save_pickle(tmp_path / "w.pkl", blobs))


# --- TimeSformer ---------------------------------------------------------------------------------------------------

TIMESFORMER_PAIRS = {
    "cls_token": "timesformer.embeddings.cls_token",
    "pos_embed": "timesformer.embeddings.position_embeddings",
    "time_embed": "timesformer.embeddings.time_embeddings",
    "patch_embed.proj.weight": "timesformer.embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "timesformer.embeddings.patch_embeddings.projection.bias",
    "norm.weight": "timesformer.layernorm.weight",
    "norm.bias": "timesformer.layernorm.bias",
    "head.weight": "classifier.weight",
    "head.bias": "classifier.bias",
    "blocks.1.temporal_norm1.weight": "timesformer.encoder.layer.1.temporal_layernorm.weight",
    "blocks.1.temporal_attn.qkv.weight": "timesformer.encoder.layer.1.temporal_attention.attention.qkv.weight",
    "blocks.1.temporal_attn.proj.bias": "timesformer.encoder.layer.1.temporal_attention.output.dense.bias",
    "blocks.1.temporal_fc.weight": "timesformer.encoder.layer.1.temporal_dense.weight",
    "blocks.1.norm1.bias": "timesformer.encoder.layer.1.layernorm_before.bias",
    "blocks.0.attn.qkv.bias": "timesformer.encoder.layer.0.attention.attention.qkv.bias",
    "blocks.0.attn.proj.weight": "timesformer.encoder.layer.0.attention.output.dense.weight",
    "blocks.0.norm2.weight": "timesformer.encoder.layer.0.layernorm_after.weight",
    "blocks.0.mlp.fc1.weight": "timesformer.encoder.layer.0.intermediate.dense.weight",
    "blocks.0.mlp.fc2.bias": "timesformer.encoder.layer.0.output.dense.bias",
}
MODULES = ["temporal_norm1", "temporal_attn.qkv", "temporal_attn.proj", "temporal_fc", "norm1", "attn.qkv"]
MODULES += ["attn.proj", "norm2", "mlp.fc1", "mlp.fc2"]
OUR_NAMES = {"cls_token", "pos_embed", "time_embed"}
OUR_NAMES |= {f"{m}.{p}" for m in ("patch_embed.proj", "norm", "head") for p in ("weight", "bias")}
OUR_NAMES |= {f"blocks.{n}.{m}.{p}" for n in (0, 1) for m in MODULES for p in ("weight", "bias")}


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    """(model, folder of save_pretrained) with weights that nothing is equal in."""
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
    folder = tmp_path_factory.mktemp("hf")
    model.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return model, folder


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


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_hugging_face_names_to_ours_and_back(hugging_face, file):
    model, folder = hugging_face
    found = read(folder / file)
    assert found.layout == "huggingface"
    assert set(found.state) == OUR_NAMES
    theirs = model.state_dict()
    for ours, name in TIMESFORMER_PAIRS.items():
        assert torch.equal(found.state[ours], theirs[name]), ours
    back = layouts.to_huggingface(found.state)
    assert set(back) == set(theirs)
    assert all(torch.equal(back[name], theirs[name]) for name in theirs)


def test_a_folder_of_the_hub_may_hold_a_bin_file_only(hugging_face, tmp_path):
    os.link(hugging_face[1] / "pytorch_model.bin", tmp_path / "pytorch_model.bin")
    assert read(tmp_path).layout == "huggingface"


def test_timesformer_computes_what_hugging_face_does(hugging_face):
    model, folder = hugging_face
    net = timesformer()
    report = load_weights(net, folder / "model.safetensors", backbone="timesformer")
    assert set(report.matched) == OUR_NAMES
    torch.manual_seed(0)
    clip = torch.randn(2, 3, 4, 32, 32)
    ours, theirs = net(clip), model(clip.transpose(1, 2)).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    expected = layouts.from_huggingface({name: p.grad for name, p in model.named_parameters()})
    for name, parameter in net.named_parameters():
        scale = expected[name].abs().max()
        assert scale > 0, name
        assert (parameter.grad - expected[name]).abs().max() < 1e-4 * scale, name


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("prompts", [False, True])
def test_published_timesformer_and_the_prompts_authors(tmp_path, prompts, prefix):
    torch.manual_seed(1)
    source, target = timesformer(), timesformer()
    path = official_file(tmp_path / "w.pyth", source.state_dict(), prompts=prompts, prefix=prefix)
    report = load_weights(target, path, backbone="timesformer")
    assert report.layout == ("vmp-official" if prompts else "timesformer")
    assert report.prompts == ({"m": 0.25, "n": -0.75} if prompts else {})
    clip = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        assert torch.equal(source(clip), target(clip))


def test_embeddings_are_resized_to_the_nearest(tmp_path):
    torch.manual_seed(1)
    source, target = timesformer(), timesformer(frames=8, crop=64)
    path = official_file(tmp_path / "w.pyth", source.state_dict(), prompts=False)
    report = load_weights(target, path, backbone="timesformer")
    assert report.resized == ["time_embed", "pos_embed"]
    for t in range(8):
        assert torch.equal(target.time_embed[0, t], source.time_embed[0, t // 2])
    assert torch.equal(target.pos_embed[0, 0], source.pos_embed[0, 0])
    for y in range(8):
        for x in range(8):
            assert torch.equal(
                target.pos_embed[0, 1 + 8 * y + x], source.pos_embed[0, 1 + 4 * (y // 2) + x // 2]
            )
    fewer = timesformer(frames=2, crop=16)
    load_weights(fewer, path, backbone="timesformer")
    assert torch.equal(fewer.time_embed[0, 1], source.time_embed[0, 2])


def test_timesformer_for_bgr_frames(hugging_face):
    model, folder = hugging_face
    net = timesformer()
    report = load_weights(net, folder / "pytorch_model.bin", backbone="timesformer", reverse_channels=True)
    assert report.reversed == ["patch_embed.proj.weight"]
    clip = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        theirs = model(clip.flip(1).transpose(1, 2)).logits
        torch.testing.assert_close(net(clip), theirs, rtol=1e-5, atol=1e-5)


# --- our own -------------------------------------------------------------------------------------------------------


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


def test_a_run_a_checkpoint_and_its_file(tmp_path):
    source = timesformer()
    run = run_folder(tmp_path / "run", source)
    newest = run / "checkpoints" / "step_0000002"
    for path in (run, run / "checkpoints", newest, newest / "model.safetensors"):
        found = read(path)
        assert found.layout == "ours"
        assert set(found.state) == OUR_NAMES
        assert {name: value.item() for name, value in found.prompts.items()} == {"m": 1.0, "n": -0.25}
    assert read(run).note == f"checkpoint step_0000002 of {run}"
    os.rename(run / "checkpoints" / "step_0000001", run / "checkpoints" / "best_0001")
    assert read(run).prompts["m"].item() == 1.0  # the last one, unless another is named
    assert read(run / "checkpoints" / "best_0001").prompts["m"].item() == 0.5
    file = newest / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged"):
        read(run)


def test_prompts_are_taken_for_the_same_pathway(tmp_path):
    from vmp import MotionPrompt

    report = load_weights(timesformer(), run_folder(tmp_path, timesformer()), backbone="timesformer")
    prompts: Any = nn.ModuleDict({"video": MotionPrompt(m=0.0, n=0.0), "slow": MotionPrompt(m=0.0, n=0.0)})
    assert report.take_prompts(prompts) == ["m", "n"]
    assert (prompts["video"].m.item(), prompts["video"].n.item()) == (1.0, -0.25)
    assert prompts["slow"].n.item() == 0.0
    save_file(
        {"prompts.slow.power_norm.m": torch.ones(1), "backbone.blocks.0.conv.weight": torch.ones(1)},
        tmp_path / "two.safetensors",
    )
    assert set(read(tmp_path / "two.safetensors").prompts) == {"slow/m"}


def test_a_run_of_the_tiny_net(tmp_path):
    from vmp.backbones import build_backbone

    source: Any = build_backbone("tiny", num_classes=3, width=4)
    target: Any = build_backbone("tiny", num_classes=5, width=4)
    report = load_weights(target, run_folder(tmp_path, source), backbone="tiny")
    assert report.reinitialised == ["head.weight", "head.bias"]
    assert torch.equal(target.stages[0][0].weight, source.stages[0][0].weight)


def test_our_builders_take_stock_weights(tmp_path):
    from vmp.backbones import backbone_spec, build_backbone

    torch.save({"model_state": resnet("i3d", classes=400).state_dict()}, tmp_path / "w.pyth")
    spec = backbone_spec("i3d").at(frames=4, crop=32)
    net: Any = build_backbone("i3d", num_classes=6, weights=str(tmp_path / "w.pyth"), spec=spec, width=8)
    assert net.loaded.reinitialised == ["blocks.6.proj.weight", "blocks.6.proj.bias"]
    assert net(torch.randn(2, 3, 4, 32, 32)).shape == (2, 6)


def test_a_zoo_name_is_found_in_the_cache(tmp_path, monkeypatch, hugging_face, capsys):
    model, folder = hugging_face
    monkeypatch.setenv("VMP_CACHE", str(tmp_path))
    kept = tmp_path / "timesformer-k600" / "model.safetensors"
    kept.parent.mkdir()
    kept.write_bytes((folder / "model.safetensors").read_bytes())
    report = load_weights(timesformer(), "k600", backbone="timesformer")
    assert report.source == str(kept)
    assert report.licence == "CC-BY-NC-4.0"
    assert "CC-BY-NC-4.0" in str(report)


# --- what is refused -----------------------------------------------------------------------------------------------


class Evil:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.system, (f"touch {self.witness}",)


class EvilEval(Evil):
    def __reduce__(self):
        return eval, (f"open({str(self.witness)!r}, 'w')",)


@pytest.mark.parametrize("evil", [Evil, EvilEval])
@pytest.mark.parametrize("form", ["zip", "old torch", "pickle0", "pickle2", "pickle5", "in blobs"])
def test_code_is_refused_and_not_run(tmp_path, form, evil):
    witness = tmp_path / "it ran".replace(" ", "_")
    trap = evil(witness)
    content = {"model_state": {"blocks.0.conv.weight": torch.zeros(1)}, "x": trap}
    path = tmp_path / ("w.pth" if "torch" in form or form == "zip" else "w.pkl")
    if form in ("zip", "old torch"):
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    elif form == "in blobs":
        save_pickle(path, {"conv1_w": np.zeros(3), "x": trap})
    else:
        path.write_bytes(pickle.dumps({"blobs": {}, "x": trap}, protocol=int(form[-1])))
    name = "eval" if evil is EvilEval else r"(posix|nt|os)\.system"
    with pytest.raises(WeightsError, match=rf"refused, the file asks for .*{name}.*nothing in it was run"):
        read(path)
    assert not witness.exists()


def test_numpy_arrays_of_any_age_are_read(tmp_path):
    state = to_pyslowfast(make("slow", 1).state_dict(), "slow")
    blobs = to_caffe2(state) | {"conv1_b_note": np.float64(1), "scale": np.array(3.0)}
    expected = read(save_pickle(tmp_path / "a.pkl", blobs)).state
    for protocol in range(6):
        content = pickle.dumps({"blobs": blobs}, protocol=protocol)
        for data in (content, content.replace(b"numpy._core", b"numpy.core") if protocol < 4 else content):
            (tmp_path / "b.pkl").write_bytes(data)
            found = read(tmp_path / "b.pkl").state
            assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_arrays_of_objects_are_refused(tmp_path, form):
    path = tmp_path / "w.pkl"
    if form == "pickle":
        save_pickle(path, {"conv1_w": np.array([None], dtype=object)})
    else:
        torch.save({"model_state": {"x": torch.zeros(1)}, "a": np.array([None], dtype=object)}, path)
    with pytest.raises(WeightsError, match="refused, the file asks for numpy"):
        read(path)


def test_damaged_and_odd_files(tmp_path, c2d_file):
    whole = c2d_file.read_bytes()
    save_file({"blocks.0.conv.weight": torch.zeros(4)}, tmp_path / "s")
    for name, content in {
        "cut.pyth": whole[: len(whole) // 2],
        "cut.safetensors": (tmp_path / "s").read_bytes()[:-3],
        "page.pyth": b"<!DOCTYPE html><html></html>",
        "empty.pkl": b"",
        "text.pyth": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
        "cut.pkl": save_pickle(tmp_path / "p", {"conv1_w": np.zeros(99)}).read_bytes()[:-60],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=name):
            read(tmp_path / name)
    for content in ({"a": 1}, [1, 2], {"model_state": {"x": "text"}}, torch.zeros(2)):
        torch.save(content, tmp_path / "odd.pth")
        with pytest.raises(WeightsError, match=r"odd\.pth: (no tensors|holds a)"):
            read(tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match="no such file or folder"):
        read(tmp_path / "nothing.pyth")
    with pytest.raises(WeightsError, match="no weights in this folder"):
        read(tmp_path)


ODD = {
    "NaN": (lambda v: v.fill_(float("nan")), "numbers are NaN"),
    "one NaN": (lambda v: v.flatten().index_fill(0, torch.tensor(5), float("nan")).view_as(v), "1 of 3,456"),
    "infinite": (lambda v: v * float("inf"), "are (NaN|infinite)"),
    "beyond float32": (lambda v: torch.full_like(v, 1e300, dtype=torch.float64), "infinite in float32"),
    "complex": (lambda v: v.to(torch.complex64), "complex64, not real"),
    "int8": (lambda v: (100 * v).to(torch.int8), "int8, not floating-point"),
    "bool": (lambda v: v > 0, "bool, not floating-point"),
    "quantized": (lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8), "qint8, not real"),
    "sparse": (lambda v: v.to_sparse(), "sparse or nested"),
    "meta": (lambda v: v.to("meta"), "a meta tensor"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch, of quantized and sparse tensors
@pytest.mark.parametrize("kind", ODD)
def test_numbers_that_are_no_weights_are_refused_by_name(tmp_path, kind):
    spoil, said = ODD[kind]
    net = build_backbone("tiny", num_classes=2, width=8)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    state["stages.1.0.weight"] = spoil(state["stages.1.0.weight"][:, :].clone())
    torch.save({f"backbone.{name}": value for name, value in state.items()}, tmp_path / "odd.pth")
    message = rf"(?s)odd\.pth: 1 of its 26 tensors.*stages\.1\.0\.weight: .*{said}.*Nothing was loaded"
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(WeightsError, match=message):
        load_weights(net, tmp_path / "odd.pth", backbone="tiny")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_half_types_are_weights_and_negative_variances_are_not(tmp_path):
    net, other = (build_backbone("tiny", num_classes=2, width=8) for _ in range(2))
    for number, dtype in enumerate((torch.float16, torch.bfloat16, torch.float64)):
        state = {n: v.to(dtype) if v.is_floating_point() else v for n, v in net.state_dict().items()}
        torch.save({f"backbone.{n}": v for n, v in state.items()}, tmp_path / f"{number}.pth")
        load_weights(other, tmp_path / f"{number}.pth", backbone="tiny")
        for name, value in other.state_dict().items():
            assert torch.equal(value, state[name].to(value.dtype)), name
    state["stages.0.1.running_var"] = -torch.ones(8)
    torch.save({f"backbone.{n}": v for n, v in state.items()}, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match=r"stages\.0\.1\.running_var: a negative variance"):
        load_weights(other, tmp_path / "odd.pth", backbone="tiny")


def test_an_unknown_layout_shows_keys_and_what_is_known(tmp_path):
    torch.save({"layer1.0.conv1.weight": torch.zeros(3), "fc.bias": torch.zeros(1)}, tmp_path / "resnet.pth")
    with pytest.raises(WeightsError) as error:
        read(tmp_path / "resnet.pth")
    for part in ("layer1.0.conv1.weight", "fc.bias", *layouts.LAYOUTS):
        assert part in str(error.value)


def test_two_models_in_one_file(tmp_path):
    state = {f"{prefix}blocks.0.conv.weight": torch.zeros(1) for prefix in ("model.", "module.")}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="several models"):
        read(tmp_path / "w.pth")


# --- scripts/convert_weights.py ------------------------------------------------------------------------------------


def convert(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "scripts/convert_weights.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def converter():
    import runpy

    return runpy.run_path(str(ROOT / "scripts" / "convert_weights.py"))["convert"]


def test_convert_and_read_back(tmp_path, converter):
    from safetensors import safe_open

    source = timesformer().state_dict()
    path = official_file(tmp_path / "w.pyth", source, prompts=True)
    out = tmp_path / "new" / "w.safetensors"
    said = converter(path, out, backbone=None, to="ours", force=False)
    assert "vmp-official" in said
    assert "m = 0.25" in said
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
    assert metadata["source"] == "w.pyth"
    assert metadata["source_layout"] == "vmp-official"
    assert metadata["source_sha256"] == sha256_of(path)
    found = read(out)
    assert found.layout == "ours"
    assert {name: value.item() for name, value in found.prompts.items()} == {"m": 0.25, "n": -0.75}
    assert all(torch.equal(found.state[name], value) for name, value in source.items())
    assert set(found.state) == set(source)
    assert {p.name for p in out.parent.iterdir()} == {"w.safetensors"}


def test_converted_for_hugging_face_loads_there(tmp_path, hugging_face, converter):
    import transformers

    hub: Any = transformers
    model, folder = hugging_face
    net = timesformer()
    load_weights(net, folder / "model.safetensors", backbone="timesformer")
    run = run_folder(tmp_path / "run", net)
    (tmp_path / "hf").mkdir()
    said = converter(run, tmp_path / "hf" / "model.safetensors", backbone=None, to="hf", force=False)
    assert "left out" in said
    model.config.save_pretrained(tmp_path / "hf")
    again, told = hub.TimesformerForVideoClassification.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    clip = torch.randn(1, 4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(clip).logits, model(clip).logits)
    theirs, ours = model.state_dict(), again.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_convert_checks_the_backbone(tmp_path, converter):
    from vmp.backbones import build_backbone

    path = tmp_path / "w.pyth"
    torch.save({"model_state": build_backbone("x3d_xs", num_classes=9).state_dict()}, path)
    said = converter(path, tmp_path / "a.safetensors", backbone="x3d_xs", to="ours", force=False)
    assert "fits x3d_xs" in said
    with pytest.raises(WeightsError, match="x3d_l"):
        converter(path, tmp_path / "b.safetensors", backbone="x3d_l", to="ours", force=False)
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.slow
def test_the_command_refuses_to_overwrite(tmp_path, c2d_file):
    out = tmp_path / "w.safetensors"
    out.write_bytes(b"precious")
    done = convert(c2d_file, out)
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert "Traceback" not in done.stderr
    assert out.read_bytes() == b"precious"
    done = convert(c2d_file, out, "--force")
    assert done.returncode == 0, done.stderr
    assert set(load_file(out)) == set(make("c2d", 1).state_dict())
    assert "examples" in convert("--help").stdout
