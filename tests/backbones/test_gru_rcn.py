import pickle

import pytest
import torch
from torch.nn import functional as F

from actionkit.backbones.gru_rcn import GRURCN
from actionkit.contracts import Features, Shape

MASKS = {
    "prefix": [[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]],
    "any": [[0, 1, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]],
    "one": [[1], [0], [1]],
}
VARIANTS = {
    "plain": {},
    "stacked": {"stacked": True},
    "bidirectional": {"bidirectional": True},
    "both": {"stacked": True, "bidirectional": True},
}
PAPER = {
    "arch": "vgg16",
    "levels": [1, 2, 3, 4],
    "pool": 2,
    "vector": True,
    "hidden": [64, 128, 256, 256, 512],
}
INP = Shape(4, 3, 32, 48)
SMALL = {"arch": "test_resnet", "levels": [2, 4], "vector": True, "hidden": [3, 4, 5]}


def build(inp=INP, dtype=torch.float64, **options):
    torch.manual_seed(0)
    part = GRURCN({"rgb": inp}, **{**SMALL, **options})
    with torch.no_grad():
        for p in part.ways.parameters():
            p.normal_(std=0.3)
    return part.to(dtype).eval()


def clip(mask, padding=0.0, dtype=torch.float64):
    mask = torch.tensor(mask, dtype=torch.bool)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(*mask.shape, 3, 32, 48, generator=generator).to(dtype)
    return Features(x.masked_fill(~mask[:, :, None, None, None], padding), mask)


