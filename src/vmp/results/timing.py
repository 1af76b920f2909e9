"""Table 8: seconds that a batch takes, forward and backward in training and forward in testing."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from vmp.config import Config

CLASSES = 51  # HMDB-51's
PARTS = ("forward", "backward", "test_forward")


def time_models(
    configs: Sequence[Config],
    *,
    batch: int,
    repeats: int,
    device: str,
    warm: int = 2,
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Time several models in turns: what disturbs one turn disturbs all.

    Clips are uint8, of the training crop, on the device already. "forward" is the model with its prompts and the loss;
    "backward" its gradients; no update. In trainer.amp's type, never compiled.

    Args:
        warm: turns that do not count.

    Returns:
        for each config: mean and standard deviation of each part in seconds, and the parameters.
    """
    import torch

    from vmp.build import backbone_spec, build_model
    from vmp.objective import Objective

    on = torch.device(device)
    ready = []
    for config in configs:
        spec = backbone_spec(config)
        model = build_model(config, CLASSES, spec).to(on)
        frames = model.cut.frames if model.cut else spec.frames + (1 if model.prompts else 0)
        made = torch.Generator().manual_seed(0)
        clips = torch.randint(
            0, 256, (batch, 3, frames, spec.crop, spec.crop), dtype=torch.uint8, generator=made
        ).to(on)
        labels = torch.arange(batch, device=on) % CLASSES
        objective = Objective(
            variation_weight=config.vmp.lambda_, label_smoothing=config.optim.label_smoothing
        )
        narrow = torch.autocast(on.type, dtype=torch.bfloat16, enabled=config.trainer.amp == "bf16")
        ready.append((model, objective, clips, labels, narrow))

    def timed(f: Callable[[], Any]) -> tuple[float, Any]:
        if on.type == "cuda":
            torch.cuda.synchronize(on)
        began = time.perf_counter()
        out = f()
        if on.type == "cuda":
            torch.cuda.synchronize(on)
        return time.perf_counter() - began, out

    seconds: list[dict[str, list[float]]] = [{part: [] for part in PARTS} for _ in ready]
    for turn in range(-warm, repeats):
        for i, (model, objective, clips, labels, narrow) in enumerate(ready):
            model.train()
            model.zero_grad(set_to_none=True)

            def forward(
                model: Any = model,
                objective: Any = objective,
                clips: Any = clips,
                labels: Any = labels,
                narrow: Any = narrow,
            ) -> Any:
                with narrow:
                    out = model(clips)
                return objective(out.logits, labels, out.variations)["loss"]

            forth, loss = timed(forward)
            back, _ = timed(loss.backward)
            del loss
            model.eval()
            with torch.inference_mode(), narrow:
                test, _ = timed(partial(model, clips))
            if turn >= 0:
                for part, value in zip(PARTS, (forth, back, test), strict=True):
                    seconds[i][part].append(value)
        say(f"  turn {turn + warm + 1} of {repeats + warm}")
    return [
        {
            **{p: [statistics.mean(s[p]), statistics.stdev(s[p])] for p in PARTS},
            "parameters": sum(p.numel() for p in model.parameters()),
        }
        for s, (model, *_) in zip(seconds, ready, strict=True)
    ]
