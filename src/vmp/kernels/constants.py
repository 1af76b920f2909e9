"""The fixed numbers of a prompt layer, as the kernels take them."""

from typing import NamedTuple

import torch


class Constants(NamedTuple):
    """What a prompt layer computes with besides the clip, the slope and the shift.

    grey: channel weights, from the clip's values to a grey level in [0, 1].
    mean, std: the input normalisation, per channel.
    pixel: whether the attention multiplies the frame in [0, 1], as Eq. 4 says, or else the normalised frame.
    frobenius: whether V sums over pixels (Eq. 6 to the letter) or else averages over them.
    dtype: of the prompts.
    """

    grey: tuple[float, float, float]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pixel: bool
    frobenius: bool
    dtype: torch.dtype

    @property
    def black(self) -> tuple[float, float, float]:
        """mean / std per channel: a black pixel is minus that once it is normalised."""
        r, g, b = (mean / std for mean, std in zip(self.mean, self.std, strict=True))
        return r, g, b
