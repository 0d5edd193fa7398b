"""Detections as files: drawn pictures, COCO results, and on request YOLO text and CSV."""

import csv
import json
from pathlib import Path
from typing import Any

from detector import images
from detector.boxes import to_cxcywh
from detector.detections import Detections
from detector.draw import draw
from detector.errors import InputError
from detector.images import Pixels
from detector.metrics.average_precision import coco_results


class DetectionWriter:
    """Collects the answers to many pictures in one folder; `close` writes the tables.

    Args:
        folder: made if it is not there.
        category_ids: of the classes, for the COCO rows.
        pictures: write drawn pictures.
        txt: write labels/NAME.txt with rows `class cx cy w h score`, shares of the picture's size.
        table: write detections.csv.

    Raises:
        InputError: the folder cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        category_ids: tuple[int, ...],
        pictures: bool = True,
        txt: bool = False,
        table: bool = False,
    ) -> None:
        self._folder, self._category_ids = folder, category_ids
        self._pictures, self._txt, self._table = pictures, txt, table
        self._taken: set[str] = set()
        self._rows: list[dict[str, Any]] = []
        self._lines: list[list[Any]] = []
        self._image_id = 0
        try:
            (folder / "labels" if txt else folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: cannot be made ({error.strerror})") from None

    def add(self, name: Path, image: Pixels, found: Detections) -> None:
        """Take the answer to one picture.

        Raises:
            InputError: the drawn picture would overwrite the picture itself.
        """
        self._image_id += 1
        stem = self._free_stem(name)
        if self._pictures:
            suffix = name.suffix.lower() if name.suffix.lower() in (".jpg", ".jpeg", ".png") else ".jpg"
            path = self._folder / f"{stem}{suffix}"
            if path.exists() and name.exists() and path.samefile(name):
                raise InputError(f"{name}: the drawn picture would overwrite it; give another --out")
            images.write(path, draw(image, found))
        if self._txt:
            height, width = image.shape[:2]
            centred = to_cxcywh(found.boxes) / [width, height, width, height]
            rows = [
                f"{class_id} {' '.join(f'{value:.6f}' for value in box)} {score:.6f}"
                for class_id, box, score in zip(found.class_ids, centred, found.scores, strict=True)
            ]
            (self._folder / "labels" / f"{stem}.txt").write_text("".join(row + "\n" for row in rows), encoding="utf-8")
        self._rows += coco_results({self._image_id: found}, self._category_ids, {self._image_id: str(name)})
        self._lines += [[str(name), label, round(score, 4), *box.round(2).tolist()] for label, score, box in found]

    def close(self) -> None:
        """Write detections.json, and detections.csv if wanted; each appears whole or not at all."""
        temporary = self._folder / "detections.json.part"
        temporary.write_text("[" + ",\n ".join(json.dumps(row) for row in self._rows) + "]\n", encoding="utf-8")
        temporary.replace(self._folder / "detections.json")
        if self._table:
            with (self._folder / "detections.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(["file", "class", "score", "x1", "y1", "x2", "y2"])
                writer.writerows(self._lines)

    def _free_stem(self, name: Path) -> str:
        """Return the picture's stem, numbered if a picture of another folder took it."""
        stem, number = name.stem, 1
        while stem in self._taken:
            number += 1
            stem = f"{name.stem}-{number}"
        self._taken.add(stem)
        return stem
