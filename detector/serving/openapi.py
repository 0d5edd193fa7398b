"""The OpenAPI document, which describes the requests and responses of the server. Tests compare it with the server."""

from collections.abc import Sequence
from typing import Any, get_args

from detector.options import IOU_THRESHOLD, MAX_DETECTIONS, SCORE_THRESHOLD, TILE_OVERLAP, SuppressionName
from detector.serving.request import MAX_DETECTIONS_LIMIT, MAX_TILE
from detector.version import VERSION

_STRING, _NUMBER = {"type": "string"}, {"type": "number"}
_FRACTION = {"type": "number", "minimum": 0, "maximum": 1}
_OFF: dict[str, Any] = {"type": "boolean", "default": False}
_COORDINATE = {"type": "number", "minimum": 0}

_ERRORS = {
    400: "The request or the form in it cannot be parsed.",
    401: "The server needs an API key, and the key is missing or wrong.",
    403: "The `Host` header is not allowed, or the request comes from a web page of another site.",
    408: "The upload took too long.",
    413: "The file has too many bytes, the image has too many pixels, or decoding it takes too long.",
    415: "The file is not an image.",
    422: "A parameter is invalid, the image would need too many tiles, or the form does not contain exactly one file.",
    503: "The server is overloaded. Try again after the number of seconds in the header `Retry-After`.",
}


def describe_api(models: Sequence[str], *, max_tiles: int, needs_key: bool = False) -> dict[str, Any]:
    """Return the OpenAPI document of the server, as values that JSON can represent.

    Args:
        models: names of the models; the first model is the default.
        max_tiles: largest number of tiles of an image.
        needs_key: whether requests must contain an API key.
    """
    detect = {
        "summary": "Detect the objects in an image.",
        "operationId": "detect",
        "parameters": _parameters(models, max_tiles),
        "requestBody": {"required": True, "content": _upload_formats()},
        "responses": {"200": _response("The detections, highest score first.", "DetectResponse")}
        | {str(status): _response(description, "ErrorResponse") for status, description in _ERRORS.items()},
    }
    schemes = {"bearer": {"type": "http", "scheme": "bearer"}, "password": {"type": "http", "scheme": "basic"}}
    security: dict[str, Any] = {"security": [{name: []} for name in schemes]} if needs_key else {}
    return security | {
        "openapi": "3.1.0",
        "info": {"title": "detector", "version": VERSION, "summary": "Object detection on this machine."},
        "paths": {
            "/detect": {"post": detect},
            "/health": {
                "get": _get("health", "The version of the running server.", "HealthResponse") | {"security": []}
            },
            "/models": {"get": _get("models", "The models, the default thresholds and the limits.", "ModelsResponse")},
        },
        "components": {"schemas": _schemas(models)} | ({"securitySchemes": schemes} if needs_key else {}),
    }


def _parameters(models: Sequence[str], max_tiles: int) -> list[dict[str, Any]]:
    return [
        _parameter("model", {"type": "string", "enum": [*models], "default": models[0]}, "Name of the model to run."),
        _parameter(
            "score_threshold",
            {"anyOf": [_FRACTION, {"const": "auto"}], "default": SCORE_THRESHOLD},
            "Lowest confidence score; auto: the `score_thresholds` of the model, one for each class.",
        ),
        _parameter(
            "iou_threshold",
            _FRACTION | {"default": IOU_THRESHOLD},
            "NMS IoU threshold: of two boxes with a larger IoU, only the better box is kept. 1 keeps all boxes.",
        ),
        _parameter(
            "max_detections",
            {"type": "integer", "minimum": 1, "maximum": MAX_DETECTIONS_LIMIT, "default": MAX_DETECTIONS},
            "Largest number of detections; those with the highest scores are kept.",
        ),
        _parameter(
            "classes",
            _list(_STRING, minItems=1),
            "Names or ids of the classes to detect; repeat the parameter for each. Default: the default classes of the "
            "weights.",
        ),
        _parameter(
            "suppression",
            _STRING | {"enum": [*get_args(SuppressionName)]},
            "NMS variant. Default: the setting of the weights.",
        ),
        _parameter(
            "class_agnostic",
            {"type": "boolean"},
            "Whether boxes of different classes suppress each other. Default: the setting of the weights.",
        ),
        _parameter("multi_label", _OFF, "Whether a grid point may give detections of several classes."),
        _parameter(
            "tile",
            {"type": "integer", "minimum": 1, "maximum": MAX_TILE},
            f"Long side of tiles in image pixels, to detect small objects in large images; at most {max_tiles} tiles.",
        ),
        _parameter(
            "tile_overlap",
            {"type": "number", "minimum": 0, "exclusiveMaximum": 1, "default": TILE_OVERLAP},
            "Smallest overlap of neighboring tiles, as a fraction of a tile.",
        ),
        _parameter("tta", _OFF, "Whether to detect in the flipped image too, and merge the detections."),
        _parameter("calibrated", _OFF, "Whether scores are probabilities, if the model has `is_calibrated`."),
        _parameter("with_image", _OFF, "Whether the response also contains the decoded image."),
    ]


def _upload_formats() -> dict[str, Any]:
    file = {"type": "string", "format": "binary"}
    return {
        "image/*": {"schema": file},
        "application/octet-stream": {"schema": file},
        "multipart/form-data": {"schema": _object(file=file)},
    }


def _schemas(models: Sequence[str]) -> dict[str, Any]:
    size = {"type": "integer", "minimum": 1}
    detection = _object(
        **{"class": _STRING},
        class_id={"type": "integer", "minimum": 0},
        score=_FRACTION,
        box=_list(_COORDINATE, minItems=4, maxItems=4)
        | {"description": "x1, y1, x2, y2 in pixels of the upright image (EXIF orientation applied)."},
    )
    model = _object(
        name={"type": "string", "enum": [*models]},
        class_names=_list(_STRING),
        default_classes={"anyOf": [_list({"type": "integer"}), {"type": "null"}]},
        class_colors=_list(_STRING),
        input_width=size,
        input_height=size,
        runtime=_STRING,
        suppression=_STRING,
        class_agnostic={"type": "boolean"},
        score_thresholds={"anyOf": [_list(_FRACTION), {"type": "null"}]},
        is_calibrated={"type": "boolean"},
    )
    defaults = _object(score_threshold=_FRACTION, iou_threshold=_FRACTION, max_detections=size)
    detect_response = _object(
        model=_STRING, width=size, height=size, milliseconds=_NUMBER, detections=_list({"$ref": _at("Detection")})
    )
    detect_response["properties"]["image"] = _STRING | {
        "description": "Only with `with_image`: the upright image as a data URL (JPEG). A large image is scaled down."
    }
    return {
        "DetectResponse": detect_response,
        "Detection": detection,
        "ErrorResponse": _object(error=_STRING),
        "HealthResponse": _object(status={"const": "ok"}, version=_STRING),
        "ModelsResponse": _object(models=_list(model), defaults=defaults, max_bytes=size, max_detections_limit=size),
    }


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def _list(items: dict[str, Any], **limits: int) -> dict[str, Any]:
    return {"type": "array", "items": items, **limits}


def _at(schema: str) -> str:
    return f"#/components/schemas/{schema}"


def _parameter(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _get(name: str, summary: str, schema: str) -> dict[str, Any]:
    refused = {str(status): _response(_ERRORS[status], "ErrorResponse") for status in (401, 403)}
    return {"operationId": name, "summary": summary, "responses": {"200": _response(summary, schema)} | refused}


def _response(description: str, schema: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": {"$ref": _at(schema)}}}}
