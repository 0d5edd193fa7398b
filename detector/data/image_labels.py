"""`ImageLabels`: the labels of one image as a label file contains them, before the image file is found.

The readers of all formats that name classes in their rows return these objects. `named_labels.py` finds the image
files, numbers the classes and makes splits.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from detector.data.row_collector import Corners, RowError

EVERY_CLASS = " * "
"""Class name of a crowd region that belongs to no class in particular, such as `DontCare` in KITTI.

It is a crowd region of every class, and not the name of a class. The spaces make it different from all class names in
label files, which are stripped.
"""


class NamedRow(NamedTuple):
    """A label row that names its class.

    Attributes:
        line: line number of the row in the label file, counted from 1; None if the row has no line of its own.
        class_name: name of the class, not empty; or `EVERY_CLASS`, only for a crowd region.
        corners: the box as (x1, y1, x2, y2), in pixels, or in fractions of the image size if
            `ImageLabels.are_fractions`.
        is_crowd: whether the row marks a crowd region or ignore region.
    """

    line: int | None
    class_name: str
    corners: Corners
    is_crowd: bool = False


class BadRow(NamedTuple):
    """A label row that cannot be used. It is counted as dropped.

    Attributes:
        line: line number of the row in the label file, counted from 1; None if the row has no line of its own.
        error: code and reason.
    """

    line: int | None
    error: RowError


@dataclass(frozen=True)
class ImageLabels:
    """The labels of one image in a label file.

    Attributes:
        label_file: the label file.
        line: line of the label file that names the image, counted from 1; None if the label file has no such line.
        image_name: file name or path of the image, as written in the label file; may be a path of another computer.
        rows: all label rows of the image, in the order of the file.
        image_hw: (height, width) of the image that the label file gives; None if it gives none. The size of the image
            file must be the same.
        are_fractions: whether the boxes are in fractions of the image size instead of pixels.
        split_name: name of the split if the label file gives it, such as "train"; None: it follows from the path of
            the label file.
        remarks: for each label that is no row, or that was changed to become a row, what happened to it. The ledger
            counts equal texts in a note, such as "not used, because they have no box: 3 labels".
    """

    label_file: Path
    line: int | None
    image_name: str
    rows: tuple[NamedRow | BadRow, ...]
    image_hw: tuple[int, int] | None = None
    are_fractions: bool = False
    split_name: str | None = None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelFormat:
    """A label format whose rows name their classes.

    Attributes:
        name: name of the format in messages, such as "CreateML JSON".
        kind: how a file is opened to recognize it: "json", "jsonl" (JSON lines), "xml", "csv" or "txt".
        matches: whether a file has this format. The argument depends on `kind`: for "json" the parsed JSON value; for
            "jsonl" the parsed values of those of the first 20 lines that are JSON; for "xml" the tag of the root
            element; for "csv" and "txt" the first lines of the file, at most 20.
        read: reads one label file and returns the labels of its images. Raises InputError if the file cannot be read.
        per_image: whether each label file contains the labels of one image, as in Pascal VOC.
        matches_stem: whether `ImageLabels.image_name` may be without suffix, or with a wrong one.
        may_be_corners: whether the boxes are x, y, width and height in a list without names, for which people also
            write corners. Boxes that look like corners are then refused.
        path_end: end of the path of every file of this format, in lower case, such as "/gt/gt.txt"; for a format that
            its content alone does not recognize. Its images are then only at `ImageLabels.image_name`, relative to the
            label file, and not searched elsewhere. Empty: any path.
    """

    name: str
    kind: Literal["json", "jsonl", "xml", "csv", "txt"]
    matches: Callable[[Any], bool]
    read: Callable[[Path], Iterable[ImageLabels]]
    per_image: bool = False
    matches_stem: bool = False
    may_be_corners: bool = False
    path_end: str = ""
