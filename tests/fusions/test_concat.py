import pytest
import torch

from actionkit.contracts import Features, Shape
from actionkit.fusions.concat import Concat


def features(steps, channels, size, mask=None):
    real = torch.ones(2, steps, dtype=torch.bool) if mask is None else torch.tensor(mask)
    return Features(torch.randn(2, steps, channels, size, size), real)


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("steps", [(3, 3), (3, 1), (1, 3), (1, 1)])
def test_every_step_meets_its_step(steps, size):
    inputs = {"rgb": features(steps[0], 3, size), "flow": features(steps[1], 2, size)}
    fusion = Concat({n: Shape(*f.x.shape[1:]) for n, f in inputs.items()})
    y = fusion(inputs)
    assert fusion.out == Shape(max(steps), 5, size, size)
    assert y.x.shape == (2, *fusion.out)
    assert y.mask.shape == (2, max(steps))
    for t in range(max(steps)):
        assert torch.equal(y.x[:, t, :3], inputs["rgb"].x[:, min(t, steps[0] - 1)])
        assert torch.equal(y.x[:, t, 3:], inputs["flow"].x[:, min(t, steps[1] - 1)])


def test_a_step_is_real_where_all_streams_are():
    inputs = {
        "rgb": features(3, 1, 1, [[True, True, True], [True, True, False]]),
        "flow": features(1, 1, 1, [[True], [False]]),
    }
    y = Concat({"rgb": Shape(3, 1, 1, 1), "flow": Shape(1, 1, 1, 1)})(inputs)
    assert y.mask.tolist() == [[True, True, True], [False, False, False]]


def test_padding_keeps_to_itself():
    inputs = {"rgb": features(2, 1, 1), "flow": features(2, 1, 1, [[True, False], [True, True]])}
    inputs["flow"].x[0, 1] = float("nan")
    for f in inputs.values():
        f.x.requires_grad_()
    y = Concat({"rgb": Shape(2, 1, 1, 1), "flow": Shape(2, 1, 1, 1)})(inputs)
    y.x[y.mask].square().sum().backward()
    assert y.x[y.mask].isfinite().all()
    assert all(f.x.grad.isfinite().all() for f in inputs.values())


def test_starts_from_merge():
    inputs = {"rgb": features(2, 1, 1), "flow": features(2, 1, 1)}
    inputs["rgb"] = inputs["rgb"]._replace(penalty=torch.tensor(1.0))
    inputs["flow"] = inputs["flow"]._replace(extra={"z": torch.tensor(3.0)})
    y = Concat({"rgb": Shape(2, 1, 1, 1), "flow": Shape(2, 1, 1, 1)})(inputs)
    assert y.penalty.item() == 1
    assert list(y.extra) == ["flow/z"]


def test_unknown_steps():
    shapes = {"rgb": Shape(None, 3, 8, None), "flow": Shape(1, 2, 8, None)}
    assert Concat(shapes).out == Shape(None, 5, 8, None)
    assert Concat({**shapes, "flow": Shape(6, 2, 8, None)}).out == Shape(6, 5, 8, None)


@pytest.mark.parametrize(
    ("flow", "sentence"),
    [
        (Shape(3, 2, 4, 4), "maps of one size, but 'rgb' 8x8, 'flow' 4x4; crop"),
        (Shape(3, 2, None, 8), r"'flow' \?x8"),
        (Shape(2, 2, 8, 8), "'rgb' has 3, 'flow' has 2; sample as many"),
        (Shape(3, None, 8, 8), "fixed number of channels"),
    ],
)
def test_refuses(flow, sentence):
    with pytest.raises(ValueError, match=sentence):
        Concat({"rgb": Shape(3, 3, 8, 8), "flow": flow})
