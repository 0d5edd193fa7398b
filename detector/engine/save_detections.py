"""Detections as files: drawn pictures, a line of JSON per picture, COCO results, and on request YOLO text and CSV.

`detections.jsonl` is the journal. Its first line holds the settings; each other line is one picture's, added when all
else about that picture is written. So whatever ends a run, what the journal names is done. The tables are made from it
at the end, line by line.
"""

import csv
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from detector import images
from detector.boxes import to_cxcywh
from detector.detections import Detections
from detector.draw import draw
from detector.errors import InputError, at
from detector.images import Pixels
from detector.metrics.average_precision import coco_results

_LOG = logging.getLogger(__name__)

_KEYS = {"image_id", "file_name", "height", "width", "detections"}
"""What a line of the journal says of a picture at least."""

_RESULT = ("category_id", "bbox", "score")
"""What COCO says of a detection."""


class DetectionWriter:
    """Writes the answers to many pictures into one folder, each as it comes; `close` writes the tables.

    Args:
        folder: made if it is not there.
        category_ids: of the classes, for the COCO rows.
        sources: the pictures that will be added, none of which may lie in the folder.
        pictures: write drawn pictures.
        txt: write labels/NAME.txt with rows `class cx cy w h score`, shares of the picture's size.
        table: write detections.csv.
        settings: what the answers depend on, for JSON.
        skip_done: go on behind what the folder's journal holds; else it begins anew.

    Attributes:
        done: names of the pictures that were done before.

    Raises:
        InputError: the folder cannot be made, holds files that did not come from here, or, to go on, answers that were
            found with other settings.
    """

    def __init__(
        self,
        folder: Path,
        category_ids: tuple[int, ...],
        sources: Iterable[Path] = (),
        pictures: bool = True,
        txt: bool = False,
        table: bool = False,
        settings: Mapping[str, Any] | None = None,
        skip_done: bool = False,
    ) -> None:
        self.done: set[str] = set()
        self._folder, self._category_ids = folder, category_ids
        self._pictures, self._txt, self._table = pictures, txt, table
        self._taken: dict[str, int] = {}
        self._journal = folder / "detections.jsonl"
        self._results, self._csv = folder / "detections.json", folder / "detections.csv"
        for parent, source in {source.parent: source for source in sources}.items():
            if parent.resolve() == folder.resolve():
                raise InputError(f"{source}: lies in the folder for the results; give another --out")
        with _naming(folder):
            is_ours = self._journal.exists() or self._results.exists()
            if folder.is_dir() and any(folder.iterdir()) and not is_ours:
                raise InputError(f"{folder}: holds files that are not detections; give another --out")
            folder.mkdir(parents=True, exist_ok=True)
            with _naming(self._journal):
                self._journal.open("ab" if skip_done else "wb").close()
            for outdated in () if skip_done else (self._results, self._csv):
                with _naming(outdated):
                    outdated.unlink(missing_ok=True)
            if txt:
                (folder / "labels").mkdir(exist_ok=True)
        self._go_on({**(settings or {}), "pictures": pictures, "txt": txt})

    def add(self, name: Path, image: Pixels, found: Detections) -> None:
        """Write the answer to one picture.

        Raises:
            InputError: a file cannot be written; what was added before is not touched.
        """
        (height, width), image_id = image.shape[:2], self._next_id
        entry: dict[str, Any] = {"image_id": image_id, "file_name": str(name), "height": height, "width": width}
        if self._pictures or self._txt:
            entry["stem"] = stem = self._free_stem(name)
        if self._pictures:
            suffix = name.suffix.lower() if name.suffix.lower() in (".jpg", ".jpeg", ".png") else ".jpg"
            drawn = self._folder / f"{stem}{suffix}"
            with _naming(drawn):
                images.write(drawn, draw(image, found))
        if self._txt:
            centred = to_cxcywh(found.boxes) / [width, height, width, height]
            with _replacing(self._folder / "labels" / f"{stem}.txt") as file:
                for class_id, box, score in zip(found.class_ids, centred, found.scores, strict=True):
                    file.write(f"{class_id} {' '.join(f'{value:.6f}' for value in box)} {score:.6f}\n")
        labels, rows = (label for label, _, _ in found), coco_results({image_id: found}, self._category_ids)
        entry["detections"] = [
            {"class": label} | {key: row[key] for key in _RESULT} for label, row in zip(labels, rows, strict=True)
        ]
        self._append(entry)
        self._next_id += 1

    def close(self) -> None:
        """Write detections.json, and detections.csv if wanted; each appears whole or not at all.

        Raises:
            InputError: a file cannot be written.
        """
        with _replacing(self._results) as file:
            gap = "["
            for entry in self._entries():
                for found in entry["detections"]:
                    named = {"image_id": entry["image_id"], "file_name": entry["file_name"]}
                    file.write(gap + json.dumps(named | {key: found[key] for key in _RESULT}))
                    gap = ",\n "
            file.write("[]\n" if gap == "[" else "]\n")
        if self._table:
            with _replacing(self._csv) as file:
                writer = csv.writer(file)
                writer.writerow(["file", "class", "score", "x1", "y1", "x2", "y2"])
                for entry in self._entries():
                    for found in entry["detections"]:
                        x, y, w, h = found["bbox"]
                        corners = (round(side, 2) for side in (x, y, x + w, y + h))
                        writer.writerow([entry["file_name"], found["class"], round(found["score"], 4), *corners])

    def _entries(self) -> Iterator[dict[str, Any]]:
        """Yield what the journal says of each picture."""
        with self._journal.open("rb") as file:
            next(file)
            yield from map(json.loads, file)

    def _go_on(self, settings: Mapping[str, Any]) -> None:
        """Take over what the journal holds, up to a line that was cut off; begin it if it holds nothing."""
        self._next_id = end = 0
        with _naming(self._journal), self._journal.open("rb") as file:
            for line in file:
                entry = _parse(line)
                if self._next_id == 0 and line.endswith(b"\n"):
                    self._check_settings(entry, settings)
                elif entry.keys() >= _KEYS:
                    self.done.add(entry["file_name"])
                    self._taken |= {entry["stem"]: 1} if "stem" in entry else {}
                else:
                    break
                self._next_id += 1
                end += len(line)
            if lost := sum(1 for _ in file):
                place = at(self._journal, self._next_id + 1)
                _LOG.warning(f"{place}: damaged; this picture and the {lost} behind it are done again")
        with _naming(self._journal):
            os.truncate(self._journal, end)
        if self._next_id == 0:
            self._append({"settings": settings})
            self._next_id = 1

    def _check_settings(self, head: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        before = head.get("settings")
        if not isinstance(before, dict):
            raise InputError(f"{self._journal}: was not written by `detector detect`; give another --out")
        differ = [
            f"{key}: {before.get(key)!r}, now {settings.get(key)!r}"
            for key in {**before, **settings}
            if before.get(key) != settings.get(key)
        ]
        if differ:
            raise InputError(
                f"{self._journal}: was made with other settings ({'; '.join(differ)}): use those, give another --out, "
                "or begin again without --skip-done"
            )

    def _append(self, entry: Mapping[str, Any]) -> None:
        """Add a line to the journal, at once and whole or not at all."""
        rest = memoryview(json.dumps(entry).encode() + b"\n")
        with _naming(self._journal), self._journal.open("ab", buffering=0) as file:
            end = file.tell()
            try:
                while rest:  # a disk that is nearly full takes a part and refuses the next
                    rest = rest[file.write(rest) :]
            except OSError:
                file.truncate(end)
                raise

    def _free_stem(self, name: Path) -> str:
        """Return the picture's stem, numbered if a picture of another folder took it."""
        stem, number = name.stem, self._taken.get(name.stem, 1)
        while stem in self._taken:
            number += 1
            stem = f"{name.stem}-{number}"
        self._taken[stem] = 1
        self._taken[name.stem] = number  # so that thousands of one name are not counted through each time
        return stem


def _parse(line: bytes) -> dict[str, Any]:
    """Return what a line of the journal holds, nothing if it is damaged."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else {}
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into an InputError that names the file."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """Open a text file that takes the place of `path` once it is whole; names keep bytes that are no UTF-8."""
    unfinished = path.with_name(path.name + ".part")
    with _naming(path):
        try:
            with unfinished.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
                yield file
            unfinished.replace(path)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
