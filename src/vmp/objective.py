"""The training loss L = cross-entropy + λ V (Eq. 7), as named terms."""

from collections.abc import Mapping, Sequence

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
        label_smoothing: 0 in the authors' code.
        class_weights: (classes,), factors on the cross-entropy of each class; None: 1, as in theirs. The loss is the
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
        if self.class_weights is None:
            cross_entropy = F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)
        else:
            cross_entropy = self._weighted(logits.float(), labels, self.class_weights)
        terms = {"loss": cross_entropy, "cross_entropy": cross_entropy}
        if variations:
            total = sum(variations.values())
            assert isinstance(total, Tensor)
            terms["variation"] = total
            if self.variation_weight:
                terms["loss"] = cross_entropy + self.variation_weight * total
        return terms

    def _weighted(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """The mean over clips of weight times smoothed cross-entropy; a mixed clip's is its parts', by their shares.

        torch multiplies each term of the smoothed target by the weight of *its* class instead: with a rare class, the
        smoothed part would outweigh the label of a clip of a frequent one.
        """
        e = self.label_smoothing
        of_labels = F.cross_entropy(logits, labels, weight=weights, reduction="none")
        if not e:
            return of_labels.mean()
        of_clips = weights[labels] if labels.dim() == 1 else labels @ weights
        of_all = -logits.log_softmax(dim=1).mean(dim=1)
        return ((1 - e) * of_labels + e * of_clips * of_all).mean()
