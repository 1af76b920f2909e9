"""The training loss L = cross-entropy + λ V (Eq. 7), as named terms."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def balanced_weights(labels: Sequence[int], *, classes: int) -> Tensor:
    """Weights (classes,) inversely proportional to the clips of a class, with mean 1 over clips; 0 without clips."""
    counts = torch.bincount(torch.tensor(labels), minlength=classes)
    return torch.where(counts > 0, len(labels) / (int((counts > 0).sum()) * counts.clamp(min=1)), 0.0)


class Objective:
    """Cross-entropy + λ V, as a function of logits, labels and V.

    Args:
    variation_weight: λ of Eq. 7.
    label_smoothing: 0 in the paper.
    class_weights: (classes,), factors on the cross-entropy of each class; None: 1, as in the paper. The loss is the
        mean over clips. torch would divide by the sum of weights, so a clip's weight would vary by batch.
    """

    def __init__(
        self,
        *,
        variation_weight: float = 0.0,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> None:
        if not 0 <= variation_weight < float("inf"):
            raise ValueError(f"variation_weight (lambda) = {variation_weight}: must be a number from 0 up")
        self.variation_weight, self.label_smoothing = variation_weight, label_smoothing
        self.class_weights = class_weights

    def __call__(self, logits: Tensor, labels: Tensor, variations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss and its terms.

        Args:
            logits: (B, classes).
            labels: class numbers (B,), or class probabilities (B, classes) of mixed clips.
            variations: pathway with prompts -> V.

        Returns:
            scalars: `loss`, `cross_entropy` and, with prompts, `variation` (the sum over pathways, without λ).
        """
        options: dict[str, Any] = {"label_smoothing": self.label_smoothing}
        if self.class_weights is None:
            cross_entropy = F.cross_entropy(logits.float(), labels, **options)
        else:
            options |= {"weight": self.class_weights, "reduction": "none"}
            cross_entropy = F.cross_entropy(logits.float(), labels, **options).mean()
        terms = {"loss": cross_entropy, "cross_entropy": cross_entropy}
        if variations:
            total = sum(variations.values())
            assert isinstance(total, Tensor)
            terms["variation"] = total
            if self.variation_weight:
                terms["loss"] = cross_entropy + self.variation_weight * total
        return terms
