"""A fit of seconds that is logged to W&B, as a program: what a crash of it leaves can be seen."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import makers
from lightning.pytorch.callbacks import ModelCheckpoint

from actionkit.data.module import DataModule, Stage
from actionkit.data.readers.pyav import PyAV
from actionkit.data.samplers import Segments
from actionkit.data.sources import Sources
from actionkit.data.transforms.crop import CropResize
from actionkit.tasks.recognition import Recognition
from actionkit.training.loggers import CSV
from actionkit.training.meters import Meters
from actionkit.training.wandb.logger import WandB

CLIPS, BATCH, SIZE = 6, 2, 32
RECIPE = {
    "name": "small",
    "recipe": {
        "name": "small",
        "data": {"dataset": {"use": "folder", "root": "${oc.env:CANARY}"}},
        "model": {"streams": {"rgb": {"backbone": {"use": "timm", "arch": "resnet18"}}}},
    },
    "versions": {"actionkit": "0"},
}


class Kill(lightning.Callback):
    """Kills a process when the second step is done: a server, or the own."""

    def __init__(self, process: int) -> None:
        self.process = process

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 2:
            os.kill(self.process or os.getpid(), signal.SIGKILL)


def fit(
    folder: Path,
    videos: Path,
    *,
    epochs: int = 2,
    resume: bool = False,
    kill: int | None = None,
    **options: Any,
) -> WandB:
    """Trains with a rate of zero, so that two of three clips stay mistakes; options: WandB's."""
    paths = sorted(videos.glob("*.mp4")) or makers.good_files(videos, CLIPS)
    clips = makers.Listed(makers.records(paths))
    stage = Stage(Segments(count=3), [CropResize(size=SIZE)])
    data = DataModule(
        {"train": clips, "val": clips}, Sources(PyAV()), stage, stage, batch=BATCH, workers=0
    )
    small = makers.system(classes=makers.CLASSES, recipe=RECIPE, optimizer=makers.optimizer(lr=0.0))
    task = Recognition(small)
    logger = WandB(folder, **options)
    trainer = makers.trainer(
        folder,
        max_epochs=epochs,
        log_every_n_steps=1,
        logger=[CSV(folder), logger],
        enable_checkpointing=True,
        callbacks=[
            ModelCheckpoint(folder / "checkpoints", "best", monitor="val/top1", mode="max"),
            ModelCheckpoint(folder / "checkpoints", "last", enable_version_counter=False),
            Meters(),
            *logger.callbacks,
            *([] if kill is None else [Kill(kill)]),
        ],
    )
    files = {name: folder / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")}
    start = files["last"] if resume else None
    trainer.fit(task, datamodule=data, ckpt_path=start, weights_only=True)
    trainer.validate(
        task, datamodule=data, ckpt_path=files["best"], verbose=False, weights_only=True
    )
    print(f"trained at {time.time()}", flush=True)
    logger.close()
    return logger


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    fit(Path(given.pop("folder")), Path(given.pop("videos")), **given)
