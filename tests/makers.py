"""Makers of small real things: clips, folders of videos, a whole system, two ranks."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as lightning
import numpy as np
import torch
from torch import distributed
from torch.utils.data import DataLoader
from videos import moving_frames, write_video

from actionkit import grammar
from actionkit.aggregators.pooling import Mean, SpatialPool
from actionkit.contracts import Batch, Clip, Dataset, Kind, Part, Record, Sample, Shape
from actionkit.data.collate import collate
from actionkit.evaluation.metrics import Top1
from actionkit.evaluation.protocol import Protocol
from actionkit.heads.linear import Linear
from actionkit.losses.cross_entropy import CrossEntropy
from actionkit.network import SCORES, Chain, Network
from actionkit.tasks.recognition import System
from actionkit.testing import zoo
from actionkit.training.saves import Best, Last
from actionkit.training.signals import Signals

CLASSES = ["left", "right", "still"]

# ------------------------------------------------------------------------------------ data


class Listed(Dataset):
    """The records it is given."""

    classes = CLASSES

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = list(records)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index]


def records(paths: Iterable[Path]) -> list[Record]:
    """A record a file, with classes in turn."""
    return [
        Record(path.name, {"rgb": path}, i % len(CLASSES), origin=f"list.txt:{i + 1}")
        for i, path in enumerate(paths)
    ]


def good_files(folder: Path, count: int, frames: int = 14) -> list[Path]:
    """Videos of 40x32 pixels, each of other frames."""
    return [
        write_video(folder / f"good{i}.mp4", moving_frames(frames + i % 3, 32, 40, seed=i))
        for i in range(count)
    ]


def bad_files(folder: Path) -> dict[str, Path]:
    """Files of the zoo that nobody can open, by what is wrong with them."""
    files = zoo.bad(folder)
    return {name: files[name] for name in ("missing", "empty", "no_moov", "audio", "text")}


class ZooFolder(NamedTuple):
    """File names in the class folders of every split."""

    good: list[str]
    odd: list[str]
    bad: list[str]


def zoo_folder(root: Path) -> ZooFolder:
    """A folder of videos, root/{train,val}/{blue,red}/*, with all of the zoo among the good clips.

    The good ones tell their class by their colour. What is missing is a link to nowhere; a folder
    named like a video is no entry, so it is not among `bad`.
    """
    for split in ("train", "val"):
        red, blue = root / split / "red", root / split / "blue"
        bad, odd = zoo.bad(red), zoo.odd(blue)
        bad["missing"].symlink_to(root / split / "nowhere.mp4")
        for i, folder in itertools.product(range(6), (red, blue)):
            frames = moving_frames(14, 32, 40, seed=i)
            frames[..., 2 if folder is red else 0] //= 8
            write_video(folder / f"good{i}.mp4", frames)
    return ZooFolder(
        [f"good{i}.mp4" for i in range(6)] * 2,
        [animal.path.name for animal in odd.values()],
        [path.name for name, path in bad.items() if name != "directory"],
    )


def clip(
    views: int = 1,
    steps: int = 2,
    size: tuple[int, int, int] = (3, 8, 8),
    *,
    seed: int = 0,
    kind: Kind = "rgb",
    real: int | None = None,
) -> Clip:
    """Random uint8 frames [V, T, C, H, W], the first `real` steps real, in a decoder's memory."""
    channels, height, width = size
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.integers(0, 256, (views, steps, height, width, channels), np.uint8))
    mask = (torch.arange(steps) < (steps if real is None else real)).expand(views, steps).clone()
    times = torch.arange(steps).float().expand(views, steps).masked_fill(~mask, torch.nan)
    return Clip(x.permute(0, 1, 4, 2, 3), mask, times, kind)


def sample(index: int = 0, target: Any = None, **clips: Clip) -> Sample:
    """A sample of one random rgb clip, or of the clips given."""
    target = index % len(CLASSES) if target is None else target
    return Sample(clips or {"rgb": clip(seed=index)}, target, None, f"v{index}", index, 100 + index)


def batch(
    count: int = 4, first: int = 0, targets: Sequence[Any] | None = None, **options: Any
) -> Batch:
    """A batch of random rgb clips; options are those of `clip`."""
    samples = []
    for i in range(first, first + count):
        target = None if targets is None else targets[i - first]
        samples.append(sample(i, target, rgb=clip(seed=i, **options)))
    return collate(samples)


def loader(batches: Sequence[Batch]) -> DataLoader:
    """Ready batches as a loader."""
    return DataLoader(batches, batch_size=None, collate_fn=_same)  # type: ignore[arg-type]


def _same(x: Any) -> Any:
    return x


# ---------------------------------------------------------------------------------- system


def chain(inp: Shape, *extra: Part, classes: Sequence[str] = tuple(CLASSES), **head: Any) -> Chain:
    """Colours of a frame to logits: the smallest network that learns."""
    pool = SpatialPool(inp)
    return Chain(aggregate=[pool, *extra], head={SCORES: Linear(pool.out, classes, **head)})


def system(network: Network | None = None, **changes: Any) -> System:
    """All that a task needs; `network` is by default one stream of `chain`."""
    if network is None:
        torch.manual_seed(0)
        network = Network({"rgb": chain(Shape(None, 3, None, None))}, {"rgb": "rgb"})
    options: dict[str, Any] = {
        "losses": {SCORES: CrossEntropy()},
        "weights": {SCORES: 1.0},
        "heads": {SCORES: SCORES},
        "protocol": Protocol(Mean(Shape(None, len(CLASSES), 1, 1))),
        "metrics": {SCORES: {"top1": Top1(CLASSES)}},
        "train_transforms": [],
        "eval_transforms": [],
        "optimizer": optimizer(),
    }
    return System(network=network, **{**options, **changes})


def optimizer(
    use: str = "momentum",
    *,
    lr: float = 0.1,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    schedule: str = "constant",
    **options: Any,
) -> grammar.Optimizer:
    """Settings as the recipe's reader makes them; options are those of the schedule."""
    settings: Mapping[str, Any] = {
        "use": schedule,
        "warmup": 0.0,
        "min_lr": 0.0,
        "decay_epochs": 30,
        "decay_rate": 0.1,
        **options,
    }
    return grammar.Optimizer(
        use=use,
        lr=lr,
        weight_decay=weight_decay,
        momentum=momentum,
        schedule=grammar.Schedule(**settings),
    )


def trainer(folder: Path, **options: Any) -> lightning.Trainer:
    """A quiet trainer on the CPU."""
    silent = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return lightning.Trainer(
        **{
            "accelerator": "cpu",
            "devices": 1,
            "default_root_dir": folder,
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
            **silent,
            **options,
        }
    )


def saves(folder: Path, metric: str = "top1") -> list[lightning.Callback]:
    """What writes best.ckpt and last.ckpt."""
    best = Best(folder / "best.ckpt", f"val/{metric}")
    return [best, Last(folder / "last.ckpt", Signals(), every=1000)]


# ----------------------------------------------------------------------------------- ranks


def on_two_ranks(function: Callable[..., Any], folder: Path, *given: Any) -> list[Any]:
    """What `function(rank, *given)` of a module returns in each of two processes joined by gloo."""
    # forked from a server that has imported what takes long, once for all tests of a process
    torch.multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["lightning.pytorch", "actionkit.run", "actionkit.testing.zoo", "timm"]
    )
    torch.multiprocessing.start_processes(
        _rank, (function, str(folder), given), nprocs=2, start_method="forkserver"
    )
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


def _rank(rank: int, function: Callable[..., Any], folder: str, given: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2}
    os.environ.update({name: str(value) for name, value in place.items()})
    os.environ["TORCHELASTIC_RUN_ID"] = "test"  # so Lightning does not launch ranks of its own
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    torch.save(function(rank, *given), f"{folder}/rank{rank}.pt")
    distributed.destroy_process_group()
