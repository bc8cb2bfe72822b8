"""Our own components under the kit that is shipped to plugin authors."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models.optical_flow import raft_small
from videos import moving_frames, write_video

from actionkit.aggregators.pooling import Max
from actionkit.contracts import Make
from actionkit.data.readers.torchcodec import TorchCodec
from actionkit.data.stores import blobs, features
from actionkit.data.stores.folder import Store
from actionkit.testing import conformance

TEMPORARY = tempfile.TemporaryDirectory(prefix="actionkit-")  # options need its name at once
ROOT = Path(TEMPORARY.name, "videos")
UCF101 = Path(TEMPORARY.name, "UCF-101")
HMDB51 = Path(TEMPORARY.name, "hmdb51")
RAFT = Path(TEMPORARY.name, "raft.pth")
STORES = Path(TEMPORARY.name, "stores")


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
    make_stores()
    for name, side in (("A_run_0", 1), ("B_run_0", 2)):
        write_video(HMDB51 / f"run/{name}.avi", moving_frames(3), codec="mpeg4")
        with (HMDB51 / "run_test_split1.txt").open("a") as file:
            file.write(f"{name}.avi {side}\n")
    (UCF101 / "classInd.txt").write_text("1 Run\n")
    (UCF101 / "trainlist01.txt").write_text("Run/v_Run_g08_c01.avi 1\n")
    (UCF101 / "testlist01.txt").write_text("Run/v_Run_g01_c01.avi\n")
    with pytest.MonkeyPatch.context() as patch, TEMPORARY:
        patch.setenv("ACTIONKIT_CACHE", str(Path(TEMPORARY.name, "cache")))
        yield


def make_stores():
    """Whole, and as good as empty."""
    for kind in ("frames", "flow"):
        store = Store.begin(STORES / kind, kind, {}, ROOT)
        blobs.Writer(store.path).close()
        store.finish([])
    store = Store.begin(STORES / "features", "features", {}, ROOT)
    writer = features.Writer(store.path, "float16")
    writer.append([("clip", np.zeros((2, 8, 1, 1), np.float16))], [])
    writer.finish()
    store.finish([])


def without_torchcodec():
    """Cases that fail where the extra torchcodec, or FFmpeg's libraries for it, are not there."""
    try:
        TorchCodec()
    except ValueError as error:
        checks = ("exact", "errors", "odd", "no_handles", "pickle")
        return {f"torchcodec-{check}": str(error) for check in checks}
    return {}


def of_stores():
    """What a reader of a store cannot show with videos it has never seen."""
    names = ("stored_frames", "stored_flow", "stored_features")
    checks = ("exact", "no_handles")
    reason = "reads what extract has stored"
    found = {f"{n}-{c}": reason for n in names for c in checks}
    return {**found, "stored_features-odd": reason}


test_conformance = conformance(
    "actionkit",
    expected_failures={**without_torchcodec(), **of_stores()},
    options={
        "timm": {"arch": "test_resnet"},
        "lstm": {"hidden": 5},
        "fc": {"width": 6},
        "folder": {"root": ROOT},
        "frames": {"fps": 25},
        "listing": {"root": ROOT, "train": "train.txt", "val": "val.txt"},
        "hmdb51": {"root": HMDB51},
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
        "stn": {"smooth": 0.5},
        "skip_gru": {"hidden": 5, "budget": 0.1},
        "skip_lstm": {"hidden": 5, "layers": 2},
        "short_side_scale": {"size": 16},
        "tvl1_flow": {"length": 3, "name": "motion"},
        "flow_stack": {"length": 4},
        "alstm": {"hidden": 5, "layers": 2, "initial": "mean", "balance": 0.5},
        "conv_alstm": {"hidden": 5, "initial": "mean", "attention_kernel": 3},
        "convgru": {"hidden": 5},
        "convlstm": {"hidden": 5},
        "gru": {"hidden": 5},
        "hard_alstm": {"hidden": 5},
        "gru_rcn": {
            "arch": "test_resnet",
            "levels": [2, 4],
            "vector": True,
            "hidden": 5,
            "stacked": True,
            "bidirectional": True,
        },
        "motion_attention": {"hidden": 5},
        "non_local": {"arch": "test_resnet", "every": 1},
        "pca_whiten": {"components": 3},
        "rnn": {"hidden": 5},
        "stored_features": {"path": STORES / "features"},
        "stored_flow": {"path": STORES / "flow"},
        "stored_frames": {"path": STORES / "frames"},
        "tcn": {"width": 6},
        "temporal_conv": {"width": 6},
        "timesformer": {"arch": "test_vit", "longest": 16},
        "tsm": {"arch": "test_resnet"},
        "windows": {"length": 3, "stride": 2, "part": Make(Max)},
    },
)
