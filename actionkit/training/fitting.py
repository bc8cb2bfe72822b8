"""Parts that learn without gradients, fitted before the training or to its best checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from actionkit.contracts import Batch, Features, Fitting
from actionkit.data.loader import Loader
from actionkit.errors import RunError
from actionkit.network import reach
from actionkit.training.bad_clips import BadClips
from actionkit.training.checkpoints import read
from actionkit.training.ranks import of_rank_zero

KEPT = 2 * 2**30  # bytes of a part's input up to which clips are read only once
UNREAD = "unreadable, nothing is fitted to it"


class Fitter(lightning.Callback):
    """Fits the parts of a network that derive from Fits, in the order of its forward.

    Each learns from the training clips as evaluation sees them, with all parts before it fitted.
    What is trained through is fitted when the training starts. All else is when a trainer validates
    by itself, behind the training: to the checkpoint loaded, which is then replaced in `files`, or
    where nothing is trained by gradients to the network as it is, which is written to all `files`.

    Rank 0 goes through all clips while the others wait, and hands them what was fitted.
    """

    def __init__(self, console: Console, bad: BadClips, files: Sequence[Path]) -> None:
        self.console, self.bad, self.files = console, bad, files

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Fits what losses are behind; what only a part waits for that is fitted later can wait."""
        late = pl_module.network.late()
        for part in list(pl_module.unfitted):
            if not late.issuperset(pl_module.behind[part]):
                self._fit(trainer, pl_module, part)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Fits what is left, and saves it."""
        if trainer.state.fn != TrainerFn.VALIDATING or not pl_module.unfitted:
            return
        for part in list(pl_module.unfitted):
            self._fit(trainer, pl_module, part)
        if pl_module.trains:
            _replace(trainer, pl_module, self.files[0])
        else:
            for file in self.files:
                trainer.save_checkpoint(file, weights_only=False)

    def _fit(self, trainer: lightning.Trainer, task: Any, name: str) -> None:
        """Fits one part on all ranks. Raises RunError with its key."""
        part, key = task.network.get_submodule(name), task.place(name)

        def learn() -> tuple[str, str, dict[str, Tensor]]:
            try:
                said = part.fit_from(Captured(lambda: self._inputs(trainer, task, name)))
            except ValueError as error:
                return "", str(error), {}
            return said, "", {k: v.cpu() for k, v in part.state_dict().items()}

        training = task.network.training
        task.network.eval()
        with torch.inference_mode(False), torch.enable_grad():  # evaluation has turned them off
            said, error, state = of_rank_zero(learn)
            if error:
                raise RunError(f"{key} {error}")
            part.load_state_dict(state)
        task.network.train(training)
        task.unfitted.remove(name)
        self.console.print(f"fitted   {key}: {said}", highlight=False, soft_wrap=True)

    def _inputs(self, trainer: Any, task: Any, name: str) -> Iterator[Fitting]:
        """What a part is given of all training clips."""
        part, loader = task.network.get_submodule(name), _all_clips(trainer)
        dataset = trainer.datamodule.datasets["train"]
        heads = {task.system.heads[o] for o in task.behind[name] if o in task.system.heads}
        text = f"fitting {task.place(name)}"
        batches = track(loader, text, len(loader), console=self.console, transient=True)
        try:
            for batch in batches:
                self.bad.add("train", batch.bad, trainer.print, UNREAD)
                if not batch.clips:
                    continue
                features = _given(trainer, task, part, batch)
                records = [dataset[i] for i in batch.index.tolist()]
                groups = [record.group or record.id for record in records]
                yield _by_view(features, _target(batch, heads), groups)
        finally:
            loader.close()


class Captured:
    """Batches that can be gone through again: kept if all take at most `most` bytes, else made
    anew each time.
    """

    def __init__(self, make: Callable[[], Iterable[Fitting]], most: int = KEPT) -> None:
        self._make, self._most = make, most
        self._kept: list[Fitting] | None = None

    def __iter__(self) -> Iterator[Fitting]:
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Fitting] = []
        size = 0
        for fitting in self._make():
            size += sum(x.nbytes for x in pytree.tree_leaves(fitting) if isinstance(x, Tensor))
            if size <= self._most:
                kept.append(fitting)
            else:
                kept.clear()
            yield fitting
        if size <= self._most:
            self._kept = kept


def _given(
    trainer: Any, task: Any, part: nn.Module, batch: Batch
) -> Features | dict[str, Features]:
    """A part's input, when it is first called, on the CPU."""
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        on_device = task.transfer_batch_to_device(batch, task.device, 0)
        found = reach(part, lambda: task(on_device), through=False)
    # copied, since a view would keep more in memory than what it shows
    return pytree.tree_map_only(Tensor, lambda x: x.to("cpu", copy=True), found)


def _target(batch: Batch, heads: set[str]) -> Tensor | dict[str, Tensor]:
    """The target of a part's only head, or of all heads by name."""
    if isinstance(batch.target, dict) and len(heads) == 1:
        return batch.target[next(iter(heads))]
    return batch.target


def _by_view(features: Any, target: Any, groups: list[str]) -> Fitting:
    """Targets and groups repeated for every view, which lie in the batch axis of features."""
    first = features if isinstance(features, Features) else next(iter(features.values()))
    views = len(first.mask) // len(groups)
    target = pytree.tree_map_only(Tensor, lambda x: x.repeat_interleave(views, 0), target)
    return Fitting(features, target, [group for group in groups for _ in range(views)])


def _all_clips(trainer: Any) -> Loader:
    """The training clips as evaluation sees them, of all ranks together."""
    alone = copy.copy(trainer.datamodule)  # it closes the loaders of both
    alone.trainer, alone.batch = None, max(1, alone.batch // trainer.world_size)
    return alone.eval_dataloader("train")


def _replace(trainer: lightning.Trainer, task: Any, file: Path) -> None:
    """Puts what was fitted into a checkpoint, and leaves the rest of it as it is."""
    if trainer.is_global_zero:
        content = read(file)
        content["state_dict"] = {k: v.cpu() for k, v in task.state_dict().items()}
        content["unfitted"] = list(task.unfitted)
        trainer.strategy.checkpoint_io.save_checkpoint(content, file)
    trainer.strategy.barrier("fitted")
