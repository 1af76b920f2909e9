"""A four-layer 3-D CNN that trains in minutes on a CPU: the default, for quick experiments."""

from torch import Tensor, nn


class Tiny(nn.Module):
    """Args:
    num_classes: size of the last layer.
    width: channels of the first layer.
    dropout: before the last layer.
    """

    head_name = "head"

    def __init__(self, *, num_classes: int, width: int = 16, dropout: float = 0.2) -> None:
        super().__init__()
        w = width
        self.stages = nn.Sequential(
            _stage(3, w, kernel=(3, 5, 5), stride=(1, 2, 2)),  # (B, w, T, H/2, W/2)
            _stage(w, 2 * w, kernel=(3, 3, 3), stride=(1, 2, 2)),  # (B, 2w, T, H/4, W/4)
            _stage(2 * w, 4 * w, kernel=(3, 3, 3), stride=(2, 2, 2)),  # (B, 4w, T/2, H/8, W/8)
            _stage(4 * w, 4 * w, kernel=(3, 3, 3), stride=(1, 2, 2)),  # (B, 4w, T/2, H/16, W/16)
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(4 * w, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, T, H, W), normalised -> logits (B, num_classes)."""
        return self.head(self.dropout(self.stages(x).mean(dim=(2, 3, 4))))


def _stage(
    inside: int, outside: int, *, kernel: tuple[int, int, int], stride: tuple[int, int, int]
) -> nn.Module:
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return nn.Sequential(
        nn.Conv3d(inside, outside, kernel, stride=stride, padding=padding, bias=False),
        nn.BatchNorm3d(outside),
        nn.ReLU(inplace=True),
    )
