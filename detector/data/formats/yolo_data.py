"""`YoloData`: where the parts of a YOLO dataset are. `SplitFiles`: the files of one of its splits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

from detector.data.file_index import FileIndex
from detector.data.path_guard import PathGuard, absolute
from detector.images import IMAGE_SUFFIXES
from detector.options import ReadOptions


@lru_cache(maxsize=1024)
def label_folder(folder: Path) -> Path:
    """Return the path `folder` with the last `images` in it replaced by `labels`, or unchanged without `images`.

    >>> label_folder(Path("images/a/images/b")).as_posix()
    'images/a/labels/b'
    """
    parts = list(folder.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts)


def label_places(image: Path) -> tuple[Path, Path]:
    """Return the paths where the label file of an image usually is, in the order in which they are tried."""
    name = f"{image.stem}.txt"
    return label_folder(image.parent) / name, image.parent / name


def is_image_name(place: Path) -> bool:
    """Return whether a path has the suffix of an image."""
    return place.suffix.lower() in IMAGE_SUFFIXES


@dataclass(frozen=True)
class NameFile:
    """A file that names the classes.

    Attributes:
        path: the file.
        names: the class names in the order of the class ids.
    """

    path: Path
    names: tuple[str, ...]


@dataclass(frozen=True)
class SplitFiles:
    """The image files and label files of one split, listed but not read.

    Attributes:
        images: paths of all images, sorted. An image from a list file may be missing.
        labels: path of the label file of each image; None: it has none.
        folders: the folders of images that the dataset names.
        label_folders: the folders that belong to them. All label files in them should have an image.
        texts: the text files in `folders`.
        notes: what the user should know, one sentence each.
    """

    images: Sequence[Path]
    labels: Sequence[Path | None]
    folders: Sequence[Path]
    label_folders: Sequence[Path]
    texts: Sequence[Path]
    notes: Sequence[str]


@dataclass(frozen=True)
class YoloData:
    """Where the parts of a YOLO dataset are.

    Attributes:
        source: the file or folder that defines the dataset.
        roots: folders that paths may be relative to, in the order in which they are tried.
        splits: split name → folders, list files (.txt) or image files.
        absent: split name → path that the source names, but that does not exist.
        class_names: names of the C classes, in the order of the class ids; None: unknown.
        name_files: other files that name the classes.
        names_from: the file of which each line is a class name; None: the names are in `source`, or unknown.
        has_keypoints: whether rows contain keypoints after the box.
        notes: what the user should know about the layout, one sentence each.
        options: what may be read.
        listed: split name → its files, for the splits that were listed already.
    """

    source: Path
    roots: tuple[Path, ...]
    splits: Mapping[str, tuple[Path, ...]]
    absent: Mapping[str, str] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    name_files: tuple[NameFile, ...] = ()
    has_keypoints: bool = False
    notes: tuple[str, ...] = ()
    names_from: Path | None = None
    options: ReadOptions = ReadOptions()  # noqa: RUF009 (immutable)
    listed: dict[str, SplitFiles] = field(default_factory=dict, repr=False)

    @cached_property
    def index(self) -> FileIndex:
        """The files in the folder of the dataset. Links that lead outside are not in it."""
        return FileIndex(self.roots[-1], self.guard)

    @cached_property
    def files(self) -> FileIndex | None:
        """The files in the folder of the data; None if no folder or list of a split is in it.

        A `data.yaml` may be in the folder of a project, far from the data.
        """
        root = next((root for root in self.roots if root.is_dir()), self.roots[-1])
        places = (place for places in self.splits.values() for place in places)
        if not any(absolute(place).is_relative_to(absolute(root)) for place in places):
            return None
        return self.index if root == self.roots[-1] else FileIndex(root, self.guard)

    @cached_property
    def guard(self) -> PathGuard:
        """Allows the files in the dataset's own folders.

        The paths in the YAML file may lead anywhere, but not through a link in the folder of the dataset. Paths in
        lists, and the targets of links, are restricted.
        """
        roots = [absolute(root) for root in self.roots]
        places = [place for places in self.splits.values() for place in places if not is_image_name(place)]
        folders = {place if place.is_dir() else place.parent for place in places}
        outer = [f for f in folders if not any(absolute(f).is_relative_to(root) for root in roots)]
        own = [*self.roots, *sorted(outer)]
        return PathGuard(dict.fromkeys([*own, *map(label_folder, own)]), self.options)
