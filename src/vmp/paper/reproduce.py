"""A table from one command: what it needs is planned, what is missing is run, and the table is written.

Nothing in "ours" comes from anywhere but a result.json, a per_class.csv or a timing of this project.
"""

import hashlib
import json
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from vmp.config import MotionsDataset, PreparedDataset, check_start
from vmp.errors import ConfigError, RunError, UserError
from vmp.files import write_json, write_text
from vmp.jobs.launch import Launch, parse_launch, run_launched
from vmp.jobs.supervisor import Job
from vmp.paper import rendering
from vmp.paper.estimates import measured_rates, print_plan, read_timing, size_of, speed_of, time_rates
from vmp.paper.tables import (
    Cell,
    Evaluation,
    Number,
    Planned,
    Planner,
    Profile,
    Table,
    Value,
    cells,
    composer,
    load_profile,
    load_table,
    matches,
    read_values,
    results_of,
)
from vmp.runs.folder import check_same_run


class Interrupted(UserError):
    code = 130


@dataclass(frozen=True)
class Request:
    """What was asked for. output: of the runs; None: the profile's. results: of the table; None: output/results."""

    table: int
    profile: str = "paper"
    seeds: int = 1
    only: tuple[str, ...] = ()
    dry: bool = False
    timing: bool = False
    launch: str = ""
    output: str | None = None
    results: str | None = None
    overrides: tuple[str, ...] = ()


def reproduce(request: Request, root: Path) -> int:
    """Run what a table lacks and write it; the exit code.

    Args:
        root: of the checkout, which is the working directory.

    Raises:
        UserError: what is missing or wrong, and what to do.
    """
    conf = root / "conf"
    tables = sorted(int(f.stem.removeprefix("table")) for f in (conf / "table").glob("table*.yaml"))
    if request.table not in tables:
        raise ConfigError(f"table={request.table}: there are {', '.join(map(str, tables))}")
    profile = load_profile(conf / "table" / "profile" / f"{request.profile}.yaml")
    table = load_table(conf / "table" / f"table{request.table}.yaml")
    launch = parse_launch(request.launch or profile.launch)
    output = request.output or profile.output
    all_cells, seeds = cells(table, profile), range(request.seeds)
    chosen = [c for c in all_cells if c.task and matches(c, table, request.only)]
    if not chosen:
        names = ", ".join(dict.fromkeys(rendering.name(row) for row in table.rows))
        raise ConfigError(
            f"only={' '.join(request.only)}: no cell of table {table.number} has all of that; rows: {names}"
        )
    planner = Planner(composer(conf), output=output, extra=request.overrides)
    below: dict[str, str] = {}
    if table.measured and request.timing:
        raise ConfigError(
            f"timing=1: table {table.number} is timed itself; make table{table.number} does that"
        )
    if table.measured:
        values, device, failed = _measure(request, table, all_cells, chosen, planner, Path(output))
        if request.dry:
            return 0
        below["device"] = device
    else:
        runs, tests = plan(chosen, planner, seeds)
        if request.timing:
            return 0 if time_rates(runs, Path(output)) else 1
        if request.dry:
            renew = _command(request, table, profile).replace(f"make table{table.number}", "make timing", 1)
            renew = f"{renew} TABLE={table.number}"
            print_plan(runs, tests, profile, Path(output), measured_rates(Path(output)), renew=renew)
            return 0
        failed = run_missing(runs, tests, launch, Path(output), root)
        values = read_values(all_cells, planner, seeds)
    return _write(request, table, profile, all_cells, values, list(seeds), failed, **below)


def _write(
    request: Request,
    table: Table,
    profile: Profile,
    all_cells: Sequence[Cell],
    values: Mapping[tuple[int, int], Value],
    seeds: Sequence[int],
    failed: int,
    device: str = "",
) -> int:
    place = Path(request.results or results_of(request.output or profile.output))
    below = rendering.provenance(
        table,
        profile,
        all_cells,
        values,
        command=_command(request, table, profile),
        seeds=seeds,
        overrides=request.overrides,
        device=device,
    )
    stem = place / f"table{table.number}"
    write_text(stem.with_suffix(".md"), rendering.to_markdown(table, profile, all_cells, values, below))
    write_text(stem.with_suffix(".csv"), rendering.to_csv(table, profile, all_cells, values))
    write_text(stem.with_suffix(".tex"), rendering.to_latex(table, profile, all_cells, values, below))
    gone = rendering.missing(all_cells, values)
    print(f"-> {stem}.md, .csv, .tex" + (f"; {len(gone)} cells not run" if gone else ""))
    return 1 if failed else 0


