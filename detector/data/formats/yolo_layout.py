"""Finds the images, the label files and the class names of a YOLO dataset.

They are given by a `data.yaml`, by darknet's `obj.data`, or only by the folders: `images/` and `labels/`, label files
beside the images, and the class names in `classes.txt` or a similar file.
"""

import errno
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from detector.data.file_index import FileIndex, find_end
from detector.data.formats.yolo_data import NameFile, YoloData, label_places
from detector.data.path_guard import real_path
from detector.data.split import canonical_name, split_in, split_rank
from detector.errors import FileError, LabelError, location
from detector.files import is_file, read_text
from detector.images import IMAGE_SUFFIXES
from detector.wording import plural

NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "labels.txt", "predefined_classes.txt", "class_names.txt")
"""Files with one class name per line, in the order in which they are preferred; also `*.names`.

The names of the files may be in upper or lower case.
"""

_SPLIT_KEYS = ("train", "val", "valid", "validation", "test")


def parse_data_yaml(path: Path, values: Mapping[str, Any]) -> YoloData:
    """Check the contents of a `data.yaml`, find the files that it names, and return them.

    The keys are `path`, `train`, `val` (or `valid`, `validation`), `test`, `names`, `nc` and `kpt_shape`; other keys
    are ignored. A path that does not exist as written may be a path of another computer: its longest end that exists
    next to the YAML file is used.

    Args:
        path: the YAML file.
        values: contents of the YAML file with every scalar as text, so that a class named `no` does not become False.

    Raises:
        LabelError: there is no split, a class name occurs twice, the class ids are not 0..C-1, or a key has a wrong
            value.
    """
    names, notes = _parse_names(path, values)
    # In an exported dataset, `path` is often a path on another computer: the folder of the YAML file is tried too.
    roots = tuple(dict.fromkeys([path.parent / str(values.get("path") or "").replace("\\", "/"), path.parent]))
    splits: dict[str, tuple[Path, ...]] = {}
    absent: dict[str, str] = {}
    for key, places in _split_places(path, values).items():
        found = [find_place(place, roots, path) for place in places]
        existing = tuple(place for place in found if place is not None)
        if len(existing) == len(places):
            splits[key] = existing
        else:
            absent[key] = next(place for place, found_at in zip(places, found, strict=True) if found_at is None)
    if not splits and not absent:
        raise LabelError(f"{path}: expected at least one of `train`, `val`, `test`")
    name_files = find_name_files(_top_files(path.parent))
    names_at = values.get("names")
    names_from = find_place(names_at, (path.parent,), path) if isinstance(names_at, str) and names_at else None
    if names is None and name_files:
        names_from = name_files[0].path
        names = name_files[0].names
        notes.append(f"the class names are those of {name_files[0].path.name}, because {path.name} has no `names`")
    others = tuple(file for file in name_files if file.names != names)
    notes += _other_names_notes(path, names, others)
    return YoloData(path, roots, splits, absent, names, others, "kpt_shape" in values, tuple(notes), names_from)


def parse_obj_data(path: Path, index: FileIndex) -> YoloData:
    """Read darknet's `obj.data`, find the lists and the class names that it names, and return them.

    Raises:
        InputError: the file cannot be read, or a list that it names does not exist.
    """
    pairs = (line.partition("=") for line in read_text(path).split("\n") if "=" in line)
    values = {key.strip(): value.strip() for key, _, value in pairs}
    roots = tuple(dict.fromkeys([path.parent, index.folder]))
    splits, absent = {}, {}
    for key in _SPLIT_KEYS:
        if place := values.get(key):
            found = find_place(place, roots, path)
            if found is None:
                absent[canonical_name(key)] = place
            else:
                splits[canonical_name(key)] = (found,)
    names_at = find_place(values["names"], roots, path) if values.get("names") else None
    name_files = find_name_files(index.files)
    names = read_names(names_at) if names_at else name_files[0].names if name_files else None
    names_from = names_at or (name_files[0].path if name_files else None)
    others = tuple(file for file in name_files if file.names != names)
    return YoloData(path, roots, splits, absent, names, others, names_from=names_from)


