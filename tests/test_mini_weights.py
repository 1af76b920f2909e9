"""The weights in this package: small, whole, of the size they say, and made by a command that a clone has."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from vmp.backbones import SPECS, build_backbone, zoo
from vmp.backbones.layouts import read
from vmp.data.motions.pretraining import CLASSES
from vmp.errors import RunError, WeightsError
from vmp.paper import pretraining
from vmp.paper.pretraining import WeightsRequest, make_weights
from vmp.runs.records import read_weights
from vmp.runs.run import Run
from vmp.transfer import sha256_of

ROOT = Path(__file__).parents[1]
ROWS = [pytest.param(row, id=f"{row.backbone}-{row.name}") for row in zoo.SHIPPED]


def built(row: zoo.Weights, **changed: object) -> torch.nn.Module:
    spec = SPECS[row.backbone].at(frames=row.frames, crop=row.crop)
    return build_backbone(
        row.backbone, num_classes=7, weights=row.name, spec=spec, **{**row.options, **changed}
    )


@pytest.mark.parametrize("row", ROWS)
def test_they_load_completely_but_for_the_head(row):
    assert row.file is not None
    assert row.file.stat().st_size <= 1_500_000
    assert zoo.find(row.backbone, row.name) is row
    assert zoo.class_names(row.name) == CLASSES
    state = read(row.file).state
    assert {value.dtype for value in state.values()} == {torch.float16}
    model = built(row)
    loaded = model.loaded
    own = model.state_dict()
    assert set(loaded.matched) | set(loaded.missing) | set(loaded.reinitialised) == set(own)
    assert all(name.startswith(f"{model.head_name}.") for name in loaded.reinitialised)
    assert all(name.endswith("num_batches_tracked") for name in loaded.missing)
    for name in loaded.matched:
        assert torch.equal(own[name], state[name].float())
    assert len(state[f"{model.head_name}.weight"]) == row.classes == len(CLASSES)


def test_another_size_is_refused_with_the_size_that_there_is():
    with pytest.raises(
        WeightsError, match=r"(?s)weights=motions of tiny are of one size: backbone\.width=16\. .*"
    ):
        built(zoo.find("tiny", "motions"), width=8)


def test_a_damaged_file_is_refused(tmp_path, monkeypatch):
    row = zoo.find("tiny", "motions")
    content = bytearray(row.file.read_bytes())
    content[-1] ^= 1
    damaged = tmp_path / row.file.name
    damaged.write_bytes(content)
    monkeypatch.setattr(zoo, "SHIPPED", (replace(row, file=damaged),))
    with pytest.raises(WeightsError, match=r"not the file that this package was made with"):
        built(row)


@pytest.mark.slow
def test_the_command_makes_a_file_and_its_row(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    few = (
        "dataset.train=64",
        "dataset.val=52",
        "dataset.test=52",
        "trainer.epochs=1",
        f"data.root={tmp_path}/data",
    )
    request = WeightsRequest(("tiny",), launch="warm", output=str(tmp_path / "runs"), overrides=few)
    for again in (False, True):
        assert make_weights(request, tmp_path / "out") == 0
        assert ("1 finished before" in capsys.readouterr().out) == again
    (row,) = json.loads((tmp_path / "out" / "shipped.json").read_text())
    file = tmp_path / "out" / row["file"]
    assert row["sha256"] == sha256_of(file)
    run = next((tmp_path / "runs").rglob("result.json")).parent
    assert row["top1"] == round(json.loads((run / "result.json").read_text())["top1"], 1)
    trained, shipped = read(run).state, read(file).state
    for name, value in shipped.items():
        assert torch.equal(value, trained[name].half())
    longer = replace(request, overrides=(*few, "trainer.epochs=2"))
    with pytest.raises(RunError, match=r"(?s)another config.*trainer\.epochs: 1"):
        make_weights(longer, tmp_path / "out")


@pytest.mark.slow
def test_a_network_that_is_trained_again_starts_from_its_first_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    conf = tmp_path / "conf"
    (conf / "pretraining").mkdir(parents=True)
    file = yaml.safe_load((ROOT / "conf/pretraining/motions.yaml").read_text())
    file["again"] = {"tiny": ["trainer.epochs=2"]}
    (conf / "pretraining/motions.yaml").write_text(yaml.safe_dump(file))
    monkeypatch.setattr(pretraining, "conf_folder", lambda: conf)
    few = ("dataset.train=64", "dataset.val=52", "dataset.test=52", f"data.root={tmp_path}/data")
    request = WeightsRequest(("tiny",), launch="warm", output=str(tmp_path / "runs"), overrides=few)
    assert make_weights(replace(request, dry=True), tmp_path / "out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines] == [["tiny", "not", "run"]] * 2
    assert make_weights(request, tmp_path / "out") == 0
    first, second = (Path(line.split()[-1]) for line in lines)
    assert Run(second).config["init_from"] == str(first)
    assert (Run(first).result["epoch"], Run(second).result["epoch"]) == (14, 2)
    started = read_weights(second)
    assert started["source"].startswith(f"{first}/checkpoints/")
    assert started["sha256"] == sha256_of(Path(started["source"]))
    assert not started["reinitialised"]  # the head is loaded, too
    shipped, trained = read(tmp_path / "out" / "tiny-motions.safetensors").state, read(second).state
    assert all(torch.equal(value, trained[name].half()) for name, value in shipped.items())
