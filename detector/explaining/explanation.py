"""`Explanation`: why the objects of images were missed, and what their false positives are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detector.analysis.counterfactuals import Setting
from detector.analysis.counts import CauseCounts, count_causes
from detector.analysis.false_positives import FalsePositive
from detector.analysis.misses import Miss, Prediction
from detector.analysis.outcome import Outcome
from detector.annotation import Annotation
from detector.explaining.crops import SimilarCrops
from detector.explaining.prices import Price, Prices
from detector.explaining.sentences import miss_sentence, wrong_sentence
from detector.options import DetectOptions


@dataclass(frozen=True, eq=False)
class ImageExplanation:
    """The explanation of one image.

    Attributes:
        name: path of the image as the user gave it, or as the dataset names it.
        annotation: the objects in the image, with the class ids of the detector.
        outcome: the detections, and the objects that they find.
        misses: the missed objects, each with its cause.
        settings: the settings that find each missed object, the best first; see `Prices.sorted`.
        false_positives: the detections that find no object.
        similar: index of a detection in the background → the most similar training objects.
    """

    name: Path
    annotation: Annotation
    outcome: Outcome
    misses: tuple[Miss, ...]
    settings: tuple[tuple[Setting, ...], ...]
    false_positives: tuple[FalsePositive, ...]
    similar: SimilarCrops

    @property
    def object_count(self) -> int:
        """Number of objects, without crowd regions."""
        return int((~self.annotation.is_crowd).sum())


@dataclass(frozen=True, eq=False)
class Explanation:
    """The explanations of several images.

    Attributes:
        images: the explanation of each image that could be read.
        failed: name of an image that could not be read → the reason.
        class_names: class names of the detector.
        options: thresholds and NMS of the detections.
        min_iou: IoU from which a detection finds an object.
        input_hw: height and width of the network input in pixels.
        prices: prices of the settings on val.
        similar_note: which training objects were compared with false positives, or why none.
    """

    images: tuple[ImageExplanation, ...]
    failed: Mapping[Path, str]
    class_names: tuple[str, ...]
    options: DetectOptions
    min_iou: float
    input_hw: tuple[int, int]
    prices: Prices
    similar_note: str

    @property
    def counts(self) -> CauseCounts:
        """Numbers of objects, causes and false positives over all images."""
        return count_causes(
            sum(image.object_count for image in self.images),
            [miss for image in self.images for miss in image.misses],
            [wrong for image in self.images for wrong in image.false_positives],
        )

    def sentence(self, miss: Miss) -> str:
        """Return the cause of a missed object as a short text."""
        return miss_sentence(miss, self.class_names, self.options, self.input_hw)

    def to_json(self) -> dict[str, Any]:
        """Return the explanation as a dictionary that can be written as JSON.

        `found_with` of an object starts with the best setting. Boxes are in pixels of the image.
        """
        counts = self.counts
        return {
            "counts": {
                "images": len(self.images),
                "objects": counts.objects,
                "found": counts.found,
                "missed": dict(counts.misses),
                "false_positives": dict(counts.false_positives),
            },
            "options": {
                "score_threshold": self.options.lowest_threshold,
                "iou_threshold": self.options.iou_threshold,
                "max_detections": self.options.max_detections,
                "suppression": self.options.suppression,
                "class_agnostic": self.options.class_agnostic,
                "input_size": [self.input_hw[1], self.input_hw[0]],
                "match_iou": self.min_iou,
            },
            "prices": {
                "note": self.prices.note,
                "now": None if self.prices.now is None else _price_json(self.prices.now),
                "settings": [
                    {"setting": str(setting)} | _price_json(price) for setting, price in self.prices.by_setting.items()
                ],
            },
            "similar_crops": self.similar_note,
            "images": [self._image_json(image) for image in self.images],
            "failed": {str(name): reason for name, reason in self.failed.items()},
        }

    def _image_json(self, image: ImageExplanation) -> dict[str, Any]:
        """Return the explanation of one image as a dictionary for JSON."""
        misses = {miss.object: (miss, own) for miss, own in zip(image.misses, image.settings, strict=True)}
        finders = {int(o): index for index, o in enumerate(image.outcome.matches.objects) if o >= 0}
        return {
            "file_name": str(image.name),
            "image_id": image.annotation.image_id,
            "objects": [self._object_json(image, row, misses, finders) for row in range(len(image.annotation.boxes))],
            "false_positives": [self._wrong_json(image, wrong) for wrong in image.false_positives],
        }

    def _object_json(
        self,
        image: ImageExplanation,
        row: int,
        misses: Mapping[int, tuple[Miss, Sequence[Setting]]],
        finders: Mapping[int, int],
    ) -> dict[str, Any]:
        """Return one object as a dictionary for JSON.

        Args:
            image: the image.
            row: index of the object.
            misses: index of a missed object → the miss, and the settings that find it.
            finders: index of a found object → index of the detection that finds it.
        """
        truth = image.annotation
        values: dict[str, Any] = {
            "class": self.class_names[truth.class_ids[row]],
            "box": truth.boxes[row].tolist(),
            "crowd": bool(truth.is_crowd[row]),
            "found": bool(image.outcome.matches.found[row]),
        }
        if (finder := finders.get(row)) is not None:
            return values | {"detection": self._detection_json(image, finder)}
        if row not in misses:
            return values
        miss, settings = misses[row]
        return values | {
            "cause": miss.cause,
            "text": self.sentence(miss),
            "prediction": self._prediction_json(miss.prediction),
            "suppressed_by": self._prediction_json(miss.suppressor),
            "rank": miss.rank,
            "input_pixels": list(miss.input_wh),
            "found_with": [self._setting_json(setting) for setting in settings],
        }

    def _setting_json(self, setting: Setting) -> dict[str, Any]:
        """Return a setting and what changes with it per image of val, as a dictionary for JSON."""
        change = self.prices.change(setting)
        return {
            "setting": str(setting),
            "extra_false_positives_per_image": None if change is None else change.false_positives,
            "extra_found_per_image": None if change is None else change.found,
        }

    def _wrong_json(self, image: ImageExplanation, wrong: FalsePositive) -> dict[str, Any]:
        """Return a false positive as a dictionary for JSON."""
        nearest = None
        if wrong.nearest is not None:
            class_name = self.class_names[image.annotation.class_ids[wrong.nearest]]
            nearest = {"object": wrong.nearest, "class": class_name, "iou": wrong.iou}
        similar = [
            {
                "file_name": str(crop.image_path),
                "class": self.class_names[crop.class_id],
                "box": list(crop.box),
                "similarity": crop.similarity,
            }
            for crop in image.similar.get(wrong.detection, ())
        ]
        text = wrong_sentence(wrong, image.outcome, image.annotation, self.class_names)
        return self._detection_json(image, wrong.detection) | {
            "kind": wrong.kind,
            "text": text,
            "nearest": nearest,
            "similar": similar,
        }

    def _detection_json(self, image: ImageExplanation, index: int) -> dict[str, Any]:
        """Return a detection as a dictionary for JSON."""
        outcome = image.outcome
        return {
            "class": self.class_names[outcome.class_ids[index]],
            "box": outcome.boxes[index].tolist(),
            "score": float(outcome.scores[index]),
        }

    def _prediction_json(self, prediction: Prediction | None) -> dict[str, Any] | None:
        """Return a prediction as a dictionary for JSON."""
        if prediction is None:
            return None
        return {
            "class": self.class_names[prediction.class_id],
            "box": list(prediction.box),
            "score": prediction.score,
            "iou": prediction.iou,
        }


def _price_json(price: Price) -> dict[str, Any]:
    """Return a price as a dictionary for JSON."""
    return {
        "images": price.images,
        "objects": price.objects,
        "found": price.found,
        "false_positives_per_image": price.false_positives_per_image,
    }
