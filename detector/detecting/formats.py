"""Writes detections as YOLO text, JSON, crops, COCO results or CSV. Each file is written atomically."""

import csv
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
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

OutputFormat = Literal["images", "txt", "csv", "counts", "crops", "json"]
"""A kind of output file, which is written in addition to detections.json:

- `images`: annotated images,
- `txt`: labels/NAME.txt, the detections of one image in YOLO format with scores,
- `csv`: detections.csv, a table of all detections,
- `counts`: counts.csv, the number of detections of each class in each image,
- `crops`: crops/CLASS/NAME-N, the part of an image inside one detected box,
- `json`: json/NAME.json, the size and the detections of one image.
"""


def detection_rows(found: Detections, category_ids: tuple[int, ...]) -> list[DetectionRow]:
    """Return one row of JSON values per detection of an image, with the key `track_id` if there are track ids."""
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
    """Write the detections of an image to a text file in YOLO format, with one row `class cx cy w h score` per box.

    Args:
        path: the text file.
        found: detections of the image, with boxes in pixels. They are written as fractions of the image size.
        image_hw: (height, width) of the image in pixels.

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
    """Write the name, the size and the detections of an image to a JSON file, with boxes [x1, y1, x2, y2] in pixels.

    Args:
        path: the JSON file.
        name: name of the image, as in `Source.name`.
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
    """Write the part of an image inside each detected box to folder/CLASS/NAME-N; N is 1 for the highest score.

    Args:
        folder: the folder for all crops; it must exist.
        file_name: NAME and suffix of the files. The suffix selects the image format.
        image: [H, W, 3] RGB.
        found: detections of the image, highest score first.

    Raises:
        FileError: a file cannot be written.
    """
    class_folders = folders_of_classes(found.class_names)
    for number, (class_id, box) in enumerate(zip(found.class_ids, found.boxes, strict=True), 1):
        path = folder / class_folders[class_id] / f"{file_name.stem}-{number}{file_name.suffix}"
        # The temporary file has the same suffix, which selects the image format. Its stem ends with ".part", while the
        # stem of a crop ends with a number, so no crop has this name.
        temporary = path.with_stem(f"{path.stem}.part")
        with _rename_when_complete(temporary, path):
            path.parent.mkdir(exist_ok=True)
            write_image(temporary, crop(image, box))


def write_coco_results(path: Path, entries: Iterable[JournalEntry]) -> None:
    """Write the detections of all images to a JSON file in COCO's results format, with `file_name` as additional key.

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
    """Write the detections of all images to a CSV file, with one row per detection and x1, y1, x2, y2 in pixels.

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


def write_counts(
    path: Path, entries: Iterable[JournalEntry], class_names: Sequence[str], category_ids: Sequence[int]
) -> None:
    """Write the number of detections per image and class to a CSV file: a row per image, a column per class.

    Args:
        path: the CSV file.
        entries: the images; an image without detections has zeros.
        class_names: C names, the titles of the columns.
        category_ids: C category ids, in the order of the classes.

    Raises:
        FileError: the file cannot be written.
    """
    with _text_file(path) as file:
        writer = csv.writer(file)
        writer.writerow(["file", *class_names])
        for entry in entries:
            counts = Counter(row["category_id"] for row in entry["detections"])
            writer.writerow([entry["file_name"], *(counts[category_id] for category_id in category_ids)])


def crop(image: ImageArray, box: Floats) -> ImageArray:
    """Return the part of an image that contains every pixel that a box overlaps.

    Args:
        image: [H, W, 3].
        box: [4] (x1, y1, x2, y2) in pixels of the image.

    Returns:
        A view [h, w, 3] of `image`. If the box is outside of the image, the view has the nearest pixel.
    """
    height, width = image.shape[:2]
    left, top = np.clip(np.floor(box[:2]), 0, (width - 1, height - 1)).astype(int)
    right, bottom = np.clip(np.ceil(box[2:]), (left + 1, top + 1), (width, height)).astype(int)
    return image[top:bottom, left:right]


@lru_cache(maxsize=1)
def folders_of_classes(class_names: tuple[str, ...]) -> list[str]:
    """Return a different folder name for each class: the class name as a valid name, with a number if it is taken.

    Names that differ only in case count as equal, because some file systems do not distinguish them. If two classes
    would get the same folder name, the class whose name needs no change to be a valid folder name gets no number.

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
    """Open a temporary text file for writing, and rename it to `path` at the end of the `with` block.

    File names that are written to the file may contain bytes that are not UTF-8.

    Raises:
        FileError: the file cannot be written.
    """
    temporary = path.with_name(path.name + ".part")
    with (
        _rename_when_complete(temporary, path),
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        yield file


@contextmanager
def _rename_when_complete(temporary: Path, path: Path) -> Iterator[None]:
    """Rename the file `temporary`, written in the `with` block, to `path`; after an OSError, delete it instead.

    Raises:
        FileError: the `with` block raised an OSError, or the file cannot be renamed.
    """
    with write_errors(path):
        try:
            yield
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
