"""A run that is cut anywhere and goes on, once or twice, is the same run."""

import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from makers import CLASSES, Listed, system, trainer
from torch import nn

from actionkit.aggregators.norm import LayerNorm
from actionkit.aggregators.pooling import SpatialPool
from actionkit.contracts import Info, Reader, Record, Shape
from actionkit.data.module import DataModule, Stage
from actionkit.data.samplers import Segments
from actionkit.data.sources import Sources
from actionkit.data.transforms.crop import CropResize
from actionkit.data.transforms.mirror import Mirror
from actionkit.data.transforms.normalize import Normalize
from actionkit.heads.linear import Linear
from actionkit.network import SCORES, Chain, Network
from actionkit.tasks.recognition import Recognition
from actionkit.training.saves import Best, Last
from actionkit.training.signals import Signals

CLIPS, BATCH = 18, 4


class Drawn(Reader):
    """Frames that are a function of their number and the file's name."""

    def probe(self, path):
        return Info(20, 10.0, 2.0, 16, 16)

    def read(self, path, indices):
        seeds = [int(path.name) * 1000 + int(i) for i in indices]
        frames = [np.random.default_rng(s).integers(0, 256, (16, 16, 3), np.uint8) for s in seeds]
        return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def module(workers=0):
    records = [Record(str(i), {"rgb": Path(str(i))}, i % len(CLASSES)) for i in range(CLIPS)]
    stage = Stage(
        Segments(count=2), [CropResize(size=8, scale=(0.3, 1.0))], [Mirror(), Normalize()]
    )
    data = {"train": Listed(records), "val": Listed(records[:4])}
    return DataModule(data, Sources(Drawn()), stage, stage, batch=BATCH, workers=workers, seed=3)


def task():
    torch.manual_seed(0)
    pool = SpatialPool(Shape(2, 3, 8, 8))
    norm = LayerNorm(pool.out)
    head = Linear(norm.out, CLASSES, dropout=0.5)
    network = Network({"rgb": Chain(aggregate=[pool, norm], head={SCORES: head})}, {"rgb": "rgb"})
    return Recognition(
        system(network, train_transforms=[Mirror(), Normalize()], eval_transforms=[Normalize()])
    )


class Keep(Callback):
    """Keeps every last.ckpt that was written, by step; nothing is kept twice."""

    def __init__(self, folder):
        self.folder, self.kept = folder, []

    def after(self, trainer):
        target = self.folder / f"{len(self.kept)}-{trainer.global_step}.ckpt"
        self.folder.mkdir(exist_ok=True)
        shutil.copy(self.folder.parent / "last.ckpt", target)
        self.kept.append(target)


class KeepingLast(Last):
    def __init__(self, file, keep):
        super().__init__(file, Signals(), every=1)
        self.keep = keep

    def _save(self, trainer):
        super()._save(trainer)
        self.keep.after(trainer)


def run(folder, *, start=None, accumulate=1, ema=False, workers=0, epochs=2):
    """Fits; the digest of last.ckpt's weights, the number of steps, every last.ckpt on the way."""
    folder.mkdir(parents=True, exist_ok=True)
    keep = Keep(folder / "kept")
    fitted = task()
    callbacks = [Best(folder / "best.ckpt", "val/top1"), KeepingLast(folder / "last.ckpt", keep)]
    if ema:
        callbacks.append(EMAWeightAveraging(decay=0.9))
    made = trainer(
        folder,
        max_epochs=epochs,
        callbacks=callbacks,
        accumulate_grad_batches=accumulate,
        enable_checkpointing=True,
    )
    data = module(workers)
    made.fit(fitted, datamodule=data, ckpt_path=start, weights_only=True)
    data.close()
    content = torch.load(keep.kept[-1] if keep.kept else start, weights_only=True)
    weights = [*content["state_dict"].values(), *content.get("current_model_state", {}).values()]
    digest = hashlib.sha256(b"".join(v.numpy().tobytes() for v in weights)).hexdigest()
    return digest, made.global_step, keep.kept


LONG = [(1, False, 0, 4), (2, False, 0, 3), (2, True, 0, 3), (2, True, 2, 2)]


@pytest.mark.parametrize(
    ("accumulate", "ema", "workers", "epochs"),
    [(2, True, 0, 2), *(pytest.param(*case, marks=pytest.mark.slow) for case in LONG)],
)
def test_cut_anywhere_once_or_twice_it_is_the_same_run(tmp_path, accumulate, ema, workers, epochs):
    options = {"accumulate": accumulate, "ema": ema, "workers": workers, "epochs": epochs}
    digest, steps, kept = run(tmp_path / "whole", **options)
    assert len(kept) == steps  # behind each but an epoch's last, and behind the epoch
    assert digest == run(tmp_path / "again", **options)[0]
    for i, cut in enumerate(kept):
        once = run(tmp_path / f"{i}", start=cut, **options)
        assert once[:2] == (digest, steps), cut.name
        for j, second in enumerate(once[2]):
            twice = run(tmp_path / f"{i}-{j}", start=second, **options)
            assert twice[:2] == (digest, steps), (cut.name, second.name)


def test_the_best_is_the_highest_metric_and_of_these_the_smallest_loss(tmp_path):
    saved = []
    seen = SimpleNamespace(
        state=SimpleNamespace(fn=TrainerFn.FITTING),
        sanity_checking=False,
        strategy=SimpleNamespace(reduce_boolean_decision=lambda own, all: own),
        lightning_module=nn.Linear(1, 1),
        save_checkpoint=lambda file, weights_only: saved.append(file),
        callback_metrics={},
    )
    nan = float("nan")
    best = Best(tmp_path / "best.ckpt", "val/top1")
    for top1, loss, better in [
        (nan, nan, True),  # the first of all, whatever it is
        (0.5, nan, True),
        (0.5, 2.0, True),
        (0.5, 2.0, False),
        (0.25, 0.1, False),
        (1.0, 3.0, True),
        (1.0, 0.5, True),
        (1.0, 0.6, False),
    ]:
        seen.callback_metrics = {"val/top1": torch.tensor(top1), "val/loss": torch.tensor(loss)}
        before = len(saved)
        best.on_validation_end(seen, seen.lightning_module)
        assert (len(saved) > before) == better, (top1, loss)
        again = Best(tmp_path / "best.ckpt", "val/top1")
        again.load_state_dict(best.state_dict())  # as a run that goes on
        best = again
