"""Exported models against the models themselves, for every backbone and format, in batches of sizes not traced."""

import json
import sys

import numpy as np
import pytest
import torch

from vmp.backbones import backbone_spec, build_backbone
from vmp.commands.export import main
from vmp.data.sampler import generator
from vmp.exporting import CLOSE, READERS, SUFFIXES, WRITERS, Logits, compare, make_graph
from vmp.extensions.layer import ExtendedPrompt
from vmp.extensions.patch import PatchPowerNorm
from vmp.extensions.per_clip import PerClip
from vmp.layer import MotionPrompt
from vmp.model import PromptedClassifier
from vmp.pathways import pathway_frames

SMALL = {  # the builder's options and the size
    "tiny": ({"width": 4}, {"frames": 4, "crop": 32}),
    "c2d": ({"width": 8, "blocks": 1}, {"frames": 4, "crop": 32}),
    "i3d": ({"width": 8, "blocks": 1}, {"frames": 4, "crop": 32}),
    "slowfast": ({"width": 8, "blocks": 1}, {"frames": 8, "crop": 32}),
    "x3d_s": ({"width": 8, "blocks": 1}, {"frames": 4, "crop": 32}),
    "i3d_inception": ({"width": 4}, {"frames": 8, "crop": 32}),
    "timesformer": ({"dim": 24, "depth": 2, "heads": 2}, {"frames": 2, "crop": 32}),
}


# reading a graph takes long, and the ONNX files of the other backbones are made from theirs
READ_AGAIN = ("tiny", "slowfast", "timesformer")


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_exported_logits_are_the_models(name, tmp_path):
    """The prompts are in the graph: their slope is far from the start, and without it the logits would differ."""
    options, size = SMALL[name]
    spec = backbone_spec(name).at(**size)
    torch.manual_seed(int(generator(0, 0, 0).integers(2**31)))
    backbone = build_backbone(name, num_classes=5, spec=spec, **options)
    prompts = {p: MotionPrompt(mean=spec.mean, std=spec.std, m=0.2, n=0.1) for p in spec.pathways}
    pathways = (
        pathway_frames(frames=spec.frames, alpha=spec.alpha, prompted=spec.pathways)
        if spec.alpha > 1
        else None
    )
    model = Logits(PromptedClassifier(backbone, prompts=prompts, pathway_frames=pathways)).eval()
    shape = (3, pathways.frames if pathways else spec.frames + 1, spec.test_crop, spec.test_crop)
    with torch.no_grad():
        backbone.get_submodule(backbone.head_name).weight.normal_()  # it starts near zero
        for module in backbone.modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                module.momentum = 1.0
        model.train()(
            torch.randint(0, 256, (4, *shape), dtype=torch.uint8)
        )  # activations of a trained network's size
        model.eval()
        clips = torch.zeros(2, *shape, dtype=torch.uint8)
        program = make_graph(model, clips, format="onnx")
        script = make_graph(model, clips, format="torchscript")
        for form, write in WRITERS.items():
            if form == "torch_export" and name not in READ_AGAIN:
                continue
            file = tmp_path / f"model{SUFFIXES[form]}"
            write(script if form == "torchscript" else program, file)
            read = READERS[form](file)
            assert compare(model, read, shape) <= CLOSE, form
        model.model.prompts[spec.pathways[0]].n.fill_(0.9)
        assert compare(model, read, shape) > 10 * CLOSE


class Steep(torch.nn.Module):
    """A power normalisation of a user's own."""

    def __init__(self):
        super().__init__()
        self.steep = torch.nn.Parameter(torch.tensor(3.0))

    def forward(self, d):
        return torch.sigmoid(self.steep * d.abs())


@pytest.mark.slow
@pytest.mark.parametrize(
    "prompts",
    [
        MotionPrompt(power_norm=Steep()),
        ExtendedPrompt(power_norm=PerClip(), scales=(1, 2)),
        ExtendedPrompt(power_norm=PatchPowerNorm(patch=8), compensate="affine"),
    ],
    ids=("own", "per_clip", "patch_compensated"),
)
def test_layers_beyond_the_paper_are_exported_for_any_batch(prompts, tmp_path):
    spec = backbone_spec("tiny").at(frames=4, crop=32)
    backbone = build_backbone("tiny", num_classes=5, spec=spec, width=4)
    torch.nn.init.normal_(backbone.get_submodule(backbone.head_name).weight)  # it starts near zero
    model, shape = Logits(PromptedClassifier(backbone, prompts={"video": prompts})).eval(), (3, 5, 32, 32)
    with torch.no_grad():
        for form in ("torch_export", "torchscript"):
            file = tmp_path / f"model{SUFFIXES[form]}"
            WRITERS[form](make_graph(model, torch.zeros(2, *shape, dtype=torch.uint8), format=form), file)
            read = READERS[form](file)
            assert compare(model, read, shape) <= CLOSE, form
        for parameter in prompts.power_norm.parameters():
            parameter.add_(1.0)
        assert compare(model, read, shape) > 10 * CLOSE


@pytest.mark.slow
def test_a_run_becomes_a_file_that_onnxruntime_runs(finished, tmp_path, monkeypatch, capsys):
    import onnxruntime

    import vmp

    out = tmp_path / "tiny.onnx"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["export", f"run={finished}", "format=onnx", "out=~/tiny.onnx"])
    main()
    said = capsys.readouterr().out
    assert "clips (batch, 3, 5, 32, 32) uint8 -> logits (batch, 2)" in said
    about = json.loads((tmp_path / "tiny.onnx.json").read_text())
    trained = vmp.load(finished, device="cpu")
    assert about["classes"] == list(trained.classes)
    assert about["scalars"].keys() >= {"slope", "shift"}
    clips = torch.randint(0, 256, (5, *about["input"]["shape"][1:]), dtype=torch.uint8)
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {about["input"]["name"]: clips.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, trained.model(clips).logits.numpy(), atol=1e-4)


def test_logits_that_are_not_numbers_are_a_difference():
    def model(clips):
        return clips.float().mean(dim=(2, 3, 4))

    assert compare(model, model, (3, 2, 4, 4)) == 0
    assert np.isnan(compare(model, lambda clips: model(clips).fill_(torch.nan), (3, 2, 4, 4)))


@pytest.mark.slow
def test_a_torch_export_has_the_suffix_that_torch_reads(finished, tmp_path, monkeypatch):
    from vmp.errors import UserError

    words = ["export", f"run={finished}", "format=torch_export", f"out={tmp_path / 'model.pt'}"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(UserError, match=r"files named \*\.pt2 only"):
        main()


def test_what_cannot_be_exported_is_an_error(monkeypatch):
    from vmp.errors import UserError

    for words, message in (
        (["run=x", "format=coreml"], "must be one of torch_export, onnx, torchscript"),
        (["format=onnx"], "name a model"),
        (["run=x", "format=onnx", "y"], "KEY=VALUE"),
        (["run=x", "format=onnx"], "no run there"),
    ):
        monkeypatch.setattr(sys, "argv", ["export", *words])
        with pytest.raises(UserError, match=message):
            main()
