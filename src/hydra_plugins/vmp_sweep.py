"""What Hydra calls for `python train.py -m ...`: our sweeper around any launcher, and a launcher for this machine.

Hydra takes plugins from packages of this name only; the work is in vmp.jobs.sweep.
"""

import copy
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

EXTRAS = {"joblib": "joblib", "submitit": "slurm", "ray": "ray"}  # in a plugin's name -> of ours


class RunSweeper(BasicSweeper):
    """Hydra's grid, but every job is checked first, has a process of its own, and is reported on.

    Args:
        processes: of each job; more than one run under torchrun.
    """

    def __init__(
        self, max_batch_size: int | None, params: dict[str, str] | None = None, processes: int = 1
    ) -> None:
        super().__init__(max_batch_size, params)
        self.processes = processes

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        # the launcher is made in `sweep`, when the sweep's folder has its name
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        from hydra.core.override_parser.overrides_parser import OverridesParser

        from vmp.errors import ConfigError
        from vmp.jobs.sweep import Job, Sweep, check_alone, name_of, plan, run_side_by_side

        config, context = self.config, self.hydra_context
        assert config is not None
        assert context is not None
        check_alone()
        if not isinstance(self.processes, int) or self.processes < 1:
            raise ConfigError(f"hydra.sweeper.processes = {self.processes!r}: must be at least 1")
        parser = OverridesParser.create(config_loader=context.config_loader)
        parsed = parser.parse_overrides([*self._parse_config(), *arguments])
        each = [overrides for batch in self.split_arguments(parsed, None) for overrides in batch]
        jobs = plan(each, self._compose)
        place = Path(str(config.output)).expanduser().absolute() / "sweeps" / name_of(arguments, jobs)
        with open_dict(config):
            config.hydra.sweep.dir = str(place)
        kind = str(config.hydra.launcher._target_).rpartition(".")[2]
        launcher = self._launcher()
        sweep = Sweep(
            place,
            jobs,
            script=Path(sys.argv[0]).absolute(),
            options=_options(config),
            processes=self.processes,
            echo=kind == "BasicLauncher" or getattr(launcher, "slots", 0) == 1,
            stoppable=kind != "SlurmLauncher",
        )

        def start(waiting: Sequence[Job]) -> None:
            if kind == "BasicLauncher":  # one after another needs no launcher
                run_side_by_side(place, [job.number for job in waiting], [{}])
                return
            size = self.max_batch_size or len(waiting)
            for first in range(0, len(waiting), size):
                batch = [[*job.overrides, *_own(place, job)] for job in waiting[first : first + size]]
                for result in launcher.launch(batch, initial_job_idx=first):
                    if result.status == JobStatus.FAILED:
                        raise result._return_value

        sweep.launch(start)
        sys.exit(sweep.report())

    def _compose(self, overrides: Sequence[str]) -> dict[str, Any]:
        from hydra.core.hydra_config import HydraConfig

        assert self.hydra_context is not None
        assert self.config is not None
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(config)
        try:
            with open_dict(config):
                del config["hydra"]
            raw = OmegaConf.to_container(config, resolve=True)
        finally:
            HydraConfig.instance().cfg = before
        assert isinstance(raw, dict)
        return raw  # type: ignore[return-value]

    def _launcher(self) -> Launcher:
        from hydra.core.plugins import Plugins

        from vmp.errors import ConfigError

        assert self.hydra_context is not None
        assert self.config is not None
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


class _JobLoader(ConfigLoaderImpl):
    """What a launcher asks for a job's config: the sweep's own, told which job it is.

    The process of the job composes its config; composing it here as well takes a tenth of a second for each job, also
    for those that are not started any more.
    """

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        config = copy.deepcopy(master_config)
        with open_dict(config):
            config.hydra.sweep.subdir = _number(sweep_overrides)
            config.hydra.overrides.task = list(sweep_overrides)
        return config


class LocalLauncher(Launcher):
    """Jobs side by side on this machine, one a device (or several: `devices=[0,0,1,1]`).

    Args:
        n_jobs: at a time; None: one a device, one without.
        devices: for CUDA_VISIBLE_DEVICES; None: all there are.
    """

    def __init__(self, n_jobs: int | None = None, devices: Sequence[int | str] | None = None) -> None:
        from vmp.errors import ConfigError

        if n_jobs is not None and (not isinstance(n_jobs, int) or n_jobs < 1):
            raise ConfigError(
                f"hydra.launcher.n_jobs = {n_jobs!r}: must be at least 1, or null for one a device"
            )
        self.n_jobs, self.devices = n_jobs, devices

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from vmp.jobs.sweep import find_devices, slots

        self.place = Path(str(config.hydra.sweep.dir))
        devices = find_devices() if self.devices is None else [str(device) for device in self.devices]
        self.places = slots(devices, int(config.hydra.sweeper.get("processes", 1)), self.n_jobs)

    @property
    def slots(self) -> int:
        return len(self.places)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from vmp.jobs.sweep import run_side_by_side

        run_side_by_side(self.place, [int(_number(each)) for each in job_overrides], self.places)
        return []


def _own(place: Path, job: Any) -> list[str]:
    """Hydra's keys that tell a job which one it is, wherever it runs."""
    from vmp.overrides import quote

    return [f"hydra.sweep.dir={quote(str(place))}", f"hydra.sweep.subdir='{job.number}'"]


def _number(overrides: Sequence[str]) -> str:
    """Of a job, as _own wrote it."""
    return overrides[-1].split("'")[1]


def _options(config: DictConfig) -> list[str]:
    """Of our command line: where configs are."""
    sources = [
        source.path for source in config.hydra.runtime.config_sources if source.provider == "command-line"
    ]
    out = [f"--config-dir={os.path.abspath(path)}" for path in sources]
    name = str(config.hydra.job.config_name)
    return out if name == "train" else [*out, f"--config-name={name}"]
