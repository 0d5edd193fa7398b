"""Images that are packed into larger files: Parquet files and tar archives (WebDataset shards).

`tar_images` and `parquet_images` list the images of one file without reading them. Each image is then read on its own,
at its place in the file, so it behaves like an image file: it can be divided among processes, skipped when it is done,
and reported when it is damaged. A file is never in memory as a whole.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detector.arrays import ImageArray
from detector.errors import FileError, ImageError

PARQUET, TAR = ".parquet", ".tar"
PACKED_SUFFIXES = (PARQUET, TAR)
"""File suffixes (lower case) of files with many images."""

COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
"""File suffixes (lower case) of compressed tar archives, in which no image can be found without all before it."""

MAX_IMAGE_BYTES = 2**30
"""Largest size in bytes of one image in a packed file. Its bytes are read at once."""

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_FILES = 1_000_000
_LONGEST_NAME = 1000
"""Largest number of characters of a name; a longer one is no name but a mistake."""


@dataclass(frozen=True, slots=True)
class PackedImage:
    """An image in a packed file.

    Attributes:
        name: path of the file, and in it the name of the image: `shards/000.tar/a/b.jpg`, `train.parquet/17`.
        read: decodes the image and returns it as [H, W, 3] RGB; raises InputError if it cannot be decoded.
    """

    name: Path
    read: Callable[[], ImageArray]


@dataclass(frozen=True)
class PackedImages:
    """The images in a packed file.

    Attributes:
        images: the images, in the order of the file.
        column: column of a Parquet file with the images; "" for an archive.
        note: where the images and their names were found, for a message; "": nothing had to be chosen.
    """

    images: Sequence[PackedImage]
    column: str = ""
    note: str = ""


class NamesInFile:
    """Makes the names of the images in a packed file unique and safe as a part of a path.

    Args:
        path: the file.

    Attributes:
        renamed: the first name that was changed because an image before it has this name, and the new name.
        repeated: number of names that were changed because of that.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._taken: set[str] = set()
        self.renamed = ("", "")
        self.repeated = 0

    def add(self, name: str | None, number: int) -> Path:
        """Return the path of the next image: of the packed file and the name in it.

        Args:
            name: name of the image; None or no usable name: its number.
            number: number of the image in the file, from 0.
        """
        own = wanted = _as_path(name) or str(number)
        while own in self._taken:
            stem, suffix = os.path.splitext(own)  # noqa: PTH122 (no path of a file)
            own = f"{stem}-{number}{suffix}"
        if own != wanted:
            self.repeated += 1
            self.renamed = self.renamed if self.renamed[0] else (wanted, own)
        self._taken.add(own)
        return Path(f"{self._path}/{own}")


def _as_path(name: str | None) -> str:
    r"""Return a name as a relative path without `..`; "" if it cannot be one.

    >>> [_as_path(name) for name in ("a/b.jpg", "/data/./a.jpg", "../../a.jpg", "", "a\0b", None)]
    ['a/b.jpg', 'data/a.jpg', 'a.jpg', '', '', '']
    """
    if not name or "\0" in name or len(name) > _LONGEST_NAME:
        return ""
    return "/".join(part for part in re.split(r"[/\\]" if os.name == "nt" else "/", name) if part.strip(". "))


def is_packed(path: Path) -> bool:
    """Return whether a path is that of a packed file, by its suffix."""
    return path.suffix.lower() in PACKED_SUFFIXES


def check_image_size(name: str, size: int) -> None:
    """Raise ImageError if the file of an image is larger than `MAX_IMAGE_BYTES`.

    Args:
        name: name of the image, for the message.
        size: size of its file in bytes.
    """
    if size > MAX_IMAGE_BYTES:
        raise ImageError(f"{name}: an image file of {size / 1e9:.1f} GB; expected at most 1 GB")


def expand_braces(spec: str) -> list[str]:
    """Return the names that a numbered range in braces stands for, as in WebDataset; without one, the name itself.

    >>> expand_braces("shard-{08..10}.tar")
    ['shard-08.tar', 'shard-09.tar', 'shard-10.tar']

    Raises:
        FileError: the range is empty or has more than a million numbers.
    """
    if (found := _BRACES.search(spec)) is None:
        return [spec]
    first, last = map(int, found.groups())
    if not 0 <= last - first < _MOST_FILES:
        raise FileError(f"{spec}: expected a range of numbers such as {{000000..000009}}, the smaller number first")
    before, after, digits = spec[: found.start()], expand_braces(spec[found.end() :]), len(found[1])
    return [f"{before}{number:0{digits}}{rest}" for number in range(first, last + 1) for rest in after]
