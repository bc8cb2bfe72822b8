"""Any 2-D image network of timm over the frames of a clip."""

from __future__ import annotations

import difflib
import math
from collections import defaultdict
from typing import Any

import timm
import torch
from torch import Tensor, nn

from actionkit.contracts import Backbone, Features, Shape, pack, unpack

GROUPS = {"stem": r"^stem", "blocks": r"^stages\.(\d+)"}  # for MetaFormer, which states none


class Timm(Backbone):
    """A 2-D network of timm, run on every real frame: x [B, T, C, H, W] to maps [B, T, C', h, w].

    Padding never enters the network, so batch norm does not see it. Any number of channels goes in:
    timm adapts the first layer, and repeats pretrained RGB filters over the channels, scaled by 3/C
    (the idea of cross-modality initialisation, arXiv:1608.00859). Frames are taken as they come;
    normalising them is the pipeline's work. Tokens of transformers leave as maps, class tokens
    dropped. What only the classifier uses (a norm behind the pooling, say) stays, frozen.

    Args:
        inp: frames; None for height or width where the network takes any size.
        arch: a name of `timm.list_models()`, with or without the tag of its weights.
        pretrained: start from timm's weights, which are downloaded once (not on the meta device).
        drop_path: rate of stochastic depth, for networks that have it (arXiv:1603.09382).
        grad_checkpointing: compute activations again for the gradients instead of keeping them:
            less memory, a third more time (arXiv:1604.06174). Batch norms then move their running
            statistics twice a step.

    Raises:
        ValueError: unknown arch, one that gives no maps or does not fit the frames, or weights that
            cannot be had.
    """

    def __init__(
        self,
        inp: Shape,
        *,
        arch: str,
        pretrained: bool = False,
        drop_path: float = 0.0,
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        config = _config(arch)
        if pretrained and not config.has_weights:
            raise ValueError(
                f"has no pretrained weights for '{arch}' in timm; leave pretrained out"
            )
        channels, size = inp.require_channels(), _frame_size(inp, arch, config)
        options: dict[str, Any] = {"num_classes": 0, "in_chans": channels}
        if config.fixed_input_size:
            options["img_size"] = size
        if drop_path:
            options["drop_path_rate"] = drop_path
        try:
            with torch.device("meta"), torch.enable_grad():
                net = timm.create_model(arch, **options)
                maps, unreached = _probe(net, torch.empty(1, channels, *size))
        except Exception as error:  # whatever a network of timm's raises when it does not fit
            raise ValueError(
                f"cannot run '{arch}' on frames of {channels}x{size[0]}x{size[1]} with drop_path "
                f"{drop_path}: {error}; choose another arch or frame size, or leave drop_path out"
            ) from error
        if torch.get_default_device().type != "meta":
            net = _create(arch, pretrained, options)
        for name in unreached:  # else distributed training waits for their gradients
            net.get_parameter(name).requires_grad_(False)
        if grad_checkpointing:
            _checkpoint(net, arch)
        self.unreached = frozenset(unreached)
        self.net = net.to(memory_format=torch.channels_last)
        self.out = Shape(
            inp.steps,
            maps.shape[1],
            maps.shape[2] if inp.height else None,
            maps.shape[3] if inp.width else None,
        )

    def forward(self, features: Features) -> Features:
        """Maps frames [B, T, C, H, W] to maps [B, T, C', h, w], zeros at padded steps."""
        frames = pack(features).contiguous(memory_format=torch.channels_last)  # [N, C, H, W]
        return unpack(_maps(self.net, frames), features)

    def stages(self) -> list[nn.Module]:
        """The stem, then the stages or blocks that timm groups the network into."""
        net: Any = self.net
        matcher = net.group_matcher(coarse=True) if hasattr(net, "group_matcher") else GROUPS
        groups = timm.models.group_parameters(net, matcher, reverse=True)
        reached = {name: group for name, group in groups.items() if name not in self.unreached}
        found: dict[int, list[nn.Module]] = defaultdict(list)
        _collect(net, "", reached, found)
        return [nn.ModuleList(found[group]) for group in sorted(found)]


def _config(arch: str) -> Any:
    """What timm knows of an arch: weights, frame size. Refuses any name that timm does not list."""
    if ":" in arch or "/" in arch or "\\" in arch:
        raise ValueError(
            f"takes the name of one of timm's networks, but '{arch}' points to a hub or a folder; "
            "give the name as arch and a checkpoint as weights: FILE"
        )
    names = {*timm.list_models(), *timm.list_models(include_tags=True)}
    if arch not in names:
        near = " or ".join(f"'{n}'" for n in difflib.get_close_matches(arch, names))
        raise ValueError(
            f"finds no network '{arch}' in timm {timm.__version__}; "
            + (f"did you mean {near}?" if near else "timm.list_models() gives all names")
        )
    return timm.models.get_pretrained_cfg(arch)


def _frame_size(inp: Shape, arch: str, config: Any) -> tuple[int, int]:
    """Height and width to build for: the input's, or where they vary what the arch was made for."""
    if config.fixed_input_size and not (inp.height and inp.width):
        raise ValueError(
            f"runs '{arch}' on frames of one size only, but their size varies here; "
            "crop or resize them to a fixed size first"
        )
    return inp.height or config.input_size[1], inp.width or config.input_size[2]


def _probe(net: nn.Module, frame: Tensor) -> tuple[Tensor, list[str]]:
    """The maps of a frame on the meta device, and the names of parameters they do not need."""
    net.eval()  # batch norm refuses to train on one value per channel
    maps = _maps(net, frame)
    net.train()
    names = dict(net.named_parameters())
    gradients = torch.autograd.grad(maps.sum(), list(names.values()), allow_unused=True)
    return maps, [name for name, g in zip(names, gradients, strict=True) if g is None]


def _create(arch: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    """The network on the default device, with its weights."""
    if not pretrained:
        return timm.create_model(arch, **options)
    try:
        return timm.create_model(arch, pretrained=True, **options)
    except Exception as error:  # network, disk and file errors of three libraries
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise ValueError(
            f"cannot get timm's weights of '{arch}': {type(error).__name__}: {reason}; download "
            "them beforehand where there is internet, or give a checkpoint as weights: FILE and "
            "leave pretrained out"
        ) from error


def _checkpoint(net: Any, arch: str) -> None:
    """Has the network compute its activations twice. Raises ValueError where it cannot."""
    try:
        net.set_grad_checkpointing(True)
    except (AssertionError, AttributeError) as error:
        raise ValueError(
            f"cannot compute the activations of '{arch}' twice; leave grad_checkpointing out"
        ) from error


def _maps(net: Any, frames: Tensor) -> Tensor:
    """Maps [N, C, h, w] of frames, whatever layout the network's own features have."""
    features = net.forward_features(frames)
    if not isinstance(features, Tensor) or features.ndim not in (3, 4):
        raise ValueError("its features are neither one map nor one row of tokens")
    if features.ndim == 4:
        nhwc = getattr(net, "output_fmt", None) == "NHWC"
        return features.permute(0, 3, 1, 2) if nhwc else features
    tokens = features[:, getattr(net, "num_prefix_tokens", 0) :]  # [N, L, C]
    height, width = _grid(net, frames)
    if tokens.shape[1] != height * width:
        raise ValueError(f"its {tokens.shape[1]} tokens are not a grid of {height}x{width}")
    return tokens.transpose(1, 2).unflatten(2, (height, width))


def _grid(net: Any, frames: Tensor) -> tuple[int, int]:
    """Rows and columns of a transformer's last tokens."""
    grid = getattr(getattr(net, "patch_embed", None), "grid_size", None)
    if grid is not None:
        return grid
    reduction = net.feature_info[-1]["reduction"]
    return math.ceil(frames.shape[2] / reduction), math.ceil(frames.shape[3] / reduction)


def _collect(
    module: nn.Module, prefix: str, groups: dict[str, int], found: dict[int, list[nn.Module]]
) -> None:
    """Adds to each group the largest modules whose parameters are all its own."""
    for name, parameter in module.named_parameters(recurse=False):
        if prefix + name in groups:  # class tokens, position embeddings
            found[groups[prefix + name]].append(nn.ParameterList([parameter]))
    for name, child in module.named_children():
        path = f"{prefix}{name}."
        own = {g for key, g in groups.items() if key.startswith(path)}
        if len(own) == 1:
            found[own.pop()].append(child)
        elif own:
            _collect(child, path, groups, found)
