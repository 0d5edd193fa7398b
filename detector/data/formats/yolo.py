"""Reads YOLO label files: one text file per image, one row `class cx cy width height` per box.

The coordinates are fractions of the image width and height. `yolo_layout.py` finds the images and the class names,
`yolo_files.py` the label files, and `yolo_texts.py` accounts for the other text files.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from detector.data.formats.yolo_data import YoloData
from detector.data.formats.yolo_files import list_files
from detector.data.formats.yolo_rows import Rows, read_lines
from detector.data.formats.yolo_texts import account_for_texts
from detector.data.row_collector import LabelRow, RowCollector, RowError
from detector.data.split import Split, read_file
from detector.errors import LabelError
from detector.images import IMAGE_SUFFIXES
from detector.mirror import read_ahead
from detector.wording import few_names, plural


def read_split(data: YoloData, name: str) -> Split:
    """List the images of one split, read their label files, and return the split; the images are not decoded.

    The label file of `.../images/a.jpg` is `.../labels/a.txt`: the last folder `images` in the path is replaced by
    `labels`. If this file does not exist, the label file is in the folder of the image. If no image of the split has a
    label file in these places, it is the .txt file with the same stem anywhere in the dataset. An image without a
    label file is a background image. The rows of a label file without an image are dropped. Blank lines and lines that
    start with # are not rows. Image sizes are read from the image files.

    Args:
        data: where the images and class names are, and what may be read.
        name: name of the split, a key of `data.splits`.

    Raises:
        InputError: no image exists, no image has a label file, two images have the same label file, a file is outside
            of the dataset's folders, or the rows are not in YOLO's format.
    """
    data = data if data.class_names is not None else _with_numbered_classes(data)
    assert data.class_names is not None
    files = list_files(data, name)
    collector = RowCollector(data.options)
    for note in (*data.notes, *files.notes):
        collector.add_note(note)
    rows = Rows(len(data.class_names), data.has_keypoints)
    pairs = read_ahead(zip(files.images, files.labels, strict=True), lambda pair: pair[0])
    for image_id, (image, label) in enumerate(pairs, start=1):
        # The rows of a missing image are dropped, so any image size will do.
        height, width = collector.add_image(image_id, image) or (1, 1)
        if label is None:
            continue
        data.guard.check(label, label.parent)
        for line, text in read_lines(label):
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
    account_for_texts(data, name, collector, rows)
    annotations, ledger = collector.finish(data.source)
    if data.name_files and any(e.code in ("unknown_class", "class_id_equals_class_count") for e in ledger.entries):
        _raise_other_names(data)
    return Split(
        name,
        data.class_names,
        category_ids=tuple(range(len(data.class_names))),
        annotations=annotations,
        ledger=ledger,
        read_image=partial(read_file, max_pixels=data.options.max_pixels),
        max_pixels=data.options.max_pixels,
        ids_are_positions=True,
    )


def _with_numbered_classes(data: YoloData) -> YoloData:
    """Return a copy of `data` with the class names `class_0`, `class_1`, ..., up to the largest id in any split."""
    largest = 0
    for name in data.splits:
        for label in list_files(data, name).labels:
            for _, text in read_lines(label) if label else ():
                if (first := text.split()[0]).isdecimal():
                    largest = max(largest, int(first[:4]))
    names = tuple(f"class_{i}" for i in range(largest + 1))
    splits = "".join(f"{split}: {_as_written(places, data)}\n" for split, places in data.splits.items())
    note = (
        f"no file names the classes, so they are called {few_names(names, most=3)}; "
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
