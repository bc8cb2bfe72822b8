"""The network: streams, what joins them, the chain behind, and views folded in and out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from actionkit.contracts import Clip, Features, Fits, Fusion, Head, Joint, Output, Part
from actionkit.errors import RunError

SCORES = "scores"  # the name of a chain's only head, and of what the whole network says


class Parts(Part):
    """Parts run one after the other, as one part: what `Make[Part]` gives."""

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.out = parts[-1].out

    def forward(self, features: Features) -> Features:
        """Maps features through all parts."""
        for part in self.parts:
            features = part(features)
        return features


class Chain(nn.Module):
    """`before`, `backbone`, `aggregate`, then each head with its own `then`."""

    def __init__(
        self,
        before: Iterable[Part] = (),
        backbone: Iterable[Part] = (),
        aggregate: Iterable[Part] = (),
        head: Mapping[str, Head] | None = None,
        then: Mapping[str, Sequence[Part]] | None = None,
    ) -> None:
        super().__init__()
        self.before = nn.ModuleList(before)
        self.backbone = nn.ModuleList(backbone)
        self.aggregate = nn.ModuleList(aggregate)
        self.head = nn.ModuleDict(dict(head or {}))
        self.then = nn.ModuleDict({k: nn.ModuleList(v) for k, v in (then or {}).items()})

    def front(self, features: Features) -> Features:
        """What a joint takes the place of: up to the backbone."""
        for part in (*self.before, *self.backbone):
            features = part(features)
        return features

    def back(self, features: Features) -> dict[str, Features]:
        """What stands behind the backbone: an entry a head, or one called `scores` without."""
        for part in self.aggregate:
            features = part(features)
        results = {name: head(features) for name, head in self.head.items()} or {SCORES: features}
        for name, parts in self.then.items():
            for part in parts:  # type: ignore[attr-defined]
                results[name] = part(results[name])
        return results

    def paths(self, inp: Sequence[nn.Module]) -> dict[str, list[nn.Module]]:
        """What each result of `back` comes through, behind `inp`."""
        shared = [*inp, *self.aggregate]
        paths = {name: [*shared, head] for name, head in self.head.items()} or {SCORES: shared}
        for name, parts in self.then.items():
            paths[name] = [*paths[name], *parts]  # type: ignore[misc]
        return paths


class Network(nn.Module):
    """Streams -> joint -> streams' chains -> fusion -> chain -> scores.

    `takes` maps each stream to its modality; streams absent from it start behind the joint, and
    streams that the joint does not return end in it.
    """

    def __init__(
        self,
        streams: Mapping[str, Chain],
        takes: Mapping[str, str],
        joint: Joint | None = None,
        fusion: Fusion | None = None,
        tail: Chain | None = None,
    ) -> None:
        super().__init__()
        self.streams = nn.ModuleDict(dict(streams))
        self.takes = dict(takes)
        self.joint = joint
        self.fusion = fusion
        self.tail = tail
        self.frozen: list[str] = []  # modules kept in evaluation mode, batch norm statistics too

    def forward(self, clips: Mapping[str, Clip], boxes: Tensor | None = None) -> Output:
        """Scores of a batch.

        clips[m].x [B, V, T, C, H, W] float, mask [B, V, T] bool; boxes [B, V, T, R, 4]. In the
        Output, x is [B, V, T', K, 1, 1] and mask [B, V, T'].
        """
        inputs = {n: fold(clips[modality], boxes) for n, modality in self.takes.items()}
        views = next(iter(clips.values())).mask.shape[1]
        return {name: restore(f, views) for name, f in self.scores(inputs).items()}

    def scores(self, inputs: dict[str, Features]) -> dict[str, Features]:
        """Scores by name from the streams' inputs, views still folded into B."""
        ends = {n: self.streams[n].front(f) for n, f in inputs.items()}  # type: ignore[operator]
        if self.joint is not None:
            ends = self.joint(ends)
        chains = {n: chain for n, chain in self.streams.items() if n in ends}
        results = {n: chain.back(ends[n]) for n, chain in chains.items()}  # type: ignore[operator]
        output = {}
        for name, chain in chains.items():
            for head in chain.head:  # type: ignore[union-attr]
                output[output_name(name, head)] = results[name][head]
        fused = {name: result[SCORES] for name, result in results.items() if SCORES in result}
        if self.fusion is not None:
            last = self.fusion(fused)
        elif len(fused) == 1:
            last = next(iter(fused.values()))
        else:
            return output
        output.update(self.tail.back(self.tail.front(last)) if self.tail else {SCORES: last})
        return output

    def paths(self) -> dict[str, list[nn.Module]]:
        """What each entry of the Output comes through, in the order of the forward."""
        chains: dict[str, Chain] = dict(self.streams.items())  # type: ignore[arg-type]
        fronts = {n: [*chains[n].before, *chains[n].backbone] for n in self.takes}
        if self.joint is not None:
            through = [*_joined(fronts.values()), self.joint]
            fronts = dict.fromkeys(self.joint.out, through)
        ends = {n: chain.paths(fronts[n]) for n, chain in chains.items() if n in fronts}
        found = {output_name(n, head): ends[n][head] for n in ends for head in chains[n].head}
        last = [end[SCORES] for end in ends.values() if SCORES in end]
        if self.fusion is not None:
            last = [[*_joined(last), self.fusion]]
        if len(last) != 1:
            return found
        front = [*self.tail.before, *self.tail.backbone] if self.tail else []
        found.update(self.tail.paths([*last[0], *front]) if self.tail else {SCORES: last[0]})
        return found

    def fits(self) -> dict[str, list[str]]:
        """The parts that learn without gradients by their name as a submodule, in the order of the
        forward, and which entries of the Output stand behind each.
        """
        names = {module: name for name, module in self.named_modules()}
        found: dict[str, list[str]] = {}
        for output, path in self.paths().items():
            for module in (m for part in path for m in part.modules() if isinstance(m, Fits)):
                found.setdefault(names[module], []).append(output)
        return found

    def late(self) -> set[str]:
        """Entries of the Output behind a part that is fitted after the training by gradients."""
        found: set[str] = set()
        for name, outputs in self.fits().items():
            if self.get_submodule(name).fits == "after":
                found.update(outputs)
        return found

    def train(self, mode: bool = True) -> Network:
        """Training or evaluation mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        for name in self.frozen:  # by name, since synchronised norms take the place of others
            self.get_submodule(name).eval()
        return self


def _joined(paths: Iterable[Sequence[nn.Module]]) -> list[nn.Module]:
    return list(dict.fromkeys(part for path in paths for part in path))


def output_name(stream: str, head: str) -> str:
    """The name in Output of a stream's head."""
    return stream if head == SCORES else f"{stream}_{head}"


