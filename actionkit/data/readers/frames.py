"""Videos that lie on the disk as folders of images, one a frame, as TSN and others extract them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, NamedTuple

import cv2
import numpy as np

from actionkit.contracts import Info
from actionkit.data.readers.container import Deadline, Limits, UnreadableError, require_size
from actionkit.data.readers.local import LocalReader

_SUFFIX = re.compile(r"\.(jpe?g|png)$", re.IGNORECASE)
_NAME = re.compile(r"(.*?)([0-9]+)(\.[a-z]+)", re.IGNORECASE | re.DOTALL)
_ENDS = {b"\xff\xd8": b"\xff\xd9", b"\x89P": b"IEND\xaeB`\x82"}  # first and last bytes of JPEG, PNG


class Frames(LocalReader):
    """Reads folders of images (jpg, png) that are numbered without a gap, one image a frame.

    A record's source is the folder. Index i is the i-th image by number, from whatever number the
    first has: img_00001.jpg, img_00002.jpg. All have one size; gray ones become RGB; notes on how
    they are turned (EXIF) are followed. A folder does not know its rate: `fps` says at how many
    frames a second its images were taken, all folders alike. Where a folder also holds others, such
    as TSN's flow_x_00001.jpg, `pattern` tells which names count ("img_*").

    An image of more than `max_pixels` is refused, and so is a clip that takes more than `timeout`
    seconds. An image that is cut short raises, and so does damage to a PNG. Flipped bits in a JPEG
    cannot be noticed: it carries no checksum.
    """

    name: ClassVar[str] = "frames"
    folders: ClassVar[bool] = True

    def __init__(
        self,
        *,
        fps: float,
        pattern: str = "*",
        max_pixels: int = 8192 * 8192,
        timeout: float = 30.0,
    ) -> None:
        if not 0 < fps < float("inf"):
            raise ValueError(f"needs fps above 0, the images of a second, but got {fps}")
        super().__init__(Limits(max_pixels, None, None, timeout))
        self.fps, self.pattern = fps, pattern

    def _info(self, path: Path) -> Info:
        folder = self._folder(path)
        seconds = folder.images / self.fps
        return Info(folder.images, float(self.fps), seconds, folder.height, folder.width)

    def _frames(
        self, path: Path, wanted: np.ndarray, deadline: Deadline
    ) -> Iterator[tuple[int, np.ndarray]]:
        folder = self._folder(path)
        for index in wanted.tolist():
            deadline.left()
            image = _image(path, folder.series, index, self.limits)
            if image.shape[:2] != (folder.height, folder.width):
                raise UnreadableError(
                    f"its frames change size: the first has {folder.height}x{folder.width}, "
                    f"{folder.series.place(index)} has {image.shape[0]}x{image.shape[1]}"
                )
            yield index, image

    def _folder(self, path: Path) -> _Folder:
        """The folder's content, from the cache while no image is added or taken away."""
        if not path.exists():
            raise UnreadableError("there is no such folder")
        if not path.is_dir():
            raise UnreadableError("it is a file, not a folder of images; set data.reader: pyav")
        return _look(os.path.abspath(path), path.stat().st_mtime_ns, self.pattern, self.limits)


class _Series(NamedTuple):
    """How the images of a folder are named: some text, a number, an ending."""

    prefix: str
    first: int  # number
    digits: int  # at least as many, by zeros in front
    suffix: str

    def file(self, index: int) -> str:
        """The name of an image."""
        return f"{self.prefix}{self.first + index:0{self.digits}d}{self.suffix}"

    def place(self, index: int) -> str:
        """What to call it: "frame 17 (img_00018.jpg)"."""
        return f"frame {index} ({self.file(index)})"


class _Folder(NamedTuple):
    """A folder of images; their names take no memory."""

    series: _Series
    images: int
    height: int
    width: int


@lru_cache(maxsize=16384)  # as many as are remembered of files
def _look(path: str, _mtime: int, pattern: str, limits: Limits) -> _Folder:
    names = _names(path, pattern)
    kinds = sorted({f"{prefix}*{suffix}" for prefix, _, suffix in names})
    if len(kinds) > 1:
        raise UnreadableError(
            f"it holds several series of images ({', '.join(kinds[:4])}); say which one is meant "
            f"by data.reader.pattern: {kinds[0]!r}"
        )
    names.sort(key=lambda name: int(name[1]))
    prefix, digits, suffix = names[0]
    padded = digits.startswith("0") or len({len(name[1]) for name in names}) == 1
    series = _Series(prefix, int(digits), len(digits) if padded else 1, suffix)
    for index, name in enumerate(names):
        if "".join(name) != series.file(index):
            raise UnreadableError(
                f"its images are not numbered one by one: where {series.file(index)} should be, "
                f"there is {''.join(name)}; extract them again"
            )
    height, width, _ = _image(Path(path), series, 0, limits).shape
    return _Folder(series, len(names), height, width)


def _names(folder: str, pattern: str) -> list[tuple[str, str, str]]:
    """The images' names as (text, number, ending); hidden files do not count."""
    with os.scandir(folder) as entries:
        found = [e.name for e in entries if _SUFFIX.search(e.name) and not e.name.startswith(".")]
    found = [name for name in found if fnmatchcase(name, pattern)]
    if not found:
        which = "" if pattern == "*" else f" that match {pattern!r}, which is data.reader.pattern"
        raise UnreadableError(f"it holds no images (jpg, png){which}")
    matches = [(name, _NAME.fullmatch(name)) for name in found]
    strange = sorted(name for name, match in matches if match is None)
    if strange:
        raise UnreadableError(
            f"its image {strange[0]} has no number before its ending; take it out, or leave it out "
            "by data.reader.pattern"
        )
    return [(match[1], match[2], match[3]) for _, match in matches if match]


def _image(folder: Path, series: _Series, index: int, limits: Limits) -> np.ndarray:
    """An image, RGB, uint8 [H, W, 3]. Raises UnreadableError where it is none."""
    place = series.place(index)
    try:
        data = (folder / series.file(index)).read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise UnreadableError(f"{place} cannot be opened ({reason})") from error
    if not data:
        raise UnreadableError(f"{place} is empty")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:  # of more pixels than OpenCV itself takes, above all
        raise UnreadableError(f"{place} cannot be decoded ({error.err})") from error
    if image is None:
        raise UnreadableError(f"{place} {_why_no_image(data)}")
    require_size(image.shape[0], image.shape[1], limits)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _why_no_image(data: bytes) -> str:
    """What is wrong with a file that OpenCV refuses."""
    end = _ENDS.get(data[:2])
    if end is None:
        return "is not an image, whatever its name says"
    return "is damaged" if data.rstrip(b"\0").endswith(end) else "is cut short"
