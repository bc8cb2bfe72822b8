"""What the callback takes from trainer and task."""

from types import SimpleNamespace

import av
import makers
import numpy as np
import offline
import pytest
import torch
from client import client
from makers import chain, clip, sample, system

from actionkit.contracts import Aggregator, Shape
from actionkit.evaluation.results import Results
from actionkit.network import Network
from actionkit.tasks.recognition import Recognition
from actionkit.training.wandb import report
from actionkit.training.wandb.logger import WandB


class Corner(Aggregator):
    """Attends to the upper left quarter."""

    def __init__(self, inp):
        super().__init__()
        self.out = inp

    def forward(self, features):
        attention = torch.zeros(len(features.x), 1, 1, 4, 4)
        attention[..., :2, :2] = 1
        return features._replace(attention=attention)


def shown(task, one, folder):
    video = report._video(one, task, folder / "a.mp4")
    if video is None:
        return None
    with av.open(video._path) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def test_attention_of_the_network_is_laid_over_its_clip(tmp_path):
    inp = Shape(None, 3, None, None)
    network = Network({"rgb": chain(inp, Corner(Shape(None, 3, 1, 1)))}, {"rgb": "rgb"})
    grey = clip(steps=2, size=(3, 32, 32))
    one = sample(rgb=grey._replace(x=torch.full_like(grey.x, 100)))
    plain = shown(Recognition(system()), one, tmp_path).astype(int)
    heated = shown(Recognition(system(network)), one, tmp_path).astype(int)
    assert np.abs(plain - 100).max() < 8
    assert heated[:, :8, :8, 0].min() > 150
    assert np.abs(heated[:, 24:, 24:] - 100).max() < 8


def test_a_clip_that_cannot_be_read_or_seen_has_no_video(tmp_path):
    task = Recognition(system())
    assert shown(task, None, tmp_path) is None
    assert shown(task, sample()._replace(clips={}), tmp_path) is None


@pytest.mark.parametrize(("classes", "outputs", "wanted"), [
    (["x"], ["scores", "rgb"], [("scores", "val", ["x"])]),
    ({"verb": ["v"], "noun": ["n"]}, ["verb", "noun"],
     [("verb", "val", ["v"]), ("noun", "val/noun", ["n"])]),
])  # fmt: skip
def test_every_head_is_reported_and_of_streams_what_they_say_together(classes, outputs, wanted):
    results = Results([], {}, dict.fromkeys(outputs, torch.zeros(0, 1)), {}, [])
    parts = SimpleNamespace(classes=classes, heads={name: name for name in outputs})
    task = SimpleNamespace(system=parts, results=results, main=outputs[0])
    assert report._outputs(task, "val") == wanted


def test_other_ranks_and_evaluations_before_training_are_silent(tmp_path):
    logger = WandB(tmp_path, mode="offline")
    task = SimpleNamespace(results=None, system=None)
    logger.report.setup(SimpleNamespace(global_rank=1), task, "fit")
    logger.report.on_validation_end(SimpleNamespace(sanity_checking=True), task)
    logger.report.on_test_end(SimpleNamespace(), task)
    logger.close()
    assert logger.session is None
    assert list(tmp_path.iterdir()) == []


def test_gradients_are_watched_where_asked_for(tmp_path):
    with client(tmp_path):
        logger = WandB(tmp_path / "run", watch=2)
        run = makers.trainer(tmp_path, max_epochs=1, logger=logger, callbacks=logger.callbacks)
        run.fit(Recognition(system()), makers.loader([makers.batch(4, first=i) for i in range(4)]))
        logger.close()
    (folder,) = offline.folders(tmp_path / "run")
    rows = [row for row in offline.read(folder).history if any("gradients" in key for key in row)]
    assert [row["trainer/global_step"] for row in rows] == [0, 2]
    shown = {key: row[key] for row in rows for key in row if key.startswith("gradients/")}
    assert set(shown) == {
        f"gradients/streams.rgb.head.scores.{n}" for n in ("linear.weight", "linear.bias")
    }
    assert all(h["_type"] == "histogram" and sum(h["values"]) in (3, 9) for h in shown.values())
