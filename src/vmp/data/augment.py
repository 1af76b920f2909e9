"""Mixup, CutMix, RandAugment and random erasing of whole clips, on uint8 and before the prompt layer.

Notes:
- one draw holds for all frames of a clip, the further frame of the prompts among them: differences of frames show what
  moves, and never the augmentation. torchvision has operations that adapt to each picture by itself (contrast,
  autocontrast, equalise), so that a clip would flicker; here they see the frames as one tall picture;
- draws are functions of (seed, epoch, clip), as those of crops are;
- clips 2i and 2i + 1 of an epoch's order are mixed with each other. A micro-batch of an even size holds both, so the
  number of processes and the size of micro-batches do not matter.

Shapes: clips are (3, T, H, W) uint8, as the model takes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

GREY = 115  # the backbones' mean of 0.45, for what RandAugment moves in from outside and for what is erased
WHOLE_CLIP = ("Contrast", "AutoContrast", "Equalize")  # operations that adapt to the picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """mixup, cutmix: parameter of the symmetric Beta distribution that a clip's own share is drawn from; 0: off. With
    both on, each clip takes either with probability 1/2.
    rand_ops, rand_magnitude: of RandAugment (Cubuk et al. 2020); the magnitude goes from 0 to 30.
    erase: probability of erasing a box of 2 to 33% of the frames (Zhong et al. 2020), in grey.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    rand_ops: int = 0
    rand_magnitude: int = 9
    erase: float = 0.0

    @property
    def mixes(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def load(self) -> None:
        """Import what `change` needs, so that forked loader processes have it already."""
        if self.rand_ops or self.erase:
            import torchvision.transforms.v2  # noqa: F401

    def change(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        """RandAugment and erasing of one clip."""
        if not self.rand_ops and not self.erase:
            return clip
        from torchvision.transforms import v2

        frames = clip.transpose(0, 1)  # (T, 3, H, W)
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's own generator
            torch.default_generator.manual_seed(int(rng.integers(2**62)))
            if self.rand_ops:
                frames = _rand_augment(self.rand_ops, self.rand_magnitude)(frames)
            if self.erase:
                frames = v2.RandomErasing(self.erase, value=GREY)(frames)
        return frames.transpose(0, 1).contiguous()

    def mix(self, clip: Tensor, other: Tensor, rng: np.random.Generator) -> tuple[Tensor, float]:
        """One clip with a share of another in it, and the share that is left of its own."""
        cut = self.cutmix > 0 and (not self.mixup or rng.random() < 0.5)
        alpha = self.cutmix if cut else self.mixup
        share = float(rng.beta(alpha, alpha))
        if not cut:
            return torch.lerp(other.float(), clip.float(), share).round_().to(torch.uint8), share
        (h, w), half = clip.shape[2:], sqrt(1 - share) / 2
        y, x = int(rng.integers(h)), int(rng.integers(w))
        rows = slice(max(0, y - int(half * h)), min(h, y + int(half * h)))
        columns = slice(max(0, x - int(half * w)), min(w, x + int(half * w)))
        mixed = clip.clone()
        mixed[:, :, rows, columns] = other[:, :, rows, columns]
        return mixed, 1 - mixed[0, 0, rows, columns].numel() / (h * w)

    def mix_pairs(
        self, items: Sequence[tuple[int, Any, int]], rngs: Sequence[np.random.Generator], *, classes: int
    ) -> list[tuple[int, Any, Tensor]]:
        """Mix the clips of a micro-batch, which starts with an even clip of the epoch.

        Args:
            items: (index, clip, or an error instead, label). A clip whose partner cannot be read stays as it is.

        Returns:
            the same with soft labels, (classes,), which sum to 1.
        """
        out = []
        for place, (index, clip, label) in enumerate(items):
            soft, share, partner = torch.zeros(classes), 1.0, place ^ 1
            if partner < len(items) and all(isinstance(items[i][1], Tensor) for i in (place, partner)):
                clip, share = self.mix(clip, items[partner][1], rngs[place])
                soft[items[partner][2]] = 1 - share
            soft[label] += share
            out.append((index, clip, soft))
        return out


@cache
def _rand_augment(ops: int, magnitude: int) -> Any:
    """torchvision's RandAugment, (T, 3, H, W) uint8 -> the same."""
    from torchvision.transforms import InterpolationMode, v2

    class RandAugment(v2.RandAugment):
        def _apply_image_or_video_transform(
            self, image: Tensor, transform_id: str, *how: Any, **more: Any
        ) -> Any:
            if transform_id not in WHOLE_CLIP:
                return super()._apply_image_or_video_transform(image, transform_id, *how, **more)
            tall = image.transpose(0, 1).flatten(1, 2)  # (3, T H, W)
            tall = super()._apply_image_or_video_transform(tall, transform_id, *how, **more)
            return tall.unflatten(1, (len(image), -1)).transpose(0, 1)

    return RandAugment(ops, magnitude, interpolation=InterpolationMode.BILINEAR, fill=GREY)
