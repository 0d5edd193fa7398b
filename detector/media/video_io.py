"""Reads frames from video files, cameras and streams, and writes video files."""

import logging
import math
import re
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from detector.arrays import ImageArray
from detector.errors import FileError
from detector.files import write_errors
from detector.graceful_shutdown import GracefulShutdown
from detector.media.urls import without_secrets
from detector.wording import plural

_LOG = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv"}
    | {".ts", ".vob", ".webm", ".wmv"}
)
"""Suffixes (lower case) of the files that count as videos."""

_COUNTED_SUFFIXES = frozenset({".3gp", ".avi", ".m4v", ".mov", ".mp4"})
"""Suffixes (lower case) of the files that contain their number of frames. For other files, it is computed from the
duration and the mean frame rate, and is wrong if the frame rate varies."""

_DEFAULT_FRAME_RATE = 25.0
"""Frames per second that are assumed if the source reports no frame rate or an implausible frame rate."""

_MAX_FRAME_RATE = 240.0
"""Frames per second; higher values are implausible."""

_STALL_SECONDS = 10.0
"""A stream that sends no frame for so long counts as broken. Opening a stream may take as long."""

_LONGEST_PAUSE = 8.0
"""Longest pause in seconds before a source is opened again. The first pause is a second; each is twice as long."""


class VideoReader:
    """Reads the frames of a video file, a camera or a stream.

    A live source that ends, breaks or sends no frame for `_STALL_SECONDS` is opened again.

    Args:
        source: a path, a stream URL, or a camera number.
        reconnect: largest number of times that a live source is opened again.

    Attributes:
        is_live: True if the source is a camera or an endless stream. The frames of a live source arrive at irregular
            times, and their detections should not be delayed.
        frame_rate: frames per second that the source reports, or 25 if it reports no plausible value.
        frame_count: number of frames that the source reports, which may be an estimate; None if it reports none.
        frames_read: number of frames read so far, including skipped frames.
        seconds_read: time stamp in the file of the last frame read, in seconds; 0 if the file has no time stamps.
        is_broken: True if a live source ended and was opened again too often, or if the connection to a video file on a
            server broke.
        pending: (frame number, time in seconds) of each yielded frame that the caller has not processed yet. The caller
            removes the first entry after processing a frame. The time is the time stamp in the file; for a live source,
            the time since the first frame.

    Raises:
        FileError: the source cannot be opened.
    """

    def __init__(self, source: str, *, reconnect: int = 0) -> None:
        self._source, self._reconnect = source, reconnect
        self._capture = _open(source)
        rate, count = self._capture.get(cv2.CAP_PROP_FPS), self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.frame_rate = float(rate) if 0 < rate <= _MAX_FRAME_RATE else _DEFAULT_FRAME_RATE
        self.frame_count = int(count) if 0 < count < 2**40 else None  # endless streams report arbitrary numbers
        self.is_live = is_camera(source) or ("://" in source and self.frame_count is None)
        self._seconds = count / rate if self.frame_count and rate > 0 else math.inf
        self.frames_read, self.seconds_read = 0, 0.0
        self.is_broken = False
        self.pending: deque[tuple[int, float]] = deque()

    def frames(self, every: int, stop: GracefulShutdown) -> Iterator[ImageArray]:
        """Yield every Nth frame as an upright image [H, W, 3] RGB, until the source ends or a shutdown is requested.

        Args:
            every: N; 1 yields every frame.
            stop: stops the generator before the next frame.
        """
        started, previous = time.monotonic(), -1.0
        try:
            while not stop.requested:
                if not self._capture.grab():
                    if self.is_live and self._open_again(stop):
                        continue
                    break
                number = self.frames_read
                self.frames_read += 1
                seconds = self.seconds_read = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                if number % every:
                    continue
                decoded, frame = self._capture.retrieve()
                if not decoded:
                    break
                if self.is_live:
                    started = started if number else time.monotonic()  # the first frame of a camera takes time
                    seconds = time.monotonic() - started
                elif not previous < seconds < math.inf:  # the file has no time stamps
                    seconds = number / self.frame_rate
                previous = seconds
                self.pending.append((number, seconds))
                yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), dtype=np.uint8)
        finally:
            # Only this generator releases the capture. It runs in another thread, which may be reading a frame while
            # the main thread ends.
            self._capture.release()

    def _open_again(self, stop: GracefulShutdown) -> bool:
        """Open a live source again after a pause, as often as allowed, and return True if it is open.

        Each try is logged. A request to stop ends the pause.
        """
        name = without_secrets(self._source)
        for number in range(1, self._reconnect + 1):
            self._reconnect -= 1
            pause = min(2.0 ** (number - 1), _LONGEST_PAUSE)
            _LOG.warning(
                "%s: the source ended or sent no frame for %g seconds, after %s; it is opened again in %g s (%s left)",
                *(name, _STALL_SECONDS, plural(self.frames_read, "frame"), pause),
                plural(self._reconnect, "more try", "more tries"),
            )
            end = time.monotonic() + pause
            while not stop.requested and time.monotonic() < end:
                time.sleep(0.05)
            if stop.requested:
                return False
            self._capture.release()
            with suppress(FileError):
                self._capture = _open(self._source)
                return True
        return False

    def warn_if_incomplete(self, name: str) -> None:
        """Log a warning and set `is_broken` if a live source ended; log a warning if a file ended early.

        A file ended early if more than two frames, and more than 5% of the reported frame count, were not read. If the
        frame count is only computed from the duration, the time of the last frame counts too. If the file is on a
        server, `is_broken` is set too.

        Args:
            name: name of the source in the message.
        """
        count, read = self.frame_count, self.frames_read
        if self.is_live:
            self.is_broken = True
            _LOG.warning("%s: the source ended after %s; its results are kept", name, plural(read, "frame"))
        elif count and count - read > max(2, count / 20) and not self._reached_end():
            self.is_broken = "://" in self._source
            _LOG.warning(
                "%s: only %d of about %d frames can be read; their results are kept. The file is damaged or "
                "incomplete: copy it again, or repair it (`ffmpeg -i DAMAGED -c copy REPAIRED`)",
                *(name, read, count),
            )

    def _reached_end(self) -> bool:
        """Return whether a file without a number of frames was read to the end of its duration.

        The time stamp is that of the beginning of the last frame.
        """
        if Path(self._source).suffix.lower() in _COUNTED_SUFFIXES:
            return False
        duration = self._seconds
        return duration - self.seconds_read <= max(3 * duration / (self.frame_count or 1), duration / 20)


