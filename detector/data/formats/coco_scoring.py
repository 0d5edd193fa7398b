"""Ground truth for COCO's scoring: from a COCO file, or from the annotations of a split."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detector.annotation import Annotation
from detector.data.formats.coco_json import (
    MAX_AREA,
    bbox_numbers,
    by_id,
    declared_hw,
    error_at,
    load_coco,
    marks_crowd,
    nesting_errors,
    plain_corners,
    read_image_ids,
    read_partial_labels,
    segmentation_box,
    whole_number,
    writes_plain_lists,
)
from detector.data.row_collector import RowError
from detector.data.split import Split
from detector.partial_labels import NEGATIVE, NOT_EXHAUSTIVE
from detector.wording import plural

_LOG = logging.getLogger(__name__)


def read_ground_truth(path: Path) -> dict[str, Any]:
    """Read a COCO file and return its contents as ground truth for scoring; the images need not exist.

    The score is the same as that of a split that `read_split` returns. Contents that COCO's scoring accepts are
    returned unchanged. Else the annotations are converted: they get new ids, a missing area is computed from the box,
    boxes are clipped to their image, and `ignore` becomes `iscrowd`. A box without area inside its image is left out,
    with a warning.

    Raises:
        InputError: the file is not JSON or not in COCO format, an annotation cannot be scored (its image, category or
            box is missing or unknown), or partial labels are not lists of category ids.
    """
    with nesting_errors(path):
        data = load_coco(path)
        image_ids = read_image_ids(path, data["images"])
        images = {image_ids[key]: image for key, image in zip(image_ids, data["images"], strict=True)}
        categories = by_id(path, data, "categories")
        labels = read_partial_labels(path, data["images"])
        rows = []
        for index, annotation in enumerate(data["annotations"]):
            try:
                rows.append(_scored(annotation, image_ids, images, categories))
            except RowError as error:
                raise error_at(path, "annotations", index, error.reason) from None
    kept = [row for row in rows if row is not None]
    if left_out := len(rows) - len(kept):
        _LOG.warning("%s: %d of %s left out: no area inside the image", path, left_out, plural(len(rows), "box"))
    if not left_out and _is_written_as_scored(data, images):
        return data
    lists: list[dict[str, Any]] = [{} for _ in images]
    if labels is not None:
        lists = [{NEGATIVE: sorted(own.negative), NOT_EXHAUSTIVE: sorted(own.not_exhaustive)} for own in labels]
    return data | {
        "images": [
            image | {"id": image_id} | own for (image_id, image), own in zip(images.items(), lists, strict=True)
        ],
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
        and all(plain_corners(row.get("bbox")) is not None for row in rows)
        and can_be_scored(rows)
        and writes_plain_lists(images.values())
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
    corners = segmentation_box(annotation.get("segmentation")) if bbox in (None, []) else None
    if (numbers := bbox_numbers(bbox)) is not None:
        corners = numbers[0], numbers[1], numbers[0] + numbers[2], numbers[1] + numbers[3]
    if corners is None or not all(map(math.isfinite, corners)):
        raise RowError("malformed_row", f"expected a bbox of four finite numbers, got {bbox!r:.60}")
    height, width = declared_hw(images[image_id]) or (math.inf, math.inf)
    clipped = np.clip(np.array(corners), 0, [width, height, width, height]).astype(np.float32)
    width32, height32 = clipped[2:] - clipped[:2]
    if corners[2] <= corners[0] or corners[3] <= corners[1] or width32 <= 0 or height32 <= 0:
        return None
    left, top, right, bottom = clipped.astype(np.float64).tolist()
    area = annotation.get("area")
    is_area = isinstance(area, int | float) and 0 < area < MAX_AREA
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [left, top, right - left, bottom - top],
        "area": float(np.float32(area)) if is_area else float(width32 * height32),
        "iscrowd": int(marks_crowd(annotation)),
    }


def to_coco(split: Split) -> dict[str, Any]:
    """Return the images, annotations and categories of a split as a COCO dictionary with the ids of the split."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    is_partial = any(annotation.labeled_classes is not None for annotation in split.annotations)
    for annotation in split.annotations:
        height, width = annotation.image_hw
        file_name = annotation.image_path.as_posix()
        image = {"id": annotation.image_id, "file_name": file_name, "height": height, "width": width}
        images.append(image | (_partial_labels(annotation, split.category_ids) if is_partial else {}))
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


def _partial_labels(annotation: Annotation, category_ids: Sequence[int]) -> dict[str, list[int]]:
    """Return the lists of categories of an image, which all images have if some have partial labels."""
    labeled = annotation.labeled_classes
    if labeled is None:
        labeled = np.ones(len(category_ids), np.bool_)
    present = np.zeros_like(labeled)
    present[annotation.class_ids[~annotation.is_crowd]] = True
    ids = np.asarray(category_ids)
    return {NEGATIVE: ids[labeled & ~present].tolist(), NOT_EXHAUSTIVE: ids[present & ~labeled].tolist()}


def can_be_scored(annotations: list[dict[str, Any]]) -> bool:
    """Return True if COCO's scoring accepts the annotations.

    COCO's scoring needs a unique `id` and an `area` for each annotation, and it does not know the key `ignore`.
    """
    ids = {a["id"] for a in annotations if _is_scorable(a)}
    return len(ids) == len(annotations)


def _is_scorable(annotation: dict[str, Any]) -> bool:
    area, is_crowd = annotation.get("area"), annotation.get("iscrowd", 0)
    is_area = isinstance(area, int | float) and 0 <= area < MAX_AREA
    is_valid = type(annotation.get("id")) is int and is_area and is_crowd in (0, 1)
    return is_valid and marks_crowd(annotation) == (is_crowd == 1)
