"""Reads YOLO label files: one text file per image, one row `class cx cy width height` per box.

The coordinates are fractions of the image width and height. `yolo_layout.py` finds the images and the class names.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from detector.data.coordinates import look_like_corners
from detector.data.file_index import FileIndex
from detector.data.formats.yolo_layout import YoloData, find_place
from detector.data.path_guard import PathGuard
from detector.data.row_collector import Corners, LabelRow, RowCollector, RowError
from detector.data.split import Split, read_file, split_in
from detector.errors import LabelError
from detector.files import is_file, read_text
from detector.images import IMAGE_SUFFIXES
from detector.options import ReadOptions
from detector.wording import plural

_MAX_FRACTION = 2.0
"""Larger coordinates count as pixels: no tool writes a box that extends beyond the image by a whole image size."""

_MIN_KEYPOINT_ROWS = 3
"""With fewer rows, a polygon may look like keypoints by chance."""

_MARGIN = 0.01
"""Keypoints may be this far outside of their box, as a fraction of the image size."""

_NAME_FILES = ("classes.txt", "_darknet.labels")


def read_split(data: YoloData, name: str, options: ReadOptions = ReadOptions()) -> Split:  # noqa: B008 (immutable)
    """List the images of one split, read their label files, and return the split; the images are not decoded.

    The label file of `.../images/a.jpg` is `.../labels/a.txt`: the last folder `images` in the path is replaced by
    `labels`. If this file does not exist, the label file is in the folder of the image. If no image of the split has a
    label file in these places, it is the .txt file with the same stem anywhere in the data set. An image without a
    label file is a background image. The rows of a label file without an image are dropped. Blank lines and lines that
    start with # are not rows. Image sizes are read from the image files.

    Args:
        data: where the images and class names are.
        name: name of the split, a key of `data.splits`.
        options: `allow_outside` allows paths in lists, and links, that lead to files outside of the folders in `data`;
            `max_pixels` is the largest number of pixels of an image that is decoded.

    Raises:
        InputError: no image exists, no image has a label file, two images have the same label file, a file is outside
            of the data set's folders, or the rows are not in YOLO's format.
    """
    data = data if data.class_names is not None else _with_numbered_classes(data, options)
    assert data.class_names is not None
    files = _list_files(data, name, options)
    collector = RowCollector(options)
    for note in (*data.notes, *files.notes):
        collector.add_note(note)
    rows = _Rows(len(data.class_names), data.has_keypoints)
    for image_id, (image, label) in enumerate(zip(files.images, files.labels, strict=True), start=1):
        # The rows of a missing image are dropped, so any image size will do.
        height, width = collector.add_image(image_id, image) or (1, 1)
        if label is None:
            continue
        files.guard.check(label, label.parent)
        for line, text in _read_lines(label):
            try:
                class_id, (x1, y1, x2, y2) = rows.parse(text)
            except RowError as error:
                collector.drop(image_id, label, line, error)
            else:
                corners = (x1 * width, y1 * height, x2 * width, y2 * height)
                collector.add_row(LabelRow(image_id, label, line, class_id, corners))
    rows.check(data.source)
    if rows.polygons:
        collector.add_note(
            f"bounding boxes replace {plural(rows.polygons, 'polygon or oriented box', 'polygons or oriented boxes')}"
        )
    _drop_orphans(files, collector, rows)
    if name == next(iter(data.splits)):
        _drop_other_orphans(data, files, collector, rows)
    annotations, ledger = collector.finish(data.source)
    if data.name_files and any(e.code in ("unknown_class", "class_id_equals_class_count") for e in ledger.entries):
        _raise_other_names(data)
    return Split(
        name,
        data.class_names,
        category_ids=tuple(range(len(data.class_names))),
        annotations=annotations,
        ledger=ledger,
        read_image=partial(read_file, max_pixels=options.max_pixels),
        max_pixels=options.max_pixels,
        ids_are_positions=True,
    )


def _with_numbered_classes(data: YoloData, options: ReadOptions) -> YoloData:
    """Return a copy of `data` with the class names `class_0`, `class_1`, ..., up to the largest id in any split."""
    largest = 0
    for name in data.splits:
        for label in _list_files(data, name, options).labels:
            for _, text in _read_lines(label) if label else ():
                if (first := text.split()[0]).isdecimal():
                    largest = max(largest, int(first[:4]))
    names = tuple(f"class_{i}" for i in range(largest + 1))
    splits = "".join(f"{split}: {_as_written(places, data)}\n" for split, places in data.splits.items())
    note = (
        f"no file names the classes, so they are called {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}; "
        f"to name them, save this as {data.roots[-1] / 'data.yaml'}:\n{splits}names: [{', '.join(names)}]"
    )
    return replace(data, class_names=names, notes=(*data.notes, note))


def _as_written(places: Sequence[Path], data: YoloData) -> str:
    """Return folders, lists or images as the value of a key in a data.yaml; of images, the common folders."""
    root = data.roots[-1]
    folders = dict.fromkeys(p if p.suffix.lower() not in IMAGE_SUFFIXES else p.parent for p in places)
    texts = [p.relative_to(root).as_posix() if p.is_relative_to(root) else p.as_posix() for p in folders]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def _raise_other_names(data: YoloData) -> None:
    """Raise LabelError: a label row has an id without a name, and another file has other names."""
    others = "; ".join(f"{file.path} has {list(file.names)}" for file in data.name_files)
    raise LabelError(
        f"{data.source}: label rows have class ids without a name, and the files that name the classes differ: "
        f"{list(data.class_names or ())} are used, but {others}; make the files equal"
    )


class _Rows:
    """Parses the rows of a split, counts polygons, and checks that the rows are in YOLO's format.

    Args:
        class_count: number of classes.
        has_keypoints: whether rows contain keypoints after the box.

    Attributes:
        polygons: number of rows that were replaced by their bounding box.
    """

    def __init__(self, class_count: int, has_keypoints: bool) -> None:
        self.class_count = class_count
        self.polygons = 0
        self._with_keypoints = 0
        self._columns = 5 if has_keypoints else None
        self._written: list[Corners] = []
        self._boxes: list[Corners] = []

    def parse(self, row: str) -> tuple[int, Corners]:
        """Return the class id and the corners of a row, as fractions; raise RowError if the row cannot be used."""
        fields = row.split()[: self._columns]
        class_id, values = _parse_fast(fields, self.class_count) or _parse_row(fields, self.class_count)
        if len(values) > 4:
            self.polygons += 1
            self._with_keypoints += _has_keypoints(values)
            return class_id, (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))
        cx, cy, width, height = values
        box = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
        self._written.append((cx, cy, width, height))
        self._boxes.append(box)
        return class_id, box

    def check(self, source: Path) -> None:
        """Raise LabelError if the rows are corners instead of center, width and height, or have keypoints."""
        if self._with_keypoints >= max(_MIN_KEYPOINT_ROWS, 0.3 * self.polygons):
            raise LabelError(
                f"{source}: the rows look like boxes with keypoints after them, not like polygons; save a data.yaml "
                "with the key `kpt_shape: [number of keypoints, 2 or 3]` beside `names` and `train`"
            )
        if look_like_corners(self._written, self._boxes, [(1.0, 1.0)] * len(self._boxes)):
            raise LabelError(
                f"{source}: the rows look like `class x1 y1 x2 y2`: as `class cx cy width height`, many boxes extend "
                "beyond their image; write center, width and height, as fractions of the image size"
            )


def _has_keypoints(values: Sequence[float]) -> bool:
    """Return whether the numbers after a class id look like a box and keypoints, rather than like a polygon.

    >>> _has_keypoints([0.5, 0.5, 0.4, 0.4, 0.6, 0.4, 2, 0.5, 0.6, 0]), _has_keypoints([0.1, 0.1, 0.5, 0.1, 0.5, 0.5])
    (True, False)
    """
    cx, cy, width, height, *rest = values
    if len(rest) % 3 == 0 and all(visibility in (0, 1, 2) for visibility in rest[2::3]):
        return len(rest) > 3 or rest[2] == 2
    # Four points are an oriented box.
    points = [(x, y) for x, y in zip(rest[::2], rest[1::2], strict=False) if x or y]  # 0 0: a keypoint without label
    if len(rest) < 6 or len(rest) % 2 or not points:
        return False
    inside = all(abs(x - cx) <= width / 2 + _MARGIN and abs(y - cy) <= height / 2 + _MARGIN for x, y in points)
    # The second point of a polygon is near the others. The size of a box is not a point.
    xs, ys = zip(*points, (cx, cy), strict=True)
    wide, high = max(xs) - min(xs) + _MARGIN, max(ys) - min(ys) + _MARGIN
    is_near = min(xs) - wide <= width <= max(xs) + wide and min(ys) - high <= height <= max(ys) + high
    return inside and not is_near


def _drop_orphans(files: "_SplitFiles", collector: RowCollector, rows: _Rows) -> None:
    """Drop the rows of label files without an image. A text file without any label row is left alone, with a note."""
    known = {label for label in files.labels if label is not None}
    for folder in dict.fromkeys(files.label_folders):
        for orphan in FileIndex(folder).with_suffix(".txt"):
            if orphan in known or orphan.name in _NAME_FILES:
                continue
            known.add(orphan)
            files.guard.check(orphan, orphan.parent)
            lines = list(_read_lines(orphan))
            if not any(_is_row(text, rows) for _, text in lines):
                if lines:
                    collector.add_note(f"{orphan} contains no label rows and is not used")
                continue
            for line, _ in lines:
                collector.drop(None, orphan, line, RowError("unknown_image", "there is no image for this label file"))


def _drop_other_orphans(data: YoloData, files: "_SplitFiles", collector: RowCollector, rows: _Rows) -> None:
    """Drop the rows of label files without an image in label folders that no folder of the data set names.

    These are the folders of the label files if the images are in a list, or if there is no data.yaml. Such a folder may
    have the label files of several splits, so an image of any split counts.
    """
    folders = {label.parent for label in files.labels if label} | {_label_folder(i.parent) for i in files.images}
    stems = {image.stem for image in (*data.index.images, *files.images)}
    for folder in sorted(folders):
        if not folder.is_dir() or any(folder.is_relative_to(other) for other in files.label_folders):
            continue
        for path in sorted(folder.iterdir()):
            is_orphan = path.suffix.lower() == ".txt" and (path.stem not in stems or path.suffix != ".txt")
            if not is_orphan or path.name.startswith(".") or path.name in _NAME_FILES or not path.is_file():
                continue
            files.guard.check(path, path.parent)
            lines = list(_read_lines(path))
            if not any(_is_row(text, rows) for _, text in lines):
                continue  # not a label file
            for line, _ in lines:
                reason = "there is no image for this label file (upper and lower case count)"
                collector.drop(None, path, line, RowError("unknown_image", reason))


def _is_row(text: str, rows: _Rows) -> bool:
    try:
        _parse_row(text.split(), rows.class_count)
    except RowError as error:
        return error.code != "malformed_row"
    return True


def _read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, stripped text) of every line that is neither blank nor a comment."""
    for line, text in enumerate(read_text(path).split("\n"), start=1):
        if text.strip() and not text.lstrip().startswith("#"):
            yield line, text.strip()