class VideoWriter:
    """Writes a video file; use it as a context manager.

    Args:
        path: a file that does not exist, with the suffix .mp4. It is removed if no frame was added.
        image_hw: (height, width) of the frames in pixels.
        rate: frames per second.
        name: path of the video in error messages, if `path` is a temporary file.

    Attributes:
        is_complete: after the `with` block, whether the file contains all frames.

    Raises:
        FileError: the file cannot be written, or the installed OpenCV cannot encode MPEG-4 video.
    """

    def __init__(self, path: Path, image_hw: tuple[int, int], rate: float, *, name: Path) -> None:
        self._path, self._name, self._rate, self._frames = path, name, rate, 0
        self.is_complete = False
        with write_errors(name):
            path.touch(exist_ok=False)  # the error of `touch` has a reason; OpenCV reports no reason
        height, width = image_hw
        # OpenCV can encode MPEG-4 part 2 on every system, but not H.264.
        codec = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(path), codec, rate, (width, height))
        if not self._writer.isOpened():
            path.unlink()
            raise FileError(
                f"{name}: the installed OpenCV cannot write MPEG-4 video of {width}x{height} pixels; pass "
                "--no-images to write no video, or install opencv-python-headless with pip"
            )

    def add(self, image: ImageArray, seconds: float | None = None) -> None:
        """Append a frame to the video.

        Args:
            image: [H, W, 3] RGB.
            seconds: time of the frame since the first frame. The frame is repeated until the duration of the video is
                this time. None: the frame is appended once.
        """
        times = 1 if seconds is None else max(1, round(seconds * self._rate) + 1 - self._frames)
        self._frames += times
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        for _ in range(times):
            self._writer.write(bgr)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._writer.release()
        if not self._frames:
            self._path.unlink()
            return
        written = _count_frames(self._path)
        self.is_complete = written == self._frames
        if not self.is_complete and kind is None:  # OpenCV does not report a full disk
            raise FileError(f"{self._name}: {written} of {self._frames} frames were written; is the disk full?")


def is_camera(source: str) -> bool:
    """Return True if `source` is a number of one to four digits and no file or folder has this name."""
    return re.fullmatch("[0-9]{1,4}", source) is not None and not Path(source).exists()


def _open(source: str) -> cv2.VideoCapture:
    """Open a video file, a camera or a stream, and return the OpenCV capture.

    Raises:
        FileError: the source cannot be opened.
    """
    if is_camera(source):
        capture = cv2.VideoCapture(int(source))
        advice = "the camera does not exist or is in use, or the user has no permission; the first camera is 0"
    else:
        is_url = "://" in source
        if not is_url:
            _check_file(source)
        # With another backend, OpenCV may interpret a file name that contains a number as a sequence of images.
        has_ffmpeg = cv2.CAP_FFMPEG in cv2.videoio_registry.getStreamBackends()
        limit = round(1000 * _STALL_SECONDS)
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
        capture = cv2.VideoCapture(
            source, cv2.CAP_FFMPEG if has_ffmpeg else cv2.CAP_ANY, limits if has_ffmpeg and is_url else []
        )
        advice = (
            "check that a player such as VLC can play the URL with the same user name and password"
            if is_url
            else "the file is damaged, incomplete, or in a format that OpenCV cannot read; convert the file with "
            "`ffmpeg -i INPUT NEW.mp4`"
        )
    if not capture.isOpened():
        shown = f"camera {source}" if is_camera(source) else without_secrets(source)
        raise FileError(f"{shown}: cannot be opened: {advice}")
    return capture


def _check_file(path: str) -> None:
    """Raise FileError if the file `path` cannot be read or is empty."""
    try:
        with Path(path).open("rb") as file:
            if not file.read(1):
                raise FileError(f"{path}: the file is empty")
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None


def _count_frames(path: Path) -> int:
    capture = cv2.VideoCapture(str(path))
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT) if capture.isOpened() else 0
    capture.release()
    return int(count)
