"""The class `Detector`, which loads trained weights and detects objects in images."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from detector.arrays import ImageArray
from detector.config import SuppressionConfig, parse_value
from detector.detections import Detections
from detector.errors import ConfigError, InputError, WeightsError, did_you_mean
from detector.images import check_array, read_image, to_rgb
from detector.letterbox import Letterbox
from detector.options import (
    BATCH_SIZE,
    IOU_THRESHOLD,
    MAX_DETECTIONS,
    SCORE_THRESHOLD,
    TILE_OVERLAP,
    DetectOptions,
    RuntimeName,
    SuppressionName,
)
from detector.predict.postprocess import postprocess
from detector.predict.tiling import View, merge_views, views_of
from detector.runtime.base import Runtime
from detector.runtime.load import load_runtime
from detector.weights_info import WeightsInfo

ImageLike = str | Path | bytes | npt.NDArray[Any] | Image.Image | Callable[[], ImageArray]
"""A path, the bytes of an image file, an RGB array uint8 [H, W, 3], a PIL image, or a function that returns an RGB
array uint8 [H, W, 3]."""

Letterboxed = tuple[Letterbox, ImageArray]
"""A letterbox, and the letterboxed image [input height, input width, 3]."""

_DEFAULTS = DetectOptions()

_BATCH_PIXELS = 2**25
"""Number of pixels (100 MB) at which a batch is complete even with few images: large images need much memory."""


@dataclass(frozen=True, eq=False)
class _Entry:
    """A decoded image [H, W, 3], its views, and its letterboxed first view, which is the whole image."""

    image: ImageArray
    views: list[View]
    letterboxed: Letterboxed


class Detector:
    """An object detector: a trained network in an inference backend, with preprocessing and postprocessing.

    `Detector.load` creates a detector from a file. The parameters of the methods have the same names, ranges and
    defaults as the attributes of `DetectOptions`.

    Args:
        runtime: the inference backend that runs the network.
        info: information stored with the weights.

    Attributes:
        runtime: the inference backend.
        info: class names, input size in training, settings and facts of the training run.
        suppression: NMS variant from the settings of the weights: the default of `detect`.
        class_agnostic: whether boxes of different classes suppress each other, from the settings of the weights: the
            default of `detect`.

    Raises:
        WeightsError: the settings stored with the weights are invalid.
    """

    def __init__(self, runtime: Runtime, info: WeightsInfo) -> None:
        self.runtime = runtime
        self.info = info
        self.suppression: SuppressionName = _stored_setting(info, "suppression", SuppressionConfig.suppression)
        self.class_agnostic: bool = _stored_setting(info, "class_agnostic", SuppressionConfig.class_agnostic)

    @classmethod
    def load(
        cls,
        weights: str | Path,
        *,
        device: str = "auto",
        runtime: RuntimeName = "auto",
        input_size: int | None = None,
    ) -> "Detector":
        """Load trained weights or an exported graph, and return a detector.

        Args:
            weights: a .safetensors file, the name of shipped weights ("cells", "scenes"), an exported .onnx file, or a
                folder with an OpenVINO export.
            device: device for PyTorch: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" or "mps".
            runtime: inference backend: "auto", "torch", "onnxruntime", "openvino" or "openvino-fast".
                `runtime.load.load_runtime` describes each backend.
            input_size: long side of the network input in pixels, a multiple of 32; None: as in training.

        Raises:
            FileError: the weights do not exist.
            WeightsError: the weights are damaged.
            ConfigError: the device or the runtime is not available, or the input size is invalid.
            MissingPackageError: the package of the runtime is not installed.
        """
        return cls(*load_runtime(weights, device=device, runtime=runtime, input_size=input_size))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names, in the order of the class ids."""
        return self.info.class_names

    @property
    def input_hw(self) -> tuple[int, int]:
        """Height and width of the network input in pixels."""
        return self.runtime.input_hw

    @overload
    def detect(  # type: ignore[overload-overlap]  # a str is a sequence of str
        self,
        source: ImageLike,
        *,
        score_threshold: float = ...,
        iou_threshold: float = ...,
        max_detections: int = ...,
        classes: Sequence[str | int] | str | None = ...,
        suppression: SuppressionName | None = ...,
        class_agnostic: bool | None = ...,
        multi_label: bool = ...,
        tile: int | None = ...,
        tile_overlap: float = ...,
        tta: bool = ...,
        batch_size: int = ...,
    ) -> Detections: ...
    @overload
    def detect(
        self,
        source: Sequence[ImageLike],
        *,
        score_threshold: float = ...,
        iou_threshold: float = ...,
        max_detections: int = ...,
        classes: Sequence[str | int] | str | None = ...,
        suppression: SuppressionName | None = ...,
        class_agnostic: bool | None = ...,
        multi_label: bool = ...,
        tile: int | None = ...,
        tile_overlap: float = ...,
        tta: bool = ...,
        batch_size: int = ...,
    ) -> list[Detections]: ...

    def detect(
        self,
        source: ImageLike | Sequence[ImageLike],
        *,
        score_threshold: float = SCORE_THRESHOLD,
        iou_threshold: float = IOU_THRESHOLD,
        max_detections: int = MAX_DETECTIONS,
        classes: Sequence[str | int] | str | None = None,
        suppression: SuppressionName | None = None,
        class_agnostic: bool | None = None,
        multi_label: bool = False,
        tile: int | None = None,
        tile_overlap: float = TILE_OVERLAP,
        tta: bool = False,
        batch_size: int = BATCH_SIZE,
    ) -> Detections | list[Detections]:
        """Detect the objects in one image and return `Detections`, or in a list of images and return a list.

        Args:
            source: an image, or a list of images. An image is a path, the bytes of an image file, an RGB uint8 array
                [H, W, 3] or a PIL image.
            score_threshold: 0..1; a detection must have a confidence score above this threshold.
            iou_threshold: NMS IoU threshold, 0..1. If the IoU of two boxes is above it, only the better box is kept.
            max_detections: largest number of detections per image.
            classes: names or ids of the classes to detect; None: all classes.
            suppression: NMS variant: "classic", "soft", "diou" or "weighted"; None: the setting stored with the
                weights.
            class_agnostic: whether boxes of different classes suppress each other; None: the setting stored with the
                weights.
            multi_label: whether a grid point may give detections of several classes.
            tile: long side of tiles in image pixels, to detect small objects in large images; None: no tiling. For
                images with many objects, increase `max_detections` too.
            tile_overlap: smallest overlap of neighboring tiles, as a fraction of a tile. The overlap should be larger
                than the objects.
            tta: whether to use flip test-time augmentation (TTA).
            batch_size: largest number of images or tiles per inference batch.

        Returns:
            `Detections` for one image; for a list of images, a list with the `Detections` of each image.

        Raises:
            ConfigError: a parameter is out of range, or a class is unknown.
            InputError: an image cannot be read; the message names it.
        """
        options = DetectOptions(
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            max_detections=max_detections,
            classes=classes,
            suppression=suppression,
            class_agnostic=class_agnostic,
            multi_label=multi_label,
            tile=tile,
            tile_overlap=tile_overlap,
            tta=tta,
            batch_size=batch_size,
        )
        if isinstance(source, list | tuple):
            with closing(self.detect_with_images(source, options)) as results:
                return [_or_raise(result)[1] for result in results]
        options = self.resolve_options(options)
        return self._detect_batch([self._prepare(source, options)], options)[0]  # type: ignore[arg-type]

    def detect_each(
        self,
        images: Iterable[ImageLike],
        *,
        score_threshold: float = SCORE_THRESHOLD,
        iou_threshold: float = IOU_THRESHOLD,
        max_detections: int = MAX_DETECTIONS,
        classes: Sequence[str | int] | str | None = None,
        suppression: SuppressionName | None = None,
        class_agnostic: bool | None = None,
        multi_label: bool = False,
        tile: int | None = None,
        tile_overlap: float = TILE_OVERLAP,
        tta: bool = False,
        batch_size: int = BATCH_SIZE,
    ) -> Iterator[Detections | InputError]:
        """Yield the detections of each image of an iterable, in order; suitable for any number of images.

        Another thread reads a few images in advance. If an image cannot be read, its error is yielded instead of
        raised, and the next image follows.

        Args:
            images: an iterable of images: paths, bytes, arrays or PIL images, as in `detect`.
            score_threshold: as in `detect`, like all following parameters.
            iou_threshold: as in `detect`.
            max_detections: as in `detect`.
            classes: as in `detect`.
            suppression: as in `detect`.
            class_agnostic: as in `detect`.
            multi_label: as in `detect`.
            tile: as in `detect`.
            tile_overlap: as in `detect`.
            tta: as in `detect`.
            batch_size: as in `detect`.

        Yields:
            `Detections`, or an InputError for an image that cannot be read or would need too many tiles.

        Raises:
            ConfigError: a parameter is out of range, or a class is unknown.
        """
        options = DetectOptions(
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            max_detections=max_detections,
            classes=classes,
            suppression=suppression,
            class_agnostic=class_agnostic,
            multi_label=multi_label,
            tile=tile,
            tile_overlap=tile_overlap,
            tta=tta,
            batch_size=batch_size,
        )
        for result in self.detect_with_images(images, options):
            yield result if isinstance(result, InputError) else result[1]

    def detect_with_images(
        self, images: Iterable[ImageLike], options: DetectOptions = _DEFAULTS
    ) -> Generator[tuple[ImageArray, Detections] | InputError, None, None]:
        """Yield (image [H, W, 3], detections) for each image of an iterable, in order, or the InputError of the image.

        Works like `detect_each`. The caller gets the decoded image and does not have to read it again.

        Raises:
            ConfigError: a class is unknown.
        """
        options = self.resolve_options(options)
        batches = self._read_batches(images, options)
        with ThreadPoolExecutor(max_workers=1) as pool:
            ahead = pool.submit(lambda: next(batches, None))
            while (entries := ahead.result()) is not None:
                ahead = pool.submit(lambda: next(batches, None))
                readable = [entry for entry in entries if not isinstance(entry, InputError)]
                found = iter(self._detect_batch(readable, options))
                for entry in entries:
                    yield entry if isinstance(entry, InputError) else (entry.image, next(found))

    def detect_letterboxed(self, inputs: Sequence[Letterboxed], options: DetectOptions = _DEFAULTS) -> list[Detections]:
        """Return the detections in each of several images that are already letterboxed to the input size.

        Args:
            inputs: pairs of a letterbox and a letterboxed image [input height, input width, 3]. All are processed in
                one batch.
            options: thresholds, classes and NMS; tiling, TTA and batch size are ignored.

        Raises:
            ConfigError: a class is unknown.
        """
        return self._predict(inputs, self.resolve_options(options)) if inputs else []

    def resolve_options(self, options: DetectOptions) -> DetectOptions:
        """Return options in which None is replaced by the NMS settings of the weights, and class names by class ids.

        Raises:
            ConfigError: the weights have no class with one of the given names or ids.
        """
        return replace(
            options,
            suppression=self.suppression if options.suppression is None else options.suppression,
            class_agnostic=self.class_agnostic if options.class_agnostic is None else options.class_agnostic,
            classes=None if options.classes is None else _class_ids(options.classes, self.class_names),
        )

    def _predict(self, inputs: Sequence[Letterboxed], options: DetectOptions) -> list[Detections]:
        """Run the network on letterboxed images in one batch, and return the detections of each image."""
        predictions = self.runtime.predict([pixels for _, pixels in inputs])
        return postprocess(predictions, [letterbox for letterbox, _ in inputs], self.class_names, options)

    def _detect_batch(self, entries: Sequence[_Entry], options: DetectOptions) -> list[Detections]:
        """Return the detections of each entry, merged from all views of its image."""
        if not entries:
            return []
        first_results = self._predict([entry.letterboxed for entry in entries], options)
        if all(len(entry.views) == 1 for entry in entries):
            return first_results
        inputs = (view.letterbox(entry.image, self.input_hw) for entry in entries for view in entry.views[1:])
        # At least the default: boxes of partial objects, which are removed later, must not displace complete objects.
        view_options = replace(options, max_detections=max(options.max_detections, MAX_DETECTIONS))
        other_results: list[Detections] = []
        while batch := list(islice(inputs, options.batch_size)):
            other_results += self._predict(batch, view_options)
        remaining = iter(other_results)
        return [
            merge_views(entry.views, [first, *islice(remaining, len(entry.views) - 1)], options)
            for entry, first in zip(entries, first_results, strict=True)
        ]

    def _read_batches(self, images: Iterable[ImageLike], options: DetectOptions) -> Iterator[list[_Entry | InputError]]:
        """Read the images and yield lists of at most `batch_size` entries or errors, fewer if the images are large."""
        batch: list[_Entry | InputError] = []
        pixels = 0
        try:
            for count, image in enumerate(images, 1):
                try:
                    entry = self._prepare(image, options)
                    batch.append(entry)
                    pixels += entry.image.shape[0] * entry.image.shape[1]
                except InputError as error:
                    batch.append(error)
                # `count` is the number of the image, so that a batch that ends early does not shift the next batches.
                if count % options.batch_size == 0 or pixels >= _BATCH_PIXELS:
                    yield batch
                    batch, pixels = [], 0
        except Exception:  # raised by the caller's iterable: first yield the images that were read before the error
            yield batch
            raise
        if batch:
            yield batch

    def _prepare(self, image: ImageLike, options: DetectOptions) -> _Entry:
        """Read and letterbox an image, and return its entry; raise InputError if the image cannot be used."""
        pixels = _read(image)
        views = views_of((pixels.shape[0], pixels.shape[1]), self.input_hw, options)
        return _Entry(pixels, views, views[0].letterbox(pixels, self.input_hw))