def _parse_fast(fields: Sequence[str], class_count: int) -> tuple[int, list[float]] | None:
    """Return the result of `_parse_row` for a valid row of five columns; None for any other row."""
    if len(fields) != 5 or not fields[0].isdecimal() or any("_" in text for text in fields):
        return None
    try:
        values = [float(text) for text in fields[1:]]
    except ValueError:
        return None
    class_id = int(fields[0][:9])
    return (class_id, values) if class_id < class_count and max(values) <= _MAX_FRACTION else None


def _parse_row(fields: Sequence[str], class_count: int) -> tuple[int, list[float]]:
    """Return the class id and the numbers after it, as fractions of the image width and height.

    Args:
        fields: a row `class cx cy width height`, or `class x1 y1 x2 y2 x3 y3 ...` with the corners of a polygon.
        class_count: number of classes.

    Raises:
        RowError: the row cannot be used.

    >>> _parse_row("1 0.5 0.5 0.5 0.25".split(), 2)
    (1, [0.5, 0.5, 0.5, 0.25])
    """
    if len(fields) < 5 or len(fields) % 2 == 0:
        expected = "expected `class cx cy width height` or `class x1 y1 x2 y2 x3 y3 ...`"
        cause = " (6 columns: are these detections with a score?)" if len(fields) == 6 else ""
        raise RowError("malformed_row", f"the row has {len(fields)} columns; {expected}{cause}")
    class_value, *values = map(_parse_number, fields)
    if not class_value.is_integer() or not 0 <= class_value < class_count:
        raise RowError(
            "class_id_equals_class_count" if class_value == class_count else "unknown_class",
            f"class {fields[0]} is not a whole number from 0 to {class_count - 1} (`names` has {class_count} classes)",
        )
    if any(_MAX_FRACTION < value < float("inf") for value in values):
        reason = f"coordinates {' '.join(fields[1:5])} look like pixels; expected fractions of the image size, 0 to 1"
        raise RowError("pixel_coordinates", reason)
    return int(class_value), values


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
    """The image files and label files of one split, listed but not read.

    Attributes:
        images: paths of all images, sorted. An image from a list file may be missing.
        labels: path of the label file of each image; None: it has none.
        label_folders: the folders that belong to folders of images. All label files in them should have an image.
        guard: allows the files in the data set's own folders.
        notes: what the user should know, one sentence each.
    """

    images: Sequence[Path]
    labels: Sequence[Path | None]
    label_folders: Sequence[Path]
    guard: PathGuard
    notes: Sequence[str]


