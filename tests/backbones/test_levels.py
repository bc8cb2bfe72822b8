import pickle

import pytest
import timm
import torch

from actionkit.backbones.levels import Levels
from actionkit.contracts import Features, Shape

INP = Shape(3, 3, 64, 48)


def build(arch="test_resnet", inp=INP, **options):
    torch.manual_seed(0)
    return Levels(inp, arch=arch, **options)


def clip(mask=((1, 1, 1), (1, 0, 0)), padding=0.0, dtype=torch.float32):
    mask = torch.tensor(mask, dtype=torch.bool)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(*mask.shape, 3, 64, 48, generator=generator).to(dtype)
    return Features(x.masked_fill(~mask[:, :, None, None, None], padding), mask)


def hooked(levels, modules, features):
    """What timm's own modules say of each real frame, seen from outside."""
    net, seen = levels.frames.net, {}
    handles = [
        net.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: seen.update({name: out.clone()})
        )
        for name in modules
    ]
    net(features.x[features.mask])
    for handle in handles:
        handle.remove()
    return [seen[name] for name in modules]


@pytest.mark.parametrize(
    ("arch", "levels", "modules"),
    [
        ("test_resnet", None, ["act1", "layer1", "layer2", "layer3", "layer4"]),
        ("test_resnet", [1, 3], ["layer1", "layer3"]),
        ("test_efficientnet", [0, 2], ["blocks.0", "blocks.2"]),
    ],
)
def test_levels_are_those_of_timm(arch, levels, modules):
    net, features = build(arch, levels=levels).eval(), clip()
    found = net(features)
    wanted = hooked(net, modules, features)
    assert len(found) == len(net.out) == len(wanted)
    for level, shape, maps in zip(found, net.out, wanted, strict=True):
        assert level.x.shape == (2, *shape)
        torch.testing.assert_close(level.x[features.mask], maps)
        assert (level.x[~features.mask] == 0).all()


def test_tokens_become_maps():
    net = build("test_vit", levels=[1, 4])
    assert net.out == [Shape(3, 64, 4, 3)] * 2
    assert [level.x.shape for level in net(clip())] == [(2, 3, 64, 4, 3)] * 2


def test_vgg_has_the_maps_behind_its_pools_and_fc7():
    with torch.device("meta"):
        inp = Shape(10, 3, 224, 224)
        net = Levels(inp, arch="vgg16", levels=[1, 2, 3, 4], pool=2, vector=True)
    assert net.out == [
        Shape(10, 128, 56, 56),
        Shape(10, 256, 28, 28),
        Shape(10, 512, 14, 14),
        Shape(10, 512, 7, 7),
        Shape(10, 4096, 1, 1),
    ]
    assert all(p.requires_grad for p in net.parameters())  # fc6 and fc7 too
    assert sum(p.numel() for p in net.parameters()) == 134_260_544  # VGG-16 without its classifier
    assert len(net.stages()) > 1


def test_pooled_vgg_maps_are_those_behind_its_own_pools():
    net = build("vgg11", levels=[1, 2, 3, 4], pool=2).eval()
    pools = [n for n, m in net.frames.net.named_modules() if isinstance(m, torch.nn.MaxPool2d)]
    features = clip()
    for level, maps in zip(net(features), hooked(net, pools[1:], features), strict=True):
        torch.testing.assert_close(level.x[features.mask], maps)


def test_the_vector_is_what_the_classifier_would_get():
    net, features = build(levels=[4], vector=True).eval(), clip()
    maps, vector = net(features)
    assert net.out[1] == Shape(3, 96, 1, 1)
    torch.testing.assert_close(vector.x, maps.x.mean((3, 4), keepdim=True))


def test_what_no_level_needs_is_frozen_and_not_run():
    net = build(levels=[0, 2])
    free = {name for name, p in net.frames.net.named_parameters() if p.requires_grad}
    assert free
    assert not any(name.startswith(("layer3", "layer4")) for name in free)
    before = net.frames.net.layer3[0].bn1.num_batches_tracked.clone()
    torch.stack([level.x.square().sum() for level in net(clip())]).sum().backward()
    assert torch.equal(net.frames.net.layer3[0].bn1.num_batches_tracked, before)
    for name, p in net.frames.net.named_parameters():
        assert (p.grad is not None) == (name in free), name
    held = [id(p) for stage in net.stages() for p in stage.parameters()]
    assert sorted(held) == sorted(id(p) for p in net.parameters() if p.requires_grad)


@pytest.mark.parametrize("padding", [1e4, float("nan"), float("inf")])
def test_batch_norm_in_training_sees_no_padding(padding):
    found = [build(levels=[1, 2])(clip(padding=value)) for value in (0.0, padding)]
    for one, other in zip(*found, strict=True):
        assert torch.equal(one.x, other.x)


def test_a_size_that_varies_stays_unknown():
    net = build(inp=Shape(None, 3, None, 48), levels=[1, 4], vector=True)
    assert net.out == [Shape(None, 32, None, 12), Shape(None, 96, None, 2), Shape(None, 96, 1, 1)]


def test_checkpointed_gradients_are_the_same():
    grads = []
    for twice in (False, True):
        net = build(levels=[1, 4], grad_checkpointing=twice).double()
        found = net(clip(dtype=torch.float64))
        torch.stack([level.x.square().sum() for level in found]).sum().backward()
        grads.append([p.grad for p in net.parameters() if p.requires_grad])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_pickle():
    net = build(levels=[1, 3]).eval()
    copy = pickle.loads(pickle.dumps(net))
    for one, other in zip(net(clip()), copy(clip()), strict=True):
        assert torch.equal(one.x, other.x)


@pytest.mark.parametrize("levels", [[5], [-1, 2], [3, 1], [1, 1], []])
def test_refuses_levels_that_the_network_lacks(levels):
    with pytest.raises(ValueError, match=r"levels of 'test_resnet' from 0 to 4, each once and in"):
        build(levels=levels)


def test_refuses_a_network_without_levels(monkeypatch):
    monkeypatch.delattr(timm.models.ResNet, "forward_intermediates")
    with pytest.raises(ValueError, match=r"finds no levels in 'test_resnet'.*choose an arch"):
        build()


@pytest.mark.parametrize("pool", [0, 64])
def test_refuses_a_pool_that_does_not_fit(pool):
    with pytest.raises(ValueError, match=f"with pool {pool}, vector false: .*choose other levels"):
        build(levels=[4], pool=pool)


def test_refuses_what_timm_refuses():
    with pytest.raises(ValueError, match=r"finds no network 'test_resnot'.*'test_resnet'"):
        build("test_resnot")
    twice = pytest.raises(ValueError, match="cannot compute the activations of 'vgg11' twice")
    with twice, torch.device("meta"):
        build("vgg11", levels=[1], grad_checkpointing=True)
