"""Reads COCO JSON: one file per split, with its images, its categories, and boxes as x, y, width, height in pixels."""

import json
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from detector.annotation import Annotation
from detector.data.coordinates import look_like_corners, look_like_fractions
from detector.data.file_index import FULL, FileIndex, Match
from detector.data.formats.coco_categories import find_placeholder, make_category, merge_categories
from detector.data.ledger import Ledger, LedgerEntry
from detector.data.parsing.row_values import number
from detector.data.parsing.shapes import bounding_box, mask_box, mask_counts, points_of
from detector.data.path_guard import PathGuard
from detector.data.row_collector import Corners, LabelRow, RowCollector, RowError
from detector.data.split import Split, read_file
from detector.errors import LabelError, location
from detector.files import is_file, read_text
from detector.options import ReadOptions
from detector.wording import plural

_LOG = logging.getLogger(__name__)

_WHITESPACE = re.compile(r"[ \t\n\r]*")
_MAX_ID = 2**63 - 1
_MAX_AREA = 1e12
_REFERS_TO = {"image_id": "images", "category_id": "categories"}


@dataclass(frozen=True)
class CocoFiles:
    """The COCO files of a data set, one per split.

    Attributes:
        files: split name → JSON file.
        index: all files of the data set.
        options: what may be read.
    """

    files: Mapping[str, Path]
    index: FileIndex
    options: ReadOptions

    def read(self, name: str) -> Split:
        """Read the labels of one split; the images are not decoded.

        The classes are the categories of all files, sorted by id. An unused category that is only the supercategory of
        the others, as in exports of Roboflow, is left out. An annotation with `iscrowd` or `ignore` of 1 is a crowd
        region. An annotation without `bbox` gets the bounding box of its mask. Numbers may be written as text.

        Args:
            name: a key of `files`.

        Returns:
            The split. `ground_truth` is the contents of the JSON file if all of it is used unchanged and COCO's scoring
            accepts it, else None.

        Raises:
            InputError: the file is not JSON or not in COCO format, an id or a file name occurs twice, boxes are
                fractions or corners, an image is outside of the data set's folder, or no image exists.
        """
        path = self.files[name]
        with _nesting_errors(path):
            data = _load(path)
            own = {i: make_category(i, item) for i, item in _by_id(path, data, "categories").items()}
            if not own:
                raise LabelError(f"{path}: `categories` is empty; expected at least one category")
            others = [other for other in self.files.values() if other != path]
            categories = merge_categories(path, own, others)
            placeholder = find_placeholder(categories, self.files.values())
            category_ids = tuple(i for i in sorted(categories) if i != placeholder)
            reader = _Reader(path, name, data, {i: n for n, i in enumerate(category_ids)}, self)
            if placeholder is not None:
                reader.collector.add_note(
                    f"category {placeholder} ({categories[placeholder].name}) has no object and is only the "
                    "supercategory of the others, as in exports of Roboflow; it is not a class"
                )
            annotations, ledger = reader.read()
            is_unchanged = reader.is_unchanged and placeholder is None and not ledger.dropped and not ledger.missing
            return Split(
                name,
                tuple(categories[i].name for i in category_ids),
                category_ids,
                annotations,
                ledger=_with_lines(path, data["annotations"], ledger),
                read_image=partial(read_file, max_pixels=self.options.max_pixels),
                ground_truth=data if is_unchanged and _can_be_scored(data["annotations"]) else None,
                max_pixels=self.options.max_pixels,
            )


