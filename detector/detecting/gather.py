"""`gather` joins the results of all shards of a list of images, and proves that each image is there exactly once.

The proof: the names in the journals and the names of the images that cannot be read, in the order of their positions,
have the hash of the list of all images, which each shard stored when it was started.
"""

import json
from array import array
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from detector.detecting.formats import OutputFormat
from detector.detecting.journal import JOURNAL_NAME, JournalEntry, read_entries, read_settings, setting_differences
from detector.detecting.parquet import check_parquet
from detector.detecting.shards import SHARD_KEYS, SHARD_NAME, ListHash
from detector.detecting.writer import table_names, write_tables
from detector.errors import ConfigError, FileError
from detector.files import read_json
from detector.options import Shard
from detector.output_folder import claim_folder
from detector.wording import few_names


@dataclass(frozen=True)
class GatherSummary:
    """What `gather` has joined.

    Attributes:
        shards: number of shards.
        images: number of images in the list.
        objects: number of objects in all images.
        failed: messages about the images that cannot be read.
    """

    shards: int
    images: int
    objects: int
    failed: tuple[str, ...]


@dataclass(frozen=True)
class _Failed:
    """An image that cannot be read."""

    file_name: str
    origin: str
    error: str


@dataclass(frozen=True)
class _FinishedShard:
    """The folder of a finished shard.

    Attributes:
        folder: path of the folder.
        shard: which shard.
        settings: settings in the journal.
        start: position of the first image in the list of all images.
        stop: position after the last image.
        class_names: name of each class.
        category_ids: category id of each class.
        failed: position → image that cannot be read.
    """

    folder: Path
    shard: Shard
    settings: dict[str, Any]
    start: int
    stop: int
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    failed: dict[int, _Failed]

    def results(self) -> Iterator[JournalEntry | _Failed]:
        """Yield the result of each image, in the order of the list.

        In a resumed shard, the entries of some images are not in the order of the list. So each line is found by its
        offset in the file, which takes 8 bytes of memory per image.

        Raises:
            FileError: an image has no result or several, or the journal is damaged.
        """
        path = self.folder / JOURNAL_NAME
        offsets = array("q", [0]) * (self.stop - self.start)
        with _open(path) as file:
            for offset, entry in read_entries(file, path):
                position = entry.get("position", -1)
                if not self.start <= position < self.stop or offsets[position - self.start] or position in self.failed:
                    raise FileError(
                        f"{path}: {entry['file_name']} has two results, or belongs to another shard; repeat shard "
                        f"{self.shard} without --skip-done"
                    )
                offsets[position - self.start] = offset
            for position, offset in enumerate(offsets, self.start):
                if position in self.failed:
                    yield self.failed[position]
                elif offset:
                    file.seek(offset)
                    yield json.loads(file.readline())
                else:
                    raise FileError(
                        f"{path}: image {position + 1} of the list has no result; repeat shard {self.shard} with "
                        "--skip-done"
                    )


def gather(
    folders: Sequence[Path], out: Path, *, formats: Set[OutputFormat] = frozenset(), overwrite: bool = False
) -> GatherSummary:
    """Join the results of all shards: write the journal, detections.json and the requested tables to one folder.

    These files are the same as those of a run without shards. Annotated images and other files for each image stay in
    the folders of the shards. The results are not kept in memory.

    Args:
        folders: folders of shards, or folders that contain them.
        out: output folder; created if it does not exist.
        formats: tables to write in addition to detections.json.
        overwrite: whether to replace files that this package did not write, or that were changed since.

    Raises:
        FileError: a shard is missing, unfinished, damaged or there twice; an image has no result or several; or a file
            cannot be written.
        ConfigError: the shards have different images, weights or options.
    """
    shards = _read_shards(folders)
    if out.resolve() in {shard.folder for shard in shards}:
        raise FileError(f"{out}: this is the folder of a shard; pass another --out")
    settings = shards[0].settings
    unsharded = {key: value for key, value in settings.items() if key not in SHARD_KEYS}
    if "parquet" in formats:
        check_parquet(())
    list_hash, image_id, objects, failed = ListHash(), 0, 0, list[str]()
    names = (JOURNAL_NAME, *table_names(formats))
    with claim_folder(out, "writing detections", names=names, overwrite=overwrite) as folder:
        with folder.beginning(JOURNAL_NAME) as part, part.open("xb") as file:
            file.write(json.dumps({"settings": unsharded | {"drawing": None, "formats": []}}).encode() + b"\n")
            for result in (result for shard in shards for result in shard.results()):
                if isinstance(result, _Failed):
                    list_hash.add(result.file_name, result.origin)
                    failed.append(result.error)
                    continue
                list_hash.add(result["file_name"], result.get("file", {}).get("origin", ""))
                image_id += 1
                objects += len(result["detections"])
                if settings.get("data") is None:
                    result["image_id"] = image_id  # as in a run without shards
                values = {key: value for key, value in result.items() if key not in ("position", "stem")}
                file.write(json.dumps(values).encode() + b"\n")
            if list_hash.hexdigest() != settings["list_sha256"]:
                raise FileError(
                    f"{shards[0].folder.parent}: the results are not those of the list of images with which the shards "
                    "were started, so a file there was changed; repeat all shards"
                )
            folder.remove_earlier()
        entries = partial(_entries, folder.path / JOURNAL_NAME)
        write_tables(folder, formats, entries, shards[0].class_names, shards[0].category_ids)
        folder.seal(JOURNAL_NAME)
    return GatherSummary(len(shards), settings["images"], objects, tuple(failed))