def find_folders(index: FileIndex) -> YoloData | None:
    """Return the parts of a YOLO dataset that has neither a `data.yaml` nor an `obj.data`; None if it is not YOLO.

    It is YOLO if .txt files with the stems of images contain label rows. The splits are lists such as `train.txt`, or
    folders such as `train/`; without them, all images are in the split train. A folder whose images have only the names
    of labeled images elsewhere, such as a folder of copies with drawn boxes, is not part of the dataset.

    Raises:
        LabelError: two files with the same name, such as `classes.txt`, name different classes.
    """
    texts: dict[str, list[Path]] = {}
    for path in index.with_suffix(".txt"):
        texts.setdefault(path.stem, []).append(path)
    usual = {place for image in index.images for place in label_places(image) if image.stem in texts}
    folders: set[Path] = set()
    for image in index.images:
        if image.parent not in folders:
            expected = label_places(image)
            own = (text for text in texts.get(image.stem, ()) if text in expected or text not in usual)
            if any(map(has_label_row, islice(own, 2))):
                folders.add(image.parent)
    if not folders:
        return None
    splits: dict[str, list[Path]] = {}
    for path in index.with_suffix(".txt"):
        name = split_in(path.stem)
        if name and path.parent == index.folder and _names_images(path):
            splits.setdefault(name, []).append(path)
    has_lists = bool(splits)
    # A folder without any label file, such as a folder of example images, is not part of the dataset.
    labeled = [image for image in index.images if image.parent in folders]
    repeated = set() if has_lists else _repeated_by_links(labeled, index.folder)
    for image in () if has_lists else labeled:
        if image not in repeated:
            splits.setdefault(_split_of_image(image, index.folder) or "train", []).append(image)
    ordered = sorted(splits, key=split_rank)
    name_files = find_name_files(index.files)
    names = name_files[0].names if name_files else None
    if twin := next((file for file in name_files[1:] if file.path.name == name_files[0].path.name), None):
        raise LabelError(
            f"{index.folder}: {name_files[0].path} and {twin.path} name different classes; pass the path of one of "
            "their folders, or move the datasets into folders of their own"
        )
    others = tuple(name_files[1:])
    notes = _other_names_notes(name_files[0].path, names, others) if others else []
    if unused := [image for image in index.images if not has_lists and image.parent not in folders]:
        are = "is" if len(unused) == 1 else "are"
        notes.append(
            f"{plural(len(unused), 'image')} in folders without label files {are} not used, first: {unused[0]}"
        )
    if repeated:
        count, first = plural(len(repeated), "image"), min(repeated)
        notes.append(f"{count} found by two paths, because of links; each is used once, without the path {first}")
    places = {name: tuple(splits[name]) for name in ordered}
    names_from = name_files[0].path if name_files else None
    return YoloData(index.folder, (index.folder,), places, {}, names, others, notes=tuple(notes), names_from=names_from)


def _repeated_by_links(images: Sequence[Path], folder: Path) -> set[Path]:
    """Return the paths to leave out so that an image and the links to it are used once.

    Splits are often made of links into a folder with all images. So the path is kept whose folder names a split, or
    else the image itself. Two links to one file are two images: content-addressed stores keep equal files once.
    """
    files = {real_path(image): image for image in images if not image.is_symlink()}
    repeated = set()
    for link in images:
        if link.is_symlink() and (target := files.get(link.resolve())) is not None:
            prefers_link = _split_of_image(link, folder) and not _split_of_image(target, folder)
            repeated.add(target if prefers_link else link)
    return repeated


def _other_names_notes(used: Path, names: Sequence[str] | None, others: Iterable[NameFile]) -> list[str]:
    """Return notes about files that name other classes than the file that is used."""
    return [
        f"{used.name} names the classes {list(names or ())}, {file.path.name} names {list(file.names)}; "
        f"{used.name} is used"
        for file in others
    ]


def find_place(
    place: str,
    roots: Sequence[Path],
    named_in: Path,
    line: int | None = None,
    *,
    folders: dict[str, bool] | None = None,
) -> Path | None:
    """Return the file or folder `place`, or None if it does not exist.

    It is searched as written, relative to each root; then with `/` for backslashes; then the longest end of the path
    that exists in one of the roots.

    Args:
        place: path as written in a label file; may be a path of another computer.
        roots: folders that `place` may be relative to.
        named_in: the file that contains `place`, for error messages.
        line: line of that file.
        folders: as for `find_end`, for many calls.

    Raises:
        LabelError: `place` is not a valid path.
    """
    found: Path | None = None
    try:
        for written in dict.fromkeys((place, place.replace("\\", "/"))):
            for root in roots:
                if found is None and _exists(os.path.join(root, written)):  # noqa: PTH118 (fast)
                    found = root / written
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LabelError(f"{location(named_in, line)}: not a valid path: {place!r:.60} ({reason})") from None
    if found is not None and place.replace("\\", "/").startswith("../"):
        _check_unambiguous(found, place, roots, named_in, line)
    return found or find_end(place, roots, folders)


def _exists(path: str) -> bool:
    """Return whether a path exists, as `Path.exists`, but faster; raise OSError or ValueError if it is not valid."""
    try:
        os.stat(path)  # noqa: PTH116
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP):
            raise
        return False
    return True


def _check_unambiguous(found: Path, place: str, roots: Sequence[Path], named_in: Path, line: int | None) -> None:
    """Raise LabelError if a path such as `../train/images` exists both as written and without the `..`.

    Roboflow writes such paths, but means the folder inside of the dataset. What exists outside may be another
    dataset.
    """
    inside = find_end(place, roots)
    if inside is not None and inside.resolve() != found.resolve():
        raise LabelError(
            f"{location(named_in, line)}: {place} may be {found.resolve()} or {inside.resolve()}; write the absolute "
            "path of the one that you mean"
        )


