"""Converts a dataset of any format that can be read to COCO JSON, YOLO or Pascal VOC."""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from detector.annotation import Annotation
from detector.boxes import area
from detector.converting.image_files import image_folders, with_target_paths, write_images
from detector.converting.read_back import check_result
from detector.data.data_set import DataSet
from detector.data.formats import coco_writer, voc_writer, yolo_writer
from detector.data.label_writer import LabelWriter
from detector.data.ledger import Ledger
from detector.data.open_data import open_data
from detector.data.split import Split, canonical_name, with_absolute_paths
from detector.errors import ConfigError, FileError, LabelError, did_you_mean
from detector.files import make_folder, write_errors, write_json
from detector.graceful_shutdown import sigterm_as_keyboard_interrupt
from detector.options import MAX_PIXELS, ReadOptions
from detector.wording import plural

log = logging.getLogger(__name__)

FormatName = Literal["coco", "yolo", "voc"]
"""A format that can be written."""

ImageMode = Literal["copy", "link", "none"]
"""What happens to the images: copied; hard links to them; or the label files refer to the images of the source."""

_WRITERS: Mapping[str, LabelWriter] = {"coco": coco_writer.WRITER, "yolo": yolo_writer.WRITER, "voc": voc_writer.WRITER}
_SPLITS = ("train", "val", "test")
_LEDGER = "ledger.json"


@dataclass(frozen=True)
class Conversion:
    """What `convert` wrote.

    Attributes:
        folder: the folder of the converted dataset.
        description: format, name and splits of the source, as one line of text.
        format: name of the format that was written, such as "COCO JSON".
        class_names: names of the C classes, in the order of the class ids.
        image_counts: split name → number of images.
        box_counts: split name → number of boxes, including crowd regions.
        ledgers: split name → what happened to each label row of the source.
        notes: what the format cannot hold, and what was renamed, as text.
        needs_allow_outside: whether the dataset can only be used with `allow_outside`, because its images are outside
            of its folder.
    """

    folder: Path
    description: str
    format: str
    class_names: tuple[str, ...]
    image_counts: Mapping[str, int]
    box_counts: Mapping[str, int]
    ledgers: Mapping[str, Ledger]
    notes: tuple[str, ...]
    needs_allow_outside: bool


