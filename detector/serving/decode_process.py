"""A process that decodes uploaded images. If an image takes too long, the process is killed and replaced.

A thread cannot be stopped while a library decodes an image; a process can. The process is a fresh interpreter that
imports only what it needs to decode images. The server and the process exchange messages over pipes: a header in JSON,
then bytes. Nothing is pickled, so that a process that an image has taken over cannot run code in the server.
"""

import base64
import contextlib
import io
import json
import logging
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Generator
from dataclasses import asdict, dataclass
from typing import IO, Any

import cv2
import numpy as np
from PIL import Image

from detector.arrays import ImageArray
from detector.errors import ImageError, ImageTooLargeError, InputError
from detector.images import read_image
from detector.letterbox import Letterbox

_START = (
    "import sys; sys.path[:] = sys.argv[1:]; from detector.serving.decode_process import run_decoder; run_decoder()"
)
"""Program of the process; its arguments are the module search path of the server."""

_SIZES = struct.Struct(">II")
_IMAGE_NAME = "image"
"""Name of the uploaded image in error messages."""

_MAX_IMAGE_SIDE = 2048
"""Longer side in pixels of the largest image in a response. A JPEG image of this size has about 300 kB."""

_HAS_CPU_TIMER = sys.platform != "win32"
_WAITING = 3
"""Decoding may take this many times as long as its CPU time allows."""

_NICENESS = 5
"""The process runs with lower priority than the server, so that decoding does not slow down everything else."""


@dataclass(frozen=True)
class DecodeJob:
    """What to do with an uploaded image.

    Attributes:
        input_hw: size of the network input to which the image is letterboxed; None: the image is not letterboxed.
        max_pixels: largest number of pixels of an image that is decoded.
        with_image: whether to encode the image for the response too.
    """

    input_hw: tuple[int, int] | None
    max_pixels: int
    with_image: bool


@dataclass(frozen=True)
class Decoded:
    """A decoded image.

    Attributes:
        image_hw: (height, width) of the upright image.
        pixels: [H, W, 3] RGB, the letterboxed image, or the image itself if it was not letterboxed.
        image_url: the image as a data URL for the response; None if the response contains no image.
        seconds: time that decoding took.
    """

    image_hw: tuple[int, int]
    pixels: ImageArray
    image_url: str | None
    seconds: float


class DecodeTimeoutError(ImageError):
    """Decoding an image takes too long."""


