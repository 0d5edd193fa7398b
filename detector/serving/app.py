"""The server: a page to drop images on, and `POST /detect` for programs. Local unless told otherwise.

What a request holds is an image and numbers, never a path. Images stay in memory and are forgotten with the answer.
The event loop reads and writes; images are decoded by two threads, and each model has one of its own, since a
`Detector` computes one thing at a time.
"""

import asyncio
import base64
import contextlib
import io
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from PIL import Image

from detector.arrays import ImageArray
from detector.detections import Detections
from detector.drawing import class_color
from detector.errors import InputError
from detector.images import read_image
from detector.letterbox import Letterbox, letterbox_image
from detector.options import IOU_THRESHOLD, MAX_DETECTIONS, SCORE_THRESHOLD, RuntimeName
from detector.predict.detector import Detector
from detector.version import VERSION

try:
    import python_multipart  # noqa: F401  # Starlette imports it late, and then only asserts that it is there
    import uvicorn
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import HTMLResponse, JSONResponse, Response
    from starlette.routing import Route
    from starlette.types import ASGIApp
except ImportError as error:
    raise InputError(
        f"serving needs the package {error.name}: pip install 'starlette>=1.0' uvicorn python-multipart"
    ) from None

from detector.serving.guard import guard, is_loopback, page_headers
from detector.serving.openapi import describe_api
from detector.serving.request import MOST_DETECTIONS, DetectRequest, parse_query, read_upload, skip_body

log = logging.getLogger(__name__)
_Done = TypeVar("_Done")

MAX_BYTES = 20_000_000
"""Largest file that is taken."""

MAX_PIXELS = 50_000_000
"""Largest image that is decoded; two of these at a time take some 700 MB."""

CONCURRENCY = 32
"""Most images that are worked on or wait; who comes then is told to try again."""

SECONDS = 30.0
"""An image must have arrived in, and be answered in."""

_DECODERS = 2
_SHOWN_SIDE = 2048
"""Of the image in an answer: some 300 kB."""

_PAGE = Path(__file__).with_name("page.html")


def make_app(
    models: Mapping[str, Detector],
    max_bytes: int = MAX_BYTES,
    concurrency: int = CONCURRENCY,
    seconds: float = SECONDS,
    local_only: bool = True,
) -> ASGIApp:
    """Return the server as an ASGI app, for `serve` or any other ASGI server.

    The largest image is that of `set_max_pixels`, which holds for the whole process.

    Args:
        models: what can be asked for, by name; the first is meant where a request names none.
        max_bytes: largest file that is taken.
        concurrency: most images that are worked on or wait.
        seconds: an image must have arrived in, and be answered in.
        local_only: refuse requests under a name that is not this machine's own.

    Raises:
        InputError: there is no model.
    """
    if not models:
        raise InputError("a server needs at least one model")
    workers = {name: ThreadPoolExecutor(1) for name in models}
    decoders = ThreadPoolExecutor(_DECODERS)
    slots = asyncio.Semaphore(concurrency)
    page = _PAGE.read_text(encoding="utf-8")

    async def detect(request: Request) -> Response:
        if slots.locked():
            await skip_body(request, max_bytes, seconds)
            raise _busy(f"{concurrency} images are being looked at already")
        async with slots:
            content = await read_upload(request, max_bytes, seconds)
            question = parse_query(request.query_params.multi_items(), models)
            try:
                async with asyncio.timeout(seconds):
                    return JSONResponse(await look(content, question))
            except TimeoutError:
                raise _busy(f"there was no answer within {seconds:g} seconds") from None

    async def look(content: bytes, question: DetectRequest) -> dict[str, Any]:
        model, loop = models[question.model], asyncio.get_running_loop()
        read = partial(_read, content, model.input_hw, question.with_image)
        try:
            (laid, image), read_ms = await loop.run_in_executor(decoders, _timed, read)
        except InputError as error:
            raise _not_taken(error) from None
        detect = partial(model.detect_letterboxed, [laid], **question.thresholds)
        [found], detect_ms = await loop.run_in_executor(workers[question.model], _timed, detect)
        height, width = laid[0].image_hw
        answer = {"model": question.model, "width": width, "height": height}
        return answer | {"milliseconds": round(read_ms + detect_ms, 1), "detections": _to_json(found)} | image

    app = Starlette(
        routes=[
            Route("/detect", detect, methods=["POST"]),
            Route("/", _always(HTMLResponse(page))),
            Route("/health", _always(JSONResponse({"status": "ok", "version": VERSION}))),
            Route("/models", _always(JSONResponse(_describe_all(models, max_bytes)))),
            Route("/openapi.json", _always(JSONResponse(describe_api([*models])))),
        ],
        exception_handlers={HTTPException: _say_refusal, ClientDisconnect: _say_nothing, Exception: _say_bug},
    )
    return guard(app, local_only, page_headers(page))


