"""Option objects, which are passed unchanged from the public functions to the code that uses the options.

Public functions have keyword-only parameters with the same names and defaults, and create one option object from them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from numbers import Integral, Real
from typing import Final, Literal, get_args

import numpy as np

from detector.errors import ConfigError
from detector.wording import shown

SCORE_THRESHOLD = 0.25
"""Default of `score_threshold`."""

IOU_THRESHOLD = 0.6
"""Default of `iou_threshold`."""

MAX_DETECTIONS = 300
"""Default of `max_detections`."""

TILED_MAX_DETECTIONS = 10_000
"""Default of --max-det with --tile: a large image can contain many objects."""


class AllClasses(Enum):
    """Type of `ALL_CLASSES`."""

    ALL = "all classes"


ALL_CLASSES: Final = AllClasses.ALL
"""Value of `classes` inside this package: all classes, also those that the weights do not detect by default.

Users write "all". But if a class has this name, that means the class.
"""

MATCH_IOU = 0.5
"""Default IoU from which a detection finds an object, where causes of missed objects are explained."""

TILE_OVERLAP = 0.2
"""Default of `tile_overlap`."""

BATCH_SIZE = 8
"""Default of `batch_size`."""

MAX_PIXELS = 89_478_485
"""Default of `max_pixels`, and Pillow's own limit: largest number of pixels of an image that is decoded."""

VAL_FRACTION = 0.15
"""Default of `val_fraction`: fraction of the training images that are held back if there is no val split."""

MAX_VAL_FRACTION = 0.33
"""Largest `val_fraction`: at most a third of the images are held back."""

RuntimeName = Literal["auto", "torch", "onnxruntime", "openvino", "openvino-fast", "ncnn", "litert"]
"""Name of an inference backend; `runtime.load.load_runtime` describes each."""

SuppressionName = Literal["classic", "soft", "diou", "weighted"]
"""NMS variant: what happens to a box that overlaps a better box. `classic`: it is removed; `soft`: its score is
lowered; `diou`: it is removed, depending also on the distance of the centers; `weighted`: it is merged into the better
box."""


ScoreThreshold = float | tuple[float, ...] | Literal["auto"]
"""One score threshold for all classes, or one for each class in the order of class ids, or "auto": those that
`detector evaluate --save` has stored with the weights."""


