"""The journal of a detection run: the file `detections.jsonl`, from which an interrupted run can be resumed.

The first line of the journal contains the settings of the run. Each other line belongs to one image, and is appended
after all other files of the image have been written. So the results of every image in the journal are complete, also if
the run is interrupted at any time.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NotRequired, TypedDict, cast

from detector.errors import ConfigError, FileError, location
from detector.files import append_line, name_key, parse_line, write_errors
from detector.mirror import stored_file
from detector.output_folder import OutputFolder
from detector.wording import plural

_LOG = logging.getLogger(__name__)

JOURNAL_NAME = "detections.jsonl"

_LARGEST = 2**53
"""Largest absolute value of a number that is no id in an entry; NaN is not valid either."""

_MAX_ID = 2**63

DetectionRow = TypedDict(
    "DetectionRow",
    {"class": str, "category_id": int, "bbox": list[float], "score": float, "track_id": NotRequired[int]},
)
"""One detection: class name, category id, box [x, y, w, h] in pixels, score, and a track id if objects are tracked."""


class FileState(TypedDict, total=False):
    """By what a changed image is noticed: size and modification time of its file, or else `Source.origin`.

    Attributes:
        size: size in bytes.
        mtime_ns: modification time in nanoseconds.
        origin: `Source.origin`; the image has no file.
    """

    size: int
    mtime_ns: int
    origin: str


class JournalEntry(TypedDict):
    """The values in the journal line of one image.

    Attributes:
        image_id: 1, 2, ... in the order of the lines, or the id of the image in a dataset; in the journal of a shard,
            without a dataset, `position` + 1.
        file_name: name of the image, as in `Source.name`.
        height: height of the image in pixels.
        width: width of the image in pixels.
        file: state of the image file before it was read; missing if the image has neither a file nor an origin.
        stem: name of the output files of the image without suffix; missing if the image has no output files.
        position: position of the image in the list of all images, from 0; only in the journal of a shard.
        detections: highest score first.
    """

    image_id: int
    file_name: str
    height: int
    width: int
    file: NotRequired[FileState]
    stem: NotRequired[str]
    position: NotRequired[int]
    detections: list[DetectionRow]


class Journal:
    """The journal file: one line of JSON for the settings, and one line per image whose results are complete.

    An existing file is only read at first. `begin` writes a new file, with the lines that are kept.

    Args:
        folder: the output folder.
        settings: all settings that the detections depend on, as values that JSON can represent.
        resume: True: keep the lines in the file. False: remove all lines from the file.
        files: name of an image → state of its file now; images without a file are missing.

    Attributes:
        done: names of the images that were in the file when it was opened, and whose image files are unchanged.
        stems: `name_key` of the names of output files (without suffix) that are taken, for `free_name`.
        next_id: `image_id` of the next entry.
        is_recognized: whether a file is resumed whose first line shows that this program wrote it.

    Raises:
        ConfigError: `resume` is True and the file was written with other settings.
        FileError: the file is not a journal, or cannot be read.
    """

    def __init__(
        self, folder: OutputFolder, settings: Mapping[str, Any], *, resume: bool, files: Mapping[str, FileState]
    ) -> None:
        self._folder, self._path = folder, folder.path / JOURNAL_NAME
        self.done: set[str] = set()
        self.stems: dict[str, int] = {}
        self.next_id = 1
        self.is_recognized = False
        self._kept_bytes = 0
        # This converts tuples to lists, as in the settings read from the file.
        self._settings = json.loads(json.dumps(settings))
        if resume and self._path.is_file() and not self._path.is_symlink():
            self._restore(files)
            self.is_recognized = True

    def begin(self) -> None:
        """Write the file with the settings and the lines that are kept.

        Raises:
            FileError: the file cannot be written.
        """
        if self.is_recognized:
            self._folder.vouch(JOURNAL_NAME)  # the user may have removed lines
        with self._folder.beginning(JOURNAL_NAME) as part, part.open("xb") as file:
            file.write(self._first_line())
            for line in self._kept_lines():
                file.write(line)

    def append(self, entry: JournalEntry) -> None:
        """Append the entry of one image to the file and increase `next_id`; after an error the file is unchanged.

        Raises:
            FileError: the file cannot be written.
        """
        with write_errors(self._path), self._path.open("ab", buffering=0) as file:
            append_line(file, entry)
        self.next_id += 1

    def entries(self) -> Iterator[JournalEntry]:
        """Read the file line by line and yield the entry of each image."""
        with self._path.open("rb") as file:
            next(file)
            yield from map(json.loads, file)

    def kept_entries(self) -> Iterator[JournalEntry]:
        """Yield the entry of each image that is done; before `begin` is called."""
        yield from map(json.loads, self._kept_lines())

    def _first_line(self) -> bytes:
        """Return the line with the settings of this run."""
        return json.dumps({"settings": self._settings}).encode() + b"\n"

    def _kept_lines(self) -> Iterator[bytes]:
        """Yield the lines of the images that are done, from the file as it was when the journal was opened."""
        if not self._kept_bytes:
            return
        with self._path.open("rb") as file:
            file.readline()
            while file.tell() < self._kept_bytes:
                line = file.readline()
                if _parse(line)["file_name"] in self.done:
                    yield line

    def _restore(self, files: Mapping[str, FileState]) -> None:
        """Read the lines in the file, up to the first damaged line.

        Args:
            files: as for `Journal`.

        Raises:
            InputError: as for `Journal`.
        """
        lines, changed = 0, list[str]()
        with write_errors(self._path), self._path.open("rb") as file:
            for line in file:
                entry = _parse(line)
                if lines == 0 and self._first_line().startswith(line):
                    pass  # the same settings, or the beginning of this line: the disk was full
                elif lines == 0:
                    self._check_settings(entry)
                elif _is_entry(entry):
                    self._add(entry, files, changed)
                else:
                    break
                lines += 1
                self._kept_bytes += len(line)
            if lost := sum(1 for _ in file):
                place = location(self._path, lines + 1)
                _LOG.warning("%s: damaged line; its image and the next %d images are processed again", place, lost)
        if changed:
            _LOG.warning("%s changed since the earlier run, and processed again", plural(len(changed), "image"))

    def _add(self, entry: dict[str, Any], files: Mapping[str, FileState], changed: list[str]) -> None:
        """Count the image of a line as done, or add it to `changed` if its file is another one now."""
        name = entry["file_name"]
        self.next_id = max(self.next_id, entry["image_id"] + 1)
        if name in files and entry.get("file", files[name]) != files[name]:
            changed.append(name)
            return
        self.done.add(name)
        self.stems |= {name_key(entry["stem"]): 1} if "stem" in entry else {}

    def _check_settings(self, first_line: Mapping[str, Any]) -> None:
        """Raise ConfigError if the file was written with other settings.

        Args:
            first_line: values of the first line in the file; empty if it is damaged.

        Raises:
            FileError: the first line contains no settings.
            ConfigError: the settings differ.
        """
        previous, settings = first_line.get("settings"), self._settings
        if not isinstance(previous, dict):
            raise FileError(f"{self._path}: not a journal of `detector detect`; pass another --out")
        if differences := setting_differences(previous, settings):
            raise ConfigError(
                f"{self._path}: the earlier run used other settings ({'; '.join(differences)}); use the same settings, "
                "pass another --out, or start a new run without --skip-done"
            )


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings in the first line of a journal file; empty if there is no file, or its first line is damaged.

    Raises:
        FileError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            settings = _parse(file.readline()).get("settings")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None
    return settings if isinstance(settings, dict) else {}


def read_entries(file: BinaryIO, path: Path) -> Iterator[tuple[int, JournalEntry]]:
    """Yield each entry of a complete journal, and the position of its line in the file in bytes.

    Args:
        file: the open file.
        path: its path, for messages.

    Raises:
        FileError: a line is damaged.
    """
    offset = len(file.readline())
    for number, line in enumerate(file, 2):
        entry = _parse(line)
        if not _is_entry(entry):
            raise FileError(f"{location(path, number)}: damaged line; detect in the images of this shard again")
        yield offset, cast("JournalEntry", entry)
        offset += len(line)


def setting_differences(previous: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Return a text for each setting that differs in two journals; `settings` are the ones now."""
    return [
        f"{key}: {previous.get(key)!r}, now {settings.get(key)!r}"
        for key in {**previous, **settings}
        if previous.get(key) != settings.get(key)
    ]


