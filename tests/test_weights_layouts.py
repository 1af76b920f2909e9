"""Pretrained weights in every layout of the convolutional networks."""

import json
from collections import OrderedDict

import numpy as np
import pytest
import torch
from weights_made import (
    BACKBONES,
    CAFFE2_PAIRS,
    PAIRS,
    logits,
    make,
    save_pickle,
    to_caffe2,
    to_pyslowfast,
)

from vmp.backbones import layouts
from vmp.backbones.layouts import read
from vmp.backbones.weights import load_weights


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
