import pytest
import torch

from actionkit.contracts import Clip, Shape
from actionkit.data.transforms.modalities import between, require_free, snippets


def test_a_name_to_be_added_must_be_free():
    shapes = {"rgb": Shape(1, 3, 8, 8)}
    require_free(shapes, ["flow", "gray"])
    with pytest.raises(ValueError, match=r"^adds 'rgb', which is there already; give it another"):
        require_free(shapes, ["flow", "rgb"])


def test_snippets_are_counted_and_must_be_whole():
    assert snippets(12, 6, "length") == 2
    assert snippets(None, 6, "length") is None
    sentence = r"^takes snippets of 6 frames \(length \+ 1\), but gets 13 steps; set the sampler's"
    with pytest.raises(ValueError, match=f"{sentence} length to 6$"):
        snippets(13, 6, "length + 1")


def test_what_lies_between_two_frames_needs_both_and_has_the_time_of_the_first():
    mask = torch.tensor([[[True, True, False, True, True, True]]])
    times = torch.arange(6.0).expand(1, 1, 6).masked_fill(~mask, torch.nan)
    real, at = between(Clip(torch.zeros(1, 1, 6, 1, 1, 1), mask, times, "rgb"), 3)
    assert real.tolist() == [[[[True, False], [True, True]]]]
    assert at.isnan().tolist() == [[[[False, True], [False, False]]]]
    assert at[0, 0, 1].tolist() == [3, 4]
