"""The API described for programs: an OpenAPI document, held to the server by tests."""

from collections.abc import Sequence
from typing import Any

from detector.options import IOU_THRESHOLD, MAX_DETECTIONS, SCORE_THRESHOLD
from detector.serving.request import MOST_DETECTIONS
from detector.version import VERSION

_STRING, _NUMBER, _INTEGER = {"type": "string"}, {"type": "number"}, {"type": "integer"}
_FRACTION = {"type": "number", "minimum": 0, "maximum": 1}
_CORNER = {"type": "number", "minimum": 0}

_REFUSALS = {
    400: "The form or the request cannot be read.",
    403: "Asked under a foreign host name or by a page of another site.",
    408: "The image did not arrive in time.",
    413: "Too many bytes or too many pixels.",
    415: "Not an image.",
    422: "A parameter makes no sense, or the form does not hold one file.",
    503: "Too much to do at the moment; `Retry-After` says when to try again.",
}


def describe_api(models: Sequence[str]) -> dict[str, Any]:
    """Return the OpenAPI document of a server with these models."""
    parameters = (
        _parameter("model", {"type": "string", "enum": [*models], "default": models[0]}, "Which model looks."),
        _parameter("score_threshold", _FRACTION | {"default": SCORE_THRESHOLD}, "Lowest score that counts."),
        _parameter(
            "iou_threshold",
            _FRACTION | {"default": IOU_THRESHOLD},
            "Overlap above which the lower of two boxes goes; 1 keeps every box.",
        ),
        _parameter(
            "max_detections",
            {"type": "integer", "minimum": 1, "maximum": MOST_DETECTIONS, "default": MAX_DETECTIONS},
            "Most detections, best first.",
        ),
        _parameter("with_image", {"type": "boolean", "default": False}, "Also answer with the image as it was read."),
    )
    body = {
        "image/*": {"schema": {"type": "string", "format": "binary"}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {"schema": _object(file={"type": "string", "format": "binary"})},
    }
    detect = {
        "summary": "Find the objects in an image.",
        "operationId": "detect",
        "parameters": [*parameters],
        "requestBody": {"required": True, "content": body},
        "responses": {"200": _answer("What was found.", "Answer")}
        | {str(status): _answer(what, "Error") for status, what in _REFUSALS.items()},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "detector", "version": VERSION, "summary": "Objects in images, found on this machine."},
        "paths": {
            "/detect": {"post": detect},
            "/health": {"get": _get("health", "Whether the server answers.", "Health")},
            "/models": {"get": _get("models", "What can be asked, and within what limits.", "Models")},
        },
        "components": {"schemas": _schemas(models)},
    }


def _schemas(models: Sequence[str]) -> dict[str, Any]:
    size = {"type": "integer", "minimum": 1}
    detection = _object(
        **{"class": _STRING},
        class_id={"type": "integer", "minimum": 0},
        score=_FRACTION,
        box=_list(_CORNER, minItems=4, maxItems=4)
        | {"description": "x1, y1, x2, y2 in pixels of the image, the way up a viewer shows it."},
    )
    model = _object(
        name={"type": "string", "enum": [*models]},
        class_names=_list(_STRING),
        class_colors=_list(_STRING),
        input_width=size,
        input_height=size,
        runtime=_STRING,
        suppression=_STRING,
        class_agnostic={"type": "boolean"},
    )
    defaults = _object(score_threshold=_FRACTION, iou_threshold=_FRACTION, max_detections=size)
    answer = _object(
        model=_STRING, width=size, height=size, milliseconds=_NUMBER, detections=_list({"$ref": _at("Detection")})
    )
    answer["properties"]["image"] = _STRING | {
        "description": "With `with_image` only: a data URL, JPEG, upright, scaled down where it is large."
    }
    return {
        "Answer": answer,
        "Detection": detection,
        "Error": _object(error=_STRING),
        "Health": _object(status={"const": "ok"}, version=_STRING),
        "Models": _object(models=_list(model), defaults=defaults, max_bytes=size, most_detections=size),
    }


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def _list(items: dict[str, Any], **more: int) -> dict[str, Any]:
    return {"type": "array", "items": items, **more}


def _at(schema: str) -> str:
    return f"#/components/schemas/{schema}"


def _parameter(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _get(name: str, summary: str, schema: str) -> dict[str, Any]:
    refused = _answer(_REFUSALS[403], "Error")
    return {"operationId": name, "summary": summary, "responses": {"200": _answer(summary, schema), "403": refused}}


def _answer(description: str, schema: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": {"$ref": _at(schema)}}}}
