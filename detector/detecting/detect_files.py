"""`detect_images` and `detect_videos` run a detector on many images or videos and write the detections to files."""

import sys
from collections.abc import Container, Iterable, Sequence, Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from detector.arrays import ImageArray
from detector.detecting.data_ids import DataIds
from detector.detecting.detect_video import VideoSummary, detect_video, is_video, result_names, stem_of
from detector.detecting.formats import OutputFormat
from detector.detecting.shards import ShardInputs, check_other_shards
from detector.detecting.writer import DetectionWriter, journal_settings
from detector.detections import Detections
from detector.errors import FileError, InputError
from detector.files import file_sha256, free_name
from detector.media.sources import Source, find_sources
from detector.media.urls import check_allowed
from detector.media.video_io import is_camera
from detector.mirror import read_ahead
from detector.options import DEFAULT_DRAWING, DetectOptions, DrawOptions, ReadOptions
from detector.output_folder import OutputFolder, as_output_folder
from detector.predict.detector import Detector
from detector.progress import progress_bar
from detector.remote_folder import upload
from detector.runtime.origin import weights_files
from detector.shipped_weights import find_shipped
from detector.url_names import with_urls

if TYPE_CHECKING:
    from detector.detecting.ray_engine import RayCluster

_UPLOAD_SECONDS = 60.0
"""Seconds between two uploads of the results to a URL."""


@dataclass(frozen=True)
class DetectSummary:
    """Counts of one run of `detect_images`.

    Attributes:
        given: number of images that were passed.
        before: number of these images that an earlier run had completed; they were skipped.
        done: number of images that this run completed.
        failed: number of images that cannot be read.
        objects: number of objects detected in the images that this run completed.
    """

    given: int
    before: int
    done: int
    failed: int
    objects: int


def find_inputs(specs: Sequence[str], options: ReadOptions) -> tuple[list[Source], list[str]]:
    """List the inputs that `specs` name, and separate images from videos; no image or video is opened.

    Args:
        specs: arguments of the command line: each is a source of images as for `find_sources`, a video file, a camera
            number, or the URL of a video or stream. Video files in a folder, or that match a glob pattern, are videos.
        options: what may be read, as for `find_sources`.

    Returns:
        The images, and the names of the videos, cameras and streams, for which `is_video` is True.

    Raises:
        InputError: as for `find_sources`; a spec is the http:// or https:// URL of a video and URLs are not
            allowed; or a video file does not exist.
    """
    videos = dict.fromkeys(spec for spec in specs if is_video(spec))
    for spec in videos:
        check_allowed(spec, options.allow_url)
        if "://" not in spec and not is_camera(spec) and not Path(spec).exists():
            raise FileError(f"{spec}: no such video file")
    remaining = [spec for spec in specs if spec not in videos]
    images = []
    every = replace(options, videos=True, packed=True)
    for source in find_sources(remaining, every) if remaining or not videos else []:
        if source.container is None and is_video(name := str(source.name)):
            videos[name] = None
        else:
            images.append(source)
    return images, list(videos)


