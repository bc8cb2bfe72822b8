import math
import pickle

import pytest
import torch

from actionkit.aggregators.pooling import Max, Mean
from actionkit.aggregators.recurrent import GRU
from actionkit.aggregators.windows import Windows, count, cut
from actionkit.contracts import Aggregator, Features, Make, Shape

CASES = [(4, 4), (4, 2), (3, 1), (2, 5), (10, 5), (1, 1), (5, 3)]


class Same(Aggregator):
    """Hands everything on, and says what it saw."""

    def __init__(self, inp):
        super().__init__()
        self.inp = self.out = inp

    def forward(self, features):
        self.seen = features
        return features


class Telling(Same):
    """Sets the fields that a part may set."""

    def forward(self, features):
        rows = features.x.sum((1, 2, 3, 4))
        return features._replace(
            penalty=torch.tensor(0.25),
            attention=features.x[:, :, :1],
            log_prob=features.x[:, :, 0, 0, 0],
            extra={"gate": torch.tensor(3.0), "sums": rows},
        )


def clips(lengths, steps, channels=3, size=2, padding=0.0):
    x = torch.randn(len(lengths), steps, channels, size, size, dtype=torch.float64)
    mask = torch.arange(steps)[None] < torch.tensor(lengths)[:, None]
    return Features(x.masked_fill(~mask[:, :, None, None, None], padding), mask)


@pytest.mark.parametrize(("length", "stride"), CASES)
@pytest.mark.parametrize("steps", [1, 2, 7, 10, 11, 20])
def test_windows_are_slices_and_see_every_step_they_can(steps, length, stride):
    x = torch.arange(2.0 * steps).view(2, steps)
    windows = cut(x, length, stride)
    number = count(steps, length, stride)
    assert windows.shape == (2, number, length)
    for k in range(number):
        wanted = x[:, k * stride : k * stride + length]
        assert torch.equal(windows[:, k, : wanted.shape[1]], wanted)
        assert not windows[:, k, wanted.shape[1] :].any()
    seen = {t for k in range(number) for t in range(k * stride, k * stride + length) if t < steps}
    before = {t for k in range(number - 1) for t in range(k * stride, k * stride + length)}
    assert seen - before  # none is in vain
    assert seen == {t for t in range(steps) if t % stride < length or stride <= length}


def test_the_published_number_of_windows():
    assert count(120, 10, 5) == 23


@pytest.mark.parametrize(("length", "stride"), CASES)
@pytest.mark.parametrize("kind", [Mean, Max])
def test_equals_the_part_on_each_window_alone(kind, length, stride):
    features = clips([11, 4, 1, 0], 11)
    part = Windows(Shape(11, 3, 2, 2), length=length, stride=stride, part=Make(kind))
    y = part(features)
    assert y.x.shape == (4, *part.out)
    inner = kind(Shape(length, 3, 2, 2))
    for b, real in enumerate([11, 4, 1, 0]):
        windows = count(real, length, stride) if real else 0
        assert y.mask[b].sum() == windows
        assert y.mask[b, :windows].all()
        for k in range(windows):
            end = min(real, k * stride + length)
            alone = features.x[b : b + 1, k * stride : end]
            wanted = inner(Features(alone, torch.ones(1, alone.shape[1], dtype=torch.bool))).x
            torch.testing.assert_close(y.x[b, k], wanted[0, 0])


@pytest.mark.parametrize(("length", "stride"), CASES)
@pytest.mark.parametrize("padding", [0.0, 1e30, math.nan])
def test_padding_in_any_amount_changes_nothing(padding, length, stride):
    torch.manual_seed(0)
    plain = clips([8, 3, 0], 8, size=1)
    behind = torch.full((3, 9, 3, 1, 1), padding, dtype=torch.float64)
    x = plain.x.masked_fill(~plain.mask[:, :, None, None, None], padding)
    longer = Features(
        torch.cat([x, behind], 1), torch.cat([plain.mask, plain.mask.new_zeros(3, 9)], 1)
    )
    part = Windows(
        Shape(None, 3, 1, 1),
        length=length,
        stride=stride,
        part=Make(lambda inp: GRU(inp, hidden=4, bidirectional=True)),
    ).double()
    y, z = part(plain), part(longer)
    assert torch.equal(y.mask.sum(1), z.mask.sum(1))
    torch.testing.assert_close(z.x[z.mask], y.x[y.mask])


def test_windows_that_touch_are_a_view():
    same = Make(Same)
    part = Windows(Shape(8, 3, 2, 2), length=4, part=same)
    features = clips([8, 8], 8)
    y = part(features)
    assert part.part.inp == Shape(4, 3, 2, 2)
    assert y.x.data_ptr() == part.part.seen.x.data_ptr() == features.x.data_ptr()
    assert torch.equal(y.x, features.x)
    assert torch.equal(y.mask, features.mask)


def test_other_fields():
    features = clips([6, 6], 6)
    boxes = torch.rand(2, 6, 1, 4)
    seeing = Windows(Shape(6, 3, 2, 2), length=2, part=Make(Same))
    y = seeing(features._replace(boxes=boxes, extra={"a": torch.ones(())}))
    assert torch.equal(seeing.part.seen.boxes, boxes.view(6, 2, 1, 4))
    assert seeing.part.seen.extra is None
    assert y.boxes is boxes
    telling = Windows(Shape(6, 3, 2, 2), length=2, part=Make(Telling))
    came = features._replace(penalty=torch.tensor(1.0), extra={"a": torch.ones(())})
    y = telling(came)
    assert y.penalty == 1.25
    assert telling(features).penalty == 0.25
    assert torch.equal(y.attention, features.x[:, :, :1])
    assert torch.equal(y.log_prob, features.x[:, :, 0, 0, 0])
    assert set(y.extra) == {"a", "gate", "sums"}
    torch.testing.assert_close(y.extra["sums"], features.x.view(2, 3, -1).sum(2))
    with pytest.raises(ValueError, match="choices inside its windows and before them"):
        telling(features._replace(log_prob=torch.zeros(2, 6)))


def test_shapes_and_pickle():
    def steps(inp, **options):
        return Windows(inp, part=Make(Mean), **options).out.steps

    assert steps(Shape(None, 3, 2, 2), length=4) is None
    assert steps(Shape(9, 3, 2, 2), length=4) == 3
    part = Windows(Shape(9, 3, 1, 1), length=4, stride=2, part=Make(lambda i: GRU(i, hidden=5)))
    assert part.out == Shape(4 * 4, 5, 1, 1)
    features = clips([9, 2], 9, size=1)
    same = pickle.loads(pickle.dumps(part.double()))
    assert torch.equal(same(features).x, part(features).x)


@pytest.mark.parametrize("wrong", [{"length": 0}, {"length": 3, "stride": 0}])
def test_refuses(wrong):
    with pytest.raises(ValueError, match="a length and a stride of 1 or more, but got"):
        Windows(Shape(9, 3, 2, 2), part=Make(Mean), **wrong)
