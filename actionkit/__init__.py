"""Video action recognition: components as plugins, composed by YAML recipes.

task, data = actionkit.build("recipes/two_stream.yaml")  # a LightningModule and its data
actionkit.load("runs/two_stream/...").predict("clip.mp4")  # what a trained run says of a video
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actionkit.data.module import DataModule
    from actionkit.prediction import Predictor
    from actionkit.tasks.recognition import Recognition

__version__ = "0.1.0"


def build(recipe: str | Path, overrides: Iterable[str] = ()) -> tuple[Recognition, DataModule]:
    """A recipe's task (a LightningModule) and data module, ready for a Trainer.

    `recipe` is a file or a name, `overrides` are such as "data.batch=8". Raises RecipeError with
    everything that is wrong.
    """
    from actionkit import builder

    return builder.build(builder.blueprint(recipe, overrides))


def load(run: str | Path, checkpoint: str = "best", overrides: Iterable[str] = ()) -> Predictor:
    """A trained network, for `predict`: from a run folder, or from a checkpoint file alone.

    `checkpoint` is `best`, `last` or a file. Raises RunError, RecipeError.
    """
    from actionkit.prediction import Predictor

    return Predictor.load(run, checkpoint, overrides)
