"""Images in tar archives, such as the shards of a WebDataset.

Listing an archive reads its headers and skips the content of the members. An image is then read at its offset.
"""

import logging
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from detector.arrays import ImageArray
from detector.errors import FileError, ImageError
from detector.images import IMAGE_SUFFIXES, read_image
from detector.media.packed_images import NamesInFile, PackedImage, PackedImages, check_image_size
from detector.options import ReadOptions
from detector.wording import few_names, plural

_LOG = logging.getLogger(__name__)

_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True, slots=True)
class _Member:
    """A file in an archive.

    Attributes:
        name: its name.
        offset: offset of its header in bytes; of a hard link, of the header of the file it leads to.
        stored_name: the name in this header.
        size: size of its content in bytes.
    """

    name: str
    offset: int
    stored_name: str
    size: int


def list_tar(path: Path, options: ReadOptions) -> PackedImages:
    """List the images in a tar archive, in their order; no image is read.

    As in WebDataset, the extension of a file begins at the first point of its name: `000.seg.png` has the extension
    `seg.png` and belongs to `000.jpg`, so it is probably no photo.

    Args:
        path: the archive.
        options: `image_column` is the extension of the images, or a pattern such as `*png`; None: every extension of an
            image without a further point. `max_pixels` is the largest number of pixels of an image that is decoded.

    Raises:
        FileError: the file is no tar archive, or is damaged or truncated; or it contains files but no images.
    """
    names, images = NamesInFile(path), list[PackedImage]()
    others: Counter[str] = Counter()
    for member in _members(path):
        inner = PurePosixPath(member.name)
        extension = inner.name.partition(".")[2].lower()
        if inner.name.startswith("."):  # metadata of macOS, hidden files
            continue
        if _is_selected(extension, options.image_column):
            read = partial(_read_member, path, member, options.max_pixels)
            images.append(PackedImage(names.add(member.name, len(images)), read))
        else:
            others[extension] += 1
    if not images and others:
        wanted = "images" if options.image_column is None else f"files with the extension {options.image_column}"
        raise FileError(
            f"{path}: no {wanted} in this archive, which has files with the extensions {_shown(others)}; pass the "
            "extension of the images with --image-column, as in --image-column left.jpg or --image-column '*jpg'"
        )
    unused = Counter({key: n for key, n in others.items() if f".{key.rpartition('.')[2]}" in IMAGE_SUFFIXES})
    if unused and options.image_column is None:
        _LOG.warning(
            "%s: skipped %s with the extensions %s; to detect in these, pass --image-column with the extension",
            path, plural(unused.total(), "image"), _shown(unused),
        )  # fmt: skip
    if names.repeated:
        _LOG.warning(
            "%s: %s an image before it has, so a number was added: %s is %s in the results",
            path, plural(names.repeated, "image has a name that", "images have a name that"), *names.renamed,
        )  # fmt: skip
    return PackedImages(images)


def _is_selected(extension: str, pattern: str | None) -> bool:
    """Return whether a file with this extension is an image to read."""
    return f".{extension}" in IMAGE_SUFFIXES if pattern is None else fnmatch(extension, pattern.lower().lstrip("."))


def _shown(extensions: Counter[str]) -> str:
    """Return the most frequent extensions for a message."""
    return few_names([f"{extension or 'none'} ({number})" for extension, number in extensions.most_common()], most=5)


def _members(path: Path) -> Iterator[_Member]:
    """Yield the files in an archive. A hard link to an earlier file of the archive is that file under another name.

    Raises:
        FileError: as for `list_tar`.
    """
    links, count = 0, 0
    regular: dict[str, _Member] = {}
    try:
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                raise FileError(f"{path}: the file is empty; expected a tar archive with images")
            with closing(_open(file)) as archive:
                while (info := archive.next()) is not None:
                    count += 1
                    archive.members = []  # type: ignore[attr-defined] # else it keeps all headers
                    if info.isreg():
                        regular[info.name] = member = _Member(info.name, info.offset, info.name, info.size)
                        yield member
                    elif info.islnk() and info.linkname in regular:
                        yield replace(regular[info.linkname], name=info.name)
                    elif info.islnk() or info.issym():
                        links += 1
                _check_end(file, archive.offset, path, count)
    except (tarfile.TarError, EOFError, ValueError) as error:
        if count:
            raise FileError(
                f"{path}: the archive is damaged or incomplete in or after file {count} ({error}); copy or write it "
                "again"
            ) from None
        raise FileError(
            f"{path}: no tar archive ({error}); expected an uncompressed archive with images, such as a WebDataset "
            "shard. If it is compressed, decompress it: gunzip, unzstd"
        ) from None
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror or error})") from None
    if links:
        _LOG.warning("%s: skipped %s; expected files", path, plural(links, "link"))


def _check_end(file: BinaryIO, offset: int, path: Path, count: int) -> None:
    """Raise FileError if the headers end before the archive does; `tarfile` takes a damaged header for the end.

    Args:
        file: the archive.
        offset: offset after the last header and its content.
        path: path of the archive.
        count: number of members that were found.
    """
    file.seek(offset)
    head = file.read(_BLOCK)
    if head.strip(b"\0"):
        raise FileError(f"{path}: the header after {plural(count, 'file')} is damaged; copy or write the archive again")
    if len(head) < _BLOCK:
        _LOG.warning("%s: the end mark of the archive is missing, so files may be missing: it has %d", path, count)
    while chunk := file.read(2**20):
        if chunk.strip(b"\0"):
            raise FileError(
                f"{path}: there is more data after the end of the archive; if archives were joined with cat, pass them "
                "separately, or join them with tar --concatenate"
            )


def _read_member(path: Path, member: _Member, max_pixels: int) -> ImageArray:
    """Decode an image in an archive.

    Raises:
        ImageError: it cannot be decoded, or the archive was changed since it was listed.
        FileError: the archive cannot be read.
    """
    name = f"{path}/{member.name}"
    check_image_size(name, member.size)
    try:
        with path.open("rb") as file:
            file.seek(member.offset)
            with closing(_open(file)) as archive:
                info = archive.next()
                content = archive.extractfile(info) if info is not None and info.isreg() else None
                if info is None or content is None or (info.name, info.size) != (member.stored_name, member.size):
                    raise tarfile.ReadError("another file is at its place")
                data = content.read()
    except tarfile.TarError as error:
        raise ImageError(f"{name}: the archive was changed since it was listed ({error}); repeat the command") from None
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror or error})") from None
    return read_image(data, name=name, max_pixels=max_pixels, accept_truncated=True)


def _open(file: BinaryIO) -> tarfile.TarFile:
    """Open the archive that begins at the position of a file. Names are decoded like those of files."""
    return tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape")
