"""A search for good values: Optuna proposes them, each trial is a run, and the validation split judges it.

Notes:
- the study is a SQLite file in the search's folder, so that the same command continues it; a trial that was interrupted
  is run again with its values, and its run continues where it saved;
- the test split is never looked at: a dataset without a validation split is refused;
- the released Hydra plugin for Optuna (hydra-optuna-sweeper 1.3.0) needs Optuna 2 and would start the runs itself.
  Here they are jobs like those of any sweep: checked first, a process each, on any launcher.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmp.errors import ConfigError, RunError, first_line
from vmp.files import write_json
from vmp.overrides import quote
from vmp.runs.records import is_finished, read_result
from vmp.targets import trust_targets

METRIC = "val/top1"
FILE = "search.json"  # what the report reads


@dataclass(frozen=True)
class Trial:
    """Values to try, and what came of them; value is the best accuracy of the epochs on the validation split, in %."""

    number: int
    values: Mapping[str, Any]  # key -> value, as the run has it
    state: str = "waiting"  # waiting, done or failed
    value: float | None = None
    folder: str = ""

    @property
    def overrides(self) -> list[str]:
        plain = {key: "null" if value is None else value for key, value in self.values.items()}
        quoted = {key: quote(value) for key, value in self.values.items() if isinstance(value, str)}
        return [f"{key}={value}" for key, value in (plain | quoted).items()]


class Search:
    """An Optuna study in `place`/study.db.

    Args:
        space: key -> a list of choices, or low and high, and optionally log, step and integer.
        trials: how many to finish, those of earlier commands among them.

    Raises:
        ConfigError: Optuna is not installed, or the space is none.
    """

    def __init__(self, place: Path, space: Mapping[str, Any], *, trials: int, seed: int) -> None:
        try:
            import optuna
            from sqlalchemy.engine import URL
        except ImportError:
            raise ConfigError("hydra/sweeper=optuna needs Optuna: pip install '.[optuna]'") from None
        self.place, self.space, self.trials = place, dict(space), trials
        self._distributions = {key: _distribution(key, given) for key, given in space.items()}
        if not self._distributions:
            raise ConfigError("hydra.sweeper.space: names no key to search; docs/sweeps.md has an example")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        place.mkdir(parents=True, exist_ok=True)
        self._study = optuna.create_study(
            storage=URL.create("sqlite", database=str(place.absolute() / "study.db")).render_as_string(),
            study_name=place.name,
            load_if_exists=True,
            direction="maximize",
        )
        self._seed = seed
        try:
            kept = json.loads((place / FILE).read_text(encoding="utf-8"))["trials"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            kept = []
        self._folders = {int(trial["number"]): str(trial["folder"]) for trial in kept}

    def read(self) -> list[Trial]:
        """All trials, by number."""
        states = {"COMPLETE": "done", "FAIL": "failed"}
        return [
            Trial(
                t.number,
                {key: _rounded(value, t.distributions[key]) for key, value in t.params.items()},
                states.get(t.state.name, "waiting"),
                t.value,
                self._folders.get(t.number, ""),
            )
            for t in self._study.get_trials(deepcopy=False)
        ]

    def propose(self, count: int) -> list[Trial]:
        """The next trials, at most `count`: first those that an earlier command left unfinished."""
        import numpy as np
        from optuna.samplers import TPESampler

        for trial in self.read():
            if trial.state == "waiting" and trial.values.keys() != self._distributions.keys():
                # a kill came between its values; with the defaults for the rest it would mislead
                self._fail(trial)
        known = self.read()
        left = sum(trial.state == "waiting" for trial in known)
        for number in range(len(known), min(self.trials, len(known) + count - left)):
            # no state of a generator: a search that was stopped goes on like one that was not
            seed = np.random.SeedSequence([self._seed, number]).generate_state(1).item()
            self._study.sampler = TPESampler(seed=seed)
            self._study.ask(self._distributions)
        return [trial for trial in self.read() if trial.state == "waiting"][:count]

    def record(self, trial: Trial, folder: str) -> None:
        """Tell the study what the run in a folder came to. Raises ConfigError where nothing was validated."""
        value = None
        if is_finished(Path(folder)):
            result = read_result(Path(folder))
            value = result.get("best_val_top1", result["top1"] if result["split"] == "val" else None)
            if value is None:
                raise ConfigError(
                    f"{folder}: was not validated, since its dataset has no val.csv; a search needs a validation split"
                )
        self._folders[trial.number] = folder
        if value is None or not math.isfinite(value):
            self._fail(trial)
        else:
            self._study.tell(trial.number, value)

    def _fail(self, trial: Trial) -> None:
        from optuna.trial import TrialState

        self._study.tell(trial.number, state=TrialState.FAIL)

    def write(self) -> str:
        """Write search.json; returns a table of the trials, the best first."""
        trials = sorted(self.read(), key=lambda t: -math.inf if t.value is None else t.value, reverse=True)
        keys = list(self.space)
        shown = [vars(t) | {"values": dict(t.values)} for t in trials]
        write_json(self.place / FILE, {"metric": METRIC, "space": self.space, "trials": shown})
        rows = [["trial", METRIC, *keys, "folder"]]
        for t in trials:
            value = t.state if t.value is None else f"{t.value:.2f}"
            rows.append([str(t.number), value, *(str(t.values.get(key, "")) for key in keys), t.folder])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "\n".join(
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
        )


@contextmanager
def explain_study_errors(place: Path) -> Iterator[None]:
    """A context that raises a RunError in place of an error of the study's database in `place`."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("sqlalchemy", "optuna"):
            raise
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error  # sqlite's own words
        raise RunError(
            f"{place / 'study.db'}: the search's trials cannot be read or written ({first_line(cause)}). Unless the "
            "disk is full or the folder read-only, the file is damaged: move it away, and the same command begins the "
            "study anew and takes the results of the runs that are finished"
        ) from error


