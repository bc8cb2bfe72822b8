"""Videos in folders named by their class."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from actionkit.contracts import Dataset, Record
from actionkit.data.datasets.lists import link_out, printable

SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv")


_EXPECTED = (
    "put videos in root/CLASS/, or in root/train/CLASS/ and root/val/CLASS/, as files named "
    + " ".join(f"*{suffix}" for suffix in SUFFIXES)
)


class Folder(Dataset):
    """A folder of video files, `root/train/CLASS/*` and `root/val/CLASS/*`, or `root/CLASS/*`.

    In the first layout `root/test/CLASS/*` may be added. In the second, `ratio` of every class's
    files is drawn for `val` (at least one of two or more, never all); the draw depends on nothing
    but `seed` and the names in that class, so other classes may come and go. Where there is no
    test split, `test` is `val`. Clips cut from one source video should not stand on both sides:
    use the first layout for those.

    Classes are the folders' names in order, those of `train`. Hidden files and files with other
    suffixes than a video's are ignored. Nothing is opened.
    """

    classes: list[str]

    def __init__(self, split: str, *, root: Path, ratio: float = 0.2, seed: int = 0) -> None:
        if split not in ("train", "val", "test"):
            raise ValueError(f"has the splits train, val and test, but was asked for {split!r}")
        if not 0 < ratio < 1:
            raise ValueError(f"needs a ratio between 0 and 1, but got {ratio}; try 0.2")
        if seed < 0:
            raise ValueError(f"needs a seed of at least 0, but got {seed}")
        root = Path(root)
        if not root.is_dir():
            raise ValueError(f"finds no folder {root}; check root")
        self.root = root.resolve()
        if any(self._folders(name) for name in ("train", "val")):
            self.classes, videos = self._given_split(split)
        else:
            self.classes, videos = self._drawn_split(split, ratio, seed)
        self._items = [(name, target) for target, names in enumerate(videos) for name in names]
        if not self._items:
            raise ValueError(f"finds no video for {split} in {self.root}; {_EXPECTED}")

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Record:
        name, target = self._items[index]
        path = self.root / name
        return Record(
            id=printable(name), sources={"rgb": path}, target=target, origin=printable(str(path))
        )

    def _given_split(self, split: str) -> tuple[list[str], list[list[str]]]:
        """The classes, and the names of the split's videos by class, of root/SPLIT/CLASS."""
        splits = {name: self._folders(name) for name in ("train", "val", "test")}
        for name in ("train", "val"):
            if not splits[name]:
                raise ValueError(f"finds no class folders in {self.root / name}; {_EXPECTED}")
        for name in ("val", "test"):
            strange = sorted(set(splits[name]) - set(splits["train"]))
            if strange:
                raise ValueError(
                    f"finds classes in {self.root / name} that train does not have: "
                    f"{', '.join(strange)}; move them to train as well, or take them out"
                )
        if split == "test" and not splits["test"]:
            split = "val"
        classes = splits["train"]
        for name in classes:
            self._require_videos(f"train/{name}")
        return classes, [
            self._videos(f"{split}/{name}") if name in splits[split] else [] for name in classes
        ]

    def _drawn_split(
        self, split: str, ratio: float, seed: int
    ) -> tuple[list[str], list[list[str]]]:
        """The classes, and the names of the split's videos by class, of root/CLASS."""
        classes = self._folders(".")
        if not classes:
            raise ValueError(f"finds no class folders in {self.root}; {_EXPECTED}")
        videos = []
        for name in classes:
            names = self._require_videos(name)
            count = min(max(1, round(ratio * len(names))), len(names) - 1)
            rng = np.random.default_rng([seed, zlib.crc32(os.fsencode(name))])
            held_out = set(rng.permutation(len(names))[:count].tolist())
            videos.append([v for i, v in enumerate(names) if (i in held_out) == (split != "train")])
        return classes, videos

    def _require_videos(self, folder: str) -> list[str]:
        videos = self._videos(folder)
        if not videos:
            raise ValueError(
                f"finds no video in {self.root / folder}; take that folder away, or {_EXPECTED}"
            )
        return videos

    def _videos(self, folder: str) -> list[str]:
        """The videos in a folder, in order, relative to root."""
        paths = self._visible(folder)
        return [
            path.relative_to(self.root).as_posix()
            for path in paths
            if path.suffix.lower() in SUFFIXES and not path.is_dir()
        ]

    def _folders(self, folder: str) -> list[str]:
        """The names of the folders in a folder, in order; none where it does not exist."""
        return [path.name for path in self._visible(folder) if path.is_dir()]

    def _visible(self, folder: str) -> Iterator[Path]:
        """What lies in a folder, in order, without hidden entries. Raises for links out of root."""
        place = self.root / folder
        if not place.is_dir():
            return
        for path in sorted(place.iterdir()):
            if path.name.startswith("."):
                continue
            if path.is_symlink() and (reason := link_out(path, self.root)):
                raise ValueError(f"finds {reason}")
            yield path
