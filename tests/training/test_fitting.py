"""Parts that learn without gradients, in whole runs and part by part."""

import csv
import io
import json
import re
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from makers import CLASSES, Listed, chain, good_files, on_two_ranks, records, system, trainer
from parts_for_tests import Cross
from recipes_for_tests import changed, write
from rich.console import Console
from sklearn.decomposition import PCA
from sklearn.svm import LinearSVC
from typer.testing import CliRunner
from videos import moving_frames, write_video

import actionkit
from actionkit import builder
from actionkit.aggregators.pca import PCAWhiten
from actionkit.aggregators.pooling import Mean, SpatialPool
from actionkit.cli import app
from actionkit.contracts import Aggregator, Features, Fits, Fitting, Fusion, Shape
from actionkit.data.module import DataModule, Stage
from actionkit.data.readers.pyav import PyAV
from actionkit.data.samplers import Dense
from actionkit.data.sources import Sources
from actionkit.data.transforms.crop import CropResize
from actionkit.errors import RunError
from actionkit.evaluation.metrics import Top1
from actionkit.fusions.scores import Average
from actionkit.heads.linear import Linear
from actionkit.heads.linear_svm import LinearSVM
from actionkit.losses.cross_entropy import CrossEntropy
from actionkit.network import SCORES, Chain, Network, Parts
from actionkit.recipe import RecipeError
from actionkit.run import fit, make_trainer
from actionkit.tasks.recognition import Recognition
from actionkit.training.bad_clips import BadClips
from actionkit.training.fitting import Captured, Fitter

