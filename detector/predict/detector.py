"""The class `Detector`, which loads trained weights and detects objects in images."""

import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice
from numbers import Integral
from pathlib import Path
from typing import Any, overload

from detector.arrays import ImageArray
from detector.config import SuppressionConfig, parse_value
from detector.detections import Detections
from detector.errors import ConfigError, InputError, WeightsError, did_you_mean, known_names
from detector.forks import limit_opencv_threads, no_fork
from detector.image_inputs import ImageLike, has_length, is_image, several_images, to_image
from detector.options import (
    ALL_CLASSES,
    BATCH_SIZE,
    IOU_THRESHOLD,
    MAX_DETECTIONS,
    SCORE_THRESHOLD,
    TILE_OVERLAP,
    DetectOptions,
    RuntimeName,
    ScoreThreshold,
    SuppressionName,
)
from detector.predict.postprocess import postprocess
from detector.predict.stream import Entry, Letterboxed, read_batches
from detector.predict.tiling import merge_views, views_of
from detector.runtime.base import PointPredictions, Runtime
from detector.runtime.load import load_runtime
from detector.runtime.origin import Origin, origin_of
from detector.weights_info import WeightsInfo
from detector.wording import plural, shown

_DEFAULTS = DetectOptions()

_ALL = "all"
"""Name that stands for all classes, if no class has this name."""

_LONGEST_ID = 10
"""A class id has fewer digits than this."""


