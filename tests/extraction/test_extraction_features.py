"""Features are those of the network itself, each clip's once, whatever happens on the way."""

import io
import json
import multiprocessing
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from makers import trainer
from parts_for_tests import ENTRIES
from recipes_for_tests import changed, write
from rich.console import Console
from videos import moving_frames, write_video

from actionkit import builder, registry
from actionkit.contracts import Record
from actionkit.data.clips import Clips
from actionkit.data.collate import collate
from actionkit.data.order import Ask
from actionkit.data.stores.features import ARRAY, LIST, StoredFeatures
from actionkit.data.stores.folder import Store
from actionkit.errors import RunError, TooManyBadClipsError
from actionkit.extraction import features

SIZE, BATCH = 32, 4
POOLED = "model.streams.rgb.aggregate.0"
PIPELINE = {
    "sampler": {"use": "segments", "count": 3},
    "per_sample": [{"use": "crop_resize", "size": SIZE, "scale": [1, 1], "ratio": [1, 1]}],
    "per_batch": ["normalize"],
}
RECIPE = {
    "data": {
        "dataset": {"use": "folder"},
        "train": PIPELINE,
        "eval": PIPELINE,
        "batch": BATCH,
        "workers": 0,
    },
    "model": {
        "streams": {
            "rgb": {
                "backbone": {"use": "timm", "arch": "test_resnet", "freeze": True},
                "aggregate": ["spatial_pool", "mean"],
                "head": "linear",
            }
        }
    },
    "optimizer": {"lr": 0.05},
    "trainer": {"accelerator": "cpu", "max_epochs": 2},
}
LENGTHS = (3, 9, 14, 6, 11)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Five clips to train, five others to validate, of square frames and 3 to 14 of them."""
    folder = tmp_path_factory.mktemp("videos")
    for split in ("train", "val"):
        for i, length in enumerate(LENGTHS):
            path = folder / split / ("calm", "wild")[i % 2] / f"{i}.mp4"
            write_video(path, moving_frames(length, SIZE, SIZE, seed=i + (split == "val") * 9))
    return folder


def blueprint(folder, root, changes=None, overrides=()):
    values = changed(RECIPE, {"data.dataset.root": str(root), **(changes or {})})
    found = builder.blueprint(write(folder, values), overrides)
    found.require()
    return found


def extract(found, out, at=POOLED, **options):
    """The store's content by id, and what was said."""
    console = Console(file=io.StringIO(), width=1000)
    features.extract(found, features.place(found, at), out, console, **options)
    return content(out), console.file.getvalue()


def content(out):
    reader = StoredFeatures(path=out)
    lines = [json.loads(line) for line in (out / LIST).read_text().splitlines()]
    ids = dict.fromkeys(name for line in lines for name, _ in line["pieces"])
    paths = {name: reader.source(Record(name, {}), "rgb") for name in ids}
    return {n: reader.read(p, np.arange(reader.probe(p).frames)) for n, p in paths.items()}


def by_hand(found, at=POOLED):
    """What leaves a part for each clip of train and val, by itself and with all its views."""
    task, data = builder.build(found)
    task.eval()
    left = []
    found.made[at].register_forward_hook(lambda part, given, out: left.append(out))
    result = {}
    for split in ("train", "val"):
        stage, dataset = data.eval_stage, data.datasets[split]
        clips = Clips(dataset, data.sources, stage.sampler, stage.per_sample, train=False)
        for i in range(len(dataset)):
            batch = collate([clips[Ask(i, 0)]])
            with torch.inference_mode():
                task(batch)
            x, mask = left[-1].x, left[-1].mask
            result[dataset[i].id] = x[mask]
    return result


