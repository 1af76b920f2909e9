"""Times models and training steps: for Table 8, for estimates and for the benchmarks.

Notes:
- alternatives run one after another in every round, so that a noisy moment affects all of them;
- a round in which this thread had to wait for a CPU does not count and is repeated;
- on a GPU a time includes the device's work.
"""

import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vmp.build import build_model, clip_shape, set_precision_switches
from vmp.config import Config
from vmp.errors import ConfigError, RunError
from vmp.files import read_json, write_json
from vmp.machine import device_name
from vmp.paper.planning import PlannedRun, Planner
from vmp.paper.tables import Cell, Table, TimingProtocol
from vmp.paper.values import CellValue, Number
from vmp.provenance import commit

if TYPE_CHECKING:
    import torch

MIN_CPU_SHARE = 0.85  # of a round's wall time that its thread has to be on a CPU
ATTEMPTS = 4  # rounds tried at most for each that counts
CLASSES = 51  # of HMDB-51
PARTS = ("forward", "backward", "test_forward")
SWITCHES = ("channels_last", "tf32", "cudnn_benchmark")  # of trainer: they decide how long a batch takes
Name = TypeVar("Name", bound=Hashable)


class Stopwatch:
    """Seconds of wall and CPU time between `with watch("part"):` and its end, the device's work included."""

    def __init__(self, device: "torch.device") -> None:
        self._device = device
        self.wall: dict[str, float] = {}
        self.cpu = 0.0

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        self._synchronize()
        began, cpu = time.perf_counter(), time.thread_time()
        yield
        self._synchronize()
        self.wall[part] = time.perf_counter() - began
        self.cpu += time.thread_time() - cpu

    def _synchronize(self) -> None:
        import torch

        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def time_rounds(
    calls: Mapping[Name, Callable[[Stopwatch], object]],
    device: "torch.device",
    *,
    rounds: int,
    warmup: int = 2,
    min_cpu_share: float = 0.0,
    report: Callable[[str], None] = lambda text: None,
) -> dict[Name, list[dict[str, float]]]:
    """Call everything once per round; seconds of each part that a call times with its stopwatch, by round.

    Args:
        min_cpu_share: rounds in which this thread was on a CPU for less of the time are repeated.
        report: called with a line about each round.

    Raises:
        RunError: the machine is too busy: too few of the rounds were undisturbed.
    """
    seconds: dict[Name, list[dict[str, float]]] = {name: [] for name in calls}
    kept, tried, share = 0, 0, 1.0
    while kept < rounds:
        if tried >= warmup + ATTEMPTS * rounds:
            raise RunError(
                f"the timing was disturbed: in {tried - warmup - kept} of {tried - warmup} rounds this process had "
                f"a CPU for less than {100 * min_cpu_share:.0f} % of the time (in the last for {100 * share:.0f} %). "
                "Nothing was kept; repeat it when nothing else runs on this machine."
            )
        watches = {name: Stopwatch(device) for name in calls}
        for name, call in calls.items():
            call(watches[name])
        tried += 1
        if tried <= warmup:
            report(f"  warm-up {tried} of {warmup}")
            continue
        wall = sum(sum(watch.wall.values()) for watch in watches.values())
        share = sum(watch.cpu for watch in watches.values()) / wall
        if share < min_cpu_share:
            report(f"  disturbed (on a CPU for {100 * share:.0f} % of the time): repeated")
            continue
        kept += 1
        for name, watch in watches.items():
            seconds[name].append(watch.wall)
        report(f"  round {kept} of {rounds}")
    return seconds


