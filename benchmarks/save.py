"""How long a checkpoint holds training up: written while it waits, or copied and written by a thread."""

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.measure import Row, compose, device_type, print_rows
from benchmarks.step import CLASSES
from vmp.engine.learner import Learner
from vmp.engine.plan import TrainingState
from vmp.engine.saving import Saver
from vmp.paper.timing import Stopwatch


def bench_save(*, rounds: int, overrides: Sequence[str] = ()) -> list[Row]:
    """Of TimeSformer's weights and momentum: milliseconds that training waits, and until the checkpoint is there."""
    from vmp.build import build_model, build_optimizer

    config = compose(["backbone=timesformer", "backbone.weights=none", *overrides])
    model = build_model(config, CLASSES).to(device_type())
    optimizer = build_optimizer(config, model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    unscaled = torch.amp.GradScaler(device_type(), enabled=False)
    state, watch = TrainingState(), Stopwatch(torch.device(device_type()))
    waited: dict[str, list[float]] = {}
    written: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as home, Saver(Path(home), keep=1, recomputes=False) as saver:

        def save(what: str, *, wait: bool) -> None:
            began = time.perf_counter()
            with watch("save"):
                saver.save(Learner(model, optimizer, unscaled), state, best=False)
                if wait:
                    saver.wait()
            waited.setdefault(what, []).append(watch.wall["save"])
            saver.wait()
            written.setdefault(what, []).append(time.perf_counter() - began)

        for _ in range(rounds + 1):
            for wait in (True, False):
                state.step += 1
                save("written while training waits" if wait else "copied, and written by a thread", wait=wait)
            state.evaluated += 1
            save("again after a validation: linked", wait=False)
        size = sum(path.stat().st_size for path in next(Path(home).iterdir()).iterdir())
    first = next(iter(waited))
    held = {what: statistics.median(seconds[1:]) for what, seconds in waited.items()}
    rows: list[Row] = [
        {
            "what": what,
            "ms waited": 1e3 * held[what],
            "ms until written": 1e3 * statistics.median(written[what][1:]),
            "shorter": held[first] / held[what],
        }
        for what in waited
    ]
    return print_rows(f"a checkpoint of {config.backbone.key}, {size / 1e9:.2f} GB", rows)