def fold(clip: Clip, boxes: Tensor | None = None) -> Features:
    """A clip's views laid into the batch axis: [B, V, T, ...] to [B*V, T, ...], a view."""
    folded = None if boxes is None else boxes.flatten(0, 1)
    return Features(clip.x.flatten(0, 1), clip.mask.flatten(0, 1), boxes=folded)


def restore(features: Features, views: int) -> Features:
    """The inverse of fold, for all fields that have the batch axis."""

    def unfold(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.unflatten(0, (-1, views))

    return features._replace(
        x=features.x.unflatten(0, (-1, views)),
        mask=features.mask.unflatten(0, (-1, views)),
        attention=unfold(features.attention),
        boxes=unfold(features.boxes),
        log_prob=unfold(features.log_prob),
    )


def freeze(network: Network, part: nn.Module, stages: Sequence[nn.Module]) -> None:
    """Takes stages of a part out of training: no gradients, and evaluation mode from now on."""
    inside = {module for stage in stages for module in stage.modules()}
    for stage in stages:
        stage.requires_grad_(False)
    if not any(p.requires_grad for p in part.parameters()):
        inside.update(part.modules())
    network.frozen += [name for name, module in network.named_modules() if module in inside]
    network.train(network.training)


def freeze_beyond(network: Network, outputs: Iterable[str]) -> None:
    """Takes out of training all that no loss on these entries of the Output reaches."""
    paths = network.paths()
    reached = {part for name in outputs for part in paths[name]}
    for part in _joined(paths.values()):
        if part not in reached:
            freeze(network, part, [part])


class _ReachedError(Exception):
    """Ends a forward pass; what is behind the part that was reached is not run."""

    def __init__(self, value: Any) -> None:
        self.value = value


def reach(part: nn.Module, run: Callable[[], object], *, through: bool) -> Any:
    """What a part is given when `run` first calls it, or with `through` what it then gives.

    Nothing behind it is run. Raises RunError where `run` never calls it.
    """

    def given(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        raise _ReachedError(inputs[0])

    def left(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        raise _ReachedError(output)

    hook = part.register_forward_hook(left) if through else part.register_forward_pre_hook(given)
    try:
        run()
    except _ReachedError as reached:
        return reached.value
    finally:
        hook.remove()
    raise RunError("the part whose features are wanted is never run in this network")


def load_weights(part: nn.Module, file: str) -> tuple[list[str], list[str], list[str]]:
    """Fills a part from `FILE` or `FILE#prefix`, a checkpoint of ours or a state dict.

    Returns the names taken, those of the part that the file lacks, and those of the file that do
    not fit the part. Raises ValueError if nothing was taken, OSError if the file cannot be read.
    """
    path, _, prefix = file.partition("#")
    content = torch.load(path, map_location="cpu", weights_only=True)
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    start = f"{prefix.rstrip('.')}." if prefix else ""
    state = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
    own = part.state_dict()
    taken = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    if not taken:
        names = ", ".join(list(state)[:3]) or f"nothing under '{prefix}'"
        raise ValueError(f"none of its tensors fit; the file has {names}, wanted {next(iter(own))}")
    part.load_state_dict(taken, strict=False)
    return sorted(taken), sorted(own.keys() - taken.keys()), sorted(state.keys() - taken.keys())
