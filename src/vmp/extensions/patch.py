"""Attention per patch: differences are pooled over patches of P x P pixels, and each patch gets one value,

    A_p = sigmoid(a_p (s_p - b_p)),    s_p = mean |D|, mean D or root mean square of D over patch p,

which is drawn over the patch ("nearest") or interpolated between the patches' middles ("bilinear"). Slope and shift
are shared, or learned for each place of the patches' grid. A patch averages sensor noise away, and attention on whole
patches is what a transformer's tokens can use.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from vmp.choices import Pool, Upsample, check_choice
from vmp.power_norm import LearnedPowerNorm


class PatchPowerNorm(LearnedPowerNorm):
    """Args:
    patch: P, pixels per side.
    pool: "mean_abs", "mean" or "rms".
    upsample: "bilinear" or "nearest".
    grid: rows and columns of patches, each with a slope and a shift of its own; None: shared.
    options: those of `LearnedPowerNorm`.

    Raises:
        ValueError: an option that is not allowed; frames that patches do not fill, or of another grid.
    """

    def __init__(
        self,
        *,
        patch: int,
        pool: str = "mean_abs",
        upsample: str = "bilinear",
        grid: tuple[int, int] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_choice("pool", pool, Pool)
        check_choice("upsample", upsample, Upsample)
        if patch < 1:
            raise ValueError(f"patch = {patch}: must be at least 1 pixel")
        self.patch, self.pool, self.upsample, self.grid = patch, pool, upsample, grid
        if grid is not None:
            self.m = nn.Parameter(self.m.detach().expand(grid).clone())
            self.n = nn.Parameter(self.n.detach().expand(grid).clone())

    def forward(self, d: Tensor) -> Tensor:
        """(B, T, H, W) -> (B, T, H, W)."""
        h, w = d.shape[-2:]
        if h % self.patch or w % self.patch:
            raise ValueError(f"frames of {h} x {w} pixels: patches of {self.patch} do not fill them")
        rows, columns = h // self.patch, w // self.patch
        if self.grid is not None and self.grid != (rows, columns):
            raise ValueError(
                f"frames of {h} x {w} pixels have {rows} x {columns} patches: slope and shift were made for "
                f"{self.grid[0]} x {self.grid[1]}"
            )
        pooled = {
            "mean_abs": lambda: F.avg_pool2d(d.abs(), self.patch),
            "mean": lambda: F.avg_pool2d(d, self.patch),
            "rms": lambda: (F.avg_pool2d(d.square(), self.patch) + 1e-12).sqrt(),
        }[self.pool]()
        a = super().forward(pooled)
        if self.upsample == "nearest":
            return a.repeat_interleave(self.patch, dim=-2).repeat_interleave(self.patch, dim=-1)
        return F.interpolate(a, size=(h, w), mode="bilinear", align_corners=False)

    def scalars(self) -> dict[str, Tensor]:
        """Slope, shift, m and n; means over the grid where each patch has its own."""
        named = {"slope": self.slope, "shift": self.shift, "m": self.m, "n": self.n}
        return {name: value.detach().float().mean() for name, value in named.items()}

    def extra_repr(self) -> str:
        own = f"patch={self.patch}, pool={self.pool!r}, upsample={self.upsample!r}, grid={self.grid}"
        return f"{super().extra_repr()}, {own}"
