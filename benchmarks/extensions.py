"""What the layers beyond the paper cost: every arm of conf/study/extensions.yaml, the layer alone and a training step.

Notes:
- the arms run one after another in every round, with the study's own settings, in which V is not computed (lambda = 0);
- a layer alone is forward and backward to its parameters, and to the maps inside a network; without prompts it is the
  normalisation of the frames, which a prompt layer does as well;
- a step is an update of the whole network from clips in memory: no decoding.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import (
    Row,
    compose,
    device_type,
    median_seconds,
    peak_memory,
    print_rows,
)
from benchmarks.step import CLASSES, Variant, make_update
from vmp.build import build_model, set_precision_switches
from vmp.layer import normalize
from vmp.paper.timing import random_batch

NONE, PAPER = "none", "learned"  # the arms that others are compared with
LARGE = ["backbone=i3d", "backbone.weights=none", "backbone.frames=8", "trainer.channels_last=false"]


def bench_extensions(*, batch: int, rounds: int, crop: int) -> dict[str, list[Row]]:
    """Rows of the miniature, with the study's batch, and of I3D-R50 at `crop` pixels with `batch` clips."""
    from vmp.paper.study import load_study

    study = load_study("extensions")
    arms = {name: study.overrides_of("moving", name, study.default_setting) for name in study.arms}
    arms["constant"] += ["vmp.level=0.99"]  # not that of a run
    mini = [*study.overrides, *study.sets["moving"].overrides, "backbone.weights=none"]
    large = ["dataset=motions", *LARGE, f"backbone.crop={crop}", "trainer=paper"]
    found = {}
    for name, fixed, count in (("miniature", mini, 32), (f"{crop} pixels", large, batch)):
        found[name] = time_arms({arm: [*fixed, *own] for arm, own in arms.items()}, count, rounds)
        backbone = compose([*fixed, *arms[NONE]]).backbone
        spec = backbone.spec
        title = f"{backbone.key}, {count} clips of {spec.frames} frames of {spec.crop} pixels"
        print_rows(f"layers beyond the paper, {title}", found[name])
    return found


def time_arms(arms: dict[str, list[str]], batch: int, rounds: int) -> list[Row]:
    """arms: name -> overrides; the baseline and the paper's layer are among them."""
    layers, steps = {}, {}
    for arm, overrides in arms.items():
        config = compose(overrides)
        layers[arm] = _layer_call(config, batch)
        steps[arm] = make_update(config, Variant(), batch, [])
    rows: dict[str, Row] = {arm: {"what": arm} for arm in arms}
    for part, calls in (("layer", layers), ("step", steps)):
        many = 5 * rounds if part == "layer" else rounds  # a layer takes milliseconds
        times = median_seconds(calls, many, report=lambda text: print(text, flush=True))
        for arm, call in calls.items():
            rows[arm] |= {f"{part} ms": 1e3 * times[arm]}
            rows[arm] |= {f"{part} / {other}": times[arm] / times[other] for other in (NONE, PAPER)}
            rows[arm][f"{part} MB"] = peak_memory(call)
    return list(rows.values())


def _layer_call(config: Any, batch: int) -> Callable[[], None]:
    """Forward and backward of all that stands between uint8 clips and the backbone, and inside it."""
    set_precision_switches(config)  # an earlier part may have set others
    model = build_model(config, CLASSES).to(device_type()).train()
    clips, _ = random_batch(model, config, batch, torch.device(device_type()), classes=CLASSES)
    maps: list[Tensor] = []
    handles = [
        layer.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0].detach().requires_grad_()))
        for layer in model.inside.values()
    ]
    model(clips)
    for handle in handles:
        handle.remove()
    inside = list(zip(model.inside.values(), maps, strict=True))
    prompts: Any = model.prompts["video"] if model.prompts else None

    def forward() -> list[Tensor]:
        x = prompts(clips, variation=False)[0] if prompts else normalize(clips[:, :3], model.mean, model.std)
        made = [layer(each, variation=False)[0] for layer, each in inside]
        return [out for out in (x, *made) if out.requires_grad]

    gradients = [torch.ones_like(out) for out in forward()]

    def call() -> None:
        model.zero_grad()
        for each in maps:
            each.grad = None
        if outs := forward():
            torch.autograd.backward(outs, gradients)

    return call
