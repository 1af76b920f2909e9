"""Prompts on feature maps and the siblings of V, against their equations in numpy, float64 and finite differences."""

import numpy as np
import pytest
import torch
from configs import composed, raw
from omegaconf import OmegaConf
from runs import QUICK, Running
from test_extensions import START, clips, grey, sigmoid

from vmp.build import build_model, build_optimizer
from vmp.engine import checkpoint
from vmp.errors import ConfigError
from vmp.extensions.compensate import compensated_differences
from vmp.extensions.features import FeaturePrompt
from vmp.extensions.layer import ExtendedPrompt
from vmp.extensions.variations import total_variation
from vmp.figures.seen import look
from vmp.objective import Objective
from vmp.preflight import check_stage
from vmp.runs.open import open_prompts, open_run
from vmp.runs.start import start_weights


def maps(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scales = torch.tensor([0.1, 1.0, 30.0, 5.0], dtype=torch.float64)[: shape[1], None, None, None]
    return torch.randn(*shape, dtype=torch.float64, generator=generator) * scales


def attention_by_hand(x: np.ndarray) -> np.ndarray:
    """(B, C, T, H, W) -> (B, T - 1, H, W)."""
    b, channels, t, h, w = x.shape
    d = np.zeros((b, t - 1, h, w))
    for i in range(b):
        for c in range(channels):
            for step in range(t - 1):
                d[i, step] += ((x[i, c, step + 1] - x[i, c, step]) / (2 * x[i, c].std())) ** 2 / channels
    return sigmoid(np.sqrt(d))


def test_attention_prompts_and_variation_are_those_of_the_equations():
    x = maps(2, 4, 5, 3, 6)
    layer = FeaturePrompt(**START)
    out, a = layer(x), attention_by_hand(x.numpy())
    np.testing.assert_allclose(layer.attention(x).detach().numpy(), a, rtol=1e-4)
    weights = np.concatenate([a[:, :1], a], axis=1)[:, None]
    np.testing.assert_allclose(out.prompts.detach().numpy(), x.numpy() * weights, rtol=1e-4)
    np.testing.assert_allclose(out.variation.item(), np.mean(np.diff(a, axis=1) ** 2), rtol=1e-3)
    larger = FeaturePrompt(variation="frobenius", **START)(x).variation
    assert larger.item() == pytest.approx(18 * out.variation.item())


def test_gradients_are_those_of_finite_differences():
    layer = FeaturePrompt(**START).double()
    x = maps(2, 3, 4, 2, 2)

    def loss(x: torch.Tensor, m: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        out = torch.func.functional_call(layer, {"m": m, "n": n}, (x,))
        return out.prompts.sin().sum() + out.variation

    values = [v.detach().clone().requires_grad_() for v in (x, layer.m, layer.n)]
    assert torch.autograd.gradcheck(loss, values, eps=1e-6, atol=1e-5)
    still = torch.ones(1, 2, 3, 2, 2, requires_grad=True)  # where a square root has no derivative
    layer.float()(still).prompts.sum().backward()
    assert still.grad.isfinite().all()


def test_tokens_are_patches_by_their_frames_and_the_class_token_passes():
    x = maps(2, 4, 5, 6, 1)  # D = 4, T = 5, N = 6
    tokens = torch.cat(
        [torch.full((2, 1, 4), 7.0, dtype=x.dtype), x[..., 0].permute(0, 3, 2, 1).flatten(1, 2)], dim=1
    )
    layer = FeaturePrompt(**START)
    out, expected = layer.tokens(tokens, 5), layer(x)
    torch.testing.assert_close(out.prompts[:, 0], tokens[:, 0])
    torch.testing.assert_close(
        out.prompts[:, 1:], expected.prompts[..., 0].permute(0, 3, 2, 1).flatten(1, 2), rtol=1e-9, atol=0
    )
    torch.testing.assert_close(out.variation, expected.variation)


def untrained(*overrides: str):
    return composed("backbone.weights=none", *overrides)


@pytest.mark.parametrize(
    ("stage", "more"),
    [
        ("stages.1", []),
        ("stages.1", ["vmp.pixels=true"]),
        ("res3", ["backbone=i3d", "backbone.width=8", "backbone.blocks=1", "backbone.crop=32"]),
        (
            "blocks.0",
            [
                "backbone=timesformer",
                "backbone.dim=16",
                "backbone.depth=2",
                "backbone.heads=2",
                "backbone.crop=32",
            ],
        ),
    ],
    ids=["tiny", "tiny and pixels", "i3d", "timesformer"],
)
def test_a_stage_gets_prompts_and_its_variation_is_part_of_the_loss(stage, more):
    config = untrained("vmp=features", f"vmp.at={stage}", *more)
    check_stage(config)
    model = build_model(config, 5).eval()
    frames = 9 if config.vmp.pixels else 8
    clip = clips(frames=frames, size=config.backbone.spec.crop)
    out = model(clip)
    (layer,) = model.inside.values()
    module = model.backbone.get_submodule({"res3": "blocks.3"}.get(stage, stage))
    seen = []
    handle = module.register_forward_hook(lambda *a: seen.append(a[2]), prepend=True)  # before the prompts
    later = module.register_forward_hook(lambda *a: seen.append(a[2]))
    model(clip)
    handle.remove(), later.remove()
    before, after = seen
    found = layer(before) if before.dim() == 5 else layer.tokens(before, 8)
    torch.testing.assert_close(after, found.prompts)
    torch.testing.assert_close(out.variations[stage], found.variation)
    assert list(out.variations) == (["video", stage] if config.vmp.pixels else [stage])
    labels = torch.tensor([0, 1])
    terms = Objective(variation_weight=1e6)(out.logits, labels, out.variations)  # V is small on noise
    total = sum(out.variations.values()).item()
    assert terms["loss"].item() == pytest.approx(terms["cross_entropy"].item() + 1e6 * total)
    terms["loss"].backward()
    assert layer.m.grad.abs().item() > 0
    assert f"{stage}/slope" in model.scalars()
    assert any(p is layer.m for group in build_optimizer(config, model).param_groups for p in group["params"])


def test_still_maps_have_the_attention_of_no_difference():
    layer = FeaturePrompt(m=1.541, n=-0.2934)
    a = layer.attention(maps(1, 4, 1, 3, 3).expand(-1, -1, 4, -1, -1))
    np.testing.assert_allclose(a.detach().numpy(), sigmoid(np.zeros(1), m=1.541, n=-0.2934)[0], rtol=2e-3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["vmp=features"], "leave nothing to prompt; name a stage"),
        (
            ["vmp.at=stages.7"],
            "vmp.at = stages.7: the backbone has no such stage; it has stages.0, stages.1, ",
        ),
        (["vmp.at=head"], "vmp.at = head: has no feature maps of several times; these have: stages.0, "),
        (["backbone=i3d", "vmp.at=res6"], "it has res2, res3, res4, res5, blocks.0, "),
        (["backbone=timesformer", "vmp.at=norm"], "these have: blocks.0, blocks.1, "),
        (["backbone=slowfast", "vmp.at=res2"], "stages of slowfast have maps of several pathways"),
        (
            ["backbone=timesformer", "backbone.attention=space", "vmp.at=blocks.1"],
            "no block sees more than a frame",
        ),
        (["vmp=features", "vmp.at=stages.1", "vmp.form=two_sided"], "are about the frames"),
        (["vmp.regulariser=compensated", "vmp.compensate=affine"], "compensates twice"),
        (["vmp.regulariser=spatial", "vmp=other_clip"], "form and regulariser are about the clip's own"),
    ],
)
def test_stages_and_options_that_make_no_sense_end_before_training(overrides, message):
    with pytest.raises(ConfigError) as caught:
        check_stage(untrained(*overrides))
    assert message in str(caught.value)