def _command(request: Request, table: Table, profile: Profile) -> str:
    """What makes the table as it is."""
    own = (
        ("PROFILE", profile.name, "paper"),
        ("SEEDS", str(request.seeds), "1"),
        ("ONLY", " ".join(request.only), ""),
        ("SET", " ".join(request.overrides), ""),
    )
    words = [f"make table{table.number}", *(f"{k}={shlex.quote(v)}" for k, v, usual in own if v != usual)]
    return " ".join(words)


# --- what to run ---------------------------------------------------------------------------------------------------


def plan(
    chosen: Sequence[Cell], planner: Planner, seeds: Sequence[int]
) -> tuple[list[Planned], list[Evaluation]]:
    """The runs that cells ask for, those that others start from first, and their evaluations, each once.

    Raises:
        RunError: two different runs would share a folder, or a folder holds another run.
    """
    runs: list[Planned] = []
    tests: dict[Path, Evaluation] = {}
    for seed in seeds:
        for cell in chosen:
            source = planner.of(cell, seed)
            if isinstance(source, Evaluation):
                tests.setdefault(source.folder, source)
                source = source.run
            if source:
                runs.append(source)
    return with_starts(runs), list(tests.values())


def with_starts(wanted: Iterable[Planned]) -> list[Planned]:
    """The runs and those that they start from, which come first, each once.

    Raises:
        RunError: two different runs would share a folder, or a folder holds another run.
    """
    runs: dict[Path, Planned] = {}

    def add(run: Planned) -> None:
        if run.start:
            add(run.start)
        other = runs.setdefault(run.folder, run)
        if other is not run and other.raw != run.raw:
            raise RunError(
                f"{run.folder}: two different runs would share it:\n  {other.label}\n  {run.label}"
            )

    for run in wanted:
        add(run)
    for run in runs.values():
        check_same_run(run.folder, dict(run.raw))
    return list(runs.values())


def run_missing(
    runs: Sequence[Planned], tests: Sequence[Evaluation], launch: Launch, output: Path, root: Path
) -> int:
    """Run what is not finished; how many of those jobs are still not done.

    Raises:
        UserError: data are missing, or it was asked to stop.
    """
    todo = [run for run in runs if run.state != "finished"]
    check_data(todo)
    for run in todo:
        if not run.start:
            check_start(run.config)
    waiting = {str(run.folder) for run in todo}
    jobs = [
        Job(
            folder=str(run.folder),
            label=run.label + (" (continued)" if run.state == "half done" else ""),
            script="train.py",
            arguments=run.overrides,
            is_done=lambda run=run: run.state == "finished",  # type: ignore[misc]
            needs=tuple({str(run.start.folder)} & waiting) if run.start else (),
        )
        for run in todo
    ]
    jobs += [
        Job(
            folder=str(test.folder),
            label=f"{test.run.label} tested with {' '.join(filter(None, (test.degrade, test.where)))}",
            script="evaluate.py",
            arguments=tuple(test.arguments),
            is_done=lambda test=test: test.finished,  # type: ignore[misc]
            needs=tuple({str(test.run.folder)} & waiting),
        )
        for test in tests
        if str(test.run.folder) in waiting or not test.finished
    ]
    before = len(runs) + len(tests) - len(jobs)
    print(
        f"{len(runs)} runs and {len(tests)} evaluations, {before} finished before, {len(jobs)} to do",
        flush=True,
    )
    if not jobs:
        return 0
    interrupted = run_launched(jobs, launch, logs=output / "logs", root=root)
    failed, left = sum(job.state == "failed" for job in jobs), sum(job.state != "done" for job in jobs)
    if left and interrupted and not failed:
        raise Interrupted(f"stopped with {left} jobs to go; the same command goes on")
    if left:
        print(f"{failed} failed, {left - failed} did not run or end; the same command tries them again")
    return left


def check_data(runs: Sequence[Planned]) -> None:
    """Raise ConfigError saying what is missing and how to prepare it; embedded data are made here."""
    from vmp.build import find_splits

    faults: dict[str, list[str]] = {}
    seen: set[str] = set()
    for run in runs:
        dataset = run.config.dataset
        if (key := repr((dataset, run.config.data.root))) in seen:
            continue
        seen.add(key)
        if isinstance(dataset, MotionsDataset | PreparedDataset):
            try:
                find_splits(run.config)
            except UserError as error:
                faults.setdefault(str(error), []).append(run.dataset)
    if faults:
        raise ConfigError(
            "the table needs data that are not there.\n"
            + "\n".join(faults)
            + "\nONLY='...' runs the cells of one dataset, as in ONLY=finegym; PROFILE=mini needs no data."
        )


