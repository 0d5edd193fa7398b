"""Unlabeled images of a training run: find them, and leave out those that must not be used."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from detector.annotation import Annotation
from detector.arrays import ImageArray
from detector.config import Config
from detector.data.ledger import Ledger
from detector.data.near_duplicates import find_near_duplicates, is_uniform, thumbnail_of
from detector.data.open_data import open_data
from detector.data.split import Split, evenly_spaced, read_file
from detector.data.training_splits import TrainingSplits, choose_training_split
from detector.errors import FileError, InputError
from detector.evaluating.evaluate import LetterboxedImage
from detector.files import local_path
from detector.image_hashes import hash_files
from detector.images import find_images, read_image_size
from detector.loader.dataset import DetectionDataset
from detector.media.sources import find_sources
from detector.mirror import read_threads
from detector.wording import few_names, plural

log = logging.getLogger(__name__)

NAME = "unlabeled images"
"""Name of the unlabeled images in messages and in ledger.json."""

_MAX_IMAGES = 5000
"""Largest number of unlabeled images of a run, so that reading them does not take most of a short run."""


@dataclass(frozen=True, eq=False)
class UnlabeledImages:
    """The N unlabeled images of a run.

    Attributes:
        dataset: the images, with annotations that have no boxes.
        hashes: hash of the file of each image. No two images have the same.
    """

    dataset: DetectionDataset
    hashes: tuple[bytes, ...]


def read_unlabeled(
    spec: str,
    splits: TrainingSplits,
    val_images: Sequence[LetterboxedImage],
    input_hw: tuple[int, int],
    config: Config,
) -> UnlabeledImages:
    """Read the unlabeled images of a run; log their number, and which images are left out for which reason.

    Left out are: copies of other unlabeled images; images of the training split; images of val, and images that look
    the same as an image of val; images that cannot be read.

    Args:
        spec: a folder of images, a .txt file that lists images, or a dataset, whose labels are not used.
        splits: the splits of the run.
        val_images: images of the val split.
        input_hw: full input size (height, width).
        config: settings of the run.

    Raises:
        InputError: `spec` cannot be read, or no image is left.
    """
    paths = find_unlabeled(spec, config)
    if len(paths) > _MAX_IMAGES:
        log.info("%s: %d of %d are used, evenly spaced", NAME, _MAX_IMAGES, len(paths))
    paths = evenly_spaced(paths, _MAX_IMAGES)
    hashes = hash_files(paths)
    used = _without_known(paths, hashes, splits)
    if not used:
        raise FileError(f"{spec}: none of the {plural(len(paths), 'unlabeled image')} can be used; see the log")
    split = _split_of(used, splits.train, config)
    dataset = DetectionDataset(split, input_hw, config)
    _log_left_out("cannot be read", dataset.ledger.missing)
    copies = _like_val(dataset, val_images)
    _log_left_out("look the same as an image of val", [dataset.annotations[i].image_path for i in copies])
    dataset = dataset.select([index for index in range(len(dataset)) if index not in copies])
    if not len(dataset):
        raise FileError(f"{spec}: none of the {plural(len(paths), 'unlabeled image')} can be used; see the log")
    log.info("%s: %d of %d are used", NAME, len(dataset), len(paths))
    return UnlabeledImages(dataset, tuple(hashes[a.image_path] for a in dataset.annotations))


def find_unlabeled(spec: str, config: Config) -> list[Path]:
    """Return the paths of the images that a folder, a list or a dataset contains; no image is opened.

    Images directly in a folder are used even if the folder is a dataset. Of a dataset with splits, only the training
    split is used.

    Raises:
        InputError: the path does not exist, or is none of these, or has no images that are files.
    """
    path = local_path(spec)
    if path.is_dir() and (images := find_images(path)):
        return images
    not_a_list = None
    if path.suffix.lower() == ".txt":
        try:
            return [source.name for source in find_sources([spec], config.read_options)]
        except InputError as error:  # it may be a label file
            not_a_list = error
    try:
        source = open_data(spec, allow_outside=config.allow_outside, max_pixels=config.max_pixels)
        split = source.read(choose_training_split(source, None))
    except InputError as error:
        if not_a_list is not None:
            raise not_a_list from None
        if path.is_dir():
            raise FileError(f"{spec}: no images directly in this folder, and no dataset: {error}") from None
        raise
    if not split.from_files:
        raise FileError(f"{spec}: the images of this dataset are not files; expected a folder of images")
    log.info("%s: the images of split '%s' of %s; its labels are not used", NAME, split.name, source.description)
    return [annotation.image_path for annotation in split.annotations]


def _without_known(paths: Iterable[Path], hashes: Mapping[Path, bytes], splits: TrainingSplits) -> list[Path]:
    """Return the images that can be read, and are not copies of each other or of an image of the training run."""
    own = splits.file_hashes
    trained, evaluated = (
        {own[a.image_path] for a in split.annotations if a.image_path in own} if split else set()
        for split in (splits.train, splits.val)
    )
    used: dict[bytes, Path] = {}
    left_out: dict[str, list[Path]] = {}
    for path in paths:
        if (digest := hashes.get(path)) is None:
            reason = "cannot be read"
        elif digest in evaluated:
            reason = "are images of val"
        elif digest in trained:
            reason = "are images of the training split"
        elif digest in used:
            reason = "are copies of another one"
        else:
            used[digest] = path
            continue
        left_out.setdefault(reason, []).append(path)
    for reason, images in left_out.items():
        _log_left_out(reason, images)
    return list(used.values())


def _log_left_out(reason: str, images: Sequence[Path]) -> None:
    """Log that images are left out, with the first of them."""
    if images:
        log.info("%s: %d left out that %s: %s", NAME, len(images), reason, few_names(list(map(str, images))))


def _split_of(paths: Sequence[Path], train: Split, config: Config) -> Split:
    """Return a split of images without boxes; images whose size cannot be read are in its ledger.

    Args:
        paths: paths of the images.
        train: the training split. The new split has its classes, and larger image ids.
        config: settings of the run.

    Raises:
        FileError: no image can be read.
    """

    def size_of(path: Path) -> tuple[int, int] | None:
        try:
            return read_image_size(path, max_pixels=config.max_pixels)
        except InputError:
            return None

    with ThreadPoolExecutor(max_workers=read_threads()) as pool:
        sizes = dict(zip(paths, pool.map(size_of, paths), strict=True))
    first_id = 1 + max((annotation.image_id for annotation in train.annotations), default=0)
    readable = [(path, hw) for path, hw in sizes.items() if hw is not None]
    if not readable:
        raise FileError(f"{NAME}: none of {plural(len(paths), 'image')} can be read, such as {paths[0]}")
    return Split(
        NAME,
        train.class_names,
        train.category_ids,
        tuple(_background(first_id + index, path, hw) for index, (path, hw) in enumerate(readable)),
        Ledger(background=len(readable), missing=tuple(path for path, hw in sizes.items() if hw is None)),
        partial(read_file, max_pixels=config.max_pixels),
        max_pixels=config.max_pixels,
    )


def _background(image_id: int, path: Path, image_hw: tuple[int, int]) -> Annotation:
    """Return an annotation without boxes."""
    boxes, areas = np.zeros((0, 4), dtype=np.float32), np.zeros(0, dtype=np.float32)
    class_ids, is_crowd = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.bool_)
    return Annotation(image_id, path, image_hw, boxes, class_ids, is_crowd, areas)


def _like_val(dataset: DetectionDataset, val_images: Sequence[LetterboxedImage]) -> set[int]:
    """Return the indices of the images that look the same as an image of val, also flipped."""
    if not val_images:
        return set()
    thumbnails = np.stack([thumbnail_of(dataset.sample(index).image) for index in range(len(dataset))])
    references = np.stack([thumbnail_of(_content(image)) for image in val_images])
    # Images of one color everywhere would all look the same.
    varied = np.flatnonzero(~is_uniform(thumbnails))
    references = references[~is_uniform(references)]
    if not len(varied) or not len(references):
        return set()
    found = find_near_duplicates(thumbnails[varied], references)
    return {int(varied[index]) for index in (*found.exact, *found.near)}


def _content(image: LetterboxedImage) -> ImageArray:
    """Return a letterboxed image without its padding."""
    (height, width), (left, top) = image.letterbox.scaled_hw, image.letterbox.offset_xy
    return image.pixels[top : top + height, left : left + width]
