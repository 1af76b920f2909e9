"""What a table takes, device-hours and disk, before it is run: from finished runs, or from a few steps timed here."""

import hashlib
import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmp.config import Config, MotionsDataset, PreparedDataset
from vmp.errors import UserError
from vmp.files import write_json
from vmp.machine import device_name
from vmp.results.collect import find_runs
from vmp.results.tables import Evaluation, Planned, Profile

QUICK = 2  # clips of a step that is timed on a CPU, which is too slow for a whole batch


@dataclass(frozen=True)
class Rate:
    """Of a backbone here. train, test: seconds a clip and epoch, and a clip and view; disk: bytes of a run."""

    train: float
    test: float
    disk: int
    source: str


def rates_for(runs: Sequence[Planned], output: Path) -> dict[str, Rate]:
    """Rates by `speed_of`. What no finished run and no timing tells is timed now and kept in output/rates/; what cannot
    be timed is left out, and said."""
    rates = measured_rates(output)
    unknown = {key: run for run in runs if (key := _key(run)) not in rates}  # the last: one with prompts
    for key, run in unknown.items():
        try:
            _time(run, key, output)
        except (
            UserError,
            RuntimeError,
            MemoryError,
        ) as error:  # torch tells of full memory by a RuntimeError
            print(f"{run.config.backbone.key} could not be timed: {error}")
    return measured_rates(output) if unknown else rates


