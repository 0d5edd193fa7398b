"""Which data set is meant by what a user names: a file or folder of a known layout, a descriptor, the built-in set."""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from detector.data.formats import coco, voc, yolo
from detector.data.scenes import scenes
from detector.data.split import Split, canonical_name, join
from detector.errors import InputError, did_you_mean, location
from detector.files import read_text

_SPLITS = ("train", "val", "test")
_FORMATS = ("coco", "yolo", "voc", "scenes")
_KEYS = ("format", "path", "names", "source", "license", "expected")
_ACCEPTED = """accepted are:
  scenes                                     the built-in set of drawn scenes
  a .yaml with train, val, test, names       YOLO, as other tools export it; or the folder that holds data.yaml
  a .yaml with format, path                  a descriptor as in datasets/
  a folder with train.json, images/          COCO JSON, also annotations/instances_*.json or */_annotations.coco.json
  a folder with Annotations/, JPEGImages/    Pascal VOC
  a COCO .json file                          a single split"""


@dataclass(frozen=True)
class DataSet:
    """A data set that was recognized but not yet read.

    Attributes:
        description: one line that says what was recognized.
        readers: split name → reads that split.
        expected: split name → what a complete copy holds: {"images": images, "boxes": rows found}.
        coco_files: split name → COCO JSON file, where the splits are such files.
    """

    description: str
    readers: Mapping[str, Callable[[], Split]]
    expected: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    coco_files: Mapping[str, Path] = field(default_factory=dict)
    _classes_read: dict[str, set[str]] = field(default_factory=dict, repr=False)

    @property
    def split_names(self) -> tuple[str, ...]:
        """The splits that `read` knows; where train and val are among them, it knows "trainval" too."""
        return tuple(self.readers)

    def read(self, split_name: str) -> Split:
        """Read one split.

        Args:
            split_name: one of `split_names`, also as other tools write it ("valid"), or "trainval" for both together.

        Raises:
            InputError: no such split, files that cannot be read, classes that differ from a split read before, or
                not as many images and boxes as expected.
        """
        name = canonical_name(split_name)
        if name == "trainval" and name not in self.readers and {"train", "val"} <= set(self.readers):
            return join(name, self.read("train"), self.read("val"))
        if name not in self.readers:
            raise InputError(f"{self.description}: no split '{split_name}'; {did_you_mean(name, self.readers)}")
        split = self.readers[name]()
        self._check_classes(split)
        if name in self.expected:
            found = {"images": len(split.annotations), "boxes": split.ledger.found}
            for key, count in self.expected[name].items():
                if found[key] != count:
                    raise InputError(
                        f"{self.description}: {name} has {found[key]} {key}, expected {count}: "
                        "the copy is incomplete or another version"
                    )
        return split

    def ground_truth(self, split_name: str) -> dict[str, Any]:
        """Return one split as a COCO dictionary, to score results against; COCO files need no images for that.

        Raises:
            InputError: as `read`.
        """
        file = self.coco_files.get(canonical_name(split_name))
        return coco.read_ground_truth(file) if file else coco.to_coco(self.read(split_name))

    def _check_classes(self, split: Split) -> None:
        classes = {f"{i} {name}" for i, name in zip(split.category_ids, split.class_names, strict=True)}
        for other_name, others in self._classes_read.items():
            if classes != others:
                only, other_only = sorted(classes - others), sorted(others - classes)
                raise InputError(
                    f"{self.description}: the classes differ between splits: "
                    f"only in {split.name}: {only}; only in {other_name}: {other_only}"
                )
        self._classes_read[split.name] = classes


def open_data(spec: str | Path, *, allow_outside: bool = False) -> DataSet:
    """Recognize a data set without reading its splits.

    Args:
        spec: `scenes`, or the path of a file or folder in one of the layouts that datasets/README.md shows.
        allow_outside: let its annotation files, lists and links lead to files outside of its folder.

    Raises:
        InputError: nothing there, or nothing known; lists what is accepted.
    """
    path = Path(spec)
    if not _exists(path):
        if str(spec) == "scenes":
            return _open_scenes()
        raise InputError(f"{spec}: no such file or folder; {_ACCEPTED}")
    if path.suffix.lower() in (".yaml", ".yml"):
        return _open_yaml(path, allow_outside)
    if path.suffix.lower() == ".json":
        return _open_coco(path, allow_outside)
    data_set = _open_folder(path, allow_outside) if path.is_dir() else None
    if data_set is None:
        raise InputError(f"{path}: not a data set in a known layout; {_ACCEPTED}")
    return data_set


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # no name a file can have, or not for us to see
        return False


def _open_folder(folder: Path, allow_outside: bool) -> DataSet | None:
    if _coco_files(folder):
        return _open_coco(folder, allow_outside)
    for name in ("data.yaml", "data.yml"):
        if (folder / name).is_file():
            return _open_yaml(folder / name, allow_outside)
    return _open_voc(folder, (), allow_outside) if (folder / "Annotations").is_dir() else None