def serve(
    weights: Sequence[str],
    host: str = "127.0.0.1",
    port: int = 8000,
    runtime: RuntimeName = "auto",
    device: str = "auto",
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    concurrency: int = CONCURRENCY,
) -> None:
    """Load models and answer until Ctrl-C; logs the address. Sets the largest image for the whole process.

    Args:
        weights: each as for `Detector.load`; a model is called as its file, or by the whole path where two are alike.
        host: address to listen on; another than this machine's own lets the network in.
        port: 0 takes any that is free.
        runtime: as of `Detector.load`.
        device: as of `Detector.load`.
        max_bytes: largest file that is taken.
        max_pixels: largest image that is decoded.
        concurrency: most images that are worked on or wait.

    Raises:
        InputError: weights that cannot be loaded or are given twice; an address that cannot be listened on.
    """
    with _listen(host, port) as listener:
        models = {name: Detector.load(path, device, runtime=runtime) for name, path in _names(weights).items()}
        local_only = is_loopback(host)
        app = make_app(models, max_bytes, concurrency, local_only=local_only)
        shown = f"[{host}]" if ":" in host else host
        log.info("%s at http://%s:%d (Ctrl-C stops)", ", ".join(models), shown, listener.getsockname()[1])
        if not local_only:
            log.warning("listens on %s: anybody in the network can use it, without password or encryption", host)
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=5,
        )
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket: before the models are loaded, since that takes longer than to say that it is taken."""
    if not 0 <= port <= 65535:
        raise InputError(f"port {port}: ports go from 0 to 65535")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # Python adds the address once more
        raise InputError(f"{host}, port {port}: cannot listen ({reason}): choose another --port or --host") from None


def _names(weights: Sequence[str]) -> dict[str, str]:
    """Return the name of each model and its weights.

    >>> _names(["cells", "mine.onnx", "a/best.onnx", "b/best.onnx"])
    {'cells': 'cells', 'mine': 'mine.onnx', 'a/best.onnx': 'a/best.onnx', 'b/best.onnx': 'b/best.onnx'}
    """
    stems = [Path(path).stem for path in weights]
    names = {path if stems.count(stem) > 1 else stem: path for path, stem in zip(weights, stems, strict=True)}
    if len(names) < len(weights):
        raise InputError(f"weights given twice: {' '.join(weights)}")
    return names


def _always(response: Response) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return response

    return answer


def _describe_all(models: Mapping[str, Detector], max_bytes: int) -> dict[str, Any]:
    return {
        "models": [_describe(name, model) for name, model in models.items()],
        "defaults": {
            "score_threshold": SCORE_THRESHOLD,
            "iou_threshold": IOU_THRESHOLD,
            "max_detections": MAX_DETECTIONS,
        },
        "max_bytes": max_bytes,
        "most_detections": MOST_DETECTIONS,
    }


def _describe(name: str, model: Detector) -> dict[str, Any]:
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


def _read(
    content: bytes, input_hw: tuple[int, int], with_image: bool
) -> tuple[tuple[Letterbox, ImageArray], dict[str, str]]:
    """Return the image on its canvas; and, if wanted, in the words of the answer. The large array ends here."""
    image = read_image(content)
    return letterbox_image(image, input_hw), {"image": _to_url(image)} if with_image else {}


def _to_url(image: ImageArray) -> str:
    """Return [H, W, 3] as a data URL, scaled to at most `_SHOWN_SIDE` pixels."""
    height, width = image.shape[:2]
    scale = min(1, _SHOWN_SIDE / max(height, width))
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    file = io.BytesIO()
    shown = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA) if scale < 1 else image
    Image.fromarray(shown.astype(np.uint8, copy=False)).save(file, "JPEG", quality=92)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _timed(work: Callable[[], _Done]) -> tuple[_Done, float]:
    """Return what `work` does and the milliseconds it took, in the thread that does it."""
    started = time.perf_counter()
    done = work()
    return done, (time.perf_counter() - started) * 1e3


def _to_json(found: Detections) -> list[dict[str, Any]]:
    """Return the detections with every digit: read back as float32 they are the same."""
    rows = zip(found.boxes.tolist(), found.scores.tolist(), found.class_ids.tolist(), strict=True)
    return [
        {"class": found.class_names[class_id], "class_id": class_id, "score": score, "box": box}
        for box, score, class_id in rows
    ]


def _not_taken(error: InputError) -> HTTPException:
    reason = str(error).removeprefix("<bytes>: ")
    return HTTPException(413 if reason.startswith("too large an image") else 415, reason)


def _busy(reason: str) -> HTTPException:
    return HTTPException(503, f"{reason}: try again in a second", {"Retry-After": "1"})


def _say_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _say_nothing(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody is there to read it


def _say_bug(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the server failed at this; its log says how"}, 500)
