from types import SimpleNamespace

import pytest
import timm
import torch
from makers import on_two_ranks
from small_fits import Data, fit, network, plan, same, weights
from torch import distributed, nn

from actionkit.data.device import on_device
from actionkit.errors import RunError
from actionkit.training.norms import PreciseNorms, SyncNorms, _moments, batch_norms


def normal(seed, count=64):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([1.0, 2.0, 0.5])[None, :, None, None]
    return torch.randn(count, 3, 4, 4, generator=generator) * scale + seed


def test_statistics_are_those_of_all_values_together():
    norm, batches = nn.BatchNorm2d(3), [normal(seed) for seed in range(5)]
    with torch.no_grad(), _moments([norm]):
        for x in batches:
            norm(x)
    whole = torch.cat(batches).double()
    assert norm.running_mean.double() == pytest.approx(whole.mean((0, 2, 3)), rel=1e-5)
    assert norm.running_var.double() == pytest.approx(whole.var((0, 2, 3)), rel=1e-3)
    assert norm.momentum == 0.1
    assert norm.num_batches_tracked == 0


def test_a_norm_that_nothing_goes_through_stays():
    norm = nn.BatchNorm2d(3)
    norm(normal(1))
    before = weights(norm)
    with _moments([norm]):
        pass
    assert same(weights(norm), before)


def test_a_norm_run_twice_a_batch_counts_both():
    once, twice = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    with torch.no_grad(), _moments([once, twice]):
        for seed in range(2):
            for x in normal(seed).chunk(2):
                twice(x)
        for x in (*normal(0).chunk(2), *normal(1).chunk(2)):
            once(x)
    assert same(weights(once), weights(twice))


def of_a_rank(rank):
    norm = nn.BatchNorm2d(3)
    with torch.no_grad(), _moments([norm]):
        for seed in (2 * rank, 2 * rank + 1):
            norm(normal(seed))
    assert distributed.get_world_size() == 2
    return weights(norm)


def test_ranks_have_the_statistics_of_all(tmp_path):
    alone = nn.BatchNorm2d(3)
    with torch.no_grad(), _moments([alone]):
        for seed in range(4):
            alone(normal(seed))
    first, second = on_two_ranks(of_a_rank, tmp_path)
    assert same(first, second)
    for name, value in weights(alone).items():
        torch.testing.assert_close(first[name], value)


@pytest.mark.parametrize("ema", [None, 0.5])
def test_what_is_saved_has_the_statistics_of_its_own_weights(tmp_path, ema):
    """Also the second norm's, which depend on the first's."""
    fit(tmp_path, plan(precise_bn=3, ema=ema))
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    again = network()
    again.load_state_dict({k.removeprefix("network."): v for k, v in saved.items()})
    norms = batch_norms(again)
    again.eval()
    with torch.no_grad(), _moments(norms):
        for batch in Data().statistics_dataloader(3, epoch=2):
            again(on_device(batch, [], train=True).clips)
    for name, value in again.state_dict().items():
        torch.testing.assert_close(value, saved[f"network.{name}"], msg=name)


def test_frozen_norms_stay_and_the_mode_returns(tmp_path):
    start, _ = fit(tmp_path, plan(), epochs=0, frozen=True)
    task, _ = fit(tmp_path, plan(precise_bn=2), frozen=True)
    for name, value in weights(start).items():
        if ".first." in name:
            assert torch.equal(task.state_dict()[name], value)
        elif ".second.running" in name:
            assert not torch.equal(task.state_dict()[name], value)
    assert [norm.training for norm in batch_norms(task.network.train())] == [False, True]


def test_training_itself_does_not_change(tmp_path):
    """In training batch norms look at their batch alone."""
    plain, _ = fit(tmp_path, plan())
    precise, _ = fit(tmp_path, plan(precise_bn=2))
    for name, value in weights(plain).items():
        if "running" not in name:
            assert torch.equal(precise.state_dict()[name], value), name


def test_a_batch_without_clips_ends_the_run(tmp_path, monkeypatch):
    empty = SimpleNamespace(clips={})
    monkeypatch.setattr(Data, "statistics_dataloader", lambda *_: _Closing([empty]))
    with pytest.raises(RunError, match="no clip of a whole batch"):
        fit(tmp_path, plan(precise_bn=1))


class _Closing(list):
    def close(self):
        pass


@pytest.mark.parametrize("arch", ["test_resnet", "test_efficientnet"])
def test_synchronised_norms_keep_what_timm_puts_into_norms(arch):
    """In evaluation they are the same; torch's own converter loses the activation."""
    net = timm.create_model(arch, num_classes=0).eval()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before, names = net(x), list(net.state_dict())
        net = SyncNorms().apply(net).eval()
        assert torch.equal(net(x), before)
    assert any(isinstance(m, nn.SyncBatchNorm) for m in net.modules())
    assert list(net.state_dict()) == names
    assert SyncNorms().revert(net) is net


def test_precise_norms_have_no_state_of_their_own():
    assert PreciseNorms(2).state_dict() == {}
