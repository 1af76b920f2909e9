"""A backbone with motion prompts in front of it, from uint8 clips to logits."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from vmp.controls import OraclePrompt
from vmp.extensions.features import FeaturePrompt, find_stage
from vmp.layer import MotionPrompt, normalize
from vmp.pathways import WHOLE, PathwayFrames, scalar_name, select_frames


class Output(NamedTuple):
    logits: Tensor  # (B, classes)
    variations: dict[str, Tensor]  # pathway with prompts -> V, a scalar (Eq. 6), if it was computed


class PromptedClassifier(nn.Module):
    """Motion prompts in front of a backbone.

    Args:
        backbone: normalised clips (B, 3, T, H, W), or a list of them for several pathways -> logits (B, classes).
        prompts: pathway -> layer; empty for the baseline. A backbone with one pathway calls it "video".
        pathway_frames: which of the decoded frames each pathway takes; None for a backbone with one pathway.
        mean, std: input normalisation of pathways without prompts; a prompt layer has its own.
        inside: stage of the backbone -> layer on its feature maps (extensions/features.py).
        variation_in_training: False skips V in training mode (lambda = 0); evaluation always measures it.

    Raises:
        ValueError: a layer is for a pathway that the backbone does not have.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        prompts: Mapping[str, MotionPrompt] | None = None,
        pathway_frames: PathwayFrames | None = None,
        inside: Mapping[str, FeaturePrompt] | None = None,
        mean: float | tuple[float, ...] = 0.45,
        std: float | tuple[float, ...] = 0.225,
        variation_in_training: bool = True,
    ) -> None:
        super().__init__()
        pathways = (
            (WHOLE,) if pathway_frames is None or pathway_frames.shared else tuple(pathway_frames.indices)
        )
        if unknown := [pathway for pathway in prompts or {} if pathway not in pathways]:
            raise ValueError(f"prompts on {', '.join(unknown)}: the backbone has {' and '.join(pathways)}")
        self.prompts = nn.ModuleDict(prompts or {})
        self.backbone = backbone
        self.pathway_frames = pathway_frames
        self.mean, self.std, self.variation_in_training = mean, std, variation_in_training
        self.inside = nn.ModuleDict(
            {stage.replace(".", "_"): layer for stage, layer in (inside or {}).items()}
        )
        self._stage_variations: dict[str, Tensor] = {}  # stage -> V, filled by hooks during a forward pass
        for stage, layer in (inside or {}).items():
            find_stage(backbone, stage).register_forward_hook(partial(self._prompt_stage, stage, layer))
        self.stages = tuple(inside or {})
        # whether clips have a fourth channel (a mask), which pathways without prompts do not use
        self.masked = any(isinstance(layer, OraclePrompt) for layer in self.prompts.values())
        self.frozen_modules: list[nn.Module] = []  # kept in evaluation mode; set by finetune.freeze

    def forward(self, clips: Tensor) -> Output:
        """From clips to logits.

        Args:
            clips: (B, 3, frames, H, W), uint8 or floating and normalised; `OraclePrompt` needs a fourth channel. frames
                is `pathway_frames.frames`, or for one pathway T without prompts and T + 1 with them.
        """
        variations: dict[str, Tensor] = {}
        if self.pathway_frames is None:
            logits = self.backbone(self._prepare_pathway(WHOLE, clips, variations))
            for stage in self.stages if self._wants_variation else ():
                variations[stage] = self._stage_variations.pop(stage)
            return Output(logits, variations)
        whole = self._prepare_pathway(WHOLE, clips, variations) if self.pathway_frames.shared else clips
        pathways = [
            select_frames(whole, indices)
            if pathway in self.pathway_frames.shared
            else self._prepare_pathway(pathway, select_frames(clips, indices), variations)
            for pathway, indices in self.pathway_frames.indices.items()
        ]
        return Output(self.backbone(pathways), variations)

    def _prepare_pathway(self, pathway: str, clips: Tensor, variations: dict[str, Tensor]) -> Tensor:
        """Raw frames -> the backbone's input: prompts if the pathway has a layer, else normalised frames."""
        if pathway not in self.prompts:
            return normalize(clips[:, :3] if self.masked else clips, self.mean, self.std)
        wanted = self._wants_variation
        x, v = self.prompts[pathway](clips, variation=wanted)
        if wanted:
            variations[pathway] = v
        return x

    @property
    def _wants_variation(self) -> bool:
        return self.variation_in_training or not self.training

    def _prompt_stage(
        self, stage: str, layer: FeaturePrompt, _: nn.Module, inputs: Any, maps: Tensor
    ) -> Tensor:
        """Hook that applies a prompt layer to a stage's output: maps (B, C, T, H, W), or a transformer's tokens."""
        wanted = self._wants_variation
        out = (
            layer(maps, variation=wanted)
            if maps.dim() == 5
            else layer.tokens(maps, inputs[1], variation=wanted)
        )
        if wanted:
            self._stage_variations[stage] = out.variation
        return out.prompts

    def scalars(self) -> dict[str, Tensor]:
        """Learned scalars by name: `slope`, `shift`, `m`, `n`; `<pathway>/slope` ... with several pathways, and
        `<stage>/slope` ... of layers inside."""
        out: dict[str, Tensor] = {}
        for pathway, prompt in self.prompts.items():
            assert isinstance(prompt, MotionPrompt)
            out |= {scalar_name(pathway, name): value for name, value in prompt.scalars().items()}
        for stage, layer in zip(self.stages, self.inside.values(), strict=True):
            assert isinstance(layer, FeaturePrompt)
            out |= {scalar_name(stage, name): value for name, value in layer.scalars().items()}
        return out

    def train(self, mode: bool = True) -> "PromptedClassifier":
        super().train(mode)
        for module in self.frozen_modules:
            module.training = False  # its own mode alone: eval() would reach the head inside it
        return self


@contextmanager
def measuring_attention(model: PromptedClassifier) -> Iterator[dict[str, list[Tensor]]]:
    """Context that records the mean attention of each clip: pathway -> one tensor (B,) per forward pass."""
    found: dict[str, list[Tensor]] = {pathway: [] for pathway in model.prompts}

    def add(pathway: str, layer: Any, clips: Tensor) -> None:
        found[pathway].append(layer.attention(clips).detach().double().mean(dim=(1, 2, 3)))  # (B,)

    handles = [
        layer.register_forward_hook(lambda layer, args, _, pathway=pathway: add(pathway, layer, args[0]))
        for pathway, layer in model.prompts.items()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def mean_attention(found: Mapping[str, Tensor]) -> dict[str, float]:
    """The mean over the clips of all processes. found: pathway -> mean attention of each clip, (N,)."""
    return {pathway: float(means.mean()) for pathway, means in found.items() if len(means)}
