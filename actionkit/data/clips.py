"""From a record and a seed to a sample: the only place where frames are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
import torch

from actionkit.contracts import (
    Bad,
    Clip,
    Dataset,
    Kind,
    Record,
    Sample,
    Sampler,
    Transform,
    VideoReadError,
)
from actionkit.data.order import Ask
from actionkit.data.seeds import mix
from actionkit.data.sources import Sources

SUBSTITUTES = 20  # tries before a sample is given up


class Clips(torch.utils.data.Dataset[Sample]):
    """A dataset's records as samples.

    In training an unreadable clip is replaced by another one, chosen by the clip's own seed; in
    evaluation, or if no substitute is found, it gives a sample without clips. What was unreadable
    is in `Sample.bad`.
    """

    def __init__(
        self,
        dataset: Dataset,
        sources: Sources,
        sampler: Sampler,
        transforms: Sequence[Transform],
        *,
        train: bool,
        views_per_item: int | None = None,
    ) -> None:
        self.dataset, self.sources, self.sampler = dataset, sources, sampler
        self.transforms, self.train, self.views_per_item = transforms, train, views_per_item

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, ask: Ask) -> Sample:
        """The sample of one Ask."""
        bad: list[Bad] = []
        index = ask.index
        for attempt in range(1, SUBSTITUTES + 1 if self.train else 2):
            record = self.dataset[index]
            try:
                return self._sample(record, ask._replace(index=index), tuple(bad))
            except VideoReadError as error:
                bad.append(Bad(record.id, error.path, record.origin, error.reader, error.reason))
            index = mix(ask.seed, attempt) % len(self.dataset)
        return Sample({}, record.target, None, record.id, ask.index, ask.seed, tuple(bad))

    def _sample(self, record: Record, ask: Ask, bad: tuple[Bad, ...]) -> Sample:
        rng = np.random.default_rng(ask.seed) if self.train else None
        clips = self._read(record, ask.part, rng)
        batch = {m: Clip(c.x[None], c.mask[None], c.times[None], c.kind) for m, c in clips.items()}
        for transform in self.transforms:
            batch = transform.apply(batch, [transform.draw(rng)])
        clips = {m: Clip(c.x[0], c.mask[0], c.times[0], c.kind) for m, c in batch.items()}
        return Sample(clips, record.target, None, record.id, ask.index, ask.seed, bad)

    def _read(self, record: Record, part: int, rng: np.random.Generator | None) -> dict[str, Clip]:
        """Every modality at the same frames, drawn once."""
        info, seen = self.sources.timeline(record)
        indices = self.sampler(info, seen, rng)  # [V, T]
        if self.views_per_item is not None:
            start = part * self.views_per_item
            indices = indices[start : start + self.views_per_item]
        real = indices >= 0
        times = np.where(real, indices / info.fps, np.nan).astype(np.float32)
        clips = {}
        for modality, (reader, path) in self.sources.of(record).items():
            frames = reader.read(path, indices[real])
            if real.all():
                x = frames.unflatten(0, indices.shape)  # a view
            else:
                x = frames.new_zeros(*indices.shape, *frames.shape[1:])
                x[torch.from_numpy(real)] = frames
            named: Kind = modality if modality in get_args(Kind) else "rgb"  # type: ignore[assignment]
            mask = torch.from_numpy(real)
            clips[modality] = Clip(x, mask, torch.from_numpy(times), reader.kind or named)
        return clips
