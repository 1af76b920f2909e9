"""The layer against float64 NumPy, finite differences and the paper's own derivatives."""

import copy
import itertools
import math
import pickle
import warnings

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import vmp
import vmp.layer as layer_module
from vmp import MotionPrompt, temporal_attention_variation
from vmp.controls import OtherClipPrompt
from vmp.extensions.layer import ExtendedPrompt
from vmp.kernels import one_pass
from vmp.layer import Prompted, compute_prompts, normalize
from vmp.power_norm import LearnedPowerNorm, SigmE

MEAN, STD = 0.45, 0.225


def pixels(b=2, t=4, h=6, w=5, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (b, 3, t + 1, h, w), dtype=np.uint8)


def as_float(clip: np.ndarray, dtype=torch.float64) -> torch.Tensor:
    return ((torch.from_numpy(clip).double() / 255 - MEAN) / STD).to(dtype)


def run_plain(layer: MotionPrompt, clip: torch.Tensor):
    return compute_prompts(layer, clip, layer.power_norm, variation=True)


@pytest.mark.parametrize("way", [lambda layer, clip: layer(clip), run_plain], ids=["one_pass", "plain"])
@pytest.mark.parametrize("t", [1, 2, 3, 8])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.uint8, 1e-5), (torch.float64, 1e-12), (torch.float32, 1e-5)],
)
def test_equations_1_to_6(way, t, dtype, tolerance):
    clip = pixels(t=t, seed=t)
    m, n = 0.7, -0.4
    normalized, pixel, attention, v_mean, v_frobenius = reference.prompts(clip / 255, m, n)
    x = torch.from_numpy(clip) if dtype == torch.uint8 else as_float(clip, dtype)
    for modulate, expected in (("normalized", normalized), ("pixel", pixel)):
        for variation, v in (("mean", v_mean), ("frobenius", v_frobenius)):
            layer = MotionPrompt(modulate=modulate, variation=variation)
            layer = layer.double() if dtype == torch.float64 else layer
            torch.nn.init.constant_(layer.m, m), torch.nn.init.constant_(layer.n, n)
            out = way(layer, x)
            np.testing.assert_allclose(out.prompts.detach(), expected, atol=tolerance * 10)
            np.testing.assert_allclose(out.variation.item(), v, rtol=tolerance * 10, atol=1e-15)
            np.testing.assert_allclose(layer.attention(x).detach(), attention, atol=tolerance * 10)
            assert out.prompts.dtype == (torch.float32 if dtype == torch.uint8 else dtype)


def test_channel_means_and_grey_order():
    clip, mean, std = pixels(), (0.4, 0.5, 0.45), (0.2, 0.25, 0.3)
    swapped = reference.LUMA[::-1]
    grey = np.einsum("bcthw,c->bthw", clip / 255, swapped)
    a = reference.power_norm(np.diff(grey, axis=1), 1.5, 0.2)
    shape = (1, 3, 1, 1, 1)
    frames = (clip[:, :, 1:] / 255 - np.reshape(mean, shape)) / np.reshape(std, shape)
    for modulate in ("normalized", "pixel"):
        layer = MotionPrompt(m=1.5, n=0.2, mean=mean, std=std, grey="bgr", modulate=modulate)
        expected = a[:, None] * frames
        if modulate == "pixel":
            expected = (a[:, None] * clip[:, :, 1:] / 255 - np.reshape(mean, shape)) / np.reshape(std, shape)
        for out in (layer(torch.from_numpy(clip)), run_plain(layer, torch.from_numpy(clip))):
            np.testing.assert_allclose(out.prompts.detach(), expected, atol=1e-5)


def test_the_next_frame_is_the_one_weighed():
    """A pixel that lights up in frame 1 of 0, 1, 2 shows in prompt 0, and is pushed down where it goes dark."""
    clip = torch.zeros(1, 3, 3, 1, 1, dtype=torch.uint8)
    clip[:, :, 1] = 255
    layer = MotionPrompt(m=10.0, n=0.0, modulate="pixel")
    prompts = layer(clip).prompts.detach() * STD + MEAN
    assert prompts[0, 0, 0, 0, 0] == pytest.approx(1 / (1 + math.exp(-5 / 0.55)), abs=1e-5)
    assert prompts[0, 0, 1, 0, 0] == pytest.approx(0, abs=1e-5)  # dark frame, whatever its attention
    attention = layer.attention(clip).flatten()
    assert attention[0] > 0.99
    assert attention[1] < 0.01


