"""What a table takes before it is run, in device-hours and disk, from finished runs or from a few timed steps.

A plan is printed from what is known and times nothing; `make timing` times a few steps of every model in it.
"""

import hashlib
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vmp.config import Config, MotionsDataset, PreparedDataset
from vmp.errors import UserError
from vmp.files import write_json
from vmp.paper.planning import PlannedEvaluation, PlannedRun
from vmp.paper.tables import Profile
from vmp.paper.timing import describe_device, describe_own_device, now, read_timing, speed_key, time_models
from vmp.provenance import commit
from vmp.runs.run import readable_runs

GPU_BATCH, CPU_BATCH = 8, 2  # clips of a timed step at most; a CPU is too slow for more


@dataclass(frozen=True)
class Rate:
    """How fast a backbone is on a device, and where and when that was measured.

    train: seconds per clip and epoch; test: seconds per clip and view; disk: bytes of a run's folder.
    """

    train: float
    test: float
    disk: int
    device: str
    date: str
    source: str


def time_rates(runs: Sequence[PlannedRun], output: Path) -> bool:
    """Time a few steps of each backbone of these runs into output/rates/, replacing earlier timings; whether all were.

    A backbone that cannot be timed, or whose timing was disturbed, is reported and keeps its earlier timing.
    """
    distinct = {_speed_here(run): run for run in runs}  # the last run of each: one with prompts
    complete = True
    for speed, run in distinct.items():
        try:
            _time_rate(run, speed, output)
        except (UserError, RuntimeError, MemoryError) as error:  # torch reports full memory as a RuntimeError
            print(f"{run.config.backbone.key} was not timed: {error}")
            complete = False
    return complete


def _time_rate(run: PlannedRun, speed: str, output: Path) -> None:
    from vmp.engine.dist import find_device

    config, name = run.config, describe_own_device(run.config)
    device = find_device(config.trainer.device)
    batch = min(config.trainer.batch_size, CPU_BATCH if device.type == "cpu" else GPU_BATCH)
    print(f"timing {config.backbone.key}: a few steps of {batch} clips on {name}", flush=True)
    (numbers,) = time_models([config], batch=batch, rounds=2, warmup=1, device=device)
    spec = config.backbone.spec
    numbers["test_forward"][0] *= (spec.test_crop / spec.crop) ** 2  # test crops are larger
    timing = {"device": name, "date": now(), "batch": batch, "commit": commit(), "speed": speed, **numbers}
    digest = hashlib.sha256(speed.encode()).hexdigest()[:8]
    path = output / "rates" / f"{config.backbone.key}-{digest}.json"
    write_json(path, timing)
    per_clip = (numbers["forward"][0] + numbers["backward"][0]) / batch
    print(f"  {per_clip:.4g} s per clip in training -> {path}")


def measured_rates(output: Path) -> dict[str, Rate]:
    """The newest rate by speed key, from finished runs, from `make timing` and from Table 8. Times nothing."""
    rates: dict[str, Rate] = {}

    def add(speed: str, rate: Rate) -> None:
        if speed not in rates or rate.date >= rates[speed].date:
            rates[speed] = rate

    for run in readable_runs(output):
        if not run.finished or not run.result.get("sessions"):
            continue
        result, session = run.result, run.result["sessions"][-1]
        clips = result["clips"].get("train", {})
        clips = clips.get("present", 0) if isinstance(clips, dict) else 0
        epochs, processes = run.config["trainer"].get("epochs"), session.get("processes")
        if not (clips and result.get("seconds") and isinstance(epochs, int) and isinstance(processes, int)):
            continue
        disk = sum(f.stat().st_size for f in run.folder.rglob("*") if f.is_file())
        device = describe_device(str(session.get("device")), session.get("threads"))
        seconds = result["seconds"] * processes / (clips * max(epochs, 1))
        rate = Rate(seconds, 0.0, disk, device, result.get("finished") or "date unknown", str(run.folder))
        add(speed_key(run.config, device), rate)
    for path in [*sorted((output / "table8").glob("*.json")), *sorted((output / "rates").glob("*.json"))]:
        if not (timing := read_timing(path)):
            continue
        batch = timing["batch"]
        for numbers in timing.get("rows", [timing]):
            if "speed" not in numbers:
                continue
            train = (numbers["forward"][0] + numbers["backward"][0]) / batch
            disk = 8 * numbers["parameters"] * 3  # weights and momentum: two checkpoints, one being written
            source = f"a few steps ({path})"
            test = numbers["test_forward"][0] / batch
            add(numbers["speed"], Rate(train, test, disk, timing["device"], timing["date"], source))
    return rates


