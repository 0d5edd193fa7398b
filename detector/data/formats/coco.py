"""Reads COCO JSON: one file per split, with its images, its categories, and boxes as x, y, width, height in pixels."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from detector.data.ledger import Ledger, LedgerEntry
from detector.data.path_guard import PathGuard
from detector.data.row_collector import Corners, LabelRow, RowCollector, RowError
from detector.data.split import Split, read_file
from detector.errors import LabelError, location
from detector.files import is_file, read_text
from detector.options import ReadOptions

_WHITESPACE = re.compile(r"[ \t\n\r]*")
_MAX_ID = 2**63 - 1
_MAX_AREA = 1e12
_REFERS_TO = {"image_id": "images", "category_id": "categories"}


def read_split(path: Path, name: str, options: ReadOptions = ReadOptions()) -> Split:  # noqa: B008 (immutable)
    """Read the labels in one COCO file and return them as a split; the images are not decoded.

    An image file is searched in the folder `images` next to the JSON file, then in the folder of the JSON file. For a
    JSON file in a folder `annotations`, the image file is also searched in the folder of the same name next to
    `annotations` (`annotations/instances_val2017.json` → `val2017/`), in the subfolder of that name in `images` next
    to `annotations`, and in that `images`. The classes are the categories, sorted by id. An annotation with `iscrowd`
    or `ignore` of 1 is a crowd region. The size of an image is read from the JSON file, or from the image file if the
    JSON file does not contain it.

    Args:
        path: the JSON file.
        name: name of the returned split.
        options: `allow_outside` allows images outside of the data set's folder; `max_pixels` is the largest number of
            pixels of an image that is decoded.

    Returns:
        The split. `ground_truth` is the contents of the JSON file if all its annotations and images can be used and
        COCO's scoring accepts it, else None.

    Raises:
        InputError: the file is not JSON or not in COCO format, an id or a file name occurs twice, an image is outside
            of the data set's folder, or no image exists.
    """
    with _nesting_errors(path):
        return _read_split(path, name, options)


def _read_split(path: Path, name: str, options: ReadOptions) -> Split:
    data = _load(path)
    categories = {i: _class_name(category) for i, category in _by_id(path, data, "categories").items()}
    if not categories:
        raise LabelError(f"{path}: `categories` is empty; expected at least one category")
    category_ids = tuple(sorted(categories))
    class_ids = {category_id: class_id for class_id, category_id in enumerate(category_ids)}
    images = _by_id(path, data, "images")
    collector = RowCollector(options)
    _add_images(collector, path, images, options)
    for index, annotation in enumerate(data["annotations"]):
        # The JSON parser does not report line numbers. `_with_lines` later replaces the index by the line number.
        try:
            collector.add_row(_parse_annotation(annotation, path, index, images, class_ids))
        except RowError as error:
            collector.drop(_image_id(annotation, images), path, index, error)
    annotations, ledger = collector.finish(path)
    is_complete = not ledger.dropped and not ledger.missing and _can_be_scored(data["annotations"])
    return Split(
        name,
        tuple(categories[i] for i in category_ids),
        category_ids,
        annotations,
        ledger=_with_lines(path, data["annotations"], ledger),
        read_image=partial(read_file, max_pixels=options.max_pixels),
        ground_truth=data if is_complete else None,
        max_pixels=options.max_pixels,
    )


def _parse_annotation(
    annotation: Any, path: Path, index: int, images: Mapping[int, Any], class_ids: Mapping[int, int]
) -> LabelRow:
    """Parse one annotation of the JSON file and return it as a label row.

    Args:
        annotation: an element of `annotations`, any JSON value.
        path: the JSON file.
        index: position in `annotations`; the `line` of the returned row.
        images: image id → element of `images`.
        class_ids: category id → class id.

    Raises:
        RowError: the annotation cannot be used.
    """
    if not isinstance(annotation, dict):
        raise RowError("malformed_row", f"expected an object, got {annotation!r:.60}")
    image_id, category_id, bbox = _image_id(annotation, images), annotation.get("category_id"), annotation.get("bbox")
    if image_id is None:
        raise RowError("unknown_image", f"image_id {annotation.get('image_id')!r:.60} is not among the images")
    if type(category_id) is not int or category_id not in class_ids:
        raise RowError("unknown_class", f"category_id {category_id!r:.60} is not among the categories")
    if (corners := _corners(bbox)) is None:
        reason = "bbox is missing" if bbox is None else f"bbox {bbox!r:.60} is not four numbers"
        raise RowError("malformed_row", reason)
    area = annotation.get("area")
    area = float(area) if isinstance(area, int | float) and 0 < area < _MAX_AREA else 0.0
    return LabelRow(image_id, path, index, class_ids[category_id], corners, _is_crowd(annotation), area)


def _image_id(annotation: Any, images: Mapping[int, Any]) -> int | None:
    """Return the `image_id` of an annotation, or None if `images` has no image with this id."""
    image_id = annotation.get("image_id") if isinstance(annotation, dict) else None
    return image_id if type(image_id) is int and image_id in images else None


def read_ground_truth(path: Path) -> dict[str, Any]:
    """Read a COCO file and return its contents unchanged, as ground truth for scoring; the images need not exist.

    Raises:
        InputError: the file is not JSON or not in COCO format, or an annotation cannot be scored.
    """
    with _nesting_errors(path):
        data = _load(path)
        known = {key: _by_id(path, data, plural) for key, plural in _REFERS_TO.items()}
        for index, annotation in enumerate(data["annotations"]):
            if (problem := _scoring_problem(annotation, known)) is not None:
                raise _error_at(path, "annotations", index, problem)
    if not _can_be_scored(data["annotations"]):
        raise LabelError(
            f"{path}: the annotations cannot be scored; each needs a unique `id`, an `area`, and 0 or 1 as `iscrowd`"
        )
    return data


def _scoring_problem(annotation: Any, known: dict[str, dict[int, Any]]) -> str | None:
    """Return the reason why an annotation cannot be scored, or None if it can be scored.

    Args:
        annotation: an element of `annotations`, any JSON value.
        known: "image_id" or "category_id" → elements of the file by id.
    """
    corners = _corners(annotation.get("bbox")) if isinstance(annotation, dict) else None
    if corners is None or not all(map(math.isfinite, corners)):
        return "the annotation cannot be scored; expected a bbox of four finite numbers"
    for key, items in known.items():
        if type(annotation.get(key)) is not int or annotation[key] not in items:
            return f"{key} {annotation.get(key)!r:.60} is not among the {_REFERS_TO[key]}"
    return None


def to_coco(split: Split) -> dict[str, Any]:
    """Return the images, annotations and categories of a split as a COCO dictionary with the ids of the split."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for annotation in split.annotations:
        height, width = annotation.image_hw
        file_name = annotation.image_path.as_posix()
        images.append({"id": annotation.image_id, "file_name": file_name, "height": height, "width": width})
        # In float64, x + width is exactly the right side x2 of the box.
        bboxes = annotation.boxes.astype(np.float64)
        bboxes[:, 2:] -= bboxes[:, :2]
        rows = zip(bboxes.tolist(), annotation.class_ids, annotation.is_crowd, annotation.areas.tolist(), strict=True)
        for bbox, class_id, is_crowd, area in rows:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": annotation.image_id,
                    "category_id": split.category_ids[class_id],
                    "bbox": bbox,
                    "area": area,
                    "iscrowd": int(is_crowd),
                }
            )
    categories = [{"id": i, "name": name} for i, name in zip(split.category_ids, split.class_names, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}


@contextmanager
def _nesting_errors(path: Path) -> Iterator[None]:
    """Convert a RecursionError in the `with` block to a LabelError: deeply nested JSON values raise RecursionError."""
    try:
        yield
    except RecursionError:
        raise LabelError(f"{path}: not COCO JSON: the values are nested too deeply") from None


def _load(path: Path) -> dict[str, Any]:
    text = read_text(path)
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise LabelError(f"{location(path, error.lineno)}: not JSON: {error.msg} in column {error.colno}") from None
    except ValueError:
        raise LabelError(f"{path}: not COCO JSON: it contains a number with thousands of digits") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise LabelError(f"{path}: not COCO JSON: expected an object with the list `{key}`")
    return data  # type: ignore[no-any-return]


def _by_id(path: Path, data: dict[str, Any], key: str) -> dict[int, dict[str, Any]]:
    items: dict[int, dict[str, Any]] = {}
    for index, item in enumerate(data[key]):
        if not isinstance(item, dict) or type(item.get("id")) is not int or abs(item["id"]) > _MAX_ID:
            reason = f"`{key}` contains {item!r:.60}; expected an object with a whole number as `id`"
            raise _error_at(path, key, index, reason)
        if item["id"] in items:
            raise _error_at(path, key, index, f"`{key}` contains the id {item['id']} twice; ids must be unique")
        items[item["id"]] = item
    return items


def _error_at(path: Path, key: str, index: int, reason: str) -> LabelError:
    """Return a LabelError for the element `index` of the top-level list `key`; its message has the line number."""
    return LabelError(f"{location(path, _line_of(path, key, index))}: {reason}")


def _add_images(collector: RowCollector, path: Path, images: dict[int, dict[str, Any]], options: ReadOptions) -> None:
    folder, outer, stem = path.parent, path.parent.parent, path.stem.removeprefix("instances_")
    roots = [folder / "images", folder]
    if folder.name == "annotations":
        roots += [outer / stem, outer / "images" / stem, outer / "images"]
    roots = [root for root in roots if root.is_dir()]
    guard = PathGuard([outer if folder.name == "annotations" else folder, *roots], options)
    seen: set[str] = set()
    for index, (image_id, image) in enumerate(images.items()):
        file_name = image.get("file_name")
        if not isinstance(file_name, str) or not file_name:
            raise _error_at(path, "images", index, f"image {image_id} has no `file_name`")
        if file_name in seen:
            reason = f"two images have the file_name {file_name!r}; merge their annotations under one id"
            raise _error_at(path, "images", index, reason)
        seen.add(file_name)
        candidates = [root / file_name for root in roots]
        image_path = next((candidate for candidate in candidates if is_file(candidate)), candidates[0])
        if not guard.allows(image_path):
            guard.check(image_path, path, _line_of(path, "images", index))
        collector.add_image(image_id, image_path, _image_hw(image))


def _image_hw(image: dict[str, Any]) -> tuple[int, int] | None:
    """Return (height, width) from an element of `images`, or None if a value is missing or invalid."""
    height, width = image.get("height"), image.get("width")
    if type(height) is int and type(width) is int and 0 < height < 2**31 and 0 < width < 2**31:
        return height, width
    return None


def _class_name(category: dict[str, Any]) -> str:
    name = category.get("name")
    return str(category["id"] if name in (None, "") else name)


def _corners(bbox: object) -> Corners | None:
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(type(value) in (int, float) for value in bbox):
        return None
    try:
        x, y, width, height = map(float, bbox)
    except OverflowError:  # an integer that is too large for a float
        return None
    return x, y, x + width, y + height


def _is_crowd(annotation: dict[str, Any]) -> bool:
    return annotation.get("iscrowd") == 1 or annotation.get("ignore") == 1


def _can_be_scored(annotations: list[dict[str, Any]]) -> bool:
    """Return True if COCO's scoring accepts the annotations.

    COCO's scoring needs a unique `id` and an `area` for each annotation, and it does not know the key `ignore`.
    """
    ids = {a["id"] for a in annotations if _is_scorable(a)}
    return len(ids) == len(annotations)


def _is_scorable(annotation: dict[str, Any]) -> bool:
    area, is_crowd = annotation.get("area"), annotation.get("iscrowd", 0)
    is_area = isinstance(area, int | float) and 0 <= area < _MAX_AREA
    is_valid = type(annotation.get("id")) is int and is_area and is_crowd in (0, 1)
    return is_valid and _is_crowd(annotation) == (is_crowd == 1)


def _with_lines(path: Path, annotations: list[Any], ledger: Ledger) -> Ledger:
    """Return a copy of the ledger with line numbers instead of indices, and the annotation id in each reason.

    Args:
        path: the JSON file.
        annotations: the list `annotations` of the file.
        ledger: a ledger whose entries have an index into `annotations` as `line`.
    """
    if not ledger.entries:
        return ledger
    lines = _find_lines(read_text(path), "annotations", {entry.line for entry in ledger.entries})

    def with_line(entry: LedgerEntry) -> LedgerEntry:
        assert entry.line is not None
        annotation = annotations[entry.line]
        name = f"annotation {annotation.get('id')!r:.60}" if isinstance(annotation, dict) else "annotation"
        return replace(entry, line=lines[entry.line], reason=f"{name}: {entry.reason}")

    return replace(ledger, entries=tuple(map(with_line, ledger.entries)))


def _line_of(path: Path, key: str, index: int) -> int:
    """Return the number of the line on which the element `index` of the top-level list `key` starts."""
    return _find_lines(read_text(path), key, {index})[index]


def _find_lines(text: str, key: str, indices: Set[int | None]) -> dict[int, int]:
    """Return index → number of the line on which this element of the top-level list `key` starts.

    Args:
        text: valid JSON.
        key: key of the list.
        indices: indices of elements of the list.
    """
    decode = json.JSONDecoder().raw_decode

    def skip(position: int, character: str = "") -> int:
        """Return the position after whitespace, then at most one `character`, then more whitespace."""
        position = _WHITESPACE.match(text, position).end()  # type: ignore[union-attr]
        return skip(position + 1) if character and text[position] == character else position

    starts: dict[int, int] = {}
    position = skip(0, "{")
    while text[position] != "}":
        name, position = decode(text, position)
        position = skip(position, ":")
        if name == key and text[position] == "[":
            position, index = skip(position, "["), 0
            while text[position] != "]":
                if index in indices:
                    starts[index] = position
                position, index = skip(decode(text, position)[1], ","), index + 1
            position += 1
        else:
            position = decode(text, position)[1]
        position = skip(position, ",")
    lines, line, before = {}, 1, 0
    for index, start in starts.items():
        line, before = line + text.count("\n", before, start), start
        lines[index] = line
    return lines
