"""The images on which an export is compared with its weights, and functions that detect objects in them."""

import logging
import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from detector.arrays import ImageArray
from detector.data.scenes import scenes
from detector.data.split import evenly_spaced
from detector.detections import Detections
from detector.errors import InputError
from detector.letterbox import letterbox_image
from detector.media.sources import Source
from detector.options import ALL_CLASSES, DetectOptions
from detector.predict.detector import Detector

log = logging.getLogger(__name__)

_IMAGES = 24
"""Number of built-in images, and largest number of the user's images, in a comparison."""

_SCORE_THRESHOLD = 0.05
"""Score threshold of a comparison, far below the default score threshold."""


def comparison_options(model: Detector) -> DetectOptions:
    """Return the detection options for a comparison: a low score threshold, or the options of the NMS in the graph.

    If the graph contains NMS, these are the options of that NMS, with a score threshold of at least 0.05. Else they are
    the default options with a score threshold of 0.05.
    """
    if (nms := model.runtime.graph_info.nms) is not None:
        return replace(nms, score_threshold=max(nms.lowest_threshold, _SCORE_THRESHOLD), classes=ALL_CLASSES)
    return DetectOptions(score_threshold=_SCORE_THRESHOLD, classes=ALL_CLASSES)


def builtin_images(model: Detector) -> list[ImageArray]:
    """Return 24 images of the built-in scenes, which are the same on every machine, prepared for this detector."""
    split = scenes.read_split("test")
    return prepare_for_comparison([split.read_image(annotation) for annotation in split.annotations[:_IMAGES]], model)


def read_evenly_spaced(sources: Sequence[Source]) -> list[ImageArray]:
    """Read and return at most 24 of the images, evenly spaced over the list.

    An image that cannot be read is left out, with a warning.

    Raises:
        InputError: none of these images can be read.
    """
    images: list[ImageArray] = []
    first_error: InputError | None = None
    for source in evenly_spaced(sources, _IMAGES):
        try:
            images.append(source.read())
        except InputError as error:
            first_error = first_error or error
            log.warning("left out of the comparison: %s", error)
    if not images and first_error is not None:
        raise first_error
    return images


def prepare_for_comparison(images: Sequence[ImageArray], model: Detector) -> list[ImageArray]:
    """Return the images: letterboxed to the input size if the graph of `model` contains NMS, else unchanged.

    NMS inside a graph uses boxes clipped to the network input; NMS outside of a graph uses boxes clipped to the image.
    If there were padding between input and image, a few boxes with low scores would differ although both results are
    correct.
    """
    if model.runtime.graph_info.nms is not None:
        images = [letterbox_image(image, model.input_hw)[1] for image in images]
    return [np.ascontiguousarray(image) for image in images]


def detect_one_by_one(detector: Detector, images: Sequence[ImageArray], options: DetectOptions) -> list[Detections]:
    """Return the detections in each image; each image is a separate batch, so no result depends on other images."""
    return [detector.detect_letterboxed([letterbox_image(image, detector.input_hw)], options)[0] for image in images]


def image_hash(image: ImageArray) -> str:
    """Return a checksum of the pixels, as 8 hexadecimal digits.

    It detects built-in images that another version of OpenCV has drawn or scaled differently.
    """
    return f"{zlib.crc32(image.data):08x}"
