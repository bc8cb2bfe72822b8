"""Recognition: one class, or several, for a clip. The default task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from actionkit import grammar
from actionkit.contracts import Bad, Batch, Classes, Loss, Metric, Output, Transform
from actionkit.data.device import as_shares, on_device
from actionkit.data.seeds import mix
from actionkit.errors import RunError
from actionkit.evaluation.protocol import Protocol, Tally, of_all_ranks
from actionkit.evaluation.results import Results
from actionkit.network import SCORES, Network
from actionkit.training.optimizer import make_optimizer, make_schedule, parameter_groups

PENALTY = "(penalty)"  # stands beside the names of losses, and can be none of them


@dataclass
class System:
    """All that a task needs, built."""

    network: Network
    losses: dict[str, Loss]  # by name of Output
    weights: dict[str, float]
    heads: dict[str, str]  # name of Output -> key of the target, where targets are dicts
    protocol: Protocol
    metrics: dict[str, dict[str, Metric]]  # name of Output -> metrics by name
    train_transforms: Sequence[Transform]
    eval_transforms: Sequence[Transform]
    optimizer: grammar.Optimizer
    rate_factors: dict[nn.Module, float] = field(default_factory=dict)
    keys: dict[nn.Module, str] = field(default_factory=dict)  # of parts, in the recipe
    seed: int = 0
    classes: Classes = ()
    modalities: Sequence[str] = ("rgb",)  # what a video is read as
    recipe: dict[str, Any] = field(default_factory=dict)  # plain, written into checkpoints
    clips: str = ""  # which ones are trained on, in words


class Recognition(lightning.LightningModule):
    """Trains and evaluates a network by named losses; metrics of every entry of its Output.

    What stands behind a part that has not been fitted yet is left out of both.
    """

    def __init__(self, system: System) -> None:
        super().__init__()
        self.system = system
        self.network = system.network
        self.losses = nn.ModuleDict(dict(system.losses))
        self.protocol = system.protocol
        self.main = SCORES if SCORES in system.metrics else next(iter(system.metrics))
        self.behind = self.network.fits()  # part -> entries of the Output behind it
        self.unfitted = list(self.behind)  # parts that have not learnt yet
        self.results: Results | None = None  # of the last evaluation
        self._tallies: dict[str, Tally] = {}
        self._bad: dict[str, Bad] = {}
        self._sums: dict[str, Tensor] = {}  # of losses, (value times count, count)
        self._extras: dict[str, Tensor] = {}  # the same of what parts note

    def forward(self, batch: Batch) -> Output:
        """Scores of a batch as the loader gives it, as in evaluation."""
        ready = on_device(batch, self.system.eval_transforms, train=False)
        return self.network(ready.clips, ready.boxes)

    def place(self, part: str) -> str:
        """The key in the recipe of a submodule of the network."""
        return self.system.keys.get(self.network.get_submodule(part), part)

    def monitor(self, metric: str) -> str:
        """The name in the log, behind `val/`, of a metric that is known while training."""
        known = [name for name in self.system.metrics if name not in self.network.late()]
        taught = [name for name in known if name in self.losses]
        found = self.main if self.main in known else next(iter([*taught, *known]), self.main)
        return self._label(found, metric)

    def _label(self, output: str, metric: str) -> str:
        return metric if output == self.main else f"{output}/{metric}"

    def _waiting(self) -> set[str]:
        """Entries of the Output that stand behind a part that has not been fitted yet."""
        return {output for part in self.unfitted for output in self.behind[part]}

    def _require_fitted(self, outputs: Iterable[str]) -> None:
        """Raises RunError where one of these entries of the Output waits for a part."""
        for part in self.unfitted:
            if not set(self.behind[part]).isdisjoint(outputs):
                raise RunError(
                    f"{self.place(part)} has learnt nothing yet; `actionkit fit` fits it, and so "
                    "does actionkit.training.fitting.Fitter among the callbacks of a trainer"
                )

    # ------------------------------------------------------------------------------- training

    @property
    def trains(self) -> bool:
        """Whether anything is left to train by gradients."""
        taught = self.system.losses.keys() - self.network.late()
        return bool(taught) and any(p.requires_grad for p in self.network.parameters())

    def on_fit_start(self) -> None:
        """Raises RunError where nothing has been fitted that is to be trained through."""
        self._require_fitted(self.system.losses.keys() - self.network.late())

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Noise of a step (dropout) is a function of the step, so a resumed run is the same."""
        step = (self.system.seed, self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(mix(*step))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted sum of the losses, and of the parts' penalties.

        Raises RunError for a batch of which no clip could be read.
        """
        if not batch.clips:
            reasons = _reasons(batch.bad)
            raise RunError(f"no clip of a whole batch could be read, nor a substitute:\n{reasons}")
        transforms = self.system.train_transforms
        if any(transform.mixes for transform in transforms):
            batch = as_shares(batch, self.system.classes)
        batch = on_device(batch, transforms, train=True)
        output = self.network(batch.clips, batch.boxes)
        losses = self._losses(output, batch)
        values = {name: value * _share(count) for name, (value, count) in losses.items()}
        for name, value in _scalars(output).items():
            self.log(f"train/{name}", value, batch_size=len(batch.id))
        options = {"batch_size": len(batch.id), "sync_dist": True}
        return self._log_loss("train", values, _penalty(output), **options)

    def _losses(self, output: Output, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Every loss by name, and of how many steps it is the mean."""
        losses, waiting = {}, self._waiting()
        for name, loss in self.losses.items():
            if name in waiting:
                continue
            scores, target = output[name], self._target(batch, name)
            mask = scores.mask & labelled(target)[:, None, None]
            losses[name] = loss(scores, target, mask), mask.sum()
        return losses

    def _log_loss(
        self, stage: str, values: Mapping[str, Tensor], penalty: Tensor | float, **options: Any
    ) -> Tensor:
        weighted = (self.system.weights[name] * value for name, value in values.items())
        total = torch.as_tensor(sum(weighted) + penalty)
        self.log(f"{stage}/loss", total, prog_bar=stage == "train", **options)
        if len(values) > 1:
            for name, value in values.items():
                self.log(f"{stage}/{name}/loss", value, **options)
        return total

    def _target(self, batch: Batch, name: str) -> Tensor:
        if isinstance(batch.target, Mapping):
            return batch.target[self.system.heads[name]]
        return batch.target

    def configure_optimizers(self) -> Any:
        """Timm's optimizer and schedule, stepped once an optimizer step."""
        settings = self.system.optimizer
        groups = parameter_groups(self, settings, self.system.rate_factors)
        optimizer = make_optimizer(groups, settings)
        epochs = self.trainer.max_epochs or 1
        steps = max(1, int(self.trainer.estimated_stepping_batches) // epochs)
        scheduler = make_schedule(optimizer, settings, epochs=epochs, steps_per_epoch=steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Timm's schedulers count updates from outside."""
        scheduler.step_update(self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the recipe and what prediction needs of the data set, as plain containers."""
        classes = self.system.classes
        checkpoint["recipe"] = self.system.recipe
        checkpoint["modalities"] = list(self.system.modalities)
        checkpoint["classes"] = (
            {head: list(names) for head, names in classes.items()}
            if isinstance(classes, Mapping)
            else list(classes)
        )
        checkpoint["unfitted"] = list(self.unfitted)
        if self.system.clips:
            checkpoint["clips"] = self.system.clips

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes over which parts have been fitted."""
        self.unfitted = list(checkpoint.get("unfitted", ()))

    # ----------------------------------------------------------------------------- evaluation

    def on_validation_epoch_start(self) -> None:
        """Starts an evaluation afresh. Raises RunError for parts that have not been fitted."""
        if self.trainer.state.fn != TrainerFn.FITTING:
            self._require_fitted(self.system.metrics)
        waiting = self._waiting()
        self._tallies = {name: Tally() for name in self.system.metrics if name not in waiting}
        self._bad, self._sums, self._extras = {}, {}, {}

    on_test_epoch_start = on_predict_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds a batch to the evaluation; unreadable videos count as missing."""
        self._evaluate(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds a batch to the evaluation; unreadable videos count as missing."""
        self._evaluate(batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[str]:
        """Adds a batch of videos without labels to the evaluation. Returns their ids."""
        self._score(batch)
        return batch.id

    def on_validation_epoch_end(self) -> None:
        """Metrics over all videos and ranks, into `results` and the log."""
        self._conclude("val")

    def on_test_epoch_end(self) -> None:
        """Metrics over all videos and ranks, into `results` and the log."""
        self._conclude("test")

    def on_predict_epoch_end(self) -> None:
        """Scores over all videos and ranks, into `results`."""
        self.results = self._gather()

    def _evaluate(self, batch: Batch) -> None:
        """Scores and losses of a batch."""
        output = self._score(batch)
        if output is None:
            return
        for name, (value, count) in self._losses(output, batch).items():
            _add(self._sums, name, value, count)
        _add(self._sums, PENALTY, _penalty(output), len(batch.id))
        for name, value in _scalars(output).items():
            _add(self._extras, name, value, len(batch.id))

    def _score(self, batch: Batch) -> Output | None:
        """Nothing here waits for other ranks: they have other numbers of batches."""
        self._bad.update({bad.id: bad for bad in batch.bad})
        if not batch.clips:
            return None
        output = self(batch)
        for name, tally in self._tallies.items():
            loss = self.losses[name] if name in self.losses else next(iter(self.losses.values()))
            scores = self.protocol.view_scores(output[name], loss)  # type: ignore[arg-type]
            tally.add(batch.id, scores, output[name].mask.any(-1), self._target(batch, name))
        return output

    def _gather(self) -> Results:
        """Scores and targets over all videos and ranks."""
        bad = {name: b for part in of_all_ranks(self._bad) for name, b in part.items()}
        results = Results([], {}, {}, {}, list(bad.values()))
        for name, tally in self._tallies.items():
            # a video of which only some views could be read is missing too
            found = tally.gather().result(missing=bad)
            results.ids, results.scores[name], results.targets[name] = found
        return results

    def _conclude(self, stage: str) -> None:
        results = self._gather()
        if not results.ids and results.bad:
            reasons = _reasons(results.bad)
            raise RunError(f"no video of the split '{stage}' could be read:\n{reasons}")
        self._log_mean_loss(stage)
        for name, targets in results.targets.items():
            known = labelled(targets)
            metrics = self.system.metrics[name] if bool(known.any()) else {}
            scores = results.scores[name][known]
            results.metrics[name] = {m: f(scores, targets[known]) for m, f in metrics.items()}
            for metric, value in results.metrics[name].items():
                label = self._label(name, metric)
                self.log(f"{stage}/{label}", value, prog_bar=label == "top1")
        self.results = results

    def _log_mean_loss(self, stage: str) -> None:
        """The mean losses over the steps of all batches and ranks, and what parts note."""
        means = _means(self._sums)
        if means:  # else no video could be read
            penalty = means.pop(PENALTY)
            self._log_loss(stage, means, penalty)
        for name, value in _means(self._extras).items():
            self.log(f"{stage}/{name}", value)


def labelled(target: Tensor) -> Tensor:
    """Which clips have a label, [B] bool: in class numbers [B] -1 is none, in [B, K] NaN is."""
    return target >= 0 if target.ndim == 1 else ~target.isnan().any(-1)


def _add(sums: dict[str, Tensor], name: str, value: Tensor | float, count: Tensor | int) -> None:
    """Adds the mean of a batch to the sum (value, count) of the split."""
    pair = torch.tensor([float(value) * int(count), int(count)], dtype=torch.float64)
    sums[name] = sums.get(name, torch.zeros(2)) + pair


def _means(own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of the sums of all ranks."""
    sums: dict[str, Tensor] = {}
    for part in of_all_ranks(own):
        for name, pair in part.items():
            sums[name] = sums.get(name, torch.zeros(2)) + pair
    return {name: (s[0] / s[1].clamp(min=1)).float() for name, s in sums.items()}


def _share(count: Tensor) -> Tensor | float:
    """Factor that makes the ranks' mean of losses a mean over the steps of all ranks."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 1.0
    total = count.clone()
    torch.distributed.all_reduce(total)
    return count * torch.distributed.get_world_size() / total.clamp(min=1)


def _reasons(bad: Iterable[Bad], most: int = 5) -> str:
    return "\n".join(f"  {b}" for b in list(bad)[:most])


def _penalty(output: Output) -> Tensor | float:
    """What the parts ask to add, once: the whole network's, else that of every head."""
    entries = [output[SCORES]] if SCORES in output else output.values()
    penalties = {id(f.penalty): f.penalty for f in entries if f.penalty is not None}
    return sum(penalties.values())  # heads of one chain share one penalty


def _scalars(output: Output) -> dict[str, Tensor]:
    """0-dim entries of `extra`, to be logged."""
    found: dict[str, Tensor] = {}
    for features in output.values():
        found.update({k: v for k, v in (features.extra or {}).items() if v.ndim == 0})
    return found
