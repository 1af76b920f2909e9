"""Layers beyond the paper, against their equations written out in numpy, float64 and finite differences."""

import numpy as np
import pytest
import torch
from configs import composed
from runs import QUICK, Running

from vmp.errors import ConfigError
from vmp.extensions.layer import ExtendedPrompt
from vmp.extensions.patch import PatchPowerNorm
from vmp.extensions.per_clip import PerClip
from vmp.extensions.two_sided import TwoSided
from vmp.layer import MotionPrompt
from vmp.runs.open import open_prompts, open_run
from vmp.runs.sharing import write_shared

START = {"m": 0.7, "n": -0.2}


def clips(batch: int = 2, *, size: int = 16, frames: int = 6, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, frames, size, size), dtype=torch.uint8, generator=generator)


def grey(clip: torch.Tensor) -> np.ndarray:
    """(B, T+1, H, W) in [0, 1], float64."""
    r, g, b = (clip.double() / 255).numpy().transpose(1, 0, 2, 3, 4)
    return 0.299 * r + 0.587 * g + 0.114 * b


def sigmoid(x: np.ndarray, *, m: float = 0.7, n: float = -0.2) -> np.ndarray:
    slope, shift = 5 / (0.45 * abs(np.tanh(m)) + 0.1), 0.6 * np.tanh(n)
    return 1 / (1 + np.exp(-slope * (x - shift)))


