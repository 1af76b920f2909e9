"""The first convolution's own gradient against torch's, for the stems of every backbone and odd shapes."""

import pytest
import torch
from torch import nn

from vmp.kernels.stem import Stem, convolve_cells, input_gradient

# of C2D and the slow pathway, of I3D and the fast pathway, of X3D, of the original I3D, and some that nobody uses
STEMS = [
    ((1, 7, 7), (1, 2, 2), (0, 3, 3)),
    ((5, 7, 7), (1, 2, 2), (2, 3, 3)),
    ((1, 3, 3), (1, 2, 2), (0, 1, 1)),
    ((7, 7, 7), (2, 2, 2), (0, 0, 0)),
    ((3, 5, 5), (1, 2, 2), (1, 2, 2)),
    ((3, 4, 6), (1, 2, 2), (0, 1, 2)),
    ((2, 3, 7), (1, 2, 2), (1, 0, 0)),
    ((4, 5, 5), (2, 2, 2), (1, 2, 2)),
]


def both(
    kernel, stride, padding, shape, *, dtype=torch.float64, bias=False, memory_format=torch.contiguous_format
):
    """Result, gradients of clip and weight: torch's and ours."""
    torch.manual_seed(0)
    conv = nn.Conv3d(3, 5, kernel, stride=stride, padding=padding, bias=bias, dtype=dtype)
    clip = torch.randn(shape, dtype=dtype).to(memory_format=memory_format)
    outcomes = []
    for layer in (conv, Stem.of(conv)):
        layer.zero_grad()
        leaf = clip.clone().requires_grad_()
        out = layer(leaf)
        weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
        (out * weights).sum().backward()
        outcomes.append([out.detach(), leaf.grad, *(p.grad.clone() for p in layer.parameters())])
    return outcomes


@pytest.mark.parametrize("shape", [(2, 3, 8, 14, 14), (1, 3, 9, 17, 24), (2, 3, 7, 8, 9), (1, 3, 7, 7, 7)])
@pytest.mark.parametrize(("kernel", "stride", "padding"), STEMS)
def test_gradients_are_those_of_torch(kernel, stride, padding, shape):
    theirs, ours = both(kernel, stride, padding, shape)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 3, 8, 14, 14), (1, 3, 9, 17, 24)])
@pytest.mark.parametrize(("kernel", "stride", "padding"), STEMS)
def test_the_gradient_for_kernels_of_any_size(kernel, stride, padding, shape):
    weight = torch.randn(5, 3, *kernel, dtype=torch.float64)
    clip = torch.zeros(shape, dtype=torch.float64)
    grad = torch.randn_like(torch.nn.functional.conv3d(clip, weight, None, stride, padding))
    theirs = torch.nn.grad.conv3d_input(clip.shape, weight, grad, stride, padding)
    torch.testing.assert_close(
        input_gradient(grad, weight, clip.shape, stride, padding), theirs, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("shape", [(2, 3, 8, 14, 14), (1, 3, 9, 17, 24), (2, 3, 7, 8, 9), (1, 3, 7, 7, 7)])
@pytest.mark.parametrize(("kernel", "stride", "padding"), STEMS)
def test_the_convolution_over_cells_is_torchs(kernel, stride, padding, shape):
    torch.manual_seed(0)
    clip = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 3, *kernel, dtype=torch.float64, requires_grad=True)
    theirs = torch.nn.functional.conv3d(clip, weight, None, stride, padding)
    ours = convolve_cells(clip, weight, stride, padding)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    toward = torch.randn_like(theirs)
    expected = torch.autograd.grad(theirs, (clip, weight), toward)
    for a, b in zip(torch.autograd.grad(ours, (clip, weight), toward), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("amx", [False, True])
def test_bf16_uses_cells_only_with_units_for_them(amx, monkeypatch):
    called = []

    def over_cells(*given):
        called.append(given)
        return convolve_cells(*given)

    monkeypatch.setattr("vmp.kernels.stem.has_amx", lambda: amx)
    monkeypatch.setattr("vmp.kernels.stem.convolve_cells", over_cells)
    conv = nn.Conv3d(3, 8, 7, stride=2)
    clip = torch.randn(1, 3, 9, 15, 15)
    stem = Stem.of(conv)
    torch.testing.assert_close(stem(clip), conv(clip), rtol=0, atol=0)
    assert not called
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = stem(clip), conv(clip)
    assert len(called) == amx
    assert ours.dtype == theirs.dtype == torch.bfloat16
    assert (ours - theirs).float().norm() < 0.01 * theirs.float().norm()


def test_channels_last_and_bias():
    last = torch.channels_last_3d
    for options in ({"memory_format": last}, {"bias": True}):
        theirs, ours = both((5, 7, 7), (1, 2, 2), (2, 3, 3), (2, 3, 6, 20, 20), **options)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_bf16_autocast_gives_gradients_of_the_parameters_types():
    conv = nn.Conv3d(3, 8, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False)
    clip = torch.randn(2, 3, 4, 28, 28)
    found = []
    for layer in (conv, Stem.of(conv)):
        layer.zero_grad()
        leaf = clip.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = layer(leaf)
        assert out.dtype == torch.bfloat16
        out.float().square().sum().backward()
        assert leaf.grad.dtype == layer.weight.grad.dtype == torch.float32
        found.append((leaf.grad, layer.weight.grad.clone()))
    for a, b in zip(*found, strict=True):
        assert (a - b).norm() < 0.01 * b.norm()


def test_frozen_weights_get_no_gradient_and_data_costs_nothing():
    stem = Stem.of(nn.Conv3d(3, 4, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3)).requires_grad_(False))
    leaf = torch.randn(1, 3, 2, 16, 16, requires_grad=True)
    stem(leaf).sum().backward()
    assert leaf.grad is not None
    assert stem.weight.grad is None
    assert "_Stem" in type(stem(leaf).grad_fn.next_functions[0][0]).__name__  # under the bias
    stem.requires_grad_(True)
    assert "_Stem" not in str(stem(leaf.detach()).grad_fn)  # a baseline goes torch's way


