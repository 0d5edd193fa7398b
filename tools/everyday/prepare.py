"""Prepare the photographs of `everyday` for pretraining: join their own and their proposed boxes.

    python tools/everyday/prepare.py --data ../everyday --out everyday-data

The classes are the 80 of COCO, and the sources' own classes without a COCO name (`coco_names.tsv` contains the others).
A source labels only its own classes; the classes of other sources are unknown in its images (partial labels, as in
LVIS). Where boxes of the two files meet, with an IoU of at least 0.5:

- The source's own box replaces a proposed one if it has a COCO name. Proposed objects of the same class elsewhere
  become ignore regions, because the source could have labeled them.
- Else both might be right, such as a face and a person: the own box remains, and the proposed class is unknown in the
  image.

Written files: `train.json`, `val.json` (a tenth of the images), `agreement.json` (the same images with the proposed
boxes only) and `test.json` (own boxes of the sources that are held back completely).
"""

import argparse
import csv
import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from detector.arrays import Floats
from detector.boxes import from_xywh, pairwise_iou

HELD_BACK_SOURCES = ("amenity", "fruit9", "vehicles_in")
"""Sources whose images are only used for testing."""

SAME_OBJECT_IOU = 0.5
"""Two boxes with at least this IoU are the same object."""

_TENTH = 10

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Everyday:
    """The two label files of the photographs.

    Attributes:
        images: the images, as in COCO JSON.
        own, proposed: image id → annotations of the two files.
        own_names: category id of the source's own classes → name, such as "ships/ship".
        categories: the categories that are written: COCO's 80, then the own classes without a COCO name.
        coco_names: own class → COCO name.
    """

    images: Rows
    own: Mapping[int, Rows]
    proposed: Mapping[int, Rows]
    own_names: Mapping[int, str]
    categories: Rows
    coco_names: Mapping[str, str]

    @cached_property
    def ids(self) -> dict[str, int]:
        """Name → id of the category that is written."""
        return {category["name"]: category["id"] for category in self.categories}

    @cached_property
    def coco(self) -> set[int]:
        """Ids of COCO's categories."""
        return {category["id"] for category in self.categories if "/" not in category["name"]}

    def labeled_by(self, source: str) -> set[int]:
        """Return the ids of the categories that a source labels."""
        own = [name for name in self.own_names.values() if name.partition("/")[0] == source]
        return {self.ids[self.coco_names.get(name, name)] for name in own}


def read(folder: Path) -> Everyday:
    """Read the label files, and the names of the own classes in COCO."""
    own, proposed = (json.loads((folder / name).read_text()) for name in ("own.json", "proposed.json"))
    with Path(__file__).with_name("coco_names.tsv").open(newline="") as file:
        coco_names = {row["own class"]: row["COCO name"] for row in csv.DictReader(file, delimiter="\t")}
    own_names = {category["id"]: category["name"] for category in own["categories"]}
    first = max(category["id"] for category in proposed["categories"]) + 1
    more = [name for name in own_names.values() if name not in coco_names]
    categories = [{"id": category["id"], "name": category["name"]} for category in proposed["categories"]]
    categories += [{"id": number, "name": name} for number, name in enumerate(more, start=first)]
    return Everyday(own["images"], _by_image(own), _by_image(proposed), own_names, categories, coco_names)


def _by_image(data: dict[str, Any]) -> defaultdict[int, Rows]:
    """Return image id → annotations."""
    rows = defaultdict[int, Rows](list)
    for row in data["annotations"]:
        rows[row["image_id"]].append(row)
    return rows


def source_of(image: Mapping[str, Any]) -> str:
    """Return the name of the source of an image."""
    return str(image["file_name"]).partition("/")[0]


def is_held_back(image: Mapping[str, Any]) -> bool:
    """Return whether an image belongs to the tenth that is held back, which depends only on its file name."""
    return int(hashlib.sha256(image["file_name"].encode()).hexdigest(), 16) % _TENTH == 0


