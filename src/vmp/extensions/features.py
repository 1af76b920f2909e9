"""Prompts inside the network: the paper's function on differences of a stage's feature maps X, (B, C, T, H, W).

    D_t = sqrt(mean over c of (X_{t+1,c} - X_{t,c})^2 / (2 s_c)^2),    A_t = f(D_t),    Z_{t+1} = A_t X_{t+1},

with s_c the standard deviation of channel c over the clip: two unrelated maps have D near 0.7, a still one has 0,
whatever the channels' scales. One slope and shift serve all channels, and V is that of A (Eq. 6). The first map has no
earlier one and takes the attention of the second, so that a stage keeps its number of maps. Unlike frames the maps are
learned, and the loss and V reach them through A. Maps differ without motion where
a network pads time with zeros (at a clip's ends) or adds embeddings of time.

A transformer's maps are its patch tokens; the class token passes as it is.
"""

from typing import Any

import torch
from torch import Tensor, nn

from vmp.errors import ConfigError
from vmp.layer import Prompted, temporal_attention_variation
from vmp.power_norm import LearnedPowerNorm

_ROOT = 1e-6  # under the square root, whose slope at 0 is infinite


class FeaturePrompt(LearnedPowerNorm):
    """Args:
    variation: "mean" or "frobenius", as of `MotionPrompt`.
    options: those of `LearnedPowerNorm`.
    """

    def __init__(self, *, variation: str = "mean", **options: Any) -> None:
        super().__init__(**options)
        self.variation = variation

    def forward(self, maps: Tensor, *, variation: bool = True) -> Prompted:  # type: ignore[override]
        """(B, C, T, H, W), T >= 2 -> the same shape and type, and V."""
        a = self.attention(maps)
        whole = torch.cat([a[:, :1], a], dim=1).unsqueeze(1)  # (B, 1, T, H, W)
        v = temporal_attention_variation(a, reduction=self.variation) if variation else a.new_zeros(())
        return Prompted(maps * whole.to(maps.dtype), v)

    def attention(self, maps: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, T - 1, H, W) in [0, 1], in float32 at least."""
        if maps.dim() != 5 or maps.shape[2] < 2:
            raise ValueError(
                f"feature maps of shape {tuple(maps.shape)}: must be (batch, channels, T, H, W) with T at least 2"
            )
        x = maps if maps.dtype == torch.float64 else maps.float()
        spread = x.var(dim=(2, 3, 4), unbiased=False, keepdim=True)  # s_c^2, (B, C, 1, 1, 1)
        change = (x[:, :, 1:] - x[:, :, :-1]).square() / (4 * spread + _ROOT)
        return super().forward((change.mean(dim=1) + _ROOT).sqrt())

    def tokens(self, tokens: Tensor, frames: int, *, variation: bool = True) -> Prompted:
        """A transformer's tokens (B, 1 + N T, D), patch by patch its T frames -> the same, and V."""
        patches = tokens[:, 1:].unflatten(1, (-1, frames))  # (B, N, T, D)
        out, v = self(patches.permute(0, 3, 2, 1)[..., None], variation=variation)  # (B, D, T, N, 1)
        return Prompted(torch.cat([tokens[:, :1], out[..., 0].permute(0, 3, 2, 1).flatten(1, 2)], dim=1), v)


def find_stage(backbone: nn.Module, at: str) -> nn.Module:
    """The part of a backbone that a stage's name means: `res2`, or a dotted name such as `blocks.3`.

    Raises:
        ConfigError: it has no such part.
    """
    named = dict(backbone.named_modules())
    name = aliases(backbone).get(at, at)
    if not name or name not in named:
        raise ConfigError(
            f"vmp.at = {at}: the backbone has no such stage; it has {', '.join(stage_names(backbone))}"
        )
    return named[name]


def stage_names(backbone: nn.Module) -> list[str]:
    """What `find_stage` knows, at the level of stages: aliases, then parts in order, those of lists one by one."""
    found = list(aliases(backbone))
    for name, child in backbone.named_children():
        listed = isinstance(child, nn.ModuleList | nn.Sequential)
        found += [f"{name}.{inner}" for inner, _ in child.named_children()] if listed else []
        found += [] if isinstance(child, nn.ModuleList) else [name]
    return found


def aliases(backbone: nn.Module) -> dict[str, str]:
    """The names that papers give to the stages of a ResNet: res2 -> blocks.1, ..."""
    return getattr(backbone, "aliases", {})
