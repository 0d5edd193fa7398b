"""run.json: with what a run was started. `resume` reads it, and notices every change."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from detector.config import Config, config_of
from detector.errors import ConfigError, FileError, InputError
from detector.shipped_weights import weights_path
from detector.trained_classes import ClassChoice
from detector.weights_info import WeightsInfo, from_metadata, to_metadata
from detector.wording import plural

_HASH, _FACTS, _INITIAL = "sha256", "facts", "initial_weights"
"""Keys of run.json besides those of the request."""


@dataclass(frozen=True)
class TrainRequest:
    """Everything needed to start a run, or to resume it: data, settings and initial weights. Saved in run.json.

    Attributes:
        data: each dataset: name of a built-in dataset, or absolute path.
        split: name of the training split; None: "train", or the only split of the dataset.
        config: settings, with a length of the run.
        weights: name of shipped weights, or absolute path or URL of the initial weights; None: random weights.
        reuse_backbone: True if the initial weights may have other classes than the dataset. Then all but their
            outputs for classes are used.
        unlabeled: absolute path of the unlabeled images; None: the run has none.
        classes: names of the classes to learn; None: all classes of the data.
        single_class: name of the one class into which they are merged; None: they are not merged.
        transform: `module:name` of the own transform; None: the run has none.
    """

    data: tuple[str, ...]
    split: str | None
    config: Config
    weights: str | None
    reuse_backbone: bool
    unlabeled: str | None = None
    classes: tuple[str, ...] | None = None
    single_class: str | None = None
    transform: str | None = None

    @property
    def choice(self) -> ClassChoice:
        """The classes to learn."""
        return ClassChoice(self.classes, self.single_class)

    @property
    def weights_path(self) -> Path | None:
        """Path of the initial weights; None: random weights."""
        return None if self.weights is None else weights_path(self.weights)


@dataclass(frozen=True)
class RunRecord:
    """The content of run.json.

    Attributes:
        request: request of the run.
        initial: description of the initial weights, so that a run with a checkpoint can be resumed without their file;
            None: random initial weights.
        facts: what the trained weights depend on besides the request; see `environment.EFFECTS`.
    """

    request: TrainRequest
    initial: WeightsInfo | None
    facts: Mapping[str, object]

    def to_json(self) -> dict[str, Any]:
        """Return the content of run.json, with its hash."""
        one = self.request.data[0] if len(self.request.data) == 1 else list(self.request.data)
        values: dict[str, Any] = asdict(self.request) | {
            "data": one,
            _FACTS: dict(self.facts),
            _INITIAL: None if self.initial is None else to_metadata(self.initial),
        }
        values = json.loads(json.dumps(values))  # tuples become lists, as in the values that are read from the file
        return values | {_HASH: content_hash(values)}

    def with_paths(self, data: tuple[str, ...] | None, unlabeled: str | None) -> "RunRecord":
        """Return a copy of the record with other paths of the data and the unlabeled images; None: as before.

        Raises:
            ConfigError: the number of datasets is not that of the run.
        """
        request = self.request
        if data is not None and len(data) != len(request.data):
            raise ConfigError(
                f"data: the run has {plural(len(request.data), 'dataset')}; give their new paths in the same order, "
                f"got {plural(len(data), 'path')}"
            )
        return replace(
            self, request=replace(request, data=data or request.data, unlabeled=unlabeled or request.unlabeled)
        )


def content_hash(values: Mapping[str, Any]) -> str:
    """Return the hash of the content of run.json.

    The paths of the dataset and of the unlabeled images are not included: the facts contain hashes of the images, so
    they may be moved.
    """
    hashed = {key: value for key, value in values.items() if key not in (_HASH, "data", "unlabeled")}
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()[:16]


def has_changed(values: Mapping[str, Any]) -> bool:
    """Return whether the content of run.json does not match the hash that it contains."""
    return values.get(_HASH) != content_hash(values)


def parse_record(values: object, path: Path) -> RunRecord:
    """Return the record that the content of run.json describes.

    Args:
        values: JSON value of the file.
        path: the file, for error messages.

    Raises:
        FileError: the file is damaged, or another version of this package wrote it.
    """
    try:
        if not isinstance(values, dict):
            raise TypeError("expected a JSON object")
        data, split, weights = values["data"], values["split"], values["weights"]
        reuse_backbone, facts, initial = values["reuse_backbone"], values[_FACTS], values[_INITIAL]
        # A file of an older version has one dataset as a text, and does not have the other keys.
        data = tuple(data) if isinstance(data, list) else (data,)
        unlabeled, classes, single_class = (values.get(key) for key in ("unlabeled", "classes", "single_class"))
        transform = values.get("transform")
        if not (
            all(isinstance(place, str) for place in data)
            and data
            and isinstance(classes, list | None)
            and all(isinstance(name, str) for name in classes or ())
            and isinstance(single_class, str | None)
            and isinstance(split, str | None)
            and isinstance(weights, str | None)
            and isinstance(unlabeled, str | None)
            and isinstance(transform, str | None)
            and isinstance(reuse_backbone, bool)
            and isinstance(facts, dict)
            and isinstance(values["config"], dict)
            and (initial is None) == (weights is None)
        ):
            raise TypeError("a value has a wrong type")
        request = TrainRequest(
            data,
            split,
            config_of(values["config"]),
            weights,
            reuse_backbone,
            unlabeled,
            None if classes is None else tuple(classes),
            single_class,
            transform,
        )
        info = None if initial is None else _parse_initial(initial, path)
    except (KeyError, TypeError, InputError) as error:
        raise FileError(
            f"{path}: the file is damaged, or another version wrote it ({str(error) or repr(error):.200}); restore the "
            "file from a copy, or train again"
        ) from None
    return RunRecord(request, info, facts)


def _parse_initial(values: object, path: Path) -> WeightsInfo:
    """Return the description of the initial weights; raise TypeError or WeightsError if it is damaged."""
    if not isinstance(values, dict) or not all(isinstance(text, str) for text in values.values()):
        raise TypeError(f"{_INITIAL} must be a mapping of texts")
    return from_metadata(values, str(path))
