"""The camera's motion, against the pan that the generator of `motions` made and against motions made by hand."""

import numpy as np
import pytest
import torch

from vmp.data.motions import Motions, motion_of, render_clip
from vmp.extensions import compensate
from vmp.extensions.compensate import camera_motion, warp
from vmp.extensions.layer import ExtendedPrompt
from vmp.layer import MotionPrompt

SPEC = Motions(train=12, val=10, test=10, frames=8, size=40, camera="moving", noise=6.0)


def smooth_texture(size: int, *, seed: int = 0) -> torch.Tensor:
    """(size, size) in [0, 1], band-limited, so that bilinear interpolation is nearly exact."""
    y, x = np.mgrid[:size, :size] / size
    rng = np.random.default_rng(seed)
    waves = sum(
        np.cos(2 * np.pi * (rng.integers(-4, 5) * x + rng.integers(-4, 5) * y + rng.random()))
        for _ in range(8)
    )
    return torch.from_numpy(0.5 + waves / 16).float()


def clip_of(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(1, 3, T, H, W) uint8 before encoding, and the camera's true way between its frames, (T - 1, 2)."""
    frames, _ = render_clip(SPEC, "train", index)
    camera = motion_of(SPEC, "train", index).camera
    return torch.from_numpy(frames).permute(3, 0, 1, 2)[None], torch.from_numpy(
        np.diff(camera, axis=0)
    ).float()


@pytest.mark.parametrize("kind", ["translation", "affine"])
def test_the_estimate_is_the_pan_of_the_generator_under_noise_and_moving_objects(kind):
    layer, errors, pans = ExtendedPrompt(compensate=kind), [], []
    for index in range(SPEC.train):
        clip, true = clip_of(index)
        grey = layer.grey_frames(clip)[0]
        found = camera_motion(grey[:-1], grey[1:], kind=kind)[:, :, 2]
        errors.append((found - true).norm(dim=1))
        pans.append(true.norm(dim=1))
    error, pan = torch.cat(errors), torch.cat(pans)
    assert pan.median() > 0.4  # there is something to undo
    assert error.median() < 0.2
    assert error.quantile(0.9) < 0.45


@pytest.mark.parametrize("shift", [(7, -3), (-11, 0)])
def test_large_translations_are_found_to_the_pixel(shift):
    big = smooth_texture(96)
    x, y = shift
    earlier, later = big[20:68, 20:68], big[20 + y : 68 + y, 20 + x : 68 + x]
    found = camera_motion(earlier[None], later[None], kind="translation")[0]
    torch.testing.assert_close(found[:, 2], torch.tensor([float(x), float(y)]), atol=0.05, rtol=0)
    assert not found[:, :2].any()


def test_an_affine_motion_is_found_and_undone():
    """A zoom of 4 % and a turn of 2 degrees about the middle, with a pan of 1.3 pixels."""
    true = torch.tensor([[[0.04, -0.035, 1.0], [0.035, 0.04, -0.8]]])
    earlier = smooth_texture(64)[None]
    later, _ = warp(earlier, true)
    found = camera_motion(earlier, later, kind="affine")
    torch.testing.assert_close(found[..., 2], true[..., 2], atol=0.1, rtol=0)
    torch.testing.assert_close(found[..., :2], true[..., :2], atol=0.005, rtol=0)
    undone, seen = warp(earlier, found)
    left = ((later - undone) * seen).abs()[:, 4:-4, 4:-4].mean()  # the border of `later` is repeated pixels
    assert left < 0.05 * (later - earlier).abs().mean()


def test_warp_is_bilinear_interpolation():
    frames = torch.rand(2, 16, 18)
    motion = torch.zeros(2, 2, 3)
    motion[0, :, 2] = torch.tensor([1.0, -2.0])
    motion[1, 0, 2] = 0.25
    moved, seen = warp(frames, motion)
    torch.testing.assert_close(moved[0, 2:, :-1], frames[0, :-2, 1:])
    torch.testing.assert_close(moved[1, :, :-1], 0.75 * frames[1, :, :-1] + 0.25 * frames[1, :, 1:])
    assert seen[0].equal(
        torch.ones(16, 18).index_fill(0, torch.tensor([0, 1]), 0).index_fill(1, torch.tensor([17]), 0)
    )


def test_a_still_camera_leaves_the_layer_as_it_is():
    """A noiseless moving square on a still scene: the differences of the plain layer."""
    clip = (smooth_texture(40)[None, None, None] * 255).expand(1, 3, 4, 40, 40).clone()
    for t in range(4):
        clip[:, :, t, 10:18, 8 + 3 * t : 16 + 3 * t] = 230
    clip = clip.to(torch.uint8)
    plain, compensated = MotionPrompt()(clip), ExtendedPrompt(compensate="translation")(clip)
    torch.testing.assert_close(compensated.prompts, plain.prompts, atol=0.02, rtol=0.02)
    torch.testing.assert_close(compensated.variation, plain.variation, atol=1e-3, rtol=0.05)


def test_a_moving_camera_gives_less_attention_to_the_scene_and_slope_and_shift_learn():
    clip, _ = clip_of(3)
    plain, compensated = MotionPrompt(), ExtendedPrompt(compensate="translation")
    assert compensated.differences(clip).abs().mean() < 0.85 * plain.differences(clip).abs().mean()
    out = compensated(clip)
    (out.prompts.square().mean() + out.variation).backward()
    assert compensated.m.grad.abs() > 0
    assert compensated.n.grad.abs() > 0


def test_blank_frames_have_no_motion():
    blank = torch.zeros(1, 3, 3, 32, 32, dtype=torch.uint8)
    for kind in ("translation", "affine"):
        assert not ExtendedPrompt(compensate=kind).differences(blank).any()


def test_frames_that_are_too_small_and_kinds_that_there_are_not():
    with pytest.raises(ValueError, match="at least 16 per side"):
        ExtendedPrompt(compensate="translation")(torch.zeros(1, 3, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="compensate = 'rotation': must be one of none, translation, affine"):
        ExtendedPrompt(compensate="rotation")


@pytest.mark.parametrize("kind", ["translation", "affine"])
def test_autocast_changes_no_difference(kind):
    """In bfloat16 the places of these pixels would be rounded to a quarter of a pixel, and so would the motion."""
    big = smooth_texture(96)
    frames = torch.stack([big[2 * t : 2 * t + 64, 20 - 3 * t : 84 - 3 * t] for t in range(4)])
    clip = (255 * frames).to(torch.uint8).expand(1, 3, 4, 64, 64)
    layer = ExtendedPrompt(compensate=kind)
    differences = layer.differences(clip)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer.differences(clip), differences)


@pytest.mark.parametrize("pixels", [35, 36])
def test_the_median_is_the_lower_middle_of_what_is_seen(pixels):
    g = torch.Generator().manual_seed(0)
    values, seen = (
        torch.rand(20, pixels, 2, generator=g),
        (torch.rand(20, pixels, 2, generator=g) < 0.5).float(),
    )
    seen[3] = 0
    found = compensate._median(values, seen)
    assert found.shape == (20, 1, 1)
    for each, value, mask in zip(found.flatten().tolist(), values, seen, strict=True):
        there = sorted(value[mask > 0].tolist())
        assert each == (there[(len(there) - 1) // 2] if there else 0)
    compiled = torch.where(seen > 0, values, torch.nan).flatten(1).nanmedian(1).values.nan_to_num(0.0)
    assert torch.equal(found.flatten(), compiled)
