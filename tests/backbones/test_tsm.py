import copy
import pickle

import pytest
import timm
import torch

from actionkit.backbones.over_time import Layout, Recomputed
from actionkit.backbones.timm import Timm
from actionkit.backbones.tsm import TSM, shift, shift_frames
from actionkit.contracts import Features, Shape

MASK = torch.tensor(
    [
        [True, True, True, True, True, True, True],
        [False, True, False, False, True, True, False],
        [False, False, True, False, False, False, False],
        [False, False, False, False, False, False, False],
    ]
)
BLOCKS = {  # families of residual blocks, and how many shift
    "test_resnet": 4,
    "resnet101": 18,
    "seresnet50": 16,
    "skresnet18": 8,
    "resnetv2_18": 8,
    "nf_resnet26": 8,
    "mobilenetv2_100": 10,
    "convnext_atto": 12,
    "gernet_s": 14,
}


def build(cls=TSM, steps=7, arch="test_resnet", size=48, **options):
    torch.manual_seed(0)
    return cls(Shape(steps, 3, size, size), arch=arch, **options)


def clips(mask=MASK, size=48, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(*mask.shape, 3, size, size, generator=generator, dtype=dtype)
    return Features(x, mask)


def naive(x, mask, fold=8, online=False):
    """Each channel of each real step by itself, x [B, T, C, H, W]."""
    share, out = x.shape[2] // fold, torch.zeros_like(x)
    for clip, real in enumerate(mask.tolist()):
        steps = [t for t, known in enumerate(real) if known]
        for place, step in enumerate(steps):
            for channel in range(x.shape[2]):
                by = 0
                if channel < share:
                    by = -1 if online else 1
                elif channel < 2 * share and not online:
                    by = -1
                if 0 <= place + by < len(steps):
                    out[clip, step, channel] = x[clip, steps[place + by], channel]
    return out


@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_shift_is_the_one_by_index(steps, last, online):
    x = torch.randn(3, steps, 17, 2, 4, dtype=torch.float64)
    if last:
        x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (3, steps))
    x.requires_grad_()
    wanted = naive(x, torch.ones(3, steps, dtype=torch.bool), online=online)
    got = shift(x, online=online)
    assert torch.equal(got, wanted)
    weight = torch.randn_like(x)
    gradients = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (got, wanted)]
    assert torch.equal(*gradients)


@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_shift_of_packed_frames_is_the_one_by_index(whole, online):
    """Whole: padded steps are among the frames, NaN, as in an exported network."""
    x = torch.randn(*MASK.shape, 16, 2, 2, dtype=torch.float64).requires_grad_()
    wanted = naive(x, MASK, online=online)[MASK]
    layout = Layout(*MASK.shape, MASK, whole=whole)
    nan = x.masked_fill(~MASK[..., None, None, None], torch.nan)
    got = shift_frames(nan.flatten(0, 1) if whole else x[MASK], layout, online=online)
    got = got[MASK.flatten()] if whole else got
    assert torch.equal(got, wanted)
    weight = torch.randn_like(wanted)
    gradients = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (got, wanted)]
    assert torch.equal(gradients[0].nan_to_num(), gradients[1])


def test_a_shift_forth_and_back_restores_all_but_the_ends():
    x = torch.randn(2, 6, 16, 1, 1)
    there = shift(x)
    back = shift(there[:, :, [2, 3, 0, 1, *range(4, 16)]])[:, :, [2, 3, 0, 1, *range(4, 16)]]
    assert torch.equal(back[:, 1:-1], x[:, 1:-1])
    assert torch.equal(there[:, :, 4:], x[:, :, 4:])
    torch.testing.assert_close(there[:, :, :2].sum(1), x[:, 1:, :2].sum(1))


def test_one_step_loses_what_would_come_from_its_neighbours():
    y = shift(torch.ones(1, 1, 16, 1, 1)).flatten()
    assert y.tolist() == [0.0] * 4 + [1.0] * 12


