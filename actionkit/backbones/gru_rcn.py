"""GRU-RCN: a convolutional GRU on each of several levels of a CNN."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionkit.backbones.levels import Levels
from actionkit.contracts import Features, Joint, Shape
from actionkit.layers.convgru import ConvGRULayer, backwards


class GRURCN(Joint):
    """GRU-RCN: a convolutional GRU on each of several levels of a CNN, each a stream of its own.

    Ballas et al. 2016 (arXiv:1511.06432). Takes one stream of frames x [B, T, C, H, W] and gives
    streams `level1`, `level2`, ...: the state of each level's GRU behind the last real step,
    [B, 1, hidden, h, w]. Each has a spatial_pool, a head and a loss of its own; `average` of
    probabilities fuses them. A GRU has 3 k^2 (C + h) h parameters for C channels in, h hidden and a
    kernel of k x k, no biases; on a level of 1x1 k is 1, which makes it a fully connected one.
    Padded steps, wherever they stand, leave the states as they are; every clip starts from 0.
    Penalties and log-probabilities from before go on with `level1` alone, so they count once.

    The paper has VGG-16, the maps behind its pools 2 to 5 and fc7: arch vgg16, levels [1, 2, 3, 4],
    pool 2, vector true, hidden [64, 128, 256, 256, 512].

    Args:
        inp: frames, of one stream.
        arch: a name of `timm.list_models()`; frames are read as by `timm`.
        levels: depths in timm's own count, 0 = the first, in that order; None = all.
        vector: whether the vector that the classifier would get is one more level, the last.
        pool: side and stride of a max pooling of the CNN's maps; 1 = none.
        hidden: channels of each state: a number for every level, or one for all.
        kernel: rows and columns of the convolutions of maps and states, odd.
        stacked: each GRU also reads the states of the level below, max-pooled to its size.
        bidirectional: other GRUs read each clip from its last real step to its first; the channels
            of their last states stand behind those of the first ones.
        pretrained: start from timm's weights, which are downloaded once (not on the meta device).
        grad_checkpointing: compute the CNN's activations again for the gradients, as in `timm`.

    Raises:
        ValueError: several streams, as `timm`, levels that the network lacks, or a number of hidden
            that is not that of the levels.
    """

    def __init__(
        self,
        inp: dict[str, Shape],
        *,
        arch: str,
        levels: list[int] | None = None,
        vector: bool = False,
        pool: int = 1,
        hidden: list[int] | int = 64,
        kernel: int = 3,
        stacked: bool = False,
        bidirectional: bool = False,
        pretrained: bool = False,
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if len(inp) != 1:
            raise ValueError(
                f"takes one stream of frames, but gets {len(inp)}, {_written(inp)}; "
                "give each stream a model of its own, and fuse their scores"
            )
        self.levels = Levels(
            *inp.values(),
            arch=arch,
            levels=levels,
            vector=vector,
            pool=pool,
            pretrained=pretrained,
            grad_checkpointing=grad_checkpointing,
        )
        shapes = self.levels.out
        widths = [hidden] * len(shapes) if isinstance(hidden, int) else hidden
        if len(widths) != len(shapes):
            raise ValueError(
                f"has {len(shapes)} levels, but {len(widths)} numbers of hidden channels; "
                "write one for each level, or one for all"
            )
        self.stacked = stacked
        ways = 2 if bidirectional else 1
        self.ways = nn.ModuleList(_grus(shapes, widths, kernel, stacked) for _ in range(ways))
        self.out = {
            f"level{number}": shape._replace(steps=1, channels=ways * width)
            for number, (shape, width) in enumerate(zip(shapes, widths, strict=True), 1)
        }

    def forward(self, inputs: dict[str, Features]) -> dict[str, Features]:
        """Frames [B, T, C, H, W] to each level's last states, 0 where a clip has no real step."""
        (features,) = inputs.values()
        levels = self.levels(features)
        read = [levels]
        if len(self.ways) > 1:
            read.append([backwards(level) for level in levels])
        ends = [self._ends(*way) for way in zip(self.ways, read, strict=True)]  # type: ignore[arg-type]
        some = features.mask.any(1, keepdim=True)
        results = {}
        for name, states in zip(self.out, zip(*ends, strict=True), strict=True):
            results[name] = features._replace(x=torch.cat(states, 1)[:, None], mask=some)
            features = features._replace(penalty=None, log_prob=None)
        return results

    def stages(self) -> list[nn.Module]:
        """The CNN's stages, then the GRUs."""
        return [*self.levels.stages(), self.ways]

    def _ends(self, grus: Iterable[nn.Module], levels: list[Features]) -> list[Tensor]:
        """The last state of each level [B, hidden, h, w], level by level over all steps."""
        ends: list[Tensor] = []
        states: Tensor | None = None
        for gru, features in zip(grus, levels, strict=True):
            if self.stacked and states is not None:
                features = _above(states, features)
            states, (end,) = gru(features, gru.fresh(features.x))  # type: ignore[operator]
            ends.append(end.to(features.x.dtype))
        return ends


def _grus(shapes: list[Shape], widths: list[int], kernel: int, stacked: bool) -> nn.ModuleList:
    """A layer for each level; a level of one place has nothing but the kernel's centre to read."""
    below = [0, *widths[:-1]] if stacked else [0] * len(widths)
    return nn.ModuleList(
        ConvGRULayer(
            shape.require_channels() + lower,
            width,
            1 if shape.height == shape.width == 1 else kernel,
        )
        for shape, lower, width in zip(shapes, below, widths, strict=True)
    )


def _above(states: Tensor, features: Features) -> Features:
    """The maps of a level with the pooled states of the level below behind their channels.

    One convolution of both is the sum of the paper's two.
    """
    pooled = F.adaptive_max_pool2d(states.flatten(0, 1), features.x.shape[3:])
    pooled = pooled.unflatten(0, features.mask.shape)
    return features._replace(x=torch.cat([features.x, pooled], 2))


def _written(inp: dict[str, Shape]) -> str:
    sizes = ("x".join(str(n or "?") for n in shape) for shape in inp.values())
    return " and ".join(f"'{name}' of {size}" for name, size in zip(inp, sizes, strict=True))
