"""Parse a request to `/detect`: the query of the URL and the uploaded file. Bad requests raise an HTTP error."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Collection, Iterable
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from detector.errors import did_you_mean
from detector.options import IOU_THRESHOLD, MAX_DETECTIONS, SCORE_THRESHOLD, DetectOptions

MAX_DETECTIONS_LIMIT = 1000
"""Largest `max_detections` a request may ask for; it bounds the size of a response."""

_PARAMETERS = ("model", "score_threshold", "iou_threshold", "max_detections", "with_image")
_NUMBER = re.compile(r"[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?")
_HOW_TO_SEND = (
    "send the file as the request body with `Content-Type: image/jpeg` (or another image type), or as a file in a form"
)


@dataclass(frozen=True)
class DetectRequest:
    """The parameters of a request to `/detect`.

    Attributes:
        model: name of one of the server's models.
        options: thresholds for the detection.
        with_image: whether the response contains the decoded image, for a page to draw.
    """

    model: str
    options: DetectOptions
    with_image: bool = False


def parse_query(query: Iterable[tuple[str, str]], models: Collection[str]) -> DetectRequest:
    """Parse the query of a URL.

    Args:
        query: names and values in their order.
        models: names of the models; the first is the default.

    Raises:
        HTTPException: 422: a name is unknown or repeated, or a value is invalid.
    """
    values: dict[str, str] = {}
    for name, value in query:
        if name not in _PARAMETERS:
            raise HTTPException(422, f"{name}: unknown parameter; {did_you_mean(name, _PARAMETERS)}")
        if name in values:
            raise HTTPException(422, f"{name}: given twice; send it once")
        values[name] = value
    model = values.get("model", next(iter(models)))
    if model not in models:
        raise HTTPException(422, f"model: unknown model '{model}'; known: {', '.join(models)}")
    options = DetectOptions(
        score_threshold=_parse_fraction("score_threshold", values, SCORE_THRESHOLD),
        iou_threshold=_parse_fraction("iou_threshold", values, IOU_THRESHOLD),
        max_detections=_parse_count("max_detections", values, MAX_DETECTIONS),
    )
    return DetectRequest(model, options, _parse_flag("with_image", values))


def _parse_fraction(name: str, values: dict[str, str], default: float) -> float:
    text = values.get(name, str(default))
    if not _NUMBER.fullmatch(text) or not 0 <= float(text) <= 1:
        raise HTTPException(422, f"{name}: expected a number from 0 to 1, got '{text}'")
    return float(text)


def _parse_count(name: str, values: dict[str, str], default: int) -> int:
    text = values.get(name, str(default))
    if not re.fullmatch("[0-9]{1,4}", text) or not 1 <= int(text) <= MAX_DETECTIONS_LIMIT:
        raise HTTPException(422, f"{name}: expected a whole number from 1 to {MAX_DETECTIONS_LIMIT}, got '{text}'")
    return int(text)


def _parse_flag(name: str, values: dict[str, str]) -> bool:
    text = values.get(name, "false")
    if text not in ("true", "false"):
        raise HTTPException(422, f"{name}: expected true or false, got '{text}'")
    return text == "true"


async def read_upload(request: Request, max_bytes: int, seconds: float) -> bytes:
    """Return the uploaded file, from the body or from a form with one file; its content is not checked.

    Args:
        request: a request with a body.
        max_bytes: largest body in bytes, including the boundaries of a form.
        seconds: time limit for the upload.

    Raises:
        HTTPException: 400: the form is damaged; 408: the upload took too long; 413: the body is too large;
            415: neither an image nor a form; 422: the form does not contain exactly one file.
        ClientDisconnect: the client closed the connection.
    """
    try:
        async with asyncio.timeout(seconds):
            body = await _read_body(request, max_bytes, 2 * max_bytes)
    except TimeoutError:
        raise HTTPException(408, f"the image did not arrive within {seconds:g} seconds") from None
    if body is None:
        raise HTTPException(413, f"the file is too large: at most {max_bytes / 1e6:g} MB are accepted; shrink it")
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        return await _read_form_file(request, body)
    if not content_type.startswith("image/") and content_type != "application/octet-stream":
        found = f"Content-Type {content_type} is not an image" if content_type else "the request has no Content-Type"
        raise HTTPException(415, f"{found}: {_HOW_TO_SEND}")
    return body


async def skip_body(request: Request, max_bytes: int, seconds: float) -> None:
    """Read and discard the body: a client refused during its upload would only see a broken connection."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await _read_body(request, 0, max_bytes)


async def _read_body(request: Request, max_bytes: int, max_read: int) -> bytes | None:
    """Return the body; None if it is larger than `max_bytes`. Reading stops only above `max_read` bytes."""
    body, size = bytearray(), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= max_bytes:
            body += chunk
        elif size > max_read:
            break
    return bytes(body) if size <= max_bytes else None


async def _read_form_file(request: Request, body: bytes) -> bytes:
    """Return the content of the only file in a multipart form."""

    async def chunks() -> AsyncIterator[bytes]:
        yield body

    parser = MultiPartParser(request.headers, chunks(), max_files=1, max_fields=1)  # type: ignore[arg-type]
    parser.spool_max_size = len(body) + 1  # keep the upload in memory: it is never written to disk
    try:
        form = await parser.parse()
    except (MultiPartException, FormParserError) as error:  # which of the two depends on the version of Starlette
        raise HTTPException(400, f"the form cannot be parsed ({error}): {_HOW_TO_SEND}") from None
    try:
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                raise HTTPException(
                    422, f"{name}: the form may contain only the file; put parameters into the URL, /detect?..."
                )
        contents = [await upload.read() for upload in form.values() if isinstance(upload, UploadFile)]
    finally:
        await form.close()
    if not contents:
        raise HTTPException(422, f"the form contains no file: {_HOW_TO_SEND}")
    return contents[0]