def time_models(
    configs: Sequence[Config],
    *,
    batch: int,
    rounds: int,
    device: "torch.device",
    warmup: int = 2,
    report: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Time several models side by side: "forward" is the model with its prompts and the loss, "backward" its gradients,
    "test_forward" the model in evaluation. No optimizer steps.

    Clips are uint8, of the training crop, on the device already. Models run in trainer.amp's type, never compiled, and
    with trainer.threads of the first config.

    Raises:
        RunError: the machine is too busy.

    Returns:
        for each config: mean and standard deviation of each part in seconds, and the number of parameters.
    """
    models = [_TimedModel(config, batch, device) for config in configs]
    with _threads_of(configs[0]):
        seconds = time_rounds(
            {model: model.step for model in models},
            device,
            rounds=rounds,
            warmup=warmup,
            min_cpu_share=MIN_CPU_SHARE,
            report=report,
        )
    return [
        {
            part: [f(one[part] for one in seconds[model]) for f in (statistics.mean, statistics.stdev)]
            for part in PARTS
        }
        | {"parameters": sum(p.numel() for p in model.model.parameters())}
        for model in models
    ]


@contextmanager
def _threads_of(config: Config) -> Iterator[None]:
    """Context with trainer.threads of torch, if it is set."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(config.trainer.threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _TimedModel:
    """A model with a batch of random clips."""

    def __init__(self, config: Config, batch: int, device: "torch.device") -> None:
        import torch

        from vmp.engine.precision import autocast_type
        from vmp.objective import Objective

        set_precision_switches(config)
        self.model = build_model(config, CLASSES).to(device)
        self.clips, self.labels = random_batch(self.model, config, batch, device, classes=CLASSES)
        self.objective = Objective(
            variation_weight=config.vmp.lambda_, label_smoothing=config.optim.label_smoothing
        )
        dtype = autocast_type(config.trainer.amp)
        self.autocast = torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)

    def step(self, watch: Stopwatch) -> None:
        import torch

        self.model.train()
        self.model.zero_grad(set_to_none=True)
        with watch("forward"):
            with self.autocast:
                out = self.model(self.clips)
            loss = self.objective(out.logits, self.labels, out.variations)["loss"]
        with watch("backward"):
            loss.backward()
        del out, loss
        self.model.eval()
        with torch.inference_mode(), self.autocast, watch("test_forward"):
            self.model(self.clips)


def random_batch(
    model: Any, config: Config, batch: int, device: "torch.device", *, classes: int
) -> "tuple[torch.Tensor, torch.Tensor]":
    """The same clips (B, 3, T, H, W) of uint8 (four channels for a model with masks) and labels (B,) for every model of
    the same input shape."""
    import torch

    shape, generator = clip_shape(config, model), torch.Generator().manual_seed(0)
    size = (batch, 4 if model.masked else 3, shape.frames, shape.crop, shape.crop)
    clips = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    return clips.to(device), torch.arange(batch, device=device) % classes


# --- the device and the keys of timings ----------------------------------------------------------------------------


def describe_device(name: str, threads: Any) -> str:
    """name: as `device_name` or a result has it."""
    return f"CPU, {threads} threads" if name == "CPU" else name


def describe_own_device(config: Config) -> str:
    """The device that a run with this config would use on this machine."""
    import torch

    from vmp.engine.dist import find_device

    name = device_name(find_device(config.trainer.device))
    return describe_device(name, config.trainer.threads or torch.get_num_threads())


def size_of(backbone: Mapping[str, Any]) -> str:
    """A key for the number of operations per clip: the config's backbone without its weights and what it drops."""
    other = ("weights", "dropout", "drop_path", "flip_patch_embed", "init")
    return json.dumps({k: v for k, v in backbone.items() if k not in other}, sort_keys=True)


def speed_key(raw: Mapping[str, Any], device: str) -> str:
    """A key for the time per clip. device: as `describe_device` names it."""
    trainer = raw["trainer"]
    switches = [f"{key}={trainer.get(key)}" for key in ("amp", "channels_last", "compile")]
    switches += [f"{key}={trainer[key]}" for key in ("tf32", "cudnn_benchmark") if trainer.get(key)]
    return " ".join([device, *switches, size_of(raw["backbone"])])


def read_timing(path: Path) -> dict[str, Any] | None:
    """A timing that was kept; None with a warning where it is damaged or does not say when and on what it was made."""
    try:
        timing = read_json(path)
        if not isinstance(timing, dict) or not all(
            isinstance(timing.get(k), str) for k in ("date", "device")
        ):
            raise RunError(f"{path} does not say when or on what it was measured")
    except RunError as error:
        print(f"passed over: {error}", file=sys.stderr)
        return None
    return timing


def now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


# --- Table 8 -------------------------------------------------------------------------------------------------------


