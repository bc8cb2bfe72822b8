"""Probes: small embedded videos, each kind of which only one ability of a network can solve.

A kind is a module of this folder with CLASSES, FPS and `render(rng, size)`, which yields, for one
scene, every class with its pictures. It may have `boxes(rng, size)`, where something is to be found
in the scene of these random numbers, as records hold it. Everything else is shared.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
from rich.console import Console
from rich.progress import track

from actionkit.contracts import Dataset, Record
from actionkit.data.datasets.probes import actor, appearance_motion, order
from actionkit.data.datasets.probes.video import write

KINDS: dict[str, ModuleType] = {
    "appearance_motion": appearance_motion,
    "order": order,
    "actor": actor,
}
SPLITS = {"train": "train", "val": "val", "test": "val"}  # split -> the scenes it takes
RENDER_VERSION = 1  # to be raised whenever a picture changes


class Probes(Dataset):
    """Embedded videos that prove what a network sees, rendered into a cache on first use.

    Every scene is rendered once per class, so nothing of a scene tells the class.

    `appearance_motion`: an object in 3 colours times 3 motions, 9 classes such as `red_rise`. A
    stream that sees gray frames or their flow, and one that sees a set of frames without their
    order, reach 1/3 at most; both together reach 1. Decoded, the clips of one scene and colour hold
    the same frames bit by bit; gray frames of the colours differ by rounding to RGB alone, by 1 of
    255 levels in 8 % of the pixels. Upside down, rise would be fall: do not mirror.

    `order`: an arrow grows, moves to the right and rotates, each there and back, in one of 6
    orders, 6 classes such as `grow_move_rotate`. What pools frames, or their flow, without order
    reaches 1/6: decoded, all clips of a scene hold the same frames, and the same flow between
    neighbours, bit by bit. That is so for samples too where they fall alike into all three events,
    as single frames of 3, 6 or 12 `segments` do.

    `actor`: of four objects, alike but for their colours, one moves around a small circle, and its
    colour is the class: `red`, `lime`, `cyan` or `violet`. Every frame shows all four, each at a
    random point of its circle, so one frame reaches 1/4 at most, and so does flow, which all
    classes of a scene share as far as they share gray frames. It takes to look at colours where
    motion is. Records have the actor's box in every frame.

    Clips have 24 frames at 12 fps. Train and val have scenes of their own; test is val. They take
    2 s to render and 7 MB (`order` and `actor`: 5 MB) in $ACTIONKIT_CACHE, else
    $XDG_CACHE_HOME/actionkit, else ~/.cache/actionkit, where every set of parameters that changes a
    picture has its folder.
    """

    classes: list[str]

    def __init__(
        self,
        split: str,
        *,
        kind: Literal["appearance_motion", "order", "actor"] = "appearance_motion",
        train_scenes: int = 36,
        val_scenes: int = 12,
        size: int = 64,
        seed: int = 0,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"has the splits {', '.join(SPLITS)}, but not '{split}'")
        if kind not in KINDS:
            raise ValueError(f"has the kinds {', '.join(KINDS)}, but not '{kind}'")
        if min(train_scenes, val_scenes) < 1:
            raise ValueError(
                f"needs at least 1 scene per split, but gets train_scenes {train_scenes} and "
                f"val_scenes {val_scenes}"
            )
        if size < 32 or size % 2:
            raise ValueError(f"needs an even size of at least 32 pixels, but gets {size}")
        if seed < 0:
            raise ValueError(f"needs a seed of at least 0, but gets {seed}")
        self.classes = list(KINDS[kind].CLASSES)
        self._kind, self._size, self._seed = kind, size, seed
        self._scenes = train_scenes if split == "train" else val_scenes
        self._split = SPLITS[split]
        self._folder = cache_folder() / "probes" / f"{kind}-{self._key()}"

    def prepare(self) -> None:
        """Renders the missing files; several processes may do so at once, or one be killed.

        Every file is whole as soon as it has its name, so what is there is never rendered again,
        and two processes that render one file write the same bytes.
        """
        missing = [scene for scene in range(self._scenes) if not self._complete(scene)]
        title = f"rendering probes ({self._kind}, {self._split})"
        for scene in track(missing, title, console=Console(stderr=True), disable=not missing):
            self._render(scene)

    def __len__(self) -> int:
        return self._scenes * len(self.classes)

    def __getitem__(self, index: int) -> Record:
        scene, target = divmod(range(len(self))[index], len(self.classes))
        path = self._path(scene, self.classes[target])
        return Record(
            id=f"{self._split}/{path.parent.name}/{path.stem}",
            sources={"rgb": path},
            target=target,
            boxes=self._boxes(scene),
            group=f"{self._split}/{path.parent.name}",
        )

    def _key(self) -> str:
        """Of what decides the pictures. More scenes only add files, so their number does not."""
        parameters = [RENDER_VERSION, self._kind, self._size, self._seed]
        return hashlib.sha256(json.dumps(parameters).encode()).hexdigest()[:12]

    def _path(self, scene: int, name: str) -> Path:
        return self._folder / self._split / f"{scene:04}" / f"{name}.mp4"

    def _complete(self, scene: int) -> bool:
        return all(self._path(scene, name).exists() for name in self.classes)

    def _rng(self, scene: int) -> np.random.Generator:
        return np.random.default_rng((self._seed, int(self._split == "val"), scene))

    def _boxes(self, scene: int) -> tuple[tuple[float, float, float, float, float], ...]:
        kind = KINDS[self._kind]
        return kind.boxes(self._rng(scene), self._size) if hasattr(kind, "boxes") else ()

    def _render(self, scene: int) -> None:
        kind = KINDS[self._kind]
        for name, pictures in kind.render(self._rng(scene), self._size):
            path = self._path(scene, name)
            if not path.exists():
                write(path, pictures, kind.FPS)


def cache_folder() -> Path:
    """Folder for files that can be made again."""
    own = os.environ.get("ACTIONKIT_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "actionkit"
