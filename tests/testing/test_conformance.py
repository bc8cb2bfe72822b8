"""Our own components under the kit that is shipped to plugin authors."""

import tempfile
from pathlib import Path

import pytest
from videos import moving_frames, write_video

from actionkit.testing import conformance

TEMPORARY = tempfile.TemporaryDirectory(prefix="actionkit-")  # options need its name at once
ROOT = Path(TEMPORARY.name, "videos")


@pytest.fixture(scope="module", autouse=True)
def files():
    """What `folder` lists, and where `probes` renders."""
    for name in ("run/a", "run/b", "run/c", "jump/a", "jump/b"):
        write_video(ROOT / f"{name}.mp4", moving_frames(3))
    with pytest.MonkeyPatch.context() as patch, TEMPORARY:
        patch.setenv("ACTIONKIT_CACHE", str(Path(TEMPORARY.name, "cache")))
        yield


test_conformance = conformance(
    "actionkit",
    options={
        "timm": {"arch": "test_resnet"},
        "lstm": {"hidden": 5},
        "folder": {"root": ROOT},
        "probes": {"train_scenes": 2, "val_scenes": 1, "size": 32},
        "dense": {"length": 5, "stride": 2, "clips": 3},
        "segments": {"count": 3, "length": 2},
        "uniform": {"count": 4},
        "crop_resize": {"size": 16},
        "dis_flow": {"length": 3, "name": "motion"},
        "flow_stack": {"length": 4},
    },
)
