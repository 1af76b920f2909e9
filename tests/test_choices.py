"""A choice is written once: what the config allows, the code acts on, and the comments in conf/ list."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from vmp.backbones import SPECS, zoo
from vmp.choices import Reader
from vmp.config.backbones import BackboneConfig
from vmp.config.keys import sections
from vmp.config.prompts import AnyPrompts, FixedPrompts
from vmp.config.sections import Config, Evaluate

CONF = Path(__file__).parent.parent / "conf"


def words(annotation: Any) -> set[str]:
    """The words of a Literal, which may stand inside a union."""
    return {word for each in get_args(annotation) for word in (words(each) or {str(each)})} - {
        str(type(None))
    }


def values_of(path: Path) -> dict[str, Any]:
    """A file of conf/ with those that it builds on."""
    values = yaml.safe_load(path.read_text())
    bases = [base for base in values.get("defaults", []) if isinstance(base, str) and base != "_self_"]
    return {k: v for base in bases for k, v in values_of(path.with_name(f"{base}.yaml")).items()} | values


def model_of(path: Path, section: str | None) -> type[BaseModel]:
    """The model behind a file of a group, or behind a section of train.yaml."""
    if path.stem == "evaluate":
        return Evaluate
    if path.stem == "train":
        return sections(section)[section] if section else Config
    models, values = sections(path.parent.name), values_of(path)
    return models.get(values.get("name")) or models.get(values.get("kind")) or models[path.parent.name]


def lists() -> list[tuple[Path, str | None, str, str]]:
    """(file, section, key, comment) of every comment that lists choices, on the key's line or the one above it."""
    found = []
    for path in sorted(CONF.rglob("*.yaml")):
        if path.parent.name in ("table", "profile", "study"):
            continue
        section, above = None, ""
        for line in path.read_text().splitlines():
            text, _, comment = line.partition("# ")
            if not text.strip():
                above = comment
                continue
            indent, key = re.match(r"( *)([\w-]*)", text).groups()
            section = key if not indent else section
            comment = comment or above
            if " | " in comment:
                found.append((path, section if indent else None, key, comment))
            above = ""
    return found


def listed(comment: str) -> set[str]:
    """`of what: a (why) | b | c; more` -> {a, b, c}."""
    first, *rest = re.sub(r"\([^)]*\)", "", comment).split(" | ")
    return {first.split()[-1], *(re.match(r"\s*(a file|\w+(:N)?)", part)[1] for part in rest)}


def test_there_are_comments_to_check():
    assert len(lists()) > 30
    assert listed("of a GPU: true (yes) | false; null: as torch has it") == {"true", "false"}
    assert listed("k400 | a file | null (random)") == {"k400", "a file", "null"}


@pytest.mark.parametrize(
    ("path", "section", "key", "comment"),
    [pytest.param(*each, id=f"{each[0].parent.name}/{each[0].stem}:{each[2]}") for each in lists()],
)
def test_comments_list_what_the_config_allows(path, section, key, comment):
    model = model_of(path, section)
    named = {field.alias or name: field for name, field in model.model_fields.items()}
    if key == "weights":
        name = values_of(path)["name"]
        public = {w.name for w in (*zoo.WEIGHTS, *zoo.SHIPPED) if w.backbone.startswith(name)}
        assert listed(comment) == public | {"a file", "null"}
    elif key == "device":
        assert listed(comment) == {"auto", "cpu", "cuda", "cuda:N"}
    elif key in ("tf32", "cudnn_benchmark"):
        assert listed(comment) == {"auto", "true", "false"}
    elif (path.parent.name, key) == ("dataset", "split"):
        assert listed(comment) == {"1", "2", "3"}
    else:
        assert listed(comment) == words(named[key].annotation)


def test_code_acts_on_what_the_config_allows():
    from vmp.backbones.convnets import X3D_DEPTH
    from vmp.data.decode import READERS
    from vmp.layer import MotionPrompt
    from vmp.power_norm import ENTRIES, FAMILY

    assert words(Reader) == {"auto", *READERS}
    assert words(FixedPrompts.model_fields["kind"].annotation) == set(FAMILY)
    assert words(FixedPrompts.model_fields["entry"].annotation) == set(ENTRIES)
    for key in ("grey", "modulate", "variation"):
        allowed = words(AnyPrompts.model_fields[key].annotation)
        for word in allowed:
            MotionPrompt(**{key: word})
        with pytest.raises(ValueError, match="must be one of") as caught:
            MotionPrompt(**{key: "none of them"})
        assert set(str(caught.value).partition("must be one of ")[2].split(", ")) == allowed
    assert words(sections("backbone")["x3d"].model_fields["size"].annotation) == set(X3D_DEPTH)


def test_every_backbone_of_the_config_has_a_spec_and_the_other_way_round():
    keys = set()
    for name, model in sections("backbone").items():
        assert issubclass(model, BackboneConfig)
        size = model.model_fields.get("size")
        for word in words(size.annotation) if size else {""}:
            keys.add(model.model_construct(name=name, size=word).key)
    assert keys == {*SPECS, "custom"}  # a user's own, whose sizes are in its config
