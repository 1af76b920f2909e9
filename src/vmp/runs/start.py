"""Loads the weights that a new run starts from: random, published, from a file, or from another run.

torch is imported inside the functions, after everything that can be wrong without it has been checked.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vmp.backbones import zoo
from vmp.config import Config, Prompts, TimeSformerConfig
from vmp.errors import ConfigError
from vmp.pathways import scalar_name
from vmp.runs.heads import explain_other_classes, run_of
from vmp.runs.run import Run

if TYPE_CHECKING:
    from vmp.backbones.weights import LoadReport
    from vmp.model import PromptedClassifier

# settings that affect what weights mean
PAPERS = ("kind", "alpha", "beta", "gamma", "epsilon", "exponent", "grey", "modulate", "attention_from")
BEYOND = ("compensate", "scales", "form", "patch", "pool", "upsample", "patch_scalars", "at")
MEANING = {
    "backbone": ("name", "size", "frames", "stride", "crop", "spacing"),
    "vmp": (*PAPERS, *BEYOND),
}


class StartWeights(NamedTuple):
    """report: what was loaded; None for random weights. prompts: names of the prompts' parameters that were loaded.
    given: names of the m and n that the config sets. warnings: what this run does otherwise than their source."""

    report: "LoadReport | None"
    prompts: list[str]
    given: list[str]
    warnings: list[str]


def start_weights(config: Config, model: "PromptedClassifier", classes: tuple[str, ...]) -> StartWeights:
    """Load the pretrained weights, or those of the run to start from, into a new model.

    The head is loaded only if the weights are known to be for the same classes (heads.py). Prompt layers, at the pixels
    and inside the network, load what the weights have learned for the same places, but m and n that the config sets.

    Raises:
        ConfigError, WeightsError: the weights cannot be found or do not fit.
    """
    from vmp.backbones.weights import load_weights

    b, warnings, published = config.backbone, [], ""
    spec = b.spec
    start = config.vmp.start if isinstance(config.vmp, Prompts) else {}
    given = [scalar_name(place, letter) for place in (*model.prompts, *model.inside) for letter in start]
    if config.init_from:
        source: str | Path = Path(config.init_from).expanduser()
        home = run_of(Path(source))
        if home is None:
            raise ConfigError(
                f"init_from = {source}: neither a run of this project nor a checkpoint in one "
                "(no config.yaml and classes.txt); for a file of weights use backbone.weights="
            )
        warnings = list(_differences_to(home, config))
    elif b.weights:
        source = b.weights
        if b.weights in zoo.NAMES:
            published, row = b.weights, zoo.find(b.key, b.weights)
            if not row.file and (row.frames, row.crop) != (spec.frames, spec.crop):
                warnings.append(
                    f"the weights were trained on {row.frames} frames of {row.crop} pixels, and this run uses "
                    f"{spec.frames} of {spec.crop}"
                )
    else:
        return StartWeights(None, [], given, [])
    flip = isinstance(b, TimeSformerConfig) and b.flip_patch_embed
    other: list[str] = []

    def keep_head(file: Path) -> bool:
        other.append(explain_other_classes(file, classes, config.dataset.name, published=published))
        return not other[0]

    report = load_weights(model.backbone, source, backbone=b.key, reverse_channels=flip, keep_head=keep_head)
    if report.declined:
        warnings.append(f"the head starts from random weights, though it has as many classes: {other[0]}")
    taken = report.take_prompts(model, leave=start)
    if set_here := sorted(set(report.learned) & set(given)):
        shown = {k: v if isinstance(v, str) else f"{v:.4g}" for k, v in start.items()}
        values = ", ".join(f"{letter} = {value}" for letter, value in shown.items())
        warnings.append(
            f"the config sets {values}, so the prompts' {', '.join(set_here)} of the weights are not loaded; they are "
            "with vmp.m=null vmp.n=null (and no vmp.slope and vmp.shift)"
        )
    if left := ", ".join(sorted(set(report.learned) - set(taken) - set(given))):
        warnings.append(f"the prompts' {left} of the weights are not loaded: this model has no such layer")
    return StartWeights(report, taken, given, warnings)


def _differences_to(home: Path, config: Config) -> Iterator[str]:
    """Yield the settings of the run to start from that differ and affect the meaning of its weights."""
    run = Run(home)
    before = run.config
    now = config.model_dump(by_alias=True, mode="json")
    for section, keys in MEANING.items():
        old, new = before.get(section, {}), now[section]
        if section == "vmp" and "none" in (old.get("kind"), new["kind"]):
            continue
        for key in keys:
            # another kind of layer, and a run of an earlier version, lack some
            if key in old and key in new and old[key] != new[key]:
                yield f"{section}.{key} was {old[key]} in the run it starts from, and is {new[key]} here"
    if not run.finished:
        yield f"{home} is not finished: this starts from its newest checkpoint"