def test_total_variation_is_its_sum_over_neighbours():
    a = torch.rand(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows, columns = [], []
    for one in a.numpy().reshape(-1, 4, 5):
        for y in range(4):
            for x in range(5):
                rows += [abs(one[y, x + 1] - one[y, x])] if x < 4 else []
                columns += [abs(one[y + 1, x] - one[y, x])] if y < 3 else []
    assert total_variation(a).item() == pytest.approx(np.mean(rows) + np.mean(columns))
    assert total_variation(a, reduction="frobenius").item() == pytest.approx(
        20 * (np.mean(rows) + np.mean(columns))
    )
    assert torch.autograd.gradcheck(total_variation, [a.requires_grad_()])


@pytest.mark.parametrize("kind", ["spatial", "compensated"])
def test_siblings_stand_for_v_and_leave_the_prompts_alone(kind):
    clip = clips(size=20)
    made, paper = ExtendedPrompt(regulariser=kind, **START), ExtendedPrompt(**START)
    out = made(clip)
    torch.testing.assert_close(out.prompts, paper(clip).prompts)
    f = grey(clip)
    if kind == "spatial":
        a = sigmoid(np.diff(f, axis=1))
        expected = np.abs(np.diff(a, axis=3)).mean() + np.abs(np.diff(a, axis=2)).mean()
    else:
        frames = torch.tensor(f, dtype=torch.float32)
        d = compensated_differences(frames[:, :-1], frames[:, 1:], kind="translation").double().numpy()
        expected = np.mean(np.diff(sigmoid(d), axis=1) ** 2)
    assert out.variation.item() == pytest.approx(expected, rel=1e-3)
    assert made(clip, variation=False).variation.item() == 0
    out.variation.backward()
    assert made.power_norm.m.grad.item() != 0


def test_the_compensated_sibling_has_the_spacings_of_the_attention():
    clip = clips(size=20)
    made = ExtendedPrompt(regulariser="compensated", scales=(1, 3), **START)
    with torch.no_grad():
        made.scale_logits.copy_(torch.tensor([0.0, np.log(3)]))  # weights 1/4 and 3/4
    frames = torch.tensor(grey(clip), dtype=torch.float32)
    t = frames.shape[1]
    attention = 0
    for weight, spacing in ((0.25, 1), (0.75, 3)):
        earlier = frames[:, [max(at - spacing, 0) for at in range(1, t)]]
        d = compensated_differences(earlier, frames[:, 1:], kind="translation").double().numpy()
        attention = attention + weight * sigmoid(d)
    out = made(clip)
    assert out.variation.item() == pytest.approx(np.mean(np.diff(attention, axis=1) ** 2), rel=1e-3)
    out.variation.backward()
    assert made.scale_logits.grad.abs().max() > 0


def test_the_compensated_sibling_leaves_the_camera_out():
    """A smooth picture that shakes: without the camera hardly anything changes."""
    y, x = np.mgrid[:48, :48] / 48
    picture = 0.5 + 0.4 * np.sin(9 * x + 2 * y) * np.cos(7 * y)
    shakes = [(8, 8), (10, 9), (7, 10), (9, 7), (8, 10)]
    clip = np.stack([picture[a : a + 32, b : b + 32] for a, b in shakes])
    clip = torch.tensor((255 * clip).astype(np.uint8))[None, None].expand(1, 3, -1, -1, -1)
    temporal, compensated = (
        ExtendedPrompt(regulariser=kind)(clip).variation.item() for kind in ("temporal", "compensated")
    )
    assert compensated < temporal / 10


def test_a_run_starts_with_what_prompts_of_another_learned_at_pixels_and_inside(tmp_path):
    """m, n, weights of spacings and heads, by place; what has no place here is named."""
    words = ["vmp=features", "vmp.pixels=true", "vmp.scales=[1,2]", "vmp.form=per_clip"]

    def start(*words: str):
        config = untrained(*words, f"init_from={tmp_path}")
        made = build_model(config, 2)
        return made, start_weights(config, made, ("a", "b"))

    OmegaConf.save(OmegaConf.create(raw(*words, "vmp.at=stages.1")), tmp_path / "config.yaml")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    config = untrained(*words, "vmp.at=stages.1")
    source = build_model(config, 2)
    torch.manual_seed(0)
    for parameter in source.parameters():
        torch.nn.init.normal_(parameter)
    checkpoint.save(tmp_path / "checkpoints", "step_1", model=source.state_dict(), state={"step": 1})

    same, told = start(*words, "vmp.at=stages.1")
    for name, value in source.state_dict().items():
        torch.testing.assert_close(same.state_dict()[name], value, rtol=0, atol=0)
    assert {"m", "n", "scale_logits", "head.0.weight", "stages_1/m", "stages_1/n"} <= set(told.prompts)
    assert not any("not loaded" in warning for warning in told.warnings)

    given, told = start(*words, "vmp.at=stages.1", "vmp.m=0.7")
    assert given.inside["stages_1"].m.item() == given.prompts["video"].m.item() == pytest.approx(0.7)
    assert given.inside["stages_1"].n.item() == source.inside["stages_1"].n.item()
    assert any("m, stages_1/m of the weights are not loaded" in warning for warning in told.warnings)

    other, told = start(*words[:2], "vmp.at=stages.0")
    assert other.prompts["video"].m.item() == source.prompts["video"].m.item()
    assert other.inside["stages_0"].m.item() == pytest.approx(1.541, abs=1e-3)
    (left,) = [warning for warning in told.warnings if "this model has no such layer" in warning]
    assert "scale_logits, stages_1/m, stages_1/n of the weights are not loaded" in left


@pytest.mark.slow
def test_a_run_with_prompts_inside_is_opened_with_what_it_learned(tmp_path):
    from runs import bright_or_dark

    data = bright_or_dark(tmp_path / "data", train=8, val=6)
    words = [*QUICK, f"dataset.folder={data}", f"output={tmp_path}", "trainer.epochs=1"]
    Running([*words, "vmp=features", "vmp.at=stages.1", "vmp.lr_mult=50"]).succeed()
    run = tmp_path / "manifest/tiny/features_stages.1_lambda1/seed0"
    opened = open_run(run)
    scalars = opened.model.scalars()
    assert scalars["stages.1/m"].item() != pytest.approx(1.541, abs=1e-4)
    assert opened.model(clips(frames=4, size=32)).variations["stages.1"] > 0
    assert not open_prompts(run).prompts
    Running([f"run={run}", "split=val", "device=cpu"], script="evaluate.py").succeed()
    video = next((data.parent / "data").rglob("*.mp4"))
    more = [["vmp.pixels=true", "vmp.at=stages.1", "vmp.n=0.5"], []]
    base = ["backbone=tiny", "backbone.weights=motions", "backbone.frames=4"]
    plain = composed(*base, "vmp=none")
    said = [look(composed(*base, *words), plain, video, fps=25).said for words in more]
    assert said[0]["plain frames"] == said[1]["plain frames"]
    assert said[0]["motion prompts"] != said[1]["motion prompts"]
