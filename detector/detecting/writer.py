"""`DetectionWriter` writes the detections of many images to one folder, in the formats that the user chose."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self, get_args

from detector.arrays import ImageArray
from detector.detecting.formats import (
    OutputFormat,
    detection_rows,
    write_coco_results,
    write_counts,
    write_crops,
    write_csv,
    write_image_json,
    write_txt,
)
from detector.detecting.journal import Journal, JournalEntry
from detector.detections import Detections
from detector.errors import ConfigError, FileError
from detector.files import LOCK_NAME, free_name, locked, make_folder, write_errors
from detector.images import write_image
from detector.options import DEFAULT_DRAWING, DrawOptions

_LOG = logging.getLogger(__name__)

_TABLES: Set[OutputFormat] = {"csv", "counts"}
"""Formats with one file for all images."""

_SUBFOLDERS: Mapping[OutputFormat, str] = {"txt": "labels", "crops": "crops", "json": "json"}
"""Output format → name of the subfolder for the files of this format."""

_MAX_STEM_BYTES = 200
"""Largest number of bytes in the stem of an output file.

Most file systems allow 255 bytes for a name, and a number, a suffix and `.part` are added to the stem.
"""

_WRITTEN_SUFFIXES = (".jpg", ".jpeg", ".png")
"""Suffixes of image formats that every browser can show. Images in other formats are written as JPEG."""


class DetectionWriter:
    """Writes the detections of many images to one folder, image by image.

    `add` writes the files of one image and appends a line to the journal `detections.jsonl`, from which an interrupted
    run can be resumed. `close` writes the tables `detections.json` (COCO results) and, if requested, `detections.csv`
    and `counts.csv`.

    Use it as a context manager and call `close` in the `with` block. The folder is locked against other processes until
    `close` is called or the `with` block ends. The end of the `with` block does not write the tables.

    Args:
        folder: output folder; created if it does not exist.
        category_ids: category id of each class, for COCO results.
        sources: paths of the images that will be added; checked not to be in the output folder.
        formats: kinds of files to write in addition to the journal and detections.json.
        settings: all settings that the detections depend on, as values that JSON can represent; stored in the journal.
        skip_done: True: resume the earlier run in the folder. False: replace the results of an earlier run.
        class_names: name of each class, for counts.csv.
        drawing: what is drawn on the annotated images, and how. A legend may replace the class names.

    Attributes:
        done: names of the images that the earlier run completed; empty if `skip_done` is False.

    Raises:
        ConfigError: a format is unknown; or `skip_done` is True and the earlier run used other settings.
        FileError: the folder cannot be created; another process writes to the folder; or the folder contains a source,
            files that are not detections, or crops of an earlier run.
    """

    def __init__(
        self,
        folder: Path,
        category_ids: tuple[int, ...],
        *,
        sources: Iterable[Path] = (),
        formats: Set[OutputFormat] = frozenset({"images"}),
        settings: Mapping[str, Any] | None = None,
        skip_done: bool = False,
        class_names: Sequence[str] = (),
        drawing: DrawOptions = DEFAULT_DRAWING,
    ) -> None:
        if unknown := sorted(formats - set(get_args(OutputFormat))):
            known = ", ".join(get_args(OutputFormat))
            raise ConfigError(f"formats: unknown output format {unknown[0]!r}; known: {known}")
        self._folder, self._category_ids, self._formats = folder, category_ids, formats
        self._drawing = drawing
        self._results, self._csv = folder / "detections.json", folder / "detections.csv"
        self._counts, self._class_names = folder / "counts.csv", class_names
        _check_outside(sources, folder)
        with ExitStack() as lock:
            make_folder(folder)
            lock.enter_context(locked(folder, "writing detections"))
            self._journal = self._begin(settings or {}, skip_done)
            self._lock = lock.pop_all()
        self.done = self._journal.done

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.close()

    def add(self, name: Path, image: ImageArray, found: Detections) -> None:
        """Write the files of one image, and then append the line of the image to the journal.

        Args:
            name: name of the image, as in `Source.name`.
            image: [H, W, 3] RGB.
            found: detections of the image.

        Raises:
            FileError: a file cannot be written. The files of other images are unchanged.
        """
        height, width = image.shape[:2]
        entry: JournalEntry = {
            "image_id": self._journal.next_id,
            "file_name": str(name),
            "height": height,
            "width": width,
            "detections": detection_rows(found, self._category_ids),
        }
        if self._formats - _TABLES:
            entry["stem"] = stem = free_name(_shortened(name.stem), self._journal.stems)
            suffix = name.suffix.lower() if name.suffix.lower() in _WRITTEN_SUFFIXES else ".jpg"
        if "images" in self._formats:
            path = self._folder / f"{stem}{suffix}"
            with write_errors(path):
                write_image(path, found.draw_on(image, self._drawing, legend=True))
        if "txt" in self._formats:
            write_txt(self._folder / _SUBFOLDERS["txt"] / f"{stem}.txt", found, (height, width))
        if "crops" in self._formats:
            write_crops(self._folder / _SUBFOLDERS["crops"], Path(stem + suffix), image, found)
        if "json" in self._formats:
            path = self._folder / _SUBFOLDERS["json"] / f"{stem}.json"
            write_image_json(path, name, (height, width), found, self._category_ids)
        self._journal.append(entry)

    def close(self) -> None:
        """Write detections.json and the requested tables, each atomically; then unlock the folder.

        Raises:
            FileError: a file cannot be written.
        """
        with self._lock:
            write_coco_results(self._results, self._journal.entries())
            if "csv" in self._formats:
                write_csv(self._csv, self._journal.entries())
            if "counts" in self._formats:
                write_counts(self._counts, self._journal.entries(), self._class_names, self._category_ids)

    def _begin(self, settings: Mapping[str, Any], skip_done: bool) -> Journal:
        """Prepare the folder and return the opened journal.

        Check that the folder can be used, open the journal, delete the tables of an earlier run that is not resumed,
        and create the subfolders.
        """
        journal_path = self._folder / "detections.jsonl"
        self._check_folder(journal_path, skip_done)
        # The tables are written from the journal, so a resumed run may use or omit these formats.
        formats = sorted(self._formats - _TABLES)
        journal = Journal(journal_path, {**settings, "formats": formats}, resume=skip_done)
        for outdated in () if skip_done else (self._results, self._csv, self._counts):
            with write_errors(outdated):
                outdated.unlink(missing_ok=True)
        for output_format, name in _SUBFOLDERS.items():
            if output_format in self._formats:
                make_folder(self._folder / name)
        return journal

    def _check_folder(self, journal_path: Path, skip_done: bool) -> None:
        """Raise FileError if the folder contains files that are not results of a run, or crops of an earlier run."""
        folder, crops = self._folder, self._folder / _SUBFOLDERS["crops"]
        has_results = self._results.exists()
        with write_errors(folder):
            is_empty = all(path.name == LOCK_NAME for path in folder.iterdir())
            if not is_empty and not journal_path.exists() and not has_results:
                raise FileError(f"{folder}: the folder contains files that are not detections; pass another --out")
            if "crops" in self._formats and not skip_done and crops.is_dir() and any(crops.iterdir()):
                # An old crop that is not replaced by a new crop would look like a result of this run. Only the user may
                # delete old crops.
                raise FileError(
                    f"{crops}: the folder contains crops of an earlier run; move them, resume that run with "
                    "--skip-done, or pass another --out"
                )
        if has_results and not skip_done:
            _LOG.warning(
                "%s: the results of an earlier run in this folder are replaced; its other images stay there", folder
            )


def _check_outside(sources: Iterable[Path], folder: Path) -> None:
    """Raise FileError if a source is in the output folder or in one of its subfolders.

    A source that does not exist is skipped, because its name is generated. To save time, only one source per folder is
    checked.
    """
    for parent, source in {source.parent: source for source in sources if os.path.lexists(source)}.items():
        if parent.resolve().is_relative_to(folder.resolve()):
            raise FileError(f"{source}: this image is in the output folder; pass another --out")


def _shortened(stem: str) -> str:
    """Return the longest beginning of `stem` that has at most `_MAX_STEM_BYTES` bytes."""
    while len(os.fsencode(stem)) > _MAX_STEM_BYTES:
        stem = stem[:-1]
    return stem