def file_state(path: Path) -> FileState | None:
    """Return the state of an image file, also at a URL; None if there is no such file."""
    if (stored := stored_file(path)) is not None:
        return {"size": stored.size, "origin": stored.version}
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _parse(line: bytes) -> dict[str, Any]:
    """Return the JSON object in a line, or an empty dictionary if the line is damaged or incomplete."""
    return parse_line(line) if line.endswith(b"\n") else {}


def _is_entry(values: Mapping[str, Any]) -> bool:
    """Return whether a JSON object is a `JournalEntry` with valid values."""
    return (
        all(type(values.get(key)) is int and 0 < values[key] <= _LARGEST for key in ("height", "width"))
        and type(values.get("image_id")) is int
        and abs(values["image_id"]) < _MAX_ID
        and isinstance(values.get("file_name"), str)
        and isinstance(values.get("stem", ""), str)
        and type(values.get("position", 0)) is int
        and isinstance(values.get("detections"), list)
        and all(map(_is_detection, values["detections"]))
    )


def _is_detection(row: Any) -> bool:
    """Return whether a JSON value is a `DetectionRow` with valid values."""
    if not isinstance(row, dict) or not isinstance(row.get("class"), str):
        return False
    ids, bbox = (row.get("category_id"), row.get("track_id", 0)), row.get("bbox")
    return (
        all(type(number) is int and abs(number) < _MAX_ID for number in ids)
        and isinstance(bbox, list)
        and len(bbox) == 4
        and all(type(number) in (int, float) and abs(number) <= _LARGEST for number in (*bbox, row.get("score")))
    )
