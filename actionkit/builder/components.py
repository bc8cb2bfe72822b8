"""One component from its node: the only place where a component's constructor is called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from actionkit import registry, schema
from actionkit.contracts import Backbone, Joint, Make, Part, Shape
from actionkit.grammar import Node
from actionkit.network import Parts, load_weights
from actionkit.recipe import Problem
from actionkit.training.norms import batch_norms


class BrokenError(Exception):
    """Something needed here is broken, and said already."""


class Row(NamedTuple):
    """A line of `actionkit show`."""

    key: str
    use: str
    out: Shape | dict[str, Shape] | None
    parameters: int


class Components:
    """Makes components; problems, and what was made, are noted on the way.

    Where a checkpoint follows (`trained`), nothing is loaded that it would replace: neither
    `weights`, nor what an option named `pretrained` asks for.
    """

    def __init__(self, *, trained: bool = False) -> None:
        self.trained = trained
        self.problems: list[Problem] = []
        self.rows: list[Row] = []
        self.made: dict[str, nn.Module] = {}  # the network's parts by key
        self.rate_factors: dict[nn.Module, float] = {}
        self.frozen: list[tuple[nn.Module, Sequence[nn.Module]]] = []  # part, what of it is
        self.loaded: list[str] = []  # what `weights` took and did not, in words

    def note(self, node: Node, text: str, key: str = "") -> None:
        """Notes a problem at a node, or at one of its keys."""
        place = f"{node.key}.{key}" if key else node.key
        self.problems.append(Problem(place, node.place, text, static=False))

    def make(self, node: Node | None, kind: Any, *supplied: Any) -> Any:
        """The component of a node. Raises BrokenError, having noted why it cannot be made."""
        if node is None or node.broken or node.entry is None:
            raise BrokenError
        try:
            component = registry.load(node.entry)
            if not (isinstance(component, type) and issubclass(component, kind)):
                raise ValueError(f"is no {kind.__name__}, which is wanted here")
            options = {name: self._option(value) for name, value in node.options.items()}
            if self.trained and "pretrained" in schema.parameters(node.entry):
                options["pretrained"] = False
            return component(*supplied, **options)
        except registry.BrokenComponentError as error:
            self.note(node, str(error))
        except ValueError as error:
            self.note(node, f"'{node.use}' {error}")
        except BrokenError:
            pass  # a component inside this one
        except Exception as error:
            text = f"'{node.use}' could not be built: {type(error).__name__}: {error}"
            self.note(node, text)
        raise BrokenError

    def _option(self, value: Any) -> Any:
        """An option as the constructor takes it: nodes become a Make."""
        if not (isinstance(value, list) and value and isinstance(value[0], Node)):
            return value
        nodes: list[Node] = value

        def build(*supplied: Any) -> Any:
            if nodes[0].entry and nodes[0].entry.group in ("backbones", "aggregators"):
                return Parts(self.parts(nodes, Part, *supplied))
            made = [self.make(node, object, *supplied) for node in nodes]
            return made[0] if len(made) == 1 else made

        return Make(build)

    def parts(self, nodes: Sequence[Node], kind: type, inp: Shape) -> list[Any]:
        """Parts one behind the other, each told the shape that the one before leaves."""
        made: list[Any] = []
        for node in nodes:
            made.append(self.part(node, kind, made[-1].out if made else inp))
        return made

    def part(self, node: Node, kind: type, *supplied: Any) -> Any:
        """A part of the network, with its node's weights, frozen stages and learning rate."""
        part = self.make(node, kind, *supplied)
        parameters = sum(p.numel() for p in part.parameters())
        self.rows.append(Row(node.key, node.use, part.out, parameters))
        self.made[node.key] = part
        if (factor := node.reserved.get("lr")) is not None:
            self.rate_factors[part] = factor
        if (weights := node.reserved.get("weights")) and not self.trained:
            self._load(node, part, str(weights))
        if which := node.reserved.get("freeze_norm"):
            self._freeze_norms(node, part, which)
        if stages := node.reserved.get("freeze"):
            self._freeze(node, part, stages)
        return part

    def _load(self, node: Node, part: nn.Module, file: str) -> None:
        if torch.get_default_device().type == "meta":  # a check: is the file there at all?
            if not Path(file.partition("#")[0]).is_file():
                self.note(node, f"there is no file {file.partition('#')[0]}", "weights")
            return
        try:
            taken, lacking, left = load_weights(part, file)
        except Exception as error:
            self.note(node, f"{file} cannot be used: {error}", "weights")
            return
        text = f"{node.key}: {len(taken)} tensors taken from {file}"
        text += f"; not in the file: {', '.join(lacking)}" if lacking else ""
        text += f"; in the file but not taken: {', '.join(left)}" if left else ""
        self.loaded.append(text)

    def _freeze_norms(self, node: Node, part: nn.Module, which: str) -> None:
        norms = batch_norms(part)[which == "but_first" :]
        if not norms:
            self.note(node, f"'{node.use}' has no such batch norm; leave it out", "freeze_norm")
        self.frozen.append((part, norms))

    def _freeze(self, node: Node, part: nn.Module, stages: bool | int) -> None:
        if stages is True:
            self.frozen.append((part, [part]))
        elif not isinstance(part, Backbone | Joint):
            self.note(node, f"'{node.use}' has no stages to count; write true", "freeze")
        elif not 0 < stages <= len(part.stages()):
            count = len(part.stages())
            self.note(
                node, f"'{node.use}' has {count} stages; write true or 1 to {count}", "freeze"
            )
        else:
            self.frozen.append((part, part.stages()[:stages]))
