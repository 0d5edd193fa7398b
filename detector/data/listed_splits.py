"""Splits that are lists of the images of another dataset, as `detector split` writes them.

A list is a text file with the path of one image per line, relative to the folder of the other dataset. The images and
labels stay where they are, in whatever format they have.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from detector.data.path_guard import real_path
from detector.data.split import Split, canonical_name, join, select
from detector.errors import LabelError, location
from detector.files import read_text


class ListedSplits:
    """The splits in the key `splits` of a dataset description.

    Args:
        path: the YAML file of the description.
        source: folder or file of the other dataset.
        lists: value of the key `splits`: split name → path of a list, relative to the folder of the YAML file.
        source_names: names of the splits of the other dataset.
        read_source: reads a split of the other dataset.

    Raises:
        LabelError: `lists` has another form.
    """

    def __init__(
        self,
        path: Path,
        source: Path,
        lists: object,
        source_names: Sequence[str],
        read_source: Callable[[str], Split],
    ) -> None:
        if not isinstance(lists, dict) or not lists or not all(isinstance(text, str) for text in lists.values()):
            raise LabelError(f"{path}: `splits` must look like {{train: train.txt, val: val.txt}}")
        self._lists: Mapping[str, Path] = {canonical_name(name): path.parent / text for name, text in lists.items()}
        if len(self._lists) < len(lists):
            raise LabelError(f"{path}: `splits` names a split twice: {', '.join(lists)}")
        self._folder = image_folder(source)
        self._source_names, self._read_source = source_names, read_source

    @property
    def split_names(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self._lists)

    def read(self, name: str) -> Split:
        """Read the images of one list from the other dataset.

        Raises:
            InputError: the list or the other dataset cannot be read, or the other dataset does not have an image.
        """
        path = self._lists[name]
        ids = set()
        for line, text in _read_lines(path):
            image_id = self._find(text)
            if image_id is None:
                raise LabelError(
                    f"{location(path, line)}: {text:.200} is not an image of the dataset {self._folder}; the dataset "
                    "has changed or its image cannot be read: run `detector split` again, or remove the line"
                )
            if image_id in ids:
                raise LabelError(f"{location(path, line)}: {text:.200} is listed twice; remove one of the lines")
            ids.add(image_id)
        if not ids:
            raise LabelError(f"{path}: the list of the split '{name}' has no images")
        # The rows that belong to no image must be in one ledger.
        return select(self._all_images, name, ids, unassigned_rows=name == self.split_names[0])

    def _find(self, text: str) -> int | None:
        """Return the id of the image in a line of a list; None if there is no such image."""
        for name in (text, text.strip()):
            if (image_id := self._image_ids.get(real_path(self._folder / name))) is not None:
                return image_id
        return None

    @cached_property
    def _all_images(self) -> Split:
        """The images of all splits of the other dataset as one split."""
        first, *others = (self._read_source(name) for name in self._source_names)
        for other in others:
            first = join(first.name, first, other)
        return first

    @cached_property
    def _image_ids(self) -> Mapping[Path, int]:
        """Absolute path → image id, for all images of the other dataset."""
        return {real_path(annotation.image_path): annotation.image_id for annotation in self._all_images.annotations}


def image_folder(source: Path) -> Path:
    """Return the folder to which the paths in lists are relative: the dataset's folder, or the folder of its file."""
    return source if source.is_dir() else source.parent


def list_line(image: Path, folder: Path) -> str:
    """Return the line of a list for an image: its path relative to `folder` if it is inside, else its absolute path.

    Raises:
        LabelError: the path contains a line break or is not Unicode, so that no list can contain it.
    """
    text = (image.relative_to(folder) if image.is_relative_to(folder) else image.absolute()).as_posix()
    if "\n" in text or "\r" in text or not _is_unicode(text):
        raise LabelError(f"{image}: a list cannot contain this path: rename the image")
    return text


def _is_unicode(text: str) -> bool:
    """Return whether a path can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text) of each line that is not blank."""
    for line, text in enumerate(read_text(path).split("\n"), start=1):
        if text.strip():
            yield line, text
