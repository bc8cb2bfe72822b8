"""The network by hand: views, streams, fusion, joint, frozen parts, weights."""

import pickle
from pathlib import Path

import pytest
import torch
from parts_for_tests import Cross
from torch import nn

from actionkit.aggregators.pooling import Mean, SpatialPool
from actionkit.contracts import Clip, Features, Part, Shape
from actionkit.fusions.scores import Average
from actionkit.heads.linear import Linear
from actionkit.network import (
    SCORES,
    Chain,
    Network,
    Parts,
    fold,
    freeze,
    load_weights,
    output_name,
    restore,
)

B, V, T, C, SIZE = 2, 3, 4, 3, 5
CLASSES = ("a", "b")
FRAMES = Shape(T, C, SIZE, SIZE)


def clip(channels=C, seed=0) -> Clip:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(B, V, T, dtype=torch.bool)
    mask[0, 1, 2:] = False
    x = torch.rand(B, V, T, channels, SIZE, SIZE, generator=generator)
    return Clip(x, mask, torch.zeros(B, V, T), "rgb")


class Norm(Part):
    """A convolution and a batch norm over real and padded steps alike."""

    def __init__(self, inp: Shape, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inp.channels, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.out = inp._replace(channels=width)

    def forward(self, features: Features) -> Features:
        x = self.norm(self.conv(features.x.flatten(0, 1)))
        return features._replace(x=x.unflatten(0, features.mask.shape))


def chain(shape=FRAMES, heads=(SCORES,), then=()) -> Chain:
    backbone = Norm(shape)
    pool = SpatialPool(backbone.out)
    head = {name: Linear(pool.out, CLASSES) for name in heads}
    return Chain(
        (),
        [backbone],
        [pool],
        head,
        {name: [Mean(h.out) for _ in then] for name, h in head.items()},
    )


# --------------------------------------------------------------------------------------- views


def test_fold_lays_views_into_the_batch_without_a_copy():
    given, boxes = clip(), torch.rand(B, V, T, 1, 4)
    features = fold(given, boxes)
    assert features.x.shape == (B * V, T, C, SIZE, SIZE)
    assert features.x.data_ptr() == given.x.data_ptr()
    assert features.mask.shape == (B * V, T)
    assert features.boxes.shape == (B * V, T, 1, 4)
    for b in range(B):
        for v in range(V):
            assert torch.equal(features.x[b * V + v], given.x[b, v])
            assert torch.equal(features.boxes[b * V + v], boxes[b, v])
    assert fold(given).boxes is None


def test_restore_is_the_inverse_of_fold_for_every_field():
    given, boxes = clip(), torch.rand(B, V, T, 1, 4)
    extra, penalty = {"a": torch.tensor(1.0)}, torch.tensor(2.0)
    features = fold(given, boxes)._replace(
        attention=torch.rand(B * V, T, 1, 2, 2),
        log_prob=torch.rand(B * V, T),
        penalty=penalty,
        extra=extra,
    )
    back = restore(features, V)
    assert torch.equal(back.x, given.x)
    assert torch.equal(back.mask, given.mask)
    assert torch.equal(back.boxes, boxes)
    assert torch.equal(back.attention.flatten(0, 1), features.attention)
    assert torch.equal(back.log_prob.flatten(0, 1), features.log_prob)
    assert back.penalty is penalty
    assert back.extra is extra
    assert restore(fold(given), V).attention is None


def test_every_view_has_the_scores_it_would_have_alone():
    network = Network({"rgb": chain(then="m")}, {"rgb": "rgb"}).eval()
    given = clip()
    together = network({"rgb": given})[SCORES]
    assert together.x.shape == (B, V, 1, 2, 1, 1)
    assert together.mask.shape == (B, V, 1)
    for v in range(V):
        alone = network({"rgb": Clip(*(t[:, v : v + 1] for t in given[:3]), "rgb")})[SCORES]
        torch.testing.assert_close(alone.x[:, 0], together.x[:, v])


# --------------------------------------------------------------------------------- arrangements


def test_one_stream_needs_no_fusion():
    network = Network({"rgb": chain()}, {"rgb": "rgb"})
    output = network({"rgb": clip()})
    assert set(output) == {"rgb", SCORES}
    assert output["rgb"].x is not None
    assert torch.equal(output["rgb"].x, output[SCORES].x)


def test_late_fusion_is_the_fusion_of_what_the_streams_say():
    shape = Shape(T, 2, 1, 1)
    fusion = Average({"rgb": shape, "other": shape}, weights={"rgb": 3, "other": 1}, of="logits")
    network = Network(
        {"rgb": chain(), "other": chain()}, {"rgb": "rgb", "other": "rgb"}, None, fusion
    )
    output = network({"rgb": clip()})
    assert set(output) == {"rgb", "other", SCORES}
    expected = 0.75 * output["rgb"].x + 0.25 * output["other"].x
    real = clip().mask
    torch.testing.assert_close(output[SCORES].x[real], expected[real])


def test_streams_take_their_own_modality():
    flow = chain(Shape(T, 2, SIZE, SIZE))
    network = Network({"a": chain(), "b": flow}, {"a": "rgb", "b": "flow"})
    output = network({"rgb": clip(), "flow": clip(2)})
    assert set(output) == {"a", "b"}, "streams with heads and no fusion"


def test_several_heads_have_their_names_and_no_common_scores():
    network = Network({"rgb": chain(heads=("verb", "noun"))}, {"rgb": "rgb"})
    assert set(network({"rgb": clip()})) == {"rgb_verb", "rgb_noun"}
    assert output_name("rgb", SCORES) == "rgb"


def test_a_tail_stands_behind_the_fusion():
    shape = Shape(T, 4, 1, 1)

    class First(nn.Module):
        out = shape

        def forward(self, inputs):
            return Features.merge(inputs)

    trunk = lambda: Chain((), [n := Norm(FRAMES)], [SpatialPool(n.out)])  # noqa: E731
    tail = Chain(
        aggregate=[Mean(shape)], head={n: Linear(shape, CLASSES) for n in ("verb", "noun")}
    )
    streams = {"a": trunk(), "b": trunk()}
    network = Network(streams, {"a": "rgb", "b": "rgb"}, None, First(), tail)
    output = network({"rgb": clip()})
    assert set(output) == {"verb", "noun"}
    assert output["verb"].x.shape == (B, V, 1, 2, 1, 1)


def test_then_of_a_head_is_run_behind_that_head_alone():
    network = Network({"rgb": chain(heads=("x", "y"), then="m")}, {"rgb": "rgb"})
    output = network({"rgb": clip()})
    assert output["rgb_x"].x.shape == output["rgb_y"].x.shape == (B, V, 1, 2, 1, 1)
    assert not torch.equal(output["rgb_x"].x, output["rgb_y"].x)


def behind(shape: Shape) -> Chain:
    """What stands behind a joint."""
    pool = SpatialPool(shape)
    return Chain((), (), [pool], {SCORES: Linear(pool.out, CLASSES)})


def joint_network() -> Network:
    """Streams a and b end in a joint that gives low and high, which start behind it."""
    shape = FRAMES
    joint = Cross({"a": shape, "b": shape}, width=4)
    streams = {"a": Chain(), "b": Chain()} | {n: behind(s) for n, s in joint.out.items()}
    fusion = Average({n: Shape(T, 2, 1, 1) for n in joint.out})
    return Network(streams, {"a": "rgb", "b": "rgb"}, joint, fusion)


def test_a_joint_that_keeps_its_streams():
    class Swap(Cross):
        def forward(self, inputs):
            low, high = super().forward(inputs).values()
            return {"a": high, "b": low}

    shape = FRAMES
    joint = Swap({"a": shape, "b": shape}, width=4)
    streams = {"a": behind(joint.out["high"]), "b": behind(joint.out["low"])}
    network = Network(streams, {"a": "rgb", "b": "rgb"}, joint)
    assert set(network({"rgb": clip()})) == {"a", "b"}


def test_a_joint_may_return_other_names():
    network = joint_network()
    output = network({"rgb": clip()})
    assert set(output) == {"low", "high", SCORES}
    features = fold(clip())
    low = network.joint({"a": features, "b": features})["low"]
    expected = restore(network.streams["low"].back(low)[SCORES], V)
    assert torch.equal(output["low"].x, expected.x)


def test_parts_in_a_row_are_one_part():
    shape = FRAMES
    parts = Parts([SpatialPool(shape), Mean(shape._replace(height=1, width=1))])
    assert parts.out == Shape(1, C, 1, 1)
    features = fold(clip())
    expected = parts.parts[1](parts.parts[0](features))
    assert torch.equal(parts(features).x, expected.x)


# -------------------------------------------------------------------------------------- freeze


def step(network):
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1.0)
    network.train()
    network({"rgb": clip()})[SCORES].x.square().mean().backward()
    optimizer.step()