def test_shift_keeps_channels_last():
    x = torch.randn(6, 16, 3, 3).contiguous(memory_format=torch.channels_last)
    layout = Layout(2, 3)
    assert shift_frames(x, layout).is_contiguous(memory_format=torch.channels_last)
    assert shift_frames(x.contiguous(), layout).is_contiguous()


@pytest.mark.parametrize("whole", [False, True])
def test_a_grid_is_packed_as_it_came(whole):
    layout, x = Layout(*MASK.shape, MASK, whole=whole), torch.randn(28, 2, 3)
    frames = x if whole else x[MASK.flatten()]
    grid = layout.grid(frames)
    assert torch.equal(grid[MASK], x[MASK.flatten()])
    assert (grid[~MASK] == 0).all()
    assert torch.equal(
        layout.pack(grid)[MASK.flatten()] if whole else layout.pack(grid), grid[MASK]
    )


@pytest.mark.parametrize("places", ["residual", "in_place"])
def test_every_block_of_a_resnet_shifts(places):
    """The network written out: the plain blocks of timm, given their input shifted by index."""
    net, frames = build(places=places).eval().double(), clips(dtype=torch.float64)
    plain = timm.create_model("test_resnet", num_classes=0).eval().double()
    plain.load_state_dict(net.net.state_dict())

    def shifted(x):
        full = x.new_zeros(*MASK.shape, *x.shape[1:])
        full[MASK] = x
        return naive(full, MASK)[MASK]

    x = plain.maxpool(plain.act1(plain.bn1(plain.conv1(frames.x[MASK]))))
    for stage in (plain.layer1, plain.layer2, plain.layer3, plain.layer4):
        for block in stage:
            if places == "in_place":
                x = block(shifted(x))
                continue
            there, branch, shortcut = x, shifted(x), block.downsample
            for name, layer in block.named_children():
                if name == "downsample" or (name.startswith("act") and name == last_act(block)):
                    continue
                branch = layer(branch)
            x = (branch + (there if shortcut is None else shortcut(there))).relu()
    torch.testing.assert_close(net(frames).x[MASK], x, rtol=1e-10, atol=1e-10)


def last_act(block):
    return [name for name, _ in block.named_children() if name.startswith("act")][-1]


@pytest.mark.parametrize("places", ["residual", "in_place"])
def test_weights_keep_the_names_of_timm(places):
    net = build(places=places, grad_checkpointing=True)
    net.load_state_dict(build(Timm).state_dict())
    net.net.load_state_dict(timm.create_model("test_resnet", num_classes=0).state_dict())


@pytest.mark.parametrize("arch", BLOCKS)
def test_finds_the_blocks_of_other_families(arch):
    with torch.device("meta"):
        net = TSM(Shape(2, 3, 64, 64), arch=arch).eval()
        x = torch.randn(1, 2, 3, 64, 64)
    shifts = [m for m in net.modules() if m._forward_pre_hooks]
    assert len(shifts) == BLOCKS[arch]
    with net.clips.of(Layout(1, 2)):
        assert net.net.forward_features(x[0]).shape[1:] == net.out[1:]


@pytest.mark.parametrize("arch", ["resnet50", "resnet101"])
def test_a_shift_has_no_parameters(arch):
    with torch.device("meta"):
        shifted, plain = (cls(Shape(8, 3, 224, 224), arch=arch) for cls in (TSM, Timm))
    count = sum(p.numel() for p in shifted.parameters())
    assert count == sum(p.numel() for p in plain.parameters())
    if arch == "resnet50":
        assert [count + k * 2049 for k in (51, 101, 174, 400)] == [
            23_612_531,
            23_714_981,
            23_864_558,
            24_327_632,
        ]