def detect_images(
    detector: Detector,
    sources: Sequence[Source],
    folder: Path | OutputFolder,
    options: DetectOptions,
    *,
    weights: str | Path | Sequence[str | Path],
    formats: Set[OutputFormat] = frozenset({"images"}),
    skip_done: bool = False,
    ids: DataIds | None = None,
    drawing: DrawOptions = DEFAULT_DRAWING,
    shard: ShardInputs | None = None,
    cluster: "RayCluster | None" = None,
) -> DetectSummary:
    """Detect objects in images, write the detections to a folder image by image, and return the counts.

    An image that cannot be read is skipped, and the reason is printed.

    Args:
        detector: detector with loaded weights.
        sources: the images.
        folder: output folder; created if it does not exist. It holds the results of one run: when the first result
            exists, the unchanged files of an earlier run are removed.
        options: thresholds, NMS, tiling and batch size.
        weights: name or path of the weights that the detector was loaded from; several for an ensemble. The journal
            stores a hash of the weights files, so that a run is resumed only with the same weights.
        formats: files to write in addition to detections.json; see `OutputFormat`.
        skip_done: True: resume the earlier run in the folder and skip the images that it completed and that have not
            changed since. False: replace the results of an earlier run.
        ids: ids of images and classes in a dataset. None: images are numbered 1, 2, ..., and the classes have the ids
            of the training data.
        drawing: what is drawn on the annotated images, and how.
        shard: the shard with these sources; None: they are no shard. `folder` is as `shard_folder` returns it.
        cluster: the Ray cluster that detects; None: this process. A cluster needs a shard, because the images are added
            in any order, and it writes no annotated images and no crops.

    Raises:
        ConfigError: another shard beside the folder was started with other images, weights or options.
        InputError: as for `DetectionWriter`, a class in `options` is unknown, or a result cannot be written.
    """
    resolved = detector.resolve_options(options)  # before the writer replaces the results of an earlier run
    settings = _run_settings(
        detector, _fingerprint(weights), options, ids, drawing if "images" in formats else None, shard
    )
    if shard is not None:
        check_other_shards(
            folder.path if isinstance(folder, OutputFolder) else folder, journal_settings(settings, formats)
        )
    category_ids = detector.info.category_ids if ids is None else ids.categories_of(detector.class_names)
    done = failed = objects = 0
    with DetectionWriter(
        folder,
        category_ids,
        sources=(source.name for source in sources),
        formats=formats,
        settings=settings,
        skip_done=skip_done,
        image_ids=None if ids is None else ids.image_ids,
        class_names=detector.class_names,
        drawing=drawing,
        origins={str(source.name): source.origin for source in sources if source.origin},
        containers={str(source.name): source.container for source in sources if source.container is not None},
        shard=shard,
    ) as writer:
        remaining = remaining_batches(sources, writer.done, options.batch_size)
        detect = _detect_here if cluster is None else cluster.detect
        results = detect(detector, remaining, resolved)
        bar = progress_bar(results, initial=len(sources) - len(remaining), total=len(sources), unit="image")
        for source, result in bar:
            if with_urls(str(source.name)) in writer.done:
                continue
            if isinstance(result, InputError):
                failed += 1
                writer.add_failed(source, result)
                tqdm.write(f"skipped: {result}", file=sys.stderr)
                continue
            image, found = result
            writer.add(source.name, image, found)
            upload(writer.folder, every=_UPLOAD_SECONDS)
            done += 1
            objects += len(found)
        writer.close()
    return DetectSummary(len(sources), len(writer.done), done, failed, objects)


def _run_settings(
    detector: Detector,
    weights: str | list[str],
    options: DetectOptions,
    ids: DataIds | None,
    drawing: DrawOptions | None,
    shard: ShardInputs | None,
) -> dict[str, object]:
    """Return everything on which the results depend besides the images, for the journal: name → value.

    Args:
        detector: detector with loaded weights.
        weights: hash or name of the weights, as `_fingerprint` returns it.
        options: thresholds, NMS, tiling and batch size, as the user gave them.
        ids: ids of images and classes in a dataset; None: there is none.
        drawing: how annotated images are drawn; None: none are written.
        shard: the shard; None: the images are no shard.
    """
    return {
        "weights": weights,
        "runtime": detector.runtime_name,
        "input_hw": detector.input_hw,
        "data": None if ids is None else ids.data,
        "ids_sha256": None if ids is None else ids.sha256,
        "drawing": None if drawing is None else asdict(drawing),
        **asdict(options),
        **({} if shard is None else shard.settings),
    }


def _detect_here(
    detector: Detector, sources: Sequence[Source], options: DetectOptions
) -> Iterable[tuple[Source, tuple[ImageArray, Detections] | InputError]]:
    """Detect in this process, as `RayCluster.detect` does on a cluster; the next images are read meanwhile."""
    images = (source.read for source in read_ahead(sources, lambda source: source.name))
    return zip(sources, detector.detect_with_images(images, options), strict=True)


