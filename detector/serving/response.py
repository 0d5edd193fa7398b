"""Creates the JSON bodies of the responses of the server; `openapi.py` describes their format."""

from collections.abc import Mapping
from typing import Any

from detector.detections import Detections, json_rows
from detector.drawing import class_color
from detector.options import IOU_THRESHOLD, MAX_DETECTIONS, SCORE_THRESHOLD
from detector.predict.detector import Detector
from detector.serving.request import MAX_DETECTIONS_LIMIT


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
        "detections": json_rows(found),  # not rounded: read as float32, they are the same
    }
    return response if image_url is None else response | {"image": image_url}


def _model_to_json(name: str, model: Detector) -> dict[str, Any]:
    height, width = model.input_hw
    colors = ["#{:02x}{:02x}{:02x}".format(*class_color(class_id)) for class_id in range(len(model.class_names))]
    return {
        "name": name,
        "class_names": model.class_names,
        "default_classes": model.info.default_classes,
        "class_colors": colors,
        "input_width": width,
        "input_height": height,
        "runtime": model.runtime.name,
        "suppression": model.suppression,
        "class_agnostic": model.class_agnostic,
        "score_thresholds": None if model.info.thresholds is None else model.info.thresholds.values,
        "is_calibrated": model.info.score_map is not None,
    }
