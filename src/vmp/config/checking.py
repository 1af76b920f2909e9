"""From a composed config to a checked one, or to one error that lists every fault."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from vmp.backbones import zoo
from vmp.config.agreement import disagreements
from vmp.config.keys import MEANT, no_such_key
from vmp.config.sections import KINDS, Config, Evaluate, Section
from vmp.errors import ConfigError


def check(raw: Mapping[str, Any]) -> Config:
    """A composed config, checked.

    Raises:
        ConfigError: listing every wrong key and value with what is allowed.
    """
    values: dict[str, Any] = dict(raw)
    faults: list[str] = []
    for group, (key, kinds) in KINDS.items():
        # the kind first, so that faults are told of that kind's keys only
        section = values.get(group)
        if not isinstance(section, Mapping):
            raise ConfigError(
                f"{group} = {section!r}: must be one of the files in conf/{group}, as in {group}=NAME"
            )
        kind = section.get(key)
        if not isinstance(kind, str) or kind not in kinds:
            raise ConfigError(f"{group}.{key} = {kind!r}: must be one of {', '.join(kinds)}")
        values[group] = _section(kinds[kind], section, group, faults)
    for group, field in Config.model_fields.items():
        if (
            group not in KINDS
            and isinstance(field.annotation, type)
            and issubclass(field.annotation, Section)
        ):
            section = values.get(group, {})
            if not isinstance(section, Mapping):
                meant = f"; did you mean {MEANT[group]}={section}?" if group in MEANT else ""
                raise ConfigError(
                    f"{group} = {section!r}: must be a section; its keys are set as in {group}.KEY=VALUE{meant}"
                )
            values[group] = _section(field.annotation, section, group, faults)
    if not faults:
        faults += _booleans_as_numbers(Config, values, "")
    if not faults:
        try:
            config = Config.model_validate(values)
        except ValidationError as error:
            faults += [_describe(fault, "", Config) for fault in error.errors()]
        else:
            faults += list(disagreements(config))
    if faults:
        raise ConfigError("\n".join(faults))
    return config


def check_evaluate(raw: Any) -> Evaluate:
    """The options of evaluate.py, checked.

    Raises:
        ConfigError: listing every wrong key and value with what is allowed.
    """
    faults: list[str] = []
    options = _section(Evaluate, {key: value for key, value in raw.items() if key != "hydra"}, "", faults)
    if faults:
        raise ConfigError("\n".join(faults))
    assert isinstance(options, Evaluate)
    return options


def _section(
    model: type[Section], values: Mapping[str, Any], group: str, faults: list[str]
) -> Section | None:
    prefix = f"{group}." if group else ""
    absent = [f"{prefix}{key}" for key, value in values.items() if value == "???"]
    if absent:
        faults += [f"{key}: must be given, as in {key}=..." for key in absent]
        return None
    bent = _booleans_as_numbers(model, values, prefix)
    if bent:
        faults += bent
        return None
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        faults += [_describe(fault, prefix, model) for fault in error.errors()]
        return None


def _booleans_as_numbers(model: type[BaseModel], values: Mapping[str, Any], prefix: str) -> list[str]:
    """Faults: true and false where a number belongs, which pydantic takes for 1 and 0."""
    return [
        f"{prefix}{name} = {str(values[name]).lower()}: must not be true or false"
        for key, field in model.model_fields.items()
        if isinstance(values.get(name := field.alias or key), bool)
        and bool not in (field.annotation, *get_args(field.annotation))
    ]


def _describe(fault: Any, prefix: str, model: type[BaseModel]) -> str:
    """One pydantic fault as `key = value: what is allowed`."""
    key = prefix + ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return no_such_key(key, "evaluate" if model is Evaluate else "train")
    if fault["type"] == "missing":
        return f"{key}: missing"
    shown = fault["input"]
    if isinstance(shown, float) and not math.isfinite(shown):
        return f"{key} = {shown}: must be a finite number"
    message = fault["msg"].removeprefix("Value error, ").replace("Input should be ", "must be ")
    message = {
        "tuple_type": "must be a list, as in [1,2]",
        "bool_parsing": "must be true or false",
        "bool_type": "must be true or false",
        "int_from_float": "must be a whole number",
        "int_parsing": "must be a whole number",
        "float_parsing": "must be a number",
        "float_type": "must be a number",
        "int_type": "must be a whole number",
        "string_type": "must be text",
    }.get(fault["type"], message)
    return f"{key} = {'null' if shown is None else repr(shown)}: {message}"


def check_start(c: Config) -> None:
    """What a new run starts from is there, or can be fetched; a run that has begun does not need it any more.

    Raises:
        ConfigError: it is not.
    """
    if c.init_from:
        if not Path(c.init_from).expanduser().exists():
            raise ConfigError(f"init_from = {c.init_from!r}: no such run or checkpoint")
    elif c.backbone.weights in zoo.NAMES:
        zoo.find(c.backbone.key, c.backbone.weights)
    elif c.backbone.weights and not Path(c.backbone.weights).expanduser().exists():
        names = ", ".join(zoo.NAMES)
        raise ConfigError(
            f"backbone.weights = {c.backbone.weights!r}: neither a name ({names}) nor a file that is there"
        )
