"""The keys that train.py and evaluate.py have, what they hold, and which one was meant by a wrong one."""

import difflib
from functools import cache
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from vmp.config.sections import KINDS, Config, Evaluate
from vmp.config.types import IS_PATH

GROUPS = ("dataset", "backbone", "vmp", "recipe", "optim", "trainer", "logger", "experiment")  # of train.yaml
MEANT = {  # what other projects call them
    **{
        "model": "backbone",
        "arch": "backbone",
        "network": "backbone",
        "optimizer": "optim",
        "data": "dataset",
    },
    **{"learning_rate": "optim.lr", "scheduler": "optim.schedule", "batch": "trainer.batch_size"},
    **{
        "bs": "trainer.batch_size",
        "gpu": "trainer.device",
        "gpus": "trainer.device",
        "pretrained": "backbone.weights",
    },
    **{"checkpoint": "init_from", "out": "output", "output_dir": "output", "method": "vmp", "a": "vmp.slope"},
    **{
        "b": "vmp.shift",
        "config": "experiment",
        "debug": "trainer=debug",
        "resume": "the same command again",
    },
}


@cache
def keys(command: str = "train") -> dict[str, tuple[Any, ...]]:
    """Every key, with dots -> the annotations that it has, several where sections differ by kind."""
    if command == "evaluate":
        return {_name(f, n): _annotation(f) for n, f in Evaluate.model_fields.items()}
    found: dict[str, tuple[Any, ...]] = {}
    for name, field in Config.model_fields.items():
        models = sections(name)
        if not models:
            found[name] = _annotation(field)
        for model in models:
            for own, inner in model.model_fields.items():
                key = f"{name}.{_name(inner, own)}"
                found[key] = (*found.get(key, ()), *_annotation(inner))
    return found


def sections(name: str) -> list[type[BaseModel]]:
    """The models that a section may have."""
    if name in KINDS:
        return list(dict.fromkeys(KINDS[name][1].values()))
    field = Config.model_fields.get(name)
    models = [field.annotation, *get_args(field.annotation)] if field else []
    return [model for model in models if isinstance(model, type) and issubclass(model, BaseModel)]


def is_text(key: str, command: str = "train") -> bool:
    """Whether it holds text of the user's own: a path, a word, a name."""
    return any(_has(annotation, str) for annotation in keys(command).get(key, ()))


def is_number_too(key: str, command: str = "train") -> bool:
    """Whether it holds text in one kind of section and a number in another, as dataset.train does."""
    return is_text(key, command) and any(_has(each, int) for each in keys(command)[key])


def is_path(key: str, command: str = "train") -> bool:
    return any(_has(annotation, IS_PATH) for annotation in keys(command).get(key, ()))


def is_list(key: str, command: str = "train") -> bool:
    return any(_has(annotation, tuple) for annotation in keys(command).get(key, ()))


def no_such_key(wrong: str, command: str = "train") -> str:
    """`vmp.lamda: no such key; did you mean vmp.lambda?`, or which there are."""
    known = keys(command)
    section, _, last = wrong.rpartition(".")
    if wrong in known and section in KINDS:
        having = [kind for kind, model in KINDS[section][1].items() if last in map(str, _names(model))]
        return f"{wrong}: the {section} that was chosen has no such key; it belongs to {section}={' or '.join(having)}"
    where = f"{wrong}: no such key"
    if wrong in known:
        return where
    if command == "train" and not section and wrong in MEANT:
        return f"{where}; did you mean {MEANT[wrong]}?"
    same = [key for key in known if key.rpartition(".")[0] == section]
    own = {key.rpartition(".")[2]: key for key in same}
    if not section and command == "train":
        own |= {group: group for group in GROUPS} | {name: name for name in Config.model_fields}
    close = difflib.get_close_matches(last, own, n=1, cutoff=0.75)
    if close:
        return f"{where}; did you mean {own[close[0]]}?"
    elsewhere = [key for key in known if key.rpartition(".")[2] == last]
    if not elsewhere:
        lasts = {key.rpartition(".")[2] for key in known}
        near = difflib.get_close_matches(last, lasts, n=1, cutoff=0.8)
        elsewhere = [key for key in known if near and key.rpartition(".")[2] == near[0]]
    if elsewhere:
        return f"{where}; did you mean {' or '.join(elsewhere)}?"
    close = difflib.get_close_matches(last, own, n=1, cutoff=0.6)
    if close:
        return f"{where}; did you mean {own[close[0]]}?"
    listed = sorted(own) or sorted({*GROUPS, *Config.model_fields})
    return f"{where}; {f'in {section} ' if own and section else ''}there are {', '.join(listed)}"


def suggest(wrong: str, known: list[str], prefix: str = "") -> str:
    """`; did you mean x?`, or what there is."""
    close = difflib.get_close_matches(wrong, known, n=1, cutoff=0.6)
    return f"; did you mean {prefix}{close[0]}?" if close else f"; there are {', '.join(sorted(known))}"


def _names(model: type[BaseModel]) -> list[str]:
    return [_name(field, name) for name, field in model.model_fields.items()]


def _name(field: Any, name: str) -> str:
    return str(field.alias or name)


def _annotation(field: Any) -> tuple[Any, ...]:
    """A field's type, with what pydantic has taken out of it."""
    return (field.annotation, *field.metadata)


def _has(annotation: Any, wanted: Any) -> bool:
    """Whether a type, a union or an Annotated holds `wanted`; words of a Literal are not text of the user's own."""
    if annotation is wanted:
        return True
    origin = get_origin(annotation)
    if origin is wanted:
        return True
    if origin is Literal or origin in (tuple, list, dict):
        return False
    return any(
        _has(each, wanted) for each in (*get_args(annotation), *getattr(annotation, "__metadata__", ()))
    )
