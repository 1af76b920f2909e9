"""What Hydra calls for `python train.py -m ...`: sweepers that hand the jobs of a grid, or of a search, to vmp.jobs.

Hydra finds plugins in packages of this name only, and imports them all at every start: what is heavy is imported late.
"""

import copy
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, OverrideType, QuotedString
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from vmp.errors import ConfigError

if TYPE_CHECKING:
    from vmp.jobs.sweep import Sweep

EXTRAS = {"joblib": "joblib", "submitit": "slurm", "ray": "ray"}  # word in a plugin's name -> our extra


class RunSweeper(BasicSweeper):
    """Hydra's grid of overrides, each a job that is checked first and has a process of its own.

    Args:
        max_batch_size: jobs that a launcher gets at a time; None: all.
        processes: of each job; more than one run under torchrun.
    """

    config: DictConfig  # never None when Hydra calls `sweep`
    hydra_context: HydraContext

    def __init__(
        self, max_batch_size: int | None, params: dict[str, str] | None = None, processes: int = 1
    ) -> None:
        super().__init__(max_batch_size, params)
        self.processes = processes
        # files and keys of a job -> its whole config, and the same without Hydra's part
        self._composed: dict[tuple[str, ...], tuple[DictConfig, DictConfig]] = {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        # the launcher is made in `sweep`, once the sweep's folder has a name
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        from vmp.jobs.planning import name_sweep

        self._check()
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        parsed = parser.parse_overrides([*self._parse_config(), *arguments])
        each = [overrides for batch in self.split_arguments(parsed, None) for overrides in batch]
        sys.exit(self._run(self._home() / name_sweep(arguments, each), each).report())

    def _check(self) -> None:
        from vmp.jobs.planning import check_started_once

        check_started_once()
        counts = {"processes": self.processes, "max_batch_size": self.max_batch_size}
        if self.max_batch_size is None:
            del counts["max_batch_size"]
        for key, value in counts.items():
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"hydra.sweeper.{key} = {value!r}: must be at least 1")

    def _home(self) -> Path:
        return Path(str(self.config.output)).expanduser().absolute() / "sweeps"

    def _places(self) -> list[dict[str, str]]:
        """Of jobs that run at the same time on this machine; none: a launcher of its own runs them elsewhere."""
        from vmp.jobs.places import local_places

        own = self.config.hydra.launcher
        kind = str(own._target_).rpartition(".")[2]
        if kind == "BasicLauncher":  # Hydra's, for one job after another
            return [{}]
        if kind == "local_places":
            return local_places(own.n_jobs, own.devices, self.processes)[: self.max_batch_size]
        return []

    def _run(self, place: Path, each: list[list[str]]) -> "Sweep":
        """Run the jobs with these overrides; `place` is the sweep's folder."""
        from vmp.jobs.planning import plan_jobs
        from vmp.jobs.sweep import Sweep

        jobs = plan_jobs(each, place, self._compose)
        with open_dict(self.config):
            self.config.hydra.sweep.dir = str(place)
        places = self._places()
        sweep = Sweep(
            place,
            jobs,
            script=str(Path(sys.argv[0]).absolute()),
            options=_list_options(self.config),
            processes=self.processes,
            echo=len(places) == 1,
        )
        if places:
            sweep.run_here(places)
            return sweep
        launcher = self._make_launcher()

        def launch(numbers: Sequence[int]) -> None:
            size = self.max_batch_size or len(numbers)
            for first in range(0, len(numbers), size):
                batch = [[*each[n], *_name_job(place, n)] for n in numbers[first : first + size]]
                for result in launcher.launch(batch, initial_job_idx=first):
                    if result.status == JobStatus.FAILED:
                        raise result._return_value

        stoppable = not str(self.config.hydra.launcher._target_).endswith("SlurmLauncher")
        sweep.run_elsewhere(launch, stoppable=stoppable)
        return sweep

    def _compose(self, overrides: Sequence[str]) -> dict[str, Any]:
        """The resolved config of a job. Jobs that differ in plain values only are composed once: the values of the
        others are set afterwards, which takes milliseconds instead of a tenth of a second."""
        from hydra.core.hydra_config import HydraConfig

        from vmp.compose import with_values

        rest, values = _divide(overrides, set(self.config.hydra.runtime.choices))
        key = (*rest, *values)
        known = self._composed.get(key)
        config = with_values(known[1], values.items()) if known else None
        if known and config is not None:
            full = known[0]
        else:
            full = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            config = OmegaConf.masked_copy(full, [str(name) for name in full if name != "hydra"])
            if not _looks_at_the_job(config, overrides):
                self._composed[key] = full, config
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(full)  # for ${hydra:...}
        try:
            return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
        finally:
            HydraConfig.instance().cfg = before

    def _make_launcher(self) -> Launcher:
        from hydra.core.plugins import Plugins

        assert self.task_function is not None
        own = self.config.hydra.launcher
        target = str(own._target_)
        tasks = int(own.get("tasks_per_node") or 1) * int(own.get("nodes") or 1)
        if tasks > 1:
            raise ConfigError(
                f"hydra.launcher starts {tasks} tasks for a job, and each would train it: leave nodes and "
                f"tasks_per_node at 1; hydra.sweeper.processes={tasks} runs a job in {tasks} processes"
            )
        if target not in Plugins.instance().class_name_to_class:
            extra = next((EXTRAS[name] for name in EXTRAS if f"_{name}_" in target), None)
            hint = f": pip install '.[{extra}]'" if extra else ""
            raise ConfigError(
                f"the launcher {target} is not installed{hint}; hydra/launcher=local needs nothing more"
            )
        context = HydraContext(
            config_loader=_JobLoader(self.hydra_context.config_loader.get_search_path()),
            callbacks=self.hydra_context.callbacks,
        )
        return Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=self.task_function, config=self.config
        )


