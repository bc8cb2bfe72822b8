import numpy as np
import pytest
import torch
from makers import clip, sample

from actionkit.contracts import Transform
from actionkit.data.collate import collate
from actionkit.data.device import ON_DEVICE, as_shares, on_device
from actionkit.data.seeds import generator
from actionkit.data.transforms.mirror import Mirror
from actionkit.data.transforms.normalize import Normalize


class Noise(Transform):
    """Adds a number drawn for the sample."""

    def draw(self, rng):
        return {"add": 0.0 if rng is None else rng.random()}

    def apply(self, clips, draws):
        add = torch.tensor([draw["add"] for draw in draws], dtype=torch.float32)
        return {n: c._replace(x=c.x + add.view(-1, 1, 1, 1, 1, 1)) for n, c in clips.items()}


CHAIN = [Mirror(), Normalize(), Noise(), Mirror()]


def samples(count=8, **options):
    return [
        sample(i, rgb=clip(seed=i, **options), flow=clip(1, 2, (4, 8, 8), seed=i, kind="flow"))
        for i in range(count)
    ]


@pytest.mark.parametrize("train", [True, False])
def test_a_batch_equals_its_single_samples(train):
    whole = on_device(collate(samples()), CHAIN, train=train).clips
    for i, one in enumerate(samples()):
        alone = on_device(collate([one]), CHAIN, train=train).clips
        for name in ("rgb", "flow"):
            assert torch.equal(whole[name].x[i], alone[name].x[0])
    turned = on_device(collate(samples()[::-1]), CHAIN, train=train).clips
    assert torch.equal(turned["rgb"].x.flip(0), whole["rgb"].x)


def test_draws_are_a_function_of_the_seed_alone():
    batch = collate(samples())
    first = on_device(batch, CHAIN, train=True).clips["rgb"].x
    torch.manual_seed(3)
    np.random.seed(3)
    assert torch.equal(first, on_device(batch, CHAIN, train=True).clips["rgb"].x)
    other = on_device(batch._replace(seed=batch.seed + 1), CHAIN, train=True).clips["rgb"].x
    assert all(not torch.equal(a, b) for a, b in zip(first, other, strict=True))
    renamed = batch._replace(index=batch.index + 5, id=["x"] * 8)
    assert torch.equal(first, on_device(renamed, CHAIN, train=True).clips["rgb"].x)


def test_samples_differ_and_transforms_draw_one_after_the_other():
    gray = [sample(i, rgb=clip(seed=0)) for i in range(20)]
    out = on_device(collate(gray), [Noise(), Noise()], train=True).clips["rgb"].x
    added = (out - gray[0].clips["rgb"].x)[:, 0, 0, 0, 0, 0]
    expected = []
    for seed in range(100, 120):
        rng = generator(seed, ON_DEVICE)
        expected.append(np.float32(rng.random()) + np.float32(rng.random()))
    np.testing.assert_allclose(added * 255 if added.max() < 0.1 else added, expected, atol=1e-4)


def test_draws_differ_from_those_in_the_worker():
    draws = [
        (np.random.default_rng(s).random(), generator(s, ON_DEVICE).random()) for s in range(9)
    ]
    assert all(worker != device for worker, device in draws)


def test_evaluation_is_the_same_every_time():
    batch = collate(samples())
    first = on_device(batch, CHAIN, train=False).clips
    again = on_device(batch._replace(seed=batch.seed * 0), CHAIN, train=False).clips
    assert torch.equal(first["rgb"].x, again["rgb"].x)
    plain = on_device(batch, [Normalize()], train=False).clips
    assert torch.equal(first["rgb"].x, plain["rgb"].x)  # nothing was drawn


def test_network_gets_floats_whatever_the_transforms():
    batch = collate(samples(2))
    out = on_device(batch, [], train=True).clips
    assert out["rgb"].x.dtype == out["flow"].x.dtype == torch.float32
    torch.testing.assert_close(out["rgb"].x, batch.clips["rgb"].x / 255)
    torch.testing.assert_close(out["flow"].x, (batch.clips["flow"].x - 127.5) / 127.5)


