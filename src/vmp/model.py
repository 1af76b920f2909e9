"""A backbone with motion prompts in front of it, from uint8 clips to logits."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from vmp.layer import MotionPrompt, normalize


class Output(NamedTuple):
    logits: Tensor  # (B, classes)
    variations: dict[
        str, Tensor
    ]  # pathway -> V, a scalar (Eq. 6); of prompted pathways, where it was computed


class PromptedClassifier(nn.Module):
    """Args:
    backbone: (B, 3, T, H, W), normalised -> (B, classes).
    prompts: pathway -> layer; empty for the baseline without prompts.
    mean, std: normalisation of the baseline's input; a prompt layer brings its own.
    variation_in_training: False skips V in training mode (lambda = 0); evaluation always measures it.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        prompts: Mapping[str, MotionPrompt] | None = None,
        mean: float = 0.45,
        std: float = 0.225,
        variation_in_training: bool = True,
    ) -> None:
        super().__init__()
        self.prompts = nn.ModuleDict(prompts or {})
        self.backbone = backbone
        self.mean, self.std, self.variation_in_training = mean, std, variation_in_training

    @property
    def extra_frames(self) -> int:
        """Frames that the clip needs beyond the backbone's: one for the first difference."""
        return 1 if self.prompts else 0

    def forward(self, clips: Tensor) -> Output:
        """clips: (B, 3, T + extra_frames, H, W), uint8 (or floating and normalised)."""
        variations: dict[str, Tensor] = {}
        if self.prompts:
            wanted = self.variation_in_training or not self.training
            x, v = self.prompts["video"](clips, variation=wanted)
            if wanted:
                variations["video"] = v
        else:
            x = normalize(clips, self.mean, self.std)
        return Output(self.backbone(x), variations)

    def scalars(self) -> dict[str, Tensor]:
        """Learned scalars by name: `slope`, `shift`, `m`, `n`; `<pathway>/slope` ... when several are prompted."""
        out: dict[str, Tensor] = {}
        for pathway, prompt in self.prompts.items():
            assert isinstance(prompt, MotionPrompt)
            prefix = f"{pathway}/" if len(self.prompts) > 1 else ""
            out |= {f"{prefix}{name}": value for name, value in prompt.scalars().items()}
        return out
