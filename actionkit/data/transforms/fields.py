"""From frames to fields of optical flow: what every maker of flow shares."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from actionkit.contracts import Clip, Shape, Transform
from actionkit.data.transforms.kinds import quantize_flow


class FlowMaker(Transform):
    """Adds the modality `name`: the optical flow within snippets of `length` + 1 frames.

    The steps of `source` [B, V, K * (length + 1), 3 or 1, H, W] uint8 are K snippets of successive
    frames, as the sampler `segments` gives them. Every snippet has `length` fields, each from one
    frame to a neighbour of it; they come as [B, V, K * length, 2, H, W] uint8, channels dx, dy,
    clipped to `bound` pixels and stored as `quantize_flow` says. A field is real if both its frames
    are, has the time of the one it starts at, and is in pixels of the frames as they come here: put
    crop_resize before it.

    `direction` says which fields. `forward`: from every frame but the last to the next one.
    `bidirectional`: all lead away from the middle frame (number length / 2); first its half of
    forward fields, then as many backward ones (arXiv:1406.2199).

    `keep` says what becomes of the source. One frame a snippet is kept where a frame and its stack
    of flow are one step: its `first`, or the `middle` one (number length // 2), around which a
    stack of forward fields then lies (the centred stack of arXiv:1604.06573), and from which
    bidirectional ones start. Where a frame and a single field are one step it is those at which a
    field `starts`. Or `all` are.
    """

    least: ClassVar[int]  # pixels; the smallest side of a frame it takes
    at_once: ClassVar[int] = 256  # most pairs in one go on a device, of which fewer fill it too

    def __init__(
        self, *, length: int, bound: float, direction: str, keep: str, source: str, name: str
    ) -> None:
        if length < 1:
            raise ValueError(f"takes a length of at least 1, but gets {length}")
        if bound <= 0:
            raise ValueError(f"takes a bound above 0 pixels, but gets {bound}")
        if direction == "bidirectional" and length % 2:
            raise ValueError(
                f"takes an even length where it is bidirectional, but gets {length}; half of the "
                "fields are forward, half backward"
            )
        self.length, self.bound, self.source, self.name = length, bound, source, name
        middle = length // 2
        frames = list(range(length + 1))
        ways = {  # frames in the order in which fields lead from one to the next
            "forward": [frames],
            "bidirectional": [frames[middle:], frames[middle::-1]],
        }[direction]
        self.starts = [frame for way in ways for frame in way[:-1]]  # of each field
        self.ends = [frame for way in ways for frame in way[1:]]
        self.kept = {
            "first": [0],
            "middle": [middle],
            "starts": self.starts,
            "all": frames,
        }[keep]

    def out(self, shapes: dict[str, Shape]) -> dict[str, Shape]:
        """Adds the flow and leaves the kept steps of its source.

        Raises ValueError if the source is not there, its steps are no whole snippets, its frames
        are no pictures or too small, or the flow's name is taken.
        """
        inp = find(shapes, self.source)
        if self.name in shapes:
            raise ValueError(f"adds {self.name!r}, which is there already; give it another name")
        if inp.channels not in (1, 3, None):
            raise ValueError(
                f"takes frames of 1 or 3 channels, but {self.source!r} has {inp.channels}; put it "
                "before what stacks them"
            )
        if min(inp.height or self.least, inp.width or self.least) < self.least:
            raise ValueError(
                f"takes frames of at least {self.least}x{self.least} pixels, but gets "
                f"{inp.height or '?'}x{inp.width or '?'}; give crop_resize a larger size"
            )
        if inp.steps is None:
            return {**shapes, self.name: inp._replace(channels=2)}
        size = self.length + 1
        if inp.steps % size:
            raise ValueError(
                f"takes snippets of {size} frames (length + 1), but gets {inp.steps} steps; set "
                f"the sampler's length to {size}"
            )
        snippets = inp.steps // size
        return {
            **shapes,
            self.source: inp._replace(steps=snippets * len(self.kept)),
            self.name: inp._replace(steps=snippets * self.length, channels=2),
        }

    def apply(self, clips: dict[str, Clip], draws: list[dict[str, Any]]) -> dict[str, Clip]:
        """Computes the flow of every snippet; nothing is random. Raises ValueError for floats."""
        x, mask, times, kind = clips[self.source]
        if x.dtype != torch.uint8:
            raise ValueError(
                f"takes frames as uint8, but {self.source!r} is {x.dtype} here; put it before "
                "what makes them float (normalize)"
            )
        x, mask, times = (t.unflatten(2, (-1, self.length + 1)) for t in (x, mask, times))
        real = _steps(mask, self.starts) & _steps(mask, self.ends)  # [B, V, K, length]
        flow = Clip(
            self.fields(x, real).flatten(2, 3),
            real.flatten(2),
            _steps(times, self.starts).masked_fill(~real, torch.nan).flatten(2),
            "flow",
        )
        x, mask, times = (_steps(t, self.kept).flatten(2, 3) for t in (x, mask, times))
        return {**clips, self.source: Clip(x, mask, times, kind), self.name: flow}

    @abstractmethod
    def fields(self, snippets: Tensor, real: Tensor) -> Tensor:
        """The stored fields of snippets, zeros where a field is not real.

        snippets [B, V, K, length + 1, C, H, W] uint8, real [B, V, K, length] bool; the answer is
        [B, V, K, length, 2, H, W] uint8, field i from frame `starts[i]` to frame `ends[i]`.
        """

    def fields_of_pairs(
        self, snippets: Tensor, real: Tensor, estimate: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """What `fields` gives, from many pairs at once, on the device where the snippets lie.

        `estimate` maps pairs of frames, [N, C, H, W] uint8 each, to the flow [N, 2, H, W] in pixels
        from the first to the second. It runs in float32 without gradients, whatever precision the
        network trains in.
        """
        fields = snippets.new_zeros(*real.shape, 2, *snippets.shape[-2:])
        pairs = [_steps(snippets, which)[real] for which in (self.starts, self.ends)]
        parts = [x.split(self.at_once) for x in (*pairs, real.nonzero())]
        with torch.no_grad(), torch.autocast(snippets.device.type, enabled=False):
            for first, second, place in zip(*parts, strict=True):
                if len(place):
                    fields[place.unbind(1)] = quantize_flow(estimate(first, second), self.bound)
        return fields


def _steps(x: Tensor, which: list[int]) -> Tensor:
    """Some steps of each snippet, x [B, V, K, length + 1, ...]; a view where they are in a row."""
    first, count = which[0], len(which)
    if which == list(range(first, first + count)):
        return x.narrow(3, first, count)
    return x[:, :, :, which]


def find(shapes: dict[str, Shape], name: str) -> Shape:
    """The shape of a modality. Raises ValueError, naming those there are."""
    if name not in shapes:
        there = ", ".join(map(repr, shapes)) or "nothing"
        raise ValueError(f"takes the modality {name!r}, but there is {there}; name one that is")
    return shapes[name]


def sample(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Images [N, C, H, W] at the points x, y [N, H', W'] in pixels: [N, C, H', W'].

    Bilinear; a point outside has the value of the nearest one on the border. The centre of the
    first pixel is 0, 0.
    """
    height, width = images.shape[-2:]
    grid = torch.stack(  # as grid_sample counts: -1 and 1 are the picture's edges
        (x * (2 / width) + (1 / width - 1), y * (2 / height) + (1 / height - 1)), -1
    )
    return functional.grid_sample(
        images, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
