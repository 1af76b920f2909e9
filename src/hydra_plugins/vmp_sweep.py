"""What Hydra calls for `python train.py -m ...`: a sweeper that hands the jobs to vmp.jobs.

Hydra finds plugins in packages of this name only, and imports them all at every start: what is heavy is imported late.
"""

import copy
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

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
        from hydra.core.override_parser.overrides_parser import OverridesParser

        from vmp.errors import ConfigError
        from vmp.jobs.places import local_places
        from vmp.jobs.planning import check_started_once, name_sweep, plan_jobs
        from vmp.jobs.sweep import Sweep

        check_started_once()
        if not isinstance(self.processes, int) or self.processes < 1:
            raise ConfigError(f"hydra.sweeper.processes = {self.processes!r}: must be at least 1")
        config, own = self.config, self.config.hydra.launcher
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        parsed = parser.parse_overrides([*self._parse_config(), *arguments])
        each = [overrides for batch in self.split_arguments(parsed, None) for overrides in batch]
        place = Path(str(config.output)).expanduser().absolute() / "sweeps" / name_sweep(arguments, each)
        jobs = plan_jobs(each, place, self._compose)
        with open_dict(config):
            config.hydra.sweep.dir = str(place)
        kind = str(own._target_).rpartition(".")[2]
        places: list[dict[str, str]] = []
        if kind == "BasicLauncher":  # Hydra's, for one job after another
            places = [{}]
        elif kind == "local_places":
            places = local_places(own.n_jobs, own.devices, self.processes)[: self.max_batch_size]
        sweep = Sweep(
            place,
            jobs,
            script=str(Path(sys.argv[0]).absolute()),
            options=_list_options(config),
            processes=self.processes,
            echo=len(places) == 1,
        )
        if places:
            sweep.run_here(places)
            sys.exit(sweep.report())
        launcher = self._make_launcher()

        def launch(numbers: Sequence[int]) -> None:
            size = self.max_batch_size or len(numbers)
            for first in range(0, len(numbers), size):
                batch = [[*each[n], *_name_job(place, n)] for n in numbers[first : first + size]]
                for result in launcher.launch(batch, initial_job_idx=first):
                    if result.status == JobStatus.FAILED:
                        raise result._return_value

        sweep.run_elsewhere(launch, stoppable=kind != "SlurmLauncher")
        sys.exit(sweep.report())

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

        from vmp.errors import ConfigError

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


def _divide(overrides: Sequence[str], groups: set[str]) -> tuple[list[str], dict[str, Any]]:
    """Overrides that choose files, add or delete, and those that set plain values: key -> value."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import OverrideType

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
    """The options of this command line that say where configs are."""
    sources = [
        source.path for source in config.hydra.runtime.config_sources if source.provider == "command-line"
    ]
    out = [f"--config-dir={os.path.abspath(path)}" for path in sources]
    name = str(config.hydra.job.config_name)
    return out if name == "train" else [*out, f"--config-name={name}"]
