import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from actionkit.aggregators.fc import FC
from actionkit.aggregators.flatten import Flatten
from actionkit.aggregators.windows import Windows
from actionkit.backbones.baccouche import Baccouche
from actionkit.contracts import Features, Make, Shape
from actionkit.heads.linear import Linear


def clips(real, steps, height=34, width=54, channels=1, padding=0.0):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(real), steps, channels, height, width, generator=generator).double()
    mask = torch.arange(steps) < torch.tensor(real)[:, None]
    return Features(x.masked_fill(~mask[:, :, None, None, None], padding), mask)


def build(*shape):
    torch.manual_seed(0)
    return Baccouche(Shape(*shape)).double()


def count(module):
    return sum(p.numel() for p in module.parameters())


def convolved(x, weight, bias):
    """A 3-D convolution of x [C, T, H, W] to one map, as the sum over the kernel."""
    t, h, w = (n - k + 1 for n, k in zip(x.shape[1:], weight.shape[1:], strict=True))
    total = bias.expand(t, h, w)
    for i, j, k in itertools.product(*map(range, weight.shape[1:])):
        near = x[:, i : i + t, j : j + h, k : k + w]
        total = total + (near * weight[:, i, j, k][:, None, None, None]).sum(0)
    return total


def halved(x):
    """The mean of 2x2 pixels; a last row or column that is left over is dropped."""
    x = x[..., : x.shape[-2] // 2 * 2, : x.shape[-1] // 2 * 2]
    return (x[..., 0::2, 0::2] + x[..., 0::2, 1::2] + x[..., 1::2, 0::2] + x[..., 1::2, 1::2]) / 4


def by_the_table(net, x):
    """The layers of the paper one by one, map by map, for one clip x [9, 1, H, W]."""
    x = x.transpose(0, 1)  # [1, T, H, W]
    one, two, three = ((c.weight, c.bias) for c in (net.conv1, net.conv2, net.conv3))
    x = halved(torch.stack([convolved(x, w, b) for w, b in zip(*one, strict=True)]).abs())
    own = zip(*two, strict=True)  # five maps of each of the seven
    x = torch.stack([convolved(x[i // 5, None], w, b) for i, (w, b) in enumerate(own)])
    x = halved(x.abs())
    return torch.stack([convolved(x, w, b) for w, b in zip(*three, strict=True)])[:, 0]


def test_the_numbers_of_parameters():
    net = Baccouche(Shape(9, 1, 34, 54))
    assert [count(layer) for layer in net.stages()] == [1722, 2660, 4730]
    flat = Flatten(net.out)
    assert flat.out == Shape(1, 120, 1, 1)
    hidden = FC(flat.out, width=50)
    scores = Linear(hidden.out, list("abcdef"))
    assert (count(hidden), count(scores)) == (6050, 306)
    assert sum(map(count, (net, hidden, scores))) == 15_468
    assert count(Baccouche(Shape(9, 3, 34, 54)).conv1) == 7 * (3 * 245 + 1)


def test_the_sizes_of_every_layer():
    net = build(9, 1, 34, 54)
    x = clips([9], 9).x.transpose(1, 2)
    x = net.conv1(x)
    assert x.shape == (1, 7, 5, 28, 48)
    x = F.avg_pool3d(x.abs(), (1, 2, 2))
    assert x.shape == (1, 7, 5, 14, 24)
    x = net.conv2(x)
    assert x.shape == (1, 35, 3, 10, 20)
    x = F.avg_pool3d(x.abs(), (1, 2, 2))
    assert x.shape == (1, 35, 3, 5, 10)
    assert net.conv3(x).shape == (1, 5, 1, 3, 8)
    assert net.out == Shape(1, 5, 3, 8)


@pytest.mark.parametrize(("height", "width"), [(26, 26), (27, 33)])
def test_equals_the_table_in_values_and_gradients(height, width):
    net, features = build(9, 1, height, width), clips([9], 9, height, width)
    features.x.requires_grad_()
    got = net(features).x
    wanted = torch.stack([by_the_table(net, clip)[None] for clip in features.x])
    torch.testing.assert_close(got, wanted, atol=1e-10, rtol=0)
    wished = torch.randn(got.shape, generator=torch.Generator().manual_seed(1)).double()
    inputs = [features.x, *net.parameters()]
    own = torch.autograd.grad((got * wished).sum(), inputs)
    reference = torch.autograd.grad((wanted * wished).sum(), inputs)
    for one, two in zip(own, reference, strict=True):
        torch.testing.assert_close(one, two, atol=1e-10, rtol=0)


@pytest.mark.parametrize("stride", [1, 3, 5])
def test_a_long_clip_gives_what_its_windows_give(stride):
    inp = Shape(24, 1, 26, 30)
    net, features = build(*inp), clips([24, 24], 24, *inp[2:])
    windows = Windows(inp, length=9, stride=stride, part=Make(Baccouche)).double()
    windows.part.load_state_dict(net.state_dict())
    whole, cut = net(features), windows(features)
    assert net.out == Shape(16, 5, 1, 2)
    assert windows.out == Shape(len(range(0, 16, stride)), 5, 1, 2)
    torch.testing.assert_close(cut.x, whole.x[:, ::stride])
    assert cut.mask.all()


@pytest.mark.parametrize("padding", [0.0, 1e30, math.nan, math.inf])
def test_a_step_is_real_if_all_its_frames_are(padding):
    net, features = build(12, 1, 26, 26), clips([12, 10, 9, 8, 0], 12, 26, 26, padding=padding)
    features.x.requires_grad_()
    y = net(features)
    assert y.mask.sum(1).tolist() == [4, 2, 1, 0, 0]
    for b, real in enumerate([12, 10, 9]):
        alone = Features(features.x[b : b + 1, :real], features.mask[b : b + 1, :real])
        torch.testing.assert_close(y.x[b, : real - 8], net(alone).x[0])
    assert not y.x[~y.mask].any()
    y.x.square().sum().backward()
    assert features.x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_a_gap_takes_the_windows_that_it_is_in():
    net, features = build(20, 1, 26, 26), clips([20], 20, 26, 26)
    features.mask[0, 9] = False
    y = net(features)
    assert y.mask[0].nonzero().flatten().tolist() == [0, 10, 11]
    torch.testing.assert_close(y.x[0, 0], by_the_table(net, features.x[0, :9]))


def test_clips_of_varying_size_and_too_short_ones():
    net = build(None, 1, None, 54)
    assert net.out == Shape(None, 5, None, 8)
    assert net(clips([9, 4], 9)).x.shape == (2, 1, 5, 3, 8)
    y = net(clips([4, 2], 4))
    assert y.x.shape == (2, 1, 5, 3, 8)
    assert not y.x.any()
    assert not y.mask.any()


def test_the_smallest_frames_leave_one_pixel():
    assert build(9, 1, 26, 26).out == Shape(1, 5, 1, 1)
    assert build(9, 1, 29, 33).out == Shape(1, 5, 1, 2)


@pytest.mark.parametrize(
    ("inp", "sentence"),
    [
        (Shape(8, 1, 34, 54), "looks at 9 frames at a time, but gets 8; sample 9 or more"),
        (Shape(9, 1, 25, 54), "of 26x26 or larger, as 34x54, but gets 25x54; resize them"),
        (Shape(9, 1, None, 7), r"gets \?x7"),
        (Shape(9, None, 34, 54), "a fixed number of channels"),
    ],
)
def test_refuses(inp, sentence):
    with pytest.raises(ValueError, match=sentence):
        Baccouche(inp)
