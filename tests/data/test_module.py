import os
import signal

import lightning.pytorch as lightning
import pytest
import torch
from makers import Listed, bad_files, good_files, records, trainer
from videos import moving_frames, write_video

from actionkit.data.device import on_device
from actionkit.data.loader import start_worker
from actionkit.data.module import DataModule, Stage, cpus
from actionkit.data.readers.pyav import PyAV
from actionkit.data.samplers import Dense, Segments, Sliding
from actionkit.data.sources import Sources
from actionkit.data.transforms.crop import CropResize
from actionkit.data.transforms.dis import DISFlow
from actionkit.data.transforms.mirror import Mirror
from actionkit.data.transforms.stack import FlowStack


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return good_files(tmp_path_factory.mktemp("videos"), 9)


def stage(sampler=None):
    sampler = sampler or Segments(count=2, length=3)
    flow = [CropResize(size=24), DISFlow(length=2), FlowStack(length=2), Mirror()]
    return Stage(sampler, flow, [Mirror()])


def module(files, **options):
    """Batches of 3 of 7 clips to train, of 2 to validate."""
    settings = {"batch": 3, "workers": 0, "seed": 1, **options}
    evaluation = settings.pop("eval", stage())
    datasets = {"train": Listed(records(files[:7])), "val": Listed(records(files[7:]))}
    return DataModule(datasets, Sources(PyAV()), stage(), evaluation, **settings)


def run(data, epochs=2):
    """All batches of some epochs of training, each with a validation behind it."""
    found = []
    loaders = data.train_dataloader(), data.val_dataloader()
    for epoch in range(epochs):
        loaders[0].batch_sampler.sampler.set_epoch(epoch)
        for train, loader in zip((True, False), loaders, strict=True):
            found += [(batch, on_device(batch, [Mirror()], train=train).clips) for batch in loader]
    return found


def same_clips(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name].x, b[name].x)
        assert torch.equal(a[name].mask, b[name].mask)
        assert torch.equal(a[name].times.nan_to_num(-1), b[name].times.nan_to_num(-1))


@pytest.fixture(scope="module")
def alone(files):
    return run(module(files))


def test_workers_change_no_bit(files, alone):
    found = run(module(files, workers=2))
    assert len(found) == len(alone) == 2 * (2 + 1)
    for (batch, clips), (expected, expected_clips) in zip(found, alone, strict=True):
        assert batch.id == expected.id
        assert torch.equal(batch.target, expected.target)
        assert torch.equal(batch.seed, expected.seed)
        same_clips(batch.clips, expected.clips)
        same_clips(clips, expected_clips)
        assert batch.clips["flow"].x.shape[2:] == (2, 4, 24, 24)


def test_epochs_differ_in_order_and_draws_and_evaluation_does_not(alone):
    first, second = [alone[i][0] for i in (0, 1)], [alone[i][0] for i in (3, 4)]
    assert [b.id for b in first] != [b.id for b in second]
    clips = [
        {name: b.clips["rgb"].x[i] for b in epoch for i, name in enumerate(b.id)}
        for epoch in (first, second)
    ]
    both = clips[0].keys() & clips[1].keys()
    assert len(both) >= 5
    assert all(not torch.equal(clips[0][name], clips[1][name]) for name in both)
    same_clips(alone[2][0].clips, alone[5][0].clips)
    same_clips(alone[2][1], alone[5][1])


def test_another_seed_is_another_run_with_the_same_evaluation(files, alone):
    other = run(module(files, seed=2), epochs=1)
    assert [b.id for b, _ in other[:2]] != [b.id for b, _ in alone[:2]]
    same_clips(other[2][0].clips, alone[2][0].clips)


