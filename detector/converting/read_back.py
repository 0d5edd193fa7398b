"""Reads a converted dataset and compares it with what should have been written."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detector.annotation import Annotation
from detector.data.label_writer import LabelWriter
from detector.data.open_data import open_data
from detector.data.split import Split
from detector.errors import LabelError
from detector.options import ReadOptions

_TOLERANCE = 0.01
"""Largest difference of two coordinates, in pixels."""

_AREA_TOLERANCE = 1e-5
"""Largest relative difference of two areas. Areas are float32 numbers."""


def check_result(folder: Path, splits: Sequence[Split], writer: LabelWriter, options: ReadOptions) -> None:
    """Read the dataset in a folder, and compare all classes, images and boxes with the splits that were written.

    Args:
        folder: the converted dataset.
        splits: the splits that were written, with the paths of the images in the folder.
        writer: the format that was written.
        options: what may be read.

    Raises:
        LabelError: there is a difference.
        InputError: the dataset cannot be read.
    """
    data_set = open_data(folder, allow_outside=options.allow_outside, max_pixels=options.max_pixels)
    if set(data_set.split_names) != {split.name for split in splits}:
        raise _error(f"the splits are {', '.join(data_set.split_names)}")
    for split in splits:
        _compare(split, data_set.read(split.name), writer)


def _compare(written: Split, found: Split, writer: LabelWriter) -> None:
    """Compare a split that was written with the same split after reading."""
    if found.class_names != written.class_names:
        raise _error(f"{written.name}: the classes are {found.class_names!r:.200}")
    if found.ledger.entries or found.ledger.missing:
        raise _error(f"{written.name}: {'; '.join(map(str, (*found.ledger.entries[:1], *found.ledger.missing[:1])))}")
    by_path = {annotation.image_path.resolve(): annotation for annotation in found.annotations}
    if len(by_path) != len(written.annotations):
        raise _error(f"{written.name}: {len(by_path)} images instead of {len(written.annotations)}")
    for annotation in written.annotations:
        other = by_path.get(annotation.image_path.resolve())
        if other is None:
            raise _error(f"{written.name}: {annotation.image_path} is not found")
        if (difference := _difference(annotation, other, writer)) is not None:
            raise _error(f"{written.name}: {annotation.image_path}: {difference}")


def _difference(written: Annotation, found: Annotation, writer: LabelWriter) -> str | None:
    """Return how the labels of an image differ after reading, or None if they are equal."""
    if written.image_hw != found.image_hw:
        (height, width), (found_height, found_width) = written.image_hw, found.image_hw
        return (
            f"the labels are for an image of {width} x {height} pixels, the file has {found_width} x {found_height}: "
            "the labels of the source do not belong to this image, or were made on another size"
        )
    if len(written.boxes) != len(found.boxes):
        return f"{len(found.boxes)} boxes instead of {len(written.boxes)}"
    if not np.array_equal(written.class_ids, found.class_ids):
        return "the classes of the boxes differ"
    if not np.array_equal(written.is_crowd, found.is_crowd):
        return "the crowd regions differ"
    if writer.keeps_partial_labels and not _same_labeled_classes(written, found):
        return "the classes that are labeled differ"
    distance = float(np.abs(written.boxes - found.boxes).max(initial=0))
    if distance > _TOLERANCE:
        return f"a coordinate differs by {distance:.3g} pixels"
    if writer.keeps_areas and not np.allclose(written.areas, found.areas, rtol=_AREA_TOLERANCE, atol=0):
        return "the areas of the objects differ"
    return None


def _same_labeled_classes(written: Annotation, found: Annotation) -> bool:
    """Return whether the same classes are labeled in two images; None means all."""
    one, other = (np.True_ if own.labeled_classes is None else own.labeled_classes for own in (written, found))
    return bool(np.all(one == other))


def _error(difference: str) -> LabelError:
    return LabelError(
        f"the converted dataset, read again, differs from the source: {difference}. The output was removed"
    )
