"""A prompt layer with other differences: the camera's motion undone, and several spacings of frames.

With spacings K and learned weights w, which are positive and sum to one,

    A_t = sum over k in K of w_k f(D^k_t),    D^k_t = F'_{t+1} - F'_{max(t+1-k, 0)},

so that slow motions, which single steps hardly show, count as well. K = {1} without compensation is the paper's layer.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vmp.choices import CameraMotion, Regulariser, check_choice
from vmp.extensions.compensate import compensated_differences
from vmp.extensions.variations import total_variation
from vmp.layer import MotionPrompt, Prompted, apply_attention, temporal_attention_variation


class ExtendedPrompt(MotionPrompt):
    """Args:
    compensate: the camera's motion that is undone before frames are subtracted: "none", "translation" or "affine".
    scales: spacings of the frames that are subtracted, in frames.
    regulariser: what stands for V: "temporal" (Eq. 6), "spatial" or "compensated" (variations.py).
    options: those of `MotionPrompt`.

    Raises:
        ValueError: another kind of motion, spacings below 1 or repeated; frames too small to compensate.
    """

    def __init__(
        self,
        *,
        compensate: str = "none",
        scales: Sequence[int] = (1,),
        regulariser: str = "temporal",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_choice("regulariser", regulariser, Regulariser)
        check_choice("compensate", compensate, CameraMotion)
        if not scales or min(scales) < 1 or len(set(scales)) < len(scales):
            raise ValueError(f"scales = {list(scales)}: must be different numbers of frames, each at least 1")
        self.compensate, self.scales, self.regulariser = compensate, tuple(scales), regulariser
        self.scale_logits = nn.Parameter(torch.zeros(len(scales))) if len(scales) > 1 else None

    def forward(self, clip: Tensor, *, variation: bool = True) -> Prompted:
        a, own = self.attention(clip), variation and self.regulariser != "temporal"
        out = apply_attention(self, clip, a, variation=variation and not own)
        return Prompted(out.prompts, self._sibling(clip, a)) if own else out

    def _sibling(self, clip: Tensor, attention: Tensor) -> Tensor:
        if self.regulariser == "spatial":
            return total_variation(attention, reduction=self.variation)
        undone = self._attend(self.grey_frames(clip), "translation")
        return temporal_attention_variation(undone, reduction=self.variation)

    def differences(self, clip: Tensor) -> Tensor:
        """Those of the first spacing: (B, 3, T+1, H, W) -> (B, T, H, W)."""
        return _subtract(self.grey_frames(clip), self.scales[0], self.compensate)

    def attention(self, clip: Tensor) -> Tensor:
        """(B, 3, T+1, H, W) -> (B, T, H, W) in [0, 1]."""
        return self._attend(self.grey_frames(clip), self.compensate)

    def _attend(self, grey: Tensor, compensate: str) -> Tensor:
        """The attention of grey frames (B, T+1, H, W), with this motion of the camera undone: (B, T, H, W)."""
        each = [self.power_norm(_subtract(grey, scale, compensate)) for scale in self.scales]
        if self.scale_logits is None:
            return each[0]
        weights = self.scale_logits.to(grey.dtype).softmax(0)
        return sum(w * a for w, a in zip(weights, each, strict=True))

    def scalars(self) -> dict[str, Tensor]:
        """Those of the power normalisation, and the weight of each spacing as `scale1`, ..."""
        found = super().scalars()
        if self.scale_logits is not None:
            weights = self.scale_logits.detach().float().softmax(0)
            found |= {f"scale{k}": w for k, w in zip(self.scales, weights, strict=True)}
        return found

    def extra_repr(self) -> str:
        own = f"compensate={self.compensate!r}, scales={self.scales}, regulariser={self.regulariser!r}"
        return f"{super().extra_repr()}, {own}"


def _subtract(grey: Tensor, scale: int, compensate: str) -> Tensor:
    """Differences at one spacing, with this motion of the camera undone: (B, T+1, H, W) -> (B, T, H, W)."""
    at = (torch.arange(1, grey.shape[1], device=grey.device) - scale).clamp(min=0)
    earlier, later = grey[:, at], grey[:, 1:]
    if compensate == "none":
        return later - earlier
    return compensated_differences(earlier, later, kind=compensate)
