"""Components as a plugin would bring them, registered by the fixture `plugin`."""

from __future__ import annotations

import torch
from torch import nn

from actionkit.contracts import Aggregator, Features, Joint, Make, Part, Shape
from actionkit.registry import Entry

ENTRIES = tuple(
    Entry(group, name, f"parts_for_tests:{target}", "their-dist", "1.0")
    for group, name, target in (
        ("backbones", "cross", "Cross"),
        ("aggregators", "within", "Within"),
        ("aggregators", "fails", "Fails"),
        ("aggregators", "no_part", "NoPart"),
        ("aggregators", "missing", "Missing"),
    )
)


class Cross(Joint):
    """Two backbones; the second also sees the first's maps. Gives a level for each."""

    def __init__(self, inp: dict[str, Shape], *, width: int = 4) -> None:
        super().__init__()
        self.names = list(inp)
        if len(self.names) != 2:
            raise ValueError(f"takes two streams, but gets {len(self.names)}")
        first, second = (shape.require_channels() for shape in inp.values())
        self.first = nn.Conv2d(first, width, 3, padding=1)
        self.second = nn.Conv2d(second + width, 2 * width, 3, padding=1)
        shape = inp[self.names[0]]
        self.out = {
            "low": shape._replace(channels=width),
            "high": shape._replace(channels=2 * width),
        }

    def forward(self, inputs: dict[str, Features]) -> dict[str, Features]:
        a, b = (inputs[name] for name in self.names)
        low = self.first(a.x.flatten(0, 1)).unflatten(0, a.mask.shape)
        high = self.second(torch.cat([b.x, low], 2).flatten(0, 1)).unflatten(0, b.mask.shape)
        return {"low": a._replace(x=low), "high": b._replace(x=high)}


class Within(Aggregator):
    """A part inside a part: its input is added where the shape stays."""

    def __init__(self, inp: Shape, *, part: Make[Part], other: Make[Part] | None = None) -> None:
        super().__init__()
        self.part = part(inp)
        self.other = other(self.part.out) if other else None
        self.out = self.other.out if self.other else self.part.out

    def forward(self, features: Features) -> Features:
        features = self.part(features)
        return self.other(features) if self.other else features


class Fails(Aggregator):
    """Its constructor raises what no constructor should."""

    def __init__(self, inp: Shape) -> None:
        raise RuntimeError("out of luck")

    def forward(self, features: Features) -> Features:
        return features


class NoPart:
    """Registered as an aggregator, which it is not."""

    def __init__(self, inp: Shape) -> None:
        self.out = inp