def test_the_second_derivative_is_there():
    stem = Stem.of(nn.Conv3d(3, 2, (1, 5, 5), stride=(1, 2, 2), padding=(0, 2, 2), bias=False).double())
    clip = torch.randn(1, 3, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(stem, (clip,))


def test_torch_func_goes_torchs_way():
    stem = Stem.of(nn.Conv3d(3, 2, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False))
    clip = torch.randn(1, 3, 2, 12, 12)
    found = torch.func.grad(lambda x: stem(x).square().sum())(clip)
    leaf = clip.clone().requires_grad_()
    stem(leaf).square().sum().backward()
    torch.testing.assert_close(found, leaf.grad, rtol=1e-4, atol=1e-5)


def test_other_convolutions_go_torchs_way():
    odd = [
        nn.Conv3d(3, 4, 3, stride=(1, 2, 2), padding=1),
        nn.Conv3d(3, 4, 5, stride=(3, 2, 2), padding=2),
        nn.Conv3d(3, 4, 5, stride=(1, 2, 2), padding=2, dilation=2),
        nn.Conv3d(3, 3, 5, stride=(1, 2, 2), padding=2, groups=3),
        nn.Conv3d(3, 4, 5, stride=(1, 2, 2), padding=2, padding_mode="circular"),
    ]
    for conv in odd:
        stem = Stem.of(conv)
        clip = torch.randn(1, 3, 6, 12, 12, requires_grad=True)
        torch.testing.assert_close(stem(clip), conv(clip), rtol=0, atol=0)
        assert "_Stem" not in str(stem(clip).grad_fn)


def test_backbones_with_large_stems_have_it():
    from vmp.backbones.convnets import build_c2d, build_i3d, build_slowfast

    sizes = {"num_classes": 3, "crop": 32, "dropout": 0.0, "blocks": 1, "width": 8}
    nets = {
        "c2d": (build_c2d(frames=4, **sizes), 1),
        "i3d": (build_i3d(frames=4, **sizes), 1),
        "slowfast": (build_slowfast(frames=8, **sizes), 2),
    }
    for name, (net, wanted) in nets.items():
        stems = [m for m in net.modules() if isinstance(m, Stem)]
        assert len(stems) == wanted, name
        assert all(stem._suits() for stem in stems), name
