"""Pictures to measure with: no two alike, and warps that are what they say."""

import numpy as np
import pytest

from actionkit.bench import pictures


def test_no_two_frames_of_a_scene_are_alike():
    frames = pictures.scene(12, 32, 48)
    assert frames.shape == (12, 32, 48, 3)
    assert frames.dtype == np.uint8
    assert len({frame.tobytes() for frame in frames}) == 12
    np.testing.assert_array_equal(frames, pictures.scene(12, 32, 48))


def test_the_flow_of_a_pair_leads_from_the_first_frame_to_the_second():
    pair = pictures.warped(64, 96, most=4)
    length = np.linalg.norm(pair.flow, axis=-1)
    assert length.max() == pytest.approx(4)
    rows, columns = np.mgrid[8:56:5, 8:88:5]
    goal = np.rint(np.stack([columns, rows], -1) + pair.flow[rows, columns]).astype(int)
    there = pair.second[goal[..., 1], goal[..., 0]].astype(float)
    here = pair.first[rows, columns].astype(float)
    still = np.abs(pair.second[rows, columns] - here).mean()
    assert np.abs(there - here).mean() < still / 3
