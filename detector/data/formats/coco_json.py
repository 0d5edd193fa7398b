"""Parses the values of a COCO file: ids, sizes, boxes and masks; finds the lines of its elements."""

import json
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from detector.data.ledger import Ledger, LedgerEntry
from detector.data.parsing.json_file import RepeatedKeyError, find_lines, without_repeated_keys
from detector.data.parsing.row_values import number
from detector.data.parsing.shapes import bounding_box, mask_box, mask_counts, points_of
from detector.data.row_collector import Corners, RowError
from detector.errors import LabelError, location
from detector.files import read_text
from detector.partial_labels import NEGATIVE, NOT_EXHAUSTIVE, PartialLabels

MAX_AREA = 1e12
"""Larger areas, in square pixels, are not areas of objects."""

_MAX_ID = 2**63 - 1

_MAX_CATEGORY_ID = 2**53
"""Other programs, and the scoring, read larger ids as rounded numbers."""


@contextmanager
def nesting_errors(path: Path) -> Iterator[None]:
    """Convert a RecursionError in the `with` block to a LabelError: deeply nested JSON values raise RecursionError."""
    try:
        yield
    except RecursionError:
        raise LabelError(f"{path}: not COCO JSON: the values are nested too deeply") from None


def load_coco(path: Path) -> dict[str, Any]:
    """Return the contents of a COCO file, with the lists `images`, `annotations` and `categories`.

    Raises:
        InputError: the file cannot be read, is not JSON, contains a key twice, or lacks one of the lists.
    """
    text = read_text(path)
    try:
        data = json.loads(text, object_pairs_hook=without_repeated_keys)
    except RepeatedKeyError as error:
        raise LabelError(f"{path}: {error}") from None
    except json.JSONDecodeError as error:
        raise LabelError(f"{location(path, error.lineno)}: not JSON: {error.msg} in column {error.colno}") from None
    except ValueError:
        raise LabelError(f"{path}: not COCO JSON: it contains a number with thousands of digits") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise LabelError(f"{path}: not COCO JSON: expected an object with the list `{key}`")
    return data  # type: ignore[no-any-return]


def by_id(path: Path, data: dict[str, Any], key: str) -> dict[int, dict[str, Any]]:
    """Return id → element of the top-level list `key`.

    Raises:
        LabelError: an element has no whole number as id, or an id occurs twice.
    """
    items: dict[int, dict[str, Any]] = {}
    for index, item in enumerate(data[key]):
        item_id = whole_number(item.get("id")) if isinstance(item, dict) else None
        if item_id is None or abs(item_id) > _MAX_CATEGORY_ID:
            reason = f"`{key}` contains {item!r:.60}; expected an object with a whole number up to 2^53 as `id`"
            raise error_at(path, key, index, reason)
        if item_id in items:
            raise error_at(path, key, index, f"`{key}` contains the id {item_id} twice; ids must be unique")
        items[item_id] = item
    return items


def error_at(path: Path, key: str, index: int, reason: str) -> LabelError:
    """Return a LabelError for the element `index` of the top-level list `key`; its message has the line number."""
    return LabelError(f"{location(path, line_of(path, key, index))}: {reason}")


def line_of(path: Path, key: str, index: int) -> int | None:
    """Return the number of the line on which the element `index` of the top-level list `key` starts, if it is known."""
    return find_lines(read_text(path), (key, {index})).get((key, index))


def with_lines(path: Path, annotations: list[Any], ledger: Ledger) -> Ledger:
    """Return a copy of the ledger with line numbers instead of indices, and the annotation id in each reason.

    If the whole file is one line, the line numbers are None: the annotation id is enough to find the annotation.

    Args:
        path: the JSON file.
        annotations: the list `annotations` of the file.
        ledger: a ledger whose entries have an index into `annotations` as `line`.
    """
    if not ledger.entries:
        return ledger
    text = read_text(path)
    indices = {entry.line for entry in ledger.entries if entry.line is not None}
    lines = find_lines(text, ("annotations", indices)) if "\n" in text.strip() else {}

    def with_line(entry: LedgerEntry) -> LedgerEntry:
        assert entry.line is not None
        annotation = annotations[entry.line]
        name = f"annotation {annotation.get('id')!r:.60}" if isinstance(annotation, dict) else "annotation"
        return replace(entry, line=lines.get(("annotations", entry.line)), reason=f"{name}: {entry.reason}")

    return replace(ledger, entries=tuple(map(with_line, ledger.entries)))


def whole_number(value: object) -> int | None:
    """Return a whole number that may be written as 1, 1.0 or "1"; None if the value is not a whole number.

    >>> [whole_number(value) for value in (1, 1.0, "007", "1.0", 1.5, True, "x", None)]
    [1, 1, 7, 1, None, None, None, None]
    """
    if type(value) is int:
        return value
    if isinstance(value, str) and re.fullmatch(r"\d{1,18}(\.0+)?", value):
        return int(value.partition(".")[0])
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else None


