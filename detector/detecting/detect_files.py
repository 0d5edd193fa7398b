"""The verb detect: names of images and videos in, files of what was found out."""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from detector.detecting.detect_video import VideoSummary, detect_video, is_video
from detector.detecting.writer import DetectionWriter
from detector.errors import InputError
from detector.graph.openvino_ir import export_files, is_ir
from detector.media.sources import Source, find_sources, not_done
from detector.media.urls import check_allowed
from detector.predict.detector import BATCH, Detector


@dataclass(frozen=True)
class DetectSummary:
    """What became of the images of one command.

    Attributes:
        given: images that were named.
        before: of these, done by an earlier command.
        done: by this one.
        failed: could not be read.
        objects: found by this command.
    """

    given: int
    before: int
    done: int
    failed: int
    objects: int


def find_inputs(words: Sequence[str], recursive: bool, allow_url: bool) -> tuple[list[Source], list[str]]:
    """Return the images that `words` name, and the videos, cameras and streams; those among a glob's files too.

    Raises:
        InputError: as of `find_sources`; or a video at an address where none is allowed.
    """
    videos = dict.fromkeys(word for word in words if is_video(word))
    for word in videos:
        check_allowed(word, allow_url)
    rest = [word for word in words if word not in videos]
    images = []
    for source in find_sources(rest, recursive, allow_url) if rest or not videos else []:
        if is_video(name := str(source.name)):
            videos[name] = None
        else:
            images.append(source)
    return images, list(videos)


def detect_images(
    model: Detector,
    weights: str | Path,
    sources: Sequence[Source],
    folder: Path,
    options: Mapping[str, Any],
    **saving: bool,
) -> DetectSummary:
    """Detect in images and write what was found, each as it comes; one that cannot be read is said and passed over.

    Args:
        model: what finds.
        weights: name or path it was loaded from.
        sources: the images.
        folder: for the results.
        options: of `Detector.detect_with_images`.
        saving: of `DetectionWriter`.

    Raises:
        InputError: the folder cannot be used, or a result cannot be written.
    """
    made_by = {"weights": _fingerprint(weights), "runtime": model.runtime.name, "input_hw": [*model.input_hw]}
    names = (source.name for source in sources)
    done = failed = objects = 0
    with DetectionWriter(folder, model.info.category_ids, names, settings={**made_by, **options}, **saving) as writer:
        todo = not_done(sources, writer.done, BATCH)
        answers = model.detect_with_images((source.read for source in todo), **options)
        bar = tqdm(todo, initial=len(sources) - len(todo), total=len(sources), unit="image", disable=None)
        for source, answer in zip(bar, answers, strict=True):
            if str(source.name) in writer.done:
                continue
            if isinstance(answer, InputError):
                failed += 1
                tqdm.write(f"skipped: {answer}", file=sys.stderr)
                continue
            image, found = answer
            done += 1
            objects += len(found)
            writer.add(source.name, image, found)
        writer.close()
    return DetectSummary(len(sources), len(writer.done), done, failed, objects)


def detect_videos(
    model: Detector, words: Sequence[str], folder: Path, options: Mapping[str, Any], **saving: Any
) -> list[VideoSummary | InputError]:
    """Detect in one video after the other; return what became of each, and say what is wrong with it.

    Args:
        model: what finds.
        words: for which `is_video` holds.
        folder: for the results.
        options: of `Detector.detect_with_images`.
        saving: of `detect_video`.

    Raises:
        KeyboardInterrupt: as of `detect_video`.
    """
    summaries: list[VideoSummary | InputError] = []
    for word in words:
        try:
            summaries.append(detect_video(model, word, folder, **saving, **options))
        except InputError as error:
            summaries.append(error)
            tqdm.write(f"skipped: {error}", file=sys.stderr)
    return summaries


def _fingerprint(weights: str | Path) -> str:
    """Return what tells weights apart: the digest of a file or of an export's files, the name of shipped ones."""
    path = Path(weights)
    files = export_files(path) if is_ir(path) else [path] if path.is_file() else []
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest() if files else str(weights)
