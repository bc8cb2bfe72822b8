"""Workers that pass batches or die, drivers that torch cannot use, devices that compute or not."""

import os
import signal
import sys

import pytest
import torch
from sites import rows

from actionkit.doctor import devices


class Dying(devices.Batches):
    """What a container with too little shared memory does to a worker."""

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGBUS)


class Mixed(devices.Batches):
    def __getitem__(self, index):
        return torch.full((8,), 7 - index)


def test_two_workers_pass_batches():
    (row,) = rows(devices.workers)
    assert row.state == "ok", row


@pytest.mark.parametrize(("batches", "words", "cure"), [
    (Dying, "2 workers fail: RuntimeError: DataLoader worker", "--shm-size=8g"),
    (Mixed, "wrong order", "data.workers=0"),
])  # fmt: skip
def test_workers_that_fail_are_a_fault(monkeypatch, batches, words, cure):
    monkeypatch.setattr(devices, "Batches", batches)
    monkeypatch.setattr(devices, "TIMEOUT", 5)
    (row,) = rows(devices.workers)
    assert row.state == "fault"
    assert words in row.text
    assert cure in row.cure


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """A machine whose nvidia-smi says this, and on which torch finds no GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def says(text, code=0):
        file = tmp_path / "nvidia-smi"
        file.write_text(f"#!{sys.executable}\nprint({text!r}); raise SystemExit({code})\n")
        file.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path))
    return says


def test_no_gpu_and_no_driver_is_well(driver):
    (row,) = rows(devices.cuda)
    assert row.state == "ok"
    assert "for CUDA 13.2; no GPU here" in row.text


def test_a_gpu_that_torch_does_not_find_is_a_warning_with_the_driver(driver, monkeypatch):
    driver("Tesla T4, 470.82.01")
    (row,) = rows(devices.cuda)
    assert row.state == "warning"
    assert row.text.endswith("it finds no GPU; nvidia-smi shows Tesla T4, driver 470.82.01")
    assert "driver" in row.cure
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (row,) = rows(devices.cuda)
    assert row.cure == "unset CUDA_VISIBLE_DEVICES"


def test_a_torch_without_cuda_beside_a_gpu_is_a_warning(driver, monkeypatch):
    driver("Tesla T4, 570.1")
    monkeypatch.setattr(torch.version, "cuda", None)
    (row,) = rows(devices.cuda)
    assert row.state == "warning"
    assert "CPU only, but nvidia-smi shows Tesla T4, driver 570.1" in row.text


def test_a_driver_that_fails_is_quoted(driver):
    driver("NVIDIA-SMI has failed", code=9)
    (row,) = rows(devices.cuda)
    assert row.state == "warning"
    assert "nvidia-smi shows nothing (NVIDIA-SMI has failed)" in row.text


def test_a_gpu_that_cannot_compute_is_a_fault_with_the_reason(monkeypatch):
    class Properties:
        name, total_memory, major = "Old GPU", 4 * 2**30, 3

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 200)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    *_, row = rows(devices.gpus)  # there is no GPU of this number
    assert (row.name, row.state) == ("cuda:199", "fault")
    assert row.text.startswith("Old GPU, 4 GiB, no bf16: use 16-mixed: cannot compute: ")


def test_a_product_of_matrices_is_compared_with_the_cpu_s(monkeypatch):
    state = torch.get_rng_state()
    assert devices._multiplied("cpu", "this").state == "ok"
    monkeypatch.setattr(torch, "allclose", lambda *_, **__: False)
    assert devices._multiplied("cpu", "this").text == "this: a product of matrices is wrong"
    assert torch.equal(torch.get_rng_state(), state)
