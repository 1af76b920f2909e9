"""The KEY=VALUE arguments of scripts that make many runs: their own keys, and overrides for every run."""

from collections.abc import Collection, Sequence

from vmp.config import Config, suggest
from vmp.config.keys import no_such_key
from vmp.errors import ConfigError


def sort_arguments(
    arguments: Sequence[str],
    own: Sequence[str],
    *,
    numbers: Collection[str] = (),
    flags: Collection[str] = (),
) -> tuple[dict[str, str], tuple[str, ...]]:
    """(values of the script's own keys, overrides of train.py). An own key without a value counts as not given.

    Args:
        numbers: own keys that are whole numbers from 1; flags: own keys that are 0 or 1.

    Raises:
        ConfigError: an argument is not KEY=VALUE, a key is unknown, or a value is out of range.
    """
    given: dict[str, str] = {}
    overrides: list[str] = []
    for argument in arguments:
        key, sign, value = argument.partition("=")
        if not sign:
            raise ConfigError(
                f"{argument!r}: must be KEY=VALUE; keys are {', '.join(own)}, and those of train.py"
            )
        if key in own:
            if value:
                given[key] = value
        elif "." in key or key in Config.model_fields:
            overrides.append(argument)
        else:
            near = suggest(key, list(own))
            raise ConfigError(f"{key}: no such key{near}" if "did you mean" in near else no_such_key(key))
    for key in numbers:
        if key in given and not (given[key].isdecimal() and int(given[key])):
            raise ConfigError(f"{key}={given[key]}: must be a whole number from 1")
    for key in flags:
        if given.get(key, "0") not in ("0", "1"):
            raise ConfigError(f"{key}={given[key]}: must be 0 or 1")
    return given, tuple(overrides)