class Detector:
    """An object detector: a trained network in an inference backend, with preprocessing and postprocessing.

    `Detector.load` creates a detector from a file. The parameters of the methods have the same names, ranges and
    defaults as the attributes of `DetectOptions`.

    Threads can share a detector: all methods may be called by several threads at the same time, and return the same
    bits as in one thread, with every runtime. A detector can be copied and, if `load` has created it, pickled: a pickle
    contains the path and the hash of the weights file, and the process that unpickles it loads that file again.

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
        self._origin: Origin | None = None
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
        threads: int | None = None,
        cache: bool = True,
    ) -> "Detector":
        """Load trained weights or an exported graph, and return a detector.

        Args:
            weights: a .safetensors file, the name of shipped weights ("cells", "everyday", "scenes"), or an export:
                an .onnx or .tflite file, or a folder with an OpenVINO or ncnn export. A file may be at a URL.
            device: device for PyTorch: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" or "mps".
            runtime: inference backend: "auto", "torch", "onnxruntime", "openvino", "openvino-fast", "ncnn"
                or "litert". `runtime.load.load_runtime` describes each backend.
            input_size: long side of the network input in pixels, a multiple of 32; None: as in training.
            threads: largest number of CPU threads that run the network, at least 1. None: the environment variable
                OMP_NUM_THREADS if it is set, else one thread per CPU core, but not more than the CPUs that this process
                may use. For torch, and for OpenCV, which scales the images, the number applies to the whole process:
                the last detector that is loaded with `threads` determines it for OpenCV. `detect_each` reads images in
                one more thread.
            cache: whether the graph into which another runtime than torch converts a .safetensors file is kept in the
                cache, in the folder `$XDG_CACHE_HOME/detector` or `~/.cache/detector`, so that the next process starts
                faster. The environment variable DETECTOR_CACHE=off turns the cache off too.

        Raises:
            FileError: the weights do not exist.
            WeightsError: the weights are damaged.
            ConfigError: the device or the runtime is not available, or the input size or `threads` is invalid.
            MissingPackageError: the package of the runtime is not installed.
        """
        origin = origin_of(weights, device=device, runtime=runtime, input_size=input_size, threads=threads, cache=cache)
        detector = cls(
            *load_runtime(weights, device=device, runtime=runtime, input_size=input_size, threads=threads, cache=cache)
        )
        if threads is not None:
            limit_opencv_threads(threads)
        detector._origin = origin
        return detector

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names, in the order of the class ids."""
        return self.info.class_names

    @property
    def input_hw(self) -> tuple[int, int]:
        """Height and width of the network input in pixels."""
        return self.runtime.input_hw

    @property
    def runtime_name(self) -> str:
        """Name of the inference backend."""
        return self.runtime.name

    def __copy__(self) -> "Detector":
        """Return a detector with the same runtime, which never changes."""
        copy = type(self)(self.runtime, self.info)
        vars(copy).update(vars(self))
        return copy

    def __deepcopy__(self, memo: dict[int, object]) -> "Detector":
        """Return a detector with the same runtime, as `copy.copy` does."""
        return self.__copy__()

    def __reduce__(self) -> tuple[Callable[..., "Detector"], tuple[object, ...]]:
        """Return how to load this detector again, for pickling.

        Raises:
            ConfigError: the detector was not created by `load`.
        """
        if self._origin is None:
            raise ConfigError(
                "this detector cannot be pickled, because it was made from a runtime that is already loaded; use "
                "Detector.load with the path of a weights file"
            )
        return _load_again, (type(self), self._origin, self.class_agnostic, self.suppression)

    @overload
    def detect(  # type: ignore[overload-overlap]  # a str is an iterable of str
        self,
        source: ImageLike,
        *,
        score_threshold: ScoreThreshold = ...,
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
        calibrated: bool = ...,
    ) -> Detections: ...
    @overload
    def detect(
        self,
        source: Iterable[ImageLike],
        *,
        score_threshold: ScoreThreshold = ...,
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
        calibrated: bool = ...,
    ) -> list[Detections]: ...

    def detect(
        self,
        source: ImageLike | Iterable[ImageLike],
        *,
        score_threshold: ScoreThreshold = SCORE_THRESHOLD,
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
        calibrated: bool = False,
    ) -> Detections | list[Detections]:
        """Detect the objects in one image and return `Detections`, or in several images and return a list.

        Args:
            source: an image, or several images: a list, an iterator, or an array [N, H, W, 3]. An image is

                - an image file: a path, its bytes (bytes, bytearray, memoryview), or an open binary file;
                - an array: RGB [H, W, 3], gray [H, W] or [H, W, 1], or RGBA [H, W, 4] (composited on white); uint8 is
                  0..255, floats are 0..1, other types are refused because their range is unknown;
                - a torch tensor: as an array, or with the channels first, [3, H, W]. A shape that fits both, such as
                  [3, 100, 3], is refused;
                - a PIL image.
            score_threshold: 0..1; a detection must have a confidence score above this threshold. A tuple has a
                threshold for each class, in the order of class ids. "auto": the thresholds that `detector evaluate
                --save` has stored with the weights.
            iou_threshold: NMS IoU threshold, 0..1. If the IoU of two boxes is above it, only the better box is kept.
            max_detections: largest number of detections per image.
            classes: names or ids of the classes to detect; None: the default classes of the weights (only `everyday`
                has some), else all classes; "all": all classes.
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
            calibrated: whether scores are replaced by probabilities of being correct at IoU 0.5, with the map that
                `detector evaluate --calibrate --save` has stored with the weights. The same objects are detected:
                thresholds are compared with raw scores.

        Returns:
            `Detections` for one image; for several images, a list with the `Detections` of each image.

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
            calibrated=calibrated,
        )
        if not is_image(source):
            with closing(self.detect_with_images(several_images(source), options)) as results:
                return [_or_raise(result)[1] for result in results]
        return self.detect_image(source, options)

    def detect_each(
        self,
        images: Iterable[ImageLike] | ImageLike,
        *,
        score_threshold: ScoreThreshold = SCORE_THRESHOLD,
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
        calibrated: bool = False,
    ) -> Generator[Detections | InputError, None, None]:
        """Yield the detections of each image of an iterable, in order; suitable for any number of images.

        Another thread reads at most a batch of images in advance. If an image cannot be read, its error is yielded
        instead of raised, and the next image follows. The source may block and may be endless: the end of the loop
        (`break`, an exception, Ctrl-C) does not wait for it. The thread then ends with the next image of the source,
        which is lost.

        How images become batches depends on the source:

        - A list, or another source with a length: always `batch_size` images. The results are the same in each run.
        - An iterator, such as a generator that reads a camera: the images that have arrived, at most `batch_size`.
          No result waits for a later image. On some processors, the size of a batch changes the last digits of a
          score; with `batch_size=1`, and with a list, they are the same in each run.

        Args:
            images: an iterable of images, as in `detect`. A single image is accepted: it is an iterable of one.
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
            calibrated: as in `detect`.

        Yields:
            `Detections`, or an InputError for an image that cannot be read or would need too many tiles.

        Raises:
            ConfigError: a parameter is out of range, or a class is unknown.
            InputError: `images` is a set, which has no order, or not an iterable.
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
            calibrated=calibrated,
        )
        source: Iterable[ImageLike] = [images] if is_image(images) else several_images(images)
        options = self.resolve_options(options)
        return _without_images(self.detect_with_images(source, options, full_batches=has_length(images)))

    def detect_with_images(
        self,
        images: Iterable[ImageLike],
        options: DetectOptions = _DEFAULTS,
        *,
        full_batches: bool = True,
        stop: Callable[[], bool] = lambda: False,
    ) -> Generator[tuple[ImageArray, Detections] | InputError, None, None]:
        """Yield (image [H, W, 3], detections) for each image of an iterable, in order, or the InputError of the image.

        Works like `detect_each`. The caller gets the decoded image and does not have to read it again.

        Args:
            images: an iterable of images.
            options: thresholds, NMS, tiling and batch size.
            full_batches: True: each batch has `batch_size` images, so that the results are the same in each run.
                False: a batch contains the images that have arrived.
            stop: called while the source blocks; True ends the iteration.

        Raises:
            ConfigError: a class is unknown.
        """
        options = self.resolve_options(options)
        prepare = partial(self._prepare, options=options)
        batches = read_batches(images, prepare, batch_size=options.batch_size, full=full_batches, stop=stop)
        with closing(batches):
            for entries in batches:
                readable = [entry for entry in entries if not isinstance(entry, InputError)]
                found = iter(self._detect_batch(readable, options))
                for entry in entries:
                    yield entry if isinstance(entry, InputError) else (entry.image, next(found))

    def detect_image(self, image: ImageLike, options: DetectOptions = _DEFAULTS) -> Detections:
        """Return the detections in one image; as `detect`, with the parameters as one object.

        Raises:
            ConfigError: a class is unknown.
            InputError: the image cannot be read.
        """
        options = self.resolve_options(options)
        return self._detect_batch([self._prepare(image, options)], options)[0]

    def detect_letterboxed(self, inputs: Sequence[Letterboxed], options: DetectOptions = _DEFAULTS) -> list[Detections]:
        """Return the detections in each of several images that are already letterboxed to the input size.

        Args:
            inputs: pairs of a letterbox and a letterboxed image [input height, input width, 3]. All are processed in
                one batch.
            options: thresholds, classes and NMS; tiling, TTA and batch size are ignored.

        Raises:
            ConfigError: a class is unknown.
        """
        options = self.resolve_options(options)
        return self._calibrate(self._predict(inputs, options), options) if inputs else []

    def resolve_options(self, options: DetectOptions) -> DetectOptions:
        """Return options in which None and "auto" are replaced by what the weights contain, and class names by ids.

        Raises:
            ConfigError: the weights have no class with one of the given names or ids, or they have no thresholds or no
                map to probabilities, which the options need; or there is not one threshold for each class.
        """
        if options.calibrated and self.info.score_map is None:
            raise ConfigError(
                "calibrated: the weights have no map to probabilities; fit one with `detector evaluate --data DATA "
                "--weights WEIGHTS --calibrate --save NEW.safetensors`, and use the new weights"
            )
        return replace(
            options,
            score_threshold=stored_thresholds(options.score_threshold, self.info),
            suppression=self.suppression if options.suppression is None else options.suppression,
            class_agnostic=self.class_agnostic if options.class_agnostic is None else options.class_agnostic,
            classes=self._class_ids_of(options),
        )

    def _class_ids_of(self, options: DetectOptions) -> tuple[int, ...] | None:
        """Return the ids of the classes to detect; None: all.

        Raises:
            ConfigError: the weights have no class with one of the names or ids.
        """
        if options.classes is ALL_CLASSES:
            return None if self.info.default_classes is None else tuple(range(len(self.class_names)))
        return self.info.default_classes if options.classes is None else _class_ids(options.classes, self.class_names)

    def predict_letterboxed(self, inputs: Sequence[ImageArray]) -> PointPredictions:
        """Return the raw predictions at all grid points, before threshold and NMS, for B > 0 letterboxed images.

        Args:
            inputs: B letterboxed images [input height, input width, 3].
        """
        with no_fork():
            return self.runtime.predict(inputs)

    def _predict(self, inputs: Sequence[Letterboxed], options: DetectOptions) -> list[Detections]:
        """Run the network on letterboxed images in one batch, and return the detections of each image."""
        predictions = self.predict_letterboxed([pixels for _, pixels in inputs])
        return postprocess(predictions, [letterbox for letterbox, _ in inputs], self.class_names, options)

    def _detect_batch(self, entries: Sequence[Entry], options: DetectOptions) -> list[Detections]:
        """Return the detections of each entry, merged from all views of its image."""
        if not entries:
            return []
        first_results = self._predict([entry.letterboxed for entry in entries], options)
        if all(len(entry.views) == 1 for entry in entries):
            return self._calibrate(first_results, options)
        inputs = (view.letterbox(entry.image, self.input_hw) for entry in entries for view in entry.views[1:])
        # At least the default: boxes of partial objects, which are removed later, must not displace complete objects.
        view_options = replace(options, max_detections=max(options.max_detections, MAX_DETECTIONS))
        other_results: list[Detections] = []
        while batch := list(islice(inputs, min(options.batch_size, sys.maxsize))):
            other_results += self._predict(batch, view_options)
        remaining = iter(other_results)
        merged = [
            merge_views(entry.views, [first, *islice(remaining, len(entry.views) - 1)], options)
            for entry, first in zip(entries, first_results, strict=True)
        ]
        return self._calibrate(merged, options)

    def _calibrate(self, found: list[Detections], options: DetectOptions) -> list[Detections]:
        """Return the detections of several images, with probabilities instead of scores if the options ask for them."""
        score_map = self.info.score_map
        if not options.calibrated or score_map is None:
            return found
        return [replace(own, scores=score_map.apply(own.scores)) for own in found]

    def _prepare(self, image: ImageLike, options: DetectOptions) -> Entry:
        """Read and letterbox an image, and return its entry; raise InputError if the image cannot be used."""
        pixels = to_image(image)
        views = views_of((pixels.shape[0], pixels.shape[1]), self.input_hw, options)
        return Entry(pixels, views, views[0].letterbox(pixels, self.input_hw))


