"""The price of a setting: the false positives per image on the val split with this setting, and the objects found."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from detector.analysis.counterfactuals import Setting
from detector.analysis.outcome import ImageMatches, ImagePredictions, match_image, outcome_of
from detector.annotation import Annotation
from detector.arrays import ImageArray
from detector.data.data_set import DataSet
from detector.data.split import Split, evenly_spaced
from detector.errors import InputError
from detector.evaluating.evaluation_data import read_split_for
from detector.explaining.truth import with_detector_classes
from detector.letterbox import letterbox_image
from detector.options import DetectOptions
from detector.predict.detector import Detector
from detector.progress import progress_bar
from detector.wording import plural

log = logging.getLogger(__name__)

MAX_IMAGES = 300
"""Largest number of images of the val split on which a setting is tried, evenly spaced in the split."""


@dataclass(frozen=True)
class Price:
    """What the detections with one setting are like on the val split.

    Attributes:
        images: number of images.
        objects: number of objects in the images, without crowd regions.
        found: number of objects that a detection finds.
        false_positives: number of detections that find no object and lie in no crowd region.
    """

    images: int
    objects: int
    found: int
    false_positives: int

    @property
    def false_positives_per_image(self) -> float:
        """Mean number of false positives per image."""
        return self.false_positives / self.images


class Change(NamedTuple):
    """What changes with a setting, per image of the val split; both may be negative.

    Attributes:
        false_positives: additional false positives.
        found: additional objects that are found.
    """

    false_positives: float
    found: float


@dataclass(frozen=True, eq=False)
class Detectors:
    """The detector of the explanation, and the same weights with larger inputs.

    Attributes:
        base: the detector.
        options: options of the detections, in which no value is None.
        larger: value of the setting imgsz → detector with this input size.
        tile: value of the setting tile to try; 0: none.
        min_iou: IoU from which a detection finds an object.
    """

    base: Detector
    options: DetectOptions
    larger: Mapping[int, Detector]
    tile: int
    min_iou: float

    @property
    def views(self) -> tuple[Setting, ...]:
        """The settings that show the objects larger: larger inputs, smallest first, and tiles."""
        sizes = tuple(Setting("imgsz", size) for size in sorted(self.larger))
        return (*sizes, Setting("tile", self.tile)) if self.tile else sizes

    def predict(self, image: ImageArray) -> ImagePredictions:
        """Return the raw predictions of the detector for an image [H, W, 3]."""
        letterbox, pixels = letterbox_image(image, self.base.input_hw)
        predictions = self.base.predict_letterboxed([pixels])
        return ImagePredictions(predictions.boxes[0], predictions.scores[0], letterbox)

    def matches_with(
        self, setting: Setting, image: ImageArray, predictions: ImagePredictions, truth: Annotation
    ) -> ImageMatches:
        """Return which objects the detections with a setting find.

        Args:
            setting: the setting.
            image: [H, W, 3] the image.
            predictions: the raw predictions for the image, from `predict`.
            truth: the objects in the image.
        """
        options = setting.apply(self.options)
        if setting.name == "imgsz":
            detector = self.larger[int(setting.value)]
            [found] = detector.detect_letterboxed([letterbox_image(image, detector.input_hw)], options)
        elif setting.name == "tile":
            found = self.base.detect_image(image, options)
        else:
            return outcome_of(predictions, truth, options, self.min_iou).matches
        return match_image(found.boxes, found.class_ids, truth, self.min_iou)


@dataclass(frozen=True, eq=False)
class Prices:
    """The prices of all settings that an explanation proposes.

    Attributes:
        now: with the options of the explanation; None: there is no val split.
        by_setting: setting → its price; empty if there is no val split.
        note: on which images the settings were tried, or why there are no prices.
    """

    now: Price | None
    by_setting: Mapping[Setting, Price]
    note: str

    def change(self, setting: Setting) -> Change | None:
        """Return what changes on val with a setting; None if it is unknown."""
        if self.now is None or setting not in self.by_setting:
            return None
        price, images = self.by_setting[setting], self.now.images
        return Change(
            (price.false_positives - self.now.false_positives) / images, (price.found - self.now.found) / images
        )

    def sorted(self, settings: Iterable[Setting]) -> tuple[Setting, ...]:
        """Return settings with the best first: that adds fewest errors (false positives and lost objects) on val.

        Of equal or unknown prices, the given order stays.
        """

        def added_errors(setting: Setting) -> float:
            change = self.change(setting)
            return 0 if change is None else change.false_positives - change.found

        return tuple(sorted(settings, key=added_errors))


def price_settings(detectors: Detectors, data_set: DataSet | None, settings: Sequence[Setting]) -> Prices:
    """Try each setting on the val split, and return the prices; each image is read and predicted once.

    Args:
        detectors: the detectors.
        data_set: the dataset with the val split; None: there is none.
        settings: different settings.
    """
    if not settings:
        return Prices(None, {}, "no prices: no missed object is found with another setting")
    if data_set is None:
        return Prices(None, {}, "no prices: give a dataset with a val split (--data)")
    try:
        split = read_split_for(detectors.base.info, data_set, "val")
        annotations = evenly_spaced(with_detector_classes(split, detectors.base.class_names), MAX_IMAGES)
    except InputError as error:
        return Prices(None, {}, f"no prices: the data has no usable val split ({error})")
    counts = _count_on(detectors, split, annotations, settings)
    if counts is None:
        return Prices(None, {}, "no prices: no image of the val split can be read")
    now, *others = counts
    note = f"each setting was tried on {plural(now.images, 'image')} of the split '{split.name}'"
    return Prices(now, dict(zip(settings, others, strict=True)), note)


def _count_on(
    detectors: Detectors, split: Split, annotations: Sequence[Annotation], settings: Sequence[Setting]
) -> list[Price] | None:
    """Return the price of the present options, then that of each setting; None if no image can be read.

    Args:
        detectors: the detectors.
        split: the val split, which decodes the images.
        annotations: annotations of the images to use.
        settings: the settings.
    """
    totals = [[0, 0] for _ in range(len(settings) + 1)]
    images = objects = 0
    for annotation in progress_bar(annotations, unit="image", description="val"):
        try:
            image = split.decode(annotation)
        except InputError as error:
            log.warning("%s", error)
            continue
        predictions = detectors.predict(image)
        now = outcome_of(predictions, annotation, detectors.options, detectors.min_iou).matches
        others = (detectors.matches_with(setting, image, predictions, annotation) for setting in settings)
        for total, matches in zip(totals, (now, *others), strict=True):
            total[0] += int(matches.found.sum())
            total[1] += len(matches.false_positives)
        images, objects = images + 1, objects + int((~annotation.is_crowd).sum())
    return [Price(images, objects, *total) for total in totals] if images else None
