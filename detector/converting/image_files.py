"""Names the images of a converted dataset, and copies, links or renders them."""

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from detector.annotation import Annotation
from detector.data.label_writer import LabelWriter
from detector.data.split import Split
from detector.errors import FileError
from detector.files import free_name, safe_name, write_errors
from detector.images import write_image
from detector.mirror import is_at_url, open_file, read_ahead


def with_target_paths(splits: Sequence[Split], folder: Path, writer: LabelWriter) -> list[Split]:
    """Return the splits with the path of each image in the converted dataset.

    An image keeps its file name, but not its subfolder. The name is changed if it is not valid on every operating
    system, or if an image in the same folder has the same name without its suffix, upper and lower case being the same:
    label files of YOLO and VOC have the name of the image, without its suffix. The k-th image of this name gets "-k".

    Args:
        splits: the splits that were read.
        folder: folder of the converted dataset.
        writer: the format.
    """
    taken: dict[Path, dict[str, int]] = {}
    return [
        replace(
            split,
            annotations=tuple(
                replace(annotation, image_path=target / _target_name(annotation, split, taken.setdefault(target, {})))
                for annotation in split.annotations
            ),
        )
        for split in splits
        for target in (writer.image_folder(folder, split.name),)
    ]


def _target_name(annotation: Annotation, split: Split, taken: dict[str, int]) -> str:
    """Return the file name of an image in the converted dataset, and add its stem to `taken`."""
    stem = safe_name(annotation.image_path.stem)
    suffix = safe_name("x" + annotation.image_path.suffix)[1:] if split.from_files else ".png"
    return free_name(stem, taken) + suffix


def write_images(source: Split, target: Split, mode: str) -> None:
    """Copy, link or render the images of a split.

    Args:
        source: the split that was read.
        target: the same split, with the path of each image in the converted dataset.
        mode: "copy": copy the files unchanged, or write a PNG if the images are rendered; "link": create hard links.

    Raises:
        InputError: an image cannot be read, written or linked.
    """
    for folder in {annotation.image_path.parent for annotation in target.annotations}:
        with write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
    pairs = zip(source.annotations, target.annotations, strict=True)
    for old, new in read_ahead(pairs, lambda pair: pair[0].image_path):
        if not source.from_files:
            with write_errors(new.image_path):
                write_image(new.image_path, source.read_image(old))
        elif mode == "link":
            _link(old.image_path, new.image_path)
        else:
            _copy(old.image_path, new.image_path)


def _copy(source: Path, target: Path) -> None:
    """Copy the bytes of a file."""
    try:
        with open_file(source) as content, target.open("wb") as copy:
            shutil.copyfileobj(content, copy)
    except OSError as error:
        raise FileError(f"{source}: cannot be copied to {target} ({error.strerror or error})") from None


def _link(source: Path, target: Path) -> None:
    """Create a hard link to a file; if the file is a symbolic link, to the file it leads to."""
    if is_at_url(source):
        raise FileError(f"{source}: no hard link to a file at a URL can be created; use --images copy")
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        raise FileError(
            f"{source}: no hard link to it can be created at {target} ({error.strerror or error}); hard links need a "
            "folder on the same drive, and a file system with hard links: choose another --out, or use --images copy"
        ) from None


def image_folders(splits: Iterable[Split]) -> set[Path]:
    """Return the folders that contain image files of the splits, with links resolved."""
    parents = {a.image_path.parent for split in splits if split.from_files for a in split.annotations}
    return {parent.resolve() for parent in parents}
