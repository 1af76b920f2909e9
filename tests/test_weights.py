"""Pretrained weights into a model: which are public, which fit, what the error says; our own runs as weights."""

import os
import re
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from weights_made import (
    OUR_NAMES,
    make,
    resnet,
    run_folder,
    save_pickle,
    timesformer,
    to_caffe2,
    to_pyslowfast,
    unchanged,
)

from vmp.backbones import build_backbone, zoo
from vmp.backbones.layouts import read
from vmp.backbones.weights import load_weights
from vmp.errors import ConfigError, WeightsError
from vmp.pathways import pathway_frames
from vmp.transfer import name_of


def test_every_row_is_usable():
    assert len({(row.backbone, row.name) for row in zoo.WEIGHTS}) == len(zoo.WEIGHTS)
    for row in zoo.WEIGHTS:
        assert zoo.find(row.backbone, row.name) is row
        files = [name_of(url) for url in row.urls]
        assert all(re.fullmatch(r"[\w.]+\.(pyth|pt|safetensors|bin)", file) for file in files), files
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
        ("c2d", "k401", r"weights 'k401' of c2d: must be a name \(k400, motions\)"),
        ("tiny", "k400", "not public; public for tiny: motions;"),
    ],
)
def test_what_is_not_public_is_said(backbone, name, said):
    with pytest.raises(ConfigError, match=said):
        zoo.find(backbone, name)
    net: Any = nn.Linear(1, 1)
    net.head_name = "head"
    with pytest.raises(ConfigError, match=said):
        load_weights(net, name, backbone=backbone)


def test_another_head_stays_as_built(c2d_file):
    net = make("c2d", 2)
    net.blocks[6].proj = nn.Linear(256, 9)
    before = net.blocks[6].proj.weight.clone()
    report = load_weights(net, c2d_file, backbone="c2d")
    assert report.reinitialised == ["blocks.6.proj.weight", "blocks.6.proj.bias"]
    assert torch.equal(net.blocks[6].proj.weight, before)
    assert torch.equal(net.blocks[0].conv.weight, read(c2d_file).state["blocks.0.conv.weight"])
    assert "newly initialised" in str(report)


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
    assert "in the file but not in the backbone: queue" in str(report)
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


def test_a_run_a_checkpoint_and_its_file(tmp_path):
    source = timesformer()
    run = run_folder(tmp_path / "run", source)
    newest = run / "checkpoints" / "step_0000002"
    for path in (run, run / "checkpoints", newest, newest / "model.safetensors"):
        found = read(path)
        assert found.layout == "ours"
        assert set(found.state) == OUR_NAMES
        assert found.scalars == {"m": 1.0, "n": -0.25}
    assert read(run).note == f"checkpoint step_0000002 of {run}"
    os.rename(run / "checkpoints" / "step_0000001", run / "checkpoints" / "best_0001")
    assert read(run).scalars["m"] == 1.0  # the last one, unless another is named
    assert read(run / "checkpoints" / "best_0001").scalars["m"] == 0.5
    file = newest / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged"):
        read(run)


def test_prompts_are_taken_for_the_same_pathway(tmp_path):
    from vmp import MotionPrompt, PromptedClassifier

    report = load_weights(timesformer(), run_folder(tmp_path, timesformer()), backbone="timesformer")
    video, slow = MotionPrompt(m=0.0, n=0.0), MotionPrompt(m=0.0, n=0.0)
    plan = pathway_frames(frames=8, alpha=4, prompted=("slow",))
    assert report.take_prompts(PromptedClassifier(nn.Identity(), prompts={"video": video})) == ["m", "n"]
    assert (video.m.item(), video.n.item()) == (1.0, -0.25)
    other = PromptedClassifier(nn.Identity(), prompts={"slow": slow}, pathway_frames=plan)
    assert report.take_prompts(other) == []
    assert slow.n.item() == 0.0
    save_file(
        {"prompts.slow.power_norm.m": torch.ones(1), "backbone.blocks.0.conv.weight": torch.ones(1)},
        tmp_path / "two.safetensors",
    )
    assert read(tmp_path / "two.safetensors").scalars == {"slow/m": 1.0}


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
@pytest.mark.parametrize("name", ["tiny", "timesformer"])
def test_a_wrapped_model_keeps_its_prompts(tmp_path, name, wrapper):
    """As DDP, torch.compile and Lightning save it."""
    from vmp import MotionPrompt, PromptedClassifier

    net: Any = timesformer() if name == "timesformer" else build_backbone(name, num_classes=3, width=4)
    state = PromptedClassifier(net, prompts={"video": MotionPrompt(m=0.5, n=-0.25)}).state_dict()
    torch.save({f"{wrapper}{key}": value for key, value in state.items()}, tmp_path / "w.pt")
    found = read(tmp_path / "w.pt")
    assert (found.layout, found.scalars) == ("ours", {"m": 0.5, "n": -0.25})
    assert set(found.state) == set(net.state_dict())


class Own(nn.Module):
    """A network of one's own, with parts that are called as wrappers are."""

    head_name = "head"

    def __init__(self):
        super().__init__()
        self.backbone, self.model, self.head = nn.Conv3d(3, 4, 1), nn.Linear(4, 4), nn.Linear(4, 5)


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone.", "backbone._orig_mod."])
def test_a_network_of_ones_own_has_its_own_names(tmp_path, prefix):
    source = Own()
    torch.save({f"{prefix}{name}": value for name, value in source.state_dict().items()}, tmp_path / "w.pt")
    target: Any = Own()
    report = load_weights(target, tmp_path / "w.pt", backbone="custom")
    assert [*report.reinitialised, *report.missing, *report.unexpected] == []
    assert all(torch.equal(target.state_dict()[name], value) for name, value in source.state_dict().items())


def test_a_network_of_ones_own_is_converted_with_its_own_names(tmp_path):
    from vmp.commands.convert import convert

    save_file({f"backbone.{name}": value for name, value in Own().state_dict().items()}, tmp_path / "w")
    for source, out in (("w", "a"), ("a.safetensors", "b")):
        convert(tmp_path / source, tmp_path / f"{out}.safetensors", backbone=None, to="ours", force=False)
        assert set(load_file(tmp_path / f"{out}.safetensors")) == set(Own().state_dict())


def test_a_run_of_the_tiny_net(tmp_path):

    source: Any = build_backbone("tiny", num_classes=3, width=4)
    target: Any = build_backbone("tiny", num_classes=5, width=4)
    report = load_weights(target, run_folder(tmp_path, source), backbone="tiny")
    assert report.reinitialised == ["head.weight", "head.bias"]
    assert torch.equal(target.stages[0][0].weight, source.stages[0][0].weight)


def test_our_builders_take_stock_weights(tmp_path):
    from vmp.backbones import backbone_spec

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