@pytest.mark.parametrize("modulate", ["normalized", "pixel"])
@pytest.mark.parametrize("variation", ["mean", "frobenius"])
@pytest.mark.parametrize("t", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_gradcheck(modulate, variation, t):
    layer = MotionPrompt(m=0.6, n=-0.3, modulate=modulate, variation=variation).double()
    clip = as_float(pixels(b=2, t=t, h=3, w=2)).requires_grad_()

    def run(clip, m, n):
        out = torch.func.functional_call(layer, {"power_norm.m": m, "power_norm.n": n}, (clip,))
        return out.prompts, out.variation

    m, n = (p.detach().clone().requires_grad_() for p in (layer.m, layer.n))
    assert torch.autograd.gradcheck(run, (clip, m, n), atol=1e-6)
    assert torch.autograd.gradgradcheck(run, (clip, m, n), atol=1e-5)


@pytest.mark.parametrize("modulate", ["normalized", "pixel"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tile", [1 << 16, 700_000])  # 14 rows of a clip; two clips of three
def test_one_pass_equals_plain_with_gradients(modulate, dtype, tile):
    """Over several tiles of rows, and of clips, for every type, gradients to m, n and the clip."""
    clip = pixels(b=3, t=5, h=70, w=64)
    x = torch.from_numpy(clip) if dtype == torch.uint8 else as_float(clip, dtype)
    import vmp.kernels.tiles as kernel

    found = []
    for way in (lambda layer, x: layer(x), run_plain):
        layer = MotionPrompt(m=0.6, n=-0.3, modulate=modulate)
        leaf = x.clone().requires_grad_(dtype != torch.uint8)
        before, (kernel.ALONE, kernel.SHARED) = (kernel.ALONE, kernel.SHARED), (tile, tile)
        out = way(layer, leaf)
        weights = torch.linspace(-1, 1, out.prompts.numel()).view_as(out.prompts).to(out.prompts.dtype)
        ((out.prompts * weights).float().sum() + 3 * out.variation).backward()
        kernel.ALONE, kernel.SHARED = before
        found.append((out.prompts.float(), out.variation, layer.m.grad, layer.n.grad, leaf.grad))
    (p1, v1, m1, n1, x1), (p2, v2, m2, n2, x2) = found
    loose = dtype in (torch.bfloat16, torch.float16)
    torch.testing.assert_close(p1, p2, atol=2e-2 if loose else 1e-5, rtol=1e-2 if loose else 1e-5)
    torch.testing.assert_close(v1, v2, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(m1, m2, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(n1, n2, rtol=1e-3, atol=1e-2)
    if x1 is not None:
        torch.testing.assert_close(x1, x2, atol=5e-2 if loose else 1e-4, rtol=2e-2 if loose else 1e-4)


def test_half_types_take_differences_in_float32():
    """A step of one grey level in a bright frame survives bfloat16 clips only if the sums are wide."""
    clip = pixels(b=1, t=3, h=16, w=16)
    expected = reference.prompts(clip / 255, 0.0, 0.1)[2]  # m = 0: the steepest slope, 50
    rounded = as_float(clip, torch.bfloat16)
    exact = reference.prompts(rounded.double().numpy() * STD + MEAN, 0.0, 0.1)[2]
    attention = MotionPrompt(m=0.0, n=0.1).attention(rounded).detach().numpy()
    np.testing.assert_allclose(attention, exact, atol=1e-5)  # only the input was rounded
    assert np.abs(attention - expected).max() < 0.2


def test_autocast_gives_its_type_and_keeps_the_maths():
    clip = torch.from_numpy(pixels(b=1, t=4, h=20, w=20))
    layer = MotionPrompt(m=0.0, n=0.1)
    wide = layer(clip)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(clip)
        base = normalize(clip, MEAN, STD)
    assert out.prompts.dtype == base.dtype == torch.bfloat16
    torch.testing.assert_close(out.prompts.float(), wide.prompts, atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(out.variation, wide.variation)


def test_nothing_is_kept_but_the_clip_and_scalars():
    clip = as_float(pixels(b=2, t=4, h=32, w=32), torch.float32)
    kept = []
    layer = MotionPrompt()
    layer(clip)  # the first clip of a process also compares the kernels with the formulas
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        layer(clip)
    large = {x.data_ptr() for x in kept if x.numel() > 1}
    assert large == {clip.data_ptr()}


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_an_empty_batch_gives_no_prompts(device):
    """meta: a device other than the CPU, where a batch is not cut into tiles."""
    out = MotionPrompt().to(device)(torch.empty(0, 3, 4, 8, 8, device=device))
    assert out.prompts.shape == (0, 3, 3, 8, 8)
    assert out.variation.shape == ()


@pytest.mark.parametrize(
    "layer",
    [
        MotionPrompt(),
        MotionPrompt(power_norm=SigmE()),
        ExtendedPrompt(regulariser="spatial"),
        OtherClipPrompt(),
    ],
    ids=["one_pass", "plain", "spatial", "other_clip"],
)
def test_the_variation_of_an_empty_batch_is_zero(layer):
    out = layer(torch.empty(0, 3, 4, 8, 8, dtype=torch.uint8))
    assert out.prompts.shape == (0, 3, 3, 8, 8)
    assert out.variation.item() == 0


def test_the_class_of_a_power_norm_is_no_power_norm():
    with pytest.raises(
        ValueError, match=r"power_norm = <class '.*SigmE'>: must be an nn.Module, an instance"
    ):
        MotionPrompt(power_norm=SigmE)


def test_a_hook_on_the_power_norm_sees_the_attention():
    """The kernels never call the power norm."""
    clip, layer, seen = torch.from_numpy(pixels()), MotionPrompt(m=0.5, n=0.1), []
    expected = layer(clip).prompts
    with layer.power_norm.register_forward_hook(lambda _, __, attention: seen.append(attention)):
        torch.testing.assert_close(layer(clip).prompts, expected)
    assert [a.shape for a in seen] == [(2, 4, 6, 5)]


def test_variation_can_be_skipped_and_is_zero_below_two_maps():
    clip = torch.from_numpy(pixels(t=4))
    layer = MotionPrompt(m=0.5, n=0.1)
    assert layer(clip, variation=False).variation.item() == 0
    assert layer(clip).variation.item() > 0
    for t in (1,):
        out = layer(torch.from_numpy(pixels(t=t)))
        assert out.variation.item() == 0
        (out.prompts.sum() + 5 * out.variation).backward()
        assert torch.isfinite(layer.m.grad).all()
    assert temporal_attention_variation(torch.rand(2, 1, 4, 4)).item() == 0


@settings(max_examples=150, deadline=None)
@given(
    m=st.floats(-50, 50),
    n=st.floats(-50, 50),
    epsilon=st.floats(1e-4, 1),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.uint8]),
    seed=st.integers(0, 1000),
)
def test_always_finite_and_in_range(m, n, epsilon, dtype, seed):
    clip = pixels(b=1, t=3, h=3, w=3, seed=seed)
    clip[..., 0] = 0
    clip[:, :, 1::2, :, 0] = 255  # the largest differences there are
    x = torch.from_numpy(clip) if dtype == torch.uint8 else as_float(clip, dtype)
    layer = MotionPrompt(m=m, n=n, epsilon=epsilon)
    out = layer(x)
    attention = layer.attention(x)
    assert attention.min() >= 0
    assert attention.max() <= 1
    (out.prompts.float().sum() + 5 * out.variation).backward()
    assert torch.isfinite(out.prompts).all()
    assert torch.isfinite(layer.m.grad).all()
    assert torch.isfinite(layer.n.grad).all()


@pytest.mark.slow
def test_compiles_to_one_graph_with_the_same_numbers():
    torch._dynamo.reset()
    clip = torch.from_numpy(pixels(b=2, t=4, h=16, w=16))
    layer = MotionPrompt(m=0.6, n=-0.3)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    found = []
    for f in (layer, compiled):
        layer.zero_grad()
        out = f(clip)
        (out.prompts.square().mean() + out.variation).backward()
        found.append(
            (out.prompts.detach(), out.variation.detach(), layer.m.grad.clone(), layer.n.grad.clone())
        )
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_torch_func():
    """grad by functional_call and vmap over clips agree with plain autograd."""
    layer = MotionPrompt(m=0.6, n=-0.3)
    clips = as_float(pixels(b=3, t=3), torch.float32)
    parameters = dict(layer.named_parameters())

    def loss(parameters, clip):
        out = torch.func.functional_call(layer, parameters, (clip.unsqueeze(0),))
        return out.prompts.square().mean() + out.variation

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, clips)
    for i in range(3):
        layer.zero_grad()
        loss(dict(layer.named_parameters()), clips[i]).backward()
        torch.testing.assert_close(each["power_norm.m"][i], layer.m.grad, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(each["power_norm.n"][i], layer.n.grad, rtol=1e-4, atol=1e-6)


def test_copies_and_state():
    layer = MotionPrompt()
    assert list(layer.state_dict()) == ["power_norm.m", "power_norm.n"]
    assert layer.m.shape == layer.n.shape == (1,)
    clip = torch.from_numpy(pixels())
    other = MotionPrompt()
    other.load_state_dict(layer.state_dict())
    for twin in (copy.deepcopy(layer), other, pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(clip).prompts, layer(clip).prompts)


def test_start_values_are_drawn_m_first_and_by_default_those_of_the_authors_seed():
    torch.manual_seed(0)
    layer = MotionPrompt(m="draw", n="draw")
    torch.manual_seed(0)
    m = torch.empty(1).normal_(1e-5, 1.0)
    n = torch.empty(1).normal_(1e-5, 1.0)
    assert torch.equal(layer.m, m)
    assert torch.equal(layer.n, n)
    default = MotionPrompt()
    assert layer.m.item() == pytest.approx(default.m.item(), abs=1e-4)  # their seed is 0
    assert layer.n.item() == pytest.approx(default.n.item(), abs=1e-4)


def test_a_fixed_power_norm_in_its_place():
    clip = torch.from_numpy(pixels())
    layer = MotionPrompt(power_norm=SigmE(10.0))
    assert layer(clip).prompts.shape == (2, 3, 4, 6, 5)
    assert list(layer.parameters()) == []
    assert layer.scalars() == {}
    with pytest.raises(TypeError, match="no learned slope"):
        _ = layer.slope


class _Ours(nn.Module):
    """The layer in somebody else's model."""

    def __init__(self):
        super().__init__()
        self.prompt = MotionPrompt(m=0.5, n=0.1)
        self.conv = nn.Conv3d(3, 4, 3)

    def forward(self, clip):
        return self.conv(self.prompt(clip).prompts).mean()


def test_a_subclass_can_be_listed_before_it_has_a_power_norm():
    class Own(MotionPrompt):
        def __init__(self):
            nn.Module.__init__(self)
            self.listed = dir(self)

    assert "slope" not in Own().listed
    assert "slope" in dir(MotionPrompt())


def test_gradients_reach_m_and_n_through_a_model():
    model = _Ours()
    model(torch.from_numpy(pixels(t=5, h=12, w=12))).backward()
    assert model.prompt.m.grad.abs().item() > 0
    assert model.prompt.n.grad.abs().item() > 0


@pytest.mark.parametrize(
    ("clip", "said"),
    [
        (torch.zeros(3, 3, 8, 8), "must be \\(batch, 3"),
        (torch.zeros(1, 1, 3, 8, 8), "must be \\(batch, 3"),
        (torch.zeros(1, 3, 1, 8, 8), "at least 2"),
        (torch.zeros(1, 3, 2, 8, 8, dtype=torch.int64), "uint8"),
        (torch.zeros(1, 3, 2, 0, 8), "no pixels"),
        (np.zeros((1, 3, 2, 8, 8)), "ndarray: must be a torch.Tensor"),
    ],
)
def test_wrong_clips_are_told(clip, said):
    with pytest.raises(ValueError, match=said):
        MotionPrompt()(clip)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"epsilon": 0.0}, "epsilon"),
        ({"alpha": -1.0}, "alpha"),
        ({"gamma": 1.0}, "gamma"),
        ({"beta": float("nan")}, "beta"),
        ({"m": float("inf")}, "m = inf"),
        ({"n": "drawn"}, "n = 'drawn'.*'draw'"),
        ({"grey": "lab"}, "rgb, bgr"),
        ({"modulate": "both"}, "normalized, pixel"),
        ({"variation": "sum"}, "mean, frobenius"),
        ({"std": 0.0}, "std"),
        ({"mean": (0.1, 0.2)}, "one number or three"),
        ({"mean": "0.45"}, "one number or three"),
        ({"mean": float("nan")}, "pixels in \\[0, 1\\]"),
        ({"mean": (0.5, float("nan"), 0.5)}, "pixels in \\[0, 1\\]"),
        ({"std": (0.2, float("nan"), 0.2)}, "pixels in \\[0, 1\\]"),
        ({"mean": (123.675, 116.28, 103.53)}, "divide those for 0..255 by 255"),
        ({"std": 58.4}, "divide those for 0..255 by 255"),
    ],
)
def test_wrong_options_are_told(options, said):
    with pytest.raises(ValueError, match=said):
        MotionPrompt(**options)