def _load_again(kind: type[Detector], origin: Origin, class_agnostic: bool, suppression: SuppressionName) -> Detector:
    """Load a detector from its origin; called when a detector is unpickled.

    Raises:
        InputError: the file is missing or was changed, or it cannot be loaded on this machine.
    """
    origin.check()
    detector = kind.load(
        origin.weights,
        device=origin.device,
        runtime=origin.runtime,
        input_size=origin.input_size,
        threads=origin.threads,
        cache=origin.cache,
    )
    detector.class_agnostic, detector.suppression = class_agnostic, suppression
    return detector


def _stored_setting(info: WeightsInfo, key: str, default: Any) -> Any:
    """Return a setting stored with the weights, or the default if the setting is missing."""
    if not isinstance(info.config, Mapping):
        raise WeightsError(
            f"the settings stored with the weights are damaged: expected a mapping, got {shown(info.config)}"
        )
    try:
        return parse_value(key, info.config.get(key, default))
    except ConfigError as error:
        raise WeightsError(f"the settings stored with the weights are damaged: {error}") from None


def stored_thresholds(threshold: ScoreThreshold, info: WeightsInfo) -> ScoreThreshold:
    """Return a score threshold, or one for each class; "auto" is replaced by the thresholds stored with the weights.

    Raises:
        ConfigError: no thresholds are stored, or `threshold` has another number of thresholds than there are classes.
    """
    if threshold == "auto":
        if info.thresholds is None:
            raise ConfigError(
                "score_threshold auto (--conf auto): the weights have no thresholds; choose them with `detector "
                "evaluate --data DATA --weights WEIGHTS --min-precision 0.95 --save NEW.safetensors` and use the new "
                "weights, or give a number"
            )
        return info.thresholds.values
    if isinstance(threshold, tuple) and len(threshold) != len(info.class_names):
        raise ConfigError(
            f"score_threshold: expected one number, or one for each of {plural(len(info.class_names), 'class')}, got "
            f"{len(threshold)}"
        )
    return threshold


