"""The images of a report: small JPEG images inside the page, with boxes drawn as SVG, up to a total size."""

import base64
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from typing import Literal

import numpy as np
from PIL import Image

from detector.annotation import Annotation
from detector.arrays import Doubles, ImageArray
from detector.errors import InputError
from detector.escaping import escape_line
from detector.evaluating.report.content import Content
from detector.metrics.overlaps import box_array

log = logging.getLogger(__name__)

MOST_BYTES = 8_000_000
"""Largest size of all images of a report as text; the page with everything else stays below 10 MB."""

_IMAGE_SIDE, _CROP_SIDE, _SMALLEST_CROP = 480, 150, 48
_JPEG_QUALITY = 78

BoxKind = Literal["tp", "fp", "fn"]
"""True positive, false positive, missed object (false negative)."""

_WORDS: dict[BoxKind, str] = {"tp": "correct", "fp": "false positive", "fn": "missed"}


@dataclass(frozen=True)
class DrawnBox:
    """A box on an image of the report.

    Attributes:
        kind: the outcome.
        text: class and score.
        box: x, y, width, height in pixels of the original image.
    """

    kind: BoxKind
    text: str
    box: tuple[float, float, float, float]


class Figures:
    """Makes the figures of a report from its images; each figure is HTML.

    Args:
        content: the numbers of the report.
        most_bytes: largest size of all figures.

    Attributes:
        is_full: True if a figure was left out because of the size.
        shown: number of figures.
    """

    def __init__(self, content: Content, most_bytes: int = MOST_BYTES) -> None:
        self._content, self._left = content, most_bytes
        self.is_full, self.shown = False, 0
        evaluation, matches = content.evaluation, content.evaluation.matches
        annotations = evaluation.ground_truth["annotations"]
        self._found_boxes = box_array([evaluation.scored[row]["bbox"] for row in matches.row])
        self._object_boxes = box_array([annotations[row]["bbox"] for row in matches.object_row])
        self._annotations = {annotation.image_id: annotation for annotation in content.split.annotations}
        self._decode = lru_cache(maxsize=8)(self._decode_image)

    def image_name(self, image: int) -> str:
        """Return the file name of the image with this index in `Matches.image_ids`."""
        image_id = int(self._content.evaluation.matches.image_ids[image])
        annotation = self._annotations.get(image_id)
        return f"image {image_id}" if annotation is None else annotation.image_path.name

    def whole(self, image: int, caption: str) -> str | None:
        """Return a figure of an image with all outcomes; None: the image cannot be read, or the report is full.

        Args:
            image: index of the image.
            caption: text below the image.
        """
        outcomes = np.flatnonzero(self._content.confusion.image == image)
        boxes = [box for outcome in outcomes.tolist() for box in self._boxes(outcome)]
        return self._figure(image, None, boxes, caption, _IMAGE_SIDE)

    def crop(self, outcome: int, caption: str) -> str | None:
        """Return a figure of one outcome and its surroundings; None as for `whole`.

        Args:
            outcome: index of the outcome in `Confusion`.
            caption: text below the image.
        """
        boxes = self._boxes(outcome)
        return self._figure(int(self._content.confusion.image[outcome]), boxes[0].box, boxes, caption, _CROP_SIDE)

    def _boxes(self, outcome: int) -> list[DrawnBox]:
        """Return the boxes of an outcome: the detection first, then the object if the detection does not find it."""
        confusion, names, boxes = self._content.confusion, self._content.names, []
        found, matched = int(confusion.found[outcome]), int(confusion.object[outcome])
        correct = bool(confusion.correct[outcome])
        if found >= 0:
            score = self._content.evaluation.matches.scores[found]
            text = f"{names[confusion.predicted[outcome]]} {score:.2f}"
            boxes.append(DrawnBox("tp" if correct else "fp", text, _as_tuple(self._found_boxes[found])))
        if matched >= 0 and not correct:
            boxes.append(DrawnBox("fn", names[confusion.truth[outcome]], _as_tuple(self._object_boxes[matched])))
        return boxes

    def _figure(
        self,
        image: int,
        around: tuple[float, float, float, float] | None,
        boxes: Sequence[DrawnBox],
        caption: str,
        side: int,
    ) -> str | None:
        """Return a figure; None: the image cannot be read, or the report is full.

        Args:
            image: index of the image.
            around: the box that a crop shows; None: the whole image.
            boxes: the boxes to draw.
            caption: text below the image.
            side: longest side of the figure in pixels.
        """
        if self.is_full:
            return None
        pixels = self._decode(int(self._content.evaluation.matches.image_ids[image]))
        if pixels is None:
            return None
        x1, y1, x2, y2 = _crop_corners(pixels, around)
        scale = side / max(x2 - x1, y2 - y1)
        width, height = max(1, round((x2 - x1) * scale)), max(1, round((y2 - y1) * scale))
        small = Image.fromarray(pixels[y1:y2, x1:x2]).resize((width, height), Image.Resampling.LANCZOS)
        name = escape_line(self.image_name(image))
        counts = ", ".join(f"{sum(b.kind == kind for b in boxes)} {word}" for kind, word in _WORDS.items())
        drawn = "".join(_rectangle(box, (x1, y1), scale) for box in boxes)
        text = (
            f'<figure><svg role="img" aria-label="{escape(f"{name}: {counts}. {escape_line(caption)}")}" '
            f'viewBox="0 0 {width} {height}" style="max-width:{width}px"><image width="{width}" height="{height}" '
            f'href="data:image/jpeg;base64,{_jpeg(small)}"/>{drawn}</svg>'
            f"<figcaption><bdi>{escape(name)}</bdi><br>{escape(escape_line(caption))}</figcaption></figure>"
        )
        if len(text) > self._left:
            self.is_full = True
            return None
        self._left -= len(text)
        self.shown += 1
        return text

    def _decode_image(self, image_id: int) -> ImageArray | None:
        """Return the pixels of an image; None: it cannot be read, with a warning."""
        annotation: Annotation | None = self._annotations.get(image_id)
        if annotation is None:
            return None
        try:
            return self._content.split.decode(annotation)
        except InputError as error:
            log.warning("not shown in the report: %s", error)
            return None