FRAMES = Shape(None, 3, None, None)
COLOURS = {"blue": 2, "green": 1, "red": 0}
PIPELINE = {
    "sampler": {"use": "segments", "count": 2},
    "per_sample": [{"use": "crop_resize", "size": 16}],
}
RECIPE = {
    "name": "svm",
    "data": {
        "dataset": {"use": "folder"},
        "train": {**PIPELINE, "per_batch": ["mirror"]},
        "eval": PIPELINE,
        "batch": 4,
        "workers": 0,
    },
    "model": {
        "streams": {
            "rgb": {
                "aggregate": ["spatial_pool", {"use": "pca_whiten", "components": 2}, "mean"],
                "head": {"use": "linear_svm", "c": 1.0},
            }
        }
    },
    "evaluation": {"metrics": ["top1"], "of": "logits"},
    "trainer": {"max_epochs": 2, "accelerator": "cpu"},
}
STREAM = "model.streams.rgb"
HEAD = f"{STREAM}.head"
TWO_HEADS = {
    HEAD: {"svm": {"use": "linear_svm", "c": 1.0}, "softmax": "linear"},
    "loss": {"rgb_softmax": "cross_entropy"},
    "optimizer": {"use": "momentum", "lr": 0.1},
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Folders of three classes told by their colour, 5 clips each to train and 2 to validate."""
    root = tmp_path_factory.mktemp("colours")
    for split, count in (("train", 5), ("val", 2)):
        for name, channel in COLOURS.items():
            for i in range(count):
                frames = moving_frames(6, 24, 24, seed=100 * channel + i + 50 * (split == "val"))
                frames[..., [c for c in range(3) if c != channel]] //= 2
                write_video(root / split / name / f"{i}.mp4", frames)
    return root


def recipe(folder, videos, **changes):
    changes = {"data.dataset.root": str(videos), **changes}
    return write(folder, changed(RECIPE, changes))


def invoke(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def content(folder, name):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def colours(file, split):
    """Colours of every frame [N, 2, 3] float64 as the parts see them, and classes [N]."""
    data = actionkit.build(file)[1]
    found, classes = [], []
    for batch in data.eval_dataloader(split):
        x = batch.clips["rgb"].x
        found.append(x.double().div(255).mean((-1, -2))[:, 0])
        classes += batch.target.tolist()
    return torch.cat(found).numpy(), np.array(classes)


def machines(file):
    """What scikit-learn makes of it by itself: decision values [N, 3] of the validation split."""
    (x, y), (others, _) = colours(file, "train"), colours(file, "val")
    pca = PCA(2, whiten=True).fit(x.reshape(-1, 3))
    steps = [pca.transform(part.reshape(-1, 3)).reshape(-1, 2, 2).mean(1) for part in (x, others)]
    svm = LinearSVC(C=1.0, dual="auto", random_state=0, max_iter=10_000).fit(steps[0], y)
    return svm.decision_function(steps[1])


def scores(folder, columns=slice(2, None)):
    with open(folder / "predictions-val.csv") as file:
        rows = list(csv.DictReader(file))
    return [r["id"] for r in rows], np.array(
        [[float(v) for v in list(r.values())[columns]] for r in rows]
    )


# -------------------------------------------------------------------- nothing by gradients


@pytest.fixture(scope="module")
def fitted(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted")
    file = recipe(folder, videos)
    return file, folder / "run", invoke("fit", file, "--run", folder / "run")


def test_where_nothing_is_trained_fit_ends_behind_the_fits(fitted):
    _, run, output = fitted
    lines = [line.split(": ")[0] for line in output.splitlines() if line.startswith("fitted ")]
    assert lines == [f"fitted   {STREAM}.aggregate.1", f"fitted   {HEAD}"]
    assert f"fitted   {HEAD}: C = 1, 15 samples\n" in output
    assert f"0.00 M parameters, {STREAM}.aggregate.1 fitted, {HEAD} fitted\n" in output
    for name in ("best", "last"):
        kept = content(run, name)
        assert (kept["global_step"], kept["optimizer_states"], kept["unfitted"]) == (0, [], [])
    with open(run / "metrics.csv") as lines:
        assert "train/loss" not in csv.DictReader(lines).fieldnames


def test_each_part_learns_behind_those_before_it(fitted):
    file, run, _ = fitted
    ids, found = scores(run)
    assert len(ids) == 6
    np.testing.assert_allclose(found, machines(file), atol=1e-4)


def test_its_checkpoints_evaluate_and_predict(fitted, videos):
    _, run, _ = fitted
    results = run / "results.json"
    wanted = json.loads(results.read_text())["fit"]["metrics"]
    assert wanted["top1"] == 1
    for command, name in (("validate", "best"), ("test", "last")):
        invoke(
            command, run, "--checkpoint", name, *(["--split", "val"] if command == "test" else [])
        )
        assert json.loads(results.read_text())[command]["metrics"] == wanted
    known = scores(run)[1]
    for name in ("best", "last"):
        said = actionkit.load(run, name).predict(videos / "val")
        by_path = {Path(p.path): list(p.scores.values()) for p in said}
        for row, path in zip(known, sorted((videos / "val").rglob("*.mp4")), strict=True):
            np.testing.assert_allclose(by_path[path], row, atol=1e-4)


def test_the_choice_of_c_is_told_in_half_precision_too(videos, tmp_path):
    options = {f"{HEAD}.c": [0.1, 1.0], "trainer.precision": "bf16-mixed"}
    found, text = builder.blueprint(recipe(tmp_path, videos, **options)), io.StringIO()
    run = fit(found, Console(file=text), tmp_path / "run")
    told = (
        r": C = (0.1|1) \(of 0.1, 1\), 1.00 right in 5-fold cross-validation by group, 15 samples\n"
    )
    assert re.search(re.escape(f"fitted   {HEAD}") + told, text.getvalue())
    assert content(run, "best")["state_dict"][f"network.{HEAD[6:]}.scores.fitted"]


# ------------------------------------------------------------------------------ two heads


@pytest.fixture(scope="module")
def mixed(videos, tmp_path_factory):
    """PCA, then a softmax trained behind it, then an SVM; and what happened in which order."""
    folder = tmp_path_factory.mktemp("mixed")
    file, events = recipe(folder, videos, **TWO_HEADS), []
    with pytest.MonkeyPatch.context() as patch:
        for kind, name in ((PCAWhiten, "fit_from"), (LinearSVM, "fit_from")):
            patch.setattr(kind, name, _noted(events, kind.__name__, getattr(kind, name)))
        for name in ("training_step", "validation_step"):
            patch.setattr(Recognition, name, _noted(events, name, getattr(Recognition, name)))
        output = invoke("fit", file, "--run", folder / "run")
    return file, folder / "run", output, events


def _noted(events, label, method):
    def call(self, *given):
        events.append(label)
        return method(self, *given)

    return call


def test_before_then_gradients_then_after(mixed):
    _, _, output, events = mixed
    order = [e for i, e in enumerate(events) if i == 0 or events[i - 1] != e]
    assert order == [
        "PCAWhiten", *2 * ["training_step", "validation_step"], "LinearSVM", "validation_step",
    ]  # fmt: skip
    assert events.count("training_step") == 6
    assert output.index("aggregate.1: 2 components") < output.index(f"{HEAD}.svm: C = 1")


def test_while_training_only_what_is_trained_is_measured(mixed):
    _, run, _, _ = mixed
    with open(run / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    soft, svm = ([bool(r[f"val/{n}"]) for r in rows] for n in ("rgb_softmax/top1", "top1"))
    measured = [r for r, known in zip(rows, soft, strict=True) if known]
    assert len(measured) == 3
    assert [bool(r["val/top1"]) for r in measured] == [False, False, True]
    assert sum(svm) == 1
    best = max(float(r["val/rgb_softmax/top1"]) for r in measured[:2])
    assert content(run, "best")["callbacks"]["Best"]["score"][0] == best


def test_the_best_checkpoint_holds_what_was_fitted_and_is_else_as_it_was(mixed):
    _, run, _, _ = mixed
    best, last = content(run, "best"), content(run, "last")
    assert best["unfitted"] == []
    assert last["unfitted"] == ["streams.rgb.head.svm"]
    assert best["global_step"] > 0
    assert best["optimizer_states"]
    svm = "network.streams.rgb.head.svm.weight"
    assert best["state_dict"][svm].abs().max() > 0
    assert last["state_dict"][svm].abs().max() == 0
    axes = "network.streams.rgb.aggregate.1.axes"
    assert torch.equal(best["state_dict"][axes], last["state_dict"][axes])


def test_the_machine_of_two_heads_is_the_same(mixed):
    file, run, _, _ = mixed
    _, found = scores(run, slice(2, 5))
    np.testing.assert_allclose(found, machines(file), atol=1e-4)
    invoke("test", run, "--split", "val")
    results = json.loads((run / "results.json").read_text())
    assert results["test"]["metrics"] == results["fit"]["metrics"]
    assert results["fit"]["streams"].keys() == {"rgb_softmax"}


def test_the_last_checkpoint_is_from_before_and_says_so(mixed):
    _, run, _, _ = mixed
    with pytest.raises(
        RunError, match=rf"last.ckpt holds {HEAD}.svm as before it was fitted.*best"
    ):
        invoke("test", run, "--split", "val", "--checkpoint", "last")
    with pytest.raises(RunError, match="as before it was fitted"):
        actionkit.load(run, "last")


def test_a_resumed_run_fits_nothing_twice(mixed, tmp_path, monkeypatch):
    file, run, _, _ = mixed
    found = builder.blueprint(file)
    task, data = builder.build(found)
    monkeypatch.setattr(PCAWhiten, "fit_from", None)
    fitter = Fitter(Console(quiet=True), bad_clips(tmp_path), [])
    going_on = make_trainer(found, [fitter], progress=False, max_epochs=3)
    last = run / "checkpoints" / "last.ckpt"
    going_on.fit(task, datamodule=data, ckpt_path=last, weights_only=True)
    assert going_on.global_step == 9
    assert task.unfitted == ["streams.rgb.head.svm"]
    axes = content(run, "last")["state_dict"]["network.streams.rgb.aggregate.1.axes"]
    assert torch.equal(task.network.streams["rgb"].aggregate[1].axes, axes)


# ------------------------------------------------------------------------- what is trained


def built(folder, videos, **changes):
    return actionkit.build(recipe(folder, videos, **changes))[0]


BACKBONE = {
    f"{STREAM}.backbone": {"use": "timm", "arch": "test_resnet"},
    "data.train.per_sample": [{"use": "crop_resize", "size": 48}],
    "data.eval.per_sample": [{"use": "crop_resize", "size": 48}],
}


def test_a_backbone_that_no_loss_reaches_stays_as_it_starts(tmp_path, videos):
    task = built(tmp_path, videos, **BACKBONE)
    assert not task.trains
    assert not any(p.requires_grad for p in task.network.parameters())
    assert not any(m.training for m in task.network.train().streams["rgb"].backbone[0].modules())


def test_a_backbone_that_a_loss_reaches_is_trained(tmp_path, videos):
    task = built(tmp_path, videos, **BACKBONE, **TWO_HEADS)
    assert task.trains
    assert all(p.requires_grad for p in task.network.parameters())
    assert task.monitor("top1") == "rgb_softmax/top1"


def test_all_frozen_before_an_svm_is_right(tmp_path, videos):
    changes = {**BACKBONE, f"{STREAM}.backbone": {**BACKBONE[f"{STREAM}.backbone"], "freeze": True}}
    assert not built(tmp_path, videos, **changes).trains
    linear = {
        **changes,
        HEAD: {"use": "linear", "freeze": True},
        f"{STREAM}.aggregate": ["mean", "spatial_pool"],
    }
    with pytest.raises(RecipeError, match="everything is frozen"):
        built(tmp_path, videos, **linear)


def test_a_head_that_learns_nothing_is_told(tmp_path, videos):
    aggregate = ["spatial_pool", "mean"]
    streams = {
        "one": {"takes": "rgb", "aggregate": aggregate, "head": "linear"},
        "two": {"takes": "rgb", "aggregate": aggregate, "head": "linear_svm"},
    }
    fused = {"model": {"streams": streams, "fusion": "average"}}
    with pytest.raises(RecipeError, match=r"'one' learns nothing.*write a loss on 'one'"):
        built(tmp_path, videos, **fused)
    task = built(tmp_path, videos, **fused, loss={"one": "cross_entropy"})
    assert task.trains
    assert task.monitor("top1") == "one/top1"


# ------------------------------------------------------------------------- what parts see


class Recorder(Aggregator, Fits):
    """Keeps what it is fitted on, gone through twice."""

    fits: ClassVar = "before"

    def __init__(self, inp=FRAMES):
        super().__init__()
        self.out, self.passes = inp, []
        self.register_buffer("factor", torch.ones(()))

    def forward(self, features):
        return features._replace(x=features.x * self.factor)

    def fit_from(self, batches):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        self.passes = [list(batches), list(batches)]
        self.factor = 2 * self.factor
        return "doubled"


class Late(Recorder):
    fits: ClassVar = "after"


class Noisy(Aggregator):
    """Gives noise in training, like dropout."""

    def __init__(self):
        super().__init__()
        self.out = FRAMES

    def forward(self, features):
        return features._replace(x=torch.rand_like(features.x)) if self.training else features


def bad_clips(folder):
    return BadClips(folder / "bad.jsonl", {"train": 9, "val": 9}, max_bad=0.5)


def module(files, targets, **options):
    listed = [
        r._replace(target=t, group=f"g{i // 2}" if i < 4 else "")
        for i, (r, t) in enumerate(zip(records(files), targets, strict=True))
    ]
    stage = Stage(Dense(length=2, clips=2), [CropResize(size=8)])
    data = {"train": Listed(listed), "val": Listed(listed)}
    return DataModule(data, Sources(PyAV()), stage, stage, workers=0, **{"batch": 4, **options})


def train(folder, task, data, **options):
    fitter = Fitter(Console(quiet=True), bad_clips(folder), [folder / "a.ckpt", folder / "b.ckpt"])
    made = trainer(folder, max_epochs=1, callbacks=[fitter], **options)
    if task.trains:
        made.fit(task, data)
    else:
        made.validate(task, data, verbose=False)
    return made


def one_stream(*parts, head=Linear, **options):
    pool = SpatialPool(FRAMES)
    made = head(pool.out, CLASSES, **options)
    network = Network({"rgb": Chain(aggregate=[*parts, pool], head={SCORES: made})}, {"rgb": "rgb"})
    return Recognition(system(network))


def test_a_part_is_given_all_training_clips_as_evaluation_sees_them(tmp_path):
    files = good_files(tmp_path / "videos", 5)
    recorder = Recorder()
    task, data = one_stream(Noisy(), recorder), module(files, [0, 1, -1, 2, 1], batch=4)
    made = train(tmp_path, task, data)
    assert made.global_step == 1
    first, second = recorder.passes
    assert len(first) == 3  # of 2 clips with 2 views
    wanted = list(module(files, [0, 1, -1, 2, 1]).eval_dataloader("train"))
    for got, again, batch in zip(first, second, wanted, strict=True):
        x = batch.clips["rgb"].x.flatten(0, 1).float() / 255
        assert torch.equal(got.features.x, x)
        assert torch.equal(again.features.x, x)
        assert got.target.tolist() == batch.target.repeat_interleave(2).tolist()
    assert [t for f in first for t in f.target.tolist()] == [0, 0, 1, 1, -1, -1, 2, 2, 1, 1]
    groups = [g for f in first for g in f.group]
    assert groups == ["g0"] * 4 + ["g1"] * 4 + [files[4].name] * 2
    assert task.network.training
    assert recorder.factor == 2


def test_the_next_part_sees_what_was_fitted_before_it(tmp_path):
    files = good_files(tmp_path / "videos", 4)
    inner, second = Recorder(), Recorder()
    task = one_stream(Parts([inner]), second)
    assert list(task.behind) == ["streams.rgb.aggregate.0.parts.0", "streams.rgb.aggregate.1"]
    train(tmp_path, task, module(files, [0, 1, 2, 0]))
    for a, b in zip(inner.passes[0], second.passes[0], strict=True):
        assert torch.equal(2 * a.features.x, b.features.x)


def test_fitted_behind_the_training_in_every_file(tmp_path):
    files = good_files(tmp_path / "videos", 4)
    early, late = Recorder(), Late()
    task = one_stream(early, late)
    assert not task.trains
    train(tmp_path, task, module(files, [0, 1, 2, 0]))
    assert task.unfitted == []
    assert task.results.metrics[SCORES].keys() == {"top1"}
    for name in ("a", "b"):
        kept = torch.load(tmp_path / f"{name}.ckpt", weights_only=True)["state_dict"]
        assert [float(v) for k, v in kept.items() if k.endswith("factor")] == [2, 2]


def test_a_part_gets_the_target_of_its_head(tmp_path):
    files = good_files(tmp_path / "videos", 4)
    pool, shared, own = SpatialPool(FRAMES), Recorder(), Late(Shape(None, 3, 1, 1))
    heads = {"verb": Linear(pool.out, CLASSES), "noun": Linear(pool.out, CLASSES)}
    parts = Chain(aggregate=[shared, pool], head=heads, then={"noun": [own]})
    names = {"rgb_verb": "verb", "rgb_noun": "noun"}
    task = Recognition(
        system(
            Network({"rgb": parts}, {"rgb": "rgb"}),
            losses={name: CrossEntropy() for name in names},
            weights=dict.fromkeys(names, 1.0),
            heads=names,
            metrics={name: {"top1": Top1(CLASSES)} for name in names},
        )
    )
    data = module(files, [{"verb": i % 3, "noun": -i} for i in range(4)])
    made = train(tmp_path, task, data)
    assert task.unfitted == ["streams.rgb.then.noun.0"]
    assert shared.passes[0][0].target.keys() == {"verb", "noun"}
    assert made.logged_metrics.keys() >= {"train/loss"}
    assert not any("noun" in name for name in made.logged_metrics)
    with pytest.raises(RunError, match=r"streams.rgb.then.noun.0 has learnt nothing yet"):
        trainer(tmp_path).validate(task, data, verbose=False)
    fitter = Fitter(Console(quiet=True), bad_clips(tmp_path), [tmp_path / "best.ckpt"])
    made.save_checkpoint(tmp_path / "best.ckpt")
    trainer(tmp_path, callbacks=[fitter]).validate(task, data, verbose=False)
    assert [t for f in own.passes[0] for t in f.target.tolist()] == [0, 0, -1, -1, -2, -2, -3, -3]
    assert task.results.metrics.keys() == set(names)


def test_unreadable_clips_are_told_and_left_out(tmp_path):
    files = good_files(tmp_path / "videos", 4)
    files[1].write_bytes(b"no video")
    recorder, data = Recorder(), module(files, [0, 1, 2, 0])
    fitter = Fitter(Console(quiet=True), bad_clips(tmp_path), [])
    made = trainer(tmp_path, max_epochs=1, callbacks=[fitter])
    made.fit(one_stream(recorder), data)
    assert [t for f in recorder.passes[0] for t in f.target.tolist()] == [0, 0, 2, 2, 0, 0]
    assert "good1.mp4" in (tmp_path / "bad.jsonl").read_text()


@pytest.mark.parametrize(
    ("targets", "text"),
    [
        ([-1] * 4, "head.scores has nothing to learn from: no training clip has a label"),
        ([1, -1, 1, 1], "head.scores needs training clips of two classes at least"),
    ],
)
def test_what_nothing_can_be_learnt_from_ends_the_run(tmp_path, targets, text):
    task = one_stream(head=LinearSVM)
    with pytest.raises(RunError, match=f"^streams.rgb.{text}"):
        train(tmp_path, task, module(good_files(tmp_path / "videos", 4), targets))
    assert not list(tmp_path.glob("*.ckpt"))


def test_clips_without_label_do_not_change_what_is_learnt(tmp_path):
    files = good_files(tmp_path / "videos", 6)
    tasks = [one_stream(head=LinearSVM, c=1.0) for _ in range(2)]
    train(tmp_path, tasks[0], module(files, [0, 1, -1, 2, -1, 0]))
    some = [f for i, f in enumerate(files) if i not in (2, 4)]
    train(tmp_path, tasks[1], module(some, [0, 1, 2, 0]))
    weights = [task.network.streams["rgb"].head[SCORES].weight for task in tasks]
    torch.testing.assert_close(*weights)


def test_a_trainer_without_the_fitter_is_refused(tmp_path):
    data = module(good_files(tmp_path / "videos", 4), [0, 1, 2, 0])
    with pytest.raises(RunError, match=r"^streams.rgb.aggregate.0 has learnt nothing yet.*Fitter"):
        trainer(tmp_path, max_epochs=1).fit(one_stream(Recorder()), data)


# -------------------------------------------------------------------------------- batches


def test_small_batches_are_made_once_and_large_ones_each_time():
    features = Features(torch.ones(2, 1, 4, 1, 1), torch.ones(2, 1, dtype=torch.bool))
    each = 2 * 4 * 4 + 2 + 2 * 8
    made = []

    def make():
        made.append(1)
        for _ in range(3):
            yield Fitting(features, torch.zeros(2, dtype=torch.int64), ["a", "b"])

    for most, times in ((3 * each, 1), (3 * each - 1, 3)):
        made.clear()
        batches = Captured(make, most)
        assert [len(list(batches)) for _ in range(3)] == [3, 3, 3]
        assert len(made) == times
    made.clear()
    batches = Captured(make)
    next(iter(batches))
    assert len(list(batches)) == 3  # what was left early is not taken for all
    assert len(made) == 2


# ---------------------------------------------------------------------------------- paths


class FittedFusion(Fusion, Fits):
    fits: ClassVar = "after"

    def __init__(self, inp):
        super().__init__()
        self.out = next(iter(inp.values()))

    def forward(self, inputs):
        return next(iter(inputs.values()))

    def fit_from(self, batches):
        return ""


def vectors(inp, *parts):
    return [*parts, SpatialPool(inp), Mean(SpatialPool(inp).out)]


def test_paths_are_what_each_output_depends_on():
    torch.manual_seed(0)
    shapes = {"a": Shape(2, 3, 5, 5), "b": Shape(2, 3, 5, 5)}
    joint = Cross(shapes)
    low, high = (vectors(joint.out[name]) for name in ("low", "high"))
    streams = {
        "a": Chain(),
        "b": Chain(),
        "low": Chain(aggregate=low, head={SCORES: Linear(low[-1].out, CLASSES)}),
        "high": Chain(aggregate=high, head={SCORES: Linear(high[-1].out, CLASSES)}),
    }
    fusion = Average(dict.fromkeys(("low", "high"), Shape(1, 3, 1, 1)))
    tail = Chain(head={"x": Linear(fusion.out, CLASSES), "y": Linear(fusion.out, CLASSES)})
    network = Network(streams, {"a": "a", "b": "b"}, joint, fusion, tail)
    inputs = {n: Features(torch.randn(2, *s), torch.ones(2, 2).bool()) for n, s in shapes.items()}
    output = network.scores(inputs)
    paths = network.paths()
    assert list(paths) == list(output) == ["low", "high", "x", "y"]
    own = {n for n, _ in network.named_parameters()}
    for name, features in output.items():
        network.zero_grad()
        features.x.sum().backward(retain_graph=True)
        moved = {n for n, p in network.named_parameters() if p.grad is not None}
        said = {id(p) for part in paths[name] for p in part.parameters()}
        beyond = {n for n in moved if id(network.get_parameter(n)) not in said}
        assert not beyond
        heads = {n for n in own if "head" in n and id(network.get_parameter(n)) in said}
        assert heads == {n for n in moved if "head" in n}
    assert paths["x"][-1] is tail.head["x"]
    assert paths["x"][-2] is fusion
    assert paths["low"][0] is joint


def test_what_stands_behind_a_fitted_fusion_is_late():
    inp = Shape(None, 3, 1, 1)
    fusion = FittedFusion(dict.fromkeys(("rgb", "flow"), inp))
    streams = {name: chain(FRAMES) for name in ("rgb", "flow")}
    network = Network(streams, {"rgb": "rgb", "flow": "flow"}, fusion=fusion)
    assert network.fits() == {"fusion": [SCORES]}
    assert network.late() == {SCORES}


# ---------------------------------------------------------------------------------- ranks


def fit_on_a_rank(rank, folder, files):
    folder = Path(folder)
    seen = []
    learn = LinearSVM.fit_from
    LinearSVM.fit_from = lambda self, batches: (seen.append(rank), learn(self, batches))[1]
    task = one_stream(head=LinearSVM, c=1.0)
    data = module([Path(f) for f in files], [0, 1, 2, 0, 1, 2])
    train(folder, task, data, devices=2, strategy="ddp")
    bad = one_stream(head=LinearSVM, c=1.0)
    try:
        train(
            folder / "bad",
            bad,
            module([Path(f) for f in files], [-1] * 6),
            devices=2,
            strategy="ddp",
        )
    except RunError as error:
        said = str(error)
    return task.state_dict(), task.results.scores[SCORES], seen, said


def test_two_ranks_hold_what_the_first_has_learnt(tmp_path):
    files = [str(f) for f in good_files(tmp_path / "videos", 6)]
    ours, theirs = on_two_ranks(fit_on_a_rank, tmp_path, str(tmp_path), files)
    task = one_stream(head=LinearSVM, c=1.0)
    train(tmp_path / "alone", task, module([Path(f) for f in files], [0, 1, 2, 0, 1, 2]))
    for state, found, _, said in (ours, theirs):
        for name, value in task.state_dict().items():
            torch.testing.assert_close(state[name], value)
        torch.testing.assert_close(found, task.results.scores[SCORES])
        assert said.startswith("streams.rgb.head.scores has nothing to learn from")
    assert ours[2] == [0, 0]
    assert theirs[2] == []
    kept = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert kept["unfitted"] == []
