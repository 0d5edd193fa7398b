"""Detects objects in videos, cameras and streams, and writes an annotated video and one line of JSON per frame.

Each frame is written before the next batch is read, so memory use does not depend on the length of the video. If a run
is interrupted, both files are readable and contain all frames that were processed. If the process is killed or the disk
is full, the video may not be readable.
"""

import io
import logging
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

from detector.arrays import ImageArray
from detector.detecting.formats import detection_rows
from detector.detecting.track import Tracker
from detector.detections import Detections
from detector.errors import ConfigError, FileError, InputError
from detector.files import append_line, name_key, safe_name, write_errors
from detector.graceful_shutdown import GracefulShutdown
from detector.media.urls import without_secrets
from detector.media.video_io import VIDEO_SUFFIXES, VideoReader, VideoWriter, is_camera
from detector.options import DEFAULT_DRAWING, DetectOptions, DrawOptions
from detector.output_folder import OutputFolder, as_output_folder
from detector.predict.detector import Detector
from detector.progress import progress_bar
from detector.wording import plural

_LOG = logging.getLogger(__name__)

_HTTP_SUFFIXES = VIDEO_SUFFIXES | {".m3u8", ".mjpeg", ".mjpg", ".mpd"}
"""An http:// or https:// URL whose path has one of these suffixes (lower case) counts as a video or stream."""

_STREAM_SCHEMES = ("rtmp", "rtmps", "rtp", "rtsp", "rtsps", "srt", "tcp", "udp")


@dataclass(frozen=True, slots=True)
class VideoSummary:
    """Counts and output files of one video.

    Attributes:
        frames_read: number of frames read from the source.
        frames_detected: number of these frames that the detector ran on.
        objects: number of objects detected in all frames together.
        paths: paths of the written files: STEM.jsonl and, if requested, the annotated video.
        is_broken: True if a camera or a stream ended, and could not be opened again.
    """

    frames_read: int
    frames_detected: int
    objects: int
    paths: tuple[Path, ...]
    is_broken: bool = False


def is_video(spec: str) -> bool:
    """Return True if `spec` names one video: a video file, the URL of a video or stream, or a camera number.

    A glob pattern is not a video, even if video files match it. A number is not a camera if a file has this name.

    >>> [is_video(spec) for spec in ("a.MP4", "rtsp://door/live", "https://a.b/c.m3u8?key=1", "a.jpg", "*.mp4")]
    [True, True, True, False, False]
    """
    scheme, is_url, rest = spec.lower().partition("://")
    if is_url:
        suffix = PurePosixPath(re.split("[?#]", rest)[0]).suffix
        return scheme in _STREAM_SCHEMES or (scheme in ("http", "https") and suffix in _HTTP_SUFFIXES)
    path = Path(spec)
    is_pattern = any(character in spec for character in "*?[") and not path.exists()
    return is_camera(spec) or (path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir() and not is_pattern)


def detect_video(
    detector: Detector,
    source: str,
    folder: Path | OutputFolder,
    options: DetectOptions,
    *,
    every: int = 1,
    track: bool = False,
    save_video: bool = True,
    reconnect: int = 0,
    stem: str | None = None,
    drawing: DrawOptions = DEFAULT_DRAWING,
) -> VideoSummary:
    """Detect objects in one video, write STEM.jsonl and the annotated STEM.mp4 to a folder, and return a summary.

    The first line of STEM.jsonl describes the video. Each other line describes a frame: frame number from 0, time in
    seconds, detections. Ctrl-C ends a camera or an endless stream.

    Args:
        detector: detector with loaded weights.
        source: a path, a stream URL or a camera number, for which `is_video` is True.
        folder: output folder; created if it does not exist.
        options: thresholds, NMS, tiling and batch size. For a camera or an endless stream, the batch size is always 1,
            so that the detections are not delayed.
        every: N: detect objects in every Nth frame. The annotated video contains only these frames, and has the same
            duration as the original video.
        track: whether to track objects from frame to frame (ByteTrack).
        save_video: whether to write the annotated video. It is MPEG-4 without sound. If the height or width is odd, it
            does not contain the last row or column.
        reconnect: largest number of times that a camera or a stream is opened again after it ended or sent no frame for
            ten seconds. Each time is reported.
        stem: STEM; None: the name of the source.
        drawing: what is drawn on the frames, and how.

    Raises:
        ConfigError: `every` is below 1.
        FileError: the source cannot be read or has no frames, or an output file cannot be written, or exists already
            and is not an unchanged result of an earlier run.
        MissingPackageError: `track` is True and the package for tracking is not installed.
        KeyboardInterrupt: Ctrl-C before the end of a video file. The results of the processed frames are kept.
    """
    if every < 1:
        raise ConfigError(f"every: expected at least 1, got {every}")
    with as_output_folder(folder, "writing detections") as output:
        names = result_names(stem or stem_of(source), save_video)
        _check_not_replaced(source, output, names)
        files = _ResultFiles(output, names, drawing)
        return _detect_video(detector, source, files, options, every=every, track=track, reconnect=reconnect)


