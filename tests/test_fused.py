"""The Triton kernels against the plain formulas: on a GPU where there is one, else through Triton's interpreter."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from packaging.version import Version

from vmp import MotionPrompt
from vmp.kernels import one_pass
from vmp.layer import compute_prompts

triton = pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cuda":  # the same comparisons, on the card: pytest -m gpu
    pytestmark = pytest.mark.gpu
elif Version(triton.__version__) < Version("3.9") and Version(np.__version__) >= Version("2.4"):
    # as with torch 2.11, whose Triton is 3.6
    pytest.skip(
        "the interpreter of this Triton makes numbers of arrays as NumPy forbids", allow_module_level=True
    )


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    from vmp.kernels import fused

    monkeypatch.setattr(one_pass, "kernels_for", lambda clip: fused)
    return fused


def clips(b=2, frames=5, h=20, w=30, dtype=torch.uint8):
    raw = torch.randint(
        0, 256, (b, 3, frames, h, w), dtype=torch.uint8, generator=torch.Generator().manual_seed(frames)
    )
    return (raw if dtype == torch.uint8 else ((raw.double() / 255 - 0.45) / 0.225).to(dtype)).to(DEVICE)


def by_plain(layer, clip, variation=True):
    return compute_prompts(layer, clip, layer.power_norm, variation=variation)


def outcome(way, layer, clip, *, weight=3.0, grad=None):
    """Prompts, V, gradients of m, n and the clip."""
    layer.zero_grad()
    leaf = clip.detach().requires_grad_(clip.dtype != torch.uint8)
    prompts, v = way(layer, leaf)
    if grad is None:
        grad = torch.linspace(-1, 1, prompts.numel(), device=DEVICE).view_as(prompts).to(prompts.dtype)
    reached = [(prompts, grad), (v, torch.tensor(weight, device=DEVICE))][: 1 + v.requires_grad]
    torch.autograd.backward([x for x, _ in reached], [g for _, g in reached])
    return prompts.detach(), v.detach(), layer.m.grad.clone(), layer.n.grad.clone(), leaf.grad


def compare(layer, clip, **options):
    """Ours and the plain formulas', number by number."""
    ours = outcome(lambda layer, clip: layer(clip), layer, clip, **options)
    theirs = outcome(by_plain, layer, clip, **options)
    half = clip.dtype in (torch.bfloat16, torch.float16)
    assert ours[0].dtype == theirs[0].dtype
    rough = {"atol": 2e-2, "rtol": 1e-2} if half else {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(ours[0], theirs[0], **rough)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-4, atol=1e-8)
    for a, b in zip(ours[2:4], theirs[2:4], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-2)
    if clip.dtype == torch.uint8:
        assert ours[4] is None
    else:
        torch.testing.assert_close(ours[4], theirs[4], **(rough if half else {"atol": 1e-4, "rtol": 1e-4}))


@pytest.mark.parametrize("modulate", ["normalized", "pixel"])
@pytest.mark.parametrize(
    ("dtype", "frames"),
    [*((torch.float32, t) for t in (2, 3, 4, 9)), (torch.uint8, 4), (torch.bfloat16, 4), (torch.float16, 3)],
)
def test_equals_plain_with_gradients(dtype, frames, modulate):
    layer = MotionPrompt(m=0.6, n=-0.3, modulate=modulate).to(DEVICE)
    compare(layer, clips(frames=frames, dtype=dtype))


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 65), (7, 1), (16, 32), (33, 31)])
def test_sizes(h, w):
    """One pixel, a line, a whole block (512), one pixel less than two blocks."""
    compare(MotionPrompt(m=0.2, n=0.1).to(DEVICE), clips(b=1, h=h, w=w, frames=4, dtype=torch.float32))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_options(dtype):
    layer = MotionPrompt(
        m=-0.8, n=0.4, alpha=4.0, beta=0.3, gamma=0.5, epsilon=0.2, grey="bgr", modulate="pixel",
        variation="frobenius", mean=(0.4, 0.5, 0.45), std=(0.2, 0.25, 0.3),
    )  # fmt: skip
    compare(layer.to(DEVICE), clips(dtype=dtype))


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, :, ::4],
        lambda x: x[1:, :, 2:],
        lambda x: x[..., ::2],
        lambda x: x.transpose(-1, -2),
        lambda x: x.to(memory_format=torch.channels_last_3d),
        lambda x: x[:1].expand(3, -1, -1, -1, -1),
    ],
    ids=["every fourth frame", "a part", "every second column", "turned", "channels last", "one clip thrice"],
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_views(view, dtype):
    compare(MotionPrompt(m=0.6, n=-0.3).to(DEVICE), view(clips(frames=5, dtype=dtype)))


def test_gradients_that_lie_in_other_orders():
    clip = clips(frames=4, dtype=torch.float32)
    grad = torch.randn(2, 20, 30, 3, 3, device=DEVICE).permute(0, 3, 4, 1, 2)
    compare(MotionPrompt(m=0.6, n=-0.3).to(DEVICE), clip, grad=grad)
    compare(
        MotionPrompt(m=0.6, n=-0.3).to(DEVICE),
        clip,
        grad=torch.ones(1, device=DEVICE).expand(2, 3, 3, 20, 30),
    )


