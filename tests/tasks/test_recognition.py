import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from makers import (
    CLASSES,
    Listed,
    bad_files,
    batch,
    chain,
    clip,
    good_files,
    loader,
    optimizer,
    records,
    sample,
    saves,
    system,
    trainer,
)
from torch import nn

from actionkit.aggregators.pooling import SpatialPool
from actionkit.backbones.timm import Timm
from actionkit.contracts import Aggregator, Bad, Shape
from actionkit.data.collate import collate
from actionkit.data.module import DataModule, Stage
from actionkit.data.readers.pyav import PyAV
from actionkit.data.samplers import Dense
from actionkit.data.sources import Sources
from actionkit.data.transforms.crop import CropResize
from actionkit.data.transforms.mirror import Mirror
from actionkit.errors import RunError
from actionkit.evaluation.metrics import Top1
from actionkit.fusions.scores import Average
from actionkit.heads.linear import Linear
from actionkit.losses.cross_entropy import CrossEntropy
from actionkit.network import SCORES, Chain, Network
from actionkit.tasks.recognition import Recognition, labelled

FRAMES = Shape(None, 3, None, None)


class Tax(Aggregator):
    """Adds a penalty and a number to log."""

    def __init__(self, inp, *, amount):
        super().__init__()
        self.out, self.amount = inp, amount

    def forward(self, features):
        penalty = torch.tensor(self.amount)
        extra = {**(features.extra or {}), "tax": penalty, "long": torch.ones(3)}
        before = 0 if features.penalty is None else features.penalty
        return features._replace(penalty=before + penalty, extra=extra)


class Note(Callback):
    """What was logged in every step, and behind every evaluation."""

    def __init__(self):
        self.steps, self.evaluations = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append({k: v.item() for k, v in trainer.logged_metrics.items()})

    def on_validation_end(self, trainer, pl_module):
        self.evaluations.append({k: v.item() for k, v in trainer.callback_metrics.items()})

    on_test_end = on_validation_end

    def of(self, name):
        return [step[name] for step in self.steps]


def run(task, folder, train, val=(), epochs=1, **options):
    note = Note()
    options = {"log_every_n_steps": 1, "max_epochs": epochs, **options}
    made = trainer(folder, **{**options, "callbacks": [note, *options.get("callbacks", [])]})
    made.fit(task, loader(train), loader(val) if val else None)
    return note


def evaluate(task, folder, batches):
    note = Note()
    trainer(folder, callbacks=[note]).validate(task, loader(batches), verbose=False)
    return note.evaluations[0]


def two_streams(**changes):
    """rgb and gray heads, averaged: three outputs."""
    torch.manual_seed(0)
    streams = {"rgb": chain(FRAMES), "flow": chain(Shape(None, 2, None, None))}
    fusion = Average({name: Shape(None, 3, 1, 1) for name in streams})
    network = Network(streams, {"rgb": "rgb", "flow": "flow"}, fusion=fusion)
    names = (SCORES, "rgb", "flow")
    options = {
        "heads": dict.fromkeys(names, SCORES),
        "metrics": {name: {"top1": Top1(CLASSES)} for name in names},
        **changes,
    }
    return system(network, **options)


def two_stream_batch(size=4, first=0):
    return collate(
        [
            sample(i, rgb=clip(seed=i), flow=clip(1, 2, (2, 8, 8), seed=50 + i, kind="flow"))
            for i in range(first, first + size)
        ]
    )


# ------------------------------------------------------------------------------------ golden


def naive_training(batches, weight, bias, lr=0.1, momentum=0.9):
    """Softmax regression on the mean colours of each frame, in float64."""
    losses, speeds = [], [0.0, 0.0]
    for b in batches:
        x = b.clips["rgb"].x.numpy().astype(np.float64)[:, 0].mean((-2, -1)) / 255  # [B, T, 3]
        x, target = x.reshape(-1, 3), b.target.numpy().repeat(x.shape[1])
        logits = x @ weight.T + bias
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        losses.append(-np.log(p[np.arange(len(p)), target]).mean())
        error = (p - np.eye(3)[target]) / len(p)
        for i, gradient in enumerate((error.T @ x, error.sum(0))):
            speeds[i] = momentum * speeds[i] + gradient
        weight, bias = weight - lr * speeds[0], bias - lr * speeds[1]
    return losses, weight


