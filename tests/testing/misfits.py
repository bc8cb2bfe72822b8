"""Components that break one rule each; test_kit.py says which check must notice."""

import random
import time

import numpy as np
import torch
from torch import nn

from actionkit.contracts import (
    Aggregator,
    Features,
    Fusion,
    Head,
    Joint,
    Loss,
    Metric,
    Sampler,
    Shape,
    Transform,
)
from actionkit.data.datasets.folder import Folder
from actionkit.data.readers.pyav import PyAV


class Good(Aggregator):
    """Keeps to all rules: the others differ from it by one."""

    def __init__(self, inp: Shape, *, size: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(inp.require_vectors(), size)
        self.out = inp._replace(channels=size)

    def forward(self, features: Features) -> Features:
        x = features.x.flatten(2).masked_fill(~features.mask[..., None], 0)
        return features._replace(x=self.linear(x)[..., None, None])


class Asks(Good):
    """Does something else where nothing is padded."""

    def forward(self, features: Features) -> Features:
        result = super().forward(features)
        if bool(features.mask.all()):
            return result
        return result._replace(x=result.x * features.mask[..., None, None, None])


class InPlace(Good):
    """Works on its input."""

    def forward(self, features: Features) -> Features:
        with torch.no_grad():
            features.x.mul_(1.5)
        return super().forward(features)


class BatchNorm(Good):
    """Lets batch norm see padding."""

    def __init__(self, inp: Shape, *, size: int = 4) -> None:
        super().__init__(inp, size=size)
        self.norm = nn.BatchNorm1d(size)

    def forward(self, features: Features) -> Features:
        x = super().forward(features).x[..., 0, 0]  # [B, T, C]
        return features._replace(x=self.norm(x.flatten(0, 1)).view_as(x)[..., None, None])


class PlainMean(Aggregator):
    """Divides by all steps, real or not, but zeroes padding before."""

    def __init__(self, inp: Shape) -> None:
        super().__init__()
        self.out = inp._replace(steps=1)

    def forward(self, features: Features) -> Features:
        x = features.x.masked_fill(~features.mask[..., None, None, None], 0).mean(1, keepdim=True)
        return features._replace(x=x, mask=features.mask.any(1, keepdim=True))


class SeesPadding(Aggregator):
    """Adds up whatever stands at padded steps."""

    def __init__(self, inp: Shape) -> None:
        super().__init__()
        self.out = inp._replace(steps=1)

    def forward(self, features: Features) -> Features:
        mask = features.mask.any(1, keepdim=True)
        return features._replace(x=features.x.sum(1, keepdim=True), mask=mask)


class WrongMask(Good):
    """Says that every step is real."""

    def forward(self, features: Features) -> Features:
        results = super().forward(features)
        return results._replace(mask=torch.ones_like(features.mask))


class ByteMask(Good):
    """Hands on the mask as numbers of ones and zeros."""

    def forward(self, features: Features) -> Features:
        return super().forward(features)._replace(mask=features.mask.byte())


class ShapeLie(Good):
    """Promises one channel more than it gives."""

    def __init__(self, inp: Shape, *, size: int = 4) -> None:
        super().__init__(inp, size=size)
        self.out = inp._replace(channels=size + 1)


class NoMeta(Good):
    """Has a tensor that stays on the CPU."""

    def __init__(self, inp: Shape, *, size: int = 4) -> None:
        super().__init__(inp, size=size)
        self.register_buffer("scale", torch.from_numpy(np.ones(1, np.float32)))


class GlobalNoise(Good):
    """Draws noise in evaluation too."""

    def forward(self, features: Features) -> Features:
        results = super().forward(features)
        return results._replace(x=results.x + 1e-7 * torch.rand_like(results.x))


class Clock(Good):
    """Does not keep to the seed."""

    def __init__(self, inp: Shape, *, size: int = 4) -> None:
        super().__init__(inp, size=size)
        nn.init.constant_(self.linear.bias, time.perf_counter_ns() % 1e6 / 1e6)


class Detached(Good):
    """Gives its weights no gradient."""

    def forward(self, features: Features) -> Features:
        x = features.x.flatten(2).masked_fill(~features.mask[..., None], 0)
        frozen = x @ self.linear.weight.detach().mT + self.linear.bias
        return features._replace(x=frozen[..., None, None])


class NotANumber(Good):
    """Multiplies padding by zero, so NaN there reaches the weights' gradient."""

    def forward(self, features: Features) -> Features:
        x = self.linear(features.x.flatten(2)).masked_fill(~features.mask[..., None], 0)
        return features._replace(x=x[..., None, None])


class Hidden(Good):
    """Keeps what decides its result out of its state_dict."""

    def __init__(self, inp: Shape, *, size: int = 4) -> None:
        super().__init__(inp, size=size)
        self.register_buffer("scale", torch.rand(1), persistent=False)

    def forward(self, features: Features) -> Features:
        results = super().forward(features)
        return results._replace(x=results.x * (1 + self.scale))


class Lambda(Good):
    """Holds a lambda."""

    def __init__(self, inp: Shape, *, size: int = 4) -> None:
        super().__init__(inp, size=size)
        self.change = lambda x: x


class Halves(Good):
    """Is off by a quarter in half precision."""

    def forward(self, features: Features) -> Features:
        results = super().forward(features)
        half = results.x.dtype == torch.bfloat16
        return results._replace(x=results.x * (1.25 if half else 1.0))


class Neighbours(Good):
    """Mixes the clips of a batch by their place."""

    def forward(self, features: Features) -> Features:
        results = super().forward(features)
        place = torch.arange(len(features.x))[:, None, None, None, None]
        return results._replace(x=results.x * (1 + place))


class Forgetful(Good):
    """Makes new Features instead of replacing x."""

    def forward(self, features: Features) -> Features:
        return Features(super().forward(features).x, features.mask)


class Asserts(Aggregator):
    """Refuses maps, but not by a sentence."""

    def __init__(self, inp: Shape) -> None:
        super().__init__()
        assert (inp.height, inp.width) == (1, 1) or (inp.height, inp.width) != (4, 6)
        self.out = inp

    def forward(self, features: Features) -> Features:
        return features


class Shouts(Good):
    """Refuses without saying what came."""

    def __init__(self, inp: Shape, *, size: int = 4) -> None:
        if inp.height != 1:
            raise ValueError("wrong input")
        super().__init__(inp, size=size)


class TakesAll(Aggregator):
    """Is built for anything, and then fails."""

    def __init__(self, inp: Shape) -> None:
        super().__init__()
        self.fc = nn.Linear(inp.channels or 1, inp.channels or 1)
        self.out = inp

    def forward(self, features: Features) -> Features:
        x = features.x.masked_fill(~features.mask[..., None, None, None], 0)
        return features._replace(x=self.fc(x.movedim(2, -1)).movedim(-1, 2))


class Picky(Aggregator):
    """Takes no input of the kit's."""

    def __init__(self, inp: Shape) -> None:
        super().__init__()
        raise ValueError(f"takes 77 channels, but gets {inp.channels}")

    def forward(self, features: Features) -> Features:
        return features


class FixedLength(Good):
    """Wants to know the number of steps; as good as Good."""

    def __init__(self, inp: Shape, *, size: int = 4) -> None:
        if inp.steps is None:
            raise ValueError("needs a fixed number of steps, but it varies here")
        super().__init__(inp, size=size)


class Positions(FixedLength):
    """Has weights for every step, so nobody can lengthen it."""

    def __init__(self, inp: Shape, *, size: int = 4) -> None:
        super().__init__(inp, size=size)
        self.position = nn.Parameter(torch.zeros(inp.steps, size, 1, 1))

    def forward(self, features: Features) -> Features:
        results = super().forward(features)
        return results._replace(x=results.x + self.position)


class Anything(Good):
    """Takes options by the dozen."""

    def __init__(self, inp: Shape, **kwargs: int) -> None:
        super().__init__(inp, **kwargs)


class Positional(Good):
    """Takes an option in front of the star."""

    def __init__(self, inp: Shape, size: int = 4) -> None:
        super().__init__(inp, size=size)


class Required(Good):
    """Has an option without default."""

    def __init__(self, inp: Shape, *, size: int) -> None:
        super().__init__(inp, size=size)


class First(Fusion):
    """Takes the first stream alone, its fields too, and does not ask whether streams fit."""

    def __init__(self, inp: dict[str, Shape]) -> None:
        super().__init__()
        self.out = next(iter(inp.values()))

    def forward(self, inputs: dict[str, Features]) -> Features:
        return next(iter(inputs.values()))


class Crossed(Joint):
    """Adds each stream to the other; as good as Good."""

    def __init__(self, inp: dict[str, Shape]) -> None:
        super().__init__()
        a, b = inp.values()
        if a != b:
            raise ValueError(f"takes two streams of one shape, but gets {a[:]} and {b[:]}")
        self.out = dict(inp)

    def forward(self, inputs: dict[str, Features]) -> dict[str, Features]:
        x = {
            name: f.x.masked_fill(~f.mask[:, :, None, None, None], 0) for name, f in inputs.items()
        }
        total = sum(x.values())
        return {name: f._replace(x=total) for name, f in inputs.items()}


class OneLost(Crossed):
    """Promises a stream that it does not give."""

    def forward(self, inputs: dict[str, Features]) -> dict[str, Features]:
        (name, features), *_ = super().forward(inputs).items()
        return {name: features}


class SoftHead(Head):
    """Has a class too many, as one for the background."""

    def __init__(self, inp: Shape, classes: list[str]) -> None:
        super().__init__()
        self.linear = nn.Linear(inp.require_vectors(), len(classes) + 1)
        self.out = inp._replace(channels=len(classes))

    def forward(self, features: Features) -> Features:
        x = features.x.flatten(2).masked_fill(~features.mask[..., None], 0)
        return features._replace(x=self.linear(x)[..., None, None])


class Sum(Loss):
    """Counts masked steps too, and gives logits as probabilities."""

    def forward(self, scores: Features, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        picked = scores.x.flatten(3).movedim(3, 1)
        return nn.functional.cross_entropy(
            picked, target[:, None, None].expand(mask.shape).clamp(min=0)
        ).mul(mask.any())

    def probabilities(self, scores: Features) -> torch.Tensor:
        return scores.x.flatten(3)


class Constant(Metric):
    """Knows no difference."""

    def __init__(self, classes: list[str]) -> None:
        pass

    def __call__(self, scores: torch.Tensor, target: torch.Tensor) -> float:
        return 0.5


class OutOfRange(Sampler):
    """Forgets that a video may be short."""

    steps, views = 4, 1

    def __call__(self, info, record, rng):
        return np.arange(4, dtype=np.int64)[None]


class WholeVideo(Sampler):
    """Does not look at start and end, promises five steps, and rolls Python's dice."""

    steps, views = 5, 1

    def __call__(self, info, record, rng):
        return np.full((1, 4), int(random.random() * info.frames), np.int64)


class TwoDraws(Transform):
    """Draws once more for every modality."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def apply(self, clips, draws):
        return {n: c._replace(x=c.x + int(self.rng.integers(9))) for n, c in clips.items()}


class Later(Transform):
    """Changes each modality by its place."""

    def draw(self, rng):
        return {"more": 0 if rng is None else int(rng.integers(1, 9))}

    def apply(self, clips, draws):
        more = torch.tensor([d["more"] for d in draws], dtype=torch.uint8).view(-1, 1, 1, 1, 1, 1)
        return {n: c._replace(x=c.x + more * (i + 1)) for i, (n, c) in enumerate(clips.items())}


class FirstDraw(Later):
    """Gives all samples the first one's draw."""

    def apply(self, clips, draws):
        more = draws[0]["more"]
        return {n: c._replace(x=c.x + more) for n, c in clips.items()}


class OverWrites(Transform):
    """Works on what it is given."""

    def apply(self, clips, draws):
        for clip in clips.values():
            clip.x[..., 0] = 0
        return clips


class Smaller(Transform):
    """Leaves smaller frames than it says."""

    def apply(self, clips, draws):
        return {n: c._replace(x=c.x[..., :8]) for n, c in clips.items()}


class OffByOne(PyAV):
    """Gives the next frame."""

    def __init__(self) -> None:
        super().__init__()

    def read(self, path, indices):
        return super().read(path, np.minimum(indices + 1, 23))


class Leaks(PyAV):
    """Lets other errors through."""

    def __init__(self) -> None:
        super().__init__()

    def probe(self, path):
        if b"ftyp" not in path.read_bytes() and path.suffix == ".mp4":
            raise OSError("broken")
        return super().probe(path)


class Holds(PyAV):
    """Keeps the file open."""

    def __init__(self) -> None:
        super().__init__()

    def read(self, path, indices):
        self.file = open(path)  # noqa: SIM115
        return super().read(path, indices)


class Doubles(Folder):
    """Lists every clip by one id, has an open file and more targets than classes."""

    def __init__(self, split, *, root: str) -> None:
        super().__init__(split, root=root)
        self.file = open(__file__)  # noqa: SIM115

    def __getitem__(self, index):
        self.another = open(__file__)  # noqa: SIM115
        return super().__getitem__(index)._replace(id="same", target=len(self.classes))
