"""Control arms: constant attention, and attention from another clip."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vmp.controls import Constant, OraclePrompt, OtherClipPrompt
from vmp.layer import MotionPrompt, normalize
from vmp.model import PromptedClassifier
from vmp.pathways import pathway_frames


def clips(batch: int, *, size: int = 6, frames: int = 4, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, frames, size, size), dtype=torch.uint8, generator=generator)


def attention_by_hand(clip: torch.Tensor, slope: float, shift: float) -> torch.Tensor:
    """(3, T+1, H, W) uint8 -> (T, H, W)."""
    r, g, b = clip.double() / 255
    grey = 0.299 * r + 0.587 * g + 0.114 * b
    return torch.sigmoid(slope * (grey[1:] - grey[:-1] - shift))


def other_clip_layer() -> OtherClipPrompt:
    return OtherClipPrompt(m=0.7, n=-0.2, mean=0.5, std=0.5)


def test_level_1_is_the_clip_without_its_first_frame():
    layer = MotionPrompt(power_norm=Constant(1.0), mean=0.5, std=0.5)
    out = layer(clips(2))
    torch.testing.assert_close(out.prompts, normalize(clips(2)[:, :, 1:], 0.5, 0.5))
    assert out.variation == 0
    half = MotionPrompt(power_norm=Constant(0.5), mean=0.5, std=0.5)(clips(2)).prompts
    torch.testing.assert_close(half, out.prompts / 2)


def test_a_level_without_sense():
    for level in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="level"):
            Constant(level)


def test_in_training_the_attention_is_the_neighbours():
    layer, batch = other_clip_layer().train(), clips(3)
    slope, shift = layer.slope.item(), layer.shift.item()
    frames = normalize(batch[:, :, 1:], 0.5, 0.5).double()
    out = layer(batch)
    for i in range(3):
        wanted = attention_by_hand(batch[i - 1], slope, shift) * frames[i]
        torch.testing.assert_close(out.prompts[i].double(), wanted, rtol=1e-4, atol=1e-5)
    out.prompts.square().sum().backward()
    assert layer.m.grad.abs() > 0
    assert layer.n.grad.abs() > 0


def test_in_testing_the_attention_is_of_one_training_clip_whatever_is_scored_beside_it():
    layer, trained = other_clip_layer().train(), clips(3)
    layer(trained)
    layer.eval()
    tested = clips(4, seed=1)
    slope, shift = layer.slope.item(), layer.shift.item()
    alone = torch.cat([layer(clip[None]).prompts for clip in tested])
    torch.testing.assert_close(layer(tested).prompts, alone, rtol=0, atol=0)
    wanted = attention_by_hand(trained[-1], slope, shift) * normalize(tested[:, :, 1:], 0.5, 0.5).double()
    torch.testing.assert_close(alone.double(), wanted, rtol=1e-4, atol=1e-5)
    assert layer(clips(1, size=9)).prompts.shape == (1, 3, 3, 9, 9)


def test_what_testing_needs_is_part_of_the_state():
    layer = other_clip_layer().train()
    layer(clips(2))
    copy = other_clip_layer()
    copy.load_state_dict(layer.state_dict())
    tested = clips(2, seed=1)
    torch.testing.assert_close(copy.eval()(tested), layer.eval()(tested), rtol=0, atol=0)
    untrained = other_clip_layer().eval()
    still = torch.sigmoid(-untrained.slope * untrained.shift).item()
    torch.testing.assert_close(
        untrained(tested).prompts, still * normalize(tested[:, :, 1:], 0.5, 0.5), rtol=1e-4, atol=1e-5
    )


def test_a_single_clip_in_training_takes_the_one_before_it():
    layer, first, second = other_clip_layer().train(), clips(1), clips(1, seed=1)
    layer(first)
    out = layer(second)
    wanted = attention_by_hand(first[0], layer.slope.item(), layer.shift.item())
    torch.testing.assert_close(
        out.prompts[0].double(),
        wanted * normalize(second[:, :, 1:], 0.5, 0.5)[0].double(),
        rtol=1e-4,
        atol=1e-5,
    )


def test_drawing_the_start_of_a_run_leaves_no_clip_in_the_layer():
    """The pictures of a tracker must not change what is trained."""
    from vmp.session import Session

    drawn: list[Any] = []
    model = PromptedClassifier(torch.nn.Identity(), prompts={"video": other_clip_layer()}).train()
    clip = SimpleNamespace(id="a")
    split = SimpleNamespace(
        test_clips=lambda *_: [(0, clips(1), torch.ones(1))], present=SimpleNamespace(clips=[clip])
    )
    tracker = SimpleNamespace(
        wants_panels=lambda *_, **__: True, log_panels=lambda epoch, step, pictures: drawn.extend(pictures)
    )
    parts: dict[str, Any] = {
        "config": SimpleNamespace(logger=SimpleNamespace(max_panels=1)),
        "splits": {"val": split},
        "log": SimpleNamespace(warn=pytest.fail),
        "tracker": tracker,
        "plan": SimpleNamespace(steps_per_epoch=1),
        **dict.fromkeys(("processes", "stopping")),
    }
    Session(**parts, model=model).show_attention(0, last=1)
    assert len(drawn) == 1
    assert not model.get_submodule("prompts.video").kept.numel()


def test_true_attention_is_where_the_object_was_and_is():
    layer, batch = (
        OraclePrompt(low=0.25, mean=0.5, std=0.5),
        torch.cat([clips(2), clips(2, seed=1)[:, :1]], dim=1),
    )
    colours, masks = batch[:, :3], batch[:, 3].double() / 255
    out = layer(batch)
    wanted = torch.stack([0.25 + 0.75 * torch.maximum(masks[:, t], masks[:, t + 1]) for t in range(3)], dim=1)
    torch.testing.assert_close(layer.attention(batch).double(), wanted, rtol=1e-5, atol=1e-6)
    frames = normalize(colours[:, :, 1:], 0.5, 0.5).double()
    torch.testing.assert_close(out.prompts.double(), wanted[:, None] * frames, rtol=1e-4, atol=1e-5)
    steps = (wanted[:, 1:] - wanted[:, :-1]).square().mean()
    torch.testing.assert_close(out.variation.double(), steps, rtol=1e-4, atol=1e-6)
    assert not list(layer.parameters())
    with pytest.raises(ValueError, match="fourth channel"):
        layer(colours)
    with pytest.raises(ValueError, match="low"):
        OraclePrompt(low=1.0)


def test_a_pathway_without_prompts_does_not_see_the_masks():
    class Both(torch.nn.Module):
        def forward(self, pathways):
            self.seen = pathways
            return pathways[0].flatten(1)[:, :2]

    backbone = Both()
    prompts = {"slow": OraclePrompt(low=0.0, mean=0.5, std=0.5)}
    model = PromptedClassifier(
        backbone,
        prompts=prompts,
        pathway_frames=pathway_frames(frames=8, alpha=4, prompted=["slow"]),
        mean=0.5,
        std=0.5,
    )
    batch = torch.randint(
        0, 256, (2, 4, 9, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    model(batch)
    slow, fast = backbone.seen
    assert slow.shape == (2, 3, 2, 6, 6)
    torch.testing.assert_close(fast, normalize(batch[:, :3, 1:], 0.5, 0.5), rtol=0, atol=0)
