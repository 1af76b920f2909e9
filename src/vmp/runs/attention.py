"""The mean attention of a run's prompts over the clips that it is tested on, and constant attention that takes it.

Notes:
- it is measured by hooks on the prompt layers during the final test, on exactly the clips and frames that each sees. A
  layer runs twice there, the backbone once, and no score changes;
- for a run without it in its result, made by an earlier version of the project, it is measured when it is asked for:
  that takes the run's clips, and no checkpoint.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmp.config import Config, ConstantPrompts
from vmp.errors import ConfigError
from vmp.pathways import display_name, split_scalar_name
from vmp.runs.open import open_prompts
from vmp.runs.run import read_run
from vmp.runs.score import clips_tested

if TYPE_CHECKING:
    from vmp.model import PromptedClassifier


def take_level(config: Config, model: "PromptedClassifier") -> str:
    """Fill in the constant attention of a new run from the run that vmp.level names; a line for the log, or nothing.

    Raises:
        ConfigError: that run has no attention on one of the pathways.
    """
    if not isinstance(config.vmp, ConstantPrompts) or not config.vmp.source:
        return ""
    means = mean_attention(config.vmp.source)
    layers: dict[str, Any] = dict(model.prompts.items())
    for pathway, layer in layers.items():
        if not means.get(pathway):
            having = ", ".join(means) or "no attention at all"
            raise ConfigError(
                f"vmp.level = {config.vmp.level}: no attention on {pathway} there; it has {having}"
            )
        layer.power_norm.level.fill_(means[pathway])
    shown = ", ".join(f"{means[p]:.4f} {display_name(p)}".rstrip() for p in layers)
    return f"constant attention {shown}: the mean of {config.vmp.source}"


def mean_attention(folder: Path) -> dict[str, float]:
    """Pathway -> mean attention of a finished run over the views of the clips that it was tested on.

    Raises:
        RunError: there is no such run, or it is not finished. ManifestError, DataError, ConfigError: the mean is not in
            its result, and its clips are not there.
    """
    run = read_run(folder)
    pairs = ((split_scalar_name(key), value) for key, value in run.result.get("scalars", {}).items())
    return {pathway: value for (pathway, name), value in pairs if name == "attention"} or _measure(folder)


def _measure(folder: Path) -> dict[str, float]:
    import torch

    from vmp.model import mean_attention, measuring_attention

    opened = open_prompts(folder)
    if not opened.prompts:
        return {}
    clips = clips_tested(opened, views=opened.config.trainer.views or opened.spec.views)
    with measuring_attention(opened.model) as sums, torch.inference_mode():
        for index in range(len(clips)):
            if isinstance(found := clips[index][1], torch.Tensor):
                opened.model(found)
    return mean_attention({pathway: torch.cat(means) for pathway, means in sums.items() if means})
