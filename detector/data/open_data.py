"""Recognizes the format of a data set by its path, and opens it without reading the labels.

Besides the files and folders of the label formats, a path may be `scenes` (the built-in data set) or a data set
description: a YAML file with `format` and `path`, as in datasets/.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from detector.data.formats import coco, voc, yolo
from detector.data.scenes import scenes
from detector.data.split import Split, canonical_name, join
from detector.errors import FileError, LabelError, did_you_mean, location
from detector.files import read_text
from detector.options import MAX_PIXELS, ReadOptions

_SPLITS = ("train", "val", "test")
_FORMATS = ("coco", "yolo", "voc", "scenes")
_KEYS = ("format", "path", "names", "source", "license", "expected")
_ACCEPTED = """accepted are:
  scenes                                     the built-in data set of rendered scenes
  a .yaml with train, val, test, names       YOLO as other tools export it; also the folder that contains data.yaml
  a .yaml with format, path                  a data set description, such as those in datasets/
  a folder with train.json, images/          COCO JSON; also annotations/instances_*.json or */_annotations.coco.json
  a folder with Annotations/, JPEGImages/    Pascal VOC
  a COCO .json file                          a single split"""


@dataclass(frozen=True)
class DataSet:
    """A data set of known format with the names of its splits; `read` reads the labels of one split.

    Attributes:
        description: format, name and splits of the data set as one line of text.
        readers: split name → function that reads the split.
        expected: split name → counts of a complete copy: {"images": number of images, "boxes": number of label rows}.
        coco_files: split name → COCO JSON file of the split; empty for other formats.
    """

    description: str
    readers: Mapping[str, Callable[[], Split]]
    expected: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    coco_files: Mapping[str, Path] = field(default_factory=dict)
    _classes_read: dict[str, set[str]] = field(default_factory=dict, repr=False)

    @property
    def split_names(self) -> tuple[str, ...]:
        """Names of the splits. If "train" and "val" are among them, `read` also accepts "trainval"."""
        return tuple(self.readers)

    def read(self, split_name: str) -> Split:
        """Read the labels of one split and return the split; the images are not decoded.

        Args:
            split_name: one of `split_names`, or a variant that other tools write, such as "valid" for "val"; or
                "trainval" for the images of "train" and "val" together.

        Raises:
            InputError: the split does not exist, a file cannot be read, the classes differ from those of a split that
                was read before, or the number of images or boxes differs from `expected`.
        """
        name = canonical_name(split_name)
        if name == "trainval" and name not in self.readers and {"train", "val"} <= set(self.readers):
            return join(name, self.read("train"), self.read("val"))
        if name not in self.readers:
            raise LabelError(f"{self.description}: no split '{split_name}'; {did_you_mean(name, self.readers)}")
        split = self.readers[name]()
        self._check_classes(split)
        self._check_counts(split)
        return split

    def ground_truth(self, split_name: str) -> dict[str, Any]:
        """Return the labels of one split as a COCO dictionary, the ground truth for scoring a results file.

        If the split is a COCO file, the dictionary is the contents of that file, and the images do not need to exist.

        Raises:
            InputError: as for `read`; or, for a COCO file, an annotation that cannot be scored.
        """
        file = self.coco_files.get(canonical_name(split_name))
        return coco.read_ground_truth(file) if file else coco.to_coco(self.read(split_name))

    def _check_classes(self, split: Split) -> None:
        classes = {f"{i} {name}" for i, name in zip(split.category_ids, split.class_names, strict=True)}
        for other_name, other_classes in self._classes_read.items():
            if classes != other_classes:
                only, other_only = sorted(classes - other_classes), sorted(other_classes - classes)
                raise LabelError(
                    f"{self.description}: the classes differ between splits: "
                    f"only in {split.name}: {only}; only in {other_name}: {other_only}"
                )
        self._classes_read[split.name] = classes

    def _check_counts(self, split: Split) -> None:
        counts = {"images": len(split.annotations), "boxes": split.ledger.found}
        for key, expected in self.expected.get(split.name, {}).items():
            if counts[key] != expected:
                raise LabelError(
                    f"{self.description}: {split.name} has {counts[key]} {key}, expected {expected}: "
                    "the copy is incomplete or a different version"
                )


def open_data(spec: str | Path, *, allow_outside: bool = False, max_pixels: int = MAX_PIXELS) -> DataSet:
    """Recognize the format and the splits of a data set, and return the `DataSet` without reading its labels.

    Args:
        spec: `scenes`, or the path of a file or folder in one of the layouts described in datasets/README.md.
        allow_outside: whether label files, lists and links may lead to files outside of the data set's folder.
        max_pixels: largest number of pixels of an image that is decoded. Larger images count as missing or unreadable.

    Raises:
        FileError: `spec` is not "scenes", and no file or folder exists at this path.
        LabelError: the file or folder has no known layout. The message lists the known layouts.
        ConfigError: `max_pixels` is below 1.
    """
    options = ReadOptions(allow_outside=allow_outside, max_pixels=max_pixels)
    path = Path(spec)
    if not _exists(path):
        if str(spec) == "scenes":
            return _open_scenes()
        raise FileError(f"{spec}: no such file or folder; {_ACCEPTED}")
    if path.suffix.lower() in (".yaml", ".yml"):
        return _open_yaml(path, options)
    if path.suffix.lower() == ".json":
        return _open_coco(path, options)
    data_set = _open_folder(path, options) if path.is_dir() else None
    if data_set is None:
        raise LabelError(f"{path}: not a data set in a known layout; {_ACCEPTED}")
    return data_set


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # the name is not a valid file name, or access is denied
        return False


def _open_folder(folder: Path, options: ReadOptions) -> DataSet | None:
    if _coco_files(folder):
        return _open_coco(folder, options)
    for name in ("data.yaml", "data.yml"):
        if (folder / name).is_file():
            return _open_yaml(folder / name, options)
    return _open_voc(folder, (), options) if (folder / "Annotations").is_dir() else None


def _open_scenes() -> DataSet:
    readers = {name: partial(scenes.read_split, name) for name in _SPLITS}
    return DataSet("built-in scenes: train, val, test", readers)


def _open_coco(path: Path, options: ReadOptions) -> DataSet:
    if path.is_file():
        name = canonical_name(path.stem.removeprefix("instances_"))
        files, kind = {name if name in _SPLITS else "train": path}, "file"
    else:
        files, kind = _coco_files(path), "folder"
        if not files:
            raise LabelError(
                f"{path}: no COCO file found; expected train.json, val.json or test.json in this folder, or "
                "annotations/instances_*.json, or */_annotations.coco.json"
            )
    readers = {name: partial(coco.read_split, file, name, options) for name, file in files.items()}
    return DataSet(_describe(f"COCO JSON {kind}", path, files), readers, coco_files=files)


def _coco_files(folder: Path) -> dict[str, Path]:
    """Return split name → COCO file of a folder; empty if the folder has none of the three COCO layouts.

    If a folder has files of more than one layout, only the files of the first layout are returned.

    Raises:
        LabelError: two files contain the same split.
    """
    plain = [(canonical_name(path.stem), path) for path in folder.glob("*.json")]
    plain = [(name, path) for name, path in plain if name in _SPLITS]
    standard = [
        (canonical_name(path.stem.removeprefix("instances_")), path)
        for path in folder.glob("annotations/instances_*.json")
    ]
    roboflow = [(canonical_name(path.parent.name), path) for path in folder.glob("*/_annotations.coco.json")]
    files: dict[str, Path] = {}
    for name, path in sorted(plain or standard or roboflow, key=lambda pair: (_rank(pair[0]), pair)):
        if name in files:
            raise LabelError(
                f"{folder}: both {files[name]} and {path} contain the split {name}; pass the path of one of these files"
            )
        files[name] = path
    return files


def _rank(name: str) -> int:
    return _SPLITS.index(name) if name in _SPLITS else len(_SPLITS)


def _open_voc(folder: Path, class_names: tuple[str, ...], options: ReadOptions) -> DataSet:
    names = voc.split_names(folder)
    readers = {name: partial(voc.read_split, folder, name, class_names, options) for name in names}
    return DataSet(_describe("Pascal VOC folder", folder, names), readers)


def _open_yaml(path: Path, options: ReadOptions) -> DataSet:
    values = _read_yaml(path)
    return (_open_description if "format" in values else _open_yolo)(path, values, options)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        # BaseLoader returns every scalar as text. Other loaders read a class named `no` as False.
        values = yaml.load(read_text(path), Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{location(path, mark.line + 1)}: column {mark.column + 1}" if mark else location(path)
        raise LabelError(f"{place}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise LabelError(f"{path}: not YAML: {error}") from None
    except RecursionError:
        raise LabelError(f"{path}: not the YAML file of a data set: the values are nested too deeply") from None
    if not isinstance(values, dict) or not {"format", "names"} & set(values):
        raise LabelError(
            f"{path}: not the YAML file of a data set; expected the keys of a YOLO data.yaml (`train`, `val`, `names`) "
            "or of a data set description (`format`, `path`)"
        )
    return values


def _open_yolo(path: Path, values: dict[str, Any], options: ReadOptions) -> DataSet:
    data = yolo.parse_data_yaml(path, values)
    readers = {name: partial(yolo.read_split, data, name, options) for name in data.splits}
    return DataSet(_describe("YOLO data set", path.parent if path.stem == "data" else path, data.splits), readers)


def _open_description(path: Path, values: dict[str, Any], options: ReadOptions) -> DataSet:
    for key in values:
        if key not in _KEYS:
            raise LabelError(f"{path}: unknown key '{key}'; {did_you_mean(key, _KEYS)}")
    expected = _parse_expected(path, values.get("expected", {}))
    return replace(_open_described(path, values, options), expected=expected)


def _open_described(path: Path, values: dict[str, Any], options: ReadOptions) -> DataSet:
    """Return the data set that a data set description points to; the key `expected` is not used.

    Args:
        path: the YAML file of the description.
        values: contents of the YAML file.
        options: what may be read.

    Raises:
        InputError: a key has a wrong value, or there is no data set at `path`.
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
    place = path.parent / values["path"]
    if not _exists(place):
        source = f"; get the data from {values['source']}" if isinstance(values.get("source"), str) else ""
        raise FileError(f"{path}: `path` is {place}, which does not exist{source}")
    names = values.get("names", [])
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not is_list or (names and format_name != "voc"):
        raise LabelError(f"{path}: `names` must be a list of class names, and is allowed only with `format: voc`")
    if format_name == "coco":
        return _open_coco(place, options)
    if format_name == "voc":
        return _open_voc(place, tuple(names), options)
    file = next((file for file in (place / "data.yaml", place / "data.yml") if file.is_file()), place)
    if not file.is_file():
        raise FileError(f"{path}: `path` is {place}, which contains no data.yaml")
    return _open_yolo(file, _read_yaml(file), options)


def _parse_expected(path: Path, expected: Any) -> dict[str, dict[str, int]]:
    try:
        counts = {split: {key: int(values[key]) for key in values} for split, values in expected.items()}
        if {*counts} <= {*_SPLITS} and all({*keys} <= {"images", "boxes"} for keys in counts.values()):
            return counts
    except (AttributeError, TypeError, ValueError):
        pass
    raise LabelError(f"{path}: `expected` must look like {{train: {{images: 205, boxes: 2804}}, val: ...}}")


def _describe(kind: str, path: Path, names: Iterable[str]) -> str:
    return f"{kind} {path.resolve().name}: {', '.join(names)}"
