"""The server: a web page that shows detections, and `POST /detect` for programs.

By default the server listens only on the loopback address, so other machines cannot reach it. A request contains an
image and numbers, but no paths of files. Images are kept in memory and discarded after the response. The event loop
reads requests and sends responses. Two threads decode images. Each model has its own thread, because a `Detector` runs
one batch at a time.
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
    import python_multipart  # noqa: F401  # if it is missing, Starlette fails later with an AssertionError without message
    import uvicorn
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import HTMLResponse, JSONResponse, Response
    from starlette.routing import Route
    from starlette.types import ASGIApp
except ImportError as error:
    raise MissingPackageError(f"the server needs the package {error.name}: pip install 'detector[serve]'") from None

from detector.serving.guard import guard, is_loopback, page_headers
from detector.serving.openapi import describe_api
from detector.serving.request import DetectRequest, parse_query, read_upload, skip_body
from detector.serving.response import detect_response, models_response, to_data_url

log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

MAX_BYTES = 20_000_000
"""Default largest size of an uploaded file, in bytes."""

MAX_PIXELS = 50_000_000
"""Default largest number of pixels of an image. Decoding two such images at the same time takes about 700 MB."""

CONCURRENCY = 32
"""Default largest number of images that are processed or queued at the same time; more requests are refused."""

SECONDS = 30.0
"""Default time limit in seconds: for each upload, and separately for the detection in the uploaded image."""

_DECODE_THREADS = 2
_IMAGE_NAME = "image"
"""Name of the uploaded image in error messages."""

_PAGE = Path(__file__).with_name("page.html")


@dataclass(frozen=True, kw_only=True)
class _ServerLimits:
    """Limits of the server: size of an upload, pixels of an image, number of concurrent images, and time.

    Attributes:
        max_bytes: largest size of an uploaded file, in bytes.
        max_pixels: largest number of pixels of an image that is decoded.
        concurrency: largest number of images that are processed or queued at the same time.
        seconds: time limit for each upload, and separately for the detection in the uploaded image.
    """

    max_bytes: int
    max_pixels: int
    concurrency: int
    seconds: float


@dataclass(frozen=True)
class _Decoded:
    """An uploaded image after decoding and letterboxing.

    Attributes:
        letterbox: maps coordinates between the image and the network input.
        letterboxed: [input height, input width, 3] RGB, the network input.
        image_url: the image as a data URL for the response; None if the response contains no image.
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
    """Return an ASGI app with the web page and the API; `serve` or any other ASGI server can run the app.

    Args:
        models: model name → detector; the first model is the default.
        max_bytes: largest size of an uploaded file, in bytes.
        max_pixels: largest number of pixels of an image that is decoded.
        concurrency: largest number of images that are processed or queued at the same time; more requests are refused.
        seconds: time limit for each upload, and separately for the detection in the uploaded image.
        local_only: refuse requests whose `Host` header is not a loopback name or address.

    Raises:
        ConfigError: `models` is empty.
    """
    if not models:
        raise ConfigError("the server needs at least one model")
    limits = _ServerLimits(max_bytes=max_bytes, max_pixels=max_pixels, concurrency=concurrency, seconds=seconds)
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
    """The endpoint `POST /detect`: detects objects in an uploaded image.

    Args:
        models: model name → detector; the first model is the default.
        limits: limits of the server.
    """

    def __init__(self, models: Mapping[str, Detector], limits: _ServerLimits) -> None:
        self._models, self._limits = models, limits
        self._model_threads = {name: ThreadPoolExecutor(1) for name in models}
        self._decode_threads = ThreadPoolExecutor(_DECODE_THREADS)
        self._slots = asyncio.Semaphore(limits.concurrency)

    async def respond(self, request: Request) -> Response:
        """Read the uploaded image, run the detector on it, and return the response with the detections."""
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
    threads: int | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    concurrency: int = CONCURRENCY,
) -> None:
    """Load models, log the address of the server, and run the server until Ctrl-C.

    Args:
        weights: weights of each model, as for `Detector.load`. The name of a model is the stem of the weights file, or
            its complete path if two files have the same stem.
        device: as for `Detector.load`.
        runtime: as for `Detector.load`.
        threads: as for `Detector.load`, for each model.
        host: address to listen on. With an address that is not a loopback address, other machines can use the server.
        port: TCP port; 0: any free port.
        max_bytes: largest size of an uploaded file, in bytes.
        max_pixels: largest number of pixels of an image that is decoded.
        concurrency: largest number of images that are processed or queued at the same time; more requests are refused.

    Raises:
        InputError: weights cannot be loaded or are passed twice, or the server cannot listen on the address and port.
    """
    with _listen(host, port) as listener:
        names = _model_names(weights)
        models = {
            name: Detector.load(path, device=device, runtime=runtime, threads=threads) for name, path in names.items()
        }
        local_only = is_loopback(host)
        app = make_app(
            models, max_bytes=max_bytes, max_pixels=max_pixels, concurrency=concurrency, local_only=local_only
        )
        url_host = f"[{host}]" if ":" in host else host
        log.info("serving %s at http://%s:%d (Ctrl-C stops)", ", ".join(models), url_host, listener.getsockname()[1])
        if not local_only:
            log.warning(
                "listening on %s: anyone on the network can use the server, without password or encryption", host
            )
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
    """Return a socket that listens on a host and port.

    Called before the models are loaded, so that a port that is in use is reported immediately.

    Raises:
        InputError: the server cannot listen on this host and port.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"port {port}: expected a number from 0 to 65535")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # without the address, which is in the message already
        raise InputError(f"{host}, port {port}: cannot listen ({reason}); pass another --port or --host") from None


def _model_names(weights: Sequence[str]) -> dict[str, str]:
    """Return model name → weights. The name is the stem of the file, or the complete path if the stem occurs twice.

    Raises:
        ConfigError: the same weights are passed twice.

    >>> _model_names(["cells", "mine.onnx", "a/best.onnx", "b/best.onnx"])
    {'cells': 'cells', 'mine': 'mine.onnx', 'a/best.onnx': 'a/best.onnx', 'b/best.onnx': 'b/best.onnx'}
    """
    stems = [Path(path).stem for path in weights]
    names = {path if stems.count(stem) > 1 else stem: path for path, stem in zip(weights, stems, strict=True)}
    if len(names) < len(weights):
        raise ConfigError(f"--weights {' '.join(weights)}: the same weights are passed twice; pass them once")
    return names


def _constant(response: Response) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that returns `response` for every request."""

    async def respond(request: Request) -> Response:
        return response

    return respond


def _decode(content: bytes, input_hw: tuple[int, int], max_pixels: int, with_image: bool) -> _Decoded:
    """Decode an image file, letterbox the image to `input_hw`, and return the result.

    The decoded image, which may be large, is not part of the result, so its memory is freed.
    """
    image = read_image(content, name=_IMAGE_NAME, max_pixels=max_pixels)
    letterbox, letterboxed = letterbox_image(image, input_hw)
    return _Decoded(letterbox, letterboxed, to_data_url(image) if with_image else None)


def _timed(work: Callable[[], _Result]) -> tuple[_Result, float]:
    """Call `work` and return (result, duration in milliseconds).

    Runs in the same thread as `work`, so the duration does not include the time of waiting for a thread.
    """
    started = time.perf_counter()
    result = work()
    return result, (time.perf_counter() - started) * 1e3


def _overloaded(reason: str) -> HTTPException:
    return HTTPException(503, f"{reason}; try again in a second", {"Retry-After": "1"})


def _handle_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _handle_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads this response, because the client has disconnected


def _handle_bug(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "internal server error; the log of the server has the details"}, 500)