def check_validated(dataset: Mapping[str, Any]) -> None:
    """Raise ConfigError where a dataset's config, or what it names, says that it has no validation split, before hours
    are spent."""
    if _lacks_validation(dataset):
        raise ConfigError(
            f"{dataset['name']} has no validation split, which a search needs; it must not use the test split"
        )


def _lacks_validation(dataset: Mapping[str, Any]) -> bool:
    """False also where it is not there yet, or wrong: each trial is checked, too."""
    if dataset["kind"] == "folders":
        if dataset.get("folds") or dataset.get("ratio"):
            return bool(dataset.get("folds")) or dataset["ratio"][1] == 0
        from vmp.prepare.folders import plan_folders

        root, table = (Path(str(dataset.get(key) or "")).expanduser() for key in ("root", "csv"))
        if not root.is_dir():
            return False
        plan, made = plan_folders(root, table if dataset.get("csv") else None, seed=dataset.get("seed", 0))
        return f"{made}/val" not in plan.splits
    if dataset["kind"] == "custom":
        from vmp.own import list_rows

        trust_targets({"dataset": dataset})
        return "val" not in list_rows(dataset["target"], dataset["options"])
    folder = Path(dataset.get("folder") or "")
    return (folder / "train.csv").is_file() and not (folder / "val.csv").is_file()


def _distribution(key: str, given: Any) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    try:
        if isinstance(given, list):
            return CategoricalDistribution(given)
        options = dict(given)
        kind = IntDistribution if options.pop("integer", False) else FloatDistribution
        return kind(options.pop("low"), options.pop("high"), **options)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"hydra.sweeper.space.{key} = {given}: must be a list of choices, or {{low: A, high: B}} with log: true, "
            f"step: C or integer: true ({type(error).__name__}: {error})"
        ) from None


def _rounded(value: Any, distribution: Any) -> Any:
    """A value of an interval in four significant digits, which also name the run's folder, if these are inside; a step
    without the rounding errors of its sum; a choice as it was given."""
    from optuna.distributions import FloatDistribution

    if not isinstance(distribution, FloatDistribution):
        return value
    near = float(f"{value:.{12 if distribution.step else 4}g}")
    return near if distribution.low <= near <= distribution.high else value
