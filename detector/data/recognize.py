"""Recognizes the format of label files by their content."""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from detector.data.file_index import FileIndex
from detector.data.formats import voc
from detector.data.formats.named_formats import NAMED_FORMATS
from detector.data.formats.yolo_layout import find_folders
from detector.data.image_labels import LabelFormat
from detector.wording import plural

_MAX_SNIFFED = 500
"""In a folder with more files of one suffix, only the first few are opened to recognize their format."""

_MAX_PARSED = 32_000_000
"""Larger JSON files, in bytes, are recognized by their beginning and end, which contain the names of the lists."""

_LINES = 20
"""Number of lines of a text file that are read to recognize its format."""

_UNUSED_SUFFIXES = (".json", ".jsonl", ".manifest", ".xml", ".csv", ".tsv")
"""Suffixes of label files that are reported if they are not used."""

_CLASS_FILES = ("classes.txt", "obj.names", "_darknet.labels", "predefined_classes.txt", "class_names.txt")
"""Files that name the classes, but only in YOLO."""

_KINDS: Mapping[str, tuple[str, ...]] = {
    ".json": ("json",),
    ".jsonl": ("jsonl",),
    ".manifest": ("jsonl",),
    ".xml": ("xml",),
    ".csv": ("csv",),
    ".tsv": ("csv",),
    ".txt": ("txt", "csv"),
    "": ("xml",),
}
"""Suffix → kinds of the label formats that files with this suffix may have; all kinds of a suffix are opened alike."""

_ROOT_TAG = re.compile(r"<(?:[A-Za-z_][\w.-]*:)?([A-Za-z_][\w.-]*)")


def is_coco(value: object) -> bool:
    """Return whether a parsed JSON value is a COCO file with boxes: it has images, annotations and categories."""
    return isinstance(value, dict) and all(
        isinstance(value.get(key), list) for key in ("images", "annotations", "categories")
    )


def named_format_of(path: Path) -> LabelFormat | None:
    """Return the format of a label file whose rows name their classes; None if it has no such format."""
    kinds = _KINDS.get(path.suffix.lower())
    if kinds is None:
        return None
    content: Any = _SNIFFERS[kinds[0]](path)
    if content in (None, [], ""):
        return None
    place = path.as_posix().lower()
    possible = (f for f in NAMED_FORMATS if f.kind in kinds and place.endswith(f.path_end))
    return next((f for f in possible if f.matches(content)), None)


def find_named_files(index: FileIndex) -> dict[str, tuple[LabelFormat, tuple[Path, ...]]]:
    """Return name of a format → (format, label files in this format), in the order of `NAMED_FORMATS`."""
    found: dict[str, list[Path]] = {}
    image_stems = {image.stem for image in index.images}
    for suffix in _KINDS:
        by_folder: dict[Path, list[Path]] = {}
        for path in index.with_suffix(suffix) if suffix else index.without_suffix():
            by_folder.setdefault(path.parent, []).append(path)
        for paths in by_folder.values():
            for path, label_format in _formats_in_folder(paths, image_stems):
                found.setdefault(label_format.name, []).append(path)
    if own := found.get(voc.FORMAT.name):
        own += _damaged_voc(index, found, image_stems)
    return {f.name: (f, tuple(found[f.name])) for f in NAMED_FORMATS if f.name in found}


def _damaged_voc(index: FileIndex, found: Mapping[str, list[Path]], image_stems: Set[str]) -> list[Path]:
    """Return the XML files without a known format that are named like an image, so that reading reports the fault.

    XML with another root element in another folder than the label files, such as that of an app, is no damaged file.
    """
    known = {path for paths in found.values() for path in paths}
    folders = {path.parent for path in found[voc.FORMAT.name]}
    others = [path for path in index.with_suffix(".xml") if path not in known and path.stem in image_stems]
    return [path for path in others if path.parent in folders or not _root_tag(path)]


def _formats_in_folder(paths: list[Path], image_stems: Set[str]) -> Iterable[tuple[Path, LabelFormat]]:
    """Yield (path, format) of the files of one suffix in a folder, except files without a known format.

    Beside label files of single images, a file that cannot be parsed is yielded too, so that reading it reports the
    fault, and so is a text file with the name of an image, because it may be empty. In a folder `Annotations`, every
    XML file without another format counts as Pascal VOC.

    Args:
        paths: the files.
        image_stems: names of the images of the dataset without suffixes.
    """
    sniffed = {path: named_format_of(path) for path in (paths if len(paths) <= _MAX_SNIFFED else paths[:10])}
    per_image = [
        label_format for label_format in sniffed.values() if label_format is not None and label_format.per_image
    ]
    if not per_image and paths[0].suffix.lower() == ".xml" and paths[0].parent.name.lower() == "annotations":
        per_image = [voc.FORMAT]
    common = per_image[0] if per_image else None
    for path in paths:
        label_format = sniffed.get(path)
        if label_format is not None:
            yield path, label_format
        elif common is not None and (common.kind == "txt" or not path.suffix):
            if path.stem in image_stems:
                yield path, common
        elif common is not None and (path not in sniffed or common.kind == "xml" or is_damaged(path)):
            yield path, common


