"""Slope and shift of each clip, from how large its differences are:

    a = a(m + u_1(h)),    b = b(n + u_2(h)),

with h the histogram of the clip's differences, u a small network whose last layer starts at zero, and the paper's a(.)
and b(.) (Eq. 2), which bound both. A dim recording and a shaky one can so have attention of their own.
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from vmp.power_norm import LearnedPowerNorm

_BINS, _HIDDEN = 16, 8
_LARGEST = 0.4  # differences beyond count in the outer bins
_FINEST = 0.01  # half-width of the two bins around zero; widths grow outwards


class PerClip(LearnedPowerNorm):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        side = torch.logspace(
            torch.tensor(_FINEST).log10().item(), torch.tensor(_LARGEST).log10().item(), _BINS // 2 - 1
        )
        edges = torch.cat([-side.flip(0), torch.zeros(1), side])  # _BINS - 1 of them
        self.register_buffer("edges", edges, persistent=False)
        last = nn.Linear(_HIDDEN, 2)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.head = nn.Sequential(nn.Linear(_BINS, _HIDDEN), nn.ReLU(), last)

    edges: Tensor

    def forward(self, d: Tensor) -> Tensor:
        """(B, T, H, W) -> (B, T, H, W)."""
        a, b = (x.to(d.dtype).view(-1, 1, 1, 1) for x in self.of_clips(d))
        return torch.sigmoid(a * (d - b))

    def of_clips(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes and shifts of clips, (B,) each, from their differences (B, T, H, W)."""
        # no context without autocast: torch.export could not save it
        on = torch.is_autocast_enabled(d.device.type)
        with torch.autocast(d.device.type, enabled=False) if on else nullcontext():
            m, n = self.head(self.histogram(d).to(self.m.dtype)).unbind(1)
        return self.slope_of(self.m + m), self.shift_of(self.n + n)

    @torch.no_grad()
    def histogram(self, d: Tensor) -> Tensor:
        """Shares of a clip's differences in 16 bins, which are finest around zero: (B, T, H, W) -> (B, 16)."""
        edges = self.edges.to(d)
        below = torch.stack([(d < edge).flatten(1).float().mean(1) for edge in edges], dim=1)  # (B, 15)
        return torch.diff(
            below, dim=1, prepend=torch.zeros_like(below[:, :1]), append=torch.ones_like(below[:, :1])
        )
