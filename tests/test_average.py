"""The moving average of the weights, against its formula and through checkpoints."""

import pytest
import torch
from runs import folder, start
from torch import nn

from vmp.controls import OtherClipPrompt
from vmp.engine import checkpoint
from vmp.engine.average import Average
from vmp.engine.learner import Learner
from vmp.engine.plan import TrainingPlan, TrainingState
from vmp.engine.saving import Saver
from vmp.runs import resume
from vmp.runs.records import read_metrics, read_result

UNSCALED = torch.amp.GradScaler("cpu", enabled=False)
PLAN = TrainingPlan(epochs=9, batch=1, micro_batch=1, world=1, clips=1, seed=0)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def train(model, optimizer, average, steps) -> list[dict[str, torch.Tensor]]:
    """The weights before the first update and after each."""
    seen = [{k: v.clone() for k, v in model.state_dict().items()}]
    for step in steps:
        optimizer.zero_grad()
        model(torch.rand(5, 3)).square().sum().backward()
        optimizer.step()
        average.update(step)
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
    return seen


@pytest.mark.parametrize("warmup", [False, True])
def test_it_is_the_weighted_sum_of_the_weights_so_far(warmup):
    model = net()
    average = Average(model, decay=0.6, warmup=warmup)
    seen = train(model, torch.optim.SGD(model.parameters(), lr=0.1), average, range(1, 21))
    decays = [min(0.6, (1 + n) / (10 + n)) if warmup else 0.6 for n in range(1, 21)]
    assert not warmup or sum(decay < 0.6 for decay in decays) == 12
    shares = [1.0]  # of each of the weights seen
    for decay in decays:
        shares = [share * decay for share in shares] + [1 - decay]
    for name, found in average.state_dict().items():
        if name == "1.num_batches_tracked":
            assert found == 20
            continue
        expected = sum(share * at[name].double() for share, at in zip(shares, seen, strict=True))
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_the_checkpoint_is_the_average_and_training_goes_on_from_the_weights(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    average = Average(model, decay=0.9, warmup=False)
    train(model, optimizer, average, [1, 2, 3])
    with Saver(tmp_path, keep=2, recomputes=False) as saver:
        saver.save(Learner(model, optimizer, UNSCALED, average), TrainingState(step=3), best=False)
    trained, averaged = ({k: v.clone() for k, v in x.state_dict().items()} for x in (model, average))
    with average.in_place():
        assert all(torch.equal(model.state_dict()[name], averaged[name]) for name in averaged)
    assert all(torch.equal(model.state_dict()[name], trained[name]) for name in trained)

    found = checkpoint.newest(tmp_path)
    assert all(torch.equal(found.model[name], averaged[name]) for name in averaged)
    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    again = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
    own = Average(other, decay=0.9, warmup=False)
    resume.restore(found, Learner(other, again, UNSCALED, own), PLAN)
    for one, two, three in ((model, optimizer, average), (other, again, own)):
        torch.manual_seed(5)
        train(one, two, three, [4, 5])
    for name, value in average.state_dict().items():
        assert torch.equal(own.state_dict()[name], value)
        assert torch.equal(other.state_dict()[name], model.state_dict()[name])


def test_weights_with_two_names_are_kept_too():
    def tied():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    model = tied()
    average = Average(model, decay=0.6, warmup=False)
    with torch.no_grad():
        model[0].weight.fill_(1)
    average.update(1)
    trained, averaged = ({k: v.clone() for k, v in x.state_dict().items()} for x in (model, average))
    assert not torch.equal(trained["1.weight"], averaged["1.weight"])
    with average.in_place():
        assert torch.equal(model[0].weight, averaged["1.weight"])
    other = tied()
    other.load_state_dict(averaged)
    again = Average(other, decay=0.6, warmup=False)
    again.restore(trained)
    for kept, mean in ((model, average), (other, again)):
        assert torch.equal(kept[0].weight, trained["0.weight"])
        assert all(torch.equal(mean.state_dict()[name], averaged[name]) for name in averaged)


def test_what_a_control_keeps_of_a_clip_is_not_averaged():
    """Its size is known with the first clip only, and a mean of clips has less motion than any of them."""

    def see_another_clip(model, average, step):
        generator = torch.Generator().manual_seed(step)
        model[0](torch.randint(0, 256, (2, 3, 4, 6, 6), dtype=torch.uint8, generator=generator))
        average.update(step)

    model, other = (nn.Sequential(OtherClipPrompt()) for _ in range(2))
    average = Average(model, decay=0.9, warmup=False)
    for step in (1, 2):
        see_another_clip(model, average, step)
    kept = model[0].kept.clone()
    assert kept.any()
    assert torch.equal(average.state_dict()["0.kept"], kept)
    with average.in_place():
        assert torch.equal(model[0].kept, kept)
    own = Average(other, decay=0.9, warmup=False)
    other.load_state_dict(average.state_dict())
    own.restore(average.trained())
    for one, of_one in ((model, average), (other, own)):
        see_another_clip(one, of_one, 3)
    assert all(torch.equal(own.state_dict()[name], value) for name, value in average.state_dict().items())


@pytest.mark.slow
def test_a_run_tests_and_keeps_the_average(data, tmp_path):
    """With a decay near 1 and no warm-up the average stays at the start, and so does what is tested and kept."""
    options = ("trainer.epochs=1", "train.ema=0.9999999", "train.ema_warmup=false", "vmp.lr_mult=500")
    start(data, tmp_path, *options).succeed()
    where = folder(tmp_path)
    kept = checkpoint.newest(where / "checkpoints").model
    rows = list(read_metrics(where))
    first, val = rows[0], rows[-1]
    assert abs(val["vmp/slope"] - first["vmp/slope"]) < 1e-4 < abs(rows[-2]["vmp/slope"] - first["vmp/slope"])
    assert read_result(where)["scalars"]["slope"] == val["vmp/slope"]
    assert abs(float(kept["prompts.video.power_norm.m"]) - first["vmp/m"]) < 1e-4
