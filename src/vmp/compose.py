"""Configs from overrides, outside of a Hydra command: for tables of many runs, and for published weights.

Notes:
- composing is memoised per choice of config files, which is many times faster than Hydra for hundreds of runs.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import OverrideType
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from vmp.overrides import hydra_override
from vmp.targets import trust_targets

_INSTALLED = Path(__file__).parent / "conf"  # a wheel has it inside the package
CONF = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).resolve().parents[2] / "conf"
Compose = Callable[[Sequence[str]], dict[str, Any]]  # overrides -> a resolved config


def with_values(config: DictConfig, values: Iterable[tuple[str, Any]]) -> DictConfig | None:
    """A copy of a composed config with plain values set; None where Hydra has to say what is wrong with one."""
    out = copy.deepcopy(config)
    try:
        for key, value in values:
            OmegaConf.update(out, key, value)
    except OmegaConfBaseException:  # Hydra's own message is clearer
        return None
    return out


@cache
def composer(conf: Path, name: str = "train") -> Compose:
    """A function that composes train.yaml, or another of the commands' configs, and runs nothing. Config files are
    composed once per choice of files; plain values are set afterwards. A Hydra application that calls it keeps its own
    state."""
    from hydra import initialize_config_dir
    from hydra._internal.hydra import Hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.types import RunMode

    conf = conf.absolute()
    groups = {path.name for path in conf.iterdir() if path.is_dir()}

    @cache
    def application() -> Hydra:
        """One for all configs: its loader keeps what it has read of the files that overrides name."""
        own = GlobalHydra.instance()
        before, own.hydra = own.hydra, None
        try:
            with initialize_config_dir(str(conf), version_base="1.3"):
                made = GlobalHydra.instance().hydra
        finally:
            own.hydra = before
            GlobalHydra.set_instance(own)
        assert made is not None
        return made

    def compose_with_hydra(overrides: Iterable[str]) -> DictConfig:
        given = [hydra_override(override, name) for override in overrides]
        config = application().compose_config(name, given, run_mode=RunMode.RUN, from_shell=False)
        with open_dict(config):
            del config["hydra"]
        return config

    compose_files = cache(compose_with_hydra)
    parser = OverridesParser.create()
    parse = cache(lambda override: parser.parse_override(hydra_override(override, name)))

    def compose_quickly(overrides: Sequence[str]) -> dict[str, Any]:
        parsed = [parse(override) for override in overrides]
        config = None
        if all(o.type == OverrideType.CHANGE and not o.is_sweep_override() and not o.package for o in parsed):
            where = {
                o.key_or_group: o.key_or_group in groups or o.key_or_group.startswith("hydra.")
                for o in parsed
            }
            # the files, and where to look for them
            files = tuple(str(o.input_line) for o in parsed if where[o.key_or_group])
            values = ((o.key_or_group, o.value()) for o in parsed if not where[o.key_or_group])
            config = with_values(compose_files(files), values)
        config = compose_with_hydra(overrides) if config is None else config
        composed: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
        trust_targets(composed)
        return composed

    return compose_quickly
