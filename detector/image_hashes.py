"""Hashes of image files, by which weights remember the images that they were trained on and those that were held back.

A hash depends on the bytes of a file only, so a copy of a dataset has the same hashes. A hash has eight bytes: among
ten million images, the probability that any two different files have the same hash is 3e-6.
"""

import base64
import binascii
import hashlib
import stat
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from detector.mirror import open_file, read_threads

HASH_BYTES = 8
"""Length of a hash."""


@dataclass(frozen=True)
class ImageHashes:
    """Hashes of the images of a training run; both sets are empty if the images were not files.

    Attributes:
        train: hashes of the training images.
        val: hashes of the images on which the run was evaluated, which were not used for training.
    """

    train: frozenset[bytes] = frozenset()
    val: frozenset[bytes] = frozenset()

    def with_train(self, hashes: Iterable[bytes]) -> "ImageHashes":
        """Return a copy with more training images."""
        train = self.train | frozenset(hashes)
        return ImageHashes(train, self.val - train)

    def to_json(self) -> dict[str, str]:
        """Return both sets as base64 text: the sorted hashes, one after the other."""
        return {"train": _pack(self.train), "val": _pack(self.val)}


def hashes_of_all(members: Sequence[ImageHashes]) -> ImageHashes:
    """Return the hashes of several weights that are used as one: an ensemble, or an average.

    An image on which any of them was trained is a training image. Only images that all have held back are new for all.

    Args:
        members: the hashes of each of the weights, at least one.
    """
    held_back = frozenset.intersection(*(member.val for member in members))
    return ImageHashes(val=held_back).with_train(frozenset().union(*(member.train for member in members)))


NO_IMAGES = ImageHashes()
"""Of weights that do not store hashes."""


def hashes_from_json(values: object) -> ImageHashes:
    """Return the hashes that `ImageHashes.to_json` wrote; the values may come from an untrusted file.

    Raises:
        ValueError: the values have another form.
    """
    if not isinstance(values, dict) or values.keys() != {"train", "val"}:
        raise ValueError("image_hashes: expected the keys train and val")
    return ImageHashes(_unpack(values["train"]), _unpack(values["val"]))


def _pack(hashes: Iterable[bytes]) -> str:
    """Return hashes as base64 text."""
    return base64.b64encode(b"".join(sorted(hashes))).decode()


def _unpack(text: object) -> frozenset[bytes]:
    """Return the hashes in a base64 text; raise ValueError if it is not such a text."""
    if not isinstance(text, str):
        raise ValueError("image_hashes: expected base64 text")
    try:
        packed = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"image_hashes: {error}") from None
    if len(packed) % HASH_BYTES:
        raise ValueError(f"image_hashes: {len(packed)} bytes, expected a multiple of {HASH_BYTES}")
    return frozenset(packed[i : i + HASH_BYTES] for i in range(0, len(packed), HASH_BYTES))


def hash_file(path: Path) -> bytes | None:
    """Return the hash of the bytes of a file; None if it cannot be read or is not a regular file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return None  # a pipe would block
        with open_file(path) as file:
            return hashlib.file_digest(file, _hasher).digest()
    except (OSError, ValueError):
        return None


def _hasher() -> "hashlib.blake2b":
    """Return the hash function of `hash_file`."""
    return hashlib.blake2b(digest_size=HASH_BYTES)


def hash_files(paths: Iterable[Path]) -> Mapping[Path, bytes]:
    """Return path → hash for each file that can be read. Several threads read the files."""
    paths = list(paths)
    with ThreadPoolExecutor(max_workers=read_threads()) as pool:
        hashes = pool.map(hash_file, paths)
        return {path: digest for path, digest in zip(paths, hashes, strict=True) if digest is not None}
