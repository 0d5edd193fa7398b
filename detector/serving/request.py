"""Reads a request to `/detect`: parameters and uploaded file. An invalid request raises an HTTPException."""

import re
from collections.abc import AsyncIterator, Collection, Iterable
from dataclasses import dataclass
from typing import get_args

from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from detector.errors import did_you_mean
from detector.options import (
    IOU_THRESHOLD,
    MAX_DETECTIONS,
    SCORE_THRESHOLD,
    TILE_OVERLAP,
    DetectOptions,
    SuppressionName,
)

MAX_DETECTIONS_LIMIT = 1000
"""Largest allowed value of the parameter `max_detections`; limits the size of a response."""

MAX_TILE = 100_000
"""Largest allowed value of the parameter `tile`."""

PARAMETERS = (
    *("model", "score_threshold", "iou_threshold", "max_detections", "classes", "suppression", "class_agnostic"),
    *("multi_label", "tile", "tile_overlap", "tta", "calibrated", "with_image"),
)
"""Names of the parameters: except for `model` and `with_image`, those of `Detector.detect`."""

_REPEATED = "classes"
"""The parameter that may be sent several times, once for each class."""

_NUMBER = re.compile(r"[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?")
_HOW_TO_SEND = (
    "send the file as the request body with `Content-Type: image/jpeg` (or another image type), or as a file in a form"
)


@dataclass(frozen=True)
class DetectRequest:
    """The parameters of a request to `/detect`.

    Attributes:
        model: name of the model to run.
        options: thresholds, classes, NMS, tiling and TTA.
        with_image: whether the response contains the decoded image, so that the web page can draw it.
    """

    model: str
    options: DetectOptions
    with_image: bool = False


def parse_query(query: Iterable[tuple[str, str]], models: Collection[str]) -> DetectRequest:
    """Parse the query of a URL and return the parameters, with default values for those that are missing.

    Args:
        query: (name, value) pairs.
        models: names of the models; the first model is the default.

    Raises:
        HTTPException: 422: a name is unknown or repeated, or a value is invalid.
    """
    values: dict[str, str] = {}
    classes: list[str] = []
    for name, value in query:
        if name not in PARAMETERS:
            raise HTTPException(422, f"{name}: unknown parameter; {did_you_mean(name, PARAMETERS)}")
        if name == _REPEATED:
            classes.append(value)
        elif name in values:
            raise HTTPException(422, f"{name}: the parameter is sent twice; send it once")
        else:
            values[name] = value
    model = values.get("model", next(iter(models)))
    if model not in models:
        raise HTTPException(422, f"model: unknown model '{model}'; known: {', '.join(models)}")
    options = DetectOptions(
        score_threshold="auto"
        if values.get("score_threshold") == "auto"
        else _parse_fraction("score_threshold", values, SCORE_THRESHOLD),
        iou_threshold=_parse_fraction("iou_threshold", values, IOU_THRESHOLD),
        max_detections=_parse_count("max_detections", values, MAX_DETECTIONS_LIMIT, MAX_DETECTIONS),
        classes=classes or None,
        suppression=_parse_suppression(values),
        class_agnostic=_parse_flag("class_agnostic", values) if "class_agnostic" in values else None,
        multi_label=_parse_flag("multi_label", values),
        tile=_parse_count("tile", values, MAX_TILE, 0) if "tile" in values else None,
        tile_overlap=_parse_overlap(values),
        tta=_parse_flag("tta", values),
        calibrated=_parse_flag("calibrated", values),
    )
    return DetectRequest(model, options, _parse_flag("with_image", values))


def _parse_fraction(name: str, values: dict[str, str], default: float) -> float:
    text = values.get(name, str(default))
    if not _NUMBER.fullmatch(text) or not 0 <= float(text) <= 1:
        raise HTTPException(422, f"{name}: expected a number from 0 to 1, got '{text}'")
    return float(text)


def _parse_overlap(values: dict[str, str]) -> float:
    overlap = _parse_fraction("tile_overlap", values, TILE_OVERLAP)
    if overlap == 1:
        raise HTTPException(422, "tile_overlap: expected a number from 0 to below 1, got '1'")
    return overlap


def _parse_suppression(values: dict[str, str]) -> SuppressionName | None:
    if "suppression" not in values:
        return None
    known: dict[str, SuppressionName] = {name: name for name in get_args(SuppressionName)}
    if (text := values["suppression"]) not in known:
        raise HTTPException(422, f"suppression: expected {' or '.join(known)}, got '{text}'")
    return known[text]


def _parse_count(name: str, values: dict[str, str], largest: int, default: int) -> int:
    text = values.get(name, str(default))
    if not re.fullmatch("[0-9]{1,6}", text) or not 1 <= int(text) <= largest:
        raise HTTPException(422, f"{name}: expected a whole number from 1 to {largest}, got '{text}'")
    return int(text)


def _parse_flag(name: str, values: dict[str, str]) -> bool:
    text = values.get(name, "false")
    if text not in ("true", "false"):
        raise HTTPException(422, f"{name}: expected true or false, got '{text}'")
    return text == "true"


async def read_file(request: Request, body: bytes) -> bytes:
    """Return the bytes of the uploaded file; they are not decoded.

    The file is the body of the request, or the only file in a multipart form.

    Args:
        request: a request whose headers describe the body.
        body: body of the request.

    Raises:
        HTTPException: 400: the form is damaged; 415: the body is neither an image nor a form; 422: the form does not
            contain exactly one file.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        return await _read_form_file(request, body)
    if not content_type.startswith("image/") and content_type != "application/octet-stream":
        found = f"Content-Type {content_type} is not an image" if content_type else "the request has no Content-Type"
        raise HTTPException(415, f"{found}: {_HOW_TO_SEND}")
    return body


async def _read_form_file(request: Request, body: bytes) -> bytes:
    """Return the bytes of the only file in a multipart form.

    Args:
        request: a request whose headers describe the form.
        body: body of the request.

    Raises:
        HTTPException: 400: the form is damaged; 422: the form does not contain exactly one file and nothing else.
    """

    async def chunks() -> AsyncIterator[bytes]:
        yield body

    parser = MultiPartParser(request.headers, chunks(), max_files=1, max_fields=1)  # type: ignore[arg-type]
    parser.spool_max_size = len(body) + 1  # keep the file in memory, do not write it to disk
    try:
        form = await parser.parse()
    except (MultiPartException, FormParserError) as error:  # the type depends on the version of Starlette
        raise HTTPException(400, f"the form cannot be parsed ({error}): {_HOW_TO_SEND}") from None
    try:
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                raise HTTPException(
                    422, f"{name}: the form must contain only the file; send parameters in the URL, /detect?..."
                )
        contents = [await upload.read() for upload in form.values() if isinstance(upload, UploadFile)]
    finally:
        await form.close()
    if not contents:
        raise HTTPException(422, f"the form contains no file: {_HOW_TO_SEND}")
    return contents[0]