def test_training_equals_softmax_regression_by_hand(tmp_path):
    batches = [batch(4, 4 * i) for i in range(5)]
    task = Recognition(system())
    linear = task.network.streams["rgb"].head[SCORES].linear
    start = [p.detach().double().numpy().copy() for p in (linear.weight, linear.bias)]
    losses, weight = naive_training(batches, *start)
    note = run(task, tmp_path, batches)
    np.testing.assert_allclose(note.of("train/loss"), losses, rtol=1e-5)
    np.testing.assert_allclose(linear.weight.detach().numpy(), weight, rtol=1e-4, atol=1e-6)


def resnet(**changes):
    torch.manual_seed(0)
    backbone = Timm(Shape(None, 3, 32, 32), arch="test_resnet")
    pool = SpatialPool(backbone.out)
    head = Linear(pool.out, CLASSES, dropout=0.5)
    network = Network({"rgb": Chain((), [backbone], [pool], {SCORES: head})}, {"rgb": "rgb"})
    transforms = [Mirror()]
    settings = optimizer("adamw", lr=1e-3, weight_decay=0.05, schedule="cosine", warmup=0.2)
    changes = {"train_transforms": transforms, "optimizer": settings, **changes}
    return Recognition(system(network, **changes))


@pytest.fixture(scope="module")
def frames():
    return [batch(4, 4 * i, size=(3, 32, 32)) for i in range(5)]


def test_five_steps_of_a_network_are_the_same_bits_each_time(tmp_path, frames):
    losses, weights = [], []
    for noise in (1, 2):
        task = resnet()
        torch.manual_seed(noise)  # what was drawn before does not matter
        losses.append(run(task, tmp_path, frames).of("train/loss"))
        weights.append(task.state_dict())
    assert len(losses[0]) == 5
    assert losses[0] == losses[1]
    assert all(torch.equal(w, weights[1][name]) for name, w in weights[0].items())
    other = run(resnet(seed=1), tmp_path, frames).of("train/loss")
    assert all(a != b for a, b in zip(other, losses[0], strict=True))  # another dropout


def test_dropout_is_a_function_of_the_step():
    class Draw(nn.Module):
        def forward(self):
            return torch.rand(4)

    task, draw = Recognition(system()), Draw()
    drawn = []
    for index in (0, 1, 0):
        torch.rand(index + 3)
        task.on_train_batch_start(batch(1), index)
        drawn.append(draw())
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])


# ------------------------------------------------------------------------------------ losses


def test_several_losses_with_weights(tmp_path):
    losses = {SCORES: CrossEntropy(), "rgb": CrossEntropy(), "flow": CrossEntropy()}
    weights = {SCORES: 1.0, "rgb": 0.5, "flow": 0.25}
    task = Recognition(two_streams(losses=losses, weights=weights))
    found = run(task, tmp_path, [two_stream_batch()]).steps[0]
    parts = {name: found[f"train/{name}/loss"] for name in losses}
    assert found["train/loss"] == pytest.approx(sum(weights[n] * v for n, v in parts.items()))
    assert len(set(parts.values())) == 3


def test_a_single_loss_is_logged_once(tmp_path):
    found = run(Recognition(system()), tmp_path, [batch()]).steps[0]
    assert found.keys() == {"train/loss"}