class _Reader:
    """Reads the images and annotations of one COCO file.

    Args:
        path: the JSON file.
        name: name of the split.
        data: contents of the file.
        class_ids: category id → class id.
        files: the COCO files of the data set.

    Attributes:
        collector: collects images and rows.
        is_unchanged: whether all ids and boxes are used as they are written.
    """

    def __init__(
        self, path: Path, name: str, data: dict[str, Any], class_ids: Mapping[int, int], files: CocoFiles
    ) -> None:
        self.collector = RowCollector(files.options)
        self._path, self._name, self._data, self._class_ids, self._files = path, name, data, class_ids, files
        self._image_ids = _image_ids(path, data["images"])
        self.is_unchanged = all(key == image_id for key, image_id in self._image_ids.items())
        self._from_masks = 0

    def read(self) -> tuple[tuple[Annotation, ...], Ledger]:
        """Read all images and annotations; return the annotations per image and the ledger.

        Raises:
            InputError: as for `CocoFiles.read`.
        """
        sizes = self._add_images()
        written: list[Corners] = []
        rows: list[LabelRow] = []
        for index, annotation in enumerate(self._data["annotations"]):
            # The JSON parser does not report line numbers. `_with_lines` later replaces the index by the line number.
            try:
                row = self._parse(annotation, index)
            except RowError as error:
                self.collector.drop(self._image_id(annotation), self._path, index, error)
                continue
            self.collector.add_row(row)
            if sizes.get(row.image_id) and (bbox := _numbers(annotation.get("bbox"))):
                written.append(bbox)
                rows.append(row)
        _check_coordinates(self._path, written, rows, sizes)
        if self._from_masks:
            self.is_unchanged = False
            self.collector.add_note(
                f"bounding boxes of masks are used for {plural(self._from_masks, 'annotation')} without bbox"
            )
        return self.collector.finish(self._path)

    def _parse(self, annotation: Any, index: int) -> LabelRow:
        """Parse one annotation of the JSON file and return it as a label row.

        Args:
            annotation: an element of `annotations`, any JSON value.
            index: position in `annotations`; the `line` of the returned row.

        Raises:
            RowError: the annotation cannot be used.
        """
        if not isinstance(annotation, dict):
            raise RowError("malformed_row", f"expected an object, got {annotation!r:.60}")
        image_id = self._image_id(annotation)
        if image_id is None:
            raise RowError("unknown_image", f"image_id {annotation.get('image_id')!r:.60} is not among the images")
        category_id = whole_number(annotation.get("category_id"))
        if category_id is None or category_id not in self._class_ids:
            reason = f"category_id {annotation.get('category_id')!r:.60} is not among the categories"
            raise RowError("unknown_class", reason)
        bbox = annotation.get("bbox")
        if bbox in (None, []) and (corners := _mask_box(annotation.get("segmentation"))) is not None:
            self._from_masks += 1
        elif (numbers := _numbers(bbox)) is not None:
            x, y, width, height = numbers
            corners = x, y, x + width, y + height
            self.is_unchanged &= _corners(bbox) is not None
        else:
            reason = "bbox is missing" if bbox is None else f"bbox {bbox!r:.60} is not four numbers"
            raise RowError("malformed_row", reason)
        self.is_unchanged &= type(annotation["image_id"]) is type(annotation["category_id"]) is int
        area = annotation.get("area")
        area = float(area) if isinstance(area, int | float) and 0 < area < _MAX_AREA else 0.0
        return LabelRow(image_id, self._path, index, self._class_ids[category_id], corners, _is_crowd(annotation), area)

    def _image_id(self, annotation: Any) -> int | None:
        """Return the id of the image of an annotation, or None if the file has no image with this id."""
        key = annotation.get("image_id") if isinstance(annotation, dict) else None
        number = whole_number(key)
        if number in self._image_ids:
            return self._image_ids[number]
        return self._image_ids.get(key) if isinstance(key, str) else None

    def _add_images(self) -> dict[int, tuple[int, int]]:
        """Find the file of each image and add it to the collector; return image id → (height, width).

        Raises:
            LabelError: an image has no file name, two images have the same file, or a file is outside of the folder.
        """
        folders = _image_folders(self._path, self._name)
        outer = self._path.parent.parent if self._path.parent.name == "annotations" else self._path.parent
        guard = PathGuard([self._files.index.folder, outer, *folders], self._files.options)
        found = [self._find(index, folders, guard) for index in range(len(self._image_ids))]
        best: dict[Path, int] = {}
        for match in found:
            if match is not None:
                best[match.path] = max(match.parts, best.get(match.path, 0))
        owners: dict[Path, int] = {}
        sizes: dict[int, tuple[int, int]] = {}
        for index, (image_id, match) in enumerate(zip(self._image_ids.values(), found, strict=True)):
            image = self._data["images"][index]
            # Of "a/1.jpg" and "b/1.jpg", only one can be the file a/1.jpg. The other image is missing.
            if match is None or match.parts < best[match.path]:
                self.collector.add_missing_image(image_id, image["file_name"], folders[0] / image["file_name"])
                continue
            if (other := owners.setdefault(match.path, index)) != index:
                first = self._data["images"][other]
                reason = (
                    f"two images have the file_name {image['file_name']!r}"
                    if first["file_name"] == image["file_name"]
                    else f"the images {first['file_name']!r} and {image['file_name']!r} are the same file {match.path}"
                )
                raise _error_at(self._path, "images", index, f"{reason}; merge their annotations under one id")
            if (size := self.collector.add_image(image_id, match.path, _image_hw(image))) is not None:
                sizes[image_id] = size
        return sizes

    def _find(self, index: int, folders: Sequence[Path], guard: PathGuard) -> Match | None:
        """Return the image file that an element of `images` names, or None if it does not exist."""
        image = self._data["images"][index]
        file_name = image.get("file_name")
        if not isinstance(file_name, str) or not file_name:
            raise _error_at(self._path, "images", index, f"image {image['id']} has no `file_name`")
        match = self._files.index.find_image(file_name, self._path, self._name, folders=folders)
        if match is None or (match.parts < FULL and self._files.options.allow_outside):
            # Links in subfolders and paths out of the folder are not in the index.
            outside = next((place / file_name for place in folders if is_file(place / file_name)), None)
            match = Match(outside, FULL) if outside is not None else match
        if match is not None and not guard.allows(match.path):
            guard.check(match.path, self._path, _line_of(self._path, "images", index))
        return match