def _detect_video(
    detector: Detector,
    source: str,
    files: "_ResultFiles",
    options: DetectOptions,
    *,
    every: int,
    track: bool,
    reconnect: int,
) -> VideoSummary:
    """Detect objects in one video, write them to `files`, and return a summary; other arguments: as `detect_video`."""
    name, stem = without_secrets(source), files.paths[0].stem
    reader = VideoReader(source, reconnect=reconnect)
    if reader.is_live:
        options = replace(options, batch_size=1)
    rate = reader.frame_rate / every
    tracker = Tracker(rate) if track else None
    total = math.ceil(reader.frame_count / every) if reader.frame_count else None
    detected = objects = 0
    with GracefulShutdown() as stop, files, progress_bar(total=total, description=stem, unit="frame") as bar:
        for frame in _detect_frames(detector, reader, reader.frames(every, stop), name, options, stop):
            if not detected:
                height, width = frame.image.shape[:2]
                about = {"source": name, "fps": reader.frame_rate, "width": width, "height": height, "every": every}
                files.open(about, (height, width), rate)
            found = tracker.update(frame.found) if tracker else frame.found
            files.add(replace(frame, found=found), detector.info.category_ids, reader.is_live)
            detected += 1
            objects += len(found)
            bar.update()
    if stop.requested and not (reader.is_live and detected):
        if detected:
            _LOG.warning("%s: stopped after %s; the results are kept", name, plural(reader.frames_read, "frame"))
        raise KeyboardInterrupt
    if not detected:
        raise FileError(f"{name}: the video contains no frames that can be read")
    if not stop.requested:
        reader.warn_if_incomplete(name)
    return VideoSummary(reader.frames_read, detected, objects, files.paths, reader.is_broken)


def _check_not_replaced(source: str, folder: OutputFolder, names: Sequence[str]) -> None:
    """Raise FileError if the source is a file that this run would replace or remove.

    Raises:
        FileError: the source has the name of its result, or is the result of an earlier run in the output folder.
    """
    path = Path(source).resolve()
    if not path.is_file():
        return
    if any(path == (folder.path / name).resolve() for name in folder.names):
        raise FileError(f"{source}: this video is a result of an earlier run in the output folder; pass another --out")
    if any(path == (folder.path / name).resolve() for name in names):
        raise FileError(f"{source}: this video would be replaced by its own result; pass another --out")


@dataclass(frozen=True, slots=True)
class _Frame:
    """One frame of a video with its detections.

    Attributes:
        number: number of the frame in the source, counted from 0.
        seconds: time of the frame since the beginning of the source, in seconds.
        image: [H, W, 3] RGB.
        found: detections of the frame.
    """

    number: int
    seconds: float
    image: ImageArray
    found: Detections


def _detect_frames(
    detector: Detector,
    reader: VideoReader,
    frames: Iterator[ImageArray],
    name: str,
    options: DetectOptions,
    stop: GracefulShutdown,
) -> Iterator[_Frame]:
    """Detect objects in each frame, and yield the frames with their detections.

    Args:
        detector: detector with loaded weights.
        reader: reader of the video; has the number and time of each frame.
        frames: frames of `reader`.
        name: name of the video in error messages.
        options: thresholds, NMS, tiling and batch size.
        stop: ends the frames, also while the source sends none.

    Raises:
        FileError: the size of a frame differs from the size of the first frame.
    """
    first_shape: tuple[int, ...] | None = None
    for result in detector.detect_with_images(frames, options, stop=lambda: stop.requested):
        if isinstance(result, InputError):
            raise result
        image, found = result
        first_shape = first_shape or image.shape
        number, seconds = reader.pending.popleft()
        if image.shape != first_shape:
            raise FileError(
                f"{name}: the frame size changes at frame {number}; the results of the earlier frames are kept; "
                "split the video at this frame"
            )
        yield _Frame(number, seconds, image, found)


