"""YOLO text files: one per image, one row per box, `class cx cy width height` as shares of the image."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detector.data.label_rows import Corners, RowCollector
from detector.data.path_guard import PathGuard
from detector.data.split import Split, canonical_name
from detector.errors import InputError, location
from detector.files import read_text
from detector.images import IMAGE_SUFFIXES

_LOOKS_LIKE_PIXELS = 2.0
"""Shares above this are taken for pixels: no tool writes a box that lies a whole image outside."""


@dataclass(frozen=True)
class DataYaml:
    """What a `data.yaml` says.

    Attributes:
        path: the YAML file.
        roots: folders that relative paths may start from, likeliest first.
        class_names: C names.
        splits: split name → folders or list files, as written.
    """

    path: Path
    roots: tuple[Path, ...]
    class_names: tuple[str, ...]
    splits: Mapping[str, tuple[str, ...]]


def parse_data_yaml(path: Path, values: Mapping[str, Any]) -> DataYaml:
    """Understand the keys `path`, `train`, `val` (or `valid`), `test`, `names` and `nc`; others are left alone.

    Args:
        path: the YAML file.
        values: its content with every scalar as text, so that a class called `no` keeps its name.

    Raises:
        InputError: no classes, one twice, classes not counted 0..C-1, or no split.
    """
    names = values.get("names")
    if isinstance(names, dict):
        if set(names) != {str(i) for i in range(len(names))}:
            raise InputError(f"{path}: `names` must count 0, 1, 2, ... without a gap, got {', '.join(names)}")
        names = [names[str(i)] for i in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: `names` must list the classes, for example `names: [cat, dog]`")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(f"{path}: `names` holds {twice[0]!r:.60} twice; give each class a name of its own")
    # Text is shown as it is; a nest of YAML's aliases would be without end.
    if not isinstance(values.get("nc", ""), str) or not isinstance(values.get("path", ""), str):
        raise InputError(f"{path}: `nc` must be a number and `path` a folder")
    if "nc" in values and values["nc"] != str(len(names)):
        raise InputError(f"{path}: `nc` is {values['nc']}, but `names` has {len(names)} classes")
    splits: dict[str, tuple[str, ...]] = {}
    for key in ("train", "val", "valid", "validation", "test"):
        value = values.get(key)
        places = tuple(value) if isinstance(value, list) else (value,)
        if places in ((None,), ("",), ("null",), ("~",), ()):
            continue
        if not all(isinstance(place, str) for place in places):
            raise InputError(f"{path}: `{key}` must be a folder, a .txt list of images, or a list of those")
        if canonical_name(key) in splits:
            raise InputError(f"{path}: `{key}` names the split {canonical_name(key)} a second time; keep one")
        splits[canonical_name(key)] = places
    if not splits:
        raise InputError(f"{path}: expected at least one of `train`, `val`, `test`")
    # An exported `path` is often that of another machine: the file's own folder is the second guess.
    roots = (path.parent / values.get("path", ""), path.parent)
    return DataYaml(path, roots, tuple(names), splits)


def read_split(data: DataYaml, name: str, allow_outside: bool = False) -> Split:
    """Read the images of one split and the label file of each.

    The label file of `.../images/a.jpg` is `.../labels/a.txt` (the last `images` in the path), and lies beside the
    image where there is no such folder. An image without one is a background image; rows of a label file without
    an image are dropped. Blank lines and lines that start with # are not rows.

    Args:
        data: the data set.
        name: of one of its splits.
        allow_outside: let lists and links lead to files outside of the folders that `data` itself names.

    Raises:
        InputError: the split's folder or list is not there, no image is, or no image has a label file; two images
            share one; a file lies outside.
    """
    collector = RowCollector()
    folders, images, fence = _find(data, name, allow_outside)
    labels = [_label_folder(image.parent) / f"{image.stem}.txt" for image in images]
    if images and not any(label.is_file() for label in labels):
        raise InputError(f"{data.path}: none of the {len(labels)} images of {name} has a label file, e.g. {labels[0]}")
    owners: dict[Path, Path] = {}
    for image, label in zip(images, labels, strict=True):
        if owners.setdefault(label, image) != image and label.is_file():
            raise InputError(
                f"{label}: belongs to both {owners[label]} and {image.name}; give the images names of their own"
            )
    for image_id, (image, label) in enumerate(zip(images, labels, strict=True), start=1):
        # The rows of a missing image are dropped, whatever their scale.
        h, w = collector.add_image(image_id, image) or (1, 1)
        fence.check(label, label.parent)
        for line, row in _rows(label) if label.is_file() else ():
            try:
                class_id, (x1, y1, x2, y2) = _parse(row, len(data.class_names))
            except ValueError as fault:
                collector.drop(image_id, label, line, str(fault))
            else:
                collector.add_box(image_id, label, line, class_id, (x1 * w, y1 * h, x2 * w, y2 * h))
    for orphan in sorted({label for folder in folders for label in _label_folder(folder).rglob("*.txt")} - {*labels}):
        if orphan.name != "classes.txt":  # written beside the labels by labeling tools
            fence.check(orphan, orphan.parent)
            for line, _ in _rows(orphan):
                collector.drop(None, orphan, line, "there is no image for this label file")
    annotations = collector.annotations(data.path)
    return Split(name, data.class_names, tuple(range(len(data.class_names))), annotations, collector.ledger)


def _rows(path: Path) -> Iterator[tuple[int, str]]:
    """Give the lines that hold something, with their numbers."""
    for line, text in enumerate(read_text(path).split("\n"), start=1):
        if text.strip() and not text.lstrip().startswith("#"):
            yield line, text.strip()


def _parse(row: str, class_count: int) -> tuple[int, Corners]:
    """Return the class and the corners in shares of the image; ValueError says what is wrong with the row.

    >>> _parse("1 0.5 0.5 0.5 0.25", 2)
    (1, (0.25, 0.375, 0.75, 0.625))
    """
    fields = row.split()
    if len(fields) < 5 or len(fields) % 2 == 0:
        raise ValueError(f"{len(fields)} columns; expected `class cx cy width height` or `class x1 y1 x2 y2 x3 y3 ...`")
    class_value, *values = map(_number, fields)
    if not class_value.is_integer() or not 0 <= class_value < class_count:
        raise ValueError(
            f"class {fields[0]} is not a whole number from 0 to {class_count - 1} ({class_count} classes are named)"
        )
    if any(_LOOKS_LIKE_PIXELS < value < float("inf") for value in values):
        raise ValueError(f"coordinates {' '.join(fields[1:5])} look like pixels; expected shares of the image, 0 to 1")
    if len(values) == 4:
        cx, cy, width, height = values
        return int(class_value), (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
    return int(class_value), (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))


def _number(text: str) -> float:
    try:
        if "_" not in text:  # Python would take 1_0 for 10
            return float(text)
    except ValueError:
        pass
    raise ValueError(f"{text!r:.60} is not a number; expected `class cx cy width height`, with blanks between")


def _label_folder(folder: Path) -> Path:
    """Return `folder` with the last `images` in it replaced by `labels`.

    >>> _label_folder(Path("images/a/images/b")).as_posix()
    'images/a/labels/b'
    """
    parts = list(folder.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts)


def _find(data: DataYaml, name: str, allow_outside: bool) -> tuple[list[Path], list[Path], PathGuard]:
    """Return the folders that were searched, all images of a split, sorted, and the fence around the data set."""
    folders, lists, images = [], [], []
    for place in data.splits[name]:
        found = _first_existing(place, data.roots, data.path)
        if found.is_dir():
            folders.append(found)
            images += [p for p in found.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and not p.is_dir()]
        elif found.suffix == ".txt" and found.is_file():
            lists.append(found)
        else:
            raise InputError(f"{data.path}: `{name}: {place}` is neither a folder nor a .txt list; looked at {found}")
    # What the YAML file names is the user's word; where the lists and links in there lead to is not.
    own = [*data.roots, *folders, *(found.parent for found in lists)]
    fence = PathGuard([] if allow_outside else [*own, *map(_label_folder, own)])
    for image in images:
        fence.check(image, image.parent)
    for found in lists:
        for line, row in _rows(found):
            images.append(_first_existing(row, (found.parent, *data.roots), found, line))
            fence.check(images[-1], found, line)
    for image, count in Counter(images).items():
        if count > 1:
            raise InputError(f"{data.path}: the split {name} lists {image} {count} times; list it once")
    return folders, sorted(images), fence


def _first_existing(place: str, roots: Sequence[Path], said_in: Path, line: int | None = None) -> Path:
    """Return the first of the places a path may mean that exists, else the first that has at least its folder."""
    # Roboflow writes ../train/images for the folder train/images beside the YAML.
    candidates = [root / way for way in (place, re.sub(r"^(\.\./)+", "", place)) for root in roots]
    near = (path for path in candidates if path.parent.is_dir())
    try:
        return next((path for path in candidates if path.exists()), None) or next(near, candidates[0])
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{location(said_in, line)}: no file can be at {place!r:.60} ({reason})") from None
