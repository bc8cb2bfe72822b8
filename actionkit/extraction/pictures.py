"""The frames of a recipe's videos, on their way into a store; flow goes the same way."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from actionkit import registry
from actionkit.builder.components import BrokenError, Components
from actionkit.builder.data import build_datasets
from actionkit.contracts import Info, Reader, Shape, VideoReadError
from actionkit.data.jobs import in_turn
from actionkit.data.readers.container import Limits
from actionkit.data.stores.blobs import Part, PartFile, Video, Writer, name_of
from actionkit.data.stores.folder import Failure, Store, no_room, root_for, writing
from actionkit.data.stores.pictures import StoredPictures
from actionkit.errors import RunError
from actionkit.grammar import Node, Plan
from actionkit.recipe import RecipeError

MEMORY = 2**26  # bytes of frames as they are read
MOST = 64  # frames read at once
PARTS = ".parts"  # the folder beside a store for what comes into it


class Videos(NamedTuple):
    """What a recipe reads its frames from."""

    paths: list[Path]  # of all splits, each once
    reader: Reader
    settings: dict[str, Any]  # of the reader, as far as they change frames


class Summary(NamedTuple):
    """What an extraction has done."""

    videos: int  # stored now
    there: int  # stored before
    frames: int  # of those stored now
    bytes: int
    failures: list[Failure]  # of this recipe's videos
    seconds: float


class Item(NamedTuple):
    """A video to be stored."""

    number: int  # of its part's file
    name: str
    path: Path


# ------------------------------------------------------------------------------------ the recipe


def videos_of(plan: Plan) -> Videos:
    """The videos of a recipe, by its reader for rgb, else for the data set's first modality.

    Raises RecipeError for what cannot be built of data set or reader, RunError for a reader that
    gives no frames of videos.
    """
    components = Components()
    try:
        datasets = build_datasets(components, plan.data)
        known = next(iter(datasets.values())).modalities
        modality = "rgb" if "rgb" in known else known[0]
        node = plan.data.reader.get(modality, plan.data.reader.get(""))
        if node is None:
            raise RunError(
                f"the recipe's data.reader reads {', '.join(plan.data.reader)}, but no {modality}; "
                f"name a reader for {modality} there"
            )
        _require_videos(node)
        reader = components.make(node, Reader)
    except BrokenError as error:
        raise RecipeError(components.problems) from error
    if reader.out(Shape(None, 3, None, None)).channels != 3 or reader.whole:
        raise RunError(
            f"'{node.use}', the reader of {modality}, gives no frames of 3 channels; name one that "
            "does: data.reader=pyav"
        )
    paths = set()
    for dataset in datasets.values():
        dataset.prepare()
        records = (dataset[i] for i in range(len(dataset)))
        paths |= {reader.source(record, modality) for record in records}
    return Videos(sorted(paths), reader, options(node, Limits._fields))


def _require_videos(node: Node) -> None:
    """Raises RunError for a reader of stores, which maybe are still to be made."""
    try:
        stored = node.entry is not None and issubclass(registry.load(node.entry), StoredPictures)
    except (registry.BrokenComponentError, TypeError):
        return  # said when it is made
    if stored:
        raise RunError(
            f"the recipe reads its frames from a store ('{node.use}'), not from videos; name the "
            "reader of the videos behind the recipe: data.reader=pyav"
        )


def options(node: Node, without: Sequence[str]) -> dict[str, Any]:
    """All options of a component, defaults too, but for some; and its name as `use`."""
    assert node.entry is not None  # noqa: S101  it has been made
    parameters = signature(registry.load(node.entry)).parameters.values()
    known = {p.name: p.default for p in parameters if p.name not in without}
    return {"use": node.use, **{name: node.options.get(name, known[name]) for name in known}}


# ------------------------------------------------------------------------------------ the worker


@dataclass
class Storing:
    """What a worker does: decodes a video, scales its frames, writes them as JPEG beside the store.

    `short_side` is that of a stored picture, where the video's is larger; 0 = as it is.
    """

    kind: ClassVar[str] = "frames"

    reader: Reader
    short_side: int
    quality: int
    parts: Path = Path()

    def __call__(self, item: Item) -> Part | Failure | RunError:
        """A video's part, why it has none, or why all must stop."""
        file = PartFile(self.parts / f"{item.number}.data")
        try:
            return self._store(item, file)
        except VideoReadError as error:
            return Failure(item.name, error.reason)
        except OSError as error:  # of what is written; a reader raises VideoReadError
            return no_room(self.parts, error, file.ends[-1])
        except RunError as error:
            return error
        finally:
            file.close()

    def frames(self, blobs: int) -> int:
        """Of a video with so many blobs."""
        return blobs

    def pictures(self, path: Path, info: Info) -> Iterator[np.ndarray]:
        """The pictures to be stored in turn, as OpenCV takes them. Raises VideoReadError."""
        for frames in self.scaled(path, info):
            for frame in frames.permute(0, 2, 3, 1).numpy():
                yield cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)

    def scaled(self, path: Path, info: Info) -> Iterator[Tensor]:
        """All frames in turn, scaled, uint8 [N, 3, H, W] on memory [N, H, W, 3], few at once."""
        height, width = self.size(info)
        most = min(MOST, max(2, MEMORY // (3 * info.height * info.width)))
        for frames in self.reader.stream(path, most):
            if (height, width) == (info.height, info.width):
                yield frames
                continue
            images = frames.permute(0, 2, 3, 1).contiguous().numpy()
            small = np.empty((len(images), height, width, 3), np.uint8)
            for image, out in zip(images, small, strict=True):
                cv2.resize(image, (width, height), dst=out, interpolation=cv2.INTER_AREA)
            yield torch.from_numpy(small).permute(0, 3, 1, 2)

    def size(self, info: Info) -> tuple[int, int]:
        """Height and width of a stored picture."""
        short = min(info.height, info.width)
        if not 0 < self.short_side < short:
            return info.height, info.width
        sides = (max(1, round(side * self.short_side / short)) for side in info[-2:])
        height, width = sides
        return height, width

    def _store(self, item: Item, file: PartFile) -> Part:
        info = self.reader.probe(item.path)
        for picture in self.pictures(item.path, info):
            done, blob = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
            if not done:
                raise VideoReadError(item.path, self.kind, "its frames cannot be stored as JPEG")
            file.add(blob.tobytes())
        blobs = len(file.ends) - 1
        if not blobs:
            raise VideoReadError(item.path, self.kind, f"it gives no {self.kind}")
        return file.finish(
            Video(item.name, 0, blobs, self.frames(blobs), info.fps, info.seconds, *self.size(info))
        )


# --------------------------------------------------------------------------------- the main loop


def extract(
    path: Path,
    storing: Storing,
    videos: Videos,
    settings: dict[str, Any],
    *,
    workers: int,
    spawn: bool = False,
    expect: Callable[[int], object] = lambda _: None,
    tick: Callable[[], object] = lambda: None,
) -> Summary:
    """Stores all videos that are not in the store yet, in the order of their names.

    `expect` is told how many there are, `tick` is called after each. Raises RunError for a store of
    other settings, NoRoomError where the disk is full; what is stored then stays.
    """
    start = time.monotonic()
    with writing(path):
        root = root_for(path, videos.paths)
        everything = {"reader": videos.settings, **settings}
        everything |= {"short_side": storing.short_side, "quality": storing.quality}
        store = Store.begin(path, storing.kind, everything, root)
        names = {name_of(video, str(root)): video for video in videos.paths}
        with closing(Writer(path)) as writer:
            there, size = len(names.keys() & writer.names), writer.size
            todo = sorted(names.keys() - writer.names)
            expect(len(todo))
            if todo:
                store.complete = False
                store.save()
            frames, failures = _store(storing, writer, todo, names, workers, spawn, tick)
            old = [f for f in store.failures if f.name not in names]
            if todo or not store.complete:
                store.finish(sorted([*old, *failures]))
            stored = len(todo) - len(failures)
            size = writer.size - size
    return Summary(stored, there, frames, size, failures, time.monotonic() - start)


def _store(
    storing: Storing,
    writer: Writer,
    todo: list[str],
    names: dict[str, Path],
    workers: int,
    spawn: bool,
    tick: Callable[[], object],
) -> tuple[int, list[Failure]]:
    """Frames stored, and what could not be."""
    folder = writer.store / PARTS
    shutil.rmtree(folder, ignore_errors=True)  # of a killed process, whose workers may still write
    folder.mkdir(exist_ok=True)
    storing.parts = Path(tempfile.mkdtemp(dir=folder))
    items = [Item(number, name, names[name]) for number, name in enumerate(todo)]
    frames, failures = 0, []
    try:
        with closing(in_turn(storing, items, min(workers, len(items)), spawn=spawn)) as results:
            for result in results:
                if isinstance(result, RunError):
                    raise result
                if isinstance(result, Failure):
                    failures.append(result)
                else:
                    writer.append(result)
                    frames += result.video.frames
                tick()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return frames, failures
