import math
import pickle

import pytest
import timm
import torch
from torch.nn.functional import gelu, layer_norm, linear, pad

from actionkit.backbones.timesformer import TimeSformer
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


def build(steps=4, arch="test_vit", **options):
    torch.manual_seed(0)
    return TimeSformer(Shape(steps, 3, 32, 48), arch=arch, **options)


def awake(net):
    """Attention over time that does something."""
    torch.manual_seed(2)
    torch.nn.init.normal_(net.time, std=0.5)
    for time in net.divided:
        for parameter in time.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return net


def clips(mask=MASK, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return Features(torch.randn(*mask.shape, 3, 32, 48, generator=generator, dtype=dtype), mask)


def attention(layer, x):
    """Multi-head attention of tokens [L, D], a head and a query at a time."""
    size = x.shape[1] // layer.num_heads
    q, k, v = linear(x, layer.qkv.weight, layer.qkv.bias).view(len(x), 3, -1, size).unbind(1)
    heads = []
    for head in range(layer.num_heads):
        share = (q[:, head] @ k[:, head].T / math.sqrt(size)).softmax(1)
        heads.append(share @ v[:, head])
    return linear(torch.cat(heads, 1), layer.proj.weight, layer.proj.bias)


def norm(layer, x):
    return layer_norm(x, x.shape[-1:], layer.weight, layer.bias, layer.eps)


def naive(part, frames):
    """Class token [D] and patches [T, L, D] of one clip's real frames, as the paper writes it."""
    net = part.net
    patches = net.patch_embed.proj(frames).flatten(2).transpose(1, 2)  # [T, L, D]
    x = patches + net.pos_embed[:, 1:] + part.time[: len(frames), None]
    token = (net.cls_token + net.pos_embed[:, :1])[0, 0]
    for block, time in zip(net.blocks, part.divided, strict=True):
        over_time = [attention(time.attn, norm(time.norm, x[:, i])) for i in range(x.shape[1])]
        x = x + linear(torch.stack(over_time, 1), time.fc.weight, time.fc.bias)
        both = [torch.cat([token[None], frame]) for frame in x]
        seen = torch.stack([attention(block.attn, norm(block.norm1, tokens)) for tokens in both])
        token, x = token + seen[:, 0].mean(0), x + seen[:, 1:]

        def mlp(tokens, block=block):
            inner = gelu(
                linear(norm(block.norm2, tokens), block.mlp.fc1.weight, block.mlp.fc1.bias)
            )
            return tokens + linear(inner, block.mlp.fc2.weight, block.mlp.fc2.bias)

        token, x = mlp(token), mlp(x)
    return norm(net.norm, token), norm(net.norm, x)


@pytest.mark.parametrize("tokens", ["class", "patches"])
def test_is_what_the_paper_writes(tokens):
    part, frames = awake(build(tokens=tokens)).double(), clips(dtype=torch.float64)
    frames.x[~MASK] = torch.nan
    frames.x.requires_grad_()
    y = part(frames)
    results = [naive(part, x[m]) for x, m in zip(frames.x, MASK, strict=True) if m.any()]
    if tokens == "class":
        got, wanted = y.x[:3, 0, :, 0, 0], torch.stack([token for token, _ in results])
        assert y.mask.tolist() == [[True], [True], [True], [False]]
        assert (y.x[3] == 0).all()
    else:
        got, wanted = y.x[MASK], torch.cat([x for _, x in results])
        wanted = wanted.transpose(1, 2).unflatten(2, (2, 3))
        assert (y.x[~MASK] == 0).all()
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)
    weight = torch.randn_like(wanted)
    parameters = [frames.x, *part.parameters()]
    pairs = [torch.autograd.grad((z * weight).sum(), parameters) for z in (got, wanted)]
    for a, b in zip(*pairs, strict=True):
        torch.testing.assert_close(a.nan_to_num(), b, rtol=1e-8, atol=1e-9)


def test_parameters_of_the_paper():
    with torch.device("meta"):
        part = TimeSformer(Shape(8, 3, 224, 224), arch="vit_base_patch16_224")
        head = torch.nn.Linear(part.out.channels, 400)
    assert part.out == Shape(1, 768, 1, 1)
    assert sum(p.numel() for m in (part, head) for p in m.parameters()) == 121_566_352


def test_at_the_start_patches_do_not_see_other_frames_but_through_the_class():
    """A clip of one frame, again and again, is the image to the plain network."""
    net = timm.create_model("test_vit", num_classes=0, img_size=(32, 48)).eval()
    part = build().eval()
    part.net.load_state_dict(net.state_dict())
    frame = clips().x[:1, :1]
    y = part(Features(frame.expand(-1, 4, -1, -1, -1), MASK[:1])).x.flatten()
    torch.testing.assert_close(y, net.forward_features(frame[0])[0, 0])


def test_time_starts_from_space():
    part = build()
    for block, time in zip(part.net.blocks, part.divided, strict=True):
        for one, other in ((block.norm1, time.norm), (block.attn, time.attn)):
            for p, q in zip(one.parameters(), other.parameters(), strict=True):
                assert torch.equal(p, q)
        assert not any(p.any() for p in time.fc.parameters())
    assert not part.time.any()