class SearchSweeper(RunSweeper):
    """Runs that Optuna proposes.

    Args:
        space: what is searched where the command line says nothing of it, see vmp.jobs.search.Search.
        trials: runs in all, those of earlier commands among them.
        seed: of the proposals.
        max_batch_size: runs at a time with a launcher of its own (joblib, Slurm, Ray); None: one.
    """

    def __init__(
        self, space: DictConfig, trials: int, seed: int, max_batch_size: int | None = None, processes: int = 1
    ) -> None:
        super().__init__(max_batch_size, None, processes)
        self.space, self.trials, self.seed = space, trials, seed

    def sweep(self, arguments: list[str]) -> Any:
        from vmp.jobs.search import Search, check_validated, explain_study_errors
        from vmp.runs.folder import locked

        self._check()
        if not isinstance(self.trials, int) or self.trials < 1:
            raise ConfigError(f"hydra.sweeper.trials = {self.trials!r}: must be at least 1")
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        parsed = parser.parse_overrides(arguments)
        space = search_space(parsed, cast(dict[str, Any], OmegaConf.to_container(self.space, resolve=True)))
        tags = [a.partition("=")[2] for a in arguments if a.partition("=")[0] == "tag"]
        fixed = [str(o.input_line) for o in parsed if o.key_or_group not in (*space, "tag")]
        check_validated(self._compose(fixed)["dataset"])
        place = self._home() / name_search(arguments, space)
        code = 0
        with locked(place, f"this search is running already (see {place})"), explain_study_errors(place):
            search = Search(place, space, trials=self.trials, seed=self.seed)
            count = len(self._places()) or self.max_batch_size or 1
            while trials := search.propose(count):
                tag = [*tags, "trial"]
                each = [[*fixed, *t.overrides, f"tag={'-'.join(tag)}{t.number}"] for t in trials]
                sweep = self._run(place / f"trial{trials[0].number:04}", each)
                for trial, job in zip(trials, sweep.jobs, strict=True):
                    if job.state in ("done", "finished before", "failed"):
                        search.record(trial, job.folder)
                search.write()
                states = {job.state for job in sweep.jobs}
                if not states <= {"done", "finished before", "failed"}:
                    code = sweep.report()
                    break
                if "failed" in states:
                    code = sweep.report()
                    tried = [t.state for t in search.read()]
                    if len(tried) >= 3 and set(tried) == {"failed"}:  # a mistake, not bad luck
                        break
            print(search.write())
            print(f"-> {place / 'search.json'}", flush=True)
        sys.exit(code)


