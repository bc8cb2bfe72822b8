import copy
import math
import pickle

import pytest
import torch

from actionkit.backbones.non_local import Block, NonLocal
from actionkit.backbones.over_time import Clips, Layout
from actionkit.backbones.timm import Timm
from actionkit.contracts import Features, Shape

MASK = torch.tensor(
    [
        [True, True, True, True],
        [False, True, False, True],
        [False, False, True, False],
        [False, False, False, False],
    ]
)


def build(cls=NonLocal, size=64, **options):
    torch.manual_seed(0)
    if cls is NonLocal:
        options = {"every": 1, **options}
    return cls(Shape(4, 3, size, size), arch="test_resnet", **options)


def clips(mask=MASK, size=64, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return Features(torch.randn(*mask.shape, 3, size, size, generator=generator, dtype=dtype), mask)


def awake(net):
    """A copy whose blocks do something."""
    net = copy.deepcopy(net)
    torch.manual_seed(2)
    for module in net.modules():
        if isinstance(module, Block):
            for name, parameter in module.named_parameters():
                torch.nn.init.normal_(parameter, std=1.0 if name == "norm.weight" else 0.3)
    return net


def naive(block, x):
    """One clip [T, C, h, w], as the specification writes it, before the batch norm."""
    channels, width = x.shape[1], block.theta.out_channels
    weights = block.phi_g.weight.view(2, width, channels), block.phi_g.bias.view(2, width)
    theta = block.theta.weight.view(width, channels), block.theta.bias
    places = [frame[:, i, j] for frame in x for i in range(x.shape[2]) for j in range(x.shape[3])]
    seen = places
    if isinstance(block.pool, torch.nn.MaxPool2d):
        seen = [
            frame[:, i : i + 2, j : j + 2].amax((1, 2))
            for frame in x
            for i in range(0, x.shape[2], 2)
            for j in range(0, x.shape[3], 2)
        ]
    phi, g = ([w @ p + b for p in seen] for w, b in zip(*weights, strict=True))
    looked = []
    for place in places:
        query = theta[0] @ place + theta[1]
        scores = torch.stack([query @ key for key in phi]) / math.sqrt(width)
        share = scores.exp() / scores.exp().sum()
        looked.append(sum(s * value for s, value in zip(share, g, strict=True)))
    y = torch.stack(looked) @ block.out.weight.flatten(1).T + block.out.bias
    return y.view(len(x), *x.shape[2:], channels).permute(0, 3, 1, 2)


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize(("train", "whole"), [(True, False), (False, False), (False, True)])
def test_a_block_is_the_sum_over_all_places_of_the_clip(pool, train, whole):
    """Whole: padded steps are among the frames, NaN, as in an exported network."""
    block = awake(Block(6, Clips(), pool=pool)).double().train(train)
    x = torch.randn(*MASK.shape, 6, 3, 2, dtype=torch.float64).requires_grad_()
    real = MASK.flatten()
    given = x.masked_fill(~MASK[..., None, None, None], torch.nan).flatten(0, 1)
    with block.clips.of(Layout(*MASK.shape, MASK, whole=whole)):
        got = block(given)[real] if whole else block(given[real])
    y = torch.cat([naive(block, clip[m]) for clip, m in zip(x, MASK, strict=True) if m.any()])
    mean, var = block.norm.running_mean, block.norm.running_var
    if train:
        mean, var = y.mean((0, 2, 3)), y.var((0, 2, 3), correction=0)
    shape = (1, -1, 1, 1)
    y = (y - mean.view(shape)) / (var.view(shape) + block.norm.eps).sqrt()
    wanted = x[MASK] + y * block.norm.weight.view(shape) + block.norm.bias.view(shape)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)
    if whole:
        return  # it is not trained
    weight = torch.randn_like(wanted)
    parameters = [x, *block.parameters()]
    pairs = [torch.autograd.grad((z * weight).sum(), parameters) for z in (got, wanted)]
    for a, b in zip(*pairs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("channels", "count"), [(512, 526_592), (1024, 2_101_760)])
def test_parameters_of_a_block(channels, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in Block(channels, Clips()).parameters()) == count


