import pickle

import pytest
import torch
from flows import clip, moving
from torchvision.models import optical_flow

from actionkit.contracts import Shape
from actionkit.data.transforms import raft
from actionkit.data.transforms.kinds import dequantize_flow, quantize_flow
from actionkit.data.transforms.raft import RAFTFlow


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network of random weights, and their file."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = optical_flow.raft_small().eval()
    file = tmp_path_factory.mktemp("raft") / "small.pt"
    torch.save(network.state_dict(), file)
    return network, file


def test_flow_is_that_of_torchvision(trained):
    network, file = trained
    x = torch.randint(0, 256, (3, 3, 128, 136), dtype=torch.uint8)
    maker = RAFTFlow(length=2, bound=50.0, weights=file, updates=2)
    state = torch.get_rng_state()
    flow = maker.apply({"rgb": clip(x)}, [{}])["flow"]
    assert torch.equal(torch.get_rng_state(), state)
    assert flow.kind == "flow"
    assert flow.times.tolist() == [[[0, 1]]]
    with torch.no_grad():
        frames = x.float() / 127.5 - 1
        expected = network(frames[:-1], frames[1:], num_flow_updates=2)[-1]
    assert (expected.abs() < 50).all()
    assert (flow.x[0, 0].int() - quantize_flow(expected, 50.0).int()).abs().max() <= 1
    assert dequantize_flow(flow.x, 50.0).std() > 0.1


@pytest.mark.parametrize("size", [(96, 96), (130, 131)])
def test_other_sizes_are_padded_with_their_border(trained, size):
    network, file = trained
    x = torch.randint(0, 256, (2, 1, *size), dtype=torch.uint8)
    flow = RAFTFlow(length=1, bound=50.0, weights=file, updates=1).apply(
        {"rgb": clip(x, "gray")}, [{}]
    )["flow"].x[0, 0]  # fmt: skip
    assert flow.shape == (1, 2, *size)
    full = [max(128, -(-side // 8) * 8) for side in size]
    top, left = ((f - side) // 2 for f, side in zip(full, size, strict=True))
    rows, columns = (
        (torch.arange(f) - before).clamp(0, side - 1)
        for f, before, side in zip(full, (top, left), size, strict=True)
    )
    frames = x[:, :, rows][:, :, :, columns].expand(-1, 3, -1, -1).float() / 127.5 - 1
    with torch.no_grad():
        expected = network(frames[:1], frames[1:], num_flow_updates=1)[-1]
    expected = expected[..., top : top + size[0], left : left + size[1]]
    assert (flow.int() - quantize_flow(expected, 50.0).int()).abs().max() <= 1


def test_nothing_is_built_before_the_first_clip(trained, monkeypatch):
    monkeypatch.setattr(raft, "_network", None)
    maker = RAFTFlow(length=1, weights=trained[1])
    maker.out({"rgb": Shape(2, 3, 64, 64)})
    RAFTFlow(length=1, pretrained=True).out({"rgb": Shape(2, 3, 64, 64)})
    pickle.loads(pickle.dumps(maker))
    with pytest.raises(TypeError):
        maker.apply({"rgb": clip(moving(2, 1, 0))}, [{}])


def test_training_and_evaluation_share_the_network(trained):
    one, other = (raft._network("small", trained[1], torch.device("cpu")) for _ in range(2))
    assert one is other
    assert not one.training
    assert not any(p.requires_grad for p in one.parameters())


def test_weights_of_another_network_are_refused(trained):
    maker = RAFTFlow(length=1, size="large", weights=trained[1])
    with pytest.raises(ValueError, match=r"^cannot use .*small.pt for RAFT large: .*; give the"):
        maker.apply({"rgb": clip(moving(2, 1, 0))}, [{}])


@pytest.mark.parametrize("content", [b"", b"no weights", b"\x80\x02c__builtin__\nprint\n."])
def test_files_that_are_no_weights_are_refused(tmp_path, content):
    file = tmp_path / "bad.pt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"^cannot read .*bad.pt: .*; give a state dict saved by"):
        RAFTFlow(length=1, weights=file).apply({"rgb": clip(moving(2, 1, 0))}, [{}])


def test_weights_that_cannot_be_fetched_are_a_sentence(monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(optical_flow.Raft_Small_Weights, "get_state_dict", offline)
    with pytest.raises(ValueError, match=r"^cannot get .*: no route to host; download them befor"):
        RAFTFlow(length=1, pretrained=True).apply({"rgb": clip(moving(2, 1, 0))}, [{}])


def test_refuses(trained, tmp_path):
    for options, sentence in [
        ({}, r"^takes its weights from one place, but gets none; give either"),
        ({"weights": trained[1], "pretrained": True}, r"^takes its .*, but gets two; give either"),
        ({"weights": tmp_path / "no.pt"}, r"^takes weights from a file, but there is no file .*no"),
        ({"weights": trained[1], "updates": 0}, r"^takes at least 1 update, but gets 0"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            RAFTFlow(length=1, **options)
