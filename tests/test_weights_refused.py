"""Files that are not weights, or would run code: refused with a reason, and nothing in them is run."""

import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from weights_made import Evil, EvilEval, make, save_pickle, to_caffe2, to_pyslowfast

from vmp.backbones import build_backbone, layouts
from vmp.backbones.layouts import read
from vmp.backbones.weights import load_weights
from vmp.errors import WeightsError


@pytest.mark.parametrize("evil", [Evil, EvilEval])
@pytest.mark.parametrize("form", ["zip", "old torch", "pickle0", "pickle2", "pickle5", "in blobs"])
def test_code_is_refused_and_not_run(tmp_path, form, evil):
    witness = tmp_path / "it ran".replace(" ", "_")
    trap = evil(witness)
    content = {"model_state": {"blocks.0.conv.weight": torch.zeros(1)}, "x": trap}
    path = tmp_path / ("w.pth" if "torch" in form or form == "zip" else "w.pkl")
    if form in ("zip", "old torch"):
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    elif form == "in blobs":
        save_pickle(path, {"conv1_w": np.zeros(3), "x": trap})
    else:
        path.write_bytes(pickle.dumps({"blobs": {}, "x": trap}, protocol=int(form[-1])))
    name = "eval" if evil is EvilEval else r"(posix|nt|os)\.system"
    with pytest.raises(WeightsError, match=rf"refused, the file asks for .*{name}.*nothing in it was run"):
        read(path)
    assert not witness.exists()


def test_numpy_arrays_of_any_age_are_read(tmp_path):
    state = to_pyslowfast(make("slow", 1).state_dict(), "slow")
    blobs = to_caffe2(state) | {"conv1_b_note": np.float64(1), "scale": np.array(3.0)}
    expected = read(save_pickle(tmp_path / "a.pkl", blobs)).state
    for protocol in range(6):
        content = pickle.dumps({"blobs": blobs}, protocol=protocol)
        for data in (content, content.replace(b"numpy._core", b"numpy.core") if protocol < 4 else content):
            (tmp_path / "b.pkl").write_bytes(data)
            found = read(tmp_path / "b.pkl").state
            assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_arrays_of_objects_are_refused(tmp_path, form):
    path = tmp_path / "w.pkl"
    if form == "pickle":
        save_pickle(path, {"conv1_w": np.array([None], dtype=object)})
    else:
        torch.save({"model_state": {"x": torch.zeros(1)}, "a": np.array([None], dtype=object)}, path)
    with pytest.raises(WeightsError, match="refused, the file asks for numpy"):
        read(path)


def test_damaged_and_odd_files(tmp_path, c2d_file):
    whole = c2d_file.read_bytes()
    save_file({"blocks.0.conv.weight": torch.zeros(4)}, tmp_path / "s")
    for name, content in {
        "cut.pyth": whole[: len(whole) // 2],
        "cut.safetensors": (tmp_path / "s").read_bytes()[:-3],
        "page.pyth": b"<!DOCTYPE html><html></html>",
        "empty.pkl": b"",
        "text.pyth": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
        "cut.pkl": save_pickle(tmp_path / "p", {"conv1_w": np.zeros(99)}).read_bytes()[:-60],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=name):
            read(tmp_path / name)
    for content in ({"a": 1}, [1, 2], {"model_state": {"x": "text"}}, torch.zeros(2)):
        torch.save(content, tmp_path / "odd.pth")
        with pytest.raises(WeightsError, match=r"odd\.pth: (no tensors|holds a)"):
            read(tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match=r"text\.pyth: a pointer of Git LFS"):
        read(tmp_path / "text.pyth")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "script.pt")
    with zipfile.ZipFile(tmp_path / "other.pt2", "w") as archive:
        archive.writestr("model/archive_format", "pt2")
    for name in ("script.pt", "other.pt2"):
        with pytest.raises(
            WeightsError, match=f"{name}: an archive without a dict of tensors, such as an exp"
        ):
            read(tmp_path / name)
    with pytest.raises(WeightsError, match="no such file or folder"):
        read(tmp_path / "nothing.pyth")
    with pytest.raises(WeightsError, match="no weights in this folder"):
        read(tmp_path)


ODD = {
    "NaN": (lambda v: v.fill_(float("nan")), "numbers are NaN"),
    "one NaN": (lambda v: v.flatten().index_fill(0, torch.tensor(5), float("nan")).view_as(v), "1 of 3,456"),
    "infinite": (lambda v: v * float("inf"), "are (NaN|infinite)"),
    "beyond float32": (lambda v: torch.full_like(v, 1e300, dtype=torch.float64), "infinite in float32"),
    "complex": (lambda v: v.to(torch.complex64), "complex64, not real"),
    "int8": (lambda v: (100 * v).to(torch.int8), "int8, not floating-point"),
    "bool": (lambda v: v > 0, "bool, not floating-point"),
    "quantized": (lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8), "qint8, not real"),
    "sparse": (lambda v: v.to_sparse(), "sparse or nested"),
    "meta": (lambda v: v.to("meta"), "a meta tensor"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch, of quantized and sparse tensors
@pytest.mark.parametrize("kind", ODD)
def test_numbers_that_are_no_weights_are_refused_by_name(tmp_path, kind):
    spoil, said = ODD[kind]
    net = build_backbone("tiny", num_classes=2, width=8)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    state["stages.1.0.weight"] = spoil(state["stages.1.0.weight"][:, :].clone())
    torch.save({f"backbone.{name}": value for name, value in state.items()}, tmp_path / "odd.pth")
    message = rf"(?s)odd\.pth: 1 of its 26 tensors.*stages\.1\.0\.weight: .*{said}.*Nothing was loaded"
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(WeightsError, match=message):
        load_weights(net, tmp_path / "odd.pth", backbone="tiny")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_half_types_are_weights_and_negative_variances_are_not(tmp_path):
    net, other = (build_backbone("tiny", num_classes=2, width=8) for _ in range(2))
    for number, dtype in enumerate((torch.float16, torch.bfloat16, torch.float64)):
        state = {n: v.to(dtype) if v.is_floating_point() else v for n, v in net.state_dict().items()}
        torch.save({f"backbone.{n}": v for n, v in state.items()}, tmp_path / f"{number}.pth")
        load_weights(other, tmp_path / f"{number}.pth", backbone="tiny")
        for name, value in other.state_dict().items():
            assert torch.equal(value, state[name].to(value.dtype)), name
    state["stages.0.1.running_var"] = -torch.ones(8)
    torch.save({f"backbone.{n}": v for n, v in state.items()}, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match=r"stages\.0\.1\.running_var: a negative variance"):
        load_weights(other, tmp_path / "odd.pth", backbone="tiny")


def test_an_unknown_layout_shows_keys_and_what_is_known(tmp_path):
    torch.save({"layer1.0.conv1.weight": torch.zeros(3), "fc.bias": torch.zeros(1)}, tmp_path / "resnet.pth")
    with pytest.raises(WeightsError) as error:
        read(tmp_path / "resnet.pth")
    for part in ("layer1.0.conv1.weight", "fc.bias", *layouts.LAYOUTS):
        assert part in str(error.value)


def test_two_models_in_one_file(tmp_path):
    state = {f"{prefix}blocks.0.conv.weight": torch.zeros(1) for prefix in ("model.", "module.")}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="several models"):
        read(tmp_path / "w.pth")
