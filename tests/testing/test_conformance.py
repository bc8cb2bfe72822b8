"""Our own components under the kit that is shipped to plugin authors."""

import tempfile
from pathlib import Path

import pytest
import torch
from torchvision.models.optical_flow import raft_small
from videos import moving_frames, write_video

from actionkit.data.readers.torchcodec import TorchCodec
from actionkit.testing import conformance

TEMPORARY = tempfile.TemporaryDirectory(prefix="actionkit-")  # options need its name at once
ROOT = Path(TEMPORARY.name, "videos")
UCF101 = Path(TEMPORARY.name, "UCF-101")
RAFT = Path(TEMPORARY.name, "raft.pth")


@pytest.fixture(scope="module", autouse=True)
def files():
    """What `folder`, `listing` and `ucf101` list, and where `probes` renders."""
    for name in ("run/a", "run/b", "run/c", "jump/a", "jump/b"):
        write_video(ROOT / f"{name}.mp4", moving_frames(3))
    (ROOT / "train.txt").write_text("run/a.mp4 run\njump/a.mp4 jump\n")
    (ROOT / "val.txt").write_text("run/b.mp4 run\n")
    for name in ("v_Run_g08_c01", "v_Run_g01_c01"):
        write_video(UCF101 / f"Run/{name}.avi", moving_frames(3), codec="mpeg4")
    torch.save(raft_small().state_dict(), RAFT)
    (UCF101 / "classInd.txt").write_text("1 Run\n")
    (UCF101 / "trainlist01.txt").write_text("Run/v_Run_g08_c01.avi 1\n")
    (UCF101 / "testlist01.txt").write_text("Run/v_Run_g01_c01.avi\n")
    with pytest.MonkeyPatch.context() as patch, TEMPORARY:
        patch.setenv("ACTIONKIT_CACHE", str(Path(TEMPORARY.name, "cache")))
        yield


def without_torchcodec():
    """Cases that fail where the extra torchcodec, or FFmpeg's libraries for it, are not there."""
    try:
        TorchCodec()
    except ValueError as error:
        checks = ("exact", "errors", "odd", "no_handles", "pickle")
        return {f"torchcodec-{check}": str(error) for check in checks}
    return {}


test_conformance = conformance(
    "actionkit",
    expected_failures=without_torchcodec(),
    options={
        "timm": {"arch": "test_resnet"},
        "lstm": {"hidden": 5},
        "fc": {"width": 6},
        "folder": {"root": ROOT},
        "frames": {"fps": 25},
        "listing": {"root": ROOT, "train": "train.txt", "val": "val.txt"},
        "ucf101": {"root": UCF101},
        "probes": {"train_scenes": 2, "val_scenes": 1, "size": 32},
        "dense": {"length": 5, "stride": 2, "clips": 3},
        "segments": {"count": 3, "length": 2},
        "full": {"stride": 2, "most": 9},
        "sliding": {"length": 5, "hop": 3},
        "strided": {"count": 3, "length": 2, "stride": (2, 4)},
        "uniform": {"count": 4},
        "crop_resize": {"size": 16},
        "corner_multi_scale": {"size": 16},
        "crops": {"size": 24},
        "dis_flow": {"length": 3, "name": "motion"},
        "gray_gradients_flow": {"length": 4},
        "raft_flow": {"length": 1, "name": "motion", "weights": RAFT, "updates": 1},
        "rgb_diff": {"length": 3},
        "short_side_scale": {"size": 16},
        "tvl1_flow": {"length": 3, "name": "motion"},
        "flow_stack": {"length": 4},
    },
)