def test_names_that_load_on_first_use_are_listed():
    assert set(vmp.__all__) <= set(dir(vmp))
    assert all(hasattr(vmp, name) for name in vmp.__all__)


def test_mean_and_std_may_be_arrays_and_tensors_and_are_shown():
    plain = MotionPrompt(mean=(0.25, 0.5, 0.75), std=0.25)
    for mean, std in (
        (np.array([0.25, 0.5, 0.75]), np.float32(0.25)),
        (torch.tensor([0.25, 0.5, 0.75]), torch.tensor(0.25)),
        ([0.25, 0.5, 0.75], [0.25] * 3),
    ):
        layer = MotionPrompt(mean=mean, std=std)
        assert (layer.mean, layer.std) == (plain.mean, plain.std)
    assert "mean=(0.25, 0.5, 0.75), std=(0.25, 0.25, 0.25)" in repr(plain)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16, torch.float16])
def test_on_cuda_as_on_the_cpu(dtype):
    clip = pixels(b=2, t=8, h=64, w=64)
    x = torch.from_numpy(clip) if dtype == torch.uint8 else as_float(clip, dtype)
    found = []
    for device in ("cpu", "cuda"):
        layer = MotionPrompt(m=0.6, n=-0.3).to(device)
        out = layer(x.to(device))
        (out.prompts.float().square().mean() + out.variation).backward()
        found.append(
            [
                v.float().cpu()
                for v in (out.prompts.detach(), out.variation.detach(), layer.m.grad, layer.n.grad)
            ]
        )
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)


