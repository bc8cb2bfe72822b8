"""What computes: loader workers, GPUs through CUDA or ROCm, Apple's GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from typing import Any

from actionkit.doctor.machine import SHM_CURE
from actionkit.doctor.result import Result, cause, fault, ok, warning

BATCH = 32 * 2**20  # bytes; four of them are under way at a time, twice what Docker gives by itself
TIMEOUT = 30  # seconds for a batch; also for noticing that a worker has died
DRIVER = "install a newer NVIDIA driver, or a torch for this one (https://pytorch.org/get-started)"


class Batches:
    """8 batches of BATCH bytes, each full of its own number."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        import torch

        return torch.full((BATCH,), index, dtype=torch.uint8)


def workers() -> Iterator[Result]:
    """Two worker processes pass batches through shared memory."""
    from torch.utils.data import DataLoader

    try:
        loader = DataLoader(Batches(), batch_size=None, num_workers=2, timeout=TIMEOUT)  # type: ignore[arg-type, var-annotated]
        right = [int(batch[-1]) for batch in loader] == list(range(len(Batches())))
    except (Exception, SystemExit) as error:
        yield fault("workers", f"2 workers fail: {cause(error)}", SHM_CURE)
        return
    if right:
        yield ok("workers", f"2 pass batches of {BATCH >> 20} MiB through shared memory")
    else:
        yield fault("workers", "2 workers give batches in a wrong order", "data.workers=0")


def cuda() -> Iterator[Result]:
    """What torch is built for, and whether it finds a GPU where the driver shows one."""
    import torch

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else ""
    built = built or (f"ROCm {torch.version.hip}" if torch.version.hip else "")
    text = f"{torch.__version__}{f' for {built}' if built else ', CPU only'}"
    shown = _nvidia_smi()
    if available:
        count = torch.cuda.device_count()
        yield ok("torch", f"{text}; {count} GPU{'s' if count > 1 else ''}")
    elif not shown:
        yield ok("torch", f"{text}; no GPU here, so it computes on the CPU")
    elif os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        text = f"CUDA_VISIBLE_DEVICES hides all GPUs; nvidia-smi shows {shown}"
        yield warning("torch", text, "unset CUDA_VISIBLE_DEVICES")
    elif not built:
        yield warning("torch", f"{text}, but nvidia-smi shows {shown}",
                      "install torch for CUDA: https://pytorch.org/get-started")  # fmt: skip
    else:
        why = f" ({' '.join(str(said[0].message).split())})" if said else ""
        text += f", but it finds no GPU; nvidia-smi shows {shown}{why}"
        yield warning("torch", text, DRIVER)


def _nvidia_smi() -> str:
    """GPUs and driver as the driver shows them; empty if there is none."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return ""
    query = ["--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run([command, *query], capture_output=True, text=True, timeout=20)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nothing ({cause(error)})"
    lines = [line.replace(",", ", driver", 1) for line in done.stdout.strip().splitlines()]
    if done.returncode:
        return f"nothing ({' '.join((done.stdout + done.stderr).split())[:200]})"
    return "; ".join(lines)


def gpus() -> Iterator[Result]:
    """Every GPU multiplies two matrices."""
    import torch

    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if properties.major >= 8 or torch.version.hip else "no bf16: use 16-mixed"
        text = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {bf16}"
        yield _multiplied(f"cuda:{index}", text)


def apple() -> Iterator[Result]:
    """Apple's GPU, where there is one."""
    import torch

    if torch.backends.mps.is_available():
        yield _multiplied("mps", "Apple's GPU")


def _multiplied(device: str, text: str) -> Result:
    import torch

    x = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    try:
        right = torch.allclose((x.to(device) @ x.to(device)).cpu(), x @ x, atol=0.5, rtol=0)
    except Exception as error:
        return fault(device, f"{text}: cannot compute: {cause(error)}", DRIVER)
    if not right:
        return fault(device, f"{text}: a product of matrices is wrong", DRIVER)
    return ok(device, text)
