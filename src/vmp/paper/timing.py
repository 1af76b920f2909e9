"""Table 8: seconds that a batch takes, forward and backward in training and forward in testing."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from vmp.config import Config
from vmp.errors import RunError

QUIET = 0.85  # of a turn's wall time that its thread has to be on a CPU
ATTEMPTS = 4  # turns that are tried for one that counts
CLASSES = 51  # HMDB-51's
PARTS = ("forward", "backward", "test_forward")


@dataclass
class _Turn:
    """Seconds by the clock on the wall, and of this thread on a CPU."""

    wall: float = 0.0
    cpu: float = 0.0

    @property
    def share(self) -> float:
        return self.cpu / self.wall if self.wall else 1.0


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
    "backward" its gradients; no update. In trainer.amp's type, never compiled. A turn in which this thread had to wait
    for a CPU, by its CPU time against the wall, does not count and is taken again.

    Args:
        warm: turns that do not count.

    Raises:
        RunError: the machine is too busy: too few of the turns were undisturbed.

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

    turn = _Turn()

    def timed(f: Callable[[], Any]) -> tuple[float, Any]:
        if on.type == "cuda":
            torch.cuda.synchronize(on)
        began, on_cpu = time.perf_counter(), time.thread_time()
        out = f()
        if on.type == "cuda":
            torch.cuda.synchronize(on)
        took = time.perf_counter() - began
        turn.wall, turn.cpu = turn.wall + took, turn.cpu + time.thread_time() - on_cpu
        return took, out

    seconds: list[dict[str, list[float]]] = [{part: [] for part in PARTS} for _ in ready]
    kept = tried = 0
    while kept < repeats:
        if tried >= warm + ATTEMPTS * repeats:
            raise RunError(
                f"the timing was disturbed: {tried - warm - kept} of {tried - warm} turns had a CPU for less than "
                f"{100 * QUIET:.0f} % of their wall time (the last for {100 * turn.share:.0f} %). Nothing was kept; "
                "repeat it when nothing else runs on this machine."
            )
        turn.wall = turn.cpu = 0.0
        found = []
        for model, objective, clips, labels, narrow in ready:
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
            found.append((forth, back, test))
        tried += 1
        if tried <= warm:
            say(f"  warm-up {tried} of {warm}")
            continue
        if turn.share < QUIET:
            say(f"  disturbed (on a CPU for {100 * turn.share:.0f} % of the time): taken again")
            continue
        kept += 1
        for each, parts in zip(seconds, found, strict=True):
            for part, value in zip(PARTS, parts, strict=True):
                each[part].append(value)
        say(f"  turn {kept} of {repeats}")
    return [
        {
            **{p: [statistics.mean(s[p]), statistics.stdev(s[p])] for p in PARTS},
            "parameters": sum(p.numel() for p in model.parameters()),
        }
        for s, (model, *_) in zip(seconds, ready, strict=True)
    ]