def _open_scenes() -> DataSet:
    readers = {name: functools.partial(scenes.read_split, name) for name in _SPLITS}
    return DataSet("built-in scenes: train, val, test", readers)


def _open_coco(path: Path, allow_outside: bool) -> DataSet:
    if path.is_file():
        name = canonical_name(path.stem.removeprefix("instances_"))
        files, kind = {name if name in _SPLITS else "train": path}, "file"
    else:
        files, kind = _coco_files(path), "folder"
        if not files:
            raise InputError(f"{path}: expected train.json, val.json or test.json in it, or another COCO layout")
    readers = {name: functools.partial(coco.read_split, file, name, allow_outside) for name, file in files.items()}
    return DataSet(_describe(f"COCO JSON {kind}", path, files), readers, coco_files=files)


def _coco_files(folder: Path) -> dict[str, Path]:
    """Return split name → JSON file, in the first of the three layouts that fits."""
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
            raise InputError(f"{folder}: both {files[name]} and {path} hold the split {name}; open one of them instead")
        files[name] = path
    return files


def _rank(name: str) -> int:
    return _SPLITS.index(name) if name in _SPLITS else len(_SPLITS)


def _open_voc(folder: Path, class_names: tuple[str, ...], allow_outside: bool) -> DataSet:
    names = voc.split_names(folder)
    readers = {name: functools.partial(voc.read_split, folder, name, class_names, allow_outside) for name in names}
    return DataSet(_describe("Pascal VOC folder", folder, names), readers)


def _open_yaml(path: Path, allow_outside: bool) -> DataSet:
    values = _read_yaml(path)
    return (_open_descriptor if "format" in values else _open_yolo)(path, values, allow_outside)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        # BaseLoader makes every scalar text: YAML would read a class called `no` as False.
        values = yaml.load(read_text(path), Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{location(path, mark.line + 1)}: column {mark.column + 1}" if mark else location(path)
        raise InputError(f"{place}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML: {error}") from None
    except RecursionError:
        raise InputError(f"{path}: not YAML that describes data: nested too deeply") from None
    if not isinstance(values, dict) or not {"format", "names"} & set(values):
        raise InputError(
            f"{path}: neither a YOLO data.yaml (`train`, `val`, `names`) nor a descriptor (`format`, `path`)"
        )
    return values


def _open_yolo(path: Path, values: dict[str, Any], allow_outside: bool) -> DataSet:
    data = yolo.parse_data_yaml(path, values)
    readers = {name: functools.partial(yolo.read_split, data, name, allow_outside) for name in data.splits}
    return DataSet(_describe("YOLO data set", path.parent if path.stem == "data" else path, data.splits), readers)


def _open_descriptor(path: Path, values: dict[str, Any], allow_outside: bool) -> DataSet:
    for key in values:
        if key not in _KEYS:
            raise InputError(f"{path}: unknown key '{key}'; {did_you_mean(key, _KEYS)}")
    form = values["format"]
    if not isinstance(form, str) or form not in _FORMATS:
        said = form if isinstance(form, str) else "of several words"
        raise InputError(f"{path}: unknown format '{said}'; {did_you_mean(said, _FORMATS)}")
    expected = _parse_expected(path, values.get("expected", {}))
    if form == "scenes":
        return replace(_open_scenes(), expected=expected)
    if not isinstance(values.get("path"), str):
        raise InputError(f"{path}: `path` must say where the data lies, relative to this file")
    place = path.parent / values["path"]
    if not _exists(place):
        source = f"; get the data from {values['source']}" if isinstance(values.get("source"), str) else ""
        raise InputError(f"{path}: the data is not at {place}{source}")
    names = values.get("names", [])
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names) or (names and form != "voc"):
        raise InputError(f"{path}: `names` must be a list of class names, and stands in descriptors of format voc only")
    if form == "coco":
        return replace(_open_coco(place, allow_outside), expected=expected)
    if form == "voc":
        return replace(_open_voc(place, tuple(names), allow_outside), expected=expected)
    file = next((file for file in (place / "data.yaml", place / "data.yml") if file.is_file()), place)
    if not file.is_file():
        raise InputError(f"{path}: there is no data.yaml in {place}")
    return replace(_open_yolo(file, _read_yaml(file), allow_outside), expected=expected)


def _parse_expected(path: Path, expected: Any) -> dict[str, dict[str, int]]:
    try:
        counts = {split: {key: int(counts[key]) for key in counts} for split, counts in expected.items()}
        if {*counts} <= {*_SPLITS} and all({*of_split} <= {"images", "boxes"} for of_split in counts.values()):
            return counts
    except (AttributeError, TypeError, ValueError):
        pass
    raise InputError(f"{path}: `expected` must look like {{train: {{images: 205, boxes: 2804}}, val: ...}}")


def _describe(kind: str, path: Path, names: Iterable[str]) -> str:
    return f"{kind} {path.resolve().name}: {', '.join(names)}"
