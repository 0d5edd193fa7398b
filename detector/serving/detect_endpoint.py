"""The endpoint `POST /detect`: from the upload to the detections.

Other processes decode images (`decode_pool.py`). Each model has one thread for images that are quick to process, and
one for tiles and flipped images, so that a large image does not delay the others. A `Detector` can be used by several
threads.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from detector.arrays import ImageArray
from detector.detections import Detections
from detector.errors import ConfigError, ImageTooLargeError, InputError
from detector.letterbox import Letterbox
from detector.options import DetectOptions
from detector.predict.detector import Detector
from detector.predict.tiling import views_of
from detector.serving.decode_pool import DecodePool, LaneFullError
from detector.serving.decode_process import Decoded, DecodeJob, DecodeTimeoutError
from detector.serving.lanes import is_quick
from detector.serving.limits import MAX_TILES, ServerLimits
from detector.serving.metrics import Metrics
from detector.serving.request import DetectRequest, parse_query, read_file
from detector.serving.response import detect_response
from detector.serving.uploads import Uploads

_Result = TypeVar("_Result")


class DetectEndpoint:
    """The endpoint `POST /detect`: detects objects in an uploaded image.

    Args:
        models: model name → detector; the first model is the default.
        limits: limits of the server.
        uploads: reads the bodies of requests.
        metrics: counts images and measures times.

    Attributes:
        pool: the processes that decode images.
    """

    def __init__(
        self, models: Mapping[str, Detector], limits: ServerLimits, uploads: Uploads, metrics: Metrics
    ) -> None:
        self._models, self._limits, self._uploads, self._metrics = models, limits, uploads, metrics
        self._quick_threads = {name: ThreadPoolExecutor(1) for name in models}
        self._slow_threads = {name: ThreadPoolExecutor(1) for name in models}
        self.pool = DecodePool(limits.concurrency, limits.decode_seconds, self._count_timeout)

    async def respond(self, request: Request) -> Response:
        """Read the uploaded image, run the detector on it, and return the response with the detections."""
        body = await self._uploads.read(request)
        started = time.perf_counter()
        parameters = self._resolve(parse_query(request.query_params.multi_items(), self._models))
        content = await read_file(request, body)
        needs_image = parameters.options.tile is not None or parameters.options.tta
        lane = self.pool.quick if not needs_image and is_quick(content) else self.pool.slow
        try:
            with lane.place(), self._metrics.count_in_progress():
                async with asyncio.timeout(self._limits.seconds):
                    decoded = await self.pool.decode(lane, content, self._job(parameters, needs_image))
                    response = await self._detect(decoded, parameters, needs_image)
        except LaneFullError as error:
            raise _overloaded(str(error)) from None
        except TimeoutError:
            raise _overloaded(f"the detection took longer than {self._limits.seconds:g} seconds") from None
        except InputError as error:
            raise HTTPException(_status_of(error), str(error)) from None
        self._metrics.add_time("request", time.perf_counter() - started)
        return JSONResponse(response)

    def _resolve(self, request: DetectRequest) -> DetectRequest:
        """Return the request with class ids in place of names; an unknown class is an HTTPException."""
        try:
            options = self._models[request.model].resolve_options(request.options)
        except ConfigError as error:
            raise HTTPException(422, str(error)) from None
        return DetectRequest(request.model, options, request.with_image)

    def _job(self, request: DetectRequest, needs_image: bool) -> DecodeJob:
        input_hw = None if needs_image else self._models[request.model].input_hw
        return DecodeJob(input_hw, self._limits.max_pixels, request.with_image)

    async def _detect(self, decoded: Decoded, request: DetectRequest, needs_image: bool) -> dict[str, Any]:
        """Run the model on a decoded image, and return the body of the response."""
        model = self._models[request.model]
        if needs_image:
            views_of(decoded.image_hw, model.input_hw, request.options, MAX_TILES)  # refuses an image with more tiles
            work = partial(model.detect_image, decoded.pixels, request.options)
            threads = self._slow_threads[request.model]
        else:
            letterboxed = Letterbox.fit(decoded.image_hw, model.input_hw), decoded.pixels
            work = partial(_detect_once, model, letterboxed, request.options)
            threads = self._quick_threads[request.model]
        found, seconds = await asyncio.get_running_loop().run_in_executor(threads, _timed, work)
        self._metrics.add_time("decode", decoded.seconds)
        self._metrics.add_time("detect", seconds)
        milliseconds = (decoded.seconds + seconds) * 1e3
        return detect_response(request.model, decoded.image_hw, found, milliseconds, decoded.image_url)

    def _count_timeout(self) -> None:
        self._metrics.decode_timeouts += 1


def _timed(work: Callable[[], _Result]) -> tuple[_Result, float]:
    """Call `work` and return (result, duration in seconds).

    Runs in the same thread as `work`, so the duration does not include the time of waiting for a thread.
    """
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def _detect_once(model: Detector, letterboxed: tuple[Letterbox, ImageArray], options: DetectOptions) -> Detections:
    """Detect objects in a letterboxed image."""
    return model.detect_letterboxed([letterboxed], options)[0]


def _status_of(error: InputError) -> int:
    """Return the status code of the response to an image that cannot be used."""
    if isinstance(error, ConfigError):
        return 422
    return 413 if isinstance(error, ImageTooLargeError | DecodeTimeoutError) else 415


def _overloaded(reason: str) -> HTTPException:
    return HTTPException(503, f"{reason}; try again in a second", {"Retry-After": "1"})
