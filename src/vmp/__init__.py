"""Video motion prompts: two learned scalars in front of any video model.

The names in _HOMES load on first use, so that `import vmp` (and `vmp train --help`) does not pay for torch. All but
`load`, which opens trained models, need torch alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmp.layer import MotionPrompt, temporal_attention_variation
    from vmp.model import PromptedClassifier
    from vmp.objective import Objective
    from vmp.power_norm import AsinhE, Gamma, LearnedPowerNorm, MaxExp, SigmE
    from vmp.trained import TrainedModel, load

__version__ = "0.1.0"

_HOMES = {
    "MotionPrompt": "vmp.layer",
    "temporal_attention_variation": "vmp.layer",
    "LearnedPowerNorm": "vmp.power_norm",
    "Gamma": "vmp.power_norm",
    "MaxExp": "vmp.power_norm",
    "SigmE": "vmp.power_norm",
    "AsinhE": "vmp.power_norm",
    "Objective": "vmp.objective",
    "PromptedClassifier": "vmp.model",
    "TrainedModel": "vmp.trained",
    "load": "vmp.trained",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'vmp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
