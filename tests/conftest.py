"""Fixtures every test may use."""

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores, so each has one thread
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real clips and annotation files, which are not ours to ship."""
    folder = Path(os.environ.get("ACTIONKIT_REAL_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "real_clips").is_dir():
        pytest.skip(f"no real clips at {folder}; set ACTIONKIT_REAL_DATA to a folder that has them")
    return folder


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """RAFT takes frames of 128 pixels at least, so its cases of the kit are slow."""
    for item in items:
        if "[raft_flow-" in item.nodeid:
            item.add_marker(pytest.mark.slow)
