"""What a table takes, device-hours and disk, before it is run: from finished runs, or from steps that were timed.

A plan is printed from what is known and times nothing; `make timing` times a few steps of what the plan has.
"""

import hashlib
import json
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmp.config import Config, MotionsDataset, PreparedDataset
from vmp.errors import RunError, UserError
from vmp.files import read_json, write_json
from vmp.machine import device_name
from vmp.paper.tables import Evaluation, Planned, Profile
from vmp.runs.run import readable_runs

QUICK = 2  # clips of a step that is timed on a CPU, which is too slow for a whole batch


@dataclass(frozen=True)
class Rate:
    """Of a backbone on a device. train, test: seconds per clip and epoch, and per clip and view; disk: bytes of a run;
    device, date: where and when that was measured."""

    train: float
    test: float
    disk: int
    device: str
    date: str
    source: str

    def __str__(self) -> str:
        return f"on {self.device}, {self.date[:10]}, {self.source}"


def time_rates(runs: Sequence[Planned], output: Path) -> bool:
    """Time a few steps of each backbone of these runs and keep them in output/rates/, in place of earlier ones; whether
    all of them could be timed. What cannot be timed, or was disturbed, is said, and what was known of it stays."""
    different = {_key(run): run for run in runs}  # of several the last: one with prompts
    well = True
    for key, run in different.items():
        try:
            _time(run, key, output)
        except (
            UserError,
            RuntimeError,
            MemoryError,
        ) as error:  # torch tells of full memory by a RuntimeError
            print(f"{run.config.backbone.key} was not timed: {error}")
            well = False
    return well


def _time(run: Planned, key: str, output: Path) -> None:
    import torch

    from vmp.build import backbone_spec
    from vmp.paper.timing import time_models
    from vmp.provenance import commit

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
    date = time.strftime("%Y-%m-%d %H:%M:%S")
    found = {"device": name, "date": date, "batch": batch, "commit": commit(), "speed": key, **numbers}
    path = output / "rates" / f"{config.backbone.key}-{hashlib.sha256(key.encode()).hexdigest()[:8]}.json"
    write_json(path, found)
    each = (numbers["forward"][0] + numbers["backward"][0]) / batch
    print(f"  {each:.4g} s a clip in training -> {path}")


def read_timing(path: Path) -> dict[str, Any] | None:
    """A timing of this project; None where it is damaged, or of a version that kept disturbed ones: it is to be made
    again."""
    try:
        found = read_json(path)
    except RunError as error:
        print(f"passed over: {error}", file=sys.stderr)
        return None
    if not isinstance(found, dict) or not all(isinstance(found.get(k), str) for k in ("date", "device")):
        print(f"passed over: {path} does not say when or on what it was measured", file=sys.stderr)
        return None
    return found


def measured_rates(output: Path) -> dict[str, Rate]:
    """By `speed_of`, the newest of finished runs, steps that `make timing` timed, and Table 8. Nothing is timed now."""
    rates: dict[str, Rate] = {}

    def add(key: str, rate: Rate) -> None:
        if key not in rates or rate.date >= rates[key].date:
            rates[key] = rate

    for run in readable_runs(output):
        if not run.finished or not run.result.get("sessions"):
            continue
        result, sat = run.result, run.result["sessions"][-1]
        clips = result["clips"].get("train", {})
        clips = clips.get("present", 0) if isinstance(clips, dict) else 0
        epochs, processes = run.config["trainer"].get("epochs"), sat.get("processes")
        if not (clips and result.get("seconds") and isinstance(epochs, int) and isinstance(processes, int)):
            continue
        disk = sum(f.stat().st_size for f in run.folder.rglob("*") if f.is_file())
        device = _on(str(sat.get("device")), sat.get("threads"))
        each = result["seconds"] * processes / (clips * max(epochs, 1))
        rate = Rate(each, 0.0, disk, device, result.get("finished") or "date not known", str(run.folder))
        add(speed_of(run.config, device), rate)
    for path in sorted((output / "table8").glob("*.json")):
        if timing := read_timing(path):
            for row in timing["rows"]:
                if "speed" in row:
                    add(row["speed"], _rate(row, timing, str(path)))
    for path in sorted((output / "rates").glob("*.json")):
        if timing := read_timing(path):
            add(timing["speed"], _rate(timing, timing, str(path)))
    return rates


def _rate(numbers: Mapping[str, Any], timing: Mapping[str, Any], source: str) -> Rate:
    batch = timing["batch"]
    disk = 8 * numbers["parameters"] * 3  # weights and momentum, two checkpoints and the one being written
    train, test = (numbers["forward"][0] + numbers["backward"][0]) / batch, numbers["test_forward"][0] / batch
    return Rate(train, test, disk, timing["device"], timing["date"], f"a few steps ({source})")


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


def _on(device: str, threads: Any) -> str:
    return f"CPU, {threads} threads" if device == "CPU" else device


def _key(run: Planned) -> str:
    return speed_of(run.raw, here(run.config))


def print_plan(
    runs: Sequence[Planned],
    tests: Sequence[Evaluation],
    profile: Profile,
    output: Path,
    rates: Mapping[str, Rate],
    *,
    renew: str = "make timing",
) -> None:
    """The runs, with what they take where something was measured, and nothing is measured now.

    Args:
        renew: the command that measures anew what the estimate is made of.
    """
    from vmp.backbones import backbone_spec

    disk, unknown = 0, set()
    devices: set[str] = set()
    hours: dict[str, list[float]] = {}  # of the runs of a backbone, by its name
    sources: dict[str, str] = {}  # of the rate of a backbone
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
                devices.add(rate.device)
                sources[c.backbone.key] = str(rate)
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
            print(
                f"  {name}: {len(each)} runs, about {sum(each):.1f} device-hours (measured {sources[name]})"
            )
        free = shutil.disk_usage(next(p for p in (output, *output.absolute().parents) if p.exists())).free
        total = sum(sum(each) for each in hours.values())
        print(
            f"to do: about {total:.1f} device-hours on {' or '.join(sorted(devices))}, {disk / 2**30:.1f} GiB of disk "
            f"({free / 2**30:.0f} GiB are free)"
        )
        print(f"  {renew} measures this anew (a few steps, without decoding: a slow loader adds to it)")
    if unknown:
        print(
            f"no estimate for {', '.join(sorted(unknown))}: nothing was measured with them on "
            f"{' or '.join(sorted({here(run.config) for run in runs}))}, or their clips are unknown; {renew} measures"
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
