"""What a seed decides, told apart: the order of the clips, the initial weights, and m and n where they are drawn."""

import pytest
import torch
from configs import composed, raw
from runs import differences, folder, start

from vmp.build import build_model
from vmp.runs.folder import what_matters

DRAWN = ("dataset=motions", "backbone=tiny", "backbone.weights=none", "vmp.m=draw", "vmp.n=draw")


@pytest.mark.slow
def test_order_and_weights_of_another_seed_give_its_run(data, straight, tmp_path):
    """m and n are not drawn here, so nothing is left that seed 1 itself decides."""
    start(data, tmp_path, "seed=1", "train.order_seed=0", "train.weights_seed=0").succeed()
    assert differences(straight, folder(tmp_path, seed="seed1-order0-weights0")) == []


@pytest.mark.parametrize(
    ("overrides", "same_weights", "same_start"),
    [
        (("seed=1",), False, False),
        (("seed=1", "train.weights_seed=0"), True, False),
        (("train.weights_seed=1",), False, True),
        (("train.order_seed=1",), True, True),
    ],
)
def test_weights_follow_their_seed_and_drawn_m_and_n_the_runs(overrides, same_weights, same_start):
    first, second = (build_model(composed(*DRAWN, *changed), 5).state_dict() for changed in ((), overrides))
    drawn = [name for name, value in first.items() if value.dim() > 1]
    alike = [torch.equal(first[name], second[name]) for name in drawn]
    starts = [torch.equal(first[name], second[name]) for name in first if name.endswith((".m", ".n"))]
    assert set(starts) == {same_start}
    assert set(alike) == {same_weights}


def test_a_config_from_before_these_keys_is_the_same_run():
    before = raw()
    assert before["train"]["order_seed"] is None
    without = {**before, "train": {k: v for k, v in before["train"].items() if not k.endswith("_seed")}}
    assert what_matters(before) == what_matters(without)
    assert what_matters(raw("train.order_seed=0")) != what_matters(before)
