import pickle

import pytest
import torch

from actionkit.backbones.timm import Timm, _checkpoint
from actionkit.contracts import Features, Shape

ARCHS = {  # maps, tokens, tokens without a class token, maps in NHWC order
    "test_resnet": (96, 2, 2),
    "resnet18": (512, 2, 2),
    "test_efficientnet": (256, 2, 2),
    "mobilenetv3_small_050": (288, 2, 2),
    "test_vit": (64, 4, 3),
    "test_vit_relpos": (96, 4, 3),
    "test_mambaout": (64, 2, 2),
}


def clip(batch=2, steps=3, channels=3, height=64, width=48):
    x = torch.randn(batch, steps, channels, height, width)
    return Features(x, torch.ones(batch, steps, dtype=torch.bool))


def build(arch="test_resnet", channels=3, **options):
    torch.manual_seed(0)
    return Timm(Shape(3, channels, 64, 48), arch=arch, **options)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("channels", [1, 20])
def test_shape_is_true_for_any_number_of_channels(arch, channels):
    net = build(arch, channels)
    y = net(clip(channels=channels))
    assert net.out == Shape(3, *ARCHS[arch])
    assert y.x.shape == (2, *net.out)


@pytest.mark.parametrize("arch", ["swin_tiny_patch4_window7_224", "hiera_tiny_224"])
def test_pretrained_on_meta_needs_no_weights(arch):
    with torch.device("meta"):
        net = Timm(Shape(None, 3, 224, 224), arch=arch, pretrained=True)
    assert net.out == Shape(None, 768, 7, 7)
    assert all(p.is_meta for p in net.parameters())


def test_a_size_that_varies_stays_unknown():
    net = Timm(Shape(None, 2, None, 96), arch="test_resnet")
    assert net.out == Shape(None, 96, None, 3)
    assert net(clip(channels=2, height=160, width=96)).x.shape == (2, 3, 96, 5, 3)


def test_tokens_become_the_maps_of_their_places():
    net = build("test_vit").eval()
    frames = clip(batch=1, steps=1)
    tokens = net.net.forward_features(frames.x[0])  # [1, prefix + 12, C]
    maps = net(frames).x[0]
    assert net.net.num_prefix_tokens == 1
    for row in range(4):
        for column in range(3):
            torch.testing.assert_close(maps[0, :, row, column], tokens[0, 1 + 3 * row + column])


def test_nhwc_maps_are_turned():
    net = build("test_mambaout").eval()
    frames = clip(batch=1, steps=1)
    nhwc = net.net.forward_features(frames.x[0])
    assert nhwc.shape[-1] == net.out.channels
    torch.testing.assert_close(net(frames).x[0, 0], nhwc[0].permute(2, 0, 1))


