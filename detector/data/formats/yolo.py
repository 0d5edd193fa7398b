"""Reads YOLO label files: one text file per image, one row `class cx cy width height` per box.

The coordinates are fractions of the image width and height. A `data.yaml` contains the class names and the splits.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from detector.data.path_guard import PathGuard
from detector.data.row_collector import Corners, LabelRow, RowCollector, RowError
from detector.data.split import Split, canonical_name, read_file
from detector.errors import LabelError, location
from detector.files import read_text
from detector.images import IMAGE_SUFFIXES
from detector.options import ReadOptions

_MAX_FRACTION = 2.0
"""Larger coordinates count as pixels: no tool writes a box that extends beyond the image by a whole image size."""


@dataclass(frozen=True)
class DataYaml:
    """The parsed contents of a `data.yaml`.

    Attributes:
        path: the YAML file.
        roots: folders that the paths in `splits` may be relative to, in the order in which they are tried.
        class_names: names of the C classes, in the order of the class ids.
        splits: split name → paths of folders or list files, as written in the YAML file.
    """

    path: Path
    roots: tuple[Path, ...]
    class_names: tuple[str, ...]
    splits: Mapping[str, tuple[str, ...]]


def parse_data_yaml(path: Path, values: Mapping[str, Any]) -> DataYaml:
    """Check the contents of a `data.yaml` and return them as a `DataYaml`.

    The keys are `path`, `train`, `val` (or `valid`, `validation`), `test`, `names` and `nc`; other keys are ignored.

    Args:
        path: the YAML file.
        values: contents of the YAML file with every scalar as text, so that a class named `no` does not become False.

    Raises:
        LabelError: there is no class or no split, a class name occurs twice, the class ids are not 0..C-1, or a key has
            a wrong value.
    """
    names = _parse_names(path, values)
    splits: dict[str, tuple[str, ...]] = {}
    for key in ("train", "val", "valid", "validation", "test"):
        value = values.get(key)
        places = tuple(value) if isinstance(value, list) else (value,)
        if places in ((None,), ("",), ("null",), ("~",), ()):
            continue
        if not all(isinstance(place, str) for place in places):
            raise LabelError(
                f"{path}: `{key}` must be a folder, a .txt list of images, or a YAML list of folders and .txt lists"
            )
        if canonical_name(key) in splits:
            raise LabelError(
                f"{path}: two keys define the split {canonical_name(key)}; remove `{key}` or the other key"
            )
        splits[canonical_name(key)] = places
    if not splits:
        raise LabelError(f"{path}: expected at least one of `train`, `val`, `test`")
    # In an exported data set, `path` is often a path on another computer: the folder of the YAML file is tried too.
    roots = (path.parent / values.get("path", ""), path.parent)
    return DataYaml(path, roots, names, splits)


def _parse_names(path: Path, values: Mapping[str, Any]) -> tuple[str, ...]:
    names = values.get("names")
    if isinstance(names, dict):
        if set(names) != {str(i) for i in range(len(names))}:
            raise LabelError(
                f"{path}: the class ids in `names` must be 0, 1, 2, ... without a gap, got {', '.join(names)}"
            )
        names = [names[str(i)] for i in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise LabelError(f"{path}: `names` must list the classes, for example `names: [cat, dog]`")
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise LabelError(f"{path}: `names` contains {repeated[0]!r:.60} twice; give each class a different name")
    # Messages contain only text values: a value with nested YAML aliases could become endlessly long.
    if not isinstance(values.get("nc", ""), str) or not isinstance(values.get("path", ""), str):
        raise LabelError(f"{path}: `nc` must be a number and `path` a folder")
    if "nc" in values and values["nc"] != str(len(names)):
        raise LabelError(f"{path}: `nc` is {values['nc']}, but `names` has {len(names)} classes")
    return tuple(names)


def read_split(data: DataYaml, name: str, options: ReadOptions = ReadOptions()) -> Split:  # noqa: B008 (immutable)
    """List the images of one split, read their label files, and return the split; the images are not decoded.

    The label file of `.../images/a.jpg` is `.../labels/a.txt`: the last folder `images` in the path is replaced by
    `labels`. If the path contains no folder `images`, the label file is in the folder of the image. An image without a
    label file is a background image. The rows of a label file without an image are dropped. Blank lines and lines that
    start with # are not rows. Image sizes are read from the image files.

    Args:
        data: contents of the `data.yaml`.
        name: name of the split, a key of `data.splits`.
        options: `allow_outside` allows paths in lists, and links, that lead to files outside of the folders in `data`;
            `max_pixels` is the largest number of pixels of an image that is decoded.

    Raises:
        InputError: the folder or the list of the split does not exist, no image exists, no image has a label file, two
            images have the same label file, or a file is outside of the data set's folders.
    """
    files = _list_images(data, name, options)
    labels = _label_files(data, name, files.images)
    collector = RowCollector(options)
    for image_id, (image, label) in enumerate(zip(files.images, labels, strict=True), start=1):
        # The rows of a missing image are dropped, so any image size will do.
        height, width = collector.add_image(image_id, image) or (1, 1)
        files.guard.check(label, label.parent)
        for line, text in _read_lines(label) if label.is_file() else ():
            try:
                class_id, (x1, y1, x2, y2) = _parse_row(text, len(data.class_names))
            except RowError as error:
                collector.drop(image_id, label, line, error)
            else:
                corners = (x1 * width, y1 * height, x2 * width, y2 * height)
                collector.add_row(LabelRow(image_id, label, line, class_id, corners))
    label_folders = {_label_folder(folder) for folder in files.folders}
    for orphan in sorted({path for folder in label_folders for path in folder.rglob("*.txt")} - {*labels}):
        if orphan.name != "classes.txt":  # labeling tools write the class names to labels/classes.txt
            files.guard.check(orphan, orphan.parent)
            for line, _ in _read_lines(orphan):
                collector.drop(None, orphan, line, RowError("unknown_image", "there is no image for this label file"))
    annotations, ledger = collector.finish(data.path)
    return Split(
        name,
        data.class_names,
        category_ids=tuple(range(len(data.class_names))),
        annotations=annotations,
        ledger=ledger,
        read_image=partial(read_file, max_pixels=options.max_pixels),
        max_pixels=options.max_pixels,
    )


def _label_files(data: DataYaml, name: str, images: Sequence[Path]) -> list[Path]:
    """Return the path of the label file of each image, in the order of `images`; a label file may be missing.

    Args:
        data: contents of the `data.yaml`, for error messages.
        name: name of the split, for error messages.
        images: paths of the images.

    Raises:
        LabelError: no image has a label file, or two images have the same label file.
    """
    labels = [_label_folder(image.parent) / f"{image.stem}.txt" for image in images]
    if images and not any(label.is_file() for label in labels):
        raise LabelError(
            f"{data.path}: none of the {len(labels)} images of the split {name} has a label file; "
            f"for the first image, expected {labels[0]}"
        )
    owners: dict[Path, Path] = {}
    for image, label in zip(images, labels, strict=True):
        if owners.setdefault(label, image) != image and label.is_file():
            raise LabelError(
                f"{label}: is the label file of both {owners[label]} and {image.name}; rename one of the images"
            )
    return labels


def _read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, stripped text) of every line that is neither blank nor a comment."""
    for line, text in enumerate(read_text(path).split("\n"), start=1):
        if text.strip() and not text.lstrip().startswith("#"):
            yield line, text.strip()


