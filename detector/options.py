"""Option objects that travel unchanged through the pipeline.

Public functions take keyword-only parameters with these names and defaults and make one object of them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal, get_args

import numpy as np

from detector.errors import ConfigError

SCORE_THRESHOLD = 0.25
"""Default lowest confidence score."""

IOU_THRESHOLD = 0.6
"""Default NMS IoU threshold."""

MAX_DETECTIONS = 300
"""Default largest number of detections per image."""

TILE_OVERLAP = 0.2
"""Default overlap of neighboring tiles, as a fraction of a tile."""

BATCH_SIZE = 8
"""Default number of images per inference batch."""

MAX_PIXELS = 89_478_485
"""Default number of pixels of the largest image that is decoded; Pillow's own limit."""

RuntimeName = Literal["auto", "torch", "onnxruntime", "openvino", "openvino-fast"]
"""Inference backend; see `runtime.load`."""

SuppressionName = Literal["classic", "soft", "diou", "weighted"]
"""What happens to a box that overlaps a better one: `classic` NMS drops it, `soft` lowers its score, `diou` also takes
the distance of the centers into account, `weighted` merges it into the better one."""


@dataclass(frozen=True, kw_only=True)
class DetectOptions:
    """How the predictions for an image become detections.

    Numbers may be of any type, also NumPy's; the attributes are Python's int and float.

    Attributes:
        score_threshold: lowest confidence score, 0..1.
        iou_threshold: NMS IoU threshold, 0..1: of two boxes that overlap by more, only the better one is kept.
        max_detections: largest number of detections per image.
        classes: names or ids of the classes to detect; None: all. Other classes suppress nothing and do not count.
        suppression: NMS variant; None: as in the settings of the weights.
        class_agnostic: whether boxes of different classes suppress each other; None: as in the settings of the weights.
        multi_label: whether a grid point yields a detection for every class above the threshold, as evaluation
            needs, instead of only for its best class.
        tile: long side of tiles in image pixels, to detect small objects in large images; None: no tiling.
        tile_overlap: smallest overlap of neighboring tiles, as a fraction of a tile, 0 to below 1.
        tta: flip test-time augmentation: also run on the flipped image and merge the results.
        batch_size: largest number of images or tiles per inference batch.

    Raises:
        ConfigError: a value of the wrong type or out of range.
    """

    score_threshold: float = SCORE_THRESHOLD
    iou_threshold: float = IOU_THRESHOLD
    max_detections: int = MAX_DETECTIONS
    classes: Sequence[str | int] | str | None = None
    suppression: SuppressionName | None = None
    class_agnostic: bool | None = None
    multi_label: bool = False
    tile: int | None = None
    tile_overlap: float = TILE_OVERLAP
    tta: bool = False
    batch_size: int = BATCH_SIZE

    def __post_init__(self) -> None:
        for name, convert in _CONVERSIONS.items():
            value = getattr(self, name)
            if value is not None or name not in ("tile", "class_agnostic"):
                object.__setattr__(self, name, convert(name, value))
        if self.classes is not None and not isinstance(self.classes, Iterable):
            raise ConfigError(f"classes: expected a list of names or ids, got {self.classes!r}")
        if self.tile_overlap == 1:
            raise ConfigError("tile_overlap: must be below 1")
        if self.suppression is not None and self.suppression not in get_args(SuppressionName):
            names = " or ".join(get_args(SuppressionName))
            raise ConfigError(f"suppression: expected {names}, got {self.suppression!r}")


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What may be read.

    Attributes:
        allow_outside: whether annotation files, lists and links of a data set may lead to files outside its folder.
        allow_url: whether images and streams may be fetched from http:// and https:// addresses.
        recursive: whether images in subfolders of a folder are taken too.
        max_pixels: pixels of the largest image that is decoded.

    Raises:
        ConfigError: `max_pixels` is below 1.
    """

    allow_outside: bool = False
    allow_url: bool = False
    recursive: bool = False
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_pixels", _count("max_pixels", self.max_pixels))


def _fraction(name: str, value: object) -> float:
    """Return a number from 0 to 1 as a float; raise ConfigError for anything else, NaN included."""
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= value <= 1:  # type: ignore[operator]
        raise ConfigError(f"{name}: expected a number from 0 to 1, got {value!r}")
    return float(value)


def _count(name: str, value: object) -> int:
    """Return a whole number of at least 1 as an int; raise ConfigError for anything else."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name}: expected a whole number of at least 1, got {value!r}")
    return int(value)


def _flag(name: str, value: object) -> bool:
    """Return True or False; raise ConfigError for anything else, so that "no" does not count as true."""
    if not isinstance(value, bool | np.bool_):
        raise ConfigError(f"{name}: expected True or False, got {value!r}")
    return bool(value)


_CONVERSIONS: Mapping[str, Callable[[str, object], object]] = {
    "score_threshold": _fraction,
    "iou_threshold": _fraction,
    "tile_overlap": _fraction,
    "max_detections": _count,
    "tile": _count,
    "batch_size": _count,
    "class_agnostic": _flag,
    "multi_label": _flag,
    "tta": _flag,
}
"""Parameter of `DetectOptions` → the function that checks and converts its value."""
