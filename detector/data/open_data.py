"""Recognizes the format of a dataset by its path, and opens it without reading the labels.

Besides the files and folders of the label formats, a path may be `scenes` (the built-in dataset) or a dataset
description: a YAML file with `format` and `path`, as in datasets/.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from detector.data.archives import archive_message
from detector.data.data_set import DataSet
from detector.data.file_index import FileIndex
from detector.data.formats import coco, voc, yolo, yolo_layout
from detector.data.formats.coco_layout import coco_splits, named_like_splits, usual_coco_files
from detector.data.formats.yolo_data import YoloData
from detector.data.formats.yolo_layout import find_folders, parse_obj_data
from detector.data.image_labels import LabelFormat
from detector.data.listed_splits import ListedSplits
from detector.data.named_labels import NamedLabels
from detector.data.path_guard import PathGuard
from detector.data.recognize import (
    find_coco_files,
    find_named_files,
    is_coco_file,
    named_format_of,
    unused_label_files,
)
from detector.data.scenes import scenes
from detector.data.split import SPLITS, canonical_name, split_in, split_rank
from detector.data.unknown_format import explain_unknown
from detector.data.yaml_files import find_yaml, read_data_yaml
from detector.errors import FileError, InputError, LabelError, did_you_mean
from detector.files import local_path
from detector.mirror import mirror
from detector.object_store import is_store_url
from detector.options import MAX_PIXELS, ReadOptions
from detector.wording import plural

_FORMATS = ("coco", "yolo", "voc", "scenes", "auto")
_FORMAT_TITLES: Mapping[str, str] = {"coco": "coco json", "yolo": "yolo", "voc": "pascal voc"}
_LABEL_FOLDERS = ("annotations", "labels")
_KEYS = ("format", "path", "splits", "names", "source", "license", "expected")
_ACCEPTED = (
    "read are COCO JSON, YOLO, Pascal VOC, CSV, darknet, Keras YOLO text, CreateML, VIA, LabelMe, CVAT, Label Studio, "
    "Supervisely, KITTI, OpenImages, Datumaro, Hugging Face imagefolder, SageMaker manifests, VoTT, "
    "Scalabel, SuperAnnotate, VisDrone, DOTA and MOT, or `scenes` (built in); see docs/data.md"
)


def open_data(spec: str | Path, *, allow_outside: bool = False, max_pixels: int = MAX_PIXELS) -> DataSet:
    """Recognize the format and the splits of a dataset, and return the `DataSet` without reading all its labels.

    Args:
        spec: `scenes`, or the path of a file or folder in one of the formats described in docs/data.md, or the URL of
            one in an object store or a zip archive, such as `s3://bucket/folder`; see docs/remote.md.
        allow_outside: whether label files, lists and links may lead to files outside of the dataset's folder.
        max_pixels: largest number of pixels of an image that is decoded. Larger images count as missing or unreadable.

    Raises:
        FileError: `spec` is not "scenes", and no file or folder exists at this path.
        LabelError: the file or folder has no known format. The message says what was found, and what to do.
        ConfigError: `max_pixels` is below 1.
        MissingPackageError: the package for this kind of URL is not installed.
        StorageError: a label file at the URL cannot be read.
    """
    options = ReadOptions(allow_outside=allow_outside, max_pixels=max_pixels)
    path = mirror(str(spec), labels=True, parts=_LABEL_FOLDERS) if is_store_url(spec) else local_path(spec)
    if not _exists(path):
        if str(spec) == "scenes":
            return _open_scenes()
        raise FileError(f"{spec}: no such file or folder; {_ACCEPTED}")
    if path.is_dir():
        return _open_folder(path, options)
    if path.suffix.lower() in (".yaml", ".yml"):
        return _open_yaml(path, options)
    return _open_file(path, options)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # the name is not a valid file name, or access is denied
        return False


def _open_folder(folder: Path, options: ReadOptions, described: bool = False) -> DataSet:
    """Open a folder: COCO JSON with the usual names, a YAML file, other COCO JSON, other formats, then plain YOLO.

    Args:
        folder: the folder.
        options: what may be read.
        described: whether a dataset description led to this folder. Another description in it is then ignored.

    Raises:
        LabelError: the folder has no known format.
    """
    index = _index(folder, options)
    if files := usual_coco_files(index):
        return _with_unused(_open_coco(files, index, options), index, files.values(), "coco")
    if (yaml_file := find_yaml(index, described)) is not None:
        values = read_data_yaml(yaml_file)
        if "format" in values:
            return _open_description(yaml_file, values, options)
        yaml_data = yolo_layout.parse_data_yaml(yaml_file, values)
        yolo_data = yaml_data if yaml_data.splits else _search_yolo(index, yaml_data) or yaml_data
        index.check_links(replace(yolo_data, options=options).guard)
        data_set = _open_yolo(yolo_data, options)
        return _with_unused(data_set, index, (), "yolo")
    if coco_files := find_coco_files(index):
        files = coco_splits(coco_files, index)
        return _with_unused(_open_coco(files, index, options), index, files.values(), "coco")
    named = find_named_files(index)
    if named:
        found = list(named.values())
        chosen, paths = (
            found[0]
            if len(found) == 1
            else next((pair for pair in found if _has_objects(*pair, index, options)), found[0])
        )
        also = [plural(len(others), f"{other.name} file") for other, others in found if other is not chosen]
        counted = [f" {other.name} file" for other, _ in found if other is not chosen]
        unused = unused_label_files(index, paths, chosen.name)
        also += [text for text in unused if not any(kind in text for kind in counted)]
        return _open_named(folder, chosen, paths, index, options, also=also)
    index.check_links()
    if (data := _search_yolo(index)) is not None:
        return _with_unused(_open_yolo(data, options), index, (), "yolo")
    if files := named_like_splits(index):
        return _open_coco(files, index, options)  # reading it says what is wrong with the file
    raise LabelError(f"{folder}: not a dataset in a known format: {explain_unknown(index)}; {_ACCEPTED}")


def _index(folder: Path, options: ReadOptions) -> FileIndex:
    """Return the files of a dataset. Of a folder with only the label files, the images are in the folder above."""
    is_inner = folder.name.lower() in _LABEL_FOLDERS
    return FileIndex(folder, PathGuard([folder, *([folder.parent] if is_inner else [])], options))


def _with_unused(data_set: DataSet, index: FileIndex, used: Iterable[Path], kind: str) -> DataSet:
    """Return the dataset with the label files that are not used in its description; see `unused_label_files`."""
    unused = unused_label_files(index, used, kind)
    text = f" (not used: {', '.join(unused)} in the same folder)" if unused else ""
    # The YOLO reader adds its own note, because a data.yaml alone leads to it too.
    return replace(data_set, description=data_set.description + text, unused=unused if kind != "yolo" else ())


def _has_objects(label_format: LabelFormat, paths: tuple[Path, ...], index: FileIndex, options: ReadOptions) -> bool:
    """Return whether label files contain any object. Some tools write an empty file of another format too.

    Files that cannot be read count as files with objects, so that reading them reports the fault.
    """
    try:
        return NamedLabels(label_format, index, paths, options).has_objects()
    except InputError:
        return True


def _search_yolo(index: FileIndex, incomplete: YoloData | None = None) -> YoloData | None:
    """Return the YOLO dataset that darknet's `obj.data` or the folders define; None if it is not YOLO.

    Args:
        index: all files of the dataset.
        incomplete: contents of a `data.yaml` whose splits do not exist. Its class names are used if no other file names
            the classes.
    """
    sources = [] if incomplete is None else [incomplete]
    sources += [parse_obj_data(path, index) for path in index.with_suffix(".data")[:1]]
    data = next((own for own in sources if own.splits), None) or find_folders(index)
    if data is None:
        return sources[-1] if sources else None
    notes = []
    is_darknet = any(own is data for own in sources)
    used_instead = f"{data.source.name} is used" if is_darknet else "all images with labels are used"
    for own in sources:
        if own is data:
            break
        notes += [
            f"{own.source.name}: {name} is {place}, which does not exist; {used_instead}"
            for name, place in own.absent.items()
        ]
        if own is incomplete and data.class_names is None:
            data = replace(data, class_names=own.class_names, names_from=own.names_from)
        elif own is incomplete and data.class_names != own.class_names:
            theirs, used = list(own.class_names or ()), list(data.class_names or ())
            notes.append(f"{own.source.name} names the classes {theirs}, but {used} are used, from another file")
    return replace(data, notes=(*notes, *data.notes))


def _open_file(path: Path, options: ReadOptions) -> DataSet:
    """Open a label file, whose images are in its folder or in a folder beside it.

    Raises:
        LabelError: the file has no known format.
    """
    if (message := archive_message(path)) is not None:
        raise LabelError(message)
    folder = path.parent.parent if path.parent.name.lower() in _LABEL_FOLDERS else path.parent
    name = split_in(path.stem) or canonical_name(path.parent.name)
    name = name if name in SPLITS else "train"
    if path.suffix.lower() == ".data":
        return _open_yolo(parse_obj_data(path, _index(path.parent, options)), options)
    is_coco = path.suffix.lower() == ".json" and is_coco_file(path)
    if not is_coco and (label_format := named_format_of(path)) is not None:
        return _open_named(path, label_format, (path,), _index(folder, options), options)
    if path.suffix.lower() == ".json":
        return _open_coco({name: path}, _index(folder, options), options, kind="file")
    raise LabelError(f"{path}: not a label file in a known format; {_ACCEPTED}")


def _open_scenes() -> DataSet:
    readers = {name: partial(scenes.read_split, name) for name in SPLITS}
    return DataSet("built-in scenes: train, val, test", readers)


def _open_coco(files: Mapping[str, Path], index: FileIndex, options: ReadOptions, kind: str = "folder") -> DataSet:
    index.check_links()
    coco_files = coco.CocoFiles(files, index, options)
    readers = {name: partial(coco_files.read, name) for name in files}
    path = index.folder if kind == "folder" else next(iter(files.values()))
    return DataSet(_describe(f"COCO JSON {kind}", path, files), readers, coco_files=files)


def _open_named(
    path: Path,
    label_format: LabelFormat,
    paths: Sequence[Path],
    index: FileIndex,
    options: ReadOptions,
    *,
    class_names: tuple[str, ...] = (),
    also: Sequence[str] = (),
) -> DataSet:
    """Open label files in a format whose rows name their classes.

    Args:
        path: the folder or the label file that the user named.
        label_format: the format.
        paths: the label files.
        index: all files of the dataset.
        options: what may be read.
        class_names: names of the classes in the order of the class ids; empty: all names in the files, sorted.
        also: label files in other formats in the same folder, as text for the description.
    """
    index.check_links()
    lists, notes = voc.split_lists(index, paths) if label_format is voc.FORMAT else ({}, {})
    labels = NamedLabels(label_format, index, tuple(paths), options, class_names, lists, notes)
    names = labels.split_names
    details = []
    if len(names) > 1:
        details.append("splits by lists" if lists else "splits by label files and folders")
    if also:
        details.append(f"not used: {', '.join(also)} in the same folder")
    kind = "folder" if path.is_dir() else "file"
    text = _describe(f"{label_format.name} {kind}", path, names) + (f" ({'; '.join(details)})" if details else "")
    return DataSet(text, {name: partial(labels.read, name) for name in names}, unused=also)


def _open_yaml(path: Path, options: ReadOptions) -> DataSet:
    values = read_data_yaml(path)
    if "format" in values:
        return _open_description(path, values, options)
    return _open_yolo(yolo_layout.parse_data_yaml(path, values), options)


def _open_yolo(data: YoloData, options: ReadOptions) -> DataSet:
    """Open a YOLO dataset.

    Raises:
        LabelError: none of its splits exists, or the file with the class names is outside of its folders.
    """
    data = replace(data, options=options)
    # The names are stored with the weights and shown, so a downloaded dataset must not take them from any file.
    guard = PathGuard(data.roots, options)
    for file in (*([data.names_from] if data.names_from else []), *(file.path for file in data.name_files)):
        guard.check(file, data.source)
    absent = ", ".join(f"{name} at {place}" for name, place in data.absent.items())
    if not data.splits:
        raise LabelError(
            f"{data.source}: no images: {absent} does not exist; searched the ends of these paths in {data.roots[-1]}"
        )
    splits = {name: data.splits[name] for name in sorted(data.splits, key=split_rank)}
    readers = {name: partial(yolo.read_split, data, name) for name in splits}
    source = data.source.parent if data.source.stem in ("data", "obj") else data.source
    text = _describe("YOLO dataset", source, splits)
    return DataSet(text + (f" (named, but absent: {absent})" if absent else ""), readers, absent=data.absent)


def _open_description(path: Path, values: dict[str, Any], options: ReadOptions) -> DataSet:
    for key in values:
        if key not in _KEYS:
            raise LabelError(f"{path}: unknown key '{key}'; {did_you_mean(key, _KEYS)}")
    expected = _parse_expected(path, values.get("expected", {}))
    data_set = _open_described(path, values, options)
    if "splits" in values:
        data_set = _open_lists(path, values, data_set)
    return replace(data_set, expected=expected)


def _open_lists(path: Path, values: dict[str, Any], source: DataSet) -> DataSet:
    """Return the dataset whose splits are lists of images of another dataset."""
    if values["format"] == "scenes":
        raise LabelError(f"{path}: `splits` needs images that are files, and `format: scenes` has none")
    listed = ListedSplits(path, path.parent / values["path"], values["splits"], source.split_names, source.read)
    readers = {name: partial(listed.read, name) for name in listed.split_names}
    return DataSet(_describe("lists of images", path.parent, readers) + f" (from {source.description})", readers)


def _open_described(path: Path, values: dict[str, Any], options: ReadOptions) -> DataSet:
    """Return the dataset that a dataset description points to; the key `expected` is not used.

    Args:
        path: the YAML file of the description.
        values: contents of the YAML file.
        options: what may be read.

    Raises:
        InputError: a key has a wrong value, or there is no dataset at `path`.
    """
    format_name = values["format"]
    if not isinstance(format_name, str):
        raise LabelError(f"{path}: `format` must be one of {', '.join(_FORMATS)}")
    if format_name not in _FORMATS:
        raise LabelError(f"{path}: unknown format '{format_name}'; {did_you_mean(format_name, _FORMATS)}")
    if format_name == "scenes":
        return _open_scenes()
    if not isinstance(values.get("path"), str):
        raise LabelError(f"{path}: `path` must be the folder or file of the data, relative to this YAML file")
    place = path.parent / local_path(values["path"])
    if not _exists(place):
        source = f"; get the data from {values['source']}" if isinstance(values.get("source"), str) else ""
        raise FileError(f"{path}: `path` is {place}, which does not exist{source}")
    names = values.get("names", [])
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not is_list or (names and format_name != "voc"):
        raise LabelError(f"{path}: `names` must be a list of class names, and is allowed only with `format: voc`")
    if format_name == "auto" and "splits" in values and place.resolve() not in (path.resolve(), path.parent.resolve()):
        try:
            return open_data(place, allow_outside=options.allow_outside, max_pixels=options.max_pixels)
        except RecursionError:
            raise LabelError(f"{path}: `path` leads back to this file") from None
    if place.is_dir() and format_name == "voc":
        index = _index(place, options)
        _, paths = find_named_files(index).get(voc.FORMAT.name, (voc.FORMAT, ()))
        if not paths:
            raise LabelError(f"{path}: `path` is {place}, which contains no Pascal VOC file (.xml)")
        return _open_named(place, voc.FORMAT, paths, index, options, class_names=tuple(names))
    if place.suffix.lower() in (".yaml", ".yml"):
        return _open_yolo(yolo_layout.parse_data_yaml(place, read_data_yaml(place)), options)
    data_set = _open_folder(place, options, described=True) if place.is_dir() else _open_file(place, options)
    if not data_set.description.lower().startswith(_FORMAT_TITLES.get(format_name, "")):
        raise LabelError(f"{path}: `format` is {format_name}, but {place} is a {data_set.description}")
    return data_set


def _parse_expected(path: Path, expected: Any) -> dict[str, dict[str, int]]:
    try:
        counts = {split: {key: int(values[key]) for key in values} for split, values in expected.items()}
        if {*counts} <= {*SPLITS} and all({*keys} <= {"images", "boxes"} for keys in counts.values()):
            return counts
    except (AttributeError, TypeError, ValueError):
        pass
    raise LabelError(f"{path}: `expected` must look like {{train: {{images: 205, boxes: 2804}}, val: ...}}")


def _describe(kind: str, path: Path, names: Iterable[str]) -> str:
    return f"{kind} {path.resolve().name}: {', '.join(names)}"