@pytest.mark.parametrize("prefix", ["", "streams.rgb.backbone."])
def test_weights_of_a_plain_transformer_begin_both(prefix):
    torch.manual_seed(5)
    plain = Timm(Shape(4, 3, 32, 48), arch="test_vit").state_dict()
    part = build()
    outer = part
    for name in reversed(prefix.split(".")[:-1]):
        outer = torch.nn.ModuleDict({name: outer})
    given = {f"{prefix}{key}": value for key, value in plain.items()}
    missing, unexpected = outer.load_state_dict(given, strict=False)
    assert unexpected == []
    assert {name.removeprefix(prefix) for name in missing} == {
        "time",
        *(f"divided.{i}.fc.{kind}" for i in range(6) for kind in ("weight", "bias")),
    }
    assert torch.equal(part.divided[3].attn.qkv.weight, plain["net.blocks.3.attn.qkv.weight"])
    assert torch.equal(part.divided[3].norm.bias, plain["net.blocks.3.norm1.bias"])


def test_own_weights_stay_what_they_were():
    trained, part = awake(build()), build()
    part.load_state_dict(trained.state_dict())
    assert all(torch.equal(v, part.state_dict()[k]) for k, v in trained.state_dict().items())


@pytest.mark.parametrize("tokens", ["class", "patches"])
def test_padding_is_neither_read_nor_written(tokens):
    part, frames = awake(build(tokens=tokens, longest=9)).eval(), clips()
    wanted = part(frames)
    x = torch.where(MASK[..., None, None, None], frames.x, torch.nan)
    more = part(Features(pad(x, (*[0] * 6, 2, 3)), pad(MASK, (2, 3))))
    got, there = (more, wanted) if tokens == "class" else (more.x[:, 2:6][MASK], wanted.x[MASK])
    if tokens == "class":
        got, there = got.x, there.x
    torch.testing.assert_close(got, there)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_sizes(steps):
    mask = torch.ones(2, steps, dtype=torch.bool)
    for tokens, out in (("class", (1, 64, 1, 1)), ("patches", (steps, 64, 2, 3))):
        part = build(steps, tokens=tokens)
        assert part.out == Shape(*out)
        assert part(clips(mask)).x.shape == (2, *out)
    other = build(steps, arch="test_vit2", tokens="patches")  # no class token, another one in front
    assert other(clips(mask)).x.shape == (2, steps, 64, 2, 3)


def test_the_order_of_frames_counts():
    part, frames = awake(build()).eval(), clips(MASK[:1])
    turned = frames._replace(x=frames.x.flip(1))
    assert (part(frames).x - part(turned).x).abs().max() > 1e-3


def test_checkpointed_gradients_are_the_same():
    frames, gradients, kept = clips(dtype=torch.float64), [], [0, 0]
    for again in (False, True):
        part = awake(build(grad_checkpointing=again)).double()

        def keep(tensor, again=again):
            kept[again] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            y = part(frames).x
        y.square().sum().backward()
        gradients.append([p.grad for p in part.parameters()])
    assert kept[1] < kept[0] / 2
    for got, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-8)


def test_stages_hold_each_parameter_once():
    part = build()
    stages = part.stages()
    held = [id(p) for stage in stages for p in stage.parameters()]
    assert sorted(held) == sorted(id(p) for p in part.parameters())
    assert any(p is part.time for p in stages[0].parameters())
    for i, (block, time) in enumerate(zip(part.net.blocks, part.divided, strict=True), 1):
        inside = {id(p) for p in stages[i].parameters()}
        assert {id(p) for m in (block, time) for p in m.parameters()} <= inside


def test_copies_exports_and_bf16():
    part, frames = awake(build(tokens="patches")).eval(), clips()
    wanted = part(frames).x
    assert torch.equal(pickle.loads(pickle.dumps(part))(frames).x, wanted)
    exported = torch.export.export(part, (clips(torch.ones_like(MASK)),)).module()
    torch.testing.assert_close(exported(frames).x[MASK], wanted[MASK], rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        got = part(frames).x
    assert (got.float() - wanted).norm() < 0.1 * wanted.norm()


def test_drop_path_reaches_both_attentions():
    part, frames = awake(build(drop_path=0.999)), clips(MASK[:1])
    assert not torch.equal(part(frames).x, part.eval()(frames).x)


@pytest.mark.parametrize(
    ("steps", "options", "sentence"),
    [
        (None, {}, "number varies here; set longest to the most there can be"),
        (7, {"longest": 4}, "knows 4 times, but gets 7 steps; set longest to 7 or more"),
        (4, {"arch": "test_resnet"}, "plain vision transformer .* 'test_resnet' is none; choose"),
        (4, {"arch": "test_vit2"}, "with a class token, but 'test_vit2' is none"),
        (4, {"arch": "vit_small"}, "finds no network 'vit_small'"),
    ],
)
def test_refuses(steps, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(steps, **options)


def test_refuses_more_steps_than_it_has_times():
    part = build(None, longest=3)
    with pytest.raises(ValueError, match="knows 3 times, but gets 4 steps; set longest"):
        part(clips())
