"""How Hydra composes our configs: what the command line names wins over what an experiment or a recipe file brings.

Hydra merges an experiment's values after the files of the groups, so that `experiment=mine trainer=debug` would train
for as many epochs as `mine` says. Here the order is: the command line's values, the files that it names, the
experiment, the recipe, the defaults. Hydra imports this module with its plugins, before it composes anything.
"""

import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra._internal.hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from vmp.launched import launched

WHOLE = ("dataset", "backbone", "vmp", "optim", "logger")  # sections whose keys all come from one file


class Loader(ConfigLoaderImpl):
    """Hydra's own, with that order."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read: dict[tuple[str, str], tuple[dict[str, Any], dict[str, Any]]] = {}  # launchers pickle it
        self._told: set[str] = set()

    def _load_configuration_impl(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        cfg = super()._load_configuration_impl(
            config_name, overrides, run_mode, from_shell, validate_sweep_overrides
        )
        choices = dict(cfg.hydra.runtime.choices)
        task = list(OmegaConf.to_container(cfg.hydra.overrides.task))  # type: ignore[arg-type]  # not resolved
        if not any(o.partition("=")[0] in choices for o in task):
            return cfg
        parsed = OverridesParser.create().parse_overrides(task)
        given = {o.key_or_group for o in parsed} - set(choices)
        named = [
            o.key_or_group
            for o in parsed
            if isinstance(choices.get(o.key_or_group), str) and not o.package and not o.is_sweep_override()
        ]
        said = " ".join(f"{group}={choices[group]}" for group in named if group != "experiment")
        wanted = self._files({group: choices[group] for group in named if group != "experiment"}, choices)
        for section, values in wanted.items():
            whole = section in WHOLE and section in named
            for change in _put(cfg, section, values, given, whole=whole):
                self._tell(f"note: {said} on the command line wins: {change}", run_mode)
        return cfg

    def _files(self, named: dict[str, str], choices: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """What the files of the named groups set: section -> key -> value."""
        wanted: dict[str, dict[str, Any]] = {}
        if "recipe" in named:
            values, picked = self._file("recipe", named["recipe"])
            for section, each in values.items():
                if picked.get(section) in (None, choices.get(section)):  # else another optimizer was chosen
                    wanted[section] = dict(each)
            own, _ = self._file("trainer", choices["trainer"])  # goes before the recipe, named or not
            for key in set(wanted.get("trainer", ())) & set(own["trainer"]):
                wanted["trainer"][key] = own["trainer"][key]
        for group in sorted(set(named) - {"recipe"}):
            for section, each in self._file(group, named[group])[0].items():
                wanted.setdefault(section, {}).update(each)
        return wanted

    def _file(self, group: str, choice: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """`_load_file`, once for each."""
        if (group, choice) not in self._read:
            self._read[group, choice] = self._load_file(group, choice)
        return self._read[group, choice]

    def _load_file(self, group: str, choice: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a group's file sets, by section, and the files that it chooses in other groups."""
        file = super()._load_configuration_impl(f"{group}/{choice}", [], RunMode.RUN)
        picked = dict(file.hydra.runtime.choices)
        with open_dict(file):
            del file["hydra"]
        values = OmegaConf.to_container(file)
        assert isinstance(values, dict)
        return {str(section): each for section, each in values.items()}, picked

    def _tell(self, text: str, run_mode: RunMode) -> None:
        if run_mode == RunMode.RUN and text not in self._told and launched().first:
            self._told.add(text)
            print(text, file=sys.stderr)


def _put(
    cfg: DictConfig, section: str, values: dict[str, Any], given: set[str], *, whole: bool
) -> Iterator[str]:
    """Give a section a file's values, but for the keys in `given`; yields what that changes.

    Args:
        whole: the section has the file's keys and no others.
    """
    with open_dict(cfg[section]):
        before = OmegaConf.to_container(cfg[section])
        assert isinstance(before, dict)
        for key, value in values.items():
            name = f"{section}.{key}"
            if any(each == name or each.startswith(f"{name}.") for each in given):
                continue
            if key not in before or before[key] != value:
                cfg[section][key] = value
                yield f"{name} is {_shown(value)}, not {_shown(before.get(key))}"
        for key in set(before) - set(values) if whole else ():
            if f"{section}.{key}" not in given:
                del cfg[section][key]
                yield f"{section}.{key} = {_shown(before[key])} is left out"


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _unless(given: Any, otherwise: Any) -> Any:
    """${unless:A,B}: nothing where A is set, else B."""
    return otherwise if given is None else None


def _word(key: str, *, _root_: DictConfig) -> str:
    """${word:KEY}: the key's value as a word of a folder's name, different for different values."""
    text = str(OmegaConf.select(_root_, key))
    readable = re.sub(r"[^\w.+-]+", "-", Path(text).name).strip("-.+")[-40:].lstrip("-.+")
    return f"{readable or 'value'}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _groups() -> str:
    """${groups:}: what train.py can be told as GROUP=NAME, for --help."""
    from vmp.config.keys import GROUPS

    loader = GlobalHydra.instance().config_loader()
    return "\n".join(f"{group}: {', '.join(loader.get_group_options(group))}" for group in GROUPS)


OmegaConf.register_new_resolver("unless", _unless, replace=True)
OmegaConf.register_new_resolver("word", _word, replace=True)
OmegaConf.register_new_resolver("groups", _groups, replace=True)
hydra._internal.hydra.ConfigLoaderImpl = Loader  # type: ignore[misc]