def _entries(path: Path) -> Iterator[JournalEntry]:
    """Yield the entries in a journal."""
    with _open(path) as file:
        yield from (entry for _, entry in read_entries(file, path))


def _read_shards(folders: Sequence[Path]) -> list[_FinishedShard]:
    """Return all shards of a run, in the order of the list of images.

    Raises:
        InputError: as for `gather`.
    """
    paths = dict.fromkeys(path.resolve() for folder in folders for path in _shard_folders(folder))
    shards: dict[int, _FinishedShard] = {}
    for path in paths:
        shard = _read_shard(path)
        first = next(iter(shards.values()), shard)
        if shard.shard.count != first.shard.count:
            raise FileError(
                f"{path} is a shard of {shard.shard.count}, but {first.folder} is a shard of {first.shard.count}; pass "
                "the folders of one run"
            )
        if differences := setting_differences(first.settings, {**shard.settings, "shard": first.settings["shard"]}):
            raise ConfigError(
                f"{path}: this shard had other images, weights or options than {first.folder} "
                f"({'; '.join(differences)}); detect again in its images as for the other shards"
            )
        if (other := shards.setdefault(shard.shard.index, shard)) is not shard:
            raise FileError(f"{path}: shard {shard.shard} is there twice, also as {other.folder}; pass one of them")
    first = next(iter(shards.values()))
    if missing := [str(Shard(index, first.shard.count)) for index in range(first.shard.count) if index not in shards]:
        raise FileError(
            f"{', '.join(map(str, folders))}: {len(missing)} of {first.shard.count} shards are missing: "
            f"{few_names(missing, most=20)}; run `detector detect` with --shard for each of them"
        )
    return [shards[index] for index in range(first.shard.count)]


def _shard_folders(folder: Path) -> list[Path]:
    """Return the folder itself if it is the folder of a shard, else the folders of shards in it.

    Raises:
        FileError: there are none.
    """
    if "shard" in read_settings(folder / JOURNAL_NAME):
        return [folder]
    if paths := sorted(folder.glob("shard-*-of-*")):
        return paths
    raise FileError(
        f"{folder}: no results of shards; expected a folder shard-I-of-N, which `detector detect --shard I/N` writes, "
        "or a folder that contains such folders"
    )


def _read_shard(folder: Path) -> _FinishedShard:
    """Read what is known about a shard.

    Raises:
        FileError: the shard is not finished, or one of its files is damaged.
    """
    settings = read_settings(folder / JOURNAL_NAME)
    if not (folder / SHARD_NAME).exists():
        shard = settings.get("shard", "I/N")
        raise FileError(
            f"{folder}: this shard is not finished; if it is not running, continue it: `detector detect` with "
            f"--shard {shard} --skip-done"
        )
    values = read_json(folder / SHARD_NAME)
    try:
        index, count = settings["shard"].split("/")
        shard = _FinishedShard(
            folder,
            Shard(int(index), int(count)),
            settings,
            int(values["start"]),
            int(values["stop"]),
            tuple(map(str, values["class_names"])),
            tuple(map(int, values["category_ids"])),
            {
                int(row["position"]): _Failed(str(row["file_name"]), str(row["origin"]), str(row["error"]))
                for row in values["failed"]
            },
        )
        assert shard.start <= shard.stop <= int(settings["images"])
        assert isinstance(settings["list_sha256"], str)
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError):
        raise FileError(f"{folder / SHARD_NAME}: damaged; repeat this shard without --skip-done") from None
    return shard


def _open(path: Path) -> BinaryIO:
    """Open a file to read its bytes.

    Raises:
        FileError: the file cannot be read.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None
