"""How Hydra composes our configs: files that are named on the command line win over an experiment's and a recipe's.

Hydra merges the values of an experiment after the files of the groups, so that `experiment=mine trainer=debug` would
train for as many epochs as `mine` says. Here the order is, strongest first: values on the command line, files that it
names, the experiment, the recipe, the defaults. Hydra offers no hook for that, so its loader is replaced by a subclass
that corrects a composed config. Hydra imports this module with its plugins, before it composes anything.
"""

import copy
import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra._internal.hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from vmp.ranks import read_rank

# sections that hold the keys of one file and no others; a recipe or an experiment adds to the other ones
WHOLE = ("dataset", "backbone", "vmp", "optim", "augment", "logger")


class Loader(ConfigLoaderImpl):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._files: dict[tuple[str, ...], tuple[dict[str, dict[str, Any]], dict[str, Any]]] = {}
        self._notes: set[str] = set()
        self._places: list[str] = []  # further ones for config files, as hydra.searchpath has them

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
        choices = dict(cfg.hydra.runtime.choices)  # group -> file
        task = list(OmegaConf.to_container(cfg.hydra.overrides.task))  # type: ignore[arg-type]  # not resolved
        if not any(o.partition("=")[0] in choices for o in task):
            return cfg
        parsed = OverridesParser.create().parse_overrides(task)
        given = {o.key_or_group for o in parsed} - set(choices)
        self._places = [str(place) for place in cfg.hydra.searchpath]
        named = {
            o.key_or_group: choices[o.key_or_group]
            for o in parsed
            if isinstance(choices.get(o.key_or_group), str) and not o.package and not o.is_sweep_override()
        }
        named.pop("experiment", None)
        typed = " ".join(f"{group}={choice}" for group, choice in named.items())
        for section, values in self._read_named(named, choices).items():
            whole = section in WHOLE and section in named
            for change in _overwrite(cfg, section, values, given, whole=whole):
                self._note(f"note: {typed} on the command line wins: {change}", run_mode)
        return cfg

    def _read_named(self, named: dict[str, str], choices: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """What the files of the named groups set: section -> key -> value."""
        wanted: dict[str, dict[str, Any]] = {}
        if "recipe" in named:
            values, chosen = self._read_file("recipe", named["recipe"])
            for section, each in values.items():
                if chosen.get(section) in (None, choices.get(section)):  # else another optimizer was chosen
                    wanted[section] = dict(each)
            trainer, _ = self._read_file("trainer", choices["trainer"])  # wins over a recipe, named or not
            for key in set(wanted.get("trainer", ())) & set(trainer["trainer"]):
                wanted["trainer"][key] = trainer["trainer"][key]
        for group in sorted(set(named) - {"recipe"}):
            for section, each in self._read_file(group, named[group])[0].items():
                wanted.setdefault(section, {}).update(each)
        return wanted

    def _read_file(self, group: str, choice: str) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
        """What a file of a group sets, by section, and the files that it chooses in other groups."""
        key = (group, choice, *self._places)
        if key not in self._files:  # not functools.cache: launchers pickle this class
            places = copy.deepcopy(self.get_search_path())
            for place in self._places:
                places.prepend("hydra.searchpath", place, anchor="schema")
            loader = ConfigLoaderImpl(places)
            name = f"{group}/{choice}"
            _, files = loader._parse_overrides_and_create_caching_repo(name, [])
            found = create_defaults_list(  # without those of Hydra itself, of which there are more
                repo=files, config_name=name, overrides_list=[], prepend_hydra=False, skip_missing=False
            )
            values = OmegaConf.to_container(loader._compose_config_from_defaults_list(found.defaults, files))
            self._files[key] = values, found.overrides.known_choices  # type: ignore[assignment]
        return self._files[key]

    def _note(self, text: str, run_mode: RunMode) -> None:
        """Print it once, in the first process of a run, and not for the jobs of a sweep."""
        if run_mode == RunMode.RUN and text not in self._notes and read_rank().first:
            self._notes.add(text)
            print(text, file=sys.stderr)


def _overwrite(
    cfg: DictConfig, section: str, values: dict[str, Any], given: set[str], *, whole: bool
) -> Iterator[str]:
    """Give a section the values of a file; yields what that changes.

    Args:
        given: keys on the command line, which stay as they are.
        whole: the section has the keys of the file and no others.
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
                yield f"{name} is {_format(value)}, not {_format(before.get(key))}"
        for key in set(before) - set(values) if whole else ():
            if f"{section}.{key}" not in given:
                del cfg[section][key]
                yield f"{section}.{key} = {_format(before[key])} is left out"


def _format(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _if_set(given: Any, then: Any, otherwise: Any = "") -> Any:
    """${if_set:A,B,C}: C where A is null, else B."""
    return otherwise if given is None else then


def _word(key: str, *, _root_: DictConfig) -> str:
    """${word:KEY}: the value of KEY as a word for a folder's name, different for different values."""
    text = str(OmegaConf.select(_root_, key))
    readable = re.sub(r"[^\w.+-]+", "-", Path(text).name).strip("-.+")[-40:].lstrip("-.+")
    return f"{readable or 'value'}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _last_word(key: str, *, _root_: DictConfig) -> str:
    """${last_word:KEY}: the last word of the value of KEY; `custom` where it has none."""
    return (re.findall(r"[\w+-]+", str(OmegaConf.select(_root_, key) or "")) or ["custom"])[-1]


def _groups() -> str:
    """${groups:}: the groups and their files, for --help."""
    from vmp.config.keys import GROUPS

    loader = GlobalHydra.instance().config_loader()
    return "\n".join(f"{group}: {', '.join(loader.get_group_options(group))}" for group in GROUPS)


OmegaConf.register_new_resolver("if_set", _if_set, replace=True)
OmegaConf.register_new_resolver("word", _word, replace=True)
OmegaConf.register_new_resolver("last_word", _last_word, replace=True)
OmegaConf.register_new_resolver("groups", _groups, replace=True)
hydra._internal.hydra.ConfigLoaderImpl = Loader  # type: ignore[misc]