def test_penalty_is_added_once_and_numbers_of_parts_are_logged(tmp_path):
    def fused(amount):
        built = two_streams()
        built.network.streams["rgb"].aggregate.append(Tax(Shape(None, 3, 1, 1), amount=amount))
        built.network.streams["flow"].aggregate.append(Tax(Shape(None, 3, 1, 1), amount=2 * amount))
        return Recognition(built)

    plain, taxed = (
        run(fused(amount), tmp_path, [two_stream_batch()], [two_stream_batch(3, 4)])
        for amount in (0.0, 1.25)
    )
    difference = taxed.of("train/loss")[0] - plain.of("train/loss")[0]
    assert difference == pytest.approx(3.75, abs=1e-5)
    assert taxed.steps[0]["train/rgb/tax"] == 1.25
    assert taxed.steps[0]["train/flow/tax"] == 2.5
    assert not any("long" in name for name in taxed.steps[0])
    difference = taxed.evaluations[0]["val/loss"] - plain.evaluations[0]["val/loss"]
    assert difference == pytest.approx(3.75, abs=1e-5)


def two_heads(*aggregate):
    torch.manual_seed(0)
    pool = SpatialPool(FRAMES)
    heads = {"verb": Linear(pool.out, CLASSES), "noun": Linear(pool.out, ["cup", "pan"])}
    network = Network({"rgb": Chain(aggregate=[pool, *aggregate], head=heads)}, {"rgb": "rgb"})
    names = {"rgb_verb": "verb", "rgb_noun": "noun"}
    return Recognition(
        system(
            network,
            losses={name: CrossEntropy() for name in names},
            weights=dict.fromkeys(names, 1.0),
            heads=names,
            metrics={name: {"top1": Top1(CLASSES)} for name in names},
        )
    )


TARGETS = [{"verb": 0, "noun": 1}, {"verb": 2, "noun": -1}, {"verb": 1, "noun": 0}]


