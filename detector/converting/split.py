"""`split`: divide the training images of a dataset, and write lists of the images and a description of the result."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from detector.data.holdout import hold_back
from detector.data.listed_splits import image_folder, list_line
from detector.data.open_data import open_data
from detector.data.split import Split
from detector.data.training_splits import choose_training_split
from detector.errors import ConfigError, FileError, LabelError
from detector.files import local_path, make_folder, write_atomic
from detector.image_hashes import hash_files
from detector.options import MAX_PIXELS, MAX_VAL_FRACTION, VAL_FRACTION

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DividedData:
    """Result of `split`.

    Attributes:
        description: the YAML file of the divided dataset, for `open_data` and --data.
        counts: split name → number of images.
    """

    description: Path
    counts: Mapping[str, int]


def split(
    data: str | Path,
    out: str | Path,
    *,
    val_fraction: float = VAL_FRACTION,
    test_fraction: float = 0.0,
    allow_outside: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> DividedData:
    """Divide the training images of a dataset into train, val and test, by lists of images in a new folder.

    The images and labels stay where they are, and nothing is written to their folder. A split val or test that the
    dataset has already stays as it is. The choice is that of `train`: the same dataset always gives the same lists, and
    near-duplicates are on one side.

    Args:
        data: the dataset, in any form that `open_data` accepts, except "scenes".
        out: folder for the lists and data.yaml; must be missing or empty, and not in the folder of the dataset.
        val_fraction: fraction of the training images for val, 0..0.33; 0: no val split.
        test_fraction: fraction of the training images for test, 0..0.33; 0: no test split.
        allow_outside: as for `open_data`.
        max_pixels: as for `open_data`.

    Raises:
        InputError: a fraction is out of range, the dataset cannot be read or divided, or the folder cannot be used.
    """
    for name, fraction in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if not 0 <= fraction <= MAX_VAL_FRACTION:
            raise ConfigError(f"{name}: must be from 0 to {MAX_VAL_FRACTION}, got {fraction}")
    source, out = Path(data), Path(out)
    data_set = open_data(local_path(data), allow_outside=allow_outside, max_pixels=max_pixels)
    _check_out(out, source)
    log.info("%s", data_set.description)
    training_name = choose_training_split(data_set, None)
    splits = {"train": data_set.read(training_name)}
    splits |= {name: data_set.read(name) for name in data_set.split_names if name not in (training_name, "train")}
    if not all(part.from_files for part in splits.values()):
        raise LabelError(f"{data}: the images of this dataset are not files, so they cannot be listed")
    wanted = {"val": val_fraction, "test": test_fraction}
    _hold_back(splits, {name: fraction for name, fraction in wanted.items() if fraction})
    folder = image_folder(source)
    lists = {
        name: "".join(f"{list_line(annotation.image_path, folder)}\n" for annotation in part.annotations)
        for name, part in splits.items()
    }
    make_folder(out)
    for name, text in lists.items():
        write_atomic(out / f"{name}.txt", text.encode())
    values = {"format": "auto", "path": _relative(source, out), "splits": {name: f"{name}.txt" for name in lists}}
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    write_atomic(out / "data.yaml", text.encode())
    return DividedData(out / "data.yaml", {name: len(part.annotations) for name, part in splits.items()})


def _hold_back(splits: dict[str, Split], fractions: Mapping[str, float]) -> None:
    """Move images of the split train to new splits; `splits` is changed.

    Args:
        splits: split name → split.
        fractions: name of a new split → fraction of the training images. A split that exists already stays as it is.
    """
    hashes = hash_files(annotation.image_path for annotation in splits["train"].annotations)
    left = 1.0
    for name, fraction in fractions.items():
        if name in splits:
            log.info(f"{name}: the dataset has this split already, so no images are held back for it")
            continue
        holdout = hold_back(splits["train"], fraction / left, hashes, name=name)
        for note in holdout.notes:
            log.info("%s", note)
        for warning in holdout.warnings:
            log.warning("%s", warning)
        if holdout.held_back is not None:
            splits |= {"train": holdout.train, name: holdout.held_back}
            left -= fraction


def _check_out(out: Path, source: Path) -> None:
    """Raise InputError if the output folder contains something, or is in the folder of the dataset."""
    try:
        is_used = out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:
        raise FileError(f"{out}: the folder cannot be read ({error.strerror})") from None
    if is_used:
        raise FileError(f"{out}: the folder is not empty; choose another --out")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"{out}: the folder is inside the dataset {source}; choose another --out")


def _relative(source: Path, out: Path) -> str:
    """Return the path of the dataset relative to the output folder; the absolute path if they are on two drives."""
    absolute = source.resolve()
    try:
        return Path(os.path.relpath(absolute, out.resolve())).as_posix()
    except ValueError:
        return absolute.as_posix()
