"""Divided space-time attention in a vision transformer."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from actionkit.backbones.over_time import Layout
from actionkit.backbones.timm import Timm, _grid
from actionkit.contracts import Features, Shape, pack, unpack
from actionkit.layers.steps import mean, over, rank


class TimeSformer(Timm):
    """Vision transformer of timm with divided attention: x [B, T, C, H, W] to maps, or one vector.

    In every block each patch first looks at its own place in all real frames of the clip, then at
    its own frame (arXiv:2102.05095). The class token is one of the clip: it stands in every frame,
    and what the frames make of it is averaged. Attention over time starts from the weights of that
    over space, behind it a linear layer from zeros, so that at the start frames do not know of each
    other but through the class token; also where `weights` has no attention over time. The
    transformer's weights keep their names.

    Args:
        inp: frames of a fixed size.
        arch: a vision transformer of `timm.list_models()`, such as vit_base_patch16_224.
        pretrained: start from timm's weights, which are downloaded once (not on the meta device).
        drop_path: rate of stochastic depth (arXiv:1603.09382).
        grad_checkpointing: compute activations again for the gradients instead of keeping them.
        tokens: what leaves, the `class` token as one vector a clip [B, 1, C', 1, 1], or the
            `patches` as maps [B, T, C', h, w], zeros at padded steps.
        longest: steps of the table of times, which counts real steps. None = the steps that come.

    Raises:
        ValueError: unknown arch or one that is no vision transformer of this kind, frames that do
            not fit it, more steps than the table has, or weights that cannot be had.
    """

    def __init__(
        self,
        inp: Shape,
        *,
        arch: str,
        pretrained: bool = False,
        drop_path: float = 0.0,
        grad_checkpointing: bool = False,
        tokens: Literal["class", "patches"] = "class",
        longest: int | None = None,
    ) -> None:
        super().__init__(inp, arch=arch, pretrained=pretrained, drop_path=drop_path)
        net: Any = self.net
        known = isinstance(net, VisionTransformer) and all(type(b) is Block for b in net.blocks)
        if not known or (tokens == "class" and net.cls_token is None):
            raise ValueError(
                f"needs a plain vision transformer with a {tokens} token, but '{arch}' is none; "
                "choose an arch such as vit_base_patch16_224"
            )
        self.longest = _longest(inp.steps, longest)
        self.again, self.tokens = grad_checkpointing, tokens
        self.time = nn.Parameter(torch.zeros(self.longest, net.embed_dim))
        self.divided = nn.ModuleList(TimeAttention(block) for block in net.blocks)
        self.register_load_state_dict_pre_hook(_time_from_space)
        if tokens == "class":
            self.out = Shape(1, self.out.channels, 1, 1)

    def forward(self, features: Features) -> Features:
        """Maps frames [B, T, C, H, W] to the class token or the patches' maps.

        Raises ValueError for more steps than the table of times has.
        """
        _require(features.mask.shape[1], self.longest)
        net: Any = self.net
        frames = pack(features).contiguous(memory_format=torch.channels_last)  # [N, C, H, W]
        layout = Layout.of(features)
        tokens = net.norm_pre(net.patch_drop(net._pos_embed(net.patch_embed(frames))))
        common, x = tokens.tensor_split((net.num_prefix_tokens,), 1)  # [N, P, D], [N, L, D]
        clip = _mean(common, layout)  # [B, P, D], of which there is one a clip
        x = x + layout.pack(self.time[rank(features.mask)])[:, None].to(x.dtype)
        for block, time in zip(net.blocks, self.divided, strict=True):
            if self.again and self.training and torch.is_grad_enabled():
                clip, x = checkpoint(time, block, clip, x, layout, use_reentrant=False)
            else:
                clip, x = time(block, clip, x, layout)
        if self.tokens == "patches":
            maps = net.norm(x).transpose(1, 2).unflatten(2, _grid(net, frames))
            return unpack(maps, features)
        mask = features.mask.any(1, keepdim=True)
        token = net.norm(clip[:, :1])[..., None, None]  # [B, 1, D, 1, 1]
        return features._replace(x=token.masked_fill(~over(mask), 0), mask=mask)

    def stages(self) -> list[nn.Module]:
        """The stem with the table of times, then each block with its attention over time."""
        stem, *others = super().stages()
        first = nn.ModuleList([stem, nn.ParameterList([self.time])])
        times = [*self.divided, *[nn.ModuleList()] * len(others)]  # behind the blocks is a norm
        return [first, *(nn.ModuleList(pair) for pair in zip(others, times, strict=False))]


class TimeAttention(nn.Module):
    """The attention over time of one block of a vision transformer, 5 D^2 + 7 D parameters."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm, self.attn = copy.deepcopy(block.norm1), copy.deepcopy(block.attn)
        self.fc = nn.Linear(block.attn.proj.out_features, block.attn.proj.out_features)
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, block: Any, clip: Tensor, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """The whole block: over time, then over space and the two-layer network of `block`.

        clip [B, P, D] are the tokens that a clip has once, x [N, L, D] the patches of its frames.
        """
        x = x + self.fc(block.drop_path1(self._over_time(x, layout)))
        copies = layout.pack(clip[:, None].expand(-1, layout.steps, -1, -1))  # [N, P, D]
        change = block.ls1(block.attn(block.norm1(torch.cat([copies, x], 1))))
        common, own = block.drop_path1(change).tensor_split((clip.shape[1],), 1)
        clip, x = clip + _mean(common, layout), x + own
        return _mlp(block, clip), _mlp(block, x)

    def _over_time(self, x: Tensor, layout: Layout) -> Tensor:
        """What each patch of x [N, L, D] sees at its place in the clip's real frames."""
        grid = layout.grid(self.norm(x)).transpose(1, 2)  # [B, L, T, D]
        seen = None
        if layout.mask is not None:
            seen = layout.mask | ~layout.mask.any(1, keepdim=True)  # a softmax over nothing is NaN
            seen = seen.repeat_interleave(x.shape[1], 0)[:, None, None]  # [B L, 1, 1, T]
        looked = self.attn(grid.flatten(0, 1), attn_mask=seen)
        return layout.pack(looked.unflatten(0, grid.shape[:2]).transpose(1, 2))


def _mlp(block: Any, x: Tensor) -> Tensor:
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


def _mean(x: Tensor, layout: Layout) -> Tensor:
    """[B, P, D], of x [N, P, D] over each clip's real frames; 0 where there is none."""
    grid = layout.grid(x)
    if layout.mask is None:
        return grid.mean(1)
    return mean(grid[..., None], layout.mask)[:, 0, ..., 0]


def _longest(steps: int | None, longest: int | None) -> int:
    """How many steps the table of times has. Raises ValueError for what it cannot hold."""
    if steps is None and longest is None:
        raise ValueError(
            "has a table with a row for each step, but their number varies here; set longest to "
            "the most there can be, or choose a sampler with a fixed number"
        )
    rows = steps if longest is None else longest
    _require(steps or 1, rows or 0)
    return rows or 0


def _require(steps: int, longest: int) -> None:
    if steps > longest:
        raise ValueError(
            f"knows {longest} times, but gets {steps} steps; set longest to {steps} or more"
        )


def _time_from_space(
    part: TimeSformer, state: dict[str, Tensor], prefix: str, *_others: object
) -> None:
    """Has weights of a plain vision transformer begin the attention over time, too."""
    for number, time in enumerate(part.divided):
        for own in time.state_dict():  # norm.weight, attn.qkv.weight and so on, fc aside
            space = f"{prefix}net.blocks.{number}.{own.replace('norm.', 'norm1.', 1)}"
            if space in state:
                state.setdefault(f"{prefix}divided.{number}.{own}", state[space])
