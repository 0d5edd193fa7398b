"""Batches of images that a second thread reads while the network runs on the batch before.

The thread is a daemon thread. A source may block for ever, such as a queue or a camera. Neither the end of a loop nor
the end of the program waits for it.
"""

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from detector.arrays import ImageArray
from detector.errors import ConfigError, InputError
from detector.letterbox import Letterbox
from detector.predict.tiling import View

Letterboxed = tuple[Letterbox, ImageArray]
"""A letterbox, and the letterboxed image [input height, input width, 3]."""

_BATCH_PIXELS = 2**25
"""Number of pixels (100 MB) at which a batch is complete even with few images: large images need much memory."""

_POLL_SECONDS = 0.1
"""A blocking source is waited for in steps of this length. Between two steps, Ctrl-C works on every system."""

_GOODBYE_SECONDS = 0.2
"""How long the end of a loop waits for the thread. A thread that is reading an image ends in this time."""

_Source = TypeVar("_Source")


@dataclass(frozen=True, eq=False)
class Entry:
    """A decoded image [H, W, 3], its views, and its letterboxed first view, which is the whole image."""

    image: ImageArray
    views: list[View]
    letterboxed: Letterboxed


@dataclass(frozen=True)
class _End:
    """The end of a source, and the exception that ended it, if any."""

    error: BaseException | None


def read_batches(
    images: Iterable[_Source],
    prepare: Callable[[_Source], Entry],
    *,
    batch_size: int,
    full: bool,
    stop: Callable[[], bool] = lambda: False,
) -> Generator[list[Entry | InputError], None, None]:
    """Read images in another thread, and yield them in batches of at most `batch_size`, fewer if the images are large.

    While the caller processes a batch, the thread reads at most one more batch.

    Args:
        images: the source; it may block, and it may be endless.
        prepare: decodes an image. If it raises an InputError, the error takes the place of the image.
        batch_size: largest number of images per batch.
        full: True: wait until a batch is complete, so that the batches do not depend on the speed of the source.
            False: yield the images that are there, and wait only if there is none.
        stop: called while the source blocks; True ends the iteration.

    Raises:
        ConfigError: this process was forked after the start of the iteration.
        Exception: an exception of the source. The images that were read before it are yielded first.
    """
    reader = _Reader(images, prepare, batch_size)
    batch: list[Entry | InputError] = []
    pixels = count = 0
    try:
        while not isinstance(entry := reader.take(None if batch and not full else stop), _End):
            if entry is not None:
                count += 1
                batch.append(entry)
                pixels += _pixels(entry)
            # In full batches, `count` is the number of the image, so that a batch that ends early because of its
            # pixels does not shift the next batches.
            is_full = count % batch_size == 0 if full else len(batch) == batch_size
            if entry is None or is_full or pixels >= _BATCH_PIXELS:
                yield batch
                batch, pixels = [], 0
        if batch:
            yield batch
        if entry.error is not None:
            raise entry.error
    finally:
        reader.close()


class _Reader(Generic[_Source]):
    """A daemon thread that reads images ahead: at most `batch_size` images or `_BATCH_PIXELS` pixels.

    The two threads share only `SimpleQueue`s, which have no lock that a thread could hold when the program ends.
    """

    def __init__(self, images: Iterable[_Source], prepare: Callable[[_Source], Entry], batch_size: int) -> None:
        self._images, self._prepare, self._batch_size = images, prepare, batch_size
        self._read: SimpleQueue[Entry | InputError | _End] = SimpleQueue()
        self._taken: SimpleQueue[int | None] = SimpleQueue()
        self._closed = False
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name="detector image reader", daemon=True)
        self._thread.start()
        _open_readers.add(self)

    def take(self, stop: Callable[[], bool] | None) -> Entry | InputError | _End | None:
        """Return the next image, error or end of the source.

        Args:
            stop: called while the source blocks; True: the source counts as ended. None: do not wait, but return None
                if there is no image.

        Raises:
            ConfigError: this process was forked after the start of the iteration.
        """
        if os.getpid() != self._process:
            raise ConfigError(
                "this process was forked in the middle of an iteration over the results of several images, and the "
                "thread that reads the images does not exist here: start the iteration in this process"
            )
        while True:
            try:
                entry = self._read.get(timeout=_POLL_SECONDS) if stop is not None else self._read.get_nowait()
            except Empty:
                if stop is None:
                    return None
                if stop():
                    return _End(None)
            else:
                if not isinstance(entry, _End):
                    self._taken.put(_pixels(entry))
                return entry

    def close(self) -> None:
        """Tell the thread to end, and wait a moment for it; a thread that waits for the source ends with the source."""
        self._closed = True
        self._taken.put(None)
        # join() raises RuntimeError in the thread itself (which may run the garbage collector) and at interpreter exit.
        with suppress(RuntimeError):
            self._thread.join(_GOODBYE_SECONDS)

    def _run(self) -> None:
        error: BaseException | None = None
        ahead = pixels = 0
        try:
            for image in self._images:
                if self._closed:
                    return
                try:
                    entry: Entry | InputError = self._prepare(image)
                except InputError as problem:
                    entry = problem
                self._read.put(entry)
                ahead, pixels = ahead + 1, pixels + _pixels(entry)
                del image, entry  # an image must not stay in memory while the thread waits
                while ahead >= self._batch_size or pixels >= _BATCH_PIXELS:
                    if (taken := self._taken.get()) is None:
                        return
                    ahead, pixels = ahead - 1, pixels - taken
        except BaseException as problem:  # also SystemExit of the source: it is raised where the results are used
            error = problem
        finally:
            del self._images  # closes a generator that nobody else uses, and so a camera
            self._read.put(_End(error))


def _pixels(entry: Entry | InputError) -> int:
    """Return the number of pixels of the image of an entry; 0 for an error."""
    return 0 if isinstance(entry, InputError) else entry.image.shape[0] * entry.image.shape[1]


_open_readers: "weakref.WeakSet[_Reader[Any]]" = weakref.WeakSet()


@atexit.register
def _close_readers() -> None:
    """End the threads before the interpreter does: it would kill them in the middle of C++ code, which may crash."""
    for reader in list(_open_readers):
        reader.close()
