"""Parts of a user's own: the one place that imports code which a config names.

Notes:
- the targets of a command line, and of the config files that it composes, are the user's: `trust_targets` allows them;
- a run's folder and a shared model are somebody else's files: `find` refuses what they name, and says what it would
  import, until the user trusts the package (`trust=my_package`, `vmp.load(..., trust="my_package")`);
- trust in a package is trust in what that package defines: my_package.tools.system could be os.system, and is refused;
- a target without dots is the name of an entry point that an installed package declares.
"""

import difflib
import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vmp.errors import ConfigError

ENTRY_POINTS = {"vmp": "vmp.power_norms", "backbone": "vmp.backbones", "dataset": "vmp.datasets"}
MISSING = "???"  # a key that has to be given, for which the check of the config has words
_trusted: set[str] = set()  # packages, of this process


def trust(*packages: str) -> None:
    """Allow imports from these packages.

    Raises:
        ConfigError: one is not a package's name.
    """
    for package in packages:
        if not package.isidentifier():
            raise ConfigError(
                f"trust = {package!r}: must be the name of a package, without dots, as in trust=my_package"
            )
        if package in sys.stdlib_module_names and package != "__main__":
            raise ConfigError(
                f"trust = {package}: a package of Python's own library cannot be trusted with a config's calls"
            )
        _trusted.add(package)


def take_trust(words: Sequence[str]) -> list[str]:
    """Allow what `trust=PACKAGE[,PACKAGE]` says among a command's words; returns the other words."""
    for word in words:
        if word.startswith("trust="):
            trust(*word.removeprefix("trust=").split(","))
    return [word for word in words if not word.startswith("trust=")]


def trust_targets(config: Mapping[str, Any]) -> None:
    """Allow the targets of a config that the user has typed or composed; never one that a run's folder holds."""
    trust(*packages_of(config))


def packages_of(config: Mapping[str, Any]) -> list[str]:
    """The packages that a config would import."""
    found = {}
    for section in ENTRY_POINTS:
        values = config.get(section)
        target = values.get("target") if isinstance(values, Mapping) else None
        if isinstance(target, str) and (named := _locate(section, target, missing="")):
            found[named.partition(".")[0]] = section
    return list(found)


def find(section: str, target: str, options: Mapping[str, Any] = MappingProxyType({})) -> Callable[..., Any]:
    """The class or function that SECTION.target names.

    Args:
        section: vmp, backbone or dataset.
        target: package.module.NAME, or the name of an entry point.
        options: what it is to be called with, for the message.

    Raises:
        ConfigError: the package is not trusted, it cannot be imported, or it does not define the name.
    """
    where = f"{section}.target = {target}"
    module, _, name = _locate(section, target).rpartition(".")
    package = module.partition(".")[0]
    if package not in _trusted:
        raise ConfigError(
            f"{where}: would import {module} and call {name}({_show(options)}), and a run's folder imports nothing by "
            f"itself. If you trust the code of {package}, say so: trust={package}, or vmp.load(..., trust={package!r})"
        )
    found = getattr(imported := _import(module, where), name, None)
    if found is None:
        own = [key for key, value in vars(imported).items() if getattr(value, "__module__", "") == module]
        near = difflib.get_close_matches(name, own, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it defines {', '.join(sorted(own)) or 'nothing'}"
        raise ConfigError(f"{where}: {imported.__file__} has no {name}; {hint}")
    home = str(getattr(found, "__module__", ""))
    if not callable(found) or home.partition(".")[0] != package:
        what = f"is code of {home}" if callable(found) and home else "is neither a class nor a function"
        raise ConfigError(f"{where}: {what}; it must be a class or a function that {package} defines")
    return found


def call(section: str, target: str, **options: Any) -> Any:
    """What the target makes of these options.

    Raises:
        ConfigError: it cannot be found, or raises an error.
    """
    part = find(section, target, options)
    try:
        return part(**options)
    except Exception as error:
        made = f"{target}({_show(options)})"
        raise ConfigError(f"{section}.target = {target}: {made} fails: {describe(error)}") from error


def _show(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in options.items())


def describe(error: Exception) -> str:
    """The error with the line of a user's code that raised it, or called what did in torch or Python's own library."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename][1:]
    libraries = [os.path.dirname(os.__file__)]
    libraries += [os.path.dirname(str(sys.modules["torch"].__file__))] if "torch" in sys.modules else []
    frames = [f for f in frames if not f.filename.startswith(tuple(libraries))] or frames
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def fault_of_target(target: str) -> str:
    """What is wrong with the form of a target; empty if nothing is."""
    if re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+|[\w+-]+", target):
        return ""
    dotted = ".".join(re.findall(r"[^\W\d]\w*", re.sub(r"\.py\b", "", target)))  # a path was meant
    example = f", such as {dotted}" if "." in dotted else ""
    return f"must be package.module.NAME{example}, or the name of an entry point that a package declares"


def _locate(section: str, target: str, *, missing: str | None = None) -> str:
    """package.module.NAME of a target. missing: for an entry point that no package declares; None: an error."""
    if target != MISSING and (fault := fault_of_target(target)):
        raise ConfigError(f"{section}.target = {target!r}: {fault}")
    if "." in target:
        return target
    group = ENTRY_POINTS[section]
    declared: dict[str, EntryPoint] = {e.value: e for e in entry_points(group=group) if e.name == target}
    if len(declared) == 1:
        return next(iter(declared)).replace(":", ".")
    if missing is not None:
        return missing
    names = ", ".join(sorted({e.name for e in entry_points(group=group)})) or "none"
    what = f"{len(declared)} packages declare" if declared else "no installed package declares"
    raise ConfigError(
        f"{section}.target = {target}: {what} that entry point of the group {group} (there are: {names}); a class or a "
        "function of your own is named package.module.NAME"
    )


def _import(module: str, where: str) -> Any:
    """The module, from the installed packages or else from the working folder."""
    here = os.getcwd()
    before = sys.path[:]
    try:
        if not _is_elsewhere(module.partition(".")[0], here):
            # for this import alone: what another package may try to import is not to come from anyone's folder
            sys.path.append(here)
        return importlib.import_module(module)
    except Exception as error:
        raise ConfigError(
            f"{where}: cannot be imported: {describe(error)}. {module} is looked for among the installed packages, in "
            f"{here}, and in the folders of the variable PYTHONPATH"
        ) from error
    finally:
        sys.path[:] = before


def _is_elsewhere(package: str, here: str) -> bool:
    """Whether a package is found without the working folder; one without __init__.py may be spread over folders."""
    if package in sys.modules:
        file = getattr(sys.modules[package], "__file__", None)
        return file is not None and Path(here).resolve() not in Path(file).resolve().parents[:2]
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None
