"""A backbone with motion prompts in front of it, from uint8 clips to logits."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from vmp.layer import MotionPrompt, normalize
from vmp.pathways import WHOLE, Cut, scalar_name, take


class Output(NamedTuple):
    logits: Tensor  # (B, classes)
    variations: dict[str, Tensor]  # prompted pathway -> V, a scalar (Eq. 6), if V was computed


class PromptedClassifier(nn.Module):
    """Motion prompts in front of a backbone.

    Args:
    backbone: (B, 3, T, H, W), normalised -> (B, classes); a list of such clips if it has several pathways.
    prompts: pathway -> layer; empty for the baseline without prompts. "video" is the whole clip.
    cut: how a clip becomes the backbone's pathways; None for a backbone with one pathway.
    mean, std: input normalisation of pathways without prompts; a prompt layer has its own.
    variation_in_training: False skips V in training mode (lambda = 0); evaluation always measures it.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        prompts: Mapping[str, MotionPrompt] | None = None,
        cut: Cut | None = None,
        mean: float = 0.45,
        std: float = 0.225,
        variation_in_training: bool = True,
    ) -> None:
        super().__init__()
        self.prompts = nn.ModuleDict(prompts or {})
        self.backbone = backbone
        self.cut = cut
        self.mean, self.std, self.variation_in_training = mean, std, variation_in_training
        self.frozen_modules: list[nn.Module] = []  # kept in evaluation mode; set by finetune.freeze

    def forward(self, clips: Tensor) -> Output:
        """clips: (B, 3, frames, H, W), uint8 (or floating and normalised); as many frames as the cut takes, or the
        backbone's T without prompts and T + 1 with them."""
        variations: dict[str, Tensor] = {}
        if self.cut is None:
            return Output(self.backbone(self._prepare_pathway(WHOLE, clips, variations)), variations)
        whole = self._prepare_pathway(WHOLE, clips, variations) if self.cut.shared else clips
        pathways = [
            take(whole, indices)
            if pathway in self.cut.shared
            else self._prepare_pathway(pathway, take(clips, indices), variations)
            for pathway, indices in self.cut.take.items()
        ]
        return Output(self.backbone(pathways), variations)

    def _prepare_pathway(self, pathway: str, clips: Tensor, variations: dict[str, Tensor]) -> Tensor:
        """Raw frames -> the backbone's input: prompts if the pathway has a layer, else normalised frames."""
        if pathway not in self.prompts:
            return normalize(clips, self.mean, self.std)
        wanted = self.variation_in_training or not self.training
        x, v = self.prompts[pathway](clips, variation=wanted)
        if wanted:
            variations[pathway] = v
        return x

    def scalars(self) -> dict[str, Tensor]:
        """Learned scalars by name: `slope`, `shift`, `m`, `n`; `<pathway>/slope` ... with several pathways."""
        out: dict[str, Tensor] = {}
        for pathway, prompt in self.prompts.items():
            assert isinstance(prompt, MotionPrompt)
            out |= {scalar_name(pathway, name): value for name, value in prompt.scalars().items()}
        return out

    def train(self, mode: bool = True) -> "PromptedClassifier":
        super().train(mode)
        for module in self.frozen_modules:
            module.eval()
        return self
