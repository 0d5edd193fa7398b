"""Writes YOLO label files: data.yaml, the images in images/train/, and one text file per image in labels/train/."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from detector.annotation import Annotation
from detector.data.label_writer import LabelWriter, write_text
from detector.data.split import Split
from detector.errors import LabelError
from detector.images import IMAGE_SUFFIXES


def _image_folder(folder: Path, split_name: str) -> Path:
    """Return the folder for the images of a split."""
    return folder / "images" / split_name


def _check(splits: Sequence[Split]) -> None:
    """Raise LabelError if two classes have the same name, or if the suffix of an image is not that of an image."""
    for split in splits:
        check_different_names(split.class_names, "YOLO's data.yaml")
        for annotation in split.annotations:
            if annotation.image_path.suffix.lower() not in IMAGE_SUFFIXES:
                raise LabelError(
                    f"{annotation.image_path.name}: programs that read YOLO find only images with the suffixes "
                    f"{', '.join(sorted(IMAGE_SUFFIXES))}; save the image as PNG first, or convert to COCO JSON"
                )


def check_different_names(class_names: Sequence[str], where: str) -> None:
    """Raise LabelError if two classes have the same name; `where` is the file or format that cannot hold them."""
    name, count = Counter(class_names).most_common(1)[0]
    if count > 1:
        raise LabelError(f"{count} classes have the name {name!r:.60}, which {where} cannot hold; rename them first")


def quoted_list(class_names: Sequence[str]) -> str:
    """Return class names as a YAML list. All names are in quotes, so that `no`, `1` and `null` stay text."""
    return yaml.safe_dump(list(class_names), default_style='"', allow_unicode=True, width=2**31)


def _write(folder: Path, splits: Sequence[Split]) -> None:
    """Write one label file per image, also for background images, and then the data.yaml."""
    for split in splits:
        for annotation in split.annotations:
            write_text(folder / "labels" / split.name / f"{annotation.image_path.stem}.txt", _rows(annotation))
    places = "".join(f"{split.name}: images/{split.name}\n" for split in splits)
    names = splits[0].class_names
    write_text(folder / "data.yaml", f"{places}nc: {len(names)}\nnames:\n{quoted_list(names)}")


def _rows(annotation: Annotation) -> str:
    """Return the contents of a label file: `class cx cy width height` per box, with all digits of float64.

    With fewer digits, a box of whole numbers would not be read as whole numbers.
    """
    height, width = annotation.image_hw
    boxes = annotation.boxes.astype(np.float64)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2 / (width, height)
    sizes = (boxes[:, 2:] - boxes[:, :2]) / (width, height)
    rows = zip(annotation.class_ids.tolist(), centers.tolist(), sizes.tolist(), strict=True)
    return "".join(f"{class_id} {' '.join(map(repr, [*center, *size]))}\n" for class_id, center, size in rows)


WRITER = LabelWriter(
    "YOLO",
    _image_folder,
    _check,
    _write,
    keeps_crowd=False,
    keeps_partial_labels=False,
    keeps_areas=False,
    accepts_any_path=False,
)
