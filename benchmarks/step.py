"""A training step with prompts: ours, ours with each switch of conf/trainer, and other implementations."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.layer import DirectLayer
from benchmarks.measure import (
    Row,
    compose,
    describe_machine,
    device_type,
    median_seconds,
    peak_memory,
    print_rows,
    time_call,
)
from vmp.engine.precision import AUTOCAST, autocast_type, make_scaler
from vmp.errors import ConfigError
from vmp.kernels.amx import has_amx
from vmp.paper.timing import random_batch, size_of

CLASSES = 400
OURS = "ours, float32"
AUTHORS = "plain, float32, anomaly mode"  # the published recipe: eager, with autograd's anomaly detection on
CPU_CROP = 112  # pixels per side of a clip on a CPU


class StepResult(NamedTuple):
    """backbone: its name with its size; size: key of all its sizes (`size_of`); machine: where it was measured."""

    backbone: str
    size: str
    machine: str
    rows: list[Row]


@dataclass(frozen=True)
class Variant:
    """switches: overrides of train.py. net: whose backbone, "ours", "stock" (pytorchvideo unchanged) or "hf" (Hugging
    Face's). direct: Eq. 1-6 transcribed, and attention without fused kernels. anomaly: autograd's anomaly detection."""

    switches: tuple[str, ...] = ()
    net: str = "ours"
    direct: bool = False
    anomaly: bool = False

    @property
    def comparable(self) -> bool:
        """Whether its loss is that of ours: the same weights and prompts."""
        return self.net != "hf" and "vmp=none" not in self.switches


def list_variants(backbone: str, *, everywhere: bool = False) -> dict[str, Variant]:
    """everywhere: also what this device is slow at or does not have."""
    fp16, bf16, tf32 = "trainer.amp=fp16", "trainer.amp=bf16", "trainer.tf32=true"
    compiled, last, bare = "trainer.compile=true", "trainer.channels_last=true", ("vmp=none", "vmp.lambda=0")
    ours = {
        OURS: Variant(),
        "ours, float32, without prompts": Variant(bare),
        "ours, TF32": Variant((tf32,)),
        "ours, fp16": Variant((fp16,)),
        "ours, compile": Variant((compiled,)),
        "ours, bf16": Variant((bf16,)),
        "ours, bf16, without prompts": Variant((bf16, *bare)),
        "ours, bf16, compile": Variant((bf16, compiled)),
    }
    if backbone.startswith("timesformer"):
        variants = {
            "plain, float32": Variant(direct=True),
            "Hugging Face, float32": Variant(net="hf", direct=True),
            **ours,
            "Hugging Face, bf16": Variant((bf16,), net="hf", direct=True),
            "Hugging Face, bf16, compile": Variant((bf16, compiled), net="hf", direct=True),
            AUTHORS: Variant(direct=True, anomaly=True),
        }
    else:
        variants = {
            "stock pytorchvideo, float32": Variant(net="stock", direct=True),
            "stock pytorchvideo, channels_last": Variant((last,), net="stock", direct=True),
            **ours,
            "ours, fused": Variant(("trainer.fused=true",)),
            "ours, channels_last": Variant((last,)),
            "ours, bf16, channels_last": Variant((bf16, last)),
            "stock pytorchvideo, bf16, channels_last": Variant((bf16, last), net="stock", direct=True),
            "ours, bf16, compile, channels_last": Variant((bf16, compiled, last)),
            AUTHORS: Variant(net="stock", direct=True, anomaly=True),
        }
    if not find_spec("transformers"):
        print("transformers is not installed: Hugging Face's TimeSformer is left out")
        variants = {name: v for name, v in variants.items() if v.net != "hf"}
    if device_type() == "cpu" and not everywhere:
        slow = {tf32, fp16, *([] if has_amx() else [bf16])}  # without matrix units for it, bf16 takes minutes
        variants = {name: v for name, v in variants.items() if slow.isdisjoint(v.switches)}
    return variants


def choose_variants(backbone: str, wanted: Sequence[str]) -> dict[str, Variant]:
    """Ours in float32 and the wanted ones, where there are names, of those that suit the device.

    Raises:
        ConfigError: there is no such variant here.
    """
    variants = list_variants(backbone)
    if unknown := [name for name in wanted if name not in variants]:
        raise ConfigError(
            f"--variants: no {' and no '.join(map(repr, unknown))} of {backbone} on this device; there are\n  "
            + "\n  ".join(variants)
        )
    return {name: v for name, v in variants.items() if not wanted or name in (*wanted, OURS)}


def bench_step(
    backbone: str,
    *,
    batch: int,
    rounds: int,
    steps: int,
    overrides: Sequence[str],
    variants: Mapping[str, Variant],
) -> StepResult:
    """Milliseconds of each variant, clips per second, memory and the share of the device's peak in matrix products.

    All variants start from the same weights and see the same clips, so "apart" shows whether one computes something
    else: the largest difference of its loss to ours in float32 over `steps` updates, relative to the first loss.

    Args:
        variants: with ours in float32 among them.
    """
    torch._dynamo.reset()  # it compiles a limited number of models of one class
    torch.cuda.empty_cache()
    device = device_type()
    fixed = [f"backbone={backbone}", "trainer=paper", "backbone.weights=none", "vmp.lambda=1"]
    fixed += [f"backbone.crop={CPU_CROP}"] if device == "cpu" else []
    fixed += ["trainer.channels_last=false", *overrides, "backbone.dropout=0"]
    fixed += ["backbone.drop_path=0"] if backbone.startswith("timesformer") else []
    config = compose(fixed)
    losses: dict[str, list[Tensor]] = {name: [] for name in variants}
    updates = {
        name: make_update(compose([*fixed, *variant.switches]), variant, batch, losses[name])
        for name, variant in variants.items()
    }
    times = median_seconds(updates, rounds, report=lambda text: print(f"{backbone}:{text}", flush=True))
    peaks = {name: peak_memory(update) for name, update in updates.items()} if device == "cuda" else {}
    for name, update in updates.items():
        while len(losses[name]) < steps:
            update()
    flops = 3 * batch * forward_flops(config)  # torch miscounts the gradients of grouped convolutions
    rows = []
    for name, seconds in times.items():
        first = next(iter(times.values()))
        row: Row = {"what": name, "ms": 1e3 * seconds, "clips/s": batch / seconds, "faster": first / seconds}
        if name in peaks:
            row["peak_mb"] = peaks[name]
        narrow = next((dtype for amp, dtype in AUTOCAST.items() if amp in name), None)
        tf32 = "TF32" in name or not backbone.startswith("timesformer")
        row["of peak"] = flops / seconds / matrix_peak(narrow or torch.float32, tf32=tf32)
        if variants[name].comparable:
            mine, ours = (torch.stack(losses[key][:steps]).float() for key in (name, OURS))
            row["apart"] = float((mine - ours).abs().max() / ours[0])  # NaN if any loss is
        rows.append(row)
    title = f"training step of {backbone} with prompts, {batch} clips of {config.backbone.spec.crop}"
    print_rows(f"{title}, {flops / batch / 1e9:.0f} GFLOP each", rows)
    return StepResult(config.backbone.key, size_of(config.backbone.model_dump()), describe_machine(), rows)


def forward_flops(config: Any) -> float:
    """Operations of one training clip through the backbone; a multiplication and an addition count as two."""
    from torch.utils.flop_counter import FlopCounterMode

    from vmp.backbones import build_backbone

    spec = config.backbone.spec
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


def make_update(
    config: Any, variant: Variant, batch: int, losses: list[Tensor], *, model: Any = None
) -> Callable[[], None]:
    """One update on clips that are on the device; its loss is appended to `losses`. model: None for the variant's."""
    from vmp.build import build_optimizer, set_precision_switches
    from vmp.objective import Objective

    device = device_type()
    model = (model or _build_model(config, variant)).to(device).train()
    objective = Objective(variation_weight=1.0)
    optimizer = build_optimizer(config, model)
    dtype = autocast_type(config.trainer.amp)
    scaler = make_scaler(torch.device(device), dtype)
    clips, labels = random_batch(model, config, batch, torch.device(device), classes=CLASSES)
    forward = torch.compile(model, dynamic=False) if config.trainer.compile else model

    def update() -> None:
        set_precision_switches(config)  # another model may have set its own
        optimizer.zero_grad(set_to_none=True)
        with ExitStack() as modes:
            if variant.direct and variant.net == "ours":
                modes.enter_context(sdpa_kernel(SDPBackend.MATH))
            modes.enter_context(torch.autograd.set_detect_anomaly(variant.anomaly))
            with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
                out = forward(clips)
            loss = objective(out.logits, labels, out.variations)["loss"]
            scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.detach())

    return update


