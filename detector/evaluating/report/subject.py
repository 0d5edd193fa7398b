"""What a report is about: the weights or the results file, the data, and hashes that identify both."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detector.data.split import Split
from detector.errors import FileError
from detector.files import file_sha256, json_bytes
from detector.image_hashes import hash_files
from detector.predict.detector import Detector
from detector.runtime.origin import weights_files
from detector.wording import metric, plural


@dataclass(frozen=True)
class Subject:
    """What a report is about.

    Attributes:
        name: the weights or the results file, as the user gave it.
        facts: label → text: the file, its hash, the network, the data and its hashes.
        training: rows of results.csv, if the report is that of a training run.
        note: sentence below the title that says what the metrics cover; empty if they are those of one model.
    """

    name: str
    facts: Mapping[str, str]
    training: Sequence[Mapping[str, float]] = ()
    note: str = ""


def weights_subject(
    weights: str | Path | Sequence[str | Path],
    detector: Detector,
    data: str,
    training: Sequence[Mapping[str, float]] = (),
) -> Subject:
    """Return the subject of a report about weights.

    Args:
        weights: the weights file, the name of shipped weights, or the file or folder of an export; several for an
            ensemble.
        detector: the loaded weights.
        data: description of the dataset.
        training: rows of results.csv, for a report of a training run.
    """
    info = detector.info
    several = [weights] if isinstance(weights, str | Path) else list(weights)
    name = " + ".join(map(str, several))
    height, width = detector.input_hw
    val = info.facts.get("val")
    facts = {
        "weights": name,
        "SHA-256 of the weights": _hash([file for own in several for file in weights_files(own)]),
        "network": f"{info.model}, input {width}x{height} (width x height)",
        "runtime": detector.runtime_name,
        "trained on": _trained_on(info.facts),
    }
    if isinstance(val, dict) and isinstance(val.get("AP"), int | float):
        facts["AP on val in training"] = metric(val["AP"])
    return Subject(name, facts | {"data": data}, training)


def file_subject(path: Path, data: str) -> Subject:
    """Return the subject of a report about a COCO results file; the arguments are those of `weights_subject`."""
    return Subject(str(path), {"detections": str(path), "SHA-256 of the detections": _hash([path]), "data": data})


def folds_subject(folder: Path, covers: str, data: str) -> Subject:
    """Return the subject of a report about a cross-validation.

    Args:
        folder: folder of the cross-validation.
        covers: what the metrics cover.
        data: description of the dataset.
    """
    note = f"Cross-validation: {covers}."
    return Subject(str(folder), {"folder of the cross-validation": str(folder), "data": data}, note=note)


def split_facts(split: Split, ground_truth: Mapping[str, Any]) -> Mapping[str, str]:
    """Return label → text about a split: its images, objects and classes, and hashes of labels and image files."""
    objects = sum(row.get("iscrowd", 0) != 1 for row in ground_truth["annotations"])
    facts = {
        "split": f"{split.name}{' (images that were held back from training)' if split.held_back else ''}: "
        f"{plural(len(split.annotations), 'image')}, {plural(objects, 'object')}, "
        f"{plural(len(split.class_names), 'class')}",
        "SHA-256 of the labels": hashlib.sha256(json_bytes(dict(ground_truth))).hexdigest(),
    }
    if split.from_files:
        hashes = hash_files(annotation.image_path for annotation in split.annotations)
        facts["SHA-256 of the images"] = hashlib.sha256(b"".join(sorted(hashes.values()))).hexdigest()
    return facts | {"label rows": split.ledger.summary()}


def _trained_on(facts: Mapping[str, Any]) -> str:
    """Return the data and the length of the training, as far as the weights know them."""
    known = [(facts.get("data"), ""), (facts.get("images"), " images"), (facts.get("steps"), " steps")]
    return ", ".join(f"{value}{unit}" for value, unit in known if value is not None) or "not known"


def _hash(files: Sequence[Path]) -> str:
    """Return the SHA-256 hash of files; "n/a" if one cannot be read."""
    try:
        return file_sha256(*files)
    except FileError:
        return "n/a"
