"""What an update changes, apart from the training state: the model and what belongs to its weights."""

from dataclasses import dataclass

import torch
from torch import nn

from vmp.engine.average import Average


@dataclass(frozen=True, slots=True)
class Learner:
    """A model on its device, with its optimizer.

    optimizer: the initial `lr` of each group is its base learning rate.
    scaler: the loss scaler for fp16; disabled for other types.
    average: a moving average of the weights, which is validated, tested and saved in their place; or None.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: Average | None = None