class DecodeProcess:
    """A process that decodes one image at a time. It starts at the first call of `start` or `decode`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._end: weakref.finalize[[subprocess.Popen[bytes]], DecodeProcess] | None = None
        self._is_ready = False
        self._is_stopped = False
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the process if it does not run. Does not wait until the process is ready."""
        with self._lock:
            if self._process is None and not self._is_stopped:
                command = [sys.executable, "-c", _START, *sys.path]
                self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                self._is_ready = False
                self._end = weakref.finalize(self, _end, self._process)

    def stop(self) -> None:
        """End the process, also in the middle of an image, and start no other. May be called from another thread."""
        with self._lock:
            self._is_stopped = True
            if self._process is not None:
                self._process.kill()

    def decode(self, content: bytes, job: DecodeJob, seconds: float) -> Decoded:
        """Decode an image. Only one thread at a time may call this method.

        Args:
            content: the bytes of the image file.
            job: what to do with the image.
            seconds: limit of CPU time, or on Windows of time. Anywhere, the image may take three times as long if other
                programs keep the CPU busy. The time in which a new process starts does not count.

        Raises:
            InputError: the image cannot be read; `DecodeTimeoutError`: decoding takes longer than `seconds`.
        """
        self.start()
        process = self._process
        if process is None:
            raise ImageError(f"{_IMAGE_NAME}: the server stops")
        if not self._is_ready:
            self._wait_until_ready(process)
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            process.kill()

        timer = threading.Timer(_WAITING * seconds if _HAS_CPU_TIMER else seconds, expire)
        timer.start()
        try:
            _write_message(process.stdin, {"job": asdict(job), "seconds": seconds}, content)
            header, payload = _read_message(process.stdout)
        except (EOFError, OSError):
            status = self._replace(process)
            if expired.is_set() or _is_out_of_time(status):
                raise DecodeTimeoutError(
                    f"{_IMAGE_NAME}: decoding takes longer than {seconds:g} seconds; shrink the image, or save it "
                    "in another format"
                ) from None
            raise ImageError(f"{_IMAGE_NAME}: the decoder stopped at this image; save the image again") from None
        finally:
            timer.cancel()
            timer.join()
        if expired.is_set():  # the answer came in the moment in which the time ended
            self._replace(process)
        return _to_decoded(header, payload)

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until a new process has imported its libraries; raise RuntimeError if it has ended."""
        try:
            _read_message(process.stdout)
        except (EOFError, OSError):
            self._remove()
            raise RuntimeError(f"the process that decodes images ended with status {process.returncode}") from None
        self._is_ready = True

    def _replace(self, process: subprocess.Popen[bytes]) -> int:
        """Remove a process that was killed or has crashed, start the next one, and return the status of the first."""
        self._remove()
        self.start()
        return process.returncode

    def _remove(self) -> None:
        """Forget the process and end it."""
        with self._lock:
            self._process = None
            if self._end is not None:
                self._end()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, wait for its end, and close its pipes."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # data that were not sent yet
                pipe.close()


def _to_decoded(header: dict[str, Any], payload: bytes) -> Decoded:
    """Return the result in a message of the process, or raise the error in it."""
    if "error" in header:
        kinds = {kind.__name__: kind for kind in (ImageTooLargeError, ImageError)}
        raise kinds.get(header["kind"], InputError)(header["error"])
    height, width = header["pixels_hw"]
    size = height * width * 3
    pixels = np.frombuffer(payload, np.uint8, size).reshape(height, width, 3)
    url = payload[size:].decode("ascii") or None
    image_height, image_width = header["image_hw"]
    return Decoded((image_height, image_width), pixels, url, header["seconds"])


def _write_message(pipe: IO[bytes] | None, header: dict[str, Any], payload: bytes) -> None:
    assert pipe is not None
    text = json.dumps(header).encode()
    pipe.write(_SIZES.pack(len(text), len(payload)))
    pipe.write(text)
    pipe.write(payload)
    pipe.flush()


def _read_message(pipe: IO[bytes] | None) -> tuple[dict[str, Any], bytes]:
    """Read (header, bytes) from a pipe; raise EOFError if the other side has ended."""
    assert pipe is not None
    header_size, payload_size = _SIZES.unpack(_read_exactly(pipe, _SIZES.size))
    header: dict[str, Any] = json.loads(_read_exactly(pipe, header_size))
    return header, _read_exactly(pipe, payload_size)


def _read_exactly(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return data


def run_decoder() -> None:
    """Decode images until the server ends: the main function of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches this process too; the server ends it
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    cv2.setNumThreads(1)
    # A damaged image can cause thousands of warnings; its name and its sender are unknown here.
    warnings.simplefilter("ignore")
    logging.disable()
    jobs, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get into the messages
    with contextlib.suppress(EOFError, BrokenPipeError):
        _write_message(replies, {}, b"")
        while True:
            header, content = _read_message(jobs)
            with _cpu_limit(header["seconds"]):
                reply = _run_job(content, DecodeJob(**header["job"]))
            _write_message(replies, *reply)


def _is_out_of_time(status: int) -> bool:
    """Return whether a process with this exit status was ended by the timer of `_cpu_limit`."""
    return sys.platform != "win32" and status == -signal.SIGPROF


@contextlib.contextmanager
def _cpu_limit(seconds: float) -> Generator[None, None, None]:
    """Context manager that ends this process, also inside a library, if it takes too much CPU time."""
    if sys.platform == "win32":
        yield
        return
    signal.setitimer(signal.ITIMER_PROF, seconds)  # the signal's default action ends the process
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _run_job(content: bytes, job: DecodeJob) -> tuple[dict[str, Any], bytes]:
    """Decode an image, and return the header and the bytes of the reply."""
    started = time.perf_counter()
    try:
        image = read_image(content, name=_IMAGE_NAME, max_pixels=job.max_pixels)
        image_hw = image.shape[0], image.shape[1]
        url = to_data_url(image) if job.with_image else ""
        pixels = image if job.input_hw is None else Letterbox.fit(image_hw, job.input_hw).apply(image)
    except InputError as error:
        return {"error": str(error), "kind": type(error).__name__}, b""
    except MemoryError:
        return {"error": f"{_IMAGE_NAME}: needs too much memory", "kind": ImageTooLargeError.__name__}, b""
    seconds = time.perf_counter() - started
    header = {"image_hw": image_hw, "pixels_hw": pixels.shape[:2], "seconds": seconds}
    return header, pixels.tobytes() + url.encode()


def to_data_url(image: ImageArray) -> str:
    """Convert an image [H, W, 3] RGB to a data URL with a JPEG image, scaled down if a side is too long.

    The sides of the JPEG image have at most `_MAX_IMAGE_SIDE` pixels.
    """
    height, width = image.shape[:2]
    scale = min(1, _MAX_IMAGE_SIDE / max(height, width))
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    file = io.BytesIO()
    scaled = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA) if scale < 1 else image
    Image.fromarray(scaled.astype(np.uint8, copy=False)).save(file, "JPEG", quality=92)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