def is_damaged(path: Path) -> bool:
    """Return whether a file is not JSON, although its suffix says so."""
    return path.suffix.lower() == ".json" and read_json_or_none(path) is None


def find_coco_files(index: FileIndex) -> list[Path]:
    """Return the JSON files that are COCO files with boxes."""
    paths = index.with_suffix(".json")
    crowded = {folder for folder, count in Counter(p.parent for p in paths).items() if count > _MAX_SNIFFED}
    return [path for path in paths if path.parent not in crowded and is_coco_file(path)]


def is_coco_file(path: Path) -> bool:
    """Return whether a file is a COCO file with boxes. A large file is not parsed completely."""
    try:
        size = path.stat().st_size
        if size <= _MAX_PARSED:
            return is_coco(read_json_or_none(path))
        with path.open("rb") as file:
            head = file.read(1_000_000)
            file.seek(size - 1_000_000)
            text = head + file.read()
    except OSError:
        return False
    return b'"images"' in text and (b'"annotations"' in text or b'"categories"' in text)


def unused_label_files(index: FileIndex, used: Iterable[Path], kind: str) -> list[str]:
    """Return the label files of a folder that are not used, such as "2 VIA JSON files", as texts for the user.

    Only the first file of each suffix and folder is opened to recognize its format, except JSON files.

    Args:
        index: all files of the dataset.
        used: the label files that are used.
        kind: what is used: "coco", "yolo", or the name of another format.
    """
    used, found = set(used), Counter[str]()
    names: list[str] = []
    for (_, suffix), paths in _by_folder_and_suffix(index, _UNUSED_SUFFIXES).items():
        rest = [path for path in paths if path not in used]
        if suffix == ".json" and len(rest) <= _MAX_SNIFFED // 10:
            names += [f"{path.name} (not valid JSON)" for path in rest if _is_small(path) and is_damaged(path)]
            coco = [path for path in rest if is_coco_file(path)]
            names += [path.name for path in coco]
            rest = [path for path in rest if path not in coco]
        label_format = named_format_of(rest[0]) if rest and _is_small(rest[0]) else None
        if label_format is not None and label_format.name != kind:
            found[f"{label_format.name} file"] += len(rest)
        elif rest and suffix != ".json" and used & set(paths):
            names += [path.name for path in rest[:3]]  # beside files of the same suffix, such as a CSV in UTF-16
    if kind != "yolo" and kind != "KITTI text" and find_folders(index) is not None:
        names.append("YOLO text files")
    if kind not in ("yolo", "Keras YOLO text"):
        names += [path.name for path in index.with_suffix(*_CLASS_FILES) if path.name in _CLASS_FILES]
    shown = [*names[:3], *([f"{len(names) - 3} more"] if len(names) > 3 else [])]
    return shown + [plural(count, name) for name, count in found.items()]


def _by_folder_and_suffix(index: FileIndex, suffixes: tuple[str, ...]) -> dict[tuple[Path, str], list[Path]]:
    """Return (folder, suffix) → files."""
    groups: dict[tuple[Path, str], list[Path]] = {}
    for path in index.with_suffix(*suffixes):
        groups.setdefault((path.parent, path.suffix.lower()), []).append(path)
    return groups


def _is_small(path: Path) -> bool:
    """Return whether a file is small enough to be parsed only to recognize it."""
    try:
        return path.stat().st_size <= _MAX_PARSED
    except OSError:
        return False


def read_json_or_none(path: Path) -> Any:
    """Return the parsed contents of a JSON file, or None if it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None


def _root_tag(path: Path) -> str:
    """Return the tag of the root element of an XML file; an empty text if there is none."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            head = file.read(4096)
    except OSError:
        return ""
    head = re.sub(r"<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^>\[]*(\[.*?\])?[^>]*>", "", head, flags=re.DOTALL)
    match = _ROOT_TAG.search(head)
    return match[1] if match else ""


def first_lines(path: Path) -> list[str]:
    """Return the first lines of a text file without line ends, at most 20."""
    return [line.rstrip("\n")[: csv.field_size_limit()] for line in _head(path)]


def _json_lines(path: Path) -> list[Any]:
    """Return the values of those of the first 20 lines of a file that are JSON."""
    values = []
    for line in _head(path):
        with suppress(ValueError, RecursionError):
            values.append(json.loads(line))
    return values


def _head(path: Path) -> list[str]:
    """Return the first lines of a text file, at most 20."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline=None) as file:
            return list(islice(file, _LINES))
    except OSError:
        return []


_SNIFFERS: Mapping[str, Callable[[Path], Any]] = {
    "json": read_json_or_none,
    "jsonl": _json_lines,
    "xml": _root_tag,
    "csv": first_lines,
    "txt": first_lines,
}
"""Kind of a label format → function that returns the argument of `LabelFormat.matches`."""
