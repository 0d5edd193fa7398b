"""The journal of a detection run: the file `detections.jsonl`, from which an interrupted run can be resumed.

The first line of the journal contains the settings of the run. Each other line belongs to one image, and is appended
after all other files of the image have been written. So the results of every image in the journal are complete, also if
the run is interrupted at any time.
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

_LARGEST = 2**53
"""Largest absolute value of a number in an entry; NaN is not valid either."""

DetectionRow = TypedDict(
    "DetectionRow",
    {"class": str, "category_id": int, "bbox": list[float], "score": float, "track_id": NotRequired[int]},
)
"""One detection: class name, category id, box [x, y, w, h] in pixels, score, and a track id if objects are tracked."""


class JournalEntry(TypedDict):
    """The values in the journal line of one image.

    Attributes:
        image_id: 1, 2, ... in the order of the lines.
        file_name: name of the image, as in `Source.name`.
        height: height of the image in pixels.
        width: width of the image in pixels.
        stem: name of the output files of the image without suffix; missing if the image has no output files.
        detections: highest score first.
    """

    image_id: int
    file_name: str
    height: int
    width: int
    stem: NotRequired[str]
    detections: list[DetectionRow]


class Journal:
    """The journal file: one line of JSON for the settings, and one line per image whose results are complete.

    Args:
        path: the file; created if it does not exist.
        settings: all settings that the detections depend on, as values that JSON can represent.
        resume: True: keep the lines in the file and append to them. False: remove all lines from the file.

    Attributes:
        done: names of the images that were in the file when it was opened.
        stems: names of output files (without suffix) that are taken, for `free_name`.
        next_id: `image_id` of the next entry.

    Raises:
        ConfigError: `resume` is True and the file was written with other settings.
        FileError: the file is not a journal, or cannot be read or written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        self._path = path
        self.done: set[str] = set()
        self.stems: dict[str, int] = {}
        settings = json.loads(json.dumps(settings))  # converts tuples to lists, as in the settings read from the file
        with write_errors(path):
            path.open("ab" if resume else "wb").close()
        self.next_id = self._restore(settings)
        if self.next_id == 0:
            self._append_line({"settings": settings})
            self.next_id = 1

    def append(self, entry: JournalEntry) -> None:
        """Append the entry of one image to the file and increase `next_id`; after an error the file is unchanged.

        Raises:
            FileError: the file cannot be written.
        """
        self._append_line(entry)
        self.next_id += 1

    def entries(self) -> Iterator[JournalEntry]:
        """Read the file line by line and yield the entry of each image."""
        with self._path.open("rb") as file:
            next(file)
            yield from map(json.loads, file)

    def _restore(self, settings: Mapping[str, Any]) -> int:
        """Read the lines in the file; from the first damaged line on, delete all lines.

        Args:
            settings: the settings of this run, which must equal the settings in the file.

        Returns:
            Number of lines that remain in the file, including the line with the settings.

        Raises:
            InputError: as for `Journal`.
        """
        lines = end = 0
        with write_errors(self._path), self._path.open("rb") as file:
            for line in file:
                entry = _parse(line)
                if lines == 0 and line.endswith(b"\n"):
                    self._check_settings(entry, settings)
                elif lines > 0 and _is_entry(entry):
                    self.done.add(entry["file_name"])
                    self.stems |= {entry["stem"]: 1} if "stem" in entry else {}
                else:
                    break
                lines += 1
                end += len(line)
            if lost := sum(1 for _ in file):
                place = location(self._path, lines + 1)
                _LOG.warning("%s: damaged line; its image and the next %d images are processed again", place, lost)
        with write_errors(self._path):
            os.truncate(self._path, end)
        return lines

    def _check_settings(self, first_line: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """Raise ConfigError if the file was written with other settings.

        Args:
            first_line: values of the first line in the file; empty if it is damaged.
            settings: the settings of this run.

        Raises:
            FileError: the first line contains no settings.
            ConfigError: the settings differ.
        """
        previous = first_line.get("settings")
        if not isinstance(previous, dict):
            raise FileError(f"{self._path}: not a journal of `detector detect`; pass another --out")
        differences = [
            f"{key}: {previous.get(key)!r}, now {settings.get(key)!r}"
            for key in {**previous, **settings}
            if previous.get(key) != settings.get(key)
        ]
        if differences:
            raise ConfigError(
                f"{self._path}: the earlier run used other settings ({'; '.join(differences)}); use the same settings, "
                "pass another --out, or start a new run without --skip-done"
            )

    def _append_line(self, values: Mapping[str, Any]) -> None:
        with write_errors(self._path), self._path.open("ab", buffering=0) as file:
            append_line(file, values)


def _parse(line: bytes) -> dict[str, Any]:
    """Return the JSON object in a line, or an empty dictionary if the line is damaged or incomplete."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else {}
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}


def _is_entry(values: Mapping[str, Any]) -> bool:
    """Return whether a JSON object is a `JournalEntry` with valid values."""
    return (
        all(type(values.get(key)) is int and 0 < values[key] <= _LARGEST for key in ("image_id", "height", "width"))
        and isinstance(values.get("file_name"), str)
        and isinstance(values.get("stem", ""), str)
        and isinstance(values.get("detections"), list)
        and all(map(_is_detection, values["detections"]))
    )


def _is_detection(row: Any) -> bool:
    """Return whether a JSON value is a `DetectionRow` with valid values."""
    if not isinstance(row, dict) or not isinstance(row.get("class"), str):
        return False
    ids, bbox = (row.get("category_id"), row.get("track_id", 0)), row.get("bbox")
    return (
        all(type(number) is int and abs(number) < 2**63 for number in ids)
        and isinstance(bbox, list)
        and len(bbox) == 4
        and all(type(number) in (int, float) and abs(number) <= _LARGEST for number in (*bbox, row.get("score")))
    )
