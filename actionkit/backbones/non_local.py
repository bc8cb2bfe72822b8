"""Non-local blocks: every place of a clip looks at all others, in the middle of a 2-D network."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from actionkit.backbones.over_time import Clips, OverTime, Row, residual_rows
from actionkit.contracts import Shape


class NonLocal(OverTime):
    """Residual network of timm with non-local blocks: x [B, T, C, H, W] to maps [B, T, C', h, w].

    Behind some residual blocks each place takes in what all places of all real frames of its clip
    hold (arXiv:1711.07971). At the start the blocks change nothing, and the network's weights keep
    their names. The five of the paper's ResNet-50 have 7.4 million parameters.

    Args:
        inp: frames; None for height or width where the network takes any size.
        arch: a residual network of `timm.list_models()`.
        pretrained: start from timm's weights, which are downloaded once (not on the meta device).
        drop_path: rate of stochastic depth, for networks that have it (arXiv:1603.09382).
        grad_checkpointing: compute activations again for the gradients instead of keeping them.
        stages: which of the network's rows of residual blocks get non-local ones, from 1 on.
        every: behind each so many residual blocks of these stages.
        pool: look at the largest of each 2x2 places only, which is a quarter of the work.

    Raises:
        ValueError: unknown arch, one without such residual blocks, or weights that cannot be had.
    """

    def __init__(
        self,
        inp: Shape,
        *,
        arch: str,
        pretrained: bool = False,
        drop_path: float = 0.0,
        grad_checkpointing: bool = False,
        stages: tuple[int, ...] = (2, 3),
        every: int = 2,
        pool: bool = False,
    ) -> None:
        super().__init__(
            inp,
            arch=arch,
            pretrained=pretrained,
            drop_path=drop_path,
            grad_checkpointing=grad_checkpointing,
        )
        rows = [row for row in residual_rows(self.net, arch) if row.channels]
        if every < 1 or not {*stages} <= {*range(1, len(rows) + 1)}:
            raise ValueError(
                f"takes stages 1 to {len(rows)} of '{arch}' and every of at least 1, but got "
                f"stages {list(stages)} and every {every}; set them so"
            )
        longest = max((len(rows[stage - 1].blocks) for stage in stages), default=0)
        if longest < every:
            raise ValueError(
                f"looks for every {every}th residual block, but stages {list(stages)} of '{arch}' "
                f"have {longest} at most; set every to {longest or 1}, or choose other stages"
            )
        for stage in {*stages}:
            self.fill(rows[stage - 1], _with_blocks(rows[stage - 1], every, pool, self.clips))


def _with_blocks(row: Row, every: int, pool: bool, clips: Clips) -> dict[str, nn.Module]:
    """A row's modules under their names, and a non-local block behind every so many."""
    modules, last = {}, [*row.blocks][every - 1 :: every]
    for name, module in row.modules.items():
        modules[name] = module
        if name in last:
            modules[f"non_local_{name}"] = Block(row.channels or 1, clips, pool=pool)
    return modules


class Block(nn.Module):
    """Embedded Gaussian attention over a clip's places, z = x + BN(W y) with a scale from 0 on.

    y = softmax(theta(x) phi(x)^T / sqrt(C / 2)) g(x); the paper has no root, its code has. With
    biases 2 C^2 + 4.5 C parameters.
    """

    def __init__(self, channels: int, clips: Clips, *, pool: bool = False) -> None:
        super().__init__()
        width = max(1, channels // 2)
        self.clips = clips
        self.theta = nn.Conv2d(channels, width, 1)
        self.pool = nn.MaxPool2d(2, ceil_mode=True) if pool else nn.Identity()
        self.phi_g = nn.Conv2d(channels, 2 * width, 1)
        self.out = nn.Conv2d(width, channels, 1)
        self.norm = nn.BatchNorm2d(channels)
        for layer in (self.theta, self.phi_g, self.out):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Maps frames x [N, C, h, w], as `pack` lays them, to the same."""
        layout = self.clips.layout
        phi, g = self._places(self.phi_g(self.pool(x))).chunk(2, 3)  # [B, 1, T h' w', C / 2]
        hidden = None
        if layout.mask is not None:
            seen = layout.mask | ~layout.mask.any(1, keepdim=True)  # a softmax over nothing is NaN
            hidden = seen.repeat_interleave(phi.shape[2] // layout.steps, 1)[:, None, None]
        y = F.scaled_dot_product_attention(self._places(self.theta(x)), phi, g, attn_mask=hidden)
        y = layout.pack(y.squeeze(1).unflatten(1, (layout.steps, *x.shape[2:])))  # [N, h, w, C / 2]
        return x + self.norm(self.out(y.permute(0, 3, 1, 2)))

    def _places(self, x: Tensor) -> Tensor:
        """[B, 1, T h w, C] of x [N, C, h, w]: all places of a clip in a row, of one head."""
        return self.clips.layout.grid(x.permute(0, 2, 3, 1)).flatten(1, 3)[:, None]