def _speed_here(run: PlannedRun) -> str:
    return speed_key(run.raw, describe_own_device(run.config))


def print_plan(
    runs: Sequence[PlannedRun],
    evaluations: Sequence[PlannedEvaluation],
    profile: Profile,
    output: Path,
    rates: Mapping[str, Rate],
    *,
    renew: str = "make timing",
) -> None:
    """Print each run with its command, and an estimate as far as rates are known. renew: the command that measures
    them anew."""
    hours: dict[str, list[float]] = {}  # by backbone
    sources: dict[str, Rate] = {}
    used: list[Rate] = []
    unknown: set[str] = set()  # backbones without a rate, or whose clips are not known
    for run in runs:
        text, name = "", run.config.backbone.key
        if not run.finished:
            rate, clips = rates.get(_speed_here(run)), count_clips(run, profile)
            if rate and clips:
                sources[name] = rate
                used.append(rate)
                hours.setdefault(name, []).append(_estimate_hours(run.config, rate, clips))
                text = f"  about {hours[name][-1]:.2f} device-hours, {rate.disk / 2**20:.0f} MiB"
            else:
                unknown.add(name)
        print(f"{run.state}: {run.label}{text}\n  {command_of(run)}\n  -> {run.folder}")
    for evaluation in evaluations:
        print(f"{evaluation.state}: {command_of(evaluation)}")
    states = [run.state for run in runs]
    print(
        f"{len(runs)} runs: {states.count('finished')} finished, {states.count('half done')} half done, "
        f"{states.count('not run')} not run; {len(evaluations)} evaluations, "
        f"{sum(evaluation.finished for evaluation in evaluations)} finished"
    )
    if used:
        for name, each in hours.items():
            rate = sources[name]
            source = f"on {rate.device}, {rate.date[:10]}, {rate.source}"
            print(f"  {name}: {len(each)} runs, about {sum(each):.1f} device-hours (measured {source})")
        existing = next(p for p in (output, *output.absolute().parents) if p.exists())
        print(
            f"to do: about {sum(map(sum, hours.values())):.1f} device-hours on "
            f"{' or '.join(sorted({rate.device for rate in used}))}, "
            f"{sum(rate.disk for rate in used) / 2**30:.1f} GiB of disk "
            f"({shutil.disk_usage(existing).free / 2**30:.0f} GiB are free)"
        )
        print(f"  {renew} measures this anew (a few steps, without decoding: a slow loader adds to it)")
    if unknown:
        here = " or ".join(sorted({describe_own_device(run.config) for run in runs}))
        print(
            f"no estimate for {', '.join(sorted(unknown))}: nothing was measured with them on {here}, or "
            f"their numbers of clips are unknown; {renew} measures"
        )


def command_of(planned: PlannedRun | PlannedEvaluation) -> str:
    return shlex.join(["python", planned.script, *planned.arguments])


def _estimate_hours(config: Config, rate: Rate, clips: Mapping[str, int]) -> float:
    """Device-hours of a run."""
    views = config.trainer.views or config.backbone.spec.views
    seconds = rate.train * clips["train"] * config.trainer.epochs
    seconds += rate.test * clips.get("test", 0) * views[0] * views[1]
    return seconds / 3600


def count_clips(run: PlannedRun, profile: Profile) -> dict[str, int]:
    """Clips by split of the prepared dataset, or the published numbers where it is not prepared yet; of each at most
    trainer.clips."""
    clips, most = _clips_of_dataset(run, profile), run.config.trainer.clips
    return {split: min(count, most or count) for split, count in clips.items()}


def _clips_of_dataset(run: PlannedRun, profile: Profile) -> dict[str, int]:
    dataset = run.config.dataset
    if isinstance(dataset, MotionsDataset):
        return {"train": dataset.train, "test": dataset.test}
    if isinstance(dataset, PreparedDataset) and (folder := Path(dataset.folder)).is_dir():
        files = {split: folder / f"{split}.csv" for split in ("train", "test")}
        return {
            split: max(len(file.read_text(encoding="utf-8").splitlines()) - 1, 0)
            for split, file in files.items()
            if file.is_file()
        }
    return profile.datasets[run.dataset].clips