# --- edits ---------------------------------------------------------------------------------------------------------


def edited(name: str):
    """A formula of layer.py or power_norm.py, edited in place: where it stands, and the new one."""
    if name == "power_norm":
        return LearnedPowerNorm, "forward", lambda self, d: torch.sigmoid(self.slope * (d.abs() - self.shift))
    if name == "grey":
        return MotionPrompt, "grey_frames", lambda self, clip: clip.float()[:, 0] / 255
    if name == "variation":
        return layer_module, "temporal_attention_variation", lambda a, reduction: a.std()
    if name == "product":
        return (
            layer_module,
            "apply_attention",
            lambda layer, clip, a, variation: Prompted(a.unsqueeze(1).expand(-1, 3, -1, -1, -1), a.sum()),
        )
    if name == "normalised clips":
        was_normalized = layer_module.as_normalized
        return (
            layer_module,
            "as_normalized",
            lambda clip, mean, std: (
                was_normalized(clip, mean, std) * (1.0 if clip.dtype == torch.uint8 else 2.0)
            ),
        )
    was = LearnedPowerNorm.forward  # the same values, other gradients
    return LearnedPowerNorm, "forward", lambda self, d: was(self, d).detach() + 0 * self.m * self.n


@pytest.mark.parametrize(
    "name", ["power_norm", "grey", "variation", "product", "normalised clips", "gradient"]
)
def test_an_edited_formula_is_the_one_that_trains(monkeypatch, name):
    """Whoever changes the paper's layer in its file must not train with the kernels' copy of the old formula."""
    torch.manual_seed(0)
    clip = torch.randint(0, 256, (2, 3, 5, 16, 16), dtype=torch.uint8)
    if name == "normalised clips":
        clip = clip / 128 - 1
    layer = MotionPrompt()
    before = layer(clip)
    place, what, new = edited(name)
    monkeypatch.setattr(place, what, new)
    with pytest.warns(UserWarning, match="was edited: their formulas are used"):
        after = layer(clip)
    wanted = layer_module.apply_attention(layer, clip, layer.attention(clip), variation=True)
    torch.testing.assert_close(tuple(after), tuple(wanted), rtol=0, atol=0)
    if name == "gradient":
        after.prompts.sum().backward()
        assert layer.m.grad.item() == 0
    else:
        assert any(not torch.allclose(a, b) for a, b in zip(before, after, strict=True))
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(layer(clip).prompts, before.prompts)


@pytest.mark.parametrize(
    "options", itertools.product(("rgb", "bgr"), ("normalized", "pixel"), ("mean", "frobenius"))
)
def test_the_kernels_are_used_where_nothing_was_edited(options, monkeypatch):
    """Also where the first clip comes in an unusual context."""
    layer_module._kernels_agree.cache_clear()
    grey, modulate, variation = options
    layer = MotionPrompt(grey=grey, modulate=modulate, variation=variation)
    called = []
    was = one_pass.apply
    monkeypatch.setattr(one_pass, "apply", lambda *a, **k: called.append(len(called)) or was(*a, **k))
    clip = torch.zeros(1, 3, 3, 8, 8, dtype=torch.uint8)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16), warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(clip)
    assert called == [0, 1, 2]  # twice to compare, and for the clip
