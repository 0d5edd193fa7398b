"""The journal of a detection run, `detections.jsonl`, with which a stopped run can be resumed.

Its first line contains the settings. Every other line belongs to one image and is appended after all other files of
that image have been written. So whenever a run is stopped, the images in the journal are complete.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from detector.errors import ConfigError, FileError, location
from detector.files import append_line, write_errors

_LOG = logging.getLogger(__name__)

DetectionRow = TypedDict(
    "DetectionRow",
    {"class": str, "category_id": int, "bbox": list[float], "score": float, "track_id": NotRequired[int]},
)
"""A detection: class name, category id, box [x, y, w, h] in pixels as in COCO, confidence score, track id in videos."""


class JournalEntry(TypedDict):
    """The line of one image.

    Attributes:
        image_id: 1, 2, ... in the order of the lines.
        file_name: name of the source.
        height: of the image in pixels.
        width: of the image in pixels.
        stem: stem of the image's output files; missing if it has none.
        detections: best first.
    """

    image_id: int
    file_name: str
    height: int
    width: int
    stem: NotRequired[str]
    detections: list[DetectionRow]


class Journal:
    """A file with one line of JSON per image whose results are complete.

    Args:
        path: the file; created if it does not exist.
        settings: everything that the detections depend on; values that JSON can represent.
        resume: whether to continue after the lines in the file; otherwise the file is emptied.

    Attributes:
        done: names of the images in the file when it was opened.
        stems: stems of output files in use, for `free_name`.
        next_id: `image_id` of the next entry.

    Raises:
        ConfigError: the file was written with other settings.
        FileError: the file is not a journal, or cannot be read or written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        self._path = path
        self.done: set[str] = set()
        self.stems: dict[str, int] = {}
        settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file they are compared with
        with write_errors(path):
            path.open("ab" if resume else "wb").close()
        self.next_id = self._restore(settings)
        if self.next_id == 0:
            self._append_line({"settings": settings})
            self.next_id = 1

    def append(self, entry: JournalEntry) -> None:
        """Append the entry of one image, completely or not at all, and increase `next_id`.

        Raises:
            FileError: the file cannot be written.
        """
        self._append_line(entry)
        self.next_id += 1

    def entries(self) -> Iterator[JournalEntry]:
        """Yield the entry of each image, read line by line from the file."""
        with self._path.open("rb") as file:
            next(file)
            yield from map(json.loads, file)

    def _restore(self, settings: Mapping[str, Any]) -> int:
        """Read the lines that are in the file, and remove a damaged line and all lines after it.

        Returns:
            Number of lines left, the one with the settings included.
        """
        lines = end = 0
        with write_errors(self._path), self._path.open("rb") as file:
            for line in file:
                entry = _parse(line)
                if lines == 0 and line.endswith(b"\n"):
                    self._check_settings(entry, settings)
                elif entry.keys() >= JournalEntry.__required_keys__:
                    self.done.add(entry["file_name"])
                    self.stems |= {entry["stem"]: 1} if "stem" in entry else {}
                else:
                    break
                lines += 1
                end += len(line)
            if lost := sum(1 for _ in file):
                place = location(self._path, lines + 1)
                _LOG.warning("%s: this line is damaged; its image and the %d after it are processed again", place, lost)
        with write_errors(self._path):
            os.truncate(self._path, end)
        return lines

    def _check_settings(self, first_line: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """Raise ConfigError if the file was written with other settings."""
        previous = first_line.get("settings")
        if not isinstance(previous, dict):
            raise FileError(f"{self._path}: was not written by `detector detect`; give another --out")
        differences = [
            f"{key}: {previous.get(key)!r}, now {settings.get(key)!r}"
            for key in {**previous, **settings}
            if previous.get(key) != settings.get(key)
        ]
        if differences:
            raise ConfigError(
                f"{self._path}: an earlier run used other settings ({'; '.join(differences)}): use the same settings, "
                "give another --out, or start again without --skip-done"
            )

    def _append_line(self, values: Mapping[str, Any]) -> None:
        with write_errors(self._path), self._path.open("ab", buffering=0) as file:
            append_line(file, values)


def _parse(line: bytes) -> dict[str, Any]:
    """Return the JSON object in a line; empty if the line is damaged or incomplete."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else {}
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}