def _stored_setting(info: WeightsInfo, key: str, default: Any) -> Any:
    """Return a setting stored with the weights, or the default if the setting is missing."""
    if not isinstance(info.config, Mapping):
        raise WeightsError(f"the settings stored with the weights are damaged: expected a mapping, got {info.config!r}")
    try:
        return parse_value(key, info.config.get(key, default))
    except ConfigError as error:
        raise WeightsError(f"the settings stored with the weights are damaged: {error}") from None


def _class_ids(classes: Sequence[str | int] | str, class_names: tuple[str, ...]) -> tuple[int, ...]:
    """Convert class names and class ids to a tuple of class ids, and return the tuple.

    If several classes have the same name, the name stands for all of them. An id may also be a string, such as "3".

    Args:
        classes: one name, or a sequence of names and ids.
        class_names: names of all classes of the detector.

    Raises:
        ConfigError: a name or an id is unknown, or `classes` is empty.
    """
    ids: list[int] = []
    for name in [classes] if isinstance(classes, str) else classes:
        same_name = [class_id for class_id, known in enumerate(class_names) if known == name]
        as_id = int(name) if str(name).isdecimal() else -1
        if not same_name and not 0 <= as_id < len(class_names):
            hint, known = did_you_mean(str(name), class_names), "known: " + ", ".join(class_names)
            raise ConfigError(f"classes: no class {name!r}; {hint if hint == known else f'{hint} {known}'}")
        ids += same_name or [as_id]
    if not ids:
        raise ConfigError("classes: expected at least one name or id, got none")
    return tuple(ids)


def _read(image: ImageLike) -> ImageArray:
    """Return an image as an RGB array [H, W, 3]; raise InputError if it cannot be read."""
    if isinstance(image, np.ndarray):
        return check_array(image)
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if callable(image):
        return image()
    return read_image(image)


def _or_raise(result: tuple[ImageArray, Detections] | InputError) -> tuple[ImageArray, Detections]:
    """Return a result of `detect_with_images`, or raise it if it is an error."""
    if isinstance(result, InputError):
        raise result
    return result
