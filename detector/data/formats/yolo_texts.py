"""Accounts for the text files of a YOLO dataset that are not the label file of an image.

The rows of a label file without an image are dropped. Other label files and class names that are not used are noted.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from detector.data.file_index import FileIndex
from detector.data.formats.yolo_data import SplitFiles, YoloData, label_folder
from detector.data.formats.yolo_files import list_files
from detector.data.formats.yolo_layout import NAME_FILES, has_label_row, read_names
from detector.data.formats.yolo_rows import Rows, is_row, read_lines
from detector.data.path_guard import real_path
from detector.data.recognize import unused_label_files
from detector.data.row_collector import RowCollector, RowError
from detector.errors import InputError
from detector.wording import few_names, plural

_MAX_SNIFFED = 20
"""In a folder with more text files that are not used, only the first few are opened to recognize label files."""

_NO_IMAGE = "there is no image for this label file"
_NO_IMAGE_CASE = f"{_NO_IMAGE} (upper and lower case count)"


def account_for_texts(data: YoloData, name: str, collector: RowCollector, rows: Rows) -> None:
    """Drop the rows of label files without image in the folders of a split; note other files that are not used.

    Files that belong to no split are accounted for with the first split.

    Args:
        data: the dataset.
        name: name of the split.
        collector: gets the dropped rows and the notes.
        rows: parses the rows of the split.

    Raises:
        InputError: a label file cannot be read, or is outside of the dataset's folders.
    """
    files = list_files(data, name)
    known = {label for label in files.labels if label is not None}
    _drop_orphans(data, files, known, collector, rows)
    _account_beside_images(data, files, known, collector, rows)
    if name == next(iter(data.splits)):
        _drop_other_orphans(data, files, known, collector, rows)
        _note_unused(data, known, collector)


def _drop_orphans(data: YoloData, files: SplitFiles, known: set[Path], collector: RowCollector, rows: Rows) -> None:
    """Drop the rows of label files without an image. A text file without any label row is left alone, with a note.

    Args:
        data: the dataset.
        files: the files of the split.
        known: the text files that are accounted for; the function adds others.
        collector: gets the dropped rows and the notes.
        rows: parses the rows of the split.
    """
    for folder in dict.fromkeys(files.label_folders):
        index = FileIndex(folder, data.guard)
        index.check_links()
        for orphan in index.with_suffix(".txt"):
            if orphan in known or _names_classes(orphan):
                continue
            known.add(orphan)
            data.guard.check(orphan, orphan.parent)
            if _drop_rows(orphan, _NO_IMAGE, collector, rows):
                collector.add_note(f"{orphan} contains no label rows and is not used")


def _account_beside_images(
    data: YoloData, files: SplitFiles, known: set[Path], collector: RowCollector, rows: Rows
) -> None:
    """Account for label files in the folders of images if the label files are in other folders.

    If an image has both, its other label file is used, and a different one beside it is noted.
    """
    beside = [text for text in files.texts if text not in known and not _names_classes(text)]
    if not beside:
        return
    labels = {image.with_suffix(""): label for image, label in zip(files.images, files.labels, strict=True)}
    different: list[Path] = []
    for text in beside:
        known.add(text)
        label = labels.get(text.with_suffix("")) if text.suffix == ".txt" else None
        if label is None:
            data.guard.check(text, text.parent)
            _drop_rows(text, _NO_IMAGE_CASE, collector, rows)
        elif _rows_of(text) != _rows_of(label):
            different.append(text)
    if different:
        used = labels[different[0].with_suffix("")]
        collector.add_note(
            f"not used: {plural(len(different), 'label file')} beside an image with another label file, which is used "
            f"and has other rows, first: {different[0]}; used: {used}"
        )


def _drop_other_orphans(
    data: YoloData, files: SplitFiles, known: set[Path], collector: RowCollector, rows: Rows
) -> None:
    """Drop the rows of label files without an image in label folders that no folder of the dataset names.

    These are the folders of the label files if the images are in a list, or if there is no data.yaml. Such a folder may
    have the label files of several splits, so an image of any split counts.
    """
    folders = {label.parent for label in files.labels if label}
    folders |= set(map(label_folder, {image.parent for image in files.images}))
    stems = {image.stem for image in (*data.index.images, *files.images)}
    one_path_each = {folder.resolve(): folder for folder in sorted(folders, reverse=True)}  # lists may write `..`
    for folder in sorted(one_path_each.values()):
        if not folder.is_dir() or any(folder.is_relative_to(other) for other in files.label_folders):
            continue
        for path in sorted(folder.iterdir()):
            is_orphan = path.suffix.lower() == ".txt" and (path.stem not in stems or path.suffix != ".txt")
            if not is_orphan or path in known or path.name.startswith(".") or not path.is_file():
                continue
            if _names_classes(path) or not data.guard.allows(path):
                continue
            known.add(path)
            _drop_rows(path, _NO_IMAGE_CASE, collector, rows)


def _note_unused(data: YoloData, known: set[Path], collector: RowCollector) -> None:
    """Add notes about label files that belong to no image of any split, and about other class names.

    Args:
        data: the dataset.
        known: the text files that are accounted for.
        collector: gets the notes.
    """
    if data.files is None:
        return
    known = known | {place for places in data.splits.values() for place in places}
    folders: list[Path] = []
    for name in data.splits:
        with suppress(InputError):  # reading this split reports the fault
            files = list_files(data, name)
            known |= {label for label in files.labels if label is not None}
            folders += [*files.folders, *files.label_folders]  # reading this split accounts for the files in them
    # Lists may name images by absolute paths, or with `..`, and label files may be links to each other.
    real = {*map(real_path, known), *(path.resolve() for path in known if path.is_symlink())}
    inside = tuple(f"{folder.resolve()}{os.sep}" for folder in folders)
    texts = [path for path in data.files.with_suffix(".txt", ".names", ".labels") if real_path(path) not in real]
    labels = _label_files(
        path for path in texts if path.suffix.lower() == ".txt" and not str(real_path(path)).startswith(inside)
    )
    if labels:
        count = plural(len(labels), "label file")
        collector.add_note(f"not used: {count} that no image of any split points to, first: {labels[0]}")
    if unused := unused_label_files(data.files, (), "yolo"):
        collector.add_note(f"not used: {', '.join(unused)}")
    others = {file.path for file in data.name_files}
    for path in texts:
        if path not in others and _names_classes(path) and (names := read_names(path)) and names != data.class_names:
            collector.add_note(f"{path} names other classes ({few_names(names, most=3):.200}) and is not used")


def _label_files(paths: Iterable[Path]) -> list[Path]:
    """Return the text files that look like label files; of many files in a folder, only the first are opened."""
    by_folder: dict[Path, list[Path]] = {}
    for path in paths:
        by_folder.setdefault(path.parent, []).append(path)
    found: list[Path] = []
    for own in by_folder.values():
        sniffed = [path for path in islice(own, _MAX_SNIFFED) if has_label_row(path)]
        found += [*sniffed, *own[_MAX_SNIFFED:]] if sniffed else []
    return found


def _names_classes(path: Path) -> bool:
    """Return whether a file has the name of a file with class names, and contains no label rows."""
    return (path.name.lower() in NAME_FILES or path.suffix.lower() == ".names") and not has_label_row(path)


def _rows_of(path: Path) -> Sequence[list[str]]:
    """Return the columns of each row of a label file."""
    return [text.split() for _, text in read_lines(path)]


def _drop_rows(path: Path, reason: str, collector: RowCollector, rows: Rows) -> bool:
    """Drop all rows of a text file without an image, if it is a label file; return whether it has only other text."""
    lines = list(read_lines(path))
    is_label_file = any(is_row(text, rows) for _, text in lines)
    for line, _ in lines if is_label_file else ():
        collector.drop(None, path, line, RowError("unknown_image", reason))
    return bool(lines) and not is_label_file
