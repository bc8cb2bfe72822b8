"""Windows over time: short runs of steps, each looked at on its own."""

from __future__ import annotations

import torch
from torch import Tensor

from actionkit.contracts import Aggregator, Features, Make, Part, Shape


class Windows(Aggregator):
    """Runs a part on windows of steps: x [B, T, C, H, W] to [B, N T', C', H', W'].

    The steps are cut into N windows of `length`, one every `stride`; the part sees them as clips of
    `length` steps, [B N, length, C, H, W], and what it leaves, T' steps of each, is laid along
    time. The last window may end in padding. A window counts only if it has a real step that no
    window before it has, so a clip has as many however much padding is behind it. Boxes go in;
    penalties of the part are added, its attention, log_prob and extra leave.

    With a 3-D network as the part and `lstm` behind it, this is Baccouche et al. 2011; with `max`,
    the first stage of slow and local pooling (arXiv:1503.08909).

    Args:
        inp: vectors or maps.
        length: steps of a window.
        stride: from the start of a window to that of the next; None = length, so that they touch.
        part: one part, or several one behind the other.

    Raises:
        ValueError: a length or stride below 1; when run, log_prob from here and from before.
    """

    def __init__(
        self, inp: Shape, *, length: int, part: Make[Part], stride: int | None = None
    ) -> None:
        super().__init__()
        self.length, self.stride = length, length if stride is None else stride
        require_window(self.length, self.stride)
        self.part = part(inp._replace(steps=length))
        each, windows = self.part.out.steps, None
        if inp.steps is not None:
            windows = count(inp.steps, self.length, self.stride)
        steps = None if each is None or windows is None else windows * each
        self.out = self.part.out._replace(steps=steps)

    def forward(self, features: Features) -> Features:
        """Runs the part on all windows at once."""
        batch = len(features.x)
        mask = cut(features.mask, self.length, self.stride)
        mask = mask & fresh(mask, self.stride)[..., None]
        x = cut(features.x, self.length, self.stride)
        boxes = None
        if features.boxes is not None:
            boxes = cut(features.boxes, self.length, self.stride).flatten(0, 1)
        inner = self.part(Features(x.flatten(0, 1), mask.flatten(0, 1), boxes=boxes))

        def lay(tensor: Tensor) -> Tensor:  # [B N, T', ...] to [B, N T', ...]
            return tensor.unflatten(0, (batch, -1)).flatten(1, 2)

        return _with_others(features, inner, batch)._replace(x=lay(inner.x), mask=lay(inner.mask))


def require_window(length: int, stride: int) -> None:
    """Raises ValueError for windows that cannot be."""
    if length < 1 or stride < 1:
        raise ValueError(f"takes a length and a stride of 1 or more, but got {length} and {stride}")


def count(steps: int, length: int, stride: int) -> int:
    """Windows that it takes to see all steps, as far as a stride beyond `length` lets them."""
    return 1 + max(0, -((max(length, stride) - steps) // stride))


def fill(x: Tensor, length: int, stride: int) -> Tensor:
    """Lets x [B, T, ...] end where the last window does: zeros, or False, behind its own end."""
    steps = x.shape[1]
    needed = (count(steps, length, stride) - 1) * stride + length
    if needed > steps:
        x = torch.cat([x, x.new_zeros(len(x), needed - steps, *x.shape[2:])], 1)
    return x[:, :needed]


def cut(x: Tensor, length: int, stride: int) -> Tensor:
    """Windows [B, N, length, ...] of x [B, T, ...]; zeros, or False, stand behind its end."""
    return fill(x, length, stride).unfold(1, length, stride).movedim(-1, 2)


def fresh(mask: Tensor, stride: int) -> Tensor:
    """[B, N]: the windows, of mask [B, N, length], with a real step that none before them has."""
    shared = max(0, mask.shape[2] - stride)
    return torch.cat([mask[:, :1].any(2), mask[:, 1:, shared:].any(2)], 1)


def _with_others(features: Features, inner: Features, batch: int) -> Features:
    """All fields beside x and mask, those of the part joined to those that came."""

    def windows_first(tensor: Tensor) -> Tensor:  # [B N, ...] to [B, N, ...]
        return tensor.unflatten(0, (batch, -1)) if tensor.ndim else tensor

    if inner.attention is not None:
        features = features._replace(attention=windows_first(inner.attention).flatten(1, 2))
    if inner.penalty is not None:
        before = 0 if features.penalty is None else features.penalty
        features = features._replace(penalty=before + inner.penalty)
    if inner.log_prob is not None:
        if features.log_prob is not None:
            raise ValueError("has choices inside its windows and before them; keep one of the two")
        features = features._replace(log_prob=windows_first(inner.log_prob).flatten(1, 2))
    if inner.extra:
        own = {name: windows_first(tensor) for name, tensor in inner.extra.items()}
        features = features._replace(extra={**(features.extra or {}), **own})
    return features