def _parse_row(row: str, class_count: int) -> tuple[int, Corners]:
    """Return the class id and the corners (x1, y1, x2, y2), as fractions of the image width and height.

    Args:
        row: a row `class cx cy width height`, or `class x1 y1 x2 y2 x3 y3 ...` with the corners of a polygon; the
            bounding box of the polygon is returned.
        class_count: number of classes.

    Raises:
        RowError: the row cannot be used.

    >>> _parse_row("1 0.5 0.5 0.5 0.25", 2)
    (1, (0.25, 0.375, 0.75, 0.625))
    """
    fields = row.split()
    if len(fields) < 5 or len(fields) % 2 == 0:
        expected = "expected `class cx cy width height` or `class x1 y1 x2 y2 x3 y3 ...`"
        raise RowError("malformed_row", f"the row has {len(fields)} columns; {expected}")
    class_value, *values = map(_parse_number, fields)
    if not class_value.is_integer() or not 0 <= class_value < class_count:
        raise RowError(
            "class_id_equals_class_count" if class_value == class_count else "unknown_class",
            f"class {fields[0]} is not a whole number from 0 to {class_count - 1} (`names` has {class_count} classes)",
        )
    if any(_MAX_FRACTION < value < float("inf") for value in values):
        reason = f"coordinates {' '.join(fields[1:5])} look like pixels; expected fractions of the image size, 0 to 1"
        raise RowError("pixel_coordinates", reason)
    if len(values) == 4:
        cx, cy, width, height = values
        return int(class_value), (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
    return int(class_value), (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))


