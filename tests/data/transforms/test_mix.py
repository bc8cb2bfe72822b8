import pickle

import numpy as np
import pytest
import torch
from makers import (
    CLASSES,
    Listed,
    batch,
    clip,
    good_files,
    records,
    sample,
    system,
    trainer,
)
from recipes_for_tests import PIPELINE, TWO_STREAMS, changed, write

from actionkit import builder
from actionkit.contracts import Clip, Shape, Transform
from actionkit.data.collate import collate
from actionkit.data.device import as_shares, on_device
from actionkit.data.module import DataModule, Stage
from actionkit.data.readers.pyav import PyAV
from actionkit.data.samplers import Dense
from actionkit.data.sources import Sources
from actionkit.data.transforms.crop import CropResize
from actionkit.data.transforms.kinds import PIXELS
from actionkit.data.transforms.mix import CutMix, Mixup
from actionkit.data.transforms.normalize import Normalize
from actionkit.network import SCORES
from actionkit.registry import Entry
from actionkit.tasks.recognition import Recognition
from actionkit.testing.subject import Subject
from actionkit.testing.transforms import same_on_both_positions
from actionkit.testing.verdict import NotConformingError

BOTH = pytest.mark.parametrize("kind", [Mixup, CutMix])


def given(count=4, steps=3, size=(3, 10, 12), kind="rgb", real=None, seed=0):
    """A batch of float clips [count, 2, steps, *size]; `real` steps of each."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 2, steps, *size, generator=generator)
    lengths = torch.tensor([steps] * count if real is None else real)
    mask = (torch.arange(steps) < lengths[:, None, None]).expand(count, 2, steps).clone()
    times = torch.arange(float(steps)) + 10 * torch.arange(count)[:, None, None]
    return Clip(x, mask, times.expand_as(mask).masked_fill(~mask, torch.nan), kind)


def draws(transform, count=4, seed=0):
    return [transform.draw(np.random.default_rng((seed, b))) for b in range(count)]


def weights(found):
    return torch.tensor([draw["weight"] for draw in found])


def spread(w):
    return w.view(-1, 1, 1, 1, 1, 1)


# ------------------------------------------------------------------------------------- mixup


def test_mixup_is_the_paper_s_equation_for_all_modalities():
    clips = {
        "rgb": given(),
        "pose": given(size=(17, 3, 1), kind="pose", seed=1),
        "audio": given(size=(1, 40, 9), kind="audio", seed=2),
    }
    transform = Mixup(alpha=0.8)
    found = draws(transform)
    out, w = transform.apply(clips, found), weights(found)
    for name, inp in clips.items():
        expected = spread(w) * inp.x + spread(1 - w) * inp.x[[3, 2, 1, 0]]
        assert (out[name].x - expected).abs().max() < 1e-6
        assert torch.equal(out[name].mask, inp.mask)
        assert torch.equal(out[name].times, inp.times)
        assert out[name].kind == inp.kind
    target = torch.rand(4, 5, generator=torch.Generator().manual_seed(3))
    expected = w[:, None] * target + (1 - w[:, None]) * target.flip(0)
    assert (transform.mix(target, found) - expected).abs().max() < 1e-6


def test_padding_adds_nothing_to_a_mix():
    inp = given(real=[3, 1, 2, 0])
    filled = inp._replace(x=inp.x.masked_fill(~inp.mask[..., None, None, None], torch.nan))
    found = [{"weight": w} for w in (0.25, 0.5, 1.0, 0.0)]
    clean = inp.x.masked_fill(~inp.mask[..., None, None, None], 0)
    out = Mixup().apply({"rgb": filled}, found)["rgb"]
    assert out.mask[:, 0].tolist() == [
        [True] * 3,  # itself; the partner has no step
        [True, True, False],  # its own one, and two of the third
        [True, True, False],  # not mixed
        [True] * 3,  # the first one altogether
    ]
    own, other = (torch.tensor([draw["weight"] for draw in found]), clean.flip(0))
    expected = spread(own) * clean + spread(1 - own) * other
    assert (out.x - expected).abs()[out.mask].max() < 1e-6
    wanted = [[0.0, 1, 2], [10.0, 21, -1], [20.0, 21, -1], [0.0, 1, 2]]
    assert out.times.nan_to_num(-1)[:, 1].tolist() == wanted


def test_mixup_takes_no_uint8():
    x = torch.zeros(2, 1, 1, 3, 4, 4, dtype=torch.uint8)
    uint8 = Clip(x, torch.ones(2, 1, 1, dtype=torch.bool), torch.zeros(2, 1, 1), "rgb")
    said = r"^mixes float clips, but 'rgb' is torch.uint8 here; put it behind normalize$"
    for found in ([{}, {}], [{"weight": 0.5}] * 2):
        with pytest.raises(ValueError, match=said):
            Mixup().apply({"rgb": uint8}, found)
    half = uint8._replace(x=torch.rand(x.shape).half())
    assert Mixup().apply({"rgb": half}, [{"weight": 0.3}] * 2)["rgb"].x.dtype == torch.float16


# ------------------------------------------------------------------------------------ cutmix


def box_draw(top, left, bottom, right):
    return {"box": (top, left, bottom, right), "weight": 1 - (bottom - top) * (right - left)}


def test_a_box_on_the_grid_is_pasted_as_it_is_through_all_steps():
    for inp in (given(size=(3, 8, 8)), given(size=(4, 8, 8), kind="flow")):
        for x in (inp.x, (inp.x * 50 + 128).clamp(0, 255).byte()):
            one = {"m": inp._replace(x=x)}
            found = [box_draw(0.25, 0.5, 0.75, 1.0), {}, {}, box_draw(0, 0, 0.125, 1)]
            out = CutMix().apply(one, found)["m"].x
            expected = x.clone()
            expected[0, ..., 2:6, 4:8] = x[3, ..., 2:6, 4:8]
            expected[3, ..., :1, :] = x[0, ..., :1, :]
            assert out.dtype == x.dtype
            assert torch.equal(out, expected)


def test_what_remains_is_the_target_s_share_in_every_size():
    """Of clips of one number the mean tells how much of each is there, edges included."""
    transform, levels = CutMix(), torch.tensor([1.0, 2, 3, 4])
    for seed in range(20):
        found = draws(transform, seed=seed)
        wanted = transform.mix(torch.eye(4), found) @ levels
        for size in ((3, 10, 12), (1, 7, 5), (3, 224, 160)):
            inp = given(size=size, steps=1)
            flat = inp._replace(x=spread(levels).expand_as(inp.x))
            mean = transform.apply({"rgb": flat}, found)["rgb"].x.double().mean((1, 2, 3, 4, 5))
            assert (mean - wanted).abs().max() < 1e-5


def test_boxes_are_the_paper_s():
    """As drawn there: sides sqrt(1 - w), the centre anywhere, cut off at the border."""
    transform, rng = CutMix(alpha=1.0), np.random.default_rng(0)
    drawn = [transform.draw(rng) for _ in range(4000)]
    boxes = np.array([draw["box"] for draw in drawn])
    assert boxes.min() >= 0
    assert boxes.max() <= 1
    sides = boxes[:, 2:] - boxes[:, :2]
    np.testing.assert_allclose([d["weight"] for d in drawn], 1 - sides.prod(1))
    uncut = ((boxes > 0) & (boxes < 1)).all(1)
    np.testing.assert_allclose(sides[uncut, 0], sides[uncut, 1])
    w, centre = rng.random(40000), rng.random((40000, 2))
    half = np.sqrt(1 - w)[:, None] / 2
    reference = (np.clip(centre + half, 0, 1) - np.clip(centre - half, 0, 1)).prod(1)
    for q in (0.1, 0.3, 0.5, 0.7, 0.9):
        assert abs(np.quantile(sides.prod(1), q) - np.quantile(reference, q)) < 0.02


def test_nothing_is_pasted_where_either_clip_is_padded():
    inp = given(real=[3, 2, 1, 1])
    padding = ~inp.mask[..., None, None, None]
    filled = inp._replace(x=inp.x.masked_fill(padding, torch.nan))
    out = CutMix().apply({"rgb": filled}, [box_draw(0, 0, 0.5, 1)] * 4)["rgb"]
    assert torch.equal(out.mask, inp.mask)
    assert torch.equal(out.times.nan_to_num(-1), inp.times.nan_to_num(-1))
    expected = inp.x.clone()
    real = inp.mask & inp.mask.flip(0)
    expected[..., :5, :][real] = inp.x.flip(0)[..., :5, :][real]
    assert torch.equal(out.x[inp.mask], expected[inp.mask])
    assert out.x[~inp.mask].isnan().all()


def test_beside_pictures_other_kinds_are_mixed_by_the_same_share():
    clips = {"rgb": given(), "audio": given(size=(1, 6, 1), kind="audio", real=[3, 2, 3, 1])}
    transform = CutMix()
    found = draws(transform)
    out, w = transform.apply(clips, found), weights(found)
    clean = clips["audio"].x.masked_fill(~clips["audio"].mask[..., None, None, None], 0)
    expected = spread(w) * clean + spread(1 - w) * clean.flip(0)
    mask = clips["audio"].mask
    assert torch.equal(out["audio"].mask, mask)
    assert (out["audio"].x - expected).abs()[mask].max() < 1e-6


def test_cutmix_needs_a_picture():
    said = "^cuts boxes out of pictures, but there is only 'pose'; use mixup$"
    with pytest.raises(ValueError, match=said):
        CutMix().apply({"pose": given(kind="pose")}, [{}] * 4)
    with pytest.raises(ValueError, match=said):
        CutMix().out({"pose": Shape(3, 512, 1, 1)})
    assert "pose" not in PIXELS


# -------------------------------------------------------------------------------------- both


@BOTH
def test_what_has_no_label_gives_none_but_only_where_it_is_mixed_in(kind):
    target = torch.eye(4)
    target[3] = torch.nan
    box = {"box": (0.0, 0.0, 0.5, 0.5)}
    found = [{"weight": w, **box} for w in (0.5, 0.75)] + [{}, {"weight": 0.0, **box}]
    mixed = kind().mix(target, found)
    assert mixed.isnan().all(1).tolist() == [True, False, False, False]
    assert mixed[1:].tolist() == [[0, 0.75, 0.25, 0], [0, 0, 1, 0], [1, 0, 0, 0]]


@BOTH
def test_evaluation_and_samples_without_a_draw_stay_as_they_are(kind):
    transform, clips = kind(), {"rgb": given()}
    assert [transform.draw(None) for _ in range(4)] == [{}] * 4
    assert torch.equal(transform.apply(clips, [{}] * 4)["rgb"].x, clips["rgb"].x)
    assert torch.equal(transform.mix(torch.eye(4), [{}] * 4), torch.eye(4))
    found = [{}, *draws(transform)[1:]]
    out = transform.apply(clips, found)["rgb"].x
    changed_ = (out != clips["rgb"].x).flatten(1).any(1)
    assert changed_.tolist() == [False, True, True, True]


@BOTH
def test_the_middle_one_of_an_odd_batch_is_its_own_partner(kind):
    transform, clips = kind(), {"rgb": given(count=5)}
    found = draws(transform, 5)
    assert torch.equal(transform.apply(clips, found)["rgb"].x[2], clips["rgb"].x[2])
    target = torch.eye(5)
    target[2] = torch.nan
    mixed = transform.mix(target, found)
    assert mixed.isnan().any(1).tolist() == [False, False, True, False, False]


@BOTH
def test_a_share_of_the_clips_is_mixed(kind):
    rng = np.random.default_rng(0)
    drawn = [kind(probability=0.3).draw(rng) for _ in range(2000)]
    assert abs(np.mean([bool(draw) for draw in drawn]) - 0.3) < 0.03
    assert not any(kind(probability=0.0).draw(rng) for _ in range(9))
    assert pickle.loads(pickle.dumps(kind(alpha=0.4))).alpha == 0.4


def test_weights_are_of_a_beta_distribution():
    for alpha in (0.2, 1.0, 4.0):
        transform, rng = Mixup(alpha=alpha), np.random.default_rng(0)
        w = np.array([transform.draw(rng)["weight"] for _ in range(4000)])
        assert abs(w.mean() - 0.5) < 0.03
        assert abs(w.var() - 0.25 / (2 * alpha + 1)) < 0.01  # of Beta(alpha, alpha)


@BOTH
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"alpha": 0.0}, "takes an alpha above 0, but gets 0.0"),
        ({"alpha": float("inf")}, "takes an alpha above 0, but gets inf"),
        ({"probability": 1.5}, "takes a probability from 0 to 1, but gets 1.5"),
    ],
)
def test_refuses(kind, options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        kind(**options)


# ------------------------------------------------------------------------------ the whole way

MIXES = [Normalize(), Mixup(alpha=0.8, probability=0.5), CutMix(probability=0.5)]


def test_a_batch_s_targets_go_with_its_clips():
    """Class numbers become shares, in every head; the draws are those of the clips."""
    verbs, nouns = [0, 1, 2, 1], [0, -1, 0, 1]
    targets = [{"verb": v, "noun": n} for v, n in zip(verbs, nouns, strict=True)]
    samples = [sample(b, targets[b], rgb=clip(seed=b)) for b in range(4)]
    heads = {"verb": CLASSES, "noun": ["cup", "pan"]}
    shared = as_shares(collate(samples), heads)
    chain = [Normalize(), Mixup(alpha=4.0)]
    out = on_device(shared, chain, train=True)
    plain = on_device(shared, [Normalize()], train=True).clips["rgb"].x
    for b, shares in enumerate(out.target["verb"].tolist()):
        own, other = shares[verbs[b]], shares[verbs[-1 - b]]
        assert own + other == pytest.approx(1)
        assert 0.01 < own < 0.99
        expected = own * plain[b] + other * plain[-1 - b]
        assert (out.clips["rgb"].x[b] - expected).abs().max() < 1e-5
    assert out.target["noun"].isnan().any(1).tolist() == [False, True, True, False]
    again = on_device(shared, chain, train=True)
    assert torch.equal(again.clips["rgb"].x, out.clips["rgb"].x)
    still = on_device(shared, MIXES, train=False)
    assert torch.equal(still.clips["rgb"].x, plain)
    assert torch.equal(still.target["verb"], shared.target["verb"])


def test_unlabelled_clips_do_not_count_and_spoil_only_their_partner(tmp_path):
    """The loss is that of the clips whose mix has a label."""
    task = Recognition(system(train_transforms=[Normalize(), Mixup()], classes=CLASSES))
    inp = batch(6, targets=[0, 1, 2, 0, 1, -1])
    found = []
    task.log = lambda name, value, **_: found.append(value)
    loss = task.training_step(inp, 0)
    ready = on_device(as_shares(inp, CLASSES), [Normalize(), Mixup()], train=True)
    logits = task.network(ready.clips, None)[SCORES].x.flatten(2)[:, 0].unflatten(1, (2, 3))
    soft = ready.target[:, None].expand(-1, 2, -1)
    losses = -(soft * logits.log_softmax(-1)).sum(-1)
    assert losses.isnan().any(1).tolist() == [True, False, False, False, False, True]
    assert loss.item() == pytest.approx(losses[1:5].mean().item(), rel=1e-5)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in task.parameters())


def fit(folder, files, workers):
    data = {"train": Listed(records(files)), "val": Listed(records(files[:2]))}
    stages = [Stage(Dense(length=2), [CropResize(size=16)], MIXES) for _ in range(2)]
    made = DataModule(data, Sources(PyAV()), *stages, batch=4, workers=workers, seed=4)
    task = Recognition(system(train_transforms=MIXES, classes=CLASSES))
    run = trainer(folder, max_epochs=3, log_every_n_steps=1)
    run.fit(task, made)
    made.close()
    return run.callback_metrics, task.state_dict()


def test_a_run_is_the_same_with_and_without_workers(tmp_path):
    files = good_files(tmp_path / "videos", 6)
    (first, weights_), (second, others) = (fit(tmp_path, files, n) for n in (0, 2))
    assert first["train/loss"] == second["train/loss"]
    assert first["train/loss"].isfinite()
    assert all(torch.equal(others[name], w) for name, w in weights_.items())


def test_a_recipe_with_both_trains(tmp_path, monkeypatch):
    monkeypatch.setenv("ACTIONKIT_CACHE", str(tmp_path / "cache"))
    per_batch = ["normalize", {"use": "mixup", "alpha": 0.8, "probability": 0.5}, "cutmix"]
    changes = {"data.train": {**PIPELINE, "per_batch": per_batch}, "data.workers": 0}
    small = ["data.dataset.train_scenes=1", "data.dataset.val_scenes=1", "data.batch=4"]
    found = builder.blueprint(write(tmp_path, changed(TWO_STREAMS, changes)), small)
    assert found.problems == []
    task, data = builder.build(found)
    before = {name: p.detach().clone() for name, p in task.named_parameters()}
    trainer(tmp_path, max_steps=2, limit_val_batches=1).fit(task, data)
    assert all(p.isfinite().all() for p in task.parameters())
    assert any(not torch.equal(before[name], p) for name, p in task.named_parameters())


# --------------------------------------------------------------------------------- the kit


class Lies(Mixup):
    """Leaves the targets."""

    def mix(self, target, draws):
        return target


class Neighbour(Mixup):
    """Mixes targets with those of another partner."""

    def mix(self, target, draws):
        return super().mix(target.flip(0), draws).flip(0)


class Rounds(CutMix):
    """Counts the box before it is cut off."""

    def draw(self, rng):
        draw = super().draw(rng)
        return {**draw, "weight": 0.9 * draw["weight"]} if draw else draw


class Forgives(Mixup):
    """Takes no label for the first class."""

    def mix(self, target, draws):
        return super().mix(target, draws).nan_to_num(0)


class Always(Mixup):
    """Mixes in evaluation, too."""

    def draw(self, rng):
        return {"weight": 0.5} if rng is None else super().draw(rng)


class Never(Transform):
    """Says it mixes, and does not."""

    mixes = True

    def apply(self, clips, draws):
        return clips


class Alone(Mixup):
    """Fades a clip that has no partner."""

    def apply(self, clips, draws):
        if len(draws) == 1:
            return {name: c._replace(x=c.x / 2) for name, c in clips.items()}
        return super().apply(clips, draws)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (Lies, "of torch.float32 clips of 1, 2, 3 and 4, the mean of rgb beside its target: off"),
        (Neighbour, "of torch.float32 clips of 1, 2, 3 and 4, the mean of rgb beside its target"),
        (Rounds, "of torch.float32 clips of 1, 2, 3 and 4, the mean of rgb beside its target"),
        (Forgives, "what is mixed with a clip without label (NaN) has a label"),
        (Always, "in evaluation, rgb: off by up to"),
        (Never, "nothing is mixed in 8 draws; give it options with which it mixes"),
        (Alone, "a batch of one, rgb: off by up to"),
    ],
)
def test_the_kit_notices_mixing_transforms_that_are_wrong(kind, sentence):
    subject = Subject(Entry("transforms", "wrong", f"{Mixup.__module__}:Mixup", "tests", "0"))
    subject.component = kind
    with pytest.raises(NotConformingError) as error:
        same_on_both_positions(subject)
    assert str(error.value).startswith(sentence)