def by_hand(kind: str, f: np.ndarray) -> np.ndarray:
    """Attention of a layer in its starting state, from grey frames: (B, T+1, H, W) -> (B, T, H, W)."""
    d = f[:, 1:] - f[:, :-1]
    if kind == "two_sided":
        return sigmoid(np.abs(d))
    if kind == "per_clip":
        return sigmoid(d)  # the network that moves slope and shift starts at nothing
    if kind == "multiscale":
        each = [
            sigmoid(np.stack([f[:, t + 1] - f[:, max(t + 1 - k, 0)] for t in range(f.shape[1] - 1)], 1))
            for k in (1, 2, 4)
        ]
        return np.mean(each, axis=0)
    b, t, h, w = d.shape
    patches = d.reshape(b, t, h // 4, 4, w // 4, 4)
    pooled = {
        "mean_abs": np.abs(patches).mean((3, 5)),
        "mean": patches.mean((3, 5)),
        "rms": np.sqrt((patches**2).mean((3, 5))),
    }[kind]
    return np.kron(sigmoid(pooled), np.ones((4, 4)))


def layer(kind: str, **more) -> ExtendedPrompt:
    if kind == "multiscale":
        return ExtendedPrompt(scales=(1, 2, 4), **START, **more)
    norm = {"two_sided": TwoSided, "per_clip": PerClip}.get(kind)
    made = norm(**START) if norm else PatchPowerNorm(patch=4, pool=kind, upsample="nearest", **START)
    return ExtendedPrompt(power_norm=made, **more)


KINDS = ("two_sided", "per_clip", "multiscale", "mean_abs", "mean", "rms")


@pytest.mark.parametrize("kind", KINDS)
def test_attention_prompts_and_variation_are_those_of_the_equations(kind):
    clip, made = clips(), layer(kind, mean=0.5, std=0.25)
    a = by_hand(kind, grey(clip))
    out = made(clip)
    np.testing.assert_allclose(made.attention(clip).detach().numpy(), a, rtol=1e-4, atol=1e-5)
    frames = (clip.double().numpy()[:, :, 1:] / 255 - 0.5) / 0.25
    np.testing.assert_allclose(out.prompts.detach().numpy(), a[:, None] * frames, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(out.variation.item(), np.mean(np.diff(a, axis=1) ** 2), rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind):
    made = layer(kind).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn(
                parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
            )
    clip = torch.randn(2, 3, 6, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.2
    names, values = zip(*made.named_parameters(), strict=True)

    def loss(*values: torch.Tensor) -> torch.Tensor:
        out = torch.func.functional_call(made, dict(zip(names, values, strict=True)), (clip,))
        return out.prompts.sin().sum() + out.variation

    assert torch.autograd.gradcheck(loss, values, eps=1e-6, atol=1e-5)


def test_one_spacing_without_compensation_is_the_layer_of_the_paper():
    clip = clips()
    for ours, theirs in zip(ExtendedPrompt(**START)(clip), MotionPrompt(**START)(clip), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_bilinear_patches_are_interpolated_between_their_middles():
    d = torch.zeros(1, 1, 8, 16)
    d[..., 8:] = 0.5
    low, high = sigmoid(np.array([0.0, 0.5]))
    middles = np.array([3.5, 11.5])  # of the two patches, in pixels
    a = PatchPowerNorm(patch=8, **START)(d)[0, 0].detach().numpy()
    np.testing.assert_allclose(a, np.tile(np.interp(np.arange(16), middles, [low, high]), (8, 1)), rtol=1e-4)


def test_each_place_of_the_grid_learns_its_own_slope_and_shift():
    made = ExtendedPrompt(power_norm=PatchPowerNorm(patch=4, grid=(4, 4), upsample="nearest"))
    made(clips())[0][..., :4, :4].square().sum().backward()
    assert made.power_norm.m.grad[0, 0] != 0
    assert made.power_norm.m.grad.count_nonzero() == 1
    assert set(made.scalars()) == {"slope", "shift", "m", "n"}


def test_histograms_have_the_shares_of_differences_and_tell_clips_apart():
    norm = PerClip()
    d = torch.zeros(3, 2, 10, 10)
    d[1] = 0.5
    d[2, 0] = -0.5
    shares = norm.histogram(d)
    torch.testing.assert_close(shares.sum(1), torch.ones(3))
    assert shares[1, -1] == 1
    assert shares[2, 0] == 0.5
    torch.nn.init.normal_(norm.head[2].weight, generator=torch.Generator().manual_seed(0))
    a = norm(d)
    assert a[0, 0, 0, 0] != a[2, 1, 0, 0]  # the same difference in other clips
    assert ((a >= 0) & (a <= 1)).all()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("vmp=patch", "vmp.patch=12"), "vmp.patch = 12: does not divide the frames' side of 40 pixels"),
        (("vmp=multiscale", "vmp.scales=[1,9]"), "clips have 9 frames, so spacings are at most 8"),
        (("vmp.scales=[2,2]",), "vmp.scales = [2, 2]: a spacing is there twice"),
        (
            ("vmp=two_sided", "vmp.attention_from=other_clip"),
            "no effect with vmp.attention_from = other_clip",
        ),
        (
            ("backbone=i3d", "vmp=patch", "vmp.patch=32", "vmp.patch_scalars=position"),
            "224 pixels per side in training and 256 in testing",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_training(overrides, message):
    with pytest.raises(ConfigError) as refused:
        composed(*overrides)
    assert message in str(refused.value)


@pytest.mark.parametrize(("patch", "size"), [(5, 16), (4, 12)])
def test_patches_that_do_not_fill_the_frames_are_refused_by_the_layer_too(patch, size):
    norm = PatchPowerNorm(patch=patch, grid=(4, 4))
    with pytest.raises(ValueError, match=r"do not fill them|slope and shift were made for 4 x 4"):
        norm(torch.zeros(1, 1, size, size))


@pytest.mark.slow
@pytest.mark.parametrize(
    "form",
    [
        ["vmp=compensated"],
        ["vmp=two_sided", "vmp.compensate=affine", "vmp.name=both"],
        ["vmp=multiscale"],
        ["vmp=patch", "vmp.patch=8", "vmp.patch_scalars=position"],
        ["vmp=per_clip"],
        ["vmp=other_clip"],
    ],
    ids=lambda form: form[0],
)
def test_runs_train_and_are_opened_with_what_they_learned(data, tmp_path, form):
    overrides = [*QUICK, f"dataset.folder='{data}'", f"output='{tmp_path}'", "trainer.epochs=1", *form]
    Running(overrides).succeed()
    (result,) = tmp_path.glob("manifest/tiny/*/seed0/result.json")
    trained = open_run(result.parent).model.prompts["video"]
    drawn = open_prompts(result.parent).model.prompts["video"]
    clip = clips(size=32, frames=5)
    torch.testing.assert_close(drawn.attention(clip), trained.attention(clip), rtol=1e-3, atol=1e-5)
    write_shared(result.parent, tmp_path / "shared", name="mine")
    shared = open_prompts(tmp_path / "shared").model.prompts["video"]
    torch.testing.assert_close(shared.attention(clip), trained.attention(clip), rtol=1e-3, atol=1e-5)
