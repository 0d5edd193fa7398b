"""Output formats of detections: YOLO text, JSON, crops, COCO results and CSV. Each file is written atomically."""

import csv
import json
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Literal, TextIO

import numpy as np

from detector.arrays import Floats, ImageArray
from detector.boxes import to_cxcywh
from detector.detecting.journal import DetectionRow, JournalEntry
from detector.detections import Detections, coco_results
from detector.files import safe_name, write_errors
from detector.images import write_image

OutputFormat = Literal["images", "txt", "csv", "crops", "json"]
"""What is written besides detections.json:

- `images`: annotated images,
- `txt`: labels/NAME.txt in YOLO format with scores,
- `csv`: detections.csv, a table of all detections,
- `crops`: crops/CLASS/NAME-N, each detection cut from its image,
- `json`: json/NAME.json, the size and the detections of one image.
"""


def detection_rows(found: Detections, category_ids: tuple[int, ...]) -> list[DetectionRow]:
    """Return the detections of an image as rows for JSON; with `track_id` if they have track ids."""
    rows: list[DetectionRow] = []
    for index, ((name, _, _), result) in enumerate(zip(found, coco_results({0: found}, category_ids), strict=True)):
        row: DetectionRow = {
            "class": name,
            "category_id": result["category_id"],
            "bbox": result["bbox"],
            "score": result["score"],
        }
        if found.track_ids is not None:
            row["track_id"] = int(found.track_ids[index])
        rows.append(row)
    return rows


def write_txt(path: Path, found: Detections, image_hw: tuple[int, int]) -> None:
    """Write the detections of an image in YOLO format: rows of `class cx cy w h score`, as fractions of its size.

    Raises:
        FileError: the file cannot be written.
    """
    height, width = image_hw
    boxes = to_cxcywh(found.boxes) / [width, height, width, height]
    with _text_file(path) as file:
        for class_id, box, score in zip(found.class_ids, boxes, found.scores, strict=True):
            file.write(f"{class_id} {' '.join(f'{value:.6f}' for value in box)} {score:.6f}\n")


def write_image_json(
    path: Path, name: Path, image_hw: tuple[int, int], found: Detections, category_ids: tuple[int, ...]
) -> None:
    """Write the name, size and detections of an image as JSON; boxes are [x1, y1, x2, y2] in pixels.

    Args:
        path: the JSON file.
        name: name of the source.
        image_hw: (height, width) of the image in pixels.
        found: detections of the image.
        category_ids: category id of each class.

    Raises:
        FileError: the file cannot be written.
    """
    detections = [
        {
            "class": name,
            "class_id": int(class_id),
            "category_id": category_ids[class_id],
            "score": score,
            "box": box.tolist(),
        }
        for class_id, (name, score, box) in zip(found.class_ids, found, strict=True)
    ]
    height, width = image_hw
    values = {"file_name": str(name), "height": height, "width": width, "detections": detections}
    with _text_file(path) as file:
        file.write(json.dumps(values, indent=1) + "\n")


def write_crops(folder: Path, file_name: Path, image: ImageArray, found: Detections) -> None:
    """Cut each detection from an image [H, W, 3] and write it to folder/CLASS/NAME-N; N counts from 1, best first.

    Raises:
        FileError: a file cannot be written.
    """
    class_folders = folders_of_classes(found.class_names)
    for number, (class_id, box) in enumerate(zip(found.class_ids, found.boxes, strict=True), 1):
        path = folder / class_folders[class_id] / f"{file_name.stem}-{number}{file_name.suffix}"
        # The suffix selects the image format, so it stays. No crop ends in ".part": all end in a number.
        temporary = path.with_stem(f"{path.stem}.part")
        with _rename_when_complete(temporary, path):
            path.parent.mkdir(exist_ok=True)
            write_image(temporary, crop(image, box))


def write_coco_results(path: Path, entries: Iterable[JournalEntry]) -> None:
    """Write the detections of all images in COCO's results format, with file names.

    Raises:
        FileError: the file cannot be written.
    """
    with _text_file(path) as file:
        separator = "["
        for entry in entries:
            for row in entry["detections"]:
                result = {
                    "image_id": entry["image_id"],
                    "file_name": entry["file_name"],
                    "category_id": row["category_id"],
                    "bbox": row["bbox"],
                    "score": row["score"],
                }
                file.write(separator + json.dumps(result))
                separator = ",\n "
        file.write("[]\n" if separator == "[" else "]\n")


def write_csv(path: Path, entries: Iterable[JournalEntry]) -> None:
    """Write the detections of all images as a table; boxes are x1, y1, x2, y2 in pixels.

    Raises:
        FileError: the file cannot be written.
    """
    with _text_file(path) as file:
        writer = csv.writer(file)
        writer.writerow(["file", "class", "score", "x1", "y1", "x2", "y2"])
        for entry in entries:
            for row in entry["detections"]:
                x, y, w, h = row["bbox"]
                box = (round(side, 2) for side in (x, y, x + w, y + h))
                writer.writerow([entry["file_name"], row["class"], round(row["score"], 4), *box])


def crop(image: ImageArray, box: Floats) -> ImageArray:
    """Return the part of an image [H, W, 3] inside a box.

    Args:
        image: [H, W, 3].
        box: [4] (x1, y1, x2, y2) in pixels; it is rounded outward and clipped to the image.

    Returns:
        [h, w, 3], at least one pixel.
    """
    height, width = image.shape[:2]
    left, top = np.clip(np.floor(box[:2]), 0, (width - 1, height - 1)).astype(int)
    right, bottom = np.clip(np.ceil(box[2:]), (left + 1, top + 1), (width, height)).astype(int)
    return image[top:bottom, left:right]


@lru_cache(maxsize=1)
def folders_of_classes(class_names: tuple[str, ...]) -> list[str]:
    """Return a folder name for each class: its name made safe, and numbered where another class has the same one.

    Names that differ only in case count as equal, as they do on some systems. Where two classes would get the same
    folder, a class whose own name is a safe folder name keeps it.

    >>> folders_of_classes(("a/b", "a_b", "A_B", ""))
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


@contextmanager
def _text_file(path: Path) -> Iterator[TextIO]:
    """Open a text file that replaces `path` when it is complete; names in it may contain bytes that are not UTF-8."""
    temporary = path.with_name(path.name + ".part")
    with (
        _rename_when_complete(temporary, path),
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        yield file


@contextmanager
def _rename_when_complete(temporary: Path, path: Path) -> Iterator[None]:
    """Rename `temporary` to `path` after the body of the `with` has written it; remove it after an OSError."""
    with write_errors(path):
        try:
            yield
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