def test_what_is_frozen_does_not_change_batch_norm_included():
    network = Network({"rgb": chain()}, {"rgb": "rgb"})
    part = network.streams["rgb"].backbone[0]
    freeze(network, part, [part])
    frozen = {k: v.clone() for k, v in part.state_dict().items()}
    head = network.streams["rgb"].head[SCORES].linear.weight.clone()
    step(network)
    assert not part.training
    assert not part.norm.training
    assert network.streams["rgb"].head.training
    assert all(torch.equal(frozen[k], v) for k, v in part.state_dict().items())
    assert not torch.equal(head, network.streams["rgb"].head[SCORES].linear.weight)
    network.eval()
    network.train()
    assert not part.norm.training


def test_without_freezing_batch_norm_moves():
    network = Network({"rgb": chain()}, {"rgb": "rgb"})
    norm = network.streams["rgb"].backbone[0].norm
    before = norm.running_mean.clone()
    step(network)
    assert not torch.equal(before, norm.running_mean)


def test_frozen_stages_leave_the_others_in_training():
    network = Network({"rgb": chain()}, {"rgb": "rgb"})
    part = network.streams["rgb"].backbone[0]
    freeze(network, part, [part.conv])
    conv, norm = part.conv.weight.clone(), part.norm.weight.clone()
    step(network)
    assert part.norm.training
    assert torch.equal(conv, part.conv.weight)
    assert not torch.equal(norm, part.norm.weight)