def own_rows(data: Everyday, image_id: int) -> Rows:
    """Return the own boxes of an image with the categories that are written."""
    names = {key: data.coco_names.get(name, name) for key, name in data.own_names.items()}
    return [row | {"category_id": data.ids[names[row["category_id"]]]} for row in data.own[image_id]]


def joined(data: Everyday, image: Mapping[str, Any]) -> tuple[dict[str, Any], Rows]:
    """Return an image with its labeled categories, and its own and proposed boxes without duplicates."""
    coco, of_source = data.coco, data.labeled_by(source_of(image))
    own = own_rows(data, image["id"])
    iou = pairwise_iou(_corners(data.proposed[image["id"]]), _corners(own))
    rows, unknown = list(own), set[int]()
    for proposal, overlaps in zip(data.proposed[image["id"]], iou, strict=True):
        same = [row for row, value in zip(own, overlaps, strict=True) if value >= SAME_OBJECT_IOU]
        if any(row["category_id"] in coco for row in same):
            continue
        if same and not proposal["iscrowd"]:
            unknown.add(proposal["category_id"])
        elif proposal["category_id"] in of_source:
            rows.append(proposal | {"iscrowd": 1})
        else:
            rows.append(proposal)
    present = {row["category_id"] for row in rows if not row["iscrowd"]}
    return _with_labeled(image, (coco | of_source) - unknown, present), rows


def proposals(data: Everyday, image: Mapping[str, Any]) -> tuple[dict[str, Any], Rows]:
    """Return an image and its proposed boxes only; the sources' own classes are not labeled."""
    rows = data.proposed[image["id"]]
    return _with_labeled(image, data.coco, {row["category_id"] for row in rows if not row["iscrowd"]}), rows


def own_only(data: Everyday, image: Mapping[str, Any]) -> tuple[dict[str, Any], Rows]:
    """Return an image and its own boxes only; a class that the source does not label is not labeled."""
    rows = own_rows(data, image["id"])
    return _with_labeled(image, data.labeled_by(source_of(image)), {row["category_id"] for row in rows}), rows


def _with_labeled(image: Mapping[str, Any], labeled: set[int], present: set[int]) -> dict[str, Any]:
    """Return an image with the categories that are labeled although none is present, and those only partly labeled."""
    return {
        **image,
        "neg_category_ids": sorted(labeled - present),
        "not_exhaustive_category_ids": sorted(present - labeled),
    }


def _corners(rows: Rows) -> Floats:
    """Return the boxes [N, 4] of annotations as (x1, y1, x2, y2)."""
    return from_xywh(np.array([row["bbox"] for row in rows], dtype=np.float32).reshape(-1, 4))


def write(path: Path, folder: Path, data: Everyday, items: Iterable[tuple[dict[str, Any], Rows]]) -> None:
    """Write images with their annotations as COCO JSON; the image paths are absolute."""
    images: Rows = []
    annotations: Rows = []
    for image, rows in items:
        images.append(image | {"file_name": str(folder.resolve() / "images" / image["file_name"])})
        annotations += [
            {
                "id": len(annotations) + number,
                **{key: row[key] for key in ("image_id", "category_id", "bbox", "iscrowd")},
            }
            for number, row in enumerate(rows, start=1)
        ]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": data.categories}))
    print(f"{path}: {len(images)} images, {len(annotations)} boxes")


def main() -> None:
    """Write the four files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with own.json, proposed.json and images/")
    parser.add_argument("--out", type=Path, required=True, help="folder for the written files")
    options = parser.parse_args()
    data = read(options.data)
    options.out.mkdir(parents=True, exist_ok=True)
    known = [image for image in data.images if source_of(image) not in HELD_BACK_SOURCES]
    val = [image for image in known if is_held_back(image)]
    train = [image for image in known if not is_held_back(image)]
    test = [image for image in data.images if source_of(image) in HELD_BACK_SOURCES]
    for name, images, labels in (
        ("train", train, joined),
        ("val", val, joined),
        ("agreement", val, proposals),
        ("test", test, own_only),
    ):
        write(options.out / f"{name}.json", options.data, data, (labels(data, image) for image in images))


if __name__ == "__main__":
    main()
