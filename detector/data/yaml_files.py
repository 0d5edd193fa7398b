"""Finds and reads the YAML file of a YOLO dataset, or a dataset description."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from detector.data.file_index import FileIndex
from detector.errors import InputError, LabelError, location
from detector.files import read_text

_KEY_WITHOUT_SPACE = re.compile(r"^(path|train|val|valid|validation|test|nc|names):(?=\S)", re.MULTILINE)


_MAX_SIZE = 4_000_000
"""Largest size of a YAML file in bytes; 65,536 class names need a third of it."""

_MAX_EXPLAINED = 100_000
"""In larger files, in bytes, errors are explained by the fast parser only."""


class _UniqueKeys(yaml.constructor.BaseConstructor):
    """A key that occurs twice is an error: otherwise the last value would win silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of a node; raise ConstructorError if a key occurs twice."""
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if keys and max(keys.values()) > 1:
            problem = f"the key {keys.most_common(1)[0][0]!r:.60} occurs twice; remove one of them"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return dict(super().construct_mapping(node, deep=deep))


class _Loader(_UniqueKeys, yaml.BaseLoader):
    """Returns every scalar as text, unlike other loaders, which read a class named `no` as False."""


if yaml.__with_libyaml__:

    class _FastLoader(_UniqueKeys, yaml.CBaseLoader):
        """The same as `_Loader`, ten times as fast; its error messages are shorter."""


def find_yaml(index: FileIndex, described: bool) -> Path | None:
    """Return the YAML file of a YOLO dataset or a dataset description in a folder or its subfolders, or None.

    Raises:
        LabelError: there are several, and none is called data.yaml.
    """
    depth = len(index.folder.parts)
    for level in (1, 2):
        paths = [path for path in index.with_suffix(".yaml", ".yml") if len(path.parts) == depth + level]
        found = [path for path in paths if _is_data_yaml(path, described)]
        named = [path for path in found if path.stem == "data"]
        if len(found) > 1 and len(named) != 1:
            raise LabelError(
                f"{index.folder}: {', '.join(path.name for path in found)} are YAML files of datasets; pass the path "
                "of one of them"
            )
        if found:
            return (named or found)[0]
    return None


def _is_data_yaml(path: Path, described: bool) -> bool:
    """Return whether a YAML file is that of a YOLO dataset or a description, or is called data.yaml and damaged."""
    try:
        values = _parse_yaml(path)
    except InputError:
        return path.stem == "data"
    is_description = isinstance(values, dict) and "format" in values
    return not described if is_description else path.stem == "data" or _is_yolo_yaml(values)


def _is_yolo_yaml(values: Any) -> bool:
    return isinstance(values, dict) and "names" in values and bool({"train", "val", "valid", "test"} & set(values))


def read_data_yaml(path: Path) -> dict[str, Any]:
    """Return the contents of the YAML file of a dataset, every scalar as text.

    Raises:
        InputError: the file cannot be read, is not YAML, or has none of the keys of a dataset.
    """
    values = _parse_yaml(path)
    if not isinstance(values, dict) or not {"format", "names", "train", "val", "test"} & set(values):
        raise LabelError(
            f"{path}: not the YAML file of a dataset; expected the keys of a YOLO data.yaml (`train`, `val`, `names`) "
            "or of a dataset description (`format`, `path`)"
        )
    return values


def _parse_yaml(path: Path) -> Any:
    """Return the contents of a YAML file, every scalar as text; raise LabelError if it is not YAML."""
    text = read_text(path)
    if len(text) > _MAX_SIZE:
        raise LabelError(
            f"{path}: the file has more than {_MAX_SIZE // 1_000_000} MB, which is too large for the YAML file of a "
            "dataset; a data.yaml contains only paths and class names"
        )
    try:
        values = load_yaml(text)
        if not isinstance(values, dict):
            # Some files are written by hand without the space after the colon, which YAML needs.
            values = load_yaml(_KEY_WITHOUT_SPACE.sub(r"\1: ", text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{location(path, mark.line + 1)}: column {mark.column + 1}" if mark else location(path)
        raise LabelError(f"{place}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise LabelError(f"{path}: not YAML: {error}") from None
    except RecursionError:
        raise LabelError(f"{path}: not the YAML file of a dataset: the values are nested too deeply") from None
    return values


def load_yaml(text: str) -> Any:
    """Return the value of a YAML text, every scalar as text.

    An alias is not copied: a text of many nested aliases takes as little memory as its length.

    Raises:
        yaml.YAMLError: the text is not YAML.
        RecursionError: the values are nested too deeply.
    """
    if yaml.__with_libyaml__:
        try:
            return yaml.load(text, Loader=_FastLoader)
        except yaml.YAMLError:
            if len(text) > _MAX_EXPLAINED:
                raise
    return yaml.load(text, Loader=_Loader)
