"""Ids of images and classes in a dataset, so that results match the ground truth of other programs (pycocotools)."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detector.annotation import Annotation
from detector.data.open_data import open_data
from detector.data.path_guard import real_path
from detector.data.recognize import is_coco_file
from detector.errors import LabelError
from detector.media.sources import Source
from detector.options import ReadOptions
from detector.url_names import with_urls
from detector.wording import few_names, plural

_FOLDERS_SEARCHED = 8
"""Largest number of folders with images beside which a COCO file is searched."""


@dataclass(frozen=True)
class DataIds:
    """Ids in a dataset.

    Attributes:
        data: path of the dataset, as the user gave it.
        image_ids: name of an image, as in `Source.name` → its id in the dataset.
        category_ids: class name → its category id in the dataset.
        sha256: hash of the ids of all images and classes in the dataset. Results with other ids do not fit together.
    """

    data: str
    image_ids: dict[str, int]
    category_ids: dict[str, int]
    sha256: str

    def categories_of(self, class_names: Iterable[str]) -> tuple[int, ...]:
        """Return the category id of each class.

        Raises:
            LabelError: a class is not in the dataset.
        """
        missing = [name for name in class_names if name not in self.category_ids]
        if missing:
            raise LabelError(
                f"{self.data}: the dataset has no class {missing[0]!r}, which the weights detect, so its objects have "
                f"no category id; the classes of the dataset are {few_names(list(self.category_ids), most=20)}. Leave "
                "out --data to number images and classes without the dataset"
            )
        return tuple(self.category_ids[name] for name in class_names)


def read_ids(data: str, sources: Sequence[Source], options: ReadOptions) -> DataIds:
    """Find each image in a dataset by its file, and return the ids of images and classes.

    Args:
        data: the dataset, in any form that `open_data` accepts.
        sources: the images.
        options: only `allow_outside` and `max_pixels` are used.

    Raises:
        LabelError: an image is not in the dataset or has several ids there, or two images have the same id because
            they are in two splits.
        InputError: the dataset cannot be read.
    """
    data_set = open_data(data, allow_outside=options.allow_outside, max_pixels=options.max_pixels)
    splits = [data_set.read(name) for name in data_set.split_names]
    known = _ids_by_path(annotation for split in splits for annotation in split.annotations)
    image_ids: dict[str, int] = {}
    names: dict[int, Path] = {}
    missing = []
    for source in sources:
        own = known.get(_place(real_path(source.name))) or known.get(_place(source.name.resolve()))
        if own is None:
            missing.append(source.name)
            continue
        image_id, *others = sorted(own)
        if others:
            raise LabelError(
                f"{data}: the image {source.name} has several ids ({image_id}, {others[0]}): it is in two splits, or "
                "two entries lead to the same file; pass the label file of one split as --data"
            )
        if (other := names.setdefault(image_id, source.name)) != source.name:
            raise LabelError(
                f"{data}: the images {other} and {source.name} have the same id {image_id} in two splits; detect in "
                "the images of one split at a time"
            )
        image_ids[with_urls(str(source.name))] = image_id
    if missing:
        raise LabelError(
            f"{data}: this dataset has no ids for {len(missing)} of {plural(len(sources), 'image')}, which are not in "
            f"it (the first is {missing[0]}); detect in the images of the dataset only, or leave out --data"
        )
    category_ids = dict(zip(splits[0].class_names, splits[0].category_ids, strict=True))
    # The names of the files, not their paths: another machine may have the data at another place.
    every = sorted((a.image_id, a.image_path.name) for split in splits for a in split.annotations)
    return DataIds(data, image_ids, category_ids, hashlib.sha256(repr((every, category_ids)).encode()).hexdigest())


def _ids_by_path(annotations: Iterable[Annotation]) -> dict[str, set[int]]:
    """Return path → image ids, for the places of the images of a dataset, and for the files to which links lead.

    Several images may be links to one file with equal content, so that only the paths tell them apart.
    """
    known: dict[str, set[int]] = {}
    by_file: dict[str, set[int]] = {}
    for annotation in annotations:
        known.setdefault(_place(real_path(annotation.image_path)), set()).add(annotation.image_id)
        by_file.setdefault(_place(annotation.image_path.resolve()), set()).add(annotation.image_id)
    return by_file | known


def _place(path: Path) -> str:
    """Return a text that is equal for two paths of one file: also for two local copies of one URL."""
    return with_urls(str(path))


def coco_file_beside(sources: Iterable[Source]) -> Path | None:
    """Return a COCO file beside the folder of an image, which probably has other ids than 1, 2, ...; None if none is.

    Searched are the folder of an image, the folder that contains it, and the folder `annotations` there.
    """
    parents = list(dict.fromkeys(source.name.parent for source in sources if source.name.exists()))
    for parent in parents[:_FOLDERS_SEARCHED]:
        for folder in (parent, parent / "..", parent / ".." / "annotations"):
            for path in sorted(folder.glob("*.json")):
                if is_coco_file(path):
                    return path.resolve()
    return None