@dataclass(frozen=True, kw_only=True)
class DetectOptions:
    """Options that determine how predictions become detections: thresholds, classes, NMS, tiling, TTA, batch size.

    Numbers may have any type, such as NumPy's; they are converted to Python's int and float.

    Attributes:
        score_threshold: 0..1; a detection must have a confidence score above this threshold. A tuple with a threshold
            for each class gives the detections of each class as with its threshold alone. "auto": the thresholds
            stored with the weights.
        iou_threshold: NMS IoU threshold, 0..1. If the IoU of two boxes is above it, only the better box is kept.
        max_detections: largest number of detections per image.
        classes: names or ids of the classes to detect; None: the default classes of the weights, else all classes;
            "all": all classes, unless a class has this name. Boxes of other classes are removed before NMS and do not
            count for `max_detections`.
        suppression: NMS variant; None: the setting stored with the weights.
        class_agnostic: whether boxes of different classes suppress each other; None: the setting stored with the
            weights.
        multi_label: True: a grid point gives one detection for each class with a score above the threshold, as the
            evaluation needs; False: a grid point gives a detection only for its best class.
        tile: long side of tiles in image pixels, to detect small objects in large images; None: no tiling.
        tile_overlap: smallest overlap of neighboring tiles, as a fraction of a tile; at least 0 and less than 1.
        tta: whether to use flip test-time augmentation: detect in the flipped image too, and merge the detections.
        batch_size: largest number of images or tiles per inference batch.
        calibrated: whether scores are replaced by probabilities of being correct, with the map stored with the weights.
            Which objects are detected, and their order, does not change: thresholds are compared with raw scores.

    Raises:
        ConfigError: a value has the wrong type or is out of range.
    """

    score_threshold: ScoreThreshold = SCORE_THRESHOLD
    iou_threshold: float = IOU_THRESHOLD
    max_detections: int = MAX_DETECTIONS
    classes: Sequence[str | int] | str | AllClasses | None = None
    suppression: SuppressionName | None = None
    class_agnostic: bool | None = None
    multi_label: bool = False
    tile: int | None = None
    tile_overlap: float = TILE_OVERLAP
    tta: bool = False
    batch_size: int = BATCH_SIZE
    calibrated: bool = False

    def __post_init__(self) -> None:
        for name, convert in _CONVERSIONS.items():
            value = getattr(self, name)
            if value is not None or name not in ("tile", "class_agnostic"):
                object.__setattr__(self, name, convert(name, value))
        if self.classes is not None and self.classes is not ALL_CLASSES:
            if not isinstance(self.classes, Iterable) or isinstance(self.classes, bytes | bytearray):
                raise ConfigError(f"classes: expected a list of names or ids, got {shown(self.classes)}")
            if isinstance(self.classes, Iterator):  # it could be read only once
                object.__setattr__(self, "classes", tuple(self.classes))
        if self.tile_overlap == 1:
            raise ConfigError("tile_overlap: must be below 1")
        is_known = isinstance(self.suppression, str) and self.suppression in get_args(SuppressionName)
        if self.suppression is not None and not is_known:
            names = " or ".join(get_args(SuppressionName))
            raise ConfigError(f"suppression: expected {names}, got {shown(self.suppression)}")

    @property
    def lowest_threshold(self) -> float:
        """The score threshold; if each class has its own, the lowest of them. It must not be "auto"."""
        assert self.score_threshold != "auto", "score_threshold: the caller must replace auto by numbers"
        return min(self.score_threshold) if isinstance(self.score_threshold, tuple) else self.score_threshold


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Options that determine which files and URLs may be read, and how large an image may be.

    Attributes:
        allow_outside: whether a dataset may name, or link to, files outside its folder.
        allow_url: whether images and streams may be loaded from http:// and https:// addresses.
        recursive: whether images in the subfolders of a folder are read too.
        videos: whether the videos of a folder are read too.
        packed: whether the images in Parquet files and tar archives are read too.
        image_column: column of Parquet files with the images, or extension of the images in tar archives; None: chosen
            from the file. See `parquet_images.list_parquet` and `tar_images.list_tar`.
        name_column: column of Parquet files with the names of the images; None: chosen from the file.
        max_pixels: largest number of pixels of an image that is decoded.

    Raises:
        ConfigError: `max_pixels` is not a whole number of at least 1.
    """

    allow_outside: bool = False
    allow_url: bool = False
    recursive: bool = False
    videos: bool = False
    packed: bool = False
    image_column: str | None = None
    name_column: str | None = None
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_pixels", _count("max_pixels", self.max_pixels))


@dataclass(frozen=True, kw_only=True)
class DrawOptions:
    """Options that determine how detections are drawn on an image.

    Attributes:
        labels: whether each box has a caption with the class name, the score and the track id.
        scores: whether the captions contain the scores.
        line_width: width of the lines in pixels; None: chosen from the size of the image.

    Raises:
        ConfigError: `line_width` is not a whole number of at least 1.
    """

    labels: bool = True
    scores: bool = True
    line_width: int | None = None

    def __post_init__(self) -> None:
        if self.line_width is not None:
            object.__setattr__(self, "line_width", _count("line_width", self.line_width))


DEFAULT_DRAWING = DrawOptions()


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of a list of images; each part can be processed by another process or on another machine.

    Attributes:
        index: number of the part, from 0.
        count: number of parts.

    Raises:
        ConfigError: `index` is not from 0 to `count` - 1.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        _count("shard", self.count)
        _count("shard", self.index + 1)
        if self.index >= self.count:
            raise ConfigError(f"shard: expected an index from 0 to {self.count - 1}, got {self}")

    def __str__(self) -> str:
        """Return the shard as on the command line, such as 0/8."""
        return f"{self.index}/{self.count}"


@dataclass(frozen=True, kw_only=True)
class StyleOptions:
    """Options of the style transfer.

    Attributes:
        steps: number of steps at each of three sizes of the image.
        style_weight: weight of the style relative to the content, at least 0.
        max_side: largest long side in pixels at which the texture is found.
        keep_colors: whether images keep their colors, and get only the texture of the style images.

    Raises:
        ConfigError: a value has the wrong type or is out of range.
    """

    steps: int = 15
    style_weight: float = 3.0
    max_side: int = 512
    keep_colors: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", _count("steps", self.steps))
        object.__setattr__(self, "max_side", _count("max_side", self.max_side))
        object.__setattr__(self, "keep_colors", _flag("keep_colors", self.keep_colors))
        weight: object = self.style_weight
        if not isinstance(weight, Real) or isinstance(weight, bool) or not 0 <= weight < float("inf"):  # type: ignore[operator]
            raise ConfigError(f"style_weight: expected a number of at least 0, got {shown(weight)}")
        object.__setattr__(self, "style_weight", float(weight))


def _fraction(name: str, value: object) -> float:
    """Return `value` as a float if it is a number from 0 to 1, else raise ConfigError (also for NaN)."""
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= value <= 1:  # type: ignore[operator]
        raise ConfigError(f"{name}: expected a number from 0 to 1, got {shown(value)}")
    return float(value)


def _thresholds(name: str, value: object) -> ScoreThreshold:
    """Return "auto", a number from 0 to 1 as a float, or a tuple of such numbers; else raise ConfigError."""
    if isinstance(value, str) and value == "auto":
        return "auto"
    if isinstance(value, tuple) and value:
        return tuple(_fraction(name, item) for item in value)
    return _fraction(name, value)


def _count(name: str, value: object) -> int:
    """Return `value` as an int if it is a whole number of at least 1, else raise ConfigError."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name}: expected a whole number of at least 1, got {shown(value)}")
    return int(value)


def _flag(name: str, value: object) -> bool:
    """Return `value` as a bool if it is True or False, else raise ConfigError (a text such as "no" is refused too)."""
    if not isinstance(value, bool | np.bool_):
        raise ConfigError(f"{name}: expected True or False, got {shown(value)}")
    return bool(value)


_CONVERSIONS: Mapping[str, Callable[[str, object], object]] = {
    "score_threshold": _thresholds,
    "iou_threshold": _fraction,
    "tile_overlap": _fraction,
    "max_detections": _count,
    "tile": _count,
    "batch_size": _count,
    "class_agnostic": _flag,
    "multi_label": _flag,
    "tta": _flag,
    "calibrated": _flag,
}
"""Parameter of `DetectOptions` → the function that checks and converts its value."""
