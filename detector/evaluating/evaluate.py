"""Evaluate a detector on a split: COCO's average precision (AP)."""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from detector.annotation import Annotation
from detector.arrays import ImageArray
from detector.data.formats.coco_scoring import to_coco
from detector.data.joined_data import open_all
from detector.data.split import Split
from detector.detections import Detections, coco_results
from detector.errors import ConfigError, InputError, WeightsError
from detector.evaluating.evaluation import Evaluation
from detector.evaluating.evaluation_data import join_for, read_split_for
from detector.jpeg_content import SmallImages, decode_jpeg, small_jpeg
from detector.letterbox import Letterbox, letterbox_image
from detector.metrics.average_precision import (
    COCO_MAX_DETECTIONS,
    AveragePrecision,
    average_precision_unchecked,
    crowded_images_note,
    many_detections,
)
from detector.mirror import read_ahead
from detector.options import ALL_CLASSES, IOU_THRESHOLD, MAX_PIXELS, DetectOptions, RuntimeName, SuppressionName
from detector.predict.detector import Detector
from detector.predict.ensemble import Ensemble
from detector.wording import plural

log = logging.getLogger(__name__)

EVALUATION_OPTIONS = DetectOptions(score_threshold=0.001, max_detections=100, multi_label=True, classes=ALL_CLASSES)
"""Options for an evaluation. AP also needs detections with low scores; COCO counts at most 100 detections per image."""

_REASONS_SHOWN = 10
"""Largest number of images that a warning about unusable images names."""


@dataclass(frozen=True, eq=False)
class LetterboxedImage:
    """A letterboxed image of a split.

    Attributes:
        annotation: annotation of the image.
        letterbox: the letterbox of the image.
        stored: [input height, input width, 3] the letterboxed image, or the content of a JPEG file with the image as
            it is before.
    """

    annotation: Annotation
    letterbox: Letterbox
    stored: ImageArray | bytes

    @property
    def pixels(self) -> ImageArray:
        """[input height, input width, 3] The letterboxed image."""
        return self.letterbox.apply(decode_jpeg(self.stored)) if isinstance(self.stored, bytes) else self.stored


def evaluate(
    data: str | Path | Sequence[str | Path],
    weights: str | Path | Detector,
    *,
    split: str | None = None,
    device: str = "auto",
    runtime: RuntimeName = "auto",
    input_size: int | None = None,
    threads: int | None = None,
    iou_threshold: float = IOU_THRESHOLD,
    suppression: SuppressionName | None = None,
    class_agnostic: bool | None = None,
    allow_outside: bool = False,
    max_pixels: int = MAX_PIXELS,
    max_detections: int | None = None,
    intervals: bool = True,
) -> AveragePrecision:
    """Evaluate weights on a split of a dataset, and return COCO's average precision.

    Args:
        data: path of a dataset, or "scenes", as for `open_data`; or several of them, as for `train`. Weights that
            learned only some of the classes, or one merged class, are evaluated on the objects of these classes.
        weights: path of weights or of an exported graph, the name of shipped weights, or a loaded `Detector` or
            `Ensemble`.
        split: "train", "val", "test" or another split of the dataset. None: "test", or the only split. If the
            dataset has no such split, or if the weights were trained on the only split, the images that were held back
            from this training are evaluated. A log message says how many of the evaluated images are training images.
        device: as for `Detector.load`; must not be set with a loaded detector.
        runtime: as for `Detector.load`; must not be set with a loaded detector.
        input_size: as for `Detector.load`; must not be set with a loaded detector.
        threads: as for `Detector.load`; must not be set with a loaded detector.
        iou_threshold: NMS IoU threshold, 0..1.
        suppression: NMS variant, as for `Detector.detect`.
        class_agnostic: as for `Detector.detect`.
        allow_outside: as for `open_data`.
        max_pixels: as for `open_data`.
        max_detections: above 100: also compute `AveragePrecision.many`, with this number of detections per image, for
            images with more than 100 objects. None: only COCO's metrics, with at most 100 detections per image.
        intervals: whether to compute the 95 % confidence intervals `AveragePrecision.intervals`. For 5,000 images with
            80 classes, that takes about a minute of CPU time.

    Raises:
        InputError: the data, the split or the weights cannot be read, the classes of data and weights differ, or a
            parameter is out of range.
    """
    options = evaluation_options(iou_threshold, suppression, class_agnostic, max_detections)
    detector = detector_of(weights, device=device, runtime=runtime, input_size=input_size, threads=threads)
    source = join_for(detector.info, open_all(data, allow_outside=allow_outside, max_pixels=max_pixels))
    evaluation = evaluate_split(detector, read_split_for(detector.info, source, split), options)
    return (evaluation.with_intervals(threads) if intervals else evaluation).ap