def claim_videos(names: Iterable[str], folder: OutputFolder, *, save_video: bool = True) -> None:
    """Raise FileError if a result of a video would replace a file that this package did not write, or that was changed.

    Called before the work: the results of images may take hours.

    Args:
        names: paths, stream URLs or camera numbers, for which `is_video` is True.
        folder: output folder.
        save_video: whether annotated videos are written.
    """
    for stem in _stems(names):
        folder.claim(result_names(stem, save_video))


def detect_videos(
    detector: Detector,
    names: Sequence[str],
    folder: Path | OutputFolder,
    options: DetectOptions,
    *,
    every: int = 1,
    track: bool = False,
    save_video: bool = True,
    reconnect: int = 0,
    drawing: DrawOptions = DEFAULT_DRAWING,
) -> list[VideoSummary | InputError]:
    """Detect objects in each video, write the results to a folder, and return one summary or error per video.

    A video that cannot be processed is skipped, and the reason is printed. If two videos have the same name, the result
    files of the second get a number: clip-2.jsonl.

    Args:
        detector: detector with loaded weights.
        names: paths, stream URLs or camera numbers, for which `is_video` is True.
        folder: output folder; created if it does not exist.
        options: thresholds, NMS, tiling and batch size.
        every: N: detect objects in every Nth frame.
        track: whether to track objects from frame to frame.
        save_video: whether to write the annotated video.
        reconnect: largest number of times that a camera or a stream is opened again.
        drawing: what is drawn on the frames of the annotated video, and how.

    Returns:
        For each video, in the order of `names`: the summary, or the error that caused the video to be skipped.

    Raises:
        ConfigError: a class in `options` is unknown.
        KeyboardInterrupt: as for `detect_video`.
    """
    options = detector.resolve_options(options)
    summaries: list[VideoSummary | InputError] = []
    with as_output_folder(folder, "writing detections") as output:
        for name, stem in zip(names, _stems(names), strict=True):
            try:
                summary = detect_video(
                    detector, name, output, options,
                    every=every, track=track, save_video=save_video, reconnect=reconnect, stem=stem,
                    drawing=drawing,
                )  # fmt: skip
                summaries.append(summary)
            except InputError as error:
                summaries.append(error)
                tqdm.write(f"skipped: {error}", file=sys.stderr)
    return summaries


def _stems(names: Iterable[str]) -> list[str]:
    """Return a different stem for the result files of each video, also on a file system that ignores case.

    >>> _stems(["a/clip.mp4", "b/Clip.mov", "c/clip.mp4", "trip.mp4"])
    ['clip', 'Clip-2', 'clip-3', 'trip']
    """
    taken: dict[str, int] = {}
    return [free_name(stem_of(name), taken) for name in names]


def remaining_batches(sources: Sequence[Source], done: Container[str], batch_size: int) -> list[Source]:
    """Return all images of the batches that contain at least one image that is not done.

    Complete batches are processed, because the last digits of a prediction may depend on the other images of the batch.
    So a resumed run gives exactly the same results as a run without interruption.

    Args:
        sources: all images; each `batch_size` consecutive images are a batch.
        done: names of the images that are done.
        batch_size: number of images per batch.
    """
    batches = (sources[start : start + batch_size] for start in range(0, len(sources), batch_size))
    remaining = (batch for batch in batches if any(with_urls(str(image.name)) not in done for image in batch))
    return [source for batch in remaining for source in batch]


def _fingerprint(weights: str | Path | Sequence[str | Path]) -> str | list[str]:
    """Return the SHA-256 hash of the weights files, or the name if `weights` is the name of shipped weights.

    For several weights, return a list.
    """
    if not isinstance(weights, str | Path):
        return [str(_fingerprint(own)) for own in weights]
    if find_shipped(weights) is not None:
        return str(weights)
    files = weights_files(weights)
    return file_sha256(*files) if all(file.is_file() for file in files) else str(weights)