def _class_ids(classes: Sequence[str | int] | str, class_names: tuple[str, ...]) -> tuple[int, ...]:
    """Convert class names and class ids to a tuple of class ids, and return the tuple.

    "all" stands for all classes, unless a class has this name. If several classes have the same name, the name stands
    for all of them. An id may also be a string, such as "3".

    Args:
        classes: one name, or a sequence of names and ids.
        class_names: names of all classes of the detector.

    Raises:
        ConfigError: a name or an id is unknown, or `classes` is empty.
    """
    ids: list[int] = []
    for name in [classes] if isinstance(classes, str) else classes:
        same_name = [class_id for class_id, known in enumerate(class_names) if known == name]
        if name == _ALL and not same_name:
            same_name = list(range(len(class_names)))
        as_id = _as_id(name)
        if not same_name and not 0 <= as_id < len(class_names):
            hint, known = did_you_mean(str(name) if as_id == -1 else "", class_names), known_names(class_names)
            raise ConfigError(f"classes: no class {shown(name)}; {hint if hint == known else f'{hint} {known}'}")
        ids += same_name or [as_id]
    if not ids:
        raise ConfigError("classes: expected at least one name or id, got none")
    return tuple(ids)


def _as_id(name: object) -> int:
    """Return a class id that is a whole number or a string of digits as an int, and -1 for anything else."""
    if isinstance(name, str):
        return int(name) if name.isdecimal() and len(name) < _LONGEST_ID else -1
    return int(name) if isinstance(name, Integral) and not isinstance(name, bool) else -1


def _without_images(
    results: Generator[tuple[ImageArray, Detections] | InputError, None, None],
) -> Generator[Detections | InputError, None, None]:
    """Yield the results of `detect_with_images` without the images."""
    with closing(results):
        for result in results:
            yield result if isinstance(result, InputError) else result[1]


def _or_raise(result: tuple[ImageArray, Detections] | InputError) -> tuple[ImageArray, Detections]:
    """Return a result of `detect_with_images`, or raise it if it is an error."""
    if isinstance(result, InputError):
        raise result
    return result
