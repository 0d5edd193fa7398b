"""Reads COCO JSON: one file per split, with its images, its categories, and boxes as x, y, width, height in pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from detector.annotation import Annotation
from detector.data.coordinates import look_like_corners, look_like_fractions
from detector.data.file_index import FULL, FileIndex, Match, other_folder_note, without_weaker
from detector.data.formats.coco_categories import find_placeholder, make_category, merge_categories
from detector.data.formats.coco_json import (
    MAX_AREA,
    bbox_numbers,
    by_id,
    declared_hw,
    error_at,
    line_of,
    load_coco,
    marks_crowd,
    nesting_errors,
    plain_corners,
    read_image_ids,
    read_partial_labels,
    segmentation_box,
    whole_number,
    with_lines,
    writes_plain_lists,
)
from detector.data.formats.coco_scoring import can_be_scored
from detector.data.ledger import Ledger
from detector.data.path_guard import PathGuard, real_path
from detector.data.row_collector import Corners, LabelRow, RowCollector, RowError
from detector.data.split import Split, read_file
from detector.errors import LabelError
from detector.files import is_file
from detector.mirror import read_ahead
from detector.options import ReadOptions
from detector.partial_labels import NEGATIVE, NOT_EXHAUSTIVE, PartialLabels
from detector.wording import plural


@dataclass(frozen=True)
class CocoFiles:
    """The COCO files of a dataset, one per split.

    Attributes:
        files: split name → JSON file.
        index: all files of the dataset.
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
                fractions or corners, an image is outside of the dataset's folder, or no image exists.
        """
        path = self.files[name]
        with nesting_errors(path):
            data = load_coco(path)
            own = {i: make_category(i, item) for i, item in by_id(path, data, "categories").items()}
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
                ledger=with_lines(path, data["annotations"], ledger),
                read_image=partial(read_file, max_pixels=self.options.max_pixels),
                ground_truth=data if is_unchanged and can_be_scored(data["annotations"]) else None,
                max_pixels=self.options.max_pixels,
            )


def _with_labeled_classes(annotation: Annotation, labels: PartialLabels, category_ids: Sequence[int]) -> Annotation:
    """Return an annotation with `labeled_classes`; `category_ids` are those of the classes."""
    labeled = labels.labeled(category_ids[i] for i in annotation.class_ids[~annotation.is_crowd])
    return replace(annotation, labeled_classes=np.isin(category_ids, sorted(labeled)))


class _Reader:
    """Reads the images and annotations of one COCO file.

    Args:
        path: the JSON file.
        name: name of the split.
        data: contents of the file.
        class_ids: category id → class id.
        files: the COCO files of the dataset.

    Attributes:
        collector: collects images and rows.
        is_unchanged: whether all ids and boxes are used as they are written.
    """

    def __init__(
        self, path: Path, name: str, data: dict[str, Any], class_ids: Mapping[int, int], files: CocoFiles
    ) -> None:
        self.collector = RowCollector(files.options)
        self._path, self._name, self._data, self._class_ids, self._files = path, name, data, class_ids, files
        self._image_ids = read_image_ids(path, data["images"])
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
            # The JSON parser does not report line numbers. `with_lines` later replaces the index by the line number.
            try:
                row = self._parse(annotation, index)
            except RowError as error:
                self.collector.drop(self._image_id(annotation), self._path, index, error)
                continue
            self.collector.add_row(row)
            if sizes.get(row.image_id) and (bbox := bbox_numbers(annotation.get("bbox"))):
                written.append(bbox)
                rows.append(row)
        _check_coordinates(self._path, written, rows, sizes)
        if self._from_masks:
            self.is_unchanged = False
            self.collector.add_note(
                f"bounding boxes of masks are used for {plural(self._from_masks, 'annotation')} without bbox"
            )
        labels = self._partial_labels()
        annotations, ledger = self.collector.finish(self._path)
        if labels is not None:
            category_ids = tuple(self._class_ids)
            annotations = tuple(_with_labeled_classes(a, labels[a.image_id], category_ids) for a in annotations)
        return annotations, ledger

    def _partial_labels(self) -> dict[int, PartialLabels] | None:
        """Return image id → its partial labels; None if all objects are labeled.

        Raises:
            LabelError: as for `read_partial_labels`.
        """
        images = self._data["images"]
        # The lists may contain the placeholder of Roboflow, which is a category and not a class.
        known = {*self._class_ids, *by_id(self._path, self._data, "categories")}
        labels = read_partial_labels(self._path, images, known)
        if labels is None:
            return None
        self.is_unchanged &= writes_plain_lists(images)
        self.collector.add_note(
            f"partial labels, as in LVIS: in an image, the classes in `{NEGATIVE}` and those with objects are labeled, "
            f"without those in `{NOT_EXHAUSTIVE}`; all others are neither learned as background nor evaluated there"
        )
        return dict(zip(self._image_ids.values(), labels, strict=True))

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
        if bbox in (None, []) and (corners := segmentation_box(annotation.get("segmentation"))) is not None:
            self._from_masks += 1
        elif (numbers := bbox_numbers(bbox)) is not None:
            x, y, width, height = numbers
            corners = x, y, x + width, y + height
            self.is_unchanged &= plain_corners(bbox) is not None
        else:
            reason = "bbox is missing" if bbox is None else f"bbox {bbox!r:.60} is not four numbers"
            raise RowError("malformed_row", reason)
        self.is_unchanged &= type(annotation["image_id"]) is type(annotation["category_id"]) is int
        area = annotation.get("area")
        area = float(area) if isinstance(area, int | float) and 0 < area < MAX_AREA else 0.0
        return LabelRow(
            image_id, self._path, index, self._class_ids[category_id], corners, marks_crowd(annotation), area
        )

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
        guard = self._files.index.guard
        for note in self._files.index.notes:
            self.collector.add_note(note)
        found = [self._find(index, folders, guard) for index in range(len(self._image_ids))]
        if note := other_folder_note([(i["file_name"], m) for i, m in zip(self._data["images"], found, strict=True)]):
            self.collector.add_note(note)
        owners: dict[Path, int] = {}
        sizes: dict[int, tuple[int, int]] = {}
        pairs = zip(self._image_ids.values(), without_weaker(found), strict=True)
        for index, (image_id, match) in enumerate(read_ahead(pairs, lambda pair: pair[1].path if pair[1] else "")):
            image = self._data["images"][index]
            if match is None:
                self.collector.add_missing_image(image_id, image["file_name"], folders[0] / image["file_name"])
                continue
            if (other := owners.setdefault(real_path(match.path), index)) != index:
                first = self._data["images"][other]
                reason = (
                    f"two images have the file_name {image['file_name']!r}"
                    if first["file_name"] == image["file_name"]
                    else f"the images {first['file_name']!r} and {image['file_name']!r} are the same file {match.path}"
                )
                raise error_at(self._path, "images", index, f"{reason}; merge their annotations under one id")
            if (size := self.collector.add_image(image_id, match.path, declared_hw(image))) is not None:
                sizes[image_id] = size
        return sizes

    def _find(self, index: int, folders: Sequence[Path], guard: PathGuard) -> Match | None:
        """Return the image file that an element of `images` names, or None if it does not exist."""
        image = self._data["images"][index]
        file_name = image.get("file_name")
        if not isinstance(file_name, str) or not file_name:
            raise error_at(self._path, "images", index, f"image {image['id']} has no `file_name`")
        search = partial(self._files.index.find_image, file_name, self._path, self._name, folders=folders)
        match = search() or search(any_suffix=True)
        if match is None or (match.parts < FULL and self._files.options.allow_outside):
            # Links in subfolders and paths out of the folder are not in the index.
            outside = next((place / file_name for place in folders if is_file(place / file_name)), None)
            match = Match(outside, FULL) if outside is not None else match
        if match is not None and not guard.allows(match.path):
            guard.check(match.path, self._path, line_of(self._path, "images", index))
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
