"""A study: arms compared on several small sets of clips, over folds and seeds; conf/study/<name>.yaml.

Notes:
- a run is one (set, fold, arm, setting, seed). Runs are ordered so that whatever is finished can be compared: seed by
  seed and fold by fold, all arms of a fold next to each other;
- the overrides of arms and settings may use values of their set, as in vmp.lambda={weight}; other braces are Hydra's,
  as in tag=lr${optim.lr} and vmp.options={width: 0.3};
- a run that an earlier study of the same config recorded (study_runs.csv, study_clips.csv.gz) is not run again, also
  where another run takes its mean attention.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BeforeValidator, Field

from vmp.backbones import zoo
from vmp.config import Config, suggest
from vmp.datasets import find_splits
from vmp.errors import ConfigError
from vmp.paper.planning import PlannedRun, Planner
from vmp.paper.tables import PaperSection, RunSpec, conf_folder, load_profile, load_section
from vmp.runs.folder import what_matters
from vmp.runs.run import Run

PLACE = ("set", "fold", "arm", "setting", "seed")  # of a run; columns of the records


def _flat(overrides: object) -> object:
    """Lists within the list are taken apart: what several sets or arms share is then a YAML anchor."""
    if not isinstance(overrides, list):
        return overrides
    return [one for item in overrides for one in (item if isinstance(item, list) else [item])]


Overrides = Annotated[tuple[str, ...], BeforeValidator(_flat)]


class StudySet(PaperSection):
    """label: how tables call it. fold: the key that chooses one of `folds`; None: a single split.
    dataset, model: of the study's profile; their overrides come before the set's own."""

    label: str
    dataset: str | None = None
    model: str | None = None
    overrides: Overrides = ()
    fold: str | None = None
    folds: Annotated[int, Field(ge=1)] = 1
    values: dict[str, int | float | str] = Field(default_factory=dict)


class Arm(PaperSection):
    """label: the arm's name in tables. compared_with: the arm from which its gain is measured; None for a baseline.
    level_from: the arm whose mean attention it takes, in the run of the same set, fold, setting and seed.
    group: of arms that are run only where they, or the group, are named."""

    label: str
    group: str | None = None
    overrides: Overrides
    compared_with: str | None = None
    level_from: str | None = None


class Study(PaperSection):
    """profile: of the tables (conf/table/profile), whose overrides come before the study's own.
    second_reference: an arm that every other one is compared with, beside its own reference.
    settings: of the search that every arm gets; the first is the default. name -> overrides."""

    name: str
    title: str
    note: str
    output: str
    published: str
    launch: str
    profile: str | None = None
    overrides: Overrides = ()
    sets: Annotated[dict[str, StudySet], Field(min_length=1)]
    arms: Annotated[dict[str, Arm], Field(min_length=1)]
    second_reference: str | None = None
    settings: Annotated[dict[str, Overrides], Field(min_length=1)]

    @property
    def default_setting(self) -> str:
        return next(iter(self.settings))

    def overrides_of(self, chosen: str, arm: str, setting: str) -> list[str]:
        """What an arm and a setting add to the overrides of a set, with its values inserted.

        Raises:
            ConfigError: the set lacks a value.
        """
        values = self.sets[chosen].values

        def value(found: re.Match[str]) -> str:
            if found[1] not in values:
                raise ConfigError(
                    f"study {self.name}: sets.{chosen}.values has no {found[1]!r}, which arm {arm} or setting "
                    f"{setting} needs"
                )
            return str(values[found[1]])

        given = (*self.arms[arm].overrides, *self.settings[setting])
        return [re.sub(r"(?<!\$)\{(\w+)\}", value, override) for override in given]


@dataclass(frozen=True)
class StudyRun:
    """A run of a study and its place in it. level_from: the run whose mean attention it takes."""

    set: str
    fold: int  # from 1
    arm: str
    setting: str
    seed: int
    planned: PlannedRun
    level_from: PlannedRun | None

    @property
    def place(self) -> dict[str, str]:
        return {name: str(getattr(self, name)) for name in PLACE}

    @property
    def digest(self) -> str:
        """Of all settings that decide its result, wherever its folder is."""
        matters = what_matters(self.planned.raw)
        if level := self.level_from:
            inside = level.folder.relative_to(level.config.output)
            matters["vmp"] = {**matters["vmp"], "level": inside.as_posix()}
        text = json.dumps(matters, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_study(name: str | Path) -> Study:
    """A study of conf/study, or of a .yaml file. Raises ConfigError where the file is wrong or there is none."""
    path = Path(name) if Path(name).suffix == ".yaml" else conf_folder() / "study" / f"{name}.yaml"
    study: Study = _with_profile(load_section(path, Study), path)
    alike: dict[object, str] = {}
    for label, arm in study.arms.items():
        if (twin := alike.setdefault((frozenset(arm.overrides), arm.level_from), label)) != label:
            raise ConfigError(
                f"{path}: arms.{twin} and arms.{label} have the same overrides, so they would be the same runs; change "
                "one, or delete it"
            )
        for key in ("compared_with", "level_from"):
            if (other := getattr(arm, key)) is not None and other not in study.arms:
                raise ConfigError(
                    f"{path}: arms.{label}.{key} = {other}: no such arm{suggest(other, [*study.arms])}"
                )
    groups = {arm.group for arm in study.arms.values()}
    if twins := sorted({*study.settings} & {*study.sets, *study.arms, *groups}):
        raise ConfigError(
            f"{path}: settings.{twins[0]} is also the name of a set, an arm or a group; choose another"
        )
    if (second := study.second_reference) is not None and second not in study.arms:
        raise ConfigError(f"{path}: second_reference = {second}: no such arm{suggest(second, [*study.arms])}")
    return study


def _with_profile(study: Study, path: Path) -> Study:
    """The study with the overrides that it takes from its profile in front of its own."""
    profile = load_profile(study.profile) if study.profile else None
    sets = {}
    for label, one in study.sets.items():
        taken: list[str] = []
        for key, name in (("dataset", one.dataset), ("model", one.model)):
            if name is None:
                continue
            if profile is None:
                raise ConfigError(
                    f"{path}: sets.{label}.{key} = {name}: needs `profile`, which says what that is"
                )
            known = getattr(profile, f"{key}s")
            if name not in known:
                raise ConfigError(
                    f"{path}: sets.{label}.{key} = {name}: profile {profile.name} has no such {key}"
                    f"{suggest(name, [*known])}"
                )
            if getattr(known[name], "start", None):
                raise ConfigError(
                    f"{path}: sets.{label}.model = {name}: starts from a run that only tables make; choose another, or "
                    "train that run and give init_from=FOLDER in the set's overrides"
                )
            taken += known[name].overrides
        sets[label] = one.model_copy(update={"overrides": (*taken, *one.overrides)})
    general = (*(profile.overrides if profile else ()), *study.overrides)
    return study.model_copy(update={"sets": sets, "overrides": general})


class Chosen(NamedTuple):
    sets: list[str]
    arms: list[str]
    settings: list[str]


def choose(study: Study, words: Sequence[str], *, search: bool) -> Chosen:
    """The sets, arms and settings that words name, an arm by its group too.

    Where none is named, these are all sets, all arms without a group, and the default setting or (search) all settings.

    Raises:
        ConfigError: a word names nothing.
    """
    groups = {arm.group: None for arm in study.arms.values() if arm.group}
    if unknown := [
        word for word in words if word not in {*study.sets, *study.arms, *groups, *study.settings}
    ]:
        raise ConfigError(
            f"only={' '.join(words)}: {', '.join(unknown)} is no set, arm or setting of study {study.name}\n"
            f"  sets: {', '.join(study.sets)}\n  arms: {', '.join(study.arms)}"
            + (f"\n  groups of arms: {', '.join(groups)}" if groups else "")
            + f"\n  settings: {', '.join(study.settings)}"
        )
    sets = [name for name in study.sets if name in words]
    arms = [name for name, arm in study.arms.items() if name in words or arm.group in words]
    settings = [name for name in study.settings if name in words]
    return Chosen(
        sets or list(study.sets),
        arms or [name for name, arm in study.arms.items() if not arm.group],
        settings or (list(study.settings) if search else [study.default_setting]),
    )


def plan(
    study: Study,
    planner: Planner,
    *,
    sets: Iterable[str],
    arms: Iterable[str],
    seeds: Iterable[int],
    settings: Iterable[str],
) -> list[StudyRun]:
    """All runs, in the order in which they should be made.

    Raises:
        ConfigError: a config is wrong, or two sets or folds have the same run, which would count twice.
    """
    names = [(s, a) for s in settings for a in arms]
    runs = [
        _plan_one(study, planner, chosen, fold, arm, setting, seed)
        for seed in seeds
        for chosen in sets
        for fold in range(1, study.sets[chosen].folds + 1)
        for setting, arm in names
    ]
    seen: dict[Path, StudyRun] = {}
    for run in runs:
        first = seen.setdefault(run.planned.folder, run)
        same = first.planned.raw == run.planned.raw  # else add_needed_runs says what differs
        if same and (first.set, first.fold) != (run.set, run.fold):
            raise ConfigError(
                f"study {study.name}: set {first.set} fold {first.fold} and set {run.set} fold {run.fold} have the "
                "same runs, which would count twice. Two sets need overrides that differ, and a set with `folds` needs "
                "`fold`, the key that chooses one, such as dataset.fold"
            )
    return runs


def _plan_one(
    study: Study, planner: Planner, chosen: str, fold: int, arm: str, setting: str, seed: int
) -> StudyRun:
    planned = planner.run(_spec(study, chosen, fold, arm, setting), seed)
    return StudyRun(chosen, fold, arm, setting, seed, planned, planned.level_from)


def take_recorded_levels(
    study: Study, planner: Planner, runs: Iterable[StudyRun], recorded: Iterable[Mapping[str, str]]
) -> list[StudyRun]:
    """The runs; one that takes the mean attention of a recorded run takes it from the record where that run's folder is
    not there. recorded: rows of study_runs.csv."""
    levels = {key_of(row): row.get("attention") for row in recorded}

    def take(run: StudyRun) -> StudyRun:
        if run.planned.level_from is None or run.planned.level_from.finished:
            return run
        level = levels.get(key_of(run.place | {"arm": str(study.arms[run.arm].level_from)}))
        if not level:  # not recorded, or by an earlier version
            return run
        spec = _spec(study, run.set, run.fold, run.arm, run.setting)
        given = (f"vmp.level={level}",)
        spec = replace(spec, overrides=spec.overrides + given, own=spec.own + given, level_from=None)
        return replace(run, planned=planner.run(spec, run.seed))

    return [take(run) for run in runs]


def _spec(study: Study, chosen: str, fold: int, arm: str, setting: str) -> RunSpec:
    of_set, of_arm = study.sets[chosen], study.arms[arm]
    own = study.overrides_of(chosen, arm, setting)
    folds = [f"{of_set.fold}={fold}"] if of_set.fold else []
    return RunSpec(
        dataset=of_set.label,
        model=arm,
        overrides=(*study.overrides, *of_set.overrides, *folds, *own),
        own=tuple(folds + own),
        tag=None if setting == study.default_setting else setting,
        level_from=_spec(study, chosen, fold, of_arm.level_from, setting) if of_arm.level_from else None,
    )


def rows_of(run: StudyRun) -> tuple[dict[str, str], list[dict[str, str]]]:
    """What a finished run says of itself (a row of study_runs.csv) and of each tested clip (study_clips.csv.gz)."""

    done = Run(run.planned.folder)
    tested = find_splits(run.planned.config, progress=False).tested[1]
    groups = {clip.id: clip.tags.get("group", "") for clip in tested.clips}
    result, place, digests = done.result, run.place, sorted(done.digests.items())
    scalars = result.get("scalars") or {}
    mine = {
        **place,
        "config": run.digest,
        "commit": result.get("commit") or "",
        "top1": f"{result['top1']:.4f}",
        "slope": _rounded(scalars.get("slope")),
        "shift": _rounded(scalars.get("shift")),
        "attention": _rounded(scalars.get("attention")),
        "seconds": f"{result.get('seconds', 0):.0f}",
        "device": result.get("device", ""),
        "data": hashlib.sha256(repr(digests).encode()).hexdigest()[:8] if digests else "",
        "weights": str((result.get("weights") or {}).get("sha256", ""))[:8],
    }
    clips = [
        {
            **place,
            "id": row["id"],
            "group": groups.get(row["id"]) or row["id"],
            "class": done.classes[int(row["label"])],
            "predicted": done.classes[int(row["predicted"])],
        }
        for row in done.predictions
        if row["predicted"]
    ]
    return mine, clips


def _rounded(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def key_of(row: Mapping[str, str]) -> tuple[str, ...]:
    """Which run a recorded row belongs to."""
    return tuple(row[name] for name in PLACE)


def is_current(study: Study, planner: Planner, row: Mapping[str, str]) -> bool:
    """Whether a recorded run has the config, and the start weights, that the study gives it now."""
    if row["set"] not in study.sets or row["arm"] not in study.arms or row["setting"] not in study.settings:
        return False
    if int(row["fold"]) > study.sets[row["set"]].folds:
        return False
    try:
        run = _plan_one(
            study, planner, row["set"], int(row["fold"]), row["arm"], row["setting"], int(row["seed"])
        )
    except ConfigError:  # the user's overrides do not fit an arm that was not asked for
        return False
    return run.digest == row["config"] and _same_weights(run.planned.config, row)


def _same_weights(config: Config, row: Mapping[str, str]) -> bool:
    """False where weights in this package are others than those that the run started from; records of earlier versions
    do not say which they were."""
    b, then = config.backbone, row.get("weights")
    if not then or config.init_from or b.weights not in zoo.NAMES:
        return True
    now = zoo.find(b.key, b.weights).sha256
    return not now or now.startswith(then)