def test_targets_go_to_the_heads_of_their_name(tmp_path):
    task, given = two_heads(), batch(3, targets=TARGETS)
    output = task(given)
    found = run(task, tmp_path, [given]).steps[0]
    for name, wanted in (("rgb_verb", [0, 2, 1]), ("rgb_noun", [1, -1, 0])):
        logits = output[name].x[:, 0, :, :, 0, 0].flatten(0, 1)
        wanted = torch.tensor(wanted).repeat_interleave(2)
        expected = nn.functional.cross_entropy(logits, wanted, ignore_index=-1)
        assert found[f"train/{name}/loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_heads_of_one_chain_share_one_penalty(tmp_path):
    given = [batch(3, targets=TARGETS)]
    plain, taxed = (
        run(two_heads(Tax(Shape(None, 3, 1, 1), amount=a)), tmp_path, given).of("train/loss")[0]
        for a in (0.0, 2.0)
    )
    assert taxed - plain == pytest.approx(2.0, abs=1e-5)


def test_metrics_of_every_head(tmp_path):
    task = two_heads()
    found = evaluate(task, tmp_path, [batch(3, targets=TARGETS)])
    assert {"val/top1", "val/rgb_noun/top1"} <= found.keys()
    assert task.results.scores["rgb_noun"].shape == (3, 2)
    best = task.results.scores["rgb_noun"].argmax(1)
    assert found["val/rgb_noun/top1"] == ((best[0] == 1).double() + (best[2] == 0)).item() / 2


def test_clips_without_a_label_count_neither_in_the_loss_nor_in_the_metrics(tmp_path):
    some = batch(5, targets=[0, -1, 2, -1, 1])
    few = collate([sample(i, t, rgb=clip(seed=i)) for i, t in ((0, 0), (2, 2), (4, 1))])
    losses = [run(Recognition(system()), tmp_path, [b]).of("train/loss")[0] for b in (some, few)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    tasks = Recognition(system()), Recognition(system())
    found = [evaluate(t, tmp_path, [b]) for t, b in zip(tasks, (some, few), strict=True)]
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert len(tasks[0].results.ids) == 5  # scored all the same
    assert tasks[0].results.targets[SCORES].tolist() == [0, -1, 2, -1, 1]


def test_no_label_at_all(tmp_path):
    task = Recognition(system())
    blind = batch(3, targets=[-1] * 3)
    assert run(task, tmp_path, [blind]).of("train/loss") == [0.0]
    assert "val/top1" not in evaluate(task, tmp_path, [blind])
    assert len(task.results.ids) == 3


def test_labelled():
    assert labelled(torch.tensor([0, -1, 3])).tolist() == [True, False, True]
    soft = torch.tensor([[0.5, 0.5], [torch.nan, 0.0]])
    assert labelled(soft).tolist() == [True, False]


# -------------------------------------------------------------------------------- evaluation


def test_metrics_of_every_output(tmp_path):
    task = Recognition(two_streams())
    found = evaluate(task, tmp_path, [two_stream_batch(), two_stream_batch(3, 4)])
    assert {"val/top1", "val/rgb/top1", "val/flow/top1", "val/loss"} <= found.keys()
    results = task.results
    assert results.ids == [f"v{i}" for i in range(7)]
    for name, label in ((SCORES, "val/top1"), ("rgb", "val/rgb/top1"), ("flow", "val/flow/top1")):
        right = results.scores[name].argmax(1) == results.targets[name]
        assert found[label] == pytest.approx(right.double().mean().item())
        assert results.metrics[name] == {"top1": pytest.approx(found[label])}


@pytest.mark.parametrize("sizes", [(7,), (4, 3), (1, 6)])
def test_loss_of_a_split_does_not_depend_on_its_batches(tmp_path, sizes):
    targets = [0, -1, 2, -1, 1, 1, -1]
    starts = np.cumsum([0, *sizes])[:-1].tolist()
    batches = [
        batch(size, start, targets[start : start + size])
        for start, size in zip(starts, sizes, strict=True)
    ]
    whole = evaluate(Recognition(system()), tmp_path, [batch(7, targets=targets)])
    found = evaluate(Recognition(system()), tmp_path, batches)
    assert found["val/loss"] == pytest.approx(whole["val/loss"], rel=1e-6)
    assert found["val/top1"] == whole["val/top1"]


def test_items_of_few_views_give_the_score_of_one_item(tmp_path):
    files = good_files(tmp_path, 3)
    evaluation = Stage(Dense(length=3, clips=5), [CropResize(size=16)])
    data = {split: Listed(records(files)) for split in ("train", "val")}

    def scored(**options):
        task = Recognition(system())
        made = DataModule(data, Sources(PyAV()), evaluation, evaluation, workers=0, **options)
        trainer(tmp_path).validate(task, made, verbose=False)
        return task.results

    whole, parts = scored(batch=15, views_per_item=5), scored(batch=4, views_per_item=2)
    assert parts.ids == whole.ids == [path.name for path in files]
    torch.testing.assert_close(parts.scores[SCORES], whole.scores[SCORES], rtol=1e-6, atol=1e-7)
    assert parts.coverage == 1


def bad(name):
    return Bad(name, f"/d/{name}.mp4", "list.txt:1", "pyav", "the file is empty")


def test_unreadable_videos_count_as_missing(tmp_path):
    lost = collate([sample(9)._replace(clips={}, bad=(bad("v9"),))])
    assert lost.clips == {}
    task = Recognition(system())
    found = evaluate(task, tmp_path, [lost, batch(3)._replace(bad=(bad("v8"),))])
    assert task.results.ids == ["v0", "v1", "v2"]
    assert task.results.coverage == 3 / 5
    assert sorted(b.id for b in task.results.bad) == ["v8", "v9"]
    assert found == pytest.approx(evaluate(Recognition(system()), tmp_path, [batch(3)]))


def test_a_video_of_which_a_part_cannot_be_read_is_missing(tmp_path):
    half = batch(3)._replace(bad=(bad("v1"),))  # another item of v1 was unreadable
    task = Recognition(system())
    evaluate(task, tmp_path, [half])
    assert task.results.ids == ["v0", "v2"]
    assert task.results.coverage == 2 / 3


def test_only_unreadable_videos(tmp_path):
    lost = collate([sample(9)._replace(clips={}, bad=(bad("v9"),))])
    with pytest.raises(RunError, match=r"no video of the split 'val' .*\n  /d/v9.mp4 \(pyav\): "):
        evaluate(Recognition(system()), tmp_path, [lost])


def test_each_evaluation_starts_afresh(tmp_path):
    task = Recognition(system())
    evaluate(task, tmp_path, [batch(3), batch(2, 3)._replace(bad=(bad("v9"),))])
    evaluate(task, tmp_path, [batch(2)])
    assert task.results.ids == ["v0", "v1"]
    assert task.results.bad == []


def test_test_is_validation_under_another_name(tmp_path):
    task, note = Recognition(system()), Note()
    found = evaluate(task, tmp_path, [batch(5)])
    trainer(tmp_path, callbacks=[note]).test(task, loader([batch(5)]), verbose=False)
    assert {k.replace("test/", "val/"): v for k, v in note.evaluations[0].items()} == found


def test_a_whole_batch_of_unreadable_clips_ends_training(tmp_path):
    files = list(bad_files(tmp_path).values())
    data = {split: Listed(records(files)) for split in ("train", "val")}
    stage = Stage(Dense(length=2))
    made = DataModule(data, Sources(PyAV()), stage, stage, batch=2, workers=0)
    with pytest.raises(RunError, match="no clip of a whole batch") as error:
        trainer(tmp_path, max_epochs=1).fit(Recognition(system()), made)
    assert "(pyav): " in str(error.value)
    assert any(f"{path} (pyav): " in str(error.value) for path in files)


# ------------------------------------------------------------------------------- checkpoints


def test_checkpoint_is_plain_and_holds_the_recipe(tmp_path, frames):
    recipe = {"name": "x", "recipe": {"seed": 1, "list": [1, None]}, "versions": {"torch": "2"}}
    task, keep = resnet(recipe=recipe), saves(tmp_path)
    run(task, tmp_path, frames, frames[:2], callbacks=[*keep], enable_checkpointing=True)
    for name in ("best", "last"):
        kept = torch.load(tmp_path / f"{name}.ckpt", weights_only=True)
        assert kept["recipe"] == recipe
        assert kept["state_dict"].keys() == task.state_dict().keys()
    assert all(torch.equal(kept["state_dict"][k], v) for k, v in task.state_dict().items())


@pytest.mark.parametrize("end", ["last.ckpt", "by_hand.ckpt"])
def test_a_resumed_run_is_the_same_run(tmp_path, end):
    files = good_files(tmp_path / "videos", 6)
    data = {"train": Listed(records(files)), "val": Listed(records(files[:2]))}
    crop = CropResize(size=16)

    def fit(folder, epochs, **options):
        stages = Stage(Dense(length=2), [crop], [Mirror()]), Stage(Dense(length=2), [crop])
        made = DataModule(data, Sources(PyAV()), *stages, batch=3, workers=0, seed=4)
        torch.manual_seed(0)
        pool = SpatialPool(FRAMES)
        parts = Chain(aggregate=[pool], head={SCORES: Linear(pool.out, CLASSES, dropout=0.5)})
        task = Recognition(system(Network({"rgb": parts}, {"rgb": "rgb"})))
        note = Note()
        run = trainer(
            folder,
            max_epochs=epochs,
            callbacks=[*saves(folder), note],
            enable_checkpointing=True,
            log_every_n_steps=1,
        )
        run.fit(task, made, **options)
        run.save_checkpoint(folder / "by_hand.ckpt")
        kept = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
        assert all(torch.equal(kept[name], w) for name, w in task.state_dict().items())
        return note.of("train/loss"), task.state_dict()

    whole, weights = fit(tmp_path / "whole", 4)
    half, _ = fit(tmp_path / "half", 2)
    checkpoint = tmp_path / "half" / end
    rest, resumed = fit(tmp_path / "rest", 4, ckpt_path=checkpoint, weights_only=True)
    assert len(whole) == 8
    assert half + rest == whole
    assert all(torch.equal(resumed[name], w) for name, w in weights.items())