def _list_files(data: YoloData, name: str, options: ReadOptions) -> _SplitFiles:
    """List the images of one split and find their label files.

    Raises:
        LabelError: no image exists, no image has a label file, two images have the same label file, or an image is
            outside of the data set's folders.
    """
    places = data.splits[name]
    folders = [place for place in places if place.is_dir()]
    lists = [place for place in places if place.suffix.lower() not in IMAGE_SUFFIXES and not place.is_dir()]
    # Paths in the YAML file itself may lead anywhere. Paths in list files and targets of links are restricted.
    own = [*data.roots, *folders, *(path.parent for path in lists)]
    guard = PathGuard([*own, *map(_label_folder, own)], options)
    images = [place for place in places if place.suffix.lower() in IMAGE_SUFFIXES and not place.is_dir()]
    for folder in folders:
        images += FileIndex(folder).images
    for image in images:
        guard.check(image, image.parent)
    for path in lists:
        images += _read_list(path, data, guard)
    unique = sorted(dict.fromkeys(images))
    notes = []
    if len(unique) < len(images):
        notes.append(
            f"{plural(len(images) - len(unique), 'repeated line')} in the lists of the split {name}; each image is "
            "used once"
        )
    if lists and unique and not any(map(is_file, unique)):
        raise LabelError(
            f"{lists[0]}: none of the {len(unique)} images in this list exists; the first is {unique[0]}; "
            f"the ends of these paths were searched in {data.roots[-1]}"
        )
    labels = _find_labels(data, name, unique)
    label_folders = [_label_folder(folder) for folder in folders if _label_folder(folder).is_dir()]
    return _SplitFiles(unique, labels, label_folders, guard, notes)