def test_without_variation():
    layer = MotionPrompt(m=0.6, n=-0.3).to(DEVICE)
    clip = clips(frames=4, dtype=torch.float32)
    found = [
        outcome(lambda layer, clip: layer(clip, variation=False), layer, clip),
        outcome(lambda layer, clip: by_plain(layer, clip, variation=False), layer, clip),
    ]
    assert found[0][1] == 0
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_many_frames_in_autocast():
    layer, clip = MotionPrompt(m=0.0, n=0.1).to(DEVICE), clips(b=1, frames=34, h=5, w=5)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        ours, theirs = layer(clip), by_plain(layer, clip)
    assert ours.prompts.dtype == torch.bfloat16
    torch.testing.assert_close(ours.prompts, theirs.prompts, atol=2e-2, rtol=1e-2)
    torch.testing.assert_close(ours.variation, theirs.variation, rtol=1e-4, atol=1e-8)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # the interpreter's exp
def test_extreme_logits_stay_finite():
    clip = torch.zeros(1, 3, 4, 5, 5, device=DEVICE)
    clip[:, :, 1::2] = 1e4  # far outside of what frames are
    layer = MotionPrompt(m=0.0, n=0.1).to(DEVICE)
    for value in outcome(lambda layer, clip: layer(clip), layer, clip):
        assert torch.isfinite(value).all()


def test_wide_scalars():
    """A layer in float64 on raw clips: its slope is float64, the clip is not."""
    compare(MotionPrompt(m=0.6, n=-0.3).double().to(DEVICE), clips(frames=3))


@pytest.mark.skipif(DEVICE == "cuda", reason="there is a GPU, so Triton has a driver")
def test_where_triton_cannot_start_the_tiles_serve_with_a_warning(monkeypatch):
    monkeypatch.undo()
    one_pass._has_triton.cache_clear()
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.warns(UserWarning, match="Triton cannot be used here .*VMP_TRITON=0"):
        assert not one_pass._has_triton()
    one_pass._has_triton.cache_clear()
    monkeypatch.setenv("VMP_TRITON", "0")
    assert not one_pass._has_triton()
    one_pass._has_triton.cache_clear()


def test_second_derivatives_go_through_the_plain_formulas():
    layer = MotionPrompt(m=0.6, n=-0.3).to(DEVICE)
    clip = clips(b=1, frames=4, h=6, w=5, dtype=torch.float32)
    found = []
    for way in (lambda: layer(clip), lambda: by_plain(layer, clip)):
        out = way()
        (first,) = torch.autograd.grad(
            out.prompts.square().mean() + out.variation, layer.m, create_graph=True
        )
        found.append(torch.autograd.grad(first, layer.m)[0])
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-6)


def test_the_same_bits_twice():
    layer, clip = (
        MotionPrompt(m=0.6, n=-0.3).to(DEVICE),
        clips(b=1, frames=3, h=40, w=64, dtype=torch.float32),
    )
    first, second = (outcome(lambda layer, clip: layer(clip), layer, clip) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_compile_to_machine_code_without_a_gpu():
    """For the A100 and the H100, with what Triton makes constants of (ones) and what it takes for aligned.

    Nothing spills, and six blocks fit on one of 132 multiprocessors: those of (8, 3, T, 224, 224) all run at once.
    """
    code = """
import itertools, pathlib, re, subprocess, sys, tempfile
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from vmp.kernels import fused

def build(kernel, capability, types, constants, **flags):
    names = [p.name for p in kernel.params]
    fixed = {**constants, **flags, "BLOCK": fused.BLOCK}
    kinds = {n: "constexpr" if n in fixed else types.get(n, "fp32" if n[1:].isdigit() else "i32") for n in names}
    strides = ("pixels", "_clip", "_channel", "_frame")
    aligned = [i for i, n in enumerate(names) if kinds[n][0] == "*" or n.endswith(strides)]
    source = ASTSource(
        kernel, kinds, {(names.index(n),): v for n, v in fixed.items()},
        {(i,): [["tt.divisibility", 16]] for i in aligned},
    )
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(fused.LAUNCH))
    check_resources(made.asm["cubin"])
    return made.asm["ptx"]

def check_resources(cubin):
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = pathlib.Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        command = [tool, "--dump-resource-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = dict(re.findall(r"(REG|STACK|LOCAL):(\\d+)", said))
    assert used["STACK"] == used["LOCAL"] == "0", said
    assert -(-int(used["REG"]) // 8) * 8 * 32 * fused.LAUNCH["num_warps"] * 6 <= 65536, said

scalars = dict.fromkeys(("squares", "sums", "slope", "shift", "pull"), "*fp32")
for (clip, out), capability in itertools.product(
    (("*u8", "*bf16"), ("*u8", "*fp32"), ("*fp32", "*fp32"), ("*bf16", "*bf16")), (80, 90)
):
    for constants in ({}, {"T": 1, "blocks": 1}):
        types = {**scalars, "clip": clip, "prompts": out, "grad": out, "grad_clip": clip}
        ptx = build(fused._forward, capability, types, constants, VARIATION=True, PIXEL=False)
        if not constants:
            assert "st.global.v" in ptx, "prompts are not written in vectors"
        build(
            fused._backward, capability, types, constants, PAIRS=not constants, PIXEL=True, CLIP=clip != "*u8"
        )
print("all")
"""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.stdout == "all\n", done.stderr[-3000:]


@pytest.mark.gpu
def test_cuda_takes_them_by_itself(monkeypatch):
    monkeypatch.undo()
    from vmp.kernels import fused, tiles

    clip = torch.empty(1, 3, 2, 4, 4, device="cuda")
    assert one_pass.kernels_for(clip) is fused
    assert one_pass.kernels_for(clip.double()) is tiles
    monkeypatch.setattr(one_pass, "_has_triton", lambda: False)
    assert one_pass.kernels_for(clip) is tiles
