"""Lists the images of a split of a YOLO dataset, and finds their label files."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from detector.data.file_index import FileIndex
from detector.data.formats.yolo_data import SplitFiles, YoloData, is_image_name, label_folder, label_places
from detector.data.formats.yolo_layout import find_place
from detector.data.formats.yolo_rows import read_lines
from detector.data.path_guard import PathGuard, have_one_path_each, real_path
from detector.data.split import split_in
from detector.errors import LabelError
from detector.files import is_file
from detector.wording import plural


def list_files(data: YoloData, name: str) -> SplitFiles:
    """List the images of one split and find their label files. The result is kept for the next call.

    Raises:
        LabelError: no image exists, no image has a label file, two images have the same label file, or an image is
            outside of the dataset's folders.
    """
    if name not in data.listed:
        data.listed[name] = _list_files(data, name)
    return data.listed[name]


def _list_files(data: YoloData, name: str) -> SplitFiles:
    """List the images of one split and find their label files; see `list_files`."""
    places, guard = data.splits[name], data.guard
    images = [place for place in places if is_image_name(place) and not place.is_dir()]
    folders = [place for place in places if place.is_dir()]
    lists = [place for place in places if not is_image_name(place) and not place.is_dir()]
    texts: list[Path] = []
    for place in (*folders, *lists):
        guard.check(place, data.source)
    for folder in folders:
        index = FileIndex(folder, guard)
        index.check_links()
        images += index.images
        texts += index.with_suffix(".txt")
    for image in images:
        guard.check(image, image.parent)
    for path in lists:
        images += _read_list(path, data, guard)
    paths = sorted(dict.fromkeys(images))
    unique = _without_repeated(paths)
    notes = [guard.note] if guard.note else []
    if len(paths) < len(images):
        repeated = plural(len(images) - len(paths), "repeated line")
        notes.append(f"{repeated} in the lists of the split {name}; each image is used once")
    if len(unique) < len(paths):
        repeated = plural(len(paths) - len(unique), "image")
        notes.append(f"{repeated} of the split {name} found by two paths, because of `..` or links; each is used once")
    if lists and unique and not any(map(is_file, unique)):
        raise LabelError(
            f"{lists[0]}: none of the {len(unique)} images in this list exists; the first is {unique[0]}; "
            f"the ends of these paths were searched in {data.roots[-1]}"
        )
    labels = _find_labels(data, name, unique)
    label_folders = [label_folder(folder) for folder in folders if label_folder(folder).is_dir()]
    return SplitFiles(unique, labels, folders, label_folders, texts, notes)


def _without_repeated(images: list[Path]) -> list[Path]:
    """Return the images without those that are the same file as another path, because of `..` or a link to a folder.

    Of several paths of a file, the first one with a label file in the usual place is kept.
    """
    if have_one_path_each(images):
        return images
    groups: dict[Path, list[Path]] = {}
    for image in images:
        groups.setdefault(real_path(image), []).append(image)
    return sorted(
        next((path for path in paths if any(map(is_file, label_places(path)))), paths[0]) if paths[1:] else paths[0]
        for paths in groups.values()
    )


def _read_list(path: Path, data: YoloData, guard: PathGuard) -> list[Path]:
    """Return the images in a list file; an image that is not found is returned as written.

    A path that does not exist is the image with the longest common end of the path.

    Raises:
        LabelError: an image exists, but is outside of the dataset's folders; or several images match equally well.
    """
    if path.suffix.lower() != ".txt":
        raise LabelError(f"{data.source}: {path} is neither a folder nor a .txt list of images")
    roots = tuple(dict.fromkeys((path.parent, *data.roots)))
    lines = list(read_lines(path))
    folders: dict[str, bool] = {}
    found = [find_place(text, roots, path, line, folders=folders) for line, text in lines]
    searched = {
        i: match.path
        for i, (_, text) in enumerate(lines)
        if found[i] is None and (match := data.index.find_image(text, path, split_in(path.stem)))
    }
    # Of a/1.jpg and b/1.jpg, only one can be the file c/1.jpg: which one is unknown, so both are missing.
    owners = Counter([*searched.values(), *(place for place in found if place is not None)])
    images = []
    for i, (line, text) in enumerate(lines):
        image = found[i]
        if image is None and i in searched and owners[searched[i]] == 1:
            image = searched[i]
        if image is None:
            written = [root / text.replace("\\", "/") for root in roots]
            image = next((place for place in written if _is_known_folder(place.parent, folders)), written[0])
        elif is_file(image):
            guard.check(image, path, line)
        images.append(image)
    return images


def _is_known_folder(folder: Path, folders: dict[str, bool]) -> bool:
    """Return whether a folder exists; `folders` is as for `find_end`."""
    name = str(folder)
    if name not in folders:
        folders[name] = folder.is_dir()
    return folders[name]


def _find_labels(data: YoloData, name: str, images: Sequence[Path]) -> list[Path | None]:
    """Return the path of the label file of each image, in the order of `images`; None for an image without one.

    Args:
        data: the dataset.
        name: name of the split, for error messages.
        images: paths of the images.

    Raises:
        LabelError: no image has a label file, or two images have the same label file.
    """
    folders = {folder: label_folder(folder) for folder in {image.parent for image in images}}
    existing = {path for folder in (*folders, *folders.values()) for path in _text_files(folder)}
    labels: list[Path | None] = []
    for image in images:
        file_name = f"{image.stem}.txt"
        places = (folders[image.parent] / file_name, image.parent / file_name)
        labels.append(next((place for place in places if place in existing), None))
    if images and not any(labels):
        labels = [data.index.find_text(image) for image in images]
        if not any(labels):
            expected = folders[images[0].parent] / f"{images[0].stem}.txt"
            raise LabelError(
                f"{data.source}: none of the {plural(len(labels), 'image')} of the split {name} has a label file; "
                f"for the first image, expected {expected}"
            )
    elif None in labels:
        labels = _with_labels_elsewhere(data, images, labels)
    _check_other_splits(data, name, images, labels)
    owners: dict[Path, Path] = {}
    for image, label in zip(images, labels, strict=True):
        if label is not None and owners.setdefault(label, image) != image:
            raise LabelError(
                f"{label}: is the label file of both {owners[label]} and {image.name}; rename one of the images"
            )
    return labels


def _with_labels_elsewhere(data: YoloData, images: Sequence[Path], labels: Sequence[Path | None]) -> list[Path | None]:
    """Return the labels with those of image folders in which no image has a label file in the usual places.

    A label file anywhere in the dataset is used only if no other image has its stem.
    """
    labeled = {image.parent for image, label in zip(images, labels, strict=True) if label}
    if labeled >= {image.parent for image in images}:
        return list(labels)
    stems = Counter(image.stem for image in data.index.images)
    return [
        data.index.find_text(image) if image.parent not in labeled and stems[image.stem] == 1 else label
        for image, label in zip(images, labels, strict=True)
    ]


def _check_other_splits(data: YoloData, name: str, images: Sequence[Path], labels: Sequence[Path | None]) -> None:
    """Raise LabelError if a label file that is far from its image is also that of an image of another split."""
    folders = [place for other, places in data.splits.items() if other != name for place in places if place.is_dir()]
    if not folders:
        return
    for image, label in zip(images, labels, strict=True):
        if label is None or label.parent in (image.parent, label_folder(image.parent)):
            continue
        for folder in folders:
            other = folder / image.name
            if other != image and is_file(other) and data.index.find_text(other) == label:
                raise LabelError(f"{label}: is the label file of both {other} and {image}; rename one of the images")


def _text_files(folder: Path) -> Iterator[Path]:
    """Yield the .txt files directly in a folder; none if the folder does not exist."""
    if folder.is_dir():
        with os.scandir(folder) as entries:
            yield from (folder / entry.name for entry in entries if entry.name.endswith(".txt") and entry.is_file())
