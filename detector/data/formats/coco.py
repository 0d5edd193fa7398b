"""COCO JSON: one file holds the images, categories and boxes (x, y, width, height) of a split."""

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from detector.data.label_rows import Corners, RowCollector
from detector.data.path_guard import PathGuard
from detector.data.split import Split
from detector.errors import InputError, location
from detector.files import is_file, read_text

_BLANK = re.compile(r"[ \t\n\r]*")
_LARGEST_ID = 2**63 - 1
_LARGEST_AREA = 1e12
_REFERS_TO = {"image_id": "images", "category_id": "categories"}


def read_split(path: Path, name: str, allow_outside: bool = False) -> Split:
    """Read one COCO file.

    Images are looked for in `images/` beside the file, then beside it; for a file in `annotations/` also in the
    folder next to that which bears its name (`annotations/instances_val2017.json`, `val2017/`).
    Classes are the categories sorted by id; `iscrowd` or `ignore` of 1 marks a crowd region. Sizes are taken from
    the file, from the image only where they lack.

    Args:
        path: the JSON file.
        name: the split's name.
        allow_outside: let it name images outside of its folder.

    Returns:
        The split; its `ground_truth` is the file's dictionary if every row and image of it can be used and COCO's
        scoring can take it, else None, so that an evaluation scores against the annotations.

    Raises:
        InputError: not JSON, not of COCO's form, ids or file names that appear twice, images outside of the folder,
            or no image there.
    """
    with _nesting(path):
        return _read_split(path, name, allow_outside)


def _read_split(path: Path, name: str, allow_outside: bool) -> Split:
    data = _load(path)
    categories = {i: _class_name(category) for i, category in _by_id(path, data, "categories").items()}
    if not categories:
        raise InputError(f"{path}: `categories` is empty: there is no class to find")
    category_ids = tuple(sorted(categories))
    class_ids = {category_id: position for position, category_id in enumerate(category_ids)}
    images = _by_id(path, data, "images")
    collector = RowCollector()
    _add_images(collector, path, images, allow_outside)

    annotations = data["annotations"]
    for index, annotation in enumerate(annotations):
        # JSON keeps no positions: until `_place` the index stands where the line will.
        if not isinstance(annotation, dict):
            collector.drop(None, path, index, f"expected an object, got {annotation!r:.60}")
            continue
        image_id, category_id, bbox = annotation.get("image_id"), annotation.get("category_id"), annotation.get("bbox")
        if type(image_id) is not int or image_id not in images:
            collector.drop(None, path, index, f"image_id {image_id!r:.60} is not among the images")
        elif type(category_id) is not int or category_id not in class_ids:
            collector.drop(image_id, path, index, f"category_id {category_id!r:.60} is not among the categories")
        elif (corners := _corners(bbox)) is None:
            reason = "bbox is missing" if bbox is None else f"bbox {bbox!r:.60} is not four numbers"
            collector.drop(image_id, path, index, reason)
        else:
            area = annotation.get("area")
            area = float(area) if isinstance(area, int | float) and 0 < area < _LARGEST_AREA else 0.0
            collector.add_box(image_id, path, index, class_ids[category_id], corners, _is_crowd(annotation), area)

    used = collector.annotations(path)
    ledger = collector.ledger
    _place(path, annotations, collector)
    whole = not ledger.dropped and not ledger.missing and _can_be_scored(annotations)
    names = tuple(categories[i] for i in category_ids)
    return Split(name, names, category_ids, used, ledger, ground_truth=data if whole else None)


def read_ground_truth(path: Path) -> dict[str, Any]:
    """Return a COCO file as it stands, for scoring; its images need not be there.

    Raises:
        InputError: not JSON, not of COCO's form, or annotations that cannot be scored.
    """
    with _nesting(path):
        data = _load(path)
        known = {key: _by_id(path, data, plural) for key, plural in _REFERS_TO.items()}
        for index, annotation in enumerate(data["annotations"]):
            if (fault := _fault(annotation, known)) is not None:
                raise _refuse(path, "annotations", index, fault)
    if not _can_be_scored(data["annotations"]):
        raise InputError(
            f"{path}: every annotation needs a unique `id`, an `area`, and 0 or 1 as `iscrowd` to be scored"
        )
    return data


def _fault(annotation: Any, known: dict[str, dict[int, Any]]) -> str | None:
    """Say why an annotation cannot be scored, if it cannot."""
    corners = _corners(annotation.get("bbox")) if isinstance(annotation, dict) else None
    if corners is None or not all(map(math.isfinite, corners)):
        return "an annotation without a bbox of four finite numbers cannot be scored"
    for key, items in known.items():
        if type(annotation.get(key)) is not int or annotation[key] not in items:
            return f"{key} {annotation.get(key)!r:.60} is not among the {_REFERS_TO[key]}"
    return None