@pytest.mark.parametrize("padding", [0.0, torch.nan])
def test_padding_changes_nothing_in_training(padding):
    """Outputs, gradients and running statistics are those of the clips one after the other."""
    frames, padded, alone = clips(), build(), build()
    x = frames.x.masked_fill(~MASK[..., None, None, None], padding)
    y = padded(Features(x, MASK)).x
    assert (y[~MASK] == 0).all()
    tight = torch.arange(7) < MASK.sum(1, keepdim=True)
    moved = torch.zeros_like(frames.x)
    moved[tight] = frames.x[MASK]
    wanted = alone(Features(moved, tight)).x
    torch.testing.assert_close(y[MASK], wanted[tight])
    y.square().sum().backward()
    wanted.square().sum().backward()
    for (name, p), q in zip(padded.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-4, msg=name)
    for p, q in zip(padded.buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(p, q)


def test_online_no_frame_knows_of_later_ones():
    net, frames = build(online=True).eval(), clips(MASK[:1])
    later = frames.x.clone()
    later[:, 4:] += 1
    before, after = net(frames).x, net(frames._replace(x=later)).x
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert (before[:, 4:] != after[:, 4:]).any(2).all()


def test_checkpointed_gradients_are_those_of_each_forward():
    """Two forwards of other clips before the first backward, as views or streams make them."""
    frames = clips(dtype=torch.float64)
    gradients = []
    for again in (False, True):
        net = build(grad_checkpointing=again).double()
        full = Features(frames.x[:1], MASK[:1])
        net.eval().train()
        loss = net(frames).x.square().sum() + net(full).x.square().sum()
        loss.backward()
        gradients.append([p.grad for p in net.parameters()])
        assert any(isinstance(m, Recomputed) for m in net.modules()) == again
    for got, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


def test_checkpointing_keeps_less():
    saved = []
    for again in (False, True):
        net, kept = build(grad_checkpointing=again), []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t
        ):
            net(clips())
        saved.append(sum(kept))
    assert saved[1] < 0.7 * saved[0]


def test_nothing_of_a_batch_stays():
    net = build()
    net(clips())
    assert net.clips._layout is None
    with pytest.raises(RuntimeError, match="to have 3 channels"):
        net(Features(torch.randn(1, 2, 5, 48, 48), torch.ones(1, 2, dtype=torch.bool)))
    assert net.clips._layout is None
    with pytest.raises(RuntimeError, match="call its backbone, not its net"):
        net.net(torch.randn(2, 3, 48, 48))


def test_copies_read_their_own_clips():
    net, frames = build().eval(), clips()
    wanted = net(frames).x
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(frames).x, wanted)
        hooks = [h for m in twin.modules() for h in m._forward_pre_hooks.values()]
        assert all(hook.clips is twin.clips for hook in hooks)
        assert twin.clips is not net.clips


def test_exported_it_takes_clips_with_padding():
    net = build().eval()
    full = clips(torch.ones(4, 7, dtype=torch.bool))
    exported = torch.export.export(net, (full,)).module()
    frames = clips()
    x = frames.x.masked_fill(~MASK[..., None, None, None], torch.nan)
    got = exported(Features(x, MASK)).x
    torch.testing.assert_close(got[MASK], net(frames).x[MASK], rtol=1e-4, atol=1e-5)


def test_bf16():
    net, frames = build().eval(), clips()
    with torch.autocast("cpu", torch.bfloat16):
        y = net(frames).x
    torch.testing.assert_close(y.float(), net(frames).x, rtol=0.1, atol=0.1)


def test_stages_are_those_of_timm():
    shifted, plain = build(grad_checkpointing=True).stages(), build(Timm).stages()
    counts = [[sum(p.numel() for p in s.parameters()) for s in part] for part in (shifted, plain)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"arch": "vgg11"}, "finds no rows of residual blocks in 'vgg11'; choose .* resnet50"),
        ({"arch": "test_vit"}, "finds no rows of residual blocks in 'test_vit'"),
        ({"fold": 1}, "one of 2 or more channels .* got fold 1; set fold to 8"),
        ({"arch": "resnet_18"}, "did you mean 'resnet18'"),
    ],
)
def test_refuses(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(**options)
