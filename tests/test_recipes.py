"""Options that a recipe may add: what each does, and that a run with all of them on is as exact as one without."""

import signal
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from configs import composed, raw
from disturbed import progress, until_it_moves
from runs import differences, folder, run, start, start_ranks, wait_for, without_validation
from torch import nn
from tracked import tensorboard_events

from vmp.build import build_model, build_optimizer
from vmp.config import check
from vmp.data.manifest import read_manifest
from vmp.data.present import find_clips
from vmp.data.sampler import TrainBatches, balanced_order
from vmp.engine.evaluator import Scores
from vmp.engine.plan import TrainingPlan, TrainingState
from vmp.finetune import blocks_of
from vmp.objective import Objective, balanced_weights
from vmp.runs.folder import what_matters
from vmp.runs.records import read_metrics, read_per_class, read_result
from vmp.runs.score import Split, write_scores

ALL = (
    "augment=strong",
    "train.ema=0.9",
    "train.sampling=balanced",
    "train.patience=1",
    "optim.layer_decay=0.7",
    "optim.head_lr_mult=2",
    "optim.clip_norm=1",
    "optim.label_smoothing=0.1",
    "train.precise_bn=6",
    "backbone.dropout=0.3",
    "trainer.micro_batch=2",
    "trainer.save_steps=1",
    "trainer.epochs=12",
    "trainer.select=best",
    "trainer.keep_finished=all",
    "optim.lr=0.2",
)


# --- classes -------------------------------------------------------------------------------------------------------


def test_a_balanced_epoch_has_every_class_and_every_clip_of_a_class_equally_often():
    labels = np.array([0] * 30 + [2] * 4 + [5] * 7)
    orders = [balanced_order(labels, seed=1, epoch=epoch) for epoch in range(6)]
    for order in orders:
        assert len(order) == len(set(order)) == 41
        assert sorted(Counter(labels[clip] for clip, _ in order).values()) == [13, 14, 14]
        for label in (0, 2, 5):
            times = Counter(clip for clip, _ in order if labels[clip] == label)
            every = [times[clip] for clip in np.flatnonzero(labels == label)]
            assert max(every) - min(every) <= 1
        for clip in range(41):
            again = [n for c, n in order if c == clip]
            assert sorted(again) == list(range(len(again)))
    assert len({tuple(order) for order in orders}) == 6
    batches = [
        TrainBatches(clips=41, batch=4, batches=5, seed=1, rank=rank, world=2, labels=labels)
        for rank in (0, 1)
    ]
    for one in batches:
        one.start_at(3, 2)
    taken = [(item[0], *item[2:]) for pair in zip(*batches, strict=True) for batch in pair for item in batch]
    assert taken == [(clip, again) if again else (clip,) for clip, again in orders[3][16:40]]


def test_class_weights_against_the_formula_and_however_clips_are_divided():
    torch.manual_seed(0)
    labels = torch.tensor([0] * 9 + [1] * 2 + [3])
    weights = balanced_weights(labels.tolist(), classes=4)
    torch.testing.assert_close(weights, torch.tensor([12 / 27, 12 / 6, 0, 12 / 3]))
    torch.testing.assert_close(weights[labels].mean(), torch.tensor(1.0))
    logits = torch.randn(12, 4, dtype=torch.float64)
    objective = Objective(class_weights=weights)
    found = objective(logits, labels, {})["loss"]
    own = -logits.float().log_softmax(1)[torch.arange(12), labels] * weights[labels]
    torch.testing.assert_close(found, own.mean())
    parts = [objective(logits[i : i + 4], labels[i : i + 4], {})["loss"] for i in (0, 4, 8)]
    torch.testing.assert_close(found, sum(parts) / 3)
    torch.testing.assert_close(objective(logits, F.one_hot(labels, 4).float(), {})["loss"], found)


