"""Shards: parts of a list of images that several processes or machines process, each into a folder of its own.

A shard is a range of complete batches, because the last digits of a prediction may depend on the other images of the
batch. So the shards together give exactly the results of one process.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detector.detecting.journal import JOURNAL_NAME, read_settings, setting_differences
from detector.errors import ConfigError, FileError
from detector.media.sources import Source
from detector.options import Shard
from detector.url_names import with_urls
from detector.version import VERSION

SHARD_NAME = "shard.json"
"""Name of the file that is written when a shard is finished."""

SHARD_KEYS = ("shard", "images", "list_sha256", "version")
"""Settings that only the journal of a shard has. All but `shard` are equal in all shards of a run."""


@dataclass(frozen=True)
class ShardInputs:
    """The images of one shard.

    Attributes:
        shard: which shard.
        sources: the images of the shard.
        start: position of the first of them in the list of all images, from 0.
        total: number of images in the list.
        list_sha256: hash of the list, as `ListHash` computes it.
    """

    shard: Shard
    sources: Sequence[Source]
    start: int
    total: int
    list_sha256: str

    @property
    def settings(self) -> dict[str, Any]:
        """Settings for the journal, with the keys `SHARD_KEYS`."""
        return dict(zip(SHARD_KEYS, (str(self.shard), self.total, self.list_sha256, VERSION), strict=True))


class ListHash:
    """SHA-256 hash of a list of images: of their names as given, and of their origins, in the order of the list."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, name: str, origin: str) -> None:
        """Add the next image of the list: its `Source.name` and `Source.origin`."""
        self._hash.update(os.fsencode(name) + b"\0" + origin.encode() + b"\0")

    def hexdigest(self) -> str:
        """Return the hash as 64 hexadecimal digits."""
        return self._hash.hexdigest()


def take_shard(sources: Sequence[Source], shard: Shard, batch_size: int) -> ShardInputs:
    """Return the images of one shard: a range of complete batches, nearly as many as in each other shard.

    Args:
        sources: the list of all images; the same, in the same order, for each shard.
        shard: which shard.
        batch_size: each `batch_size` consecutive images of the list are a batch.
    """
    list_hash = ListHash()
    for source in sources:
        list_hash.add(with_urls(str(source.name)), source.origin)
    batches = -(-len(sources) // batch_size)
    start, stop = (batches * index // shard.count * batch_size for index in (shard.index, shard.index + 1))
    return ShardInputs(shard, sources[start:stop], start, len(sources), list_hash.hexdigest())


def shard_folder(out: Path, shard: Shard) -> Path:
    """Return the folder for the results of a shard."""
    return out / f"shard-{shard.index}-of-{shard.count}"


def check_outside(sources: Iterable[Source], out: Path) -> None:
    """Raise FileError if an image is in the folder that contains the folders of all shards."""
    own = out.resolve()
    for parent in {source.name.parent for source in sources}:
        if parent.resolve().is_relative_to(own):
            raise FileError(f"{parent}: this folder with images is in the output folder {out}; pass another --out")


def check_other_shards(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raise ConfigError if another shard beside `folder` was started with other images, weights or options.

    `detector gather` would refuse to join them after the work. Only one other shard is checked: it was checked too.

    Args:
        folder: folder of this shard, as `shard_folder` returns it.
        settings: settings in the journal of this shard.
    """
    count = folder.name.rpartition("-")[2]
    for other in folder.parent.glob(f"shard-*-of-{count}/{JOURNAL_NAME}"):
        if other.parent.name == folder.name or not (theirs := read_settings(other)):
            continue
        if differences := setting_differences(
            theirs, {**json.loads(json.dumps(settings)), "shard": theirs.get("shard")}
        ):
            raise ConfigError(
                f"{other.parent}: this shard was started with other images, weights or options "
                f"({'; '.join(differences)}); all shards need the same list of images, in the same order, and the same "
                "options. Pass another --out, or remove the folders of the earlier run"
            )
        return
