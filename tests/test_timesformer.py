"""TimeSformer's three attentions, its start and its sizes; tests/test_weights_timesformer.py loads its weights."""

import math

import pytest
import torch
from torch import nn

from vmp.backbones import timesformer as ts


def vit(attention, *, frames=4, crop=32, classes=5, drop_path=0.0):
    torch.manual_seed(1)
    return ts.TimeSformer(
        num_classes=classes, frames=frames, crop=crop, patch=8, dim=24, depth=3, heads=3,
        attention=attention, drop_path=drop_path,
    )  # fmt: skip


def test_a_narrow_network_from_scratch_sees_order_from_the_start():
    torch.manual_seed(0)
    options = {"num_classes": 5, "frames": 4, "crop": 16, "patch": 8, "dim": 64, "depth": 2, "heads": 2}
    clips = torch.randn(2, 3, 4, 16, 16)

    def scatter(init):
        net = ts.TimeSformer(**options, init=init).eval()
        weights = torch.cat(
            [m.weight.flatten() for m in net.blocks.modules() if isinstance(m, torch.nn.Linear)]
        )
        return weights[weights != 0].std().item(), (net(clips) - net(clips.flip(2))).abs().max().item()

    std, change = scatter("image")
    assert std == pytest.approx(0.02, rel=0.02)
    assert change < 1e-6
    std, change = scatter("scratch")
    assert std == pytest.approx(1 / 8, rel=0.02)
    assert change > 0.01
    with pytest.raises(ValueError, match="init = 'vit': must be one of image, scratch"):
        ts.TimeSformer(**options, init="vit")


def test_a_new_divided_model_is_its_image_model():
    """temporal_fc starts at zero: the frames of a still clip tell no more than one of them."""
    model = vit("divided").eval()
    frame = torch.randn(2, 3, 1, 32, 32)
    torch.testing.assert_close(model(frame.expand(-1, -1, 4, -1, -1)), model(frame), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        model.time_embed.normal_()
        for block in model.blocks:
            block.temporal_fc.weight.normal_(std=0.5)
    moving = torch.randn(2, 3, 4, 32, 32)
    assert (model(moving) - model(moving.flip(2))).abs().max() > 1e-3  # and then it knows the order


def test_the_three_attentions_agree_on_one_frame():
    frame = torch.randn(2, 3, 1, 32, 32)
    joint, space, divided = vit("joint"), vit("space"), vit("divided")
    joint.load_state_dict(space.state_dict(), strict=False)
    divided.load_state_dict(space.state_dict(), strict=False)
    torch.testing.assert_close(joint.eval()(frame), space.eval()(frame))
    torch.testing.assert_close(divided.eval()(frame), space(frame))


def test_space_attention_averages_frames_before_the_head():
    model = vit("space").eval()
    clip = torch.randn(2, 3, 4, 32, 32)
    each = torch.stack([model(clip[:, :, i : i + 1]) for i in range(4)])
    assert not torch.allclose(each.mean(dim=0), model(clip), atol=1e-6)  # the norm comes after the mean
    one = clip[:, :, 1:2]
    torch.testing.assert_close(model(one.expand(-1, -1, 4, -1, -1)), model(one), rtol=1e-5, atol=1e-6)


def test_joint_attention_is_full_attention():
    """One block by hand, all tokens at once."""
    model = vit("joint").eval()
    x = torch.randn(2, 1 + 16 * 4, 24)
    block = model.blocks[0]
    attn = block.attn
    q, k, v = (y.view(2, -1, 3, 8).transpose(1, 2) for y in attn.qkv(block.norm1(x)).chunk(3, dim=-1))
    weights = (q @ k.transpose(2, 3) / math.sqrt(8)).softmax(dim=-1)
    y = x + attn.proj((weights @ v).transpose(1, 2).reshape(2, -1, 24))
    y = y + block.mlp["fc2"](nn.functional.gelu(block.mlp["fc1"](block.norm2(y))))
    torch.testing.assert_close(block(x, 4), y)


def test_embeddings_are_resized_to_the_nearest():
    time = torch.arange(4.0).view(1, 4, 1)
    assert ts.resize_time(time, 8)[0, :, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert ts.resize_time(time, 2)[0, :, 0].tolist() == [0, 2]
    places = torch.tensor([9.0, 0, 1, 2, 3]).view(1, 5, 1)
    wide = ts.resize_positions(places, (2, 4))[0, :, 0].tolist()
    assert wide == [9, 0, 0, 1, 1, 2, 2, 3, 3]
    model = vit("divided").eval()
    assert model(torch.randn(1, 3, 7, 48, 32)).shape == (1, 5)


def test_many_sequences_are_attended_to_in_parts(monkeypatch):
    model = vit("divided").eval()
    clip = torch.randn(2, 3, 4, 32, 32)
    whole = model(clip)
    monkeypatch.setattr(ts, "SDPA_BATCH", 5)
    torch.testing.assert_close(model(clip), whole)


def test_drop_path_drops_whole_sequences_and_keeps_the_mean():
    drop = ts.DropPath(0.25).train()
    torch.manual_seed(0)
    y = drop(torch.ones(4000, 3, 2))
    assert set(y.flatten().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert (y.flatten(1).std(dim=1) == 0).all()
    assert y.mean().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(drop.eval()(torch.ones(5, 2)), torch.ones(5, 2))
    assert [block.drop_path.p for block in vit("divided", drop_path=0.1).blocks] == [0, 0.05, 0.1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"crop": 30}, "crop = 30: must be a multiple of patch = 8"),
        ({"attention": "sparse"}, "attention = 'sparse'"),
    ],
)
def test_wrong_timesformers_are_told(options, said):
    with pytest.raises(ValueError, match=said):
        vit(**{"attention": "divided"} | options)


def test_every_layer_of_timesformer_is_called_as_one():
    """Forward hooks, by which features are compared layer by layer, see all that has weights."""
    from vmp.figures.similarity import features_of

    net = ts.TimeSformer(num_classes=2, frames=2, crop=16, patch=8, dim=8, depth=1, heads=2).eval()
    with features_of(net) as features:
        net(torch.randn(1, 3, 2, 16, 16))
    leaves = [
        name
        for name, m in net.named_modules()
        if not list(m.children()) and list(m.parameters(recurse=False))
    ]
    assert "patch_embed.proj" in leaves
    assert set(features) == set(leaves) - {"head"}
