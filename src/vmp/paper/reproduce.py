"""A table from one command: plan what it needs, run what is missing, write the table.

Nothing in "ours" comes from anywhere but a result.json, a per_class.csv or a timing of this project.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vmp.config import Config, MotionsDataset, PreparedDataset, check_start
from vmp.datasets import find_splits
from vmp.errors import ConfigError, UserError
from vmp.files import write_text
from vmp.jobs.launch import Launch, name_output, parse_launch, run_launched
from vmp.jobs.supervisor import Job
from vmp.paper.estimates import measured_rates, print_plan, time_rates
from vmp.paper.planning import PlannedEvaluation, PlannedRun, Planner, plan_cells
from vmp.paper.rendering import FilledTable, describe_provenance, to_csv, to_latex, to_markdown
from vmp.paper.tables import cells, conf_folder, load_profile, load_table, matches, results_of
from vmp.paper.timing import measure_table
from vmp.paper.values import read_values


class Interrupted(UserError):
    code = 130


@dataclass(frozen=True)
class Request:
    """The options of scripts/reproduce.py. output: folder of the runs, None for the profile's; results: folder of the
    table, None for the one beside the runs."""

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

    def command(self, target: str) -> str:
        """The `make` command for the same request."""
        variables = (
            ("PROFILE", self.profile, "paper"),
            ("SEEDS", str(self.seeds), "1"),
            ("ONLY", " ".join(self.only), ""),
            ("SET", " ".join(self.overrides), ""),
        )
        words = [f"{key}={shlex.quote(value)}" for key, value, default in variables if value != default]
        return " ".join([f"make {target}", *words])


def reproduce(request: Request) -> int:
    """Run what a table lacks and write it; the exit code."""
    known = sorted(int(f.stem.removeprefix("table")) for f in (conf_folder() / "table").glob("table*.yaml"))
    if request.table not in known:
        raise ConfigError(f"table={request.table}: there are {', '.join(map(str, known))}")
    profile = load_profile(request.profile)
    table = load_table(conf_folder() / "table" / f"table{request.table}.yaml", controls=profile.controls)
    launch = parse_launch(request.launch or profile.launch)
    output_name = request.output or profile.output
    output = Path(output_name)
    all_cells, seeds = cells(table, profile), range(request.seeds)
    chosen = [cell for cell in all_cells if cell.run and matches(cell, table, request.only)]
    if not chosen:
        names = ", ".join(dict.fromkeys(row.full_name for row in table.rows))
        raise ConfigError(
            f"only={' '.join(request.only)}: no cell of table {table.number} matches all of these words; "
            f"rows: {names}"
        )
    planner = Planner(output=output_name, extra=request.overrides)
    device, failed = "", 0
    if table.measured:
        if request.timing:
            raise ConfigError(
                f"timing=1: table {table.number} is itself a timing; make table{table.number} measures it"
            )
        values, device = measure_table(table, all_cells, chosen, planner, output, dry=request.dry)
        if request.dry:
            return 0
    else:
        runs, evaluations = plan_cells(chosen, planner, seeds)
        if request.timing:
            return 0 if time_rates(runs, output) else 1
        if request.dry:
            # of the same folder of runs, where the rates are kept
            given = [f"output={request.output}"] if request.output else []
            here = replace(request, overrides=(*given, *request.overrides))
            renew = f"{here.command('timing')} TABLE={table.number}"
            print_plan(runs, evaluations, profile, output, measured_rates(output), renew=renew)
            return 0
        failed = run_missing(runs, evaluations, launch, output)
        values = read_values(all_cells, planner, seeds)
    filled = FilledTable(table, profile, all_cells, values)
    notes = describe_provenance(
        filled,
        command=request.command(f"table{table.number}"),
        seeds=seeds,
        overrides=request.overrides,
        device=device,
    )
    stem = Path(request.results or results_of(output)) / f"table{table.number}"
    write_text(stem.with_suffix(".md"), to_markdown(filled, notes))
    write_text(stem.with_suffix(".csv"), to_csv(filled))
    write_text(stem.with_suffix(".tex"), to_latex(filled, notes))
    lacking = len(filled.lacking)
    print(f"-> {stem}.md, .csv, .tex" + (f"; {lacking} cells not run" if lacking else ""))
    return 1 if failed else 0


def run_missing(
    runs: Sequence[PlannedRun],
    evaluations: Sequence[PlannedEvaluation],
    launch: Launch,
    output: Path,
) -> int:
    """Run what is not finished, in the working directory, a checkout; how many of those jobs are still not done.

    Raises:
        UserError: data are missing.
        Interrupted: a signal stopped it; the same command continues.
    """
    todo = [run for run in runs if not run.finished]
    check_data(todo)
    for run in todo:
        if not run.needs:
            check_start(run.config)
    waiting = {str(run.folder) for run in todo}
    planned: list[PlannedRun | PlannedEvaluation] = [*todo]
    planned += [test for test in evaluations if str(test.run.folder) in waiting or not test.finished]
    jobs = [
        Job(
            folder=str(one.folder),
            output=name_output(output / "logs", one.folder),
            label=one.label + (" (continued)" if one.state == "half done" else ""),
            script=one.script,
            arguments=one.arguments,
            is_done=lambda one=one: one.finished,  # type: ignore[misc]
            needs=tuple({str(first.folder) for first in one.needs} & waiting),
        )
        for one in planned
    ]
    finished = len(runs) + len(evaluations) - len(jobs)
    print(
        f"{len(runs)} runs and {len(evaluations)} evaluations, {finished} finished before, {len(jobs)} to do",
        flush=True,
    )
    if not jobs:
        return 0
    interrupted = run_launched(jobs, launch, Path.cwd())
    failed, left = sum(job.state == "failed" for job in jobs), sum(job.state != "done" for job in jobs)
    if left and interrupted:
        said = f", of which {failed} failed" if failed else ""
        raise Interrupted(f"stopped with {left} jobs to go{said}; the same command continues")
    if left:
        print(f"{failed} failed, {left - failed} did not run or end; the same command tries them again")
    return left


def check_data(runs: Sequence[PlannedRun]) -> None:
    """Generated videos are made here.

    Raises:
        ConfigError: prepared datasets are missing; says how to prepare each.
    """

    faults: list[str] = []
    configs: dict[str, Config] = {}  # one per dataset
    for run in runs:
        configs.setdefault(repr((run.config.dataset, run.config.data.root)), run.config)
    for config in configs.values():
        if isinstance(config.dataset, MotionsDataset | PreparedDataset):
            try:
                find_splits(config)
            except UserError as error:
                faults.append(str(error))
    if faults:
        raise ConfigError(
            "the table needs data that are missing.\n"
            + "\n".join(dict.fromkeys(faults))
            + "\nONLY='...' runs the cells of one dataset, as in ONLY=finegym; PROFILE=mini needs no data."
        )