def find_name_files(files: Iterable[Path]) -> list[NameFile]:
    """Return the files that name the classes, the preferred ones first; files with the same names only once."""
    found: list[tuple[int, NameFile]] = []
    for path in files:
        name = path.name.lower()
        rank = NAME_FILES.index(name) if name in NAME_FILES else len(NAME_FILES)
        if rank < len(NAME_FILES) or name.endswith(".names"):
            names = read_names(path)
        elif path.name == "notes.json":
            names = _read_notes(path)
        else:
            continue
        if names and not (path.suffix == ".txt" and has_label_row(path)):
            found.append((rank, NameFile(path, names)))
    found.sort(key=lambda pair: (pair[0], len(pair[1].path.parts)))
    unique: dict[tuple[str, ...], NameFile] = {}
    for _, file in found:
        unique.setdefault(file.names, file)
    return list(unique.values())


def _split_places(path: Path, values: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return split name → paths as written in the YAML file; raise LabelError if a value is not a path."""
    places: dict[str, tuple[str, ...]] = {}
    for key in _SPLIT_KEYS:
        value = values.get(key)
        own = tuple(value) if isinstance(value, list) else (value,)
        if own in ((None,), ("",), ("null",), ("~",), ()):
            continue
        if not all(isinstance(place, str) for place in own):
            raise LabelError(
                f"{path}: `{key}` must be a folder, a .txt list of images, or a YAML list of folders and .txt lists"
            )
        if canonical_name(key) in places:
            raise LabelError(
                f"{path}: two keys define the split {canonical_name(key)}; remove `{key}` or the other key"
            )
        places[canonical_name(key)] = own
    return places


def _parse_names(path: Path, values: Mapping[str, Any]) -> tuple[tuple[str, ...] | None, list[str]]:
    """Return the class names of a YAML file, or None if it has none, and notes for the user.

    Raises:
        LabelError: a name occurs twice, the class ids are not 0..C-1, or a key has a wrong value.
    """
    # Messages contain only text values: a value with nested YAML aliases could become endlessly long.
    if not isinstance(values.get("nc", ""), str) or not isinstance(values.get("path", ""), str):
        raise LabelError(f"{path}: `nc` must be a number and `path` a folder")
    names = values.get("names")
    if names in (None, "", [], {}):
        return None, []
    if isinstance(names, str) and (file := find_place(names, (path.parent,), path)) is not None and is_file(file):
        return read_names(file), []
    if isinstance(names, dict):
        if set(names) != {str(i) for i in range(len(names))}:
            raise LabelError(
                f"{path}: the class ids in `names` must be 0, 1, 2, ... without a gap, got {', '.join(names)}"
            )
        names = [names[str(i)] for i in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise LabelError(f"{path}: `names` must list the classes, for example `names: [cat, dog]`")
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise LabelError(f"{path}: `names` contains {repeated[0]!r:.60} twice; give each class a different name")
    notes = []
    if values.get("nc", "") not in ("", str(len(names))):
        notes.append(f"{path.name}: `nc` is {values['nc']}, but `names` has {len(names)} classes; `names` is used")
    return tuple(names), notes


def read_names(path: Path) -> tuple[str, ...]:
    """Return the class names in a file with one name per line."""
    lines = [line.strip() for line in read_text(path).split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return tuple(lines)


def _read_notes(path: Path) -> tuple[str, ...]:
    """Return the class names in the notes.json of Label Studio; an empty tuple if it has none."""
    try:
        categories = json.loads(read_text(path))["categories"]
        names = {int(category["id"]): str(category["name"]) for category in categories}
    except (FileError, ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return ()
    return tuple(names[i] for i in sorted(names)) if set(names) == set(range(len(names))) else ()


def _top_files(folder: Path) -> list[Path]:
    """Return the files directly in a folder and in its folders `labels`."""
    return [path for place in (folder, folder / "labels") if place.is_dir() for path in sorted(place.iterdir())]


def _split_of_image(image: Path, folder: Path) -> str | None:
    """Return the split that a folder of an image names, the nearest first; None if none does."""
    parts = image.relative_to(folder).parts[:-1]
    return next((split for part in reversed(parts) if (split := split_in(part))), None)


_ROW = re.compile(r"\d+(\.0+)?([ \t]+[-+.\deE]+){4,}[ \t]*")


def is_label_row(text: str) -> bool:
    """Return whether a line of text is a label row."""
    return _ROW.fullmatch(text.strip()) is not None


def has_label_row(path: Path) -> bool:
    """Return whether the first line of a text file is a label row."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            return next((is_label_row(line) for line in file if line.strip()), False)
    except OSError:
        return False


def _names_images(path: Path) -> bool:
    """Return whether the first line of a text file is the path of an image."""
    first = next((line.strip() for line in read_text(path).split("\n") if line.strip()), "")
    return Path(first.replace("\\", "/")).suffix.lower() in IMAGE_SUFFIXES
