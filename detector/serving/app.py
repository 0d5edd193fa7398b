"""The server: a web page for images and `POST /detect` for programs. It is local unless another host is given.

A request contains an image and numbers, never a path. Images stay in memory and are discarded after the response.
The event loop does the input and output. Two threads decode images, and each model has its own thread, because a
`Detector` runs one batch at a time.
"""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from detector.arrays import ImageArray
from detector.errors import ConfigError, ImageTooLargeError, InputError, MissingPackageError
from detector.images import read_image
from detector.letterbox import Letterbox, letterbox_image
from detector.options import RuntimeName
from detector.predict.detector import Detector
from detector.version import VERSION

try:
    import python_multipart  # noqa: F401  # Starlette imports it late, and fails with a bare assertion without it
    import uvicorn
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import HTMLResponse, JSONResponse, Response
    from starlette.routing import Route
    from starlette.types import ASGIApp
except ImportError as error:
    raise MissingPackageError(
        f"the server needs the package {error.name}: pip install 'starlette>=1.0' uvicorn python-multipart"
    ) from None

from detector.serving.guard import guard, is_loopback, page_headers
from detector.serving.openapi import describe_api
from detector.serving.request import DetectRequest, parse_query, read_upload, skip_body
from detector.serving.response import detect_response, models_response, to_data_url

log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

MAX_BYTES = 20_000_000
"""Default size in bytes of the largest accepted file."""

MAX_PIXELS = 50_000_000
"""Default number of pixels of the largest image that is decoded; two such images at a time take about 700 MB."""

CONCURRENCY = 32
"""Default number of images that are processed or queued at the same time; further requests are refused."""

SECONDS = 30.0
"""Default time limit in seconds for an upload, and again for its detection."""

_DECODE_THREADS = 2
_IMAGE_NAME = "image"
"""Name of the uploaded image in error messages."""

_PAGE = Path(__file__).with_name("page.html")


@dataclass(frozen=True, kw_only=True)
class _Limits:
    """Limits of a server; see `make_app`."""

    max_bytes: int
    max_pixels: int
    concurrency: int
    seconds: float


@dataclass(frozen=True)
class _Decoded:
    """An uploaded image, ready for the network.

    Attributes:
        letterbox: the map from the image to the network input.
        letterboxed: [input height, input width, 3].
        image_url: the image as a data URL; None: the response has no image.
    """

    letterbox: Letterbox
    letterboxed: ImageArray
    image_url: str | None


def make_app(
    models: Mapping[str, Detector],
    *,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    concurrency: int = CONCURRENCY,
    seconds: float = SECONDS,
    local_only: bool = True,
) -> ASGIApp:
    """Return the server as an ASGI app, for `serve` or any other ASGI server.

    Args:
        models: name → model; the first is the default.
        max_bytes: size in bytes of the largest accepted file.
        max_pixels: pixels of the largest image that is decoded.
        concurrency: number of images that are processed or queued at the same time; further requests are refused.
        seconds: time limit for an upload, and again for its detection.
        local_only: refuse requests whose `Host` is not a loopback name.

    Raises:
        ConfigError: `models` is empty.
    """
    if not models:
        raise ConfigError("the server needs at least one model")
    limits = _Limits(max_bytes=max_bytes, max_pixels=max_pixels, concurrency=concurrency, seconds=seconds)
    page = _PAGE.read_text(encoding="utf-8")
    app = Starlette(
        routes=[
            Route("/detect", _DetectEndpoint(models, limits).respond, methods=["POST"]),
            Route("/", _constant(HTMLResponse(page))),
            Route("/health", _constant(JSONResponse({"status": "ok", "version": VERSION}))),
            Route("/models", _constant(JSONResponse(models_response(models, max_bytes)))),
            Route("/openapi.json", _constant(JSONResponse(describe_api([*models])))),
        ],
        exception_handlers={
            HTTPException: _handle_http_error,
            ClientDisconnect: _handle_disconnect,
            Exception: _handle_bug,
        },
    )
    return guard(app, local_only, page_headers(page))


