"""Detections as files: drawn images, a line of JSON per image, COCO results, and what else is asked for.

`detections.jsonl` is the journal. Its first line holds the settings; each other line is one image's, added when all
else about that image is written. So whatever ends a run, what the journal names is done. The tables are made from it
at the end, line by line.
"""

import csv
import json
import logging
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Self, TextIO

import numpy as np

from detector.arrays import Floats, ImageArray
from detector.boxes import to_cxcywh
from detector.detections import Detections, coco_results
from detector.errors import InputError, location
from detector.files import append_line, free_name, locked, make_folder, safe_name, write_errors
from detector.images import write_image

_LOG = logging.getLogger(__name__)

_KEYS = {"image_id", "file_name", "height", "width", "detections"}
"""What a line of the journal says of an image at least."""

_RESULT = ("category_id", "bbox", "score")
"""What COCO says of a detection."""

_LONGEST_STEM = 200
"""Bytes; with a number, an ending and `.part` it has to remain below the 255 that most systems take."""


class DetectionWriter:
    """Writes the answers to many images into one folder, each as it comes; `close` writes the tables.

    No other process may write into the folder until `close`, or the end of a `with`, which writes no tables itself.

    Args:
        folder: made if it is not there.
        category_ids: of the classes, for the COCO rows.
        sources: the images that will be added, none of which may lie in the folder.
        images: write drawn images.
        txt: write labels/NAME.txt with rows `class cx cy w h score`, shares of the image's size.
        table: write detections.csv.
        crops: write each detection as crops/CLASS/NAME-N, cut from the image; N counts from 1, best first.
        json_each: write json/NAME.json with the image's size and its detections, boxes x1, y1, x2, y2 in its pixels.
        settings: what the answers depend on, for JSON.
        skip_done: go on behind what the folder's journal holds; else it begins anew.

    Attributes:
        done: names of the images that were done before.

    Raises:
        InputError: the folder cannot be made, another process is writing there, it holds files that did not come from
            here, or, to go on, answers that were found with other settings; to begin anew, crops.
    """

    def __init__(
        self,
        folder: Path,
        category_ids: tuple[int, ...],
        sources: Iterable[Path] = (),
        images: bool = True,
        txt: bool = False,
        table: bool = False,
        crops: bool = False,
        json_each: bool = False,
        settings: Mapping[str, Any] | None = None,
        skip_done: bool = False,
    ) -> None:
        self.done: set[str] = set()
        self._folder, self._category_ids = folder, category_ids
        self._images, self._txt, self._table = images, txt, table
        self._crops, self._json_each = crops, json_each
        self._taken: dict[str, int] = {}
        self._journal = folder / "detections.jsonl"
        self._results, self._csv = folder / "detections.json", folder / "detections.csv"
        # What is not there has a made-up name. One source speaks for all of its folder.
        for parent, source in {source.parent: source for source in sources if os.path.lexists(source)}.items():
            if parent.resolve().is_relative_to(folder.resolve()):
                raise InputError(f"{source}: lies in the folder for the results; give another --out")
        with ExitStack() as lock:
            make_folder(folder)
            lock.enter_context(locked(folder, "writing detections"))
            self._begin(skip_done)
            self._go_on({**(settings or {}), "images": images, "txt": txt, "crops": crops, "json_each": json_each})
            self._lock = lock.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.close()

    def add(self, name: Path, image: ImageArray, found: Detections) -> None:
        """Write the answer to one image.

        Raises:
            InputError: a file cannot be written; what was added before is not touched.
        """
        (height, width), image_id = image.shape[:2], self._next_id
        size = {"file_name": str(name), "height": height, "width": width}
        entry: dict[str, Any] = {"image_id": image_id} | size
        suffix = name.suffix.lower() if name.suffix.lower() in (".jpg", ".jpeg", ".png") else ".jpg"
        if self._images or self._txt or self._crops or self._json_each:
            entry["stem"] = stem = free_name(_shortened(name.stem), self._taken)
        if self._images:
            drawn = self._folder / f"{stem}{suffix}"
            with write_errors(drawn):
                write_image(drawn, found.draw_on(image))
        if self._txt:
            centered = to_cxcywh(found.boxes) / [width, height, width, height]
            with _replacing(self._folder / "labels" / f"{stem}.txt") as file:
                for class_id, box, score in zip(found.class_ids, centered, found.scores, strict=True):
                    file.write(f"{class_id} {' '.join(f'{value:.6f}' for value in box)} {score:.6f}\n")
        if self._crops:
            folders = _class_folders(found.class_names)
            for number, (class_id, box) in enumerate(zip(found.class_ids, found.boxes, strict=True), 1):
                place = self._folder / "crops" / folders[class_id]
                _write_crop(place / f"{stem}-{number}{suffix}", _cut(image, box))
        if self._json_each:
            with _replacing(self._folder / "json" / f"{stem}.json") as file:
                file.write(json.dumps(size | {"detections": _described(found, self._category_ids)}, indent=1) + "\n")
        labels, rows = (label for label, _, _ in found), coco_results({image_id: found}, self._category_ids)
        entry["detections"] = [
            {"class": label} | {key: row[key] for key in _RESULT} for label, row in zip(labels, rows, strict=True)
        ]
        self._append(entry)
        self._next_id += 1

    def close(self) -> None:
        """Write detections.json, and detections.csv if wanted; each appears whole or not at all. Let go of the folder.

        Raises:
            InputError: a file cannot be written.
        """
        with self._lock:
            self._write_tables()

    def _write_tables(self) -> None:
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
        """Yield what the journal says of each image."""
        with self._journal.open("rb") as file:
            next(file)
            yield from map(json.loads, file)

    def _begin(self, skip_done: bool) -> None:
        """Refuse a folder of the user's, empty the journal and remove the tables if not to go on, make the folders."""
        folder, crops = self._folder, self._folder / "crops"
        with write_errors(folder):
            if any(folder.iterdir()) and not (self._journal.exists() or self._results.exists()):
                raise InputError(f"{folder}: holds files that are not detections; give another --out")
            if self._crops and not skip_done and crops.is_dir() and any(crops.iterdir()):
                # Those that no new one replaces would pass for new; whether they can go, only the user knows.
                raise InputError(
                    f"{crops}: holds crops of an earlier run: move them away, go on with it by --skip-done, "
                    "or give another --out"
                )
            if self._results.exists() and not skip_done:
                _LOG.warning("%s: the results of an earlier run are replaced", folder)
            with write_errors(self._journal):
                self._journal.open("ab" if skip_done else "wb").close()
            for outdated in () if skip_done else (self._results, self._csv):
                with write_errors(outdated):
                    outdated.unlink(missing_ok=True)
            for name, is_wanted in {"labels": self._txt, "crops": self._crops, "json": self._json_each}.items():
                if is_wanted:
                    make_folder(folder / name)

    def _go_on(self, settings: Mapping[str, Any]) -> None:
        """Take over what the journal holds, up to a line that was cut off; begin it if it holds nothing."""
        self._next_id = end = 0
        with write_errors(self._journal), self._journal.open("rb") as file:
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
                place = location(self._journal, self._next_id + 1)
                _LOG.warning(f"{place}: damaged; this image and the {lost} behind it are done again")
        with write_errors(self._journal):
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
        with write_errors(self._journal), self._journal.open("ab", buffering=0) as file:
            append_line(file, entry)


