"""Makes splits from the labels of formats whose rows name their classes, such as CreateML, CVAT or Pascal VOC.

A format reader returns `ImageLabels`. This module finds the image files, numbers classes and images, and checks every
box. The classes are the names in all label files of the dataset, sorted.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from detector.data.coordinates import look_like_corners, look_like_fractions
from detector.data.file_index import FULL, FileIndex, Match, other_folder_note, without_weaker
from detector.data.image_labels import EVERY_CLASS, BadRow, ImageLabels, LabelFormat, NamedRow
from detector.data.label_copies import without_copies
from detector.data.path_guard import real_path
from detector.data.row_collector import LabelRow, RowCollector, RowError
from detector.data.split import Split, read_file, split_in, split_rank
from detector.errors import LabelError, location
from detector.files import is_file
from detector.mirror import read_ahead
from detector.options import ReadOptions
from detector.wording import plural


@dataclass(frozen=True)
class NamedLabels:
    """The label files of a dataset in one format, and the splits in them.

    Attributes:
        format: the format of all label files.
        index: all files of the dataset.
        files: the label files.
        options: what may be read.
        class_names: names of the C classes in the order of the class ids; empty: all names in the files, sorted.
        lists: split name → label files of the split, for formats with lists of splits. Empty: the splits
            follow from the label files and their folders.
        notes: split name → what the user should know about its list.
    """

    format: LabelFormat
    index: FileIndex
    files: tuple[Path, ...]
    options: ReadOptions
    class_names: tuple[str, ...] = ()
    lists: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    _matches: dict[str, list[Match | None]] = field(default_factory=dict, repr=False)

    @cached_property
    def split_names(self) -> tuple[str, ...]:
        """Names of the splits: those of the lists, or of the label files, with the usual names first."""
        if self.lists:
            return tuple(self.lists)
        names = {self._split_of(labels) for labels in self._labels}
        return tuple(sorted(names or {"train"}, key=lambda name: (split_rank(name), name)))

    def read(self, name: str) -> Split:
        """Return the split with this name, one of `split_names`; the images are not decoded.

        Raises:
            InputError: a label file cannot be read, there is no class, several images match a name equally well, an
                image is outside of the folder, or no image exists.
        """
        self._check_fractions()
        class_names = self.class_names or self._all_class_names()
        class_ids = {class_name: i for i, class_name in enumerate(class_names)}
        chosen = self._labels_of(name)
        matches = self._matches_of(name)
        paths = [match and match.path for match in matches]
        collector = RowCollector(self.options)
        for note in (*self.index.notes, *self._read_files[1], *([self.notes[name]] if name in self.notes else ())):
            collector.add_note(note)
        names = [labels.image_name for _, labels in chosen]
        if note := other_folder_note(list(zip(names, matches, strict=True))):
            collector.add_note(note)
        guard = self.index.guard
        sizes: dict[int, tuple[int, int]] = {}
        for (image_id, labels), path in read_ahead(zip(chosen, paths, strict=True), lambda pair: pair[1] or ""):
            image_hw = labels.image_hw if labels.image_hw and min(labels.image_hw) > 0 else None
            found = None
            if path is None:
                collector.add_missing_image(image_id, labels.image_name, labels.label_file.parent / labels.image_name)
            else:
                guard.check(path, labels.label_file, labels.line)
                found = collector.add_image(image_id, path, image_hw)
            _add_rows(collector, image_id, labels, class_ids, found or (1, 1))
            if found is not None:
                sizes[image_id] = found
        if self.format.may_be_corners:
            self._check_corners(chosen, sizes)
        for remark, count in Counter(remark for _, labels in chosen for remark in labels.remarks).items():
            collector.add_note(f"{remark}: {plural(count, 'label')}")
        _note_unlabeled(collector, self, name, {path for path in paths if path})
        _note_similar_names(collector, class_names)
        annotations, ledger = collector.finish(self.index.folder)
        return Split(
            name,
            class_names,
            category_ids=tuple(range(1, len(class_names) + 1)),
            annotations=annotations,
            ledger=ledger,
            read_image=partial(read_file, max_pixels=self.options.max_pixels),
            max_pixels=self.options.max_pixels,
        )

    def _matches_of(self, name: str) -> list[Match | None]:
        """Return the image file of each image of a split. They are searched once, but needed for each of the splits."""
        if name not in self._matches:
            self._matches[name] = _find_images(self, [labels for _, labels in self._labels_of(name)], name)
        return self._matches[name]

    @property
    def _labels(self) -> tuple[ImageLabels, ...]:
        """The labels of all images of the dataset, in the order of the files."""
        return self._read_files[0]

    @cached_property
    def _read_files(self) -> tuple[tuple[ImageLabels, ...], tuple[str, ...]]:
        """The labels of all images of the dataset, in the order of the files, and notes for the user."""
        labels = list(self._read_in_turn())
        if self.format.per_image:
            return tuple(labels), ()
        folder = self.index.folder
        return without_copies(labels, [own.split_name or split_of(own.label_file, folder) for own in labels])

    def _read_in_turn(self) -> Iterator[ImageLabels]:
        """Read one label file after the other, and yield the labels of its images."""
        guard = self.index.guard
        for file in self.files:
            guard.check(file, file.parent)
            yield from self.format.read(file)

    def _labels_of(self, name: str) -> list[tuple[int, ImageLabels]]:
        """Return (image id, labels) of the images of a split; image ids are unique in the dataset."""
        numbered = list(enumerate(self._labels, start=1))
        if self.lists:
            by_file = {labels.label_file: (i, labels) for i, labels in numbered}
            return [by_file[file] for file in self.lists[name]]
        return [(i, labels) for i, labels in numbered if self._split_of(labels) == name]

    def _split_of(self, labels: ImageLabels) -> str:
        """Return the split of an image: the one that its label file or a folder names, else train."""
        file = labels.label_file
        # The name of the label file of one image is the name of the image, which may contain any word.
        is_image_name = self.format.per_image or Path(labels.image_name.replace("\\", "/")).stem == file.stem
        place = file.parent / "_" if is_image_name else file
        named = labels.split_name
        if named == "default":  # CVAT's name for no split
            named = None if self._has_no_other_split else named
        return named or split_of(place, self.index.folder) or "train"

    @cached_property
    def _has_no_other_split(self) -> bool:
        """Whether no label file gives the name of a split other than default."""
        return all(labels.split_name in (None, "default") for labels in self._labels)

    def has_objects(self) -> bool:
        """Return whether any label file contains a row; only the files up to the first one with a row are read."""
        return any(labels.rows for labels in self._read_in_turn())

    def _check_fractions(self) -> None:
        """Raise LabelError if the boxes, which should be in pixels, look like fractions of the image size."""
        rows = (row for labels in self._labels if not labels.are_fractions for row in labels.rows)
        corners = [row.corners for row in rows if isinstance(row, NamedRow)]
        if look_like_fractions(corners):
            raise LabelError(
                f"{self.index.folder}: all {len(corners)} boxes ({self.format.name}) lie within 0..1: they look like "
                "fractions of the image size, but this format has pixels; multiply them by the image width and height"
            )

    def _check_corners(self, chosen: Sequence[tuple[int, ImageLabels]], sizes: Mapping[int, tuple[int, int]]) -> None:
        """Raise LabelError if the boxes, which should be x, y, width and height, look like corners.

        Args:
            chosen: (image id, labels) of the images of a split.
            sizes: image id → (height, width), for the images that can be used.
        """
        rows = [(sizes[i], row) for i, labels in chosen if i in sizes for row in labels.rows]
        usable = [(hw, row.corners) for hw, row in rows if isinstance(row, NamedRow)]
        boxes = [corners for _, corners in usable]
        written = [(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes]
        if look_like_corners(written, boxes, [(width, height) for (height, width), _ in usable]):
            raise LabelError(
                f"{self.index.folder}: the boxes ({self.format.name}) look like corners [x1, y1, x2, y2]: as "
                "[x, y, width, height], many of them extend beyond their image; write width = x2 - x1 and "
                "height = y2 - y1"
            )

    def _all_class_names(self) -> tuple[str, ...]:
        """Return the class names in all label files, sorted.

        Raises:
            LabelError: there is no class name.
        """
        rows = (row for labels in self._labels for row in labels.rows)
        names = {row.class_name for row in rows if not isinstance(row, BadRow)} - {EVERY_CLASS}
        if not names:
            count = len(self.files)
            raise LabelError(
                f"{self.index.folder}: no label file ({self.format.name}, {count} in total) contains an object with a "
                "class name; expected at least one"
            )
        return tuple(sorted(names))


def split_of(file: Path, folder: Path) -> str | None:
    """Return the split that the name of a label file or the nearest of its folders names; None if none does.

    Args:
        file: the label file.
        folder: the folder of the dataset; its own name does not count.

    >>> split_of(Path("mine/valid/_annotations.csv"), Path("mine")), split_of(Path("test/all.csv"), Path("test"))
    ('val', None)
    """
    parts = file.relative_to(folder).parts if file.is_relative_to(folder) else (file.name,)
    names = [Path(parts[-1]).stem, *reversed(parts[:-1])]
    return next((split for name in names if (split := split_in(name))), None)


def _find_images(data: NamedLabels, labels: Sequence[ImageLabels], name: str) -> list[Match | None]:
    """Return the image file of each `ImageLabels`, or None if it has none.

    Raises:
        LabelError: several images match equally well, or an image is named by several `ImageLabels`.
    """
    matches = without_weaker([_find_image(data, own, name) for own in labels])
    owners: dict[Path, ImageLabels] = {}
    for own, match in zip(labels, matches, strict=True):
        if match is not None and (other := owners.setdefault(real_path(match.path), own)) is not own:
            places = [location(each.label_file, each.line) for each in (other, own)]
            raise LabelError(
                f"{places[1]}: {own.image_name} is the image {match.path}, which {places[0]} names too; "
                "merge the labels of an image into one place"
            )
    return matches


def _find_image(data: NamedLabels, labels: ImageLabels, name: str) -> Match | None:
    """Return the image file of one `ImageLabels`, or None if it has none."""
    file, image_name = labels.label_file, labels.image_name
    if data.format.path_end:
        place = Path(os.path.normpath(file.parent / image_name))
        return Match(place, FULL) if place in data.index else None
    any_suffix = data.format.per_image or data.format.matches_stem
    match = None
    if image_name:
        folders = [file.parent / "images"]
        if file.parent / image_name not in data.index:
            folders += [file.parent.parent / "JPEGImages", file.parent.parent / "images"]
        match = data.index.find_image(image_name, file, name, folders=folders, any_suffix=any_suffix)
        if match is None or (match.parts < FULL and data.options.allow_outside):
            # Links in subfolders and paths out of the folder are not in the index.
            outside = file.parent / image_name
            match = Match(outside, FULL) if is_file(outside) and outside != file else match
    if match is None and data.format.per_image:
        # In many datasets, images were renamed without changing the name in the label file.
        match = data.index.find_image(file.stem, file, name, any_suffix=True)
    elif match is not None and data.format.per_image and match.path.stem != file.stem:
        # Files were renamed or copied: both images exist, so the label file with the name of the image belongs to it.
        with suppress(LabelError):
            match = data.index.find_image(file.stem, file, name, any_suffix=True) or match
    return match


def _add_rows(
    collector: RowCollector,
    image_id: int,
    labels: ImageLabels,
    class_ids: Mapping[str, int],
    image_hw: tuple[int, int],
) -> None:
    """Add the rows of one image to the collector; drop the rows that cannot be used."""
    height, width = image_hw if labels.are_fractions else (1, 1)
    for row in labels.rows:
        if isinstance(row, BadRow):
            collector.drop(image_id, labels.label_file, row.line, row.error)
        elif row.class_name != EVERY_CLASS and row.class_name not in class_ids:
            error = RowError("unknown_class", f"class {row.class_name!r:.60} is not among the class names")
            collector.drop(image_id, labels.label_file, row.line, error)
        else:
            x1, y1, x2, y2 = row.corners
            corners = (x1 * width, y1 * height, x2 * width, y2 * height)
            # A crowd region of every class becomes one row per class, because crowd regions are scored per class.
            for class_id in class_ids.values() if row.class_name == EVERY_CLASS else (class_ids[row.class_name],):
                collector.add_row(LabelRow(image_id, labels.label_file, row.line, class_id, corners, row.is_crowd))


def _note_similar_names(collector: RowCollector, class_names: Sequence[str]) -> None:
    """Add a note if class names differ only in upper and lower case: they are different classes."""
    groups: dict[str, list[str]] = {}
    for class_name in class_names:
        groups.setdefault(class_name.casefold(), []).append(class_name)
    for names in groups.values():
        if len(names) > 1:
            collector.add_note(f"{', '.join(names)} are different classes; if they are one class, give it one name")


def _note_unlabeled(collector: RowCollector, data: NamedLabels, name: str, used: set[Path]) -> None:
    """Add a note about images of the dataset that no label file names: they are not used."""
    known = set(map(real_path, used | _named_elsewhere(data, name)))
    if data.lists:
        listed = {file for files in data.lists.values() for file in files}
        unlisted = [labels for labels in data._labels if labels.label_file not in listed]
        known |= {real_path(match.path) for match in _find_images(data, unlisted, name) if match is not None}
        if unlisted:
            first = unlisted[0].label_file
            collector.add_note(f"not used: {plural(len(unlisted), 'label file')} in no list of a split, first: {first}")
    unlabeled = [image for image in data.index.images if real_path(image) not in known]
    if unlabeled:
        collector.add_note(
            f"not used: {plural(len(unlabeled), 'image')} without labels, first: {unlabeled[0]}; to use an image as a "
            "background image, add it to the label file without boxes"
        )


def _named_elsewhere(data: NamedLabels, name: str) -> set[Path]:
    """Return the images of the other splits."""
    others = (other for other in data.split_names if other != name)
    return {match.path for other in others for match in data._matches_of(other) if match is not None}
