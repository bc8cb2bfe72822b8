"""What fusions share: streams meet step by step, and one step meets all."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

from torch import Tensor

from actionkit.contracts import Features, Shape


def common_steps(inp: Mapping[str, Shape]) -> int | None:
    """Steps of the streams together. Raises ValueError where neither equal nor 1."""
    longer = {shape.steps for shape in inp.values()} - {1}
    fixed = longer - {None}
    if len(fixed) > 1:
        steps = ", ".join(f"'{name}' has {shape.steps or 'any'}" for name, shape in inp.items())
        raise ValueError(
            f"needs streams of equally many steps, or of 1, but {steps}; sample as many in each "
            "stream, or pool over time (mean) before it"
        )
    return next(iter(fixed or longer), 1)


def common_mask(inputs: Mapping[str, Features]) -> Tensor:
    """[B, T]: a step is real where it is real in every stream."""
    return reduce(Tensor.logical_and, (features.mask for features in inputs.values()))