def test_class_weights_and_label_smoothing_weight_a_clip_by_its_own_class():
    """w_y CE_smoothed(clip): the best prediction for a clip is the smoothed label, whatever the weights."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    labels, weights, e = torch.tensor([0, 1, 2, 3, 0, 0]), torch.tensor([0.2, 3.0, 9.0, 1.0]), 0.1
    log_p = logits - logits.exp().sum(1, keepdim=True).log()
    smooth = (1 - e) * torch.eye(4)[labels] + e / 4
    each = -(smooth * log_p).sum(1)
    objective = Objective(class_weights=weights, label_smoothing=e)
    wanted = (weights[labels] * each).mean()
    torch.testing.assert_close(
        objective(logits, labels, {})["loss"].double(), wanted.double(), rtol=1e-6, atol=0
    )

    share, other = torch.tensor([0.7, 0.4, 1.0, 0.5, 0.9, 0.1]), labels.flip(0)  # mixup
    mixed = share[:, None] * torch.eye(4)[labels] + (1 - share)[:, None] * torch.eye(4)[other]
    of_other = -(((1 - e) * torch.eye(4)[other] + e / 4) * log_p).sum(1)
    wanted = (share * weights[labels] * each + (1 - share) * weights[other] * of_other).mean()
    torch.testing.assert_close(
        objective(logits, mixed, {})["loss"].double(), wanted.double(), rtol=1e-6, atol=0
    )

    best = smooth[:1].log().requires_grad_()  # the smoothed label itself, as logits
    objective(best, labels[:1], {})["loss"].backward()
    assert best.grad.abs().max() < 1e-7


# --- learning rates, the end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "blocks"),
    [
        (("backbone=tiny",), 5),
        pytest.param(("backbone=c2d", "backbone.width=8"), 6, marks=pytest.mark.slow),
        pytest.param(
            ("backbone=slowfast", "backbone.width=16", "backbone.blocks=1"), 6, marks=pytest.mark.slow
        ),
        pytest.param(("backbone=x3d", "backbone.width=8", "backbone.blocks=1"), 6, marks=pytest.mark.slow),
        pytest.param(("backbone=i3d_inception", "backbone.width=8"), 13, marks=pytest.mark.slow),
        (("backbone=timesformer", "backbone.dim=24", "backbone.heads=2", "backbone.depth=3"), 5),
    ],
)
def test_the_learning_rate_falls_from_block_to_block(overrides, blocks):
    more = ("backbone.weights=none", "optim.lr=1", "optim.ref_batch=null", "optim.head_lr_mult=3")
    config = composed(*overrides, *more, "optim.layer_decay=0.5", "vmp.lr_mult=7")
    model = build_model(config, 3)
    groups = build_optimizer(config, model).param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert len(rates) == sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert {rates[id(p)] for p in model.prompts.parameters()} == {7}
    backbone = dict(model.backbone.named_parameters())
    head = {id(backbone[f"{model.backbone.head_name}.{name}"]) for name in ("weight", "bias")}
    assert {rates[i] for i in head} == {3}
    found = blocks_of(model.backbone)
    assert len(found) == blocks
    for depth, block in enumerate(found):
        assert {rates[id(p)] for p in block if id(p) not in head} <= {0.5 ** (blocks - 1 - depth)}


def test_a_network_inside_a_wrapper_has_the_blocks_of_the_network():
    network = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4), nn.Linear(4, 2))
    wrapper = nn.Module()
    wrapper.net = network
    assert [list(map(id, block)) for block in blocks_of(wrapper)] == [
        [id(p) for p in part.parameters()] for part in network
    ]


def test_the_stages_of_torchvisions_networks_are_blocks():
    from torchvision.models.video import swin3d_t

    with torch.device("meta"):
        model = swin3d_t(num_classes=2)
    stages = [
        list(stage.parameters()) for stage in model.features
    ]  # four, and what merges patches between them
    after = [*model.norm.parameters(), *model.head.parameters()]
    wanted = [list(model.patch_embed.parameters()), *stages, after]
    assert [list(map(id, block)) for block in blocks_of(model)] == [list(map(id, b)) for b in wanted]


def test_training_ends_when_patience_does():
    plan = TrainingPlan(epochs=9, batch=2, micro_batch=2, world=1, clips=6, seed=0, patience=2)
    over = lambda step, evaluated, best: plan.is_over(  # noqa: E731
        TrainingState(step=step, evaluated=evaluated, best_epoch=best)
    )
    assert not over(0, 0, 0)
    assert not over(6, 2, 1)
    assert over(9, 3, 1)
    assert not over(9, 2, 1)  # the third epoch is not validated yet
    assert not over(10, 3, 1)
    assert over(27, 8, 8)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("train.sampling=balanced", "train.class_weights=balanced"), "make up for rare classes"),
        (("vmp=oracle", "augment=strong"), "masks that vmp=oracle has"),
        (("augment.rand_magnitude=31",), "less than or equal to 30"),
    ],
)
def test_what_does_not_go_together_is_refused(overrides, message):
    with pytest.raises(Exception, match=message):
        composed(*overrides)


def test_runs_from_before_these_keys_are_still_the_same_runs():
    plain = raw()
    matters = what_matters(plain)
    assert "augment" not in matters
    assert not {"ema", "ema_warmup", "patience", "sampling", "class_weights"} & set(matters["train"])
    assert "layer_decay" not in matters["optim"]
    old = {key: value for key, value in plain.items() if key != "augment"}
    assert check(old) == check(plain)
    assert what_matters(raw("augment.mixup=0.2"))["augment"] == {"mixup": 0.2}
    gym = raw("dataset=finegym")  # whose runs had a split, of null
    assert what_matters(gym) == what_matters(gym | {"dataset": gym["dataset"] | {"split": None}})


# --- top-5 by class --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 7])
def test_top5_by_class_is_kept_where_there_are_more_than_five_classes(data, tmp_path, classes):
    manifest = read_manifest(data / "val.csv")
    split = Split(
        "val", replace(manifest, classes=tuple("abcdefg"[:classes])), find_clips(manifest, max_bad_fraction=0)
    )
    values = np.tile(
        np.arange(classes, dtype=np.float32), (9, 1)
    )  # the last class is the best, the first the worst
    values[0] = 0  # but for one clip of the first class
    write_scores(Scores(np.arange(9), values, np.zeros(9), {}, None), split, tmp_path)
    rows = read_per_class(tmp_path)
    assert [(row["clips"], row["right"]) for row in rows[:2]] == [
        ("5", "1"),
        ("4", "4" if classes == 2 else "0"),
    ]
    top5 = [(row.get("right_top5"), row.get("accuracy_top5")) for row in rows]
    assert top5 == ([(None, None)] * 2 if classes == 2 else [("1", "20.00"), ("0", "0.00"), *[("0", "")] * 5])


# --- whole runs ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_with_all_of_them_on_a_killed_run_ends_with_the_same_bits(data, tmp_path):
    options, out = (*ALL, "trainer.workers=1"), tmp_path / "out"
    panels = ("logger=tensorboard", "logger.panels_every=50", "logger.max_panels=1")
    done = start(data, tmp_path / "alone", *options, *panels).succeed()
    alone = folder(tmp_path / "alone")
    last = [row for row in read_metrics(alone) if row["kind"] == "val"][-1]
    assert last["epoch"] == read_result(alone)["best_val_epoch"] + 1 < 12  # patience ended it
    drawn = tensorboard_events(alone)
    tags = [tag for tag in drawn.Tags()["images"] if tag.startswith("attention")]
    assert [{image.step for image in drawn.Images(tag)} for tag in tags] == [{0, last["step"]}]
    for moves in (9, 6):  # rows and saves; few, or on a busy machine the run ends before it is hit
        process = start(data, out, *options)
        until_it_moves(process, out, progress(out), moves=moves)
        process.signal(signal.SIGKILL)
        assert process.wait().returncode == -signal.SIGKILL
    done = start(data, out, *options).succeed()
    assert "continuing from step_" in done.stdout
    assert not differences(alone, folder(out))


@pytest.mark.slow
def test_and_with_two_processes(data, tmp_path):
    options = (*ALL, "trainer.epochs=2")
    outs = [tmp_path / "alone", tmp_path / "out"]
    start_ranks(data, outs[0], *options, ranks=2).succeed()
    ranks = start_ranks(data, outs[1], *options, ranks=2)
    wait_for(lambda: list((folder(outs[1]) / "checkpoints").glob("step_0000000[89]*")), ranks)
    ranks.signal(signal.SIGKILL)
    ranks.wait()
    start_ranks(data, outs[1], *options, ranks=2).succeed()
    assert "continuing from step_" in (folder(outs[1]) / "log.txt").read_text()
    assert not differences(*map(folder, outs))


@pytest.mark.slow
def test_patience_without_validation_and_odd_micro_batches_are_refused(data, tmp_path):
    done = run(data, tmp_path / "a", "augment.mixup=0.8", "trainer.micro_batch=1")
    assert done.returncode == 2
    assert "mix the clips of a micro-batch in pairs" in done.stderr
    home = without_validation(data, tmp_path / "data")
    done = run(home, tmp_path / "b", "train.patience=3")
    assert done.returncode == 2
    assert "train.patience = 3: the dataset has no validation split" in done.stderr
