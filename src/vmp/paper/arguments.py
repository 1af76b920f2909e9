"""Scripts that make many runs: their KEY=VALUE arguments are the fields of a request, and overrides for every run."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vmp.cli import friendly
from vmp.config import Config, suggest
from vmp.config.keys import GROUPS, no_such_key
from vmp.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Request = TypeVar("Request", bound="DataclassInstance")


def run_script(
    doc: str | None, read: Callable[[list[str]], Request], run: Callable[[Request], int], root: Path
) -> None:
    """Print a script's docstring for --help; else read its arguments, run it in the checkout `root`, and exit.

    output=FOLDER and results=FOLDER are relative to the working directory, where that is another.
    """
    arguments = [in_full(word, root) for word in sys.argv[1:]]
    if {"-h", "--help"} & set(arguments):
        print(doc)
        return
    with friendly():
        request = read(arguments)
        os.chdir(root)
        code = run(request)
    sys.exit(code)


def in_full(word: str, root: Path) -> str:
    """output=FOLDER or results=FOLDER with a path that holds in the checkout `root`; other words as they are."""
    key, _, value = word.partition("=")
    if key not in ("output", "results") or not value:
        return word
    path = Path(value).expanduser()
    return f"{key}={path if Path.cwd() == root else path.absolute()}"


def read_request(kind: type[Request], arguments: Sequence[str], **given: Any) -> Request:
    """Turn KEY=VALUE arguments into a request. Keys of train.py's config become its `overrides`.

    Integers must be at least 1, flags are 0 or 1, and the value of a tuple is split into words. A key with an empty
    value keeps its default.

    Args:
        kind: the dataclass to make; its fields are the script's own keys.
        given: fields that have their values already and are not keys.

    Raises:
        ConfigError: an argument is not KEY=VALUE, a key is unknown, or a value is out of range.
    """
    own = {field.name: field.type for field in fields(kind) if field.name not in (*given, "overrides")}
    overrides: list[str] = []
    for argument in arguments:
        key, sign, value = argument.partition("=")
        if not sign:
            raise ConfigError(
                f"{argument!r}: must be KEY=VALUE; keys are {', '.join(own)}, and those of train.py"
            )
        if key in own:
            if value:
                given[key] = _parse(key, value, own[key])
        elif "." in key or key.lstrip("+~") in (*Config.model_fields, *GROUPS):
            overrides.append(argument)
        else:
            near = suggest(key, list(own))
            raise ConfigError(f"{key}: no such key{near}" if "did you mean" in near else no_such_key(key))
    given["overrides"] = tuple(overrides)
    return kind(**given)


def _parse(key: str, value: str, kind: Any) -> Any:
    if kind is int:
        if not (value.isdecimal() and int(value)):
            raise ConfigError(f"{key}={value}: must be a whole number from 1")
        return int(value)
    if kind is bool:
        if value not in ("0", "1"):
            raise ConfigError(f"{key}={value}: must be 0 or 1")
        return value == "1"
    return value if kind in (str, str | None) else tuple(value.split())