def _read_list(path: Path, data: YoloData, guard: PathGuard) -> list[Path]:
    """Return the images in a list file; an image that is not found is returned as written.

    A path that does not exist is the image with the longest common end of the path.

    Raises:
        LabelError: an image exists, but is outside of the data set's folders; or several images match equally well.
    """
    if path.suffix.lower() != ".txt":
        raise LabelError(f"{data.source}: {path} is neither a folder nor a .txt list of images")
    roots = tuple(dict.fromkeys((path.parent, *data.roots)))
    lines = list(_read_lines(path))
    found = [find_place(text, roots, path, line) for line, text in lines]
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
            image = next((place for place in written if place.parent.is_dir()), written[0])
        if is_file(image):
            guard.check(image, path, line)
        images.append(image)
    return images


def _find_labels(data: YoloData, name: str, images: Sequence[Path]) -> list[Path | None]:
    """Return the path of the label file of each image, in the order of `images`; None for an image without one.

    Args:
        data: the data set.
        name: name of the split, for error messages.
        images: paths of the images.

    Raises:
        LabelError: no image has a label file, or two images have the same label file.
    """
    folders = {folder: _label_folder(folder) for folder in {image.parent for image in images}}
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

    A label file anywhere in the data set is used only if no other image has its stem.
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
        if label is None or label.parent in (image.parent, _label_folder(image.parent)):
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