def bbox_numbers(bbox: object) -> Corners | None:
    """Return the four numbers of a bbox, which may be written as text, or None if it is not four numbers."""
    if not isinstance(bbox, list) or len(bbox) != 4:
        return None
    x, y, width, height = map(number, bbox)
    if x is None or y is None or width is None or height is None:
        return None
    return x, y, width, height


def segmentation_box(segmentation: object) -> Corners | None:
    """Return the bounding box of a list of polygons or of a run-length encoded mask; None if it is neither."""
    try:
        if isinstance(segmentation, list) and all(isinstance(polygon, list) for polygon in segmentation):
            pairs = [list(pair) for polygon in segmentation for pair in zip(polygon[::2], polygon[1::2], strict=True)]
            return bounding_box(points_of(pairs))
        if isinstance(segmentation, dict):
            size = segmentation.get("size")
            if isinstance(size, list) and len(size) == 2 and type(size[0]) is type(size[1]) is int and size[0] > 0:
                return mask_box(mask_counts(segmentation.get("counts")), (size[0], size[1]))
    except (RowError, ValueError):  # ValueError: a polygon has an odd number of coordinates
        pass
    return None


def declared_hw(image: dict[str, Any]) -> tuple[int, int] | None:
    """Return (height, width) from an element of `images`, or None if a value is missing or invalid."""
    height, width = whole_number(image.get("height")), whole_number(image.get("width"))
    if height is not None and width is not None and 0 < height < 2**31 and 0 < width < 2**31:
        return height, width
    return None


def plain_corners(bbox: object) -> Corners | None:
    """Return (x1, y1, x2, y2) of a bbox of four numbers that are not written as text; None for any other value."""
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(type(value) in (int, float) for value in bbox):
        return None
    try:
        x, y, width, height = map(float, bbox)
    except OverflowError:  # an integer that is too large for a float
        return None
    return x, y, x + width, y + height


def marks_crowd(annotation: dict[str, Any]) -> bool:
    """Return whether `iscrowd` or `ignore` of an annotation is 1."""
    return annotation.get("iscrowd") == 1 or annotation.get("ignore") == 1


def read_partial_labels(
    path: Path, images: Sequence[Mapping[str, Any]], known: Container[int] | None = None
) -> list[PartialLabels] | None:
    """Return the partial labels of each image; None if all objects are labeled, as in most datasets.

    Args:
        path: the COCO file.
        images: the images of the file.
        known: category ids that a list may contain; None: any.

    Raises:
        LabelError: only some of the images have `neg_category_ids`, or a value is not a list of category ids.
    """
    if not any(NEGATIVE in image or image.get(NOT_EXHAUSTIVE) for image in images):
        return None
    for index, image in enumerate(images):
        if NEGATIVE not in image:
            reason = (
                f"image {image['id']} has no `{NEGATIVE}`, but images of this file have `{NEGATIVE}` or "
                f"`{NOT_EXHAUSTIVE}`; add it to every image"
            )
            raise error_at(path, "images", index, reason)
    return [
        PartialLabels(*(_category_list(path, index, image, key, known) for key in (NEGATIVE, NOT_EXHAUSTIVE)))
        for index, image in enumerate(images)
    ]


def _category_list(
    path: Path, index: int, image: Mapping[str, Any], key: str, known: Container[int] | None
) -> frozenset[int]:
    """Return the category ids in a list of an image; `index` is its position in `images`."""
    values = image.get(key, [])
    numbers = [whole_number(value) for value in values] if isinstance(values, list) else [None]
    ids = frozenset(number for number in numbers if number is not None and (known is None or number in known))
    if ids != {*numbers}:
        reason = f"`{key}` is {values!r:.60}; expected a list of ids of `categories`"
        raise error_at(path, "images", index, reason)
    return ids


def writes_plain_lists(images: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether the lists of partial labels contain numbers, not numbers written as text."""
    return all(type(i) is int for image in images for key in (NEGATIVE, NOT_EXHAUSTIVE) for i in image.get(key, ()))


def read_image_ids(path: Path, images: Sequence[Any]) -> dict[int | str, int]:
    """Return id as in the file → image id, in the order of the file. Ids that are not whole numbers are numbered.

    Raises:
        LabelError: an image has no id, or an id occurs twice.
    """
    ids: dict[int | str, int] = {}
    for index, image in enumerate(images):
        key = image.get("id") if isinstance(image, dict) else None
        number = whole_number(key)
        key = key if number is None else number
        if not isinstance(key, str | int) or isinstance(key, bool) or (isinstance(key, int) and abs(key) > _MAX_ID):
            reason = f"`images` contains {image!r:.60}; expected an object with a whole number as `id`"
            raise error_at(path, "images", index, reason)
        if key in ids:
            raise error_at(path, "images", index, f"`images` contains the id {key} twice; ids must be unique")
        ids[key] = index + 1
    if all(isinstance(key, int) for key in ids):
        return {key: int(key) for key in ids}
    return ids
