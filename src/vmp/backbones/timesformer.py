"""TimeSformer: a vision transformer whose blocks attend over time and over space (Bertasius et al. 2021).

Notes:
- divided attention: in each block a patch first looks at the same place in the other frames, then at the other
  places of its own frame; "joint" looks at everything at once, "space" at its own frame only;
- parameters have the names of the published checkpoints, so those load by stripping a prefix;
- the temporal branch ends in a Linear that starts at zero: a new model computes what the image model would.
  `init="scratch"` is for narrow networks without image weights, which hardly learn from there (docs/backbones.md);
- other clip lengths and sizes than the built ones are fine: embeddings are resized to the nearest.

Shapes: B clips, T frames, N patches of a frame, D features, h heads. Tokens are (B, 1 + N T, D): the class token,
then patch by patch its T frames.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmp.choices import AttentionKind, TransformerInit, check_choice

SDPA_BATCH = 65535  # more sequences than this in one call fail in the fused CUDA kernels


class TimeSformer(nn.Module):
    """Args:
    frames, crop: T and pixels a side that the embeddings are made for.
    patch: pixels a side of a patch.
    attention: "divided", "joint" or "space".
    dropout: before the last layer; the published recipes use none.
    drop_path: probability that the last block's branches are dropped for a sequence in training; rises from 0.
    init: "image": weights with a standard deviation of 0.02, no difference between frames. "scratch":
        weights with one of 1 / sqrt(dim), and embeddings of place and time that count beside the patches.
    """

    head_name = "head"

    def __init__(
        self,
        *,
        num_classes: int,
        frames: int = 8,
        crop: int = 224,
        patch: int = 16,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        attention: str = "divided",
        dropout: float = 0.0,
        drop_path: float = 0.1,
        init: str = "image",
    ) -> None:
        super().__init__()
        for name, value, unit, of in (("crop", crop, "patch", patch), ("dim", dim, "heads", heads)):
            if value % of:
                raise ValueError(f"{name} = {value}: must be a multiple of {unit} = {of}")
        check_choice("attention", attention, AttentionKind)
        check_choice("init", init, TransformerInit)
        self.attention, self.patch = attention, patch
        self.patch_embed = nn.ModuleDict({"proj": PatchEmbedding(3, dim, patch, stride=patch)})
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + (crop // patch) ** 2, dim))
        if attention != "space":
            self.time_embed = nn.Parameter(torch.zeros(1, frames, dim))
        rates = [drop_path * i / max(1, depth - 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(dim, heads, attention == "divided", rate) for rate in rates)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(dim, num_classes)
        self._init(from_scratch=init == "scratch")

    def _init(self, from_scratch: bool) -> None:
        dim = self.cls_token.shape[2]
        std, of_embeddings = (dim**-0.5, 0.5) if from_scratch else (0.02, 0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=std)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.cls_token, std=of_embeddings)
        nn.init.trunc_normal_(self.pos_embed, std=of_embeddings)
        if from_scratch:
            if self.attention != "space":
                nn.init.trunc_normal_(self.time_embed, std=of_embeddings)
        elif self.attention == "divided":
            for block in self.blocks:
                nn.init.zeros_(block.temporal_fc.weight)  # type: ignore[arg-type, union-attr]

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, T, H, W), normalised, H and W multiples of the patch -> logits (B, classes)."""
        b, _, t, h, w = x.shape
        rows, columns = h // self.patch, w // self.patch
        x = self.patch_embed["proj"](x)  # (B, N, T, D)
        places = resize_positions(self.pos_embed, (rows, columns))  # (1, 1 + N, D)
        x = x + places[:, 1:, None]
        cls = (self.cls_token + places[:, :1]).to(x.dtype)
        if self.attention == "space":  # every frame is an image of its own
            x = torch.cat([cls.expand(b * t, -1, -1), x.transpose(1, 2).flatten(0, 1)], dim=1)
            for block in self.blocks:
                x = block(x, 1)
            x = x.unflatten(0, (b, t)).mean(dim=1)
        else:
            x = x + resize_time(self.time_embed, t)[:, None]
            x = torch.cat([cls.expand(b, -1, -1), x.flatten(1, 2)], dim=1)  # (B, 1 + N T, D)
            for block in self.blocks:
                x = block(x, t)
        return self.head(self.dropout(self.norm(x)[:, 0]))


