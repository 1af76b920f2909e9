"""The keys of train.py and evaluate.py, their values, and the likely key for a misspelt one."""

import difflib
from functools import cache
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from vmp.config.sections import Config, Evaluate
from vmp.config.types import IS_PATH

# of train.yaml
GROUPS = ("dataset", "backbone", "vmp", "recipe", "optim", "augment", "trainer", "logger", "experiment")
MEANT = {  # names in other projects -> ours
    "model": "backbone",
    "arch": "backbone",
    "network": "backbone",
    "pretrained": "backbone.weights",
    "checkpoint": "init_from",
    "data": "dataset",
    "method": "vmp",
    "a": "vmp.slope",
    "b": "vmp.shift",
    "optimizer": "optim",
    "learning_rate": "optim.lr",
    "scheduler": "optim.schedule",
    "batch": "trainer.batch_size",
    "bs": "trainer.batch_size",
    "gpu": "trainer.device",
    "gpus": "trainer.device",
    "precision": "trainer.amp",
    "config": "experiment",
    "debug": "trainer=debug",
    "out": "output",
    "output_dir": "output",
    "resume": "the same command again",
}


def kind_key(section: str) -> str:
    """The key that the other keys of a section depend on, such as `kind`; nothing where there is none."""
    field = Config.model_fields.get(section)
    return str(field.discriminator) if field and field.discriminator else ""


@cache
def sections(name: str) -> dict[str, type[BaseModel]]:
    """The models of a section by their kind; a section without kinds has one, by its own name."""
    field = Config.model_fields.get(name)
    types = [field.annotation, *get_args(field.annotation)] if field else []
    models = [each for each in types if isinstance(each, type) and issubclass(each, BaseModel)]
    if key := kind_key(name):
        return {kind: model for model in models for kind in get_args(model.model_fields[key].annotation)}
    return {name: models[0]} if models else {}


@cache
def keys(command: str = "train") -> dict[str, tuple[Any, ...]]:
    """Every key, with dots -> its annotations, several where it differs by the section's kind."""
    if command == "evaluate":
        return {_name(f, n): _annotations(f) for n, f in Evaluate.model_fields.items()}
    found: dict[str, tuple[Any, ...]] = {}
    for name, field in Config.model_fields.items():
        models = sections(name)
        if not models:
            found[name] = _annotations(field)
        for model in dict.fromkeys(models.values()):
            for own, inner in model.model_fields.items():
                key = f"{name}.{_name(inner, own)}"
                found[key] = (*found.get(key, ()), *_annotations(inner))
    return found


def is_text(key: str, command: str = "train") -> bool:
    """Whether it holds text of the user's own: a path, a word, a name."""
    return _any_has(key, str, command)


def is_number_too(key: str, command: str = "train") -> bool:
    """Whether it holds text or a number, as dataset.train and vmp.level do."""
    return is_text(key, command) and (_any_has(key, int, command) or _any_has(key, float, command))


def is_path(key: str, command: str = "train") -> bool:
    return _any_has(key, IS_PATH, command)


def path_fields(section: BaseModel) -> list[str]:
    """The fields of a section that hold a path."""
    return [
        name
        for name, field in type(section).model_fields.items()
        if any(_has(annotation, IS_PATH) for annotation in _annotations(field))
    ]


def is_list(key: str, command: str = "train") -> bool:
    return _any_has(key, tuple, command)


def no_such_key(wrong: str, command: str = "train") -> str:
    """`vmp.lamda: no such key; did you mean vmp.lambda?`, or the keys that exist."""
    known = keys(command)
    section, _, last = wrong.rpartition(".")
    if wrong in known and kind_key(section):
        having = [
            field.description or kind
            for kind, model in sections(section).items()
            for name, field in model.model_fields.items()
            if _name(field, name) == last
        ]
        return f"{wrong}: the {section} that was chosen has no such key; it belongs to {section}={' or '.join(having)}"
    if wrong in known:
        return (
            f"{wrong}: the file that was chosen from conf/{section} has no such key; choose one that has it, or add it "
            f"with +{wrong}=VALUE"
        )
    where = f"{wrong}: no such key"
    if command == "train" and wrong in MEANT:
        return f"{where}; did you mean {MEANT[wrong]}?"
    own = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == section}
    if not section and command == "train":
        own |= {name: name for name in (*GROUPS, *Config.model_fields)}
    found = _close(own, last, 0.75) or _elsewhere(known, last) or _close(own, last, 0.6)
    if found:
        return f"{where}; did you mean {found}?"
    if command == "evaluate":
        if wrong in keys():
            where = f"{wrong}: a key of training, which a run is tested with as it was trained"
        return f"{where}; there are {', '.join(sorted(known))}"
    listed = sorted(own) or sorted({*GROUPS, *Config.model_fields})
    return f"{where}; {f'in {section} ' if own and section else ''}there are {', '.join(listed)}"


def full_key(name: str, command: str = "train") -> str:
    """The key that has this name as its last part, as `trainer.epochs` has `epochs`; the name itself if none has or
    several have it."""
    known = keys(command)
    if name in known or name in GROUPS:
        return name
    found = MEANT.get(name) or _elsewhere(known, name)
    return found if found in known or found in GROUPS else name


def suggest(wrong: str, known: list[str]) -> str:
    """`; did you mean x?`, or the names that exist."""
    close = difflib.get_close_matches(wrong, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(sorted(known))}"


def _close(own: dict[str, str], last: str, cutoff: float) -> str:
    """The key whose last part resembles `last`, if there is one."""
    close = difflib.get_close_matches(last, own, n=1, cutoff=cutoff)
    return own[close[0]] if close else ""


def _elsewhere(known: dict[str, Any], last: str) -> str:
    """Keys of any section whose last part is `last`, or nearly so."""
    lasts = {key: key.rpartition(".")[2] for key in known}
    near = [last] if last in lasts.values() else difflib.get_close_matches(last, {*lasts.values()}, 1, 0.8)
    # `recommended` is set by experiments, not by users
    return " or ".join(key for key in known if lasts[key] in near and not key.startswith("recommended."))


def _name(field: Any, name: str) -> str:
    return str(field.alias or name)


def _annotations(field: Any) -> tuple[Any, ...]:
    """A field's type and what pydantic has taken out of its Annotated."""
    return (field.annotation, *field.metadata)


def _any_has(key: str, wanted: Any, command: str) -> bool:
    return any(_has(annotation, wanted) for annotation in keys(command).get(key, ()))


def _has(annotation: Any, wanted: Any) -> bool:
    """Whether a type, a union or an Annotated holds `wanted`; the words of a Literal are not text of the user's own."""
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
