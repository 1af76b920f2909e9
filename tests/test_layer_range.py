"""A floating clip that nobody has normalised brings one warning, and looking for it costs one look."""

import copy
import pickle
import warnings

import pytest
import torch
from test_layer import MEAN, STD, as_float, pixels
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from vmp import MotionPrompt


class _Looks(TorchDispatchMode):
    """Counts how often the range of a tensor is taken."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten.aminmax.default
        return function(*args, **(kwargs or {}))


FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("scale", "found"), [(1, "values from 0 to 1:"), (255, "values from 0 to 255:")], ids=["[0, 1]", "0..255"]
)
def test_a_clip_that_is_not_normalised_is_told_once(dtype, scale, found):
    clip = torch.from_numpy(pixels(h=32, w=32)).double().div(255 / scale).to(dtype)
    layer, quiet = MotionPrompt(), MotionPrompt()
    quiet._range_seen = True
    with pytest.warns(UserWarning, match="as if it were not normalised") as told, _Looks() as looks:
        out = layer(clip)
    assert len(told) == looks.count == 1
    said = str(told[0].message)
    assert found in said
    assert (
        "mean=(0.45, 0.45, 0.45) and std=(0.225, 0.225, 0.225), from -2 to 2.44. Pass uint8, or (x - mean) / std"
        in said
    )
    assert told[0].filename == __file__
    for module in (layer, quiet, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        with warnings.catch_warnings(), _Looks() as looks:
            warnings.simplefilter("error")
            again = module(clip)
        assert looks.count == 0
        assert torch.equal(again.prompts, out.prompts)
        assert torch.equal(again.variation, out.variation)
    assert list(layer.state_dict()) == ["power_norm.m", "power_norm.n"]


@pytest.mark.parametrize(
    ("options", "clip"),
    [
        *(({}, as_float(pixels(h=32, w=32), dtype)) for dtype in FLOATS),
        ({}, torch.zeros(1, 3, 3, 8, 8)),  # mean grey
        ({}, torch.full((1, 3, 3, 8, 8), torch.nan)),
        ({"mean": 0.0, "std": 1.0}, as_float(pixels()) * STD + MEAN),  # a model of pixels in [0, 1]
        ({"mean": 0.0, "std": 1 / 255}, torch.from_numpy(pixels()).float()),  # of pixels in 0..255
        ({"mean": (0.41, 0.46, 0.48), "std": 1 / 255}, torch.from_numpy(pixels()).float() - 110),
    ],
)
def test_a_normalised_clip_brings_no_warning(options, clip):
    with warnings.catch_warnings(), _Looks() as looks:
        warnings.simplefilter("error")
        layer = MotionPrompt(**options)
        layer(clip), layer(clip)
    assert looks.count == 1


def test_the_range_of_clips_without_one_is_not_looked_at():
    """uint8 costs nothing, and clips without values or pixels leave the look to the next one."""
    layer, clip = MotionPrompt(), torch.rand(1, 3, 3, 8, 8)
    with warnings.catch_warnings(), _Looks() as looks:
        warnings.simplefilter("error", UserWarning)
        layer(torch.from_numpy(pixels()))
        layer(clip.to("meta")), layer(clip[:0]), layer(clip.to(torch.float8_e4m3fn))
        torch.func.vmap(lambda one: layer(one[None]).prompts)(clip)
        with FakeTensorMode(allow_non_fake_inputs=True):
            layer(torch.empty(1, 3, 3, 8, 8))
    assert looks.count == 0
    with pytest.warns(UserWarning, match="not normalised"):
        layer(clip)


@pytest.mark.slow
def test_a_compiled_layer_does_not_look_at_the_range():
    torch._dynamo.reset()
    layer, clip = MotionPrompt(), torch.rand(1, 3, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = torch.compile(layer, fullgraph=True, backend="aot_eager")(clip)
        torch.export.export(layer, (clip,))
    with pytest.warns(UserWarning, match="not normalised"):
        torch.testing.assert_close(tuple(layer(clip)), tuple(found), rtol=1e-4, atol=1e-6)
