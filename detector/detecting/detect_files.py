"""`detect_images` and `detect_videos` run a detector on many images or videos and write the detections to files."""

import hashlib
import sys
from collections.abc import Container, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from detector.detecting.detect_video import VideoSummary, detect_video, is_video
from detector.detecting.formats import OutputFormat
from detector.detecting.writer import DetectionWriter
from detector.errors import InputError
from detector.graph.openvino_ir import export_files, is_ir
from detector.media.sources import Source, find_sources
from detector.media.urls import check_allowed
from detector.options import DetectOptions, ReadOptions
from detector.predict.detector import Detector


@dataclass(frozen=True)
class DetectSummary:
    """Result of one run on images.

    Attributes:
        given: number of images the user named.
        before: number of these that an earlier run had completed.
        done: number of images completed by this run.
        failed: number of images that cannot be read.
        objects: number of objects that this run detected.
    """

    given: int
    before: int
    done: int
    failed: int
    objects: int


def find_inputs(specs: Sequence[str], options: ReadOptions) -> tuple[list[Source], list[str]]:
    """Return the images that `specs` name, and the videos, cameras and streams.

    Video files that match a glob pattern count as videos.

    Args:
        specs: what to read, as given on the command line; see `find_sources`.
        options: what may be read.

    Raises:
        InputError: as `find_sources`; or the URL of a video where URLs are not allowed.
    """
    videos = dict.fromkeys(spec for spec in specs if is_video(spec))
    for spec in videos:
        check_allowed(spec, options.allow_url)
    remaining = [spec for spec in specs if spec not in videos]
    images = []
    for source in find_sources(remaining, options) if remaining or not videos else []:
        if is_video(name := str(source.name)):
            videos[name] = None
        else:
            images.append(source)
    return images, list(videos)


def detect_images(
    detector: Detector,
    sources: Sequence[Source],
    folder: Path,
    options: DetectOptions,
    *,
    weights: str | Path,
    formats: Set[OutputFormat] = frozenset({"images"}),
    skip_done: bool = False,
) -> DetectSummary:
    """Detect objects in images and write the results image by image; report and skip images that cannot be read.

    Args:
        detector: runs on the images.
        sources: the images.
        folder: output folder.
        options: how predictions become detections.
        weights: name or path that the detector was loaded from.
        formats: which files to write besides detections.json; see `OutputFormat`.
        skip_done: whether to resume the run in the folder.

    Raises:
        InputError: the folder cannot be used, or a result cannot be written; see `DetectionWriter`.
    """
    loaded = {
        "weights": _fingerprint(weights),
        "runtime": detector.runtime.name,
        "input_hw": detector.input_hw,
    }
    done = failed = objects = 0
    with DetectionWriter(
        folder,
        detector.info.category_ids,
        sources=(source.name for source in sources),
        formats=formats,
        settings=loaded | asdict(options),
        skip_done=skip_done,
    ) as writer:
        remaining = remaining_batches(sources, writer.done, options.batch_size)
        results = detector.detect_with_images((source.read for source in remaining), options)
        bar = tqdm(remaining, initial=len(sources) - len(remaining), total=len(sources), unit="image", disable=None)
        for source, result in zip(bar, results, strict=True):
            if str(source.name) in writer.done:
                continue
            if isinstance(result, InputError):
                failed += 1
                tqdm.write(f"skipped: {result}", file=sys.stderr)
                continue
            image, found = result
            writer.add(source.name, image, found)
            done += 1
            objects += len(found)
        writer.close()
    return DetectSummary(len(sources), len(writer.done), done, failed, objects)


def detect_videos(
    detector: Detector,
    names: Sequence[str],
    folder: Path,
    options: DetectOptions,
    *,
    every: int = 1,
    track: bool = False,
    save_video: bool = True,
) -> list[VideoSummary | InputError]:
    """Detect objects in one video after the other; report an error and continue with the next video.

    Args:
        detector: runs on the frames.
        names: paths, stream URLs or camera numbers: texts for which `is_video` is true.
        folder: output folder.
        options: how predictions become detections.
        every: run on every Nth frame.
        track: whether to track objects from frame to frame.
        save_video: whether to write the annotated video.

    Returns:
        For each video its summary, or the error because of which it was skipped.

    Raises:
        KeyboardInterrupt: as `detect_video`.
    """
    summaries: list[VideoSummary | InputError] = []
    for name in names:
        try:
            summary = detect_video(detector, name, folder, options, every=every, track=track, save_video=save_video)
            summaries.append(summary)
        except InputError as error:
            summaries.append(error)
            tqdm.write(f"skipped: {error}", file=sys.stderr)
    return summaries


def remaining_batches(sources: Sequence[Source], done: Container[str], batch_size: int) -> list[Source]:
    """Return the sources of every batch that contains an image that is not done.

    A batch is processed as a whole, because the last digits of a prediction may depend on the other images of its
    batch: so a resumed run gives exactly the results of a run that was never stopped.

    Args:
        sources: all images, in order.
        done: names of the images that are done.
        batch_size: number of images per batch.
    """
    batches = (sources[start : start + batch_size] for start in range(0, len(sources), batch_size))
    return [source for batch in batches if any(str(image.name) not in done for image in batch) for source in batch]


def _fingerprint(weights: str | Path) -> str:
    """Return a text that identifies weights: the SHA-256 of their files; the name of shipped weights."""
    path = Path(weights)
    files = export_files(path) if is_ir(path) else [path] if path.is_file() else []
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest() if files else str(weights)
