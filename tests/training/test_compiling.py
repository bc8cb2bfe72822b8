import copy

import pytest
import torch
from makers import batch, chain
from torch import nn

from actionkit.backbones.timm import Timm
from actionkit.contracts import Shape
from actionkit.data.device import on_device
from actionkit.network import Network
from actionkit.training.compiling import compile_backbones


class Graphs:
    """A backend that runs what it is given, and counts the convolutions of each graph."""

    def __init__(self):
        self.convolutions = []

    def __call__(self, graph, inputs):
        targets = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
        self.convolutions.append(sum("conv2d" in target for target in targets))
        return graph.forward


def network():
    torch.manual_seed(0)
    timm = Timm(Shape(None, 3, 32, 32), arch="test_resnet")
    behind = chain(timm.out)
    behind.backbone.append(timm)
    return Network({"rgb": behind}, {"rgb": "rgb"})


@pytest.fixture
def clips():
    torch._dynamo.reset()
    ready = on_device(batch(2, steps=3, size=(3, 32, 32)), [], train=False).clips
    yield ready
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_scores_gradients_and_names_are_the_same(clips, backend):
    plain = network()
    compiled = copy.deepcopy(plain)
    assert compile_backbones(compiled, backend) == 1
    assert list(compiled.state_dict()) == list(plain.state_dict())
    for net in (plain, compiled):
        net(clips)["scores"].x.square().sum().backward()
    for (name, p), q in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        if p.requires_grad:
            torch.testing.assert_close(p.grad, q.grad, msg=name)
    for p, q in zip(plain.buffers(), compiled.buffers(), strict=True):
        torch.testing.assert_close(p, q)
    with torch.no_grad():
        a, b = (net.eval()(clips)["scores"].x for net in (plain, compiled))
    torch.testing.assert_close(a, b)


def test_a_frame_network_is_one_graph_with_and_without_padding(clips):
    graphs, net = Graphs(), network()
    compile_backbones(net, graphs)
    net(clips)
    whole = sum(isinstance(m, nn.Conv2d) for m in net.modules())
    assert [n for n in graphs.convolutions if n] == [whole]
    clip = clips["rgb"]
    padded = clip._replace(mask=clip.mask & torch.tensor([True, True, False]))
    scores = net.eval()({"rgb": padded})["scores"].x
    assert set(graphs.convolutions) == {0, whole} or set(graphs.convolutions) == {whole}
    plain = network()
    plain.load_state_dict(net.state_dict())
    torch.testing.assert_close(scores, plain.eval()({"rgb": padded})["scores"].x)


def test_a_backbone_inside_another_is_compiled_with_it():
    class Outer(Timm):
        def __init__(self):
            super().__init__(Shape(None, 3, 32, 32), arch="test_resnet")
            self.inner = Timm(Shape(None, 3, 32, 32), arch="test_resnet")

    outer = Outer()
    assert compile_backbones(nn.ModuleList([outer]), "eager") == 1
    assert outer._compiled_call_impl is not None
    assert outer.inner._compiled_call_impl is None
