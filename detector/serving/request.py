"""What a request to `/detect` asks: an image and thresholds; whatever is wrong with them is said with its status."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from detector.errors import did_you_mean
from detector.options import IOU_THRESHOLD, MAX_DETECTIONS, SCORE_THRESHOLD

MOST_DETECTIONS = 1000
"""Most that can be asked for, so that an answer stays small."""

_NUMBER = re.compile(r"[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?")
_HOW = "send the file as body with `Content-Type: image/jpeg` (or another image type), or as the file of a form"


@dataclass(frozen=True)
class DetectRequest:
    """What is asked about the image.

    Attributes:
        model: a name the server was started with.
        score_threshold: lowest score that counts, 0..1.
        iou_threshold: overlap above which the lower of two boxes goes, 0..1.
        max_detections: most detections.
        with_image: also answer with the image as it was read, for a page to draw.
    """

    model: str
    score_threshold: float = SCORE_THRESHOLD
    iou_threshold: float = IOU_THRESHOLD
    max_detections: int = MAX_DETECTIONS
    with_image: bool = False

    @property
    def thresholds(self) -> dict[str, Any]:
        """What `Detector.detect` calls the options."""
        return {key: getattr(self, key) for key in ("score_threshold", "iou_threshold", "max_detections")}


def parse_query(query: Iterable[tuple[str, str]], models: Collection[str]) -> DetectRequest:
    """Read the query of a URL.

    Args:
        query: names and values in their order.
        models: the names that are known; the first is meant where none is named.

    Raises:
        HTTPException: 422, a name or a value makes no sense.
    """
    values: dict[str, str] = {}
    for name, value in query:
        if name not in DetectRequest.__dataclass_fields__:
            raise HTTPException(
                422, f"{name}: no such parameter; {did_you_mean(name, DetectRequest.__dataclass_fields__)}"
            )
        if name in values:
            raise HTTPException(422, f"{name}: given twice")
        values[name] = value
    model = values.get("model", next(iter(models)))
    if model not in models:
        raise HTTPException(422, f"model: there is no '{model}'; known: {', '.join(models)}")
    return DetectRequest(
        model,
        _fraction("score_threshold", values, SCORE_THRESHOLD),
        _fraction("iou_threshold", values, IOU_THRESHOLD),
        _count("max_detections", values, MAX_DETECTIONS),
        _switch("with_image", values),
    )


def _fraction(name: str, values: dict[str, str], default: float) -> float:
    text = values.get(name, str(default))
    if not _NUMBER.fullmatch(text) or not 0 <= float(text) <= 1:
        raise HTTPException(422, f"{name}: expected a number from 0 to 1, got '{text}'")
    return float(text)


def _count(name: str, values: dict[str, str], default: int) -> int:
    text = values.get(name, str(default))
    if not re.fullmatch("[0-9]{1,4}", text) or not 1 <= int(text) <= MOST_DETECTIONS:
        raise HTTPException(422, f"{name}: expected a whole number from 1 to {MOST_DETECTIONS}, got '{text}'")
    return int(text)


def _switch(name: str, values: dict[str, str]) -> bool:
    text = values.get(name, "false")
    if text not in ("true", "false"):
        raise HTTPException(422, f"{name}: expected true or false, got '{text}'")
    return text == "true"


async def read_upload(request: Request, max_bytes: int, seconds: float) -> bytes:
    """Return the file that was sent, as body or as the one file of a form; what it holds is not looked at.

    Args:
        request: with a body.
        max_bytes: largest body, a form's own lines included.
        seconds: it must have arrived in.

    Raises:
        HTTPException: 400, the form is damaged; 408, it came too slowly; 413, it is too large; 415, neither an image
            nor a form; 422, the form does not hold one file.
        ClientDisconnect: the other side went away.
    """
    try:
        async with asyncio.timeout(seconds):
            body = await _read_body(request, max_bytes, 2 * max_bytes)
    except TimeoutError:
        raise HTTPException(408, f"the image did not arrive within {seconds:g} seconds") from None
    if body is None:
        raise HTTPException(413, f"too large a file: at most {max_bytes / 1e6:g} MB are taken; make it smaller")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _only_file(request, body)
    if not kind.startswith("image/") and kind != "application/octet-stream":
        raise HTTPException(415, f"got {kind or 'a body without Content-Type'}: {_HOW}")
    return body


async def skip_body(request: Request, max_bytes: int, seconds: float) -> None:
    """Read what was sent and forget it: who is refused while he sends would hear of a broken connection only."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await _read_body(request, 0, max_bytes)


async def _read_body(request: Request, max_bytes: int, give_up: int) -> bytes | None:
    """Return the body, or None if it is larger; then it is read all the same, up to the size at which to give up."""
    body, size = bytearray(), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= max_bytes:
            body += chunk
        elif size > give_up:
            break
    return bytes(body) if size <= max_bytes else None


async def _only_file(request: Request, body: bytes) -> bytes:
    async def chunks() -> AsyncIterator[bytes]:
        yield body

    parser = MultiPartParser(request.headers, chunks(), max_files=1, max_fields=1)  # type: ignore[arg-type]
    parser.spool_max_size = len(body) + 1  # it stays in memory: what is sent here is never written to the disk
    try:
        form = await parser.parse()
    except (MultiPartException, FormParserError) as error:  # which of them depends on Starlette's version
        raise HTTPException(400, f"the form cannot be read ({error}): {_HOW}") from None
    try:
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                raise HTTPException(
                    422, f"{name}: a form holds the file alone; parameters go into the URL, /detect?..."
                )
        contents = [await upload.read() for upload in form.values() if isinstance(upload, UploadFile)]
    finally:
        await form.close()
    if not contents:
        raise HTTPException(422, f"the form holds no file: {_HOW}")
    return contents[0]
