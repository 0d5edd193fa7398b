"""The images on which an export is compared with its weights, and the detections in them."""

import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from detector.arrays import ImageArray
from detector.data.scenes import scenes
from detector.data.split import evenly_spaced
from detector.detections import Detections
from detector.letterbox import letterbox_image
from detector.media.sources import Source
from detector.options import DetectOptions
from detector.predict.detector import Detector

_IMAGES = 24
"""Number of built-in images, and largest number of the user's images."""

_SCORE_THRESHOLD = 0.05
"""Detections are compared down to this score, far below the default score threshold."""


def comparison_options(model: Detector) -> DetectOptions:
    """Return the options to compare detections with: a low score threshold, or those of the NMS inside the graph."""
    if (nms := model.runtime.graph_info.nms) is not None:
        return replace(nms, score_threshold=max(nms.score_threshold, _SCORE_THRESHOLD))
    return DetectOptions(score_threshold=_SCORE_THRESHOLD)


def builtin_images(model: Detector) -> list[ImageArray]:
    """Return images of the built-in scenes, which are the same on every machine, for a comparison of this detector."""
    split = scenes.read_split("test")
    return for_comparison([split.read_image(annotation) for annotation in split.annotations[:_IMAGES]], model)


def read_some(sources: Sequence[Source]) -> list[ImageArray]:
    """Read at most 24 of the images, evenly spaced."""
    return [source.read() for source in evenly_spaced(sources, _IMAGES)]


def for_comparison(images: Sequence[ImageArray], model: Detector) -> list[ImageArray]:
    """Return images on which a detector can be compared; if its graph contains NMS, letterboxed to its input size.

    NMS inside a graph uses boxes clipped to the input, NMS outside uses boxes clipped to the image. With padding
    between the two, a few boxes of low score would differ although both are correct.
    """
    if model.runtime.graph_info.nms is not None:
        images = [letterbox_image(image, model.input_hw)[1] for image in images]
    return [np.ascontiguousarray(image) for image in images]


def detect_one_by_one(detector: Detector, images: Sequence[ImageArray], options: DetectOptions) -> list[Detections]:
    """Detect in each image as a batch of its own, so that the results do not depend on the other images."""
    return [detector.detect_letterboxed([letterbox_image(image, detector.input_hw)], options)[0] for image in images]


def image_hash(image: ImageArray) -> str:
    """Return a checksum of the pixels; another version of OpenCV may draw or scale the built-in images differently."""
    return f"{zlib.crc32(image.data):08x}"
