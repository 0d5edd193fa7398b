"""`DetectionWriter` writes the detections of many images to one folder, in the formats that the user chose."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Self, get_args

from detector.arrays import ImageArray
from detector.detecting.formats import (
    OutputFormat,
    detection_rows,
    image_json,
    write_coco_results,
    write_counts,
    write_crops,
    write_csv,
    yolo_text,
)
from detector.detecting.journal import JOURNAL_NAME, FileState, Journal, JournalEntry, file_state
from detector.detecting.parquet import check_parquet, write_parquet
from detector.detecting.shards import SHARD_NAME, ShardInputs
from detector.detections import Detections
from detector.errors import ConfigError, FileError, InputError
from detector.files import RESERVED_NAME, free_name, json_bytes
from detector.images import write_image
from detector.media.sources import Source
from detector.options import DEFAULT_DRAWING, DrawOptions
from detector.output_folder import OutputFolder, as_output_folder
from detector.url_names import with_urls

_RESULTS, _CROPS = "detections.json", "crops"

_TABLES: Mapping[OutputFormat, str] = {
    "csv": "detections.csv",
    "counts": "counts.csv",
    "parquet": "detections.parquet",
}
"""Formats with one file for all images → name of the file."""

_PER_IMAGE: Set[OutputFormat] = {"images", "txt", "crops", "json"}
"""Formats with files for each image."""

_MAX_STEM_BYTES = 200
"""Largest number of bytes in the stem of an output file.

