"""A lack of memory is a sentence that says what to change."""

import pytest
import torch

from actionkit import grammar
from actionkit.contracts import Shape
from actionkit.training.memory import NoMemoryError, explained


class Plan:
    trainer = grammar.Trainer(accumulate_grad_batches=2)


def test_it_tells_shapes_clips_and_what_to_try():
    shapes = {"rgb": Shape(16, 3, 112, 112), "flow": Shape(None, 20, 112, 112)}
    with pytest.raises(NoMemoryError) as caught, explained(Plan, shapes, 8):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")
    said = str(caught.value)
    assert "the device has too little memory: CUDA out of memory." in said
    assert "8 clips of rgb 16x3x112x112, flow ?x20x112x112 in 32 precision" in said
    assert "trainer.accumulate_grad_batches=4" in said
    assert caught.value.exit_code == 3


def test_other_errors_pass():
    with pytest.raises(ValueError, match=r"^x$"), explained(Plan, {}, 1):
        raise ValueError("x")