def detector_of(
    weights: str | Path | Detector, *, device: str, runtime: RuntimeName, input_size: int | None, threads: int | None
) -> Detector:
    """Return a loaded detector as it is, or load weights; the arguments are those of `Detector.load`.

    Raises:
        ConfigError: a loaded detector was given, and one of the other arguments.
        InputError: the weights cannot be read.
    """
    if not isinstance(weights, Detector):
        return Detector.load(weights, device=device, runtime=runtime, input_size=input_size, threads=threads)
    if (device, runtime, input_size, threads) != ("auto", "auto", None, None):
        raise ConfigError("device, runtime, input_size, threads: a loaded detector has its own values; leave them out")
    return weights


def evaluation_options(
    iou_threshold: float,
    suppression: SuppressionName | None,
    class_agnostic: bool | None,
    max_detections: int | None = None,
) -> DetectOptions:
    """Return a copy of `EVALUATION_OPTIONS` with the given NMS options.

    Raises:
        ConfigError: a value is out of range.
    """
    check_max_detections(max_detections)
    return replace(
        EVALUATION_OPTIONS,
        iou_threshold=iou_threshold,
        suppression=suppression,
        class_agnostic=class_agnostic,
        max_detections=max_detections or EVALUATION_OPTIONS.max_detections,
    )


def check_max_detections(max_detections: int | None) -> None:
    """Raise ConfigError if a number of detections per image is not above COCO's 100; None is accepted."""
    if max_detections is not None and max_detections <= COCO_MAX_DETECTIONS:
        raise ConfigError(
            f"max_detections: COCO's AP counts {COCO_MAX_DETECTIONS} detections per image; expected a larger number, "
            f"got {max_detections}"
        )


def evaluate_split(detector: Detector, split: Split, options: DetectOptions = EVALUATION_OPTIONS) -> Evaluation:
    """Evaluate a detector on a split, and return metrics and detections.

    An image that cannot be used is left out: its annotations are not part of the ground truth, and a warning is logged.

    Raises:
        InputError: the classes of detector and split differ, or no image can be used.
    """
    log_images(split)
    start = time.perf_counter()
    usable, found = detect_split(detector, split, options)
    images_per_second = len(usable.annotations) / (time.perf_counter() - start)
    results = coco_results(found, usable.category_ids)
    truth = ground_truth_of(usable)
    if (note := crowded_images_note(truth, per_class=False)) is not None:
        log.warning("%s: %s", split.name, note)
    evaluation = Evaluation(
        score_split(usable, found), results, truth, results, None, usable, detector, images_per_second
    )
    if options.max_detections <= COCO_MAX_DETECTIONS:
        return evaluation
    # Detections are sorted by score, so COCO's metrics are those of a run with at most 100 detections per image.
    best = {image_id: detections[:COCO_MAX_DETECTIONS] for image_id, detections in found.items()}
    many = many_detections(truth, coco_results(found, usable.category_ids), options.max_detections)
    ap, scored = score_split(usable, best), coco_results(best, usable.category_ids)
    return replace(evaluation, ap=replace(ap, many=many), scored=scored)


def log_images(split: Split) -> None:
    """Log the images and label rows of a split that is evaluated."""
    log.info("%s: %s, %s", split.name, plural(len(split.annotations), "image"), split.ledger.summary())
    for line in split.ledger.note_lines():
        log.info("%s", line)


class DetectedSplit(NamedTuple):
    """The result of `detect_split`.

    Attributes:
        split: the split without the images that cannot be used.
        found: image id → detections, for every image of `split`.
    """

    split: Split
    found: dict[int, Detections]


def detect_split(detector: Detector, split: Split, options: DetectOptions = EVALUATION_OPTIONS) -> DetectedSplit:
    """Detect objects in every image of a split; images that cannot be used are left out, with a warning.

    Raises:
        InputError: the classes of detector and split differ, or no image can be used.
    """
    check_classes(detector, split)
    if isinstance(detector, Ensemble):
        return _detect_with_ensemble(detector, split, options)
    unusable: dict[int, str] = {}
    found = detect_letterboxed_split(detector, letterbox_split(split, detector.input_hw, unusable), options)
    return DetectedSplit(_without_unusable(split, unusable), found)


