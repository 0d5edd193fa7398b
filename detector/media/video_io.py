"""Frames from files, cameras and streams, and into files."""

import logging
import math
import re
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from detector.arrays import ImageArray
from detector.errors import InputError
from detector.files import write_errors
from detector.graceful_shutdown import GracefulShutdown
from detector.media.urls import without_secrets

_LOG = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv"}
    | {".ts", ".vob", ".webm", ".wmv"}
)
"""File endings (lower case) that count as videos."""

_FRAME_RATE = 25.0
"""Frames per second, where the source says nothing that can be true."""

_MOST_FRAME_RATE = 240.0


class VideoReader:
    """What gives frames.

    Args:
        word: a file, an address, or the number of a camera.

    Attributes:
        is_live: a camera or an endless stream: answers must not come late, and frames come when they come.
        frame_rate: frames per second, as the source says or by guess.
        frame_count: as the file says, which may itself be a guess; None if it does not.
        frames_read: until now, with those that were left out.
        given: number and time in seconds of frames that were given; who has the answer to one takes it away. The time
            is that in the file; of a live source that on the clock, since the first frame.

    Raises:
        InputError: it cannot be opened.
    """

    def __init__(self, word: str) -> None:
        self._capture = _open(word)
        rate, count = self._capture.get(cv2.CAP_PROP_FPS), self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.frame_rate = float(rate) if 0 < rate <= _MOST_FRAME_RATE else _FRAME_RATE
        self.frame_count = int(count) if 0 < count < 2**40 else None  # of a stream it may be any number
        self.is_live = is_camera(word) or ("://" in word and self.frame_count is None)
        self.frames_read = 0
        self.given: deque[tuple[int, float]] = deque()

    def frames(self, every: int, stop: GracefulShutdown) -> Iterator[ImageArray]:
        """Yield each Nth frame [H, W, 3] RGB, upright, until the source ends or somebody wants to stop."""
        started, before = time.monotonic(), -1.0
        try:
            while not stop.requested and self._capture.grab():
                number = self.frames_read
                self.frames_read += 1
                if number % every:
                    continue
                got, frame = self._capture.retrieve()
                if not got:
                    break
                seconds = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                if self.is_live:
                    started = started if number else time.monotonic()  # a camera takes a while to begin
                    seconds = time.monotonic() - started
                elif not before < seconds < math.inf:  # the file has no times
                    seconds = number / self.frame_rate
                before = seconds
                self.given.append((number, seconds))
                yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), dtype=np.uint8)
        finally:
            self._capture.release()  # nowhere else: this runs in another thread, which must not be reading then

    def complain_of_end(self, name: str) -> None:
        """Say so if a live source ended, or a file clearly before its end."""
        count, read = self.frame_count, self.frames_read
        if self.is_live:
            _LOG.warning("%s: gave no more frames after %d", name, read)
        elif count and count - read > max(2, count / 20):
            _LOG.warning(
                "%s: ended after %d frames of about %d; they are kept. It is damaged or was cut off there: "
                "copy it once more, or mend it (`ffmpeg -i DAMAGED -c copy MENDED`)",
                *(name, read, count),
            )


class VideoWriter:
    """A video file that gets its name when all frames that were added are in it.

    Args:
        path: ends in .mp4.
        image_hw: of the frames.
        rate: frames per second.

    Raises:
        InputError: it cannot be written.
    """

    def __init__(self, path: Path, image_hw: tuple[int, int], rate: float) -> None:
        self._path, self._rate, self._frames = path, rate, 0
        self._unfinished = path.with_name(f"{path.stem}.unfinished.mp4")
        with write_errors(path):
            self._unfinished.touch()  # OpenCV would not say why it cannot
        height, width = image_hw
        # MPEG-4 part 2 is what OpenCV can write on every system; H.264 is not.
        codec = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(self._unfinished), codec, rate, (width, height))
        if not self._writer.isOpened():
            self._unfinished.unlink()
            raise InputError(
                f"{path}: this OpenCV cannot write MPEG-4 video of {width}x{height} pixels: leave it out with "
                "--no-images, or install opencv-python-headless with pip"
            )

    def add(self, image: ImageArray, seconds: float | None = None) -> None:
        """Add a frame [H, W, 3] RGB; as often as it takes to be at `seconds`, if given."""
        times = 1 if seconds is None else max(1, round(seconds * self._rate) + 1 - self._frames)
        self._frames += times
        turned = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        for _ in range(times):
            self._writer.write(turned)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._writer.release()
        if not self._frames:
            self._unfinished.unlink()
            return
        written = _frames_in(self._unfinished)
        if written == self._frames:
            with write_errors(self._path):
                self._unfinished.replace(self._path)
        elif kind is None:  # OpenCV keeps quiet about a full disk
            raise InputError(f"{self._unfinished}: holds {written} frames of {self._frames}; is the disk full?")


def is_camera(word: str) -> bool:
    """Tell whether a word is the number of a camera, and no file."""
    return re.fullmatch("[0-9]{1,4}", word) is not None and not Path(word).exists()


def _open(word: str) -> cv2.VideoCapture:
    """Open what a user named.

    Raises:
        InputError: it cannot be opened.
    """
    if is_camera(word):
        capture = cv2.VideoCapture(int(word))
        advice = "there is no such camera, another program uses it, or this user may not; the first one is 0"
    else:
        is_address = "://" in word
        if not is_address:
            _check_file(word)
        # Without this, a name with a number in it would be taken for one of a row of images.
        can_ffmpeg = cv2.CAP_FFMPEG in cv2.videoio_registry.getStreamBackends()
        capture = cv2.VideoCapture(word, cv2.CAP_FFMPEG if can_ffmpeg else cv2.CAP_ANY)
        advice = (
            "does the address work in a player such as VLC, with name and password?"
            if is_address
            else "it is damaged, not whole, or no video that OpenCV can read; try `ffmpeg -i IT NEW.mp4`"
        )
    if not capture.isOpened():
        what = f"camera {word}" if is_camera(word) else without_secrets(word)
        raise InputError(f"{what}: does not open: {advice}")
    return capture


def _check_file(word: str) -> None:
    try:
        with Path(word).open("rb") as file:
            if not file.read(1):
                raise InputError(f"{word}: is empty")
    except OSError as error:
        raise InputError(f"{word}: cannot be read ({error.strerror})") from None


def _frames_in(path: Path) -> int:
    capture = cv2.VideoCapture(str(path))
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT) if capture.isOpened() else 0
    capture.release()
    return int(count)
