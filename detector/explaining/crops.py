"""The training objects that are most similar to false positives in the background."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from detector.analysis.similar_crops import CropIndex, box_features
from detector.annotation import Annotation
from detector.arrays import Floats, ImageArray
from detector.data.class_mapping import fit_classes
from detector.data.data_set import DataSet
from detector.data.split import Split, evenly_spaced
from detector.data.training_splits import choose_training_split
from detector.errors import InputError
from detector.explaining.truth import with_detector_classes
from detector.letterbox import Letterbox, letterbox_image
from detector.predict.detector import Detector
from detector.progress import progress_bar

log = logging.getLogger(__name__)

MAX_IMAGES = 500
"""Largest number of training images, evenly spaced in the split, whose objects are compared."""

_PER_DETECTION = 3
"""Number of similar objects that are named for a false positive."""


@dataclass(frozen=True, eq=False)
class SimilarCrop:
    """A labeled object of the training split that is similar to a false positive.

    Attributes:
        image_path: path of the training image.
        box: (x1, y1, x2, y2) in pixels of the training image.
        class_id: class of the object.
        similarity: cosine similarity of the standardized features of the backbone, -1..1.
        split: the training split, which decodes the image.
        annotation: annotation of the training image.
    """

    image_path: Path
    box: tuple[float, float, float, float]
    class_id: int
    similarity: float
    split: Split
    annotation: Annotation

    def read(self) -> ImageArray:
        """Return the training image [H, W, 3]; raise InputError if it cannot be read any more."""
        return self.split.decode(self.annotation)


class CropFinder:
    """Finds similar training objects; the training images are read when the first box is searched.

    Args:
        detector: the detector, whose backbone computes the features.
        data_set: the dataset with the training split; None: there is none.

    Attributes:
        note: on which images the objects are, or why none are compared.
    """

    def __init__(self, detector: Detector, data_set: DataSet | None) -> None:
        self._detector = detector
        self._split: Split | None = None
        self._index: CropIndex | None = None
        self._objects: list[tuple[Annotation, int]] = []
        self.note = "similar training crops: nothing to compare"
        if data_set is None:
            self.note = "no similar training crops: give a dataset with the training images (--data)"
        elif not hasattr(detector.runtime, "features"):
            self.note = f"no similar training crops: {detector.runtime.name} gives no features; use --runtime torch"
        else:
            try:
                read = data_set.read(choose_training_split(data_set, None))
                self._split = fit_classes(read, detector.class_names, detector.info.trained_classes)
                self._annotations = with_detector_classes(self._split, detector.class_names)
            except InputError as error:
                self._split = None
                self.note = f"no similar training crops: the data has no usable training split ({error})"

    def find(self, image: ImageArray, boxes: Floats) -> list[tuple[SimilarCrop, ...]]:
        """Return the most similar training objects of each of N boxes; empty tuples if there is nothing to compare.

        Args:
            image: [H, W, 3] the image that contains the boxes.
            boxes: [N, 4] in pixels of the image.
        """
        if self._split is None or not len(boxes):
            return [() for _ in boxes]
        if self._index is None:
            self._index = self._build(self._split)
        if self._index is None:
            return [() for _ in boxes]
        letterbox, pixels = letterbox_image(image, self._detector.input_hw)
        similar = self._index.most_similar(self._features(letterbox, pixels, boxes), _PER_DETECTION)
        make = partial(self._crop, self._split)
        return [tuple(make(own.row, own.similarity) for own in best) for best in similar]

    def _build(self, split: Split) -> CropIndex | None:
        """Compute the features of the training objects; None if there are no objects."""
        features, images = [], 0
        annotations = [annotation for annotation in self._annotations if annotation.has_objects]
        for annotation in progress_bar(evenly_spaced(annotations, MAX_IMAGES), unit="image", description="train"):
            rows = np.flatnonzero(~annotation.is_crowd)
            try:
                letterbox, pixels = letterbox_image(split.decode(annotation), self._detector.input_hw)
            except InputError as error:
                log.warning("%s", error)
                continue
            features.append(self._features(letterbox, pixels, annotation.boxes[rows]))
            self._objects += [(annotation, int(row)) for row in rows]
            images += 1
        if not images:
            self.note = f"no similar training crops: the split '{split.name}' has no objects"
            return None
        self.note = (
            f"similar crops are the nearest of {len(self._objects)} objects in {images} images of the split "
            f"'{split.name}', by the features of the backbone"
        )
        return CropIndex(np.concatenate(features))

    def _features(self, letterbox: Letterbox, pixels: ImageArray, boxes: Floats) -> Floats:
        """Return the features [N, D] of boxes in a letterboxed image."""
        from detector.runtime.pytorch import TorchRuntime

        runtime = self._detector.runtime
        assert isinstance(runtime, TorchRuntime)
        maps: Sequence[Floats] = [level[0] for level in runtime.features([pixels])]
        return box_features(maps, letterbox.to_input(boxes), self._detector.input_hw)

    def _crop(self, split: Split, index: int, similarity: float) -> SimilarCrop:
        """Return the training object with an index in `_objects`."""
        annotation, row = self._objects[index]
        x1, y1, x2, y2 = annotation.boxes[row].tolist()
        class_id = int(annotation.class_ids[row])
        return SimilarCrop(annotation.image_path, (x1, y1, x2, y2), class_id, similarity, split, annotation)


SimilarCrops = Mapping[int, tuple[SimilarCrop, ...]]
"""Index of a detection → similar training objects, most similar first."""
