"""Self-attention over the steps of a clip."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from actionkit.aggregators.attention_pool import AttentionPool, require_heads
from actionkit.aggregators.pooling import Mean
from actionkit.contracts import Aggregator, Features, Shape
from actionkit.layers.steps import rank

POOLS = {"mean": Mean, "attention": AttentionPool}


class Encoder(Aggregator):
    """Transformer encoder over steps: x [B, T, C, 1, 1] to [B, 1 or T, width, 1, 1].

    Pre-norm layers (arXiv:1706.03762, 2002.04745) of self-attention and a two-layer network with
    GELU, then a layer normalisation; 12 D^2 + 13 D parameters a layer of width D with expansion 4.
    No real step looks at a padded one, and positions count real steps only. The layers are torch's.

    Args:
        inp: one vector per step.
        layers: layers on top of each other.
        heads: parts of the channels, each with attention of its own.
        width: D; a linear layer leads to it. None = the channels that come, without that layer.
        expansion: inner width of the two-layer network, as a multiple of D.
        dropout: rate on positions added, attention, and what each half of a layer adds.
        positions: `sinusoidal`, a learned table for `longest` steps, or `none`: then the order of
            the steps is of no account.
        longest: steps of the learned table.
        pool: what makes one step of all: a learned `class` token before the first step, the `mean`
            or `attention_pool` of the real steps; `none` keeps them.

    Raises:
        ValueError: maps instead of vectors, a width that heads do not divide, an odd one with
            sinusoidal positions, or more steps than the learned table has.
    """

    def __init__(
        self,
        inp: Shape,
        *,
        layers: int = 2,
        heads: int = 4,
        width: int | None = None,
        expansion: int = 4,
        dropout: float = 0.1,
        positions: Literal["sinusoidal", "learned", "none"] = "sinusoidal",
        longest: int = 512,
        pool: Literal["mean", "class", "attention", "none"] = "mean",
    ) -> None:
        super().__init__()
        channels = inp.require_vectors()
        size = channels if width is None else width
        require_heads(size, heads)
        self.project = nn.Identity() if width is None else nn.Linear(channels, size)
        self.positions = _positions(positions, size, longest, inp.steps)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                size,
                heads,
                expansion * size,
                dropout,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(size)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, size)) if pool == "class" else None
        whole = inp._replace(channels=size)
        self.pool = POOLS[pool](whole) if pool in POOLS else None
        self.out = whole if pool == "none" else whole._replace(steps=1)

    def forward(self, features: Features) -> Features:
        """Encodes the real steps, and pools them."""
        mask = features.mask
        x = self.project(features.x.flatten(2).masked_fill(~mask[..., None], 0))  # [B, T, D]
        if self.positions is not None:
            x = x + self.positions(rank(mask)).to(x.dtype)
        x, seen = self.dropout(x), mask
        if self.token is not None:
            x = torch.cat([self.token.to(x.dtype).expand(len(x), -1, -1), x], 1)
            seen = torch.cat([torch.ones_like(mask[:, :1]), mask], 1)
        hidden = ~seen & seen.any(1, keepdim=True)  # a softmax over nothing would be NaN
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=hidden)
        x = self.norm(x)
        if self.token is not None:
            x, mask = x[:, :1], mask.any(1, keepdim=True)
        x = x.masked_fill(~mask[..., None], 0)[..., None, None]
        encoded = features._replace(x=x, mask=mask)
        return encoded if self.pool is None else self.pool(encoded)


def _positions(kind: str, size: int, longest: int, steps: int | None) -> nn.Module | None:
    if kind == "none":
        return None
    if kind == "learned":
        return Learned(size, longest, steps)
    return Sinusoidal(size)


class Sinusoidal(nn.Module):
    """sin(p / 10000^(2i/D)) in the even channels 2i, and cos in the odd ones behind them."""

    def __init__(self, size: int) -> None:
        super().__init__()
        if size % 2:
            raise ValueError(
                f"takes an even width with sinusoidal positions, but got {size}; set positions to "
                "learned, or another width"
            )
        self.size = size

    def forward(self, places: Tensor) -> Tensor:
        """[B, T, D] float32 of places [B, T] int64."""
        i = torch.arange(0, self.size, 2, device=places.device)
        angles = places[..., None] / 10000 ** (i / self.size)  # [B, T, D / 2]
        return torch.stack([angles.sin(), angles.cos()], 3).flatten(2)


class Learned(nn.Module):
    """A table of one vector for each place."""

    def __init__(self, size: int, longest: int, steps: int | None) -> None:
        super().__init__()
        self.table = nn.Embedding(longest, size)
        self.require(steps or 1)
        nn.init.normal_(self.table.weight, std=0.02)

    def require(self, steps: int) -> None:
        """Raises ValueError for more steps than the table has."""
        longest = self.table.num_embeddings
        if steps > longest:
            raise ValueError(
                f"knows {longest} places, but gets {steps} steps; set longest to {steps} or more"
            )

    def forward(self, places: Tensor) -> Tensor:
        """[B, T, D] of places [B, T] int64. Raises ValueError for too many."""
        self.require(places.shape[1])
        return self.table(places)