# --- Table 8 -------------------------------------------------------------------------------------------------------


def _measure(
    request: Request,
    table: Table,
    all_cells: Sequence[Cell],
    chosen: Sequence[Cell],
    planner: Planner,
    output: Path,
) -> tuple[dict[tuple[int, int], Value], str, int]:
    """Values by row and column, and the device's name."""
    import torch

    from vmp.machine import device_name
    from vmp.paper.timing import time_models
    from vmp.provenance import commit

    assert table.measured
    wanted = {c.row for c in chosen}
    together: list[list[int]] = []  # a baseline and what is compared with it
    for r, row in enumerate(table.rows):
        if row.gain and together:
            together[-1].append(r)
        else:
            together.append([r])
    values = {(c.row, c.column): Value() for c in all_cells}
    devices: set[str] = set()
    now = commit()
    by_row = {c.row: c for c in all_cells if c.task}
    for rows in together:
        runs = [planner.run(task, 0) for r in rows if (task := by_row[r].task)]
        config = runs[0].config
        if config.trainer.amp != "none" or config.trainer.compile:
            raise ConfigError(
                "trainer.amp, trainer.compile: table 8 times models as the paper did, in float32 and eagerly; "
                "make bench BENCH=step measures these switches"
            )
        device = config.trainer.device
        device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        name = device_name(torch.device(device))
        threads = f", {torch.get_num_threads()} threads" if name == "CPU" else ""
        path = (
            output / "table8" / f"{config.backbone.key}-{_slug(name + threads)}-{_digest(runs, table)}.json"
        )
        found = read_timing(path) if path.is_file() else None
        if found is None and wanted & set(rows):
            label = ", ".join(table.rows[r].label for r in rows)
            if request.dry:
                print(f"not measured: {label} on {name}{threads}, {table.measured.repeats} times in turns")
                continue
            print(f"{label} on {name}{threads}", flush=True)
            began = time.monotonic()
            timed = time_models(
                [run.config for run in runs],
                batch=table.measured.batch,
                repeats=table.measured.repeats,
                device=device,
                say=lambda text: print(text, flush=True),
            )
            found = {
                "device": name + threads,
                "batch": table.measured.batch,
                "repeats": table.measured.repeats,
                "commit": now,
                "date": time.strftime("%Y-%m-%d %H:%M:%S"),
                "seconds": round(time.monotonic() - began, 1),
                "rows": [
                    {
                        "label": table.rows[r].label,
                        "overrides": run.overrides,
                        "speed": speed_of(run.raw, name + threads),
                        **numbers,
                    }
                    for r, run, numbers in zip(rows, runs, timed, strict=True)
                ],
            }
            write_json(path, found)
        if found is None:
            continue
        devices.add(found["device"])
        if found["commit"] != now:
            print(
                f"{path}: of {found['date']}, commit {found['commit']}, not {now}; remove it to measure again"
            )
        if request.dry:
            rows_said = ", ".join(table.rows[r].label for r in rows)
            print(
                f"measured: {rows_said} on {found['device']}, {found['date']} -> {path}; remove it to measure again"
            )
        for r, numbers in zip(rows, found["rows"], strict=True):
            for c, column in enumerate(table.columns):
                mean, spread = numbers[str(column.number)]
                number = Number(mean, path, (found["commit"] or "unknown",))
                values[r, c] = Value({0: (number,)}, spread=spread)
    return values, " and ".join(sorted(devices)), 0


def _slug(text: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in text).split())


SWITCHES = ("channels_last", "tf32", "cudnn_benchmark")  # what else decides how long a batch takes


def _digest(runs: Sequence[Planned], table: Table) -> str:
    assert table.measured
    what = [
        (size_of(run.raw["backbone"]), run.raw["vmp"], [run.raw["trainer"][key] for key in SWITCHES])
        for run in runs
    ]
    torch = metadata.version("torch")
    text = json.dumps([table.measured.batch, table.measured.repeats, torch, what], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


__all__ = ["Interrupted", "Request", "check_data", "plan", "reproduce", "run_missing", "with_starts"]