class _ResultFiles:
    """The output files of one video: STEM.jsonl and, if requested, the annotated STEM.mp4.

    Use it as a context manager, which completes the files at the end of the `with` block.

    Args:
        folder: output folder.
        names: names of the files, from `result_names`.
        drawing: what is drawn on the frames, and how.

    Attributes:
        paths: paths of the files.

    Raises:
        FileError: another program wrote one of the files, or it was changed; it may be the source, or a recording that
            cannot be repeated.
    """

    def __init__(self, folder: OutputFolder, names: Sequence[str], drawing: DrawOptions) -> None:
        self._drawing = drawing
        self._folder, self._lines_name = folder, names[0]
        self._video_name = names[1] if names[1:] else None
        self.paths = tuple(folder.path / name for name in names)
        folder.claim(names)
        self._stack = ExitStack()
        self._video: VideoWriter | None = None
        self._lines: io.FileIO | None = None

    def open(self, about: dict[str, Any], image_hw: tuple[int, int], rate: float) -> None:
        """Create the files, and write the first line of STEM.jsonl; before that, remove the files of an earlier run.

        Args:
            about: values of the first line of STEM.jsonl, which describe the video.
            image_hw: (height, width) of the frames in pixels.
            rate: frames per second of the annotated video.

        Raises:
            FileError: a file cannot be written.
        """
        self._folder.remove_earlier()
        if self._video_name:
            path = self._folder.path / self._video_name
            part = self._folder.part_of(self._video_name, path.suffix)
            self._stack.callback(self._complete_video, part)
            self._video = self._stack.enter_context(VideoWriter(part, image_hw, rate, name=path))
        with self._folder.beginning(self._lines_name) as part, part.open("xb", buffering=0) as file:
            append_line(file, about)
        self._stack.callback(self._folder.seal, self._lines_name)
        with write_errors(self.paths[0]):
            self._lines = self._stack.enter_context(self.paths[0].open("ab", buffering=0))

    def _complete_video(self, part: Path) -> None:
        """Give the annotated video its name if it contains all frames, also after an error; else remove it."""
        assert self._video_name is not None
        if self._video and self._video.is_complete:
            self._folder.complete(self._video_name, part)
        else:
            self._folder.abandon(self._video_name, part)

    def add(self, frame: _Frame, category_ids: tuple[int, ...], is_live: bool) -> None:
        """Append one frame to each file; call `open` before.

        Args:
            frame: a frame with its detections.
            category_ids: category id of each class.
            is_live: True if frames arrive at irregular times. The annotated video then shows each frame until the next
                frame arrives.

        Raises:
            FileError: a file cannot be written.
        """
        assert self._lines is not None
        if self._video:
            self._video.add(frame.found.draw_on(frame.image, self._drawing), frame.seconds if is_live else None)
        rows = detection_rows(frame.found, category_ids)
        with write_errors(self.paths[0]):
            append_line(self._lines, {"frame": frame.number, "time": round(frame.seconds, 4), "detections": rows})

    def __enter__(self) -> "_ResultFiles":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def result_names(stem: str, save_video: bool) -> tuple[str, ...]:
    """Return the names of the output files of a video: STEM.jsonl and, if `save_video`, STEM.mp4."""
    return (f"{stem}.jsonl", f"{stem}.mp4") if save_video else (f"{stem}.jsonl",)


def stem_of(source: str) -> str:
    """Return the file name of the output files of a video, without suffix.

    The name is never `detections`, because detections.jsonl is the journal of the images in the same folder.

    >>> sources = ("trips/rome.2.mov", "0", "rtsp://me:secret@door/live/ch1?a=b", "detections.mp4")
    >>> [stem_of(source) for source in sources]
    ['rome.2', 'camera-0', 'ch1', 'detections-video']
    """
    if is_camera(source):
        return f"camera-{source}"
    stem = safe_name(PurePosixPath(without_secrets(source)).stem) if "://" in source else Path(source).stem
    return f"{stem}-video" if name_key(stem) == "detections" else stem