def to_coco(split: Split) -> dict[str, Any]:
    """Return the split's annotations as a COCO dictionary, with the category ids of its files."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for of_image in split.annotations:
        height, width = of_image.image_hw
        file_name = of_image.image_path.as_posix()
        images.append({"id": of_image.image_id, "file_name": file_name, "height": height, "width": width})
        # float64, so that x + width gives back the corner exactly.
        bboxes = of_image.boxes.astype(np.float64)
        bboxes[:, 2:] -= bboxes[:, :2]
        rows = zip(bboxes.tolist(), of_image.class_ids, of_image.is_crowd, of_image.areas.tolist(), strict=True)
        for bbox, class_id, is_crowd, area in rows:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": of_image.image_id,
                    "category_id": split.category_ids[class_id],
                    "bbox": bbox,
                    "area": area,
                    "iscrowd": int(is_crowd),
                }
            )
    categories = [{"id": i, "name": name} for i, name in zip(split.category_ids, split.class_names, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}


@contextmanager
def _nesting(path: Path) -> Iterator[None]:
    """Whoever walks through a file nested hundreds deep may be the one to fail, reading and printing alike."""
    try:
        yield
    except RecursionError:
        raise InputError(f"{path}: not COCO JSON: nested too deeply") from None


def _load(path: Path) -> dict[str, Any]:
    text = read_text(path)
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{location(path, error.lineno)}: not JSON: {error.msg} in column {error.colno}") from None
    except ValueError:
        raise InputError(f"{path}: not COCO JSON: it holds a number of thousands of digits") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise InputError(f"{path}: not COCO JSON: expected an object with the list `{key}`")
    return data  # type: ignore[no-any-return]


def _by_id(path: Path, data: dict[str, Any], key: str) -> dict[int, dict[str, Any]]:
    items: dict[int, dict[str, Any]] = {}
    for index, item in enumerate(data[key]):
        if not isinstance(item, dict) or type(item.get("id")) is not int or abs(item["id"]) > _LARGEST_ID:
            raise _refuse(path, key, index, f"`{key}` holds {item!r:.60}; expected an object with a whole number `id`")
        if item["id"] in items:
            raise _refuse(path, key, index, f"`{key}` holds the id {item['id']} twice; ids must be unique")
        items[item["id"]] = item
    return items


def _refuse(path: Path, key: str, index: int, reason: str) -> InputError:
    """Return the error to raise for one element of a list; it names the line."""
    return InputError(f"{location(path, _lines(read_text(path), key, {index})[index])}: {reason}")


def _add_images(collector: RowCollector, path: Path, images: dict[int, dict[str, Any]], allow_outside: bool) -> None:
    folder, outer, stem = path.parent, path.parent.parent, path.stem.removeprefix("instances_")
    roots = [folder / "images", folder]
    if folder.name == "annotations":
        roots += [outer / stem, outer / "images" / stem, outer / "images"]
    roots = [root for root in roots if root.is_dir()]
    fence = PathGuard([] if allow_outside else [outer if folder.name == "annotations" else folder, *roots])
    seen: set[str] = set()
    for index, (image_id, image) in enumerate(images.items()):
        file_name = image.get("file_name")
        if not isinstance(file_name, str) or not file_name:
            raise _refuse(path, "images", index, f"image {image_id} has no `file_name`")
        if file_name in seen:
            said = f"two images have the file_name {file_name!r}; merge their annotations under one id"
            raise _refuse(path, "images", index, said)
        seen.add(file_name)
        places = [root / file_name for root in roots]
        height, width = image.get("height"), image.get("width")
        known = type(height) is int and type(width) is int and 0 < height < 2**31 and 0 < width < 2**31
        place = next((place for place in places if is_file(place)), places[0])
        try:
            fence.check(place, path)
        except InputError as error:
            raise _refuse(path, "images", index, str(error).removeprefix(f"{path}: ")) from None
        collector.add_image(image_id, place, (height, width) if known else None)  # type: ignore[arg-type]


def _class_name(category: dict[str, Any]) -> str:
    name = category.get("name")
    return str(category["id"] if name in (None, "") else name)


def _corners(bbox: object) -> Corners | None:
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(type(value) in (int, float) for value in bbox):
        return None
    try:
        x, y, width, height = map(float, bbox)
    except OverflowError:  # a whole number beyond what a float holds
        return None
    return x, y, x + width, y + height


def _is_crowd(annotation: dict[str, Any]) -> bool:
    return annotation.get("iscrowd") == 1 or annotation.get("ignore") == 1


def _can_be_scored(annotations: list[dict[str, Any]]) -> bool:
    """Whether COCO's scoring can take them as they are: it goes by `id`, needs `area` and knows no `ignore`."""
    ids = {a["id"] for a in annotations if _is_scorable(a)}
    return len(ids) == len(annotations)


def _is_scorable(annotation: dict[str, Any]) -> bool:
    area, is_crowd = annotation.get("area"), annotation.get("iscrowd", 0)
    is_area = isinstance(area, int | float) and 0 <= area < _LARGEST_AREA
    is_sound = type(annotation.get("id")) is int and is_area and is_crowd in (0, 1)
    return is_sound and _is_crowd(annotation) == (is_crowd == 1)


def _place(path: Path, annotations: list[Any], collector: RowCollector) -> None:
    """Give the ledger's entries the annotation's id and, for the index they were filed under, the line."""
    entries = collector.ledger.entries
    if not entries:
        return
    lines = _lines(read_text(path), "annotations", {entry.line for entry in entries})
    for position, entry in enumerate(entries):
        assert entry.line is not None
        annotation = annotations[entry.line]
        name = f"annotation {annotation.get('id')!r:.60}" if isinstance(annotation, dict) else "annotation"
        entries[position] = replace(entry, line=lines[entry.line], reason=f"{name}: {entry.reason}")


def _lines(text: str, of: str, wanted: set[int] | set[int | None]) -> dict[int, int]:
    """Return the line on which each wanted element of the top-level list `of` starts; text is valid JSON."""
    decode = json.JSONDecoder().raw_decode

    def skip(position: int, character: str = "") -> int:
        """Go past blanks, one `character` if it stands there, and the blanks behind it."""
        position = _BLANK.match(text, position).end()  # type: ignore[union-attr]
        return skip(position + 1) if character and text[position] == character else position

    starts: dict[int, int] = {}
    position = skip(0, "{")
    while text[position] != "}":
        key, position = decode(text, position)
        position = skip(position, ":")
        if key == of and text[position] == "[":
            position, index = skip(position, "["), 0
            while text[position] != "]":
                if index in wanted:
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