def measure_table(
    table: Table, cells: Sequence[Cell], chosen: Sequence[Cell], planner: Planner, output: Path, *, dry: bool
) -> tuple[dict[tuple[int, int], CellValue], str]:
    """Values by row and column, and the devices they were measured on.

    A baseline and the rows compared with it are timed together and kept in output/table8/; earlier
    timings are reused. Only groups with a chosen cell are measured.

    Args:
        dry: print what is measured and what is not, and measure nothing.
    """
    values = {cell.place: CellValue() for cell in cells}
    devices: set[str] = set()
    specs = {cell.row: cell.run for cell in cells if cell.run}
    for rows in _rows_by_baseline(table):
        runs = [planner.run(spec, 0) for row in rows if (spec := specs.get(row))]
        wanted = any(cell.row in rows for cell in chosen)
        timing, path = _read_or_measure(table, rows, runs, output, measure=wanted, dry=dry)
        if timing is None:
            continue
        devices.add(timing["device"])
        for row, numbers in zip(rows, timing["rows"], strict=True):
            for c, column in enumerate(table.columns):
                mean, spread = numbers[str(column.number)]
                number = Number(mean, path, (timing["commit"] or "unknown",))
                values[row, c] = CellValue({0: (number,)}, spread=spread)
    return values, " and ".join(sorted(devices))


def _rows_by_baseline(table: Table) -> list[list[int]]:
    """Each baseline with the rows that are compared with it."""
    groups: list[list[int]] = []
    for r, row in enumerate(table.rows):
        if not row.gain or not groups:
            groups.append([])
        groups[-1].append(r)
    return groups


def _read_or_measure(
    table: Table, rows: Sequence[int], runs: Sequence[PlannedRun], output: Path, *, measure: bool, dry: bool
) -> tuple[dict[str, Any] | None, Path]:
    """The timing of these rows, if there is one, and its file."""
    assert table.measured
    config = runs[0].config
    if config.trainer.amp != "none" or config.trainer.compile:
        raise ConfigError(
            "trainer.amp, trainer.compile: table 8 times models in float32 and eagerly, as the authors' code runs; "
            "make bench BENCH=step measures these switches"
        )
    name = describe_own_device(config)
    slug = "-".join("".join(c if c.isalnum() else " " for c in name).split())
    path = output / "table8" / f"{config.backbone.key}-{slug}-{_digest(runs, table)}.json"
    label = ", ".join(table.rows[r].label for r in rows)
    timing = read_timing(path) if path.is_file() else None
    if timing:
        if timing["commit"] != commit():
            print(
                f"{path}: of {timing['date']}, commit {timing['commit']}, not {commit()}; remove it to measure again"
            )
        if dry:
            print(
                f"measured: {label} on {timing['device']}, {timing['date']} -> {path}; remove it to measure again"
            )
    elif measure and dry:
        print(f"not measured: {label} on {name}, {table.measured.repeats} rounds")
    elif measure:
        print(f"{label} on {name}", flush=True)
        timing = _measure([table.rows[r].label for r in rows], runs, table.measured, name)
        write_json(path, timing)
    return timing, path


def _measure(
    labels: Sequence[str], runs: Sequence[PlannedRun], measured: TimingProtocol, name: str
) -> dict[str, Any]:
    """Time the models of these runs side by side. name: of their device."""
    from vmp.engine.dist import find_device

    began, configs = time.monotonic(), [run.config for run in runs]
    numbers = time_models(
        configs,
        batch=measured.batch,
        rounds=measured.repeats,
        device=find_device(configs[0].trainer.device),
        report=partial(print, flush=True),
    )
    return {
        "device": name,
        "batch": measured.batch,
        "repeats": measured.repeats,
        "commit": commit(),
        "date": now(),
        "seconds": round(time.monotonic() - began, 1),
        "rows": [
            {"label": label, "overrides": run.arguments, "speed": speed_key(run.raw, name), **of_run}
            for label, run, of_run in zip(labels, runs, numbers, strict=True)
        ],
    }


def _digest(runs: Sequence[PlannedRun], table: Table) -> str:
    """A hash of everything that affects the timing."""
    assert table.measured
    what = [
        (size_of(run.raw["backbone"]), run.raw["vmp"], [run.raw["trainer"][key] for key in SWITCHES])
        for run in runs
    ]
    torch_version = metadata.version("torch")
    text = json.dumps([table.measured.batch, table.measured.repeats, torch_version, what], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
