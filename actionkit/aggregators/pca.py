"""Principal components, fitted to the training clips."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from actionkit.contracts import Aggregator, Features, Fits, Fitting, Shape


class PCAWhiten(Aggregator, Fits):
    """Principal components of the channels, whitened: x [B, T, C, H, W] to K channels.

    Fitted before the training to all real steps of the training clips, with a label or without;
    every place of a map is a sample. Mean and covariance (divided by N - 1) are taken in float64,
    in one pass. The largest entry of each axis is positive, so that its sign is not left to chance.
    Before it is fitted it gives the first channels as they are.

    Args:
        inp: vectors or maps.
        components: K, the strongest first.
        whiten: divides each component by the square root of its variance.
        eps: added to the variances, so that what hardly varies is not blown up.

    Raises:
        ValueError: fewer channels than components.
    """

    fits: ClassVar[Literal["before", "after"]] = "before"
    mean: Tensor
    axes: Tensor

    def __init__(
        self, inp: Shape, *, components: int, whiten: bool = True, eps: float = 1e-9
    ) -> None:
        super().__init__()
        channels = inp.require_channels()
        if not 0 < components <= channels:
            raise ValueError(
                f"finds at most as many components as there are channels, {channels}, but is asked "
                f"for {components}"
            )
        self.whiten, self.eps = whiten, eps
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("axes", torch.eye(components, channels))  # divided, where it whitens
        self.out = inp._replace(channels=components)

    def forward(self, features: Features) -> Features:
        """Projects vectors or maps, in float32 whatever the precision around it."""
        x = features.x.masked_fill(~features.mask[:, :, None, None, None], 0)
        with torch.autocast(x.device.type, enabled=False):
            centred = x.float().movedim(2, -1) - self.mean
            return features._replace(x=nn.functional.linear(centred, self.axes).movedim(-1, 2))

    def fit_from(self, batches: Iterable[Fitting]) -> str:
        """Says how much of the variance the components hold.

        Raises ValueError for too few samples, and for NaN or infinite ones.
        """
        count, wanted = 0, len(self.axes)
        mean = torch.zeros(self.mean.shape, dtype=torch.float64)
        scatter = torch.zeros(*mean.shape, *mean.shape, dtype=torch.float64)
        for batch in batches:
            rows = _rows(batch.features)  # type: ignore[arg-type]  # an aggregator's are no dict
            if not len(rows):
                continue
            own, both = rows.mean(0), count + len(rows)
            rows, away = rows - own, own - mean
            scatter += rows.T @ rows + away.outer(away) * (count * len(rows) / both)
            mean += away * (len(rows) / both)
            count = both
        if count <= wanted:
            raise ValueError(
                f"needs more samples than components, {wanted}, but the training clips give {count}"
            )
        if not bool(scatter.isfinite().all()):
            raise ValueError("gets features that are NaN or infinite; look at the parts before it")
        values, vectors = torch.linalg.eigh(scatter / (count - 1))  # ascending
        variance, axes = values.flip(0)[:wanted].clamp(min=0), vectors.flip(1)[:, :wanted].T
        largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
        axes = axes * largest.sign()
        self.mean.copy_(mean)
        self.axes.copy_(axes / (variance + self.eps).sqrt()[:, None] if self.whiten else axes)
        share = float(variance.sum() / values.clamp(min=0).sum().clamp(min=1e-300))
        return f"{wanted} components hold {share:.3f} of the variance of {count:,} samples"


def _rows(features: Features) -> Tensor:
    """Every place of every real step, [N, C] float64."""
    return features.x[features.mask].double().movedim(1, -1).flatten(0, -2)