def test_places_of_the_paper_in_a_resnet50():
    with torch.device("meta"):
        net = NonLocal(Shape(8, 3, 224, 224), arch="resnet50")
    names = [name for name, module in net.named_modules() if isinstance(module, Block)]
    assert names == [
        "net.layer2.non_local_1",
        "net.layer2.non_local_3",
        "net.layer3.non_local_1",
        "net.layer3.non_local_3",
        "net.layer3.non_local_5",
    ]
    stages = net.stages()
    counts = [sum(isinstance(m, Block) for m in stage.modules()) for stage in stages]
    assert counts == [0, 0, 2, 3, 0]
    held = [id(p) for stage in stages for p in stage.parameters()]
    assert sorted(held) == sorted(id(p) for p in net.parameters())


def test_at_the_start_it_is_the_network_without():
    net, plain = build().eval(), build(Timm).eval()
    missing, unexpected = net.load_state_dict(plain.state_dict(), strict=False)
    assert all(".non_local_" in name for name in missing)
    assert unexpected == []
    assert torch.equal(net(clips()).x, plain(clips()).x)


def test_every_real_frame_sees_every_other_and_no_padding():
    net, frames = awake(build()).eval(), clips()
    before = net(frames).x
    other = frames.x.clone()
    other[1, 3] += 1
    other[~MASK] = torch.nan
    changed = (net(frames._replace(x=other)).x - before).flatten(2).abs().amax(2) > 1e-6
    assert changed.tolist() == [[False] * 4, [False, True, False, True], [False] * 4, [False] * 4]
    assert (before[~MASK] == 0).all()


def test_padding_changes_nothing_in_training():
    frames, padded, alone = clips(), awake(build()), awake(build())
    y = padded(frames).x
    more = Features(
        *(torch.nn.functional.pad(t, (*[0] * (2 * t.ndim - 4), 0, 3)) for t in frames[:2])
    )
    wanted = alone(more).x
    torch.testing.assert_close(y[MASK], wanted[:, :4][MASK])
    for p, q in zip(padded.buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(p, q)


def test_order_of_frames_is_of_no_account():
    net, frames = awake(build()).eval(), clips(MASK[:1])
    order = torch.tensor([2, 0, 3, 1])
    moved = net(frames._replace(x=frames.x[:, order])).x
    torch.testing.assert_close(moved, net(frames).x[:, order])


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("pool", [False, True])
def test_sizes(steps, pool):
    net = build(pool=pool, stages=(1, 2, 3, 4))
    y = net(clips(torch.ones(2, steps, dtype=torch.bool), size=72))
    assert y.x.shape == (2, steps, 96, 3, 3)


def test_checkpointed_gradients_are_the_same():
    frames, gradients = clips(dtype=torch.float64), []
    for again in (False, True):
        net = awake(build(grad_checkpointing=again)).double()
        full = Features(frames.x[:1], MASK[:1])
        (net(frames).x.square().sum() + net(full).x.square().sum()).backward()
        gradients.append([p.grad for p in net.parameters()])
    for got, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-8)


def test_copies_exports_and_bf16():
    net, frames = awake(build()).eval(), clips()
    wanted = net(frames).x
    assert torch.equal(pickle.loads(pickle.dumps(net))(frames).x, wanted)
    exported = torch.export.export(net, (clips(torch.ones_like(MASK)),)).module()
    torch.testing.assert_close(exported(frames).x[MASK], wanted[MASK], rtol=1e-3, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        got = net(frames).x
    assert (got.float() - wanted).norm() < 0.1 * wanted.norm()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"stages": (5,)}, r"takes stages 1 to 4 of 'test_resnet'.* got stages \[5\]"),
        ({"every": 0}, r"every of at least 1, but got .*every 0"),
        ({"every": 2}, r"every 2th residual block, .*have 1 at most; set every to 1"),
        ({"stages": ()}, r"stages \[\] of 'test_resnet' have 0"),
        ({"arch": "test_vit"}, "finds no rows of residual blocks in 'test_vit'"),
    ],
)
def test_refuses(options, sentence):
    options = {"arch": "test_resnet", "every": 1, **options}
    with pytest.raises(ValueError, match=sentence):
        NonLocal(Shape(4, 3, 64, 64), **options)
