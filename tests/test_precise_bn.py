"""Precise batch normalisation against statistics over the same clips by hand, in one process and in two."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from configs import composed
from runs import Ranks, differences, folder, run, start, without_validation
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vmp.build import build_model, clip_shape
from vmp.data.augment import Augmentation
from vmp.data.dataset import TrainClips
from vmp.data.present import find_clips
from vmp.data.sampler import epoch_order
from vmp.datasets import find_splits
from vmp.engine import dist
from vmp.engine.precise_bn import recompute_statistics, updated_layers
from vmp.finetune import set_batch_norm


def made(data: Path, *overrides: str):
    """A model with random weights, and the training clips."""
    given = ["dataset=manifest", f"dataset.folder='{data}'", "backbone=tiny", "backbone.width=4"]
    given += ["backbone.crop=32", "backbone.frames=4", "trainer.batch_size=4", "backbone.weights=none"]
    config = composed(*given, *overrides)
    model = build_model(config, 2)
    train = find_splits(config, progress=False).train
    present = find_clips(train, max_bad_fraction=0)
    return model, TrainClips(train, present, clip_shape(config, model), seed=config.seed)


def by_hand(model: nn.Module, data: TrainClips, batches: list[list[int]], *, epoch: int) -> dict[str, tuple]:
    """Each layer's mean and variance over all that it sees of these batches, in training's own normalisation."""
    seen: dict[str, list[torch.Tensor]] = {}
    hooks = [
        module.register_forward_pre_hook(lambda _, x, name=name: seen.setdefault(name, []).append(x[0]))
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
    ]
    model.train()
    with torch.no_grad():
        for batch in batches:
            model(torch.stack([data[index, epoch][1] for index in batch]))
    for hook in hooks:
        hook.remove()
    whole = {name: torch.cat(each).double().transpose(0, 1).flatten(1) for name, each in seen.items()}
    return {name: (x.mean(dim=1), x.var(dim=1)) for name, x in whole.items()}


def statistics(model: nn.Module) -> dict[str, tuple]:
    layers = {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm)}
    return {name: (m.running_mean.double(), m.running_var.double()) for name, m in layers.items()}


def assert_close(found: dict[str, tuple], wanted: dict[str, tuple]) -> None:
    assert found.keys() == wanted.keys()
    for name, (mean, variance) in wanted.items():
        torch.testing.assert_close(found[name][0], mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[name][1], variance, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("clips", [10, 1000])
def test_statistics_are_those_of_the_clips_by_hand(data, clips):
    """Ten clips are three micro-batches of four; of 1000 there are 24. What was there before leaves no trace, and clips
    are not mixed, as they are not in a test."""
    model, train = made(data)
    train.augmentation = Augmentation(mixup=0.8)
    for module in updated_layers(model):
        nn.init.constant_(module.running_mean, 100.0)
    order = epoch_order(24, seed=0, epoch=3)[: 12 if clips == 10 else 24].tolist()
    batches = [order[i : i + 4] for i in range(0, len(order), 4)]
    weights = {name: p.clone() for name, p in model.named_parameters()}
    alone = dist.Processes(0, 1, torch.device("cpu"))
    recompute_statistics(model, train, clips=clips, epoch=3, micro_batch=4, processes=alone)
    found = {name: (a.clone(), b.clone()) for name, (a, b) in statistics(model).items()}
    assert_close(found, by_hand(model, train, batches, epoch=3))
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    assert updated_layers(set_batch_norm(model, "frozen")) == []


RANK = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
import torch
from test_precise_bn import made, statistics
from vmp.engine import dist
from vmp.engine.precise_bn import recompute_statistics
data, out = map(Path, {paths!r})
model, train = made(data)
processes = dist.start("cpu")
recompute_statistics(model, train, clips=16, epoch=0, micro_batch=4, processes=processes)
torch.save(statistics(model), out / f"{{processes.rank}}.pt")
dist.stop()
"""


@pytest.mark.slow
def test_two_processes_have_the_statistics_of_all_their_clips(data, tmp_path):
    """In micro-batches of four, as one process would have them, though each process reads every second one."""
    code = RANK.format(paths=[str(data), str(tmp_path)])
    Ranks([code], ranks=2, script="-c").succeed()
    model, train = made(data)
    order = epoch_order(24, seed=0, epoch=0)[:16].tolist()
    wanted = by_hand(model, train, [order[i : i + 4] for i in range(0, 16, 4)], epoch=0)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert_close(first, wanted)
    for name, pair in first.items():
        assert all(torch.equal(a, b) for a, b in zip(pair, second[name], strict=True))


def newest(where: Path) -> dict[str, torch.Tensor]:
    return load_file(max((where / "checkpoints").glob("step_*")) / "model.safetensors")


def test_a_run_is_tested_with_them_and_trains_as_without(data, finished, tmp_path):
    """Nothing but the statistics differs, and those in the checkpoint are those of its weights over the next epoch."""
    start(data, tmp_path, "trainer.epochs=1", "train.precise_bn=8").succeed()
    precise, plain = newest(folder(tmp_path)), newest(finished)
    differing = {name for name in plain if not np.array_equal(plain[name], precise[name])}
    assert differing == {name for name in plain if "running_" in name}
    model, train = made(data)
    model.load_state_dict(precise)
    order = epoch_order(24, seed=0, epoch=1)[:8].tolist()
    found = {name: (a.clone(), b.clone()) for name, (a, b) in statistics(model).items()}
    assert_close(found, by_hand(model, train, [order[:4], order[4:]], epoch=1))


@pytest.mark.slow
def test_without_validation_a_killed_run_ends_with_the_same_bits(data, tmp_path):
    """Then they are recomputed once, before the test, and kept in a checkpoint of their own."""
    home = without_validation(data, tmp_path / "data")
    options = ("trainer.epochs=2", "train.precise_bn=8", "trainer.save_steps=1", "trainer.keep_finished=all")
    start(home, tmp_path / "straight", *options).succeed()
    straight = folder(tmp_path / "straight")
    names = sorted(path.name for path in (straight / "checkpoints").glob("step_*"))
    assert names[-1] == "step_00000012_0002"
    for left in ("step_00000012_0000", "step_00000009_0000"):  # what a kill leaves
        out = tmp_path / left
        stopped = start(home, out, *options, "trainer.keep=100").wait()
        assert stopped.returncode == 0
        there = folder(out)
        (there / "result.json").unlink()
        for path in (there / "checkpoints").glob("step_*"):
            if path.name > left:
                shutil.rmtree(path)
        assert run(home, out, *options, "trainer.keep=100").returncode == 0
        assert not differences(straight, there)


@pytest.mark.slow
def test_where_it_changes_nothing_the_log_says_so(data, finished, tmp_path):
    frozen = ("train.batch_norm=frozen", f"backbone.weights='{finished}'", "trainer.epochs=1")
    for name, more in (("with", ["train.precise_bn=8"]), ("without", [])):
        assert run(data, tmp_path / name, *frozen, *more).returncode == 0
    (told,) = (tmp_path / "with").rglob("log.txt")
    assert "train.precise_bn=8 changes nothing here" in told.read_text()
    results = [json.loads(next((tmp_path / n).rglob("result.json")).read_text()) for n in ("with", "without")]
    assert results[0]["cross_entropy"] == results[1]["cross_entropy"]