def conv(x, weight):
    return F.conv2d(x, weight, padding=weight.shape[-1] // 2) if x.shape[1] else 0


def one_way(part, grus, steps):
    """Last states of each level of one clip: step by step, at each all levels, as in the paper."""
    states = [0] * len(grus)
    for maps in steps:  # of each level [1, C, h, w]
        for number, (gru, x) in enumerate(zip(grus, maps, strict=True)):
            own = x.shape[1]  # weights of x stand before those of the level below
            w_z, w_r, w = (weight[:, :own] for weight in gru.input.weight.chunk(3))
            v_z, v_r, v = (weight[:, own:] for weight in gru.input.weight.chunk(3))
            u_z, u_r = gru.gates.weight.chunk(2)
            below = torch.zeros(1, v.shape[1], *x.shape[2:]).to(x)
            if part.stacked and number:
                below = F.adaptive_max_pool2d(states[number - 1], x.shape[2:])
            h = states[number] + torch.zeros(1, len(w), *x.shape[2:]).to(x)
            z = torch.sigmoid(conv(x, w_z) + conv(below, v_z) + conv(h, u_z))
            r = torch.sigmoid(conv(x, w_r) + conv(below, v_r) + conv(h, u_r))
            new = torch.tanh(conv(x, w) + conv(below, v) + conv(r * h, gru.new.weight))
            states[number] = (1 - z) * h + z * new
    return states


def naive(part, features):
    """Each clip's real frames alone, one after the other."""
    clips = []
    for x, mask in zip(features.x, features.mask, strict=True):
        if not mask.any():
            clips.append([torch.zeros(1, *shape[1:]).to(x) for shape in part.out.values()])
            continue
        frames = Features(x[mask][None], torch.ones(1, int(mask.sum())) > 0)
        levels = [level.x[0] for level in part.levels(frames)]
        steps = [[level[t : t + 1] for level in levels] for t in range(frames.x.shape[1])]
        ends = [one_way(part, part.ways[0], steps)]
        if len(part.ways) == 2:
            ends.append(one_way(part, part.ways[1], steps[::-1]))
        clips.append([torch.cat(pair, 1) for pair in zip(*ends, strict=True)])
    return [torch.stack(level) for level in zip(*clips, strict=True)]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_a_loop_with_its_gradients(variant, mask):
    part, features = build(**VARIANTS[variant]), clip(MASKS[mask])
    features.x.requires_grad_()
    levels, wanted = part({"rgb": features}), naive(part, features)
    assert list(levels) == ["level1", "level2", "level3"]
    for (name, level), other in zip(levels.items(), wanted, strict=True):
        assert level.x.shape == (3, *part.out[name])
        assert level.mask.tolist() == features.mask.any(1, keepdim=True).tolist()
        torch.testing.assert_close(level.x, other, rtol=0, atol=1e-10)
    # the network in between is timm's; 1e-10 of gradients that grow to 1e3 on their way through it
    tensors = [features.x, *(p for p in part.parameters() if p.requires_grad)]
    got = torch.autograd.grad(sum(f.x.square().sum() for f in levels.values()), tensors)
    loop = torch.autograd.grad(sum(x.square().sum() for x in wanted), tensors)
    for one, other in zip(got, loop, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("padding", [1e4, float("nan"), float("inf")])
def test_padding_reaches_nothing_in_training(variant, padding):
    results = []
    for content in (0.0, padding):
        part = build(**VARIANTS[variant]).train()
        levels = part({"rgb": clip(MASKS["any"], content)})
        total = torch.stack([f.x.square().sum() for f in levels.values()]).sum()
        tensors = [p for p in part.parameters() if p.requires_grad]
        results.append([f.x for f in levels.values()] + [*torch.autograd.grad(total, tensors)])
    for one, other in zip(*results, strict=True):
        assert one.isfinite().all()
        assert torch.equal(one, other)


def sizes(part):
    return [sum(p.numel() for p in gru.parameters()) for gru in part.ways[0]]


def test_has_the_paper_s_sizes():
    with torch.device("meta"):
        part = GRURCN({"rgb": Shape(10, 3, 224, 224)}, **PAPER)
    assert sizes(part) == [331_776, 1_327_104, 5_308_416, 5_308_416, 7_077_888]
    assert part.out == {
        "level1": Shape(1, 64, 56, 56),
        "level2": Shape(1, 128, 28, 28),
        "level3": Shape(1, 256, 14, 14),
        "level4": Shape(1, 256, 7, 7),
        "level5": Shape(1, 512, 1, 1),
    }


def test_stacked_ones_have_weights_for_the_level_below_and_two_ways_have_two_networks():
    with torch.device("meta"):
        part = GRURCN({"rgb": Shape(10, 3, 224, 224)}, **PAPER, stacked=True, bidirectional=True)
    plain = [331_776, 1_327_104, 5_308_416, 5_308_416, 7_077_888]
    below = [0, 27 * 64 * 128, 27 * 128 * 256, 27 * 256 * 256, 3 * 256 * 512]
    assert sizes(part) == [n + more for n, more in zip(plain, below, strict=True)]
    assert sum(p.numel() for p in part.ways.parameters()) == 2 * sum(sizes(part))
    assert [shape.channels for shape in part.out.values()] == [128, 256, 512, 512, 1024]


def test_one_number_of_hidden_serves_all_levels_and_all_levels_are_the_default():
    part = build(levels=None, vector=False, hidden=6)
    assert [shape.channels for shape in part.out.values()] == [6] * 5


def test_every_trainable_parameter_gets_a_gradient():
    part = build(stacked=True, bidirectional=True, levels=[0, 2], vector=False, hidden=4)
    levels = part({"rgb": clip([[1, 1, 1]])})
    torch.stack([f.x.square().sum() for f in levels.values()]).sum().backward()
    for name, p in part.named_parameters():
        assert (p.grad is not None) == p.requires_grad, name


def test_what_comes_along_goes_on_and_counts_once():
    features = clip(MASKS["any"])
    penalty, log_prob = torch.tensor(0.5), torch.zeros(3, 4)
    extra = {"note": torch.tensor(2.0)}
    given = features._replace(penalty=penalty, log_prob=log_prob, extra=extra)
    levels = list(build()({"rgb": given}).values())
    assert [f.penalty for f in levels] == [penalty, None, None]
    assert levels[0].log_prob is log_prob
    assert [f.log_prob for f in levels[1:]] == [None, None]
    assert all(f.extra == extra for f in levels)


def test_stages_hold_each_trainable_parameter_once():
    part = build()
    held = [id(p) for stage in part.stages() for p in stage.parameters()]
    assert sorted(held) == sorted(id(p) for p in part.parameters() if p.requires_grad)


def test_frames_may_have_any_size():
    part = build(Shape(None, 3, None, None), stacked=True)
    assert part.out["level1"] == Shape(1, 3, None, None)
    assert part.out["level3"] == Shape(1, 5, 1, 1)
    levels = part({"rgb": clip(MASKS["any"])})
    assert [f.x.shape[2:] for f in levels.values()] == [(3, 4, 6), (4, 1, 2), (5, 1, 1)]


def test_works_under_autocast_and_in_half_precision():
    part, features = build(dtype=torch.float32), clip(MASKS["any"], dtype=torch.float32)
    wanted = part({"rgb": features})
    with torch.autocast("cpu", torch.bfloat16):
        found = part({"rgb": features})
    half = part.bfloat16()({"rgb": features._replace(x=features.x.bfloat16())})
    for name, level in wanted.items():
        torch.testing.assert_close(found[name].x.float(), level.x, rtol=0.05, atol=0.05)
        assert half[name].x.dtype == torch.bfloat16
        assert half[name].x.isfinite().all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("variant", ["plain", "both"])
def test_an_exported_one_holds_the_states_too(variant):
    part = build(**VARIANTS[variant])
    exported = torch.export.export(part, ({"rgb": clip([[1] * 4] * 3)},)).module()
    features = clip(MASKS["any"], padding=7.0)
    got, wanted = exported({"rgb": features}), part({"rgb": features})
    for name, level in wanted.items():
        torch.testing.assert_close(got[name].x, level.x, rtol=0, atol=1e-9)


def test_pickle():
    part, inputs = build(stacked=True), {"rgb": clip(MASKS["any"])}
    copy = pickle.loads(pickle.dumps(part))
    for name, level in part(inputs).items():
        assert torch.equal(copy(inputs)[name].x, level.x)


@pytest.mark.parametrize(
    ("inp", "options", "sentence"),
    [
        (
            {"rgb": INP, "flow": Shape(4, 2, None, 48)},
            {},
            r"one stream of frames, but gets 2, 'rgb' of 4x3x32x48 and 'flow' of 4x2x\?x48",
        ),
        ({}, {}, "one stream of frames, but gets 0"),
        ({"rgb": INP}, {"hidden": [3, 4]}, "has 3 levels, but 2 numbers of hidden"),
        ({"rgb": INP}, {"hidden": 0}, "1 or more hidden channels, but got 0"),
        ({"rgb": INP}, {"kernel": 2}, "odd kernels.* but got 2; set it to 3"),
        ({"rgb": Shape(4, None, 32, 48)}, {}, "fixed number of channels"),
    ],
)
def test_refuses(inp, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        GRURCN(inp, **{**SMALL, **options})
