"""Finds the COCO files in a folder, and the splits that they contain."""

from collections.abc import Sequence
from pathlib import Path

from detector.data.file_index import FileIndex
from detector.data.named_labels import split_of
from detector.data.recognize import named_format_of
from detector.data.split import SPLITS, canonical_name, split_rank
from detector.errors import LabelError


def usual_coco_files(index: FileIndex) -> dict[str, Path]:
    """Return split name → COCO file of a folder; empty if the folder has none of the three usual COCO layouts.

    If a folder has files of more than one layout, only the files of the first layout are returned.

    Raises:
        LabelError: two files contain the same split.
    """
    folder = index.folder
    plain = [(canonical_name(path.stem), path) for path in folder.glob("*.json")]
    plain = [(name, path) for name, path in plain if name in SPLITS and named_format_of(path) is None]
    standard = [
        (canonical_name(path.stem.removeprefix("instances_")), path)
        for path in folder.glob("annotations/instances_*.json")
    ]
    roboflow = [(canonical_name(path.parent.name), path) for path in folder.glob("*/_annotations.coco.json")]
    files: dict[str, Path] = {}
    for name, path in sorted(plain or standard or roboflow, key=lambda pair: (split_rank(pair[0]), pair)):
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
    if not splits:
        names = ["train"] if len(paths) == 1 else [path.stem for path in paths]
        splits = dict(zip(names, paths, strict=True))
    return dict(sorted(splits.items(), key=lambda item: (split_rank(item[0]), item[0])))
