"""Detections as files: drawn pictures, COCO results, and on request YOLO text and CSV."""

import csv
import json
from collections.abc import Iterable
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
        sources: the pictures that will be added, none of which may lie in the folder.
        pictures: write drawn pictures.
        txt: write labels/NAME.txt with rows `class cx cy w h score`, shares of the picture's size.
        table: write detections.csv.

    Raises:
        InputError: the folder cannot be made, or holds files that did not come from here.
    """

    def __init__(
        self,
        folder: Path,
        category_ids: tuple[int, ...],
        sources: Iterable[Path] = (),
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
        self._results, self._unfinished = folder / "detections.json", folder / "detections.json.part"
        for source in sources:
            if source.parent.resolve() == folder.resolve():
                raise InputError(f"{source}: lies in the folder for the results; give another --out")
        try:
            held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
            if held and not held & {self._results.name, self._unfinished.name}:
                raise InputError(f"{folder}: holds files that are not detections; give another --out")
            (folder / "labels" if txt else folder).mkdir(parents=True, exist_ok=True)
            self._unfinished.touch()
        except OSError as error:
            raise InputError(f"{folder}: cannot be written ({error.strerror})") from None

    def add(self, name: Path, image: Pixels, found: Detections) -> None:
        """Take the answer to one picture."""
        self._image_id += 1
        stem = self._free_stem(name)
        if self._pictures:
            suffix = name.suffix.lower() if name.suffix.lower() in (".jpg", ".jpeg", ".png") else ".jpg"
            images.write(self._folder / f"{stem}{suffix}", draw(image, found))
        if self._txt:
            height, width = image.shape[:2]
            centred = to_cxcywh(found.boxes) / [width, height, width, height]
            rows = [
                f"{class_id} {' '.join(f'{value:.6f}' for value in box)} {score:.6f}"
                for class_id, box, score in zip(found.class_ids, centred, found.scores, strict=True)
            ]
            (self._folder / "labels" / f"{stem}.txt").write_text("".join(row + "\n" for row in rows), encoding="utf-8")
        self._rows += coco_results({self._image_id: found}, self._category_ids, {self._image_id: str(name)})
        self._lines += [
            [str(name), label, round(score, 4), *(round(float(side), 2) for side in box)] for label, score, box in found
        ]

    def close(self) -> None:
        """Write detections.json, and detections.csv if wanted; each appears whole or not at all."""
        rows = ",\n ".join(json.dumps(row) for row in self._rows)
        self._unfinished.write_text(f"[{rows}]\n", encoding="utf-8")
        self._unfinished.replace(self._results)
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
