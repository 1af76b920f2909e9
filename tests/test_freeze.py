"""Parts of a network that are frozen stay as they are, to the bit, and batch norm does as the config says."""

from typing import get_args

import pytest
import torch
from test_backbones import small
from torch import nn

from vmp.backbones import SPECS
from vmp.choices import Freeze
from vmp.controls import OtherClipPrompt
from vmp.finetune import freeze, head_of, parameter_groups, set_batch_norm
from vmp.model import PromptedClassifier


@pytest.mark.parametrize("what", get_args(Freeze))
@pytest.mark.parametrize("name", ["tiny", "slowfast", "x3d_xs", "timesformer"])
def test_frozen_parts_stay_as_they_are(name, what):
    prompted = SPECS[name].pathways
    model, clips = small(name, prompted=prompted, dropout=0.5, variation=False)
    freeze(model, what)
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    others, norms = parameter_groups(model)
    optimizer = torch.optim.SGD([*others, *norms], lr=0.1, weight_decay=0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(clips).logits, torch.tensor([0, 3])).backward()
        optimizer.step()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    prompts = {key for key in before if key.startswith("prompts.")}
    head = {f"backbone.{model.backbone.head_name}.{kind}" for kind in ("weight", "bias")}
    counters = {key for key in before if "num_batches" in key or "running" in key}
    if what == "none":
        assert changed >= set(before) - counters
        assert changed & counters == counters
    else:
        assert (
            changed
            == {
                "backbone": prompts | head,
                "backbone_and_head": prompts,
                "all_but_head": head,
            }[what]
        )
    dropout = [m for m in head_of(model.backbone) if isinstance(m, nn.Dropout)]
    assert dropout
    assert all(m.training == (what != "backbone_and_head") for m in dropout)
    model.eval().train()  # an evaluation in between wakes nothing up
    trained_norms = [m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm3d) and m.training]
    assert bool(trained_norms) == (what == "none" and name != "timesformer")


class Attending(nn.Module):
    """Its attention drops weights by itself, and has a module inside."""

    head_name = "head"

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 2, dropout=0.5, batch_first=True)
        self.dropout, self.head = nn.Dropout(0.5), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.transpose(1, 2).flatten(2)  # (B, T, 12)
        self.seen = self.attention(x, x, x)[0].mean(dim=1)
        return self.head(self.dropout(self.seen))


def test_a_frozen_layer_that_drops_out_by_itself_is_as_in_testing():
    model, clips = PromptedClassifier(Attending()), torch.rand(2, 3, 4, 2, 2)
    freeze(model, "backbone")
    model.eval()(clips)
    tested = model.backbone.seen
    model.train()(clips)
    assert torch.equal(model.backbone.seen, tested)
    assert model.backbone.dropout.training


def test_a_frozen_control_still_takes_its_attention_from_the_batch():
    model = PromptedClassifier(Attending(), prompts={"video": OtherClipPrompt()})
    freeze(model, "all_but_head")
    model.train()(torch.randint(0, 256, (2, 3, 5, 2, 2), dtype=torch.uint8))
    assert model.prompts["video"].kept.numel()


def test_freezing_everything_is_refused():
    model, _ = small("tiny")
    with pytest.raises(ValueError, match="nothing is left to train"):
        freeze(model, "backbone_and_head")
    with pytest.raises(ValueError, match="freeze = 'some'"):
        freeze(model, "some")
    with pytest.raises(ValueError, match="batch_norm = 'off'"):
        set_batch_norm(model, "off")


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm3d(4),
        nn.InstanceNorm3d(4, affine=True),
        nn.GroupNorm(2, 4),
        nn.LayerNorm(4),
        nn.RMSNorm(4),
    ],
)
def test_layers_that_normalise_have_a_weight_decay_of_their_own(norm):
    others, norms = parameter_groups(nn.Sequential(linear := nn.Linear(4, 4), norm))
    assert others == [*linear.parameters()]
    assert norms == [*norm.parameters()]


def test_batch_norm_options():
    model, clips = small("c2d", prompted=("video",))
    model = set_batch_norm(model, "frozen").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    others, norms = parameter_groups(model)
    assert norms == []
    optimizer = torch.optim.SGD(others, lr=0.1)
    nn.functional.cross_entropy(model(clips).logits, torch.tensor([0, 3])).backward()
    optimizer.step()
    norm = {
        f"{name}.{key}"
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm3d)
        for key in module.state_dict()
    }
    assert {key for key in norm if not torch.equal(model.state_dict()[key], before[key])} == set()
    synced = set_batch_norm(small("c2d")[0], "sync")
    assert any(isinstance(m, nn.SyncBatchNorm) for m in synced.modules())
    assert synced.state_dict().keys() == small("c2d")[0].state_dict().keys()
