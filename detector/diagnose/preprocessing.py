"""A finding about preprocessing: do training and detection give the network the same image?"""

from statistics import median

import numpy as np

from detector.annotation import Annotation
from detector.arrays import ImageArray
from detector.augment.pipeline import augment
from detector.config import turned_off
from detector.data.split import Split, evenly_spaced
from detector.diagnose.finding import Finding
from detector.images import read_image
from detector.letterbox import letterbox_image
from detector.loader.dataset import DetectionDataset

_TOLERANCE = 8.0
"""Largest mean difference between the two images, in gray levels: training may scale in two steps."""

_IMAGES = 12


def diagnose_preprocessing(dataset: DetectionDataset, split: Split) -> Finding:
    """Compare the network input in training, without augmentation, with that of detection for the same files.

    Args:
        dataset: as in training.
        split: the split of the dataset.
    """
    differences, swapped_differences = [], []
    config = turned_off(dataset.config)
    for index in evenly_spaced(range(len(dataset)), _IMAGES):
        trained = augment(dataset.sample(index), dataset.input_hw, config, np.random.default_rng(0)).image
        _, detected = letterbox_image(read_as_detection(dataset.annotations[index], split), dataset.input_hw)
        differences.append(_mean_difference(trained, detected))
        swapped_differences.append(_mean_difference(trained[..., ::-1], detected))
    difference, swapped = median(differences), median(swapped_differences)
    check = "preprocessing: training and detection"
    measured = f"mean difference of {difference:.1f} gray levels"
    expected = f"at most {_TOLERANCE:g}"
    if difference > 2 * swapped + 1:
        measured += f", {swapped:.1f} with red and blue swapped"
        return Finding(check, "stop", measured, expected, "One of the two reads BGR instead of RGB.")
    if difference > _TOLERANCE:
        advice = "Training and detection do not process the same image: check how each of them reads and scales it."
        return Finding(check, "stop", measured, expected, advice)
    return Finding(check, "ok", measured, expected)


def read_as_detection(annotation: Annotation, split: Split) -> ImageArray:
    """Read an image as `Detector.detect` does: from its file, except for the built-in scenes, which have no files."""
    if not split.from_files:
        return split.read_image(annotation)
    return read_image(annotation.image_path, max_pixels=split.max_pixels)


def _mean_difference(a: ImageArray, b: ImageArray) -> float:
    """Return the mean absolute difference of two images of the same size, in gray levels."""
    return float(np.abs(a.astype(np.int16) - b).mean())