def _image_folders(path: Path, name: str) -> list[Path]:
    """Return the folders in which the images of a COCO file usually are, in the order in which they are searched."""
    folder, outer, stem = path.parent, path.parent.parent, path.stem.removeprefix("instances_")
    folders = [folder / "images", folder]
    if folder.name == "annotations":
        folders += [outer / stem, outer / "images" / stem, outer / "images", outer / name, outer / "images" / name]
    folders += [folder / "images" / name, folder / name, folder / "data"]
    return [place for place in folders if place.is_dir()]


def _check_coordinates(
    path: Path, written: Sequence[Corners], rows: Sequence[LabelRow], sizes: Mapping[int, tuple[int, int]]
) -> None:
    """Raise LabelError if the boxes look like fractions of the image size, or like corners.

    Args:
        path: the JSON file.
        written: the `bbox` of each annotation of a usable image.
        rows: the rows made from them.
        sizes: image id → (height, width).
    """
    if look_like_fractions(written):
        raise LabelError(
            f"{path}: all {len(written)} boxes lie within 0..1: they look like fractions of the image size; COCO's "
            "bbox is [x, y, width, height] in pixels: multiply x and width by the image width, y and height by the "
            "image height"
        )
    image_wh = [(sizes[row.image_id][1], sizes[row.image_id][0]) for row in rows]
    areas = [row.area for row in rows]
    if look_like_corners(written, [row.corners for row in rows], image_wh, areas):
        raise LabelError(
            f"{path}: the boxes look like corners [x1, y1, x2, y2]: as COCO's [x, y, width, height], many of them "
            "extend beyond their image or do not fit their `area`; write width = x2 - x1 and height = y2 - y1"
        )


def _image_ids(path: Path, images: Sequence[Any]) -> dict[int | str, int]:
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
            raise _error_at(path, "images", index, reason)
        if key in ids:
            raise _error_at(path, "images", index, f"`images` contains the id {key} twice; ids must be unique")
        ids[key] = index + 1
    if all(isinstance(key, int) for key in ids):
        return {key: int(key) for key in ids}
    return ids


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


def _mask_box(segmentation: object) -> Corners | None:
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


def _numbers(bbox: object) -> Corners | None:
    """Return the four numbers of a bbox, which may be written as text, or None if it is not four numbers."""
    if not isinstance(bbox, list) or len(bbox) != 4:
        return None
    x, y, width, height = map(number, bbox)
    if x is None or y is None or width is None or height is None:
        return None
    return x, y, width, height


def read_ground_truth(path: Path) -> dict[str, Any]:
    """Read a COCO file and return its contents as ground truth for scoring; the images need not exist.

    The score is the same as that of a split that `read_split` returns. Contents that COCO's scoring accepts are
    returned unchanged. Else the annotations are converted: they get new ids, a missing area is computed from the box,
    boxes are clipped to their image, and `ignore` becomes `iscrowd`. A box without area inside its image is left out,
    with a warning.

    Raises:
        InputError: the file is not JSON or not in COCO format, or an annotation cannot be scored: its image, category
            or box is missing or unknown.
    """
    with _nesting_errors(path):
        data = _load(path)
        image_ids = _image_ids(path, data["images"])
        images = {image_ids[key]: image for key, image in zip(image_ids, data["images"], strict=True)}
        categories = _by_id(path, data, "categories")
        rows = []
        for index, annotation in enumerate(data["annotations"]):
            try:
                rows.append(_scored(annotation, image_ids, images, categories))
            except RowError as error:
                raise _error_at(path, "annotations", index, error.reason) from None
    kept = [row for row in rows if row is not None]
    if left_out := len(rows) - len(kept):
        _LOG.warning("%s: %d of %s left out: no area inside the image", path, left_out, plural(len(rows), "box"))
    if not left_out and _is_written_as_scored(data, images):
        return data
    return data | {
        "images": [image | {"id": image_id} for image_id, image in images.items()],
        "categories": [category | {"id": category_id} for category_id, category in categories.items()],
        "annotations": [{"id": number} | row for number, row in enumerate(kept, start=1)],
    }


