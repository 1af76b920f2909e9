"""Siblings of V, as regularisers of attention maps A (B, T, H, W):

    spatial:      TV = mean |A_t(x + e_1) - A_t(x)| + mean |A_t(x + e_2) - A_t(x)|,    neighbours along x and along y;
    compensated:  V (Eq. 6) of what A would be of D^c, the differences that remain once the camera's translation is
                  undone (compensate.py), at the same spacings with the same weights. The prompts stay those of A.

V punishes attention that flickers, also where only the camera moves. TV asks for attention in whole regions instead,
and the compensated V leaves the camera out.
"""

from torch import Tensor


def total_variation(attention: Tensor, *, reduction: str = "mean") -> Tensor:
    """TV of attention maps (B, T, H, W) of at least 2 x 2: a scalar, 0 without a clip. "frobenius" is H W times larger,
    as for V."""
    if not attention.numel():
        return attention.new_zeros(())
    h, w = attention.shape[-2:]
    along = (attention[..., :, 1:] - attention[..., :, :-1]).abs().mean()
    down = (attention[..., 1:, :] - attention[..., :-1, :]).abs().mean()
    return (along + down) * (1 if reduction == "mean" else h * w)
