"""Attention from the size of a change, whatever its sign: f(D) = sigmoid(a(m) (|D| - b(n))).

With the paper's function a bright object on dark ground lights up where it comes and goes dark where it leaves; here
both are motion.
"""

from torch import Tensor

from vmp.power_norm import LearnedPowerNorm


class TwoSided(LearnedPowerNorm):
    def forward(self, d: Tensor) -> Tensor:
        return super().forward(d.abs())
