"""The ASGI app: a web page that shows detections, and `POST /detect` for programs.

A request contains an image and parameters, but no paths of files. Images are kept in memory and discarded after the
response. The event loop reads requests and sends responses; `detect_endpoint.py` does the work.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from detector.errors import ConfigError, MissingPackageError
from detector.predict.detector import Detector
from detector.version import VERSION

try:
    import python_multipart  # noqa: F401  # if it is missing, Starlette fails later with an AssertionError without message
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route
    from starlette.types import ASGIApp, Receive, Scope, Send
except ImportError as error:
    raise MissingPackageError(
        f"the server needs the package {error.name}: pip install 'grid-detector[serve]'"
    ) from None

from detector.serving.detect_endpoint import DetectEndpoint
from detector.serving.guard import Access, Guard, page_headers
from detector.serving.limits import (
    CONCURRENCY,
    DECODE_SECONDS,
    MAX_BYTES,
    MAX_PIXELS,
    MAX_TILES,
    SECONDS,
    ServerLimits,
)
from detector.serving.metrics import Metrics
from detector.serving.openapi import describe_api
from detector.serving.response import models_response
from detector.serving.uploads import Uploads

_PAGE = Path(__file__).with_name("page.html")


class DetectionApp:
    """The ASGI app with the web page and the API; see `make_app`.

    Args:
        models: model name → detector; the first model is the default.
        limits: limits of the server.
        access: who may use the server.
        with_metrics: whether there is an endpoint `/metrics` for Prometheus.

    Raises:
        ConfigError: `models` is empty.
    """

    def __init__(
        self,
        models: Mapping[str, Detector],
        *,
        limits: ServerLimits | None = None,
        access: Access | None = None,
        with_metrics: bool = False,
    ) -> None:
        if not models:
            raise ConfigError("the server needs at least one model")
        limits, access, metrics = limits or ServerLimits(), access or Access(), Metrics()
        uploads = Uploads(limits.max_bytes, limits.seconds)
        self._endpoint = DetectEndpoint(models, limits, uploads, metrics)
        page = _PAGE.read_text(encoding="utf-8")
        api = describe_api([*models], max_tiles=MAX_TILES, needs_key=access.api_key is not None)
        routes = [
            Route("/detect", self._endpoint.respond, methods=["POST"]),
            Route("/", _constant(HTMLResponse(page))),
            Route("/health", _constant(JSONResponse({"status": "ok", "version": VERSION}))),
            Route("/models", _constant(JSONResponse(models_response(models, limits.max_bytes)))),
            Route("/openapi.json", _constant(JSONResponse(api))),
        ]
        if with_metrics:
            routes.append(Route("/metrics", _render_metrics(metrics)))
        self._app: ASGIApp = Guard(
            Starlette(
                routes=routes,
                exception_handlers={
                    HTTPException: _handle_http_error,
                    ClientDisconnect: _handle_disconnect,
                    Exception: _handle_bug,
                },
                lifespan=self._run,
            ),
            access,
            headers=page_headers(page),
            uploads=uploads,
            metrics=metrics,
            paths={route.path: route.path == "/detect" for route in routes},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to a request."""
        await self._app(scope, receive, send)

    @asynccontextmanager
    async def _run(self, app: Starlette) -> AsyncGenerator[None, None]:
        """Start the processes that decode images, and end them with the server."""
        self._endpoint.pool.start()
        try:
            yield
        finally:
            self.stop()

    def stop(self) -> None:
        """End the processes that decode images."""
        self._endpoint.pool.stop()


def make_app(
    models: Mapping[str, Detector],
    *,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    concurrency: int = CONCURRENCY,
    seconds: float = SECONDS,
    decode_seconds: float = DECODE_SECONDS,
    access: Access | None = None,
    with_metrics: bool = False,
) -> DetectionApp:
    """Return an ASGI app with the web page and the API; any ASGI server can run the app.

    An ASGI server other than that of `serve` must limit connections itself.

    Args:
        models: model name → detector; the first model is the default.
        max_bytes: largest size of an uploaded file, in bytes.
        max_pixels: largest number of pixels of an image that is decoded.
        concurrency: largest number of images that are processed or queued at the same time; more requests are refused.
        seconds: time limit for each upload, and separately for the detection in the uploaded image.
        decode_seconds: limit of CPU time for decoding an image; then decoding is stopped.
        access: who may use the server; None: only programs and the own page on this machine.
        with_metrics: whether there is an endpoint `/metrics` for Prometheus.

    Raises:
        ConfigError: `models` is empty.
    """
    limits = ServerLimits(
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        concurrency=concurrency,
        seconds=seconds,
        decode_seconds=decode_seconds,
    )
    return DetectionApp(models, limits=limits, access=access, with_metrics=with_metrics)


def _constant(response: Response) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that returns `response` for every request."""

    async def respond(request: Request) -> Response:
        return response

    return respond


def _render_metrics(metrics: Metrics) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that returns the metrics."""

    async def respond(request: Request) -> Response:
        return PlainTextResponse(metrics.render(), media_type="text/plain; version=0.0.4")

    return respond


def _handle_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _handle_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads this response, because the client has disconnected


def _handle_bug(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "internal server error; the log of the server has the details"}, 500)