class PatchEmbedding(nn.Conv2d):
    """A convolution whose windows do not overlap, as one matrix product: prompts need the gradient of its input, for
    which convolutions are slow."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, N, T, D), N patches row by row."""
        p = int(self.kernel_size[0])
        rows, columns = x.shape[3] // p, x.shape[4] // p
        cells = x[..., : rows * p, : columns * p].unflatten(4, (columns, p)).unflatten(3, (rows, p))
        cells = cells.permute(0, 3, 5, 2, 1, 4, 6).flatten(4)  # (B, rows, columns, T, 3 p p)
        return F.linear(cells, self.weight.flatten(1), self.bias).flatten(1, 2)


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, divided: bool, drop_path: float) -> None:
        super().__init__()
        self.divided = divided
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        if divided:
            self.temporal_norm1 = nn.LayerNorm(dim, eps=1e-6)
            self.temporal_attn = Attention(dim, heads)
            self.temporal_fc = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, 4 * dim), "fc2": nn.Linear(4 * dim, dim)})
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, t: int) -> Tensor:
        """(B, 1 + N T, D) -> the same; t: frames T."""
        if self.divided:
            b, n = x.shape[0], (x.shape[1] - 1) // t
            cls, patches = x[:, :1], x[:, 1:]
            over_time = patches.reshape(b * n, t, -1)  # a sequence a place
            over_time = self.drop_path(self.temporal_attn(self.temporal_norm1(over_time)))
            patches = patches + self.temporal_fc(over_time).view(b, n * t, -1)

            over_space = patches.view(b, n, t, -1).transpose(1, 2)  # (B, T, N, D): a sequence a frame
            over_space = torch.cat([cls[:, None].expand(-1, t, -1, -1), over_space], dim=2).flatten(0, 1)
            over_space = self.drop_path(self.attn(self.norm1(over_space))).unflatten(0, (b, t))
            cls = cls + over_space[:, :, 0].mean(dim=1, keepdim=True)  # one class token a frame: their mean
            patches = patches + over_space[:, :, 1:].transpose(1, 2).flatten(1, 2)
            x = torch.cat([cls, patches], dim=1)
        else:
            x = x + self.drop_path(self.attn(self.norm1(x)))
        inner = F.gelu(self.mlp["fc1"](self.norm2(x)))
        return x + self.drop_path(self.mlp["fc2"](inner))


class Attention(nn.Module):
    """Multi-head self-attention over sequences (S, L, D)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        # each (S, h, L, D / h)
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if torch.compiler.is_exporting() or len(x) <= SDPA_BATCH:  # in a graph, of any batch
            x = F.scaled_dot_product_attention(q, k, v)
        else:
            parts = zip(*(y.split(SDPA_BATCH) for y in (q, k, v)), strict=True)
            x = torch.cat([F.scaled_dot_product_attention(*part) for part in parts])
        return self.proj(x.transpose(1, 2).flatten(2))


class DropPath(nn.Module):
    """In training, zeroes whole rows of the first dimension with probability p and scales the others by 1 / (1 - p)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        kept = torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device) >= self.p
        return x * (kept / (1 - self.p)).to(x.dtype)


def resize_time(embed: Tensor, frames: int) -> Tensor:
    """Time embedding (1, T, D) for another number of frames, nearest neighbour."""
    if embed.shape[1] == frames:
        return embed
    return F.interpolate(embed.transpose(1, 2), size=frames, mode="nearest").transpose(1, 2)


def resize_positions(embed: Tensor, grid: tuple[int, int]) -> Tensor:
    """Position embedding (1, 1 + n n, D) for another grid (rows, columns), nearest neighbour; class token kept."""
    side = round((int(embed.shape[1]) - 1) ** 0.5)
    if grid == (side, side):
        return embed
    square = embed[:, 1:].transpose(1, 2).unflatten(2, (side, side))  # (1, D, n, n)
    resized = F.interpolate(square, size=grid, mode="nearest").flatten(2).transpose(1, 2)
    return torch.cat([embed[:, :1], resized], dim=1)
