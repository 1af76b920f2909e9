"""Eq. 7 as named terms, and that lambda = 0 asks nothing of the layer."""

import pytest
import torch
import torch.nn.functional as F

from vmp import MotionPrompt, Objective, PromptedClassifier
from vmp.backbones import build_backbone


def small_model(**options) -> PromptedClassifier:
    torch.manual_seed(0)
    backbone = build_backbone("tiny", num_classes=4, width=4, dropout=0.0)
    return PromptedClassifier(backbone, prompts={"video": MotionPrompt(m=0.5, n=0.1)}, **options)


def test_equation_7():
    logits, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    v = {"slow": torch.tensor(0.25), "fast": torch.tensor(0.5)}
    terms = Objective(variation_weight=2.5)(logits, labels, v)
    cross_entropy = F.cross_entropy(logits, labels)
    assert terms["cross_entropy"].item() == pytest.approx(cross_entropy.item())
    assert terms["variation"].item() == pytest.approx(0.75)
    assert terms["loss"].item() == pytest.approx(cross_entropy.item() + 2.5 * 0.75, rel=1e-6)


def test_lambda_zero_is_cross_entropy_and_nothing_else():
    logits, labels = torch.randn(5, 4, requires_grad=True), torch.tensor([0, 1, 2, 3, 0])
    v = torch.tensor(0.25, requires_grad=True)
    terms = Objective()(logits, labels, {"video": v})
    assert terms["loss"] is terms["cross_entropy"]
    terms["loss"].backward()
    assert v.grad is None
    model = small_model(variation_in_training=False).train()
    clips = torch.randint(0, 256, (2, 3, 9, 32, 32), dtype=torch.uint8)
    assert model(clips).variations == {}
    assert set(model.eval()(clips).variations) == {"video"}  # evaluation always measures it


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_wrong_weights_are_told(weight):
    with pytest.raises(ValueError, match="lambda"):
        Objective(variation_weight=weight)


def test_the_baseline_is_the_backbone_on_normalised_frames():
    torch.manual_seed(0)
    backbone = build_backbone("tiny", num_classes=4, width=4, dropout=0.0)
    clips = torch.randint(0, 256, (2, 3, 8, 32, 32), dtype=torch.uint8)
    model = PromptedClassifier(backbone)
    assert model.scalars() == {}
    torch.testing.assert_close(model(clips).logits, backbone((clips / 255 - 0.45) / 0.225))


def test_prompts_take_one_more_frame_and_the_loss_reaches_them():
    model = small_model().train()
    assert set(model.scalars()) == {"slope", "shift", "m", "n"}
    clips = torch.randint(0, 256, (2, 3, 9, 32, 32), dtype=torch.uint8)
    out = model(clips)
    terms = Objective(variation_weight=1.0)(out.logits, torch.tensor([0, 1]), out.variations)
    terms["loss"].backward()
    layer = model.prompts["video"]
    assert layer.m.grad.abs().item() > 0
    assert layer.n.grad.abs().item() > 0


@pytest.mark.slow
def test_the_whole_model_compiles_to_one_graph():
    torch._dynamo.reset()
    model = small_model().eval()
    clips = torch.randint(0, 256, (2, 3, 9, 32, 32), dtype=torch.uint8)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(clips).logits, model(clips).logits, rtol=1e-4, atol=1e-5)
