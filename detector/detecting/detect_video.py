"""Detections in videos, cameras and streams: a drawn video and a line of JSON per frame.

Frames are read, drawn and written one after the other, so that the memory does not grow with the length. Whatever ends
the work short of a kill or a full disk, both files can be read afterwards and hold what was done until then.
"""

import logging
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from detector.arrays import ImageArray
from detector.detecting.track import Tracker
from detector.detections import Detections, coco_results
from detector.errors import InputError
from detector.files import append_line, make_folder, safe_name, write_errors
from detector.graceful_shutdown import GracefulShutdown
from detector.media.urls import without_secrets
from detector.media.video_io import VIDEO_SUFFIXES, VideoReader, VideoWriter, is_camera
from detector.predict.detector import BATCH, Detector

_LOG = logging.getLogger(__name__)

_WEB_SUFFIXES = VIDEO_SUFFIXES | {".m3u8", ".mjpeg", ".mjpg", ".mpd"}
_STREAMS = ("rtmp", "rtmps", "rtp", "rtsp", "rtsps", "srt", "tcp", "udp")


@dataclass(frozen=True, slots=True)
class VideoSummary:
    """What became of one video.

    Attributes:
        frames_read: of the source.
        frames_detected: of these, looked at.
        objects: found in all of them.
        paths: files written: the lines of JSON, and the drawn video if wanted.
    """

    frames_read: int
    frames_detected: int
    objects: int
    paths: tuple[Path, ...]


def is_video(word: str) -> bool:
    """Tell whether a user means one video by `word`: a file, a stream by its address, or a camera by its number.

    A pattern is none, whatever files it stands for; nor is the number of a camera, if there is a file of that name.

    >>> [is_video(word) for word in ("a.MP4", "rtsp://door/live", "https://a.b/c.m3u8?key=1", "a.jpg", "*.mp4")]
    [True, True, True, False, False]
    """
    scheme, is_address, rest = word.lower().partition("://")
    if is_address:
        ending = PurePosixPath(re.split("[?#]", rest)[0]).suffix
        return scheme in _STREAMS or (scheme in ("http", "https") and ending in _WEB_SUFFIXES)
    path = Path(word)
    is_pattern = any(sign in word for sign in "*?[") and not path.exists()
    return is_camera(word) or (path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir() and not is_pattern)


def detect_video(
    model: Detector,
    word: str,
    folder: Path,
    every: int = 1,
    track: bool = False,
    images: bool = True,
    **options: Any,
) -> VideoSummary:
    """Detect in a video, a camera or a stream, and write STEM.jsonl and the drawn STEM.mp4 into a folder.

    The first line of STEM.jsonl is about the video, each other about a frame: its number from 0 on, its time in
    seconds, what was found. A camera or an endless stream ends with Ctrl-C.

    Args:
        model: what finds.
        word: for which `is_video` holds.
        folder: made if it is not there.
        every: look at each Nth frame; the drawn video has only these, and lasts as long.
        track: follow objects from frame to frame.
        images: write the drawn video: MPEG-4 without sound, a row or column less where its sides are odd.
        options: as of `Detector.detect_each`.

    Raises:
        InputError: the source cannot be read or has no frames, the results are there already or cannot be written, or
            tracking is not installed.
        KeyboardInterrupt: Ctrl-C in a file, which ends before its end; what was done until then is kept.
    """
    if every < 1:
        raise InputError(f"every: must be at least 1, got {every}")
    name, stem = without_secrets(word), _stem(word)
    lines_path, video_path = folder / f"{stem}.jsonl", folder / f"{stem}.mp4"
    paths = (lines_path, video_path) if images else (lines_path,)
    for path in paths:
        if path.exists():  # it may be the source itself, or what no camera will show again
            raise InputError(f"{path}: is there already and stays as it is; give another --out, or move it away")
    source = VideoReader(word)
    rate = source.frame_rate / every
    tracker = Tracker(rate) if track else None
    total = math.ceil(source.frame_count / every) if source.frame_count else None
    detected = objects = 0
    with (
        GracefulShutdown() as stop,
        ExitStack() as files,
        tqdm(total=total, desc=stem, unit="frame", disable=None) as bar,
    ):
        for frame in _answers(model, source, source.frames(every, stop), name, options):
            if not detected:
                height, width = frame.image.shape[:2]
                make_folder(folder)
                drawn = files.enter_context(VideoWriter(video_path, (height, width), rate)) if images else None
                about = {"source": name, "fps": source.frame_rate, "width": width, "height": height, "every": every}
                with write_errors(lines_path):
                    lines = files.enter_context(lines_path.open("xb", buffering=0))
                    append_line(lines, about)
            found = tracker.update(frame.found) if tracker else frame.found
            if drawn:
                drawn.add(found.draw_on(frame.image), frame.seconds if source.is_live else None)
            with write_errors(lines_path):
                append_line(lines, _entry(frame, found, model.info.category_ids))
            detected += 1
            objects += len(found)
            bar.update()
    if stop.requested and not (source.is_live and detected):
        if detected:
            _LOG.warning("%s: stopped after %d frames; what was found in them is kept", name, source.frames_read)
        raise KeyboardInterrupt
    if not detected:
        raise InputError(f"{name}: has no frames that can be read")
    if not stop.requested:
        source.complain_of_end(name)
    return VideoSummary(source.frames_read, detected, objects, paths)


@dataclass(frozen=True, slots=True)
class _Frame:
    """A frame and the answer to it.

    Attributes:
        number: in the source, from 0 on.
        seconds: since its beginning.
        image: [H, W, 3].
        found: in it.
    """

    number: int
    seconds: float
    image: ImageArray
    found: Detections


def _answers(
    model: Detector, source: VideoReader, frames: Iterator[ImageArray], name: str, options: Mapping[str, Any]
) -> Iterator[_Frame]:
    """Yield the frames with what was found in them, all of one size."""
    shape: tuple[int, ...] | None = None
    for answer in model.detect_with_images(frames, batch=1 if source.is_live else BATCH, **options):
        if isinstance(answer, InputError):
            raise answer
        image, found = answer
        shape = shape or image.shape
        number, seconds = source.given.popleft()
        if image.shape != shape:
            raise InputError(
                f"{name}: from frame {number} on it has another size; those before it are done: cut it in two there"
            )
        yield _Frame(number, seconds, image, found)


def _stem(word: str) -> str:
    """Return a name for the results; not that of the journal of images, which may lie beside them.

    >>> [_stem(word) for word in ("trips/rome.2.mov", "0", "rtsp://me:secret@door/live/ch1?a=b", "detections.mp4")]
    ['rome.2', 'camera-0', 'ch1', 'detections-video']
    """
    if is_camera(word):
        return f"camera-{word}"
    stem = safe_name(PurePosixPath(without_secrets(word)).stem) if "://" in word else Path(word).stem
    return "detections-video" if stem == "detections" else stem


def _entry(frame: _Frame, found: Detections, category_ids: tuple[int, ...]) -> dict[str, Any]:
    """Return the line about a frame; detections as in the lines about images, and their tracks."""
    rows = []
    for index, row in enumerate(coco_results({0: found}, category_ids)):
        named = {"class": found.class_names[found.class_ids[index]]}
        named |= {key: row[key] for key in ("category_id", "bbox", "score")}
        rows.append(named if found.track_ids is None else named | {"track_id": int(found.track_ids[index])})
    return {"frame": frame.number, "time": round(frame.seconds, 4), "detections": rows}