def _time(run: Planned, key: str, output: Path) -> None:
    import torch

    from vmp.build import backbone_spec
    from vmp.results.record import commit
    from vmp.results.timing import time_models

    config, name = run.config, here(run.config)
    device = "cpu" if name.startswith("CPU") else "cuda"
    batch = min(config.trainer.batch_size, 8 if device == "cuda" else QUICK)
    print(f"timing {config.backbone.key}: a few steps of {batch} clips on {name}", flush=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(config.trainer.threads or threads)
    try:
        (numbers,) = time_models(
            [config], batch=batch, repeats=2, warm=1, device=device, say=lambda text: None
        )
    finally:
        torch.set_num_threads(threads)
    spec = backbone_spec(config)
    # testing sees larger crops
    numbers["test_forward"][0] *= (spec.test_crop / spec.crop) ** 2
    found = {"device": name, "batch": batch, "commit": commit(), "speed": key, **numbers}
    (output / "rates").mkdir(parents=True, exist_ok=True)
    write_json(
        output / "rates" / f"{config.backbone.key}-{hashlib.sha256(key.encode()).hexdigest()[:8]}.json", found
    )


def measured_rates(output: Path) -> dict[str, Rate]:
    """By `speed_of`: from finished runs, else from steps timed for this, else from Table 8's timings."""
    rates: dict[str, Rate] = {}
    for path in sorted((output / "table8").glob("*.json")):
        timing = json.loads(path.read_text(encoding="utf-8"))
        for row in timing["rows"]:
            if "speed" in row:
                rates[row["speed"]] = _rate(row, timing["batch"], f"table 8 on {timing['device']}")
    for path in sorted((output / "rates").glob("*.json")):
        timing = json.loads(path.read_text(encoding="utf-8"))
        rates[timing["speed"]] = _rate(timing, timing["batch"], f"a few steps on {timing['device']}, {path}")
    for run in find_runs(output):
        if not run.finished or not run.result.get("sittings") or "seconds" not in run.result:
            continue
        clips = run.result.get("clips", {}).get("train", {}).get("present", 0)
        epochs = run.config.get("trainer", {}).get("epochs", 0)
        if clips and epochs:
            sat = run.result["sittings"][-1]
            disk = sum(f.stat().st_size for f in run.folder.rglob("*") if f.is_file())
            each = run.result["seconds"] * sat["processes"] / (clips * epochs)
            key = speed_of(run.config, _on(sat["device"], sat["threads"]))
            rates[key] = Rate(each, 0.0, disk, f"{run.folder}")
    return rates


def _rate(numbers: Mapping[str, Any], batch: int, source: str) -> Rate:
    disk = 8 * numbers["parameters"] * 3  # weights and momentum, two checkpoints and the one being written
    train, test = (numbers["forward"][0] + numbers["backward"][0]) / batch, numbers["test_forward"][0] / batch
    return Rate(train, test, disk, source)


def size_of(backbone: Mapping[str, Any]) -> str:
    """What decides how many operations a clip takes: the config's backbone, without what it starts from and drops."""
    other = ("weights", "dropout", "drop_path", "flip_patch_embed")
    return json.dumps({k: v for k, v in backbone.items() if k not in other}, sort_keys=True)


def speed_of(raw: Mapping[str, Any], device: str) -> str:
    """What decides how long a clip takes. device: as `here` names it."""
    trainer = raw["trainer"]
    switches = [f"{key}={trainer.get(key)}" for key in ("amp", "channels_last", "compile")]
    switches += [f"{key}={trainer[key]}" for key in ("tf32", "cudnn_benchmark") if trainer.get(key)]
    return " ".join([device, *switches, size_of(raw["backbone"])])


def here(config: Config) -> str:
    """The device that a run would use on this machine."""
    import torch

    device = config.trainer.device
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    return _on(device_name(torch.device(device)), config.trainer.threads or torch.get_num_threads())


def _on(device: str, threads: int) -> str:
    return f"CPU, {threads} threads" if device == "CPU" else device


def _key(run: Planned) -> str:
    return speed_of(run.raw, here(run.config))


def print_plan(
    runs: Sequence[Planned],
    tests: Sequence[Evaluation],
    profile: Profile,
    output: Path,
    rates: Mapping[str, Rate],
) -> None:
    """The runs, with what they take where something was measured."""
    from vmp.backbones import backbone_spec

    disk, unknown = 0, set()
    hours: dict[str, list[float]] = {}  # of the runs of a backbone, by its name
    sources: set[str] = set()
    for run in runs:
        state, estimate = run.state, ""
        if state != "finished":
            rate, c = rates.get(_key(run)), run.config
            clips = clips_of(run, profile)
            if rate and clips:
                views = c.trainer.views or backbone_spec(c.backbone.key).views
                seconds = rate.train * clips["train"] * c.trainer.epochs
                seconds += rate.test * clips.get("test", 0) * views[0] * views[1]
                hours.setdefault(c.backbone.key, []).append(seconds / 3600)
                disk += rate.disk
                sources.add(rate.source)
                estimate = f"  about {seconds / 3600:.2f} device-hours, {rate.disk / 2**20:.0f} MiB"
            else:
                unknown.add(c.backbone.key)
        print(
            f"{state}: {run.label}{estimate}\n  {shlex.join(['python', 'train.py', *run.overrides])}\n  -> {run.folder}"
        )
    for test in tests:
        done = "finished" if test.finished else "not run"
        print(f"{done}: {shlex.join(['python', 'evaluate.py', *test.arguments])}")
    states = [run.state for run in runs]
    print(
        f"{len(runs)} runs: {states.count('finished')} finished, {states.count('half done')} half done, "
        f"{states.count('not run')} not run; {len(tests)} evaluations, {sum(t.finished for t in tests)} finished"
    )
    if hours:
        for name, each in hours.items():
            print(f"  {name}: {len(each)} runs, about {sum(each):.1f} device-hours")
        free = shutil.disk_usage(next(p for p in (output, *output.absolute().parents) if p.exists())).free
        total = sum(sum(each) for each in hours.values())
        print(
            f"to do: about {total:.1f} device-hours, {disk / 2**30:.1f} GiB of disk ({free / 2**30:.0f} GiB are free)"
        )
        print("  measured: " + "; ".join(sorted(sources)))
        print("  (timed steps know nothing of decoding: a loader that is slower than the model adds to them)")
    if unknown:
        print(
            f"no estimate for {', '.join(sorted(unknown))}: nothing was measured with them, or clips are unknown"
        )


def clips_of(run: Planned, profile: Profile) -> dict[str, int]:
    """Of the prepared dataset; published numbers before it is."""
    dataset = run.config.dataset
    if isinstance(dataset, MotionsDataset):
        return {"train": dataset.train, "test": dataset.test}
    if isinstance(dataset, PreparedDataset) and (folder := Path(dataset.folder)).is_dir():
        found = {}
        for split in ("train", "test"):
            if (file := folder / f"{split}.csv").is_file():
                found[split] = max(len(file.read_text(encoding="utf-8").splitlines()) - 1, 0)
        return found
    return profile.datasets[run.dataset].clips
