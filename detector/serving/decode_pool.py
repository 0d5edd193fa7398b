"""Decodes uploaded images in processes: quick images in one group of processes, slow ones in another.

An image that takes long therefore delays only other slow images. `lanes.py` says which images are quick.
"""

import asyncio
import os
import queue
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from detector.serving.decode_process import Decoded, DecodeJob, DecodeProcess, DecodeTimeoutError

_MAX_PROCESSES = 4
"""Largest number of processes for quick images."""


class LaneFullError(Exception):
    """All places of a lane are taken; the text says by what."""


class Lane:
    """A group of decoding processes, and a limit on the number of images that wait for them or for a model.

    Args:
        processes: number of processes.
        places: largest number of images that may be in the lane at the same time.
        name: what the images are called in messages.
    """

    def __init__(self, processes: int, places: int, name: str) -> None:
        self._processes = [DecodeProcess() for _ in range(processes)]
        self._idle: queue.LifoQueue[DecodeProcess] = queue.LifoQueue()
        for process in reversed(self._processes):
            self._idle.put(process)
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="decode")
        self._places, self._taken, self._name = places, 0, name

    @contextmanager
    def place(self) -> Generator[None, None, None]:
        """Take a place in the lane while the context is active. Raises LaneFullError."""
        if self._taken >= self._places:
            raise LaneFullError(f"{self._places} {self._name} are already being processed")
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    async def decode(self, content: bytes, job: DecodeJob, seconds: float) -> Decoded:
        """Decode an image; parameters and errors as in `DecodeProcess.decode`."""

        def decode() -> Decoded:
            process = self._idle.get()
            try:
                return process.decode(content, job, seconds)
            finally:
                self._idle.put(process)

        return await asyncio.get_running_loop().run_in_executor(self._threads, decode)

    def start(self) -> None:
        """Start the processes now; otherwise each starts with its first image."""
        for process in self._processes:
            process.start()

    def stop(self) -> None:
        """End the processes, also in the middle of an image."""
        for process in self._processes:
            process.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)


class DecodePool:
    """The lane for quick images and the lane for slow images.

    Args:
        concurrency: largest number of quick images that are processed or queued at the same time.
        seconds: limit of CPU time for decoding an image.
        on_timeout: called for each image whose decoding was stopped.

    Attributes:
        quick: the lane for images that `lanes.is_quick` accepts.
        slow: the lane for other images. It has one process, so that slow images never take all CPU cores.
    """

    def __init__(self, concurrency: int, seconds: float, on_timeout: Callable[[], None]) -> None:
        processes = max(1, min(_MAX_PROCESSES, (os.cpu_count() or 1) - 1))
        self.quick = Lane(processes, concurrency, "images")
        self.slow = Lane(1, max(1, concurrency // 8), "large or unusual images, or images with tiles or TTA,")
        self._seconds, self._on_timeout = seconds, on_timeout

    async def decode(self, lane: Lane, content: bytes, job: DecodeJob) -> Decoded:
        """Decode an image in one of the lanes. Raises InputError if the image cannot be read in time."""
        try:
            return await lane.decode(content, job, self._seconds)
        except DecodeTimeoutError:
            self._on_timeout()
            raise

    def start(self) -> None:
        """Start the processes."""
        self.quick.start()
        self.slow.start()

    def stop(self) -> None:
        """End the processes."""
        self.quick.stop()
        self.slow.stop()
