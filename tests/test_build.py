"""From a config to objects: parameter groups of the optimizer, and what is decoded for a view."""

import pytest
from configs import composed

from vmp.errors import ConfigError


@pytest.mark.parametrize(
    ("overrides", "decays"),
    [
        # backbone, norm layers, m and n
        (("backbone=c2d", "backbone.width=8"), {"rest": 1e-4, "norms": 0.0, "prompts": 1e-4}),
        (
            ("backbone=x3d", "backbone.size=xs", "backbone.width=8"),
            {"rest": 5e-5, "norms": 0.0, "prompts": 5e-5},
        ),
        (
            ("backbone=timesformer", "backbone.dim=24", "backbone.depth=1", "backbone.heads=3"),
            {"rest": 1e-4, "norms": 1e-4, "prompts": 1e-4},
        ),
        (
            ("optim=sgd_cosine", "vmp.weight_decay=0", "vmp.lr_mult=10"),
            {"rest": 1e-4, "norms": 0.0, "prompts": 0.0},
        ),
        (("optim=sgd_cosine", "optim.head_lr_mult=5"), {"rest": 1e-4, "norms": 0.0, "prompts": 1e-4}),
        (("optim=adamw_cosine", "vmp.weight_decay=0"), {"rest": 0.05, "norms": 0.0, "prompts": 0.0}),
    ],
)
def test_weight_decay_and_learning_rate_by_group(overrides, decays):
    from torch import nn

    from vmp.build import build_model, build_optimizer

    config = composed(*overrides, "trainer.batch_size=16")
    model = build_model(config, 5)
    optimizer = build_optimizer(config, model)
    if "optim=adamw_cosine" in overrides:
        assert type(optimizer).__name__ == "AdamW"
        assert optimizer.defaults["betas"] == (0.9, 0.999)
    else:
        assert type(optimizer).__name__ == "SGD"
        assert (optimizer.defaults["momentum"], optimizer.defaults["nesterov"]) == (0.9, True)
    norms = {
        id(p)
        for m in model.modules()
        if isinstance(m, nn.BatchNorm3d | nn.LayerNorm)
        for p in m.parameters(recurse=False)
    }
    prompts = {id(p) for p in model.prompts.parameters()}
    head = {id(p) for p in model.backbone.get_submodule(model.backbone.head_name).parameters()}
    assert norms
    lr = config.optim.lr * 16 / (config.optim.ref_batch or 16)  # follows the batch
    seen = set()
    for group in optimizer.param_groups:
        for p in group["params"]:
            what = "norms" if id(p) in norms else "prompts" if id(p) in prompts else "rest"
            assert group["weight_decay"] == decays[what], what
            factor = config.vmp.lr_mult if what == "prompts" else 1
            factor = config.optim.head_lr_mult if id(p) in head else factor
            assert group["lr"] == pytest.approx(lr * factor)
            seen.add(id(p))
    assert seen == {id(p) for p in model.parameters()}


def test_a_model_of_which_nothing_is_trained_is_refused():
    from vmp.build import build_model, build_optimizer

    config = composed("vmp=none")
    model = build_model(config, 5).requires_grad_(False)
    with pytest.raises(
        ConfigError, match=r"nothing to train: no parameter of backbone=tiny .*vmp=none has none"
    ):
        build_optimizer(config, model)


@pytest.mark.parametrize(
    ("backbone", "crops", "side", "crop"),
    [
        ("timesformer", 3, 224, 224),
        ("timesformer", 1, 256, 224),
        ("slowfast", 3, 256, 256),
        ("slowfast", 1, 256, 256),
        ("x3d", 1, 256, 256),
        ("tiny", 1, 40, 40),
    ],
)
def test_a_single_crop_is_the_centre_of_a_larger_picture(backbone, crops, side, crop):
    import torch

    from vmp.build import build_model, clip_shape

    config = composed(f"backbone={backbone}")
    with torch.device("meta"):
        model = build_model(config, 5)
    shape = clip_shape(config, model, crops=crops)
    assert (shape.test_side, shape.test_crop) == (side, crop)
    frames = {"timesformer": 9, "slowfast": 33, "x3d": 17, "tiny": 9}[backbone]
    assert shape.frames == frames


def test_drawn_starts_follow_the_seed_and_the_default_does_not():
    from vmp.prompts import build_prompts

    def starts(*overrides: str) -> list[tuple[float, float]]:
        found = []
        for seed in (0, 0, 1):
            config = composed(*overrides, f"seed={seed}")
            layer = build_prompts(config)["video"]
            found.append((layer.m.item(), layer.n.item()))
        return found

    first, again, other = starts("vmp.m=draw", "vmp.n=draw")
    assert first == again
    assert first != other
    assert starts() == [pytest.approx((1.5410, -0.2934))] * 3
