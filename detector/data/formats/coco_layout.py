"""Finds the COCO files in a folder, and the splits that they contain."""

from collections.abc import Sequence
from pathlib import Path

from detector.data.file_index import FileIndex
from detector.data.named_labels import split_of
from detector.data.recognize import is_coco_file, is_damaged, named_format_of
from detector.data.split import SPLITS, canonical_name, split_rank
from detector.errors import LabelError


def usual_coco_files(index: FileIndex) -> dict[str, Path]:
    """Return split name → COCO file of a folder; empty if the folder has none of the three usual COCO layouts.

    The files of another layout are added only if they are other splits.

    Raises:
        LabelError: two files contain the same split.
    """
    folder = index.folder
    plain = [(canonical_name(path.stem), path) for path in folder.glob("*.json")]
    plain = [(name, path) for name, path in plain if name in SPLITS and (is_coco_file(path) or is_damaged(path))]
    standard = [
        (canonical_name(path.stem.removeprefix("instances_")), path)
        for path in folder.glob("annotations/instances_*.json")
    ]
    roboflow = [(canonical_name(path.parent.name), path) for path in folder.glob("*/_annotations.coco.json")]
    files: dict[str, Path] = {}
    chosen: list[tuple[str, Path]] = []
    for layout in (plain, standard, roboflow):
        if not {name for name, _ in layout} & {name for name, _ in chosen}:
            chosen += layout
    for name, path in sorted(chosen, key=lambda pair: (split_rank(pair[0]), pair)):
        if name in files:
            raise LabelError(
                f"{folder}: both {files[name]} and {path} contain the split {name}; pass the path of one of these files"
            )
        files[name] = path
    return {"train": path} if list(files) == ["default"] else files


def coco_splits(paths: Sequence[Path], index: FileIndex) -> dict[str, Path]:
    """Return split name → COCO file, for COCO files of any name.

    The split is a word in the name of the file or of one of its folders. Without such words, a single file is the
    split train, and several files are splits with the names of the files.

    Raises:
        LabelError: two files contain the same split.
    """
    splits: dict[str, Path] = {}
    # COCO's own person_keypoints_*.json contain only one class; instances_*.json contain all of them.
    ordered = sorted(paths, key=lambda path: ("instances" not in path.stem, len(path.parts), path))
    for path in ordered:
        name = split_of(path, index.folder)
        if name is None:
            continue
        if name in splits and ("instances" in path.stem or "instances" not in splits[name].stem):
            raise LabelError(
                f"{index.folder}: both {splits[name]} and {path} contain the split {name}; pass the path of one of "
                "these files, or remove one"
            )
        splits.setdefault(name, path)
    rest = [path for path in paths if split_of(path, index.folder) is None]
    if splits and rest and "train" not in splits:
        raise LabelError(
            f"{index.folder}: {', '.join(splits)} is in {', '.join(path.name for path in splits.values())}, but the "
            f"split of {rest[0]} is unknown; if it is the training split, rename it to train.json, else remove it"
        )
    if not splits:
        stems = [path.stem for path in paths]
        names = ["train"] if len(paths) == 1 else stems if len(set(stems)) == len(stems) else _folder_names(paths)
        splits = dict(zip(names, paths, strict=True))
    return dict(sorted(splits.items(), key=lambda item: (split_rank(item[0]), item[0])))


def named_like_splits(index: FileIndex) -> dict[str, Path]:
    """Return split name → JSON file directly in the folder that has the name of a split and no known format."""
    paths = sorted(index.folder.glob("*.json"))
    named = {canonical_name(path.stem): path for path in paths if named_format_of(path) is None}
    return {name: named[name] for name in SPLITS if name in named}


def _folder_names(paths: Sequence[Path]) -> list[str]:
    """Return the names of the folders of files with the same name.

    Raises:
        LabelError: two files have the same folder name.
    """
    names: dict[str, Path] = {}
    for path in paths:
        if (other := names.setdefault(path.parent.name, path)) != path:
            raise LabelError(f"{other} and {path} may be the same split; pass the path of one of these files")
    return list(names)