def _parse_number(text: str) -> float:
    try:
        if "_" not in text:  # float("1_0") is 10
            return float(text)
    except ValueError:
        pass
    reason = f"{text!r:.60} is not a number; expected `class cx cy width height`, separated by spaces"
    raise RowError("malformed_row", reason)


def _label_folder(folder: Path) -> Path:
    """Return the path `folder` with the last `images` in it replaced by `labels`, or unchanged without `images`.

    >>> _label_folder(Path("images/a/images/b")).as_posix()
    'images/a/labels/b'
    """
    parts = list(folder.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts)


@dataclass(frozen=True)
class _SplitFiles:
    """The image files of one split, listed but not read.

    Attributes:
        folders: the folders that were searched for images.
        images: paths of all images, sorted. An image from a list file may be missing.
        guard: allows the files in the data set's own folders.
    """

    folders: list[Path]
    images: list[Path]
    guard: PathGuard


def _list_images(data: DataYaml, name: str, options: ReadOptions) -> _SplitFiles:
    """List the images in the folders and in the list files of one split, and return their paths.

    Raises:
        LabelError: a folder or a list file does not exist, an image is listed twice, or an image is outside of the data
            set's folders.
    """
    folders, lists, images = [], [], []
    for place in data.splits[name]:
        path = _first_existing(place, data.roots, data.path)
        if path.is_dir():
            folders.append(path)
            images += [p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and not p.is_dir()]
        elif path.suffix == ".txt" and path.is_file():
            lists.append(path)
        else:
            raise LabelError(
                f"{data.path}: `{name}: {place}` is neither a folder nor a .txt list of images; searched {path}"
            )
    # Paths in the YAML file itself may lead anywhere. Paths in list files and targets of links are restricted.
    own = [*data.roots, *folders, *(path.parent for path in lists)]
    guard = PathGuard([*own, *map(_label_folder, own)], options)
    for image in images:
        guard.check(image, image.parent)
    for path in lists:
        for line, text in _read_lines(path):
            images.append(_first_existing(text, (path.parent, *data.roots), path, line))
            guard.check(images[-1], path, line)
    for image, count in Counter(images).items():
        if count > 1:
            raise LabelError(f"{data.path}: the split {name} lists {image} {count} times; list it once")
    return _SplitFiles(folders, sorted(images), guard)


def _first_existing(place: str, roots: Sequence[Path], named_in: Path, line: int | None = None) -> Path:
    """Return the path of the file or folder `place`, relative to the first root in which it exists.

    If it exists in no root, leading `../` are removed from `place`, and all roots are tried again. If nothing exists,
    return the first tried path whose parent folder exists, or the first tried path if there is no such path.

    Args:
        place: path as written in the YAML file or in a list file.
        roots: folders that `place` may be relative to.
        named_in: the file that contains `place`, for error messages.
        line: line of that file.

    Raises:
        LabelError: `place` is not a valid path.
    """
    # Exports from Roboflow contain ../train/images, but the folder is train/images next to the YAML file.
    candidates = [root / path for path in (place, re.sub(r"^(\.\./)+", "", place)) for root in roots]
    in_folder = (path for path in candidates if path.parent.is_dir())
    try:
        return next((path for path in candidates if path.exists()), None) or next(in_folder, candidates[0])
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LabelError(f"{location(named_in, line)}: not a valid path: {place!r:.60} ({reason})") from None
