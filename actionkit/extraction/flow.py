"""Optical flow of a recipe's videos, by the recipe's own method, on its way into a store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from actionkit import registry, schema
from actionkit.builder.components import BrokenError, Components
from actionkit.contracts import Clip, Info, Shape, VideoReadError
from actionkit.data.transforms.fields import FlowMaker
from actionkit.errors import RunError
from actionkit.extraction.pictures import MOST, Storing, options
from actionkit.grammar import Node, Plan
from actionkit.recipe import RecipeError

MEMORY = 2**26  # bytes that the fields of a chunk may take to be computed
PIXEL = 32  # bytes a pixel and field, about
PLACE = {"direction": "forward", "keep": "all", "source": "rgb", "name": "flow"}  # not the method
Device = Literal["auto", "cpu", "cuda"]


def maker_of(plan: Plan) -> Node:
    """The recipe's maker of flow: the first in the training's transforms, else evaluation's.

    Raises RunError where there is none, RecipeError for one that cannot be made.
    """
    for pipeline in (plan.data.train, plan.data.eval):
        for node in [*pipeline.per_sample, *pipeline.per_batch]:
            if node.entry is not None and issubclass(registry.load(node.entry), FlowMaker):
                make(node, 1)
                return node
    raise RunError(
        "the recipe makes no flow, so that it does not tell how; add a maker behind crop_resize in "
        "data.train.per_sample, as {use: dis_flow, length: 10}, or call this with a recipe that "
        "has one, as two_stream"
    )


def make(node: Node, length: int) -> FlowMaker:
    """The maker again, for snippets of successive frames. Raises RecipeError."""
    assert node.entry is not None  # noqa: S101  it was found by its class
    known = schema.parameters(node.entry)
    place = {name: value for name, value in PLACE.items() if name in known}
    components = Components()
    try:
        given = {**node.options, **place, "length": length}
        return components.make(replace(node, options=given), FlowMaker)
    except BrokenError as error:
        raise RecipeError(components.problems) from error


def settings(node: Node) -> dict[str, Any]:
    """What the fields depend on: the method and its options."""
    return {"flow": options(node, ["length", *PLACE])}


def device_for(node: Node, device: Device) -> str:
    """Where flow is computed. Raises RunError where that is not possible."""
    assert node.entry is not None  # noqa: S101  it was found by its class
    workers_only = registry.load(node.entry).runs_on == "sample"
    if device == "cuda" and workers_only:
        raise RunError(f"'{node.use}' computes on the CPU; leave --device out, or use tvl1_flow")
    if device == "cuda" and not torch.cuda.is_available():
        raise RunError("there is no CUDA device here; leave --device out, or see actionkit doctor")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() and not workers_only else "cpu"
    return device


@dataclass
class StoringFlow(Storing):
    """Stores, of every frame and the next one, the field dx and dy as two gray pictures.

    Fields are in pixels of the scaled frames.
    """

    kind: ClassVar[str] = "flow"

    node: Node = field(kw_only=True)
    device: str = "cpu"

    def frames(self, blobs: int) -> int:
        """Two pictures a field, and a field less than frames."""
        return blobs // 2 + 1

    def pictures(self, path: Path, info: Info) -> Iterator[np.ndarray]:
        """Of every field dx and dy, uint8 [H, W]. Raises VideoReadError."""
        height, width = self.size(info)
        length = min(MOST, max(1, MEMORY // (PIXEL * height * width)))
        maker = make(self.node, length)
        try:
            maker.out({"rgb": Shape(length + 1, 3, height, width)})
        except ValueError as error:
            reason = f"'{self.node.use}' {error}"
            raise VideoReadError(path, self.node.use, reason) from error
        held, fields = torch.empty(0), 0
        for frames in self.scaled(path, info):
            held = torch.cat((held, frames)) if len(held) else frames
            while len(held) > length + 1:  # of one more, so that the last are never one alone
                yield from self._fields(maker, held[: length + 1])
                held, fields = held[length:], fields + length
        if fields == 0 and len(held) < 2:
            raise VideoReadError(path, self.node.use, "it has one frame, and so no flow")
        yield from self._fields(maker, held)

    def _fields(self, maker: FlowMaker, frames: Tensor) -> Iterator[np.ndarray]:
        """The pictures of all fields between some frames [n, 3, H, W], at most a snippet."""
        size, count = maker.length + 1, len(frames)
        x = frames.new_zeros(1, 1, size, *frames.shape[1:])
        x[0, 0, :count] = frames
        mask = torch.arange(size).view(1, 1, -1) < count
        x, mask, times = (t.to(self._place()) for t in (x, mask, torch.zeros(mask.shape)))
        try:
            made = maker.apply({"rgb": Clip(x, mask, times, "rgb")}, [{}])
        except ValueError as error:  # of weights that cannot be had, above all
            raise RunError(f"'{self.node.use}' {error}") from error
        yield from made["flow"].x[0, 0, : count - 1].flatten(0, 1).cpu().numpy()

    def _place(self) -> str:
        """The worker's device: of several GPUs, one in turn."""
        worker = get_worker_info()
        if self.device != "cuda" or worker is None:
            return self.device
        return f"cuda:{worker.id % torch.cuda.device_count()}"