def convert(
    source: str | Path,
    to: FormatName,
    out: str | Path,
    *,
    images: ImageMode = "copy",
    splits: Sequence[str] | None = None,
    allow_outside: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Conversion:
    """Convert a dataset to another label format, read the result, and compare all its boxes with those of the source.

    Writes the label files, the images, and `ledger.json` with each label row that was clipped or dropped. Nothing in
    the source is changed. If an error occurs, everything that was written is removed.

    Args:
        source: the dataset, in any form that `open_data` accepts.
        to: "coco", "yolo" or "voc".
        out: a folder that does not exist or is empty, outside of the source.
        images: "copy" copies the image files unchanged; "link" creates hard links to them, which needs no space, but
            only works on the same drive; "none" writes only label files, with the absolute paths of the images, and is
            only possible with `to="coco"`.
        splits: names of the splits to convert; None: all.
        allow_outside: whether label files, lists and links of the source may lead to files outside of its folder.
        max_pixels: largest number of pixels of an image. Larger images count as missing or unreadable.

    Raises:
        InputError: the source cannot be read, the format cannot hold it, `out` is not empty or is inside of the source,
            a file cannot be written, or the result differs from the source.
    """
    writer = _check_arguments(to, images)
    folder = Path(out)
    data_set = open_data(source, allow_outside=allow_outside, max_pixels=max_pixels)
    _check_empty(folder)
    names = _choose_splits(data_set, splits)
    sources = [replace(data_set.read(name), name=new_name) for name, new_name in names.items()]
    _check_source(sources, images, writer)
    _check_outside(folder, Path(source), sources)
    # A class or an image that cannot be written is an error before the first file is written.
    wanted = sources if writer.keeps_crowd else [_without_crowd(split) for split in sources]
    targets = wanted if images == "none" else with_target_paths(wanted, folder.resolve(), writer)
    if images == "none":
        targets = [with_absolute_paths(split) for split in targets]
    writer.check(targets)
    renamed = _renamed(wanted, targets) if images != "none" else {}
    notes = (*_split_notes(data_set, names), *_notes(sources, writer, renamed))
    for note in notes:
        log.warning("%s", note)
    with _removed_on_error(folder):
        if images != "none":
            for split, target in zip(wanted, targets, strict=True):
                write_images(split, target, images)
        with write_errors(folder):
            writer.write(folder.resolve(), targets)
        _write_ledger(folder, source, sources, notes, renamed)
        check_result(folder, targets, writer, ReadOptions(allow_outside=images == "none", max_pixels=max_pixels))
    return Conversion(
        folder,
        data_set.description,
        writer.name,
        sources[0].class_names,
        {split.name: len(split.annotations) for split in targets},
        {split.name: sum(len(a.boxes) for a in split.annotations) for split in targets},
        {split.name: split.ledger for split in sources},
        notes,
        images == "none",
    )


def _check_arguments(to: str, images: str) -> LabelWriter:
    """Return the writer of the format; raise ConfigError if the format or the image mode is unknown."""
    if to not in _WRITERS:
        raise ConfigError(f"unknown format {to!r}; {did_you_mean(str(to), _WRITERS)}")
    if images not in get_args(ImageMode):
        raise ConfigError(f"unknown value of images {images!r}; {did_you_mean(str(images), get_args(ImageMode))}")
    writer = _WRITERS[to]
    if images == "none" and not writer.accepts_any_path:
        raise ConfigError(
            f"--images none is only possible with --to coco: in {writer.name}, the labels of an image are found from "
            "the place of the image, so the images must be in the new folder; use --images link, which needs no space"
        )
    return writer


def _choose_splits(data_set: DataSet, splits: Sequence[str] | None) -> dict[str, str]:
    """Return the name of each split to convert → the name to write.

    All formats and tools know train, val and test. A single split with another name is written as train.

    Raises:
        LabelError: there is no such split, or several splits have other names.
    """
    available = data_set.split_names
    chosen = list(dict.fromkeys(map(canonical_name, splits or available)))
    for name in chosen:
        if name not in available:
            raise LabelError(f"{data_set.description}: no split '{name}'; {did_you_mean(name, available)}")
    if splits is None and {"train", "val", "trainval"} <= set(chosen):
        chosen.remove("trainval")  # the same images as train and val
    other = [name for name in chosen if name not in _SPLITS]
    if not other:
        return {name: name for name in chosen}
    if len(other) > 1 or "train" in chosen:
        raise LabelError(
            f"{data_set.description}: only train, val and test can be written; the split '{other[0]}' would need "
            f"another name: convert it to a folder of its own with --split {other[0]}"
        )
    return {name: "train" if name in other else name for name in chosen}


def _check_empty(folder: Path) -> None:
    """Raise FileError if the folder exists and is not an empty folder."""
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FileError(f"{folder}: already exists and is not an empty folder; choose another --out")
    except OSError as error:
        raise FileError(f"{folder}: cannot be used as output folder ({error.strerror or error})") from None


def _check_source(sources: Sequence[Split], images: str, writer: LabelWriter) -> None:
    """Raise ConfigError if the images are rendered and should not be copied."""
    if images != "copy" and not all(split.from_files for split in sources):
        raise ConfigError(f"--images {images}: the images of this dataset are rendered, not files; use --images copy")


def _check_outside(folder: Path, source: Path, sources: Sequence[Split]) -> None:
    """Raise FileError if the output folder is in the source folder or in a folder with images of the source.

    The output would become a part of the source.
    """
    forbidden = image_folders(sources)
    if all(split.from_files for split in sources) and source.is_dir():
        forbidden.add(source.resolve())
    for place in sorted(forbidden):
        if folder.resolve().is_relative_to(place):
            raise FileError(
                f"{folder}: is inside of {place}, a folder of the source, which must not change; choose an --out "
                f"beside it, such as {place.with_name(place.name + '-converted')}"
            )


def _without_crowd(split: Split) -> Split:
    """Return the split without crowd regions."""
    return replace(split, annotations=tuple(map(_without_crowd_regions, split.annotations)))


def _without_crowd_regions(a: Annotation) -> Annotation:
    """Return the annotation without crowd regions."""
    keep = ~a.is_crowd
    boxes, class_ids = a.boxes[keep], a.class_ids[keep]
    return replace(a, boxes=boxes, class_ids=class_ids, is_crowd=a.is_crowd[keep], areas=a.areas[keep])


def _renamed(wanted: Sequence[Split], targets: Sequence[Split]) -> dict[str, str]:
    """Return the path of each image whose file name changes → its new file name."""
    return {
        str(old.image_path): new.image_path.name
        for split, target in zip(wanted, targets, strict=True)
        for old, new in zip(split.annotations, target.annotations, strict=True)
        if split.from_files and old.image_path.name != new.image_path.name
    }


def _split_notes(data_set: DataSet, names: Mapping[str, str]) -> Iterator[str]:
    """Yield one line of text for each split that is not converted or gets another name."""
    for name in data_set.split_names:
        if name not in names:
            yield f"the split {name} is not converted"
        elif names[name] != name:
            yield f"the split {name} is written as {names[name]}"


def _notes(sources: Sequence[Split], writer: LabelWriter, renamed: Mapping[str, str]) -> Iterator[str]:
    """Yield one line of text for each kind of information that the format cannot hold, and for renamed images."""
    annotations = [annotation for split in sources for annotation in split.annotations]
    crowd = sum(int(a.is_crowd.sum()) for a in annotations)
    if crowd and not writer.keeps_crowd:
        yield (
            f"{writer.name} has no crowd or ignore regions: {crowd} of them are LEFT OUT, and become background. "
            "A detection there will count as wrong. COCO JSON and VOC keep them"
        )
    partial = sum(a.labeled_classes is not None and not a.labeled_classes.all() for a in annotations)
    if partial and not writer.keeps_partial_labels:
        yield (
            f"{writer.name} has no partial labels: in {plural(partial, 'image')}, classes that are not labeled BECOME "
            "BACKGROUND. A detection of them will count as wrong. COCO JSON keeps them apart"
        )
    masks = sum(int((~np.isclose(a.areas, area(a.boxes), rtol=0.01)).sum()) for a in annotations)
    if masks and not writer.keeps_areas:
        yield (
            f"{writer.name} has no areas of masks: for {masks} objects, the area of the box is used to tell small, "
            "medium and large objects apart. COCO JSON keeps them"
        )
    if renamed:
        first, name = next(iter(renamed.items()))
        count = "1 image is" if len(renamed) == 1 else f"{len(renamed)} images are"
        yield f"{count} renamed; {_LEDGER} lists them. The first: {first} → {name}"


@contextmanager
def _removed_on_error(folder: Path) -> Iterator[None]:
    """Context manager that creates an empty folder, and removes what was written in it if an error occurs."""
    existing = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    make_folder(folder)
    try:
        with sigterm_as_keyboard_interrupt():
            yield
    except BaseException:
        place = folder.resolve()
        with suppress(OSError):  # what prevented writing may also prevent removing
            for child in folder.iterdir():
                shutil.rmtree(child) if child.is_dir() else child.unlink()
            while place != existing.resolve():
                place.rmdir()
                place = place.parent
        raise


def _write_ledger(
    folder: Path, source: str | Path, sources: Sequence[Split], notes: Sequence[str], renamed: Mapping[str, str]
) -> None:
    """Write what happened to each label row of the source to `ledger.json`."""
    splits = {split.name: split.ledger.to_json() for split in sources}
    values = {"source": str(source), "notes": list(notes), "renamed_images": dict(renamed), "splits": splits}
    write_json(folder / _LEDGER, values)
