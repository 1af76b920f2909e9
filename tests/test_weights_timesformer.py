"""TimeSformer's weights: Hugging Face's and the published ones, resized embeddings, BGR frames."""

import os

import pytest
import torch
from weights_made import OUR_NAMES, official_file, timesformer

from vmp.backbones import layouts
from vmp.backbones.layouts import read
from vmp.backbones.weights import load_weights
from vmp.errors import WeightsError

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


@pytest.mark.parametrize(("name", "rows"), [("time_embed", 0), ("pos_embed", 1), ("pos_embed", 0)])
def test_embeddings_without_a_place_fit_nothing(tmp_path, name, rows):
    state = timesformer().state_dict()
    torch.save(state | {name: torch.zeros(1, rows, state[name].shape[2])}, tmp_path / "w.pyth")
    with pytest.raises(WeightsError, match=rf"{name}: \(1, {rows}, "):
        load_weights(timesformer(), tmp_path / "w.pyth", backbone="timesformer")


def test_timesformer_for_bgr_frames(hugging_face):
    model, folder = hugging_face
    net = timesformer()
    report = load_weights(net, folder / "pytorch_model.bin", backbone="timesformer", reverse_channels=True)
    assert report.reversed == ["patch_embed.proj.weight"]
    clip = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        theirs = model(clip.flip(1).transpose(1, 2)).logits
        torch.testing.assert_close(net(clip), theirs, rtol=1e-5, atol=1e-5)
