"""Prompt layers for control experiments: what is left of a gain when the attention has nothing to do with its clip.

Notable here:
- `Constant` attention changes the input's scale and, with level 1, nothing but the frames: T + 1 are decoded and the
  last T are seen, as with motion prompts;
- attention from another clip has the learned layer's values and their changes over time, in the wrong places. In
  training it comes from the neighbour in the micro-batch; in testing from one training clip, so that a clip's score
  does not depend on the clips that are scored beside it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmp.layer import MotionPrompt, Prompted, plain


class Constant(nn.Module):
    """A power normalisation that gives every difference the same attention, in (0, 1]."""

    def __init__(self, level: float) -> None:
        super().__init__()
        if not 0 < level <= 1:
            raise ValueError(f"level = {level}: must be greater than 0 and at most 1")
        self.level = level

    def forward(self, d: Tensor) -> Tensor:
        return torch.full_like(d, self.level)

    def scalars(self) -> dict[str, Tensor]:
        return {}

    def extra_repr(self) -> str:
        return f"{self.level}"


class OtherClipPrompt(MotionPrompt):
    """A `MotionPrompt` whose attention comes from the differences of another clip.

    kept: (T, H, W) differences of the last clip of the last training batch, for testing; part of the state. Empty
    before the first one: no motion.
    """

    kept: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("kept", torch.empty(0))

    def forward(self, clip: Tensor, *, variation: bool = True) -> Prompted:
        return plain(self, clip, self.power_norm, variation=variation)

    def differences(self, clip: Tensor) -> Tensor:
        """Differences of the clip before it in the batch, or in testing of the kept one: (B, T, H, W)."""
        own = super().differences(clip)
        if self.training:
            kept, self.kept = self.kept, own[-1].detach().float().clone()
            if len(own) > 1:
                return own.roll(1, dims=0)
        else:
            kept = self.kept
        if not kept.numel():
            return torch.zeros_like(own)
        there = F.interpolate(kept[None].to(own), size=own.shape[2:], mode="bilinear", align_corners=False)
        return there.expand_as(own)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *more: Any) -> None:
        if (saved := state_dict.get(f"{prefix}kept")) is not None:
            self.kept = torch.empty_like(saved, device=self.kept.device)
        super()._load_from_state_dict(state_dict, prefix, *more)