def test_lightning_sets_the_epoch_and_a_resumed_run_goes_on(files, tmp_path):
    class Note(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
            self.seeds = []

        def training_step(self, batch, batch_idx):
            self.seeds.append(batch.seed.tolist())
            return self.layer(torch.ones(1)).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    def fit(epochs, **options):
        note = Note()
        run = trainer(tmp_path, max_epochs=epochs, limit_val_batches=0)
        run.fit(note, datamodule=module(files, workers=1), **options)
        run.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return note.seeds

    whole, half = fit(4), fit(2)
    assert whole[:4] == half
    assert len({tuple(seeds) for seeds in whole}) == 8
    assert fit(4, ckpt_path=tmp_path / "2.ckpt", weights_only=True) == whole[4:]


def test_items_of_few_views_bear_one_id(files):
    dense = stage(Dense(length=3, clips=5))
    loader = module(files, eval=dense, views_per_item=2, batch=4).val_dataloader()
    batches = list(loader)
    assert [name for b in batches for name in b.id] == ["good7.mp4"] * 3 + ["good8.mp4"] * 3
    assert len(batches) == 3  # a batch holds 4 views
    real = torch.cat([b.clips["rgb"].mask.any(-1).sum(1) for b in batches])
    assert real.tolist() == [2, 2, 1] * 2
    (whole,) = module(files, eval=dense, batch=10).val_dataloader()
    parts = torch.cat([b.clips["rgb"].x[b.clips["rgb"].mask] for b in batches])
    assert torch.equal(parts, whole.clips["rgb"].x.flatten(0, 2))


def test_a_video_comes_in_as_many_items_as_its_views_need(files, tmp_path):
    """Where every video has another number of views; each item is read by itself."""
    long = write_video(tmp_path / "long.mp4", moving_frames(33, 32, 40))
    (tmp_path / "bad.mp4").touch()
    paths = [files[0], long, tmp_path / "bad.mp4", files[1]]  # of 14, 33, none and 15 frames
    datasets = {"train": Listed(records(files)), "val": Listed(records(paths))}
    sliding = Stage(Sliding(length=6, hop=3), [CropResize(size=24)], [])
    made = {}
    for limit in (3, 100):
        data = DataModule(
            datasets, Sources(PyAV()), stage(), sliding, batch=6, workers=0, views_per_item=limit
        )
        made[limit] = list(data.val_dataloader())
    few, whole = made[3], made[100]
    assert [name for b in few for name in b.id] == [
        *["good0.mp4"] * 2, *["long.mp4"] * 4, *["good1.mp4"] * 2,
    ]  # fmt: skip
    assert [bad.id for b in few for bad in b.bad] == ["bad.mp4"]
    for name, views in (("good0.mp4", 4), ("long.mp4", 10), ("good1.mp4", 4)):
        one, other = (
            torch.cat([
                b.clips["rgb"].x[i][b.clips["rgb"].mask[i].any(1)]
                for b in batches for i, n in enumerate(b.id) if n == name
            ])
            for batches in (few, whole)
        )  # fmt: skip
        assert len(one) == views
        assert torch.equal(one, other)
    assert max(b.clips["rgb"].x.shape[1] for b in few) == 3


def test_unreadable_videos_are_replaced_in_training_and_missing_in_evaluation(files, tmp_path):
    bad = list(bad_files(tmp_path).values())[:2]
    datasets = {"train": Listed(records(bad + files[:4])), "val": Listed(records(bad + files[:1]))}
    data = DataModule(datasets, Sources(PyAV()), stage(), stage(), batch=2, workers=0)
    train, evaluation = list(data.train_dataloader()), list(data.val_dataloader())
    assert [len(batch.id) for batch in train] == [2, 2, 2]
    assert {b.id for batch in train for b in batch.bad} == {path.name for path in bad}
    assert [batch.id for batch in evaluation] == [[], ["good0.mp4"]]
    assert evaluation[0].clips == {}
    assert [b.id for b in evaluation[0].bad] == [path.name for path in bad]


class Place:
    """What the data module asks a trainer."""

    def __init__(self, rank=0, world=1, accumulate=1):
        self.global_rank, self.world_size = rank, world
        self.accumulate_grad_batches = accumulate


@pytest.mark.parametrize(
    ("world", "accumulate", "each"), [(1, 1, 6), (2, 1, 3), (1, 3, 2), (9, 1, 1)]
)
def test_batch_counts_clips_per_optimizer_step_over_all_devices(files, world, accumulate, each):
    data = DataModule(
        {"train": Listed(records(files)), "val": Listed(records(files))},
        Sources(PyAV()),
        stage(),
        stage(),
        batch=6,
        workers=0,
    )
    data.trainer = Place(0, world, accumulate)
    assert data.train_dataloader().batch_sampler.batch == each
    ids = []
    for rank in range(world):
        data.trainer = Place(rank, world)
        ids += [name for batch in data.val_dataloader() for name in batch.id]
    assert sorted(ids) == [path.name for path in files]


def test_workers_live_through_all_epochs(files):
    loader = module(files, workers=2).train_dataloader()
    assert loader.num_workers == 2
    assert loader.persistent_workers
    assert module(files, workers="auto").workers == min(8, cpus())


def test_datasets_make_their_files_before_they_are_read(files):
    made = []

    class Late(Listed):
        def prepare(self):
            made.append(self)

    data = module(files)
    data.datasets = {name: Late([]) for name in ("train", "val")}
    data.prepare_data()
    assert made == list(data.datasets.values())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_worker_leaves_signals_to_the_main_process():
    child = os.fork()
    if child == 0:
        start_worker(0)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(os.getpid(), number)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_balanced_training_draws_each_class_equally_often(files):
    """Of 7 clips 5 are of one class; every epoch draws 7 with replacement."""
    data = module(files, balance=1.0)
    few = [record._replace(target=int(i > 4)) for i, record in enumerate(data.datasets["train"])]
    data.datasets["train"] = Listed(few)
    order, counts = data.train_dataloader().batch_sampler, [0, 0]
    for epoch in range(300):
        order.set_epoch(epoch)
        for ask in (ask for batch in order for ask in batch):
            counts[few[ask.index].target] += 1
    assert counts[0] / sum(counts) == pytest.approx(0.5, abs=0.05)


def test_batches_for_statistics_leave_training_where_it_is(files):
    data = module(files)
    training = data.train_dataloader()
    first = [b.id for b in training]
    one, same, later = (data.statistics_dataloader(1, epoch) for epoch in (0, 0, 1))
    seeds = [b.seed.tolist() for b in one]
    assert len(seeds) == 1
    assert [b.seed.tolist() for b in same] == seeds
    assert [b.seed.tolist() for b in later] != seeds
    assert not {s for b in training for s in b.seed.tolist()} & set(seeds[0])
    assert [b.id for b in training] == first
    data.trainer = Place(accumulate=3)
    loader = data.statistics_dataloader(1, 0)
    assert [len(b.id) for b in loader] == [1, 1, 1]  # as many clips as one step has