def _is_written_as_scored(data: dict[str, Any], images: Mapping[int, Any]) -> bool:
    """Return True if COCO's scoring accepts the contents of a file as they are written."""
    rows = data["annotations"]
    return (
        all(image["id"] == image_id and type(image["id"]) is int for image_id, image in images.items())
        and all(type(category["id"]) is int for category in data["categories"])
        and all(type(row["image_id"]) is type(row["category_id"]) is int for row in rows)
        and all(_corners(row.get("bbox")) is not None for row in rows)
        and _can_be_scored(rows)
    )


def _scored(
    annotation: Any, image_ids: Mapping[int | str, int], images: Mapping[int, Any], categories: Mapping[int, Any]
) -> dict[str, Any] | None:
    """Return an annotation as `to_coco` writes it, without id; None if the box has no area inside its image.

    Args:
        annotation: an element of `annotations`, any JSON value.
        image_ids: id of an image as in the file → image id.
        images: image id → element of `images`.
        categories: category id → element of `categories`.

    Raises:
        RowError: the annotation cannot be scored: its image, category or box is missing or unknown.
    """
    if not isinstance(annotation, dict):
        raise RowError("malformed_row", f"expected an object, got {annotation!r:.60}")
    key, category_id = annotation.get("image_id"), whole_number(annotation.get("category_id"))
    number = whole_number(key)
    image_id = image_ids.get(number if number is not None else key if isinstance(key, str) else -1)
    if image_id is None:
        raise RowError("unknown_image", f"image_id {key!r:.60} is not among the images")
    if category_id is None or category_id not in categories:
        reason = f"category_id {annotation.get('category_id')!r:.60} is not among the categories"
        raise RowError("unknown_class", reason)
    bbox = annotation.get("bbox")
    corners = _mask_box(annotation.get("segmentation")) if bbox in (None, []) else None
    if (numbers := _numbers(bbox)) is not None:
        corners = numbers[0], numbers[1], numbers[0] + numbers[2], numbers[1] + numbers[3]
    if corners is None or not all(map(math.isfinite, corners)):
        raise RowError("malformed_row", f"expected a bbox of four finite numbers, got {bbox!r:.60}")
    height, width = _image_hw(images[image_id]) or (math.inf, math.inf)
    clipped = np.clip(np.array(corners), 0, [width, height, width, height]).astype(np.float32)
    width32, height32 = clipped[2:] - clipped[:2]
    if corners[2] <= corners[0] or corners[3] <= corners[1] or width32 <= 0 or height32 <= 0:
        return None
    left, top, right, bottom = clipped.astype(np.float64).tolist()
    area = annotation.get("area")
    is_area = isinstance(area, int | float) and 0 < area < _MAX_AREA
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [left, top, right - left, bottom - top],
        "area": float(np.float32(area)) if is_area else float(width32 * height32),
        "iscrowd": int(_is_crowd(annotation)),
    }


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
        item_id = whole_number(item.get("id")) if isinstance(item, dict) else None
        if item_id is None or abs(item_id) > _MAX_ID:
            reason = f"`{key}` contains {item!r:.60}; expected an object with a whole number as `id`"
            raise _error_at(path, key, index, reason)
        if item_id in items:
            raise _error_at(path, key, index, f"`{key}` contains the id {item_id} twice; ids must be unique")
        items[item_id] = item
    return items


def _error_at(path: Path, key: str, index: int, reason: str) -> LabelError:
    """Return a LabelError for the element `index` of the top-level list `key`; its message has the line number."""
    return LabelError(f"{location(path, _line_of(path, key, index))}: {reason}")


def _image_hw(image: dict[str, Any]) -> tuple[int, int] | None:
    """Return (height, width) from an element of `images`, or None if a value is missing or invalid."""
    height, width = whole_number(image.get("height")), whole_number(image.get("width"))
    if height is not None and width is not None and 0 < height < 2**31 and 0 < width < 2**31:
        return height, width
    return None


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

    If the whole file is one line, the line numbers are None: the annotation id is enough to find the annotation.

    Args:
        path: the JSON file.
        annotations: the list `annotations` of the file.
        ledger: a ledger whose entries have an index into `annotations` as `line`.
    """
    if not ledger.entries:
        return ledger
    text = read_text(path)
    lines: dict[int, int | None] = {}
    if "\n" in text.strip():
        lines |= _find_lines(text, "annotations", {entry.line for entry in ledger.entries})

    def with_line(entry: LedgerEntry) -> LedgerEntry:
        assert entry.line is not None
        annotation = annotations[entry.line]
        name = f"annotation {annotation.get('id')!r:.60}" if isinstance(annotation, dict) else "annotation"
        return replace(entry, line=lines.get(entry.line), reason=f"{name}: {entry.reason}")

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
