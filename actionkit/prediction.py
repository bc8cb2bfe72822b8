"""What a trained run says of videos: `actionkit.load(run).predict(path)`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from torch import Tensor

from actionkit import builder
from actionkit.builder import Blueprint
from actionkit.contracts import Batch
from actionkit.data.datasets.files import Files, find_videos, in_windows, whole
from actionkit.data.loader import Loader
from actionkit.data.module import DataModule
from actionkit.errors import RunError
from actionkit.evaluation.results import Results
from actionkit.run import make_trainer, restore
from actionkit.tasks.recognition import Recognition
from actionkit.training.checkpoints import read
from actionkit.training.run_folder import checkpoint_of

PREDICT = "predict"  # the split


class Prediction(NamedTuple):
    """What a network says of a video, or of `start` to `end` seconds of it."""

    path: str
    scores: dict[str, float]  # by class; empty where the video could not be read
    start: float | None = None
    end: float | None = None
    error: str = ""  # why it could not be read
    outputs: dict[str, dict[str, float]] = {}  # noqa: RUF012  of every stream and head with scores

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The classes of the highest scores, best first."""
        return sorted(self.scores.items(), key=lambda pair: -pair[1])[:count]


class Batches:
    """A loader's batches. Lightning would put a sampler of its own into a DataLoader to predict."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._loader)


class Predictor:
    """A trained network with its recipe's evaluation pipeline; `actionkit.load` makes it."""

    def __init__(self, found: Blueprint, task: Recognition, data: DataModule) -> None:
        self._found, self.task, self._data = found, task, data
        self._workers = data.workers

    @classmethod
    def load(
        cls, run: Path | str, checkpoint: str = "best", overrides: Iterable[str] = ()
    ) -> Predictor:
        """From a run folder, or from a checkpoint file alone; the data set is not needed.

        Raises RunError for what is no run or cannot be loaded, RecipeError for wrong overrides.
        """
        file = Path(run)
        if file.suffix != ".ckpt":
            file = checkpoint_of(file, checkpoint)
        content = read(file)
        if "classes" not in content:
            raise RunError(
                f"{file} holds no class names: it was written by actionkit 0.1.0; run fit again"
            )
        with tempfile.TemporaryDirectory() as folder:
            recipe = Path(folder, f"{content['recipe']['name']}.yaml")
            recipe.write_text(yaml.safe_dump(content["recipe"]["recipe"]), encoding="utf-8")
            nothing = Files([], content["classes"], content["modalities"])
            found = builder.blueprint(recipe, overrides, datasets={PREDICT: nothing}, trained=True)
        task, data = builder.build(found)
        restore(task, content, file)
        return cls(found, task, data)

    @property
    def classes(self) -> list[str] | dict[str, list[str]]:
        """Class names, or a map of them by head name."""
        return self._data.datasets[PREDICT].classes

    def predict(
        self,
        paths: Path | str | Iterable[Path | str],
        *,
        window: float | None = None,
        hop: float | None = None,
        progress: bool = False,
    ) -> list[Prediction]:
        """Scores of files, and of all videos in folders, as the recipe evaluates.

        With `window` a video is looked at in parts of so many seconds, one every `hop` seconds (by
        default half a window), each with a Prediction of its own; memory is that of a few parts.
        A file that cannot be read has an `error` and no scores. Raises RunError for no file at all,
        a window or hop of 0 seconds, or a network that takes more than videos.
        """
        modalities = self._data.datasets[PREDICT].modalities
        if len(modalities) != 1:
            raise RunError(
                f"this network was trained on files of {', '.join(modalities)} for each clip, and "
                "can only be evaluated on such a data set; use actionkit test"
            )
        given = [paths] if isinstance(paths, str | Path) else paths
        videos = find_videos(given, folders=self._data.sources.folders)
        records = [whole(path, modalities[0]) for path in videos]
        if window is not None:
            hop = window / 2 if hop is None else hop
            if not (window > 0 and hop > 0):
                raise RunError(
                    f"windows of {window} s, one every {hop} s, need more than 0 seconds"
                )
            sources = self._data.sources
            records = [part for r in records for part in in_windows(r, sources, window, hop)]
        if not records:
            return []
        self._data.datasets[PREDICT] = Files(records, self.classes, modalities)
        results = self._run(len(records), progress)
        said = {b.id: b.reason for b in results.bad}
        scores = _by_id(results, self.task)
        return [
            Prediction(
                str(r.sources[modalities[0]]),
                scores[r.id][self.task.main] if r.id in scores else {},
                r.start,
                r.end,
                said.get(r.id, ""),
                scores.get(r.id, {}),
            )
            for r in records
        ]

    def _run(self, count: int, progress: bool) -> Results:
        """Results of the data set of this moment."""
        trainer = make_trainer(
            self._found, progress=progress, devices=1, num_nodes=1, strategy="auto"
        )
        self._data.workers = self._workers if count > 2 * self._workers else 0
        with closing(self._data):
            batches = Batches(self._data.eval_dataloader(PREDICT))
            trainer.predict(self.task, batches, return_predictions=False)
        assert self.task.results is not None  # noqa: S101  set behind every evaluation
        return self.task.results


def _by_id(results: Results, task: Recognition) -> dict[str, dict[str, dict[str, float]]]:
    """Id -> name of Output -> class -> score."""
    classes: Any = task.system.classes
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in results.ids}
    for output, rows in results.scores.items():
        names = classes[task.system.heads[output]] if isinstance(classes, Mapping) else classes
        for video, row in zip(results.ids, rows, strict=True):
            found[video][output] = _named(row, names)
    return found


def _named(scores: Tensor, names: Iterable[str]) -> dict[str, float]:
    return dict(zip(names, scores.tolist(), strict=True))
