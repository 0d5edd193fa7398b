"""Writes COCO JSON: one file per split, such as train.json, and the images in images/train/."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from detector.data.formats.coco_scoring import to_coco
from detector.data.label_writer import LabelWriter, shortest, write_text
from detector.data.split import Split
from detector.errors import LabelError

_DECIMALS = 9
"""Width and height are differences of float32 numbers. This many decimals hide the rounding errors of float64."""


def _image_folder(folder: Path, split_name: str) -> Path:
    """Return the folder for the images of a split."""
    return folder / "images" / split_name


def _check(splits: Sequence[Split]) -> None:
    """Raise LabelError if a class has no name: readers of COCO JSON replace an empty name by the id."""
    for split in splits:
        if "" in split.class_names:
            class_id = split.class_names.index("")
            raise LabelError(f"class {class_id} has an empty name, which COCO JSON cannot hold; name the class first")


def _write(folder: Path, splits: Sequence[Split]) -> None:
    """Write one JSON file per split; the path of an image in `folder` is relative to `folder`, others are absolute."""
    for split in splits:
        write_text(folder / f"{split.name}.json", coco_text(folder, split))


def coco_text(folder: Path, split: Split) -> str:
    """Return the content of the JSON file of a split; paths in `folder` are relative to it, others absolute."""
    return json.dumps(_coco_values(folder, split), allow_nan=False) + "\n"


def _coco_values(folder: Path, split: Split) -> dict[str, Any]:
    """Return the contents of the JSON file of a split, with the shortest numbers that are read as the same box."""
    annotations = []
    for annotation in split.annotations:
        path = annotation.image_path
        file_name = path.relative_to(folder) if path.is_relative_to(folder) else path
        annotations.append(replace(annotation, image_path=file_name))
    values = to_coco(replace(split, annotations=tuple(annotations)))
    for row in values["annotations"]:
        x, y, width, height = row["bbox"]
        x1, y1, x2, y2 = (float(str(np.float32(value))) for value in (x, y, x + width, y + height))
        sides = (x1, y1, round(x2 - x1, _DECIMALS), round(y2 - y1, _DECIMALS))
        row["bbox"] = [int(value) if value.is_integer() else value for value in sides]
        row["area"] = shortest(np.float32(row["area"]))
    return values


WRITER = LabelWriter(
    "COCO JSON",
    _image_folder,
    _check,
    _write,
    keeps_crowd=True,
    keeps_partial_labels=True,
    keeps_areas=True,
    accepts_any_path=True,
)
