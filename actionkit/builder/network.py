"""The network from its plan: streams, joint, fusion and the chain behind, shape by shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from actionkit.builder.components import BrokenError, Components
from actionkit.builder.data import Stages
from actionkit.contracts import Aggregator, Backbone, Classes, Fusion, Head, Joint, Part, Shape
from actionkit.grammar import Model, Node, Stream
from actionkit.network import SCORES, Chain, Network, freeze, output_name
from actionkit.recipe import Problem, Tree, dotted


@dataclass
class _Ends:
    """What a chain leaves: a shape for every head, or one called `scores`."""

    shapes: dict[str, Shape]
    heads: dict[str, str]  # name -> the dataset's name for its classes


@dataclass
class Built:
    """A network and the names of its Output, each with the dataset's name for its classes."""

    network: Network
    heads: dict[str, str] = field(default_factory=dict)


def build_network(
    components: Components, model: Model, tree: Tree, stages: Stages, classes: Classes
) -> Built:
    """The network for what the stages end with. Raises BrokenError, having noted why."""
    return _Assembly(components, model, tree, classes).build(stages)


class _Assembly:
    def __init__(self, components: Components, model: Model, tree: Tree, classes: Classes) -> None:
        self.components, self.model, self.tree, self.classes = components, model, tree, classes

    def note(self, key: tuple[str | int, ...], text: str) -> None:
        place = self.tree.place(key)
        self.components.problems.append(Problem(dotted(key), place, text, static=False))

    def build(self, stages: Stages) -> Built:
        """The network. Raises BrokenError, having noted why."""
        if not self.model.streams:
            raise BrokenError  # their absence has been noted
        fronts, takes, broken = self.fronts(stages)
        middles = {name: front[-1] for name, front in fronts.items()}
        joint = None
        if self.model.joint is not None:
            if broken:
                raise BrokenError
            joint = self.components.part(self.model.joint, Joint, dict(middles))
            middles = joint.out
        chains, ends = {}, {}
        for name, stream in self.model.streams.items():
            if name in middles:
                try:
                    chains[name], ends[name] = self.back(
                        ("model", "streams", name), stream, fronts.get(name), middles[name]
                    )
                except BrokenError:
                    broken = True
            elif joint is not None:
                chains[name] = Chain(*fronts.get(name, ((), ()))[:2])
                broken |= self.stray(name, stream, name in fronts, list(middles))
        if broken:
            raise BrokenError
        return self.join(chains, ends, takes, joint)

    # -------------------------------------------------------------------------------- streams

    def fronts(
        self, stages: Stages
    ) -> tuple[dict[str, tuple[list[Part], list[Part], Shape]], dict[str, str], bool]:
        """`before` and `backbone` of every stream that takes a modality, and the shape behind."""
        fronts, takes, broken, shapes = {}, {}, False, stages.shapes
        for name, stream in self.model.streams.items():
            modality = stream.takes or name
            if modality not in shapes:
                if stream.takes is None and self.model.joint is not None:
                    continue  # it starts behind the joint
                if stages.sure:
                    self.unknown_modality(name, stream, modality, list(shapes))
                broken = True
                continue
            try:
                before = self.components.parts(stream.before, Aggregator, shapes[modality])
                shape = before[-1].out if before else shapes[modality]
                backbone = self.components.parts(stream.backbone, Backbone, shape)
            except BrokenError:
                broken = True
                continue
            fronts[name] = (before, backbone, backbone[-1].out if backbone else shape)
            takes[name] = modality
        return fronts, takes, broken

    def stray(self, name: str, stream: Stream, ends_in_joint: bool, returned: list[str]) -> bool:
        """Notes a stream that the joint does not return, unless it plainly ends in the joint."""
        if ends_in_joint and not any((stream.aggregate, stream.head, stream.then)):
            return False
        text = f"the joint returns only {', '.join(returned)}"
        text += ", so what stands behind it is never reached" if ends_in_joint else ""
        self.note(("model", "streams", name), text)
        return True

    def unknown_modality(self, name: str, stream: Stream, modality: str, known: list[str]) -> None:
        key = ("model", "streams", name) + (("takes",) if stream.takes else ())
        near = get_close_matches(modality, known, n=1)
        cure = f"Did you mean '{near[0]}'?" if near else f"the data give {', '.join(known)}"
        self.note(key, f"there is no modality '{modality}'; {cure}")

    def back(
        self,
        key: tuple[str | int, ...],
        slots: Stream | Model,
        front: tuple[list[Part], list[Part], Shape] | None,
        shape: Shape,
    ) -> tuple[Chain, _Ends]:
        """A whole chain: its front and, behind it, aggregation and every head with its `then`."""
        before, backbone, _ = front or ([], [], shape)
        aggregate = self.components.parts(slots.aggregate, Aggregator, shape)
        shape = aggregate[-1].out if aggregate else shape
        heads: dict[str, Head] = {}
        targets: dict[str, str] = {}
        for name, node in slots.head.items():
            heads[name or SCORES] = self.components.part(node, Head, shape, self.of(name, node))
            targets[name or SCORES] = name
        ends = {name: head.out for name, head in heads.items()} or {SCORES: shape}
        then = {n: self.components.parts(slots.then, Aggregator, s) for n, s in ends.items()}
        ends.update({name: parts[-1].out for name, parts in then.items() if parts})
        chain = Chain(before, backbone, aggregate, heads, {n: p for n, p in then.items() if p})
        return chain, _Ends(ends, targets)

    def of(self, head: str, node: Node) -> Sequence[str]:
        """The class names of a head."""
        if not isinstance(self.classes, Mapping):
            return self.classes
        if head not in self.classes:
            wanted = ", ".join(self.classes)
            self.components.note(
                node, f"the dataset names its heads {wanted}; write a map of these"
            )
            raise BrokenError
        return self.classes[head]

    # ----------------------------------------------------------------------------------- whole

    def join(
        self,
        chains: dict[str, Chain],
        ends: dict[str, _Ends],
        takes: dict[str, str],
        joint: Joint | None,
    ) -> Built:
        """Fusion and the chain behind it."""
        names = {
            output_name(stream, head): target
            for stream, end in ends.items()
            for head, target in end.heads.items()
        }
        single = {n: end.shapes[SCORES] for n, end in ends.items() if SCORES in end.shapes}
        fusion = self.fusion(single, ends)
        last = fusion.out if fusion else next(iter(single.values()), None)
        slots = self.model
        wants_tail = any((slots.backbone, slots.aggregate, slots.head, slots.then))
        if fusion is None and len(single) > 1:
            last = None
        if wants_tail and last is None:
            self.note(
                ("model",), "a chain behind several streams needs a fusion; add `fusion: ...`"
            )
            raise BrokenError
        tail = None
        if wants_tail and last is not None:
            backbone = self.components.parts(slots.backbone, Backbone, last)
            last = backbone[-1].out if backbone else last
            tail, end = self.back(("model",), slots, ([], backbone, last), last)
            names.update(end.heads or {SCORES: ""})
        elif last is not None:
            names[SCORES] = ""
        if not slots.head and not all(end.heads for end in ends.values()):
            self.note(("model",), "nothing gives scores; end a chain with `head: linear`")
            raise BrokenError
        network = Network(chains, takes, joint, fusion, tail)
        for part, stages in self.components.frozen:
            freeze(network, part, stages)
        return Built(network, names)

    def fusion(self, single: dict[str, Shape], ends: dict[str, _Ends]) -> Fusion | None:
        node = self.model.fusion
        if node is None:
            return None
        if len(single) < len(ends):
            self.components.note(node, f"'{node.use}' cannot fuse streams with several named heads")
            raise BrokenError
        return self.components.part(node, Fusion, single)