@pytest.mark.parametrize("padding", [0.0, 1e4, float("nan"), float("inf")])
def test_batch_norm_in_training_sees_no_padding(padding):
    """Outputs, gradients and running statistics equal those of the real steps alone."""
    full = clip(batch=2, steps=3)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    x = full.x.masked_fill(~mask[:, :, None, None, None], padding)
    padded, alone = build(), build()
    y = padded(Features(x, mask)).x
    wanted = alone(Features(full.x[mask][None], torch.ones(1, 3, dtype=torch.bool))).x
    torch.testing.assert_close(y[mask], wanted[0])
    assert (y[~mask] == 0).all()
    y.square().sum().backward()
    wanted.square().sum().backward()
    for (name, p), q in zip(padded.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-4, msg=name)
    for p, q in zip(padded.buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("arch", ARCHS)
def test_every_trainable_parameter_gets_a_gradient(arch):
    net = build(arch)
    net(clip()).x.square().sum().backward()
    for name, p in net.named_parameters():
        assert (p.grad is not None) == p.requires_grad, name
        assert p.grad is None or p.grad.isfinite().all(), name


def test_what_only_the_classifier_uses_is_frozen():
    frozen = [n for n, p in build("test_mambaout").named_parameters() if not p.requires_grad]
    assert frozen
    assert all(name.startswith("net.head.") for name in frozen)


def test_stages_of_a_resnet():
    net = build("resnet18")
    stages = net.stages()
    assert [list(s) for s in stages] == [
        [net.net.conv1, net.net.bn1],
        [net.net.layer1],
        [net.net.layer2],
        [net.net.layer3],
        [net.net.layer4],
    ]


def test_stages_stay_when_some_are_frozen():
    net = build("test_resnet")
    stages = [list(s) for s in net.stages()]
    for module in stages[0]:
        module.requires_grad_(False)
    assert [list(s) for s in net.stages()] == stages


@pytest.mark.parametrize("arch", [*ARCHS, "poolformer_s12"])
def test_stages_hold_each_trainable_parameter_once(arch):
    with torch.device("meta"):
        net = Timm(Shape(3, 3, 64, 64), arch=arch)
    stages = net.stages()
    held = [id(p) for stage in stages for p in stage.parameters()]
    assert sorted(held) == sorted(id(p) for p in net.parameters() if p.requires_grad)
    assert len(stages) >= 4


def test_the_stem_of_a_vit_holds_its_embeddings():
    net = build("test_vit")
    stem = {id(p) for p in net.stages()[0].parameters()}
    own = [net.net.cls_token, net.net.pos_embed, *net.net.patch_embed.parameters()]
    assert stem == {id(p) for p in own}


def test_weights_and_frames_are_channels_last():
    net = build("resnet18").eval()
    assert net.net.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    seen = []
    net.net.conv1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    frames = clip()
    before = frames.x.clone()
    net(frames)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(frames.x, before)
    assert frames.x.is_contiguous()


def test_bf16_pickle_and_other_fields():
    net = build().eval()
    frames = clip()._replace(boxes=torch.rand(2, 3, 1, 4), penalty=torch.tensor(1.0))
    y = net(frames)
    assert y.boxes is frames.boxes
    assert y.penalty is frames.penalty
    assert torch.equal(pickle.loads(pickle.dumps(net))(frames).x, y.x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(net(frames).x.float(), y.x, rtol=0.1, atol=0.1)


def test_drop_path_reaches_the_network():
    net = build("test_vit", drop_path=0.3)
    assert net.net.blocks[-1].drop_path1.drop_prob == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("inp", "options", "sentence"),
    [
        ((3, 64, 64), {"arch": "resnet_18"}, r"no network 'resnet_18'.*did you mean 'resnet18'"),
        ((3, 64, 64), {"arch": "resnet18.nonsense"}, r"did you mean 'resnet18\."),
        ((3, 64, 64), {"arch": "@"}, r"timm.list_models\(\) gives all names"),
        ((3, 64, 64), {"arch": "hf-hub:a/b"}, r"points to a hub or a folder.*weights: FILE"),
        ((3, 64, 64), {"arch": "local-dir:x"}, r"points to a hub or a folder"),
        ((3, 64, 64), {"arch": "./resnet18"}, r"points to a hub or a folder"),
        ((None, 64, 64), {"arch": "resnet18"}, r"needs a fixed number of channels"),
        ((3, None, 64), {"arch": "test_vit"}, r"frames of one size only.*resize"),
        ((3, 224, 224), {"arch": "coat_tiny"}, r"neither one map nor .*choose another arch"),
        ((3, 224, 224), {"arch": "pit_b_224"}, r"1 tokens are not a grid of 31x31"),
        ((3, 64, 64), {"arch": "densenet121", "drop_path": 0.1}, r"leave drop_path out"),
        ((3, 64, 64), {"arch": "test_mambaout", "pretrained": True}, r"leave pretrained out"),
    ],
)
def test_refuses(inp, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Timm(Shape(3, *inp), **options)


def test_pretrained_without_internet(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"cannot get .* 'test_resnet'.* download .*weights: FILE"):
        build(pretrained=True)


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit", "test_efficientnet"])
def test_checkpointed_gradients_are_the_same(arch):
    plain, twice = (build(arch, grad_checkpointing=value).double() for value in (False, True))
    frames = clip()._replace(x=clip().x.double())
    saved = [0, 0]
    for i, net in enumerate((plain, twice)):

        def keep(tensor, i=i):
            saved[i] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            y = net(frames).x
        y.square().sum().backward()
    assert saved[1] < saved[0]
    for (name, p), q in zip(plain.named_parameters(), twice.parameters(), strict=True):
        if p.requires_grad:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-9, msg=name)


def test_says_where_activations_cannot_be_computed_twice():
    class Refuses(torch.nn.Module):
        def set_grad_checkpointing(self, enable):
            assert not enable, "not supported"  # as timm's networks do

    for net in (Refuses(), torch.nn.Identity()):
        with pytest.raises(ValueError, match=r"cannot .*'x' twice; leave grad_checkpointing out"):
            _checkpoint(net, "x")