def search_space(overrides: Sequence[Override], default: dict[str, Any]) -> dict[str, Any]:
    """What the command line searches; where it searches nothing, the default without what it sets."""
    given = {o.key_or_group: _searched(o) for o in overrides if o.is_sweep_override()}
    fixed = {o.key_or_group for o in overrides}
    return given or {key: space for key, space in default.items() if key not in fixed}


def name_search(arguments: list[str], space: dict[str, Any]) -> str:
    """The name of a search's folder, the same for the same command and space: trials of two spaces do not compare."""
    from vmp.jobs.planning import name_sweep

    given = [*arguments, json.dumps(space, sort_keys=True)]
    return f"search-{name_sweep(given, [arguments]).rpartition('-')[2]}"


def _searched(override: Override) -> Any:
    """What `vmp.jobs.search` takes for KEY=a,b, range(...), interval(a,b), int(...) or tag(log,interval(a,b))."""
    swept = override.value()
    if isinstance(swept, IntervalSweep):
        whole = isinstance(swept.start, int) and isinstance(swept.end, int)
        found = {"low": swept.start, "high": swept.end, "log": "log" in swept.tags}
        return found | {"integer": True} if whole else found
    return [each.text if isinstance(each, QuotedString) else each for each in override.sweep_iterator()]


def _divide(overrides: Sequence[str], groups: set[str]) -> tuple[list[str], dict[str, Any]]:
    """Overrides that choose files, add or delete, and those that set plain values: key -> value."""
    rest, values = [], {}
    for o in OverridesParser.create().parse_overrides(list(overrides)):
        if o.type != OverrideType.CHANGE or o.package or o.key_or_group in groups or o.key_or_group in values:
            rest.append(str(o.input_line))
        else:
            values[o.key_or_group] = o.value()
    return rest, values


def _looks_at_the_job(config: DictConfig, overrides: Sequence[str]) -> bool:
    """Whether values come from Hydra's description of the job (${hydra:job.num}, ...), other than its files."""
    text = OmegaConf.to_yaml(config) + "".join(overrides)
    return text.count("${hydra:") != text.count("${hydra:runtime.choices.")


class _JobLoader(ConfigLoaderImpl):
    """Gives a launcher, as a job's config, the sweep's own with the number of the job.

    The process of the job composes its config; composing it here as well would take a tenth of a second for each job,
    also after a request to stop.
    """

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        config = copy.deepcopy(master_config)
        with open_dict(config):
            config.hydra.sweep.subdir = sweep_overrides[-1].split("'")[1]  # as _name_job wrote it
            config.hydra.overrides.task = list(sweep_overrides)
        return config


def _name_job(place: Path, number: int) -> list[str]:
    """Overrides that tell `train.py`, wherever a launcher calls it, which job it is."""
    from vmp.overrides import quote

    return [f"hydra.sweep.dir={quote(str(place))}", f"hydra.sweep.subdir='{number}'"]


def _list_options(config: DictConfig) -> list[str]:
    """The words of this command line that say where configs are."""
    sources = [
        source.path for source in config.hydra.runtime.config_sources if source.provider == "command-line"
    ]
    out = [f"--config-dir={os.path.abspath(path)}" for path in sources]
    out += [word for word in config.hydra.overrides.hydra if word.lstrip("+").startswith("hydra.searchpath=")]
    name = str(config.hydra.job.config_name)
    return out if name == "train" else [*out, f"--config-name={name}"]
