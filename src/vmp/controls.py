"""Prompt layers for control experiments: what is left of a gain when the attention has nothing to do with its clip, and
what there is to gain when it is right.

Notes:
- `Constant` attention changes the input's scale and, with level 1, nothing but the frames: T + 1 are decoded and the
  last T are seen, as with motion prompts;
- attention from another clip has the learned layer's values and their changes over time, in the wrong places. In
  training it comes from the neighbour in the micro-batch; in testing from one training clip, so that a clip's score
  does not depend on the clips that are scored beside it;
- true attention comes with the clip, as a fourth channel: only the generator of `motions` knows what really moves.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmp.layer import MotionPrompt, Prompted, compute_prompts


class Constant(nn.Module):
    """A power normalisation that gives every difference the same attention, in (0, 1].

    level: None: not known yet, to be filled in as the buffer `level`, which is then part of the state.
    """

    level: float | Tensor

    def __init__(self, level: float | None) -> None:
        super().__init__()
        if level is None:
            self.register_buffer("level", torch.tensor(torch.nan))
            return
        if not 0 < level <= 1:
            raise ValueError(f"level = {level}: must be greater than 0 and at most 1")
        self.level = level

    def forward(self, d: Tensor) -> Tensor:
        if isinstance(self.level, Tensor):
            return self.level.to(d.dtype).expand_as(d)
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
    not_averaged = ("kept",)  # an average of clips has less motion than any of them (engine/average.py)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("kept", torch.empty(0))

    def forward(self, clip: Tensor, *, variation: bool = True) -> Prompted:
        return compute_prompts(self, clip, self.power_norm, variation=variation)

    def differences(self, clip: Tensor) -> Tensor:
        """Differences of the clip before it in the batch, or in testing the last T of the kept one: (B, T, H, W)."""
        own = super().differences(clip)
        if self.training and len(own):
            kept, self.kept = self.kept, own[-1].detach().float().clone()
            if len(own) > 1:
                return own.roll(1, dims=0)
        else:
            kept = self.kept
        if not kept.numel():
            return torch.zeros_like(own)
        there = F.interpolate(
            kept[None, -own.shape[1] :].to(own), size=own.shape[2:], mode="bilinear", align_corners=False
        )
        return there.expand_as(own)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *more: Any) -> None:
        if (saved := state_dict.get(f"{prefix}kept")) is not None:
            self.kept = torch.empty_like(saved, device=self.kept.device)
        super()._load_from_state_dict(state_dict, prefix, *more)


class Raised(nn.Module):
    """A mask M in [0, 1] -> attention low + (1 - low) M, with low in [0, 1)."""

    def __init__(self, low: float) -> None:
        super().__init__()
        if not 0 <= low < 1:
            raise ValueError(f"low = {low}: must be at least 0 and less than 1")
        self.low = low

    def forward(self, mask: Tensor) -> Tensor:
        return self.low + (1 - self.low) * mask

    def extra_repr(self) -> str:
        return f"{self.low}"


class OraclePrompt(MotionPrompt):
    """Prompts whose attention is where the object really is: A_t = low + (1 - low) max(M_t, M_{t+1}).

    M_t in [0, 1] is the share of each pixel that the object covers in frame t. Like a difference of frames, the
    attention on frame t + 1 has the place that the object left and the one that it came to, whatever the camera does.

    Clips are (B, 4, T+1, H, W) uint8, with 255 M as the fourth channel.
    """

    def __init__(self, *, low: float, **options: Any) -> None:
        super().__init__(power_norm=Raised(low), **options)

    def forward(self, clip: Tensor, *, variation: bool = True) -> Prompted:
        attention = self.attention(clip)
        return compute_prompts(self, clip[:, :3], lambda _: attention, variation=variation)

    def differences(self, clip: Tensor) -> Tensor:
        return super().differences(clip[:, :3])

    def attention(self, clip: Tensor) -> Tensor:
        """(B, 4, T+1, H, W) -> (B, T, H, W)."""
        if clip.dtype != torch.uint8 or clip.dim() != 5 or clip.shape[1] != 4:
            raise ValueError(
                f"clip is {clip.dtype} of shape {tuple(clip.shape)}: must be uint8 (batch, 4, frames, height, width), "
                "with the mask of what moves as its fourth channel"
            )
        mask = clip[:, 3].float() / 255
        return self.power_norm(torch.maximum(mask[:, 1:], mask[:, :-1]))