# ------------------------------------------------------------------------------------- weights


def state(part: nn.Module, prefix: str = "") -> dict:
    return {prefix + k: v.clone() for k, v in part.state_dict().items()}


def test_weights_taken_lacking_and_left(tmp_path):
    shape = FRAMES
    source, part = Norm(shape), Norm(shape)
    content = state(source)
    del content["conv.bias"]
    content |= {"head.weight": torch.ones(2), "norm.weight": torch.ones(9)}
    torch.save(content, tmp_path / "w.pt")
    bias = part.conv.bias.clone()
    taken, lacking, left = load_weights(part, str(tmp_path / "w.pt"))
    assert "conv.weight" in taken
    assert lacking == ["conv.bias", "norm.weight"]
    assert left == ["head.weight", "norm.weight"]
    assert torch.equal(part.conv.weight, source.conv.weight)
    assert torch.equal(part.conv.bias, bias)


@pytest.mark.parametrize("end", ["", "."])
def test_weights_of_a_checkpoint_under_a_prefix(tmp_path, end):
    shape = FRAMES
    source, other, part = Norm(shape), Norm(shape), Norm(shape)
    content = state(source, "network.a.") | state(other, "network.ab.")
    torch.save({"state_dict": content, "epoch": 3}, tmp_path / "w.ckpt")
    taken, lacking, left = load_weights(part, f"{tmp_path}/w.ckpt#network.a{end}")
    assert len(taken) == len(part.state_dict())
    assert lacking == left == []
    assert torch.equal(part.conv.weight, source.conv.weight)


@pytest.mark.parametrize("prefix", ["", "#nothing.here"])
def test_weights_of_something_else_are_a_sentence(tmp_path, prefix):
    torch.save({"a.weight": torch.ones(1)}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="none of its tensors fit; the file has") as caught:
        load_weights(Norm(FRAMES), f"{tmp_path}/w.pt{prefix}")
    assert "wanted conv.weight" in str(caught.value)


class Evil:
    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self):
        return Path.touch, (self.sentinel,)


def test_weights_run_no_code(tmp_path):
    torch.save({"state_dict": Evil(tmp_path / "sentinel")}, tmp_path / "w.pt")
    with pytest.raises(pickle.UnpicklingError):
        load_weights(Norm(FRAMES), str(tmp_path / "w.pt"))
    assert not (tmp_path / "sentinel").exists()
