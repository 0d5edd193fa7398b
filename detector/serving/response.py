"""Creates the JSON bodies of the responses of the server; `openapi.py` describes their format."""

import base64
import io
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from PIL import Image

from detector.arrays import ImageArray
from detector.detections import Detections
from detector.drawing import class_color
from detector.options import IOU_THRESHOLD, MAX_DETECTIONS, SCORE_THRESHOLD
from detector.predict.detector import Detector
from detector.serving.request import MAX_DETECTIONS_LIMIT

_MAX_IMAGE_SIDE = 2048
"""Longer side in pixels of the largest image in a response. A JPEG image of this size has about 300 kB."""


def models_response(models: Mapping[str, Detector], max_bytes: int) -> dict[str, Any]:
    """Return the body of the response to `/models`: the models, the default thresholds and the limits of a request.

    Args:
        models: model name → detector.
        max_bytes: largest size of an uploaded file, in bytes.
    """
    return {
        "models": [_model_to_json(name, model) for name, model in models.items()],
        "defaults": {
            "score_threshold": SCORE_THRESHOLD,
            "iou_threshold": IOU_THRESHOLD,
            "max_detections": MAX_DETECTIONS,
        },
        "max_bytes": max_bytes,
        "max_detections_limit": MAX_DETECTIONS_LIMIT,
    }


def detect_response(
    model: str, image_hw: tuple[int, int], found: Detections, milliseconds: float, image_url: str | None
) -> dict[str, Any]:
    """Return the body of the response to `/detect`.

    Args:
        model: name of the model.
        image_hw: (height, width) of the upright image in pixels.
        found: detections, with boxes in pixels of the image.
        milliseconds: time for decoding the image and running the detector.
        image_url: the image as a data URL; None: the response contains no image.
    """
    height, width = image_hw
    response = {
        "model": model,
        "width": width,
        "height": height,
        "milliseconds": round(milliseconds, 1),
        "detections": _detections_to_json(found),
    }
    return response if image_url is None else response | {"image": image_url}


def to_data_url(image: ImageArray) -> str:
    """Convert an image [H, W, 3] RGB to a data URL with a JPEG image, scaled down if a side is too long.

    The sides of the JPEG image have at most `_MAX_IMAGE_SIDE` pixels.
    """
    height, width = image.shape[:2]
    scale = min(1, _MAX_IMAGE_SIDE / max(height, width))
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    file = io.BytesIO()
    scaled = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA) if scale < 1 else image
    Image.fromarray(scaled.astype(np.uint8, copy=False)).save(file, "JPEG", quality=92)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _model_to_json(name: str, model: Detector) -> dict[str, Any]:
    height, width = model.input_hw
    colors = ["#{:02x}{:02x}{:02x}".format(*class_color(class_id)) for class_id in range(len(model.class_names))]
    return {
        "name": name,
        "class_names": model.class_names,
        "class_colors": colors,
        "input_width": width,
        "input_height": height,
        "runtime": model.runtime.name,
        "suppression": model.suppression,
        "class_agnostic": model.class_agnostic,
    }


def _detections_to_json(found: Detections) -> list[dict[str, Any]]:
    """Return the detections as JSON values.

    The numbers are not rounded, so a client that reads them as float32 gets exactly the same values.
    """
    rows = zip(found.boxes.tolist(), found.scores.tolist(), found.class_ids.tolist(), strict=True)
    return [
        {"class": found.class_names[class_id], "class_id": class_id, "score": score, "box": box}
        for box, score, class_id in rows
    ]