def _build_model(config: Any, variant: Variant) -> Any:
    """The classifier with prompts, every variant from the same weights."""
    from vmp.backbones import convnets
    from vmp.build import build_model

    model: Any = build_model(config, CLASSES)
    if variant.net == "stock":
        with patch.object(convnets, "_replace_layers", lambda net: None):
            stock = build_model(config, CLASSES)
        stock.load_state_dict(model.state_dict())
        model = stock
    if variant.net == "hf":
        model.backbone = _HuggingFace(config.backbone)
    if variant.direct:
        for name, layer in model.prompts.items():
            model.prompts[name] = DirectLayer(layer)
    return model


class _HuggingFace(nn.Module):
    """Hugging Face's TimeSformer in the sizes of our backbone: (B, 3, T, H, W) -> (B, classes)."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        from transformers import TimesformerConfig, TimesformerForVideoClassification

        ours = backbone.options()
        dim = ours.get("dim") or 768
        config = TimesformerConfig(
            image_size=backbone.spec.crop,
            patch_size=ours.get("patch") or 16,
            num_frames=backbone.spec.frames,
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


@cache
def matrix_peak(dtype: torch.dtype, *, tf32: bool) -> float:
    """FLOP/s of a large square matrix product here. tf32: float32 on TF32 units, as torch's convolutions."""
    device = device_type()
    side = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, tf32
    seconds = min(time_call(lambda: torch.mm(a, b)) for _ in range(8))
    torch.backends.cuda.matmul.allow_tf32 = before
    return 2 * side**3 / seconds
