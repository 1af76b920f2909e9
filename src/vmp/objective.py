"""What training minimises: L = cross-entropy + λ V (Eq. 7), as named terms."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor


class Objective:
    """Args:
    variation_weight: λ of Eq. 7; at 0 the variation is ignored and costs nothing.
    label_smoothing: 0 in the paper.
    """

    def __init__(self, *, variation_weight: float = 0.0, label_smoothing: float = 0.0) -> None:
        if not 0 <= variation_weight < float("inf"):
            raise ValueError(f"variation_weight (lambda) = {variation_weight}: must be a number from 0 up")
        self.variation_weight, self.label_smoothing = variation_weight, label_smoothing

    def __call__(self, logits: Tensor, labels: Tensor, variations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """logits (B, classes), labels (B,), V by prompted pathway -> scalars: `loss`, which is to be
        differentiated, and its terms `cross_entropy` and, with prompts, `variation` (the sum over pathways, before
        the factor λ)."""
        cross_entropy = F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)
        terms = {"loss": cross_entropy, "cross_entropy": cross_entropy}
        if variations:
            total = sum(variations.values())
            assert isinstance(total, Tensor)
            terms["variation"] = total
            if self.variation_weight:
                terms["loss"] = cross_entropy + self.variation_weight * total
        return terms
