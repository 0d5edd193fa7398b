"""`LabelWriter`: how the labels of a dataset are written in one format."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detector.data.split import Split


@dataclass(frozen=True)
class LabelWriter:
    """A label format that can be written.

    The splits that the functions get have the names "train", "val" or "test". Each `Annotation.image_path` is the path
    that the image has in the written dataset.

    Attributes:
        name: name of the format in messages, such as "COCO JSON".
        image_folder: returns the folder for the images of a split, from the folder of the dataset and the split name.
        check: raises LabelError if the format cannot hold the splits exactly. It is called before anything is written.
        write: writes all label files of a dataset, from the folder of the dataset and its splits.
        keeps_crowd: whether the format can mark crowd regions.
        keeps_partial_labels: whether the format can say that a class is not labeled in an image.
        keeps_areas: whether the format contains the areas of the objects.
        accepts_any_path: whether the label files can refer to images anywhere on the computer.
    """

    name: str
    image_folder: Callable[[Path, str], Path]
    check: Callable[[Sequence[Split]], None]
    write: Callable[[Path, Sequence[Split]], None]
    keeps_crowd: bool
    keeps_partial_labels: bool
    keeps_areas: bool
    accepts_any_path: bool


def write_text(path: Path, text: str) -> None:
    r"""Write a label file as UTF-8 with `\n` as line ending, and create its folder.

    The file is not flushed to disk: a dataset may have 100,000 label files.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def shortest(value: np.float32) -> float | int:
    """Return a float32 number as the shortest decimal number that is read as the same float32; an int if it is whole.

    >>> shortest(np.float32(0.1)), shortest(np.float32(12))
    (0.1, 12)
    """
    number = float(str(value))
    return int(number) if number.is_integer() else number
