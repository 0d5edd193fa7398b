"""What was found in one picture."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detector.arrays import Floats, Ints
from detector.boxes import to_xywh
from detector.errors import InputError

SCORE_THRESHOLD = 0.25
"""Lowest score worth showing, where the user does not say."""

IOU_THRESHOLD = 0.6
"""Overlap above which two boxes count as one object, where the user does not say."""

MAX_DETECTIONS = 300
"""Most detections of one picture, where the user does not say."""

TILE_OVERLAP = 0.2
"""Share of a tile that the next one shows too, where the user does not say."""


@dataclass(frozen=True, eq=False)
class Detections:
    """Objects found in one picture, best first. Iterating gives (class name, score, box).

    Attributes:
        boxes: [N, 4] in pixels of the original picture, inside it.
        scores: [N] float32, 0..1, falling.
        class_ids: [N] int64, positions in `class_names`.
        class_names: all classes of the detector.
        track_ids: [N] int64, the same number for the same object in each frame of a video; -1 where none is given yet.
            None: nobody followed the objects.

    Raises:
        InputError: the arrays do not fit together.

    >>> found = Detections(np.array([[1, 2, 3, 4]], np.float32), np.array([.9], np.float32), np.array([1]), ("a", "b"))
    >>> [(name, round(score, 2), box.tolist()) for name, score, box in found]
    [('b', 0.9, [1.0, 2.0, 3.0, 4.0])]
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
                f"boxes {self.boxes.shape}, scores {self.scores.shape} and class_ids {self.class_ids.shape} do not fit"
            )
        if n and not 0 <= self.class_ids.min() <= self.class_ids.max() < len(self.class_names):
            raise InputError(f"class ids must lie in 0..{len(self.class_names) - 1}, the classes that have names")
        if np.any(self.scores[1:] > self.scores[:-1]):
            raise InputError("detections must be sorted by score, best first")
        if self.track_ids is not None and self.track_ids.shape != (n,):
            raise InputError(f"track_ids {self.track_ids.shape} do not fit {n} detections")
        if self.track_ids is not None and np.any(self.track_ids < -1):
            raise InputError("track ids must be -1, for none, or more")

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[tuple[str, float, Floats]]:
        for box, score, class_id in zip(self.boxes, self.scores, self.class_ids, strict=True):
            yield self.class_names[class_id], float(score), box

    def to_supervision(self) -> Any:
        """Return these as `supervision.Detections`, with the names of their classes in `data["class_name"]`.

        Raises:
            InputError: the package supervision is not installed.
        """
        try:
            import supervision
        except ImportError:
            raise InputError("this needs the package supervision: pip install 'supervision>=0.30'") from None
        return supervision.Detections(
            xyxy=self.boxes,
            confidence=self.scores,
            class_id=self.class_ids,
            tracker_id=self.track_ids,
            data={"class_name": np.array([label for label, _, _ in self], dtype=str)},
        )

    @classmethod
    def from_supervision(cls, found: Any, class_names: Sequence[str]) -> "Detections":
        """Return `supervision.Detections`, sorted; what we have no word for, such as masks, is left behind.

        Args:
            found: with confidence and class_id.
            class_names: of all classes, in the order of class_id.

        Raises:
            InputError: they lack scores or classes, or their classes are other ones.
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
        theirs = found.data.get("class_name")
        for (ours, _, _), other in zip(detections, () if theirs is None else np.asarray(theirs)[order], strict=False):
            if ours != other:
                raise InputError(f"a class is called {str(other)!r} there and {ours!r} in class_names: give its names")
        return detections


def coco_results(
    found: Mapping[int, Detections], category_ids: Sequence[int], file_names: Mapping[int, str] | None = None
) -> list[dict[str, Any]]:
    """Return detections as COCO writes results: a list of image_id, category_id, bbox [x, y, w, h], score.

    Args:
        found: by image id.
        category_ids: of the classes, in the order of their class ids.
        file_names: by image id; adds a `file_name` to every row.
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