def _detect_with_ensemble(ensemble: Ensemble, split: Split, options: DetectOptions) -> DetectedSplit:
    """Detect objects in a split with each detector of an ensemble, at its own input size, and fuse them."""
    options = ensemble.resolve_options(options)
    unusable: dict[int, str] = {}
    found = []
    for detector, own in zip(ensemble.detectors, ensemble.options_of_detectors(options), strict=True):
        assert own is not None  # an evaluation is about all classes
        images = letterbox_split(split, detector.input_hw, unusable)
        found.append(detect_letterboxed_split(detector, images, own))
    usable = _without_unusable(split, unusable)
    ids = [annotation.image_id for annotation in usable.annotations]
    fused = ensemble.fuse([[of_detector[image_id] for image_id in ids] for of_detector in found], len(ids), options)
    return DetectedSplit(usable, dict(zip(ids, fused, strict=True)))


def read_letterboxed_split(split: Split, input_hw: tuple[int, int]) -> tuple[Split, tuple[LetterboxedImage, ...]]:
    """Read and letterbox each image of a split; return the usable part of the split, and its images.

    Many small JPEG images are kept as the content of their files (`jpeg_content`).

    Raises:
        LabelError: no image can be used.
    """
    unusable: dict[int, str] = {}
    images: list[LetterboxedImage] = []
    small = SmallImages()
    for annotation, image in _decode_split(split, unusable):
        letterbox, pixels = letterbox_image(image, input_hw)
        jpeg = small_jpeg(annotation.image_path, image, letterbox.scaled_hw)
        images.append(LetterboxedImage(annotation, letterbox, small.keep(pixels, jpeg)))
    return split.after_decoding(unusable), tuple(images)


def _without_unusable(split: Split, unusable: Mapping[int, str]) -> Split:
    """Return the split without the images that cannot be used, and log a warning that names them."""
    usable = split.after_decoding(unusable)
    if unusable:
        log.warning(
            "%s: %d of %s cannot be used and are left out of the evaluation, with their boxes; now %s",
            *(split.name, len(unusable), plural(len(split.annotations), "image"), usable.ledger.summary()),
        )
        for reason in islice(unusable.values(), _REASONS_SHOWN):
            log.warning("  %s", reason)
    return usable


def letterbox_split(
    split: Split, input_hw: tuple[int, int], unusable: MutableMapping[int, str]
) -> Iterator[LetterboxedImage]:
    """Read and letterbox each image of a split, and yield the letterboxed images in order.

    Args:
        split: the split.
        input_hw: size (height, width) of the letterboxed images.
        unusable: gets an item, image id → reason, for each image that cannot be used; such images are not yielded.
    """
    for annotation, image in _decode_split(split, unusable):
        yield LetterboxedImage(annotation, *letterbox_image(image, input_hw))


def _decode_split(split: Split, unusable: MutableMapping[int, str]) -> Iterator[tuple[Annotation, ImageArray]]:
    """Yield (annotation, image [H, W, 3] RGB) for each image of a split; `unusable` as for `letterbox_split`."""
    for annotation in read_ahead(split.annotations, lambda own: own.image_path):
        try:
            image = split.decode(annotation)
        except InputError as error:
            unusable[annotation.image_id] = str(error)
        else:
            yield annotation, image


def detect_letterboxed_split(
    detector: Detector, images: Iterable[LetterboxedImage], options: DetectOptions = EVALUATION_OPTIONS
) -> dict[int, Detections]:
    """Return image id → detections, for images from `letterbox_split`."""
    found: dict[int, Detections] = {}
    remaining = iter(images)
    while batch := list(islice(remaining, options.batch_size)):
        detections = detector.detect_letterboxed([(image.letterbox, image.pixels) for image in batch], options)
        found |= {image.annotation.image_id: own for image, own in zip(batch, detections, strict=True)}
    return found


def score_split(split: Split, found: dict[int, Detections]) -> AveragePrecision:
    """Return COCO's average precision of detections on a split.

    Args:
        split: the split, with the annotations of all its images.
        found: image id → detections.
    """
    return average_precision_unchecked(ground_truth_of(split), coco_results(found, split.category_ids))


def ground_truth_of(split: Split) -> dict[str, Any]:
    """Return the ground truth of a split for COCO's evaluation."""
    return split.ground_truth if split.ground_truth is not None else to_coco(split)


def check_classes(detector: Detector, split: Split) -> None:
    """Raise WeightsError if a detector and a split do not have the same classes in the same order.

    Raises:
        WeightsError: the message names the classes of both.
    """
    if detector.class_names != split.class_names:
        raise WeightsError(
            f"the classes of the weights are {list(detector.class_names)}, but the classes of the dataset are "
            f"{list(split.class_names)}: evaluate on data with the same classes in the same order"
        )
