"""A trained model as one file that needs none of this project: torch.export, ONNX or TorchScript.

Notes:
- the graph goes from uint8 clips (B, 3, frames, S, S) to logits (B, classes) for any B: prompts with their slope and
  shift, and the normalisation of frames, are in it;
- what was written is read again and run on other clips than it was made with; a file that says something else is not
  kept.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from vmp.build import clip_shape
from vmp.errors import UserError
from vmp.files import replacing, write_json
from vmp.model import PromptedClassifier
from vmp.trained import TrainedModel

SUFFIXES = {"torch_export": ".pt2", "onnx": ".onnx", "torchscript": ".pt"}
CLOSE = 1e-4  # of logits; if the largest is above 1, relative to it


class Logits(nn.Module):
    """A PromptedClassifier that returns its logits only."""

    def __init__(self, model: PromptedClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, clips: Tensor) -> Tensor:
        return self.model(clips).logits


def export(trained: TrainedModel, out: Path, *, format: str) -> str:
    """Write a model on the CPU to `out`, and what its input and classes are to `out`.json; returns a summary.

    Raises:
        UserError: no such format, a missing package, a model that cannot be exported, or a file that does not give the
            model's logits.
    """
    if format not in SUFFIXES:
        raise UserError(f"format = {format!r}: must be one of {', '.join(SUFFIXES)}")
    if format == "torch_export" and out.suffix != ".pt2":
        raise UserError(f"out = {out}: torch.export reads and writes files named *.pt2 only")
    if format == "onnx":
        _check_onnx()
    shape = clip_shape(trained.config, trained.model, crops=trained.views[1])
    if shape.channels != 3:
        raise UserError("vmp=oracle needs masks that only dataset=motions has, so it cannot be exported")
    size = (3, shape.frames, shape.test_crop, shape.test_crop)
    model = Logits(trained.model).eval()
    with replacing(out) as temporary:
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # of what is static in a graph: all but the batch
                graph = make_graph(model, torch.zeros(2, *size, dtype=torch.uint8), format=format)
                WRITERS[format](graph, temporary)
                difference = compare(model, READERS[format](temporary), size)
        except (RuntimeError, ValueError, TypeError, TorchDynamoException) as error:
            first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise UserError(
                f"{trained.config.backbone.key} with vmp={trained.config.vmp.kind} cannot be exported as {format}: "
                f"{first}\nAnother format may work: {', '.join(name for name in SUFFIXES if name != format)}."
            ) from error
        if not difference <= CLOSE:  # NaN is not
            raise UserError(
                f"{out}: the logits of the {format} file differ from the model's by {difference:.2g}, more than "
                f"{CLOSE:g}; it was not kept"
            )
    about = {
        "format": format,
        "input": {"name": "clips", "type": "uint8", "shape": ["batch", *size], "channels": "RGB"},
        "output": {"name": "logits", "shape": ["batch", len(trained.classes)]},
        "frames": {
            "stride": shape.stride,
            "spacing": shape.spacing,
            "fps": shape.fps,  # for which the stride is meant; null: the video's own
            "short_side": shape.test_side,
            "crop": shape.test_crop,
        },
        "views": list(trained.views),
        "summed_over_views": trained.spec.reduce,
        "backbone": trained.config.backbone.key,
        "scalars": {name: float(value) for name, value in trained.model.scalars().items()},
        "classes": list(trained.classes),
        "torch": torch.__version__,
    }
    write_json(out.with_name(f"{out.name}.json"), about)
    return (
        f"{out} ({out.stat().st_size / 1e6:.1f} MB): clips (batch, {', '.join(map(str, size))}) uint8 -> "
        f"logits (batch, {len(trained.classes)}); differs from the model by {difference:.1g} at most"
    )


def compare(model: nn.Module, exported: Callable[[Tensor], Tensor], size: tuple[int, ...]) -> float:
    """The largest difference of logits on random clips, in batches of one and of three; NaN where one is NaN."""
    random, worst = torch.Generator().manual_seed(0), torch.zeros(())
    for batch in (1, 3):
        clips = torch.randint(0, 256, (batch, *size), dtype=torch.uint8, generator=random)
        wanted = model(clips)
        found = exported(clips)
        worst = torch.maximum(worst, (found - wanted).abs().max() / wanted.abs().max().clamp(min=1))
    return float(worst)


def make_graph(model: nn.Module, clips: Tensor, *, format: str) -> Any:
    """The operations from clips (2, 3, frames, S, S) to logits, for a batch of any size: an ExportedProgram, from which
    the ONNX file is written too, or a ScriptModule."""
    if format == "torchscript":
        return torch.jit.trace(model, clips, check_trace=False)
    return torch.export.export(model, (clips,), dynamic_shapes={"clips": {0: torch.export.Dim("batch")}})


def write_onnx(program: Any, path: Path) -> None:
    torch.onnx.export(
        program,
        (),
        path,
        input_names=["clips"],
        output_names=["logits"],
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def read_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda clips: torch.from_numpy(session.run(None, {"clips": clips.numpy()})[0])


WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "torch_export": torch.export.save,
    "onnx": write_onnx,
    "torchscript": lambda script, path: torch.jit.save(script, str(path)),
}
READERS: dict[str, Callable[[Path], Callable[[Tensor], Tensor]]] = {
    "torch_export": lambda path: torch.export.load(path).module(),
    "onnx": read_onnx,
    "torchscript": lambda path: torch.jit.load(str(path)),
}


def _check_onnx() -> None:
    import importlib.util

    if missing := [
        name for name in ("onnx", "onnxscript", "onnxruntime") if not importlib.util.find_spec(name)
    ]:
        raise UserError(f"format=onnx needs {', '.join(missing)}: pip install '.[onnx]'")
