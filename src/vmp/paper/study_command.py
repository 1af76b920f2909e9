"""A study from one command: plan it, run what is missing, write its results."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from vmp.files import wait_for_lock, write_text
from vmp.formats import format_duration
from vmp.jobs.launch import parse_launch
from vmp.paper.estimates import command_of
from vmp.paper.planning import PlannedRun, Planner, add_needed_runs
from vmp.paper.reproduce import Interrupted, run_missing
from vmp.paper.study import (
    Study,
    StudyRun,
    choose,
    is_current,
    key_of,
    load_study,
    plan,
    rows_of,
    take_recorded_levels,
)
from vmp.paper.study_page import collect, compare_arms, draw, to_markdown
from vmp.paper.study_pictures import draw_arms, draw_attention
from vmp.paper.study_records import (
    CLIPS_FILE,
    RUNS_FILE,
    Records,
    leave_out_other_data,
    merge,
    read_records,
    write_records,
)


@dataclass(frozen=True)
class StudyRequest:
    """The options of scripts/study.py."""

    name: str
    seeds: int = 1
    only: tuple[str, ...] = ()
    search: bool = False
    launch: str = ""
    dry: bool = False
    output: str | None = None
    results: str | None = None
    overrides: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """What makes the same results."""
        given = {"seeds": str(self.seeds), "only": " ".join(self.only), "search": "1" if self.search else ""}
        words = [f"{key}={value}" for key, value in given.items() if value] + [*self.overrides]
        return shlex.join(["python", "scripts/study.py", self.name, *words])


def run_study(request: StudyRequest) -> int:
    """Run what a study lacks and write its results; the exit code."""
    study = load_study(request.name)
    output = request.output or study.output
    launch = parse_launch(request.launch or study.launch)
    planner = Planner(output=output, extra=request.overrides)
    chosen = choose(study, request.only, search=request.search)
    planned = plan(study, planner, seeds=range(request.seeds), **chosen._asdict())
    results = Path(request.results or Path(output) / "results")

    recorded = read_recorded(study, planner, results)
    planned = take_recorded_levels(study, planner, planned, recorded.runs)
    known = {key_of(row): row["config"] for row in recorded.runs}
    missing = [run for run in planned if known.get(key_of(run.place)) != run.digest]
    todo = add_needed_runs(run.planned for run in missing)
    if planned and not missing:
        places = list(dict.fromkeys(map(str, (Path(study.published), results))))
        print(
            f"all {len(planned)} runs are recorded in {' or '.join(places)}, so none is trained; "
            f"SEEDS={request.seeds + 1} trains with another seed; to train these again, move "
            f"{'the two folders' if len(places) > 1 else 'this folder'} away"
        )
    if request.dry:
        _print_plan(study, planned, missing, todo, recorded)
        return 0
    stopped: Interrupted | None = None
    try:
        left = run_missing(todo, [], launch, Path(output))
    except Interrupted as error:  # what is finished is written all the same
        left, stopped = 1, error
    new = _records_of(run for run in missing if run.planned.finished)
    results.mkdir(parents=True, exist_ok=True)
    with wait_for_lock(results / ".lock", f"{results}: another command writes there; waiting for it"):
        # read again: that command may have added runs
        records, says = leave_out_other_data(merge(read_recorded(study, planner, results), new))
        for message in says:
            print(message)
        pictures = write_results(study, records, results, command=request.command)
    if any(arm.compared_with for arm in study.arms.values()):  # else no two arms are to be told apart
        pictures += draw_arms(study, planned, results / "figures")
        if "learned" in study.arms:
            pictures += draw_attention(study, "learned", planned, results)
    for path in pictures:
        print(f"-> {path}")
    print(f"-> {results}/study_{study.name}.md, {RUNS_FILE}, {CLIPS_FILE}")
    if stopped:
        raise stopped
    return 1 if left else 0


def read_recorded(study: Study, planner: Planner, results: Path) -> Records:
    """The runs in the published folder and in `results` that have the config that the study gives them now."""
    found = Records([], [])
    for place in dict.fromkeys((Path(study.published), results)):
        found = merge(found, _without_other_configs(study, planner, read_records(place), place))
    return found


def write_results(study: Study, records: Records, results: Path, *, command: str) -> list[Path]:
    """Write the table, the records and, where arms are compared, the picture; return the picture's files."""
    write_records(records, results)
    found = collect(study, records.clips)
    gains = compare_arms(study, found)
    text = to_markdown(study, found, gains, records.runs, command=command)
    write_text(results / f"study_{study.name}.md", text)
    return draw(study, gains, results / f"study_{study.name}")


def _records_of(finished: Iterable[StudyRun]) -> Records:
    runs: list[dict[str, str]] = []
    clips: list[dict[str, str]] = []
    for run in finished:
        mine, tested = rows_of(run)
        runs.append(mine)
        clips += tested
    return Records(runs, clips)


def _without_other_configs(study: Study, planner: Planner, records: Records, place: Path) -> Records:
    """The records of runs that have the config that the study gives them now: a table never mixes configs. place: their
    folder."""
    kept = [row for row in records.runs if is_current(study, planner, row)]
    if gone := len(records.runs) - len(kept):
        print(
            f"{gone} recorded run(s) have another config than the study gives them now, or started from other weights, "
            f"and are left out ({place})"
        )
    keys = {key_of(row) for row in kept}
    return Records(kept, [row for row in records.clips if key_of(row) in keys])


def _print_plan(
    study: Study,
    planned: Sequence[StudyRun],
    missing: Sequence[StudyRun],
    todo: Sequence[PlannedRun],
    recorded: Records,
) -> None:
    for run in missing:
        print(f"  {run.set} fold {run.fold}  {run.arm}  {run.setting}  seed {run.seed}  {run.planned.state}")
        print(f"    {command_of(run.planned)}")
    print(f"{len(planned)} runs, {len(planned) - len(missing)} recorded, {len(missing)} to do")
    asked = {id(run.planned) for run in missing}
    if needed := [run for run in todo if id(run) not in asked and not run.finished]:
        print(
            f"and {len(needed)} whose mean attention they take, since neither their folders nor records of it are here"
        )
    sets = [run.dataset for run in todo if not run.finished]
    took = [(study.sets[row["set"]].label, float(row["seconds"])) for row in recorded.runs]
    if sets and took:
        print(estimate(sets, took))


def estimate(sets: Sequence[str], took: Sequence[tuple[str, float]]) -> str:
    """How long runs of these sets take, one after another, by the medians (recorded times may include suspensions).

    took: the set and the seconds of each recorded run; a set without any takes the median of all.
    """
    by_set = {name: [seconds for of, seconds in took if of == name] for name in dict.fromkeys(sets)}
    typical = {name: median(found or [seconds for _, seconds in took]) for name, found in by_set.items()}
    each = ", ".join(f"{name} {t:.0f} s" for name, t in typical.items())
    whole = format_duration(sum(typical[name] for name in sets))
    return f"about {whole}, one after another, by the medians of recorded runs ({each} a run)"
