"""Clips that could not be read: each told once, kept in a list, and counted against a budget."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning

from actionkit.contracts import Bad, Batch
from actionkit.errors import TooManyBadClipsError

SHOWN = 5  # in the sentence that ends a run
REPLACED = "unreadable, replaced by another clip"
MISSING = "unreadable, counted as missing"


class BadClips(lightning.Callback):
    """Prints each unreadable clip with its reason when it first comes, and adds it to a file.

    `clips` says how many each split has, of which a share of `max_bad` may be unreadable; `tested`
    is the split that a test runs on. A clip already in the file is not added again.
    """

    def __init__(
        self, file: Path, clips: Mapping[str, int], *, max_bad: float, tested: str = "test"
    ) -> None:
        self.file, self.clips, self.max_bad, self.tested = file, clips, max_bad, tested
        self.found: dict[str, dict[str, Bad]] = {split: {} for split in clips}

    def add(
        self, split: str, bad: Iterable[Bad], tell: Callable[[str], object], what: str = MISSING
    ) -> None:
        """Tells and keeps what is new. Raises TooManyBadClipsError beyond the budget."""
        new = {b.id: b for b in bad if b.id not in self.found[split]}
        if not new:
            return
        self.found[split].update(new)
        known = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as file:
            for entry in new.values():
                tell(f"{what}: {entry}")
                line = json.dumps({"split": split, **entry._asdict()})
                if line not in known:
                    file.write(line + "\n")
        self._require_budget(split)

    def _require_budget(self, split: str) -> None:
        found, clips = self.found[split], self.clips[split]
        if len(found) <= self.max_bad * clips:
            return
        shown = "".join(f"\n  {bad}" for bad in list(found.values())[:SHOWN])
        more = f"\n  and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise TooManyBadClipsError(
            f"{len(found)} of {clips} clips of '{split}' cannot be read, and data.max_bad allows a "
            f"share of {self.max_bad:g}:{shown}{more}\n"
            f"All that were met are in {self.file}. Repair them, take them out of the data set, or "
            "raise data.max_bad; if files are missing, look at the options of data.dataset"
        )

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Another clip stands in for it."""
        self.add("train", batch.bad, trainer.print, REPLACED)

    def on_validation_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """It counts as missing."""
        self.add("val", batch.bad, trainer.print)

    def on_test_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """It counts as missing."""
        self.add(self.tested, batch.bad, trainer.print)
