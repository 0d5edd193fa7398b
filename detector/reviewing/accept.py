"""Writes a corrected copy of labels: the suggestions that the user accepts are applied, all other labels are the same.

The files of the user are only read. The copy is COCO JSON, and refers to the images where they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from detector.annotation import Annotation
from detector.boxes import area, clip
from detector.data.formats import coco_writer
from detector.data.open_data import open_data
from detector.data.split import Split, with_absolute_paths
from detector.errors import FileError, InputError, LabelError
from detector.files import json_bytes, local_path
from detector.output_folder import claim_folder
from detector.reviewing.review import read_splits
from detector.reviewing.rows import ReviewRow, read_rows, to_box
from detector.wording import shown

_LEDGER = "ledger.json"

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class SplitChanges:
    """What happened to the labels of a split: found = kept + changed + removed; written = kept + changed + added.

    Attributes:
        found: number of labels that were read.
        kept: number of labels that are the same to the last digit.
        changed: number of labels with another class or box.
        removed: number of labels that are not written.
        added: number of new labels.
    """

    found: int
    kept: int
    changed: int
    removed: int
    added: int

    @property
    def written(self) -> int:
        """Number of labels in the corrected copy."""
        return self.kept + self.changed + self.added


class _Corrected(NamedTuple):
    """Corrected labels, and what happened to them."""

    split: Split
    changes: SplitChanges


def accept(
    data: str | Path,
    rows: str | Path,
    out: str | Path,
    *,
    allow_outside: bool = False,
    overwrite: bool = False,
) -> Mapping[str, SplitChanges]:
    """Write a corrected copy of the labels of a dataset; return split name → what happened to its labels.

    Writes a COCO JSON file per split and ledger.json to `out`. All splits are written, also those without a change.

    Args:
        data: the dataset that was reviewed, in any form that `open_data` accepts, except "scenes".
        rows: rows.csv of a review; every row in it is accepted, so remove the others.
        out: folder for the corrected labels, outside of the dataset.
        allow_outside: as for `open_data`.
        overwrite: whether to replace files in `out` that this package did not write, or that were changed since.

    Raises:
        InputError: a file cannot be read or written, a label is not as it was in the review, two rows contradict each
            other, or the images are not files.
    """
    path, folder = local_path(rows), local_path(out)
    accepted = read_rows(path)
    splits = read_splits(open_data(local_path(data), allow_outside=allow_outside), None)
    _check_outside(folder, Path(data), splits)
    names = [_LEDGER, *(f"{split.name}.json" for split in splits)]
    with claim_folder(folder, "correcting", names=names, overwrite=overwrite) as output:
        try:
            corrected = apply_rows(splits, accepted)
        except InputError as error:
            raise type(error)(f"{path}: {error}") from None
        targets = [with_absolute_paths(part.split) for part in corrected]
        coco_writer.WRITER.check(targets)
        output.remove_earlier()
        for target in targets:
            output.write(f"{target.name}.json", coco_writer.coco_text(folder.resolve(), target).encode())
        changes = {part.split.name: part.changes for part in corrected}
        ledger = {
            "data": str(data),
            "rows": str(path),
            "splits": {
                name: asdict(own) | {"written": own.written, "source": split.ledger.to_json()}
                for (name, own), split in zip(changes.items(), splits, strict=True)
            },
            "changes": [row.to_json() for row in accepted],
        }
        output.write(_LEDGER, json_bytes(ledger))
    return changes


def _check_outside(folder: Path, data: Path, splits: Sequence[Split]) -> None:
    """Raise InputError if the corrected labels would become part of the dataset, or if the images are not files."""
    if not all(split.from_files for split in splits):
        raise LabelError(f"{data}: the images of this dataset are not files; write them with detector convert first")
    places = {a.image_path.parent.resolve() for split in splits for a in split.annotations}
    places |= {data.resolve()} if data.is_dir() else set()
    for place in sorted(places):
        if folder.resolve().is_relative_to(place):
            raise FileError(f"{folder}: is inside of {place}, a folder of the dataset; choose another --out")


def apply_rows(splits: Sequence[Split], rows: Sequence[ReviewRow]) -> list[_Corrected]:
    """Return the splits with all suggestions of the rows applied, and what happened to their labels.

    Raises:
        LabelError: a row has no image or label in the splits, the label is not as it was in the review, or two rows
            contradict each other.
    """
    of_image: dict[tuple[str, str], list[ReviewRow]] = {}
    for row in rows:
        of_image.setdefault((row.split, row.image), []).append(row)
    corrected = []
    for split in splits:
        annotations, changed, removed, added, found = [], 0, 0, 0, 0
        for annotation in split.annotations:
            own = of_image.pop((split.name, str(annotation.image_path)), [])
            new = _Image(annotation, split.class_names)
            for row in own:
                new.apply(row)
            annotations.append(new.annotation())
            found += len(annotation.boxes)
            changed, removed, added = changed + new.changed, removed + new.removed, added + new.added
        changes = SplitChanges(found, found - changed - removed, changed, removed, added)
        corrected.append(_Corrected(replace(split, annotations=tuple(annotations), ground_truth=None), changes))
    for split_name, image in of_image:
        raise LabelError(f"{shown(image)} is not an image of the split {shown(split_name)}; review the dataset again")
    return corrected


class _Image:
    """The labels of one image while suggestions are applied.

    Args:
        annotation: the labels.
        class_names: names of all classes.
    """

    def __init__(self, annotation: Annotation, class_names: Sequence[str]) -> None:
        self._before, self._names = annotation, class_names
        self._classes: dict[int, str] = {}
        self._boxes: dict[int, tuple[float, ...]] = {}
        self._removed: set[int] = set()
        self._added: list[ReviewRow] = []

    @property
    def changed(self) -> int:
        """Number of labels with another class or box."""
        return len(self._classes.keys() | self._boxes.keys())

    @property
    def removed(self) -> int:
        """Number of labels that are removed."""
        return len(self._removed)

    @property
    def added(self) -> int:
        """Number of new labels."""
        return len(self._added)

    def apply(self, row: ReviewRow) -> None:
        """Apply the suggestion of a row.

        Raises:
            LabelError: as for `apply_rows`.
        """
        self._check_suggestion(row)
        if row.action == "add":
            if any(row.suggested_box == other.suggested_box for other in self._added):
                raise LabelError(f"{row.image}: the label at {row.suggested_box} is added twice; remove a row")
            self._added.append(row)
            return
        self._check_label(row)
        label = row.label
        if row.action == "remove":
            self._removed.add(label)
        elif row.action == "change class":
            self._set(self._classes, row, row.suggested_class)
        else:
            self._set(self._boxes, row, row.suggested_box)
        if label in self._removed and (label in self._classes or label in self._boxes):
            raise LabelError(f"{row.image}: label {label} is removed and also changed; keep one of the rows")

    def _set(self, values: dict[int, _Value], row: ReviewRow, value: _Value) -> None:
        """Record the new class or box of a label; raise LabelError if it already has another one."""
        if values.setdefault(row.label, value) != value:
            raise LabelError(f"{row.image}: label {row.label} is changed in two ways; keep one of the rows")

    def _check_suggestion(self, row: ReviewRow) -> None:
        """Raise LabelError if the suggested class or box cannot be written."""
        if row.suggested_class not in self._names:
            raise LabelError(
                f"{row.image}: {shown(row.suggested_class)} is not a class; expected one of {', '.join(self._names)}"
            )
        box = np.array(row.suggested_box, np.float32)
        inside = bool((clip(box, self._before.image_hw) == box).all())
        if row.action in ("add", "change box") and not (inside and area(box) > 0):
            raise LabelError(f"{row.image}: the box {row.suggested_box} is not inside the image, or has no area")

    def _check_label(self, row: ReviewRow) -> None:
        """Raise LabelError if a label is not as it was in the review."""
        before, label = self._before, row.label
        if 0 <= label < len(before.boxes):
            name = self._names[before.class_ids[label]]
            if (name, to_box(before.boxes[label])) == (row.class_name, row.box):
                return
        raise LabelError(
            f"{row.image}: label {label} is not {shown(row.class_name)} at {row.box}; the labels have changed since "
            "the review: review them again"
        )

    def annotation(self) -> Annotation:
        """Return the corrected labels: those that stay, in their order, then the new ones."""
        if not (self._classes or self._boxes or self._removed or self._added):
            return self._before
        class_of = {name: class_id for class_id, name in reversed(list(enumerate(self._names)))}
        boxes, class_ids, areas = (self._before.boxes.copy(), self._before.class_ids.copy(), self._before.areas.copy())
        for label, name in self._classes.items():
            class_ids[label] = class_of[name]
        for label, box in self._boxes.items():
            boxes[label] = box
            areas[label] = area(boxes[label])
        stays = np.array([label not in self._removed for label in range(len(boxes))], np.bool_)
        new = np.array([row.suggested_box for row in self._added], np.float32).reshape(-1, 4)
        new_classes = np.array([class_of[row.suggested_class] for row in self._added], np.int64)
        return replace(
            self._before,
            boxes=np.concatenate([boxes[stays], new]),
            class_ids=np.concatenate([class_ids[stays], new_classes]),
            is_crowd=np.concatenate([self._before.is_crowd[stays], np.zeros(len(new), np.bool_)]),
            areas=np.concatenate([areas[stays], area(new)]).astype(np.float32),
        )
