"""`DataSet`: a dataset of known format; reads the labels of its splits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from detector.data.formats import coco_scoring
from detector.data.split import Split, canonical_name, join
from detector.errors import LabelError, did_you_mean


@dataclass(frozen=True)
class DataSet:
    """A dataset of known format with the names of its splits; `read` reads the labels of one split.

    Attributes:
        description: format, name and splits of the dataset as one line of text.
        readers: split name → function that reads the split.
        expected: split name → counts of a complete copy: {"images": number of images, "boxes": number of label rows}.
        coco_files: split name → COCO JSON file of the split; empty for other formats.
        absent: split name → path that the dataset names for the split, but that does not exist.
        unused: label files that are not used, as texts; the ledger of the first split has a note about them.
    """

    description: str
    readers: Mapping[str, Callable[[], Split]]
    expected: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    coco_files: Mapping[str, Path] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    unused: Sequence[str] = ()
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
        is_joined = name == "trainval" and name not in self.readers
        parts = ("train", "val") if is_joined else (name,)
        if is_joined and set(parts) <= set(self.readers):
            return join(name, self.read("train"), self.read("val"))
        for part in parts:
            if part in self.absent:
                raise LabelError(f"{self.description}: the images of {part} are not there: {self.absent[part]}")
        if is_joined:
            hint = (
                "; to train on all images of train: --split train --val-fraction 0" if "train" in self.readers else ""
            )
            raise LabelError(
                f"no split '{split_name}' in this dataset ({self.description}): it is train and val together, and the "
                f"dataset has only {', '.join(self.readers)}{hint}"
            )
        if name not in self.readers:
            raise LabelError(
                f"no split '{split_name}' in this dataset ({self.description}); {did_you_mean(name, self.readers)}"
            )
        split = self.readers[name]()
        if self.unused and name == self.split_names[0]:
            note = f"not used: {', '.join(self.unused)}"
            split = replace(split, ledger=replace(split.ledger, notes=(*split.ledger.notes, note)))
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
        return coco_scoring.read_ground_truth(file) if file else coco_scoring.to_coco(self.read(split_name))

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
