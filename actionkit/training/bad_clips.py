"""Tells of clips that could not be read, each once, while a run goes on."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as lightning

from actionkit.contracts import Bad, Batch


class BadClips(lightning.Callback):
    """Prints each unreadable clip with its reason when it first comes, and counts them."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], Bad] = {}

    def _look(self, trainer: lightning.Trainer, batch: Batch, what: str) -> None:
        for bad in batch.bad:
            if (bad.path, bad.origin) not in self.found:
                self.found[bad.path, bad.origin] = bad
                entry = f" [{bad.origin}]" if bad.origin not in ("", bad.path) else ""
                trainer.print(f"{what}: {bad.path} ({bad.reader}): {bad.reason}{entry}")

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Another clip stands in for it."""
        self._look(trainer, batch, "unreadable, replaced by another clip")

    def on_validation_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """It counts as missing."""
        self._look(trainer, batch, "unreadable, counted as missing")

    on_test_batch_start = on_validation_batch_start