def _shortened(stem: str) -> str:
    """Return a stem that leaves room in a name for what is put behind it."""
    while len(os.fsencode(stem)) > _LONGEST_STEM:
        stem = stem[:-1]
    return stem


@lru_cache(maxsize=1)
def _class_folders(class_names: tuple[str, ...]) -> list[str]:
    """Return the name of a folder for each class: its own made safe, numbered where another class has it.

    Names that differ in case alone count as equal, as they do on some systems. A class whose name is safe as it is goes
    before one whose name is made so.

    >>> _class_folders(("a/b", "a_b", "A_B", ""))
    ['a_b-3', 'a_b', 'A_B-2', '_']
    """
    safe = [safe_name(name) for name in class_names]
    folders, taken = list(safe), set()
    for class_id in sorted(range(len(safe)), key=lambda class_id: safe[class_id] != class_names[class_id]):
        number = 1
        while (key := unicodedata.normalize("NFC", folders[class_id]).casefold()) in taken:
            number += 1
            folders[class_id] = f"{safe[class_id]}-{number}"
        taken.add(key)
    return folders


def _cut(image: ImageArray, box: Floats) -> ImageArray:
    """Return the part of an image [H, W, 3] in a box (x1, y1, x2, y2): rounded outward, clipped, a pixel at least."""
    height, width = image.shape[:2]
    left, top = np.clip(np.floor(box[:2]), 0, (width - 1, height - 1)).astype(int)
    right, bottom = np.clip(np.ceil(box[2:]), (left + 1, top + 1), (width, height)).astype(int)
    return image[top:bottom, left:right]


def _described(found: Detections, category_ids: tuple[int, ...]) -> list[dict[str, Any]]:
    """Return what json/NAME.json says of each detection; boxes as x1, y1, x2, y2 in pixels."""
    return [
        {
            "class": label,
            "class_id": int(class_id),
            "category_id": category_ids[class_id],
            "score": score,
            "box": box.tolist(),
        }
        for class_id, (label, score, box) in zip(found.class_ids, found, strict=True)
    ]


def _parse(line: bytes) -> dict[str, Any]:
    """Return what a line of the journal holds, nothing if it is damaged."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else {}
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


@contextmanager
def _finishing(unfinished: Path, path: Path) -> Iterator[None]:
    """Call a file `path` once what is done meanwhile has written it whole as `unfinished`; else remove it."""
    with write_errors(path):
        try:
            yield
            unfinished.replace(path)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """Open a text file that takes the place of `path` once it is whole; names keep bytes that are no UTF-8."""
    unfinished = path.with_name(path.name + ".part")
    with (
        _finishing(unfinished, path),
        unfinished.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        yield file


def _write_crop(path: Path, image: ImageArray) -> None:
    """Write an image [H, W, 3], whole or not at all; its folder is made if it is not there."""
    unfinished = path.with_stem(f"{path.stem}.part")  # its ending chooses the format; crops themselves end in a number
    with _finishing(unfinished, path):
        path.parent.mkdir(exist_ok=True)
        write_image(unfinished, image)
