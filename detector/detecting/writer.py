"""`DetectionWriter` writes the detections of many images into one folder, in the formats the user chose."""

import logging
import os
from collections.abc import Iterable, Mapping, Set
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self, get_args

from detector.arrays import ImageArray
from detector.detecting.formats import (
    OutputFormat,
    detection_rows,
    write_coco_results,
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

_LOG = logging.getLogger(__name__)

_SUBFOLDERS: Mapping[OutputFormat, str] = {"txt": "labels", "crops": "crops", "json": "json"}
"""Output format → the subfolder for its files."""

_MAX_STEM_BYTES = 200
"""Longest stem of an output file: a number, a suffix and `.part` are added, and most systems allow 255 bytes."""

_WRITTEN_SUFFIXES = (".jpg", ".jpeg", ".png")
"""Image formats that every browser shows; images of other formats are written as JPEG."""


class DetectionWriter:
    """Writes the detections of many images into one folder, image by image; `close` writes the tables.

    The folder is locked against other processes until `close` or the end of the `with` block, which writes no tables.
    Written are the journal `detections.jsonl`, from which an interrupted run can be resumed, at the end
    `detections.json` (COCO results), and the chosen formats.

    Args:
        folder: output folder; created if it does not exist.
        category_ids: category id of each class, for COCO results.
        sources: paths of the images that will be added, to check that none of them is in the folder.
        formats: which further files to write.
        settings: everything that the detections depend on, for the journal; values that JSON can represent.
        skip_done: whether to resume the run in the folder; otherwise its results are replaced.

    Attributes:
        done: names of the images that a previous run has completed.

    Raises:
        ConfigError: an unknown format; or, to resume, the previous run used other settings.
        FileError: the folder cannot be created, another process writes to it, it contains other files, a source or
            crops of an earlier run.
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
    ) -> None:
        if unknown := sorted(formats - set(get_args(OutputFormat))):
            known = ", ".join(get_args(OutputFormat))
            raise ConfigError(f"formats: unknown output format {unknown[0]!r}; known: {known}")
        self._folder, self._category_ids, self._formats = folder, category_ids, formats
        self._results, self._csv = folder / "detections.json", folder / "detections.csv"
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
        """Write the files of one image, then its line in the journal.

        Args:
            name: name of the source.
            image: [H, W, 3] RGB.
            found: its detections.

        Raises:
            FileError: a file cannot be written; the files of other images are unchanged.
        """
        height, width = image.shape[:2]
        entry: JournalEntry = {
            "image_id": self._journal.next_id,
            "file_name": str(name),
            "height": height,
            "width": width,
            "detections": detection_rows(found, self._category_ids),
        }
        if self._formats - {"csv"}:
            entry["stem"] = stem = free_name(_shortened(name.stem), self._journal.stems)
            suffix = name.suffix.lower() if name.suffix.lower() in _WRITTEN_SUFFIXES else ".jpg"
        if "images" in self._formats:
            path = self._folder / f"{stem}{suffix}"
            with write_errors(path):
                write_image(path, found.draw_on(image))
        if "txt" in self._formats:
            write_txt(self._folder / _SUBFOLDERS["txt"] / f"{stem}.txt", found, (height, width))
        if "crops" in self._formats:
            write_crops(self._folder / _SUBFOLDERS["crops"], Path(stem + suffix), image, found)
        if "json" in self._formats:
            path = self._folder / _SUBFOLDERS["json"] / f"{stem}.json"
            write_image_json(path, name, (height, width), found, self._category_ids)
        self._journal.append(entry)

    def close(self) -> None:
        """Write detections.json, and detections.csv if wanted, each atomically; then unlock the folder.

        Raises:
            FileError: a file cannot be written.
        """
        with self._lock:
            write_coco_results(self._results, self._journal.entries())
            if "csv" in self._formats:
                write_csv(self._csv, self._journal.entries())

    def _begin(self, settings: Mapping[str, Any], skip_done: bool) -> Journal:
        """Check that the folder can be used, open the journal, remove outdated tables, and create the subfolders."""
        journal_path = self._folder / "detections.jsonl"
        self._check_folder(journal_path, skip_done)
        # The table is made from the journal, so a resumed run may add it or leave it out.
        formats = sorted(self._formats - {"csv"})
        journal = Journal(journal_path, {**settings, "formats": formats}, resume=skip_done)
        for outdated in () if skip_done else (self._results, self._csv):
            with write_errors(outdated):
                outdated.unlink(missing_ok=True)
        for output_format, name in _SUBFOLDERS.items():
            if output_format in self._formats:
                make_folder(self._folder / name)
        return journal

    def _check_folder(self, journal_path: Path, skip_done: bool) -> None:
        """Raise FileError if the folder contains files that this run must not mix with or replace."""
        folder, crops = self._folder, self._folder / _SUBFOLDERS["crops"]
        has_results = self._results.exists()
        with write_errors(folder):
            is_empty = all(path.name == LOCK_NAME for path in folder.iterdir())
            if not is_empty and not journal_path.exists() and not has_results:
                raise FileError(f"{folder}: contains files that are not detections; give another --out")
            if "crops" in self._formats and not skip_done and crops.is_dir() and any(crops.iterdir()):
                # Old crops without a new one of the same name would look like results of this run. Only the user can
                # decide to delete them.
                raise FileError(
                    f"{crops}: contains crops of an earlier run: move them away, resume that run with --skip-done, "
                    "or give another --out"
                )
        if has_results and not skip_done:
            _LOG.warning("%s: replacing the results of an earlier run", folder)


def _check_outside(sources: Iterable[Path], folder: Path) -> None:
    """Raise FileError if a source is in the output folder.

    Sources that do not exist have generated names and are skipped. One source is checked for each folder.
    """
    for parent, source in {source.parent: source for source in sources if os.path.lexists(source)}.items():
        if parent.resolve().is_relative_to(folder.resolve()):
            raise FileError(f"{source}: this source is in the output folder; give another --out")


def _shortened(stem: str) -> str:
    """Return a stem cut to `_MAX_STEM_BYTES`, without splitting a character."""
    while len(os.fsencode(stem)) > _MAX_STEM_BYTES:
        stem = stem[:-1]
    return stem
