"""Power normalisation: functions from a signed frame difference to attention.

Notes:
- every function takes differences D in [-1, 1], any shape, and returns attention in [0, 1], same shape and dtype;
- the learned one is Eq. 1-3; its parameters m and n are unbounded, and tanh bounds slope and shift (Eq. 2);
- the four fixed ones are from Fig. 3a and Appendix B (Koniusz and Zhang, TPAMI 2021). They are defined on x in [0, 1],
  so a signed difference is mapped there first, as `entry` selects:
      "magnitude"  x = |D|           the sign is ignored; a still pixel has attention f(0) = 0 (the default)
      "affine"     x = (D + 1) / 2   the sign matters, as in the learned function; a still pixel has attention f(1/2)
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vmp.slope_shift import START_M, START_N, Start

ENTRIES = ("magnitude", "affine")


class LearnedPowerNorm(nn.Module):
    """f(D) = sigmoid(a(m) (D - b(n))), Eq. 1-3.

    Args:
        alpha, beta, epsilon: a(m) = alpha / (beta |tanh m| + epsilon), in [alpha / (beta + epsilon), alpha / epsilon].
        gamma: b(n) = gamma tanh n, in (-gamma, gamma).
        m, n: initial values; by default those of the authors' code. "draw" draws from N(1e-5, 1), m first (Sec. 3.1).

    Raises:
        ValueError: a constant is outside the range for which Appendix D shows that f is well behaved.
    """

    def __init__(
        self,
        *,
        alpha: float = 5.0,
        beta: float = 0.45,
        gamma: float = 0.6,
        epsilon: float = 0.1,
        m: Start = START_M,
        n: Start = START_N,
    ) -> None:
        super().__init__()
        for name, value, ok, allowed in (
            ("alpha", alpha, alpha > 0, "alpha > 0"),
            ("beta", beta, beta > 0, "beta > 0"),
            ("gamma", gamma, 0 < gamma < 1, "0 < gamma < 1"),
            ("epsilon", epsilon, epsilon > 0, "epsilon > 0 (at 0 the slope is unbounded)"),
        ):
            if not (ok and math.isfinite(value)):
                raise ValueError(f"{name} = {value}: must be {allowed} (Appendix D)")
        self.alpha, self.beta, self.gamma, self.epsilon = alpha, beta, gamma, epsilon
        self.m = nn.Parameter(_start(m, "m"))
        self.n = nn.Parameter(_start(n, "n"))

    @property
    def slope(self) -> Tensor:
        """a(m), shape (1,), float32 at least (Eq. 2)."""
        return self.slope_of(self.m)

    @property
    def shift(self) -> Tensor:
        """b(n), shape (1,), float32 at least (Eq. 2)."""
        return self.shift_of(self.n)

    def slope_of(self, m: Tensor) -> Tensor:
        """a of any m, elementwise (Eq. 2)."""
        return self.alpha / (self.beta * _wide(m).tanh().abs() + self.epsilon)

    def shift_of(self, n: Tensor) -> Tensor:
        """b of any n, elementwise (Eq. 2)."""
        return self.gamma * _wide(n).tanh()

    def forward(self, d: Tensor) -> Tensor:
        # torch.sigmoid, not 1 / (1 + exp(-z)): the latter's gradient is NaN once exp overflows
        return torch.sigmoid(self.slope.to(d.dtype) * (d - self.shift.to(d.dtype)))

    def scalars(self) -> dict[str, Tensor]:
        """Scalars to log: slope, shift, m and n, as detached 0-d tensors."""
        named = {"slope": self.slope, "shift": self.shift, "m": self.m, "n": self.n}
        return {name: value.detach().reshape(()) for name, value in named.items()}

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, beta={self.beta}, gamma={self.gamma}, epsilon={self.epsilon}"


class _Fixed(nn.Module):
    """A power normalisation with a fixed exponent. entry: how signed differences are mapped to [0, 1]."""

    above, allowed = 0.0, "greater than 0"  # what exponents are

    def __init__(self, exponent: float = 10.0, *, entry: str = "magnitude") -> None:
        super().__init__()
        if entry not in ENTRIES:
            raise ValueError(f"entry = {entry!r}: must be one of {', '.join(ENTRIES)}")
        if not (math.isfinite(exponent) and exponent > self.above):
            raise ValueError(
                f"{type(self).__name__} exponent = {exponent}: must be finite and {self.allowed}"
            )
        self.exponent, self.entry = exponent, entry

    def forward(self, d: Tensor) -> Tensor:
        x = d.abs() if self.entry == "magnitude" else (d + 1) / 2
        return self.curve(x.clamp(0, 1))

    def curve(self, x: Tensor) -> Tensor:
        raise AssertionError("each member of the family defines its curve")

    def scalars(self) -> dict[str, Tensor]:
        return {}

    def extra_repr(self) -> str:
        return f"{self.exponent}, entry={self.entry!r}"


class Gamma(_Fixed):
    """x^g on [0, 1], g > 0. g < 1 amplifies small motions; the slope at 0 is infinite, so x is at least 1e-6."""

    def __init__(self, exponent: float = 0.5, *, entry: str = "magnitude") -> None:
        super().__init__(exponent, entry=entry)

    def curve(self, x: Tensor) -> Tensor:
        floor = 1e-6**self.exponent  # subtracted so that f(0) = 0 while the gradient at 0 stays finite
        return (x.clamp_min(1e-6) ** self.exponent - floor) / (1 - floor)


class MaxExp(_Fixed):
    """1 - (1 - x)^η on [0, 1], η >= 1."""

    above, allowed = math.nextafter(1.0, 0.0), "at least 1"

    def curve(self, x: Tensor) -> Tensor:
        return 1 - (1 - x) ** self.exponent


class SigmE(_Fixed):
    """2 / (1 + e^(-ηx)) - 1 on [0, 1], η > 0; f(1) = tanh(η/2), slightly below 1."""

    def curve(self, x: Tensor) -> Tensor:
        return 2 * torch.sigmoid(self.exponent * x) - 1


class AsinhE(_Fixed):
    """asinh(ηx) / asinh(η) on [0, 1], η > 0."""

    def curve(self, x: Tensor) -> Tensor:
        return torch.asinh(self.exponent * x) / math.asinh(self.exponent)


FAMILY: dict[str, Callable[..., nn.Module]] = {
    "gamma": Gamma,
    "maxexp": MaxExp,
    "sigme": SigmE,
    "asinhe": AsinhE,
}


def _start(value: Start, name: str) -> Tensor:
    if value == "draw":
        return torch.empty(1).normal_(mean=1e-5, std=1.0)
    if not (isinstance(value, int | float) and math.isfinite(value)):
        raise ValueError(
            f"start value {name} = {value!r}: must be a finite number, or 'draw' to draw it from N(1e-5, 1)"
        )
    return torch.full((1,), float(value))


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
