"""Methods of optical flow against each other: time of a pair, and how far off its flow is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from actionkit import registry
from actionkit.bench.clock import Comparison, Run, compare
from actionkit.bench.pictures import Pair, warped
from actionkit.contracts import Clip, Transform
from actionkit.data.transforms.kinds import dequantize_flow

SIZES = ((256, 340), (224, 224))
BOUND = 20.0  # pixels
MARGIN = 16  # pixels at the border, where the scene leaves the frame
WANTED: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("dis_flow", {"preset": preset}) for preset in ("ultrafast", "fast", "medium")),
    ("tvl1_flow", {}),
)


def methods() -> tuple[dict[str, Transform], list[str]]:
    """The transforms that make flow and are registered, for one pair; and which are not."""
    found: dict[str, Transform] = {}
    notes = []
    for use, options in WANTED:
        name = " ".join([use, *options.values()])
        try:
            component = registry.load(registry.find("transforms", use))
            found[name] = component(length=1, bound=BOUND, **options)
        except (LookupError, ImportError, ValueError, TypeError) as error:
            notes.append(f"left out: {name}: {error}")
    return found, notes


def flow(rounds: int, tick: Run | None = None) -> list[Comparison]:
    """A comparison for each frame size, with the mean endpoint error in pixels."""
    tested, notes = methods()
    return [_compare(warped(*size), tested, notes, rounds, tick) for size in SIZES]


def _compare(
    pair: Pair, tested: dict[str, Transform], notes: list[str], rounds: int, tick: Run | None
) -> Comparison:
    clip = _clip(pair)
    rows = compare({name: _run(t, clip) for name, t in tested.items()}, rounds, tick=tick)
    for row in rows:
        row.facts["error px"] = endpoint_error(tested[row.name], pair)
    height, width = pair.flow.shape[:2]
    most = float(np.linalg.norm(pair.flow, axis=-1).max())
    still = float(np.linalg.norm(pair.flow, axis=-1).mean())
    title = f"a pair of {width}x{height}, smooth flow of at most {most:.0f} pixels"
    about = f"error px: mean endpoint error of the stored flow; no flow at all is {still:.2f} off"
    return Comparison(title, rows, notes=[about, *notes])


def endpoint_error(method: Transform, pair: Pair) -> float:
    """How far the flow is off on average, in pixels, away from the border."""
    field = method.apply({"rgb": _clip(pair)}, [{}])["flow"].x[0, 0, 0]  # [2, H, W] uint8
    pixels = dequantize_flow(field, BOUND).permute(1, 2, 0).numpy()
    away = np.linalg.norm(pixels - pair.flow, axis=-1)
    return float(away[MARGIN:-MARGIN, MARGIN:-MARGIN].mean())


def _clip(pair: Pair) -> Clip:
    x = torch.from_numpy(np.stack([pair.first, pair.second])).permute(0, 3, 1, 2)[None, None]
    mask = torch.ones(1, 1, 2, dtype=torch.bool)
    return Clip(x, mask, torch.tensor([[[0.0, 0.04]]]), "rgb")


def _run(method: Transform, clip: Clip) -> Callable[[], object]:
    return lambda: method.apply({"rgb": clip}, [{}])
