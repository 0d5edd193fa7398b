"""What the readers of all formats share: the text of a file, and the ruling on each box; no row goes unaccounted."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from detector.annotation import Annotation
from detector.arrays import Bools, Floats
from detector.boxes import area
from detector.data.ledger import Ledger
from detector.errors import InputError
from detector.files import is_file
from detector.images import read_image_size

CUT_TOLERANCE = 0.01
"""ImageArray a box may reach out of its image before cutting it counts as a clip: room for rounded decimals."""

Corners = tuple[float, float, float, float]

_LONGEST_REASON = 300
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class _Row(NamedTuple):
    image_id: int
    path: Path
    line: int
    class_id: int
    corners: Corners
    is_crowd: bool
    area: float


class RowCollector:
    """Gathers the images and rows of one split; `annotations` then rules on every box.

    Attributes:
        ledger: the account; complete once `annotations` was called.
    """

    def __init__(self) -> None:
        self.ledger = Ledger()
        self._images: dict[int, tuple[Path, tuple[int, int]]] = {}
        self._missing: dict[int, str] = {}
        self._rows: list[_Row] = []
        self._with_drops: set[int | None] = set()

    def add_image(self, image_id: int, path: Path, hw: tuple[int, int] | None = None) -> tuple[int, int] | None:
        """Take an image in; one that is not there, or whose size is asked for and cannot be read, is missing.

        Args:
            image_id: unique in the split.
            path: where the image should lie.
            hw: height and width in pixels, if known; else the file is asked.

        Returns:
            (height, width), or None for a missing image: all its rows will be dropped.
        """
        try:
            if not is_file(path):
                raise InputError(f"image {path} not found")
            hw = hw or read_image_size(path)
        except InputError as error:
            self._missing[image_id] = str(error)
            self.ledger.missing.append(path)
            return None
        self._images[image_id] = (path, hw)
        return hw

    def add_box(
        self,
        image_id: int,
        path: Path,
        line: int,
        class_id: int,
        corners: Corners,
        is_crowd: bool = False,
        area: float = 0.0,
    ) -> None:
        """Take in one row whose form is right.

        Args:
            image_id: of an image that was added before.
            path: the file that holds the row.
            line: its line there, from 1.
            class_id: 0..C-1.
            corners: (x1, y1, x2, y2) in pixels of the image; any numbers.
            is_crowd: marks a crowd or ignore region.
            area: in square pixels; 0 stands for the box's own.
        """
        if image_id in self._missing:
            self.drop(image_id, path, line, self._missing[image_id])
        else:
            self._rows.append(_Row(image_id, path, line, class_id, corners, is_crowd, area))

    def drop(self, image_id: int | None, path: Path, line: int, reason: str) -> None:
        """Drop one row; `image_id` is None where it belongs to no known image."""
        self._with_drops.add(image_id)
        image = self._images[image_id][0] if image_id in self._images else None
        # What stands in a file may be long, or move the cursor of the terminal it is shown in.
        reason = _CONTROL.sub("?", reason)
        self.ledger.drop(path, line, reason[:_LONGEST_REASON] + "..." * (len(reason) > _LONGEST_REASON), image)

    def annotations(self, source: Path) -> tuple[Annotation, ...]:
        """Return one annotation per image that is there, sorted by id, and complete the ledger.

        Raises:
            InputError: there is no image at all; names `source`.
        """
        if not self._images:
            missing = self.ledger.missing
            hint = f"none of the {len(missing)} named there was found, first: {missing[0]}" if missing else "none named"
            raise InputError(f"{source}: no images ({hint})")
        self._rows.sort(key=lambda row: row.image_id)
        boxes, kept = self._rule()
        self.ledger.entries.sort(key=lambda entry: (entry.path, entry.line or 0))
        rows, boxes = [row for row, keep in zip(self._rows, kept, strict=True) if keep], boxes[kept]
        owners = np.array([row.image_id for row in rows], dtype=np.int64)
        class_ids = np.array([row.class_id for row in rows], dtype=np.int64)
        is_crowd = np.array([row.is_crowd for row in rows], dtype=np.bool_)
        areas = np.array([row.area for row in rows], dtype=np.float32)
        areas = np.where(areas > 0, areas, area(boxes))

        image_ids = sorted(self._images)
        with_objects = set(owners[~is_crowd].tolist())
        self.ledger.used = len(rows) - self.ledger.clipped
        self.ledger.crowd = int(is_crowd.sum())
        self.ledger.background = len(set(image_ids) - with_objects - self._with_drops)
        ends = np.searchsorted(owners, image_ids, side="right").tolist()
        annotations = []
        for image_id, start, end in zip(image_ids, [0, *ends[:-1]], ends, strict=True):
            path, hw = self._images[image_id]
            own = slice(start, end)
            annotations.append(Annotation(image_id, path, hw, boxes[own], class_ids[own], is_crowd[own], areas[own]))
        return tuple(annotations)

    def _rule(self) -> tuple[Floats, Bools]:
        """Return all boxes [N, 4] cut to their images, and which of them [N] are kept; enter the losses."""
        corners = np.array([row.corners for row in self._rows], dtype=np.float64).reshape(-1, 4)
        sizes = np.array([self._images[row.image_id][1] for row in self._rows], dtype=np.float64).reshape(-1, 2)
        cut = np.clip(corners, 0, sizes[:, [1, 0, 1, 0]])
        boxes = cut.astype(np.float32)
        finite = np.all(np.isfinite(corners), axis=1)
        positive = np.all(corners[:, 2:] > corners[:, :2], axis=1)
        # In float32, as it will be used: a sliver that vanishes there has no area either.
        inside = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
        kept = finite & positive & inside
        with np.errstate(invalid="ignore"):  # NaN - NaN
            clipped = np.any(np.abs(corners - cut) > CUT_TOLERANCE, axis=1)
        for i in np.flatnonzero(~kept | clipped):
            row = self._rows[i]
            x1, y1, x2, y2 = row.corners
            height, width = self._images[row.image_id][1]
            box, image = f"box ({x1:.7g}, {y1:.7g}, {x2:.7g}, {y2:.7g})", f"the image of {width} x {height} pixels"
            if kept[i]:
                self.ledger.clip(row.path, row.line, f"{box} reaches out of {image}", self._images[row.image_id][0])
            elif not finite[i]:
                self.drop(row.image_id, row.path, row.line, f"{box} is not finite")
            elif not positive[i]:
                reason = f"{box} is {x2 - x1:.7g} wide and {y2 - y1:.7g} high; both must be above 0"
                self.drop(row.image_id, row.path, row.line, reason)
            else:
                self.drop(row.image_id, row.path, row.line, f"{box} has no area inside {image}")
        return boxes, kept
