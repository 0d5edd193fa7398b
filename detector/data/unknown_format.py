"""Explains why a folder is not a dataset in a known format, and what to do."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detector.data.archives import archive_message
from detector.data.file_index import FileIndex
from detector.data.formats.csv_columns import missing_columns
from detector.data.formats.yolo_layout import is_label_row
from detector.data.parsing.row_values import number, shown
from detector.data.recognize import first_lines, is_damaged, read_json_or_none
from detector.images import IMAGE_SUFFIXES, unread_images_note
from detector.wording import few_names, plural

_UNKNOWN: Mapping[str, str] = {
    ".tfrecord": "TFRecord files are not read: export the dataset as COCO JSON, YOLO or Pascal VOC",
    ".tfrecords": "TFRecord files are not read: export the dataset as COCO JSON, YOLO or Pascal VOC",
    ".record": "TFRecord files are not read: export the dataset as COCO JSON, YOLO or Pascal VOC",
    ".parquet": "Parquet files are not read: save the images as files, and the labels as COCO JSON",
    ".arrow": "Arrow files are not read: save the images as files, and the labels as COCO JSON",
    ".h5": "HDF5 files are not read: save the images as files, and the labels as COCO JSON",
    ".hdf5": "HDF5 files are not read: save the images as files, and the labels as COCO JSON",
    ".mat": "MATLAB files are not read: save the labels as CSV: filename,class,xmin,ymin,xmax,ymax",
    ".npz": "NumPy files are not read: save the labels as CSV: filename,class,xmin,ymin,xmax,ymax",
    ".npy": "NumPy files are not read: save the labels as CSV: filename,class,xmin,ymin,xmax,ymax",
    ".pkl": "pickle files are not read: save the labels as CSV: filename,class,xmin,ymin,xmax,ymax",
    ".jsonl": (
        'JSON lines are only read as Hugging Face writes them, {"file_name": "a.jpg", "objects": {"bbox": [[x, y, '
        'width, height]], "categories": ["cat"]}}; write them so, or save the labels as COCO JSON'
    ),
    ".ndjson": "JSON lines, as of Labelbox, are not read: save the labels as COCO JSON",
    ".manifest": (
        "it is no manifest of SageMaker Ground Truth for bounding boxes, whose lines have `source-ref` and an "
        "attribute with `annotations`; save the labels so, or as COCO JSON"
    ),
}
"""Suffix of a label file that is not read → what to do."""

_TOOLS: tuple[tuple[set[str], str], ...] = (
    ({"item", "annotations"}, "V7 Darwin JSON is not read: export COCO JSON"),
    ({"data_row", "projects"}, "Labelbox JSON is not read: export COCO JSON"),
    ({"name", "labels"}, "it may be Scalabel JSON, but the first images have no label with `category` and `box2d`"),
)
"""Keys of a JSON file that is not read → what to do."""

_NO_LABELS = ("readme", "license", "requirements", "classes", "labels", "names", "package", "notes")
"""Names of files, without suffix, that are not the label files if there are others."""


def explain_unknown(index: FileIndex) -> str:
    """Return what is in a folder that has no known format, and what to do, as the end of an error message."""
    counts = Counter(path.suffix.lower() for path in index.files)
    images = len(index.images)
    texts = index.with_suffix(".json", ".xml", ".csv", ".txt", ".tsv")
    likely = _most_likely(texts, {image.stem for image in index.images})
    for suffix, advice in _UNKNOWN.items():
        if counts[suffix]:
            example = index.with_suffix(suffix)[0]
            return f"{plural(counts[suffix], 'file')} such as {example}; {advice}"
    if not index.files:
        return "the folder is empty"
    if not images:
        archives = (message for path in index.files[:100] if (message := archive_message(path)) is not None)
        if (message := next(archives, None)) is not None:
            return message
        note = unread_images_note(index.files)
        found = f"{plural(len(index.files), 'file')}, and no image ({', '.join(sorted(IMAGE_SUFFIXES))})"
        return f"{found}; {note}" if note else found
    if likely is None:
        return (
            f"{plural(images, 'image')}, and no label file; label the images, or use `detector detect` to find objects "
            "in them"
        )
    if damaged := next((path for path in texts if is_damaged(path)), None):
        return f"{plural(images, 'image')}, and {damaged}, which is not valid JSON"
    problem = _problem(likely)
    return (
        f"{plural(images, 'image')}, and no label file in a known format; the label files may be {likely}"
        f"{f' ({problem})' if problem else ''}; save the labels as COCO JSON, YOLO or Pascal VOC, or as CSV: "
        "filename,class,xmin,ymin,xmax,ymax"
    )


def _most_likely(texts: Sequence[Path], image_stems: set[str]) -> Path | None:
    """Return the file that is most likely a label file; None if there is no text file."""

    def rank(path: Path) -> tuple[bool, bool, bool, bool]:
        is_table = path.suffix.lower() in (".csv", ".tsv") and bool(missing_columns(first_lines(path)))
        is_named_like_image = path.stem in image_stems or Path(path.stem.split("___")[0]).stem in image_stems
        is_other = any(word in path.stem.lower() for word in _NO_LABELS)
        return not is_table, not is_named_like_image, is_other, path.suffix.lower() == ".txt"

    return min(texts, key=rank, default=None)


def _problem(path: Path) -> str:
    """Return what is wrong with a file that may contain labels, and how to correct it; empty if this is unknown."""
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _problem_of_json(read_json_or_none(path))
    lines = [text for line in first_lines(path) if (text := line.lstrip("\ufeff").strip())]
    if suffix == ".xml" or not lines:
        return "" if lines else "it is empty"
    if suffix in (".csv", ".tsv"):
        return missing_columns(lines) or f"the first line is {shown(lines[0])}"
    return _problem_of_text(lines)


def _problem_of_json(value: Any) -> str:
    item = value[0] if isinstance(value, list) and value else value
    keys = set(item) if isinstance(item, dict) else set[str]()
    if isinstance(value, dict) and {"images", "annotations"} <= keys and "categories" not in keys:
        return 'it has `images` and `annotations`; add `categories`, such as [{"id": 1, "name": "cat"}]'
    for own, advice in _TOOLS:
        if own <= keys:
            return advice
    kind = "a list of objects" if item is not value else "an object"
    return f"{kind} with the keys {few_names([f'{key:.30}' for key in sorted(keys)], most=8)}" if keys else ""


def _problem_of_text(lines: Sequence[str]) -> str:
    first = lines[0]
    columns = first.split()
    with_spaces = first.replace(",", " ")
    are_fractions = all(0 <= (number(text) or 0) <= 1 for text in with_spaces.split()[1:])
    if "," in first and is_label_row(with_spaces) and are_fractions:
        return "its rows are YOLO rows with commas; separate the numbers by spaces"
    if len(columns) == 5 and number(columns[0]) is None and is_label_row(" ".join(["0", *columns[1:]])):
        return f"its rows begin with a class name, such as {shown(columns[0])}; in YOLO, they begin with its number"
    return f"the first line is {shown(first)}; a row of YOLO is `class cx cy width height`, in fractions"
