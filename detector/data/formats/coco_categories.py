"""The classes of a dataset in COCO JSON: the categories of all its files."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from detector.errors import LabelError
from detector.files import read_text


class Category(NamedTuple):
    """A category of a COCO file.

    Attributes:
        name: name of the class; the id as text if the file gives no name.
        parent: name of the supercategory; empty if there is none.
    """

    name: str
    parent: str


def make_category(category_id: int, values: Mapping[str, Any]) -> Category:
    """Return the category that an element of `categories` describes."""
    name, parent = values.get("name"), values.get("supercategory")
    return Category(str(category_id if name in (None, "") else name), parent if isinstance(parent, str) else "")


def scan_categories(path: Path) -> dict[int, Category]:
    """Return category id → category of a COCO file, without parsing the whole file; empty if they are not found.

    Raises:
        FileError: the file cannot be read.
    """
    text = read_text(path)
    for match in re.finditer(r'"categories"\s*:\s*(?=\[)', text):
        try:
            items, _ = json.JSONDecoder().raw_decode(text, match.end())
            return {int(item["id"]): make_category(int(item["id"]), item) for item in items}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            continue  # another key of this name; reading this file reports what is wrong
    return {}


def merge_categories(path: Path, own: Mapping[int, Category], others: Iterable[Path]) -> dict[int, Category]:
    """Return the categories of a file and of the other files of the dataset.

    A file may contain only some of the categories, but an id must mean the same class in every file.

    Args:
        path: the COCO file.
        own: category id → category of this file.
        others: the other COCO files of the dataset.

    Raises:
        LabelError: an id has different names in two files, or a name has different ids.
    """
    merged = dict(own)
    for other in others:
        found = scan_categories(other)
        only, other_only = _names(own, found), _names(found, own)
        ids = {category.name: i for i, category in own.items()}
        if any(
            i in own or category.name in ids for i, category in found.items() if f"{i} {category.name}" in other_only
        ):
            raise LabelError(
                f"{path}: the classes differ between splits: only in {path.name}: {only}; "
                f"only in {other}: {other_only}; give each category the same id and name in all files"
            )
        merged = {**found, **merged}
    return merged


def find_placeholder(categories: Mapping[int, Category], files: Iterable[Path]) -> int | None:
    """Return the id of a category that is only the supercategory of others and has no annotation, or None.

    Exports of Roboflow contain such a category with the id 0, named like the project.

    Args:
        categories: category id → category of the dataset.
        files: all COCO files of the dataset.
    """
    parents = {category.parent for category in categories.values()}
    for category_id, category in categories.items():
        if category.name in parents and category.parent in ("", "none"):
            used = re.compile(rf'"category_id"\s*:\s*"?{category_id}(?:\.0+)?"?\s*[,}}]')
            return None if any(used.search(read_text(file)) for file in files) else category_id
    return None


def _names(a: Mapping[int, Category], b: Mapping[int, Category]) -> list[str]:
    """Return the ids and names of the categories in `a` that are not in `b`, as texts."""
    return [f"{i} {a[i].name}" for i in sorted(a) if i not in b or a[i].name != b[i].name]