class _DetectEndpoint:
    """The endpoint `POST /detect`.

    Args:
        models: name → model; the first is the default.
        limits: limits of the server.
    """

    def __init__(self, models: Mapping[str, Detector], limits: _Limits) -> None:
        self._models, self._limits = models, limits
        self._model_threads = {name: ThreadPoolExecutor(1) for name in models}
        self._decode_threads = ThreadPoolExecutor(_DECODE_THREADS)
        self._slots = asyncio.Semaphore(limits.concurrency)

    async def respond(self, request: Request) -> Response:
        """Read the upload, run the detector and return the detections."""
        limits = self._limits
        if self._slots.locked():
            await skip_body(request, limits.max_bytes, limits.seconds)
            raise _overloaded(f"{limits.concurrency} images are already being processed")
        async with self._slots:
            content = await read_upload(request, limits.max_bytes, limits.seconds)
            parameters = parse_query(request.query_params.multi_items(), self._models)
            try:
                async with asyncio.timeout(limits.seconds):
                    return JSONResponse(await self._detect(content, parameters))
            except TimeoutError:
                raise _overloaded(f"the detection took longer than {limits.seconds:g} seconds") from None

    async def _detect(self, content: bytes, request: DetectRequest) -> dict[str, Any]:
        model, loop = self._models[request.model], asyncio.get_running_loop()
        decode = partial(_decode, content, model.input_hw, self._limits.max_pixels, request.with_image)
        try:
            decoded, decode_ms = await loop.run_in_executor(self._decode_threads, _timed, decode)
        except InputError as error:
            raise HTTPException(413 if isinstance(error, ImageTooLargeError) else 415, str(error)) from None
        detect = partial(model.detect_letterboxed, [(decoded.letterbox, decoded.letterboxed)], request.options)
        [found], detect_ms = await loop.run_in_executor(self._model_threads[request.model], _timed, detect)
        milliseconds = decode_ms + detect_ms
        return detect_response(request.model, decoded.letterbox.image_hw, found, milliseconds, decoded.image_url)


def serve(
    weights: Sequence[str],
    *,
    device: str = "auto",
    runtime: RuntimeName = "auto",
    host: str = "127.0.0.1",
    port: int = 8000,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    concurrency: int = CONCURRENCY,
) -> None:
    """Load models and serve them until Ctrl-C; logs the address.

    Args:
        weights: weights as for `Detector.load`. A model is named after its file, or after its whole path if two files
            have the same name.
        device: as for `Detector.load`.
        runtime: as for `Detector.load`.
        host: address to listen on. Any address other than this machine's loopback opens the server to the network.
        port: 0: any free port.
        max_bytes: size in bytes of the largest accepted file.
        max_pixels: pixels of the largest image that is decoded.
        concurrency: number of images that are processed or queued at the same time; further requests are refused.

    Raises:
        InputError: weights that cannot be loaded or are given twice; an address that the server cannot listen on.
    """
    with _listen(host, port) as listener:
        names = _model_names(weights)
        models = {name: Detector.load(path, device=device, runtime=runtime) for name, path in names.items()}
        local_only = is_loopback(host)
        app = make_app(
            models, max_bytes=max_bytes, max_pixels=max_pixels, concurrency=concurrency, local_only=local_only
        )
        url_host = f"[{host}]" if ":" in host else host
        log.info("serving %s at http://%s:%d (Ctrl-C stops)", ", ".join(models), url_host, listener.getsockname()[1])
        if not local_only:
            log.warning("listening on %s: anyone on the network can use it, without password or encryption", host)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(_uvicorn_config(app)).run(sockets=[listener])


def _uvicorn_config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
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


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Called before the models are loaded, so that a port in use is reported at once."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"port {port}: expected a number from 0 to 65535")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # without the address, which Python repeats
        raise InputError(f"{host}, port {port}: cannot listen ({reason}): choose another --port or --host") from None


def _model_names(weights: Sequence[str]) -> dict[str, str]:
    """Return model name → weights.

    >>> _model_names(["cells", "mine.onnx", "a/best.onnx", "b/best.onnx"])
    {'cells': 'cells', 'mine': 'mine.onnx', 'a/best.onnx': 'a/best.onnx', 'b/best.onnx': 'b/best.onnx'}
    """
    stems = [Path(path).stem for path in weights]
    names = {path if stems.count(stem) > 1 else stem: path for path, stem in zip(weights, stems, strict=True)}
    if len(names) < len(weights):
        raise ConfigError(f"weights are given twice: {' '.join(weights)}")
    return names


def _constant(response: Response) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that always returns `response`."""

    async def respond(request: Request) -> Response:
        return response

    return respond


def _decode(content: bytes, input_hw: tuple[int, int], max_pixels: int, with_image: bool) -> _Decoded:
    """Decode and letterbox an image file. The full-size image, which may be large, is freed here."""
    image = read_image(content, name=_IMAGE_NAME, max_pixels=max_pixels)
    letterbox, letterboxed = letterbox_image(image, input_hw)
    return _Decoded(letterbox, letterboxed, to_data_url(image) if with_image else None)


def _timed(work: Callable[[], _Result]) -> tuple[_Result, float]:
    """Return the result of `work` and its duration in milliseconds, without the time it waited for a thread."""
    started = time.perf_counter()
    result = work()
    return result, (time.perf_counter() - started) * 1e3


def _overloaded(reason: str) -> HTTPException:
    return HTTPException(503, f"{reason}: try again in a second", {"Retry-After": "1"})


def _handle_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _handle_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # the client is gone: nobody reads it


def _handle_bug(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "internal server error; see the log of the server"}, 500)
