"""The section `vmp`: a class for each kind of prompts, with its own keys.

`lambda` is a Python keyword, so it is `lambda_` here.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from vmp.choices import CameraMotion, Form, PathwaySplit, Pool, Regulariser, Upsample
from vmp.config.types import Count, Level, NotNegative, Positive, Section, StartValue, Target, Word
from vmp.slope_shift import Start, m_of, n_of


class VmpConfig(Section):
    """The keys that `vmp` always has, also without prompts."""

    kind: str
    lambda_: Annotated[float, Field(alias="lambda", ge=0)]
    placement: Literal["default", "slow", "fast", "both"]
    split: PathwaySplit


class NoPrompts(VmpConfig):
    kind: Literal["none"]


class AnyPrompts(VmpConfig):
    """The keys that every prompt layer has."""

    grey: Literal["rgb", "bgr"]
    modulate: Literal["normalized", "pixel"]
    variation: Literal["mean", "frobenius"]


class Prompts(AnyPrompts):
    """The paper's layer with a learned slope and shift, and its extensions."""

    kind: Literal["learned"]
    name: Word
    alpha: Positive
    beta: Positive
    gamma: Annotated[float, Field(gt=0, lt=1)]
    epsilon: Positive
    m: StartValue
    n: StartValue
    slope: float | None = None  # slope and shift set the initial m and n instead
    shift: float | None = None
    attention_from: Literal["clip", "other_clip"]
    # keys with defaults: configs of runs by earlier versions lack them
    compensate: CameraMotion = "none"
    scales: Annotated[tuple[Count, ...], Field(min_length=1)] = (1,)
    form: Form = "pixel"
    patch: Count = 8
    pool: Pool = "mean_abs"
    upsample: Upsample = "bilinear"
    patch_scalars: Literal["shared", "position"] = "shared"
    regulariser: Regulariser = "temporal"
    at: str | None = None
    pixels: bool = True
    lr_mult: Positive
    weight_decay: NotNegative | None

    @property
    def extended(self) -> bool:
        """Whether the layer on the frames differs from the paper's."""
        other = self.scales != (1,) or self.form != "pixel" or self.regulariser != "temporal"
        return other or self.compensate != "none"

    @property
    def start(self) -> dict[str, Start]:
        """The initial m and n that the config sets, directly or through slope and shift.

        Raises:
            ValueError: slope or shift is outside of the range that Eq. 2 allows.
        """
        found: dict[str, Start | None] = {"m": self.m, "n": self.n}
        if self.slope is not None:
            found["m"] = m_of(self.slope, alpha=self.alpha, beta=self.beta, epsilon=self.epsilon)
        if self.shift is not None:
            found["n"] = n_of(self.shift, gamma=self.gamma)
        return {letter: value for letter, value in found.items() if value is not None}


class FixedPrompts(AnyPrompts):
    """A fixed power normalisation of vmp.power_norm.FAMILY, without learned parameters."""

    kind: Literal["gamma", "maxexp", "sigme", "asinhe"]
    exponent: Positive
    entry: Literal["magnitude", "affine"]


class CustomPrompts(AnyPrompts):
    """A power normalisation, or a whole prompt layer, of the user's (docs/extending.md)."""

    kind: Literal["custom"]
    name: Word
    target: Target
    options: dict[str, Any]
    lr_mult: Positive
    weight_decay: NotNegative | None


class ConstantPrompts(AnyPrompts):
    """A control: the same attention everywhere. level: a number, or a run's folder, whose mean attention is used."""

    kind: Literal["constant"]
    level: Level

    @property
    def source(self) -> Path | None:
        """The run from which the level is taken."""
        return Path(self.level) if isinstance(self.level, str) else None

    @property
    def number(self) -> float | None:
        return None if isinstance(self.level, str) else self.level

    @property
    def name(self) -> str:
        return f"constant_as_{self.source.parent.name}" if self.source else f"constant{self.level:g}"


class OraclePrompts(AnyPrompts):
    """A control: attention 1 on the moving object, as the generator of `motions` knows it, and `low` elsewhere."""

    kind: Literal["oracle"]
    low: Annotated[float, Field(ge=0, lt=1)]

    @property
    def name(self) -> str:
        return f"oracle{self.low:g}"
