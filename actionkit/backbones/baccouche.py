"""The small 3-D network that came before an LSTM."""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

from actionkit.contracts import Backbone, Features, Shape
from actionkit.layers.steps import over

LENGTH = 9  # frames that a step of the result has seen
LEAST = 26  # rows or columns that leave one


class Baccouche(Backbone):
    """3-D convolutions over 9 frames at a time: x [B, T, C, H, W] to maps [B, T - 8, 5, h, w].

    Baccouche et al. 2011, *Sequential Deep Learning for Human Action Recognition*, up to the layer
    whose 5 x 3 x 8 = 120 values of 9 gray frames of 34x54 they hand to an LSTM; `flatten` lays them
    into a vector. Convolutions without padding, of kernels time x rows x columns: 5x7x7 to 7 maps,
    3x5x5 to 35, five from each of the 7, 3x3x3 to 5. Behind the first two stand the absolute value
    and the mean of 2x2 pixels; gains of that mean would be gains of the next convolution, so there
    are none. 1722, 2660 and 4730 parameters for gray frames; other numbers of channels go in too.

    Step t of the result has seen the frames t to t + 8, so a longer clip gives what windows of 9
    give that go on by one frame, at less work; for other windows it is a part of `windows`. A step
    is real if all its frames are, and 0 else: let the sampler loop or clamp videos that are short.

    Args:
        inp: at least 9 frames of at least 26x26; None for height or width where they vary.

    Raises:
        ValueError: fewer or smaller frames.
    """

    def __init__(self, inp: Shape) -> None:
        super().__init__()
        if inp.steps is not None and inp.steps < LENGTH:
            raise ValueError(
                f"looks at {LENGTH} frames at a time, but gets {inp.steps}; sample {LENGTH} or more"
            )
        if min(inp.height or LEAST, inp.width or LEAST) < LEAST:
            raise ValueError(
                f"takes frames of {LEAST}x{LEAST} or larger, as 34x54, but gets "
                f"{inp.height or '?'}x{inp.width or '?'}; resize them"
            )
        self.conv1 = nn.Conv3d(inp.require_channels(), 7, (5, 7, 7))
        self.conv2 = nn.Conv3d(7, 35, (3, 5, 5), groups=7)
        self.conv3 = nn.Conv3d(35, 5, 3)
        steps = None if inp.steps is None else inp.steps - LENGTH + 1
        self.out = Shape(steps, 5, _left(inp.height), _left(inp.width))

    def forward(self, features: Features) -> Features:
        """Maps every 9 neighbouring frames to maps."""
        frames = features.x.shape[1]
        beyond = max(0, LENGTH - frames)  # where T varies, a shorter clip has one step, of padding
        x = features.x.masked_fill(~over(features.mask), 0).transpose(1, 2)
        mask = F.pad(features.mask, (0, beyond)).unfold(1, LENGTH, 1).all(2)
        x = F.pad(x, (0, 0, 0, 0, 0, beyond))  # [B, C, T, H, W]
        for conv in (self.conv1, self.conv2):
            x = F.avg_pool3d(conv(x).abs(), (1, 2, 2))
        x = self.conv3(x).transpose(1, 2)
        return features._replace(x=x.masked_fill(~over(mask), 0), mask=mask)


def _left(size: int | None) -> int | None:
    """Rows or columns that leave of those that come."""
    return None if size is None else ((size - 6) // 2 - 4) // 2 - 2