Most file systems allow 255 bytes for a name, and a number and a suffix are added to the stem.
"""

_WRITTEN_SUFFIXES = (".jpg", ".jpeg", ".png")
"""Suffixes of image formats that every browser can show. Images in other formats are written as JPEG."""


class DetectionWriter:
    """Writes the detections of many images to one folder, image by image.

    `add` writes the files of one image and appends a line to the journal `detections.jsonl`, from which an interrupted
    run can be resumed. `close` writes the tables `detections.json` (COCO results) and, if requested, `detections.csv`
    and `counts.csv`.

    The folder holds the results of one run: the first `add` removes the unchanged files of an earlier run, unless this
    run resumes it. Before that, no file is changed.

    Use it as a context manager and call `close` in the `with` block. The folder is locked against other processes until
    `close` is called or the `with` block ends. The end of the `with` block does not write the tables.

    Args:
        folder: output folder; created if it does not exist.
        category_ids: category id of each class, for COCO results.
        class_names: name of each class, for counts.csv.
        sources: paths of the images that will be added; checked not to be in the output folder. So all names of output
            files are known, and checked, before the first image is added.
        formats: kinds of files to write in addition to the journal and detections.json.
        settings: all settings that the detections depend on, as values that JSON can represent; stored in the journal.
        skip_done: True: resume the earlier run in the folder. False: replace the results of an earlier run.
        image_ids: name of an image → its id in the results. None: 1, 2, ... in the order of `add`.
        drawing: what is drawn on the annotated images, and how. A legend may replace the class names.
        origins: name of an image → its `Source.origin`, if it has one.
        containers: name of an image in a Parquet file or tar archive → path of this file.
        shard: the shard whose images are added; None: all images are.

    Attributes:
        done: names of the images that the earlier run completed; empty if `skip_done` is False.

    Raises:
        ConfigError: a format is unknown; or `skip_done` is True and the earlier run used other settings.
        FileError: the folder cannot be created; another process writes to the folder; the folder contains a source; or
            a file that this package did not write, or that was changed since, has the name of an output file.
    """

    def __init__(
        self,
        folder: Path | OutputFolder,
        category_ids: tuple[int, ...],
        *,
        class_names: Sequence[str] = (),
        sources: Iterable[Path] = (),
        formats: Set[OutputFormat] = frozenset({"images"}),
        settings: Mapping[str, Any] | None = None,
        skip_done: bool = False,
        image_ids: Mapping[str, int] | None = None,
        drawing: DrawOptions = DEFAULT_DRAWING,
        origins: Mapping[str, str] | None = None,
        containers: Mapping[str, Path] | None = None,
        shard: ShardInputs | None = None,
    ) -> None:
        if unknown := sorted(formats - set(get_args(OutputFormat))):
            known = ", ".join(get_args(OutputFormat))
            raise ConfigError(f"formats: unknown output format {unknown[0]!r}; known: {known}")
        self._category_ids, self._formats, self._image_ids = category_ids, formats, image_ids
        self._class_names, self._drawing = class_names, drawing
        self._has_begun, self._resumes = False, skip_done
        self._shard, self._failed = shard, list[dict[str, Any]]()
        first = shard.start if shard else 0
        self._positions = (
            {with_urls(str(source.name)): first + k for k, source in enumerate(shard.sources)} if shard else {}
        )
        sources = list(sources)
        if "parquet" in formats:
            check_parquet(map(str, sources))
        self._files = _file_states(sources, origins or {}, containers or {})
        inputs = dict.fromkeys((containers or {}).get(str(source), source) for source in sources)
        _check_outside(inputs, folder.path if isinstance(folder, OutputFolder) else folder)
        with ExitStack() as stack:
            self._folder = stack.enter_context(as_output_folder(folder, "writing detections"))
            first_line = journal_settings(settings or {}, formats)
            self._journal = Journal(self._folder, first_line, resume=skip_done, files=self._files)
            self.done = self._journal.done
            self._stems = self._plan(sources)
            self._check_folder()
            self._stack = stack.pop_all()

    @property
    def folder(self) -> Path:
        """Path of the output folder."""
        return self._folder.path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def add(self, name: Path, image: ImageArray, found: Detections) -> None:
        """Write the files of one image, and then append the line of the image to the journal.

        Args:
            name: name of the image, as in `Source.name`.
            image: [H, W, 3] RGB.
            found: detections of the image.

        Raises:
            FileError: a file cannot be written. The files of other images are unchanged.
        """
        self._begin()
        shown = with_urls(str(name))
        image_hw = image.shape[0], image.shape[1]
        entry: JournalEntry = {
            "image_id": self._image_id(shown),
            "file_name": shown,
            "height": image_hw[0],
            "width": image_hw[1],
            "detections": detection_rows(found, self._category_ids),
        }
        if (state := self._files.get(shown)) is not None:
            entry["file"] = state
        if self._shard is not None:
            entry["position"] = self._positions[shown]
        if self._formats & _PER_IMAGE:
            entry["stem"] = stem = self._stems.pop(shown, None) or self._free_stem(name)
            suffix = _suffix(name)
        if "images" in self._formats:
            with self._folder.writing(f"{stem}{suffix}", suffix) as part:
                write_image(part, found.draw_on(image, self._drawing, legend=True))
        if "txt" in self._formats:
            text = yolo_text(found, image_hw, with_scores="conf" in self._formats)
            self._folder.write(f"labels/{stem}.txt", text.encode())
        if "crops" in self._formats:
            write_crops(self._folder, PurePosixPath(stem + suffix), image, found)
        if "json" in self._formats:
            text = image_json(shown, image_hw, found, self._category_ids)
            self._folder.write(f"json/{stem}.json", text.encode())
        self._journal.append(entry)

    def add_failed(self, source: Source, error: InputError) -> None:
        """Remember an image that cannot be read; for a shard, `close` writes it to shard.json."""
        if self._shard is not None:
            shown = with_urls(str(source.name))
            failed = {"position": self._positions[shown], "file_name": shown, "origin": source.origin}
            self._failed.append({**failed, "error": str(error)})

    def close(self) -> None:
        """Write detections.json and the requested tables, each atomically; then unlock the folder.

        If no image was added, the results of an earlier run stay. The last file of a shard is shard.json.

        Raises:
            FileError: a file cannot be written.
        """
        with self._stack:
            has_failed = self._shard is None or bool(self._shard.sources)  # a shard may be empty
            if not self._has_begun and self._folder.has_earlier and not self._resumes and has_failed:
                return
            self._begin()
            write_tables(self._folder, self._formats, self._journal.entries, self._class_names, self._category_ids)
            self._folder.seal(JOURNAL_NAME)
            if self._shard is not None:
                classes = {"class_names": self._class_names, "category_ids": self._category_ids}
                part = {"start": self._shard.start, "stop": self._shard.start + len(self._shard.sources)}
                self._folder.write(SHARD_NAME, json_bytes({**part, **classes, "failed": self._failed}), durable=True)

    def _image_id(self, name: str) -> int:
        """Return the id of an image in the results."""
        if self._image_ids is not None:
            return self._image_ids[name]
        return self._journal.next_id if self._shard is None else self._positions[name] + 1

    def _plan(self, sources: Iterable[Path]) -> dict[str, str]:
        """Return the name of each image that is not done → name of its output files without suffix."""
        if not self._formats & _PER_IMAGE:
            return {}
        shown = ((with_urls(str(name)), name) for name in sources)
        return {text: self._free_stem(name) for text, name in shown if text not in self.done}

    def _free_stem(self, name: Path) -> str:
        """Return a name for the output files of an image, without suffix, that no other image has."""
        return free_name(_output_stem(name.stem), self._journal.stems)

    def _check_folder(self) -> None:
        """Raise FileError if the folder contains files that are not results of a run and would be mixed with them."""
        folder, formats = self._folder, self._formats
        if not self._journal.is_recognized and not folder.overwrite and folder.is_foreign():
            raise FileError(
                f"{folder.path}: the folder contains files that are not detections; pass another --out, or add "
                "--overwrite to replace the files of the same names"
            )
        names = table_names(formats)
        names += [] if self._shard is None else [SHARD_NAME]
        names += [] if self._journal.is_recognized else [JOURNAL_NAME]
        for name, stem in self._stems.items():
            names += [stem + _suffix(Path(name))] if "images" in formats else []
            names += [f"labels/{stem}.txt"] if "txt" in formats else []
            names += [f"json/{stem}.json"] if "json" in formats else []
        folder.claim(names)
        if "crops" in formats:
            # The names of crops are not known before. Crops of other programs would look like results of this run.
            folder.claim([f"{_CROPS}/{_CROPS}", *(n for n in folder.foreign_files() if n.startswith(f"{_CROPS}/"))])

    def _begin(self) -> None:
        """Before the first result: remove the outdated files of an earlier run, and write the journal."""
        if self._has_begun:
            return
        if self._resumes:
            self._folder.remove(SHARD_NAME)
            self._remove_outdated()
        else:
            self._folder.remove_earlier()
        self._journal.begin()
        self._has_begun = True

    def _remove_outdated(self) -> None:
        """Remove the files of images that the journal does not contain: interrupted, or changed since then."""
        done = {entry["stem"] for entry in self._journal.kept_entries() if "stem" in entry}
        for name in self._folder.names:
            path = PurePosixPath(name)
            kind = path.parts[0] if path.parts[1:] else "images"
            is_of_image = kind in (_CROPS, "labels", "json") or (kind == "images" and path.suffix in _WRITTEN_SUFFIXES)
            stem = path.stem.rpartition("-")[0] if kind == _CROPS else path.stem
            if is_of_image and stem not in done:
                self._folder.remove(name)


def journal_settings(settings: Mapping[str, Any], formats: Set[OutputFormat]) -> dict[str, Any]:
    """Return the settings in the journal: those of the detections, and the formats that have files for each image.

    The tables are written from the journal, so a resumed run may use or omit these formats.
    """
    return {**settings, "formats": sorted(formats - _TABLES.keys())}


def table_names(formats: Set[OutputFormat]) -> list[str]:
    """Return the names of the files for all images: detections.json and the requested tables."""
    return [_RESULTS, *(name for table, name in _TABLES.items() if table in formats)]


def write_tables(
    folder: OutputFolder,
    formats: Set[OutputFormat],
    entries: Callable[[], Iterator[JournalEntry]],
    class_names: Sequence[str],
    category_ids: Sequence[int],
) -> None:
    """Write detections.json and the requested tables, each atomically.

    Args:
        folder: the output folder.
        formats: output formats; those that are not tables are ignored.
        entries: returns the entries of the journal, each time from the first one.
        class_names: C names of classes.
        category_ids: C category ids.

    Raises:
        FileError: a file cannot be written.
    """
    with folder.writing(_RESULTS) as part:
        write_coco_results(part, entries())
    if "csv" in formats:
        with folder.writing(_TABLES["csv"]) as part:
            write_csv(part, entries())
    if "counts" in formats:
        with folder.writing(_TABLES["counts"]) as part:
            write_counts(part, entries(), class_names, category_ids)
    if "parquet" in formats:
        with folder.writing(_TABLES["parquet"]) as part:
            write_parquet(part, entries())


def _file_states(
    sources: Iterable[Path], origins: Mapping[str, str], containers: Mapping[str, Path]
) -> dict[str, FileState]:
    """Return name → state of the file of each image that has one, or whose name is generated.

    Args:
        sources: names of the images.
        origins: as for `DetectionWriter`.
        containers: as for `DetectionWriter`.
    """

    @cache
    def container_state(path: Path, origin: str) -> FileState | None:
        state = file_state(path)
        return FileState(**state, origin=origin) if state is not None and origin else state

    states: dict[str, FileState] = {}
    for source in sources:
        shown = with_urls(name := str(source))
        origin = origins.get(shown, "")
        if name in containers:
            state = container_state(containers[name], origin)
        else:  # a generated name is not the path of a file, also if a file has this name
            state = FileState(origin=origin) if origin else file_state(source)
        if state is not None:
            states[shown] = state
    return states


def _check_outside(sources: Iterable[Path], folder: Path) -> None:
    """Raise FileError if a source is in the output folder or in one of its subfolders.

    A source that does not exist is skipped, because its name is generated. To save time, only one source per folder is
    checked, besides links.
    """
    own = folder.resolve()
    existing = [source for source in sources if os.path.lexists(source)]
    one_per_folder = {source.parent: source for source in existing}
    for source in (*one_per_folder.values(), *(source for source in existing if source.is_symlink())):
        if source.parent.resolve().is_relative_to(own) or source.resolve().is_relative_to(own):
            raise FileError(f"{source}: this image is in the output folder; pass another --out")


def _suffix(name: Path) -> str:
    """Return the suffix of the output images of an image."""
    return name.suffix.lower() if name.suffix.lower() in _WRITTEN_SUFFIXES else ".jpg"


def _output_stem(stem: str) -> str:
    """Return the name of the output files of an image without suffix: the stem of the image, if that is possible.

    A stem that is too long is shortened. A name that is hidden, empty or reserved on some system is changed.

    >>> [_output_stem(stem) for stem in ("a b", ".", "..", " ", ".a", "con", "con.1", "console")]
    ['a b', '_', '_', '_', '_a', '_con', '_con.1', 'console']
    """
    while len(os.fsencode(stem)) > _MAX_STEM_BYTES:
        stem = stem[:-1]
    visible = stem.lstrip(". ") if stem.startswith(".") or not stem.strip() else stem
    return visible if visible == stem and not RESERVED_NAME.match(stem) else f"_{visible}"