def test_padding_is_zero_after_all_transforms():
    longest = sample(0, rgb=clip(1, 3, seed=0))
    batch = collate([longest, sample(1, rgb=clip(1, 2, seed=1, real=1))])
    out = on_device(batch, [Normalize()], train=True).clips["rgb"]  # which makes 0 into -mean / std
    assert out.mask.tolist() == [[[True] * 3], [[True, False, False]]]
    assert (out.x[1, 0, 1:] == 0).all()
    assert (out.x[0] != 0).any()
    assert torch.equal(
        out.x[1, 0, 0], on_device(batch, [Normalize()], train=True).clips["rgb"].x[1, 0, 0]
    )


def test_what_the_loader_gave_is_not_changed():
    batch = collate(samples(3))
    before = batch.clips["rgb"].x.clone()
    on_device(batch, CHAIN, train=True)
    assert torch.equal(batch.clips["rgb"].x, before)


# ------------------------------------------------------------------------------------ targets


def targets(*values):
    return collate([sample(i, value) for i, value in enumerate(values)])


def test_class_numbers_become_shares_and_no_label_nan():
    batch = targets(2, 0, -1)
    shares = as_shares(batch, ["a", "b", "c", "d"]).target
    assert shares.dtype == torch.float32
    assert shares[:2].tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    assert shares[2].isnan().all()
    assert batch.target.tolist() == [2, 0, -1]  # stays
    assert as_shares(batch, ["a", "b", "c"])._replace(target=None) == batch._replace(target=None)


def test_targets_that_are_shares_already_stay():
    batch = targets(*np.array([[0.5, 0.5], [np.nan, np.nan]], np.float32))
    assert as_shares(batch, ["a", "b"]).target is batch.target


def test_every_head_has_shares_of_its_own_classes():
    batch = targets({"verb": 1, "noun": 0}, {"verb": -1, "noun": 2})
    shares = as_shares(batch, {"noun": ["cup", "pan", "lid"], "verb": ["take", "put"]}).target
    assert shares["verb"].nan_to_num(-1).tolist() == [[0, 1], [-1, -1]]
    assert shares["noun"].tolist() == [[1, 0, 0], [0, 0, 1]]


def test_a_head_that_has_shares_beside_one_of_numbers():
    several = np.array([1.0, 1.0, 0.0], np.float32)
    batch = targets({"verb": 1, "noun": several})
    shares = as_shares(batch, {"noun": ["cup", "pan", "lid"], "verb": ["take", "put"]}).target
    assert shares["noun"] is batch.target["noun"]
    assert shares["verb"].tolist() == [[0, 1]]


class Swap(Transform):
    """Each clip becomes the next one, if the sample's number is high."""

    mixes = True

    def draw(self, rng):
        return {"swap": rng is not None and rng.random() > 0.5}

    def apply(self, clips, draws):
        return {n: c._replace(x=self.mix(c.x, draws)) for n, c in clips.items()}

    def mix(self, target, draws):
        chosen = torch.tensor([draw["swap"] for draw in draws])
        return torch.where(chosen.view(-1, *[1] * (target.ndim - 1)), target.roll(-1, 0), target)


@pytest.mark.parametrize("train", [True, False])
def test_targets_are_mixed_with_the_draws_of_the_clips(train):
    """Of several mixing transforms, one after the other."""
    one = torch.ones(1, 2, 3, 8, 8, dtype=torch.uint8)
    colours = [clip()._replace(x=b * one) for b in range(6)]
    numbered = collate([sample(b, b, rgb=colour) for b, colour in enumerate(colours)])
    shares = as_shares(numbered, [str(b) for b in range(6)])
    out = on_device(shares, [Swap(), Mirror(), Swap()], train=train)
    shown = (out.clips["rgb"].x[:, 0, 0, 0, 0, 0] * 255).round().long().tolist()
    assert out.target.argmax(1).tolist() == shown
    assert (shown != list(range(6))) == train
    heads = on_device(shares._replace(target={"a": shares.target}), [Swap(), Swap()], train=train)
    assert list(heads.target) == ["a"]
    assert on_device(numbered, [Mirror()], train=train).target is numbered.target
