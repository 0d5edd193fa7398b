"""Collects the images and label rows of a split, checks every box, and counts every row in the ledger.

Used by the readers of all label formats.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from detector.annotation import Annotation
from detector.arrays import Bools, Floats
from detector.boxes import area
from detector.data.ledger import DropCode, Ledger, LedgerEntry, RowCode
from detector.errors import FileError, ImageError, InputError, LabelError
from detector.escaping import escape, escape_line
from detector.files import is_file
from detector.images import read_image_size, read_stored_size
from detector.options import ReadOptions
from detector.wording import plural

CUT_TOLERANCE = 0.01
"""In pixels: a box that extends beyond its image by at most this distance does not count as clipped.

Coordinates in label files are rounded to a few decimals.
"""

Corners = tuple[float, float, float, float]
"""(x1, y1, x2, y2) in pixels of the image, not yet checked: the numbers may be NaN or outside of the image."""

_MAX_REASON_LENGTH = 300
"""Longer reasons are cut off: text from a label file may be very long."""


def size_mismatch(path: Path, found: tuple[int, int], declared: tuple[int, int], max_pixels: int) -> str:
    """Return the reason why an image cannot be used whose size differs from the size in its label file.

    Args:
        path: the image file.
        found: (height, width) of the image, after its EXIF orientation is applied.
        declared: (height, width) that the label file gives.
        max_pixels: largest number of pixels of an image that is read.
    """
    problem = f"the image {path} has {found[1]}x{found[0]} pixels, but its label file says {declared[1]}x{declared[0]}"
    stored, orientation = read_stored_size(path, max_pixels=max_pixels)
    if declared == stored:
        return (
            f"{problem}: it has the EXIF orientation {orientation}, and the labels were made on the stored image; "
            "rotate the pixels and remove the EXIF tag, or label the upright image"
        )
    if declared == found[::-1]:
        return f"{problem}: the image was rotated, or the label file has width and height swapped"
    if abs(found[0] * declared[1] - found[1] * declared[0]) <= max(*found, *declared):
        return f"{problem}: the image was resized after labeling; use the original image, or scale the boxes"
    return f"{problem}: the image was cropped or replaced after labeling, or the label file belongs to another image"


class RowError(Exception):
    """Raised by a format reader for a label row that cannot be used; the row is then dropped.

    Args:
        code: the kind of problem.
        reason: the problem and the value that caused it, as text for people.
    """

    def __init__(self, code: DropCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class LabelRow(NamedTuple):
    """A label row that was parsed without error. Its box is not checked yet.

    Attributes:
        image_id: id of an image that was passed to `RowCollector.add_image`.
        path: the label file that contains the row.
        line: line number of the row in the label file, counted from 1; None if the row has no line of its own.
        class_id: 0..C-1.
        corners: the box.
        is_crowd: whether the row marks a crowd region or ignore region.
        area: area of the object in square pixels; 0: use the area of the box.
    """

    image_id: int
    path: Path
    line: int | None
    class_id: int
    corners: Corners
    is_crowd: bool = False
    area: float = 0.0


class RowCollector:
    """Collects the images and label rows of one split; `finish` checks the boxes and returns the annotations.

    Args:
        options: an image with more than `max_pixels` pixels counts as missing if its size has to be read from the file;
            the other options are not used.
    """

    def __init__(self, options: ReadOptions) -> None:
        self._max_pixels = options.max_pixels
        self._images: dict[int, tuple[Path, tuple[int, int]]] = {}
        self._unusable: dict[int, InputError] = {}
        self._missing_paths: list[Path] = []
        self._rows: list[LabelRow] = []
        self._entries: list[LedgerEntry] = []
        self._image_ids_with_drops: set[int | None] = set()
        self._notes: dict[str, None] = {}  # an ordered set

    def add_image(self, image_id: int, path: Path, hw: tuple[int, int] | None = None) -> tuple[int, int] | None:
        """Add an image and return its size, or None if the image cannot be used.

        An image cannot be used if the file does not exist, if its size cannot be read, or if its size differs from the
        size in the label file. All rows of such an image are dropped.

        Args:
            image_id: id of the image, unique in the split.
            path: the image file.
            hw: (height, width) in pixels, as given by the label file; None: the label file gives no size.

        Returns:
            (height, width) in pixels, or None.
        """
        try:
            if not is_file(path):
                raise FileError(f"image {path} not found")
            found = read_image_size(path, max_pixels=self._max_pixels)
            if hw is not None and hw != found:
                raise ImageError(size_mismatch(path, found, hw, self._max_pixels))
        except InputError as error:
            self._unusable[image_id] = error
            self._missing_paths.append(path)
            return None
        self._images[image_id] = (path, found)
        return found

    def add_missing_image(self, image_id: int, name: str, path: Path) -> None:
        """Add an image for which no file was found. All its rows are dropped.

        Args:
            image_id: id of the image, unique in the split.
            name: name of the image in the label file.
            path: where the image was expected.
        """
        self._unusable[image_id] = FileError(f"image {name} not found in the dataset")
        self._missing_paths.append(path)

    def add_row(self, row: LabelRow) -> None:
        """Add a row that was parsed without error, or drop the row if its image cannot be used."""
        if (error := self._unusable.get(row.image_id)) is not None:
            code: DropCode = "image_unusable" if isinstance(error, ImageError) else "image_missing"
            self.drop(row.image_id, row.path, row.line, RowError(code, str(error)))
        else:
            self._rows.append(row)

    def add_note(self, note: str) -> None:
        """Add a note about the label files to the ledger, such as the number of polygons that became boxes."""
        self._notes[escape(note)] = None

    def drop(self, image_id: int | None, path: Path, line: int | None, error: RowError) -> None:
        """Count one row as dropped and add it to the entries of the ledger.

        Args:
            image_id: id of the image that the row belongs to; None if unknown.
            path: the label file that contains the row.
            line: line number of the row, counted from 1; None if the row has no line of its own.
            error: code and reason.
        """
        self._image_ids_with_drops.add(image_id)
        self._add_entry(error.code, image_id, path, line, error.reason)

    def finish(self, source: Path) -> tuple[tuple[Annotation, ...], Ledger]:
        """Check all boxes and return the annotations and the ledger of the split.

        Args:
            source: file or folder of the dataset, for error messages.

        Returns:
            One annotation per image that is not missing, sorted by image id, and the ledger.

        Raises:
            LabelError: no image was added, or all images are missing.
        """
        if not self._images:
            if not (missing := self._missing_paths):
                raise LabelError(f"{source}: the split contains no images")
            reason = next(iter(map(str, self._unusable.values())), f"{missing[0]}")
            count = len(missing)
            problem = (
                f"the only image cannot be used: {reason}"
                if count == 1
                else f"none of the {plural(count, 'image')} can be used; the first: {reason}"
            )
            raise LabelError(f"{source}: {escape_line(problem)}")
        self._rows.sort(key=lambda row: row.image_id)
        boxes, keep = self._check_boxes()
        rows = [row for row, is_kept in zip(self._rows, keep, strict=True) if is_kept]
        annotations = self._make_annotations(rows, boxes[keep])
        return annotations, self._make_ledger(annotations)

    def _make_annotations(self, rows: list[LabelRow], boxes: Floats) -> tuple[Annotation, ...]:
        """Return one annotation per image that is not missing, sorted by image id.

        Args:
            rows: N usable rows, sorted by image id.
            boxes: [N, 4], the clipped boxes of these rows.
        """
        owners = np.array([row.image_id for row in rows], dtype=np.int64)
        class_ids = np.array([row.class_id for row in rows], dtype=np.int64)
        is_crowd = np.array([row.is_crowd for row in rows], dtype=np.bool_)
        areas = np.array([row.area for row in rows], dtype=np.float32)
        areas = np.where(areas > 0, areas, area(boxes))

        image_ids = sorted(self._images)
        ends = np.searchsorted(owners, image_ids, side="right").tolist()
        annotations = []
        for image_id, start, end in zip(image_ids, [0, *ends[:-1]], ends, strict=True):
            path, hw = self._images[image_id]
            own = slice(start, end)
            annotations.append(Annotation(image_id, path, hw, boxes[own], class_ids[own], is_crowd[own], areas[own]))
        return tuple(annotations)

    def _make_ledger(self, annotations: tuple[Annotation, ...]) -> Ledger:
        clipped = sum(entry.action == "clipped" for entry in self._entries)
        without_objects = {a.image_id for a in annotations if not a.has_objects}
        return Ledger(
            used=sum(len(a.boxes) for a in annotations) - clipped,
            crowd=sum(int(a.is_crowd.sum()) for a in annotations),
            background=len(without_objects - self._image_ids_with_drops),
            missing=tuple(self._missing_paths),
            entries=tuple(sorted(self._entries, key=lambda entry: (entry.path, entry.line or 0))),
            notes=tuple(self._notes),
        )

    def _check_boxes(self) -> tuple[Floats, Bools]:
        """Clip the boxes of all N rows to their images, and add an entry for each clipped or dropped row.

        Returns:
            Clipped boxes [N, 4], and a mask [N]: True where the box can be used.
        """
        corners = np.array([row.corners for row in self._rows], dtype=np.float64).reshape(-1, 4)
        sizes = np.array([self._images[row.image_id][1] for row in self._rows], dtype=np.float64).reshape(-1, 2)
        cut = np.clip(corners, 0, sizes[:, [1, 0, 1, 0]])
        boxes = cut.astype(np.float32)
        finite = np.all(np.isfinite(corners), axis=1)
        positive = np.all(corners[:, 2:] > corners[:, :2], axis=1)
        # Boxes are used as float32. A box so thin that its float32 width or height is 0 has no area either.
        inside = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
        keep = finite & positive & inside
        with np.errstate(invalid="ignore"):  # NaN - NaN
            clipped = np.any(np.abs(corners - cut) > CUT_TOLERANCE, axis=1)
        for i in np.flatnonzero(~keep | clipped):
            row = self._rows[i]
            box = "box ({:.7g}, {:.7g}, {:.7g}, {:.7g})".format(*row.corners)
            height, width = self._images[row.image_id][1]
            image = f"the image of {width} x {height} pixels"
            if keep[i]:
                reason = f"{box} extends beyond {image}"
                self._add_entry("clipped", row.image_id, row.path, row.line, reason, row.class_id)
                continue
            if not finite[i]:
                error = RowError("not_finite", f"{box} is not finite")
            elif not positive[i]:
                x1, y1, x2, y2 = row.corners
                reason = f"{box} is {x2 - x1:.7g} wide and {y2 - y1:.7g} high; both must be above 0"
                error = RowError("no_area", reason)
            else:
                error = RowError("outside_image", f"{box} has no area inside {image}")
            self.drop(row.image_id, row.path, row.line, error)
        return boxes, keep

    def _add_entry(
        self,
        code: RowCode,
        image_id: int | None,
        path: Path,
        line: int | None,
        reason: str,
        class_id: int | None = None,
    ) -> None:
        image = self._images[image_id][0] if image_id in self._images else None
        reason = escape_line(reason)
        if len(reason) > _MAX_REASON_LENGTH:
            reason = reason[:_MAX_REASON_LENGTH] + "..."
        self._entries.append(LedgerEntry(code, path, line, reason, image, class_id))