@pytest.mark.parametrize(("sampler", "per_item", "steps"), [
    ({"use": "segments", "count": 3}, 10, lambda n: 3),
    ({"use": "dense", "length": 4, "clips": 3, "short": "pad"}, 10, lambda n: 3 * min(n, 4)),
    ({"use": "dense", "length": 2, "clips": 3}, 2, lambda n: 6),
    ({"use": "sliding", "length": 4, "hop": 3, "short": "pad"}, 2,
     lambda n: 3 if n < 4 else 4 * (-(-(n - 4) // 3) + 1)),
    ({"use": "full"}, 10, lambda n: n),
])  # fmt: skip
def test_stored_are_the_features_of_every_real_step(tmp_path, root, sampler, per_item, steps):
    changes = {"data.eval.sampler": sampler, "evaluation": {"views_per_item": per_item}}
    found = blueprint(tmp_path, root, changes)
    stored, _ = extract(found, tmp_path / "out", dtype="float32")
    right = by_hand(found)
    assert stored.keys() == right.keys()
    assert len(stored) == 2 * len(LENGTHS)
    for name, x in right.items():
        length = LENGTHS[int(name.partition(".")[0][-1])]
        assert stored[name].shape == x.shape == (steps(length), x.shape[1], 1, 1)
        torch.testing.assert_close(stored[name], x, atol=1e-5, rtol=1e-4)
    assert len({x.sum().item() for x in right.values()}) == len(right)


def test_half_precision_is_the_rounding_of_the_same(tmp_path, root):
    found = blueprint(tmp_path, root)
    wide, _ = extract(found, tmp_path / "wide", dtype="float32")
    half, _ = extract(found, tmp_path / "half")
    assert all(torch.equal(half[name], x.half()) for name, x in wide.items())


def test_maps_and_the_ends_of_a_joint_are_places(tmp_path, root, monkeypatch):
    entries = registry.entries() + ENTRIES
    monkeypatch.setattr(registry, "entries", lambda: entries)
    tail = {"aggregate": ["spatial_pool", "mean"], "head": "linear"}
    inner = {"use": "within", "part": {"use": "within", "part": ["mean"]}}
    streams = {"a": {"takes": "rgb"}, "b": {"takes": "rgb"}, "low": tail, "high": tail}
    streams["low"] = {**tail, "aggregate": ["spatial_pool", inner]}
    model = {"streams": streams, "joint": {"use": "cross", "width": 2}, "fusion": "average"}
    found = blueprint(tmp_path, root, {"model": model})
    key = "model.joint"
    assert features.places(found) == [
        f"{key} -> low", f"{key} -> high",
        *(f"model.streams.low.{slot}" for slot in ("aggregate.0", "aggregate.1", "head")),
        *(f"model.streams.high.{slot}" for slot in ("aggregate.0", "aggregate.1", "head")),
        "model.fusion",
    ]  # fmt: skip
    low, _ = extract(found, tmp_path / "low", "joint -> low")
    high, _ = extract(found, tmp_path / "high", f"{key} -> high")
    for name, x in low.items():
        assert (x.shape, high[name].shape) == ((3, 2, SIZE, SIZE), (3, 4, SIZE, SIZE))
    scores, _ = extract(found, tmp_path / "scores", "model.streams.low.head", dtype="float32")
    right = by_hand(found, "model.streams.low.head")
    for name, x in right.items():
        torch.testing.assert_close(scores[name], x)


def test_a_place_is_named_as_the_recipe_has_it_or_explained(tmp_path, root):
    found = blueprint(tmp_path, root)
    backbone = "model.streams.rgb.backbone"
    for at in (backbone, f"{backbone}.0", "streams.rgb.backbone", "streams.rgb.backbone.0"):
        assert features.place(found, at) == backbone
    listed = blueprint(tmp_path, root, {"model.streams.rgb.aggregate": ["spatial_pool"]})
    assert features.place(listed, "streams.rgb.aggregate") == POOLED
    known = f"Known are {backbone}, {POOLED}, model.streams.rgb.aggregate.1, model.streams.rgb.head"
    for at, near in (
        ("streams.rgb.agregate.1", "Did you mean 'model.streams.rgb.aggregate.1'? "),
        ("streams.rgb.aggregate", "Did you mean 'model.streams.rgb.aggregate.1'? "),  # of two
        ("q", ""),
    ):
        with pytest.raises(ValueError, match=r"^the network has no place") as error:
            features.place(found, at)
        assert str(error.value) == f"the network has no place '{at}'. {near}{known}"


def test_a_head_learns_from_stored_features_what_it_learns_behind_a_frozen_network(tmp_path, root):
    same = {f"data.{stage}.sampler": {"use": "uniform", "count": 3} for stage in ("train", "eval")}
    whole = blueprint(tmp_path, root, same)
    extract(whole, tmp_path / "out", dtype="float32")
    stored = blueprint(tmp_path, root, {
        "data.reader": {"features": {"use": "stored_features", "path": str(tmp_path / "out")}},
        "data.train": {"sampler": "full"},
        "data.eval": {"sampler": "full"},
        "model.streams": {"features": {"aggregate": ["mean"], "head": "linear"}},
    })  # fmt: skip
    (long, videos), (short, vectors) = builder.build(whole), builder.build(stored)
    long_head, short_head = (task.network.streams[name].head for task, name in
                             ((long, "rgb"), (short, "features")))  # fmt: skip
    short_head.load_state_dict(long_head.state_dict())
    start = long_head.state_dict()["scores.linear.weight"].clone()
    results = []
    for task, data in ((long, videos), (short, vectors)):
        fit = trainer(tmp_path, max_epochs=2, limit_val_batches=0)
        fit.fit(task, data.train_dataloader())
        fit.test(task, data.eval_dataloader("val"), verbose=False)
        results.append(task.results)
    after = long_head.state_dict()["scores.linear.weight"]
    assert (after - start).abs().max() > 0.01
    torch.testing.assert_close(short_head.state_dict()["scores.linear.weight"], after)
    assert results[0].ids == results[1].ids
    scores = [result.scores["scores"] for result in results]
    torch.testing.assert_close(scores[1], scores[0], atol=1e-5, rtol=0)


def test_a_clip_of_two_splits_is_computed_once(tmp_path, root):
    found = blueprint(tmp_path, root)
    assert found.datasets["test"][0].id == found.datasets["val"][0].id
    extract(found, tmp_path / "out")
    pieces = [p for line in (tmp_path / "out" / LIST).open() for p in json.loads(line)["pieces"]]
    assert len(pieces) == len({name for name, _ in pieces}) == 10


def test_one_id_of_two_clips_is_refused(tmp_path, root):
    found = blueprint(tmp_path, root)
    one, other = found.datasets["train"][0], found.datasets["val"][0]
    assert features.unique({"train": [one], "val": [one._replace(target=5), other]}) == [one, other]
    with pytest.raises(RunError, match=r"two clips have the id 'train/calm/0.mp4'") as error:
        features.unique({"train": [one], "val": [other._replace(id=one.id)]})
    assert f"{root}/train/calm/0.mp4 and {root}/val/calm/0.mp4; give them ids" in str(error.value)
    with pytest.raises(RunError, match=r"0.mp4 and .*0.mp4 1.0-None s; give them ids of their own"):
        features.unique({"train": [one], "val": [one._replace(start=1.0)]})


@pytest.mark.parametrize(("change", "at", "dtype", "said"), [
    ({"seed": 1}, POOLED, "float16", "weights is sha256 .* there, sha256 .* is wanted"),
    ({}, "streams.rgb.backbone", "float16", f"at is {POOLED} there, model.streams.rgb.backbone is"),
    ({}, POOLED, "float32", "dtype is float16 there, float32 is wanted"),
    ({"data.batch": 3}, POOLED, "float16", "data.batch is 4 there, 3 is wanted"),
    ({"data.eval.sampler.count": 2}, POOLED, "float16", "data.eval.sampler.count is 3 there, 2 is"),
    ({"trainer.precision": "bf16-mixed"}, POOLED, "float16", "trainer.precision is 32 there, bf16"),
    ({"evaluation": {"views_per_item": 1}}, POOLED, "float16", "views_per_item is 10 there, 1 is"),
])  # fmt: skip
def test_a_store_of_other_settings_is_left_alone(tmp_path, root, change, at, dtype, said):
    out = tmp_path / "out"
    begin(blueprint(tmp_path, root), out)
    before = files(out)
    with pytest.raises(RunError, match=f"made with other settings: .*{said}"):
        extract(blueprint(tmp_path, root, change), out, at, dtype=dtype)
    assert files(out) == before


def begin(found, out):
    """A store just begun."""
    task, _ = builder.build(found)
    settings = features._settings(found, task, features.unique(found.datasets))
    Store.begin(out, "features", {**settings, "at": POOLED, "dtype": "float16"}, features.Path())


def test_what_decides_no_number_may_change(tmp_path, root):
    out = tmp_path / "out"
    begin(blueprint(tmp_path, root), out)
    free = {"data.max_bad": 0.5, "data.train.sampler.count": 1, "optimizer.lr": 0.1}
    extract(blueprint(tmp_path, root, free), out)
    before = files(out)
    stamp = (out / ARRAY).stat().st_mtime_ns
    _, said = extract(blueprint(tmp_path, root), out)
    assert "is complete already" in said
    assert files(out) == before
    assert (out / ARRAY).stat().st_mtime_ns == stamp


def test_bad_clips_are_named_and_counted_when_all_others_are_stored(tmp_path, root):
    videos = tmp_path / "videos"
    shutil.copytree(root, videos)
    (videos / "val/calm/2.mp4").write_bytes(b"")
    out, found = tmp_path / "out", blueprint(tmp_path, videos)
    said = r"1 of 5 clips of 'val' could not be read, and data.max_bad allows a share of 0.01:\n"
    with pytest.raises(TooManyBadClipsError, match=f"{said}.*2.mp4 .pyav.: the file is empty\n"):
        extract(found, out)
    before = files(out)
    assert len(content(out)) == 9
    with pytest.raises(TooManyBadClipsError, match=said):  # again, with nothing left to compute
        extract(found, out)
    extract(blueprint(tmp_path, videos, {"data.max_bad": 0.2}), out)
    assert files(out) == before
    (failure,) = Store.open(out, "features").failures
    assert failure.name == "val/calm/2.mp4"
    assert failure.reason == f"{videos}/val/calm/2.mp4 (pyav): the file is empty"


def test_without_any_clip_there_is_no_store(tmp_path, root):
    videos = tmp_path / "videos"
    shutil.copytree(root, videos)
    for path in videos.rglob("*.mp4"):
        path.write_bytes(b"")
    with pytest.raises(TooManyBadClipsError, match=r"no clip could be read:(.|\n)*  and 5 more"):
        extract(blueprint(tmp_path, videos, {"data.max_bad": 1.0}), tmp_path / "out")
    with pytest.raises(ValueError, match="unfinished"):
        StoredFeatures(path=tmp_path / "out")


def test_what_half_precision_cannot_hold_is_not_stored_as_infinite(tmp_path, root, monkeypatch):
    found = blueprint(tmp_path, root)
    build = builder.build

    def large(found):
        task, data = build(found)
        with torch.no_grad():
            task.network.streams["rgb"].head["scores"].linear.bias.fill_(1e5)
        return task, data

    monkeypatch.setattr(builder, "build", large)
    with pytest.raises(RunError, match=r"float16 cannot hold.*extract with --dtype float32, or"):
        extract(found, tmp_path / "out", "streams.rgb.head")


def test_a_data_set_that_changed_since_is_noticed(tmp_path, root):
    out, found = tmp_path / "out", blueprint(tmp_path, root)
    begin(found, out)
    (out / LIST).write_text('{"pieces": [], "failures": [["someone else", "gone"]]}\n')
    with pytest.raises(RunError, match=r"have changed since .*out was begun: .*extract again"):
        extract(found, out)


# ------------------------------------------------------------------------------------------ kills


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def killed(recipe, overrides, out, after):
    """Extracts; kills itself and its workers at a call that puts bytes on the disk, behind `after`
    others.
    """
    os.setpgrp()
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of the workers: they import nothing
    found = builder.blueprint(recipe, overrides)
    sync, calls = os.fsync, iter(range(after))

    def fsync(number):
        if next(calls, None) is None:
            os.killpg(0, signal.SIGKILL)
        sync(number)

    os.fsync = fsync
    features.extract(found, POOLED, out, Console(file=io.StringIO()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs SIGKILL")
@pytest.mark.parametrize(("workers", "kills"), [(0, (0, 1, 0, 3, 2, 1)), (2, (3, 1))])
def test_kills_leave_no_trace_in_what_is_finished(tmp_path, root, workers, kills):
    """Of 11 calls 2 begin the store, 2 write each of 3 batches, 3 end it."""
    videos = tmp_path / "videos"
    shutil.copytree(root, videos)
    (videos / "val/calm/2.mp4").write_bytes(b"")
    found = blueprint(tmp_path, videos, {"data.max_bad": 0.5})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as there: sums of other threads differ in their last bits
    extract(found, tmp_path / "right")
    torch.set_num_threads(threads)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["actionkit.extraction.features", "actionkit.backbones.timm"])
    out, given = tmp_path / "out", (tmp_path / "recipe.yaml", [f"data.workers={workers}"])
    for after in (*kills, 99):
        process = context.Process(target=killed, args=(*given, out, after))
        process.start()
        process.join()
        assert process.exitcode == (0 if after == 99 else -signal.SIGKILL)
    assert files(out) == files(tmp_path / "right")