def _as_tuple(box: Doubles) -> tuple[float, float, float, float]:
    """Return a box [4] as a tuple."""
    x, y, width, height = box.tolist()
    return x, y, width, height


def _crop_corners(pixels: ImageArray, around: tuple[float, float, float, float] | None) -> tuple[int, int, int, int]:
    """Return the corners (x1, y1, x2, y2) of the part of an image that a figure shows: at least one pixel."""
    height, width = pixels.shape[:2]
    if around is None:
        return 0, 0, width, height
    x, y, w, h = around
    side = max(2 * w, 2 * h, _SMALLEST_CROP)
    center_x, center_y = min(max(x + w / 2, 0), width - 1), min(max(y + h / 2, 0), height - 1)
    x1, y1 = max(0, int(center_x - side / 2)), max(0, int(center_y - side / 2))
    x2, y2 = min(width, int(center_x + side / 2) + 1), min(height, int(center_y + side / 2) + 1)
    return x1, y1, x2, y2


def _rectangle(box: DrawnBox, origin: tuple[int, int], scale: float) -> str:
    """Return the elements that draw a box: a dark line below, so that the colored line is visible on any image."""
    x, y, width, height = box.box
    place = (
        f'x="{(x - origin[0]) * scale:.1f}" y="{(y - origin[1]) * scale:.1f}" '
        f'width="{max(width, 0) * scale:.1f}" height="{max(height, 0) * scale:.1f}"'
    )
    title = escape(escape_line(f"{_WORDS[box.kind]}: {box.text}"))
    return f'<rect class="halo" {place}/><rect class="{box.kind}" {place}><title>{title}</title></rect>'


def _jpeg(image: Image.Image) -> str:
    """Return an image as base64 text of a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
