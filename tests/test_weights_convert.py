"""scripts/convert_weights.py: any layout to ours or to Hugging Face's."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from weights_made import flax_i3d, make, official_file, run_folder, save_flax, timesformer

from vmp.backbones import build_backbone
from vmp.backbones.layouts import read
from vmp.backbones.weights import load_weights
from vmp.errors import WeightsError
from vmp.transfer import sha256_of

ROOT = Path(__file__).resolve().parent.parent


def convert(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "scripts/convert_weights.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def converter():
    from vmp.commands.convert import convert

    return convert


@pytest.mark.slow
def test_the_original_i3d_fits_with_its_head(tmp_path, converter):
    """The head of the file decides how many classes the network is built for, so that all its tensors fit."""
    source = save_flax(tmp_path / "w.ckpt", flax_i3d(classes=6, width=64))
    said = converter(source, tmp_path / "w.safetensors", backbone="i3d_inception", to="ours", force=False)
    assert "fits i3d_inception: 287 tensors, 0 that it does not have" in said
    found = read(tmp_path / "w.safetensors")
    assert found.layout == "ours"
    assert found.state["logits.weight"].shape == (6, 1024)


def test_convert_and_read_back(tmp_path, converter):
    from safetensors import safe_open

    source = timesformer().state_dict()
    path = official_file(tmp_path / "w.pyth", source, prompts=True)
    out = tmp_path / "new" / "w.safetensors"
    said = converter(path, out, backbone=None, to="ours", force=False)
    assert "vmp-official" in said
    assert "m = 0.25" in said
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
    assert metadata["source"] == "w.pyth"
    assert metadata["source_layout"] == "vmp-official"
    assert metadata["source_sha256"] == sha256_of(path)
    found = read(out)
    assert found.layout == "ours"
    assert found.scalars == {"m": 0.25, "n": -0.75}
    assert all(torch.equal(found.state[name], value) for name, value in source.items())
    assert set(found.state) == set(source)
    assert {p.name for p in out.parent.iterdir()} == {"w.safetensors"}


def test_converted_for_hugging_face_loads_there(tmp_path, hugging_face, converter):
    import transformers

    hub: Any = transformers
    model, folder = hugging_face
    net = timesformer()
    load_weights(net, folder / "model.safetensors", backbone="timesformer")
    run = run_folder(tmp_path / "run", net)
    (tmp_path / "hf").mkdir()
    said = converter(run, tmp_path / "hf" / "model.safetensors", backbone=None, to="hf", force=False)
    assert "left out" in said
    model.config.save_pretrained(tmp_path / "hf")
    again, told = hub.TimesformerForVideoClassification.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    clip = torch.randn(1, 4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(clip).logits, model(clip).logits)
    theirs, ours = model.state_dict(), again.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_convert_checks_the_backbone(tmp_path, converter):

    path = tmp_path / "w.pyth"
    torch.save({"model_state": build_backbone("x3d_xs", num_classes=9).state_dict()}, path)
    said = converter(path, tmp_path / "a.safetensors", backbone="x3d_xs", to="ours", force=False)
    assert "fits x3d_xs" in said
    with pytest.raises(WeightsError, match="x3d_l"):
        converter(path, tmp_path / "b.safetensors", backbone="x3d_l", to="ours", force=False)
    assert not (tmp_path / "b.safetensors").exists()


def test_names_that_were_written_before_are_kept_and_told(tmp_path, c2d_file, converter):
    names, out = tmp_path / "w.classes.txt", tmp_path / "w.safetensors"
    names.write_text("a\nb\n")
    options = {"backbone": None, "to": "ours"}
    assert "w.classes.txt, which was there" in converter(c2d_file, out, force=False, **options)
    assert names.read_text() == "a\nb\n"
    converter(c2d_file, out, force=True, **options)  # they were those of the file that is replaced
    assert not names.exists()


def test_a_weight_with_two_names_is_written_twice(tmp_path):
    from vmp.files import write_tensors

    shared = torch.arange(6.0).view(2, 3)
    write_tensors(tmp_path / "w", {"a": shared, "b": shared, "c": shared[0]})
    found = load_file(tmp_path / "w")
    assert torch.equal(found["a"], found["b"])
    assert torch.equal(found["c"], shared[0])


@pytest.mark.slow
def test_the_command_refuses_to_overwrite(tmp_path, c2d_file):
    out = tmp_path / "w.safetensors"
    out.write_bytes(b"precious")
    done = convert(c2d_file, out)
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert "Traceback" not in done.stderr
    assert out.read_bytes() == b"precious"
    done = convert(c2d_file, out, "--force")
    assert done.returncode == 0, done.stderr
    assert set(load_file(out)) == set(make("c2d", 1).state_dict())
    assert "examples" in convert("--help").stdout
