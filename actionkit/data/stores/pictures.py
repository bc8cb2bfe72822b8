"""Frames and flow read from a store, in the place of videos."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from actionkit.contracts import Info, Kind, Reader, Record, Shape, VideoReadError
from actionkit.data.stores.blobs import StoreError, Video, decode, name_of, read_blobs, table
from actionkit.data.stores.folder import Store


class StoredPictures(Reader):
    """What both readers do alike: they find a video in a store and decode its pictures."""

    name: ClassVar[str]  # as registered

    def __init__(self, path: Path, kind: str, root: Path | None) -> None:
        store = Store.open(path, kind)
        self.path = path
        self.root = os.path.abspath(root or store.root)
        self.failures = {failure.name: failure.reason for failure in store.failures}

    def _video(self, path: Path) -> Video:
        """A video's line. Raises VideoReadError where it has none."""
        name = name_of(path, self.root)
        try:
            found = table(self.path)
        except OSError as error:
            reason = f"the store {self.path} cannot be opened ({error.strerror or error})"
            raise self._error(path, reason) from error
        if found.damage:
            raise self._error(path, f"the store {self.path} {found.damage}")
        if name in found.videos:
            return found.videos[name]
        if name in self.failures:
            raise self._error(path, f"could not be stored in {self.path}: {self.failures[name]}")
        raise self._error(
            path,
            f"is not in the store {self.path}, which was made of videos in {self.root}; extract "
            "again with a recipe that lists it, tell by `root` where the videos lie now, or read "
            "it with pyav",
        )

    def _pictures(
        self, path: Path, video: Video, wanted: np.ndarray, flag: int
    ) -> Iterator[np.ndarray]:
        """Decodes a video's pictures of sorted, different numbers [N] int64."""
        done = 0
        try:
            for blob in read_blobs(self.path, video.first + wanted):
                yield decode(blob, flag, video.height, video.width)
                done += 1
        except StoreError as error:
            place = f"its picture {wanted[done]} in the store {self.path}"
            raise self._error(path, f"{place} {error}; remove the store, extract again") from error
        except (OSError, ValueError) as error:
            reason = f"the store {self.path} cannot be read ({error})"
            raise self._error(path, reason) from error

    def _require(self, path: Path, indices: np.ndarray, frames: int) -> None:
        """Raises VideoReadError for indices [N] that there are not."""
        if indices.size and not 0 <= indices.min() <= indices.max() < frames:
            raise self._error(
                path,
                f"frames {indices.min()} to {indices.max()} were asked for, but it has frames 0 "
                f"to {frames - 1}",
            )

    def _error(self, path: Path, reason: str) -> VideoReadError:
        return VideoReadError(path, self.name, reason)


class StoredFrames(StoredPictures):
    """Reads rgb frames from a store that `actionkit extract frames` has made.

    It takes the place of the videos' reader, some ten times faster: every frame is a JPEG picture,
    decoded by itself. Index i is frame i of the video, in the size and quality it was stored with.
    A record's source is the video's path, as always; the file itself is not needed any more. `root`
    is where the videos lie now, by default where they lay when the store was made.
    """

    name = "stored_frames"

    def __init__(self, *, path: Path, root: Path | None = None) -> None:
        super().__init__(path, "frames", root)

    def probe(self, path: Path) -> Info:
        """From the store's table; nothing is decoded."""
        video = self._video(path)
        return Info(video.frames, video.fps, video.seconds, video.height, video.width)

    def read(self, path: Path, indices: np.ndarray) -> Tensor:
        """Frames `indices` [N] as RGB, uint8 [N, 3, H, W] on memory [N, H, W, 3]."""
        video = self._video(path)
        self._require(path, indices, video.frames)
        out = np.empty((len(indices), video.height, video.width, 3), np.uint8)
        wanted, places = np.unique(indices, return_inverse=True)
        pictures = self._pictures(path, video, wanted, cv2.IMREAD_COLOR)
        for number, picture in enumerate(pictures):
            first, *others = np.flatnonzero(places == number)
            cv2.cvtColor(picture, cv2.COLOR_BGR2RGB, dst=out[first])
            out[others] = out[first]
        return torch.from_numpy(out).permute(0, 3, 1, 2)


class StoredFlow(StoredPictures):
    """Reads optical flow from a store that `actionkit extract flow` has made.

    `reader: {rgb: pyav, flow: {use: stored_flow, path: ..., stack: 10}}` gives every frame sampled
    a stack of successive fields, uint8 as `quantize_flow` stores them, in channels dx_1, dy_1,
    dx_2, dy_2, ...; no frame is decoded that is not used. `frame` says where the frame stands.
    `first`: index i has the fields from frame i on, and a video has as many indices as a sampler
    finds places for snippets of `stack` + 1 frames; so a sampler of single frames takes the
    snippets that a maker of flow would have been given. `middle`: the fields around frame i, at
    both ends of a video its first or last ones. Where a video has less than `stack` fields, the
    last is repeated.

    The video is the record's own source for the modality, or its first where it has none. The file
    itself is not needed. `root` is where the videos lie now, by default where they lay when the
    store was made. A record that ends within its video may have fields from behind its end.
    """

    name = "stored_flow"
    kind: Kind | None = "flow"

    def __init__(
        self,
        *,
        path: Path,
        root: Path | None = None,
        stack: int = 1,
        frame: Literal["first", "middle"] = "first",
    ) -> None:
        if stack < 1:
            raise ValueError(f"takes a stack of at least 1 field, but gets {stack}")
        super().__init__(path, "flow", root)
        self.stack, self.frame = stack, frame

    def source(self, record: Record, modality: str) -> Path:
        """The record's own video of this modality, or its first."""
        if not record.sources:
            raise KeyError(modality)
        return record.sources.get(modality, next(iter(record.sources.values())))

    def out(self, shape: Shape) -> Shape:
        """Two channels a field."""
        return shape._replace(channels=2 * self.stack)

    def probe(self, path: Path) -> Info:
        """From the store's table; nothing is decoded."""
        return self._info(self._video(path))

    def read(self, path: Path, indices: np.ndarray) -> Tensor:
        """The stacks of `indices` [N], uint8 [N, 2 * stack, H, W]."""
        video = self._video(path)
        self._require(path, indices, self._info(video).frames)
        pictures = self._channels(indices, video.blobs // 2)  # [N, 2 * stack]
        wanted, places = np.unique(pictures, return_inverse=True)
        places = places.reshape(pictures.shape)  # numpy 1 gives it flat
        out = np.empty((*pictures.shape, video.height, video.width), np.uint8)
        decoded = self._pictures(path, video, wanted, cv2.IMREAD_GRAYSCALE)
        for number, picture in enumerate(decoded):
            out[places == number] = picture
        return torch.from_numpy(out)

    def _info(self, video: Video) -> Info:
        fields = video.blobs // 2
        frames = fields if self.frame == "middle" else max(1, fields - self.stack + 1)
        return Info(frames, video.fps, frames / video.fps, video.height, video.width)

    def _channels(self, indices: np.ndarray, fields: int) -> np.ndarray:
        """Which pictures the channels of indices [N] are, int64 [N, 2 * stack]."""
        starts = indices
        if self.frame == "middle":
            starts = np.clip(indices - self.stack // 2, 0, max(0, fields - self.stack))
        stack = np.minimum(starts[:, None] + np.arange(self.stack), fields - 1)
        return (2 * stack[..., None] + np.arange(2)).reshape(len(indices), -1)
