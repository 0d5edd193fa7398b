"""A finding about preprocessing: does the network get the same input image in training and in detection?"""

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
"""Largest acceptable mean difference of the two input images, in gray levels: training may scale in two steps."""

_IMAGE_COUNT = 12


def diagnose_preprocessing(dataset: DetectionDataset, split: Split) -> Finding:
    """Compare the network inputs of training (without augmentation) and detection, and return a finding.

    Args:
        dataset: the dataset that provides the training samples.
        split: the split that the dataset reads.
    """
    differences, swapped_differences = [], []
    config = turned_off(dataset.config)
    for index in evenly_spaced(range(len(dataset)), _IMAGE_COUNT):
        trained = augment(dataset.sample(index), dataset.input_hw, config, np.random.default_rng(0)).image
        _, detected = letterbox_image(read_as_detection(dataset.annotations[index], split), dataset.input_hw)
        differences.append(_mean_difference(trained, detected))
        swapped_differences.append(_mean_difference(trained[..., ::-1], detected))
    difference, swapped = median(differences), median(swapped_differences)
    check = "preprocessing: training and detection"
    measured = f"the input images differ by {difference:.1f} gray levels on average"
    expected = f"at most {_TOLERANCE:g}"
    if difference > 2 * swapped + 1:
        measured += f", but by {swapped:.1f} with red and blue swapped"
        return Finding(
            check,
            "stop",
            measured,
            expected,
            "Training or detection reads images as BGR instead of RGB: fix the order of the channels.",
        )
    if difference > _TOLERANCE:
        advice = "Training and detection do not process the same image: check how both of them read and scale images."
        return Finding(check, "stop", measured, expected, advice)
    return Finding(check, "ok", measured, expected)


def read_as_detection(annotation: Annotation, split: Split) -> ImageArray:
    """Return the image [H, W, 3] of an annotation, read from its file as `Detector.detect` does.

    The built-in scenes have no files: their images are rendered.
    """
    if not split.from_files:
        return split.read_image(annotation)
    return read_image(annotation.image_path, max_pixels=split.max_pixels)


def _mean_difference(a: ImageArray, b: ImageArray) -> float:
    """Return the mean absolute difference of two images of equal size, in gray levels."""
    return float(np.abs(a.astype(np.int16) - b).mean())
