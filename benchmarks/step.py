"""A training step with prompts: as it is, with each switch of conf/trainer, and as others do it."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.layer import PageLayer
from benchmarks.turns import Row, machine, on_device, show, take_turns, timed, wait
from vmp.paper.timing import size_of

CLASSES = 400
OURS = "ours, float32"
AUTHORS = "plain, float32, anomaly mode"  # the published recipe: eager, with autograd's anomaly detection on
SMALL = 112  # pixels a side on a CPU


class Steps(NamedTuple):
    """backbone: its name with its size. size: all of its sizes. machine: where the rows were measured."""

    backbone: str
    size: str
    machine: str
    rows: list[Row]


Compose = Callable[[list[str]], tuple[Any, Any]]  # overrides -> the checked config and its backbone's spec


@dataclass(frozen=True)
class Way:
    """switches: of train.py. net: whose backbone, "ours", "stock" (pytorchvideo as it comes) or "hf" (Hugging Face's).
    page: the layer by the page, and attention written out. anomaly: autograd's anomaly detection."""

    switches: tuple[str, ...] = ()
    net: str = "ours"
    page: bool = False
    anomaly: bool = False


def ways_for(backbone: str, device: str) -> dict[str, Way]:
    bf16, compiled, last = "trainer.amp=bf16", "trainer.compile=true", "trainer.channels_last=true"
    if backbone.startswith("timesformer"):
        ways = {
            "plain, float32": Way(page=True),
            "Hugging Face, float32": Way(net="hf", page=True),
            OURS: Way(),
            "ours, compile": Way((compiled,)),
            "Hugging Face, bf16": Way((bf16,), net="hf", page=True),
            "Hugging Face, bf16, compile": Way((bf16, compiled), net="hf", page=True),
            "ours, bf16": Way((bf16,)),
            "ours, bf16, compile": Way((bf16, compiled)),
        }
    else:
        ways = {
            "stock pytorchvideo, float32": Way(net="stock", page=True),
            OURS: Way(),
            "ours, fused": Way(("trainer.fused=true",)),
            "ours, channels_last": Way((last,)),
            "ours, compile": Way((compiled,)),
            "ours, bf16": Way((bf16,)),
            "ours, bf16, channels_last": Way((bf16, last)),
            "ours, bf16, compile": Way((bf16, compiled)),
            "ours, bf16, compile, channels_last": Way((bf16, compiled, last)),
        }
    ways[AUTHORS] = Way(
        net="ours" if backbone.startswith("timesformer") else "stock", page=True, anomaly=True
    )
    if device == "cpu":  # without matrix units for it, bf16 takes minutes
        ways = {name: way for name, way in ways.items() if bf16 not in way.switches}
    return ways


def bench_step(
    backbone: str,
    compose: Compose,
    *,
    batch: int,
    repeats: int,
    steps: int,
    overrides: Sequence[str] = (),
) -> Steps:
    """Of each way milliseconds, clips a second, memory and the share of the device's matrix peak.

    All ways start from the same weights and see the same clips, so "apart" tells whether one computes something else:
    the largest difference of its loss to ours in float32 over `steps` updates, of the first loss.
    """
    torch._dynamo.reset()  # it compiles only so many models of one class
    torch.cuda.empty_cache()  # of the backbone before
    device = on_device()
    size = [] if device == "cuda" else [f"backbone.crop={SMALL}"]
    fixed = [f"backbone={backbone}", "backbone.weights=none", "vmp.lambda=1", *size]
    fixed += ["trainer.channels_last=false", *overrides, "backbone.dropout=0"]
    fixed += ["backbone.drop_path=0"] if backbone.startswith("timesformer") else []
    ways, steppers, models = ways_for(backbone, device), {}, {}
    losses: dict[str, list[Tensor]] = {}
    for name, way in ways.items():
        if way.net == "hf" and not _has_transformers():
            print(f"{name}: transformers is not installed")
            continue
        config, spec = compose([*fixed, *way.switches])
        losses[name] = []
        models[name] = _model(config, spec, way).to(device).train()
        steppers[name] = _stepper(models[name], config, spec, way, batch=batch, losses=losses[name])
    times = take_turns(steppers, repeats, say=lambda text: print(f"  {backbone}: {text}", flush=True))
    peaks = {name: _peak_memory(step) for name, step in steppers.items()} if device == "cuda" else {}
    for name, step in steppers.items():
        while len(losses[name]) < steps:
            step()
    # three forward passes: torch miscounts the gradients of grouped convolutions
    flops = 3 * batch * forward_flops(compose(fixed)[0])
    rows = []
    for name, seconds in times.items():
        plain = next(iter(times.values()))
        row: Row = {"what": name, "ms": 1e3 * seconds, "clips/s": batch / seconds, "faster": plain / seconds}
        if name in peaks:
            row["peak_mb"] = peaks[name] / 1e6
        narrow = torch.bfloat16 if "bf16" in name else torch.float32
        row["of peak"] = flops / seconds / matrix_peak(narrow, tf32=not backbone.startswith("timesformer"))
        if ways[name].net != "hf":  # its weights are its own
            mine, ours = (torch.stack(losses[way][:steps]).float() for way in (name, OURS))
            row["apart"] = float((mine - ours).abs().max() / ours[0])  # not a number if one is not
        rows.append(row)
    pixels = spec.crop
    title = f"training step of {backbone} with prompts, {batch} clips of {pixels}, {flops / batch / 1e9:.0f} GFLOP each"
    show(f"{title}; {machine()}", rows)
    return Steps(config.backbone.key, size_of(config.backbone.model_dump()), machine(), rows)


def forward_flops(config: Any) -> float:
    """Of one clip of the training crop through the backbone: two for each multiplication and addition."""
    from torch.utils.flop_counter import FlopCounterMode

    from vmp.backbones import build_backbone
    from vmp.build import backbone_spec

    spec = backbone_spec(config)
    with torch.device("meta"), torch.no_grad():
        net = build_backbone(
            config.backbone.key, num_classes=51, spec=spec, **config.backbone.options()
        ).eval()
        clips: Any = [
            torch.empty(1, 3, spec.frames // (spec.alpha if name == "slow" else 1), spec.crop, spec.crop)
            for name in spec.pathways
        ]
        with FlopCounterMode(display=False) as counter:
            net(clips if len(clips) > 1 else clips[0])
    return float(counter.get_total_flops())


def _has_transformers() -> bool:
    from importlib.util import find_spec

    return find_spec("transformers") is not None


def _model(config: Any, spec: Any, way: Way) -> nn.Module:
    """The classifier with prompts, all from the same weights."""
    from vmp.backbones import convnets
    from vmp.build import build_model

    model = build_model(config, CLASSES, spec)
    if way.net == "stock":
        with patch.object(convnets, "_clean", lambda net: None):
            stock = build_model(config, CLASSES, spec)
        stock.load_state_dict(model.state_dict())
        model = stock
    if way.net == "hf":
        model.backbone = _HuggingFace(config.backbone, spec)
    if way.page:
        for name, layer in model.prompts.items():
            model.prompts[name] = PageLayer(layer)  # type: ignore[arg-type]
    return model


class _HuggingFace(nn.Module):
    """Hugging Face's TimeSformer at our backbone's sizes: (B, 3, T, H, W) -> (B, classes)."""

    def __init__(self, backbone: Any, spec: Any) -> None:
        super().__init__()
        from transformers import TimesformerConfig, TimesformerForVideoClassification

        ours = backbone.options()
        dim = ours.get("dim") or 768
        config = TimesformerConfig(
            image_size=spec.crop,
            patch_size=ours.get("patch") or 16,
            num_frames=spec.frames,
            hidden_size=dim,
            intermediate_size=4 * dim,
            num_hidden_layers=ours.get("depth") or 12,
            num_attention_heads=ours.get("heads") or 12,
        )
        config.num_labels = CLASSES
        self.net = TimesformerForVideoClassification(config)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(pixel_values=x.transpose(1, 2)).logits
        return logits


def _stepper(
    model: Any, config: Any, spec: Any, way: Way, *, batch: int, losses: list[Tensor]
) -> Callable[[], None]:
    """One update from clips on the device, whose loss is added to `losses`."""
    from vmp.build import build_optimizer, choose_kernels
    from vmp.objective import Objective

    device = on_device()
    objective = Objective(variation_weight=1.0)
    optimizer = build_optimizer(config, model)
    frames = model.cut.frames if model.cut else spec.frames + 1
    made = torch.Generator().manual_seed(0)
    shape = (batch, 3, frames, spec.crop, spec.crop)
    clips = torch.randint(0, 256, shape, dtype=torch.uint8, generator=made).to(device)
    labels = torch.arange(batch, device=device)
    forward = torch.compile(model, dynamic=False) if config.trainer.compile else model

    def step() -> None:
        choose_kernels(config)  # the last model built has left its own
        optimizer.zero_grad(set_to_none=True)
        with ExitStack() as modes:
            written_out = sdpa_kernel(SDPBackend.MATH) if way.page and way.net == "ours" else nullcontext()
            modes.enter_context(written_out)
            modes.enter_context(torch.autograd.set_detect_anomaly(way.anomaly))
            with torch.autocast(device, dtype=torch.bfloat16, enabled=config.trainer.amp == "bf16"):
                out = forward(clips)
            loss = objective(out.logits, labels, out.variations)["loss"]
            loss.backward()
        optimizer.step()
        losses.append(loss.detach())

    return step


def _peak_memory(step: Callable[[], None]) -> int:
    """Bytes that a step takes beside what lies on the GPU between steps."""
    wait()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    wait()
    return torch.cuda.max_memory_allocated() - before


_PEAKS: dict[tuple[torch.dtype, bool], float] = {}


def matrix_peak(dtype: torch.dtype, *, tf32: bool) -> float:
    """FLOP/s of a large square matrix product here. tf32: float32 through TF32 units, as torch's convolutions go."""
    if (dtype, tf32) not in _PEAKS:
        device, side = on_device(), 8192 if on_device() == "cuda" else 1024
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, tf32
        seconds = min(timed(lambda: torch.mm(a, b)) for _ in range(8))
        torch.backends.cuda.matmul.allow_tf32 = before
        _PEAKS[dtype, tf32] = 2 * side**3 / seconds
    return _PEAKS[dtype, tf32]
