"""Detections: the objects detected in one image."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from detector.arrays import Bools, Floats, ImageArray, Ints
from detector.boxes import to_xywh
from detector.drawing import add_legend, captions_cover, draw_boxes, drawable_name
from detector.errors import InputError, MissingPackageError
from detector.html_table import html_table
from detector.image_inputs import ImageLike, to_image
from detector.options import DEFAULT_DRAWING, DrawOptions
from detector.wording import plural

_NAMES_SHOWN = 5
"""Largest number of detections in the text of `repr`."""

_LONGEST_NAME = 40
"""Largest number of characters of a class name in the text of `repr`."""

_ROWS_SHOWN = 20
"""Largest number of rows in the table that a notebook shows."""


@dataclass(frozen=True, eq=False)
class Detections:
    """The N objects detected in one image, sorted by confidence score, best first.

    `len()` is the number of objects. Iterating yields `(class name, score, box)` for each object. Indexing with an
    integer, a slice, a boolean mask or an array of indices returns `Detections` with the selected objects. These
    are also sorted by score, whatever the order of the indices.

    Attributes:
        boxes: [N, 4] (x1, y1, x2, y2) in pixels of the original image. Every box is inside the image.
        scores: [N] float32 confidence scores, 0..1, descending.
        class_ids: [N] int64, indices into `class_names`.
        class_names: names of all classes of the detector.
        track_ids: [N] int64. An object has the same track id in all frames of a video; -1: the object has no track
            yet. None: no tracking.

    Raises:
        InputError: the shapes of the arrays do not match, a class id has no name, or the scores are not sorted.

    >>> boxes, scores = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32), np.array([0.9, 0.4], np.float32)
    >>> found = Detections(boxes, scores, np.array([1, 0]), ("a", "b"))
    >>> [(name, round(score, 2), box.tolist()) for name, score, box in found]
    [('b', 0.9, [1.0, 2.0, 3.0, 4.0]), ('a', 0.4, [5.0, 6.0, 7.0, 8.0])]
    >>> len(found[found.scores > 0.5]), found[found.labels == "a"].boxes.tolist()
    (1, [[5.0, 6.0, 7.0, 8.0]])
    """

    boxes: Floats
    scores: Floats
    class_ids: Ints
    class_names: tuple[str, ...]
    track_ids: Ints | None = None

    def __post_init__(self) -> None:
        n = len(self.scores)
        if self.boxes.shape != (n, 4) or self.class_ids.shape != (n,):
            raise InputError(
                f"boxes {list(self.boxes.shape)}, scores {list(self.scores.shape)} and class_ids "
                f"{list(self.class_ids.shape)} do not match: expected [N, 4], [N] and [N]"
            )
        if n and not 0 <= self.class_ids.min() <= self.class_ids.max() < len(self.class_names):
            raise InputError(f"class_ids: each must be in 0..{len(self.class_names) - 1}, an index into class_names")
        if np.any(self.scores[1:] > self.scores[:-1]):
            raise InputError("scores: must be in descending order; detections are sorted by score, best first")
        if self.track_ids is not None and self.track_ids.shape != (n,):
            raise InputError(f"track_ids: expected shape [{n}], got {list(self.track_ids.shape)}")
        if self.track_ids is not None and np.any(self.track_ids < -1):
            raise InputError("track_ids: each must be at least 0, or -1 for an object without a track")

    @property
    def labels(self) -> np.ndarray[Any, np.dtype[np.str_]]:
        """Class names [N] of the objects."""
        return np.array([self.class_names[class_id] for class_id in self.class_ids], dtype=np.str_)

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[tuple[str, float, Floats]]:
        for box, score, class_id in zip(self.boxes, self.scores, self.class_ids, strict=True):
            yield self.class_names[class_id], float(score), box

    def __getitem__(self, index: int | slice | Sequence[int] | Bools | Ints) -> "Detections":
        chosen = np.sort(np.arange(len(self))[index if isinstance(index, slice) else self._checked_index(index)])
        tracks = None if self.track_ids is None else self.track_ids[chosen]
        return replace(
            self,
            boxes=self.boxes[chosen],
            scores=self.scores[chosen],
            class_ids=self.class_ids[chosen],
            track_ids=tracks,
        )

    def _checked_index(self, index: int | Sequence[int] | Bools | Ints) -> Bools | Ints:
        """Convert an index, a mask or a list of indices to an array for NumPy indexing, else raise IndexError."""
        # np.asarray([]) is an array of floats, which cannot be used as an index.
        array = np.asarray(index) if isinstance(index, np.ndarray) or np.size(index) else np.zeros(0, dtype=np.int64)
        if array.ndim > 1 or array.dtype.kind not in "biu":
            raise IndexError(
                "detections are indexed by an integer, a slice, a boolean mask or a list of integers, "
                f"not by {array.dtype} {list(array.shape)}"
            )
        if array.dtype.kind == "b" and array.shape != (len(self),):
            raise IndexError(
                f"a mask for {len(self)} detections must have shape [{len(self)}], got {list(array.shape)}"
            )
        if array.ndim == 0 and not -len(self) <= array < len(self):
            raise IndexError(f"index {array} is out of range for {len(self)} detections")
        return np.atleast_1d(array)

    def draw(
        self,
        image: ImageLike,
        *,
        with_scores: bool = True,
        with_labels: bool = True,
        line_width: int | None = None,
    ) -> Image.Image:
        """Draw boxes, class names and scores on a copy of an image, and return the copy as a PIL image.

        Where the names would cover the image, each box gets only its class id, and a legend of the classes is added
        below the image. A class name is drawn as its id, with a warning, if no font on this machine has its letters.

        Args:
            image: the image in which the objects were detected, of any kind that `Detector.detect` accepts.
            with_scores: whether to draw the scores.
            with_labels: whether to draw class names, scores and track ids; False: only the boxes.
            line_width: width of the lines in pixels, at least 1; None: chosen from the size of the image.

        Raises:
            InputError: the image cannot be read, or is of another kind.
            ConfigError: `line_width` is not a whole number of at least 1.
        """
        options = DrawOptions(scores=with_scores, labels=with_labels, line_width=line_width)
        return Image.fromarray(self.draw_on(to_image(image), options, legend=True))

    def draw_on(self, image: ImageArray, options: DrawOptions = DEFAULT_DRAWING, *, legend: bool = False) -> ImageArray:
        """Draw boxes, class names and scores on a copy of an RGB image [H, W, 3], and return the copy.

        Args:
            image: [H, W, 3] RGB.
            options: what is drawn, and how.
            legend: whether a legend below the image may replace names that would cover the image. The copy is then
                higher than the image, and for long names wider. False: the copy has the shape of the image.
        """
        names = {int(class_id): drawable_name(self.class_names[class_id], class_id) for class_id in self.class_ids}
        captions = self._captions(names, options)
        if not (legend and captions_cover((image.shape[0], image.shape[1]), self.boxes, captions)):
            return draw_boxes(image, self.boxes, captions, self.class_ids, options.line_width)
        short = self._captions({class_id: str(class_id) for class_id in names}, replace(options, scores=False))
        drawn = draw_boxes(image, self.boxes, short, self.class_ids, options.line_width)
        return add_legend(drawn, {class_id: f"{class_id} {names[class_id]}" for class_id in sorted(names)})

    def _captions(self, names: Mapping[int, str], options: DrawOptions) -> list[str]:
        """Return the caption of each object: `#7 cat 0.83`, where 7 is the track id and 0.83 the score.

        Args:
            names: class id → name of the class in the caption.
            options: whether captions are drawn, and with scores; without labels, all captions are "".
        """
        if not options.labels:
            return [""] * len(self)
        tracks = self.track_ids if self.track_ids is not None else np.full(len(self), -1)
        return [
            (f"#{track_id} " if track_id >= 0 else "") + names[class_id] + (f" {score:.2f}" * options.scores)
            for track_id, class_id, score in zip(tracks, self.class_ids.tolist(), self.scores, strict=True)
        ]

    def __repr__(self) -> str:
        best = self[:_NAMES_SHOWN]
        shown = ", ".join(f"{_shortened(name)} {score:.2f}" for name, score, _ in best)
        more = f", ... ({len(self)} in all)" if len(self) > len(best) else ""
        return f"Detections({shown}{more})" if len(self) else "Detections(nothing found)"

    def _repr_html_(self) -> str:
        """Return the detections as an HTML table, which notebooks show."""
        rows = [
            (name, f"{score:.2f}", ", ".join(f"{side:.1f}" for side in box.tolist()))
            for name, score, box in self[:_ROWS_SHOWN]
        ]
        more = f"{len(self)} detections, the best {_ROWS_SHOWN} shown" * (len(self) > _ROWS_SHOWN)
        return html_table(("class", "score", "box (x1, y1, x2, y2)"), rows, caption=more)

    def to_dict(self) -> dict[str, list[Any]]:
        """Return the detections as columns of Python values, one row per object: `pandas.DataFrame(found.to_dict())`.

        The columns are class, class_id, score, x1, y1, x2, y2 (in pixels), and track_id if there are track ids. The
        numbers are not rounded.

        >>> found = Detections(np.float32([[1, 2, 3, 4]]), np.float32([0.5]), np.array([1]), ("a", "b"))
        >>> found.to_dict()
        {'class': ['b'], 'class_id': [1], 'score': [0.5], 'x1': [1.0], 'y1': [2.0], 'x2': [3.0], 'y2': [4.0]}
        """
        columns: dict[str, list[Any]] = {
            "class": self.labels.tolist(),
            "class_id": self.class_ids.tolist(),
            "score": self.scores.tolist(),
        }
        columns |= {name: self.boxes[:, side].tolist() for side, name in enumerate(("x1", "y1", "x2", "y2"))}
        return columns if self.track_ids is None else columns | {"track_id": self.track_ids.tolist()}

    def to_json(self, *, indent: int | None = None) -> str:
        """Return the detections as JSON: a list with one object per detection, best first.

        The keys are class, class_id, score, box [x1, y1, x2, y2] (in pixels), and track_id if there are track ids. The
        numbers are not rounded: read as float32, they are exactly the same.

        Args:
            indent: number of spaces per level; None: everything is on one line.

        >>> Detections(np.float32([[1, 2, 3, 4]]), np.float32([0.5]), np.array([1]), ("a", "b")).to_json()
        '[{"class": "b", "class_id": 1, "score": 0.5, "box": [1.0, 2.0, 3.0, 4.0]}]'
        """
        return json.dumps(json_rows(self), indent=indent)

    def to_coco(self, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """Return one row per detection in COCO's results format: image_id, category_id, bbox [x, y, w, h] and score.

        Args:
            image_id: id of the image in the COCO file that the results are compared with.
            category_ids: category id of each class, in the order of class ids, such as `model.info.category_ids`. In
                most COCO files, it differs from the class id.

        Raises:
            InputError: the number of category ids is not the number of classes.
        """
        if len(category_ids) != len(self.class_names):
            raise InputError(
                f"category_ids: expected one id for each of {plural(len(self.class_names), 'class')}, got "
                f"{len(category_ids)}"
            )
        return coco_results({image_id: self}, category_ids)

    def to_supervision(self) -> Any:
        """Convert these detections to `supervision.Detections`, with the class names in `data["class_name"]`.

        The arrays are copies: changing them does not change these detections.

        Raises:
            MissingPackageError: the package supervision is not installed.
        """
        try:
            import supervision
        except ImportError:
            raise MissingPackageError(
                "to_supervision needs the package supervision: pip install 'grid-detector[track]'"
            ) from None
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.class_ids.copy(),
            tracker_id=None if self.track_ids is None else self.track_ids.copy(),
            data={"class_name": np.array([label for label, _, _ in self], dtype=str)},
        )

    @classmethod
    def from_supervision(cls, found: Any, class_names: Sequence[str]) -> "Detections":
        """Convert `supervision.Detections` to `Detections`, sorted by score; masks and other data are not converted.

        Args:
            found: `supervision.Detections` with `confidence` and `class_id`.
            class_names: names of all classes, in the order of `class_id`.

        Raises:
            InputError: scores or class ids are missing, or the class names differ from `class_names`.
        """
        if found.confidence is None or found.class_id is None:
            raise InputError("detections need scores and classes: `confidence` and `class_id` must not be None")
        order = np.argsort(-found.confidence, kind="stable")
        detections = cls(
            boxes=found.xyxy[order].astype(np.float32),
            scores=found.confidence[order].astype(np.float32),
            class_ids=found.class_id[order].astype(np.int64),
            class_names=tuple(class_names),
            track_ids=None if found.tracker_id is None else found.tracker_id[order].astype(np.int64),
        )
        if (names := found.data.get("class_name")) is not None:
            for name, label in zip(np.asarray(names)[order].tolist(), detections.labels.tolist(), strict=True):
                if name != label:
                    raise InputError(
                        f"a class is named {name!r} in the supervision detections and {label!r} in class_names: pass "
                        "the class names of the model that created the detections"
                    )
        return detections


def _shortened(name: str) -> str:
    """Return a class name on one line and with at most `_LONGEST_NAME` characters."""
    name = " ".join(name.split())
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 3] + "..."


def json_rows(found: Detections) -> list[dict[str, Any]]:
    """Return one JSON object per detection, best first; `Detections.to_json` describes them."""
    columns = found.to_dict()
    columns["box"] = found.boxes.tolist()
    keys = ["class", "class_id", "score", "box", *(["track_id"] if "track_id" in columns else [])]
    return [dict(zip(keys, row, strict=True)) for row in zip(*(columns[key] for key in keys), strict=True)]


def draw(image: ImageLike, found: Detections) -> Image.Image:
    """Draw detections on a copy of an image, and return the copy as a PIL image. The same as `found.draw(image)`.

    Args:
        image: an image of any kind that `Detector.detect` accepts.
        found: the detections in the image.

    Raises:
        InputError: the image cannot be read.
    """
    return found.draw(image)


def coco_results(
    found: Mapping[int, Detections], category_ids: Sequence[int], file_names: Mapping[int, str] | None = None
) -> list[dict[str, Any]]:
    """Return one row per detection in COCO's results format: image_id, category_id, bbox [x, y, w, h] and score.

    Args:
        found: image id → detections in the image.
        category_ids: category id of each class, in the order of class ids.
        file_names: image id → file name of the image; if given, every row also has `file_name`.
    """
    rows = []
    for image_id, detections in found.items():
        named = {"file_name": file_names[image_id]} if file_names else {}
        boxes = to_xywh(detections.boxes.astype(np.float64)).tolist()
        for box, score, class_id in zip(boxes, detections.scores.tolist(), detections.class_ids, strict=True):
            rows.append(
                {"image_id": image_id, **named, "category_id": category_ids[class_id], "bbox": box, "score": score}
            )
    return rows
