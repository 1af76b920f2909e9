"""From a composed config to a checked one, or to one error that lists every fault."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from vmp.backbones import zoo
from vmp.config.agreement import disagreements
from vmp.config.keys import MEANT, kind_key, no_such_key, sections
from vmp.config.prompts import ConstantPrompts
from vmp.config.sections import Config, Evaluate
from vmp.errors import ConfigError

_Model = TypeVar("_Model", bound=BaseModel)
_MESSAGES = {  # pydantic's types of errors -> what is said instead of pydantic's own message
    "tuple_type": "must be a list, as in [1,2]",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "string_type": "must be text",
}
_TO_GIVE = {  # keys without a default, or of several entries -> what they name, and an example; kinds before others
    "dataset.list.root": ("the folder that the paths in the lists are relative to", "videos"),
    "dataset.folders.root": ("the folder that holds one folder per class", "videos"),
    "dataset.ratio": ("the shares of train, val and test", "[0.8,0,0.2]"),
    "dataset.train": ("the list of the training clips, with lines `path,label`", "train.csv"),
    "dataset.val": ("the list of the validation clips, with lines `path,label`", "val.csv"),
    "dataset.folder": ("a folder of manifests, with classes.txt and train.csv", "data/mine"),
    "dataset.target": ("your function that yields the clips (docs/extending.md)", "my_project.data.rows"),
    "backbone.target": ("your class or function (docs/extending.md)", "torchvision.models.video.r3d_18"),
    "vmp.target": ("your class (docs/extending.md)", "my_project.norms.Gaussian"),
    "run": ("the folder of a run, which train.py prints", "outputs/.../seed0"),
}


def check(raw: Mapping[str, Any]) -> Config:
    """A composed config, checked.

    Raises:
        ConfigError: listing every wrong key and value with what is allowed.
    """
    config = _validate(Config, raw, "train")
    if faults := list(disagreements(config)):
        raise ConfigError("\n".join(faults))
    return config


def check_evaluate(raw: Any) -> Evaluate:
    """The options of evaluate.py, checked.

    Raises:
        ConfigError: listing every wrong key and value with what is allowed.
    """
    return _validate(Evaluate, {key: value for key, value in raw.items() if key != "hydra"}, "evaluate")


def check_start(c: Config) -> None:
    """Check that what a new run starts from exists or can be fetched; a run that has begun no longer needs it.

    Raises:
        ConfigError: it does not exist, or no weights of that name are public.
    """
    if isinstance(c.vmp, ConstantPrompts) and c.vmp.source and not c.vmp.source.exists():
        raise ConfigError(
            f"vmp.level = {c.vmp.level!r}: no such run; it must be a finished run with prompts, or a number"
        )
    if c.init_from:
        if not Path(c.init_from).expanduser().exists():
            raise ConfigError(f"init_from = {c.init_from!r}: no such run or checkpoint")
    elif c.backbone.weights in zoo.NAMES:
        zoo.find(c.backbone.key, c.backbone.weights)
    elif c.backbone.weights and not Path(c.backbone.weights).expanduser().exists():
        names = ", ".join(zoo.NAMES)
        raise ConfigError(
            f"backbone.weights = {c.backbone.weights!r}: neither a name ({names}) nor a file that exists"
        )


def _validate(model: type[_Model], raw: Mapping[str, Any], command: str) -> _Model:
    try:
        return model.model_validate(dict(raw))
    except ValidationError as error:
        raise ConfigError("\n".join(_describe(fault, command) for fault in error.errors())) from None


def _describe(fault: Any, command: str) -> str:
    """One of pydantic's errors as `key = value: what is allowed`."""
    path = [str(part) for part in fault["loc"]]
    in_full = ".".join(path)
    if command == "train" and len(path) > 1 and kind_key(path[0]):
        del path[1]  # the kind, which pydantic counts as a part of the path
    key, shown, kind = ".".join(path), fault["input"], fault["type"]
    if kind == "extra_forbidden":
        return no_such_key(key, command)
    if kind == "missing" and path[-1].isdigit():
        key = ".".join(path[:-1])
        what, example = _TO_GIVE.get(key, ("", ""))
        hint = f"; give {what}, as in {key}={example}" if what else ""
        return f"{key}: has too few entries; number {int(path[-1]) + 1} is missing{hint}"
    if kind == "missing":
        return f"{key}: missing"
    if kind == "absent":
        what, example = _TO_GIVE.get(in_full) or _TO_GIVE.get(key, ("a value", "..."))
        return f"{key}: must be given: {what}, as in {key}={example}"
    if isinstance(shown, float) and not math.isfinite(shown):
        return f"{key} = {shown}: must be a finite number"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        allowed = ", ".join(sections(key))
        return f"{key}.{kind_key(key)} = {shown.get(kind_key(key))!r}: must be one of {allowed}"
    if kind in ("model_type", "model_attributes_type"):
        if kind_key(key):
            return f"{key} = {shown!r}: must be one of the files in conf/{key}, as in {key}=NAME"
        meant = f"; did you mean {MEANT[key]}={shown}?" if key in MEANT else ""
        return f"{key} = {shown!r}: must be a section; its keys are set as in {key}.KEY=VALUE{meant}"
    message = fault["msg"].removeprefix("Value error, ").replace("Input should be ", "must be ")
    value = "null" if shown is None else str(shown).lower() if isinstance(shown, bool) else repr(shown)
    return f"{key} = {value}: {_MESSAGES.get(kind, message)}"
